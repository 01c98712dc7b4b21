"""The RPC client: results, errors, and a server that is late, restarted or gone."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sidechain.api.client import RpcClient, RpcError
from sidechain.api.http import Registry, RpcServer
from sidechain.errors import Unavailable


def make_registry(name: str = "first") -> Registry:
    registry = Registry()
    warming = [2]

    def warm() -> str:
        if warming[0]:
            warming[0] -= 1
            raise RpcError(-28, "Loading")
        return "ready"

    def refuse() -> None:
        raise RpcError(-26, "no, because")

    registry.add("name", lambda: name, "Name.")
    registry.add("echo", lambda value: value, "Echo.")
    registry.add("refuse", refuse, "Refuse.")
    registry.add("warm", warm, "Warm up.")
    registry.add("hang", lambda: asyncio.Event().wait(), "Never answers.")
    return registry


async def test_call_when_answered_then_result_or_error(tmp_path: Path) -> None:
    cookie = tmp_path / ".cookie"
    server = RpcServer(make_registry(), cookie)
    await server.start()
    async with RpcClient(server.url, cookie) as client:
        assert await client.call("echo", {"a": [1, "x"]}) == {"a": [1, "x"]}
        assert await client.call("echo", value=5) == 5
        with pytest.raises(RpcError) as refused:
            await client.call("refuse")
        assert (refused.value.code, refused.value.message) == (-26, "no, because")
        with pytest.raises(ValueError, match="together"):
            await client.call("echo", 1, value=2)
    await server.stop()


async def test_batch_when_one_fails_then_its_error_is_in_place(tmp_path: Path) -> None:
    cookie = tmp_path / ".cookie"
    server = RpcServer(make_registry(), cookie)
    await server.start()
    async with RpcClient(server.url, cookie) as client:
        results = await client.batch([("echo", [1]), ("refuse", []), ("name", [])])
        assert results[0] == 1
        assert isinstance(results[1], RpcError)
        assert results[2] == "first"
    await server.stop()


async def test_call_when_warming_up_then_retried_only_if_asked(tmp_path: Path) -> None:
    cookie = tmp_path / ".cookie"
    server = RpcServer(make_registry(), cookie)
    await server.start()
    async with (
        RpcClient(server.url, cookie) as hasty,
        RpcClient(server.url, cookie, retry_for_s=5) as patient,
    ):
        with pytest.raises(RpcError):
            await hasty.call("warm")
        assert await patient.call("warm") == "ready"
    await server.stop()


async def test_call_when_server_restarted_then_new_cookie_used(tmp_path: Path) -> None:
    cookie = tmp_path / ".cookie"
    server = RpcServer(make_registry(), cookie)
    await server.start()
    port = server.port
    async with RpcClient(server.url, cookie, retry_for_s=5) as client:
        assert await client.call("name") == "first"
        await server.stop()
        again = RpcServer(make_registry("second"), cookie, port=port)
        await again.start()
        assert await client.call("name") == "second"
        await again.stop()


async def test_call_when_server_comes_late_then_waited_for(tmp_path: Path) -> None:
    cookie = tmp_path / ".cookie"
    placeholder = RpcServer(make_registry(), cookie)
    await placeholder.start()
    url, port = placeholder.url, placeholder.port
    await placeholder.stop()
    server = RpcServer(make_registry(), cookie, port=port)
    async with RpcClient(url, cookie, retry_for_s=10) as client:
        async with asyncio.TaskGroup() as group:
            answer: asyncio.Task[Any] = group.create_task(client.call("name"))
            await asyncio.sleep(0)
            await server.start()
        assert answer.result() == "first"
    await server.stop()


async def test_call_when_nobody_answers_then_unavailable(tmp_path: Path) -> None:
    cookie = tmp_path / ".cookie"
    server = RpcServer(make_registry(), cookie)
    await server.start()
    async with RpcClient(server.url, cookie, timeout_s=1) as client:
        with pytest.raises(Unavailable, match="no reply"):
            await client.call("hang")
    url = server.url
    await server.stop()
    async with RpcClient(url, cookie) as client:
        with pytest.raises(Unavailable, match="cookie"):
            await client.call("name")
        cookie.write_text("__cookie__:00")
        with pytest.raises(Unavailable, match="connect"):
            await client.call("name")
