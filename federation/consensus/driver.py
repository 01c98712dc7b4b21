"""The owner of the core's state: events in, effects out, height after height.

The contract with the shell is at the top of `federation.consensus.effects`.

Source: consensus:4, consensus:C38, consensus:C60, consensus:C70 to consensus:C76.
"""

from typing import assert_never

from federation.consensus.effects import (
    Broadcast,
    Connect,
    Effect,
    ForgetBlocks,
    LookUpCertificate,
    Send,
)
from federation.consensus.encoding import NIL, InvalidMessage
from federation.consensus.events import (
    BlockBuilt,
    BlockChecked,
    BlockReceived,
    BlockSigned,
    ConflictFound,
    ConsensusTimes,
    Event,
    FinalVerified,
    HeightStarted,
    MessageReceived,
    OperatorResumed,
    OperatorUnhalted,
    PeerConnected,
    PeerDisconnected,
    PeerId,
    Started,
    Timer,
    TimerFired,
    TimerKind,
    VoteSigned,
    WorkAvailable,
)
from federation.consensus.evidence import check_evidence
from federation.consensus.messages import (
    Answer,
    Evidence,
    GetBlock,
    GetCertificate,
    GetFinal,
    Message,
    RollCall,
    Status,
)
from federation.consensus.pen import Pen
from federation.consensus.records import (
    Base,
    JournalImage,
    Mode,
)
from federation.consensus.roll_call import RollCallDesk
from federation.consensus.state_machine import Agreement
from federation.consensus.status import StatusDesk
from federation.consensus.votes import (
    BlockMessage,
    BlockSignature,
    Certificate,
    Proposal,
    Vote,
    VoteType,
)
from federation.members import MemberSet


