"""The keyless claim of peg:4: what its script demands, judged by mempool and block."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sidechain.crypto.keys import public_key, schnorr_sign, tweak_add_secret
from sidechain.errors import Invalid, InvalidEncoding, InvalidTransaction
from sidechain.primitives.confidential import explicit_asset, explicit_value
from sidechain.primitives.encoding import le64
from sidechain.primitives.transaction import InputWitness, OutPoint, Transaction, TxIn, TxOut
from sidechain.script.sighash import SighashCache, TaprootPath
from sidechain.script.taproot import leaf_hash, taproot_sighash, tweak_hash
from sidechain.wallet.builder import with_witnesses
from sidechain.wallet.claim import ClaimableDeposit, claimed_output
from sidechain.wallet.covenant import (
    NUMS_KEY,
    CovenantTerms,
    build_covenant_claim,
    covenant_script,
    covenant_witness,
    leaf_script,
)
from sidechain.wallet.selection import WalletRefusal
from tests.factories import ALICE, BOB, Deposit, SignedChain, StaticFacts, output, secret

MAX_FEE_SATS = 2_000
AMOUNT_SATS = 1_000_000
RATE_SATS_PER_KVB = 1_000
SCRIPT_FAULT = "mandatory-script-verify-flag-failed"
TERMS = CovenantTerms(script=ALICE.script, max_fee_sats=MAX_FEE_SATS)
NONCE = b"\x02" + bytes.fromhex("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
ASSET = bytes.fromhex("b2e15d0d7a0c94e4e2ce0fe6e8691b9e451377f6e46e8045a86f7c4b5d4f0f23")


@pytest.fixture
def side(tmp_path: Path) -> SignedChain:
    return SignedChain.open(tmp_path)


def deposit_for(side: SignedChain, terms: CovenantTerms = TERMS) -> Deposit:
    """A deposit of the usual amount for a covenant."""
    return side.deposit(covenant_script(terms, side.params.pegged_asset), AMOUNT_SATS)


def paid(side: SignedChain, less_sats: int = MAX_FEE_SATS) -> TxOut:
    """What a claim pays Alice when it takes so much."""
    return output(side.params, ALICE.script, AMOUNT_SATS - less_sats)


def claim_of(
    side: SignedChain,
    deposits: Sequence[Deposit],
    outputs: Sequence[TxOut],
    *,
    witness: tuple[bytes, ...] | None = None,
    fee_sats: int | None = None,
) -> Transaction:
    """A claim of deposits with outputs of the test's choice; the fee is what they leave over."""
    asset = side.params.pegged_asset
    left = AMOUNT_SATS * len(deposits) - sum(out.value_sats or 0 for out in outputs)
    fee = output(side.params, b"", left if fee_sats is None else fee_sats)
    return Transaction.build(
        inputs=[
            TxIn(OutPoint(d.txid, d.vout), sequence=0xFFFFFFFD, is_pegin=True) for d in deposits
        ],
        outputs=[*outputs, fee],
        input_witnesses=[
            InputWitness(
                script=covenant_witness(TERMS, asset) if witness is None else witness,
                pegin=(
                    le64(d.amount_sats),
                    asset,
                    side.params.parent_genesis_hash,
                    d.claim_script,
                    d.raw_tx,
                    d.proof,
                ),
            )
            for d in deposits
        ],
    )


def check_taken(side: SignedChain, claim: Transaction, deposits: Sequence[Deposit]) -> None:
    """The mempool takes it, and a block with it connects."""
    side.chain.submit_tx(claim, StaticFacts(deposits), side.next_time_s())
    side.extend([claim])
    assert side.chain.coin(OutPoint(claim.txid, 0)) is not None


def check_refused(side: SignedChain, claim: Transaction, deposits: Sequence[Deposit]) -> None:
    """Neither the mempool nor a block takes it, for its script."""
    with pytest.raises(InvalidTransaction) as refused:
        side.chain.submit_tx(claim, StaticFacts(deposits), side.next_time_s())
    assert refused.value.reason.startswith(SCRIPT_FAULT)
    with pytest.raises(Invalid):
        side.extend([claim])


def test_leaf_when_built_then_byte_for_byte_that_of_peg_4() -> None:
    expected = (
        "cd76d1008814" + ALICE.script[2:].hex() + "88"
        "76ce518820" + ASSET.hex() + "88"
        "76d0008876cf51887cc9518808d007000000000000d869df"
    )
    assert leaf_script(TERMS, ASSET).hex() == expected
    assert len(leaf_script(TERMS, ASSET)) == 89
    p2tr = CovenantTerms(script=b"\x51\x20" + NUMS_KEY, max_fee_sats=1)
    assert len(leaf_script(p2tr, ASSET)) == 101
    assert leaf_script(p2tr, ASSET)[2:6].hex() == "d1518820"


