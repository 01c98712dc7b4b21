"""What the member's own operator approved: one file per approved byte string.

`approved/<sha256>` holds the bytes themselves: record bytes (peg:3.3), or the 32-byte hash of a
Bitcoin block for a RESET under the manual policy. `approved/<sha256>.json` beside it says at which
height that was, and what else the operator gave; without it the approval counts as made at height
0. An approval ends when a later final block holds its record, when it is revoked, or by its age: a
record may be needed again (RESUME), and must then be approved again.

Source: N23, peg:3.3, peg:V5.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peg.records import OpenRecord, PauseRecord, Record, ReturnRecord, decode_record
from sidechain.crypto.hashes import sha256
from sidechain.errors import InvalidEncoding

APPROVED_BYTES_MAX = 256
DETAILS_BYTES_MAX = 16_384
BLOCK_HASH_BYTES = 32
LIFETIME_BLOCKS = 10_080
"""Sidechain blocks an approval stands: a week of blocks of a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """One approval on the disk.

    Attributes:
        name: of its file, SHA-256 of the data.
        data: record bytes, or a Bitcoin block hash.
        record: None for a RESET.
        height: of the sidechain when it was given.
        details: what the record only hashes, by name, as the operator gave it.
    """

    name: str
    data: bytes
    record: Record | None
    height: int
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def expires_height(self) -> int:
        """The last height whose block it may count for."""
        return self.height + LIFETIME_BLOCKS


class Approvals:
    """The approvals of one member; read from disk at each question, so files may come and go."""

    def __init__(self, folder: Path, height: Callable[[], int] = lambda: 0) -> None:
        """Use a folder, which need not exist yet.

        Args:
            height: of the last final block, now.
        """
        self._folder = folder
        self._height = height

    def approve(self, data: bytes, details: Mapping[str, Any] | None = None) -> str:
        """Remember an approval durably; once more gives it a new age.

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
        beside = {"details": dict(details or {}), "height": self._height()}
        # What counts is the file of the bytes, so what says its age is there before it.
        self._write(f"{name}.json", json.dumps(beside, sort_keys=True).encode())
        self._write(name, data)
        self._sync()
        return name

    def revoke(self, name: str) -> bool:
        """Take an approval back durably; whether there was one.

        Args:
            name: of its file, 64 hex digits.
        """
        if self.find(name) is None:
            return False
        for gone in (name, f"{name}.json"):
            (self._folder / gone).unlink(missing_ok=True)
        self._sync()
        return True

    def consume(self, data: bytes, height: int) -> bool:
        """A final block holds these bytes: an approval given before it has had its effect."""
        found = self.find(sha256(data).hex())
        if found is None or found.height >= height:
            return False
        if isinstance(found.record, ReturnRecord):
            # What it hashes is needed until the deposit is back.
            (self._folder / found.name).unlink(missing_ok=True)
            self._sync()
            return True
        return self.revoke(found.name)

    def details_of(self, data: bytes) -> Mapping[str, Any]:
        """What the operator gave with a record, also after the record became final (C9)."""
        return self._beside(sha256(data).hex())[1]

    def has(self, data: bytes) -> bool:
        """Whether exactly these bytes are approved now."""
        found = self.find(sha256(data).hex())
        return found is not None and self._height() < found.expires_height

    def find(self, name: str) -> Approval | None:
        """An approval by its file's name, expired or not; None when there is no such one."""
        if len(name) != 64 or not set(name) <= set("0123456789abcdef"):
            return None
        data = self._read(name, APPROVED_BYTES_MAX)
        if data is None or sha256(data).hex() != name:
            return None
        record: Record | None = None
        try:
            if len(data) != BLOCK_HASH_BYTES:
                record = decode_record(data)
        except InvalidEncoding:
            return None
        height, details = self._beside(name)
        return Approval(name=name, data=data, record=record, height=height, details=details)

    def all(self) -> tuple[Approval, ...]:
        """Every approval that has not expired, in byte order; other files are passed over."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return ()
        found = [approval for name in names if (approval := self.find(name)) is not None]
        live = [each for each in found if self._height() < each.expires_height]
        return tuple(sorted(live, key=lambda each: each.data))

    def records(self) -> tuple[Record, ...]:
        """All approved records, in byte order."""
        return tuple(each.record for each in self.all() if each.record is not None)

    def open_records(self) -> tuple[OpenRecord, ...]:
        """Approved OPEN records."""
        return tuple(record for record in self.records() if isinstance(record, OpenRecord))

    def pause_records(self) -> tuple[PauseRecord, ...]:
        """The member's own PAUSE records that are not final yet."""
        return tuple(record for record in self.records() if isinstance(record, PauseRecord))

    def _beside(self, name: str) -> tuple[int, dict[str, Any]]:
        """Height and details that the file beside an approval holds."""
        data = self._read(f"{name}.json", DETAILS_BYTES_MAX)
        try:
            plain = json.loads(data or b"{}")
            height, details = plain.get("height", 0), plain.get("details", {})
        except (ValueError, AttributeError):
            return 0, {}
        if not isinstance(height, int) or not isinstance(details, dict):
            return 0, {}
        return height, details

    def _write(self, name: str, data: bytes) -> None:
        temporary = self._folder / f".{name}"
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._folder / name)

    def _sync(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _read(self, name: str, most: int) -> bytes | None:
        try:
            with open(self._folder / name, "rb") as file:
                data = file.read(most + 1)
        except (FileNotFoundError, IsADirectoryError):
            return None
        return data if len(data) <= most else None
