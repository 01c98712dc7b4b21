"""Links over real TLS sockets: friends, strangers and hostile bytes (N15, consensus:C95-C97)."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federation import tls
from federation.consensus.encoding import FRAME_LIMITS_BYTES, FrameKind
from federation.founding import make_certificate
from federation.frames import FrameDecoder, Hello, encode_frame
from federation.link import LinkOptions
from federation.peers import PeerIdentity, PeerMember, PeerNetwork
from tests.federation.founded import NOW_UNIX_S, entropy_of, found, member_folder

OPTIONS = LinkOptions(backoff_min_ms=10, backoff_max_ms=50, shutdown_timeout_ms=200)
STATUS = FrameKind.STATUS


class Lines:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def info(self, event: str, **facts: object) -> None:
        self.lines.append(("info", event, facts))

    def warning(self, event: str, **facts: object) -> None:
        self.lines.append(("warning", event, facts))

    def error(self, event: str, **facts: object) -> None:
        self.lines.append(("error", event, facts))

    def events(self) -> list[str]:
        return [event for _, event, _ in self.lines]


class WatchedNetwork(PeerNetwork):
    """Tells the test about refusals, which nobody else needs to be told."""

    on_refusal: Callable[[], None]

    def _refuse(self, reason: str, member: int | None = None) -> None:
        super()._refuse(reason, member)
        self.on_refusal()


class Node:
    """One member's network with everything it heard."""

    def __init__(self, home: "Federation", index: int, options: LinkOptions, **hello: Any) -> None:
        self.index = index
        self.log = Lines()
        self.heard: asyncio.Queue[tuple[int, int, bytes]] = asyncio.Queue(1_000)
        self.changed = asyncio.Event()
        self.changes: list[tuple[int, bool]] = []
        folder = member_folder(home.folder, index)
        self.network = self.make_network(
            identity=PeerIdentity(
                index=index,
                certificate=folder.certificate,
                key=folder.tls_key,
                listen_host="127.0.0.1",
                listen_port=0,
            ),
            members=home.members,
            hello=lambda: replace(home.hello(index), **hello),
            limits=FRAME_LIMITS_BYTES,
            on_frame=lambda *frame: self.heard.put_nowait(frame),
            on_link=self._on_link,
            log=self.log,
            options=options,
        )

        self.network.on_refusal = self.changed.set

    def make_network(self, **parts: Any) -> WatchedNetwork:
        return WatchedNetwork(**parts)

    def _on_link(self, member: int, connected: bool) -> None:
        self.changes.append((member, connected))
        self.changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for a link change or refusal after which `holds`."""
        async with asyncio.timeout(20):
            while not holds():
                self.changed.clear()
                await self.changed.wait()

    async def next_frame(self) -> tuple[int, int, bytes]:
        async with asyncio.timeout(20):
            return await self.heard.get()


class Federation:
    """A founded federation whose members are started by a test."""

    def __init__(
        self, folder: Path, group: asyncio.TaskGroup, unix_time_s: int = NOW_UNIX_S
    ) -> None:
        self.folder = folder
        self.group = group
        self.file = found(folder, unix_time_s=unix_time_s)
        self.members = [
            PeerMember(
                index=m.index,
                host=m.host,
                port=1,
                certificate_pem=m.certificate_pem,
                block_key=m.block_key,
            )
            for m in self.file.members
        ]
        self.nodes: list[Node] = []

    def hello(self, index: int) -> Hello:
        return Hello(
            protocol_version=1,
            genesis=b"\x01" * 32,
            parameter_hash=self.file.parameter_hash(),
            block_key=self.members[index].block_key,
            tip_height=0,
            block_interval_ms=1_000,
            timeout_base_ms=500,
            timeout_cap_ms=10_000,
            future_limit_s=30,
        )

    async def start(
        self,
        index: int,
        options: LinkOptions = OPTIONS,
        node_class: type[Node] = Node,
        **hello: Any,
    ) -> Node:
        node = node_class(self, index, options, **hello)
        await node.network.run(self.group)
        # Those that start later, with lower indexes, dial this port.
        self.members[index] = replace(self.members[index], port=node.network.port)
        self.nodes.append(node)
        return node

    def context(self, index: int, peer: int) -> ssl.SSLContext:
        folder = member_folder(self.folder, index)
        pinned = tls.certificate_der(self.members[peer].certificate_pem)
        return tls.dialing_context(folder.certificate, folder.tls_key, pinned)


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """Runs a test body inside one task group and closes every network after it."""

    async def body_in_group(body: Callable[[Federation], Awaitable[None]]) -> None:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            home = Federation(tmp_path, group)
            try:
                await body(home)
            finally:
                for node in home.nodes:
                    await node.network.close()

    yield body_in_group


@contextlib.asynccontextmanager
async def raw_link(
    node: Node, context: ssl.SSLContext | None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a member's port that the test drives by hand."""
    arguments: dict[str, Any] = {"ssl": context, "server_hostname": ""} if context else {}
    reader, writer = await asyncio.open_connection("127.0.0.1", node.network.port, **arguments)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def is_hung_up(reader: asyncio.StreamReader) -> bytes:
    """Wait until the other side has closed; return what it said before."""
    async with asyncio.timeout(20):
        try:
            return await reader.read(-1)
        except OSError:
            return b""