def test_claim_script_when_computed_then_the_recorded_vectors() -> None:
    terms = CovenantTerms(script=b"\x00\x14" + b"\xab" * 20, max_fee_sats=2_000)
    vectors = {
        NUMS_KEY: "5120ada1799c513b2d4487a727f0601edf994d4880d2ca4840031b3a3a51e6f716a8",
        NONCE[1:]: "5120f2240bb047bbffa4d0944b974a9eee6b791f694a23db6c9659aa20efd399259b",
    }
    for key, script_hex in vectors.items():
        with_key = replace(terms, internal_key=key)
        assert covenant_script(with_key, ASSET).hex() == script_hex
        leaf, control = covenant_witness(with_key, ASSET)
        assert (leaf, control[0] & 0xFE, control[1:]) == (leaf_script(terms, ASSET), 0xC4, key)


@pytest.mark.parametrize(
    "script", [ALICE.script, b"\x00\x20" + b"\x07" * 32, b"\x51\x20" + NUMS_KEY], ids=len
)
def test_claim_when_made_by_anybody_then_mempool_and_block_take_it(
    side: SignedChain, script: bytes
) -> None:
    terms = CovenantTerms(script=script, max_fee_sats=MAX_FEE_SATS)
    deposit = deposit_for(side, terms)
    claim = build_covenant_claim(
        claimable(deposit), terms, side.params, rate_sats_per_kvb=RATE_SATS_PER_KVB
    )
    fee_sats = claim.outputs[1].value_sats
    assert claim.outputs[0].script == script
    assert claim.outputs[0].value_sats == AMOUNT_SATS - (fee_sats or 0)
    assert 0 < (fee_sats or 0) < MAX_FEE_SATS
    assert claim.vsize < 400
    check_taken(side, claim, [deposit])


def claimable(deposit: Deposit) -> ClaimableDeposit:
    """A deposit as a claim is built from it."""
    return ClaimableDeposit(
        outpoint=OutPoint(deposit.txid, deposit.vout),
        value_sats=deposit.amount_sats,
        claim_script=deposit.claim_script,
        parent_tx=deposit.raw_tx,
        proof=deposit.proof,
    )


def test_claim_when_built_twice_then_the_same_transaction(side: SignedChain) -> None:
    deposit = claimable(deposit_for(side))
    first, second = (
        build_covenant_claim(deposit, TERMS, side.params, rate_sats_per_kvb=RATE_SATS_PER_KVB)
        for _ in range(2)
    )
    assert first.serialize() == second.serialize()


def test_claim_when_the_price_does_not_pay_the_network_then_refused(side: SignedChain) -> None:
    with pytest.raises(WalletRefusal) as refused:
        build_covenant_claim(
            claimable(deposit_for(side)), TERMS, side.params, rate_sats_per_kvb=50_000
        )
    assert refused.value.reason == "fee"


def test_output_when_exactly_the_price_less_then_taken(side: SignedChain) -> None:
    deposit = deposit_for(side)
    check_taken(side, claim_of(side, [deposit], [paid(side)]), [deposit])


def test_output_when_one_sat_less_then_refused(side: SignedChain) -> None:
    deposit = deposit_for(side)
    check_refused(side, claim_of(side, [deposit], [paid(side, MAX_FEE_SATS + 1)]), [deposit])


def test_output_when_to_another_program_then_refused(side: SignedChain) -> None:
    deposit = deposit_for(side)
    stolen = output(side.params, BOB.script, AMOUNT_SATS - MAX_FEE_SATS)
    check_refused(side, claim_of(side, [deposit], [stolen]), [deposit])
    as_other_version = replace(paid(side), script=b"\x51\x14" + ALICE.script[2:])
    check_refused(side, claim_of(side, [deposit], [as_other_version]), [deposit])


def test_output_when_of_another_asset_then_refused(side: SignedChain) -> None:
    deposit = deposit_for(side)
    other = replace(paid(side), asset=explicit_asset(bytes(31) + b"\x01"))
    claim = claim_of(side, [deposit], [other], fee_sats=AMOUNT_SATS)
    with pytest.raises(InvalidTransaction):
        side.chain.submit_tx(claim, StaticFacts([deposit]), side.next_time_s())


def test_output_when_it_has_a_nonce_then_refused(side: SignedChain) -> None:
    deposit = deposit_for(side)
    nonced = replace(paid(side), nonce=NONCE)
    check_refused(side, claim_of(side, [deposit], [nonced]), [deposit])


def test_two_deposits_when_they_share_one_output_then_refused(side: SignedChain) -> None:
    deposits = [deposit_for(side), deposit_for(side)]
    rest = output(side.params, BOB.script, AMOUNT_SATS - MAX_FEE_SATS)
    check_refused(side, claim_of(side, deposits, [paid(side), rest]), deposits)


