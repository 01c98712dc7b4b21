"""A federation under random faults for minutes, with payments and pegs flowing; then all disks.

    python -m tests.e2e.soak [MINUTES] [--seed N] [--data DIR]

The seed draws the faults; what they meet depends on the machine. At the end everything is healed,
what was paid has to get final, and the checker reads every disk. Exit code 1 when a promise was
broken or a payment is stuck.
"""

import argparse
import asyncio
import contextlib
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from federation.fault_check import check
from federation.fault_disk import Damage
from federation.faults import Faults, Injection, LocalError, local_federation, wait_agreed
from federation.local import LocalFederation
from federation.local_state import FAUCET_WALLET
from peg.bitcoind import BitcoindError
from sidechain.api.client import RpcError
from sidechain.errors import Unavailable

AWAY = (RpcError, Unavailable, BitcoindError, LocalError, TimeoutError)
BLOCK_TIME_MS = 500
PAYMENT_PAUSE_S = 0.5
PAYMENTS_KEPT = 5_000
PEG_PAUSE_S = 20.0
MINE_PAUSE_S = 3.0
LOOK_PAUSE_S = 0.2
REPORT_PAUSE_S = 15.0
SETTLE_S = 120.0
RETURN_S = 90.0
MEMBERS = ("m0", "m1", "m2", "m3")


@dataclass(slots=True)
class Tally:
    """What has happened so far."""

    faults: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    sent: dict[str, float] = field(default_factory=dict)
    final: int = 0
    worst_payment_s: float = 0.0
    pegins: list[str] = field(default_factory=list)
    pegouts: list[str] = field(default_factory=list)
    height: int = 0
    first_height: int = 0
    worst_gap_s: float = 0.0
    not_back: list[str] = field(default_factory=list)


