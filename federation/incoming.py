"""What comes from other members: decoded, verified and charged for, before the core sees it.

Nothing here decides; a message is dropped, blamed on its link, kept for the next height, or given
to the core.

Source: the contract in `consensus.effects`, consensus:V6, consensus:C53, consensus:C58,
consensus:C71, consensus:C87, consensus:C92-C99, N15.
"""

from collections.abc import Callable
from typing import Final

from federation.certificate_requests import CertificateRequests
from federation.consensus import events as ev
from federation.consensus.early import EarlyMessages
from federation.consensus.encoding import FrameKind, InvalidMessage
from federation.consensus.evidence import check_evidence
from federation.consensus.messages import (
    Answer,
    Evidence,
    EvidenceClass,
    GetBlock,
    GetFinal,
    Message,
    RollCall,
    Status,
    decode_message,
)
from federation.consensus.records import Mode
from federation.consensus.votes import BlockMessage, BlockSignature, Certificate, Proposal, Vote
from federation.engine_parts import EngineParts
from federation.evidence_desk import EvidenceDesk
from federation.final_blocks import FinalBlocks
from federation.inbox import Frame
from federation.rate_limits import RequestBudget
from federation.verification import MessageVerifier
from sidechain.errors import Invalid
from sidechain.primitives.block import BlockHeader
from sidechain.primitives.encoding import Reader
from sidechain.script.block_signature import verify_block_signature

ROLLCALL_PAUSE_MS: Final = 5_000
"""ROLLCALL frames of one member are answered at most this often (C98)."""
REQUESTS: Final = {
    Status: (50, 100),
    GetBlock: (20, 40),
    GetFinal: (50, 100),
    Answer: (2, 10),
}
"""Requests of one member that are answered: a second, and at once. The least gossip interval is
100 ms, and four STATUS an interval is what a correct member sends at most (C50)."""
FOREIGN_VOTES_MIN: Final = 3
PEG_FRAME_CHECKS: Final = 1
"""Signature checks that a peg frame is charged for."""


