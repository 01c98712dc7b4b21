"""Status exchange, catch-up, evidence, borders and limits: C50 to C58, C80 to C82, C90 to C94."""

from dataclasses import replace

import pytest

from federation.consensus.block_store import BlockStore, HeldBlock
from federation.consensus.early import EarlyMessages
from federation.consensus.effects import (
    Accuse,
    Broadcast,
    CatchUp,
    Effect,
    LookUpCertificate,
    Send,
    SendFinal,
)
from federation.consensus.encoding import NIL, InvalidMessage
from federation.consensus.events import PeerConnected, PeerDisconnected, StartMode, Timer, TimerKind
from federation.consensus.evidence import check_evidence, conflict_of, two_blocks
from federation.consensus.height_state import Step
from federation.consensus.messages import (
    Evidence,
    EvidenceClass,
    GetBlock,
    GetCertificate,
    Message,
    Status,
    StatusFlag,
)
from federation.consensus.records import Mode
from federation.consensus.status import REPLIES_MAX
from federation.consensus.votes import BlockMessage, Proposal, Vote
from federation.members import MemberSet
from federation.sim.world import TIMES, block_hash, block_key, member_set
from tests.federation.consensus.bench import (
    PRECOMMIT,
    PREVOTE,
    PROPOSAL,
    Bench,
    of_type,
    sent_to,
    sent_votes,
    timers,
)

GOSSIP = Timer(kind=TimerKind.GOSSIP)


def started(me: int = 0, **options: object) -> Bench:
    """A member in round 0."""
    bench = Bench(me, **options)  # type: ignore[arg-type]
    bench.enter_round_0()
    return bench


def statuses(effects: list[Effect]) -> list[Status]:
    """STATUS messages broadcast."""
    return [b.message for b in of_type(effects, Broadcast) if isinstance(b.message, Status)]


def answer_to(bench: Bench, status: Status) -> list[Message]:
    """What member 2 gets for its STATUS."""
    return sent_to(bench.receive(status, sender=2), 2)


# --- C50 to C54


def test_c50_status_goes_out_every_gossip_interval() -> None:
    bench = started()
    effects = bench.tick(TIMES.gossip_interval_ms, GOSSIP)
    assert len(statuses(effects)) == 1
    again = timers(effects, TimerKind.GOSSIP)
    assert [t.after_ms for t in again] == [TIMES.gossip_interval_ms]


def test_c50_change_is_shown_soon_but_not_more_often_than_a_quarter_interval() -> None:
    bench = started()
    bench.tick(TIMES.gossip_interval_ms, GOSSIP)
    effects = bench.fire(TimerKind.PROPOSE)
    assert statuses(effects) == []
    wait = timers(effects, TimerKind.GOSSIP)[0].after_ms
    assert 0 < wait <= TIMES.gossip_interval_ms // 4
    shown = statuses(bench.tick(wait, GOSSIP))[0]
    assert (shown.height, shown.round, shown.step) == (1, 0, int(Step.PREVOTE))


def test_c50_status_says_what_is_held() -> None:
    bench = started()
    data = bench.block(1)
    bench.propose(data)
    bench.votes(PREVOTE, 0, block_hash(data), 1, 2)
    status = statuses(bench.tick(TIMES.gossip_interval_ms, GOSSIP))[0]
    assert status.flags == StatusFlag.PROPOSAL_HELD | StatusFlag.BLOCK_HELD
    assert (status.prevotes, status.precommits) == (0b0111, 0b0001)
    assert status.valid_round == 0
    assert status.positions == ((0, 3), (0, 2), (0, 2), (-1, 0))


def test_c50_status_never_changes_consensus_state() -> None:
    bench = started()
    before = (bench.agreement.round, bench.agreement.step, list(bench.agreement.keeper.positions))
    lie = bench.status(round=9, valid_round=8, positions=((9, 3),) * 4, flags=7)
    bench.receive(lie, sender=2)
    after = (bench.agreement.round, bench.agreement.step, list(bench.agreement.keeper.positions))
    assert before == after


def test_c51_peer_gets_the_final_block_of_its_height_when_it_is_behind() -> None:
    bench = started(height=3)
    bench.now_ms += TIMES.gossip_interval_ms
    effects = bench.receive(bench.status(height=2), sender=2)
    assert of_type(effects, SendFinal) == [SendFinal(2, 2, 1)]


