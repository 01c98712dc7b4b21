"""A load on the local federation of a folder, from coins to report; and the search for its limit.

Source: consensus:C20, N18.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from federation.cli_session import Failed
from federation.config import MemberFolder
from federation.load.funds import Funds
from federation.load.generator import Generator, Target, Timing
from federation.load.payments import (
    SPLIT_MAX,
    LoadCoin,
    LoadWallets,
    SignedPayment,
    coin_value_sats,
    purse_value_sats,
)
from federation.load.report import Found, ProcessUse
from federation.load.wire import MemberWire
from federation.local import BITCOIND, WALLET, LocalFederation
from federation.local_state import LocalState
from sidechain.primitives.address import encode_address
from sidechain.primitives.transaction import OutPoint, Transaction

PAYMENTS_MAX: Final = 200_000
"""Payments are signed in advance: some 100 MB of memory."""
COIN_REST_S: Final = 5
"""A coin is paid on this long after its last payment, which is final by then on any good day."""
FUNDING_WALLET: Final = "load"
SIGN_SLICE: Final = 500
STEPS_MAX: Final = 12
FINENESS: Final = 1.15
"""The search ends when the rate that failed is at most so many times the one that held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to send.

    Attributes:
        rate: payments a second.
        seconds: for how long.
        wallets: that pay one another.
        drain_s: how long to wait for the last payments at the end.
        members: names of those to send to; none for all that run.
    """

    rate: float
    seconds: float
    wallets: int
    drain_s: float
    members: Sequence[str] = ()

    @property
    def payments(self) -> int:
        """How many there are."""
        return max(1, round(self.rate * self.seconds))

    def coins(self, targets: int) -> int:
        """How many coins they take, each member the same number."""
        rested = min(self.payments, max(self.rate * COIN_REST_S, self.payments / 1_000))
        each = max(1, -(-round(rested) // targets))
        return targets * max(each, -(-self.wallets // targets))


class Load:
    """Loads on one federation, which must run."""

    def __init__(self, federation: LocalFederation, tell: Callable[[str, str], None]) -> None:
        self._federation = federation
        self._tell = tell

    async def run(self, plan: Plan) -> Found:
        """Prepare coins and payments, send them, report.

        Raises:
            LocalError, Failed, RpcError, Unavailable, BitcoindError, Invalid: why it cannot be.
        """
        if plan.payments > PAYMENTS_MAX:
            raise Failed(
                f"{plan.payments} payments are more than {PAYMENTS_MAX}, which are signed in "
                "advance: choose a lower rate or a shorter time"
            )
        state = self._federation.require_running(BITCOIND, WALLET)
        async with self._targets(state, plan.members) as targets:
            params = self._federation.load_federation(state).chain_params()
            wallets = LoadWallets(params, secrets.token_bytes(32), plan.wallets)
            address = encode_address(wallets.purse_script, params.prefixes)
            coins = await self._coins(plan, wallets, address, state, targets)
            payments = await self._signed(plan, wallets, coins)
            generator = Generator(
                targets,
                params,
                Timing(rate=plan.rate, drain_s=plan.drain_s),
                measure=self._measure,
                tell=lambda text: self._tell("send", text),
            )
            return await generator.run(payments)

    # -- who is there

    @asynccontextmanager
    async def _targets(
        self, state: LocalState, names: Sequence[str]
    ) -> AsyncIterator[list[Target]]:
        running = self._federation.running()
        if names:
            members = [self._federation.find_member(state, name) for name in names]
            self._federation.require_running(*(member.name for member in members))
        else:
            members = [member for member in state.members if member.name in running]
        if not members:
            self._federation.require_running(*(member.name for member in state.members))
        targets = [
            Target(
                name=member.name,
                wire=MemberWire(
                    member.name,
                    member.rpc_port,
                    MemberFolder(self._federation.folder.member(member.name)).cookie,
                ),
                client=self._federation.member_client(member),
            )
            for member in members
        ]
        try:
            yield targets
        finally:
            for target in targets:
                target.wire.close()
                await target.client.close()

    def _measure(self) -> Mapping[str, ProcessUse]:
        found = {"load": _process_use(os.getpid())}
        for name, child in self._federation.running().items():
            found[name] = _process_use(child.pid)
        return {name: use for name, use in sorted(found.items()) if use is not None}

    # -- what is sent

    async def _coins(
        self,
        plan: Plan,
        wallets: LoadWallets,
        address: str,
        state: LocalState,
        targets: Sequence[Target],
    ) -> list[LoadCoin]:
        """Make the coins; final at every member when this returns."""
        count = plan.coins(len(targets))
        value_sats = coin_value_sats(-(-plan.payments // count))
        client = targets[0].client
        funds = Funds(
            self._federation,
            state,
            wallet=FUNDING_WALLET,
            member=client,
            tell=lambda text: self._tell("fund", text),
        )
        need_sats = purse_value_sats(count, value_sats)
        purse = _purse(await funds.pay(address, need_sats), wallets.purse_script, need_sats)
        coins: list[LoadCoin] = []
        while len(coins) < count:
            self._tell("coins", f"made {len(coins)} of {count} coins")
            size = min(SPLIT_MAX, count - len(coins))
            split, purse = wallets.split(purse, size, value_sats)
            await client.call("sendrawtransaction", split.serialize().hex())
            await funds.until_final(split.txid)
            coins += wallets.coins_of(split)
        self._tell("coins", f"made {count} coins")
        height = int(await client.call("getblockcount"))
        for target in targets:
            await target.client.call("waitforblockheight", height, 10_000)
        return coins

    async def _signed(
        self, plan: Plan, wallets: LoadWallets, coins: Sequence[LoadCoin]
    ) -> list[SignedPayment]:
        payments: list[SignedPayment] = []
        for payment in wallets.payments(coins, plan.payments):
            payments.append(payment)
            if len(payments) % SIGN_SLICE == 0:
                self._tell("sign", f"signed {len(payments)} of {plan.payments} payments")
                await asyncio.sleep(0)
        self._tell("sign", f"signed {plan.payments} payments")
        return payments


async def find_max(
    run: Callable[[float], Awaitable[Found]],
    first_rate: float,
    highest_rate: float,
    limit_ms: int,
    tell: Callable[[Found, bool], None],
) -> float:
    """The highest rate found at which everything becomes final, p99 keeps a limit, and payments
    do not take longer and longer.

    The rate is doubled until one fails, then halved in between.

    Args:
        run: measures at a rate.
        tell: is told of each step, and whether it held.
    Returns:
        The rate, 0 when the first one fails and those below it too.
    """
    held, failed = 0.0, 0.0
    rate = first_rate
    for _ in range(STEPS_MAX):
        found = await run(rate)
        is_quick = found.percentile(99) <= limit_ms
        holds = is_quick and not found.stuck and not found.falls_behind
        tell(found, holds)
        if holds:
            held = rate
        else:
            failed = rate
        if held >= highest_rate or (failed and failed <= FINENESS * held) or failed == 1:
            break
        rate = min(highest_rate, 2 * held) if not failed else (held + failed) / 2
        rate = max(1.0, float(round(rate)))
    return held


def _purse(tx: Transaction, script: bytes, value_sats: int) -> LoadCoin:
    for index, output in enumerate(tx.outputs):
        if output.script == script and output.value_sats == value_sats:
            return LoadCoin(OutPoint(tx.txid, index), value_sats, 0)
    raise Failed("the payment that funds the load has no output for it")


def _process_use(pid: int) -> ProcessUse | None:
    """What a process has used so far; None when it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    ticks = int(fields[11]) + int(fields[12])
    return ProcessUse(
        pid=pid,
        cpu_ms=1_000 * ticks // os.sysconf("SC_CLK_TCK"),
        rss_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
    )
