"""Fixtures for tests against a live federation: `pytest_plugins = ["federation.pytest_plugin"]`.

`local_federation` is one for all tests of a module, and its disks are checked at the module's end;
`faults` makes it suffer and heals it after each test. A module that wants another federation
defines a fixture `federation_options` of its own, of scope "module".

Source: issue 4 item 10, docs/faults.md.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from federation.fault_check import check
from federation.faults import Faults, start_federation, wait_agreed
from federation.local import LocalFederation

__all__ = ["fault_free_end", "faults", "federation_options", "running_federation"]


@pytest.fixture(scope="module")
def federation_options() -> dict[str, Any]:
    """Arguments of `federation.faults.start_federation` beside the folder."""
    return {"n": 4, "block_time_ms": 300}


@pytest.fixture(scope="module", name="local_federation")
def running_federation(
    tmp_path_factory: pytest.TempPathFactory, federation_options: dict[str, Any]
) -> Iterator[LocalFederation]:
    """A federation of real processes, which end with the module; then its disks are checked."""
    folder = tmp_path_factory.mktemp("federation")
    federation: LocalFederation = _run(start_federation(folder, **federation_options))
    try:
        yield federation
    finally:
        federation.stop_all()
    report = check(folder)
    if not report.is_sound:
        pytest.fail("\n".join(report.violations), pytrace=False)


@pytest.fixture
def faults(local_federation: LocalFederation) -> Iterator[Faults]:
    """What makes it suffer; whatever a test leaves wrong is healed after it."""
    found = Faults(local_federation)
    yield found
    _run(fault_free_end(found, local_federation))


async def fault_free_end(faults: Faults, federation: LocalFederation) -> None:
    """Heal everything and wait until all members are at one block."""
    await faults.heal()
    await wait_agreed(federation)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end on a loop of its own, whatever loop the tests have."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
