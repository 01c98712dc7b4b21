"""What a disk can do to a member that does not run: lose its state, go back in time, rot.

Whatever a fault takes away from the agreement's journal is kept under `DATA/faults/lost`, so that a
checker can still read what the member signed before.

Source: consensus:J5, consensus:J6, consensus:10.1 scenarios 4, 6 and 7, N5.
"""

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from federation.journal_format import CONSENSUS_JOURNAL
from federation.local_state import LocalError, LocalFolder
from federation.member_folder import MemberFolder

KEPT_AT_A_WIPE: Final = frozenset(("keys", "member.json", "log.jsonl", "output.log"))
"""State that may be lost is everything but the key folder and federation.json (N5)."""
SOCKET: Final = "socket"
"""Where a signer process listens: no state, and no file that could be copied."""
GARBAGE_BYTES: Final = 64


class Damage(StrEnum):
    """How a journal is damaged.

    FLIP turns one bit, TRUNCATE cuts bytes off the end, ZEROS and GARBAGE append, REMOVE deletes
    the newest file.
    """

    FLIP = "flip"
    TRUNCATE = "truncate"
    ZEROS = "zeros"
    GARBAGE = "garbage"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True, kw_only=True)
class DamageDone:
    """What was done to a journal: the file, the first byte concerned, and how many."""

    file: str
    how: Damage
    at_byte: int
    size_bytes: int


class FaultFolder:
    """`DATA/faults`: lost journals, snapshots, twins."""

    def __init__(self, folder: LocalFolder) -> None:
        self._folder = folder
        self.path = folder.path / "faults"

    @property
    def output(self) -> Path:
        """Takes what the processes of faults print."""
        return self.path / "output.log"

    @property
    def lost(self) -> Path:
        """One folder a loss, each with a journal."""
        return self.path / "lost"

    @property
    def snapshots(self) -> Path:
        """One folder a snapshot."""
        return self.path / "snapshots"

    def twin(self, name: str) -> Path:
        """Folder of the liar that runs in a member's place; as deep as the member's own."""
        return self.path / f"twin-{name}"

    def lost_journals(self, name: str) -> tuple[Path, ...]:
        """Journal folders of a member that a fault took away, oldest first."""
        if not self.lost.is_dir():
            return ()
        found = [path for path in self.lost.iterdir() if path.name.split("-")[0] == name]
        return tuple(sorted(found, key=lambda path: int(path.name.split("-")[1])))

    def keep_journal(self, name: str, journal: Path, why: str) -> Path | None:
        """Copy a journal to where the checker finds it; None when there is nothing to keep."""
        files = list(_journal_files(journal))
        if not files:
            return None
        target = self.lost / f"{name}-{len(self.lost_journals(name)) + 1}-{why}"
        target.mkdir(parents=True, mode=0o700)
        for path in files:
            where = target / path.relative_to(journal)
            where.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, where)
        return target

    def wipe(self, name: str) -> None:
        """Delete all that a member has but its keys, its configuration and its logs."""
        member = MemberFolder(self._folder.member(name))
        self.keep_journal(name, member.journal, "wiped")
        _delete_state(member.path)

    def take_snapshot(self, name: str) -> str:
        """Copy the state of a member; the name of the copy."""
        count = len(self.snapshots_of(name))
        target = self.snapshots / f"{name}-{count + 1}"
        target.mkdir(parents=True, mode=0o700)
        _copy_state(self._folder.member(name), target)
        return target.name

    def snapshots_of(self, name: str) -> tuple[str, ...]:
        """Names of a member's snapshots, oldest first."""
        if not self.snapshots.is_dir():
            return ()
        found = [p.name for p in self.snapshots.iterdir() if p.name.rpartition("-")[0] == name]
        return tuple(sorted(found, key=lambda found_name: int(found_name.rpartition("-")[2])))

    def find_snapshot(self, name: str, snapshot: str | None = None) -> str:
        """The snapshot of this name, the newest without one.

        Raises:
            LocalError: there is no such snapshot.
        """
        known = self.snapshots_of(name)
        if not known:
            raise LocalError(f"no snapshot of {name}: `fedpeg fault snapshot {name}` takes one")
        chosen = known[-1] if snapshot is None else snapshot
        if chosen not in known:
            raise LocalError(f"no snapshot {chosen!r} of {name}: there are {', '.join(known)}")
        return chosen

    def restore_snapshot(self, name: str, snapshot: str | None = None) -> str:
        """Put a snapshot in the place of a member's state; returns its name.

        Raises:
            LocalError: there is no such snapshot.
        """
        chosen = self.find_snapshot(name, snapshot)
        member = MemberFolder(self._folder.member(name))
        self.keep_journal(name, member.journal, "restored")
        _delete_state(member.path)
        _copy_state(self.snapshots / chosen, member.path)
        return chosen

    def damage_journal(
        self, name: str, how: Damage, *, at_byte: int | None, seed: int
    ) -> DamageDone:
        """Damage the newest file of a member's journal.

        Args:
            at_byte: where; by the seed without it. Negative counts from the end.
        Raises:
            LocalError: there is no journal, or it has no such byte.
        """
        member = MemberFolder(self._folder.member(name))
        files = [path for path in _journal_files(member.journal) if path.parent == member.journal]
        if not files:
            raise LocalError(f"{name} has no journal")
        path = max(files, key=lambda file: int(file.name.rpartition("-")[2]))
        data = path.read_bytes()
        place = _place(len(data), at_byte, random.Random(seed))
        self.keep_journal(name, member.journal, "damaged")
        if how is Damage.REMOVE:
            path.unlink()
            return DamageDone(file=path.name, how=how, at_byte=0, size_bytes=len(data))
        damaged, first, count = _damaged(data, how, place, random.Random(seed + 1))
        path.write_bytes(damaged)
        return DamageDone(file=path.name, how=how, at_byte=first, size_bytes=count)


