"""The folder of one chain: lock, process id, log."""

import fcntl
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidechain.daemon.settings import OptionError

LOG_KEPT_BYTES = 10_000_000
LOG_SHRINK_ABOVE_BYTES = 11 * LOG_KEPT_BYTES // 10
LOGGER = logging.getLogger("sidechaind")


class FolderInUse(OptionError):
    """Another process has the folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; a process that ends in any way releases it.

    Raises:
        FolderInUse: another process holds it.
        OptionError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OptionError(f"Cannot write to directory '{folder}'; check permissions.") from error
    try:
        try:
            # The kind of lock that elementsd takes, so that the two exclude each other.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FolderInUse(
                f"Cannot obtain a lock on directory {folder}. sidechaind is probably already"
                " running."
            ) from error
        yield
    finally:
        os.close(handle)


@contextmanager
def process_id_file(path: Path | None) -> Iterator[None]:
    """Write this process's id, and remove the file at the end.

    Raises:
        OptionError: it cannot be written.
    """
    if path is None:
        yield
        return
    try:
        path.write_text(f"{os.getpid()}\n")
    except OSError as error:
        raise OptionError(f"Unable to create the PID file '{path}': {error.strerror}") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def open_log(path: Path | None, *, console: bool, shrink: bool) -> None:
    """Send the log to a file, the standard output, both or neither.

    Raises:
        OptionError: the file cannot be written.
    """
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    close_log()
    targets: list[logging.Handler] = []
    if console:
        targets.append(logging.StreamHandler(sys.stdout))
    if path is not None:
        try:
            if shrink:
                _shrink(path)
            targets.append(logging.FileHandler(path))
        except OSError as error:
            raise OptionError(f"Could not open debug log file {path}") from error
    for target in targets or [logging.NullHandler()]:
        formatter = logging.Formatter("%(asctime)sZ %(message)s", "%Y-%m-%dT%H:%M:%S")
        formatter.converter = time.gmtime
        target.setFormatter(formatter)
        LOGGER.addHandler(target)


def close_log() -> None:
    """Let go of the log's files."""
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
        handler.close()


def _shrink(path: Path) -> None:
    """Keep the newest part of a log that grew too large."""
    if not path.exists() or path.stat().st_size <= LOG_SHRINK_ABOVE_BYTES:
        return
    with path.open("rb") as file:
        file.seek(-LOG_KEPT_BYTES, os.SEEK_END)
        kept = file.read()
    path.write_bytes(kept)
