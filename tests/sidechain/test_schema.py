"""Keys and values of the database: exact, ordered, and refused when damaged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidechain.errors import InvalidEncoding
from sidechain.primitives.confidential import explicit_value
from sidechain.primitives.transaction import OutPoint
from sidechain.storage import schema
from sidechain.storage.block_tree import Node, NodeFlags
from sidechain.validation.coins import Coin, PeginKey

HASH = st.binary(min_size=32, max_size=32)
OUTPOINT = st.builds(OutPoint, HASH, st.integers(0, 2**30 - 1))
ASSET = st.one_of(
    st.builds(lambda b: b"\1" + b, HASH),
    st.builds(lambda p, b: bytes([p]) + b, st.sampled_from([10, 11]), HASH),
)
VALUE = st.one_of(
    st.builds(explicit_value, st.integers(0, 2**64 - 1)),
    st.builds(lambda p, b: bytes([p]) + b, st.sampled_from([8, 9]), HASH),
)
COIN = st.builds(
    Coin,
    asset=ASSET,
    value=VALUE,
    script=st.binary(max_size=300),
    height=st.integers(0, 2**31 - 1),
    coinbase=st.booleans(),
)
UNDO = st.builds(
    schema.UndoRecord,
    spent=st.lists(st.tuples(OUTPOINT, COIN), max_size=4).map(tuple),
    created=st.lists(OUTPOINT, max_size=4).map(tuple),
    pegins=st.lists(st.builds(PeginKey, HASH, OUTPOINT), max_size=4).map(tuple),
    txids=st.lists(HASH, max_size=4).map(tuple),
)


@given(COIN)
def test_coin_when_packed_then_same(coin: Coin) -> None:
    assert schema.unpack_coin(schema.pack_coin(coin)) == coin


@given(UNDO)
def test_undo_when_packed_then_same(undo: schema.UndoRecord) -> None:
    assert schema.UndoRecord.unpack(undo.pack()) == undo


@given(UNDO, st.data())
def test_undo_when_damaged_then_refused(undo: schema.UndoRecord, data: st.DataObject) -> None:
    packed = bytearray(undo.pack())
    position = data.draw(st.integers(0, len(packed) - 1))
    packed[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InvalidEncoding):
        schema.UndoRecord.unpack(bytes(packed))


@given(st.integers(0, 2**32 - 1), st.integers(-(2**63), 2**63 - 1), st.integers(0, 15), HASH, HASH)
def test_node_and_block_place_when_packed_then_same(
    number: int, sequence: int, flags: int, block_hash: bytes, prev_hash: bytes
) -> None:
    node = Node(
        hash=block_hash,
        prev_hash=prev_hash,
        height=number,
        sequence=sequence,
        tx_count=number,
        flags=NodeFlags(flags),
    )
    assert schema.unpack_node(block_hash, schema.pack_node(node)) == node
    place = schema.BlockPlace(
        height=number, sequence=sequence, tx_count=number, total_tx_count=number + 1
    )
    assert schema.BlockPlace.unpack(place.pack()) == place


@given(st.binary(max_size=200))
def test_values_when_garbage_then_invalid_encoding_only(data: bytes) -> None:
    for unpack in (
        schema.unpack_coin,
        schema.UndoRecord.unpack,
        schema.unpack_tip,
        schema.unpack_height,
        schema.TransactionPlace.unpack,
        schema.BlockPlace.unpack,
        lambda packed: schema.unpack_node(bytes(32), packed),
        schema.coin_key_outpoint,
    ):
        try:
            unpack(data)
        except InvalidEncoding:
            continue


@given(OUTPOINT, OUTPOINT)
def test_coin_keys_when_sorted_then_by_txid_and_index(a: OutPoint, b: OutPoint) -> None:
    assert (schema.coin_key(a) < schema.coin_key(b)) == (a < b)
    assert schema.coin_key_outpoint(schema.coin_key(a)) == a


@given(st.integers(0, 2**32 - 1), HASH)
def test_tip_and_place_when_packed_then_same(height: int, block_hash: bytes) -> None:
    assert schema.unpack_tip(schema.pack_tip(height, block_hash)) == (height, block_hash)
    assert schema.unpack_height(schema.pack_height(height)) == height
    place = schema.TransactionPlace(height=height, offset=7, size=9)
    assert schema.TransactionPlace.unpack(place.pack()) == place


def test_keys_when_of_different_kinds_then_never_equal() -> None:
    hash32, point = bytes(32), OutPoint(bytes(32), 0)
    keys = [
        schema.VERSION_KEY,
        schema.GENESIS_KEY,
        schema.TIP_KEY,
        schema.block_key(0),
        schema.header_key(0),
        schema.undo_key(0),
        schema.height_key(hash32),
        schema.node_key(hash32),
        schema.side_header_key(hash32),
        schema.side_block_key(hash32),
        schema.transaction_key(hash32),
        schema.coin_key(point),
        schema.pegin_key(PeginKey(hash32, point)),
    ]
    assert len(set(keys)) == len(keys)
