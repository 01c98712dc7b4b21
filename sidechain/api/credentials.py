"""Who may use the RPC interface: a cookie, a user with a password, salted `-rpcauth` entries.

A comparison takes the same time for a right and a wrong guess. Source: elements/interfaces.md 1.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

COOKIE_USER = "__cookie__"
_SALTED = re.compile(r"(?P<user>[^:]*):(?P<salt>[^:$]*)\$(?P<hash>[^:$]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A user with a password in the clear (`-rpcuser`, `-rpcpassword`)."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SaltedLogin:
    """A user with HMAC-SHA256(salt, password) in hex instead of the password (`-rpcauth`)."""

    user: str
    salt: str
    digest_hex: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "SaltedLogin":
        """Read `user:salt$hash`.

        Raises:
            ValueError: another form.
        """
        found = _SALTED.fullmatch(text)
        if found is None:
            raise ValueError("Invalid -rpcauth argument.")
        return cls(user=found["user"], salt=found["salt"], digest_hex=found["hash"])


class Credentials:
    """Everything that is accepted; without any entry nothing is."""

    def __init__(self, logins: Sequence[Login | SaltedLogin] = ()) -> None:
        self._salted = [each for each in logins if isinstance(each, SaltedLogin)]
        self._plain = [
            f"{each.user}:{each.password}".encode() for each in logins if isinstance(each, Login)
        ]
        self._cookie: bytes | None = None
        self._usual = self._usual_headers()

    def make_cookie(self, path: Path, mode: int = 0o600) -> None:
        """Accept a fresh cookie from now on, and write it to a file.

        Raises:
            OSError: the file cannot be written.
        """
        text = f"{COOKIE_USER}:{secrets.token_hex(32)}"
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".new")
        draft.unlink(missing_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
        draft.replace(path)
        self._cookie = text.encode()
        self._usual = self._usual_headers()

    def drop_cookie(self, path: Path) -> None:
        """Refuse the cookie from now on and remove its file; nothing if there is none."""
        if self._cookie is None:
            return
        self._cookie = None
        self._usual = self._usual_headers()
        path.unlink(missing_ok=True)

    def accept(self, header: bytes) -> bool:
        """Whether the value of an Authorization header names an accepted login."""
        # Nearly every client writes the header in this form; another one is taken apart below.
        if any(hmac.compare_digest(header, usual) for usual in self._usual):
            return True
        scheme, _, encoded = header.partition(b" ")
        if scheme.lower() != b"basic":
            return False
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        if any(hmac.compare_digest(given, each) for each in self._whole()):
            return True
        user, colon, password = given.partition(b":")
        return bool(colon) and any(_matches(each, user, password) for each in self._salted)

    def _whole(self) -> list[bytes]:
        return [*self._plain, *([] if self._cookie is None else [self._cookie])]

    def _usual_headers(self) -> list[bytes]:
        return [b"Basic " + base64.b64encode(each) for each in self._whole()]


def _matches(login: SaltedLogin, user: bytes, password: bytes) -> bool:
    digest = hmac.new(login.salt.encode(), password, hashlib.sha256).hexdigest()
    right_user = hmac.compare_digest(user, login.user.encode())
    return hmac.compare_digest(digest.encode(), login.digest_hex.encode()) and right_user
