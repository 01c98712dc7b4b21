"""Members claim for users who are not there: registrations, turns, reorganisations, restarts."""

from pathlib import Path

import pytest

from peg.covenant_claims import CovenantClaims
from peg.covenant_ports import KEPT
from peg.covenants import encode_registration
from peg.status import outpoint_text
from sidechain.errors import InvalidEncoding, PeerFault
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint
from sidechain.wallet.covenant import CovenantTerms, covenant_script
from tests.peg.members import PegWorld
from tests.peg.test_service import ALICE, BOB, found
from tests.peg.world import parent_tx

PRICE_SATS = 2_000
DEPOSIT_SATS = 50_000_000
TERMS = CovenantTerms(script=ALICE, max_fee_sats=PRICE_SATS)


@pytest.fixture
async def world(tmp_path: Path) -> PegWorld:
    world = PegWorld(tmp_path)
    await found(world)
    world.connect()
    return world


def claim_script(world: PegWorld) -> bytes:
    return covenant_script(TERMS, world.params.pegged_asset)


def covenants(world: PegWorld, member: int = 0) -> CovenantClaims:
    """One member's part in this."""
    found = world.services[member].covenants
    assert found is not None
    return found


async def register(world: PegWorld, member: int = 0) -> bytes:
    """A user asks one member; the script that deposits pay."""
    reply = covenants(world, member).register(TERMS)
    await world.settle()
    return bytes.fromhex(reply["deposit_script"])


async def pay(world: PegWorld, script: bytes, value_sats: int = DEPOSIT_SATS) -> OutPoint:
    """Somebody pays a script in the next Bitcoin block."""
    raw = world.bitcoin.pay(script, value_sats)
    await world.mine([raw])
    return OutPoint(parse_parent_tx(raw).txid, 0)


async def bury(world: PegWorld, blocks: int = 5) -> None:
    """Bitcoin blocks on top, committed and looked at by all."""
    if blocks:
        await world.mine(count=blocks)
    await world.extend()


def first_member(world: PegWorld, deposit: OutPoint) -> int:
    return int.from_bytes(deposit.txid, "little") % world.parameters.n


def stage(world: PegWorld, member: int = 0) -> tuple[str, str]:
    """Stage and reason of the only deposit, as one member says."""
    reply = covenants(world, member).describe(claim_script(world))
    assert reply is not None
    (deposit,) = reply["deposits"]
    return deposit["stage"], deposit["reason"]


async def claim_all(world: PegWorld) -> None:
    """The next block holds what members claimed."""
    await world.extend(list(world.claims.values()))
    world.claims.clear()


async def test_deposit_when_ripe_then_its_member_claims_it_for_the_user(world: PegWorld) -> None:
    deposit = await pay(world, await register(world))
    await bury(world, 4)
    assert stage(world)[0] == "confirming" and not world.claims
    await bury(world, 1)
    assert world.claimed_by == [first_member(world, deposit)]
    assert stage(world) == ("claim_sent", "")
    (claim,) = world.claims.values()
    assert claim.outputs[0].script == ALICE
    assert (claim.outputs[0].value_sats or 0) >= DEPOSIT_SATS - PRICE_SATS
    await claim_all(world)
    await world.extend()
    assert stage(world) == ("final", "") and not world.claims
    for service in world.services:
        assert service.reports.deposit(outpoint_text(deposit))["claimed"]
        assert service.reports.audit()["equal"]


async def test_claim_when_members_are_away_then_the_next_one_after_two_blocks(
    world: PegWorld,
) -> None:
    script = await register(world, 1)
    deposit = await pay(world, script)
    first = first_member(world, deposit)
    world.mempools[first].refuse_with = "frozen"
    await bury(world)
    assert not world.claims
    assert stage(world, first) == ("claimable", "frozen")
    await world.mine()
    await world.extend()
    assert not world.claimed_by
    await world.mine()
    await world.extend()
    assert world.claimed_by == [(first + 1) % world.parameters.n]


async def test_claim_when_each_member_makes_it_then_the_same_transaction(
    world: PegWorld,
) -> None:
    deposit = await pay(world, await register(world))
    made = set()
    for mempool in world.mempools:
        mempool.refuse_with = "frozen"
    await bury(world, 5 + 2 * world.parameters.n)
    for mempool in world.mempools:
        await world.mine()
        mempool.refuse_with = ""
        for _ in range(2 * world.parameters.n):
            await world.extend()
        made.add(world.claims.pop(deposit).serialize())
        mempool.refuse_with = "frozen"
    assert len(made) == 1
    assert set(world.claimed_by) == set(range(world.parameters.n))


