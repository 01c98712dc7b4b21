"""Accepted transactions that are not in a block yet: relations, limits, conflicts, expiry. Pure.

What comes here was judged by `admission`; nothing about coins or scripts is known. Time is an
argument. Source: elements/transactions.md 7.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from sidechain.errors import InvalidTransaction, InvariantError
from sidechain.policy import INCREMENTAL_RELAY_FEE_SATS_PER_KVB, required_fee_sats
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.validation.coins import Coin

MAX_BYTES = 100_000_000
MAX_TRANSACTIONS = 50_000
MAX_ANCESTORS = 25
MAX_DESCENDANTS = 25
MAX_PACKAGE_VBYTES = 101_000
MAX_REPLACED = 100
EXPIRY_S = 14 * 24 * 3600
FLOOR_HALF_LIFE_S = 12 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one mempool."""

    bytes: int = MAX_BYTES
    transactions: int = MAX_TRANSACTIONS
    ancestors: int = MAX_ANCESTORS
    descendants: int = MAX_DESCENDANTS
    package_vbytes: int = MAX_PACKAGE_VBYTES
    expiry_s: int = EXPIRY_S


@dataclass(slots=True, kw_only=True)
class Entry:
    """One transaction in the mempool, with its relatives there.

    `vsize` is the ordinary virtual size, `fee_vsize` the one fees are asked for (discounted
    where the chain discounts).
    """

    tx: Transaction
    fee_sats: int
    vsize: int
    fee_vsize: int
    sigop_cost: int
    time_s: int
    height: int
    parents: set[bytes] = field(default_factory=set)
    children: set[bytes] = field(default_factory=set)


