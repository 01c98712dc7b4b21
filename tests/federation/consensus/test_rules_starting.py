"""Starting, roll-call, amnesia and shared keys: C70 to C76, J6."""

import pytest

from federation.consensus.effects import (
    Alarm,
    Broadcast,
    Effect,
    Exit,
    ModeChanged,
    Persist,
    Send,
    SendAnswer,
)
from federation.consensus.encoding import NIL
from federation.consensus.events import (
    ConflictFound,
    OperatorResumed,
    PeerConnected,
    StartMode,
    Timer,
    TimerKind,
)
from federation.consensus.messages import Answer, RollCall
from federation.consensus.records import (
    Amnesia,
    Birth,
    Halt,
    JournalImage,
    JournalRecord,
    Mode,
    Override,
    OverrideAction,
    Resume,
    Stop,
    decode_record,
    encode_record,
    restore,
)
from federation.consensus.roll_call import ANSWER_EVERY_MS, REPEAT_MS
from federation.consensus.votes import BlockSignature, Certificate, Vote
from federation.members import MemberSet
from federation.sim.world import block_hash, block_key, member_set
from tests.federation.consensus.bench import (
    NONCE,
    PRECOMMIT,
    PREVOTE,
    Bench,
    of_type,
    sent_to,
    sent_votes,
    timers,
)


def answer(
    member: int,
    *,
    known: int = 0,
    abstaining: bool = False,
    seen: Vote | BlockSignature | None = None,
) -> Answer:
    """What the shell found to be a valid answer of a member."""
    return Answer(
        known=known,
        known_hash=b"k" * 32,
        abstaining=abstaining,
        answerer_key=block_key(member)[1:],
        signature=bytes(64),
        proof=b"header" if known else None,
        seen=seen,
    )


def journal_of_a_vote(height: int = 1) -> list[JournalRecord]:
    """A journal with birth and one prevote."""
    bench = Bench(height=height)
    bench.enter_round_0()
    bench.fire(TimerKind.PROPOSE)
    return bench.journal


def roll_calls(effects: list[Effect]) -> list[RollCall]:
    """Roll-calls broadcast."""
    return [b.message for b in of_type(effects, Broadcast) if isinstance(b.message, RollCall)]


# --- C70


def test_c70_fresh_key_writes_birth_and_votes_at_once() -> None:
    bench = Bench(mode=StartMode.FRESH)
    assert bench.journal[0] == Birth()
    assert bench.driver.mode is Mode.VOTING
    assert roll_calls(bench.effects) == []


def test_c70_intact_journal_starts_with_a_roll_call() -> None:
    bench = Bench(mode=StartMode.INTACT, journal=journal_of_a_vote())
    assert bench.driver.mode is Mode.ROLLCALL
    assert roll_calls(bench.effects) == [RollCall(block_key(0)[1:], NONCE)]


@pytest.mark.parametrize("journal", [[], [Birth()]])
def test_c70_amnesiac_says_so_durably_before_anything_else(journal: list[JournalRecord]) -> None:
    bench = Bench(mode=StartMode.AMNESIAC, journal=journal)
    assert bench.effects[0] == Persist((Amnesia(),))
    assert bench.driver.mode is Mode.ABSTAINING


def test_c70_crash_does_not_turn_an_amnesiac_into_an_intact_member() -> None:
    bench = Bench(mode=StartMode.INTACT, journal=[Birth(), Amnesia()])
    assert bench.driver.mode is Mode.ABSTAINING


def test_c70_no_journal_without_init_is_amnesia() -> None:
    assert Bench(mode=StartMode.INTACT).driver.mode is Mode.ABSTAINING


def test_c70_fresh_start_on_a_used_journal_is_no_fresh_start() -> None:
    bench = Bench(mode=StartMode.FRESH, journal=journal_of_a_vote())
    assert bench.driver.mode is Mode.ROLLCALL


