"""The signer: the only object that holds the block key and the peg key, with a guard of its own.

The guard is a small durable file that says what this key signed last. Whatever the rest of the
process believes, two different votes of one position, a vote against the own lock, or signatures on
two blocks of one height do not leave this object. Every new consensus signature costs one guard
write, durable before the signature is returned.

Source: consensus:R1-R5, consensus:R8, N1, N15, peg:P32, peg:P38.
"""

import fcntl
import os
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from federation.consensus.encoding import NIL, peg_frame_digest
from federation.consensus.messages import ROLLCALL_TAG, Answer
from federation.consensus.votes import (
    BlockSignature,
    Certificate,
    Vote,
    VoteType,
    is_pol_for,
)
from federation.files import FileLayer, read_secret
from federation.members import MemberSet
from federation.secret_key import SecretKey, SigningKey
from federation.signer_guard import Guard, GuardDamaged, load_guard, save_guard
from federation.signer_messages import AnswerOrder
from federation.signer_port import SignerBusy, SignerFailed, SignerRefused
from federation.verification import MessageVerifier
from peg.fedscript import FedScript, key_tweak
from peg.payments import Payment, check_payment
from sidechain.crypto.hashes import tagged_hash
from sidechain.crypto.keys import der_to_compact
from sidechain.errors import InvalidEncoding

__all__ = [
    "GuardStart",
    "Signer",
    "SignerFailed",
    "SignerFiles",
    "SignerRefused",
    "public_key_of",
    "start_guard",
]

MESSAGE_TAGS = frozenset(["fedpeg/msg", "fedpeg/pause", "fedpeg/reserves"])
PEG_FRAME_KINDS = range(18, 24)


class GuardStart(Enum):
    """What the guard file has to be when the signer is opened.

    FRESH: absent or never used; it is made. INTACT: present. RESTORED: whatever is there is moved
    aside and a new one made; the member is Amnesiac (R7).
    """

    FRESH = "fresh"
    INTACT = "intact"
    RESTORED = "restored"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerFiles:
    """Key files (64 hex digits, closed to others) and the guard's file."""

    block_key: Path
    peg_key: Path
    guard: Path