def frame(kind: int, body: bytes) -> bytes:
    return encode_frame(kind, body, FRAME_LIMITS_BYTES)


async def test_members_when_started_then_all_linked_and_frames_arrive(run: Any) -> None:
    async def body(home: Federation) -> None:
        for index in (3, 2, 1, 0):
            await home.start(index)
        for node in home.nodes:
            others = frozenset(range(4)) - {node.index}
            await node.until(lambda n=node, o=others: n.network.connected == o)
        nodes = {node.index: node for node in home.nodes}
        nodes[2].network.broadcast(STATUS, b"hello all")
        for index in (0, 1, 3):
            assert await nodes[index].next_frame() == (2, STATUS, b"hello all")
        block = bytes(range(256)) * 16_000
        assert nodes[0].network.send(3, FrameKind.FINAL, block)
        assert nodes[0].network.send(3, FrameKind.GET_BLOCK, b"after")
        assert await nodes[3].next_frame() == (0, FrameKind.FINAL, block)
        assert await nodes[3].next_frame() == (0, FrameKind.GET_BLOCK, b"after")
        status = {link.member: link for link in nodes[3].network.status()}
        assert status[0].connected and status[0].received_bytes > len(block)
        assert status[0].received_frames == 3
        assert nodes[3].network.refused_connections == 0

    await run(body)


async def test_member_when_restarted_then_linked_again(run: Any) -> None:
    async def body(home: Federation) -> None:
        high = await home.start(1)
        low = await home.start(0)
        await low.until(lambda: low.network.connected == {1})
        await low.network.close()
        await high.until(lambda: not high.network.connected)
        again = await home.start(0)
        await again.until(lambda: again.network.connected == {1})
        assert again.network.send(1, STATUS, b"back")
        assert await high.next_frame() == (0, STATUS, b"back")

    await run(body)


async def test_second_link_when_it_comes_then_replaces_the_first(run: Any) -> None:
    async def body(home: Federation) -> None:
        node = await home.start(1)
        async with raw_link(node, home.context(0, 1)) as (first, first_writer):
            first_writer.write(frame(14, home.hello(0).encode()))
            await node.until(lambda: node.network.connected == {0})
            async with raw_link(node, home.context(0, 1)) as (_, writer):
                writer.write(frame(14, home.hello(0).encode()) + frame(STATUS, b"new"))
                assert await node.next_frame() == (0, STATUS, b"new")
                await is_hung_up(first)
                assert node.network.connected == {0}
                assert (0, False) not in node.changes

    await run(body)


async def refused_handshake(node: Node, context: ssl.SSLContext | None, said: bytes) -> None:
    """Try to speak; whatever happens, the node must have heard nothing and said nothing."""
    before = node.network.refused_connections
    heard = b""
    try:
        async with raw_link(node, context) as (reader, writer):
            writer.write(said)
            heard = await is_hung_up(reader)
    except OSError:
        pass
    await node.until(lambda: node.network.refused_connections > before)
    assert heard == b"" or context is None  # plain TCP gets a TLS alert
    assert node.heard.empty()
    assert node.network.connected == frozenset()


