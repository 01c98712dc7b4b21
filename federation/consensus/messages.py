"""Messages of the agreement: what is signed, and the one byte form of each frame.

Every decoder consumes exactly the body and refuses any other form with `InvalidMessage`. Nothing
here verifies a signature: the shell does, before the core sees a message. Hashes are 32 bytes in
internal order, signatures 64 bytes (BIP340, or r ‖ s for BLOCKSIG), members indexes into the set of
the message's height.

Source: consensus:2, consensus:4.7, consensus:4.8.
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
    framed,
    tagged_hash,
)
from federation.consensus.votes import (
    NO_SIGNATURE,
    BlockMessage,
    BlockSignature,
    Certificate,
    Proposal,
    Vote,
    VoteType,
    is_pol_for,
    vote_type,
)
from federation.members import MEMBERS_MAX

__all__ = [
    "FRAME_LIMITS_BYTES",
    "GET_FINAL_MAX_BLOCKS",
    "NIL",
    "NO_SIGNATURE",
    "Answer",
    "BlockMessage",
    "BlockSignature",
    "Certificate",
    "Evidence",
    "EvidenceClass",
    "FrameKind",
    "GetBlock",
    "GetCertificate",
    "GetFinal",
    "InvalidMessage",
    "Message",
    "Proposal",
    "RollCall",
    "Status",
    "StatusFlag",
    "Vote",
    "VoteType",
    "decode_message",
    "encode_message",
    "is_pol_for",
]

ROLLCALL_TAG: Final = "fedchain/rollcall/1"
GET_FINAL_MAX_BLOCKS: Final = 16

_STATUS_HEAD = struct.Struct("<I32siBiB32sIII")
_POSITION = struct.Struct("<iB")
_ANSWER_SIGNED = struct.Struct("<I32sBIiB")


class StatusFlag(IntEnum):
    """Bits of STATUS.flags."""

    COMMIT_HELD = 1
    PROPOSAL_HELD = 2
    BLOCK_HELD = 4
    ABSTAINING = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a member holds at its height; unsigned, and never changes consensus state (C50).

    `step` is WAIT 0, PROPOSE 1, PREVOTE 2, PRECOMMIT 3, DECIDED 4. Bitmaps have bit i for member i.
    `positions` has one (round, type) for each member of the height, (−1, 0) where none is known.
    """

    height: int
    tip_hash: bytes
    round: int
    step: int
    valid_round: int
    flags: int
    decided_hash: bytes
    block_signatures: int
    prevotes: int
    precommits: int
    positions: tuple[tuple[int, int], ...]

    def encode(self) -> bytes:
        """90 bytes and 5 for each member."""
        head = _STATUS_HEAD.pack(
            self.height,
            self.tip_hash,
            self.round,
            self.step,
            self.valid_round,
            self.flags,
            self.decided_hash,
            self.block_signatures,
            self.prevotes,
            self.precommits,
        )
        return head + b"".join(_POSITION.pack(*position) for position in self.positions)

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """A whole STATUS body; the number of positions follows from its length.

        Raises:
            InvalidMessage: a length that is no whole number of members, a field out of range.
        """
        reader = MessageReader(body)
        fields = _STATUS_HEAD.unpack(reader.take(_STATUS_HEAD.size))
        height, tip_hash, round_number, step, valid_round, flags, decided_hash = fields[:7]
        if round_number < -1 or step > 4 or flags > 15:
            raise InvalidMessage("status field out of range")
        if valid_round < -1 or valid_round > max(round_number, -1):
            raise InvalidMessage("valid round out of range")
        bitmaps = fields[7:]
        if any(bitmap >> MEMBERS_MAX for bitmap in bitmaps):
            raise InvalidMessage("bitmap out of range")
        if reader.left > MEMBERS_MAX * _POSITION.size:
            raise InvalidMessage("too many positions")
        if reader.left % _POSITION.size:
            raise InvalidMessage("truncated")
        positions = tuple(_POSITION.iter_unpack(reader.take(reader.left)))
        for at_round, at_type in positions:
            if not (at_round >= 0 and 1 <= at_type <= 3) and (at_round, at_type) != (-1, 0):
                raise InvalidMessage("position out of range")
        return cls(
            height=height,
            tip_hash=tip_hash,
            round=round_number,
            step=step,
            valid_round=valid_round,
            flags=flags,
            decided_hash=decided_hash,
            block_signatures=bitmaps[0],
            prevotes=bitmaps[1],
            precommits=bitmaps[2],
            positions=positions,
        )


