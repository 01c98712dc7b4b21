"""Faults of whole processes: killed, frozen, replaced by a liar; and what ends them again.

A process that is stopped cannot count the time, so a fault with an end gets a small process of its
own that waits and then sets things right, whatever became of the command. It is one of the
federation's processes: `fedpeg down` stops it like any other.

Source: issue 4 item 10, N32.
"""

import asyncio
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from federation.fault_disk import SOCKET, FaultFolder
from federation.local import LocalFederation
from federation.local_state import FolderBusy, LocalError, LocalFolder
from federation.member_folder import MemberConfig
from federation.processes import (
    ChildProcess,
    command_line,
    is_frozen,
    is_running,
    kill_processes,
    send_signal,
    stop_processes,
)

ENDING: Final = "ending"
ENDING_MODULE: Final = "federation.fault_ending"
TWIN_MODULE: Final = "federation.fault_twin"
STOP_MS: Final = 15_000
POLL_S: Final = 0.1
RESTORED_HINT: Final = "--restored"


@asynccontextmanager
async def locked_patiently(folder: LocalFolder, patience_s: float) -> AsyncIterator[None]:
    """The folder's lock, waited for.

    Raises:
        FolderBusy: another command keeps it for too long.
    """
    give_up_at = time.monotonic() + patience_s
    while True:
        try:
            with folder.locked():
                yield
            return
        except FolderBusy:
            if time.monotonic() > give_up_at:
                raise
            await asyncio.sleep(POLL_S)


class ProcessFault(StrEnum):
    """What may be wrong with a member's process."""

    KILL = "kill"
    PAUSE = "pause"
    EQUIVOCATE = "equivocate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A process that waits until a fault is over; `ends_ms` on the monotonic clock."""

    kind: ProcessFault
    member: str
    id: str
    ends_ms: int
    child: ChildProcess

    @classmethod
    def of(cls, child: ChildProcess) -> "Ending | None":
        """The ending that a process is for, None when it is for none."""
        words = command_line(child)
        if ENDING_MODULE not in words:
            return None
        facts = dict(zip(words[3::2], words[4::2], strict=False))
        try:
            return cls(
                kind=ProcessFault(facts["--kind"]),
                member=facts["--member"],
                id=facts["--id"],
                ends_ms=int(facts["--at-ms"]),
                child=child,
            )
        except (KeyError, ValueError):
            return None


