"""Real processes on a real file system that takes no more bytes (consensus:10.1, 12; J4, C40).

The limit of file sizes (RLIMIT_FSIZE) of a running process is set just above what its file has, so
the next write is cut short by the system or refused.
"""

import resource
from pathlib import Path
from typing import Any

import pytest

from federation.consensus.records import decode_record, restore
from federation.journal_format import Verdict, journal_identity
from federation.wal import CONSENSUS_JOURNAL, scan_file
from tests.e2e.local import Local
from tests.e2e.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

UP = ("--block-time", "0.5", "--signers")


def limit(pid: int, size_bytes: int) -> None:
    """No file of this process grows beyond so many bytes from now on."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, size_bytes))


def journal_of(local: Local, name: str) -> Path:
    """The newest journal file of a member."""
    files = [p for p in (local.folder(name) / "journal").iterdir() if p.name.startswith("journal-")]
    return max(files, key=lambda path: int(path.name.split("-")[1]))


def image_of(local: Local, name: str) -> Any:
    """The journal's verdict, and what its sound records say."""
    path = journal_of(local, name)
    data = path.read_bytes()
    identity = journal_identity(CONSENSUS_JOURNAL, data[12:44], data[44:76])
    scan = scan_file(data, identity, int(path.name.split("-")[1]))
    return scan.verdict, restore(decode_record(r.kind, r.body) for r in scan.records)


def goes_on(local: Local, name: str) -> None:
    """Start it again: intact, and it signs blocks."""
    local.run("member", "start", name)
    local.wait_mode(name, "VOTING")
    starts = [line for line in local.log(name) if line["event"] == "member_started"]
    assert starts[-1]["start"] == "intact"
    index, height = local.names.index(name), local.height()

    def has_signed() -> bool:
        tip = local.height()
        return tip > height and any(
            index in signers for signers in local.signers(height + 1, tip).values()
        )

    wait_for(has_signed, f"{name} signs blocks")


@pytest.mark.parametrize("room_bytes", [0, 5, 60])
def test_journal_when_a_write_is_cut_by_the_system_then_the_member_ends_and_is_intact_after(
    local: Local, room_bytes: int
) -> None:
    pid = local.processes()["m1"]
    limit(pid, journal_of(local, "m1").stat().st_size + room_bytes)
    wait_for(lambda: "m1" not in local.processes(), "m1 ends")
    assert not {"m1", "m1-signer"} & set(local.processes())
    # its log takes nothing any more either: the reason is on its standard error
    words = (local.folder("m1") / "output.log").read_text()
    assert "journal" in words.lower() or "File too large" in words
    verdict, image = image_of(local, "m1")
    assert verdict in (Verdict.SOUND, Verdict.TORN)
    position = image.position
    goes_on(local, "m1")
    assert image_of(local, "m1")[1].position > position


def test_guard_when_the_signer_cannot_write_it_then_both_end_and_are_intact_after(
    local: Local,
) -> None:
    limit(local.processes()["m2-signer"], 10)
    wait_for(lambda: not {"m2", "m2-signer"} & set(local.processes()), "m2 and its signer end")
    reasons = [line["reason"] for line in local.log("m2") if line["event"] == "member_stopped"]
    assert "SignerFailed" in reasons[-1]
    height = local.height()
    wait_for(lambda: local.height() > height + 1, "the others go on")
    goes_on(local, "m2")
