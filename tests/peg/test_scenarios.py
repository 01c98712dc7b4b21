"""Directed scenarios of peg:14: members' services together, Bitcoin doing what it may do."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peg.batches import OpenBatch
from peg.parameters import LOCAL, WindowCap
from peg.records import OpenRecord, encode_record
from peg.state import PegView
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint
from tests.peg.members import PegWorld
from tests.peg.test_service import BOB, deposit, digests, found, pay_out, status
from tests.peg.world import p2wpkh_script

FEE_SATS = LOCAL.peg_out_fee_sats
FED_POOR_SATS = LOCAL.anchor_min_sats


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PegWorld:
    # Nobody tells news of Bitcoin while a member waits for it in these stories.
    monkeypatch.setattr("peg.service.LOOK_AGAIN_MS", 1)
    return PegWorld(tmp_path)


def view_of(world: PegWorld, member: int | None = None) -> PegView:
    view = world.services[min(world.online) if member is None else member].ledger.view
    assert view is not None
    return view


def open_batch(world: PegWorld, member: int | None = None) -> OpenBatch:
    batch = view_of(world, member).open_batch
    assert batch is not None
    return batch


def payments(world: PegWorld, script: bytes = BOB) -> list[int]:
    """What the best chain pays a script, from money alone."""
    made = [out for tx in world.bitcoin.transactions() for out in tx.outputs]
    return [value for value, to in made if to == script]


def assembled(world: PegWorld) -> dict[bytes, bytes]:
    """Every signed version any member holds, by txid."""
    found: dict[bytes, bytes] = {}
    for service in world.services:
        for anchor in service._broadcasts.anchors():
            for version in service._broadcasts.versions(anchor):
                found[version.txid] = version.raw
    return found


def check_books(world: PegWorld) -> None:
    """All members that are online agree, and both books are equal."""
    assert len(digests(world)) == 1
    for member in world.online:
        assert view_of(world, member).book.difference_sats == 0


async def reorganise(
    world: PegWorld, fork: bytes, length: int, first: Sequence[bytes] = ()
) -> bytes:
    """Make a branch from a fork best; its first block holds some transactions. Its tip."""
    at = fork
    for position in range(length):
        at = world.bitcoin.grow(at, first if position == 0 else ())
    world.bitcoin.activate(at)
    world.bitcoin.mempool.clear()
    await world.tell()
    return at


def block_below(world: PegWorld, depth: int) -> bytes:
    """Hash of the block that many blocks below the tip."""
    return world.bitcoin.chain()[-1 - depth].info.hash


async def bury(world: PegWorld, raws: Sequence[bytes] = (), *, count: int = 2) -> None:
    """Mine only these transactions, so deep that the next block commits them."""
    world.bitcoin.mine(raws, count=count)
    await world.tell()
    await world.extend()


async def found_with(world: PegWorld, anchor_sats: int) -> None:
    """Found with a pool of a given size."""
    raw = world.bitcoin.pay(world.script.program, anchor_sats)
    anchor = OutPoint(parse_parent_tx(raw).txid, 0)
    await world.mine([raw], count=7)
    for service in world.services:
        service.approve_record(encode_record(OpenRecord(0, anchor)))
    await world.settle()
    await world.extend()


# ---- wiped disks ----


async def test_wiped_member_resigns_same_txid(world: PegWorld) -> None:
    """At every step of a payout a member without disk comes to the same state and signatures."""
    await found(world)
    claim = await deposit(world)
    burn = world.side.burn(BOB, 20_000_000)
    signed: dict[bytes, tuple[bytes, ...]] = {}

    async def wipe(member: int) -> None:
        await world.restart(member, wipe=True)
        await world.settle()
        check_books(world)
        for service in world.services:
            for share in service._sessions._shares.values():
                key = share.txid + bytes((service._setup.member,))
                assert signed.setdefault(key, share.signatures) == share.signatures

    blocks: list[list[Any]] = [[claim], [burn], [], [], [], [], [], []]
    for step, transactions in enumerate(blocks):
        await world.extend(transactions)
        await wipe(step % 4)
        await world.mine()
        await wipe((step + 2) % 4)
    assert len(signed) >= 4
    assert payments(world) == [20_000_000 - FEE_SATS]


# ---- versions and reorganisations ----


async def test_reorg_swaps_version(world: PegWorld) -> None:
    """One version confirms, a shallow reorganisation confirms another: paid once, no RESET."""
    await found(world)
    await world.extend([await deposit(world)])
    burn = await pay_out(world)
    for _ in range(3):
        world.bitcoin.mine()
        await world.tell()
        await world.extend()
    first, second = (assembled(world)[v.txid] for v in open_batch(world).versions[:2])
    assert parse_parent_tx(first).outputs[1:] == parse_parent_tx(second).outputs[1:]
    fork = world.bitcoin.tip
    world.bitcoin.mine([second])
    await world.tell()
    await reorganise(world, fork, 2, [first])
    await world.extend()
    assert not any(t.commitment.reset for t in world.services[0].ledger.history._totals)
    assert status(world, burn)["committed"] is True
    assert payments(world) == [20_000_000 - FEE_SATS]
    assert view_of(world).steps[-1].txid == parse_parent_tx(first).txid
    check_books(world)


async def test_old_version_confirms_after_reset(world: PegWorld) -> None:
    """A batch selected before a RESET confirms instead of the one selected after it."""
    await found(world)
    await world.extend([await deposit(world)])
    await world.mine(count=3)
    await world.extend()
    await pay_out(world)
    old = dict(assembled(world))
    before = open_batch(world)
    await reorganise(world, block_below(world, 3), 8)
    await world.extend()
    after = open_batch(world)
    assert after.anchor == before.anchor and after.h_sel > before.h_sel
    assert after.marker.digest != before.marker.digest
    new = {txid: raw for txid, raw in assembled(world).items() if txid not in old}
    assert new, "R5 lets every member sign again after a RESET"
    world.bitcoin.mempool.clear()
    (txid, raw), *_ = old.items()
    await bury(world, [raw])
    assert view_of(world).steps[-1].txid == txid
    assert payments(world) == [20_000_000 - FEE_SATS]
    assert view_of(world).queue == ()
    for dead in new.values():
        assert world.bitcoin.judge(dead).reason == "missing-inputs"
    check_books(world)


async def test_reset_mid_batch(world: PegWorld) -> None:
    """Two members have signed when the committed chain goes; the third comes after the RESET."""
    await found(world)
    await world.extend([await deposit(world)])
    await world.mine(count=3)
    await world.extend()
    world.online -= {2, 3}
    await pay_out(world)
    half_signed = open_batch(world)
    assert not assembled(world)
    assert world.signers[0].signed and world.signers[1].signed
    await reorganise(world, block_below(world, 4), 9)
    await world.extend()
    await world.restart(2)
    await world.restart(3, wipe=True)
    await world.settle()
    await world.settle()
    assert open_batch(world).h_sel > half_signed.h_sel
    assert world.bitcoin.mempool
    await world.mine(count=3)
    await world.extend()
    assert payments(world) == [20_000_000 - FEE_SATS]
    check_books(world)


async def test_reorg_back_and_forth_three_times(world: PegWorld) -> None:
    """Two branches win in turn; each pays in its own way, and each burn at most once on it."""
    carol = p2wpkh_script("carol")
    await found(world)
    await world.extend([await deposit(world)])
    await world.mine(count=3)
    await world.extend()
    await pay_out(world)
    fork = world.bitcoin.tip
    (alone,) = [assembled(world)[v.txid] for v in open_batch(world).versions[:1]]
    await bury(world, [alone], count=3)
    assert payments(world) == [20_000_000 - FEE_SATS]
    tips = [world.bitcoin.tip]
    # The other branch begins without it. After the RESET both burns wait and are paid together.
    tips.append(await reorganise(world, fork, 8))
    await world.extend([world.side.burn(carol, 3_000_000)])
    assert payments(world) == []
    for turn in range(3):
        for _ in range(8):
            await world.mine()
            await world.extend()
            assert len(payments(world)) <= 1 and len(payments(world, carol)) <= 1
        assert (len(payments(world)), len(payments(world, carol))) == (1, 1)
        check_books(world)
        tips[(turn + 1) % 2] = world.bitcoin.tip
        other = tips[turn % 2]
        lead = world.bitcoin.height(world.bitcoin.tip) - world.bitcoin.height(other)
        tips[turn % 2] = await reorganise(world, other, lead + 6)
        block = await world.extend()
        assert world.services[0].ledger.history.totals(block.header.height).commitment.reset
    check_books(world)
    await world.restart(3, wipe=True)
    await world.settle()
    check_books(world)


# ---- money for fees ----


async def test_ladder_skips_capped_steps(world: PegWorld) -> None:
    """Steps that the pool cannot pay are left out; a donation lets a later one exist."""
    world.bitcoin.estimate = 100_000
    await found_with(world, FED_POOR_SATS)
    await world.extend([await deposit(world)])
    await world.extend([world.side.burn(BOB, 20_000_000)])
    for _ in range(8):
        world.bitcoin.mine()
        await world.tell()
        await world.extend()
    stuck = open_batch(world)
    assert [version.version for version in stuck.versions] == [0]
    assert stuck.next_step >= 3
    world.bitcoin.mine([world.bitcoin.pay(world.script.program, 1_000_000)])
    for _ in range(10):
        world.bitcoin.mine()
        await world.tell()
        await world.extend()
    climbed = open_batch(world)
    assert len(climbed.versions) > 1, "a later step exists"
    first, second, *_ = climbed.versions
    assert climbed.h_sel == stuck.h_sel and second.version > 3
    assert second.fee_sats == max(-(-13 * first.fee_sats // 10), first.fee_sats + climbed.vsize)
    assert climbed.versions[-1].txid in world.bitcoin.mempool
    check_books(world)


async def test_pool_empty_then_donation_unjams(world: PegWorld) -> None:
    """Fees above the whole pool: nothing is sent until somebody gives, then it is paid."""
    world.bitcoin.estimate = 200_000
    await found_with(world, FED_POOR_SATS)
    await world.extend([await deposit(world)])
    paid = world.side.burn(BOB, 20_000_000)
    await world.extend([paid])
    burn = OutPoint(paid.txid, 0)
    for _ in range(6):
        await world.mine()
        await world.extend()
    assert not world.bitcoin.mempool
    assert view_of(world).open_batch is None or open_batch(world).versions == ()
    await world.mine([world.bitcoin.pay(world.script.program, 1_000_000)])
    for _ in range(12):
        await world.mine()
        await world.extend()
    assert payments(world) == [20_000_000 - FEE_SATS]
    assert status(world, burn)["committed"] is True
    assert view_of(world).book.pool_sats >= 0
    check_books(world)


# ---- the queue ----


async def test_head_of_queue_larger_than_window_rest(tmp_path: Path) -> None:
    """Nothing overtakes a head that does not fit; it goes when the window has moved on."""
    caps = (WindowCap(6, 24_000_000, 0), WindowCap(24, 60_000_000, 0))
    world = PegWorld(tmp_path, replace(LOCAL, payout_cap_sats=24_000_000, caps=caps))
    await found(world)
    await world.extend([await deposit(world)])
    amounts = (20_000_000, 20_000_000, 1_000_000)
    burns = [world.side.burn(p2wpkh_script(f"to {i}"), a) for i, a in enumerate(amounts)]
    await world.extend(burns)
    await world.extend()
    first, head, small = (OutPoint(burn.txid, 0) for burn in burns)
    schedule = world.services[0].ledger.history.schedule
    assert [r.burn.burn_id for r in schedule.releases] == [first.serialize()]
    assert status(world, head)["status"] == status(world, small)["status"] == "READY"
    for _ in range(5):
        await world.mine()
        await world.extend()
    assert len(schedule.releases) == 1
    for _ in range(2):
        await world.mine()
        await world.extend()
    order = [release.burn.burn_id for release in schedule.releases]
    assert order == [outpoint.serialize() for outpoint in (first, head, small)]
    for _ in range(6):
        await world.mine()
        await world.extend()
    assert [len(payments(world, p2wpkh_script(f"to {i}"))) for i in range(3)] == [1, 1, 1]
    check_books(world)


async def test_identical_burns_same_script_and_amount(world: PegWorld) -> None:
    """Equal requests are paid as often as they were made, each with a receipt of its own."""
    await found(world)
    await world.extend([await deposit(world)])
    burns = [world.side.burn(BOB, 1_000_000) for _ in range(3)]
    await world.extend(burns[:2])
    await world.extend(burns[2:])
    for _ in range(8):
        await world.mine()
        await world.extend()
    assert payments(world) == [1_000_000 - FEE_SATS] * 3
    receipts = [status(world, OutPoint(burn.txid, 0)) for burn in burns]
    places = {(receipt["txid"], receipt["vout"]) for receipt in receipts}
    assert len(places) == 3
    check_books(world)
