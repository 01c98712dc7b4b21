"""Choosing transactions for a block by the fee rate of each with its ancestors. Pure."""

from heapq import heapify, heappop, heappush

from sidechain.mempool.entry import Entry
from sidechain.mempool.pool import Mempool
from sidechain.mempool.relations import ancestors_of, descendants_of
from sidechain.primitives.transaction import Transaction
from sidechain.validation.block_check import MAX_BLOCK_SIGOP_COST

MAX_MISSES = 500
"""A block is taken as full when this many packages did not fit."""

_SCORE_POINT = 64


def select(
    mempool: Mempool,
    max_weight_wu: int,
    max_sigop_cost: int = MAX_BLOCK_SIGOP_COST,
    *,
    min_fee_sats_per_kvb: int = 0,
) -> list[Transaction]:
    """Transactions for a block: best paying first, with what they depend on before them.

    Args:
        max_weight_wu: sum of their weights, at most.
        max_sigop_cost: sum of their signature operation costs, at most.
        min_fee_sats_per_kvb: what each pays at least, with those it needs.
    """
    return _Selection(mempool, max_weight_wu, max_sigop_cost).run(min_fee_sats_per_kvb)


class _Selection:
    """One choice. Most transactions have no relatives in the mempool: their way is short."""

    def __init__(self, mempool: Mempool, max_weight_wu: int, max_sigop_cost: int) -> None:
        self._weight_left = max_weight_wu
        self._sigops_left = max_sigop_cost
        self._chosen: dict[Entry, None] = {}
        self._heap = [(self._score(entry), at, entry) for at, entry in enumerate(mempool.entries())]
        self._serial = len(self._heap)

    def run(self, min_fee_sats_per_kvb: int) -> list[Transaction]:
        """Choose until nothing fits or nothing pays enough."""
        least = -(min_fee_sats_per_kvb << _SCORE_POINT) // 1000
        heapify(self._heap)
        misses = 0
        while self._heap and misses < MAX_MISSES:
            score, _, entry = heappop(self._heap)
            # A score is stale once an ancestor was chosen; the new one is in the heap too.
            if entry in self._chosen or score != self._score(entry):
                continue
            if score > least:
                # All others pay less.
                break
            if not self._take(self._package(entry)):
                misses += 1
        return [entry.tx for entry in self._chosen]

    def _package(self, entry: Entry) -> list[Entry]:
        """A transaction and what it still needs, parents first."""
        if entry.parents is None:
            return [entry]
        needed = ancestors_of(entry) - self._chosen.keys()
        # An ancestor of another has fewer ancestors.
        return [*sorted(needed, key=lambda e: (len(ancestors_of(e)), e.txid)), entry]

    def _score(self, entry: Entry) -> int:
        """Fee rate of a transaction with what it still needs, negated for the heap."""
        fee_sats, vsize = entry.modified_fee_sats, entry.discount_vsize
        if entry.parents is not None:
            for each in ancestors_of(entry) - self._chosen.keys():
                fee_sats += each.modified_fee_sats
                vsize += each.discount_vsize
        return -(fee_sats << _SCORE_POINT) // vsize

    def _take(self, package: list[Entry]) -> bool:
        weight = sum(entry.weight_wu for entry in package)
        sigops = sum(entry.sigop_cost for entry in package)
        if weight > self._weight_left or sigops > self._sigops_left:
            return False
        self._weight_left -= weight
        self._sigops_left -= sigops
        touched: set[Entry] = set()
        for entry in package:
            self._chosen[entry] = None
            if entry.children is not None:
                touched |= descendants_of(entry)
        for entry in sorted(touched - self._chosen.keys(), key=lambda e: e.txid):
            self._serial += 1
            heappush(self._heap, (self._score(entry), self._serial, entry))
        return True