def test_two_deposits_when_each_has_its_output_then_taken(side: SignedChain) -> None:
    deposits = [deposit_for(side), deposit_for(side)]
    check_taken(side, claim_of(side, deposits, [paid(side), paid(side)]), deposits)


@pytest.mark.parametrize("part", ["leaf", "version", "key"])
def test_witness_when_altered_then_refused(side: SignedChain, part: str) -> None:
    deposit = deposit_for(side)
    leaf, control = covenant_witness(TERMS, side.params.pegged_asset)
    cheaper = leaf_script(replace(TERMS, max_fee_sats=900_000), side.params.pegged_asset)
    altered = {
        "leaf": (cheaper, control),
        "version": (leaf, bytes((control[0] & 1 | 0xC0,)) + control[1:]),
        "key": (leaf, control[:1] + NONCE[1:]),
    }[part]
    claim = claim_of(side, [deposit], [paid(side)], witness=altered)
    check_refused(side, claim, [deposit])


def claimed_beside(side: SignedChain, deposit: Deposit, outputs: Sequence[TxOut]) -> Transaction:
    """A claim at index 1, behind a coin of Bob's, who signs."""
    source = side.mint(BOB, 50_000)
    coin = side.chain.coin(source)
    assert coin is not None
    alone = claim_of(side, [deposit], outputs, fee_sats=0)
    fee = output(side.params, b"", AMOUNT_SATS + 50_000 - sum(o.value_sats or 0 for o in outputs))
    plain = Transaction.build(
        inputs=[TxIn(source, sequence=0xFFFFFFFD), *alone.inputs],
        outputs=[*outputs, fee],
        input_witnesses=[InputWitness(), *alone.input_witnesses],
    )
    return BOB.sign(plain, [coin], only=0)


def test_claim_beside_an_own_coin_when_at_its_index_then_taken(side: SignedChain) -> None:
    deposit = deposit_for(side)
    change = output(side.params, BOB.script, 49_000)
    claim = claimed_beside(side, deposit, [change, paid(side)])
    check_taken(side, claim, [deposit])


def test_claim_beside_an_own_coin_when_outputs_swapped_then_refused(side: SignedChain) -> None:
    deposit = deposit_for(side)
    change = output(side.params, BOB.script, 49_000)
    claim = claimed_beside(side, deposit, [paid(side), change])
    check_refused(side, claim, [deposit])


def test_claim_when_by_the_internal_key_then_taken_wherever_it_pays(side: SignedChain) -> None:
    key = secret("internal")
    pubkey = public_key(key)
    if pubkey[0] == 3:
        key = _negated(key)
    terms = replace(TERMS, internal_key=pubkey[1:])
    deposit = deposit_for(side, terms)
    elsewhere = output(side.params, BOB.script, AMOUNT_SATS - 1_000)
    claim = claim_of(side, [deposit], [elsewhere], witness=())
    spent = [claimed_output(claim.input_witnesses[0])]
    digest = taproot_sighash(
        SighashCache(claim, spent, side.params.genesis_hash), 0, 0, TaprootPath()
    )
    root = leaf_hash(0xC4, leaf_script(terms, side.params.pegged_asset))
    tweaked = tweak_add_secret(key, tweak_hash(terms.internal_key, root))
    signature = schnorr_sign(tweaked, digest or b"")
    witness = replace(claim.input_witnesses[0], script=(signature,))
    check_taken(side, with_witnesses(claim, (witness,)), [deposit])


def _negated(key: bytes) -> bytes:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    return (order - int.from_bytes(key, "big")).to_bytes(32, "big")


@pytest.mark.parametrize(
    ("script", "max_fee_sats", "key"),
    [
        (b"\x76\xa9\x14" + bytes(20) + b"\x88\xac", 1, NUMS_KEY),
        (b"\xa9\x14" + bytes(20) + b"\x87", 1, NUMS_KEY),
        (b"\x52\x20" + bytes(32), 1, NUMS_KEY),
        (ALICE.script, 0, NUMS_KEY),
        (ALICE.script, 2**63, NUMS_KEY),
        (ALICE.script, 1, NUMS_KEY[1:]),
        (ALICE.script, 1, b"\xff" * 32),
    ],
)
def test_terms_when_no_claim_script_has_them_then_refused(
    script: bytes, max_fee_sats: int, key: bytes
) -> None:
    with pytest.raises(InvalidEncoding):
        CovenantTerms(script=script, max_fee_sats=max_fee_sats, internal_key=key)


def test_values_when_explicit_then_what_the_claim_spends(side: SignedChain) -> None:
    claim = claim_of(side, [deposit_for(side)], [paid(side)])
    spent = claimed_output(claim.input_witnesses[0])
    assert spent.value == explicit_value(AMOUNT_SATS)
    assert spent.script == covenant_script(TERMS, side.params.pegged_asset)
