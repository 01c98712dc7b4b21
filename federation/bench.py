"""Measuring: `fedpeg bench latency --data DIR -n N` and `fedpeg bench chain`.

`latency` is how long a payment takes to be final. Payments are signed here and submitted to one
member; the time runs until that member has the block. Whatever a payment needs (a funded wallet,
coins to spend) is made first. `chain` measures a node alone, see `sidechain.bench`. Both print one
JSON object.

Source: consensus:C20, N18.
"""

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from federation import bench_peg
from federation.bench_catchup import CatchupBench, CatchupPlan
from federation.cli_session import Failed, Session, command
from federation.load.funds import Funds
from federation.load.report import spread
from federation.local import BITCOIND, WALLET, LocalFederation
from federation.local_state import LocalError, LocalState
from peg.bitcoind import BitcoindError
from sidechain.api.client import RpcError
from sidechain.bench.__main__ import TRANSACTIONS
from sidechain.bench.phases import ACCEPT_PHASES
from sidechain.errors import Invalid, InvariantError, Unavailable
from sidechain.params import ChainParams
from sidechain.primitives.address import encode_address
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.wallet.builder import Payment, Terms, build_payment, sign
from sidechain.wallet.keys import Branch, PrivateAccount
from sidechain.wallet.selection import OwnedCoin

COIN_SATS: Final = 20_000
"""What each measured payment spends."""
RATE_SATS_PER_KVB: Final = 1_000
_NOTHING_TO_BLIND: Final = b"\x01" * 32
"""Entropy of payments that are explicit throughout."""
SPLIT_MAX: Final = 500
"""Coins that one transaction makes."""
FUNDING_WALLET: Final = "bench"
WAIT_MS: Final = 30_000
FINAL_TIMEOUT_S: Final = 120
MAX_REPORT_BYTES: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        payments: one at a time, for each of the two paces.
        burst: payments submitted at once, `bursts` times.
        pause_ms: between a final payment and the next one at the slow pace; above min_interval.
        member: name of the member to submit to.
    """

    payments: int
    burst: int
    bursts: int
    pause_ms: int
    member: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finality:
    """One payment's way: milliseconds from submission to acceptance and to finality."""

    accepted_ms: float
    final_ms: float


