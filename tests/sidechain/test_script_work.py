"""The work and the memory that scripts can ask for, counted and not timed.

Every trap here is a small input that would cost much if something were done once more often than
needed: whole transactions hashed again, large scripts hashed again, branches searched again.
"""

import hashlib
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import pytest

from sidechain.crypto import sha256_context
from sidechain.crypto.keys import ecdsa_sign, public_key, schnorr_sign
from sidechain.errors import ScriptError
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.encoding import vectors
from sidechain.primitives.transaction import InputWitness, OutPoint, Transaction, TxIn, TxOut
from sidechain.script import direct, interpreter, ops_crypto, ops_tapscript
from sidechain.script.faults import ScriptFault
from sidechain.script.flags import CONSENSUS_FLAGS
from sidechain.script.interpreter import run_input, verify_input
from sidechain.script.script import multisig_script, p2pkh, p2tr, p2wsh, push
from sidechain.script.sighash import SighashCache, TaprootPath, legacy_sighash
from sidechain.script.taproot import leaf_hash, taproot_sighash
from tests.sidechain.bitcoin_scripts import assemble
from tests.sidechain.test_taproot import leaf_spend

GENESIS_HASH = b"\x0e" * 32
ASSET = explicit_asset(b"\x07" * 32)
SECRET = b"\x17" * 32
KEY = public_key(SECRET)
MEMORY_BASE = 1 << 20
MEMORY_PER_BYTE = 50
ELEMENT_BYTES = 520
CURVE_CHECKS = (
    "ecdsa_verify",
    "ecdsa_verify_compact",
    "schnorr_verify",
    "multiply_check",
    "xonly_tweak_add_check",
)


class Work:
    """What was done: bytes through SHA-256, and checks on the curve."""

    def __init__(self) -> None:
        self.hashed = 0
        self.curve = 0


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """Counts while the test runs."""
    done = Work()
    real = hashlib.sha256

    class Counted:
        def __init__(self, data: bytes = b"", inner: object = None) -> None:
            self._inner = inner or real(data)
            done.hashed += len(data)

        def update(self, data: bytes | memoryview) -> None:
            done.hashed += len(data)
            self._inner.update(data)  # type: ignore[attr-defined]

        def copy(self) -> "Counted":
            return Counted(inner=self._inner.copy())  # type: ignore[attr-defined]

        def digest(self) -> bytes:
            return self._inner.digest()  # type: ignore[attr-defined,no-any-return]

    monkeypatch.setattr(hashlib, "sha256", Counted)
    for module in (interpreter, direct, ops_crypto, ops_tapscript):
        for name in CURVE_CHECKS:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, _counted(getattr(module, name), done))
    return done


def _counted(function: Callable[..., bool], done: Work) -> Callable[..., bool]:
    def run(*args: bytes) -> bool:
        done.curve += 1
        return function(*args)

    return run


def spending(
    script: bytes, *, inputs: int = 1, outputs: list[TxOut] | None = None
) -> tuple[Transaction, list[TxOut]]:
    """An unsigned transaction whose inputs all spend the same script."""
    spent = [TxOut(ASSET, explicit_value(10), NULL, script)] * inputs
    tx = Transaction.build(
        inputs=[TxIn(OutPoint(bytes(30) + n.to_bytes(2, "big"), n), b"") for n in range(inputs)],
        outputs=outputs or [TxOut(ASSET, explicit_value(10 * inputs), NULL, b"\x51")],
    )
    return tx, spent


def with_witness(tx: Transaction, *stack: bytes) -> Transaction:
    """The transaction with a witness on its only input."""
    return replace_inputs(tx, [tx.inputs[0]], [InputWitness(script=stack)])


def replace_inputs(
    tx: Transaction, inputs: list[TxIn], witnesses: list[InputWitness] | None = None
) -> Transaction:
    """The transaction with other inputs."""
    return Transaction.build(inputs=inputs, outputs=tx.outputs, input_witnesses=witnesses or ())


def judge(tx: Transaction, spent: list[TxOut]) -> str:
    """Check all inputs; the name of the first fault, empty without."""
    cache = SighashCache(tx, spent, GENESIS_HASH)
    for index, output in enumerate(spent):
        try:
            verify_input(tx, index, output, CONSENSUS_FLAGS, cache)
        except ScriptError as fault:
            return ScriptFault(fault.reason).name
    return ""


