"""Proofs on several threads: the same verdicts, and nothing done for nothing."""

from collections.abc import Iterator
from dataclasses import replace
from threading import Event, current_thread

import pytest

from sidechain import parallel
from sidechain.errors import InvalidTransaction
from sidechain.parallel import ThreadedVerifier, threaded_validator
from sidechain.script.flags import CONSENSUS_FLAGS
from sidechain.validation.checks import ScriptsCheck, run_checks
from sidechain.validation.proofs import RangeProofCheck
from tests.hidden import Opening
from tests.sidechain.example_chain import coin, example_params, output, spend
from tests.sidechain.test_connect_checks import POINTS

PARAMS = example_params()


@pytest.fixture
def verifier() -> Iterator[ThreadedVerifier]:
    made = ThreadedVerifier(2)
    yield made
    made.close()


def _proof(valid: bool = True) -> RangeProofCheck:
    item = replace(Opening(asset_id=b"\1" * 32, amount=3, bits=4).hidden("x"))
    proof = item.range_proof()
    end = proof[-1] ^ (not valid)
    return RangeProofCheck(
        proof[:-1] + bytes([end]), item.value_field, item.asset_field, item.script
    )


def _scripts(script: bytes) -> ScriptsCheck:
    tx = spend(POINTS[0], outputs=[output(PARAMS, 100)])
    return ScriptsCheck(
        tx, (coin(PARAMS, 100, script=script),), CONSENSUS_FLAGS, PARAMS.genesis_hash
    )


def test_checks_when_threaded_then_the_first_fault_in_order_is_reported(
    verifier: ThreadedVerifier,
) -> None:
    good, bad = _proof(), _proof(valid=False)
    right, wrong = _scripts(b"\x51"), _scripts(b"\x00")
    run_checks(verifier, [good, right, good])
    assert verifier.start([]).fault() is None
    for checks, text in (
        ([good, bad, wrong], "range proof does not hold"),
        ([right, wrong, bad], "mandatory-script-verify-flag-failed"),
        ([good, good, wrong], "mandatory-script-verify-flag-failed"),
    ):
        with pytest.raises(InvalidTransaction, match=text):
            run_checks(verifier, checks)


class Held:
    """A check that ends when it is told to, and says in which thread it ran."""

    def __init__(self, fault: InvalidTransaction | None = None) -> None:
        self.begun, self.free = Event(), Event()
        self.answer = fault
        self.thread = ""

    def fault(self) -> InvalidTransaction | None:
        self.thread = current_thread().name
        self.begun.set()
        self.free.wait(60)
        return self.answer


def test_proofs_when_several_then_run_at_the_same_time(verifier: ThreadedVerifier) -> None:
    checks = [Held(), Held()]
    pending = verifier.start(checks)  # type: ignore[arg-type]
    for check in checks:
        assert check.begun.wait(60)
    for check in checks:
        check.free.set()
    assert pending.fault() is None
    assert len({check.thread for check in checks}) == 2


def test_proofs_when_given_up_then_those_waiting_are_never_run(
    verifier: ThreadedVerifier,
) -> None:
    running, waiting = [Held(), Held()], [Held() for _ in range(5)]
    first = verifier.start(running)  # type: ignore[arg-type]
    second = verifier.start(waiting)  # type: ignore[arg-type]
    for check in running:
        assert check.begun.wait(60)
    second.cancel()
    for check in running:
        check.free.set()
    assert first.fault() is None
    run_checks(verifier, [_proof()])
    assert not any(check.begun.is_set() for check in waiting)


def test_verifier_when_closed_then_may_be_closed_again() -> None:
    verifier = ThreadedVerifier()
    run_checks(verifier, [_proof()])
    verifier.close()
    verifier.close()


def test_node_when_its_library_of_proofs_lacks_a_function_then_it_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> None:
        raise ImportError("wallycore's library has no secp256k1_x: another version is installed")

    monkeypatch.setattr(parallel, "check_library", refuse)
    with pytest.raises(ImportError, match="no secp256k1_x"):
        threaded_validator(caches=True, second_validation=False)
    monkeypatch.undo()
    made = [threaded_validator(caches=caches, second_validation=True) for caches in (True, False)]
    assert [each.cache is not None for each in made] == [True, False]
    assert all(each.second_validation for each in made)
