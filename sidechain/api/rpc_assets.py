"""RPC methods about assets: labels, ids, issuing in raw transactions.

Source: elements/interfaces.md 3, elements/transactions.md 4 and 8.
"""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sidechain.api.arguments import (
    array_argument,
    flag_argument,
    hash_argument,
    integer_argument,
    object_argument,
    text_argument,
)
from sidechain.api.build_arguments import amount_argument
from sidechain.api.registry import (
    INVALID_PARAMETER,
    TYPE_ERROR,
    Registry,
    RpcError,
)
from sidechain.api.rpc_build import decoded_transaction
from sidechain.chain import Chain
from sidechain.errors import InvalidEncoding
from sidechain.primitives.address import Address, decode_address
from sidechain.primitives.confidential import (
    NULL,
    explicit_asset,
    explicit_value,
)
from sidechain.primitives.issuance import (
    asset_from_entropy,
    issuance_entropy,
    token_from_entropy,
)
from sidechain.primitives.transaction import Issuance, OutPoint, Transaction, TxIn, TxOut


class AssetMethods:
    """Needs the chain only for its parameters and the fedpegscripts in force."""

    def __init__(self, chain: Chain, labels: Mapping[str, bytes]) -> None:
        """
        Args:
            labels: asset id in internal order by label.
        """
        self._chain = chain
        self._labels = labels

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        add = registry.add
        add("dumpassetlabels", self.dumpassetlabels, "Labels of assets.")
        add("calculateasset", self.calculateasset, "Ids that an issuance on a coin would make.")
        add("rawissueasset", self.rawissueasset, "Add issuances to a transaction.")
        add("rawreissueasset", self.rawreissueasset, "Add reissuances to a transaction.")

    def dumpassetlabels(self) -> dict[str, str]:
        """Labels of assets."""
        return {label: asset[::-1].hex() for label, asset in sorted(self._labels.items())}

    def calculateasset(
        self,
        txid: Any,
        vout: Any,
        asset_entropy: Any = None,
        blind_reissuance: Any = None,
    ) -> dict[str, str]:
        """Ids that an issuance on a coin would make."""
        outpoint = OutPoint(hash_argument(txid, "txid"), integer_argument(vout) & 0xFFFFFFFF)
        contract = bytes(32)
        if asset_entropy is not None:
            contract = hash_argument(asset_entropy, "asset_entropy")
        hidden = flag_argument(blind_reissuance, True)
        entropy = issuance_entropy(outpoint, contract)
        token = token_from_entropy(entropy, confidential_amount=hidden)
        return {
            "asset_tag": asset_from_entropy(entropy)[::-1].hex(),
            "reissuance_asset_tag": token[::-1].hex(),
            "final_asset_entropy": entropy[::-1].hex(),
        }

    def rawissueasset(self, transaction: Any, issuances: Any) -> list[dict[str, Any]]:
        """Add issuances to the first inputs that have none, and the outputs they pay."""
        tx = _transaction_with_fee(transaction)
        wanted = array_argument(issuances)
        shown: list[dict[str, Any]] = []
        for item in wanted:
            tx, details = self._issued(tx, object_argument(item))
            last = len(shown) + 1 == len(wanted)
            shown.append(({"hex": tx.raw.hex()} if last else {}) | details)
        return shown

    def _issued(self, tx: Transaction, entry: dict[str, Any]) -> tuple[Transaction, dict[str, Any]]:
        asset_sats, asset_to = self._issued_part(entry, "asset")
        token_sats, token_to = self._issued_part(entry, "token")
        if asset_to is None and token_to is None:
            raise RpcError(TYPE_ERROR, "Issuance must have one non-zero component")
        hidden = entry.get("blind")
        is_hidden = hidden if isinstance(hidden, bool) else True
        contract = bytes(32)
        if entry.get("contract_hash") is not None:
            contract = hash_argument(entry["contract_hash"], "contract_hash")
        free = [index for index, txin in enumerate(tx.inputs) if txin.issuance is None]
        if not free:
            raise RpcError(
                INVALID_PARAMETER, "Failed to find enough blank inputs for listed issuances."
            )
        index = free[0]
        entropy = issuance_entropy(tx.inputs[index].prevout, contract)
        asset = asset_from_entropy(entropy)
        token = token_from_entropy(entropy, confidential_amount=is_hidden)
        issuance = Issuance(
            blinding_nonce=bytes(32),
            entropy=contract,
            amount=explicit_value(asset_sats) if is_hidden or asset_sats else NULL,
            inflation_keys=explicit_value(token_sats) if token_sats else NULL,
        )
        outputs = list(tx.outputs)
        for destination, identity, sats in (
            (asset_to, asset, asset_sats),
            (token_to, token, token_sats),
        ):
            if destination is not None:
                # Anywhere before the fee, so that the place tells nothing.
                place = secrets.randbelow(len(outputs))
                outputs.insert(place, _output(destination, identity, sats))
        details = {
            "vin": index,
            "entropy": entropy[::-1].hex(),
            "asset": asset[::-1].hex(),
            "token": token[::-1].hex(),
        }
        return _rebuilt(tx, index, issuance, outputs), details

    def _issued_part(self, entry: dict[str, Any], kind: str) -> tuple[int, Address | None]:
        """Amount and destination of one component; none where no amount is named."""
        if not _is_number(entry.get(f"{kind}_amount")):
            return 0, None
        amount_sats = amount_argument(entry[f"{kind}_amount"], bounded=False)
        if amount_sats <= 0:
            raise RpcError(INVALID_PARAMETER, f"Invalid parameter, {kind}_amount must be positive")
        text = entry.get(f"{kind}_address")
        if not isinstance(text, str):
            raise RpcError(
                INVALID_PARAMETER, f"Invalid parameter, missing corresponding {kind}_address"
            )
        return amount_sats, self._destination(text, kind)

    def _destination(self, text: str, kind: str) -> Address:
        try:
            return decode_address(text, self._chain.params.prefixes)
        except InvalidEncoding as error:
            raise RpcError(INVALID_PARAMETER, f"Invalid {kind} address provided: {text}") from error

    def rawreissueasset(self, transaction: Any, reissuances: Any) -> dict[str, str]:
        """Add reissuances to inputs that spend the tokens, and the outputs they pay."""
        tx = _transaction_with_fee(transaction)
        for item in array_argument(reissuances):
            entry = object_argument(item)
            if not _is_number(entry.get("asset_amount")):
                raise RpcError(INVALID_PARAMETER, "Asset amount must be given for each reissuance.")
            amount_sats = amount_argument(entry["asset_amount"], bounded=False)
            if amount_sats <= 0:
                raise RpcError(
                    INVALID_PARAMETER, "Invalid parameter, asset_amount must be positive"
                )
            text = entry.get("asset_address")
            if not isinstance(text, str):
                raise RpcError(INVALID_PARAMETER, "Reissuance missing asset_address")
            destination = self._destination(text, "asset")
            index = _reissuing_input(tx, entry.get("input_index"))
            blinder = hash_argument(entry.get("asset_blinder"), "asset_blinder")
            entropy = hash_argument(entry.get("entropy"), "entropy")
            issuance = Issuance(
                blinding_nonce=blinder,
                entropy=entropy,
                amount=explicit_value(amount_sats),
                inflation_keys=NULL,
            )
            outputs = list(tx.outputs)
            made = _output(destination, asset_from_entropy(entropy), amount_sats)
            outputs.insert(secrets.randbelow(len(outputs)), made)
            tx = _rebuilt(tx, index, issuance, outputs)
        return {"hex": tx.raw.hex()}


