"""Strangers, garbage and a lying member at the doors of a live federation."""

import json
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from federation.founding import make_certificate
from tests.e2e.local import Local
from tests.e2e.rpc import Rpc, authorization
from tests.e2e.waiting import wait_for

pytestmark = pytest.mark.e2e

UP = ("--block-time", "0")
ALPN = "fedpeg/1"
HELLO, VOTE, PROPOSAL, UNKNOWN = 14, 1, 2, 99
HELLO_BYTES = 121
DEADLINE_S = 20
SILENT_CONNECTIONS = 40
OVERSIZE_BYTES = 11_000_000


@pytest.fixture
def quiet(local: Local) -> Iterator[Local]:
    """The federation; at the end of the test it must still work, and nobody is blamed for it."""
    local.make_wallets("alice")
    if local.available("alice") < 1_000_000:
        local.fund("alice", "0.5")
    yield local
    local.pay("alice", "alice", "0.001")
    local.up()
    for name in local.names:
        local.wait_mode(name, "VOTING")
        info = local.member(name).call("getfederationinfo")
        assert info["evidence"] == 0 and info["alarms"] == [], info
        wait_for(lambda name=name: is_fully_linked(local, name), f"{name} is linked to all")


def is_fully_linked(local: Local, name: str) -> bool:
    """Whether a member has a link to every other one; a link that was cut is dialed again."""
    members = local.member(name).call("getfederationinfo")["members"]
    return all(member["connected"] for member in members)


def port_of(local: Local, name: str) -> int:
    """Where other members reach this one."""
    ports = {member["name"]: int(member["port"]) for member in local.state["members"]}
    return ports[name]


def refused(local: Local, name: str) -> int:
    """How many connections a member has sent away."""
    return int(local.member(name).call("getfederationinfo")["refused_connections"])


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side ends the connection without a single byte; waits for it."""
    connection.settimeout(DEADLINE_S)
    try:
        return connection.recv(1) == b""
    except (ssl.SSLError, ConnectionError):
        return True


def dial(
    port: int, keys: Path | None = None, *, alpn: str = ALPN, newest: bool = True
) -> ssl.SSLSocket:
    """A TLS connection, with the certificate in a folder of keys if one is given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    if not newest:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if keys is not None:
        context.load_cert_chain(keys / "tls.crt", keys / "tls.key")
    plain = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
    try:
        return context.wrap_socket(plain)
    except BaseException:
        plain.close()
        raise


