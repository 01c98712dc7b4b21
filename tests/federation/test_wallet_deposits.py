"""Deposits of all kinds, as the wallet process shows them: stage, reason, what can be done."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from federation.log import open_log
from federation.wallet.links import MemberLinks
from federation.wallet.parts import Outside, Parts, assemble
from sidechain.api.registry import Registry, RpcError
from sidechain.crypto.hashes import sha256
from sidechain.primitives.address import decode_address
from sidechain.primitives.encoding import le32
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint
from sidechain.wallet.book import WalletBook
from tests.federation.wallet_world import (
    CSV,
    PEGIN_DEPTH,
    RESET_DEPTH,
    W_SWEEP,
    World,
    coins,
    parent_tx,
)

DEPOSIT_SATS = 700_000
LIMIT = CSV - W_SWEEP


@pytest.fixture
async def world(tmp_path: Path) -> Any:
    world = World(tmp_path)
    await world.call("createwallet", "alice")
    await world.turn()
    yield world
    world.close()


async def script_of(world: World, wallet: str = "alice") -> bytes:
    """The script of a fresh deposit address."""
    shown = await world.call("getpeginaddress", wallet)
    return decode_address(shown["address"], world.params.parent_prefixes).script


async def only(world: World) -> dict[str, Any]:
    """The only peg-in."""
    (view,) = await world.call("listpegins")
    found: dict[str, Any] = view
    return found


def claims(world: World) -> int:
    """How many claims final blocks hold."""
    chain = world.federation.signed.chain
    return sum(
        txin.is_pegin
        for height in range(1, chain.tip_height + 1)
        for tx in chain.block(height).transactions
        for txin in tx.inputs
    )


def paying(source: OutPoint, script: bytes, value_sats: int = DEPOSIT_SATS) -> bytes:
    """A Bitcoin transaction that spends a coin of the test's choice."""
    return parent_tx(source, [(value_sats, script)])


def coin_in_a_block(world: World) -> OutPoint:
    """A coin that exists on Bitcoin."""
    raw = parent_tx(OutPoint(sha256(b"origin"), 0), [(10**8, b"\x51")])
    txid = parse_parent_tx(raw).txid
    world.bitcoin.mempool[txid] = raw
    world.bitcoin.mine()
    return OutPoint(txid, 0)


def put(world: World, raw: bytes) -> bytes:
    """A transaction into bitcoind's mempool; its id."""
    txid = parse_parent_tx(raw).txid
    world.bitcoin.mempool[txid] = raw
    return txid


async def test_deposit_when_unconfirmed_then_says_what_it_waits_for(world: World) -> None:
    world.bitcoin.pay(await script_of(world), DEPOSIT_SATS)
    await world.turn()
    view = await only(world)
    assert (view["stage"], view["reason"]) == ("funded", "")
    assert "raise the fee" in view["next"]


async def test_deposit_when_replaced_in_the_mempool_then_the_replacement_is_its_own(
    world: World,
) -> None:
    script, coin = await script_of(world), coin_in_a_block(world)
    first = put(world, paying(coin, script))
    await world.turn()
    del world.bitcoin.mempool[first]
    put(world, paying(coin, script, DEPOSIT_SATS - 5_000))
    await world.turn()
    await world.turn()
    old, new = await world.call("listpegins")
    assert (old["stage"], old["reason"]) == (
        "conflicted",
        "another transaction in the mempool replaced it",
    )
    assert "listed by itself" in old["next"]
    assert (new["stage"], new["amount_sats"]) == ("funded", DEPOSIT_SATS - 5_000)
    await world.mine(PEGIN_DEPTH + 1)
    old, new = await world.call("listpegins")
    assert (old["stage"], new["stage"]) == ("conflicted", "final")
    assert old["reason"] == "a transaction in a block spent the same coins"
    assert claims(world) == 1


async def test_deposit_when_conflicted_and_bitcoin_reorganises_then_it_goes_on(
    world: World,
) -> None:
    script, coin = await script_of(world), coin_in_a_block(world)
    raw = paying(coin, script)
    txid = put(world, raw)
    await world.turn()
    del world.bitcoin.mempool[txid]
    put(world, paying(coin, b"\x51"))
    await world.mine(2)
    assert (await only(world))["stage"] == "conflicted"
    world.bitcoin.reorganise(2, keep_transactions=False)
    put(world, raw)
    await world.mine(PEGIN_DEPTH + 2)
    assert (await only(world))["stage"] == "final"