def test_c51_peer_gets_commit_and_block_signatures_it_lacks() -> None:
    bench = started()
    data = bench.block(1)
    bench.offer(data)
    commit = bench.certificate(PRECOMMIT, 0, block_hash(data), 1, 2, 3)
    bench.receive(commit)
    bench.receive(bench.block_signature(block_hash(data), 3))
    sent = answer_to(bench, bench.status())
    assert commit in sent
    assert {m.member for m in sent if type(m).__name__ == "BlockSignature"} == {0, 3}
    has = bench.status(
        flags=int(StatusFlag.COMMIT_HELD), decided_hash=block_hash(data), block_signatures=0b1001
    )
    assert commit not in answer_to(bench, has)


def test_c51_peer_gets_the_latest_message_of_every_member_it_is_behind_on() -> None:
    bench = started()
    vote = bench.vote(PREVOTE, 2, NIL, 3)
    bench.receive(vote)
    assert vote in answer_to(bench, bench.status())
    caught_up = bench.status(positions=((-1, 0), (-1, 0), (-1, 0), (2, 2)))
    assert vote not in answer_to(bench, caught_up)


def test_c51_peer_gets_votes_its_bitmaps_lack() -> None:
    bench = started()
    bench.votes(PREVOTE, 0, NIL, 1, 3)
    positions = ((0, 2),) * 4
    sent = answer_to(bench, bench.status(prevotes=0b0010, positions=positions))
    assert [m.member for m in sent if isinstance(m, Vote)] == [3]


def test_c51_peer_gets_the_pol_of_a_higher_valid_round_and_the_proposal() -> None:
    bench = started()
    data = bench.block(1)
    bench.propose(data)
    bench.votes(PREVOTE, 0, block_hash(data), 1, 2)
    sent = answer_to(bench, bench.status(positions=((0, 3),) * 4, prevotes=7, precommits=7))
    assert bench.agreement.keeper.pol(0, block_hash(data)) in sent
    assert bench.agreement.proposals[0] in sent


def test_c51_block_bytes_are_sent_when_asked_for() -> None:
    bench = started()
    data = bench.block(1)
    bench.propose(data)
    effects = bench.receive(GetBlock(1, block_hash(data)), sender=3)
    message = BlockMessage(height=1, block_hash=block_hash(data), data=data)
    assert Send(3, message) in effects
    assert bench.receive(GetBlock(2, block_hash(data)), sender=3) == []


def test_c52_own_votes_of_earlier_rounds_are_still_offered() -> None:
    bench = started()
    bench.fire(TimerKind.PROPOSE)
    bench.votes(PREVOTE, 6, NIL, 1, 2)
    assert bench.agreement.round == 6
    own = bench.own_votes(PREVOTE, 0)[0]
    assert own in answer_to(bench, bench.status(round=0, positions=((6, 3),) * 4))


def test_c53_one_status_gets_at_most_64_messages() -> None:
    bench = Bench(n=20, k=14)
    bench.enter_round_0()
    for kind in (PREVOTE, PRECOMMIT):
        bench.votes(kind, 0, NIL, *range(1, 13))
        for member in range(1, 13):
            bench.receive(bench.vote(kind, 0, bytes([member]) * 32, member))
    bench.fire(TimerKind.PROPOSE)
    sent = answer_to(bench, bench.status(round=0))
    assert len(sent) <= REPLIES_MAX
    assert len(sent) >= 48


def test_c54_member_behind_is_told_to_catch_up_and_does_not_act_on_later_heights() -> None:
    bench = started()
    effects = bench.receive(bench.status(height=40), sender=3)
    assert of_type(effects, CatchUp) == [CatchUp(3, 40)]
    later = Bench(height=40)
    bench.receive(later.vote(PREVOTE, 0, NIL, 1))
    assert bench.agreement.keeper.positions[1] == (-1, 0)
    assert of_type(bench.tick(TIMES.gossip_interval_ms, GOSSIP), CatchUp) == [CatchUp(3, 40)]


# --- C56 to C58


def test_c56a_two_votes_of_one_position_are_evidence() -> None:
    bench = started()
    one, two = bench.vote(PREVOTE, 0, NIL, 1), bench.vote(PREVOTE, 0, b"h" * 32, 1)
    bench.receive(one)
    effects = bench.receive(two)
    evidence = Evidence(EvidenceClass.DOUBLE_VOTE, one.encode(), two.encode())
    assert of_type(effects, Accuse) == [Accuse(1, 1, evidence)]
    assert Broadcast(evidence) in effects


