"""RPC methods about scripts and addresses.

Source: elements/interfaces.md 3, elements/peg.md 8, elements/script.md 10.
"""

from dataclasses import replace
from typing import Any

from sidechain.api.arguments import hex_argument, text_argument
from sidechain.api.registry import INVALID_PARAMETER, Registry, RpcError
from sidechain.api.script_json import script_address, script_json
from sidechain.chain import Chain
from sidechain.errors import InvalidEncoding
from sidechain.primitives.address import Address, AddressPrefixes, decode_address, encode_address
from sidechain.script.script import (
    ScriptKind,
    classify,
    is_p2pkh,
    p2sh,
    p2wsh,
    witness_program,
)
from sidechain.validation.pegins import calculate_contract

_WRAPPED_KINDS = frozenset(
    (
        ScriptKind.PUBKEY,
        ScriptKind.PUBKEYHASH,
        ScriptKind.MULTISIG,
        ScriptKind.NONSTANDARD,
        ScriptKind.TRUE,
    )
)


class ScriptMethods:
    """Methods that need little more than the chain's parameters."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        registry.add("decodescript", self.decodescript, "Explain a script.")
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
        if classify(script) in _WRAPPED_KINDS and script[:1] != b"\x6a":
            shown["p2sh"] = encode_address(p2sh(script), params.prefixes)
            witness = p2wsh(script)
            if is_p2pkh(script):
                witness = b"\x00\x14" + script[3:23]
            nested = encode_address(p2sh(witness), params.prefixes)
            shown["segwit"] = script_json(witness, params) | {"p2sh-segwit": nested}
        elif witness_program(script) is not None:
            shown["p2sh"] = encode_address(p2sh(script), params.prefixes)
        return shown

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
        claim = hex_argument(claim_script, "claim_script")
        script = self._chain.fedpegscripts()[0].script
        if fedpegscript is not None:
            script = hex_argument(fedpegscript, "fedpegscript")
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
