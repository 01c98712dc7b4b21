"""Compact blocks: a header with short names of transactions, and lists of those that are missing.

Source: elements/interfaces.md 2 and 4.5, BIP152.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sidechain.crypto.hashes import sha256
from sidechain.crypto.siphash import siphash
from sidechain.errors import InvalidEncoding
from sidechain.params import ChainParams
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.encoding import Reader, compact_size, le64
from sidechain.primitives.transaction import Transaction

SHORT_ID_BYTES = 6
MAX_INDEX = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactBlock:
    """A block whose transactions are named, but for a few that stand in it.

    `prefilled` holds (position in the block, transaction) in order; `short_ids` are the names of
    all others, in order.
    """

    header: BlockHeader
    nonce: int
    short_ids: tuple[int, ...]
    prefilled: tuple[tuple[int, Transaction], ...]

    @classmethod
    def of(cls, block: Block, nonce: int) -> "CompactBlock":
        """The compact form of a block with at least one transaction, which stands in it."""
        namer = ShortNames(block.header, nonce)
        return cls(
            header=block.header,
            nonce=nonce,
            short_ids=tuple(namer.name(tx) for tx in block.transactions[1:]),
            prefilled=((0, block.transactions[0]),),
        )

    @classmethod
    def read(cls, reader: Reader, params: ChainParams) -> "CompactBlock":
        """Read one compact block.

        Raises:
            InvalidEncoding: cut off, or a position is out of range.
        """
        header = BlockHeader.read(reader, params)
        nonce = reader.u64()
        count = reader.compact_size()
        short_ids = tuple(
            int.from_bytes(reader.read(SHORT_ID_BYTES), "little") for _ in range(count)
        )
        prefilled = []
        position = -1
        for _ in range(reader.compact_size()):
            position += reader.compact_size() + 1
            prefilled.append((position, Transaction.read(reader)))
        if len(short_ids) + len(prefilled) > MAX_INDEX:
            raise InvalidEncoding("indexes overflowed 16 bits")
        return cls(header=header, nonce=nonce, short_ids=short_ids, prefilled=tuple(prefilled))

    def serialize(self) -> bytes:
        """The form that `read` reads."""
        parts = [self.header.serialize(), le64(self.nonce), compact_size(len(self.short_ids))]
        parts += [name.to_bytes(SHORT_ID_BYTES, "little") for name in self.short_ids]
        parts.append(compact_size(len(self.prefilled)))
        before = -1
        for position, tx in self.prefilled:
            parts += (compact_size(position - before - 1), tx.raw)
            before = position
        return b"".join(parts)

    def slots(self) -> list[Transaction | int]:
        """One entry a transaction of the block: itself, or its short name.

        Raises:
            InvalidEncoding: a transaction stands behind the end, or two names are the same.
        """
        filled = dict(self.prefilled)
        total = len(self.short_ids) + len(self.prefilled)
        if not total or any(position >= total for position in filled):
            raise InvalidEncoding("a position behind the end of the block")
        if len(set(self.short_ids)) != len(self.short_ids):
            raise InvalidEncoding("two transactions of one name")
        names = iter(self.short_ids)
        return [filled[at] if at in filled else next(names) for at in range(total)]


class ShortNames:
    """Names transactions for one header and nonce."""

    def __init__(self, header: BlockHeader, nonce: int) -> None:
        digest = sha256(header.serialize() + le64(nonce))
        self._keys = (
            int.from_bytes(digest[:8], "little"),
            int.from_bytes(digest[8:16], "little"),
        )

    def name(self, tx: Transaction) -> int:
        """The short name of a transaction: 48 bits."""
        return siphash(*self._keys, tx.wtxid) & (1 << 8 * SHORT_ID_BYTES) - 1


def fill_slots(
    slots: Sequence[Transaction | int], names: ShortNames, known: Iterable[Transaction]
) -> list[Transaction | None]:
    """The block's transactions as far as they are known.

    A name that two of the known ones have is left open.
    """
    places = {slot: at for at, slot in enumerate(slots) if isinstance(slot, int)}
    found: list[Transaction | None] = [None if isinstance(slot, int) else slot for slot in slots]
    doubled = set()
    for tx in known:
        at = places.get(names.name(tx))
        if at is None:
            continue
        present = found[at]
        if present is not None and present != tx:
            doubled.add(at)
        found[at] = tx
    for at in doubled:
        found[at] = None
    return found


def write_request(block_hash: bytes, positions: Sequence[int]) -> bytes:
    """Ask for transactions by their positions, rising."""
    parts = [block_hash, compact_size(len(positions))]
    before = -1
    for position in positions:
        parts.append(compact_size(position - before - 1))
        before = position
    return b"".join(parts)


def read_request(reader: Reader) -> tuple[bytes, list[int]]:
    """The block hash and the positions of a request.

    Raises:
        InvalidEncoding: cut off, or a position is out of range.
    """
    block_hash = reader.read(32)
    positions: list[int] = []
    position = -1
    for _ in range(reader.compact_size()):
        position += reader.compact_size() + 1
        if position > MAX_INDEX:
            raise InvalidEncoding("differential value overflow")
        positions.append(position)
    return block_hash, positions


def write_transactions(transactions: Sequence[Transaction]) -> bytes:
    """Transactions behind their count."""
    return compact_size(len(transactions)) + b"".join(tx.raw for tx in transactions)


def read_transactions(reader: Reader) -> list[Transaction]:
    """The inverse of `write_transactions`. Raises InvalidEncoding."""
    return [Transaction.read(reader) for _ in range(reader.compact_size())]
