"""Journal records as data, and the image of the own journal that the core decides by.

The core emits records in `Persist` effects and takes them back at start. File framing, fsync and
rotation are `federation.wal`'s. A VOTE record is written *before* the vote is signed (C40: write
record, fsync, signer, send), so its signature field is 64 zero bytes; signing is deterministic, and
after a restart the same statement is signed again.

Source: consensus:J3, consensus:C34, consensus:C36, consensus:C40, consensus:C42, consensus:C73.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import assert_never

from federation.consensus.encoding import InvalidMessage, MessageReader, framed
from federation.consensus.votes import BlockSignature, Certificate, Vote, VoteType

_U32 = struct.Struct("<I")


class InvalidJournal(Exception):
    """Records that no correct process of this member can have written in this order.

    Attributes:
        reason: what does not fit; the member must not start on such a journal.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RecordKind(IntEnum):
    """Kind byte of a journal record (J3)."""

    BIRTH = 1
    AMNESIA = 2
    RESUME = 3
    VOTE = 4
    BLOCKSIG = 5
    HALT = 6
    STOP = 7
    OVERRIDE = 8
    SEEN = 9
    BASE = 10
    COUNTER = 11


class Mode(IntEnum):
    """What a member may do (consensus:3, 4.9). ROLLCALL is never stored: a start decides it."""

    VOTING = 1
    ROLLCALL = 2
    ABSTAINING = 3
    STOPPED = 4
    HALTED = 5


class OverrideAction(IntEnum):
    """What an operator ordered: resume voting at a height (C76), or leave HALTED (N13)."""

    RESUME = 1
    UNHALT = 2


@dataclass(frozen=True, slots=True)
class Birth:
    """The key starts its life here (C70); written once in a journal."""


@dataclass(frozen=True, slots=True)
class Amnesia:
    """What this key signed before is not known (C70)."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Votes are allowed from `height` on (C72)."""

    height: int


@dataclass(frozen=True, slots=True)
class VoteRecord:
    """An own vote, with the POL it relies on: the one cited, or that of a precommitted block."""

    vote: Vote
    certificate: Certificate | None


@dataclass(frozen=True, slots=True)
class BlockSigRecord:
    """An own block signature, with the COMMIT certificate that allowed it (C36)."""

    height: int
    block_hash: bytes
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Halt:
    """The two things that contradict each other (C60): headers, or COMMIT certificates."""

    first: bytes
    second: bytes


@dataclass(frozen=True, slots=True)
class Stop:
    """Another process may be using the key (C75)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """An operator's command; `height` counts for RESUME, `block_hash` for UNHALT."""

    action: OverrideAction
    height: int
    block_hash: bytes


@dataclass(frozen=True, slots=True)
class Seen:
    """Highest message seen of other members, by x-only key; not synced for itself."""

    entries: tuple[tuple[bytes, Vote | BlockSignature], ...]


@dataclass(frozen=True, slots=True)
class Counter:
    """What the signer's counter was when the next record was written; not synced for itself (R5).

    J3 gives it no kind of its own and R5 says only that it is journaled with the next record.
    """

    signatures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """Everything that matters of earlier files; first record of every later file (J7)."""

    mode: Mode
    vote_from: int
    position: tuple[int, int, int]
    block_signature: tuple[int, bytes]
    records: tuple["VoteRecord | BlockSigRecord | Seen | Override | Counter", ...]


JournalRecord = (
    Birth
    | Amnesia
    | Resume
    | VoteRecord
    | BlockSigRecord
    | Halt
    | Stop
    | Override
    | Seen
    | Base
    | Counter
)


def encode_record(record: JournalRecord) -> tuple[RecordKind, bytes]:
    """Kind and body of a record."""
    match record:
        case Birth():
            return RecordKind.BIRTH, b""
        case Amnesia():
            return RecordKind.AMNESIA, b""
        case Resume(height):
            return RecordKind.RESUME, _U32.pack(height)
        case VoteRecord(vote, certificate):
            tail = certificate.encode() if certificate else b""
            return RecordKind.VOTE, vote.encode() + tail
        case BlockSigRecord(height, block_hash, commit):
            return RecordKind.BLOCKSIG, _U32.pack(height) + block_hash + commit.encode()
        case Halt(first, second):
            return RecordKind.HALT, framed(first) + framed(second)
        case Stop():
            return RecordKind.STOP, b""
        case Override():
            body = struct.pack("<BI32s", record.action, record.height, record.block_hash)
            return RecordKind.OVERRIDE, body
        case Seen(entries):
            return RecordKind.SEEN, bytes((len(entries),)) + b"".join(map(_encode_seen, entries))
        case Base():
            return RecordKind.BASE, _encode_base(record)
        case Counter(signatures):
            return RecordKind.COUNTER, signatures.to_bytes(8, "little")
    assert_never(record)


