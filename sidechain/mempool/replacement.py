"""When a transaction takes the place of others: by conflict (BIP125) or as a sibling. Pure.

Rule numbers are BIP125's, with the reference's addition of a rule 6. A transaction can be
replaced when it says so by a sequence number, or obeys BIP431.

Source: elements/transactions.md 7.
"""

from collections.abc import Iterable, Sequence

from sidechain.errors import InvalidTransaction
from sidechain.mempool.entry import Entry
from sidechain.mempool.pool import Mempool
from sidechain.mempool.relations import descendants_of, total, with_descendants
from sidechain.policy.fees import (
    FeeTooLow,
    fee_rate,
    format_money,
    format_rate,
    required_fee_sats,
)
from sidechain.primitives.transaction import Transaction

MAX_REPLACED = 100


class TooManyReplaced(Exception):
    """Rule 5 is broken. The text says by how many."""


def check_replacement(
    tx: Transaction,
    entry: Entry,
    conflicts: Sequence[Entry],
    mempool: Mempool,
    *,
    incremental_sats_per_kvb: int,
    sibling: bool,
) -> set[Entry]:
    """Check that a transaction may take the place of those it conflicts with.

    Args:
        entry: what it would become.
        conflicts: what it directly conflicts with, and the sibling it evicts.
        sibling: whether one of them is such a sibling; every reason then says so.
    Returns:
        Everything that would leave: the conflicts and what depends on them.
    Raises:
        FeeTooLow: "insufficient fee": more might do.
        InvalidTransaction: it touches too much, or needs new unconfirmed coins.
    """
    suffix = " (including sibling eviction)" if sibling else ""
    shown = tx.txid[::-1].hex()
    conflicts = sorted(conflicts, key=lambda each: each.txid)
    _check_rate(entry, conflicts, shown, suffix)
    try:
        leaving = all_replaced(tx.txid, conflicts)
    except TooManyReplaced as error:
        reason = f"too many potential replacements{suffix}"
        raise InvalidTransaction(reason, str(error)) from error
    # Rule 2 looks at the parents of everything that leaves.
    known = {p for each in leaving for p in (each.parents or ())}
    for index, txin in enumerate(tx.inputs):
        parent = mempool.get(txin.prevout.txid)
        if parent is not None and parent not in known:
            raise InvalidTransaction(
                f"replacement-adds-unconfirmed{suffix}",
                f"replacement {shown} adds unconfirmed input, idx {index}",
            )
    text = fees_missing(
        tx.txid, entry.modified_fee_sats, entry.vsize, leaving, incremental_sats_per_kvb
    )
    if text is not None:
        raise FeeTooLow(f"insufficient fee{suffix}", text)
    return leaving


def all_replaced(txid: bytes, conflicts: Sequence[Entry]) -> set[Entry]:
    """Rule 5: the conflicts with their descendants, if they are not too many.

    A descendant of two conflicts counts twice.

    Raises:
        TooManyReplaced: with the text of the reason.
    """
    count = 0
    for each in sorted(conflicts, key=lambda each: each.txid):
        count += 1 + len(descendants_of(each))
        if count > MAX_REPLACED:
            raise TooManyReplaced(
                f"rejecting replacement {txid[::-1].hex()}; too many potential replacements "
                f"({count} > {MAX_REPLACED})"
            )
    return with_descendants(conflicts)


def fees_missing(
    txid: bytes, fee: int, vsize: int, leaving: Iterable[Entry], incremental_sats_per_kvb: int
) -> str | None:
    """Rules 3 and 4: pay what leaves paid, and for the own relaying on top.

    Returns:
        What is wrong, or None.
    """
    shown = txid[::-1].hex()
    paid = total(leaving).fee_sats
    if fee < paid:
        return (
            f"rejecting replacement {shown}, less fees than conflicting txs; "
            f"{format_money(fee)} < {format_money(paid)}"
        )
    needed = required_fee_sats(vsize, incremental_sats_per_kvb)
    if fee - paid < needed:
        return (
            f"rejecting replacement {shown}, not enough additional fees to relay; "
            f"{format_money(fee - paid)} < {format_money(needed)}"
        )
    return None


