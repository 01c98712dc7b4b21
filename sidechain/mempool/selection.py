"""Choosing transactions for a block by the fee rate of each with its ancestors. Pure."""

from heapq import heapify, heappop, heappush

from sidechain.mempool.pool import Mempool
from sidechain.primitives.transaction import Transaction
from sidechain.validation.block_check import MAX_BLOCK_SIGOP_COST

MAX_MISSES = 500
"""A block is taken as full when this many packages did not fit."""


def select(
    mempool: Mempool, max_weight_wu: int, max_sigop_cost: int = MAX_BLOCK_SIGOP_COST
) -> list[Transaction]:
    """Transactions for a block: best paying first, with what they depend on before them.

    Args:
        max_weight_wu: sum of their weights, at most.
        max_sigop_cost: sum of their signature operation costs, at most.
    """
    return _Selection(mempool, max_weight_wu, max_sigop_cost).run()


class _Selection:
    """One choice. Most transactions have no relatives in the mempool: their way is short."""

    def __init__(self, mempool: Mempool, max_weight_wu: int, max_sigop_cost: int) -> None:
        self._mempool = mempool
        self._weight_left = max_weight_wu
        self._sigops_left = max_sigop_cost
        self._chosen: dict[bytes, Transaction] = {}
        self._entries = {entry.tx.txid: entry for entry in mempool.entries()}
        self._order = {txid: position for position, txid in enumerate(self._entries)}
        self._heap: list[tuple[int, int, bytes]] = []

    def run(self) -> list[Transaction]:
        """Choose until nothing fits."""
        self._heap = [(self._score(txid), at, txid) for txid, at in self._order.items()]
        heapify(self._heap)
        misses = 0
        while self._heap and misses < MAX_MISSES:
            score, _, txid = heappop(self._heap)
            # A score is stale once an ancestor was chosen; the new one is in the heap too.
            if txid in self._chosen or score != self._score(txid):
                continue
            if not self._take(self._package(txid)):
                misses += 1
        return list(self._chosen.values())

    def _package(self, txid: bytes) -> list[bytes]:
        if not self._entries[txid].parents:
            return [txid]
        package = self._mempool.ancestors(txid) - self._chosen.keys() | {txid}
        # Order of arrival puts parents before children.
        return sorted(package, key=self._order.__getitem__)

    def _score(self, txid: bytes) -> int:
        """Fee rate of a transaction with what it still needs, negated for the heap."""
        fee_sats = fee_vsize = 0
        for each in self._package(txid):
            entry = self._entries[each]
            fee_sats += entry.fee_sats
            fee_vsize += entry.fee_vsize
        return -(fee_sats * 10**6 // fee_vsize)

    def _take(self, package: list[bytes]) -> bool:
        entries = [self._entries[txid] for txid in package]
        weight = sum(entry.tx.weight_wu for entry in entries)
        sigops = sum(entry.sigop_cost for entry in entries)
        if weight > self._weight_left or sigops > self._sigops_left:
            return False
        self._weight_left -= weight
        self._sigops_left -= sigops
        touched: set[bytes] = set()
        for entry in entries:
            self._chosen[entry.tx.txid] = entry.tx
            if entry.children:
                touched |= self._mempool.descendants(entry.tx.txid)
        for txid in sorted(touched - self._chosen.keys(), key=self._order.__getitem__):
            heappush(self._heap, (self._score(txid), self._order[txid], txid))
        return True
