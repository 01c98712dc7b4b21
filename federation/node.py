"""One member's process: opens everything, wires it, runs it in one TaskGroup, closes it in order.

Source: design 3, consensus:C40, consensus:C43, consensus:C70, N5, N15, N24.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from federation.change_desk import ChangeDesk
from federation.config import (
    FederationFile,
    MemberConfig,
    MemberFolder,
    take_birth_mark,
)
from federation.consensus.driver import Driver
from federation.consensus.encoding import FRAME_LIMITS_BYTES, FrameKind
from federation.consensus.events import ConsensusTimes, StartMode
from federation.consensus.records import Mode
from federation.covenant_file import CovenantFile, covenant_ports, open_covenants
from federation.engine import Engine
from federation.engine_parts import EngineParts
from federation.evidence_store import EVIDENCE_NAME, EvidenceStore
from federation.frames import PROTOCOL_VERSION, Hello
from federation.member_change import MemberChange
from federation.member_rpc import MemberMethods
from federation.peers import EventLog, PeerIdentity, PeerNetwork
from federation.peg_evidence import PegEvidence
from federation.production import BlockProduction
from federation.relay import TransactionRelay
from federation.second_opinion import second_opinion
from federation.signer_keeper import OpenedSigner, member_signer
from federation.start import (
    CannotStart,
    NodeSeams,
    OpenedJournal,
    StartOptions,
    load_federation,
    monotonic_ms,
    open_bitcoind,
    open_journal,
    open_peg_journal,
    people_and_sets,
    settle_mode,
    stored_blocks,
)
from federation.verification import MessageVerifier
from federation.wal import BlockFiles, Journal
from peg.burn_relay import BurnRelay
from peg.parent_view import ParentChange, ParentView
from peg.service import PegPorts, PegService, PegSetup
from peg.watcher import ParentWatcher
from sidechain.api.esplora import EsploraServer
from sidechain.api.esplora_mempool import sender
from sidechain.api.http import RpcServer
from sidechain.api.registry import Registry
from sidechain.api.rpc import register_chain_methods
from sidechain.api.rpc_node import NodeHooks
from sidechain.chain import Chain
from sidechain.errors import Invalid, PeerFault
from sidechain.index.follower import ChainIndex
from sidechain.primitives.block import Block

__all__ = ["CannotStart", "Node", "StartOptions", "open_node"]

WATCH_POLL_MS: Final = 200
PEG_FRAMES: Final = range(FrameKind.RECORD, FrameKind.REPORTSIG + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeParts:
    """What is open when a node is made; `open_node` closes it.

    Attributes:
        start: how the core is to start, by journal, signer and chain together.
    """

    folder: MemberFolder
    config: MemberConfig
    federation: FederationFile
    chain: Chain
    index: ChainIndex
    opened: OpenedJournal
    start: StartMode
    peg_journal: Journal
    covenants: CovenantFile
    burns: BurnRelay
    signer: OpenedSigner
    log: EventLog
    seams: NodeSeams


class Node:
    """Everything one member consists of. Made by `open_node`."""

    def __init__(self, parts: NodeParts) -> None:
        self._parts = parts
        self._folder, self._config = parts.folder, parts.config
        self._federation, self._chain = parts.federation, parts.chain
        self._signer, self._log = parts.signer.signer, parts.log
        self._keeper = parts.signer.keeper
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._people, self._sets = people_and_sets(self._federation)
        self._entry = self._people.entries[self._config.index]
        self._view = ParentView()
        self._client = open_bitcoind(self._config.bitcoind)
        self._watcher = ParentWatcher(
            self._client,
            self._view,
            on_change=self._on_parent_change,
            on_health=self._on_parent_health,
            poll_ms=WATCH_POLL_MS,
        )
        self._network = self._make_network()
        self._second = second_opinion(self._config.second_validator, self._chain, self._log)
        self._peg = self._make_peg(parts)
        self._changes = self._make_changes()
        self._production = self._make_production()
        self._evidence = EvidenceStore(
            self._folder.path / EVIDENCE_NAME,
            genesis=self._chain.params.genesis_hash,
            parameter_hash=self._federation.parameter_hash(),
            members=self._federation.member_set(),
            now_ms=monotonic_ms,
            members_at=self._production.member_set_at,
        )
        self._driver, block_files = self._make_driver()
        self._engine = Engine(self._engine_parts(block_files))
        self._peg_evidence = PegEvidence(
            genesis=self._chain.params.genesis_hash,
            block_keys=self._people.block_keys,
            store=self._evidence,
            log=self._log,
            alarm=self._engine.raise_alarm,
        )
        self._engine.learn(parts.opened.records)
        self._relay = TransactionRelay(
            chain=self._chain,
            network=self._network,
            facts_for=self._peg.parent_facts_for,
            on_new=self._engine.work_available,
            post=self._engine.post,
            post_later=self._engine.post_later,
            spawn=self._spawn,
            unix_time_s=self._parts.seams.wall_clock_s,
            now_ms=monotonic_ms,
            log=self._log,
        )
        self._registry = Registry()
        self._server = RpcServer(
            self._registry,
            self._folder.cookie,
            port=self._config.rpc_port,
            on_fault=lambda error: self._on_fault("rpc_fault", error),
        )
        self._esplora = EsploraServer(
            self._chain,
            parts.index,
            send=sender(self._registry),
            port=self._config.esplora_port,
            on_fault=lambda error: self._on_fault("esplora_fault", error),
        )
        self._register_methods()

    # -- running

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set; then close links and API, and return.

        Raises:
            ExceptionGroup: around what stopped it: `engine.Halted`, a disk or signer failure, an
                InvariantError.
        """
        self._stop = stop
        try:
            self._peg.load(self._chain.block(h) for h in range(1, self._chain.tip_height + 1))
            async with asyncio.TaskGroup() as group:
                self._group = group
                await self._network.run(group)
                self._spawn(self._engine.run(self._parts.start, secrets.token_bytes(32)))
                self._spawn(self._watcher.run())
                self._spawn(self._peg.run())
                self._spawn(self._second.run())
                if self._keeper is not None:
                    self._spawn(self._keeper.run(self._engine.signer_is_back))
                await self._engine.has_started.wait()
                await self._esplora.start(group)
                await self._server.start()
                self._log.info(
                    "member_started",
                    index=self._config.index,
                    height=self._chain.tip_height,
                    start=self._parts.start.value,
                    port=self._network.port,
                    rpc_port=self._server.port,
                    esplora_port=self._esplora.port,
                    parameter_hash=self._federation.parameter_hash().hex(),
                )
                await stop.wait()
                self._log.info("member_stopping")
                await self._server.stop()
                await self._esplora.stop()
                await self._network.close()
                for task in list(self._tasks):
                    task.cancel()
        finally:
            self._engine.close()
            await self._server.stop()
            await self._esplora.stop()
            await self._client.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        if self._group is None:
            work.close()
            raise RuntimeError("the node is not running")
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- what the parts tell

    def _on_other_frame(self, member: int, kind: int, body: bytes) -> None:
        if kind in (FrameKind.TXINV, FrameKind.TXGET, FrameKind.TX):
            self._relay.on_frame(member, kind, body)
        elif kind in PEG_FRAMES:
            if kind == FrameKind.PEGSIG:
                self._peg_evidence.see(member, body)
            try:
                self._peg.on_frame(kind, member, body)
            except (PeerFault, Invalid) as fault:
                self._log.warning("peer_fault", member=member, reason=str(fault))
                self._network.charge_signatures(member, failed=1)

    def _on_link(self, member: int, connected: bool) -> None:
        self._relay.on_link(member, connected)
        self._peg.on_link(member, connected)

    def _on_final(self, block: Block) -> None:
        self._peg.on_final_block(block)
        self._changes.on_final()
        self._relay.on_final(block)

    def _on_mode(self, mode: Mode, reason: str) -> None:
        if mode is Mode.HALTED:
            self._log.error("halted", alarm=True, reason=reason)

    async def _on_parent_change(self, change: ParentChange) -> None:
        self._log.info(
            "parent_changed",
            height=self._view.tip_height,
            disconnected=len(change.disconnected),
            connected=len(change.connected),
        )
        self._peg.on_parent_change()
        if change.disconnected:
            self._engine.post(lambda: self._relay.drop(self._peg.voting.names_lost_block))
        self._engine.work_available()

    def _on_parent_health(self, healthy: bool, reason: str) -> None:
        if healthy:
            self._log.info("bitcoind_answers")
        else:
            self._log.warning("bitcoind_down", reason=reason)

    # -- making the parts

    def _make_network(self) -> PeerNetwork:
        return self._parts.seams.network(
            identity=PeerIdentity(
                index=self._config.index,
                certificate=self._folder.certificate,
                key=self._folder.tls_key,
                listen_host=self._config.listen_host,
                listen_port=self._config.listen_port,
            ),
            members=self._people.peers(),
            hello=self._hello,
            limits=FRAME_LIMITS_BYTES,
            on_frame=lambda member, kind, body: self._engine.on_frame(member, kind, body),
            on_link=lambda member, connected: self._engine.on_link(member, connected),
            wait_for_room=lambda member: self._engine.wait_for_room(member),
            log=self._log,
        )

    def _hello(self) -> Hello:
        return Hello(
            protocol_version=PROTOCOL_VERSION,
            genesis=self._chain.params.genesis_hash,
            parameter_hash=self._federation.parameter_hash(),
            block_key=self._entry.block_key,
            tip_height=self._chain.tip_height,
            block_interval_ms=self._config.block_interval_ms,
            timeout_base_ms=self._config.timeout_base_ms,
            timeout_cap_ms=self._config.timeout_cap_ms,
            future_limit_s=self._config.future_limit_s,
        )

    def _make_peg(self, parts: NodeParts) -> PegService:
        setup = PegSetup(
            chain=self._chain.params,
            parameters=self._federation.peg,
            script=self._federation.fed_script(),
            parameter_hash=self._federation.parameter_hash(),
            member=self._config.index,
            block_keys=self._people.block_keys,
            approvals_folder=self._folder.approved,
            reports_folder=self._folder.reports,
            voters=lambda: [m.block_key for m in self._production.member_set().members],
        )
        ports = PegPorts(
            client=self._client,
            view=self._view,
            is_healthy=lambda: self._watcher.is_healthy,
            poke=self._watcher.poke,
            signer=self._signer,
            link=self._network,
            journal=parts.peg_journal,
            journal_bodies=[record.body for record in parts.peg_journal.records],
            log=self._log,
            burns=self._parts.burns,
            covenants=covenant_ports(
                self._chain,
                parts.covenants,
                facts_for=lambda tx: self._peg.parent_facts_for(tx),
                on_accepted=lambda tx: self._relay.accepted(tx),
                unix_time_s=parts.seams.wall_clock_s,
            ),
            on_work=lambda: self._engine.work_available(),
            is_halted=lambda: self._driver.mode is Mode.HALTED,
            second_opinion=self._second.reason,
            is_catching_up=lambda: self._engine.is_catching_up,
        )
        return PegService(setup, ports)

    def _make_changes(self) -> ChangeDesk:
        return ChangeDesk(
            self._folder.changes,
            self._federation,
            self._chain,
            own_index=self._config.index,
            at_tip=lambda: self._engine.at_tip() & self._network.connected,
            on_learn=self._learn_change,
        )

    def _learn_change(self, change: MemberChange) -> None:
        """Hold the script of a set to come, and dial who is to join."""
        self._sets.learn(change.signblockscript)
        if self._keeper is not None:
            self._keeper.signer.learn_script(change.signblockscript)
        self._people.dial_joining(change, self._config.index, self._network.add)

    def _make_production(self) -> BlockProduction:
        return BlockProduction(
            chain=self._chain,
            peg=self._peg,
            sets=self._sets,
            change=self._changes,
            first_epoch_blocks=self._chain.params.dynamic_epoch_length,
            future_limit_s=self._config.future_limit_s,
            wall_clock_s=self._parts.seams.wall_clock_s,
            propose_timer_ms=self._config.timeout_base_ms,
            now_ms=monotonic_ms,
        )

    def _make_driver(self) -> tuple[Driver, BlockFiles]:
        block_files = BlockFiles(self._folder.journal)
        stored = stored_blocks(block_files, self._production)
        config = self._config
        driver = Driver(
            vote_key=self._entry.block_key[1:],
            times=ConsensusTimes(
                block_interval_ms=config.block_interval_ms,
                min_interval_ms=config.min_interval_ms,
                timeout_base_ms=config.timeout_base_ms,
                timeout_step_ms=config.timeout_step_ms,
                timeout_cap_ms=config.timeout_cap_ms,
                gossip_interval_ms=config.gossip_interval_ms,
            ),
            image=self._parts.opened.image,
            blocks=stored,
        )
        return driver, block_files

    def _engine_parts(self, block_files: BlockFiles) -> EngineParts:
        return EngineParts(
            vote_keys=self._people.vote_keys,
            chain=self._chain,
            driver=self._driver,
            journal=self._parts.opened.journal,
            block_files=block_files,
            signer=self._signer,
            network=self._network,
            verifier=MessageVerifier(self._chain.params.genesis_hash),
            production=self._production,
            evidence=self._evidence,
            log=self._log,
            now_ms=monotonic_ms,
            unix_time_s=self._parts.seams.wall_clock_s,
            spawn=self._spawn,
            on_final=self._on_final,
            on_mode=self._on_mode,
            on_link=self._on_link,
            on_tick=lambda: self._relay.tick(),
            other_frames=self._on_other_frame,
        )

    def _register_methods(self) -> None:
        register_chain_methods(
            self._registry,
            self._chain,
            facts_for=self._peg.parent_facts_for,
            on_accepted=self._relay.accepted,
            hooks=NodeHooks(
                unix_time_s=self._parts.seams.wall_clock_s,
                stop=lambda: self._stop.set(),
                connections=lambda: len(self._network.connected),
            ),
        )
        MemberMethods(
            federation=self._federation,
            config=self._config,
            chain=self._chain,
            driver=self._driver,
            engine=self._engine,
            network=self._network,
            production=self._production,
            changes=self._changes,
            people=self._people,
            peg=self._peg,
            watcher=self._watcher,
            parent=self._view,
            evidence=self._evidence,
            now_ms=monotonic_ms,
            started_ms=monotonic_ms(),
            esplora_url=lambda: self._esplora.url,
            signer=self._parts.signer.facts,
        ).register(self._registry)
        self._parts.seams.register(self._registry, self._network, self._chain)

    def _on_fault(self, event: str, error: BaseException) -> None:
        self._log.error(event, error=repr(error))


