"""The wallet process: `python -m federation.wallet_process --data DATA`.

Holds the user's wallets, follows the federation's final chain and Bitcoin, claims ripe deposits
and answers JSON-RPC on loopback. It ends cleanly on SIGTERM, SIGINT or the method `stop`.

Exit codes: 0 stopped, 1 cannot run (reason on stderr), 2 usage.
"""

import argparse
import asyncio
import fcntl
import os
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from federation.config import FederationFile, InvalidConfig
from federation.log import open_log, terminal_of_process
from federation.wallet.chain import ChainFollower, Keyring
from federation.wallet.deposits import DepositFollower
from federation.wallet.links import Faucet, MemberLinks
from federation.wallet.methods import WalletMethods
from federation.wallet.peg_store import PegStore
from federation.wallet.settings import LocalSettings, read_local
from federation.wallet.views import PegViews
from federation.wallet.worker import PegWorker
from peg.bitcoind import BitcoindClient, BitcoindError
from sidechain.api.client import RpcClient
from sidechain.api.http import RpcServer
from sidechain.api.registry import Registry, RpcError
from sidechain.errors import Invalid, Unavailable
from sidechain.params import ChainParams
from sidechain.wallet.book import WalletBook

CHAIN_POLL_MS = 200
PARENT_POLL_MS = 300
RPC_TIMEOUT_S = 10
PARENT_TIMEOUT_MS = 20_000


