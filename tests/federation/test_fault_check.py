"""The checker on disks: it reads live, archived and lost journals, and refuses running members."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from federation.consensus.records import Amnesia, Birth, JournalRecord, VoteRecord, encode_record
from federation.consensus.votes import Certificate, Vote, VoteType
from federation.fault_check import CheckReport, _Check, check
from federation.fault_disk import Damage, FaultFolder
from federation.fault_verdicts import BlockOnDisk, ChainOnDisk
from federation.local_state import LocalError, LocalFolder, LocalMember, LocalState, Stage
from federation.member_folder import MemberFolder
from federation.wal import Journal
from sidechain.chain import Chain
from tests.federation.founded import found

A, B = b"\x0a" * 32, b"\x0b" * 32


class Disks:
    """A founded federation of four whose members never ran; journals are written by the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = found(path)
        self.params = self.file.chain_params()
        members = tuple(LocalMember(name=f"m{i}", index=i, port=1, rpc_port=2) for i in range(4))
        state = LocalState(
            chain="fedpeg-test",
            n=4,
            k=3,
            block_time_ms=0,
            members=members,
            bitcoind_rpc_port=3,
            wallet_rpc_port=4,
            stage=Stage.OPEN,
        )
        LocalFolder(path).save(state)
        self.faults = FaultFolder(LocalFolder(path))
        for member in members:
            Chain.open(self.member(member.name).chain, self.params).close()

    def member(self, name: str) -> MemberFolder:
        return MemberFolder(LocalFolder(self.path).member(name))

    def write(self, name: str, *records: JournalRecord) -> None:
        """Append records to a member's journal."""
        index = int(name[1:])
        key = self.file.members[index].block_key[1:]
        journal = Journal.open(self.member(name).journal, genesis=self.params.genesis_hash, key=key)
        for record in records:
            journal.append(*encode_record(record))
        journal.close()

    def violations(self) -> tuple[str, ...]:
        return check(self.path).violations


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    return Disks(tmp_path)


def prevote(member: int, block_hash: bytes, height: int = 1) -> Vote:
    return Vote(
        type=VoteType.PREVOTE,
        height=height,
        round=0,
        valid_round=-1,
        block_hash=block_hash,
        member=member,
        signature=bytes(64),
    )


def test_disks_when_nothing_is_wrong_then_sound_and_counted(disks: Disks) -> None:
    disks.write("m0", Birth(), VoteRecord(prevote(0, A), None))
    disks.write("m1", Birth())
    report = check(disks.path)
    assert report.is_sound and report.votes == 1
    assert report.tips == {f"m{i}": 0 for i in range(4)}
    assert json.loads(json.dumps(report.to_json()))["sound"] is True
    assert isinstance(report, CheckReport) and report.lost_journals == 0


def test_disks_when_a_lost_journal_says_otherwise_then_told(disks: Disks) -> None:
    """What was wiped is remembered: a member that votes again where it voted before is caught."""
    disks.write("m2", Birth(), VoteRecord(prevote(2, A), None))
    disks.faults.wipe("m2")
    disks.write("m2", Birth(), VoteRecord(prevote(2, B), None))
    (told,) = disks.violations()
    assert "m2 signed 2 things as PREVOTE of height 1 round 0" in told
    assert "faults/lost/m2-1-wiped" in told and "members/m2/journal" in told


def test_disks_when_an_archived_journal_says_otherwise_then_told(disks: Disks) -> None:
    disks.write("m2", Birth(), VoteRecord(prevote(2, A), None))
    folder = disks.member("m2").journal
    (folder / "archived-journal-1").mkdir()
    (folder / "journal-1").rename(folder / "archived-journal-1" / "journal-1")
    disks.write("m2", Amnesia(), VoteRecord(prevote(2, B, height=2), None))
    (told,) = disks.violations()
    assert "m2 voted at height 2 while it had to abstain" in told
    disks.write("m2")
    assert len(disks.violations()) == 1


