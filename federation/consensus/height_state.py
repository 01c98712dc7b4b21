"""The state of one height: facts taken in, verdicts, own signatures; no rule of the table.

Source: consensus:3, consensus:C11, consensus:C14, consensus:C22, consensus:C33, consensus:C40,
consensus:C41, consensus:C73, consensus:C94, N8.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Final

from federation.consensus.block_store import BlockStore, HeldBlock
from federation.consensus.effects import (
    Broadcast,
    CheckBlock,
    PersistBlock,
    Send,
    SetTimer,
    SignVote,
)
from federation.consensus.encoding import NIL
from federation.consensus.events import ConsensusTimes, PeerId, Timer, TimerKind, Verdict
from federation.consensus.evidence import two_blocks
from federation.consensus.messages import Evidence, GetBlock, Status
from federation.consensus.pen import Pen
from federation.consensus.vote_keeper import VoteKeeper
from federation.consensus.votes import (
    NO_SIGNATURE,
    BlockMessage,
    BlockSignature,
    Certificate,
    Proposal,
    Vote,
    VoteType,
    is_pol_for,
)
from federation.members import MemberSet

RECHECK_MS: Final = 1_000  # a verdict "not yet" is asked for again (consensus:4.5)


class Step(IntEnum):
    """Where a member is in its height; the values are those of STATUS."""

    WAIT = 0
    PROPOSE = 1
    PREVOTE = 2
    PRECOMMIT = 3
    DECIDED = 4


class HeightState:
    """The state of consensus:3 at one height, what is told to it, and how it signs and asks."""

    keeper_class: type[VoteKeeper] = VoteKeeper

    def __init__(
        self,
        *,
        height: int,
        tip_hash: bytes,
        members: MemberSet,
        me: int | None,
        times: ConsensusTimes,
        pen: Pen,
        peers: dict[PeerId, Status | None],
        stored_blocks: dict[bytes, bytes],
        now_ms: int,
        is_first: bool,
    ) -> None:
        self.height, self.tip_hash, self.members, self.me = height, tip_hash, members, me
        self.times, self.pen, self.peers, self.now_ms = times, pen, peers, now_ms
        self.keeper = self.keeper_class(members)
        self.blocks = BlockStore(limit=2 * members.n)
        self.round, self.step = -1, Step.WAIT
        self.locked_hash, self.locked_round = NIL, -1
        self.valid_hash, self.valid_round = NIL, -1
        self.decided_hash = NIL
        self.proposals: dict[int, Proposal] = {}
        self.own_votes: dict[tuple[int, int], tuple[Vote, Certificate | None]] = {}
        self.work_due = self.is_closed = self.is_released = False
        self.started_ms = now_ms
        self._rules = self.rules()
        self._is_first = is_first
        self._waited_since_ms = now_ms
        self._may_be_empty = False
        self._asked_to_build = False
        self._expired: set[TimerKind] = set()
        self._waiting: set[TimerKind] = set()
        self._fetch_turn = self._start_timers = 0
        self.restore_own(stored_blocks)

    def rules(self) -> tuple[Callable[[], bool], ...]:
        """The table of rules; the subclass has it."""
        raise NotImplementedError

    # --- inputs

    @property
    def is_open(self) -> bool:
        """Whether this height still goes on here."""
        return not self.is_closed and not self.pen.is_silenced

    def on_vote(self, vote: Vote) -> None:
        """Count a prevote or precommit (C11)."""
        self._note(vote)
        self._report(vote.member, self.keeper.add(vote))

    def on_proposal(self, proposal: Proposal, sender: PeerId | None) -> None:
        """C22: the first proposal of the round's proposer stands; another one is evidence."""
        vote = proposal.vote
        self._note(vote)
        self._report(vote.member, self.keeper.add(vote, proposal))
        if proposal.certificate is not None:
            self.on_certificate(proposal.certificate)
        if (
            self.c22_is_acceptable(proposal)
            and self.keeper.keeps_round(vote.round)
            and vote.round not in self.proposals
        ):
            self.proposals[vote.round] = proposal
            self._want(vote.block_hash, sender)

    def c22_is_acceptable(self, proposal: Proposal) -> bool:
        """Whether the round's proposer made it, with the POL of the round it cites (C22)."""
        vote, certificate = proposal.vote, proposal.certificate
        if vote.member != self.members.proposer(self.height, vote.round):
            return False
        if vote.valid_round == -1:
            return True
        return (
            vote.valid_round < vote.round
            and certificate is not None
            and is_pol_for(vote, certificate)
            and certificate.is_complete(self.keeper.k)
        )

    def on_certificate(self, certificate: Certificate, sender: PeerId | None = None) -> None:
        """Keep a POL or COMMIT (C12)."""
        if self.keeper.holds(certificate) or not certificate.is_complete(self.keeper.k):
            return
        if certificate.votes[-1][0] >= self.members.n:
            return
        for vote in certificate.as_votes():
            self._note(vote)
        for member, evidence in self.keeper.add_certificate(certificate):
            self._report(member, evidence)
        if certificate.block_hash != NIL:
            self._want(certificate.block_hash, sender)

    def on_block_signature(self, signature: BlockSignature) -> None:
        """Keep a BLOCKSIG (C37); a second block by the same member is evidence (C56b)."""
        self._note(signature)
        other = self.keeper.add_block_signature(signature)
        if other is not None:
            self._report(signature.member, two_blocks(other, signature))

    def on_block(
        self, block_hash: bytes, data: bytes, *, is_empty: bool, is_own: bool = False
    ) -> None:
        """Hold the bytes of a proposal (C14, C94); an own one is needed before it is proposed."""
        needed = [*self._needed_hashes(), *([block_hash] if is_own else [])]
        self.blocks.add(block_hash, HeldBlock(data, is_empty), needed)

    def on_checked(self, round_number: int, block_hash: bytes, verdict: Verdict) -> None:
        """Take a verdict: O for good, E and P for the round it was asked in (N8)."""
        block = self.blocks.get(block_hash)
        if block is None:
            return
        if block.objective is None:
            block.objective = verdict is not Verdict.INVALID
        if round_number >= block.judged_round:
            block.judged_round, block.verdict = round_number, verdict
        if verdict is Verdict.NOT_YET and round_number == max(self.round, 0):
            self._set_timer(TimerKind.RECHECK, RECHECK_MS)

    def on_timer(self, timer: Timer) -> None:
        """A timer of this height ran out; one of another round no longer matches (C33)."""
        if timer.kind is TimerKind.START:
            return  # C20 looks at the clock
        if timer.kind is TimerKind.FETCH:
            self._fetch_missing()
        elif timer.round == max(self.round, 0):
            if timer.kind is TimerKind.RECHECK:
                self._ask_again()
            else:
                self._expired.add(timer.kind)

    def on_vote_signed(self, vote: Vote) -> None:
        """Send an own vote and count it like any other; not when stopped or halted (C60)."""
        if (vote.round, int(vote.type)) not in self.own_votes or self.pen.is_silenced:
            return
        _, certificate = self.own_votes[vote.round, int(vote.type)]
        self.own_votes[vote.round, int(vote.type)] = vote, certificate
        if vote.type is VoteType.PROPOSAL:
            proposal = Proposal(vote, certificate)
            self.pen.emit(Broadcast(proposal))
            self._broadcast_block(vote.block_hash)
            self.on_proposal(proposal, None)
            return
        self.pen.emit(Broadcast(vote))
        self.on_vote(vote)
        if vote.type is VoteType.PRECOMMIT and certificate is not None:
            self._send_to_those_without(certificate)  # C27

    def resume_voting(self) -> None:
        """Voting became possible in the middle of a round: give it its full time to propose."""
        if self.step is Step.PROPOSE:
            self._expired.discard(TimerKind.PROPOSE)
            self._asked_to_build = False
            self._set_timer(TimerKind.PROPOSE, self.times.timeout_ms(self.round))

    def restore_own(self, stored_blocks: dict[bytes, bytes]) -> None:
        """C2, C73: position, lock, validValue and decision from the own records of this height."""
        for block_hash, data in stored_blocks.items():
            held = HeldBlock(data, is_empty=False, is_durable=True)
            self.blocks.add(block_hash, held, needed=list(stored_blocks))
        for record in self.pen.image.votes_at(self.height):
            vote, certificate = record.vote, record.certificate
            self.own_votes[vote.round, int(vote.type)] = vote, certificate
            self.pen.emit(SignVote(vote, certificate, again=True))
            if certificate is not None:
                self.on_certificate(certificate)
            self.restore_position(vote)
            self.restore_lock(vote)
        if self.step is not Step.WAIT:
            self.keeper.enter_round(self.round, (self.locked_round, self.valid_round))
        if self.step is Step.PROPOSE:
            self._set_timer(TimerKind.PROPOSE, self.times.timeout_ms(self.round))
        self._restore_decision()

    def _restore_decision(self) -> None:
        signed_height, signed_hash = self.pen.image.block_signature
        commit = self.pen.image.commit
        if signed_height != self.height or commit is None:
            return
        self.on_certificate(commit)
        if self.keeper.holds(commit):
            self.step, self.decided_hash = Step.DECIDED, signed_hash

    def restore_position(self, vote: Vote) -> None:
        """Round and step are those of the last own vote."""
        self.round, self.step = vote.round, Step(int(vote.type))

    def restore_lock(self, vote: Vote) -> None:
        """A precommit of a block is the lock, and its block the validValue."""
        if vote.type is VoteType.PRECOMMIT and vote.block_hash != NIL:
            self.locked_hash, self.locked_round = vote.block_hash, vote.round
            self.valid_hash, self.valid_round = vote.block_hash, vote.round

    # --- signing

    def _may_sign(self, vote_type: VoteType) -> bool:
        """C34, for the own round; a member outside the set signs nothing."""
        return self.me is not None and self.pen.may_vote(self.height, self.round, vote_type)

    def _sign(
        self, vote_type: VoteType, block_hash: bytes, valid_round: int, pol: Certificate | None
    ) -> None:
        """C40, C41: block bytes, then the record, then the signature, then the wire."""
        if self.me is None:
            raise ValueError("not a member of this height")
        if block_hash != NIL:
            self._make_durable(block_hash)
        vote = Vote(
            type=vote_type,
            height=self.height,
            round=self.round,
            valid_round=valid_round,
            block_hash=block_hash,
            member=self.me,
            signature=NO_SIGNATURE,
        )
        self.own_votes[self.round, int(vote_type)] = vote, pol
        self.pen.write_vote(vote, pol)

    def _make_durable(self, block_hash: bytes) -> None:
        block = self.blocks.get(block_hash)
        if block is not None and not block.is_durable:
            block.is_durable = True
            self.pen.emit(PersistBlock(block_hash, block.data))

    # --- verdicts and bytes

    def _is_valid(self, block_hash: bytes) -> bool | None:
        """Whether the block is objectively valid (O); None while unknown, and asked for."""
        block = self.blocks.get(block_hash)
        if block is None:
            self._want(block_hash, None)
            return None
        if block.objective is None and block.asked_round == -2:
            self._ask(block_hash, block)
        return block.objective

    def _is_judging(self, block_hash: bytes) -> bool:
        """Whether bytes are held and their verdict is still to come, as after a restart."""
        return self.blocks.get(block_hash) is not None and self._is_valid(block_hash) is None

    def _is_accepted(self, block_hash: bytes) -> bool | None:
        """Whether O, E and P hold, judged in this round (N8); None while unknown or not yet."""
        block = self.blocks.get(block_hash)
        if block is None:
            self._want(block_hash, None)
            return None
        if block.objective is False:
            return False
        if block.judged_round == self.round and block.verdict is not Verdict.NOT_YET:
            return block.verdict is Verdict.ACCEPTABLE
        if block.asked_round < self.round:
            self._ask(block_hash, block)
        return None

    def _ask(self, block_hash: bytes, block: HeldBlock) -> None:
        block.asked_round = max(self.round, 0)
        self.pen.emit(
            CheckBlock(
                height=self.height,
                round=block.asked_round,
                block_hash=block_hash,
                data=block.data,
            )
        )

    def _ask_again(self) -> None:
        proposal = self.proposals.get(self.round)
        block = self.blocks.get(proposal.vote.block_hash) if proposal else None
        if self.step is Step.PROPOSE and proposal and block and block.verdict is Verdict.NOT_YET:
            self._ask(proposal.vote.block_hash, block)

    def _want(self, block_hash: bytes, sender: PeerId | None) -> None:
        if self.blocks.get(block_hash) is None:
            self.blocks.miss(block_hash, sender)
            self._set_timer_once(TimerKind.FETCH, self.times.gossip_interval_ms // 4)

    def _fetch_missing(self) -> None:
        """GET_BLOCK from the one who named the block, then from the others in turn (C22)."""
        self._waiting.discard(TimerKind.FETCH)
        needed = self._needed_hashes()
        for block_hash, source in self.blocks.missing():
            if block_hash not in needed:
                self.blocks.stop_missing(block_hash)
                continue
            peers = list(self.peers)
            if source is not None and source in self.peers:
                peers = [source]
            if peers:
                self._fetch_turn += 1
                target = peers[self._fetch_turn % len(peers)]
                self.pen.emit(Send(target, GetBlock(self.height, block_hash)))
            self.blocks.stop_missing(block_hash)
            self._want(block_hash, None)

    def needs(self, block_hash: bytes) -> bool:
        """Whether the rules may ask for the bytes of this block; others need not be taken in."""
        return block_hash in self._needed_hashes()

    def _needed_hashes(self) -> list[bytes]:
        """Blocks that the rules may still ask for, the deciding ones first (C94)."""
        hashes = [self.decided_hash, self.locked_hash, self.valid_hash]
        hashes += [commit.block_hash for commit in self.keeper.commits()]
        hashes += self.keeper.signed_blocks()
        hashes += [pol.block_hash for pol in self.keeper.pols()]
        hashes += [proposal.vote.block_hash for proposal in self.proposals.values()]
        return hashes

    def _broadcast_block(self, block_hash: bytes) -> None:
        """Send the bytes of an own proposal to everyone (C21)."""
        block = self.blocks.get(block_hash)
        if block is not None:
            self.pen.emit(
                Broadcast(BlockMessage(height=self.height, block_hash=block_hash, data=block.data))
            )

    # --- small parts

    def _send_to_those_without(self, pol: Certificate) -> None:
        for peer, status in self.peers.items():
            if status is None or status.height != self.height or status.valid_round < pol.round:
                self.pen.emit(Send(peer, pol))

    def _set_timer_once(self, kind: TimerKind, after_ms: int) -> bool:
        """Set a timer that does not run yet; answers whether it did not."""
        if kind in self._waiting:
            return False
        self._waiting.add(kind)
        self._set_timer(kind, after_ms)
        return True

    def _set_timer(self, kind: TimerKind, after_ms: int) -> None:
        is_of_round = kind not in (TimerKind.START, TimerKind.FETCH)
        timer = Timer(kind=kind, height=self.height, round=max(self.round, 0) if is_of_round else 0)
        self.pen.emit(SetTimer(timer, after_ms))

    def _note(self, message: Vote | BlockSignature) -> None:
        if message.member != self.me:
            self.pen.note_seen(self.members.members[message.member].vote_key, message)

    def _report(self, member: int, evidence: Evidence | None) -> None:
        if evidence is not None:
            self.pen.accuse(member, self.height, evidence)
