"""Commands about reserves: the audit, reports that k members sign, and their verification.

Source: peg:11.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click

from federation.audit import FolderBlocks, RpcBlocks, SidechainBlocks, verify_report
from federation.cli_member import asking, folder_option
from federation.cli_proofs import (
    FILE,
    GroupWithDefault,
    federation_file_option,
    federation_of,
    read_proof,
    stranger_of,
    write_proof,
)
from federation.cli_session import Failed, Session, command, show_btc
from federation.cli_tables import audit_text, bounds_text, is_exact, report_text
from federation.stranger import NotProved, Stranger
from peg.bitcoind import BitcoindClient
from peg.reserves_report import FILE_BYTES_MAX, check_signatures, read_report_file
from sidechain.api.client import RpcClient
from sidechain.errors import Invalid

STRETCH_MAX: Final = 1_000_000
HEIGHT = click.IntRange(1, 2**32 - 1)
NODE_TIMEOUT_S: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """Which nodes of one's own a command asks; None: the local federation's."""

    bitcoind: str | None
    bitcoind_cookie: Path | None
    member: str | None = None
    member_cookie: Path | None = None
    chain: Path | None = None

    def check(self) -> None:
        """Refuse what does not fit together, as wrong usage."""
        for name, url, cookie in (
            ("bitcoind", self.bitcoind, self.bitcoind_cookie),
            ("member", self.member, self.member_cookie),
        ):
            if (url is None) != (cookie is None):
                raise click.UsageError(f"--{name} and --{name}-cookie belong together")
            if url is not None:
                check_url(f"--{name}", url)
        if self.member is not None and self.chain is not None:
            raise click.UsageError("give --member or --chain, not both")


def check_url(option: str, url: str) -> None:
    """Refuse an address that no request could be sent to, or with a secret in it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.UsageError(f"{option} {url!r} is not an address such as http://127.0.0.1:18443")
    if parts.username or parts.password:
        raise click.UsageError(
            f"{option}: a password on the command line can be read by others: put USER:PASSWORD "
            f"into a file for {option}-cookie"
        )


