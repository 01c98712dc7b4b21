"""The mutants themselves, and a sample of them against the tests."""

import ast
import subprocess
import sys
from types import ModuleType

import pytest

from tests.mutation.__main__ import SURVIVORS, VALIDATION, all_mutants, reasons, sample
from tests.mutation.implant import implant
from tests.mutation.mutants import mutants, mutated
from tests.mutation.plugin import ROOT

SAMPLE = 14
SEED = 3
SOURCE = '''
"""A text with 3 numbers."""

LIMIT = 10


def check(size: int = 2) -> bool:
    """Whether 1 is meant."""
    for part in range(size):
        if not part:
            continue
        if part > LIMIT or size == 7:
            raise ValueError("too many")
    return True


class Owner:
    def half(self) -> int:
        return sum(part >> 1 for part in [LIMIT])
'''


def module() -> ModuleType:
    made = ModuleType("victim")
    made.__file__ = "victim.py"
    exec(compile(SOURCE, "victim.py", "exec"), vars(made))
    return made


def test_mutants_when_listed_then_each_is_another_program_with_a_name_of_its_own() -> None:
    made = mutants("victim.py", SOURCE)
    texts = {ast.unparse(mutated(SOURCE, mutant.number)) for mutant in made}
    assert len(texts) == len({mutant.name for mutant in made}) == len(made)
    assert ast.unparse(ast.parse(SOURCE)) not in texts
    names = {mutant.name for mutant in made}
    assert "victim.py (module): `LIMIT = 10` as `LIMIT = 11`" in names
    assert "victim.py check: `continue` as `break`" in names
    assert "victim.py check: `raise ValueError('too many')` left out" in names
    assert (
        "victim.py check: `if part > LIMIT or size == 7:` as `if part >= LIMIT or size == 7:`"
        in names
    )
    assert not [name for name in names if "text" in name or "meant" in name]


def test_mutant_when_implanted_then_the_function_known_before_has_it() -> None:
    for mutant in mutants("victim.py", SOURCE):
        victim = module()
        half, check = victim.Owner.half, victim.check
        implant(victim, SOURCE, mutant)
        if "part >> 1" in mutant.name and "part << 1" in mutant.name:
            assert half(None) == 20
        if mutant.name.endswith("`LIMIT = 11`"):
            assert half(None) == 5
            assert check(12) is True
        if mutant.name.endswith("left out"):
            assert check(12) is True


def test_survivors_when_listed_then_each_has_a_reason() -> None:
    known = reasons()
    assert SURVIVORS.read_text().count("[[survivor]]") == len(known)
    assert all(len(reason) > 10 for reason in known.values())


@pytest.mark.slow
def test_survivors_when_listed_then_each_is_still_a_mutant() -> None:
    known = reasons()
    files = sorted({VALIDATION / name.split(" ")[0] for name in known})
    names = {mutant.name for _, _, mutant in all_mutants(files)}
    assert sorted(set(known) - names) == []


def test_sample_when_drawn_twice_then_the_same_and_no_known_survivor() -> None:
    work = all_mutants([VALIDATION / "pegouts.py"])
    chosen = sample(work, 5, SEED)
    assert chosen == sample(work, 5, SEED) != sample(work, 5, SEED + 1)
    assert len(chosen) == 5


@pytest.mark.slow
def test_sample_of_mutants_when_tested_then_none_survives() -> None:
    arguments = ["-m", "tests.mutation", "--fresh", f"--sample={SAMPLE}", f"--seed={SEED}"]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{SAMPLE} killed" in done.stdout
