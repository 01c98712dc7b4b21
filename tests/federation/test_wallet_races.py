"""What one loop of the wallet process reads must still hold after it waited for somebody.

The chain's loop and the calls of users run while the peg's loop awaits an answer. Each test lets a
claim become final at one such moment, for every moment there is.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sidechain.primitives.address import decode_address
from sidechain.primitives.parent import parse_parent_tx
from tests.federation.test_wallet_deposits import claims, rival_of
from tests.federation.wallet_world import PEGIN_DEPTH, World, coins

DEPOSIT_SATS = 700_000
ASKED_OF_MEMBERS = ("getpeginfo", "getsidechaininfo", "getmempoolinfo", "sendrawtransaction")
ASKED_OF_BITCOIN = ("tx_out", "find_transaction", "send_raw_transaction")


@pytest.fixture
async def world(tmp_path: Path) -> Any:
    world = World(tmp_path)
    await world.call("createwallet", "alice")
    await world.turn()
    yield world
    world.close()


async def own_pegin(world: World) -> str:
    """A peg-in from the faucet, deposited."""
    made = await world.call("pegin", "alice", coins(DEPOSIT_SATS))
    await world.turn()
    name: str = made["id"]
    return name


async def view_of(world: World, name: str) -> dict[str, Any]:
    found: dict[str, Any] = await world.call("getpegin", name)
    return found


def interrupt(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    happens: Callable[[], Awaitable[None]],
) -> list[str]:
    """Let something happen, once, while `method` is being answered; tells that it did."""
    done: list[str] = []

    async def once() -> None:
        if not done:
            done.append(method)
            await happens()

    if method in ASKED_OF_MEMBERS:
        for member in world.members:
            member.meanwhile[method] = once
        return done
    answer = getattr(type(world.bitcoin), method)

    async def asked(*args: Any, **words: Any) -> Any:
        await once()
        return await answer(world.bitcoin, *args, **words)

    monkeypatch.setattr(type(world.bitcoin), method, lambda _self, *a, **w: asked(*a, **w))
    return done


@pytest.mark.parametrize("method", [*ASKED_OF_MEMBERS[:3], "tx_out"])
async def test_claim_when_it_gets_final_while_anybody_is_asked_then_made_once(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    name = await own_pegin(world)
    await world.mine(PEGIN_DEPTH)
    (pending,) = world.book.pending()

    async def final() -> None:
        world.federation.make_block()
        await world.parts.follow_chain()

    world.bitcoin.mine()  # so that Bitcoin is asked again
    world.federation.commit()
    done = interrupt(world, monkeypatch, method, final)
    world.now_ms += 5_000
    while not await world.parts.follow_parent():
        pass
    assert done == [method]
    view = await view_of(world, name)
    assert (view["stage"], view["claim_txid"]) == ("final", pending.txid[::-1].hex())
    assert world.book.pending() == [] and claims(world) == 1
    await world.turn()
    assert claims(world) == 1


@pytest.mark.parametrize("method", [*ASKED_OF_MEMBERS, "tx_out"])
async def test_claim_when_another_wallets_one_gets_final_then_none_of_ours_stays(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    shown = await world.call("getpeginaddress", "alice")
    rival = rival_of(world)
    try:
        script = decode_address(shown["address"], world.params.parent_prefixes).script
        world.bitcoin.pay(script, DEPOSIT_SATS)
        world.bitcoin.mine(PEGIN_DEPTH)
        world.federation.commit()
        await world.parts.follow_chain()

        async def final() -> None:
            await rival.turn()
            world.federation.make_block()
            await world.parts.follow_chain()

        done = interrupt(world, monkeypatch, method, final)
        while not await world.parts.follow_parent():
            pass
        assert done == [method]
        await world.turn()
        (view,) = await world.call("listpegins")
        assert view["stage"] == "final" and claims(world) == 1
        assert world.book.pending() == []
    finally:
        rival.book.close()


@pytest.mark.parametrize("method", ASKED_OF_BITCOIN)
async def test_funding_when_its_claim_gets_final_in_a_reorganisation_then_kept(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Bitcoin dropped the block of a deposit whose claim a sidechain block holds already."""
    name = await own_pegin(world)
    await world.mine(PEGIN_DEPTH)
    world.bitcoin.reorganise(PEGIN_DEPTH, keep_transactions=False)
    world.bitcoin.mine(PEGIN_DEPTH + 1)
    world.bitcoin.refuse_with = "bad-txns-inputs-missingorspent"
    funding = parse_parent_tx(world.faucet.made[0])
    world.bitcoin.spent_coins.update(prevout.txid for prevout in funding.inputs)

    async def final() -> None:
        world.federation.signed.extend(
            world.federation.signed.chain.mempool.transactions()
        )  # k members voted for it before the reorganisation
        await world.parts.follow_chain()

    done = interrupt(world, monkeypatch, method, final)
    while not await world.parts.follow_parent():
        pass
    assert done == [method]
    view = await view_of(world, name)
    assert view["stage"] == "final" and view["deposit"] is not None
    assert len(world.faucet.made) == 1
    await world.turn()
    assert len(world.faucet.made) == 1


async def test_burn_when_final_while_the_refusal_is_awaited_then_not_failed(world: World) -> None:
    await world.call("pegin", "alice", coins(5_000_000))
    await world.turn()
    await world.mine(PEGIN_DEPTH + 1)

    async def final() -> None:
        (pending,) = world.book.pending()
        chain = world.federation.signed.chain
        chain.submit_tx(pending, world.bitcoin, world.federation.now_s)
        world.federation.make_block()
        await world.parts.follow_chain()
        for member in world.members:
            member.refuse_with = "pegout refused"

    for member in world.members:
        member.meanwhile["sendrawtransaction"] = final
        break
    found = await world.call(
        "pegout", "alice", "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080", coins(100_000)
    )
    assert found["height"] is not None and found["stage"] != "failed"


async def test_pegins_when_two_equal_ones_are_asked_at_once_then_one(world: World) -> None:
    first: list[dict[str, Any]] = []

    async def same() -> None:
        first.append(await world.call("pegin", "alice", coins(DEPOSIT_SATS)))

    for member in world.members:
        member.meanwhile["getblockcount"] = same
        break
    second = await world.call("pegin", "alice", coins(DEPOSIT_SATS))
    assert second["id"] == first[0]["id"] and second["resumed"]
    assert len(world.parts.store.pegins) == 1
