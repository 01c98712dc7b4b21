"""Links to the other members: dial, accept, say hello, then pass frames both ways.

One link per member. Everything a peer does wrong ends its own link and nothing else. Frames go in
through `send` and `broadcast`, which never wait; they come out through one callback, which must
not either.

Source: N15, consensus:2.2, consensus:C95-C97.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from federation import tls
from federation.frames import KIND_HELLO, PROTOCOL_VERSION, FrameError, Hello, encode_frame
from federation.link import Link, LinkClosed, LinkOptions, LinkStatus
from federation.peer_identity import PeerIdentity, PeerMember
from federation.rate_limits import (
    FAILED_SIGNATURE_COST,
    FRAME_FAULT_COST,
    Ban,
    ByteBudget,
    SignatureBudget,
)

__all__ = ["EventLog", "PeerIdentity", "PeerMember", "PeerNetwork"]


class EventLog(Protocol):
    """The part of a structlog logger that is used here."""

    def info(self, event: str, **facts: object) -> object:
        """Something happened."""

    def warning(self, event: str, **facts: object) -> object:
        """Something a person may want to look at."""

    def error(self, event: str, **facts: object) -> object:
        """Something a person has to look at."""


class PeerNetwork:
    """Owner of all member links of a process.

    Args:
        identity: what we show and where we listen.
        members: all members, ourselves included.
        hello: makes our HELLO as it is now.
        limits: largest body in bytes by frame kind.
        on_frame: called with (member, kind, body) for every frame but HELLO; must return at once;
            raising asyncio.QueueFull drops that peer.
        on_link: called with (member, connected) after a change.
        wait_for_room: awaited after a member's frames were handed over, before more are read.
    """

    def __init__(
        self,
        *,
        identity: PeerIdentity,
        members: Sequence[PeerMember],
        hello: Callable[[], Hello],
        limits: Mapping[int, int],
        on_frame: Callable[[int, int, bytes], None],
        log: EventLog,
        on_link: Callable[[int, bool], None] | None = None,
        options: LinkOptions | None = None,
        wait_for_room: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self._identity = identity
        self._wait_for_room = wait_for_room
        self._members = {m.index: m for m in members if m.index != identity.index}
        self._pinned = {i: tls.certificate_der(m.certificate_pem) for i, m in self._members.items()}
        self._hello = hello
        self._limits = limits
        self._on_frame = on_frame
        self._on_link = on_link
        self._log = log
        self._options = options or LinkOptions()
        self._links: dict[int, Link] = {}
        self._bans = {index: Ban() for index in self._members}
        self._budgets: dict[int, SignatureBudget] = {}
        self._byte_budgets: dict[int, ByteBudget] = {}
        self._last_end: dict[int, str] = {}
        self._mismatched: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._greeting: dict[asyncio.Task[None], None] = {}  # oldest first
        self._refused = self._failed_accepts = 0
        self._port: int | None = None
        self._group: asyncio.TaskGroup | None = None
        self.expected: frozenset[int] = frozenset()
        """Members that owe us final blocks: the byte budget of C96 does not pause reading."""

    # -- running

    async def run(self, task_group: asyncio.TaskGroup) -> None:
        """Bind, then accept and dial in tasks of `task_group`; returns when bound.

        Raises:
            OSError: the address cannot be bound, or a PEM file cannot be used.
        """
        lower = {i: c for i, c in self._pinned.items() if i < self._identity.index}
        listening = tls.listening_context(self._identity.certificate, self._identity.key, lower)
        dialing = {
            i: tls.dialing_context(self._identity.certificate, self._identity.key, c)
            for i, c in self._pinned.items()
            if i > self._identity.index
        }
        listener = await self._bind()
        self._port = listener.getsockname()[1]
        self._group = task_group
        self._start(self._accept(listener, listening, lower))
        for index, context in dialing.items():
            self._start(self._dial(self._members[index], context))

    def add(self, member: PeerMember) -> None:
        """Dial a member that may join, from now on; its index is above all others (N15).

        Raises:
            ValueError: there is such a member, or it would have to dial us.
        """
        if member.index in self._members or member.index <= self._identity.index:
            raise ValueError(f"member {member.index} cannot be added here")
        certificate = tls.certificate_der(member.certificate_pem)
        self._members[member.index], self._pinned[member.index] = member, certificate
        self._bans[member.index] = Ban()
        if self._group is not None:
            files = self._identity.certificate, self._identity.key
            self._start(self._dial(member, tls.dialing_context(*files, certificate)))

    async def close(self) -> None:
        """End all links with a TLS goodbye, stop listening and dialing. Safe to call twice."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @property
    def port(self) -> int:
        """The port we listen on.

        Raises:
            RuntimeError: not running.
        """
        if self._port is None:
            raise RuntimeError("the network is not running")
        return self._port

    # -- what the node uses

    def send(self, member: int, kind: int, body: bytes) -> bool:
        """Queue one frame; False when there is no link or its queue is full (it then closes).

        Raises:
            FrameError: the frame breaks its own limit: our bug.
        """
        link = self._links.get(member)
        return link is not None and self._put(link, encode_frame(kind, body, self._limits))

    def broadcast(self, kind: int, body: bytes) -> None:
        """Queue one frame to every connected member.

        Raises:
            FrameError: as `send`.
        """
        frame = encode_frame(kind, body, self._limits)
        for member in sorted(self._links):
            self._put(self._links[member], frame)

    @property
    def connected(self) -> frozenset[int]:
        """Members whose HELLO was accepted and whose link is up."""
        return frozenset(self._links)

    def room_bytes(self, member: int) -> int:
        """How much the send queue of a member still takes, 0 without a link."""
        link = self._links.get(member)
        return link.room_bytes if link is not None else 0

    def charge_signatures(self, member: int, *, checked: int = 0, failed: int = 0) -> None:
        """Count signature checks a member's frames cost; used up: disconnect and ban (C95)."""
        if not self._charge(member, checked + failed * FAILED_SIGNATURE_COST):
            self.drop(member, "signature budget used up", ban=True)

    def drop(self, member: int, reason: str, *, ban: bool = False) -> None:
        """Close a member's link now; with `ban`, keep it out for a while."""
        if ban:
            self._bans[member].impose(self._now_ms())
            self._log.warning("peer_banned", member=member, reason=reason)
        link = self._links.get(member)
        if link is not None:
            link.abort(reason)

    def status(self) -> tuple[LinkStatus, ...]:
        """One line per other member, by index."""
        return tuple(
            self._links[i].status() if i in self._links else self._down(i)
            for i in sorted(self._members)
        )

    @property
    def refused_connections(self) -> int:
        """Connections that ended before a HELLO was accepted: strangers, wrong certificates."""
        return self._refused

    @property
    def parameter_mismatches(self) -> frozenset[int]:
        """Members whose last HELLO named another federation or chain."""
        return frozenset(self._mismatched)

    # -- connections

    async def _bind(self) -> socket.socket:
        host, port = self._identity.listen_host, self._identity.listen_port
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(self._options.handshakes_max)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
        return listener

    async def _accept(
        self, listener: socket.socket, context: ssl.SSLContext, lower: Mapping[int, bytes]
    ) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.closing(listener):
            while True:
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:  # out of descriptors, or the caller is gone already
                    self._failed_accepts += 1
                    if _is_power_of_two(self._failed_accepts):
                        count = self._failed_accepts
                        self._log.warning("accept_failed", error=str(error), failed_so_far=count)
                    await asyncio.sleep(self._options.backoff_min_ms / 1000)
                    continue
                if len(self._greeting) >= self._options.handshakes_max:
                    oldest = next(iter(self._greeting))  # that has not said hello
                    self._forget_greeting(oldest)  # or a burst would cancel the same one again
                    oldest.cancel()
                    self._refuse("too many at once")
                    await asyncio.sleep(0)  # let it close its socket before the next is taken
                task = self._start(self._serve(connection, context, lower))
                # Callbacks run also when the task is cancelled before its first step.
                self._greeting[task] = None
                task.add_done_callback(self._forget_greeting)
                task.add_done_callback(partial(_close_socket, connection))

    async def _serve(
        self, connection: socket.socket, context: ssl.SSLContext, lower: Mapping[int, bytes]
    ) -> None:
        """One accepted connection; whoever started this task closes the socket after it."""
        reader = asyncio.StreamReader(limit=self._options.read_buffer_bytes)
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=context,
                ssl_handshake_timeout=self._options.handshake_timeout_ms / 1000,
                ssl_shutdown_timeout=self._options.shutdown_timeout_ms / 1000,
            )
        except OSError as error:
            self._refuse(tls.handshake_failure(error))
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        await self._run_link(reader, writer, lower)

    async def _dial(self, peer: PeerMember, context: ssl.SSLContext) -> None:
        options = self._options
        pause_ms = options.backoff_min_ms
        while True:
            try:
                async with asyncio.timeout(2 * options.handshake_timeout_ms / 1000):
                    reader, writer = await asyncio.open_connection(
                        peer.host,
                        peer.port,
                        ssl=context,
                        server_hostname="",
                        limit=options.read_buffer_bytes,
                        ssl_handshake_timeout=options.handshake_timeout_ms / 1000,
                        ssl_shutdown_timeout=options.shutdown_timeout_ms / 1000,
                    )
            except OSError as error:  # a time-out is one too
                self._last_end[peer.index] = tls.handshake_failure(error)
                if isinstance(error, ssl.SSLError):
                    self._refuse(tls.handshake_failure(error), member=peer.index)
            else:
                pinned = {peer.index: self._pinned[peer.index]}
                if await self._run_link(reader, writer, pinned):
                    pause_ms = options.backoff_min_ms
            await asyncio.sleep(max(pause_ms, self._ban_ms(peer.index)) / 1000)
            pause_ms = min(2 * pause_ms, options.backoff_max_ms)

    async def _run_link(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        expected: Mapping[int, bytes],
    ) -> bool:
        """Serve one connection to its end; True when its HELLO was accepted."""
        link: Link | None = None
        try:
            member = tls.pinned_member(writer.get_extra_info("ssl_object"), expected)
            objection = self._objection(member)
            if objection:
                raise tls.LinkRefused(objection)
            budget = self._byte_budgets.setdefault(member, ByteBudget(self._now_ms()))
            link = Link(member, reader, writer, self._limits, self._options, budget)
            greeted = await self._greet(link)
            self._admit(link)
            sender = self._start(link.send_queued())
            try:
                for kind, body in greeted:
                    self._deliver(link, kind, body)
                while True:
                    limited = member not in self.expected
                    for kind, body in await link.receive(limited=limited):
                        self._deliver(link, kind, body)
                    if self._wait_for_room is not None:
                        await self._wait_for_room(member)
            finally:
                sender.cancel()
        except tls.LinkRefused as refusal:
            if link is not None:
                self._last_end[link.member] = refusal.reason
            self._refuse(refusal.reason, member=link.member if link is not None else None)
        except FrameError as error:
            self._frame_fault(link, error)
        except LinkClosed as closed:
            if link is not None:
                link.abort(closed.reason)
        except OSError as error:
            if link is not None:
                link.abort(f"connection: {error}")
        finally:
            self._leave(link)
            await _close(writer, self._options.shutdown_timeout_ms)
        return link is not None and link.accepted

    async def _greet(self, link: Link) -> list[tuple[int, bytes]]:
        """Exchange HELLO; return the frames that came right behind it.

        Raises:
            LinkRefused: another chain, parameters, key or protocol version, or no HELLO in time.
            FrameError, LinkClosed, OSError: as `Link.receive`.
        """
        await link.write(encode_frame(KIND_HELLO, self._hello().encode(), self._limits))
        frames: list[tuple[int, bytes]] = []
        try:
            async with asyncio.timeout(self._options.hello_timeout_ms / 1000):
                while not frames:
                    frames = await link.receive(limited=True)
        except TimeoutError:
            raise tls.LinkRefused("no hello in time") from None
        kind, body = frames.pop(0)
        if kind != KIND_HELLO:
            raise tls.LinkRefused("first frame is not hello")
        self._check_hello(link, Hello.decode(body))
        return frames

    def _check_hello(self, link: Link, theirs: Hello) -> None:
        ours = self._hello()
        member = link.member
        if theirs.protocol_version != PROTOCOL_VERSION:
            raise tls.LinkRefused("protocol version")
        if (theirs.genesis, theirs.parameter_hash) != (ours.genesis, ours.parameter_hash):
            self._mismatched.add(member)
            self._log.error(
                "parameter mismatch",
                alarm=True,
                member=member,
                ours=ours.parameter_hash.hex(),
                theirs=theirs.parameter_hash.hex(),
            )
            raise tls.LinkRefused("parameter mismatch")
        if theirs.block_key != self._members[member].block_key:
            raise tls.LinkRefused("block key is not the pinned one")
        self._mismatched.discard(member)
        for name in ("block_interval_ms", "timeout_base_ms", "timeout_cap_ms", "future_limit_s"):
            mine, other = getattr(ours, name), getattr(theirs, name)
            if mine != other:
                self._log.warning(
                    "peer_setting_differs", member=member, setting=name, ours=mine, theirs=other
                )

    def _admit(self, link: Link) -> None:
        """A second link replaces the first (N15)."""
        old = self._links.get(link.member)
        self._links[link.member] = link
        link.accepted = True
        self._settle_greeting()
        if old is not None:
            old.abort("replaced by a newer link")
        self._log.info("peer_connected", member=link.member)
        if self._on_link is not None:
            self._on_link(link.member, True)

    def _deliver(self, link: Link, kind: int, body: bytes) -> None:
        if self._links.get(link.member) is not link:
            raise LinkClosed("replaced by a newer link")
        if kind == KIND_HELLO:
            raise FrameError("second hello")
        try:
            self._on_frame(link.member, kind, body)
        except asyncio.QueueFull:
            raise LinkClosed("inbox full") from None

    def _leave(self, link: Link | None) -> None:
        self._settle_greeting()
        if link is None:
            return
        if not link.accepted:
            self._last_end.setdefault(link.member, link.close_reason)
        if self._links.get(link.member) is not link:
            return
        del self._links[link.member]
        self._last_end[link.member] = link.close_reason
        self._log.info("peer_disconnected", member=link.member, reason=link.close_reason)
        if self._on_link is not None:
            self._on_link(link.member, False)

    # -- small parts

    def _put(self, link: Link, frame: bytes) -> bool:
        return link.enqueue(frame)

    def _objection(self, member: int) -> str:
        """Why there may be no link to a member now, "" when there may."""
        return "banned" if self._ban_ms(member) else ""

    def _start(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        if self._group is None:
            raise RuntimeError("the network is not running")
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _settle_greeting(self) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._forget_greeting(task)

    def _forget_greeting(self, task: "asyncio.Task[Any]") -> None:
        self._greeting.pop(task, None)

    def _frame_fault(self, link: Link | None, error: FrameError) -> None:
        if link is None:
            return
        link.abort(error.reason)
        self._log.warning("frame_fault", member=link.member, reason=error.reason)
        if not self._charge(link.member, FRAME_FAULT_COST):
            self.drop(link.member, "frame faults", ban=True)

    def _charge(self, member: int, cost: int) -> bool:
        # Outlives the link: hanging up and coming back does not refill it.
        budget = self._budgets.setdefault(member, SignatureBudget(self._now_ms()))
        if budget.charge(cost, self._now_ms()):
            return True
        del self._budgets[member]
        return False

    def _refuse(self, reason: str, member: int | None = None) -> None:
        self._refused += 1
        self._settle_greeting()
        # One line for every power of two: a stranger must not be able to fill the disk.
        if _is_power_of_two(self._refused):
            self._log.warning(
                "link_refused", reason=reason, member=member, refused_so_far=self._refused
            )

    def _down(self, member: int) -> LinkStatus:
        reason = self._last_end.get(member, "not tried yet")
        return LinkStatus.down(member, self._ban_ms(member), reason)

    def _ban_ms(self, member: int) -> int:
        return self._bans[member].remaining_ms(self._now_ms())

    def _now_ms(self) -> int:
        return int(asyncio.get_running_loop().time() * 1000)


def _is_power_of_two(count: int) -> bool:
    return count & (count - 1) == 0


def _close_socket(connection: socket.socket, _: "asyncio.Task[None]") -> None:
    connection.close()


async def _close(writer: asyncio.StreamWriter, timeout_ms: int) -> None:
    # before CPython 3.11.5 a TLS transport that is closed twice cannot be aborted any more
    if not writer.is_closing():
        writer.close()
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            await writer.wait_closed()
    except OSError:  # also a time-out: the peer does not answer the goodbye
        writer.transport.abort()
