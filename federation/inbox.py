"""What waits for the engine: its own acts, and the frames of each member in turn.

A member that sends faster than the engine works fills its own line and is read no further; the
others' frames do not wait behind its.

Source: consensus:C95-C97, house rule 13.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

FRAMES_HIGH: Final = 256
"""Frames of one member that may wait before no more are read from its link."""
BYTES_HIGH: Final = 5_000_000
"""The same in bytes: one largest frame."""
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


Act = Callable[[], None]
Work = Act | Frame | LinkNews


@dataclass(slots=True)
class _Line:
    """What one member sent and nobody handled yet."""

    items: deque[Frame | LinkNews] = field(default_factory=deque)
    frames: int = 0
    size_bytes: int = 0
    room: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_high(self) -> bool:
        return self.frames >= FRAMES_HIGH or self.size_bytes >= BYTES_HIGH


class Inbox:
    """One reader; whoever puts something in never waits."""

    def __init__(self) -> None:
        self._acts: deque[Act] = deque()
        self._lines: dict[int, _Line] = {}
        self._turns: deque[int] = deque()
        self._has_work = asyncio.Event()
        self._act_was_last = False

    def post(self, act: Act) -> None:
        """Put in an own act."""
        self._acts.append(act)
        self._has_work.set()

    def put_frame(self, member: int, kind: int, body: bytes) -> None:
        """Put in a frame.

        Raises:
            asyncio.QueueFull: too many frames of this member wait.
        """
        line = self._line(member)
        if line.frames >= FRAMES_MAX:
            raise asyncio.QueueFull
        line.frames += 1
        line.size_bytes += len(body)
        self._append(member, line, Frame(member=member, kind=kind, body=body))

    def put_link(self, member: int, connected: bool) -> None:
        """Put in news of a link, behind the frames that came over it."""
        self._append(member, self._line(member), LinkNews(member, connected))

    async def wait_for_room(self, member: int) -> None:
        """Return once a member's line is short enough to read more from its link (C96)."""
        line = self._line(member)
        while line.is_high:
            line.room.clear()
            await line.room.wait()

    async def get(self) -> Work:
        """The next thing to do: acts and frames by turns, one frame of each member by turns."""
        while not self._acts and not self._turns:
            self._has_work.clear()
            await self._has_work.wait()
        if self._acts and not (self._act_was_last and self._turns):
            self._act_was_last = True
            return self._acts.popleft()
        self._act_was_last = False
        return self._next_of_members()

    def _next_of_members(self) -> Frame | LinkNews:
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

    def _append(self, member: int, line: _Line, item: Frame | LinkNews) -> None:
        if not line.items:
            self._turns.append(member)
        line.items.append(item)
        self._has_work.set()

    def _line(self, member: int) -> _Line:
        return self._lines.setdefault(member, _Line())
