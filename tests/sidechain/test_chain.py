"""The chain as its owner uses it: templates, proposals, connecting, the mempool, reorgs."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidechain import chain as chain_module
from sidechain.chain import Chain
from sidechain.crypto.keys import public_key
from sidechain.errors import (
    Invalid,
    InvalidBlock,
    InvalidTransaction,
    InvariantError,
    Stalled,
    Unavailable,
)
from sidechain.primitives.block import Block
from sidechain.primitives.dynafed import FULL_KIND, ParamEntry
from sidechain.primitives.encoding import vec
from sidechain.primitives.transaction import (
    InputWitness,
    OutPoint,
    Transaction,
    TxIn,
)
from sidechain.script.block_signature import verify_block_signature
from sidechain.script.script import multisig_script, p2wsh
from tests.factories import (
    ALICE,
    BOB,
    FIRST_BLOCK_TIME_S,
    SignedChain,
    StaticFacts,
    federation_params,
    output,
    secret,
)

NOW_S = FIRST_BLOCK_TIME_S + 10**6


@pytest.fixture
def signed(tmp_path: Path) -> SignedChain:
    return SignedChain.open(tmp_path / "chain")


# --- opening -----------------------------------------------------------------------------------


def test_open_when_new_then_genesis_is_served(signed: SignedChain) -> None:
    chain = signed.chain
    assert (chain.tip_height, chain.tip_hash) == (0, chain.params.genesis_hash)
    assert chain.block(0).hash == chain.tip_hash
    assert chain.median_time_s == chain.header(0).time
    assert chain.fedpegscripts() and not chain.full_current().is_null


def test_open_when_in_use_then_unavailable(signed: SignedChain, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="in use"):
        Chain.open(tmp_path / "chain", signed.params)
    signed.chain.close()
    again = Chain.open(tmp_path / "chain", signed.params)
    again.close()
    again.close()
    with pytest.raises(Invalid):
        Chain.open(tmp_path / "chain", federation_params(name="other"))


def test_open_when_blocks_follow_then_same_tip(signed: SignedChain, tmp_path: Path) -> None:
    point = signed.mint(ALICE, 10**8)
    tip = signed.chain.tip_hash
    signed.chain.close()
    chain = Chain.open(tmp_path / "chain", signed.params)
    coin = chain.coin(point)
    assert chain.tip_hash == tip and coin is not None and coin.output.value_sats == 10**8
    assert chain.height_of(tip) == 1
    chain.close()


# --- templates and proposals -------------------------------------------------------------------


def test_template_when_fees_and_scripts_then_elements_layout(signed: SignedChain) -> None:
    point = signed.mint(ALICE, 10**8)
    tx = signed.payment(ALICE, [point], [(BOB.script, 5_000)], fee_sats=777)
    block = signed.template([tx], coinbase_scripts=[b"\x6a\x01\x07", b"\x6a\x01\x08"])
    coinbase = block.transactions[0]
    assert [(o.script[:6], o.value_sats) for o in coinbase.outputs] == [
        (b"\x6a\x01\x07", 0),
        (b"\x6a\x01\x08", 0),
        (b"\x6a", 777),
        (bytes.fromhex("6a24aa21a9ed"), 0),
    ]
    assert coinbase.inputs[0].script_sig == b"\x52\x00"
    assert (block.header.version, block.header.height) == (0x20000000, 2)
    assert block.header.signblock_witness == ()
    delta = signed.chain.check_proposal(block, now_s=block.header.time)
    assert delta.fees == ((signed.params.pegged_asset, 777),)


def test_proposal_when_wrong_then_elements_reason(signed: SignedChain) -> None:
    good = signed.template()
    late = replace(good.header, time=good.header.time + 7_201)
    with pytest.raises(InvalidBlock) as refused:
        signed.chain.check_proposal(Block(late, good.transactions), now_s=good.header.time)
    assert refused.value.reason == "time-too-new"
    for change, reason in (
        ({"height": 2}, "bad-header-height"),
        ({"prev_hash": b"\1" * 32}, "prev-blk-not-found"),
        ({"time": signed.chain.median_time_s}, "time-too-old"),
        ({"merkle_root": bytes(32)}, "bad-txnmrklroot"),
        ({"version": 3}, "bad-version(0x00000003)"),
        ({"version": 0x20000000 | 1 << 25}, "invalid-dyna-fed"),
    ):
        block = Block(replace(good.header, **change), good.transactions)
        with pytest.raises(InvalidBlock) as refused:
            signed.chain.check_proposal(block, now_s=good.header.time)
        assert refused.value.reason == reason
    assert signed.chain.tip_height == 0


def test_connect_when_signatures_are_missing_then_refused(signed: SignedChain) -> None:
    block = signed.template()
    signed.chain.check_proposal(block, now_s=block.header.time)
    bad = signed.sign(block, [0, 1, 2])
    for witness in ((), bad.header.signblock_witness[:-2], (b"", b"", b"", b"", b"")):
        with pytest.raises(InvalidBlock) as refused:
            signed.chain.connect(block.with_signblock_witness(witness))
        assert refused.value.reason == "block-proof-invalid"
    signed.chain.connect(signed.sign(block, [1, 2, 3]))
    assert signed.chain.tip_hash == block.hash


def test_connect_when_checked_before_then_not_checked_again(
    signed: SignedChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = signed.template()
    signed.chain.check_proposal(block, now_s=block.header.time)
    calls: list[bytes] = []
    real = chain_module.validate_block
    monkeypatch.setattr(
        chain_module, "validate_block", lambda b, *a, **k: calls.append(b.hash) or real(b, *a, **k)
    )
    signed.chain.connect(signed.sign(block))
    assert calls == []
    second = signed.template()
    signed.chain.check_proposal(second, now_s=second.header.time)
    signed.chain.connect(signed.sign(second), reuse_checks=False)
    assert calls == [second.hash, second.hash]


def test_connect_when_same_hash_but_other_witness_then_checked_anew(signed: SignedChain) -> None:
    point = signed.mint(ALICE, 10**8)
    tx = signed.payment(ALICE, [point], [(BOB.script, 5_000)])
    block = signed.template([tx])
    signed.chain.check_proposal(block, now_s=block.header.time)
    stripped = Transaction.build(
        version=tx.version,
        inputs=tx.inputs,
        outputs=tx.outputs,
        locktime=tx.locktime,
        input_witnesses=[InputWitness(script=(b"\0" * 71, ALICE.pubkey))],
    )
    forged = Block(block.header, (block.transactions[0], stripped))
    assert forged.hash == block.hash
    with pytest.raises(InvalidBlock) as refused:
        signed.chain.connect(signed.sign(forged))
    assert refused.value.reason == "bad-witness-merkle-match"
    signed.chain.connect(signed.sign(block))


def test_connect_when_block_is_late_or_future_then_no_clock_is_read(signed: SignedChain) -> None:
    block = signed.chain.build_template(
        time_s=2**31, coinbase_scripts=(), transactions=(), proposed=ParamEntry()
    )
    signed.chain.connect(signed.sign(block))
    assert signed.chain.header(1).time == 2**31


def test_connect_when_pegin_too_shallow_then_stalled_and_unchanged(signed: SignedChain) -> None:
    deposit = signed.deposit(ALICE.script, 10**8)
    block = signed.sign(signed.template([signed.claim(deposit, ALICE)]))
    with pytest.raises(Stalled):
        signed.chain.connect(block, facts=StaticFacts([deposit], confirmations=7))
    assert signed.chain.tip_height == 0
    delta = signed.chain.connect(block, facts=StaticFacts([deposit], confirmations=8))
    assert signed.chain.pegin_claimed(delta.pegins[0])


def test_block_when_it_claims_twice_then_refused(signed: SignedChain) -> None:
    deposit = signed.deposit(ALICE.script, 10**8)
    signed.extend([signed.claim(deposit, ALICE)])
    block = signed.template([signed.claim(deposit, ALICE, fee_sats=2_000)])
    with pytest.raises(InvalidBlock) as refused:
        signed.chain.check_proposal(block, now_s=NOW_S)
    assert refused.value.reason == "bad-txns-double-pegin"


def test_transition_when_voted_then_new_members_sign(signed: SignedChain) -> None:
    chain, length = signed.chain, signed.params.dynamic_epoch_length
    old = chain.full_current()
    keys = [public_key(secret(f"new {i}")) for i in range(4)]
    script = multisig_script(3, keys)
    proposal = replace(
        old,
        kind=FULL_KIND,
        signblockscript=p2wsh(script),
        witness_limit=2 + 73 * 3 + len(vec(script)),
    )
    while chain.tip_height < length - 1:
        signed.extend(proposed=proposal if chain.tip_height else ParamEntry())
    assert chain.full_current() == proposal
    block = signed.template()
    assert block.header.current == proposal
    with pytest.raises(InvalidBlock) as refused:
        chain.connect(signed.sign(block))
    assert refused.value.reason == "block-proof-invalid"
    with pytest.raises(InvalidBlock):
        verify_block_signature(signed.sign(block).header, signed.params)


# --- mempool -----------------------------------------------------------------------------------


def test_submit_when_valid_then_selected_and_gone_after_the_block(signed: SignedChain) -> None:
    point = signed.mint(ALICE, 10**8)
    chain = signed.chain
    parent = signed.payment(ALICE, [point], [(ALICE.script, 10**7)])
    assert chain.submit_tx(parent, None, NOW_S) == parent.txid
    child = signed.payment(ALICE, [OutPoint(parent.txid, 0)], [(BOB.script, 5_000)])
    chain.submit_tx(child, None, NOW_S)
    assert chain.select_transactions() == [parent, child]
    assert chain.select_transactions(parent.weight_wu) == [parent]
    signed.extend(chain.select_transactions())
    assert len(chain.mempool) == 0
    assert chain.find_transaction(child.txid) == (child, 2)
    assert chain.find_transaction(b"\1" * 32) is None


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("twice", "txn-already-in-mempool"),
        ("known", "txn-already-known"),
        ("missing", "bad-txns-inputs-missingorspent"),
        ("cheap", "min relay fee not met"),
        ("unbalanced", "bad-txns-in-ne-out"),
        ("early", "non-final"),
        ("relative", "non-BIP68-final"),
        ("dust", "dust"),
        ("stranger", "mandatory-script-verify-flag-failed"),
        ("conflict", "insufficient fee"),
        ("coinbase", "coinbase"),
    ],
)
def test_submit_when_refused_then_reason(signed: SignedChain, case: str, reason: str) -> None:
    chain, point = signed.chain, signed.mint(ALICE, 10**8)
    tx = signed.payment(ALICE, [point], [(BOB.script, 5_000)])
    match case:
        case "twice":
            chain.submit_tx(tx, None, NOW_S)
        case "known":
            signed.extend([tx])
        case "missing":
            tx = Transaction.build(inputs=[TxIn(OutPoint(b"\1" * 32, 0))], outputs=tx.outputs)
        case "cheap":
            tx = signed.payment(ALICE, [point], [(BOB.script, 5_000)], fee_sats=1)
        case "unbalanced":
            outputs = [output(signed.params, BOB.script, 10**8), tx.outputs[-1]]
            spent = chain.coin(point)
            assert spent is not None
            tx = ALICE.sign(Transaction.build(inputs=tx.inputs, outputs=outputs), [spent])
        case "early":
            tx = signed.payment(ALICE, [point], [(BOB.script, 5_000)], locktime=3)
        case "relative":
            tx = signed.payment(ALICE, [point], [(BOB.script, 5_000)], sequence=2)
        case "dust":
            tx = signed.payment(ALICE, [point], [(BOB.script, 5)])
        case "stranger":
            coin = chain.coin(point)
            assert coin is not None
            tx = BOB.sign(tx, [coin])
        case "conflict":
            chain.submit_tx(tx, None, NOW_S)
            tx = signed.payment(ALICE, [point], [(BOB.script, 6_000)])
        case "coinbase":
            tx = chain.block(1).transactions[0]
    before = chain.mempool.txids()
    with pytest.raises(InvalidTransaction) as refused:
        chain.submit_tx(tx, None, NOW_S)
    assert refused.value.reason.startswith(reason)
    assert chain.mempool.txids() == before


def test_submit_when_fee_is_raised_then_replaces(signed: SignedChain) -> None:
    chain, point = signed.chain, signed.mint(ALICE, 10**8)
    first = signed.payment(ALICE, [point], [(BOB.script, 5_000)])
    chain.submit_tx(first, None, NOW_S)
    second = signed.payment(ALICE, [point], [(BOB.script, 6_000)], fee_sats=3_000)
    chain.submit_tx(second, None, NOW_S)
    assert chain.mempool.transactions() == [second]


def test_submit_when_pegin_then_depth_and_claims_matter(signed: SignedChain) -> None:
    chain = signed.chain
    deposit = signed.deposit(ALICE.script, 10**8)
    claim = signed.claim(deposit, ALICE)
    with pytest.raises(Stalled):
        chain.submit_tx(claim, StaticFacts(), NOW_S)
    facts = StaticFacts([deposit], confirmations=8)
    chain.submit_tx(claim, facts, NOW_S)
    rival = signed.claim(deposit, ALICE, fee_sats=1_001)
    with pytest.raises(InvalidTransaction, match="insufficient fee"):
        chain.submit_tx(rival, facts, NOW_S)
    signed.extend([rival])
    assert len(chain.mempool) == 0
    with pytest.raises(InvalidTransaction, match="pegin-already-claimed"):
        chain.submit_tx(signed.claim(deposit, ALICE, fee_sats=5_000), facts, NOW_S)
    wrong = replace(signed.deposit(ALICE.script, 10**8), amount_sats=10**9)
    with pytest.raises(InvalidTransaction) as refused:
        chain.submit_tx(signed.claim(wrong, ALICE), facts, NOW_S)
    assert str(refused.value) == "pegin-no-witness, Peg-in tx is invalid."


def test_mempool_when_fedpegscript_expires_then_pegin_leaves(tmp_path: Path) -> None:
    # With the P2WSH start the nested form of the first epoch is dropped after two epochs.
    signed = SignedChain.open(tmp_path / "chain", total_valid_epochs=2)
    chain, length = signed.chain, signed.params.dynamic_epoch_length
    early = signed.deposit(ALICE.script, 10**8)
    while chain.tip_height < 2 * length - 2:
        signed.extend()
    claim = signed.claim(early, ALICE)
    chain.submit_tx(claim, StaticFacts([early]), NOW_S)
    signed.extend()
    assert claim.txid not in chain.mempool
    with pytest.raises(InvalidTransaction, match="pegin-no-witness"):
        chain.submit_tx(claim, StaticFacts([early]), NOW_S)


def test_relay_check_when_it_refuses_then_nothing_enters(tmp_path: Path) -> None:
    def refuse(tx: Transaction) -> None:
        raise InvalidTransaction("not-here", str(len(tx.outputs)))

    chain = Chain.open(tmp_path / "chain", federation_params(), relay_check=refuse)
    signed = SignedChain(chain)
    point = signed.mint(ALICE, 10**8)
    with pytest.raises(InvalidTransaction, match="not-here"):
        chain.submit_tx(signed.payment(ALICE, [point], [(BOB.script, 5_000)]), None, NOW_S)


# --- reorgs ------------------------------------------------------------------------------------


def test_disconnect_when_tip_has_payments_then_they_wait_again(signed: SignedChain) -> None:
    chain, point = signed.chain, signed.mint(ALICE, 10**8)
    first = signed.payment(ALICE, [point], [(ALICE.script, 10**7)])
    signed.extend([first])
    second = signed.payment(ALICE, [OutPoint(first.txid, 0)], [(BOB.script, 5_000)])
    chain.submit_tx(second, None, NOW_S)
    tip = chain.block(2)
    assert chain.disconnect_tip(NOW_S) == tip
    assert chain.mempool.transactions() == [first, second]
    assert chain.mempool.ancestors(second.txid) == {first.txid}
    chain.connect(tip)
    assert chain.mempool.transactions() == [second]


def test_disconnect_when_tip_claims_then_claimable_again(signed: SignedChain) -> None:
    chain = signed.chain
    deposit = signed.deposit(ALICE.script, 10**8)
    claim = signed.claim(deposit, ALICE)
    delta = signed.extend([claim])
    chain.disconnect_tip(NOW_S)
    assert not chain.pegin_claimed(delta.pegins[0])
    assert len(chain.mempool) == 0
    assert chain.coin(OutPoint(claim.txid, 0)) is None
    signed.extend([claim])
    with pytest.raises(InvariantError):
        chain.disconnect_tip(NOW_S)
        chain.disconnect_tip(NOW_S)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.booleans(), max_size=12))
def test_chain_when_going_back_and_forth_then_same_as_straight(
    tmp_path_factory: pytest.TempPathFactory, steps: list[bool]
) -> None:
    folder = tmp_path_factory.mktemp("walk")
    signed = SignedChain.open(folder / "walk")
    point = signed.mint(ALICE, 10**8)
    blocks = [signed.chain.block(1)]
    for forward in steps:
        if not forward and signed.chain.tip_height > 1:
            signed.chain.disconnect_tip(NOW_S)
            blocks.pop()
            point = OutPoint(blocks[-1].transactions[1].txid, 0)
            continue
        tx = signed.payment(ALICE, [point], [], fee_sats=500)
        signed.extend([tx])
        blocks.append(signed.chain.block(signed.chain.tip_height))
        point = OutPoint(tx.txid, 0)
    straight = Chain.open(folder / "straight", signed.params)
    for block in blocks:
        straight.connect(block)
    assert list(straight.coins()) == list(signed.chain.coins())
    assert straight.tip_hash == signed.chain.tip_hash
    straight.close()
    signed.chain.close()