def _check_rate(entry: Entry, conflicts: Sequence[Entry], shown: str, suffix: str) -> None:
    """Rule 6: the fee rate rises over each direct conflict; rates are compared rounded."""
    rate = fee_rate(entry.modified_fee_sats, entry.vsize)
    for each in conflicts:
        old = each.fee_rate
        if rate <= old:
            raise FeeTooLow(
                f"insufficient fee{suffix}",
                f"rejecting replacement {shown}; new feerate {format_rate(rate)} <= "
                f"old feerate {format_rate(old)}",
            )


def improves_diagram(leaving: set[Entry], fee: int, vsize: int) -> str | None:
    """Whether a package of one parent and one child makes the best blocks better.

    Both sides are compared as the fees of the best chunks up to any size. What leaves must stand
    in clusters of at most two transactions: others are not computed.

    Returns:
        What is wrong, or None.
    """
    for each in sorted(leaving, key=lambda each: each.txid):
        text = _too_related(each)
        if text is not None:
            return text
    old: list[tuple[int, int]] = []
    new = [(fee, vsize)]
    for each in leaving:
        if each.children:
            continue  # counted with its child
        own = each.modified_fee_sats, each.vsize
        parents = list(each.parents or ())
        if not parents:
            old.append(own)
            continue
        parent = parents[0].modified_fee_sats, parents[0].vsize
        together = own[0] + parent[0], own[1] + parent[1]
        if own[0] * together[1] > together[0] * own[1]:
            old.append(together)
        else:
            old += [parent, own]
    for each in leaving:
        for above in each.parents or ():
            if above not in leaving:
                new.append((above.modified_fee_sats, above.vsize))
    if _is_better(new, old):
        return None
    return "insufficient feerate: does not improve feerate diagram"


def _too_related(entry: Entry) -> str | None:
    shown = entry.txid[::-1].hex()
    above = _count(entry, "parents")
    below = _count(entry, "children")
    if above > 1:
        return f"{shown} has {above} ancestors, max 1 allowed"
    if below > 1:
        return f"{shown} has {below} descendants, max 1 allowed"
    if above and below:
        return f"{shown} has both ancestor and descendant, exceeding cluster limit of 2"
    for child in entry.children or ():
        if _count(child, "parents") > 1:
            other = child.txid[::-1].hex()
            return f"{shown} is not the only parent of child {other}"
    for parent in entry.parents or ():
        if _count(parent, "children") > 1:
            other = parent.txid[::-1].hex()
            return f"{shown} is not the only child of parent {other}"
    return None


def _count(entry: Entry, direction: str) -> int:
    """Ancestors or descendants, without the entry."""
    seen: set[Entry] = set()
    waiting = [entry]
    while waiting:
        for each in getattr(waiting.pop(), direction) or ():
            if each not in seen:
                seen.add(each)
                waiting.append(each)
    return len(seen)


def _is_better(new: list[tuple[int, int]], old: list[tuple[int, int]]) -> bool:
    """Whether the first diagram is nowhere below the second and somewhere above it.

    Between its corners a diagram is straight, behind its end it is level: it is enough to look
    at the corners of both.
    """
    first, second = _corners(new), _corners(old)
    above = False
    for size in sorted({size for size, _ in first} | {size for size, _ in second}):
        mine, theirs = _height(first, size), _height(second, size)
        ahead = mine[0] * theirs[1] - theirs[0] * mine[1]
        if ahead < 0:
            return False
        above = above or ahead > 0
    return above


def _corners(chunks: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sums of size and fee, best chunks first."""
    ordered = sorted(chunks, key=lambda chunk: -(chunk[0] << 64) // chunk[1])
    corners = [(0, 0)]
    for fee, vsize in ordered:
        corners.append((corners[-1][0] + vsize, corners[-1][1] + fee))
    return corners


def _height(corners: list[tuple[int, int]], size: int) -> tuple[int, int]:
    """Fee of a diagram at a size, as a fraction with a positive denominator."""
    for (left, low), (right, high) in zip(corners, corners[1:], strict=False):
        if left <= size <= right:
            return low * (right - left) + (high - low) * (size - left), right - left
    return corners[-1][1], 1