def frame(kind: int, body: bytes, length: int | None = None) -> bytes:
    """A frame, with another length than its own if one is given."""
    size = len(body) if length is None else length
    return size.to_bytes(4, "little") + bytes((kind,)) + body


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A folder with a key and a certificate that nobody has pinned."""
    certificate, key = make_certificate("m0", os.urandom, int(time.time()))
    (tmp_path / "tls.crt").write_bytes(certificate)
    (tmp_path / "tls.key").write_bytes(key)
    return tmp_path


def test_stranger_when_it_dials_a_member_is_sent_away_before_a_word(
    quiet: Local, stranger: Path
) -> None:
    for name in quiet.names:
        before = refused(quiet, name)
        port = port_of(quiet, name)
        # A member that does not dial this one is as strange here as anybody.
        not_dialing = quiet.folder("m3") / "keys"
        for keys in (stranger, None, not_dialing):
            try:
                with dial(port, keys) as connection:
                    connection.sendall(frame(HELLO, bytes(HELLO_BYTES)))
                    assert is_closed(connection)
            except (ssl.SSLError, ConnectionError):
                pass
        for options in ({"alpn": "http/1.1"}, {"newest": False}):
            try:
                with dial(port, quiet.folder("m0") / "keys", **options) as connection:
                    assert is_closed(connection)
            except (ssl.SSLError, ConnectionError):
                pass
        wait_for(lambda n=name, b=before: refused(quiet, n) > b, f"{name} counts the refusals")


def test_garbage_when_sent_to_a_member_port_changes_nothing(quiet: Local) -> None:
    with ExitStack() as stack:
        for name in quiet.names:
            address = ("127.0.0.1", port_of(quiet, name))
            for junk in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(20_000), b"\x16\x03\x01\xff\xff"):
                with socket.create_connection(address, DEADLINE_S) as connection:
                    try:
                        connection.sendall(junk)
                        connection.shutdown(socket.SHUT_WR)
                    except ConnectionError:
                        continue
            for _ in range(SILENT_CONNECTIONS):
                stack.enter_context(socket.create_connection(address, DEADLINE_S))
        quiet.pay("alice", "alice", "0.001")  # while the silent ones wait


def test_member_when_it_sends_garbage_in_its_own_name_is_cut_off_and_the_others_go_on(
    quiet: Local,
) -> None:
    keys = quiet.folder("m0") / "keys"
    quiet.kill("m0")
    for attack in (
        frame(HELLO, b"", 2**32 - 1),
        frame(HELLO, bytes(HELLO_BYTES)),
        frame(UNKNOWN, b"?"),
        frame(VOTE, bytes(110)),
        os.urandom(5_000),
    ):
        for name in ("m1", "m2", "m3"):
            with dial(port_of(quiet, name), keys) as connection:
                connection.sendall(attack)
                _drain(connection)
    hello = _hello_of(quiet, "m1", keys)
    for attack in (
        frame(VOTE, os.urandom(110)) * 100,
        frame(PROPOSAL, os.urandom(2_000)),
        frame(PROPOSAL, b"", 100_000_000),
        frame(HELLO, hello),
        frame(20, os.urandom(3_000)),
        frame(17, os.urandom(3_000)),
    ):
        with dial(port_of(quiet, "m1"), keys) as connection:
            connection.sendall(frame(HELLO, hello) + attack)
            quiet.pay("alice", "alice", "0.001")
    _check_banned(quiet, keys)


def _check_banned(local: Local, keys: Path) -> None:
    """m1 keeps m0 out for a while, and the true m0 takes part through the others."""
    with dial(port_of(local, "m1"), keys) as connection:
        assert is_closed(connection)
    local.start("m0")
    local.wait_mode("m0", "VOTING")
    links = {m["name"]: m for m in local.member("m1").call("getfederationinfo")["members"]}
    assert not links["m0"]["connected"]
    local.pay("alice", "alice", "0.001")
    local.kill("m1")  # forgets the ban, so that all are linked again at the end


def _hello_of(local: Local, name: str, keys: Path) -> bytes:
    """A greeting that passes, made of the one a member sends and the block key of m0."""
    with dial(port_of(local, name), keys) as connection:
        connection.settimeout(DEADLINE_S)
        data = b""
        while len(data) < 5 + HELLO_BYTES:
            more = connection.recv(4_096)
            assert more, "hung up before it said hello"
            data += more
    federation = json.loads((local.data / "federation.json").read_text())
    theirs = data[5 : 5 + HELLO_BYTES]
    key = bytes.fromhex(federation["members"][0]["block_key"])
    return theirs[:68] + key + theirs[101:]


def _drain(connection: ssl.SSLSocket) -> None:
    """Read until the other side hangs up."""
    connection.settimeout(DEADLINE_S)
    try:
        while connection.recv(65_536):
            pass
    except (ssl.SSLError, ConnectionError):
        return


def test_rpc_when_the_cookie_is_missing_or_wrong_answers_401(quiet: Local) -> None:
    call = json.dumps({"method": "getblockcount", "params": [], "id": 1}).encode()
    stop = json.dumps({"method": "stop", "params": [], "id": 1}).encode()
    for rpc in _servers(quiet):
        secret = rpc.cookie.read_bytes().strip()
        assert oct(rpc.cookie.stat().st_mode)[-3:] == "600"
        for wrong in (b"__cookie__:", b"__cookie__:" + b"0" * 64, secret[:-1], b"", b"a:b"):
            assert rpc.post(stop, authorization(wrong)).status == 401
        assert rpc.post(stop).status == 401
        assert rpc.post(stop, {"Authorization": "Basic ????"}).status == 401
        assert rpc.post(call, authorization(secret)).status in (200, 404)
    other = authorization(quiet.member("m1").cookie.read_bytes().strip())
    assert quiet.member("m0").post(call, other).status == 401


def test_rpc_when_the_body_is_oversize_or_no_json_refuses_and_goes_on(quiet: Local) -> None:
    for rpc in _servers(quiet):
        secret = authorization(rpc.cookie.read_bytes().strip())
        assert _status(rpc, b" " * OVERSIZE_BYTES, secret) == 413
        assert _status(rpc, b" " * OVERSIZE_BYTES, {}) == 401
        for body in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b'"text"', b"{}"):
            assert rpc.post(body, secret).status in (400, 500), body[:10]
        assert rpc.answers()


def _status(rpc: Rpc, body: bytes, headers: dict[str, str]) -> int:
    """The status of a request whose body the server may not care to read to its end."""
    try:
        return rpc.post(body, headers).status
    except ConnectionError:
        # It hung up while we were still sending: ask again for what it said, with the length only.
        request = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        request += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        with socket.create_connection(("127.0.0.1", rpc.port), DEADLINE_S) as connection:
            connection.sendall(request.encode() + b"\r\n")
            return int(connection.recv(4_096).split()[1])


def _servers(local: Local) -> list[Rpc]:
    return [*(local.member(name) for name in local.names), local.wallets]
