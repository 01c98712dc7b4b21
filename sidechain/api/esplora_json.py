"""Blocks, transactions and outputs as the Esplora interface shows them.

Amounts are satoshis. Fields stand in the order of the reference server; a field without a value
is left out. Source: clients.md 3.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sidechain.api.script_json import script_address
from sidechain.index.rows import Spender
from sidechain.params import ChainParams
from sidechain.primitives.block import BlockHeader
from sidechain.primitives.dynafed import FULL_KIND, ParamEntry
from sidechain.primitives.issuance import issued_ids
from sidechain.primitives.transaction import OutPoint, Transaction, TxIn, TxOut
from sidechain.script.opcodes import (
    OP_0,
    OP_1,
    OP_1NEGATE,
    OP_16,
    OP_CHECKLOCKTIMEVERIFY,
    OP_CHECKSEQUENCEVERIFY,
    OP_RETURN,
    opcode_name,
)
from sidechain.script.script import ScriptKind, classify, is_p2sh, is_p2wsh, iter_ops, last_push
from sidechain.validation.pegouts import parse_pegout

_ASM_NAMES = {
    OP_0: "OP_0",
    OP_1NEGATE: "OP_PUSHNUM_NEG1",
    OP_CHECKLOCKTIMEVERIFY: "OP_CLTV",
    OP_CHECKSEQUENCEVERIFY: "OP_CSV",
}
_TYPES = {
    ScriptKind.PUBKEY: "p2pk",
    ScriptKind.PUBKEYHASH: "p2pkh",
    ScriptKind.SCRIPTHASH: "p2sh",
    ScriptKind.WITNESS_V0_KEYHASH: "v0_p2wpkh",
    ScriptKind.WITNESS_V0_SCRIPTHASH: "v0_p2wsh",
    ScriptKind.WITNESS_V1_TAPROOT: "v1_p2tr",
}


def hex_of(data: bytes) -> str:
    """A hash as people read it: reversed hex."""
    return data[::-1].hex()


def status_json(header: BlockHeader | None, height: int | None) -> dict[str, Any]:
    """Whether a transaction is in a block, and in which."""
    if header is None or height is None:
        return {"confirmed": False}
    return {
        "confirmed": True,
        "block_height": height,
        "block_hash": hex_of(header.hash),
        "block_time": header.time,
    }


def transaction_json(
    tx: Transaction,
    params: ChainParams,
    prevouts: Mapping[OutPoint, TxOut],
    status: dict[str, Any],
) -> dict[str, Any]:
    """A transaction.

    Args:
        prevouts: what it spends; an input whose output is not there shows none.
    """
    shown: dict[str, Any] = {
        "txid": hex_of(tx.txid),
        "version": tx.version,
        "locktime": tx.locktime,
        "vin": [_input_json(tx, vin, params, prevouts) for vin in range(len(tx.inputs))],
        "vout": [output_json(output, params) for output in tx.outputs],
        "size": tx.total_size,
        "weight": tx.weight_wu,
        "fee": fee_sats(tx, params),
        "status": status,
    }
    if params.accept_discount_ct:
        shown["discount_vsize"] = tx.discount_vsize
        shown["discount_weight"] = tx.discount_weight_wu()
    return shown


def fee_sats(tx: Transaction, params: ChainParams) -> int:
    """What a transaction pays in the asset that fees are paid in."""
    paid = [o.value_sats for o in tx.outputs if o.is_fee and o.asset_id == params.policy_asset]
    return sum(amount or 0 for amount in paid)


def output_json(output: TxOut, params: ChainParams) -> dict[str, Any]:
    """An output."""
    shown: dict[str, Any] = {
        "scriptpubkey": output.script.hex(),
        "scriptpubkey_asm": script_asm(output.script),
        "scriptpubkey_type": _output_type(output),
    }
    address = script_address(output.script, params.prefixes)
    if address is not None:
        shown["scriptpubkey_address"] = address
    shown |= amount_json(output.asset, output.value)
    pegout = _pegout_json(output, params)
    if pegout is not None:
        shown["pegout"] = pegout
    return shown


def amount_json(asset: bytes, value: bytes) -> dict[str, Any]:
    """Value and asset, each shown or as its commitment."""
    shown: dict[str, Any] = {}
    if value[0] == 1:
        shown["value"] = int.from_bytes(value[1:], "big")
    else:
        shown["valuecommitment"] = value.hex()
    if asset[0] == 1:
        shown["asset"] = hex_of(asset[1:])
    else:
        shown["assetcommitment"] = asset.hex()
    return shown


def script_asm(script: bytes) -> str:
    """Opcodes as words, every push with its opcode and its bytes in hex."""
    words = list(_asm_words(script))
    return " ".join(words)


def spender_json(spender: Spender | None, status: dict[str, Any]) -> dict[str, Any]:
    """Whether an output is spent, and by what. `status` is the spender's."""
    if spender is None:
        return {"spent": False}
    return {"spent": True, "txid": hex_of(spender.txid), "vin": spender.vin, "status": status}