@pytest.mark.parametrize("mode", [StartMode.AMNESIAC, StartMode.DOUBTFUL])
def test_c70_amnesia_of_a_halted_member_outlives_the_operators_unhalt(mode: StartMode) -> None:
    """C60 hides it only: who starts without a sound journal abstains when HALTED ends."""
    halted = [*journal_of_a_vote(), Halt(b"a", b"b")]
    bench = Bench(mode=mode, journal=halted, height=1)
    assert bench.driver.mode is Mode.HALTED
    assert bench.journal[-1] == Amnesia()
    unhalt = Override(action=OverrideAction.UNHALT, height=1, block_hash=b"h" * 32)
    image = JournalImage()
    for record in (*bench.journal, unhalt):
        image.apply(record)
    assert image.mode is Mode.ABSTAINING


def test_c70_doubtful_journal_skips_the_height_the_lost_record_can_be_of() -> None:
    """J6: AMNESIA, then RESUME(tip + 2); abstaining until tip + 1 is final here."""
    bench = Bench(mode=StartMode.DOUBTFUL, journal=journal_of_a_vote(), height=1)
    assert bench.journal[-2:] == [Amnesia(), Resume(2)]
    for member in (1, 2, 3):
        bench.receive(answer(member))
    bench.enter_round_0()
    bench.fire(TimerKind.PROPOSE)
    assert sent_votes(bench.effects)[1:] == []  # only the old prevote, again
    assert bench.driver.is_abstaining
    bench.final(b"1" * 32, signers=(1, 2, 3))
    bench.start_height(2)
    assert not bench.driver.is_abstaining
    bench.enter_round_0()
    bench.fire(TimerKind.PROPOSE)
    assert bench.own_votes(PREVOTE)[-1].height == 2


# --- C71


def test_c71_roll_call_is_repeated_until_done_and_made_on_every_new_link() -> None:
    bench = Bench(mode=StartMode.INTACT, journal=journal_of_a_vote())
    request = RollCall(block_key(0)[1:], NONCE)
    timer = Timer(kind=TimerKind.ROLLCALL)
    assert roll_calls(bench.tick(REPEAT_MS, timer)) == [request]
    effects = bench.feed(PeerConnected(now_ms=bench.now_ms, peer=3))
    assert request in sent_to(effects, 3)
    for member in (1, 2):
        bench.receive(answer(member))
    effects = bench.tick(REPEAT_MS, timer)
    assert (roll_calls(effects), timers(effects, TimerKind.ROLLCALL)) == ([], [])


def ask(bench: Bench, member: int = 3) -> list[SendAnswer]:
    """A member asks; what the shell is to answer."""
    request = RollCall(block_key(member)[1:], NONCE)
    return of_type(bench.receive(request, sender=member), SendAnswer)


def test_c71_answer_tells_tip_mode_and_the_highest_message_seen() -> None:
    bench = Bench(height=5)
    low, high = bench.vote(PREVOTE, 0, NIL, 3), bench.vote(PRECOMMIT, 2, NIL, 3)
    bench.receive(high)
    bench.receive(low)
    found = ask(bench)[0]
    assert (found.known, found.certificate, found.abstaining) == (4, None, False)
    assert found.seen == high
    assert found.nonce == NONCE


def test_c71_answer_knows_what_was_signed_but_is_not_final_yet() -> None:
    bench = Bench()
    bench.enter_round_0()
    data = bench.block(1)
    bench.offer(data)
    bench.receive(bench.certificate(PRECOMMIT, 0, block_hash(data), 1, 2, 3))
    found = ask(bench)[0]
    assert (found.known, found.known_hash) == (1, block_hash(data))
    assert isinstance(found.certificate, Certificate)
    again = ask(Bench(mode=StartMode.INTACT, journal=bench.journal))[0]
    assert (again.known, again.certificate) == (1, found.certificate)