def _place(size_bytes: int, at_byte: int | None, dice: random.Random) -> int:
    if at_byte is None:
        return dice.randrange(size_bytes)
    place = at_byte + size_bytes if at_byte < 0 else at_byte
    if not 0 <= place < size_bytes:
        raise LocalError(f"the journal has {size_bytes} bytes, none with number {at_byte}")
    return place


def _damaged(data: bytes, how: Damage, place: int, dice: random.Random) -> tuple[bytes, int, int]:
    """The damaged bytes, where the damage begins, and how long it is."""
    match how:
        case Damage.FLIP:
            changed = bytearray(data)
            changed[place] ^= 1 << dice.randrange(8)
            return bytes(changed), place, 1
        case Damage.TRUNCATE:
            return data[:place], place, len(data) - place
        case Damage.ZEROS:
            return data + bytes(GARBAGE_BYTES), len(data), GARBAGE_BYTES
        case _:
            return data + dice.randbytes(GARBAGE_BYTES), len(data), GARBAGE_BYTES


def _journal_files(folder: Path) -> Iterator[Path]:
    """Files of the agreement's journal in a folder, archived ones included."""
    prefix = CONSENSUS_JOURNAL.prefix
    for pattern in (f"{prefix}-[0-9]*", f"archived-{prefix}-*/{prefix}-[0-9]*"):
        yield from sorted(folder.glob(pattern))


def _delete_state(member: Path) -> None:
    for path in member.iterdir():
        if path.name in KEPT_AT_A_WIPE:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _copy_state(source: Path, target: Path) -> None:
    for path in sorted(source.iterdir()):
        if path.name in KEPT_AT_A_WIPE:
            continue
        if path.is_dir():
            shutil.copytree(path, target / path.name, ignore=shutil.ignore_patterns(SOCKET))
        else:
            shutil.copy2(path, target / path.name)