async def test_two_proposers_claim_same_deposit(world: PegWorld) -> None:
    """peg:14, C5: one block holds the claim, and no later block takes it again."""
    deposit = await pay(world, await register(world))
    await bury(world)
    claim = world.claims[deposit]
    await claim_all(world)
    await world.extend()
    assert not world.claims  # nobody claims again
    proposer = world.services[0]
    block = world.side.block(
        proposer.plan_coinbase(world.side.height + 1, minimal=False) or [], [claim, claim]
    )
    with pytest.raises(Exception, match="C5"):
        proposer.check_objective(block)


async def test_registration_when_a_member_was_away_then_peers_tell_it(world: PegWorld) -> None:
    world.online.discard(3)
    world.connect()
    script = await register(world)
    deposit = await pay(world, script)
    world.online.add(3)
    await world.restart(3, wipe=True)
    world.connect()
    await world.settle()
    await bury(world)
    reply = covenants(world, 3).describe(claim_script(world))
    assert reply is not None and reply["deposits"][0]["deposit"] == outpoint_text(deposit)


async def test_registration_when_all_restart_then_kept_and_claimed(world: PegWorld) -> None:
    deposit = await pay(world, await register(world))
    for member in range(world.parameters.n):
        await world.restart(member)
    world.connect()
    await bury(world)
    assert world.claimed_by == [first_member(world, deposit)]


async def test_registration_when_all_are_wiped_then_the_user_repeats_it(world: PegWorld) -> None:
    deposit = await pay(world, await register(world))
    for member in range(world.parameters.n):
        await world.restart(member, wipe=True)
    world.connect()
    await bury(world)
    assert not world.claimed_by
    await register(world, 2)  # late: blocks read before are read again
    await world.settle()
    assert world.claimed_by == [first_member(world, deposit)]


async def test_late_registration_when_others_were_followed_then_blocks_are_read_again(
    world: PegWorld,
) -> None:
    await register(world)
    other = CovenantTerms(script=BOB, max_fee_sats=PRICE_SATS)
    script = world.side.deposit_script(covenant_script(other, world.params.pegged_asset))
    deposit = await pay(world, script)
    await bury(world)
    assert not world.claims
    covenants(world).register(other)
    await world.settle()
    assert world.claims[deposit].outputs[0].script == BOB


@pytest.mark.parametrize("depth", [1, 3, 5])
async def test_deposit_when_its_block_leaves_the_chain_then_claimed_where_it_returns(
    world: PegWorld, depth: int
) -> None:
    script = await register(world)
    fork = world.bitcoin.tip
    raw = world.bitcoin.pay(script, DEPOSIT_SATS)
    await world.mine([raw])
    await bury(world, depth - 1)
    tip = fork
    for _ in range(depth):
        tip = world.bitcoin.grow(tip)
    tip = world.bitcoin.grow(tip, [raw])
    world.bitcoin.tip = tip
    world.bitcoin.activate(tip)
    await world.tell()
    await bury(world)
    await world.extend()  # the first block may only say RESET
    (claim,) = world.claims.values()
    assert claim.input_witnesses[0].pegin[5][:80] == _header(world, tip)
    await claim_all(world)
    assert stage(world)[0] == "final"


async def test_watch_when_no_block_it_read_is_left_then_begins_anew(world: PegWorld) -> None:
    """A member that began to follow just before a reorganisation deeper than what it read."""
    fork = world.bitcoin.tip
    script = await register(world)
    raw = world.bitcoin.pay(script, DEPOSIT_SATS)
    await bury(world, 2)
    tip = world.bitcoin.grow(fork, [raw])
    for _ in range(8):
        tip = world.bitcoin.grow(tip)
    watch = covenants(world)._watch
    watch.prune_below(watch.height)  # as if it had begun there
    world.bitcoin.tip = tip
    world.bitcoin.activate(tip)
    await world.tell()
    await bury(world, 1)
    await world.extend()
    reply = covenants(world).describe(claim_script(world))
    assert reply is not None
    assert reply["deposits"][0]["deposit"] == outpoint_text(OutPoint(parse_parent_tx(raw).txid, 0))


def _header(world: PegWorld, block_hash: bytes) -> bytes:
    raw: bytes = world.bitcoin.blocks[block_hash].raw
    return raw[:80]


async def test_coinbase_deposit(world: PegWorld) -> None:
    """peg:14, C2: claimed at a hundred confirmations, not at six."""
    world.bitcoin.miner_script = await register(world)
    await world.mine()
    world.bitcoin.miner_script = ALICE
    for _ in range(4):
        await bury(world, 24)
    assert stage(world)[0] == "confirming" and not world.claims
    await bury(world, 3)
    assert stage(world)[0] == "claim_sent"


async def test_deposit_when_below_the_minimum_then_never_claimed(world: PegWorld) -> None:
    await pay(world, await register(world), world.parameters.min_pegin_sats - 1)
    await bury(world)
    assert stage(world) == ("failed", f"below the minimum of {world.parameters.min_pegin_sats} sat")
    assert not world.claims


