"""Edges of the rules: each test fails when one comparison or one check of the core is changed.

At height 1 of four members the proposers of rounds 0, 1, 2, 3 are 1, 2, 3, 0.
"""

import pytest

from federation.consensus.effects import (
    Accuse,
    Broadcast,
    Connect,
    Finalize,
    ForgetBlocks,
    Persist,
    SendAnswer,
    SignBlock,
)
from federation.consensus.encoding import NIL
from federation.consensus.events import (
    BlockChecked,
    BlockSigned,
    ConflictFound,
    MessageReceived,
    StartMode,
    TimerKind,
    Verdict,
)
from federation.consensus.evidence import conflict_of
from federation.consensus.height_state import Step
from federation.consensus.messages import EvidenceClass, RollCall
from federation.consensus.records import (
    Amnesia,
    Base,
    Birth,
    BlockSigRecord,
    InvalidJournal,
    Mode,
    Resume,
    Seen,
    VoteRecord,
    restore,
)
from federation.consensus.votes import Proposal, VoteType
from federation.sim.world import block_hash, block_key
from tests.federation.consensus.bench import (
    PRECOMMIT,
    PREVOTE,
    PROPOSAL,
    Bench,
    builds,
    of_type,
    sent_to,
    sent_votes,
)
from tests.federation.consensus.test_rules_starting import answer


def in_round_0(me: int = 0, **options: object) -> Bench:
    bench = Bench(me, **options)  # type: ignore[arg-type]
    bench.enter_round_0()
    return bench


def go_to_round(bench: Bench, round_: int) -> None:
    """Two others, more than one liar, are in a later round."""
    bench.votes(PREVOTE, round_, NIL, *[m for m in range(4) if m != bench.me][:2])
    assert bench.agreement.round == round_


def locked_in_round_0(me: int = 0) -> tuple[Bench, bytes]:
    bench = in_round_0(me)
    data = bench.block(1)
    bench.propose(data)
    bench.votes(PREVOTE, 0, block_hash(data), *[m for m in range(4) if m != me][:2])
    assert bench.agreement.locked_round == 0
    return bench, data


def decided_in_round_0() -> tuple[Bench, bytes]:
    bench = in_round_0()
    data = bench.block(1)
    bench.offer(data)
    bench.receive(bench.certificate(PRECOMMIT, 0, block_hash(data), 1, 2, 3))
    assert bench.agreement.step is Step.DECIDED
    return bench, data


def test_c20_later_rounds_may_be_empty_although_round_0_began_with_work() -> None:
    bench = in_round_0(me=2)
    go_to_round(bench, 1)
    assert [build.allow_empty for build in builds(bench.effects)] == [True]


def test_c21_valid_round_is_cited_not_the_lock_round() -> None:
    bench, _ = locked_in_round_0()
    other = bench.block(2)
    bench.offer(other)
    go_to_round(bench, 2)
    bench.receive(bench.certificate(PREVOTE, 1, block_hash(other), 1, 2, 3))
    go_to_round(bench, 3)
    (proposal,) = bench.own_votes(PROPOSAL, 3)
    assert (proposal.block_hash, proposal.valid_round) == (block_hash(other), 1)


def test_c24_pol_of_the_lock_round_itself_is_new_enough() -> None:
    """lockedRound ≤ vr; two POLs of one round need more liars than are borne, the rule is ≤."""
    bench, _ = locked_in_round_0()
    go_to_round(bench, 1)
    other = bench.block(2)
    bench.propose(other, pol=bench.certificate(PREVOTE, 0, block_hash(other), 1, 2, 3))
    assert bench.own_votes(PREVOTE, 1)[0].block_hash == block_hash(other)


def test_c24a_newer_pol_of_the_locked_block_is_cited() -> None:
    bench, data = locked_in_round_0()
    go_to_round(bench, 2)
    bench.propose(data, pol=bench.certificate(PREVOTE, 1, block_hash(data), 1, 2, 3))
    vote = bench.own_votes(PREVOTE, 2)[0]
    assert (vote.block_hash, vote.valid_round) == (block_hash(data), 1)


