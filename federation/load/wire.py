"""A few keep-alive connections to one member's JSON-RPC port, as cheap as asyncio allows.

What is sent while all of them wait for a reply stands in line here: a member that answers late
does not slow whoever sends.
"""

import asyncio
import base64
import json
from collections import deque
from pathlib import Path
from typing import Any, Final

from sidechain.api.client import RpcError
from sidechain.errors import Unavailable

CONNECTIONS_MAX: Final = 8
"""Below the requests that a member runs at the same time."""
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"
_UNAUTHORIZED: Final = b"401"


class MemberWire:
    """Sends transactions to one member.

    Args:
        port: of its JSON-RPC on this machine.
        cookie: the file with its login.
    """

    def __init__(self, name: str, port: int, cookie: Path) -> None:
        self.name = name
        self._port = port
        self._cookie = cookie
        self._head = b""
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._line: deque[asyncio.Future[_Connection | None]] = deque()

    def close(self) -> None:
        """End all connections."""
        for connection in list(self._open):
            connection.abort()

    async def submit(self, raw: bytes) -> None:
        """Have the member take in a transaction.

        Raises:
            RpcError: it refuses. Unavailable: no reply; it may have the transaction all the same.
        """
        body = b'{"method":"sendrawtransaction","params":["%b"],"id":1}' % raw.hex().encode()
        connection = await self._take()
        try:
            reply = await connection.ask(self._head + b"%d\r\n\r\n%b" % (len(body), body))
        except (OSError, EOFError) as error:
            raise Unavailable(f"{self.name}: {error or 'it closed the connection'}") from error
        finally:
            self._give_back(connection)
        _check(self.name, reply)

    async def _take(self) -> "_Connection":
        if self._idle:
            return self._idle.pop()
        if len(self._open) < CONNECTIONS_MAX:
            return await self._connect()
        turn: asyncio.Future[_Connection | None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        # None: one was lost and leaves its place to us.
        return await turn or await self._connect()

    async def _connect(self) -> "_Connection":
        connection = _Connection()
        self._open.add(connection)
        try:
            login = base64.b64encode(self._cookie.read_bytes().strip())
            self._head = (
                b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Basic %b\r\n"
                b"Content-Type: application/json\r\nContent-Length: " % login
            )
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: connection, "127.0.0.1", self._port)
        except OSError as error:
            self._give_back(connection)
            raise Unavailable(f"{self.name}: cannot connect ({error.strerror})") from error
        except BaseException:
            self._give_back(connection)
            raise
        return connection

    def _give_back(self, connection: "_Connection") -> None:
        """Let the next in line have it, or its place when it is lost."""
        if not connection.is_usable:
            connection.abort()
            self._open.discard(connection)
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(connection if connection.is_usable else None)
                return
        if connection.is_usable:
            self._idle.append(connection)


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._reply: asyncio.Future[bytes] | None = None
        self._data = b""

    @property
    def is_usable(self) -> bool:
        """Whether it is connected and nothing is under way."""
        transport = self._transport
        return transport is not None and not transport.is_closing() and self._reply is None

    async def ask(self, request: bytes) -> bytes:
        """Send a request and return the whole reply.

        Raises:
            OSError, EOFError: the connection is lost.
        """
        if self._transport is None or self._transport.is_closing():
            raise EOFError
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        reply = await self._reply
        self._reply = None
        return reply

    def abort(self) -> None:
        """Cut it off."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is connected."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("not a stream")
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """A piece of a reply."""
        self._data += data
        head, found, body = self._data.partition(_HEAD_END)
        if not found or self._reply is None or self._reply.done():
            return
        if len(body) >= _content_length(head):
            self._data = b""
            self._reply.set_result(head + _HEAD_END + body)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is at its end."""
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(exc or EOFError())


def _content_length(head: bytes) -> int:
    lowered = head.lower()
    start = lowered.find(_LENGTH)
    if start < 0:
        return 0
    return int(lowered[start + len(_LENGTH) :].split(b"\r\n", 1)[0])


def _check(name: str, reply: bytes) -> None:
    """Raise what a reply says when it is no result."""
    head, _, body = reply.partition(_HEAD_END)
    if b'"error":null' in body:
        return
    status = head.split(b" ", 2)[1]
    if status == _UNAUTHORIZED:
        raise Unavailable(f"{name}: it refuses the cookie")
    try:
        error: Any = json.loads(body)["error"]
        raise RpcError(int(error["code"]), str(error["message"]))
    except (ValueError, TypeError, KeyError):
        text = body[:80].decode(errors="replace").strip()
        raise Unavailable(f"{name}: HTTP {status.decode(errors='replace')} {text}") from None
