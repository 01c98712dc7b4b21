"""Key derivation against the published test vectors of BIP32 and BIP84."""

import hashlib
import hmac

import pytest
import wallycore

from sidechain.crypto.keys import public_key
from sidechain.errors import InvalidEncoding
from sidechain.wallet.keys import (
    Branch,
    KeyOrigin,
    PrivateAccount,
    PublicAccount,
    SecretKey,
    seed_of_mnemonic,
)

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


# elements/transactions.md 9.3
SEED_64 = bytes(range(64))
MASTER_HEX = "d64e9ad15df2533423a585bbd695de057874f27dfbed87ae51f9a662baa0f60f"
EXAMPLE_SCRIPT = bytes.fromhex("0014751e76e8199196d454941c45d1b3a323f1433bd6")
BLINDING_SECRET_HEX = "5ccf9015a4536d7cab06e7471492cf8f371af91336f69cd596b7a9ff3eb6e6db"
BLINDING_KEY_HEX = "0227817cbfdbac7fdfefcddcc208bf036beb131268dfef696ccafe2b42c61767c6"


def test_blinding_keys_when_derived_then_those_of_the_worked_example() -> None:
    account = PrivateAccount.from_seed(SEED_64).public
    assert account.master_blinding_key is not None
    assert account.master_blinding_key.value.hex() == MASTER_HEX
    secret = account.blinding_secret(EXAMPLE_SCRIPT)
    assert secret is not None and secret.value.hex() == BLINDING_SECRET_HEX
    key = account.blinding_public_key(EXAMPLE_SCRIPT)
    assert key is not None and key.hex() == BLINDING_KEY_HEX
    assert MASTER_HEX not in repr(account)


def test_blinding_key_when_derived_then_hmac_of_the_script() -> None:
    account = PrivateAccount.from_seed(bytes(range(32))).public
    assert account.master_blinding_key is not None
    master = account.master_blinding_key.value
    script = account.script(Branch.CHANGE, 5)
    secret = account.blinding_secret(script)
    assert secret is not None and secret.value == hmac.digest(master, script, "sha256")


def test_account_when_it_has_no_master_key_then_it_blinds_nothing() -> None:
    bare = PublicAccount.decode(PrivateAccount.from_seed(SEED_64).public.extended_key)
    assert bare.blinding_secret(EXAMPLE_SCRIPT) is None
    assert bare.blinding_public_key(EXAMPLE_SCRIPT) is None and bare.origin is None
    with pytest.raises(InvalidEncoding):
        PublicAccount.decode(bare.extended_key, master_blinding_key=SecretKey(bytes(31)))


def test_origin_when_encoded_then_read_back_and_of_the_account_path() -> None:
    origin = PrivateAccount.from_seed(SEED_64).public.origin
    assert origin is not None
    assert [step - 2**31 for step in origin.path] == [84, 1, 0]
    assert KeyOrigin.decode(origin.encode()) == origin
    for data in (b"", bytes(3), bytes(5)):
        with pytest.raises(InvalidEncoding):
            KeyOrigin.decode(data)


def test_mnemonic_when_its_words_are_known_then_the_seed_of_bip39() -> None:
    assert seed_of_mnemonic(BIP84_WORDS) == bip84_seed()
    assert seed_of_mnemonic("  " + BIP84_WORDS.replace(" ", "\n")) == bip84_seed()


@pytest.mark.parametrize("words", ["", "abandon", "abandon " * 12, "abandon " * 11 + "abaut"])
def test_mnemonic_when_words_or_checksum_are_wrong_then_refused_without_repeating_it(
    words: str,
) -> None:
    with pytest.raises(InvalidEncoding) as refused:
        seed_of_mnemonic(words)
    assert "abandon" not in str(refused.value)
