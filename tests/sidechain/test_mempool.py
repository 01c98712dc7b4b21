"""The mempool alone: relations, limits, replacement, choice for a block."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidechain.crypto.hashes import sha256
from sidechain.errors import InvalidTransaction, InvariantError
from sidechain.mempool.pool import Entry, Limits, Mempool
from sidechain.mempool.selection import select
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import OutPoint, Transaction, TxIn, TxOut

ASSET = explicit_asset(b"\7" * 32)
SCRIPT = b"\x00\x14" + bytes(20)


def outside(name: str) -> OutPoint:
    """A confirmed coin."""
    return OutPoint(sha256(name.encode()), 0)


def spend(*points: OutPoint, outputs: int = 1, size: int = 0) -> Transaction:
    script = SCRIPT + b"\0" * size
    return Transaction.build(
        inputs=[TxIn(point) for point in points],
        outputs=[TxOut(ASSET, explicit_value(1_000 + i), NULL, script) for i in range(outputs)],
    )


def entry(tx: Transaction, fee: int = 1_000, time_s: int = 0, **fields: Any) -> Entry:
    fields.setdefault("sigop_cost", 0)
    return Entry(
        tx=tx, fee_sats=fee, vsize=tx.vsize, fee_vsize=tx.vsize, time_s=time_s, height=1, **fields
    )


def accept(mempool: Mempool, tx: Transaction, fee: int = 1_000, now_s: int = 0) -> Transaction:
    new = entry(tx, fee, now_s)
    mempool.check_limits(new, mempool.check_replacement(tx, fee, tx.vsize))
    mempool.add(new, now_s)
    return tx


def out(tx: Transaction, index: int = 0) -> OutPoint:
    return OutPoint(tx.txid, index)


def block_of(*transactions: Transaction) -> Block:
    header = BlockHeader(
        version=1, prev_hash=bytes(32), merkle_root=bytes(32), time=0, height=1, challenge=b"\x51"
    )
    return Block(header, transactions)


def test_add_when_chained_then_related_and_spendable() -> None:
    mempool = Mempool()
    parent = accept(mempool, spend(outside("a")))
    child = accept(mempool, spend(out(parent)))
    assert mempool.ancestors(child.txid) == {parent.txid}
    assert mempool.descendants(parent.txid) == {child.txid}
    coin = mempool.coin(out(parent))
    assert coin is not None and coin.script == SCRIPT and not coin.coinbase
    assert mempool.coin(out(parent, 1)) is None
    assert mempool.coin(outside("a")) is None
    assert mempool.spender(out(parent)) == child.txid
    assert mempool.size_bytes == parent.total_size + child.total_size


def test_add_when_twice_then_invariant_error() -> None:
    mempool = Mempool()
    tx = accept(mempool, spend(outside("a")))
    with pytest.raises(InvariantError):
        mempool.add(entry(tx), 0)


def test_block_when_it_holds_a_parent_then_child_stays() -> None:
    mempool = Mempool()
    parent = accept(mempool, spend(outside("a")))
    child = accept(mempool, spend(out(parent)))
    assert mempool.remove_for_block(block_of(parent)) == []
    assert mempool.txids() == [child.txid]
    assert mempool.ancestors(child.txid) == set()


def test_block_when_it_spends_the_same_then_conflict_and_children_leave() -> None:
    mempool = Mempool()
    first = accept(mempool, spend(outside("a")))
    child = accept(mempool, spend(out(first)))
    other = accept(mempool, spend(outside("b")))
    rival = spend(outside("a"), outputs=2)
    assert mempool.remove_for_block(block_of(rival)) == [first, child]
    assert mempool.transactions() == [other]
    assert mempool.size_bytes == other.total_size


def test_conflict_when_fee_not_higher_then_refused() -> None:
    mempool = Mempool()
    accept(mempool, spend(outside("a")), fee=1_000)
    rival = spend(outside("a"), outputs=2)
    for fee in (500, 1_000, 1_010):
        with pytest.raises(InvalidTransaction, match="insufficient fee"):
            mempool.check_replacement(rival, fee, rival.vsize)


def test_conflict_when_fee_higher_then_replaced_with_descendants() -> None:
    mempool = Mempool()
    first = accept(mempool, spend(outside("a")), fee=1_000)
    child = accept(mempool, spend(out(first)), fee=1_000)
    rival = spend(outside("a"), outputs=2)
    with pytest.raises(InvalidTransaction, match="insufficient fee"):
        mempool.check_replacement(rival, 2_000, rival.vsize)
    leaving = mempool.check_replacement(rival, 3_000, rival.vsize)
    assert leaving == {first.txid, child.txid}
    assert mempool.add(entry(rival, 3_000), 0) == [first, child]
    assert mempool.transactions() == [rival]


def test_replacement_when_it_needs_what_it_replaces_then_refused() -> None:
    mempool = Mempool()
    first = accept(mempool, spend(outside("a")))
    child = accept(mempool, spend(out(first)))
    rival = spend(outside("a"), out(child))
    with pytest.raises(InvalidTransaction, match="bad-txns-spends-conflicting-tx"):
        mempool.check_replacement(rival, 100_000, rival.vsize)


def test_replacement_when_it_adds_an_unconfirmed_input_then_refused() -> None:
    mempool = Mempool()
    accept(mempool, spend(outside("a")))
    other = accept(mempool, spend(outside("b")))
    rival = spend(outside("a"), out(other))
    with pytest.raises(InvalidTransaction, match="replacement-adds-unconfirmed"):
        mempool.check_replacement(rival, 100_000, rival.vsize)


def test_replacement_when_too_many_leave_then_refused() -> None:
    mempool = Mempool()
    points = [outside(f"c{i}") for i in range(101)]
    for point in points:
        accept(mempool, spend(point), fee=1)
    rival = spend(*points)
    with pytest.raises(InvalidTransaction, match="too many potential replacements"):
        mempool.check_replacement(rival, 10**8, rival.vsize)


def test_chain_when_too_long_then_refused() -> None:
    mempool = Mempool(Limits(ancestors=3, descendants=3))
    tip = spend(outside("a"), outputs=4)
    root = accept(mempool, tip)
    for _ in range(2):
        tip = accept(mempool, spend(out(tip)))
    with pytest.raises(InvalidTransaction, match="too-long-mempool-chain"):
        mempool.check_limits(entry(spend(out(tip))))
    with pytest.raises(InvalidTransaction, match="too many descendants"):
        mempool.check_limits(entry(spend(out(root, 1))))


def test_package_when_too_large_then_refused() -> None:
    mempool = Mempool(Limits(package_vbytes=500))
    root = accept(mempool, spend(outside("a"), size=300))
    with pytest.raises(InvalidTransaction, match="size limit"):
        mempool.check_limits(entry(spend(out(root), size=100)))


def test_expiry_when_old_then_leaves_with_children() -> None:
    mempool = Mempool(Limits(expiry_s=100))
    old = accept(mempool, spend(outside("a")), now_s=0)
    young = accept(mempool, spend(outside("b")), now_s=50)
    child = accept(mempool, spend(out(old)), now_s=60)
    assert mempool.expire(99) == []
    assert mempool.expire(100) == [old, child]
    assert mempool.transactions() == [young]


def test_full_when_better_comes_then_worst_leaves_and_floor_rises() -> None:
    mempool = Mempool(Limits(transactions=10))
    for i in range(10):
        accept(mempool, spend(outside(f"t{i}")), fee=1_000 + i)
    with pytest.raises(InvalidTransaction, match="mempool full"):
        accept(mempool, spend(outside("cheap")), fee=1)
    assert len(mempool) <= 10
    assert mempool.floor_sats_per_kvb(0) > 0
    before = mempool.floor_sats_per_kvb(0)
    accept(mempool, spend(outside("dear")), fee=9_000)
    assert mempool.floor_sats_per_kvb(12 * 3600) == before >> 1
    assert mempool.floor_sats_per_kvb(10**9) == 0


def test_select_when_child_pays_then_parent_comes_first() -> None:
    mempool = Mempool()
    poor = accept(mempool, spend(outside("a")), fee=10)
    middle = accept(mempool, spend(outside("b")), fee=2_000)
    rich = accept(mempool, spend(out(poor)), fee=10_000)
    assert select(mempool, 4_000_000) == [poor, rich, middle]


def test_select_when_little_room_then_best_that_fits() -> None:
    mempool = Mempool()
    large = accept(mempool, spend(outside("a"), size=2_000), fee=100_000)
    small = accept(mempool, spend(outside("b")), fee=1_000)
    assert select(mempool, small.weight_wu) == [small]
    assert select(mempool, large.weight_wu + small.weight_wu) == [large, small]
    assert select(mempool, 10) == []


def test_select_when_many_sigops_then_left_out() -> None:
    mempool = Mempool()
    heavy = spend(outside("a"))
    mempool.add(entry(heavy, 9_000, sigop_cost=79_000), 0)
    second = spend(outside("b"))
    mempool.add(entry(second, 8_000, sigop_cost=2_000), 0)
    assert select(mempool, 4_000_000) == [heavy]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 12), min_size=1, max_size=3), st.integers(0, 5_000)),
        max_size=14,
    ),
    st.integers(0, 8_000),
)
def test_select_when_any_graph_then_topological_and_within_weight(
    shapes: Sequence[tuple[list[int], int]], weight: int
) -> None:
    mempool = Mempool()
    added: list[Transaction] = []
    for number, (sources, fee) in enumerate(shapes):
        points = {
            out(added[s], number) if s < len(added) else outside(f"{number}.{s}") for s in sources
        }
        tx = spend(*sorted(points), outputs=20)
        new = entry(tx, fee)
        mempool.check_limits(new)
        mempool.add(new, 0)
        added.append(tx)
    chosen = select(mempool, weight)
    assert sum(tx.weight_wu for tx in chosen) <= weight
    seen: set[bytes] = set()
    for tx in chosen:
        assert mempool.ancestors(tx.txid) <= seen
        seen.add(tx.txid)
    assert select(mempool, 10**9) != [] or not added
    assert len(select(mempool, 10**9)) == len(added)
    for tx in added:
        mempool.remove(tx.txid)
    assert (len(mempool), mempool.size_bytes) == (0, 0)
