"""Transactions of version 3: at most one unconfirmed parent, at most one small child (BIP431).

Pure. Source: elements/transactions.md 7.
"""

from collections.abc import Collection, Sequence

from sidechain.errors import InvalidTransaction
from sidechain.mempool.entry import TRUC_VERSION, Entry, Trait
from sidechain.mempool.relations import ancestors_of, descendants_of
from sidechain.primitives.transaction import Transaction

TRUC_MAX_VBYTES = 10_000
TRUC_CHILD_MAX_VBYTES = 1_000
TRUC_ANCESTORS_MAX = 2
TRUC_DESCENDANTS_MAX = 2


class TrucViolation(InvalidTransaction):
    """A rule of version 3 is broken.

    Attributes:
        sibling: the one entry that could leave to make room for this transaction.
    """

    def __init__(self, detail: str, sibling: Entry | None = None) -> None:
        super().__init__("TRUC-violation", detail)
        self.sibling = sibling


def check_single(
    tx: Transaction, vsize: int, ancestors: Collection[Entry], conflicts: Collection[Entry]
) -> None:
    """Check one transaction against what is in the mempool.

    Args:
        ancestors: those in the mempool. conflicts: what it would replace.
    Raises:
        TrucViolation: with a sibling where evicting it would help.
    """
    is_truc = tx.version == TRUC_VERSION
    if not ancestors and not is_truc:
        return
    for entry in sorted(ancestors, key=lambda each: each.txid):
        _check_heir(tx, is_truc, entry.txid, entry.wtxid, bool(entry.traits & Trait.TRUC))
    if not is_truc:
        return
    _check_size(tx, vsize, has_parent=False)
    if len(ancestors) + 1 > TRUC_ANCESTORS_MAX:
        raise TrucViolation(f"tx {_shown(tx)} would have too many ancestors")
    for parent in ancestors:
        _check_size(tx, vsize, has_parent=True)
        children = sorted(parent.children or (), key=lambda each: each.txid)
        if not children or any(child in conflicts for child in children):
            continue
        below = len(descendants_of(parent)) + 1
        alone = below == TRUC_DESCENDANTS_MAX and len(ancestors_of(children[0])) == 1
        raise TrucViolation(
            f"tx {_shown_entry(parent)} would exceed descendant count limit",
            children[0] if alone else None,
        )


def check_in_package(
    tx: Transaction, vsize: int, package: Sequence[Transaction], ancestors: Collection[Entry]
) -> None:
    """Check one transaction of a package; `check_single` has looked at the mempool alone.

    Args:
        package: in order, `tx` among them.
        ancestors: of `tx` in the mempool.
    Raises:
        TrucViolation: without a sibling.
    """
    is_truc = tx.version == TRUC_VERSION
    spent = {txin.prevout.txid for txin in tx.inputs}
    before = package[: package.index(tx)]
    parents = [other for other in before if other.txid in spent]
    if not is_truc:
        for entry in sorted(ancestors, key=lambda each: each.txid):
            _check_heir(tx, False, entry.txid, entry.wtxid, bool(entry.traits & Trait.TRUC))
        for other in parents:
            _check_heir(tx, False, other.txid, other.wtxid, other.version == TRUC_VERSION)
        return
    _check_size(tx, vsize, has_parent=False)
    if len(ancestors) + len(parents) + 1 > TRUC_ANCESTORS_MAX:
        raise TrucViolation(f"tx {_shown(tx)} would have too many ancestors")
    if not ancestors and not parents:
        return
    _check_size(tx, vsize, has_parent=True)
    _check_only_child(tx, package, parents, ancestors)


def _check_only_child(
    tx: Transaction,
    package: Sequence[Transaction],
    parents: Sequence[Transaction],
    ancestors: Collection[Entry],
) -> None:
    """The one parent is of version 3, and nothing else hangs on it or on `tx`."""
    has_child = False
    if ancestors:
        entry = next(iter(ancestors))
        parent_txid, shown = entry.txid, _shown_entry(entry)
        _check_heir(tx, True, entry.txid, entry.wtxid, bool(entry.traits & Trait.TRUC))
        has_child = bool(entry.children)
    else:
        parent = parents[0]
        parent_txid, shown = parent.txid, _shown(parent)
        _check_heir(tx, True, parent.txid, parent.wtxid, parent.version == TRUC_VERSION)
    for other in package:
        if other is tx:
            continue
        for txin in other.inputs:
            if txin.prevout.txid == parent_txid:
                raise TrucViolation(f"tx {shown} would exceed descendant count limit")
            if txin.prevout.txid == tx.txid:
                raise TrucViolation(f"tx {_shown(other)} would have too many ancestors")
    if has_child:
        raise TrucViolation(f"tx {shown} would exceed descendant count limit")


def _check_heir(
    tx: Transaction, is_truc: bool, txid: bytes, wtxid: bytes, parent_truc: bool
) -> None:
    """Version 3 spends unconfirmed outputs of version 3 only, and so do others of others."""
    if is_truc == parent_truc:
        return
    mine, theirs = ("version=3", "non-version=3") if is_truc else ("non-version=3", "version=3")
    raise TrucViolation(
        f"{mine} tx {_shown(tx)} cannot spend from {theirs} tx {_shown_ids(txid, wtxid)}"
    )


def _check_size(tx: Transaction, vsize: int, *, has_parent: bool) -> None:
    limit = TRUC_CHILD_MAX_VBYTES if has_parent else TRUC_MAX_VBYTES
    if vsize > limit:
        kind = "child tx" if has_parent else "tx"
        raise TrucViolation(
            f"version=3 {kind} {_shown(tx)} is too big: {vsize} > {limit} virtual bytes"
        )


def _shown(tx: Transaction) -> str:
    return _shown_ids(tx.txid, tx.wtxid)


def _shown_entry(entry: Entry) -> str:
    return _shown_ids(entry.txid, entry.wtxid)


def _shown_ids(txid: bytes, wtxid: bytes) -> str:
    return f"{txid[::-1].hex()} (wtxid={wtxid[::-1].hex()})"
