"""The file that holds a mempool between two runs: elementsd's mempool.dat. Pure: bytes only.

version, 8 bytes; from version 2 on a key, as long as its length byte says, that all further
bytes are combined with (exclusive or, by position in the file);
count, 8 bytes; per transaction its bytes, time (8 bytes), fee delta (8 bytes);
fee deltas of other transactions: count, then id and delta (8 bytes) each;
transactions not yet seen with peers: count, then id each.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sidechain.errors import InvalidEncoding
from sidechain.mempool.pool import Mempool
from sidechain.mempool.relations import by_depth_and_score
from sidechain.primitives.encoding import Reader, compact_size
from sidechain.primitives.transaction import Transaction

PLAIN_VERSION = 1
KEYED_VERSION = 2
MAX_KEY_BYTES = 64


@dataclass(frozen=True, slots=True)
class SavedTransaction:
    """A transaction of the file, when it came and what its fee counts more."""

    tx: Transaction
    time_s: int
    delta_sats: int


@dataclass(frozen=True, slots=True)
class SavedMempool:
    """Content of the file: transactions with parents before children, deltas of others, and the
    ids of those that no peer has asked for."""

    transactions: tuple[SavedTransaction, ...]
    deltas: tuple[tuple[bytes, int], ...]
    unbroadcast: tuple[bytes, ...]


def encode_mempool(mempool: Mempool) -> bytes:
    """The file of a mempool, without a key."""
    entries = by_depth_and_score(mempool.entries())
    others = {txid: delta for txid, delta in mempool.deltas.items() if txid not in mempool}
    pieces = [_int64(PLAIN_VERSION), _int64(len(entries))]
    for entry in entries:
        pieces += [entry.raw, _int64(entry.time_s), _int64(entry.delta_sats)]
    pieces.append(_encode_deltas(others))
    pieces.append(compact_size(len(mempool.unbroadcast)))
    pieces += sorted(mempool.unbroadcast)
    return b"".join(pieces)


def decode_mempool(data: bytes) -> SavedMempool:
    """Read a file; elementsd's own are read too.

    Raises:
        InvalidEncoding: another version, or damaged.
    """
    reader = Reader(_unkeyed(data))
    if reader.u64() == KEYED_VERSION:
        reader.vec()
    transactions = []
    for _ in range(reader.u64()):
        tx = Transaction.read(reader)
        transactions.append(SavedTransaction(tx, reader.i64(), reader.i64()))
    deltas = [(reader.read(32), reader.i64()) for _ in range(reader.compact_size())]
    unbroadcast = tuple(reader.read(32) for _ in range(reader.compact_size()))
    reader.done()
    return SavedMempool(tuple(transactions), tuple(deltas), unbroadcast)


def _unkeyed(data: bytes) -> bytes:
    version = int.from_bytes(data[:8], "little")
    if version == PLAIN_VERSION and len(data) >= 8:
        return data
    size = data[8] if len(data) > 8 else 0
    start = 9 + size
    if version != KEYED_VERSION or size > MAX_KEY_BYTES or len(data) < start:
        raise InvalidEncoding("no mempool file of a known version")
    if not size or not any(data[9:start]):
        return data
    return data[:start] + _combined(data[start:], data[9:start], start)


def _combined(data: bytes, key: bytes, position: int) -> bytes:
    shift = position % len(key)
    turned = key[shift:] + key[:shift]
    repeated = (turned * (len(data) // len(key) + 1))[: len(data)]
    mixed = int.from_bytes(data, "little") ^ int.from_bytes(repeated, "little")
    return mixed.to_bytes(len(data), "little")


def _encode_deltas(deltas: Mapping[bytes, int]) -> bytes:
    pieces = [txid + _int64(deltas[txid]) for txid in sorted(deltas)]
    return compact_size(len(pieces)) + b"".join(pieces)


def _int64(number: int) -> bytes:
    return number.to_bytes(8, "little", signed=True)
