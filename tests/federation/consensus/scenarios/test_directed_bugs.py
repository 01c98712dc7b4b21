"""Planted bugs that random seeds find late, each with a scenario made for it (consensus:10.3).

A scenario passes on the real core, and fails with the bug planted: so it has teeth. A bug is a
small patch of the core, for the time of one test.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import pytest

from federation.consensus.encoding import NIL
from federation.consensus.events import StartMode, TimerKind
from federation.consensus.height_state import HeightState
from federation.consensus.records import Mode, Resume
from federation.consensus.roll_call import RollCallDesk, RollCallLog
from federation.consensus.state_machine import Agreement
from federation.consensus.vote_keeper import VoteKeeper
from federation.consensus.votes import BlockMessage, Proposal, Vote, VoteType
from federation.members import MemberSet
from federation.sim.world import block_hash, block_key, member_set
from tests.federation.consensus.bench import PRECOMMIT, PREVOTE, PROPOSAL, Bench
from tests.federation.consensus.net import Net
from tests.federation.consensus.scenarios.test_crashes import positions_apart, restart_all
from tests.federation.consensus.scenarios.test_pacing import parent_reorganisation
from tests.federation.consensus.test_rules_starting import answer


def locked_in_round_1(me: int = 0) -> tuple[Bench, bytes]:
    """Locked on w in round 1; returns it with v, another block."""
    bench = Bench(me)
    bench.enter_round_0()
    v, w = bench.block(1), bench.block(2)
    bench.fire(TimerKind.PROPOSE)
    to_round(bench, 1)
    bench.propose(w)
    bench.votes(PREVOTE, 1, block_hash(w), *[m for m in range(4) if m != me][:2])
    assert bench.agreement.locked_round == 1
    return bench, v


def to_round(bench: Bench, round_: int) -> None:
    bench.votes(PRECOMMIT, round_ - 1, NIL, *[m for m in range(4) if m != bench.me])
    bench.fire(TimerKind.PREVOTE)
    bench.fire(TimerKind.PRECOMMIT, round_ - 1)
    assert bench.agreement.round == round_


# --- scenarios


def older_pol_than_the_lock() -> None:
    """B3: v is proposed with the POL of round 0, and the lock is of round 1."""
    bench, v = locked_in_round_1()
    to_round(bench, 2)
    bench.propose(v, pol=bench.certificate(PREVOTE, 0, block_hash(v), 1, 2, 3))
    assert [vote.block_hash for vote in bench.own_votes(PREVOTE, 2)] == [NIL]


def pol_of_another_round_than_cited() -> None:
    """B7: v is proposed citing round 2, but the POL that comes with it is of round 0."""
    bench, v = locked_in_round_1(me=1)
    to_round(bench, 2)
    bench.fire(TimerKind.PROPOSE)
    to_round(bench, 3)
    pol = bench.certificate(PREVOTE, 0, block_hash(v), 0, 2, 3)
    vote = bench.vote(PROPOSAL, 3, block_hash(v), 0, valid_round=2)
    bench.receive(Proposal(vote, pol))
    bench.offer(v)
    bench.fire(TimerKind.PROPOSE)
    assert [vote.block_hash for vote in bench.own_votes(PREVOTE, 3)] == [NIL]


def quorum_for_nil() -> None:
    """B15: after a POL for nil another fresh block must still get nil from a locked member."""
    bench, v = locked_in_round_1()
    to_round(bench, 2)
    bench.fire(TimerKind.PROPOSE)
    bench.votes(PREVOTE, 2, NIL, 1, 2, 3)
    to_round(bench, 3)  # the own turn: it offers the locked block
    to_round(bench, 4)
    bench.propose(v)
    assert [vote.block_hash for vote in bench.own_votes(PREVOTE, 4)] == [NIL]


def answers_of_amnesiacs() -> None:
    """B21: two of four are wiped, one lags, one lies: nobody is left who could tell."""
    net = Net()
    net.delay_ms = lambda source, to, message: 2 + source.key
    net.until_height(2)
    net.link = lambda source, to, message: 2 not in (source.key, to.key)
    net.until(lambda: net[0].height == 6 and bool(net[0].said(PREVOTE, 6)))
    second = net[0].disk.chain[1]
    net[3].understates = True
    for key in (0, 1):
        net[key].wipe()
    # The liar answers roll-calls, and is silent else; it hands out one final block.
    net.link = lambda source, to, message: source.key != 3 or type(message).__name__ == "Answer"
    for key in (0, 1):
        net[key].start()
    net.pass_ms(200)
    net.inject((2, second), 0, 1, 2)
    net.pass_ms(6_000)
    net.inject((2, second), 0, 1, 2)
    net.pass_ms(2_000)
    net.check()
    assert [net[key].mode for key in (0, 1)] == [Mode.ABSTAINING] * 2


def own_vote_that_only_others_know() -> None:
    """B22: the journal is put back to before a precommit, and the POL is not seen again."""
    net = Net()
    net.delay_ms = lambda source, to, message: 2 + 3 * source.key
    net.until(lambda: bool(net[0].said(PREVOTE, 1)))
    backup = net[0].disk.copy()
    net.until(lambda: bool(net[0].said(PRECOMMIT, 1)))
    net.link = lambda source, to, message: source.key == 0 and isinstance(message, Vote)
    net.pass_ms(10)
    net[0].crash()
    net[0].disk = backup
    net[0].start(StartMode.INTACT)
    # Now it hears answers and later votes, but neither the POL nor the decision.
    net.link = lambda source, to, message: (
        0 not in (source.key, to.key) or type(message).__name__ in ("RollCall", "Answer")
    )
    net.pass_ms(6_000)
    for member in (1, 2, 3):
        net.inject(net.vote(PREVOTE, 1, 0, b"%d" % member * 32, member), 0)
    net.pass_ms(1_000)
    net.check()
    assert net[0].mode is Mode.ABSTAINING


def members_a_round_apart() -> None:
    """B27: two members are a round ahead and never voted in the round of the others."""
    net = positions_apart()
    for process in net:
        process.start()
    net.until_height(2, within_ms=15_000)


def block_that_only_a_liar_has() -> None:
    """B29: all lock a liar's block, power is cut, and the liar is silent from then on."""
    net = Net(keys=(0, 2, 3))
    net.pass_ms(25)
    data = Bench().block(1)
    net.inject(Proposal(net.vote(PROPOSAL, 1, 0, block_hash(data), 1), None))
    net.link = lambda source, to, message: (
        not (isinstance(message, Vote) and message.type is VoteType.PRECOMMIT)
    )
    net.inject(BlockMessage(height=1, block_hash=block_hash(data), data=data))
    net.until(lambda: all(p.agreement.locked_round == 0 for p in net))
    net.link = lambda source, to, message: True
    restart_all(net)
    net.until_height(2, within_ms=15_000)


