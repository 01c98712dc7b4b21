"""Evidence against members: verified, written once, never changed.

One JSON object a line (RFC 8785), appended and fsynced: genesis, parameter hash, the accused, and
the two messages whole, so that a stranger can check the signatures.

Source: consensus:C58, consensus:C99, N26.
"""

import os
from pathlib import Path
from typing import Any, Final

from federation.canonical import NotCanonical, canonical_json, strict_loads
from federation.consensus.messages import Evidence
from federation.members import MemberSet

EVIDENCE_MAX: Final = 1_000
PER_MEMBER_MAX: Final = 10
"""C99 allows ten a member and hour; a member that needs more in one run is known well enough."""


class EvidenceStore:
    """Owner of one append-only evidence file.

    Args:
        path: made on the first piece of evidence.
        genesis, parameter_hash: 32 bytes, of the chain and the federation file.
        members: names the accused keys.
    """

    def __init__(
        self, path: Path, *, genesis: bytes, parameter_hash: bytes, members: MemberSet
    ) -> None:
        self._path = path
        self._genesis = genesis
        self._parameter_hash = parameter_hash
        self._members = members
        self._lines: list[dict[str, Any]] = _read(path)

    def is_known(self, member: int, height: int, evidence: Evidence) -> bool:
        """Whether this class of conflict is stored for the member and height."""
        key = (member, height, int(evidence.kind))
        return any((e["member"], e["height"], e["class"]) == key for e in self._lines)

    def add(self, member: int, height: int, evidence: Evidence) -> bool:
        """Store evidence the core found or verified; False when it is known or there is no room.

        Raises:
            OSError: the disk refused.
        """
        of_member = sum(1 for e in self._lines if e["member"] == member)
        full = len(self._lines) >= EVIDENCE_MAX or of_member >= PER_MEMBER_MAX
        if full or self.is_known(member, height, evidence):
            return False
        line = {
            "genesis": self._genesis.hex(),
            "parameter_hash": self._parameter_hash.hex(),
            "member": member,
            "block_key": self._members.members[member].block_key.hex(),
            "height": height,
            "class": int(evidence.kind),
            "first": evidence.first.hex(),
            "second": evidence.second.hex(),
        }
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, canonical_json(line) + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._lines.append(line)
        return True

    def all(self) -> list[dict[str, Any]]:
        """Every piece of evidence, oldest first, as JSON objects."""
        return list(self._lines)


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines():
        try:
            found.append(strict_loads(line))
        except NotCanonical:
            continue  # torn by a crash in the middle of an append: evidence comes again
    return found
