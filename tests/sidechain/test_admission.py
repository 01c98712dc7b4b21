"""Which transactions enter the mempool, and the words for those that do not, in their order."""

from dataclasses import replace
from typing import Any

import pytest

from sidechain.crypto.keys import ecdsa_sign, public_key
from sidechain.errors import InvalidTransaction, Stalled
from sidechain.mempool.admission import ALONE, FROM_BLOCK, Mode, enter
from sidechain.mempool.entry import Trait
from sidechain.mempool.pool import Mempool, usage_bytes
from sidechain.mempool.relations import Limits
from sidechain.params import ALWAYS_ACTIVE, NEVER_ACTIVE
from sidechain.policy.fees import FeeTooLow
from sidechain.primitives.parent import MerkleBlock, ParentHeader, ParentTx
from sidechain.primitives.transaction import NULL_OUTPOINT, InputWitness, Transaction, TxIn
from sidechain.script.script import p2pkh, p2sh, p2wpkh, p2wsh, push
from sidechain.script.sighash import segwit_v0_sighash
from sidechain.validation.pegins import PeginClaim
from tests.factories import StaticFacts
from tests.sidechain.mempool_world import (
    ANYONE,
    COIN_SATS,
    FINAL,
    REPLACEABLE,
    SCRIPT,
    MempoolWorld,
    out,
    shown,
)


@pytest.fixture
def world() -> MempoolWorld:
    return MempoolWorld()


def test_payment_when_plain_then_accepted_with_its_figures(world: MempoolWorld) -> None:
    tx = world.pay(world.coin(), fee=2_000)
    entry = world.judge(tx).entry
    assert (entry.fee_sats, entry.vsize, entry.weight_wu) == (2_000, tx.vsize, tx.weight_wu)
    assert (entry.height, entry.time_s) == (world.chain.tip_height, world.now_s)
    assert entry.traits == Trait.REPLACEABLE
    assert entry.tx == tx and entry.wtxid == tx.wtxid


def test_coinbase_when_loose_then_refused(world: MempoolWorld) -> None:
    tx = Transaction.build(
        inputs=[TxIn(NULL_OUTPOINT, b"\x51\x51")], outputs=[world.output(0, ANYONE)]
    )
    assert world.refusal(tx) == "coinbase"


def test_known_when_again_then_named_by_its_witness(world: MempoolWorld) -> None:
    tx = world.accept(world.pay(world.coin()))
    assert world.refusal(tx) == "txn-already-in-mempool"
    other = Transaction.build(
        inputs=tx.inputs,
        outputs=tx.outputs,
        input_witnesses=[InputWitness(script=(b"x", ANYONE))],
    )
    assert other.txid == tx.txid
    assert world.refusal(other) == "txn-same-nonwitness-data-in-mempool"


def test_inputs_when_missing_then_refused_unless_known(world: MempoolWorld) -> None:
    tx = world.pay(world.coin())
    point = tx.inputs[0].prevout
    coin = world.view.coins.pop(point)
    assert world.refusal(tx) == "bad-txns-inputs-missingorspent"
    world.view.coins[out(tx, 1)] = coin
    assert world.refusal(tx) == "txn-already-known"


@pytest.mark.parametrize(("ahead", "reason"), [(0, ""), (1, "non-final")])
def test_locktime_when_behind_the_next_block_then_refused(
    world: MempoolWorld, ahead: int, reason: str
) -> None:
    tx = world.pay(world.coin(), locktime=world.chain.tip_height + ahead)
    assert world.refusal(tx) == reason
    if not reason:
        assert world.judge(tx).entry.traits & Trait.LOCKED


@pytest.mark.parametrize(("distance", "reason"), [(3, ""), (4, "non-BIP68-final")])
def test_relative_lock_when_not_reached_then_refused(
    world: MempoolWorld, distance: int, reason: str
) -> None:
    assert world.refusal(world.pay(world.coin(height=1), sequence=distance)) == reason


def test_relative_lock_when_parent_is_unconfirmed_then_counted_from_the_next_block(
    world: MempoolWorld,
) -> None:
    parent = world.accept(world.pay(world.coin()))
    world.chain.grow(5)
    assert world.refusal(world.pay(out(parent), sequence=0)) == ""
    assert world.refusal(world.pay(out(parent), sequence=1)) == "non-BIP68-final"


