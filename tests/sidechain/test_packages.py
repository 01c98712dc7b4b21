"""Several transactions at once: their form, who pays for whom, and what they may replace."""

import pytest

from sidechain.errors import InvalidTransaction
from sidechain.mempool.packages import (
    MAX_PACKAGE_TRANSACTIONS,
    MAX_PACKAGE_WEIGHT_WU,
    Accepted,
    OtherWitness,
    PackageVerdict,
    check_form,
    is_child_with_parents,
    is_child_with_parents_tree,
    judge_package,
    submit_package,
)
from sidechain.mempool.pool import Mempool, usage_bytes
from sidechain.mempool.relations import Limits
from sidechain.primitives.transaction import InputWitness, OutPoint, Transaction, TxOut
from sidechain.script.script import p2wsh
from tests.sidechain.mempool_world import ANYONE, FINAL, MempoolWorld, out, shown


@pytest.fixture
def world() -> MempoolWorld:
    return MempoolWorld()


def submit(
    world: MempoolWorld, *package: Transaction, rate_max: int | None = None
) -> PackageVerdict:
    return submit_package(package, world.mempool, world.about, rate_max)


def said(verdict: PackageVerdict, tx: Transaction) -> str:
    """What became of one transaction: words of a refusal, "ok", or "-" where nothing is known."""
    match verdict.outcomes.get(tx.wtxid):
        case None:
            return "-"
        case InvalidTransaction() as error:
            return str(error)
        case OtherWitness():
            return "other witness"
    return "ok"


def pair(
    world: MempoolWorld,
    fee: int,
    child_fee: int,
    *,
    version: int = 3,
    point: OutPoint | None = None,
) -> tuple[Transaction, Transaction]:
    """A parent and its child."""
    parent = world.stage(world.pay(point or world.coin(), fee=fee, version=version))
    return parent, world.pay(out(parent), fee=child_fee, version=version)


def form(*package: Transaction) -> str:
    try:
        check_form(package)
    except InvalidTransaction as error:
        return str(error)
    return ""


def test_form_when_too_many_large_doubled_or_unsorted_then_named(world: MempoolWorld) -> None:
    txs = [world.pay(world.coin()) for _ in range(MAX_PACKAGE_TRANSACTIONS + 1)]
    assert form(*txs[:-1]) == ""
    assert form(*txs) == "package-too-many-transactions"
    assert form(txs[0], txs[0]) == "package-contains-duplicates"
    parent, child = pair(world, 100, 100)
    assert form(parent, child) == ""
    assert form(child, parent) == "package-not-sorted"
    rival = world.pay(parent.inputs[0].prevout, fee=9_000)
    assert form(parent, rival) == "conflict-in-package"


def test_form_when_together_too_heavy_then_named(world: MempoolWorld) -> None:
    def heavy(size: int) -> Transaction:
        tx = world.pay(world.coin())
        return Transaction.build(
            inputs=tx.inputs,
            outputs=tx.outputs,
            input_witnesses=[InputWitness(script=(bytes(size),))],
        )

    base = heavy(100_000).weight_wu - 100_000
    rest = MAX_PACKAGE_WEIGHT_WU - base - 200_000
    assert form(heavy(200_000), heavy(rest - base)) == ""
    assert form(heavy(200_000), heavy(rest - base + 1)) == "package-too-large"
    assert form(heavy(MAX_PACKAGE_WEIGHT_WU)) == ""


def test_topology_when_judged_then_child_last_and_parents_apart(world: MempoolWorld) -> None:
    a, b = (world.stage(world.pay(world.coin(), outputs=2)) for _ in range(2))
    child = world.pay(out(a), out(b))
    assert is_child_with_parents([a, b, child]) and is_child_with_parents_tree([a, b, child])
    assert not is_child_with_parents([child])
    assert not is_child_with_parents([a, b, world.pay(out(a))])
    second = world.stage(world.pay(out(a, 1)))
    both = world.pay(out(a), out(second))
    assert is_child_with_parents([a, second, both])
    assert not is_child_with_parents_tree([a, second, both])


# --- testing several ----------------------------------------------------------------------------


