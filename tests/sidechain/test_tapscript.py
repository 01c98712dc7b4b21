"""Tapscript, opcode by opcode: results, faults, limits and the budget."""

import hashlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidechain.crypto.keys import GROUP_ORDER, public_key, schnorr_sign, tweak_add_public
from sidechain.errors import ScriptError
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import (
    InputWitness,
    Issuance,
    OutPoint,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.script.faults import ScriptFault
from sidechain.script.flags import CONSENSUS_FLAGS, STANDARD_FLAGS, Flags, SigVersion
from sidechain.script.interpreter import TransactionChecker, evaluate
from sidechain.script.machine import SignatureChecker
from sidechain.script.opcodes import SUCCESS_OPCODES
from sidechain.script.script import contains_success, p2wpkh, push
from sidechain.script.sighash import SighashCache, TaprootPath
from sidechain.script.taproot import taproot_sighash
from tests.sidechain.bitcoin_scripts import assemble

GENESIS_HASH = b"\x0d" * 32
SECRET = b"\x17" * 32
KEY = public_key(SECRET)[1:]
ASSET = explicit_asset(b"\x07" * 32)
HIDDEN_ASSET, HIDDEN_VALUE = b"\x0b" + b"\x06" * 32, b"\x09" + b"\x05" * 32
PROGRAM = p2wpkh(b"\x02" + KEY)
LONG_SCRIPT = b"\x51" * 100
STATE = "6a09e667bb67ae853c6ef372a54ff53a510e527f9b05688c1f83d9ab5be0cd19"
PATH = TaprootPath(None, b"\x1e" * 32)
BUDGET = 1000

TX = Transaction.build(
    version=5,
    inputs=[
        TxIn(OutPoint(b"\x01" * 32, 9), b"", 0xFFFFFFFD),
        TxIn(
            OutPoint(b"\x02" * 32, 3),
            b"",
            7,
            Issuance(
                blinding_nonce=b"\x08" * 32,
                entropy=b"\x03" * 32,
                amount=b"\x08" + b"\x04" * 32,
                inflation_keys=NULL,
            ),
        ),
        TxIn(OutPoint(b"\x03" * 32, 0), is_pegin=True),
    ],
    outputs=[
        TxOut(ASSET, explicit_value(0x0102), b"\x02" + b"\x09" * 32, PROGRAM),
        TxOut(HIDDEN_ASSET, HIDDEN_VALUE, NULL, LONG_SCRIPT),
        TxOut(ASSET, explicit_value(1), NULL, b""),
    ],
    locktime=500,
    input_witnesses=[InputWitness(script=(b"\x51",))] * 3,
)
SPENT = [
    TxOut(ASSET, explicit_value(77), NULL, b"\x51\x20" + b"\x0f" * 32),
    TxOut(HIDDEN_ASSET, HIDDEN_VALUE, NULL, LONG_SCRIPT),
    TxOut(ASSET, explicit_value(5), NULL, b"\x60\x02\x01\x02"),
]


def run(
    script: str | bytes,
    *stack: bytes,
    flags: Flags = CONSENSUS_FLAGS,
    index: int = 0,
    budget: int = BUDGET,
) -> list[bytes]:
    """The stack that a tapscript leaves."""
    code = assemble(script) if isinstance(script, str) else script
    cache = SighashCache(TX, SPENT, GENESIS_HASH)
    checker = TransactionChecker(TX, index, SPENT[index].value, flags, cache)
    result = list(stack)
    evaluate(result, code, flags, checker, SigVersion.TAPSCRIPT, path=PATH, budget=budget)
    return result


def fault(script: str | bytes, *stack: bytes, **options: object) -> str:
    """Name of the fault of a tapscript."""
    with pytest.raises(ScriptError) as caught:
        run(script, *stack, **options)  # type: ignore[arg-type]
    return ScriptFault(caught.value.reason).name


def le64(number: int) -> bytes:
    return number.to_bytes(8, "little", signed=True)


def hexes(*items: str) -> list[bytes]:
    return [bytes.fromhex(item) for item in items]


@pytest.mark.parametrize(
    ("script", "index", "result"),
    [
        ("0 INSPECTINPUTOUTPOINT", 0, ["01" * 32, "09000000", "00"]),
        ("1 INSPECTINPUTOUTPOINT", 0, ["02" * 32, "03000000", "80"]),
        ("2 INSPECTINPUTOUTPOINT", 0, ["03" * 32, "00000000", "40"]),
        ("0 INSPECTINPUTASSET", 0, ["07" * 32, "01"]),
        ("1 INSPECTINPUTASSET", 0, ["06" * 32, "0b"]),
        ("0 INSPECTINPUTVALUE", 0, ["4d00000000000000", "01"]),
        ("1 INSPECTINPUTVALUE", 0, ["05" * 32, "09"]),
        ("0 INSPECTINPUTSCRIPTPUBKEY", 0, ["0f" * 32, "01"]),
        ("2 INSPECTINPUTSCRIPTPUBKEY", 0, ["0102", "10"]),
        ("0 INSPECTINPUTSEQUENCE", 0, ["fdffffff"]),
        ("0 INSPECTINPUTISSUANCE", 0, [""]),
        (
            "1 INSPECTINPUTISSUANCE",
            0,
            ["00" * 8, "01", "04" * 32, "08", "03" * 32, "08" * 32],
        ),
        ("PUSHCURRENTINPUTINDEX", 0, [""]),
        ("PUSHCURRENTINPUTINDEX", 2, ["02"]),
        ("0 INSPECTOUTPUTASSET", 0, ["07" * 32, "01"]),
        ("1 INSPECTOUTPUTASSET", 0, ["06" * 32, "0b"]),
        ("0 INSPECTOUTPUTVALUE", 0, ["0201000000000000", "01"]),
        ("1 INSPECTOUTPUTVALUE", 0, ["05" * 32, "09"]),
        ("0 INSPECTOUTPUTNONCE", 0, ["02" + "09" * 32]),
        ("1 INSPECTOUTPUTNONCE", 0, [""]),
        ("0 INSPECTOUTPUTSCRIPTPUBKEY", 0, [PROGRAM[2:].hex(), ""]),
        ("1 INSPECTOUTPUTSCRIPTPUBKEY", 0, [hashlib.sha256(LONG_SCRIPT).hexdigest(), "81"]),
        ("2 INSPECTOUTPUTSCRIPTPUBKEY", 0, [hashlib.sha256().hexdigest(), "81"]),
        ("INSPECTVERSION", 0, ["05000000"]),
        ("INSPECTLOCKTIME", 0, ["f4010000"]),
        ("INSPECTNUMINPUTS", 0, ["03"]),
        ("INSPECTNUMOUTPUTS", 0, ["03"]),
        ("TXWEIGHT", 0, [le64(TX.weight_wu).hex()]),
    ],
)
def test_introspection_when_run_then_shows_the_transaction(
    script: str, index: int, result: list[str]
) -> None:
    assert run(script, index=index) == hexes(*result)


_INPUT_OPS = ("OUTPOINT", "ASSET", "VALUE", "SCRIPTPUBKEY", "SEQUENCE", "ISSUANCE")
_OUTPUT_OPS = ("ASSET", "VALUE", "NONCE", "SCRIPTPUBKEY")
_INDEXED = [f"INSPECTINPUT{name}" for name in _INPUT_OPS]
_INDEXED += [f"INSPECTOUTPUT{name}" for name in _OUTPUT_OPS]


@pytest.mark.parametrize("opcode", _INDEXED)
def test_introspection_when_index_is_wrong_then_named(opcode: str) -> None:
    assert fault(opcode) == "INVALID_STACK_OPERATION"
    for index in ("-1", "3", "2147483647"):
        assert fault(f"{index} {opcode}") == "INTROSPECT_INDEX_OUT_OF_BOUNDS"
    assert fault(opcode, bytes(5)) == "UNKNOWN_ERROR"
    flags = CONSENSUS_FLAGS | Flags.MINIMALDATA
    assert fault(opcode, b"\x00", flags=flags) == "UNKNOWN_ERROR"
    with pytest.raises(ScriptError) as caught:
        evaluate([b""], assemble(opcode), flags, SignatureChecker(), SigVersion.TAPSCRIPT)
    assert caught.value.reason == ScriptFault.INTROSPECT_CONTEXT_UNAVAILABLE.value


_MAX, _MIN = 2**63 - 1, -(2**63)


@pytest.mark.parametrize(
    ("opcode", "operands", "results"),
    [
        ("ADD64", (2, 3), (5,)),
        ("ADD64", (_MAX, _MIN), (-1,)),
        ("ADD64", (_MAX, 1), None),
        ("ADD64", (_MIN, -1), None),
        ("SUB64", (2, 3), (-1,)),
        ("SUB64", (_MIN, 1), None),
        ("SUB64", (0, _MIN), None),
        ("SUB64", (-1, _MIN), (_MAX,)),
        ("MUL64", (-3, 5), (-15,)),
        ("MUL64", (_MIN, 1), (_MIN,)),
        ("MUL64", (_MIN, -1), None),
        ("MUL64", (2**32, 2**31), None),
        ("MUL64", (-(2**32), 2**31), (_MIN,)),
        ("DIV64", (7, 2), (1, 3)),
        ("DIV64", (-7, 2), (1, -4)),
        ("DIV64", (7, -2), (1, -3)),
        ("DIV64", (-7, -2), (1, 4)),
        ("DIV64", (-8, -2), (0, 4)),
        ("DIV64", (_MAX, _MIN), (_MAX, 0)),
        ("DIV64", (_MIN, _MAX), (_MAX - 1, -2)),
        ("DIV64", (5, 0), None),
        ("DIV64", (_MIN, -1), None),
        ("NEG64", (5,), (-5,)),
        ("NEG64", (_MIN,), None),
    ],
)
def test_arithmetic_when_result_fits_then_replaces_operands_else_false_on_top(
    opcode: str, operands: tuple[int, ...], results: tuple[int, ...] | None
) -> None:
    stack = [b"below", *map(le64, operands)]
    found = run(opcode, *stack)
    if results is None:
        assert found == [*stack, b""]
    else:
        assert found == [b"below", *map(le64, results), b"\x01"]


@given(st.integers(_MIN, _MAX), st.integers(_MIN, _MAX).filter(bool))
def test_division_when_done_then_euclidean(dividend: int, divisor: int) -> None:
    remainder, quotient, done = run("DIV64", le64(dividend), le64(divisor))
    if not done:
        assert (dividend, divisor) == (_MIN, -1)
        return
    rest, times = (int.from_bytes(x, "little", signed=True) for x in (remainder, quotient))
    assert times * divisor + rest == dividend
    assert 0 <= rest < abs(divisor)


@pytest.mark.parametrize(
    ("opcode", "answers"),
    [
        ("LESSTHAN64", (True, False, False)),
        ("LESSTHANOREQUAL64", (True, True, False)),
        ("GREATERTHAN64", (False, False, True)),
        ("GREATERTHANOREQUAL64", (False, True, True)),
    ],
)
def test_comparison_when_run_then_of_signed_numbers(opcode: str, answers: tuple[bool, ...]) -> None:
    pairs = ((-1, 1), (-5, -5), (_MAX, _MIN))
    for (left, right), answer in zip(pairs, answers, strict=True):
        assert run(opcode, le64(left), le64(right)) == [b"\x01" if answer else b""]


@pytest.mark.parametrize(
    ("opcode", "count"),
    [
        *((f"{name}64", 2) for name in ("ADD", "SUB", "MUL", "DIV", "LESSTHAN", "GREATERTHAN")),
        ("LESSTHANOREQUAL64", 2),
        ("GREATERTHANOREQUAL64", 2),
        ("NEG64", 1),
        ("LE64TOSCRIPTNUM", 1),
    ],
)
def test_arithmetic_when_operands_are_wrong_then_named(opcode: str, count: int) -> None:
    assert fault(opcode, *[bytes(8)] * (count - 1)) == "INVALID_STACK_OPERATION"
    for place in range(count):
        stack = [bytes(8)] * count
        for size in (0, 7, 9):
            stack[place] = bytes(size)
            assert fault(opcode, *stack) == "EXPECTED_8BYTES"


def test_conversions_when_run_then_as_specified() -> None:
    assert run("-5 SCRIPTNUMTOLE64") == [le64(-5)]
    assert run("SCRIPTNUMTOLE64", b"\xff\xff\xff\x7f") == [le64(2**31 - 1)]
    assert fault("SCRIPTNUMTOLE64", bytes(5)) == "UNKNOWN_ERROR"
    assert fault("SCRIPTNUMTOLE64") == "INVALID_STACK_OPERATION"
    for number, item in ((0, b""), (-1, b"\x81"), (2**31 - 1, b"\xff\xff\xff\x7f")):
        assert run("LE64TOSCRIPTNUM", le64(number)) == [item]
    for number in (2**31, -(2**31), _MIN):
        assert fault("LE64TOSCRIPTNUM", le64(number)) == "ARITHMETIC64"
    assert run("LE32TOLE64", b"\xff\xff\xff\xff") == [le64(2**32 - 1)]
    assert fault("LE32TOLE64") == "INVALID_STACK_OPERATION"
    for size in (0, 3, 5, 8):
        assert fault("LE32TOLE64", bytes(size)) == "ARITHMETIC64"


def test_streaming_hash_when_fed_in_parts_then_the_hash_of_the_whole() -> None:
    data = bytes(range(200))
    empty = bytes.fromhex(STATE) + bytes(8)
    assert run("SHA256INITIALIZE", b"") == [empty]
    assert run("SHA256INITIALIZE", b"abc") == [bytes.fromhex(STATE) + b"\x18" + bytes(7) + b"abc"]
    script = "SHA256INITIALIZE SWAP SHA256UPDATE SWAP SHA256FINALIZE"
    assert run(script, data[150:], data[70:150], data[:70]) == [hashlib.sha256(data).digest()]


def test_streaming_hash_when_context_is_wrong_then_named() -> None:
    full = bytes(32) + (2**64 - 8).to_bytes(8, "little") + bytes(63)
    for opcode in ("SHA256UPDATE", "SHA256FINALIZE"):
        assert fault(opcode, b"x") == "INVALID_STACK_OPERATION"
        assert fault(opcode, bytes(39), b"") == "SHA2_CONTEXT_LOAD"
        assert fault(opcode, bytes(32) + b"\x01" + bytes(7), b"") == "SHA2_CONTEXT_LOAD"
        assert fault(opcode, full, b"x") == "SHA2_CONTEXT_WRITE"
        assert run(opcode, full, b"")
    assert fault("SHA256INITIALIZE") == "INVALID_STACK_OPERATION"


def _signature(kind: int = 0, code_separator: int = 0xFFFFFFFF) -> bytes:
    path = PATH._replace(code_separator=code_separator)
    digest = taproot_sighash(SighashCache(TX, SPENT, GENESIS_HASH), 0, kind, path) or bytes(32)
    return schnorr_sign(SECRET, digest) + (bytes((kind,)) if kind else b"")


def test_checksig_when_signature_is_good_then_true() -> None:
    signature = _signature()
    assert run("CHECKSIG", signature, KEY) == [b"\x01"]
    assert run("CHECKSIGVERIFY", _signature(0x83), KEY) == []
    assert run("CHECKSIGADD", signature, b"\x04", KEY) == [b"\x05"]
    assert run("CHECKSIG", b"", KEY) == [b""]
    assert run("CHECKSIGADD", b"", b"\x04", KEY) == [b"\x04"]
    assert fault("CHECKSIGVERIFY", b"", KEY) == "CHECKSIGVERIFY"


def test_checksig_when_separators_ran_then_signed() -> None:
    behind = _signature(code_separator=3)
    # Opcodes are counted, skipped ones and pushes too.
    assert run("0 IF 'x' CODESEPARATOR ENDIF CHECKSIG", _signature(), KEY) == [b"\x01"]
    assert run("1 IF ENDIF CODESEPARATOR CHECKSIG", behind, KEY) == [b"\x01"]
    assert fault("1 DROP CODESEPARATOR CHECKSIG", behind, KEY) == "SCHNORR_SIG"


@pytest.mark.parametrize("opcode", ["CHECKSIG", "CHECKSIGVERIFY", "CHECKSIGADD"])
def test_checksig_when_wrong_then_named(opcode: str) -> None:
    middle = (b"",) if opcode == "CHECKSIGADD" else ()
    good = _signature()
    assert fault(opcode, *[b"x"] * (1 + len(middle))) == "INVALID_STACK_OPERATION"
    assert fault(opcode, good, *middle, b"") == "PUBKEYTYPE"
    assert fault(opcode, b"", *middle, b"") == "PUBKEYTYPE"
    assert fault(opcode, good[:63], *middle, KEY) == "SCHNORR_SIG_SIZE"
    assert fault(opcode, good + b"\x00", *middle, KEY) == "SCHNORR_SIG_HASHTYPE"
    assert fault(opcode, good + b"\x40", *middle, KEY) == "SCHNORR_SIG_HASHTYPE"
    assert fault(opcode, bytes(64), *middle, KEY) == "SCHNORR_SIG"
    assert fault(opcode, good, *middle, KEY, budget=49) == "TAPSCRIPT_VALIDATION_WEIGHT"
    policy = CONSENSUS_FLAGS | Flags.DISCOURAGE_UPGRADABLE_PUBKEYTYPE
    for key in (b"\x01", b"\x02" + KEY, bytes(31)):
        run(opcode, b"any", *middle, key, budget=50)
        assert fault(opcode, b"any", *middle, key, flags=policy) == (
            "DISCOURAGE_UPGRADABLE_PUBKEYTYPE"
        )
        assert fault(opcode, b"any", *middle, key, budget=49) == "TAPSCRIPT_VALIDATION_WEIGHT"


def test_checksigadd_when_counter_is_no_number_then_named_before_the_signature() -> None:
    assert fault("CHECKSIGADD", bytes(1), bytes(5), KEY) == "UNKNOWN_ERROR"


@pytest.mark.parametrize("opcode", ["CHECKMULTISIG", "CHECKMULTISIGVERIFY"])
def test_multisig_when_run_then_refused(opcode: str) -> None:
    assert fault(opcode) == "TAPSCRIPT_CHECKMULTISIG"
    assert run(f"0 IF {opcode} ENDIF 1") == [b"\x01"]


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 64, 520])
def test_signature_from_stack_when_message_has_any_length_then_of_the_whole(size: int) -> None:
    """docs/architecture.md "Decisions": BIP340 over the message itself, not 32 bytes of it."""
    from coincurve import PrivateKey
    from coincurve._libsecp256k1 import ffi, lib  # type: ignore[import-not-found]
    from coincurve.context import GLOBAL_CONTEXT

    message = bytes(n % 251 for n in range(size))
    context = GLOBAL_CONTEXT.ctx
    pair, signature = ffi.new("secp256k1_keypair *"), ffi.new("char[64]")
    assert lib.secp256k1_keypair_create(context, pair, PrivateKey(SECRET).secret)
    assert lib.secp256k1_schnorrsig_sign_custom(context, signature, message, size, pair, ffi.NULL)
    good = bytes(ffi.buffer(signature))
    assert run("CHECKSIGFROMSTACK", good, message, KEY) == [b"\x01"]
    assert run("CHECKSIGFROMSTACKVERIFY", good, message, KEY) == []
    for other in (message + b"\0", message[:-1] + b"\xff", message[:32] + b"\xff"):
        assert fault("CHECKSIGFROMSTACK", good, other, KEY) == "SCHNORR_SIG"