async def test_deposit_when_dropped_from_the_mempool_then_send_it_again(world: World) -> None:
    deposit = world.bitcoin.pay(await script_of(world), DEPOSIT_SATS)
    await world.turn()
    raw = world.bitcoin.mempool.pop(deposit.txid)
    await world.turn()
    view = await only(world)
    assert view["stage"] == "funded" and "does not hold it" in view["reason"]
    assert "send it again" in view["next"]
    world.bitcoin.mempool[deposit.txid] = raw
    await world.mine(PEGIN_DEPTH + 1)
    assert (await only(world))["stage"] == "final"


async def test_coinbase_deposit(world: World) -> None:
    """peg:14, peg:C2: it is claimed at a hundred confirmations."""
    world.bitcoin.mine_coinbase(await script_of(world), DEPOSIT_SATS)
    await world.mine(98)
    view = await only(world)
    assert (view["stage"], view["required"]) == ("confirming", 100)
    assert view["next"] == "wait for 1 more Bitcoin block"
    await world.mine(2)
    assert (await only(world))["stage"] == "final"


async def test_deposit_when_dust_then_lost_to_claims_and_what_remains_is_said(
    world: World,
) -> None:
    world.bitcoin.pay(await script_of(world), 19_999)
    await world.mine(PEGIN_DEPTH + 1)
    view = await only(world)
    assert view["stage"] == "failed"
    assert f"more than {LIMIT + RESET_DEPTH} Bitcoin blocks" in view["next"]
    assert "RETURN" in view["next"]


async def test_outputs_when_many_in_one_transaction_then_each_is_a_deposit(world: World) -> None:
    scripts = [await script_of(world) for _ in range(3)]
    amounts = [30_000, 19_000, 50_000]
    outputs = [*zip(amounts, scripts, strict=True), (9, b"\x51"), (60_000, scripts[0])]
    put(world, parent_tx(OutPoint(sha256(b"many"), 0), outputs))
    await world.turn()
    await world.mine(PEGIN_DEPTH + 1)
    views = {view["amount_sats"]: view["stage"] for view in await world.call("listpegins")}
    assert views == {30_000: "final", 19_000: "failed", 50_000: "final", 60_000: "final"}
    assert claims(world) == 3


async def locked_deposit(world: World) -> None:
    """A deposit that nobody claims: its wallet is locked."""
    await world.call("createwallet", "safe", "secret words")
    world.bitcoin.pay(await script_of(world, "safe"), DEPOSIT_SATS)
    await world.mine(1)


async def aged(world: World, age: int) -> dict[str, Any]:
    """The only peg-in when the committed block is so far above its deposit."""
    deposit_height = world.parts.store.pegins[0].deposit
    assert deposit_height is not None and deposit_height.height is not None
    wanted = deposit_height.height + age + 1  # the tip, with the commitment one below
    world.bitcoin.mine(wanted - world.bitcoin.height - 1)
    await world.mine(1)
    return await only(world)


async def test_claim_at_age_limit_plus_minus_1(world: World) -> None:
    """peg:14, C6, C9: the last block of claims, then waiting for RETURN, then RETURN."""
    await locked_deposit(world)
    view = await aged(world, LIMIT)
    assert (view["stage"], view["next"]) == ("claimable", "unlock the wallet: it signs the claim")
    view = await aged(world, LIMIT + 1)
    assert (view["stage"], view["reason"]) == (
        "failed",
        f"the deposit is {LIMIT + 1} blocks old, claims end at {LIMIT}",
    )
    assert view["next"].startswith(f"wait until it is more than {LIMIT + RESET_DEPTH} Bitcoin")
    view = await aged(world, LIMIT + RESET_DEPTH + 1)
    assert view["next"].startswith("ask the operators to return it (RETURN record); from 288")
    view = await aged(world, CSV)
    assert view["next"].endswith("the emergency keys can take it too")
    assert claims(world) == 0


