"""Federations for the end-to-end tests: real processes in folders of their own, never left over.

A module's tests share one federation, named by the module's `UP` (options of `fedpeg up`). It is
made ready again before each test, and a failed test takes it away, so that no test sees another's
ruins.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.local import Local
from tests.e2e.processes import kill_all, processes_of

LOG_LINES_SHOWN = 40
FAILED = pytest.StashKey[bool]()
SEEN = pytest.StashKey[list[Local]]()


class Home:
    """Founds federations and takes them away again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._present: list[Local] = []
        self.shared: Local | None = None

    def new(self) -> Local:
        """A data folder with nothing in it."""
        local = Local(self._folder / f"f{self._count}")
        self._count += 1
        self._present.append(local)
        return local

    def remove(self, local: Local, *, keep_data: bool) -> None:
        """End all its processes, and delete its folder unless it may tell of a failure."""
        kill_all(local.data)
        self._present.remove(local)
        if not keep_data:
            shutil.rmtree(local.data, ignore_errors=True)

    def remove_all(self) -> None:
        """End everything."""
        for local in list(self._present):
            self.remove(local, keep_data=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Where the federations of a module live."""
    home = Home(tmp_path_factory.mktemp("e"))
    try:
        yield home
    finally:
        home.remove_all()


@pytest.fixture
def local(home: Home, request: pytest.FixtureRequest) -> Iterator[Local]:
    """The module's federation, with everything running and in agreement."""
    local, home.shared = home.shared or home.new(), None
    _watch(request, local)
    try:
        if not local.data.exists():
            local.run("up", *request.module.UP)
        local.up()
    except BaseException:
        home.remove(local, keep_data=True)
        raise
    yield local
    if request.node.stash.get(FAILED, False):
        home.remove(local, keep_data=True)
    else:
        home.shared = local


@pytest.fixture
def new_local(home: Home, request: pytest.FixtureRequest) -> Iterator[Callable[[], Local]]:
    """Makes federations for one test only; their folders are empty at first."""
    made: list[Local] = []

    def make() -> Local:
        local = home.new()
        made.append(local)
        _watch(request, local)
        return local

    yield make
    for local in made:
        home.remove(local, keep_data=request.node.stash.get(FAILED, False))


def _watch(request: pytest.FixtureRequest, local: Local) -> None:
    seen = request.node.stash.setdefault(SEEN, [])
    if local not in seen:
        seen.append(local)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None] | pytest.TestReport:
    """Show what the processes logged beside a failure."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
        for local in item.stash.get(SEEN, []):
            report.sections.extend(_logs(local))
    return report


def _logs(local: Local) -> Iterator[tuple[str, str]]:
    yield f"processes of {local.data}", str(processes_of(local.data))
    for path in sorted(local.data.glob("**/log.jsonl")) + sorted(local.data.glob("**/output.log")):
        lines = path.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        yield str(path.relative_to(local.data)), "\n".join(lines)
