"""Transport to a Bitcoin node: JSON-RPC over HTTP with time-outs, retries and the cookie.

The typed calls are in `peg.bitcoind`; this file knows no method of the node.
"""

import asyncio
import base64
import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import aiohttp

from sidechain.errors import Unavailable

RESPONSE_BYTES_MAX = 64_000_000
BATCH_CALLS_MAX = 500
CODE_IN_WARMUP = -28
RETRY_PAUSE_MS_FIRST = 50
RETRY_PAUSE_MS_MAX = 1_000


class BitcoindError(Exception):
    """The node answered with an RPC error: `code` and `message` are its own."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} (bitcoind code {code})")
        self.code = code
        self.message = message


class _Rejected(Exception):
    """HTTP 401: the credentials are not (or no longer) those of the node."""


class _NotSent(Exception):
    """The request cannot have been carried out."""


class _NoAnswer(Exception):
    """The request may have been carried out; no usable answer came."""


class BitcoindRpc:
    """JSON-RPC client of one node, with cookie or user and password.

    The cookie is read at the first call and again whenever the node refuses it, since each start
    of bitcoind writes a new one. Use one object per event loop; `close()` when done.
    """

    def __init__(
        self,
        url: str,
        *,
        cookie_path: Path | None = None,
        user: str | None = None,
        password: str | None = None,
        timeout_ms: int = 30_000,
        retry_ms: int = 5_000,
    ) -> None:
        """Remember where the node is; nothing is contacted yet.

        Args:
            url: base address, such as `http://127.0.0.1:18443`.
            timeout_ms: the most one request may take.
            retry_ms: how long calls that change nothing are repeated; 0 for never.
        """
        if cookie_path is None and (user is None or password is None):
            raise ValueError("bitcoind needs a cookie file, or a user and a password")
        self.url = url.rstrip("/")
        self._cookie_path = cookie_path
        self._credentials = None if cookie_path else f"{user}:{password}"
        self._timeout_ms = timeout_ms
        self._retry_ms = retry_ms
        self._session: aiohttp.ClientSession | None = None
        self._next_id = 0

    async def close(self) -> None:
        """Close the connections; the client opens new ones if it is used again."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def call(
        self,
        method: str,
        *params: object,
        wallet: str | None = None,
        timeout_ms: int | None = None,
        repeatable: bool = True,
    ) -> Any:
        """One RPC call; JSON numbers with a point come back as Decimal.

        Args:
            wallet: name of the node's wallet the call is for.
            repeatable: False for a call that must not be done twice: it is repeated only when the
                node cannot have received it.
        Raises:
            BitcoindError: the node refused.
            Unavailable: the node cannot be reached, is starting, or did not answer in time.
        """
        request = self._request(method, params)
        reply = await self._exchange(request, wallet, timeout_ms, repeatable)
        return _result(reply)

    async def batch(self, calls: Sequence[tuple[str, Sequence[object]]]) -> list[Any]:
        """Several calls that change nothing in one request; results in the order of the calls.

        Raises:
            BitcoindError: the first refusal among the answers.
            Unavailable: as for `call`.
        """
        results: list[Any] = []
        for start in range(0, len(calls), BATCH_CALLS_MAX):
            requests = [self._request(m, p) for m, p in calls[start : start + BATCH_CALLS_MAX]]
            replies = await self._exchange(requests, None, None, True)
            if not isinstance(replies, list):
                _result(replies)
                raise Unavailable("bitcoind answered a batch with a single reply")
            by_id = {reply.get("id"): reply for reply in replies}
            for request in requests:
                if request["id"] not in by_id:
                    raise Unavailable("bitcoind left out a reply of a batch")
                results.append(_result(by_id[request["id"]]))
        return results

    def _request(self, method: str, params: Sequence[object]) -> dict[str, object]:
        self._next_id += 1
        return {"jsonrpc": "1.0", "id": self._next_id, "method": method, "params": list(params)}

    async def _exchange(
        self, body: object, wallet: str | None, timeout_ms: int | None, repeatable: bool
    ) -> Any:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._retry_ms / 1000
        pause_ms = RETRY_PAUSE_MS_FIRST
        cookie_was_refused = False
        while True:
            try:
                reply = await self._post(body, wallet, timeout_ms or self._timeout_ms)
                if not _is_warming_up(reply):
                    return reply
                failure = Unavailable("bitcoind is starting")
            except _Rejected:
                if self._cookie_path is None or cookie_was_refused:
                    raise Unavailable("bitcoind refuses these credentials") from None
                cookie_was_refused = True
                self._credentials = None
                continue
            except _NotSent as error:
                failure = Unavailable(str(error))
            except _NoAnswer as error:
                failure = Unavailable(str(error))
                if not repeatable:
                    raise failure from error
            if loop.time() + pause_ms / 1000 > give_up_at:
                raise failure
            await asyncio.sleep(pause_ms / 1000)
            pause_ms = min(pause_ms * 2, RETRY_PAUSE_MS_MAX)
            cookie_was_refused = False

    async def _post(self, body: object, wallet: str | None, timeout_ms: int) -> Any:
        path = "/" if wallet is None else f"/wallet/{wallet}"
        headers = {"Authorization": self._authorization(), "Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(timeout_ms / 1000),
                self._open_session().post(
                    self.url + path, data=json.dumps(body).encode(), headers=headers
                ) as response,
            ):
                status = response.status
                text = await response.content.read(RESPONSE_BYTES_MAX + 1)
                while not response.content.at_eof() and len(text) <= RESPONSE_BYTES_MAX:
                    text += await response.content.read(RESPONSE_BYTES_MAX + 1 - len(text))
        except aiohttp.ClientConnectorError as error:
            raise _NotSent(f"bitcoind cannot be reached at {self.url}") from error
        except TimeoutError as error:
            raise _NoAnswer(f"bitcoind did not answer within {timeout_ms} ms") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _NoAnswer(f"connection to bitcoind broke: {error!r}") from error
        if status in (401, 403):
            raise _Rejected
        if len(text) > RESPONSE_BYTES_MAX:
            raise Unavailable("bitcoind's answer is larger than this client accepts")
        if status == 503:
            raise _NotSent("bitcoind is busy (HTTP 503)")
        try:
            return json.loads(text, parse_float=Decimal)
        except ValueError as error:
            raise _NoAnswer(f"bitcoind answered HTTP {status} without JSON") from error

    def _authorization(self) -> str:
        if self._credentials is None:
            if self._cookie_path is None:
                raise Unavailable("bitcoind credentials are missing")
            try:
                self._credentials = self._cookie_path.read_text().strip()
            except OSError as error:
                raise _NotSent(f"no cookie at {self._cookie_path}") from error
        return "Basic " + base64.b64encode(self._credentials.encode()).decode()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            # bitcoind drops idle connections after 30 s; give them up sooner than it does
            connector = aiohttp.TCPConnector(limit=8, keepalive_timeout=10)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=aiohttp.ClientTimeout(total=None)
            )
        return self._session


def _is_warming_up(reply: Any) -> bool:
    if isinstance(reply, list):
        return bool(reply) and all(_is_warming_up(one) for one in reply)
    error = reply.get("error") if isinstance(reply, dict) else None
    return isinstance(error, dict) and error.get("code") == CODE_IN_WARMUP


def _result(reply: Any) -> Any:
    if not isinstance(reply, dict) or ("error" not in reply and "result" not in reply):
        raise Unavailable("bitcoind's answer is not a JSON-RPC reply")
    error = reply.get("error")
    if error:
        raise BitcoindError(int(error["code"]), str(error["message"]))
    return reply["result"]
