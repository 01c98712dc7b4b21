"""Rounds, votes and locks: one test and more for each rule from C10 to C34.

At height 1 of four members the proposers of rounds 0, 1, 2, 3 are 1, 2, 3, 0.
"""

import pytest

from federation.consensus.effects import CheckBlock, Persist, PersistBlock, Send, SignVote
from federation.consensus.encoding import NIL
from federation.consensus.events import Timer, TimerKind, Verdict, WorkAvailable
from federation.consensus.height_state import Step
from federation.consensus.messages import GetBlock
from federation.consensus.records import VoteRecord
from federation.consensus.votes import Certificate
from federation.sim.world import TIMES, block_hash
from tests.federation.consensus.bench import (
    PRECOMMIT,
    PREVOTE,
    PROPOSAL,
    Bench,
    builds,
    of_type,
    sent_to,
    sent_votes,
    timers,
)


def bench_in_round_0(me: int = 0, **options: object) -> Bench:
    """A member that has just entered round 0 and waits for member 1's proposal."""
    bench = Bench(me, **options)  # type: ignore[arg-type]
    bench.enter_round_0()
    assert (bench.agreement.round, bench.agreement.step) == (0, Step.PROPOSE)
    return bench


def lock_in_round_0(bench: Bench, salt: int = 1) -> bytes:
    """Lock the block proposed in round 0; returns its bytes."""
    data = bench.block(salt)
    bench.propose(data)
    bench.votes(PREVOTE, 0, block_hash(data), 1, 2)
    assert bench.agreement.locked_hash == block_hash(data)
    return data


def go_to_round(bench: Bench, round_: int) -> None:
    """Two others, more than one liar, are in a later round."""
    others = [m for m in range(4) if m != bench.me][:2]
    bench.votes(PREVOTE, round_, NIL, *others)
    assert bench.agreement.round == round_


# --- counting


def test_c10_proposer_of_the_round_alone_is_heard() -> None:
    bench = bench_in_round_0()
    bench.propose(bench.block(1), member=2)
    assert bench.agreement.proposals == {}
    bench.propose(bench.block(1), member=1)
    assert bench.agreement.proposals[0].vote.member == 1


def test_c11_vote_counts_once_for_its_own_height_round_and_type() -> None:
    bench = bench_in_round_0()
    vote = bench.vote(PREVOTE, 0, NIL, 1)
    for _ in range(3):
        bench.receive(vote)
    bench.receive(bench.vote(PREVOTE, 1, NIL, 2))
    bench.receive(bench.vote(PRECOMMIT, 0, NIL, 3))
    assert bench.agreement.keeper.supporters(vote) == 1
    other_height = Bench(height=2).vote(PREVOTE, 0, NIL, 2)
    bench.receive(other_height)
    assert bench.agreement.keeper.supporters(vote) == 1


def test_c11_two_votes_of_one_member_each_count_for_their_own_hash() -> None:
    bench = bench_in_round_0()
    data = bench.block(1)
    bench.propose(data)  # own prevote for the block
    bench.votes(PREVOTE, 0, NIL, 1)
    bench.votes(PREVOTE, 0, block_hash(data), 1, 2)
    assert bench.agreement.locked_hash == block_hash(data)


def test_c12_quorum_takes_k_distinct_members_of_one_round() -> None:
    bench = bench_in_round_0()
    hash_ = block_hash(bench.block(1))
    bench.votes(PREVOTE, 0, hash_, 1, 2)
    bench.votes(PREVOTE, 1, hash_, 3)
    assert bench.agreement.keeper.pol(0, hash_) is None
    bench.votes(PREVOTE, 0, hash_, 3)
    pol = bench.agreement.keeper.pol(0, hash_)
    assert pol is not None and [m for m, _, _ in pol.votes] == [1, 2, 3]


def test_c12_certificate_is_worth_its_single_votes() -> None:
    bench = bench_in_round_0()
    hash_ = block_hash(bench.block(1))
    bench.receive(bench.certificate(PREVOTE, 0, hash_, 1, 2, 3))
    assert bench.agreement.keeper.pol(0, hash_) is not None
    assert bench.agreement.keeper.reached(0, PREVOTE)