def test_c71_answer_remembers_messages_of_earlier_heights_and_over_a_restart() -> None:
    bench = Bench()
    bench.enter_round_0()
    vote = bench.vote(PREVOTE, 0, NIL, 3)
    bench.receive(vote)
    bench.fire(TimerKind.PROPOSE)  # the next own record carries it
    bench.final(b"1" * 32, signers=(0, 1, 2))
    bench.start_height(2)
    assert ask(bench)[0].seen == vote
    again = Bench(mode=StartMode.INTACT, journal=bench.journal, height=2)
    assert ask(again)[0].seen == vote


def test_c71_block_signature_in_a_final_block_counts_as_seen() -> None:
    bench = Bench()
    bench.final(b"1" * 32, signers=(1, 2, 3))
    bench.start_height(2)
    seen = ask(bench)[0].seen
    assert isinstance(seen, BlockSignature) and seen.height == 1


def test_c71_one_answer_per_asker_in_five_seconds() -> None:
    """C98: what comes sooner is dropped."""
    bench = Bench()
    assert [len(ask(bench)) for _ in range(3)] == [1, 0, 0]
    assert len(ask(bench, member=2)) == 1
    bench.now_ms += ANSWER_EVERY_MS
    assert len(ask(bench)) == 1


# --- C72


def amnesiac(height: int = 5) -> Bench:
    """A member without memory whose chain is at height − 1."""
    return Bench(mode=StartMode.AMNESIAC, height=height)


def finish(bench: Bench, height: int) -> None:
    """The height in progress becomes final."""
    bench.final(bytes([height]) * 32, signers=(1, 2, 3))
    bench.start_height(height + 1)


def test_c72_amnesiac_votes_again_from_two_heights_above_what_k_others_know() -> None:
    bench = amnesiac(height=5)
    for member in (1, 2, 3):
        bench.receive(answer(member, known=4))
    for height in (5,):
        bench.enter_round_0()
        bench.fire(TimerKind.PROPOSE)
        assert bench.driver.mode is Mode.ABSTAINING
        finish(bench, height)
    assert Resume(6) in bench.journal
    assert bench.driver.mode is Mode.VOTING
    bench.enter_round_0()
    bench.fire(TimerKind.PROPOSE)
    assert {v.height for v in sent_votes(bench.effects)} == {6}


def test_c72_k_answers_of_others_are_needed_and_abstaining_ones_do_not_count() -> None:
    bench = amnesiac(height=5)
    bench.receive(answer(1, known=4))
    bench.receive(answer(2, known=4))
    bench.receive(answer(3, known=4, abstaining=True))
    finish(bench, 5)
    finish(bench, 6)
    assert bench.driver.mode is Mode.ABSTAINING
    bench.receive(answer(3, known=6))
    finish(bench, 7)
    assert Resume(8) in bench.journal


def test_c72_first_answer_that_does_not_abstain_stands() -> None:
    bench = amnesiac(height=5)
    bench.receive(answer(1, known=4))
    bench.receive(answer(1, known=9))
    bench.receive(answer(2, known=4))
    bench.receive(answer(3, known=4))
    finish(bench, 5)
    assert Resume(6) in bench.journal


def test_c72_higher_answer_waits_for_the_chain_to_get_there() -> None:
    bench = amnesiac(height=5)
    for member, known in ((1, 4), (2, 6), (3, 4)):
        bench.receive(answer(member, known=known))
    finish(bench, 5)
    assert bench.driver.mode is Mode.ABSTAINING
    finish(bench, 6)  # b = 6, M_7 is known now
    assert Resume(8) not in bench.journal
    finish(bench, 7)
    assert Resume(8) in bench.journal


