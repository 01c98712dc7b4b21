"""Signatures and tweaks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidechain.crypto import keys
from sidechain.crypto.keys import GROUP_ORDER
from sidechain.errors import InvalidEncoding
from tests.byte_strategies import hostile, mutated

_secrets = st.integers(1, GROUP_ORDER - 1).map(lambda number: number.to_bytes(32, "big"))
_messages = st.binary(min_size=32, max_size=32)
_ONE = (1).to_bytes(32, "big")


def test_public_key_of_one_is_the_generator() -> None:
    assert keys.public_key(_ONE).hex() == (
        "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    )


@pytest.mark.parametrize("secret", [bytes(32), GROUP_ORDER.to_bytes(32, "big"), b"\1", b"\1" * 33])
def test_secret_when_out_of_range_is_refused_everywhere(secret: bytes) -> None:
    for use in (
        lambda: keys.public_key(secret),
        lambda: keys.ecdsa_sign(secret, bytes(32)),
        lambda: keys.schnorr_sign(secret, bytes(32)),
        lambda: keys.tweak_add_secret(secret, _ONE),
    ):
        with pytest.raises(InvalidEncoding):
            use()


@hostile
@given(_secrets, _messages)
def test_ecdsa_signature_is_deterministic_low_s_and_verifies(secret: bytes, message: bytes) -> None:
    signature = keys.ecdsa_sign(secret, message)
    key = keys.public_key(secret)
    assert signature == keys.ecdsa_sign(secret, message)
    assert keys.ecdsa_verify(key, signature, message)
    assert not keys.ecdsa_verify(key, signature, keys_other(message))
    compact = keys.der_to_compact(signature)
    assert keys.is_low_s(compact)
    assert keys.compact_to_der(compact) == signature


def keys_other(message: bytes) -> bytes:
    """A message that differs in one bit."""
    return bytes([message[0] ^ 1]) + message[1:]


def test_ecdsa_signature_with_high_s_verifies_but_is_told_apart() -> None:
    message = b"\5" * 32
    compact = keys.der_to_compact(keys.ecdsa_sign(_ONE, message))
    high_s = (GROUP_ORDER - int.from_bytes(compact[32:], "big")).to_bytes(32, "big")
    flipped = compact[:32] + high_s
    assert not keys.is_low_s(flipped)
    assert keys.ecdsa_verify(keys.public_key(_ONE), keys.compact_to_der(flipped), message)


def test_ecdsa_signature_in_sloppy_der_verifies_but_is_not_strict() -> None:
    message = b"\6" * 32
    der = keys.ecdsa_sign(_ONE, message)
    compact = keys.der_to_compact(der)
    padded = b"".join(b"\x02\x22\x00\x00" + part for part in (compact[:32], compact[32:]))
    sloppy = b"\x30\x81\x05" + padded + b"left over"
    assert keys.ecdsa_verify(keys.public_key(_ONE), sloppy, message)
    with pytest.raises(InvalidEncoding):
        keys.der_to_compact(sloppy)
    with pytest.raises(InvalidEncoding):
        keys.der_to_compact(der + b"\0")


@hostile
@given(st.binary(max_size=80), st.binary(max_size=70), st.binary(max_size=33))
def test_verification_when_bytes_are_arbitrary_says_no(
    signature: bytes, key: bytes, message: bytes
) -> None:
    assert not keys.ecdsa_verify(key, signature, message)
    assert not keys.schnorr_verify(key, signature, message)
    assert not keys.ecdsa_verify(keys.public_key(_ONE), b"\x30" + signature, message)


@hostile
@given(st.binary(max_size=12).map(lambda tail: b"\x30\x06\x02\x01\x01" + tail))
def test_lenient_der_when_cut_or_odd_never_raises(signature: bytes) -> None:
    compact = keys.parse_der_lenient(signature)
    assert compact is None or len(compact) == 64


@hostile
@given(_secrets, _messages)
def test_schnorr_signature_is_deterministic_and_verifies(secret: bytes, message: bytes) -> None:
    signature = keys.schnorr_sign(secret, message)
    xonly = keys.public_key(secret)[1:]
    assert signature == keys.schnorr_sign(secret, message)
    assert len(signature) == 64
    assert keys.schnorr_verify(xonly, signature, message)
    assert not keys.schnorr_verify(xonly, signature, keys_other(message))


def test_schnorr_signature_agrees_with_bip340() -> None:
    secret = (3).to_bytes(32, "big")
    assert keys.schnorr_sign(secret, bytes(32)).hex() == (
        "e907831f80848d1069a5371b402410364bdf1c5f8307b0084c55f1ce2dca8215"
        "25f66a4a85ea8b71e482a74f382d2ce5ebeee8fdb2172f477df4900d310536c0"
    )


@hostile
@given(_secrets, _secrets)
def test_tweak_of_secret_and_of_its_key_agree(secret: bytes, tweak: bytes) -> None:
    if (int.from_bytes(secret, "big") + int.from_bytes(tweak, "big")) % GROUP_ORDER == 0:
        return
    tweaked = keys.tweak_add_secret(secret, tweak)
    assert keys.public_key(tweaked) == keys.tweak_add_public(keys.public_key(secret), tweak)


def test_tweak_that_cancels_the_key_is_refused() -> None:
    minus_one = (GROUP_ORDER - 1).to_bytes(32, "big")
    with pytest.raises(InvalidEncoding):
        keys.tweak_add_secret(_ONE, minus_one)
    with pytest.raises(InvalidEncoding):
        keys.tweak_add_public(keys.public_key(_ONE), minus_one)
    for tweak in (GROUP_ORDER.to_bytes(32, "big"), b"\1" * 31):
        with pytest.raises(InvalidEncoding):
            keys.tweak_add_secret(_ONE, tweak)
        with pytest.raises(InvalidEncoding):
            keys.tweak_add_public(keys.public_key(_ONE), tweak)
    assert keys.tweak_add_secret(_ONE, bytes(32)) == _ONE


def test_public_key_forms_are_told_from_other_bytes() -> None:
    key = keys.public_key(_ONE)
    assert keys.is_public_key(key)
    assert not keys.is_public_key(b"\x04" + key[1:])
    assert not keys.is_public_key(b"\x02" + b"\xff" * 32)
    assert not keys.is_public_key(b"")


@hostile
@given(st.data())
def test_strict_low_s_when_signature_is_any_then_as_by_the_plain_rules(data: st.DataObject) -> None:
    high = keys.compact_to_der(_ONE + (GROUP_ORDER - 1).to_bytes(32, "big"))
    large = keys.compact_to_der(b"\xff" * 32 + _ONE)
    good = [keys.ecdsa_sign(_ONE, bytes([n]) * 32) for n in range(5)]
    signature = data.draw(mutated([*good, high, large]))
    try:
        compact = keys.der_to_compact(signature)
        expected = compact if keys.is_low_s(compact) else None
    except InvalidEncoding:
        expected = None
    found = keys.strict_low_s(signature)
    if found != expected:
        # A number that is out of range reads as zero, which no key verifies.
        assert expected is None
        assert found is not None and bytes(32) in (found[:32], found[32:])
        assert not keys.ecdsa_verify_compact(keys.public_key(_ONE), found, bytes(32))


@hostile
@given(st.data())
def test_compact_verification_when_signature_is_low_then_as_of_its_der_form(
    data: st.DataObject,
) -> None:
    message = data.draw(st.sampled_from([bytes(32), _ONE]))
    compact = keys.der_to_compact(keys.ecdsa_sign(_ONE, bytes(32)))
    compact = data.draw(mutated([compact]))
    key = data.draw(mutated([keys.public_key(_ONE)]))
    found = keys.ecdsa_verify_compact(key, compact, message)
    if len(compact) != 64 or not keys.is_low_s(compact):
        assert not found
    else:
        assert found == keys.ecdsa_verify(key, keys.compact_to_der(compact), message)


def test_short_signature_when_made_then_valid_and_at_most_seventy_bytes() -> None:
    secret = bytes([7]) * 32
    pubkey = keys.public_key(secret)
    grown = 0
    for number in range(40):
        digest = number.to_bytes(32, "big")
        signature = keys.ecdsa_sign_short(secret, digest)
        assert len(signature) <= 70 and keys.ecdsa_verify(pubkey, signature, digest)
        grown += signature != keys.ecdsa_sign(secret, digest)
    # Half of all first nonces give a longer one.
    assert 0 < grown < 40
