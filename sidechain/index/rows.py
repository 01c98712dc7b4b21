"""What is written in an index's database, key by key. Pure: packs and unpacks, reads no disk.

| key                                        | value                                           |
|--------------------------------------------|-------------------------------------------------|
| `m` version                                | LE32 version of this table                      |
| `m` genesis                                | genesis hash, 32                                |
| `m` tip                                    | BE32 height ‖ block hash                        |
| `s` script hash ‖ place                    | txid ‖ spent count ‖ counted list of outputs    |
| `o` txid ‖ BE32 output                     | spender's txid ‖ BE32 input ‖ BE32 height       |
| `a` asset ‖ place                          | txid of a transaction that is counted in `t`    |
| `t` asset                                  | sums of everything that happened to it          |
| `i` asset                                  | txid ‖ BE32 input ‖ prevout ‖ contract ‖ token  |
| `u` BE32 height                            | previous block's hash ‖ what these rows were    |

A place is height and position in the block, both as BE32 of their complement: so the newest come
first. Numbers without a form are compact sizes. `u` is kept for the newest blocks only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sidechain.errors import InvalidEncoding
from sidechain.index.traces import (
    ACTIVITY_NAMES,
    NO_ACTIVITY,
    AssetActivity,
    FirstIssuance,
    Traces,
    trace,
)
from sidechain.params import ChainParams
from sidechain.primitives.block import Block
from sidechain.primitives.encoding import Reader, compact_size, vec
from sidechain.primitives.transaction import OutPoint
from sidechain.storage.schema import UndoRecord

INDEX_VERSION = 1

VERSION_KEY = b"mversion"
GENESIS_KEY = b"mgenesis"
TIP_KEY = b"mtip"

_COMPLEMENT = 0xFFFFFFFF
_SUM_BYTES = 16


class Place(NamedTuple):
    """Where a transaction stands: height of its block, position in it."""

    height: int
    position: int

    def pack(self) -> bytes:
        """Eight bytes that put the newest first."""
        return _be32(_COMPLEMENT - self.height) + _be32(_COMPLEMENT - self.position)

    @classmethod
    def unpack(cls, data: bytes) -> "Place":
        """The inverse of `pack`. Raises InvalidEncoding."""
        if len(data) != 8:
            raise InvalidEncoding("not a packed place")
        height, position = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:], "big")
        return cls(_COMPLEMENT - height, _COMPLEMENT - position)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRow:
    """One transaction that touches a script: see `traces.ScriptTrace`."""

    place: Place
    txid: bytes
    funded: tuple[int, ...]
    spent_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spender:
    """Who spends an output: input `vin` of a transaction; `height` None while it waits."""

    txid: bytes
    vin: int
    height: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRows:
    """All that one block adds. `sums` are to be added to what is known of those assets."""

    height: int
    hash: bytes
    prev_hash: bytes
    puts: Mapping[bytes, bytes]
    sums: Mapping[bytes, AssetActivity]


class UndoEntry(NamedTuple):
    """A row that a block wrote, and what stood there before (empty: nothing)."""

    key: bytes
    before: bytes


def script_prefix(script_hash: bytes) -> bytes:
    """Where a script's history stands."""
    return b"s" + script_hash


def asset_prefix(asset: bytes) -> bytes:
    """Where an asset's history stands."""
    return b"a" + asset


def spender_key(outpoint: OutPoint) -> bytes:
    """Key of an output's spender."""
    return b"o" + outpoint.txid + _be32(outpoint.index)


def sums_key(asset: bytes) -> bytes:
    """Key of an asset's sums."""
    return b"t" + asset


def issuance_key(asset: bytes) -> bytes:
    """Key of an asset's first issuance."""
    return b"i" + asset


def undo_key(height: int) -> bytes:
    """Key of what takes a block off again."""
    return b"u" + _be32(height)


def block_rows(block: Block, height: int, undo: UndoRecord, params: ChainParams) -> BlockRows:
    """Everything a block adds to the index.

    Args:
        undo: the chain's record of what this block spent.
    """
    scripts = {point: coin.script for point, coin in undo.spent}
    puts: dict[bytes, bytes] = {}
    sums: dict[bytes, AssetActivity] = {}
    for position, tx in enumerate(block.transactions):
        found = trace(tx, scripts, params)
        place = Place(height, position)
        _put_traces(puts, found, tx.txid, place)
        for asset, activity in found.assets.items():
            sums[asset] = sums.get(asset, NO_ACTIVITY) + activity
        for vout, output in enumerate(tx.outputs):
            if not output.is_unspendable:
                scripts[OutPoint(tx.txid, vout)] = output.script
    return BlockRows(
        height=height, hash=block.hash, prev_hash=block.header.prev_hash, puts=puts, sums=sums
    )


