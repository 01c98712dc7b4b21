"""Digests and merkle roots."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from sidechain.crypto.hashes import (
    ZERO_HASH,
    fast_merkle_root,
    hash160,
    merkle_root,
    sha256,
    sha256d,
    tagged_hash,
)
from tests.byte_strategies import hostile
from tests.vectors import display, recorded_blocks


def _leaf(number: int) -> bytes:
    return bytes([number]) * 32


def test_fast_merkle_root_agrees_with_published_values() -> None:
    two = "8d858a4aa881df834b680ffdb762f3a30e7f02de436baf9a09ea1887d27bbac9"
    three = "1bd9aefae3068bf13f2e2d27c3138a59792727b1a488efdcd42848eaec9342fd"
    assert fast_merkle_root([_leaf(1), _leaf(2)]).hex() == two
    assert fast_merkle_root([_leaf(1), _leaf(2), _leaf(3)]).hex() == three


def test_fast_merkle_root_when_few_leaves_needs_no_hashing() -> None:
    assert fast_merkle_root([]) == ZERO_HASH
    assert fast_merkle_root([_leaf(9)]) == _leaf(9)


@hostile
@given(st.integers(2, 40))
def test_fast_merkle_root_when_count_is_odd_carries_the_last_up(count: int) -> None:
    leaves = [_leaf(number) for number in range(count)]
    split = 1 << (count - 1).bit_length() - 1
    halves = [fast_merkle_root(leaves[:split]), fast_merkle_root(leaves[split:])]
    assert fast_merkle_root(leaves) == fast_merkle_root(halves)


def test_merkle_root_of_every_recorded_block_is_in_its_header() -> None:
    for block in recorded_blocks():
        assert block.transaction_root() == (block.header.merkle_root, False)


def test_merkle_root_when_tail_is_repeated_is_marked_ambiguous() -> None:
    leaves = [_leaf(number) for number in range(3)]
    root, mutated = merkle_root(leaves)
    again, doubled = merkle_root([*leaves, leaves[-1]])
    assert root == again
    assert not mutated
    assert doubled


def test_merkle_root_when_repetition_is_deeper_is_marked_ambiguous() -> None:
    leaves = [_leaf(number) for number in range(6)]
    root, mutated = merkle_root(leaves)
    again, doubled = merkle_root(leaves + leaves[4:])
    assert (root, mutated, doubled) == (again, False, True)


def test_merkle_root_when_empty_is_zero() -> None:
    assert merkle_root([]) == (ZERO_HASH, False)
    assert merkle_root([_leaf(4)]) == (_leaf(4), False)


def test_digests_agree_with_their_definitions() -> None:
    assert sha256(b"abc") == hashlib.sha256(b"abc").digest()
    assert sha256d(b"\0").hex() == (
        "1406e05881e299367766d313e26c05564ec91bf721d31726bd6e46e60689539a"
    )
    assert hash160(b"").hex() == "b472a266d0bd89c13706a4132ccfb16f7c3b9fcb"
    tag = sha256(b"BIP0340/aux")
    assert tagged_hash("BIP0340/aux", b"x") == sha256(tag + tag + b"x")


def test_display_reverses() -> None:
    assert display(bytes(range(32))).startswith("1f1e")
