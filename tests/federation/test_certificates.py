"""Own certificates for challengers (C57), and how long journals are kept (N25)."""

import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from federation.certificates import (
    HELD_MAX,
    KEPT_HEIGHTS,
    KEPT_S,
    REQUESTS_BURST,
    CertificateArchive,
)
from federation.consensus.messages import GetCertificate
from federation.consensus.records import (
    BlockSigRecord,
    JournalImage,
    JournalRecord,
    VoteRecord,
    encode_record,
)
from federation.consensus.votes import NO_SIGNATURE, Certificate, Vote, VoteType
from federation.files import FileLayer
from federation.wal import Journal
from tests.federation.engine_world import Lines

NOW_S = 1_800_000_000


def certificate(kind: VoteType, height: int) -> Certificate:
    return Certificate(
        type=kind,
        height=height,
        round=0,
        block_hash=height.to_bytes(32, "big"),
        votes=tuple((member, -1, bytes(64)) for member in range(3)),
    )


def records_of(height: int) -> tuple[JournalRecord, ...]:
    """What a member writes at one height: a locking precommit and a block signature."""
    pol, commit = certificate(VoteType.PREVOTE, height), certificate(VoteType.PRECOMMIT, height)
    vote = Vote(
        type=VoteType.PRECOMMIT,
        height=height,
        round=0,
        valid_round=-1,
        block_hash=pol.block_hash,
        member=1,
        signature=NO_SIGNATURE,
    )
    return VoteRecord(vote, pol), BlockSigRecord(height, pol.block_hash, commit)


def ask(kind: VoteType, height: int, round_number: int = 0) -> GetCertificate:
    return GetCertificate(
        type=kind, height=height, round=round_number, block_hash=height.to_bytes(32, "big")
    )


class Quick(FileLayer):
    """Waits for no disk."""

    def sync_data(self, descriptor: int) -> None:
        pass


