"""JSON-RPC server over HTTP: cookie authentication, loopback only, everything bounded.

Speaks JSON-RPC 1.x and 2.0, single and in batches, as elementsd does (elements/interfaces.md 1).
"""

import asyncio
import base64
import binascii
import hmac
import ipaddress
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from sidechain.api.json_text import Encoded, decode, encode
from sidechain.api.registry import (
    IN_WARMUP,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MISC_ERROR,
    PARSE_ERROR,
    Registry,
    RpcError,
)
from sidechain.errors import InvariantError, Unavailable

__all__ = ["Limits", "Registry", "RpcError", "RpcServer"]

COOKIE_USER = "__cookie__"


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


class RpcServer:
    """One listening socket that answers the methods of a registry.

    The cookie file is made at `start` (mode 0600) and removed at `stop`.
    """

    def __init__(
        self,
        registry: Registry,
        cookie_path: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: Limits | None = None,
        on_fault: Callable[[BaseException], None] | None = None,
    ) -> None:
        """
        Args:
            port: 0 lets the system choose; see the property `port` after `start`.
            on_fault: told of an error that is ours (an InvariantError or an unexpected one).
        Raises:
            ValueError: `host` is not a loopback address.
        """
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError(f"the RPC server binds to loopback only, not to {host}")
        self._registry = registry
        self._cookie_path = cookie_path
        self._host = host
        self._wanted_port = port
        self._limits = limits or Limits()
        self._on_fault = on_fault
        self._token = b""
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._running = asyncio.Semaphore(self._limits.concurrent_requests)
        self._waiting = 0
        self._silent: set[asyncio.BaseProtocol] = set()

    @property
    def port(self) -> int:
        """The port listened on. Raises RuntimeError before `start`."""
        if self._listener is None:
            raise RuntimeError("the RPC server is not running")
        return int(self._listener.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """Where clients post to."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}/"

    async def start(self) -> None:
        """Write the cookie and listen. Raises OSError when the port is taken."""
        app = web.Application(client_max_size=self._limits.body_bytes)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=self._limits.idle_timeout_s,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        self._runner = runner
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                self._make_connection, self._host, self._wanted_port, backlog=128
            )
            self._write_cookie()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop listening, close the connections and remove the cookie. May be called twice."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()
        if self._token:
            self._token = b""
            self._cookie_path.unlink(missing_ok=True)

    def _write_cookie(self) -> None:
        text = f"{COOKIE_USER}:{secrets.token_hex(32)}"
        self._cookie_path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._cookie_path.with_name(self._cookie_path.name + ".new")
        draft.unlink(missing_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(text)
        draft.replace(self._cookie_path)
        self._token = text.encode()

    def _make_connection(self) -> asyncio.BaseProtocol:
        if self._runner is None or self._runner.server is None:
            return _Refusal()
        server = self._runner.server
        if len(server.connections) >= self._limits.connections:
            return _Refusal()
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

    async def _answer(self, request: web.Request) -> web.Response:
        self._silent.discard(request.protocol)
        if request.method != "POST":
            return web.Response(status=405, text="JSONRPC server handles only POST requests")
        if not self._is_authorized(request.headers.get("Authorization", "")):
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="jsonrpc"'})
        if self._waiting >= self._limits.waiting_requests:
            return web.Response(status=503, text="Work queue depth exceeded")
        self._waiting += 1
        try:
            async with self._running:
                return await self._read_and_run(request)
        finally:
            self._waiting -= 1

    def _is_authorized(self, header: str) -> bool:
        scheme, _, credentials = header.partition(" ")
        if scheme.lower() != "basic" or not self._token:
            return False
        try:
            given = base64.b64decode(credentials.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(given, self._token)

    async def _read_and_run(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(self._limits.read_timeout_s):
                body = await request.read()
        except TimeoutError:
            return web.Response(status=408, text="request body too slow")
        try:
            posted = decode(body)
        except (ValueError, UnicodeDecodeError):
            return _reply(500, _failure(None, RpcError(PARSE_ERROR, "Parse error"), legacy=True))
        if isinstance(posted, dict):
            return await self._run_single(posted)
        if isinstance(posted, list):
            return await self._run_batch(posted)
        error = RpcError(PARSE_ERROR, "Top-level object parse error")
        return _reply(500, _failure(None, error, legacy=True))

    async def _run_single(self, posted: dict[str, Any]) -> web.Response:
        outcome = await self._run(posted)
        if outcome is None:
            return web.Response(status=204)
        error = outcome.get("error")
        if error is None or outcome.get("jsonrpc") == "2.0":
            return _reply(200, outcome)
        status = {INVALID_REQUEST: 400, METHOD_NOT_FOUND: 404}.get(error["code"], 500)
        return _reply(status, outcome)

    async def _run_batch(self, posted: list[Any]) -> web.Response:
        if len(posted) > self._limits.batch_requests:
            error = RpcError(INVALID_REQUEST, "Too many requests in one batch")
            return _reply(400, _failure(None, error, legacy=True))
        outcomes = []
        for item in posted:
            outcome = await self._run(item)
            if outcome is not None:
                outcomes.append(outcome)
            # A long batch must not keep the rest of the node waiting.
            await asyncio.sleep(0)
        if posted and not outcomes:
            return web.Response(status=204)
        return _reply(200, outcomes)

    async def _run(self, item: Any) -> dict[str, Any] | None:
        """One request's reply; None for a notification (2.0 without id)."""
        legacy = True
        request_id = None
        notification = False
        try:
            if not isinstance(item, dict):
                raise RpcError(INVALID_REQUEST, "Invalid Request object")
            request_id = item.get("id")
            legacy = _is_legacy(item)
            notification = not legacy and "id" not in item
            name, params = _method_and_params(item)
            result = await self._call(name, params)
        except RpcError as error:
            return None if notification else _failure(request_id, error, legacy=legacy)
        if notification:
            return None
        if legacy:
            return {"result": result, "error": None, "id": request_id}
        return {"jsonrpc": "2.0", "result": result, "id": request_id}

    async def _call(self, name: str, params: list[Any] | dict[str, Any]) -> Encoded:
        try:
            async with asyncio.timeout(self._limits.request_timeout_s):
                result = await self._registry.call(name, params)
            return Encoded(encode(result))
        except RpcError:
            raise
        except TimeoutError as error:
            raise RpcError(INTERNAL_ERROR, f"{name} took too long") from error
        except Unavailable as error:
            raise RpcError(IN_WARMUP, str(error)) from error
        except InvariantError as error:
            self._report(error)
            raise RpcError(MISC_ERROR, f"internal error: {error}") from error
        except Exception as error:  # a bad handler must not end the connection
            self._report(error)
            raise RpcError(MISC_ERROR, f"{type(error).__name__}: {error}") from error

    def _report(self, error: BaseException) -> None:
        if self._on_fault is not None:
            self._on_fault(error)


class _Refusal(asyncio.Protocol):
    """Connection over the limit: closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _is_legacy(item: dict[str, Any]) -> bool:
    """Whether the request is JSON-RPC 1.x (no version, 1.0 or 1.1) rather than 2.0."""
    version = item.get("jsonrpc")
    if version is None:
        return True
    if not isinstance(version, str):
        raise RpcError(INVALID_REQUEST, "jsonrpc field must be a string")
    if version == "2.0":
        return False
    if version in ("1.0", "1.1"):
        return True
    raise RpcError(INVALID_REQUEST, "JSON-RPC version not supported")


def _method_and_params(item: dict[str, Any]) -> tuple[str, list[Any] | dict[str, Any]]:
    name = item.get("method")
    if name is None:
        raise RpcError(INVALID_REQUEST, "Missing method")
    if not isinstance(name, str):
        raise RpcError(INVALID_REQUEST, "Method must be a string")
    params = item.get("params")
    if params is None:
        params = []
    if not isinstance(params, (list, dict)):
        raise RpcError(INVALID_REQUEST, "Params must be an array or object")
    return name, params


def _failure(request_id: Any, error: RpcError, *, legacy: bool) -> dict[str, Any]:
    body = {"code": error.code, "message": error.message}
    if legacy:
        return {"result": None, "error": body, "id": request_id}
    return {"jsonrpc": "2.0", "error": body, "id": request_id}


def _reply(status: int, value: Any) -> web.Response:
    return web.Response(status=status, text=encode(value) + "\n", content_type="application/json")