class Payer:
    """A wallet of this process: one key, and coins that were made for it."""

    def __init__(self, params: ChainParams) -> None:
        self._params = params
        self._account = PrivateAccount.from_seed(secrets.token_bytes(32))
        self.script = self._account.public.script(Branch.RECEIVE, 0)
        self._coins: list[OwnedCoin] = []

    @property
    def address(self) -> str:
        """Where to send coins for this wallet."""
        return encode_address(self.script, self._params.prefixes)

    def receive(self, tx: Transaction, height: int) -> None:
        """Take the coins that a final transaction made for this wallet."""
        for index, output in enumerate(tx.outputs):
            if output.script == self.script:
                self._coins.append(
                    OwnedCoin(
                        outpoint=OutPoint(tx.txid, index),
                        asset=self._params.pegged_asset,
                        value_sats=output.value_sats or 0,
                        script=self.script,
                        branch=Branch.RECEIVE,
                        index=0,
                        height=height,
                    )
                )

    def split(self, count: int) -> Transaction:
        """Spend the largest coin into coins for single payments."""
        largest = max(self._coins, key=lambda coin: coin.value_sats)
        self._coins.remove(largest)
        return self._pay([COIN_SATS] * count, largest)

    def pay(self) -> Transaction:
        """One payment: a small coin to ourselves."""
        coin = min(self._coins, key=lambda coin: coin.value_sats)
        self._coins.remove(coin)
        return self._pay([COIN_SATS // 2], coin)

    def _pay(self, amounts_sats: Sequence[int], coin: OwnedCoin) -> Transaction:
        payments = [
            Payment(script=self.script, asset=self._params.pegged_asset, value_sats=amount)
            for amount in amounts_sats
        ]
        terms = Terms(
            params=self._params,
            change_script=self.script,
            change_blinding_key=None,
            rate_sats_per_kvb=RATE_SATS_PER_KVB,
            entropy=_NOTHING_TO_BLIND,
        )
        draft = build_payment(payments, [coin], terms)
        return sign(draft, lambda coin: self._account.secret(coin.branch, coin.index), self._params)


class Bench:
    """One measurement on a local federation."""

    def __init__(self, federation: LocalFederation, state: LocalState, plan: Plan) -> None:
        self._federation = federation
        self._plan = plan
        self._state = state
        self._payer = Payer(federation.load_federation(state).chain_params())
        member = federation.find_member(state, plan.member)
        self._member = federation.member_client(member, timeout_s=60)
        self._funds = Funds(
            federation, state, wallet=FUNDING_WALLET, member=self._member, tell=lambda text: None
        )

    async def run(self) -> dict[str, Any]:
        """Fund, split, measure; the report.

        Raises:
            Failed, RpcError, Unavailable, BitcoindError: what is in the way.
        """
        plan = self._plan
        try:
            await self._fund(2 * plan.payments + plan.burst * plan.bursts)
            first_height = int(await self._member.call("getblockcount"))
            spaced = await self._one_at_a_time(plan.pause_ms)
            tight = await self._one_at_a_time(0)
            bursts = [await self._burst() for _ in range(plan.bursts)]
            info = await self._member.call("getfederationinfo")
            signers = await self._member.call("getblocksigners", first_height + 1, 1_000)
        finally:
            await self._member.close()
        rounds = [row["round"] for row in signers if row["round"] is not None]
        return {
            "n": info["n"],
            "k": info["k"],
            "member": plan.member,
            "timeouts": info["timeouts"],
            "one_at_a_time": {"pause_ms": plan.pause_ms, **_summary(spaced)},
            "back_to_back": _summary(tight),
            "bursts": bursts,
            "blocks": len(signers),
            "blocks_after_round_0": sum(1 for number in rounds if number > 0),
        }

    # -- coins

    async def _fund(self, count: int) -> None:
        """Have a coin ready for each of so many payments."""
        fees_sats = 100 * RATE_SATS_PER_KVB
        need_sats = count * (COIN_SATS + 100) + fees_sats
        height = int(await self._member.call("getblockcount"))
        self._payer.receive(await self._funds.pay(self._payer.address, need_sats), height)
        while count > 0:
            tx = self._payer.split(min(count, SPLIT_MAX))
            await self._member.call("sendrawtransaction", tx.serialize().hex())
            self._payer.receive(await self._funds.until_final(tx.txid), height)
            count -= SPLIT_MAX

    # -- measuring

    async def _one_at_a_time(self, pause_ms: int) -> list[Finality]:
        found = []
        for _ in range(self._plan.payments):
            # Not in step with the members' own clocks.
            extra_ms = secrets.randbelow(pause_ms + 1) / 2 if pause_ms else 0
            await asyncio.sleep((pause_ms + extra_ms) / 1_000)
            found += await self._submit([self._payer.pay()])
        return found

    async def _burst(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        payments = [self._payer.pay() for _ in range(self._plan.burst)]
        begun_s = loop.time()
        found = await self._submit(payments)
        took_s = loop.time() - begun_s
        return {
            **_summary(found),
            "took_ms": round(took_s * 1_000, 1),
            "payments_per_s": round(len(found) / took_s, 1),
        }

    async def _submit(self, payments: Sequence[Transaction]) -> list[Finality]:
        """Submit all at once, then follow the chain until each is in a block."""
        loop = asyncio.get_running_loop()
        waiting = {tx.txid[::-1].hex() for tx in payments}
        height = int(await self._member.call("getblockcount"))
        begun_s = loop.time()
        calls = [("sendrawtransaction", [tx.serialize().hex()]) for tx in payments]
        for answer in await self._member.batch(calls):
            if isinstance(answer, RpcError):
                raise answer
        accepted_ms = (loop.time() - begun_s) * 1_000
        found: list[Finality] = []
        while waiting:
            tip = await self._member.call("waitforblockheight", height + 1, WAIT_MS)
            now_ms = (loop.time() - begun_s) * 1_000
            if now_ms > 1_000 * FINAL_TIMEOUT_S:
                raise Failed(f"{len(waiting)} payments did not become final in time")
            while height < int(tip["height"]):
                height += 1
                block = await self._member.call(
                    "getblock", await self._member.call("getblockhash", height), 1
                )
                done = waiting & set(block["tx"])
                waiting -= done
                found += [Finality(accepted_ms=accepted_ms, final_ms=now_ms)] * len(done)
        return found


def _summary(found: Sequence[Finality]) -> dict[str, Any]:
    return {
        "payments": len(found),
        "accepted_ms": spread([each.accepted_ms for each in found]),
        "final_ms": spread([each.final_ms for each in found]),
    }


async def measure(data: Path, plan: Plan) -> dict[str, Any]:
    """Measure on the federation in a folder, which must run.

    Raises:
        LocalError, Failed, RpcError, Unavailable, BitcoindError, Invalid: why it cannot be
            done.
    """
    federation = LocalFederation(data, lambda step, text: None)
    state = federation.require_running(BITCOIND, WALLET, plan.member)
    return await Bench(federation, state, plan).run()


async def measure_chain(arguments: Sequence[str], tell: Callable[[str], None]) -> dict[str, Any]:
    """Run `python -m sidechain.bench` and return its report.

    It is a process of its own, so that an interruption ends it in order and at once.

    Args:
        tell: is told of its progress, line by line.
    Raises:
        Failed: it could not measure; with its last words.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidechain.bench", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        limit=MAX_REPORT_BYTES,
    )
    if process.stdout is None or process.stderr is None:
        raise InvariantError("a child without its pipes")
    last = ""
    try:
        async for line in process.stderr:
            last = line.decode(errors="replace").rstrip()
            tell(last)
        report = await process.stdout.read()
        await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if process.returncode:
        raise Failed(last.removeprefix("bench: ") or f"it ended with {process.returncode}")
    found: dict[str, Any] = json.loads(report)
    return found


def register(program: click.Group) -> None:
    """Add the command `bench` to a group of commands."""

    @program.group("bench")
    def bench_group() -> None:
        """Measure a local federation, or a node alone."""

    _register_chain(bench_group)
    _register_catchup(bench_group)
    bench_peg.register(bench_group)

    @command(bench_group, "latency")
    @click.option(
        "-n",
        "payments",
        type=click.IntRange(1, 5_000),
        default=50,
        show_default=True,
        help="Payments at each of two paces, one at a time.",
    )
    @click.option(
        "--burst",
        type=click.IntRange(1, 500),
        default=50,
        show_default=True,
        help="Payments submitted at once.",
    )
    @click.option("--bursts", type=click.IntRange(0, 100), default=3, show_default=True)
    @click.option(
        "--pause",
        "pause_ms",
        type=click.IntRange(1, 60_000),
        default=400,
        show_default=True,
        help="Milliseconds from a final payment to the next one, at the slow pace.",
    )
    @click.option("--member", default="m0", show_default=True, help="Who is given the payments.")
    async def latency(
        session: Session, *, payments: int, burst: int, bursts: int, pause_ms: int, member: str
    ) -> None:
        """Measure from submission to finality, as the member that was given the payment sees it.

        Prints milliseconds as percentiles: payments with a pause, one right after the other, and
        in bursts.
        """
        plan = Plan(payments=payments, burst=burst, bursts=bursts, pause_ms=pause_ms, member=member)
        session.output.progress("bench", f"measuring on {session.data}")
        report = await measure(session.data, plan)
        session.output.result(report, json.dumps(report, indent=2))


def _register_chain(bench_group: click.Group) -> None:
    @command(bench_group, "chain", data_help="Not used: the node has a folder of its own.")
    @click.option(
        "--transactions",
        type=click.IntRange(len(ACCEPT_PHASES), 50_000),
        default=TRANSACTIONS,
        show_default=True,
        help="In the mempool at the end.",
    )
    @click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=1, show_default=True)
    @click.option(
        "--against",
        metavar="COMMAND",
        help="Measure another elementsd-compatible daemon with the same load; print ratios.",
    )
    async def chain(session: Session, *, transactions: int, seed: int, against: str | None) -> None:
        """Measure how fast a node alone accepts payments and connects blocks, through JSON-RPC."""
        report = await measure_chain(
            ["--transactions", str(transactions), "--seed", str(seed)]
            + ([] if against is None else ["--against", against]),
            lambda text: session.output.progress("bench", text),
        )
        session.output.result(report, json.dumps(report, indent=2))


def _register_catchup(bench_group: click.Group) -> None:
    @command(
        bench_group,
        "catchup",
        data_help="Folder that keeps the prepared blocks. [default: a temporary one]",
    )
    @click.option(
        "--heights",
        type=click.IntRange(1, 40_000),
        default=10_000,
        show_default=True,
        help="Blocks that the member missed.",
    )
    @click.option("-n", "n", type=click.IntRange(4, 15), default=4, show_default=True)
    @click.option("-k", "k", type=click.IntRange(3, 14), default=3, show_default=True)
    @click.option(
        "--kill-at",
        type=click.IntRange(1, 99),
        help="Kill the member at this percentage of the way, and start it again.",
    )
    async def catchup(
        session: Session, *, heights: int, n: int, k: int, kill_at: int | None
    ) -> None:
        """Measure how long a member that was away needs to sign blocks again.

        Founds a federation of its own, makes its chain longer with the keys of all members, and
        starts the last one while the others go on. --data names a folder that keeps the prepared
        blocks for the next time; without it everything is removed at the end.
        """
        named = click.get_current_context().params["data"]
        folder = session.data if named is not None else None
        plan = CatchupPlan(heights=heights, n=n, k=k, kill_at=kill_at)
        report = await CatchupBench(folder, plan, session.output.progress).run()
        session.output.result(report, json.dumps(report, indent=2))


def main() -> int:
    """`python -m federation.bench`: the same command on its own; its exit code."""
    program = click.Group()
    register(program)
    try:
        program.commands["bench"].main(prog_name="federation.bench", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except (Failed, LocalError, RpcError, Unavailable, BitcoindError, Invalid, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
