"""Members' peg services together: founding, deposits, payouts, restarts, reorganisations."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peg.records import OpenRecord, PauseRecord, encode_record, record_script
from peg.signing import KIND_PEGSIG, KIND_PEGSTATE, decode_pegsig
from peg.status import outpoint_text
from sidechain.crypto.keys import schnorr_sign
from sidechain.errors import InvalidEncoding, InvariantError, PeerFault
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.validation.pegins import FedpegPair
from tests.peg.members import PegWorld
from tests.peg.world import p2wpkh_script, parent_tx, secret

ANCHOR_SATS = 5_000_000
DEPOSIT_SATS = 100_000_000
ALICE = p2wpkh_script("alice")
BOB = p2wpkh_script("bob")


async def found(world: PegWorld) -> OutPoint:
    """Fund and open the lane; the anchor."""
    raw = world.bitcoin.pay(world.script.program, ANCHOR_SATS)
    anchor = OutPoint(parse_parent_tx(raw).txid, 0)
    await world.mine([raw], count=7)
    for service in world.services:
        service.approve_record(encode_record(OpenRecord(0, anchor)))
    await world.settle()
    await world.extend()
    return anchor


async def deposit(world: PegWorld, amount_sats: int = DEPOSIT_SATS) -> Transaction:
    """Deposit for Alice and bury it; the claim."""
    raw = world.bitcoin.pay(world.side.deposit_script(ALICE), amount_sats)
    block_hash = world.bitcoin.mine([raw])
    world.bitcoin.mine(count=5)
    await world.tell()
    return world.side.claim(world.bitcoin, raw, block_hash, ALICE)


async def pay_out(world: PegWorld, amount_sats: int = 20_000_000) -> OutPoint:
    """Burn an amount for Bob and go on until its batch is in everybody's mempool; the burn."""
    burn = world.side.burn(BOB, amount_sats)
    await world.extend([burn])
    for _ in range(8):
        if world.bitcoin.mempool:
            break
        await world.mine()
        await world.extend()
    return OutPoint(burn.txid, 0)


@pytest.fixture
def world(tmp_path: Path) -> PegWorld:
    return PegWorld(tmp_path)


def status(world: PegWorld, burn: OutPoint, member: int = 0) -> dict[str, Any]:
    reply = world.services[member].reports.pegout(outpoint_text(burn))
    assert reply is not None
    return reply


def digests(world: PegWorld) -> set[bytes]:
    views = [world.services[member].ledger.view for member in world.online]
    return {view.digest for view in views if view is not None}


async def test_founding_opens_deposits_after_the_first_epoch(world: PegWorld) -> None:
    service = world.services[0]
    assert service.reports.closed_reason() == "block 1 is not final yet"
    await found(world)
    assert service.reports.closed_reason() == "the first epoch is not over yet"
    while world.side.height < world.params.dynamic_epoch_length - 1:
        await world.extend()
    assert service.reports.closed_reason() == ""
    info = service.reports.info()
    assert info["deposits_open"] is True
    assert info["pool_sats"] == ANCHOR_SATS
    assert info["lane"]["index"] == 0


async def test_peg_round_trip_pays_once_and_the_book_is_exact(world: PegWorld) -> None:
    await found(world)
    await world.extend([await deposit(world)])
    burn = await pay_out(world)
    assert status(world, burn)["status"] == "BATCHED"
    await world.mine()
    reply = status(world, burn)
    assert (reply["status"], reply["committed"], reply["depth"]) == ("CONFIRMED", False, 1)
    await world.mine()
    await world.extend()
    assert status(world, burn)["committed"] is True
    await world.mine(count=6)
    await world.extend()
    assert status(world, burn)["status"] == "SETTLED"
    paid = [out for tx in world.bitcoin.transactions() for out in tx.outputs if out[1] == BOB]
    assert paid == [(20_000_000 - world.parameters.peg_out_fee_sats, BOB)]
    for service in world.services:
        audit = service.reports.audit()
        assert audit["equal"] and audit["solvent"]
        assert audit["reserve_sats"] == audit["liabilities_sats"] + audit["pool_sats"]
    assert len(digests(world)) == 1


async def test_k_members_pay_while_one_is_away_and_it_catches_up(world: PegWorld) -> None:
    await found(world)
    await world.extend([await deposit(world)])
    world.online.discard(3)
    await pay_out(world)
    assert world.bitcoin.mempool
    await world.mine(count=3)
    await world.extend()
    await world.restart(3)
    await world.settle()
    assert len(digests(world)) == 1


