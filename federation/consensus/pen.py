"""What this member may sign, and the one way to sign it: write, then sign, then send.

Source: consensus:C34, consensus:C36, consensus:C40, consensus:C60, consensus:C75.
"""

from typing import Final

from federation.consensus.effects import (
    Accuse,
    Broadcast,
    Effect,
    Exit,
    ModeChanged,
    Persist,
    SignBlock,
    SignVote,
)
from federation.consensus.messages import Evidence
from federation.consensus.records import (
    Amnesia,
    BlockSigRecord,
    Halt,
    JournalImage,
    JournalRecord,
    Mode,
    Seen,
    Stop,
    VoteRecord,
)
from federation.consensus.votes import BlockSignature, Certificate, Vote, VoteType

EVIDENCE_MAX: Final = 1_000  # C99


class Pen:
    """Holds the journal image and the mode; every own signature starts here.

    Attributes:
        out: effects of the event being handled, in order.
        mode: what this member may do now.
        has_voted: whether this process signed any vote (C75).
    """

    def __init__(self, image: JournalImage) -> None:
        self.image = image
        self.mode = Mode.STOPPED
        self.has_voted = False
        self.out: list[Effect] = []
        self._unwritten: dict[bytes, Vote | BlockSignature] = {}
        self._accused: set[tuple[int, int, int]] = set()

    @property
    def is_silenced(self) -> bool:
        """Whether nothing may be signed or sent under the own key any more (C60, C75)."""
        return self.mode in (Mode.STOPPED, Mode.HALTED)

    def emit(self, effect: Effect) -> None:
        """Order an effect, after those ordered before."""
        self.out.append(effect)

    def persist(self, *records: JournalRecord) -> None:
        """Write records durably before any later effect (C40)."""
        for record in records:
            self.image.apply(record)
        self.emit(Persist(records))

    def may_vote(self, height: int, round_number: int, vote_type: VoteType) -> bool:
        """C34: mode, height, each (height, round, type) once and in order."""
        image = self.image
        return (
            self.mode is Mode.VOTING
            and height >= image.vote_from
            and height >= image.height
            and (height, round_number, int(vote_type)) > image.position
        )

    def is_abstaining_at(self, height: int) -> bool:
        """Whether others are told that this member does not vote (C72, J6)."""
        return self.mode is Mode.ABSTAINING or height < self.image.vote_from

    def write_vote(self, vote: Vote, certificate: Certificate | None) -> None:
        """Journal an own vote with the POL it rests on, then have it signed (C40)."""
        self.has_voted = True
        record = VoteRecord(vote, certificate)
        if self._unwritten:
            seen = Seen(tuple(self._unwritten.items()))
            self._unwritten.clear()
            self.persist(seen, record)
        else:
            self.persist(record)
        self.emit(SignVote(vote, certificate, again=False))

    def may_sign_block(self, height: int) -> bool:
        """C36: mode allows it and the journal has no BLOCKSIG above this height."""
        return (
            self.mode in (Mode.VOTING, Mode.ROLLCALL, Mode.ABSTAINING)
            and self.image.block_signature[0] <= height
        )

    def signed_another_block(self, height: int, block_hash: bytes) -> bool:
        """Whether the journal has a BLOCKSIG of this height for another block."""
        signed_height, signed_hash = self.image.block_signature
        return signed_height == height and signed_hash != block_hash

    def write_block_signature(self, height: int, block_hash: bytes, commit: Certificate) -> None:
        """Journal an own BLOCKSIG with its COMMIT, then have it signed (C36, C40)."""
        again = self.image.block_signature == (height, block_hash)
        if not again:
            self.persist(BlockSigRecord(height, block_hash, commit))
        self.emit(SignBlock(height, block_hash, commit, again=again))

    def note_seen(self, key: bytes, message: Vote | BlockSignature) -> None:
        """Remember the highest message of another member, for its roll-calls (C71)."""
        known = self.highest_seen(key)
        if known is None or order_of(known) < order_of(message):
            self._unwritten[key] = message

    def highest_seen(self, key: bytes) -> Vote | BlockSignature | None:
        """The highest message noted of a member, by x-only key."""
        return self._unwritten.get(key) or self.image.seen.get(key)

    def accuse(self, member: int, height: int, evidence: Evidence) -> None:
        """Keep and broadcast evidence once per (member, height, class) (C58, C99)."""
        key = (member, height, int(evidence.kind))
        if key in self._accused or len(self._accused) >= EVIDENCE_MAX:
            return
        self._accused.add(key)
        self.emit(Accuse(member, height, evidence))
        self.emit(Broadcast(evidence))

    def change_mode(self, mode: Mode, reason: str) -> None:
        """Enter a mode that needs no record of its own."""
        if mode is not self.mode:
            self.mode = mode
            self.emit(ModeChanged(mode, reason))

    def forget_past(self, reason: str) -> None:
        """Become Amnesiac, durably (C70)."""
        self.persist(Amnesia())
        self.change_mode(Mode.ABSTAINING, reason)

    def halt(self, first: bytes, second: bytes, reason: str) -> None:
        """C60: two things contradict each other; durable, left only by an operator."""
        if self.mode is not Mode.HALTED:
            self.persist(Halt(first, second))
            self.change_mode(Mode.HALTED, reason)

    def stop(self, reason: str) -> None:
        """C75 after a vote: another process may be using the key."""
        if self.mode is not Mode.STOPPED:
            self.persist(Stop())
            self.change_mode(Mode.STOPPED, reason)
            self.emit(Exit(reason))


def order_of(message: Vote | BlockSignature) -> tuple[int, int, int, int]:
    """Sort key of one member's messages: height, then BLOCKSIG after all votes, round, type."""
    if isinstance(message, BlockSignature):
        return message.height, 1, 0, 0
    return message.height, 0, message.round, int(message.type)