def test_tested_when_each_spends_the_one_before_then_all_allowed(world: MempoolWorld) -> None:
    parent, child = pair(world, 1_000, 2_000, version=2)
    verdict = judge_package([parent, child], world.mempool, world.about)
    assert verdict.fault is None
    outcome = verdict.outcomes[child.wtxid]
    assert isinstance(outcome, Accepted)
    assert outcome.rate_sats_per_kvb == 2_000_000 // child.vsize
    assert outcome.paid_by == (child.wtxid,)
    assert len(world.mempool) == 0


def test_tested_when_one_fails_then_the_rest_is_open(world: MempoolWorld) -> None:
    first, bad = world.pay(world.coin()), world.pay(world.coin(), fee=1)
    last = world.pay(world.coin())
    verdict = judge_package([first, bad, last], world.mempool, world.about)
    assert str(verdict.fault) == "transaction failed" and not verdict.is_policy
    assert said(verdict, first) == said(verdict, last) == "-"
    assert said(verdict, bad).startswith("min relay fee not met")


def test_tested_when_a_script_fails_then_those_before_are_judged(world: MempoolWorld) -> None:
    first, last = world.pay(world.coin()), world.pay(world.coin())
    tx = world.pay(world.coin(script=p2wsh(b"\x52")))
    verdict = judge_package([first, tx, last], world.mempool, world.about)
    assert said(verdict, first) == "ok" and said(verdict, last) == "-"
    assert "Witness program hash mismatch" in said(verdict, tx)


def test_tested_when_it_would_replace_then_refused(world: MempoolWorld) -> None:
    held = world.accept(world.pay(world.coin()))
    rival, other = world.pay(held.inputs[0].prevout, fee=9_000), world.pay(world.coin())
    verdict = judge_package([rival, other], world.mempool, world.about)
    assert said(verdict, rival) == "bip125-replacement-disallowed"


def test_tested_when_ill_formed_then_all_get_the_package_error(world: MempoolWorld) -> None:
    parent, child = pair(world, 100, 100)
    verdict = judge_package([child, parent], world.mempool, world.about)
    assert str(verdict.fault) == "package-not-sorted" and verdict.is_policy
    assert not verdict.outcomes


def test_tested_when_too_many_relatives_then_package_limits(world: MempoolWorld) -> None:
    world.mempool = Mempool(Limits(ancestors=3, descendants=2))
    txs = [world.pay(world.coin()) for _ in range(4)]
    verdict = judge_package(txs, world.mempool, world.about)
    assert str(verdict.fault) == (
        "package-mempool-limits, package count 4 exceeds ancestor count limit [limit: 3]"
    )
    verdict = judge_package(txs[:3], world.mempool, world.about)
    assert "package count 3 exceeds descendant count limit [limit: 2]" in str(verdict.fault)
    world.mempool = Mempool(Limits(ancestors=3, descendants=2))
    parent = world.accept(world.pay(world.coin(), outputs=2))
    two = [world.pay(out(parent)), world.pay(out(parent, 1))]
    verdict = judge_package(two, world.mempool, world.about)
    assert str(verdict.fault) == (
        f"package-mempool-limits, possibly too many descendants for tx {shown(parent)} [limit: 2]"
    )
    other = world.accept(world.pay(world.coin()))
    two = [world.pay(out(parent)), world.pay(out(other))]
    verdict = judge_package(two, world.mempool, world.about)
    assert str(verdict.fault) == ("package-mempool-limits, too many unconfirmed parents [limit: 3]")


@pytest.mark.parametrize("kind", ["ancestor", "descendant"])
def test_tested_when_too_large_together_then_package_limits(world: MempoolWorld, kind: str) -> None:
    txs = [world.pay(world.coin()) for _ in range(2)]
    size = sum(tx.vsize for tx in txs)
    wide = {"ancestor_vbytes": 10**6, "descendant_vbytes": 10**6}
    for limit in (size, size - 1):
        pool = Mempool(Limits(**(wide | {f"{kind}_vbytes": limit})))
        verdict = judge_package(txs, pool, world.about)
        expected = f"package size {size} exceeds {kind} size limit [limit: {limit}]"
        text = "" if limit == size else f"package-mempool-limits, {expected}"
        assert str(verdict.fault or "") == text


