"""Addresses of a sidechain and of its parent, plain and confidential.

An address is a text form of an output script; a confidential one also carries the receiver's
blinding key. Which prefixes count is always passed in.

Source: elements/script.md 10, elements/transactions.md 8.5. Error texts are elementsd's.
"""

from dataclasses import dataclass

from sidechain.crypto.keys import is_public_key
from sidechain.errors import InvalidEncoding
from sidechain.params import BITCOIN_REGTEST, ELEMENTS_REGTEST, AddressPrefixes
from sidechain.primitives import bech32
from sidechain.primitives.base58 import base58_decode, base58check_decode, base58check_encode
from sidechain.primitives.bech32 import BECH32, BLECH32

__all__ = [
    "BITCOIN_REGTEST",
    "ELEMENTS_REGTEST",
    "Address",
    "AddressPrefixes",
    "decode_address",
    "decode_secret",
    "encode_address",
    "encode_secret",
]

_BLINDING_KEY_SIZE = 33
_HASH_SIZE = 20
BECH32_TOO_LONG = "Bech32 string too long"
_MAX_BASE58_PAYLOAD = 55
_MAX_PROGRAM_SIZE = 40


@dataclass(frozen=True, slots=True)
class Address:
    """What an address means: the output script and, if confidential, the key to blind for."""

    script: bytes
    blinding_key: bytes | None = None


def encode_address(
    script: bytes, prefixes: AddressPrefixes, blinding_key: bytes | None = None
) -> str:
    """The address of an output script.

    Args:
        blinding_key: compressed public key; with it the address is confidential.
    Raises:
        InvalidEncoding: the script has no address form, the key is no point, or the chain has no
            confidential addresses.
    """
    if blinding_key is not None:
        _check_blinding_key(blinding_key, prefixes)
    program = _witness_program(script)
    if program is not None:
        return _encode_segwit(*program, prefixes, blinding_key)
    prefix, digest = _hashed_destination(script, prefixes)
    payload = bytes([prefix]) + (blinding_key or b"") + digest
    if blinding_key is not None and prefixes.blinded is not None:
        payload = bytes([prefixes.blinded]) + payload
    return base58check_encode(payload)


def decode_address(text: str, prefixes: AddressPrefixes) -> Address:
    """Read an address of one chain.

    As in elementsd, a confidential address whose blinding key is no point is read as the plain
    address it contains.

    Raises:
        InvalidEncoding: not an address of this chain; the reason is a sentence for the user.
    """
    complaint = ""
    hrps = tuple(hrp for hrp in (prefixes.bech32_hrp, prefixes.blech32_hrp) if hrp)
    if not text.lower().startswith(hrps):
        payload = base58check_decode(text)
        if payload is not None and len(payload) <= _MAX_BASE58_PAYLOAD:
            return _from_base58(payload, prefixes)
        complaint = "Invalid or unsupported Segwit (Bech32) or Base58 encoding."
        if base58_decode(text) is not None:
            complaint = "Invalid checksum or length of Base58 address (P2PKH or P2SH)"
    plain = bech32.decode(BECH32, text)
    if plain is not None:
        return _from_bech32(plain, prefixes)
    confidential = bech32.decode(BLECH32, text)
    if confidential is not None:
        return _from_blech32(confidential, prefixes)
    raise InvalidEncoding(complaint or bech32.explain(text))


def read_address(text: str, prefixes: AddressPrefixes) -> Address:
    """`decode_address` with a reason that helps a person.

    elementsd says of every mistyped confidential address that it is too long.

    Raises:
        InvalidEncoding: as `decode_address`.
    """
    try:
        return decode_address(text, prefixes)
    except InvalidEncoding as error:
        hidden = prefixes.blech32_hrp is not None and text.lower().startswith(
            f"{prefixes.blech32_hrp}1"
        )
        if not hidden or error.reason != BECH32_TOO_LONG:
            raise
        mistyped = "Invalid Blech32 checksum: a character is wrong or missing"
        raise InvalidEncoding(mistyped) from error


def encode_secret(secret: bytes, prefixes: AddressPrefixes, *, compressed: bool = True) -> str:
    """A secret key in wallet import format."""
    return base58check_encode(bytes([prefixes.secret]) + secret + (b"\1" if compressed else b""))


def decode_secret(text: str, prefixes: AddressPrefixes) -> tuple[bytes, bool]:
    """Read a secret key in wallet import format.

    Returns:
        The 32 bytes and whether its public key is to be used in compressed form.
    Raises:
        InvalidEncoding: wrong checksum, prefix or length. The text is never repeated.
    """
    payload = base58check_decode(text)
    if payload is None or payload[:1] != bytes([prefixes.secret]):
        raise InvalidEncoding("Invalid private key encoding")
    if len(payload) == 33:
        return payload[1:], False
    if len(payload) == 34 and payload[-1] == 1:
        return payload[1:-1], True
    raise InvalidEncoding("Invalid private key encoding")


def _check_blinding_key(key: bytes, prefixes: AddressPrefixes) -> None:
    if prefixes.blinded is None or prefixes.blech32_hrp is None:
        raise InvalidEncoding("this chain has no confidential addresses")
    if len(key) != _BLINDING_KEY_SIZE or not is_public_key(key):
        raise InvalidEncoding("blinding key is not a compressed public key")


