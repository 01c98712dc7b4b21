"""Members in one process: real core, journal, signer and chain, over a network in memory.

Time is virtual: the event loop jumps to its next timer when nothing else is to be done. With equal
seeds two runs are equal.
"""

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from federation.config import FederationFile
from federation.consensus.driver import Driver
from federation.consensus.encoding import FrameKind
from federation.consensus.events import StartMode, local_times
from federation.engine import Engine
from federation.engine_parts import EngineParts
from federation.evidence_store import EvidenceStore
from federation.files import FileLayer
from federation.member_sets import MemberSets
from federation.members import MemberSet
from federation.production import BlockProduction
from federation.secret_key import SecretKey
from federation.signer import Signer
from federation.start import (
    OpenedJournal,
    StartOptions,
    open_journal,
    open_signer,
    settle_mode,
)
from federation.verification import MessageVerifier
from federation.wal import BlockFiles, Journal
from sidechain.chain import Chain
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import Transaction
from tests.factories import FIRST_BLOCK_TIME_S, SignedChain
from tests.federation.founded import found, member_folder

QUEUE_BYTES = 8 * 1024 * 1024


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock is never waited for."""

    def __init__(self) -> None:
        self._virtual_s = 1_000.0
        super().__init__(selectors.SelectSelector())
        real_select = self._selector.select  # type: ignore[attr-defined]

        def select(timeout: float | None) -> Any:
            events = real_select(0)
            if not events and timeout:
                self._virtual_s += timeout
            return events if events or timeout is not None else real_select(None)

        self._selector.select = select  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._virtual_s


def run_virtual(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a test on a virtual clock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


class FastDisk(FileLayer):
    """Waits for no disk: these tests end processes, not machines."""

    def sync_data(self, descriptor: int) -> None:
        pass

    def sync_folder(self, folder: Path) -> None:
        pass


class Lines:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def write(self, event: str, **facts: Any) -> None:
        self.lines.append((event, facts))

    info = warning = error = write

    def of(self, event: str) -> list[dict[str, Any]]:
        return [facts for name, facts in self.lines if name == event]


class FakePeg:
    """A peg without Bitcoin: nothing to commit to, every claim is ripe."""

    def __init__(self) -> None:
        self.due = False
        self.ripe: Callable[[Transaction], bool] = lambda tx: True
        self.opinion: tuple[bool, bool, str] = (True, True, "")
        self.objective: Callable[[Block], None] = lambda block: None
        self.scripts: Sequence[bytes] | None = ()
        self.work: Callable[[Block], bool] = lambda block: False

    def plan_coinbase(self, height: int, *, minimal: bool) -> Sequence[bytes] | None:
        return self.scripts

    def is_due(self) -> bool:
        return self.due

    def carries_work(self, block: Block) -> bool:
        return self.work(block)

    def claim_is_ripe(self, tx: Transaction) -> bool:
        return self.ripe(tx)

    def check_objective(self, block: Block) -> None:
        self.objective(block)

    async def check_eventual_and_policy(self, block: Block) -> tuple[bool, bool, str]:
        return self.opinion


class FakeNetwork:
    """One member's links, kept by the world; remembers what was sent and who was blamed."""

    def __init__(self, world: "World", member: int) -> None:
        self.world, self.member = world, member
        self.expected: frozenset[int] = frozenset()
        self.sent: list[tuple[int, int, bytes]] = []
        self.charged: dict[int, int] = {}
        self.failed: dict[int, int] = {}
        self.dropped: list[tuple[int, str]] = []
        self.room: dict[int, int] = {}

    @property
    def connected(self) -> frozenset[int]:
        return self.world.links_of(self.member)

    def send(self, member: int, kind: int, body: bytes) -> bool:
        if member not in self.connected:
            return False
        self.sent.append((member, kind, body))
        self.world.carry(self.member, member, kind, body)
        return True

    def broadcast(self, kind: int, body: bytes) -> None:
        for member in sorted(self.connected):
            self.send(member, kind, body)

    def room_bytes(self, member: int) -> int:
        return self.room.get(member, QUEUE_BYTES) if member in self.connected else 0

    def charge_signatures(self, member: int, *, checked: int = 0, failed: int = 0) -> None:
        self.charged[member] = self.charged.get(member, 0) + checked
        self.failed[member] = self.failed.get(member, 0) + failed

    def drop(self, member: int, reason: str, *, ban: bool = False) -> None:
        self.dropped.append((member, reason))
        self.world.cut(self.member, member)

    def sent_kinds(self, to: int | None = None) -> list[int]:
        return [kind for member, kind, _ in self.sent if to in (None, member)]

    def bodies(self, kind: int, to: int | None = None) -> list[bytes]:
        return [body for member, k, body in self.sent if k == kind and to in (None, member)]