class ProcessFaults:
    """Faults of the processes of one local federation. Callers hold the folder's lock."""

    def __init__(self, federation: LocalFederation) -> None:
        self._federation = federation
        self.folder = FaultFolder(federation.folder)

    # ---- what there is ----

    def endings(self) -> tuple[Ending, ...]:
        """Processes that wait for the end of a fault."""
        found = (Ending.of(child) for child in self._federation.running().values())
        return tuple(ending for ending in found if ending is not None)

    def frozen(self) -> tuple[str, ...]:
        """Members whose process is stopped by a signal."""
        running = self._federation.running()
        return tuple(n for n in self._names() if n in running and is_frozen(running[n]))

    def lying(self) -> tuple[str, ...]:
        """Members in whose place a liar runs."""
        running = self._federation.running()
        return tuple(
            n for n in self._names() if n in running and TWIN_MODULE in command_line(running[n])
        )

    def down(self) -> tuple[str, ...]:
        """Members that do not run."""
        running = self._federation.running()
        return tuple(name for name in self._names() if name not in running)

    # ---- begin ----

    def kill(self, name: str) -> None:
        """SIGKILL.

        Raises:
            LocalError: it does not run.
        """
        self._child(name)
        self._federation.stop_member(name, kill=True)

    def pause(self, name: str) -> None:
        """SIGSTOP.

        Raises:
            LocalError: it does not run, or is stopped already.
        """
        child = self._child(name)
        if is_frozen(child):
            raise LocalError(f"{name} is paused already")
        send_signal(child, signal.SIGSTOP)

    async def equivocate(self, name: str, *, seed: int) -> None:
        """Stop a member and have a liar run in its place, with its keys (N32).

        Raises:
            LocalError: the member does not run, or the liar ends at once.
        """
        self._child(name)
        if name in self.lying():
            raise LocalError(f"{name} lies already")
        self.stop(name)
        twin = self._make_twin(name)
        federation = self._federation
        liar = federation.spawn_module(
            name,
            TWIN_MODULE,
            ["--folder", str(twin), "--federation", str(federation.folder.federation_file)]
            + ["--member-folder", str(federation.folder.member(name)), "--seed", str(seed)],
            output=self.folder.output,
        )
        ready = twin / "ready"
        while not ready.exists():
            if not is_running(liar):
                await self.end(ProcessFault.EQUIVOCATE, name)
                raise LocalError(f"the liar in place of {name} ended: see {self.folder.output}")
            await asyncio.sleep(POLL_S)

    def end_later(self, kind: ProcessFault, name: str, fault_id: str, for_ms: int) -> None:
        """Have a process of its own end a fault after a time."""
        at_ms = time.monotonic_ns() // 1_000_000 + for_ms
        self._federation.spawn_module(
            f"{ENDING}-{kind.value}-{name}",
            ENDING_MODULE,
            ["--kind", kind.value, "--member", name, "--id", fault_id, "--at-ms", str(at_ms)]
            + ["--data", str(self._federation.folder.path)],
            output=self.folder.output,
        )

    # ---- end ----

    async def end(self, kind: ProcessFault, name: str) -> None:
        """Undo a fault: the member runs, by itself and unfrozen.

        Raises:
            LocalError: it cannot be started.
        """
        running = self._federation.running()
        child = running.get(name)
        if kind is ProcessFault.PAUSE:
            if child is not None:
                send_signal(child, signal.SIGCONT)
            return
        if kind is ProcessFault.EQUIVOCATE:
            if child is not None and TWIN_MODULE in command_line(child):
                stop_processes([child], STOP_MS)
            self._remove_twin(name)
            await self._federation.start_members([name], restored=True)
            return
        await self.start(name)

    async def start(self, name: str) -> bool:
        """Start a member as it is; with `--restored` where its journal demands it (J6).

        Returns:
            Whether it had to be started as restored.
        Raises:
            LocalError: it does not start.
        """
        try:
            await self._federation.start_members([name])
            return False
        except LocalError as refusal:
            if RESTORED_HINT not in str(refusal):
                raise
            await self._federation.start_members([name], restored=True)
            return True

    def forget_endings(self, fault_id: str | None = None) -> tuple[Ending, ...]:
        """Stop the processes that wait for the end of a fault, of all without an id."""
        gone = tuple(e for e in self.endings() if fault_id in (None, e.id))
        kill_processes([ending.child for ending in gone])
        return gone

    def stop(self, name: str) -> bool:
        """Stop a member in an orderly way; whether it ran."""
        return self._federation.stop_member(name, kill=False)

    # ---- parts ----

    def _names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self._federation.require_state().members)

    def _child(self, name: str) -> ChildProcess:
        child = self._federation.running().get(name)
        if child is None:
            raise LocalError(f"{name} is not running")
        return child

    def _make_twin(self, name: str) -> Path:
        """A copy of the member's state, on its keys, with an API of its own that nobody knows."""
        source, twin = self._federation.folder.member(name), self.folder.twin(name)
        shutil.rmtree(twin, ignore_errors=True)
        skipped = shutil.ignore_patterns("keys", "*.jsonl", "output.log", ".cookie", SOCKET)
        shutil.copytree(source, twin, ignore=skipped)
        (twin / "keys").symlink_to(source / "keys")
        replace(MemberConfig.load(source), rpc_port=0, esplora_port=0).save(twin)
        return twin

    def _remove_twin(self, name: str) -> None:
        twin = self.folder.twin(name)
        if not twin.is_dir():
            return
        self.folder.keep_journal(name, twin / "journal", "twin")
        log = twin / "log.jsonl"
        if log.exists():
            shutil.copy2(log, self.folder.path / f"{twin.name}.log.jsonl")
        shutil.rmtree(twin)
