"""Directed scenarios of peg:14 that turn on records: members' services, operators, Bitcoin."""

from pathlib import Path

import pytest

from peg.approvals import Approvals
from peg.commitments import read_coinbase
from peg.param_changes import param_names
from peg.parameters import LOCAL
from peg.records import (
    CancelRecord,
    ExcludeRecord,
    IncludeRecord,
    OpenRecord,
    ParamRecord,
    PauseRecord,
    Record,
    ReleaseRecord,
    ReopenRecord,
    ResumeRecord,
    encode_record,
)
from sidechain.errors import InvalidBlock, InvalidEncoding
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint
from tests.peg.members import PegWorld
from tests.peg.test_scenarios import (
    FEE_SATS,
    assembled,
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


async def approve(world: PegWorld, record: Record, *members: int) -> None:
    """Operators of some members, or of all, approve a record."""
    for member in members or sorted(world.online):
        world.services[member].approve_record(encode_record(record))
    await world.settle()


async def on(world: PegWorld, blocks: int) -> None:
    """Bitcoin and sidechain blocks in turn."""
    for _ in range(blocks):
        await world.mine()
        await world.extend()


def proposed(world: PegWorld) -> list[Record]:
    """The records of the block that the first member would propose now."""
    coinbase = world.propose().transactions[0]
    return list(read_coinbase(coinbase, world.params.pegged_asset).records)


def approvals(world: PegWorld, member: int) -> list[str]:
    return [each["type"] for each in world.services[member].desk.approvals()]


def stage(world: PegWorld, burn: OutPoint) -> str:
    return str(status(world, burn)["status"])


def reasons(world: PegWorld, burn: OutPoint) -> list[str]:
    return list(status(world, burn)["reasons"])


# ---- approvals ----


async def test_record_needs_the_approval_of_every_voter_and_is_used_up(world: PegWorld) -> None:
    """peg:3.3: a member votes for a record only when its own operator approved these bytes."""
    await found(world)
    await world.extend([await deposit(world)])
    burn = await pay_out(world)
    record = ExcludeRecord(burn.serialize())
    await approve(world, record, 0)
    block = world.propose()
    assert world.services[0].carries_work(block)
    verdicts = [await s.check_eventual_and_policy(block) for s in world.services]
    assert [verdict[1] for verdict in verdicts] == [True, False, False, False]
    assert "not approved" in verdicts[1][2]
    await approve(world, record, 1, 2, 3)
    await world.restart(2)
    assert approvals(world, 2) == ["EXCLUDE"], "an approval outlives a restart"
    await world.extend()
    assert stage(world, burn) == "BATCHED"
    for member in range(4):
        assert approvals(world, member) == []
    await world.restart(1)
    assert approvals(world, 1) == []
    with pytest.raises(InvalidEncoding, match="excluded already"):
        world.services[0].approve_record(encode_record(record))


async def test_approval_taken_back_is_no_approval(world: PegWorld) -> None:
    await found(world)
    await approve(world, ResumeRecord(), 0)
    (approval,) = world.services[0].desk.approvals()
    assert world.services[0].desk.revoke(approval["approval"])
    assert not world.services[0].desk.revoke(approval["approval"])
    assert proposed(world) == []


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (ExcludeRecord(bytes(36)), "no final block holds this burn"),
        (IncludeRecord(bytes(36)), "not excluded"),
        (ReleaseRecord(bytes(36)), "no final block holds this burn"),
        (CancelRecord(0, OutPoint(bytes(32), 0)), "no open batch"),
        (ReopenRecord(0, bytes(32), OutPoint(bytes(32), 0)), "neither broke the lane"),
        (ParamRecord(parameter=7, value=10**12, active_from=10_000), "breaks S2"),
        (ParamRecord(parameter=99, value=1, active_from=10_000), "N21"),
    ],
)
async def test_record_without_effect_is_not_approved(
    world: PegWorld, record: Record, reason: str
) -> None:
    await found(world)
    with pytest.raises(InvalidEncoding, match=reason):
        world.services[0].approve_record(encode_record(record))


# ---- PAUSE (7.3) ----


