"""The world around one simulated member's peg: its Bitcoin node, keys, journal, log and links.

Source: peg:4, peg:5, peg:P32.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from federation.sim.checker import Violation
from federation.sim.peg.bitcoin import Bitcoin, move_view
from federation.sim.peg.sidechain import secret
from peg.bitcoind import MempoolVerdict, ParentHeaderInfo, TransactionPlace, UnspentOutput
from peg.fedscript import FedScript, key_tweak
from peg.lanes import encode_unsigned
from peg.parent_view import ParentView
from peg.payments import Payment, check_payment
from peg.sessions import decode_entry
from peg.signing import (
    FRAME_SIGNATURE_BYTES,
    KIND_PEGSIG,
    KIND_PEGSTATE,
    PegState,
    decode_pegsig,
    decode_pegstate,
    frame_digest,
)
from sidechain.crypto.hashes import sha256d, tagged_hash
from sidechain.crypto.keys import ecdsa_sign, schnorr_sign, tweak_add_secret
from sidechain.errors import InvariantError, Unavailable
from sidechain.primitives.transaction import OutPoint

LIES: Final = ("honest", "silent", "bad", "other", "digest", "half")
"""What a liar does with its frames: nothing wrong, sends none, signatures that do not verify,
shares that name another transaction, another state, frames to half of the members only."""


@dataclass(slots=True)
class Journal:
    """A peg journal in memory that can be told to fail."""

    bodies: list[bytes] = field(default_factory=list)
    is_broken: bool = False

    def append(self, kind: int, body: bytes) -> int:
        """Keep a record."""
        if self.is_broken:
            raise InvariantError("disk full")
        self.bodies.append(body)
        return len(self.bodies)


@dataclass(slots=True)
class Signer:
    """Keys of one member; remembers what it was asked to sign.

    Attributes:
        journal: what must hold a batch before it is signed (P32); None: not looked at.
    """

    member: int
    genesis: bytes
    script: FedScript
    signed: list[bytes] = field(default_factory=list)
    journal: Journal | None = None

    def sign_payment(self, payment: Payment) -> tuple[bytes, ...]:
        """Signatures on every input.

        Raises:
            Violation: it cannot be read back, or the journal does not hold it (P32).
        """
        if Payment.decode(payment.encode()) != payment:
            raise Violation("P38", "a payment cannot be read back")
        script = self.script
        check_payment(payment, script, self.genesis)
        self._check_journal(payment)
        key, own = secret(f"peg {self.member}"), script.keys[self.member]
        signatures = []
        for coin, digest in zip(payment.inputs, payment.digests(script), strict=True):
            tweak = key_tweak(own, coin.claim_script)
            self.signed.append(digest)
            signed_by = key if tweak is None else tweak_add_secret(key, tweak)
            signatures.append(ecdsa_sign(signed_by, digest))
        return tuple(signatures)

    def sign_message(self, tag: str, message: bytes) -> bytes:
        """By the block key."""
        return schnorr_sign(secret(f"block {self.member}"), tagged_hash(tag, message))

    def sign_peg_frame(self, kind: int, body: bytes) -> bytes:
        """By the block key."""
        return schnorr_sign(secret(f"block {self.member}"), frame_digest(self.genesis, kind, body))

    def _check_journal(self, payment: Payment) -> None:
        if self.journal is None:
            return
        outpoints = [coin.outpoint for coin in payment.inputs]
        txid = sha256d(encode_unsigned(outpoints, payment.outputs))
        last = decode_entry(self.journal.bodies[-1]) if self.journal.bodies else None
        if last is None or (last.anchor, last.txid) != (outpoints[0], txid):
            raise Violation("P32", f"m{self.member} signs what its journal does not hold")


class Log:
    """Keeps what was logged."""

    def __init__(self) -> None:
        """Empty."""
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def info(self, event: str, **facts: object) -> None:
        """Something happened."""
        self.lines.append(("info", event, facts))

    def warning(self, event: str, **facts: object) -> None:
        """Something a person may want to look at."""
        self.lines.append(("warning", event, facts))

    def error(self, event: str, **facts: object) -> None:
        """Something a person has to look at."""
        self.lines.append(("error", event, facts))

    def has(self, event: str) -> bool:
        """Whether something was logged."""
        return any(line[1] == event for line in self.lines)


class OwnBitcoin:
    """One member's node: the same tree of blocks, with a tip that may be behind, or no answers.

    Attributes:
        late: how many more of Bitcoin's moves it does not see.
        down: for how many moves it does not answer.
    """

    def __init__(self, bitcoin: Bitcoin) -> None:
        """In step with Bitcoin."""
        self._bitcoin = bitcoin
        self.view = ParentView()
        self.late = self.down = 0
        self.tip = bytes(32)
        self._follow()

    @property
    def is_healthy(self) -> bool:
        """Whether it answers."""
        return not self.down

    def moved(self) -> None:
        """Bitcoin moved."""
        self.down = max(self.down - 1, 0)
        self.late = max(self.late - 1, 0)
        if not self.late and not self.down:
            self._follow()

    def _follow(self) -> None:
        self.tip = self._bitcoin.tip
        move_view(self.view, self._bitcoin.blocks, self.tip)

    def _answer(self) -> None:
        if self.down:
            raise Unavailable("the own Bitcoin node does not answer")

    async def raw_block(self, block_hash: bytes) -> bytes:
        """A block as bytes."""
        self._answer()
        return await self._bitcoin.raw_block(block_hash)

    async def header(self, block_hash: bytes) -> ParentHeaderInfo:
        """Place of a block."""
        self._answer()
        found = await self._bitcoin.header(block_hash)
        return replace(found, confirmations=self.view.depth(block_hash) or -1)

    async def tx_out(
        self, outpoint: OutPoint, include_mempool: bool = True
    ) -> UnspentOutput | None:
        """An unspent output of the own best chain."""
        self._answer()
        return self._bitcoin.output_at(outpoint, self.tip)

    async def estimate_fee_sats_per_kvb(self) -> int | None:
        """The market's rate."""
        self._answer()
        return self._bitcoin.estimate

    async def find_transaction(self, txid: bytes) -> TransactionPlace | None:
        """Where a transaction is."""
        self._answer()
        return await self._bitcoin.find_transaction(txid)

    async def test_mempool_accept(self, raw: bytes) -> MempoolVerdict:
        """Whether the mempool would take it."""
        self._answer()
        return self._bitcoin.judge(raw)

    async def send_raw_transaction(self, raw: bytes) -> bytes:
        """Hand it to the mempool."""
        self._answer()
        return await self._bitcoin.send_raw_transaction(raw)