def test_c13_reached_counts_members_at_or_past_the_position() -> None:
    bench = bench_in_round_0()
    keeper = bench.agreement.keeper
    bench.votes(PRECOMMIT, 0, NIL, 1)
    bench.votes(PREVOTE, 3, NIL, 2)
    assert not keeper.reached(0, PREVOTE)
    bench.fire(TimerKind.PROPOSE)  # the own prevote is the third
    assert keeper.reached(0, PREVOTE)
    assert not keeper.reached(0, PRECOMMIT)


def test_c14_block_is_had_when_bytes_are_held_and_objectively_valid() -> None:
    bench = bench_in_round_0()
    bench.answers_checks = False
    data = bench.block(1)
    question = of_type(bench.propose(data), CheckBlock)[0]
    assert not bench.agreement.blocks.have(block_hash(data))
    bench.verdicts[block_hash(data)] = Verdict.REFUSED
    bench.feed(bench.checked(question))
    assert bench.agreement.blocks.have(block_hash(data))


# --- pacing


def test_c20_round_0_waits_for_the_shortest_pause_even_with_work() -> None:
    bench = Bench(work_due=True)
    assert bench.agreement.step is Step.WAIT
    timer = Timer(kind=TimerKind.START, height=1)
    bench.tick(TIMES.min_interval_ms - 1, timer)
    assert bench.agreement.step is Step.WAIT
    bench.tick(1, timer)
    assert bench.agreement.step is Step.PROPOSE


def test_c20_without_work_round_0_waits_for_the_longest_pause() -> None:
    bench = Bench(me=1, work_due=False)
    timer = Timer(kind=TimerKind.START, height=1)
    bench.tick(TIMES.min_interval_ms, timer)
    assert bench.agreement.step is Step.WAIT
    effects = bench.tick(TIMES.block_interval_ms, timer)
    assert bench.agreement.step is Step.PROPOSE
    assert builds(effects)[0].allow_empty


def test_c20_proposer_with_work_does_not_offer_an_empty_block() -> None:
    bench = Bench(me=1, work_due=False)
    bench.tick(TIMES.min_interval_ms, Timer(kind=TimerKind.START, height=1))
    effects = bench.feed(WorkAvailable(now_ms=bench.now_ms, height=1))
    assert [build.allow_empty for build in builds(effects)] == [False]


@pytest.mark.parametrize(("empty", "step"), [(False, Step.PREVOTE), (True, Step.WAIT)])
def test_c20_offered_block_starts_the_round_unless_it_is_empty(empty: bool, step: Step) -> None:
    bench = Bench(work_due=False)
    bench.start_height(2, work_due=False)
    bench.now_ms += TIMES.min_interval_ms
    bench.propose(bench.block(1, empty=empty))
    assert bench.agreement.step is step


def test_c20_s_others_under_way_start_the_round_and_one_does_not() -> None:
    bench = Bench(me=2, work_due=False)
    bench.start_height(2, work_due=False)
    bench.now_ms += TIMES.min_interval_ms
    bench.votes(PREVOTE, 0, NIL, 1)
    assert bench.agreement.step is Step.WAIT
    effects = bench.votes(PREVOTE, 0, NIL, 3)
    assert bench.agreement.step is Step.PROPOSE
    assert builds(effects)[0].allow_empty


def test_c20_restarted_member_does_not_pause_when_the_height_is_under_way() -> None:
    bench = Bench(work_due=False)
    bench.votes(PREVOTE, 0, NIL, 3)
    assert bench.agreement.step is Step.PROPOSE


# --- proposals


