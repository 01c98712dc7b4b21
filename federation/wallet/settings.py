"""What the wallet process is told from outside: `local.json` and the federation file.

`read_local` is the only reader of `local.json`. Paths in it are relative to the data folder or
absolute.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidechain.errors import Invalid

FAUCET_WALLET = "faucet"


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcAddress:
    """Where a JSON-RPC server on this machine listens, and its cookie file."""

    name: str
    url: str
    cookie_path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """Ports and cookies of one local federation. `rpc_port` is the wallet process's own."""

    chain: str
    members: tuple[RpcAddress, ...]
    bitcoind: RpcAddress
    faucet_wallet: str
    rpc_port: int


def read_local(data: Path) -> LocalSettings:
    """Read `local.json` of a data folder.

    Raises:
        Invalid: the file is missing, is not JSON, or lacks something.
    """
    path = data / "local.json"
    try:
        content = json.loads(path.read_text())
        members = tuple(
            RpcAddress(
                name=str(member["name"]),
                url=_url(member["rpc_port"]),
                cookie_path=data / "members" / str(member["name"]) / ".cookie",
            )
            for member in content["members"]
        )
        parent = content["bitcoind"]
        settings = LocalSettings(
            chain=str(content["chain"]),
            members=members,
            bitcoind=_parent_address(data, parent),
            faucet_wallet=str(parent.get("wallet", FAUCET_WALLET)),
            rpc_port=int(content["wallet"]["rpc_port"]),
        )
    except OSError as error:
        raise Invalid("no-local-file", f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise Invalid("bad-local-file", f"{path} is not complete: {error!r}") from error
    if not settings.members:
        raise Invalid("bad-local-file", f"{path} names no member")
    return settings


def _parent_address(data: Path, parent: Mapping[str, Any]) -> RpcAddress:
    cookie = data / str(parent["cookie"])
    return RpcAddress(name="bitcoind", url=_url(parent["rpc_port"]), cookie_path=cookie)


def _url(port: object) -> str:
    number = int(str(port))
    if not 0 < number < 65536:
        raise ValueError(f"port {number}")
    return f"http://127.0.0.1:{number}"