async def test_claim_at_age_limit_plus_minus_1(world: PegWorld) -> None:
    """peg:14, C6: at csv - W_sweep it can be claimed, one block later not."""
    limit = world.script.csv - world.parameters.sweep_window
    for mempool in world.mempools:
        mempool.refuse_with = "all frozen"
    deposit = await pay(world, await register(world))
    first = first_member(world, deposit)
    await bury(world, limit + world.parameters.commit_depth - 1)
    assert stage(world, first) == ("claimable", "all frozen")
    await bury(world, 1)
    assert stage(world, first) == ("failed", f"{limit + 1} blocks old, claims end at {limit}")
    for mempool in world.mempools:
        mempool.refuse_with = ""
    await world.extend()
    assert not world.claims


async def test_deposit_when_spent_on_bitcoin_then_not_claimed(world: PegWorld) -> None:
    """C7: emergency holders who took a coin cannot have it minted (peg:14)."""
    deposit = await pay(world, await register(world))
    spend = parent_tx([deposit], [(DEPOSIT_SATS - 1_000, BOB)])
    await world.mine([spend], count=5)
    await world.extend()
    assert not world.claims
    first = first_member(world, deposit)
    assert stage(world, first) == ("claimable", "deposit is spent on Bitcoin")


async def test_several_outputs_of_one_transaction_are_claimed_each(world: PegWorld) -> None:
    script = await register(world)
    raw = parent_tx([OutPoint(bytes(31) + b"\x07", 0)], [(DEPOSIT_SATS, script)] * 3)
    await world.mine([raw])
    await bury(world)
    assert {outpoint.index for outpoint in world.claims} == {0, 1, 2}


async def test_price_when_a_quarter_of_the_minimum_then_refused(world: PegWorld) -> None:
    quarter = world.parameters.min_pegin_sats // 4
    too_much = CovenantTerms(script=ALICE, max_fee_sats=quarter)
    with pytest.raises(InvalidEncoding, match=f"{quarter - 1} sat at most"):
        covenants(world).register(too_much)
    frame = encode_registration(too_much)
    # From a peer it is no fault: the minimum may have been another when it was registered.
    other = world.services[1]
    other.on_frame(19, 0, frame + world.signers[0].sign_peg_frame(19, frame))
    await world.settle()
    assert len(covenants(world, 1)) == 0
    with pytest.raises(PeerFault):
        other.on_frame(19, 0, frame[1:] + world.signers[0].sign_peg_frame(19, frame[1:]))


async def test_fee_when_the_market_is_above_the_price_then_the_member_waits(
    world: PegWorld,
) -> None:
    for mempool in world.mempools:
        mempool.rate = 100_000
    deposit = await pay(world, await register(world))
    await bury(world)
    state, reason = stage(world, first_member(world, deposit))
    assert state == "claimable" and "the claim script allows 2000 sat" in reason
    for mempool in world.mempools:
        mempool.rate = 1_000
    await bury(world, 1)
    assert len(world.claims) == 1


async def test_registrations_when_a_peer_floods_then_oldest_idle_ones_make_room(
    world: PegWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peg.covenants.PER_PEER_MAX", 3)
    await pay(world, await register(world, 1))
    service = world.services[0]
    await bury(world, 2)
    for serial in range(5):
        terms = CovenantTerms(script=b"\x00\x14" + bytes([serial]) * 20, max_fee_sats=100)
        body = encode_registration(terms)
        service.on_frame(19, 1, body + world.signers[1].sign_peg_frame(19, body))
    await world.settle()
    assert len(covenants(world)) == 3
    assert covenants(world).describe(claim_script(world)) is not None  # it has a deposit
    kept = [kind for kind, _ in world.covenant_stores[0].records]
    assert kept.count(KEPT) == 6


async def test_registrations_when_a_peer_tells_many_at_once_then_a_part_each_turn(
    world: PegWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peg.covenant_claims.WAITING_MAX", 30)
    service = world.services[0]
    for serial in range(40):
        terms = CovenantTerms(script=b"\x00\x14" + bytes([serial]) * 20, max_fee_sats=100)
        covenants(world).hear(1, encode_registration(terms))
    counts = []
    for _ in range(3):
        await service.run_once()
        counts.append(len(covenants(world)))
    assert counts == [20, 30, 30]


async def test_script_when_a_new_one_is_in_force_then_old_deposits_are_still_found(
    world: PegWorld,
) -> None:
    """C10: deposits to an earlier script are claimed while it is valid."""
    deposit = await pay(world, await register(world))
    world.valid_scripts = (world.valid_scripts[0], world.valid_scripts[0])
    await bury(world)
    assert deposit in world.claims
