"""What all commands share: options, output for people and for programs, exit codes.

Results go to standard output, progress and reasons to standard error. With --json the result is
one JSON document; commands that wait print one JSON line a stage before it. Exit codes: 0 done,
1 refused or failed, 2 usage, 128 + signal when interrupted.
"""

import asyncio
import functools
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.status import Status
from rich.text import Text

from federation.local import BITCOIND, WALLET, LocalFederation
from federation.local_state import LocalState
from federation.wallet.links import MemberLinks
from peg.bitcoind import BitcoindClient, amount_text
from sidechain.api.client import RpcClient

T = TypeVar("T")
SATS_PER_BTC = 100_000_000
SIGNAL_GRACE_S = 0.02
SPINNER_COLUMNS = 4
_AMOUNT = re.compile(r"([0-9]{1,8})(?:\.([0-9]{1,8}))?")
_SECONDS = re.compile(r"([0-9]{1,4})(?:\.([0-9]{1,3}))?")
SECONDS_MAX = 3_600
JSON_HELP = "Print the result as one JSON document."
DATA_HELP = "Folder of the federation. [default: $FEDPEG_DATA, or ~/.local/share/fedpeg]"
OWN_FOLDER_HELP = "An empty folder to use, and keep. [default: a temporary one]"
JSON_WAIT_HELP = "Print JSON; with --wait one line a stage, the result last."


class Interrupted(Exception):
    """A signal ended the command; `signal_number` is which."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


class Failed(Exception):
    """The command was carried out and its answer is no; the text is the reason."""


class Amount(click.ParamType[int]):
    """A positive amount in bitcoin with at most eight decimals; becomes satoshis."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Satoshis of the text.

        Raises:
            click.UsageError: it is not such an amount.
        """
        if isinstance(value, int):
            return value
        match = _AMOUNT.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is not an amount in bitcoin, such as 0.4", param, ctx)
        sats = int(match[1]) * SATS_PER_BTC + int((match[2] or "").ljust(8, "0"))
        if not 0 < sats <= 21_000_000 * SATS_PER_BTC:
            self.fail(f"{value} is not between 0.00000001 and 21000000", param, ctx)
        return sats


class Seconds(click.ParamType[int]):
    """Seconds with at most three decimals, up to an hour; becomes milliseconds."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Milliseconds of the text.

        Raises:
            click.UsageError: it is not such a time.
        """
        if isinstance(value, int):
            return value
        match = _SECONDS.fullmatch(value)
        time_ms = -1
        if match is not None:
            time_ms = int(match[1]) * 1_000 + int((match[2] or "").ljust(3, "0"))
        if not 0 <= time_ms <= SECONDS_MAX * 1_000:
            self.fail(
                f"{value!r} is not a number of seconds from 0 to {SECONDS_MAX}, such as 0.5",
                param,
                ctx,
            )
        return time_ms


def show_btc(sats: int) -> str:
    """Satoshis as bitcoin, without needless zeros."""
    text = amount_text(sats).rstrip("0").rstrip(".")
    return text or "0"


class Output:
    """Where a command's words go.

    `streams`: with --json, progress is printed as JSON lines before the result.
    """

    def __init__(self, as_json: bool, *, streams: bool = False) -> None:
        self.as_json = as_json
        self.streams = streams
        self._console = Console(stderr=True, highlight=False)
        self._status: Status | None = None
        self._shown = ""

    def progress(self, step: str, text: str, **facts: Any) -> None:
        """Tell what is being done now; the same text twice is told once."""
        if text == self._shown:
            return
        if self.as_json and self.streams:
            print_json({"event": step, "text": text, **facts})
        elif self._console.is_terminal and not self.as_json:
            self._finish_line("[green]✓[/]")
            # cut at the edge: a line that wraps is painted again and again
            short = Text(text)
            short.truncate(self._console.width - SPINNER_COLUMNS, overflow="ellipsis")
            self._status = self._console.status(short)
            self._status.start()
        else:
            print(text, file=sys.stderr, flush=True)
        self._shown = text

    def result(self, value: Any, text: str) -> None:
        """The answer: `value` for programs, `text` for people."""
        self.close()
        if self.as_json:
            print_json(value)
        elif text:
            print(text, flush=True)

    def close(self, *, failed: bool = False) -> None:
        """End the line of progress."""
        self._finish_line("[red]✗[/]" if failed else "[green]✓[/]")
        self._shown = ""

    def _finish_line(self, mark: str) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
            self._console.print(f"{mark} {_escaped(self._shown)}", soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON line on standard output; amounts stay exact."""
    print(json.dumps(value, default=_plain, ensure_ascii=False), flush=True)


