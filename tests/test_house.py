"""The house rules that a tool can check; each test names the rule of the style it keeps.

What is checked are the files of the repository, not what a run leaves beside them.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("federation", "peg", "sidechain")
FUNCTION_LINES_MAX = 70
SOURCE_LINES_MAX = 520
TEST_LINES_MAX = 700
FORBIDDEN_NAMES = frozenset({"utils", "util", "helpers", "manager", "common", "misc"})
SETTLED_LATER = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3)) + r")\b")
URL = re.compile(r"\b(?:https?|ftp)://([^\s/:\"'`)>{}]+)")
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
INVENTED_HOSTS = re.compile(r"[a-z]|.*\.example")
MACHINE_PATH = re.compile("/(?:" + "|".join(("ro" + "ot", "ho" + "me", "wo" + "rk")) + ")/(?!you/)")
TASK_MAKERS = frozenset({"create_task", "gather", "ensure_future"})
WHOLE_PROGRAM_CATCHERS = frozenset({"federation/cli.py", "federation/member.py"})


@lru_cache(maxsize=1)
def files() -> tuple[Path, ...]:
    """All files of the repository that exist, by name."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git clone: nothing says which files belong to the project")
    names = sorted(name for name in listed.stdout.split("\0") if name)
    return tuple(ROOT / name for name in names if (ROOT / name).is_file())


def texts() -> Iterator[tuple[str, str]]:
    """Name and content of every text file."""
    for path in files():
        data = path.read_bytes()
        if b"\0" not in data:
            yield str(path.relative_to(ROOT)), data.decode(errors="replace")


@lru_cache(maxsize=1)
def sources() -> dict[str, ast.Module]:
    """Every source file of the three packages, parsed."""
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text())
        for path in files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in PACKAGES
    }


def pure_sources() -> dict[str, ast.Module]:
    """The files that the contract "pure" names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    (pure,) = [contract for contract in contracts if contract["name"] == "pure"]
    places = tuple(module.replace(".", "/") for module in pure["source_modules"])
    return {
        name: tree
        for name, tree in sources().items()
        if name.startswith(tuple(f"{place}/" for place in places))
        or name.removesuffix(".py") in places
    }


def found_in(trees: dict[str, ast.Module], kind: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """All nodes of a kind, with the place."""
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, kind):
                yield f"{name}:{getattr(node, 'lineno', 0)}", node


def test_layers_when_imports_are_followed_then_contracts_hold() -> None:
    """3.2: who may import whom, and what pure files may not import."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_names_when_modules_are_listed_then_none_is_a_drawer_for_everything() -> None:
    """Rule 17."""
    wrong = [name for name in sources() if FORBIDDEN_NAMES & set(Path(name).stem.split("_"))]
    assert not wrong


def test_sizes_when_files_are_counted_then_none_is_too_long() -> None:
    """Rule 18: about 500 lines a file, 70 a function."""
    long = {
        name: lines
        for name, text in texts()
        if name.endswith(".py")
        and (lines := text.count("\n"))
        > (TEST_LINES_MAX if name.startswith("tests/") else SOURCE_LINES_MAX)
    }
    assert not long


@pytest.mark.parametrize("kind", [ast.FunctionDef, ast.AsyncFunctionDef])
def test_sizes_when_functions_are_counted_then_none_is_too_long(kind: type[ast.AST]) -> None:
    """Rule 18: about 500 lines a file, 70 a function."""
    long = {
        place: lines
        for place, node in found_in(sources(), kind)
        if (lines := getattr(node, "end_lineno", 0) - getattr(node, "lineno", 0) + 1)
        > FUNCTION_LINES_MAX
    }
    assert not long


def test_docstrings_when_names_are_public_then_each_has_one() -> None:
    """Rule 19."""
    missing: list[str] = []

    def look(name: str, body: list[ast.stmt]) -> None:
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if node.name.startswith("_"):
                continue
            if not ast.get_docstring(node):
                missing.append(f"{name}:{node.lineno} {node.name}")
            if isinstance(node, ast.ClassDef):
                look(name, node.body)

    for name, tree in sources().items():
        if not ast.get_docstring(tree):
            missing.append(name)
        look(name, tree.body)
    assert not missing


def test_packages_when_imported_then_only_a_docstring_runs() -> None:
    """Rule 14: no work at import, no names re-exported by `__init__`."""
    wrong = [
        name
        for name, tree in sources().items()
        if name.endswith("__init__.py") and len(tree.body) > 1
    ]
    assert not wrong


def test_words_when_all_text_is_read_then_nothing_is_left_for_later() -> None:
    """Rule 19."""
    assert not [name for name, text in texts() if SETTLED_LATER.search(text)]


def test_text_when_read_then_no_host_of_the_world_and_no_path_of_a_machine() -> None:
    """Registries and mirrors are settings of the machine, never written down."""
    wrong = []
    for name, text in texts():
        hosts = [host for host in URL.findall(text) if host not in LOOPBACK]
        wrong += [f"{name}: {host}" for host in hosts if not INVENTED_HOSTS.fullmatch(host)]
        wrong += [f"{name}: {found}" for found in MACHINE_PATH.findall(text)]
    assert not wrong


def test_lock_when_read_then_every_version_is_exact_and_has_hashes() -> None:
    """The lock file: exact versions, hashes, no addresses."""
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    entries = [block for block in re.split(r"\n(?=[a-z])", text) if re.match(r"[a-z]", block)]
    assert len(entries) > 20
    for entry in entries:
        head = entry.splitlines()[0]
        assert re.match(r"[a-z0-9][a-z0-9-]*==[^ ]+", head), head
        assert "--hash=sha256:" in entry, head


def test_lock_when_compared_then_it_holds_what_the_project_asks_for() -> None:
    """What pyproject.toml names is in the lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    names = {re.split(r"[<>=!~ ;\[]", item)[0] for item in asked}
    locked = set(
        re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    )
    assert names <= locked


def test_numbers_when_files_are_pure_then_no_float() -> None:
    """Rule 3."""
    wrong = [
        place
        for place, node in found_in(pure_sources(), ast.Constant)
        if isinstance(getattr(node, "value", None), float)
    ]
    wrong += [
        place
        for place, node in found_in(pure_sources(), ast.Call)
        if getattr(getattr(node, "func", None), "id", "") == "float"
    ]
    assert not wrong


def test_checks_when_made_then_not_by_assert() -> None:
    """Rule 11: what must hold under every interpreter is no assertion."""
    assert not [place for place, _ in found_in(sources(), ast.Assert)]


def test_tasks_when_started_then_in_a_group() -> None:
    """Rule 8: asyncio's own makers of stray tasks are not used."""
    wrong = [
        place
        for place, node in found_in(sources(), ast.Attribute)
        if getattr(node, "attr", "") in TASK_MAKERS
        and isinstance(value := getattr(node, "value", None), ast.Name)
        and value.id == "asyncio"
    ]
    assert not wrong


def test_groups_when_caught_then_only_by_whole_programs() -> None:
    """Rule 9."""
    places = [place for place, _ in found_in(sources(), ast.TryStar)]
    assert not [place for place in places if place.split(":")[0] not in WHOLE_PROGRAM_CATCHERS]


def test_state_when_modules_are_read_then_none_is_global() -> None:
    """Rule 14."""
    assert not [place for place, _ in found_in(sources(), ast.Global)]