async def test_emergency_holders_mint_attempt(world: World) -> None:
    """peg:14, C7: who takes a deposit with the emergency keys gets nothing minted for it."""
    await locked_deposit(world)
    deposit = world.parts.store.pegins[0].deposit
    assert deposit is not None
    put(world, paying(deposit.outpoint, b"\x51"))
    await world.mine(PEGIN_DEPTH)
    view = await only(world)
    assert (view["stage"], view["reason"]) == (
        "failed",
        "the deposit is spent on Bitcoin, and was never claimed",
    )
    await world.call("walletpassphrase", "safe", "secret words", 1_000)
    await world.mine(2)
    assert claims(world) == 0 and not world.book.pending()


async def test_deposit_when_the_federation_spent_what_was_claimed_then_not_shown_as_lost(
    world: World,
) -> None:
    world.bitcoin.pay(await script_of(world), DEPOSIT_SATS)
    await world.mine(PEGIN_DEPTH)
    deposit = world.parts.store.pegins[0].deposit
    assert deposit is not None
    world.federation.make_block()  # the claim is final; this process has not read it yet
    put(world, paying(deposit.outpoint, b"\x51"))
    world.bitcoin.mine()
    world.federation.commit()
    while not await world.parts.follow_parent():
        pass
    assert (await only(world))["stage"] != "failed"
    await world.turn()
    assert (await only(world))["stage"] == "final"


async def test_deposit_when_its_script_is_replaced_then_claimed_while_valid(world: World) -> None:
    """peg:C10: an earlier script counts as long as the sidechain lists it."""
    own = world.params.fedpegscript.hex()
    world.bitcoin.pay(await script_of(world), DEPOSIT_SATS)
    await world.mine(2)
    assert (await only(world))["warning"] == ""
    epochs = world.params.total_valid_epochs
    world.federation.fedpegscript_hex = "51"
    for older, words in (
        (("51",) * (epochs - 4) + (own,), ""),
        (("51",) * (epochs - 3) + (own,), "end at the end of the next epoch"),
        (("51",) * (epochs - 2) + (own,), "end at the end of this epoch"),
    ):
        world.federation.older_scripts = older
        await world.turn()
        warning = (await only(world))["warning"]
        assert warning.endswith(words) and bool(warning) is bool(words)
    await world.mine(PEGIN_DEPTH)
    view = await only(world)
    assert (view["stage"], view["warning"]) == ("final", "")


async def test_deposit_when_its_script_expired_then_lost_until_it_is_restored(
    world: World,
) -> None:
    world.bitcoin.pay(await script_of(world), DEPOSIT_SATS)
    await world.mine(2)
    world.federation.fedpegscript_hex = "51"
    await world.mine(PEGIN_DEPTH)
    view = await only(world)
    assert view["stage"] == "failed" and "no longer valid" in view["reason"]
    assert "restores the script" in view["next"]
    world.federation.fedpegscript_hex = ""
    await world.mine(2)
    assert (await only(world))["stage"] == "final"


@pytest.mark.parametrize("depth", range(1, PEGIN_DEPTH + 3))
@pytest.mark.parametrize("returns", [True, False])
async def test_deposit_when_bitcoin_reorganises_at_any_depth_then_claimed_once_or_shown(
    world: World, depth: int, returns: bool
) -> None:
    """peg:6: the same outpoint, once, wherever it comes back."""
    await world.call("createwallet", "safe", "secret words")
    pad = max(0, depth - PEGIN_DEPTH)
    await world.mine(pad)
    deposit = world.bitcoin.pay(await script_of(world, "safe"), DEPOSIT_SATS)
    raw = world.bitcoin.mempool[deposit.txid]
    await world.mine(min(depth, PEGIN_DEPTH))
    assert (await only(world))["stage"] == ("claimable" if depth >= PEGIN_DEPTH else "confirming")
    world.bitcoin.reorganise(depth, keep_transactions=False)
    world.bitcoin.mine(depth + 1)
    if returns:
        world.bitcoin.mempool[deposit.txid] = raw
    await world.turn()
    view = await only(world)
    assert view["stage"] == "funded" and view["confirmations"] == 0
    assert ("send it again" in view["next"]) is not returns
    await world.call("walletpassphrase", "safe", "secret words", 1_000)
    await world.mine(PEGIN_DEPTH + 1)
    assert (await only(world))["stage"] == ("final" if returns else "funded")
    assert claims(world) == int(returns)


