"""Live members killed, frozen, cut off, slowed, robbed and impersonated; then all disks are read.

One federation suffers everything in turn. After each fault the members are stopped, and the checker
reads every chain and every journal, also the lost ones, without asking a member.
"""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from federation.fault_check import CheckReport, check
from federation.fault_disk import Damage
from federation.faults import Faults, LocalError
from federation.local import LocalFederation
from federation.processes import find_processes, stop_processes
from tests.e2e.local import Local
from tests.e2e.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

UP = ("--block-time", "0.3", "--allow-faults")
HOUR_S = 3_600
STOP_MS = 15_000
ALL = ("m0", "m1", "m2", "m3")


class Suffering:
    """The federation, what can be done to it, and what its disks say."""

    def __init__(self, local: Local) -> None:
        self.local = local
        self.federation = LocalFederation(local.data, lambda _, __: None)
        self.faults = Faults(self.federation)

    def height(self, name: str) -> int:
        return int(self.local.member(name).call("getblockcount"))

    def grow(self, *names: str, by: int = 2) -> None:
        """These members go on, all of them."""
        first = max(self.height(name) for name in names)
        for name in names:
            wait_for(lambda n=name: self.height(n) >= first + by, f"{name} goes on")

    def stand_still(self, *names: str, for_s: float) -> None:
        """No block becomes final at these members meanwhile, once what was under way is through."""
        before = {name: self.height(name) for name in names}
        end = time.monotonic() + for_s
        wait_for(lambda: time.monotonic() >= end, "the time is over")
        after = {name: self.height(name) for name in names}
        assert all(after[name] <= before[name] + 1 for name in names), (before, after)

    def told(self, name: str) -> list[Any]:
        """The faults that a member says are in force."""
        found: list[Any] = self.local.member(name).call("listfaults")["faults"]
        return found

    def voting(self, *names: str) -> None:
        for name in names or ALL:
            self.local.wait_mode(name, "VOTING")

    def examine(self) -> CheckReport:
        """Stop the members and read all disks."""
        members = [c for c in find_processes(self.local.data) if c.name in ALL]
        assert stop_processes(members, STOP_MS) == ()
        report = check(self.local.data)
        assert report.violations == ()
        assert set(report.tips) == set(ALL)
        assert report.votes and report.certificates and report.block_signatures
        return report


@pytest.fixture
async def suffering(local: Local) -> AsyncIterator[Suffering]:
    """The federation, healthy and at work; afterwards nothing is wrong on any disk."""
    found = Suffering(local)
    found.voting()
    yield found
    found.examine()


async def test_member_when_killed_then_the_others_go_on_and_it_comes_back(
    suffering: Suffering,
) -> None:
    async with suffering.faults.kill("m2"):
        suffering.grow("m0", "m1", "m3")
        (shown,) = await suffering.faults.active()
        assert (shown.kind, shown.members) == ("kill", ("m2",))
    suffering.voting("m2")
    suffering.grow(*ALL)


async def test_member_when_frozen_then_the_others_go_on_and_it_thaws_by_itself(
    suffering: Suffering,
) -> None:
    """SIGSTOP; the end comes from a process of the federation, not from who asked for it."""
    frozen = await suffering.faults.pause("m1", for_s=2.5).begin()
    suffering.grow("m0", "m2", "m3")
    with pytest.raises(LocalError, match="m1 is paused already"):
        await suffering.faults.pause("m1").begin()
    suffering.grow(*ALL)
    await frozen.end()
    assert await suffering.faults.active() == ()
    suffering.voting()


async def test_partition_when_neither_side_has_a_quorum_then_none_decides_until_healed(
    suffering: Suffering,
) -> None:
    async with suffering.faults.partition(["m0", "m1"], ["m2", "m3"]):
        suffering.stand_still(*ALL, for_s=2)
    suffering.grow(*ALL)
    async with suffering.faults.partition("m0,m1,m2|m3"):
        suffering.grow("m0", "m1", "m2")
        suffering.stand_still("m3", for_s=0.5)
    suffering.grow(*ALL)


async def test_partition_when_one_way_then_the_unheard_member_follows_and_the_others_go_on(
    suffering: Suffering,
) -> None:
    """consensus:10.1 scenario 8: A hears B, B does not hear A; also one-way links in a ring."""
    async with suffering.faults.one_way(["m0"], ["m1", "m2", "m3"]):
        suffering.grow(*ALL)
    ring = ("m0>m1", "m1>m2", "m2>m3", "m3>m0")
    async with suffering.faults.partition(*ring, for_s=2):
        wait_for(lambda: not suffering.told("m0"), "the ring heals by itself")
    suffering.grow(*ALL)
    suffering.voting()


async def test_member_when_slow_and_lossy_then_blocks_go_on(suffering: Suffering) -> None:
    async with (
        suffering.faults.delay("m3", delay_ms=300, jitter_ms=100),
        suffering.faults.drop("m3", percent=10),
        suffering.faults.disconnect("m0|m1"),
    ):
        suffering.grow(*ALL, by=3)
        kinds = {fault.kind for fault in await suffering.faults.active()}
        assert kinds == {"delay", "drop", "disconnect"}
    suffering.grow(*ALL)


async def test_clock_when_it_jumps_an_hour_both_ways_then_blocks_go_on(
    suffering: Suffering,
) -> None:
    """consensus:10.1 scenario 9."""
    for offset_s in (HOUR_S, -HOUR_S):
        async with suffering.faults.clock("m1", offset_s):
            suffering.grow(*ALL, by=4)  # m1 has its turn to propose
    suffering.grow(*ALL)


