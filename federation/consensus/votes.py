"""Signed statements: votes, certificates made of votes, proposals, blocks, block signatures.

Hashes are 32 bytes in internal order, signatures 64 bytes (BIP340, or r ‖ s for BLOCKSIG), members
indexes into the set of the message's height.

Source: consensus:2.1, consensus:2.2.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from federation.consensus.encoding import (
    FRAME_LIMITS_BYTES,
    NIL,
    ROUND_LIMIT,
    FrameKind,
    InvalidMessage,
    MessageReader,
    tagged_hash,
)
from federation.members import MEMBERS_MAX

NO_SIGNATURE: Final = bytes(64)
VOTE_TAG: Final = "fedchain/vote/1"
BLOCK_MAX_BYTES: Final = FRAME_LIMITS_BYTES[FrameKind.BLOCK] - 36

_VOTE = struct.Struct("<BIIi32sB64s")
_PAYLOAD = struct.Struct("<32s32sBIIi32s")
_CERT_HEAD = struct.Struct("<BII32sB")
_CERT_VOTE = struct.Struct("<Bi64s")
_BLOCKSIG = struct.Struct("<I32sB64s")


class VoteType(IntEnum):
    """What a signed vote says; the order is the order within a round."""

    PROPOSAL = 1
    PREVOTE = 2
    PRECOMMIT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """A PROPOSAL, PREVOTE or PRECOMMIT: 110 bytes with its signature.

    `valid_round` is −1 or the round of the POL it cites. `block_hash` NIL is a vote for no block.
    A vote that still has to be signed carries `NO_SIGNATURE`.
    """

    type: VoteType
    height: int
    round: int
    valid_round: int
    block_hash: bytes
    member: int
    signature: bytes

    def signed_payload(self, genesis: bytes, params_root: bytes) -> bytes:
        """The 109 bytes P of consensus:2.1; both arguments 32 bytes."""
        return _PAYLOAD.pack(
            genesis,
            params_root,
            self.type,
            self.height,
            self.round,
            self.valid_round,
            self.block_hash,
        )

    def digest(self, genesis: bytes, params_root: bytes) -> bytes:
        """The 32 bytes m that BIP340 signs, with the member's block key."""
        return tagged_hash(VOTE_TAG, self.signed_payload(genesis, params_root))

    def says_the_same_as(self, other: "Vote") -> bool:
        """Whether both are the same statement of the same member, whatever their signatures."""
        return (
            self.height == other.height
            and self.round == other.round
            and self.type == other.type
            and self.block_hash == other.block_hash
            and self.valid_round == other.valid_round
            and self.member == other.member
        )

    def encode(self) -> bytes:
        """110 bytes."""
        return _VOTE.pack(
            self.type,
            self.height,
            self.round,
            self.valid_round,
            self.block_hash,
            self.member,
            self.signature,
        )

    @classmethod
    def read(cls, reader: MessageReader) -> Self:
        """The next 110 bytes as a vote of any type.

        Raises:
            InvalidMessage: a field outside its range, or a combination that is never signed.
        """
        kind, height, round_number, valid_round, block_hash, member, signature = _VOTE.unpack(
            reader.take(_VOTE.size)
        )
        said = vote_type(kind)
        if round_number >= ROUND_LIMIT:
            raise InvalidMessage("round out of range")
        if not -1 <= valid_round < round_number:
            raise InvalidMessage("valid round out of range")
        if block_hash == NIL and said is VoteType.PROPOSAL:
            raise InvalidMessage("proposal of nil")
        if valid_round != -1 and (block_hash == NIL or said is VoteType.PRECOMMIT):
            raise InvalidMessage("valid round where none is allowed")
        return cls(
            type=said,
            height=height,
            round=round_number,
            valid_round=valid_round,
            block_hash=block_hash,
            member=_member(member),
            signature=signature,
        )

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """A VOTE body: 110 bytes, PREVOTE or PRECOMMIT.

        Raises:
            InvalidMessage: anything else.
        """
        reader = MessageReader(body)
        vote = cls.read(reader)
        reader.done()
        if vote.type is VoteType.PROPOSAL:
            raise InvalidMessage("proposal in a vote frame")
        return vote


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """k votes of one (type, height, round, hash): a POL (PREVOTE) or a COMMIT (PRECOMMIT).

    `votes` are (member, valid_round, signature), members strictly ascending. That there are
    exactly k of them is checked where k is known: `is_complete`.
    """

    type: VoteType
    height: int
    round: int
    block_hash: bytes
    votes: tuple[tuple[int, int, bytes], ...]

    def is_complete(self, k: int) -> bool:
        """Whether the certificate holds exactly k votes; its signatures are another matter."""
        return len(self.votes) == k

    def as_votes(self) -> tuple[Vote, ...]:
        """The same votes as single ones."""
        return tuple(
            Vote(
                type=self.type,
                height=self.height,
                round=self.round,
                valid_round=valid_round,
                block_hash=self.block_hash,
                member=member,
                signature=signature,
            )
            for member, valid_round, signature in self.votes
        )

    def encode(self) -> bytes:
        """42 bytes and 69 for each vote."""
        head = _CERT_HEAD.pack(self.type, self.height, self.round, self.block_hash, len(self.votes))
        return head + b"".join(_CERT_VOTE.pack(*vote) for vote in self.votes)

    @classmethod
    def read(cls, reader: MessageReader) -> Self:
        """The next certificate.

        Raises:
            InvalidMessage: another type, members not strictly ascending, a field out of range.
        """
        kind, height, round_number, block_hash, count = _CERT_HEAD.unpack(
            reader.take(_CERT_HEAD.size)
        )
        said = vote_type(kind)
        if said is VoteType.PROPOSAL:
            raise InvalidMessage("certificate of proposals")
        if said is VoteType.PRECOMMIT and block_hash == NIL:
            raise InvalidMessage("commit certificate of nil")
        if round_number >= ROUND_LIMIT:
            raise InvalidMessage("round out of range")
        if not 1 <= count <= MEMBERS_MAX:
            raise InvalidMessage("vote count out of range")
        votes: list[tuple[int, int, bytes]] = []
        for _ in range(count):
            member, valid_round, signature = _CERT_VOTE.unpack(reader.take(_CERT_VOTE.size))
            if votes and member <= votes[-1][0]:
                raise InvalidMessage("members are not ascending")
            if valid_round != -1 and not 0 <= valid_round < round_number:
                raise InvalidMessage("valid round out of range")
            if valid_round != -1 and (block_hash == NIL or said is VoteType.PRECOMMIT):
                raise InvalidMessage("valid round where none is allowed")
            votes.append((_member(member), valid_round, signature))
        return cls(
            type=said,
            height=height,
            round=round_number,
            block_hash=block_hash,
            votes=tuple(votes),
        )

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """A whole CERT body.

        Raises:
            InvalidMessage: see `read`; or trailing bytes.
        """
        reader = MessageReader(body)
        certificate = cls.read(reader)
        reader.done()
        return certificate


