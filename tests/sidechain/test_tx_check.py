"""Checks of a transaction by itself."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from sidechain.errors import InvalidTransaction
from sidechain.params import MAX_MONEY_SATS
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import NULL_OUTPOINT, OutPoint, Transaction, TxIn, TxOut
from sidechain.validation.tx_check import check_transaction
from tests.vectors import case_bytes, chain_json

ASSET = explicit_asset(b"\x01" * 32)
OTHER = explicit_asset(b"\x02" * 32)
PREVOUT = OutPoint(b"\x03" * 32, 0)


def _out(amount: int, *, asset: bytes = ASSET, script: bytes = b"\x51") -> TxOut:
    return TxOut(asset, b"\x01" + (amount & 2**64 - 1).to_bytes(8, "big"), NULL, script)


def _tx(inputs: list[TxIn], outputs: list[TxOut]) -> Transaction:
    return Transaction.build(inputs=inputs, outputs=outputs)


def _reason(tx: Transaction) -> str:
    with pytest.raises(InvalidTransaction) as caught:
        check_transaction(tx)
    return caught.value.reason


def test_plain_transaction_passes() -> None:
    check_transaction(_tx([TxIn(PREVOUT)], [_out(1), _out(2, script=b"")]))


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        ([], [_out(1)], "bad-txns-vin-empty"),
        ([TxIn(PREVOUT)], [], "bad-txns-vout-empty"),
        ([TxIn(PREVOUT)], [_out(-1)], "bad-txns-vout-negative"),
        ([TxIn(PREVOUT)], [_out(MAX_MONEY_SATS + 1)], "bad-txns-vout-toolarge"),
        (
            [TxIn(PREVOUT)],
            [_out(MAX_MONEY_SATS), _out(1, asset=OTHER)],
            "bad-txns-txouttotal-toolarge",
        ),
        ([TxIn(PREVOUT), TxIn(PREVOUT)], [_out(1)], "bad-txns-inputs-duplicate"),
        ([TxIn(PREVOUT, is_pegin=True), TxIn(PREVOUT)], [_out(1)], "bad-txns-inputs-duplicate"),
        ([TxIn(PREVOUT), TxIn(NULL_OUTPOINT)], [_out(1)], "bad-txns-prevout-null"),
        ([TxIn(NULL_OUTPOINT, b"\x51")], [_out(1)], "bad-cb-length"),
        ([TxIn(NULL_OUTPOINT, bytes(101))], [_out(1)], "bad-cb-length"),
        ([TxIn(NULL_OUTPOINT, b"\x51\x00")], [_out(1, script=b"")], "bad-cb-fee"),
        ([TxIn(PREVOUT, bytes(1_000_000))], [_out(1)], "bad-txns-oversize"),
    ],
)
def test_faults_have_elements_reasons(
    inputs: list[TxIn], outputs: list[TxOut], reason: str
) -> None:
    assert _reason(_tx(inputs, outputs)) == reason


def test_earlier_rule_is_reported_first() -> None:
    faults: list[Callable[[Transaction], Transaction]] = [
        lambda tx: _tx(list(tx.inputs), [_out(-1), _out(MAX_MONEY_SATS + 1)]),
        lambda tx: _tx([*tx.inputs, tx.inputs[0]], list(tx.outputs)),
    ]
    tx = _tx([TxIn(PREVOUT)], [_out(1)])
    for fault in faults:
        tx = fault(tx)
    assert _reason(tx) == "bad-txns-vout-negative"


def test_hidden_outputs_do_not_count_in_the_total() -> None:
    hidden = replace(_out(1), value=b"\x08" + bytes(32))
    check_transaction(_tx([TxIn(PREVOUT)], [_out(MAX_MONEY_SATS), hidden]))


def test_coinbase_of_both_lengths_passes() -> None:
    for size in (2, 100):
        check_transaction(_tx([TxIn(NULL_OUTPOINT, bytes(size))], [_out(1)]))


def test_every_recorded_transaction_passes() -> None:
    for entry in chain_json("txs_valid.json"):
        check_transaction(Transaction.decode(case_bytes(entry)))


def test_value_of_one_output_may_reach_the_limit() -> None:
    exact = TxOut(ASSET, explicit_value(MAX_MONEY_SATS), NULL, b"\x51")
    check_transaction(_tx([TxIn(PREVOUT)], [exact]))


def test_output_behind_a_hidden_one_is_checked() -> None:
    hidden = replace(_out(1), value=b"\x08" + bytes(32))
    tx = _tx([TxIn(PREVOUT)], [hidden, _out(MAX_MONEY_SATS + 1)])
    assert _reason(tx) == "bad-txns-vout-toolarge"


def test_size_without_witness_may_reach_a_quarter_of_the_block_weight() -> None:
    size_max = 1_000_000
    bare = _tx([TxIn(PREVOUT, bytes(size_max // 2))], [_out(1)])
    script = bytes(size_max // 2 + size_max - bare.base_size)
    largest = _tx([TxIn(PREVOUT, script)], [_out(1)])
    assert largest.base_size == size_max
    check_transaction(largest)
    assert _reason(_tx([TxIn(PREVOUT, script + b"x")], [_out(1)])) == "bad-txns-oversize"