class Process:
    """One life of one member."""

    def __init__(
        self, world: "World", index: int, options: StartOptions, layer: FileLayer | None
    ) -> None:
        self.world, self.index = world, index
        folder = member_folder(world.folder, index)
        entry = world.file.members[index]
        genesis = world.params.genesis_hash
        self.folder = folder
        self.log = Lines()
        self.opened: OpenedJournal = open_journal(
            folder, genesis=genesis, vote_key=entry.block_key[1:], options=options
        )
        self.journal: Journal = self.opened.journal
        self.journal._layer = layer or FastDisk()
        self.signer: Signer = open_signer(
            folder,
            genesis=genesis,
            block_key=entry.block_key,
            peg_key=entry.peg_key,
            script=world.file.fed_script(),
            mode=self.opened.mode,
        )
        self.signer._layer = FastDisk()
        self.chain = Chain.open(folder.chain, world.params)
        self.start: StartMode = settle_mode(self.opened, self.signer, self.chain.tip_height)
        self.network = FakeNetwork(world, index)
        self.peg = FakePeg()
        self.production = BlockProduction(
            chain=self.chain,
            peg=self.peg,
            sets=MemberSets(world.file.signblockscript),
            first_epoch_blocks=world.first_epoch_blocks,
            future_limit_s=30,
            wall_clock_s=world.unix_time_s,
        )
        self.block_files = BlockFiles(folder.journal, FastDisk())
        stored = {h: self.block_files.load(h) or b"" for h in self.block_files.hashes}
        self.driver = Driver(
            vote_key=entry.block_key[1:],
            times=local_times(world.members.n, block_interval_ms=world.block_interval_ms),
            image=self.opened.image,
            blocks=stored,
        )
        self.evidence = EvidenceStore(
            folder.path / "evidence.jsonl",
            genesis=genesis,
            parameter_hash=world.file.parameter_hash(),
            members=world.members,
            now_ms=world.now_ms,
        )
        self.finals: list[bytes] = []
        self.modes: list[str] = []
        self.other: list[tuple[int, int, bytes]] = []
        self.engine = Engine(
            EngineParts(
                vote_keys=tuple(m.block_key[1:] for m in world.file.members),
                chain=self.chain,
                driver=self.driver,
                journal=self.journal,
                block_files=self.block_files,
                signer=self.signer,
                network=self.network,
                verifier=MessageVerifier(genesis),
                production=self.production,
                evidence=self.evidence,
                log=self.log,
                now_ms=world.now_ms,
                unix_time_s=world.unix_time_s,
                spawn=self._spawn,
                on_final=lambda block: self.finals.append(block.hash),
                on_mode=lambda mode, reason: self.modes.append(mode.name),
                on_link=lambda member, connected: None,
                on_tick=lambda: None,
                other_frames=lambda *frame: self.other.append(frame),
            )
        )
        self.engine.learn(self.opened.records)
        self.failure: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    def run(self) -> None:
        nonce = bytes([self.index + 1]) * 31 + bytes([self.world.lives])
        self._task = self._spawn(self.engine.run(self.start, nonce))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.failure = self.failure or error
            self.world.end(self.index)

    async def kill(self) -> None:
        """End without a goodbye; give the folder back."""
        for task in list(self._tasks):
            if task is not asyncio.current_task():
                task.cancel()
        await asyncio.sleep(0)
        self.close()

    def close(self) -> None:
        self.engine.close()
        self.journal.close()
        self.signer.close()
        self.chain.close()