def test_c56a_two_proposals_of_one_round_are_evidence() -> None:
    bench = started()
    bench.propose(bench.block(1))
    assert len(of_type(bench.propose(bench.block(2)), Accuse)) == 1


def test_c56b_block_signatures_for_two_blocks_are_evidence() -> None:
    bench = started()
    bench.receive(bench.block_signature(b"h" * 32, 2))
    effects = bench.receive(bench.block_signature(b"g" * 32, 2))
    accused = of_type(effects, Accuse)[0]
    assert accused.evidence.kind is EvidenceClass.TWO_BLOCKS
    assert check_evidence(accused.evidence) == (1, 2)


@pytest.mark.parametrize("order", [1, -1])
def test_c56c_prevote_against_the_own_precommit_is_amnesia(order: int) -> None:
    bench = started()
    lock, vote = bench.vote(PRECOMMIT, 0, b"h" * 32, 1), bench.vote(PREVOTE, 2, b"g" * 32, 1)
    for message in (lock, vote)[::order]:
        effects = bench.receive(message)
    evidence = Evidence(EvidenceClass.AMNESIA, lock.encode(), vote.encode())
    assert of_type(effects, Accuse) == [Accuse(1, 1, evidence)]


def test_c56c_nil_or_justified_prevotes_are_no_amnesia() -> None:
    bench = started()
    lock = bench.vote(PRECOMMIT, 1, b"h" * 32, 1)
    for round_, hash_, cited in ((2, NIL, -1), (2, b"h" * 32, -1), (2, b"g" * 32, 1)):
        assert conflict_of(lock, bench.vote(PREVOTE, round_, hash_, 1, cited)) is None
    assert conflict_of(lock, bench.vote(PREVOTE, 0, b"g" * 32, 1)) is None
    assert conflict_of(lock, bench.vote(PREVOTE, 2, b"g" * 32, 2)) is None
    assert conflict_of(lock, bench.vote(PREVOTE, 2, b"g" * 32, 1, 0)) is not None


def test_c57_certificate_is_shown_from_memory_or_looked_up() -> None:
    bench = started()
    data = bench.block(1)
    bench.propose(data)
    bench.votes(PREVOTE, 0, block_hash(data), 1, 2)
    held = GetCertificate(type=PREVOTE, height=1, round=0, block_hash=block_hash(data))
    pol = bench.agreement.keeper.pol(0, block_hash(data))
    assert pol is not None and sent_to(bench.receive(held, sender=3), 3) == [pol]
    older = GetCertificate(type=PREVOTE, height=0, round=0, block_hash=block_hash(data))
    assert of_type(bench.receive(older, sender=3), LookUpCertificate) == [
        LookUpCertificate(3, older)
    ]


def test_c58_evidence_is_kept_and_passed_on_once_and_changes_no_count() -> None:
    bench = started()
    one, two = bench.vote(PREVOTE, 0, NIL, 1), bench.vote(PREVOTE, 0, b"h" * 32, 1)
    bench.receive(one)
    bench.receive(two)
    assert bench.agreement.keeper.supporters(one) == 1
    assert bench.agreement.keeper.supporters(two) == 1
    evidence = Evidence(EvidenceClass.DOUBLE_VOTE, one.encode(), two.encode())
    assert of_type(bench.receive(evidence, sender=2), Accuse) == []
    other = Evidence(
        EvidenceClass.DOUBLE_VOTE,
        bench.vote(PREVOTE, 0, NIL, 3).encode(),
        bench.vote(PREVOTE, 0, b"h" * 32, 3).encode(),
    )
    effects = bench.receive(other, sender=2)
    assert of_type(effects, Accuse) == [Accuse(3, 1, other)]
    assert Broadcast(other) in effects


def test_c58_evidence_that_convicts_nobody_is_ignored() -> None:
    bench = started()
    one, two = bench.vote(PREVOTE, 0, NIL, 1), bench.vote(PREVOTE, 1, NIL, 1)
    nothing = Evidence(EvidenceClass.DOUBLE_VOTE, one.encode(), two.encode())
    with pytest.raises(InvalidMessage):
        check_evidence(nothing)
    assert bench.receive(nothing) == []
    assert bench.receive(Evidence(EvidenceClass.AMNESIA, b"x", b"y")) == []
    same = bench.block_signature(b"h" * 32, 1)
    with pytest.raises(InvalidMessage):
        check_evidence(two_blocks(same, same))


# --- C80 to C82


