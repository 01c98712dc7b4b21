"""Timers of the engine: the core's by name, fired into the engine's inbox, and plain delays.

Source: consensus:C33, the contract in `consensus.effects`.
"""

import asyncio
from collections.abc import Callable

from federation.consensus.events import Timer, TimerFired


class EngineTimers:
    """Timers of one engine: the core's by name, and acts without one.

    Args:
        now_ms: the monotonic clock the core is told.
        fire: is given the event when a timer of the core runs out.
        post: is given acts whose time has come.
    """

    def __init__(
        self,
        now_ms: Callable[[], int],
        *,
        fire: Callable[[TimerFired], None],
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        self._now_ms = now_ms
        self._fire = fire
        self._post = post
        self._handles: dict[Timer, asyncio.TimerHandle] = {}
        self._acts: set[asyncio.TimerHandle] = set()
        self._is_closed = False

    def set(self, timer: Timer, after_ms: int) -> None:
        """Fire a timer after a time; one of the same name is replaced."""
        self._cancel(timer)
        if self._is_closed:
            return
        due_ms = self._now_ms() + after_ms

        def run_out() -> None:
            self._handles.pop(timer, None)
            # The core is never told a time before its deadline.
            self._fire(TimerFired(now_ms=max(due_ms, self._now_ms()), timer=timer))

        loop = asyncio.get_running_loop()
        self._handles[timer] = loop.call_later(after_ms / 1_000, run_out)

    def post_later(self, after_ms: int, act: Callable[[], None]) -> None:
        """Post an act after a time."""
        if self._is_closed:
            return

        def run_out() -> None:
            self._acts.discard(handle)
            self._post(act)

        handle = asyncio.get_running_loop().call_later(after_ms / 1_000, run_out)
        self._acts.add(handle)

    def drop_below(self, height: int) -> None:
        """Forget the timers of lower heights, which no longer match anything."""
        for timer in [timer for timer in self._handles if 0 < timer.height < height]:
            self._cancel(timer)

    def close(self) -> None:
        """Stop all; none is set any more."""
        self._is_closed = True
        for timer in list(self._handles):
            self._cancel(timer)
        for handle in self._acts:
            handle.cancel()
        self._acts.clear()

    def __len__(self) -> int:
        return len(self._handles) + len(self._acts)

    def _cancel(self, timer: Timer) -> None:
        handle = self._handles.pop(timer, None)
        if handle is not None:
            handle.cancel()
