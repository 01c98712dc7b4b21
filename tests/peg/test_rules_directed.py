"""Rules of the peg that no other test names, each looked at directly."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation.bitcoind_process import BitcoindProgram, bitcoind_arguments
from peg.batches import Idle
from peg.lanes import BATCH_VERSION, LaneStep, SpendKind, encode_unsigned
from peg.limits import Burn, BurnCode, burn_code
from peg.parameters import LARGEST_DUST_SATS, LOCAL, PRODUCTION
from peg.receipts import PayoutWatch, wrong_payout
from peg.reserves import Halt
from peg.sessions import NO_ALARMS, OwnAlarms, refusal
from peg.state import PegView
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint, TxOut
from tests.peg.members import PegWorld
from tests.peg.test_scenarios import assembled, check_books, open_batch, payments, view_of
from tests.peg.test_service import BOB, deposit, found, pay_out, status
from tests.peg.world import p2wpkh_script

FEE_SATS = LOCAL.peg_out_fee_sats


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PegWorld:
    monkeypatch.setattr("peg.service.LOOK_AGAIN_MS", 1)
    return PegWorld(tmp_path)


async def test_no_deposit_address_before_open_is_final(world: PegWorld) -> None:
    """P3."""
    await world.mine(count=9)
    await world.extend()
    assert "anchor is not opened" in world.services[0].reports.closed_reason()
    await found(world)
    assert "anchor" not in world.services[0].reports.closed_reason()


async def test_anchor_near_its_lock_is_refreshed_while_payouts_are_halted(
    world: PegWorld,
) -> None:
    """P23, P24, X6: only a sweep is selected; when it is committed the halt ends by itself."""
    await found(world)
    await world.extend([await deposit(world)])
    world.bitcoin.mine(count=LOCAL.csv - LOCAL.csv_stop - 4)
    await world.tell()
    burn = world.side.burn(BOB, 1_000_000)
    await world.extend([burn])
    for _ in range(3):
        world.bitcoin.mempool.clear()
        world.bitcoin.mine()
        await world.tell()
        await world.extend()
    view = view_of(world)
    assert Halt.COIN_AGE in view.halts
    batch = open_batch(world)
    assert batch.payouts == () and len(batch.inputs) == 2, "both old coins go into output 0"
    await world.mine(count=3)
    for _ in range(4):
        await world.mine()
        await world.extend()
    assert view_of(world).halts == ()
    await world.mine(count=2)
    await world.extend()
    assert payments(world) == [1_000_000 - FEE_SATS]
    check_books(world)


@pytest.mark.parametrize("preset", [LOCAL, PRODUCTION])
def test_smallest_payout_is_never_dust(preset: Any) -> None:
    """P26, S4."""
    assert preset.min_pegout_sats - preset.peg_out_fee_sats >= 5 * LARGEST_DUST_SATS


def test_burn_in_a_coinbase_is_not_paid() -> None:
    """E7, before any other reason."""
    output = TxOut(explicit_asset(b"\x01" * 32), explicit_value(10**6), NULL, b"\x6a")
    code = burn_code(
        output,
        p2wpkh_script("x"),
        pegged_asset=b"\x01" * 32,
        min_pegout_sats=1,
        fed_programs=(),
        in_coinbase=True,
    )
    assert code is BurnCode.COINBASE


async def test_batches_are_of_version_3_and_receipts_say_so(world: PegWorld) -> None:
    """P27, P28: TRUC where it is enforced; an unconfirmed payment is not to be built on."""
    await found(world)
    await world.extend([await deposit(world)])
    burn = await pay_out(world)
    (raw,) = world.bitcoin.mempool.values()
    assert raw[:4] == BATCH_VERSION.to_bytes(4, "little") == (3).to_bytes(4, "little")
    assert "P28" in status(world, burn)["note"]
    await world.mine(count=3)
    await world.extend()
    assert status(world, burn)["note"] is None


@pytest.mark.parametrize("knots", [True, False])
def test_members_nodes_keep_all_and_enforce_truc(knots: bool) -> None:
    """P30: txindex, unpruned, standard relay, and version 3 rules where they are an option."""
    program = BitcoindProgram(path=Path("bitcoind"), version="Knots" if knots else "Core", major=29)
    arguments = bitcoind_arguments(program, Path("data"), 1)
    assert {"-txindex=1", "-prune=0", "-acceptnonstdtxn=0"} <= set(arguments)
    assert ("-mempooltruc=enforce" in arguments) is knots


async def test_next_batch_waits_until_the_confirmed_one_is_committed(world: PegWorld) -> None:
    """P36, P15: one confirmation that no final block has committed is not enough."""
    await found(world)
    await world.extend([await deposit(world)])
    await pay_out(world)
    first = open_batch(world)
    await world.extend([world.side.burn(p2wpkh_script("carol"), 1_000_000)])
    await world.mine()
    await world.extend()
    assert open_batch(world).anchor == first.anchor
    await world.mine(count=2)
    await world.extend()
    view = view_of(world)
    assert view.lane is not None and view.lane.anchor != first.anchor
    for batch in [view.open_batch] if view.open_batch is not None else []:
        coins = {coin.outpoint for coin in view.coins}
        assert {coin.outpoint for coin in batch.inputs} <= coins


async def test_members_never_bump_by_a_child(world: PegWorld) -> None:
    """P37: all that is ever sent spends the anchor and is a rung of the ladder."""
    await found(world)
    await world.extend([await deposit(world)])
    await pay_out(world)
    sent: dict[bytes, bytes] = {}
    for _ in range(6):
        world.bitcoin.mine()
        await world.tell()
        await world.extend()
        sent |= world.bitcoin.mempool
    known = assembled(world)
    assert len(sent) >= 3 and set(sent) <= set(known)
    anchors = {parse_parent_tx(raw).inputs[0] for raw in sent.values()}
    assert len(anchors) == 1


async def test_lock_of_a_coin_is_read_from_its_own_script(world: PegWorld) -> None:
    """P38, planted bug 22: configuration does not say when emergency holders may spend."""
    fold_parameters = replace(LOCAL, csv=9_999)
    await found(world)
    await world.extend([await deposit(world)])
    fold = world.services[0].ledger._fold
    assert fold is not None
    fold._parameters = fold_parameters
    fold._coins_at = None
    await world.mine()
    await world.extend()
    assert {coin.csv for coin in view_of(world).coins} == {LOCAL.csv}


def test_payment_is_compared_with_its_receipt() -> None:
    """P40."""
    burn = Burn(
        burn_id=bytes(36),
        height=1,
        clock=1,
        script=p2wpkh_script("x"),
        amount_sats=100_000,
        fee_sats=2_500,
        code=BurnCode.OK,
    )
    outputs = [(50_000, b"\x51"), (0, b"\x6a"), (97_500, burn.script)]
    raw = encode_unsigned([OutPoint(bytes(32), 0)], outputs)
    step = LaneStep(SpendKind.BATCH, parse_parent_tx(raw), (burn,))
    assert wrong_payout(step) is None
    outputs[2] = (97_499, burn.script)
    less = parse_parent_tx(encode_unsigned([OutPoint(bytes(32), 0)], outputs))
    assert wrong_payout(replace(step, transaction=less)) == burn.burn_id
    watch, bad = PayoutWatch(), replace(step, transaction=less)
    assert watch.wrong([step]) is None
    later = replace(step, transaction=replace(step.transaction, txid=b"\x05" * 32))
    assert watch.wrong([step, replace(bad, transaction=replace(less, txid=b"\x04" * 32)), later])
    assert watch.wrong([step]) is None  # it left the chain


# ---- R0 to R8, one by one ----


async def signable(world: PegWorld) -> PegView:
    """A view with an open batch that pays."""
    await found(world)
    await world.extend([await deposit(world)])
    await pay_out(world)
    return view_of(world)


async def test_every_rule_of_signing_refuses_by_itself(world: PegWorld) -> None:
    """R0, R3, R5, R6, R7, R8, X1, X4, X5, X7: each alone stops the signature, and says its name."""
    view = await signable(world)
    history = world.services[0].ledger.history
    batch = open_batch(world)
    entry = world.services[0]._sessions.entry(batch.anchor)
    assert entry is not None
    other = replace(entry, digest=bytes(32))

    def why(view: PegView = view, entry: Any = entry, chain: bool = True, **alarms: Any) -> str:
        said = OwnAlarms(**alarms) if alarms else NO_ALARMS
        return refusal(view, history, entry, on_best_chain=chain, alarms=said)

    assert why() == ""
    assert why(chain=False).startswith("R0")
    assert why(replace(view, totals=history.totals(view.height - 1))).startswith("R0")
    assert why(replace(view, coins=())).startswith("R3")
    assert why(entry=other).startswith("R5")
    twice = replace(batch, payouts=batch.payouts * 2)
    assert why(replace(view, open_batch=twice)).startswith("R6")
    assert why(pause_heard=True).startswith("R7")
    assert why(replace(view, halts=(Halt.BROKEN,))).startswith("R8")
    assert why(replace(view, halts=(Halt.MISMATCH,))).startswith("R8")
    assert why(replace(view, halts=(Halt.POOL_NEGATIVE,))).startswith("X4")
    assert why(replace(view, halts=(Halt.VANISHED,))).startswith("X4")
    assert why(replace(view, halts=(Halt.INFLATION,))).startswith("X5")
    assert why(is_halted=True).startswith("X1")
    assert why(second_opinion="no").startswith("X7")
    empty = replace(view, open_batch=replace(batch, payouts=()))
    for alarms in ({"pause_heard": True}, {"is_halted": True}, {"second_opinion": "no"}):
        assert why(empty, **alarms) == "", "an empty batch goes on"
    assert why(replace(empty, halts=(Halt.POOL_NEGATIVE, Halt.INFLATION))) == ""


def test_idle_reasons_are_the_public_ones() -> None:
    """P16, G2: each failing condition has its own public status."""
    assert {str(idle) for idle in Idle} >= {"FEE_POOL_LOW", "INSOLVENT", "NO_LANE"}
