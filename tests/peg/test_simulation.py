"""The peg under forks of any depth, wiped disks and old versions; and bugs it must notice."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation.sim.checker import Violation
from federation.sim.faults import BadScenario
from federation.sim.peg.drawing import life_of
from federation.sim.peg.events import (
    KINDS,
    SETTINGS,
    Fork,
    Life,
    SideBlock,
    decode_life,
    encode_life,
)
from federation.sim.peg.life import PegSimulation
from federation.sim.runner import Shrinker, run_once
from peg import batches, history, state
from peg.batches import OpenBatch
from peg.lanes import encode_unsigned
from peg.limits import Burn, BurnCode
from peg.walk import LaneWalk
from sidechain.errors import InvariantError

SEEDS = range(20)
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("setting", sorted(SETTINGS))
@pytest.mark.parametrize("seed", range(5))
async def test_life_keeps_every_invariant_and_pays_everybody(seed: int, setting: str) -> None:
    """I1 to I6, I9 to I14 of peg:14."""
    await PegSimulation(life_of(seed, setting=setting, members=False), seed).run()


@pytest.mark.slow
@pytest.mark.parametrize("setting", sorted(SETTINGS))
@pytest.mark.parametrize("seed", range(3))
async def test_members_with_a_liar_keep_every_invariant(seed: int, setting: str) -> None:
    """I1 to I14: each honest vote is checked on that member's own Bitcoin (I7, I8)."""
    await PegSimulation(life_of(seed, setting=setting, members=True), seed).run()


@pytest.mark.slow
async def test_lives_are_worth_their_name() -> None:
    """The seeds together contain resets, payouts, several versions and all records."""
    resets = paid = versions = due = 0
    kinds: set[str] = set()
    events: set[type[Any]] = set()
    for seed in SEEDS:
        life = life_of(seed, setting="usual", members=seed % 5 == 0)
        simulation = PegSimulation(life, seed)
        await simulation.run()
        resets += simulation.checker.resets
        lane = simulation.view.lane
        paid += 0 if lane is None else len(lane.paid)
        versions += len(simulation.checker.versions)
        due += simulation.is_progress_due()
        records = simulation.peg.ledger.history.governance.records
        kinds |= {type(at.record).__name__ for at in records}
        events |= {type(event) for event in simulation.life.events}
    assert resets >= 20
    assert paid >= 40
    assert versions >= 100
    assert due >= 5
    assert len(kinds) == 8, kinds
    assert events == set(KINDS.values())


def test_life_when_written_down_then_the_same_is_read() -> None:
    """A failing life is a file that a person can change."""
    life = life_of(3)
    assert decode_life(encode_life(life, 3)) == (life, 3)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"usual"', '"rich"', "setting is one of"),
        ('"depth": 1,', '"depth": 0,', "at least 1"),
        ('"event": "Fork"', '"event": "Fall"', "unknown event"),
        ('"depth"', '"death"', "has no death"),
        ('"format": 1', '"format": 2', "format 1"),
    ],
)
def test_life_when_the_file_is_wrong_then_the_reason_is_told(
    old: str, new: str, reason: str
) -> None:
    text = encode_life(Life(events=(Fork(1, 1, 400, 7), SideBlock(3))), 5)
    with pytest.raises(BadScenario, match=reason):
        decode_life(text.replace(old, new, 1))


@pytest.mark.slow
def test_life_is_the_same_under_any_hash_seed() -> None:
    """peg:14: what a seed means does not depend on the process."""
    program = (
        "from federation.sim.drawing import Mix\n"
        "from federation.sim.runner import run_once\n"
        "from hashlib import sha256\n"
        "mix = Mix(family='peg')\n"
        "lines = [run_once(mix.scenario(s), s, keep_trace=True).lines for s in range(8)]\n"
        "print(sha256(repr(lines).encode()).hexdigest())\n"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1", "4711")
    }
    assert len(told) == 1


def test_failing_life_when_shrunk_then_few_events_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rule is broken by a shorter list."""
    monkeypatch.setattr(Burn, "payout_sats", property(lambda burn: burn.amount_sats))
    seed = next(s for s in SEEDS if run_once(life_of(s, setting="usual", members=False), s).rule)
    life = life_of(seed, setting="usual", members=False)
    rule = run_once(life, seed).rule
    shorter = Shrinker(seed, rule).shrink(life)
    assert run_once(shorter, seed).rule == rule
    assert len(shorter.events) <= 12 < len(life.events)


async def is_caught(setting: str = "usual") -> bool:
    """Whether a planted bug is noticed in at least one life."""
    for seed in range(40):
        try:
            await PegSimulation(life_of(seed, setting=setting, members=False), seed).run()
        except (Violation, InvariantError):
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
    assert await is_caught("poor")


async def test_planted_bug_7_rolling_cap_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peg.limits.ReleaseSchedule._fits", lambda self, amount: True)
    assert await is_caught("tight")
