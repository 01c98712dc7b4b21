"""The chain on disk: blocks, coins, claimed peg-ins and indexes, moved one block at a time.

Every move is one LevelDB batch with a sync, so after a crash the database is at one block or at
the next, never between. Blocks beside the chain are kept too, and change places with those of
the chain in the same batch that moves it. Nothing here judges a block: what to write comes from
`validation.connect` and `branches`.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

from sidechain.errors import Invalid, InvalidEncoding, InvariantError
from sidechain.params import ChainParams
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.encoding import Reader, compact_size
from sidechain.primitives.genesis import genesis_block
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.storage import schema
from sidechain.storage.block_tree import BlockTree, Node, NodeFlags
from sidechain.storage.leveldb import Database, Reads
from sidechain.storage.schema import BlockPlace, TransactionPlace, UndoRecord
from sidechain.validation.coins import Coin, PeginKey
from sidechain.validation.connect import BlockDelta, genesis_delta

HEADER_CACHE_COUNT = 4_096
COIN_CACHE_COUNT = 2_048
GENESIS_SEQUENCE = 1


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
        self._side_headers: OrderedDict[bytes, BlockHeader] = OrderedDict()
        self._coins: OrderedDict[OutPoint, Coin] = OrderedDict()
        if self.header(self._tip_height).hash != self._tip_hash:
            raise InvariantError("the stored tip is not the block at its height")
        self._tip_place = self.place(self._tip_height)
        self._tree = _read_tree(database)
        self._last_sequence = max(self._tree.last_sequence(), self._chain_sequence())

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

    def flush(self) -> None:
        """Put blocks on the disk that were connected without a sync.

        Raises:
            Unavailable: the disk refuses.
        """
        self._database.flush()

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

    @property
    def tree(self) -> BlockTree:
        """Blocks beside the chain; read it, but leave changes to the methods here."""
        return self._tree

    @property
    def tip_sequence(self) -> int:
        """When the tip could first be connected, in the order of all blocks."""
        return self._tip_place.sequence

    def next_sequence(self) -> int:
        """A sequence later than every one before."""
        self._last_sequence += 1
        return self._last_sequence

    def header(self, height: int) -> BlockHeader:
        """The header at a height.

        Raises:
            InvariantError: there is none, or it does not read back.
        """
        cached = self._headers.get(height)
        if cached is not None:
            self._headers.move_to_end(height)
            return cached
        raw = self._need(schema.header_key(height), f"header {height}")
        header = self._read_header(raw, f"header {height}")
        self._remember_header(height, header)
        return header

    def _read_header(self, raw: bytes, what: str) -> BlockHeader:
        reader = Reader(raw)
        try:
            header = BlockHeader.read(reader, self._params)
            reader.done()
        except InvalidEncoding as error:
            raise InvariantError(f"stored {what} does not decode") from error
        return header

    def block_bytes(self, height: int) -> bytes:
        """The bytes of the block at a height. Raises InvariantError when there is none."""
        return self._need(schema.block_key(height), f"block {height}")

    def height_of(self, block_hash: bytes) -> int | None:
        """Height of a block of this chain, or None."""
        if block_hash == self._tip_hash:
            return self._tip_height
        found = self._database.get(schema.height_key(block_hash))
        return None if found is None else BlockPlace.unpack(found).height

    def place(self, height: int) -> BlockPlace:
        """What is noted about the block at a height. Raises InvariantError when there is none."""
        key = schema.height_key(self.header(height).hash)
        return BlockPlace.unpack(self._need(key, f"place of block {height}"))

    def side_header(self, block_hash: bytes) -> BlockHeader:
        """The header of a block beside the chain. Raises InvariantError when there is none."""
        cached = self._side_headers.get(block_hash)
        if cached is None:
            raw = self._need(schema.side_header_key(block_hash), "header beside the chain")
            cached = self._read_header(raw, "header beside the chain")
            self._remember_side_header(cached)
        return cached

    def side_block_bytes(self, block_hash: bytes) -> bytes:
        """The bytes of a block beside the chain. Raises InvariantError when there are none."""
        return self._need(schema.side_block_key(block_hash), "block beside the chain")

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
            return UndoRecord.unpack(self.undo_bytes(height))
        except InvalidEncoding as error:
            raise InvariantError(f"undo record {height} is damaged") from error

    def undo_bytes(self, height: int) -> bytes:
        """The bytes of an undo record. Raises InvariantError when there is none."""
        return self._need(schema.undo_key(height), f"undo {height}")

    def coins(self) -> Iterator[tuple[OutPoint, Coin]]:
        """Every unspent output, by txid and index, as of now."""
        with self._database.snapshot() as snapshot:
            yield from _coins(snapshot)

    def disk_bytes(self) -> int:
        """Size of the database's files."""
        return self._database.disk_bytes()

    def connect(self, block: Block, delta: BlockDelta, *, sync: bool = True) -> None:
        """Add the block on top of the tip; if it was beside the chain, it leaves that place.

        Args:
            sync: False holds the batch back until the next synced one, or `flush`.
        Raises:
            InvariantError: `delta` is not about this block on this tip.
            Unavailable: the disk refuses; nothing has changed.
        """
        if delta.prev_hash != self._tip_hash or delta.height != self._tip_height + 1:
            raise InvariantError("a block is connected that does not follow the tip")
        if delta.hash != block.hash:
            raise InvariantError("a block is connected with another block's changes")
        node = self._tree.get(delta.hash)
        linked = node is not None and node.is_linked
        count = len(block.transactions)
        place = BlockPlace(
            height=delta.height,
            sequence=node.sequence if node is not None and linked else self._last_sequence + 1,
            tx_count=count,
            total_tx_count=self._tip_place.total_tx_count + count,
        )
        puts, deletes = _changes(block, delta, place)
        if node is not None:
            deletes += _side_keys(delta.hash)
        if sync:
            self._database.write(puts, deletes)
        else:
            self._database.hold(puts, deletes)
        for outpoint, coin in delta.created:
            self._remember_coin(outpoint, coin)
        for outpoint, _ in delta.spent:
            self._coins.pop(outpoint, None)
        self._remember_header(delta.height, block.header)
        self._tree.remove(delta.hash)
        self._last_sequence = max(self._last_sequence, place.sequence)
        self._tip_height, self._tip_hash, self._tip_place = delta.height, delta.hash, place

    def disconnect(
        self, *, keep: NodeFlags | None = None, changed: Iterable[Node] = ()
    ) -> UndoRecord:
        """Take the tip block off again; the tip becomes its parent.

        Args:
            keep: the block stays known beside the chain with these flags; None forgets it.
            changed: nodes to write in the same batch.
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
        parent, header = self.header(height - 1), self.header(height)
        puts, deletes = _undoing(height, self._tip_hash, undo)
        puts[schema.TIP_KEY] = schema.pack_tip(height - 1, parent.hash)
        nodes = list(changed)
        if keep is not None:
            nodes.append(self._tip_as_node(parent.hash, keep))
            puts[schema.side_header_key(header.hash)] = header.serialize()
            puts[schema.side_block_key(header.hash)] = self.block_bytes(height)
        puts |= {schema.node_key(node.hash): schema.pack_node(node) for node in nodes}
        place = self.place(height - 1)
        self._database.write(puts, deletes)
        for outpoint in undo.created:
            self._coins.pop(outpoint, None)
        self._headers.pop(height, None)
        for node in nodes:
            self._tree.put(node)
        self._tip_height, self._tip_hash, self._tip_place = height - 1, parent.hash, place
        return undo

    def add_beside(self, node: Node, header: BlockHeader, block: Block | None) -> None:
        """Keep a block, or its header alone, that is not part of the chain.

        Raises:
            Unavailable: the disk refuses; nothing has changed.
        """
        puts = {
            schema.node_key(node.hash): schema.pack_node(node),
            schema.side_header_key(node.hash): header.serialize(),
        }
        if block is not None:
            puts[schema.side_block_key(node.hash)] = block.serialize()
        self._database.write(puts)
        self._remember_side_header(header)
        self._tree.put(node)

    def change_beside(self, nodes: Iterable[Node]) -> None:
        """Write nodes whose flags or sequence have changed.

        Raises:
            Unavailable: the disk refuses.
        """
        changed = list(nodes)
        if changed:
            self._database.write({schema.node_key(n.hash): schema.pack_node(n) for n in changed})
        for node in changed:
            self._tree.put(node)

    def prefer_tip(self, sequence: int) -> None:
        """Give the tip another sequence.

        Raises:
            Unavailable: the disk refuses; nothing has changed.
        """
        place = replace(self._tip_place, sequence=sequence)
        self._database.write({schema.height_key(self._tip_hash): place.pack()})
        self._tip_place = place

    def _tip_as_node(self, prev_hash: bytes, flags: NodeFlags) -> Node:
        place = self._tip_place
        return Node(
            hash=self._tip_hash,
            prev_hash=prev_hash,
            height=place.height,
            sequence=place.sequence,
            tx_count=place.tx_count,
            flags=flags,
        )

    def _chain_sequence(self) -> int:
        """The latest sequence of the chain: along it they rise, but for preferred blocks."""
        height, sequence = self._tip_height, self._tip_place.sequence
        while height and sequence < 0:
            height -= 1
            sequence = self.place(height).sequence
        return sequence

    def _need(self, key: bytes, what: str) -> bytes:
        found = self._database.get(key)
        if found is None:
            raise InvariantError(f"the chain database has no {what}")
        return found

    def _remember_header(self, height: int, header: BlockHeader) -> None:
        self._headers[height] = header
        if len(self._headers) > HEADER_CACHE_COUNT:
            self._headers.popitem(last=False)

    def _remember_side_header(self, header: BlockHeader) -> None:
        self._side_headers[header.hash] = header
        if len(self._side_headers) > HEADER_CACHE_COUNT:
            self._side_headers.popitem(last=False)

    def _remember_coin(self, outpoint: OutPoint, coin: Coin) -> None:
        self._coins[outpoint] = coin
        if len(self._coins) > COIN_CACHE_COUNT:
            self._coins.popitem(last=False)


def _coins(reads: Reads) -> Iterator[tuple[OutPoint, Coin]]:
    for key, value in reads.items(schema.COIN_PREFIX):
        yield schema.coin_key_outpoint(key), schema.unpack_coin(value)


def _read_tree(reads: Reads) -> BlockTree:
    tree = BlockTree()
    try:
        for key, value in reads.items(schema.NODE_PREFIX):
            tree.put(schema.unpack_node(key[1:], value))
    except InvalidEncoding as error:
        raise InvariantError("a node beside the chain is damaged") from error
    return tree


def _side_keys(block_hash: bytes) -> list[bytes]:
    keys = (schema.node_key, schema.side_header_key, schema.side_block_key)
    return [key(block_hash) for key in keys]


def _undoing(
    height: int, block_hash: bytes, undo: UndoRecord
) -> tuple[dict[bytes, bytes], list[bytes]]:
    """The batch that takes a block off, without the new tip."""
    own = set(undo.txids)
    puts = {
        schema.coin_key(outpoint): schema.pack_coin(coin)
        for outpoint, coin in undo.spent
        if outpoint.txid not in own
    }
    deletes = [schema.coin_key(outpoint) for outpoint in undo.created]
    deletes += [schema.pegin_key(key) for key in undo.pegins]
    deletes += [schema.transaction_key(txid) for txid in undo.txids]
    deletes += [
        schema.block_key(height),
        schema.header_key(height),
        schema.undo_key(height),
        schema.height_key(block_hash),
    ]
    return puts, deletes


def _changes(
    block: Block, delta: BlockDelta, place: BlockPlace
) -> tuple[dict[bytes, bytes], list[bytes]]:
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
        schema.height_key(delta.hash): place.pack(),
        schema.undo_key(delta.height): undo.pack(),
        schema.TIP_KEY: schema.pack_tip(delta.height, delta.hash),
    }
    for outpoint, coin in delta.created:
        if outpoint not in spent:
            puts[schema.coin_key(outpoint)] = schema.pack_coin(coin)
    for key in delta.pegins:
        puts[schema.pegin_key(key)] = schema.pack_height(delta.height)
    first_offset = len(header) + len(compact_size(len(txids)))
    offset = first_offset
    for tx in block.transactions:
        size = tx.total_size
        puts[schema.transaction_key(tx.txid)] = schema.pack_place(delta.height, offset, size)
        offset += size
    deletes = [schema.coin_key(point) for point, _ in delta.spent if point.txid not in own]
    return puts, deletes


def _write_genesis(database: Database, params: ChainParams) -> None:
    for _ in database.items(b""):
        raise Invalid("database-version", "the folder holds something else than a chain")
    block = genesis_block(params)
    count = len(block.transactions)
    place = BlockPlace(height=0, sequence=GENESIS_SEQUENCE, tx_count=count, total_tx_count=count)
    puts, _ = _changes(block, genesis_delta(block, params), place)
    puts[schema.VERSION_KEY] = schema.SCHEMA_VERSION.to_bytes(4, "little")
    puts[schema.GENESIS_KEY] = block.hash
    database.write(puts)


def _check_identity(database: Database, path: Path, params: ChainParams) -> None:
    version = int.from_bytes(database.get(schema.VERSION_KEY) or b"", "little")
    if version != schema.SCHEMA_VERSION:
        raise Invalid(
            "database-version",
            f"{path} has schema {version}, this program reads {schema.SCHEMA_VERSION}: "
            "remove the folder, and the chain is fetched anew",
        )
    if database.get(schema.GENESIS_KEY) != params.genesis_hash:
        raise Invalid("database-genesis", f"{path} holds a chain with another genesis block")
