"""The peg's state as JSON for RPC: here, and only here, bytes become hex in this package.

Hashes are shown in reversed order as Bitcoin and Elements do, amounts in satoshis.
"""

from collections.abc import Sequence
from typing import Any

from peg.batches import FedCoin, OpenBatch
from peg.commitments import Commitment
from peg.fedscript import FedScript
from peg.history import ClaimedDeposit
from peg.lanes import LaneStep
from peg.parameters import BASIS_POINTS, PegParameters, break_even_rate_sats_per_kvb, coin_count_max
from peg.receipts import BurnFacts, Eta, Pace, eta, standing
from peg.reserves import Book
from peg.state import PegView
from sidechain.errors import InvalidEncoding
from sidechain.params import AddressPrefixes
from sidechain.primitives.address import encode_address
from sidechain.primitives.transaction import OutPoint

BATCHES_SHOWN = 10
UNCONFIRMED_NOTE = "the payment cannot be spent by an ordinary wallet before it confirms (P28)"


def hash_hex(hash_bytes: bytes) -> str:
    """A hash as it is shown to people."""
    return hash_bytes[::-1].hex()


def outpoint_text(outpoint: OutPoint) -> str:
    """txid:vout."""
    return f"{hash_hex(outpoint.txid)}:{outpoint.index}"


def burn_text(burn_id: bytes) -> str:
    """A burn id as txid:vout of the sidechain."""
    return outpoint_text(OutPoint(burn_id[:32], int.from_bytes(burn_id[32:], "little")))


def parse_outpoint(text: str) -> OutPoint:
    """Inverse of `outpoint_text`.

    Raises:
        InvalidEncoding: not txid:vout.
    """
    txid_hex, _, index = text.partition(":")
    if len(txid_hex) != 64 or not index.isdecimal() or int(index) > 0xFFFFFFFF:
        raise InvalidEncoding("outpoint", "expected txid:vout")
    try:
        return OutPoint(bytes.fromhex(txid_hex)[::-1], int(index))
    except ValueError as error:
        raise InvalidEncoding("outpoint", "expected txid:vout") from error


def address_or_none(script: bytes, prefixes: AddressPrefixes) -> str | None:
    """Bitcoin address of a script, None when it has none."""
    try:
        return encode_address(script, prefixes)
    except InvalidEncoding:
        return None


def parameters_json(parameters: PegParameters, script: FedScript) -> dict[str, Any]:
    """The limits a user or wallet needs to know."""
    return {
        "pegin_depth": parameters.pegin_depth,
        "commit_depth": parameters.commit_depth,
        "csv": script.csv,
        "w_sweep": parameters.sweep_window,
        "reset_depth": parameters.reset_depth,
        "peg_out_fee_sats": parameters.peg_out_fee_sats,
        "min_pegin_sats": parameters.min_pegin_sats,
        "min_pegout_sats": parameters.min_pegout_sats,
        "payout_cap_sats": parameters.payout_cap_sats,
        "large_sats": parameters.large_sats,
        "large_delay": parameters.large_delay,
        "caps": [
            {"window": cap.window, "abs_sats": cap.abs_sats, "pct_bp": cap.pct_bp}
            for cap in parameters.caps
        ],
        "break_even_rate_sats_per_kvb": break_even_rate_sats_per_kvb(parameters, script),
        "fed_script_hex": script.program.hex(),
    }


def commitment_json(commitment: Commitment | None) -> dict[str, Any]:
    """The committed Bitcoin block; nulls before block 1."""
    if commitment is None:
        return {"committed_height": None, "committed_hash": None, "committed_reset": None}
    return {
        "committed_height": commitment.height,
        "committed_hash": hash_hex(commitment.block_hash),
        "committed_reset": commitment.reset,
    }


def lane_json(view: PegView | None) -> dict[str, Any]:
    """The lane, its open batch and what stops payouts, at the height the state has reached."""
    if view is None:
        return {"state_height": 0, "lane": None, "open_batch": None, "idle": None, "halts": []}
    lane = view.lane
    return {
        "state_height": view.height,
        "state_digest": view.digest.hex(),
        "clock": view.totals.clock,
        "rate_sats_per_kvb": view.totals.rate_sats_per_kvb,
        "lane": None
        if lane is None
        else {
            "lane": lane.lane,
            "index": lane.index,
            "anchor": outpoint_text(lane.anchor),
            "paid": len(lane.paid),
            "broken_by": None if lane.broken_by is None else hash_hex(lane.broken_by),
        },
        "open_batch": None if view.open_batch is None else batch_json(view.open_batch),
        "idle": None if view.idle is None else str(view.idle),
        "halts": [str(halt) for halt in view.halts],
        "queue": len(view.queue),
        "pool_sats": view.book.pool_sats,
    }


def batch_json(batch: OpenBatch) -> dict[str, Any]:
    """An open batch with all its versions."""
    return {
        "index": batch.index,
        "h_sel": batch.h_sel,
        "inputs": len(batch.inputs),
        "payouts": [burn_text(burn.burn_id) for burn in batch.payouts],
        "vsize": batch.vsize,
        "versions": [
            {
                "version": version.version,
                "height": version.height,
                "fee_sats": version.fee_sats,
                "forced_sats": version.forced_sats,
                "txid": hash_hex(version.txid),
            }
            for version in batch.versions
        ],
    }


