"""Blocks that are known but not on the chain in force: who follows whom, and which is best. Pure.

Every block counts the same, so the best chain is the longest; of two equally long ones the one
that could be connected first. The tree holds what is beside the chain only; the chain itself is
found by height in the database.

Source: elements/blocks.md 3 (chain work), elements/interfaces.md 2 and 3.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Flag, auto

UNLINKED = 0
"""Sequence of a block that cannot be connected yet, because a block below it is missing."""


class NodeFlags(Flag):
    """What is known about a block beside the chain. Stored by value: only append.

    `DATA`: its bytes are there. `FAILED`: it breaks a rule, or somebody said so. `FAILED_BELOW`:
    a block under it does. `VALIDATED`: it was once part of the chain.
    """

    NONE = 0
    DATA = auto()
    FAILED = auto()
    FAILED_BELOW = auto()
    VALIDATED = auto()


ANY_FAILURE = NodeFlags.FAILED | NodeFlags.FAILED_BELOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One block beside the chain.

    `sequence` orders blocks by when they could first be connected, and is UNLINKED before;
    `tx_count` is 0 without the block's bytes.
    """

    hash: bytes
    prev_hash: bytes
    height: int
    sequence: int = UNLINKED
    tx_count: int = 0
    flags: NodeFlags = NodeFlags.NONE

    @property
    def has_data(self) -> bool:
        """Whether the block's bytes are stored."""
        return bool(self.flags & NodeFlags.DATA)

    @property
    def has_failed(self) -> bool:
        """Whether it, or a block under it, breaks a rule."""
        return bool(self.flags & ANY_FAILURE)

    @property
    def is_linked(self) -> bool:
        """Whether its bytes and those of every block under it are stored."""
        return self.sequence != UNLINKED

    @property
    def rank(self) -> tuple[int, int]:
        """The higher, the better."""
        return self.height, -self.sequence


class BlockTree:
    """The owner of all nodes. Nothing here is written anywhere; the caller does that."""

    def __init__(self) -> None:
        self._nodes: dict[bytes, Node] = {}
        self._children: dict[bytes, dict[bytes, None]] = {}
        self._candidates: dict[bytes, Node] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, block_hash: bytes) -> bool:
        return block_hash in self._nodes

    def get(self, block_hash: bytes) -> Node | None:
        """The node of a block, or None."""
        return self._nodes.get(block_hash)

    def nodes(self) -> Iterator[Node]:
        """All nodes, as they came."""
        return iter(self._nodes.values())

    def put(self, node: Node) -> None:
        """Add a node, or take note that one has changed."""
        self._nodes[node.hash] = node
        self._children.setdefault(node.prev_hash, {})[node.hash] = None
        if node.is_linked and not node.has_failed:
            self._candidates[node.hash] = node
        else:
            self._candidates.pop(node.hash, None)

    def remove(self, block_hash: bytes) -> Node | None:
        """Drop a node that has become part of the chain; None if there is none."""
        node = self._nodes.pop(block_hash, None)
        if node is None:
            return None
        self._candidates.pop(block_hash, None)
        siblings = self._children[node.prev_hash]
        del siblings[block_hash]
        if not siblings:
            del self._children[node.prev_hash]
        return node

    def children(self, block_hash: bytes) -> list[Node]:
        """The nodes directly on a block, which may be of the chain."""
        return [self._nodes[each] for each in self._children.get(block_hash, ())]

    def descendants(self, block_hash: bytes) -> list[Node]:
        """All nodes on a block, parents before children."""
        found = self.children(block_hash)
        for node in found:
            found += self.children(node.hash)
        return found

    def ancestry(self, block_hash: bytes) -> list[Node]:
        """The node and those under it down to the chain, lowest first; none for others."""
        found: list[Node] = []
        node = self._nodes.get(block_hash)
        while node is not None:
            found.append(node)
            node = self._nodes.get(node.prev_hash)
        return found[::-1]

    def best(self, tip_height: int, tip_sequence: int) -> Node | None:
        """The best block that could be connected and is better than the tip, or None."""
        best, rank = None, (tip_height, -tip_sequence)
        for node in self._candidates.values():
            if node.rank > rank:
                best, rank = node, node.rank
        return best

    def tips(self) -> list[Node]:
        """Nodes on which nothing stands, highest first."""
        leaves = [node for node in self._nodes.values() if node.hash not in self._children]
        return sorted(leaves, key=lambda node: node.height, reverse=True)

    def best_height(self) -> int:
        """Height of the highest block that has not failed, 0 without any."""
        return max((n.height for n in self._nodes.values() if not n.has_failed), default=0)

    def last_sequence(self) -> int:
        """The latest sequence of any node, 0 without any."""
        return max((node.sequence for node in self._nodes.values()), default=0)