@pytest.mark.parametrize(("height", "is_refused"), [(1, False), (2, True)])
def test_coinbase_coin_when_young_then_refused(
    world: MempoolWorld, height: int, is_refused: bool
) -> None:
    world.chain.grow(100 - world.chain.tip_height)
    tx = world.pay(world.coin(height=height, coinbase=True))
    expected = "bad-txns-premature-spend-of-coinbase"
    assert world.refusal(tx).startswith(expected) is is_refused
    if not is_refused:
        assert world.judge(tx).entry.traits & Trait.SPENDS_COINBASE


@pytest.mark.parametrize(
    ("order", "height", "reason"),
    [
        ((0, 1), 2, "bad-txns-premature-spend-of-coinbase"),
        ((1, 0), 2, "Needs more confirmations."),
        ((0, 1), 1, "Needs more confirmations."),
    ],
)
def test_faults_when_a_coinbase_is_young_and_a_claim_shallow_then_the_first_input_is_said(
    world: MempoolWorld,
    monkeypatch: pytest.MonkeyPatch,
    order: tuple[int, int],
    height: int,
    reason: str,
) -> None:
    world.chain.grow(100 - world.chain.tip_height)
    deposit = world.coin()
    claim = PeginClaim(
        value_sats=COIN_SATS,
        asset=world.params.pegged_asset,
        parent_genesis=bytes(32),
        claim_script=SCRIPT,
        parent_tx=ParentTx(txid=bytes(32), inputs=(), outputs=(), stripped=b"", vsize=0),
        proof=MerkleBlock(header=ParentHeader.decode(bytes(80)), tx_count=1, matches=()),
    )

    def judge_pegin(items: object, prevout: object, *known: object) -> PeginClaim:
        if known[-1] is not None:
            raise Stalled("Needs more confirmations.")
        return claim

    monkeypatch.setattr("sidechain.mempool.admission.check_pegin", judge_pegin)
    world.facts = StaticFacts()
    young = TxIn(world.coin(height=height, coinbase=True))
    inputs = (young, TxIn(deposit, is_pegin=True))
    tx = Transaction.build(
        inputs=[inputs[place] for place in order],
        outputs=[world.output(2 * COIN_SATS - 1_000), world.output(1_000, b"")],
        input_witnesses=[InputWitness(script=(ANYONE,), pegin=(b"",) * place) for place in order],
    )
    with pytest.raises((InvalidTransaction, Stalled), match=reason):
        world.judge(tx)


