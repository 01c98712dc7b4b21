"""Faults inside a running member: its links cut, slowed or made lossy, its wall clock moved.

Nothing of this exists in a member that was started without `--allow-faults`: the network is the
plain one, and the RPC methods are not offered. The agreement and the signer know nothing of it.

Source: issue 4 item 10, N32.
"""

import asyncio
import random
import time
from collections import deque
from typing import Any, Final

from federation.fault_rules import FaultKind, FaultTable, InvalidFault, MemberFault
from federation.frames import KIND_HELLO
from federation.link import Link, LinkOptions
from federation.peers import PeerNetwork
from federation.start import CannotStart, NodeSeams, monotonic_ms
from sidechain.api.registry import INVALID_PARAMETER, Registry, RpcError
from sidechain.chain import Chain
from sidechain.params import BITCOIN_REGTEST_GENESIS_HASH, ChainParams

CUT: Final = "cut by a fault"


class DelayLine:
    """Frames on their way to one link, in order; the last one never overtakes the one before."""

    def __init__(self, link: Link, bytes_max: int) -> None:
        self.link = link
        self.queued_bytes = 0
        self._bytes_max = bytes_max
        self._frames: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is on its way."""
        return not self._frames

    def put(self, frame: bytes, delay_ms: int) -> bool:
        """Have a frame wait; a line that is too long ends the link (C97)."""
        if self.queued_bytes + len(frame) > self._bytes_max:
            self.link.abort("send queue full")
            self.close()
            return False
        now = asyncio.get_running_loop().time()
        due = max(now + delay_ms / 1_000, self._frames[-1][0] if self._frames else now)
        self._frames.append((due, frame))
        self.queued_bytes += len(frame)
        self._arm()
        return True

    def close(self) -> None:
        """Forget what is on its way."""
        self._frames.clear()
        self.queued_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is None and self._frames:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._frames[0][0], self._deliver)

    def _deliver(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._frames and self._frames[0][0] <= now:
            _, frame = self._frames.popleft()
            self.queued_bytes -= len(frame)
            if not self.link.enqueue(frame):
                self.close()
                return
        self._arm()


class FaultyNetwork(PeerNetwork):
    """The network of a member that may be told to misbehave.

    HELLO is exempt from loss: a one-way partition loses messages, not the connection that carries
    them back. With both ways closed there is no connection either.
    """

    def __init__(self, faults: FaultTable, **parts: Any) -> None:
        super().__init__(**parts)
        self.faults = faults
        options: LinkOptions | None = parts.get("options")
        self._bytes_max = (options or LinkOptions()).send_queue_bytes
        self._dice = random.Random()
        self._lines: dict[int, DelayLine] = {}

    def room_bytes(self, member: int) -> int:
        """As the plain network, less what a delay keeps on its way."""
        line = self._lines.get(member)
        return max(0, super().room_bytes(member) - (line.queued_bytes if line else 0))

    def apply(self, fault: MemberFault) -> None:
        """Put a fault in force.

        Raises:
            InvalidFault: too many are in force.
        """
        now_ms = monotonic_ms()
        self.faults.add(fault, now_ms)
        if fault.kind is FaultKind.DISCONNECT:
            for peer in sorted(self.connected & fault.peers):
                self.drop(peer, CUT)

    async def close(self) -> None:
        """As the plain network; forgets what is on its way."""
        for line in self._lines.values():
            line.close()
        await super().close()

    def _put(self, link: Link, frame: bytes) -> bool:
        now_ms = monotonic_ms()
        if self.faults.loses_outgoing(link.member, now_ms, self._dice.randrange(100)):
            return True
        delay_ms = self.faults.delay_ms(link.member, now_ms, self._dice.randrange(1_000))
        line = self._lines.get(link.member)
        if line is not None and line.link is not link:
            line.close()
            line = None
        if line is None or line.is_empty:
            if not delay_ms:
                return super()._put(link, frame)
            line = self._lines[link.member] = DelayLine(link, self._bytes_max)
        return line.put(frame, delay_ms)

    def _deliver(self, link: Link, kind: int, body: bytes) -> None:
        if kind != KIND_HELLO and self.faults.loses_incoming(link.member, monotonic_ms()):
            return
        super()._deliver(link, kind, body)

    def _objection(self, member: int) -> str:
        reason = super()._objection(member)
        if not reason and self.faults.disconnects(member, monotonic_ms()):
            return CUT
        return reason

    def _leave(self, link: Link | None) -> None:
        line = self._lines.get(link.member) if link is not None else None
        if line is not None and line.link is link:
            self._lines.pop(line.link.member).close()
        super()._leave(link)


class FaultMethods:
    """The admin calls of `fedpeg fault`."""

    def __init__(self, network: FaultyNetwork) -> None:
        self._network = network

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        for method, summary in (
            (self.setfault, "Put a fault of this member in force (tests only)."),
            (self.listfaults, "Faults in force, and the wall clock that this member goes by."),
            (self.endfaults, "End one fault, or all of this member."),
        ):
            registry.add(method.__name__, method, summary)

    def setfault(self, fault: Any) -> dict[str, Any]:
        """Put a fault in force; it ends after `for_ms`, or with `endfaults`."""
        if not isinstance(fault, dict):
            raise RpcError(INVALID_PARAMETER, "a fault is an object")
        now_ms = monotonic_ms()
        try:
            found = MemberFault.from_json(fault, now_ms=now_ms)
            self._network.apply(found)
        except InvalidFault as error:
            raise RpcError(INVALID_PARAMETER, str(error)) from error
        return found.to_json(now_ms)

    def listfaults(self) -> dict[str, Any]:
        """Faults in force, oldest first."""
        now_ms = monotonic_ms()
        faults = self._network.faults
        return {
            "faults": [fault.to_json(now_ms) for fault in faults.active(now_ms)],
            "unix_time_s": int(time.time()) + faults.clock_offset_s(now_ms),
        }

    def endfaults(self, fault_id: Any = None) -> int:
        """End a fault by its id, or all; how many were ended."""
        if fault_id is not None and not isinstance(fault_id, str):
            raise RpcError(INVALID_PARAMETER, "fault_id is not text")
        return self._network.faults.end(fault_id)


def faulty_seams() -> NodeSeams:
    """The seams of a member that was started with `--allow-faults`."""
    faults = FaultTable()

    def wall_clock_s() -> int:
        return int(time.time()) + faults.clock_offset_s(monotonic_ms())

    def make_network(**parts: Any) -> PeerNetwork:
        return FaultyNetwork(faults, **parts)

    def register(registry: Registry, network: PeerNetwork, _: Chain) -> None:
        if not isinstance(network, FaultyNetwork):
            raise CannotStart("--allow-faults needs the network it brings")
        FaultMethods(network).register(registry)

    return NodeSeams(
        network=make_network, wall_clock_s=wall_clock_s, register=register, check=check_regtest
    )


def check_regtest(params: ChainParams) -> None:
    """Refuse to be made faulty beside a Bitcoin that is worth something (N32).

    Raises:
        CannotStart: the parent chain is not regtest.
    """
    if params.parent_genesis_hash != BITCOIN_REGTEST_GENESIS_HASH:
        raise CannotStart("--allow-faults is for federations on a regtest bitcoind only")
