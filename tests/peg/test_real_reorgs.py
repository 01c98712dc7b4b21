"""Real Bitcoin blocks taken back at every depth and in every stage of a payout (peg:14, peg:6).

`invalidateblock_depth_{1, D_c, D_c+1, D_p+1}` each at {before broadcast, unconfirmed, 1 deep,
committed}; the burn is paid on the branch that replaces them, then `reconsiderblock` lets the first
branch win again. What was paid on every branch is read from the two chains alone.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from peg.parameters import LOCAL, PegParameters
from sidechain.primitives.block import Block
from tests.peg.real_bitcoin import BOB, TRIAL_SATS, RealBitcoin, RealPegWorld
from tests.peg.two_chains import CaughtByChains, TwoChains

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STAGES = ("before_broadcast", "unconfirmed", "1_deep", "committed")
DEPTHS = {
    "1": 1,
    "D_c": LOCAL.commit_depth,
    "D_c+1": LOCAL.commit_depth + 1,
    "D_p+1": LOCAL.pegin_depth + 1,
}


async def reach(world: RealPegWorld, stage: str) -> None:
    """Bring a burn as far as the stage says."""
    world.holds_shares = stage == "before_broadcast"
    await world.extend([world.side.burn(BOB, 20_000_000)])
    while world.view.open_batch is None:
        await world.blocks(1)
    if stage == "before_broadcast":
        assert not await world.batches()
        return
    await world.until_sent()
    if stage == "1_deep":
        await world.real.grow(1)
        await world.tell()
    elif stage == "committed":
        await world.blocks(LOCAL.commit_depth)
        assert not world.view.queue


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("depth", DEPTHS.values(), ids=DEPTHS.keys())
async def test_invalidateblock_depth(
    tmp_path: Path, bitcoin: RealBitcoin, depth: int, stage: str
) -> None:
    world = RealPegWorld(tmp_path, bitcoin)
    await world.start(60_000_000, 40_000_000)
    late = await world.deposit(30_000_000)  # its depth restarts with every branch
    await reach(world, stage)
    await world.check()

    first = await bitcoin.back(depth)
    world.holds_shares = False
    await world.blocks(max(depth, LOCAL.reset_depth) + 1, empty=True)
    second = await bitcoin.client.block_hash(
        await bitcoin.client.block_count() - max(depth, LOCAL.reset_depth)
    )
    await world.until_paid()
    await world.check_paid_once()

    length = await bitcoin.client.block_count()
    await bitcoin.client.invalidate_block(second)
    await bitcoin.client.reconsider_block(first)
    missing = length - await bitcoin.client.block_count()
    await world.blocks(missing + 1)
    await bitcoin.client.reconsider_block(second)
    assert bitcoin.view.is_active(first)
    await world.until_paid()
    await world.claim_when_ripe(late)
    await world.check_paid_once()
    assert await world.chains.branch_count() >= 2


async def test_auditor_of_two_chains_sees_what_is_wrong(
    tmp_path: Path, bitcoin: RealBitcoin
) -> None:
    """A payment without its burn, and books that are a satoshi off."""
    world = RealPegWorld(tmp_path, bitcoin)
    await world.start(60_000_000, 40_000_000)
    burn = world.side.burn(BOB, 20_000_000)
    await world.extend([burn])
    await world.until_paid()
    await world.check_paid_once()

    def auditor(blocks: list[Block], terms: PegParameters) -> TwoChains:
        return TwoChains(
            bitcoin.client,
            blocks,
            world.params,
            terms,
            fed_program=world.script.program,
            base_height=world.base_height,
        )

    blocks = world.side.blocks
    without = [replace(b, transactions=[t for t in b.transactions if t != burn]) for b in blocks]
    with pytest.raises(CaughtByChains, match="paid without a burn"):
        await auditor(without, world.parameters).check()
    dearer = replace(world.parameters, peg_out_fee_sats=world.parameters.peg_out_fee_sats + 1)
    with pytest.raises(CaughtByChains, match="paid without a burn"):
        await auditor(blocks, dearer).check()
    too_young = replace(world.parameters, min_pegin_sats=TRIAL_SATS + 1)
    before = await world.chains.check()
    after = await auditor(blocks, too_young).check()  # the trial output is no gift then
    assert before.reserve_sats - after.reserve_sats == TRIAL_SATS
    claim = next(t for b in blocks for t in b.transactions if t.inputs[0].is_pegin)
    twice = [*blocks, replace(blocks[-1], transactions=[blocks[-1].transactions[0], claim])]
    with pytest.raises(CaughtByChains, match="claimed twice"):
        await auditor(twice, world.parameters).check()