def test_tested_when_dust_stays_then_refused(world: MempoolWorld) -> None:
    dust = (world.output(1),)
    parent = world.stage(world.pay(world.coin(), fee=0, version=3, extra=dust))
    world.set(min_relay_fee_sats_per_kvb=0)
    child = world.pay(out(parent), version=3)
    verdict = judge_package([parent, child], world.mempool, world.about)
    wtxid = child.wtxid[::-1].hex()
    assert str(verdict.fault) == "unspent-dust" and not verdict.is_policy
    assert said(verdict, child) == (
        f"missing-ephemeral-spends, tx {shown(child)} (wtxid={wtxid}) did not spend parent's "
        "ephemeral dust"
    )
    child = world.pay(out(parent), out(parent, 1), version=3)
    assert judge_package([parent, child], world.mempool, world.about).fault is None


def test_tested_when_version_three_has_two_children_then_refused(world: MempoolWorld) -> None:
    parent = world.stage(world.pay(world.coin(), outputs=2, version=3))
    one, two = world.pay(out(parent), version=3), world.pay(out(parent, 1), version=3)
    verdict = judge_package([parent, one, two], world.mempool, world.about)
    assert verdict.is_policy and "exceed descendant count limit" in str(verdict.fault)
    child = world.stage(world.pay(out(parent), version=3))
    grandchild = world.pay(out(child), version=3)
    verdict = judge_package([parent, child, grandchild], world.mempool, world.about)
    assert "would have too many ancestors" in str(verdict.fault)
    verdict = judge_package([parent, world.pay(out(parent))], world.mempool, world.about)
    assert "non-version=3 tx" in str(verdict.fault)
    old = world.stage(world.pay(world.coin()))
    verdict = judge_package([old, world.pay(out(old), version=3)], world.mempool, world.about)
    assert "cannot spend from non-version=3 tx" in str(verdict.fault)


def test_tested_when_version_three_parent_waits_with_a_child_then_refused(
    world: MempoolWorld,
) -> None:
    parent = world.accept(world.pay(world.coin(), outputs=2, version=3))
    first = world.accept(world.pay(out(parent), version=3))
    other = world.pay(world.coin())
    second = world.pay(out(parent, 1), version=3)
    verdict = judge_package([other, second], world.mempool, world.about)
    assert "would exceed descendant count limit" in said(verdict, second)
    assert first.txid in world.mempool


# --- submitting ---------------------------------------------------------------------------------


def test_child_when_it_pays_for_a_free_parent_then_both_enter(world: MempoolWorld) -> None:
    parent, child = pair(world, 0, 5_000)
    verdict = submit(world, parent, child)
    assert verdict.fault is None
    assert world.mempool.txids() == [parent.txid, child.txid]
    outcome = verdict.outcomes[parent.wtxid]
    assert isinstance(outcome, Accepted)
    assert outcome.rate_sats_per_kvb == 5_000_000 // (parent.vsize + child.vsize)
    assert outcome.paid_by == (parent.wtxid, child.wtxid)
    again = submit(world, parent, child)
    outcome = again.outcomes[child.wtxid]
    assert isinstance(outcome, Accepted) and outcome.rate_sats_per_kvb is None


