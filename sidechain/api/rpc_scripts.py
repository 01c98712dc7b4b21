"""RPC methods about scripts and addresses.

Source: elements/interfaces.md 3, elements/peg.md 8, elements/script.md 10.
"""

from dataclasses import replace
from typing import Any

from sidechain.api.arguments import array_argument, hex_argument, text_argument
from sidechain.api.registry import INVALID_PARAMETER, TYPE_ERROR, Registry, RpcError
from sidechain.api.script_json import script_address, script_json, wrapped_descriptor
from sidechain.chain import Chain
from sidechain.crypto.hashes import fast_merkle_root
from sidechain.errors import InvalidEncoding
from sidechain.primitives.address import Address, AddressPrefixes, decode_address, encode_address
from sidechain.primitives.tx_parts import is_unspendable
from sidechain.script.opcodes import OP_CHECKSIGADD, OP_TWEAKVERIFY
from sidechain.script.script import (
    MAX_ELEMENT_SIZE_BYTES,
    ScriptKind,
    classify,
    contains_success,
    is_p2wsh,
    iter_ops,
    p2sh,
    p2wpkh,
    p2wsh,
    parse_multisig,
    witness_program,
)
from sidechain.validation.dynafed import pak_list
from sidechain.validation.pegins import calculate_contract

_NEVER_WRAPPED = frozenset(
    (
        ScriptKind.NULL_DATA,
        ScriptKind.SCRIPTHASH,
        ScriptKind.WITNESS_UNKNOWN,
        ScriptKind.WITNESS_V1_TAPROOT,
        ScriptKind.ANCHOR,
    )
)
_WHOLE_IN_P2WSH = frozenset((ScriptKind.TRUE, ScriptKind.FEE, ScriptKind.NONSTANDARD))


class ScriptMethods:
    """Methods that need little more than the chain's parameters."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        registry.add("decodescript", self.decodescript, "Explain a script.")
        registry.add("calcfastmerkleroot", self.calcfastmerkleroot, "Root of a tree of hashes.")
        registry.add("getpakinfo", self.getpakinfo, "Who may authorize peg-outs.")
        registry.add("validateaddress", self.validateaddress, "Explain an address.")
        registry.add(
            "tweakfedpegscript",
            self.tweakfedpegscript,
            "Deposit script and addresses for a claim script.",
        )

    def decodescript(self, hexstring: Any) -> dict[str, Any]:
        """Explain a script, and the addresses that would wrap it."""
        params = self._chain.params
        script = hex_argument(hexstring, "argument")
        shown = script_json(script, params)
        del shown["hex"]
        if not _can_wrap(script):
            return shown
        shown["p2sh"] = encode_address(p2sh(script), params.prefixes)
        witness = _witness_form(script)
        if witness is not None:
            shown["segwit"] = script_json(witness, params)
            known = wrapped_descriptor(script)
            if known is not None and is_p2wsh(witness):
                shown["segwit"]["desc"] = known
            nested = encode_address(p2sh(witness), params.prefixes)
            shown["segwit"]["p2sh-segwit"] = nested
        return shown

    def calcfastmerkleroot(self, leaves: Any) -> str:
        """Root of a tree of hashes, with SHA-256's compression function alone."""
        hashes = []
        for item in array_argument(leaves):
            digits = text_argument(item).removeprefix("0x")
            if len(digits) > 64 or any(c not in "0123456789abcdefABCDEF" for c in digits):
                raise RpcError(INVALID_PARAMETER, "leaves must be hexadecimal hashes")
            hashes.append(bytes.fromhex(digits.rjust(64, "0"))[::-1])
        return fast_merkle_root(hashes)[::-1].hex()

    def getpakinfo(self) -> dict[str, Any]:
        """Who may authorize peg-outs in the next block; an unusable list authorizes nobody."""
        keys = pak_list(self._chain.full_current())
        return {
            "block_paklist": {
                "online": [online.hex() for _, online in keys],
                "offline": [offline.hex() for offline, _ in keys],
                "reject": not keys,
            }
        }

    def validateaddress(self, address: Any) -> dict[str, Any]:
        """Explain an address of this chain or of its parent."""
        text = text_argument(address)
        params = self._chain.params
        try:
            found = decode_address(text, params.prefixes)
        except InvalidEncoding as error:
            return self._parent_address(text, error.reason)
        return {"isvalid": True, "isvalid_parent": False} | _address_json(found, params.prefixes)

    def _parent_address(self, text: str, own_error: str) -> dict[str, Any]:
        params = self._chain.params
        try:
            # elementsd takes this chain's blinding prefix before a parent address too.
            prefixes = replace(params.parent_prefixes, blinded=params.prefixes.blinded)
            found = decode_address(text, prefixes)
        except InvalidEncoding as error:
            return {
                "isvalid": False,
                "isvalid_parent": False,
                "error_locations": [],
                "error": own_error,
                "error_parent": error.reason,
            }
        info = _address_json(found, params.prefixes)
        if found.blinding_key is None:
            info["address"] = encode_address(found.script, params.parent_prefixes)
        return {"isvalid": False, "isvalid_parent": True, "parent_address_info": info}

    def tweakfedpegscript(self, claim_script: Any, fedpegscript: Any = None) -> dict[str, Any]:
        """The deposit script for a claim script, and both address forms on the parent chain."""
        params = self._chain.params
        claim = _strict_hex(claim_script, "the first argument must be a hex string")
        script = self._chain.fedpegscripts()[0].script
        if fedpegscript is not None:
            script = _strict_hex(fedpegscript, "fedpegscript must be a hex string")
        try:
            tweaked = calculate_contract(script, claim)
        except InvalidEncoding as error:
            raise RpcError(INVALID_PARAMETER, f"fedpegscript: {error}") from error
        native = p2wsh(tweaked)
        return {
            "script": tweaked.hex(),
            "p2wsh": script_address(native, params.parent_prefixes),
            "p2shwsh": script_address(p2sh(native), params.parent_prefixes),
        }


