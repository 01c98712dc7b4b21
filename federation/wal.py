"""The journal: what a member must never forget, on the disk before it is said.

Files `<prefix>-<number>` in one folder: a header, then records, each with a CRC over its header and
another over its body, all chained. Reading tells a torn tail (never acknowledged, cut off) from a
doubtful last record (perhaps acted on) from damage (refused). The same framing serves the peg's
journal, whose loss means nothing to agreement.

Source: consensus:C40, consensus:C43, consensus:J1-J8, N24.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from federation.files import FileLayer, replace_file, write_all
from federation.journal_format import (
    CONSENSUS_JOURNAL,
    COVENANT_JOURNAL,
    HEADER_SIZE_BYTES,
    KIND_BASE,
    PEG_JOURNAL,
    RECORD_BODY_MAX_BYTES,
    RECORD_CRC_SIZE_BYTES,
    RECORD_HEADER_SIZE_BYTES,
    JournalCorrupt,
    JournalForm,
    JournalScan,
    Record,
    Verdict,
    check_record,
    encode_record,
    file_header,
    journal_identity,
    scan_file,
)

__all__ = [
    "CONSENSUS_JOURNAL",
    "COVENANT_JOURNAL",
    "PEG_JOURNAL",
    "BlockFiles",
    "Journal",
    "JournalCorrupt",
    "JournalFailed",
    "JournalForm",
    "JournalLocked",
    "Record",
    "Verdict",
    "archive",
]

ROTATE_ABOVE_BYTES = 16 * 1024 * 1024
FIRST_RECORD_MAX_BYTES = (
    HEADER_SIZE_BYTES + RECORD_HEADER_SIZE_BYTES + RECORD_BODY_MAX_BYTES + RECORD_CRC_SIZE_BYTES
)


class JournalLocked(Exception):
    """Another process has this journal open (C43)."""


class JournalFailed(Exception):
    """The disk refused: nothing of the call is acknowledged, nothing is ever appended again."""


class Journal:
    """The one writer of a journal folder; holds its lock until closed."""

    def __init__(
        self, folder: Path, form: JournalForm, identity: bytes, layer: FileLayer, lock: int
    ) -> None:
        """Use `Journal.open`."""
        self._folder = folder
        self._form = form
        self._identity = identity
        self._layer = layer
        self._lock = lock
        self._descriptor: int | None = None
        self._numbers: list[int] = []
        self._records: tuple[Record, ...] = ()
        self._crc = 0
        self._next_sequence = 1
        self._size_bytes = 0
        self._failed = False
        self._verdict = Verdict.EMPTY

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        genesis: bytes,
        key: bytes,
        form: JournalForm = CONSENSUS_JOURNAL,
        layer: FileLayer | None = None,
    ) -> "Journal":
        """Lock, judge and repair the journal of a folder.

        A torn tail is cut off. A doubtful record is cut off too, after a marker file says so
        durably. An empty journal writes nothing until the first `append`.

        Args:
            folder: made when absent.
            genesis: 32 bytes, internal order.
            key: 32 bytes, the x-only vote key.
        Raises:
            JournalLocked: another process holds the folder.
            JournalCorrupt: not to be used; `archive` moves it out of the way.
            JournalFailed: the disk refused.
        """
        layer = layer or FileLayer()
        lock = _lock_folder(folder, layer)
        journal = cls(folder, form, journal_identity(form, genesis, key), layer, lock)
        try:
            journal._load()
        except OSError as error:
            layer.close(lock)
            raise JournalFailed(f"cannot open journal in {folder}: {error}") from error
        except BaseException:
            layer.close(lock)
            raise
        return journal

    @property
    def verdict(self) -> Verdict:
        """What opening found."""
        return self._verdict

    @property
    def records(self) -> tuple[Record, ...]:
        """Records of the newest file as found when opened; the first is BASE but in file 1."""
        return self._records

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the files present, oldest first; the last one is being written."""
        return tuple(self._numbers)

    @property
    def needs_rotation(self) -> bool:
        """Whether the file is large enough for the next height to begin a new one (J7)."""
        return self._size_bytes > ROTATE_ABOVE_BYTES

    def append(self, kind: int, body: bytes, *, sync: bool = True) -> int:
        """Append one record; durable on return unless `sync` is False.

        Without `sync` the record becomes durable with the next one (J3, SEEN only).

        Returns:
            The record's sequence number.
        Raises:
            JournalFailed: nothing may be sent on the strength of this record (C40).
            ValueError: body above 262,144 bytes or kind not a byte.
        """
        check_record(kind, body)
        with self._guarded():
            first = self._descriptor is None
            if first:
                self._begin_file(1)
            self._write_record(kind, body)
            if sync or first:
                self._sync()
            if first:
                self._layer.sync_folder(self._folder)
        return self._next_sequence - 1

    def rotate(self, base: bytes) -> None:
        """Begin the next file with a BASE record; the file is durable before it is used (J7).

        Raises:
            JournalFailed, ValueError: as `append`.
        """
        check_record(KIND_BASE, base)
        if self._descriptor is None:
            raise ValueError("an empty journal has nothing to rotate")
        with self._guarded():
            old = self._descriptor
            self._begin_file(self._numbers[-1] + 1)
            self._write_record(KIND_BASE, base)
            self._sync()
            self._layer.sync_folder(self._folder)
            self._layer.close(old)

    def settle_doubt(self) -> None:
        """Forget the mark of a doubtful record: AMNESIA and RESUME are in the journal (J6).

        Raises:
            JournalFailed: the mark may still be there.
        """
        with self._guarded():
            self._layer.remove(self._doubt_path)
            self._layer.sync_folder(self._folder)

    def read_older(self, number: int) -> tuple[Record, ...]:
        """Records of a file that is no longer written, for challenges (C57).

        Raises:
            JournalCorrupt: the file is damaged; FileNotFoundError: it was dropped.
        """
        scan = scan_file(self._layer.read(self._path(number)), self._identity, number)
        if scan.verdict is not Verdict.SOUND:
            raise JournalCorrupt(f"{self._path(number).name} is {scan.verdict.value}")
        return scan.records

    def first_record(self, number: int) -> Record | None:
        """The first record of a file, BASE but in file 1; no more than that is read.

        Returns:
            None when the file ends before it.
        Raises:
            JournalCorrupt: the file is damaged; FileNotFoundError: it was dropped.
        """
        with self._path(number).open("rb") as file:
            head = file.read(FIRST_RECORD_MAX_BYTES)
        scan = scan_file(head, self._identity, number)
        return scan.records[0] if scan.records else None

    def modified_unix_s(self, number: int) -> int:
        """When a file was last written, for the 48 hours of N25."""
        return int(self._path(number).stat().st_mtime)

    def drop_older(self, below_number: int) -> None:
        """Delete files with smaller numbers, never the one being written.

        Raises:
            JournalFailed: some may be gone, some not.
        """
        gone = [n for n in self._numbers[:-1] if n < below_number]
        if not gone:
            return
        with self._guarded():
            for number in gone:  # oldest first: a crash leaves no hole
                self._layer.remove(self._path(number))
                self._numbers.remove(number)
            self._layer.sync_folder(self._folder)

    def close(self) -> None:
        """Give file and lock back. Writes nothing."""
        self._failed = True
        if self._descriptor is not None:
            self._layer.close(self._descriptor)
            self._descriptor = None
        if self._lock >= 0:
            self._layer.close(self._lock)
            self._lock = -1

    # -- writing

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        if self._failed:
            raise JournalFailed("the journal failed before or is closed")
        try:
            yield
        except BaseException as error:
            self._failed = True
            if isinstance(error, OSError):
                raise JournalFailed(f"journal in {self._folder}: {error}") from error
            raise

    def _begin_file(self, number: int) -> None:
        header = file_header(self._identity, number)
        self._descriptor = self._layer.create(self._path(number))
        self._numbers.append(number)
        write_all(self._layer, self._descriptor, header)
        self._crc = int.from_bytes(header[-4:], "little")
        self._size_bytes = len(header)

    def _write_record(self, kind: int, body: bytes) -> None:
        data, crc = encode_record(kind, self._next_sequence, body, self._crc)
        write_all(self._layer, self._open_descriptor(), data)
        self._crc = crc
        self._next_sequence += 1
        self._size_bytes += len(data)

    def _sync(self) -> None:
        self._layer.sync_data(self._open_descriptor())

    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            raise JournalFailed("the journal is closed")
        return self._descriptor

    # -- opening

    def _load(self) -> None:
        doubted = self._layer.exists(self._doubt_path)
        self._numbers = _file_numbers(self._folder, self._form.prefix, self._layer)
        scan = self._newest_scan(doubted)
        if scan is None:
            self._verdict = Verdict.DOUBTFUL if doubted else Verdict.EMPTY
            return
        self._records = scan.records
        if scan.verdict is Verdict.DOUBTFUL and not doubted:
            self._layer.close(self._layer.create(self._doubt_path))
            self._layer.sync_folder(self._folder)
            doubted = True
        self._descriptor = self._layer.open_append(self._path(self._numbers[-1]))
        if scan.verdict is not Verdict.SOUND:
            self._layer.truncate(self._descriptor, scan.sound_size_bytes)
        # Also what was sound may have been written and not synced by the process before.
        self._sync()
        self._layer.sync_folder(self._folder)
        self._crc = scan.crc
        self._size_bytes = scan.sound_size_bytes
        self._next_sequence = scan.records[-1].sequence + 1 if scan.records else 1
        self._verdict = Verdict.DOUBTFUL if doubted else scan.verdict

    def _newest_scan(self, doubted: bool) -> JournalScan | None:
        while self._numbers:
            number = self._numbers[-1]
            path = self._path(number)
            scan = scan_file(self._layer.read(path), self._identity, number)
            if scan.records or (number == 1 and scan.verdict is Verdict.DOUBTFUL):
                return scan
            if number > 1 and len(self._numbers) == 1:
                raise JournalCorrupt(f"{path.name} has no sound BASE record, and none is older")
            if number == 1 and doubted and scan.sound_size_bytes:
                return scan
            # Ends inside its header or first record, or that one is unsound with nothing behind
            # it: nothing was ever appended to it, and the file before still says it all (J7).
            self._layer.remove(path)
            self._layer.sync_folder(self._folder)
            self._numbers.pop()
        return None

    @property
    def _doubt_path(self) -> Path:
        return self._folder / f"{self._form.prefix}-doubtful"

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._form.prefix}-{number}"


