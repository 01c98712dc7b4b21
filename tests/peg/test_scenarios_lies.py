"""Directed scenarios of peg:14, second part: proposers, miners and holders who lie or steal."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peg.batches import CoinKind
from peg.claims import Claim, read_claims
from peg.commitments import Commitment
from peg.parameters import LOCAL
from sidechain.errors import InvalidBlock, InvalidTransaction, Unavailable
from sidechain.primitives.block import Block
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint
from tests.factories import SignedChain, StaticFacts, Wallet
from tests.peg.members import PegWorld
from tests.peg.test_scenarios import (
    FEE_SATS,
    block_below,
    bury,
    check_books,
    open_batch,
    payments,
    view_of,
)
from tests.peg.test_service import ALICE, BOB, deposit, found, pay_out, status
from tests.peg.world import p2wpkh_script, parent_tx


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PegWorld:
    # Nobody tells news of Bitcoin while a member waits for it in these stories.
    monkeypatch.setattr("peg.service.LOOK_AGAIN_MS", 1)
    return PegWorld(tmp_path)


async def test_proposer_commits_depth_0_stale_other_branch(world: PegWorld) -> None:
    """Planted bug 4: what a proposer says of Bitcoin passes only when it is so."""
    await found(world)
    other_branch = world.bitcoin.grow(block_below(world, 2))
    await world.mine(count=6)
    unknown = b"\x77" * 32
    view = world.bitcoin.view
    previous = world.commitment()
    assert previous is not None
    tip = view.tip_height

    async def verdict(height: int, block_hash: bytes | None = None, **more: Any) -> tuple[Any, ...]:
        commitment = Commitment(
            reset=more.get("reset", False),
            height=more.get("said", height),
            block_hash=block_hash or view.hash_at(height) or b"",
            feerate_sats_per_kvb=more.get("rate", 2_000),
        )
        block = world.side.block([commitment.script()])
        found = [await s.check_eventual_and_policy(block) for s in world.services]
        assert len(set(found)) == 1
        return found[0]

    assert (await verdict(tip - 1))[:2] == (True, True)
    oldest = tip - LOCAL.commit_depth - LOCAL.freshness
    assert (await verdict(oldest))[:2] == (True, True)
    lies = [
        (await verdict(tip), "V2"),
        (await verdict(tip + 1, unknown), "V2"),
        (await verdict(world.bitcoin.height(other_branch), other_branch), "V2"),
        (await verdict(tip - 1, said=tip - 2), "V3"),
        (await verdict(previous.height - 1), "V4"),
        (await verdict(tip - 3, reset=True), "V5"),
    ]
    for (eventual, _, reason), rule in lies:
        assert not eventual and reason.startswith(rule), (reason, rule)
    stale = await verdict(oldest - 1)
    assert stale[:2] == (True, False) and stale[2].startswith("V6")
    for rate in (LOCAL.rate_floor_sats_per_kvb - 1, LOCAL.rate_cap_sats_per_kvb + 1):
        dear = await verdict(tip - 1, rate=rate)
        assert dear[:2] == (True, False) and dear[2].startswith("V7")


async def test_claim_at_age_limit_plus_minus_1(world: PegWorld) -> None:
    """C6 to the block; what is claimed at the very limit is swept at once."""
    await found(world)
    raws = [world.bitcoin.pay(world.side.deposit_script(ALICE), 50_000_000) for _ in range(2)]
    made_in = world.bitcoin.mine(raws)
    claims = [world.side.claim(world.bitcoin, raw, made_in, ALICE) for raw in raws]
    age = LOCAL.csv - LOCAL.sweep_window
    world.bitcoin.mine(count=age + LOCAL.commit_depth - 1)
    await world.tell()
    block = await world.extend(claims[:1])
    committed = world.services[0].ledger.history.totals(block.header.height).commitment
    assert committed.height - world.bitcoin.height(made_in) == age
    batch = open_batch(world)
    assert CoinKind.DEPOSIT in {coin.kind for coin in batch.inputs} and batch.payouts == ()
    await world.mine()
    for service in world.services:
        assert not service.claim_is_ripe(claims[1])
        eventual, _, reason = await service.check_eventual_and_policy(world.propose(claims[1:]))
        assert not eventual and reason.startswith("C6")


async def test_emergency_holders_mint_attempt(world: PegWorld) -> None:
    """Planted bug 13: a coin that its holders took back never becomes sidechain coins."""
    await found(world)
    raw = world.bitcoin.pay(world.side.deposit_script(ALICE), 50_000_000)
    outpoint = OutPoint(parse_parent_tx(raw).txid, 0)
    made_in = world.bitcoin.mine([raw])
    claim = world.side.claim(world.bitcoin, raw, made_in, ALICE)
    world.bitcoin.mine(count=LOCAL.csv - 1)
    world.bitcoin.mine([parent_tx([outpoint], [(50_000_000, p2wpkh_script("holders"))])])
    await world.tell()
    for service in world.services:
        service.check_objective(world.propose([claim]))
        eventual, _, reason = await service.check_eventual_and_policy(world.propose([claim]))
        assert not eventual and reason.startswith("C6")
    # Young and taken (by k members gone mad): C7 holds it, also in a repeated commitment.
    young = await deposit(world)
    world.bitcoin.mine([parent_tx([young.inputs[0].prevout], [(1, BOB)])])
    await world.tell()
    for minimal in (False, True):
        block = world.propose([young], minimal=minimal)
        verdicts = [await s.check_eventual_and_policy(block) for s in world.services]
        assert not any(eventual and policy for eventual, policy, _ in verdicts)


def test_two_proposers_claim_same_deposit(tmp_path: Path) -> None:
    """C5: two blocks of a height may each claim it; after one is final it is claimed for ever."""
    side = SignedChain.open(tmp_path / "chain")
    owner = Wallet("owner")
    found_deposit = side.deposit(owner.script, 1_000_000)
    mine, theirs = (side.claim(found_deposit, owner, fee_sats=fee) for fee in (2_000, 3_000))
    facts = StaticFacts([found_deposit])
    side.chain.submit_tx(mine, facts, side.next_time_s())
    blocks = [side.template([claim]) for claim in (mine, theirs)]
    for block in blocks:
        side.chain.check_proposal(block, now_s=block.header.time)
    with pytest.raises(InvalidBlock, match="double-pegin"):
        side.chain.check_proposal(side.template([mine, theirs]), now_s=side.next_time_s())
    side.chain.connect(side.sign(blocks[1]))
    assert mine.txid not in side.chain.mempool
    with pytest.raises(InvalidBlock, match="double-pegin"):
        side.chain.check_proposal(side.template([mine]), now_s=side.next_time_s())
    with pytest.raises(InvalidTransaction, match="pegin-already-claimed"):
        side.chain.submit_tx(mine, facts, side.next_time_s())
    side.chain.close()


async def test_coinbase_deposit(world: PegWorld) -> None:
    """A miner's deposit straight from a coinbase is claimed at 100 confirmations, not at 99."""
    await found(world)
    miner = world.bitcoin.miner_script
    world.bitcoin.miner_script = world.side.deposit_script(ALICE)
    made_in = world.bitcoin.mine()
    world.bitcoin.miner_script = miner
    raw = world.bitcoin.blocks[made_in].transactions[0].stripped
    claim = world.side.claim(world.bitcoin, raw, made_in, ALICE)
    world.bitcoin.mine(count=98)
    await world.tell()
    eventual, _, reason = await world.services[0].check_eventual_and_policy(world.propose([claim]))
    assert not eventual and reason.startswith("C1")
    await world.mine()
    await world.extend([claim])
    assert world.bitcoin.view.depth(made_in) == 100
    assert view_of(world).book.claimed_sats == 50 * 10**8
    check_books(world)


