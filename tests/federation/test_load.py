"""The load generator: payments, the open loop, what it reports (issue: load)."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from federation.load.drive import Plan, find_max
from federation.load.generator import COIN_BROKEN, Generator, Target, Timing
from federation.load.payments import (
    PAID_SATS,
    LoadCoin,
    LoadWallets,
    SignedPayment,
    coin_value_sats,
    purse_value_sats,
)
from federation.load.report import NEVER, Found, Outcome, ProcessUse, as_json, as_text, spread
from federation.load.wire import CONNECTIONS_MAX, MemberWire
from sidechain.api.client import RpcClient, RpcError
from sidechain.api.http import RpcServer
from sidechain.api.registry import Registry
from sidechain.api.rpc import register_chain_methods
from sidechain.api.rpc_node import NodeHooks
from sidechain.errors import Unavailable
from sidechain.primitives.transaction import OutPoint, Transaction
from tests.factories import SignedChain, Wallet

COINS, PAYMENTS = 4, 12


@contextmanager
def funded_chain(path: Path) -> Iterator[tuple[SignedChain, list[SignedPayment]]]:
    """A chain that has the coins of these payments."""
    world = SignedChain.open(path)
    try:
        wallets = LoadWallets(world.params, b"seed", 3)
        value_sats = coin_value_sats(PAYMENTS // COINS)
        need_sats = purse_value_sats(COINS, value_sats)
        owner = Wallet("rich")
        funding = world.payment(
            owner, [world.mint(owner, 10_000_000)], [(wallets.purse_script, need_sats)]
        )
        purse = LoadCoin(OutPoint(funding.txid, 0), need_sats, 0)
        split, left = wallets.split(purse, COINS, value_sats)
        assert left.value_sats == PAID_SATS
        world.extend([funding, split])
        yield world, list(wallets.payments(wallets.coins_of(split), PAYMENTS))
    finally:
        world.chain.close()


@asynccontextmanager
async def served(registry: Registry, folder: Path, name: str) -> AsyncIterator[Target]:
    """A member's RPC port."""
    server = RpcServer(registry, folder / f"{name}.cookie")
    await server.start()
    cookie = folder / f"{name}.cookie"
    wire = MemberWire(name, server.port, cookie)
    try:
        async with RpcClient(f"http://127.0.0.1:{server.port}", cookie) as client:
            yield Target(name=name, wire=wire, client=client)
    finally:
        wire.close()
        await server.stop()


def member_registry(world: SignedChain) -> Registry:
    """Methods of a member on this chain; signers are not known."""

    async def accepted(tx: Transaction) -> None:
        pass

    async def facts_for(tx: Transaction) -> None:
        return None

    registry = Registry()
    register_chain_methods(
        registry,
        world.chain,
        facts_for=facts_for,
        on_accepted=accepted,
        hooks=NodeHooks(unix_time_s=world.next_time_s),
    )
    registry.add("getblocksigners", lambda first, count: [], "nobody")
    return registry


async def make_blocks(world: SignedChain) -> None:
    """A block whenever something waits for one."""
    while True:
        waiting = list(world.chain.mempool.each_transaction())
        if waiting:
            world.extend(waiting)
        await asyncio.sleep(0.005)


async def drive(
    world: SignedChain, payments: list[SignedPayment], folder: Path, *, drain_s: float
) -> Found:
    """The load on two members of one chain."""
    registry = member_registry(world)
    async with served(registry, folder, "m0") as first, served(registry, folder, "m1") as second:
        generator = Generator(
            [first, second],
            world.params,
            Timing(rate=200, drain_s=drain_s),
            measure=lambda: {"m0": ProcessUse(pid=1, cpu_ms=0, rss_bytes=0)},
            tell=lambda text: None,
        )
        return await generator.run(payments)


