"""Batches signed by members' services, judged by a real Bitcoin node."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from federation.bitcoind_process import BitcoindMissing, bitcoind_arguments, find_bitcoind
from peg.bitcoind import BitcoindClient
from peg.parameters import LOCAL, PegParameters, for_members
from peg.parent_view import ParentChange, ParentView
from peg.records import OpenRecord, encode_record
from peg.status import outpoint_text
from peg.trial_spend import assemble_trial_spend, build_trial_spend
from peg.watcher import ParentWatcher
from sidechain.primitives.parent import build_merkle_block, parse_parent_block, parse_parent_tx
from sidechain.primitives.transaction import OutPoint, Transaction
from tests.federation.wallet_world import free_port
from tests.peg.members import PegWorld
from tests.peg.world import p2wpkh_script

pytestmark = pytest.mark.e2e
WALLET = "miner"
ALICE = p2wpkh_script("alice")
BOB = p2wpkh_script("bob")


class RealBitcoin:
    """A node with its view; everything a member asks goes to the client."""

    def __init__(self, client: BitcoindClient) -> None:
        self.client = client
        self.view = ParentView()
        self.watcher = ParentWatcher(client, self.view, on_change=self._ignore)

    def __getattr__(self, name: str) -> object:
        return getattr(self.client, name)

    async def grow(self, count: int) -> None:
        await self.client.generate(count, await self.client.new_address(WALLET))
        await self.watcher.poll_once()

    @staticmethod
    async def _ignore(change: ParentChange) -> None:
        return None


class RealPegWorld(PegWorld):
    """The members' world with a real node."""

    def __init__(self, folder: Path, bitcoin: RealBitcoin, parameters: PegParameters) -> None:
        super().__init__(folder, parameters, bitcoin)
        self.real = bitcoin

    async def blocks(self, count: int) -> None:
        """Mine, notice, make a sidechain block, one by one."""
        for _ in range(count):
            await self.real.grow(1)
            await self.tell()
            await self.extend()

    async def found(self) -> OutPoint:
        """Fund, show that k members can spend, open; the anchor."""
        client = self.real.client
        anchor = await client.send_to_script(WALLET, self.script.program, 5_000_000)
        trial = await client.send_to_script(WALLET, self.script.program, 20_000)
        await self.real.grow(7)
        await self.check_trial_spend(trial)
        for service in self.services:
            service.approve_record(encode_record(OpenRecord(0, anchor)))
        await self.tell()
        await self.extend()
        return anchor

    async def check_trial_spend(self, trial: OutPoint) -> None:
        """P2: the node would take a spend that k members signed; it is not sent."""
        spend = build_trial_spend(trial, 20_000, self.parameters, self.script)
        signatures: dict[int, bytes] = {}
        for member in range(self.parameters.k):
            unsigned, signatures[member] = await self.services[member].sign_trial_spend(trial)
            assert unsigned == spend.unsigned
        raw = assemble_trial_spend(spend, signatures, self.script)
        verdict = await self.real.client.test_mempool_accept(raw)
        assert verdict.allowed, verdict.reason

    async def claimed(self, amount_sats: int) -> Transaction:
        """Deposit for Alice, bury it; the claim."""
        client = self.real.client
        deposit = await client.send_to_script(WALLET, self.side.deposit_script(ALICE), amount_sats)
        await self.real.grow(6)
        await self.tell()
        block_hash = self.real.view.hash_at(self.real.view.tip_height - 5)
        assert block_hash is not None
        raw_block = await client.raw_block(block_hash)
        block = parse_parent_block(raw_block)
        raw = await client.raw_transaction(deposit.txid)
        own_proof = build_merkle_block(block, deposit.txid)
        assert own_proof == await client.tx_out_proof([deposit.txid], block_hash)
        return self.side.claim_of(raw, raw_block, ALICE, index=deposit.index)


@pytest.fixture
def node_port(tmp_path: Path) -> Iterator[int]:
    try:
        program = find_bitcoind()
    except BitcoindMissing as error:
        pytest.skip(str(error))
    folder = tmp_path / "bitcoind"
    folder.mkdir()
    port = free_port()
    node = subprocess.Popen(bitcoind_arguments(program, folder, port))
    yield port
    node.terminate()
    node.wait(60)


@pytest.fixture
async def bitcoin(tmp_path: Path, node_port: int) -> AsyncIterator[RealBitcoin]:
    cookie = tmp_path / "bitcoind" / ".cookie"
    client = BitcoindClient(f"http://127.0.0.1:{node_port}", cookie_path=cookie)
    try:
        await client.wait_until_ready(60_000)
        await client.create_wallet(WALLET)
        made = RealBitcoin(client)
        await made.grow(110)
        yield made
    finally:
        await client.close()


@pytest.mark.parametrize(("n", "k"), [(4, 3), (15, 11)])
async def test_payout_of_a_deposit_is_taken_and_confirmed(
    tmp_path: Path, bitcoin: RealBitcoin, n: int, k: int
) -> None:
    world = RealPegWorld(tmp_path, bitcoin, for_members(LOCAL, n, k))
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
    world = RealPegWorld(tmp_path, bitcoin, LOCAL)
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
