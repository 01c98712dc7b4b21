"""Checks of a transaction that need nothing but the transaction.

Source: elements/transactions.md 4.
"""

from typing import NoReturn

from sidechain.errors import InvalidTransaction
from sidechain.params import MAX_BLOCK_WEIGHT_WU, MAX_MONEY_SATS
from sidechain.primitives.transaction import Transaction

WITNESS_SCALE = 4
MIN_COINBASE_SCRIPT_BYTES = 2
MAX_COINBASE_SCRIPT_BYTES = 100


def check_transaction(tx: Transaction) -> None:
    """Check a decoded transaction by itself, in Elements' order.

    Raises:
        InvalidTransaction: with Elements' reject code.
    Source: elements/transactions.md 4.
    """
    if not tx.inputs:
        _refuse("bad-txns-vin-empty")
    if not tx.outputs:
        _refuse("bad-txns-vout-empty")
    if WITNESS_SCALE * tx.base_size > MAX_BLOCK_WEIGHT_WU:
        _refuse("bad-txns-oversize")
    _check_explicit_outputs(tx)
    count = len(tx.inputs)
    if count > 1 and len({item.prevout for item in tx.inputs}) != count:
        _refuse("bad-txns-inputs-duplicate")
    if tx.is_coinbase:
        _check_coinbase(tx)
    elif any(item.prevout.is_null for item in tx.inputs):
        _refuse("bad-txns-prevout-null")


def _check_explicit_outputs(tx: Transaction) -> None:
    # The sum runs over all assets together: so Elements limits it.
    total_sats = 0
    for output in tx.outputs:
        value = output.value
        if value[0] != 1:
            continue
        amount_sats = int.from_bytes(value[1:], "big", signed=True)
        if amount_sats < 0:
            _refuse("bad-txns-vout-negative")
        if amount_sats > MAX_MONEY_SATS:
            _refuse("bad-txns-vout-toolarge")
        total_sats += amount_sats
        if total_sats > MAX_MONEY_SATS:
            _refuse("bad-txns-txouttotal-toolarge")


def _check_coinbase(tx: Transaction) -> None:
    size = len(tx.inputs[0].script_sig)
    if not MIN_COINBASE_SCRIPT_BYTES <= size <= MAX_COINBASE_SCRIPT_BYTES:
        _refuse("bad-cb-length")
    if any(output.is_fee for output in tx.outputs):
        _refuse("bad-cb-fee")


def _refuse(reason: str) -> NoReturn:
    raise InvalidTransaction(reason)
