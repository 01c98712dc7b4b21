"""Stored records: round trips, and garbage refused."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidechain.errors import InvalidEncoding
from sidechain.primitives.encoding import le32, le64, vec
from sidechain.primitives.transaction import OutPoint
from sidechain.wallet.issuing import IssuanceRecord
from sidechain.wallet.keys import Branch
from sidechain.wallet.records import (
    KINDS,
    Cursor,
    HistoryEntry,
    PendingTx,
    WalletRecord,
    decode_coin,
    encode_coin,
)
from sidechain.wallet.selection import OwnedCoin

HASH = st.binary(min_size=32, max_size=32)
SATS = st.integers(0, 2**63 - 1)
OUTPOINT = OutPoint(b"\x01" * 32, 2)

coins = st.builds(
    OwnedCoin,
    outpoint=st.just(OUTPOINT),
    asset=HASH,
    value_sats=SATS,
    script=st.binary(max_size=60),
    branch=st.sampled_from(Branch),
    index=st.integers(0, 2**31),
    height=st.integers(0, 2**31),
)
hidden_coins = st.builds(
    replace, coins, nonce=st.binary(min_size=33, max_size=33), abf=HASH.filter(any), vbf=HASH
)
entries = st.builds(
    HistoryEntry,
    txid=HASH,
    height=st.just(7),
    unix_time_s=st.integers(0, 2**40),
    kind=st.sampled_from(KINDS),
    fee_sats=SATS,
    deltas=st.lists(st.tuples(HASH, st.integers(-(2**63), 2**63 - 1)), max_size=5).map(tuple),
    unknown=st.integers(0, 2**32 - 1),
)


@given(coin=st.one_of(coins, hidden_coins))
def test_coin_when_stored_then_read_back(coin: OwnedCoin) -> None:
    assert decode_coin(encode_coin(coin), OUTPOINT) == coin


@given(entry=entries)
def test_history_entry_when_stored_then_read_back(entry: HistoryEntry) -> None:
    assert HistoryEntry.decode(entry.encode(), 7) == entry
    assert HistoryEntry.decode(entry.encode(), 8) == replace(entry, height=8)


@given(name=st.text(max_size=64), seed=st.binary(max_size=100), key=st.binary(max_size=78))
def test_wallet_record_when_stored_then_read_back(name: str, seed: bytes, key: bytes) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    record = WalletRecord(name=name, stored_seed=seed, extended_key=key)
    assert WalletRecord.decode(record.encode()) == record
    full = replace(record, blinding_key=bytes(32), origin=bytes(16), rescan_height=7)
    assert WalletRecord.decode(full.encode()) == full


def test_records_when_schema_1_wrote_them_then_read_with_nothing_hidden() -> None:
    old = vec(b"alice") + vec(b"\0" + bytes(32)) + vec(bytes(78))
    record = WalletRecord.decode(old)
    assert (record.name, record.blinding_key, record.origin) == ("alice", b"", b"")
    assert record.rescan_height is None
    place = bytes([Branch.CHANGE]) + le32(3) + le32(9)
    coin = decode_coin(bytes(32) + le64(5) + place + vec(b"\x51"), OUTPOINT)
    assert (coin.value_sats, coin.abf, coin.vbf, coin.nonce) == (5, bytes(32), bytes(32), b"\0")
    entry = bytes(32) + le64(1) + b"\x01" + le64(2) + b"\x00"
    assert HistoryEntry.decode(entry, 3).unknown == 0


@given(
    ids=st.lists(HASH, min_size=5, max_size=5),
    flags=st.tuples(st.booleans(), st.booleans()),
    amounts=st.tuples(st.none() | SATS, st.none() | SATS),
)
def test_issuance_when_stored_then_read_back(
    ids: list[bytes], flags: tuple[bool, bool], amounts: tuple[int | None, int | None]
) -> None:
    record = IssuanceRecord(
        txid=ids[0],
        vin=3,
        asset=ids[1],
        token=ids[2],
        entropy=ids[3],
        contract_hash=ids[4],
        is_reissuance=flags[0],
        is_hidden=flags[1],
        asset_sats=amounts[0],
        token_sats=amounts[1],
    )
    assert IssuanceRecord.decode(record.encode()) == record


@given(raw=st.binary(max_size=300), sequence=SATS, unix_time_s=SATS)
def test_pending_when_stored_then_read_back(raw: bytes, sequence: int, unix_time_s: int) -> None:
    pending = PendingTx(raw=raw, sequence=sequence, unix_time_s=unix_time_s)
    assert PendingTx.decode(pending.encode()) == pending


@given(height=st.integers(0, 2**32 - 1), block_hash=HASH)
def test_cursor_when_stored_then_read_back(height: int, block_hash: bytes) -> None:
    assert Cursor.decode(Cursor(height, block_hash).encode()) == Cursor(height, block_hash)


@pytest.mark.parametrize(
    "decode",
    [
        Cursor.decode,
        WalletRecord.decode,
        PendingTx.decode,
        IssuanceRecord.decode,
        lambda data: HistoryEntry.decode(data, 1),
        lambda data: decode_coin(data, OUTPOINT),
    ],
)
@given(data=st.binary(max_size=200))
def test_record_when_garbage_then_refused_or_read_whole(
    decode: Callable[[bytes], object], data: bytes
) -> None:
    try:
        decode(data)
    except InvalidEncoding:
        return
    with pytest.raises(InvalidEncoding):
        decode(data + b"\0")
