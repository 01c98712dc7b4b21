"""A federation on this machine: its processes brought up, kept apart, and taken down again.

One object serves one command. What runs is read from /proc each time, what should run from
local.json; so a federation whose runner was killed is simply continued by the next command.

Source: D9, N5, N18.
"""

import asyncio
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from federation.bitcoind_process import (
    COOKIE_NAME,
    BitcoindProgram,
    bitcoind_arguments,
    ended_without_warning,
    find_bitcoind,
    rebuilding_arguments,
)
from federation.config import (
    BitcoindAccess,
    FederationFile,
    MemberConfig,
    MemberFolder,
)
from federation.founding import MemberPorts, found_federation
from federation.local_state import (
    FAUCET_WALLET,
    SIGNER_SUFFIX,
    LocalError,
    LocalFolder,
    LocalMember,
    LocalState,
    PortChooser,
    Stage,
    UpOptions,
    check_foundable,
    check_options,
    ports_of,
    signer_name,
    with_options,
)
from federation.processes import (
    ChildProcess,
    find_processes,
    is_running,
    kill_processes,
    spawn,
    stop_processes,
    wait_ended,
)
from peg.bitcoind import BitcoindClient
from peg.parameters import LOCAL
from sidechain.api.client import RpcClient, RpcError
from sidechain.errors import Unavailable

BITCOIND = "bitcoind"
WALLET = "wallet"
BITCOIND_COOKIE_FROM_MEMBER = Path("../../bitcoind") / COOKIE_NAME
READY_TIMEOUT_S = 60
REBUILD_TIMEOUT_MS = 600_000
STOP_TIMEOUT_MS = 15_000
SIGNER_GRACE_MS = 2_000
POLL_S = 0.05
OUTPUT_LINES_SHOWN = 12
PORT_TAKEN_SIGNS = ("address already in use", "unable to bind", "unable to start http server")

Report = Callable[[str, str], None]
"""Told of progress: a short name of the step, and a sentence."""


class AlreadyRunning(LocalError):
    """`up` has nothing to do."""


class PortTaken(LocalError):
    """A process could not listen on its port; the next `up` chooses another."""


