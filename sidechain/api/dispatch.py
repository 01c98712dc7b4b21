"""JSON-RPC 1.x and 2.0: from a posted text to the reply's text, single and in batches.

Source: elements/interfaces.md 1.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import CoroutineType, NoneType
from typing import Any

from sidechain.api.json_text import decode, encode
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

BATCH_SLICE_S = 0.005
"""How long the requests of one batch run before the rest of the process has its turn."""

_FINISHED = frozenset((str, dict, list, tuple, int, bool, NoneType))
_HTTP_STATUS = {INVALID_REQUEST: 400, METHOD_NOT_FOUND: 404}


@dataclass(frozen=True, slots=True)
class _Outcome:
    """One request's reply; `error` is its error code, 0 for a result."""

    text: str
    error: int
    legacy: bool


class Dispatcher:
    """Runs posted requests on the methods of a registry."""

    def __init__(
        self,
        registry: Registry,
        *,
        batch_requests: int,
        request_timeout_s: int,
        on_fault: Callable[[BaseException], None] | None = None,
    ) -> None:
        """
        Args:
            batch_requests: more in one batch are refused.
            request_timeout_s: for one method that waits for something.
            on_fault: told of an error that is ours (an InvariantError or an unexpected one).
        """
        self._registry = registry
        self._batch_requests = batch_requests
        self._timeout_s = request_timeout_s
        self._on_fault = on_fault

    async def answer(self, body: bytes) -> tuple[int, str]:
        """Run what was posted; never raises for what it says.

        Returns:
            HTTP status and reply, an empty one where nothing is said (204).
        """
        try:
            posted = decode(body)
        except ValueError:
            return 500, _failure("null", RpcError(PARSE_ERROR, "Parse error"), legacy=True)
        if isinstance(posted, dict):
            return await self._single(posted)
        if isinstance(posted, list):
            return await self._batch(posted)
        error = RpcError(PARSE_ERROR, "Top-level object parse error")
        return 500, _failure("null", error, legacy=True)

    async def _single(self, posted: dict[str, Any]) -> tuple[int, str]:
        outcome = await self._run(posted)
        if outcome is None:
            return 204, ""
        if not outcome.error or not outcome.legacy:
            return 200, outcome.text
        return _HTTP_STATUS.get(outcome.error, 500), outcome.text

    async def _batch(self, posted: list[Any]) -> tuple[int, str]:
        if len(posted) > self._batch_requests:
            error = RpcError(INVALID_REQUEST, "Too many requests in one batch")
            return 400, _failure("null", error, legacy=True)
        loop = asyncio.get_running_loop()
        texts = []
        turn_ends_s = loop.time() + BATCH_SLICE_S
        for item in posted:
            outcome = await self._run(item)
            if outcome is not None:
                texts.append(outcome.text)
            if loop.time() > turn_ends_s:
                await asyncio.sleep(0)
                turn_ends_s = loop.time() + BATCH_SLICE_S
        if posted and not texts:
            return 204, ""
        return 200, "[" + ",".join(texts) + "]"

    async def _run(self, item: Any) -> _Outcome | None:
        """One request's outcome; None for a notification (2.0 without id)."""
        legacy = True
        request_id = "null"
        notification = False
        try:
            if not isinstance(item, dict):
                raise RpcError(INVALID_REQUEST, "Invalid Request object")
            request_id = encode(item["id"]) if "id" in item else ""
            legacy = _is_legacy(item)
            notification = not legacy and "id" not in item
            name, params = _method_and_params(item)
            result = await self._call(name, params)
        except RpcError as error:
            if notification:
                return None
            return _Outcome(_failure(request_id, error, legacy=legacy), error.code, legacy)
        if notification:
            return None
        if legacy:
            text = f'{{"result":{result},"error":null{_member(request_id)}}}'
        else:
            text = f'{{"jsonrpc":"2.0","result":{result}{_member(request_id)}}}'
        return _Outcome(text, 0, legacy)

    async def _call(self, name: str, params: list[Any] | dict[str, Any]) -> str:
        """The result of a method as JSON text."""
        try:
            result = self._registry.begin(name, params)
            if type(result) not in _FINISHED and (
                type(result) is CoroutineType or isinstance(result, Awaitable)
            ):
                async with asyncio.timeout(self._timeout_s):
                    result = await result
            return encode(result)
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


def _failure(request_id: str, error: RpcError, *, legacy: bool) -> str:
    body = encode({"code": error.code, "message": error.message})
    if legacy:
        return f'{{"result":null,"error":{body}{_member(request_id)}}}'
    return f'{{"jsonrpc":"2.0","error":{body}{_member(request_id)}}}'


def _member(request_id: str) -> str:
    """The reply's last member; a request without an id gets none back."""
    return f',"id":{request_id}' if request_id else ""
