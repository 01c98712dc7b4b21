"""The running node: chain, RPC server, the parent's node, notifications, orderly end."""

import asyncio
import signal
import subprocess
from collections.abc import Callable
from contextlib import AsyncExitStack

from sidechain.api.esplora import EsploraServer
from sidechain.api.http import Limits as RpcLimits
from sidechain.api.http import RpcServer
from sidechain.api.registry import Registry
from sidechain.api.rpc import register_chain_methods
from sidechain.api.rpc_chain import ChainMethods
from sidechain.api.rpc_node import NodeHooks
from sidechain.api.rpc_submit import Submission
from sidechain.chain import Chain
from sidechain.daemon.clock import Clock
from sidechain.daemon.datadir import LOGGER
from sidechain.daemon.node_options import NodeOptions
from sidechain.daemon.reindex import ReindexFailed, recover_folder, reindex
from sidechain.errors import Invalid, InvariantError, Unavailable
from sidechain.index.follower import ChainIndex
from sidechain.mempool_file import FILE_NAME as MEMPOOL_FILE_NAME
from sidechain.mempool_file import load_mempool_if_any, save_mempool
from sidechain.params import ChainParams
from sidechain.parent_rpc import ParentError, ParentMismatch, ParentNode, ParentRpc
from sidechain.primitives.transaction import Transaction
from sidechain.validation.pegins import ParentFacts

CHAIN_FOLDER = "sidechain"
INDEX_FOLDER = "esplora"
NOTIFY_TIMEOUT_S = 60
REQUEST_TIMEOUT_S = 3600
"""A request may wait for the parent's node, and that has a time-out of its own."""

_PARENT_FAILED = (
    "ERROR: elements is set to verify peg-ins but cannot get a valid response from the mainchain"
    " daemon. Please check debug.log for more information.\n\nIf you haven't setup a bitcoind"
    " please get the latest stable version of Bitcoin Core or if you do not need to validate"
    " peg-ins set in your elements configuration validatepegin=0"
)


class StartFailed(Exception):
    """The node does not start, or cannot go on; the text is for the user."""


