"""The RPC server over a real socket: who may ask, how, and how much."""

import asyncio
import base64
import json
import stat
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidechain.api.http import Limits, Registry, RpcError, RpcServer
from sidechain.api.json_text import coins, decode, encode, sats
from sidechain.errors import InvariantError


def make_registry() -> Registry:
    registry = Registry()

    def subtract(minuend: int, subtrahend: int = 1) -> int:
        return minuend - subtrahend

    async def echo(value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    def refuse() -> None:
        raise RpcError(-26, "no, because")

    def broken() -> None:
        raise InvariantError("our bug")

    registry.add("subtract", subtract, "Subtract.", aliases={"from": "minuend"})
    registry.add("echo", echo, "Echo.")
    registry.add("refuse", refuse, "Refuse.")
    registry.add("broken", broken, "Break.")
    registry.add("amount", lambda: coins(12_345), "An amount.")
    registry.add("hang", lambda: asyncio.Event().wait(), "Never answers.")
    return registry


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RpcServer]:
    faults: list[BaseException] = []
    running = RpcServer(
        make_registry(),
        tmp_path / "rpc" / ".cookie",
        limits=Limits(
            body_bytes=10_000,
            connections=8,
            batch_requests=5,
            request_timeout_s=1,
            read_timeout_s=1,
        ),
        on_fault=faults.append,
    )
    running.faults = faults  # type: ignore[attr-defined]
    await running.start()
    yield running
    await running.stop()


def cookie_headers(server: RpcServer) -> dict[str, str]:
    cookie = server._cookie_path.read_bytes()
    return {"Authorization": "Basic " + base64.b64encode(cookie).decode()}


async def post(
    server: RpcServer, body: Any, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            server.url, data=data, headers=cookie_headers(server) if headers is None else headers
        ) as response,
    ):
        text = await response.text()
    try:
        return response.status, json.loads(text, parse_float=Decimal)
    except ValueError:
        return response.status, text


async def test_call_when_legacy_then_both_fields(server: RpcServer) -> None:
    request = {"id": "x", "method": "subtract", "params": [7, 2]}
    assert await post(server, request) == (200, {"result": 5, "error": None, "id": "x"})


async def test_call_when_version_2_then_one_field(server: RpcServer) -> None:
    request = {"jsonrpc": "2.0", "id": 3, "method": "subtract", "params": {"minuend": 7}}
    assert await post(server, request) == (200, {"jsonrpc": "2.0", "result": 6, "id": 3})


async def test_call_when_without_id_then_the_reply_has_none(server: RpcServer) -> None:
    asked = {"method": "subtract", "params": [7, 2]}
    assert await post(server, asked) == (200, {"result": 5, "error": None})
    _, replies = await post(server, [{"id": None, **asked}, {"method": "nothing"}])
    assert replies[0] == {"result": 5, "error": None, "id": None}
    assert replies[1].keys() == {"result", "error"}


async def test_named_param_when_also_positional_then_the_error_names_it(server: RpcServer) -> None:
    twice = {"args": [1], "minuend": 2}
    _, reply = await post(server, {"id": 1, "method": "subtract", "params": twice})
    assert reply["error"]["message"] == (
        "Parameter minuend specified twice both as positional and named argument"
    )


@pytest.mark.parametrize(
    ("params", "result"),
    [
        ({"subtrahend": 3, "minuend": 10}, 7),
        ({"from": 10}, 9),
        ({"args": [10], "subtrahend": 4}, 6),
    ],
)
async def test_named_params_when_they_fit_then_called(
    server: RpcServer, params: dict[str, Any], result: int
) -> None:
    _, reply = await post(server, {"id": 1, "method": "subtract", "params": params})
    assert reply["result"] == result


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"minuend": 1, "other": 2}, -8),
        ({"minuend": 1, "from": 2}, -8),
        ({"args": [1], "minuend": 2}, -8),
        ({"args": 5}, -8),
        ({"subtrahend": 1}, -1),
        ([], -1),
        ([1, 2, 3], -1),
    ],
)
async def test_params_when_they_do_not_fit_then_refused(
    server: RpcServer, params: Any, code: int
) -> None:
    status, reply = await post(server, {"id": 1, "method": "subtract", "params": params})
    assert (status, reply["error"]["code"]) == (500, code)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 500, -32700),
        (b"\xff\xfe", 500, -32700),
        (b'"text"', 500, -32700),
        (b'{"id":1,"id":2}', 500, -32700),
        (b"[" * 5000, 500, -32700),
        ({"id": 1, "method": "nothing"}, 404, -32601),
        ({"jsonrpc": "2.0", "id": 1, "method": "nothing"}, 200, -32601),
        ({"id": 1}, 400, -32600),
        ({"id": 1, "method": 5}, 400, -32600),
        ({"id": 1, "method": "echo", "params": "x"}, 400, -32600),
        ({"id": 1, "method": "echo", "jsonrpc": "3.0"}, 400, -32600),
        ({"id": 1, "method": "echo", "jsonrpc": 2}, 400, -32600),
        ({"id": 1, "method": "refuse"}, 500, -26),
    ],
)
async def test_request_when_wrong_then_error_code(
    server: RpcServer, body: Any, status: int, code: int
) -> None:
    got_status, reply = await post(server, body)
    assert (got_status, reply["error"]["code"]) == (status, code)
    assert reply.get("result") is None