def roll_call_across_a_border() -> None:
    """B31: of old set {0,1,2,3} and new set {1,2,3,4}, 2 is wiped, 0 retired, 1 lags, 3 lies."""
    new = MemberSet.of(tuple(block_key(i) for i in (1, 2, 3, 4)), 3)
    bench = Bench(me=2, members=member_set(4, 3), mode=StartMode.AMNESIAC, height=1)
    for member in (0, 1, 3):
        bench.receive(answer(member, known=1))
    bench.final(b"1" * 32, signers=(0, 1, 3))
    bench.start_height(2, members=new)
    bench.receive(answer(4, known=2))
    for height in (2, 3):
        bench.final(bytes([height]) * 32, signers=(0, 2, 3))
        bench.start_height(height + 1, members=new)
        assert (bench.driver.mode is Mode.VOTING) == (height == 3)
    assert Resume(4) in bench.journal


def parent_reorganisation_under_a_lock() -> None:
    """N33: nobody finds the locked block's parent facts true any more; minimal blocks go on."""
    net = parent_reorganisation()
    net.pass_ms(60)
    net.link = lambda source, to, message: True
    net[1].start()
    net.until_height(3, within_ms=15_000)


# --- bugs


def b3() -> AbstractContextManager[Any]:
    real = Agreement.c24_prevote_again

    def planted(self: Agreement) -> bool:
        locked, self.locked_round = self.locked_round, -1
        applied = real(self)
        self.locked_round = locked
        return applied

    return mock.patch.object(Agreement, "c24_prevote_again", planted)


