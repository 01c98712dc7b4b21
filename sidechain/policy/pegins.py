"""Minimum of peg-ins, and the burn by which small ones pay for the way back. Off by default.

Source: elements/peg.md 3.4.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from sidechain.errors import InvalidTransaction
from sidechain.params import ChainParams
from sidechain.policy.fees import fee_rate, format_money, format_rate, required_fee_sats
from sidechain.primitives.transaction import Transaction
from sidechain.script.opcodes import OP_1, OP_16, OP_CHECKMULTISIG
from sidechain.script.script import iter_ops
from sidechain.validation.pegins import FedpegPair, parse_pegin

MIN_PARENT_RATE_SATS_PER_KVB = 1_000
INPUT_BYTES = 41
SIGNATURE_WU = 72
WITNESS_SCALE = 4

_KEY_BYTES = 33


class ParentFee(NamedTuple):
    """What a transaction of the parent chain paid, in satoshis, and its virtual size."""

    fee_sats: int
    vsize: int


@runtime_checkable
class ParentFees(Protocol):
    """What a `ParentFacts` may know beyond depth; one that does not say so knows nothing."""

    def parent_fee(self, txid: bytes, block_hash: bytes) -> ParentFee | None:
        """Fee and size of a transaction in a block of the parent, or None if unknown."""
        ...


def check_pegin_subsidy(
    tx: Transaction,
    params: ChainParams,
    tip_height: int,
    fedpegscripts: Sequence[FedpegPair],
    facts: object | None,
) -> None:
    """Check that a claim is large enough, or burns what it will cost to pay it back.

    Args:
        fedpegscripts: valid for the next block, newest first.
        facts: a `ParentFees`; without it, and where the chain does not ask its parent, the least
            rate of the parent is taken.
    Raises:
        InvalidTransaction: "pegin-value-too-low", "pegin-subsidy-too-low",
            "pegin-subsidy-mainchain-error", or no reason where the fedpegscript is no plain
            multisig.
    """
    claims = [
        parse_pegin(witness.pegin, params)
        for txin, witness in zip(tx.inputs, tx.input_witnesses, strict=True)
        if txin.is_pegin
    ]
    if not claims:
        return
    value = sum(claim.value_sats for claim in claims)
    if _reached(params.pegin_min_height, tip_height) and value < params.pegin_min_sats:
        raise InvalidTransaction(
            "pegin-value-too-low",
            f"peg-in value: {format_money(value)}, "
            f"minimum peg-in value: {format_money(params.pegin_min_sats)}",
        )
    if not _reached(params.pegin_subsidy_height, tip_height):
        return
    deposits = [(claim.parent_tx.txid, claim.proof.header.hash) for claim in claims]
    rate = _parent_rate(deposits, params, facts)
    vbytes = _spend_vbytes(fedpegscripts[0].script) if fedpegscripts else None
    if vbytes is None:
        raise InvalidTransaction("")
    needed = required_fee_sats(len(claims) * vbytes, rate)
    burned = _burned_sats(tx, params)
    threshold = params.pegin_subsidy_threshold_sats
    if value < threshold and burned < needed:
        raise InvalidTransaction(
            "pegin-subsidy-too-low",
            f"peg-in value: {format_money(value)}, subsidy threshold: {format_money(threshold)}, "
            f"subsidy value: {format_money(burned)}, expected subsidy: {format_money(needed)}, "
            f"parent feerate: {format_rate(rate)}",
        )


def _reached(height: int | None, tip_height: int) -> bool:
    return height is not None and tip_height >= height


def _parent_rate(
    deposits: Sequence[tuple[bytes, bytes]], params: ChainParams, facts: object | None
) -> int:
    """The parent's fee rate over all deposits together, at least one satoshi a virtual byte."""
    if not params.validate_pegin or not isinstance(facts, ParentFees):
        return MIN_PARENT_RATE_SATS_PER_KVB
    known = [facts.parent_fee(txid, block_hash) for txid, block_hash in deposits]
    paid = [fee for fee in known if fee is not None]
    if len(paid) != len(known):
        raise InvalidTransaction("pegin-subsidy-mainchain-error", "parent transaction not found")
    rate = fee_rate(sum(fee.fee_sats for fee in paid), sum(fee.vsize for fee in paid))
    return max(rate, MIN_PARENT_RATE_SATS_PER_KVB)


def _burned_sats(tx: Transaction, params: ChainParams) -> int:
    return sum(
        output.value_sats or 0
        for output in tx.outputs
        if output.is_unspendable and output.script and output.asset_id == params.pegged_asset
    )


def _spend_vbytes(fedpegscript: bytes) -> int | None:
    """Virtual bytes of an input that spends a deposit; None for no `t <keys> n CHECKMULTISIG`."""
    threshold = _threshold(fedpegscript)
    if threshold is None:
        return None
    weight = WITNESS_SCALE * INPUT_BYTES + threshold * SIGNATURE_WU + len(fedpegscript)
    return -(-weight // WITNESS_SCALE)


def _threshold(fedpegscript: bytes) -> int | None:
    ops = list(iter_ops(fedpegscript))
    if not ops or not OP_1 <= ops[0].opcode <= OP_16:
        return None
    threshold = ops[0].opcode - OP_1 + 1
    if ops[0].end == len(fedpegscript):
        return threshold
    keys = 0
    while 1 + keys < len(ops) and ops[1 + keys].opcode == _KEY_BYTES:
        keys += 1
    rest = [op.opcode for op in ops[1 + keys : 3 + keys]]
    # What follows the multisig is not looked at.
    good = rest == [OP_1 + keys - 1, OP_CHECKMULTISIG] and threshold <= keys <= 16
    return threshold if good else None
