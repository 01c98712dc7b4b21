"""Accepted transactions that are not in a block yet: relations, conflicts, size, expiry. Pure.

What comes here was judged by `admission`; nothing about coins or scripts is known. Time is an
argument. Source: elements/transactions.md 7.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from sidechain.errors import InvariantError
from sidechain.mempool.entry import Entry, Trait
from sidechain.mempool.eviction import RollingFee, WorstFirst
from sidechain.mempool.relations import (
    Limits,
    ancestors_of,
    by_depth_and_score,
    descendants_of,
    family_total,
    with_descendants,
)
from sidechain.params import INCREMENTAL_RELAY_FEE_SATS_PER_KVB
from sidechain.policy.fees import fee_rate
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.validation.coins import Coin

MEMPOOL_HEIGHT = 0x7FFFFFFF
"""Height of coins that no block holds yet."""
RECENT_DECODED = 64
"""Transactions kept decoded: children often come right behind their parents."""

_ENTRY_USAGE_BYTES = 790
_INPUT_USAGE_BYTES = 224
_OUTPUT_USAGE_BYTES = 120
_LINK_USAGE_BYTES = 128
_SHORT_SCRIPT_BYTES = 28
_LONG_SCRIPT_USAGE_BYTES = 16


def usage_bytes(tx: Transaction) -> int:
    """Memory that elementsd would count for a transaction, about; what `Limits.bytes` bounds.

    Measured beside elementsd 28.99: entry, inputs and outputs at fixed prices, long scripts and
    witnesses by their bytes. What is kept here is smaller.
    """
    usage = _ENTRY_USAGE_BYTES + _INPUT_USAGE_BYTES * len(tx.inputs)
    usage += _OUTPUT_USAGE_BYTES * len(tx.outputs) + len(tx.raw) - tx.base_size
    for output in tx.outputs:
        if len(output.script) > _SHORT_SCRIPT_BYTES:
            usage += len(output.script) + _LONG_SCRIPT_USAGE_BYTES
    return usage


class Mempool:
    """The owner of accepted transactions. Every method leaves it consistent or raises first."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        incremental_sats_per_kvb: int = INCREMENTAL_RELAY_FEE_SATS_PER_KVB,
    ) -> None:
        self._limits = limits or Limits()
        self._incremental = incremental_sats_per_kvb
        self._entries: dict[bytes, Entry] = {}
        self._spenders: dict[bytes, Entry] = {}
        self._deltas: dict[bytes, int] = {}
        self._recent: dict[bytes, Transaction] = {}
        self._rolling = RollingFee()
        self._worst: WorstFirst | None = None
        self._unseen: set[bytes] = set()
        self._oldest_s = 0
        self._usage = 0
        self._vbytes = 0
        self._fees_sats = 0
        self._sequence = 1

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, txid: bytes) -> bool:
        return txid in self._entries

    @property
    def usage_bytes(self) -> int:
        """Memory of all transactions, by estimate."""
        return self._usage

    @property
    def vbytes(self) -> int:
        """Virtual bytes of all transactions."""
        return self._vbytes

    @property
    def fees_sats(self) -> int:
        """What all transactions pay, without anything added in thought."""
        return self._fees_sats

    @property
    def limits(self) -> Limits:
        """The bounds in force."""
        return self._limits

    @property
    def sequence(self) -> int:
        """Grows by one with every transaction that enters or leaves; 1 at the start."""
        return self._sequence

    @property
    def deltas(self) -> Mapping[bytes, int]:
        """What `prioritise` added to fees, by txid, of transactions here or not."""
        return self._deltas

    @property
    def unbroadcast(self) -> frozenset[bytes]:
        """Own transactions that no peer has asked for yet, by txid."""
        return frozenset(self._unseen)

    def get(self, txid: bytes) -> Entry | None:
        """The entry of a transaction, or None."""
        return self._entries.get(txid)

    def txids(self) -> list[bytes]:
        """All transactions, in order of arrival."""
        return list(self._entries)

    def entries(self) -> list[Entry]:
        """All entries, in order of arrival; read them, but leave changes to the mempool."""
        return list(self._entries.values())

    def transactions(self) -> list[Transaction]:
        """All transactions, decoded: dear where there are many."""
        return [entry.tx for entry in self._entries.values()]

    def each_transaction(self) -> Iterator[Transaction]:
        """All transactions, decoded one by one as they are asked for."""
        return (entry.tx for entry in self._entries.values())

    def claims(self) -> list[Transaction]:
        """The transactions that claim deposits."""
        return [entry.tx for entry in self._entries.values() if entry.traits & Trait.CLAIM]

    def tx(self, txid: bytes) -> Transaction | None:
        """A transaction, decoded, or None."""
        known = self._recent.get(txid)
        if known is None:
            entry = self._entries.get(txid)
            return None if entry is None else entry.tx
        return known if txid in self._entries else None

    def coin(self, outpoint: OutPoint, height: int = MEMPOOL_HEIGHT) -> Coin | None:
        """An output of a transaction in here, spent in here or not; None for any other.

        Outputs that burn are coins here, as in elementsd: their script refuses to be spent. A fee
        output is none. elementsd has it here too, and its empty script lets anyone take it; but
        no block could hold that.

        Args:
            height: of the coin; by default one above all blocks.
        """
        if outpoint.txid not in self._entries:
            return None
        tx = self.tx(outpoint.txid)
        if tx is None or outpoint.index >= len(tx.outputs):
            return None
        output = tx.outputs[outpoint.index]
        return Coin.of(output, height=height, coinbase=False) if output.script else None

    def spender(self, outpoint: OutPoint) -> bytes | None:
        """Txid of the transaction in here that spends an output or claims a deposit, or None."""
        entry = self._spenders.get(outpoint.serialize())
        return None if entry is None else entry.txid

    def conflicts(self, tx: Transaction) -> list[Entry]:
        """Entries that spend what `tx` spends, in the order of its inputs, `tx` itself too."""
        spenders = self._spenders
        found: list[Entry] = []
        for txin in tx.inputs:
            entry = spenders.get(txin.prevout.serialize())
            if entry is not None and entry not in found:
                found.append(entry)
        return found

    def parents_of(self, tx: Transaction) -> list[Entry]:
        """Entries whose outputs `tx` spends, in the order of its inputs."""
        entries = self._entries
        found = [entries.get(txin.prevout.txid) for txin in tx.inputs]
        return list(dict.fromkeys([entry for entry in found if entry is not None]))

    def ancestors(self, txid: bytes) -> set[bytes]:
        """Unconfirmed transactions this one depends on, without itself."""
        return {entry.txid for entry in ancestors_of(self._entries[txid])}

    def descendants(self, txid: bytes) -> set[bytes]:
        """Transactions in here that depend on this one, without itself."""
        return {entry.txid for entry in descendants_of(self._entries[txid])}

    def floor_sats_per_kvb(self, now_s: int) -> int:
        """Fee rate below which nothing is taken: 0 until the mempool was full, then it fades."""
        fill = self._usage, self._limits.bytes
        return self._rolling.minimum(now_s, fill, self._incremental)

    # -- changes

    def add(self, entry: Entry, tx: Transaction, leaving: Iterable[Entry] = ()) -> None:
        """Take in a transaction that was judged.

        Args:
            tx: the same transaction, decoded.
            leaving: what it replaces; of everything that conflicts, the descendants too.
        Raises:
            InvariantError: it is in here already, or a conflict does not leave.
        """
        gone = set(leaving)
        if entry.txid in self._entries:
            raise InvariantError("a transaction is added to the mempool twice")
        if gone and with_descendants(gone) != gone:
            raise InvariantError("a transaction is replaced without its descendants")
        if any(conflict not in gone for conflict in self.conflicts(tx)):
            raise InvariantError("a transaction enters the mempool beside its conflict")
        for each in gone:
            self._forget(each)
        for txin in tx.inputs:
            self._spenders[txin.prevout.serialize()] = entry
            parent = self._entries.get(txin.prevout.txid)
            if parent is not None:
                self._link(parent, entry)
        if not self._entries or entry.time_s < self._oldest_s:
            self._oldest_s = entry.time_s
        self._entries[entry.txid] = entry
        self._usage += usage_bytes(tx)
        self._vbytes += entry.vsize
        self._fees_sats += entry.fee_sats
        self._sequence += 1
        self._remember(tx)
        self._score_again(entry)

    def adopt(self, txids: Sequence[bytes]) -> list[Entry]:
        """Give transactions that came back from blocks their children in here.

        Args:
            txids: in the order of the blocks; children among them are known already.
        Returns:
            Entries that have too many ancestors now; the caller removes them.
        """
        back = set(txids)
        for txid in txids:
            entry, tx = self._entries.get(txid), self.tx(txid)
            if entry is not None and tx is not None:
                for child in self._children_of(tx):
                    if child.txid not in back:
                        self._link(entry, child)
                self._score_again(entry)
        found = with_descendants(self._entries[txid] for txid in txids if txid in self)
        crowded: list[Entry] = []
        for entry in by_depth_and_score(each for each in found if each.txid not in back):
            # Parents stand before their children again.
            self._entries[entry.txid] = self._entries.pop(entry.txid)
            above = ancestors_of(entry)
            vbytes = entry.vsize + sum(each.vsize for each in above)
            many = len(above) + 1 > self._limits.ancestors
            if many or vbytes > self._limits.ancestor_vbytes:
                crowded.append(entry)
        return crowded

    def prioritise(self, txid: bytes, delta_sats: int) -> None:
        """Count a transaction, here now or later, as paying so much more."""
        changed = self._deltas.get(txid, 0) + delta_sats
        self._deltas[txid] = changed
        if not changed:
            del self._deltas[txid]
        entry = self._entries.get(txid)
        if entry is not None:
            entry.delta_sats = changed
            self._score_again(entry)

    def mark_own(self, txid: bytes) -> None:
        """A transaction in here is this node's own: it is unseen by peers so far."""
        if txid in self._entries:
            self._unseen.add(txid)

    def mark_seen(self, txid: bytes) -> None:
        """A peer has asked for a transaction."""
        self._unseen.discard(txid)

    def remove(self, *txids: bytes) -> list[Entry]:
        """Drop transactions and all that depends on them; those not in here are passed over.

        Returns:
            The entries dropped, by txid.
        """
        found = [self._entries[txid] for txid in txids if txid in self._entries]
        removed = sorted(with_descendants(found), key=lambda entry: entry.txid)
        for entry in removed:
            self._forget(entry)
        return removed

    def remove_for_block(self, block: Block) -> list[Entry]:
        """Drop what a new block contains, and whatever conflicts with it.

        Returns:
            The entries that conflicted, with those that depended on them.
        """
        conflicted: list[Entry] = []
        for tx in block.transactions:
            self._deltas.pop(tx.txid, None)
            entry = self._entries.get(tx.txid)
            if entry is not None:
                self._forget(entry, tx if entry.raw == tx.raw else None)
            for conflict in self.conflicts(tx):
                self._deltas.pop(conflict.txid, None)
                conflicted += self.remove(conflict.txid)
        self._rolling.block_connected()
        return conflicted

    def remove_children_of(self, tx: Transaction) -> list[Entry]:
        """Drop whatever spends outputs of a transaction that is not in here."""
        return self.remove(*{entry.txid: None for entry in self._children_of(tx)})

    def clear(self) -> list[Entry]:
        """Drop everything and return it in order of arrival."""
        removed = self.entries()
        self._worst = None
        for entry in removed:
            self._forget(entry)
        return removed

    def limit(self, now_s: int) -> list[Entry]:
        """Drop what has waited too long, then the worst paying until the rest has room.

        Returns:
            The entries dropped, descendants included.
        """
        return self._expire(now_s) + self._trim()

    # -- inside

    def _children_of(self, tx: Transaction) -> list[Entry]:
        places = (OutPoint(tx.txid, index) for index in range(len(tx.outputs)))
        found = (self._spenders.get(place.serialize()) for place in places)
        return [entry for entry in found if entry is not None]

    def _expire(self, now_s: int) -> list[Entry]:
        cutoff_s = now_s - self._limits.expiry_s
        if not self._entries or self._oldest_s >= cutoff_s:
            return []
        entries = self._entries.values()
        old = [entry.txid for entry in entries if entry.time_s < cutoff_s]
        removed = self.remove(*old)
        self._oldest_s = min((entry.time_s for entry in self._entries.values()), default=0)
        return removed

    def _trim(self) -> list[Entry]:
        removed: list[Entry] = []
        while self._entries and self._usage > self._limits.bytes:
            if self._worst is None or len(self._worst) > 2 * len(self._entries) + 1_000:
                self._worst = WorstFirst(self._entries.values())
            entry = self._worst.pop(self._entries)
            if entry is None:
                raise InvariantError("no transaction of a full mempool can leave")
            family = family_total(entry)
            rate = fee_rate(family.fee_sats, family.vsize)
            self._rolling.evicted(rate + self._incremental)
            for each in with_descendants([entry]):
                removed.append(each)
                self._forget(each)
        if self._usage * 2 < self._limits.bytes:
            self._worst = None
        return removed

    def _score_again(self, entry: Entry) -> None:
        """An entry is new or pays differently: so do those it depends on."""
        if self._worst is not None:
            for each in (entry, *ancestors_of(entry)):
                self._worst.push(each)

    def _forget(self, entry: Entry, tx: Transaction | None = None) -> None:
        """Drop one transaction; its children stay, now without this parent.

        Args:
            tx: the transaction, where the caller has it decoded.
        """
        tx = tx or self.tx(entry.txid) or entry.tx
        above = ancestors_of(entry) if self._worst is not None else ()
        del self._entries[entry.txid]
        self._recent.pop(entry.txid, None)
        self._unseen.discard(entry.txid)
        for txin in tx.inputs:
            del self._spenders[txin.prevout.serialize()]
        for parent in tuple(entry.parents or ()):
            self._unlink(parent, entry)
        for child in tuple(entry.children or ()):
            self._unlink(entry, child)
        self._usage -= usage_bytes(tx)
        self._vbytes -= entry.vsize
        self._fees_sats -= entry.fee_sats
        self._sequence += 1
        if self._worst is not None:
            for each in above:
                self._worst.push(each)

    def _link(self, parent: Entry, child: Entry) -> None:
        if parent.children is None:
            parent.children = set()
        if child.parents is None:
            child.parents = set()
        if child not in parent.children:
            self._usage += _LINK_USAGE_BYTES
            parent.children.add(child)
            child.parents.add(parent)

    def _unlink(self, parent: Entry, child: Entry) -> None:
        self._usage -= _LINK_USAGE_BYTES
        if parent.children is not None:
            parent.children.discard(child)
            parent.children = parent.children or None
        if child.parents is not None:
            child.parents.discard(parent)
            child.parents = child.parents or None

    def _remember(self, tx: Transaction) -> None:
        self._recent[tx.txid] = tx
        if len(self._recent) > RECENT_DECODED:
            del self._recent[next(iter(self._recent))]