class World:
    """A founded federation and its processes.

    Args:
        first_epoch_blocks: heights that count as due (N35); 0: only work makes blocks.
    """

    def __init__(
        self,
        folder: Path,
        *,
        n: int = 4,
        k: int = 3,
        seed: int = 0,
        first_epoch_blocks: int = 0,
        block_interval_ms: int = 0,
    ) -> None:
        self.folder = folder
        self.file: FederationFile = found(folder, n=n, k=k)
        self.params = self.file.chain_params()
        self.members: MemberSet = self.file.member_set()
        self.secrets = [
            SecretKey(bytes.fromhex(member_folder(folder, i).block_key.read_text().strip()))
            for i in range(n)
        ]
        self.first_epoch_blocks = first_epoch_blocks
        self.block_interval_ms = block_interval_ms
        self.random = random.Random(seed)
        self.processes: dict[int, Process] = {}
        self.cuts: set[frozenset[int]] = set()
        self.lost: Callable[[int, int, int], bool] = lambda source, to, kind: False
        self.lives = 0
        self._due_s: dict[tuple[int, int], float] = {}

    # -- clock

    def now_ms(self) -> int:
        return int(asyncio.get_running_loop().time() * 1_000)

    def unix_time_s(self) -> int:
        try:
            passed_s = asyncio.get_running_loop().time()
        except RuntimeError:
            passed_s = 0
        return FIRST_BLOCK_TIME_S + int(passed_s)

    # -- processes

    def start(
        self,
        index: int,
        options: StartOptions | None = None,
        *,
        layer: FileLayer | None = None,
        **attributes: Any,
    ) -> Process:
        self.lives += 1
        process = Process(self, index, options or StartOptions(init=True), layer)
        for name, value in attributes.items():
            setattr(process.peg, name, value)
        self.processes[index] = process
        process.run()
        for other in self.links_of(index):
            self.processes[other].engine.on_link(index, True)
            process.engine.on_link(other, True)
        return process

    def start_all(self, **attributes: Any) -> list[Process]:
        return [self.start(i, **attributes) for i in range(self.members.n)]

    async def kill(self, index: int) -> None:
        process = self.processes[index]
        self.end(index)
        await process.kill()

    def end(self, index: int) -> None:
        """The process of a member is gone; its links are down."""
        for other in self.links_of(index) & self.processes.keys():
            self.processes[other].engine.on_link(index, False)
        self.processes.pop(index, None)

    async def close(self) -> None:
        for index in list(self.processes):
            await self.kill(index)

    # -- network

    def links_of(self, member: int) -> frozenset[int]:
        if member not in self.processes:
            return frozenset()
        return frozenset(
            other
            for other in self.processes
            if other != member and frozenset((member, other)) not in self.cuts
        )

    def cut(self, a: int, b: int) -> None:
        if frozenset((a, b)) in self.cuts:
            return
        self.cuts.add(frozenset((a, b)))
        for source, to in ((a, b), (b, a)):
            if source in self.processes:
                self.processes[source].engine.on_link(to, False)

    def mend(self, a: int, b: int) -> None:
        self.cuts.discard(frozenset((a, b)))
        for source, to in ((a, b), (b, a)):
            if to in self.links_of(source):
                self.processes[source].engine.on_link(to, True)

    def carry(self, source: int, to: int, kind: int, body: bytes) -> None:
        if self.lost(source, to, kind):
            return
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self.random.uniform(0.0005, 0.003)
        due_s = max(due_s, self._due_s.get((source, to), 0))  # one link keeps its order
        self._due_s[source, to] = due_s
        ends = self.processes[source], self.processes[to]
        loop.call_at(due_s, self._arrive, ends, kind, body)

    def _arrive(self, ends: tuple["Process", "Process"], kind: int, body: bytes) -> None:
        """A link dies with either of its processes, and with it what is under way."""
        source, to = ends
        alive = self.processes.get(source.index) is source
        if alive and self.processes.get(to.index) is to and source.index in self.links_of(to.index):
            to.engine.on_frame(source.index, kind, body)

    # -- waiting

    async def until(self, done: Callable[[], bool], seconds: float = 60) -> None:
        """Let virtual time pass until something holds; fail after so many seconds of it."""
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + seconds
        while not done():
            if loop.time() > give_up_s:
                raise AssertionError("it did not happen in time")
            await asyncio.sleep(0.005)

    async def until_height(self, height: int, seconds: float = 60) -> None:
        await self.until(
            lambda: all(p.chain.tip_height >= height for p in self.processes.values()), seconds
        )

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    # -- money

    def wallet(self, process: Process) -> SignedChain:
        """Makes deposits, claims and payments on a member's chain."""
        return SignedChain(process.chain, n=self.members.n, k=self.members.k)

    def submit(self, process: Process, tx: Transaction) -> bytes:
        """Give a transaction to one member's mempool, without telling the others."""
        txid = process.chain.submit_tx(tx, None, self.unix_time_s())
        process.engine.work_available()
        return txid


def status_kinds(kinds: Sequence[int]) -> list[int]:
    """Kinds without the chatter of status exchange."""
    return [kind for kind in kinds if kind not in (FrameKind.STATUS, FrameKind.ROLLCALL)]
