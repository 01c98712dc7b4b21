"""Exact reading and writing of Bitcoin's integer and vector encodings."""

from sidechain.errors import InvalidEncoding

MAX_COMPACT_SIZE = 0x02000000
"""Largest value a compact size may hold. Source: elements/transactions.md 1.1."""


def le32(number: int) -> bytes:
    """Unsigned 32-bit little-endian."""
    return number.to_bytes(4, "little")


def le64(number: int) -> bytes:
    """Unsigned 64-bit little-endian."""
    return number.to_bytes(8, "little")


def be64(number: int) -> bytes:
    """Unsigned 64-bit big-endian, the form of explicit amounts."""
    return number.to_bytes(8, "big")


def compact_size(number: int) -> bytes:
    """Shortest compact size of a number from 0 to 2^64 - 1."""
    if number < 0xFD:
        return number.to_bytes(1, "little")
    if number <= 0xFFFF:
        return b"\xfd" + number.to_bytes(2, "little")
    if number <= 0xFFFFFFFF:
        return b"\xfe" + number.to_bytes(4, "little")
    return b"\xff" + number.to_bytes(8, "little")


def vec(data: bytes) -> bytes:
    """Bytes behind their length."""
    length = len(data)
    if length < 0xFD:
        return length.to_bytes(1, "little") + data
    return compact_size(length) + data


def vectors(items: tuple[bytes, ...]) -> bytes:
    """A list of byte strings behind its count."""
    if not items:
        return b"\0"
    return compact_size(len(items)) + b"".join([vec(item) for item in items])


def long_compact_size(data: bytes, pos: int) -> tuple[int, int]:
    """Read the 3, 5 or 9-byte form of a compact size whose first byte is at `pos`.

    Returns:
        The number and the position behind it.
    Raises:
        InvalidEncoding: cut off, not minimal, or above `MAX_COMPACT_SIZE`.
    """
    marker = data[pos]
    width, least = {0xFD: (2, 0xFD), 0xFE: (4, 0x10000), 0xFF: (8, 0x100000000)}[marker]
    end = pos + 1 + width
    if end > len(data):
        raise InvalidEncoding("end of data")
    number = int.from_bytes(data[pos + 1 : end], "little")
    if number < least:
        raise InvalidEncoding("non-canonical ReadCompactSize()")
    if number > MAX_COMPACT_SIZE:
        raise InvalidEncoding("ReadCompactSize(): size too large")
    return number, end


class Reader:
    """Reads one byte string from front to back; never returns less than asked.

    Every method raises `InvalidEncoding` when the data ends too early.

    Attributes:
        data: what is read.
        pos: offset of the next byte.
    """

    __slots__ = ("data", "pos")

    def __init__(self, data: bytes, pos: int = 0) -> None:
        self.data = data
        self.pos = pos

    def read(self, count: int) -> bytes:
        """The next `count` bytes."""
        end = self.pos + count
        if count < 0 or end > len(self.data):
            raise InvalidEncoding("end of data")
        piece = self.data[self.pos : end]
        self.pos = end
        return piece

    def u8(self) -> int:
        """One byte."""
        return self.read(1)[0]

    def u16(self) -> int:
        """Unsigned 16-bit little-endian."""
        return int.from_bytes(self.read(2), "little")

    def u32(self) -> int:
        """Unsigned 32-bit little-endian."""
        return int.from_bytes(self.read(4), "little")

    def u64(self) -> int:
        """Unsigned 64-bit little-endian."""
        return int.from_bytes(self.read(8), "little")

    def i32(self) -> int:
        """Signed 32-bit little-endian."""
        return int.from_bytes(self.read(4), "little", signed=True)

    def i64(self) -> int:
        """Signed 64-bit little-endian."""
        return int.from_bytes(self.read(8), "little", signed=True)

    def compact_size(self) -> int:
        """Minimal compact size up to `MAX_COMPACT_SIZE`."""
        pos = self.pos
        if pos >= len(self.data):
            raise InvalidEncoding("end of data")
        number = self.data[pos]
        if number < 0xFD:
            self.pos = pos + 1
            return number
        number, self.pos = long_compact_size(self.data, pos)
        return number

    def vec(self) -> bytes:
        """Bytes behind their length."""
        return self.read(self.compact_size())

    def vectors(self) -> tuple[bytes, ...]:
        """A list of byte strings behind its count."""
        return tuple([self.vec() for _ in range(self.compact_size())])

    @property
    def remaining(self) -> int:
        """Number of bytes not read yet."""
        return len(self.data) - self.pos

    def done(self) -> None:
        """Check that nothing is left.

        Raises:
            InvalidEncoding: there are bytes behind the last field.
        """
        if self.pos != len(self.data):
            raise InvalidEncoding("trailing data", f"{self.remaining} bytes")
