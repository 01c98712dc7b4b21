"""Signatures checked by another process: the same verdicts, whatever becomes of it."""

import contextlib
import gc
import io
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidechain import signature_process, signature_worker
from sidechain.crypto.keys import ecdsa_sign, public_key, schnorr_sign, strict_low_s
from sidechain.errors import InvalidBlock
from sidechain.primitives.transaction import OutPoint, Transaction, TxIn
from sidechain.script.direct import SignatureCheck
from sidechain.script.flags import CONSENSUS_FLAGS, STANDARD_FLAGS
from sidechain.signature_process import BATCH, QUEUED_MAX, ProcessVerifier, SignatureProcess
from sidechain.validation.checks import (
    BlockChecks,
    Check,
    Pending,
    ScriptsCheck,
    SequentialVerifier,
)
from sidechain.validation.coins import Coin
from tests.factories import ALICE, BOB, federation_params, output

PARAMS = federation_params()
GENESIS_HASH = b"\x0c" * 32


def ecdsa(number: int, *, good: bool = True) -> SignatureCheck:
    secret, digest = number.to_bytes(32, "big"), number.to_bytes(32, "little")
    compact = strict_low_s(ecdsa_sign(secret, digest))
    assert compact is not None
    return SignatureCheck(public_key(secret), compact, digest if good else bytes(32))


def schnorr(number: int, *, good: bool = True) -> SignatureCheck:
    secret, digest = number.to_bytes(32, "big"), number.to_bytes(32, "little")
    key = public_key(secret)[1:]
    return SignatureCheck(key, schnorr_sign(secret, digest), digest if good else bytes(32))


def payment(number: int, *, good: bool = True, inputs: int = 1) -> ScriptsCheck:
    """Scripts of a payment; a wrong one has a signature over something else."""
    points = [OutPoint(number.to_bytes(32, "big"), index) for index in range(inputs)]
    coins = tuple(
        Coin.of(output(PARAMS, ALICE.script, 5_000), height=1, coinbase=False) for _ in points
    )
    tx = Transaction.build(
        inputs=[TxIn(point) for point in points], outputs=[output(PARAMS, BOB.script, 4_000)]
    )
    tx = ALICE.sign(tx, coins)
    if not good:
        tx = Transaction.build(
            version=7, inputs=tx.inputs, outputs=tx.outputs, input_witnesses=tx.input_witnesses
        )
    return ScriptsCheck(tx, coins, CONSENSUS_FLAGS, GENESIS_HASH)


def unplannable(number: int, *, good: bool = True) -> ScriptsCheck:
    """A spend that only the interpreter can judge."""
    coin = Coin.of(output(PARAMS, b"\x51" if good else b"\x00", 5_000), height=1, coinbase=False)
    tx = Transaction.build(
        inputs=[TxIn(OutPoint(number.to_bytes(32, "big"), 0))],
        outputs=[output(PARAMS, BOB.script, 4_000)],
    )
    return ScriptsCheck(tx, (coin,), CONSENSUS_FLAGS, GENESIS_HASH)


GOOD = [payment(number) for number in range(BATCH + 10)]


@pytest.fixture
def process() -> Iterator[SignatureProcess]:
    running = SignatureProcess()
    yield running
    running.close()


def faults(verifier: ProcessVerifier | SequentialVerifier, checks: Sequence[Check]) -> list[str]:
    """What each check says when all are started before the first is asked."""
    return [_text(pending) for pending in [verifier.start([check]) for check in checks]]


def _text(pending: Pending) -> str:
    fault = pending.fault()
    return "" if fault is None else str(fault)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from("gbuUmM"), min_size=BATCH - 3, max_size=2 * BATCH))
def test_verdicts_when_a_process_checks_then_those_of_checking_in_turn(kinds: list[str]) -> None:
    make = {
        "g": lambda n: payment(n),
        "b": lambda n: payment(n, good=False),
        "u": lambda n: unplannable(n),
        "U": lambda n: unplannable(n, good=False),
        "m": lambda n: payment(n, inputs=3),
        "M": lambda n: payment(n, good=False, inputs=3),
    }
    checks = [make[kind](number) for number, kind in enumerate(kinds)]
    running = SignatureProcess()
    try:
        found = faults(ProcessVerifier(SequentialVerifier(), running), checks)
    finally:
        running.close()
    assert found == faults(SequentialVerifier(), checks)


def test_verdict_when_several_checks_are_one_start_then_the_first_fault(
    process: SignatureProcess,
) -> None:
    verifier = ProcessVerifier(SequentialVerifier(), process)
    checks = [GOOD[0], unplannable(1), payment(2, good=False), unplannable(3, good=False)]
    assert _text(verifier.start(checks)) == _text(SequentialVerifier().start(checks)) != ""
    assert _text(verifier.start(checks[:2])) == ""
    assert _text(verifier.start([])) == ""
    verifier.start(checks).cancel()
    assert faults(verifier, GOOD[:5]) == [""] * 5