async def test_pause_is_obeyed_at_once_and_then_public(world: PegWorld) -> None:
    """R7, I9: no payout is signed from the message on; blocks, claims and sweeps go on."""
    await found(world)
    await world.extend([await deposit(world)])
    world.services[3].pause(deposits=True, blocks=10)
    world.deliver()
    for service in world.services:
        assert service.desk.is_pause_heard
    burn = await pay_out(world, 1_000_000)
    assert not any(signer.signed for signer in world.signers)
    assert not world.bitcoin.mempool
    assert stage(world, burn) == "READY" and reasons(world, burn)[0].startswith("PAUSED")
    info = world.services[0].info()
    assert info["pause"]["paused"] and info["pause"]["members"] == [3]
    assert world.services[0].reports.closed_reason().startswith("deposits are paused")
    assert not info["pause"]["heard"], "the record is final"
    late = await deposit(world, 2_000_000)
    await world.extend([late])
    assert late.inputs[0].prevout in world.services[0].ledger.history._by_outpoint
    for _ in range(14):
        await on(world, 1)
    assert payments(world) == [1_000_000 - FEE_SATS], "a pause ends by itself"
    check_books(world)


async def test_resume_of_k_ends_a_pause_early(world: PegWorld) -> None:
    await found(world)
    await world.extend([await deposit(world)])
    world.services[1].pause(deposits=False, blocks=None)
    world.deliver()
    burn = await pay_out(world, 1_000_000)
    assert stage(world, burn) == "READY"
    await approve(world, ResumeRecord())
    await world.extend()
    assert not world.services[0].info()["pause"]["paused"]
    await on(world, 3)
    assert payments(world) == [1_000_000 - FEE_SATS]
    with pytest.raises(InvalidEncoding, match="may pause again"):
        world.services[1].pause(deposits=False, blocks=5)


async def test_pause_message_of_a_liar_stops_nobody(world: PegWorld) -> None:
    """A PAUSE in another's name, too long or repeated is not obeyed."""
    await found(world)
    await world.extend([await deposit(world)])
    good = world.services[2].pause(deposits=False, blocks=3)
    world.frames.clear()
    clock = good.until - 3
    for member, until, signature in (
        (1, good.until, good.signature),
        (2, clock + LOCAL.pause_max + 1, good.signature),
    ):
        lie = PauseRecord(
            member=member, deposits=False, sequence=0, until=until, signature=signature
        )
        world.services[0].desk.on_frame(encode_record(lie))
        assert not world.services[0].desk.is_pause_heard


