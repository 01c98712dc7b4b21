"""Selection, the fee ladder and template bytes (peg:P11 to P20, N20)."""

from dataclasses import replace
from typing import Any

import pytest

from peg.batches import (
    BatchView,
    CoinKind,
    FedCoin,
    Idle,
    OpenBatch,
    climb,
    fee_at,
    input_digests,
    keeps_open,
    select_batch,
)
from peg.lanes import LaneState, with_witnesses, worst_vsize
from peg.limits import Burn, BurnCode
from peg.parameters import LOCAL
from sidechain.crypto.hashes import sha256, sha256d
from sidechain.primitives.encoding import le32, le64, vec
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint
from tests.peg.world import federation, p2wpkh_script

SCRIPT = federation()
GENESIS = b"\x99" * 32
ANCHOR = OutPoint(b"\x01" * 32, 0)
LANE = LaneState(lane=0, index=2, anchor=ANCHOR)
BTC = 100_000_000
TIP = 1_000


def coin(number: int, value_sats: int, *, height: int = TIP, **changes: Any) -> FedCoin:
    fields: dict[str, Any] = {
        "outpoint": OutPoint(bytes([number]) * 32, 0),
        "kind": CoinKind.DEPOSIT,
        "claim_script": p2wpkh_script(str(number)),
        "csv": 288,
        **changes,
    }
    return FedCoin(value_sats=value_sats, height=height, **fields)


def anchor(value_sats: int = BTC, *, height: int = TIP) -> FedCoin:
    return coin(
        1,
        value_sats,
        height=height,
        outpoint=ANCHOR,
        kind=CoinKind.ANCHOR,
        claim_script=None,
    )


def burn(number: int, payout_sats: int = 100_000) -> Burn:
    return Burn(
        burn_id=bytes([number]) * 36,
        height=1,
        clock=1,
        script=p2wpkh_script(f"to {number}"),
        amount_sats=payout_sats + 2_500,
        fee_sats=2_500,
        code=BurnCode.OK,
    )


def view(**changes: Any) -> BatchView:
    fields: dict[str, Any] = {
        "height": 50,
        "clock": TIP,
        "committed_height": TIP,
        "rate_sats_per_kvb": 2_000,
        "lane": LANE,
        "coins": (anchor(),),
        "queue": (burn(1),),
        "oldest_release_clock": TIP,
        "halted": False,
        "pool_sats": 5_000_000,
        **changes,
    }
    return BatchView(**fields)


def select(parameters: Any = LOCAL, **changes: Any) -> OpenBatch | Idle:
    return select_batch(view(**changes), parameters, SCRIPT, GENESIS)


def opened(parameters: Any = LOCAL, **changes: Any) -> OpenBatch:
    found = select(parameters, **changes)
    if isinstance(found, Idle):
        raise AssertionError(found)
    return found


# ---- triggers ----


def test_queue_with_enough_burns_opens_a_batch() -> None:
    batch = opened()
    assert batch.payouts == (burn(1),)
    assert [c.outpoint for c in batch.inputs] == [ANCHOR]
    assert (batch.h_sel, batch.clock_sel, batch.index) == (50, TIP, 2)


def test_nothing_to_do_opens_nothing() -> None:
    assert select(queue=()) is Idle.NO_TRIGGER


@pytest.mark.parametrize(("waited", "opens"), [(0, False), (1, True)])
def test_short_queue_waits_its_time(waited: int, opens: bool) -> None:
    parameters = replace(LOCAL, batch_target=3)
    found = select(parameters, oldest_release_clock=TIP - waited)
    assert isinstance(found, OpenBatch) is opens
    assert isinstance(select(parameters, queue=(burn(1), burn(2), burn(3))), OpenBatch)


@pytest.mark.parametrize(("age", "opens"), [(288 - 72 - 1, False), (288 - 72, True)])
def test_coin_in_the_sweep_window_opens_an_empty_batch(age: int, opens: bool) -> None:
    old = coin(7, 10_000, height=TIP - age + 1)
    found = select(queue=(), coins=(anchor(), old))
    assert isinstance(found, OpenBatch) is opens
    if isinstance(found, OpenBatch):
        assert [c.outpoint for c in found.inputs] == [ANCHOR, old.outpoint]
        assert found.marker.count == 0


