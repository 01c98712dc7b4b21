"""Our wallet beside lwk's: addresses, keys, opened outputs, and each signing the other's PSETs."""

import lwk
import pytest

from sidechain.crypto.hashes import sha256
from sidechain.primitives.address import decode_address, encode_address
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import OutPoint, Transaction, TxIn, TxOut
from sidechain.script.flags import CONSENSUS_FLAGS, STANDARD_FLAGS
from sidechain.script.interpreter import verify_input
from sidechain.wallet.blinding import Opened, blind, unblind
from sidechain.wallet.builder import Draft, Payment, Terms, build_payment, sign, verify_made
from sidechain.wallet.descriptor import account_descriptor, parse_descriptor
from sidechain.wallet.keys import Branch, PrivateAccount, SecretKey, seed_of_mnemonic
from sidechain.wallet.pset import create_pset, extract_pset, finalize_pset, sign_pset, view_pset
from sidechain.wallet.selection import OwnedCoin
from tests.factories import federation_params

WORDS = "abandon " * 11 + "about"
PARAMS = federation_params()
PEGGED = PARAMS.pegged_asset
OWN = PrivateAccount.from_seed(seed_of_mnemonic(WORDS))
OTHER = PrivateAccount.from_seed(bytes(range(64))).public
TARGET = OTHER.script(Branch.RECEIVE, 0)
CHANGE = OWN.public.script(Branch.CHANGE, 0)
FUNDING_SATS = 100_000


def network() -> lwk.Network:
    builder = lwk.CustomElementsNetworkBuilder()
    builder.with_policy_asset(PEGGED[::-1].hex())
    builder.with_genesis_hash(PARAMS.genesis_hash[::-1].hex())
    builder.with_parent_genesis_hash(PARAMS.parent_genesis_hash[::-1].hex())
    return builder.build()


def signer() -> lwk.Signer:
    return lwk.Signer(lwk.Mnemonic(WORDS), network())


def wollet() -> lwk.Wollet:
    return lwk.Wollet(network(), signer().wpkh_slip77_descriptor(), datadir=None)


def funding() -> Transaction:
    """A blinded payment to the first address, from nobody."""
    script = OWN.public.script(Branch.RECEIVE, 0)
    rest = OWN.public.script(Branch.RECEIVE, 1)
    outputs = [
        TxOut(explicit_asset(PEGGED), explicit_value(value), NULL, paid)
        for value, paid in ((FUNDING_SATS, script), (50_000, rest), (100, b""))
    ]
    plain = Transaction.build(inputs=[TxIn(OutPoint(sha256(b"none"), 0))], outputs=outputs)
    keys = [OWN.public.blinding_public_key(script), OWN.public.blinding_public_key(rest), None]
    spent = [Opened(asset=PEGGED, value_sats=FUNDING_SATS + 50_100)]
    return blind(plain, spent, keys, entropy=sha256(b"funding"))


def coin_of(tx: Transaction) -> OwnedCoin:
    output = tx.outputs[0]
    secret = OWN.public.blinding_secret(output.script)
    held = unblind(output, tx.output_witnesses[0], secret, PEGGED)
    assert held is not None
    return OwnedCoin(
        outpoint=OutPoint(tx.txid, 0),
        asset=held.asset,
        value_sats=held.value_sats,
        script=output.script,
        branch=Branch.RECEIVE,
        index=0,
        height=5,
        nonce=output.nonce,
        abf=held.abf,
        vbf=held.vbf,
    )


FUNDING = funding()
COIN = coin_of(FUNDING)


def secret_of(spent: OwnedCoin) -> SecretKey:
    return OWN.secret(spent.branch, spent.index)


def draft() -> Draft:
    payment = Payment(
        script=TARGET,
        asset=PEGGED,
        value_sats=30_000,
        blinding_key=OTHER.blinding_public_key(TARGET),
    )
    terms = Terms(
        params=PARAMS,
        change_script=CHANGE,
        change_blinding_key=OWN.public.blinding_public_key(CHANGE),
        rate_sats_per_kvb=100,
        entropy=sha256(b"entropy"),
    )
    return build_payment([payment], [COIN], terms)


def check_spend(tx: Transaction) -> None:
    verify_made(tx, [COIN.output], PARAMS)
    verify_input(tx, 0, COIN.output, CONSENSUS_FLAGS | STANDARD_FLAGS)


def theirs(tx: Transaction) -> lwk.Transaction:
    return lwk.Transaction.from_bytes(tx.raw)


def lwk_secret(script: bytes) -> lwk.SecretKey:
    secret = OWN.public.blinding_secret(script)
    assert secret is not None
    return lwk.SecretKey.from_bytes(secret.value)