def test_c21_proposer_builds_persists_and_then_sends_its_proposal() -> None:
    bench = Bench(me=1)
    build = builds(bench.enter_round_0())[0]
    assert (build.height, build.round, build.minimal) == (1, 0, False)
    data = bench.block(1)
    effects = bench.built(data)
    kinds = [type(effect).__name__ for effect in effects]
    block_at, record_at = kinds.index("PersistBlock"), kinds.index("Persist")
    assert block_at < record_at < kinds.index("SignVote") < kinds.index("Broadcast")
    assert bench.own_votes(PROPOSAL)[0].block_hash == block_hash(data)
    assert bench.own_votes(PREVOTE)[0].block_hash == block_hash(data)


def test_c21_late_block_is_not_proposed() -> None:
    bench = Bench(me=1)
    bench.enter_round_0()
    bench.fire(TimerKind.PROPOSE)
    bench.built(bench.block(1))
    assert bench.own_votes(PROPOSAL) == []


def test_c21_valid_value_is_proposed_again_with_its_pol() -> None:
    bench = bench_in_round_0()
    data = lock_in_round_0(bench)
    go_to_round(bench, 3)
    proposal = bench.own_votes(PROPOSAL, 3)[0]
    assert (proposal.block_hash, proposal.valid_round) == (block_hash(data), 0)
    assert bench.agreement.proposals[3].certificate == bench.agreement.keeper.pol(
        0, block_hash(data)
    )


def test_c21_block_that_became_valid_while_building_replaces_the_fresh_one() -> None:
    bench = bench_in_round_0()
    data = bench.block(1)
    bench.offer(data)
    go_to_round(bench, 3)
    bench.receive(bench.certificate(PREVOTE, 2, block_hash(data), 1, 2, 3))
    bench.built(bench.block(2))
    assert bench.own_votes(PROPOSAL, 3)[0].block_hash == block_hash(data)


def test_c21_minimal_block_from_round_2_on_without_valid_value() -> None:
    """N9: in every round ≥ 2 a proposer with validValue = nil proposes a minimal block."""
    assert builds(_effects_entering(me=2, round_=1))[0].minimal is False
    assert builds(_effects_entering(me=3, round_=2))[0].minimal is True
    assert builds(_effects_entering(me=0, round_=3))[0].minimal is True


def _effects_entering(me: int, round_: int) -> list[object]:
    bench = bench_in_round_0(me)
    bench.effects.clear()
    go_to_round(bench, round_)
    return list(bench.effects)


def test_c22_first_proposal_of_a_round_stands() -> None:
    bench = bench_in_round_0()
    first, second = bench.block(1), bench.block(2)
    bench.propose(first)
    bench.propose(second)
    assert bench.agreement.proposals[0].vote.block_hash == block_hash(first)


def test_c22_reproposal_needs_the_pol_it_cites() -> None:
    bench = bench_in_round_0()
    go_to_round(bench, 1)
    data = bench.block(1)
    incomplete = bench.certificate(PREVOTE, 0, block_hash(data), 1, 2)
    bench.propose(data, pol=incomplete)
    assert bench.agreement.proposals == {}
    bench.propose(data, pol=bench.certificate(PREVOTE, 0, block_hash(data), 1, 2, 3))
    assert bench.agreement.proposals[1].vote.valid_round == 0


def test_c22_missing_bytes_are_asked_of_the_sender_then_of_others() -> None:
    bench = bench_in_round_0()
    data = bench.block(1)
    bench.propose(data, with_block=False)
    request = GetBlock(1, block_hash(data))
    fetch = Timer(kind=TimerKind.FETCH, height=1)
    effects = bench.tick(20, fetch)
    assert sent_to(effects, 1) == [request]
    later = [effect for _ in range(3) for effect in bench.tick(20, fetch)]
    assert {send.to for send in of_type(later, Send) if send.message == request} == {1, 2, 3}
    bench.offer(data)
    assert bench.own_votes(PREVOTE)[0].block_hash == block_hash(data)
    assert of_type(bench.tick(20, fetch), Send) == []


# --- prevotes


def test_c23_acceptable_proposal_is_prevoted() -> None:
    bench = bench_in_round_0()
    data = bench.block(1)
    bench.propose(data)
    vote = bench.own_votes(PREVOTE)[0]
    assert (vote.block_hash, vote.valid_round) == (block_hash(data), -1)
    assert bench.agreement.step is Step.PREVOTE


