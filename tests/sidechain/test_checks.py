"""Lists of checks, who runs them, and the cache: incidents 1 (2019 and 2026) as tests."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidechain.errors import InvalidBlock, InvalidEncoding, InvalidTransaction, InvariantError
from sidechain.primitives.transaction import InputWitness, OutPoint, Transaction, TxIn, TxOut
from sidechain.script.flags import CONSENSUS_FLAGS, STANDARD_FLAGS, Flags
from sidechain.validation.checks import (
    BlockChecks,
    CachingVerifier,
    Check,
    CheckCache,
    Pending,
    ScriptsCheck,
    SequentialVerifier,
    check_parts,
    framed,
    run_checks,
    without_policy,
)
from sidechain.validation.coins import Coin
from sidechain.validation.proofs import RangeProofCheck, SurjectionProofCheck
from tests.byte_strategies import mutated
from tests.hidden import Opening
from tests.vectors import chain_json, recorded_params

SALT = bytes(range(32))
COIN = Coin(asset=b"\1" * 33, value=b"\1" + bytes(8), script=b"\x51", height=3, coinbase=False)


def _tx(sequence: int = 0, witness: bytes = b"w") -> Transaction:
    return Transaction.build(
        inputs=[TxIn(OutPoint(b"\1" * 32, 0), sequence=sequence)],
        outputs=[Opening(asset_id=b"\1" * 32, amount=1).output],
        input_witnesses=[InputWitness(script=(witness,))],
    )


SCRIPTS = ScriptsCheck(_tx(), (COIN,), CONSENSUS_FLAGS, bytes(32))
RANGE = RangeProofCheck(b"proof", b"\x08" + bytes(32), b"\x0a" + bytes(32), b"script")
SURJECTION = SurjectionProofCheck(b"proof", (b"\x0a" + bytes(32), b"one"), b"\x0b" + bytes(32))


def _range_check(amount: int, *, script: bytes = b"\x51", valid: bool = True) -> RangeProofCheck:
    item = replace(Opening(asset_id=b"\1" * 32, amount=amount, bits=4).hidden("x"), script=script)
    proof = item.range_proof()
    changed = proof if valid else proof[:-1] + bytes([proof[-1] ^ 1])
    return RangeProofCheck(changed, item.value_field, item.asset_field, script)


class Recorder:
    """Runs checks in turn and notes which."""

    def __init__(self) -> None:
        self.started: list[Check] = []
        self.cancelled = 0

    def start(self, checks: Sequence[Check]) -> Pending:
        self.started += checks
        recorder, inner = self, SequentialVerifier().start(checks)

        class Noting:
            def fault(self) -> InvalidTransaction | None:
                return inner.fault()

            def cancel(self) -> None:
                recorder.cancelled += 1

        return Noting()


def test_checks_when_run_in_turn_then_the_first_fault_is_raised() -> None:
    good, bad = _range_check(3), _range_check(3, valid=False)
    run_checks(SequentialVerifier(), [])
    run_checks(SequentialVerifier(), [good, good])
    with pytest.raises(InvalidTransaction, match="range proof does not hold"):
        run_checks(SequentialVerifier(), [good, bad, SCRIPTS])
    failing = replace(SCRIPTS, spent=(replace(COIN, script=b"\x00"),))
    with pytest.raises(InvalidTransaction, match="mandatory-script-verify-flag-failed"):
        run_checks(SequentialVerifier(), [good, failing, bad])


def test_block_checks_when_settled_then_the_first_in_order_is_named_and_the_rest_given_up() -> None:
    recorder = Recorder()
    checks = BlockChecks(recorder)
    checks.add(1, [_range_check(3)])
    checks.add(2, [])
    checks.add(3, [_range_check(4, valid=False)])
    checks.add(4, [replace(SCRIPTS, spent=(replace(COIN, script=b"\x00"),))])
    checks.add(5, [SCRIPTS])
    with pytest.raises(InvalidBlock, match="range proof does not hold, transaction 3") as caught:
        checks.settle()
    assert caught.value.reason == "bad-txns-in-ne-out"
    assert recorder.cancelled == 2
    checks.settle()


def _variants(check: Check) -> Iterator[Check]:
    """The check with each of its fields changed in turn."""
    changes: dict[str, list[Any]] = {
        "proof": [b"", b"proo", b"prooF", b"proof\0"],
        "commitment": [b"\x09" + bytes(32), b"\x08" + bytes(31) + b"\1"],
        "generator": [b"\x0b" + bytes(31) + b"\1", b"\x01" + bytes(32)],
        "script": [b"", b"scripT"],
        "targets": [(), SURJECTION.targets[::-1], (b"\x0a" + bytes(32) + b"one",)],
        "tx": [_tx(sequence=1), _tx(witness=b"v"), _tx(witness=b"")],
        "spent": [
            (),
            (COIN, COIN),
            (replace(COIN, asset=b"\2" * 33),),
            (replace(COIN, value=b"\1" * 9),),
            (replace(COIN, script=b""),),
            (replace(COIN, height=4),),
            (replace(COIN, coinbase=True),),
        ],
        "flags": [Flags.NONE, STANDARD_FLAGS, *(CONSENSUS_FLAGS ^ flag for flag in Flags)],
        "genesis_hash": [b"", b"\1" * 32],
        "direct": [False],
    }
    for field in fields(check):
        for value in changes[field.name]:
            yield replace(check, **{field.name: value})


@pytest.mark.parametrize("check", [SCRIPTS, RANGE, SURJECTION])
def test_key_when_any_field_changes_then_another(check: Check) -> None:
    cache = CheckCache(SALT)
    variants = list(_variants(check))
    keys = {cache.key(variant) for variant in variants}
    assert len(keys) == len(variants) or variants.count(check) == 0
    assert cache.key(check) not in keys
    assert CheckCache(SALT[::-1]).key(check) != cache.key(check)
    assert cache.key(check) == cache.key(replace(check))


def test_keys_of_different_kinds_with_equal_bytes_differ() -> None:
    cache = CheckCache(SALT)
    as_range = RangeProofCheck(b"a", b"b", b"c", b"d")
    as_surjection = SurjectionProofCheck(b"a", (b"c", b"d"), b"b")
    assert check_parts(as_range)[1:] == check_parts(as_surjection)[1:]
    assert cache.key(as_range) != cache.key(as_surjection)


def test_key_when_bytes_move_between_fields_then_another() -> None:
    """The 2026 incident: fields joined without their lengths gave two checks one key."""
    cache = CheckCache(SALT)
    joined = RANGE.proof + RANGE.commitment + RANGE.generator + RANGE.script
    keys = set()
    for cut in range(len(joined) - len(RANGE.script)):
        moved = RangeProofCheck(
            joined[:cut], joined[cut : cut + 33], joined[cut + 33 : cut + 66], joined[cut + 66 :]
        )
        assert b"".join(check_parts(moved)[1:]) == joined
        keys.add(cache.key(moved))
    assert len(keys) == len(joined) - len(RANGE.script)


@given(st.lists(st.binary(max_size=9), max_size=5), st.lists(st.binary(max_size=9), max_size=5))
def test_framing_when_lists_differ_then_strings_do(left: list[bytes], right: list[bytes]) -> None:
    assert (framed(left) == framed(right)) == (left == right)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=5), min_size=4, max_size=4), st.data())
def test_key_when_any_bytes_of_any_argument_change_then_another(
    parts: list[bytes], data: st.DataObject
) -> None:
    check = RangeProofCheck(*parts)
    other = list(parts)
    position = data.draw(st.integers(0, 3))
    other[position] = data.draw(st.binary(max_size=5).filter(lambda new: new != parts[position]))
    cache = CheckCache(SALT)
    assert cache.key(check) != cache.key(RangeProofCheck(*other))


def test_cache_when_a_check_held_then_it_is_not_run_again() -> None:
    cache, recorder = CheckCache(SALT), Recorder()
    verifier = CachingVerifier(recorder, cache, remember=True)
    good, other = _range_check(3), _range_check(5)
    run_checks(verifier, [good])
    run_checks(verifier, [good, other])
    run_checks(verifier, [other, good])
    assert recorder.started == [good, other]
    assert len(cache) == 2


def test_cache_when_a_check_failed_then_nothing_of_its_list_is_remembered() -> None:
    cache, recorder = CheckCache(SALT), Recorder()
    verifier = CachingVerifier(recorder, cache, remember=True)
    good, bad = _range_check(3), _range_check(3, valid=False)
    for _ in range(2):
        with pytest.raises(InvalidTransaction):
            run_checks(verifier, [good, bad])
    assert recorder.started == [good, bad] * 2
    assert len(cache) == 0


def test_cache_when_only_read_then_it_remembers_nothing_and_asks_nothing_while_empty() -> None:
    cache, recorder = CheckCache(SALT), Recorder()
    reading = CachingVerifier(recorder, cache, remember=False)
    good = _range_check(3)
    run_checks(reading, [good])
    assert len(cache) == 0
    run_checks(CachingVerifier(recorder, cache, remember=True), [good])
    run_checks(reading, [good])
    assert recorder.started == [good, good]


def test_cache_when_its_checks_are_given_up_then_so_are_those_below_and_nothing_is_known() -> None:
    cache, recorder = CheckCache(SALT), Recorder()
    CachingVerifier(recorder, cache, remember=True).start([_range_check(3)]).cancel()
    assert recorder.cancelled == 1
    assert len(cache) == 0


def test_cache_when_full_then_it_forgets_the_oldest() -> None:
    cache = CheckCache(SALT, entries_max=2)
    checks = [replace(RANGE, proof=bytes([n])) for n in range(3)]
    for check in checks:
        cache.remember(check, cache.key(check))
    assert [cache.holds(cache.key(check)) for check in checks] == [False, True, True]
    nothing = CheckCache(SALT, entries_max=0)
    nothing.remember(RANGE, nothing.key(RANGE))
    assert len(nothing) == 0
    with pytest.raises(InvariantError):
        CheckCache(b"short")


def test_cache_when_scripts_held_under_policy_then_known_without_it_and_not_otherwise() -> None:
    cache = CheckCache(SALT)
    strict = replace(SCRIPTS, flags=STANDARD_FLAGS)
    cache.remember(strict, cache.key(strict))
    assert not cache.holds(cache.key(strict))
    assert cache.holds(cache.key(replace(strict, flags=CONSENSUS_FLAGS)))
    assert not cache.holds(cache.key(replace(strict, flags=CONSENSUS_FLAGS ^ Flags.DERSIG)))
    loose = CheckCache(SALT)
    loose.remember(SCRIPTS, loose.key(SCRIPTS))
    assert not loose.holds(loose.key(strict))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_scripts_when_they_hold_under_policy_then_also_without_it(data: st.DataObject) -> None:
    """What the cache rests on for scripts of the mempool, on spends recorded and changed."""
    entries = [*chain_json("txs_valid.json"), *chain_json("invalid_txs.json")]
    entry = data.draw(st.sampled_from([e for e in entries if e.get("spent") and "hex" in e]))
    try:
        tx = Transaction.decode(bytes.fromhex(entry["hex"]))
        if data.draw(st.booleans()):
            tx = Transaction.decode(data.draw(mutated([tx.raw])))
    except InvalidEncoding:
        return
    if len(entry["spent"]) != len(tx.inputs) or not all(entry["spent"]):
        return
    outputs = [TxOut.decode(bytes.fromhex(raw)) for raw in entry["spent"]]
    coins = tuple(Coin.of(output, height=1, coinbase=False) for output in outputs)
    genesis = recorded_params().genesis_hash
    strict = ScriptsCheck(tx, coins, STANDARD_FLAGS, genesis)
    if strict.fault() is None:
        for direct in (True, False):
            assert replace(without_policy(strict), direct=direct).fault() is None
