"""How a member comes to its signer, and keeps it: in this process, its own child, or somebody's.

A child is started with the member, ends with it however it ends, and is started again when it
dies. While no signer answers nothing is signed; the member says so and goes on following the chain.

Source: consensus:9, consensus:C40, consensus:R6, consensus:R7; docs/signer.md.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from federation.config import FederationFile, MemberEntry, MemberFolder
from federation.consensus.events import StartMode
from federation.peers import EventLog
from federation.signer_client import Greeting, RemoteSigner, SignerHome, greet
from federation.signer_port import MemberSigner, SignerFailed, SignerUnreachable
from federation.start import StartOptions, open_signer

PROCESS_VARIABLE: Final = "FEDPEG_PROCESS"
"""What the local runner knows processes by."""
START_TIMEOUT_S: Final = 30
STOP_TIMEOUT_S: Final = 10
POLL_S: Final = 0.05
PROBE_S: Final = 0.2
RESTART_PAUSE_MAX_S: Final = 5.0
START_FLAGS: Final = {StartMode.FRESH: ("--init",), StartMode.AMNESIAC: ("--restored",)}


class SignerChild:
    """A signer process of the member's own, started and stopped by it."""

    def __init__(self, folder: MemberFolder, federation_path: Path, flags: tuple[str, ...]) -> None:
        """Prepare; `start` starts it.

        Args:
            flags: of every start.
        """
        self._arguments = [
            *(sys.executable, "-m", "federation.signer_process"),
            *("--folder", str(folder.path), "--federation", str(federation_path)),
            *("--parent", str(os.getpid()), *flags),
        ]
        self._name = f"{folder.path.name}-signer"
        self._log = folder.signer_log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, flags: tuple[str, ...] = ()) -> None:
        """Start it; `flags` are of this start only. Raises OSError."""
        self._process = subprocess.Popen(
            [*self._arguments, *flags],
            stdin=subprocess.DEVNULL,
            env=os.environ | {PROCESS_VARIABLE: self._name},
            start_new_session=True,
        )

    @property
    def has_ended(self) -> bool:
        """Whether it does not run."""
        return self._process is None or self._process.poll() is not None

    @property
    def end_text(self) -> str:
        """How it ended, for a person."""
        code = None if self._process is None else self._process.returncode
        return f"the signer ended (exit {code}); {self._log} says why"

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that does not help."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True, slots=True)
class OpenedSigner:
    """The keeper of the member's keys; `keeper` where that is another process."""

    signer: MemberSigner
    keeper: "SignerKeeper | None"

    def facts(self) -> dict[str, Any]:
        """What a status shows."""
        keeper = self.keeper
        if keeper is None:
            return {"kind": "in-process", "connected": True, "pid": os.getpid(), "socket": None}
        return keeper.facts()


class SignerKeeper:
    """Watches the signer process of a member.

    Args:
        child: None where somebody else starts and stops it.
    """

    def __init__(self, home: SignerHome, child: SignerChild | None, log: EventLog) -> None:
        self.signer = RemoteSigner(home, self._on_lost)
        self._child = child
        self._log = log

    def open(self, flags: tuple[str, ...]) -> None:
        """Start the child, if it is one, and connect.

        Raises:
            SignerFailed: it is not this member's signer, or ended right after its start.
            SignerUnreachable: nobody answers.
        """
        if self._child is not None:
            self._child.start(flags)
        give_up_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.signer.open()
                return
            except SignerUnreachable:
                if self._child is not None and self._child.has_ended:
                    raise SignerFailed(self._child.end_text) from None
                if self._child is None or time.monotonic() > give_up_s:
                    raise
            time.sleep(POLL_S)

    def close(self) -> None:
        """Give the connection back and stop the child."""
        self.signer.close()
        if self._child is not None:
            self._child.stop()

    def facts(self) -> dict[str, Any]:
        """What a status shows."""
        connected = self.signer.is_connected
        return {
            "kind": "process" if self._child is not None else "socket",
            "connected": connected,
            "pid": self.signer.pid if connected else None,
            "socket": str(self.signer.home.path),
        }

    async def run(self, is_back: Callable[[Callable[[], None]], None]) -> None:
        """Find the signer again whenever it is lost, for ever.

        Args:
            is_back: takes what puts a new connection in use, and calls it in the engine's turn;
                SignerUnreachable out of that call is no failure.
        Raises:
            SignerFailed: somebody else answers at its place.
        """
        pause_s = PROBE_S
        while True:
            await asyncio.sleep(pause_s)
            self.signer.probe()
            if self.signer.is_connected:
                pause_s = PROBE_S
                continue
            self._restart()
            try:
                greeting = await asyncio.to_thread(greet, self.signer.home)
            except SignerUnreachable:
                pause_s = min(pause_s * 1.5, RESTART_PAUSE_MAX_S)
                continue
            done = asyncio.Event()

            def restore(greeting: Greeting = greeting, done: asyncio.Event = done) -> None:
                try:
                    self.signer.restore(greeting)
                    self._log.info("signer_back", pid=self.signer.pid)
                finally:
                    done.set()  # also when it is lost again: then it is looked for again

            is_back(restore)
            await done.wait()

    def _restart(self) -> None:
        child = self._child
        if child is not None and child.has_ended:
            self._log.error("signer_restarted", alarm=True, reason=child.end_text)
            child.start()

    def _on_lost(self, reason: str) -> None:
        self._log.error("signer_lost", alarm=True, reason=f"nothing is signed: {reason}")


@contextlib.contextmanager
def member_signer(
    folder: MemberFolder,
    file: tuple[FederationFile, Path],
    entry: MemberEntry,
    mode: StartMode,
    options: StartOptions,
    log: EventLog,
) -> Iterator[OpenedSigner]:
    """Open the signer that the operator chose, and close it again.

    Args:
        file: federation.json, read and where it is.
        entry: of this member in it.
    Raises:
        SignerFailed, SignerUnreachable: keys, guard or process cannot be used.
    """
    federation, federation_path = file
    genesis = federation.chain_params().genesis_hash
    if not options.signer_process and options.signer_socket is None:
        signer = open_signer(
            folder,
            genesis=genesis,
            block_key=entry.block_key,
            peg_key=entry.peg_key,
            script=federation.fed_script(),
            mode=mode,
        )
        with contextlib.closing(signer):
            yield OpenedSigner(signer, None)
        return
    home = SignerHome(
        path=options.signer_socket or folder.signer_socket,
        genesis=genesis,
        block_key=entry.block_key,
        peg_key=entry.peg_key,
        scripts=federation.signblockscripts,
    )
    child = None
    if options.signer_socket is None:
        safe = federation.member_set().f_s >= 1
        flags = () if safe else ("--allow-no-byzantine-safety",)
        child = SignerChild(folder, federation_path, flags)
    keeper = SignerKeeper(home, child, log)
    try:
        keeper.open(START_FLAGS.get(mode, ()))
        yield OpenedSigner(keeper.signer, keeper)
    finally:
        keeper.close()
