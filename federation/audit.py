"""A reserves report computed again by somebody who trusts no member.

All of it comes from a Bitcoin node and a sidechain node of one's own, whatever program that one is.
The sidechain's blocks are linked to the one that the report names, which k members have signed; of
the own node is taken that it has validated them. The signatures on the report count last: they say
who told it, not that it is true.

Source: peg:11, N26.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from federation.production import check_committed
from federation.stranger import NotProved, Stranger
from peg.bitcoind import BitcoindClient, BitcoindError
from peg.ledger import PegLedger
from peg.parent_view import ParentView
from peg.reserves_report import (
    ReportOrigin,
    check_signatures,
    differing_fields,
    make_report,
    read_report_file,
)
from sidechain.api.client import RpcError
from sidechain.errors import Invalid, InvariantError, Unavailable
from sidechain.params import ChainParams
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.genesis import genesis_block
from sidechain.script.block_signature import verify_block_signature
from sidechain.storage.chainstate import ChainState
from sidechain.validation.dynafed import check_dynafed_header

BLOCKS_AT_ONCE: Final = 16
TOLD_EVERY: Final = 500


class SidechainBlocks(Protocol):
    """Blocks of a sidechain node of one's own."""

    async def hash_at(self, height: int) -> bytes:
        """Hash of its block at a height. Raises NotProved, Unavailable."""
        ...

    async def block(self, height: int) -> bytes:
        """Its block at a height. Raises NotProved, Unavailable."""
        ...


class Caller(Protocol):
    """A way to call a node's JSON-RPC. Met by `RpcClient` and `MemberLinks`."""

    async def call(self, method: str, *params: Any) -> Any:
        """Run a method. Raises RpcError, Unavailable."""
        ...


class RpcBlocks:
    """Blocks by the JSON-RPC that every Elements node has: `sidechaind`, elementsd or a member."""

    def __init__(self, client: Caller) -> None:
        """The client is closed by its owner."""
        self._client = client

    async def hash_at(self, height: int) -> bytes:
        """See `SidechainBlocks`."""
        return bytes.fromhex(await self._ask("getblockhash", height))[::-1]

    async def block(self, height: int) -> bytes:
        """See `SidechainBlocks`."""
        named = await self._ask("getblockhash", height)
        return bytes.fromhex(await self._ask("getblock", named, 0))

    async def _ask(self, method: str, *params: Any) -> str:
        try:
            return str(await self._client.call(method, *params))
        except RpcError as error:
            raise NotProved(
                f"the sidechain node does not give block {params[0]}: {error.message}"
            ) from error


class FolderBlocks:
    """Blocks out of the folder of a node that does not run."""

    def __init__(self, folder: Path, params: ChainParams) -> None:
        """Open the database in a folder, or in `chain` in it.

        Raises:
            NotProved: there is none, or not of this chain. Unavailable: its node runs.
        """
        inside = folder / "chain"
        place = inside if (inside / "CURRENT").is_file() else folder
        if not (place / "CURRENT").is_file():
            raise NotProved(f"there is no chain database in {folder} or {inside}")
        try:
            self._state = ChainState.open(place, params)
        except Invalid as error:
            raise NotProved(f"{place} is not of this chain: {error}") from error

    async def hash_at(self, height: int) -> bytes:
        """See `SidechainBlocks`."""
        self._check(height)
        return self._state.header(height).hash

    async def block(self, height: int) -> bytes:
        """See `SidechainBlocks`."""
        self._check(height)
        return self._state.block_bytes(height)

    def close(self) -> None:
        """Release the folder."""
        self._state.close()

    def _check(self, height: int) -> None:
        if height > self._state.tip_height:
            raise NotProved(f"the chain in the folder ends at block {self._state.tip_height}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came out: who signed, what differs, the report as told and as found."""

    told: dict[str, Any]
    found: dict[str, Any]
    signers: tuple[str, ...]
    differences: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "verified": not self.differences,
            "signers": list(self.signers),
            "differences": list(self.differences),
            "report": self.told,
            "found": self.found,
        }


async def verify_report(
    plain: object,
    stranger: Stranger,
    *,
    bitcoind: BitcoindClient,
    blocks: SidechainBlocks,
    tell: Callable[[str], None] = lambda text: None,
) -> Verdict:
    """Compute a report again and compare it field by field; then its signatures.

    Args:
        plain: the file, parsed.
        tell: told what is being done.
    Raises:
        NotProved: it is no report of this federation, or a node cannot tell; says why.
        Unavailable: a node does not answer.
    """
    try:
        told, signatures = read_report_file(plain)
    except Invalid as error:
        raise NotProved(error.detail or error.reason) from error
    stranger.check_origin(told)
    found = await recompute(told["height"], stranger, bitcoind=bitcoind, blocks=blocks, tell=tell)
    differences = differing_fields(told, found)
    members = stranger.federation.people
    try:
        keys = [member.block_key for member in members]
        check_signatures(told, signatures, keys=keys, k=stranger.federation.k)
    except Invalid as error:
        differences.append(f"{error.reason}: {error.detail}")
    return Verdict(
        told=told,
        found=found,
        signers=tuple(members[m].name for m in signatures if 0 <= m < len(members)),
        differences=tuple(differences),
    )


