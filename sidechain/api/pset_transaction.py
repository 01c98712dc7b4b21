"""The transaction that a PSET makes, and whether its proofs hold.

Source: Elements' doc/pset.mediawiki, BIP 370.
"""

from dataclasses import replace

from sidechain.api.registry import DESERIALIZATION_ERROR, RpcError
from sidechain.crypto.zkp import (
    asset_generator,
    serialize_generator,
    verify_range_proof,
    verify_surjection_proof,
)
from sidechain.errors import InvalidEncoding, InvalidTransaction
from sidechain.params import ChainParams
from sidechain.primitives.confidential import (
    NULL,
    asset_id,
    explicit_asset,
    is_commitment,
    value_sats,
)
from sidechain.primitives.encoding import be64, le32
from sidechain.primitives.pset import (
    EXTRA_DATA,
    INVALID_BASE64,
    VERSION,
    FieldMap,
    Pset,
    decode_pset,
)
from sidechain.primitives.pset_values import parent_proof, parent_tx, read_stack
from sidechain.primitives.transaction import (
    SEQUENCE_FINAL,
    InputWitness,
    Issuance,
    OutputWitness,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.validation.pegins import parse_pegin

NOT_BLINDED = "not blinded"
NO_VALUE_PROOF = "WARNING: has confidential and explicit values but no proof connecting them"
NO_ASSET_PROOF = "WARNING: has confidential and explicit assets but no proof connecting them"
WRONG_VALUE_PROOF = "ERROR: has invalid value proof, the value may be a lie!"
WRONG_ASSET_PROOF = "ERROR: has invalid asset proof, the asset may be a lie!"


def pset_of(tx: Transaction, params: ChainParams) -> Pset:
    """The PSET of a transaction, without its signatures and proofs."""
    inputs, outputs = [], []
    for txin, witness in zip(tx.inputs, tx.input_witnesses, strict=True):
        values = {
            "previous_txid": txin.prevout.txid,
            "previous_vout": le32(txin.prevout.index),
            "sequence": le32(txin.sequence),
        }
        if txin.issuance is not None:
            values |= _issuance_values(txin.issuance)
        if txin.is_pegin:
            values |= _pegin_values(witness.pegin, params)
        inputs.append(FieldMap(values))
    for output in tx.outputs:
        values = {"script": output.script}
        asset, amount = asset_id(output.asset), value_sats(output.value)
        if asset is None:
            values["asset_commitment"] = output.asset
        else:
            values["asset"] = asset
        if amount is None:
            values["value_commitment"] = output.value
        else:
            values["amount"] = output.value[:0:-1]
        if is_commitment(output.nonce):
            values["blinding_pubkey"] = output.nonce
        outputs.append(FieldMap(values))
    shared = {
        "tx_version": le32(tx.version),
        "fallback_locktime": le32(tx.locktime),
        "version": le32(VERSION),
    }
    return Pset(FieldMap(shared), inputs, outputs)


def _issuance_values(issuance: Issuance) -> dict[str, bytes]:
    values = {}
    for name, field in (
        ("issuance_value", issuance.amount),
        ("issuance_keys", issuance.inflation_keys),
    ):
        if is_commitment(field):
            values[f"{name}_commitment"] = field
        elif field != NULL:
            values[name] = field[:0:-1]
    if any(issuance.blinding_nonce):
        values["issuance_blinding_nonce"] = issuance.blinding_nonce
    if any(issuance.entropy):
        values["issuance_asset_entropy"] = issuance.entropy
    return values


def _pegin_values(items: tuple[bytes, ...], params: ChainParams) -> dict[str, bytes]:
    try:
        claim = parse_pegin(items, params)
        return {
            "pegin_tx": parent_tx(items[4], params),
            "pegin_proof": parent_proof(items[5], params),
            "pegin_genesis_hash": claim.parent_genesis,
            "pegin_claim_script": items[3],
            "pegin_value": items[0][:8],
        }
    except (InvalidEncoding, InvalidTransaction):
        return {}


def read_pset(text: str, params: ChainParams, what: str = "TX") -> Pset:
    """Read a PSET that makes a transaction.

    Args:
        what: how the fault calls it.
    Raises:
        RpcError: DESERIALIZATION_ERROR with elementsd's words.
    """
    try:
        pset = decode_pset(text, params)
        unsigned_transaction(pset)
    except InvalidEncoding as error:
        raise RpcError(
            DESERIALIZATION_ERROR, f"{what} decode failed {_as_shown(error.reason)}"
        ) from error
    return pset


def _as_shown(reason: str) -> str:
    if reason in (INVALID_BASE64, EXTRA_DATA):
        return reason
    stream = "DataStream::read(): " if reason == "end of data" else ""
    return f"{stream}{reason}: iostream error"


def unsigned_transaction(pset: Pset) -> Transaction:
    """The transaction without signatures, peg-in witnesses and input proofs."""
    return Transaction.build(
        version=pset.shared.number("tx_version") or 0,
        inputs=[_input(found) for found in pset.inputs],
        outputs=[pset_output(found) for found in pset.outputs],
        locktime=pset.locktime(),
    )


def unblinded_txid(pset: Pset) -> bytes:
    """What copies of a PSET share: the txid before blinding, lock times and sequences."""
    inputs = []
    for found in pset.inputs:
        values = {
            name: value
            for name, value in found.values.items()
            if not (
                name.endswith("_commitment") and name.removesuffix("_commitment") in found.values
            )
        }
        inputs.append(replace(_input(FieldMap(values)), sequence=0))
    outputs = []
    for found in pset.outputs:
        asset, amount = found.get("asset"), found.number("amount")
        output = pset_output(found)
        outputs.append(
            TxOut(
                asset=explicit_asset(asset) if asset else output.asset,
                value=output.value if amount is None else b"\x01" + be64(amount),
                nonce=NULL,
                script=output.script,
            )
        )
    version = pset.shared.number("tx_version") or 0
    return Transaction.build(version=version, inputs=inputs, outputs=outputs).txid


def final_transaction(pset: Pset) -> Transaction:
    """The transaction with all that is final in the inputs."""
    bare = unsigned_transaction(pset)
    inputs, witnesses = [], []
    for txin, found in zip(bare.inputs, pset.inputs, strict=True):
        pegin = read_stack(found.get("pegin_witness"))
        inputs.append(replace(txin, script_sig=found.get("final_script_sig"), is_pegin=bool(pegin)))
        witnesses.append(
            InputWitness(
                issuance_range_proof=found.get("issuance_value_rangeproof"),
                inflation_range_proof=found.get("issuance_keys_rangeproof"),
                script=read_stack(found.get("final_script_witness")),
                pegin=pegin,
            )
        )
    return Transaction.build(
        version=bare.version,
        inputs=inputs,
        outputs=bare.outputs,
        locktime=bare.locktime,
        input_witnesses=witnesses,
        output_witnesses=[
            OutputWitness(found.get("surjection_proof"), found.get("rangeproof"))
            for found in pset.outputs
        ],
    )


def _input(found: FieldMap) -> TxIn:
    amount = _amount(found, "issuance_value")
    keys = _amount(found, "issuance_keys")
    issuance = None
    if amount != NULL or keys != NULL:
        issuance = Issuance(
            blinding_nonce=found.get("issuance_blinding_nonce") or bytes(32),
            entropy=found.get("issuance_asset_entropy") or bytes(32),
            amount=amount,
            inflation_keys=keys,
        )
    sequence = found.number("sequence")
    return TxIn(
        found.outpoint,
        sequence=SEQUENCE_FINAL if sequence is None else sequence,
        issuance=issuance,
    )


def _amount(found: FieldMap, name: str) -> bytes:
    """A value field of an issuance: the commitment where there is one."""
    commitment = found.get(f"{name}_commitment")
    if commitment:
        return commitment
    amount = found.number(name)
    return NULL if amount is None else b"\x01" + be64(amount)


def pset_output(found: FieldMap) -> TxOut:
    """An output as it will be; a commitment stands where there is one."""
    value = found.get("value_commitment")
    asset = found.get("asset_commitment")
    return TxOut(
        asset=asset or explicit_asset(found.get("asset")),
        value=value or b"\x01" + be64(found.number("amount") or 0),
        nonce=found.get("ecdh_pubkey") or NULL,
        script=found.get("script"),
    )


def output_fault(found: FieldMap) -> str | None:
    """What is wrong with the proofs of an output; None where nothing is."""
    if not found.is_to_be_blinded:
        return None
    if not found.is_blinded:
        return NOT_BLINDED
    value, asset = found.get("value_commitment"), found.get("asset_commitment")
    amount, asset_shown = found.number("amount"), found.get("asset")
    if amount is not None:
        fault = _value_fault(amount, value, asset, found.get("blind_value_proof"))
        if fault is not None:
            return fault
    if not asset_shown:
        return None
    return _asset_fault(asset_shown, asset, found.get("blind_asset_proof"))


def input_fault(found: FieldMap, params: ChainParams) -> str | None:
    """What is wrong with the proofs of what an input spends; None where nothing is."""
    spent = found.spent(params)
    if spent is None:
        return None
    amount, asset_shown = found.number("explicit_value"), found.get("explicit_asset")
    if amount is not None:
        if not is_commitment(spent.value):
            return NOT_BLINDED
        fault = _value_fault(amount, spent.value, spent.asset, found.get("value_proof"))
        if fault is not None:
            return fault
    if not asset_shown:
        return None
    if not is_commitment(spent.asset):
        return NOT_BLINDED
    return _asset_fault(asset_shown, spent.asset, found.get("asset_proof"))


def _value_fault(amount: int, value: bytes, asset: bytes, proof: bytes) -> str | None:
    if not proof:
        return NO_VALUE_PROOF
    proved = verify_range_proof(proof, value, asset, b"") if len(asset) == len(value) else None
    return None if proved is not None and proved[0] == amount else WRONG_VALUE_PROOF


def _asset_fault(asset_shown: bytes, asset: bytes, proof: bytes) -> str | None:
    if not proof:
        return NO_ASSET_PROOF
    target = serialize_generator(asset_generator(asset_shown))
    return None if verify_surjection_proof(proof, [target], asset) else WRONG_ASSET_PROOF