def test_fee_when_below_the_node_minimum_then_refused(world: MempoolWorld) -> None:
    point = world.coin()
    tx = world.pay(point, fee=1_000)
    needed = -(-tx.vsize * 100 // 1000)
    assert world.refusal(world.pay(point, fee=needed)) == ""
    low = world.pay(point, fee=needed - 1)
    assert world.refusal(low) == f"min relay fee not met, {needed - 1} < {needed}"
    assert world.refusal(low, FROM_BLOCK) == ""


def test_fee_when_raised_by_the_node_then_counts(world: MempoolWorld) -> None:
    tx = world.pay(world.coin(), fee=1)
    assert world.refusal(tx).startswith("min relay fee not met, 1 <")
    world.mempool.prioritise(tx.txid, 1_000)
    entry = world.judge(tx).entry
    assert (entry.fee_sats, entry.modified_fee_sats) == (1, 1_001)


def test_fee_when_mempool_was_full_then_its_minimum_counts(world: MempoolWorld) -> None:
    point = world.coin()
    size = world.pay(point).vsize
    world.mempool._rolling.evicted(5_000)
    needed = -(-size * 5_000 // 1000)
    assert world.refusal(world.pay(point, fee=needed)) == ""
    low = f"mempool min fee not met, {needed - 1} < {needed}"
    assert world.refusal(world.pay(point, fee=needed - 1)) == low
    # The node's own minimum is asked for first.
    assert world.refusal(world.pay(point, fee=1)).startswith("min relay fee not met")


def test_fee_when_version_three_then_too_low_is_for_a_package(world: MempoolWorld) -> None:
    tx = world.pay(world.coin(), fee=0, version=3)
    with pytest.raises(FeeTooLow, match="min relay fee not met"):
        world.judge(tx)
    plain = world.pay(world.coin(), fee=0)
    with pytest.raises(InvalidTransaction) as refused:
        world.judge(plain)
    assert not isinstance(refused.value, FeeTooLow)


def test_fee_rate_when_above_the_senders_limit_then_refused(world: MempoolWorld) -> None:
    tx = world.pay(world.coin(), fee=1_000)
    rate = 1_000_000 // tx.vsize
    assert world.refusal(tx, Mode(rate_max=rate)) == ""
    assert world.refusal(tx, Mode(rate_max=rate - 1)) == "max feerate exceeded"


def test_standard_rules_when_switched_off_then_size_and_sigops_still_hold(
    world: MempoolWorld,
) -> None:
    tx = world.pay(world.coin(), extra=(world.output(1_000, b"\x61"),))
    assert world.refusal(tx) == "scriptpubkey"
    world.set(accept_nonstandard=True)
    assert world.refusal(tx) == ""
    heavy = world.pay(world.coin(), fee=10**6, extra=(world.output(1_000, b"\xae" * 201),))
    assert world.refusal(heavy) == "bad-txns-too-many-sigops, 16080"


def test_sigops_when_they_weigh_more_than_bytes_then_size_grows(world: MempoolWorld) -> None:
    world.set(accept_nonstandard=True, accept_discount_ct=False)
    tx = world.pay(world.coin(), fee=10**6, extra=(world.output(1_000, b"\xae" * 10),))
    entry = world.judge(tx).entry
    assert (entry.sigop_cost, entry.vsize, entry.discount_vsize) == (800, 4_000, 4_000)
    world.set(bytes_per_sigop=1)
    assert world.judge(tx).entry.vsize == tx.vsize


def test_burnt_output_when_unconfirmed_then_its_script_refuses(world: MempoolWorld) -> None:
    world.set(multi_data_permitted=True)
    burn = world.output(1_000, b"\x6a")
    parent = world.accept(world.pay(world.coin(), extra=(burn,)))
    tx = Transaction.build(
        inputs=[TxIn(out(parent, 1))], outputs=[world.output(0, b"\x6a"), world.output(1_000, b"")]
    )
    assert "OP_RETURN was encountered" in world.refusal(tx)


def test_fee_output_when_unconfirmed_then_no_coin(world: MempoolWorld) -> None:
    """elementsd would let anyone take it, and then make no valid block."""
    parent = world.accept(world.pay(world.coin(), fee=5_000))
    tx = Transaction.build(
        inputs=[TxIn(out(parent, 1), b"\x51")],
        outputs=[world.output(4_000), world.output(1_000, b"")],
    )
    assert world.refusal(tx) == "bad-txns-inputs-missingorspent"


def script_refusal(world: MempoolWorld, script: bytes, *witness: bytes) -> str:
    point = world.coin(script=p2wsh(script))
    tx = world.pay(point)
    tx = Transaction.build(
        inputs=tx.inputs,
        outputs=tx.outputs,
        input_witnesses=[InputWitness(script=(*witness, script))],
    )
    said = world.refusal(tx)
    spent = f"{point.txid[::-1].hex()}:{point.index}"
    wtxid = tx.wtxid[::-1].hex()
    place = f", input 0 of {shown(tx)} (wtxid {wtxid}), spending {spent}"
    assert said.endswith(place)
    return said.removesuffix(place)


def test_script_when_only_the_mempool_refuses_then_named_so(world: MempoolWorld) -> None:
    assert script_refusal(world, b"\xb0\x51") == (
        "non-mandatory-script-verify-flag (NOPx reserved for soft-fork upgrades)"
    )
    false = "Script evaluated without error but finished with a false/empty top stack element"
    assert script_refusal(world, b"\x00") == f"mandatory-script-verify-flag-failed ({false})"


def test_script_when_both_refuse_then_words_of_the_block_count(world: MempoolWorld) -> None:
    # A reserved NOP stops the mempool first; blocks go on and find the false.
    assert "false/empty top stack" in script_refusal(world, b"\xb0\x00")


def test_scripts_when_first_input_fails_softly_then_the_second_is_not_looked_at(
    world: MempoolWorld,
) -> None:
    soft, hard = b"\xb0\x51", b"\x00"
    points = [world.coin(script=p2wsh(soft)), world.coin(script=p2wsh(hard))]
    tx = world.pay(*points)
    tx = Transaction.build(
        inputs=tx.inputs,
        outputs=tx.outputs,
        input_witnesses=[InputWitness(script=(soft,)), InputWitness(script=(hard,))],
    )
    assert world.refusal(tx).startswith("non-mandatory-script-verify-flag (NOPx")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"version": 4}, "version"),
        ({"locktime": 10}, "non-final"),
        ({"sequence": 9}, "non-BIP68-final"),
    ],
)
def test_order_when_signature_and_form_are_wrong_then_form_is_said(
    world: MempoolWorld, fields: dict[str, Any], reason: str
) -> None:
    tx = world.pay(world.coin(script=p2wsh(b"\x00")), fee=1, **fields)
    assert world.refusal(tx) == reason