@pytest.mark.parametrize("verdict", [Verdict.INVALID, Verdict.REFUSED])
def test_c23_unacceptable_proposal_gets_a_nil_prevote_at_once(verdict: Verdict) -> None:
    bench = bench_in_round_0()
    data = bench.block(1)
    bench.verdicts[block_hash(data)] = verdict
    bench.propose(data)
    assert bench.own_votes(PREVOTE)[0].block_hash == NIL


def test_c23_not_yet_acceptable_proposal_is_judged_again_every_second() -> None:
    bench = bench_in_round_0()
    data = bench.block(1)
    bench.verdicts[block_hash(data)] = Verdict.NOT_YET
    effects = bench.propose(data)
    assert timers(effects, TimerKind.RECHECK)[0].after_ms == 1_000
    assert bench.agreement.step is Step.PROPOSE
    assert len(of_type(bench.fire(TimerKind.RECHECK), CheckBlock)) == 1
    bench.verdicts[block_hash(data)] = Verdict.ACCEPTABLE
    bench.fire(TimerKind.RECHECK)
    assert bench.own_votes(PREVOTE)[0].block_hash == block_hash(data)


def test_c23_verdict_is_asked_anew_in_each_round() -> None:
    """N8: E and P are evaluated at the moment of the prevote; O stays."""
    bench = bench_in_round_0()
    data = bench.block(1)
    bench.verdicts[block_hash(data)] = Verdict.REFUSED
    bench.propose(data)
    go_to_round(bench, 1)
    bench.verdicts[block_hash(data)] = Verdict.ACCEPTABLE
    bench.propose(data)
    assert [v.block_hash for v in bench.own_votes(PREVOTE)] == [NIL, block_hash(data)]


def test_c23_locked_member_refuses_another_fresh_block() -> None:
    bench = bench_in_round_0()
    lock_in_round_0(bench)
    go_to_round(bench, 1)
    bench.propose(bench.block(2))
    assert bench.own_votes(PREVOTE, 1)[0].block_hash == NIL


def reproposal_after_lock_in_round_1(pol_round: int) -> Bench:
    """Locked on one block in round 1, then another is proposed in round 3 citing a POL."""
    bench = bench_in_round_0(me=1)
    bench.fire(TimerKind.PROPOSE)
    go_to_round(bench, 1)
    data = bench.block(1)
    bench.propose(data)
    bench.votes(PREVOTE, 1, block_hash(data), 2, 3)
    assert bench.agreement.locked_round == 1
    go_to_round(bench, 3)
    other = bench.block(2)
    pol = bench.certificate(PREVOTE, pol_round, block_hash(other), 0, 2, 3)
    bench.propose(other, pol=pol)
    return bench


def test_c24_newer_pol_lets_a_locked_member_vote_for_another_block() -> None:
    bench = reproposal_after_lock_in_round_1(pol_round=2)
    vote = bench.own_votes(PREVOTE, 3)[0]
    assert (vote.block_hash, vote.valid_round) == (block_hash(bench.block(2)), 2)
    assert bench.agreement.locked_round == 1  # a vote does not move the lock


def test_c24_older_pol_does_not() -> None:
    bench = reproposal_after_lock_in_round_1(pol_round=0)
    assert bench.own_votes(PREVOTE, 3)[0].block_hash == NIL


def test_c24_reproposal_needs_only_objective_validity() -> None:
    """N8: with valid_round ≥ 0, a POL stands for E and P."""
    bench = bench_in_round_0()
    data = bench.block(1)
    bench.verdicts[block_hash(data)] = Verdict.REFUSED
    bench.propose(data)
    go_to_round(bench, 1)
    bench.propose(data, pol=bench.certificate(PREVOTE, 0, block_hash(data), 1, 2, 3))
    assert bench.own_votes(PREVOTE, 1)[0].block_hash == block_hash(data)


