"""What a member's journal says, read from the durable bytes of its disk and from nothing else.

Source: consensus:J1, consensus:J2, consensus:J3, consensus:C40, consensus:C72.
"""

import struct
from collections.abc import Callable
from typing import Final

from federation.consensus.encoding import InvalidMessage
from federation.consensus.records import (
    Amnesia,
    Base,
    Birth,
    BlockSigRecord,
    JournalRecord,
    Mode,
    Resume,
    Seen,
    VoteRecord,
    decode_record,
)
from federation.consensus.votes import BlockSignature, Vote, VoteType
from federation.journal_format import (
    HEADER_SIZE_BYTES,
    RECORD_CRC_SIZE_BYTES,
    RECORD_HEADER_SIZE_BYTES,
)
from federation.sim.disk import SimulatedDisk

JOURNAL: Final = "journal"
BLOCKS: Final = "blocks"
GUARD: Final = "guard"
_LENGTH: Final = struct.Struct("<IB")
Said = tuple[int, int, int, bytes, int]


def said(vote: Vote) -> Said:
    """A vote as a key: height, round, type, hash, valid round."""
    return vote.height, vote.round, int(vote.type), vote.block_hash, vote.valid_round


class Written:
    """Durable records of one member, followed as its disk grows.

    Attributes:
        votes, block_signatures: statements that are in the journal.
        position: the highest vote among them.
        signed_height: the highest BLOCKSIG's.
        is_amnesiac, vote_from: by the mode records.
        seen: highest message of others, by x-only key.
        faults: records that lack what they have to hold (J3).
    """

    def __init__(self, disk: SimulatedDisk, k_at: Callable[[int], int]) -> None:
        self._disk, self._k_at = disk, k_at
        self._version = -1
        self._clear()

    def _clear(self) -> None:
        self._offsets: dict[str, int] = {}
        self.votes: set[Said] = set()
        self.block_signatures: set[tuple[int, bytes]] = set()
        self.position = (0, -1, 0)
        self.signed_height = 0
        self.is_amnesiac, self.vote_from = False, 0
        self.faults: list[str] = []
        self.seen: dict[bytes, Vote | BlockSignature] = {}

    def look(self) -> "Written":
        """Read what became durable since the last look."""
        disk = self._disk
        if self._version != disk.version:
            self._version = disk.version
            self._clear()
        for name in disk.names_of(JOURNAL + "/journal-"):
            start = self._offsets.get(name, HEADER_SIZE_BYTES)
            if disk.durable_size(name) > start:
                self._offsets[name] = start + self._read(disk.durable_tail(name, start))
        return self

    def _read(self, data: bytes) -> int:
        position = 0
        while position + RECORD_HEADER_SIZE_BYTES <= len(data):
            size, kind = _LENGTH.unpack_from(data, position)
            start = position + RECORD_HEADER_SIZE_BYTES
            end = start + size + RECORD_CRC_SIZE_BYTES
            if end > len(data) or not any(data[position:end]):
                break
            try:
                self._take(decode_record(kind, data[start : start + size]))
            except InvalidMessage as error:
                self.faults.append(f"a record of kind {kind} cannot be read back: {error}")
            position = end
        return position

    def _take(self, record: JournalRecord) -> None:
        match record:
            case VoteRecord(vote, pol):
                self.votes.add(said(vote))
                self.position = max(self.position, (vote.height, vote.round, int(vote.type)))
                rests_on = vote.round if vote.type is VoteType.PRECOMMIT else vote.valid_round
                if pol is not None and (pol.round, pol.block_hash) != (rests_on, vote.block_hash):
                    self.faults.append(f"the POL in the record is another one: {vote}")
                if pol is not None and len(pol.votes) != self._k_at(pol.height):
                    self.faults.append(f"the POL in the record has {len(pol.votes)} votes")
            case BlockSigRecord(height, block_hash, commit):
                self.block_signatures.add((height, block_hash))
                self.signed_height = max(self.signed_height, height)
                named = (commit.type, commit.height, commit.block_hash)
                if named != (VoteType.PRECOMMIT, height, block_hash):
                    self.faults.append(f"the COMMIT in the record is of another block: {height}")
            case Seen(entries):
                self.seen.update(entries)
            case Birth():
                self.is_amnesiac = False
            case Amnesia():
                self.is_amnesiac = True
            case Resume(height):
                self.is_amnesiac, self.vote_from = False, height
            case Base():
                for inner in record.records:
                    self._take(inner)
                self.is_amnesiac = record.mode is Mode.ABSTAINING
                self.vote_from = record.vote_from
            case _:
                pass

    def has(self, message: Vote | BlockSignature) -> bool:
        """Whether an own statement is in the journal."""
        if isinstance(message, Vote):
            return said(message) in self.votes
        return (message.height, message.block_hash) in self.block_signatures

    @property
    def tip_height(self) -> int:
        """Height of the last final block on the disk."""
        return self._disk.tip_height

    @property
    def tip_hash(self) -> bytes:
        """Its hash."""
        return self._disk.tip.hash

    def holds_file(self, name: str) -> bool:
        """Whether a file is durable on the disk."""
        return self._disk.durable_size(name) >= 0

    @property
    def is_abstaining(self) -> bool:
        """What a roll-call has to be told (C72, J6)."""
        return self.is_amnesiac or self._disk.tip_height + 1 < self.vote_from
