"""The RPC server's connections: keep-alive, refusals, addresses, logins."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from sidechain.api.http import Limits, Login, Registry, RpcServer, SaltedLogin

BODY = b'{"id":1,"method":"echo","params":["%s"]}'
LOGIN = Login(user="u", password="p")


def make_server(cookie: Path | None = None, **options: Any) -> RpcServer:
    registry = Registry()
    registry.add("echo", lambda value: value, "Echo.")
    return RpcServer(registry, cookie, logins=[LOGIN], **options)


def request(
    body: bytes, *extra: str, path: str = "/", login: str = "u:p", method: str = "POST"
) -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: x",
        f"Authorization: Basic {base64.b64encode(login.encode()).decode()}",
        f"Content-Length: {len(body)}",
        *extra,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Talk:
    """One connection, with time-outs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, server: RpcServer) -> "Talk":
        return cls(*await asyncio.open_connection(*server.addresses[0]))

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def reply(self) -> tuple[int, bytes]:
        async with asyncio.timeout(10):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = 0
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            return int(head.split(b" ")[1]), await self._reader.readexactly(length)

    async def is_over(self) -> bool:
        async with asyncio.timeout(10):
            return await self._reader.read() == b""

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def test_connection_when_requests_are_pipelined_then_answered_in_order() -> None:
    server = make_server()
    await server.start()
    talk = await Talk.to(server)
    talk.send(b"".join(request(BODY % text) for text in (b"a", b"b", b"c")))
    replies = [await talk.reply() for _ in range(3)]
    assert replies == [
        (200, b'{"result":"%s","error":null,"id":1}\n' % text) for text in (b"a", b"b", b"c")
    ]
    talk.send(request(BODY % b"last", "Connection: close"))
    assert (await talk.reply())[0] == 200
    assert await talk.is_over()
    await talk.close()
    await server.stop()


async def test_request_when_split_anywhere_then_answered() -> None:
    server = make_server()
    await server.start()
    talk = await Talk.to(server)
    data = request(BODY % b"x")
    for cut in range(0, len(data), 7):
        talk.send(data[:cut])
        await asyncio.sleep(0)
        talk.send(data[cut:])
        assert (await talk.reply())[0] == 200
    await talk.close()
    await server.stop()


async def test_body_when_chunked_or_announced_then_read() -> None:
    server = make_server()
    await server.start()
    talk = await Talk.to(server)
    body = BODY % b"x"
    chunked = request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    talk.send(chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    assert (await talk.reply())[0] == 200
    whole = request(body, "Expect: 100-continue")
    talk.send(whole[: -len(body)])
    assert (await talk.reply())[0] == 100
    talk.send(body)
    assert (await talk.reply())[0] == 200
    await talk.close()
    await server.stop()


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"path": "/wallet/any"}, 200),
        ({"path": "/other"}, 404),
        ({"login": "u:wrong"}, 401),
        ({"method": "PUT"}, 405),
    ],
)
async def test_request_when_refused_then_the_connection_goes_on(
    changes: dict[str, str], status: int
) -> None:
    server = make_server()
    await server.start()
    talk = await Talk.to(server)
    talk.send(request(BODY % (b"x" * 200_000), **changes) + request(BODY % b"y"))
    assert (await talk.reply())[0] == status
    assert (await talk.reply())[0] == 200
    await talk.close()
    await server.stop()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(b"12345", "Expect: 100-continue", login="u:wrong")[:-5], 401),
        (request(b"").replace(b"Content-Length: 0", b"Content-Length: 99999999"), 413),
        (b"nonsense\r\n\r\n", 400),
        (b"x" * 200_000, 431),
    ],
)
async def test_request_when_it_cannot_be_read_then_said_before_the_end(
    data: bytes, status: int
) -> None:
    server = make_server(limits=Limits(body_bytes=1_000))
    await server.start()
    talk = await Talk.to(server)
    talk.send(data)
    assert (await talk.reply())[0] == status
    assert await talk.is_over()
    await talk.close()
    await server.stop()


async def test_login_when_there_is_no_cookie_then_only_the_given_ones(tmp_path: Path) -> None:
    server = make_server(tmp_path / ".cookie")
    await server.start()
    for login in ("u:p", (tmp_path / ".cookie").read_text()):
        talk = await Talk.to(server)
        talk.send(request(BODY % b"x", login=login))
        assert (await talk.reply())[0] == 200
        await talk.close()
    await server.stop()


async def test_server_when_several_addresses_then_listens_on_those_it_has() -> None:
    server = make_server(host="127.0.0.1", also_listen=[("127.0.0.2", 0)])
    await server.start()
    assert [host for host, _ in server.addresses] == ["127.0.0.1", "127.0.0.2"]
    taken = server.addresses[1]
    other = make_server(also_listen=[taken])
    await other.start()
    assert len(other.addresses) == 1
    await other.stop()
    await server.stop()
    with pytest.raises(RuntimeError):
        _ = server.port


async def test_server_when_told_whom_to_allow_then_it_may_listen_everywhere() -> None:
    for wrong in ({"allow": ["1.2.3.4/40"]}, {"host": "not an address"}, {"host": "0.0.0.0"}):
        with pytest.raises(ValueError):
            make_server(**wrong)
    server = make_server(host="0.0.0.0", allow=["10.0.0.0/255.0.0.0", "1.2.3.4"])
    await server.start()
    talk = Talk(*await asyncio.open_connection("127.0.0.1", server.port))
    talk.send(request(BODY % b"x"))
    assert (await talk.reply())[0] == 200
    await talk.close()
    await server.stop()


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        ("127.9.9.9", True),
        ("::1", True),
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("fe80::1%eth0", False),
        ("11.0.0.1", False),
        ("", False),
    ],
)
async def test_peer_when_outside_then_only_if_allowed(peer: str, allowed: bool) -> None:
    server = make_server(host="0.0.0.0", allow=["10.0.0.0/8"])

    class Writer:
        def get_extra_info(self, name: str) -> tuple[str, int] | None:
            return (peer, 1) if peer else None

    class Connection:
        writer = Writer()

    assert server._may_connect(Connection()) is allowed  # type: ignore[arg-type]


async def test_stop_when_clients_are_connected_then_they_see_the_end() -> None:
    server = make_server()
    await server.start()
    talks = [await Talk.to(server) for _ in range(3)]
    talks[0].send(b"POST / HT")
    talks[1].send(request(BODY % b"x"))
    assert (await talks[1].reply())[0] == 200
    await server.stop()
    for talk in talks:
        assert await talk.is_over()
        await talk.close()


def test_rpcauth_when_parsed_then_fits_the_server() -> None:
    entry = SaltedLogin.parse("user:salt$" + "00" * 32)
    assert RpcServer(Registry(), None, logins=[entry, LOGIN])
