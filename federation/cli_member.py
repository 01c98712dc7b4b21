"""Which member a command talks to: one of a local federation, or the one in a folder.

Source: design D9.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click

from federation.cli_session import Failed, Session
from federation.member_folder import MemberConfig, MemberFolder
from sidechain.api.client import RpcClient

Ask = Callable[..., Awaitable[Any]]
"""Takes a method and its parameters; raises RpcError or Unavailable."""


def folder_option() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option --folder."""
    return click.option(
        "--folder",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        help="Folder of one member (with member.json), instead of the local federation's members.",
    )


@asynccontextmanager
async def asking(session: Session, name: str | None, folder: Path | None) -> AsyncIterator[Ask]:
    """A way to ask one member, or whichever of a local federation answers.

    Args:
        name: of a member of the local federation.
        folder: of a member anywhere on this machine.
    Raises:
        Failed, LocalError, InvalidConfig: there is no such member, or it does not run.
    """
    if folder is not None:
        async with client_of_folder(folder) as client:
            yield client.call
    elif name is not None:
        federation = session.federation
        member = federation.find_member(federation.require_state(), name)
        federation.require_running(member.name)
        async with federation.member_client(member) as client:
            yield client.call
    else:
        async with session.members() as members:
            yield members.call


def client_of_folder(folder: Path) -> RpcClient:
    """A client of the member in a folder.

    Raises:
        Failed: its port is given by the system anew at every start. InvalidConfig: no member.json.
    """
    port = MemberConfig.load(folder).rpc_port
    if not port:
        raise Failed(f"member.json in {folder} names no rpc_port")
    return RpcClient(f"http://127.0.0.1:{port}", MemberFolder(folder).cookie)