class Driver:
    """One member's agreement. Feed events one at a time, obey the effects in order.

    Args:
        vote_key: the own x-only block key, 32 bytes.
        image: the own journal, restored.
        blocks: proposals found on disk, by hash (J8).
    """

    agreement_class: type[Agreement] = Agreement

    def __init__(
        self,
        *,
        vote_key: bytes,
        times: ConsensusTimes,
        image: JournalImage,
        blocks: dict[bytes, bytes],
    ) -> None:
        self.vote_key, self.times = vote_key, times
        self.pen = Pen(image)
        self.params_root = NIL
        self._stored_blocks = blocks
        self._agreement: Agreement | None = None
        self._peers: dict[PeerId, Status | None] = {}
        self._desk = RollCallDesk(vote_key, self.pen)
        self._status = StatusDesk(times, self.pen, self._peers)

    # --- what the shell may read

    @property
    def agreement(self) -> Agreement:
        """The height in progress.

        Raises:
            ValueError: no height was started yet.
        """
        if self._agreement is None:
            raise ValueError("no height was started yet")
        return self._agreement

    @property
    def height(self) -> int:
        """The height in progress; 0 before the first `HeightStarted`."""
        return self._agreement.height if self._agreement else 0

    @property
    def members(self) -> MemberSet:
        """M of the height in progress."""
        return self.agreement.members

    @property
    def mode(self) -> Mode:
        """What this member may do now."""
        return self.pen.mode

    @property
    def is_abstaining(self) -> bool:
        """Whether roll-calls and STATUS are answered as abstaining (C72, J6)."""
        return self.pen.is_abstaining_at(self.height)

    def base_record(self) -> Base:
        """The first record of the journal's next file (J7); ask before feeding `HeightStarted`."""
        agreement = self._agreement
        is_final = agreement is not None and agreement.is_closed
        return self.pen.image.base(self.height if is_final else max(self.height - 1, 0))

    def wants(self, message: Message) -> bool:
        """Whether a message can still matter; ask before verifying its signatures."""
        match message:
            case Vote() | Proposal() | Certificate() | BlockSignature() | BlockMessage():
                if self._agreement is None or message.height != self.height:
                    return self._agreement is not None and message.height == self.height + 1
                return self._wants_now(message, self._agreement)
            case _:
                return True

    def _wants_now(
        self,
        message: Vote | Proposal | Certificate | BlockSignature | BlockMessage,
        agreement: Agreement,
    ) -> bool:
        keeper, n = agreement.keeper, agreement.members.n
        match message:
            case Vote():
                return message.member < n and not keeper.knows(message)
            case Proposal(vote, pol):
                is_new = vote.round not in agreement.proposals and keeper.keeps_round(vote.round)
                is_of_set = vote.member < n and (pol is None or pol.votes[-1][0] < n)
                return is_of_set and (is_new or not keeper.knows(vote))
            case Certificate():
                is_late = message.round < agreement.round and message.round <= agreement.valid_round
                if message.type is VoteType.PREVOTE and is_late:
                    return False
                return message.votes[-1][0] < n and not keeper.holds(message)
            case BlockSignature():
                held = keeper.block_signatures(message.block_hash)
                return message.member < n and all(s.member != message.member for s in held)
            case BlockMessage():
                return agreement.blocks.get(message.block_hash) is None
        assert_never(message)

    # --- events

    def handle(self, event: Event) -> tuple[Effect, ...]:
        """Take one event; returns the effects to obey, in order."""
        self.pen.out = []
        self._dispatch(event)
        if self._agreement is not None:
            self._agreement.settle(event.now_ms)
            self._status.keep_fresh(self._agreement, event.now_ms, abstaining=self.is_abstaining)
        return tuple(self.pen.out)

    def _dispatch(self, event: Event) -> None:
        match event:
            case Started():
                self._desk.on_started(event)
            case HeightStarted():
                self._on_height_started(event)
            case MessageReceived():
                self._on_message(event.sender, event.message, event.now_ms)
            case PeerConnected():
                self._peers[event.peer] = None
                self._status.is_due = True
                self._desk.greet(event.peer)
            case PeerDisconnected():
                self._peers.pop(event.peer, None)
            case TimerFired():
                self._on_timer(event.timer)
            case FinalVerified():
                self._on_final(event)
            case ConflictFound():
                self.pen.halt(event.first, event.second, event.reason)  # C60
            case OperatorResumed():
                self._desk.resume_at(event.height, self._agreement)
            case OperatorUnhalted():
                self._desk.unhalt(event.block_hash, self._agreement)
            case _:
                self._on_height_event(event)

    def _on_height_event(
        self,
        event: WorkAvailable | BlockReceived | BlockChecked | BlockBuilt | VoteSigned | BlockSigned,
    ) -> None:
        """Events of one height; those of another one are stale."""
        agreement = self._agreement
        if agreement is None or event.height != agreement.height:
            return
        match event:
            case WorkAvailable():
                agreement.work_due = True
            case BlockReceived():
                agreement.on_block(event.block_hash, event.data, is_empty=event.is_empty)
            case BlockChecked():
                agreement.on_checked(event.round, event.block_hash, event.verdict)
            case BlockBuilt():
                agreement.on_built(event.round, event.block_hash, event.data)
            case VoteSigned():
                agreement.on_vote_signed(event.vote)
            case BlockSigned():
                if not self.pen.is_silenced:
                    self.pen.emit(Broadcast(event.signature))
                    agreement.on_block_signature(event.signature)
            case _:
                assert_never(event)

    def _on_message(self, sender: PeerId, message: Message, now_ms: int) -> None:
        match message:
            case Vote() | Proposal() | Certificate() | BlockSignature():
                self._on_signed(sender, message)
            case Status():
                if self._agreement is not None:
                    self._status.on_status(sender, message, self._agreement, now_ms)
            case GetBlock(height, block_hash):
                agreement = self._agreement
                block = agreement.blocks.get(block_hash) if agreement is not None else None
                if block is not None and height == self.height:
                    reply = BlockMessage(height=height, block_hash=block_hash, data=block.data)
                    self.pen.emit(Send(sender, reply))
            case GetCertificate():
                self._on_get_certificate(sender, message)
            case RollCall():
                if self._agreement is not None:
                    self._desk.on_roll_call(sender, message, now_ms, self._agreement)
            case Answer():
                if self._agreement is not None:
                    self._desk.on_answer(message, self._agreement)
            case Evidence():
                self._on_evidence(message)
            case GetFinal() | BlockMessage():
                pass  # the shell answers the one and turns the other into BlockReceived
            case _:
                assert_never(message)

    def _on_signed(
        self, sender: PeerId, message: Vote | Proposal | Certificate | BlockSignature
    ) -> None:
        agreement = self._agreement
        if agreement is None or message.height != agreement.height:
            return
        self._desk.look_for_own(message, agreement.me)
        match message:
            case Vote():
                agreement.on_vote(message)
            case Proposal():
                agreement.on_proposal(message, sender)
            case Certificate():
                agreement.on_certificate(message, sender)
            case BlockSignature():
                agreement.on_block_signature(message)

    def _on_evidence(self, evidence: Evidence) -> None:
        try:
            accused = check_evidence(evidence)
        except InvalidMessage:
            return
        if accused is not None:
            height, member = accused
            self.pen.accuse(member, height, evidence)  # C58

    def _on_get_certificate(self, sender: PeerId, request: GetCertificate) -> None:
        held = None
        if self._agreement is not None and request.height == self.height:
            keeper = self._agreement.keeper
            if request.type is VoteType.PREVOTE:
                held = keeper.pol(request.round, request.block_hash)
            else:
                held = keeper.commit(request.block_hash)
        self.pen.emit(Send(sender, held) if held else LookUpCertificate(sender, request))

    def _on_timer(self, timer: Timer) -> None:
        if timer.kind is TimerKind.GOSSIP:
            self._status.on_gossip_timer(self.height)
        elif timer.kind is TimerKind.ROLLCALL:
            self._desk.call_roll()
        elif self._agreement is not None and timer.height == self._agreement.height:
            self._agreement.on_timer(timer)

    # --- heights

    def _on_height_started(self, event: HeightStarted) -> None:
        """C2, C20: the next height; the set of the height does everything in it (C80, C81).

        A joining member has no index before its border, and votes at tip + 1 alone (C85).
        """
        image = self.pen.image
        is_first = self._agreement is None
        stored = self._stored_blocks if event.height == image.height else {}
        if event.height >= image.height:
            self._stored_blocks = {}
            self.pen.emit(ForgetBlocks(tuple(stored)))
        self.params_root = event.params_root
        self._agreement = self.agreement_class(
            height=event.height,
            tip_hash=event.tip_hash,
            members=event.members,
            me=event.members.index_of(self.vote_key),
            times=self.times,
            pen=self.pen,
            peers=self._peers,
            stored_blocks=stored,
            now_ms=event.now_ms,
            is_first=is_first,
        )
        self._agreement.work_due = event.work_due
        self._desk.finish(self._agreement)

    def _on_final(self, event: FinalVerified) -> None:
        """C38: a block with a valid signblock witness proves the decision."""
        agreement = self._agreement
        if agreement is None or event.height != agreement.height or not agreement.is_open:
            return
        for signature in event.signatures:
            self._desk.look_for_own(signature, agreement.me)
            agreement.on_block_signature(signature)
        if agreement.contradicts(event.block_hash):  # C60
            commits = agreement.keeper.commits()
            ours = commits[0].encode() if commits else self.pen.image.block_signature[1]
            self.pen.halt(ours, event.header, "a k-signed block contradicts the own decision")
            return
        if agreement.is_open:
            agreement.is_closed = True
            self.pen.emit(Connect(event.height, event.block_hash))