def issued_by_member(home: Federation, index: int, target: Path, key_file: Path) -> None:
    """A certificate that a member's key signed: a pinned certificate is no authority."""
    folder = member_folder(home.folder, index)
    issuer = x509.load_pem_x509_certificate(folder.certificate.read_bytes())
    issuer_key = serialization.load_pem_private_key(folder.tls_key.read_bytes(), None)
    key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issued")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())  # type: ignore[arg-type]
        .serial_number(7)
        .not_valid_before(issuer.not_valid_before_utc)
        .not_valid_after(issuer.not_valid_after_utc)
        .sign(issuer_key, hashes.SHA256())
    )
    chain = certificate.public_bytes(serialization.Encoding.PEM)
    target.write_bytes(chain + folder.certificate.read_bytes())


async def test_strangers_when_they_connect_then_refused_in_the_handshake(
    run: Any, tmp_path: Path
) -> None:
    certificate, key = make_certificate("m0.fedpeg-test", entropy_of("stranger"), NOW_UNIX_S)
    (tmp_path / "stranger.crt").write_bytes(certificate)
    (tmp_path / "stranger.key").write_bytes(key)

    async def body(home: Federation) -> None:
        node = await home.start(1)
        pinned = tls.certificate_der(home.members[1].certificate_pem)
        hello = frame(14, home.hello(0).encode())
        stranger = tls.dialing_context(tmp_path / "stranger.crt", tmp_path / "stranger.key", pinned)
        await refused_handshake(node, stranger, hello)
        # A member, but one that the lower index has to dial.
        await refused_handshake(node, home.context(2, 1), hello)
        # Itself.
        await refused_handshake(node, home.context(1, 1), hello)
        nothing = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        nothing.check_hostname, nothing.verify_mode = False, ssl.CERT_NONE
        nothing.set_alpn_protocols([tls.ALPN_PROTOCOL])
        await refused_handshake(node, nothing, hello)
        await refused_handshake(node, None, hello)
        await refused_handshake(node, None, b"GET / HTTP/1.1\r\n\r\n")
        issued_by_member(home, 0, tmp_path / "issued.crt", tmp_path / "stranger.key")
        issued = tls.dialing_context(tmp_path / "issued.crt", tmp_path / "stranger.key", pinned)
        await refused_handshake(node, issued, hello)

    await run(body)


async def test_tls_when_older_or_without_our_protocol_then_refused(run: Any) -> None:
    async def body(home: Federation) -> None:
        node = await home.start(1)
        hello = frame(14, home.hello(0).encode())
        folder = member_folder(home.folder, 0)
        for version, protocols in (
            (ssl.TLSVersion.TLSv1_2, [tls.ALPN_PROTOCOL]),
            (ssl.TLSVersion.TLSv1_3, ["http/1.1"]),
            (ssl.TLSVersion.TLSv1_3, []),
        ):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.maximum_version = version
            context.load_cert_chain(folder.certificate, folder.tls_key)
            if protocols:
                context.set_alpn_protocols(protocols)
            await refused_handshake(node, context, hello)

    await run(body)


async def test_dialed_member_when_it_shows_another_certificate_then_nothing_is_said(
    run: Any,
) -> None:
    async def body(home: Federation) -> None:
        # Member 2's process listens where member 1 should be.
        wrong = await home.start(2)
        home.members[1] = replace(home.members[1], port=wrong.network.port)
        home.members[2] = replace(home.members[2], port=1)
        home.members[3] = replace(home.members[3], port=1)
        node = await home.start(0)
        await node.until(lambda: node.network.refused_connections > 0)
        assert node.network.connected == frozenset()
        assert wrong.network.connected == frozenset() and wrong.heard.empty()
        reasons = {link.member: link.last_end for link in node.network.status()}
        assert reasons[1] == "certificate is not pinned"

    await run(body)


async def test_hello_when_parameters_differ_then_alarm_on_both_sides(run: Any) -> None:
    async def body(home: Federation) -> None:
        high = await home.start(1, parameter_hash=b"\x09" * 32)
        low = await home.start(0)
        await high.until(lambda: high.network.parameter_mismatches == {0})
        await low.until(lambda: low.network.parameter_mismatches == {1})
        for node in (high, low):
            assert "parameter mismatch" in node.log.events()
            assert node.network.connected == frozenset()

    await run(body)


