"""Fixtures for all tests: a real regtest node, one for each module that asks for it."""

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

from federation.bitcoind_process import (
    COOKIE_NAME,
    BitcoindMissing,
    bitcoind_arguments,
    find_bitcoind,
    rebuilding_arguments,
)
from federation.local_state import PortChooser
from federation.processes import ChildProcess, kill_processes, spawn, wait_ended
from peg.bitcoind import BitcoindClient

START_DEADLINE_MS = 30_000
SHARING = ("tests/e2e/", "tests/peg/test_real_")


class SharedFederations(LoadScopeScheduling):  # type: ignore[misc]
    """Gives out tests one by one, but those of a module that shares something to one worker.

    They share a federation, or a Bitcoin node, which would be started once on each worker.
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0] if nodeid.startswith(SHARING) else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> SharedFederations:
    """Asked by xdist when there are several workers."""
    return SharedFederations(config, log)


@dataclass(slots=True)
class RegtestNode:
    """A bitcoind of the tests; `start` and `kill` may be used again and again."""

    folder: Path
    rpc_port: int
    child: ChildProcess | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.rpc_port}"

    @property
    def cookie(self) -> Path:
        """Its cookie file."""
        return self.folder / COOKIE_NAME

    def start(self, *options: str) -> None:
        """Start the process; whoever needs it to answer waits for that.

        Args:
            options: those of the command line that come after the usual ones.
        """
        arguments = bitcoind_arguments(find_bitcoind(), self.folder, self.rpc_port)
        self._spawn([*arguments, *options])

    def rebuild(self) -> None:
        """Read all blocks on disk anew, as a federation does with a node that was killed."""
        self._spawn(rebuilding_arguments(find_bitcoind(), self.folder, self.rpc_port))
        assert self.child is not None
        assert not wait_ended([self.child], START_DEADLINE_MS)
        self.child = None

    def _spawn(self, arguments: list[str]) -> None:
        self.child = spawn(
            "bitcoind", arguments, data=self.folder, output=self.folder / "output.log"
        )

    def kill(self) -> None:
        """End it at once."""
        if self.child is not None:
            kill_processes([self.child])
            self.child = None

    def client(self, *, retry_ms: int = 5_000) -> BitcoindClient:
        """A client of it."""
        return BitcoindClient(self.url, cookie_path=self.cookie, retry_ms=retry_ms)


@pytest.fixture(scope="module")
def regtest_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegtestNode]:
    """A running node with an empty chain."""
    try:
        find_bitcoind()
    except BitcoindMissing as error:
        pytest.fail(str(error))
    node = RegtestNode(tmp_path_factory.mktemp("node"), PortChooser().choose())
    node.start()
    try:
        yield node
    finally:
        node.kill()


@pytest.fixture
async def bitcoind(regtest_node: RegtestNode) -> AsyncIterator[BitcoindClient]:
    """A client of the module's node, which answers."""
    async with regtest_node.client() as client:
        await client.wait_until_ready(START_DEADLINE_MS)
        yield client


@pytest.fixture(autouse=True)
def no_federation_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names no federation and no secret of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("FEDPEG_")]:
        if name != "FEDPEG_VECTORS":
            monkeypatch.delenv(name)
