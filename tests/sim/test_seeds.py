"""Random runs of the simulator: the invariants hold, and planted bugs are found.

Source: consensus:10, consensus:10.2, consensus:10.3.
"""

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from federation.consensus.records import InvalidJournal
from federation.sim.checker import Violation
from federation.sim.cluster import run_seed
from federation.sim.drawing import scenario_of
from federation.sim.faults import Lie, Scenario
from federation.sim.liar import KINDS
from tests.sim.variants import VARIANTS

ROOT = Path(__file__).resolve().parents[2]
SEEDS = int(os.environ.get("FEDPEG_SIM_SEEDS", "50"))
CHUNK = 25

# Seeds within which each planted bug has to show; more than three times the first seed measured.
BOUNDS = {
    "B1": 5,
    "B2": 20,
    "B4": 5,
    "B6": 30,
    "B12": 30,
    "B13": 10,
    "B14": 5,
    "B15": 150,
}
SLOW = {"B15"}


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_seeds_hold_all_invariants(first: int) -> None:
    """I1 to I10, I12, I13 in the chaos, L1 after it."""
    for seed in range(first, min(first + CHUNK, SEEDS)):
        try:
            run_seed(seed, scenario_of(seed))
        except Violation as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.parametrize(
    "bug", [pytest.param(bug, marks=[pytest.mark.slow] * (bug in SLOW)) for bug in BOUNDS]
)
def test_planted_bug_is_caught_within_its_bound(bug: str) -> None:
    """Each variant breaks an invariant in one of its first seeds."""
    for seed in range(BOUNDS[bug]):
        try:
            run_seed(seed, scenario_of(seed), driver_class=VARIANTS[bug])
        except (Violation, InvalidJournal):
            return
    pytest.fail(f"{bug} was not seen in {BOUNDS[bug]} seeds")


def test_two_liars_of_four_do_fork() -> None:
    """The bound is tight (f_s = 1), and the simulator can see a fork when there is one."""
    unchecked = frozenset({"I2", "I10", "I13", "L1"})
    lies = tuple(
        Lie(at_ms=0, until_ms=10_000, member=member, kind=kind)
        for member in (1, 2)
        for kind in KINDS
    )
    scenario = Scenario(
        n=4, k=3, liars=(1, 2), chaos_ms=3_000, delay_max_ms=15, heights_after=0, faults=lies
    )
    with pytest.raises(Violation, match="I1"):
        for seed in range(20):
            run_seed(seed, scenario, ignored=unchecked)


def trace_of(seed: int) -> str:
    """A digest of everything that happened in a run."""
    simulation = run_seed(seed, scenario_of(seed), keep_trace=True)
    lines = simulation.trace.lines if simulation.trace is not None else []
    return sha256("\n".join(lines).encode()).hexdigest()


def test_seed_gives_the_same_trace_under_any_hash_seed() -> None:
    """No rule iterates an unordered set (house rule 2)."""
    script = "from tests.sim.test_seeds import trace_of; print([trace_of(s) for s in (0, 3, 4, 8)])"
    outputs = []
    for hash_seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        run = subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        outputs.append(run.stdout)
    assert outputs[0] == outputs[1] == outputs[2]
    assert outputs[0].strip() == str([trace_of(s) for s in (0, 3, 4, 8)])
