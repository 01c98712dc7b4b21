"""The book: reserves against liabilities, computed two ways; halts; the digest members compare.

Source: peg:3.9, peg:7, peg:P33, N11.
"""

from dataclasses import dataclass
from enum import StrEnum

from sidechain.crypto.hashes import tagged_hash
from sidechain.primitives.encoding import le32
from sidechain.primitives.transaction import OutPoint

_NO_ANCHOR = bytes(36)
_NO_TXID = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """All sums at one sidechain height, satoshis.

    Attributes:
        reserve_sats: R, coins held.
        claimed_sats: all claimed deposits.
        feeburn_sats: fees of the sidechain, which are burned.
        burned_sats: explicit burns of the pegged asset of every kind.
        unpaid_sats: payouts of OK burns not yet paid on the committed chain.
        pending_fee_sats: their peg-out fees.
        suspense_sats: ineligible and plain burns.
        vanished_sats: claimed deposits that are gone from the committed chain.
        opened_sats: OPEN funding on the committed chain.
        donated_sats: foreign outputs to FED that count.
        earned_sats: peg-out fees of paid burns.
        bitcoin_fee_sats: fees of federation transactions.
    """

    reserve_sats: int
    claimed_sats: int
    feeburn_sats: int
    burned_sats: int
    unpaid_sats: int
    pending_fee_sats: int
    suspense_sats: int
    vanished_sats: int
    opened_sats: int
    donated_sats: int
    earned_sats: int
    bitcoin_fee_sats: int

    @property
    def circulating_sats(self) -> int:
        """circ; below zero proves inflation."""
        return self.claimed_sats - self.feeburn_sats - self.burned_sats

    @property
    def liabilities_sats(self) -> int:
        """What the federation owes."""
        owed = self.unpaid_sats + self.pending_fee_sats + self.suspense_sats
        return self.circulating_sats + owed

    @property
    def pool_sats(self) -> int:
        """The fee pool from its flows."""
        income = self.opened_sats + self.donated_sats + self.feeburn_sats + self.earned_sats
        return income - self.bitcoin_fee_sats - self.vanished_sats

    @property
    def pool_by_identity_sats(self) -> int:
        """The fee pool as what reserves exceed liabilities by."""
        return self.reserve_sats - self.liabilities_sats

    @property
    def difference_sats(self) -> int:
        """Between the two computations; not zero is a bug or theft."""
        return self.pool_by_identity_sats - self.pool_sats


class Halt(StrEnum):
    """Conditions that stop payouts. X1, X3 and X7 are not functions of the chains."""

    BROKEN = "X2"
    POOL_NEGATIVE = "X4_POOL"
    MISMATCH = "X4_MISMATCH"
    VANISHED = "X4_VANISHED"
    INFLATION = "X5"
    COIN_AGE = "X6"


def chain_halts(
    book: Book, *, broken: bool, inflated: bool, oldest_blocks_left: int | None, csv_stop: int
) -> tuple[Halt, ...]:
    """Halts in force, as functions of the chains at one height.

    Args:
        inflated: circ was below zero at this height or below it.
        oldest_blocks_left: of the oldest coin; None without coins.
    """
    insolvent = book.vanished_sats > 0 and book.reserve_sats < book.liabilities_sats
    old = oldest_blocks_left is not None and oldest_blocks_left < csv_stop
    found = (
        (Halt.BROKEN, broken),
        (Halt.POOL_NEGATIVE, book.pool_sats < 0),
        (Halt.MISMATCH, book.difference_sats != 0),
        (Halt.VANISHED, insolvent),
        (Halt.INFLATION, inflated),
        (Halt.COIN_AGE, old),
    )
    return tuple(halt for halt, holds in found if holds)


def stops_selection(halts: tuple[Halt, ...]) -> bool:
    """Whether only empty batches may be opened (P12, N11).

    A mismatch of the two books is the member's own alarm and does not enter: it may be a bug of
    one member only, and selection must be equal on all.
    """
    return any(
        halt in halts for halt in (Halt.POOL_NEGATIVE, Halt.VANISHED, Halt.INFLATION, Halt.COIN_AGE)
    )


def state_digest(
    *,
    height: int,
    committed_hash: bytes,
    index: int,
    anchor: OutPoint | None,
    paid_hash: bytes,
    open_txid: bytes | None,
    reserve_sats: int,
    pool_sats: int,
) -> bytes:
    """What members compare at equal heights. Source: peg:P33.

    Args:
        committed_hash: B(h).
        index: i of the lane; 0 before OPEN.
        anchor: a_i; None before OPEN.
        paid_hash: SHA-256 over the ids of paid burns in payment order.
        open_txid: txid of the highest version of the open batch.
    """
    anchor_bytes = _NO_ANCHOR if anchor is None else anchor.serialize()
    lane = le32(index) + anchor_bytes + paid_hash
    sums = _le64_signed(reserve_sats) + _le64_signed(pool_sats)
    body = le32(height) + committed_hash + lane + (open_txid or _NO_TXID) + sums
    return tagged_hash("fedpeg/state", body)


def _le64_signed(number: int) -> bytes:
    return number.to_bytes(8, "little", signed=True)
