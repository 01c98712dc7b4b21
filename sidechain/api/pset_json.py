"""A PSET as `decodepsbt` shows it: field for field in elementsd's order.

Source: elements/interfaces.md 3, Elements' doc/pset.mediawiki.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sidechain.api.json_text import coins
from sidechain.api.pset_transaction import (
    NOT_BLINDED,
    input_fault,
    output_fault,
    pset_output,
)
from sidechain.api.rpc_build import HASH_TYPES
from sidechain.api.script_json import script_asm, script_json, script_type
from sidechain.api.transaction_json import transaction_json
from sidechain.params import ChainParams
from sidechain.primitives.base58 import base58check_encode
from sidechain.primitives.confidential import asset_id, value_sats
from sidechain.primitives.encoding import Reader
from sidechain.primitives.pset import VERSION, FieldMap, Pset
from sidechain.primitives.pset_values import read_leaf_path, read_stack, read_tree
from sidechain.primitives.transaction import Transaction, TxOut

_HASH_TYPE_NAMES = {code: name for name, code in HASH_TYPES.items()}
_HARDENED = 1 << 31
_MODIFIABLE_NAMES = ("inputs_modifiable", "outputs_modifiable", "has_sighash_single")
_PREIMAGES = ("ripemd160", "sha256", "hash160", "hash256")

_Show = Callable[[bytes], Any]


def pset_json(pset: Pset, params: ChainParams, label_of: Callable[[bytes], str]) -> dict[str, Any]:
    """Everything `decodepsbt` shows.

    Args:
        label_of: how an asset is called.
    """
    shared = pset.shared
    shown: dict[str, Any] = {
        "global_xpubs": [
            {
                "xpub": base58check_encode(xpub),
                "master_fingerprint": origin[:4].hex(),
                "path": path_text(origin),
            }
            for xpub, origin in shared.ordered("xpub")
        ],
        "tx_version": shared.number("tx_version", signed=True),
    }
    if shared.number("fallback_locktime") is not None:
        shown["fallback_locktime"] = shared.number("fallback_locktime")
    shown["input_count"], shown["output_count"] = len(pset.inputs), len(pset.outputs)
    flags = shared.number("tx_modifiable")
    if flags is not None:
        shown |= {name: bool(flags >> bit & 1) for bit, name in enumerate(_MODIFIABLE_NAMES)}
    shown["psbt_version"] = VERSION
    if shared.entries("scalar"):
        shown["scalar_offsets"] = [scalar.hex() for scalar in sorted(shared.entries("scalar"))]
    shown["proprietary"] = _proprietary(shared)
    shown["fees"] = _fees(pset, params, label_of)
    shown["unknown"] = _unknown(shared)
    shown["inputs"] = [_input_json(found, params) for found in pset.inputs]
    shown["outputs"] = [_output_json(found, params) for found in pset.outputs]
    return shown


def path_text(origin: bytes) -> str:
    """The path behind a fingerprint, `h` for hardened steps."""
    steps = [int.from_bytes(origin[at : at + 4], "little") for at in range(4, len(origin), 4)]
    return "m" + "".join(f"/{step % _HARDENED}{'h' if step >= _HARDENED else ''}" for step in steps)


def _fees(pset: Pset, params: ChainParams, label_of: Callable[[bytes], str]) -> dict[str, Any]:
    fees = {params.policy_asset: 0}
    for output in map(pset_output, pset.outputs):
        asset, amount = asset_id(output.asset), value_sats(output.value)
        if output.is_fee and asset is not None and amount is not None:
            fees[asset] = fees.get(asset, 0) + amount
    return {label_of(asset): coins(fees[asset]) for asset in sorted(fees)}


def _proprietary(found: FieldMap) -> list[dict[str, Any]]:
    entries = []
    for key, value in sorted(found.proprietary.items()):
        reader = Reader(key, 1)
        identifier = reader.vec()
        entries.append(
            {
                "identifier": identifier.hex(),
                "subtype": reader.compact_size(),
                "key": key.hex(),
                "value": value.hex(),
            }
        )
    return entries


def _unknown(found: FieldMap) -> dict[str, str]:
    return {key.hex(): value.hex() for key, value in sorted(found.unknown.items())}


def _input_json(found: FieldMap, params: ChainParams) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if found.get("witness_utxo"):
        spent = TxOut.decode(found.get("witness_utxo"))
        shown["witness_utxo"] = _spent_json(spent, params)
    if found.get("non_witness_utxo"):
        tx = Transaction.decode(found.get("non_witness_utxo"))
        shown["non_witness_utxo"] = transaction_json(tx, params)
    if found.entries("partial_sig"):
        shown["partial_signatures"] = _hex_map(found.ordered("partial_sig"))
    if "sighash" in found.values:
        code = found.get("sighash")[0]
        shown["sighash"] = _HASH_TYPE_NAMES.get(code, "")
    shown |= _scripts_json(found, params)
    if found.get("final_script_sig"):
        script = found.get("final_script_sig")
        shown["final_scriptSig"] = {
            "asm": script_asm(script, signatures=True),
            "hex": script.hex(),
        }
    if found.get("final_script_witness"):
        shown["final_scriptwitness"] = _stack_json(found, "final_script_witness")
    shown |= _plain_json(found, _INPUT_FIELDS)
    if "blinded_issuance" in found.values:
        shown["blinded_issuance"] = bool(found.number("blinded_issuance"))
    fault = input_fault(found, params)
    if fault is not None:
        unblinded = "ERROR: Proofs provided for unblinded input"
        shown["status"] = unblinded if fault is NOT_BLINDED else fault
    for name in _PREIMAGES:
        if found.entries(name):
            shown[f"{name}_preimages"] = _hex_map(sorted(found.entries(name).items()))
    return shown | _taproot_input_json(found) | _rest_json(found)


def _spent_json(spent: TxOut, params: ChainParams) -> dict[str, Any]:
    amount, asset = value_sats(spent.value), asset_id(spent.asset)
    shown: dict[str, Any] = (
        {"amountcommitment": spent.value.hex()} if amount is None else {"amount": coins(amount)}
    )
    if asset is None:
        shown["assetcommitment"] = spent.asset.hex()
    else:
        shown["asset"] = asset[::-1].hex()
    return shown | {"scriptPubKey": script_json(spent.script, params)}


def _scripts_json(found: FieldMap, params: ChainParams) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name in ("redeem_script", "witness_script"):
        script = found.get(name)
        if script:
            shown[name] = {
                "asm": script_asm(script),
                "hex": script.hex(),
                "type": script_type(script, params),
            }
    if found.entries("bip32"):
        shown["bip32_derivs"] = [
            {
                "pubkey": key.hex(),
                "master_fingerprint": origin[:4].hex(),
                "path": path_text(origin),
            }
            for key, origin in sorted(found.entries("bip32").items())
        ]
    return shown


def _taproot_input_json(found: FieldMap) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if found.get("tap_key_sig"):
        shown["taproot_key_path_sig"] = found.get("tap_key_sig").hex()
    if found.entries("tap_script_sig"):
        shown["taproot_script_path_sigs"] = [
            {"pubkey": key[:32].hex(), "leaf_hash": key[32:].hex(), "sig": value.hex()}
            for key, value in sorted(found.entries("tap_script_sig").items())
        ]
    if found.entries("tap_script"):
        leaves: dict[bytes, list[str]] = {}
        for block, leaf in found.ordered("tap_script"):
            leaves.setdefault(leaf, []).append(block.hex())
        shown["taproot_scripts"] = [
            {"script": leaf[:-1].hex(), "leaf_ver": leaf[-1], "control_blocks": blocks}
            for leaf, blocks in leaves.items()
        ]
    shown |= _taproot_paths(found)
    for name in ("internal_key", "merkle_root"):
        if found.get(f"tap_{name}"):
            shown[f"taproot_{name}"] = found.get(f"tap_{name}").hex()
    return shown


def _taproot_paths(found: FieldMap) -> dict[str, Any]:
    if not found.entries("tap_bip32"):
        return {}
    paths = []
    for key, value in sorted(found.entries("tap_bip32").items()):
        hashes, origin = read_leaf_path(value)
        paths.append(
            {
                "pubkey": key.hex(),
                "master_fingerprint": origin[:4].hex(),
                "path": path_text(origin),
                "leaf_hashes": [leaf.hex() for leaf in hashes],
            }
        )
    return {"taproot_bip32_derivs": paths}


def _rest_json(found: FieldMap) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if found.proprietary:
        shown["proprietary"] = _proprietary(found)
    if found.unknown:
        shown["unknown"] = _unknown(found)
    return shown


def _output_json(found: FieldMap, params: ChainParams) -> dict[str, Any]:
    shown = _scripts_json(found, params)
    if "amount" in found.values:
        shown["amount"] = _amount(found.get("amount"))
    shown["script"] = script_json(found.get("script"), params)
    shown |= _plain_json(found, _OUTPUT_FIELDS)
    fault = output_fault(found)
    if fault is not None:
        shown["status"] = "needs blinding" if fault is NOT_BLINDED else fault
    if found.get("tap_internal_key"):
        shown["taproot_internal_key"] = found.get("tap_internal_key").hex()
    if found.get("tap_tree"):
        shown["taproot_tree"] = [
            {"depth": depth, "leaf_ver": version, "script": script.hex()}
            for depth, version, script in read_tree(found.get("tap_tree"))
        ]
    return shown | _taproot_paths(found) | _rest_json(found)


def _plain_json(found: FieldMap, fields: Mapping[str, tuple[str, _Show]]) -> dict[str, Any]:
    return {
        shown_as: show(found.get(name))
        for name, (shown_as, show) in fields.items()
        if name in found.values
    }


def _amount(value: bytes) -> Any:
    return coins(int.from_bytes(value, "little", signed=True))


def _number(value: bytes) -> int:
    return int.from_bytes(value, "little")


def _reversed(value: bytes) -> str:
    return value[::-1].hex()


def _items(value: bytes) -> list[str]:
    return [item.hex() for item in read_stack(value)]


def _stack_json(found: FieldMap, name: str) -> list[str]:
    return _items(found.get(name))


def _hex_map(entries: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {key.hex(): value.hex() for key, value in entries}


_INPUT_FIELDS: Mapping[str, tuple[str, _Show]] = {
    "previous_txid": ("previous_txid", _reversed),
    "previous_vout": ("previous_vout", _number),
    "sequence": ("sequence", _number),
    "time_locktime": ("time_locktime", _number),
    "height_locktime": ("height_locktime", _number),
    "issuance_value": ("issuance_value", _amount),
    "issuance_value_commitment": ("issuance_value_commitment", bytes.hex),
    "issuance_value_rangeproof": ("issuance_value_rangeproof", bytes.hex),
    "issuance_value_proof": ("blind_issuance_value_proof", bytes.hex),
    "issuance_keys": ("issuance_reissuance_amount", _amount),
    "issuance_keys_commitment": ("issuance_reissuance_amount_commitment", bytes.hex),
    "issuance_keys_rangeproof": ("issuance_reissuance_amount_rangeproof", bytes.hex),
    "issuance_keys_proof": ("blind_reissuance_amount_proof", bytes.hex),
    "issuance_blinding_nonce": ("issuance_blinding_nonce", _reversed),
    "issuance_asset_entropy": ("issuance_asset_entropy", _reversed),
    "pegin_tx": ("pegin_bitcoin_tx", bytes.hex),
    "pegin_proof": ("pegin_txout_proof", bytes.hex),
    "pegin_claim_script": ("pegin_claim_script", bytes.hex),
    "pegin_genesis_hash": ("pegin_genesis_hash", _reversed),
    "pegin_value": ("pegin_value", _amount),
    "pegin_witness": ("pegin_witness", _items),
    "utxo_rangeproof": ("utxo_rangeproof", bytes.hex),
    "explicit_value": ("explicit_value", _amount),
    "value_proof": ("value_proof", bytes.hex),
    "explicit_asset": ("explicit_asset", _reversed),
    "asset_proof": ("asset_proof", bytes.hex),
}
_OUTPUT_FIELDS: Mapping[str, tuple[str, _Show]] = {
    "value_commitment": ("value_commitment", bytes.hex),
    "asset_commitment": ("asset_commitment", bytes.hex),
    "asset": ("asset", _reversed),
    "rangeproof": ("rangeproof", bytes.hex),
    "surjection_proof": ("surjection_proof", bytes.hex),
    "ecdh_pubkey": ("ecdh_pubkey", bytes.hex),
    "blinding_pubkey": ("blinding_pubkey", bytes.hex),
    "blinder_index": ("blinder_index", _number),
    "blind_value_proof": ("blind_value_proof", bytes.hex),
    "blind_asset_proof": ("blind_asset_proof", bytes.hex),
}