class Signer:
    """Holds both keys. Open with `Signer.open`; call `begin_height` before the first vote."""

    def __init__(
        self,
        *,
        genesis: bytes,
        block_key: SigningKey,
        peg_key: SigningKey,
        script: FedScript | None = None,
        guard_path: Path,
        guard: Guard,
        layer: FileLayer,
        lock: int,
        verifier: MessageVerifier | None = None,
    ) -> None:
        """Use `Signer.open`; who has keys without files uses `start_guard` and this."""
        self._genesis = genesis
        self._block_key = block_key
        self._peg_key = peg_key
        self._script = script
        self._guard_path = guard_path
        self._guard = guard
        self._layer = layer
        self._lock = lock
        self._verifier = verifier or MessageVerifier(genesis, remembered_max=2_000)
        self._members: MemberSet | None = None
        self._params_root = NIL
        self._failed = False

    @classmethod
    def open(
        cls,
        files: SignerFiles,
        *,
        genesis: bytes,
        start: GuardStart,
        block_key: bytes,
        peg_key: bytes,
        script: FedScript,
        layer: FileLayer | None = None,
    ) -> "Signer":
        """Read both keys and the guard.

        Args:
            genesis: 32 bytes, internal order.
            block_key, peg_key: the public keys the federation file gives this member.
            script: the plain fedpegscript.
        Raises:
            SignerFailed: a file is missing, open to others, damaged or in use; a key is not the
                federation file's; the guard is absent (INTACT) or was used before (FRESH).
        """
        layer = layer or FileLayer()
        lock = -1
        try:
            secrets = _read_key(files.block_key), _read_key(files.peg_key)
            files.guard.parent.mkdir(mode=0o700, exist_ok=True)
            lock = os.open(files.guard.parent, os.O_RDONLY | os.O_DIRECTORY)
            _lock(lock, files.guard.parent)
            vote_key = secrets[0].public_key[1:]
            guard = start_guard(layer, files.guard, genesis, vote_key, start)
        except (OSError, GuardDamaged, InvalidEncoding) as error:
            if lock >= 0:
                os.close(lock)
            raise SignerFailed(f"cannot open the signer: {error}") from error
        except SignerFailed:
            os.close(lock)
            raise
        for secret, wanted, path in zip(
            secrets, (block_key, peg_key), (files.block_key, files.peg_key), strict=True
        ):
            if secret.public_key != wanted:
                os.close(lock)
                raise SignerFailed(f"{path} is not the key the federation file names")
        return cls(
            genesis=genesis,
            block_key=secrets[0],
            peg_key=secrets[1],
            script=script,
            guard_path=files.guard,
            guard=guard,
            layer=layer,
            lock=lock,
        )

    def close(self) -> None:
        """Forget the keys and give the lock back; nothing is signed after it."""
        self._failed = True
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # -- what it knows

    @property
    def block_key(self) -> bytes:
        """Public block key, 33 bytes."""
        return self._block_key.public_key

    @property
    def peg_key(self) -> bytes:
        """Public peg key, 33 bytes."""
        return self._peg_key.public_key

    @property
    def counter(self) -> int:
        """How many new signatures the guard has let out."""
        return self._guard.counter

    @property
    def position(self) -> tuple[int, int, int]:
        """(height, round, type) of the highest vote signed; (0, −1, 0) for none."""
        return self._guard.position

    @property
    def block_signature(self) -> tuple[int, bytes] | None:
        """Height and hash of the last block signed."""
        return self._guard.block_signature

    @property
    def has_failed(self) -> bool:
        """Whether nothing is signed any more: closed, or the disk refused (C40)."""
        return self._failed

    @property
    def halted(self) -> bool:
        """Whether `halt` is in force."""
        return self._guard.halted

    # -- agreement

    def begin_height(self, members: MemberSet, params_root: bytes) -> None:
        """Use the member set and D_h of a height, from its verified chain (R1, in-process)."""
        self._members, self._params_root = members, params_root
        self._verifier.begin_height(members, params_root)

    @property
    def abstains(self) -> bool:
        """Whether `abstain` is in force."""
        return self._guard.abstains

    @property
    def vote_from(self) -> int:
        """No vote is signed below this height."""
        return self._guard.vote_from

    def abstain(self) -> None:
        """Sign no vote, over restarts, until a height to vote from is set (R6, C70).

        Raises:
            SignerFailed: the disk refused.
        """
        if not self._guard.abstains:
            self._store(replace(self._guard, abstains=True))

    def refuse_below(self, height: int) -> None:
        """Sign no vote below this height, over restarts (C72). Never lowers the bound.

        Raises:
            SignerFailed: the disk refused.
        """
        height = max(height, self._guard.vote_from)
        if height > self._guard.vote_from or self._guard.abstains:
            self._store(replace(self._guard, vote_from=height, abstains=False))

    def resume_at(self, height: int) -> None:
        """Sign votes from this height on: an operator's command, the only one that may lower the
        bound (C76). What was signed stays signed: no position is signed twice.

        Raises:
            SignerFailed: the disk refused.
        """
        if height != self._guard.vote_from or self._guard.abstains:
            self._store(replace(self._guard, vote_from=height, abstains=False))

    def sign_vote(self, vote: Vote, certificate: Certificate | None) -> Vote:
        """Sign a vote; the same statement may be signed again.

        Args:
            vote: its signature field is ignored.
            certificate: POL(round, hash) for a PRECOMMIT of a block; POL(valid_round, hash) for a
                PREVOTE of a block that is not the locked one.
        Returns:
            The vote with its signature.
        Raises:
            SignerRefused: not allowed. SignerFailed: the guard could not be made durable.
        Source: consensus:R2, consensus:R3.
        """
        self._check_usable()
        if self._set().index_of(self._vote_key) != vote.member:
            raise SignerRefused("the vote is not of this member")
        digest = vote.digest(self._genesis, self._params_root)
        if digest not in self._guard.signed:
            self._store(self._after_vote(vote, certificate, digest))
        return replace(vote, signature=self._block_key.sign_schnorr(digest))

    def sign_block_hash(
        self, height: int, block_hash: bytes, certificate: Certificate
    ) -> BlockSignature:
        """Sign a decided block: one hash a height, heights never go down.

        Args:
            certificate: COMMIT of this block.
        Raises:
            SignerRefused, SignerFailed: as `sign_vote`.
        Source: consensus:R4, consensus:C36.
        """
        self._check_usable()
        member = self._set().index_of(self._vote_key)
        if member is None:
            raise SignerRefused("this key is not in the member set of the height")
        last = self._guard.block_signature
        if last != (height, block_hash):
            if last is not None and height <= last[0]:
                raise SignerRefused(f"a block of height {last[0]} is signed already (R4)")
            named = (certificate.type, certificate.height, certificate.block_hash)
            if named != (VoteType.PRECOMMIT, height, block_hash):
                raise SignerRefused("the certificate is not a COMMIT of this block (R4)")
            self._check_certificate(certificate)
            self._store(
                replace(
                    self._guard,
                    counter=self._guard.counter + 1,
                    block_signature=(height, block_hash),
                )
            )
        signature = der_to_compact(self._block_key.sign_ecdsa(block_hash))
        return BlockSignature(
            height=height, block_hash=block_hash, member=member, signature=signature
        )

    def sign_rollcall_answer(self, answer: Answer, asker_key: bytes, nonce: bytes) -> Answer:
        """Complete a roll-call answer with our key and signature; allowed when halted.

        Args:
            answer: its `answerer_key` and `signature` are ignored.
            asker_key, nonce: 32 bytes each, from the question.
        Raises:
            SignerFailed: the signer is closed or failed before.
        """
        statement = AnswerOrder.of(answer, asker_key, nonce).encode()
        return replace(
            answer, answerer_key=self._vote_key, signature=self.sign_rollcall_statement(statement)
        )

    def sign_rollcall_statement(self, statement: bytes) -> bytes:
        """BIP340 signature over what consensus:2.1 signs of an answer, behind the genesis hash.

        Args:
            statement: 110 bytes, asker key, nonce and the fields.
        Raises:
            SignerFailed: the signer is closed or failed before.
        """
        self._check_usable(when_halted=True)
        return self._block_key.sign_schnorr(tagged_hash(ROLLCALL_TAG, self._genesis + statement))

    # -- peg

    def sign_peg_frame(self, kind: int, body: bytes) -> bytes:
        """BIP340 signature (64 bytes) that ends a frame of kind 18 to 23 (N15).

        Args:
            body: the frame's body without the signature.
        Raises:
            SignerRefused: another kind, or halted. SignerFailed: as `sign_rollcall_answer`.
        """
        self._check_usable()
        if kind not in PEG_FRAME_KINDS:
            raise SignerRefused(f"frames of kind {kind} carry no such signature")
        return self._block_key.sign_schnorr(peg_frame_digest(self._genesis, kind, body))

    def sign_message(self, tag: str, message: bytes) -> bytes:
        """BIP340 signature (64 bytes) by the block key over tagged_hash(tag, message).

        Args:
            tag: "fedpeg/msg", "fedpeg/pause" or "fedpeg/reserves": never one that agreement uses.
        Raises:
            SignerRefused: another tag, or halted. SignerFailed: as `sign_rollcall_answer`.
        """
        self._check_usable()
        if tag not in MESSAGE_TAGS:
            raise SignerRefused(f"messages tagged {tag} are not signed here")
        return self._block_key.sign_schnorr(tagged_hash(tag, message))

    def sign_payment(self, payment: Payment) -> tuple[bytes, ...]:
        """ECDSA signatures of the peg key on every input of a Bitcoin transaction: DER, low S.

        The digests are made here, and only of transactions in the form of a batch or of the trial
        spend. What the chains say (R0, R1, R3, R6 of peg:5) and the peg journal are the caller's.

        Raises:
            SignerRefused: halted, or another form. SignerFailed: closed or failed before.
        Source: peg:P31, peg:P38, consensus:R8.
        """
        self._check_usable()
        if self._script is None:
            raise SignerRefused("this signer has no fedpegscript")
        try:
            check_payment(payment, self._script, self._genesis)
            digests = payment.digests(self._script)
            keys = [self._coin_key(coin.claim_script) for coin in payment.inputs]
        except InvalidEncoding as error:
            raise SignerRefused(str(error)) from error
        return tuple(k.sign_ecdsa(digest) for k, digest in zip(keys, digests, strict=True))

    def _coin_key(self, claim_script: bytes | None) -> SigningKey:
        tweak = key_tweak(self.peg_key, claim_script)
        return self._peg_key if tweak is None else self._peg_key.tweaked(tweak)

    # -- halting

    def halt(self) -> None:
        """Refuse votes, block signatures and every peg signature from now on, over restarts (C60).

        Raises:
            SignerFailed: the disk refused; this process signs nothing more all the same.
        """
        if not self._guard.halted:
            self._store(replace(self._guard, halted=True))

    def unhalt(self) -> None:
        """Leave `halt`: only on an operator's command (N13).

        Raises:
            SignerFailed: the disk refused.
        """
        self._store(replace(self._guard, halted=False))

    # -- guard

    def _after_vote(self, vote: Vote, certificate: Certificate | None, digest: bytes) -> Guard:
        """The guard as it is after this vote; refuses what R2 and R3 refuse."""
        guard = self._guard
        position = (vote.height, vote.round, int(vote.type))
        if guard.abstains:
            raise SignerRefused("abstaining: what this key signed before is not known (R6)")
        if vote.height < guard.vote_from:
            raise SignerRefused(f"no vote below height {guard.vote_from} (C72)")
        if position <= guard.position:
            raise SignerRefused(f"position {position} is not above {guard.position} (R2)")
        if guard.block_signature is not None and vote.height <= guard.block_signature[0]:
            raise SignerRefused(f"the block of height {vote.height} is signed already (R4)")
        lock = guard.lock if guard.lock is not None and guard.lock[0] == vote.height else None
        if vote.block_hash != NIL and vote.type is VoteType.PRECOMMIT:
            self._check_pol(replace(vote, valid_round=vote.round), certificate)
            lock = (vote.height, vote.round, vote.block_hash)
        elif (
            vote.type is VoteType.PREVOTE
            and lock is not None
            and vote.block_hash not in (NIL, lock[2])
        ):
            if vote.valid_round < lock[1]:
                raise SignerRefused(f"locked on another block since round {lock[1]} (R3)")
            self._check_pol(vote, certificate)
        return guard.with_vote(position, digest, lock)

    def _check_pol(self, vote: Vote, certificate: Certificate | None) -> None:
        if certificate is None or not is_pol_for(vote, certificate):
            raise SignerRefused(f"no POL of round {vote.valid_round} for this block (R3)")
        self._check_certificate(certificate)

    def _check_certificate(self, certificate: Certificate) -> None:
        if not self._verifier.check(certificate).good:
            raise SignerRefused("the certificate does not verify")

    def _store(self, guard: Guard) -> None:
        """Make a guard state durable, then use it (R5)."""
        try:
            save_guard(self._layer, self._guard_path, guard)
        except OSError as error:
            self._failed = True
            raise SignerFailed(f"cannot write {self._guard_path}: {error}") from error
        self._guard = guard

    def _check_usable(self, *, when_halted: bool = False) -> None:
        if self._failed:
            raise SignerFailed("the signer is closed or failed before")
        if self._guard.halted and not when_halted:
            raise SignerRefused("halted")

    @property
    def _vote_key(self) -> bytes:
        return self.block_key[1:]

    def _set(self) -> MemberSet:
        if self._members is None:
            raise SignerRefused("no height has begun")
        return self._members


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SignerBusy(
            f"{folder} is in use by another signer: two signers with one key are forbidden (R7)"
        ) from None


