"""Disks that lose, forget and rot: what is damaged, what is kept for the checker."""

import socket
from pathlib import Path

import pytest

from federation.fault_disk import Damage, FaultFolder
from federation.local_state import LocalError, LocalFolder

STATE = {
    "journal/journal-1": b"first file" * 20,
    "journal/journal-2": b"newest file" * 30,
    "journal/block-00": b"a proposal",
    "journal/archived-journal-1/journal-1": b"older life",
    "signer/guard": b"guard",
    "chain/CURRENT": b"chain",
}
KEPT = {"keys/block.key": b"secret", "member.json": b"{}", "log.jsonl": b"{}\n"}


@pytest.fixture
def folder(tmp_path: Path) -> FaultFolder:
    local = LocalFolder(tmp_path)
    for name, data in (STATE | KEPT).items():
        path = local.member("m1") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return FaultFolder(local)


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def member(folder: FaultFolder) -> Path:
    return folder.path.parent / "members" / "m1"


def test_wipe_when_done_then_only_keys_configuration_and_logs_are_left(folder: FaultFolder) -> None:
    """N5; the journal is kept for the checker."""
    folder.wipe("m1")
    assert files(member(folder)) == KEPT
    (lost,) = folder.lost_journals("m1")
    assert lost.name == "m1-1-wiped"
    assert sorted(files(lost)) == ["archived-journal-1/journal-1", "journal-1", "journal-2"]
    folder.wipe("m1")  # there is nothing to lose any more
    assert folder.lost_journals("m1") == (lost,) and folder.lost_journals("m2") == ()


def test_restore_when_a_snapshot_is_put_back_then_the_disk_is_as_it_was(
    folder: FaultFolder,
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(member(folder) / "signer" / "socket"))
    assert folder.take_snapshot("m1") == "m1-1"
    newest = member(folder) / "journal" / "journal-2"
    newest.write_bytes(b"went on")
    (member(folder) / "journal" / "journal-3").write_bytes(b"and on")
    (member(folder) / "log.jsonl").write_bytes(b"logs are no state")
    assert folder.take_snapshot("m1") == "m1-2"
    assert folder.restore_snapshot("m1", "m1-1") == "m1-1"
    assert files(member(folder)) == STATE | KEPT | {"log.jsonl": b"logs are no state"}
    (lost,) = folder.lost_journals("m1")
    assert files(lost)["journal-3"] == b"and on"
    assert folder.restore_snapshot("m1") == "m1-2"
    assert newest.read_bytes() == b"went on"


def test_restore_when_there_is_no_such_snapshot_then_refused(folder: FaultFolder) -> None:
    with pytest.raises(LocalError, match="no snapshot of m1: `fedpeg fault snapshot m1`"):
        folder.restore_snapshot("m1")
    folder.take_snapshot("m1")
    with pytest.raises(LocalError, match="no snapshot 'x' of m1: there are m1-1"):
        folder.find_snapshot("m1", "x")


@pytest.mark.parametrize(
    ("how", "at_byte", "first", "size_bytes"),
    [
        (Damage.FLIP, 7, 7, 1),
        (Damage.FLIP, -1, 329, 1),
        (Damage.TRUNCATE, 300, 300, 30),
        (Damage.ZEROS, None, 330, 64),
        (Damage.GARBAGE, None, 330, 64),
        (Damage.REMOVE, None, 0, 330),
    ],
)
def test_journal_when_damaged_then_as_told_and_the_sound_one_is_kept(
    folder: FaultFolder, how: Damage, at_byte: int | None, first: int, size_bytes: int
) -> None:
    before = STATE["journal/journal-2"]
    done = folder.damage_journal("m1", how, at_byte=at_byte, seed=4)
    assert (done.file, done.at_byte, done.size_bytes) == ("journal-2", first, size_bytes)
    path = member(folder) / "journal" / "journal-2"
    after = path.read_bytes() if path.exists() else b""
    assert after != before and after[:first] == before[:first]
    assert files(folder.lost_journals("m1")[0])["journal-2"] == before
    if how is Damage.FLIP:
        (changed,) = [i for i in range(len(before)) if before[i] != after[i]]
        assert changed == first and (before[changed] ^ after[changed]).bit_count() == 1
    assert (member(folder) / "journal" / "journal-1").read_bytes() == STATE["journal/journal-1"]


def test_journal_when_the_byte_is_not_said_then_the_seed_chooses(folder: FaultFolder) -> None:
    places = []
    for seed in (1, 1, 2):
        places.append(folder.damage_journal("m1", Damage.FLIP, at_byte=None, seed=seed).at_byte)
    assert places[0] == places[1] != places[2]


def test_journal_when_it_has_no_such_byte_then_refused(folder: FaultFolder) -> None:
    with pytest.raises(LocalError, match="330 bytes, none with number 330"):
        folder.damage_journal("m1", Damage.FLIP, at_byte=330, seed=0)
    folder.wipe("m1")
    with pytest.raises(LocalError, match="m1 has no journal"):
        folder.damage_journal("m1", Damage.FLIP, at_byte=None, seed=0)