@dataclass(frozen=True, slots=True)
class GetBlock:
    """Asks for the bytes of a proposed block; answered with BLOCK or not at all."""

    height: int
    block_hash: bytes

    def encode(self) -> bytes:
        """36 bytes."""
        return struct.pack("<I32s", self.height, self.block_hash)

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """A whole GET_BLOCK body.

        Raises:
            InvalidMessage: another length.
        """
        reader = MessageReader(body)
        message = cls(reader.u32(), reader.hash())
        reader.done()
        return message


@dataclass(frozen=True, slots=True)
class GetFinal:
    """Asks for `count` (1 to 16) final blocks from height `from_height` on."""

    from_height: int
    count: int

    def encode(self) -> bytes:
        """5 bytes."""
        return struct.pack("<IB", self.from_height, self.count)

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """A whole GET_FINAL body.

        Raises:
            InvalidMessage: another length, or a count outside 1 to 16.
        """
        reader = MessageReader(body)
        message = cls(reader.u32(), reader.u8())
        reader.done()
        if not 1 <= message.count <= GET_FINAL_MAX_BLOCKS:
            raise InvalidMessage("block count out of range")
        return message


@dataclass(frozen=True, slots=True)
class RollCall:
    """Asks what the answerer knows of the asker; the nonce (32 bytes) is fresh (C71)."""

    asker_key: bytes
    nonce: bytes

    def encode(self) -> bytes:
        """64 bytes."""
        return self.asker_key + self.nonce

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """A whole ROLLCALL body.

        Raises:
            InvalidMessage: another length.
        """
        reader = MessageReader(body)
        message = cls(reader.hash(), reader.hash())
        reader.done()
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer to a roll-call.

    `known` is the highest height for which the answerer released a BLOCKSIG or holds the final
    block; `proof` is that block's header (bytes, witness included), a COMMIT certificate, or None
    iff known is 0. `seen` is the highest message of the asker that the answerer has seen.
    `answerer_key` is x-only; the signature is BIP340 under it. The nonce is not repeated.
    """

    known: int
    known_hash: bytes
    abstaining: bool
    answerer_key: bytes
    signature: bytes
    proof: bytes | Certificate | None
    seen: Vote | BlockSignature | None

    @property
    def seen_fields(self) -> tuple[int, int, int]:
        """(height, round, type) of `seen`; (0, −1, 0) for none, type 4 with round −1 for BLOCKSIG.

        Consensus:2.1 does not say how a BLOCKSIG is named here; 4 sorts it after every vote.
        """
        match self.seen:
            case None:
                return 0, -1, 0
            case Vote() as vote:
                return vote.height, vote.round, vote.type
            case BlockSignature() as block_signature:
                return block_signature.height, -1, 4

    def _signed_fields(self) -> bytes:
        return _ANSWER_SIGNED.pack(self.known, self.known_hash, self.abstaining, *self.seen_fields)

    def signed_payload(self, genesis: bytes, asker_key: bytes, nonce: bytes) -> bytes:
        """The 142 bytes of consensus:2.1; all arguments 32 bytes, the key x-only."""
        return genesis + asker_key + nonce + self._signed_fields()

    def digest(self, genesis: bytes, asker_key: bytes, nonce: bytes) -> bytes:
        """The 32 bytes that BIP340 signs, with the answerer's block key."""
        return tagged_hash(ROLLCALL_TAG, self.signed_payload(genesis, asker_key, nonce))

    def encode(self) -> bytes:
        """142 bytes, then proof and seen message, each behind a byte that says which."""
        match self.proof:
            case None:
                proof = b"\0"
            case Certificate() as certificate:
                proof = b"\2" + certificate.encode()
            case header:
                proof = b"\1" + header
        match self.seen:
            case None:
                seen = b"\0"
            case Vote() as vote:
                seen = b"\1" + vote.encode()
            case BlockSignature() as block_signature:
                seen = b"\2" + block_signature.encode()
        return self._signed_fields() + self.answerer_key + self.signature + proof + seen

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """A whole ANSWER body.

        Raises:
            InvalidMessage: proof missing, superfluous, of another height or hash than `known`
                (for a certificate; a header is judged by the shell), or a seen message that is
                not the one the signed fields name.
        """
        reader = MessageReader(body)
        signed = reader.take(_ANSWER_SIGNED.size)
        known, known_hash, abstaining = _ANSWER_SIGNED.unpack(signed)[:3]
        if abstaining > 1:
            raise InvalidMessage("flag is neither 0 nor 1")
        key, signature = reader.hash(), reader.signature()
        answer = cls(
            known=known,
            known_hash=known_hash,
            abstaining=abstaining == 1,
            answerer_key=key,
            signature=signature,
            proof=_read_proof(reader, known, known_hash),
            seen=_read_seen(reader),
        )
        reader.done()
        if answer._signed_fields() != signed:
            raise InvalidMessage("seen message is not the one named")
        return answer


