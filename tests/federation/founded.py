"""A small federation on disk for tests: real keys, real certificates, deterministic entropy."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from federation.config import FederationFile, MemberFolder
from federation.founding import MemberPorts, found_federation
from peg.parameters import LOCAL

NOW_UNIX_S = 1_700_000_000


def entropy_of(seed: str) -> Callable[[int], bytes]:
    """An entropy source that repeats itself for a seed."""
    count = 0

    def entropy(size: int) -> bytes:
        nonlocal count
        count += 1
        blocks = -(-size // 32)
        return b"".join(sha256(f"{seed}/{count}/{i}".encode()).digest() for i in range(blocks))[
            :size
        ]

    return entropy


def found(
    folder: Path,
    *,
    n: int = 4,
    k: int = 3,
    seed: str = "test",
    unix_time_s: int = NOW_UNIX_S,
) -> FederationFile:
    """Found a federation under `folder`; the ports in it are not free ones."""
    return found_federation(
        folder,
        n=n,
        k=k,
        chain_name="fedpeg-test",
        block_time_ms=1_000,
        ports=[MemberPorts(link=20_000 + i, rpc=21_000 + i, esplora=22_000 + i) for i in range(n)],
        peg=LOCAL,
        bitcoind_url="http://127.0.0.1:18443",
        bitcoind_cookie="../../bitcoind/regtest/.cookie",
        entropy=entropy_of(seed),
        unix_time_s=unix_time_s,
        allow_no_byzantine_safety=True,
    )


def member_folder(folder: Path, index: int) -> MemberFolder:
    """Folder of one member of a founded federation."""
    return MemberFolder(folder / "members" / f"m{index}")