@contextlib.contextmanager
def open_node(
    path: Path,
    federation_path: Path,
    options: StartOptions,
    log: EventLog,
    seams: NodeSeams | None = None,
) -> Iterator[Node]:
    """Open a member's folder, journal first (C43), and close it all again.

    Raises:
        InvalidConfig, CannotStart: with what a person can do about it.
        JournalLocked: another process runs this member. JournalFailed, SignerFailed, Unavailable:
            the disk or another process refuses.
    """
    seams, folder = seams or NodeSeams(), MemberFolder(path)
    config = MemberConfig.load(path)
    federation = load_federation(federation_path, folder.changes, config, log)
    params = federation.chain_params()
    seams.check(params)
    entry = federation.people[config.index]
    genesis, vote_key = params.genesis_hash, entry.block_key[1:]
    with contextlib.ExitStack() as stack:
        opened = open_journal(folder, genesis=genesis, vote_key=vote_key, options=options)
        stack.callback(opened.journal.close)
        opened_signer = stack.enter_context(
            member_signer(folder, (federation, federation_path), entry, opened.mode, options, log)
        )
        peg_journal = open_peg_journal(folder, genesis=genesis, vote_key=vote_key, log=log)
        stack.callback(peg_journal.close)
        covenants = stack.enter_context(open_covenants(folder.covenants, params, vote_key, log))
        burns = BurnRelay.of(params, federation.peg)
        chain = Chain.open(
            folder.chain,
            params,
            relay_check=burns.check,
            second_validation=options.second_validation,
        )
        stack.callback(chain.close)
        if opened_signer.keeper is not None:
            opened_signer.keeper.signer.follow(chain)
        index = ChainIndex.open(folder.index, chain)
        stack.callback(index.close)
        start = settle_mode(opened, opened_signer.signer, chain.tip_height)
        node = Node(
            NodeParts(
                folder=folder,
                config=config,
                federation=federation,
                chain=chain,
                index=index,
                opened=opened,
                start=start,
                peg_journal=peg_journal,
                covenants=covenants,
                burns=burns,
                signer=opened_signer,
                log=log,
                seams=seams,
            )
        )
        if start is StartMode.FRESH:
            take_birth_mark(folder)  # the last thing that can fail before BIRTH is written
        yield node
