"""A payout while bitcoind is killed, members' disks are wiped, and Bitcoin splits in two (peg:14).

Source: peg:P34, peg:6, peg:9, peg:13.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from federation.local_state import PortChooser
from peg.parameters import LOCAL
from tests.conftest import RegtestNode
from tests.peg.real_bitcoin import BOB, RealBitcoin, RealPegWorld

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STARTED = (60_000_000, 40_000_000)


@pytest.fixture
async def second(tmp_path: Path, bitcoin: RealBitcoin) -> AsyncIterator[RealBitcoin]:
    """Another node with the same chain; it is told of blocks by the tests alone."""
    folder = tmp_path / "second"
    folder.mkdir()
    node = RegtestNode(folder, PortChooser().choose())
    node.start()
    made = RealBitcoin(node)
    try:
        async with made.client:
            await made.prepare(first_blocks=0)
            await bitcoin.carry_to(made)
            yield made
    finally:
        bitcoin.mirror = None
        node.kill()


async def test_kill9_bitcoind_mid_session(tmp_path: Path, bitcoin: RealBitcoin) -> None:
    """The batch gets complete while its node is dead, and is sent when the node is back (P34)."""
    world = RealPegWorld(tmp_path, bitcoin)
    await world.start(*STARTED)
    world.holds_shares = True
    await world.extend([world.side.burn(BOB, 20_000_000)])
    while world.view.open_batch is None:
        await world.blocks(1)
    batch = world.view.open_batch
    bitcoin.node.kill()
    world.healthy = world.holds_shares = False
    await world.tell()
    await bitcoin.restart(rebuild=True)
    world.healthy = True
    await world.tell()
    (sent,) = await world.batches()
    assert sent.txid == batch.versions[-1].txid

    bitcoin.node.kill()  # the mempool goes with it
    world.healthy = False
    await world.tell()
    await bitcoin.restart(rebuild=True)
    assert not await world.batches()
    world.healthy = True
    await world.tell()
    (again,) = await world.batches()
    assert again.txid == sent.txid
    await world.until_paid()
    await world.check_paid_once()


async def test_wiped_disk_real(tmp_path: Path, bitcoin: RealBitcoin) -> None:
    """Wiped while unsigned, sent, mined and committed: the same state, the same transaction."""
    world = RealPegWorld(tmp_path, bitcoin)
    await world.start(*STARTED)
    world.holds_shares = True
    await world.extend([world.side.burn(BOB, 20_000_000)])
    while world.view.open_batch is None:
        await world.blocks(1)
    await _wipe(world, 3)
    world.holds_shares = False
    await world.tell()
    sent = await world.until_sent()
    raw = await bitcoin.client.raw_transaction(sent.txid)
    signed = {member: list(world.signers[member].signed) for member in range(4)}
    await _wipe(world, 2)
    await bitcoin.restart("-persistmempool=0")
    for member in range(4):
        await _wipe(world, member)  # nobody remembers anything, and Bitcoin lost the batch
    assert not await world.batches()
    await world.tell()
    (again,) = await world.batches()
    assert again.txid == sent.txid
    assert await bitcoin.client.raw_transaction(sent.txid) == raw
    for member in range(4):
        assert set(world.signers[member].signed) == set(signed[member])
    await bitcoin.grow(1)
    await _wipe(world, 1)
    await world.tell()
    await world.blocks(2)
    await _wipe(world, 0)
    await world.tell()
    assert not world.view.queue
    await world.check_paid_once()
    await bitcoin.restart()


async def _wipe(world: RealPegWorld, member: int) -> None:
    """A member loses all but its keys, and reads both chains anew."""
    before = world.services[member].ledger.view
    assert before is not None
    fresh = await world.restart(member, wipe=True)
    await fresh.ledger.advance()
    after = fresh.ledger.view
    assert after is not None
    assert (after.digest, after.open_batch) == (before.digest, before.open_batch)


class SplitWorld(RealPegWorld):
    """Some members ask a second node."""

    def __init__(
        self, folder: Path, first: RealBitcoin, second: RealBitcoin, on_second: set[int]
    ) -> None:
        self.second = second
        self.on_second = on_second
        first.mirror = second
        super().__init__(folder, first)

    def bitcoin_of(self, member: int) -> Any:
        return self.second if member in self.on_second else self.bitcoin

    async def heal(self) -> None:
        """The links between the nodes are back."""
        await self.real.carry_to(self.second)
        await self.second.carry_to(self.real)
        self.real.mirror = self.second
        await self.tell()


async def test_two_nodes_with_competing_branches_and_a_member_on_each_side(
    tmp_path: Path, bitcoin: RealBitcoin, second: RealBitcoin
) -> None:
    """Paid on one branch, which loses after it was committed; paid once on the other too."""
    world = SplitWorld(tmp_path, bitcoin, second, {3})
    await world.start(*STARTED)
    await world.extend([world.side.burn(BOB, 20_000_000)])
    sent = await world.until_sent()
    await world.tell()
    assert sent.txid in await second.client.mempool_txids()  # by the member on that side

    bitcoin.mirror = None
    await world.blocks(LOCAL.commit_depth)
    assert not world.view.queue and world.view.lane is not None and world.view.lane.index == 1
    await bitcoin.grow(1)
    await world.tell()
    assert await world.votes(world.propose()) == LOCAL.k  # the fourth sees another Bitcoin
    assert await world.try_extend()
    await second.grow_empty(LOCAL.commit_depth + LOCAL.reset_depth)
    await world.heal()
    assert await world.try_extend()
    assert world.view.totals.last_reset_height == world.view.height
    assert world.view.lane is not None and world.view.lane.index == 0
    await world.check()

    await world.until_paid()  # on this branch too, by the same or another version
    await world.check_paid_once()
    assert await world.chains.branch_count() == 2


async def test_two_nodes_when_members_are_split_in_halves_then_nothing_is_committed_until_they_meet(
    tmp_path: Path, bitcoin: RealBitcoin, second: RealBitcoin
) -> None:
    """Two of four on each branch: no k sees one Bitcoin, so no commitment and no payment moves."""
    world = SplitWorld(tmp_path, bitcoin, second, {2, 3})
    await world.start(*STARTED)
    await world.extend([world.side.burn(BOB, 20_000_000)])
    await world.until_sent()
    await world.tell()
    bitcoin.mirror = None
    height = world.side.height
    await second.grow_empty(1)
    for _ in range(LOCAL.commit_depth + 1):
        await bitcoin.grow(1)
        await second.grow_empty(1)
        await world.tell()
        await world.try_extend()
    committed = world.commitment()
    assert committed is not None and second.view.is_active(committed.block_hash)
    assert world.side.height <= height + 1
    assert world.view.queue
    await world.heal()
    await world.until_paid()
    await world.check_paid_once()
    assert await world.chains.branch_count() == 2