class Soak:
    """One run."""

    def __init__(self, federation: LocalFederation, seed: int) -> None:
        self._federation = federation
        self._faults = Faults(federation)
        self._state = federation.require_state()
        self._links = random.Random(f"{seed}/links")
        self._members = random.Random(f"{seed}/members")
        self._ends = 0.0
        self.tally = Tally()

    # ---- work ----

    async def begin(self) -> None:
        """Give a wallet coins."""
        async with self._wallets() as wallets:
            for name in ("alice", "bob"):
                await wallets.call("createwallet", name)
            await wallets.call("pegin", "alice", "2", True)
        async with asyncio.timeout(SETTLE_S):
            while True:
                await self._mine()
                async with self._wallets() as wallets:
                    balances = await wallets.call("getbalances", "alice")
                if int(balances["available_sats"]):
                    break
        self.tally.first_height = self.tally.height = await self._tallest()

    async def run(self, for_s: float) -> None:
        """Everything at once for so long."""
        self._ends = time.monotonic() + for_s
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._stop)
        tasks = (
            self._repeat(self._pay, PAYMENT_PAUSE_S),
            self._repeat(self._settle, 1.0),
            self._repeat(self._peg, PEG_PAUSE_S),
            self._repeat(self._mine, MINE_PAUSE_S),
            self._watch(),
            self._tell(),
            self._suffer(self._links, self._draw_links),
            self._suffer(self._members, self._draw_member),
        )
        async with asyncio.TaskGroup() as group:
            for work in tasks:
                group.create_task(work)

    def _stop(self) -> None:
        say("interrupted: healing")
        self._ends = 0.0

    @property
    def _goes_on(self) -> bool:
        return time.monotonic() < self._ends

    async def end(self) -> None:
        """Heal, and wait until what was paid is final."""
        await self._faults.heal()
        await wait_agreed(self._federation, timeout_s=SETTLE_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                while self.tally.sent:
                    await self._once(self._settle)
                    await self._once(self._mine)
                    await asyncio.sleep(1.0)

    # ---- load ----

    async def _pay(self) -> None:
        async with self._wallets() as wallets:
            address = await wallets.call("getnewaddress", "bob")
            txid = await wallets.call("sendtoaddress", "alice", address, "0.0001")
        self.tally.sent[txid] = time.monotonic()

    async def _settle(self) -> None:
        async with self._wallets() as wallets:
            entries = await wallets.call("listtransactions", "alice", PAYMENTS_KEPT)
        now = time.monotonic()
        for entry in entries:
            if entry["height"] is not None and entry["txid"] in self.tally.sent:
                took_s = now - self.tally.sent.pop(entry["txid"])
                self.tally.final += 1
                self.tally.worst_payment_s = max(self.tally.worst_payment_s, took_s)

    async def _peg(self) -> None:
        async with self._wallets() as wallets:
            pegin = await wallets.call("pegin", "alice", "0.05", True)
            self.tally.pegins.append(pegin["id"])
            async with self._federation.bitcoind_client(self._state) as bitcoind:
                address = await bitcoind.new_address(FAUCET_WALLET)
            pegout = await wallets.call("pegout", "alice", address, "0.01", True)
            self.tally.pegouts.append(pegout["id"])

    async def _mine(self) -> None:
        async with self._federation.bitcoind_client(self._state) as bitcoind:
            await bitcoind.generate(1, await bitcoind.new_address(FAUCET_WALLET))

    async def pegs_done(self) -> tuple[int, int]:
        """How many peg-ins and peg-outs are through."""
        done = [0, 0]
        async with self._wallets() as wallets:
            for pegin in self.tally.pegins:
                done[0] += (await wallets.call("getpegin", pegin))["stage"] == "final"
            for pegout in self.tally.pegouts:
                payout = (await wallets.call("getpegout", pegout))["payout"] or {}
                done[1] += bool(payout.get("committed"))
        return done[0], done[1]

    # ---- looking ----

    async def _watch(self) -> None:
        grown = time.monotonic()
        while self._goes_on:
            height, now = await self._tallest(), time.monotonic()
            self.tally.worst_gap_s = max(self.tally.worst_gap_s, now - grown)
            if height > self.tally.height:
                self.tally.height, grown = height, now
            await asyncio.sleep(LOOK_PAUSE_S)

    async def _tallest(self) -> int:
        best = 0

        async def look(index: int) -> None:
            nonlocal best
            member = self._state.members[index]
            async with self._federation.member_client(member, timeout_s=1) as client:
                with contextlib.suppress(*AWAY):
                    best = max(best, int(await client.call("getblockcount")))

        async with asyncio.TaskGroup() as group:
            for index in range(self._state.n):
                group.create_task(look(index))
        return best

    async def _tell(self) -> None:
        while self._goes_on:
            await asyncio.sleep(REPORT_PAUSE_S)
            tally = self.tally
            say(
                f"height {tally.height}, {tally.final} payments final, {len(tally.sent)} under "
                f"way, {sum(tally.faults.values())} faults, worst gap {tally.worst_gap_s:.1f} s"
            )

    # ---- faults ----

    async def _suffer(
        self, dice: random.Random, draw: Callable[[random.Random, float], tuple[str, Any]]
    ) -> None:
        while self._goes_on:
            await asyncio.sleep(dice.uniform(0.5, 4.0))
            for_s = dice.uniform(1.0, 8.0)
            name, fault = draw(dice, for_s)
            try:
                if isinstance(fault, Injection):
                    async with fault:
                        await asyncio.sleep(for_s)
                else:
                    await fault()
                self.tally.faults[name] += 1
            except AWAY as error:
                self.tally.refused[f"{name}: {str(error)[:80]}"] += 1

    def _draw_links(self, dice: random.Random, for_s: float) -> tuple[str, Any]:
        names = list(MEMBERS)
        dice.shuffle(names)
        one, rest, faults = names[0], names[1:], self._faults
        drawn: dict[str, Injection] = {
            "partition 1|3": faults.partition([one], for_s=for_s),
            "partition 2|2": faults.partition(names[:2], names[2:], for_s=for_s),
            "one way out": faults.one_way([one], rest, for_s=for_s),
            "one way in": faults.one_way(rest, [one], for_s=for_s),
            "disconnect": faults.disconnect(f"{one}|{rest[0]}", for_s=for_s),
            "delay": faults.delay(one, delay_ms=dice.randrange(20, 400), jitter_ms=50, for_s=for_s),
            "drop": faults.drop("all", percent=dice.randrange(1, 30), for_s=for_s),
        }
        name = dice.choice(sorted(drawn))
        return name, drawn[name]

    def _draw_member(self, dice: random.Random, for_s: float) -> tuple[str, Any]:
        member, seed = dice.choice(MEMBERS), dice.randrange(2**31)
        damage = dice.choice(list(Damage))
        jump_s = dice.choice((-3_600, -40, 40, 3_600))
        drawn: dict[str, Any] = {
            "kill": self._faults.kill(member),
            "pause": self._faults.pause(member),
            "clock": self._faults.clock(member, jump_s, for_s=for_s),
            "wipe": lambda: self._wiped(member),
            "restore": lambda: self._restored(member),
            f"corrupt-journal {damage.value}": lambda: self._damaged(member, damage, seed),
            "equivocate": lambda: self._lying(member, seed),
        }
        name = dice.choice(sorted(drawn))
        return name, drawn[name]

    async def _wiped(self, member: str) -> None:
        await self._faults.wipe(member)
        await self._back(member)

    async def _restored(self, member: str) -> None:
        await self._faults.snapshot(member)
        await self._back(member)
        await asyncio.sleep(3.0)
        await self._faults.restore(member)
        await self._back(member)

    async def _damaged(self, member: str, damage: Damage, seed: int) -> None:
        _, refusal = await self._faults.damage_journal(member, damage, seed=seed)
        if refusal:
            await self._faults.start(member)
        await self._back(member)

    async def _lying(self, member: str, seed: int) -> None:
        async with self._faults.equivocate(member, seed=seed):
            await asyncio.sleep(5.0)
        await self._back(member)

    async def _back(self, member: str) -> None:
        """Wait until a member votes again."""
        one = self._federation.find_member(self._state, member)
        try:
            async with asyncio.timeout(RETURN_S):
                while True:
                    async with self._federation.member_client(one, timeout_s=2) as client:
                        with contextlib.suppress(*AWAY):
                            if (await client.call("getfederationinfo"))["mode"] == "VOTING":
                                return
                    await asyncio.sleep(LOOK_PAUSE_S)
        except TimeoutError:
            self.tally.not_back.append(member)

    # ---- parts ----

    @contextlib.asynccontextmanager
    async def _wallets(self) -> AsyncIterator[Any]:
        async with self._federation.wallet_client(self._state, timeout_s=30) as client:
            yield client

    async def _repeat(self, work: Callable[[], Awaitable[None]], pause_s: float) -> None:
        while self._goes_on:
            await self._once(work)
            await asyncio.sleep(pause_s)

    async def _once(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except AWAY as error:
            self.tally.refused[f"{work.__name__[1:]}: {str(error)[:80]}"] += 1


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


async def soak(folder: Path, seed: int, minutes: float) -> tuple[Tally, tuple[int, int]]:
    """Found, suffer, heal; Ctrl-C ends the suffering and heals all the same."""
    say(f"seed {seed}: founding a federation in {folder}")
    async with local_federation(folder, n=4, block_time_ms=BLOCK_TIME_MS) as federation:
        run = Soak(federation, seed)
        await run.begin()
        say(f"{minutes:g} minutes of faults begin")
        await run.run(60 * minutes)
        say("healing")
        await run.end()
        return run.tally, await run.pegs_done()


def main() -> int:
    """Run it; 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("minutes", nargs="?", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--data", type=Path, default=None, help="An empty folder, which stays.")
    arguments = parser.parse_args()
    if not 0 < arguments.minutes <= 10_000:
        parser.error("minutes is more than 0")
    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    folder = arguments.data or Path(tempfile.mkdtemp(prefix="fedpeg-soak-"))
    tally, pegs = asyncio.run(soak(folder, seed, arguments.minutes))
    say("reading all disks")
    report = check(folder)
    print(f"seed            {seed}")
    print(f"faults          {sum(tally.faults.values())}")
    for name, count in sorted(tally.faults.items()):
        print(f"  {name:<24} {count}")
    print(f"heights         {tally.first_height} to {tally.height}")
    print(f"worst gap       {tally.worst_gap_s:.1f} s between blocks")
    print(
        f"payments        {tally.final} final, {len(tally.sent)} stuck, "
        f"worst {tally.worst_payment_s:.1f} s"
    )
    print(f"peg-ins         {pegs[0]} of {len(tally.pegins)} final")
    print(f"peg-outs        {pegs[1]} of {len(tally.pegouts)} paid and committed")
    for reason, count in tally.refused.most_common(10):
        print(f"refused         {count} x {reason}")
    for member in tally.not_back:
        print(f"late            {member} did not vote again within {RETURN_S:g} s")
    print(
        f"disks           {report.votes} votes, {report.certificates} certificates, "
        f"{report.block_signatures} block signatures, {report.lost_journals} lost journals"
    )
    for violation in report.violations:
        print(f"BROKEN          {violation}")
    is_well = report.is_sound and report.votes > 0 and not tally.sent
    if arguments.data is None and is_well:
        shutil.rmtree(folder)
    else:
        print(f"data            {folder}")
    print("all promises were kept" if is_well else "FAILED")
    return 0 if is_well else 1


if __name__ == "__main__":
    raise SystemExit(main())
