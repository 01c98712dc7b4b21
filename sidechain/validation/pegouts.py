"""Peg-out outputs: recognising them, and who may make them.

To consensus they are ordinary burns, unless the chain demands an authorisation (PAK): a proof that
the owner of some pair of listed keys allows the key that is to be paid on the parent chain.

Source: elements/peg.md 5.
"""

from collections.abc import Sequence

from sidechain.crypto.hashes import hash160
from sidechain.crypto.zkp import verify_whitelist_proof
from sidechain.errors import InvalidTransaction
from sidechain.params import ChainParams
from sidechain.primitives.transaction import TxOut
from sidechain.script.opcodes import OP_PUSHDATA4, OP_RETURN
from sidechain.script.script import is_p2pkh, iter_ops, p2sh, p2wpkh

_KEY_BYTES = 33


def parse_pegout(script: bytes) -> tuple[bytes, bytes] | None:
    """Read `OP_RETURN <parent genesis hash> <parent script> [more pushes]`.

    The hash is not compared with any chain, and neither amount nor asset are looked at: who pays
    out must itself ask for an explicit amount of the pegged asset.

    Returns:
        Parent genesis hash (32 bytes, internal order) and the script to pay, or None.
    """
    if not script or script[0] != OP_RETURN:
        return None  # as nearly all scripts; many are asked about
    ops = list(iter_ops(script))
    if len(ops) < 3:
        return None
    genesis, destination = ops[1].data, ops[2].data
    if genesis is None or len(genesis) != 32 or destination is None:
        return None
    if any(item.opcode > OP_PUSHDATA4 for item in ops[3:]):
        return None
    return genesis, destination


def check_pegout_authorisation(
    output: TxOut, pak_list: Sequence[tuple[bytes, bytes]], params: ChainParams
) -> None:
    """Check that an output, if it is a peg-out of this chain, is one a listed pair of keys allows.

    Outputs that hide their asset, are in another asset or are no peg-out to this chain's parent
    need no authorisation.

    Args:
        pak_list: offline and online key of every entry; with an empty list nobody may peg out.
    Raises:
        InvalidTransaction: "invalid-pegout-proof", as the mempool says; a block calls the same
            "bad-pak-tx".
    Source: elements/peg.md 5.2.
    """
    if output.asset_id != params.pegged_asset:
        return
    pegout = parse_pegout(output.script)
    if pegout is None or pegout[0] != params.parent_genesis_hash:
        return
    # What is cut off at the end of the script was no push to begin with.
    pushes = [item.data for item in iter_ops(output.script)][3:]
    fault = _authorisation_fault(pegout[1], pushes, pak_list)
    if fault is not None:
        raise InvalidTransaction("invalid-pegout-proof", fault)


def _authorisation_fault(
    destination: bytes,
    pushes: Sequence[bytes | None],
    pak_list: Sequence[tuple[bytes, bytes]],
) -> str | None:
    """What is wrong with the pushes behind the destination, or None."""
    if not pak_list:
        return "no keys may authorise peg-outs now"
    if len(pushes) != 2:
        return "not one key and one proof behind the destination"
    key, proof = pushes
    if key is None or len(key) != _KEY_BYTES:
        return "the key is not 33 bytes"
    if not _pays(destination, key):
        return "the destination is not of the key"
    online = [entry[1] for entry in pak_list]
    offline = [entry[0] for entry in pak_list]
    if proof is None or not verify_whitelist_proof(proof, online, offline, key):
        return "the proof does not hold"
    return None


def _pays(destination: bytes, key: bytes) -> bool:
    """Whether a parent script is one of the three forms that pay a single key."""
    if is_p2pkh(destination):
        return destination[3:23] == hash160(key)
    return destination in (p2wpkh(key), p2sh(p2wpkh(key)))
