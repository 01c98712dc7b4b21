"""Batches signed by members' services, judged by a real Bitcoin node."""

from pathlib import Path

import pytest

from peg.parameters import LOCAL, for_members
from peg.status import outpoint_text
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint
from tests.peg.real_bitcoin import BOB, WALLET, RealBitcoin, RealPegWorld, own_parameters

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(("n", "k"), [(4, 3), (15, 11)])
async def test_payout_of_a_deposit_is_taken_and_confirmed(
    tmp_path: Path, bitcoin: RealBitcoin, n: int, k: int
) -> None:
    world = RealPegWorld(tmp_path, bitcoin, own_parameters(for_members(LOCAL, n, k)))
    await world.found()
    await world.extend([await world.claimed(100_000_000)])
    burns = [world.side.burn(BOB, 40_000_000), world.side.burn(BOB, 40_000_000)]
    await world.extend(burns)
    for _ in range(6):
        if await bitcoin.client.mempool_txids():
            break
        await world.blocks(1)
    (txid,) = await bitcoin.client.mempool_txids()
    entry = await bitcoin.client.mempool_entry(txid)
    view = world.services[0].ledger.view
    assert entry is not None and view is not None and view.open_batch is not None
    assert entry.vsize <= view.open_batch.vsize
    assert entry.fee_sats == view.open_batch.versions[-1].fee_sats
    await world.blocks(2)
    paid = parse_parent_tx(await bitcoin.client.raw_transaction(txid)).outputs[2:]
    assert paid == ((40_000_000 - world.parameters.peg_out_fee_sats, BOB),) * 2
    for burn in burns:
        reply = world.services[0].reports.pegout(outpoint_text(OutPoint(burn.txid, 0)))
        assert reply is not None and reply["committed"]
    audit = world.services[0].reports.audit()
    assert audit["equal"] and audit["solvent"]


async def test_ladder_replaces_in_a_real_mempool_and_reset_pays_once(
    tmp_path: Path, bitcoin: RealBitcoin
) -> None:
    world = RealPegWorld(tmp_path, bitcoin)
    client = bitcoin.client
    await world.found()
    await world.extend([await world.claimed(100_000_000)])
    await world.extend([world.side.burn(BOB, 20_000_000)])
    while not (first := await client.mempool_txids()):
        await world.blocks(1)
    address = await client.new_address(WALLET)
    # Blocks without the batch: the node is told to leave the mempool out.
    for _ in range(4):
        await client.call("generateblock", address, [])
        await bitcoin.watcher.poll_once()
        await world.tell()
        await world.extend()
    second = await client.mempool_txids()
    assert len(second) == 1 and second != first
    await world.blocks(2)
    view = world.services[0].ledger.view
    assert view is not None and view.lane is not None and view.lane.index == 1
    place = await client.find_transaction(second[0])
    assert place is not None and place.block_hash is not None
    await client.invalidate_block(place.block_hash)
    for _ in range(6):
        await client.call("generateblock", address, [])
    await bitcoin.watcher.poll_once()
    await world.tell()
    await world.extend()
    await world.tell()
    view = world.services[0].ledger.view
    assert view is not None and view.totals.last_reset_height == view.height
    await world.blocks(3)
    view = world.services[0].ledger.view
    assert view is not None and view.lane is not None and view.lane.index == 1
    assert not view.queue
    assert view.book.difference_sats == 0
