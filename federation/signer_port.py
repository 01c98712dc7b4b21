"""What a member asks of the keeper of its keys, wherever that lives, and how it can fail.

Source: consensus:9, N31.
"""

from typing import Protocol

from federation.consensus.messages import Answer
from federation.consensus.votes import BlockSignature, Certificate, Vote
from federation.members import MemberSet
from peg.payments import Payment
from sidechain.errors import Unavailable


class SignerRefused(Unavailable):
    """The guard does not allow this signature; nothing was signed. `reason` says which rule."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SignerFailed(Exception):
    """Keys or guard cannot be used: missing, damaged, in use, or the disk refused (C40)."""


class SignerBusy(SignerFailed):
    """Another signer has the state open: a second one with one key is forbidden (R7)."""


class SignerUnreachable(Unavailable):
    """The signer process does not answer now; what it was asked for may come later."""


class MemberSigner(Protocol):
    """What a member asks of the keeper of its keys.

    Met by `Signer` in the same process, and by `federation.signer_client` for a process of its own;
    there every method may raise SignerUnreachable too.
    """

    @property
    def block_key(self) -> bytes:
        """Public block key, 33 bytes."""
        ...

    @property
    def counter(self) -> int:
        """How many new signatures were let out."""
        ...

    @property
    def position(self) -> tuple[int, int, int]:
        """(height, round, type) of the highest vote signed."""
        ...

    @property
    def block_signature(self) -> tuple[int, bytes] | None:
        """Height and hash of the last block signed."""
        ...

    @property
    def abstains(self) -> bool:
        """Whether no vote is signed until a height to vote from is set."""
        ...

    def begin_height(self, members: MemberSet, params_root: bytes) -> None:
        """A height begins under this member set and D_h."""
        ...

    def abstain(self) -> None:
        """Sign no vote until a height to vote from is set (R6)."""
        ...

    def refuse_below(self, height: int) -> None:
        """Sign no vote below this height (C72)."""
        ...

    def resume_at(self, height: int) -> None:
        """Sign votes from this height on, by an operator's command (C76)."""
        ...

    def sign_vote(self, vote: Vote, certificate: Certificate | None) -> Vote:
        """Sign a vote (R2, R3)."""
        ...

    def sign_block_hash(
        self, height: int, block_hash: bytes, certificate: Certificate
    ) -> BlockSignature:
        """Sign a decided block (R4)."""
        ...

    def sign_rollcall_answer(self, answer: Answer, asker_key: bytes, nonce: bytes) -> Answer:
        """Complete a roll-call answer."""
        ...

    def sign_peg_frame(self, kind: int, body: bytes) -> bytes:
        """The signature that ends a frame of kind 18 to 23."""
        ...

    def sign_message(self, tag: str, message: bytes) -> bytes:
        """A BIP340 signature over a tagged message."""
        ...

    def sign_payment(self, payment: Payment) -> tuple[bytes, ...]:
        """Signatures of the peg key on all inputs."""
        ...

    def halt(self) -> None:
        """Sign nothing but roll-call answers (C60, R8)."""
        ...

    def unhalt(self) -> None:
        """Leave `halt` (N13)."""
        ...

    def close(self) -> None:
        """Sign nothing more."""
        ...
