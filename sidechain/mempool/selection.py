"""Choosing transactions for a block by the fee rate of each with its ancestors. Pure."""

from collections.abc import Sequence
from heapq import heappop, heappush

from sidechain.mempool.pool import Entry, Mempool
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
    """One choice of transactions, by the fee rate of each with its ancestors."""

    def __init__(self, mempool: Mempool, max_weight_wu: int, max_sigop_cost: int) -> None:
        self._mempool = mempool
        self._weight_left = max_weight_wu
        self._sigops_left = max_sigop_cost
        self._chosen: dict[bytes, Transaction] = {}
        self._heap: list[tuple[int, int, bytes]] = []
        self._order = {txid: position for position, txid in enumerate(mempool.txids())}

    def run(self) -> list[Transaction]:
        """Choose until nothing fits."""
        for txid in self._order:
            self._push(txid)
        misses = 0
        while self._heap and misses < MAX_MISSES:
            score, _, txid = heappop(self._heap)
            if txid in self._chosen or score != self._score(txid):
                continue
            if not self._take(self._package(txid)):
                misses += 1
        return list(self._chosen.values())

    def _package(self, txid: bytes) -> list[bytes]:
        package = self._mempool.ancestors(txid) - self._chosen.keys() | {txid}
        # Order of arrival puts parents before children.
        return sorted(package, key=self._order.__getitem__)

    def _entries(self, txids: Sequence[bytes]) -> list[Entry]:
        found = [self._mempool.get(txid) for txid in txids]
        return [entry for entry in found if entry is not None]

    def _score(self, txid: bytes) -> int:
        entries = self._entries(self._package(txid))
        size = sum(entry.fee_vsize for entry in entries)
        return -(sum(entry.fee_sats for entry in entries) * 10**6 // size)

    def _push(self, txid: bytes) -> None:
        heappush(self._heap, (self._score(txid), self._order[txid], txid))

    def _take(self, package: list[bytes]) -> bool:
        entries = self._entries(package)
        weight = sum(entry.tx.weight_wu for entry in entries)
        sigops = sum(entry.sigop_cost for entry in entries)
        if weight > self._weight_left or sigops > self._sigops_left:
            return False
        self._weight_left -= weight
        self._sigops_left -= sigops
        touched: set[bytes] = set()
        for entry in entries:
            self._chosen[entry.tx.txid] = entry.tx
            touched |= self._mempool.descendants(entry.tx.txid)
        for txid in sorted(touched - self._chosen.keys(), key=self._order.__getitem__):
            self._push(txid)
        return True
