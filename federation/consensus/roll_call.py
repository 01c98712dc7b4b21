"""Starting, roll-call and amnesia: when a member may vote, and when no longer.

Source: consensus:4.9, consensus:C70 to consensus:C76.
"""

from typing import Final

from federation.consensus.effects import Alarm, Broadcast, Exit, Send, SendAnswer, SetTimer
from federation.consensus.encoding import NIL
from federation.consensus.events import PeerId, Started, StartMode, Timer, TimerKind
from federation.consensus.messages import Answer, RollCall
from federation.consensus.pen import Pen, order_of
from federation.consensus.records import (
    Amnesia,
    Birth,
    Mode,
    Override,
    OverrideAction,
    Resume,
)
from federation.consensus.state_machine import Agreement
from federation.consensus.votes import BlockSignature, Certificate, Proposal, Vote
from federation.members import MemberSet

REPEAT_MS: Final = 5_100  # answers are limited to one per asker in 5 s (C98)
ANSWER_EVERY_MS: Final = 5_000  # C98
ANSWERS_MAX: Final = 64
ROLL_CALL_TIMER: Final = Timer(kind=TimerKind.ROLLCALL)


class RollCallLog:
    """Answers to the nonce of this process, by answerer. Owned by the driver."""

    def __init__(self, nonce: bytes) -> None:
        self.nonce = nonce
        self._answers: dict[bytes, Answer] = {}

    def add(self, answer: Answer) -> None:
        """Keep the first non-abstaining answer of a member; until then its newest one (C71)."""
        known = self._answers.get(answer.answerer_key)
        if known is None and len(self._answers) >= ANSWERS_MAX:
            return
        if known is None or known.abstaining:
            self._answers[answer.answerer_key] = answer

    def c73_is_complete(self, members: MemberSet, vote_key: bytes) -> bool:
        """Whether k − 1 other members of the set answered, abstaining ones included (C73)."""
        answered = self._answered(members, vote_key)
        return len(answered) >= members.k - 1

    def c72_vote_from(self, members: MemberSet, tip_height: int, vote_key: bytes) -> int | None:
        """The lowest height at which an amnesiac may vote, once it is known (C72).

        Args:
            members: M of height `tip_height` + 1, whichever set that is (C86).
        Returns:
            b + 2, or None while answers of k other members of M_{b+1} are missing, or while the
            tip is below b and M_{b+1} therefore not known.
        """
        answered = [a for a in self._answered(members, vote_key) if not a.abstaining]
        known = max((a.known for a in self._answers.values() if not a.abstaining), default=0)
        b = max(known, tip_height)
        if tip_height < b or len(answered) < members.k:
            return None
        return b + 2

    def _answered(self, members: MemberSet, vote_key: bytes) -> list[Answer]:
        found = (
            self._answers.get(member.vote_key)
            for member in members.members
            if member.vote_key != vote_key
        )
        return [answer for answer in found if answer is not None]