def run_leaf(
    script: bytes, *stack: bytes, outputs: list[TxOut] | None = None
) -> tuple[str, Transaction]:
    """Spend a tapscript; the fault and the transaction."""
    key, control = leaf_spend(script)
    tx, spent = spending(p2tr(key), outputs=outputs)
    tx = with_witness(tx, *stack, script, control)
    return judge(tx, spent), tx


def test_legacy_inputs_when_many_then_each_hashes_only_what_follows_it(work: Work) -> None:
    count = 400
    tx, spent = spending(p2pkh(KEY), inputs=count)
    cache = SighashCache(tx)
    signed = []
    for index, item in enumerate(tx.inputs):
        digest = legacy_sighash(tx, index, p2pkh(KEY), 1, rangeproof=True, cache=cache)
        signature = ecdsa_sign(SECRET, digest) + b"\x01"
        signed.append(replace(item, script_sig=push(signature) + push(KEY)))
    full = replace_inputs(tx, signed)
    work.hashed = work.curve = 0
    assert judge(full, spent) == ""
    assert work.curve == count
    # Half of the square: the other half is what consensus makes everybody hash.
    assert work.hashed <= count * (len(tx.raw) // 2 + 500)


def test_legacy_digest_when_asked_again_then_not_hashed_again(work: Work) -> None:
    outputs = [TxOut(ASSET, explicit_value(1), NULL, bytes(100_000))]
    code = assemble("2DUP CHECKSIG DROP " * 60 + "CHECKSIG")
    tx, spent = spending(code, outputs=outputs)
    digest = legacy_sighash(tx, 0, code, 1, rangeproof=True)
    signature = ecdsa_sign(SECRET, digest) + b"\x01"
    full = replace_inputs(tx, [replace(tx.inputs[0], script_sig=push(signature) + push(KEY))])
    work.hashed = work.curve = 0
    assert judge(full, spent) == ""
    assert work.curve == 61
    assert work.hashed <= 2 * len(tx.raw)


def test_legacy_separators_when_many_then_one_hash_a_check_and_no_more(work: Work) -> None:
    outputs = [TxOut(ASSET, explicit_value(1), NULL, bytes(100_000))]
    code = assemble("2DUP CODESEPARATOR CHECKSIG DROP " * 50 + "2DROP 1")
    tx, spent = spending(code, outputs=outputs)
    signature = ecdsa_sign(SECRET, bytes(32)) + b"\x01"
    full = replace_inputs(tx, [replace(tx.inputs[0], script_sig=push(signature) + push(KEY))])
    work.hashed = work.curve = 0
    assert judge(full, spent) == ""
    assert work.curve == 50
    assert work.hashed <= 51 * (len(tx.raw) + len(code) + 200)


def test_multisig_when_it_fails_then_twenty_checks_at_most(work: Work) -> None:
    code = multisig_script(1, [KEY] * 20) + assemble("NOT")
    tx, spent = spending(p2wsh(code))
    signature = ecdsa_sign(SECRET, bytes(32)) + b"\x01"
    tx = with_witness(tx, b"", signature, code)
    work.hashed = work.curve = 0
    assert judge(tx, spent) == ""
    assert work.curve == 20
    assert work.hashed <= 12 * len(tx.raw)


def test_tapscript_budget_when_spent_then_one_check_for_fifty_bytes(work: Work) -> None:
    script = assemble("2DUP CHECKSIGVERIFY " * 400 + "CHECKSIG")
    key, control = leaf_spend(script)
    tx, spent = spending(p2tr(key))
    cache = SighashCache(with_witness(tx, b"x"), spent, GENESIS_HASH)
    path = TaprootPath(None, leaf_hash(0xC4, script))
    signature = schnorr_sign(SECRET, taproot_sighash(cache, 0, 0, path) or b"")
    stack = (signature, KEY[1:], script, control)
    tx = with_witness(tx, *stack)
    work.hashed = work.curve = 0
    assert judge(tx, spent) == "TAPSCRIPT_VALIDATION_WEIGHT"
    assert work.curve == (50 + len(vectors(stack))) // 50
    assert work.hashed <= 4 * len(tx.raw) + 4096


def test_tapscript_separators_when_output_is_large_then_hashed_once(work: Work) -> None:
    outputs = [TxOut(ASSET, explicit_value(1), NULL, bytes(200_000))]
    script = assemble("CODESEPARATOR 2DUP CHECKSIG DROP " * 100 + "2DROP 1")
    # A signature that fails ends a tapscript, so these are empty; what good ones would have hashed
    # is asked for below.
    fault, tx = run_leaf(script, b"", KEY[1:], outputs=outputs)
    assert fault == ""
    cache = SighashCache(tx, [TxOut(ASSET, explicit_value(1), NULL, b"")], GENESIS_HASH)
    work.hashed = 0
    for separator in range(100):
        path = TaprootPath(None, b"\x01" * 32, separator)
        for kind in (0, 3, 0x83):
            assert taproot_sighash(cache, 0, kind, path)
    assert work.hashed <= 2 * len(tx.raw) + 300 * 1024


def test_introspection_when_script_is_large_then_hashed_once(work: Work) -> None:
    outputs = [TxOut(ASSET, explicit_value(1), NULL, bytes(200_000))]
    script = assemble("0 INSPECTOUTPUTSCRIPTPUBKEY 2DROP " * 500 + "1")
    work.hashed = 0
    fault, tx = run_leaf(script, outputs=outputs)
    assert fault == ""
    # Once for the opcode; the rest is the transaction's ids and the leaf.
    assert work.hashed <= 16 * len(tx.raw)
    again = work.hashed
    fault, _ = run_leaf(script * 2, outputs=outputs)
    assert work.hashed - again <= again + 20 * len(script)


def test_hash_opcodes_when_repeated_then_one_element_each(work: Work) -> None:
    count = 2000
    script = assemble("DUP HASH256 DROP " * count + "DROP 1")
    work.hashed = 0
    fault, tx = run_leaf(script, bytes(ELEMENT_BYTES))
    assert fault == ""
    assert work.hashed <= count * (ELEMENT_BYTES + 64) + 16 * len(tx.raw)


def test_streaming_hash_when_repeated_then_ten_blocks_an_opcode_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocks: list[int] = []
    real = sha256_context.compress

    def compress(state: bytes, data: bytes) -> bytes:
        blocks.append(len(data) // 64)
        return real(state, data)

    monkeypatch.setattr(sha256_context, "compress", compress)
    count = 500
    updates = "OVER SHA256UPDATE " * count
    script = assemble(f"SHA256INITIALIZE {updates} OVER SHA256FINALIZE 2DROP 1")
    fault, _ = run_leaf(script, *[bytes(ELEMENT_BYTES)] * 2)
    assert fault == ""
    assert len(blocks) == count + 3
    assert max(blocks) <= 10


def test_branches_when_nested_very_deep_then_nothing_is_kept_of_them() -> None:
    depth = 20_000
    for script in (
        assemble("0 IF") + b"\x63" * depth + b"\x68" * (depth + 1) + b"\x51",
        b"\x51\x63" * depth + b"\x67" * depth + b"\x68" * depth + b"\x51",
    ):
        assert _memory_of(script) <= MEMORY_BASE + MEMORY_PER_BYTE * len(script)


@pytest.mark.parametrize(
    "program",
    [
        "DUP CAT " * 3 + "DUP " * 990 + "NIP " * 990 + "DROP 1",
        "0 " * 998 + "DROP " * 998 + "DROP 1",
        "SIZE DROP " * 5000 + "DROP 1",
        "DUP 3600 LSHIFT DROP " * 500 + "DROP 1",
        "DUP TOALTSTACK " * 990 + "DROP 1",
        "DUP SHA256INITIALIZE TOALTSTACK " * 400 + "DROP 1",
    ],
)
def test_memory_when_stack_grows_then_bounded_by_the_input(program: str) -> None:
    script = assemble(program)
    assert _memory_of(script, b"\x01" * 60) <= MEMORY_BASE + MEMORY_PER_BYTE * len(script)


def test_memory_when_legacy_codes_are_many_then_bounded_by_the_input() -> None:
    code = assemble("2DUP CODESEPARATOR CHECKSIG DROP " * 50 + "2DROP 1") + push(bytes(500)) * 18
    tx, spent = spending(code)
    signature = ecdsa_sign(SECRET, bytes(32)) + b"\x01"
    full = replace_inputs(tx, [replace(tx.inputs[0], script_sig=push(signature) + push(KEY))])
    peak = _peak(lambda: judge(full, spent))
    assert peak <= MEMORY_BASE + MEMORY_PER_BYTE * (len(full.raw) + len(code))


def _memory_of(script: bytes, *stack: bytes) -> int:
    key, control = leaf_spend(script)
    tx, spent = spending(p2tr(key))
    tx = with_witness(tx, *stack, script, control)
    cache = SighashCache(tx, spent, GENESIS_HASH)
    return _peak(lambda: run_input(tx, 0, spent[0], CONSENSUS_FLAGS, cache))


def _peak(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
