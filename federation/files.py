"""The few file operations that durable state rests on, in one small object.

Journal, signer and config go to the disk through a `FileLayer`, so that tests can put one in
between that fails, writes short or dies at any operation; the simulator's disk is one.

Source: consensus:J4, consensus:R5.
"""

import contextlib
import fcntl
import os
from pathlib import Path


class FileLayer:
    """Plain file operations, each of them one point where a disk may fail.

    All methods raise OSError as the operating system gives it.
    """

    def create(self, path: Path, mode: int = 0o600) -> int:
        """Create a file that must not exist; return a descriptor open for appending."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        return os.open(path, flags, mode)

    def open_append(self, path: Path) -> int:
        """Open an existing file for appending."""
        return os.open(path, os.O_WRONLY | os.O_APPEND)

    def write(self, descriptor: int, data: bytes) -> int:
        """One write call; may write less than asked."""
        return os.write(descriptor, data)

    def sync_data(self, descriptor: int) -> None:
        """Make contents and size of a file durable."""
        os.fdatasync(descriptor)

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable (after create, rename, delete)."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        """Cut a file to a size."""
        os.ftruncate(descriptor, size_bytes)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its final name, replacing what has it."""
        os.replace(source, target)

    def remove(self, path: Path) -> None:
        """Delete a file; absent is fine."""
        path.unlink(missing_ok=True)

    def close(self, descriptor: int) -> None:
        """Give a descriptor back: of a file, or of `lock_folder`."""
        os.close(descriptor)

    def names(self, folder: Path) -> list[str]:
        """Names in a folder, sorted."""
        return sorted(path.name for path in folder.iterdir())

    def exists(self, path: Path) -> bool:
        """Whether there is a file of this name."""
        return path.exists()

    def read(self, path: Path) -> bytes:
        """Contents of a file."""
        return path.read_bytes()

    def read_private(self, path: Path) -> bytes:
        """Contents of a file that nobody else may read, else PermissionError."""
        return read_secret(path)

    def lock_folder(self, folder: Path) -> int:
        """Take the exclusive lock of a folder, made when absent; BlockingIOError: it is taken."""
        if not folder.is_dir():
            folder.mkdir(mode=0o700)
            self.sync_folder(folder.parent)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise
        return lock


def write_all(layer: FileLayer, descriptor: int, data: bytes) -> None:
    """One write; a short one is an error (consensus:J4).

    Raises:
        OSError: the disk refused or wrote less than asked.
    """
    written = layer.write(descriptor, data)
    if written != len(data):
        raise OSError(f"short write: {written} of {len(data)} bytes")


def replace_file(layer: FileLayer, path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a file's contents so that a crash leaves the old or the new ones, whole.

    Durable when it returns: temporary file, fdatasync, rename, folder fsync.

    Raises:
        OSError: nothing is known to be durable; the old contents are still there or the new ones.
    """
    temporary = path.with_name(path.name + ".tmp")
    layer.remove(temporary)
    descriptor = layer.create(temporary, mode)
    try:
        write_all(layer, descriptor, data)
        layer.sync_data(descriptor)
    finally:
        with contextlib.suppress(OSError):
            layer.close(descriptor)
    layer.rename(temporary, path)
    layer.sync_folder(path.parent)


def read_secret(path: Path) -> bytes:
    """Contents of a file that nobody else may read.

    Raises:
        OSError: cannot be read. PermissionError: group or others have any access to it.
    """
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        if mode & 0o077:
            raise PermissionError(f"{path} is open to others (mode {mode:o}): chmod 600 it")
        return file.read()
