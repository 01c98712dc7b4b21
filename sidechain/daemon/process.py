"""The running node: chain, RPC server, the parent's node, notifications, orderly end."""

import asyncio
import signal
import subprocess
from collections.abc import Callable
from contextlib import AsyncExitStack

from sidechain.api.http import Limits as RpcLimits
from sidechain.api.http import RpcServer
from sidechain.api.registry import Registry
from sidechain.api.rpc import register_chain_methods
from sidechain.api.rpc_node import NodeHooks
from sidechain.chain import Chain
from sidechain.daemon.clock import Clock
from sidechain.daemon.datadir import LOGGER
from sidechain.daemon.node_options import NodeOptions
from sidechain.errors import Invalid, InvariantError, Unavailable
from sidechain.params import ChainParams
from sidechain.parent_rpc import ParentError, ParentMismatch, ParentNode, ParentRpc
from sidechain.primitives.transaction import Transaction
from sidechain.validation.pegins import ParentFacts

CHAIN_FOLDER = "sidechain"
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
        self._clock = Clock(options.mock_time_s)
        self._registry = Registry(warmup="Starting")
        self._stop = asyncio.Event()
        self._fault: BaseException | None = None
        self._parent: ParentNode | None = None

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
            chain = self._open_chain()
            stack.callback(chain.close)
            await self._reach_parent(group, stack)
            self._register(chain)
            if not self._stop.is_set():
                self._registry.warmup = None
                self._announce(chain)
                for command in self._options.notify.startup:
                    group.create_task(self._notify(command))
                await self._stop.wait()
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
            raise StartFailed(
                "Unable to start HTTP server. See debug log for details."
            ) from error
        stack.push_async_callback(server.stop)
        LOGGER.info("JSON-RPC listens on %s", server.url)
        if port == 0:
            print(f"rpcport={server.port}", flush=True)

    def _on_fault(self, error: BaseException) -> None:
        LOGGER.error("fault in a request: %r", error)
        if isinstance(error, InvariantError):
            self._fault = error
            self.stop()

    def _open_chain(self) -> Chain:
        self._registry.warmup = "Loading block index…"
        path = self._options.folder / CHAIN_FOLDER
        try:
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
        except (Unavailable, InvariantError) as error:
            raise StartFailed(str(error)) from error

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
            ),
            labels=self._options.asset_labels,
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
