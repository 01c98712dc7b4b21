"""The bugs of peg:14, each planted in a test alone, and what notices it.

Those with a number below 13 that need random lives are in `test_simulation`; here are the others.
A bug counts as noticed only by a check that fails, never by a plant that breaks the program.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation.sim.peg.drawing import life_of
from federation.sim.peg.life import PegSimulation
from peg import batches, claims, commitments, limits, parameters, sessions, state, voting
from peg.batches import OpenBatch
from peg.commitments import PASS, Verdict
from peg.ledger import PegLedger
from peg.limits import ReleaseSchedule
from peg.parameters import LOCAL
from peg.record_votes import RecordVotes
from peg.sessions import MemberSessions
from peg.state import PegFold
from sidechain.errors import InvariantError
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint
from tests.peg import test_claims as claim_tests
from tests.peg import test_parameters as parameter_tests
from tests.peg import test_rules_directed as rule_tests
from tests.peg import test_scenarios as scenarios
from tests.peg import test_scenarios_lies as lies
from tests.peg import test_scenarios_records as record_scenarios
from tests.peg import test_service as service_tests
from tests.peg.members import PegWorld
from tests.peg.test_service import found
from tests.peg.world import federation, p2wpkh_script

Plant = Callable[[pytest.MonkeyPatch], None]
Story = Callable[[PegWorld], Awaitable[None]]
NOTICED = (AssertionError, InvariantError, pytest.fail.Exception)
TESTS = Path(__file__).parent


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PegWorld:
    monkeypatch.setattr("peg.service.LOOK_AGAIN_MS", 1)
    return PegWorld(tmp_path)


async def lives(world: PegWorld) -> None:
    """Random lives of the simulation, with records."""
    for seed in range(30):
        await PegSimulation(life_of(seed, setting="usual", members=False), seed).run()


async def tight_lives(world: PegWorld) -> None:
    """The same with caps that bind."""
    for seed in range(30):
        await PegSimulation(life_of(seed, setting="tight", members=False), seed).run()


async def member_lives(world: PegWorld) -> None:
    """Lives in which members vote and sign, with a liar among them in most."""
    for seed in range(6):
        await PegSimulation(life_of(seed, setting="usual", members=True), seed).run()


async def claim_rules(world: PegWorld) -> None:
    """The borders of C1, C2, C8."""
    claim_tests.test_c8_own_change_is_never_a_deposit()
    for depth, rule in ((5, "C1"), (6, "")):
        claim_tests.test_c1_depth_border(depth, rule)


async def sane_programs(world: PegWorld) -> None:
    """S11 at start-up."""
    chain = parameters.ChainFacts(
        mandatory_coinbase=b"\x6a", fee_asset_set=False, fedpeg_program=b"\x51\x20" + bytes(32)
    )
    parameter_tests.test_chain_options_that_endanger_the_peg_are_refused("S11", chain)


async def young_donation(world: PegWorld) -> None:
    """A gift is a coin at D_p and not a block earlier."""
    await found(world)
    gift = world.bitcoin.pay(world.script.program, 500_000)
    outpoint = OutPoint(parse_parent_tx(gift).txid, 0)
    await world.mine([gift])
    for _ in range(10):
        await world.mine()
        await world.extend()
        view = scenarios.view_of(world)
        path = world.services[0].ledger.path
        made = path.output(outpoint) if path is not None else None
        depth = 0 if made is None else view.totals.commitment.height - made.height + 1
        counted = outpoint in {coin.outpoint for coin in view.coins}
        assert counted == (depth >= LOCAL.pegin_depth), f"counted {depth} deep"


OLD_SET = federation(replace(LOCAL, csv=300))


async def old_set(world: PegWorld) -> None:
    """8.6: what pays another set's script is never an input of a payout batch."""
    await found(world)
    await world.mine([world.bitcoin.pay(OLD_SET.program, 90_000_000)], count=9)
    await world.extend([await service_tests.deposit(world, 60_000_000)])
    await service_tests.pay_out(world, 20_000_000)
    path = world.services[0].ledger.path
    for coin in scenarios.open_batch(world).inputs:
        output = path.output(coin.outpoint) if path is not None else None
        assert output is not None and output.script != OLD_SET.program


# ---- the plants ----


def shallow_commitments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitments, "_judge_chain", lambda *args: PASS)


def lane_by_state(monkeypatch: pytest.MonkeyPatch) -> None:
    made = batches._batch

    def moving(view: Any, *args: Any) -> OpenBatch:
        number = view.height % 2
        batch = made(replace(view, lane=replace(view.lane, lane=number)), *args)
        return replace(batch, lane=0)

    monkeypatch.setattr(batches, "_batch", moving)


