"""The peg under forks of any depth, wiped disks and old versions; and bugs it must notice."""

from dataclasses import replace
from typing import Any

import pytest

from peg import batches, history, state
from peg.batches import OpenBatch
from peg.lanes import encode_unsigned
from peg.limits import Burn, BurnCode
from peg.parameters import LOCAL, WindowCap
from peg.walk import LaneWalk
from sidechain.errors import InvariantError
from tests.peg.simulation import Simulation, Violated

SEEDS = range(20)
STEPS = 120
POOR: dict[str, Any] = {"anchor_sats": 52_000, "rates": (100_000,), "reorganises": False}
"""A pool that pays for one batch at best, while Bitcoin is dear."""
AGED: dict[str, Any] = {
    "parameters": replace(LOCAL, csv=50, sweep_window=30, csv_stop=5),
    "reorganises": False,
}
"""Coins that have to be swept again and again."""
TIGHT: dict[str, Any] = {
    "parameters": replace(
        LOCAL,
        payout_cap_sats=30_000_000,
        caps=(WindowCap(6, 30_000_000, 0), WindowCap(24, 60_000_000, 0)),
    )
}
"""Caps that bind most of the time."""


@pytest.mark.parametrize("seed", SEEDS)
async def test_life_keeps_every_invariant_and_pays_everybody(seed: int) -> None:
    simulation = Simulation(seed)
    await simulation.run(STEPS)
    assert simulation.view.lane is not None
    vanished = simulation.view.book.vanished_sats
    if not simulation.view.halts and vanished == 0:
        assert not simulation.unpaid(), "I11"


@pytest.mark.parametrize("life", [POOR, TIGHT, AGED])
@pytest.mark.parametrize("seed", range(5))
async def test_life_under_want_keeps_every_invariant(life: dict[str, Any], seed: int) -> None:
    await Simulation(seed, **life).run(STEPS)


@pytest.mark.slow
async def test_lives_are_worth_their_name() -> None:
    """The seeds together contain resets, payouts, several versions and oversize burns."""
    resets = paid = versions = 0
    kinds: set[str] = set()
    for seed in SEEDS:
        simulation = Simulation(seed)
        await simulation.run(60)
        resets += simulation.resets
        lane = simulation.view.lane
        paid += 0 if lane is None else len(lane.paid)
        versions += len(simulation.versions)
        records = simulation.ledger.history.governance.records
        kinds |= {type(at.record).__name__ for at in records}
    assert resets >= 3
    assert paid >= 20
    assert versions >= 60
    assert len(kinds) == 8, kinds


async def is_caught(**life: Any) -> bool:
    """Whether a planted bug is noticed in at least one life."""
    for seed in range(40):
        try:
            await Simulation(seed, **life).run(STEPS)
        except (Violated, InvariantError):
            return True
    return False


async def test_planted_bug_1_replacement_spends_another_input_0(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unsigned(self: OpenBatch, fee_sats: int) -> bytes:
        # As in Fedimint #5453: a replacement on other coins; the first version stays alive.
        inputs = [coin.outpoint for coin in self.inputs]
        is_later = bool(self.versions) and fee_sats != self.versions[0].fee_sats
        chosen = inputs[1:] if is_later and len(inputs) > 1 else inputs[:1]
        return encode_unsigned(chosen, self.outputs(fee_sats))

    monkeypatch.setattr(OpenBatch, "unsigned", unsigned)
    assert await is_caught()


async def test_planted_bug_3_paid_set_forgotten_at_a_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    follow = LaneWalk.follow

    def forgetting(self: LaneWalk, height: int) -> None:
        follow(self, height)
        if self._history.totals(height).commitment.reset and self.lane is not None:
            self.lane = replace(self.lane, paid=())
            self.paid = set()
            self._oldest_unpaid = 0
            self.paid_sats = self.earned_sats = 0

    monkeypatch.setattr(LaneWalk, "follow", forgetting)
    assert await is_caught()


async def test_planted_bug_11_ineligible_burn_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "burn_code", lambda *args, **fields: BurnCode.OK)
    assert await is_caught()


async def test_planted_bug_12_payout_includes_the_fee(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Burn, "payout_sats", property(lambda burn: burn.amount_sats))
    assert await is_caught()


async def test_planted_bug_2_version_adds_a_payout(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = OpenBatch.outputs

    def adding(self: OpenBatch, fee_sats: int) -> Any:
        made = outputs(self, fee_sats)
        later = self.versions and fee_sats != self.versions[0].fee_sats
        return (*made, (1_000, b"\x00\x14" + bytes(20))) if later else made

    monkeypatch.setattr(OpenBatch, "outputs", adding)
    assert await is_caught()


async def test_planted_bug_5_selection_order_differs_from_the_walk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    select = batches.select_batch

    def reversing(view: Any, *args: Any) -> Any:
        return select(replace(view, queue=tuple(reversed(view.queue))), *args)

    monkeypatch.setattr(state, "select_batch", reversing)
    assert await is_caught()


async def test_planted_bug_6_fee_ladder_ignores_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    def rich(batch: OpenBatch, view: Any, parameters: Any) -> tuple[int, int]:
        return parameters.fee_cap_sats, parameters.fee_cap_sats

    monkeypatch.setattr(batches, "_budget", rich)
    assert await is_caught(**POOR)


async def test_planted_bug_7_rolling_cap_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peg.limits.ReleaseSchedule._fits", lambda self, amount: True)
    assert await is_caught(**TIGHT)