def test_order_when_conflict_and_missing_input_then_conflict_is_said(world: MempoolWorld) -> None:
    point, lost = world.coin(), world.coin()
    world.accept(world.pay(point, sequence=FINAL))
    tx = world.pay(point, lost)
    del world.view.coins[lost]
    assert world.refusal(tx) == "txn-mempool-conflict"
    allowed = replace(ALONE, replaces=False)
    assert world.refusal(tx, allowed) == "bip125-replacement-disallowed"


def test_nested_program_when_spent_then_accepted(world: MempoolWorld) -> None:
    program = p2wsh(ANYONE)
    point = world.coin(script=p2sh(program))
    tx = world.pay(point)
    tx = Transaction.build(
        inputs=[TxIn(point, push(program))],
        outputs=tx.outputs,
        input_witnesses=[InputWitness(script=(ANYONE,))],
    )
    assert world.refusal(tx) == ""


# --- chains of unconfirmed transactions ---------------------------------------------------------


def test_chain_when_25_long_then_full(world: MempoolWorld) -> None:
    chain = world.chain_of(25)
    said = world.refusal(world.pay(out(chain[-1])))
    assert said == "too-long-mempool-chain, too many unconfirmed ancestors [limit: 25]"


def test_parents_when_25_then_refused(world: MempoolWorld) -> None:
    parents = [world.accept(world.pay(world.coin())) for _ in range(25)]
    said = world.refusal(world.pay(*map(out, parents), fee=10_000))
    assert said == "too-long-mempool-chain, too many unconfirmed parents [limit: 25]"
    assert world.refusal(world.pay(*map(out, parents[:24]), fee=10_000)) == ""


def test_children_when_25_then_one_more_small_one_enters(world: MempoolWorld) -> None:
    parent = world.accept(world.pay(world.coin(), outputs=30))
    for index in range(24):
        world.accept(world.pay(out(parent, index)))
    extra = world.accept(world.pay(out(parent, 24)))
    full = "too-long-mempool-chain, too many descendants for tx {} [limit: 25]"
    assert world.refusal(world.pay(out(parent, 25))) == full.format(shown(parent))
    other = world.accept(world.pay(world.coin()))
    two = world.pay(out(parent, 25), out(other))
    assert world.refusal(two) == full.format(shown(parent))
    # The extra one itself can be replaced.
    assert world.refusal(world.pay(extra.inputs[0].prevout, fee=9_000)) == ""


def test_extra_child_when_large_or_version_three_then_refused(world: MempoolWorld) -> None:
    world.mempool = Mempool(Limits(descendants=2, descendant_vbytes=10**6))
    parent = world.accept(world.pay(world.coin(), outputs=9))
    world.accept(world.pay(out(parent)))
    assert world.refusal(world.pay(out(parent, 1), fee=10_000, outputs=100)) == ""
    large = world.pay(out(parent, 1), fee=10_000, outputs=130)
    assert world.judge(world.pay(world.coin(), fee=10_000, outputs=130)).entry.vsize > 10_000
    assert world.refusal(large).startswith("too-long-mempool-chain, too many descendants")
    assert "too-long" in world.refusal(world.pay(out(parent, 1), version=3))


