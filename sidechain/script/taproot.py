"""Taproot: the hashes of its trees and signatures, and the proof that a key commits to a script.

Elements' tags end in "/elements", so that no tree and no signature is valid on both chains.

Source: elements/script.md 4.1 and 4.2.
"""

from sidechain.crypto.hashes import sha256, tagged_hash
from sidechain.crypto.keys import xonly_tweak_add_check
from sidechain.errors import InvariantError
from sidechain.primitives.encoding import le32, vec
from sidechain.script.sighash import (
    SIGHASH_ALL,
    SIGHASH_ANYONECANPAY,
    SIGHASH_SINGLE,
    SighashCache,
    TaprootPath,
    issuance_proofs,
    outpoint_flag,
)

TAG_LEAF = "TapLeaf/elements"
TAG_BRANCH = "TapBranch/elements"
TAG_TWEAK = "TapTweak/elements"
TAG_SIGHASH = "TapSighash/elements"

LEAF_TAPSCRIPT = 0xC4
LEAF_SIMPLICITY = 0xBE
LEAF_VERSION_MASK = 0xFE
ANNEX_TAG = 0x50

CONTROL_BASE_BYTES = 33
CONTROL_NODE_BYTES = 32
CONTROL_NODES_MAX = 128

_OUTPUT_TYPE_MASK = 3
_HASH_TYPES = frozenset((0x00, 0x01, 0x02, 0x03, 0x81, 0x82, 0x83))


def leaf_hash(version: int, script: bytes) -> bytes:
    """Hash of one leaf: its version (parity bit cleared) and its script."""
    return tagged_hash(TAG_LEAF, bytes((version,)) + vec(script))


def branch_hash(left: bytes, right: bytes) -> bytes:
    """Hash of two nodes, the smaller one first."""
    return tagged_hash(TAG_BRANCH, min(left, right) + max(left, right))


def tweak_hash(internal_key: bytes, merkle_root: bytes = b"") -> bytes:
    """What is added to the internal key; without scripts there is no root."""
    return tagged_hash(TAG_TWEAK, internal_key + merkle_root)


def annex_hash(annex: bytes) -> bytes:
    """Hash of an annex, as signatures commit to it."""
    return sha256(vec(annex))


def is_annex(item: bytes) -> bool:
    """Whether the last of at least two witness items is an annex."""
    return bool(item) and item[0] == ANNEX_TAG


def is_control_block(control: bytes) -> bool:
    """Whether it is of a size that holds an internal key and up to 128 nodes."""
    nodes, rest = divmod(len(control) - CONTROL_BASE_BYTES, CONTROL_NODE_BYTES)
    return not rest and 0 <= nodes <= CONTROL_NODES_MAX


def commits_to(output_key: bytes, control: bytes, leaf: bytes) -> bool:
    """Whether the control block proves that the output key commits to the leaf.

    Args:
        control: for which `is_control_block` holds.
    """
    root = leaf
    for start in range(CONTROL_BASE_BYTES, len(control), CONTROL_NODE_BYTES):
        root = branch_hash(root, control[start : start + CONTROL_NODE_BYTES])
    internal_key = control[1:CONTROL_BASE_BYTES]
    tweak = tweak_hash(internal_key, root)
    return xonly_tweak_add_check(output_key, control[0] & 1, internal_key, tweak)


def taproot_sighash(
    cache: SighashCache, index: int, hash_type: int, path: TaprootPath
) -> bytes | None:
    """The 32 bytes a BIP340 signature of input `index` signs.

    Args:
        cache: with all spent outputs and the genesis hash.
        hash_type: 0 where the signature has no hash type byte.
    Returns:
        None for an undefined hash type, and for SINGLE without an output of the same index.
    Raises:
        InvariantError: the cache does not know the spent outputs or the genesis hash.
    """
    if len(cache.genesis_hash) != 32:
        raise InvariantError("a taproot spend is judged without the genesis hash")
    output_type = hash_type & _OUTPUT_TYPE_MASK or SIGHASH_ALL
    single = output_type == SIGHASH_SINGLE
    if hash_type not in _HASH_TYPES or (single and index >= len(cache.tx.outputs)):
        return None
    anyone = bool(hash_type & SIGHASH_ANYONECANPAY)
    spend_type = 2 * (path.leaf_hash is not None) + (path.annex_hash is not None)
    parts = [
        cache.genesis_hash * 2,
        bytes((hash_type,)),
        le32(cache.tx.version) + le32(cache.tx.locktime),
    ]
    if not anyone:
        parts += _all_inputs(cache)
    if output_type == SIGHASH_ALL:
        parts += [cache.outputs, cache.output_witnesses]
    parts.append(bytes((spend_type,)))
    parts += _own_input(cache, index) if anyone else [le32(index)]
    parts.append(path.annex_hash or b"")
    if single:
        parts += [cache.output(index), cache.output_witness(index)]
    if path.leaf_hash is not None:
        parts += [path.leaf_hash, b"\0", le32(path.code_separator)]
    return tagged_hash(TAG_SIGHASH, b"".join(parts))


def _all_inputs(cache: SighashCache) -> list[bytes]:
    return [
        cache.outpoint_flags,
        cache.prevouts,
        cache.spent_amounts,
        cache.spent_scripts,
        cache.sequences,
        cache.issuances,
        cache.issuance_proofs,
    ]


def _own_input(cache: SighashCache, index: int) -> list[bytes]:
    item, spent = cache.tx.inputs[index], cache.all_spent[index]
    parts = [
        outpoint_flag(item),
        item.prevout.serialize(),
        spent.asset,
        spent.value,
        vec(spent.script),
        le32(item.sequence),
    ]
    if item.issuance is None:
        return [*parts, b"\0"]
    proofs = sha256(issuance_proofs(cache.tx.input_witnesses[index]))
    return [*parts, item.issuance.serialize(), proofs]
