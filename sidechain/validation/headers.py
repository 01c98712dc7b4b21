"""The headers below a block, as every rule about them asks for them.

Source: elements/blocks.md 4.
"""

from typing import Protocol

from sidechain.primitives.block import BlockHeader

MEDIAN_TIME_SPAN_BLOCKS = 11


class HeaderChain(Protocol):
    """The chain a block extends. Answers must not change during one check."""

    @property
    def tip_height(self) -> int:
        """Height of the last block."""
        ...

    def header(self, height: int) -> BlockHeader:
        """Header at a height from 0 to `tip_height`."""
        ...


class ExtendedChain:
    """A chain with one more header on top, to ask about a block as if it were connected."""

    __slots__ = ("_below", "_height", "_top")

    def __init__(self, below: HeaderChain, top: BlockHeader) -> None:
        self._below = below
        self._top = top
        # Not the header's own word: where heights are no part of headers it may say anything.
        self._height = below.tip_height + 1

    @property
    def tip_height(self) -> int:
        """Height of the added header."""
        return self._height

    def header(self, height: int) -> BlockHeader:
        """The added header or one below it."""
        return self._top if height == self._height else self._below.header(height)


def median_time_past(chain: HeaderChain, height: int) -> int:
    """Median of the times of the 11 blocks up to and including `height`, in seconds."""
    first = max(0, height - MEDIAN_TIME_SPAN_BLOCKS + 1)
    times = sorted(chain.header(h).time for h in range(first, height + 1))
    return times[len(times) // 2]
