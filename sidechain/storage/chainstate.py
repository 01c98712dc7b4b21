"""The chain on disk: blocks, coins, claimed peg-ins and indexes, moved one block at a time.

Every move is one LevelDB batch with a sync, so after a crash the database is at one block or at
the next, never between. Nothing here judges a block: what to write comes from
`validation.connect`.
"""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from sidechain.errors import Invalid, InvalidEncoding, InvariantError
from sidechain.params import ChainParams
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.encoding import Reader, compact_size
from sidechain.primitives.genesis import genesis_block
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.storage import schema
from sidechain.storage.leveldb import Database, Reads
from sidechain.storage.schema import TransactionPlace, UndoRecord
from sidechain.validation.coins import Coin, PeginKey
from sidechain.validation.connect import BlockDelta, genesis_delta

HEADER_CACHE_COUNT = 4_096
COIN_CACHE_COUNT = 65_536


class ChainState:
    """The stored chain up to its tip. Meets `CoinView` and `HeaderChain`; one writer."""

    def __init__(self, database: Database, params: ChainParams) -> None:
        """Read the tip of a database that `open` made."""
        self._database = database
        self._params = params
        tip = database.get(schema.TIP_KEY)
        if tip is None:
            raise InvariantError("the chain database has no tip")
        self._tip_height, self._tip_hash = schema.unpack_tip(tip)
        self._headers: OrderedDict[int, BlockHeader] = OrderedDict()
        self._coins: OrderedDict[OutPoint, Coin] = OrderedDict()
        if self.header(self._tip_height).hash != self._tip_hash:
            raise InvariantError("the stored tip is not the block at its height")

    @classmethod
    def open(cls, path: Path, params: ChainParams) -> Self:
        """Open a chain's folder; a new one starts at the genesis block.

        Raises:
            Unavailable: the folder is in use or unusable.
            Invalid: it holds another chain, or was written by another version.
            InvariantError: it is damaged.
        """
        database = Database(path)
        try:
            if database.get(schema.VERSION_KEY) is None:
                _write_genesis(database, params)
            _check_identity(database, path, params)
            return cls(database, params)
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Release the folder. May be called twice."""
        self._database.close()

    @property
    def tip_height(self) -> int:
        """Height of the newest block."""
        return self._tip_height

    @property
    def tip_hash(self) -> bytes:
        """Hash of the newest block."""
        return self._tip_hash

    def header(self, height: int) -> BlockHeader:
        """The header at a height.

        Raises:
            InvariantError: there is none, or it does not read back.
        """
        cached = self._headers.get(height)
        if cached is not None:
            self._headers.move_to_end(height)
            return cached
        reader = Reader(self._need(schema.header_key(height), f"header {height}"))
        try:
            header = BlockHeader.read(reader, self._params)
            reader.done()
        except InvalidEncoding as error:
            raise InvariantError(f"stored header {height} does not decode") from error
        self._remember_header(height, header)
        return header

    def block_bytes(self, height: int) -> bytes:
        """The bytes of the block at a height. Raises InvariantError when there is none."""
        return self._need(schema.block_key(height), f"block {height}")

    def height_of(self, block_hash: bytes) -> int | None:
        """Height of a block of this chain, or None."""
        found = self._database.get(schema.height_key(block_hash))
        return None if found is None else schema.unpack_height(found)

    def coin(self, outpoint: OutPoint) -> Coin | None:
        """The unspent output, or None."""
        cached = self._coins.get(outpoint)
        if cached is not None:
            return cached
        found = self._database.get(schema.coin_key(outpoint))
        if found is None:
            return None
        coin = schema.unpack_coin(found)
        self._remember_coin(outpoint, coin)
        return coin

    def pegin_claimed(self, key: PeginKey) -> bool:
        """Whether a block of this chain claims the deposit."""
        return self._database.get(schema.pegin_key(key)) is not None

    def find_transaction(self, txid: bytes) -> tuple[Transaction, int] | None:
        """A transaction of this chain and its height, or None."""
        place = self.transaction_place(txid)
        if place is None:
            return None
        block = self.block_bytes(place.height)
        tx = Transaction.decode(block[place.offset : place.offset + place.size])
        if tx.txid != txid:
            raise InvariantError("the transaction index names another transaction")
        return tx, place.height

    def transaction_place(self, txid: bytes) -> TransactionPlace | None:
        """Where a transaction of this chain stands, or None."""
        found = self._database.get(schema.transaction_key(txid))
        return None if found is None else TransactionPlace.unpack(found)

    def undo(self, height: int) -> UndoRecord:
        """What the block at a height spent and created. Raises InvariantError if unreadable."""
        try:
            return UndoRecord.unpack(self._need(schema.undo_key(height), f"undo {height}"))
        except InvalidEncoding as error:
            raise InvariantError(f"undo record {height} is damaged") from error

    def coins(self) -> Iterator[tuple[OutPoint, Coin]]:
        """Every unspent output, by txid and index, as of now."""
        with self._database.snapshot() as snapshot:
            yield from _coins(snapshot)

    def disk_bytes(self) -> int:
        """Size of the database's files."""
        return self._database.disk_bytes()

    def connect(self, block: Block, delta: BlockDelta) -> None:
        """Add the block on top of the tip.

        Raises:
            InvariantError: `delta` is not about this block on this tip.
            Unavailable: the disk refuses; nothing has changed.
        """
        if delta.prev_hash != self._tip_hash or delta.height != self._tip_height + 1:
            raise InvariantError("a block is connected that does not follow the tip")
        if delta.hash != block.hash:
            raise InvariantError("a block is connected with another block's changes")
        puts, deletes = _changes(block, delta)
        self._database.write(puts, deletes)
        for outpoint, coin in delta.created:
            self._remember_coin(outpoint, coin)
        for outpoint, _ in delta.spent:
            self._coins.pop(outpoint, None)
        self._remember_header(delta.height, block.header)
        self._tip_height, self._tip_hash = delta.height, delta.hash

    def disconnect(self) -> UndoRecord:
        """Take the tip block off again; the tip becomes its parent.

        Returns:
            What the block had spent and created.
        Raises:
            InvariantError: the tip is the genesis block, or its undo record is damaged.
            Unavailable: the disk refuses; nothing has changed.
        """
        if self._tip_height == 0:
            raise InvariantError("the genesis block cannot be disconnected")
        height = self._tip_height
        undo = self.undo(height)
        parent = self.header(height - 1)
        own = set(undo.txids)
        puts = {
            schema.coin_key(outpoint): schema.pack_coin(coin)
            for outpoint, coin in undo.spent
            if outpoint.txid not in own
        }
        puts[schema.TIP_KEY] = schema.pack_tip(height - 1, parent.hash)
        deletes = [schema.coin_key(outpoint) for outpoint in undo.created]
        deletes += [schema.pegin_key(key) for key in undo.pegins]
        deletes += [schema.transaction_key(txid) for txid in undo.txids]
        deletes += [
            schema.block_key(height),
            schema.header_key(height),
            schema.undo_key(height),
            schema.height_key(self._tip_hash),
        ]
        self._database.write(puts, deletes)
        for outpoint in undo.created:
            self._coins.pop(outpoint, None)
        self._headers.pop(height, None)
        self._tip_height, self._tip_hash = height - 1, parent.hash
        return undo

    def _need(self, key: bytes, what: str) -> bytes:
        found = self._database.get(key)
        if found is None:
            raise InvariantError(f"the chain database has no {what}")
        return found

    def _remember_header(self, height: int, header: BlockHeader) -> None:
        self._headers[height] = header
        if len(self._headers) > HEADER_CACHE_COUNT:
            self._headers.popitem(last=False)

    def _remember_coin(self, outpoint: OutPoint, coin: Coin) -> None:
        self._coins[outpoint] = coin
        if len(self._coins) > COIN_CACHE_COUNT:
            self._coins.popitem(last=False)