@pytest.mark.parametrize(
    "field",
    [{"genesis": b"\x09" * 32}, {"block_key": b"\x02" * 33}, {"protocol_version": 2}],
)
async def test_hello_when_of_another_kind_then_refused(run: Any, field: dict[str, Any]) -> None:
    async def body(home: Federation) -> None:
        node = await home.start(1)
        async with raw_link(node, home.context(0, 1)) as (reader, writer):
            writer.write(frame(14, replace(home.hello(0), **field).encode()))
            await is_hung_up(reader)
        assert node.network.connected == frozenset() and node.changes == []

    await run(body)


async def test_hello_when_advice_differs_then_warning_and_link(run: Any) -> None:
    async def body(home: Federation) -> None:
        high = await home.start(1)
        low = await home.start(0, block_interval_ms=5)
        await high.until(lambda: high.network.connected == {0})
        await low.until(lambda: low.network.connected == {1})
        assert "peer_setting_differs" in high.log.events()

    await run(body)


HOSTILE_STARTS = {
    "no hello first": frame(STATUS, b"x"),
    "garbage": bytes(range(256)) * 4,
    "oversize hello": b"\xff\xff\xff\x7f\x0e",
    "short hello": frame(14, b"x" * 120),
    "empty hello": frame(14, b""),
}


@pytest.mark.parametrize("said", HOSTILE_STARTS.values(), ids=HOSTILE_STARTS.keys())
async def test_member_when_it_begins_with_nonsense_then_hung_up(run: Any, said: bytes) -> None:
    async def body(home: Federation) -> None:
        node = await home.start(1)
        async with raw_link(node, home.context(0, 1)) as (reader, writer):
            writer.write(said)
            await is_hung_up(reader)
        assert node.heard.empty() and node.changes == []

    await run(body)


HOSTILE_FRAMES = {
    "unknown kind": b"\0\0\0\0\x18",
    "kind zero": b"\0\0\0\0\0",
    "oversize": (4_100_001).to_bytes(4, "little") + b"\x09",
    "one above": (111).to_bytes(4, "little") + b"\x01",
    "second hello": frame(14, b"x" * 121),
}


@pytest.mark.parametrize("said", HOSTILE_FRAMES.values(), ids=HOSTILE_FRAMES.keys())
async def test_member_when_it_sends_no_frame_then_hung_up_and_others_stay(
    run: Any, said: bytes
) -> None:
    async def body(home: Federation) -> None:
        node = await home.start(2)
        friend = await home.start(1)
        await node.until(lambda: node.network.connected == {1})
        async with raw_link(node, home.context(0, 2)) as (reader, writer):
            writer.write(frame(14, home.hello(0).encode()) + frame(STATUS, b"ok"))
            assert await node.next_frame() == (0, STATUS, b"ok")
            writer.write(said)
            await is_hung_up(reader)
        await node.until(lambda: node.network.connected == {1})
        assert "frame_fault" in node.log.events()
        friend.network.send(2, STATUS, b"still here")
        assert await node.next_frame() == (1, STATUS, b"still here")

    await run(body)


async def test_member_when_it_goes_on_sending_nonsense_then_banned(run: Any) -> None:
    async def body(home: Federation) -> None:
        node = await home.start(1)
        for _ in range(6):
            async with raw_link(node, home.context(0, 1)) as (reader, writer):
                writer.write(frame(14, home.hello(0).encode()) + b"\0\0\0\0\0")
                await is_hung_up(reader)
        assert "peer_banned" in node.log.events()
        (status,) = [s for s in node.network.status() if s.member == 0]
        assert 50_000 < status.ban_remaining_ms <= 60_000
        async with raw_link(node, home.context(0, 1)) as (reader, _):
            assert await is_hung_up(reader) == b""

    await run(body)


