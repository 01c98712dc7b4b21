"""The federation's signature on a block header.

The signed message is the block hash itself. In the dynamic-federation form signatures end in the
hash type byte 01; in the legacy form they have none.

Source: elements/blocks.md 3.
"""

from collections.abc import Mapping, Sequence

from sidechain.crypto.keys import ecdsa_verify, ecdsa_verify_compact, strict_low_s
from sidechain.errors import InvalidBlock, InvalidEncoding, ScriptError
from sidechain.params import ChainParams
from sidechain.primitives.block import BlockHeader
from sidechain.primitives.encoding import vectors
from sidechain.script.flags import BLOCK_SIGNATURE_FLAGS, Flags, SigVersion
from sidechain.script.interpreter import verify_script
from sidechain.script.machine import SignatureChecker
from sidechain.script.script import multisig_script, p2wsh, parse_multisig
from sidechain.script.sighash import SIGHASH_ALL

_HASH_TYPE = bytes((SIGHASH_ALL,))
_COMPRESSED = (2, 3)


class BlockHashChecker(SignatureChecker):
    """Checks signatures over one block hash; a block has no lock times, and nothing to inspect."""

    def __init__(self, block_hash: bytes, *, with_hash_type: bool) -> None:
        self._block_hash = block_hash
        self._with_hash_type = with_hash_type

    def check_signature(
        self, signature: bytes, pubkey: bytes, script_code: bytes, version: SigVersion
    ) -> bool:
        """Whether the signature is by `pubkey`; a hash type other than 01 never is."""
        del script_code, version
        if self._with_hash_type:
            if not signature or signature[-1] != SIGHASH_ALL:
                return False
            signature = signature[:-1]
        return ecdsa_verify(pubkey, signature, self._block_hash)


def verify_block_signature(header: BlockHeader, params: ChainParams) -> None:
    """Check the signatures of a header against the script that it names.

    Whether it names the right script is for the contextual rules. The genesis block has none.

    Raises:
        InvalidBlock: "block-proof-invalid".
    """
    if header.hash == params.genesis_hash:
        return
    if header.is_dynafed:
        script, script_sig = header.current.signblockscript, b""
        witness = header.signblock_witness
        too_large = len(vectors(witness)) > header.current.witness_limit
    else:
        _verify_solution(header, params.signblockscript, params)
        return
    if too_large:
        raise InvalidBlock("block-proof-invalid", "signatures exceed the size limit")
    if signers_of(header) is not None:
        return
    flags = BLOCK_SIGNATURE_FLAGS if witness else BLOCK_SIGNATURE_FLAGS | Flags.NO_SIGHASH_BYTE
    checker = BlockHashChecker(header.hash, with_hash_type=bool(witness))
    try:
        verify_script(script_sig, script, witness, flags, checker)
    except ScriptError as fault:
        raise InvalidBlock("block-proof-invalid", fault.reason) from fault


def signers_of(header: BlockHeader) -> tuple[tuple[bytes, bytes], ...] | None:
    """Who signed a header, where k of n members did so in the form that `signblock_witness` makes.

    The script interpreter accepts that form, so a header for which this is not None needs no run
    of the script.

    Returns:
        Public keys with their signatures of 64 bytes, in the order of the script; None where the
        script has to be run to know.
    """
    script, witness = header.current.signblockscript, header.signblock_witness
    if len(witness) < 3 or witness[0] or p2wsh(witness[-1]) != script:
        return None
    parsed = parse_multisig(witness[-1])
    if parsed is None or multisig_script(*parsed) != witness[-1]:
        return None
    threshold, keys = parsed
    signatures = [strict_low_s(item[:-1]) for item in witness[1:-1] if item[-1:] == _HASH_TYPE]
    if len(signatures) != threshold or len(witness) - 2 != threshold or None in signatures:
        return None
    found: list[tuple[bytes, bytes]] = []
    for key in keys:
        signature = signatures[len(found)] or b""
        if key[0] in _COMPRESSED and ecdsa_verify_compact(key, signature, header.hash):
            found.append((key, signature))
            if len(found) == threshold:
                return tuple(found)
    return None


def verify_parent_signature(header: BlockHeader, params: ChainParams) -> None:
    """Check the signatures of a header of a parent that is an Elements chain.

    One with federation parameters passes: who may sign it is not known here.

    Raises:
        InvalidBlock: "block-proof-invalid".
    Source: elements/peg.md 3.1, item 5.
    """
    if not header.is_dynafed:
        _verify_solution(header, params.parent_chain_signblockscript, params)


def _verify_solution(header: BlockHeader, script: bytes, params: ChainParams) -> None:
    if len(header.solution) > params.max_block_sig_size:
        raise InvalidBlock("block-proof-invalid", "signatures exceed the size limit")
    flags = BLOCK_SIGNATURE_FLAGS | Flags.NO_SIGHASH_BYTE
    checker = BlockHashChecker(header.hash, with_hash_type=False)
    try:
        verify_script(header.solution, script, (), flags, checker)
    except ScriptError as fault:
        raise InvalidBlock("block-proof-invalid", fault.reason) from fault


def signblock_witness(
    threshold: int, pubkeys: Sequence[bytes], signatures: Mapping[bytes, bytes]
) -> tuple[bytes, ...]:
    """The witness of a k-of-n multisig in P2WSH: empty item, k signatures in key order, script.

    Args:
        pubkeys: all keys, in script order.
        signatures: DER without hash type, by public key; the first `threshold` in key order are
            used.
    Raises:
        InvalidEncoding: fewer than `threshold` signatures.
    """
    ordered = [signatures[key] for key in pubkeys if key in signatures][:threshold]
    if len(ordered) < threshold:
        raise InvalidEncoding("too few block signatures")
    marked = [signature + bytes((SIGHASH_ALL,)) for signature in ordered]
    return (b"", *marked, multisig_script(threshold, pubkeys))


def signblock_witness_size(threshold: int, key_count: int) -> int:
    """Largest serialized size in bytes of `signblock_witness` with low-S signatures."""
    script = multisig_script(threshold, [b"\x02" * 33] * key_count)
    return len(vectors((b"", *[bytes(72)] * threshold, script)))
