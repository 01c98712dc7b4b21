"""What waits for the engine: its own acts, and the frames of each member in turn.

A member that sends faster than the engine works fills its own line and is read no further; the
others' frames do not wait behind its. Transactions stand in lines of their own, behind what
agreement has to say: however many there are, votes are not late for them.

Source: consensus:C95-C97, N15, house rule 13.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from federation.consensus.encoding import FrameKind

FRAMES_HIGH: Final = 256
"""Frames of one member that may wait before no more are read from its link."""
BYTES_HIGH: Final = 5_000_000
"""The same in bytes: one largest frame."""
GOSSIP_FRAMES_HIGH: Final = 2_000
"""The same for frames about transactions: so many that votes behind them are read all the same."""
GOSSIP_EVERY: Final = 8
"""Of so many things done in a row one is about a transaction, whatever else there is to do."""
FRAMES_MAX: Final = 20_000
"""A member whose frames are not held back by then is dropped (C97)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A frame of a member, undecoded."""

    member: int
    kind: int
    body: bytes


@dataclass(frozen=True, slots=True)
class LinkNews:
    """A member's link came up or went down."""

    member: int
    connected: bool


GOSSIP_KINDS: Final = frozenset((FrameKind.TXINV, FrameKind.TXGET, FrameKind.TX))

Act = Callable[[], None]
Work = Act | Frame | LinkNews


@dataclass(slots=True)
class _Line:
    """What one member sent and nobody handled yet."""

    frames_high: int
    items: deque[Frame | LinkNews] = field(default_factory=deque)
    frames: int = 0
    size_bytes: int = 0
    room: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_high(self) -> bool:
        return self.frames >= self.frames_high or self.size_bytes >= BYTES_HIGH


class _Lines:
    """One line for each member; one item of each by turns."""

    def __init__(self, frames_high: int) -> None:
        self._frames_high = frames_high
        self._lines: dict[int, _Line] = {}
        self._turns: deque[int] = deque()

    def __bool__(self) -> bool:
        return bool(self._turns)

    def put(self, member: int, item: Frame | LinkNews) -> None:
        """Put an item at the end of a member's line. Raises asyncio.QueueFull."""
        line = self._line(member)
        if isinstance(item, Frame):
            if line.frames >= FRAMES_MAX:
                raise asyncio.QueueFull
            line.frames += 1
            line.size_bytes += len(item.body)
        if not line.items:
            self._turns.append(member)
        line.items.append(item)

    def take(self) -> Frame | LinkNews:
        """The first of the line whose turn it is; there must be one."""
        member = self._turns.popleft()
        line = self._lines[member]
        item = line.items.popleft()
        if line.items:
            self._turns.append(member)
        if isinstance(item, Frame):
            line.frames -= 1
            line.size_bytes -= len(item.body)
            if not line.is_high:
                line.room.set()
        return item

    def drop(self, member: int) -> None:
        """Forget what a member has in line."""
        line = self._line(member)
        if line.items:
            self._turns.remove(member)
        line.items.clear()
        line.frames = line.size_bytes = 0
        line.room.set()

    async def wait_for_room(self, member: int) -> None:
        """Return once a member's line is short enough."""
        line = self._line(member)
        while line.is_high:
            line.room.clear()
            await line.room.wait()

    def _line(self, member: int) -> _Line:
        line = self._lines.get(member)
        if line is None:
            line = self._lines[member] = _Line(self._frames_high)
        return line


class Inbox:
    """One reader; whoever puts something in never waits."""

    def __init__(self) -> None:
        self._acts: deque[Act] = deque()
        self._urgent = _Lines(FRAMES_HIGH)
        self._gossip = _Lines(GOSSIP_FRAMES_HIGH)
        self._has_work = asyncio.Event()
        self._act_was_last = False
        self._since_gossip = 0

    def post(self, act: Act) -> None:
        """Put in an own act."""
        self._acts.append(act)
        self._has_work.set()

    def put_frame(self, member: int, kind: int, body: bytes) -> None:
        """Put in a frame.

        Raises:
            asyncio.QueueFull: too many frames of this member wait.
        """
        lines = self._gossip if kind in GOSSIP_KINDS else self._urgent
        lines.put(member, Frame(member=member, kind=kind, body=body))
        self._has_work.set()

    def put_link(self, member: int, connected: bool) -> None:
        """Put in news of a link, behind what agreement said over it.

        What a link that is down brought about transactions is forgotten: whoever has them tells
        again when there is a link, and nothing of the old one is taken for something of the new.
        """
        if not connected:
            self._gossip.drop(member)
        self._urgent.put(member, LinkNews(member, connected))
        self._has_work.set()

    async def wait_for_room(self, member: int) -> None:
        """Return once a member's lines are short enough to read more from its link (C96)."""
        await self._urgent.wait_for_room(member)
        await self._gossip.wait_for_room(member)

    async def get(self) -> Work:
        """The next thing to do, which is waited for."""
        while (work := self.get_now()) is None:
            self._has_work.clear()
            await self._has_work.wait()
        return work

    def get_now(self) -> Work | None:
        """The next thing to do: acts and frames by turns, one frame of each member by turns.

        Frames about transactions come when there is nothing else, and now and then.
        """
        if self._gossip and (self._since_gossip >= GOSSIP_EVERY or not self._has_urgent):
            self._since_gossip = 0
            return self._gossip.take()
        self._since_gossip += 1
        if self._acts and not (self._act_was_last and self._urgent):
            self._act_was_last = True
            return self._acts.popleft()
        self._act_was_last = False
        return self._urgent.take() if self._urgent else None

    @property
    def _has_urgent(self) -> bool:
        return bool(self._acts or self._urgent)
