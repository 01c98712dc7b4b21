"""Decision, block signatures and durability: C2, C35 to C43, C60.

At height 1 of four members the proposers of rounds 0, 1, 2, 3 are 1, 2, 3, 0.
"""

from pathlib import Path

import pytest

from federation.consensus.effects import (
    Alarm,
    Broadcast,
    Connect,
    Finalize,
    ForgetBlocks,
    ModeChanged,
    Persist,
    PersistBlock,
    Send,
    SignBlock,
    SignVote,
)
from federation.consensus.encoding import NIL
from federation.consensus.events import (
    ConflictFound,
    OperatorUnhalted,
    StartMode,
    Timer,
    TimerFired,
    TimerKind,
    Verdict,
    VoteSigned,
)
from federation.consensus.height_state import Step
from federation.consensus.messages import GetBlock
from federation.consensus.records import Base, BlockSigRecord, Halt, Mode, restore
from federation.sim.world import block_hash
from federation.wal import Journal, JournalLocked
from tests.federation.consensus.bench import (
    PRECOMMIT,
    PREVOTE,
    Bench,
    of_type,
    sent_votes,
    timers,
)


def decided_bench(salt: int = 1, **options: object) -> tuple[Bench, bytes]:
    """A member that holds a COMMIT for a block of round 0."""
    bench = Bench(**options)  # type: ignore[arg-type]
    bench.enter_round_0()
    data = bench.block(salt)
    bench.offer(data)
    bench.receive(bench.certificate(PRECOMMIT, 0, block_hash(data), 1, 2, 3))
    return bench, data


# --- C35


def test_c35_k_precommits_of_one_round_decide() -> None:
    bench = Bench()
    bench.enter_round_0()
    data = bench.block(1)
    bench.propose(data)
    bench.votes(PRECOMMIT, 0, block_hash(data), 1, 2)
    assert bench.agreement.step is not Step.DECIDED
    effects = bench.votes(PRECOMMIT, 0, block_hash(data), 3)
    assert (bench.agreement.step, bench.agreement.decided_hash) == (Step.DECIDED, block_hash(data))
    commit = bench.agreement.keeper.commits()[0]
    assert Broadcast(commit) in effects


def test_c35_precommits_of_several_rounds_do_not_add_up() -> None:
    bench = Bench()
    bench.enter_round_0()
    data = bench.block(1)
    bench.propose(data)
    bench.votes(PRECOMMIT, 0, block_hash(data), 1, 2)
    bench.votes(PRECOMMIT, 1, block_hash(data), 3, 2)
    assert bench.agreement.step is not Step.DECIDED


@pytest.mark.parametrize("round_", [0, 2])
def test_c35_any_round_decides_in_any_step(round_: int) -> None:
    bench = Bench(work_due=False)
    data = bench.block(1)
    bench.offer(data)
    bench.receive(bench.certificate(PRECOMMIT, round_, block_hash(data), 1, 2, 3))
    assert bench.agreement.step is Step.DECIDED


def test_c35_missing_bytes_are_fetched_first() -> None:
    bench = Bench()
    bench.enter_round_0()
    data = bench.block(1)
    bench.receive(bench.certificate(PRECOMMIT, 0, block_hash(data), 1, 2, 3), sender=2)
    assert bench.agreement.step is not Step.DECIDED
    effects = bench.tick(20, Timer(kind=TimerKind.FETCH, height=1))
    assert Send(2, GetBlock(1, block_hash(data))) in effects
    bench.offer(data)
    assert bench.agreement.step is Step.DECIDED


def test_c35_objectively_invalid_decided_block_halts_and_is_never_skipped() -> None:
    bench = Bench()
    bench.enter_round_0()
    data = bench.block(1, valid=False)
    bench.verdicts[block_hash(data)] = Verdict.INVALID
    bench.offer(data)
    effects = bench.receive(bench.certificate(PRECOMMIT, 0, block_hash(data), 1, 2, 3))
    assert bench.driver.mode is Mode.HALTED
    assert of_type(effects, Alarm)
    assert isinstance(of_type(effects, Persist)[-1].records[-1], Halt)
    assert bench.own_block_signatures() == []


def test_c35_decided_member_stops_its_rounds() -> None:
    bench, _ = decided_bench()
    bench.votes(PREVOTE, 7, NIL, 1, 2, 3)
    bench.fire(TimerKind.PRECOMMIT)
    assert bench.agreement.step is Step.DECIDED
    assert bench.agreement.round == 0


# --- C36


def test_c36_block_signature_follows_record_and_certificate() -> None:
    bench, data = decided_bench()
    kinds = [type(effect) for effect in bench.effects]
    record = next(r for r in bench.journal if isinstance(r, BlockSigRecord))
    assert record.block_hash == block_hash(data)
    assert record.certificate == bench.agreement.keeper.commits()[0]
    assert kinds.index(PersistBlock) < kinds.index(SignBlock)
    assert max(i for i, kind in enumerate(kinds) if kind is Persist) < kinds.index(SignBlock)
    assert [s.block_hash for s in bench.own_block_signatures()] == [block_hash(data)]