async def test_below_k_nothing_is_sent_until_one_comes_back(world: PegWorld) -> None:
    await found(world)
    await world.extend([await deposit(world)])
    world.online -= {2, 3}
    await pay_out(world)
    assert not world.bitcoin.mempool
    await world.restart(2)
    await world.settle()
    await world.settle()
    assert len(world.bitcoin.mempool) == 1


async def test_wiped_member_signs_the_same_transaction_again(world: PegWorld) -> None:
    """P31: the open batch is built again from the two chains, byte for byte."""
    await found(world)
    await world.extend([await deposit(world)])
    await pay_out(world)
    first = world.journals[3].bodies[-1]
    await world.restart(3, wipe=True)
    await world.services[3].run_once()
    assert world.journals[3].bodies == [first]


async def test_all_members_wiped(world: PegWorld) -> None:
    await found(world)
    await world.extend([await deposit(world)])
    await pay_out(world)
    txids = set(world.bitcoin.mempool)
    world.bitcoin.mempool.clear()
    for member in range(4):
        await world.restart(member, wipe=True)
    await world.settle()
    assert set(world.bitcoin.mempool) == txids


async def test_signature_waits_for_the_journal(world: PegWorld) -> None:
    """P32, planted bug 24: what the disk refuses is not sent."""
    await found(world)
    await world.extend([await deposit(world)])
    world.journals[0].is_broken = True
    burn = world.side.burn(BOB, 20_000_000)
    world.final(world.propose([burn]))
    with pytest.raises(Exception, match="disk full"):
        for _ in range(8):
            await world.settle()
            world.bitcoin.mine()
            for service in world.services:
                service.on_parent_change()
            world.final(world.propose())
    assert not world.signers[0].signed
    assert not any(frame[0] == 0 and frame[2] == KIND_PEGSIG for frame in world.frames)


async def test_fee_ladder_replaces_the_batch_in_the_mempool(world: PegWorld) -> None:
    await found(world)
    await world.extend([await deposit(world)])
    await pay_out(world)
    (first,) = world.bitcoin.mempool
    for _ in range(3):
        world.bitcoin.mine()
        await world.tell()
        await world.extend()
    (second,) = world.bitcoin.mempool
    assert first != second
    view = world.services[0].ledger.view
    assert view is not None and view.open_batch is not None
    assert [version.txid for version in view.open_batch.versions][-1] == second


async def test_reorganisation_of_a_confirmed_batch_pays_once_after_reset(world: PegWorld) -> None:
    await found(world)
    await world.extend([await deposit(world)])
    burn = await pay_out(world)
    fork = world.bitcoin.tip
    await world.mine(count=2)
    await world.extend()
    assert status(world, burn)["committed"] is True
    at = fork
    for _ in range(5):
        at = world.bitcoin.grow(at)
    world.bitcoin.activate(at)
    await world.tell()
    block = await world.extend()
    assert world.services[0].ledger.history.totals(block.header.height).commitment.reset
    await world.tell()
    assert len(world.bitcoin.mempool) == 1
    await world.mine(count=3)
    await world.extend()
    assert status(world, burn)["committed"] is True
    paid = [out for tx in world.bitcoin.transactions() for out in tx.outputs if out[1] == BOB]
    assert len(paid) == 1
    assert len(digests(world)) == 1
    assert world.services[0].reports.audit()["equal"]


async def test_other_outputs_for_an_anchor_are_not_signed_without_a_reset(
    world: PegWorld,
) -> None:
    """R5: a journal that holds another selection of the same anchor stops this member."""
    await found(world)
    await world.extend([await deposit(world)])
    await pay_out(world)
    body = bytearray(world.journals[0].bodies[-1])
    body[-1] ^= 1
    world.journals[0].bodies.append(bytes(body))
    world.signers[0].signed.clear()
    service = await world.restart(0)
    await service.run_once()
    assert not world.signers[0].signed
    assert any("R5" in str(facts) for _, _, facts in world.logs[0].lines)


async def test_wrong_batch_signature_blames_its_sender(world: PegWorld) -> None:
    """P33: the frame is signed, so what it holds is its sender's."""
    await found(world)
    await world.extend([await deposit(world)])
    world.online.discard(0)
    await pay_out(world)
    await world.restart(0)
    await world.services[0].run_once()
    share = world.services[1]._sessions._shares
    good = list(share.values())[-1]
    body = bytearray(good.encode())
    body[-2] ^= 1
    frame = bytes(body) + world.signers[1].sign_peg_frame(KIND_PEGSIG, bytes(body))
    with pytest.raises(PeerFault) as caught:
        world.services[0].on_frame(KIND_PEGSIG, 1, frame)
    assert caught.value.member_id == 1
    assert decode_pegsig(bytes(body)).txid == good.txid