async def recompute(
    height: int,
    stranger: Stranger,
    *,
    bitcoind: BitcoindClient,
    blocks: SidechainBlocks,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """The report of a height from both chains.

    Raises:
        NotProved, Unavailable: as `verify_report`.
    """
    params, script = stranger.params, stranger.federation.fed_script()
    ledger = await read_state(height, stranger, bitcoind=bitcoind, blocks=blocks, tell=tell)
    view = ledger.view
    if view is None or view.height != height:
        raise NotProved(f"the peg's state does not reach block {height}")
    try:
        committed = await bitcoind.header(view.totals.commitment.block_hash)
    except BitcoindError as error:
        raise NotProved(f"your bitcoind lacks a block that the sidechain names: {error}") from error
    if committed.confirmations < 1:
        raise NotProved(
            f"Bitcoin block {committed.hash[::-1].hex()} that sidechain block {height} commits to "
            "is not on the best chain of your bitcoind: the report is of a branch that was left"
        )
    origin = ReportOrigin(
        genesis=params.genesis_hash,
        parameter_hash=stranger.federation.parameter_hash(),
        fedpegscripts=(script.script,),
    )
    return make_report(view, ledger.history.block_hash(height), origin)


async def read_state(
    height: int,
    stranger: Stranger,
    *,
    bitcoind: BitcoindClient,
    blocks: SidechainBlocks,
    tell: Callable[[str], None] = lambda text: None,
) -> PegLedger:
    """The peg's state at a height from both chains.

    Raises:
        NotProved, Unavailable: as `verify_report`.
    """
    if height < 1:
        raise NotProved("there is no report of a block below 1")
    await _check_chains(stranger, bitcoind, blocks)
    federation = stranger.federation
    ledger = PegLedger(
        stranger.params,
        federation.peg,
        federation.fed_script(),
        source=bitcoind,
        parent=ParentView(),
    )
    try:
        await _read_sidechain(ledger, height, stranger, blocks, tell)
        tell("reading Bitcoin's blocks")
        await ledger.advance()
    except BitcoindError as error:
        raise NotProved(f"your bitcoind lacks a block that the sidechain names: {error}") from error
    except InvariantError as error:
        raise NotProved(f"the blocks of your nodes do not fit together: {error}") from error
    return ledger


async def _check_chains(
    stranger: Stranger, bitcoind: BitcoindClient, blocks: SidechainBlocks
) -> None:
    """Refuse nodes of other chains before hours are spent on them."""
    try:
        if await bitcoind.block_hash(0) != stranger.params.parent_genesis_hash:
            raise NotProved("your bitcoind is on another chain than the federation's Bitcoin")
    except BitcoindError as error:
        raise NotProved(f"your bitcoind refuses: {error}") from error
    if await blocks.hash_at(0) != stranger.params.genesis_hash:
        raise NotProved("your sidechain node is on another chain than the federation's")


async def _read_sidechain(
    ledger: PegLedger,
    height: int,
    stranger: Stranger,
    blocks: SidechainBlocks,
    tell: Callable[[str], None],
) -> None:
    """Feed blocks 1 to a height; each has to follow the one before, and to be signed.

    By whom the chain says: a federation may have changed its members.
    """
    known = _Headers(stranger.params)
    for first in range(1, height + 1, BLOCKS_AT_ONCE):
        last = min(first + BLOCKS_AT_ONCE - 1, height)
        for at, data in enumerate(await _window(blocks, first, last), first):
            try:
                block = Block.decode(data, stranger.params)
                if (block.header.height, block.header.prev_hash) != (at, known.tip_hash):
                    raise NotProved(f"sidechain block {at} does not follow the one before it")
                check_committed(block)
                check_dynafed_header(block.header, known, stranger.params)
                verify_block_signature(block.header, stranger.params)
            except Invalid as error:
                raise NotProved(f"sidechain block {at}: {error}") from error
            ledger.apply(block)
            known.add(block.header)
        if first // TOLD_EVERY != last // TOLD_EVERY:
            tell(f"read {last} of {height} sidechain blocks")


class _Headers:
    """The headers read so far, from genesis on."""

    def __init__(self, params: ChainParams) -> None:
        self._headers = [genesis_block(params).header]

    @property
    def tip_height(self) -> int:
        return len(self._headers) - 1

    @property
    def tip_hash(self) -> bytes:
        return self._headers[-1].hash

    def header(self, height: int) -> BlockHeader:
        return self._headers[height]

    def add(self, header: BlockHeader) -> None:
        self._headers.append(header)


async def _window(blocks: SidechainBlocks, first: int, last: int) -> list[bytes]:
    """Some blocks, asked for at once."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(blocks.block(at)) for at in range(first, last + 1)]
    except ExceptionGroup as errors:
        for error in errors.exceptions:
            if isinstance(error, NotProved | Unavailable):
                raise error from errors
        raise
    return [task.result() for task in tasks]
