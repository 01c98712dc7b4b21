"""The Unix socket between a member and its signer: made, found, and who is at its other end.

Source: consensus:9; docs/signer.md.
"""

import contextlib
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

BACKLOG: Final = 4
_CREDENTIALS = struct.Struct("3i")


@contextlib.contextmanager
def listen(path: Path, *, gid: int | None = None) -> Iterator[socket.socket]:
    """Listen on a socket file, closed to others (0600), or open to a group (0660); remove it after.

    The caller holds the lock of the signer's state, so a file of that name that is a socket was
    left behind by a signer that was killed.

    Raises:
        OSError: the folder is missing or closed, or the name is taken by something else.
    """
    with _reachable(path) as name, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise FileExistsError(f"{path} is there already and is no socket")
            os.unlink(path)
        before = os.umask(0o177)
        try:
            listener.bind(name)
        finally:
            os.umask(before)
        try:
            if gid is not None:
                os.chown(path, -1, gid)
                os.chmod(path, 0o660)
            listener.listen(BACKLOG)
            yield listener
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)


def connect(path: Path, timeout_s: float) -> socket.socket:
    """Connect to a signer.

    Raises:
        OSError: nobody listens there, or not within the time.
    """
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.settimeout(timeout_s)
        with _reachable(path) as name:
            link.connect(name)
    except BaseException:
        link.close()
        raise
    return link


def peer_uid(link: socket.socket) -> int:
    """User id of the process at the other end."""
    size = _CREDENTIALS.size
    found = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return int(_CREDENTIALS.unpack(found)[1])


@contextlib.contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """A short name for a socket file: addresses hold 107 bytes, paths may be longer."""
    folder = os.open(path.absolute().parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