async def test_own_pause_when_it_cannot_be_kept_then_nobody_hears_of_it(
    world: PegWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """peg:7.3: durable first; a failing disk leaves nothing told and may be retried."""
    await found(world)
    with monkeypatch.context() as patch:

        def full(*_: object) -> str:
            raise OSError("disk full")

        patch.setattr(Approvals, "approve", full)
        with pytest.raises(OSError, match="disk full"):
            world.services[0].pause(deposits=False, blocks=20)
    assert not world.services[0].desk.is_pause_heard
    await world.extend()
    assert not world.services[1].info()["pause"]["paused"]
    world.services[0].pause(deposits=False, blocks=20)
    assert world.services[0].desk.is_pause_heard


async def test_own_pause_survives_a_restart_and_is_told_again(world: PegWorld) -> None:
    await found(world)
    world.online -= {0}
    world.services[0].pause(deposits=False, blocks=20)
    world.frames.clear()
    await world.restart(0)
    assert world.services[0].desk.is_pause_heard
    await world.extend()
    await world.extend()
    assert all(service.info()["pause"]["paused"] for service in world.services)


async def test_minimal_blocks_carry_a_pause(world: PegWorld) -> None:
    """N9: even when members agree on nothing else, a pause becomes final."""
    await found(world)
    world.services[0].pause(deposits=False, blocks=20)
    await world.settle()
    block = await world.extend(minimal=True)
    assert world.services[0].is_minimal(block)
    assert world.services[2].info()["pause"]["paused"]


# ---- CANCEL, EXCLUDE, INCLUDE, RELEASE ----


async def test_cancel_recalls_an_unconfirmed_payout(world: PegWorld) -> None:
    """P20, P21, P22: an empty batch on the same anchor replaces it; its burn stays queued."""
    await found(world)
    await world.extend([await deposit(world)])
    burn = await pay_out(world)
    old = open_batch(world)
    await approve(world, CancelRecord(0, old.anchor))
    await approve(world, ExcludeRecord(burn.serialize()))
    await world.extend()
    new = open_batch(world)
    assert new.anchor == old.anchor and new.payouts == () and new.h_sel > old.h_sel
    assert new.versions[0].fee_sats >= old.versions[-1].fee_sats + new.vsize
    assert set(world.bitcoin.mempool) == {new.versions[-1].txid}, "R5 lets every member sign it"
    await world.mine(count=2)
    await world.extend()
    assert payments(world) == []
    assert stage(world, burn) == "EXCLUDED"
    await on(world, 3)
    assert payments(world) == []
    await approve(world, IncludeRecord(burn.serialize()))
    await world.extend()
    await on(world, 4)
    assert payments(world) == [20_000_000 - FEE_SATS]
    check_books(world)


async def test_cancel_races_payout(world: PegWorld) -> None:
    """P35: the payout that CANCEL meant to recall confirms first: paid once, walked, settled."""
    await found(world)
    await world.extend([await deposit(world)])
    burn = await pay_out(world)
    old = open_batch(world)
    raw = assembled(world)[old.versions[-1].txid]
    await approve(world, CancelRecord(0, old.anchor))
    await world.extend()
    cancelling = open_batch(world)
    assert cancelling.payouts == ()
    loser = assembled(world)[cancelling.versions[-1].txid]
    world.bitcoin.mempool.clear()
    await bury(world, [raw], count=3)
    assert status(world, burn)["committed"] is True
    assert payments(world) == [20_000_000 - FEE_SATS]
    assert world.bitcoin.judge(loser).reason == "missing-inputs"
    await on(world, 4)
    assert payments(world) == [20_000_000 - FEE_SATS]
    check_books(world)


async def test_excluded_head_lets_the_queue_go_on(world: PegWorld) -> None:
    """P22: a payout that Bitcoin refuses is taken out, and what waits behind it is paid."""
    await found(world)
    await world.extend([await deposit(world)])
    poison = world.side.burn(BOB, 3_000_000)
    good = world.side.burn(p2wpkh_script("carol"), 2_000_000)
    await world.extend([poison, good])
    await approve(world, ExcludeRecord(OutPoint(poison.txid, 0).serialize()))
    await on(world, 5)
    assert payments(world) == []
    assert payments(world, p2wpkh_script("carol")) == [2_000_000 - FEE_SATS]
    assert view_of(world).book.unpaid_sats == 3_000_000 - FEE_SATS, "still owed"
    check_books(world)


async def test_release_pays_an_oversize_burn_past_the_windows(world: PegWorld) -> None:
    await found(world)
    await world.extend([await deposit(world, 500_000_000)])
    large = world.side.burn(BOB, 300_000_000)
    await world.extend([large])
    await on(world, 6)
    burn = OutPoint(large.txid, 0)
    assert stage(world, burn) == "HELD_OVERSIZE"
    await approve(world, ReleaseRecord(burn.serialize()))
    await world.extend()
    await on(world, 4)
    assert payments(world) == [300_000_000 - FEE_SATS]
    small = world.side.burn(p2wpkh_script("dave"), 1_000_000)
    await world.extend([small])
    await on(world, 1)
    assert reasons(world, OutPoint(small.txid, 0))[0].startswith("CAP"), "counted in the windows"
    check_books(world)


# ---- PARAM ----


async def test_param_record_changes_what_is_in_force(world: PegWorld) -> None:
    """peg:7.4: the fee of a burn is that of its height, and the mempool knows the new minimum."""
    names = param_names(LOCAL)
    await found(world)
    await world.extend([await deposit(world)])
    height = world.side.height
    fee = ParamRecord(parameter=names["peg_out_fee_sats"], value=4_000, active_from=height + 4)
    least = ParamRecord(parameter=names["min_pegout_sats"], value=30_000, active_from=height + 4)
    await approve(world, fee)
    await approve(world, least)
    await world.extend([world.side.burn(BOB, 25_000)])
    await on(world, 3)
    assert world.services[0].info()["min_pegout_sats"] == 30_000
    small = world.side.burn(p2wpkh_script("erin"), 25_000)
    assert not world.services[0].claim_is_ripe(small), "no honest member builds a block with it"
    await world.extend([world.side.burn(BOB, 40_000)])
    await on(world, 5)
    assert sorted(payments(world)) == [25_000 - FEE_SATS, 40_000 - 4_000]
    check_books(world)


# ---- REOPEN (P4, P5) ----


async def test_lane_broken_and_reopen(world: PegWorld) -> None:
    """P5: k keys spent the anchor in no known form; the lane goes on after what it paid."""
    anchor = await found(world)
    await world.extend([await deposit(world)])
    first = world.side.burn(BOB, 5_000_000)
    second = world.side.burn(BOB, 5_000_000)
    third = world.side.burn(p2wpkh_script("carol"), 3_000_000)
    await world.extend([first, second, third])
    paid = (5_000_000 - FEE_SATS, BOB)
    outputs = [(30_000, b"\x51"), paid, (200_000, world.script.program)]
    breaking = parent_tx([anchor], outputs)
    txid = parse_parent_tx(breaking).txid
    await bury(world, [breaking], count=8)
    assert view_of(world).halts[0] == "X2"
    assert view_of(world).lane.broken_by == txid  # type: ignore[union-attr]
    record = ReopenRecord(0, txid, OutPoint(txid, 2))
    shown = world.services[0].describe_record(encode_record(record))
    assert [(each["vout"], each["payout_sats"]) for each in shown["pays"]] == [(1, paid[0])]
    for wrong in (OutPoint(txid, 0), OutPoint(txid, 1), OutPoint(txid, 9)):
        await approve(world, ReopenRecord(0, txid, wrong))
        assert proposed(world) == []
    await approve(world, record)
    await world.extend()
    view = view_of(world)
    assert view.lane is not None and view.lane.broken_by is None and view.halts == ()
    assert view.lane.anchor == OutPoint(txid, 2) and view.lane.index == 1
    check_books(world)
    await on(world, 5)
    assert payments(world) == [paid[0]] * 2, "each of two equal burns once"
    assert payments(world, p2wpkh_script("carol")) == [3_000_000 - FEE_SATS]
    assert status(world, OutPoint(first.txid, 0))["vout"] == 1
    check_books(world)
    digest = view_of(world).digest
    await world.restart(0, wipe=True)
    await world.settle()
    assert view_of(world, 0).digest == digest


async def test_anchor_funding_reorged_and_returns(world: PegWorld) -> None:
    """P4: only a transaction that spends the old funding's first input may replace it."""
    source = OutPoint(b"\x0a" * 32, 0)
    old = parent_tx([source], [(3_000_000, world.script.program)])
    anchor = OutPoint(parse_parent_tx(old).txid, 0)
    await world.mine()
    fork = world.bitcoin.tip
    await world.mine([old], count=8)
    for service in world.services:
        service.approve_record(encode_record(OpenRecord(0, anchor)))
    await world.settle()
    await world.extend()
    old_tip = world.bitcoin.tip
    assert view_of(world).lane is not None
    twin = parent_tx([source], [(2_000_000, world.script.program)])
    other = world.bitcoin.pay(world.script.program, 2_500_000)
    at = world.bitcoin.grow(fork, [twin, other])
    for _ in range(18):
        at = world.bitcoin.grow(at)
    world.bitcoin.activate(at)
    await world.tell()
    await world.extend()
    assert view_of(world).totals.commitment.reset
    assert str(view_of(world).idle) == "NO_LANE"
    wrong = ReopenRecord(0, anchor.txid, OutPoint(parse_parent_tx(other).txid, 0))
    await approve(world, wrong)
    assert proposed(world) == [], "planted bug 20"
    (waiting,) = world.services[0].desk.approvals()
    assert waiting["waits_for"].startswith("P4: new funding does not spend")
    right = ReopenRecord(0, anchor.txid, OutPoint(parse_parent_tx(twin).txid, 0))
    await approve(world, right)
    await world.extend()
    lane = view_of(world).lane
    assert lane is not None and lane.anchor == right.anchor and lane.index == 0
    check_books(world)
    await world.extend([await deposit(world)])
    burn = await pay_out(world, 1_000_000)
    assert open_batch(world).anchor == right.anchor
    at = old_tip
    for _ in range(30):
        at = world.bitcoin.grow(at)
    world.bitcoin.activate(at)
    world.bitcoin.mempool.clear()
    await world.tell()
    await world.extend()
    back = view_of(world).lane
    assert back is not None and back.anchor == anchor, "the first funding is back, and counts"
    assert world.bitcoin.judge(twin).reason != ""
    assert payments(world) == []
    assert stage(world, burn) in ("RELEASED", "BATCHED")


# ---- halts ----


async def test_r5_without_an_explanation_halts_until_resume(world: PegWorld) -> None:
    """X3: a member that signed other outputs signs nothing more there until k operators agree."""
    await found(world)
    await world.extend([await deposit(world)])
    await pay_out(world)
    world.bitcoin.mempool.clear()
    batch = open_batch(world)
    service = world.services[0]
    entry = service._sessions._entries[batch.anchor]
    await world.restart(0)
    lied = type(entry)(
        anchor=entry.anchor, h_sel=entry.h_sel - 1, version=0, txid=bytes(32), digest=bytes(32)
    )
    world.services[0]._sessions._entries[batch.anchor] = lied
    world.signers[0].signed.clear()
    await world.settle()
    assert not world.signers[0].signed
    assert "X3" in world.services[0].summary()["alarms"]["peg does not sign"]
    await approve(world, ResumeRecord())
    await world.extend()
    await world.settle()
    assert world.signers[0].signed


async def test_second_validator_that_disagrees_stops_payouts(world: PegWorld) -> None:
    """X7, by the port through which a member hears of it."""
    await found(world)
    await world.extend([await deposit(world)])
    world.second_opinions[0] = "block 7 is another one"
    await pay_out(world)
    assert not world.signers[0].signed
    assert world.signers[1].signed
    assert "X7" in world.services[0].summary()["alarms"]["peg does not sign"]


async def test_two_proposers_claim_same_deposit(world: PegWorld) -> None:
    """C5: one block with both is objectively invalid; two claims of one deposit count once."""
    await found(world)
    raw = world.bitcoin.pay(world.side.deposit_script(ALICE), 50_000_000)
    made_in = world.bitcoin.mine([raw])
    await world.mine(count=5)
    first = world.side.claim(world.bitcoin, raw, made_in, ALICE)
    second = world.side.claim(world.bitcoin, raw, made_in, ALICE, fee_sats=2_000)
    assert first.txid != second.txid
    for service in world.services:
        with pytest.raises(InvalidBlock, match="C5"):
            service.check_objective(world.propose([first, second]))
    await world.extend([second])
    for service in world.services:
        claimed = service.ledger.history.claimed(first.inputs[0].prevout)
        assert claimed is not None and claimed.height == world.side.height
    assert view_of(world).book.claimed_sats == 50_000_000
    check_books(world)


async def test_dust_donations_to_fed_are_left_alone(world: PegWorld) -> None:
    """P25: a donation below min_pegin is never an input, so nobody can drain the pool with dust."""
    await found(world)
    dust = [world.bitcoin.pay(world.script.program, LOCAL.min_pegin_sats - 1) for _ in range(30)]
    gift = world.bitcoin.pay(world.script.program, LOCAL.min_pegin_sats)
    await world.mine([*dust, gift], count=12)
    await world.extend()
    kinds = [str(coin.kind) for coin in view_of(world).coins]
    assert kinds.count("donation") == 1
    assert view_of(world).open_batch is None
    check_books(world)
