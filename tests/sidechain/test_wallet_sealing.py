"""The seed on disk: sealed under a passphrase, opened by nothing else."""

import pytest

from sidechain.errors import InvalidEncoding
from sidechain.wallet.keys import PrivateAccount
from sidechain.wallet.sealing import (
    ENTROPY_BYTES,
    WrongPassphrase,
    is_sealed,
    seal,
    store_plain,
    unseal,
)

SEED = bytes(range(100, 132))
ACCOUNT = PrivateAccount.from_seed(SEED).public
ENTROPY = bytes(range(1, ENTROPY_BYTES + 1))


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return seal(SEED, "correct horse", ACCOUNT, ENTROPY)


def test_sealed_seed_when_opened_with_its_passphrase_then_same(sealed: bytes) -> None:
    assert is_sealed(sealed)
    assert SEED not in sealed
    assert unseal(sealed, "correct horse", ACCOUNT) == SEED


@pytest.mark.parametrize("passphrase", ["correct horsf", "", "correct horse "])
def test_sealed_seed_when_passphrase_is_wrong_then_refused(sealed: bytes, passphrase: str) -> None:
    with pytest.raises((WrongPassphrase, InvalidEncoding)):
        unseal(sealed, passphrase, ACCOUNT)


def test_sealed_seed_when_moved_to_another_account_then_refused(sealed: bytes) -> None:
    other = PrivateAccount.from_seed(bytes(range(32))).public
    with pytest.raises(WrongPassphrase):
        unseal(sealed, "correct horse", other)
    with pytest.raises(WrongPassphrase):
        unseal(store_plain(SEED), "", other)


@pytest.mark.parametrize("position", [1, 20, 30, -1])
def test_sealed_seed_when_one_bit_changed_then_refused(sealed: bytes, position: int) -> None:
    changed = bytearray(sealed)
    changed[position] ^= 1
    with pytest.raises(WrongPassphrase):
        unseal(bytes(changed), "correct horse", ACCOUNT)


def test_sealed_seed_when_cut_short_then_refused(sealed: bytes) -> None:
    with pytest.raises(WrongPassphrase):
        unseal(sealed[:40], "correct horse", ACCOUNT)


def test_plain_seed_when_opened_then_needs_no_passphrase() -> None:
    stored = store_plain(SEED)
    assert not is_sealed(stored)
    assert unseal(stored, "", ACCOUNT) == SEED


@pytest.mark.parametrize("entropy", [b"", bytes(ENTROPY_BYTES), ENTROPY[:-1]])
def test_seal_when_entropy_is_short_or_zero_then_refused(entropy: bytes) -> None:
    with pytest.raises(InvalidEncoding):
        seal(SEED, "x", ACCOUNT, entropy)


def test_seal_when_passphrase_is_empty_then_refused() -> None:
    with pytest.raises(InvalidEncoding):
        seal(SEED, "", ACCOUNT, ENTROPY)
