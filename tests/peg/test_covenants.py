"""Registrations as bytes, the bounded table, and whose turn a claim is (peg:4, N15)."""

import pytest

from peg.covenant_watch import CovenantDeposit, turn_height
from peg.covenants import (
    CovenantTable,
    Registered,
    check_price,
    decode_registration,
    encode_registration,
)
from peg.parameters import LOCAL
from sidechain.errors import InvalidEncoding, Unavailable
from sidechain.primitives.transaction import OutPoint
from sidechain.wallet.covenant import NUMS_KEY, CovenantTerms

KEY = bytes.fromhex("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
P2WPKH = b"\x00\x14" + b"\xab" * 20


@pytest.mark.parametrize("key", [NUMS_KEY, KEY], ids=["nums", "own"])
@pytest.mark.parametrize(
    "script", [P2WPKH, b"\x00\x20" + b"\x01" * 32, b"\x51\x20" + b"\x02" * 32], ids=len
)
def test_registration_when_encoded_then_read_back_and_within_its_frame(
    script: bytes, key: bytes
) -> None:
    terms = CovenantTerms(script=script, max_fee_sats=2_000, internal_key=key)
    body = encode_registration(terms)
    assert decode_registration(body) == terms
    assert len(body) <= 128


def test_registration_when_encoded_then_the_recorded_bytes() -> None:
    terms = CovenantTerms(script=P2WPKH, max_fee_sats=2_000)
    assert encode_registration(terms).hex() == "00" + "ab" * 20 + "d007000000000000"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x03" + bytes(28),
        b"\x00" + bytes(27),
        b"\x00" + bytes(29),
        b"\x00" + b"\xab" * 20 + bytes(8),
        b"\x80" + b"\xab" * 20 + b"\x01" + bytes(7) + NUMS_KEY,
        b"\x80" + b"\xab" * 20 + b"\x01" + bytes(7) + b"\xff" * 32,
        b"\x40" + b"\xab" * 20 + b"\x01" + bytes(7),
    ],
)
def test_registration_when_of_another_form_then_refused(body: bytes) -> None:
    with pytest.raises(InvalidEncoding):
        decode_registration(body)


def test_price_when_below_a_quarter_of_the_minimum_then_taken() -> None:
    limit = LOCAL.min_pegin_sats // 4
    check_price(CovenantTerms(script=P2WPKH, max_fee_sats=limit - 1), LOCAL)
    with pytest.raises(InvalidEncoding):
        check_price(CovenantTerms(script=P2WPKH, max_fee_sats=limit), LOCAL)


def registered(serial: int, sender: int) -> tuple[bytes, Registered]:
    """A claim script of no meaning, and a registration."""
    terms = CovenantTerms(script=P2WPKH, max_fee_sats=1 + serial)
    return b"\x51\x20" + serial.to_bytes(32, "little"), Registered(terms, sender)


def test_table_when_full_of_users_then_refuses_and_drops_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peg.covenants.OWN_MAX", 2)
    table = CovenantTable(0)
    for serial in range(2):
        assert table.room_for(0, busy=()) is None
        table.add(*registered(serial, 0))
    with pytest.raises(Unavailable, match="ask another one"):
        table.room_for(0, busy=())
    assert table.room_for(1, busy=()) is None  # a peer has room of its own


def test_table_when_full_of_a_peer_then_its_oldest_idle_one_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peg.covenants.PER_PEER_MAX", 2)
    table = CovenantTable(0)
    first, second = registered(1, 3), registered(2, 3)
    table.add(*registered(0, 0))
    table.add(*first)
    table.add(*second)
    assert table.room_for(3, busy=()) == first[0]
    assert table.room_for(3, busy=(first[0],)) == second[0]
    with pytest.raises(Unavailable):
        table.room_for(3, busy=(first[0], second[0]))
    table.forget(first[0])
    assert table.room_for(3, busy=()) is None


def test_turn_when_members_wait_then_txid_mod_n_first_and_two_blocks_between() -> None:
    """N20: the txid as a little-endian integer."""
    deposit = CovenantDeposit(
        outpoint=OutPoint(b"\x06" + bytes(31), 0),
        value_sats=1,
        claim_script=b"",
        deposit_script=b"",
        height=1,
        block_hash=bytes(32),
        is_coinbase=False,
    )
    turns = [turn_height(deposit, 100, member, 4) for member in range(4)]
    assert turns == [104, 106, 100, 102]
