"""The processes of a local federation: started detached, found again by their environment.

Every child carries FEDPEG_DATA (its federation's folder) and FEDPEG_PROCESS (its name in it), so
that any later command finds it in /proc. There are no pid files that could name a stranger.
"""

import os
import select
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DATA_VARIABLE = "FEDPEG_DATA"
NAME_VARIABLE = "FEDPEG_PROCESS"
SECRET_VARIABLES = ("FEDPEG_PASSPHRASE",)
POLL_S = 0.02
EXEC_TRIES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildProcess:
    """A running process of a federation; `started` tells it from a later one with its pid."""

    name: str
    pid: int
    started: int


def find_processes(data: Path) -> tuple[ChildProcess, ...]:
    """All live processes of the federation in this folder, by name, then pid."""
    wanted = os.fsencode(f"{DATA_VARIABLE}={data.resolve()}")
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        variables = _environment(int(entry.name))
        if wanted not in variables:
            continue
        name = _value(variables, NAME_VARIABLE)
        started = _start_time(int(entry.name))
        if name and started is not None:
            found.append(ChildProcess(name=name, pid=int(entry.name), started=started))
    return tuple(sorted(found, key=lambda child: (child.name, child.pid)))


def spawn(
    name: str,
    arguments: Sequence[str],
    *,
    data: Path,
    output: Path,
    variables: Mapping[str, str] | None = None,
) -> ChildProcess:
    """Start a detached child in a session of its own; what it prints is appended to `output`.

    It has begun to run the program when this returns.

    Raises:
        OSError: the program cannot be started.
    """
    environment = {k: v for k, v in os.environ.items() if k not in SECRET_VARIABLES}
    environment |= variables or {}
    environment |= {DATA_VARIABLE: str(data.resolve()), NAME_VARIABLE: name}
    output.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        arguments[0],
        list(arguments),
        environment,
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGPIPE),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(output), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )
    started = _start_time(pid)
    return ChildProcess(name=name, pid=pid, started=-1 if started is None else started)


def is_running(child: ChildProcess) -> bool:
    """Whether exactly this process still runs; a finished one nobody has waited for does not."""
    _reap(child.pid)
    return _start_time(child.pid) == child.started


def is_frozen(child: ChildProcess) -> bool:
    """Whether this process is stopped by a signal and waits for SIGCONT."""
    try:
        text = Path(f"/proc/{child.pid}/stat").read_text()
    except OSError:
        return False
    return text[text.rindex(")") + 2] in "Tt"


def command_line(child: ChildProcess) -> tuple[str, ...]:
    """The words a process was started with; none when it has ended."""
    try:
        data = Path(f"/proc/{child.pid}/cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(word.decode(errors="replace") for word in data.split(b"\0")[:-1])


def send_signal(child: ChildProcess, signal_number: int) -> bool:
    """Signal exactly this process; False when it has ended."""
    try:
        handle = os.pidfd_open(child.pid)
    except OSError:
        return False
    try:
        if _start_time(child.pid) != child.started:
            return False
        signal.pidfd_send_signal(handle, signal_number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def wait_ended(children: Iterable[ChildProcess], deadline_ms: int) -> tuple[ChildProcess, ...]:
    """Wait until these have ended; returns those that have not within the deadline."""
    left = [child for child in children if is_running(child)]
    give_up_at = time.monotonic() + deadline_ms / 1000
    while left:
        remaining_s = give_up_at - time.monotonic()
        if remaining_s <= 0:
            break
        try:
            handle = os.pidfd_open(left[0].pid)
        except OSError:
            handle = -1
        if handle >= 0:
            try:
                select.select([handle], [], [], min(remaining_s, POLL_S * 10))
            finally:
                os.close(handle)
        left = [child for child in left if is_running(child)]
    return tuple(left)


def stop_processes(children: Sequence[ChildProcess], deadline_ms: int) -> tuple[str, ...]:
    """SIGTERM to all, and SIGKILL to those that still run after the deadline.

    Returns:
        Names of those that had to be killed.
    """
    for child in children:
        send_signal(child, signal.SIGTERM)
        send_signal(child, signal.SIGCONT)  # one that is stopped hears nothing else
    stubborn = wait_ended(children, deadline_ms)
    kill_processes(stubborn)
    return tuple(child.name for child in stubborn)


def kill_processes(children: Sequence[ChildProcess]) -> None:
    """SIGKILL, and wait until they are gone."""
    for child in children:
        send_signal(child, signal.SIGKILL)
    wait_ended(children, 5_000)


def _environment(pid: int) -> list[bytes]:
    """Environment of a process; empty when it is somebody else's or has ended.

    For a moment after a program has replaced itself by another its environment reads as empty;
    such a process must not be overlooked, so it is read again.
    """
    for _ in range(EXEC_TRIES):
        try:
            data = Path(f"/proc/{pid}/environ").read_bytes()
            if data:
                return data.split(b"\0")
            os.readlink(f"/proc/{pid}/exe")  # fails for kernel threads
        except OSError:
            break
        if _start_time(pid) is None:
            break
        time.sleep(POLL_S / 10)
    return []


def _value(variables: Sequence[bytes], name: str) -> str:
    prefix = f"{name}=".encode()
    for variable in variables:
        if variable.startswith(prefix):
            return variable[len(prefix) :].decode(errors="replace")
    return ""


def _start_time(pid: int) -> int | None:
    """Start of a live process in clock ticks after boot; None when it has ended.

    A process whose first thread has ended, but not the others, still holds its files and ports.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    state, threads = fields[0], int(fields[17])
    has_ended = state == "X" or (state == "Z" and threads <= 1)
    return None if has_ended else int(fields[19])


def _reap(pid: int) -> None:
    """Take the exit state of an own child, so that it does not stay as a zombie."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