@pytest.mark.parametrize("opcode", ["CHECKSIGFROMSTACK", "CHECKSIGFROMSTACKVERIFY"])
def test_signature_from_stack_when_wrong_then_named(opcode: str) -> None:
    message = bytes(32)
    good = schnorr_sign(SECRET, message)
    assert fault(opcode, good, message) == "INVALID_STACK_OPERATION"
    assert fault(opcode, good, message, b"") == "PUBKEYTYPE"
    assert fault(opcode, b"", message, b"") == "PUBKEYTYPE"
    for size in (1, 63, 65):
        assert fault(opcode, bytes(size), message, KEY) == "SCHNORR_SIG_SIZE"
    assert fault(opcode, bytes(64), message, KEY) == "SCHNORR_SIG"
    assert fault(opcode, good, message, KEY, budget=49) == "TAPSCRIPT_VALIDATION_WEIGHT"
    policy = CONSENSUS_FLAGS | Flags.DISCOURAGE_UPGRADABLE_PUBKEYTYPE
    run(opcode, b"any", message, b"\x02", budget=50)
    assert fault(opcode, b"any", message, b"\x02", flags=policy) == (
        "DISCOURAGE_UPGRADABLE_PUBKEYTYPE"
    )
    verify = opcode.endswith("VERIFY")
    for key in (KEY, b"\x02"):
        if verify:
            assert fault(opcode, b"", message, key) == "CHECKSIGVERIFY"
        else:
            assert run(opcode, b"", message, key) == [b""]


G = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")


def test_multiplication_when_checked_then_exact() -> None:
    product = public_key(SECRET)
    assert run("ECMULSCALARVERIFY", product, G, SECRET) == []
    negative = (GROUP_ORDER - int.from_bytes(SECRET, "big")).to_bytes(32, "big")
    assert fault("ECMULSCALARVERIFY", product, G, negative) == "ECMULTVERIFYFAIL"
    off_curve = b"\x02" + b"\xff" * 32
    for stack in (
        (product, G, SECRET[:31]),
        (product, G, bytes(32)),
        (product, G, GROUP_ORDER.to_bytes(32, "big")),
        (product, off_curve, SECRET),
        (off_curve, G, SECRET),
    ):
        assert fault("ECMULSCALARVERIFY", *stack) == "ECMULTVERIFYFAIL"
    for stack in (
        (product[1:], G, SECRET),
        (product, G[1:], SECRET),
        (b"\x04" + product[1:], G, SECRET),
        (product, b"", SECRET),
    ):
        # The form comes before the budget.
        assert fault("ECMULSCALARVERIFY", *stack, budget=0) == "PUBKEYTYPE"
    assert fault("ECMULSCALARVERIFY", product, G, b"", budget=49) == ("TAPSCRIPT_VALIDATION_WEIGHT")


