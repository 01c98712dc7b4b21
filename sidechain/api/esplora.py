"""Esplora's HTTP interface on one chain: what wallets such as lwk and block explorers read.

Loopback only, nothing secret in it, everything bounded. Browsers may read it from any page.

Source: clients.md 3.
"""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from sidechain.api.esplora_blocks import BlockRoutes, TransactionRoutes
from sidechain.api.esplora_mempool import MempoolRoutes, Send
from sidechain.api.esplora_reads import EsploraReads, Refusal, not_found
from sidechain.api.esplora_replies import text_reply
from sidechain.api.esplora_scripts import AssetRoutes, ScriptRoutes
from sidechain.chain import Chain
from sidechain.errors import Unavailable
from sidechain.index.follower import ChainIndex
from sidechain.index.store import IndexDamaged

__all__ = ["EsploraServer", "Limits", "Send"]

StreamHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_SHUTDOWN_S = 1.0
_PREFLIGHT_HEADERS = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, OPTIONS",
    "Access-Control-Allow-Headers": "Content-Type",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one server; all of them are refusals, none of them queues without end."""

    body_bytes: int = 8_000_100
    """A transaction as heavy as a block, in hex."""
    connections: int = 128
    concurrent_requests: int = 16
    waiting_requests: int = 256
    read_timeout_s: int = 30
    """For the first bytes of a connection, and for the body of a request."""
    request_timeout_s: int = 60
    idle_timeout_s: int = 60


class EsploraServer:
    """One listening socket that answers the Esplora routes, and the index behind it.

    The index is the server's own: `start` gives it a task, `stop` ends that and closes it.
    """

    def __init__(
        self,
        chain: Chain,
        index: ChainIndex,
        *,
        send: Send,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: Limits | None = None,
        on_fault: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        """
        Args:
            send: takes a transaction in hex as the RPC method `sendrawtransaction` does.
            port: 0 lets the system choose; see the property `port` after `start`.
            on_fault: told of an error that is ours, and of a disk that refuses the index.
        Raises:
            ValueError: `host` is not a loopback address.
        """
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError(f"the Esplora server binds to loopback only, not to {host}")
        self._index = index
        self._reads = EsploraReads(chain, index)
        self._mempool = MempoolRoutes(self._reads, send)
        self._host = host
        self._wanted_port = port
        self._limits = limits or Limits()
        self._on_fault = on_fault
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._following: asyncio.Task[None] | None = None
        self._running = asyncio.Semaphore(self._limits.concurrent_requests)
        self._waiting = 0
        self._silent: set[asyncio.BaseProtocol] = set()

    @property
    def port(self) -> int:
        """The port listened on. Raises RuntimeError before `start`."""
        if self._listener is None:
            raise RuntimeError("the Esplora server is not running")
        return int(self._listener.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """What a client is given: no slash at the end."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}"

    async def start(self, group: asyncio.TaskGroup) -> None:
        """Follow the chain in a task of the group, and listen.

        Raises:
            OSError: the port is taken.
        """
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            handle_signals=False,
            keepalive_timeout=self._limits.idle_timeout_s,
            shutdown_timeout=_SHUTDOWN_S,
        )
        await runner.setup()
        self._runner = runner
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                self._make_connection, self._host, self._wanted_port, backlog=128
            )
        except BaseException:
            await self.stop()
            raise
        self._following = group.create_task(self._index.run(self._on_fault))

    async def stop(self) -> None:
        """Stop listening, close the connections and the index. May be called twice."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()
        self._index.stop()
        if self._following is not None:
            following, self._following = self._following, None
            await asyncio.wait([following])
        self._index.close()

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=self._limits.body_bytes, middlewares=[self._answer])
        for routes in (
            BlockRoutes(self._reads).routes(),
            TransactionRoutes(self._reads).routes(),
            ScriptRoutes(self._reads).routes(),
            AssetRoutes(self._reads).routes(),
            self._mempool.routes(),
        ):
            for path, handler in routes.items():
                app.router.add_get(path, handler)
        app.router.add_post("/tx", self._mempool.broadcast)
        return app

    def _make_connection(self) -> asyncio.BaseProtocol:
        server = None if self._runner is None else self._runner.server
        if server is None or len(server.connections) >= self._limits.connections:
            return _Refused()
        connection: asyncio.BaseProtocol = server()
        self._silent.add(connection)
        asyncio.get_running_loop().call_later(
            self._limits.read_timeout_s, self._close_if_silent, connection
        )
        return connection

    def _close_if_silent(self, connection: Any) -> None:
        if connection in self._silent:
            self._silent.discard(connection)
            connection.force_close()

    @web.middleware
    async def _answer(self, request: web.Request, handler: StreamHandler) -> web.StreamResponse:
        """Wait for a turn, run the handler, and give every reply the same headers."""
        self._silent.discard(request.protocol)
        if self._waiting >= self._limits.waiting_requests:
            return _with_headers(text_reply("too many requests", 503))
        self._waiting += 1
        try:
            async with self._running:
                return _with_headers(await self._run(request, handler))
        finally:
            self._waiting -= 1

    async def _run(self, request: web.Request, handler: StreamHandler) -> web.StreamResponse:
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=_PREFLIGHT_HEADERS)
        try:
            async with asyncio.timeout(self._limits.read_timeout_s):
                await request.read()
            async with asyncio.timeout(self._limits.request_timeout_s):
                return await handler(request)
        except Refusal as refusal:
            return text_reply(refusal.text, refusal.status)
        except web.HTTPNotFound:
            shown = not_found(f"endpoint {request.path[:100]}")
            return text_reply(shown.text, shown.status)
        except web.HTTPException as refused:
            return text_reply(refused.reason, refused.status)
        except TimeoutError:
            return text_reply("the request took too long", 503)
        except IndexDamaged as error:
            self._on_fault(error)
            self._index.discard()
            return text_reply("the index is made anew", 503)
        except Unavailable as error:
            return text_reply(str(error), 503)
        except UnicodeDecodeError:
            return text_reply("the body is not text", 400)
        except Exception as error:  # a bad handler must not end the connection
            self._on_fault(error)
            return text_reply(f"internal error: {type(error).__name__}", 500)


class _Refused(asyncio.Protocol):
    """Connection over the limit: closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _with_headers(response: web.StreamResponse) -> web.StreamResponse:
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Cache-Control"] = "no-store"
    return response
