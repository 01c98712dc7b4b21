"""Every rule of the algorithm is named by a test, and by the code that obeys it."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]
CODE = TESTS.parent / "federation"

RULES = [
    *(f"C{number}" for number in (1, 2, *range(10, 15), *range(20, 44))),
    "C24a",
    *(f"C{number}" for number in (50, 51, 52, 53, 54, 56, 57, 58, 60)),
    *(f"C{number}" for number in (70, 71, 72, 73, 75, 76, 80, 81, 82, 90, 91, 92, 93, 94)),
]
CORE_FILES = (
    "state_machine.py",
    "height_state.py",
    "vote_keeper.py",
    "driver.py",
)


def names_of_tests() -> set[str]:
    """Names of all test functions of the federation and of the simulator."""
    sources = [*TESTS.glob("federation/**/*.py"), *TESTS.glob("sim/*.py")]
    return {
        name for path in sources for name in re.findall(r"def (test_\w+)", path.read_text("utf-8"))
    }


@pytest.mark.parametrize("rule", RULES)
def test_rule_has_a_test_that_names_it(rule: str) -> None:
    named = re.compile(rf"_{rule.lower()}{'[abc]?' if rule == 'C56' else ''}_")
    assert any(named.search(name) for name in names_of_tests())


@pytest.mark.parametrize("rule", RULES)
def test_rule_is_cited_in_the_code(rule: str) -> None:
    sources = "".join(path.read_text("utf-8") for path in sorted(CODE.rglob("*.py")))
    assert re.search(rf"\b{rule}\b", sources)


def test_core_is_about_a_thousand_lines_of_code() -> None:
    """Blank lines, docstrings, comments and imports apart."""
    lines = 0
    for name in CORE_FILES:
        text = (CODE / "consensus" / name).read_text("utf-8")
        code = re.sub(r'"""[\s\S]*?"""|^from \S+ import (\([^)]*\)|.*)$', "", text, flags=re.M)
        stripped = (line.strip() for line in code.splitlines())
        lines += sum(bool(line) and not line.startswith("#") for line in stripped)
    assert lines <= 1_050
