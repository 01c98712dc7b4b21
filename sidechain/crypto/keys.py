"""ECDSA and Schnorr over secp256k1, and key tweaks, on libsecp256k1 through coincurve.

Secrets are 32 bytes, public keys 33 (compressed) and messages 32-byte digests unless said
otherwise.
Verification never raises on outside data: what does not parse does not verify.
"""

from coincurve import PrivateKey, PublicKey
from coincurve._libsecp256k1 import ffi, lib  # type: ignore[import-not-found]
from coincurve.context import GLOBAL_CONTEXT

from sidechain.errors import InvalidEncoding

GROUP_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_CONTEXT = GLOBAL_CONTEXT.ctx
_ZERO_AUX = bytes(32)


def public_key(secret: bytes, *, compressed: bool = True) -> bytes:
    """Public key of a secret, 33 bytes or uncompressed 65.

    Raises:
        InvalidEncoding: `secret` is not 32 bytes, zero, or at least the group order.
    """
    return _private(secret).public_key.format(compressed=compressed)


def is_public_key(data: bytes) -> bool:
    """Whether `data` is a point on the curve in a form libsecp256k1 reads (33 or 65 bytes)."""
    return _parse_public(data) is not None


def ecdsa_sign(secret: bytes, message: bytes) -> bytes:
    """DER signature of a 32-byte digest, low S, nonce by RFC 6979 without extra entropy.

    Raises:
        InvalidEncoding: the secret is out of range or the digest is not 32 bytes.
    """
    _check_message(message)
    return _private(secret).sign(message, hasher=None)


def ecdsa_sign_short(secret: bytes, message: bytes) -> bytes:
    """As `ecdsa_sign`, with the first nonce that gives at most 70 bytes: elementsd's signature.

    Raises:
        InvalidEncoding: as `ecdsa_sign`.
    """
    signature = ecdsa_sign(secret, message)
    counter = 0
    while signature[3] > 32:
        counter += 1
        extra = ffi.new("unsigned char[32]", counter.to_bytes(32, "little"))
        signature = _private(secret).sign(message, hasher=None, custom_nonce=(ffi.NULL, extra))
    return signature


def ecdsa_verify(pubkey: bytes, signature_der: bytes, message: bytes) -> bool:
    """Verify an ECDSA signature as scripts do.

    The DER is read leniently and a high S is folded down first: whether those forms are allowed
    is for the script flags to say, not for the curve.

    Args:
        signature_der: the signature without a hash type byte.
        message: the 32-byte digest.
    """
    compact = parse_der_lenient(signature_der)
    key = _parse_public(pubkey)
    if compact is None or key is None or len(message) != 32:
        return False
    signature = ffi.new("secp256k1_ecdsa_signature *")
    if not lib.secp256k1_ecdsa_signature_parse_compact(_CONTEXT, signature, compact):
        return False
    lib.secp256k1_ecdsa_signature_normalize(_CONTEXT, signature, signature)
    return bool(lib.secp256k1_ecdsa_verify(_CONTEXT, signature, message, key))


def ecdsa_verify_compact(pubkey: bytes, signature: bytes, message: bytes) -> bool:
    """Verify a low-S ECDSA signature given as `r || s`, 64 bytes."""
    key = _parse_public(pubkey)
    if key is None or len(signature) != 64 or len(message) != 32:
        return False
    parsed = ffi.new("secp256k1_ecdsa_signature *")
    if not lib.secp256k1_ecdsa_signature_parse_compact(_CONTEXT, parsed, signature):
        return False
    return bool(lib.secp256k1_ecdsa_verify(_CONTEXT, parsed, message, key))


def schnorr_sign(secret: bytes, message: bytes) -> bytes:
    """BIP340 signature of a digest, 64 bytes, with zeros as auxiliary data (deterministic).

    Raises:
        InvalidEncoding: the secret is out of range or the digest is not 32 bytes.
    """
    _check_message(message)
    return _private(secret).sign_schnorr(message, _ZERO_AUX)


def schnorr_verify(xonly: bytes, signature: bytes, message: bytes) -> bool:
    """Verify a BIP340 signature under a 32-byte x-only key, over a message of any length."""
    key = _parse_xonly(xonly)
    if key is None or len(signature) != 64:
        return False
    return bool(lib.secp256k1_schnorrsig_verify(_CONTEXT, signature, message, len(message), key))


def xonly_tweak_add_check(output: bytes, parity: int, internal: bytes, tweak: bytes) -> bool:
    """Whether `lift_x(internal) + tweak*G` has the x coordinate `output` and this parity of y.

    Args:
        output: 32 bytes.
        parity: 1 for an odd y.
        internal: x-only key, 32 bytes.
        tweak: 32 bytes; at least the group order never fits.
    """
    key = _parse_xonly(internal)
    if key is None or len(output) != 32 or len(tweak) != 32:
        return False
    return bool(lib.secp256k1_xonly_pubkey_tweak_add_check(_CONTEXT, output, parity, key, tweak))


def multiply_check(product: bytes, point: bytes, scalar: bytes) -> bool:
    """Whether `scalar*point` is `product`, both compressed; zero and too large never are.

    Args:
        scalar: 32 bytes, big-endian.
    """
    key = _parse_public(point)
    if key is None or len(scalar) != 32:
        return False
    if not lib.secp256k1_ec_pubkey_tweak_mul(_CONTEXT, key, scalar):
        return False
    return PublicKey(key).format(compressed=True) == product


