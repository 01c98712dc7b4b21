"""The journal survives every crash and refuses every damage (consensus:J1-J8)."""

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from federation.files import FileLayer
from federation.journal_format import (
    HEADER_SIZE_BYTES,
    JournalScan,
    encode_record,
    file_header,
    journal_identity,
    scan_file,
)
from federation.wal import (
    CONSENSUS_JOURNAL,
    PEG_JOURNAL,
    BlockFiles,
    Journal,
    JournalCorrupt,
    JournalFailed,
    JournalLocked,
    Record,
    Verdict,
    archive,
)
from tests.federation.disks import (
    DISK_ERRORS,
    CountingDisk,
    DyingDisk,
    Killed,
    PowerDisk,
    ShortDisk,
    raise_errno,
)

GENESIS, KEY = b"\x11" * 32, b"\x22" * 32
BODIES = [(1, b""), (4, bytes(range(110))), (9, b"s" * 40), (4, b"\0" * 700), (5, b"\xff" * 233)]


def open_journal(folder: Path, layer: FileLayer | None = None, **other: object) -> Journal:
    arguments = {"genesis": GENESIS, "key": KEY, "layer": layer} | other
    return Journal.open(folder, **arguments)  # type: ignore[arg-type]


def contents(records: tuple[Record, ...]) -> list[tuple[int, bytes]]:
    return [(record.kind, record.body) for record in records]


def written(folder: Path) -> Path:
    journal = open_journal(folder)
    for kind, body in BODIES:
        journal.append(kind, body)
    journal.close()
    return folder / "journal-1"


def reopened(folder: Path) -> tuple[Verdict, list[tuple[int, bytes]]]:
    journal = open_journal(folder)
    journal.close()
    return journal.verdict, contents(journal.records)


def scan(data: bytes, number: int = 1) -> JournalScan:
    return scan_file(data, journal_identity(CONSENSUS_JOURNAL, GENESIS, KEY), number)


def test_journal_when_new_then_empty_and_writes_nothing(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "j")
    assert journal.verdict is Verdict.EMPTY
    assert list((tmp_path / "j").iterdir()) == []
    journal.close()


def test_journal_when_reopened_then_same_records_and_sequence_goes_on(tmp_path: Path) -> None:
    written(tmp_path)
    journal = open_journal(tmp_path)
    assert journal.verdict is Verdict.SOUND
    assert contents(journal.records) == BODIES
    assert [record.sequence for record in journal.records] == [1, 2, 3, 4, 5]
    assert journal.append(4, b"next") == 6
    journal.close()
    assert reopened(tmp_path) == (Verdict.SOUND, [*BODIES, (4, b"next")])


def test_layout_when_written_then_as_specified(tmp_path: Path) -> None:
    data = written(tmp_path).read_bytes()
    assert data[:8] == b"FCJOURN1" and data[8:12] == (1).to_bytes(4, "little")
    assert data[12:44] == GENESIS and data[44:76] == KEY
    assert data[76:84] == (1).to_bytes(8, "little")
    assert HEADER_SIZE_BYTES == 88
    assert data[88:101] == b"\0\0\0\0" + b"\x01" + (1).to_bytes(8, "little")


def test_journal_when_cut_at_any_byte_then_exactly_the_complete_records(tmp_path: Path) -> None:
    data = written(tmp_path).read_bytes()
    ends = [HEADER_SIZE_BYTES]
    for _, body in BODIES:
        ends.append(ends[-1] + 17 + len(body) + 4)
    assert ends[-1] == len(data)
    for size in range(len(data)):
        whole = sum(1 for end in ends[1:] if end <= size)
        found = scan(data[:size])
        assert contents(found.records) == BODIES[:whole]
        assert found.verdict is (Verdict.SOUND if size in ends else Verdict.TORN)


def test_journal_when_cut_in_last_record_then_intact_without_it(tmp_path: Path) -> None:
    path = written(tmp_path)
    data = path.read_bytes()
    start = len(data) - 17 - len(BODIES[-1][1]) - 4
    for size in range(start + 1, len(data)):
        path.write_bytes(data[:size])
        assert reopened(tmp_path) == (Verdict.TORN, BODIES[:-1])
        assert path.stat().st_size == start
    journal = open_journal(tmp_path)
    journal.append(*BODIES[-1])
    journal.close()
    assert path.read_bytes() == data