def test_tweak_when_checked_then_exact() -> None:
    tweak = b"\x05" * 32
    tweaked = tweak_add_public(b"\x02" + KEY, tweak)
    assert run("TWEAKVERIFY", tweaked, tweak, KEY) == []
    other = bytes((tweaked[0] ^ 1,)) + tweaked[1:]
    for stack in (
        (other, tweak, KEY),
        (tweaked, bytes(32), KEY),
        (tweaked, b"\xff" * 32, KEY),
        (tweaked, tweak, b"\xff" * 32),
    ):
        assert fault("TWEAKVERIFY", *stack) == "ECMULTVERIFYFAIL"
    for stack in (
        (tweaked[1:], tweak, KEY),
        (b"\x04" + tweaked[1:], tweak, KEY),
        (tweaked, tweak[1:], KEY),
        (tweaked, tweak, b"\x02" + KEY),
    ):
        assert fault("TWEAKVERIFY", *stack, budget=0) == "PUBKEYTYPE"
    assert fault("TWEAKVERIFY", tweaked, tweak, KEY, budget=49) == "TAPSCRIPT_VALIDATION_WEIGHT"


@pytest.mark.parametrize("opcode", ["ECMULSCALARVERIFY", "TWEAKVERIFY"])
def test_curve_opcodes_when_items_are_missing_then_the_unnamed_fault(opcode: str) -> None:
    for count in range(3):
        assert fault(opcode, *[G] * count) == "UNKNOWN_ERROR"


