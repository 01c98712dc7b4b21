"""Deterministic keys of a wallet: BIP32 over libwally, account paths in the manner of BIP84.

One seed gives one account `m/84h/COINh/0h`; below it are three branches of P2WPKH keys. The
account's public half derives every script, so a locked wallet can still receive and watch. The
same seed gives the master blinding key (SLIP-77), which opens what is hidden in own outputs.
Derivation is a function of the seed alone; nothing here draws randomness.

Source: elements/transactions.md 8.4.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self

import wallycore

from sidechain.crypto.hashes import hash160
from sidechain.crypto.keys import public_key
from sidechain.errors import InvalidEncoding

SEED_LENGTHS = (32, 64)
"""Seed sizes in bytes that are accepted: plain 256-bit entropy, or a BIP39 seed."""

COIN_TYPE = 1
"""Third path level: 1 is "any test network" (SLIP-44)."""

EXTENDED_KEY_BYTES = 78
BLINDING_KEY_BYTES = 32
FINGERPRINT_BYTES = 4
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


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOrigin:
    """Where an account key comes from: fingerprint of the root key, and the path down from it.

    Steps of `path` carry the hardened bit.
    """

    fingerprint: bytes
    path: tuple[int, ...]

    def encode(self) -> bytes:
        """As stored, and as PSET fields hold it: fingerprint, then LE32 steps."""
        return self.fingerprint + b"".join(step.to_bytes(4, "little") for step in self.path)

    @classmethod
    def decode(cls, data: bytes) -> "KeyOrigin":
        """Read what `encode` wrote.

        Raises:
            InvalidEncoding: not a fingerprint and whole steps.
        """
        if len(data) < FINGERPRINT_BYTES or len(data) % 4:
            raise InvalidEncoding("key origin has a wrong length")
        steps = [data[pos : pos + 4] for pos in range(FINGERPRINT_BYTES, len(data), 4)]
        path = tuple(int.from_bytes(step, "little") for step in steps)
        return cls(fingerprint=data[:FINGERPRINT_BYTES], path=path)


@dataclass(frozen=True, slots=True, repr=False)
class PublicAccount:
    """The public half of an account: derives public keys and scripts, signs nothing.

    `extended_key` is the 78-byte BIP32 serialization of the account's public node. Whoever has it
    sees all addresses of the wallet; whoever has `master_blinding_key` too sees all its amounts.
    Without that key the account has no confidential addresses. `origin` is None where unknown.
    """

    extended_key: bytes
    _node: Any
    master_blinding_key: SecretKey | None = None
    origin: KeyOrigin | None = None

    @classmethod
    def decode(
        cls,
        extended_key: bytes,
        *,
        master_blinding_key: SecretKey | None = None,
        origin: KeyOrigin | None = None,
    ) -> Self:
        """Read a serialized account.

        Raises:
            InvalidEncoding: not a 78-byte serialized public key, or a blinding key of another
                length than 32 bytes.
        """
        if master_blinding_key is not None and len(master_blinding_key.value) != 32:
            raise InvalidEncoding("master blinding key is not 32 bytes")
        if len(extended_key) != EXTENDED_KEY_BYTES:
            raise InvalidEncoding("extended key is not 78 bytes")
        try:
            node = wallycore.bip32_key_unserialize(extended_key)
            canonical = wallycore.bip32_key_serialize(node, wallycore.BIP32_FLAG_KEY_PUBLIC)
        except ValueError as error:
            raise InvalidEncoding("extended key does not decode") from error
        if bytes(canonical) != extended_key:
            raise InvalidEncoding("extended key is not public")
        return cls(extended_key, node, master_blinding_key, origin)

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

    def blinding_secret(self, script: bytes) -> SecretKey | None:
        """The key that opens outputs to a script; None without a master blinding key.

        Also for the pseudo script of an issuance. Source: elements/transactions.md 8.4.
        """
        if self.master_blinding_key is None:
            return None
        # libwally takes the 64-byte SLIP-21 node, whose first half it does not look at
        node = bytes(32) + self.master_blinding_key.value
        return SecretKey(bytes(wallycore.asset_blinding_key_to_ec_private_key(node, script)))

    def blinding_public_key(self, script: bytes) -> bytes | None:
        """What senders blind outputs to a script for; None without a master blinding key."""
        secret = self.blinding_secret(script)
        return None if secret is None else public_key(secret.value)


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
        fingerprint = bytes(wallycore.bip32_key_get_fingerprint(root))
        public = PublicAccount.decode(
            bytes(extended),
            master_blinding_key=master_blinding_key(seed),
            origin=KeyOrigin(fingerprint=fingerprint, path=tuple(path)),
        )
        return cls(public, node)

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


def master_blinding_key(seed: bytes) -> SecretKey:
    """The master blinding key of a seed. Source: elements/transactions.md 8.4 (SLIP-77)."""
    node = bytes(wallycore.asset_blinding_key_from_seed(seed))
    return SecretKey(node[-BLINDING_KEY_BYTES:])


def seed_of_mnemonic(words: str) -> bytes:
    """The seed of English BIP39 words without a passphrase, 64 bytes.

    Raises:
        InvalidEncoding: not such words, or their checksum is wrong. The words are not repeated.
    """
    text = " ".join(words.split())
    try:
        wallycore.bip39_mnemonic_validate(None, text)
        return bytes(wallycore.bip39_mnemonic_to_seed512(text, None))
    except ValueError as error:
        raise InvalidEncoding("these are not the words of a BIP39 mnemonic") from error


def _check_index(index: int) -> None:
    if not 0 <= index <= MAX_INDEX:
        raise ValueError(f"key index {index} is out of range")
