"""Coin choice, payments, burns and claims: amounts, fees, sizes, signatures."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidechain.crypto.hashes import sha256
from sidechain.policy.fees import required_fee_sats
from sidechain.policy.standardness import (
    MAX_STANDARD_TX_WEIGHT_WU,
    check_standard,
    dust_threshold_sats,
)
from sidechain.primitives.address import Address
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import OutPoint, Transaction, TxOut
from sidechain.script.flags import CONSENSUS_FLAGS, STANDARD_FLAGS
from sidechain.script.interpreter import verify_input
from sidechain.validation.pegins import parse_pegin
from sidechain.validation.pegouts import parse_pegout
from sidechain.wallet.builder import (
    Draft,
    Payment,
    PegoutLimits,
    Terms,
    build_burn,
    build_payment,
    check_burn,
    is_payable_destination,
    sign,
)
from sidechain.wallet.claim import ClaimableDeposit, build_claim, sign_claim, with_claim_proof
from sidechain.wallet.keys import Branch, PrivateAccount, SecretKey
from sidechain.wallet.selection import OwnedCoin, WalletRefusal
from tests.factories import federation_params, make_deposit

PARAMS = federation_params()
PEGGED = PARAMS.pegged_asset
OTHER = sha256(b"another asset")
ENTROPY = sha256(b"entropy")
ACCOUNT = PrivateAccount.from_seed(bytes(range(32)))
CHANGE = ACCOUNT.public.script(Branch.CHANGE, 0)
TARGET = b"\x00\x14" + b"\x77" * 20
DESTINATION = b"\x51\x20" + b"\x55" * 32
LIMITS = PegoutLimits(
    min_pegout_sats=20_000,
    payout_cap_sats=100_000_000,
    federation_scripts=(b"\x00\x20" + b"\xfe" * 32,),
)


def coin(number: int, value_sats: int, asset: bytes = PEGGED, height: int | None = 5) -> OwnedCoin:
    return OwnedCoin(
        outpoint=OutPoint(sha256(b"coin %d" % number), number % 3),
        asset=asset,
        value_sats=value_sats,
        script=ACCOUNT.public.script(Branch.RECEIVE, number % 5),
        branch=Branch.RECEIVE,
        index=number % 5,
        height=height,
    )


def secret_of(spent: OwnedCoin) -> SecretKey:
    return ACCOUNT.secret(spent.branch, spent.index)


def terms(rate: int = 100) -> Terms:
    return Terms(
        params=PARAMS,
        change_script=CHANGE,
        change_blinding_key=None,
        rate_sats_per_kvb=rate,
        entropy=ENTROPY,
    )


def pay(coins: list[OwnedCoin], value_sats: int, rate: int = 100) -> Draft:
    payment = Payment(script=TARGET, asset=PEGGED, value_sats=value_sats)
    return build_payment([payment], coins, terms(rate))


def amounts(tx: Transaction) -> dict[bytes, int]:
    sums: dict[bytes, int] = {}
    for output in tx.outputs:
        assert output.asset_id is not None and output.value_sats is not None
        sums[output.asset_id] = sums.get(output.asset_id, 0) + output.value_sats
    return sums


def spent_output(spent: OwnedCoin) -> TxOut:
    return TxOut(explicit_asset(spent.asset), explicit_value(spent.value_sats), NULL, spent.script)


@settings(max_examples=150, deadline=None)
@example(values=[3146], amount=14, rate=4685, other_values=[38, 149], other_amount=186)
@example(values=[9002], amount=5607, rate=8441, other_values=[], other_amount=1)
@given(
    values=st.lists(st.integers(1, 5_000_000), min_size=1, max_size=40),
    amount=st.integers(14, 20_000_000),
    rate=st.integers(1, 20_000),
    other_values=st.lists(st.integers(1, 1_000), max_size=4),
    other_amount=st.integers(1, 2_000),
)
def test_payment_when_built_then_value_is_conserved_and_fee_suffices(
    values: list[int], amount: int, rate: int, other_values: list[int], other_amount: int
) -> None:
    coins = [coin(i, value) for i, value in enumerate(values)]
    coins += [coin(100 + i, value, OTHER) for i, value in enumerate(other_values)]
    payments = [Payment(script=TARGET, asset=PEGGED, value_sats=amount)]
    if other_values:
        payments.append(Payment(script=TARGET, asset=OTHER, value_sats=other_amount))
    try:
        draft = build_payment(payments, coins, terms(rate))
    except WalletRefusal as refusal:
        assert refusal.reason == "insufficient-funds"
        worth = sum(max(0, value - required_fee_sats(69, rate)) for value in values)
        short_of_other = bool(other_values) and sum(other_values) < other_amount
        assert short_of_other or worth < amount + required_fee_sats(450, rate)
        return
    tx = sign(draft, secret_of, PARAMS)
    spent: dict[bytes, int] = {}
    for item in draft.spent:
        spent[item.asset] = spent.get(item.asset, 0) + item.value_sats
    assert spent == amounts(tx)
    assert len({item.outpoint for item in draft.spent}) == len(draft.spent)
    assert [o.value_sats for o in tx.outputs if o.is_fee] == [draft.fee_sats]
    assert draft.fee_sats >= required_fee_sats(tx.vsize, rate)
    for output in tx.outputs:
        if output.asset_id == PEGGED and not output.is_fee:
            assert (output.value_sats or 0) >= dust_threshold_sats(output, PARAMS)
    # What is left to the fee is never worth a change output of its own.
    ceiling = required_fee_sats(tx.vsize + 200, rate) + 30
    assert draft.fee_sats <= ceiling
    check_standard(tx, PARAMS)


def test_payment_when_signed_then_the_interpreter_accepts_every_input() -> None:
    draft = pay([coin(i, 10_000) for i in range(5)], 35_000)
    tx = sign(draft, secret_of, PARAMS)
    for position, item in enumerate(draft.spent):
        verify_input(tx, position, spent_output(item), CONSENSUS_FLAGS | STANDARD_FLAGS)
    assert Transaction.decode(tx.serialize()) == tx


def test_payment_when_key_is_not_the_coins_then_refused() -> None:
    draft = pay([coin(1, 50_000)], 10_000)
    with pytest.raises(Exception, match="does not belong"):
        sign(draft, lambda _: ACCOUNT.secret(Branch.CLAIM, 0), PARAMS)


def test_payment_when_one_coin_fits_exactly_then_no_change() -> None:
    fee = pay([coin(1, 1_000_000)], 10_000).fee_sats
    exact = [coin(1, 1_000_000), coin(2, 10_000 + fee), coin(3, 7_000), coin(4, 9_000)]
    draft = pay(exact, 10_000)
    assert [item.value_sats for item in draft.spent] == [10_000 + fee]
    assert len(draft.tx.outputs) == 2


def test_payment_when_final_coins_suffice_then_pending_ones_stay() -> None:
    coins = [coin(1, 900_000, height=None), coin(2, 50_000)]
    assert [item.outpoint for item in pay(coins, 10_000).spent] == [coins[1].outpoint]
    assert coins[0] in pay(coins, 100_000).spent


def test_payment_when_coins_are_too_many_then_refused_with_advice() -> None:
    coins = [coin(i, 2_000) for i in range(2_000)]
    with pytest.raises(WalletRefusal) as refusal:
        pay(coins, 3_500_000)
    assert refusal.value.reason == "tx-size"
    assert pay(coins, 2_000_000).tx.weight_wu < MAX_STANDARD_TX_WEIGHT_WU


@pytest.mark.parametrize(
    ("value_sats", "reason"), [(0, "amount"), (-1, "amount"), (13, "dust"), (99_990, "insuff")]
)
def test_payment_when_amount_is_impossible_then_refused(value_sats: int, reason: str) -> None:
    with pytest.raises(WalletRefusal) as refusal:
        pay([coin(1, 100_000)], value_sats)
    assert refusal.value.reason.startswith(reason)


def test_payment_when_repeated_then_same_transaction() -> None:
    coins = [coin(i, 1_000 * i) for i in range(1, 20)]
    first = sign(pay(coins, 40_000), secret_of, PARAMS)
    second = sign(pay(list(reversed(coins)), 40_000), secret_of, PARAMS)
    assert first.serialize() == second.serialize()


def test_burn_when_built_then_it_is_a_pegout_of_the_pegged_asset() -> None:
    draft = build_burn(
        DESTINATION,
        400_000,
        [coin(1, 1_000_000)],
        terms(),
        limits=LIMITS,
    )
    burn = draft.tx.outputs[0]
    assert parse_pegout(burn.script) == (PARAMS.parent_genesis_hash, DESTINATION)
    assert (burn.asset_id, burn.value_sats, burn.nonce) == (PEGGED, 400_000, NULL)
    check_standard(sign(draft, secret_of, PARAMS), PARAMS)


@pytest.mark.parametrize(
    ("destination", "value_sats", "code"),
    [
        (b"\x6a\x01\x00", 50_000, "E3_SCRIPT"),
        (b"", 50_000, "E3_SCRIPT"),
        (b"\x52\x20" + bytes(32), 50_000, "E3_SCRIPT"),
        (b"\x00\x14" + bytes(21), 50_000, "E3_SCRIPT"),
        (b"\x21" + b"\2" * 33 + b"\xac", 50_000, "E3_SCRIPT"),
        (LIMITS.federation_scripts[0], 50_000, "E5_FED"),
        (DESTINATION, 19_999, "E4_MIN"),
        (DESTINATION, 100_000_001, "HELD_OVERSIZE"),
    ],
)
def test_burn_when_federation_would_not_pay_then_refused_with_its_code(
    destination: bytes, value_sats: int, code: str
) -> None:
    with pytest.raises(WalletRefusal) as refusal:
        check_burn(destination, value_sats, LIMITS)
    assert refusal.value.reason == code


@pytest.mark.parametrize(
    "destination",
    [
        b"\x76\xa9\x14" + bytes(20) + b"\x88\xac",
        b"\xa9\x14" + bytes(20) + b"\x87",
        b"\x00\x14" + bytes(20),
        b"\x00\x20" + bytes(32),
        DESTINATION,
    ],
)
def test_burn_when_destination_is_one_of_five_forms_then_allowed(destination: bytes) -> None:
    assert is_payable_destination(destination)
    check_burn(destination, LIMITS.min_pegout_sats, LIMITS)
    check_burn(destination, LIMITS.payout_cap_sats, LIMITS)


def claimable(value_sats: int = 1_000_000) -> ClaimableDeposit:
    claim_script = ACCOUNT.public.script(Branch.CLAIM, 3)
    made = make_deposit(TARGET, claim_script, value_sats, 1)
    return ClaimableDeposit(
        outpoint=OutPoint(made.txid, made.vout),
        value_sats=value_sats,
        claim_script=claim_script,
        parent_tx=made.raw_tx,
        proof=made.proof,
    )


def signed_claim(deposit: ClaimableDeposit, rate: int = 100) -> Transaction:
    draft = build_claim(
        deposit, PARAMS, to=Address(CHANGE), rate_sats_per_kvb=rate, entropy=ENTROPY
    )
    return sign_claim(draft, ACCOUNT.secret(Branch.CLAIM, 3), PARAMS)


def test_claim_when_built_then_witness_and_signature_hold() -> None:
    deposit = claimable()
    tx = signed_claim(deposit, rate=5_000)
    claim = parse_pegin(tx.input_witnesses[0].pegin)
    assert (claim.value_sats, claim.asset, claim.claim_script) == (
        deposit.value_sats,
        PEGGED,
        deposit.claim_script,
    )
    assert amounts(tx) == {PEGGED: deposit.value_sats}
    fee = sum(output.value_sats or 0 for output in tx.outputs if output.is_fee)
    assert fee >= required_fee_sats(tx.vsize, 5_000)
    spent = TxOut(
        explicit_asset(PEGGED), explicit_value(deposit.value_sats), NULL, deposit.claim_script
    )
    verify_input(tx, 0, spent, CONSENSUS_FLAGS | STANDARD_FLAGS)
    check_standard(tx, PARAMS)


def test_claim_when_serialized_then_in_the_form_of_the_published_example() -> None:
    deposit = claimable()
    raw = signed_claim(deposit).serialize()
    head = b"\x02\0\0\0\x01\x01" + deposit.outpoint.txid
    replaceable = b"\xfd\xff\xff\xff"
    assert raw.startswith(head + b"\x01\0\0\x40" + b"\0" + replaceable + b"\x02\x01" + PEGGED)
    assert raw.endswith(deposit.proof + bytes(4))


def test_claim_when_deposit_moves_then_only_the_proof_changes() -> None:
    tx = signed_claim(claimable())
    moved = with_claim_proof(tx, b"another proof")
    assert moved.txid == tx.txid
    assert moved.input_witnesses[0].script == tx.input_witnesses[0].script
    assert moved.input_witnesses[0].pegin[5] == b"another proof"


def test_claim_when_deposit_is_worth_less_than_its_fee_then_refused() -> None:
    with pytest.raises(WalletRefusal) as refusal:
        build_claim(
            claimable(50), PARAMS, to=Address(CHANGE), rate_sats_per_kvb=1_000, entropy=ENTROPY
        )
    assert refusal.value.reason == "dust"
