"""The loss bound (peg:7.1): the numbers, and that no life of the schedule ever exceeds it."""

from dataclasses import replace
from random import Random

import pytest

from peg.bounds import CapNow, bounds_json, loss_bounds, released_most
from peg.limits import Burn, BurnCode, ReleaseSchedule
from peg.parameters import LOCAL, PRODUCTION, WindowCap

BTC = 100_000_000


def test_bound_of_a_stretch_is_that_of_the_tightest_cap() -> None:
    caps = (CapNow(6, 2 * BTC, 0, 2 * BTC), CapNow(24, 5 * BTC, 0, 5 * BTC))
    expected = {1: 2, 6: 2, 7: 4, 12: 4, 13: 5, 24: 5, 25: 10, 48: 10, 144: 30}
    assert {t: released_most(caps, t) // BTC for t in expected} == expected


def test_percentages_count_what_is_outstanding_when_they_are_more() -> None:
    bounds = loss_bounds(PRODUCTION, outstanding_sats=2_000 * BTC)
    assert [cap.cap_sats for cap in bounds.caps] == [40 * BTC, 200 * BTC]
    poor = loss_bounds(PRODUCTION, outstanding_sats=-5)
    assert [cap.cap_sats for cap in poor.caps] == [20 * BTC, 100 * BTC]


def test_stretches_are_every_window_a_day_a_week_and_what_was_asked() -> None:
    bounds = loss_bounds(LOCAL, clock_units=[10])
    assert [each.clock_units for each in bounds.within] == [1, 6, 10, 24, 144, 1_008]


def test_share_of_pausing_liars() -> None:
    """7.3: f members pause at most f * pause_max / pause_every of the time."""
    assert loss_bounds(LOCAL).paused_bp == 2_400
    assert loss_bounds(PRODUCTION).paused_bp == 6 * 144 * 10_000 // 2_016
    assert loss_bounds(replace(LOCAL, pause_every=1)).paused_bp == 10_000


def test_json_names_every_bound() -> None:
    plain = bounds_json(loss_bounds(LOCAL, reserve_sats=7, unpaid_sats=3))
    assert plain["reserve_sats"] == 7 and plain["released_unpaid_sats"] == 3
    assert plain["batch_fee_max_sats"] == LOCAL.fee_cap_sats


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_minted_no_stretch_releases_more_than_its_bound(seed: int) -> None:
    """G4, I4: a flood of burns against random caps, over every stretch of the clock."""
    rng = Random(seed)
    caps = (
        WindowCap(rng.randint(2, 8), rng.randint(1, 4) * BTC, 0),
        WindowCap(rng.randint(9, 30), rng.randint(3, 9) * BTC, 0),
    )
    smallest = min(cap.abs_sats for cap in caps)
    values = replace(LOCAL, caps=caps, payout_cap_sats=smallest, large_delay=rng.randint(0, 4))
    schedule = ReleaseSchedule(values)
    clock = 100
    for height in range(1, 120):
        clock += rng.choice((0, 0, 1, 1, 2, 5))
        burns = [
            Burn(
                burn_id=bytes([height, number]) + bytes(34),
                height=height,
                clock=clock,
                script=b"\x00\x14" + bytes(20),
                amount_sats=rng.randint(20_000, smallest),
                fee_sats=2_500,
                code=BurnCode.OK,
            )
            for number in range(5)
        ]
        schedule.apply_block(height, clock, burns, 10**15)
    bounds = loss_bounds(values)
    clocks = sorted({release.clock for release in schedule.releases})
    assert len(clocks) > 5
    for stretch in (1, 3, caps[0].window, caps[1].window, 50, 144):
        for begin in clocks:
            inside = [r for r in schedule.releases if begin <= r.clock < begin + stretch]
            most = released_most(bounds.caps, stretch)
            assert sum(r.burn.amount_sats for r in inside) <= most