def test_old_anchor_opens_an_empty_batch_too() -> None:
    assert isinstance(select(queue=(), coins=(anchor(height=TIP - 215),)), OpenBatch)


@pytest.mark.parametrize(
    ("coins", "rate", "opens"), [(9, 10_000, False), (10, 10_000, True), (10, 10_001, False)]
)
def test_many_coins_are_merged_while_fees_are_low(coins: int, rate: int, opens: bool) -> None:
    many = tuple(coin(10 + at, 10_000) for at in range(coins))
    found = select(queue=(), coins=(anchor(), *many), rate_sats_per_kvb=rate)
    assert isinstance(found, OpenBatch) is opens
    if isinstance(found, OpenBatch):
        assert len(found.inputs) == 11


def test_halt_allows_expiry_only() -> None:
    """P12: with a halt in force nothing is paid and nothing merged."""
    many = tuple(coin(10 + at, 10_000) for at in range(20))
    assert select(halted=True, coins=(anchor(), *many)) is Idle.NO_TRIGGER
    batch = opened(halted=True, coins=(anchor(height=TIP - 250),))
    assert batch.payouts == ()


@pytest.mark.parametrize(
    "changes", [{"coins": ()}, {"lane": replace(LANE, broken_by=b"\x05" * 32)}]
)
def test_without_an_anchor_nothing_opens(changes: dict[str, Any]) -> None:
    assert select(**changes) is Idle.NO_LANE


# ---- payouts and inputs ----


def test_whole_fee_cap_is_reserved_and_only_it_missing_opens_nothing() -> None:
    """P13: payouts, the whole fee_cap and anchor_min are there, to the satoshi."""
    need = 100_000 + LOCAL.fee_cap_sats + LOCAL.anchor_min_sats
    assert isinstance(select(coins=(anchor(need),)), OpenBatch)
    assert select(coins=(anchor(need - 1),)) is Idle.FEE_POOL_LOW
    assert select(coins=(anchor(100_000 + LOCAL.anchor_min_sats - 1),)) is Idle.INSOLVENT


def test_longest_prefix_is_paid_and_never_a_later_burn_instead() -> None:
    """P13."""
    queue = (burn(1), burn(2, BTC), burn(3))
    assert opened(queue=queue).payouts == queue[:1]


def test_largest_coins_are_added_until_the_queue_is_met() -> None:
    coins = (anchor(600_000), coin(2, 40_000), coin(3, 90_000), coin(4, 70_000))
    batch = opened(coins=coins)
    assert [c.value_sats for c in batch.inputs] == [600_000, 90_000]


def test_ties_are_broken_by_outpoint() -> None:
    coins = (anchor(600_000), coin(9, 60_000), coin(8, 60_000))
    assert opened(coins=coins).inputs[1].outpoint == OutPoint(b"\x08" * 32, 0)
    assert opened(coins=tuple(reversed(coins))) == opened(coins=coins)


def test_expiring_coins_come_first_oldest_first() -> None:
    coins = (anchor(), coin(2, BTC), coin(3, 5, height=TIP - 220), coin(4, 9, height=TIP - 230))
    batch = opened(coins=coins)
    assert [c.outpoint.txid[0] for c in batch.inputs] == [1, 4, 3]


def test_hundred_payouts_are_the_most() -> None:
    queue = tuple(burn(at, 20_000) for at in range(1, 120))
    batch = opened(queue=queue)
    assert len(batch.payouts) == 100
    assert batch.vsize <= LOCAL.max_vsize


def test_size_limits_inputs_and_small_coins_are_merged_until_the_head_is_paid() -> None:
    """Too few inputs fit: count = 0, inputs largest first, at any rate."""
    coins = tuple(coin(10 + at, 15_000 + at) for at in range(120))
    batch = opened(
        coins=(anchor(60_000), *coins), queue=(burn(1, 900_000),), rate_sats_per_kvb=50_000
    )
    assert batch.payouts == ()
    assert batch.vsize <= LOCAL.max_vsize
    assert batch.inputs[1].value_sats == 15_119
    assert batch.vsize + SCRIPT.input_worst_vsize > LOCAL.max_vsize


