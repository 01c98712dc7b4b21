"""The wallet process with PSETs and descriptors: one process watches, another one signs."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidechain.api.registry import RpcError
from tests.federation.wallet_world import World

WORDS = "abandon " * 11 + "about"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.turn()
    await made.rich_wallet("bob")
    await made.call("createwallet", "alice")
    yield made
    made.close()
    made.federation.signed.chain.close()


async def block(world: World) -> None:
    world.federation.make_block()
    await world.turn()


async def confirmed(world: World, name: str) -> int:
    return int((await world.call("getbalances", name))["confirmed_sats"])


async def watcher(world: World) -> None:
    found = await world.call("getdescriptor", "bob")
    made = await world.call("importdescriptor", "eye", found["descriptor"])
    assert made == {"name": "eye", "confidential": True}
    await world.turn()


async def payment(world: World, name: str = "eye") -> dict[str, Any]:
    target = await world.call("getnewaddress", "alice")
    made: dict[str, Any] = await world.call("createpset", name, target, "0.1")
    return made


async def test_watching_wallet_when_it_pays_then_its_keys_sign_elsewhere(world: World) -> None:
    await watcher(world)
    before = await confirmed(world, "bob")
    assert await confirmed(world, "eye") == before
    assert (await world.call("getwalletinfo", "eye"))["watch_only"]
    with pytest.raises(RpcError, match="only watches"):
        target = await world.call("getnewaddress", "alice")
        await world.call("sendtoaddress", "eye", target, "0.1")
    made = await payment(world)
    shown = await world.call("showpset", "bob", made["pset"])
    assert [change["amount_sats"] for change in shown["wallet"]] == [-10_000_000 - made["fee_sats"]]
    assert shown["fee_sats"] == made["fee_sats"] and not shown["complete"]
    assert [item["own"] for item in shown["inputs"]] == [True]
    assert [item["own"] for item in shown["outputs"]] == [False, True]
    assert [item["amount_sats"] is None for item in shown["outputs"]] == [True, False]
    with pytest.raises(RpcError, match="only watches"):
        await world.call("signpset", "eye", made["pset"])
    signed = await world.call("signpset", "bob", made["pset"])
    assert (signed["signed"], signed["complete"]) == (1, True)
    final = await world.call("finalizepset", signed["pset"])
    assert final["complete"] and len(final["hex"]) > 2_000
    txid = await world.call("sendpset", signed["pset"])
    assert txid == made["txid"] == await world.call("sendpset", final["pset"])
    assert (await world.call("getbalances", "bob"))["pending_out_sats"] > 10_000_000
    await block(world)
    assert await confirmed(world, "alice") == 10_000_000
    assert await confirmed(world, "eye") == await confirmed(world, "bob")
    assert world.book.pending() == []


async def test_pset_when_not_signed_then_not_sent_and_its_coins_stay_free(world: World) -> None:
    made = await payment(world, "bob")
    with pytest.raises(RpcError, match="not every input"):
        await world.call("sendpset", made["pset"])
    assert (await world.call("finalizepset", made["pset"]))["hex"] is None
    assert (await world.call("signpset", "alice", made["pset"]))["signed"] == 0
    assert world.book.pending() == []
    await world.call("sendtoaddress", "bob", await world.call("getnewaddress", "alice"), "0.2")


async def test_pset_when_its_coin_was_spent_meanwhile_then_the_refusal_is_told(
    world: World,
) -> None:
    made = await payment(world, "bob")
    signed = await world.call("signpset", "bob", made["pset"])
    await world.call("sendtoaddress", "bob", await world.call("getnewaddress", "alice"), "0.2")
    await block(world)
    for member in world.members:
        member.refuse_with = "bad-txns-inputs-spent"
    with pytest.raises(RpcError, match="inputs-spent"):
        await world.call("sendpset", signed["pset"])
    assert world.book.pending() == []


async def test_copies_when_combined_then_complete(world: World) -> None:
    made = await payment(world, "bob")
    signed = await world.call("signpset", "bob", made["pset"])
    found = await world.call("combinepsets", [made["pset"], signed["pset"]])
    assert found["complete"]
    other = await payment(world, "bob")
    with pytest.raises(RpcError, match="same transaction"):
        await world.call("combinepsets", [made["pset"], other["pset"]])


@pytest.mark.parametrize("method", ["showpset", "signpset"])
async def test_pset_when_it_is_none_then_refused(world: World, method: str) -> None:
    for text in ("", "cHNldP8=", "nonsense"):
        with pytest.raises(RpcError, match="no PSET"):
            await world.call(method, "bob", text)
    for given in ("text", [], [1], ["x"] * 101):
        with pytest.raises(RpcError):
            await world.call("combinepsets", given)


async def test_descriptor_when_explicit_then_the_watcher_sees_no_hidden_amounts(
    world: World,
) -> None:
    await world.call("restorewallet", "old", WORDS)
    await world.turn()
    found = await world.call("getdescriptor", "old", True)
    assert "slip77" not in found["descriptor"]
    await world.call("importdescriptor", "eye", found["descriptor"])
    target = await world.call("getnewaddress", "old")
    plain = await world.call("getnewaddress", "old", True)
    await world.call("sendtoaddress", "bob", target, "0.1")
    await world.call("sendtoaddress", "bob", plain, "0.2")
    await block(world)
    view = await world.call("getbalances", "eye")
    assert (view["confirmed_sats"], view["unknown_outputs"]) == (20_000_000, 1)
    assert await confirmed(world, "old") == 30_000_000
    assert (await world.call("getnewaddress", "eye")).startswith("ert1q")


@pytest.mark.parametrize("text", ["", "elwpkh()", "wpkh(x)", "ct(slip77(00),elwpkh())"])
async def test_descriptor_when_it_is_none_then_refused(world: World, text: str) -> None:
    with pytest.raises(RpcError):
        await world.call("importdescriptor", "eye", text)
    assert "eye" not in await world.call("listwallets")
