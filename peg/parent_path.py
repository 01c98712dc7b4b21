"""The Bitcoin blocks on the path to B(h), reduced to what the peg looks at.

Keeps FED outputs, claimed deposits, what spent them and where, for one chain; can be cut back to a
fork and continued on another branch without reading the common part again. A function of the
blocks fed and the outpoints watched: the order in which the two come does not matter, because the
shell reads blocks again (`rescan`) for an outpoint it learns late.

Source: peg:3, peg:3.8.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from sidechain.errors import InvariantError
from sidechain.primitives.parent import ParentBlock, ParentTx
from sidechain.primitives.transaction import OutPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class PathOutput:
    """A watched output: its script, value in satoshis, the height and transaction that made it.

    `is_coinbase`: its block's first transaction made it, so it matures late.
    """

    outpoint: OutPoint
    value_sats: int
    script: bytes
    height: int
    transaction: ParentTx
    is_coinbase: bool = False


@dataclass(frozen=True, slots=True)
class PathSpend:
    """What spent a watched output."""

    transaction: ParentTx
    height: int


@dataclass(slots=True)
class _Changes:
    """What one height added, so that it can be taken back."""

    outputs: list[OutPoint] = field(default_factory=list)
    spends: list[OutPoint] = field(default_factory=list)


class ParentPath:
    """Index of one chain from a base height to its tip. One owner: the ledger."""

    def __init__(self, fed_programs: Collection[bytes], base_height: int) -> None:
        """Start empty.

        Args:
            fed_programs: FED scripts, past and present; their outputs are always watched.
            base_height: the lowest block that will be fed.
        """
        self._programs = frozenset(fed_programs)
        self._base = base_height
        self._hashes: list[bytes] = []
        self._heights: dict[bytes, int] = {}
        self._outputs: dict[OutPoint, PathOutput] = {}
        self._unspent: dict[OutPoint, PathOutput] = {}
        self._spends: dict[OutPoint, PathSpend] = {}
        self._watched: set[OutPoint] = set()
        self._watched_txids: dict[bytes, int] = {}
        self._changes: dict[int, _Changes] = {}
        self.revision = 0

    @property
    def base_height(self) -> int:
        """Height of the lowest block indexed."""
        return self._base

    @property
    def tip_height(self) -> int:
        """Height of the last block fed; one below the base while empty."""
        return self._base + len(self._hashes) - 1

    @property
    def tip_hash(self) -> bytes | None:
        """Hash of the last block fed."""
        return self._hashes[-1] if self._hashes else None

    def hash_at(self, height: int) -> bytes | None:
        """Hash of the path's block at a height, None outside the path."""
        position = height - self._base
        return self._hashes[position] if 0 <= position < len(self._hashes) else None

    def height_of(self, block_hash: bytes) -> int | None:
        """Height of a block of the path."""
        return self._heights.get(block_hash)

    def output(self, outpoint: OutPoint) -> PathOutput | None:
        """A watched output that exists on the path, spent or not."""
        return self._outputs.get(outpoint)

    def spend(self, outpoint: OutPoint) -> PathSpend | None:
        """What spends a watched output on the path."""
        return self._spends.get(outpoint)

    def unspent(self) -> Iterable[PathOutput]:
        """Watched outputs that nothing on the path spends, in the order they were indexed."""
        return self._unspent.values()

    def watch(self, outpoint: OutPoint) -> None:
        """Follow a deposit in blocks fed from now on; see `rescan` for those fed before."""
        if outpoint not in self._watched:
            self._watched.add(outpoint)
            self._watched_txids[outpoint.txid] = self._watched_txids.get(outpoint.txid, 0) + 1

    def append(self, block: ParentBlock) -> None:
        """Index the block above the tip.

        Raises:
            InvariantError: it does not follow the tip.
        """
        if self._hashes and block.header.prev_hash != self._hashes[-1]:
            raise InvariantError("path block does not connect")
        height = self.tip_height + 1
        self._hashes.append(block.header.hash)
        self._heights[block.header.hash] = height
        self._scan(block, height, None)
        self.revision += 1

    def rescan(self, block: ParentBlock, outpoints: Collection[OutPoint]) -> None:
        """Index outpoints learnt late in a block of the path; call in ascending height.

        Raises:
            InvariantError: the block is not on the path.
        """
        height = self._heights.get(block.header.hash)
        if height is None:
            raise InvariantError("rescan of a block off the path")
        self._scan(block, height, frozenset(outpoints))
        self.revision += 1

    def cut_above(self, height: int) -> None:
        """Forget everything above a height, as when another branch begins there."""
        if height >= self.tip_height:
            return
        for dropped in range(self.tip_height, max(height, self._base - 1), -1):
            changes = self._changes.pop(dropped, None)
            if changes is not None:
                self._take_back(changes)
            del self._heights[self._hashes.pop()]
        self.revision += 1

    def _scan(self, block: ParentBlock, height: int, only: frozenset[OutPoint] | None) -> None:
        for position, transaction in enumerate(block.transactions):
            for prevout in transaction.inputs:
                if prevout in self._unspent and (only is None or prevout in only):
                    del self._unspent[prevout]
                    self._spends[prevout] = PathSpend(transaction, height)
                    self._changes.setdefault(height, _Changes()).spends.append(prevout)
            self._scan_outputs(transaction, height, only, is_coinbase=position == 0)

    def _scan_outputs(
        self,
        transaction: ParentTx,
        height: int,
        only: frozenset[OutPoint] | None,
        *,
        is_coinbase: bool,
    ) -> None:
        named = transaction.txid in self._watched_txids
        for index, (value_sats, script) in enumerate(transaction.outputs):
            if not named and (only is not None or script not in self._programs):
                continue
            outpoint = OutPoint(transaction.txid, index)
            wanted = outpoint in self._watched if only is None else outpoint in only
            if not wanted and (only is not None or script not in self._programs):
                continue
            if outpoint in self._outputs:
                continue
            found = PathOutput(
                outpoint=outpoint,
                value_sats=value_sats,
                script=script,
                height=height,
                transaction=transaction,
                is_coinbase=is_coinbase,
            )
            self._outputs[outpoint] = found
            self._unspent[outpoint] = found
            self._changes.setdefault(height, _Changes()).outputs.append(outpoint)

    def _take_back(self, changes: _Changes) -> None:
        # An output made and spent at one height is in both lists: spends go first.
        for outpoint in reversed(changes.spends):
            del self._spends[outpoint]
            self._unspent[outpoint] = self._outputs[outpoint]
        for outpoint in changes.outputs:
            del self._outputs[outpoint]
            del self._unspent[outpoint]