class Stage:
    """A journal that grows, with its archive."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = Journal.open(folder, genesis=b"\1" * 32, key=b"\2" * 32, layer=Quick())
        self.image = JournalImage()
        self.sent: list[tuple[int, Certificate]] = []
        self.work: list[Coroutine[Any, Any, None]] = []
        self.now_ms = 0
        self.now_s = NOW_S
        self.log = Lines()
        self.archive = self.new_archive()

    def new_archive(self) -> CertificateArchive:
        return CertificateArchive(
            self.journal,
            send=lambda to, found: self.sent.append((to, found)),
            spawn=self.work.append,
            now_ms=lambda: self.now_ms,
            unix_time_s=lambda: self.now_s,
            log=self.log,
        )

    def write(self, first: int, last: int, *, rotate: bool = False, age_s: int = 0) -> None:
        """Write some heights; with `rotate` into a new file; the file before gets an age."""
        if rotate:
            _, body = encode_record(self.image.base())
            self.journal.rotate(body)
            path = self.folder / f"journal-{self.journal.numbers[-2]}"
            os.utime(path, (self.now_s - age_s,) * 2)
        for height in range(first, last + 1):
            records = records_of(height)
            for record in records:
                self.image.apply(record)
                self.journal.append(*encode_record(record), sync=False)
            self.archive.note(records)

    async def ask(self, kind: VoteType, height: int, member: int = 1) -> Certificate | None:
        self.now_ms += 10_000
        self.sent.clear()
        self.archive.answer(member, ask(kind, height))
        for task in self.work:
            await task
        self.work.clear()
        return self.sent[0][1] if self.sent else None


@pytest.fixture
def stage(tmp_path: Path) -> Any:
    stage = Stage(tmp_path / "journal")
    yield stage
    stage.journal.close()


async def test_certificate_when_of_an_own_record_then_sent_from_memory(stage: Stage) -> None:
    stage.write(1, 3)
    for kind in (VoteType.PREVOTE, VoteType.PRECOMMIT):
        assert await stage.ask(kind, 2) == certificate(kind, 2)
    assert await stage.ask(VoteType.PREVOTE, 9) is None
    stage.archive.answer(1, ask(VoteType.PREVOTE, 2, round_number=1))
    for task in stage.work:
        await task
    assert not stage.sent


async def test_certificate_when_no_longer_in_memory_then_found_in_the_right_file(
    stage: Stage,
) -> None:
    stage.write(1, 10)
    stage.write(11, 20, rotate=True)
    stage.write(21, 30, rotate=True)
    stage.archive = stage.new_archive()
    opened: list[int] = []
    real = stage.journal.read_older

    def watch(number: int) -> Any:
        opened.append(number)
        return real(number)

    stage.journal.read_older = watch  # type: ignore[method-assign]
    for height, number in ((1, 1), (10, 1), (11, 2), (20, 2), (21, 3), (30, 3)):
        found = await stage.ask(VoteType.PRECOMMIT, height)
        assert found == certificate(VoteType.PRECOMMIT, height)
        assert opened.pop() == number and not opened


async def test_search_when_one_runs_then_no_second_and_floods_are_not_answered(
    stage: Stage,
) -> None:
    stage.write(1, 5)
    stage.archive = stage.new_archive()
    for _ in range(10):
        stage.archive.answer(1, ask(VoteType.PREVOTE, 3))
    assert len(stage.work) == 1
    await stage.work.pop()
    assert len(stage.sent) == 1
    stage.archive.note(records_of(3))
    stage.sent.clear()
    for _ in range(100):
        stage.archive.answer(1, ask(VoteType.PREVOTE, 3))
        stage.archive.answer(2, ask(VoteType.PREVOTE, 3))
    answered = [to for to, _ in stage.sent]
    assert answered.count(2) == REQUESTS_BURST and answered.count(1) == REQUESTS_BURST - 10


async def test_file_when_damaged_then_no_answer_and_no_crash(stage: Stage) -> None:
    """A bit that rots in an old file is no way to end the process from outside."""
    stage.write(1, 10)
    stage.write(11, 20, rotate=True)
    path = stage.folder / "journal-1"
    data = bytearray(path.read_bytes())
    data[400] ^= 1
    path.write_bytes(bytes(data))
    stage.archive = stage.new_archive()
    assert await stage.ask(VoteType.PREVOTE, 4) is None
    assert stage.log.of("journal_not_readable")
    assert await stage.ask(VoteType.PREVOTE, 14) == certificate(VoteType.PREVOTE, 14)
    path.unlink()
    assert await stage.ask(VoteType.PREVOTE, 4) is None


async def test_memory_when_much_was_signed_then_bounded(stage: Stage) -> None:
    for height in range(1, HELD_MAX):
        stage.archive.note(records_of(height))
    assert len(stage.archive._held) == HELD_MAX
    assert len(stage.archive.commits()) == HELD_MAX // 2
    stage.archive.note([stage.image.base()])


async def test_base_when_read_at_start_then_its_certificates_are_known(stage: Stage) -> None:
    stage.write(1, 3)
    stage.archive = stage.new_archive()
    stage.archive.note([stage.image.base()])
    assert [c.height for c in stage.archive.commits()] == [3]


# -- retention


async def test_files_when_young_or_near_then_kept(stage: Stage) -> None:
    stage.write(1, 10)
    stage.write(11, 20, rotate=True, age_s=KEPT_S)
    stage.write(21, 30, rotate=True, age_s=KEPT_S - 1)
    stage.archive.drop_old(10 + KEPT_HEIGHTS - 1)
    assert stage.journal.numbers == (1, 2, 3)  # height 10 is not 1,000 back yet
    stage.archive.drop_old(10 + KEPT_HEIGHTS)
    assert stage.journal.numbers == (2, 3)
    stage.archive.drop_old(100_000)
    assert stage.journal.numbers == (2, 3)  # 48 hours have not passed
    stage.now_s += 1
    stage.archive.drop_old(100_000)
    assert stage.journal.numbers == (3,)
    stage.archive.drop_old(10**9)
    assert stage.journal.numbers == (3,)


async def test_file_when_its_follower_is_damaged_then_nothing_is_dropped(stage: Stage) -> None:
    stage.write(1, 10)
    stage.write(11, 20, rotate=True, age_s=KEPT_S)
    stage.write(21, 30, rotate=True, age_s=KEPT_S)
    path = stage.folder / "journal-2"
    path.write_bytes(bytes(path.stat().st_size))
    stage.archive.drop_old(100_000)
    assert stage.journal.numbers == (1, 2, 3)


async def test_journal_when_empty_then_nothing_to_drop(stage: Stage) -> None:
    stage.archive.drop_old(5_000)
    assert await stage.ask(VoteType.PREVOTE, 1) is None