def test_c28_quorum_for_nil_waits_for_the_own_prevote() -> None:
    """Precommitting first would make the own prevote impossible (C34)."""
    bench = in_round_0()
    bench.votes(PREVOTE, 0, NIL, 1, 2, 3)
    assert sent_votes(bench.effects) == []
    bench.fire(TimerKind.PROPOSE)
    assert [vote.type for vote in sent_votes(bench.effects)] == [PREVOTE, PRECOMMIT]


def test_c34_nothing_is_voted_below_the_highest_block_signature() -> None:
    """The chain is behind the journal; the own votes of that height are not in it."""
    base = Base(
        mode=Mode.VOTING,
        vote_from=0,
        position=(1, 0, 3),
        block_signature=(5, b"h" * 32),
        records=(),
    )
    bench = Bench(mode=StartMode.INTACT, journal=[base], height=4)
    bench.driver.pen.mode = Mode.VOTING
    bench.enter_round_0()
    bench.fire(TimerKind.PROPOSE)
    assert sent_votes(bench.effects) == []


def test_c36_block_signature_of_the_journal_is_sent_again_and_not_recorded_again() -> None:
    bench, data = decided_in_round_0()
    again = Bench(mode=StartMode.INTACT, journal=bench.journal, blocks=bench.disk_blocks)
    assert [s.block_hash for s in again.own_block_signatures()] == [block_hash(data)]
    assert sum(isinstance(record, BlockSigRecord) for record in again.journal) == 1


def test_c36_member_in_roll_call_signs_decided_blocks() -> None:
    bench = Bench(mode=StartMode.INTACT, journal=Bench().journal)
    assert bench.driver.mode is Mode.ROLLCALL
    data = bench.block(1)
    bench.offer(data)
    bench.receive(bench.certificate(PRECOMMIT, 0, block_hash(data), 1, 2, 3))
    assert [s.block_hash for s in bench.own_block_signatures()] == [block_hash(data)]


def test_c56c_newest_precommit_counts() -> None:
    """Locked on h, then on g, then a prevote for h that cites only what is before g's lock."""
    bench = in_round_0()
    h, g = b"h" * 32, b"g" * 32
    bench.receive(bench.vote(PRECOMMIT, 0, h, 1))
    bench.receive(bench.vote(PRECOMMIT, 2, g, 1))
    (accused,) = of_type(bench.receive(bench.vote(PREVOTE, 3, h, 1, 1)), Accuse)
    assert accused.evidence.kind is EvidenceClass.AMNESIA


def test_c2_blocks_of_an_older_height_are_forgotten_at_the_start() -> None:
    bench, data = locked_in_round_0()
    later = Bench(mode=StartMode.INTACT, journal=bench.journal, blocks=bench.disk_blocks, height=2)
    assert ForgetBlocks(()) in later.effects
    assert later.agreement.blocks.get(block_hash(data)) is None


def test_c75_amnesiac_is_not_made_amnesiac_again_by_what_it_forgot() -> None:
    bench = Bench(mode=StartMode.AMNESIAC)
    for round_ in range(3):
        bench.receive(bench.vote(PREVOTE, round_, NIL, 0))
    assert [type(record) for record in bench.journal] == [Amnesia]


def test_c75_own_message_does_not_take_a_member_out_of_halted() -> None:
    bench = in_round_0()
    bench.feed(ConflictFound(now_ms=bench.now_ms, first=b"ours", second=b"theirs"))
    bench.receive(bench.vote(PREVOTE, 3, NIL, 0))
    assert bench.driver.mode is Mode.HALTED
    assert restore(bench.journal).mode is Mode.HALTED


def test_c75_messages_from_before_the_loss_are_old_news_after_it() -> None:
    """RESUME(6) says that what was signed below 6 is forgotten and harmless."""
    journal = [Birth(), Amnesia(), Resume(6)]
    bench = Bench(mode=StartMode.INTACT, journal=journal, height=6)
    old = Bench(height=5).vote(PRECOMMIT, 0, NIL, 0)
    for member in (1, 2):
        bench.receive(answer(member, known=5, seen=old))
    assert bench.driver.mode is Mode.VOTING


def test_c75_rolled_back_after_a_resume_asks_anew() -> None:
    """The bound of the first loss says nothing about the second."""
    bench = Bench(mode=StartMode.AMNESIAC, height=5)
    for member in (1, 2, 3):
        bench.receive(answer(member, known=4))
    bench.final(b"5" * 32, signers=(1, 2, 3))
    bench.start_height(6)
    assert bench.driver.mode is Mode.VOTING
    effects = bench.receive(bench.vote(PREVOTE, 0, NIL, 0))
    assert bench.driver.mode is Mode.ABSTAINING
    assert any(isinstance(b.message, RollCall) for b in of_type(effects, Broadcast))