def public_key_of(path: Path) -> bytes:
    """Public key of a key file, 33 bytes.

    Raises:
        SignerFailed: it is missing, open to others, or no key.
    """
    try:
        return _read_key(path).public_key
    except (OSError, InvalidEncoding) as error:
        raise SignerFailed(f"cannot read a key: {error}") from error


def _read_key(path: Path) -> SecretKey:
    text = read_secret(path).strip()
    try:
        return SecretKey(bytes.fromhex(text.decode("ascii")))
    except ValueError:
        raise InvalidEncoding(f"{path} does not hold 64 hex digits") from None


def start_guard(
    layer: FileLayer, path: Path, genesis: bytes, vote_key: bytes, start: GuardStart
) -> Guard:
    """Load the guard, or make the one that fits the start (R7).

    Raises:
        SignerFailed: absent when INTACT, used before when FRESH. GuardDamaged, OSError.
    """
    if start is GuardStart.RESTORED and layer.exists(path):
        layer.rename(path, path.with_name("guard.replaced"))
        layer.sync_folder(path.parent)
    if layer.exists(path):
        guard = load_guard(path, genesis, vote_key, layer)
        # The process before may have died between rename and folder sync; what was read here is
        # going to be relied on.
        layer.sync_folder(path.parent)
        if start is GuardStart.FRESH and guard.counter:
            raise SignerFailed(f"{path} shows that this key has signed before")
        return guard
    if start is GuardStart.INTACT:
        raise SignerFailed(f"{path} is missing: start with --restored")
    guard = Guard(genesis=genesis, vote_key=vote_key)
    save_guard(layer, path, guard)
    return guard
