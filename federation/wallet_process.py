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
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from federation.config import FederationFile, InvalidConfig
from federation.log import open_log, terminal_of_process
from federation.wallet.links import Faucet, MemberLinks
from federation.wallet.parts import Methods, Outside, Parts, assemble
from federation.wallet.settings import LocalSettings, read_local
from peg.bitcoind import BitcoindClient, BitcoindError
from sidechain import runtime
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


def main(arguments: list[str] | None = None) -> int:
    """Run the process; its exit code."""
    parser = argparse.ArgumentParser(
        prog="federation.wallet_process", description="Runs the wallets of a local federation."
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder of the federation")
    data = parser.parse_args(arguments).data.absolute()
    if sys.flags.optimize:
        print("wallet: do not run with python -O: checks would be left out", file=sys.stderr)
        return 1
    os.umask(0o077)
    try:
        settings, params = _load(data)
        with _single_instance(data / "wallet"), _logging(data / "wallet" / "log.jsonl") as log:
            return runtime.run(_run(data, settings, params, log))
    except CannotRun as error:
        print(f"wallet: {error}", file=sys.stderr)
        return 1


async def _run(
    data: Path, settings: LocalSettings, params: ChainParams, log: FilteringBoundLogger
) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    poke = asyncio.Event()
    async with AsyncExitStack() as stack:
        parts = await _open(data, settings, params, poke, log, stack)
        server = await _serve(data, settings, parts.methods, stop, log)
        stack.push_async_callback(server.stop)
        log.info("wallet_started", port=server.port, chain=settings.chain)
        stack.callback(log.info, "wallet_stopped")
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(_follow_chain(parts, log)),
                    group.create_task(_follow_parent(parts, poke, log)),
                ]
                await stop.wait()
                for task in tasks:
                    task.cancel()
        except ExceptionGroup as failures:
            log.error("wallet_failed", error=repr(failures.exceptions[0]))
            raise
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
    poke: asyncio.Event,
    log: FilteringBoundLogger,
    stack: AsyncExitStack,
) -> Parts:
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
    outside = Outside(
        members=members,
        parent=bitcoind,
        funding=Faucet(bitcoind, settings.faucet_wallet),
        log=log,
        unix_time_s=lambda: int(time.time()),
        monotonic_ms=lambda: time.monotonic_ns() // 1_000_000,
        entropy=secrets.token_bytes,
        on_peg_work=poke.set,
    )
    return assemble(book, params, outside)


async def _serve(
    data: Path,
    settings: LocalSettings,
    methods: Methods,
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


async def _follow_chain(parts: Parts, log: FilteringBoundLogger) -> None:
    patience = _Patience(log, "members")
    while True:
        if await patience.take(parts.follow_chain):
            await asyncio.sleep(CHAIN_POLL_MS / 1000)


async def _follow_parent(parts: Parts, poke: asyncio.Event, log: FilteringBoundLogger) -> None:
    patience = _Patience(log, "bitcoin")
    while True:
        poke.clear()
        if await patience.take(parts.follow_parent):
            with suppress(TimeoutError):
                async with asyncio.timeout(PARENT_POLL_MS / 1000):
                    await poke.wait()


class _Patience:
    """Keeps one loop going while others fail, and logs each change once."""

    def __init__(self, log: FilteringBoundLogger, what: str) -> None:
        self._log = log
        self._what = what
        self._reason = ""

    async def take(self, turn: Callable[[], Awaitable[bool]]) -> bool:
        """Run one turn; whether to pause before the next."""
        try:
            reached = await turn()
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


if __name__ == "__main__":
    sys.exit(main())