def test_c71_what_was_seen_is_recorded_once() -> None:
    bench = in_round_0()
    bench.receive(bench.vote(PREVOTE, 0, NIL, 3))
    bench.fire(TimerKind.PROPOSE)
    bench.fire(TimerKind.PREVOTE)
    assert bench.own_votes(PRECOMMIT)
    assert sum(isinstance(record, Seen) for record in bench.journal) == 1
    assert all(p.records for p in of_type(bench.effects, Persist))
    assert len(restore(bench.journal).seen) == 1


def test_c60_journaled_block_signature_alone_stands_against_k_others() -> None:
    """Its COMMIT is no longer held; another final block, or k signatures for one, still halt."""
    base = Base(
        mode=Mode.VOTING,
        vote_from=0,
        position=(1, 0, 3),
        block_signature=(1, b"h" * 32),
        records=(),
    )
    bench = Bench(mode=StartMode.INTACT, journal=[base])
    assert of_type(bench.final(b"f" * 32, signers=(1, 2, 3)), Connect) == []
    assert bench.driver.mode is Mode.HALTED
    bench = Bench(mode=StartMode.INTACT, journal=[base])
    data = bench.block(1)
    bench.offer(data)
    for member in (1, 2, 3):
        bench.receive(bench.block_signature(block_hash(data), member))
    assert bench.driver.mode is Mode.HALTED
    assert of_type(bench.effects, Finalize) == []


def test_c60_halted_member_sends_no_block_signature_that_was_made_too_late() -> None:
    bench = in_round_0()
    data = bench.block(1)
    bench.propose(data)
    commit = bench.certificate(PRECOMMIT, 0, block_hash(data), 1, 2, 3)
    event = MessageReceived(now_ms=bench.now_ms, sender=1, message=commit)
    assert of_type(bench.driver.handle(event), SignBlock)
    bench.feed(ConflictFound(now_ms=bench.now_ms, first=b"ours", second=b"theirs"))
    signature = bench.block_signature(block_hash(data), 0)
    assert bench.feed(BlockSigned(now_ms=bench.now_ms, signature=signature)) == []


def test_wants_a_late_pol_only_if_it_is_newer_than_the_valid_value() -> None:
    """C30 takes a POL of any round above validRound, also of past rounds."""
    bench, data = locked_in_round_0()
    go_to_round(bench, 3)
    wanted = [
        round_
        for round_ in range(5)
        if bench.driver.wants(bench.certificate(PREVOTE, round_, b"p" * 32, 1, 2, 3))
    ]
    assert wanted == [1, 2, 3, 4]


def test_wants_a_second_proposal_of_a_round_for_it_is_evidence() -> None:
    """C22, C56a: known is only what says the same."""
    bench = in_round_0()
    first, second = (
        Proposal(bench.vote(PROPOSAL, 0, bytes([salt]) * 32, 1), None) for salt in (1, 2)
    )
    bench.receive(first)
    assert not bench.driver.wants(first)
    assert bench.driver.wants(second)
    assert len(of_type(bench.receive(second), Accuse)) == 1


def test_c51_peer_with_the_same_valid_round_gets_no_pol_again() -> None:
    bench, data = locked_in_round_0()
    pol = bench.agreement.keeper.pol(0, block_hash(data))
    for valid_round in (-1, 0):
        sent = sent_to(bench.receive(bench.status(valid_round=valid_round), sender=2), 2)
        assert (pol in sent) == (valid_round == -1)


def test_c51_peer_in_another_round_does_not_get_this_round_s_proposal() -> None:
    bench = in_round_0()
    bench.propose(bench.block(1))
    proposal = bench.agreement.proposals[0]
    ahead = ((0, 3),) * 4
    for round_ in (0, 1):
        status = bench.status(round=round_, positions=ahead)
        assert (proposal in sent_to(bench.receive(status, sender=2), 2)) == (round_ == 0)