def test_c36_nothing_but_a_decision_releases_a_block_signature() -> None:
    bench = Bench()
    bench.enter_round_0()
    data = bench.block(1)
    bench.propose(data)
    bench.votes(PREVOTE, 0, block_hash(data), 1, 2, 3)
    bench.votes(PRECOMMIT, 0, block_hash(data), 1)
    bench.receive(bench.block_signature(block_hash(data), 1))
    bench.receive(bench.block_signature(block_hash(data), 2))
    assert bench.own_votes(PRECOMMIT)
    assert of_type(bench.effects, SignBlock) == []


def test_c36_second_block_of_a_height_is_refused_by_the_journal() -> None:
    base = Base(
        mode=Mode.VOTING,
        vote_from=0,
        position=(1, 0, 3),
        block_signature=(1, b"h" * 32),
        records=(),
    )
    bench = Bench(mode=StartMode.INTACT, journal=[base])
    other = bench.block(2)
    bench.offer(other)
    bench.receive(bench.certificate(PRECOMMIT, 0, block_hash(other), 1, 2, 3))
    assert bench.driver.mode is Mode.HALTED
    assert all(s.block_hash != block_hash(other) for s in bench.own_block_signatures())


def test_c36_chain_behind_the_journal_signs_nothing() -> None:
    ahead, _ = decided_bench(height=5)
    bench, data = decided_bench(mode=StartMode.INTACT, journal=ahead.journal)
    assert bench.agreement.step is Step.DECIDED
    assert bench.own_block_signatures() == []


def test_c36_abstaining_member_still_signs_decided_blocks() -> None:
    bench, data = decided_bench(mode=StartMode.AMNESIAC)
    assert bench.driver.mode is Mode.ABSTAINING
    assert [s.block_hash for s in bench.own_block_signatures()] == [block_hash(data)]
    assert sent_votes(bench.effects) == []


# --- C37, C38, C39


def test_c37_k_block_signatures_finalize_with_the_lowest_indexes_in_key_order() -> None:
    bench = Bench()
    bench.enter_round_0()
    data = bench.block(1)
    hash_ = block_hash(data)
    for member in (3, 1):
        bench.receive(bench.block_signature(hash_, member))
    effects = bench.receive(bench.block_signature(hash_, 2))
    assert of_type(effects, Finalize) == []  # the bytes are missing
    finalize = of_type(bench.offer(data), Finalize)[0]
    assert finalize.data == data
    assert [s.member for s in finalize.signatures] == [1, 2, 3]


def test_c37_own_signature_can_be_the_last_one() -> None:
    bench, data = decided_bench()
    bench.receive(bench.block_signature(block_hash(data), 3))
    effects = bench.receive(bench.block_signature(block_hash(data), 2))
    assert [s.member for s in of_type(effects, Finalize)[0].signatures] == [0, 2, 3]


def test_c38_final_block_is_connected_and_voids_the_height() -> None:
    bench = Bench()
    bench.enter_round_0()
    other = bench.block(2)
    bench.propose(other)
    bench.votes(PREVOTE, 0, block_hash(other), 1, 2)
    data = bench.block(1)
    effects = bench.final(block_hash(data), signers=(1, 2, 3))
    assert Connect(1, block_hash(data)) in effects
    assert bench.votes(PREVOTE, 3, NIL, 1, 2) == []
    bench.start_height(2, tip_hash=block_hash(data))
    assert (bench.agreement.locked_round, bench.agreement.round) == (-1, -1)


def test_c38_needs_no_vote_and_sends_none() -> None:
    bench = Bench()
    bench.final(b"f" * 32, signers=(1, 2, 3))
    assert sent_votes(bench.effects) == []


def test_c39_decided_member_stays_and_answers_until_the_block_is_final() -> None:
    bench, data = decided_bench()
    effects = bench.receive(bench.status(positions=((-1, 0),) * 4), sender=2)
    sent = [effect.message for effect in of_type(effects, Send)]
    assert bench.agreement.keeper.commits()[0] in sent
    assert bench.own_block_signatures()[0] in sent
    assert bench.height == 1


# --- C40 to C43, C2


def test_c40_own_vote_leaves_only_after_its_signature_came_back() -> None:
    bench = Bench()
    bench.enter_round_0()
    effects = bench.driver.handle(_timer_fired(bench))
    assert sent_votes(effects) == []
    assert [r.vote.type for p in of_type(effects, Persist) for r in p.records if _is_vote(r)] == [
        PREVOTE
    ]


def _timer_fired(bench: Bench) -> TimerFired:
    timer = Timer(kind=TimerKind.PROPOSE, height=1, round=0)
    return TimerFired(now_ms=bench.now_ms, timer=timer)


def _is_vote(record: object) -> bool:
    return type(record).__name__ == "VoteRecord"


