"""The wallet process over members and a Bitcoin in memory: pegs, crashes, reorganisations."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidechain.api.registry import RpcError
from sidechain.primitives.address import decode_address
from sidechain.wallet.book import WalletBook
from sidechain.wallet.keys import Branch
from tests.federation.wallet_world import (
    COMMIT_DEPTH,
    CSV,
    PEGIN_DEPTH,
    W_SWEEP,
    Crash,
    World,
    coins,
)

BTC_ADDRESS = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"
DEPOSIT_SATS = 1_000_000


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.call("createwallet", "alice")
    await made.turn()
    yield made
    made.close()
    made.federation.signed.chain.close()


async def start_pegin(world: World, amount_sats: int = DEPOSIT_SATS) -> str:
    made = await world.call("pegin", "alice", coins(amount_sats))
    await world.turn()
    return str(made["id"])


async def stage(world: World, pegin: str) -> str:
    return str((await world.call("getpegin", pegin))["stage"])


async def balances(world: World, name: str = "alice") -> dict[str, Any]:
    found: dict[str, Any] = await world.call("getbalances", name)
    return found


def claims_on_chain(world: World) -> int:
    chain = world.federation.signed.chain
    return sum(
        txin.is_pegin
        for height in range(chain.tip_height + 1)
        for tx in chain.block(height).transactions
        for txin in tx.inputs
    )


# ---- peg-in ----


async def test_pegin_when_mined_to_depth_then_claimed_once_with_all_stages(world: World) -> None:
    made = await world.call("pegin", "alice", coins(DEPOSIT_SATS))
    assert (made["stage"], made["resumed"]) == ("address", False)
    stages = ["address"]
    for _ in range(PEGIN_DEPTH + 3):
        view = await world.call("getpegin", made["id"])
        if view["stage"] != stages[-1]:
            stages.append(view["stage"])
        if stages == ["address"]:
            await world.turn()
        else:
            await world.mine(1)
    assert stages == ["address", "funded", "confirming", "claim_sent", "final"]
    assert claims_on_chain(world) == 1
    view = await world.call("getpegin", made["id"])
    assert view["required"] == PEGIN_DEPTH and view["confirmations"] >= PEGIN_DEPTH
    fee = DEPOSIT_SATS - (await balances(world))["confirmed_sats"]
    assert 0 < fee < 200
    (entry,) = await world.call("listtransactions", "alice")
    assert (entry["category"], entry["fee_sats"]) == ("pegin", fee)
    assert entry["txid"] == view["claim_txid"]


async def test_pegin_when_one_block_short_of_depth_then_no_claim_leaves(world: World) -> None:
    pegin = await start_pegin(world)
    await world.mine(PEGIN_DEPTH - 1)
    assert await stage(world, pegin) == "confirming"
    assert world.book.pending() == []
    await world.mine(1)
    assert await stage(world, pegin) == "claim_sent"


async def test_pegin_when_called_again_then_resumed_and_funded_once(world: World) -> None:
    pegin = await start_pegin(world)
    again = await world.call("pegin", "alice", coins(DEPOSIT_SATS))
    assert (again["id"], again["resumed"]) == (pegin, True)
    await world.mine(PEGIN_DEPTH + 1)
    again = await world.call("pegin", "alice", coins(DEPOSIT_SATS))
    assert (again["id"], again["stage"]) == (pegin, "final")
    assert len(world.faucet.made) == 1
    await world.call("getpegin", pegin)
    fresh = await world.call("pegin", "alice", coins(DEPOSIT_SATS))
    assert fresh["id"] != pegin and not fresh["resumed"]


async def test_pegin_when_new_is_asked_or_amount_differs_then_another_one(world: World) -> None:
    first = await start_pegin(world)
    second = await world.call("pegin", "alice", coins(DEPOSIT_SATS), True)
    third = await world.call("pegin", "alice", coins(DEPOSIT_SATS + 1))
    assert len({first, second["id"], third["id"]}) == 3
    await world.turn()
    await world.mine(PEGIN_DEPTH + 1)
    assert [view["stage"] for view in await world.call("listpegins")] == ["final"] * 3
    assert claims_on_chain(world) == 3


async def test_address_when_anybody_pays_it_then_appears_and_is_claimed(world: World) -> None:
    shown = await world.call("getpeginaddress", "alice")
    assert shown["min_pegin_sats"] == 20_000
    assert shown["claim_within_blocks"] == CSV - W_SWEEP
    assert (await world.call("getpegin", shown["address"]))["stage"] == "address"
    assert await world.call("listpegins") == []
    script = decode_address(shown["address"], world.params.parent_prefixes).script
    first = world.bitcoin.pay(script, 70_000)
    await world.turn()
    world.bitcoin.pay(script, 90_000)
    await world.mine(1)
    views = await world.call("listpegins")
    assert sorted(view["amount_sats"] for view in views) == [70_000, 90_000]
    assert {view["address"] for view in views} == {shown["address"]}
    name = f"{first.txid[::-1].hex()}:1"
    assert (await world.call("getpegin", name))["amount_sats"] == 70_000
    await world.mine(PEGIN_DEPTH)
    assert {view["stage"] for view in await world.call("listpegins")} == {"final"}
    assert claims_on_chain(world) == 2


async def test_deposits_when_in_two_transactions_of_one_block_then_both_recorded(
    world: World,
) -> None:
    shown = await world.call("getpeginaddress", "alice")
    script = decode_address(shown["address"], world.params.parent_prefixes).script
    world.bitcoin.pay(script, 70_000)
    world.bitcoin.pay(script, 90_000)
    await world.mine(1)
    views = await world.call("listpegins")
    assert len({view["id"] for view in views}) == len(views) == 2


async def test_deposit_when_made_while_the_process_was_down_then_found(world: World) -> None:
    shown = await world.call("getpeginaddress", "alice")
    script = decode_address(shown["address"], world.params.parent_prefixes).script
    world.close()
    world.bitcoin.pay(script, 70_000)
    world.bitcoin.mine(PEGIN_DEPTH)
    world.start()
    await world.mine(2)
    assert [view["stage"] for view in await world.call("listpegins")] == ["final"]


async def test_coinbase_deposit_when_young_then_waits_for_a_hundred_blocks(world: World) -> None:
    shown = await world.call("getpeginaddress", "alice")
    script = decode_address(shown["address"], world.params.parent_prefixes).script
    world.bitcoin.mine_coinbase(script, 70_000)
    await world.mine(PEGIN_DEPTH + 1)
    (view,) = await world.call("listpegins")
    assert (view["stage"], view["required"]) == ("confirming", 100)


async def test_deposit_when_below_the_minimum_then_failed_with_the_reason(world: World) -> None:
    shown = await world.call("getpeginaddress", "alice")
    script = decode_address(shown["address"], world.params.parent_prefixes).script
    world.bitcoin.pay(script, 19_999)
    await world.mine(PEGIN_DEPTH + 1)
    (view,) = await world.call("listpegins")
    assert view["stage"] == "failed" and "minimum" in view["reason"]
    assert claims_on_chain(world) == 0


async def test_deposit_when_too_old_then_failed_and_not_claimed(world: World) -> None:
    await world.call("createwallet", "locked", "secret words")
    shown = await world.call("getpeginaddress", "locked")
    script = decode_address(shown["address"], world.params.parent_prefixes).script
    world.bitcoin.pay(script, 70_000)
    await world.mine(1)
    world.bitcoin.mine(CSV - W_SWEEP + COMMIT_DEPTH)
    await world.mine(1)
    (view,) = await world.call("listpegins")
    assert view["stage"] == "failed" and "claims end" in view["reason"]


@pytest.mark.parametrize("keep_transactions", [True, False])
async def test_deposit_when_reorganised_to_another_block_then_claim_has_the_new_proof(
    world: World, keep_transactions: bool
) -> None:
    pegin = await start_pegin(world)
    await world.mine(3)
    assert await stage(world, pegin) == "confirming"
    world.bitcoin.reorganise(3, keep_transactions=keep_transactions)
    world.bitcoin.mine(4, with_mempool=False)
    await world.turn()
    assert await stage(world, pegin) == "funded"
    await world.mine(PEGIN_DEPTH + 1)
    assert await stage(world, pegin) == "final"
    assert claims_on_chain(world) == 1 and len(world.faucet.made) == 1


async def test_claim_when_locked_and_its_deposit_moves_then_same_claim_with_new_proof(
    world: World,
) -> None:
    await world.call("createwallet", "safe", "secret words")
    await world.call("walletpassphrase", "safe", "secret words", 1_000)
    made = await world.call("pegin", "safe", coins(DEPOSIT_SATS))
    await world.turn()
    for member in world.members:
        member.refuse_with = "mempool full"
    await world.mine(PEGIN_DEPTH + 1)
    (recorded,) = world.book.pending()
    await world.call("walletlock", "safe")
    world.bitcoin.reorganise(PEGIN_DEPTH + 1)
    world.bitcoin.mine(1, with_mempool=False)
    await world.mine(PEGIN_DEPTH)
    for member in world.members:
        member.refuse_with = ""
    await world.mine(2)
    assert await stage(world, made["id"]) == "final"
    found = world.federation.signed.chain.find_transaction(recorded.txid)
    assert found is not None
    assert found[0].input_witnesses[0].pegin[5] != recorded.input_witnesses[0].pegin[5]
    assert found[0].input_witnesses[0].script == recorded.input_witnesses[0].script


async def test_claim_when_a_member_holds_it_with_the_old_proof_then_replaced_by_fee(
    world: World,
) -> None:
    pegin = await start_pegin(world)
    await world.mine(PEGIN_DEPTH)
    (stale,) = world.federation.signed.chain.mempool.transactions()
    world.bitcoin.reorganise(PEGIN_DEPTH)
    for _ in range(PEGIN_DEPTH + 1):
        world.bitcoin.mine()
        world.federation.commit()
        await world.turn()
    await world.turn()
    (held,) = world.federation.signed.chain.mempool.transactions()
    assert held.txid != stale.txid
    assert [tx.txid for tx in world.book.pending()] == [held.txid]
    world.federation.make_block()
    await world.turn()
    assert await stage(world, pegin) == "final"
    assert claims_on_chain(world) == 1


async def test_claim_when_it_gets_final_while_the_rate_is_asked_then_not_made_again(
    world: World,
) -> None:
    made = await world.call("pegin", "alice", coins(DEPOSIT_SATS))
    await world.turn()
    await world.mine(PEGIN_DEPTH)

    async def block_is_final() -> None:
        world.federation.make_block()
        await world.parts.follow_chain()

    for member in world.members:
        member.meanwhile["getmempoolinfo"] = block_is_final
    await world.turn()
    assert (await world.call("getpegin", made["id"]))["stage"] == "final"
    assert world.book.pending() == []
    assert len(await world.call("listtransactions", "alice")) == 1


async def test_claim_when_committed_block_is_on_another_branch_then_waits(world: World) -> None:
    pegin = await start_pegin(world)
    await world.mine(PEGIN_DEPTH - 1)
    world.federation.committed = (world.bitcoin.height, b"\x11" * 32)
    world.bitcoin.mine(3)
    await world.turn()
    view = await world.call("getpegin", pegin)
    assert view["stage"] == "confirming" and "reorganisation" in view["reason"]


async def test_pegin_when_deposits_are_closed_then_refused_with_the_reason(world: World) -> None:
    world.federation.deposits_open = False
    for call in (("getpeginaddress", "alice"), ("pegin", "alice", coins(DEPOSIT_SATS))):
        with pytest.raises(RpcError, match="not yet open"):
            await world.call(*call)
    world.federation.deposits_open = True
    world.federation.fedpegscript_hex = "51"
    with pytest.raises(RpcError, match="does not know"):
        await world.call("getpeginaddress", "alice")
    assert world.book.wallet("alice").issued(Branch.CLAIM) == 0


async def test_pegin_when_faucet_is_empty_then_says_so_and_goes_on_later(world: World) -> None:
    world.faucet.fail_with = "Insufficient funds"
    pegin = await start_pegin(world)
    view = await world.call("getpegin", pegin)
    assert view["stage"] == "address" and "Insufficient funds" in view["reason"]
    world.faucet.fail_with = ""
    await world.turn()
    assert await stage(world, pegin) == "funded"


async def test_pegin_when_funding_coin_was_spent_otherwise_then_funded_again(
    world: World,
) -> None:
    world.bitcoin.refuse_with = "bad-txns-inputs-missingorspent"
    pegin = await start_pegin(world)
    for _ in range(3):
        await world.turn()
    # Missing is not spent: as long as the coin may come back there is no second funding.
    assert len(world.faucet.made) == 1
    world.bitcoin.spent_coins.add(world.faucet.coin(0).txid)
    await world.turn()
    assert await stage(world, pegin) == "address"
    world.bitcoin.refuse_with = ""
    await world.turn()
    assert len(world.faucet.made) == 2
    await world.mine(PEGIN_DEPTH + 1)
    assert await stage(world, pegin) == "final"


async def test_locked_wallet_when_deposit_is_ripe_then_waits_for_the_passphrase(
    world: World,
) -> None:
    await world.call("createwallet", "safe", "secret words")
    made = await world.call("pegin", "safe", coins(DEPOSIT_SATS))
    await world.turn()
    await world.mine(PEGIN_DEPTH + 1)
    view = await world.call("getpegin", made["id"])
    assert view["stage"] == "claimable" and "locked" in view["reason"]
    with pytest.raises(RpcError) as refused:
        await world.call("walletpassphrase", "safe", "secret word", 60)
    assert refused.value.code == -14
    await world.call("walletpassphrase", "safe", "secret words", 60)
    await world.mine(1)
    await world.mine(1)
    assert await stage(world, made["id"]) == "final"
    world.now_ms += 100_000
    assert (await world.call("getwalletinfo", "safe"))["locked"]
    with pytest.raises(RpcError) as refused:
        await world.call(
            "sendtoaddress", "safe", await world.call("getnewaddress", "safe"), "0.001"
        )
    assert refused.value.code == -13


# ---- crashes ----


@pytest.mark.parametrize(
    "point", ["funding signed", "funding recorded", "claim recorded", "claim sent"]
)
async def test_pegin_when_killed_anywhere_then_one_deposit_reaches_one_claim(
    world: World, point: str
) -> None:
    world.faucet.crash_after = point == "funding signed"
    world.bitcoin.crash_before_send = point == "funding recorded"
    made = await world.call("pegin", "alice", coins(DEPOSIT_SATS))
    if point.startswith("funding"):
        with pytest.raises(Crash):
            await world.turn()
        world.crash()
    else:
        await world.turn()
    for member in world.members:
        member.crash_before_send = point == "claim recorded"
        member.crash_after_send = point == "claim sent"
    if point.startswith("claim"):
        with pytest.raises(Crash):
            await world.mine(PEGIN_DEPTH + 1)
        world.crash()
    again = await world.call("pegin", "alice", coins(DEPOSIT_SATS))
    assert (again["id"], again["resumed"]) == (made["id"], True)
    await world.turn()
    await world.mine(PEGIN_DEPTH + 2)
    assert await stage(world, made["id"]) == "final"
    assert claims_on_chain(world) == 1
    assert len(world.bitcoin.sent) == 1


@pytest.mark.parametrize("when", ["before", "after"])
async def test_pegout_when_killed_at_the_send_then_the_same_burn_goes_out(
    world: World, when: str
) -> None:
    await world.rich_wallet("bob")
    for member in world.members:
        member.crash_before_send = when == "before"
        member.crash_after_send = when == "after"
    with pytest.raises(Crash):
        await world.call("pegout", "bob", BTC_ADDRESS, "0.1")
    (recorded,) = world.book.pending()
    world.crash()
    again = await world.call("pegout", "bob", BTC_ADDRESS, "0.1")
    assert again["resumed"] and again["burn"] == f"{recorded.txid[::-1].hex()}:0"
    await world.turn()
    world.federation.make_block()
    await world.turn()
    assert (await world.call("getpegout", again["id"]))["height"] is not None
    assert len(await world.call("listpegouts")) == 1


async def test_payment_when_killed_before_the_send_then_sent_after_the_restart(
    world: World,
) -> None:
    await world.rich_wallet("bob")
    target = await world.call("getnewaddress", "alice")
    for member in world.members:
        member.crash_before_send = True
    with pytest.raises(Crash):
        await world.call("sendtoaddress", "bob", target, "0.1")
    world.crash()
    await world.turn()
    world.federation.make_block()
    await world.turn()
    assert (await balances(world))["confirmed_sats"] == 10_000_000


# ---- peg-out and payments ----


async def test_pegout_when_burned_then_stages_follow_the_member(world: World) -> None:
    await world.rich_wallet("bob")
    made = await world.call("pegout", "bob", BTC_ADDRESS, "0.4")
    assert (made["stage"], made["resumed"], made["payout_sats"]) == ("sent", False, 39_997_500)
    world.federation.make_block()
    await world.turn()
    assert (await world.call("getpegout", made["id"]))["stage"] == "final"
    for status in ("RELEASED", "BATCHED", "CONFIRMED"):
        world.federation.pegouts[made["burn"]] = {"status": status}
        again = await world.call("pegout", "bob", BTC_ADDRESS, "0.4")
        assert (again["id"], again["stage"], again["resumed"]) == (made["id"], status, True)
    assert (await world.call("getpegout", made["burn"]))["done"]
    fresh = await world.call("pegout", "bob", BTC_ADDRESS, "0.05")
    assert fresh["id"] != made["id"]
    categories = [entry["category"] for entry in await world.call("listtransactions", "bob")]
    assert categories == ["pegin", "pegout", "pegout"]


async def test_pegout_when_held_or_ineligible_then_the_reason_is_shown(world: World) -> None:
    await world.rich_wallet("bob")
    made = await world.call("pegout", "bob", BTC_ADDRESS, "0.1")
    world.federation.make_block()
    await world.turn()
    answers = world.federation.pegouts
    answers[made["burn"]] = {"status": "READY(1, 0)", "reasons": ["PAUSED", "FEE_POOL_LOW"]}
    view = await world.call("getpegout", made["id"])
    assert (view["stage"], view["reason"]) == ("READY(1, 0)", "PAUSED, FEE_POOL_LOW")
    assert not view["done"]
    answers[made["burn"]] = {"status": "E3_SCRIPT"}
    view = await world.call("getpegout", made["id"])
    assert view["stage"] == "failed" and "E3_SCRIPT" in view["reason"] and view["done"]


@pytest.mark.parametrize(
    ("address", "amount", "text"),
    [
        (BTC_ADDRESS, "0.0001", "E4_MIN"),
        (BTC_ADDRESS, "1.00000001", "HELD_OVERSIZE"),
        (BTC_ADDRESS, "0.9", "not enough coins: 4999"),
        (BTC_ADDRESS, "0", "Invalid amount"),
        ("ert1qw508d6qejxtdg4y5r3zarvary0c5xw7kuu73e0", "0.1", "expected bcrt"),
        ("bcrt1qnonsense", "0.1", "[Ii]nvalid"),
        ("", "0.1", "[Ii]nvalid"),
    ],
)
async def test_pegout_when_it_cannot_be_paid_then_refused_and_nothing_recorded(
    world: World, address: str, amount: str, text: str
) -> None:
    await world.rich_wallet("bob")
    with pytest.raises(RpcError, match=text):
        await world.call("pegout", "bob", address, amount)
    assert await world.call("listpegouts") == []
    assert world.book.pending() == []


async def test_pegout_when_every_member_refuses_then_failed_and_coins_are_free(
    world: World,
) -> None:
    await world.rich_wallet("bob")
    before = await balances(world, "bob")
    for member in world.members:
        member.refuse_with = "scriptpubkey"
    with pytest.raises(RpcError, match="scriptpubkey"):
        await world.call("pegout", "bob", BTC_ADDRESS, "0.1")
    (view,) = await world.call("listpegouts")
    assert (view["stage"], view["reason"], view["done"]) == ("failed", "scriptpubkey", True)
    assert (await balances(world, "bob"))["available_sats"] == before["available_sats"]


async def test_payment_when_refusal_may_pass_then_kept_and_sent_later(world: World) -> None:
    await world.rich_wallet("bob")
    for member in world.members:
        member.refuse_with = "mempool full"
    target = await world.call("getnewaddress", "alice")
    txid = await world.call("sendtoaddress", "bob", target, "0.1")
    assert [tx.txid[::-1].hex() for tx in world.book.pending()] == [txid]
    for member in world.members:
        member.refuse_with = ""
    await world.turn()
    assert (await balances(world))["pending_in_sats"] == 10_000_000
    world.federation.make_block()
    await world.turn()
    assert (await balances(world))["confirmed_sats"] == 10_000_000


async def test_payment_when_made_by_another_process_then_seen_in_the_mempool(
    world: World, tmp_path: Path
) -> None:
    await world.rich_wallet("bob")
    target = await world.call("getnewaddress", "alice")
    await world.call("sendtoaddress", "bob", target, "0.1")
    (payment,) = world.book.pending()
    world.book.abandon(payment.txid)
    await world.turn()
    assert (await balances(world))["pending_in_sats"] == 10_000_000


# ---- members, names, processes ----


async def test_members_when_the_current_one_dies_then_another_answers(world: World) -> None:
    pegin = await start_pegin(world)
    for step in range(PEGIN_DEPTH + 2):
        for index, member in enumerate(world.members):
            member.is_down = index != step % 3
        await world.mine(1)
    assert await stage(world, pegin) == "final"


async def test_members_when_none_answers_then_the_reason_is_told(world: World) -> None:
    for member in world.members:
        member.is_down = True
    with pytest.raises(RpcError, match="no member of the federation answers"):
        await world.call("pegin", "alice", coins(DEPOSIT_SATS))
    assert (await balances(world))["confirmed_sats"] == 0


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (("getbalances", "nobody"), -18),
        (("createwallet", "alice"), -4),
        (("createwallet", "a/b"), -8),
        (("getpegin", "in-77"), -8),
        (("getpegout", "out-77"), -8),
        (("pegin", "alice", "0.00001"), -8),
        (("pegin", "alice", "-1"), -3),
        (("pegin", "alice", "one"), -3),
        (("sendtoaddress", "alice", "ert1qw508d6qejxtdg4y5r3zarvary0c5xw7kuu73e0", "1"), -6),
        (("sendtoaddress", "alice", BTC_ADDRESS, "1"), -5),
        (("walletpassphrase", "alice", "x", 10), -4),
        (("listtransactions", "alice", 0), -8),
    ],
)
async def test_call_when_arguments_are_wrong_then_refused_with_its_code(
    world: World, call: tuple[Any, ...], code: int
) -> None:
    with pytest.raises(RpcError) as refused:
        await world.call(*call)
    assert refused.value.code == code


async def test_store_when_process_restarts_then_addresses_and_wallets_are_kept(
    world: World,
) -> None:
    await world.rich_wallet("bob")
    shown = await world.call("getpeginaddress", "alice")
    before = await world.call("listpegins"), await balances(world, "bob")
    world.crash()
    await world.turn()
    assert (await world.call("listpegins"), await balances(world, "bob")) == before
    assert (await world.call("getpegin", shown["address"]))["address"] == shown["address"]
    assert await world.call("listwallets") == ["alice", "bob"]


async def test_log_when_read_then_holds_no_secret(world: World) -> None:
    await world.call("createwallet", "safe", "secret words")
    await world.call("walletpassphrase", "safe", "secret words", 60)
    await world.rich_wallet("bob")
    text = (world.path / "log.jsonl").read_text()
    assert "deposit_seen" in text and "secret words" not in text
    assert isinstance(world.book, WalletBook)
    seed = world.book.wallet("bob").record.stored_seed[1:]
    assert seed.hex() not in text