async def test_frame_with_another_members_signature_is_refused(world: PegWorld) -> None:
    body = bytes(36)
    frame = body + world.signers[2].sign_peg_frame(KIND_PEGSTATE, body)
    world.services[0].on_frame(KIND_PEGSTATE, 2, frame)
    with pytest.raises(PeerFault):
        world.services[0].on_frame(KIND_PEGSTATE, 1, frame)
    with pytest.raises(PeerFault):
        world.services[0].on_frame(KIND_PEGSTATE, 2, frame[:60])


@pytest.mark.parametrize(("liars", "signs"), [([1], True), ([1, 2], False)])
async def test_signing_stops_only_when_more_than_f_s_members_report_another_state(
    world: PegWorld, liars: list[int], signs: bool
) -> None:
    """P33: states are compared at equal heights."""
    await found(world)
    await world.extend([await deposit(world)])
    world.online = {0}
    world.final(world.propose([world.side.burn(BOB, 1_000_000)]))
    for height in range(world.side.height, world.side.height + 4):
        for liar in liars:
            body = height.to_bytes(4, "little") + bytes(32)
            frame = body + world.signers[liar].sign_peg_frame(KIND_PEGSTATE, body)
            world.services[0].on_frame(KIND_PEGSTATE, liar, frame)
        await world.settle()
        await world.mine()
        world.final(world.propose())
    assert bool(world.signers[0].signed) is signs
    assert world.logs[0].has("peg state differs") or liars == [1]


async def test_node_down_keeps_blocks_going_and_signs_nothing(world: PegWorld) -> None:
    await found(world)
    await world.extend([await deposit(world)])
    world.healthy = False
    world.bitcoin.is_down = True
    block = world.propose([world.side.burn(BOB, 20_000_000)])
    for service in world.services:
        assert await service.check_eventual_and_policy(block) == (True, True, "")
    world.final(block)
    await world.settle()
    world.healthy = True
    world.bitcoin.is_down = False
    await pay_out(world, 1_000_000)
    assert world.bitcoin.mempool


async def test_claim_before_depth_and_of_a_spent_deposit_is_not_accepted(world: PegWorld) -> None:
    await found(world)
    raw = world.bitcoin.pay(world.side.deposit_script(ALICE), DEPOSIT_SATS)
    block_hash = world.bitcoin.mine([raw])
    world.bitcoin.mine(count=4)
    await world.tell()
    claim = world.side.claim(world.bitcoin, raw, block_hash, ALICE)
    service = world.services[0]
    assert not service.claim_is_ripe(claim)
    eventual, _, reason = await service.check_eventual_and_policy(world.propose([claim]))
    assert not eventual and "C1" in reason
    world.bitcoin.mine()
    await world.tell()
    assert not service.claim_is_ripe(claim)
    await service.run_once()
    assert service.claim_is_ripe(claim)
    outpoint = claim.inputs[0].prevout
    world.bitcoin.mine([parent_tx([outpoint], [(1, BOB)])])
    await world.tell()
    service.claim_is_ripe(claim)
    await service.run_once()
    assert not service.claim_is_ripe(claim)
    verdict = await service.check_eventual_and_policy(world.propose([claim]))
    assert verdict[0] and not verdict[1] and "C7" in verdict[2]


async def test_trial_spend_is_signed_for_a_separate_output_only(world: PegWorld) -> None:
    """P2: never for the anchor that OPEN is to name."""
    anchor_raw = world.bitcoin.pay(world.script.program, ANCHOR_SATS)
    trial_raw = world.bitcoin.pay(world.script.program, 10_000)
    anchor = OutPoint(parse_parent_tx(anchor_raw).txid, 0)
    trial = OutPoint(parse_parent_tx(trial_raw).txid, 0)
    await world.mine([anchor_raw, trial_raw], count=7)
    for service in world.services:
        service.approve_record(encode_record(OpenRecord(0, anchor)))
    unsigned, signature = await world.services[0].sign_trial_spend(trial)
    assert parse_parent_tx(unsigned).inputs == (trial,)
    assert signature[-1] == 1
    with pytest.raises(InvalidEncoding):
        await world.services[0].sign_trial_spend(anchor)