def decode_record(kind: int, body: bytes) -> JournalRecord:
    """The record of a kind and body.

    Raises:
        InvalidMessage: no record of that kind has this body, byte for byte.
    """
    reader = MessageReader(body)
    try:
        record = _read_record(RecordKind(kind), reader)
    except ValueError:
        raise InvalidMessage("unknown record kind or value") from None
    reader.done()
    return record


def _read_record(kind: RecordKind, reader: MessageReader) -> JournalRecord:
    match kind:
        case RecordKind.BIRTH:
            return Birth()
        case RecordKind.AMNESIA:
            return Amnesia()
        case RecordKind.RESUME:
            return Resume(reader.u32())
        case RecordKind.VOTE:
            vote = Vote.read(reader)
            certificate = Certificate.read(reader) if _rests_on_pol(vote) else None
            return VoteRecord(vote, certificate)
        case RecordKind.BLOCKSIG:
            return BlockSigRecord(reader.u32(), reader.hash(), Certificate.read(reader))
        case RecordKind.HALT:
            return Halt(reader.framed(), reader.framed())
        case RecordKind.STOP:
            return Stop()
        case RecordKind.OVERRIDE:
            action = OverrideAction(reader.u8())
            return Override(action=action, height=reader.u32(), block_hash=reader.hash())
        case RecordKind.SEEN:
            return Seen(tuple(_read_seen(reader) for _ in range(reader.u8())))
        case RecordKind.BASE:
            return _read_base(reader)
        case RecordKind.COUNTER:
            return Counter(int.from_bytes(reader.take(8), "little"))
    assert_never(kind)


def _rests_on_pol(vote: Vote) -> bool:
    """Whether the record of this own vote holds a POL certificate (J3)."""
    if vote.type is VoteType.PRECOMMIT:
        return vote.block_hash != bytes(32)
    return vote.valid_round >= 0


def _encode_seen(entry: tuple[bytes, Vote | BlockSignature]) -> bytes:
    key, message = entry
    return key + (b"\1" if isinstance(message, Vote) else b"\2") + message.encode()


def _read_seen(reader: MessageReader) -> tuple[bytes, Vote | BlockSignature]:
    key, kind = reader.hash(), reader.u8()
    if kind not in (1, 2):
        raise InvalidMessage("unknown seen message")
    return key, Vote.read(reader) if kind == 1 else BlockSignature.read(reader)


def _encode_base(base: Base) -> bytes:
    head = struct.pack(
        "<BIIiBI32sH",
        base.mode,
        base.vote_from,
        *base.position,
        *base.block_signature,
        len(base.records),
    )
    parts = [head]
    for record in base.records:
        kind, body = encode_record(record)
        parts.append(bytes((kind,)) + framed(body))
    return b"".join(parts)


def _read_base(reader: MessageReader) -> Base:
    mode, vote_from = Mode(reader.u8()), reader.u32()
    position = (reader.u32(), reader.i32(), reader.u8())
    block_signature = (reader.u32(), reader.hash())
    count = int.from_bytes(reader.take(2), "little")
    records: list[VoteRecord | BlockSigRecord | Seen | Override | Counter] = []
    for _ in range(count):
        record = decode_record(reader.u8(), reader.framed())
        if not isinstance(record, VoteRecord | BlockSigRecord | Seen | Override | Counter):
            raise InvalidMessage("record has no place in BASE")
        records.append(record)
    return Base(
        mode=mode,
        vote_from=vote_from,
        position=position,
        block_signature=block_signature,
        records=tuple(records),
    )


