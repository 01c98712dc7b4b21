"""What a real node's mempool takes, drops and holds against a batch (peg:14, peg:P26-P30).

With Bitcoin Knots `-mempooltruc` and its limits on scripts are tried too; Bitcoin Core enforces
TRUC always and has no such option.
"""

import subprocess
from pathlib import Path

import pytest

from federation.bitcoind_process import find_bitcoind
from peg.lanes import encode_unsigned, with_witnesses
from sidechain.crypto.hashes import sha256
from sidechain.primitives.encoding import le32
from sidechain.primitives.parent import ParentTx, parse_parent_tx
from sidechain.primitives.transaction import OutPoint
from sidechain.script.script import p2wsh
from tests.peg.real_bitcoin import BOB, STEPS_MAX, WALLET, RealBitcoin, RealPegWorld
from tests.peg.world import parent_tx

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SPIKE = "0.0002"
SPIKE_SATS_PER_KVB = 20_000
BUMP_EVERY_BLOCKS = 2
SPIKE_TAKES_BLOCKS_MAX = 24
PIN_TAKES_BLOCKS_MAX = 26
TRUC_VSIZE_MAX = 10_000
PIN_OUTPUTS = 285
FILLINGS_MAX = 70
FILLING_OUTPUTS = 3_000
ANYBODY = b"\x51"
FILLING_SATS = 5_000_000
FILLING_FEE_SATS = 95_000 * 4


async def in_mempool(world: RealPegWorld) -> ParentTx:
    """The world's batch in the mempool, started with three coins."""
    await world.start(60_000_000, 40_000_000)
    await world.extend([world.side.burn(BOB, 20_000_000)])
    return await world.until_sent()


async def test_fee_spike(tmp_path: Path, bitcoin: RealBitcoin) -> None:
    """A tenfold minimum fee: bumped every second parent block until the node takes it again."""
    world = RealPegWorld(tmp_path, bitcoin)
    first = await in_mempool(world)
    async with bitcoin.options(f"-minrelaytxfee={SPIKE}", f"-blockmintxfee={SPIKE}"):
        assert first.txid not in await bitcoin.client.mempool_txids()
        await world.tell()
        fees: list[int] = []
        for _ in range(STEPS_MAX):
            batch = world.view.open_batch
            assert batch is not None
            fees.append(batch.versions[-1].fee_sats)
            if await world.batches():
                break
            told = world.services[0].info()["alarms"]
            assert "min relay fee not met" in str(told), told
            await world.blocks(1)
        steps = [fees.count(fee) for fee in sorted(set(fees))]
        assert set(steps[1:-1]) == {BUMP_EVERY_BLOCKS}, steps
        assert len(fees) - 1 <= SPIKE_TAKES_BLOCKS_MAX, fees
        (taken,) = await world.batches()
        entry = await bitcoin.client.mempool_entry(taken.txid)
        assert entry is not None
        assert entry.fee_sats * 1_000 >= SPIKE_SATS_PER_KVB * entry.vsize
        assert taken.outputs[1:] == first.outputs[1:]
        await world.until_paid()
        await world.check_paid_once()


async def test_mempool_evicts(tmp_path: Path, bitcoin: RealBitcoin) -> None:
    """A mempool of 5 MB full of dearer transactions drops the batch; the ladder gets it back."""
    world = RealPegWorld(tmp_path, bitcoin)
    async with bitcoin.options("-maxmempool=5", "-persistmempool=0"):
        first = await in_mempool(world)
        await _fill(bitcoin, first.txid)
        while not (found := await world.batches()):
            await world.blocks(1, empty=True)
        (again,) = found
        assert again.outputs[1:] == first.outputs[1:]
        assert again.txid != first.txid
        await bitcoin.grow_with(again.txid)
        await world.blocks(2, empty=True)
        assert not world.view.queue
        await world.check_paid_once()


