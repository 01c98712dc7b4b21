"""Keys, origins and inner scripts of descriptors, for signing and for telling signers.

Source: BIP 380 (key expressions), BIP 32, BIP 386.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import wallycore

from sidechain.api.pset_signing import Provider
from sidechain.crypto.hashes import hash160
from sidechain.crypto.keys import (
    GROUP_ORDER,
    is_public_key,
    public_key,
    tweak_add_public,
    tweak_add_secret,
)
from sidechain.errors import InvalidEncoding
from sidechain.params import ChainParams
from sidechain.primitives.address import decode_secret
from sidechain.primitives.encoding import le32
from sidechain.script.taproot import tweak_hash

_KEY = re.compile(
    r"(?:\[(?P<fingerprint>[0-9a-fA-F]{8})(?P<origin>(?:/\d+['h]?)*)\])?"
    r"(?P<key>\b(?:[0-9a-fA-F]{130}|[0-9a-fA-F]{66}|[0-9a-fA-F]{64}|[1-9A-HJ-NP-Za-km-z]{51,112})\b)"
    r"(?P<path>(?:/\d+['h]?)*)(?P<wildcard>/\*['h]?)?"
)
_WRAPPERS = re.compile(r"^(?:sh\()?(?:wsh\()?")
_KEYS_IN_FULL = ("pk", "multi", "sortedmulti", "rawtr")
_HARDENED = 1 << 31
_MAX_DEPTH = 3
_FAULTS = (ValueError, RuntimeError)


@dataclass(frozen=True, slots=True)
class _Key:
    pubkey: bytes
    secret: bytes | None
    origin: bytes


def provide_keys(
    body: str, parsed: Any, index: int, provider: Provider, params: ChainParams
) -> None:
    """Add what a descriptor says of one index.

    Args:
        body: the descriptor with its private keys, without its checksum.
        parsed: libwally's form of it, or None.
    """
    if body.startswith(("raw(", "addr(")):
        return
    # elementsd finds keys by their hash only where the descriptor's own script has it.
    names_hashes = _WRAPPERS.sub("", body).partition("(")[0] not in _KEYS_IN_FULL
    for key in _keys(body, index, params):
        if names_hashes:
            provider.by_hash[hash160(key.pubkey)] = key.pubkey
        provider.origins[key.pubkey] = key.origin
        if key.secret is not None:
            provider.secrets[key.pubkey] = key.secret
        if body.startswith(("tr(", "rawtr(")) and len(key.pubkey) == 33:
            _provide_taproot(key, provider, is_raw=body.startswith("rawtr("))
    for depth in range(1, _MAX_DEPTH if parsed is not None else 1):
        try:
            script = wallycore.descriptor_to_script(parsed, depth, 0, 0, 0, index, 0)
        except _FAULTS:
            break
        provider.add_script(bytes(script))


def _provide_taproot(key: _Key, provider: Provider, *, is_raw: bool) -> None:
    internal = key.pubkey[1:]
    if is_raw:
        provider.taproot[internal] = (b"", key.secret)
        return
    output_key = tweak_add_public(b"\x02" + internal, tweak_hash(internal))[1:]
    secret = key.secret
    if secret is not None:
        if key.pubkey[0] == 3:
            secret = (GROUP_ORDER - int.from_bytes(secret, "big")).to_bytes(32, "big")
        secret = tweak_add_secret(secret, tweak_hash(internal))
    provider.taproot[output_key] = (internal, secret)


def _keys(body: str, index: int, params: ChainParams) -> Iterator[_Key]:
    for match in _KEY.finditer(body):
        text = match["key"]
        steps = _path(match["path"])
        if match["wildcard"]:
            steps.append(index + (_HARDENED if match["wildcard"][-1] in "'h" else 0))
        found = _plain_key(text, params) or _extended_key(text, steps)
        if found is None:
            continue
        pubkey, secret, own_origin = found
        origin = own_origin
        if match["fingerprint"]:
            before = b"".join(map(le32, _path(match["origin"])))
            origin = bytes.fromhex(match["fingerprint"]) + before + own_origin[4:]
        yield _Key(pubkey, secret, origin)


def _plain_key(text: str, params: ChainParams) -> tuple[bytes, bytes | None, bytes] | None:
    """A key in hex or in wallet import format."""
    secret = None
    try:
        pubkey = bytes.fromhex(text)
        pubkey = b"\x02" + pubkey if len(pubkey) == 32 else pubkey
    except ValueError:
        try:
            secret, compressed = decode_secret(text, params.prefixes)
        except InvalidEncoding:
            return None
        pubkey = public_key(secret, compressed=compressed)
    if not is_public_key(pubkey):
        return None
    return pubkey, secret, hash160(pubkey)[:4]


def _extended_key(text: str, steps: list[int]) -> tuple[bytes, bytes | None, bytes] | None:
    try:
        parent = wallycore.bip32_key_from_base58(text)
        is_private = wallycore.bip32_key_get_version(parent) in (
            wallycore.BIP32_VER_MAIN_PRIVATE,
            wallycore.BIP32_VER_TEST_PRIVATE,
        )
        flag = wallycore.BIP32_FLAG_KEY_PRIVATE if is_private else wallycore.BIP32_FLAG_KEY_PUBLIC
        child = wallycore.bip32_key_from_parent_path(parent, steps, flag) if steps else parent
        secret = bytes(wallycore.bip32_key_get_priv_key(child)) if is_private else None
        pubkey = bytes(wallycore.bip32_key_get_pub_key(child))
    except _FAULTS:
        return None
    fingerprint = bytes(wallycore.bip32_key_get_fingerprint(parent))
    return pubkey, secret, fingerprint + b"".join(map(le32, steps))


def _path(text: str) -> list[int]:
    steps = []
    for word in text.split("/")[1:]:
        number = int(word.rstrip("'h")) % _HARDENED
        steps.append(number + (_HARDENED if word[-1] in "'h" else 0))
    return steps
