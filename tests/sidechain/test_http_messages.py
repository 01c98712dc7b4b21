"""Request heads and bodies: one reading of each message, or a refusal."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidechain.api.http_messages import (
    MAX_HEAD_BYTES,
    BadMessage,
    parse_head,
    read_body,
    read_head,
    reply_bytes,
)

GOOD = b"POST /wallet/a?x=1 HTTP/1.1\r\nHost: x\r\ncontent-LENGTH:  5 \r\nA: 1\r\nA: 2\r\n\r\n"


def test_head_when_well_formed_then_taken_apart() -> None:
    head = parse_head(GOOD)
    assert (head.method, head.path, head.length) == (b"POST", b"/wallet/a", 5)
    assert head.headers[b"a"] == b"1, 2"
    assert head.keep_alive
    assert head.has_body
    assert not head.expects_continue
    assert parse_head(b"\r\n" + GOOD) == head


@pytest.mark.parametrize(
    ("line", "keep_alive"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nConnection: foo, close\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\n\r\n", True),
    ],
)
def test_head_when_connection_is_named_then_obeyed(line: bytes, keep_alive: bool) -> None:
    head = parse_head(line)
    assert head.keep_alive is keep_alive
    assert head.length == 0
    assert not head.has_body


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /\r\n\r\n", 400),
        (b"POST  / HTTP/1.1\r\n\r\n", 400),
        (b"PO ST / HTTP/1.1\r\n\r\n", 400),
        (b"POST /\xff HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/2.0\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nname : value\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nA: b\nC: d\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nA: b\0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: \r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\n" + b"A: b\r\n" * 65 + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\nA: " + b"b" * MAX_HEAD_BYTES + b"\r\n\r\n", 431),
    ],
)
def test_head_when_malformed_then_refused(head: bytes, status: int) -> None:
    with pytest.raises(BadMessage) as refused:
        parse_head(head)
    assert refused.value.status == status


@given(st.binary(max_size=200).map(lambda middle: GOOD[:30] + middle + b"\r\n\r\n"))
def test_head_when_hostile_then_refused_or_read(data: bytes) -> None:
    try:
        head = parse_head(data)
    except BadMessage:
        return
    assert head.length is None or head.length >= 0


def stream(data: bytes, *, limit: int = 300) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=limit)
    reader.feed_data(data)
    reader.feed_eof()
    return reader


CHUNKED = parse_head(b"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n")


async def test_body_when_chunked_then_put_together() -> None:
    data = b"3\r\nabc\r\n0A;name=value\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nrest"
    reader = stream(data)
    assert await read_body(reader, CHUNKED, 13) == b"abc0123456789"
    assert await reader.read() == b"rest"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"x\r\n", 400),
        (b"-1\r\n", 400),
        (b"\r\n", 400),
        (b"3\r\nabcd\r\n", 400),
        (b"3;" + b"a" * 400 + b"\r\n", 400),
        (b"3;" + b"a" * 270 + b"\r\n", 400),
        (b"FFFFFFFFFFFFFFF\r\n", 413),
        (b"8\r\n12345678\r\n8\r\n12345678\r\n", 413),
        (b"0\r\n" + b"a: b\r\n" * 70, 431),
    ],
)
async def test_body_when_chunks_are_wrong_then_refused(data: bytes, status: int) -> None:
    with pytest.raises(BadMessage) as refused:
        await read_body(stream(data), CHUNKED, 13)
    assert refused.value.status == status


async def test_body_when_length_is_above_the_limit_then_refused_unread() -> None:
    with pytest.raises(BadMessage) as refused:
        await read_body(stream(b""), parse_head(GOOD), 4)
    assert refused.value.status == 413
    with pytest.raises(asyncio.IncompleteReadError):
        await read_body(stream(b"1234"), parse_head(GOOD), 5)


async def test_head_when_stream_ends_or_never_ends_then_none_or_refused() -> None:
    assert await read_head(stream(GOOD[:20])) is None
    assert await read_head(stream(GOOD)) == parse_head(GOOD)
    with pytest.raises(BadMessage) as refused:
        await read_head(stream(b"x" * 1_000))
    assert refused.value.status == 431


def test_reply_when_written_then_length_and_fields_agree() -> None:
    usual = reply_bytes(200, b"{}\n", content_type="application/json")
    assert usual == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n{}\n"
    )
    closing = reply_bytes(200, b"{}\n", content_type="application/json", close=True)
    assert closing == usual.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert reply_bytes(204) == b"HTTP/1.1 204 No Content\r\n\r\n"
    assert b"\r\nX: y\r\n" in reply_bytes(401, extra={"X": "y"})
    assert b"Content-Length: 0\r\n" in reply_bytes(403)
