"""The strict reader, the tagged hash and the frame kinds that consensus messages are made of.

Little-endian, fixed width, no optional fields; a parser consumes exactly the body.

Source: consensus:2, consensus:2.2, N15.
"""

import struct
from enum import IntEnum
from hashlib import sha256
from typing import Final

NIL: Final = bytes(32)
HASH_SIZE_BYTES: Final = 32
SIGNATURE_SIZE_BYTES: Final = 64
ROUND_LIMIT: Final = 1 << 31

_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")


class InvalidMessage(Exception):
    """Bytes that are no message of their kind.

    Attributes:
        reason: what is wrong, for the log line that blames the link.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class FrameKind(IntEnum):
    """Kind byte of a frame on a member link."""

    VOTE = 1
    PROPOSAL = 2
    BLOCK = 3
    CERT = 4
    BLOCKSIG = 5
    STATUS = 6
    GET_BLOCK = 7
    GET_FINAL = 8
    FINAL = 9
    ROLLCALL = 10
    ANSWER = 11
    EVIDENCE = 12
    GET_CERT = 13
    HELLO = 14
    TXINV = 15
    TXGET = 16
    TX = 17
    RECORD = 18
    COVREG = 19
    PEGSIG = 20
    PEGWANT = 21
    PEGSTATE = 22
    REPORTSIG = 23


# COVREG, PEGWANT, PEGSTATE and REPORTSIG: the figures of N15 (128, 64, 36 and 128) are without the
# 64-byte member signature that the same rule puts at the end of these frames.
FRAME_LIMITS_BYTES: Final[dict[int, int]] = {
    FrameKind.VOTE: 110,
    FrameKind.PROPOSAL: 1_600,
    FrameKind.BLOCK: 4_100_000,
    FrameKind.CERT: 1_430,
    FrameKind.BLOCKSIG: 101,
    FrameKind.STATUS: 200,
    FrameKind.GET_BLOCK: 36,
    FrameKind.GET_FINAL: 5,
    FrameKind.FINAL: 4_100_000,
    FrameKind.ROLLCALL: 64,
    FrameKind.ANSWER: 65_536,
    FrameKind.EVIDENCE: 131_072,
    FrameKind.GET_CERT: 41,
    FrameKind.HELLO: 128,
    FrameKind.TXINV: 2_049,
    FrameKind.TXGET: 2_049,
    FrameKind.TX: 400_000,
    FrameKind.RECORD: 256,
    FrameKind.COVREG: 128 + 64,
    FrameKind.PEGSIG: 65_536,
    FrameKind.PEGWANT: 64 + 64,
    FrameKind.PEGSTATE: 36 + 64,
    FrameKind.REPORTSIG: 128 + 64,
}


def tagged_hash(tag: str, data: bytes) -> bytes:
    """SHA256(SHA256(tag) ‖ SHA256(tag) ‖ data), 32 bytes (consensus:2.1)."""
    tag_hash = sha256(tag.encode()).digest()
    return sha256(tag_hash + tag_hash + data).digest()


def peg_frame_digest(genesis: bytes, kind: int, body: bytes) -> bytes:
    """What the block key signs in frames 18 to 23; `body` without the signature (N15)."""
    return tagged_hash("fedpeg/msg", genesis + bytes((kind,)) + body)


class MessageReader:
    """Reads a body once, front to back."""

    __slots__ = ("_data", "_pos")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._pos = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._pos

    def take(self, size: int) -> bytes:
        """The next `size` bytes.

        Raises:
            InvalidMessage: fewer are left.
        """
        end = self._pos + size
        if size < 0 or end > len(self._data):
            raise InvalidMessage("truncated")
        chunk = self._data[self._pos : end]
        self._pos = end
        return chunk

    def u8(self) -> int:
        """One unsigned byte."""
        return self.take(1)[0]

    def u32(self) -> int:
        """Four bytes, unsigned."""
        return int(_U32.unpack(self.take(4))[0])

    def i32(self) -> int:
        """Four bytes, two's complement."""
        return int(_I32.unpack(self.take(4))[0])

    def hash(self) -> bytes:
        """32 bytes."""
        return self.take(HASH_SIZE_BYTES)

    def signature(self) -> bytes:
        """64 bytes."""
        return self.take(SIGNATURE_SIZE_BYTES)

    def flag(self) -> bool:
        """One byte, 0 or 1.

        Raises:
            InvalidMessage: any other value.
        """
        value = self.u8()
        if value > 1:
            raise InvalidMessage("flag is neither 0 nor 1")
        return value == 1

    def framed(self) -> bytes:
        """A u32 length and that many bytes."""
        return self.take(self.u32())

    def done(self) -> None:
        """The body ends here.

        Raises:
            InvalidMessage: bytes are left over.
        """
        if self.left:
            raise InvalidMessage("trailing bytes")

    def header(self) -> bytes:
        """The next Elements block header in dynafed form, as raw bytes, signblock witness included.

        Only its extent is found here; the shell parses and verifies it.

        Raises:
            InvalidMessage: truncated, not in dynafed form, or a length above what is left.
        """
        start = self._pos
        if self.u32() >> 31 != 1:
            raise InvalidMessage("header is not in dynafed form")
        self.take(32 + 32 + 4 + 4)
        for _ in range(2):
            self._skip_entry()
        self._skip_stack()
        return self._data[start : self._pos]

    def _skip_entry(self) -> None:
        kind = self.u8()
        if kind > 2:
            raise InvalidMessage("unknown parameter entry")
        if kind == 0:
            return
        self.take(self._compact_size() + 4)
        if kind == 1:
            self.take(HASH_SIZE_BYTES)
            return
        self.take(self._compact_size())
        self.take(self._compact_size())
        self._skip_stack()

    def _skip_stack(self) -> None:
        for _ in range(self._compact_size()):
            self.take(self._compact_size())

    def _compact_size(self) -> int:
        first = self.u8()
        if first < 253:
            return first
        width, least = {253: (2, 253), 254: (4, 1 << 16), 255: (8, 1 << 32)}[first]
        value = int.from_bytes(self.take(width), "little")
        if value < least:
            raise InvalidMessage("compact size is not minimal")
        if value > self.left:
            raise InvalidMessage("truncated")
        return value


def framed(data: bytes) -> bytes:
    """A u32 length and the bytes."""
    return _U32.pack(len(data)) + data
