"""Hash functions of Bitcoin and Elements. All digests are in the order they are hashed in."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import wallycore

ZERO_HASH = bytes(32)


class Hash(Protocol):
    """A running hash, as `hashlib` makes them."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Hash more."""
        ...

    def copy(self) -> "Hash":
        """Another one at the same point."""
        ...

    def digest(self) -> bytes:
        """The hash of everything so far."""
        ...


def sha256(data: bytes) -> bytes:
    """SHA-256 of `data`, 32 bytes."""
    return hashlib.sha256(data).digest()


def sha256d(data: bytes) -> bytes:
    """SHA-256 applied twice, 32 bytes."""
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def ripemd160(data: bytes) -> bytes:
    """RIPEMD-160, 20 bytes."""
    return bytes(wallycore.ripemd160(data))


def hash160(data: bytes) -> bytes:
    """RIPEMD-160 of SHA-256, 20 bytes."""
    # OpenSSL builds may leave RIPEMD-160 out, so hashlib is not an option here.
    return bytes(wallycore.hash160(data))


@lru_cache(maxsize=64)
def _tag_prefix(tag: str) -> bytes:
    return sha256(tag.encode()) * 2


def tagged_hash(tag: str, data: bytes) -> bytes:
    """BIP340 tagged hash: SHA-256 of the tag's digest twice, then `data`."""
    return hashlib.sha256(_tag_prefix(tag) + data).digest()


def merkle_node(left: bytes, right: bytes) -> bytes:
    """Node of Elements' fast merkle trees: the SHA-256 state after this one block, unpadded."""
    return bytes(wallycore.sha256_midstate(left + right))


def fast_merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Elements' fast merkle root of 32-byte leaves.

    A node is the SHA-256 state after the one block `left || right`, without padding. An odd last
    element goes up unchanged. No leaves give 32 zero bytes, one leaf gives itself.

    Source: elements/transactions.md 2.6, elements/blocks.md 1.1.
    """
    if not leaves:
        return ZERO_HASH
    level = list(leaves)
    while len(level) > 1:
        above = [merkle_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return level[0]


def merkle_root(txids: Sequence[bytes]) -> tuple[bytes, bool]:
    """Bitcoin's merkle root and whether the list is ambiguous.

    Ambiguous ("mutated") means that two equal neighbours are combined somewhere, so a longer list
    with repeated tail elements has the same root (CVE-2012-2459).

    Returns:
        The root (32 zero bytes for an empty list) and the ambiguity flag.
    Source: elements/blocks.md 1.2.
    """
    level = list(txids)
    mutated = False
    while len(level) > 1:
        mutated = mutated or any(level[i] == level[i + 1] for i in range(0, len(level) - 1, 2))
        if len(level) % 2:
            level.append(level[-1])
        level = [sha256d(level[i] + level[i + 1]) for i in range(0, len(level), 2)]
    return (level[0] if level else ZERO_HASH), mutated