class IncomingMessages:
    """Frames of one member's links; runs in the engine's task.

    Args:
        feed: gives an event to the core and obeys what it answers.
        alarm: shows something to the operator.
        nonce: of the roll-call of this process.
    """

    def __init__(
        self,
        parts: EngineParts,
        finals: FinalBlocks,
        requests: CertificateRequests,
        desk: EvidenceDesk,
        *,
        feed: Callable[[ev.Event], None],
        alarm: Callable[[str], None],
        nonce: bytes,
    ) -> None:
        self._parts = parts
        self._driver = parts.driver
        self._finals = finals
        self._requests = requests
        self._desk = desk
        self._feed = feed
        self._alarm = alarm
        self._nonce = nonce
        self._early = EarlyMessages()
        self._rollcalls_ms: dict[int, int] = {}
        self._budgets: dict[tuple[int, type], RequestBudget] = {}
        self._foreign_votes: dict[int, int] = {}
        self._on_other_tips: set[int] = set()

    def begin_height(self) -> None:
        """A new height is in progress: forget what belonged to the one before."""
        self._foreign_votes.clear()

    def replay_early(self) -> None:
        """Treat what came for this height before it began as if it came now (C92)."""
        for sender, message in self._early.drain():
            self._handle(sender, message)

    def forget(self, member: int) -> None:
        """The link to a member is down."""
        self._early.forget(member)
        self._finals.peer_gone(member)

    def on_frame(self, frame: Frame) -> None:
        """Take a frame of any kind."""
        if frame.kind > FrameKind.GET_CERT:
            if frame.kind >= FrameKind.RECORD:
                self._parts.network.charge_signatures(frame.member, checked=PEG_FRAME_CHECKS)
            self._parts.other_frames(frame.member, frame.kind, frame.body)
            return
        try:
            if frame.kind == FrameKind.FINAL:
                self._finals.on_frame(frame.member, frame.body)
            else:
                self._handle(frame.member, decode_message(frame.kind, frame.body))
        except InvalidMessage as error:
            self._blame(frame.member, f"malformed frame: {error}")
        except Invalid as fault:
            self._blame(frame.member, f"malformed final block: {fault}")

    def _handle(self, member: int, message: Message) -> None:
        match message:
            case Vote() | Certificate() | BlockSignature():
                self._on_signed(member, message, message.height)
            case Proposal(vote, _):
                self._on_signed(member, message, vote.height)
            case BlockMessage():
                self._on_block(member, message)
            case RollCall():
                self._on_rollcall(member, message)
            case Evidence():
                self._on_evidence(member, message)
            case Status() | GetBlock() | GetFinal() | Answer():
                if self._has_budget(member, type(message)):
                    self._on_request(member, message)
            case _:
                self._deliver(member, message)

    def _on_request(self, member: int, message: Status | GetBlock | GetFinal | Answer) -> None:
        match message:
            case Status():
                self._finals.peer_at(member, message.height - 1)
                self._compare_tip(member, message)
                self._deliver(member, message)
            case GetFinal(from_height, count):
                self._finals.send(member, from_height, count)
            case Answer():
                self._on_answer(member, message)
            case _:
                self._deliver(member, message)

    def _deliver(self, member: int, message: Message) -> None:
        self._feed(ev.MessageReceived(now_ms=self._parts.now_ms(), sender=member, message=message))

    def _blame(self, member: int, reason: str) -> None:
        self._parts.log.warning("peer_fault", member=member, reason=reason)
        self._parts.network.charge_signatures(member, failed=1)

    def _has_budget(self, member: int, kind: type) -> bool:
        budget = self._budgets.get((member, kind))
        if budget is None:
            per_s, burst = REQUESTS[kind]
            budget = self._budgets[member, kind] = RequestBudget(per_s=per_s, burst=burst)
        return budget.take(self._parts.now_ms())

    # -- votes, certificates, block signatures

    def _on_signed(
        self,
        member: int,
        message: Vote | Proposal | Certificate | BlockSignature,
        height: int,
    ) -> None:
        if height == self._driver.height + 1:
            self._early.add(member, message)
        if isinstance(message, Certificate) and height < self._driver.height:
            self._on_old_certificate(member, message)
            return
        if height != self._driver.height or not self._driver.wants(message):
            return
        if self._is_relabelled(message):
            self._blame(member, "a block signature under another height than its block's")
            return
        checked = self._parts.verifier.check(message)
        if checked.operations:
            self._parts.network.charge_signatures(
                member, checked=checked.operations, failed=0 if checked.good else 1
            )
        if checked.good:
            self._deliver(member, message)
        else:
            self._parts.log.warning("bad_signature", member=member, kind=type(message).__name__)
            self._suspect_parameters(member, message)

    def _is_relabelled(self, said: Message | None) -> bool:
        """Whether a BLOCKSIG is one of a final block with another height written on it.

        The height is not signed. Taken for one of this height, it would convict its honest signer
        of two blocks (C56b), or make him believe that his journal is lost (C75).
        """
        if not isinstance(said, BlockSignature):
            return False
        return self._parts.chain.height_of(said.block_hash) not in (None, said.height)

    def _on_old_certificate(self, member: int, certificate: Certificate) -> None:
        """One of a height that is over: only when it was asked for."""
        if not self._requests.wants(certificate):
            return
        checked = self._verifier_at(certificate.height).check(certificate)
        self._parts.network.charge_signatures(
            member, checked=checked.operations, failed=0 if checked.good else 1
        )
        if checked.good:
            self._requests.take(member, certificate)

    def _verifier_at(self, height: int) -> MessageVerifier:
        """Checks what was signed at a height, maybe by another set and under other parameters."""
        production = self._parts.production
        root = production.params_root_at(height)
        if root == production.params_root():
            return self._parts.verifier
        verifier = MessageVerifier(self._parts.chain.params.genesis_hash, remembered_max=0)
        verifier.begin_height(production.member_set_at(height), root)
        return verifier

    def _suspect_parameters(self, member: int, message: Message) -> None:
        """C87: members who sign under other parameters look as if none of their votes verified."""
        if not isinstance(message, Vote):
            return
        self._foreign_votes[member] = self._foreign_votes.get(member, 0) + 1
        if self._foreign_votes[member] != FOREIGN_VOTES_MIN:
            return
        suspects = [m for m, count in self._foreign_votes.items() if count >= FOREIGN_VOTES_MIN]
        if len(suspects) >= self._driver.members.s:
            names = ", ".join(f"m{index}" for index in sorted(suspects))
            self._alarm(f"parameter mismatch: votes of {names} do not verify")

    def _compare_tip(self, member: int, status: Status) -> None:
        """C87: equal heights mean equal tips, hence equal parameters; the word of a link only."""
        if status.height != self._driver.height:
            return
        if status.tip_hash == self._driver.agreement.tip_hash:
            self._on_other_tips.discard(member)
        elif member not in self._on_other_tips:
            self._on_other_tips.add(member)
            shown = status.tip_hash[::-1].hex()
            self._alarm(f"m{member} builds height {status.height} on another block: {shown}")

    # -- blocks

    def _on_block(self, member: int, message: BlockMessage) -> None:
        if message.height == self._driver.height + 1:
            self._early.add(member, message)
        if message.height != self._driver.height or not self._driver.wants(message):
            return
        if not self._driver.agreement.needs(message.block_hash):
            return  # its proposal comes first; a block that matters is asked for (C22)
        production = self._parts.production
        try:
            block = production.decode_proposal(message.data, message.block_hash)
        except Invalid as fault:
            self._blame(member, f"wrong bytes for a block: {fault}")
            return
        try:
            is_empty = production.is_empty(block)
        except Invalid:
            is_empty = True  # objectively invalid, which is no work either
        self._feed(
            ev.BlockReceived(
                now_ms=self._parts.now_ms(),
                sender=member,
                height=message.height,
                block_hash=message.block_hash,
                data=message.data,
                is_empty=is_empty,
            )
        )

    # -- roll-call

    def _on_rollcall(self, member: int, message: RollCall) -> None:
        if message.asker_key != self._parts.vote_keys[member]:
            self._blame(member, "roll-call under another member's key")
            return
        now_ms = self._parts.now_ms()
        last_ms = self._rollcalls_ms.get(member)
        if last_ms is not None and now_ms - last_ms < ROLLCALL_PAUSE_MS:
            return
        self._rollcalls_ms[member] = now_ms
        self._deliver(member, message)

    def _on_answer(self, member: int, answer: Answer) -> None:
        if self._driver.mode not in (Mode.ROLLCALL, Mode.ABSTAINING):
            return
        if self._driver.members.index_of(answer.answerer_key) is None:
            return  # of another set: it counts where that one is in force (C86)
        asker_key = self._parts.signer.block_key[1:]
        if self._driver.members.index_of(answer.answerer_key) is None:
            return  # of another set: it counts where that one is in force (C86)
        checked = self._parts.verifier.check_answer(
            answer, asker_key, self._nonce, self._verifier_at
        )
        if checked.operations:
            self._parts.network.charge_signatures(member, checked=checked.operations)
        if checked.good and self._is_proved(answer) and not self._is_relabelled(answer.seen):
            self._deliver(member, answer)
        else:
            self._blame(member, "roll-call answer does not verify")

    def _is_proved(self, answer: Answer) -> bool:
        """Whether a header given as proof is of `known`, under k signatures of this set."""
        if not isinstance(answer.proof, bytes):
            return True
        header = self._signed_header(answer.proof)
        named = (answer.known, answer.known_hash)
        return header is not None and (header.height, header.hash) == named

    def _signed_header(self, data: bytes) -> BlockHeader | None:
        """A header under the signblockscript in force with enough signatures, else None."""
        chain = self._parts.chain
        try:
            reader = Reader(data)
            header = BlockHeader.read(reader, chain.params)
            reader.done()
            if header.height <= chain.tip_height:
                ours = chain.header(header.height).current.signblockscript
            else:
                ours = chain.full_current().signblockscript
            if header.current.signblockscript != ours:
                return None
            verify_block_signature(header, chain.params)
        except Invalid:
            return None
        return header

    # -- evidence

    def _on_evidence(self, member: int, evidence: Evidence) -> None:
        try:
            accused = check_evidence(evidence)
        except InvalidMessage as error:
            self._blame(member, f"evidence of nothing: {error}")
            return
        if evidence.kind is EvidenceClass.TWO_BLOCKS or accused is None:
            self._on_block_evidence(member, evidence)
            return
        height, index = accused
        store = self._parts.evidence
        if store.is_known(index, height, evidence) or not store.has_room(index):
            return
        checked = self._verifier_at(height).check(evidence)
        self._parts.network.charge_signatures(
            member, checked=checked.operations, failed=0 if checked.good else 1
        )
        if checked.good:
            self._deliver(member, evidence)

    def _on_block_evidence(self, member: int, evidence: Evidence) -> None:
        """C56(b): who signed both headers is convicted by them alone (A1).

        BLOCKSIGs whose headers are not known here show nothing, and cost nothing.
        """
        if not self._desk.can_check(evidence):
            return
        self._parts.network.charge_signatures(member, checked=2 * self._driver.members.n)
        if not self._desk.accuse_with_headers(evidence):
            self._blame(member, "evidence of block signatures does not verify")
