"""How one member runs: its folder and member.json.

Source: N5, N16, N18, consensus:C33.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from federation.canonical import NotCanonical, strict_loads
from federation.config_fields import Fields, InvalidConfig
from federation.files import FileLayer, replace_file

MEMBERS_MAX = 15
PEOPLE_MAX = 64
"""Members of one federation over all its changes."""
CONFIG_FILE_MAX_BYTES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BitcoindAccess:
    """How a member reaches its bitcoind: a cookie file, or a user and a password.

    The password never stands in a file of ours: `password_env` names the environment variable.
    """

    url: str
    cookie: Path | None = None
    user: str = ""
    password_env: str = ""

    def password(self) -> str:
        """The password out of the environment.

        Raises:
            InvalidConfig: the variable is not set.
        """
        value = os.environ.get(self.password_env)
        if value is None:
            raise InvalidConfig(f"environment variable {self.password_env} is not set")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberConfig:
    """member.json, checked: how one member runs. Times in milliseconds but `future_limit_s`."""

    index: int
    listen_host: str
    listen_port: int
    rpc_port: int
    bitcoind: BitcoindAccess
    block_interval_ms: int
    min_interval_ms: int
    esplora_port: int = 0
    timeout_base_ms: int = 500
    timeout_step_ms: int = 100
    timeout_cap_ms: int = 10_000
    gossip_interval_ms: int = 280
    future_limit_s: int = 30
    allow_no_byzantine_safety: bool = False
    second_validator: BitcoindAccess | None = None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `member.json` of a member's folder; relative paths in it start at the folder.

        Raises:
            InvalidConfig: it cannot be read or breaks a rule.
        """
        fields = Fields(read_config_json(folder / "member.json"), "")
        bitcoind = Fields(fields.take("bitcoind"), "bitcoind")
        config = cls(
            index=fields.integer("index", 0, PEOPLE_MAX - 1),
            listen_host=fields.text("listen_host", size_max=253),
            listen_port=fields.integer("listen_port", 0, 65_535),
            rpc_port=fields.integer("rpc_port", 0, 65_535),
            # Files of the first version have no such field.
            esplora_port=fields.integer("esplora_port", 0, 65_535)
            if fields.has("esplora_port")
            else 0,
            bitcoind=_bitcoind(bitcoind, folder),
            block_interval_ms=fields.integer("block_interval_ms", 1, 3_600_000),
            min_interval_ms=fields.integer("min_interval_ms", 0, 3_600_000),
            timeout_base_ms=fields.integer("timeout_base_ms", 10, 600_000),
            timeout_step_ms=fields.integer("timeout_step_ms", 0, 600_000),
            timeout_cap_ms=fields.integer("timeout_cap_ms", 10, 3_600_000),
            gossip_interval_ms=fields.integer("gossip_interval_ms", 10, 60_000),
            future_limit_s=fields.integer("future_limit_s", 1, 7_200),
            allow_no_byzantine_safety=fields.flag("allow_no_byzantine_safety"),
            second_validator=_second_validator(fields, folder),
        )
        fields.done()
        if config.min_interval_ms > config.block_interval_ms:
            raise InvalidConfig("min_interval_ms is above block_interval_ms")
        if config.timeout_base_ms > config.timeout_cap_ms:
            raise InvalidConfig("timeout_base_ms is above timeout_cap_ms")
        return config

    def save(self, folder: Path, layer: FileLayer | None = None) -> None:
        """Write `member.json`, durable and whole.

        Raises:
            OSError: the disk refused.
        """
        cookie = self.bitcoind.cookie
        access: dict[str, Any] = {"url": self.bitcoind.url}
        if cookie is not None:
            access["cookie"] = str(cookie)
        else:
            access |= {"user": self.bitcoind.user, "password_env": self.bitcoind.password_env}
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        second = plain.pop("second_validator")
        if second is not None:
            plain["second_validator"] = {"url": second.url, "cookie": str(second.cookie)}
        plain |= {
            "bitcoind": access,
            "allow_no_byzantine_safety": int(self.allow_no_byzantine_safety),
        }
        text = json.dumps(plain, indent=2) + "\n"
        replace_file(layer or FileLayer(), folder / "member.json", text.encode())