def test_journal_when_any_bit_flips_then_never_intact_with_other_records(tmp_path: Path) -> None:
    data = written(tmp_path).read_bytes()
    outcomes = {"corrupt": 0, "doubtful": 0}
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            try:
                found = scan(bytes(flipped))
            except JournalCorrupt:
                outcomes["corrupt"] += 1
                continue
            assert found.verdict is Verdict.DOUBTFUL
            assert contents(found.records) == BODIES[:-1]
            outcomes["doubtful"] += 1
    last_body_bits = 8 * (len(BODIES[-1][1]) + 4)
    assert outcomes == {"corrupt": 8 * len(data) - last_body_bits, "doubtful": last_body_bits}


@pytest.mark.parametrize("zeros", [512, 600, 704])
def test_last_record_when_its_tail_is_zero_pages_then_torn(tmp_path: Path, zeros: int) -> None:
    journal = open_journal(tmp_path)
    journal.append(1, b"")
    journal.append(4, b"\xaa" * 700)
    journal.close()
    path = tmp_path / "journal-1"
    data = path.read_bytes()
    path.write_bytes(data[:-zeros] + bytes(zeros))
    assert reopened(tmp_path) == (Verdict.TORN, [(1, b"")])


def test_tail_when_all_zero_after_last_record_then_torn(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes() + bytes(300))
    assert reopened(tmp_path) == (Verdict.TORN, BODIES)


def test_record_when_damaged_before_the_last_then_corrupt(tmp_path: Path) -> None:
    path = written(tmp_path)
    data = bytearray(path.read_bytes())
    data[HEADER_SIZE_BYTES + 21 + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalCorrupt, match="body"):
        open_journal(tmp_path)


def test_records_when_reordered_or_repeated_then_corrupt() -> None:
    identity = journal_identity(CONSENSUS_JOURNAL, GENESIS, KEY)
    header = file_header(identity, 1)
    crc = int.from_bytes(header[-4:], "little")
    first, crc_1 = encode_record(1, 1, b"a", crc)
    second, _ = encode_record(4, 2, b"b", crc_1)
    assert len(scan(header + first + second).records) == 2
    for wrong in (header + second + first, header + first + first, header + first + second + first):
        with pytest.raises(JournalCorrupt):
            scan(wrong)
    gap, _ = encode_record(4, 3, b"b", crc_1)
    with pytest.raises(JournalCorrupt, match="sequence gap"):
        scan(header + first + gap)


@pytest.mark.parametrize("other", [{"genesis": bytes(32)}, {"key": bytes(32)}])
def test_journal_when_of_another_chain_or_key_then_refused(
    tmp_path: Path, other: dict[str, bytes]
) -> None:
    written(tmp_path)
    with pytest.raises(JournalCorrupt, match="another key, chain"):
        open_journal(tmp_path, **other)


