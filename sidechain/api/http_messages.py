"""HTTP/1.x as an RPC server needs it: request heads, bodies, replies. Everything is bounded.

Reads from asyncio's streams and leaves no choice open: a message that two readers could take
apart differently (two lengths, a length beside chunks, blanks around names) is refused.

Source: RFC 9112.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

MAX_HEAD_BYTES = 16_384
MAX_HEADERS = 64
MAX_CHUNK_LINE_BYTES = 256
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(rb"[\x21-\x7e]+")
_DIGITS = re.compile(rb"[0-9]{1,19}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e]*)?\r\n")
_FORBIDDEN = re.compile(rb"[\x00\r\n]")
_ONCE = frozenset((b"content-length", b"transfer-encoding", b"authorization", b"host", b"expect"))


class BadMessage(Exception):
    """The message is refused with this status, and the connection ends."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Request line and header fields.

    Attributes:
        path: target without its query.
        headers: by lower-case name, blanks around values removed.
        length: bytes of the body, None when it comes in chunks.
        keep_alive: whether the connection may be used again.
    """

    method: bytes
    path: bytes
    headers: Mapping[bytes, bytes]
    length: int | None
    keep_alive: bool

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for a word before it sends the body."""
        return self.headers.get(b"expect", b"").lower() == b"100-continue"

    @property
    def has_body(self) -> bool:
        """Whether bytes follow the head."""
        return self.length != 0


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """Read the next request's head; None when the other side has ended the connection.

    Raises:
        BadMessage: too long, or not HTTP.
    """
    try:
        data = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        raise BadMessage(431, "request head too long") from None
    return parse_head(data)


def parse_head(data: bytes) -> Head:
    """Take apart a request's head, which ends with an empty line.

    Raises:
        BadMessage: 400, 431, 501 or 505.
    """
    if len(data) > MAX_HEAD_BYTES:
        raise BadMessage(431, "request head too long")
    # An empty line before a request is passed over, as RFC 9112 2.2 recommends.
    lines = data.lstrip(b"\r\n").split(b"\r\n")
    if len(lines) > MAX_HEADERS + 3:
        raise BadMessage(431, "too many header fields")
    words = lines[0].split(b" ")
    if len(words) != 3 or not _TOKEN.fullmatch(words[0]) or not _TARGET.fullmatch(words[1]):
        raise BadMessage(400, "malformed request line")
    method, target, version = words
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise BadMessage(505, "HTTP version not supported")
    headers = _fields(lines[1:-2])
    return Head(
        method=method,
        path=target.partition(b"?")[0],
        headers=headers,
        length=_body_length(headers),
        keep_alive=_keeps_alive(version, headers.get(b"connection", b"")),
    )


def _fields(lines: list[bytes]) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name) or _FORBIDDEN.search(value):
            raise BadMessage(400, "malformed header field")
        name, value = name.lower(), value.strip(b" \t")
        if name in headers:
            if name in _ONCE:
                raise BadMessage(400, "header field sent twice")
            value = headers[name] + b", " + value
        headers[name] = value
    return headers


def _body_length(headers: Mapping[bytes, bytes]) -> int | None:
    coding = headers.get(b"transfer-encoding")
    length = headers.get(b"content-length")
    if coding is not None:
        if length is not None:
            raise BadMessage(400, "both a length and a transfer coding")
        if coding.lower() != b"chunked":
            raise BadMessage(501, "transfer coding not supported")
        return None
    if length is None:
        return 0
    if not _DIGITS.fullmatch(length):
        raise BadMessage(400, "malformed length")
    return int(length)


def _keeps_alive(version: bytes, connection: bytes) -> bool:
    options = {option.strip() for option in connection.lower().split(b",")}
    if version == b"HTTP/1.0":
        return b"keep-alive" in options
    return b"close" not in options


async def read_body(reader: asyncio.StreamReader, head: Head, limit_bytes: int) -> bytes:
    """Read the body that follows `head`.

    Raises:
        BadMessage: 413 above the limit, 400 for malformed chunks.
        asyncio.IncompleteReadError: the connection ended before the body did.
    """
    if head.length is not None:
        if head.length > limit_bytes:
            raise BadMessage(413, "request body too large")
        return await reader.readexactly(head.length) if head.length else b""
    body = bytearray()
    while size := await _chunk_size(reader):
        if len(body) + size > limit_bytes:
            raise BadMessage(413, "request body too large")
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise BadMessage(400, "malformed chunk")
    await _skip_trailer(reader)
    return bytes(body)


async def _chunk_size(reader: asyncio.StreamReader) -> int:
    found = _CHUNK_SIZE.fullmatch(await _line(reader))
    if found is None:
        raise BadMessage(400, "malformed chunk")
    return int(found[1], 16)


async def _skip_trailer(reader: asyncio.StreamReader) -> None:
    for _ in range(MAX_HEADERS):
        if await _line(reader) == b"\r\n":
            return
    raise BadMessage(431, "too many header fields")


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        line = await reader.readuntil(b"\r\n")
    except asyncio.LimitOverrunError:
        raise BadMessage(400, "malformed chunk") from None
    if len(line) > MAX_CHUNK_LINE_BYTES:
        raise BadMessage(400, "malformed chunk")
    return line


def reply_bytes(
    status: int,
    body: bytes = b"",
    *,
    content_type: str = "text/plain",
    close: bool = False,
    extra: Mapping[str, str] | None = None,
) -> bytes:
    """A whole reply.

    Args:
        close: say that the connection ends with it.
        extra: further header fields.
    """
    if status == 200 and not close and not extra:
        # The usual reply in one formatting step.
        return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (
            content_type.encode(),
            len(body),
            body,
        )
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    if body:
        lines.append(f"Content-Type: {content_type}")
    if status != 204:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in (extra or {}).items()]
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode() + body
