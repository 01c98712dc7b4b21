"""local.json: what the runner of a local federation remembers, and who may change it.

It names ports and the stage of the founding. Paths in it start at the data folder, so that the
folder can be moved while the federation is down.
"""

import contextlib
import fcntl
import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from federation.bitcoind_process import COOKIE_NAME
from federation.files import FileLayer, replace_file

FORMAT = 1
FAUCET_WALLET = "faucet"
LOCK_NAME = ".lock"
SIGNER_SUFFIX = "-signer"
PATH_BYTES_MAX = 440
"""bitcoind keeps wallets in SQLite, which opens paths of 511 bytes and adds names of its own."""
PORTS_FIRST = 15_000
PORTS_LAST = 32_000
"""Below the range from which systems take ports for outgoing connections."""
PORT_TRIES_MAX = 2_000


class LocalError(Exception):
    """A command about a local federation cannot be carried out; the text is for its user."""


class FolderBusy(LocalError):
    """Another command is starting or stopping processes of the folder."""


class Stage(StrEnum):
    """How far the founding ceremony has come."""

    FILES = "files"
    FUNDED = "funded"
    APPROVED = "approved"
    OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalMember:
    """One member: `port` for the other members, `rpc_port` for its JSON-RPC.

    `esplora_port` is for wallets and explorers; 0 where the member was founded without.
    """

    name: str
    index: int
    port: int
    rpc_port: int
    esplora_port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """What a user may ask of `up`; None leaves it to the folder or the default."""

    n: int | None = None
    k: int | None = None
    block_time_ms: int | None = None
    allow_no_byzantine_safety: bool = False
    second_validation: bool | None = None
    allow_faults: bool | None = None
    signers: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalState:
    """One local federation as its runner knows it; `anchor` and `trial` are txid:vout or empty."""

    chain: str
    n: int
    k: int
    block_time_ms: int
    members: tuple[LocalMember, ...]
    bitcoind_rpc_port: int
    wallet_rpc_port: int
    allow_no_byzantine_safety: bool = False
    second_validation: bool = False
    allow_faults: bool = False
    signers: bool = False
    stage: Stage = Stage.FILES
    anchor: str = ""
    trial: str = ""

    def member_flags(self) -> list[str]:
        """How every member of it is started."""
        chosen = {
            "--second-validation": self.second_validation,
            "--allow-faults": self.allow_faults,
            "--signer-process": self.signers,
        }
        return [flag for flag, is_chosen in chosen.items() if is_chosen]

    def process_names(self) -> list[str]:
        """What runs when all of it is up."""
        names = ["bitcoind", "wallet", *(member.name for member in self.members)]
        return names + [signer_name(m.name) for m in self.members if self.signers]

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        return {
            "format": FORMAT,
            "chain": self.chain,
            "n": self.n,
            "k": self.k,
            "block_time_ms": self.block_time_ms,
            "allow_no_byzantine_safety": self.allow_no_byzantine_safety,
            "second_validation": self.second_validation,
            "allow_faults": self.allow_faults,
            "signers": self.signers,
            "members": [asdict(member) for member in self.members],
            "bitcoind": {
                "rpc_port": self.bitcoind_rpc_port,
                "datadir": "bitcoind",
                "cookie": f"bitcoind/{COOKIE_NAME}",
                "wallet": FAUCET_WALLET,
            },
            "wallet": {"rpc_port": self.wallet_rpc_port},
            "founding": {"stage": self.stage.value, "anchor": self.anchor, "trial": self.trial},
        }

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        """Inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: something is missing or of another form.
        """
        if plain["format"] != FORMAT:
            raise ValueError(f"format {plain['format']}, this version knows {FORMAT}")
        return cls(
            chain=str(plain["chain"]),
            n=int(plain["n"]),
            k=int(plain["k"]),
            block_time_ms=int(plain["block_time_ms"]),
            allow_no_byzantine_safety=bool(plain["allow_no_byzantine_safety"]),
            # Files of the first version have no such fields.
            second_validation=bool(plain.get("second_validation", False)),
            allow_faults=bool(plain.get("allow_faults", False)),
            signers=bool(plain.get("signers", False)),
            members=tuple(LocalMember(**member) for member in plain["members"]),
            bitcoind_rpc_port=int(plain["bitcoind"]["rpc_port"]),
            wallet_rpc_port=int(plain["wallet"]["rpc_port"]),
            stage=Stage(plain["founding"]["stage"]),
            anchor=str(plain["founding"]["anchor"]),
            trial=str(plain["founding"]["trial"]),
        )


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """Where a local federation keeps what."""

    path: Path

    @property
    def state(self) -> Path:
        """local.json."""
        return self.path / "local.json"

    @property
    def federation_file(self) -> Path:
        """federation.json, shared by all members."""
        return self.path / "federation.json"

    @property
    def bitcoind(self) -> Path:
        """Data folder of the node."""
        return self.path / "bitcoind"

    @property
    def bitcoind_cookie(self) -> Path:
        """The node's RPC cookie."""
        return self.bitcoind / COOKIE_NAME

    @property
    def wallet(self) -> Path:
        """Folder of the wallet process."""
        return self.path / "wallet"

    def member(self, name: str) -> Path:
        """Folder of one member."""
        return self.path / "members" / name

    def output(self, process: str) -> Path:
        """File that takes what a process prints outside its log."""
        if process in ("bitcoind", "wallet"):
            return self.path / process / "output.log"
        process = process.removesuffix(SIGNER_SUFFIX)
        return self.member(process) / "output.log"

    def log(self, process: str) -> Path:
        """The log of a process."""
        if process == "bitcoind":
            return self.bitcoind / "regtest" / "debug.log"
        if process.endswith(SIGNER_SUFFIX):
            return self.member(process.removesuffix(SIGNER_SUFFIX)) / "signer" / "log.jsonl"
        folder = self.wallet if process == "wallet" else self.member(process)
        return folder / "log.jsonl"

    def load(self) -> LocalState | None:
        """The state, None when there is no federation in this folder.

        Raises:
            LocalError: the file is damaged.
        """
        try:
            return LocalState.from_json(json.loads(self.state.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise LocalError(f"{self.state} cannot be read: {error!r}") from error

    def save(self, state: LocalState) -> None:
        """Write the state, durable and whole."""
        text = json.dumps(state.to_json(), indent=2) + "\n"
        replace_file(FileLayer(), self.state, text.encode())

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other command from starting or stopping processes here meanwhile.

        Raises:
            FolderBusy: another command is doing so now. LocalError: the folder cannot be used.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / LOCK_NAME, flags, 0o600)
        except OSError as error:
            raise LocalError(
                f"{self.path} cannot be used ({error.strerror}): name another folder with --data"
            ) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise FolderBusy(
                    f"another fedpeg command is starting or stopping {self.path} right now: "
                    "wait until it has ended"
                ) from error
            yield
        finally:
            os.close(descriptor)


def check_foundable(folder: LocalFolder, state: LocalState) -> None:
    """Refuse what makes no federation before a file is written.

    Raises:
        LocalError: the folder is in use or its path too long, or the numbers do not fit.
    """
    occupied = [path.name for path in folder.path.iterdir() if path.name != LOCK_NAME]
    if occupied:
        raise LocalError(
            f"{folder.path} holds other files ({', '.join(sorted(occupied)[:3])}): "
            "name an empty folder with --data"
        )
    if len(os.fsencode(folder.path)) > PATH_BYTES_MAX:
        raise LocalError(
            f"the path of the folder is longer than the {PATH_BYTES_MAX} bytes that bitcoind can "
            "take: name another one with --data"
        )
    if not 1 <= state.n <= 15 or not 1 <= state.k <= state.n:
        raise LocalError(f"n is 1 to 15 and k is 1 to n, not n={state.n}, k={state.k}")
    if 2 * state.k - state.n - 1 < 1 and not state.allow_no_byzantine_safety:
        raise LocalError(
            f"with n={state.n}, k={state.k} one lying member can fork the chain: choose k of "
            f"at least {(state.n + 3) // 2}, or --allow-no-byzantine-safety"
        )


def check_options(state: LocalState, options: UpOptions) -> None:
    """Refuse options that the federation in the folder was not founded with.

    Raises:
        LocalError: n, k or the block time is another one.
    """
    for name in ("n", "k", "block_time_ms"):
        wanted = getattr(options, name)
        if wanted is not None and wanted != getattr(state, name):
            raise LocalError(
                f"this folder holds a federation with n={state.n}, k={state.k} and a block time of "
                f"{state.block_time_ms / 1000:g} s; another one needs another --data"
            )


def with_options(state: LocalState, options: UpOptions) -> LocalState:
    """The state with what may change from one `up` to the next, where it was asked for."""
    asked = {
        name: getattr(options, name) for name in ("second_validation", "allow_faults", "signers")
    }
    return replace(state, **{name: value for name, value in asked.items() if value is not None})


def ports_of(state: LocalState) -> list[tuple[str, int]]:
    """Every port a process listens on, with the process's name."""
    ports = [("bitcoind", state.bitcoind_rpc_port), ("wallet", state.wallet_rpc_port)]
    for member in state.members:
        mine = (member.port, member.rpc_port, member.esplora_port)
        ports += [(member.name, port) for port in mine if port]
    return ports


def signer_name(member: str) -> str:
    """What the signer process of a member is called."""
    return f"{member}{SIGNER_SUFFIX}"


@dataclass(slots=True)
class PortChooser:
    """Gives free loopback ports, none of them twice."""

    taken: set[int] = field(default_factory=set)
    is_free: Callable[[int], bool] = lambda port: port_is_free(port)

    def choose(self) -> int:
        """A port that nobody listens on now.

        Raises:
            LocalError: none was found.
        """
        for _ in range(PORT_TRIES_MAX):
            port = random.SystemRandom().randrange(PORTS_FIRST, PORTS_LAST)
            if port not in self.taken and self.is_free(port):
                self.taken.add(port)
                return port
        raise LocalError("no free port on 127.0.0.1")

    def keep_or_choose(self, port: int) -> int:
        """The same port while it is free, else another; 0 was never chosen."""
        if port and port not in self.taken and self.is_free(port):
            self.taken.add(port)
            return port
        return self.choose()


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
