"""A whole local federation for the length of a block of Python, for tests.

Source: issue 4 item 10.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from federation.ceremony import bring_up
from federation.local import LocalFederation, all_of
from federation.local_state import LocalMember, UpOptions
from sidechain.api.client import RpcError
from sidechain.errors import Unavailable

TIP_TIMEOUT_S: Final = 5
TIP_POLL_S: Final = 0.1


async def start_federation(
    folder: Path,
    *,
    n: int = 4,
    k: int | None = None,
    block_time_ms: int = 0,
    allow_faults: bool = True,
) -> LocalFederation:
    """Found a whole federation in a folder, or start again the one that is there.

    Args:
        folder: empty, or of an earlier federation.
        block_time_ms: time between blocks, 0 for blocks on demand.
    Returns:
        The federation; `stop_all` ends its processes.
    Raises:
        LocalError, BitcoindMissing: it cannot be started; says why.
    """
    federation = LocalFederation(folder, lambda _, __: None)
    options = UpOptions(n=n, k=k, block_time_ms=block_time_ms, allow_faults=allow_faults)
    with federation.folder.locked():
        await bring_up(federation, options, lambda _, __: None)
    return federation


@asynccontextmanager
async def local_federation(folder: Path, **options: Any) -> AsyncIterator[LocalFederation]:
    """A federation as of `start_federation`, whose processes end with the block."""
    federation = await start_federation(folder, **options)
    try:
        yield federation
    finally:
        await asyncio.to_thread(federation.stop_all)


async def wait_agreed(federation: LocalFederation, *, timeout_s: float = 60) -> int:
    """Wait until all members answer with one tip; its height.

    Raises:
        TimeoutError: they do not.
    """
    state = federation.require_state()
    async with asyncio.timeout(timeout_s):
        while True:
            tips: set[str] = set()

            async def look(member: LocalMember, tips: set[str] = tips) -> None:
                async with federation.member_client(member, timeout_s=TIP_TIMEOUT_S) as client:
                    try:
                        tips.add(str(await client.call("getbestblockhash")))
                    except (RpcError, Unavailable):
                        tips.add("")

            await all_of(look(member) for member in state.members)
            if len(tips) == 1 and "" not in tips:
                async with federation.member_client(state.members[0]) as client:
                    return int((await client.call("getblockheader", tips.pop()))["height"])
            await asyncio.sleep(TIP_POLL_S)