class LocalFederation:
    """One local federation in one data folder."""

    def __init__(self, data: Path, report: Report) -> None:
        self.folder = LocalFolder(data.absolute())
        self._report = report

    # ---- what there is ----

    def require_state(self) -> LocalState:
        """The federation's state.

        Raises:
            LocalError: there is no federation in this folder.
        """
        state = self.folder.load()
        if state is None:
            raise LocalError(f"no federation in {self.folder.path}: `fedpeg up` makes one")
        return state

    def running(self) -> dict[str, ChildProcess]:
        """The live processes by name."""
        return {child.name: child for child in find_processes(self.folder.path)}

    def require_running(self, *names: str) -> LocalState:
        """The state, provided these processes run.

        Raises:
            LocalError: they do not; says how to start them.
        """
        state = self.require_state()
        running = self.running()
        missing = [name for name in names if name not in running]
        if missing and not running:
            place = self.folder.path
            raise LocalError(f"the federation in {place} is not up: `fedpeg up` starts it")
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            which = " and ".join(missing)
            raise LocalError(f"{which} {verb} not running: `fedpeg up` starts what is missing")
        return state

    def bitcoind_client(self, state: LocalState, *, timeout_ms: int = 60_000) -> BitcoindClient:
        """A client of the federation's node."""
        return BitcoindClient(
            f"http://127.0.0.1:{state.bitcoind_rpc_port}",
            cookie_path=self.folder.bitcoind_cookie,
            timeout_ms=timeout_ms,
        )

    def member_client(self, member: LocalMember, *, timeout_s: int = 30) -> RpcClient:
        """A client of one member."""
        return RpcClient(
            f"http://127.0.0.1:{member.rpc_port}",
            MemberFolder(self.folder.member(member.name)).cookie,
            timeout_s,
        )

    def wallet_client(self, state: LocalState, *, timeout_s: int = 60) -> RpcClient:
        """A client of the wallet process."""
        return RpcClient(
            f"http://127.0.0.1:{state.wallet_rpc_port}", self.folder.wallet / ".cookie", timeout_s
        )

    def load_federation(self, state: LocalState) -> FederationFile:
        """federation.json, checked."""
        return FederationFile.load(
            self.folder.federation_file,
            allow_no_byzantine_safety=state.allow_no_byzantine_safety,
        )

    # ---- up ----

    async def start_node(self, options: UpOptions) -> LocalState:
        """Start the Bitcoin node unless it runs; make the federation's files if there are none.

        The folder must be locked. Stop what was started with `stopped_on_failure`.

        Returns:
            The state; its `stage` tells whether the founding ceremony is still to be finished.
        Raises:
            AlreadyRunning: everything runs and the founding is finished.
            LocalError, BitcoindMissing, InvalidConfig: it cannot be done; says why.
        """
        state = self.folder.load()
        running = self.running()
        if state is None and running:
            raise LocalError(
                f"processes of a federation that was in {self.folder.path} still run: "
                "`fedpeg down` stops them"
            )
        if state is None:
            state = self._new_state(options)
        else:
            check_options(state, options)
            if set(state.process_names()) <= set(running) and state.stage is Stage.OPEN:
                raise AlreadyRunning(
                    f"the federation in {self.folder.path} is up already ({len(running)} processes)"
                )
            if state != with_options(state, options):
                state = with_options(state, options)
                self.folder.save(state)
            state = self._keep_ports(state, running)
        await self._start_bitcoind(state)
        self._found(state)
        return state

    async def start_others(self, state: LocalState) -> None:
        """Start the members and the wallet process, those that do not run.

        Raises:
            LocalError: one of them ended or does not answer.
        """
        await self.start_members([member.name for member in state.members])
        await self._start_wallet(state)

    @asynccontextmanager
    async def stopped_on_failure(self) -> AsyncIterator[None]:
        """Stop what was started inside the block if it fails or is cancelled."""
        before = {child.pid for child in self.running().values()}
        try:
            yield
        except BaseException:
            started = [child for child in self.running().values() if child.pid not in before]
            self._stop_in_order(started)
            raise

    def _new_state(self, options: UpOptions) -> LocalState:
        n = 4 if options.n is None else options.n
        k = 2 * n // 3 + 1 if options.k is None else options.k
        block_time_ms = 1_000 if options.block_time_ms is None else options.block_time_ms
        find_bitcoind()  # before anything is written
        ports = PortChooser()
        state = LocalState(
            chain=f"fedpeg-{secrets.token_hex(4)}",
            n=n,
            k=k,
            block_time_ms=block_time_ms,
            allow_no_byzantine_safety=options.allow_no_byzantine_safety,
            second_validation=bool(options.second_validation),
            allow_faults=bool(options.allow_faults),
            signers=bool(options.signers),
            members=tuple(
                LocalMember(
                    name=f"m{i}",
                    index=i,
                    port=ports.choose(),
                    rpc_port=ports.choose(),
                    esplora_port=ports.choose(),
                )
                for i in range(n)
            ),
            bitcoind_rpc_port=ports.choose(),
            wallet_rpc_port=ports.choose(),
        )
        check_foundable(self.folder, state)
        self.folder.save(state)
        return state

    def _keep_ports(self, state: LocalState, running: dict[str, ChildProcess]) -> LocalState:
        """Give processes that do not run another port where theirs was taken meanwhile."""
        ports = PortChooser()
        for name, port in ports_of(state):
            if name in running:
                ports.taken.add(port)
        members = []
        for member in state.members:
            if member.name not in running:
                member = replace(
                    member,
                    port=ports.keep_or_choose(member.port),
                    rpc_port=ports.keep_or_choose(member.rpc_port),
                    esplora_port=ports.keep_or_choose(member.esplora_port),
                )
            members.append(member)
        bitcoind_port, wallet_port = state.bitcoind_rpc_port, state.wallet_rpc_port
        if BITCOIND not in running:
            bitcoind_port = ports.keep_or_choose(bitcoind_port)
        if WALLET not in running:
            wallet_port = ports.keep_or_choose(wallet_port)
        kept = replace(
            state,
            members=tuple(members),
            bitcoind_rpc_port=bitcoind_port,
            wallet_rpc_port=wallet_port,
        )
        if kept == state:
            return state
        # running processes know the old ports only: they have to start again
        links_moved = [m.port for m in kept.members] != [m.port for m in state.members]
        stale = [child for name, child in running.items() if name != BITCOIND]
        if links_moved or kept.bitcoind_rpc_port != state.bitcoind_rpc_port:
            self._stop_in_order(stale)
        elif WALLET in running:
            self._stop_in_order([running[WALLET]])
        self._report("ports", "other programs took some ports; chose new ones")
        self.folder.save(kept)
        self._write_ports(kept)
        return kept

    def _write_ports(self, state: LocalState) -> None:
        if not self.folder.federation_file.exists():
            return
        federation = self.load_federation(state)
        moved = federation.at_ports({member.index: member.port for member in state.members})
        if moved != federation:
            moved.save(self.folder.federation_file)
        for member in state.members:
            folder = self.folder.member(member.name)
            config = replace(
                MemberConfig.load(folder),
                listen_port=member.port,
                rpc_port=member.rpc_port,
                esplora_port=member.esplora_port,
                bitcoind=BitcoindAccess(
                    url=f"http://127.0.0.1:{state.bitcoind_rpc_port}",
                    cookie=BITCOIND_COOKIE_FROM_MEMBER,
                ),
            )
            config.save(folder)

    async def _start_bitcoind(self, state: LocalState) -> None:
        child = self.running().get(BITCOIND)
        if child is None:
            program = find_bitcoind()
            self.folder.bitcoind.mkdir(mode=0o700, exist_ok=True)
            if ended_without_warning(self.folder.bitcoind):
                await self._rebuild_bitcoind(program, state)
            self._report(BITCOIND, f"starting {program.version}")
            self.folder.bitcoind_cookie.unlink(missing_ok=True)
            child = spawn(
                BITCOIND,
                bitcoind_arguments(program, self.folder.bitcoind, state.bitcoind_rpc_port),
                data=self.folder.path,
                output=self.folder.output(BITCOIND),
            )
        client = BitcoindClient(
            f"http://127.0.0.1:{state.bitcoind_rpc_port}",
            cookie_path=self.folder.bitcoind_cookie,
            retry_ms=0,
        )
        async with client:
            await self._until_answers(child, client.chain_info)
            await client.create_wallet(FAUCET_WALLET)

    async def _rebuild_bitcoind(self, program: BitcoindProgram, state: LocalState) -> None:
        """Let a node that was killed find its blocks again, before anybody asks it."""
        self._report(BITCOIND, "bitcoind was killed: reading its blocks again")
        child = spawn(
            BITCOIND,
            rebuilding_arguments(program, self.folder.bitcoind, state.bitcoind_rpc_port),
            data=self.folder.path,
            output=self.folder.output(BITCOIND),
        )
        if await asyncio.to_thread(wait_ended, [child], REBUILD_TIMEOUT_MS):
            raise LocalError("bitcoind takes too long to read its blocks again")

    def _found(self, state: LocalState) -> None:
        if self.folder.federation_file.exists():
            return
        self._report("keys", f"making keys and certificates for {state.n} members")
        found_federation(
            self.folder.path,
            n=state.n,
            k=state.k,
            chain_name=state.chain,
            block_time_ms=state.block_time_ms,
            ports=[
                MemberPorts(link=m.port, rpc=m.rpc_port, esplora=m.esplora_port)
                for m in state.members
            ],
            peg=LOCAL,
            bitcoind_url=f"http://127.0.0.1:{state.bitcoind_rpc_port}",
            bitcoind_cookie=str(BITCOIND_COOKIE_FROM_MEMBER),
            entropy=os.urandom,
            unix_time_s=int(time.time()),
            allow_no_byzantine_safety=state.allow_no_byzantine_safety,
        )

    async def _start_wallet(self, state: LocalState) -> None:
        child = self.running().get(WALLET)
        if child is None:
            self.folder.wallet.mkdir(mode=0o700, exist_ok=True)
            child = self.spawn_module(
                WALLET, "federation.wallet_process", ["--data", str(self.folder.path)]
            )
        async with self.wallet_client(state, timeout_s=10) as client:
            await self._until_answers(child, lambda: client.call("listwallets"))

    # ---- members ----

    async def start_members(
        self, names: Sequence[str], *, restored: bool = False
    ) -> tuple[str, ...]:
        """Start those of these members that do not run, and wait until they answer.

        Args:
            restored: their folders are not what they left behind (C70).
        Returns:
            Those that were started.
        Raises:
            LocalError: one of them ended or does not answer.
        """
        state = self.require_state()
        members = [self.find_member(state, name) for name in names]
        running = self.running()
        children = dict(running)
        started = [member for member in members if member.name not in running]
        if started:
            self._report("members", f"starting {', '.join(m.name for m in started)}")
        for member in started:
            folder = self.folder.member(member.name)
            arguments = ["--folder", str(folder), "--federation", str(self.folder.federation_file)]
            # only a member that never ran may begin without a journal (N5)
            is_new = state.stage is not Stage.OPEN or member.index >= state.n
            if is_new and MemberFolder(folder).birth_mark.exists():
                arguments.append("--init")
            arguments += state.member_flags()
            arguments += ["--restored"] * restored
            children[member.name] = self.spawn_module(member.name, "federation.member", arguments)
        await all_of(self._until_member_answers(m, children[m.name]) for m in members)
        return tuple(member.name for member in started)

    async def _until_member_answers(self, member: LocalMember, child: ChildProcess) -> None:
        async with self.member_client(member, timeout_s=10) as client:
            await self._until_answers(child, lambda: client.call("getblockcount"))

    def find_member(self, state: LocalState, name: str) -> LocalMember:
        """A member by name (m0) or index (0).

        Raises:
            LocalError: there is none.
        """
        for member in state.members:
            if name in (member.name, str(member.index)):
                return member
        known = ", ".join(member.name for member in state.members)
        raise LocalError(f"no member {name!r}: there are {known}")

    def stop_member(self, name: str, *, kill: bool) -> bool:
        """Stop one member, with SIGKILL if asked; False when it did not run."""
        running = self.running()
        child = running.get(name)
        if child is None:
            return False
        if kill:
            kill_processes([child])
        else:
            stop_processes([child], STOP_TIMEOUT_MS)
        # a signer ends with its member; it is waited for, so that nothing is left behind
        signers = [running[signer_name(name)]] if signer_name(name) in running else []
        stop_processes(wait_ended(signers, SIGNER_GRACE_MS), STOP_TIMEOUT_MS)
        return True

    # ---- down ----

    def stop_all(self) -> tuple[str, ...]:
        """Stop every process of this folder; returns their names."""
        children = find_processes(self.folder.path)
        self._stop_in_order(children)
        return tuple(child.name for child in children)

    def _stop_in_order(self, children: Iterable[ChildProcess]) -> None:
        """The wallet and the members first, then their signers, then the node they talk to."""
        children = tuple(children)
        signers = [c for c in children if c.name.endswith(SIGNER_SUFFIX)]
        others = [c for c in children if c.name != BITCOIND and c not in signers]
        stop_processes(others, STOP_TIMEOUT_MS)
        stop_processes(signers, STOP_TIMEOUT_MS)
        stop_processes([c for c in children if c.name == BITCOIND], 2 * STOP_TIMEOUT_MS)

    # ---- helpers ----

    def spawn_module(
        self, name: str, module: str, arguments: Sequence[str], output: Path | None = None
    ) -> ChildProcess:
        """Start a Python program of ours as a process of this federation."""
        root = str(Path(__file__).resolve().parent.parent)
        inherited = os.environ.get("PYTHONPATH")
        return spawn(
            name,
            [sys.executable, "-m", module, *arguments],
            data=self.folder.path,
            output=output or self.folder.output(name),
            variables={"PYTHONPATH": f"{root}{os.pathsep}{inherited}" if inherited else root},
        )

    async def _until_answers(self, child: ChildProcess, ask: Callable[[], Any]) -> None:
        """Ask until there is an answer; fail at once when the process has ended."""
        name = child.name
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + READY_TIMEOUT_S
        while True:
            if not is_running(child):
                output = self._last_output(name)
                said = output.lower()  # asyncio writes the system's words in lower case
                kind = PortTaken if any(s in said for s in PORT_TAKEN_SIGNS) else LocalError
                raise kind(f"{name} ended right after its start{output}")
            try:
                await ask()
                return
            except (Unavailable, RpcError) as error:
                reason = str(error)
            if loop.time() > give_up_at:
                raise LocalError(
                    f"{name} does not answer within {READY_TIMEOUT_S} s: {reason}"
                    f"{self._last_output(name)}"
                )
            await asyncio.sleep(POLL_S)

    def _last_output(self, name: str) -> str:
        try:
            text = self.folder.output(name).read_text(errors="replace")
        except OSError:
            return ""
        lines = text.strip().splitlines()[-OUTPUT_LINES_SHOWN:]
        return ":\n  " + "\n  ".join(lines) if lines else ""


async def all_of(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do several things at once; the first failure ends the others and is raised itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
