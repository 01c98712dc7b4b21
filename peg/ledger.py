"""Keeps the peg's state in step with both chains; a cache that can be rebuilt at any time.

Final sidechain blocks are folded at once and need nothing else. Bitcoin blocks on the path to B(h)
are fetched from the member's own node, by hash, when `advance` is awaited: so the state may lag
behind consensus while that node is slow, and peg signing waits for it.

Source: peg:3, peg:9.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from peg.bitcoind import ParentHeaderInfo
from peg.commitments import Commitment
from peg.fedscript import FedScript
from peg.history import PegHistory
from peg.parameters import PegParameters
from peg.parent_path import ParentPath
from peg.parent_view import ParentView
from peg.state import PegFold, PegView
from sidechain.errors import InvalidEncoding, InvariantError, Unavailable
from sidechain.params import ChainParams
from sidechain.primitives.block import Block
from sidechain.primitives.parent import ParentBlock, parse_parent_block
from sidechain.primitives.transaction import OutPoint

CACHED_TRANSACTIONS_MAX = 20_000
THREAD_ABOVE_BYTES = 50_000
HEIGHTS_PER_PAUSE = 50


class BlockSource(Protocol):
    """What the ledger asks of the member's own Bitcoin node."""

    async def raw_block(self, block_hash: bytes) -> bytes:
        """Serialized block, on the best chain or off it."""
        ...

    async def header(self, block_hash: bytes) -> ParentHeaderInfo:
        """Place of a block, on the best chain or off it."""
        ...


class ParentBlocks:
    """Parsed Bitcoin blocks by hash, a bounded number of them kept."""

    def __init__(self, source: BlockSource) -> None:
        """Start empty."""
        self._source = source
        self._kept: OrderedDict[bytes, ParentBlock] = OrderedDict()
        self._transactions = 0

    async def get(self, block_hash: bytes) -> ParentBlock:
        """A block.

        Raises:
            Unavailable: the node did not answer, or answered with another block.
            BitcoindError: the node does not have it.
        """
        block = self._kept.get(block_hash)
        if block is not None:
            self._kept.move_to_end(block_hash)
            return block
        raw = await self._source.raw_block(block_hash)
        try:
            if len(raw) > THREAD_ABOVE_BYTES:
                block = await asyncio.to_thread(parse_parent_block, raw)
            else:
                block = parse_parent_block(raw)
        except InvalidEncoding as error:
            raise Unavailable(f"Bitcoin node returned a malformed block: {error}") from error
        if block.header.hash != block_hash:
            raise Unavailable("Bitcoin node returned another block than asked for")
        self._keep(block)
        return block

    def _keep(self, block: ParentBlock) -> None:
        self._kept[block.header.hash] = block
        self._transactions += len(block.transactions)
        while self._transactions > CACHED_TRANSACTIONS_MAX and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._transactions -= len(dropped.transactions)