async def test_batch_when_mixed_then_replies_in_order(server: RpcServer) -> None:
    batch = [
        {"id": 1, "method": "subtract", "params": [5, 5]},
        {"id": 2, "method": "nothing"},
        {"jsonrpc": "2.0", "method": "echo", "params": ["unheard"]},
        7,
    ]
    status, reply = await post(server, batch)
    assert status == 200
    assert [item["id"] for item in reply] == [1, 2, None]
    assert reply[0]["result"] == 0
    assert [item["error"]["code"] for item in reply[1:]] == [-32601, -32600]


async def test_batch_when_empty_or_only_notifications_then_no_replies(server: RpcServer) -> None:
    assert await post(server, []) == (200, [])
    note = {"jsonrpc": "2.0", "method": "echo", "params": [1]}
    assert (await post(server, [note, note]))[0] == 204
    assert (await post(server, note))[0] == 204


async def test_batch_when_too_long_then_refused(server: RpcServer) -> None:
    status, reply = await post(server, [{"id": 1, "method": "amount"}] * 6)
    assert (status, reply["error"]["code"]) == (400, -32600)


async def test_amount_when_sent_then_eight_exact_decimals(server: RpcServer) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            server.url, json={"id": 1, "method": "amount"}, headers=cookie_headers(server)
        ) as response,
    ):
        assert '"result":0.00012345,' in await response.text()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Basic " + base64.b64encode(b"__cookie__:0000").decode()},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Bearer abc"},
        {"Authorization": "Basic"},
    ],
)
async def test_request_when_without_the_cookie_then_401(
    server: RpcServer, headers: dict[str, str]
) -> None:
    status, _ = await post(server, {"id": 1, "method": "amount"}, headers)
    assert status == 401


async def test_cookie_when_stopped_then_removed_and_mode_was_0600(tmp_path: Path) -> None:
    cookie = tmp_path / ".cookie"
    server = RpcServer(make_registry(), cookie)
    await server.start()
    assert stat.S_IMODE(cookie.stat().st_mode) == 0o600
    await server.stop()
    await server.stop()
    assert not cookie.exists()


async def test_body_when_oversize_then_413(server: RpcServer) -> None:
    status, _ = await post(server, {"id": 1, "method": "echo", "params": ["x" * 10_001]})
    assert status == 413


async def test_get_when_asked_then_405(server: RpcServer) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(server.url, headers=cookie_headers(server)) as response,
    ):
        assert response.status == 405


@pytest.mark.slow
async def test_handler_when_it_hangs_then_timed_out(server: RpcServer) -> None:
    _, reply = await post(server, {"id": 1, "method": "hang"})
    assert reply["error"]["code"] == -32603


async def test_handler_when_invariant_broken_then_owner_is_told(server: RpcServer) -> None:
    _, reply = await post(server, {"id": 1, "method": "broken"})
    assert reply["error"]["code"] == -1
    assert isinstance(server.faults[0], InvariantError)  # type: ignore[attr-defined]


@pytest.mark.slow
async def test_connection_when_silent_or_slow_then_closed(server: RpcServer) -> None:
    for start in (b"", b"POST / HTTP/1.1\r\nHost: x\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(start)
        async with asyncio.timeout(10):
            await reader.read()
        writer.close()
        await writer.wait_closed()


@pytest.mark.slow
async def test_body_when_it_never_ends_then_408(server: RpcServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    authorization = cookie_headers(server)["Authorization"]
    writer.write(
        f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\n"
        "Content-Length: 100\r\n\r\n{".encode()
    )
    async with asyncio.timeout(10):
        assert b" 408 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_connections_when_over_the_limit_then_refused(server: RpcServer) -> None:
    opened = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(8)]
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    async with asyncio.timeout(0.8):
        assert await reader.read() == b""
    for _, each in [*opened, (reader, writer)]:
        each.close()
        await each.wait_closed()


async def test_server_when_not_loopback_then_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="loopback"):
        RpcServer(make_registry(), tmp_path / "c", host="0.0.0.0")


def test_registry_when_name_taken_or_variable_parameters_then_refused() -> None:
    registry = make_registry()
    with pytest.raises(ValueError, match="twice"):
        registry.add("echo", len, "")
    with pytest.raises(ValueError, match="plain"):
        registry.add("many", lambda *values: values, "")
    assert registry.help().splitlines()[0] == "amount"
    assert registry.help("subtract").startswith("subtract minuend ( subtrahend )\n")


def test_json_when_decimal_then_exact_and_floats_refused() -> None:
    assert encode({"a": [coins(1), True, None, "é\n"]}) == (
        '{"a":[0.00000001,true,null,"\\u00e9\\n"]}'
    )
    with pytest.raises(TypeError):
        encode(0.5)
    with pytest.raises(TypeError):
        encode({1: 2})
    for text in ("NaN", "[Infinity]", "1" * 50, "[" * 70 + "]" * 70):
        with pytest.raises(ValueError):
            decode(text)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_json_when_hostile_then_value_error_only(data: bytes) -> None:
    try:
        value = decode(data)
    except ValueError:
        return
    assert decode(encode(value)) == value


@pytest.mark.parametrize(
    ("value", "amount"), [(Decimal("0.1"), 10_000_000), ("1", 10**8), (2, 2 * 10**8)]
)
def test_sats_when_exact_then_integer(value: Any, amount: int) -> None:
    assert sats(value) == amount


@pytest.mark.parametrize("value", [Decimal("0.000000001"), -1, True, "x", "NaN", None, 21_000_001])
def test_sats_when_not_an_amount_then_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        sats(value)
