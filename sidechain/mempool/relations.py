"""Ancestors and descendants in the mempool, and the limits on both. Pure.

Source: elements/transactions.md 7.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from sidechain.errors import InvalidTransaction
from sidechain.mempool.entry import Entry

MAX_USAGE_BYTES = 300_000_000
MAX_ANCESTORS = 25
MAX_DESCENDANTS = 25
MAX_PACKAGE_VBYTES = 101_000
EXPIRY_S = 336 * 3600
_SCORE_POINT = 64
USAGE_PER_DESCENDANT_VBYTE = 40
"""A mempool must hold this many times the largest package, or it is no use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one mempool. Counts and sizes include the transaction itself.

    Attributes:
        bytes: memory the transactions may take, as `usage` estimates it.
    """

    bytes: int = MAX_USAGE_BYTES
    ancestors: int = MAX_ANCESTORS
    ancestor_vbytes: int = MAX_PACKAGE_VBYTES
    descendants: int = MAX_DESCENDANTS
    descendant_vbytes: int = MAX_PACKAGE_VBYTES
    expiry_s: int = EXPIRY_S

    @property
    def bytes_min(self) -> int:
        """Least `bytes` that make sense."""
        return self.descendant_vbytes * USAGE_PER_DESCENDANT_VBYTE


class ChainTooLong(InvalidTransaction):
    """A transaction has too many relatives in the mempool; the detail says which and how many."""

    def __init__(self, detail: str) -> None:
        super().__init__("too-long-mempool-chain", detail)


class Total(NamedTuple):
    """Sums over some entries: modified fees, sizes."""

    count: int  # type: ignore[assignment]  # over tuple.count
    vsize: int
    fee_sats: int


def total(entries: Iterable[Entry]) -> Total:
    """Count the entries and add them up."""
    count = vsize = fee_sats = 0
    for entry in entries:
        count += 1
        vsize += entry.vsize
        fee_sats += entry.modified_fee_sats
    return Total(count, vsize, fee_sats)


def ancestors_of(entry: Entry) -> set[Entry]:
    """Entries this one depends on, without itself."""
    found: set[Entry] = set()
    waiting = list(entry.parents or ())
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting.extend(each.parents or ())
    return found


def descendants_of(entry: Entry) -> set[Entry]:
    """Entries that depend on this one, without itself."""
    found: set[Entry] = set()
    waiting = list(entry.children or ())
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting.extend(each.children or ())
    return found


def with_descendants(entries: Iterable[Entry]) -> set[Entry]:
    """The entries and all that depend on them."""
    found: set[Entry] = set()
    for entry in entries:
        if entry not in found:
            found.add(entry)
            found |= descendants_of(entry)
    return found


def family_total(entry: Entry) -> Total:
    """Sums over an entry and its descendants."""
    own = Total(1, entry.vsize, entry.modified_fee_sats)
    if entry.children is None:
        return own
    below = total(descendants_of(entry))
    return Total(*map(sum, zip(own, below, strict=True)))


def by_depth_and_score(entries: Iterable[Entry]) -> list[Entry]:
    """Entries by number of ancestors, then best fee rate first, then highest txid first.

    Parents stand before their children. Fees count without what was added in thought.
    """
    ordered = sorted(entries, key=_txid, reverse=True)
    ordered.sort(key=lambda entry: -((entry.fee_sats << _SCORE_POINT) // entry.vsize))
    ordered.sort(key=lambda entry: len(ancestors_of(entry)) if entry.parents else 0)
    return ordered


def find_ancestors(
    parents: Iterable[Entry], vsize: int, limits: Limits, *, count: int = 1, name: str = "parents"
) -> set[Entry]:
    """Ancestors of something that is about to enter, checked in Elements' order.

    The sums suppose that nothing leaves for it.

    Args:
        parents: in the order of its inputs; repeated ones count once.
        vsize: of what enters. count: number of transactions that enter together.
    Raises:
        ChainTooLong: with the limit in the detail.
    """
    staged: set[Entry] = set()
    for parent in parents:
        staged.add(parent)
        if len(staged) + count > limits.ancestors:
            raise ChainTooLong(f"too many unconfirmed {name} [limit: {limits.ancestors}]")
    found: set[Entry] = set()
    together = vsize
    while staged:
        entry = min(staged, key=_txid)
        staged.remove(entry)
        found.add(entry)
        together += entry.vsize
        _check_room(entry, vsize, count, together, limits)
        for parent in entry.parents or ():
            if parent not in found:
                staged.add(parent)
            if len(staged) + len(found) + count > limits.ancestors:
                raise ChainTooLong(f"too many unconfirmed ancestors [limit: {limits.ancestors}]")
    return found


def _check_room(entry: Entry, vsize: int, count: int, together: int, limits: Limits) -> None:
    family = family_total(entry)
    shown = entry.txid[::-1].hex()
    if family.vsize + vsize > limits.descendant_vbytes:
        limit = limits.descendant_vbytes
        raise ChainTooLong(f"exceeds descendant size limit for tx {shown} [limit: {limit}]")
    if family.count + count > limits.descendants:
        raise ChainTooLong(f"too many descendants for tx {shown} [limit: {limits.descendants}]")
    if together > limits.ancestor_vbytes:
        raise ChainTooLong(f"exceeds ancestor size limit [limit: {limits.ancestor_vbytes}]")


def _txid(entry: Entry) -> bytes:
    return entry.txid
