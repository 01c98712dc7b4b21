"""Processes of a federation, found without the code under test."""

import os
import signal
from pathlib import Path

from tests.e2e.waiting import wait_for


def processes_of(data: Path) -> dict[int, str]:
    """Names by pid of all live processes that carry this data folder in their environment.

    A command of ours has no name of its own; it shows as "command".
    """
    wanted = f"FEDPEG_DATA={data}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            is_dead = b") Z" in (entry / "stat").read_bytes()
        except OSError:
            continue
        if wanted in variables and not is_dead:
            names = [v[15:].decode() for v in variables if v.startswith(b"FEDPEG_PROCESS=")]
            found[int(entry.name)] = names[0] if names else "command"
    return found


def kill_all(data: Path) -> None:
    """SIGKILL to everything of this federation, and wait until it is gone."""

    def is_empty() -> bool:
        left = processes_of(data)
        for pid in left:
            send(pid, signal.SIGKILL)
        return not left

    wait_for(is_empty, f"processes of {data} end")


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process; nothing when it has ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