def test_disks_when_a_certificate_is_forged_then_told(disks: Disks) -> None:
    votes = tuple((member, -1, bytes(64)) for member in (0, 1, 2))
    forged = Certificate(type=VoteType.PREVOTE, height=1, round=0, block_hash=A, votes=votes)
    precommit = replace(prevote(3, A), type=VoteType.PRECOMMIT)
    disks.write("m3", Birth(), VoteRecord(precommit, forged))
    assert any("does not verify" in told for told in disks.violations())


def test_disks_when_a_live_journal_is_damaged_then_told_and_a_lost_one_is_a_note(
    disks: Disks,
) -> None:
    disks.write("m1", Birth(), VoteRecord(prevote(1, A), None))
    path = disks.member("m1").journal / "journal-1"
    path.write_bytes(path.read_bytes()[:95] + b"?" + path.read_bytes()[96:])
    (told,) = disks.violations()
    assert "members/m1/journal/journal-1 cannot be read" in told
    disks.faults.wipe("m1")
    report = check(disks.path)
    assert report.is_sound
    assert any("faults/lost/m1-1-wiped" in note for note in report.notes)


def test_disks_when_there_is_evidence_then_only_liars_may_be_accused(disks: Disks) -> None:
    line = {"member": 1, "height": 5, "class": 1, "first": "00", "second": "01"}
    line |= {"genesis": "00", "parameter_hash": "00", "block_key": "00"}
    (disks.member("m0").path / "evidence.jsonl").write_text(json.dumps(line) + "\n")
    assert disks.violations() == ("m0 holds evidence against m1 at height 5",)
    disks.write("m1", Birth())
    assert disks.faults.keep_journal("m1", disks.member("m1").journal, "twin")
    report = check(disks.path)
    assert report.is_sound and report.liars == ("m1",)


def test_disks_when_a_chain_cannot_be_read_then_told(disks: Disks) -> None:
    for path in disks.member("m3").chain.glob("MANIFEST*"):
        path.write_bytes(b"no manifest")
    assert any("the chain of m3 cannot be read" in told for told in disks.violations())


def grown(disks: Disks, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain of one member is read as one of seven blocks, which nobody judges."""
    read = _Check._chain

    def chain(self: _Check, whose: str) -> ChainOnDisk | None:
        found = read(self, whose)
        block = BlockOnDisk(height=1, hash=A, previous=B, signers=(0, 1, 2))
        return replace(found, blocks=(block,) * 7) if found and whose == name else found

    monkeypatch.setattr(_Check, "_chain", chain)
    monkeypatch.setattr("federation.fault_check.judge_chains", lambda *_: {})


def test_disks_when_a_member_has_blocks_and_no_journal_then_told(
    disks: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown(disks, "m2", monkeypatch)
    disks.write("m0", Birth())
    assert disks.violations() == ("m2 has a chain of height 7 and no journal",)
    disks.write("m2", Birth())
    assert disks.violations() == ()


def test_disks_when_a_fault_took_the_journal_then_its_absence_is_a_note(
    disks: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown(disks, "m2", monkeypatch)
    disks.write("m2", Birth())
    disks.faults.damage_journal("m2", Damage.REMOVE, at_byte=None, seed=1)
    report = check(disks.path)
    assert report.is_sound and "m2 has a chain of height 7 and no journal" in report.notes
    assert "m1 has a chain of height 0 and no journal" in report.notes


def test_disks_when_there_are_none_then_not_sound(disks: Disks) -> None:
    for name in ("m0", "m1", "m2", "m3"):
        shutil.rmtree(disks.member(name).path)
    (told,) = disks.violations()
    assert "nothing to judge" in told


def test_check_when_there_is_no_federation_then_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="no federation in"):
        check(tmp_path)


def test_check_when_members_run_then_refused(disks: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    class Running:
        name = "m2"

    monkeypatch.setattr("federation.fault_check.find_processes", lambda _: (Running(),))
    with pytest.raises(LocalError, match="m2 must not run"):
        check(disks.path)
