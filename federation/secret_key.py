"""A secret key that does not show itself."""

from typing import NoReturn, Protocol

from sidechain.crypto.keys import ecdsa_sign, public_key, schnorr_sign, tweak_add_secret


class SigningKey(Protocol):
    """What the signer asks of a key; the simulator has one without curve operations."""

    @property
    def public_key(self) -> bytes:
        """The compressed public key, 33 bytes."""
        ...

    def sign_ecdsa(self, digest: bytes) -> bytes:
        """DER, low S."""
        ...

    def sign_schnorr(self, digest: bytes) -> bytes:
        """64 bytes."""
        ...

    def tweaked(self, tweak: bytes) -> "SigningKey":
        """The key plus a 32-byte tweak."""
        ...


class SecretKey:
    """A secp256k1 secret: it can sign, and it never appears in text, logs or copies."""

    __slots__ = ("_secret", "public_key")

    public_key: bytes
    """The compressed public key, 33 bytes."""

    def __init__(self, secret: bytes) -> None:
        """Take 32 bytes. Raises InvalidEncoding when they are out of range."""
        self.public_key = public_key(secret)
        self._secret = secret

    def sign_ecdsa(self, digest: bytes) -> bytes:
        """DER, low S, RFC 6979. Raises InvalidEncoding: digest not 32 bytes."""
        return ecdsa_sign(self._secret, digest)

    def sign_schnorr(self, digest: bytes) -> bytes:
        """BIP340 with zero auxiliary data. Raises InvalidEncoding: digest not 32 bytes."""
        return schnorr_sign(self._secret, digest)

    def tweaked(self, tweak: bytes) -> "SecretKey":
        """The key plus a 32-byte tweak. Raises InvalidEncoding: tweak out of range."""
        return SecretKey(tweak_add_secret(self._secret, tweak))

    def __repr__(self) -> str:
        return "SecretKey(…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key is not copied or pickled")
