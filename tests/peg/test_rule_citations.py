"""Every rule of the peg is cited by the code that obeys it, and by a test.

The list is kept here, so that the test needs no other document. `P11-P14` cites four rules. What a
file says of itself at its head counts for nothing: it names a chapter, and obeys or tests no rule.
"""

import ast
import functools
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
CODE = (ROOT / "peg", ROOT / "federation", ROOT / "sidechain")
OWN = Path(__file__)

RULES = [
    *(f"P{number}" for number in (*range(1, 6), *range(11, 41))),
    *(f"R{number}" for number in range(9)),
    *(f"V{number}" for number in range(1, 9)),
    *(f"X{number}" for number in range(1, 8)),
    *(f"C{number}" for number in range(1, 11)),
    *(f"S{number}" for number in range(1, 14)),
    *(f"E{number}" for number in range(1, 8)),
]
SIDECHAIN_OWN = {
    "E6": "peg-out authorisation is verified by sidechain.validation; enforce_pak is 0 (N4)",
}
SHARED_LETTERS = frozenset("CRV")
"""Letters that the agreement's rules have too: only the peg's own files count for these."""


@functools.cache
def cited(of_tests: bool) -> frozenset[str]:
    """Rule ids in all files of the code, or of tests; ranges spelt out."""
    found: set[str] = set()
    for folder in (TESTS,) if of_tests else CODE:
        for path in sorted(folder.rglob("test_*.py" if of_tests else "*.py")):
            if path == OWN:
                continue
            is_pegs = "peg" in path.relative_to(ROOT).as_posix()
            for rule in spelt_out(without_head(path)):
                if is_pegs or rule[0] not in SHARED_LETTERS:
                    found.add(rule)
    return frozenset(found)


def without_head(path: Path) -> str:
    """A source file after its module docstring."""
    text = path.read_text("utf-8")
    body = ast.parse(text).body
    has_head = bool(body) and isinstance(body[0], ast.Expr)
    lines = text.splitlines()[body[0].end_lineno :] if has_head else text.splitlines()
    return "\n".join(lines)


def spelt_out(text: str) -> set[str]:
    """Rule ids in a text; `P11-P14` and `P11 to P14` are four of them."""
    plain = text.replace("_", " ")
    found = set(re.findall(r"\b[PRVXCSE]\d{1,2}\b", plain))
    for letter, first, last in re.findall(r"\b([PRVXCSE])(\d{1,2})(?:-| to )\1(\d{1,2})\b", plain):
        found |= {f"{letter}{number}" for number in range(int(first), int(last) + 1)}
    return found


@pytest.mark.parametrize("rule", RULES)
def test_rule_is_cited_by_the_code(rule: str) -> None:
    assert rule in cited(False) or rule in SIDECHAIN_OWN, f"no code cites {rule}"


@pytest.mark.parametrize("rule", RULES)
def test_rule_is_cited_by_a_test(rule: str) -> None:
    """Upper case in docstrings, comments and names of parameters; lower case in test names."""
    named = {word.upper() for word in words_of_names()}
    assert rule in cited(True) | named or rule in SIDECHAIN_OWN, f"no test says {rule}"


@functools.cache
def words_of_names() -> frozenset[str]:
    found: set[str] = set()
    for path in sorted(TESTS.rglob("test_*.py")):
        for name in re.findall(r"def (test_\w+)", path.read_text("utf-8")):
            found.update(name.split("_"))
    return frozenset(found)