def test_child_when_it_pays_too_little_for_two_then_neither_enters(world: MempoolWorld) -> None:
    point = world.coin()
    parent, child = pair(world, 0, 1_000, point=point)
    needed = -(-(parent.vsize + child.vsize) * 100 // 1_000)
    low = world.pay(out(parent), fee=needed - 1, version=3)
    verdict = submit(world, parent, low)
    assert str(verdict.fault) == "transaction failed"
    assert said(verdict, low) == f"min relay fee not met, {needed - 1} < {needed}"
    assert said(verdict, parent).startswith("min relay fee not met, 0 <")
    assert len(world.mempool) == 0
    enough = world.pay(out(parent), fee=needed, version=3)
    assert submit(world, parent, enough).fault is None


def test_parent_when_it_does_alone_then_it_enters_alone(world: MempoolWorld) -> None:
    parent, child = pair(world, 1_000, 2, version=2)
    verdict = submit(world, parent, child)
    assert said(verdict, parent) == "ok"
    assert said(verdict, child).startswith("min relay fee not met, 2 <")
    assert world.mempool.txids() == [parent.txid]


def test_parent_when_it_is_wrong_then_nothing_is_tried_together(world: MempoolWorld) -> None:
    parent = world.stage(world.pay(world.coin(), fee=0))
    child = world.pay(out(parent), fee=9_000)
    verdict = submit(world, parent, child)
    assert str(verdict.fault) == "transaction failed"
    assert said(verdict, child) == "bad-txns-inputs-missingorspent"


def test_package_when_a_parent_is_left_out_then_refused(world: MempoolWorld) -> None:
    parent = world.stage(world.pay(world.coin()))
    outside = world.accept(world.pay(world.coin()))
    child = world.pay(out(parent), out(outside))
    verdict = submit(world, parent, child)
    assert str(verdict.fault) == "package-not-child-with-unconfirmed-parents"
    loose = world.pay(world.coin())
    assert str(submit(world, parent, loose).fault) == "package-not-child-with-parents"


def test_transaction_when_alone_then_taken_like_any(world: MempoolWorld) -> None:
    tx = world.pay(world.coin())
    verdict = submit(world, tx)
    assert verdict.fault is None and world.mempool.txids() == [tx.txid]
    low = world.pay(world.coin(), fee=0, version=3)
    assert said(submit(world, low), low).startswith("min relay fee not met")


def test_transaction_when_known_with_another_witness_then_ignored(world: MempoolWorld) -> None:
    held = world.accept(world.pay(world.coin()))
    other = Transaction.build(
        inputs=held.inputs,
        outputs=held.outputs,
        input_witnesses=[InputWitness(script=(b"x", ANYONE))],
    )
    verdict = submit(world, other)
    assert verdict.outcomes[other.wtxid] == OtherWitness(held.wtxid)


def test_rate_when_one_pays_more_than_wanted_then_refused(world: MempoolWorld) -> None:
    parent, child = pair(world, 0, 9_000)
    verdict = submit(world, parent, child, rate_max=20_000)
    assert said(verdict, child) == "max feerate exceeded"
    assert submit(world, parent, child, rate_max=10**6).fault is None


def test_package_when_it_is_the_first_to_leave_a_full_mempool_then_named(
    world: MempoolWorld,
) -> None:
    parent, child = pair(world, 0, 300)
    world.mempool = Mempool(Limits(bytes=2 * usage_bytes(child)))
    held = [world.accept(world.pay(world.coin(), fee=9_000)) for _ in range(2)]
    verdict = submit(world, parent, child)
    assert said(verdict, parent) == said(verdict, child) == "mempool full"
    assert str(verdict.fault) == "transaction failed"
    assert world.mempool.txids() == [tx.txid for tx in held]


# --- replacing as a package ---------------------------------------------------------------------


def rival_pair(
    world: MempoolWorld, held: Transaction, child_fee: int, fee: int = 0
) -> tuple[Transaction, Transaction]:
    return pair(world, fee, child_fee, point=held.inputs[0].prevout)


def test_package_when_its_child_pays_for_replacing_then_it_enters(world: MempoolWorld) -> None:
    held = world.accept(world.pay(world.coin(), fee=1_000, version=3))
    parent, child = rival_pair(world, held, 9_000)
    verdict = submit(world, parent, child)
    assert verdict.fault is None
    outcome = verdict.outcomes[parent.wtxid]
    assert isinstance(outcome, Accepted) and outcome.replaced == (held.txid,)
    assert world.mempool.txids() == [parent.txid, child.txid]


def test_package_when_it_pays_too_little_for_replacing_then_refused(world: MempoolWorld) -> None:
    held = world.accept(world.pay(world.coin(), fee=2_000, version=3))
    parent, child = rival_pair(world, held, 1_999)
    text = "package RBF failed: insufficient anti-DoS fees, rejecting replacement "
    verdict = submit(world, parent, child)
    assert str(verdict.fault) == (
        f"{text}{shown(child)}, less fees than conflicting txs; 0.00001999 < 0.00002"
    )
    assert verdict.is_policy
    needed = -(-(parent.vsize + child.vsize) * 100 // 1_000)
    parent, child = rival_pair(world, held, 2_000 + needed - 1)
    assert "not enough additional fees to relay" in str(submit(world, parent, child).fault)
    assert world.mempool.txids() == [held.txid]


def test_package_when_the_diagram_gets_worse_then_refused(world: MempoolWorld) -> None:
    held = world.accept(world.pay(world.coin(), fee=2_000, version=3))
    parent, child = rival_pair(world, held, 2_100)
    verdict = submit(world, parent, child)
    assert str(verdict.fault) == (
        "package RBF failed: insufficient feerate: does not improve feerate diagram"
    )


def test_package_when_three_replace_then_refused(world: MempoolWorld) -> None:
    held = world.accept(world.pay(world.coin(), fee=1_000, version=2))
    low = [
        world.stage(world.pay(held.inputs[0].prevout, fee=30)),
        world.stage(world.pay(world.coin(), fee=1, version=2)),
    ]
    world.set(min_relay_fee_sats_per_kvb=0)
    world.mempool._rolling.evicted(1_000)
    child = world.pay(out(low[0]), out(low[1]), fee=90_000)
    verdict = submit(world, *low, child)
    assert str(verdict.fault) == "package RBF failed: package must be 1-parent-1-child"


def test_package_when_it_has_ancestors_in_the_mempool_then_no_replacing(
    world: MempoolWorld,
) -> None:
    world.set(min_relay_fee_sats_per_kvb=0)
    above = world.accept(world.pay(world.coin(), outputs=2, fee=1_000))
    held = world.accept(world.pay(out(above), fee=1_000))
    parent, child = pair(world, 10, 90_000, version=2, point=held.inputs[0].prevout)
    verdict = submit(world, parent, child)
    assert str(verdict.fault) == (
        "package RBF failed: new transaction cannot have mempool ancestors"
    )


def test_package_when_parent_pays_as_much_as_both_then_refused(world: MempoolWorld) -> None:
    world.set(min_relay_fee_sats_per_kvb=0)
    held = world.accept(world.pay(world.coin(), fee=3_000, outputs=1))
    child_of_held = world.accept(world.pay(out(held), fee=3_000))
    parent, child = pair(world, 6_010, 2_000, version=2, point=held.inputs[0].prevout)
    verdict = submit(world, parent, child)
    assert str(verdict.fault).startswith(
        "package RBF failed: package feerate is less than or equal to parent feerate, "
        "package feerate 0."
    )
    assert child_of_held.txid in world.mempool


def test_package_when_the_old_one_is_final_then_conflict(world: MempoolWorld) -> None:
    held = world.accept(world.pay(world.coin(), sequence=FINAL))
    parent, child = rival_pair(world, held, 90_000)
    assert said(submit(world, parent, child), parent) == "txn-mempool-conflict"


def test_package_when_too_many_would_leave_then_refused(world: MempoolWorld) -> None:
    points = [world.coin() for _ in range(101)]
    for point in points:
        world.accept(world.pay(point, version=3))
    parent = world.stage(world.pay(*points, fee=0, version=3))
    child = world.pay(out(parent), fee=10**6, version=3)
    said_of_parent = said(submit(world, parent, child), parent)
    assert said_of_parent.startswith("min relay fee not met")
    verdict = submit(world, parent, child)
    assert str(verdict.fault).startswith("package RBF failed: too many potential replacements, ")


def test_dust_when_its_child_spends_it_then_package_enters(world: MempoolWorld) -> None:
    dust: tuple[TxOut, ...] = (world.output(1),)
    parent = world.stage(world.pay(world.coin(), fee=0, version=3, extra=dust))
    greedy = world.pay(out(parent), fee=5_000, version=3)
    verdict = submit(world, parent, greedy)
    assert str(verdict.fault) == "unspent-dust"
    child = world.pay(out(parent), out(parent, 1), fee=5_000, version=3)
    assert submit(world, parent, child).fault is None
    # While the dust waits, another child must spend it too.
    other = world.pay(out(parent), fee=50_000, version=3)
    assert world.refusal(other).startswith("missing-ephemeral-spends")
