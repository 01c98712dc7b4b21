"""Disks that fail on purpose, for journal and signer tests."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

from federation.files import FileLayer


class Killed(BaseException):
    """The process ended here, as by SIGKILL or a power cut."""


class CountingDisk(FileLayer):
    """Counts operations and lets a test interfere with one of them.

    `interfere` gets the operation's name at operation number `at` (from 0): it may raise.
    """

    def __init__(self, at: int = -1, interfere: Callable[[str], None] | None = None) -> None:
        self.done = 0
        self.at = at
        self.interfere = interfere

    def step(self, name: str) -> None:
        number, self.done = self.done, self.done + 1
        if number == self.at and self.interfere is not None:
            self.interfere(name)

    def create(self, path: Path, mode: int = 0o600) -> int:
        self.step("create")
        return super().create(path, mode)

    def open_append(self, path: Path) -> int:
        self.step("open")
        return super().open_append(path)

    def write(self, descriptor: int, data: bytes) -> int:
        self.step("write")
        return super().write(descriptor, data)

    def sync_data(self, descriptor: int) -> None:
        self.step("sync_data")
        super().sync_data(descriptor)

    def sync_folder(self, folder: Path) -> None:
        self.step("sync_folder")
        super().sync_folder(folder)

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        self.step("truncate")
        super().truncate(descriptor, size_bytes)

    def rename(self, source: Path, target: Path) -> None:
        self.step("rename")
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        self.step("remove")
        super().remove(path)


class ShortDisk(CountingDisk):
    """Writes only part of the data at one operation, and says so."""

    def __init__(self, at: int, part_bytes: int) -> None:
        super().__init__(at)
        self.part_bytes = part_bytes

    def write(self, descriptor: int, data: bytes) -> int:
        if self.done == self.at:
            data = data[: min(self.part_bytes, max(0, len(data) - 1))]
        return super().write(descriptor, data)


class DyingDisk(CountingDisk):
    """The process dies in the middle of one write, with that many bytes written."""

    def __init__(self, at: int, part_bytes: int) -> None:
        super().__init__(at)
        self.part_bytes = part_bytes

    def write(self, descriptor: int, data: bytes) -> int:
        if self.done == self.at:
            os.write(descriptor, data[: self.part_bytes])
            raise Killed
        return super().write(descriptor, data)


KEEPS = ("none", "all", "names", "half", "sectors", "zeros")
"""What a power cut leaves of what was not synced: see `PowerDisk.lose_power`."""
SECTOR_BYTES = 512


class _Inode:
    def __init__(self) -> None:
        self.synced = b""


def _left(synced: bytes, written: bytes, keep: str) -> bytes:
    """What is left of a file whose end was written and not synced.

    Only appended bytes are at stake: nothing here overwrites in place. A file that was cut and not
    synced may be whole again.
    """
    if not written.startswith(synced):
        return synced if keep in ("none", "names") else written
    new = len(written) - len(synced)
    match keep:
        case "none" | "names":
            return synced
        case "half":
            return written[: len(synced) + new // 2]
        case "zeros":
            return synced + bytes(new)
        case "sectors":  # the size is known to the disk, of the data all but the last sectors
            whole = (len(synced) + new // 2) // SECTOR_BYTES * SECTOR_BYTES
            kept = max(whole, len(synced))
            return written[:kept] + bytes(len(written) - kept)
    return written


class PowerDisk(CountingDisk):
    """Knows what would survive a power cut: synced contents under synced names only."""

    def __init__(self, folder: Path, at: int = -1) -> None:
        super().__init__(at, self._cut)
        self.folder = folder
        self._names: dict[Path, _Inode] = {}
        self._durable: dict[Path, _Inode] = {}
        self._open: dict[int, Path] = {}
        for path in folder.rglob("*"):
            if path.is_file():
                inode = _Inode()
                inode.synced = path.read_bytes()
                self._names[path] = self._durable[path] = inode

    def _cut(self, _: str) -> None:
        raise Killed

    def lose_power(self, keep: str = "none") -> None:
        """Leave on the disk what has survived.

        Args:
            keep: of what was not synced, "none": nothing; "all": everything, as when the process
                alone ends; "names": the names, with the contents that were synced; "half", "zeros",
                "sectors": the names, and of appended bytes the first half, zeros, or zeros from a
                sector's border on.
        """
        present = {p: p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}
        if keep == "none":
            left = {path: inode.synced for path, inode in self._durable.items()}
        else:
            left = {
                path: _left(self._names[path].synced if path in self._names else b"", data, keep)
                for path, data in present.items()
            }
        for path in present:
            path.unlink()
        for path, data in left.items():
            path.write_bytes(data)
            path.chmod(0o600)

    def create(self, path: Path, mode: int = 0o600) -> int:
        descriptor = super().create(path, mode)
        self._names[path] = _Inode()
        self._open[descriptor] = path
        return descriptor

    def open_append(self, path: Path) -> int:
        descriptor = super().open_append(path)
        self._open[descriptor] = path
        return descriptor

    def sync_data(self, descriptor: int) -> None:
        super().sync_data(descriptor)
        path = self._open[descriptor]
        self._names[path].synced = path.read_bytes()

    def sync_folder(self, folder: Path) -> None:
        super().sync_folder(folder)
        for path in [p for p in self._durable if p.parent == folder]:
            del self._durable[path]
        self._durable |= {p: i for p, i in self._names.items() if p.parent == folder}

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self._names[target] = self._names.pop(source)

    def remove(self, path: Path) -> None:
        super().remove(path)
        self._names.pop(path, None)


def raise_errno(code: int) -> Callable[[str], None]:
    """An interference that answers like a failing device."""

    def interfere(_: str) -> None:
        raise OSError(code, os.strerror(code))

    return interfere


DISK_ERRORS = (errno.ENOSPC, errno.EIO)