Carry = Callable[[int, int, int, bytes], Any]


@dataclass(slots=True)
class Wire:
    """One member's end of the links; a liar's frames are bent here.

    Attributes:
        carry: takes (sender, receiver, kind, frame).
        others: members that it has links to.
        lie: one of `LIES`.
    """

    signer: Signer
    carry: Carry
    others: tuple[int, ...]
    lie: str = "honest"

    def send(self, member: int, kind: int, body: bytes) -> bool:
        """Put a frame on a link."""
        bent = body if self.lie == "honest" else self._bent(member, kind, body)
        if bent is not None:
            self.carry(self.signer.member, member, kind, bent)
        return True

    def broadcast(self, kind: int, body: bytes) -> None:
        """To everybody."""
        for member in self.others:
            self.send(member, kind, body)

    def _bent(self, member: int, kind: int, frame: bytes) -> bytes | None:
        body = frame[:-FRAME_SIGNATURE_BYTES]
        if self.lie == "silent" or (self.lie == "half" and member % 2):
            return None
        if kind == KIND_PEGSIG and self.lie in ("bad", "other"):
            share = decode_pegsig(body)
            if self.lie == "bad":
                wrong = ecdsa_sign(secret("nobody"), share.txid) + b"\x01"
                share = replace(share, signatures=(wrong,) * len(share.signatures))
            else:
                share = replace(share, txid=share.txid[::-1])
            return self._signed(kind, share.encode())
        if kind == KIND_PEGSTATE and self.lie == "digest":
            told = decode_pegstate(body)
            return self._signed(kind, PegState(told.height, told.digest[::-1]).encode())
        return frame

    def _signed(self, kind: int, body: bytes) -> bytes:
        return body + self.signer.sign_peg_frame(kind, body)