def test_budget_when_several_signatures_run_then_shared() -> None:
    script = "2DUP CHECKSIGVERIFY CHECKSIG"
    assert run(script, _signature(), KEY, budget=100) == [b"\x01"]
    assert fault(script, _signature(), KEY, budget=99) == "TAPSCRIPT_VALIDATION_WEIGHT"
    assert run("CHECKSIG", b"", KEY, budget=0) == [b""]


def test_if_when_argument_is_not_minimal_then_refused_by_consensus() -> None:
    for item in (b"\x02", b"\x00", b"\x01\x00", b"\x80"):
        for opcode in ("IF", "NOTIF"):
            assert fault(f"{opcode} ENDIF", item) == "TAPSCRIPT_MINIMALIF"
    assert run("IF 2 ELSE 3 ENDIF", b"\x01") == [b"\x02"]
    assert run("NOTIF 2 ELSE 3 ENDIF", b"\x01") == [b"\x03"]


def test_branches_when_deeply_nested_then_taken_as_written() -> None:
    assert run("0 IF IF ELSE ENDIF 2 ELSE 3 ENDIF") == [b"\x03"]
    assert run("1 IF 0 IF 4 ELSE 5 ELSE 6 ENDIF ENDIF") == [b"\x05"]
    assert run("0 IF 4 ELSE 5 ELSE 6 ELSE 7 ENDIF") == [b"\x05", b"\x07"]
    for script in ("ELSE", "ENDIF", "1 IF", "0 IF ELSE", "1 IF ENDIF ENDIF"):
        assert fault(script) == "UNBALANCED_CONDITIONAL"
    assert fault("IF ENDIF") == "UNBALANCED_CONDITIONAL"