def b7() -> AbstractContextManager[Any]:
    def is_pol_for(vote: Vote, certificate: Any) -> bool:
        return bool(certificate.block_hash == vote.block_hash)

    return mock.patch("federation.consensus.height_state.is_pol_for", is_pol_for)


def b15() -> AbstractContextManager[Any]:
    real = Agreement.c28_precommit_nil

    def planted(self: Agreement) -> bool:
        applied = real(self)
        if applied:
            self.locked_hash, self.locked_round = NIL, -1
        return applied

    return mock.patch.object(Agreement, "c28_precommit_nil", planted)


def b21() -> AbstractContextManager[Any]:
    def planted(
        self: RollCallLog, members: MemberSet, tip_height: int, vote_key: bytes
    ) -> int | None:
        answered = self._answered(members, vote_key)
        b = max([answer.known for answer in self._answers.values()] + [tip_height])
        return b + 2 if tip_height >= b and len(answered) >= members.k else None

    return mock.patch.object(RollCallLog, "c72_vote_from", planted)


def b22() -> AbstractContextManager[Any]:
    return mock.patch.object(RollCallDesk, "_check_own", lambda self, message: None)


def b27() -> AbstractContextManager[Any]:
    def planted(self: VoteKeeper, round_number: int, vote_type: VoteType) -> bool:
        return len(self.votes(round_number, vote_type)) >= self.k

    return mock.patch.object(VoteKeeper, "reached", planted)


def b29() -> AbstractContextManager[Any]:
    return mock.patch.object(HeightState, "_make_durable", lambda self, block_hash: None)


def b31() -> AbstractContextManager[Any]:
    def planted(
        self: RollCallLog, members: MemberSet, tip_height: int, vote_key: bytes
    ) -> int | None:
        answered = [a for a in self._answered(members, vote_key) if not a.abstaining]
        b = max([a.known for a in answered] + [tip_height])
        return b + 2 if len(answered) >= members.k else None

    return mock.patch.object(RollCallLog, "c72_vote_from", planted)


def n33() -> AbstractContextManager[Any]:
    """A verdict on parent facts is asked for whatever the proposal cites."""

    def planted(self: Agreement, block_hash: bytes) -> bool | None:
        return self._is_accepted(block_hash) if self.step < 2 else real(self, block_hash)

    real = Agreement._is_valid
    return mock.patch.object(Agreement, "_is_valid", planted)


DIRECTED: dict[str, tuple[Callable[[], None], Callable[[], AbstractContextManager[Any]]]] = {
    "B3": (older_pol_than_the_lock, b3),
    "B7": (pol_of_another_round_than_cited, b7),
    "B15": (quorum_for_nil, b15),
    "B21": (answers_of_amnesiacs, b21),
    "B22": (own_vote_that_only_others_know, b22),
    "B27": (members_a_round_apart, b27),
    "B29": (block_that_only_a_liar_has, b29),
    "B31": (roll_call_across_a_border, b31),
    "N33": (parent_reorganisation_under_a_lock, n33),
}


@pytest.mark.parametrize("bug", DIRECTED)
def test_directed_scenario_passes_on_the_real_core(bug: str) -> None:
    DIRECTED[bug][0]()


@pytest.mark.parametrize("bug", DIRECTED)
def test_directed_scenario_fails_with_the_bug_planted(bug: str) -> None:
    scenario, plant = DIRECTED[bug]
    with plant(), pytest.raises(AssertionError):
        scenario()
