"""Payments, burns, claims and issuances of coins that are hidden: balance, fee, privacy."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidechain.crypto.hashes import sha256
from sidechain.params import ChainParams
from sidechain.policy.fees import required_fee_sats
from sidechain.policy.standardness import check_standard
from sidechain.primitives.address import Address
from sidechain.primitives.confidential import is_commitment
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.script.flags import CONSENSUS_FLAGS, STANDARD_FLAGS
from sidechain.script.interpreter import verify_input
from sidechain.validation.pegouts import parse_pegout
from sidechain.wallet.blinding import ZERO, Opened, unblind
from sidechain.wallet.builder import (
    Draft,
    Payment,
    PegoutLimits,
    Terms,
    build_burn,
    build_payment,
    sign,
)
from sidechain.wallet.claim import ClaimableDeposit, build_claim, replacement_fee_sats, sign_claim
from sidechain.wallet.issuing import (
    IssuanceRecord,
    NewAsset,
    build_asset_burn,
    build_issuance,
    build_reissuance,
    issuances_of,
)
from sidechain.wallet.keys import Branch, PrivateAccount, PublicAccount, SecretKey
from sidechain.wallet.selection import OwnedCoin, WalletRefusal
from tests.factories import federation_params, make_deposit

PARAMS = federation_params()
FULL_PRICE = federation_params(accept_discount_ct=False)
PEGGED = PARAMS.pegged_asset
OTHER = sha256(b"another asset")
ACCOUNT = PrivateAccount.from_seed(bytes(range(64)))
THEIRS = PrivateAccount.from_seed(bytes(range(100, 132))).public
ENTROPY = sha256(b"entropy")
CHANGE = ACCOUNT.public.script(Branch.CHANGE, 0)
TARGET = THEIRS.script(Branch.RECEIVE, 0)
HOME = ACCOUNT.public.script(Branch.RECEIVE, 9)
RATE = 100


def terms(params: ChainParams = PARAMS, rate: int = RATE, *, explicit: bool = False) -> Terms:
    return Terms(
        params=params,
        change_script=CHANGE,
        change_blinding_key=None if explicit else ACCOUNT.public.blinding_public_key(CHANGE),
        rate_sats_per_kvb=rate,
        entropy=ENTROPY,
    )


def coin(number: int, value_sats: int, asset: bytes = PEGGED, *, hidden: bool = True) -> OwnedCoin:
    abf, vbf = ZERO, ZERO
    if hidden:
        abf, vbf = sha256(b"abf %d" % number), sha256(b"vbf %d" % number)
    return OwnedCoin(
        outpoint=OutPoint(sha256(b"coin %d" % number), number % 3),
        asset=asset,
        value_sats=value_sats,
        script=ACCOUNT.public.script(Branch.RECEIVE, number % 5),
        branch=Branch.RECEIVE,
        index=number % 5,
        height=5,
        abf=abf,
        vbf=vbf,
    )


def secret_of(spent: OwnedCoin) -> SecretKey:
    return ACCOUNT.secret(spent.branch, spent.index)


def payment(value_sats: int, asset: bytes = PEGGED, *, hidden: bool = True) -> Payment:
    key = THEIRS.blinding_public_key(TARGET) if hidden else None
    return Payment(script=TARGET, asset=asset, value_sats=value_sats, blinding_key=key)


def opened(tx: Transaction, position: int, account: PublicAccount) -> Opened | None:
    output = tx.outputs[position]
    secret = account.blinding_secret(output.script) if output.script else None
    return unblind(output, tx.output_witnesses[position], secret, PEGGED)


def hidden_count(tx: Transaction) -> int:
    return sum(is_commitment(output.value) for output in tx.outputs)


def check_spends(tx: Transaction, draft: Draft) -> None:
    for position, item in enumerate(draft.spent):
        verify_input(tx, position, item.output, CONSENSUS_FLAGS | STANDARD_FLAGS)


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(st.tuples(st.integers(1, 5_000_000), st.booleans()), min_size=1, max_size=5),
    amount=st.integers(14, 6_000_000),
    other=st.one_of(st.none(), st.tuples(st.integers(1, 1_000), st.booleans())),
    hides=st.booleans(),
    explicit_change=st.booleans(),
    discount=st.booleans(),
    rate=st.integers(1, 5_000),
)
def test_payment_when_signed_then_it_balances_pays_its_fee_and_is_standard(
    values: list[tuple[int, bool]],
    amount: int,
    other: tuple[int, bool] | None,
    hides: bool,
    explicit_change: bool,
    discount: bool,
    rate: int,
) -> None:
    params = PARAMS if discount else FULL_PRICE
    coins = [coin(i, value, hidden=hidden) for i, (value, hidden) in enumerate(values)]
    payments = [payment(amount, hidden=hides)]
    if other is not None:
        coins.append(coin(90, 1_000, OTHER, hidden=other[1]))
        payments.append(payment(other[0], OTHER, hidden=hides))
    try:
        draft = build_payment(payments, coins, terms(params, rate, explicit=explicit_change))
    except WalletRefusal as refusal:
        assert refusal.reason == "insufficient-funds"
        return
    tx = sign(draft, secret_of, params)  # verifies balance and proofs itself
    check_spends(tx, draft)
    check_standard(tx, params)
    size = tx.discount_vsize if discount else tx.vsize
    assert draft.fee_sats >= required_fee_sats(size, rate)
    assert [out.value_sats for out in tx.outputs if out.is_fee] == [draft.fee_sats]
    for position, item in enumerate(payments):
        found = opened(tx, position, THEIRS)
        assert found is not None
        assert (found.asset, found.value_sats) == (item.asset, item.value_sats)
        assert is_commitment(tx.outputs[position].value) == hides
    # never a single hidden output where no input hides anything, never none where one does
    assert hidden_count(tx) != (0 if any(item.is_blinded for item in draft.spent) else 1)


def test_payment_when_only_change_would_be_hidden_then_change_is_explicit() -> None:
    draft = build_payment([payment(1_000, hidden=False)], [coin(1, 90_000, hidden=False)], terms())
    assert hidden_count(draft.tx) == 0 and len(draft.tx.outputs) == 3


def test_payment_when_nothing_is_left_for_change_then_a_hidden_zero_balances() -> None:
    fee = build_payment([payment(10_000)], [coin(1, 900_000)], terms()).fee_sats
    draft = build_payment([payment(10_000)], [coin(2, 10_000 + fee, hidden=False)], terms())
    # one hidden payment from an explicit coin: the second hidden output holds nothing
    assert [out.script for out in draft.tx.outputs] == [TARGET, b"\x6a", b""]
    assert hidden_count(draft.tx) == 2
    sign(draft, secret_of, PARAMS)


def test_payment_to_explicit_address_when_all_is_spent_then_a_hidden_zero_balances() -> None:
    coins = [coin(1, 10_000)]
    fee = build_payment([payment(1_000, hidden=False)], coins, terms()).fee_sats
    draft = build_payment([payment(10_000 - fee - 5, hidden=False)], coins, terms())
    assert [out.script for out in draft.tx.outputs] == [TARGET, b"\x6a", b""]
    assert hidden_count(draft.tx) == 1
    sign(draft, secret_of, PARAMS)


def test_payment_when_repeated_then_the_same_bytes() -> None:
    coins = [coin(i, 1_000 * i) for i in range(1, 9)]
    first = build_payment([payment(9_000)], coins, terms())
    assert sign(first, secret_of, PARAMS) == sign(
        build_payment([payment(9_000)], list(reversed(coins)), terms()), secret_of, PARAMS
    )


def test_payment_when_hidden_outputs_have_too_many_inputs_then_refused() -> None:
    coins = [coin(i, 2_000, hidden=False) for i in range(400)]
    with pytest.raises(WalletRefusal) as refusal:
        build_payment([payment(600_000)], coins, terms())
    assert refusal.value.reason == "tx-size"


def test_pegout_when_coins_are_hidden_then_the_burn_is_explicit_and_change_is_not() -> None:
    limits = PegoutLimits(
        min_pegout_sats=20_000, payout_cap_sats=100_000_000, federation_scripts=()
    )
    destination = b"\x51\x20" + b"\x55" * 32
    draft = build_burn(destination, 400_000, [coin(1, 1_000_000)], terms(), limits=limits)
    tx = sign(draft, secret_of, PARAMS)
    burn, change = tx.outputs[:2]
    assert parse_pegout(burn.script) == (PARAMS.parent_genesis_hash, destination)
    assert (burn.asset_id, burn.value_sats, burn.nonce) == (PEGGED, 400_000, b"\0")
    assert is_commitment(change.value) and is_commitment(change.asset)
    kept = opened(tx, 1, ACCOUNT.public)
    assert kept is not None and kept.value_sats == 600_000 - draft.fee_sats


# ---- claims ----


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


def claim(
    *, params: ChainParams = PARAMS, entropy: bytes = ENTROPY, least_fee_sats: int = 0
) -> Transaction:
    built = build_claim(
        claimable(),
        params,
        to=Address(TARGET, THEIRS.blinding_public_key(TARGET)),
        rate_sats_per_kvb=1_000,
        entropy=entropy,
        least_fee_sats=least_fee_sats,
    )
    return sign_claim(built, ACCOUNT.secret(Branch.CLAIM, 3), params)


@pytest.mark.parametrize("params", [PARAMS, FULL_PRICE])
def test_claim_when_address_is_confidential_then_two_hidden_outputs(params: ChainParams) -> None:
    tx = claim(params=params)
    fee = tx.outputs[-1].value_sats or 0
    assert hidden_count(tx) == 2 and [out.script for out in tx.outputs] == [TARGET, b"\x6a", b""]
    found = opened(tx, 0, THEIRS)
    assert found is not None and found.value_sats == 1_000_000 - fee
    size = tx.discount_vsize if params.accept_discount_ct else tx.vsize
    assert fee >= required_fee_sats(size, 1_000)
    check_standard(tx, params)


def test_claim_when_built_again_from_its_entropy_then_the_same_bytes() -> None:
    assert claim() == claim()
    other = claim(entropy=sha256(ENTROPY))
    assert other.outputs[0].value != claim().outputs[0].value


def test_claim_when_it_replaces_another_then_fee_covers_the_whole_size_and_blinders_differ() -> (
    None
):
    first = claim()
    least = replacement_fee_sats(first)
    second = claim(least_fee_sats=least)
    assert least >= (first.outputs[-1].value_sats or 0) + required_fee_sats(second.vsize, 100)
    assert (second.outputs[-1].value_sats or 0) == least
    assert first.outputs[0].nonce != second.outputs[0].nonce
    assert first.outputs[0].asset != second.outputs[0].asset


# ---- assets ----


def issue(*, hidden: bool = True, tokens: int = 2, coins_hidden: bool = True) -> Draft:
    new = NewAsset(
        asset_sats=50_000, token_sats=tokens, contract_hash=sha256(b"contract"), hidden=hidden
    )
    coins = [coin(1, 90_000, hidden=coins_hidden)]
    return build_issuance(new, coins, terms(), ACCOUNT.public, to_script=HOME)


def made_coins(tx: Transaction) -> list[OwnedCoin]:
    found = []
    for position, output in enumerate(tx.outputs):
        if output.script not in (HOME, CHANGE):
            continue
        held = opened(tx, position, ACCOUNT.public)
        assert held is not None
        made = OwnedCoin(
            outpoint=OutPoint(tx.txid, position),
            asset=held.asset,
            value_sats=held.value_sats,
            script=output.script,
            branch=Branch.RECEIVE if output.script == HOME else Branch.CHANGE,
            index=9 if output.script == HOME else 0,
            height=6,
            nonce=output.nonce,
            abf=held.abf,
            vbf=held.vbf,
        )
        found.append(made)
    return found


def record_of(draft: Draft, tx: Transaction) -> IssuanceRecord:
    own = {item.outpoint for item in draft.spent}
    (record,) = issuances_of(tx, ACCOUNT.public, own.__contains__)
    return record


@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize("coins_hidden", [True, False])
@pytest.mark.parametrize("tokens", [0, 2])
def test_issuance_when_signed_then_asset_and_tokens_are_ours(
    hidden: bool, coins_hidden: bool, tokens: int
) -> None:
    draft = issue(hidden=hidden, tokens=tokens, coins_hidden=coins_hidden)
    tx = sign(draft, secret_of, PARAMS)
    check_spends(tx, draft)
    check_standard(tx, PARAMS)
    assert draft.fee_sats >= required_fee_sats(tx.discount_vsize, RATE)
    record = record_of(draft, tx)
    assert (record.asset_sats, record.token_sats) == (50_000, tokens)
    assert (record.is_hidden, record.is_reissuance) == (hidden, False)
    held = {item.asset: item.value_sats for item in made_coins(tx)}
    assert held[record.asset] == 50_000 and held.get(record.token, 0) == tokens
    assert IssuanceRecord.decode(record.encode()) == record


@pytest.mark.parametrize("hidden", [True, False])
def test_reissuance_when_token_is_held_then_more_of_the_asset_and_the_token_stays(
    hidden: bool,
) -> None:
    draft = issue(hidden=hidden)
    first = sign(draft, secret_of, PARAMS)
    record, coins = record_of(draft, first), made_coins(first)
    again = build_reissuance(record, 700, coins, terms(), ACCOUNT.public, to_script=HOME)
    tx = sign(again, secret_of, PARAMS)
    check_spends(tx, again)
    assert is_commitment(tx.inputs[0].issuance.amount if tx.inputs[0].issuance else b"") == hidden
    more = record_of(again, tx)
    assert (more.asset, more.token, more.entropy) == (record.asset, record.token, record.entropy)
    assert (more.asset_sats, more.token_sats, more.is_reissuance) == (700, 0, True)
    held = {item.asset: item.value_sats for item in made_coins(tx)}
    assert held[record.asset] == 700 and held[record.token] == 2


def test_reissuance_when_there_is_no_usable_token_then_refused() -> None:
    draft = issue()
    tx = sign(draft, secret_of, PARAMS)
    record, coins = record_of(draft, tx), made_coins(tx)
    without = [item for item in coins if item.asset != record.token]
    explicit = [
        replace(item, abf=ZERO, vbf=ZERO) if item.asset == record.token else item for item in coins
    ]
    for held, words in ((without, "no token"), (explicit, "explicit token")):
        with pytest.raises(WalletRefusal, match=words) as refusal:
            build_reissuance(record, 5, held, terms(), ACCOUNT.public, to_script=HOME)
        assert refusal.value.reason == "no-token"


def test_asset_burn_when_built_then_the_amount_is_shown_and_the_rest_comes_back() -> None:
    coins = [coin(1, 90_000), coin(2, 500, OTHER)]
    draft = build_asset_burn(OTHER, 200, coins, terms())
    tx = sign(draft, secret_of, PARAMS)
    burn = tx.outputs[0]
    assert (burn.script, burn.asset_id, burn.value_sats) == (b"\x6a", OTHER, 200)
    assert {item.asset: item.value_sats for item in made_coins(tx)} == {
        OTHER: 300,
        PEGGED: 90_000 - draft.fee_sats,
    }
    with pytest.raises(WalletRefusal, match="pegged out"):
        build_asset_burn(PEGGED, 200, coins, terms())


@pytest.mark.parametrize(("amount", "tokens"), [(0, 1), (-1, 0), (21_000_001 * 10**8, 0), (1, -1)])
def test_issuance_when_amounts_are_out_of_range_then_refused(amount: int, tokens: int) -> None:
    new = NewAsset(asset_sats=amount, token_sats=tokens, contract_hash=ZERO, hidden=False)
    with pytest.raises(WalletRefusal, match="amounts"):
        build_issuance(new, [coin(1, 90_000)], terms(), ACCOUNT.public, to_script=HOME)


def test_issuance_when_the_wallet_cannot_blind_then_only_without_tokens() -> None:
    bare = PublicAccount.decode(ACCOUNT.public.extended_key)
    new = NewAsset(asset_sats=5, token_sats=0, contract_hash=ZERO, hidden=False)
    coins = [coin(1, 90_000, hidden=False)]
    sign(build_issuance(new, coins, terms(explicit=True), bare, to_script=HOME), secret_of, PARAMS)
    for refused in (replace(new, token_sats=1), replace(new, hidden=True)):
        with pytest.raises(WalletRefusal) as refusal:
            build_issuance(refused, coins, terms(), bare, to_script=HOME)
        assert refusal.value.reason == "no-blinding-key"