def test_c24_objectively_invalid_reproposal_gets_nil() -> None:
    bench = bench_in_round_0()
    go_to_round(bench, 1)
    data = bench.block(1)
    bench.verdicts[block_hash(data)] = Verdict.INVALID
    bench.propose(data, pol=bench.certificate(PREVOTE, 0, block_hash(data), 1, 2, 3))
    assert bench.own_votes(PREVOTE, 1)[0].block_hash == NIL


def test_c24a_prevote_for_the_locked_block_cites_the_lock_round() -> None:
    bench = bench_in_round_0()
    data = lock_in_round_0(bench)
    go_to_round(bench, 1)
    bench.verdicts[block_hash(data)] = Verdict.REFUSED  # only O is needed now
    bench.propose(data)
    vote = bench.own_votes(PREVOTE, 1)[0]
    assert (vote.block_hash, vote.valid_round) == (block_hash(data), 0)
    record = bench.journal[-1]
    assert isinstance(record, VoteRecord) and record.certificate is not None
    assert (record.certificate.round, record.certificate.block_hash) == (0, block_hash(data))


def test_c24a_newest_of_the_cited_and_the_lock_round_is_named() -> None:
    bench = bench_in_round_0(me=1)
    data = bench.block(1)
    bench.offer(data)
    bench.fire(TimerKind.PROPOSE)
    go_to_round(bench, 1)
    bench.propose(data, pol=bench.certificate(PREVOTE, 0, block_hash(data), 0, 2, 3))
    bench.votes(PREVOTE, 1, block_hash(data), 2, 3)
    go_to_round(bench, 2)
    bench.propose(data, pol=bench.certificate(PREVOTE, 0, block_hash(data), 0, 2, 3))
    assert bench.own_votes(PREVOTE, 2)[0].valid_round == 1


def test_c25_no_proposal_in_time_means_a_nil_prevote() -> None:
    bench = bench_in_round_0()
    bench.fire(TimerKind.PROPOSE)
    assert bench.own_votes(PREVOTE)[0].block_hash == NIL


def test_c25_verdict_still_being_computed_counts_as_no_proposal() -> None:
    bench = bench_in_round_0()
    bench.answers_checks = False
    data = bench.block(1)
    question = of_type(bench.propose(data), CheckBlock)[0]
    bench.fire(TimerKind.PROPOSE)
    bench.feed(bench.checked(question))
    assert [v.block_hash for v in bench.own_votes(PREVOTE)] == [NIL]


def test_c26_prevote_timer_starts_once_when_k_members_are_past_their_prevote() -> None:
    bench = bench_in_round_0()
    bench.fire(TimerKind.PROPOSE)
    assert timers(bench.votes(PREVOTE, 0, NIL, 1), TimerKind.PREVOTE) == []
    effects = bench.votes(PREVOTE, 0, block_hash(bench.block(1)), 2)
    assert [t.after_ms for t in timers(effects, TimerKind.PREVOTE)] == [TIMES.timeout_base_ms]
    assert timers(bench.votes(PREVOTE, 0, NIL, 3), TimerKind.PREVOTE) == []


# --- precommits


def test_c27_quorum_for_a_block_locks_and_precommits_it_with_its_pol() -> None:
    bench = bench_in_round_0()
    data = bench.block(1)
    bench.propose(data)
    effects = bench.votes(PREVOTE, 0, block_hash(data), 1, 2)
    agreement = bench.agreement
    assert (agreement.locked_hash, agreement.locked_round) == (block_hash(data), 0)
    assert (agreement.valid_hash, agreement.valid_round) == (block_hash(data), 0)
    assert bench.own_votes(PRECOMMIT)[0].block_hash == block_hash(data)
    record = of_type(effects, Persist)[-1].records[-1]
    assert isinstance(record, VoteRecord) and record.certificate is not None
    assert record.certificate.block_hash == block_hash(data)
    assert all(record.certificate in sent_to(effects, peer) for peer in (1, 2, 3))