def new_set() -> MemberSet:
    """Member 0 stays, the others are new, and member 0 has another index."""
    return MemberSet.of((block_key(9), block_key(8), block_key(0), block_key(7), block_key(6)), 4)


def test_c80_the_set_of_a_height_proposes_votes_and_signs_it() -> None:
    bench = started()
    bench.final(b"1" * 32, signers=(1, 2, 3))
    bench.start_height(2, members=new_set())
    agreement = bench.agreement
    assert (agreement.me, agreement.members.k, agreement.members.s) == (2, 4, 2)
    assert agreement.members.proposer(2, 0) == 2
    bench.me = 2
    bench.enter_round_0()
    data = bench.block(1)
    bench.built(data)
    assert bench.own_votes(PROPOSAL)[-1].member == 2


def test_c81_old_set_votes_and_quorums_mean_nothing_at_the_border() -> None:
    bench = started()
    bench.votes(PREVOTE, 0, NIL, 1, 2, 3)
    bench.final(b"1" * 32, signers=(1, 2, 3))
    bench.start_height(2, members=new_set())
    assert bench.agreement.keeper.positions == [(-1, 0)] * 5
    assert not bench.agreement.keeper.reached(0, PREVOTE)
    bench.me = 2
    data = bench.block(1)
    bench.offer(data)
    bench.keys = type(bench.keys)(new_set())
    bench.receive(bench.certificate(PRECOMMIT, 0, block_hash(data), 0, 1, 3))
    assert bench.agreement.step is not Step.DECIDED  # three are no quorum of five with k = 4
    bench.receive(bench.certificate(PRECOMMIT, 0, block_hash(data), 0, 1, 3, 4))
    assert bench.agreement.step is Step.DECIDED


def test_c81_retired_member_signs_nothing_more() -> None:
    bench = started(me=1)
    bench.final(b"1" * 32, signers=(0, 2, 3))
    bench.effects.clear()
    bench.start_height(2, members=new_set())
    assert bench.agreement.me is None
    bench.enter_round_0()
    data = bench.block(1)
    bench.offer(data)
    bench.keys = type(bench.keys)(new_set())
    bench.fire(TimerKind.PROPOSE)
    bench.receive(bench.certificate(PREVOTE, 0, block_hash(data), 0, 2, 3, 4))
    bench.receive(bench.certificate(PRECOMMIT, 0, block_hash(data), 0, 2, 3, 4))
    assert sent_votes(bench.effects) == []
    assert bench.own_block_signatures() == []
    assert bench.agreement.decided_hash == block_hash(data)


def test_c84_retired_member_hands_the_last_block_of_its_time_to_the_new_set() -> None:
    """FINAL is more than the BLOCKSIG and COMMIT of h − 1; whoever reports less than h gets it."""
    bench = started(me=1)
    bench.final(b"1" * 32, signers=(0, 2, 3))
    bench.start_height(2, members=new_set())
    bench.now_ms += TIMES.gossip_interval_ms
    for peer in (0, 2):
        effects = bench.receive(bench.status(height=1), sender=peer)
        assert of_type(effects, SendFinal) == [SendFinal(peer, 1, 1)]
    assert of_type(bench.receive(bench.status(height=2), sender=0), SendFinal) == []


def test_c84_retired_member_that_is_behind_itself_still_answers_for_the_old_height() -> None:
    bench = started(me=1)
    data = bench.block(1)
    bench.offer(data)
    commit = bench.certificate(PRECOMMIT, 0, block_hash(data), 0, 1, 2)
    bench.receive(commit)
    sent = answer_to(bench, bench.status())
    assert commit in sent
    assert {m.member for m in sent if type(m).__name__ == "BlockSignature"} == {1}


def test_c85_joining_member_signs_nothing_before_its_border_and_votes_after_it() -> None:
    """A key that never voted: VOTING at once, without an index until it is one of the set."""
    bench = Bench(me=9, n=10, k=7, members=member_set(4, 3))
    assert (bench.driver.mode, bench.agreement.me) == (Mode.VOTING, None)
    bench.enter_round_0()
    bench.propose(bench.block(1))
    bench.fire(TimerKind.PROPOSE)
    assert sent_votes(bench.effects) == []
    bench.final(b"1" * 32, signers=(0, 1, 2))
    bench.start_height(2, members=new_set())
    bench.me = 0
    bench.enter_round_0()
    bench.fire(TimerKind.PROPOSE)
    assert [(v.height, v.member) for v in bench.own_votes(PREVOTE)] == [(2, 0)]