def block_json(
    header: BlockHeader,
    *,
    height: int,
    transaction_count: int,
    size_bytes: int,
    weight_wu: int,
    median_time_s: int,
    with_proof: bool,
) -> dict[str, Any]:
    """A block without its transactions; lists of blocks leave out who signed them."""
    shown: dict[str, Any] = {
        "id": hex_of(header.hash),
        "height": height,
        "version": header.version,
        "timestamp": header.time,
        "tx_count": transaction_count,
        "size": size_bytes,
        "weight": weight_wu,
        "merkle_root": hex_of(header.merkle_root),
        "previousblockhash": hex_of(header.prev_hash) if height else None,
        "mediantime": median_time_s,
    }
    if not with_proof:
        return shown
    if header.is_dynafed:
        shown["ext"] = {
            "current": _entry_json(header.current),
            "proposed": _entry_json(header.proposed),
            "signblock_witness": [item.hex() for item in header.signblock_witness],
        }
    else:
        shown["proof"] = {
            "challenge": header.challenge.hex(),
            "challenge_asm": script_asm(header.challenge),
            "solution": header.solution.hex(),
            "solution_asm": script_asm(header.solution),
        }
    return shown


def _input_json(
    tx: Transaction, vin: int, params: ChainParams, prevouts: Mapping[OutPoint, TxOut]
) -> dict[str, Any]:
    txin, witness = tx.inputs[vin], tx.input_witnesses[vin]
    prevout = None if txin.is_pegin else prevouts.get(txin.prevout)
    shown: dict[str, Any] = {
        "txid": hex_of(txin.prevout.txid),
        "vout": txin.prevout.index,
        "prevout": None if prevout is None else output_json(prevout, params),
        "scriptsig": txin.script_sig.hex(),
        "scriptsig_asm": script_asm(txin.script_sig),
    }
    if witness.script:
        shown["witness"] = [item.hex() for item in witness.script]
    shown["is_coinbase"] = txin.prevout.is_null
    shown["sequence"] = txin.sequence
    if prevout is not None:
        shown |= _inner_scripts(txin, prevout, witness.script)
    shown["is_pegin"] = txin.is_pegin
    if txin.issuance is not None:
        shown["issuance"] = _issuance_json(txin)
    return shown


def _inner_scripts(txin: TxIn, prevout: TxOut, witness: Sequence[bytes]) -> dict[str, str]:
    shown: dict[str, str] = {}
    redeem = last_push(txin.script_sig) if is_p2sh(prevout.script) else None
    if redeem is not None:
        shown["inner_redeemscript_asm"] = script_asm(redeem)
    if is_p2wsh(redeem if redeem is not None else prevout.script) and witness:
        shown["inner_witnessscript_asm"] = script_asm(witness[-1])
    return shown


def _issuance_json(txin: TxIn) -> dict[str, Any]:
    issuance, ids = txin.issuance, issued_ids(txin)
    if issuance is None or ids is None:
        return {}
    shown: dict[str, Any] = {
        "asset_id": hex_of(ids.asset),
        "is_reissuance": issuance.is_reissuance,
    }
    if issuance.is_reissuance:
        shown["asset_blinding_nonce"] = issuance.blinding_nonce.hex()
    else:
        shown["contract_hash"] = hex_of(issuance.entropy)
    shown["asset_entropy"] = hex_of(ids.entropy)
    for name, field in (("asset", issuance.amount), ("token", issuance.inflation_keys)):
        if field[0] == 1:
            shown[f"{name}amount"] = int.from_bytes(field[1:], "big")
        elif field[0] > 1:
            shown[f"{name}amountcommitment"] = field.hex()
    return shown


def _pegout_json(output: TxOut, params: ChainParams) -> dict[str, Any] | None:
    if output.value[0] != 1 or output.asset_id != params.pegged_asset:
        return None
    pegout = parse_pegout(output.script)
    if pegout is None or not params.has_parent_chain or pegout[0] != params.parent_genesis_hash:
        return None
    genesis_hash, script = pegout
    shown: dict[str, Any] = {
        "genesis_hash": hex_of(genesis_hash),
        "scriptpubkey": script.hex(),
        "scriptpubkey_asm": script_asm(script),
    }
    address = script_address(script, params.parent_prefixes)
    if address is not None:
        shown["scriptpubkey_address"] = address
    return shown


def _output_type(output: TxOut) -> str:
    if output.is_fee:
        return "fee"
    if not output.script:
        return "empty"
    if output.script[0] == OP_RETURN:
        return "op_return"
    return _TYPES.get(classify(output.script), "unknown")


def _asm_words(script: bytes) -> Iterator[str]:
    end = 0
    for op in iter_ops(script):
        end = op.end
        if op.opcode in _ASM_NAMES:
            yield _ASM_NAMES[op.opcode]
        elif OP_1 <= op.opcode <= OP_16:
            yield f"OP_PUSHNUM_{op.opcode - OP_1 + 1}"
        else:
            yield opcode_name(op.opcode)
            if op.data:
                yield op.data.hex()
    if end != len(script):
        yield "<push past end>"


def _entry_json(entry: ParamEntry) -> dict[str, Any]:
    if entry.is_null:
        return {}
    shown: dict[str, Any] = {
        "signblockscript": entry.signblockscript.hex(),
        "signblock_witness_limit": entry.witness_limit,
    }
    if entry.kind == FULL_KIND:
        shown["fedpeg_program"] = entry.fedpeg_program.hex()
        shown["fedpegscript"] = entry.fedpegscript.hex()
        shown["extension_space"] = [item.hex() for item in entry.extension_space]
    else:
        shown["elided_root"] = hex_of(entry.elided_root)
    return shown