# ---- keys and addresses ----


@pytest.mark.parametrize("branch", [Branch.RECEIVE, Branch.CHANGE])
def test_addresses_when_derived_then_those_of_lwk(branch: Branch) -> None:
    descriptor = signer().wpkh_slip77_descriptor()
    account = parse_descriptor(str(descriptor))
    chain = lwk.Chain.EXTERNAL if branch is Branch.RECEIVE else lwk.Chain.INTERNAL
    for index in range(20):
        script = OWN.public.script(branch, index)
        assert account.script(branch, index) == script
        assert bytes(descriptor.script_pubkey(chain, index).bytes()) == script
        key = descriptor.derive_blinding_key(lwk.Script(script.hex()))
        secret = OWN.public.blinding_secret(script)
        assert key is not None and secret is not None
        assert bytes(key.bytes()) == secret.value


def test_receive_addresses_when_shown_then_those_of_lwk() -> None:
    wallet = wollet()
    for index in range(20):
        script = OWN.public.script(Branch.RECEIVE, index)
        shown = encode_address(script, PARAMS.prefixes, OWN.public.blinding_public_key(script))
        assert str(wallet.address(index).address()) == shown
        assert decode_address(shown, PARAMS.prefixes).script == script


def test_descriptor_when_lwk_reads_ours_then_the_same_wallet() -> None:
    ours = lwk.WolletDescriptor(account_descriptor(OWN.public))
    assert str(ours) == str(signer().wpkh_slip77_descriptor())
    account = parse_descriptor(str(ours))
    assert account.master_blinding_key == OWN.public.master_blinding_key
    assert account.origin == OWN.public.origin


# ---- amounts ----


def test_our_blinded_outputs_when_lwk_opens_them_then_the_same_amounts() -> None:
    made = sign(draft(), secret_of, PARAMS)
    outputs = theirs(made).outputs()
    change = outputs[1].unblind(lwk_secret(CHANGE))
    ours = unblind(
        made.outputs[1], made.output_witnesses[1], OWN.public.blinding_secret(CHANGE), PEGGED
    )
    assert ours is not None and change.value() == ours.value_sats
    assert change.asset() == PEGGED[::-1].hex()
    theirs(made).verify_tx_amt_proofs([theirs(FUNDING).outputs()[0]])
    assert theirs(made).discount_vsize() == made.discount_vsize
    assert str(theirs(made).txid()) == made.txid[::-1].hex()


# ---- PSETs ----


def test_our_pset_when_lwk_signs_it_then_it_spends_our_coin() -> None:
    made = draft()
    text = create_pset(made, OWN.public, lambda s: (Branch.CHANGE, 0) if s == CHANGE else None)
    signed = signer().sign(lwk.Pset(text))
    tx = extract_pset(finalize_pset(str(signed)))
    assert tx.txid == made.tx.txid
    check_spend(tx)
    wallet = wollet()
    assert bytes(wallet.finalize(signed).extract_tx().to_bytes()) == tx.raw
    details = wallet.pset_details(lwk.Pset(text)).balance()
    assert list(details.balances().values()) == [-30_000 - made.fee_sats]
    ours, count = sign_pset(text, {COIN.outpoint: COIN}, secret_of)
    assert count == 1
    check_spend(extract_pset(finalize_pset(str(lwk.Pset(ours)))))


def test_lwks_pset_when_we_sign_it_then_it_spends_our_coin() -> None:
    wallet = wollet()
    held = theirs(FUNDING).outputs()[0].unblind(lwk_secret(COIN.script))
    coin = lwk.ExternalUtxo(0, theirs(FUNDING), held, wallet.max_weight_to_satisfy(), True)
    builder = network().tx_builder()
    address = encode_address(TARGET, PARAMS.prefixes, OTHER.blinding_public_key(TARGET))
    builder.add_lbtc_recipient(lwk.Address(address), 30_000)
    builder.add_external_utxos([coin])
    text = str(builder.finish(wallet))
    assert view_pset(text).inputs[0].outpoint == COIN.outpoint
    signed, count = sign_pset(text, {COIN.outpoint: COIN}, secret_of)
    assert count == 1
    tx = extract_pset(finalize_pset(signed))
    check_spend(tx)
    paid = unblind(tx.outputs[0], tx.output_witnesses[0], OTHER.blinding_secret(TARGET), PEGGED)
    assert paid is not None and paid.value_sats == 30_000
    assert bytes(wallet.finalize(lwk.Pset(signed)).extract_tx().to_bytes()) == tx.raw
