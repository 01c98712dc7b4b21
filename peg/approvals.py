"""What the member's own operator approved: one file per approved byte string.

`approved/<sha256>` holds the bytes themselves: record bytes (peg:3.3), or the 32-byte hash of a
Bitcoin block for a RESET under the manual policy.

Source: N23, peg:V5.
"""

import os
from pathlib import Path

from peg.records import OpenRecord, Record, decode_record
from sidechain.crypto.hashes import sha256
from sidechain.errors import InvalidEncoding

APPROVED_BYTES_MAX = 256
BLOCK_HASH_BYTES = 32


class Approvals:
    """The approvals of one member; read from disk at each question, so files may come and go."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which need not exist yet."""
        self._folder = folder

    def approve(self, data: bytes) -> str:
        """Remember an approval durably.

        Args:
            data: record bytes, or a block hash in internal order.
        Returns:
            The file's name.
        Raises:
            InvalidEncoding: neither a record nor a block hash.
        """
        if len(data) != BLOCK_HASH_BYTES:
            decode_record(data)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = sha256(data).hex()
        temporary = self._folder / f".{name}"
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._folder / name)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return name

    def has(self, data: bytes) -> bool:
        """Whether exactly these bytes are approved."""
        return self._read(sha256(data).hex()) == data

    def records(self) -> tuple[Record, ...]:
        """All approved records, in byte order; files that are none are passed over."""
        found: list[tuple[bytes, Record]] = []
        try:
            names = sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return ()
        for name in names:
            data = self._read(name)
            if data is None or sha256(data).hex() != name:
                continue
            try:
                found.append((data, decode_record(data)))
            except InvalidEncoding:
                continue
        return tuple(record for _, record in sorted(found, key=lambda item: item[0]))

    def open_records(self) -> tuple[OpenRecord, ...]:
        """Approved OPEN records."""
        return tuple(record for record in self.records() if isinstance(record, OpenRecord))

    def _read(self, name: str) -> bytes | None:
        try:
            with open(self._folder / name, "rb") as file:
                data = file.read(APPROVED_BYTES_MAX + 1)
        except (FileNotFoundError, IsADirectoryError):
            return None
        return data if len(data) <= APPROVED_BYTES_MAX else None
