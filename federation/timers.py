"""Timers of the core: set by name, fired into the engine's inbox.

Source: consensus:C33, the contract in `consensus.effects`.
"""

import asyncio
from collections.abc import Callable

from federation.consensus.events import Timer, TimerFired


class CoreTimers:
    """Timers of one engine.

    Args:
        now_ms: the monotonic clock the core is told.
        fire: is given the event when a timer runs out.
    """

    def __init__(self, now_ms: Callable[[], int], fire: Callable[[TimerFired], None]) -> None:
        self._now_ms = now_ms
        self._fire = fire
        self._handles: dict[Timer, asyncio.TimerHandle] = {}
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

    def drop_below(self, height: int) -> None:
        """Forget the timers of lower heights, which no longer match anything."""
        for timer in [timer for timer in self._handles if 0 < timer.height < height]:
            self._cancel(timer)

    def close(self) -> None:
        """Stop all; none is set any more."""
        self._is_closed = True
        for timer in list(self._handles):
            self._cancel(timer)

    def __len__(self) -> int:
        return len(self._handles)

    def _cancel(self, timer: Timer) -> None:
        handle = self._handles.pop(timer, None)
        if handle is not None:
            handle.cancel()
