"""The pytest plugin of mutation testing: tests are collected once, and every mutant gets a copy of
the process (`fork`) in which it is implanted and the tests that reach it run, up to the first that
fails.

Which tests reach which lines is found by running all of them once under a trace.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.mutation.implant import implant
from tests.mutation.mutants import Mutant
from tests.vectors import chain_json, chain_vectors, recorded_blocks

ROOT = Path(__file__).resolve().parents[2]
KILLED, SURVIVED, TIMEOUT = "killed", "survived", "timeout"
SECONDS_AT_LEAST = 20
TIMES_AS_LONG = 15
QUICK_MS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a mutant; `test` is the one that noticed it."""

    mutant: Mutant
    result: str
    test: str


@dataclass(slots=True, kw_only=True)
class Reach:
    """What one test of the traced run reached.

    Attributes:
        lines: per file of the package under mutation.
    """

    lines: dict[str, set[int]] = field(default_factory=dict)
    duration_ms: int = 0


class MutationPlugin:
    """Takes the place of pytest's loop over the tests.

    Args:
        work: mutants to try, with the source of their module.
        report: called with every outcome.
        trace: whether to find out which tests reach a mutant; otherwise all run, those of the
            module's own test file first.
        quick: leave out the tests that took long in the traced run.
    """

    def __init__(
        self,
        work: Sequence[tuple[Path, str, Mutant]],
        report: Callable[[Outcome], None],
        *,
        trace: bool,
        quick: bool,
    ) -> None:
        self._work = work
        self._report = report
        self._trace = trace
        self._longest_ms = QUICK_MS if quick else 1 << 40
        self._tests: dict[str, Reach] = {}
        self.first_failure = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember the first test that failed, in the copy of the process."""
        if report.failed and not self.first_failure:
            self.first_failure = report.nodeid

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Try the mutants instead of running the tests."""
        # Imported late: pytest's own plugin of hypothesis wants to be first.
        from hypothesis import Phase, settings

        settings.register_profile(
            "mutation",
            database=None,
            derandomize=True,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
        )
        settings.load_profile("mutation")
        _warm()
        if self._trace:
            self._tests = self._traced(session)
        # What is here already is left alone by the collector of every copy, so it stays shared.
        gc.collect()
        gc.freeze()
        for path, source, mutant in self._work:
            items = self._chosen(session, path, mutant)
            result, test = self._try(session, path, source, mutant, items)
            self._report(Outcome(mutant=mutant, result=result, test=test))
        return True

    def _chosen(self, session: pytest.Session, path: Path, mutant: Mutant) -> list[pytest.Item]:
        """The tests that reach a mutant, quick ones first."""
        own = f"test_{path.stem}.py"
        if not self._trace:
            return sorted(session.items, key=lambda item: item.path.name != own)
        name = str(path.relative_to(ROOT))
        reached = [item for item in session.items if self._reaches(item, name, mutant)]
        reached = [item for item in reached if self._duration_ms(item) <= self._longest_ms]
        return sorted(reached, key=self._duration_ms)

    def _duration_ms(self, item: pytest.Item) -> int:
        return self._tests[item.nodeid].duration_ms

    def _reaches(self, item: pytest.Item, name: str, mutant: Mutant) -> bool:
        lines = self._tests[item.nodeid].lines.get(name, set())
        if not mutant.in_code:
            return bool(lines)
        first, last = mutant.lines
        return any(line in lines for line in range(first, last + 1))

    def _try(
        self,
        session: pytest.Session,
        path: Path,
        source: str,
        mutant: Mutant,
        items: Sequence[pytest.Item],
    ) -> tuple[str, str]:
        known_ms = sum(self._tests[i.nodeid].duration_ms for i in items) if self._trace else 0
        limit_s = max(SECONDS_AT_LEAST, TIMES_AS_LONG * known_ms // 1000, 0 if known_ms else 120)
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))

        def body() -> str:
            implant(module, source, mutant)
            return self._run(session, items)

        answer = _in_copy(body, limit_s)
        if answer is None:
            return TIMEOUT, ""
        return (KILLED, answer) if answer else (SURVIVED, "")

    def _run(self, session: pytest.Session, items: Sequence[pytest.Item]) -> str:
        """Run tests up to the first that fails, which is named."""
        hook = session.config.hook
        for item, following in zip(items, [*items[1:], None], strict=True):
            hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.first_failure:
                break
        return self.first_failure

    def _traced(self, session: pytest.Session) -> dict[str, Reach]:
        """Run everything once, in a copy."""

        def body() -> str:
            found = {}
            for item, following in zip(session.items, [*session.items[1:], None], strict=True):
                reach = _reach(
                    lambda item=item, following=following: (
                        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                    )
                )
                lines = {name: sorted(found) for name, found in reach.lines.items()}
                found[item.nodeid] = {"lines": lines, "duration_ms": reach.duration_ms}
            return json.dumps({"failed": self.first_failure, "tests": found})

        answer = _in_copy(body, 1_800)
        if answer is None:
            raise pytest.UsageError("the traced run of the tests did not end")
        said = json.loads(answer)
        if said["failed"]:
            raise pytest.UsageError(f"a test fails without any mutant: {said['failed']}")
        return {
            name: Reach(
                lines={file: set(lines) for file, lines in test["lines"].items()},
                duration_ms=test["duration_ms"],
            )
            for name, test in said["tests"].items()
        }


def _warm() -> None:
    """Read what is recorded once, for all copies; nothing of it asks the code under mutation."""
    if chain_vectors().exists():
        for file in chain_vectors().glob("*.json"):
            chain_json(file.name)
        recorded_blocks()


def _reach(run: Callable[[], object]) -> Reach:
    """What a call reaches in the files of the package under mutation."""
    reach = Reach()
    places: dict[str, set[int] | None] = {}
    folder = str(ROOT / "sidechain" / "validation")

    def local(frame: FrameType, event: str, _: Any) -> Any:
        lines = places[frame.f_code.co_filename]
        if lines is not None:
            lines.add(frame.f_lineno)
        return local

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        if file not in places:
            inside = file.startswith(folder)
            name = str(Path(file).relative_to(ROOT)) if inside else ""
            places[file] = reach.lines.setdefault(name, set()) if inside else None
        if places[file] is None:
            return None
        return local(frame, event, argument)

    started = time.monotonic_ns()
    threading.settrace(enter)
    sys.settrace(enter)
    try:
        run()
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
    reach.duration_ms = (time.monotonic_ns() - started) // 1_000_000
    return reach


def _in_copy(body: Callable[[], str], limit_s: int) -> str | None:
    """What a function returns in a copy of this process; None when it takes too long."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setsid()
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        try:
            answer = body()
        except BaseException as fault:  # whatever stops the run is a notice of the mutant
            answer = f"{type(fault).__name__}: {fault}"
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(b"!" + answer.encode(errors="replace"))
        os._exit(0)
    os.close(writing)
    said = b""
    until = time.monotonic() + limit_s
    while True:
        left = until - time.monotonic()
        ready, _, _ = select.select([reading], [], [], max(left, 0))
        piece = os.read(reading, 1 << 16) if ready else b""
        if not piece:
            break
        said += piece
    os.close(reading)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if not said:
        # Died without a word: a crash is a notice, running on for too long is not.
        return None if time.monotonic() >= until else "the process died"
    return said[1:].decode()
