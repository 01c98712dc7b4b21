"""The test in docs/faults.md is a test: it runs here as its reader would run it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.processes import processes_under

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 200
INI = "[pytest]\nasyncio_default_fixture_loop_scope = function\n"


def test_example_when_run_by_pytest_then_it_passes_and_leaves_nothing(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "faults.md").read_text(), re.S)
    path = tmp_path / "test_example.py"
    path.write_text(code)
    (tmp_path / "pytest.ini").write_text(INI)
    place = tmp_path / "data"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--basetemp", str(place)]
        + ["-p", "no:cacheprovider", str(path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert not processes_under(place.resolve())