def test_c82_messages_of_the_next_height_wait_until_its_set_is_known() -> None:
    bench = started()
    early = EarlyMessages()
    ahead = Bench(height=2)
    vote = ahead.vote(PREVOTE, 0, NIL, 3)
    assert bench.driver.wants(vote)
    assert early.add(7, vote)
    bench.final(b"1" * 32, signers=(1, 2, 3))
    bench.start_height(2)
    for sender, message in early.drain():
        bench.receive(message, sender)
    assert bench.agreement.keeper.positions[3] == (0, 2)
    assert early.drain() == []


# --- C90 to C94


def test_c90_single_votes_are_kept_for_a_window_of_rounds() -> None:
    bench = started()
    bench.votes(PREVOTE, 3, NIL, 1)
    bench.votes(PREVOTE, 4, NIL, 3)
    keeper = bench.agreement.keeper
    assert (len(keeper.votes(3, PREVOTE)), len(keeper.votes(4, PREVOTE))) == (1, 0)
    assert keeper.positions[3] == (4, 2)
    assert keeper.latest[3] is not None


def test_c91_third_vote_of_a_member_is_dropped() -> None:
    bench = started()
    for salt in range(5):
        bench.receive(bench.vote(PREVOTE, 0, bytes([salt + 1]) * 32, 1))
    assert len(bench.agreement.keeper.votes(0, PREVOTE)[1]) == 2


def test_c92_early_messages_of_a_peer_are_limited() -> None:
    bench, early = Bench(height=2), EarlyMessages()
    small = [bench.vote(PREVOTE, r, NIL, 1) for r in range(60)]
    assert [early.add(1, vote) for vote in small].count(True) == 40
    assert early.add(2, small[0])
    proposal = Proposal(bench.vote(PROPOSAL, 0, b"h" * 32, 1), None)
    assert [early.add(1, proposal), early.add(1, Proposal(proposal.vote, None))] == [True, False]
    block = BlockMessage(height=2, block_hash=b"h" * 32, data=b"x")
    assert early.add(1, block)
    too_large = BlockMessage(height=2, block_hash=b"h" * 32, data=bytes(4_000_001))
    assert not early.add(3, too_large)
    early.forget(1)
    assert [sender for sender, _ in early.drain()] == [2]


def test_c93_messages_beyond_the_next_height_are_not_wanted() -> None:
    bench = started()
    assert not bench.driver.wants(Bench(height=3).vote(PREVOTE, 0, NIL, 1))
    assert bench.driver.wants(Bench(height=2).vote(PREVOTE, 0, NIL, 1))
    assert bench.driver.wants(bench.status(height=900))


def test_c94_blocks_in_memory_are_limited_and_needed_ones_stay() -> None:
    store = BlockStore(limit=3)
    for salt in range(6):
        store.add(bytes([salt]) * 32, HeldBlock(b"data", False), needed=[bytes(32)])
    held = [salt for salt in range(6) if store.get(bytes([salt]) * 32) is not None]
    assert held == [0, 4, 5]


def test_wants_drops_what_is_known_before_its_signature_is_checked() -> None:
    bench = started()
    data = bench.block(1)
    vote = bench.vote(PREVOTE, 0, block_hash(data), 1)
    pol = bench.certificate(PREVOTE, 0, block_hash(data), 1, 2, 3)
    signature = bench.block_signature(block_hash(data), 1)
    block = BlockMessage(height=1, block_hash=block_hash(data), data=data)
    for message in (vote, pol, signature):
        assert bench.driver.wants(message)
        bench.receive(message)
        assert not bench.driver.wants(message)
    assert bench.driver.wants(block)
    bench.offer(data)
    assert not bench.driver.wants(block)
    assert not bench.driver.wants(replace(vote, member=17))


def test_peers_come_and_go() -> None:
    bench = started()
    bench.feed(PeerDisconnected(now_ms=bench.now_ms, peer=1))
    bench.propose(bench.block(1), with_block=False)
    effects = bench.tick(20, Timer(kind=TimerKind.FETCH, height=1))
    assert of_type(effects, Send)[0].to in (2, 3)
    bench.now_ms += TIMES.gossip_interval_ms
    assert statuses(bench.feed(PeerConnected(now_ms=bench.now_ms, peer=1)))


def test_restarting_shell_may_ask_for_the_journal_base_at_any_height() -> None:
    bench = started(mode=StartMode.INTACT)
    assert bench.driver.base_record().position == (0, -1, 0)
