"""The index on disk: its own LevelDB folder, its own cursor, one batch a block.

Rows and cursor change together, so after a crash the index stands at some block that it had
reached, and goes on from there. It is a cache: a folder of another version, of another chain or
a damaged one is thrown away and written anew.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self, TypeVar

from sidechain.errors import InvalidEncoding, InvariantError
from sidechain.index import rows
from sidechain.index.rows import BlockRows, HistoryRow, Place, Spender, UndoEntry
from sidechain.index.traces import NO_ACTIVITY, AssetActivity, FirstIssuance
from sidechain.primitives.transaction import OutPoint
from sidechain.storage.leveldb import Database
from sidechain.storage.schema import pack_tip, unpack_tip

UNDO_BLOCKS_KEPT = 1_000
"""A reorganisation deeper than this makes the index anew."""

CACHE_BYTES = 2 * 1024 * 1024
WRITE_BUFFER_BYTES = 2 * 1024 * 1024

BEFORE_GENESIS = (-1, bytes(32))
"""Where an empty index stands: height and hash."""

T = TypeVar("T")


class IndexDamaged(Exception):
    """The index's files do not read back: it has to be made anew. The chain is not concerned."""


class IndexStore:
    """Rows and cursor. One writer; reading is allowed meanwhile."""

    def __init__(self, database: Database, path: Path, genesis_hash: bytes) -> None:
        """Take over a database that `open` has checked."""
        self._database = database
        self._path = path
        self._genesis_hash = genesis_hash
        tip = database.get(rows.TIP_KEY)
        self._tip = BEFORE_GENESIS if tip is None else unpack_tip(tip)

    @classmethod
    def open(cls, path: Path, genesis_hash: bytes) -> Self:
        """Open a folder; one that is missing, damaged, or of another version or chain starts empty.

        Raises:
            Unavailable: the folder is in use by another process or cannot be used.
        """
        try:
            database = _open(path)
            if _is_ours(database, genesis_hash):
                return cls(database, path, genesis_hash)
            database.close()
        except (InvariantError, InvalidEncoding):
            # What LevelDB calls damaged is of no use, and everything in it can be computed again.
            pass
        shutil.rmtree(path, ignore_errors=True)
        return cls(_new_database(path, genesis_hash), path, genesis_hash)

    def close(self) -> None:
        """Release the folder. May be called twice."""
        self._database.close()

    @property
    def tip(self) -> tuple[int, bytes]:
        """Height and hash of the newest block in the index; height -1 when it is empty."""
        return self._tip

    def connect(self, block: BlockRows) -> None:
        """Add a block on top of the tip.

        Raises:
            InvariantError: it does not follow the tip.
            IndexDamaged: what is there already does not read back; nothing has changed.
            Unavailable: the disk refuses; nothing has changed.
        """
        if (block.height, block.prev_hash) != (self._tip[0] + 1, self._tip[1]):
            raise InvariantError("a block is indexed that does not follow the index's tip")
        puts = dict(block.puts)
        entries = [UndoEntry(key, b"") for key in puts]
        for asset, added in block.sums.items():
            key = rows.sums_key(asset)
            before = self._load(key, rows.unpack_sums)
            puts[key] = rows.pack_sums((before or NO_ACTIVITY) + added)
            entries.append(UndoEntry(key, b"" if before is None else rows.pack_sums(before)))
        puts[rows.undo_key(block.height)] = rows.pack_undo(block.prev_hash, entries)
        puts[rows.TIP_KEY] = pack_tip(block.height, block.hash)
        forgotten = rows.undo_key(max(block.height - UNDO_BLOCKS_KEPT, 0))
        deletes = [forgotten] if block.height >= UNDO_BLOCKS_KEPT else []
        # Without a sync: what a crash takes away is a tail of whole batches, to be written again.
        self._database.write(puts, deletes, sync=False)
        self._tip = (block.height, block.hash)

    def disconnect(self) -> bool:
        """Take the tip block off again.

        Returns:
            Whether that was possible; if not, the block lies too deep, and nothing has changed.
        Raises:
            InvariantError: the index is empty.
            IndexDamaged: what the block wrote does not read back; nothing has changed.
            Unavailable: the disk refuses; nothing has changed.
        """
        height = self._tip[0]
        if height < 0:
            raise InvariantError("an empty index has no block to take off")
        stored = self._load(rows.undo_key(height), rows.unpack_undo)
        if stored is None:
            return False
        prev_hash, entries = stored
        puts = {entry.key: entry.before for entry in entries if entry.before}
        deletes = [entry.key for entry in entries if not entry.before]
        deletes.append(rows.undo_key(height))
        tip = (height - 1, prev_hash)
        if height:
            puts[rows.TIP_KEY] = pack_tip(*tip)
        else:
            deletes.append(rows.TIP_KEY)
        self._database.write(puts, deletes, sync=False)
        self._tip = tip
        return True

    def clear(self) -> None:
        """Start again with an empty index. Raises Unavailable when the disk refuses."""
        self._database.close()
        shutil.rmtree(self._path, ignore_errors=True)
        self._database = _new_database(self._path, self._genesis_hash)
        self._tip = BEFORE_GENESIS

    def history(self, script_hash: bytes, start: Place | None = None) -> Iterator[HistoryRow]:
        """Transactions that touch a script, newest first, as of now.

        Args:
            start: the newest place wanted; None begins at the tip.
        Raises:
            IndexDamaged: as all reading here.
        """
        return self._items(rows.script_prefix(script_hash), start, rows.unpack_history)

    def asset_history(self, asset: bytes, start: Place | None = None) -> Iterator[HistoryRow]:
        """Transactions that move an asset in or out of existence, as `history` gives them."""
        return self._items(rows.asset_prefix(asset), start, rows.unpack_asset_history)

    def spender(self, outpoint: OutPoint) -> Spender | None:
        """Who spends an output in a block, or None."""
        return self._load(rows.spender_key(outpoint), rows.unpack_spender)

    def sums(self, asset: bytes) -> AssetActivity:
        """What happened to an asset in all blocks."""
        return self._load(rows.sums_key(asset), rows.unpack_sums) or NO_ACTIVITY

    def issuance(self, asset: bytes) -> FirstIssuance | None:
        """How an asset was made, or None."""
        key = rows.issuance_key(asset)
        return self._load(key, lambda found: rows.unpack_issuance(asset, found))

    def _load(self, key: bytes, unpack: Callable[[bytes], T]) -> T | None:
        try:
            found = self._database.get(key)
            return None if found is None else unpack(found)
        except (InvariantError, InvalidEncoding) as error:
            raise IndexDamaged(str(error)) from error

    def _items(
        self, prefix: bytes, start: Place | None, unpack: Callable[[bytes, bytes], HistoryRow]
    ) -> Iterator[HistoryRow]:
        try:
            for key, value in self._database.items(prefix, start.pack() if start else b""):
                yield unpack(key, value)
        except (InvariantError, InvalidEncoding) as error:
            raise IndexDamaged(str(error)) from error


def _is_ours(database: Database, genesis_hash: bytes) -> bool:
    version = int.from_bytes(database.get(rows.VERSION_KEY) or b"", "little")
    return version == rows.INDEX_VERSION and database.get(rows.GENESIS_KEY) == genesis_hash


def _open(path: Path) -> Database:
    return Database(path, cache_bytes=CACHE_BYTES, write_buffer_bytes=WRITE_BUFFER_BYTES)


def _new_database(path: Path, genesis_hash: bytes) -> Database:
    database = _open(path)
    version = rows.INDEX_VERSION.to_bytes(4, "little")
    database.write({rows.VERSION_KEY: version, rows.GENESIS_KEY: genesis_hash})
    return database
