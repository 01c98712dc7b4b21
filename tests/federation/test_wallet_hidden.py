"""The wallet process with hidden amounts: peg-ins to any address, payments, assets, restoring."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidechain.api.registry import RpcError
from sidechain.primitives.address import decode_address, encode_address
from sidechain.primitives.confidential import is_commitment
from sidechain.primitives.transaction import Transaction
from sidechain.wallet.blinding import unblind
from sidechain.wallet.book import CLAIMS_WALLET
from sidechain.wallet.keys import Branch, PrivateAccount, seed_of_mnemonic
from tests.federation.wallet_world import PEGIN_DEPTH, Crash, World, coins

DEPOSIT_SATS = 1_000_000
WORDS = "abandon " * 11 + "about"
FOREIGN = PrivateAccount.from_seed(seed_of_mnemonic(WORDS)).public
SCRIPT = FOREIGN.script(Branch.RECEIVE, 0)
STAGES = ("funding recorded", "funding sent", "claim recorded", "claim sent")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.turn()
    yield made
    made.close()
    made.federation.signed.chain.close()


def address(world: World, *, hidden: bool = True) -> str:
    key = FOREIGN.blinding_public_key(SCRIPT) if hidden else None
    return encode_address(SCRIPT, world.params.prefixes, key)


def claims(world: World) -> list[Transaction]:
    chain = world.federation.signed.chain
    return [
        tx
        for height in range(chain.tip_height + 1)
        for tx in chain.block(height).transactions
        if any(txin.is_pegin for txin in tx.inputs)
    ]


async def balances(world: World, name: str) -> dict[str, Any]:
    found: dict[str, Any] = await world.call("getbalances", name)
    return found


async def block(world: World) -> None:
    world.federation.make_block()
    await world.turn()


# ---- peg-in to any address ----


@pytest.mark.parametrize("hidden", [True, False])
async def test_pegin_when_it_is_to_an_address_then_its_claim_pays_that(
    world: World, hidden: bool
) -> None:
    to = address(world, hidden=hidden)
    made = await world.call("pegin", to, coins(DEPOSIT_SATS))
    assert (made["wallet"], made["to"], made["stage"]) == (None, to, "address")
    await world.turn()
    await world.mine(PEGIN_DEPTH + 1)
    view = await world.call("getpegin", made["id"])
    assert view["stage"] == "final"
    (claim,) = claims(world)
    assert claim.txid[::-1].hex() == view["claim_txid"]
    fee = claim.outputs[-1].value_sats or 0
    assert sum(is_commitment(out.value) for out in claim.outputs) == (2 if hidden else 0)
    held = unblind(
        claim.outputs[0],
        claim.output_witnesses[0],
        FOREIGN.blinding_secret(SCRIPT),
        world.params.pegged_asset,
    )
    assert claim.outputs[0].script == SCRIPT
    assert held is not None and held.value_sats == DEPOSIT_SATS - fee
    assert await world.call("listwallets") == []


@pytest.mark.parametrize("point", STAGES)
async def test_pegin_to_an_address_when_killed_at_any_point_then_one_claim(
    world: World, point: str
) -> None:
    to = address(world)
    made = await world.call("pegin", to, coins(DEPOSIT_SATS))
    world.faucet.crash_after = point == "funding recorded"
    world.bitcoin.crash_before_send = point == "funding sent"
    if point.startswith("funding"):
        with pytest.raises(Crash):
            await world.turn()
        world.crash()
    await world.turn()
    for member in world.members:
        member.crash_before_send = point == "claim recorded"
        member.crash_after_send = point == "claim sent"
    recorded: list[Transaction] = []
    if point.startswith("claim"):
        with pytest.raises(Crash):
            await world.mine(PEGIN_DEPTH + 1)
        recorded = world.book.pending()
        world.crash()
    again = await world.call("pegin", to, coins(DEPOSIT_SATS))
    assert (again["id"], again["resumed"]) == (made["id"], True)
    await world.turn()
    await world.mine(PEGIN_DEPTH + 2)
    assert (await world.call("getpegin", made["id"]))["stage"] == "final"
    (claim,) = claims(world)
    assert not recorded or recorded == [claim]
    assert len(world.bitcoin.sent) == 1


async def test_claim_when_killed_before_it_is_recorded_then_built_again_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await world.call("pegin", address(world), coins(DEPOSIT_SATS))
    await world.turn()
    built: list[Transaction] = []

    def die(tx: Transaction, *_: object) -> None:
        built.append(tx)
        raise Crash

    monkeypatch.setattr(world.book, "record_pending", die)
    with pytest.raises(Crash):
        await world.mine(PEGIN_DEPTH + 1)
    world.crash()
    assert world.book.pending() == []
    await world.turn()
    await world.mine(2)
    assert (await world.call("getpegin", made["id"]))["stage"] == "final"
    (claim,) = claims(world)
    assert built == [claim]


async def test_pegin_when_receivers_differ_then_each_has_its_own(world: World) -> None:
    await world.call("createwallet", "alice")
    first = await world.call("pegin", "alice", coins(DEPOSIT_SATS))
    second = await world.call("pegin", address(world), coins(DEPOSIT_SATS))
    third = await world.call("pegin", address(world, hidden=False), coins(DEPOSIT_SATS))
    assert len({first["id"], second["id"], third["id"]}) == 3
    shown = await world.call("getpeginaddress", address(world))
    assert shown["address"] not in (second["address"], third["address"])


@pytest.mark.parametrize("to", ["nobody", CLAIMS_WALLET, "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7k"])
async def test_pegin_when_nobody_is_named_then_refused(world: World, to: str) -> None:
    with pytest.raises(RpcError, match="no sidechain address"):
        await world.call("pegin", to, "0.1")
    assert await world.call("listpegins") == []


# ---- payments and assets ----


async def test_payment_when_between_wallets_then_hidden_and_both_know_it(world: World) -> None:
    await world.rich_wallet("bob")
    await world.call("createwallet", "alice")
    target = await world.call("getnewaddress", "alice")
    assert target.startswith("el1qq")
    txid = await world.call("sendtoaddress", "bob", target, "0.1")
    (tx,) = world.federation.signed.chain.mempool.transactions()
    assert tx.txid[::-1].hex() == txid
    assert sum(is_commitment(out.value) for out in tx.outputs) == 2
    await world.turn()
    assert (await balances(world, "alice"))["pending_in_sats"] == 10_000_000
    await block(world)
    assert (await balances(world, "alice"))["confirmed_sats"] == 10_000_000
    plain = await world.call("getnewaddress", "alice", True)
    assert plain.startswith("ert1q")
    await world.call("sendtoaddress", "bob", plain, "0.2")
    await block(world)
    found = await balances(world, "alice")
    assert found["confirmed_sats"] == 30_000_000 and found["unknown_outputs"] == 0


async def test_asset_when_issued_over_rpc_then_paid_grown_burned_and_listed(world: World) -> None:
    await world.rich_wallet("bob")
    await world.call("createwallet", "alice")
    made = await world.call("issueasset", "bob", "10", "1", False, "11" * 32, "gold")
    assert (made["asset_sats"], made["token_sats"]) == (10 * 10**8, 10**8)
    assert (made["label"], made["blinded"], made["contract_hash"]) == ("gold", True, "11" * 32)
    await block(world)
    target = await world.call("getnewaddress", "alice")
    await world.call("sendtoaddress", "bob", target, "3", "gold")
    await block(world)
    await world.call("reissueasset", "bob", made["asset"], "5")
    await block(world)
    await world.call("destroyamount", "bob", "gold", "1")
    await block(world)
    held = {
        item["label"]: item["confirmed_sats"] for item in (await balances(world, "bob"))["assets"]
    }
    assert held["gold"] == 11 * 10**8 and held["bitcoin"] > 0
    (_, gold) = (await balances(world, "alice"))["assets"]
    assert (gold["asset"], gold["confirmed_sats"]) == (made["asset"], 3 * 10**8)
    listed = await world.call("listissuances", "bob")
    assert sorted((item["is_reissuance"], item["asset_sats"]) for item in listed) == [
        (False, 10 * 10**8),
        (True, 5 * 10**8),
    ]
    kinds = [entry["category"] for entry in await world.call("listtransactions", "bob")]
    assert kinds == ["pegin", "issue", "send", "reissue", "burn"]
    assert (await world.call("labelasset", made["asset"], "silver"))["label"] == "silver"
    world.crash()
    assert (await world.call("listissuances", "bob"))[0]["label"] == "silver"


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        ("issueasset", ("bob", "0"), "Invalid amount"),
        ("issueasset", ("bob", "1", "-1"), "out of range"),
        ("issueasset", ("bob", "1", 0, "no"), "true or false"),
        ("issueasset", ("bob", "1", 0, True, "11"), "32 bytes"),
        ("issueasset", ("bob", "1", 0, True, "zz"), "not hex"),
        ("issueasset", ("bob", "1", 0, True, "", "bitcoin"), "names another asset"),
        ("issueasset", ("bob", "1", 0, True, "", "no good"), "a label is"),
        ("issueasset", ("nobody", "1"), "no wallet named"),
        ("reissueasset", ("bob", "gold", "1"), "no asset"),
        ("reissueasset", ("bob", "22" * 32, "1"), "did not issue"),
        ("destroyamount", ("bob", "bitcoin", "1"), "pegged out"),
        ("destroyamount", ("bob", "22" * 32, "1"), "not enough coins"),
        ("sendtoaddress", ("bob", "ADDRESS", "1", "gold"), "no asset"),
        ("listissuances", ("nobody",), "no wallet named"),
        ("labelasset", ("22" * 32, "bitcoin"), "names another asset"),
    ],
)
async def test_asset_method_when_arguments_are_wrong_then_refused_and_nothing_recorded(
    world: World, method: str, arguments: tuple[Any, ...], words: str
) -> None:
    await world.rich_wallet("bob")
    given = [address(world) if item == "ADDRESS" else item for item in arguments]
    with pytest.raises(RpcError, match=words):
        await world.call(method, *given)
    assert world.book.pending() == []


# ---- restoring ----


async def test_wallet_when_restored_from_words_then_coins_of_its_past_are_found(
    world: World,
) -> None:
    await world.rich_wallet("bob")
    await world.call("pegin", address(world), coins(DEPOSIT_SATS))
    await world.call("sendtoaddress", "bob", address(world), "0.1")
    await block(world)
    await world.mine(PEGIN_DEPTH + 2)
    fee = claims(world)[-1].outputs[-1].value_sats or 0
    made = await world.call("restorewallet", "old", WORDS)
    assert made == {"name": "old", "encrypted": False}
    assert (await world.call("getwalletinfo", "old"))["rescan_height"] == 0
    await world.turn()
    info = await world.call("getwalletinfo", "old")
    assert (info["rescan_height"], info["confidential"]) == (None, True)
    found = await balances(world, "old")
    assert found["confirmed_sats"] == 10_000_000 + DEPOSIT_SATS - fee
    await world.call("sendtoaddress", "old", await world.call("getnewaddress", "bob"), "0.05")
    await block(world)
    assert 5_000_000 < (await balances(world, "old"))["confirmed_sats"] < 6_000_000


async def test_wallet_when_words_are_wrong_then_refused_without_repeating_them(
    world: World,
) -> None:
    with pytest.raises(RpcError, match="BIP39") as refused:
        await world.call("restorewallet", "old", "abandon " * 12)
    assert "abandon" not in refused.value.message
    assert await world.call("listwallets") == []


async def test_sealed_wallet_when_asked_for_its_blinding_key_then_the_slip77_one(
    world: World,
) -> None:
    await world.call("restorewallet", "old", WORDS, "words")
    key = (await world.call("dumpblindingkey", "old"))["master_blinding_key"]
    assert FOREIGN.master_blinding_key is not None
    assert key == FOREIGN.master_blinding_key.value.hex()
    target = decode_address(await world.call("getnewaddress", "old"), world.params.prefixes)
    assert target.blinding_key == FOREIGN.blinding_public_key(target.script)