def test_c56c_prevote_of_the_precommit_s_own_round_convicts_nobody() -> None:
    """An equivocating proposer makes correct members prevote g and, seeing h's POL, precommit h."""
    bench = in_round_0()
    lock = bench.vote(PRECOMMIT, 1, b"h" * 32, 1)
    assert conflict_of(lock, bench.vote(PREVOTE, 1, b"g" * 32, 1)) is None
    assert conflict_of(lock, bench.vote(PREVOTE, 1, b"g" * 32, 1, 0)) is None


def vote_record(height: int, round_: int, kind: VoteType) -> VoteRecord:
    return VoteRecord(Bench(height=height).vote(kind, round_, NIL, 0), None)


def test_c34_journal_with_a_position_twice_is_refused() -> None:
    record = vote_record(3, 1, PREVOTE)
    with pytest.raises(InvalidJournal):
        restore([record, record])


def test_c2_votes_of_older_heights_are_not_of_this_one() -> None:
    older, newer = vote_record(3, 5, PREVOTE), vote_record(4, 0, PREVOTE)
    image = restore([older, newer])
    assert image.votes_at(4) == (newer,)
    assert image.votes_at(3) == ()


def test_c34_position_outlives_a_rotation_that_leaves_the_votes_out() -> None:
    image = restore([vote_record(3, 1, PRECOMMIT)])
    assert restore([image.base(final_height=3)]).position == (3, 1, 3)


def test_c36_journal_with_two_blocks_signed_at_one_height_is_refused() -> None:
    commit = Bench().certificate(PRECOMMIT, 0, b"h" * 32, 1, 2, 3)
    first = BlockSigRecord(1, b"h" * 32, commit)
    assert restore([first, first]).block_signature == (1, b"h" * 32)
    with pytest.raises(InvalidJournal):
        restore([first, BlockSigRecord(1, b"g" * 32, commit)])


def test_c75_own_prevote_that_cites_another_round_is_another_message() -> None:
    bench = Bench()
    said = bench.vote(PREVOTE, 3, b"h" * 32, 0, 1)
    image = restore([VoteRecord(said, bench.certificate(PREVOTE, 1, b"h" * 32, 1, 2, 3))])
    assert image.has(said)
    assert not image.has(bench.vote(PREVOTE, 3, b"h" * 32, 0, 2))
    assert not image.has(bench.vote(PREVOTE, 3, b"g" * 32, 0, 1))


def test_c22_proposal_that_cites_its_own_round_is_not_accepted() -> None:
    bench = in_round_0()
    data = bench.block(1)
    pol = bench.certificate(PREVOTE, 0, block_hash(data), 1, 2, 3)
    vote = bench.vote(PROPOSAL, 0, block_hash(data), 1, valid_round=0)
    bench.receive(Proposal(vote, pol))
    assert bench.agreement.proposals == {}


def test_c71_votes_inside_certificates_count_as_seen_later_on() -> None:
    bench = Bench()
    bench.receive(bench.certificate(PREVOTE, 0, b"h" * 32, 1, 2, 3))
    bench.final(b"1" * 32, signers=(0, 1, 2))
    bench.start_height(2)
    request = RollCall(block_key(3)[1:], bytes(32))
    (found,) = of_type(bench.receive(request, sender=3), SendAnswer)
    assert found.seen is not None
    assert (found.seen.height, found.seen.member) == (1, 3)


def test_c14_objective_verdict_stays_whatever_is_said_later() -> None:
    bench = in_round_0()
    data = bench.block(1)
    bench.propose(data)
    for verdict, round_ in ((Verdict.INVALID, 0), (Verdict.ACCEPTABLE, 1)):
        event = BlockChecked(
            now_ms=bench.now_ms,
            height=1,
            round=round_,
            block_hash=block_hash(data),
            verdict=verdict,
        )
        bench.feed(event)
        assert bench.agreement.blocks.have(block_hash(data))


def test_c37_exactly_k_signatures_make_the_witness() -> None:
    """All four may come before the bytes do; the surplus one is left out."""
    bench = in_round_0()
    data = bench.block(1)
    for member in (1, 2, 3):
        bench.receive(bench.block_signature(block_hash(data), member))
    bench.feed(
        BlockSigned(now_ms=bench.now_ms, signature=bench.block_signature(block_hash(data), 0))
    )
    (finalize,) = of_type(bench.offer(data), Finalize)
    assert [s.member for s in finalize.signatures] == [0, 1, 2]