def test_expiry_batch_takes_what_its_fee_may_need() -> None:
    old = anchor(50_000, height=TIP - 230)
    batch = opened(queue=(), coins=(old, coin(2, 700_000), coin(3, 900_000)))
    assert [c.value_sats for c in batch.inputs] == [50_000, 900_000]


def test_worst_size_is_not_below_the_real_one() -> None:
    batch = climb(opened(coins=(anchor(600_000), coin(2, 90_000))), view(), LOCAL)
    raw = batch.unsigned(batch.versions[0].fee_sats)
    full = [[b"", *[bytes(72)] * 3, SCRIPT.script]] * 2
    assert parse_parent_tx(with_witnesses(raw, full)).vsize == batch.vsize
    assert parse_parent_tx(with_witnesses(raw, full)).stripped == raw


def test_size_formula() -> None:
    assert worst_vsize([474], 43 + 51, 2) == -(-(4 * (4 + 2 + 41 + 94 + 4) + 474 + 2) // 4)


# ---- ladder ----


def ladder(batch: OpenBatch, steps: list[dict[str, Any]]) -> list[tuple[int, int]]:
    for changes in steps:
        batch = climb(batch, view(**changes), LOCAL)
    return [(version.version, version.fee_sats) for version in batch.versions]


def test_first_version_pays_the_rate_exactly() -> None:
    batch = opened()
    assert ladder(batch, [{}]) == [(0, fee_at(2_000, batch.vsize))]


def test_each_step_of_the_clock_adds_a_version() -> None:
    batch = opened()
    fee_0 = fee_at(2_000, batch.vsize)
    fee_1 = -(-13 * fee_0 // 10)
    fee_1 = max(fee_1, fee_0 + batch.vsize)
    found = ladder(batch, [{}, {"clock": TIP + 1}, {"clock": TIP + 2}])
    assert found == [(0, fee_0), (1, fee_1)]


def test_raise_is_at_least_one_satoshi_a_vbyte() -> None:
    floor = {"rate_sats_per_kvb": 1_000}
    batch = opened(**floor)
    found = ladder(batch, [floor, {"clock": TIP + 2, **floor}])
    assert found[1][1] == found[0][1] + batch.vsize


def test_rate_of_the_step_counts_when_it_is_higher() -> None:
    batch = opened()
    found = ladder(batch, [{}, {"clock": TIP + 2, "rate_sats_per_kvb": 90_000}])
    assert found[1][1] == fee_at(90_000, batch.vsize)


def test_jump_of_the_clock_makes_several_versions() -> None:
    assert [v for v, _ in ladder(opened(), [{}, {"clock": TIP + 6}])] == [0, 1, 2, 3]


def test_step_over_the_budget_is_skipped_and_the_next_is_tried() -> None:
    """P18; planted bugs 15 and 16: the budget is that of the step, and the ladder never ends."""
    batch = opened()
    found = ladder(
        batch,
        [
            {},
            {"clock": TIP + 2, "pool_sats": -2_500},
            {"clock": TIP + 4, "pool_sats": 0},
            {"clock": TIP + 6, "pool_sats": 5_000_000},
        ],
    )
    fees = [fee for _, fee in found]
    assert [version for version, _ in found] == [0, 2, 3]
    assert fees[1] <= 2_500


def test_fee_cap_bounds_every_version() -> None:
    """P18: the cap of all budgets."""
    batch = opened()
    steps = [{"clock": TIP + 2 * at, "rate_sats_per_kvb": 200_000} for at in range(60)]
    fees = [fee for _, fee in ladder(batch, steps)]
    assert fees and max(fees) <= LOCAL.fee_cap_sats
    assert fees == sorted(set(fees))


def test_pool_below_the_floor_opens_nothing() -> None:
    batch = opened()
    floor = fee_at(1_000, batch.vsize)
    assert select(pool_sats=floor - 2_500 - 1) is Idle.FEE_POOL_LOW
    assert isinstance(select(pool_sats=floor - 2_500), OpenBatch)


def test_expiry_may_spend_beyond_an_empty_pool_and_says_so() -> None:
    old = (anchor(height=TIP - 230),)
    batch = opened(queue=(), coins=old, pool_sats=-10)
    found = climb(batch, view(queue=(), coins=old, pool_sats=-10), LOCAL)
    assert found.versions[0].forced_sats == found.versions[0].fee_sats
    later = climb(found, view(coins=old, clock=TIP + 20, pool_sats=-10), LOCAL)
    assert max(v.fee_sats for v in later.versions) <= 2 * fee_at(2_000, batch.vsize)


def test_empty_batch_without_room_for_its_fee_waits_for_another_coin() -> None:
    """Open, it could have no version, and a donation would never become its input."""
    old = anchor(50_100, height=TIP - 216)
    assert select(coins=(old,), queue=(), rate_sats_per_kvb=1_000) is Idle.FEE_POOL_LOW
    donation = coin(7, 20_000, kind=CoinKind.DONATION, claim_script=None)
    batch = opened(coins=(old, donation), queue=(), rate_sats_per_kvb=1_000)
    assert [c.outpoint for c in batch.inputs] == [ANCHOR, donation.outpoint]
    climbed = climb(batch, view(coins=(old, donation), rate_sats_per_kvb=1_000), LOCAL)
    assert len(climbed.versions) == 1


def test_change_never_falls_below_the_anchor_minimum() -> None:
    old = (anchor(LOCAL.anchor_min_sats + 600, height=TIP - 230),)
    batch = opened(queue=(), coins=old)
    later = climb(batch, view(queue=(), coins=old, clock=TIP + 40), LOCAL)
    changes = [later.outputs(version.fee_sats)[0][0] for version in later.versions]
    assert changes and min(changes) >= LOCAL.anchor_min_sats


def test_versions_differ_in_the_change_only() -> None:
    """P19, I3: inputs, payouts and marker are those of the selection, for ever."""
    batch = climb(opened(queue=(burn(1), burn(2))), view(clock=TIP + 8), LOCAL)
    assert len(batch.versions) == 5
    parsed = [parse_parent_tx(batch.unsigned(version.fee_sats)) for version in batch.versions]
    assert len({tx.inputs for tx in parsed}) == 1
    assert len({tx.outputs[1:] for tx in parsed}) == 1
    paid = [(burn.payout_sats, burn.script) for burn in batch.payouts]
    assert list(parsed[-1].outputs[2:]) == paid
    assert [tx.txid for tx in parsed] == [version.txid for version in batch.versions]


# ---- staying open ----


def test_batch_stays_open_while_anchor_and_inputs_are_there() -> None:
    coins = (anchor(600_000), coin(2, 90_000))
    batch = opened(coins=coins)
    assert keeps_open(batch, LANE, coins)
    assert not keeps_open(batch, LANE, coins[:1])
    assert not keeps_open(batch, replace(LANE, anchor=OutPoint(b"\x06" * 32, 0)), coins)
    assert not keeps_open(batch, replace(LANE, broken_by=b"\x06" * 32), coins)


# ---- bytes ----


def test_sighash_is_bip143_with_the_coins_own_script() -> None:
    coins = (anchor(600_000), coin(2, 90_000))
    batch = opened(coins=coins)
    raw = batch.unsigned(1_000)
    prevouts = b"".join(c.outpoint.serialize() for c in batch.inputs)
    outputs = b"".join(le64(value) + vec(script) for value, script in batch.outputs(1_000))
    digest = sha256d(
        raw[:4]
        + sha256d(prevouts)
        + sha256d(b"\xfd\xff\xff\xff" * 2)
        + ANCHOR.serialize()
        + vec(SCRIPT.script)
        + le64(600_000)
        + b"\xfd\xff\xff\xff"
        + sha256d(outputs)
        + le32(0)
        + le32(1)
    )
    found = input_digests(batch.inputs, batch.outputs(1_000), SCRIPT)
    assert found[0] == digest
    assert found[1] != digest
    assert sha256(found[1]) != sha256(input_digests(batch.inputs, batch.outputs(1_001), SCRIPT)[1])