def test_c27_needs_the_bytes_but_not_the_proposal() -> None:
    bench = bench_in_round_0()
    data = bench.block(1)
    bench.fire(TimerKind.PROPOSE)
    bench.votes(PREVOTE, 0, block_hash(data), 1, 2, 3)
    assert bench.agreement.locked_hash == NIL
    bench.offer(data)
    assert bench.agreement.locked_hash == block_hash(data)


def test_c27_does_not_lock_before_the_own_prevote() -> None:
    bench = bench_in_round_0()
    data = bench.block(1)
    bench.answers_checks = False
    question = of_type(bench.propose(data), CheckBlock)[0]
    bench.votes(PREVOTE, 0, block_hash(data), 1, 2, 3)
    assert bench.agreement.locked_hash == NIL
    bench.feed(bench.checked(question))
    assert [v.type for v in sent_votes(bench.effects)] == [PREVOTE, PRECOMMIT]


def test_c27_objectively_invalid_block_is_never_locked() -> None:
    bench = bench_in_round_0()
    data = bench.block(1)
    bench.verdicts[block_hash(data)] = Verdict.INVALID
    bench.propose(data)
    bench.votes(PREVOTE, 0, block_hash(data), 1, 2, 3)
    assert bench.agreement.locked_hash == NIL
    assert bench.own_votes(PRECOMMIT) == []


def test_c28_quorum_for_nil_precommits_nil_and_keeps_the_lock() -> None:
    bench = bench_in_round_0()
    data = lock_in_round_0(bench)
    go_to_round(bench, 1)
    bench.fire(TimerKind.PROPOSE)
    bench.votes(PREVOTE, 1, NIL, 3)
    assert bench.own_votes(PRECOMMIT, 1)[0].block_hash == NIL
    assert bench.agreement.locked_hash == block_hash(data)


def test_c29_prevote_timeout_precommits_nil_and_keeps_the_lock() -> None:
    bench = bench_in_round_0()
    data = lock_in_round_0(bench)
    go_to_round(bench, 1)
    bench.fire(TimerKind.PROPOSE)
    bench.votes(PREVOTE, 1, block_hash(bench.block(2)), 3)
    bench.fire(TimerKind.PREVOTE)
    assert bench.own_votes(PRECOMMIT, 1)[0].block_hash == NIL
    assert bench.agreement.locked_hash == block_hash(data)


def test_c30_late_quorum_moves_the_valid_value_and_not_the_lock() -> None:
    bench = bench_in_round_0()
    locked = lock_in_round_0(bench)
    go_to_round(bench, 2)
    other = bench.block(2)
    bench.offer(other)
    bench.receive(bench.certificate(PREVOTE, 1, block_hash(other), 1, 2, 3))
    agreement = bench.agreement
    assert (agreement.valid_hash, agreement.valid_round) == (block_hash(other), 1)
    assert (agreement.locked_hash, agreement.locked_round) == (block_hash(locked), 0)


def test_c30_quorum_of_the_own_round_counts_only_after_the_own_prevote() -> None:
    bench = bench_in_round_0()
    data = bench.block(1)
    bench.offer(data)
    bench.receive(bench.certificate(PREVOTE, 0, block_hash(data), 1, 2, 3))
    assert bench.agreement.valid_round == -1
    bench.fire(TimerKind.PROPOSE)
    assert bench.agreement.valid_round == 0


# --- next rounds


def test_c31_precommit_timer_leads_to_the_next_round_from_any_step() -> None:
    bench = bench_in_round_0()
    effects = bench.votes(PRECOMMIT, 0, NIL, 1, 2, 3)
    assert len(timers(effects, TimerKind.PRECOMMIT)) == 1
    assert bench.agreement.step is Step.PROPOSE
    bench.fire(TimerKind.PRECOMMIT)
    assert bench.agreement.round == 1


def test_c32_s_members_in_a_later_round_take_a_member_there_and_one_does_not() -> None:
    bench = bench_in_round_0()
    bench.votes(PREVOTE, 5, NIL, 1)
    assert bench.agreement.round == 0
    bench.votes(PRECOMMIT, 3, NIL, 2)
    assert bench.agreement.round == 3
    bench.votes(PREVOTE, 5, NIL, 3)
    assert bench.agreement.round == 5