@pytest.mark.slow
async def test_pegin_when_killed_between_all_steps_then_one_deposit_one_claim(
    world: World,
) -> None:
    """SIGKILL in every stage: nothing but the store is left each time."""
    made = await world.call("pegin", "alice", coins(DEPOSIT_SATS))
    seen: list[str] = []
    for step in range(2 * PEGIN_DEPTH + 4):
        world.crash()
        if step % 2:
            world.bitcoin.mine()
            world.federation.commit()
            world.federation.make_block()
        world.now_ms += 5_000
        while not await world.parts.follow_chain():
            pass
        stage = (await world.call("getpegin", made["id"]))["stage"]
        world.crash()
        while not await world.parts.follow_parent():
            pass
        seen += [stage, (await world.call("getpegin", made["id"]))["stage"]]
    assert set(seen) >= {"address", "funded", "confirming", "claim_sent", "final"}
    assert claims(world) == 1 and len(world.faucet.made) == 1


async def test_address_when_the_wallet_is_far_behind_then_not_shown(world: World) -> None:
    """peg:4: none while syncing."""
    for _ in range(11):
        world.federation.make_block()
    with pytest.raises(RpcError, match="catching up with the sidechain"):
        await world.call("getpeginaddress", "alice")
    with pytest.raises(RpcError, match="catching up with the sidechain"):
        await world.call("getkeylessaddress", "alice")
    await world.turn()
    assert (await world.call("getpeginaddress", "alice"))["claim_before_height"] == 300


@dataclass(slots=True)
class Rival:
    """A second process with the same keys, over a copy of the store."""

    parts: Parts
    book: WalletBook
    registry: Registry

    async def turn(self) -> None:
        """One turn of both loops."""
        while not await self.parts.follow_chain():
            pass
        while not await self.parts.follow_parent():
            pass


@pytest.fixture
def rivals() -> Iterator[list[Rival]]:
    made: list[Rival] = []
    yield made
    for rival in made:
        rival.book.close()


def rival_of(world: World) -> Rival:
    """Copy the store and open a process over the copy."""
    world.close()
    shutil.copytree(world.path / "wallets", world.path / "copy")
    world.start()
    book = WalletBook.open(world.path / "copy", world.params)
    outside = Outside(
        members=MemberLinks(world.members),
        parent=world.bitcoin,
        funding=world.faucet,
        log=open_log("rival").logger,
        unix_time_s=lambda: world.federation.now_s,
        monotonic_ms=lambda: world.now_ms,
        entropy=lambda count: (sha256(b"rival" + le32(next(world.drawn))) * 2)[:count],
        on_peg_work=lambda: None,
    )
    parts = assemble(book, world.params, outside)
    registry = Registry()
    parts.methods.register(registry)
    return Rival(parts, book, registry)


async def test_two_wallets_when_they_race_for_one_deposit_then_one_claim_and_both_see_it(
    world: World, rivals: list[Rival]
) -> None:
    script = await script_of(world)
    rival = rival_of(world)
    rivals.append(rival)
    world.bitcoin.pay(script, DEPOSIT_SATS)
    world.bitcoin.mine(PEGIN_DEPTH)
    world.federation.commit()
    await world.turn()
    await rival.turn()
    (mine,), (theirs,) = world.book.pending(), rival.book.pending()
    assert mine.txid != theirs.txid  # blinded by other entropy
    assert [tx.txid for tx in world.federation.signed.chain.mempool.transactions()] == [mine.txid]
    world.federation.make_block()
    await rival.turn()
    await world.turn()
    ours = await only(world)
    (view,) = await rival.registry.call("listpegins", [])
    assert (ours["stage"], view["stage"]) == ("final", "final")
    assert ours["claim_txid"] == view["claim_txid"] == mine.txid[::-1].hex()
    assert not rival.book.pending() and claims(world) == 1