@dataclass(frozen=True, slots=True)
class MemberFolder:
    """Where a member keeps what: everything it owns is under one folder."""

    path: Path

    @property
    def keys(self) -> Path:
        """Secrets: 0700, files 0600. All else but federation.json may be lost (N5)."""
        return self.path / "keys"

    @property
    def block_key(self) -> Path:
        """Secret block key, hex."""
        return self.keys / "block.key"

    @property
    def peg_key(self) -> Path:
        """Secret peg key, hex."""
        return self.keys / "peg.key"

    @property
    def tls_key(self) -> Path:
        """Secret key of the certificate, PEM."""
        return self.keys / "tls.key"

    @property
    def certificate(self) -> Path:
        """Own certificate, PEM."""
        return self.keys / "tls.crt"

    @property
    def birth_mark(self) -> Path:
        """Present until the member was started for the first time (N5)."""
        return self.keys / "unborn"

    @property
    def chain(self) -> Path:
        """LevelDB of the sidechain."""
        return self.path / "chain"

    @property
    def index(self) -> Path:
        """LevelDB of scripts, spenders and assets; made anew from the chain when it is lost."""
        return self.path / "index"

    @property
    def journal(self) -> Path:
        """Journal of agreement, and proposal blocks."""
        return self.path / "journal"

    @property
    def peg_journal(self) -> Path:
        """Journal of peg signatures (N24)."""
        return self.path / "pegjournal"

    @property
    def covenants(self) -> Path:
        """Registrations of users who do not claim themselves."""
        return self.path / "covenants"

    @property
    def guard(self) -> Path:
        """The signer's own state."""
        return self.path / "signer" / "guard"

    @property
    def pin(self) -> Path:
        """Where a signer process goes on to follow headers (R1)."""
        return self.path / "signer" / "pin"

    @property
    def signer_socket(self) -> Path:
        """Where a signer process listens."""
        return self.path / "signer" / "socket"

    @property
    def signer_log(self) -> Path:
        """JSON lines of a signer process."""
        return self.path / "signer" / "log.jsonl"

    @property
    def approved(self) -> Path:
        """Operator approvals (N23)."""
        return self.path / "approved"

    @property
    def reports(self) -> Path:
        """Reserves reports that k members have signed (peg:11)."""
        return self.path / "reports"

    @property
    def changes(self) -> Path:
        """Member changes this operator approved (C83)."""
        return self.path / "changes"

    @property
    def log(self) -> Path:
        """JSON lines."""
        return self.path / "log.jsonl"

    @property
    def cookie(self) -> Path:
        """Credentials of the member's own RPC."""
        return self.path / ".cookie"


def take_birth_mark(folder: MemberFolder, layer: FileLayer | None = None) -> None:
    """Use up the one permission to start without a journal; call before BIRTH is written (N5).

    Raises:
        InvalidConfig: there is none: this key has been started before.
        OSError: the disk refused; the member must not start.
    """
    layer = layer or FileLayer()
    if not folder.birth_mark.exists():
        raise InvalidConfig(
            f"{folder.birth_mark} is absent: this key was started before. A member without its "
            "journal starts with --restored, never with --init"
        )
    layer.remove(folder.birth_mark)
    layer.sync_folder(folder.keys)


def read_config_json(path: Path) -> Any:
    """Parse one configuration file, strictly.

    Raises:
        InvalidConfig: unreadable, too large, or not the JSON that is allowed.
    """
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_FILE_MAX_BYTES + 1)
    except OSError as error:
        raise InvalidConfig(f"cannot read {path}: {error.strerror}") from error
    if len(data) > CONFIG_FILE_MAX_BYTES:
        raise InvalidConfig(f"{path} is too large")
    try:
        return strict_loads(data.decode("utf-8"))
    except (NotCanonical, UnicodeDecodeError) as error:
        raise InvalidConfig(f"{path}: {error}") from error


def _bitcoind(fields: Fields, folder: Path) -> BitcoindAccess:
    url = fields.text("url", size_max=1_000)
    if not url.startswith(("http://", "https://")):
        raise InvalidConfig("bitcoind.url does not begin with http:// or https://")
    if fields.has("cookie"):
        cookie = folder / fields.text("cookie", size_max=4_096)
        fields.done()
        return BitcoindAccess(url=url, cookie=Path(os.path.normpath(cookie)))
    access = BitcoindAccess(
        url=url,
        user=fields.text("user", size_max=256),
        password_env=fields.text("password_env", size_max=256),
    )
    fields.done()
    return access


def _second_validator(fields: Fields, folder: Path) -> BitcoindAccess | None:
    """Another daemon of the same chain whose word counts too (X7); by cookie file only."""
    if not fields.has("second_validator"):
        return None
    access = _bitcoind(Fields(fields.take("second_validator"), "second_validator"), folder)
    if access.cookie is None:
        raise InvalidConfig("second_validator has no cookie")
    return access