class Node:
    """One node from start to end: `run` it once."""

    def __init__(
        self,
        params: ChainParams,
        options: NodeOptions,
        *,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            on_ready: called once, when the node answers requests.
        """
        self._params = params
        self._options = options
        self._on_ready = on_ready
        self._mempool_file = options.folder / MEMPOOL_FILE_NAME
        self._clock = Clock(options.mock_time_s)
        self._registry = Registry(warmup="Starting")
        self._stop = asyncio.Event()
        self._tip_moved = asyncio.Event()
        self._fault: BaseException | None = None
        self._parent: ParentNode | None = None
        self._server: RpcServer | None = None

    def stop(self) -> None:
        """End the node in an orderly way; `run` returns soon."""
        self._stop.set()

    async def run(self) -> None:
        """Start, serve until told to stop, and leave everything closed.

        Raises:
            StartFailed: it does not start, or cannot go on.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        # A terminal that goes away is no reason to end.
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        failure: StartFailed | None = None
        async with asyncio.TaskGroup() as group:
            try:
                await self._live(group)
            except StartFailed as error:
                # Out of the group, or it would come wrapped.
                failure = error
        LOGGER.info("Shutdown: done")
        if failure is None and self._fault is not None:
            failure = StartFailed(f"the node stopped: {self._fault}")
        if failure is not None:
            raise failure

    async def _live(self, group: asyncio.TaskGroup) -> None:
        async with AsyncExitStack() as stack:
            await self._start_server(stack)
            chain = await self._open_chain()
            stack.callback(chain.close)
            self._check_newest(chain)
            await self._reach_parent(group, stack)
            self._register(chain)
            await Submission(chain, self._facts_for, self._clock.now_s).catch_up()
            await self._start_esplora(group, stack, chain)
            if not self._stop.is_set():
                await self._load_mempool(chain)
                self._registry.warmup = None
                self._announce(chain)
                self._follow_tip(group, chain)
                commands = [
                    group.create_task(self._notify(command))
                    for command in self._options.notify.startup
                ]
                await self._stop.wait()
                for task in commands:
                    task.cancel()
            self._tip_moved.set()
            if self._server is not None:
                # Before what its methods use goes away.
                await self._server.stop()
            self._save_mempool(chain)
            LOGGER.info("Shutdown: In progress...")
            for command in self._options.notify.shutdown:
                await self._notify(command)

    async def _start_server(self, stack: AsyncExitStack) -> None:
        rpc = self._options.rpc
        if rpc is None:
            return
        (host, port), *others = rpc.addresses
        server = RpcServer(
            self._registry,
            rpc.cookie_path,
            host=host,
            port=port,
            # A free port is chosen once, so it is of one address.
            also_listen=[address for address in others if address[1]],
            allow=rpc.allow,
            logins=rpc.logins,
            cookie_mode=rpc.cookie_mode,
            limits=RpcLimits(
                waiting_requests=rpc.waiting_requests,
                read_timeout_s=rpc.idle_timeout_s,
                request_timeout_s=REQUEST_TIMEOUT_S,
            ),
            on_fault=self._on_fault,
        )
        try:
            await server.start()
        except OSError as error:
            LOGGER.info("Unable to bind %s:%d for JSON-RPC: %s", host, port, error)
            raise StartFailed("Unable to start HTTP server. See debug log for details.") from error
        self._server = server
        stack.push_async_callback(server.stop)
        LOGGER.info("JSON-RPC listens on %s", server.url)
        if port == 0:
            print(f"rpcport={server.port}", flush=True)

    def _on_fault(self, error: BaseException) -> None:
        LOGGER.error("fault in a request: %r", error)
        if isinstance(error, InvariantError):
            self._fault = error
            self.stop()

    async def _open_chain(self) -> Chain:
        self._registry.warmup = "Loading block index…"
        path = self._options.folder / CHAIN_FOLDER
        try:
            recover_folder(path)
            if self._options.reindex:
                self._registry.warmup = "Reindexing blocks on disk…"
                await reindex(path, self._params, LOGGER.info)
            return Chain.open(
                path,
                self._params,
                limits=self._options.limits,
                second_validation=self._options.second_validation,
            )
        except Invalid as error:
            if error.reason == "database-genesis":
                raise StartFailed(
                    "Incorrect or no genesis block found. Wrong datadir for network?"
                ) from error
            raise StartFailed(str(error)) from error
        except (Unavailable, InvariantError, ReindexFailed) as error:
            raise StartFailed(str(error)) from error

    def _check_newest(self, chain: Chain) -> None:
        """Read the newest blocks again, as `verifychain` does."""
        self._registry.warmup = "Verifying blocks…"
        count = self._options.check_blocks
        if not ChainMethods(chain, self._clock.now_s).verifychain(self._options.check_level, count):
            raise StartFailed(
                "Corrupted block database detected.\nPlease restart with -reindex to recover."
            )

    async def _start_esplora(
        self, group: asyncio.TaskGroup, stack: AsyncExitStack, chain: Chain
    ) -> None:
        if self._options.esplora_port is None:
            return
        index = ChainIndex.open(self._options.folder / INDEX_FOLDER, chain)
        server = EsploraServer(
            chain,
            index,
            send=lambda text: self._registry.call("sendrawtransaction", [text]),
            port=self._options.esplora_port,
            on_fault=self._on_fault,
        )
        try:
            await server.start(group)
        except OSError as error:
            raise StartFailed(
                f"-esplora={self._options.esplora_port}: the port cannot be used: {error}"
            ) from error
        stack.push_async_callback(server.stop)
        LOGGER.info("Esplora listens on %s", server.url)
        if self._options.esplora_port == 0:
            print(f"esplora={server.port}", flush=True)

    async def _load_mempool(self, chain: Chain) -> None:
        """Take in what waited when the node last ended."""
        if not self._options.persist_mempool or not self._mempool_file.exists():
            return
        self._registry.warmup = "Loading mempool…"
        report = await load_mempool_if_any(
            chain,
            self._mempool_file,
            facts_for=self._facts_for,
            unix_time_s=self._clock.now_s,
        )
        if report is None:
            LOGGER.warning("%s cannot be read", self._mempool_file)
            return
        LOGGER.info(
            "mempool: %d accepted, %d refused, %d expired",
            report.accepted,
            report.refused,
            report.expired,
        )

    def _save_mempool(self, chain: Chain) -> None:
        if not self._options.persist_mempool or self._registry.warmup is not None:
            # What was not read yet must not be overwritten.
            return
        try:
            save_mempool(chain, self._mempool_file)
        except Unavailable as error:
            LOGGER.error("%s", error)

    def _follow_tip(self, group: asyncio.TaskGroup, chain: Chain) -> None:
        """Run `-blocknotify` and look after `-stopatheight` from now on."""
        if self._options.notify.block is None and not self._options.stop_at_height:
            return
        chain.listen(self._tip_moved.set)
        group.create_task(self._watch_tip(chain))
        self._tip_moved.set()

    async def _watch_tip(self, chain: Chain) -> None:
        told = chain.tip_hash
        command, last = self._options.notify.block, self._options.stop_at_height
        while not self._stop.is_set():
            await self._tip_moved.wait()
            self._tip_moved.clear()
            if last and chain.tip_height >= last:
                LOGGER.info("-stopatheight: height %d is reached", chain.tip_height)
                self.stop()
            if command is not None and chain.tip_hash != told:
                # Of several moves during one command, the last is told.
                told = chain.tip_hash
                await self._notify(command.replace("%s", told[::-1].hex()))

    async def _reach_parent(self, group: asyncio.TaskGroup, stack: AsyncExitStack) -> None:
        found = self._options.parent
        if found is None:
            return
        self._registry.warmup = "Awaiting mainchain RPC warmup"
        rpc = ParentRpc(
            found.url,
            user_password=found.user_password,
            cookie_path=found.cookie_path,
            timeout_s=found.timeout_s,
        )
        stack.push_async_callback(rpc.close)
        params = self._params
        needs_fees = (
            params.pegin_min_sats > 0
            or params.pegin_subsidy_threshold_sats > 0
            or params.pegin_min_height is not None
            or params.pegin_subsidy_height is not None
        )
        self._parent = ParentNode(rpc, params, needs_fees=needs_fees)
        check = group.create_task(_parent_fault(self._parent))
        stopped = group.create_task(self._stop.wait())
        await asyncio.wait((check, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        fault = check.result() if check.done() else None
        check.cancel()
        if fault is not None:
            LOGGER.error("the parent's node: %s", fault)
            raise StartFailed(_PARENT_FAILED if fault.is_general else str(fault))

    def _register(self, chain: Chain) -> None:
        register_chain_methods(
            self._registry,
            chain,
            facts_for=self._facts_for,
            on_accepted=_nobody_to_tell,
            hooks=NodeHooks(
                unix_time_s=self._clock.now_s,
                stop=self.stop,
                set_time=self._clock.set,
                indexed=self._options.transaction_index,
                log_path=str(self._options.log_path or ""),
                max_tip_age_s=self._options.max_tip_age_s,
            ),
            labels=self._options.asset_labels,
            mempool_file=self._mempool_file,
            template=self._options.template,
            takes_blocks=True,
        )

    async def _facts_for(self, tx: Transaction) -> ParentFacts | None:
        return None if self._parent is None else await self._parent.facts_for([tx])

    def _announce(self, chain: Chain) -> None:
        LOGGER.info(
            "Done loading: chain %s, height %d, tip %s",
            self._params.name,
            chain.tip_height,
            chain.tip_hash[::-1].hex(),
        )
        self._on_ready()

    async def _notify(self, command: str) -> None:
        """Run a command of the user's; what it does wrong is only logged."""
        try:
            process = await asyncio.create_subprocess_shell(
                command, stdin=subprocess.DEVNULL, start_new_session=True
            )
            async with asyncio.timeout(NOTIFY_TIMEOUT_S):
                code = await process.wait()
        except (OSError, TimeoutError) as error:
            LOGGER.error("command %s: %r", command, error)
            return
        if code:
            LOGGER.error("command %s ended with %d", command, code)


async def _parent_fault(parent: ParentNode) -> ParentMismatch | None:
    """Why the parent's node cannot be used, or None."""
    try:
        await parent.check()
    except ParentMismatch as error:
        return error
    except (ParentError, Unavailable) as error:
        return ParentMismatch(str(error))
    return None


async def _nobody_to_tell(tx: Transaction) -> None:
    """There are no peers."""
