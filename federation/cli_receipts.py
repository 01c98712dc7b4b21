"""Commands about receipts: check one offline, and fetch the Bitcoin headers to check it against.

Source: peg:12.
"""

import asyncio
from pathlib import Path
from typing import Any, Final

import click

from federation.cli_audit import Nodes, bitcoind_options, opened_bitcoind
from federation.cli_proofs import FILE, federation_file_option, read_proof, stranger_of
from federation.cli_session import Failed, Session, command, show_btc
from federation.receipt_proofs import read_headers
from federation.receipts import NOTE, PEG_OUT, Proved, check_receipt
from federation.stranger import NotProved, Stranger
from peg.bitcoind import BitcoindClient, BitcoindError
from peg.status import address_or_none, outpoint_text
from sidechain.primitives.parent import HEADER_SIZE, ParentHeader

RECEIPT_FILE_MAX_BYTES: Final = 9_000_000
HEADERS_FILE_MAX_BYTES: Final = 400_000_000
HEADERS_AT_ONCE: Final = 100
"""Fewer than a receipt's block, and few enough that bitcoind's queue takes them."""


def register(program: click.Group) -> None:
    """Add the commands to the program."""

    @program.group("receipt")
    def group() -> None:
        """Receipts of peg-ins and peg-outs: `peg status ID --receipt FILE` writes one."""

    _register_verify(group)
    _register_headers(group)


def _register_verify(group: click.Group) -> None:
    @command(group, "verify")
    @click.argument("path", metavar="FILE", type=FILE)
    @click.option(
        "--headers",
        "headers_path",
        type=FILE,
        help="Bitcoin headers that you trust, as `receipt headers` writes them.",
    )
    @federation_file_option()
    async def verify(
        session: Session, *, path: Path, headers_path: Path | None, federation_path: Path | None
    ) -> None:
        """Check a receipt offline, with nothing but the federation file.

        Says what it proves, and what has to be trusted for that: without --headers, that the
        Bitcoin block which k members committed to is still on the best chain. Exit code 1 when the
        file does not prove what it says, with the reason.
        """
        stranger = stranger_of(session, federation_path)
        try:
            headers = () if headers_path is None else read_headers_file(headers_path)
            plain = read_proof(path, RECEIPT_FILE_MAX_BYTES)
            found = check_receipt(plain, stranger, headers)
        except NotProved as error:
            session.output.result({"proved": False, "reason": str(error)}, "")
            raise Failed(f"{path} proves nothing: {error}") from error
        shown = {"proved": True, **found.to_json()}
        session.output.result(shown, receipt_text(found, stranger))


def receipt_text(found: Proved, stranger: Stranger) -> str:
    """What a receipt proves, for people."""
    header, paid, place = found.block.header, found.paid, found.place
    address = address_or_none(found.script, stranger.params.parent_prefixes)
    side = f"sidechain block {header.height} ({header.hash[::-1].hex()})"
    if found.kind == PEG_OUT:
        lines = [
            f"burned    {show_btc(found.amount_sats)} in {outpoint_text(found.outpoint)}",
            f"for       {address or found.script.hex()}",
        ]
    else:
        lines = [f"claimed   {show_btc(found.amount_sats)} of {outpoint_text(found.outpoint)}"]
    lines += [f"in        {side}", f"signed by {', '.join(found.block.signers)}"]
    if paid is not None:
        lines += [
            f"paid      {show_btc(paid.payout_sats)} by {paid.txid[::-1].hex()}:{paid.vout}",
            f"batch     {paid.index} of the lane, selected at block {paid.h_sel}",
        ]
    elif found.kind == PEG_OUT:
        lines.append(f"paid      not when this receipt was made. {NOTE}")
    if place is not None:
        depth = place.depth if found.own_depth is None else found.own_depth
        lines += [
            f"Bitcoin   block {place.height} ({place.block_hash[::-1].hex()}), "
            f"{depth} confirmations",
            f"committed in sidechain block {place.committed_in}",
        ]
    return "\n".join([*lines, *(f"trusted   {each}" for each in found.trusted)])


def read_headers_file(path: Path) -> tuple[ParentHeader, ...]:
    """Headers in order: 160 hex digits a line, or 80 bytes each.

    Raises:
        NotProved: it is neither. OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(HEADERS_FILE_MAX_BYTES + 1)
    if len(data) > HEADERS_FILE_MAX_BYTES:
        raise NotProved(f"the file of headers is larger than {HEADERS_FILE_MAX_BYTES} bytes")
    try:
        lines = data.decode("ascii").split()
        if any(len(line) != 2 * HEADER_SIZE for line in lines):
            raise NotProved("a line of the headers file is not 160 hex digits")
        data = bytes.fromhex("".join(lines))
    except ValueError:
        pass  # not text, so bytes
    if not data:
        raise NotProved("the file of headers is empty")
    return read_headers(data)


def _register_headers(group: click.Group) -> None:
    @command(group, "headers")
    @click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path, dir_okay=False),
        required=True,
        help="File to write.",
    )
    @click.option(
        "--from",
        "first",
        type=click.IntRange(0, 2**31),
        default=0,
        show_default=True,
        help="Height of the first one; from 0 on heights can be checked too.",
    )
    @bitcoind_options
    async def headers(
        session: Session,
        *,
        output: Path,
        first: int,
        bitcoind: str | None,
        bitcoind_cookie: Path | None,
    ) -> None:
        """Write the headers of your Bitcoin node's best chain, for `receipt verify --headers`."""
        nodes = Nodes(bitcoind=bitcoind, bitcoind_cookie=bitcoind_cookie)
        nodes.check()
        async with opened_bitcoind(session, nodes) as client:
            tip = await client.block_count()
            if first > tip:
                raise Failed(f"your bitcoind has {tip} blocks, none of height {first}")
            lines: list[str] = []
            for start in range(first, tip + 1, HEADERS_AT_ONCE):
                last = min(start + HEADERS_AT_ONCE - 1, tip)
                lines += await _headers(client, start, last)
                session.output.progress("headers", f"read header {last} of {tip}")
        _write(output, lines)
        shown: dict[str, Any] = {"written": str(output), "first": first, "last": tip}
        session.output.result(shown, f"headers {first} to {tip} are in {output}")


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n")


async def _headers(client: BitcoindClient, first: int, last: int) -> list[str]:
    async def one(height: int) -> str:
        return (await client.raw_header(await client.block_hash(height))).hex()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(height)) for height in range(first, last + 1)]
    except ExceptionGroup as errors:
        for error in errors.exceptions:
            if isinstance(error, BitcoindError):
                raise error from errors
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]