async def test_forged_proof_64_byte_tx(world: PegWorld) -> None:
    """An inner node of the merkle tree passed off as a transaction (CVE-2017-12842)."""
    await found(world)
    honest = await deposit(world)
    (claim,) = read_claims([honest])
    block = world.bitcoin.blocks[claim.block_hash]
    root = block.raw[36:68]
    voting = world.services[0].voting
    assert await voting.is_proved_and_unspent(claim)
    coin = replace(claim, outpoint=OutPoint(root, 0), tx_count=1, position=0, stripped_bytes=64)
    forged: list[Claim] = [
        coin,
        replace(coin, tx_count=claim.tx_count),
        replace(claim, stripped_bytes=64),
        replace(claim, tx_count=claim.tx_count + 1),
    ]
    for lie in forged:
        assert not await voting.is_proved_and_unspent(lie)
    world.bitcoin.is_down = True
    world.services[0].ledger.blocks._kept.clear()
    for lie in forged:
        with pytest.raises(Unavailable):
            await voting.is_proved_and_unspent(lie)


async def test_emergency_handover_keeps_paid_set(world: PegWorld) -> None:
    """Holders move the expired anchor to FED in their form: the lane goes on, nothing is paid."""
    await found(world)
    await world.extend([await deposit(world)])
    await pay_out(world)
    await world.mine(count=3)
    await world.extend()
    lane = view_of(world).lane
    assert lane is not None and lane.index == 1
    coins = {coin.outpoint: coin.value_sats for coin in view_of(world).coins}
    marker = b"\x6a\x28FP\xf0\x00" + bytes(4) + world.script.program[2:]
    value = coins[lane.anchor] - 1_000
    taken = parent_tx([lane.anchor], [(value, world.script.program), (0, marker)])
    await bury(world, [taken])
    moved = view_of(world).lane
    assert moved is not None and moved.broken_by is None
    assert moved.anchor == OutPoint(parse_parent_tx(taken).txid, 0)
    assert moved.paid == lane.paid and moved.index == 2
    check_books(world)
    burn = await pay_out(world, 1_000_000)
    await world.mine(count=3)
    await world.extend()
    assert status(world, burn)["committed"] is True
    assert payments(world) == [20_000_000 - FEE_SATS, 1_000_000 - FEE_SATS]
    check_books(world)


async def test_clocks_and_blocks_go_on_while_every_node_is_down(world: PegWorld) -> None:
    """N9: minimal blocks need no Bitcoin; the state stands still and then catches up."""
    await found(world)
    await world.extend([await deposit(world)])
    world.bitcoin.is_down = True
    world.healthy = False
    height = view_of(world).height
    made: list[Block] = []
    for _ in range(3):
        block = world.propose(minimal=True)
        for service in world.services:
            service.check_objective(block)
            assert (await service.check_eventual_and_policy(block))[:2] == (True, True)
        made.append(world.final(block))
        await world.settle()
    assert view_of(world).height == height + len(made)
    world.bitcoin.is_down = False
    world.healthy = True
    burn = await pay_out(world, 1_000_000)
    assert status(world, burn)["status"] == "BATCHED"
    check_books(world)
