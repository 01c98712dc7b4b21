"""Bitcoin's partial merkle trees (BIP37): proof that transactions are in a block.

Source: BIP37 "Partial Merkle branch format"; elements/peg.md 3 (item 5) and 3.1 (check 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sidechain.crypto.hashes import sha256d
from sidechain.errors import InvalidEncoding
from sidechain.primitives.encoding import Reader, compact_size, le32

MAX_TRANSACTIONS = 4_000_000 // (4 * 60)
"""More transactions than this cannot fit in a block of 60-byte transactions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialTree:
    """A read proof: the root it leads to and the transactions it is about.

    `matches` holds (position in the block, txid) in block order.
    """

    tx_count: int
    root: bytes
    matches: tuple[tuple[int, bytes], ...]


def read_partial_tree(reader: Reader) -> PartialTree:
    """Read and walk a partial merkle tree.

    Every hash and every flag bit must be used, up to the padding of the last byte. A pair of
    equal siblings is refused: such a tree would also fit a block with another transaction count.

    Raises:
        InvalidEncoding: malformed, or the tree is not fully and exactly consumed.
    """
    tx_count = reader.u32()
    hashes = [reader.read(32) for _ in range(reader.compact_size())]
    flags = reader.vec()
    if tx_count == 0 or tx_count > MAX_TRANSACTIONS or len(hashes) > tx_count:
        raise InvalidEncoding("partial merkle tree has an impossible count")
    if 8 * len(flags) < len(hashes):
        raise InvalidEncoding("partial merkle tree has fewer flags than hashes")
    walk = _Walk(tx_count, hashes, flags)
    root = walk.node(_height(tx_count), 0)
    if walk.hashes_used != len(hashes) or (walk.bits_used + 7) // 8 != len(flags):
        raise InvalidEncoding("partial merkle tree is not fully consumed")
    return PartialTree(tx_count=tx_count, root=root, matches=tuple(walk.matches))


def build_partial_tree(txids: Sequence[bytes], chosen: Sequence[int]) -> bytes:
    """Serialize the partial tree that proves some of a block's transactions.

    Args:
        txids: all transaction ids of the block, in order.
        chosen: positions to prove.
    Raises:
        InvalidEncoding: no transactions, or a position outside the block.
    """
    wanted = frozenset(chosen)
    if not txids or any(not 0 <= position < len(txids) for position in wanted):
        raise InvalidEncoding("position outside the block")
    levels = [list(txids)]
    marks = [[position in wanted for position in range(len(txids))]]
    while len(levels[-1]) > 1:
        below, marked = levels[-1], marks[-1]
        pairs = range(0, len(below), 2)
        levels.append([sha256d(below[i] + below[min(i + 1, len(below) - 1)]) for i in pairs])
        marks.append([any(marked[i : i + 2]) for i in pairs])
    bits: list[bool] = []
    hashes: list[bytes] = []
    pending = [(len(levels) - 1, 0)]
    while pending:
        height, position = pending.pop()
        marked_here = marks[height][position]
        bits.append(marked_here)
        if height == 0 or not marked_here:
            hashes.append(levels[height][position])
            continue
        if 2 * position + 1 < len(levels[height - 1]):
            pending.append((height - 1, 2 * position + 1))
        pending.append((height - 1, 2 * position))
    packed = _pack(bits)
    head = le32(len(txids)) + compact_size(len(hashes)) + b"".join(hashes)
    return head + compact_size(len(packed)) + packed


class _Walk:
    """State of one depth-first walk over a received tree."""

    def __init__(self, tx_count: int, hashes: list[bytes], flags: bytes) -> None:
        self.tx_count = tx_count
        self.hashes = hashes
        self.flags = flags
        self.hashes_used = 0
        self.bits_used = 0
        self.matches: list[tuple[int, bytes]] = []

    def node(self, height: int, position: int) -> bytes:
        """Hash of one node; recursion is at most as deep as the tree is high (15)."""
        parent_of_match = self._next_bit()
        if height == 0 or not parent_of_match:
            digest = self._next_hash()
            if height == 0 and parent_of_match:
                self.matches.append((position, digest))
            return digest
        left = self.node(height - 1, 2 * position)
        if 2 * position + 1 >= _width(self.tx_count, height - 1):
            return sha256d(left + left)
        right = self.node(height - 1, 2 * position + 1)
        if left == right:
            raise InvalidEncoding("partial merkle tree repeats a branch")
        return sha256d(left + right)

    def _next_bit(self) -> bool:
        byte, shift = divmod(self.bits_used, 8)
        if byte >= len(self.flags):
            raise InvalidEncoding("partial merkle tree runs out of flags")
        self.bits_used += 1
        return bool(self.flags[byte] >> shift & 1)

    def _next_hash(self) -> bytes:
        if self.hashes_used >= len(self.hashes):
            raise InvalidEncoding("partial merkle tree runs out of hashes")
        self.hashes_used += 1
        return self.hashes[self.hashes_used - 1]


def _width(tx_count: int, height: int) -> int:
    return (tx_count + (1 << height) - 1) >> height


def _height(tx_count: int) -> int:
    return (tx_count - 1).bit_length()


def _pack(bits: list[bool]) -> bytes:
    packed = bytearray((len(bits) + 7) // 8)
    for position, bit in enumerate(bits):
        packed[position // 8] |= bit << position % 8
    return bytes(packed)