class CannotRun(Exception):
    """This process cannot start; the text is one line for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """Everything the tasks of one process share; each state has one owner among them."""

    chain: ChainFollower
    deposits: DepositFollower
    worker: PegWorker
    keyring: Keyring
    server: RpcServer
    poke: asyncio.Event
    stop: asyncio.Event
    log: FilteringBoundLogger


def main(arguments: list[str] | None = None) -> int:
    """Run the process; its exit code."""
    parser = argparse.ArgumentParser(prog="federation.wallet_process", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data folder of the federation")
    data = parser.parse_args(arguments).data.absolute()
    if sys.flags.optimize:
        print("wallet: do not run with python -O: checks would be left out", file=sys.stderr)
        return 1
    os.umask(0o077)
    try:
        with _single_instance(data / "wallet"), _logging(data / "wallet" / "log.jsonl") as log:
            return asyncio.run(_run(data, log))
    except CannotRun as error:
        print(f"wallet: {error}", file=sys.stderr)
        return 1


async def _run(data: Path, log: FilteringBoundLogger) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    settings, params = _load(data)
    async with AsyncExitStack() as stack:
        parts = await _open(data, settings, params, stop, log, stack)
        log.info("wallet_started", port=parts.server.port, chain=settings.chain)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(_follow_chain(parts)),
                    group.create_task(_follow_parent(parts)),
                ]
                await stop.wait()
                for task in tasks:
                    task.cancel()
        except ExceptionGroup as group_error:
            log.error("wallet_failed", error=repr(group_error.exceptions[0]))
            raise
        finally:
            log.info("wallet_stopped")
    return 0


def _load(data: Path) -> tuple[LocalSettings, ChainParams]:
    try:
        settings = read_local(data)
        federation = FederationFile.load(data / "federation.json", allow_no_byzantine_safety=True)
        return settings, federation.chain_params()
    except (Invalid, InvalidConfig) as error:
        raise CannotRun(str(error)) from error


async def _open(
    data: Path,
    settings: LocalSettings,
    params: ChainParams,
    stop: asyncio.Event,
    log: FilteringBoundLogger,
    stack: AsyncExitStack,
) -> _Parts:
    try:
        book = WalletBook.open(data / "wallet" / "wallets", params)
    except (Invalid, Unavailable) as error:
        raise CannotRun(str(error)) from error
    stack.callback(book.close)
    members = MemberLinks(
        [RpcClient(member.url, member.cookie_path, RPC_TIMEOUT_S) for member in settings.members]
    )
    stack.push_async_callback(members.close)
    bitcoind = BitcoindClient(
        settings.bitcoind.url,
        cookie_path=settings.bitcoind.cookie_path,
        timeout_ms=PARENT_TIMEOUT_MS,
        retry_ms=0,
    )
    stack.push_async_callback(bitcoind.close)
    store = PegStore(book)
    keyring = Keyring(_monotonic_ms)
    chain = ChainFollower(members, store, params, log, _unix_time_s)
    deposits = DepositFollower(bitcoind, store, log)
    worker = PegWorker(
        members=members,
        parent=bitcoind,
        funding=Faucet(bitcoind, settings.faucet_wallet),
        store=store,
        params=params,
        chain=chain,
        deposits=deposits,
        keyring=keyring,
        log=log,
        unix_time_s=_unix_time_s,
        monotonic_ms=_monotonic_ms,
    )
    poke = asyncio.Event()
    views = PegViews(members=members, store=store, chain=chain, deposits=deposits, worker=worker)
    methods = WalletMethods(
        members=members,
        store=store,
        params=params,
        chain=chain,
        worker=worker,
        views=views,
        keyring=keyring,
        entropy=secrets.token_bytes,
        unix_time_s=_unix_time_s,
        on_peg_work=poke.set,
    )
    server = await _serve(data, settings, methods, stop, log)
    stack.push_async_callback(server.stop)
    return _Parts(
        chain=chain,
        deposits=deposits,
        worker=worker,
        keyring=keyring,
        server=server,
        poke=poke,
        stop=stop,
        log=log,
    )


async def _serve(
    data: Path,
    settings: LocalSettings,
    methods: WalletMethods,
    stop: asyncio.Event,
    log: FilteringBoundLogger,
) -> RpcServer:
    registry = Registry()
    methods.register(registry)

    def stop_process() -> str:
        stop.set()
        return "wallet stopping"

    def help_text(command: str | None = None) -> str:
        return registry.help(command)

    registry.add("stop", stop_process, "End this process")
    registry.add("help", help_text, "All methods, or one of them")
    server = RpcServer(
        registry,
        data / "wallet" / ".cookie",
        port=settings.rpc_port,
        on_fault=lambda error: log.error("rpc_fault", error=repr(error)),
    )
    try:
        await server.start()
    except OSError as error:
        raise CannotRun(f"cannot listen on port {settings.rpc_port}: {error.strerror}") from error
    return server


async def _follow_chain(parts: _Parts) -> None:
    trouble = _Trouble(parts.log, "members")

    async def once() -> bool:
        reached = await parts.chain.step()
        parts.keyring.forget_expired()
        await parts.worker.resend()
        return reached

    while True:
        if await trouble.guard(once):
            await asyncio.sleep(CHAIN_POLL_MS / 1000)


async def _follow_parent(parts: _Parts) -> None:
    trouble = _Trouble(parts.log, "bitcoin")

    async def once() -> bool:
        reached = await parts.deposits.step()
        if reached:
            await parts.worker.advance_pegins()
        return reached

    while True:
        parts.poke.clear()
        if await trouble.guard(once):
            with suppress(TimeoutError):
                async with asyncio.timeout(PARENT_POLL_MS / 1000):
                    await parts.poke.wait()


class _Trouble:
    """Keeps one loop going through failures of others, and logs each change of mood once."""

    def __init__(self, log: FilteringBoundLogger, what: str) -> None:
        self._log = log
        self._what = what
        self._reason = ""

    async def guard(self, step: Callable[[], Awaitable[bool]]) -> bool:
        """Run one step; whether to pause before the next."""
        try:
            reached = await step()
        except (Unavailable, RpcError, BitcoindError, Invalid) as error:
            if str(error) != self._reason:
                self._reason = str(error)
                self._log.warning("not_following", what=self._what, reason=self._reason)
            return True
        if self._reason:
            self._reason = ""
            self._log.info("following_again", what=self._what)
        return reached


@contextmanager
def _single_instance(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise CannotRun(f"cannot use the folder {folder}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CannotRun(f"a wallet process already runs on {folder}") from error
        yield
    finally:
        os.close(handle)


@contextmanager
def _logging(path: Path) -> Iterator[FilteringBoundLogger]:
    try:
        log = open_log("wallet", path=path, terminal=terminal_of_process())
    except OSError as error:
        raise CannotRun(f"cannot write {path}: {error.strerror}") from error
    try:
        yield log.logger
    finally:
        log.close()


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _unix_time_s() -> int:
    return int(time.time())


if __name__ == "__main__":
    sys.exit(main())
