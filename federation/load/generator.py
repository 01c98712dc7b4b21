"""Sends payments at their times, and watches blocks become final at every member.

An open loop: each payment has a time at which it is due, and is sent then, whatever became of
those before it. Its latency counts from that time, so that a member that stops for a second makes
late what was due in that second.
"""

import asyncio
import contextlib
import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from federation.load.payments import SignedPayment
from federation.load.report import NEVER, BlockSeen, Found, Outcome, ProcessUse
from federation.load.wire import MemberWire
from sidechain.api.client import RpcClient, RpcError
from sidechain.errors import Unavailable
from sidechain.params import ChainParams
from sidechain.primitives.block import Block

WAIT_MS: Final = 10_000
RETRY_S: Final = 0.2
TELL_S: Final = 1.0
LOOK_S: Final = 0.25
SIGNERS_ASKED_MAX: Final = 1_000
COIN_BROKEN: Final = "not sent: an earlier payment of its coin was not taken in"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A member under load: `wire` takes transactions, `client` answers questions."""

    name: str
    wire: MemberWire
    client: RpcClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """`rate` payments a second; `drain_s` is waited for the last ones to be final."""

    rate: float
    drain_s: float


class Generator:
    """One load on a running federation.

    Args:
        measure: reads what the processes have used.
        tell: is told how far it is, once a second.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        params: ChainParams,
        timing: Timing,
        *,
        measure: Callable[[], Mapping[str, ProcessUse]],
        tell: Callable[[str], None],
    ) -> None:
        self._targets = targets
        self._params = params
        self._timing = timing
        self._measure = measure
        self._tell = tell
        self._begun_s = 0.0
        self._sent = self._answered = 0
        self._broken: set[int] = set()
        """Coins a payment of which was refused."""
        self._heights: list[dict[int, float]] = [{} for _ in targets]
        """When each member was seen to have each height."""
        self._tips = [0] * len(targets)

    async def run(self, payments: Sequence[SignedPayment]) -> Found:
        """Send all payments; wait until they are final or the time is up.

        Raises:
            Unavailable, RpcError: no member tells its height.
        """
        outcomes = [
            Outcome(each.txid, each.coin % len(self._targets), 1_000 * n / self._timing.rate)
            for n, each in enumerate(payments)
        ]
        found = Found(
            rate=self._timing.rate,
            seconds=len(payments) / self._timing.rate,
            names=[target.name for target in self._targets],
            outcomes=outcomes,
        )
        first_height = await self._height()
        gc.collect()
        gc.freeze()  # the payments are not looked through again and again
        found.before = self._measure()
        self._begun_s = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            watching = [
                group.create_task(self._watch(n, first_height)) for n in range(len(self._targets))
            ]
            telling = group.create_task(self._tell_progress(len(payments)))
            sends = await self._send_all(group, payments, outcomes)
            found.after = self._measure()
            await self._drain(outcomes, first_height, found)
            for task in (*watching, telling, *sends):
                task.cancel()
        await self._look_for_the_rest(found)
        return found

    # -- sending

    async def _send_all(
        self,
        group: asyncio.TaskGroup,
        payments: Sequence[SignedPayment],
        outcomes: Sequence[Outcome],
    ) -> set[asyncio.Task[None]]:
        """Send each at its time; the tasks that still wait for an answer at the end."""
        waiting: set[asyncio.Task[None]] = set()
        newest: dict[int, asyncio.Task[None]] = {}
        for payment, outcome in zip(payments, outcomes, strict=True):
            wait_ms = outcome.due_ms - self._now_ms()
            if wait_ms > 0:
                await asyncio.sleep(wait_ms / 1_000)
            outcome.sent_ms = self._now_ms()
            self._sent += 1
            task = group.create_task(self._send(payment, outcome, newest.get(payment.coin)))
            newest[payment.coin] = task
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            if wait_ms <= 0:
                await asyncio.sleep(0)  # behind the times; the answers must be read all the same
        return waiting

    async def _send(
        self, payment: SignedPayment, outcome: Outcome, earlier: asyncio.Task[None] | None
    ) -> None:
        """Send one; after `earlier`, whose change it spends, was answered.

        Only a member that is seconds late makes a difference there, and the time that is waited
        counts as its own.
        """
        if earlier is not None and not earlier.done():
            await asyncio.wait((earlier,))
        if payment.coin in self._broken:
            outcome.refusal = COIN_BROKEN
        else:
            target = self._targets[outcome.member]
            try:
                await target.wire.submit(payment.raw)
            except RpcError as error:
                outcome.refusal = f"{target.name} refused it: {error.message}"
            except Unavailable as error:
                outcome.refusal = str(error)
            else:
                outcome.accepted_ms = self._now_ms()
            if outcome.refusal:
                self._broken.add(payment.coin)
        self._answered += 1

    # -- watching

    async def _watch(self, index: int, height: int) -> None:
        """Note when a member has each height."""
        target = self._targets[index]
        while True:
            try:
                tip = await target.client.call("waitforblockheight", height + 1, WAIT_MS)
            except (RpcError, Unavailable):
                await asyncio.sleep(RETRY_S)
                continue
            now_ms = self._now_ms()
            while height < int(tip["height"]):
                height += 1
                self._heights[index][height] = now_ms
            self._tips[index] = height

    async def _height(self) -> int:
        """The greatest height that a member tells."""
        heights, problems = [], []
        for target in self._targets:
            try:
                heights.append(int(await target.client.call("getblockcount")))
            except (RpcError, Unavailable) as error:
                problems.append(error)
        if not heights:
            raise problems[0]
        return max(heights)

    # -- the end

    async def _drain(self, outcomes: Sequence[Outcome], height: int, found: Found) -> None:
        """Read the blocks until all payments are in one that their member has, or time is up."""
        by_txid = {each.txid: each for each in outcomes}
        ends_s = asyncio.get_running_loop().time() + self._timing.drain_s
        while True:
            while any(height + 1 in heights for heights in self._heights):
                height += 1
                found.blocks.append(await self._read_block(height, by_txid))
            for each in outcomes:
                if each.height is not None and each.final_ms == NEVER:
                    each.final_ms = self._heights[each.member].get(each.height, NEVER)
            waiting = any(e.final_ms == NEVER and not e.refusal for e in outcomes)
            if not waiting or asyncio.get_running_loop().time() > ends_s:
                break
            await asyncio.sleep(LOOK_S)
        found.blocks = await self._with_rounds(found.blocks)

    async def _read_block(self, height: int, by_txid: Mapping[bytes, Outcome]) -> BlockSeen:
        seen_ms = min(heights[height] for heights in self._heights if height in heights)
        have = [t for n, t in enumerate(self._targets) if height in self._heights[n]]
        block_hash = await _ask(have, "getblockhash", height)
        raw = bytes.fromhex(await _ask(have, "getblock", block_hash, 0))
        block = Block.decode(raw, self._params)
        for tx in block.transactions:
            outcome = by_txid.get(tx.txid)
            if outcome is not None:
                outcome.height = height
        return BlockSeen(
            height=height,
            final_ms=seen_ms,
            transactions=len(block.transactions) - 1,
            size_bytes=len(raw),
        )

    async def _with_rounds(self, blocks: Sequence[BlockSeen]) -> list[BlockSeen]:
        """The blocks, with the round that decided each where a member knows it."""
        rounds: dict[int, int | None] = {}
        for start in range(0, len(blocks), SIGNERS_ASKED_MAX):
            part = blocks[start : start + SIGNERS_ASKED_MAX]
            rows = await _ask(self._targets, "getblocksigners", part[0].height, len(part))
            rounds |= {row["height"]: row["round"] for row in rows}
        return [
            BlockSeen(
                height=each.height,
                final_ms=each.final_ms,
                transactions=each.transactions,
                size_bytes=each.size_bytes,
                round=rounds.get(each.height),
            )
            for each in blocks
        ]

    async def _look_for_the_rest(self, found: Found) -> None:
        """Say where payments are that are not final, and whose chain is another one."""
        lost = [e for e in found.outcomes if e.final_ms == NEVER and not e.refusal]
        mempools = [
            await self._mempool(n) if any(e.member == n for e in lost) else None
            for n in range(len(self._targets))
        ]
        found.whereabouts = {e.txid: self._where(e, mempools[e.member]) for e in lost}
        found.differing = await self._other_chains()

    async def _other_chains(self) -> list[str]:
        """Members whose chain differs from the first one's, as far as both have it."""
        height = min((height for height in self._tips if height), default=0)
        hashes: dict[str, str] = {}
        for target in self._targets:
            with contextlib.suppress(RpcError, Unavailable):
                hashes[target.name] = await target.client.call("getblockhash", height)
        first = next(iter(hashes.values()), "")
        return [name for name, block_hash in hashes.items() if block_hash != first]

    async def _mempool(self, index: int) -> set[str] | None:
        """Txids in a member's mempool; None when it does not answer."""
        try:
            return set(await self._targets[index].client.call("getrawmempool"))
        except (RpcError, Unavailable):
            return None

    def _where(self, outcome: Outcome, mempool: set[str] | None) -> str:
        name = self._targets[outcome.member].name
        if outcome.height is not None:
            return f"in a block that {name} does not have"
        if mempool is None:
            return f"{name} does not answer"
        if outcome.txid[::-1].hex() in mempool:
            return f"waits in the mempool of {name}"
        if outcome.accepted_ms == NEVER:
            return f"{name} has not answered yet"
        return f"{name} does not know it"

    async def _tell_progress(self, total: int) -> None:
        while True:
            waiting = self._sent - self._answered
            height = max(self._tips)
            self._tell(f"sent {self._sent} of {total}, {waiting} without answer, height {height}")
            await asyncio.sleep(TELL_S)

    def _now_ms(self) -> float:
        return (asyncio.get_running_loop().time() - self._begun_s) * 1_000


async def _ask(targets: Sequence[Target], method: str, *params: Any) -> Any:
    """The answer of the first member that has one. Raises what the last one said."""
    problem: RpcError | Unavailable = Unavailable("nobody to ask")
    for target in targets:
        try:
            return await target.client.call(method, *params)
        except (RpcError, Unavailable) as error:
            problem = error
    raise problem
