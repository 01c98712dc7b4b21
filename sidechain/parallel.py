"""Proofs and signatures of a block on all cores.

A proof is one call into the library, which lets other threads run meanwhile. Scripts are Python,
where threads gain nothing: they run in the thread that asks for the answer, while the proofs
behind them in the list are under way. Of plain spends only the signatures cost time, and those go
to another process (`signature_process`).
"""

import os
import secrets
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from sidechain.crypto.zkp import check_library
from sidechain.errors import InvalidTransaction
from sidechain.signature_process import ProcessVerifier, SignatureProcess
from sidechain.validation.checks import (
    SALT_BYTES,
    Check,
    CheckCache,
    Pending,
    ScriptsCheck,
    Verifier,
)
from sidechain.validation.validator import Validator


def threaded_validator(*, caches: bool, second_validation: bool) -> Validator:
    """The validator of a node: on all cores, and with a salt of its own if it remembers.

    Raises:
        ImportError: the library of proofs is not what it must be.
    """
    check_library()
    verifier: Verifier = ThreadedVerifier()
    if len(os.sched_getaffinity(0)) > 1:
        verifier = ProcessVerifier(verifier, SignatureProcess())
    return Validator(
        verifier=verifier,
        cache=CheckCache(secrets.token_bytes(SALT_BYTES)) if caches else None,
        second_validation=second_validation,
    )


class ThreadedVerifier:
    """Runs proofs on a few threads, which start when there is the first one.

    The threads end when nobody holds this object any more, or by `close`.

    Args:
        threads: by default one for each core this process may use.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._pool = ThreadPoolExecutor(
            threads or len(os.sched_getaffinity(0)), thread_name_prefix="proofs"
        )

    def start(self, checks: Sequence[Check]) -> Pending:
        """Hand the proofs to the threads."""
        return _Started(
            [
                check if isinstance(check, ScriptsCheck) else self._pool.submit(check.fault)
                for check in checks
            ]
        )

    def close(self) -> None:
        """End the threads; what is not running yet never will be. May be called twice."""
        self._pool.shutdown(cancel_futures=True)


class _Started:
    def __init__(self, steps: "list[Future[InvalidTransaction | None] | ScriptsCheck]") -> None:
        self._steps = steps

    def fault(self) -> InvalidTransaction | None:
        """The first fault in order; the steps behind it are given up."""
        for step in self._steps:
            fault = step.fault() if isinstance(step, ScriptsCheck) else step.result()
            if fault is not None:
                self.cancel()
                return fault
        return None

    def cancel(self) -> None:
        """Take back what no thread has begun."""
        for step in self._steps:
            if not isinstance(step, ScriptsCheck):
                step.cancel()
