"""Transactions as the RPC interface decodes them.

Source: elements/interfaces.md 3; field for field as recorded from elementsd.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sidechain.api.json_text import coins
from sidechain.api.script_json import script_asm, script_json
from sidechain.crypto.keys import is_public_key
from sidechain.params import ChainParams
from sidechain.primitives.confidential import NULL, asset_id, is_commitment, value_sats
from sidechain.primitives.issuance import issued_ids
from sidechain.primitives.transaction import InputWitness, Transaction, TxIn, TxOut
from sidechain.validation.coins import Coin

HIDDEN = "<confidential>"


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeInfo:
    """What the header of a range proof shows: `exponent` is -1 for a single value."""

    exponent: int
    mantissa_bits: int
    min_sats: int
    max_sats: int


def transaction_json(
    tx: Transaction, params: ChainParams, spent: Sequence[Coin] | None = None
) -> dict[str, Any]:
    """Everything `decoderawtransaction` shows.

    Args:
        spent: the coins of the inputs; where given, each input also shows its `prevout`.
    """
    wtxid_hex = tx.wtxid[::-1].hex()
    shown: dict[str, Any] = {
        "txid": tx.txid[::-1].hex(),
        "hash": wtxid_hex,
        "wtxid": wtxid_hex,
        "withash": tx.witness_only_hash()[::-1].hex(),
        "version": tx.version,
        "size": tx.total_size,
        "vsize": tx.vsize,
        "weight": tx.weight_wu,
    }
    if params.show_discount_ct:
        shown["discountvsize"] = tx.discount_vsize
        shown["discountweight"] = tx.discount_weight_wu()
    shown["locktime"] = tx.locktime
    shown["vin"] = [
        _input_json(tx, position, params, spent[position] if spent else None)
        for position in range(len(tx.inputs))
    ]
    shown["vout"] = [_output_json(tx, position, params) for position in range(len(tx.outputs))]
    shown["fee"] = fees_json(tx)
    return shown


def fees_json(tx: Transaction) -> dict[str, Any]:
    """Fees by asset, in coins."""
    fees: dict[str, int] = {}
    for output in tx.outputs:
        asset = output.asset_id
        if output.is_fee and asset is not None:
            key = asset[::-1].hex()
            fees[key] = fees.get(key, 0) + (output.value_sats or 0)
    return {asset: coins(amount) for asset, amount in fees.items()}


def amount_json(field: bytes) -> Any:
    """An explicit amount in coins, or the word for a hidden one."""
    amount = value_sats(field)
    return HIDDEN if amount is None else coins(amount)


def _input_json(
    tx: Transaction, position: int, params: ChainParams, spent: Coin | None
) -> dict[str, Any]:
    txin, witness = tx.inputs[position], tx.input_witnesses[position]
    shown: dict[str, Any] = {}
    if tx.is_coinbase:
        shown["coinbase"] = txin.script_sig.hex()
    else:
        shown["txid"] = txin.prevout.txid[::-1].hex()
        shown["vout"] = txin.prevout.index
        shown["scriptSig"] = {
            "asm": script_asm(txin.script_sig, signatures=True),
            "hex": txin.script_sig.hex(),
        }
        shown["is_pegin"] = txin.is_pegin
    if spent is not None:
        # elementsd does not show the asset of what is spent.
        shown["prevout"] = {
            "generated": spent.coinbase,
            "height": spent.height,
            "value": amount_json(spent.value),
            "scriptPubKey": script_json(spent.script, params),
        }
    shown["sequence"] = txin.sequence
    if witness.script:
        shown["txinwitness"] = [item.hex() for item in witness.script]
    if witness.pegin:
        shown["pegin_witness"] = [item.hex() for item in witness.pegin]
    if txin.issuance is not None:
        shown["issuance"] = _issuance_json(txin, witness)
    return shown


def asset_json(field: bytes) -> dict[str, Any]:
    """The member that shows an asset field: the asset's id, or the commitment."""
    asset = asset_id(field)
    if asset is None:
        return {"assetcommitment": field.hex()}
    return {"asset": asset[::-1].hex()}


def _issuance_json(txin: TxIn, witness: InputWitness) -> dict[str, Any]:
    issuance, ids = txin.issuance, issued_ids(txin)
    if issuance is None or ids is None:
        return {}
    shown: dict[str, Any] = {
        "assetBlindingNonce": issuance.blinding_nonce[::-1].hex(),
        "assetEntropy": ids.entropy[::-1].hex(),
        "isreissuance": issuance.is_reissuance,
    }
    if not issuance.is_reissuance:
        shown["token"] = ids.token[::-1].hex()
    shown["asset"] = ids.asset[::-1].hex()
    for name, field in (("asset", issuance.amount), ("token", issuance.inflation_keys)):
        amount = value_sats(field)
        if amount is not None:
            shown[f"{name}amount"] = coins(amount)
        elif is_commitment(field):
            shown[f"{name}amountcommitment"] = field.hex()
    return shown


def _output_json(tx: Transaction, position: int, params: ChainParams) -> dict[str, Any]:
    output, witness = tx.outputs[position], tx.output_witnesses[position]
    shown: dict[str, Any] = {}
    amount = value_sats(output.value)
    if amount is not None:
        shown["value"] = coins(amount)
    else:
        shown |= _range_json(witness.range_proof)
        if witness.surjection_proof:
            shown["surjectionproof"] = witness.surjection_proof.hex()
        shown["valuecommitment"] = output.value.hex()
    shown |= asset_json(output.asset)
    shown |= _nonce_json(output)
    shown["n"] = position
    shown["scriptPubKey"] = script_json(output.script, params)
    return shown


def _nonce_json(output: TxOut) -> dict[str, Any]:
    return {
        "commitmentnonce": "" if output.nonce == NULL else output.nonce.hex(),
        "commitmentnonce_fully_valid": is_commitment(output.nonce) and is_public_key(output.nonce),
    }


def _range_json(proof: bytes) -> dict[str, Any]:
    info = range_info(proof)
    if info is None:
        return {}
    shown: dict[str, Any]
    if info.exponent == -1:
        shown = {"value": coins(info.min_sats)}
    else:
        shown = {"value-minimum": coins(info.min_sats), "value-maximum": coins(info.max_sats)}
    return shown | {"ct-exponent": info.exponent, "ct-bits": info.mantissa_bits}


def range_info(proof: bytes) -> RangeInfo | None:
    """The range a proof claims, unverified; None where its header is malformed.

    Source: elements/transactions.md 6.3.
    """
    if len(proof) < 65 or proof[0] & 0x80:
        return None
    has_range, has_minimum = proof[0] & 0x40, proof[0] & 0x20
    pos, exponent, mantissa = 1, -1, 0
    scale = 1
    if has_range:
        exponent, mantissa = proof[0] & 0x1F, proof[1] + 1
        pos = 2
        if exponent > 18 or mantissa > 64:
            return None
        scale = 10**exponent
    top = ((1 << mantissa) - 1) * scale
    bottom = int.from_bytes(proof[pos : pos + 8], "big") if has_minimum else 0
    if top + bottom >= 1 << 64:
        return None
    return RangeInfo(
        exponent=exponent, mantissa_bits=mantissa, min_sats=bottom, max_sats=top + bottom
    )
