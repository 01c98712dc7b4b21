"""Every named scenario is found by its name: the table in docs/scenarios.md is true."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
TABLE = (ROOT / "docs" / "scenarios.md").read_text("utf-8")


def test_every_test_in_the_table_exists() -> None:
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    existing = set(re.findall(r"def (test_\w+)", sources))
    named = set(re.findall(r"`(test_\w+)`", TABLE))
    assert len(named) > 70
    assert named <= existing


def test_every_number_of_the_specification_has_a_line() -> None:
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", TABLE, flags=re.M)]
    assert numbers == list(range(1, 23))


def test_every_scenario_in_the_folder_is_in_the_table() -> None:
    folder = Path(__file__).parent
    sources = "".join(
        path.read_text("utf-8")
        for path in folder.glob("test_*.py")
        if path.stem not in ("test_index", "test_directed_bugs")
    )
    defined = set(re.findall(r"def (test_\w+)", sources))
    extra = {"test_members_who_missed_the_decision_follow_it_to_the_same_block"}
    assert defined - extra <= set(re.findall(r"`(test_\w+)`", TABLE))