def bitcoind_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options --bitcoind and --bitcoind-cookie."""
    cookie = click.option(
        "--bitcoind-cookie", type=FILE, help="Its .cookie, or any file with USER:PASSWORD."
    )
    url = click.option(
        "--bitcoind",
        metavar="URL",
        help="JSON-RPC of your Bitcoin node. [default: the local federation's]",
    )
    return url(cookie(function))


def register(program: click.Group) -> None:
    """Add the commands to the program."""
    group = GroupWithDefault(
        "audit",
        default="show",
        takes=lambda word: not word or word.startswith("-"),
        help="The federation's bitcoin against what it owes.\n\n"
        "Without a command, as `audit show`.",
    )
    program.add_command(group)
    _register_show(group)
    _register_reports(group)
    _register_verify(group)


def _register_show(group: click.Group) -> None:
    @command(group, "show")
    @click.option("--bounds", is_flag=True, help="Show the most that can be lost instead.")
    @click.option(
        "--within",
        "stretches",
        type=click.IntRange(1, STRETCH_MAX),
        multiple=True,
        help="With --bounds: also for so many Bitcoin blocks.",
    )
    async def audit(session: Session, *, bounds: bool, stretches: tuple[int, ...]) -> None:
        """Compare the federation's bitcoin with what it owes.

        Exit code 1 when the two differ. With --bounds: the most that the peg can pay out on the
        worst day, whatever a bug of the sidechain mints, from the values in force.
        """
        if stretches and not bounds:
            raise click.UsageError("--within belongs to --bounds")
        async with session.members() as members:
            if bounds:
                found = await members.call("getbounds", list(stretches))
                session.output.result(found, bounds_text(found))
                return
            found = await members.call("getaudit")
        session.output.result(found, audit_text(found))
        if not is_exact(found):
            raise Failed("reserves and liabilities do not agree")


def _register_reports(group: click.Group) -> None:
    @command(group, "report")
    @click.option("--height", type=HEIGHT, help="Of this sidechain block. [default: the newest]")
    @click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File.")
    @click.option("--member", "name", help="Ask this member. [default: whichever answers]")
    @folder_option()
    async def report(
        session: Session,
        *,
        height: int | None,
        output: Path | None,
        name: str | None,
        folder: Path | None,
    ) -> None:
        """Have k members sign a report of the reserves, or fetch one that they signed before.

        Members make one by themselves every 144 Bitcoin blocks; `audit reports` lists those. The
        newest blocks can be reported on at any time. With -o the file is written that `audit
        verify` checks; with --json and without -o it is printed.
        """
        session.output.progress("report", "asking the members to sign")
        async with asking(session, name, folder) as ask:
            found: dict[str, Any] = await ask("makereport", height)
        text = _told_text(found, stranger_of(session, federation_of(session, folder)))
        if output is not None:
            height = found["report"]["height"]
            write_proof(session, found, output, f"the reserves report of block {height}")
            return
        session.output.result(found, f"{text}\n-o FILE writes it, for `audit verify`")

    @command(group, "reports")
    @click.option("--member", "name", help="Ask this member. [default: whichever answers]")
    @folder_option()
    async def reports(session: Session, *, name: str | None, folder: Path | None) -> None:
        """List the reports that a member keeps: those of epochs, and those asked of it."""
        async with asking(session, name, folder) as ask:
            found: list[dict[str, Any]] = await ask("listreports")
        lines = [
            f"block {each['height']:>8}  Bitcoin {each['committed_height']:>8}  "
            f"reserves {show_btc(each['reserve_sats']):>14}  signed by "
            + ", ".join(f"m{member}" for member in each["signers"])
            for each in found
        ]
        none = "no reports yet: one is made every 144 Bitcoin blocks, or by `audit report`"
        session.output.result({"reports": found}, "\n".join(lines) or none)


def _told_text(found: dict[str, Any], stranger: Stranger) -> str:
    """A report as members told it, once its signatures are checked.

    Raises:
        Failed: they are not those of k members of this federation.
    """
    try:
        report, signatures = read_report_file(found)
        stranger.check_origin(report)
        keys = [member.block_key for member in stranger.federation.members]
        check_signatures(report, signatures, keys=keys, k=stranger.federation.k)
    except (Invalid, NotProved) as error:
        raise Failed(f"what the member sent is no report: {error}") from error
    names = [stranger.federation.members[member].name for member in signatures]
    return report_text(report, names)


def _register_verify(group: click.Group) -> None:
    @command(group, "verify")
    @click.argument("path", metavar="FILE", type=FILE)
    @bitcoind_options
    @click.option(
        "--member",
        metavar="URL",
        help="JSON-RPC of your sidechain node: sidechaind, elementsd or a member.",
    )
    @click.option("--member-cookie", type=FILE, help="Its .cookie, or any file with USER:PASSWORD.")
    @click.option(
        "--chain",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        help="Instead: the chain folder of a sidechain node that does not run.",
    )
    @federation_file_option()
    async def verify(
        session: Session,
        *,
        path: Path,
        bitcoind: str | None,
        bitcoind_cookie: Path | None,
        member: str | None,
        member_cookie: Path | None,
        chain: Path | None,
        federation_path: Path | None,
    ) -> None:
        """Compute a reserves report again from your own nodes, and check its signatures.

        Nothing is asked of the members' peg: all comes from the blocks of a Bitcoin node and of a
        sidechain node. Without --bitcoind, --member or --chain those of the local federation are
        asked. Every field that differs is named; exit code 1 on any difference.
        """
        nodes = Nodes(
            bitcoind=bitcoind,
            bitcoind_cookie=bitcoind_cookie,
            member=member,
            member_cookie=member_cookie,
            chain=chain,
        )
        nodes.check()
        stranger = stranger_of(session, federation_path)
        try:
            plain = read_proof(path, FILE_BYTES_MAX)
            async with opened_nodes(session, nodes, stranger) as (client, blocks):
                verdict = await verify_report(
                    plain,
                    stranger,
                    bitcoind=client,
                    blocks=blocks,
                    tell=lambda text: session.output.progress("verify", text),
                )
        except NotProved as error:
            session.output.result({"verified": False, "reason": str(error)}, "")
            raise Failed(f"{path} is not verified: {error}") from error
        if verdict.differences:
            session.output.result(verdict.to_json(), "\n".join(verdict.differences))
            raise Failed(f"{path} is not what the chains say")
        text = report_text(verdict.told, verdict.signers)
        session.output.result(verdict.to_json(), f"{text}\nequal to what both chains say")


@asynccontextmanager
async def opened_nodes(
    session: Session, nodes: Nodes, stranger: Stranger
) -> AsyncIterator[tuple[BitcoindClient, SidechainBlocks]]:
    """Clients of one's own nodes, or of the local federation's.

    Raises:
        LocalError, NotProved, Unavailable: one is not there.
    """
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(opened_bitcoind(session, nodes))
        if nodes.chain is not None:
            folder = FolderBlocks(nodes.chain, stranger.params)
            stack.callback(folder.close)
            yield client, folder
            return
        if nodes.member is not None and nodes.member_cookie is not None:
            own = RpcClient(nodes.member, nodes.member_cookie, NODE_TIMEOUT_S)
            rpc = await stack.enter_async_context(own)
            yield client, RpcBlocks(rpc)
            return
        yield client, RpcBlocks(await stack.enter_async_context(session.members()))


@asynccontextmanager
async def opened_bitcoind(session: Session, nodes: Nodes) -> AsyncIterator[BitcoindClient]:
    """A client of one's own Bitcoin node, or of the local federation's.

    Raises:
        LocalError: it does not run.
    """
    if nodes.bitcoind is None:
        async with session.bitcoind() as client:
            yield client
        return
    own = BitcoindClient(
        nodes.bitcoind, cookie_path=nodes.bitcoind_cookie, timeout_ms=NODE_TIMEOUT_S * 1_000
    )
    try:
        yield own
    finally:
        await own.close()
