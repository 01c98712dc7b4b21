"""Journal, block files and guard on a disk that loses what was not synced, in six ways (J1-J8, R5).

At every operation the power is cut; what was acknowledged is read back, and what was being written
is there whole, gone, or judged as J5 says.
"""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from federation.consensus.records import (
    Amnesia,
    Birth,
    Counter,
    Halt,
    JournalRecord,
    Override,
    OverrideAction,
    Resume,
    Stop,
    VoteRecord,
    decode_record,
    encode_record,
    restore,
)
from federation.consensus.votes import NO_SIGNATURE, Certificate, Vote, VoteType
from federation.files import FileLayer
from federation.signer_guard import Guard, load_guard, save_guard
from federation.wal import BlockFiles, Journal, JournalCorrupt, JournalFailed, Verdict
from tests.federation.disks import KEEPS, CountingDisk, Killed, PowerDisk, ShortDisk, raise_errno

GENESIS, KEY = b"\x11" * 32, b"\x22" * 32
A = b"\xaa" * 32
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def vote(height: int, kind: VoteType = VoteType.PREVOTE) -> Vote:
    return Vote(
        type=kind,
        height=height,
        round=0,
        valid_round=-1,
        block_hash=A,
        member=1,
        signature=NO_SIGNATURE,
    )


POL = Certificate(
    type=VoteType.PREVOTE,
    height=2,
    round=0,
    block_hash=A,
    votes=tuple((member, -1, bytes([member + 1]) * 64) for member in range(11)),
)
LIFE: tuple[tuple[JournalRecord, ...], ...] = (
    (Birth(),),
    (Counter(0), VoteRecord(vote(1), None)),
    (Counter(1), VoteRecord(vote(2), None)),
    (Counter(2), VoteRecord(vote(2, VoteType.PRECOMMIT), POL)),
    (Amnesia(), Resume(9)),
    (Halt(b"\x01" * 700, b"\x02" * 700),),
    (Override(action=OverrideAction.UNHALT, height=0, block_hash=A),),
    (Stop(),),
)
"""What one append makes durable together, as the engine writes it."""


def open_journal(folder: Path, layer: FileLayer | None = None) -> Journal:
    return Journal.open(folder, genesis=GENESIS, key=KEY, layer=layer)


def live(folder: Path, layer: FileLayer | None, said: list[JournalRecord]) -> None:
    """All records of LIFE, with a rotation after the fourth batch; `said` is acknowledged."""
    journal = open_journal(folder, layer)
    try:
        for number, batch in enumerate(LIFE):
            for i, record in enumerate(batch):
                journal.append(*encode_record(record), sync=i == len(batch) - 1)
            said += batch
            if number == 3:
                base = restore(said).base()
                journal.rotate(encode_record(base)[1])
                said[:] = [base]
    finally:
        journal.close()


def expected() -> list[list[JournalRecord]]:
    """Records of the file before the rotation, and of the one after it, when all is there."""
    first = [record for batch in LIFE[:4] for record in batch]
    return [first, [restore(first).base(), *(record for batch in LIFE[4:] for record in batch)]]


def check(folder: Path, said: list[JournalRecord], keep: str) -> Verdict:
    """What was acknowledged is read back, in order, with a prefix of what was being written."""
    try:
        journal = open_journal(folder)
    except JournalCorrupt:
        # J5: zeros that begin inside a record's header; refused, so nothing is signed on it
        assert keep == "sectors"
        return Verdict.DOUBTFUL
    found = [decode_record(r.kind, r.body) for r in journal.records]
    verdict = journal.verdict
    journal.close()
    before, after = expected()
    if found[:1] == after[:1]:  # the file that was rotated to
        assert found == after[: len(found)]
        assert said in (before, found[: len(said)])
    else:
        assert found == before[: len(found)]
        assert said == found[: len(said)]
    restore(found)
    if keep in ("none", "names", "half", "all"):
        assert verdict in (Verdict.EMPTY, Verdict.SOUND, Verdict.TORN)
    return verdict


def operations(folder: Path) -> int:
    """How many there are in a folder that exists."""
    folder.mkdir()
    counting = CountingDisk()
    live(folder, counting, [])
    return counting.done


@pytest.mark.parametrize("keep", KEEPS)
def test_journal_when_power_is_cut_anywhere_then_acknowledged_records_survive(
    tmp_path: Path, keep: str
) -> None:
    for at in range(operations(tmp_path / "whole")):
        folder = tmp_path / f"at-{at}"
        folder.mkdir()
        disk, said = PowerDisk(folder, at), list[JournalRecord]()
        with pytest.raises(Killed):
            live(folder, disk, said)
        disk.lose_power(keep)
        check(folder, said, keep)


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["none", "half", "sectors"])
def test_journal_when_power_is_cut_while_it_repairs_itself_then_still_the_same(
    tmp_path: Path, keep: str
) -> None:
    """A second cut during the opening after the first one; J6 is safe to repeat."""
    for at in range(0, operations(tmp_path / "whole"), 3):
        for again in range(6):
            folder = tmp_path / f"at-{at}-{again}"
            folder.mkdir()
            disk, said = PowerDisk(folder, at), list[JournalRecord]()
            with pytest.raises(Killed):
                live(folder, disk, said)
            disk.lose_power(keep)
            second = PowerDisk(folder, again)
            try:
                open_journal(folder, second).close()
            except (Killed, JournalCorrupt):
                second.lose_power(keep)
            check(folder, said, keep)