def archive(folder: Path, form: JournalForm = CONSENSUS_JOURNAL) -> Path | None:
    """Move a journal that may not be used out of the way (`--restored`, J6).

    Returns:
        The folder the files are in now, None when there were none.
    Raises:
        JournalLocked: the journal is in use. JournalFailed: the disk refused.
    """
    layer = FileLayer()
    lock = _lock_folder(folder, layer)
    try:
        names = [folder / n for n in layer.names(folder) if n.startswith(form.prefix + "-")]
        if not names:
            return None
        target = _unused_folder(folder, f"archived-{form.prefix}")
        target.mkdir(mode=0o700)
        for path in names:
            layer.rename(path, target / path.name)
        layer.sync_folder(target)
        layer.sync_folder(folder)
        return target
    except OSError as error:
        raise JournalFailed(f"cannot archive journal in {folder}: {error}") from error
    finally:
        layer.close(lock)


class BlockFiles:
    """Proposal bytes beside the journal, one file `block-<hash>` each (J8)."""

    _NAME = re.compile(r"block-([0-9a-f]{64})")

    def __init__(self, folder: Path, layer: FileLayer | None = None) -> None:
        """Take stock of a folder that exists. Raises OSError when it cannot be read."""
        self._folder = folder
        self._layer = layer or FileLayer()
        # The name is given after the contents are durable, so a file that has it is whole.
        found = (self._NAME.fullmatch(name) for name in self._layer.names(folder))
        self._hashes = {bytes.fromhex(match[1]) for match in found if match}
        if self._hashes:  # the process before may have died between rename and folder sync
            self._layer.sync_folder(folder)

    @property
    def hashes(self) -> frozenset[bytes]:
        """Block hashes (internal order) that have a file."""
        return frozenset(self._hashes)

    def save(self, block_hash: bytes, data: bytes) -> None:
        """Write a block's bytes, durable on return. Writing one again does nothing.

        Raises:
            JournalFailed: no vote that names the block may leave (C41).
        """
        if block_hash in self._hashes:
            return
        try:
            replace_file(self._layer, self._path(block_hash), data)
        except OSError as error:
            raise JournalFailed(f"cannot store block: {error}") from error
        self._hashes.add(block_hash)

    def load(self, block_hash: bytes) -> bytes | None:
        """Bytes of a block, None when there is no file. The caller compares the hash."""
        if block_hash not in self._hashes:
            return None
        try:
            return self._layer.read(self._path(block_hash))
        except FileNotFoundError:
            return None

    def keep_only(self, wanted: Iterable[bytes]) -> None:
        """Delete the files of all other blocks: their height is final.

        Raises:
            JournalFailed: the disk refused.
        """
        self.forget(self._hashes - set(wanted))

    def forget(self, unwanted: Iterable[bytes]) -> None:
        """Delete the files of these blocks, where there are any.

        Raises:
            JournalFailed: the disk refused.
        """
        gone = sorted(self._hashes & set(unwanted))
        if not gone:
            return
        try:
            for block_hash in gone:
                self._layer.remove(self._path(block_hash))
                self._hashes.discard(block_hash)
            self._layer.sync_folder(self._folder)
        except OSError as error:
            raise JournalFailed(f"cannot delete block files: {error}") from error

    def _path(self, block_hash: bytes) -> Path:
        return self._folder / f"block-{block_hash.hex()}"


# -- folder


def _lock_folder(folder: Path, layer: FileLayer) -> int:
    try:
        return layer.lock_folder(folder)
    except BlockingIOError as error:
        raise JournalLocked(f"{folder} is in use by another process") from error
    except OSError as error:
        raise JournalFailed(f"cannot open {folder}: {error}") from error


def _file_numbers(folder: Path, prefix: str, layer: FileLayer) -> list[int]:
    pattern = re.compile(re.escape(prefix) + r"-([1-9][0-9]*)")
    found = (pattern.fullmatch(name) for name in layer.names(folder))
    numbers = sorted(int(match[1]) for match in found if match)
    if numbers and numbers != list(range(numbers[0], numbers[-1] + 1)):
        raise JournalCorrupt(f"a {prefix} file is missing in the middle: found {numbers}")
    return numbers


def _unused_folder(folder: Path, name: str) -> Path:
    number = 1
    while (folder / f"{name}-{number}").exists():
        number += 1
    return folder / f"{name}-{number}"