def _can_wrap(script: bytes) -> bool:
    """Whether a script makes sense behind a script hash, as elementsd sees it."""
    kind = classify(script)
    if kind in (ScriptKind.TRUE, ScriptKind.FEE):
        return True
    if kind in _NEVER_WRAPPED or is_unspendable(script):
        return False
    end = 0
    for op in iter_ops(script):
        end = op.end
        if op.data is not None and len(op.data) > MAX_ELEMENT_SIZE_BYTES:
            return False
        if op.data is None and (op.opcode > OP_TWEAKVERIFY or op.opcode == OP_CHECKSIGADD):
            return False
    return end == len(script) and not contains_success(script)


def _witness_form(script: bytes) -> bytes | None:
    """The segwit output that a script can be put into, or None."""
    kind = classify(script)
    if kind in _WHOLE_IN_P2WSH:
        return p2wsh(script)
    if kind is ScriptKind.PUBKEYHASH:
        return b"\x00\x14" + script[3:23]
    if kind is ScriptKind.PUBKEY:
        return p2wpkh(script[1:-1]) if len(script) == 35 else None
    multisig = parse_multisig(script) if kind is ScriptKind.MULTISIG else None
    if multisig is not None and all(len(key) == 33 for key in multisig[1]):
        return p2wsh(script)
    return None


def _strict_hex(value: Any, failure: str) -> bytes:
    text = text_argument(value)
    if not text or len(text) % 2 or any(c not in "0123456789abcdefABCDEF" for c in text):
        raise RpcError(TYPE_ERROR, failure)
    return bytes.fromhex(text)


def _address_json(found: Address, prefixes: AddressPrefixes) -> dict[str, Any]:
    plain = encode_address(found.script, prefixes)
    shown: dict[str, Any] = {"address": plain, "scriptPubKey": found.script.hex()}
    if found.blinding_key is not None:
        shown["address"] = encode_address(found.script, prefixes, found.blinding_key)
    program = witness_program(found.script)
    kind = classify(found.script)
    known = kind is not ScriptKind.WITNESS_UNKNOWN
    if known:
        shown["isscript"] = kind not in (
            ScriptKind.PUBKEYHASH,
            ScriptKind.WITNESS_V0_KEYHASH,
        )
    shown["iswitness"] = program is not None
    if program is not None:
        shown["witness_version"] = program[0]
        shown["witness_program"] = program[1].hex()
    if known:
        shown["confidential_key"] = (found.blinding_key or b"").hex()
        shown["unconfidential"] = plain
    return shown
