"""How far a catch-up has come: for the log and for whoever asks.

Pure: the time is an argument, monotonic milliseconds.

Source: consensus:C54.
"""

from dataclasses import dataclass
from typing import Any, Final

WORTH_TELLING_BLOCKS: Final = 100
"""A lag below this is over before anybody could read of it."""
TOLD_EVERY_MS: Final = 5_000
RATE_AFTER_MS: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One look at a catch-up; `eta_s` is None until there is a rate."""

    height: int
    target: int
    blocks_per_s: int
    eta_s: int | None

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "height": self.height,
            "target": self.target,
            "blocks_per_s": self.blocks_per_s,
            "eta_s": self.eta_s,
        }

    @property
    def text(self) -> str:
        """For people."""
        rest = "" if self.eta_s is None else f", {self.blocks_per_s} blocks/s, {self.eta_s} s left"
        return f"catching up: {self.height:,} of {self.target:,}{rest}"


class SyncProgress:
    """Owner of the figures of one catch-up after another."""

    def __init__(self) -> None:
        self._began: tuple[int, int] | None = None
        self._told_ms = 0

    def look(self, height: int, lag_blocks: int, now_ms: int) -> Progress | None:
        """Where the catch-up is; None while there is none worth telling."""
        if lag_blocks == 0:
            self._began = None
            return None
        if self._began is None:
            if lag_blocks < WORTH_TELLING_BLOCKS:
                return None
            self._began, self._told_ms = (height, now_ms), now_ms
        first, began_ms = self._began
        took_ms = now_ms - began_ms
        rate = (height - first) * 1_000 // took_ms if took_ms >= RATE_AFTER_MS else 0
        eta_s = -(-lag_blocks // rate) if rate else None
        return Progress(height=height, target=height + lag_blocks, blocks_per_s=rate, eta_s=eta_s)

    def to_tell(self, height: int, lag_blocks: int, now_ms: int) -> Progress | None:
        """What `look` says, where it is time to write it into the log again.

        The end of a catch-up is told as well.
        """
        began = self._began
        found = self.look(height, lag_blocks, now_ms)
        if found is not None and now_ms - self._told_ms >= TOLD_EVERY_MS:
            self._told_ms = now_ms
            return found
        if found is None and began is not None:
            took_ms = max(now_ms - began[1], 1)
            rate = (height - began[0]) * 1_000 // took_ms
            return Progress(height=height, target=height, blocks_per_s=rate, eta_s=0)
        return None
