"""Signatures of the agreement's messages, checked before the core sees them.

A signature that was found good is remembered by a hash over every input of the check, each framed
by its length, so that a certificate made of votes already seen costs nothing. Bad ones are never
remembered.

Source: consensus:2.1, consensus:C11, consensus:C22, consensus:C95, N14.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from federation.consensus.encoding import InvalidMessage, MessageReader
from federation.consensus.messages import Answer, Evidence, EvidenceClass, Message
from federation.consensus.votes import BlockSignature, Certificate, Proposal, Vote
from federation.members import Member, MemberSet
from sidechain.crypto.hashes import sha256
from sidechain.crypto.keys import compact_to_der, ecdsa_verify, is_low_s, schnorr_verify
from sidechain.errors import InvalidEncoding

REMEMBERED_SIGNATURES_MAX: Final = 20_000
_SCHNORR: Final = b"schnorr"
_ECDSA: Final = b"ecdsa"


@dataclass(frozen=True, slots=True)
class Checked:
    """Outcome of a check: `good`, and how many curve operations it took (C95)."""

    good: bool
    operations: int


class SignatureScheme(Protocol):
    """The two checks a signature can need; the simulator has one without curve operations."""

    def is_schnorr(self, key: bytes, signature: bytes, message: bytes) -> bool:
        """Whether an x-only key of 32 bytes signed 32 bytes (BIP340)."""
        ...

    def is_ecdsa(self, key: bytes, signature: bytes, message: bytes) -> bool:
        """Whether a key of 33 bytes signed 32 bytes; the signature is r ‖ s."""
        ...


class CurveSignatures:
    """The signatures of consensus:2.1."""

    def is_schnorr(self, key: bytes, signature: bytes, message: bytes) -> bool:
        """BIP340."""
        return schnorr_verify(key, signature, message)

    def is_ecdsa(self, key: bytes, signature: bytes, message: bytes) -> bool:
        """ECDSA, 64 bytes r ‖ s."""
        try:
            return ecdsa_verify(key, compact_to_der(signature), message)
        except (InvalidEncoding, ValueError):
            return False


class MessageVerifier:
    """Checks signatures under the member set and parameters of the height in progress.

    Args:
        genesis: 32 bytes, internal order.
        remembered_max: how many good signatures are remembered; 0 switches the memory off.
        scheme: how one signature is checked.
    """

    def __init__(
        self,
        genesis: bytes,
        remembered_max: int = REMEMBERED_SIGNATURES_MAX,
        scheme: SignatureScheme | None = None,
    ) -> None:
        self._genesis = genesis
        self._scheme = scheme or CurveSignatures()
        self._remembered_max = remembered_max
        self._good: dict[bytes, None] = {}
        self._operations = 0
        self._members: MemberSet | None = None
        self._params_root = bytes(32)

    def begin_height(self, members: MemberSet, params_root: bytes) -> None:
        """Use the member set and D_h of the height that starts (C80, C82)."""
        self._members, self._params_root = members, params_root

    def check(self, message: Message) -> Checked:
        """Whether every signature in a message of the height in progress verifies.

        Messages that carry no signature are good. An ANSWER needs `check_answer`.
        """
        self._operations = 0
        match message:
            case Vote():
                good = self._vote(message)
            case Proposal(vote, certificate):
                good = self._vote(vote) and (certificate is None or self._certificate(certificate))
            case Certificate():
                good = self._certificate(message)
            case BlockSignature():
                good = self._block_signature(message)
            case Evidence():
                good = self._evidence(message)
            case Answer():
                good = False
            case _:
                good = True
        return Checked(good, self._operations)

    def check_answer(
        self,
        answer: Answer,
        asker_key: bytes,
        nonce: bytes,
        at: Callable[[int], "MessageVerifier"] | None = None,
    ) -> Checked:
        """Signatures of a roll-call answer: its own, its certificate's, its seen message's (C71).

        The seen message must be the asker's: another member's vote says nothing about the asker. A
        header given as proof is for the caller to judge.

        Args:
            asker_key, nonce: 32 bytes each.
            at: by whom something of another height is checked: seen message and certificate may be
                from before a border (C86). Without it by this verifier.
        """
        self._operations = 0
        digest = answer.digest(self._genesis, asker_key, nonce)
        good = self._set().index_of(answer.answerer_key) is not None and self._signed(
            _SCHNORR, answer.answerer_key, answer.signature, digest
        )
        if good and isinstance(answer.proof, Certificate):
            good = self._of_height(answer.proof.height, at)._certificate(answer.proof)
        if good and answer.seen is not None:
            good = self._of_height(answer.seen.height, at)._is_by(answer.seen, asker_key)
        return Checked(good, self._operations)

    def _of_height(
        self, height: int, at: Callable[[int], "MessageVerifier"] | None
    ) -> "MessageVerifier":
        return self if at is None else at(height)

    def _is_by(self, said: Vote | BlockSignature, vote_key: bytes) -> bool:
        """Whether the member with a key said it."""
        member = self._member(said.member)
        return member is not None and member.vote_key == vote_key and self._statement(said)

    def check_message(self, member: int, digest: bytes, signature: bytes) -> Checked:
        """A BIP340 signature of a member's block key over a tagged hash (kinds 18 to 23, N15)."""
        self._operations = 0
        found = self._member(member)
        good = found is not None and self._signed(_SCHNORR, found.vote_key, signature, digest)
        return Checked(good, self._operations)

    # -- kinds of message

    def _vote(self, vote: Vote) -> bool:
        member = self._member(vote.member)
        if member is None:
            return False
        digest = vote.digest(self._genesis, self._params_root)
        return self._signed(_SCHNORR, member.vote_key, vote.signature, digest)

    def _certificate(self, certificate: Certificate) -> bool:
        if not certificate.is_complete(self._set().k):
            return False
        return all(self._vote(vote) for vote in certificate.as_votes())

    def _statement(self, said: Vote | BlockSignature) -> bool:
        return self._vote(said) if isinstance(said, Vote) else self._block_signature(said)

    def _block_signature(self, said: BlockSignature) -> bool:
        member = self._member(said.member)
        if member is None or not is_low_s(said.signature):
            return False
        return self._signed(_ECDSA, member.block_key, said.signature, said.block_hash)

    def _evidence(self, evidence: Evidence) -> bool:
        if evidence.kind is EvidenceClass.TWO_BLOCKS:
            read: type[BlockSignature] | type[Vote] = BlockSignature
            if len(evidence.first) != 101 or len(evidence.second) != 101:
                return False  # headers as evidence: judged where headers are parsed
        else:
            read = Vote
        messages = [_decode_statement(read, body) for body in (evidence.first, evidence.second)]
        return all(message is not None and self._statement(message) for message in messages)

    # -- one signature

    def _signed(self, scheme: bytes, key: bytes, signature: bytes, message: bytes) -> bool:
        name = sha256(
            b"".join(len(x).to_bytes(4, "little") + x for x in (scheme, key, signature, message))
        )
        if name in self._good:
            return True
        self._operations += 1
        if scheme == _SCHNORR:
            good = self._scheme.is_schnorr(key, signature, message)
        else:
            good = self._scheme.is_ecdsa(key, signature, message)
        if good and self._remembered_max:
            if len(self._good) >= self._remembered_max:
                del self._good[next(iter(self._good))]
            self._good[name] = None
        return good

    def _member(self, index: int) -> Member | None:
        members = self._set().members
        return members[index] if index < len(members) else None

    def _set(self) -> MemberSet:
        if self._members is None:
            raise ValueError("no height has begun")
        return self._members


def _decode_statement(
    kind: type[BlockSignature] | type[Vote], body: bytes
) -> BlockSignature | Vote | None:
    reader = MessageReader(body)
    try:
        statement = kind.read(reader)
        reader.done()
    except InvalidMessage:
        return None
    return statement
