"""The three kinds of replies of the Esplora interface."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from sidechain.api.json_text import encode

Handler = Callable[[web.Request], Awaitable[web.Response]]
Routes = dict[str, Handler]


def text_reply(text: str, status: int = 200) -> web.Response:
    """Plain text."""
    return web.Response(status=status, text=text)


def json_reply(value: Any) -> web.Response:
    """JSON."""
    return web.Response(text=encode(value), content_type="application/json")


def binary_reply(data: bytes) -> web.Response:
    """Bytes."""
    return web.Response(body=data, content_type="application/octet-stream")
