"""Transactions that take the place of others, and those that may not."""

import pytest

from sidechain.errors import InvalidTransaction
from sidechain.mempool.admission import Mode
from sidechain.mempool.replacement import MAX_REPLACED, improves_diagram
from sidechain.policy.fees import FeeTooLow, format_rate
from sidechain.primitives.transaction import OutPoint, Transaction
from tests.sidechain.mempool_world import FINAL, REPLACEABLE, MempoolWorld, out, shown


@pytest.fixture
def world() -> MempoolWorld:
    return MempoolWorld()


def rival(world: MempoolWorld, tx: Transaction, fee: int, *more: OutPoint) -> Transaction:
    """Another transaction that spends the first coin of one."""
    return world.pay(tx.inputs[0].prevout, *more, fee=fee, outputs=2)


def test_conflict_when_dearer_then_replaced_with_its_descendants(world: MempoolWorld) -> None:
    first, child = world.chain_of(2)
    new = rival(world, first, 5_000)
    leaving = world.judge(new).leaving
    assert {entry.txid for entry in leaving} == {first.txid, child.txid}
    world.accept(new)
    assert world.mempool.txids() == [new.txid]
    assert world.mempool.spender(first.inputs[0].prevout) == new.txid


@pytest.mark.parametrize("sequence", [FINAL, REPLACEABLE + 1])
def test_conflict_when_the_old_one_is_final_then_refused(
    world: MempoolWorld, sequence: int
) -> None:
    first = world.accept(world.pay(world.coin(), sequence=sequence))
    assert world.refusal(rival(world, first, 9_000)) == "txn-mempool-conflict"
    assert world.mempool.conflicts(first) == [world.mempool.get(first.txid)]


def test_conflict_when_the_old_one_is_version_three_then_replaced(world: MempoolWorld) -> None:
    first = world.accept(world.pay(world.coin(), sequence=FINAL, version=3))
    assert world.refusal(rival(world, first, 9_000)) == ""