def test_block_when_one_transaction_fails_then_named_and_the_next_block_is_judged(
    process: SignatureProcess,
) -> None:
    verifier = ProcessVerifier(SequentialVerifier(), process)
    for wrong in (0, BATCH // 2, BATCH + 9):
        checks = BlockChecks(verifier)
        for position, check in enumerate(GOOD):
            bad = payment(position, good=False)
            checks.add(position, [bad if position == wrong else check])
        with pytest.raises(InvalidBlock, match=f"transaction {wrong}$"):
            checks.settle()
    checks = BlockChecks(verifier)
    for position, check in enumerate(GOOD):
        checks.add(position, [check])
    checks.settle()


def test_single_transaction_when_asked_at_once_then_no_process_is_started(
    process: SignatureProcess,
) -> None:
    verifier = ProcessVerifier(SequentialVerifier(), process)
    for check in GOOD[:5]:
        assert _text(verifier.start([check])) == ""
    assert process.pid is None


def test_short_cut_when_forbidden_then_not_taken(process: SignatureProcess) -> None:
    verifier = ProcessVerifier(SequentialVerifier(), process)
    cold = [
        ScriptsCheck(each.tx, each.spent, STANDARD_FLAGS, GENESIS_HASH, direct=False)
        for each in GOOD
    ]
    assert faults(verifier, cold) == [""] * len(cold)
    assert process.pid is None


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_process_when_killed_then_the_verdicts_stay_and_it_is_replaced(
    process: SignatureProcess, moment: str
) -> None:
    verifier = ProcessVerifier(SequentialVerifier(), process)
    checks = [*GOOD[:-1], payment(99, good=False)]
    expected = faults(SequentialVerifier(), checks)
    for _ in range(signature_process.STARTS_MAX + 1):
        if moment == "before" and process.start():
            _kill(process)
        started = [verifier.start([check]) for check in checks[:BATCH]]
        if moment == "between":
            _kill(process)
        started += [verifier.start([check]) for check in checks[BATCH:]]
        if moment == "after":
            _kill(process)
        assert [_text(pending) for pending in started] == expected
    assert process.queued == 0


def _kill(process: SignatureProcess) -> None:
    if process.pid is not None:
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def test_process_when_it_cannot_be_started_then_checked_here(
    process: SignatureProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert faults(ProcessVerifier(SequentialVerifier(), process), GOOD) == [""] * len(GOOD)
    assert process.pid is None


def test_process_when_it_is_behind_then_checked_here(process: SignatureProcess) -> None:
    verifier = ProcessVerifier(SequentialVerifier(), process)
    assert process.start()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    started = [verifier.start([check]) for check in GOOD * 6]
    assert process.queued <= QUEUED_MAX
    os.kill(process.pid, signal.SIGCONT)
    assert {_text(pending) for pending in started} == {""}


def test_process_when_it_does_not_answer_then_given_up(
    process: SignatureProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signature_process, "ANSWER_TIMEOUT_S", 0)
    assert process.start()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    verifier = ProcessVerifier(SequentialVerifier(), process)
    assert faults(verifier, GOOD) == [""] * len(GOOD)
    assert process.pid is None


def test_process_when_closed_then_ended_and_not_started_again(process: SignatureProcess) -> None:
    assert process.start()
    pid = process.pid
    process.close()
    process.close()
    assert pid is not None and not os.path.exists(f"/proc/{pid}")
    assert not process.start()
    assert process.submit([ecdsa(1)]) is None


def test_process_when_started_then_its_environment_does_not_name_the_node(
    process: SignatureProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_NAME", "m0")
    verifier = ProcessVerifier(SequentialVerifier(), process)
    assert faults(verifier, GOOD) == [""] * len(GOOD)
    with open(f"/proc/{process.pid}/environ", "rb") as file:
        assert b"NODE_NAME" not in file.read()


def test_process_when_nobody_holds_it_then_ended() -> None:
    process = SignatureProcess()
    assert process.start()
    pid = process.pid
    del process
    gc.collect()
    assert not os.path.exists(f"/proc/{pid}")


def test_process_when_its_node_is_killed_then_ends() -> None:
    code = (
        "import os, signal; from sidechain.signature_process import SignatureProcess\n"
        "process = SignatureProcess(); process.start(); print(process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False)
    pid = int(done.stdout)
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        assert select.select([handle], [], [], 30)[0]
        os.close(handle)


def test_worker_when_given_batches_then_a_byte_for_each_signature(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checks = [ecdsa(1), ecdsa(2, good=False), schnorr(3), schnorr(4, good=False)]
    wrong_key = SignatureCheck(b"\x02" + b"\xff" * 32, checks[0].signature, checks[0].digest)
    checks += [wrong_key, SignatureCheck(checks[0].key, bytes(64), checks[0].digest)]
    packed = signature_worker.pack(checks)
    expected = b"\1\0\1\0\0\0"
    assert [check.holds() for check in checks] == [bool(byte) for byte in expected]
    for source, written in (
        (packed * 2, expected * 2),
        (packed[:-1], b""),
        (packed + b"\1\0", expected),
        (b"", b""),
    ):
        sink = io.BytesIO()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(source)))
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(sink))
        before = signal.getsignal(signal.SIGINT)
        try:
            signature_worker.main()
        finally:
            signal.signal(signal.SIGINT, before)
        assert sink.getvalue() == written
