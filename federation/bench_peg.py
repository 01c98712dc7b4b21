"""`fedpeg bench peg`: what payouts cost, and how soon they are broadcast after the burn.

The cost is computed from batches that the members' own rules select and sign; it needs no
federation. The delay is measured on a running one: burns one after the other, each followed until
its payment is in the mempool of the Bitcoin node, with a Bitcoin block whenever the federation
waits for one.
"""

import asyncio
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

from federation.cli_session import Failed, Session, command
from federation.cli_wait import PEGOUT_NEEDS_NO_BLOCKS, ParentMiner
from federation.load.funds import Funds
from federation.local import BITCOIND, WALLET, LocalFederation
from federation.local_state import FAUCET_WALLET, LocalState
from federation.wallet.links import MemberLinks
from peg.bitcoind import BitcoindClient, amount_text
from peg.cost import BatchCost, batch_cost
from peg.parameters import LOCAL, PegParameters
from sidechain.api.client import RpcClient

FUNDING_WALLET: Final = "bench-peg"
POLL_S: Final = 0.02
BROADCAST_TIMEOUT_S: Final = 120
FEDERATIONS: Final = ((4, 3), (15, 11))
PAYOUT_COUNTS: Final = (1, 10, 50, 100)


def register(bench_group: click.Group) -> None:
    """Add `peg` to the command `bench`."""

    @command(bench_group, "peg")
    @click.option(
        "--rate",
        "rate_sats_per_vb",
        type=click.IntRange(1, 200),
        default=2,
        show_default=True,
        help="Feerate in sat/vB for the cost.",
    )
    @click.option(
        "--burns",
        type=click.IntRange(0, 1_000),
        default=0,
        show_default=True,
        help="Also measure from burn to broadcast, on the running federation.",
    )
    @click.option("--member", default="m0", show_default=True, help="Who is asked for peg-outs.")
    async def peg(session: Session, *, rate_sats_per_vb: int, burns: int, member: str) -> None:
        """Show what a payout costs, and how soon it is broadcast.

        The cost is that of batches of 1, 10, 50 and 100 payouts signed 3-of-4 and 11-of-15, beside
        the smallest possible: the same inputs and outputs, counted byte by byte.
        """
        rows = cost_table(LOCAL, rate_sats_per_kvb=1_000 * rate_sats_per_vb)
        report: dict[str, Any] = {"rate_sats_per_vb": rate_sats_per_vb, "cost": rows}
        text = cost_text(rows)
        if burns:
            report["delay"] = delay = await _measure_delay(session, member, burns)
            text += (
                f"\nburn final to payout broadcast, {burns} burns: p50 "
                f"{delay['parent_blocks_p50']} Bitcoin blocks, {delay['seconds_p50']} s; at most "
                f"{delay['parent_blocks_max']} blocks, {delay['seconds_max']} s"
            )
        session.output.result(report, text)


async def _measure_delay(session: Session, member_name: str, burns: int) -> dict[str, Any]:
    federation = session.federation
    state = federation.require_running(BITCOIND, WALLET, member_name)
    client = federation.member_client(federation.find_member(state, member_name), timeout_s=60)
    try:
        delay = PayoutDelay(
            federation, state, client, lambda text: session.output.progress("bench", text)
        )
        return await delay.measure(burns)
    finally:
        await client.close()


def cost_table(
    parameters: PegParameters,
    federations: Sequence[tuple[int, int]] = FEDERATIONS,
    counts: Sequence[int] = PAYOUT_COUNTS,
    *,
    rate_sats_per_kvb: int,
) -> list[dict[str, Any]]:
    """One row for each number of payouts and each (n, k).

    Raises:
        InvariantError: such a batch cannot be made within the parameters.
    """
    return [
        _row(batch_cost(parameters, n=n, k=k, payouts=count, rate_sats_per_kvb=rate_sats_per_kvb))
        for n, k in federations
        for count in counts
    ]


def _row(cost: BatchCost) -> dict[str, Any]:
    return {
        "n": cost.n,
        "k": cost.k,
        "payouts": cost.payouts,
        "inputs": cost.inputs,
        "vsize": cost.vsize,
        "floor_vsize": cost.floor_vsize,
        "vbytes_per_payout": round(cost.vsize / cost.payouts, 1),
        "fee_sats": cost.fee_sats,
        "sats_per_payout": round(cost.fee_sats / cost.payouts, 1),
        "floor_sats_per_payout": round(cost.floor_fee_sats / cost.payouts, 1),
        "ratio_to_floor": round(cost.fee_sats / cost.floor_fee_sats, 4),
    }


