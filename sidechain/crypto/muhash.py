"""MuHash3072: a hash of a set that does not depend on the order of its elements.

Every element becomes a number modulo a prime, and the set is their product.

Source: Bellare and Micciancio, "A New Paradigm for Collision-free Hashing"; as the reference
computes it for `gettxoutsetinfo`.
"""

from sidechain.crypto.hashes import sha256

NUMBER_BYTES = 384
PRIME = 2 ** (8 * NUMBER_BYTES) - 1_103_717

_NONCE = bytes(16)
_ZEROS = bytes(NUMBER_BYTES)


class MuHash:
    """The hash of a growing set."""

    def __init__(self) -> None:
        self._product = 1

    def insert(self, element: bytes) -> None:
        """Add an element to the set."""
        number = int.from_bytes(_key_stream(sha256(element)), "little")
        self._product = self._product * number % PRIME

    def digest(self) -> bytes:
        """The hash of the set: 32 bytes."""
        return sha256(self._product.to_bytes(NUMBER_BYTES, "little"))


def _key_stream(key: bytes) -> bytes:
    # Here and not above: the library takes 6 MB, and most nodes never make this hash.
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

    return Cipher(ChaCha20(key, _NONCE), None).encryptor().update(_ZEROS)