def _put_traces(puts: dict[bytes, bytes], found: Traces, txid: bytes, place: Place) -> None:
    where = place.pack()
    for script_hash, touched in found.scripts.items():
        outputs = b"".join([compact_size(vout) for vout in touched.funded])
        counts = compact_size(touched.spent_count) + compact_size(len(touched.funded))
        puts[b"s" + script_hash + where] = txid + counts + outputs
    for outpoint, vin in found.spends:
        puts[spender_key(outpoint)] = txid + _be32(vin) + _be32(place.height)
    for asset in found.assets:
        puts[asset_prefix(asset) + where] = txid
    for issued in found.issued:
        puts[issuance_key(issued.asset)] = pack_issuance(issued)


def unpack_history(key: bytes, value: bytes) -> HistoryRow:
    """A script's row. Raises InvalidEncoding."""
    reader = Reader(value)
    txid = reader.read(32)
    spent_count = reader.compact_size()
    funded = tuple([reader.compact_size() for _ in range(reader.compact_size())])
    reader.done()
    place = Place.unpack(key[33:])
    return HistoryRow(place=place, txid=txid, funded=funded, spent_count=spent_count)


def unpack_asset_history(key: bytes, value: bytes) -> HistoryRow:
    """An asset's row, which says only where and which transaction. Raises InvalidEncoding."""
    if len(value) != 32:
        raise InvalidEncoding("not a txid")
    return HistoryRow(place=Place.unpack(key[33:]), txid=value, funded=(), spent_count=0)


def unpack_spender(value: bytes) -> Spender:
    """An output's spender. Raises InvalidEncoding."""
    if len(value) != 40:
        raise InvalidEncoding("not a packed spender")
    return Spender(
        txid=value[:32],
        vin=int.from_bytes(value[32:36], "big"),
        height=int.from_bytes(value[36:], "big"),
    )


def pack_sums(sums: AssetActivity) -> bytes:
    """Every sum in order, 16 bytes each: amounts of many transactions exceed 64 bits."""
    return b"".join(
        [getattr(sums, name).to_bytes(_SUM_BYTES, "big", signed=True) for name in ACTIVITY_NAMES]
    )


def unpack_sums(value: bytes) -> AssetActivity:
    """The inverse of `pack_sums`. Raises InvalidEncoding."""
    if len(value) != _SUM_BYTES * len(ACTIVITY_NAMES):
        raise InvalidEncoding("not packed sums")
    numbers = {
        name: int.from_bytes(value[at * _SUM_BYTES : (at + 1) * _SUM_BYTES], "big", signed=True)
        for at, name in enumerate(ACTIVITY_NAMES)
    }
    return AssetActivity(**numbers)


def pack_issuance(issued: FirstIssuance) -> bytes:
    """txid ‖ BE32 input ‖ prevout ‖ contract hash ‖ token."""
    place = issued.txid + _be32(issued.vin)
    return place + issued.prevout.serialize() + issued.contract_hash + issued.token


def unpack_issuance(asset: bytes, value: bytes) -> FirstIssuance:
    """The inverse of `pack_issuance`. Raises InvalidEncoding."""
    reader = Reader(value)
    txid = reader.read(32)
    vin = int.from_bytes(reader.read(4), "big")
    prevout = OutPoint(reader.read(32), reader.u32())
    contract_hash, token = reader.read(32), reader.read(32)
    reader.done()
    return FirstIssuance(
        asset=asset, txid=txid, vin=vin, prevout=prevout, contract_hash=contract_hash, token=token
    )


def pack_undo(prev_hash: bytes, entries: Sequence[UndoEntry]) -> bytes:
    """The parent's hash, then every row with what it was before."""
    rows = [vec(entry.key) + vec(entry.before) for entry in entries]
    return prev_hash + compact_size(len(rows)) + b"".join(rows)


def unpack_undo(value: bytes) -> tuple[bytes, list[UndoEntry]]:
    """The inverse of `pack_undo`. Raises InvalidEncoding."""
    reader = Reader(value)
    prev_hash = reader.read(32)
    entries = [UndoEntry(reader.vec(), reader.vec()) for _ in range(reader.compact_size())]
    reader.done()
    return prev_hash, entries


def _be32(number: int) -> bytes:
    return number.to_bytes(4, "big")