async def test_output_whose_trial_spend_is_signed_never_becomes_the_anchor(
    world: PegWorld,
) -> None:
    """P2, P32: journaled first; neither approved nor voted for, also after a restart."""
    raw = world.bitcoin.pay(world.script.program, ANCHOR_SATS)
    anchor = OutPoint(parse_parent_tx(raw).txid, 0)
    record = encode_record(OpenRecord(0, anchor))
    await world.mine([raw], count=7)
    world.journals[0].is_broken = True
    with pytest.raises(InvariantError):
        await world.services[0].sign_trial_spend(anchor)
    assert not world.signers[0].signed
    world.journals[0].is_broken = False
    first = await world.services[0].sign_trial_spend(anchor)
    assert await world.services[0].sign_trial_spend(anchor) == first
    assert len(world.journals[0].bodies) == 1
    service = await world.restart(0)
    with pytest.raises(InvalidEncoding, match="P2"):
        service.approve_record(record)
    world.online -= {0}
    for member in (1, 2, 3):
        world.services[member].approve_record(record)
    await world.settle()
    block = world.propose()
    assert await world.services[1].check_eventual_and_policy(block) == (True, True, "")
    service._approvals.approve(record)
    _, policy, reason = await service.check_eventual_and_policy(block)
    assert not policy and "P2" in reason


async def test_trial_spend_of_a_deep_output_is_signed_until_the_lane_is_open(
    world: PegWorld,
) -> None:
    """P2: a founding that goes on late finds its output counted as a donation already."""
    raw = world.bitcoin.pay(world.script.program, 20_000)
    trial = OutPoint(parse_parent_tx(raw).txid, 0)
    await world.mine([raw], count=9)
    await world.extend()
    service = world.services[0]
    view = service.ledger.view
    assert view is not None and [coin.outpoint for coin in view.coins] == [trial]
    await service.sign_trial_spend(trial)
    await found(world)
    with pytest.raises(InvalidEncoding, match="OPEN"):
        await service.sign_trial_spend(trial)


async def test_sidechain_second_signed_block_halts(world: PegWorld) -> None:
    """X1: where two blocks have k signatures nobody knows which burns are real."""
    await found(world)
    await world.extend([await deposit(world)])
    world.halted.add(0)
    await pay_out(world)
    assert not world.signers[0].signed
    assert all(world.signers[member].signed for member in (1, 2, 3))
    assert any("X1" in str(facts) for _, _, facts in world.logs[0].lines)
    world.halted.clear()
    await world.tell()
    assert world.signers[0].signed


async def test_minimal_block_passes_whatever_bitcoin_says(world: PegWorld) -> None:
    await found(world)
    fork = world.bitcoin.chain()[-4].info.hash
    await world.extend()
    at = fork
    for _ in range(6):
        at = world.bitcoin.grow(at)
    world.bitcoin.activate(at)
    await world.tell()
    block = world.propose(minimal=True)
    for service in world.services:
        assert service.is_minimal(block)
        assert not service.carries_work(block)
        assert await service.check_eventual_and_policy(block) == (True, True, "")
    world.final(block)


async def test_addresses_when_one_must_not_be_shown_then_closed_with_the_reason(
    world: PegWorld,
) -> None:
    """peg:4: syncing, before a script change, paused for deposits, S11."""
    await found(world)
    while world.side.height < world.params.dynamic_epoch_length - 1:
        await world.extend()
    reports = world.services[0].reports
    assert reports.closed_reason() == ""
    length = world.params.dynamic_epoch_length
    epochs = world.params.total_valid_epochs
    assert reports.info()["claim_before_height"] == length + epochs * length
    world.catching_up.add(0)
    assert "catching up" in reports.closed_reason()
    world.catching_up.clear()
    world.script_may_change = True
    assert "may change at the end of this epoch" in reports.closed_reason()
    world.script_may_change = False
    enforced = world.valid_scripts
    world.valid_scripts = (FedpegPair(b"\x51\x20" + bytes(32), b"\x51"), *enforced)
    assert reports.closed_reason().startswith("S11")
    world.valid_scripts = enforced
    await pause_deposits(world, 2)
    assert reports.closed_reason().startswith("deposits are paused until clock")
    assert not reports.info()["deposits_open"]


async def pause_deposits(world: PegWorld, member: int) -> None:
    """A final block with one member's PAUSE that stops deposits too."""
    tip = world.services[0].ledger.history.tip
    assert tip is not None
    record = PauseRecord(
        member=member, deposits=True, sequence=1, until=tip.clock + 5, signature=bytes(64)
    )
    key = secret(f"block {member}")
    signed = replace(record, signature=schnorr_sign(key, record.message(world.params.genesis_hash)))
    scripts = world.services[0].plan_coinbase(world.side.height + 1, minimal=False) or []
    world.final(world.side.block([*scripts, record_script(signed)]))
    await world.settle()