def tweak_add_public(pubkey: bytes, tweak: bytes) -> bytes:
    """`pubkey + tweak*G`, compressed.

    Raises:
        InvalidEncoding: the key is no point, the tweak is not 32 bytes below the group order, or
            the sum is the point at infinity.
    """
    key = _parse_public(pubkey)
    if key is None or len(tweak) != 32:
        raise InvalidEncoding("invalid key or tweak")
    if not lib.secp256k1_ec_pubkey_tweak_add(_CONTEXT, key, tweak):
        raise InvalidEncoding("invalid key or tweak")
    return PublicKey(key).format(compressed=True)


def tweak_add_secret(secret: bytes, tweak: bytes) -> bytes:
    """`secret + tweak` modulo the group order, 32 bytes.

    Raises:
        InvalidEncoding: either argument is out of range, or the sum is zero.
    """
    _private(secret)
    total = int.from_bytes(secret, "big") + int.from_bytes(tweak, "big")
    if len(tweak) != 32 or int.from_bytes(tweak, "big") >= GROUP_ORDER or total == GROUP_ORDER:
        raise InvalidEncoding("invalid key or tweak")
    return (total % GROUP_ORDER).to_bytes(32, "big")


def der_to_compact(signature_der: bytes) -> bytes:
    """Strict DER to `r || s`, 64 bytes big-endian.

    Raises:
        InvalidEncoding: not the one DER form of these two numbers.
    """
    compact = parse_der_lenient(signature_der)
    if compact is None or compact_to_der(compact) != signature_der:
        raise InvalidEncoding("not a DER signature")
    return compact


def strict_low_s(signature_der: bytes) -> bytes | None:
    """The `r || s` of a signature in strict DER with a low S; None for any other.

    A number outside of the group's order gives zeros, which verify under no key.
    """
    parsed = ffi.new("secp256k1_ecdsa_signature *")
    size = len(signature_der)
    if not lib.secp256k1_ecdsa_signature_parse_der(_CONTEXT, parsed, signature_der, size):
        return None
    if lib.secp256k1_ecdsa_signature_normalize(_CONTEXT, ffi.NULL, parsed):
        return None
    compact = ffi.new("unsigned char[64]")
    lib.secp256k1_ecdsa_signature_serialize_compact(_CONTEXT, compact, parsed)
    return bytes(ffi.buffer(compact))


def compact_to_der(signature: bytes) -> bytes:
    """`r || s` (64 bytes) to DER.

    Raises:
        InvalidEncoding: not 64 bytes.
    """
    if len(signature) != 64:
        raise InvalidEncoding("compact signature is not 64 bytes")
    body = b"".join(_der_integer(part) for part in (signature[:32], signature[32:]))
    return b"\x30" + bytes([len(body)]) + body


def is_low_s(compact: bytes) -> bool:
    """Whether S of a 64-byte `r || s` is at most half the group order."""
    return int.from_bytes(compact[32:], "big") <= GROUP_ORDER // 2


def parse_der_lenient(data: bytes) -> bytes | None:
    """Read an ECDSA signature the way Bitcoin has accepted since before BIP66.

    The outer length is ignored, lengths may be written in long form, integers may carry leading
    zeros and are never negative, and what follows S is ignored. A number above 32 bytes makes
    the whole signature zero, which never verifies.

    Returns:
        `r || s`, or None where not even this form is met.
    """
    if len(data) < 2 or data[0] != 0x30:
        return None
    pos = 2
    if data[1] & 0x80:
        pos += data[1] & 0x7F
    numbers: list[bytes] = []
    for _ in range(2):
        found = _lenient_integer(data, pos)
        if found is None:
            return None
        number, pos = found
        numbers.append(number.lstrip(b"\0"))
    if any(len(number) > 32 for number in numbers):
        return bytes(64)
    compact = b"".join(number.rjust(32, b"\0") for number in numbers)
    overflow = any(int.from_bytes(number, "big") >= GROUP_ORDER for number in numbers)
    return bytes(64) if overflow else compact


def _lenient_integer(data: bytes, pos: int) -> tuple[bytes, int] | None:
    if pos + 2 > len(data) or data[pos] != 0x02:
        return None
    length = data[pos + 1]
    pos += 2
    if length & 0x80:
        width = length & 0x7F
        if width > len(data) - pos:
            return None
        digits = data[pos : pos + width].lstrip(b"\0")
        pos += width
        if len(digits) >= 8:
            return None
        length = int.from_bytes(digits, "big")
    if length > len(data) - pos:
        return None
    return data[pos : pos + length], pos + length


def _der_integer(number: bytes) -> bytes:
    digits = number.lstrip(b"\0") or b"\0"
    if digits[0] & 0x80:
        digits = b"\0" + digits
    return b"\x02" + bytes([len(digits)]) + digits


def _parse_public(data: bytes) -> object | None:
    key = ffi.new("secp256k1_pubkey *")
    if not lib.secp256k1_ec_pubkey_parse(_CONTEXT, key, data, len(data)):
        return None
    return key  # type: ignore[no-any-return]


def _parse_xonly(data: bytes) -> object | None:
    key = ffi.new("secp256k1_xonly_pubkey *")
    if len(data) != 32 or not lib.secp256k1_xonly_pubkey_parse(_CONTEXT, key, data):
        return None
    return key  # type: ignore[no-any-return]


def _private(secret: bytes) -> PrivateKey:
    if len(secret) != 32 or not 0 < int.from_bytes(secret, "big") < GROUP_ORDER:
        raise InvalidEncoding("secret key out of range")
    return PrivateKey(secret)


def _check_message(message: bytes) -> None:
    if len(message) != 32:
        raise InvalidEncoding("message digest is not 32 bytes")