def _hashed_destination(script: bytes, prefixes: AddressPrefixes) -> tuple[int, bytes]:
    if len(script) == 25 and script[:3] == b"\x76\xa9\x14" and script[23:] == b"\x88\xac":
        return prefixes.pubkey, script[3:23]
    if len(script) == 23 and script[:2] == b"\xa9\x14" and script[22] == 0x87:
        return prefixes.script, script[2:22]
    raise InvalidEncoding("script has no address form")


def _witness_program(script: bytes) -> tuple[int, bytes] | None:
    """Version and program of a witness output script that has an address, or None."""
    if not 4 <= len(script) <= 42 or script[1] != len(script) - 2:
        return None
    version = script[0] - 0x50 if script[0] else 0
    program = script[2:]
    if not 0 <= version <= 16 or (version == 0 and (script[0] or len(program) not in (20, 32))):
        return None
    return version, program


def _encode_segwit(
    version: int, program: bytes, prefixes: AddressPrefixes, blinding_key: bytes | None
) -> str:
    if blinding_key is None or prefixes.blech32_hrp is None:
        data = [version, *bech32.to_symbols(program)]
        return bech32.encode(BECH32, prefixes.bech32_hrp, data, modified=version > 0)
    data = [version, *bech32.to_symbols(blinding_key + program)]
    return bech32.encode(BLECH32, prefixes.blech32_hrp, data, modified=version > 0)


def _from_base58(payload: bytes, prefixes: AddressPrefixes) -> Address:
    blinding_key = None
    kind = payload[:1]
    digest = payload[1:]
    if prefixes.blinded is not None and kind == bytes([prefixes.blinded]):
        kind = payload[1:2]
        blinding_key = payload[2 : 2 + _BLINDING_KEY_SIZE]
        digest = payload[2 + _BLINDING_KEY_SIZE :]
    if kind == bytes([prefixes.pubkey]):
        script = b"\x76\xa9\x14" + digest + b"\x88\xac"
    elif kind == bytes([prefixes.script]):
        script = b"\xa9\x14" + digest + b"\x87"
    else:
        raise InvalidEncoding("Invalid or unsupported Base58-encoded address.")
    if len(digest) != _HASH_SIZE:
        raise InvalidEncoding("Invalid length for Base58 address (P2PKH or P2SH)")
    return Address(script, _usable_key(blinding_key))


def _from_bech32(found: bech32.Decoded, prefixes: AddressPrefixes) -> Address:
    if not found.data:
        raise InvalidEncoding("Empty Bech32 data section")
    if found.hrp != prefixes.bech32_hrp:
        raise InvalidEncoding(
            "Invalid or unsupported prefix for Segwit (Bech32) address "
            f"(expected {prefixes.bech32_hrp}, got {found.hrp})."
        )
    program = _program_bytes(found, BECH32)
    size = f"{len(program)} byte" + ("" if len(program) == 1 else "s")
    if found.data[0] == 0 and len(program) not in (20, 32):
        raise InvalidEncoding(f"Invalid Bech32 v0 address program size ({size}), per BIP141")
    if found.data[0] > 16:
        raise InvalidEncoding("Invalid Bech32 address witness version")
    if not 2 <= len(program) <= _MAX_PROGRAM_SIZE:
        raise InvalidEncoding(f"Invalid Bech32 address program size ({size})")
    return Address(_witness_script(found.data[0], program))


def _from_blech32(found: bech32.Decoded, prefixes: AddressPrefixes) -> Address:
    if not found.data:
        raise InvalidEncoding("Empty Blech32 data section")
    if found.hrp != prefixes.blech32_hrp:
        raise InvalidEncoding("Invalid prefix for Blech32 address")
    data = _program_bytes(found, BLECH32)
    key, program = data[:_BLINDING_KEY_SIZE], data[_BLINDING_KEY_SIZE:]
    if found.data[0] == 0 and len(program) not in (20, 32):
        raise InvalidEncoding("Invalid Blech32 v0 address data size")
    if found.data[0] > 16:
        raise InvalidEncoding("Invalid Blech32 address witness version")
    if not 2 <= len(program) <= _MAX_PROGRAM_SIZE:
        raise InvalidEncoding("Invalid Blech32 address data size")
    return Address(_witness_script(found.data[0], program), _usable_key(key))


def _program_bytes(found: bech32.Decoded, code: bech32.Code) -> bytes:
    """Data behind the witness version, with the checksum kind checked against the version."""
    if found.data[0] == 0 and found.modified:
        raise InvalidEncoding(f"Version 0 witness address must use {code.name} checksum")
    if found.data[0] != 0 and not found.modified:
        raise InvalidEncoding(f"Version 1+ witness address must use {code.name}m checksum")
    data = bech32.to_bytes(found.data[1:])
    if data is None:
        raise InvalidEncoding(f"Invalid padding in {code.name} data section")
    return data


def _witness_script(version: int, program: bytes) -> bytes:
    opcode = 0x50 + version if version else 0
    return bytes([opcode, len(program)]) + program


def _usable_key(key: bytes | None) -> bytes | None:
    return key if key is not None and is_public_key(key) else None