class RollCallDesk:
    """Decides the mode: asks and answers roll-calls, finds own messages. Owned by the driver."""

    def __init__(self, vote_key: bytes, pen: Pen) -> None:
        self._vote_key, self._pen = vote_key, pen
        self._log = RollCallLog(NIL)
        self._answered_ms: dict[bytes, int] = {}
        self._vote_from: int | None = None

    # --- starting

    def on_started(self, event: Started) -> None:
        """C70: how this process starts."""
        pen, image = self._pen, self._pen.image
        self._log = RollCallLog(event.nonce)
        is_lost = event.mode is StartMode.INTACT and image.is_empty
        if image.mode is Mode.HALTED:
            if event.mode in (StartMode.AMNESIAC, StartMode.DOUBTFUL):
                pen.persist(Amnesia())  # C70, J6: it counts after the operator's `unhalt` too
            pen.change_mode(Mode.HALTED, "halted before")  # C60
        elif event.mode is StartMode.AMNESIAC or is_lost:
            pen.forget_past("the journal is lost or restored")
        elif image.mode is Mode.STOPPED:
            pen.emit(Exit("stopped before: another process may be using the key"))  # C75
        elif image.mode is Mode.ABSTAINING:
            pen.change_mode(Mode.ABSTAINING, "the journal was lost before")
        elif event.mode is StartMode.DOUBTFUL:
            pen.persist(Amnesia(), Resume(event.tip_height + 2))  # J6
            pen.change_mode(Mode.ROLLCALL, "the last journal record is doubtful")
        elif event.mode is StartMode.FRESH and image.is_empty:
            pen.persist(Birth())
            pen.change_mode(Mode.VOTING, "the key is new")
        else:
            pen.change_mode(Mode.ROLLCALL, "restarted")
        self._show_resumed()
        self.call_roll()

    def _show_resumed(self) -> None:
        """C76: shown at every start, for safety rests on it."""
        height = self._pen.image.resumed_at
        if height is not None:
            text = f"votes from height {height} on by an operator's order, not by a roll-call"
            self._pen.emit(Alarm(text))

    def resume_at(self, height: int, agreement: Agreement | None) -> None:
        """C76: the operator lets a member vote from a height on; recorded, never guessed.

        It is no way out of HALTED or STOPPED (C60, C75).
        """
        if agreement is None or self._pen.is_silenced:
            return
        self._pen.persist(Override(action=OverrideAction.RESUME, height=height, block_hash=NIL))
        self._vote_from = height
        self._show_resumed()
        self._vote_again("resumed by the operator", agreement)

    def unhalt(self, block_hash: bytes, agreement: Agreement | None) -> None:
        """C60, N13: the operator chose a block; start over as after a restart."""
        pen = self._pen
        if pen.mode is not Mode.HALTED or agreement is None:
            return
        action = OverrideAction.UNHALT
        pen.persist(Override(action=action, height=agreement.height, block_hash=block_hash))
        is_amnesiac = pen.image.mode is Mode.ABSTAINING
        pen.change_mode(Mode.ABSTAINING if is_amnesiac else Mode.ROLLCALL, "unhalted")
        self.call_roll()
        self.finish(agreement)

    # --- asking

    def call_roll(self) -> None:
        """C71: ask everyone, again and again, until done."""
        if self._is_calling:
            self._pen.emit(Broadcast(RollCall(self._vote_key, self._log.nonce)))
            self._pen.emit(SetTimer(ROLL_CALL_TIMER, REPEAT_MS))

    def greet(self, peer: PeerId) -> None:
        """A link is up: ask this peer at once."""
        if self._is_calling:
            self._pen.emit(Send(peer, RollCall(self._vote_key, self._log.nonce)))

    def on_answer(self, answer: Answer, agreement: Agreement) -> None:
        """Take a verified answer (C71)."""
        if not self._is_calling or answer.answerer_key == self._vote_key:
            return
        self._log.add(answer)
        if answer.seen is not None:
            self._check_own(answer.seen)
        self.finish(agreement)

    def finish(self, agreement: Agreement) -> None:
        """C72, C73: see whether this member may vote (again)."""
        members, height = agreement.members, agreement.height
        if self._pen.mode is Mode.ROLLCALL and self._log.c73_is_complete(members, self._vote_key):
            self._vote_again("roll-call complete", agreement)
        if self._pen.mode is not Mode.ABSTAINING:
            return
        if self._vote_from is None:
            self._vote_from = self._log.c72_vote_from(members, height - 1, self._vote_key)
        if self._vote_from is not None and height >= self._vote_from:
            self._pen.persist(Resume(self._vote_from))
            self._vote_again("what was forgotten lies in final blocks", agreement)

    @property
    def _is_calling(self) -> bool:
        is_amnesiac = self._pen.mode is Mode.ABSTAINING and self._vote_from is None
        return is_amnesiac or self._pen.mode is Mode.ROLLCALL

    def _vote_again(self, reason: str, agreement: Agreement) -> None:
        self._pen.change_mode(Mode.VOTING, reason)
        agreement.resume_voting()

    # --- answering

    def on_roll_call(
        self, sender: PeerId, request: RollCall, now_ms: int, agreement: Agreement
    ) -> None:
        """C71: tell a member what is known of it, from journal and chain."""
        image, key = self._pen.image, request.asker_key
        last_ms = self._answered_ms.get(key)
        is_full = last_ms is None and len(self._answered_ms) >= ANSWERS_MAX
        is_early = last_ms is not None and now_ms - last_ms < ANSWER_EVERY_MS  # C98
        if is_full or is_early or key == self._vote_key:
            return
        self._answered_ms[key] = now_ms
        known, known_hash, commit = agreement.height - 1, agreement.tip_hash, None
        if image.block_signature[0] > known and image.commit is not None:
            (known, known_hash), commit = image.block_signature, image.commit
        self._pen.emit(
            SendAnswer(
                to=sender,
                asker_key=key,
                nonce=request.nonce,
                known=known,
                known_hash=known_hash if known else NIL,
                certificate=commit,
                abstaining=self._pen.is_abstaining_at(agreement.height),
                seen=self._highest_seen(key, agreement),
            )
        )

    def _highest_seen(self, key: bytes, agreement: Agreement) -> Vote | BlockSignature | None:
        member = agreement.members.index_of(key)
        candidates = [self._pen.highest_seen(key)]
        if member is not None:
            candidates.append(agreement.keeper.highest_of(member))
        return max((c for c in candidates if c is not None), key=order_of, default=None)

    # --- own messages from elsewhere

    def look_for_own(
        self, message: Vote | Proposal | Certificate | BlockSignature, me: int | None
    ) -> None:
        """C75: find statements under the own key in what others send."""
        match message:
            case Proposal(vote, certificate):
                self.look_for_own(vote, me)
                if certificate is not None:
                    self.look_for_own(certificate, me)
            case Certificate():
                if any(member == me for member, _, _ in message.votes):
                    for vote in message.as_votes():
                        self.look_for_own(vote, me)
            case Vote() | BlockSignature():
                if message.member == me:
                    self._check_own(message)

    def _check_own(self, message: Vote | BlockSignature) -> None:
        """C75: an own message beyond the journal means it was rolled back, or the key is shared."""
        image = self._pen.image
        if self._pen.mode not in (Mode.VOTING, Mode.ROLLCALL):
            return
        if message.height < max(image.height, image.vote_from) or image.has(message):
            return
        if self._pen.has_voted:
            self._pen.stop("an own message is not in the journal: is the key used elsewhere?")
            return
        self._pen.forget_past("an own message is not in the journal: it was rolled back")
        self._vote_from = None
        self.call_roll()
