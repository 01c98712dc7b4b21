"""JSON-RPC server over HTTP: authentication, who may connect, everything bounded.

A connection is one task that reads a request, runs it and replies, over asyncio's streams. What
it waits for has a deadline, which a timer of the server looks after.

Source: elements/interfaces.md 1.
"""

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sidechain.api.credentials import Credentials, Login, SaltedLogin
from sidechain.api.dispatch import Dispatcher
from sidechain.api.http_messages import (
    CONTINUE,
    BadMessage,
    Head,
    read_body,
    read_head,
    reply_bytes,
)
from sidechain.api.registry import Registry, RpcError

__all__ = ["Limits", "Login", "Registry", "RpcError", "RpcServer", "SaltedLogin"]

STREAM_BUFFER_BYTES = 65_536
LINGER_S = 2
"""How long a connection that ends with an error may go on sending, so that it reads the reply."""
WRONG_LOGIN_PAUSE_MS = 250
"""Before a wrong password is refused, against guessing."""
DEADLINE_CHECK_S = 0.25

_LOCAL = tuple(map(ipaddress.ip_network, ("127.0.0.0/8", "::1/128")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one server; all of them are refusals, none of them queues without end."""

    body_bytes: int = 10_000_000
    """A block of 4,000,000 bytes in hex, and room for the request around it."""
    connections: int = 64
    concurrent_requests: int = 16
    waiting_requests: int = 128
    batch_requests: int = 10_000
    read_timeout_s: int = 30
    """For the first bytes of a connection, and for the body after its headers."""
    request_timeout_s: int = 120
    idle_timeout_s: int = 60


@dataclass(slots=True, eq=False)
class _Connection:
    """One client: its streams, its task, and until when what it waits for must have come."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    task: "asyncio.Task[object] | None"
    deadline_s: float
    reading_body: bool = field(default=False)

    def expire(self) -> None:
        """End it: a body that is too slow gets an answer, silence does not."""
        self.deadline_s = float("inf")
        if self.reading_body:
            self.writer.write(reply_bytes(408, b"request body too slow", close=True))
            self.writer.close()
        else:
            self.writer.transport.abort()


class RpcServer:
    """A server of the methods of a registry, on one port of one or more addresses.

    The cookie file is made at `start` and removed at `stop`.
    """

    def __init__(
        self,
        registry: Registry,
        cookie_path: Path | None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        also_listen: Sequence[tuple[str, int]] = (),
        allow: Sequence[str] = (),
        logins: Sequence[Login | SaltedLogin] = (),
        cookie_mode: int = 0o600,
        limits: Limits | None = None,
        on_fault: Callable[[BaseException], None] | None = None,
    ) -> None:
        """
        Args:
            cookie_path: where to write the cookie; None for no cookie, as when there is a
                password (`-rpcpassword`) or `-norpccookiefile`.
            host: address to listen on (`-rpcbind`, without its port).
            port: 0 lets the system choose; see the property `port` after `start`.
            also_listen: further addresses with their ports; one the system does not have is
                left out, see `addresses`.
            allow: who may connect besides this machine (`-rpcallowip`): an address,
                address/netmask or address/prefix.
            logins: accepted besides the cookie (`-rpcuser` with `-rpcpassword`, `-rpcauth`).
            cookie_mode: permissions of the cookie file (`-rpccookieperms`).
            on_fault: told of an error that is ours (an InvariantError or an unexpected one).
        Raises:
            ValueError: a malformed address, or one that is not of this machine's loopback while
                nobody is allowed from outside.
        """
        self._allowed = [*_LOCAL, *(ipaddress.ip_network(each, strict=False) for each in allow)]
        wanted = [(host, port), *also_listen]
        for address, _ in wanted:
            if not allow and not ipaddress.ip_address(address).is_loopback:
                raise ValueError(
                    f"the RPC server binds to loopback only, not to {address}, "
                    "unless it is told whom to allow"
                )
        self._limits = limits or Limits()
        self._dispatcher = Dispatcher(
            registry,
            batch_requests=self._limits.batch_requests,
            request_timeout_s=self._limits.request_timeout_s,
            on_fault=on_fault,
        )
        self._credentials = Credentials(logins)
        self._cookie_path = cookie_path
        self._cookie_mode = cookie_mode
        self._wanted = wanted
        self._listeners: list[asyncio.Server] = []
        self._open = False
        self._timer: asyncio.TimerHandle | None = None
        self._connections: set[_Connection] = set()
        self._running = asyncio.Semaphore(self._limits.concurrent_requests)
        self._waiting = 0

    @property
    def port(self) -> int:
        """The port listened on at the first address. Raises RuntimeError before `start`."""
        return self.addresses[0][1]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """What is listened on. Raises RuntimeError before `start`."""
        if not self._listeners:
            raise RuntimeError("the RPC server is not running")
        names = [listener.sockets[0].getsockname() for listener in self._listeners]
        return [(str(name[0]), int(name[1])) for name in names]

    @property
    def url(self) -> str:
        """Where clients post to."""
        host, port = self.addresses[0]
        if ":" in host:
            host = f"[{host}]"
        return f"http://{host}:{port}/"

    async def start(self) -> None:
        """Listen and write the cookie.

        Raises:
            OSError: the port is taken, or the cookie cannot be written.
        """
        self._open = True
        try:
            for position, (host, port) in enumerate(self._wanted):
                # Only the first address is a must: a machine may lack IPv6.
                with contextlib.suppress(*((OSError,) if position else ())):
                    self._listeners.append(
                        await asyncio.start_server(
                            self._serve, host, port, backlog=128, limit=STREAM_BUFFER_BYTES
                        )
                    )
            if self._cookie_path is not None:
                self._credentials.make_cookie(self._cookie_path, self._cookie_mode)
        except BaseException:
            await self.stop()
            raise
        self._look_at_deadlines()

    async def stop(self) -> None:
        """Stop listening, close the connections and remove the cookie. May be called twice."""
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        own = asyncio.current_task()
        tasks = [each.task for each in self._connections if each.task not in (None, own)]
        for task in tasks:
            if task is not None:
                task.cancel()
        if tasks:
            await asyncio.wait([task for task in tasks if task is not None])
        if self._cookie_path is not None:
            self._credentials.drop_cookie(self._cookie_path)

    def _look_at_deadlines(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for connection in [each for each in self._connections if each.deadline_s < now_s]:
            connection.expire()
        self._timer = loop.call_later(DEADLINE_CHECK_S, self._look_at_deadlines)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection from its first byte to its last."""
        connection = _Connection(reader, writer, asyncio.current_task(), self._in_s(0))
        if len(self._connections) >= self._limits.connections or not self._open:
            writer.close()
            return
        self._connections.add(connection)
        connection.deadline_s = self._in_s(self._limits.read_timeout_s)
        try:
            while await self._exchange(connection):
                pass
        except BadMessage as fault:
            await self._end(connection, fault.status, fault.text)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client is gone
        except asyncio.CancelledError:
            pass  # only `stop` cancels
        finally:
            self._connections.discard(connection)
            writer.close()

    async def _exchange(self, connection: _Connection) -> bool:
        """Read one request and reply; whether the connection goes on."""
        head = await read_head(connection.reader)
        if head is None:
            return False
        connection.deadline_s = self._in_s(self._limits.read_timeout_s)
        refusal = await self._refusal(connection, head)
        if refusal is not None:
            return await self._refuse(connection, head, refusal)
        body = b""
        if head.has_body:
            connection.reading_body = True
            if head.expects_continue:
                connection.writer.write(CONTINUE)
            body = await read_body(connection.reader, head, self._limits.body_bytes)
            connection.reading_body = False
        connection.deadline_s = float("inf")
        connection.writer.write(await self._run(body, close=not head.keep_alive))
        connection.deadline_s = self._in_s(self._limits.idle_timeout_s)
        await connection.writer.drain()
        return head.keep_alive

    async def _refusal(self, connection: _Connection, head: Head) -> bytes | None:
        """The reply to a request that is not run, or None."""
        close = not head.keep_alive
        if not self._may_connect(connection):
            return reply_bytes(403, close=close)
        if head.path != b"/" and not head.path.startswith(b"/wallet/"):
            return reply_bytes(404, close=close)
        if head.method != b"POST":
            text = b"JSONRPC server handles only POST requests"
            return reply_bytes(405, text, close=close)
        login = head.headers.get(b"authorization")
        if login is not None and self._credentials.accept(login):
            return None
        if login is not None:
            await asyncio.sleep(WRONG_LOGIN_PAUSE_MS / 1000)
        challenge = {"WWW-Authenticate": 'Basic realm="jsonrpc"'}
        return reply_bytes(401, close=close, extra=challenge)

    def _may_connect(self, connection: _Connection) -> bool:
        peer = connection.writer.get_extra_info("peername")
        if len(self._allowed) == len(_LOCAL) and peer is not None:
            return True  # only loopback is listened on
        if not peer:
            return False
        address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._allowed)

    async def _refuse(self, connection: _Connection, head: Head, refusal: bytes) -> bool:
        """Reply without having kept the body."""
        known = head.length is not None and head.length <= self._limits.body_bytes
        if not known or (head.has_body and head.expects_continue):
            connection.writer.write(refusal)
            await self._linger(connection)
            return False
        left = head.length or 0
        while left:
            piece = await connection.reader.read(min(left, STREAM_BUFFER_BYTES))
            if not piece:
                return False
            left -= len(piece)
        connection.writer.write(refusal)
        connection.deadline_s = self._in_s(self._limits.idle_timeout_s)
        await connection.writer.drain()
        return head.keep_alive

    async def _end(self, connection: _Connection, status: int, text: str) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            connection.writer.write(reply_bytes(status, text.encode(), close=True))
            await self._linger(connection)

    async def _linger(self, connection: _Connection) -> None:
        """Throw away what still comes, or the reply could be lost with it."""
        connection.reading_body = False
        connection.deadline_s = self._in_s(LINGER_S)
        if connection.writer.can_write_eof():
            connection.writer.write_eof()
        while await connection.reader.read(STREAM_BUFFER_BYTES):
            pass

    async def _run(self, body: bytes, *, close: bool) -> bytes:
        if self._waiting >= self._limits.waiting_requests:
            return reply_bytes(503, b"Work queue depth exceeded", close=close)
        self._waiting += 1
        try:
            async with self._running:
                status, text = await self._dispatcher.answer(body)
        finally:
            self._waiting -= 1
        if not text:
            return reply_bytes(status, close=close)
        body = (text + "\n").encode()
        return reply_bytes(status, body, content_type="application/json", close=close)

    def _in_s(self, seconds: int) -> float:
        return asyncio.get_running_loop().time() + seconds