async def _fill(bitcoin: RealBitcoin, victim: bytes) -> None:
    """Large transactions that pay more, each more than the last, until the victim has left."""
    anybody = p2wsh(ANYBODY)
    split = await bitcoin.pay_all([(FILLING_SATS, anybody)] * FILLINGS_MAX)
    await bitcoin.grow_with(split)
    for position in range(FILLINGS_MAX):
        outputs = [
            (500, b"\x00\x14" + sha256(le32(position) + le32(at))[:20])
            for at in range(FILLING_OUTPUTS)
        ]
        fee_sats = FILLING_FEE_SATS + 2_000 * position
        left = FILLING_SATS - 500 * FILLING_OUTPUTS - fee_sats
        unsigned = encode_unsigned([OutPoint(split, position)], [*outputs, (left, anybody)])
        raw = with_witnesses(le32(2) + unsigned[4:], [[ANYBODY]])
        await bitcoin.client.send_raw_transaction(raw)
        if victim not in await bitcoin.client.mempool_txids():
            return
    raise AssertionError("nothing was evicted")


def node_options() -> str:
    """What the bitcoind here says of its options."""
    program = str(find_bitcoind().path)
    return subprocess.run(
        [program, "-help-debug"], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("truc", ["accept", "enforce"])
async def test_pin_by_recipient(tmp_path: Path, bitcoin: RealBitcoin, truc: str) -> None:
    """A payee's large cheap child: refused where TRUC is enforced, else out-paid (P27, P29)."""
    if "-mempooltruc" not in node_options():
        pytest.skip("this bitcoind enforces TRUC always: it has no -mempooltruc")
    world = RealPegWorld(tmp_path, bitcoin)
    async with bitcoin.options(f"-mempooltruc={truc}"):
        await world.start(60_000_000, 40_000_000)
        payee = await bitcoin.client.address_script(await bitcoin.client.new_address(WALLET))
        assert payee is not None
        await world.extend([world.side.burn(payee, 20_000_000)])
        first = await world.until_sent()
        outputs = [(1_000, b"\x00\x20" + sha256(le32(at))) for at in range(PIN_OUTPUTS)]
        left = first.outputs[2][0] - 1_000 * PIN_OUTPUTS
        child = parent_tx([OutPoint(first.txid, 2)], [*outputs, (left - 12_500, payee)])
        pin = await bitcoin.sign(child.hex())
        verdict = await bitcoin.client.test_mempool_accept(pin)
        assert parse_parent_tx(pin).vsize > 12_000
        if truc == "enforce":
            assert not verdict.allowed and "truc" in verdict.reason.lower(), verdict
        else:
            assert verdict.allowed, verdict
            await bitcoin.client.send_raw_transaction(pin)
        blocks = 0
        while (await world.batches())[0].txid == first.txid:
            await world.blocks(1, empty=True)
            blocks += 1
            assert blocks <= PIN_TAKES_BLOCKS_MAX
        (bumped,) = await world.batches()
        assert bumped.outputs[1:] == first.outputs[1:]
        assert (blocks > BUMP_EVERY_BLOCKS + 2) == (truc == "accept"), blocks
        assert parse_parent_tx(pin).txid not in await bitcoin.client.mempool_txids()
        await world.until_paid()
        await world.check_paid_once()


async def test_op_return_limit(tmp_path: Path, bitcoin: RealBitcoin) -> None:
    """The marker's 42 bytes pass at `-datacarriersize=42`, and nothing smaller lets them."""
    world = RealPegWorld(tmp_path, bitcoin)
    await world.start(60_000_000, 40_000_000)
    async with bitcoin.options("-datacarriersize=41"):
        await world.extend([world.side.burn(BOB, 20_000_000)])
        await world.blocks(4)
        batch = world.view.open_batch
        assert batch is not None and len(batch.marker.script()) == 42
        assert not await world.batches()
        await bitcoin.restart("-datacarriersize=42")
        await world.blocks(1, empty=True)
        assert await world.batches()
        await world.until_paid()
        await world.check_paid_once()