class PegLedger:
    """Owner of the peg's state. `apply` and `advance` are called by one task, the service's."""

    def __init__(
        self,
        chain: ChainParams,
        parameters: PegParameters,
        script: FedScript,
        *,
        source: BlockSource,
        parent: ParentView,
    ) -> None:
        """Start before block 1.

        Args:
            script: the federation's plain fedpegscript.
            parent: the own best chain; used to find ancestors without asking the node.
        """
        self._parameters = parameters
        self._script = script
        self._genesis = chain.genesis_hash
        self._source = source
        self._parent = parent
        self.blocks = ParentBlocks(source)
        self.fed_programs: frozenset[bytes] = frozenset((script.program,))
        self.history = PegHistory(chain, parameters, self.fed_programs)
        self.path: ParentPath | None = None
        self._fold: PegFold | None = None
        self._watched = 0
        self._late: list[tuple[OutPoint, bytes]] = []

    @property
    def view(self) -> PegView | None:
        """State at the last height reached; None before block 1."""
        return self._fold.view if self._fold is not None else None

    @property
    def csv(self) -> int:
        """The lock of the federation's script, in Bitcoin blocks."""
        return self._script.csv

    @property
    def is_current(self) -> bool:
        """Whether the state is that of the last final block."""
        return self.view is not None and self.view.height == self.history.height

    def apply(self, block: Block) -> None:
        """Fold a final block; call in order, from block 1.

        Raises:
            InvariantError: out of order, or a block this version cannot read.
        """
        self.history.apply(block)

    async def advance(self, on_view: Callable[[PegView], None] | None = None) -> None:
        """Bring the state to the last final block.

        Heights before the last RESET are skipped: they refer to orphaned Bitcoin blocks.

        Args:
            on_view: called with the state of each height reached.
        Raises:
            Unavailable: the node did not answer; the state stays where it got to.
            BitcoindError: the node does not have a block of the path.
        """
        while (height := self._next_height()) is not None:
            await self._follow(self.history.totals(height).commitment)
            # Only this task moves path and fold, so both are still at this height's block.
            view = self._folding().step(height)
            if on_view is not None:
                on_view(view)
            if height % HEIGHTS_PER_PAUSE == 0:
                await asyncio.sleep(0)

    def fork_height(self) -> int | None:
        """Highest block the committed path shares with the own best chain; None when unknown."""
        if self.path is None or self._parent.is_empty:
            return None
        lowest = max(self.path.base_height, self._parent.base_height)
        for height in range(min(self.path.tip_height, self._parent.tip_height), lowest - 1, -1):
            if self.path.hash_at(height) == self._parent.hash_at(height):
                return height
        return None

    def _next_height(self) -> int | None:
        tip = self.history.tip
        if tip is None:
            return None
        done = self._fold.height if self._fold is not None else 0
        height = max(done + 1, tip.last_reset_height)
        return height if height <= tip.height else None

    def _folding(self) -> PegFold:
        if self._fold is None:
            self._fold = PegFold(
                self.history, self._path(), self._parameters, self._script, self._genesis
            )
        return self._fold

    def _path(self) -> ParentPath:
        if self.path is None:
            # A FED output older than the lock at block 1 has expired; nothing before counts.
            first = self.history.totals(1).commitment.height
            self.path = ParentPath(self.fed_programs, max(0, first - self._script.csv))
        return self.path

    async def _follow(self, commitment: Commitment) -> None:
        """Make the path end in a committed block, with every claim known watched."""
        path = self._path()
        self._watch(path)
        height = path.height_of(commitment.block_hash)
        if height is None:
            branch = await self._branch(path, commitment)
            path.cut_above(commitment.height - len(branch))
            kept = path.tip_height
            for block_hash in branch:
                path.append(await self.blocks.get(block_hash))
        else:
            path.cut_above(height)
            kept = path.tip_height
        if path.tip_height != commitment.height:
            raise InvariantError("a committed height is not the height of its block")
        await self._rescan(path, kept)

    def _watch(self, path: ParentPath) -> None:
        """Watch all claims known, also those of later heights."""
        fresh = self.history.claims[self._watched :]
        for deposit in fresh:
            path.watch(deposit.claim.outpoint)
            # Forgotten only when blocks read before are known to be read again.
            self._late.append((deposit.claim.outpoint, deposit.claim.block_hash))
        self._watched += len(fresh)

    async def _branch(self, path: ParentPath, commitment: Commitment) -> Sequence[bytes]:
        """Hashes from above the path's fork up to a committed block, lowest first."""
        hashes = [commitment.block_hash]
        height = commitment.height
        while height > path.base_height:
            below = await self._previous(hashes[-1], height)
            if path.height_of(below) is not None:
                break
            hashes.append(below)
            height -= 1
        return list(reversed(hashes))

    async def _previous(self, block_hash: bytes, height: int) -> bytes:
        known = self._parent.block_at(height)
        if known is not None and known.hash == block_hash:
            return known.prev_hash
        return (await self._source.header(block_hash)).prev_hash

    async def _rescan(self, path: ParentPath, kept: int) -> None:
        """Read blocks again in which newly claimed deposits were made and perhaps spent.

        Blocks above `kept` were indexed with these deposits already watched.
        """
        late = list(self._late)
        lowest: int | None = None
        outpoints: list[OutPoint] = []
        for outpoint, block_hash in late:
            height = path.height_of(block_hash)
            if height is not None and height <= kept:
                outpoints.append(outpoint)
                lowest = height if lowest is None else min(lowest, height)
        if lowest is not None:
            # Up to the tip: what spends them was passed over too.
            for height in range(lowest, path.tip_height + 1):
                block_hash = path.hash_at(height) or b""
                path.rescan(await self.blocks.get(block_hash), outpoints)
        del self._late[: len(late)]
