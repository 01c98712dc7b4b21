"""The set-up scripts: run again they do nothing, and what they cannot do they say in one line."""

import os
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("deploy/setup", "deploy/test", "deploy/demo", ".ci/run")
AGAIN_SECONDS_MAX = 2


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the clone."""
    return subprocess.run(
        arguments,
        cwd=ROOT,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def ready() -> None:
    """The clone's environment was made by deploy/setup."""
    if not (ROOT / ".venv" / "fedpeg-setup.stamp").exists():
        pytest.skip("this environment was not made by deploy/setup")
    assert run("deploy/setup").returncode == 0


@pytest.mark.parametrize("script", [*SCRIPTS, "apt.sh", "python.sh", "bitcoind.sh"])
def test_script_when_read_by_sh_then_it_parses(script: str) -> None:
    path = script if script in SCRIPTS else f"deploy/parts/{script}"
    done = run("sh", "-n", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert path not in SCRIPTS or os.access(ROOT / path, os.X_OK)


@pytest.mark.usefixtures("ready")
def test_setup_when_run_again_then_silent_and_quick() -> None:
    begun = time.monotonic()
    done = run("deploy/setup")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - begun < AGAIN_SECONDS_MAX


@pytest.mark.usefixtures("ready")
def test_setup_when_named_bitcoind_is_none_then_refused_in_one_line() -> None:
    done = run("deploy/setup", BITCOIND="/bin/true")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "BITCOIND" in done.stderr
