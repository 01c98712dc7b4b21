"""JSON-RPC client for a node on this machine: cookie authentication, time-outs, retries.

A request is sent again only when the server cannot have begun it: nothing listens yet, the
server is warming up or too busy, or it refused the cookie of an earlier run.
"""

import asyncio
import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from sidechain.api.json_text import decode, encode
from sidechain.api.registry import IN_WARMUP, RpcError
from sidechain.errors import Unavailable

__all__ = ["RpcClient", "RpcError"]

RETRY_FIRST_MS = 50
RETRY_MAX_MS = 1_000
MAX_REPLY_BYTES = 64_000_000
IDLE_TIMEOUT_S = 15
"""Below the server's own, so that an idle connection is never found closed by the other side."""


class RpcClient:
    """Calls methods of one RPC server.

    Close it with `close`, or use it as an async context manager.
    """

    def __init__(
        self, url: str, cookie_path: Path, timeout_s: int = 30, *, retry_for_s: int = 0
    ) -> None:
        """
        Args:
            timeout_s: for one attempt, reply included.
            retry_for_s: how long an unreachable or warming-up server is tried again.
        """
        self._url = url
        self._cookie_path = cookie_path
        self._timeout_s = timeout_s
        self._retry_for_s = retry_for_s
        self._session: aiohttp.ClientSession | None = None
        self._next_id = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. The client may be used again afterwards."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def call(self, method: str, *params: Any, **named: Any) -> Any:
        """Run one method and return its result; positional or named parameters, not both.

        Raises:
            RpcError: the server's error reply.
            Unavailable: no reply; if the connection broke midway the method may have run.
            ValueError: positional and named parameters together.
        """
        if params and named:
            raise ValueError("positional and named parameters together")
        request = self._request(method, named or list(params))
        reply = await self._post_with_retries(request)
        if not isinstance(reply, Mapping):
            raise Unavailable(f"{self._url}: the reply is not an object")
        return _result(reply)

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """Run several methods in one request.

        Returns:
            For each call its result, or the RpcError it ended with, in the order of `calls`.
        Raises:
            Unavailable, as `call`; also when replies are missing.
        """
        requests = [self._request(method, list(params)) for method, params in calls]
        replies = await self._post_with_retries(requests)
        if isinstance(replies, Mapping):
            _result(replies)
        if not isinstance(replies, list):
            raise Unavailable(f"{self._url}: the reply is not an array")
        by_id = {reply.get("id"): reply for reply in replies if isinstance(reply, Mapping)}
        results: list[Any] = []
        for request in requests:
            reply = by_id.get(request["id"])
            if reply is None:
                raise Unavailable(f"{self._url}: a reply of the batch is missing")
            try:
                results.append(_result(reply))
            except RpcError as error:
                results.append(error)
        return results

    def _request(self, method: str, params: Any) -> dict[str, Any]:
        self._next_id += 1
        return {"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": params}

    async def _post_with_retries(self, body: Any) -> Any:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._retry_for_s
        pause_ms = RETRY_FIRST_MS
        while True:
            try:
                return await self._post(encode(body))
            except _NotBegun as error:
                if loop.time() + pause_ms / 1000 > deadline:
                    raise Unavailable(f"{self._url}: {error}") from error
            except RpcError as error:
                if error.code != IN_WARMUP or loop.time() + pause_ms / 1000 > deadline:
                    raise
            await asyncio.sleep(pause_ms / 1000)
            pause_ms = min(2 * pause_ms, RETRY_MAX_MS)

    async def _post(self, body: str) -> Any:
        session = self._open_session()
        headers = {"Authorization": self._authorization(), "Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                session.post(self._url, data=body.encode(), headers=headers) as response,
            ):
                return await self._read(response)
        except TimeoutError as error:
            raise Unavailable(f"{self._url}: no reply within {self._timeout_s} s") from error
        except aiohttp.ClientConnectorError as error:
            raise _NotBegun(f"cannot connect ({os.strerror(error.errno or 0)})") from error
        except aiohttp.ClientError as error:
            raise Unavailable(f"{self._url}: connection lost: {error}") from error

    async def _read(self, response: aiohttp.ClientResponse) -> Any:
        if response.status == 401:
            raise _NotBegun("the server refuses the cookie")
        if response.status == 503:
            raise _NotBegun("the server is too busy")
        text = await response.content.read(MAX_REPLY_BYTES)
        while not response.content.at_eof():
            if len(text) >= MAX_REPLY_BYTES:
                raise Unavailable(f"{self._url}: reply too large")
            text += await response.content.read(MAX_REPLY_BYTES - len(text))
        try:
            reply = decode(text)
        except ValueError as error:
            raise Unavailable(f"{self._url}: HTTP {response.status}, not JSON") from error
        if isinstance(reply, Mapping):
            _raise_warmup(reply)
        return reply

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(keepalive_timeout=IDLE_TIMEOUT_S),
                timeout=aiohttp.ClientTimeout(total=None),
                # Never a proxy from the environment: the server is on this machine.
                trust_env=False,
            )
        return self._session

    def _authorization(self) -> str:
        try:
            cookie = self._cookie_path.read_bytes().strip()
        except OSError as error:
            raise _NotBegun(f"no cookie file {self._cookie_path}") from error
        return "Basic " + base64.b64encode(cookie).decode()


class _NotBegun(Exception):
    """The server has not begun the request: safe to send it again."""


def _raise_warmup(reply: Mapping[str, Any]) -> None:
    error = reply.get("error")
    if isinstance(error, Mapping) and error.get("code") == IN_WARMUP:
        raise RpcError(IN_WARMUP, str(error.get("message", "")))


def _result(reply: Mapping[str, Any]) -> Any:
    error = reply.get("error")
    if error is None:
        return reply.get("result")
    if isinstance(error, Mapping) and isinstance(error.get("code"), int):
        raise RpcError(error["code"], str(error.get("message", "")))
    raise Unavailable("malformed error reply")
