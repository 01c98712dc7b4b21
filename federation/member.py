"""Entry point of a member's process: `python -m federation.member --folder DIR --federation FILE`.

Source: design D9, consensus:C40, consensus:C75, N5.
"""

import asyncio
import signal
import sys
from pathlib import Path

import click

from federation.config import InvalidConfig
from federation.engine import Halted
from federation.log import Log, open_log, terminal_of_process
from federation.member_faults import faulty_seams
from federation.member_folder import MemberFolder
from federation.node import CannotStart, StartOptions, open_node
from federation.signer import SignerFailed, SignerRefused
from federation.start import NodeSeams
from federation.wal import JournalCorrupt, JournalFailed, JournalLocked
from sidechain import runtime
from sidechain.errors import Invalid, InvariantError, Unavailable

EXPECTED = (
    InvalidConfig,
    CannotStart,
    JournalLocked,
    JournalFailed,
    JournalCorrupt,
    SignerFailed,
    SignerRefused,
    Halted,
    Unavailable,
    Invalid,
    InvariantError,
    OSError,
)


@click.command(help="Run one member of a federation until SIGTERM or Ctrl-C.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="The member's folder with member.json and keys/.",
)
@click.option(
    "--federation",
    "federation_path",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help="federation.json, shared by all members.",
)
@click.option("--init", is_flag=True, help="First start of this key, once ever.")
@click.option(
    "--restored",
    is_flag=True,
    help="The folder came from a backup, or its journal is lost or damaged.",
)
@click.option(
    "--second-validation",
    is_flag=True,
    help="Judge every block twice, the second time with nothing cached; stop if they disagree.",
)
@click.option(
    "--signer-process",
    is_flag=True,
    help="Keep the block and peg key in a process of their own, started and stopped with this one.",
)
@click.option(
    "--signer-socket",
    type=click.Path(path_type=Path),
    help="Have signatures made by the signer that listens there (`fedpeg signer run`).",
)
@click.option(
    "--allow-faults",
    is_flag=True,
    help="Offer calls that cut and slow this member's links (tests on regtest only).",
)
def main(
    folder: Path,
    federation_path: Path,
    init: bool,
    restored: bool,
    second_validation: bool,
    signer_process: bool,
    signer_socket: Path | None,
    allow_faults: bool,
) -> None:
    """Run one member."""
    if not __debug__:
        raise click.UsageError("assertions are off; start Python without -O")
    if init and restored:
        raise click.UsageError("--init and --restored exclude each other")
    if signer_process and signer_socket is not None:
        raise click.UsageError("--signer-process and --signer-socket exclude each other")
    log = open_log(folder.name, path=MemberFolder(folder).log, terminal=terminal_of_process())
    options = StartOptions(
        init=init,
        restored=restored,
        second_validation=second_validation,
        signer_process=signer_process,
        signer_socket=signer_socket,
    )
    try:
        seams = faulty_seams() if allow_faults else NodeSeams()
        reason = run(folder, federation_path, options, log, seams)
    finally:
        log.close()
    if reason:
        click.echo(f"{folder.name}: {reason}", err=True)
        sys.exit(1)


def run(
    folder: Path,
    federation_path: Path,
    options: StartOptions,
    log: Log,
    seams: NodeSeams | None = None,
) -> str:
    """Run a member to its end; returns why it had to stop, "" for an orderly end."""
    reasons: list[str] = []
    try:
        with open_node(folder, federation_path, options, log.logger, seams) as node:

            async def serve() -> None:
                stop = asyncio.Event()
                loop = asyncio.get_running_loop()
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, stop.set)
                await node.run(stop)

            runtime.run(serve())
    except* EXPECTED as group:
        reasons = [f"{type(error).__name__}: {error}" for error in _leaves(group)]
    except* Exception as group:
        log.logger.error("member_crashed", alarm=True, exc_info=group)
        raise
    if reasons:
        log.logger.error("member_stopped", alarm=True, reason="; ".join(reasons))
    else:
        log.logger.info("member_stopped")
    return "; ".join(reasons)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


if __name__ == "__main__":
    main()
