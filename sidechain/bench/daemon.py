"""The process that is measured: started in a folder of its own, asked, ended."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from sidechain.bench.load import chain_options
from sidechain.bench.wire import PASSWORD, USER, RequestFailed, Wire

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
POLL_S = 0.05
OWN_COMMAND = f"{shlex.quote(sys.executable)} -m sidechain.daemon"

_NODE_OPTIONS = (
    "-server=1",
    "-listen=0",
    "-printtoconsole=0",
    "-checkmempool=0",
    "-checkblockindex=0",
    "-persistmempool=0",
    "-maxtxfee=1",
)


class Daemon:
    """One run of an elementsd-compatible daemon; use it as a context manager."""

    def __init__(
        self,
        command: str,
        folder: Path,
        extra: Sequence[str] = (),
        *,
        start_timeout_s: int = START_TIMEOUT_S,
    ) -> None:
        """
        Args:
            command: as a shell would split it, without the options given here.
            folder: its data directory, which may hold what an earlier run left.
        """
        self._start_timeout_s = start_timeout_s
        self._command = command
        self._folder = folder
        self._extra = extra
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    def __enter__(self) -> "Daemon":
        self._folder.mkdir(parents=True, exist_ok=True)
        arguments = [
            *shlex.split(self._command),
            f"-datadir={self._folder}",
            *chain_options(),
            *_NODE_OPTIONS,
            f"-rpcport={self.port}",
            f"-rpcuser={USER}",
            f"-rpcpassword={PASSWORD}",
            *self._extra,
        ]
        with (self._folder / "output.txt").open("ab") as output, _uninterrupted():
            # A group of its own: an interruption at the terminal ends it here, in order.
            self._process = subprocess.Popen(
                arguments, stdout=output, stderr=output, start_new_session=True
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    @property
    def pids(self) -> list[int]:
        """The process and those it started."""
        if self._process is None:
            return []
        own = self._process.pid
        return [own, *(pid for pid in _all_pids() if _parent(pid) == own)]

    def rss_kib(self) -> int:
        """Resident memory of all its processes."""
        return sum(_status_kib(pid, "VmRSS:") for pid in self.pids)

    def cpu_s(self) -> float:
        """Processor time all its processes have used."""
        return sum(_cpu_s(pid) for pid in self.pids)

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + self._start_timeout_s
        while True:
            if self._process is None or self._process.poll() is not None:
                raise RequestFailed(f"the daemon did not start: {self._last_words()}")
            try:
                with Wire(self.port) as wire:
                    wire.call("getblockcount")
                return
            except (OSError, RequestFailed) as error:
                if time.monotonic() > deadline_s:
                    raise RequestFailed(f"the daemon does not answer: {error}") from error
            time.sleep(POLL_S)

    def _last_words(self) -> str:
        return (self._folder / "output.txt").read_bytes()[-400:].decode(errors="replace")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C until a child that is being started is known, or nobody would end it."""
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    saved = [signal.signal(number, lambda *_: received.append(1)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, saved, strict=True):
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third one on; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _cpu_s(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _status_kib(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)