@dataclass(frozen=True, slots=True)
class Proposal:
    """A PROPOSAL vote, with the POL for (valid_round, hash) iff valid_round ≥ 0."""

    vote: Vote
    certificate: Certificate | None

    @property
    def height(self) -> int:
        """The height of the vote."""
        return self.vote.height

    def encode(self) -> bytes:
        """110 bytes, then the certificate if there is one."""
        return self.vote.encode() + (self.certificate.encode() if self.certificate else b"")

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """A PROPOSAL body.

        Raises:
            InvalidMessage: no proposal vote, or a certificate missing, superfluous or of another
                height, round, type or hash than the vote cites (C22).
        """
        reader = MessageReader(body)
        vote = Vote.read(reader)
        if vote.type is not VoteType.PROPOSAL:
            raise InvalidMessage("vote in a proposal frame")
        certificate = Certificate.read(reader) if vote.valid_round >= 0 else None
        reader.done()
        if certificate is not None and not is_pol_for(vote, certificate):
            raise InvalidMessage("certificate is not the one cited")
        return cls(vote, certificate)


def is_pol_for(vote: Vote, certificate: Certificate) -> bool:
    """Whether the certificate is POL(vote.valid_round, vote.block_hash) of the vote's height."""
    return (
        certificate.type is VoteType.PREVOTE
        and certificate.height == vote.height
        and certificate.round == vote.valid_round
        and certificate.block_hash == vote.block_hash
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockMessage:
    """A proposed block: `data` is the block with an empty signblock witness."""

    height: int
    block_hash: bytes
    data: bytes

    def encode(self) -> bytes:
        """36 bytes and the block."""
        return struct.pack("<I32s", self.height, self.block_hash) + self.data

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Any body of 37 bytes or more; whether the bytes hash to the name is for the shell.

        Raises:
            InvalidMessage: no block bytes, or too many.
        """
        reader = MessageReader(body)
        height, block_hash = reader.u32(), reader.hash()
        if not 0 < reader.left <= BLOCK_MAX_BYTES:
            raise InvalidMessage("block size out of range")
        return cls(height=height, block_hash=block_hash, data=reader.take(reader.left))


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSignature:
    """A BLOCKSIG: ECDSA over the block hash, 64 bytes r ‖ s, released after the decision (C36)."""

    height: int
    block_hash: bytes
    member: int
    signature: bytes

    def encode(self) -> bytes:
        """101 bytes."""
        return _BLOCKSIG.pack(self.height, self.block_hash, self.member, self.signature)

    @classmethod
    def read(cls, reader: MessageReader) -> Self:
        """The next 101 bytes.

        Raises:
            InvalidMessage: truncated, member out of range.
        """
        height, block_hash, member, signature = _BLOCKSIG.unpack(reader.take(_BLOCKSIG.size))
        if block_hash == NIL:
            raise InvalidMessage("block signature of nil")
        return cls(
            height=height, block_hash=block_hash, member=_member(member), signature=signature
        )

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """A whole BLOCKSIG body.

        Raises:
            InvalidMessage: see `read`; or trailing bytes.
        """
        reader = MessageReader(body)
        block_signature = cls.read(reader)
        reader.done()
        return block_signature


def vote_type(value: int) -> VoteType:
    """A type byte as its name.

    Raises:
        InvalidMessage: not 1 to 3.
    """
    if not 1 <= value <= 3:
        raise InvalidMessage("unknown vote type")
    return VoteType(value)


def _member(value: int) -> int:
    if value >= MEMBERS_MAX:
        raise InvalidMessage("member out of range")
    return value