def cost_text(rows: Sequence[dict[str, Any]]) -> str:
    """The table for people."""
    head = ("k-of-n", "payouts", "inputs", "vB", "floor vB", "vB/payout", "sat/payout", "to floor")
    lines = ["".join(f"{name:>11}" for name in head)]
    for row in rows:
        cells = (
            f"{row['k']}-of-{row['n']}",
            row["payouts"],
            row["inputs"],
            row["vsize"],
            row["floor_vsize"],
            row["vbytes_per_payout"],
            row["sats_per_payout"],
            f"{row['ratio_to_floor']:.4f}",
        )
        lines.append("".join(f"{cell:>11}" for cell in cells))
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Broadcast:
    """From the final block with a burn to its payment in the mempool."""

    parent_blocks: int
    seconds: float


class PayoutDelay:
    """Burns on a running federation, one after the other.

    Args:
        member: whom to ask for peg-outs.
        tell: is told what is waited for.
    """

    def __init__(
        self,
        federation: LocalFederation,
        state: LocalState,
        member: RpcClient,
        tell: Callable[[str], None],
    ) -> None:
        self._federation = federation
        self._state = state
        self._member = member
        self._tell = tell

    async def measure(self, burns: int) -> dict[str, Any]:
        """Make so many burns; the report.

        Raises:
            Failed: a burn was refused, or its payment was not broadcast in time.
            RpcError, Unavailable, BitcoindError: whoever refuses.
        """
        info = await self._member.call("getpeginfo")
        amount_sats = int(info["min_pegout_sats"]) * 2
        funds = Funds(
            self._federation,
            self._state,
            wallet=FUNDING_WALLET,
            member=self._member,
            tell=self._tell,
        )
        async with (
            self._federation.wallet_client(self._state) as wallets,
            self._federation.bitcoind_client(self._state) as bitcoind,
        ):
            await funds.fill(wallets, burns * (amount_sats + 10_000))
            miner = ParentMiner(bitcoind, MemberLinks([self._member]), enabled=True)
            found = []
            for number in range(burns):
                self._tell(f"burn {number + 1} of {burns}")
                found.append(await self._one(wallets, bitcoind, miner, amount_sats))
        blocks = [item.parent_blocks for item in found]
        seconds = [item.seconds for item in found]
        return {
            "burns": burns,
            "parent_blocks_p50": statistics.median(blocks),
            "parent_blocks_max": max(blocks),
            "seconds_p50": round(statistics.median(seconds), 3),
            "seconds_max": round(max(seconds), 3),
        }

    async def _one(
        self, wallets: RpcClient, bitcoind: BitcoindClient, miner: ParentMiner, amount_sats: int
    ) -> Broadcast:
        loop = asyncio.get_running_loop()
        address = await bitcoind.new_address(FAUCET_WALLET)
        begun = await wallets.call(
            "pegout", FUNDING_WALLET, address, amount_text(amount_sats), True
        )
        pegout_id = str(begun["id"])
        give_up_s = loop.time() + BROADCAST_TIMEOUT_S
        final: tuple[int, float] | None = None
        while loop.time() < give_up_s:
            view = await wallets.call("getpegout", pegout_id)
            if view["stage"] == "failed":
                raise Failed(f"peg-out {pegout_id}: {view['reason']}")
            if final is None and view["height"] is not None:
                final = await bitcoind.block_count(), loop.time()
            if final is not None and await _is_broadcast(bitcoind, view):
                return Broadcast(await bitcoind.block_count() - final[0], loop.time() - final[1])
            if view["stage"] not in PEGOUT_NEEDS_NO_BLOCKS:
                await miner.advance()
            await asyncio.sleep(POLL_S)
        raise Failed(f"peg-out {pegout_id} was not broadcast in {BROADCAST_TIMEOUT_S} s")


async def _is_broadcast(bitcoind: BitcoindClient, view: dict[str, Any]) -> bool:
    payout = view["payout"] or {}
    batch = payout.get("batch") or {}
    shown = [version["txid"] for version in batch.get("versions", ())]
    if payout.get("txid"):
        shown.append(payout["txid"])
    for txid_hex in shown:
        if await bitcoind.find_transaction(bytes.fromhex(txid_hex)[::-1]) is not None:
            return True
    return False
