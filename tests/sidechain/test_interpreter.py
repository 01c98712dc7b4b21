"""The interpreter against the reference project's vectors, the specification, and itself."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from bitcoin.core import COutPoint, CTransaction, CTxIn, CTxInWitness, CTxOut, CTxWitness
from bitcoin.core.script import CScript, CScriptWitness
from hypothesis import given, settings
from hypothesis import strategies as st

from sidechain.crypto.hashes import sha256
from sidechain.crypto.keys import ecdsa_sign, public_key
from sidechain.errors import ScriptError
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import InputWitness, OutPoint, Transaction, TxIn, TxOut
from sidechain.script.direct import verify_direct
from sidechain.script.faults import ScriptFault
from sidechain.script.flags import CONSENSUS_FLAGS, STANDARD_FLAGS, Flags, SigVersion
from sidechain.script.interpreter import evaluate, run_input, verify_input, verify_script
from sidechain.script.ops_number import deterministic_random
from sidechain.script.script import (
    encode_number,
    multisig_script,
    p2pkh,
    p2pkh_of_hash,
    p2wpkh,
    p2wsh,
    push,
    push_number,
)
from sidechain.script.sighash import legacy_sighash, segwit_v0_sighash
from tests.sidechain.bitcoin_scripts import (
    ALL_FLAGS,
    BitcoinChecker,
    assemble,
    fill_flags,
    parse_flags,
)
from tests.vectors import elements_json


class NoChecker:
    """Nothing is signed and no time has come."""

    def check_signature(self, *_: object) -> bool:
        return False

    def check_locktime(self, locktime: int) -> bool:
        return False

    def check_sequence(self, sequence: int) -> bool:
        return False


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
        [CTxIn(COutPoint(), CScript(b"\0\0"))], [CTxOut(amount_sats, CScript(script_pubkey))],
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
    evaluate(result, assemble(script), CONSENSUS_FLAGS, NoChecker(), SigVersion.WITNESS_V0)
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
            evaluate(list(stack), script, STANDARD_FLAGS, NoChecker(), version)


# The direct path against the interpreter.

_SECRETS = [bytes([number]) * 32 for number in range(1, 5)]
_KEYS = [public_key(secret) for secret in _SECRETS]
_OTHER = TxOut(explicit_asset(b"\x07" * 32), explicit_value(5), NULL, p2wpkh(_KEYS[3]))
_HASH_TYPES = st.sampled_from([1, 2, 3, 0x81, 0x82, 0x83, 0x41, 0xC3, 0, 4, 0x21, 0x80])


def _unsigned(sequence: int) -> Transaction:
    return Transaction.build(
        inputs=[
            TxIn(OutPoint(b"\x01" * 32, 1), b"", sequence),
            TxIn(OutPoint(b"\x02" * 32, 0)),
        ],
        outputs=[_OTHER],
    )


def _sign(
    tx: Transaction, index: int, code: bytes, value: bytes, secret: bytes, kind: int, *, v0: bool
) -> bytes:
    if v0:
        digest = segwit_v0_sighash(tx, index, code, value, kind, rangeproof=True)
    else:
        digest = legacy_sighash(tx, index, code, kind, rangeproof=True)
    return ecdsa_sign(secret, digest) + bytes((kind,))


@st.composite
def _spends(draw: st.DrawFn) -> tuple[Transaction, int, TxOut]:
    """A signed input of one of the direct forms, often with something wrong about it."""
    index = draw(st.integers(0, 1))
    tx = _unsigned(draw(st.sampled_from([0, 0xFFFFFFFF])))
    value = explicit_value(draw(st.integers(1, 10**9)))
    form = draw(st.sampled_from(["p2wpkh", "p2pkh", "p2wsh"]))
    kind = draw(_HASH_TYPES)
    script_sig, witness = b"", []
    if form == "p2wsh":
        count = draw(st.integers(1, 4))
        threshold = draw(st.integers(1, count))
        code = multisig_script(threshold, _KEYS[:count])
        script = p2wsh(code)
        size = threshold + draw(st.sampled_from([0, 0, 0, -1, 1]))
        order = draw(st.permutations(range(4)))[: max(size, 0)]
        chosen = sorted(order) if draw(st.booleans()) else list(order)
        signatures = [_sign(tx, index, code, value, _SECRETS[i], kind, v0=True) for i in chosen]
        witness = [draw(st.sampled_from([b"", b"", b"", b"\x01"])), *signatures, code]
    elif form == "p2wpkh":
        key = draw(st.integers(0, 1))
        script, code = p2wpkh(_KEYS[0]), p2pkh_of_hash(p2wpkh(_KEYS[0])[2:])
        signature = _sign(tx, index, code, value, _SECRETS[0], kind, v0=True)
        witness = [signature, _KEYS[key]]
    else:
        script = p2pkh(_KEYS[0])
        signature = _sign(tx, index, script, value, _SECRETS[0], kind, v0=False)
        script_sig = push(signature) + push(_KEYS[draw(st.integers(0, 1))])
    script_sig, witness = _disturb(draw, script_sig, witness)
    inputs = list(tx.inputs)
    inputs[index] = replace(inputs[index], script_sig=script_sig)
    witnesses = [InputWitness(), InputWitness()]
    witnesses[index] = InputWitness(script=tuple(witness))
    signed = Transaction.build(inputs=inputs, outputs=tx.outputs, input_witnesses=witnesses)
    return signed, index, TxOut(_OTHER.asset, value, NULL, script)


def _disturb(
    draw: st.DrawFn, script_sig: bytes, witness: list[bytes]
) -> tuple[bytes, list[bytes]]:
    fault = draw(st.sampled_from(["none", "none", "none", "flip", "extra", "drop", "swap"]))
    if fault == "extra":
        script_sig += draw(st.sampled_from([b"", b"\x00", b"\x51"]))
        witness = [*witness, b"\x01"] if draw(st.booleans()) else witness
    elif fault == "drop":
        script_sig, witness = script_sig[:-1], witness[1:]
    elif fault == "swap":
        witness = witness[::-1]
    elif fault == "flip":
        place = draw(st.integers(0, 200))
        witness = [_flip(item, place) if i == 0 else item for i, item in enumerate(witness)]
        script_sig = _flip(script_sig, place)
    return script_sig, witness


def _flip(item: bytes, place: int) -> bytes:
    if not item:
        return item
    place %= len(item)
    return item[:place] + bytes((item[place] ^ 1,)) + item[place + 1 :]


@settings(max_examples=300, deadline=None)
@given(_spends(), st.sampled_from([CONSENSUS_FLAGS, STANDARD_FLAGS, Flags.P2SH | Flags.WITNESS]))
def test_direct_path_never_accepts_what_the_interpreter_refuses(
    spend: tuple[Transaction, int, TxOut], flags: Flags
) -> None:
    tx, index, spent = spend
    direct = verify_direct(tx, index, spent, flags)
    try:
        run_input(tx, index, spent, flags)
        accepted, reason = True, ""
    except ScriptError as fault:
        accepted, reason = False, fault.reason
    assert accepted or not direct
    if accepted:
        verify_input(tx, index, spent, flags)
    else:
        with pytest.raises(ScriptError) as caught:
            verify_input(tx, index, spent, flags)
        assert caught.value.reason == reason


@pytest.mark.parametrize("form", ["p2wpkh", "p2pkh", "p2wsh"])
def test_direct_path_takes_plain_spends(form: str) -> None:
    tx, value = _unsigned(0), explicit_value(9)
    if form == "p2wsh":
        code = multisig_script(2, _KEYS[:3])
        signatures = [_sign(tx, 0, code, value, s, 1, v0=True) for s in (_SECRETS[0], _SECRETS[2])]
        script, witness = p2wsh(code), (b"", *signatures, code)
    elif form == "p2wpkh":
        script, code = p2wpkh(_KEYS[0]), p2pkh(_KEYS[0])
        witness = (_sign(tx, 0, code, value, _SECRETS[0], 1, v0=True), _KEYS[0])
    else:
        script, witness = p2pkh(_KEYS[0]), ()
        signature = _sign(tx, 0, script, value, _SECRETS[0], 1, v0=False)
        first = replace(tx.inputs[0], script_sig=push(signature) + push(_KEYS[0]))
        tx = Transaction.build(inputs=[first, tx.inputs[1]], outputs=tx.outputs)
    signed = Transaction.build(
        inputs=tx.inputs,
        outputs=tx.outputs,
        input_witnesses=[InputWitness(script=witness), InputWitness()],
    )
    spent = TxOut(_OTHER.asset, value, NULL, script)
    assert verify_direct(signed, 0, spent, STANDARD_FLAGS)
    run_input(signed, 0, spent, STANDARD_FLAGS)


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        (b"\x51\x20" + b"\x02" * 32, ScriptFault.TAPROOT_UNSUPPORTED),
        (b"\x00\x15" + b"\x02" * 21, ScriptFault.WITNESS_PROGRAM_WRONG_LENGTH),
    ],
)
def test_witness_programs_that_cannot_be_judged_are_refused(
    script: bytes, fault: ScriptFault
) -> None:
    with pytest.raises(ScriptError) as caught:
        verify_script(b"", script, (b"\x01" * 64,), CONSENSUS_FLAGS, NoChecker())
    assert caught.value.reason == fault.value


@pytest.mark.parametrize(
    "script", [b"\x52\x02\x01\x02", b"\x60\x28" + b"\x07" * 40, b"\x51\x02\x4e\x73"]
)
def test_witness_versions_without_rules_are_anyones_in_consensus(script: bytes) -> None:
    verify_script(b"", script, (), CONSENSUS_FLAGS, NoChecker())


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
        evaluate([], push(bytes(521)), CONSENSUS_FLAGS, NoChecker(), SigVersion.BASE)
    assert caught.value.reason == ScriptFault.PUSH_SIZE.value


@given(st.integers(-(2**31) + 1, 2**31 - 1))
def test_numbers_pushed_are_the_numbers_read(number: int) -> None:
    stack: list[bytes] = []
    flags = CONSENSUS_FLAGS | Flags.MINIMALDATA
    evaluate(stack, push_number(number), flags, NoChecker(), SigVersion.BASE)
    assert stack == [encode_number(number)]
