"""The bitcoind of a local federation: where the program is, and how it is started.

deploy/setup puts Debian's build into the user's cache; the places searched here are the same.

Source: design.md 4, peg:P30, N34.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MAJOR_VERSION_MIN = 28
VERSION_TIMEOUT_S = 20
COOKIE_NAME = ".cookie"
PID_NAME = "regtest/bitcoind.pid"
FALLBACK_FEE_BTC_PER_KVB = "0.0002"


class BitcoindMissing(Exception):
    """No usable bitcoind on this machine; the text says what to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BitcoindProgram:
    """A bitcoind that runs here; `version` is the first line it prints about itself."""

    path: Path
    version: str
    major: int

    @property
    def is_knots(self) -> bool:
        """Whether this is Bitcoin Knots, which must be told to enforce TRUC (N34)."""
        return "knots" in self.version.lower()


def cache_folder(environment: Mapping[str, str]) -> Path:
    """The user's cache folder of fedpeg."""
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fedpeg"


def find_bitcoind(environment: Mapping[str, str] | None = None) -> BitcoindProgram:
    """$BITCOIND, else the one on PATH, else the one deploy/setup fetched.

    Raises:
        BitcoindMissing: none of them runs here and is recent enough.
    """
    environment = os.environ if environment is None else environment
    advice = "run deploy/setup, which fetches one, or set BITCOIND"
    named = environment.get("BITCOIND")
    if named:
        program = _probe(Path(named))
        if program is None:
            raise BitcoindMissing(f"BITCOIND={named} does not run here")
        if program.major < MAJOR_VERSION_MIN:
            raise BitcoindMissing(
                f"BITCOIND={named} is {program.version}; version {MAJOR_VERSION_MIN} is needed"
            )
        return program
    on_path = shutil.which("bitcoind", path=environment.get("PATH"))
    places = [Path(on_path)] if on_path else []
    places.append(cache_folder(environment) / "bitcoind" / "bin" / "bitcoind")
    too_old = ""
    for place in places:
        program = _probe(place)
        if program is not None and program.major >= MAJOR_VERSION_MIN:
            return program
        if program is not None:
            too_old = f"; {place} is too old ({program.version})"
    raise BitcoindMissing(f"no bitcoind of version {MAJOR_VERSION_MIN} or newer: {advice}{too_old}")


def bitcoind_arguments(program: BitcoindProgram, data: Path, rpc_port: int) -> list[str]:
    """Command line of a federation's regtest node, alone in the world (peg:P30).

    Args:
        data: the node's own data folder, absolute; its cookie is `.cookie` in it.
    """
    arguments = [
        str(program.path),
        "-regtest",
        f"-datadir={data}",
        "-server=1",
        "-txindex=1",
        "-prune=0",
        "-listen=0",
        "-maxconnections=0",
        "-dnsseed=0",
        "-fixedseeds=0",
        "-acceptnonstdtxn=0",
        "-printtoconsole=0",
        f"-fallbackfee={FALLBACK_FEE_BTC_PER_KVB}",
        "-rpcbind=127.0.0.1",
        "-rpcallowip=127.0.0.1",
        f"-rpcport={rpc_port}",
        f"-rpccookiefile={data / COOKIE_NAME}",
        "-rpcthreads=8",
        "-rpcworkqueue=128",
        "-dbcache=32",
    ]
    if program.is_knots:
        arguments.append("-mempooltruc=enforce")
    return arguments


def ended_without_warning(data: Path) -> bool:
    """Whether the node of this data folder, which does not run now, was killed.

    A node that ends in an orderly way removes its pid file.
    """
    return (data / PID_NAME).exists()


def rebuilding_arguments(program: BitcoindProgram, data: Path, rpc_port: int) -> list[str]:
    """Command line of a run that reads all blocks on disk anew, answers nobody, and ends.

    A killed node forgets which of its blocks it knew, for the index of blocks reaches the disk
    only now and then. Other nodes would fetch them again from their peers; this one has none.
    """
    ordinary = bitcoind_arguments(program, data, rpc_port)
    return [*ordinary, "-server=0", "-reindex", "-stopafterblockimport"]


def _probe(path: Path) -> BitcoindProgram | None:
    try:
        done = subprocess.run(
            [path, "-version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    first = done.stdout.partition("\n")[0].strip()
    major = re.search(r"version v?(\d+)\.", first)
    if done.returncode != 0 or major is None:
        return None
    return BitcoindProgram(path=path.absolute(), version=first, major=int(major[1]))