def no_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "required_depth", lambda claim, parameters: 0)


def own_change(monkeypatch: pytest.MonkeyPatch) -> None:
    check = claims.check_claim

    def blind(claim: Any, parameters: Any, **_: Any) -> None:
        check(claim, parameters, fed_programs=())

    for module in (claims, voting, claim_tests):
        monkeypatch.setattr(module, "check_claim", blind)


def no_age(monkeypatch: pytest.MonkeyPatch) -> None:
    place = claims.place_reason

    def ageless(*args: Any, **fields: Any) -> str:
        return place(*args, **{**fields, "csv": 10**6})

    monkeypatch.setattr(voting, "place_reason", ageless)


def spent_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = claims.judge_claim

    def blind(claim: Any, facts: Any) -> Verdict:
        return judge(claim, replace(facts, unspent=True))

    monkeypatch.setattr(voting, "judge_claim", blind)


def pause_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = ReleaseSchedule.apply_block

    def deaf(self: ReleaseSchedule, *args: Any, **fields: Any) -> Any:
        return apply(self, *args, **{**fields, "is_paused": False})

    monkeypatch.setattr(ReleaseSchedule, "apply_block", deaf)


def frozen_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    budget, seen = batches._budget, {}

    def frozen(batch: OpenBatch, view: Any, values: Any) -> tuple[int, int]:
        return seen.setdefault((batch.anchor, batch.h_sel), budget(batch, view, values))

    monkeypatch.setattr(batches, "_budget", frozen)


def ladder_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    climb = batches.climb

    def ending(batch: OpenBatch, *args: Any) -> OpenBatch:
        if batch.next_step > len(batch.versions):
            return batch
        return climb(batch, *args)

    monkeypatch.setattr(state, "climb", ending)


def stubborn_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_other_outputs", lambda *args: sessions.OTHER_OUTPUTS)


def no_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commitments, "_plan_reset", lambda *args: None)


def any_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "check_fedpeg_program", lambda program: None)


def second_anchor(monkeypatch: pytest.MonkeyPatch) -> None:
    async def anything(self: RecordVotes, record: Any) -> str:
        return ""

    monkeypatch.setattr(RecordVotes, "_reopen_reason", anything)


def old_set_input(monkeypatch: pytest.MonkeyPatch) -> None:
    path, fold = PegLedger._path, PegFold.__init__

    def wide_path(self: PegLedger) -> Any:
        self.fed_programs |= {OLD_SET.program}
        return path(self)

    def wide_fold(self: PegFold, *args: Any) -> None:
        fold(self, *args)
        self._programs |= {OLD_SET.program}

    monkeypatch.setattr(PegLedger, "_path", wide_path)
    monkeypatch.setattr(PegFold, "__init__", wide_fold)


def csv_of_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    coin = PegFold._fed_coin

    def configured(self: PegFold, *args: Any) -> Any:
        return replace(coin(self, *args), csv=self._parameters.csv)

    monkeypatch.setattr(PegFold, "_fed_coin", configured)


def any_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "is_payable", lambda script: True)


def signature_first(monkeypatch: pytest.MonkeyPatch) -> None:
    share = MemberSessions._share

    def early(
        self: MemberSessions, session: Any, view: Any, digest: bytes, payment: Any, place: Any
    ) -> Any:
        self._signer.sign_payment(payment)
        return share(self, session, view, digest, payment, place)

    monkeypatch.setattr(MemberSessions, "_share", early)


def young_donations(monkeypatch: pytest.MonkeyPatch) -> None:
    coin = PegFold._coin

    def eager(self: PegFold, output: Any, totals: Any) -> Any:
        self._parameters = replace(self._parameters, pegin_depth=1)
        return coin(self, output, totals)

    monkeypatch.setattr(PegFold, "_coin", eager)


def other_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    slide = ReleaseSchedule._slide

    def by_height(self: ReleaseSchedule, clock: int) -> None:
        slide(self, clock + self._height)

    monkeypatch.setattr(ReleaseSchedule, "_slide", by_height)


