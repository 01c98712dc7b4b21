"""Processes are found by their environment, and only they are signalled."""

import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from federation.processes import (
    ChildProcess,
    find_processes,
    is_running,
    kill_processes,
    send_signal,
    spawn,
    stop_processes,
    wait_ended,
)

SLEEPER = "import signal; print('ready', flush=True); signal.pause()"
STUBBORN = "import signal; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); " + (
    "[signal.pause() for _ in iter(int, 1)]"
)
END_DEADLINE_MS = 10_000


class Nursery:
    """Starts children and takes them away at the end of the test."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def start(self, name: str, code: str = SLEEPER) -> ChildProcess:
        """A child that has begun to wait."""
        output = self.data / name / "output.log"
        child = spawn(name, [sys.executable, "-c", code], data=self.data, output=output)
        while not output.read_text():
            # It writes before it ends: one that has ended has written.
            assert is_running(child) or output.read_text()
        return child


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    """Children of this test."""
    found = Nursery(tmp_path)
    yield found
    kill_processes(find_processes(tmp_path))


def test_find_when_children_run_then_all_and_only_they(nursery: Nursery, tmp_path: Path) -> None:
    first, second = nursery.start("m0"), nursery.start("m1")
    other = Nursery(tmp_path / "other")
    stranger = other.start("m0")
    assert find_processes(tmp_path) == (first, second)
    assert find_processes(other.data) == (stranger,)
    kill_processes([stranger])
    assert find_processes(other.data) == ()


def test_find_when_folder_is_reached_by_a_link_then_same_processes(
    nursery: Nursery, tmp_path: Path
) -> None:
    child = nursery.start("m0")
    link = tmp_path.parent / f"{tmp_path.name}-link"
    link.symlink_to(tmp_path)
    assert find_processes(link) == (child,)


def test_stop_when_child_obeys_then_not_killed(nursery: Nursery) -> None:
    child = nursery.start("m0")
    assert stop_processes([child], END_DEADLINE_MS) == ()
    assert not is_running(child)


def test_stop_when_child_is_frozen_then_it_is_thawed_to_obey(nursery: Nursery) -> None:
    child = nursery.start("m0")
    send_signal(child, signal.SIGSTOP)
    assert stop_processes([child], END_DEADLINE_MS) == ()
    assert not is_running(child)


def test_stop_when_child_is_stubborn_then_killed_and_named(nursery: Nursery) -> None:
    child = nursery.start("m0", STUBBORN)
    assert stop_processes([child], 200) == ("m0",)
    assert not is_running(child)


def test_signal_when_pid_has_another_owner_now_then_not_sent(nursery: Nursery) -> None:
    child = nursery.start("m0")
    successor = replace(child, started=child.started + 1)
    assert not send_signal(successor, signal.SIGKILL)
    assert not is_running(successor)
    assert is_running(child)


def test_wait_when_child_ends_by_itself_then_noticed(nursery: Nursery) -> None:
    child = nursery.start("m0", "print('ready', flush=True)")
    assert wait_ended([child], END_DEADLINE_MS) == ()


def test_spawn_when_secrets_are_in_environment_then_not_passed_on(
    nursery: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDPEG_PASSPHRASE", "hush")
    nursery.start("m0", "import os; print(sorted(os.environ), flush=True); " + SLEEPER)
    assert "FEDPEG_PASSPHRASE" not in (tmp_path / "m0" / "output.log").read_text()


def test_spawn_when_program_is_missing_then_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        spawn("m0", [str(tmp_path / "none")], data=tmp_path, output=tmp_path / "o")
