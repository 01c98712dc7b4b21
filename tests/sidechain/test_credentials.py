"""Who may use the RPC interface."""

import base64
import hashlib
import hmac
import stat
from pathlib import Path

import pytest

from sidechain.api.credentials import Credentials, Login, SaltedLogin


def basic(text: str) -> bytes:
    return b"Basic " + base64.b64encode(text.encode())


def salted(user: str, password: str, salt: str = "a1b2") -> SaltedLogin:
    digest = hmac.new(salt.encode(), password.encode(), hashlib.sha256).hexdigest()
    return SaltedLogin.parse(f"{user}:{salt}${digest}")


def test_login_when_several_are_known_then_each_is_accepted_and_no_mixture() -> None:
    known = Credentials(
        [Login(user="u", password="p:q"), salted("s", "x"), salted("s", "y"), salted("t", "é")]
    )
    for good in ("u:p:q", "s:x", "s:y", "t:é"):
        assert known.accept(basic(good))
        assert known.accept(b"bASIC   " + base64.b64encode(good.encode()) + b" ")
    for bad in ("u:p", "u:p:q ", "s:p:q", "u:x", "t:x", "s:", "s", ":x", "", "__cookie__:"):
        assert not known.accept(basic(bad))
    for bad_header in (b"", b"Basic", b"Basic !!", b"Bearer " + base64.b64encode(b"u:p:q")):
        assert not known.accept(bad_header)


def test_login_when_none_is_known_then_nothing_is_accepted() -> None:
    assert not Credentials().accept(basic(""))
    assert not Credentials().accept(basic(":"))


def test_cookie_when_made_and_dropped_then_accepted_only_between(tmp_path: Path) -> None:
    path = tmp_path / "new" / ".cookie"
    known = Credentials([Login(user="u", password="p")])
    known.drop_cookie(path)
    known.make_cookie(path, mode=0o640)
    cookie = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert known.accept(basic(cookie))
    assert known.accept(basic("u:p"))
    known.make_cookie(path)
    assert not known.accept(basic(cookie))
    cookie = path.read_text()
    known.drop_cookie(path)
    assert not path.exists()
    assert not known.accept(basic(cookie))
    assert known.accept(basic("u:p"))


@pytest.mark.parametrize("text", ["", "user", "user:salt", "a:b:c$d", "a:b$c$d", "a$b"])
def test_rpcauth_when_malformed_then_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Invalid -rpcauth argument"):
        SaltedLogin.parse(text)


def test_login_when_shown_then_without_its_secret() -> None:
    shown = repr(Login(user="u", password="secret")) + repr(salted("s", "x"))
    assert "secret" not in shown
    assert salted("s", "x").digest_hex not in shown
