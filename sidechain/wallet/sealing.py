"""The seed as it lies on disk: plain, or encrypted under a passphrase.

Encryption is AES-256-GCM with a key from scrypt (n = 2^15, r = 8, p = 1: 32 MiB of memory and
about 0.1 s, so call it outside the event loop). The account's public key is authenticated with
it, so a sealed seed cannot be moved to another wallet.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from sidechain.errors import Invalid, InvalidEncoding
from sidechain.wallet.keys import PrivateAccount, PublicAccount

SALT_BYTES = 16
NONCE_BYTES = 12
ENTROPY_BYTES = SALT_BYTES + NONCE_BYTES
MIN_PASSPHRASE_CHARS = 1

_PLAIN = b"\x00"
_SEALED = b"\x01"
_SCRYPT_N = 1 << 15
_SCRYPT_R = 8
_SCRYPT_P = 1


class WrongPassphrase(Invalid):
    """The passphrase does not open this seed, or the stored bytes were changed."""


def is_sealed(stored: bytes) -> bool:
    """Whether a passphrase is needed to open the stored seed."""
    return stored[:1] == _SEALED


def store_plain(seed: bytes) -> bytes:
    """The stored form without a passphrase: whoever reads the file has the coins."""
    return _PLAIN + seed


def seal(seed: bytes, passphrase: str, account: PublicAccount, entropy: bytes) -> bytes:
    """The stored form under a passphrase.

    Args:
        entropy: FRESH random bytes, 28 of them: salt and nonce.
    Raises:
        InvalidEncoding: entropy of another length or all zero, or an empty passphrase.
    """
    if len(entropy) != ENTROPY_BYTES or not any(entropy):
        raise InvalidEncoding("sealing needs 28 fresh random bytes")
    salt, nonce = entropy[:SALT_BYTES], entropy[SALT_BYTES:]
    cipher = AESGCM(_key(passphrase, salt))
    return _SEALED + entropy + cipher.encrypt(nonce, seed, account.extended_key)


def unseal(stored: bytes, passphrase: str, account: PublicAccount) -> bytes:
    """The seed of a stored form; a plain one needs no passphrase.

    Raises:
        WrongPassphrase: it does not open, or opens to the seed of another account.
    """
    if stored[:1] == _PLAIN:
        seed = stored[1:]
    else:
        salt = stored[1 : 1 + SALT_BYTES]
        nonce = stored[1 + SALT_BYTES : 1 + ENTROPY_BYTES]
        cipher = AESGCM(_key(passphrase, salt))
        try:
            seed = cipher.decrypt(nonce, stored[1 + ENTROPY_BYTES :], account.extended_key)
        except (InvalidTag, ValueError) as error:
            raise WrongPassphrase("wrong passphrase") from error
    if PrivateAccount.from_seed(seed).public.extended_key != account.extended_key:
        raise WrongPassphrase("the stored seed belongs to another wallet")
    return seed


def _key(passphrase: str, salt: bytes) -> bytes:
    if len(passphrase) < MIN_PASSPHRASE_CHARS:
        raise InvalidEncoding("the passphrase is empty")
    kdf = Scrypt(salt=salt, length=32, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P)
    return kdf.derive(passphrase.encode("utf-8"))
