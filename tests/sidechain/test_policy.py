"""Relay rules against what elementsd said of the recorded transactions, and alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from sidechain.errors import InvalidEncoding, InvalidTransaction
from sidechain.params import MAX_MONEY_SATS, ChainParams
from sidechain.policy import fees, inputs, standardness
from sidechain.policy.fees import check_relay_fee, fee_sats, relay_size, virtual_size
from sidechain.policy.inputs import check_sigops, check_standard_inputs, spend_sigop_cost
from sidechain.policy.standardness import (
    check_dust_fee,
    check_issuance_range,
    check_pegin_witnesses,
    check_size,
    check_standard,
    dust_threshold_sats,
    is_standard_output,
)
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import (
    InputWitness,
    Issuance,
    OutPoint,
    OutputWitness,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.script.opcodes import OP_CHECKSIG
from sidechain.script.script import multisig_script, p2pkh_of_hash, p2sh, push
from sidechain.validation.coins import Coin
from sidechain.validation.tx_verify import sigop_cost
from tests.vectors import chain_json, recorded_params

PROGRAM = b"\x00\x14" + bytes(20)
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


def judge(tx: Transaction, spent: list[Coin], params: ChainParams) -> int:
    """All relay rules in the order of the mempool; the virtual size."""
    dust = check_standard(tx, params)
    check_issuance_range(tx, params)
    check_size(tx)
    check_pegin_witnesses(tx)
    check_standard_inputs(tx, spent, params)
    cost, fee = spend_sigop_cost(tx, spent), fee_sats(tx, params)
    assert cost == sigop_cost(tx, spent)
    check_dust_fee(dust, fee, fee)
    check_sigops(cost)
    vsize = virtual_size(tx.weight_wu, cost, params.bytes_per_sigop)
    rate = params.min_relay_fee_sats_per_kvb
    check_relay_fee(fee, relay_size(tx, vsize, params), rate)
    return vsize


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
            assert judge(tx, spent, params) == verdict["vsize"], entry["label"]
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
    assert dust_threshold_sats(tx.outputs[0], params) == threshold


def test_fee_when_computed_then_rounded_up_and_at_least_one() -> None:
    assert [fees.required_fee_sats(size, 100) for size in (1, 10, 11, 2_491)] == [1, 1, 2, 250]
    assert fees.required_fee_sats(100, 0) == 0


def test_burn_when_pegout_script_then_standard() -> None:
    params = recorded_params()
    for destination in (b"\x51\x20" + bytes(32), b"\x00\x14" + bytes(20)):
        script = b"\x6a" + push(params.parent_genesis_hash) + push(destination)
        check_standard(pay(script), params)
    with pytest.raises(InvalidTransaction, match="scriptpubkey"):
        check_standard(pay(b"\x6a" + push(bytes(82))), params)


@pytest.mark.parametrize(("keys", "standard"), [(3, True), (4, False)])
def test_bare_multisig_when_many_keys_then_not_standard(keys: int, standard: bool) -> None:
    script = multisig_script(1, [b"\2" + bytes([i]) * 32 for i in range(keys)])
    output = pay(script).outputs[0]
    assert is_standard_output(output, recorded_params()) is standard


def test_op_true_when_chain_says_so_then_standard() -> None:
    params = recorded_params()
    for allowed in (True, False):
        chosen = replace(params, anyone_can_spend_standard=allowed)
        assert is_standard_output(pay(b"\x51").outputs[0], chosen) is allowed


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
        check_standard_inputs(tx, [coin], recorded_params())
    else:
        with pytest.raises(InvalidTransaction, match="bad-witness-nonstandard"):
            check_standard_inputs(tx, [coin], recorded_params())


def refusal(check: Any, *args: Any) -> str:
    """What a check says, empty when it is content."""
    try:
        check(*args)
    except InvalidTransaction as error:
        return str(error)
    return ""


def test_relay_size_when_discount_is_off_then_sigops_count() -> None:
    params = replace(recorded_params(), accept_discount_ct=False)
    tx = pay(b"\x00\x14" + bytes(20))
    assert virtual_size(tx.weight_wu, 1_000, 20) == 5_000
    assert virtual_size(tx.weight_wu, 0, 20) == tx.vsize
    assert relay_size(tx, 5_000, params) == 5_000
    discounted = replace(params, accept_discount_ct=True)
    assert relay_size(tx, 5_000, discounted) == tx.discount_vsize == tx.vsize
    assert fees.discounted_size(tx, 1_000, params) == 5_000


def test_relay_size_when_outputs_hide_then_discounted() -> None:
    params = replace(recorded_params(), accept_discount_ct=True)
    hidden = TxOut(b"\x0a" + bytes(32), b"\x08" + bytes(32), b"\x02" + bytes(32), b"\x51")
    proofs = OutputWitness(bytes(66), bytes(4_000))
    tx = Transaction.build(
        inputs=[TxIn(OutPoint(b"\1" * 32, 0))], outputs=[hidden], output_witnesses=[proofs]
    )
    assert relay_size(tx, tx.vsize, params) == tx.discount_vsize < tx.vsize // 4
    assert fees.discounted_size(tx, 0, params) == tx.discount_vsize
    assert fees.discounted_size(tx, 100, params) == tx.discount_vsize
    assert fees.discounted_size(tx, 10_000, params) == (tx.discount_weight_wu(200_000) + 3) // 4


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0.00"), (1, "0.00000001"), (10**8, "1.00"), (123_450_000, "1.2345"), (-5, "-0.00000005")],
)
def test_money_when_written_then_as_elementsd(amount: int, text: str) -> None:
    assert fees.format_money(amount) == text
    assert fees.format_rate(123_456_789) == "1.23456789 BTC/kvB"


def test_fee_rate_when_fee_is_negative_then_rounded_towards_zero() -> None:
    assert [fees.fee_rate(fee, 999) for fee in (1_000, -1_000, 0)] == [1_001, -1_001, 0]
    assert fees.fee_rate(1_000, 0) == 0


def test_fee_when_paid_in_several_assets_then_only_the_fee_asset_counts() -> None:
    params = recorded_params()
    other = replace(params, policy_asset=b"\5" * 32)
    tx = pay(b"\x51")
    assert (fee_sats(tx, params), fee_sats(tx, other)) == (1_000, 0)


@pytest.mark.parametrize(("version", "reason"), [(0, "version"), (1, ""), (3, ""), (4, "version")])
def test_version_when_outside_one_to_three_then_refused(version: int, reason: str) -> None:
    assert refusal(check_standard, pay(PROGRAM, version=version), recorded_params()) == reason


def test_weight_when_above_the_limit_then_refused() -> None:
    tx = pay(b"\x00\x14" + bytes(20), input_witnesses=[InputWitness(script=(bytes(10_000),))])
    room = standardness.MAX_STANDARD_TX_WEIGHT_WU - tx.weight_wu + 10_000
    for more, reason in ((0, ""), (1, "tx-size")):
        witness = InputWitness(script=(bytes(room - 2 + more),))
        heavy = pay(b"\x00\x14" + bytes(20), input_witnesses=[witness])
        assert heavy.weight_wu == standardness.MAX_STANDARD_TX_WEIGHT_WU + more
        assert refusal(check_standard, heavy, recorded_params()) == reason


def test_size_when_below_65_bytes_then_refused() -> None:
    def tiny(nonce: bytes) -> Transaction:
        outputs = [TxOut(b"\x0a" + bytes(32), b"\x01" + bytes(8), nonce, b"")]
        return Transaction.build(inputs=[TxIn(OutPoint(b"\1" * 32, 0))], outputs=outputs)

    assert tiny(NULL).base_size > standardness.MIN_STANDARD_TX_SIZE_BYTES
    assert refusal(check_size, tiny(NULL)) == ""
    stub = type("Stub", (), {"base_size": 64})()
    assert refusal(check_size, stub) == "tx-size-small"
    stub.base_size = 65
    assert refusal(check_size, stub) == ""


@pytest.mark.parametrize(
    ("script_sig", "reason"),
    [
        (push(bytes(1_647)), ""),
        (push(bytes(1_648)), "scriptsig-size"),
        (b"\x51\x60", ""),
        (b"\x61", "scriptsig-not-pushonly"),
        (b"\x02\x01", "scriptsig-not-pushonly"),
    ],
)
def test_script_sig_when_large_or_no_push_then_refused(script_sig: bytes, reason: str) -> None:
    tx = pay(PROGRAM, inputs=[TxIn(OutPoint(b"\1" * 32, 0), script_sig)])
    assert refusal(check_standard, tx, recorded_params()) == reason


def data(*sizes: int) -> Transaction:
    asset = explicit_asset(recorded_params().pegged_asset)
    outputs = [TxOut(asset, explicit_value(0), NULL, b"\x6a" + push(bytes(n))) for n in sizes]
    return Transaction.build(inputs=[TxIn(OutPoint(b"\1" * 32, 0))], outputs=outputs)


def test_data_output_when_larger_than_the_carrier_then_refused() -> None:
    params = recorded_params()
    assert len(data(80).outputs[0].script) == params.max_data_carrier_bytes == 83
    assert refusal(check_standard, data(80), params) == ""
    assert refusal(check_standard, data(81), params) == "scriptpubkey"
    assert refusal(check_standard, data(81), replace(params, max_data_carrier_bytes=84)) == ""
    assert refusal(check_standard, data(1), replace(params, max_data_carrier_bytes=None))


def test_data_outputs_when_two_then_only_where_permitted() -> None:
    params = replace(recorded_params(), multi_data_permitted=False)
    assert refusal(check_standard, data(1), params) == ""
    assert refusal(check_standard, data(1, 1), params) == "multi-op-return"
    assert refusal(check_standard, data(1, 1), replace(params, multi_data_permitted=True)) == ""


def test_pegout_when_pak_is_enforced_then_any_size_is_standard() -> None:
    params = replace(recorded_params(), enforce_pak=True)
    large = b"\x6a" + push(params.parent_genesis_hash) + push(bytes(34)) + push(bytes(300))
    assert refusal(check_standard, pay(large), params) == ""
    assert refusal(check_standard, pay(large), replace(params, enforce_pak=False))
    foreign = b"\x6a" + push(b"\x03" * 32) + push(bytes(34)) + push(bytes(300))
    assert refusal(check_standard, pay(foreign), params) == "scriptpubkey"


def test_bare_multisig_when_not_permitted_then_refused_by_name() -> None:
    params = replace(recorded_params(), permit_bare_multisig=False)
    script = multisig_script(1, [b"\2" + bytes(32)])
    assert refusal(check_standard, pay(script), params) == "bare-multisig"
    assert refusal(check_standard, pay(script), recorded_params()) == ""


def test_dust_when_at_the_threshold_then_none() -> None:
    params, script = recorded_params(), b"\x00\x14" + bytes(20)
    assert (check_standard(pay(script, 14), params), check_standard(pay(script, 13), params)) == (
        0,
        1,
    )
    assert refusal(check_dust_fee, 1, 0, 0) == ""
    expected = "dust, tx with dust output must be 0-fee"
    assert refusal(check_dust_fee, 1, 1, 1) == refusal(check_dust_fee, 1, 0, -5) == expected
    assert refusal(check_dust_fee, 0, 1, 1) == ""


def test_dust_when_two_outputs_then_refused() -> None:
    params, asset = recorded_params(), explicit_asset(recorded_params().policy_asset)
    dust = TxOut(asset, explicit_value(13), NULL, b"\x00\x14" + bytes(20))
    other = replace(dust, asset=explicit_asset(b"\5" * 32))
    large = replace(dust, script=b"\x51" * 9_000, value=explicit_value(900))
    point = [TxIn(OutPoint(b"\1" * 32, 0))]
    for outputs, count in (([dust], 1), ([other, other], 0), ([large], 1), ([dust, dust], 2)):
        tx = Transaction.build(inputs=point, outputs=outputs)
        assert standardness.dust_outputs(tx, params, 9) == count
    assert refusal(check_standard, tx, params) == "dust"


@pytest.mark.parametrize("field", ["amount", "inflation_keys"])
def test_issuance_when_above_the_money_limit_then_refused_unless_open(field: str) -> None:
    params = replace(recorded_params(), accept_unlimited_issuances=False)
    for amount, is_refused in ((MAX_MONEY_SATS, False), (MAX_MONEY_SATS + 1, True)):
        issuance = Issuance(
            blinding_nonce=bytes(32), entropy=bytes(32), amount=b"\0", inflation_keys=b"\0"
        )
        issuance = replace(issuance, **{field: explicit_value(amount)})
        tx = pay(b"\x51", inputs=[TxIn(OutPoint(b"\1" * 32, 0), issuance=issuance)])
        said = refusal(check_issuance_range, tx, params)
        assert said.startswith("issuance-out-of-range") is is_refused
        opened = replace(params, accept_unlimited_issuances=True)
        assert refusal(check_issuance_range, tx, opened) == ""


def spends(script: bytes, script_sig: bytes = b"", witness: Sequence[bytes] = ()) -> str:
    """What is said of a transaction that spends a script."""
    tx = pay(
        b"\x00\x14" + bytes(20),
        inputs=[TxIn(OutPoint(b"\1" * 32, 0), script_sig)],
        input_witnesses=[InputWitness(script=tuple(witness))],
    )
    coin = Coin.of(pay(script).outputs[0], height=1, coinbase=False)
    return refusal(check_standard_inputs, tx, [coin], recorded_params())


NONSTANDARD = "bad-txns-nonstandard-inputs"
BAD_WITNESS = "bad-witness-nonstandard"
P2SH = p2sh(b"\x51")


@pytest.mark.parametrize(
    ("script", "script_sig", "reason"),
    [
        (b"\x52\x02\x01\x02", b"", NONSTANDARD),
        (b"\x61", b"", NONSTANDARD),
        (b"\x51\x02\x4e\x73", b"", ""),
        (multisig_script(1, [b"\2" * 33] * 20), b"", ""),
        (P2SH, b"", NONSTANDARD),
        (P2SH, b"\x61", NONSTANDARD),
        (P2SH, b"\x50", NONSTANDARD),
        (P2SH, b"\x51", ""),
        (P2SH, b"\x4f", ""),
        (P2SH, push(bytes(520)), ""),
        (P2SH, push(bytes(521)), NONSTANDARD),
        (P2SH, b"\x51" * 1_000, ""),
        (P2SH, b"\x51" * 1_001, NONSTANDARD),
        (P2SH, push(bytes([OP_CHECKSIG]) * inputs.MAX_P2SH_SIGOPS), ""),
        (P2SH, push(bytes([OP_CHECKSIG]) * (inputs.MAX_P2SH_SIGOPS + 1)), NONSTANDARD),
    ],
)
def test_input_when_form_is_unknown_then_refused(
    script: bytes, script_sig: bytes, reason: str
) -> None:
    assert spends(script, script_sig) == reason


TAPROOT = b"\x51\x20" + bytes(32)
LEAF, OTHER_LEAF = b"\xc4" + bytes(32), b"\xc2" + bytes(32)


@pytest.mark.parametrize(
    ("script", "witness", "reason"),
    [
        (TAPROOT, (bytes(64),), ""),
        (TAPROOT, (bytes(200), b"\x50"), BAD_WITNESS),
        (TAPROOT, (b"\x51", b""), BAD_WITNESS),
        (TAPROOT, (bytes(80), b"\x51", LEAF), ""),
        (TAPROOT, (bytes(81), b"\x51", LEAF), BAD_WITNESS),
        (TAPROOT, (bytes(81), b"\x51", OTHER_LEAF), ""),
        (b"\x51\x02\x4e\x73", (b"\x01",), BAD_WITNESS),
        (p2pkh_of_hash(bytes(20)), (b"\x01",), BAD_WITNESS),
        (P2SH, (b"\x01",), NONSTANDARD),
    ],
)
def test_witness_when_form_is_unusual_then_refused(
    script: bytes, witness: Sequence[bytes], reason: str
) -> None:
    assert spends(script, b"", witness) == reason


def test_nested_witness_when_script_is_large_then_refused() -> None:
    nested = push(b"\x00\x20" + bytes(32))
    assert spends(P2SH, nested, (bytes(3_600),)) == ""
    assert spends(P2SH, nested, (bytes(3_601),)) == BAD_WITNESS
    assert spends(P2SH, push(TAPROOT), (b"a", b"\x50")) == ""


def test_sigops_when_above_a_fifth_of_a_block_then_refused() -> None:
    assert refusal(check_sigops, 16_000) == ""
    assert refusal(check_sigops, 16_001) == "bad-txns-too-many-sigops, 16001"


@pytest.mark.parametrize("which", ["issuance_range_proof", "inflation_range_proof"])
def test_issuance_proof_when_amount_is_not_hidden_then_refused(which: str) -> None:
    names = {
        "issuance_range_proof": "bad-txin-extra-issuance-rangeproof",
        "inflation_range_proof": "bad-txin-extra-inflation-rangeproof",
    }
    hidden = b"\x08" + bytes(32)
    coin = Coin.of(pay(PROGRAM).outputs[0], height=1, coinbase=False)
    for field, reason in ((b"\0", names[which]), (explicit_value(1), names[which]), (hidden, "")):
        issuance = Issuance(
            blinding_nonce=bytes(32), entropy=bytes(32), amount=hidden, inflation_keys=hidden
        )
        at = "amount" if which.startswith("issuance") else "inflation_keys"
        issuance = replace(issuance, **{at: field})
        tx = pay(
            b"\x51",
            inputs=[TxIn(OutPoint(b"\1" * 32, 0), issuance=issuance)],
            input_witnesses=[InputWitness(**{which: b"proof"})],
        )
        assert refusal(check_standard_inputs, tx, [coin], recorded_params()) == reason


def test_pegin_witness_when_input_is_no_pegin_then_refused() -> None:
    witness = [InputWitness(pegin=(b"x",))]
    for is_pegin, reason in ((True, ""), (False, "extra-pegin-witness")):
        point = [TxIn(OutPoint(b"\1" * 32, 0), is_pegin=is_pegin)]
        tx = pay(b"\x51", inputs=point, input_witnesses=witness)
        assert refusal(check_pegin_witnesses, tx) == reason
