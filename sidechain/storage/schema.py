"""What is written in a chain's database, key by key. Pure: packs and unpacks, reads no disk.

| key                                   | value                                              |
|---------------------------------------|----------------------------------------------------|
| `m` version                           | LE32 schema version                                |
| `m` genesis                           | genesis hash, 32                                   |
| `m` tip                               | BE32 height ‖ block hash                           |
| `b` BE32 height                       | the block's bytes                                  |
| `d` BE32 height                       | the header's bytes, signblock witness included     |
| `h` block hash                        | place of a block of the chain                      |
| `u` BE32 height                       | undo record                                        |
| `c` txid ‖ BE32 index                 | coin                                               |
| `p` parent genesis ‖ txid ‖ BE32 vout | BE32 height of the claiming block                  |
| `t` txid                              | BE32 height ‖ BE32 offset in the block ‖ BE32 size |
| `n` block hash                        | node: what is known about a block beside the chain |
| `N` block hash                        | that block's header                                |
| `B` block hash                        | that block's bytes, where they are known           |

Heights and indices in keys are big-endian, so that LevelDB keeps them in order. Hashes are in
internal byte order.
"""

from dataclasses import dataclass
from struct import Struct

from sidechain.crypto.hashes import sha256
from sidechain.errors import InvalidEncoding
from sidechain.primitives.confidential import (
    ASSET_LENGTHS,
    NULL,
    VALUE_LENGTHS,
    check_field,
)
from sidechain.primitives.encoding import Reader, compact_size, le32, vec
from sidechain.primitives.transaction import OutPoint
from sidechain.storage.block_tree import Node, NodeFlags
from sidechain.validation.coins import Coin, PeginKey

SCHEMA_VERSION = 2

VERSION_KEY = b"mversion"
GENESIS_KEY = b"mgenesis"
TIP_KEY = b"mtip"
COIN_PREFIX = b"c"
NODE_PREFIX = b"n"

_CHECKSUM_BYTES = 4
_PLACE = Struct(">III")


def block_key(height: int) -> bytes:
    """Key of a block's bytes."""
    return b"b" + _be32(height)


def header_key(height: int) -> bytes:
    """Key of a header's bytes."""
    return b"d" + _be32(height)


def height_key(block_hash: bytes) -> bytes:
    """Key of the place of a block of the chain."""
    return b"h" + block_hash


def undo_key(height: int) -> bytes:
    """Key of what a block took away and added."""
    return b"u" + _be32(height)


def coin_key(outpoint: OutPoint) -> bytes:
    """Key of an unspent output."""
    txid, index = outpoint
    return COIN_PREFIX + txid + index.to_bytes(4, "big")


def coin_key_outpoint(key: bytes) -> OutPoint:
    """The outpoint a coin key names; the inverse of `coin_key`."""
    if len(key) != 37 or key[:1] != COIN_PREFIX:
        raise InvalidEncoding("not a coin key")
    return OutPoint(key[1:33], int.from_bytes(key[33:], "big"))


def pegin_key(key: PeginKey) -> bytes:
    """Key of a claimed deposit."""
    parent_genesis, outpoint = key
    return b"p" + parent_genesis + outpoint.txid + _be32(outpoint.index)


def node_key(block_hash: bytes) -> bytes:
    """Key of the node of a block beside the chain."""
    return NODE_PREFIX + block_hash


def side_header_key(block_hash: bytes) -> bytes:
    """Key of the header of a block beside the chain."""
    return b"N" + block_hash


def side_block_key(block_hash: bytes) -> bytes:
    """Key of the bytes of a block beside the chain."""
    return b"B" + block_hash


def transaction_key(txid: bytes) -> bytes:
    """Key of a transaction's place."""
    return b"t" + txid


def pack_coin(coin: Coin) -> bytes:
    """LE32 (height · 2 + coinbase) ‖ asset ‖ value ‖ script."""
    return le32(coin.height << 1 | coin.coinbase) + coin.asset + coin.value + coin.script


def unpack_coin(data: bytes) -> Coin:
    """The inverse of `pack_coin`.

    Raises:
        InvalidEncoding: not a packed coin.
    """
    if len(data) >= 46 and data[4] == 1 == data[37]:
        # Everything shown, as most coins are.
        code = int.from_bytes(data[:4], "little")
        return Coin(
            asset=data[4:37],
            value=data[37:46],
            script=data[46:],
            height=code >> 1,
            coinbase=bool(code & 1),
        )
    reader = Reader(data)
    code = reader.u32()
    asset = _read_field(reader, ASSET_LENGTHS)
    value = _read_field(reader, VALUE_LENGTHS)
    if NULL in (asset, value):
        raise InvalidEncoding("coin without asset or value")
    script = reader.read(reader.remaining)
    return Coin(asset=asset, value=value, script=script, height=code >> 1, coinbase=bool(code & 1))


def pack_tip(height: int, block_hash: bytes) -> bytes:
    """BE32 height ‖ block hash."""
    return _be32(height) + block_hash


def unpack_tip(data: bytes) -> tuple[int, bytes]:
    """The inverse of `pack_tip`. Raises InvalidEncoding."""
    if len(data) != 36:
        raise InvalidEncoding("not a packed tip")
    return int.from_bytes(data[:4], "big"), data[4:]


def pack_height(height: int) -> bytes:
    """BE32 height."""
    return _be32(height)


def unpack_height(data: bytes) -> int:
    """The inverse of `pack_height`. Raises InvalidEncoding."""
    if len(data) != 4:
        raise InvalidEncoding("not a packed height")
    return int.from_bytes(data, "big")


