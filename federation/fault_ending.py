"""Waits until a fault of a process is over, and ends it: `python -m federation.fault_ending`.

It belongs to the federation and not to the command that asked for the fault, so the fault ends
also when that command was killed.

Source: issue 4 item 10.
"""

import asyncio
import time
from pathlib import Path
from typing import Final

import click

from federation.fault_processes import ProcessFault, ProcessFaults, locked_patiently
from federation.local import LocalFederation
from federation.local_state import LocalError

LOCK_PATIENCE_S: Final = 300


@click.command()
@click.option("--kind", type=click.Choice([kind.value for kind in ProcessFault]), required=True)
@click.option("--member", required=True)
@click.option("--id", "fault_id", required=True)
@click.option("--at-ms", type=int, required=True, help="On the monotonic clock.")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), required=True)
def main(kind: str, member: str, fault_id: str, at_ms: int, data: Path) -> None:
    """Wait, then end one fault."""
    asyncio.run(wait_and_end(LocalFederation(data, _say), ProcessFault(kind), member, at_ms))
    click.echo(f"{fault_id}: {kind} of {member} has ended")


async def wait_and_end(
    federation: LocalFederation, kind: ProcessFault, member: str, at_ms: int
) -> None:
    """Sleep until a time on the monotonic clock, then set the member right.

    Raises:
        LocalError: it cannot be started, or the folder stays locked.
    """
    left_ms = at_ms - time.monotonic_ns() // 1_000_000
    await asyncio.sleep(max(0, left_ms) / 1_000)
    faults = ProcessFaults(federation)
    if kind is ProcessFault.PAUSE:
        await faults.end(kind, member)  # starts nothing: a lock would only keep it frozen
        return
    async with locked_patiently(federation.folder, LOCK_PATIENCE_S):
        await faults.end(kind, member)


def _say(_: str, text: str) -> None:
    click.echo(text)


if __name__ == "__main__":
    try:
        main()
    except LocalError as error:
        raise SystemExit(f"fault_ending: {error}") from error
