"""RPC methods about keys and addresses that are handed over: nothing is kept.

Source: elements/interfaces.md 3.
"""

import base64
import binascii
from typing import Any

import wallycore

from sidechain.api.arguments import array_argument, integer_argument, text_argument
from sidechain.api.registry import (
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    TYPE_ERROR,
    Registry,
    RpcError,
)
from sidechain.api.rpc_build import secret_argument
from sidechain.api.script_json import add_checksum
from sidechain.chain import Chain
from sidechain.crypto.hashes import hash160, sha256d
from sidechain.crypto.keys import is_public_key
from sidechain.errors import InvalidEncoding
from sidechain.primitives.address import Address, decode_address, encode_address
from sidechain.primitives.encoding import compact_size
from sidechain.script.script import is_p2pkh, multisig_script, p2sh, p2wsh

MAX_MULTISIG_KEYS = 20
MAX_PUSH_BYTES = 520
_MESSAGE_MAGIC = b"Bitcoin Signed Message:\n"
_ADDRESS_TYPES = ("legacy", "p2sh-segwit", "bech32")
_COMPACT_SIGNATURE_BYTES = 65


class KeyMethods:
    """Needs nothing of the chain but its prefixes."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        add = registry.add
        add("createmultisig", self.createmultisig, "Multisig script, address and descriptor.")
        add("createblindedaddress", self.createblindedaddress, "Address with a blinding key.")
        add("signmessagewithprivkey", self.signmessagewithprivkey, "Sign a text.")
        add("verifymessage", self.verifymessage, "Whether a text was signed by an address.")

    def createmultisig(self, nrequired: Any, keys: Any, address_type: Any = None) -> dict[str, Any]:
        """Multisig script of some public keys, its address and its descriptor."""
        required = integer_argument(nrequired)
        pubkeys = [_public_key(text) for text in array_argument(keys)]
        kind = "legacy" if address_type is None else text_argument(address_type)
        if kind == "bech32m":
            raise RpcError(
                INVALID_ADDRESS_OR_KEY,
                "createmultisig cannot create bech32m multisig addresses",
            )
        if kind not in _ADDRESS_TYPES:
            raise RpcError(INVALID_ADDRESS_OR_KEY, f"Unknown address type '{kind}'")
        _check_counts(required, pubkeys)
        inner = multisig_script(required, pubkeys)
        if len(inner) > MAX_PUSH_BYTES and kind == "legacy":
            raise RpcError(
                INVALID_PARAMETER,
                f"redeemScript exceeds size limit: {len(inner)} > {MAX_PUSH_BYTES}",
            )
        made = kind if all(len(key) == 33 for key in pubkeys) else "legacy"
        body = f"multi({required},{','.join(key.hex() for key in pubkeys)})"
        script, form = {
            "legacy": (p2sh(inner), "sh({})"),
            "p2sh-segwit": (p2sh(p2wsh(inner)), "sh(wsh({}))"),
            "bech32": (p2wsh(inner), "wsh({})"),
        }[made]
        shown: dict[str, Any] = {
            "address": encode_address(script, self._chain.params.prefixes),
            "redeemScript": inner.hex(),
            "descriptor": add_checksum(form.format(body)),
        }
        if made != kind:
            shown["warnings"] = [
                "Unable to make chosen address type, please ensure no uncompressed public keys"
                " are present."
            ]
        return shown

    def createblindedaddress(self, address: Any, blinding_key: Any) -> str:
        """An address with a blinding key."""
        found = self._address(address, "Invalid Bitcoin address or script")
        if found.blinding_key is not None:
            raise RpcError(INVALID_ADDRESS_OR_KEY, "Not an unblinded address")
        text = text_argument(blinding_key)
        try:
            key = bytes.fromhex(text)
        except ValueError:
            key = b""
        if not key:
            raise RpcError(INVALID_ADDRESS_OR_KEY, "Invalid hexadecimal for key")
        if len(key) != 33:
            raise RpcError(
                INVALID_ADDRESS_OR_KEY, "Invalid hexadecimal key length, must be length 66."
            )
        try:
            return encode_address(found.script, self._chain.params.prefixes, key)
        except InvalidEncoding as error:
            raise RpcError(INVALID_ADDRESS_OR_KEY, str(error)) from error

    def _address(self, value: Any, failure: str) -> Address:
        try:
            return decode_address(text_argument(value), self._chain.params.prefixes)
        except InvalidEncoding as error:
            raise RpcError(INVALID_ADDRESS_OR_KEY, failure) from error

    def signmessagewithprivkey(self, privkey: Any, message: Any) -> str:
        """Sign a text; the signature names its key, in base64."""
        secret, compressed = secret_argument(privkey, self._chain)
        digest = _message_digest(text_argument(message))
        flags = wallycore.EC_FLAG_ECDSA | wallycore.EC_FLAG_RECOVERABLE
        signature = bytearray(wallycore.ec_sig_from_bytes(secret, digest, flags))
        # The first byte says which key, and 4 more that the key is compressed.
        recovery = (signature[0] - 27) & 3
        signature[0] = 27 + recovery + 4 * compressed
        return base64.b64encode(bytes(signature)).decode()

    def verifymessage(self, address: Any, signature: Any, message: Any) -> bool:
        """Whether the key of a P2PKH address signed a text."""
        found = self._address(address, "Invalid address")
        if not is_p2pkh(found.script):
            raise RpcError(TYPE_ERROR, "Address does not refer to key")
        try:
            raw = base64.b64decode(text_argument(signature), validate=True)
        except (binascii.Error, ValueError) as error:
            raise RpcError(TYPE_ERROR, "Malformed base64 encoding") from error
        pubkey = _recovered(raw, _message_digest(text_argument(message)))
        return pubkey is not None and hash160(pubkey) == found.script[3:23]


def _check_counts(required: int, pubkeys: list[bytes]) -> None:
    if required < 1:
        raise RpcError(
            INVALID_PARAMETER,
            "a multisignature address must require at least one key to redeem",
        )
    if len(pubkeys) < required:
        raise RpcError(
            INVALID_PARAMETER,
            f"not enough keys supplied (got {len(pubkeys)} keys, but need at least {required}"
            " to redeem)",
        )
    if len(pubkeys) > MAX_MULTISIG_KEYS:
        raise RpcError(
            INVALID_PARAMETER,
            "Number of keys involved in the multisignature address creation >"
            f" {MAX_MULTISIG_KEYS}\nReduce the number",
        )


def _public_key(value: Any) -> bytes:
    text = text_argument(value)
    if not text or any(c not in "0123456789abcdefABCDEF" for c in text) or len(text) % 2:
        raise RpcError(INVALID_ADDRESS_OR_KEY, f'Pubkey "{text}" must be a hex string')
    if len(text) not in (66, 130):
        raise RpcError(
            INVALID_ADDRESS_OR_KEY,
            f'Pubkey "{text}" must have a length of either 33 or 65 bytes',
        )
    key = bytes.fromhex(text)
    if not is_public_key(key):
        raise RpcError(INVALID_ADDRESS_OR_KEY, f'Pubkey "{text}" must be cryptographically valid.')
    return key


def _message_digest(message: str) -> bytes:
    data = message.encode()
    return sha256d(
        compact_size(len(_MESSAGE_MAGIC)) + _MESSAGE_MAGIC + compact_size(len(data)) + data
    )


def _recovered(signature: bytes, digest: bytes) -> bytes | None:
    """The public key a signature names, in the form it says, or None."""
    if len(signature) != _COMPACT_SIGNATURE_BYTES or not 27 <= signature[0] <= 34:
        return None
    compressed = bool((signature[0] - 27) & 4)
    recovery = bytes((27 + ((signature[0] - 27) & 3),)) + signature[1:]
    try:
        pubkey = bytes(wallycore.ec_sig_to_public_key(digest, recovery))
    except (ValueError, RuntimeError):
        return None
    return pubkey if compressed else bytes(wallycore.ec_public_key_decompress(pubkey))
