"""Keys of simulated members: real ones, or fast ones with the same interface.

A fast signature is a keyed hash of what was signed. Anyone could make it from the public key, but
nobody in a simulation does: only the owner's signer and the simulator's liars sign.

Source: consensus:2.1, consensus:10.
"""

from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b, sha256
from typing import Final

from federation.secret_key import SecretKey, SigningKey
from federation.verification import CurveSignatures, SignatureScheme
from sidechain.crypto.keys import compact_to_der

_SCHNORR: Final = b"schnorr"
_ECDSA: Final = b"ecdsa"


def block_key(member: int) -> bytes:
    """A member's fast public key, 33 bytes; no secret belongs to it."""
    return b"\x02" + sha256(b"key %d" % member).digest()


def fast_schnorr(key: bytes, message: bytes) -> bytes:
    """64 bytes in place of a BIP340 signature of an x-only key."""
    return blake2b(message, key=key, person=_SCHNORR).digest()


def fast_ecdsa(key: bytes, message: bytes) -> bytes:
    """64 bytes r ‖ s with low S in place of an ECDSA signature of an x-only key."""
    digest = bytearray(blake2b(message, key=key, person=_ECDSA).digest())
    digest[0] = digest[0] & 0x3F | 1
    digest[32] = digest[32] & 0x3F | 1
    return bytes(digest)


class FastKey:
    """A signing key without curve operations."""

    def __init__(self, public_key: bytes) -> None:
        self.public_key = public_key

    def sign_ecdsa(self, digest: bytes) -> bytes:
        """DER of the fast signature."""
        return compact_to_der(fast_ecdsa(self.public_key[1:], digest))

    def sign_schnorr(self, digest: bytes) -> bytes:
        """64 bytes."""
        return fast_schnorr(self.public_key[1:], digest)

    def tweaked(self, tweak: bytes) -> SigningKey:
        """Another fast key."""
        return FastKey(b"\x02" + sha256(self.public_key + tweak).digest())


class FastSignatures:
    """Checks the signatures of fast keys."""

    def is_schnorr(self, key: bytes, signature: bytes, message: bytes) -> bool:
        """Whether the x-only key made it."""
        return signature == fast_schnorr(key, message)

    def is_ecdsa(self, key: bytes, signature: bytes, message: bytes) -> bool:
        """Whether the key of 33 bytes made it."""
        return signature == fast_ecdsa(key[1:], message)


@lru_cache(maxsize=64)
def _real_key(member: int) -> SecretKey:
    return SecretKey(sha256(b"simulated secret %d" % member).digest())


def key_of(member: int, *, real: bool) -> SigningKey:
    """The block key of a member; the same in every run."""
    return _real_key(member) if real else FastKey(block_key(member))


def scheme_of(*, real: bool) -> SignatureScheme:
    """How signatures of `key_of` are checked."""
    return CurveSignatures() if real else FastSignatures()


def memoised(make: Callable[[int], SigningKey]) -> Callable[[int], SigningKey]:
    """The same keys, each made once."""
    known: dict[int, SigningKey] = {}

    def get(member: int) -> SigningKey:
        if member not in known:
            known[member] = make(member)
        return known[member]

    return get