def test_c86_answers_are_demanded_of_the_set_after_the_highest_known_block() -> None:
    """B31: of old set {0,1,2,3} and new set {1,2,3,4}, 2 is wiped, 0 retired, 1 lags, 3 lies."""
    old = member_set(4, 3)
    new = MemberSet.of(tuple(block_key(i) for i in (1, 2, 3, 4)), 3)
    bench = Bench(me=2, members=old, mode=StartMode.AMNESIAC, height=1)
    for member in (0, 1, 3):
        bench.receive(answer(member, known=1))  # 3 knows block 2 and does not say so
    bench.final(b"1" * 32, signers=(0, 1, 3))
    bench.start_height(2, members=new)  # the border
    for timer in (TimerKind.START, TimerKind.PROPOSE):
        bench.fire(timer)
    assert bench.driver.mode is Mode.ABSTAINING  # of M_2 only 1 and 3 have answered
    bench.receive(answer(4, known=2))
    for height in (2, 3):
        bench.final(bytes([height]) * 32, signers=(0, 2, 3))
        bench.start_height(height + 1, members=new)
        assert (Resume(4) in bench.journal) == (height == 3)
    assert bench.driver.mode is Mode.VOTING


def test_c72_liar_that_under_reports_does_not_lower_the_height() -> None:
    bench = amnesiac(height=1)
    bench.receive(answer(1, known=0))  # lies
    bench.receive(answer(2, known=7))
    bench.receive(answer(3, known=7))
    for height in range(1, 9):
        assert bench.driver.mode is Mode.ABSTAINING
        finish(bench, height)
    assert Resume(9) in bench.journal


# --- C73


def test_c73_intact_member_votes_after_k_minus_one_answers() -> None:
    bench = Bench(mode=StartMode.INTACT, journal=journal_of_a_vote(height=1), height=2)
    bench.enter_round_0()
    bench.receive(answer(1))
    bench.receive(answer(1))
    assert bench.driver.mode is Mode.ROLLCALL
    bench.receive(answer(3, abstaining=True))  # abstaining ones count here
    assert bench.driver.mode is Mode.VOTING


def test_c73_answers_of_strangers_do_not_count() -> None:
    bench = Bench(mode=StartMode.INTACT, journal=journal_of_a_vote())
    for member in (7, 8, 9):
        bench.receive(answer(member))
    assert bench.driver.mode is Mode.ROLLCALL


def test_c73_member_that_missed_its_proposal_time_gets_it_back() -> None:
    bench = Bench(me=1, mode=StartMode.INTACT, journal=[Birth()])
    bench.enter_round_0()
    bench.fire(TimerKind.PROPOSE)
    for member in (2, 3):
        bench.receive(answer(member))
    bench.built(bench.block(1))
    assert sent_votes(bench.effects)[0].block_hash == block_hash(bench.block(1))


# --- C75


def test_c75_own_message_beyond_the_journal_before_the_first_vote_is_amnesia() -> None:
    bench = Bench(mode=StartMode.INTACT, journal=journal_of_a_vote())
    bench.receive(bench.vote(PRECOMMIT, 0, NIL, 0))
    assert bench.driver.mode is Mode.ABSTAINING
    assert bench.journal[-1] == Amnesia()


def test_c75_roll_call_answer_can_show_it() -> None:
    bench = Bench(mode=StartMode.INTACT, journal=journal_of_a_vote())
    bench.receive(answer(1, seen=bench.vote(PREVOTE, 3, NIL, 0)))
    assert bench.driver.mode is Mode.ABSTAINING


def test_c75_own_signature_in_a_final_block_can_show_it() -> None:
    bench = Bench(mode=StartMode.INTACT, journal=journal_of_a_vote())
    bench.final(b"1" * 32, signers=(0, 1, 2))
    assert bench.driver.mode is Mode.ABSTAINING


def test_c75_own_vote_inside_a_certificate_or_proposal_can_show_it() -> None:
    bench = Bench(mode=StartMode.INTACT, journal=journal_of_a_vote())
    data = bench.block(1)
    pol = bench.certificate(PREVOTE, 0, block_hash(data), 0, 2, 3)
    bench.votes(PREVOTE, 1, NIL, 1)
    bench.propose(data, round_=1, pol=pol)
    assert bench.driver.mode is Mode.ABSTAINING


