"""`fedpeg doctor`: what is wrong on this machine or with a federation, and the one-line fix."""

import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from federation.bitcoind_process import BitcoindMissing, find_bitcoind
from federation.config import FederationFile, InvalidConfig
from federation.local import BITCOIND, WALLET, LocalFederation
from federation.local_state import LocalError, LocalState, port_is_free
from peg.bitcoind import BitcoindClient, BitcoindError
from sidechain.api.client import RpcError
from sidechain.errors import Invalid, Unavailable

PYTHON_MIN = (3, 11)
FREE_BYTES_MIN = 1_000_000_000
CLOCK_AHEAD_MAX_S = 60
LIBRARIES = (
    "aiohttp",
    "click",
    "coincurve",
    "cryptography",
    "plyvel",
    "python-bitcoinlib",
    "rich",
    "structlog",
    "wallycore",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at; `fix` is one line, meant for when it is not `ok`."""

    name: str
    ok: bool
    found: str
    fix: str


async def examine(federation: LocalFederation) -> tuple[Check, ...]:
    """Look at the machine, then at the federation in the folder, if there is one."""
    checks = [_python(), _libraries(), _bitcoind_program(), _proc(), _disk(federation)]
    try:
        state = federation.folder.load()
    except LocalError as error:
        fix = "restore local.json from a backup, or name another folder with --data"
        return (*checks, Check(name="local.json", ok=False, found=str(error), fix=fix))
    if state is None:
        found = f"none in {federation.folder.path}"
        return (*checks, Check(name="federation", ok=True, found=found, fix=""))
    checks.append(_federation_file(federation, state))
    checks.append(_secrets(federation))
    running = federation.running()
    checks.append(_processes(state, set(running)))
    checks += _ports(state, set(running))
    if BITCOIND in running:
        async with federation.bitcoind_client(state, timeout_ms=5_000) as client:
            checks += await _bitcoind(client)
    if WALLET in running:
        async with federation.wallet_client(state, timeout_s=5) as client:
            checks.append(await _wallet_answers(client.call))
    for member in state.members:
        if member.name in running:
            async with federation.member_client(member, timeout_s=5) as client:
                checks.append(await _answers(member.name, client.call))
    return tuple(checks)


def _python() -> Check:
    found = f"{sys.version.split()[0]} at {sys.executable}"
    ok = sys.version_info >= PYTHON_MIN and not sys.flags.optimize
    return Check(name="python", ok=ok, found=found, fix="use Python 3.11 or newer, without -O")


def _libraries() -> Check:
    missing = []
    for name in LIBRARIES:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    # a library that Debian built for this Python carries no metadata
    missing = [name for name in missing if not _imports(name)]
    found = f"missing: {', '.join(missing)}" if missing else "all there"
    return Check(name="libraries", ok=not missing, found=found, fix="run deploy/setup")


def _imports(name: str) -> bool:
    try:
        __import__(name.replace("-", "_"))
    except ImportError:
        return False
    return True


def _bitcoind_program() -> Check:
    fix = "run deploy/setup, or set BITCOIND to a bitcoind of version 28 or newer"
    try:
        program = find_bitcoind()
    except BitcoindMissing as error:
        return Check(name="bitcoind", ok=False, found=str(error), fix=fix)
    return Check(name="bitcoind", ok=True, found=f"{program.version} at {program.path}", fix=fix)


def _proc() -> Check:
    try:
        ok = b"=" in Path("/proc/self/environ").read_bytes() or not os.environ
    except OSError:
        ok = False
    found = "readable" if ok else "cannot be read, so running processes cannot be found"
    return Check(name="/proc", ok=ok, found=found, fix="mount /proc (mount -t proc proc /proc)")


def _disk(federation: LocalFederation) -> Check:
    place = federation.folder.path
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    ok = free >= FREE_BYTES_MIN and os.access(place, os.W_OK)
    found = f"{free // 1_000_000:,} MB free at {place}"
    if not os.access(place, os.W_OK):
        found += ", not writable"
    return Check(name="disk", ok=ok, found=found, fix="free 1 GB, or name a folder with --data")


def _federation_file(federation: LocalFederation, state: LocalState) -> Check:
    fix = "put back the federation.json that the members were founded with"
    if not federation.folder.federation_file.exists():
        found = "not made yet"
        return Check(name="federation.json", ok=False, found=found, fix="run fedpeg up")
    try:
        file: FederationFile = federation.load_federation(state)
    except (InvalidConfig, Invalid) as error:
        return Check(name="federation.json", ok=False, found=str(error), fix=fix)
    found = f"parameter hash {file.parameter_hash().hex()}"
    return Check(name="federation.json", ok=True, found=found, fix=fix)


def _secrets(federation: LocalFederation) -> Check:
    """Key files that somebody else could read."""
    open_files = [path for path in _key_files(federation.folder.path) if _is_open(path)]
    found = f"open to others: {open_files[0]}" if open_files else "readable by their owner only"
    fix = f"chmod 600 {' '.join(map(str, open_files[:3]))}"
    return Check(name="keys", ok=not open_files, found=found, fix=fix)


def _key_files(data: Path) -> Iterator[Path]:
    yield from data.glob("members/*/keys/*.key")
    yield from data.glob("emergency/*.key")


def _is_open(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def _processes(state: LocalState, running: set[str]) -> Check:
    expected = state.process_names()
    missing = [name for name in expected if name not in running]
    if len(missing) == len(expected):
        return Check(name="processes", ok=True, found="the federation is down", fix="")
    found = f"not running: {', '.join(missing)}" if missing else f"{len(running)} run"
    return Check(name="processes", ok=not missing, found=found, fix="run fedpeg up")


def _ports(state: LocalState, running: set[str]) -> Iterator[Check]:
    """Ports of processes that are down and that somebody else has taken."""
    taken = []
    for name, port in (
        (BITCOIND, state.bitcoind_rpc_port),
        (WALLET, state.wallet_rpc_port),
        *((member.name, member.port) for member in state.members),
        *((member.name, member.rpc_port) for member in state.members),
        *((member.name, member.esplora_port) for member in state.members if member.esplora_port),
    ):
        if name not in running and not port_is_free(port):
            taken.append(f"{port} ({name})")
    if taken:
        found = f"in use by others: {', '.join(taken)}"
        yield Check(name="ports", ok=False, found=found, fix="run fedpeg up, it chooses others")


async def _bitcoind(client: BitcoindClient) -> list[Check]:
    fix = "fedpeg down, then fedpeg up"
    try:
        info = await client.chain_info()
        indexed = await client.has_transaction_index()
        tip = await client.header(info.best_block_hash)
    except (BitcoindError, Unavailable) as error:
        return [Check(name="bitcoind answers", ok=False, found=str(error), fix=fix)]
    right = info.chain == "regtest" and indexed and not info.pruned
    found = f"{info.chain}, height {info.blocks}, {'' if indexed else 'no '}txindex"
    ahead_s = tip.time - int(time.time())
    clock = f"Bitcoin's newest block is {ahead_s} s ahead" if ahead_s > 0 else "not behind Bitcoin"
    return [
        Check(name="bitcoind answers", ok=right, found=found, fix=fix),
        Check(
            name="clock",
            ok=ahead_s <= CLOCK_AHEAD_MAX_S,
            found=clock,
            fix="set the clock of this machine",
        ),
    ]


async def _wallet_answers(call: Callable[..., object]) -> Check:
    name, fix = f"{WALLET} answers", "fedpeg down, then fedpeg up"
    try:
        names = await call("listwallets")  # type: ignore[misc]
    except (RpcError, Unavailable) as error:
        return Check(name=name, ok=False, found=str(error), fix=fix)
    return Check(name=name, ok=True, found=f"{len(names)} wallets", fix=fix)


async def _answers(name: str, call: Callable[..., object]) -> Check:
    fix = f"fedpeg logs {name}, then fedpeg member stop {name} and start"
    try:
        height = await call("getblockcount")  # type: ignore[misc]
        signer = (await call("getfederationinfo"))["signer"]  # type: ignore[misc]
    except (RpcError, Unavailable) as error:
        return Check(name=f"{name} answers", ok=False, found=str(error), fix=fix)
    if not signer["connected"]:
        found, fix = "its signer does not answer: nothing is signed", f"fedpeg logs {name}-signer"
        return Check(name=f"{name} answers", ok=False, found=found, fix=fix)
    return Check(name=f"{name} answers", ok=True, found=f"height {height}", fix=fix)
