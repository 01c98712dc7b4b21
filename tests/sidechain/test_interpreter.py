"""The interpreter against the reference project's vectors, the specification, and itself."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from bitcoin.core import COutPoint, CTransaction, CTxIn, CTxInWitness, CTxOut, CTxWitness
from bitcoin.core.script import CScript, CScriptWitness
from hypothesis import given
from hypothesis import strategies as st

from sidechain.crypto.hashes import sha256
from sidechain.crypto.keys import ecdsa_sign, public_key
from sidechain.errors import ScriptError
from sidechain.script.faults import ScriptFault
from sidechain.script.flags import CONSENSUS_FLAGS, STANDARD_FLAGS, Flags, SigVersion
from sidechain.script.interpreter import evaluate, verify_script
from sidechain.script.machine import SignatureChecker
from sidechain.script.ops_number import deterministic_random
from sidechain.script.script import (
    encode_number,
    push,
    push_number,
)
from tests.sidechain.bitcoin_scripts import (
    ALL_FLAGS,
    BitcoinChecker,
    assemble,
    fill_flags,
    parse_flags,
)
from tests.vectors import elements_json


def test_script_tests_agree_with_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    seen: Counter[str] = Counter()
    wrong = []
    for row in elements_json("script_tests.json"):
        if len(row) < 4:
            continue
        witness, amount_sats = (), 0
        if isinstance(row[0], list):
            if any("#" in str(item) for item in row[0]):
                seen["taproot rows skipped"] += 1
                continue
            *items, amount = row[0]
            witness = tuple(bytes.fromhex(item) for item in items)
            amount_sats = round(Decimal(str(amount)) * 100_000_000)
            row = row[1:]
        outcome = _run_script_test(row, witness, amount_sats)
        seen["run"] += 1
        if outcome != row[3]:
            wrong.append((outcome, row))
    with capsys.disabled():
        print(f"\nscript_tests.json: {dict(seen)}, wrong {len(wrong)}")
    assert not wrong
    assert seen["run"]


def _run_script_test(row: list[Any], witness: tuple[bytes, ...], amount_sats: int) -> str:
    script_sig, script_pubkey = assemble(row[0]), assemble(row[1])
    flags = fill_flags(parse_flags(row[2]))
    credit = CTransaction(
        [CTxIn(COutPoint(), CScript(b"\0\0"))],
        [CTxOut(amount_sats, CScript(script_pubkey))],
        nVersion=1,
    )
    spend = CTransaction(
        [CTxIn(COutPoint(credit.GetTxid(), 0), CScript(script_sig))],
        [CTxOut(amount_sats, CScript())],
        nVersion=1,
        witness=CTxWitness([CTxInWitness(CScriptWitness(witness))]),
    )
    checker = BitcoinChecker(spend, 0, amount_sats)
    try:
        verify_script(script_sig, script_pubkey, witness, flags, checker)
    except ScriptError as fault:
        return ScriptFault(fault.reason).name
    return "OK"


def _transaction_rows(name: str) -> Iterator[tuple[CTransaction, dict[Any, Any], str]]:
    for row in elements_json(name):
        if len(row) == 3:
            spent = {}
            for txid, index, script, *amount in row[0]:
                key = (bytes.fromhex(txid)[::-1], index & 0xFFFFFFFF)
                spent[key] = (assemble(script), amount[0] if amount else 0)
            yield CTransaction.deserialize(bytes.fromhex(row[1])), spent, row[2]


def _verify_bitcoin(tx: CTransaction, spent: dict[Any, Any], flags: Flags) -> None:
    for index, txin in enumerate(tx.vin):
        script, amount_sats = spent[bytes(txin.prevout.hash), txin.prevout.n]
        witness: tuple[bytes, ...] = ()
        if index < len(tx.wit.vtxinwit):
            witness = tuple(tx.wit.vtxinwit[index].scriptWitness.stack)
        checker = BitcoinChecker(tx, index, amount_sats)
        verify_script(bytes(txin.scriptSig), script, witness, flags, checker)


def _spends_taproot(spent: dict[Any, Any]) -> bool:
    return any(len(s) == 34 and s[0] == 0x51 for s, _ in spent.values())


def test_tx_valid_is_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    seen: Counter[str] = Counter()
    wrong = []
    for tx, spent, excluded in _transaction_rows("tx_valid.json"):
        if _spends_taproot(spent):
            seen["taproot skipped"] += 1
            continue
        try:
            _verify_bitcoin(tx, spent, ALL_FLAGS & ~parse_flags(excluded.replace("NONE", "")))
        except ScriptError as fault:
            wrong.append((fault.reason, excluded, tx))
        seen["run"] += 1
    with capsys.disabled():
        print(f"\ntx_valid.json: {dict(seen)}, wrong {len(wrong)}")
    assert not wrong
    assert seen["run"]


def test_tx_invalid_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    seen: Counter[str] = Counter()
    wrong = []
    for tx, spent, flags in _transaction_rows("tx_invalid.json"):
        if flags == "BADTX":
            # A fault outside the scripts, in a format this code does not read.
            seen["BADTX skipped"] += 1
            continue
        if _spends_taproot(spent):
            seen["taproot skipped"] += 1
            continue
        seen["run"] += 1
        try:
            _verify_bitcoin(tx, spent, fill_flags(parse_flags(flags.replace("NONE", ""))))
        except ScriptError:
            continue
        wrong.append((flags, tx))
    with capsys.disabled():
        print(f"\ntx_invalid.json: {dict(seen)}, wrong {len(wrong)}")
    assert not wrong
    assert seen["run"]


def _run(script: str, *stack: bytes) -> list[bytes]:
    result = list(stack)
    evaluate(result, assemble(script), CONSENSUS_FLAGS, SignatureChecker(), SigVersion.WITNESS_V0)
    return result


@pytest.mark.parametrize(
    ("script", "stack", "result"),
    [
        ("CAT", ["aa", "bb"], ["aabb"]),
        ("1 2 SUBSTR", ["aabbccdd"], ["bbcc"]),
        ("2 LEFT", ["aabbcc"], ["aabb"]),
        ("9 LEFT", ["aabbcc"], ["aabbcc"]),
        ("2 RIGHT", ["aabbcc"], ["cc"]),
        ("3 RIGHT", ["aabbcc"], [""]),
        ("INVERT", ["0ff0"], ["f00f"]),
        ("AND", ["0f3c", "ff0c"], ["0f0c"]),
        ("OR", ["0f3c", "ff0c"], ["ff3c"]),
        ("XOR", ["0f3c", "ff0c"], ["f030"]),
        ("4 RSHIFT", ["ff0f"], ["ff"]),
        ("1 LSHIFT", ["80"], ["0001"]),
        ("0 RSHIFT", ["0100"], ["01"]),
        ("8 RSHIFT", ["01"], [""]),
        ("-3 2 SUBSTR_LAZY", ["aabbcc"], ["aabb"]),
        ("1 9 SUBSTR_LAZY", ["aabbcc"], ["bbcc"]),
        ("3 1 SUBSTR_LAZY", ["aabbcc"], [""]),
        ("0 0 100 DETERMINISTICRANDOM", [], ["37"]),
        ("'abc' -5 5 DETERMINISTICRANDOM", [], ["04"]),
    ],
)
def test_elements_opcodes_give_the_results_of_the_specification(
    script: str, stack: list[str], result: list[str]
) -> None:
    assert _run(script, *map(bytes.fromhex, stack)) == [bytes.fromhex(item) for item in result]


def test_deterministic_random_gives_the_computed_values() -> None:
    assert deterministic_random(b"", 0, 100) == 55
    assert deterministic_random(b"abc", -5, 5) == 4
    assert deterministic_random(b"\x01", 0, 2147483647) == 914359424
    assert deterministic_random(b"x", 7, 7) == 7


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("'aa' 2 0 SUBSTR", ScriptFault.INVALID_STACK_OPERATION),
        ("0 0 0 SUBSTR", ScriptFault.INVALID_STACK_OPERATION),
        ("'aa' -1 1 SUBSTR", ScriptFault.INVALID_STACK_OPERATION),
        ("'aa' 0 3 SUBSTR", ScriptFault.INVALID_STACK_OPERATION),
        ("'aa' -1 LEFT", ScriptFault.UNKNOWN_ERROR),
        ("'aa' -1 RIGHT", ScriptFault.UNKNOWN_ERROR),
        ("'aa' 'a' AND", ScriptFault.INVALID_STACK_OPERATION),
        ("'aa' -1 LSHIFT", ScriptFault.INVALID_STACK_OPERATION),
        ("'aa' -1 RSHIFT", ScriptFault.UNKNOWN_ERROR),
        ("'aa' 4145 LSHIFT", ScriptFault.INVALID_STACK_OPERATION),
        ("'aa' 2147483647 LSHIFT", ScriptFault.INVALID_STACK_OPERATION),
        ("'s' 2 1 DETERMINISTICRANDOM", ScriptFault.UNKNOWN_ERROR),
        ("1 2 CHECKSIGFROMSTACK", ScriptFault.INVALID_STACK_OPERATION),
        ("0 'm' 0 CHECKSIGFROMSTACK", ScriptFault.CHECKSIGVERIFY),
        ("'x' 'm' 0 CHECKSIGFROMSTACKVERIFY", ScriptFault.SIG_DER),
        ("0xba", ScriptFault.BAD_OPCODE),
        ("0xc4", ScriptFault.BAD_OPCODE),
        ("0 IF MUL ENDIF", ScriptFault.DISABLED_OPCODE),
        ("CAT", ScriptFault.INVALID_STACK_OPERATION),
    ],
)
def test_elements_opcodes_fail_as_specified(script: str, fault: ScriptFault) -> None:
    with pytest.raises(ScriptError) as caught:
        _run(script)
    assert caught.value.reason == fault.value


def test_check_sig_from_stack_accepts_a_signature_of_the_hashed_data() -> None:
    secret = b"\x11" * 32
    signature = ecdsa_sign(secret, sha256(b"data"))
    stack = [signature, b"data", public_key(secret)]
    assert _run("CHECKSIGFROMSTACK", *stack) == [b"\x01"]
    assert _run("CHECKSIGFROMSTACKVERIFY", *stack) == []
    with pytest.raises(ScriptError):
        _run("CHECKSIGFROMSTACK", signature, b"other", public_key(secret))


@given(st.binary(max_size=200), st.lists(st.binary(max_size=40), max_size=6))
def test_random_scripts_end_or_raise_script_errors(script: bytes, stack: list[bytes]) -> None:
    for version in SigVersion:
        with suppress(ScriptError):
            evaluate(list(stack), script, STANDARD_FLAGS, SignatureChecker(), version)


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        (b"\x51\x20" + b"\x02" * 32, ScriptFault.UNKNOWN_ERROR),
        (b"\x00\x15" + b"\x02" * 21, ScriptFault.WITNESS_PROGRAM_WRONG_LENGTH),
    ],
)
def test_witness_programs_that_cannot_be_judged_are_refused(
    script: bytes, fault: ScriptFault
) -> None:
    with pytest.raises(ScriptError) as caught:
        verify_script(b"", script, (b"\x01" * 64,), CONSENSUS_FLAGS, SignatureChecker())
    assert caught.value.reason == fault.value


@pytest.mark.parametrize(
    "script", [b"\x52\x02\x01\x02", b"\x60\x28" + b"\x07" * 40, b"\x51\x02\x4e\x73"]
)
def test_witness_versions_without_rules_are_anyones_in_consensus(script: bytes) -> None:
    verify_script(b"", script, (), CONSENSUS_FLAGS, SignatureChecker())


def test_limits_of_operations_elements_and_stack() -> None:
    _run("1 " + "NOP " * 201)
    for script, fault in (
        ("1 " + "NOP " * 202, ScriptFault.OP_COUNT),
        ("1 " * 1001, ScriptFault.STACK_SIZE),
        ("1 " * 10_001, ScriptFault.SCRIPT_SIZE),
    ):
        with pytest.raises(ScriptError) as caught:
            _run(script)
        assert caught.value.reason == fault.value
    with pytest.raises(ScriptError) as caught:
        evaluate([], push(bytes(521)), CONSENSUS_FLAGS, SignatureChecker(), SigVersion.BASE)
    assert caught.value.reason == ScriptFault.PUSH_SIZE.value


@given(st.integers(-(2**31) + 1, 2**31 - 1))
def test_numbers_pushed_are_the_numbers_read(number: int) -> None:
    stack: list[bytes] = []
    flags = CONSENSUS_FLAGS | Flags.MINIMALDATA
    evaluate(stack, push_number(number), flags, SignatureChecker(), SigVersion.BASE)
    assert stack == [encode_number(number)]
