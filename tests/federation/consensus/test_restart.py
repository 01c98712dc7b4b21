"""A restart on any prefix of the journal: position, step, lock and decision are those before it.

Source: consensus:C2, consensus:C73, consensus:10.1.4, consensus:J7.
"""

import pytest

from federation.consensus.effects import CheckBlock
from federation.consensus.encoding import NIL
from federation.consensus.events import StartMode, TimerKind
from federation.consensus.height_state import Step
from federation.consensus.records import (
    BlockSigRecord,
    JournalRecord,
    VoteRecord,
    decode_record,
    encode_record,
    restore,
)
from federation.consensus.votes import Vote, VoteType
from federation.sim.world import block_hash
from tests.federation.consensus.bench import (
    PRECOMMIT,
    PREVOTE,
    PROPOSAL,
    Bench,
    builds,
    of_type,
    sent_votes,
)


def eventful_height() -> Bench:
    """Rounds 0 to 5: prevote nil, lock, nil again, an own re-proposal, a moved lock, a decision."""
    bench = Bench(me=0)
    bench.enter_round_0()
    bench.fire(TimerKind.PROPOSE)
    bench.votes(PREVOTE, 0, NIL, 1, 2)
    next_round(bench)
    first, second = bench.block(1), bench.block(2)
    bench.propose(first)
    bench.votes(PREVOTE, 1, block_hash(first), 1, 2)
    next_round(bench)
    bench.propose(second)
    bench.votes(PREVOTE, 2, NIL, 1)
    bench.votes(PREVOTE, 2, block_hash(second), 2, 3)
    bench.fire(TimerKind.PREVOTE)
    next_round(bench)  # the own round 3: proposes the first block again
    bench.votes(PREVOTE, 3, NIL, 1, 2, 3)
    next_round(bench)
    pol = bench.certificate(PREVOTE, 2, block_hash(second), 1, 2, 3)
    bench.propose(second, pol=pol)
    bench.votes(PREVOTE, 4, block_hash(second), 1, 2)
    bench.votes(PRECOMMIT, 4, block_hash(second), 1, 2)
    return bench


def next_round(bench: Bench) -> None:
    """All precommit nil or nothing useful; the timer does the rest."""
    round_ = bench.agreement.round
    bench.votes(PRECOMMIT, round_, NIL, 1, 2, 3)
    bench.fire(TimerKind.PRECOMMIT)
    assert bench.agreement.round == round_ + 1


FULL = eventful_height()


def expected(records: list[JournalRecord]) -> tuple[int, Step, bytes, int, bytes]:
    """Round, step, lock and decision that a prefix stands for."""
    round_, step, locked_hash, locked_round, decided = -1, Step.WAIT, NIL, -1, NIL
    for record in records:
        if isinstance(record, VoteRecord):
            vote = record.vote
            round_, step = vote.round, Step(int(vote.type))
            if vote.type is PRECOMMIT and vote.block_hash != NIL:
                locked_hash, locked_round = vote.block_hash, vote.round
        elif isinstance(record, BlockSigRecord):
            step, decided = Step.DECIDED, record.block_hash
    return round_, step, locked_hash, locked_round, decided


def restarted(length: int, *, rotated: bool = False) -> Bench:
    """A process on the first records of the journal, read back from their bytes."""
    records = [decode_record(*encode_record(record)) for record in FULL.journal[:length]]
    if rotated:
        records = [decode_record(*encode_record(restore(records).base()))]
    return Bench(mode=StartMode.INTACT, journal=records, blocks=FULL.disk_blocks)


def test_the_journal_holds_everything_the_test_is_about() -> None:
    votes = [record.vote for record in FULL.journal if isinstance(record, VoteRecord)]
    assert {vote.type for vote in votes} == set(VoteType)
    locks = [v.block_hash for v in votes if v.type is PRECOMMIT and v.block_hash != NIL]
    assert len(set(locks)) == 2
    assert isinstance(FULL.journal[-1], BlockSigRecord)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("length", range(1, len(FULL.journal) + 1))
def test_c73_restart_restores_round_step_lock_and_decision(length: int, rotated: bool) -> None:
    bench = restarted(length, rotated=rotated)
    agreement = bench.agreement
    found = (
        agreement.round,
        agreement.step,
        agreement.locked_hash,
        agreement.locked_round,
        agreement.decided_hash,
    )
    assert found == expected(FULL.journal[:length])
    assert (agreement.valid_hash, agreement.valid_round) == (found[2], found[3])
    if agreement.locked_round >= 0:
        assert agreement.keeper.pol(agreement.locked_round, agreement.locked_hash) is not None


