"""Signatures on a batch: message bodies, verification of every share, assembly.

One session per (anchor, h_sel, v), no leader: each member sends its signatures on all inputs, and
whoever holds k of them builds the transaction.

Source: peg:P31-P34, N15.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from peg.batches import BatchVersion, FedCoin, OpenBatch, input_digests
from peg.fedscript import FedScript, coin_script
from peg.lanes import with_witnesses
from sidechain.crypto.hashes import tagged_hash
from sidechain.crypto.keys import der_to_compact, ecdsa_verify, is_low_s, schnorr_verify
from sidechain.errors import InvalidEncoding, InvariantError, PeerFault
from sidechain.primitives.encoding import Reader, le32
from sidechain.primitives.transaction import OutPoint

KIND_COVREG = 19
KIND_PEGSIG = 20
KIND_PEGWANT = 21
KIND_PEGSTATE = 22
FRAME_SIGNATURE_BYTES = 64
SIGNATURE_MIN_BYTES = 9
SIGNATURE_MAX_BYTES = 73
INPUTS_MAX = 600
_HASH_TYPE_ALL = b"\x01"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionKey:
    """What names a signing session."""

    anchor: OutPoint
    h_sel: int
    version: int

    def serialize(self) -> bytes:
        """44 bytes: anchor, LE32 h_sel, LE32 v."""
        return self.anchor.serialize() + le32(self.h_sel) + le32(self.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class PegSig:
    """Frame 20: one member's signatures on a batch, DER with hash type, in input order."""

    lane: int
    index: int
    session: SessionKey
    txid: bytes
    state_digest: bytes
    signatures: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Body without the frame's signature."""
        head = bytes((self.lane,)) + le32(self.index) + self.session.serialize()
        parts = [bytes((len(signature),)) + signature for signature in self.signatures]
        count = len(parts).to_bytes(2, "little")
        return head + self.txid + self.state_digest + count + b"".join(parts)


@dataclass(frozen=True, slots=True)
class PegWant:
    """Frame 21: asks for shares; bit m of `have` is set for members whose shares are held."""

    session: SessionKey
    have: int

    def encode(self) -> bytes:
        """Body without the frame's signature."""
        return self.session.serialize() + self.have.to_bytes(2, "little")


@dataclass(frozen=True, slots=True)
class PegState:
    """Frame 22: a member's state digest at a sidechain height."""

    height: int
    digest: bytes

    def encode(self) -> bytes:
        """Body without the frame's signature."""
        return le32(self.height) + self.digest


def decode_pegsig(body: bytes) -> PegSig:
    """Read a frame 20 body.

    Raises:
        InvalidEncoding: cut off, trailing bytes, or a count or length out of range.
    """
    reader = Reader(body)
    lane, index, session = reader.u8(), reader.u32(), _session(reader)
    txid, digest = reader.read(32), reader.read(32)
    count = reader.u16()
    if not 1 <= count <= INPUTS_MAX:
        raise InvalidEncoding("PEGSIG", "number of signatures")
    signatures = []
    for _ in range(count):
        size = reader.u8()
        if not SIGNATURE_MIN_BYTES <= size <= SIGNATURE_MAX_BYTES:
            raise InvalidEncoding("PEGSIG", "length of a signature")
        signatures.append(reader.read(size))
    reader.done()
    return PegSig(
        lane=lane,
        index=index,
        session=session,
        txid=txid,
        state_digest=digest,
        signatures=tuple(signatures),
    )


def decode_pegwant(body: bytes) -> PegWant:
    """Read a frame 21 body; raises InvalidEncoding."""
    reader = Reader(body)
    want = PegWant(_session(reader), reader.u16())
    reader.done()
    return want


def decode_pegstate(body: bytes) -> PegState:
    """Read a frame 22 body; raises InvalidEncoding."""
    reader = Reader(body)
    state = PegState(reader.u32(), reader.read(32))
    reader.done()
    return state


def frame_digest(genesis: bytes, kind: int, body: bytes) -> bytes:
    """What the block key signs under a frame 18 to 23. Source: N15."""
    return tagged_hash("fedpeg/msg", genesis + bytes((kind,)) + body)


def open_frame(genesis: bytes, kind: int, frame: bytes, *, member: int, block_key: bytes) -> bytes:
    """Check the signature that ends a frame; returns the body before it.

    Args:
        block_key: the member's x-only block key, 32 bytes.
    Raises:
        PeerFault: frame too short, or the signature does not verify.
    """
    if len(frame) <= FRAME_SIGNATURE_BYTES:
        raise PeerFault(member, b"", "peg frame without a signature")
    body, signature = frame[:-FRAME_SIGNATURE_BYTES], frame[-FRAME_SIGNATURE_BYTES:]
    if not schnorr_verify(block_key, signature, frame_digest(genesis, kind, body)):
        raise PeerFault(member, b"", "peg frame with a wrong signature")
    return body