def test_c42_restarted_member_offers_what_it_may_never_have_sent() -> None:
    bench = Bench()
    bench.enter_round_0()
    bench.driver.handle(_timer_fired(bench))  # recorded, never signed
    journal = [*bench.journal, *_records_of_last_vote(bench)]
    again = Bench(mode=StartMode.INTACT, journal=journal)
    assert [v.type for v in again.own_votes(PREVOTE)] == [PREVOTE]
    effects = again.receive(again.status(round=0), sender=2)
    assert again.own_votes(PREVOTE)[0] in [e.message for e in of_type(effects, Send)]


def _records_of_last_vote(bench: Bench) -> list[object]:
    return [bench.driver.pen.image.votes[-1]]


def test_c43_journal_is_locked_while_a_process_has_it(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, genesis=bytes(32), key=bytes(32))
    with pytest.raises(JournalLocked):
        Journal.open(tmp_path, genesis=bytes(32), key=bytes(32))
    journal.close()
    Journal.open(tmp_path, genesis=bytes(32), key=bytes(32)).close()


def test_c2_own_records_are_applied_whenever_their_height_is_entered() -> None:
    """The chain may be behind the journal; the lock waits for its height."""
    bench = Bench(height=2)
    bench.enter_round_0()
    data = bench.block(1)
    bench.propose(data)
    bench.votes(PREVOTE, 0, block_hash(data), 1, 3)
    behind = Bench(mode=StartMode.INTACT, journal=bench.journal, blocks=bench.disk_blocks)
    assert behind.agreement.locked_round == -1
    behind.final(b"1" * 32, signers=(1, 2, 3))
    effects = behind.start_height(2)
    assert behind.agreement.locked_hash == block_hash(data)
    assert behind.agreement.blocks.get(block_hash(data)) is not None
    assert ForgetBlocks((block_hash(data),)) in effects


# --- C60


def test_c60_two_commits_of_one_height_halt_durably() -> None:
    bench, _ = decided_bench()
    other = block_hash(bench.block(2))
    bench.receive(bench.certificate(PRECOMMIT, 1, other, 1, 2, 3))
    assert bench.driver.mode is Mode.HALTED
    again = Bench(mode=StartMode.INTACT, journal=bench.journal)
    assert again.driver.mode is Mode.HALTED
    again.enter_round_0()
    again.votes(PREVOTE, 0, NIL, 1, 2, 3)
    assert sent_votes(again.effects) == []


def test_c60_final_block_against_the_own_block_signature_halts() -> None:
    bench, _ = decided_bench()
    effects = bench.final(b"f" * 32, signers=(1, 2, 3))
    assert bench.driver.mode is Mode.HALTED
    assert of_type(effects, Connect) == []


def test_c60_signatures_for_another_block_than_the_decided_one_halt() -> None:
    bench, _ = decided_bench()
    other = bench.block(2)
    bench.offer(other)
    for member in (1, 2, 3):
        bench.receive(bench.block_signature(block_hash(other), member))
    assert bench.driver.mode is Mode.HALTED
    assert of_type(bench.effects, Finalize) == []


def test_c60_conflicting_headers_halt_and_only_an_operator_leaves_it() -> None:
    bench = Bench()
    event = ConflictFound(now_ms=bench.now_ms, first=b"ours", second=b"theirs")
    effects = bench.feed(event)
    assert Persist((Halt(b"ours", b"theirs"),)) in effects
    assert [e.mode for e in of_type(effects, ModeChanged)] == [Mode.HALTED]
    assert timers(bench.enter_round_0(), TimerKind.PROPOSE) == []
    bench.feed(OperatorUnhalted(now_ms=bench.now_ms, block_hash=b"h" * 32))
    assert bench.driver.mode is Mode.ROLLCALL
    assert restore(bench.journal).mode is Mode.VOTING


def test_c60_halted_member_sends_nothing_that_was_signed_too_late() -> None:
    bench = Bench()
    bench.enter_round_0()
    signing = of_type(bench.driver.handle(_timer_fired(bench)), SignVote)[0]
    bench.feed(ConflictFound(now_ms=bench.now_ms, first=b"ours", second=b"theirs"))
    vote = bench.keys.sign_vote(signing.vote)
    assert sent_votes(bench.feed(VoteSigned(now_ms=bench.now_ms, vote=vote))) == []


def test_c60_final_block_against_a_commit_without_its_bytes_halts() -> None:
    """The COMMIT alone is enough; the decided block itself never came."""
    bench = Bench()
    bench.enter_round_0()
    bench.receive(bench.certificate(PRECOMMIT, 0, block_hash(bench.block(1)), 1, 2, 3))
    assert bench.agreement.step is not Step.DECIDED
    effects = bench.final(b"f" * 32, signers=(1, 2, 3))
    assert bench.driver.mode is Mode.HALTED
    assert of_type(effects, Connect) == []


def test_c60_signatures_against_a_commit_without_its_bytes_halt() -> None:
    bench = Bench()
    bench.enter_round_0()
    bench.receive(bench.certificate(PRECOMMIT, 0, block_hash(bench.block(1)), 1, 2, 3))
    other = bench.block(2)
    bench.offer(other)
    for member in (1, 2, 3):
        bench.receive(bench.block_signature(block_hash(other), member))
    assert bench.driver.mode is Mode.HALTED
    assert of_type(bench.effects, Finalize) == []
