"""How much a proposal may hold, so that the others have judged it before their patience ends.

A verdict that is not there when the propose timer fires counts as no proposal (consensus:C25), and
a round that fails under load makes the next block larger still. So a proposer measures what
judging costs on its own machine, as it is loaded now, and fills a part of the timer at most.
Nothing here is a rule that others check.

Source: consensus:C25, consensus:C33, N17.
"""

from typing import Final

TIMER_SHARE: Final = 4
"""Judging takes this part of the propose timer at most; the rest is for the way and for others."""
LEAST_WU: Final = 400_000
"""Room that there always is: the largest transaction that is relayed, or some 380 payments."""
MEASURED_WU: Final = 50_000
"""Smaller blocks tell nothing: what they cost is not their transactions."""
FIRST_US_PER_KWU: Final = 200
"""What a thousand weight units cost as long as nothing was measured: about a payment."""
MEMORY: Final = 4
"""A new measurement counts as one of so many."""


class BlockRoom:
    """The room of the next proposal.

    Args:
        timer_ms: the propose timer of round 0.
    """

    def __init__(self, timer_ms: int) -> None:
        self._budget_us = 1_000 * timer_ms // TIMER_SHARE
        self._us_per_kwu = FIRST_US_PER_KWU

    def judged(self, weight_wu: int, took_ms: int) -> None:
        """A block of this weight was judged for the first time, and how long it took."""
        if weight_wu < MEASURED_WU:
            return
        cost = 1_000 * 1_000 * took_ms // weight_wu
        self._us_per_kwu += (cost - self._us_per_kwu) // MEMORY

    def weight_wu(self, round_number: int) -> int:
        """Weight of the transactions of a proposal; half as much in a round after a failed one."""
        fitting_wu = 1_000 * self._budget_us // max(1, self._us_per_kwu)
        return max(LEAST_WU, fitting_wu >> round_number)