def _coins(reads: Reads) -> Iterator[tuple[OutPoint, Coin]]:
    for key, value in reads.items(schema.COIN_PREFIX):
        yield schema.coin_key_outpoint(key), schema.unpack_coin(value)


def _changes(block: Block, delta: BlockDelta) -> tuple[dict[bytes, bytes], list[bytes]]:
    """The batch that adds a block. Coins the block both makes and spends are never written."""
    spent = {outpoint for outpoint, _ in delta.spent}
    txids = tuple(tx.txid for tx in block.transactions)
    own = set(txids)
    raw = block.serialize()
    header = block.header.serialize()
    undo = UndoRecord(
        spent=delta.spent,
        created=tuple(outpoint for outpoint, _ in delta.created),
        pegins=delta.pegins,
        txids=txids,
    )
    puts = {
        schema.block_key(delta.height): raw,
        schema.header_key(delta.height): header,
        schema.height_key(delta.hash): schema.pack_height(delta.height),
        schema.undo_key(delta.height): undo.pack(),
        schema.TIP_KEY: schema.pack_tip(delta.height, delta.hash),
    }
    for outpoint, coin in delta.created:
        if outpoint not in spent:
            puts[schema.coin_key(outpoint)] = schema.pack_coin(coin)
    for key in delta.pegins:
        puts[schema.pegin_key(key)] = schema.pack_height(delta.height)
    first_offset = len(header) + len(compact_size(len(txids)))
    sizes = [tx.total_size for tx in block.transactions]
    places = schema.transaction_places(delta.height, first_offset, sizes)
    for txid, place in zip(txids, places, strict=True):
        puts[schema.transaction_key(txid)] = place.pack()
    deletes = [schema.coin_key(point) for point, _ in delta.spent if point.txid not in own]
    return puts, deletes


def _write_genesis(database: Database, params: ChainParams) -> None:
    for _ in database.items(b""):
        raise Invalid("database-version", "the folder holds something else than a chain")
    block = genesis_block(params)
    puts, _ = _changes(block, genesis_delta(block, params))
    puts[schema.VERSION_KEY] = schema.SCHEMA_VERSION.to_bytes(4, "little")
    puts[schema.GENESIS_KEY] = block.hash
    database.write(puts)


def _check_identity(database: Database, path: Path, params: ChainParams) -> None:
    version = int.from_bytes(database.get(schema.VERSION_KEY) or b"", "little")
    if version != schema.SCHEMA_VERSION:
        raise Invalid(
            "database-version",
            f"{path} has schema {version}, this program reads {schema.SCHEMA_VERSION}",
        )
    if database.get(schema.GENESIS_KEY) != params.genesis_hash:
        raise Invalid("database-genesis", f"{path} holds a chain with another genesis block")
