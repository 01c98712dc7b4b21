"""`python -m tests.mutation [FILE…]`: tries every mutant of files in `sidechain/validation`.

Outcomes are kept in `build/mutation`, so that a run which was stopped goes on where it was. A
killed mutant stays killed until its module changes, a survivor until a test changes. The exit code
is 1 when a survivor has no written reason in `survivors.toml`, or one that has is killed.
"""

import argparse
import hashlib
import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.mutation.mutants import Mutant, mutants
from tests.mutation.plugin import KILLED, ROOT, SURVIVED, TIMEOUT, MutationPlugin, Outcome

VALIDATION = ROOT / "sidechain" / "validation"
SURVIVORS = Path(__file__).with_name("survivors.toml")
KEPT = ROOT / "build" / "mutation"
TESTS = tuple(
    f"tests/sidechain/test_{name}.py"
    for name in (
        "amounts",
        "tx_check",
        "tx_verify",
        "block_check",
        "connect",
        "connect_checks",
        "dynafed",
        "deployments",
        "pegins",
        "pegouts",
        "checks",
        "validator",
        "confidential",
        "signed_parent",
        "hidden_amounts",
        "second_validation",
        "tx_vectors",
        "block_vectors",
        "limits",
    )
)
"""What knows the rules; quick enough to be run for every mutant."""

Work = tuple[Path, str, Mutant]


def reasons() -> dict[str, str]:
    """Why a mutant may survive, by its name."""
    listed = tomllib.loads(SURVIVORS.read_text()).get("survivor", [])
    return {entry["mutant"]: entry["reason"] for entry in listed}


def all_mutants(files: Sequence[Path]) -> list[Work]:
    """Every mutant of some files."""
    found = []
    for path in files:
        source = path.read_text()
        found += [(path, source, mutant) for mutant in mutants(path.name, source)]
    return found


def sample(work: Sequence[Work], count: int, seed: int) -> list[Work]:
    """A choice by the seed, none of them a known survivor.

    Each mutant has a lot of its own, so that a change of one statement leaves the rest chosen.
    """
    known = reasons()

    def lot(item: Work) -> bytes:
        return hashlib.sha256(f"{seed} {item[2].name}".encode()).digest()

    return sorted((item for item in work if item[2].name not in known), key=lot)[:count]


class _Memory:
    """Outcomes of earlier runs, one file for each state of a module."""

    def __init__(self, *, forget: bool) -> None:
        KEPT.mkdir(parents=True, exist_ok=True)
        self._tests = _digest(*sorted((ROOT / "tests" / "sidechain").rglob("*.py")))
        self._forget = forget

    def _file(self, path: Path) -> Path:
        return KEPT / f"{path.stem}.{_digest(path)}.jsonl"

    def outcomes(self, path: Path) -> dict[str, str]:
        """Result by name."""
        if self._forget or not self._file(path).exists():
            return {}
        entries = [json.loads(line) for line in self._file(path).read_text().splitlines()]
        return {
            entry["mutant"]: entry["result"]
            for entry in entries
            if entry["result"] == KILLED or entry["tests"] == self._tests
        }

    def note(self, path: Path, outcome: Outcome) -> None:
        """Keep an outcome."""
        if self._forget:
            return
        entry = {
            "mutant": outcome.mutant.name,
            "result": outcome.result,
            "test": outcome.test,
            "tests": self._tests,
        }
        with self._file(path).open("a") as kept:
            kept.write(json.dumps(entry) + "\n")


def _digest(*paths: Path) -> str:
    state = hashlib.sha256()
    for path in paths:
        state.update(path.read_bytes())
    return state.hexdigest()[:16]


def run(
    work: Sequence[Work], *, forget: bool, trace: bool, quick: bool, verbose: bool
) -> dict[str, str]:
    """Try mutants; the result of each by its name."""
    memory = _Memory(forget=forget)
    results: dict[str, str] = {}
    for path in {path: None for path, _, _ in work}:
        results |= memory.outcomes(path)
    names = {mutant.name for _, _, mutant in work}
    results = {name: result for name, result in results.items() if name in names}
    left = [item for item in work if item[2].name not in results]
    place = {mutant.name: path for path, _, mutant in work}
    known = reasons()
    print(f"{len(work)} mutants, {len(results)} of them tried before", flush=True)

    def report(outcome: Outcome) -> None:
        name = outcome.mutant.name
        results[name] = outcome.result
        if outcome.result == KILLED or not quick:
            memory.note(place[name], outcome)
        if outcome.result != KILLED or verbose:
            excused = " (known)" if name in known else ""
            line = f"line {outcome.mutant.line} {name} {outcome.test}"
            print(f"{outcome.result}{excused}: {line}", flush=True)
        if len(results) % 25 == 0:
            print(f"… {len(results)} of {len(work)}", flush=True)

    if left:
        plugin = MutationPlugin(left, report, trace=trace, quick=quick)
        arguments = [
            "-qs",
            "--no-header",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:faulthandler",
            "-m",
            "not slow and not e2e",
        ]
        code = pytest.main([*arguments, *TESTS], plugins=[plugin])
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            raise SystemExit(f"the tests could not be run: {code!r}")
    return results


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="deploy/test --mutation", description=__doc__)
    parser.add_argument("files", nargs="*", help="names in sidechain/validation; else all")
    parser.add_argument("--sample", type=int, metavar="COUNT", help="only so many")
    parser.add_argument("--seed", type=int, default=1, help="which sample")
    parser.add_argument(
        "--quick", action="store_true", help="a first look: without the tests that take long"
    )
    parser.add_argument("--fresh", action="store_true", help="forget earlier outcomes")
    parser.add_argument("--verbose", action="store_true", help="say what killed each")
    parser.add_argument("--list", action="store_true", help="only name the mutants")
    chosen = parser.parse_args()
    paths = [VALIDATION / Path(name).name for name in chosen.files]
    work = all_mutants(paths or sorted(VALIDATION.glob("*.py")))
    if chosen.sample is not None:
        work = sample(work, chosen.sample, chosen.seed)
    if chosen.list:
        print("\n".join(mutant.name for _, _, mutant in work))
        return 0
    results = run(
        work,
        forget=chosen.fresh,
        trace=chosen.sample is None,
        quick=chosen.quick,
        verbose=chosen.verbose,
    )
    known = reasons()
    counts = {kind: list(results.values()).count(kind) for kind in (KILLED, SURVIVED, TIMEOUT)}
    unexcused = [name for name, result in results.items() if result == SURVIVED]
    unexcused = [name for name in unexcused if name not in known]
    print(", ".join(f"{count} {kind}" for kind, count in counts.items()))
    for name in sorted(unexcused):
        print(f"survivor without a reason: {name}")
    noticed = sorted(name for name in known if results.get(name) == KILLED)
    for name in noticed:
        print(f"listed as a survivor, but killed: {name}")
    return 1 if unexcused or noticed else 0


if __name__ == "__main__":
    sys.exit(main())