BUGS: list[tuple[int, str, Plant, Story]] = [
    (
        4,
        "commitment of depth 0 or 1",
        shallow_commitments,
        lies.test_proposer_commits_depth_0_stale_other_branch,
    ),
    (
        8,
        "lane depends on state",
        lane_by_state,
        lives,
    ),
    (4, "commitment of depth 0 or 1, random", shallow_commitments, member_lives),
    (9, "claim without depth", no_depth, claim_rules),
    (9, "claim without depth, random", no_depth, member_lives),
    (10, "own change as a deposit, random", own_change, member_lives),
    (25, "young donations, random", young_donations, lives),
    (13, "claim of a spent output, random", spent_is_fine, member_lives),
    (14, "pause ignored, members", pause_ignored, member_lives),
    (24, "signature before the journal, random", signature_first, member_lives),
    (10, "own change as a deposit", own_change, claim_rules),
    (13, "claim without an age", no_age, lies.test_claim_at_age_limit_plus_minus_1),
    (13, "claim of a spent output", spent_is_fine, lies.test_emergency_holders_mint_attempt),
    (14, "pause ignored by releases", pause_ignored, lives),
    (
        14,
        "pause ignored, directed",
        pause_ignored,
        record_scenarios.test_pause_is_obeyed_at_once_and_then_public,
    ),
    (15, "budget frozen at selection", frozen_budget, scenarios.test_ladder_skips_capped_steps),
    (16, "ladder ends at a capped step", ladder_ends, scenarios.test_ladder_skips_capped_steps),
    (
        17,
        "journal refuses after a RESET",
        stubborn_journal,
        scenarios.test_old_version_confirms_after_reset,
    ),
    (
        17,
        "journal refuses after a CANCEL",
        stubborn_journal,
        record_scenarios.test_cancel_recalls_an_unconfirmed_payout,
    ),
    (18, "no RESET rule", no_reset, scenarios.test_old_version_confirms_after_reset),
    (19, "program of version 1", any_program, sane_programs),
    (
        20,
        "second anchor of a free choice",
        second_anchor,
        record_scenarios.test_anchor_funding_reorged_and_returns,
    ),
    (21, "input of the old set", old_set_input, old_set),
    (
        22,
        "csv from configuration",
        csv_of_configuration,
        rule_tests.test_lock_of_a_coin_is_read_from_its_own_script,
    ),
    (23, "undecodable script", any_script, lives),
    (
        24,
        "signature before the journal",
        signature_first,
        service_tests.test_signature_waits_for_the_journal,
    ),
    (25, "young donations", young_donations, young_donation),
    (26, "window by another clock", other_clock, tight_lives),
]


@pytest.mark.parametrize(("number", "name", "plant", "story"), BUGS, ids=[b[1] for b in BUGS])
async def test_planted_bug_is_noticed(
    world: PegWorld,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    name: str,
    plant: Plant,
    story: Story,
) -> None:
    plant(monkeypatch)
    with pytest.raises(NOTICED):
        await story(world)


@pytest.mark.parametrize("story", [claim_rules, sane_programs, young_donation, old_set])
async def test_stories_of_planted_bugs_pass_without_them(world: PegWorld, story: Story) -> None:
    await story(world)


def test_every_planted_bug_of_the_protocol_has_its_test() -> None:
    """1 to 26 of peg:14, here or in the simulation."""
    simulated = (TESTS / "test_simulation.py").read_text("utf-8")
    numbers = {int(number) for number in re.findall(r"def test_planted_bug_(\d+)_", simulated)}
    assert numbers | {bug[0] for bug in BUGS} == set(range(1, 27))


SCENARIOS = (
    "wiped_member_resigns_same_txid",
    "all_members_wiped",
    "reorg_swaps_version",
    "reorg_back_and_forth_three_times",
    "reset_mid_batch",
    "old_version_confirms_after_reset",
    "cancel_races_payout",
    "pool_empty_then_donation_unjams",
    "ladder_skips_capped_steps",
    "head_of_queue_larger_than_window_rest",
    "pause_by_byzantine_is_rate_limited",
    "identical_burns_same_script_and_amount",
    "proposer_commits_depth_0_stale_other_branch",
    "claim_at_age_limit_plus_minus_1",
    "emergency_holders_mint_attempt",
    "lane_broken_and_reopen",
    "anchor_funding_reorged_and_returns",
    "emergency_handover_keeps_paid_set",
    "forged_proof_64_byte_tx",
    "coinbase_deposit",
    "two_proposers_claim_same_deposit",
    "sidechain_second_signed_block_halts",
    "param_loosening_delayed",
)
"""Named scenarios of peg:14 but those of a member change."""


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_of_the_protocol_is_played_under_its_name(name: str) -> None:
    texts = (path.read_text("utf-8") for path in TESTS.glob("test_*.py"))
    assert any(f"def test_{name}(" in text for text in texts)


def test_scripts_of_old_sets_differ() -> None:
    assert OLD_SET.program != federation().program != p2wpkh_script("x")
