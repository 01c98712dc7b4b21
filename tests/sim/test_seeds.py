"""Random runs of the simulator: the invariants hold, and a run is the same again.

Source: consensus:10, consensus:10.2, consensus:10.3.
"""

import os
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from federation.sim.checker import Violation
from federation.sim.cluster import run_seed
from federation.sim.drawing import scenario_of
from federation.sim.faults import (
    Crash,
    DiskFault,
    Lie,
    Mining,
    Reorganisation,
    Scenario,
    Wipe,
)
from federation.sim.liar import KINDS
from federation.sim.world import Epoch

ROOT = Path(__file__).resolve().parents[2]
SEEDS = int(os.environ.get("FEDPEG_SIM_SEEDS", "50"))
CHUNK = 25
CHUNKS = [
    pytest.param(first, marks=[pytest.mark.slow] if first else [])
    for first in range(0, SEEDS, CHUNK)
]


@pytest.mark.parametrize("first", CHUNKS)
def test_seeds_hold_all_invariants(first: int) -> None:
    """I1 to I10, I12, I13 in the chaos, L1 after it."""
    for seed in range(first, min(first + CHUNK, SEEDS)):
        try:
            run_seed(seed, scenario_of(seed))
        except Violation as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def finished(scenario: Scenario, seed: int = 1) -> list[int]:
    """Heights of all members when every invariant held to the end."""
    simulation = run_seed(seed, scenario)
    return [node.height for node in simulation.nodes.values()]


def test_real_signatures_lead_to_the_same_heights() -> None:
    """The fast keys have the interface of the real ones."""
    scenario = Scenario(n=4, k=3, chaos_ms=400)
    assert finished(replace(scenario, real_signatures=True)) == finished(scenario)


def test_full_disk_torn_write_and_wipe_are_survived() -> None:
    """C40, J5, C72: the same members finish more heights after it."""
    faults = (
        Crash(at_ms=300, member=0, points=1, part=40, power=True),
        DiskFault(at_ms=400, until_ms=500, member=1, kind="full"),
        Wipe(at_ms=600, member=2, chain_too=True),
    )
    heights = finished(Scenario(n=4, k=3, chaos_ms=900, work_permille=1_000, faults=faults))
    assert min(heights) > 4


@pytest.mark.slow
def test_member_set_changes_at_a_height() -> None:
    """C81: the new set, one member larger, does everything from the border on."""
    scenario = Scenario(n=4, k=3, borders=(Epoch(5, (0, 1, 4, 3, 5), 4),), work_permille=1_000)
    assert min(finished(scenario)) > 9


def test_bitcoin_reorganises_below_the_commitment() -> None:
    """N9, N33: blocks go on through a deep reorganisation, and `mine 10`."""
    faults = (Reorganisation(at_ms=500, depth=12), Mining(at_ms=900, count=10))
    scenario = Scenario(n=4, k=3, peg=True, work_permille=1_000, faults=faults)
    assert min(finished(scenario)) > 9


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


@pytest.mark.slow
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