def burn_json(
    facts: BurnFacts, parameters: PegParameters, prefixes: AddressPrefixes, pace: Pace
) -> dict[str, Any]:
    """One peg-out."""
    burn, place, payment = facts.burn, facts.place, facts.payment
    now = standing(facts, parameters)
    expected = eta(facts, parameters, pace)
    return {
        "burn": burn_text(burn.burn_id),
        "status": now.status,
        "reasons": list(now.reasons),
        "height": burn.height,
        "amount_sats": burn.amount_sats,
        "payout_sats": burn.payout_sats,
        "fee_sats": burn.fee_sats,
        "address": address_or_none(burn.script, prefixes),
        "script_hex": burn.script.hex(),
        "until_clock": place.until_clock if place is not None and place.until_clock else None,
        "position": place.position if place is not None else None,
        "ahead_sats": place.ahead_sats if place is not None else None,
        "clock": pace.clock,
        "expected_clock": None if expected is None else expected.latest_clock,
        "eta": None if expected is None else eta_json(expected),
        "batch": None if facts.batch is None else batch_json(facts.batch),
        "note": UNCONFIRMED_NOTE if now.status == "BATCHED" else None,
        "txid": None if payment is None else hash_hex(payment.txid),
        "vout": None if payment is None else payment.vout,
        "depth": None if payment is None else payment.depth,
        "committed": payment is not None and payment.committed,
    }


def eta_json(expected: Eta) -> dict[str, Any]:
    """When a payment is likely to be committed, and what it waits for."""
    return {
        "earliest_clock": expected.earliest_clock,
        "latest_clock": expected.latest_clock,
        "reason": ", ".join(expected.reasons),
    }


def cap_rate_sats(parameters: PegParameters, backing_sats: int) -> int:
    """What the tightest cap lets through per clock unit.

    Args:
        backing_sats: claimed minus burned fees and released sums.
    """
    return min(
        max(cap.abs_sats, backing_sats * cap.pct_bp // BASIS_POINTS) // max(cap.window, 1)
        for cap in parameters.caps
    )


def deposit_json(outpoint: OutPoint, claimed: ClaimedDeposit | None) -> dict[str, Any]:
    """A deposit as the sidechain knows it."""
    return {
        "deposit": outpoint_text(outpoint),
        "claimed": claimed is not None,
        "claim_height": None if claimed is None else claimed.height,
        "value_sats": None if claimed is None else claimed.claim.value_sats,
        "claim_script_hex": None if claimed is None else claimed.claim.claim_script.hex(),
        "parent_block": None if claimed is None else hash_hex(claimed.claim.block_hash),
    }


def book_json(book: Book) -> dict[str, Any]:
    """Both computations of the book."""
    return {
        "reserve_sats": book.reserve_sats,
        "claimed_sats": book.claimed_sats,
        "feeburn_sats": book.feeburn_sats,
        "burned_sats": book.burned_sats,
        "circulating_sats": book.circulating_sats,
        "unpaid_sats": book.unpaid_sats,
        "pending_fee_sats": book.pending_fee_sats,
        "suspense_sats": book.suspense_sats,
        "liabilities_sats": book.liabilities_sats,
        "vanished_sats": book.vanished_sats,
        "opened_sats": book.opened_sats,
        "donated_sats": book.donated_sats,
        "earned_sats": book.earned_sats,
        "bitcoin_fee_sats": book.bitcoin_fee_sats,
        "pool_sats": book.pool_sats,
        "pool_by_identity_sats": book.pool_by_identity_sats,
        "difference_sats": book.difference_sats,
    }


def audit_json(view: PegView, parameters: PegParameters, script: FedScript) -> dict[str, Any]:
    """The reserves audit at one height: the book two ways, every coin, the last batches."""
    commitment = view.totals.commitment
    return {
        "height": view.height,
        "state_digest": view.digest.hex(),
        **commitment_json(commitment),
        **book_json(view.book),
        "equal": view.book.difference_sats == 0,
        "solvent": view.book.pool_sats >= 0,
        "halts": [str(halt) for halt in view.halts],
        "coins": [coin_json(coin, commitment.height) for coin in view.coins],
        "coins_max": coin_count_max(parameters, script),
        "batches": batches_json(view.steps),
        "note": "The peg ledger is exact; that circulation equals what wallets hold rests on the"
        " sidechain's own proofs.",
    }


def coin_json(coin: FedCoin, committed_height: int) -> dict[str, Any]:
    """One coin of the federation at B(h)."""
    return {
        "outpoint": outpoint_text(coin.outpoint),
        "kind": str(coin.kind),
        "claim_script": None if coin.claim_script is None else coin.claim_script.hex(),
        "value_sats": coin.value_sats,
        "height": coin.height,
        "age": committed_height - coin.height + 1,
        "blocks_left": coin.blocks_left(committed_height),
    }


def batches_json(steps: Sequence[LaneStep]) -> list[dict[str, Any]]:
    """The last transactions of the walk, newest last."""
    first = max(0, len(steps) - BATCHES_SHOWN)
    return [
        {
            "index": first + position,
            "kind": str(step.kind.value),
            "txid": hash_hex(step.txid),
            "payouts": [burn_text(burn.burn_id) for burn in step.payouts],
        }
        for position, step in enumerate(steps[first:])
    ]
