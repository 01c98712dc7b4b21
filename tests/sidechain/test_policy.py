"""Relay rules against what elementsd said of the recorded transactions, and alone."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from sidechain import policy
from sidechain.errors import InvalidEncoding, InvalidTransaction
from sidechain.params import ChainParams
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import (
    EMPTY_OUTPUT_WITNESS,
    InputWitness,
    OutPoint,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.script.script import multisig_script, p2pkh_of_hash, push
from sidechain.validation.coins import Coin
from sidechain.validation.tx_verify import sigop_cost
from tests.vectors import chain_json, recorded_params

POLICY_REASONS = {
    "version",
    "scriptpubkey",
    "multi-op-return",
    "dust",
    "min relay fee not met",
    "bad-txns-nonstandard-inputs",
    "bad-witness-nonstandard",
    "scriptsig-not-pushonly",
    "extra-pegin-witness",
    "bad-txin-extra-inflation-rangeproof",
    "issuance-out-of-range",
}


def judge(tx: Transaction, spent: list[Coin], params: ChainParams) -> None:
    """All relay rules in the order of the mempool."""
    policy.check_standard(tx, params)
    policy.check_pegin_witnesses(tx)
    policy.check_standard_inputs(tx, spent, params)
    fee = policy.fee_sats(tx, params)
    policy.check_dust_fee(tx, fee, params)
    vsize = policy.relay_vsize(tx, params, sigop_cost(tx, spent))
    policy.check_relay_fee(fee, vsize, params.min_relay_fee_sats_per_kvb)


def spent_coins(entry: dict[str, Any]) -> list[Coin]:
    outputs = [TxOut.decode(bytes.fromhex(text)) for text in entry["spent"]]
    return [Coin.of(output, height=1, coinbase=False) for output in outputs]


def test_recorded_valid_transactions_when_judged_then_as_elementsd() -> None:
    params = recorded_params()
    seen: Counter[str] = Counter()
    for entry in chain_json("txs_valid.json"):
        verdict = entry["mempool"]
        reason = verdict.get("reject-reason")
        if reason is not None and reason not in POLICY_REASONS:
            seen[f"skipped: {reason.split(' (')[0]}"] += 1
            continue
        tx = Transaction.decode(bytes.fromhex(entry["hex"]))
        spent = spent_coins(entry)
        if reason is None:
            judge(tx, spent, params)
            cost = sigop_cost(tx, spent)
            assert policy.virtual_size(tx, cost) == verdict["vsize"], entry["label"]
        else:
            with pytest.raises(InvalidTransaction) as refused:
                judge(tx, spent, params)
            assert str(refused.value) == verdict["reject-details"], entry["label"]
        seen[reason or "allowed"] += 1
    print(dict(seen))
    assert seen["allowed"]


def test_recorded_refused_transactions_when_policy_then_same_reason() -> None:
    params = recorded_params()
    seen: Counter[str] = Counter()
    for entry in chain_json("invalid_txs.json"):
        reason = (entry["mempool"] or {}).get("reject-reason")
        if reason not in POLICY_REASONS or "hex" not in entry or not entry.get("spent"):
            seen["skipped"] += 1
            continue
        try:
            tx = Transaction.decode(bytes.fromhex(entry["hex"]))
        except InvalidEncoding:
            pytest.fail(f"{entry['label']} does not decode")
        with pytest.raises(InvalidTransaction) as refused:
            judge(tx, spent_coins(entry), params)
        assert str(refused.value) == entry["mempool"]["reject-details"], entry["label"]
        seen[reason] += 1
    print(dict(seen))
    assert len(seen) > 1


def pay(script: bytes, amount: int = 10_000, **fields: Any) -> Transaction:
    asset = explicit_asset(recorded_params().pegged_asset)
    outputs = [
        TxOut(asset, explicit_value(amount), NULL, script),
        TxOut(asset, explicit_value(1_000), NULL, b""),
    ]
    fields.setdefault("inputs", [TxIn(OutPoint(b"\1" * 32, 0))])
    return Transaction.build(outputs=outputs, **fields)


@pytest.mark.parametrize(
    ("script", "threshold"),
    [
        (b"\x00\x14" + bytes(20), 14),
        (b"\x00\x20" + bytes(32), 15),
        (b"\x51\x20" + bytes(32), 15),
        (p2pkh_of_hash(bytes(20)), 22),
        (b"\xa9\x14" + bytes(20) + b"\x87", 22),
        (b"\x6a", 0),
    ],
)
def test_dust_threshold_when_form_differs_then_as_specified(script: bytes, threshold: int) -> None:
    params = recorded_params()
    tx = pay(script)
    assert policy.dust_threshold_sats(tx.outputs[0], params) == threshold


def test_fee_when_computed_then_rounded_up_and_at_least_one() -> None:
    assert [policy.required_fee_sats(size, 100) for size in (1, 10, 11, 2_491)] == [1, 1, 2, 250]
    assert policy.required_fee_sats(100, 0) == 0


def test_burn_when_pegout_script_then_standard() -> None:
    params = recorded_params()
    for destination in (b"\x51\x20" + bytes(32), b"\x00\x14" + bytes(20)):
        script = b"\x6a" + push(params.parent_genesis_hash) + push(destination)
        policy.check_standard(pay(script), params)
    with pytest.raises(InvalidTransaction, match="scriptpubkey"):
        policy.check_standard(pay(b"\x6a" + push(bytes(82))), params)


@pytest.mark.parametrize(("keys", "standard"), [(3, True), (4, False)])
def test_bare_multisig_when_many_keys_then_not_standard(keys: int, standard: bool) -> None:
    script = multisig_script(1, [b"\2" + bytes([i]) * 32 for i in range(keys)])
    output = pay(script).outputs[0]
    assert policy.is_standard_output(output, recorded_params()) is standard


def test_op_true_when_chain_says_so_then_standard() -> None:
    params = recorded_params()
    for allowed in (True, False):
        chosen = replace(params, anyone_can_spend_standard=allowed)
        assert policy.is_standard_output(pay(b"\x51").outputs[0], chosen) is allowed


@pytest.mark.parametrize(
    ("witness", "standard"),
    [
        ((b"x", b"\x51"), True),
        ((bytes(80), b"\x51"), True),
        ((bytes(81), b"\x51"), False),
        ((*[b""] * 100, b"\x51"), True),
        ((*[b""] * 101, b"\x51"), False),
        ((b"\x51" * 3_600,), True),
        ((b"\x51" * 3_601,), False),
    ],
)
def test_witness_script_spend_when_large_then_not_standard(
    witness: tuple[bytes, ...], standard: bool
) -> None:
    tx = pay(b"\x00\x14" + bytes(20), input_witnesses=[InputWitness(script=witness)])
    coin = Coin.of(pay(b"\x00\x20" + bytes(32)).outputs[0], height=1, coinbase=False)
    if standard:
        policy.check_standard_inputs(tx, [coin], recorded_params())
    else:
        with pytest.raises(InvalidTransaction, match="bad-witness-nonstandard"):
            policy.check_standard_inputs(tx, [coin], recorded_params())


def test_relay_size_when_discount_is_off_then_sigops_count() -> None:
    params = replace(recorded_params(), accept_discount_ct=False)
    tx = pay(b"\x00\x14" + bytes(20))
    assert tx.output_witnesses[0] == EMPTY_OUTPUT_WITNESS
    assert policy.relay_vsize(tx, params, 0) == tx.vsize
    assert policy.relay_vsize(tx, params, 1_000) == 5_000
    assert policy.relay_vsize(tx, recorded_params(), 1_000) == tx.discount_vsize
