"""What a member and its signer process say to each other: kinds, limits, bodies.

Frames are those of member links (body length u32, kind u8, body); all integers little-endian. The
member asks, the signer answers every request with one reply, in order.

Source: consensus:9, consensus:2.2, N31; docs/signer.md.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from federation.consensus.encoding import ROUND_LIMIT, InvalidMessage, MessageReader
from federation.consensus.messages import Answer
from federation.consensus.votes import NO_SIGNATURE, Certificate, Vote, vote_type

SIGNER_PROTOCOL: Final = 1
HEADERS_MAX: Final = 64
HEADERS_MAX_BYTES: Final = 1_000_000
SCRIPT_MAX_BYTES: Final = 1_000
REASON_MAX_BYTES: Final = 500
PEG_FRAME_MAX_BYTES: Final = 65_536
_PAYLOAD = struct.Struct("<32s32sBIIi32s")
_ANSWER = struct.Struct("<32s32sI32sBIiB")
_FACTS = struct.Struct("<I33s33sIiBI32sIBI32sI")
_COUNTER = struct.Struct("<Q")
SIGNATURE_SIZE_BYTES: Final = 64


class Ask(IntEnum):
    """Kind byte of a request."""

    HELLO = 1
    SIGN_VOTE = 2
    SIGN_BLOCK = 3
    ANSWER = 4
    ADVANCE = 5
    SIGN_PEG = 6
    SIGN_FRAME = 7
    SIGN_MESSAGE = 8
    HALT = 9
    UNHALT = 10
    ABSTAIN = 11
    REFUSE_BELOW = 12
    RESUME_AT = 13
    STATUS = 14


class Reply(IntEnum):
    """Kind byte of a reply. REFUSED: a rule forbids it. FAILED: the signer cannot go on."""

    DONE = 65
    REFUSED = 66
    FAILED = 67


ASK_LIMITS_BYTES: Final[dict[int, int]] = {
    Ask.HELLO: 36,
    Ask.SIGN_VOTE: 109 + 1_430,
    Ask.SIGN_BLOCK: 36 + 1_430,
    Ask.ANSWER: 110,
    Ask.ADVANCE: HEADERS_MAX_BYTES,
    Ask.SIGN_PEG: 262_144,
    Ask.SIGN_FRAME: PEG_FRAME_MAX_BYTES + 1,
    Ask.SIGN_MESSAGE: PEG_FRAME_MAX_BYTES,
    Ask.HALT: 0,
    Ask.UNHALT: 0,
    Ask.ABSTAIN: 0,
    Ask.REFUSE_BELOW: 4,
    Ask.RESUME_AT: 4,
    Ask.STATUS: 0,
}
REPLY_LIMITS_BYTES: Final[dict[int, int]] = {
    Reply.DONE: 8 + 65_536,
    Reply.REFUSED: 8 + REASON_MAX_BYTES,
    Reply.FAILED: 8 + REASON_MAX_BYTES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerFacts:
    """What a signer says of itself: the reply to HELLO and STATUS.

    Attributes:
        position: highest voted (height, round, type); (0, −1, 0) for none.
        block_signature: height and hash of the last block signed; (0, NIL) for none.
        vote_from: no vote below this height.
        abstains: no vote at all until it is told from which height on.
        tip_height: the last block whose header it has verified; it votes on the next one.
        pid: of its process.
    """

    block_key: bytes
    peg_key: bytes
    position: tuple[int, int, int]
    block_signature: tuple[int, bytes]
    vote_from: int
    halted: bool
    abstains: bool
    tip_height: int
    tip_hash: bytes
    pid: int

    def encode(self) -> bytes:
        """The body behind the counter."""
        return _FACTS.pack(
            SIGNER_PROTOCOL,
            self.block_key,
            self.peg_key,
            *self.position,
            *self.block_signature,
            self.vote_from,
            self.halted | self.abstains << 1,
            self.tip_height,
            self.tip_hash,
            self.pid,
        )

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Inverse of `encode`.

        Raises:
            InvalidMessage: another length, version or flag.
        """
        if len(body) != _FACTS.size:
            raise InvalidMessage("facts of another length")
        version, block_key, peg_key, *rest = _FACTS.unpack(body)
        height, round_number, kind, signed_height, signed_hash, vote_from, flags, *tip = rest
        if version != SIGNER_PROTOCOL:
            raise InvalidMessage(f"the signer speaks version {version}, not {SIGNER_PROTOCOL}")
        if flags > 3:
            raise InvalidMessage("unknown flag")
        return cls(
            block_key=block_key,
            peg_key=peg_key,
            position=(height, round_number, kind),
            block_signature=(signed_height, signed_hash),
            vote_from=vote_from,
            halted=bool(flags & 1),
            abstains=bool(flags & 2),
            tip_height=tip[0],
            tip_hash=tip[1],
            pid=tip[2],
        )


