"""PSETs: made, signed, combined, finalized; lies and garbage refused."""

from base64 import b64decode, b64encode
from dataclasses import replace
from typing import Any

import pytest
import wallycore
from hypothesis import given, settings
from hypothesis import strategies as st

from sidechain.crypto.hashes import sha256
from sidechain.errors import InvalidEncoding
from sidechain.primitives.transaction import OutPoint
from sidechain.wallet.blinding import ZERO
from sidechain.wallet.builder import Draft, Payment, Terms, build_payment, sign, verify_made
from sidechain.wallet.keys import Branch, PrivateAccount, PublicAccount, SecretKey
from sidechain.wallet.pset import (
    combine_psets,
    create_pset,
    extract_pset,
    finalize_pset,
    sign_pset,
    view_pset,
)
from sidechain.wallet.selection import OwnedCoin, WalletRefusal
from tests.factories import federation_params

PARAMS = federation_params()
PEGGED = PARAMS.pegged_asset
OWN = PrivateAccount.from_seed(bytes(range(32)))
OTHER = PrivateAccount.from_seed(bytes(range(64)))
CHANGE = OWN.public.script(Branch.CHANGE, 0)
TARGET = OTHER.public.script(Branch.RECEIVE, 7)


def coin(number: int, value_sats: int, account: PrivateAccount = OWN, *, hidden: bool) -> OwnedCoin:
    return OwnedCoin(
        outpoint=OutPoint(sha256(b"coin %d" % number), number),
        asset=PEGGED,
        value_sats=value_sats,
        script=account.public.script(Branch.RECEIVE, number),
        branch=Branch.RECEIVE,
        index=number,
        height=5,
        abf=sha256(b"a%d" % number) if hidden else ZERO,
        vbf=sha256(b"v%d" % number) if hidden else ZERO,
    )


def own_secret(spent: OwnedCoin) -> SecretKey:
    return OWN.secret(spent.branch, spent.index)


def other_secret(spent: OwnedCoin) -> SecretKey:
    return OTHER.secret(spent.branch, spent.index)


def draft_of(coins: list[OwnedCoin], value_sats: int = 30_000) -> Draft:
    payment = Payment(
        script=TARGET,
        asset=PEGGED,
        value_sats=value_sats,
        blinding_key=OTHER.public.blinding_public_key(TARGET),
    )
    terms = Terms(
        params=PARAMS,
        change_script=CHANGE,
        change_blinding_key=OWN.public.blinding_public_key(CHANGE),
        rate_sats_per_kvb=100,
        entropy=sha256(b"entropy"),
    )
    return build_payment([payment], coins, terms)


def path_of(script: bytes) -> tuple[Branch, int] | None:
    return (Branch.CHANGE, 0) if script == CHANGE else None


def pset_of(draft: Draft) -> str:
    return create_pset(draft, OWN.public, path_of)


def by_outpoint(*coins: OwnedCoin) -> dict[OutPoint, OwnedCoin]:
    return {item.outpoint: item for item in coins}


COIN = coin(1, 90_000, hidden=True)
DRAFT = draft_of([COIN])
TEXT = pset_of(DRAFT)


@pytest.mark.parametrize("hidden", [True, False])
def test_pset_when_signed_and_finalized_then_the_transaction_the_wallet_would_sign(
    hidden: bool,
) -> None:
    coins = [coin(1, 40_000, hidden=hidden), coin(2, 35_000, hidden=hidden)]
    draft = draft_of(coins, 60_000)
    text = pset_of(draft)
    view = view_pset(text)
    assert (view.tx.txid, view.is_final) == (draft.tx.txid, False)
    assert view.tx.outputs == draft.tx.outputs
    assert view.tx.output_witnesses == draft.tx.output_witnesses
    assert [item.output for item in view.inputs] == [item.output for item in draft.spent]
    signed, count = sign_pset(text, by_outpoint(*coins), own_secret)
    assert count == 2
    assert [item.signatures for item in view_pset(signed).inputs] == [1, 1]
    final = finalize_pset(signed)
    assert view_pset(final).is_final
    tx = extract_pset(final)
    assert tx == sign(draft, own_secret, PARAMS)
    verify_made(tx, [item.output for item in draft.spent], PARAMS)
    assert sign_pset(final, by_outpoint(*coins), own_secret) == (final, 0)


def test_pset_when_made_then_it_proves_what_it_hides() -> None:
    handle = wallycore.psbt_from_base64(TEXT)
    for position, opened in enumerate(DRAFT.opened[:2]):
        output = DRAFT.tx.outputs[position]
        assert wallycore.psbt_get_output_amount(handle, position) == opened.value_sats
        wallycore.explicit_rangeproof_verify(
            wallycore.psbt_get_output_value_blinding_rangeproof(handle, position),
            opened.value_sats,
            output.value,
            output.asset,
        )
        wallycore.explicit_surjectionproof_verify(
            wallycore.psbt_get_output_asset_blinding_surjectionproof(handle, position),
            opened.asset,
            output.asset,
        )
    assert wallycore.psbt_get_input_amount(handle, 0) == COIN.value_sats