async def test_load_when_blocks_follow_then_every_payment_is_final(tmp_path: Path) -> None:
    with funded_chain(tmp_path / "chain") as (world, payments):
        making = asyncio.create_task(make_blocks(world))
        found = await drive(world, payments, tmp_path, drain_s=20)
        making.cancel()
        assert (found.final, found.stuck, list(found.differing)) == (PAYMENTS, 0, [])
        assert sum(block.transactions for block in found.blocks) == PAYMENTS
        shown = as_json(found)
        assert {n: m["payments"] for n, m in shown["members"].items()} == {"m0": 6, "m1": 6}
        json.dumps(shown, allow_nan=False)
        assert "stuck          nothing" in as_text(found)


async def test_load_when_payments_get_stuck_then_each_has_a_reason(tmp_path: Path) -> None:
    """No block is made; one payment is refused; all of it is told, nothing is waited for."""
    with funded_chain(tmp_path / "chain") as (world, payments):
        broken = bytearray(payments[1].raw)
        broken[10] ^= 1  # inside the outpoint
        payments[1] = SignedPayment(coin=1, txid=payments[1].txid, raw=bytes(broken))
        found = await drive(world, payments, tmp_path, drain_s=0)
        reasons = {each["reason"]: each["payments"] for each in as_json(found)["stuck"]}
        assert found.final == 0
        assert sum(reasons.values()) == PAYMENTS
        assert reasons["m1 refused it: bad-txns-inputs-missingorspent"] == 1
        # The coin of the refused one is missing to the two that spend its change.
        assert reasons[COIN_BROKEN] == 2
        # The very last one may not have been answered when the report was made.
        assert reasons["waits in the mempool of m0"] >= 5
        assert reasons["waits in the mempool of m1"] >= 2
        shown = as_json(found)["final_ms"]
        assert shown["p50"] is None and shown["p99"] is None


