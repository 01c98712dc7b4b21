"""A member that was away catches up over real links while the others go on (consensus:C54)."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e

HEIGHTS = 600
TIMEOUT_S = 240


def bench(*words: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "federation.cli", "bench", "catchup", "--json", *words],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_member_when_killed_in_the_middle_then_goes_on_and_signs_again() -> None:
    """Restart where it stopped: SIGKILL in the middle of the way."""
    found = bench("--heights", str(HEIGHTS), "--kill-at", "40")
    assert found["heights"] == HEIGHTS and found["killed_at_percent"] == 40
    at = found["first_height_seen"]
    assert isinstance(at, int) and at >= HEIGHTS * 40 // 100 - 64
    signed = found["first_signed_height"]
    assert isinstance(signed, int) and signed > HEIGHTS
    others = found["blocks_of_the_others_meanwhile"]
    assert isinstance(others, int) and others > 0
