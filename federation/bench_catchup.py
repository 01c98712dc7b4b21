"""`fedpeg bench catchup`: how long a member that was away needs to be back in service.

A federation is founded in a folder of its own and stopped; its chain is made longer with the keys
of all its members, for all of them but one. Then the others are started, and when they make blocks
the last one is: what is measured runs from the start of its process, over real links, while the
others go on. With --data the folder stays, and the next measurement there begins from the same
blocks.

Source: consensus:C54, N28.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from federation.ceremony import bring_up
from federation.cli_session import Failed
from federation.local import LocalFederation, Report
from federation.local_state import LOCK_NAME, LocalMember, LocalState, UpOptions
from federation.member_folder import MemberFolder
from federation.secret_key import SecretKey
from federation.signed_heights import remember_signing, sign_heights
from peg.commitments import read_coinbase
from sidechain.api.client import RpcClient
from sidechain.chain import Chain
from sidechain.params import ChainParams

MARK_NAME: Final = "catchup-heights"
"""In the data folder: that its chains are prepared, and how many heights were added."""
AWAY_CHAIN: Final = "chain-away"
"""In the folder of the member that was away: its chain as it was when it went."""
POLL_S: Final = 0.1
INDEX_TIMEOUT_S: Final = 600
SERVICE_TIMEOUT_S: Final = 600
GOING_ON_BLOCKS: Final = 2
WAIT_MS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CatchupPlan:
    """What to measure: `heights` missed, by the last of `n` members; `kill_at` in percent."""

    heights: int
    n: int
    k: int
    kill_at: int | None = None


class CatchupBench:
    """One measurement.

    Args:
        folder: of the federation; None for a new temporary one, removed at the end.
    """

    def __init__(self, folder: Path | None, plan: CatchupPlan, report: Report) -> None:
        self._is_temporary = folder is None
        self._folder = folder or Path(tempfile.mkdtemp(prefix="fedpeg-catchup-"))
        self._plan = plan
        self._report = report
        self._federation = LocalFederation(self._folder, report)

    async def run(self) -> dict[str, Any]:
        """Prepare, measure, stop everything; the report.

        Raises:
            Failed, LocalError, Unavailable: what is in the way.
        """
        try:
            with self._federation.folder.locked():
                state = await self._prepare()
                return await self._measure(state)
        finally:
            self._federation.stop_all()
            if self._is_temporary:
                shutil.rmtree(self._folder, ignore_errors=True)

    # -- preparing

    async def _prepare(self) -> LocalState:
        mark = self._folder / MARK_NAME
        found = self._federation.folder.load()
        if found is not None and mark.exists():
            if int(mark.read_text()) != self._plan.heights or found.n != self._plan.n:
                raise Failed(
                    f"{self._folder} is prepared for {mark.read_text().strip()} heights and "
                    f"{found.n} members: name another folder with --data"
                )
            if self._federation.running():
                raise Failed(f"the federation in {self._folder} runs: stop it with `fedpeg down`")
        else:
            if any(path.name != LOCK_NAME for path in self._folder.iterdir()):
                raise Failed(f"{self._folder} is not empty: name a new folder with --data, or none")
            found = await self._found()
            await self._lengthen(found)
            mark.write_text(f"{self._plan.heights}\n")
        away = self._member_folder(found.members[-1])
        _replace(away.path / AWAY_CHAIN, away.chain)
        shutil.rmtree(away.index, ignore_errors=True)
        return found

    async def _found(self) -> LocalState:
        options = UpOptions(n=self._plan.n, k=self._plan.k, block_time_ms=1_000)
        state = await bring_up(self._federation, options, self._report)
        self._report("down", "stopping the federation")
        await asyncio.to_thread(self._federation.stop_all)
        return state

    async def _lengthen(self, state: LocalState) -> None:
        params = self._federation.load_federation(state).chain_params()
        first, *others = [self._member_folder(member) for member in state.members]
        away = others.pop()
        _replace(away.chain, away.path / AWAY_CHAIN)
        await asyncio.to_thread(self._sign, state, first.chain, params)
        for other in others:
            _replace(first.chain, other.chain)

    def _sign(self, state: LocalState, path: Path, params: ChainParams) -> None:
        """Runs in a thread; the chain is opened here by nobody else."""
        secrets = [_secret(self._member_folder(member).block_key) for member in state.members]
        with contextlib.closing(Chain.open(path, params)) as chain:
            tip = chain.block(chain.tip_height).transactions[0]
            commitment = read_coinbase(tip, params.pegged_asset).commitment.repeated()
            sign_heights(
                chain,
                secrets=secrets,
                k=state.k,
                count=self._plan.heights,
                coinbase_scripts=[commitment.script()],
                on_progress=self._signed,
            )
            for member, secret in zip(state.members[:-1], secrets, strict=False):
                remember_signing(
                    self._member_folder(member).journal,
                    genesis=params.genesis_hash,
                    vote_key=secret.public_key[1:],
                    height=chain.tip_height,
                    block_hash=chain.tip_hash,
                )

    def _signed(self, done: int) -> None:
        self._report("sign", f"signed {done:,} of {self._plan.heights:,} heights")

    # -- measuring

    async def _measure(self, state: LocalState) -> dict[str, Any]:
        *others, away = state.members
        await self._federation.start_node(UpOptions())
        await self._federation.start_members([member.name for member in others])
        async with self._federation.member_client(others[0]) as client:
            begun_at = await self._until_going_on(client)
            loop = asyncio.get_running_loop()
            started_s = loop.time()
            await self._federation.start_members([away.name])
            answered_s = loop.time() - started_s
            if self._plan.kill_at is not None:
                await self._kill_midway(away, begun_at)
            async with self._federation.member_client(away) as late:
                first_height = int(await late.call("getblockcount"))
                caught_up_s = await self._until_caught_up(late, client) - started_s
                height = await self._until_signing(client, away, state)
            in_service_s = loop.time() - started_s
            ended_at = int(await client.call("getblockcount"))
        return {
            "heights": self._plan.heights,
            "n": state.n,
            "k": state.k,
            "killed_at_percent": self._plan.kill_at,
            "first_height_seen": first_height,
            "answers_s": round(answered_s, 1),
            "caught_up_s": round(caught_up_s, 1),
            "in_service_s": round(in_service_s, 1),
            "blocks_per_s": round(self._plan.heights / caught_up_s),
            "first_signed_height": height,
            "blocks_of_the_others_meanwhile": ended_at - begun_at,
            "rss_mb": self._rss_mb(away),
            "cpu_s": self._cpu_s(away),
        }

    async def _until_going_on(self, client: RpcClient) -> int:
        """Wait until the others' indexes are there and they make blocks; their height."""
        self._report("others", "waiting until the other members make blocks")
        async with asyncio.timeout(INDEX_TIMEOUT_S):
            return await _until_height(
                client, int(await client.call("getblockcount")) + GOING_ON_BLOCKS
            )

    async def _until_caught_up(self, late: RpcClient, client: RpcClient) -> float:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(SERVICE_TIMEOUT_S):
            while True:
                there = int(await client.call("getblockcount"))
                here = int(await late.call("getblockcount"))
                if here >= there:
                    return loop.time()
                self._report("catchup", f"at height {here:,} of {there:,}")
                await asyncio.sleep(POLL_S)

    async def _until_signing(self, client: RpcClient, away: LocalMember, state: LocalState) -> int:
        """The first new block that the member has signed."""
        self._report("service", f"waiting for a block that {away.name} has signed")
        async with asyncio.timeout(SERVICE_TIMEOUT_S):
            while True:
                for row in await client.call("getblocksigners", None, 20):
                    if away.index in row["signers"] and row["height"] > self._plan.heights:
                        return int(row["height"])
                await asyncio.sleep(POLL_S)

    async def _kill_midway(self, away: LocalMember, tip: int) -> None:
        """SIGKILL in the middle of the way, and start again."""
        wanted = tip - self._plan.heights * (100 - (self._plan.kill_at or 0)) // 100
        async with self._federation.member_client(away) as late:
            async with asyncio.timeout(SERVICE_TIMEOUT_S):
                at = await _until_height(late, wanted)
        self._report("kill", f"killing {away.name} at height {at:,}")
        self._federation.stop_member(away.name, kill=True)
        await self._federation.start_members([away.name])

    def _rss_mb(self, member: LocalMember) -> int | None:
        """Largest resident set of the member's process, where the system tells."""
        child = self._federation.running().get(member.name)
        try:
            text = Path(f"/proc/{child.pid if child else 0}/status").read_text()
        except OSError:
            return None
        line = next((x for x in text.splitlines() if x.startswith("VmHWM:")), "")
        return int(line.split()[1]) // 1_024 if line else None

    def _cpu_s(self, member: LocalMember) -> float | None:
        """Processor time of the member's process, where the system tells."""
        child = self._federation.running().get(member.name)
        try:
            text = Path(f"/proc/{child.pid if child else 0}/stat").read_text()
        except OSError:
            return None
        fields = text.rpartition(")")[2].split()
        return round((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), 1)

    def _member_folder(self, member: LocalMember) -> MemberFolder:
        return MemberFolder(self._federation.folder.member(member.name))


async def _until_height(client: RpcClient, wanted: int) -> int:
    """The member's height once it is at least the one wanted."""
    height = -1
    while height < wanted:
        height = int((await client.call("waitforblockheight", wanted, WAIT_MS))["height"])
    return height


def _secret(path: Path) -> SecretKey:
    return SecretKey(bytes.fromhex(path.read_text().strip()))


def _replace(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