class Signable(Protocol):
    """A transaction that members sign together: a batch, or a deposit given back."""

    @property
    def anchor(self) -> OutPoint:
        """The outpoint at input 0, which names the session."""
        ...

    @property
    def h_sel(self) -> int:
        """The sidechain height that fixed it."""
        ...

    @property
    def inputs(self) -> tuple[FedCoin, ...]:
        """What it spends."""
        ...

    def outputs(self, fee_sats: int) -> tuple[tuple[int, bytes], ...]:
        """(satoshis, script) at a fee."""
        ...

    def unsigned(self, fee_sats: int) -> bytes:
        """The transaction without witness at a fee."""
        ...


class SigningSession:
    """Collects the shares of one version of one batch. One owner: the service."""

    def __init__(self, batch: Signable, version: BatchVersion, script: FedScript) -> None:
        """Prepare digests and scripts.

        Args:
            script: the federation's plain fedpegscript.
        """
        self.batch = batch
        self.version = version
        self.key = SessionKey(anchor=batch.anchor, h_sel=batch.h_sel, version=version.version)
        self.digests = input_digests(batch.inputs, batch.outputs(version.fee_sats), script)
        self._scripts = [coin_script(script, coin.claim_script) for coin in batch.inputs]
        self._k = script.k
        self._shares: dict[int, tuple[bytes, ...]] = {}

    @property
    def have(self) -> int:
        """Bitmap of the members whose shares are held."""
        return sum(1 << member for member in self._shares)

    @property
    def is_complete(self) -> bool:
        """Whether k members' shares are held."""
        return len(self._shares) >= self._k

    def share(self, member: int) -> tuple[bytes, ...] | None:
        """A member's signatures, if held."""
        return self._shares.get(member)

    def add(self, member: int, share: PegSig, proof: bytes) -> bool:
        """Take a member's share after verifying each signature.

        Args:
            proof: the signed frame, which shows to others what the member sent.
        Returns:
            Whether it was new.
        Raises:
            PeerFault: a signature does not verify on the transaction it names.
        """
        if member in self._shares:
            return False
        if share.txid != self.version.txid:
            # Another view of the chains, not a fault: the digests tell which.
            return False
        if len(share.signatures) != len(self.digests):
            raise PeerFault(member, proof, "wrong number of batch signatures")
        checks = zip(self._scripts, self.digests, share.signatures, strict=True)
        for script, digest, signature in checks:
            if member >= len(script.keys):
                raise PeerFault(member, proof, "a share of who holds no key of the coin")
            if not is_batch_signature(script.keys[member], digest, signature):
                raise PeerFault(member, proof, "batch signature does not verify")
        self._shares[member] = share.signatures
        return True

    def assemble(self) -> bytes | None:
        """The signed transaction from the first k members in key order; None below k."""
        if not self.is_complete:
            return None
        chosen = sorted(self._shares)[: self._k]
        witnesses = [
            [b"", *(self._shares[member][position] for member in chosen), script.script]
            for position, script in enumerate(self._scripts)
        ]
        return with_witnesses(self.batch.unsigned(self.version.fee_sats), witnesses)


def is_batch_signature(key: bytes, digest: bytes, signature: bytes) -> bool:
    """Whether a signature is strict DER, low S, SIGHASH_ALL and verifies."""
    return is_well_formed(signature) and ecdsa_verify(key, signature[:-1], digest)


def is_well_formed(signature: bytes) -> bool:
    """Whether a signature is strict DER, low S and SIGHASH_ALL, whatever it signs (peg:P33)."""
    if signature[-1:] != _HASH_TYPE_ALL:
        return False
    try:
        compact = der_to_compact(signature[:-1])
    except InvalidEncoding:
        return False
    return is_low_s(compact)


def check_disjoint(batch: OpenBatch, paid: Sequence[bytes]) -> None:
    """R1: no payout of a batch was paid by its ancestry.

    Raises:
        InvariantError: one was; signing it would pay twice.
    """
    already = set(paid)
    if any(burn.burn_id in already for burn in batch.payouts):
        raise InvariantError("batch pays a burn that its ancestry paid")


def _session(reader: Reader) -> SessionKey:
    anchor = OutPoint(reader.read(32), reader.u32())
    return SessionKey(anchor=anchor, h_sel=reader.u32(), version=reader.u32())
