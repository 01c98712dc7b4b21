"""A member's disk in memory: what was written, what of it is durable, and how it fails.

Journal, block files and guard run on it unchanged, through their `FileLayer`. Contents are durable
once synced, names once their folder is. Every operation is a point at which the disk may refuse and
the process may die.

Source: consensus:C40, consensus:J4, consensus:J5, consensus:R5.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from federation.files import FileLayer
from federation.sim.world import BLOCK_0, FinalBlock

FIRST_DESCRIPTOR: Final = 1 << 24  # no number the operating system gives
FAULTS: Final = {
    "full": (errno.ENOSPC, frozenset({"write", "create"})),
    "write": (errno.EIO, frozenset({"write"})),
    "sync": (errno.EIO, frozenset({"sync_data", "sync_folder"})),
}


class ProcessDied(Exception):
    """The process of a member ends here, in the middle of what it does."""


@dataclass(slots=True)
class _File:
    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    """Durable contents that `data` no longer begins with; else empty."""
    synced_size: int = 0

    @property
    def durable(self) -> bytes:
        return self.synced or bytes(self.data[: self.synced_size])

    def copy(self) -> "_File":
        return _File(bytearray(self.data), self.synced, self.synced_size)


@dataclass(frozen=True, slots=True)
class DiskImage:
    """What is durable at one moment."""

    files: tuple[tuple[str, bytes], ...]
    chain: tuple[FinalBlock, ...]


class SimulatedDisk(FileLayer):
    """The disk of one member.

    Attributes:
        chain: final blocks; each is durable, as one batch, before anything else happens.
        on_point: told of every operation before it happens; raises `ProcessDied`, or says how many
            bytes of a write are done before that.
        writes_short: whether every write stops half way.
        fault: error number and the operations it strikes, while the disk is ill.
        version: grows whenever durable contents went back.
    """

    def __init__(self) -> None:
        self.chain: list[FinalBlock] = []
        self.on_point: Callable[[str, int], int | None] = lambda _name, _size: None
        self.fault: tuple[int, frozenset[str]] | None = None
        self.writes_short = False
        self.version = 0
        self._names: dict[str, _File] = {}
        self._durable: dict[str, _File] = {}
        self._open: dict[int, _File] = {}
        self._next = FIRST_DESCRIPTOR
        self._last_written: _File | None = None

    # --- the layer

    def create(self, path: Path, mode: int = 0o600) -> int:
        """Make a file that must not exist."""
        self._point("create")
        if str(path) in self._names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        file = self._names[str(path)] = _File()
        return self._descriptor(file)

    def open_append(self, path: Path) -> int:
        """Open an existing file."""
        self._point("open")
        return self._descriptor(self._get(path))

    def write(self, descriptor: int, data: bytes) -> int:
        """Append; a process that dies here leaves a part."""
        file = self._open[descriptor]
        self._last_written = file
        part = self._point("write", len(data))
        if part is not None:
            file.data += data[:part]
            raise ProcessDied
        written = len(data) // 2 if self.writes_short else len(data)
        file.data += data[:written]
        return written

    def sync_data(self, descriptor: int) -> None:
        """Make contents durable."""
        self._point("sync_data")
        file = self._open[descriptor]
        file.synced, file.synced_size = b"", len(file.data)

    def sync_folder(self, folder: Path) -> None:
        """Make the names of a folder durable."""
        self._point("sync_folder")
        place = str(folder) + "/"
        for name in [n for n in self._durable if n.startswith(place) and n not in self._names]:
            del self._durable[name]
        for name, file in self._names.items():
            if name.startswith(place):
                self._durable[name] = file

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        """Cut contents; durable with the next sync."""
        self._point("truncate")
        file = self._open[descriptor]
        if size_bytes < file.synced_size and not file.synced:
            file.synced = bytes(file.data[: file.synced_size])
        del file.data[size_bytes:]

    def rename(self, source: Path, target: Path) -> None:
        """Give another name; durable with the folder."""
        self._point("rename")
        self._names[str(target)] = self._names.pop(str(source))

    def remove(self, path: Path) -> None:
        """Take a name away; durable with the folder."""
        if str(path) in self._names:
            self._point("remove")
            del self._names[str(path)]

    def close(self, descriptor: int) -> None:
        """Forget a descriptor."""
        self._open.pop(descriptor, None)

    def names(self, folder: Path) -> list[str]:
        """Names in a folder, sorted."""
        place = str(folder) + "/"
        return sorted(n.removeprefix(place) for n in self._names if n.startswith(place))

    def exists(self, path: Path) -> bool:
        """Whether there is a file of this name."""
        return str(path) in self._names

    def read(self, path: Path) -> bytes:
        """Contents, synced or not."""
        return bytes(self._get(path).data)

    def read_private(self, path: Path) -> bytes:
        """The same; a simulated member has no neighbours."""
        return self.read(path)

    def lock_folder(self, folder: Path) -> int:
        """One process a member: a twin has a disk of its own."""
        return self._descriptor(_File())

    # --- what befalls it

    @property
    def tip_height(self) -> int:
        """Height of the last final block."""
        return len(self.chain)

    @property
    def tip(self) -> FinalBlock:
        """The last final block, or what stands for block 0."""
        return self.chain[-1] if self.chain else BLOCK_0

    def names_of(self, prefix: str) -> list[str]:
        """Durable names that begin so, oldest journal file first."""
        found = [n for n in self._durable if n.startswith(prefix)]
        return found if len(found) < 2 else sorted(found, key=lambda n: (len(n), n))

    def durable_size(self, name: str) -> int:
        """How much of a file is durable; −1 when its name is not."""
        file = self._durable.get(name)
        return -1 if file is None else len(file.synced) or file.synced_size

    def durable_tail(self, name: str, start: int) -> bytes:
        """Durable contents of a file from an offset on."""
        file = self._durable[name]
        if file.synced:
            return file.synced[start:]
        return bytes(file.data[start : file.synced_size])

    def lose_power(self, *, part: int, zeros: bool) -> None:
        """Keep what is durable, and a part of what was written last and not synced.

        Args:
            part: how many of those bytes, modulo their number and one.
            zeros: the file has its full size, zeros where the bytes are lost.
        """
        last = self._last_written
        self.version += 1
        for file in self._durable.values():
            tail = b""
            if file is last and not file.synced:
                unsynced = bytes(file.data[file.synced_size :])
                tail = unsynced[: part % (len(unsynced) + 1)]
                if zeros and tail:
                    tail += bytes(len(unsynced) - len(tail))
            file.data = bytearray(file.durable + tail)
            file.synced, file.synced_size = b"", len(file.data)
        self._names = dict(self._durable)
        self._open.clear()
        self._last_written = None

    def process_died(self) -> None:
        """Descriptors are gone; what was written is still in the machine's memory."""
        self._open.clear()

    def image(self) -> DiskImage:
        """A copy of everything durable, as a backup takes it."""
        files = sorted((name, file.durable) for name, file in self._durable.items())
        return DiskImage(tuple(files), tuple(self.chain))

    def put_back(self, image: DiskImage, *, keep: frozenset[str], chain_too: bool) -> None:
        """Restore a copy.

        Args:
            keep: folders that stay as they are now.
        """
        self.version += 1
        kept = {n: f for n, f in self._durable.items() if n.split("/")[0] in keep}
        old = {n: d for n, d in image.files if n.split("/")[0] not in keep}
        self._durable = kept | {n: _File(bytearray(d), b"", len(d)) for n, d in old.items()}
        self._names = dict(self._durable)
        self._open.clear()
        if chain_too:
            self.chain = list(image.chain)

    def fall_ill(self, kind: str) -> None:
        """Refuse from now on: full, write, sync; short: write half and say so."""
        self.writes_short = kind == "short"
        self.fault = FAULTS.get(kind)

    def recover(self) -> None:
        """The disk works again."""
        self.writes_short, self.fault = False, None

    def wipe(self, *folders: str) -> None:
        """Lose folders and everything in them."""
        self.version += 1
        for names in (self._names, self._durable):
            for name in [n for n in names if n.split("/")[0] in folders]:
                del names[name]

    def flip_bit(self, folder: str, position: int) -> None:
        """Damage the newest file of a folder."""
        self.version += 1
        names = [n for n in sorted(self._durable) if n.startswith(folder + "/")]
        if names and self._durable[names[-1]].data:
            data = self._durable[names[-1]].data
            bit = position % (8 * len(data))
            data[len(data) - 1 - bit // 8] ^= 1 << bit % 8

    def clone(self) -> "SimulatedDisk":
        """A second disk with the durable contents of this one."""
        other = SimulatedDisk()
        other.put_back(self.image(), keep=frozenset(), chain_too=True)
        return other

    # --- inside

    def _point(self, name: str, size: int = 0) -> int | None:
        """Let the process die here, or the disk refuse; a number: die after so many bytes."""
        part = self.on_point(name, size)
        if self.fault is not None and name in self.fault[1]:
            raise OSError(self.fault[0], os.strerror(self.fault[0]))
        return part

    def _descriptor(self, file: _File) -> int:
        self._next += 1
        self._open[self._next] = file
        return self._next

    def _get(self, path: Path) -> _File:
        file = self._names.get(str(path))
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return file
