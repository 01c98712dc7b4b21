"""Signatures of a block on another core.

Checking a signature takes longer than everything else a payment needs, and threads gain nothing
for calls this short. So plain spends are planned here, and their signatures go in batches to a
process of their own while the block is read on. That process runs the same code; what it does not
confirm, or cannot, is judged here, in order, so that a verdict and its reason are the same with
and without it.

Source: design 5.
"""

import contextlib
import fcntl
import os
import select
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from sidechain.errors import InvalidTransaction
from sidechain.script.direct import SignatureCheck, plan_direct
from sidechain.script.sighash import SighashCache
from sidechain.signature_worker import pack
from sidechain.validation.checks import Check, Pending, ScriptsCheck, Verifier

BATCH = 64
"""Signatures sent together: about 3 ms of work."""
QUEUED_MAX = 4 * BATCH
"""Signatures that may wait for the process; what is more is checked here meanwhile."""
PIPE_BYTES = 1 << 20
ANSWER_TIMEOUT_S = 30
STARTS_MAX = 3
"""How often a process that died is replaced."""

_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "LANG", "LC_ALL", "TMPDIR")
_ROOT = Path(__file__).resolve().parent.parent


class Batch:
    """Signatures that went to the process together, and later its answers, a byte each."""

    __slots__ = ("answers", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.answers: bytes | None = None


class SignatureProcess:
    """Owner of the process. Everything else sees batches that are answered, or never will be.

    The process is started when it is first needed, and ends by `close` or when nobody holds this
    object any more. Not for use by several threads.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._closed = False
        self._waiting: deque[Batch] = deque()
        self._answers = b""
        self._end: weakref.finalize[[subprocess.Popen[bytes]], SignatureProcess] | None = None
        self.queued = 0

    @property
    def pid(self) -> int | None:
        """Of the process, None while there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> bool:
        """Start the process, if there is none; whether there is one now."""
        if self._process is not None:
            return True
        if self._closed or self._starts >= STARTS_MAX:
            return False
        self._starts += 1
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sidechain.signature_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=_environment(),
            )
        except OSError:
            return False
        self._end = weakref.finalize(self, _end, self._process)
        if self._process.stdin is not None:
            # Room for all that may wait, so that writing never does.
            with contextlib.suppress(OSError, AttributeError):
                fcntl.fcntl(self._process.stdin.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return True

    def submit(self, checks: Sequence[SignatureCheck]) -> Batch | None:
        """Send signatures; None when there is no process to send them to."""
        if not self.start() or self._process is None or self._process.stdin is None:
            return None
        try:
            data = memoryview(pack(checks))
            while data:
                data = data[self._process.stdin.write(data) or 0 :]
        except OSError:
            self._give_up()
            return None
        batch = Batch(len(checks))
        self._waiting.append(batch)
        self.queued += batch.size
        return batch

    def collect(self, wanted: Batch | None = None) -> None:
        """Take in what is answered; with a batch, wait until that one is, or never will be."""
        while self._process is not None and self._process.stdout is not None and self._waiting:
            output = self._process.stdout
            missing = wanted is not None and wanted.answers is None
            timeout_s = ANSWER_TIMEOUT_S if missing else 0
            if not select.select([output], [], [], timeout_s)[0]:
                if missing:
                    self._give_up()
                return
            piece = output.read(65_536)
            if not piece:
                self._give_up()
                return
            self._answers += piece
            while self._waiting and len(self._answers) >= self._waiting[0].size:
                batch = self._waiting.popleft()
                batch.answers = self._answers[: batch.size]
                self._answers = self._answers[batch.size :]
                self.queued -= batch.size

    def close(self) -> None:
        """End the process. May be called twice."""
        self._closed = True
        self._give_up()

    def _give_up(self) -> None:
        self._process = None
        self._waiting.clear()
        self._answers = b""
        self.queued = 0
        if self._end is not None:
            self._end()
            self._end = None


def _environment() -> dict[str, str]:
    """What the process needs to find its code and libraries.

    Nothing else of the node's: whoever looks for the node by its environment must not find two.
    """
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    return {**kept, "PYTHONPATH": path}


def _end(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.kill()
    process.wait()


class ProcessVerifier:
    """Lets a process check the signatures of plain spends, and another verifier all the rest.

    Signatures that are asked for before a batch of them has come together are checked here: a
    single transaction never waits for the process.
    """

    def __init__(self, inner: Verifier, process: SignatureProcess) -> None:
        self._inner = inner
        self._process = process
        self._gathered: list[_Spends] = []
        self._size = 0

    def start(self, checks: Sequence[Check]) -> Pending:
        """Plan what is plain; begin the rest."""
        if not any(isinstance(check, ScriptsCheck) for check in checks):
            return self._inner.start(checks)
        started = [self._start(check) for check in checks]
        return started[0] if len(started) == 1 else _Several(started)

    def _start(self, check: Check) -> Pending:
        if isinstance(check, ScriptsCheck) and check.direct:
            planned = plan(check)
            if planned is not None:
                spends = _Spends(self, check, planned)
                self._gathered.append(spends)
                self._size += len(planned)
                if self._size >= BATCH:
                    self._send()
                return spends
        return self._inner.start([check])

    def _send(self) -> None:
        """Hand what has come together to the process, or check it here while it is behind."""
        gathered, self._gathered, self._size = self._gathered, [], 0
        gathered = [spends for spends in gathered if spends.open]
        signatures = [each for spends in gathered for each in spends.signatures]
        self._process.collect()
        batch = None
        if self._process.queued + len(signatures) <= QUEUED_MAX:
            batch = self._process.submit(signatures)
        at = 0
        for spends in gathered:
            if batch is None:
                spends.check_here()
            else:
                spends.sent(batch, at)
                at += len(spends.signatures)

    def check_gathered(self) -> None:
        """Check here what has not been sent."""
        gathered, self._gathered, self._size = self._gathered, [], 0
        for spends in gathered:
            if spends.open:
                spends.check_here()

    def collect(self, batch: Batch) -> None:
        """Wait for a batch."""
        self._process.collect(batch)


def plan(check: ScriptsCheck) -> list[SignatureCheck] | None:
    """The signatures on which a transaction of plain spends hangs, None for any other.

    If all hold, the check does; if not, that decides nothing.
    """
    cache = SighashCache(check.tx, check.spent, check.genesis_hash)
    planned = []
    for index, coin in enumerate(check.spent):
        signature = plan_direct(cache, index, coin, check.flags)
        if signature is None:
            return None
        planned.append(signature)
    return planned


class _Spends:
    """The plain spends of one transaction, wherever their signatures are."""

    __slots__ = ("_at", "_batch", "_check", "_verifier", "good", "open", "signatures")

    def __init__(
        self, verifier: ProcessVerifier, check: ScriptsCheck, signatures: list[SignatureCheck]
    ) -> None:
        self._verifier = verifier
        self._check = check
        self.signatures = signatures
        self._batch: Batch | None = None
        self._at = 0
        self.open = True
        self.good = False

    def check_here(self) -> None:
        """Check the signatures in this process."""
        self.good = all(each.holds() for each in self.signatures)
        self.open = False
        self.signatures = []

    def sent(self, batch: Batch, at: int) -> None:
        """Note where the answers will be."""
        self._batch = batch
        self._at = at

    def fault(self) -> InvalidTransaction | None:
        """What is wrong, said by the check itself; None when the signatures hold."""
        if self.open:
            self._settle()
        return None if self.good else self._check.fault()

    def cancel(self) -> None:
        """Do not check any more."""
        self.open = False
        self.signatures = []

    def _settle(self) -> None:
        batch = self._batch
        if batch is None or batch.answers is None:
            # Work that is left here is done before waiting.
            self._verifier.check_gathered()
        if batch is None:
            return
        if batch.answers is None:
            self._verifier.collect(batch)
        size = len(self.signatures)
        answers = b"" if batch.answers is None else batch.answers[self._at : self._at + size]
        self.good = answers == b"\1" * size
        self.open = False
        self.signatures = []


class _Several:
    def __init__(self, started: Sequence[Pending]) -> None:
        self._started = started

    def fault(self) -> InvalidTransaction | None:
        for position, pending in enumerate(self._started):
            fault = pending.fault()
            if fault is not None:
                for rest in self._started[position + 1 :]:
                    rest.cancel()
                return fault
        return None

    def cancel(self) -> None:
        for pending in self._started:
            pending.cancel()
