"""SHA-256 from any state against hashlib and against itself."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidechain.crypto.sha256_context import (
    MESSAGE_BYTES_MAX,
    Sha256Context,
    compress,
    initial_state,
    portable_compress,
)
from sidechain.errors import InvalidEncoding

STATE = "6a09e667bb67ae853c6ef372a54ff53a510e527f9b05688c1f83d9ab5be0cd19"


def test_context_when_saved_then_as_specified() -> None:
    empty = Sha256Context.start()
    assert empty.serialize().hex() == STATE + "0" * 16
    assert empty.update(b"abc").serialize().hex() == STATE + "1800000000000000" + "616263"


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_context_when_fed_in_parts_then_the_hash_of_the_whole(parts: list[bytes]) -> None:
    context = Sha256Context.start()
    for part in parts:
        context = Sha256Context.parse(context.update(part).serialize())
    assert context.digest() == hashlib.sha256(b"".join(parts)).digest()


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 119, 120, 127, 128, 520])
def test_context_when_length_is_near_a_block_then_padding_is_right(size: int) -> None:
    data = bytes(range(256)) * 3
    found = Sha256Context.start().update(data[:size]).digest()
    assert found == hashlib.sha256(data[:size]).digest()


@settings(max_examples=25)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 9), st.data())
def test_compression_when_state_is_arbitrary_then_both_ways_agree(
    state: bytes, count: int, data: st.DataObject
) -> None:
    blocks = data.draw(st.binary(min_size=64 * count, max_size=64 * count))
    assert compress(state, blocks) == portable_compress(state, blocks)


def test_portable_compression_when_started_afresh_then_as_hashlib() -> None:
    padding = b"\x80" + bytes(53) + (8 * 64).to_bytes(10, "big")
    found = portable_compress(initial_state(), bytes(64) + padding)
    assert found == hashlib.sha256(bytes(64)).digest()


@pytest.mark.parametrize(
    ("context", "why"),
    [
        (bytes(39), "too short"),
        (bytes(41), "one byte pends that is not counted"),
        (bytes(32) + b"\x08" + bytes(7), "one byte is counted that does not pend"),
        (bytes(32) + b"\x01" + bytes(7), "a bit is no byte"),
        (bytes(32) + b"\x00\x02" + bytes(6) + b"x", "64 bytes leave nothing pending"),
    ],
)
def test_context_when_malformed_then_refused(context: bytes, why: str) -> None:
    with pytest.raises(InvalidEncoding):
        Sha256Context.parse(context)


def test_context_when_message_reaches_the_limit_then_not_one_byte_more() -> None:
    pending = MESSAGE_BYTES_MAX % 64
    full = Sha256Context(bytes(32), MESSAGE_BYTES_MAX, bytes(pending))
    assert Sha256Context.parse(full.serialize()) == full
    assert full.update(b"") == full
    assert len(full.digest()) == 32
    with pytest.raises(InvalidEncoding):
        full.update(b"\0")