@pytest.mark.parametrize("code", ERRORS)
def test_journal_when_the_disk_refuses_any_operation_then_stopped_and_intact_after(
    tmp_path: Path, code: int
) -> None:
    for at in range(operations(tmp_path / "whole")):
        folder = tmp_path / f"at-{at}"
        folder.mkdir()
        said: list[JournalRecord] = []
        with pytest.raises(JournalFailed):
            live(folder, CountingDisk(at, raise_errno(code)), said)
        assert check(folder, said, "all") in (Verdict.EMPTY, Verdict.SOUND, Verdict.TORN)


@pytest.mark.slow
@pytest.mark.parametrize("part_bytes", [0, 1, 12, 17, 40, 700])
def test_journal_when_a_write_is_short_then_stopped_and_torn_or_intact_after(
    tmp_path: Path, part_bytes: int
) -> None:
    stopped = 0
    for at in range(operations(tmp_path / "whole")):
        folder = tmp_path / f"at-{at}"
        folder.mkdir()
        said: list[JournalRecord] = []
        try:
            live(folder, ShortDisk(at, part_bytes), said)
        except JournalFailed as failure:
            assert "short write" in str(failure)
            stopped += 1
        check(folder, said, "all")
    assert stopped >= len(LIFE)


def interrupted(
    folder: Path, story: Callable[[FileLayer], object], keep: str, look: Callable[[], None]
) -> None:
    """Run a story with the power cut at each of its operations; look at what is left."""
    before = {p: p.read_bytes() for p in folder.iterdir() if p.is_file()}

    def reset() -> None:
        for path in [p for p in folder.iterdir() if p.is_file()]:
            path.unlink()
        for path, data in before.items():
            path.write_bytes(data)
            path.chmod(0o600)

    counting = CountingDisk()
    story(counting)
    for at in range(counting.done):
        reset()
        disk = PowerDisk(folder, at)
        with pytest.raises(Killed):
            story(disk)
        disk.lose_power(keep)
        look()


@pytest.mark.parametrize("keep", KEEPS)
def test_j8_block_file_when_power_is_cut_then_whole_or_absent(tmp_path: Path, keep: str) -> None:
    """Its name is given after its bytes are durable, so what has the name is whole."""
    data = bytes(range(256)) * 20

    def look() -> None:
        assert BlockFiles(tmp_path).load(A) in (None, data)

    interrupted(tmp_path, lambda disk: BlockFiles(tmp_path, disk).save(A, data), keep, look)


@pytest.mark.parametrize("keep", KEEPS)
def test_j8_block_files_when_power_is_cut_in_deleting_them_then_the_wanted_one_stays(
    tmp_path: Path, keep: str
) -> None:
    files = BlockFiles(tmp_path)
    for number in range(4):
        files.save(bytes([number]) * 32, b"block")
    wanted = b"\x02" * 32

    def look() -> None:
        assert BlockFiles(tmp_path).load(wanted) == b"block"

    interrupted(tmp_path, lambda disk: BlockFiles(tmp_path, disk).keep_only([wanted]), keep, look)


@pytest.mark.parametrize("keep", KEEPS)
def test_r5_guard_when_power_is_cut_then_the_old_or_the_new_one_whole(
    tmp_path: Path, keep: str
) -> None:
    path = tmp_path / "guard"
    old = Guard(genesis=GENESIS, vote_key=KEY, counter=7, position=(5, 0, 2), signed=(A,))
    new = old.with_vote((5, 1, 2), b"\xbb" * 32, None)
    save_guard(FileLayer(), path, old)

    def look() -> None:
        assert load_guard(path, GENESIS, KEY) in (old, new)

    interrupted(tmp_path, lambda disk: save_guard(disk, path, new), keep, look)


@pytest.mark.parametrize("keep", KEEPS)
def test_j6_doubt_when_power_is_cut_in_settling_it_then_never_forgotten_too_early(
    tmp_path: Path, keep: str
) -> None:
    """AMNESIA and RESUME are in the journal before the mark goes."""
    journal = open_journal(tmp_path)
    journal.append(*encode_record(Birth()))
    journal.append(*encode_record(VoteRecord(vote(1), None)))
    journal.close()
    path = tmp_path / "journal-1"
    path.write_bytes(path.read_bytes()[:-1] + b"?")

    def story(disk: FileLayer) -> None:
        journal = open_journal(tmp_path, disk)
        try:
            journal.append(*encode_record(Amnesia()), sync=False)
            journal.append(*encode_record(Resume(3)))
            journal.settle_doubt()
        finally:
            journal.close()

    def look() -> None:
        try:
            journal = open_journal(tmp_path)
        except JournalCorrupt:
            assert keep in ("sectors", "zeros")
            return
        records = [decode_record(r.kind, r.body) for r in journal.records]
        journal.close()
        settled = records[-2:] == [Amnesia(), Resume(3)]
        assert settled or journal.verdict is Verdict.DOUBTFUL

    interrupted(tmp_path, story, keep, look)


def test_j5_last_record_when_only_zeros_follow_it_then_judged_as_the_last(tmp_path: Path) -> None:
    """Two records of one sync, cut at a sector's border in the first: not damage in the middle."""
    journal = open_journal(tmp_path)
    journal.append(*encode_record(Birth()))
    journal.append(4, bytes(range(1, 111)), sync=False)
    journal.append(4, b"\x07" * 700)
    journal.close()
    path = tmp_path / "journal-1"
    data = path.read_bytes()
    start = 88 + 21 + 17
    path.write_bytes(data[: start + 40] + bytes(len(data) - start - 40))
    journal = open_journal(tmp_path)
    assert journal.verdict is Verdict.TORN and len(journal.records) == 1
    journal.close()