def test_extra_child_when_in_a_package_then_refused(world: MempoolWorld) -> None:
    parent = world.accept(world.pay(world.coin(), outputs=30))
    for index in range(24):
        world.accept(world.pay(out(parent, index)))
    tx = world.pay(out(parent, 24))
    assert world.refusal(tx, Mode(carve_outs=False)).startswith("too-long-mempool-chain")


@pytest.mark.parametrize("kind", ["ancestor", "descendant"])
def test_sizes_when_above_the_limit_then_refused(world: MempoolWorld, kind: str) -> None:
    parent = world.pay(world.coin(), outputs=2)
    child = world.pay(world.coin())
    room = parent.vsize + child.vsize
    wide = {"ancestor_vbytes": 10**6, "descendant_vbytes": 10**6}
    world.mempool = Mempool(Limits(**(wide | {f"{kind}_vbytes": room})))
    world.accept(parent)
    assert world.refusal(world.pay(out(parent))) == ""
    world.mempool = Mempool(Limits(**(wide | {f"{kind}_vbytes": room - 1})))
    world.accept(parent)
    said = world.refusal(world.pay(out(parent)), Mode(carve_outs=False))
    place = f" for tx {shown(parent)}" if kind == "descendant" else ""
    expected = f"exceeds {kind} size limit{place} [limit: {room - 1}]"
    assert said == f"too-long-mempool-chain, {expected}"


# --- a full mempool -------------------------------------------------------------------------------


def test_full_when_new_one_pays_least_then_it_does_not_stay(world: MempoolWorld) -> None:
    each = usage_bytes(world.pay(world.coin()))
    world.mempool = Mempool(Limits(bytes=5 * each))
    kept = [world.accept(world.pay(world.coin(), fee=2_000 + i)) for i in range(5)]
    assert world.mempool.txids() == [tx.txid for tx in kept]
    cheap = world.pay(world.coin(), fee=1_000)
    with pytest.raises(FeeTooLow, match="mempool full"):
        enter(world.judge(cheap), world.mempool, world.now_s)
    assert world.mempool.txids() == [tx.txid for tx in kept]
    floor = world.mempool.floor_sats_per_kvb(world.now_s)
    assert floor == 1_000 * 1_000 // cheap.vsize + 100
    dear = world.accept(world.pay(world.coin(), fee=3_000))
    assert dear.txid in world.mempool and kept[0].txid not in world.mempool


def test_traits_when_sequence_signals_then_replaceable(world: MempoolWorld) -> None:
    point = world.coin()
    for sequence, is_replaceable in ((REPLACEABLE, True), (REPLACEABLE + 1, False), (FINAL, False)):
        traits = world.judge(world.pay(point, sequence=sequence)).entry.traits
        assert bool(traits & Trait.REPLACEABLE) is is_replaceable


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (ALWAYS_ACTIVE, ""),
        (
            NEVER_ACTIVE,
            "non-mandatory-script-verify-flag (Signature hash type missing or not understood)",
        ),
    ],
)
def test_hash_type_0x40_when_dynamic_federations_are_inactive_then_undefined(
    world: MempoolWorld, start: int, reason: str
) -> None:
    """elements/script.md 1.2: the flag comes with the deployment, for the mempool too."""
    secret = b"\x11" * 32
    key, kind = public_key(secret), 0x41
    point = world.coin(script=p2wpkh(key))
    tx, code = world.pay(point), p2pkh(key)
    active = start == ALWAYS_ACTIVE
    value = world.view.coins[point].value
    digest = segwit_v0_sighash(tx, 0, code, value, kind, rangeproof=active)
    witness = InputWitness(script=(ecdsa_sign(secret, digest) + bytes((kind,)), key))
    signed = Transaction.build(inputs=tx.inputs, outputs=tx.outputs, input_witnesses=[witness])
    world.set(dynafed=replace(world.params.dynafed, start=start))
    assert world.refusal(signed).startswith(reason)
    assert bool(world.refusal(signed)) is not active