def test_psets_when_each_owner_signed_a_copy_then_combined_they_are_complete() -> None:
    theirs = coin(2, 50_000, OTHER, hidden=True)
    draft = draft_of([COIN, theirs], 120_000)
    text = pset_of(draft)
    ours, count = sign_pset(text, by_outpoint(COIN), own_secret)
    assert count == 1
    with pytest.raises(WalletRefusal, match="not every input"):
        extract_pset(finalize_pset(ours))
    signed, _ = sign_pset(text, by_outpoint(theirs), other_secret)
    for order in ([text, ours, signed], [signed, ours], [ours, signed, ours]):
        tx = extract_pset(finalize_pset(combine_psets(order)))
        verify_made(tx, [item.output for item in draft.spent], PARAMS)
        assert tx.txid == draft.tx.txid


def test_psets_when_of_different_transactions_then_not_combined() -> None:
    with pytest.raises(InvalidEncoding, match="same transaction"):
        combine_psets([TEXT, pset_of(draft_of([COIN], 31_000))])
    with pytest.raises(InvalidEncoding, match="nothing"):
        combine_psets([])


@pytest.mark.parametrize(
    "known",
    [
        replace(COIN, value_sats=90_001),
        replace(COIN, abf=sha256(b"x")),
        replace(COIN, asset=sha256(b"asset")),
        replace(COIN, script=OWN.public.script(Branch.RECEIVE, 2), index=2),
    ],
)
def test_pset_when_it_lies_about_an_own_coin_then_nothing_is_signed(known: OwnedCoin) -> None:
    with pytest.raises(WalletRefusal) as refused:
        sign_pset(TEXT, by_outpoint(known), own_secret)
    assert refused.value.reason == "pset"


def test_pset_when_it_says_nothing_of_an_own_coin_or_wants_another_signature_then_refused() -> None:
    def forget(handle: Any) -> None:
        wallycore.psbt_set_input_witness_utxo(handle, 0, None)
        wallycore.psbt_clear_input_amount(handle, 0)
        wallycore.psbt_clear_input_amount_rangeproof(handle, 0)
        wallycore.psbt_clear_input_asset(handle, 0)
        wallycore.psbt_clear_input_asset_surjectionproof(handle, 0)

    for change in (forget, lambda handle: wallycore.psbt_set_input_sighash(handle, 0, 0x83)):
        handle = wallycore.psbt_from_base64(TEXT)
        change(handle)
        with pytest.raises(WalletRefusal) as refused:
            sign_pset(wallycore.psbt_to_base64(handle, 0), by_outpoint(COIN), own_secret)
        assert refused.value.reason == "pset"


def test_pset_when_no_input_is_ours_then_left_alone() -> None:
    assert sign_pset(TEXT, {}, own_secret)[1] == 0


def test_pset_when_the_accounts_origin_is_unknown_then_not_made() -> None:
    bare = PublicAccount.decode(OWN.public.extended_key)
    with pytest.raises(InvalidEncoding, match="unlock"):
        create_pset(DRAFT, bare, path_of)


# ---- garbage ----


def bitcoin_psbt() -> str:
    tx = wallycore.tx_init(2, 0, 1, 1)
    wallycore.tx_add_raw_input(tx, b"\5" * 32, 0, 0xFFFFFFFF, None, None, 0)
    wallycore.tx_add_raw_output(tx, 1_000, b"\x51", 0)
    handle = wallycore.psbt_from_tx(tx, 2, 0)
    return str(wallycore.psbt_to_base64(handle, 0))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cHNldP8=",
        "é",
        "x" * 60,
        TEXT[:200],
        TEXT[:-8],
        b64encode(b64decode(TEXT) + b"\0\0\0").decode(),
        b64encode(b"pset\xff\0").decode(),
        bitcoin_psbt(),
    ],
)
def test_pset_when_it_is_none_then_refused(text: str) -> None:
    for read in (view_pset, finalize_pset, extract_pset, lambda found: combine_psets([found])):
        with pytest.raises(InvalidEncoding):
            read(text)  # type: ignore[operator]


def read_all(text: str) -> None:
    try:
        view_pset(text)
        sign_pset(text, by_outpoint(COIN), own_secret)
        combine_psets([text, TEXT])
        extract_pset(finalize_pset(text))
    except (InvalidEncoding, WalletRefusal):
        return


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=300))
def test_pset_when_it_is_any_bytes_then_refused_or_read(data: bytes) -> None:
    read_all(b64encode(data).decode())
    read_all(b64encode(b"pset\xff" + data).decode())


SIGNED = b64decode(sign_pset(TEXT, by_outpoint(COIN), own_secret)[0])


@settings(max_examples=200, deadline=None)
@given(
    position=st.integers(0, len(SIGNED) - 1) | st.integers(0, 600),
    byte=st.integers(0, 255),
    cut=st.booleans(),
)
def test_pset_when_a_byte_is_changed_or_the_end_cut_then_refused_or_read(
    position: int, byte: int, cut: bool
) -> None:
    changed = SIGNED[:position] + bytes([byte]) + (b"" if cut else SIGNED[position + 1 :])
    read_all(b64encode(changed).decode())
