"""Putting block signatures into the form a signblockscript asks for.

Source: elements/blocks.md 3, elements/interfaces.md 2 (`combineblocksigs`).
"""

from collections.abc import Mapping

from sidechain.crypto.hashes import hash160
from sidechain.script.opcodes import OP_CHECKSIG
from sidechain.script.script import (
    ScriptKind,
    classify,
    is_key_sized,
    is_p2pkh,
    is_p2wpkh,
    is_p2wsh,
    p2pkh_of_hash,
    p2wsh,
    parse_multisig,
    push,
    push_number,
)

Signatures = Mapping[bytes, bytes]
"""By public key, each in the form the block asks for."""


def solution_script(challenge: bytes, signatures: Signatures) -> bytes:
    """The solution of a legacy header, as far as the signatures go."""
    return b"".join(_push_item(item) for item in _solve(challenge, signatures))


def solution_witness(
    signblockscript: bytes, signatures: Signatures, witness_script: bytes
) -> tuple[bytes, ...]:
    """The signblock witness of a header with federation parameters, as far as they go.

    Args:
        witness_script: what a P2WSH program is the hash of; any other is left out.
    """
    if is_p2wpkh(signblockscript):
        return tuple(_solve(p2pkh_of_hash(signblockscript[2:]), signatures))
    if not is_p2wsh(signblockscript) or p2wsh(witness_script) != signblockscript:
        return ()
    return (*_solve(witness_script, signatures), witness_script)


def _solve(script: bytes, signatures: Signatures) -> list[bytes]:
    """What satisfies a script; a multisig that lacks signatures is padded with empty ones."""
    parsed = parse_multisig(script)
    if parsed is not None:
        threshold, keys = parsed
        found = [signatures[key] for key in keys if key in signatures][:threshold]
        return [b"", *found, *[b""] * (threshold - len(found))]
    if is_p2pkh(script):
        for key, signature in signatures.items():
            if hash160(key) == script[3:23]:
                return [signature, key]
        return []
    key = script[1:-1]
    if classify(script) is ScriptKind.PUBKEY and script == push(key) + bytes((OP_CHECKSIG,)):
        return [signatures[key]] if is_key_sized(key) and key in signatures else []
    return []


def _push_item(item: bytes) -> bytes:
    if len(item) == 1 and 1 <= item[0] <= 16:
        return push_number(item[0])
    return push(item)