@pytest.mark.parametrize("length", range(1, len(FULL.journal) + 1))
def test_c42_restart_offers_every_own_vote_again_and_no_other(length: int) -> None:
    before = [r.vote for r in FULL.journal[:length] if isinstance(r, VoteRecord)]
    again = sent_votes(restarted(length).effects)
    assert len(again) == len(before)
    assert all(new.says_the_same_as(old) for new, old in zip(again, before, strict=True))


@pytest.mark.parametrize("length", range(1, len(FULL.journal) + 1))
def test_c34_restarted_member_never_contradicts_what_it_may_have_sent(length: int) -> None:
    """After the roll-call the world offers other blocks; what is signed stays consistent."""
    bench = restarted(length)
    bench.driver.pen.mode = FULL.driver.mode
    bench.agreement.resume_voting()
    start = max(bench.agreement.round, 0)
    for round_ in range(start, start + 3):
        if bench.agreement.step is Step.WAIT:
            bench.enter_round_0()
        other = bench.block(50 + round_)
        bench.propose(other, round_=round_)
        bench.fire(TimerKind.PROPOSE)
        bench.votes(PREVOTE, round_, block_hash(other), 1, 2, 3)
        bench.votes(PRECOMMIT, round_, NIL, 1, 2, 3)
        bench.fire(TimerKind.PREVOTE)
        bench.fire(TimerKind.PRECOMMIT)
    spoken = [*_votes_of(FULL.journal[:length]), *sent_votes(bench.effects)]
    said: dict[tuple[int, int], Vote] = {}
    for vote in spoken:
        known = said.setdefault((vote.round, int(vote.type)), vote)
        assert known.says_the_same_as(vote)
    positions = list(said)
    assert positions == sorted(positions)


def _votes_of(records: list[JournalRecord]) -> list[Vote]:
    return [record.vote for record in records if isinstance(record, VoteRecord)]


def test_c21_proposal_in_the_journal_is_sent_again_and_never_another() -> None:
    length = next(
        i + 1
        for i, record in enumerate(FULL.journal)
        if isinstance(record, VoteRecord) and record.vote.type is PROPOSAL
    )
    bench = restarted(length)
    bench.driver.pen.mode = FULL.driver.mode
    bench.agreement.resume_voting()
    bench.built(bench.block(77))
    proposals = bench.own_votes(PROPOSAL)
    assert len(proposals) == 1
    assert proposals[0].says_the_same_as(_votes_of(FULL.journal[:length])[-1])
    assert bench.agreement.proposals[3].certificate is not None


def test_c73_restart_without_the_block_file_keeps_the_lock_and_fetches_the_bytes() -> None:
    """J8: a record that names a missing block file."""
    lock_at = next(
        i + 1
        for i, record in enumerate(FULL.journal)
        if isinstance(record, VoteRecord)
        and record.vote.type is PRECOMMIT
        and record.vote.block_hash != NIL
    )
    bench = Bench(mode=StartMode.INTACT, journal=FULL.journal[:lock_at])
    assert bench.agreement.locked_hash == block_hash(bench.block(1))
    assert any(h == bench.agreement.locked_hash for h, _ in bench.agreement.blocks.missing())


def test_c21_restarted_proposer_waits_for_the_verdict_on_its_lock_and_proposes_that() -> None:
    """B28 in disguise: a block whose verdict is still to come is not a missing one."""
    lock_at = next(
        i + 1
        for i, record in enumerate(FULL.journal)
        if isinstance(record, VoteRecord)
        and record.vote.type is PRECOMMIT
        and record.vote.block_hash != NIL
    )
    bench = Bench(mode=StartMode.INTACT, journal=FULL.journal[:lock_at], blocks=FULL.disk_blocks)
    bench.driver.pen.mode = FULL.driver.mode
    bench.answers_checks = False
    lock = bench.agreement.locked_hash
    bench.votes(PRECOMMIT, 3, NIL, 1, 2)  # s others are in round 3, which is the own one
    assert bench.agreement.round == 3
    assert builds(bench.effects) == []
    bench.feed(bench.checked(of_type(bench.effects, CheckBlock)[-1]))
    proposal = bench.own_votes(PROPOSAL, 3)[0]
    assert (proposal.block_hash, proposal.valid_round) == (lock, 1)
    assert builds(bench.effects) == []
