"""Every rule of the agreement is cited by the code that obeys it, and named by a test.

The list is kept here, so that the test needs no other document. Rules without code of their own
are named with what makes them true. The peg's rules C, R and V have the same ids as some of these:
its tests are left out, and elsewhere they are written `peg:C2`, which counts for nothing here.
"""

import ast
import functools
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]
CODE = TESTS.parent / "federation"

RULES = [
    *(f"C{number}" for number in (1, 2, *range(10, 15), *range(20, 44))),
    "C24a",
    *(f"C{number}" for number in (50, 51, 52, 53, 54, 56, 57, 58, 60)),
    *(f"C{number}" for number in (70, 71, 72, 73, 75, 76, *range(80, 88), *range(90, 100))),
]
FORMATS = [
    *(f"J{number}" for number in range(1, 9)),
    *(f"R{number}" for number in range(1, 9)),
    *(f"V{number}" for number in (1, 2, 3, 4, 5, 6, 8, 9, 10, 11)),
]
"""Rules of validity, journal and signer: cited in the code; their tests are named otherwise."""
JOINTS = [
    *(f"N{number}" for number in range(1, 36)),
]
"""Rules of how the parts combine, which any of the three packages may obey."""
CITED_ELSEWHERE = {
    "N12": "follows from N7: a record in a final block was prevoted by k members",
    "N28": "a permission that is not used: every block is synced",
    "N31": "the peg's half of the signer as a process",
    "N27": "snapshots of a local federation; cited by the command that loads one",
    "N29": "the number of lanes; a remark on the peg's document",
    "N30": "what the peg's document means by wiped members",
    "N32": "the fault command, a test tool",
    "N33": "a scenario, tested under this name",
}
CORE_FILES = (
    "state_machine.py",
    "height_state.py",
    "vote_keeper.py",
    "block_store.py",
    "pen.py",
    "roll_call.py",
    "driver.py",
)
"""What decides; messages, records, evidence and status exchange are data and courtesy."""


PEGS_RULES = re.compile(r"\bpeg:[A-Z]\d+(?:(?:-| to )(?:peg:)?[A-Z]?\d+)?")


def of_the_agreement(text: str) -> str:
    """A text without the peg's rules in it."""
    return PEGS_RULES.sub("", text)


@functools.cache
def named_by_tests() -> frozenset[str]:
    """Rule ids in the names and docstrings of all test functions."""
    found: set[str] = set()
    for path in sorted(TESTS.rglob("test_*.py")):
        if path.is_relative_to(TESTS / "peg"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if is_function and node.name.startswith("test_"):
                told = of_the_agreement(ast.get_docstring(node) or "")
                words = [*node.name.upper().split("_"), told]
                found.update(re.findall(r"\b[CJNRV]\d+[A-Za-z]?\b", " ".join(words)))
    return frozenset(id_[:-1] + id_[-1].lower() for id_ in found) | {
        id_[:-1] for id_ in found if id_.startswith("C56")
    }


@pytest.mark.parametrize("rule", RULES)
def test_rule_has_a_test_that_names_it(rule: str) -> None:
    assert rule in named_by_tests()


@functools.cache
def cited(*packages: str) -> frozenset[str]:
    """Rule ids in the sources of some packages; a range "C1-C4" or "C1 to C4" names all of it."""
    found: set[str] = set()
    for package in packages:
        for path in sorted((CODE.parent / package).rglob("*.py")):
            text = of_the_agreement(path.read_text("utf-8"))
            found.update(re.findall(r"\b[CJNRV]\d+[a-z]?\b", text))
            ranges = r"\b([CJNRV])(\d+)(?:-| to )(?:consensus:)?[CJNRV]?(\d+)\b"
            for letter, first, last in re.findall(ranges, text):
                found.update(f"{letter}{number}" for number in range(int(first), int(last) + 1))
    return frozenset(found)


@pytest.mark.parametrize("rule", RULES)
def test_rule_is_cited_in_the_code(rule: str) -> None:
    assert rule in cited("federation")


@pytest.mark.parametrize("rule", FORMATS)
def test_rule_of_formats_is_cited_in_the_code(rule: str) -> None:
    assert rule in cited("federation")


@pytest.mark.parametrize("rule", JOINTS)
def test_rule_of_the_joints_is_cited_in_the_code(rule: str) -> None:
    assert rule in cited("federation", "peg", "sidechain") or CITED_ELSEWHERE.get(rule)


def test_lists_of_rules_are_those_of_the_specification() -> None:
    """The documents lie beside the repository where it is developed; elsewhere there are none."""
    folder = CODE.parents[1] / "shared"
    specification, joints = folder / "consensus.md", folder / "integration.md"
    if not specification.exists() or not joints.exists():
        pytest.skip("the specification is not on this machine")
    heads = r"\*\*([CJRV]\d+[a-z]?)\b|^\| (C9\d) \|"
    text = specification.read_text("utf-8")
    defined = {a or b for a, b in re.findall(heads, text, flags=re.M)}
    assert defined <= {*RULES, *FORMATS}
    assert set(re.findall(r"\*\*(N\d+)\*\*", joints.read_text("utf-8"))) == set(JOINTS)


def test_core_is_about_a_thousand_statements() -> None:
    """Docstrings, comments and imports apart."""
    count = 0
    for name in CORE_FILES:
        for node in ast.walk(ast.parse((CODE / "consensus" / name).read_text("utf-8"))):
            is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            is_import = isinstance(node, ast.Import | ast.ImportFrom)
            count += isinstance(node, ast.stmt) and not is_text and not is_import
    assert count <= 1_020