def pack_node(node: Node) -> bytes:
    """BE32 height ‖ BE64 sequence, signed ‖ BE32 transactions ‖ flags, 1 ‖ parent's hash."""
    numbers = _be32(node.height) + _be64_signed(node.sequence) + _be32(node.tx_count)
    return numbers + bytes((node.flags.value,)) + node.prev_hash


def unpack_node(block_hash: bytes, data: bytes) -> Node:
    """The inverse of `pack_node`. Raises InvalidEncoding."""
    if len(data) != 49 or data[16] > max(flag.value for flag in NodeFlags) * 2 - 1:
        raise InvalidEncoding("not a packed node")
    return Node(
        hash=block_hash,
        prev_hash=data[17:],
        height=int.from_bytes(data[:4], "big"),
        sequence=int.from_bytes(data[4:12], "big", signed=True),
        tx_count=int.from_bytes(data[12:16], "big"),
        flags=NodeFlags(data[16]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPlace:
    """Where a block of the chain stands.

    Attributes:
        sequence: order in which blocks could first be connected.
        tx_count: its transactions.
        total_tx_count: those of the chain up to it, genesis included.
    """

    height: int
    sequence: int
    tx_count: int
    total_tx_count: int

    def pack(self) -> bytes:
        """BE32 height ‖ BE64 sequence, signed ‖ BE32 transactions ‖ BE64 of the whole chain."""
        counts = _be32(self.tx_count) + _be64_signed(self.total_tx_count)
        return _be32(self.height) + _be64_signed(self.sequence) + counts

    @classmethod
    def unpack(cls, data: bytes) -> "BlockPlace":
        """The inverse of `pack`. Raises InvalidEncoding."""
        if len(data) != 24:
            raise InvalidEncoding("not a packed block place")
        return cls(
            height=int.from_bytes(data[:4], "big"),
            sequence=int.from_bytes(data[4:12], "big", signed=True),
            tx_count=int.from_bytes(data[12:16], "big"),
            total_tx_count=int.from_bytes(data[16:], "big", signed=True),
        )


def pack_place(height: int, offset: int, size: int) -> bytes:
    """BE32 height ‖ BE32 offset ‖ BE32 size."""
    return _PLACE.pack(height, offset, size)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionPlace:
    """Where a transaction's bytes stand: block height, offset and size in bytes."""

    height: int
    offset: int
    size: int

    def pack(self) -> bytes:
        """BE32 height ‖ BE32 offset ‖ BE32 size."""
        return pack_place(self.height, self.offset, self.size)

    @classmethod
    def unpack(cls, data: bytes) -> "TransactionPlace":
        """The inverse of `pack`. Raises InvalidEncoding."""
        if len(data) != 12:
            raise InvalidEncoding("not a packed place")
        numbers = [int.from_bytes(data[at : at + 4], "big") for at in (0, 4, 8)]
        return cls(height=numbers[0], offset=numbers[1], size=numbers[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoRecord:
    """All that is needed to take one block off the set of coins again.

    `created` names every output the block added, also those it spent itself; `spent` holds
    every coin it took away; `txids` are its transactions.
    """

    spent: tuple[tuple[OutPoint, Coin], ...]
    created: tuple[OutPoint, ...]
    pegins: tuple[PeginKey, ...]
    txids: tuple[bytes, ...]

    def pack(self) -> bytes:
        """Four counted lists, then the first four bytes of their SHA-256."""
        body = b"".join(
            [
                compact_size(len(self.spent)),
                *[point.serialize() + vec(pack_coin(coin)) for point, coin in self.spent],
                compact_size(len(self.created)),
                *[point.serialize() for point in self.created],
                compact_size(len(self.pegins)),
                *[genesis + point.serialize() for genesis, point in self.pegins],
                compact_size(len(self.txids)),
                *self.txids,
            ]
        )
        return body + sha256(body)[:_CHECKSUM_BYTES]

    @classmethod
    def unpack(cls, data: bytes) -> "UndoRecord":
        """The inverse of `pack`.

        Raises:
            InvalidEncoding: damaged or cut off.
        """
        body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        if sha256(body)[:_CHECKSUM_BYTES] != checksum:
            raise InvalidEncoding("undo record is damaged")
        reader = Reader(body)
        spent = [
            (_read_outpoint(reader), unpack_coin(reader.vec()))
            for _ in range(reader.compact_size())
        ]
        created = [_read_outpoint(reader) for _ in range(reader.compact_size())]
        pegins = [
            PeginKey(reader.read(32), _read_outpoint(reader)) for _ in range(reader.compact_size())
        ]
        txids = [reader.read(32) for _ in range(reader.compact_size())]
        reader.done()
        return cls(
            spent=tuple(spent), created=tuple(created), pegins=tuple(pegins), txids=tuple(txids)
        )


def _be32(number: int) -> bytes:
    return number.to_bytes(4, "big")


def _be64_signed(number: int) -> bytes:
    return number.to_bytes(8, "big", signed=True)


def _read_outpoint(reader: Reader) -> OutPoint:
    return OutPoint(reader.read(32), reader.u32())


def _read_field(reader: Reader, lengths: dict[int, int]) -> bytes:
    prefix = reader.data[reader.pos : reader.pos + 1]
    if not prefix or prefix[0] not in lengths:
        raise InvalidEncoding("Unrecognized serialization prefix")
    field = reader.read(lengths[prefix[0]])
    check_field(field, lengths)
    return field
