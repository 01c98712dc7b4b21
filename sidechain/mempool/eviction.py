"""Which transactions leave a full mempool, and the fee rate that keeps worse ones out. Pure.

Rates are integers; where the reference computes with binary fractions, 32 bits behind the point
are kept here.
"""

from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush
from math import isqrt

from sidechain.mempool.entry import Entry
from sidechain.mempool.relations import family_total

ROLLING_FEE_HALF_LIFE_S = 12 * 3600
ROLLING_FEE_PAUSE_S = 10

_POINT = 32
_SCORE_POINT = 64
_ROOTS_COUNT = 32


class RollingFee:
    """The least fee rate while a mempool is or was full.

    It jumps up when transactions are evicted, stays there until the next block, then fades.
    """

    __slots__ = ("_block_seen", "_rate", "_updated_s")

    def __init__(self) -> None:
        self._rate = 0
        self._block_seen = False
        self._updated_s: int | None = None

    def evicted(self, rate_sats_per_kvb: int) -> None:
        """Transactions of this rate left; the caller has added the incremental rate."""
        if rate_sats_per_kvb << _POINT > self._rate:
            self._rate = rate_sats_per_kvb << _POINT
            self._block_seen = False

    def block_connected(self) -> None:
        """A block made room: fading begins with the next question."""
        self._block_seen = True
        self._updated_s = None

    def minimum(self, now_s: int, fill: tuple[int, int], incremental: int) -> int:
        """The rate now, in satoshis per 1,000 virtual bytes.

        Args:
            fill: bytes in use and bytes allowed; an emptier mempool forgets faster.
            incremental: below half of this rate there is none at all.
        """
        if not self._block_seen or not self._rate:
            return self._rounded()
        if self._updated_s is None:
            self._updated_s = now_s
        if now_s > self._updated_s + ROLLING_FEE_PAUSE_S:
            half_life_s = ROLLING_FEE_HALF_LIFE_S
            used, allowed = fill
            if used < allowed // 4:
                half_life_s //= 4
            elif used < allowed // 2:
                half_life_s //= 2
            self._rate = faded(self._rate, now_s - self._updated_s, half_life_s)
            self._updated_s = now_s
            if self._rate * 2 < incremental << _POINT:
                self._rate = 0
                return 0
        return max(self._rounded(), incremental)

    def _rounded(self) -> int:
        return (self._rate + (1 << (_POINT - 1))) >> _POINT


def faded(amount: int, elapsed_s: int, half_life_s: int) -> int:
    """`amount` halved once per half-life, fractions of one included; rounded down."""
    halvings, rest_s = divmod(elapsed_s, half_life_s)
    amount >>= min(halvings, amount.bit_length())
    fraction = (rest_s << _ROOTS_COUNT) // half_life_s
    root = 1 << (2 * _SCORE_POINT - 1)
    for place in reversed(range(_ROOTS_COUNT)):
        factor = isqrt(root)  # 2^-(1/2), 2^-(1/4), … with 64 bits behind the point
        if fraction >> place & 1:
            amount = amount * factor >> _SCORE_POINT
        root = factor << _SCORE_POINT
    return amount


def score(entry: Entry) -> int:
    """Fee rate of an entry alone or with its descendants, whichever is higher; exact to compare.

    A fraction of two sizes below 2^30 is told from any other by 64 bits behind the point.
    """
    own = (entry.modified_fee_sats << _SCORE_POINT) // entry.vsize
    if entry.children is None:
        return own
    family = family_total(entry)
    return max(own, (family.fee_sats << _SCORE_POINT) // family.vsize)


class WorstFirst:
    """Entries by score, worst first, of equal ones the youngest first.

    Items are never taken out of the middle: whoever changes an entry's score pushes it again, and
    what does not agree with its entry any more is passed over.
    """

    __slots__ = ("_heap", "_serial")

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._serial = 0
        self._heap: list[tuple[int, int, int, Entry]] = []
        for entry in entries:
            self._heap.append(self._item(entry))
        heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, entry: Entry) -> None:
        """Take in an entry, or its new score."""
        heappush(self._heap, self._item(entry))

    def pop(self, alive: Mapping[bytes, Entry]) -> Entry | None:
        """Take out the worst of the entries that are `alive`."""
        while self._heap:
            known, _, _, entry = heappop(self._heap)
            if alive.get(entry.txid) is entry and known == score(entry):
                return entry
        return None

    def _item(self, entry: Entry) -> tuple[int, int, int, Entry]:
        self._serial += 1
        return score(entry), -entry.time_s, self._serial, entry