@dataclass(slots=True)
class JournalImage:
    """What the own journal says, folded record by record. Owned by the driver.

    Attributes:
        mode: VOTING, ABSTAINING, STOPPED or HALTED as last written.
        vote_from: lowest height at which this member may vote (C72).
        position: (height, round, type) of the highest own vote; (0, −1, 0) for none.
        block_signature: (height, hash) of the highest own BLOCKSIG; (0, NIL) for none.
        commit: the certificate of that BLOCKSIG, while its record is in this file.
        votes: own vote records of `position`'s height, in the order signed.
        seen: highest message seen of other members, by x-only key.
        resumed_at: height of the newest `--resume-at` order, None if there was none (C76).
    """

    is_empty: bool = True
    mode: Mode = Mode.VOTING
    vote_from: int = 0
    position: tuple[int, int, int] = (0, -1, 0)
    block_signature: tuple[int, bytes] = (0, bytes(32))
    commit: Certificate | None = None
    votes: list[VoteRecord] = field(default_factory=list)
    seen: dict[bytes, Vote | BlockSignature] = field(default_factory=dict)
    resumed_at: int | None = None
    signatures: tuple[int, int] | None = None
    _mode_before_halt: Mode = Mode.VOTING

    @property
    def height(self) -> int:
        """The highest height at which anything was signed."""
        return max(self.position[0], self.block_signature[0])

    def votes_at(self, height: int) -> tuple[VoteRecord, ...]:
        """Own votes of a height, in the order signed; of the highest voted height only (C73)."""
        return tuple(self.votes) if height == self.position[0] else ()

    def has(self, message: Vote | BlockSignature) -> bool:
        """Whether an own message at a height not below `height` is in the journal (C75).

        Votes of a final height are not carried into the next file: there the position decides.
        """
        if isinstance(message, BlockSignature):
            return self.block_signature == (message.height, message.block_hash)
        if not self.votes:
            return (message.height, message.round, int(message.type)) <= self.position
        return any(
            record.vote.round == message.round
            and record.vote.type == message.type
            and record.vote.block_hash == message.block_hash
            and record.vote.valid_round == message.valid_round
            for record in self.votes_at(message.height)
        )

    def base(self, final_height: int = 0) -> Base:
        """The BASE record with which the next journal file begins (J7).

        Args:
            final_height: own votes up to this height are left out; their block is final.
        """
        is_final = self.position[0] <= final_height
        records: list[VoteRecord | BlockSigRecord | Seen | Override | Counter] = []
        if self.signatures is not None:  # first: what follows may or may not be counted in it
            records.append(Counter(self.signatures[0]))
        if self.resumed_at is not None:
            resume = OverrideAction.RESUME
            records.append(Override(action=resume, height=self.resumed_at, block_hash=bytes(32)))
        records += [] if is_final else self.votes
        height, block_hash = self.block_signature
        if self.commit is not None:
            records.append(BlockSigRecord(height, block_hash, self.commit))
        if self.seen:
            records.append(Seen(tuple(self.seen.items())))
        return Base(
            mode=self.mode,
            vote_from=self.vote_from,
            position=self.position,
            block_signature=self.block_signature,
            records=tuple(records),
        )

    def apply(self, record: JournalRecord) -> None:
        """Fold in the next record, as read at start or as just emitted.

        Raises:
            InvalidJournal: a vote not above the ones before it, or a second block signature.
        """
        self.is_empty = False
        match record:
            case Birth():
                self.mode = Mode.VOTING
            case Amnesia():
                self._set_mode(Mode.ABSTAINING)
            case Resume(height):
                self.mode, self.vote_from = Mode.VOTING, height
            case VoteRecord():
                self._apply_vote(record)
            case BlockSigRecord(height, block_hash, commit):
                self._apply_block_signature(height, block_hash, commit)
            case Halt():
                if self.mode is not Mode.HALTED:
                    self._mode_before_halt = self.mode
                self.mode = Mode.HALTED
            case Stop():
                self.mode = Mode.STOPPED
            case Override():
                self._apply_override(record)
            case Seen(entries):
                self.seen.update(entries)
            case Base():
                self._apply_base(record)
            case Counter(signatures):
                self.signatures = signatures, signatures
            case _:
                assert_never(record)

    def _set_mode(self, mode: Mode) -> None:
        """The mode now, or after HALTED: only an operator leaves that (C60)."""
        if self.mode is Mode.HALTED:
            self._mode_before_halt = mode
        else:
            self.mode = mode

    def _apply_vote(self, record: VoteRecord) -> None:
        vote = record.vote
        position = (vote.height, vote.round, int(vote.type))
        if position <= self.position:
            raise InvalidJournal("own vote is not above the one before it")
        if vote.height > self.position[0]:
            self.votes.clear()
        self.votes.append(record)
        self.position = position
        self._count_one()

    def _apply_block_signature(self, height: int, block_hash: bytes, commit: Certificate) -> None:
        if (height, block_hash) != self.block_signature and height <= self.block_signature[0]:
            raise InvalidJournal("two own block signatures at one height, or a step back")
        if (height, block_hash) != self.block_signature:
            self._count_one()
        self.block_signature, self.commit = (height, block_hash), commit

    def _count_one(self) -> None:
        """A record was written, so one more signature may have been made on it."""
        if self.signatures is not None:
            self.signatures = self.signatures[0], self.signatures[1] + 1

    def _apply_override(self, record: Override) -> None:
        if record.action is OverrideAction.RESUME:
            self.mode, self.vote_from = Mode.VOTING, record.height
            self.resumed_at = record.height
        elif self.mode is Mode.HALTED:
            self.mode = self._mode_before_halt

    def _apply_base(self, base: Base) -> None:
        self.votes.clear()
        self.position, self.block_signature, self.commit = (0, -1, 0), (0, bytes(32)), None
        self.signatures = None
        for record in base.records:
            self.apply(record)
        self.mode, self.vote_from = base.mode, base.vote_from
        self.position = max(self.position, base.position)
        self.block_signature = max(self.block_signature, base.block_signature)


def restore(records: Iterable[JournalRecord]) -> JournalImage:
    """The image of a journal from all its records, in order.

    Raises:
        InvalidJournal: the records contradict each other; refuse to start (J6, corrupt).
    """
    image = JournalImage()
    for record in records:
        image.apply(record)
    return image
