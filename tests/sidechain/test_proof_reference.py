"""The library's verdicts on proofs against a verifier written from the specification alone."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidechain.crypto import zkp
from sidechain.errors import InvalidTransaction
from sidechain.primitives.transaction import Transaction, TxOut
from sidechain.validation.amounts import check_amounts
from sidechain.validation.coins import Coin
from sidechain.validation.proofs import ProofCheck, RangeProofCheck, SurjectionProofCheck
from tests.byte_strategies import mutated
from tests.hidden import Opening, blinder
from tests.sidechain import proof_reference as reference
from tests.vectors import case_bytes, chain_json, recorded_params

few = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
ASSET = bytes(range(32))


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=32, max_size=32))
def test_asset_generator_when_computed_by_integers_then_the_same(asset: bytes) -> None:
    serialized = zkp.serialize_generator(zkp.asset_generator(asset))
    assert reference.parse(serialized) == reference.asset_generator(asset)


@pytest.mark.slow
@few
@given(st.data())
def test_range_proof_when_of_any_form_then_the_same_verdict(data: st.DataObject) -> None:
    amount = data.draw(st.integers(1, 200))
    bits = data.draw(st.integers(0, 6))
    exponent = data.draw(st.sampled_from([-1, 0, 0, 1, 2]))
    least = data.draw(st.sampled_from([0, 1, amount]))
    item = Opening(asset_id=ASSET, amount=amount).hidden(f"{amount} {bits}")
    script = data.draw(st.binary(max_size=3))
    proof = zkp.sign_range_proof(
        amount,
        item.value_blinder or b"",
        item.generator,
        nonce=blinder("nonce"),
        message=b"",
        extra=script,
        least=least,
        exponent=exponent,
        bits=bits,
    )
    found = zkp.verify_range_proof(proof, item.value_field, item.asset_field, script)
    assert found is not None
    assert found == reference.verify_range(proof, item.value_field, item.asset_field, script)
    changed = data.draw(mutated([proof]))
    both = [
        verify(changed, item.value_field, item.asset_field, script)
        for verify in (zkp.verify_range_proof, reference.verify_range)
    ]
    assert both[0] == both[1]
    other = item.value_field[:-1] + bytes([item.value_field[-1] ^ 1])
    for verify in (zkp.verify_range_proof, reference.verify_range):
        assert verify(proof, other, item.asset_field, script) is None
        assert verify(proof, item.value_field, item.asset_field, script + b"x") is None


@few
@given(st.data())
def test_surjection_proof_when_of_any_form_then_the_same_verdict(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 10))
    targets = []
    for n in range(count):
        item = Opening(asset_id=bytes([n]) * 32, amount=1)
        targets.append(item.hidden(f"target {n}") if data.draw(st.booleans()) else item)
    own = targets[data.draw(st.integers(0, count - 1))].hidden("own")
    proof = own.surjection_proof(targets, used=data.draw(st.integers(1, count)))
    points = [zkp.serialize_generator(item.generator) for item in targets]
    for changed in (proof, data.draw(mutated([proof]))):
        verdicts = {
            verify(changed, points, own.asset_field)
            for verify in (zkp.verify_surjection_proof, reference.verify_surjection)
        }
        assert verdicts == {changed == proof}


def _recorded_checks(entry: dict[str, Any]) -> tuple[Transaction, tuple[ProofCheck, ...]]:
    tx = Transaction.decode(case_bytes(entry))
    outputs = [TxOut.decode(bytes.fromhex(raw)) for raw in entry["spent"]]
    coins = [Coin.of(output, height=1, coinbase=False) for output in outputs]
    return tx, check_amounts(tx, coins, recorded_params().pegged_asset)


@pytest.mark.slow
def test_recorded_transactions_when_they_hide_something_then_all_proofs_hold() -> None:
    """The library on all of them, the slow verifier on the smallest proofs of each kind."""
    ranges: list[RangeProofCheck] = []
    surjections: list[SurjectionProofCheck] = []
    confidential = 0
    for entry in chain_json("txs_valid.json"):
        checks = _recorded_checks(entry)[1]
        confidential += bool(checks)
        for check in checks:
            assert check.fault() is None, entry["label"]
            if isinstance(check, RangeProofCheck):
                ranges.append(check)
            else:
                surjections.append(check)
    print(f"\n{confidential} recorded transactions hide something:", end=" ")
    print(f"{len(ranges)} range proofs, {len(surjections)} surjection proofs hold")
    assert confidential
    for check in sorted(ranges, key=lambda item: len(item.proof))[:3]:
        arguments = (check.proof, check.commitment, check.generator, check.script)
        assert reference.verify_range(*arguments) == zkp.verify_range_proof(*arguments)
    for proof in sorted(surjections, key=lambda item: len(item.targets))[::20]:
        assert reference.verify_surjection(proof.proof, proof.targets, proof.generator)


def test_recorded_transactions_when_a_proof_is_changed_then_refused() -> None:
    """One bit of each kind of proof of every transaction that has one."""
    tried = 0
    for entry in chain_json("txs_valid.json"):
        seen = set()
        for position, check in enumerate(_recorded_checks(entry)[1]):
            if type(check) in seen:
                continue
            seen.add(type(check))
            at = (position * 977 + len(check.proof) // 2) % len(check.proof)
            wrong = bytearray(check.proof)
            wrong[at] ^= 1 << position % 8
            assert replace(check, proof=bytes(wrong)).fault() is not None, entry["label"]
            tried += 1
    assert tried


def test_recorded_invalid_amounts_when_judged_alone_then_refused() -> None:
    """All that the record calls invalid for its amounts, without anything around it."""
    refused = 0
    for entry in chain_json("invalid_txs.json"):
        answer = (entry["block"] or {}).get("submitblock")
        if answer != "bad-txns-in-ne-out" or not all(entry.get("spent") or [None]):
            continue
        tx = Transaction.decode(case_bytes(entry))
        if len(entry["spent"]) != len(tx.inputs):
            continue
        with pytest.raises(InvalidTransaction) as caught:
            for check in _recorded_checks(entry)[1]:
                fault = check.fault()
                if fault is not None:
                    raise fault
        assert caught.value.reason == answer, entry["label"]
        refused += 1
    print(f"\n{refused} recorded transactions refused for their amounts")
    assert refused