@pytest.mark.slow
async def test_load_when_a_member_stops_answering_then_told_once_for_all_its_payments(
    tmp_path: Path,
) -> None:
    """Its payments wait for an answer until the end; the others go their way."""
    with funded_chain(tmp_path / "chain") as (world, payments):
        registry, silent = member_registry(world), Registry()

        async def never(first: Any, second: Any = None) -> str:
            await asyncio.Event().wait()
            return ""

        silent.add("sendrawtransaction", never, "frozen")
        silent.add("waitforblockheight", never, "frozen")
        making = asyncio.create_task(make_blocks(world))
        async with served(registry, tmp_path, "m0") as one, served(silent, tmp_path, "m1") as two:
            generator = Generator(
                [one, two],
                world.params,
                Timing(rate=200, drain_s=5),
                measure=dict,
                tell=lambda text: None,
            )
            found = await generator.run(payments)
        making.cancel()
        assert found.final == PAYMENTS // 2
        (stuck,) = as_json(found)["stuck"]
        assert (stuck["reason"], stuck["payments"]) == ("m1 does not answer", PAYMENTS // 2)
        assert "does not answer" in as_text(found)


async def test_wire_when_a_member_does_not_answer_then_who_sends_is_not_held_up(
    tmp_path: Path,
) -> None:
    """More than the connections can carry stand in line and are answered in the end."""
    release, busy, seen = asyncio.Event(), asyncio.Event(), []

    async def sendrawtransaction(raw: Any) -> str:
        seen.append(raw)
        if len(seen) == CONNECTIONS_MAX:
            busy.set()
        await release.wait()
        if raw == "00":
            raise RpcError(-26, "not this one")
        return "ok"

    registry = Registry()
    registry.add("sendrawtransaction", sendrawtransaction, "waits")
    async with served(registry, tmp_path, "m0") as target:
        count = 3 * CONNECTIONS_MAX
        sent = [asyncio.create_task(target.wire.submit(bytes((n,)))) for n in range(count)]
        await busy.wait()
        assert not any(task.done() for task in sent)
        release.set()
        results = await asyncio.gather(*sent, return_exceptions=True)
        assert len(seen) == count
        assert isinstance(results[0], RpcError) and results[0].message == "not this one"
        assert results[1:] == [None] * (count - 1)


async def test_wire_when_the_member_ends_then_those_in_line_are_told(tmp_path: Path) -> None:
    async def sendrawtransaction(raw: Any) -> str:
        await asyncio.Event().wait()
        return ""

    registry = Registry()
    registry.add("sendrawtransaction", sendrawtransaction, "never answers")
    cookie = tmp_path / ".cookie"
    server = RpcServer(registry, cookie)
    await server.start()
    wire = MemberWire("m0", server.port, cookie)
    sent = [asyncio.create_task(wire.submit(b"x")) for _ in range(2 * CONNECTIONS_MAX)]
    await asyncio.sleep(0)
    await server.stop()
    results = await asyncio.gather(*sent, return_exceptions=True)
    assert all(isinstance(each, Unavailable) for each in results), results
    wire.close()


def test_payments_when_signed_in_advance_then_each_spends_the_change_before(
    tmp_path: Path,
) -> None:
    """A validator takes all of them, one after another and in one block."""
    with funded_chain(tmp_path) as (world, payments):
        assert [payment.coin for payment in payments] == [*range(COINS)] * 3
        txs = [Transaction.decode(payment.raw) for payment in payments]
        assert [tx.txid for tx in txs] == [payment.txid for payment in payments]
        assert txs[COINS].inputs[0].prevout == OutPoint(txs[0].txid, 1)
        for tx in txs:
            world.chain.submit_tx(tx, None, world.next_time_s())
        world.extend(txs)
        assert not list(world.chain.mempool.each_transaction())


def test_plan_when_for_several_members_then_each_has_as_many_coins() -> None:
    for rate, seconds, wallets, targets in ((1, 1, 10, 4), (300, 60, 10, 4), (7, 100, 1, 3)):
        plan = Plan(rate=rate, seconds=seconds, wallets=wallets, drain_s=1)
        coins = plan.coins(targets)
        assert coins % targets == 0 and coins >= wallets
        assert plan.payments / coins <= 1_000


def _found(latencies_ms: list[float]) -> Found:
    outcomes = [
        Outcome(bytes((n,)), 0, 10.0 * n, final_ms=10.0 * n + latency)
        for n, latency in enumerate(latencies_ms)
    ]
    return Found(rate=100, seconds=1, names=["m0"], outcomes=outcomes)


def test_percentiles_when_payments_are_never_final_then_they_count_as_the_slowest() -> None:
    found = _found([5.0] * 98 + [NEVER, NEVER])
    assert (found.percentile(50), found.percentile(99)) == (5.0, NEVER)
    assert spread([1.0, NEVER]) == {"min": 1.0, "p50": 1.0, "p90": None, "p99": None, "max": None}
    assert spread([]) == {}


def test_report_when_payments_take_longer_and_longer_then_it_falls_behind() -> None:
    assert not _found([300.0, 500.0] * 20).falls_behind
    assert _found([10.0 * n for n in range(200)]).falls_behind
    assert _found([300.0] * 39 + [NEVER] * 20).falls_behind
    assert not _found([5.0]).falls_behind


def test_report_when_a_process_started_again_then_its_time_counts_from_then() -> None:
    found = _found([5.0])
    found.before = {"m0": ProcessUse(pid=1, cpu_ms=900, rss_bytes=2_000_000)}
    found.after = {
        "m0": ProcessUse(pid=2, cpu_ms=100, rss_bytes=1_000_000),
        "new": ProcessUse(pid=3, cpu_ms=1, rss_bytes=1),
    }
    shown = as_json(found)["processes"]
    assert list(shown) == ["m0"] and shown["m0"]["cpu_ms"] == 100


@pytest.mark.parametrize(
    "capacity, first, highest, held",
    [(550, 100, 10_000, 550), (90, 100, 10_000, 90), (10_000, 100, 800, 800), (0, 2, 100, 0)],
)
async def test_search_when_rates_fail_then_the_highest_that_held_is_found(
    capacity: float, first: float, highest: float, held: float
) -> None:
    tried: list[tuple[float, bool]] = []

    async def run(rate: float) -> Found:
        found = _found([5.0 if rate <= capacity else 5_000.0])
        found.rate = rate
        return found

    answer = await find_max(
        run, first, highest, 1_000, lambda found, holds: tried.append((found.rate, holds))
    )
    assert answer == max((rate for rate, holds in tried if holds), default=0)
    assert held / 1.2 <= answer <= held