def test_c33_timeouts_grow_with_the_round_up_to_the_cap() -> None:
    base, step, cap = TIMES.timeout_base_ms, TIMES.timeout_step_ms, TIMES.timeout_cap_ms
    assert [TIMES.timeout_ms(r) for r in (0, 1, 5, 1_000)] == [
        base,
        base + step,
        base + 5 * step,
        cap,
    ]


def test_c33_timer_of_another_round_is_ignored() -> None:
    bench = bench_in_round_0()
    bench.fire(TimerKind.PROPOSE, round_=1)
    assert bench.agreement.step is Step.PROPOSE
    go_to_round(bench, 1)
    bench.fire(TimerKind.PROPOSE, round_=0)
    assert bench.agreement.step is Step.PROPOSE


def test_c34_nothing_is_signed_twice_or_backwards() -> None:
    bench = bench_in_round_0()
    data = lock_in_round_0(bench)
    bench.propose(bench.block(2))
    bench.fire(TimerKind.PROPOSE)
    bench.fire(TimerKind.PREVOTE)
    bench.votes(PREVOTE, 0, NIL, 1, 2, 3)
    positions = [(v.round, int(v.type)) for v in sent_votes(bench.effects)]
    assert positions == sorted(set(positions))
    assert bench.own_votes(PRECOMMIT)[0].block_hash == block_hash(data)


def test_c34_member_that_may_not_vote_still_follows_rounds_and_valid_values() -> None:
    bench = Bench(me=0)
    bench.driver.pen.image.vote_from = 9
    bench.enter_round_0()
    data = bench.block(1)
    bench.propose(data)
    bench.fire(TimerKind.PROPOSE)
    bench.receive(bench.certificate(PREVOTE, 0, block_hash(data), 1, 2, 3))
    bench.votes(PRECOMMIT, 1, NIL, 1, 2)
    assert sent_votes(bench.effects) == []
    assert bench.agreement.round == 1
    assert bench.agreement.valid_hash == block_hash(data)
    assert bench.agreement.locked_round == -1


def test_c40_record_comes_before_signature_and_signature_before_sending() -> None:
    bench = bench_in_round_0()
    effects = bench.propose(bench.block(1))
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Persist) < kinds.index(SignVote)
    at = next(i for i, effect in enumerate(effects) if sent_votes([effect]))
    assert kinds.index(SignVote) < at


def test_c41_block_bytes_are_durable_before_the_record_that_names_them() -> None:
    bench = bench_in_round_0()
    data = bench.block(1)
    effects = bench.propose(data)
    kinds = [type(effect) for effect in effects]
    assert kinds.index(PersistBlock) < kinds.index(Persist)
    assert bench.disk_blocks == {block_hash(data): data}


def test_c21_new_round_keeps_only_the_pol_of_the_valid_value() -> None:
    """Votes, proposals and POLs of rounds below r − 1 are dropped, but for validRound's."""
    bench = bench_in_round_0()
    data = lock_in_round_0(bench)
    go_to_round(bench, 4)
    keeper = bench.agreement.keeper
    assert [pol.round for pol in keeper.pols()] == [0]
    assert keeper.votes(0, PREVOTE) == {}
    assert isinstance(keeper.pol(0, block_hash(data)), Certificate)


def test_c24_pol_of_a_proposal_that_came_early_is_not_forgotten() -> None:
    bench = bench_in_round_0(me=1)
    bench.fire(TimerKind.PROPOSE)
    go_to_round(bench, 3)
    newer, other = bench.block(1), bench.block(2)
    bench.offer(newer)
    bench.offer(other)
    bench.receive(bench.certificate(PREVOTE, 2, block_hash(newer), 0, 2, 3))
    pol = bench.certificate(PREVOTE, 1, block_hash(other), 0, 2, 3)
    bench.propose(other, round_=5, pol=pol)
    go_to_round(bench, 5)
    assert bench.own_votes(PREVOTE, 5)[0].valid_round == 1