async def test_signatures_when_they_fail_then_banned(run: Any) -> None:
    async def body(home: Federation) -> None:
        node = await home.start(1)
        await home.start(0)
        await node.until(lambda: node.network.connected == {0})
        node.network.charge_signatures(0, checked=500, failed=4)
        assert node.network.connected == {0}
        node.network.charge_signatures(0, failed=7)
        await node.until(lambda: not node.network.connected)
        (status,) = [s for s in node.network.status() if s.member == 0]
        assert status.ban_remaining_ms > 0

    await run(body)


@pytest.mark.parametrize(
    ("options", "said", "reason"),
    [
        (replace(OPTIONS, frame_timeout_ms=150), b"\x10\0\0\0\x06half", "slow frame"),
        (replace(OPTIONS, frame_timeout_ms=150), b"\x10\0", "slow frame"),
        (replace(OPTIONS, idle_timeout_ms=150), b"", "silent"),
    ],
)
async def test_member_when_slow_or_silent_then_hung_up(
    run: Any, options: LinkOptions, said: bytes, reason: str
) -> None:
    async def body(home: Federation) -> None:
        node = await home.start(1, options)
        async with raw_link(node, home.context(0, 1)) as (reader, writer):
            writer.write(frame(14, home.hello(0).encode()) + said)
            await node.until(lambda: node.network.connected == {0})
            await is_hung_up(reader)
        await node.until(lambda: not node.network.connected)
        (status,) = [s for s in node.network.status() if s.member == 0]
        assert status.last_end == reason

    await run(body)


async def test_frame_when_dripped_byte_by_byte_then_slow_in_spite_of_it(run: Any) -> None:
    async def body(home: Federation) -> None:
        node = await home.start(1, replace(OPTIONS, frame_timeout_ms=200))
        async with raw_link(node, home.context(0, 1)) as (reader, writer):
            writer.write(frame(14, home.hello(0).encode()) + b"\xc8\0\0\0\x06")
            closed = asyncio.ensure_future(is_hung_up(reader))
            while not closed.done():
                writer.write(b"x")
                await asyncio.wait([closed], timeout=0.02)
        await node.until(lambda: not node.network.connected)
        (status,) = [s for s in node.network.status() if s.member == 0]
        assert status.last_end == "slow frame"

    await run(body)


async def test_connection_when_it_never_says_hello_then_closed_in_time(run: Any) -> None:
    options = replace(OPTIONS, hello_timeout_ms=100, handshake_timeout_ms=100)

    async def body(home: Federation) -> None:
        node = await home.start(1, options)
        async with raw_link(node, home.context(0, 1)) as (reader, _):
            decoder = FrameDecoder(FRAME_LIMITS_BYTES)
            frames = decoder.feed(await is_hung_up(reader))
            assert [kind for kind, _ in frames] == [14]
        async with raw_link(node, None) as (reader, _):
            await is_hung_up(reader)
        assert node.network.refused_connections == 2

    await run(body)


async def test_connections_when_too_many_wait_then_the_oldest_goes(run: Any) -> None:
    async def body(home: Federation) -> None:
        node = await home.start(1, replace(OPTIONS, handshakes_max=4))
        async with contextlib.AsyncExitStack() as stack:
            idle = [await stack.enter_async_context(raw_link(node, None)) for _ in range(4)]
            await home.start(0)
            await node.until(lambda: node.network.connected == {0})
            await is_hung_up(idle[0][0])
            for _ in range(30):
                await stack.enter_async_context(raw_link(node, None))
            await node.until(lambda: node.network.refused_connections > 0)
            assert len(node.network._greeting) <= 5
            home.nodes[-1].network.send(1, STATUS, b"still served")
            assert await node.next_frame() == (0, STATUS, b"still served")

    await run(body)


async def test_queue_when_peer_does_not_read_then_only_that_link_ends(run: Any) -> None:
    """C97: the queue is bounded; status exchange heals what was lost."""

    async def body(home: Federation) -> None:
        node = await home.start(1)
        async with raw_link(node, home.context(0, 1)) as (_, writer):
            writer.write(frame(14, home.hello(0).encode()))
            await node.until(lambda: node.network.connected == {0})
            assert node.network.room_bytes(0) == 8 * 1024 * 1024
            sent = 0
            while node.network.send(0, FrameKind.FINAL, bytes(1_000_000)):
                sent += 1
                await asyncio.sleep(0)
                assert sent < 100
            assert not node.network.send(0, STATUS, b"")
            await node.until(lambda: not node.network.connected)
        (status,) = [s for s in node.network.status() if s.member == 0]
        assert status.last_end == "send queue full"

    await run(body)


