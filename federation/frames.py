"""Frames on a member link: body length u32, kind u8, body.

Bytes in, frames out; no sockets here. The limit of a frame's kind is enforced when its five header
bytes are in, so an oversize body is never waited for or buffered.

Source: consensus:2.2, N15.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

HEADER_SIZE_BYTES = 5
KIND_HELLO = 14
PROTOCOL_VERSION = 1
_HELLO = struct.Struct("<I32s32s33s5I")


class FrameError(Exception):
    """The bytes of a link are not frames: the link has to be closed.

    Attributes:
        reason: "unknown kind", "oversize frame" or "malformed hello".
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """First frame each way (kind 14). Hashes are in internal byte order.

    The last four fields are advisory: a difference is worth a warning, no more.
    """

    protocol_version: int
    genesis: bytes
    parameter_hash: bytes
    block_key: bytes
    tip_height: int
    block_interval_ms: int
    timeout_base_ms: int
    timeout_cap_ms: int
    future_limit_s: int

    def encode(self) -> bytes:
        """The frame's body, 121 bytes."""
        return _HELLO.pack(
            self.protocol_version,
            self.genesis,
            self.parameter_hash,
            self.block_key,
            self.tip_height,
            self.block_interval_ms,
            self.timeout_base_ms,
            self.timeout_cap_ms,
            self.future_limit_s,
        )

    @classmethod
    def decode(cls, body: bytes) -> "Hello":
        """Read a body.

        Raises:
            FrameError: not exactly 121 bytes.
        """
        if len(body) != _HELLO.size:
            raise FrameError("malformed hello")
        fields = _HELLO.unpack(body)
        return cls(**dict(zip(cls.__dataclass_fields__, fields, strict=True)))


def encode_frame(kind: int, body: bytes, limits: Mapping[int, int]) -> bytes:
    """One frame as bytes.

    Args:
        kind: a frame kind that `limits` names.
        limits: largest body size in bytes by kind.
    Raises:
        FrameError: unknown kind, or a body above the kind's limit (the peer would hang up).
    """
    _check(kind, len(body), limits)
    return len(body).to_bytes(4, "little") + bytes((kind,)) + body


class FrameDecoder:
    """Splits the byte stream of one link into frames.

    Holds at most one incomplete frame, hence at most the largest limit plus five bytes, beside
    what one `feed` brings.
    """

    __slots__ = ("_buffer", "_failed", "_limits")

    def __init__(self, limits: Mapping[int, int]) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._failed: FrameError | None = None

    @property
    def is_mid_frame(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take the next bytes of the stream; return the frames they complete, in order.

        Raises:
            FrameError: an unknown kind or a length above the kind's limit. Frames completed by the
                same bytes before it are dropped; every later call raises the same error again.
        """
        if self._failed is not None:
            raise self._failed
        buffer = self._buffer
        buffer += data
        frames: list[tuple[int, bytes]] = []
        start = 0
        while len(buffer) - start >= HEADER_SIZE_BYTES:
            size = int.from_bytes(buffer[start : start + 4], "little")
            kind = buffer[start + 4]
            try:
                _check(kind, size, self._limits)
            except FrameError as error:
                self._failed = error
                buffer.clear()
                raise
            end = start + HEADER_SIZE_BYTES + size
            if len(buffer) < end:
                break
            frames.append((kind, bytes(buffer[start + HEADER_SIZE_BYTES : end])))
            start = end
        if start:
            del buffer[:start]
        return frames


def _check(kind: int, size_bytes: int, limits: Mapping[int, int]) -> None:
    limit = limits.get(kind)
    if limit is None:
        raise FrameError("unknown kind")
    if size_bytes > limit:
        raise FrameError("oversize frame")