@dataclass(frozen=True, slots=True)
class VoteOrder:
    """SIGN_VOTE: the 109 bytes P of consensus:2.1, taken apart, and the POL that allows it."""

    genesis: bytes
    params_root: bytes
    vote: Vote
    certificate: Certificate | None

    def encode(self) -> bytes:
        """P, then the certificate if there is one."""
        tail = b"" if self.certificate is None else self.certificate.encode()
        return self.vote.signed_payload(self.genesis, self.params_root) + tail

    @classmethod
    def decode(cls, body: bytes, member: int) -> Self:
        """Read a body.

        Args:
            member: index of the key that is to sign; P does not name it.
        Raises:
            InvalidMessage: no statement that is ever signed, or bytes that are no certificate.
        """
        reader = MessageReader(body)
        genesis, root, kind, height, round_number, valid_round, block_hash = _PAYLOAD.unpack(
            reader.take(_PAYLOAD.size)
        )
        if round_number >= ROUND_LIMIT:
            raise InvalidMessage("round out of range")
        # one reader decides which combinations are ever signed
        whole = Vote(
            type=vote_type(kind),
            height=height,
            round=round_number,
            valid_round=valid_round,
            block_hash=block_hash,
            member=member,
            signature=NO_SIGNATURE,
        )
        vote = Vote.read(MessageReader(whole.encode()))
        certificate = Certificate.read(reader) if reader.left else None
        reader.done()
        return cls(genesis, root, vote, certificate)


@dataclass(frozen=True, slots=True)
class BlockOrder:
    """SIGN_BLOCK: a decided block and the COMMIT certificate that decided it."""

    height: int
    block_hash: bytes
    certificate: Certificate

    def encode(self) -> bytes:
        """36 bytes and the certificate."""
        return self.height.to_bytes(4, "little") + self.block_hash + self.certificate.encode()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Inverse of `encode`; raises InvalidMessage."""
        reader = MessageReader(body)
        order = cls(reader.u32(), reader.hash(), Certificate.read(reader))
        reader.done()
        return order


@dataclass(frozen=True, slots=True)
class AnswerOrder:
    """ANSWER: the signed fields of a roll-call answer, and whom it answers."""

    asker_key: bytes
    nonce: bytes
    known: int
    known_hash: bytes
    abstaining: bool
    seen: tuple[int, int, int]

    def encode(self) -> bytes:
        """110 bytes."""
        return _ANSWER.pack(
            self.asker_key, self.nonce, self.known, self.known_hash, self.abstaining, *self.seen
        )

    @classmethod
    def of(cls, answer: Answer, asker_key: bytes, nonce: bytes) -> Self:
        """The fields of an answer that is to be signed."""
        return cls(
            asker_key, nonce, answer.known, answer.known_hash, answer.abstaining, answer.seen_fields
        )

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Inverse of `encode`; raises InvalidMessage."""
        if len(body) != _ANSWER.size:
            raise InvalidMessage("answer of another length")
        asker, nonce, known, known_hash, abstaining, *seen = _ANSWER.unpack(body)
        if abstaining > 1 or seen[2] > 4:
            raise InvalidMessage("field out of range")
        return cls(asker, nonce, known, known_hash, bool(abstaining), (seen[0], seen[1], seen[2]))


@dataclass(frozen=True, slots=True)
class Advance:
    """ADVANCE: consecutive headers, signblock witnesses included, and member scripts to come.

    A script is believed only where its hash is the program that a header demands.
    """

    headers: tuple[bytes, ...]
    scripts: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """Counted, each behind its length."""
        parts = [len(self.headers).to_bytes(2, "little")]
        parts += [len(data).to_bytes(4, "little") + data for data in self.headers]
        parts.append(bytes((len(self.scripts),)))
        parts += [len(data).to_bytes(4, "little") + data for data in self.scripts]
        return b"".join(parts)

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Inverse of `encode`; raises InvalidMessage."""
        reader = MessageReader(body)
        count = int.from_bytes(reader.take(2), "little")
        if count > HEADERS_MAX:
            raise InvalidMessage(f"more than {HEADERS_MAX} headers")
        headers = tuple(reader.framed() for _ in range(count))
        scripts = tuple(reader.framed() for _ in range(reader.u8()))
        if any(len(script) > SCRIPT_MAX_BYTES for script in scripts):
            raise InvalidMessage("script too long")
        reader.done()
        return cls(headers, scripts)


@dataclass(frozen=True, slots=True)
class Tip:
    """Reply to ADVANCE: the last header that was verified, and D of the height after it."""

    height: int
    block_hash: bytes
    params_root: bytes

    def encode(self) -> bytes:
        """68 bytes."""
        return self.height.to_bytes(4, "little") + self.block_hash + self.params_root

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Inverse of `encode`; raises InvalidMessage."""
        reader = MessageReader(body)
        tip = cls(reader.u32(), reader.hash(), reader.hash())
        reader.done()
        return tip


def encode_signatures(signatures: tuple[bytes, ...]) -> bytes:
    """Reply to SIGN_PEG: count u16, then each behind its length u8."""
    parts = [bytes((len(signature),)) + signature for signature in signatures]
    return len(parts).to_bytes(2, "little") + b"".join(parts)


def decode_signatures(body: bytes) -> tuple[bytes, ...]:
    """Inverse of `encode_signatures`; raises InvalidMessage."""
    reader = MessageReader(body)
    count = int.from_bytes(reader.take(2), "little")
    signatures = tuple(reader.take(reader.u8()) for _ in range(count))
    reader.done()
    return signatures


def encode_reply(counter: int, payload: bytes) -> bytes:
    """A reply's body: c, then what belongs to the request, or the reason as UTF-8."""
    return _COUNTER.pack(counter) + payload


def decode_reply(body: bytes) -> tuple[int, bytes]:
    """Counter and payload of a reply; raises InvalidMessage."""
    if len(body) < _COUNTER.size:
        raise InvalidMessage("reply without a counter")
    return int(_COUNTER.unpack_from(body)[0]), body[_COUNTER.size :]


def reason_bytes(reason: str) -> bytes:
    """A reason as it is sent, cut at the limit."""
    return reason.encode(errors="replace")[:REASON_MAX_BYTES]
