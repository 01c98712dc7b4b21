"""Key derivation against the published test vectors of BIP32 and BIP84."""

import hashlib

import pytest
import wallycore

from sidechain.crypto.keys import public_key
from sidechain.errors import InvalidEncoding
from sidechain.wallet.keys import Branch, PrivateAccount, PublicAccount, SecretKey

# BIP84, "Test vectors": the words give the seed by BIP39 with an empty passphrase.
BIP84_WORDS = "abandon " * 11 + "about"
BIP84_RECEIVE = (
    "0330d54fd0dd420a6e5f8d3624f5f3482cae350f79d5f0753bf5beef9c2d91af3c",
    "03e775fd51f0dfb8cd865d9ff1cca2a158cf651fe997fdc9fee9c1d3b5e995ea77",
)
BIP84_CHANGE = "03025324888e429ab8e3dbaf1f7802648b9cd01e9b418485c5fa4c1b9b5700e1a6"


def bip84_seed() -> bytes:
    words = BIP84_WORDS.encode()
    return hashlib.pbkdf2_hmac("sha512", words, b"mnemonic", 2048)


def test_account_of_bip84_words_when_coin_type_is_bitcoin_then_vector_keys() -> None:
    account = PrivateAccount.from_seed(bip84_seed(), coin_type=0)
    for index, key in enumerate(BIP84_RECEIVE):
        assert account.public.public_key(Branch.RECEIVE, index).hex() == key
    assert account.public.public_key(Branch.CHANGE, 0).hex() == BIP84_CHANGE


def test_secret_when_derived_then_belongs_to_the_public_key() -> None:
    account = PrivateAccount.from_seed(bytes(range(32)))
    for branch in Branch:
        secret = account.secret(branch, 7)
        assert public_key(secret.value) == account.public.public_key(branch, 7)


def test_public_account_when_decoded_again_then_same_scripts() -> None:
    account = PrivateAccount.from_seed(bytes(range(1, 65))).public
    again = PublicAccount.decode(account.extended_key)
    assert [again.script(b, i) for b in Branch for i in range(3)] == [
        account.script(b, i) for b in Branch for i in range(3)
    ]


def test_branches_when_derived_then_all_keys_differ() -> None:
    account = PrivateAccount.from_seed(bytes(range(32))).public
    keys = {account.public_key(branch, index) for branch in Branch for index in range(10)}
    assert len(keys) == 30


@pytest.mark.parametrize("seed", [b"", bytes(32), bytes(16), b"\1" * 31, b"\1" * 33])
def test_seed_when_too_short_or_zero_then_refused(seed: bytes) -> None:
    with pytest.raises(InvalidEncoding):
        PrivateAccount.from_seed(seed)


def test_public_account_when_given_a_private_node_then_refused() -> None:
    root = wallycore.bip32_key_from_seed(bytes(range(32)), wallycore.BIP32_VER_TEST_PRIVATE, 0)
    private = bytes(wallycore.bip32_key_serialize(root, wallycore.BIP32_FLAG_KEY_PRIVATE))
    with pytest.raises(InvalidEncoding):
        PublicAccount.decode(private)
    with pytest.raises(InvalidEncoding):
        PublicAccount.decode(bytes(78))


def test_index_when_out_of_range_then_refused() -> None:
    account = PrivateAccount.from_seed(bytes(range(32)))
    for index in (-1, 2**31):
        with pytest.raises(ValueError, match="out of range"):
            account.secret(Branch.RECEIVE, index)
        with pytest.raises(ValueError, match="out of range"):
            account.public.public_key(Branch.RECEIVE, index)


def test_secrets_when_printed_then_hidden() -> None:
    account = PrivateAccount.from_seed(bytes(range(32)))
    secret = account.secret(Branch.RECEIVE, 0)
    assert repr(secret) == str(secret) == "SecretKey(…)"
    assert secret.value.hex() not in repr(SecretKey(secret.value))
    assert "xprv" not in repr(account) and secret.value.hex() not in repr(account)
