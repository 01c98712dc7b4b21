"""The mempool alone: relations, sums, limits in time and size, choice for a block."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sidechain.crypto.hashes import sha256
from sidechain.errors import InvalidTransaction, InvariantError
from sidechain.mempool.admission import enter
from sidechain.mempool.entry import Entry
from sidechain.mempool.eviction import ROLLING_FEE_HALF_LIFE_S, RollingFee, faded
from sidechain.mempool.pool import MEMPOOL_HEIGHT, RECENT_DECODED, Mempool, usage_bytes
from sidechain.mempool.relations import (
    Limits,
    ancestors_of,
    by_depth_and_score,
    descendants_of,
    find_ancestors,
    with_descendants,
)
from sidechain.mempool.selection import select
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import OutPoint, Transaction, TxIn, TxOut
from tests.sidechain.example_chain import example_params
from tests.sidechain.mempool_world import MempoolWorld

PARAMS = example_params()
ASSET = explicit_asset(b"\7" * 32)
SCRIPT = b"\x00\x14" + bytes(20)
INCREMENT = 100


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
    fields = {"sigop_cost": 0, "traits": 0, "height": 1, "params": PARAMS} | fields
    return Entry(tx, fee_sats=fee, time_s=time_s, **fields)


def accept(mempool: Mempool, tx: Transaction, fee: int = 1_000, now_s: int = 0) -> Transaction:
    leaving = with_descendants(mempool.conflicts(tx))
    mempool.add(entry(tx, fee, now_s), tx, leaving)
    return tx


def out(tx: Transaction, index: int = 0) -> OutPoint:
    return OutPoint(tx.txid, index)


def block_of(*transactions: Transaction) -> Block:
    header = BlockHeader(
        version=1, prev_hash=bytes(32), merkle_root=bytes(32), time=0, height=1, challenge=b"\x51"
    )
    return Block(header, transactions)


def ids(*txs: Transaction) -> list[bytes]:
    return [tx.txid for tx in txs]


def test_add_when_chained_then_related_and_spendable() -> None:
    mempool = Mempool()
    parent = accept(mempool, spend(outside("a")))
    child = accept(mempool, spend(out(parent)), fee=500)
    assert mempool.ancestors(child.txid) == {parent.txid}
    assert mempool.descendants(parent.txid) == {child.txid}
    coin = mempool.coin(out(parent))
    assert coin is not None and coin.script == SCRIPT and not coin.coinbase
    assert coin.height == MEMPOOL_HEIGHT
    assert mempool.coin(out(parent, 1)) is None
    assert mempool.coin(outside("a")) is None
    assert mempool.spender(out(parent)) == child.txid
    assert mempool.usage_bytes == usage_bytes(parent) + usage_bytes(child) + 128
    assert (mempool.vbytes, mempool.fees_sats) == (parent.vsize + child.vsize, 1_500)
    assert mempool.sequence == 3


def test_add_when_twice_or_beside_a_conflict_then_invariant_error() -> None:
    mempool = Mempool()
    tx = accept(mempool, spend(outside("a")))
    child = accept(mempool, spend(out(tx)))
    with pytest.raises(InvariantError, match="twice"):
        mempool.add(entry(tx), tx)
    rival = spend(outside("a"), outputs=2)
    with pytest.raises(InvariantError, match="beside its conflict"):
        mempool.add(entry(rival), rival)
    conflict = mempool.get(tx.txid)
    assert conflict is not None
    with pytest.raises(InvariantError, match="without its descendants"):
        mempool.add(entry(rival), rival, [conflict])
    assert mempool.txids() == ids(tx, child)


def test_recent_transactions_when_many_then_others_are_decoded_again() -> None:
    mempool = Mempool()
    txs = [accept(mempool, spend(outside(f"r{i}"))) for i in range(RECENT_DECODED + 2)]
    assert mempool.tx(txs[0].txid) == txs[0] and mempool.tx(txs[0].txid) is not txs[0]
    assert mempool.tx(txs[-1].txid) is txs[-1]
    mempool.remove(txs[-1].txid)
    assert mempool.tx(txs[-1].txid) is None


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
    mempool.prioritise(first.txid, 5)
    rival = spend(outside("a"), outputs=2)
    left = mempool.remove_for_block(block_of(rival))
    assert {each.txid for each in left} == {first.txid, child.txid}
    assert mempool.transactions() == [other] and not mempool.deltas
    assert mempool.vbytes == other.vsize


def test_prioritise_when_repeated_then_added_up_and_forgotten_at_zero() -> None:
    mempool = Mempool()
    tx = spend(outside("a"))
    mempool.prioritise(tx.txid, 70)
    mempool.prioritise(tx.txid, -20)
    assert mempool.deltas == {tx.txid: 50}
    mempool.add(entry(tx, delta_sats=50), tx)
    mempool.prioritise(tx.txid, 10)
    held = mempool.get(tx.txid)
    assert held is not None and (held.fee_sats, held.modified_fee_sats) == (1_000, 1_060)
    assert mempool.fees_sats == 1_000
    mempool.prioritise(tx.txid, -60)
    assert not mempool.deltas and held.modified_fee_sats == 1_000
    mempool.prioritise(tx.txid, 1)
    mempool.remove_for_block(block_of(tx))
    assert not mempool.deltas


def test_unbroadcast_when_seen_or_gone_then_forgotten() -> None:
    mempool = Mempool()
    one, two = accept(mempool, spend(outside("a"))), accept(mempool, spend(outside("b")))
    for txid in (one.txid, two.txid, b"x" * 32):
        mempool.mark_own(txid)
    assert mempool.unbroadcast == {one.txid, two.txid}
    mempool.mark_seen(one.txid)
    mempool.remove(two.txid)
    assert mempool.unbroadcast == frozenset()


def test_expiry_when_old_then_leaves_with_children() -> None:
    mempool = Mempool(Limits(expiry_s=100))
    young = accept(mempool, spend(outside("b")), now_s=50)
    old = accept(mempool, spend(outside("a")), now_s=0)
    child = accept(mempool, spend(out(old)), now_s=60)
    assert mempool.limit(100) == []
    assert {each.txid for each in mempool.limit(101)} == {old.txid, child.txid}
    assert mempool.transactions() == [young]
    assert mempool.limit(150) == []
    assert [each.txid for each in mempool.limit(151)] == [young.txid]
    assert mempool.limit(10**6) == []


def test_full_when_child_pays_then_its_parent_stays() -> None:
    mempool = Mempool(Limits(bytes=3 * usage_bytes(spend(outside("x"))) + 128))
    poor = accept(mempool, spend(outside("a")), fee=10)
    middle = accept(mempool, spend(outside("b")), fee=1_000)
    rich = accept(mempool, spend(out(poor)), fee=9_000)
    last = accept(mempool, spend(outside("c")), fee=2_000)
    assert [each.txid for each in mempool.limit(0)] == [middle.txid]
    assert mempool.txids() == ids(poor, rich, last)
    assert mempool.floor_sats_per_kvb(0) == 1_000 * 1_000 // middle.vsize + INCREMENT
    mempool.remove(rich.txid)
    accept(mempool, spend(outside("d")), fee=3_000)
    accept(mempool, spend(outside("e")), fee=3_000)
    assert [each.txid for each in mempool.limit(0)] == [poor.txid]


def test_full_when_worst_has_children_then_they_leave_too() -> None:
    mempool = Mempool(Limits(bytes=2 * usage_bytes(spend(outside("x")))))
    poor = accept(mempool, spend(outside("a")), fee=100)
    child = accept(mempool, spend(out(poor)), fee=200)
    accept(mempool, spend(outside("b")), fee=9_000)
    assert {each.txid for each in mempool.limit(0)} == {poor.txid, child.txid}
    both = poor.vsize + child.vsize
    assert mempool.floor_sats_per_kvb(0) == 300 * 1_000 // both + INCREMENT


def test_full_when_two_pay_the_same_then_the_younger_leaves() -> None:
    mempool = Mempool(Limits(bytes=usage_bytes(spend(outside("x")))))
    accept(mempool, spend(outside("a")), now_s=1)
    young = accept(mempool, spend(outside("b")), now_s=2)
    assert [each.txid for each in mempool.limit(0)] == [young.txid]


# --- the minimum of a full mempool ----------------------------------------------------------------

EMPTY, HALF, FULL = (0, 400), (150, 400), (300, 400)


def test_minimum_when_no_block_comes_then_it_stays() -> None:
    rolling = RollingFee()
    assert rolling.minimum(0, FULL, INCREMENT) == 0
    rolling.evicted(5_000)
    rolling.evicted(4_000)
    assert rolling.minimum(10**9, FULL, INCREMENT) == 5_000


@pytest.mark.parametrize(("fill", "share"), [(FULL, 1), (HALF, 2), (EMPTY, 4)])
def test_minimum_when_a_block_came_then_it_halves(fill: tuple[int, int], share: int) -> None:
    rolling = RollingFee()
    rolling.evicted(8_000)
    rolling.block_connected()
    assert rolling.minimum(1_000, fill, INCREMENT) == 8_000
    later = 1_000 + ROLLING_FEE_HALF_LIFE_S // share
    assert rolling.minimum(later, fill, INCREMENT) == 4_000
    assert rolling.minimum(later + 10, fill, INCREMENT) == 4_000
    assert rolling.minimum(later + 11 * share, fill, INCREMENT) < 4_000


def test_minimum_when_low_then_the_increment_and_then_nothing() -> None:
    rolling = RollingFee()
    rolling.evicted(160)
    rolling.block_connected()
    rolling.minimum(0, FULL, INCREMENT)
    assert rolling.minimum(ROLLING_FEE_HALF_LIFE_S, FULL, INCREMENT) == 100
    assert rolling.minimum(3 * ROLLING_FEE_HALF_LIFE_S, FULL, INCREMENT) == 0
    assert rolling.minimum(4 * ROLLING_FEE_HALF_LIFE_S, FULL, INCREMENT) == 0


def test_fading_when_fractions_of_a_half_life_pass_then_as_powers_of_two() -> None:
    large = 10**15
    assert faded(large, 0, 1_000) == large
    assert faded(large, 3_000, 1_000) == large // 8
    root = faded(large, 500, 1_000)
    assert abs(root * root * 2 - large * large) < large * 10**6
    third = faded(large, 1_000, 3_000)
    assert abs(third**3 * 2 - large**3) < large**2 * 10**6
    assert faded(large, 10**9, 1) == 0


# --- relations ------------------------------------------------------------------------------------


def test_order_when_shown_then_by_depth_then_rate_then_id() -> None:
    mempool = Mempool()
    dear = accept(mempool, spend(outside("a")), fee=3_000)
    same = sorted((spend(outside("b")), spend(outside("c"))), key=lambda tx: tx.txid)
    for tx in same:
        accept(mempool, tx, fee=2_000)
    child = accept(mempool, spend(out(dear)), fee=9_000)
    mempool.prioritise(same[0].txid, 10**6)
    shown = [each.txid for each in by_depth_and_score(mempool.entries())]
    assert shown == ids(dear, same[1], same[0], child)


def test_ancestors_when_counted_together_then_limits_count_all() -> None:
    mempool = Mempool()
    txs = [accept(mempool, spend(outside(f"p{i}"))) for i in range(3)]
    parents = [each for each in map(mempool.get, ids(*txs)) if each is not None]
    assert find_ancestors(parents, 100, Limits(ancestors=4)) == set(parents)
    with pytest.raises(InvalidTransaction, match=r"unconfirmed parents \[limit: 4\]"):
        find_ancestors(parents, 100, Limits(ancestors=4), count=2)
    with pytest.raises(InvalidTransaction, match="too many descendants"):
        find_ancestors(parents, 100, Limits(descendants=3), count=3)


def test_limits_when_named_then_a_mempool_must_hold_forty_packages() -> None:
    assert Limits().bytes_min == 40 * 101_000
    assert (Limits().bytes, Limits().expiry_s) == (300_000_000, 14 * 24 * 3600)


# --- choice for a block --------------------------------------------------------------------------


def test_select_when_child_pays_then_parent_comes_first() -> None:
    mempool = Mempool()
    poor = accept(mempool, spend(outside("a")), fee=10)
    middle = accept(mempool, spend(outside("b")), fee=2_000)
    rich = accept(mempool, spend(out(poor)), fee=10_000)
    assert select(mempool, 4_000_000) == [poor, rich, middle]
    mempool.prioritise(middle.txid, 10**6)
    assert select(mempool, 4_000_000) == [middle, poor, rich]


def test_select_when_little_room_then_best_that_fits() -> None:
    mempool = Mempool()
    large = accept(mempool, spend(outside("a"), size=2_000), fee=100_000)
    small = accept(mempool, spend(outside("b")), fee=1_000)
    assert select(mempool, small.weight_wu) == [small]
    assert select(mempool, large.weight_wu + small.weight_wu) == [large, small]
    assert select(mempool, 10) == []


def test_select_when_many_sigops_then_left_out() -> None:
    mempool = Mempool()
    heavy, second = spend(outside("a"), size=9_000), spend(outside("b"))
    mempool.add(entry(heavy, 10**6, sigop_cost=79_000), heavy)
    mempool.add(entry(second, 8_000, sigop_cost=2_000), second)
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
        added.append(accept(mempool, spend(*sorted(points), outputs=20), fee))
    chosen = select(mempool, weight)
    assert sum(tx.weight_wu for tx in chosen) <= weight
    seen: set[bytes] = set()
    for tx in chosen:
        assert mempool.ancestors(tx.txid) <= seen
        seen.add(tx.txid)
    assert len(select(mempool, 10**9)) == len(added)
    for tx in added:
        mempool.remove(tx.txid)
    assert (len(mempool), mempool.usage_bytes, mempool.vbytes, mempool.fees_sats) == (0, 0, 0, 0)


# --- any sequence of events ----------------------------------------------------------------------


class PoolMachine(RuleBasedStateMachine):
    """Whatever happens, relations are mutual, sums are right and nothing conflicts."""

    def __init__(self) -> None:
        super().__init__()
        self.world = MempoolWorld()
        small = usage_bytes(self.world.pay(self.world.coin()))
        self.world.mempool = Mempool(Limits(bytes=12 * small, expiry_s=1_000, ancestors=5))
        self.points: list[OutPoint] = [self.world.coin() for _ in range(6)]

    def _known(self) -> list[OutPoint]:
        pool, view = self.world.mempool, self.world.view
        return [p for p in self.points if p in view.coins or pool.coin(p) is not None]

    @rule(
        picks=st.lists(st.integers(0, 40), min_size=1, max_size=3),
        fee=st.integers(100, 20_000),
        version=st.sampled_from([2, 3]),
        final=st.booleans(),
    )
    def submit(self, picks: list[int], fee: int, version: int, final: bool) -> None:
        known = self._known()
        chosen = list(dict.fromkeys(known[pick % len(known)] for pick in picks))
        sequence = 0xFFFFFFFF if final else 0xFFFFFFFD
        tx = self.world.pay(*chosen, fee=fee, outputs=2, version=version, sequence=sequence)
        try:
            enter(self.world.judge(tx), self.world.mempool, self.world.now_s)
        except InvalidTransaction:
            return
        self.points += [out(tx), out(tx, 1)]

    @rule(pick=st.integers(0, 40))
    def remove(self, pick: int) -> None:
        txids = self.world.mempool.txids()
        if txids:
            self.world.mempool.remove(txids[pick % len(txids)])

    @rule(pick=st.integers(0, 40), delta=st.integers(-5_000, 5_000))
    def prioritise(self, pick: int, delta: int) -> None:
        txids = self.world.mempool.txids()
        if txids:
            self.world.mempool.prioritise(txids[pick % len(txids)], delta)

    @rule(count=st.integers(1, 3))
    def mine(self, count: int) -> None:
        chosen = select(self.world.mempool, 4_000_000)[:count]
        for tx in chosen:
            for txin in tx.inputs:
                self.world.view.coins.pop(txin.prevout, None)
            for index in range(len(tx.outputs)):
                coin = self.world.mempool.coin(out(tx, index), 1)
                if coin is not None:
                    self.world.view.coins[out(tx, index)] = coin
        self.world.mempool.remove_for_block(block_of(*chosen))
        self.points = self._known() or [self.world.coin()]

    @rule(seconds=st.integers(1, 900))
    def wait(self, seconds: int) -> None:
        self.world.now_s += seconds
        self.world.mempool.limit(self.world.now_s)

    @invariant()
    def consistent(self) -> None:
        pool = self.world.mempool
        entries = pool.entries()
        assert pool.usage_bytes == sum(
            usage_bytes(each.tx) + 128 * len(each.parents or ()) for each in entries
        )
        assert pool.usage_bytes <= pool.limits.bytes
        assert pool.vbytes == sum(each.vsize for each in entries)
        assert pool.fees_sats == sum(each.fee_sats for each in entries)
        seen: set[OutPoint] = set()
        arrived: set[Entry] = set()
        for each in entries:
            points = {txin.prevout for txin in each.tx.inputs}
            assert not points & seen, "two transactions spend one coin"
            seen |= points
            assert all(pool.spender(point) == each.txid for point in points)
            parents = {pool.get(point.txid) for point in points} - {None}
            assert (each.parents or set()) == parents <= arrived
            assert all(each in (parent.children or ()) for parent in each.parents or ())
            assert all(each in (child.parents or ()) for child in each.children or ())
            assert each not in ancestors_of(each) | descendants_of(each)
            assert all(point in self.world.view.coins or parents for point in points)
            assert each.delta_sats == pool.deltas.get(each.txid, 0)
            arrived.add(each)


PoolMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)
TestPool = PoolMachine.TestCase
