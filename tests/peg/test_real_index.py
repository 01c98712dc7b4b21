"""Every scenario on a real Bitcoin node is found by its name in docs/bitcoin.md."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = (ROOT / "docs" / "bitcoin.md").read_text("utf-8")


def test_every_test_in_the_table_exists_and_every_test_is_in_it() -> None:
    sources = "".join(
        path.read_text("utf-8")
        for name in ("reorgs", "policy", "batches", "faults")
        for path in (ROOT / "tests" / "peg").glob(f"test_real_{name}.py")
    )
    defined = set(re.findall(r"def (test_\w+)", sources))
    assert defined == set(re.findall(r"`(test_\w+)`", TABLE))
