"""A member set to come: its file, federation.json with it, the desk that votes (C83, V10)."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from federation.change_desk import ChangeDesk, with_changes
from federation.config import FederationFile, InvalidConfig, MemberConfig
from federation.consensus.messages import Evidence, EvidenceClass
from federation.evidence_store import EvidenceStore
from federation.founding import MemberPorts, add_member
from federation.member_change import MemberChange
from federation.member_sets import MemberSets
from federation.people import People
from federation.stranger import NotProved, Stranger
from sidechain.errors import InvalidBlock
from sidechain.primitives.block import NULL_ENTRY, ParamEntry
from sidechain.script.script import p2wsh
from tests.federation.founded import NOW_UNIX_S, entropy_of, found, member_folder


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> tuple[FederationFile, MemberChange]:
    """A federation of four, and m4 to take the place of m3."""
    folder = tmp_path_factory.mktemp("change")
    file = found(folder)
    config = MemberConfig.load(member_folder(folder, 0).path)
    joins = add_member(
        folder / "members",
        replace(config, index=4),
        "m4",
        chain_name=file.chain_name,
        ports=MemberPorts(link=25_000, rpc=25_001, esplora=25_002),
        entropy=entropy_of("joins"),
        unix_time_s=NOW_UNIX_S,
    )
    assert (folder / "members" / "m4" / "keys" / "unborn").exists()
    assert MemberConfig.load(folder / "members" / "m4").index == 4
    members = (*file.members[:3], joins)
    return file, MemberChange(not_before=20, k=3, members=members, fedpegscript=file.fedpegscript)


class FakeChain:
    """A chain of headers that only tell what they propose."""

    def __init__(self, file: FederationFile, tip: int) -> None:
        self.params = SimpleNamespace(dynamic_epoch_length=10)
        self.tip_height = tip
        self.current = replace(
            MemberChange(
                not_before=1, k=file.k, members=file.members, fedpegscript=file.fedpegscript
            ).entry()
        )
        self.proposed: dict[int, ParamEntry] = {}

    def full_current(self) -> ParamEntry:
        return self.current

    def header(self, height: int) -> Any:
        return SimpleNamespace(proposed=self.proposed.get(height, NULL_ENTRY))


def desk_of(
    folder: Path,
    file: FederationFile,
    chain: FakeChain,
    at_tip: set[int],
    learn: Callable[[MemberChange], None] = lambda change: None,
) -> ChangeDesk:
    return ChangeDesk(
        folder / "changes",
        file,
        chain,  # type: ignore[arg-type]
        own_index=0,
        at_tip=lambda: frozenset(at_tip),
        on_learn=learn,
    )


def test_change_file_when_read_back_then_the_same_and_names_the_entry(
    founded: tuple[FederationFile, MemberChange],
) -> None:
    _, change = founded
    plain = json.loads(json.dumps(change.to_json()))
    assert MemberChange.from_json(plain) == change
    entry = change.entry()
    assert entry.signblockscript == p2wsh(change.signblockscript)
    assert entry.fedpeg_program == p2wsh(entry.fedpegscript)
    assert plain["entry"]["root"] == entry.root()[::-1].hex()


@pytest.mark.parametrize("what", ["entry", "signblockscript", "k", "twice"])
def test_change_file_when_its_parts_do_not_fit_then_refused(
    founded: tuple[FederationFile, MemberChange], what: str
) -> None:
    plain = founded[1].to_json()
    if what == "entry":
        plain["entry"]["max_block_witness"] += 1
    elif what == "signblockscript":
        plain["signblockscript"] = plain["signblockscript"][:-2] + "00"
    elif what == "k":
        plain["k"] = 2
    else:
        plain["members"][3] = plain["members"][0]
    with pytest.raises(InvalidConfig):
        MemberChange.from_json(plain)


def test_federation_file_when_it_names_a_change_then_the_parameter_hash_stays(
    founded: tuple[FederationFile, MemberChange], tmp_path: Path
) -> None:
    file, change = founded
    changed = replace(file, changes=(change,))
    changed.save(tmp_path / "federation.json")
    read = FederationFile.load(tmp_path / "federation.json")
    assert read == changed and read.parameter_hash() == file.parameter_hash()
    assert [entry.name for entry in read.people] == ["m0", "m1", "m2", "m3", "m4"]
    moved = read.at_ports({0: 26_000, 4: 26_004})
    assert moved.people[4].port == moved.changes[0].members[3].port == 26_004
    assert moved.changes[0].entry() == change.entry()


def test_federation_file_when_a_change_cannot_follow_then_refused(
    founded: tuple[FederationFile, MemberChange],
) -> None:
    file, change = founded
    joins = change.members[3]
    wrong = {
        "fewer": replace(change, members=change.members[:3]),
        "other k": replace(change, k=4),
        "index of another": replace(change, members=(*change.members[:3], replace(joins, index=3))),
        "gap": replace(change, members=(*change.members[:3], replace(joins, index=5))),
        "name of another": replace(
            change, members=(*change.members[:3], replace(joins, name="m3"))
        ),
        "key of who leaves": replace(
            change, members=(*change.members[:3], replace(joins, peg_key=file.members[3].peg_key))
        ),
    }
    for what, each in wrong.items():
        with pytest.raises(InvalidConfig, match="changes"):
            replace(file, changes=(each,)).check(allow_no_byzantine_safety=False)
        assert what


def test_desk_when_conditions_of_c83_hold_then_proposes_and_only_then(
    founded: tuple[FederationFile, MemberChange], tmp_path: Path
) -> None:
    file, change = founded
    chain, at_tip, learnt = FakeChain(file, 5), {1}, list[MemberChange]()
    desk = desk_of(tmp_path, file, chain, at_tip, learnt.append)
    assert desk.to_propose() is None and not desk.is_approved(change.entry())
    desk.approve(change.to_json())
    assert learnt == [change] and desk.is_approved(change.entry())
    assert not desk.is_approved(replace(change.entry(), witness_limit=1))
    assert desk.to_propose() is None and "before 20" in desk.status()["waits_for"]
    chain.tip_height = 10
    assert desk.to_propose() is None and "m2, m4" in desk.status()["waits_for"]
    at_tip.add(4)
    assert desk.to_propose() == change.entry()
    at_tip.remove(1)
    assert desk.to_propose() is None


def test_desk_when_started_again_then_the_approval_and_who_joins_are_known(
    founded: tuple[FederationFile, MemberChange], tmp_path: Path
) -> None:
    file, change = founded
    chain = FakeChain(file, 12)
    desk_of(tmp_path, file, chain, {1, 2}).approve(change.to_json())
    known = with_changes(file, tmp_path / "changes")
    assert known.changes == (change,) and len(known.people) == 5
    again = desk_of(tmp_path, known, chain, {1, 2})
    assert again.to_propose() == change.entry()
    chain.current = change.entry()
    again.on_final()
    assert again.approved is None and again.to_propose() is None
    assert with_changes(file, tmp_path / "changes").changes == (change,)
    with pytest.raises(InvalidConfig, match="in force already"):
        again.approve(change.to_json())


def test_desk_when_revoked_or_another_file_is_approved_then_the_first_counts_no_more(
    founded: tuple[FederationFile, MemberChange], tmp_path: Path
) -> None:
    file, change = founded
    chain = FakeChain(file, 12)
    desk = desk_of(tmp_path, file, chain, {1, 2})
    desk.approve(change.to_json())
    other = replace(change, members=(change.members[3], *change.members[:3]))
    desk.approve(other.to_json())
    assert desk.approved == other and not desk.is_approved(change.entry())
    assert desk.revoke() and not desk.revoke()
    assert desk_of(tmp_path, file, chain, {1, 2}).approved is None


def test_desk_when_the_file_changes_the_fedpegscript_then_refused(
    founded: tuple[FederationFile, MemberChange], tmp_path: Path
) -> None:
    file, change = founded
    desk = desk_of(tmp_path, file, FakeChain(file, 12), {1, 2})
    other = replace(change, fedpegscript=change.fedpegscript[:-1] + b"\x00")
    with pytest.raises(InvalidConfig, match="fedpegscript"):
        desk.approve(other.to_json())
    assert desk.approved is None


def test_desk_when_blocks_vote_then_the_tally_of_the_epoch_is_shown(
    founded: tuple[FederationFile, MemberChange], tmp_path: Path
) -> None:
    file, change = founded
    chain = FakeChain(file, 24)
    chain.proposed = {19: change.entry(), 21: change.entry(), 23: change.entry()}
    shown = desk_of(tmp_path, file, chain, set()).status()
    assert shown["tally"] == {change.entry().root()[::-1].hex(): 2} and shown["needed"] == 8
    assert shown["epoch"] == {"first": 20, "last": 29, "blocks": 5}
    assert shown["members"] == ["m0", "m1", "m2", "m3"]


def test_changes_folder_when_a_file_is_damaged_then_the_member_does_not_start(
    founded: tuple[FederationFile, MemberChange], tmp_path: Path
) -> None:
    file, _ = founded
    (tmp_path / "changes").mkdir()
    (tmp_path / "changes" / "x.json").write_text('{"change": {}}')
    with pytest.raises(InvalidConfig, match="approved"):
        with_changes(file, tmp_path / "changes")


def test_sets_and_people_when_a_change_is_learnt_then_they_grow(
    founded: tuple[FederationFile, MemberChange],
) -> None:
    file, change = founded
    sets, people = MemberSets(file.signblockscript), People(file.people)
    keys = people.block_keys
    with pytest.raises(InvalidBlock, match="unknown-signblockscript"):
        sets.of(change.entry().signblockscript)
    sets.learn(change.signblockscript)
    assert sets.of(change.entry().signblockscript).members == change.member_set()
    assert [peer.index for peer in people.learn(change)] == [4] and people.learn(change) == []
    assert keys[4] == change.members[3].block_key and len(people.peers()) == 5
    with pytest.raises(ValueError, match="not a k-of-n"):
        sets.learn(os.urandom(8))


def test_stranger_when_the_file_names_the_later_set_then_judges_by_it(
    founded: tuple[FederationFile, MemberChange],
) -> None:
    file, change = founded
    stranger = Stranger.of(replace(file, changes=(change,)))
    plain = {
        "genesis": stranger.params.genesis_hash.hex(),
        "parameter_hash": file.parameter_hash().hex(),
    }
    assert stranger.check_origin(plain) is stranger
    later = stranger.check_origin(plain | {"params_root": change.entry().root().hex()})
    assert later.names == ("m0", "m1", "m2", "m4") and later.members == change.member_set()
    assert later.verifier().check_message(3, bytes(32), bytes(64)).good is False
    with pytest.raises(NotProved, match="does not give"):
        Stranger.of(file).check_origin(plain | {"params_root": change.entry().root().hex()})


def test_evidence_when_frames_are_of_who_joined_then_kept_under_its_own_key(
    founded: tuple[FederationFile, MemberChange], tmp_path: Path
) -> None:
    file, change = founded
    store = EvidenceStore(
        tmp_path / "evidence.jsonl",
        genesis=bytes(32),
        parameter_hash=file.parameter_hash(),
        members=file.member_set(),
        now_ms=lambda: 0,
        members_at=lambda height: change.member_set() if height >= 20 else file.member_set(),
    )
    joins = change.members[3].block_key
    assert store.add_frames(4, 21, 9, b"a", b"b", block_key=joins)
    assert store.all()[0]["block_key"] == joins.hex()
    votes = Evidence(EvidenceClass.DOUBLE_VOTE, b"c", b"d")
    assert store.add(3, 19, votes) and store.add(3, 20, votes)
    keys = [line["block_key"] for line in store.all()[1:]]
    assert keys == [file.members[3].block_key.hex(), joins.hex()]