class Mempool:
    """The owner of accepted transactions. Every method leaves it consistent or raises first."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._entries: dict[bytes, Entry] = {}
        self._spenders: dict[OutPoint, bytes] = {}
        self._bytes = 0
        self._floor_sats_per_kvb = 0
        self._floor_since_s = 0
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, txid: bytes) -> bool:
        return txid in self._entries

    @property
    def size_bytes(self) -> int:
        """Bytes of all transactions, witnesses included."""
        return self._bytes

    @property
    def limits(self) -> Limits:
        """The bounds in force."""
        return self._limits

    @property
    def sequence(self) -> int:
        """Grows with every change."""
        return self._sequence

    def get(self, txid: bytes) -> Entry | None:
        """The entry of a transaction, or None."""
        return self._entries.get(txid)

    def txids(self) -> list[bytes]:
        """All transactions, oldest first."""
        return list(self._entries)

    def entries(self) -> list[Entry]:
        """All entries, oldest first; read them, but leave changes to the mempool."""
        return list(self._entries.values())

    def transactions(self) -> list[Transaction]:
        """All transactions, oldest first: parents stand before their children."""
        return [entry.tx for entry in self._entries.values()]

    def coin(self, outpoint: OutPoint) -> Coin | None:
        """An output of a transaction in here, spent in here or not; None for any other."""
        entry = self._entries.get(outpoint.txid)
        if entry is None or outpoint.index >= len(entry.tx.outputs):
            return None
        output = entry.tx.outputs[outpoint.index]
        if output.is_unspendable:
            return None
        return Coin.of(output, height=entry.height, coinbase=False)

    def spender(self, outpoint: OutPoint) -> bytes | None:
        """Txid of the transaction in here that spends an output or claims a deposit, or None."""
        return self._spenders.get(outpoint)

    def conflicts(self, tx: Transaction) -> list[bytes]:
        """Txids in here that spend what `tx` spends, in the order of its inputs."""
        found = [self._spenders.get(txin.prevout) for txin in tx.inputs]
        return list(dict.fromkeys(txid for txid in found if txid is not None))

    def floor_sats_per_kvb(self, now_s: int) -> int:
        """Fee rate below which nothing is taken: 0 until the mempool was full, then it fades."""
        halvings = max(now_s - self._floor_since_s, 0) // FLOOR_HALF_LIFE_S
        rate = self._floor_sats_per_kvb >> min(halvings, 64)
        return rate if rate >= INCREMENTAL_RELAY_FEE_SATS_PER_KVB // 2 else 0

    def ancestors(self, txid: bytes) -> set[bytes]:
        """Unconfirmed transactions this one depends on, without itself."""
        return self._reach(self._entries[txid].parents, "parents")

    def descendants(self, txid: bytes) -> set[bytes]:
        """Transactions in here that depend on this one, without itself."""
        return self._reach(self._entries[txid].children, "children")

    def check_replacement(self, tx: Transaction, fee_sats: int, vsize: int) -> set[bytes]:
        """Check that a transaction may take the place of those it conflicts with.

        Args:
            fee_sats: what it pays. vsize: its ordinary virtual size.
        Returns:
            Everything that would leave: the conflicts and what depends on them.
        Raises:
            InvalidTransaction: it pays too little, or touches too much.
        """
        direct = self.conflicts(tx)
        if not direct:
            return set()
        leaving = set(direct)
        for txid in direct:
            leaving |= self.descendants(txid)
            entry = self._entries[txid]
            if fee_sats * entry.vsize <= entry.fee_sats * vsize:
                raise InvalidTransaction("insufficient fee", "rejecting replacement: new feerate")
        if len(leaving) > MAX_REPLACED:
            raise InvalidTransaction("too many potential replacements")
        known = {parent for txid in direct for parent in self._entries[txid].parents}
        for txin in tx.inputs:
            if txin.prevout.txid in leaving:
                raise InvalidTransaction("bad-txns-spends-conflicting-tx")
            if txin.prevout.txid in self._entries and txin.prevout.txid not in known:
                raise InvalidTransaction("replacement-adds-unconfirmed")
        paid = sum(self._entries[txid].fee_sats for txid in leaving)
        extra = required_fee_sats(vsize, INCREMENTAL_RELAY_FEE_SATS_PER_KVB)
        if fee_sats < paid + extra:
            raise InvalidTransaction(
                "insufficient fee", f"rejecting replacement: {fee_sats} < {paid} + {extra}"
            )
        return leaving

    def check_limits(self, entry: Entry, leaving: Iterable[bytes] = ()) -> None:
        """Check the chain of unconfirmed transactions `entry` would belong to.

        Args:
            leaving: transactions that it replaces.
        Raises:
            InvalidTransaction: "too-long-mempool-chain".
        """
        gone = set(leaving)
        parents = self._parents_of(entry.tx) - gone
        ancestors = self._reach(parents, "parents")
        if len(ancestors) + 1 > self._limits.ancestors:
            raise InvalidTransaction("too-long-mempool-chain", "too many unconfirmed ancestors")
        vbytes = entry.vsize + sum(self._entries[txid].vsize for txid in ancestors)
        if vbytes > self._limits.package_vbytes:
            raise InvalidTransaction("too-long-mempool-chain", "exceeds ancestor size limit")
        for txid in ancestors:
            family = self.descendants(txid) - gone
            size = sum(self._entries[each].vsize for each in family) + self._entries[txid].vsize
            if len(family) + 2 > self._limits.descendants:
                raise InvalidTransaction("too-long-mempool-chain", "too many descendants")
            if size + entry.vsize > self._limits.package_vbytes:
                raise InvalidTransaction("too-long-mempool-chain", "exceeds descendant size limit")

    def add(self, entry: Entry, now_s: int) -> list[Transaction]:
        """Take in a transaction that was judged, with `check_replacement` and `check_limits`.

        Returns:
            The transactions that had to leave: replaced or crowded out.
        Raises:
            InvalidTransaction: "mempool full", the new transaction pays least of all.
            InvariantError: it is in here already, or its conflicts were not looked at.
        """
        txid = entry.tx.txid
        if txid in self._entries:
            raise InvariantError("a transaction is added to the mempool twice")
        removed: list[Transaction] = []
        for conflict in self.conflicts(entry.tx):
            removed += self.remove(conflict)
        entry.parents = self._parents_of(entry.tx)
        entry.children = set()
        self._entries[txid] = entry
        self._bytes += entry.tx.total_size
        for txin in entry.tx.inputs:
            self._spenders[txin.prevout] = txid
        for parent in entry.parents:
            self._entries[parent].children.add(txid)
        self._sequence += 1
        removed += self._trim(now_s)
        if txid not in self._entries:
            raise InvalidTransaction("mempool full")
        return removed

    def remove(self, txid: bytes) -> list[Transaction]:
        """Drop a transaction and all that depends on it; nothing if it is not in here."""
        if txid not in self._entries:
            return []
        leaving = {txid} | self.descendants(txid)
        removed = [entry.tx for each, entry in self._entries.items() if each in leaving]
        for tx in removed:
            self._forget(tx.txid)
        return removed

    def remove_for_block(self, block: Block) -> list[Transaction]:
        """Drop what a new block contains, and whatever conflicts with it.

        Returns:
            The transactions that conflicted, with those that depended on them.
        """
        conflicted: list[Transaction] = []
        for tx in block.transactions:
            self._forget(tx.txid)
            for conflict in self.conflicts(tx):
                conflicted += self.remove(conflict)
        return conflicted

    def clear(self) -> list[Transaction]:
        """Drop everything and return it, parents before children."""
        removed = self.transactions()
        for tx in removed:
            self._forget(tx.txid)
        return removed

    def _parents_of(self, tx: Transaction) -> set[bytes]:
        return {
            txin.prevout.txid
            for txin in tx.inputs
            if not txin.is_pegin and txin.prevout.txid in self._entries
        }

    def _reach(self, start: Iterable[bytes], direction: str) -> set[bytes]:
        reached: set[bytes] = set()
        waiting = list(start)
        while waiting:
            txid = waiting.pop()
            if txid not in reached:
                reached.add(txid)
                waiting.extend(getattr(self._entries[txid], direction))
        return reached

    def _forget(self, txid: bytes) -> None:
        """Drop one transaction; its children stay, now without this parent."""
        entry = self._entries.pop(txid, None)
        if entry is None:
            return
        self._bytes -= entry.tx.total_size
        self._sequence += 1
        for txin in entry.tx.inputs:
            if self._spenders.get(txin.prevout) == txid:
                del self._spenders[txin.prevout]
        for parent in entry.parents & self._entries.keys():
            self._entries[parent].children.discard(txid)
        for child in entry.children & self._entries.keys():
            self._entries[child].parents.discard(txid)

    def expire(self, now_s: int) -> list[Transaction]:
        """Drop what has waited too long, and what depends on it; call it before judging more.

        Returns:
            The transactions dropped.
        """
        removed: list[Transaction] = []
        # Entries stand in order of arrival, so only the oldest need a look.
        while self._entries:
            oldest = next(iter(self._entries.values()))
            if oldest.time_s > now_s - self._limits.expiry_s:
                break
            removed += self.remove(oldest.tx.txid)
        return removed

    def _trim(self, now_s: int) -> list[Transaction]:
        """When over a limit, drop the worst paying down to nine tenths of it."""
        limits = self._limits
        if self._bytes <= limits.bytes and len(self._entries) <= limits.transactions:
            return []
        removed: list[Transaction] = []
        for txid in self._worst_first():
            if (
                self._bytes * 10 <= limits.bytes * 9
                and len(self._entries) * 10 <= limits.transactions * 9
            ):
                break
            entry = self._entries.get(txid)
            if entry is not None:
                self._raise_floor(entry, now_s)
                removed += self.remove(txid)
        return removed

    def _raise_floor(self, entry: Entry, now_s: int) -> None:
        rate = entry.fee_sats * 1000 // entry.fee_vsize + INCREMENTAL_RELAY_FEE_SATS_PER_KVB
        self._floor_sats_per_kvb = max(rate, self.floor_sats_per_kvb(now_s))
        self._floor_since_s = now_s

    def _worst_first(self) -> list[bytes]:
        def score(txid: bytes) -> tuple[int, bytes]:
            family = [self._entries[each] for each in (txid, *self.descendants(txid))]
            own = self._entries[txid]
            together = sum(e.fee_sats for e in family) * 10**6 // sum(e.fee_vsize for e in family)
            return max(own.fee_sats * 10**6 // own.fee_vsize, together), txid

        return sorted(self._entries, key=score)
