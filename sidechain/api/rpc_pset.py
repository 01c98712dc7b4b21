"""RPC methods that make and show partially signed transactions (PSET version 2).

Source: elements/interfaces.md 3, Elements' doc/pset.mediawiki; compared with elementsd's texts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sidechain.api.arguments import (
    flag_argument,
    hash_argument,
    hex_argument,
    integer_argument,
    text_argument,
)
from sidechain.api.build_arguments import (
    WantedInput,
    WantedOutput,
    amount_argument,
    locktime_argument,
    wanted_inputs,
    wanted_outputs,
)
from sidechain.api.pset_json import pset_json
from sidechain.api.pset_transaction import pset_of, read_pset
from sidechain.api.registry import (
    DESERIALIZATION_ERROR,
    INVALID_PARAMETER,
    TYPE_ERROR,
    Registry,
    RpcError,
)
from sidechain.api.rpc_build import decoded_transaction
from sidechain.chain import Chain
from sidechain.errors import InvalidEncoding
from sidechain.primitives.encoding import le32, le64
from sidechain.primitives.issuance import issued_ids, token_from_entropy
from sidechain.primitives.pset_values import parent_proof, parent_tx
from sidechain.primitives.transaction import Transaction

VERSION = 2


class PsetMethods:
    """Methods that need nothing of the chain but its parameters."""

    def __init__(self, chain: Chain, labels: Mapping[str, bytes]) -> None:
        """
        Args:
            labels: asset id in internal order by label.
        """
        self._chain = chain
        self._labels = {asset: label for label, asset in labels.items()}

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        add = registry.add
        add("createpsbt", self.createpsbt, "Make a PSET of inputs and outputs.")
        add("converttopsbt", self.converttopsbt, "Make a PSET of a raw transaction.")
        add("decodepsbt", self.decodepsbt, "Show a PSET.")
        add("parsepsbt", self.parsepsbt, "Write a PSET anew, and whether that changed it.")
        add("updatepsbtpegin", self.updatepsbtpegin, "Say what an input claims.")

    def createpsbt(
        self,
        inputs: Any,
        outputs: Any,
        locktime: Any = None,
        replaceable: Any = None,
        psbt_version: Any = None,
    ) -> str:
        """Make a PSET of inputs and outputs; peg-ins and issuances may be among them."""
        signals = None if replaceable is None else flag_argument(replaceable, True)
        lock = locktime_argument(locktime)
        chosen = wanted_inputs(
            inputs, self._chain, replaceable=signals, locktime=lock, issuances=True
        )
        made = wanted_outputs(outputs, self._chain.params)
        if psbt_version is not None and integer_argument(psbt_version) != VERSION:
            raise RpcError(INVALID_PARAMETER, "The PSBT version can only be 2")
        _check_issued(chosen, made)
        tx = Transaction.build(
            inputs=[wanted.txin for wanted in chosen],
            outputs=[wanted.output(key_as_nonce=False) for wanted in made],
            locktime=lock,
            input_witnesses=[wanted.witness for wanted in chosen],
        )
        pset = pset_of(tx, self._chain.params)
        for found, wanted in zip(pset.outputs, made, strict=True):
            if wanted.blinding_key:
                found.values["blinding_pubkey"] = wanted.blinding_key
            if wanted.blinder_index is not None:
                found.values["blinder_index"] = le32(wanted.blinder_index)
        return pset.text()

    def converttopsbt(
        self, hexstring: Any, permitsigdata: Any = None, iswitness: Any = None
    ) -> str:
        """Make a PSET of a raw transaction; signatures in it are an error or dropped."""
        permit = flag_argument(permitsigdata, False)
        flag_argument(iswitness, True)
        tx = decoded_transaction(hexstring, "TX decode failed")
        for what, has_any in (
            ("scriptSigs", any(txin.script_sig for txin in tx.inputs)),
            ("scriptWitnesses", any(witness.script for witness in tx.input_witnesses)),
        ):
            if has_any and not permit:
                raise RpcError(DESERIALIZATION_ERROR, f"Inputs must not have {what}")
        pset = pset_of(tx, self._chain.params)
        for found in pset.outputs:
            found.values["blinder_index"] = le32(0)
        return pset.text()

    def decodepsbt(self, psbt: Any) -> dict[str, Any]:
        """Show a PSET."""
        params = self._chain.params
        return pset_json(read_pset(text_argument(psbt), params), params, self._label)

    def _label(self, asset: bytes) -> str:
        return self._labels.get(asset) or asset[::-1].hex()

    def parsepsbt(self, psbt: Any) -> dict[str, Any]:
        """Write a PSET anew, and whether that changed it."""
        text = text_argument(psbt)
        encoded = read_pset(text, self._chain.params, "PSBT").text()
        return {"psbt": encoded, "canonical": encoded == text}

    def updatepsbtpegin(
        self,
        psbt: Any,
        input: Any,
        value: Any = None,
        bitcoin_tx: Any = None,
        txout_proof: Any = None,
        claim_script: Any = None,
        genesis_hash: Any = None,
    ) -> str:
        """Say what an input claims, as far as given."""
        params = self._chain.params
        pset = read_pset(text_argument(psbt), params)
        position = integer_argument(input)
        if not 0 <= position < len(pset.inputs):
            raise RpcError(INVALID_PARAMETER, "Input index out of range")
        values = pset.inputs[position].values
        if value is not None:
            values["pegin_value"] = le64(amount_argument(value))
        if bitcoin_tx is not None:
            try:
                values["pegin_tx"] = parent_tx(_lenient_hex(bitcoin_tx), params)
            except InvalidEncoding as error:
                raise RpcError(TYPE_ERROR, "The bitcoin_tx is malformed") from error
        if txout_proof is not None:
            try:
                values["pegin_proof"] = parent_proof(_lenient_hex(txout_proof), params)
            except InvalidEncoding as error:
                raise RpcError(TYPE_ERROR, "The txout proof is malformed") from error
        if claim_script is not None:
            values["pegin_claim_script"] = hex_argument(claim_script, "claim_script")
        if genesis_hash is not None:
            values["pegin_genesis_hash"] = hash_argument(genesis_hash, "genesis_hash")
        return pset.text()


def _check_issued(inputs: Sequence[WantedInput], outputs: Sequence[WantedOutput]) -> None:
    """Every new asset, and every new token, must have an output."""
    paid = {wanted.asset for wanted in outputs}
    assets, tokens = set(), set()
    for wanted in inputs:
        ids = issued_ids(wanted.txin)
        if ids is not None:
            assets.add(ids.asset)
            if wanted.txin.issuance is not None and len(wanted.txin.issuance.inflation_keys) > 1:
                tokens.add(
                    token_from_entropy(ids.entropy, confidential_amount=wanted.blind_issuance)
                )
    if assets - paid:
        raise RpcError(INVALID_PARAMETER, "Missing output for new assets")
    if tokens - paid:
        raise RpcError(INVALID_PARAMETER, "Missing output for reissuance tokens")


def _lenient_hex(value: Any) -> bytes:
    """Bytes of hex, none for anything else: what reads them says what is wrong."""
    try:
        return bytes.fromhex(text_argument(value))
    except ValueError:
        return b""
