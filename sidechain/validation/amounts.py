"""Amounts: what comes in equals what goes out, per asset, as long as everything is readable.

A transaction in which any spent output, output or issuance hides an amount or an asset is refused
with "confidential-unsupported": its proofs are not verified here, so it is never accepted.

Source: elements/transactions.md 5.1 and 6.2.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NoReturn

from sidechain.errors import InvalidTransaction
from sidechain.params import MAX_MONEY_SATS
from sidechain.primitives.confidential import NULL, is_commitment, is_explicit, value_sats
from sidechain.primitives.issuance import issued_ids
from sidechain.primitives.transaction import InputWitness, Transaction, TxIn
from sidechain.validation.coins import Coin

CONFIDENTIAL_UNSUPPORTED = "confidential-unsupported"

_UNBALANCED = "bad-txns-in-ne-out"


def fees_by_asset(tx: Transaction) -> dict[bytes, int]:
    """Sum of the fee outputs per 32-byte asset id, in the order the assets first appear.

    Raises:
        InvalidTransaction: "bad-txns-fee-outofrange" for a fee output that is not above zero, or
            a sum above the money limit.
    """
    fees: dict[bytes, int] = {}
    for output in tx.outputs:
        if not output.is_fee:
            continue
        asset, amount_sats = output.asset_id, output.value_sats
        if asset is None or amount_sats is None or not 0 < amount_sats <= MAX_MONEY_SATS:
            raise InvalidTransaction("bad-txns-fee-outofrange")
        fees[asset] = fees.get(asset, 0) + amount_sats
        if fees[asset] > MAX_MONEY_SATS:
            raise InvalidTransaction("bad-txns-fee-outofrange")
    return fees


def check_amounts(tx: Transaction, spent: Sequence[Coin], pegged_asset: bytes) -> None:
    """Check the balance of a transaction that is no coinbase.

    Args:
        spent: the coin of every input, in order; for a peg-in the coin it claims.
        pegged_asset: 32-byte id; its issued amounts are limited to the money limit.
    Raises:
        InvalidTransaction: "bad-txns-in-ne-out", or "confidential-unsupported".
    """
    if _has_commitment(tx, spent):
        raise InvalidTransaction(CONFIDENTIAL_UNSUPPORTED)
    balance: Counter[bytes] = Counter()
    for item, witness, coin in zip(tx.inputs, tx.input_witnesses, spent, strict=True):
        _add_coin(balance, coin)
        if item.issuance is not None:
            _add_issuance(balance, tx, item, witness, pegged_asset)
    for output in tx.outputs:
        asset, amount_sats = output.asset_id, output.value_sats
        if asset is None or amount_sats is None or not 0 <= amount_sats <= MAX_MONEY_SATS:
            _refuse("output amount out of range")
        if amount_sats == 0 and not output.is_unspendable:
            _refuse("spendable output of zero")
        balance[asset] -= amount_sats
    if any(balance.values()):
        _refuse("value in != value out")
    if not all(witness.is_empty for witness in tx.output_witnesses):
        _refuse("proof for an explicit output")


def _has_commitment(tx: Transaction, spent: Sequence[Coin]) -> bool:
    fields = [field for coin in spent for field in (coin.asset, coin.value)]
    fields += [field for output in tx.outputs for field in (output.asset, output.value)]
    for item in tx.inputs:
        if item.issuance is not None:
            fields += (item.issuance.amount, item.issuance.inflation_keys)
    return any(map(is_commitment, fields))


def _add_coin(balance: Counter[bytes], coin: Coin) -> None:
    amount_sats = value_sats(coin.value)
    if not is_explicit(coin.asset) or amount_sats is None:
        _refuse("spent output without asset or amount")
    if not 1 <= amount_sats <= MAX_MONEY_SATS:
        _refuse("spent amount out of range")
    balance[coin.asset[1:]] += amount_sats


def _add_issuance(
    balance: Counter[bytes],
    tx: Transaction,
    item: TxIn,
    witness: InputWitness,
    pegged_asset: bytes,
) -> None:
    ids, issuance = issued_ids(item), item.issuance
    if ids is None or issuance is None:
        return
    if issuance.is_reissuance:
        # It must spend a token whose asset is blinded, and this input's is not.
        _refuse("reissuance with an explicit token")
    if not tx.has_witness:
        _refuse("issuance without a witness section")
    created = (
        (ids.asset, issuance.amount, witness.issuance_range_proof),
        (ids.token, issuance.inflation_keys, witness.inflation_range_proof),
    )
    for asset, field, proof in created:
        if field == NULL:
            continue
        amount = value_sats(field)
        if amount is None or amount <= 0 or proof:
            _refuse("issued amount out of range or with a proof")
        if asset == pegged_asset and amount > MAX_MONEY_SATS:
            _refuse("issued amount out of range or with a proof")
        balance[asset] += amount


def _refuse(text: str) -> NoReturn:
    raise InvalidTransaction(_UNBALANCED, text)
