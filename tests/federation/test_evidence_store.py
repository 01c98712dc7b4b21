"""Evidence on disk: once, bounded, readable after crashes; a full disk costs the line only."""

import json
from pathlib import Path

import pytest

from federation.canonical import canonical_json
from federation.consensus.messages import Evidence, EvidenceClass
from federation.evidence_store import (
    EVIDENCE_MAX,
    HOUR_MS,
    PER_MEMBER_AND_HOUR_MAX,
    EvidenceStore,
)
from federation.files import FileLayer
from federation.members import MemberSet
from sidechain.crypto.keys import public_key
from tests.factories import secret
from tests.federation.disks import DISK_ERRORS, CountingDisk, ShortDisk, raise_errno

MEMBERS = MemberSet.of(tuple(public_key(secret(f"block {i}")) for i in range(4)), 3)
DOUBLE = Evidence(EvidenceClass.DOUBLE_VOTE, b"first", b"second")
BLOCKS = Evidence(EvidenceClass.TWO_BLOCKS, b"first", b"second")


class Clock:
    now_ms = 0


def open_store(folder: Path, clock: Clock | None = None, layer: FileLayer | None = None):  # type: ignore[no-untyped-def]
    clock = clock or Clock()
    return EvidenceStore(
        folder / "evidence.jsonl",
        genesis=b"\x11" * 32,
        parameter_hash=b"\x22" * 32,
        members=MEMBERS,
        now_ms=lambda: clock.now_ms,
        layer=layer,
    )


def test_evidence_when_added_then_kept_once_for_member_height_and_class(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert store.add(1, 5, DOUBLE)
    assert not store.add(1, 5, DOUBLE)
    assert store.add(1, 5, BLOCKS) and store.add(1, 6, DOUBLE) and store.add(2, 5, DOUBLE)
    assert store.is_known(1, 5, DOUBLE) and not store.is_known(3, 5, DOUBLE)
    again = open_store(tmp_path)
    assert again.all() == store.all() and len(again) == 4
    assert not again.add(2, 5, DOUBLE)


def test_line_when_read_by_a_stranger_then_canonical_json_with_all_he_needs(tmp_path: Path) -> None:
    open_store(tmp_path).add(2, 9, DOUBLE)
    path = tmp_path / "evidence.jsonl"
    line = path.read_bytes()
    plain = json.loads(line)
    assert line == canonical_json(plain) + b"\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert plain["genesis"] == "11" * 32 and plain["parameter_hash"] == "22" * 32
    assert plain["block_key"] == MEMBERS.members[2].block_key.hex()
    assert (plain["member"], plain["height"], plain["class"]) == (2, 9, 1)
    assert bytes.fromhex(plain["first"]) == b"first"


def test_one_member_when_it_has_much_then_ten_an_hour(tmp_path: Path) -> None:
    clock = Clock()
    store = open_store(tmp_path, clock)
    added = [store.add(1, height, DOUBLE) for height in range(PER_MEMBER_AND_HOUR_MAX + 2)]
    assert added == [True] * PER_MEMBER_AND_HOUR_MAX + [False] * 2
    assert not store.has_room(1) and store.has_room(2)
    clock.now_ms = HOUR_MS
    assert store.has_room(1) and store.add(1, 99, DOUBLE)


def test_store_when_full_then_the_first_are_kept(tmp_path: Path) -> None:
    clock = Clock()
    store = open_store(tmp_path, clock, NoSync())
    for number in range(EVIDENCE_MAX):
        clock.now_ms += HOUR_MS
        assert store.add(number % 4, number, DOUBLE)
    clock.now_ms += HOUR_MS
    assert not store.has_room(0) and not store.add(0, EVIDENCE_MAX, DOUBLE)


class NoSync(FileLayer):
    """Waits for no disk."""

    def sync_data(self, descriptor: int) -> None:
        pass


@pytest.mark.parametrize(
    "tail", [b'{"class":1,"fir', b"\xff\xfe\n", b"[]\n", b'{"member":1}\n', b"1e400\n", b"null\n"]
)
def test_file_when_torn_or_strange_then_the_rest_is_read_and_more_can_be_added(
    tmp_path: Path, tail: bytes
) -> None:
    open_store(tmp_path).add(1, 5, DOUBLE)
    path = tmp_path / "evidence.jsonl"
    path.write_bytes(path.read_bytes() + tail)
    store = open_store(tmp_path)
    assert len(store) == 1
    store.add(2, 6, DOUBLE)
    assert [(e["member"], e["height"]) for e in open_store(tmp_path).all()] == [(1, 5), (2, 6)]


@pytest.mark.parametrize("code", DISK_ERRORS)
@pytest.mark.parametrize("at", range(4))
def test_disk_when_it_refuses_then_the_evidence_is_shown_and_the_file_stays_whole(
    tmp_path: Path, code: int, at: int
) -> None:
    open_store(tmp_path).add(1, 5, DOUBLE)
    before = (tmp_path / "evidence.jsonl").read_bytes()
    store = open_store(tmp_path, layer=CountingDisk(at, raise_errno(code)))
    try:
        store.add(2, 6, DOUBLE)
    except OSError:
        assert (tmp_path / "evidence.jsonl").read_bytes() == before
    else:
        assert at == 3
    assert store.is_known(2, 6, DOUBLE) and len(store) == 2


def test_write_when_short_then_taken_back(tmp_path: Path) -> None:
    open_store(tmp_path).add(1, 5, DOUBLE)
    before = (tmp_path / "evidence.jsonl").read_bytes()
    with pytest.raises(OSError, match="short"):
        open_store(tmp_path, layer=ShortDisk(1, 10)).add(2, 6, DOUBLE)
    assert (tmp_path / "evidence.jsonl").read_bytes() == before