def test_journal_when_in_use_then_locked(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    with pytest.raises(JournalLocked):
        open_journal(tmp_path)
    with pytest.raises(JournalLocked):
        archive(tmp_path)
    journal.close()
    open_journal(tmp_path).close()


def test_doubtful_record_when_found_then_doubt_lasts_until_settled(tmp_path: Path) -> None:
    path = written(tmp_path)
    data = bytearray(path.read_bytes())
    data[-10] ^= 4
    path.write_bytes(data)
    for _ in range(2):
        assert reopened(tmp_path) == (Verdict.DOUBTFUL, BODIES[:-1])
    journal = open_journal(tmp_path)
    journal.append(2, b"")
    journal.append(3, b"\x09\0\0\0")
    journal.settle_doubt()
    journal.close()
    assert reopened(tmp_path) == (Verdict.SOUND, [*BODIES[:-1], (2, b""), (3, b"\x09\0\0\0")])


def test_doubtful_first_record_when_found_then_never_looks_new(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.append(1, b"only")
    journal.close()
    path = tmp_path / "journal-1"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    for _ in range(3):
        assert reopened(tmp_path) == (Verdict.DOUBTFUL, [])


def test_rotation_when_done_then_newest_file_alone_is_read(tmp_path: Path) -> None:
    written(tmp_path)
    journal = open_journal(tmp_path)
    journal.rotate(b"base")
    journal.append(4, b"x")
    assert journal.numbers == (1, 2)
    assert contents(journal.read_older(1)) == BODIES
    journal.close()
    again = open_journal(tmp_path)
    assert [(r.kind, r.sequence) for r in again.records] == [(10, 6), (4, 7)]
    again.rotate(b"base 3")
    again.drop_older(99)
    assert again.numbers == (3,)
    again.close()
    assert reopened(tmp_path) == (Verdict.SOUND, [(10, b"base 3")])


def test_rotation_when_cut_at_any_byte_then_older_file_is_used(tmp_path: Path) -> None:
    written(tmp_path)
    journal = open_journal(tmp_path)
    journal.rotate(b"base")
    journal.close()
    path = tmp_path / "journal-2"
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        assert reopened(tmp_path) == (Verdict.SOUND, BODIES)
        assert not path.exists()


def test_j7_rotation_when_base_is_damaged_then_the_file_before_or_refused(tmp_path: Path) -> None:
    """An unsound BASE with nothing behind it was never built upon; anything else is damage."""
    written(tmp_path)
    journal = open_journal(tmp_path)
    journal.rotate(b"base")
    path = tmp_path / "journal-2"
    data = path.read_bytes()
    journal.append(4, b"built upon")
    journal.close()
    used = path.read_bytes()
    for position in range(len(used)):
        flipped = bytearray(used)
        flipped[position] ^= 1
        path.write_bytes(flipped[: len(data)] if position < len(data) else data)
        if HEADER_SIZE_BYTES + 17 <= position < len(data):
            assert reopened(tmp_path) == (Verdict.SOUND, BODIES)
            assert not path.exists()
        elif position < len(data):
            with pytest.raises(JournalCorrupt):
                open_journal(tmp_path)
        if position < len(data):
            path.write_bytes(flipped)
            with pytest.raises(JournalCorrupt):
                open_journal(tmp_path)
    (tmp_path / "journal-1").unlink()
    path.write_bytes(data[:-1] + b"?")
    with pytest.raises(JournalCorrupt, match="none is older"):
        open_journal(tmp_path)


def test_files_when_one_is_missing_in_the_middle_then_refused(tmp_path: Path) -> None:
    written(tmp_path)
    journal = open_journal(tmp_path)
    journal.rotate(b"2")
    journal.rotate(b"3")
    journal.close()
    (tmp_path / "journal-2").unlink()
    with pytest.raises(JournalCorrupt, match="missing in the middle"):
        open_journal(tmp_path)


def test_newest_file_when_without_base_and_alone_then_refused(tmp_path: Path) -> None:
    written(tmp_path)
    journal = open_journal(tmp_path)
    journal.rotate(b"2")
    journal.drop_older(2)
    journal.close()
    path = tmp_path / "journal-2"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(JournalCorrupt, match="BASE"):
        open_journal(tmp_path)


def story(folder: Path, layer: FileLayer, acknowledged: list[tuple[int, bytes]]) -> None:
    """Open, write, rotate, write; what a caller was told is durable goes to `acknowledged`."""
    folder.mkdir(exist_ok=True)
    journal = open_journal(folder, layer)
    try:
        for kind, body in BODIES[:3]:
            journal.append(kind, body)
            acknowledged.append((kind, body))
        journal.append(9, b"seen", sync=False)
        journal.append(*BODIES[3])
        acknowledged += [(9, b"seen"), BODIES[3]]
        journal.rotate(b"base")
        acknowledged[:] = [(10, b"base")]
        journal.append(*BODIES[4])
        acknowledged.append(BODIES[4])
    finally:
        try:
            with pytest.raises(JournalFailed):
                if not journal._failed:  # the story went through
                    raise JournalFailed
                journal.append(4, b"after an error")
        finally:
            journal.close()


EVERYTHING = [*BODIES[:3], (9, b"seen"), BODIES[3]]
AFTER_ROTATION = [(10, b"base"), BODIES[4]]


def check_survivors(folder: Path, acknowledged: list[tuple[int, bytes]]) -> None:
    """What was acknowledged is read back, with at most what was being written behind it."""
    verdict, found = reopened(folder)
    assert verdict in (Verdict.EMPTY, Verdict.SOUND, Verdict.TORN)
    if found[:1] == [(10, b"base")]:
        assert found == AFTER_ROTATION[: len(found)]
        assert acknowledged == EVERYTHING or found[: len(acknowledged)] == acknowledged
    else:
        assert found == EVERYTHING[: len(found)]
        assert found[: len(acknowledged)] == acknowledged


def operations(folder: Path) -> int:
    counting = CountingDisk()
    story(folder, counting, [])
    return counting.done


@pytest.mark.parametrize("code", DISK_ERRORS)
def test_disk_when_it_refuses_any_operation_then_nothing_more_is_said(
    tmp_path: Path, code: int
) -> None:
    for at in range(operations(tmp_path / "whole")):
        folder = tmp_path / f"at-{at}"
        acknowledged: list[tuple[int, bytes]] = []
        with pytest.raises(JournalFailed):
            story(folder, CountingDisk(at, raise_errno(code)), acknowledged)
        check_survivors(folder, acknowledged)


@pytest.mark.parametrize("part_bytes", [0, 1, 16, 17, 50, 230])
@pytest.mark.parametrize("disk", [ShortDisk, DyingDisk])
def test_write_when_cut_short_then_nothing_is_acknowledged(
    tmp_path: Path, disk: Callable[[int, int], FileLayer], part_bytes: int
) -> None:
    for at in range(operations(tmp_path / "whole")):
        folder = tmp_path / f"at-{at}"
        acknowledged: list[tuple[int, bytes]] = []
        with suppress(JournalFailed, Killed):  # a write shorter than the part goes through
            story(folder, disk(at, part_bytes), acknowledged)
        check_survivors(folder, acknowledged)


def test_power_when_cut_at_any_operation_then_acknowledged_records_survive(tmp_path: Path) -> None:
    for at in range(operations(tmp_path / "whole")):
        folder = tmp_path / f"at-{at}"
        folder.mkdir()
        acknowledged: list[tuple[int, bytes]] = []
        disk = PowerDisk(folder, at)
        with pytest.raises(Killed):
            story(folder, disk, acknowledged)
        disk.lose_power()
        check_survivors(folder, acknowledged)


def test_archive_when_journal_is_corrupt_then_a_new_one_can_begin(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(b"garbage" * 50)
    with pytest.raises(JournalCorrupt):
        open_journal(tmp_path)
    moved = archive(tmp_path)
    assert moved is not None and (moved / "journal-1").read_bytes() == b"garbage" * 50
    assert reopened(tmp_path) == (Verdict.EMPTY, [])
    assert archive(tmp_path) is None


def test_peg_journal_when_beside_the_other_then_own_files(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, form=PEG_JOURNAL)
    journal.append(1, b"batch")
    journal.close()
    assert (tmp_path / "pegjournal-1").read_bytes()[:8] == b"FCPEGJR1"
    assert reopened(tmp_path) == (Verdict.EMPTY, [])


def test_record_when_too_large_then_refused_and_journal_goes_on(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    with pytest.raises(ValueError, match="262145"):
        journal.append(4, bytes(262_145))
    journal.append(4, bytes(262_144))
    journal.close()
    assert reopened(tmp_path)[0] is Verdict.SOUND


def test_rotation_when_file_is_large_then_needed(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    for _ in range(64):
        assert not journal.needs_rotation
        journal.append(4, bytes(262_144), sync=False)
    assert journal.needs_rotation
    journal.rotate(b"")
    assert not journal.needs_rotation
    journal.close()


def test_blocks_when_saved_then_found_after_restart_until_forgotten(tmp_path: Path) -> None:
    one, two = b"\x01" * 32, b"\x02" * 32
    blocks = BlockFiles(tmp_path)
    blocks.save(one, b"block one")
    blocks.save(two, b"block two")
    blocks.save(two, b"ignored: known already")
    (tmp_path / f"block-{'03' * 32}.tmp").write_bytes(b"half")
    blocks = BlockFiles(tmp_path)
    assert blocks.hashes == {one, two}
    assert (blocks.load(one), blocks.load(two)) == (b"block one", b"block two")
    assert blocks.load(b"\x03" * 32) is None
    blocks.keep_only([two])
    assert BlockFiles(tmp_path).hashes == {two}


def test_blocks_when_name_was_not_synced_before_a_kill_then_synced_at_start(
    tmp_path: Path,
) -> None:
    name = b"\x07" * 32
    disk = PowerDisk(tmp_path)
    disk.at = 5  # the folder sync that ends the first save
    with pytest.raises(Killed):
        BlockFiles(tmp_path, disk).save(name, b"block")
    blocks = BlockFiles(tmp_path, disk)
    blocks.save(name, b"block")
    disk.lose_power()
    assert BlockFiles(tmp_path).load(name) == b"block"


def test_block_when_disk_fails_or_power_is_cut_then_whole_or_absent(tmp_path: Path) -> None:
    name = b"\x07" * 32
    counting = CountingDisk()
    (tmp_path / "whole").mkdir()
    BlockFiles(tmp_path / "whole", counting).save(name, b"block" * 100)
    for at in range(counting.done):
        refusing, folder = tmp_path / f"refuse-{at}", tmp_path / f"at-{at}"
        refusing.mkdir()
        folder.mkdir()
        failing = BlockFiles(refusing, CountingDisk(at, raise_errno(errno.ENOSPC)))
        with pytest.raises(JournalFailed):
            failing.save(name, b"block" * 100)
        disk = PowerDisk(folder, at)
        with pytest.raises(Killed):
            BlockFiles(folder, disk).save(name, b"block" * 100)
        disk.lose_power()
        assert BlockFiles(folder).load(name) in (None, b"block" * 100)