def _read_proof(reader: MessageReader, known: int, known_hash: bytes) -> bytes | Certificate | None:
    kind = reader.u8()
    if kind > 2:
        raise InvalidMessage("unknown proof")
    if (kind == 0) != (known == 0):
        raise InvalidMessage("proof and known height do not match")
    if kind == 0:
        return None
    if kind == 1:
        return reader.header()
    certificate = Certificate.read(reader)
    if (certificate.type, certificate.height, certificate.block_hash) != (
        VoteType.PRECOMMIT,
        known,
        known_hash,
    ):
        raise InvalidMessage("certificate does not prove the known block")
    return certificate


def _read_seen(reader: MessageReader) -> Vote | BlockSignature | None:
    kind = reader.u8()
    if kind > 2:
        raise InvalidMessage("unknown seen message")
    if kind == 0:
        return None
    return Vote.read(reader) if kind == 1 else BlockSignature.read(reader)


class EvidenceClass(IntEnum):
    """The three conflicts of C56."""

    DOUBLE_VOTE = 1
    TWO_BLOCKS = 2
    AMNESIA = 3


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two conflicting messages, whole (C56).

    DOUBLE_VOTE and AMNESIA hold two votes of 110 bytes, the precommit first in AMNESIA. TWO_BLOCKS
    holds BLOCKSIG bodies (101 bytes) or headers that carry the accused member's signature.
    """

    kind: EvidenceClass
    first: bytes
    second: bytes

    def encode(self) -> bytes:
        """Class byte and two length-framed bodies."""
        return bytes((self.kind,)) + framed(self.first) + framed(self.second)

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """A whole EVIDENCE body; whether it convicts anyone is for `evidence.accused`.

        Raises:
            InvalidMessage: unknown class, bad framing, or bodies that cannot be its messages.
        """
        reader = MessageReader(body)
        kind = reader.u8()
        if kind not in (1, 2, 3):
            raise InvalidMessage("unknown evidence class")
        evidence = cls(EvidenceClass(kind), reader.framed(), reader.framed())
        reader.done()
        return evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class GetCertificate:
    """Asks for a POL (PREVOTE) or COMMIT (PRECOMMIT) certificate, of any height still kept."""

    type: VoteType
    height: int
    round: int
    block_hash: bytes

    def encode(self) -> bytes:
        """41 bytes."""
        return struct.pack("<BII32s", self.type, self.height, self.round, self.block_hash)

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """A whole GET_CERT body.

        Raises:
            InvalidMessage: another length or type.
        """
        reader = MessageReader(body)
        said = vote_type(reader.u8())
        message = cls(type=said, height=reader.u32(), round=reader.u32(), block_hash=reader.hash())
        reader.done()
        if said is VoteType.PROPOSAL or message.round >= ROUND_LIMIT:
            raise InvalidMessage("no such certificate")
        return message


Message = (
    Vote
    | Proposal
    | BlockMessage
    | Certificate
    | BlockSignature
    | Status
    | GetBlock
    | GetFinal
    | RollCall
    | Answer
    | Evidence
    | GetCertificate
)

_KIND_OF: Final[dict[type, FrameKind]] = {
    Vote: FrameKind.VOTE,
    Proposal: FrameKind.PROPOSAL,
    BlockMessage: FrameKind.BLOCK,
    Certificate: FrameKind.CERT,
    BlockSignature: FrameKind.BLOCKSIG,
    Status: FrameKind.STATUS,
    GetBlock: FrameKind.GET_BLOCK,
    GetFinal: FrameKind.GET_FINAL,
    RollCall: FrameKind.ROLLCALL,
    Answer: FrameKind.ANSWER,
    Evidence: FrameKind.EVIDENCE,
    GetCertificate: FrameKind.GET_CERT,
}
_CLASS_OF: Final = {kind: cls for cls, kind in _KIND_OF.items()}


def encode_message(message: Message) -> tuple[FrameKind, bytes]:
    """Frame kind and body of a message."""
    return _KIND_OF[type(message)], message.encode()


def decode_message(kind: int, body: bytes) -> Message:
    """The message of a frame of kinds 1 to 8 and 10 to 13; FINAL is a block, the shell's to read.

    Raises:
        InvalidMessage: a body that is not exactly one message of that kind, or another kind.
    """
    try:
        message_class = _CLASS_OF[FrameKind(kind)]
    except (KeyError, ValueError):
        raise InvalidMessage("not a consensus message") from None
    if len(body) > FRAME_LIMITS_BYTES[kind]:
        raise InvalidMessage("body above the limit of its kind")
    message: Message = message_class.decode(body)  # type: ignore[attr-defined]
    return message
