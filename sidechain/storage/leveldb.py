"""LevelDB behind five verbs: get, write one atomic batch, hold one back, walk a prefix, close."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import plyvel

from sidechain.errors import InvariantError, Unavailable

CACHE_BYTES = 8 * 1024 * 1024
WRITE_BUFFER_BYTES = 4 * 1024 * 1024
BLOOM_FILTER_BITS = 10

_LOCKED_TEXTS = ("LOCK: already held", "LOCK: Resource temporarily unavailable")
"""What LevelDB says when the folder is open in this process, or in another one."""


class Reads(Protocol):
    """What can be asked of a database, or of a snapshot of one."""

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""

    def items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All pairs whose key starts with `prefix`, in key order."""


class Database:
    """One LevelDB folder, open in one process.

    Every read verifies LevelDB's checksums.
    """

    def __init__(
        self,
        path: Path,
        *,
        cache_bytes: int = CACHE_BYTES,
        write_buffer_bytes: int = WRITE_BUFFER_BYTES,
    ) -> None:
        """Open the folder, and make it if it is not there.

        Args:
            cache_bytes, write_buffer_bytes: memory for what was read, and for what is to be
                sorted.
        Raises:
            Unavailable: another process has it open, or the folder cannot be used.
            InvariantError: the files are damaged.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._held: dict[bytes, bytes | None] = {}
        try:
            self._db: Any = plyvel.DB(
                str(path),
                create_if_missing=True,
                paranoid_checks=True,
                lru_cache_size=cache_bytes,
                write_buffer_size=write_buffer_bytes,
                bloom_filter_bits=BLOOM_FILTER_BITS,
            )
        except plyvel.CorruptionError as error:
            raise InvariantError(f"database {path} is damaged: {error}") from error
        except plyvel.Error as error:
            if any(text in str(error) for text in _LOCKED_TEXTS):
                raise Unavailable(f"database {path} is in use by another process") from error
            raise Unavailable(f"database {path} cannot be opened: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what is held back and release the folder. May be called twice.

        Raises:
            Unavailable: the disk refuses what was held back; the folder is released.
        """
        try:
            self.flush()
        finally:
            self._db.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return bool(self._db.closed)

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None. Raises InvariantError when the files are damaged."""
        if key in self._held:
            return self._held[key]
        try:
            found: bytes | None = self._db.get(key, verify_checksums=True)
        except plyvel.CorruptionError as error:
            raise InvariantError(f"database {self._path} is damaged: {error}") from error
        return found

    def write(
        self, puts: Mapping[bytes, bytes], deletes: Sequence[bytes] = (), *, sync: bool = True
    ) -> None:
        """Apply everything or nothing, and return when it is on the disk.

        What was held back before goes into the same batch.

        Args:
            sync: False returns earlier: a crash of the machine may take whole batches away, the
                last ones.
        Raises:
            InvariantError: a key is both put and deleted.
            Unavailable: the disk refuses.
        """
        changes = {**self._held, **_changes(puts, deletes)}
        try:
            with self._db.write_batch(transaction=True, sync=sync) as batch:
                for key, value in changes.items():
                    if value is None:
                        batch.delete(key)
                    else:
                        batch.put(key, value)
        except plyvel.Error as error:
            raise Unavailable(f"database write failed: {error}") from error
        self._held.clear()

    def hold(self, puts: Mapping[bytes, bytes], deletes: Sequence[bytes] = ()) -> None:
        """Apply it for those who read here; on the disk it is with the next write or `flush`.

        All that is held back becomes one batch, so that a crash takes away all of it or nothing.
        Batches that are merely not synced could lose an earlier one and keep a later one, where
        LevelDB begins a new log file between them. Only for a database that one thread uses.

        Raises:
            InvariantError: a key is both put and deleted.
        """
        self._held |= _changes(puts, deletes)

    def flush(self) -> None:
        """Put on the disk what is held back.

        Raises:
            Unavailable: the disk refuses; it is still held back.
        """
        if self._held:
            self.write({})

    def items(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All pairs whose key starts with `prefix`, in key order, as of now.

        Args:
            start: leave out those that come before `prefix` and this.
        Raises:
            InvariantError: the files are damaged.
        """
        self.flush()
        try:
            with self._db.iterator(prefix=prefix, verify_checksums=True) as iterator:
                if start:
                    iterator.seek(prefix + start)
                yield from iterator
        except plyvel.CorruptionError as error:
            raise InvariantError(f"database {self._path} is damaged: {error}") from error

    def disk_bytes(self) -> int:
        """Size of all files in the folder."""
        total = 0
        for file in self._path.iterdir():
            # LevelDB's own thread may remove a file between listing and asking.
            with suppress(FileNotFoundError):
                total += file.stat().st_size
        return total

    def snapshot(self) -> "Snapshot":
        """The contents as of now, unchanged by later writes. Close it."""
        self.flush()
        return Snapshot(self._db.snapshot())


def _changes(puts: Mapping[bytes, bytes], deletes: Sequence[bytes]) -> Mapping[bytes, bytes | None]:
    if any(key in puts for key in deletes):
        raise InvariantError("one batch puts and deletes the same key")
    return {**puts, **dict.fromkeys(deletes)}


class Snapshot:
    """Contents of a database at one moment."""

    def __init__(self, snapshot: Any) -> None:
        self._snapshot = snapshot

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let LevelDB drop what only this snapshot holds."""
        self._snapshot.close()

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        found: bytes | None = self._snapshot.get(key, verify_checksums=True)
        return found

    def items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All pairs whose key starts with `prefix`, in key order."""
        with self._snapshot.iterator(prefix=prefix, verify_checksums=True) as iterator:
            yield from iterator
