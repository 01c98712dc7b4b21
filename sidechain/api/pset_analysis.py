"""What a PSET still needs, as `analyzepsbt` says it.

Source: elements/interfaces.md 3; order of checks and texts as elementsd's.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from sidechain.api.json_text import coins
from sidechain.api.pset_signing import Provider, PsetSigner, Solution
from sidechain.api.pset_transaction import (
    NOT_BLINDED,
    final_transaction,
    output_fault,
    pset_output,
)
from sidechain.params import MAX_MONEY_SATS, ChainParams
from sidechain.policy.fees import virtual_size
from sidechain.policy.inputs import spend_sigop_cost
from sidechain.primitives.confidential import is_commitment
from sidechain.primitives.pset import FieldMap, Pset
from sidechain.validation.coins import Coin


class _Role(IntEnum):
    UPDATER = 1
    BLINDER = 2
    SIGNER = 3
    FINALIZER = 4
    EXTRACTOR = 5


class _Invalid(Exception):
    """The PSET cannot become a transaction; elementsd's text."""

    def __init__(self, text: str, outputs: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(text)
        self.outputs = outputs


def analysis(pset: Pset, params: ChainParams) -> dict[str, Any]:
    """Everything `analyzepsbt` shows. Changes the PSET."""
    try:
        return _analysis(pset, params)
    except _Invalid as fault:
        # elementsd names the creator, who must begin again, and leaves the rest out.
        shown = {"outputs": list(fault.outputs)} if fault.outputs else {}
        return shown | {"next": "creator", "error": str(fault)}


def _analysis(pset: Pset, params: ChainParams) -> dict[str, Any]:
    inputs, roles, has_hidden = [], [], False
    for position, found in enumerate(pset.inputs):
        hidden = _check_input(position, found, params)
        has_hidden = has_hidden or hidden
        shown, role = _input_json(pset, position, params)
        inputs.append(shown)
        roles.append(role)
    outputs, fee_sats = _outputs(pset)
    if fee_sats is None:
        raise _Invalid("PSBT missing required fee output", outputs)
    to_blind = [found for found in pset.outputs if found.is_to_be_blinded]
    if has_hidden and not to_blind:
        raise _Invalid(
            "PSBT has blinded inputs but no blinded outputs. Must have at least one blinded"
            " output to balance with the inputs",
            outputs,
        )
    if not all(found.is_blinded for found in to_blind):
        roles.append(_Role.BLINDER)
    shown = {"inputs": inputs} if inputs else {}
    shown |= {"outputs": outputs} if outputs else {}
    vsize = _estimated_vsize(pset, params)
    if vsize is not None:
        shown["estimated_vsize"] = vsize
        shown["estimated_feerate"] = coins(fee_sats * 1000 // vsize)
    shown["fee"] = coins(fee_sats)
    shown["next"] = min(roles, default=_Role.EXTRACTOR).name.lower()
    return shown


def _check_input(position: int, found: FieldMap, params: ChainParams) -> bool:
    """Check what an input spends; whether its amount is hidden."""
    spent = found.spent(params)
    if spent is None:
        if found.get("non_witness_utxo"):
            raise _Invalid(f"PSBT is not valid. Input {position} specifies invalid prevout")
        return False
    amount = spent.value_sats
    if amount is not None and not 0 <= amount <= MAX_MONEY_SATS:
        raise _Invalid(f"PSBT is not valid. Input {position} has invalid value")
    if spent.is_unspendable:
        raise _Invalid(f"PSBT is not valid. Input {position} spends unspendable output")
    return is_commitment(spent.value)


def _input_json(pset: Pset, position: int, params: ChainParams) -> tuple[dict[str, Any], _Role]:
    found = pset.inputs[position]
    has_utxo = found.spent(params) is not None
    signer = PsetSigner(pset, params, Provider())
    is_final = signer.is_verified(position)
    role, missing = _Role.EXTRACTOR, {}
    if not is_final:
        out = signer.sign(position, finalize=True)
        if out.is_complete:
            role = _Role.FINALIZER
        else:
            missing = _missing_json(out)
            only_signatures = out.missing_signatures and not out.misses_data
            role = _Role.SIGNER if only_signatures else _Role.UPDATER
    shown: dict[str, Any] = {
        "has_utxo": has_utxo,
        "is_final": is_final,
        "next": role.name.lower(),
    }
    return (shown | {"missing": missing} if missing else shown), role


def _missing_json(out: Solution) -> dict[str, Any]:
    missing: dict[str, Any] = {}
    if out.missing_pubkeys:
        missing["pubkeys"] = [key.hex() for key in out.missing_pubkeys]
    if out.missing_redeem_script:
        missing["redeemscript"] = out.missing_redeem_script.hex()
    if out.missing_witness_script:
        missing["witnessscript"] = out.missing_witness_script.hex()
    if out.missing_signatures:
        missing["signatures"] = [key.hex() for key in out.missing_signatures]
    return missing


def _outputs(pset: Pset) -> tuple[Sequence[dict[str, Any]], int | None]:
    shown, fee_sats = [], None
    for found in pset.outputs:
        output, fault = pset_output(found), output_fault(found)
        status = "done" if fault is None else fault
        shown.append(
            {
                "blind": found.is_to_be_blinded,
                "status": "unblinded" if fault is NOT_BLINDED else status,
            }
        )
        if not found.is_to_be_blinded and output.is_fee:
            if fee_sats is not None:
                raise _Invalid("There is more than one fee output", shown)
            fee_sats = found.number("amount", signed=True)
        amount = output.value_sats
        if amount is not None and not 0 <= amount <= MAX_MONEY_SATS:
            raise _Invalid("PSBT is not valid. Output amount invalid", shown)
    return shown, fee_sats


def _estimated_vsize(pset: Pset, params: ChainParams) -> int | None:
    """The size once signed, where everything but signatures is there."""
    spent = []
    for position, found in enumerate(pset.inputs):
        signer = PsetSigner(pset, params, Provider())
        if not signer.sign(position, finalize=True, dummy=True).is_complete:
            return None
        output = found.spent(params)
        if output is None:
            return None
        spent.append(Coin.of(output, height=1, coinbase=True))
    tx = final_transaction(pset)
    return virtual_size(tx.weight_wu, spend_sigop_cost(tx, spent), params.bytes_per_sigop)
