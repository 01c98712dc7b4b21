"""Processes of a federation, found without the code under test."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.e2e.waiting import wait_for


def processes_of(data: Path) -> dict[int, str]:
    """Names by pid of all live processes that carry this data folder in their environment.

    A command of ours has no name of its own; it shows as "command".
    """
    return _named(lambda folder: folder == str(data))


def processes_under(folder: Path) -> dict[int, str]:
    """As `processes_of`, for all data folders below one."""
    return _named(lambda data: data.startswith(f"{folder}/"))


def _named(is_wanted: Callable[[str], bool]) -> dict[int, str]:
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "environ").read_text(errors="replace").split("\0")
            is_dead = ") Z" in (entry / "stat").read_text(errors="replace")
        except OSError:
            continue
        variables = dict(word.split("=", 1) for word in words if "=" in word)
        if is_wanted(variables.get("FEDPEG_DATA", "")) and not is_dead:
            found[int(entry.name)] = variables.get("FEDPEG_PROCESS", "command")
    return found


def kill_all(data: Path) -> None:
    """SIGKILL to everything of this federation, and wait until it is gone."""

    def is_empty() -> bool:
        left = processes_of(data)
        for pid in left:
            send(pid, signal.SIGKILL)
        return not left

    wait_for(is_empty, f"processes of {data} end")


def has_ended(pid: int) -> bool:
    """Whether a process has given back all it held, file locks too.

    A dying process loses its environment first and its files last: with its last thread, which may
    be waiting for a disk while the first one is a zombie already.
    """
    place = Path(f"/proc/{pid}")
    try:
        is_zombie = ") Z" in (place / "stat").read_text(errors="replace")
        return is_zombie and len(list((place / "task").iterdir())) == 1
    except OSError:
        return True


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process; nothing when it has ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