def _plain(value: object) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


@dataclass(slots=True)
class Session:
    """One command at work: its federation and its output."""

    data: Path
    output: Output

    @property
    def federation(self) -> LocalFederation:
        """The federation in the data folder."""
        return LocalFederation(self.data, self.output.progress)

    @asynccontextmanager
    async def bitcoind(self) -> AsyncIterator[BitcoindClient]:
        """The node.

        Raises:
            LocalError: it does not run.
        """
        state = self.federation.require_running(BITCOIND)
        async with self.federation.bitcoind_client(state) as client:
            yield client

    @asynccontextmanager
    async def wallets(self) -> AsyncIterator[RpcClient]:
        """The wallet process.

        Raises:
            LocalError: it does not run.
        """
        state = self.federation.require_running(WALLET)
        async with self.federation.wallet_client(state) as client:
            yield client

    @asynccontextmanager
    async def members(self) -> AsyncIterator[MemberLinks]:
        """The members, whichever answers.

        Raises:
            LocalError: there is no federation, or nothing of it runs.
        """
        state = self.federation.require_running()
        running = self.federation.running()
        if not any(member.name in running for member in state.members):
            self.federation.require_running(*(member.name for member in state.members))
        links = MemberLinks([self.federation.member_client(m) for m in state.members])
        try:
            yield links
        finally:
            await links.close()

    def state(self) -> LocalState:
        """What local.json says.

        Raises:
            LocalError: there is no federation.
        """
        return self.federation.require_state()


def default_data(environment: Mapping[str, str]) -> Path:
    """$FEDPEG_DATA, else fedpeg's folder among the user's application data."""
    named = environment.get("FEDPEG_DATA")
    if named:
        return Path(named)
    base = environment.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "fedpeg"


def command(
    group: click.Group,
    name: str,
    *,
    json_help: str = JSON_HELP,
    data_help: str = DATA_HELP,
    **attributes: Any,
) -> Callable[[Callable[..., Awaitable[None]]], click.Command]:
    """Make an async function a command with --data and --json; it is given the session first."""

    def decorate(function: Callable[..., Awaitable[None]]) -> click.Command:
        @group.command(name, **attributes)
        @click.option(
            "--data",
            type=click.Path(path_type=Path, file_okay=False),
            help=data_help,
        )
        @click.option("--json", "as_json", is_flag=True, help=json_help)
        @functools.wraps(function)
        def run(*, data: Path | None, as_json: bool, **arguments: Any) -> None:
            output = Output(as_json)
            session = Session((data or default_data(os.environ)).absolute(), output)
            try:
                run_async(function(session, **arguments))
            except BaseException:
                output.close(failed=True)
                raise
            output.close()

        return run

    return decorate


def run_async(main: Awaitable[T]) -> T:
    """Run to the end; SIGINT, SIGTERM and SIGHUP cancel it, and its clean-up is waited for.

    Raises:
        Interrupted: it was cancelled by a signal.
    """
    received: list[int] = []

    async def guarded() -> T:
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()

        def cancel(number: int) -> None:
            received.append(number)
            if task is not None and len(received) == 1:
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, cancel, number)
        try:
            return await main
        except Exception:
            # Ctrl-C may have ended a child that was just being started: hear of the signal first
            await asyncio.sleep(SIGNAL_GRACE_S)
            raise

    try:
        return asyncio.run(guarded())
    except (asyncio.CancelledError, KeyboardInterrupt) as error:
        raise Interrupted(received[0] if received else signal.SIGINT) from error
    except Exception as error:
        if received:  # it failed because of the signal, or its failure swallowed the cancellation
            raise Interrupted(received[0]) from error
        raise