async def test_member_when_wiped_then_it_abstains_and_returns_without_contradiction(
    suffering: Suffering,
) -> None:
    """consensus:10.1 scenario 6."""
    await suffering.faults.wipe("m3")
    suffering.voting("m3")
    suffering.grow(*ALL)
    report = suffering.examine()
    assert report.lost_journals == 1


async def test_member_when_its_disk_is_an_old_one_then_it_finds_out_and_never_votes_twice(
    suffering: Suffering,
) -> None:
    """consensus:10.1 scenario 7."""
    await suffering.faults.snapshot("m2")
    suffering.voting("m2")
    suffering.grow(*ALL, by=5)
    await suffering.faults.restore("m2")
    started = [line for line in suffering.local.log("m2") if line["event"] == "member_started"][-1]
    assert started["start"] == "intact"  # nobody told it
    suffering.grow(*ALL)
    suffering.voting("m2")
    modes = [line for line in suffering.local.log("m2") if line["event"] == "mode"]
    assert "ABSTAINING" in [line["mode"] for line in modes if line["time"] >= started["time"]]


async def test_journal_when_damaged_then_refused_and_healed_as_restored(
    suffering: Suffering,
) -> None:
    """J5, J6: damage is refused; a doubtful last record is not."""
    done, refusal = await suffering.faults.damage_journal("m0", Damage.FLIP, at_byte=200)
    assert done.at_byte == 200 and "--restored" in refusal
    suffering.grow("m1", "m2", "m3")
    await suffering.faults.heal()
    suffering.voting("m0")
    _, refusal = await suffering.faults.damage_journal("m0", Damage.FLIP, at_byte=-1)
    assert refusal == ""
    suffering.grow(*ALL)
    suffering.voting("m0")


def test_commands_when_used_as_a_new_user_would_then_done_or_refused_with_a_reason(
    local: Local,
) -> None:
    """Text and JSON, wrong members, wrong links, a fault that ends without its command."""
    begun = local.answer("fault", "partition", "m0,m1|m2,m3", "--for", "1", "--json")
    assert (begun.code, begun.json["for_ms"], begun.json["unreached"]) == (0, 1_000, [])
    wait_for(lambda: local.answer("fault", "list", "--json").json == [], "it ends by itself")
    clock = local.answer("fault", "clock", "m2", "-3600")
    assert clock.code == 0 and "clock of m2 off by -3600 s" in clock.stdout
    (shown,) = local.answer("fault", "list", "--json").json
    assert (shown["kind"], shown["members"], shown["remaining_ms"]) == ("clock", ["m2"], None)
    for words, reason in (
        (("kill", "m9"), "no member 'm9': there are m0, m1, m2, m3"),
        (("partition", "m0>m0"), "m0 has no link to itself"),
        (("partition", "m0|"), "a group names no member"),
        (("restore", "m0"), "no snapshot of m0"),
        (("heal", "nothing"), "no fault 'nothing' is in force"),
        (("corrupt-journal", "m0", "--at", "999999999"), "none with number 999999999"),
    ):
        refused = local.answer("fault", *words)
        assert refused.code == 1 and reason in refused.stderr, (words, refused)
        assert refused.stdout == ""
    for words in (("delay", "m0"), ("drop", "m0", "--percent", "0"), ("clock", "m0", "x")):
        assert local.answer("fault", *words).code == 2
    healed = local.answer("fault", "heal", shown["id"], "--json")
    assert healed.json == {"healed": ["m2: 1 ended"]}
    assert local.answer("fault", "heal").stdout == "nothing was wrong\n"
    assert set(local.running()) == set(ALL)  # also after what was refused
    found = local.answer("fault", "check", "--json")
    assert found.code == 0 and found.json["sound"] and found.json["violations"] == []
    assert set(local.running()) == set(ALL)


async def test_liar_when_in_a_member_s_place_then_convicted_and_nothing_forks(
    suffering: Suffering,
) -> None:
    """N32; the evidence stays."""
    async with suffering.faults.equivocate("m1", seed=7):
        suffering.grow("m0", "m2", "m3", by=6)
        wait_for(
            lambda: suffering.local.member("m0").call("getfederationinfo")["evidence"],
            "m0 convicts m1",
        )
        (shown,) = await suffering.faults.active()
        assert (shown.kind, shown.members) == ("equivocate", ("m1",))
        with pytest.raises(LocalError, match="a liar runs in place of m1"):
            await suffering.faults.wipe("m1")
    suffering.voting("m1")
    suffering.grow(*ALL)
    report = suffering.examine()
    assert report.liars == ("m1",)
    accused = {
        json.loads(line)["member"]
        for name in ALL
        for line in _lines(suffering.local.folder(name) / "evidence.jsonl")
    }
    assert accused == {1}


def test_faults_when_not_allowed_then_refused_with_the_next_step(local: Local) -> None:
    """Killing needs no consent of the members; all else does."""
    local.run("down")
    local.run("up", "--no-allow-faults")
    for words in (("clock", "m1", "60"), ("partition", "m0"), ("delay", "m0", "--ms", "9")):
        refused = local.answer("fault", *words)
        assert refused.code == 1 and "was started without --allow-faults" in refused.stderr
    for name in ("wipe", "snapshot", "restore", "equivocate", "corrupt-journal"):
        refused = local.answer("fault", name, "m1")
        assert refused.code == 1 and "`fedpeg up --allow-faults`" in refused.stderr
    assert local.answer("fault", "kill", "m1", "--for", "0.2").code == 0
    wait_for(lambda: set(local.running()) == set(ALL), "m1 is started again")


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