async def test_room_when_many_frames_wait_then_none_for_those_who_ask(run: Any) -> None:
    """Transactions leave the second half of the line to agreement."""

    async def body(home: Federation) -> None:
        node = await home.start(1, replace(OPTIONS, send_queue_frames=10))
        async with raw_link(node, home.context(0, 1)) as (_, writer):
            writer.write(frame(14, home.hello(0).encode()))
            await node.until(lambda: node.network.connected == {0})
            for _ in range(5):
                assert node.network.room_bytes(0) > 0
                assert node.network.send(0, STATUS, b"")
            assert node.network.room_bytes(0) == 0
            assert node.network.send(0, STATUS, b"")

    await run(body)


async def test_inbox_when_full_then_the_peer_is_dropped(run: Any) -> None:
    async def body(home: Federation) -> None:
        node = await home.start(1)
        node.heard = asyncio.Queue(2)
        async with raw_link(node, home.context(0, 1)) as (reader, writer):
            writer.write(frame(14, home.hello(0).encode()) + frame(STATUS, b"") * 3)
            await is_hung_up(reader)
        await node.until(lambda: not node.network.connected)
        (status,) = [s for s in node.network.status() if s.member == 0]
        assert status.last_end == "inbox full"

    await run(body)


async def test_inbox_when_it_has_no_room_then_no_more_is_read_and_the_link_stays(
    run: Any,
) -> None:
    """C96: a member that sends faster than it is served waits; it is not dropped."""

    async def body(home: Federation) -> None:
        receiver, sender = await home.start(1), await home.start(0)
        room, asked = asyncio.Event(), asyncio.Event()

        async def wait_for_room(member: int) -> None:
            assert member == 0
            asked.set()
            await room.wait()

        receiver.network._wait_for_room = wait_for_room
        await sender.until(lambda: sender.network.connected == {1})
        await receiver.until(lambda: receiver.network.connected == {0})
        sender.network.send(1, STATUS, b"first")
        assert await receiver.next_frame() == (0, STATUS, b"first")
        await asked.wait()
        sender.network.send(1, STATUS, b"second")
        assert receiver.heard.empty()
        room.set()
        assert await receiver.next_frame() == (0, STATUS, b"second")
        assert receiver.network.connected == {0}

    await run(body)


async def test_callback_when_it_breaks_then_the_group_ends(tmp_path: Path) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            home = Federation(tmp_path, group)
            node = await home.start(1)

            def broken(*_: object) -> None:
                raise RuntimeError("our bug")

            node.network._on_frame = broken
            low = await home.start(0)
            await low.until(lambda: low.network.connected == {1})
            low.network.send(1, STATUS, b"x")
            await asyncio.Event().wait()
    assert caught.group_contains(RuntimeError, match="our bug")


@pytest.mark.parametrize("unix_time_s", [1_000_000_000, 4_000_000_000])
async def test_certificates_when_out_of_date_then_pinned_all_the_same(
    tmp_path: Path, unix_time_s: int
) -> None:
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        home = Federation(tmp_path, group, unix_time_s)
        high, low = await home.start(1), await home.start(0)
        await low.until(lambda: low.network.connected == {1})
        await high.until(lambda: high.network.connected == {0})
        for node in home.nodes:
            await node.network.close()


async def test_network_when_closed_then_no_task_and_no_socket_is_left(tmp_path: Path) -> None:
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        home = Federation(tmp_path, group)
        nodes = [await home.start(index) for index in (3, 2, 1, 0)]
        await nodes[-1].until(lambda: len(nodes[-1].network.connected) == 3)
        for node in nodes:
            await node.network.close()
            await node.network.close()
    assert len(asyncio.all_tasks()) == 1


def test_certificate_when_not_one_pem_then_refused() -> None:
    for text in ("", "-----BEGIN CERTIFICATE-----\n", "x"):
        with pytest.raises(ValueError):
            tls.certificate_der(text)