def test_fee_rate_when_not_higher_then_refused(world: MempoolWorld) -> None:
    first = world.accept(world.pay(world.coin(), fee=1_000))
    old = 1_000_000 // first.vsize
    new = rival(world, first, 1)
    enough = next(fee for fee in range(1_000, 9_000) if fee * 1_000 // new.vsize > old)
    low = rival(world, first, enough - 1)
    rate = format_rate((enough - 1) * 1_000 // low.vsize)
    assert world.refusal(low) == (
        f"insufficient fee, rejecting replacement {shown(low)}; new feerate {rate} <= "
        f"old feerate {format_rate(old)}"
    )
    assert world.refusal(rival(world, first, enough)) == ""


def test_fees_when_below_all_that_leaves_then_refused(world: MempoolWorld) -> None:
    first, _ = world.chain_of(2, fee=3_000)
    low = rival(world, first, 5_999)
    assert world.refusal(low) == (
        f"insufficient fee, rejecting replacement {shown(low)}, less fees than conflicting txs; "
        "0.00005999 < 0.00006"
    )


def test_fees_when_relaying_is_not_paid_then_refused(world: MempoolWorld) -> None:
    first, _ = world.chain_of(2, fee=3_000)
    needed = -(-rival(world, first, 6_000).vsize * 100 // 1_000)
    assert world.refusal(rival(world, first, 6_000 + needed)) == ""
    low = rival(world, first, 5_999 + needed)
    with pytest.raises(FeeTooLow) as refused:
        world.judge(low)
    assert str(refused.value) == (
        f"insufficient fee, rejecting replacement {shown(low)}, not enough additional fees to "
        f"relay; 0.{needed - 1:08d} < 0.{needed:08d}"
    )


def test_replaced_when_more_than_a_hundred_then_refused(world: MempoolWorld) -> None:
    parents = [world.coin() for _ in range(MAX_REPLACED + 1)]
    for point in parents:
        world.accept(world.pay(point))
    assert world.refusal(world.pay(*parents[:-1], fee=10**6)) == ""
    new = world.pay(*parents, fee=10**6)
    assert world.refusal(new) == (
        f"too many potential replacements, rejecting replacement {shown(new)}; too many "
        "potential replacements (101 > 100)"
    )


def test_descendant_when_shared_then_counted_twice(world: MempoolWorld) -> None:
    points = [world.coin() for _ in range(50)]
    parents = [world.accept(world.pay(point, outputs=2)) for point in points]
    for left, right in zip(parents[::2], parents[1::2], strict=True):
        world.accept(world.pay(out(left), out(right)))
    assert world.refusal(world.pay(*points, fee=10**6)) == ""
    world.accept(world.pay(out(parents[0], 1)))
    assert "(101 > 100)" in world.refusal(world.pay(*points, fee=10**6))


def test_new_unconfirmed_input_when_added_then_refused(world: MempoolWorld) -> None:
    first = world.accept(world.pay(world.coin()))
    other = world.accept(world.pay(world.coin()))
    new = rival(world, first, 90_000, out(other))
    assert world.refusal(new) == (
        f"replacement-adds-unconfirmed, replacement {shown(new)} adds unconfirmed input, idx 1"
    )


def test_unconfirmed_input_when_the_old_one_had_it_then_accepted(world: MempoolWorld) -> None:
    parent = world.accept(world.pay(world.coin(), outputs=3))
    first = world.accept(world.pay(out(parent)))
    assert world.refusal(rival(world, first, 90_000, out(parent, 1))) == ""


def test_replacement_when_it_needs_what_it_replaces_then_refused(world: MempoolWorld) -> None:
    first = world.accept(world.pay(world.coin(), outputs=2))
    new = rival(world, first, 90_000, out(first))
    assert world.refusal(new) == (
        f"bad-txns-spends-conflicting-tx, {shown(new)} spends conflicting transaction "
        f"{shown(first)}"
    )


def test_replacement_when_fees_count_for_more_then_modified_fees_decide(
    world: MempoolWorld,
) -> None:
    first = world.accept(world.pay(world.coin(), fee=1_000))
    new = rival(world, first, 5_000)
    world.mempool.prioritise(first.txid, 50_000)
    assert world.refusal(new).startswith("insufficient fee")
    world.mempool.prioritise(new.txid, 90_000)
    assert world.refusal(new) == ""


# --- version 3 ------------------------------------------------------------------------------------


def named(tx: Transaction) -> str:
    return f"{shown(tx)} (wtxid={tx.wtxid[::-1].hex()})"


def truc(world: MempoolWorld, tx: Transaction, mode: Mode | None = None) -> str:
    said = world.refusal(tx, mode or Mode())
    assert said.startswith("TRUC-violation, ") or not said
    return said.removeprefix("TRUC-violation, ")


def test_version_three_when_mixed_with_others_then_refused(world: MempoolWorld) -> None:
    old = world.accept(world.pay(world.coin()))
    new = world.accept(world.pay(world.coin(), version=3))
    child = world.pay(out(old), version=3)
    assert truc(world, child) == (
        f"version=3 tx {named(child)} cannot spend from non-version=3 tx {named(old)}"
    )
    child = world.pay(out(new))
    assert truc(world, child) == (
        f"non-version=3 tx {named(child)} cannot spend from version=3 tx {named(new)}"
    )


def test_version_three_when_too_large_then_refused(world: MempoolWorld) -> None:
    def sized(outputs: int) -> Transaction:
        return world.pay(world.coin(), fee=20_000, outputs=outputs, version=3)

    largest = next(n for n in range(120, 140) if sized(n + 1).vsize > 10_000)
    assert truc(world, sized(largest)) == ""
    tx = sized(largest + 1)
    assert truc(world, tx) == (
        f"version=3 tx {named(tx)} is too big: {tx.vsize} > 10000 virtual bytes"
    )


def test_version_three_when_child_is_large_then_refused(world: MempoolWorld) -> None:
    parent = world.accept(world.pay(world.coin(), version=3))

    def sized(outputs: int) -> Transaction:
        return world.pay(out(parent), fee=20_000, outputs=outputs, version=3)

    largest = next(n for n in range(8, 20) if sized(n + 1).vsize > 1_000)
    assert truc(world, sized(largest)) == ""
    tx = sized(largest + 1)
    assert truc(world, tx) == (
        f"version=3 child tx {named(tx)} is too big: {tx.vsize} > 1000 virtual bytes"
    )


def test_version_three_when_two_ancestors_then_refused(world: MempoolWorld) -> None:
    parent = world.accept(world.pay(world.coin(), version=3))
    child = world.accept(world.pay(out(parent), version=3))
    tx = world.pay(out(child), version=3)
    assert truc(world, tx) == f"tx {named(tx)} would have too many ancestors"


def test_version_three_when_second_child_then_the_first_is_evicted(world: MempoolWorld) -> None:
    parent = world.accept(world.pay(world.coin(), outputs=2, version=3))
    first = world.accept(world.pay(out(parent), fee=1_000, version=3))
    low = world.pay(out(parent, 1), fee=1_000, version=3)
    assert world.refusal(low).startswith("insufficient fee (including sibling eviction), ")
    full = f"tx {named(parent)} would exceed descendant count limit"
    assert truc(world, low, Mode(evicts_sibling=False)) == full
    second = world.accept(world.pay(out(parent, 1), fee=9_000, version=3))
    assert world.mempool.txids() == [parent.txid, second.txid]
    assert first.txid not in world.mempool


def test_version_three_when_replacing_the_child_then_no_sibling(world: MempoolWorld) -> None:
    parent = world.accept(world.pay(world.coin(), outputs=2, version=3))
    first = world.accept(world.pay(out(parent), fee=1_000, version=3))
    candidate = world.judge(world.pay(out(parent), out(parent, 1), fee=9_000, version=3))
    assert not candidate.sibling
    assert {entry.txid for entry in candidate.leaving} == {first.txid}


def test_version_three_when_descendants_came_by_a_reorganisation_then_no_eviction(
    world: MempoolWorld,
) -> None:
    parent = world.accept(world.pay(world.coin(), outputs=3, version=3))
    world.accept(world.pay(out(parent), version=3))
    entry = world.mempool.get(parent.txid)
    grown = world.pay(out(parent, 1), version=3)
    candidate = world.judge(world.pay(world.coin()))
    assert entry is not None
    world.mempool.add(candidate.entry, candidate.tx)
    entry.children = {*(entry.children or ()), candidate.entry}
    assert truc(world, grown) == f"tx {named(parent)} would exceed descendant count limit"


# --- a parent with a child ------------------------------------------------------------------------


def diagram(world: MempoolWorld, txs: list[Transaction], fee: int, vsize: int) -> str | None:
    entries = {entry for tx in txs if (entry := world.mempool.get(tx.txid)) is not None}
    return improves_diagram(entries, fee, vsize)


WORSE = "insufficient feerate: does not improve feerate diagram"


def test_diagram_when_new_chunk_pays_more_for_less_then_better(world: MempoolWorld) -> None:
    tx = world.accept(world.pay(world.coin(), fee=2_000))
    assert diagram(world, [tx], 2_001, tx.vsize) is None
    assert diagram(world, [tx], 2_000, tx.vsize - 1) is None
    assert diagram(world, [tx], 2_000, tx.vsize) == WORSE
    assert diagram(world, [tx], 1_999, tx.vsize) == WORSE
    # More money, but only behind twice the size: below the old one in between.
    assert diagram(world, [tx], 3_000, tx.vsize * 2) == WORSE


def test_diagram_when_child_pays_for_its_parent_then_one_chunk(world: MempoolWorld) -> None:
    parent, child = world.accept(world.pay(world.coin(), fee=100)), None
    child = world.accept(world.pay(out(parent), fee=5_000))
    both = parent.vsize + child.vsize
    assert diagram(world, [parent, child], 5_101, both) is None
    assert diagram(world, [parent, child], 5_099, both) == WORSE
    # The parent stays: it is part of both sides.
    assert diagram(world, [child], 5_001, child.vsize) is None
    assert diagram(world, [child], 4_999, child.vsize) == WORSE


def test_diagram_when_clusters_are_large_then_not_computed(world: MempoolWorld) -> None:
    a, b, c = world.chain_of(3)
    assert diagram(world, [c], 10**6, 100) == f"{shown(c)} has 2 ancestors, max 1 allowed"
    assert diagram(world, [a, b, c], 10**6, 100) in (
        f"{shown(a)} has 2 descendants, max 1 allowed",
        f"{shown(c)} has 2 ancestors, max 1 allowed",
        f"{shown(b)} has both ancestor and descendant, exceeding cluster limit of 2",
    )
    assert diagram(world, [b], 10**6, 100) == (
        f"{shown(b)} has both ancestor and descendant, exceeding cluster limit of 2"
    )


def test_diagram_when_relatives_are_shared_then_not_computed(world: MempoolWorld) -> None:
    left, right = world.accept(world.pay(world.coin())), world.accept(world.pay(world.coin()))
    child = world.accept(world.pay(out(left), out(right)))
    assert diagram(world, [left], 10**6, 100) == (
        f"{shown(left)} is not the only parent of child {shown(child)}"
    )
    parent = world.accept(world.pay(world.coin(), outputs=2))
    one = world.accept(world.pay(out(parent)))
    world.accept(world.pay(out(parent, 1)))
    assert diagram(world, [one], 10**6, 100) == (
        f"{shown(one)} is not the only child of parent {shown(parent)}"
    )


def test_replacement_when_refused_then_nothing_has_changed(world: MempoolWorld) -> None:
    first = world.accept(world.pay(world.coin()))
    before = world.mempool.sequence
    with pytest.raises(InvalidTransaction):
        world.accept(rival(world, first, 10))
    assert world.mempool.sequence == before and world.mempool.txids() == [first.txid]
