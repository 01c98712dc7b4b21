"""The Bitcoin chain as one member sees it: headers folded into an index of the best chain.

Pure: the watcher fetches, this file remembers. The view answers how deep a block is and whether it
is on the best chain, and so serves as the `ParentFacts` of peg-in checks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sidechain.errors import InvariantError

BEHIND_ITS_NODE = "own view of Bitcoin is behind its node"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentBlock:
    """What the view keeps of one block: hashes in internal order, `time` in unix seconds."""

    hash: bytes
    prev_hash: bytes
    height: int
    ntx: int
    time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentChange:
    """One step of the best chain: blocks that left it (tip first), then blocks that joined it."""

    disconnected: tuple[ParentBlock, ...]
    connected: tuple[ParentBlock, ...]


class ParentView:
    """Index of the best chain from a base height up to the tip.

    Blocks below the base are unknown to the view. It has one owner, the watcher; everybody else
    reads. All methods finish without suspending, so a reader never sees half a change.
    """

    def __init__(self) -> None:
        self._blocks: list[ParentBlock] = []
        self._heights: dict[bytes, int] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no block has been seen yet."""
        return not self._blocks

    @property
    def base_height(self) -> int:
        """Height of the lowest block known.

        Raises:
            InvariantError: the view is empty.
        """
        self._require_blocks()
        return self._blocks[0].height

    @property
    def tip(self) -> ParentBlock:
        """The best block.

        Raises:
            InvariantError: the view is empty.
        """
        self._require_blocks()
        return self._blocks[-1]

    @property
    def tip_height(self) -> int:
        """Height of the best block; -1 while the view is empty."""
        return self._blocks[-1].height if self._blocks else -1

    @property
    def tip_hash(self) -> bytes:
        """Hash of the best block, as `tip`."""
        return self.tip.hash

    def height_at_depth(self, confirmations: int, best_block_hash: bytes) -> int | None:
        """The height of what has so many confirmations at a tip of the node.

        None when the view has another tip: the node is ahead, or has changed its branch.
        """
        if self.is_empty or self.tip_hash != best_block_hash:
            return None
        return self.tip_height - confirmations + 1

    def block_at(self, height: int) -> ParentBlock | None:
        """The best chain's block at a height; None above the tip and below the base."""
        if not self._blocks:
            return None
        position = height - self._blocks[0].height
        return self._blocks[position] if 0 <= position < len(self._blocks) else None

    def hash_at(self, height: int) -> bytes | None:
        """Hash of the best chain's block at a height, as `block_at`."""
        block = self.block_at(height)
        return None if block is None else block.hash

    def height_of(self, block_hash: bytes) -> int | None:
        """Height of a block of the best chain; None for any other block."""
        return self._heights.get(block_hash)

    def is_active(self, block_hash: bytes) -> bool:
        """Whether a block is on the best chain."""
        return block_hash in self._heights

    def depth(self, block_hash: bytes) -> int:
        """Confirmations of a block: 1 for the tip, 0 for a block that is not on the best chain."""
        height = self._heights.get(block_hash)
        return 0 if height is None else self.tip_height - height + 1

    def block_facts(self, block_hash: bytes) -> tuple[int, int] | None:
        """Confirmations and transaction count of a block of the best chain; None for others.

        Source: `ParentFacts` of sidechain.validation.pegins.
        """
        block = self.block_at(self._heights.get(block_hash, -1))
        return None if block is None else (self.depth(block_hash), block.ntx)

    def is_ancestor(self, ancestor_hash: bytes, block_hash: bytes) -> bool:
        """Whether both are on the best chain and the first is the second or below it."""
        low = self._heights.get(ancestor_hash)
        high = self._heights.get(block_hash)
        return low is not None and high is not None and low <= high

    def advance(self, branch: Sequence[ParentBlock]) -> ParentChange:
        """Make a branch the end of the best chain, dropping what it replaces.

        Args:
            branch: new blocks, lowest first. The first connects to a block of the view, or the
                view is empty.
        Returns:
            The blocks that left and joined; both empty for an empty branch.
        Raises:
            InvariantError: the branch has a gap or does not connect; nothing was changed.
        """
        if not branch:
            return ParentChange(disconnected=(), connected=())
        for lower, upper in zip(branch, branch[1:], strict=False):
            if upper.prev_hash != lower.hash or upper.height != lower.height + 1:
                raise InvariantError("parent branch has a gap")
        disconnected: tuple[ParentBlock, ...] = ()
        if self._blocks:
            fork_height = self._heights.get(branch[0].prev_hash)
            if fork_height is None or branch[0].height != fork_height + 1:
                raise InvariantError("parent branch does not connect to the known chain")
            disconnected = self._cut_above(fork_height)
        for block in branch:
            self._blocks.append(block)
            self._heights[block.hash] = block.height
        return ParentChange(disconnected=disconnected, connected=tuple(branch))

    def rewind(self, fork_hash: bytes) -> ParentChange:
        """Make a block of the view its tip again, as when the node's chain became shorter.

        Raises:
            InvariantError: the block is not on the best chain.
        """
        fork_height = self._heights.get(fork_hash)
        if fork_height is None:
            raise InvariantError("parent chain cannot be rewound to an unknown block")
        return ParentChange(disconnected=self._cut_above(fork_height), connected=())

    def _cut_above(self, height: int) -> tuple[ParentBlock, ...]:
        keep = height - self._blocks[0].height + 1
        dropped = tuple(reversed(self._blocks[keep:]))
        del self._blocks[keep:]
        for block in dropped:
            del self._heights[block.hash]
        return dropped

    def _require_blocks(self) -> None:
        if not self._blocks:
            raise InvariantError("the parent view is empty")