def test_limits_when_tapscript_runs_then_only_its_own() -> None:
    assert run(b"\x61" * 20_000 + b"\x51") == [b"\x01"]
    assert fault("1 " * 1001) == "STACK_SIZE"
    assert fault(push(bytes(521))) == "PUSH_SIZE"
    assert fault(b"\x00\x63" + push(bytes(521)) + b"\x68\x51") == "PUSH_SIZE"
    assert fault("0xba", flags=STANDARD_FLAGS) == "INVALID_STACK_OPERATION"
    assert fault(b"\xff") == "BAD_OPCODE"
    assert run(b"\x00\x63\xff\x68") == []
    assert fault(b"\x00\x63\x65\x68") == "BAD_OPCODE"


def test_success_when_scanned_then_found_before_anything_unreadable() -> None:
    for opcode in range(256):
        script = bytes((opcode,))
        if opcode in SUCCESS_OPCODES:
            assert contains_success(script)
            assert contains_success(script + b"\x4e\xff")
        elif not 1 <= opcode <= 78:
            assert not contains_success(script)
    assert not contains_success(b"\x01\x50" + b"\x4c\x01\xfe")
    for script in (b"\x02\x50", b"\x4d\x01", b"\x4e\xff\xff\xff\xff\x50"):
        with pytest.raises(ScriptError) as caught:
            contains_success(script)
        assert caught.value.reason == ScriptFault.BAD_OPCODE.value


@pytest.mark.parametrize("version", [SigVersion.BASE, SigVersion.WITNESS_V0])
@pytest.mark.parametrize("opcode", [0xBA, *range(0xC4, 0xE5)])
def test_tapscript_opcodes_when_run_before_tapscript_then_not_understood(
    opcode: int, version: SigVersion
) -> None:
    with pytest.raises(ScriptError) as caught:
        evaluate([b""] * 4, bytes((opcode,)), CONSENSUS_FLAGS, SignatureChecker(), version)
    assert caught.value.reason == ScriptFault.BAD_OPCODE.value


@given(st.binary(max_size=200), st.lists(st.binary(max_size=80), max_size=6), st.booleans())
def test_random_programs_when_run_then_end_or_raise_script_errors(
    script: bytes, stack: list[bytes], strict: bool
) -> None:
    with suppress(ScriptError):
        run(script, *stack, flags=STANDARD_FLAGS if strict else CONSENSUS_FLAGS)
