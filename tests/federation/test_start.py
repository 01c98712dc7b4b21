"""How a member starts, by journal, signer and chain (C70, J6, R6, N5, N24)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from federation.consensus.events import StartMode
from federation.consensus.records import Amnesia, Birth, VoteRecord, encode_record
from federation.consensus.votes import NO_SIGNATURE, Vote, VoteType
from federation.member_folder import take_birth_mark
from federation.signer import Signer, SignerFailed
from federation.start import (
    CannotStart,
    OpenedJournal,
    StartOptions,
    open_journal,
    open_peg_journal,
    open_signer,
    settle_mode,
)
from federation.wal import JournalLocked
from tests.federation.engine_world import Lines
from tests.federation.founded import found, member_folder

GENESIS = b"\x11" * 32
INIT, PLAIN, RESTORED = StartOptions(init=True), StartOptions(), StartOptions(restored=True)


def prevote(height: int, round_number: int = 0) -> Vote:
    return Vote(
        type=VoteType.PREVOTE,
        height=height,
        round=round_number,
        valid_round=-1,
        block_hash=bytes(32),
        member=0,
        signature=NO_SIGNATURE,
    )


class Home:
    """Member 0 of a founded federation."""

    def __init__(self, folder: Path) -> None:
        self.file = found(folder)
        self.folder = member_folder(folder, 0)
        self.entry = self.file.members[0]

    @contextmanager
    def open(self, options: StartOptions = PLAIN) -> Iterator[OpenedJournal]:
        opened = open_journal(
            self.folder, genesis=GENESIS, vote_key=self.entry.block_key[1:], options=options
        )
        try:
            yield opened
        finally:
            opened.journal.close()

    @contextmanager
    def signer(self, mode: StartMode) -> Iterator[Signer]:
        signer = open_signer(
            self.folder,
            genesis=GENESIS,
            block_key=self.entry.block_key,
            peg_key=self.entry.peg_key,
            script=self.file.fed_script(),
            mode=mode,
        )
        signer.begin_height(self.file.member_set(), bytes(32))
        try:
            yield signer
        finally:
            signer.close()

    def live(self, *heights: int, sign: int = 0) -> None:
        """A first life: BIRTH, then nil prevotes; the signer signs up to another height."""
        with self.open(INIT) as opened, self.signer(opened.mode) as signer:
            opened.journal.append(*encode_record(Birth()))
            for height in heights:
                opened.journal.append(*encode_record(VoteRecord(prevote(height), None)))
            for height in range(1, sign + 1):
                signer.sign_vote(prevote(height), None)
        take_birth_mark(self.folder)

    def damage(self, change: Any) -> None:
        path = self.folder.journal / "journal-1"
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(bytes(data))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def flip_last(data: bytearray) -> None:
    data[-1] ^= 1


def flip_middle(data: bytearray) -> None:
    data[120] ^= 1


def cut(data: bytearray) -> None:
    del data[-5:]


def test_new_key_when_told_to_be_born_then_fresh_as_long_as_the_mark_is_there(home: Home) -> None:
    for _ in range(2):  # nothing was written: it may be tried again
        with home.open(INIT) as opened:
            assert opened.mode is StartMode.FRESH
    take_birth_mark(home.folder)
    with pytest.raises(CannotStart, match="--restored"), home.open(INIT):
        pass


def test_new_key_when_not_told_to_be_born_then_amnesiac(home: Home) -> None:
    with home.open(PLAIN) as opened:
        assert opened.mode is StartMode.AMNESIAC


@pytest.mark.parametrize("options", [PLAIN, INIT])
def test_journal_when_sound_then_intact_also_with_init(home: Home, options: StartOptions) -> None:
    home.live(1, 2, sign=2)
    with home.open(options) as opened, home.signer(opened.mode) as signer:
        assert opened.mode is StartMode.INTACT
        assert opened.image.position == (2, 0, 2)
        assert settle_mode(opened, signer, 1) is StartMode.INTACT


def test_journal_when_torn_then_intact(home: Home) -> None:
    home.live(1, 2)
    home.damage(cut)
    with home.open() as opened:
        assert opened.mode is StartMode.INTACT and opened.image.position == (1, 0, 2)


def test_journal_when_corrupt_then_refused_until_restored(home: Home) -> None:
    home.live(1, 2, 3)
    home.damage(flip_middle)
    with pytest.raises(CannotStart, match="--restored"), home.open():
        pass
    with home.open(RESTORED) as opened:
        assert opened.mode is StartMode.AMNESIAC and not opened.records
    assert (home.folder.journal / "archived-journal-1" / "journal-1").exists()


def test_journal_when_it_contradicts_itself_then_refused(home: Home) -> None:
    with home.open(INIT) as opened:
        for height in (5, 4):
            opened.journal.append(*encode_record(VoteRecord(prevote(height), None)))
    with pytest.raises(CannotStart, match="contradicts"), home.open():
        pass
    with home.open(RESTORED) as opened:
        assert opened.mode is StartMode.AMNESIAC


def test_journal_when_lost_before_then_the_image_knows(home: Home) -> None:
    with home.open() as opened:
        opened.journal.append(*encode_record(Amnesia()))
    with home.open() as opened:
        assert opened.mode is StartMode.INTACT and opened.image.mode.name == "ABSTAINING"


def test_journal_when_in_use_then_locked(home: Home) -> None:
    with home.open(INIT), pytest.raises(JournalLocked), home.open():
        pass


# -- together with the signer and the chain


def test_guard_when_ahead_of_a_sound_journal_then_amnesiac(home: Home) -> None:
    home.live(1, sign=2)
    with home.open() as opened, home.signer(opened.mode) as signer:
        assert opened.mode is StartMode.INTACT
        assert settle_mode(opened, signer, 1) is StartMode.AMNESIAC


def test_guard_when_ahead_by_the_doubtful_record_then_still_doubtful(home: Home) -> None:
    home.live(1, 2, sign=2)
    home.damage(flip_last)
    with home.open() as opened, home.signer(opened.mode) as signer:
        assert opened.mode is StartMode.DOUBTFUL and opened.image.position[0] == 1
        assert settle_mode(opened, signer, 1) is StartMode.DOUBTFUL
        # the chain was lost too: no telling which height the record was of (J6)
        assert settle_mode(opened, signer, 0) is StartMode.AMNESIAC


def test_doubtful_journal_when_started_again_then_still_doubtful(home: Home) -> None:
    home.live(1, 2)
    home.damage(flip_last)
    for _ in range(2):
        with home.open() as opened:
            assert opened.mode is StartMode.DOUBTFUL


def test_guard_when_fresh_then_must_be_unused_and_when_restored_is_replaced(home: Home) -> None:
    home.live(1, sign=1)
    with pytest.raises(SignerFailed), home.signer(StartMode.FRESH):
        pass
    with home.signer(StartMode.AMNESIAC) as signer:
        assert signer.counter == 0
    (home.folder.guard).unlink()
    with pytest.raises(SignerFailed, match="--restored"), home.signer(StartMode.INTACT):
        pass


def test_peg_journal_when_damaged_then_an_alarm_and_a_new_one(home: Home) -> None:
    key, log = home.entry.block_key[1:], Lines()
    with_records = open_peg_journal(home.folder, genesis=GENESIS, vote_key=key, log=log)
    with_records.append(1, b"share")
    with_records.append(1, b"another")
    with_records.close()
    path = home.folder.peg_journal / "pegjournal-1"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))
    again = open_peg_journal(home.folder, genesis=GENESIS, vote_key=key, log=log)
    assert not again.records and log.of("peg_journal_damaged")
    again.close()
