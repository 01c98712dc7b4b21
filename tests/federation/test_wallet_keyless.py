"""Keyless addresses in the wallet process: made, told, shown; members claim, it only watches."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidechain.api.registry import RpcError
from sidechain.primitives.address import decode_address, encode_address
from sidechain.primitives.transaction import OutPoint
from sidechain.wallet.claim import ClaimableDeposit
from sidechain.wallet.covenant import build_covenant_claim
from tests.federation.wallet_world import PEGIN_DEPTH, World

DEPOSIT_SATS = 1_000_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


async def keyless(world: World, to: str = "alice", *words: Any) -> dict[str, Any]:
    """A keyless address; the wallet is made when there is none."""
    if to == "alice" and "alice" not in await world.call("listwallets"):
        await world.call("createwallet", "alice")
        await world.turn()
    found: dict[str, Any] = await world.call("getkeylessaddress", to, *words)
    return found


def paid(world: World, found: dict[str, Any], value_sats: int = DEPOSIT_SATS) -> OutPoint:
    """Somebody pays the address."""
    script = decode_address(found["address"], world.params.parent_prefixes).script
    return world.bitcoin.pay(script, value_sats)


def member_claims(world: World, found: dict[str, Any]) -> bytes:
    """A member claims the only deposit to an address and makes a block; the claim's id."""
    target = next(t for t in world.parts.store.addresses() if t.address == found["address"])
    (pegin,) = (p for p in world.parts.store.pegins if p.target == target)
    deposit, terms = pegin.deposit, target.covenant
    assert deposit is not None and terms is not None
    claimable = ClaimableDeposit(
        outpoint=deposit.outpoint,
        value_sats=deposit.value_sats,
        claim_script=target.claim_script,
        parent_tx=deposit.tx,
        proof=deposit.proof,
    )
    claim = build_covenant_claim(claimable, terms, world.params, rate_sats_per_kvb=1_000)
    federation = world.federation
    federation.signed.chain.submit_tx(claim, world.bitcoin, federation.now_s)
    federation.make_block()
    return claim.txid


async def refusal(world: World, method: str, *words: Any) -> str:
    with pytest.raises(RpcError) as refused:
        await world.call(method, *words)
    return refused.value.message


async def test_address_when_made_then_all_members_know_it_and_its_price_is_shown(
    world: World,
) -> None:
    found = await keyless(world)
    assert found["max_fee_sats"] == 2_000 and found["members"] == 3 and found["unblinded"]
    assert (found["min_pegin_sats"], found["required_confirmations"]) == (20_000, PEGIN_DEPTH)
    assert (found["claim_within_blocks"], found["claim_before_height"]) == (216, 300)
    assert found["address"].startswith("bcrt1q") and len(world.federation.covenants) == 1
    (view,) = await world.call("listpegins")
    assert (view["stage"], view["max_fee_sats"]) == ("address", 2_000)
    other = await keyless(world)
    assert other["program"] != found["program"]


async def test_deposit_when_claimed_by_a_member_then_the_wallet_has_it_and_claimed_nothing(
    world: World,
) -> None:
    found = await keyless(world)
    deposit = paid(world, found)
    await world.turn()
    (view,) = await world.call("listpegins")
    assert view["stage"] == "funded"
    await world.mine(2)
    (view,) = await world.call("listpegins")
    assert (view["stage"], view["next"]) == ("confirming", "wait for 4 more Bitcoin blocks")
    await world.mine(PEGIN_DEPTH - 2)
    (view,) = await world.call("listpegins")
    assert (view["stage"], view["next"]) == ("claimable", "wait: the members claim it in turn")
    assert not any("sendrawtransaction" in member.calls for member in world.members)
    for member in world.members:
        shown = f"{deposit.txid[::-1].hex()}:{deposit.index}"
        member.covenant_deposits = [
            {"deposit": shown, "stage": "claim_sent", "reason": "", "claim_txid": "ab"}
        ]
    await world.turn()
    (view,) = await world.call("listpegins")
    assert (view["stage"], view["claim_txid"]) == ("claim_sent", "ab")
    txid = member_claims(world, found)
    await world.turn()
    (view,) = await world.call("listpegins")
    assert (view["stage"], view["claim_txid"]) == ("final", txid[::-1].hex())
    balances = await world.call("getbalances", "alice")
    assert DEPOSIT_SATS - 2_000 <= balances["confirmed_sats"] < DEPOSIT_SATS