def test_c75_after_the_first_vote_the_process_stops() -> None:
    bench = Bench()
    bench.enter_round_0()
    bench.fire(TimerKind.PROPOSE)
    effects = bench.receive(bench.vote(PREVOTE, 0, b"h" * 32, 0))
    assert bench.driver.mode is Mode.STOPPED
    assert Persist((Stop(),)) in effects
    assert len(of_type(effects, Exit)) == 1
    assert restore(bench.journal).mode is Mode.STOPPED


def test_c75_stopped_member_needs_an_explicit_restored_start() -> None:
    stopped = Bench(mode=StartMode.INTACT, journal=[Birth(), Stop()])
    assert stopped.driver.mode is Mode.STOPPED
    assert of_type(stopped.effects, Exit)
    restored = Bench(mode=StartMode.AMNESIAC, journal=[Birth(), Stop()])
    assert restored.driver.mode is Mode.ABSTAINING


def test_c75_known_and_old_own_messages_are_no_alarm() -> None:
    bench = Bench()
    bench.enter_round_0()
    bench.fire(TimerKind.PROPOSE)
    bench.receive(bench.own_votes(PREVOTE)[0])
    bench.final(b"1" * 32, signers=(1, 2, 3))
    bench.start_height(2)
    bench.enter_round_0()
    bench.fire(TimerKind.PROPOSE)
    old = Bench(height=1).vote(PREVOTE, 3, NIL, 0)
    bench.receive(answer(1, seen=old))
    assert bench.driver.mode is Mode.VOTING


# --- C76


def test_c76_operator_may_resume_at_a_height_and_it_is_recorded() -> None:
    bench = amnesiac(height=5)
    effects = bench.feed(OperatorResumed(now_ms=bench.now_ms, height=5))
    assert isinstance(bench.journal[-1], Override)
    assert [e.mode for e in of_type(effects, ModeChanged)] == [Mode.VOTING]
    bench.enter_round_0()
    bench.fire(TimerKind.PROPOSE)
    assert bench.own_votes(PREVOTE)[0].height == 5
    image = restore(bench.journal)
    assert (image.mode, image.vote_from) == (Mode.VOTING, 5)


def test_c76_order_to_resume_is_shown_at_every_start_and_outlives_a_rotation() -> None:
    bench = amnesiac(height=5)
    shown = of_type(bench.feed(OperatorResumed(now_ms=bench.now_ms, height=7)), Alarm)
    assert ["height 7" in alarm.reason for alarm in shown] == [True]
    rotated = [decode_record(*encode_record(restore(bench.journal).base(final_height=9)))]
    for journal in (bench.journal, rotated):
        again = Bench(mode=StartMode.INTACT, journal=journal, height=10)
        assert len(of_type(again.effects, Alarm)) == 1
        assert restore(journal).resumed_at == 7


@pytest.mark.parametrize("mode", [Mode.HALTED, Mode.STOPPED])
def test_c76_order_to_resume_is_no_way_out_of_halted_or_stopped(mode: Mode) -> None:
    bench = Bench()
    if mode is Mode.HALTED:
        bench.feed(ConflictFound(now_ms=bench.now_ms, first=b"ours", second=b"theirs"))
    else:
        bench.driver.pen.stop("another process uses the key")
    assert bench.feed(OperatorResumed(now_ms=bench.now_ms, height=1)) == []
    assert bench.driver.mode is mode


def test_single_member_federation_needs_no_answers() -> None:
    bench = Bench(n=1, k=1, mode=StartMode.INTACT, journal=[Birth()])
    assert bench.driver.mode is Mode.VOTING
    bench.enter_round_0()
    bench.built(bench.block(1))
    assert [s.height for s in bench.own_block_signatures()] == [1]
    assert of_type(bench.effects, Send) == []
