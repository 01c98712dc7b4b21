"""Evidence against members: verified, written once, never changed.

One JSON object a line (RFC 8785), appended and fsynced: genesis, parameter hash, the accused, and
the two messages whole, so that a stranger can check the signatures. A disk that refuses costs the
line, not the process: nothing that agreement relies on is in this file.

Source: consensus:C58, consensus:C99, N26.
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from federation.canonical import NotCanonical, canonical_json, strict_loads
from federation.consensus.messages import Evidence, GetCertificate
from federation.consensus.votes import Vote
from federation.files import FileLayer
from federation.members import MemberSet

EVIDENCE_NAME: Final = "evidence.jsonl"
"""The file's name in a member's folder."""
EVIDENCE_MAX: Final = 1_000
PER_MEMBER_AND_HOUR_MAX: Final = 10
UNANSWERED: Final = 4
"""Class of a challenge that was not answered (C57), after the three of C56."""
HOUR_MS: Final = 3_600_000
_NUMBERS: Final = ("member", "height", "class")


class EvidenceStore:
    """Owner of one append-only evidence file.

    Args:
        path: made on the first piece of evidence.
        genesis, parameter_hash: 32 bytes, of the chain and the federation file.
        members: names the accused keys.
        now_ms: the monotonic clock.
        members_at: the set of a height, where sets change; without it `members` for all.
    Raises:
        OSError: the file is there and cannot be read.
    """

    def __init__(
        self,
        path: Path,
        *,
        genesis: bytes,
        parameter_hash: bytes,
        members: MemberSet,
        now_ms: Callable[[], int],
        layer: FileLayer | None = None,
        members_at: Callable[[int], MemberSet] | None = None,
    ) -> None:
        self._path = path
        self._genesis = genesis
        self._parameter_hash = parameter_hash
        self._members_at = members_at or (lambda height: members)
        self._now_ms = now_ms
        self._layer = layer or FileLayer()
        self._lines = read_evidence(path)
        self._keys = {_key_of(line) for line in self._lines}
        self._added_ms: dict[int, deque[int]] = {}

    def is_known(self, member: int, height: int, evidence: Evidence) -> bool:
        """Whether this class of conflict is stored for the member and height."""
        return (member, height, int(evidence.kind)) in self._keys

    def has_room(self, member: int) -> bool:
        """Whether more evidence against a member is taken now (C99: the first is kept)."""
        recent = self._added_ms.get(member, deque())
        while recent and self._now_ms() - recent[0] >= HOUR_MS:
            recent.popleft()
        return len(self._lines) < EVIDENCE_MAX and len(recent) < PER_MEMBER_AND_HOUR_MAX

    def add(
        self, member: int, height: int, evidence: Evidence, *, params_root: bytes = b""
    ) -> bool:
        """Store evidence the core found or verified.

        Args:
            params_root: D of the height, which votes are signed under; empty leaves it out.
        Returns:
            False when it is known already or there is no room.
        Raises:
            OSError: the disk refused; it is kept and shown until the process ends.
        """
        bodies = {"first": evidence.first.hex(), "second": evidence.second.hex()}
        return self._add(member, height, int(evidence.kind), bodies, params_root)

    def has_unanswered(self, member: int, height: int) -> bool:
        """Whether an unanswered challenge of the member and height is stored."""
        return (member, height, UNANSWERED) in self._keys

    def add_unanswered(
        self,
        vote: Vote,
        request: GetCertificate,
        asked_s: tuple[int, int],
        *,
        params_root: bytes,
    ) -> bool:
        """Store that a member did not show the votes its own vote rests on (C57).

        Args:
            asked_s: from when until when it was asked, seconds since 1970.
        Returns:
            False when one is stored already or there is no room.
        Raises:
            OSError: as `add`.
        """
        said = {
            "first": vote.encode().hex(),
            "second": request.encode().hex(),
            "asked_s": asked_s[0],
            "until_s": asked_s[1],
        }
        return self._add(vote.member, vote.height, UNANSWERED, said, params_root)

    def add_frames(
        self,
        member: int,
        height: int,
        kind: int,
        first: bytes,
        second: bytes,
        *,
        block_key: bytes | None = None,
    ) -> bool:
        """Store frames that a member signed, of a class beyond agreement's (peg:P33).

        Args:
            member: the index of its links, which later members have too.
            block_key: of who has that index; without it, of the founding member.
        Returns:
            False when it is known already or there is no room.
        Raises:
            OSError: as `add`.
        """
        said = {"first": first.hex(), "second": second.hex()}
        return self._add(member, height, kind, said, b"", block_key)

    def _add(
        self,
        member: int,
        height: int,
        kind: int,
        said: dict[str, Any],
        params_root: bytes,
        block_key: bytes | None = None,
    ) -> bool:
        if (member, height, kind) in self._keys or not self.has_room(member):
            return False
        key = block_key or self._members_at(height).members[member].block_key
        line = {
            "genesis": self._genesis.hex(),
            "parameter_hash": self._parameter_hash.hex(),
            "member": member,
            "block_key": key.hex(),
            "height": height,
            "class": kind,
            **said,
        }
        if params_root:
            line["params_root"] = params_root.hex()
        self._lines.append(line)
        self._keys.add(_key_of(line))
        self._added_ms.setdefault(member, deque()).append(self._now_ms())
        self._append(canonical_json(line) + b"\n")
        return True

    @property
    def folder(self) -> Path:
        """Where the file is."""
        return self._path.parent

    def all(self) -> list[dict[str, Any]]:
        """Every piece of evidence, oldest first, as JSON objects."""
        return list(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def _append(self, data: bytes) -> None:
        layer = self._layer
        if not self._path.exists():
            os.close(layer.create(self._path))
            layer.sync_folder(self._path.parent)
        descriptor = layer.open_append(self._path)
        try:
            size_bytes = os.fstat(descriptor).st_size
            # What a crash tore keeps its own line and is skipped when read.
            ends_open = size_bytes > 0 and not _ends_line(self._path, size_bytes)
            data = b"\n" + data if ends_open else data
            try:
                if layer.write(descriptor, data) != len(data):
                    raise OSError("short write")
                layer.sync_data(descriptor)
            except OSError:
                with contextlib.suppress(OSError):
                    layer.truncate(descriptor, size_bytes)
                raise
        finally:
            os.close(descriptor)


def _key_of(line: dict[str, Any]) -> tuple[int, int, int]:
    return line["member"], line["height"], line["class"]


def _ends_line(path: Path, size_bytes: int) -> bool:
    with path.open("rb") as file:
        file.seek(size_bytes - 1)
        return file.read(1) == b"\n"


def read_evidence(path: Path) -> list[dict[str, Any]]:
    """The lines of an evidence file, oldest first; none when there is no file.

    Raises:
        OSError: it cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines()[: 2 * EVIDENCE_MAX]:
        try:
            plain = strict_loads(line)
        except (NotCanonical, ValueError):
            continue  # torn by a crash in the middle of an append: evidence comes again
        if isinstance(plain, dict) and all(isinstance(plain.get(name), int) for name in _NUMBERS):
            found.append(plain)
    return found