def _transaction_with_fee(value: Any) -> Transaction:
    """A transaction whose last output is its only fee."""
    tx = decoded_transaction(text_argument(value), "TX decode failed")
    if not tx.outputs:
        raise RpcError(INVALID_PARAMETER, "Transaction must have at least one output.")
    if not tx.outputs[-1].is_fee:
        raise RpcError(INVALID_PARAMETER, "Last transaction output must be fee.")
    if any(output.is_fee for output in tx.outputs[:-1]):
        raise RpcError(INVALID_PARAMETER, "Transaction can only have one fee output.")
    return tx


def _reissuing_input(tx: Transaction, value: Any) -> int:
    if not _is_number(value):
        raise RpcError(INVALID_PARAMETER, "Input indexes for all reissuances are required.")
    index = integer_argument(value)
    if index < 0:
        raise RpcError(INVALID_PARAMETER, "Input index must be non-negative.")
    if index >= len(tx.inputs):
        raise RpcError(INVALID_PARAMETER, "Input index must exist in transaction.")
    if tx.inputs[index].issuance is not None:
        raise RpcError(INVALID_PARAMETER, "Selected transaction input already has issuance data.")
    return index


def _is_number(value: Any) -> bool:
    return value is not None and not isinstance(value, (bool, str, list, dict))


def _output(destination: Address, asset: bytes, amount_sats: int) -> TxOut:
    return TxOut(
        asset=explicit_asset(asset),
        value=explicit_value(amount_sats),
        nonce=destination.blinding_key or NULL,
        script=destination.script,
    )


def _rebuilt(tx: Transaction, index: int, issuance: Issuance, outputs: list[TxOut]) -> Transaction:
    """The transaction with an issuance on one input and other outputs, which have no proofs."""
    inputs: list[TxIn] = list(tx.inputs)
    inputs[index] = replace(inputs[index], issuance=issuance)
    return Transaction.build(
        version=tx.version,
        inputs=inputs,
        outputs=outputs,
        locktime=tx.locktime,
        input_witnesses=tx.input_witnesses,
    )
