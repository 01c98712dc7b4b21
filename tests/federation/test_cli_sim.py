"""The command `fedpeg sim`: what it runs, what it refuses, and that a run is the same again.

Source: consensus:10.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from federation.cli import main
from federation.sim.faults import Lie, Scenario, encode_scenario
from federation.sim.liar import KINDS

FORKED = Scenario(
    n=4,
    k=3,
    liars=(1, 2),
    chaos_ms=2_000,
    heights_after=0,
    faults=tuple(
        Lie(at_ms=0, until_ms=10_000, member=m, kind=kind) for m in (1, 2) for kind in KINDS
    ),
)
"""More liars than four members bear."""


def test_one_seed_says_that_every_rule_held(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "--seed", "3"]) == 0
    assert "seed 3: every rule held: n = 4, k = 3" in capsys.readouterr().out


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "--seed", "3", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["rule"] == ""
    assert facts["heights"] > 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "give one of"),
        (["--seed", "1", "--seeds", "1..2"], "give one of"),
        (["--seeds", "5..1"], "not a range of seeds"),
        (["--seeds", "0..3", "--trace"], "--trace shows one run"),
        (["--seed", "1", "--for", "5m"], "belong to --seeds"),
        (["--seeds", "0..3", "--for", "soon"], "not a time"),
        (["--seed", "1", "-k", "3"], "-k needs -n"),
        (["--seed", "1", "-n", "4", "-k", "5"], "between 1 and n"),
        (["--seed", "1", "-n", "4", "-k", "2"], "no majority"),
        (["--seed", "1", "-n", "4", "--family", "a"], "family a has 4 members"),
        (["--seed", "-1"], "not in the range"),
        (["--scenario", "nowhere.json"], "does not exist"),
    ],
)
def test_wrong_arguments_are_refused_with_a_reason(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sim", *arguments]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "not a scenario of format 1"),
        ("no", "not JSON"),
        ('{"format": 1, "seed": 1, "n": 4}', "lacks k"),
        ('{"format": 1, "seed": 1, "n": 4, "k": 5}', "k = 5 of 4"),
        ('{"format": 1, "seed": 1, "n": 4, "k": 3, "liars": [9]}', "no such members"),
        ('{"format": 1, "seed": 1, "n": 4, "k": 3, "faults": [{}]}', "unknown fault"),
    ],
)
def test_what_is_no_scenario_is_refused(
    text: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scenario.json"
    path.write_text(text)
    assert main(["sim", "--scenario", str(path)]) == 1
    assert reason in capsys.readouterr().err


def test_violation_is_shortened_shown_and_can_be_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, left = tmp_path / "given.json", tmp_path / "left.json"
    given.write_text(encode_scenario(FORKED, 13))
    assert main(["sim", "--scenario", str(given), "--save", str(left)]) == 1
    shown = capsys.readouterr()
    assert "breaks" in shown.err
    assert f"fedpeg sim --scenario {left}" in shown.out
    assert " -> m" in shown.out
    faults = json.loads(left.read_text())["faults"]
    assert 0 < len(faults) < len(FORKED.faults)
    assert main(["sim", "--scenario", str(left), "--no-shrink", "--save", str(left)]) == 1
    assert capsys.readouterr().err == shown.err


@pytest.mark.slow
def test_many_seeds_go_on_where_they_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state.json"
    arguments = ["sim", "--seeds", "0..11", "-j", "2", "--state", str(state)]
    assert main(arguments) == 0
    assert "12 seeds of 0..11, none breaks a rule" in capsys.readouterr().out
    assert json.loads(state.read_text())["next_seed"] == 12
    assert main(arguments) == 0
    assert "nothing was left to run" in capsys.readouterr().out
    assert main(["sim", "--seeds", "0..12", "--state", str(state)]) == 1
    assert "of other seeds" in capsys.readouterr().err


def test_trace_is_the_same_under_any_hash_seed() -> None:
    """Nothing iterates an unordered set (house rule 2)."""
    traces = []
    for hash_seed in ("0", "4711"):
        run = subprocess.run(
            [sys.executable, "-m", "federation.cli", "sim", "--seed", "13", "--trace"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            timeout=200,
        )
        traces.append(run.stdout)
    assert traces[0] == traces[1]
    assert len(traces[0].splitlines()) > 100


def test_peg_seed_says_that_every_rule_held(capsys: pytest.CaptureFixture[str]) -> None:
    """peg:14 by the same command."""
    assert main(["sim", "--peg", "--seed", "1"]) == 0
    assert "seed 1: every rule held: a life of the peg, setting usual" in capsys.readouterr().out


def test_peg_seed_that_breaks_a_rule_is_shortened_and_can_be_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted bug 12: a payout that includes the fee."""
    path = tmp_path / "life.json"
    with monkeypatch.context() as planted:
        planted.setattr("peg.limits.Burn.payout_sats", property(lambda burn: burn.amount_sats))
        assert main(["sim", "--peg", "--seed", "1", "--save", str(path)]) == 1
        told = capsys.readouterr().out
        assert "seed 1 breaks" in told
        assert "VIOLATION" in told
        assert main(["sim", "--scenario", str(path), "--no-shrink", "--save", str(path)]) == 1
    capsys.readouterr()
    assert main(["sim", "--scenario", str(path)]) == 0


def test_peg_goes_without_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "--peg", "--seed", "1", "-n", "4"]) == 2
    assert "--peg goes without -n" in capsys.readouterr().err


def test_peg_seeds_keep_their_own_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A state file of the agreement is none of the peg."""
    state = tmp_path / "state.json"
    assert main(["sim", "--peg", "--seeds", "0..3", "--state", str(state), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seeds"] == 4
    assert main(["sim", "--seeds", "0..3", "--state", str(state)]) == 1
    assert "is of other seeds or sizes" in capsys.readouterr().err
