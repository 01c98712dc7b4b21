"""Deterministic keys of a wallet: BIP32 over libwally, account paths in the manner of BIP84.

One seed gives one account `m/84h/COINh/0h`; below it are three branches of P2WPKH keys. The
account's public half derives every script, so a locked wallet can still receive and watch.
Derivation is a function of the seed alone; nothing here draws randomness.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self

import wallycore

from sidechain.crypto.hashes import hash160
from sidechain.errors import InvalidEncoding

SEED_LENGTHS = (32, 64)
"""Seed sizes in bytes that are accepted: plain 256-bit entropy, or a BIP39 seed."""

COIN_TYPE = 1
"""Third path level: 1 is "any test network" (SLIP-44)."""

EXTENDED_KEY_BYTES = 78
MAX_INDEX = 2**31 - 1
_HARDENED = 1 << 31
_PURPOSE = 84


class Branch(IntEnum):
    """What a key is for: addresses shown to others, own change, claim scripts of deposits."""

    RECEIVE = 0
    CHANGE = 1
    CLAIM = 2


@dataclass(frozen=True, slots=True, repr=False)
class SecretKey:
    """A 32-byte private key that never shows itself when printed."""

    value: bytes

    def __repr__(self) -> str:
        return "SecretKey(…)"


@dataclass(frozen=True, slots=True, repr=False)
class PublicAccount:
    """The public half of an account: derives public keys and scripts, signs nothing.

    `extended_key` is the 78-byte BIP32 serialization of the account's public node. Whoever has it
    sees all addresses of the wallet.
    """

    extended_key: bytes
    _node: Any

    @classmethod
    def decode(cls, extended_key: bytes) -> Self:
        """Read a serialized account.

        Raises:
            InvalidEncoding: not a 78-byte serialized public key.
        """
        if len(extended_key) != EXTENDED_KEY_BYTES:
            raise InvalidEncoding("extended key is not 78 bytes")
        try:
            node = wallycore.bip32_key_unserialize(extended_key)
            canonical = wallycore.bip32_key_serialize(node, wallycore.BIP32_FLAG_KEY_PUBLIC)
        except ValueError as error:
            raise InvalidEncoding("extended key does not decode") from error
        if bytes(canonical) != extended_key:
            raise InvalidEncoding("extended key is not public")
        return cls(extended_key, node)

    def public_key(self, branch: Branch, index: int) -> bytes:
        """The compressed public key at `branch/index`.

        Raises:
            ValueError: the index is negative or above 2^31 - 1.
        """
        _check_index(index)
        path = [int(branch), index]
        child = wallycore.bip32_key_from_parent_path(
            self._node, path, wallycore.BIP32_FLAG_KEY_PUBLIC
        )
        return bytes(wallycore.bip32_key_get_pub_key(child))

    def script(self, branch: Branch, index: int) -> bytes:
        """The P2WPKH output script of the key at `branch/index`."""
        return b"\x00\x14" + hash160(self.public_key(branch, index))


@dataclass(frozen=True, slots=True, repr=False)
class PrivateAccount:
    """The account with its private half. Keep it only as long as something is to be signed."""

    public: PublicAccount
    _node: Any

    @classmethod
    def from_seed(cls, seed: bytes, coin_type: int = COIN_TYPE) -> Self:
        """The first account of a seed.

        Args:
            seed: FRESH random bytes, 32 or 64 of them, or a BIP39 seed.
            coin_type: third path level, not hardened here.
        Raises:
            InvalidEncoding: wrong length, or all bytes zero.
        """
        if len(seed) not in SEED_LENGTHS:
            raise InvalidEncoding("seed is neither 32 nor 64 bytes")
        if not any(seed):
            raise InvalidEncoding("seed is all zero")
        root = wallycore.bip32_key_from_seed(seed, wallycore.BIP32_VER_TEST_PRIVATE, 0)
        path = [_PURPOSE | _HARDENED, coin_type | _HARDENED, _HARDENED]
        node = wallycore.bip32_key_from_parent_path(root, path, wallycore.BIP32_FLAG_KEY_PRIVATE)
        extended = wallycore.bip32_key_serialize(node, wallycore.BIP32_FLAG_KEY_PUBLIC)
        return cls(PublicAccount.decode(bytes(extended)), node)

    def secret(self, branch: Branch, index: int) -> SecretKey:
        """The private key at `branch/index`.

        Raises:
            ValueError: the index is negative or above 2^31 - 1.
        """
        _check_index(index)
        path = [int(branch), index]
        child = wallycore.bip32_key_from_parent_path(
            self._node, path, wallycore.BIP32_FLAG_KEY_PRIVATE
        )
        return SecretKey(bytes(wallycore.bip32_key_get_priv_key(child)))


def _check_index(index: int) -> None:
    if not 0 <= index <= MAX_INDEX:
        raise ValueError(f"key index {index} is out of range")
