"""Claims of deposits: what a voter asks of each peg-in beyond Elements' own checks.

Facts are fetched first and judged purely. What follows from the block alone is objective; depth,
place and age in the parent chain are eventual; that the coin is still there is opinion.

Source: peg:C1-C8, N4, N7.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from peg.commitments import PASS, Commitment, Verdict, disliked, not_yet
from peg.parameters import PegParameters
from sidechain.errors import InvalidBlock, InvalidEncoding
from sidechain.params import COINBASE_MATURITY_BLOCKS
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.script.script import is_p2wsh
from sidechain.validation.pegins import parse_pegin

REASON = "bad-peg-claim"
"""Reject code of claims that break C4, C8 or the deposit form (Elements has none)."""

FORGEABLE_TX_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One peg-in input, reduced to what the rules look at.

    Attributes:
        outpoint: the deposit on Bitcoin.
        script: its output script there.
        block_hash: the Bitcoin block its proof names.
        tx_count: number of transactions the proof says that block has.
        position: the proved position in it; 0 is the coinbase.
        stripped_bytes: size of the deposit's transaction without witness.
    """

    outpoint: OutPoint
    value_sats: int
    script: bytes
    claim_script: bytes
    block_hash: bytes
    tx_count: int
    position: int
    stripped_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimFacts:
    """What a voter's own node says of a deposit.

    Attributes:
        txids: of the full block its proof names.
        unspent: the output is in the own UTXO set at the tip.
    """

    txids: tuple[bytes, ...]
    unspent: bool


def read_claims(transactions: Iterable[Transaction]) -> tuple[Claim, ...]:
    """All peg-ins of some transactions, in order.

    Raises:
        InvalidTransaction: a witness that cannot be read.
        InvalidEncoding: an input without a witness that names an output of its transaction.
    """
    claims: list[Claim] = []
    for transaction in transactions:
        witnesses = transaction.input_witnesses
        for txin, witness in zip(transaction.inputs, witnesses, strict=True):
            if txin.is_pegin:
                claims.append(_read_claim(txin.prevout, witness.pegin))
    return tuple(claims)


def check_claim(
    claim: Claim, parameters: PegParameters, *, fed_programs: Collection[bytes]
) -> None:
    """The objective rules of one claim.

    Raises:
        InvalidBlock: below the minimum (C4), a FED output (C8), or a nested deposit (N4).
    """
    if claim.value_sats < parameters.min_pegin_sats:
        raise InvalidBlock(REASON, "C4: deposit is below the minimum")
    if claim.script in fed_programs:
        raise InvalidBlock(REASON, "C8: an output to FED is not a deposit")
    if not is_p2wsh(claim.script):
        # Elements also takes the P2SH form during the first epochs; members could not spend it
        # with the empty scriptSig that every batch has.
        raise InvalidBlock(REASON, "N4: deposit is not in native form")


def check_distinct(claims: Iterable[Claim]) -> None:
    """C5 inside one block; against the chain it is validation's.

    Raises:
        InvalidBlock: a deposit is claimed twice.
    """
    seen: set[OutPoint] = set()
    for claim in claims:
        if claim.outpoint in seen:
            raise InvalidBlock("bad-txns-double-pegin-in-obj", "C5")
        seen.add(claim.outpoint)


def judge_claim(claim: Claim, facts: ClaimFacts) -> Verdict:
    """C3 and C7 of a claim whose place is right, for one voter, now."""
    proved = claim.outpoint.txid in facts.txids and len(facts.txids) == claim.tx_count
    if not proved or claim.stripped_bytes == FORGEABLE_TX_BYTES:
        return not_yet("C3: deposit is not a transaction of its block")
    return PASS if facts.unspent else disliked("C7: deposit is spent")


def place_reason(
    claim: Claim,
    deposit_height: int | None,
    confirmations: int,
    commitment: Commitment,
    parameters: PegParameters,
    *,
    csv: int,
) -> str:
    """Why a deposit's place does not allow the claim (C1's depth, C2, C6); empty when it does.

    Args:
        deposit_height: of its block on the own best chain; None when it is not on it.
        confirmations: of that block.
    """
    required = required_depth(claim, parameters)
    if deposit_height is None or confirmations < required:
        return "C1: Needs more confirmations."
    age = commitment.height - deposit_height
    if age < 0:
        return "C2: deposit is above the committed block"
    if age + parameters.commit_depth < required:
        return "C2: deposit is too shallow at the committed block"
    if age > csv - parameters.sweep_window:
        return "C6: deposit is too old"
    return ""


def required_depth(claim: Claim, parameters: PegParameters) -> int:
    """D_p, or 100 for a deposit from a coinbase when that is more."""
    if claim.position == 0:
        return max(parameters.pegin_depth, COINBASE_MATURITY_BLOCKS)
    return parameters.pegin_depth


def _read_claim(prevout: OutPoint, items: tuple[bytes, ...]) -> Claim:
    pegin = parse_pegin(items)
    outputs = pegin.parent_tx.outputs
    if prevout.txid != pegin.parent_tx.txid or prevout.index >= len(outputs):
        raise InvalidEncoding("peg-in", "proof is of another output")
    position, _ = pegin.proof.matches[0]
    return Claim(
        outpoint=prevout,
        value_sats=pegin.value_sats,
        script=outputs[prevout.index][1],
        claim_script=pegin.claim_script,
        block_hash=pegin.proof.header.hash,
        tx_count=pegin.proof.tx_count,
        position=position,
        stripped_bytes=len(pegin.parent_tx.stripped),
    )
