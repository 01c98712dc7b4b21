"""Integers, compact sizes and vectors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidechain.errors import InvalidEncoding
from sidechain.primitives.encoding import (
    MAX_COMPACT_SIZE,
    Reader,
    be64,
    compact_size,
    le32,
    le64,
    vec,
    vectors,
)
from tests.byte_strategies import hostile


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        (0, "00"),
        (0xFC, "fc"),
        (0xFD, "fdfd00"),
        (0xFFFF, "fdffff"),
        (0x10000, "fe00000100"),
        (MAX_COMPACT_SIZE, "fe00000002"),
    ],
)
def test_compact_size_at_each_border_has_its_shortest_form(number: int, encoded: str) -> None:
    assert compact_size(number).hex() == encoded
    reader = Reader(bytes.fromhex(encoded))
    assert reader.compact_size() == number
    reader.done()


@pytest.mark.parametrize(
    "encoded",
    ["fdfc00", "fd0000", "feffff0000", "fe00000000", "ffffffffff00000000", "ff0000000000000000"],
)
def test_compact_size_when_not_minimal_is_refused(encoded: str) -> None:
    with pytest.raises(InvalidEncoding, match="non-canonical"):
        Reader(bytes.fromhex(encoded)).compact_size()


@pytest.mark.parametrize("encoded", ["fe01000002", "feffffffff", "ff0000000001000000", "ff" * 9])
def test_compact_size_when_above_32_mib_is_refused(encoded: str) -> None:
    with pytest.raises(InvalidEncoding, match="too large"):
        Reader(bytes.fromhex(encoded)).compact_size()


@pytest.mark.parametrize("encoded", ["", "fd", "fd00", "fe000001", "ff00000000000000"])
def test_compact_size_when_cut_off_is_refused(encoded: str) -> None:
    with pytest.raises(InvalidEncoding, match="end of data"):
        Reader(bytes.fromhex(encoded)).compact_size()


def test_reader_integers_have_their_width_and_sign() -> None:
    reader = Reader(bytes.fromhex("ff feff fdffffff fcffffffffffffff ffffffff feffffffffffffff"))
    assert reader.u8() == 0xFF
    assert reader.u16() == 0xFFFE
    assert reader.u32() == 0xFFFFFFFD
    assert reader.u64() == 0xFFFFFFFFFFFFFFFC
    assert reader.i32() == -1
    assert reader.i64() == -2
    assert reader.remaining == 0
    reader.done()


def test_integers_when_written_have_their_byte_order() -> None:
    assert le32(1) == b"\1\0\0\0"
    assert le64(1) == b"\1" + bytes(7)
    assert be64(1) == bytes(7) + b"\1"


def test_reader_when_data_is_left_is_not_done() -> None:
    reader = Reader(b"abc")
    reader.read(2)
    with pytest.raises(InvalidEncoding, match="trailing data, 1 bytes"):
        reader.done()


def test_reader_when_asked_for_too_much_keeps_its_position() -> None:
    reader = Reader(b"abc")
    with pytest.raises(InvalidEncoding):
        reader.read(4)
    assert reader.read(3) == b"abc"
    with pytest.raises(InvalidEncoding):
        reader.read(-1)


def test_vector_count_when_huge_and_data_short_is_refused() -> None:
    with pytest.raises(InvalidEncoding):
        Reader(bytes.fromhex("fe00000002") + b"\0" * 10).vectors()


@hostile
@given(st.lists(st.binary(max_size=300), max_size=300).map(tuple))
def test_vectors_when_written_read_back(items: tuple[bytes, ...]) -> None:
    data = vectors(items)
    reader = Reader(data)
    assert reader.vectors() == items
    reader.done()
    assert data == compact_size(len(items)) + b"".join(vec(item) for item in items)


@hostile
@given(st.binary(max_size=40))
def test_vec_when_bytes_are_arbitrary_round_trips_or_raises(data: bytes) -> None:
    reader = Reader(data)
    try:
        item = reader.vec()
    except InvalidEncoding:
        return
    assert vec(item) == data[: reader.pos]