async def test_wallet_when_not_running_meanwhile_then_it_finds_its_coins(world: World) -> None:
    found = await keyless(world)
    paid(world, found)
    await world.turn()
    world.close()
    for _ in range(PEGIN_DEPTH):
        world.bitcoin.mine()
        world.federation.commit()
        world.federation.make_block()
    world.start()
    await world.turn()
    member_claims(world, found)
    world.crash()
    await world.turn()
    (view,) = await world.call("listpegins")
    assert view["stage"] == "final"


async def test_address_when_for_somebody_elses_address_then_one_for_the_same_words(
    world: World,
) -> None:
    await world.call("createwallet", "bob")
    await world.turn()
    hidden = await world.call("getnewaddress", "bob")
    first, second = [await keyless(world, hidden) for _ in range(2)]
    assert first["address"] == second["address"]
    plain = decode_address(hidden, world.params.prefixes)
    explicit = encode_address(plain.script, world.params.prefixes)
    assert (await keyless(world, explicit))["address"] == first["address"]
    assert (await keyless(world, hidden, 3_000))["address"] != first["address"]


async def test_registration_when_members_lost_it_then_told_again(world: World) -> None:
    found = await keyless(world)
    world.federation.covenants.clear()
    again = await world.call("registerkeyless", found["address"])
    assert again["address"] == found["address"] and len(world.federation.covenants) == 1


async def test_registration_when_a_member_forgot_a_ripe_one_then_told_by_itself(
    world: World,
) -> None:
    found = await keyless(world)
    paid(world, found)
    await world.turn()
    world.federation.covenants.clear()
    await world.mine(PEGIN_DEPTH)
    assert len(world.federation.covenants) == 1
    calls = [member.calls.count("registercovenant") for member in world.members]
    for _ in range(3):
        world.federation.covenants.clear()
        await world.turn()
    assert [member.calls.count("registercovenant") for member in world.members] == calls


async def test_registration_when_made_elsewhere_then_from_the_same_words(world: World) -> None:
    await world.call("createwallet", "bob")
    await world.turn()
    address = await world.call("getnewaddress", "bob")
    first = await keyless(world, address, 3_000)
    again = await world.call("registerkeyless", address, 3_000)
    assert again["address"] == first["address"]
    world.federation.deposits_open = False
    assert (await world.call("registerkeyless", address, 3_000))["address"] == first["address"]
    assert "deposits are closed" in await refusal(world, "getkeylessaddress", address, 3_000)


async def test_words_when_wrong_then_refused_and_nothing_is_kept(world: World) -> None:
    await world.call("createwallet", "alice")
    await world.turn()
    limit = "the price of a claim is 1 to 4999 sat"
    for words, text in (
        (("nobody",), "there is no wallet named 'nobody'"),
        (("alice", 5_000), limit),
        (("alice", 0), limit),
        (("alice", True), limit),
        (("alice", "9"), limit),
        (("alice", 9, "xy"), "the internal key is not hex"),
        (("alice", 9, "ab"), "the internal key is not 32 bytes"),
    ):
        assert text in await refusal(world, "getkeylessaddress", *words)
    ordinary = await world.call("getpeginaddress", "alice")
    assert "by itself" in await refusal(world, "registerkeyless", ordinary["address"])
    assert "name the deposit address" in await refusal(world, "registerkeyless", "alice")
    found = await keyless(world)
    assert "stay" in await refusal(world, "registerkeyless", found["address"], 9)
    assert len(world.federation.covenants) == 1


@pytest.mark.parametrize("script", ["76a914" + "ab" * 20 + "88ac", "a914" + "ab" * 20 + "87"])
async def test_receiver_when_no_program_then_refused(world: World, script: str) -> None:
    await world.turn()
    address = encode_address(bytes.fromhex(script), world.params.prefixes)
    assert "P2WPKH, P2WSH and P2TR" in await refusal(world, "getkeylessaddress", address)


async def test_address_when_no_member_takes_it_then_not_shown(world: World) -> None:
    await world.call("createwallet", "alice")
    await world.turn()
    for member in world.members[1:]:
        member.is_down = True
    world.members[0].meanwhile["registercovenant"] = _refuse
    text = await refusal(world, "getkeylessaddress", "alice")
    assert "no member takes it" in text and "full" in text


async def _refuse() -> None:
    raise RpcError(-28, "full")


async def test_claim_script_when_shown_then_never_as_a_sidechain_address(world: World) -> None:
    """peg:4: coins sent to it on the sidechain would be anybody's."""
    found = await keyless(world)
    script = bytes.fromhex(found["claim_script"])
    shown = encode_address(script, world.params.prefixes)
    assert shown not in str(found)
    assert shown not in str(await world.call("listpegins"))
