"""Members whose keys are in processes of their own: killed, frozen, rolled back (consensus:9)."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.local import PEG_OUT_FEE_SATS, Local
from tests.e2e.processes import send
from tests.e2e.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

UP = ("--block-time", "0.5", "--signers")
CHUNK_BYTES = 1 << 20


def memory_holds(pid: int, secret: bytes) -> bool:
    """Whether the bytes are anywhere in the writable memory of a process."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, mode = line.split()[:2]
            if not mode.startswith("rw") or "[v" in line:
                continue
            start, end = (int(word, 16) for word in span.split("-"))
            tail = b""
            for at in range(start, end, CHUNK_BYTES):
                try:
                    memory.seek(at)
                    piece = memory.read(min(CHUNK_BYTES, end - at))
                except OSError:
                    break
                if secret in tail + piece:
                    return True
                tail = piece[-len(secret) :]
    return False


def signer_info(local: Local, name: str) -> dict[str, Any]:
    found: dict[str, Any] = local.member(name).call("getfederationinfo")["signer"]
    return found


def blocks_signed_by(local: Local, index: int, since: int) -> bool:
    height = local.height()
    return height > since and any(index in s for s in local.signers(since + 1, height).values())


def test_pegs_when_keys_are_in_signers_then_they_work_and_no_member_has_a_key(
    local: Local,
) -> None:
    local.fund("alice", "0.5")
    address = local.payout_address()
    burnt = local.pegout("alice", address, "0.04")
    local.finish_pegout(burnt["id"])
    assert local.received(address) == [4_000_000 - PEG_OUT_FEE_SATS]
    running = local.processes()
    for name in local.names:
        for key in ("block.key", "peg.key"):
            secret = bytes.fromhex((local.folder(name) / "keys" / key).read_text().strip())
            assert memory_holds(running[f"{name}-signer"], secret)
            assert not memory_holds(running[name], secret)
    status = local.run("signer", "status", "--json").json["signers"]
    assert [entry["pid"] for entry in status] == [running[f"{n}-signer"] for n in local.names]


def test_signer_when_killed_then_it_is_started_again_and_its_member_signs_on(
    local: Local,
) -> None:
    before = local.processes()
    send(before["m1-signer"], signal.SIGKILL)
    wait_for(
        lambda: local.processes().get("m1-signer", before["m1-signer"]) != before["m1-signer"],
        "another signer runs",
    )
    wait_for(lambda: signer_info(local, "m1")["connected"], "m1 has it back")
    height = local.height()
    wait_for(lambda: blocks_signed_by(local, 1, height), "m1 signs blocks")
    assert local.processes()["m1"] == before["m1"]


def test_signer_when_frozen_then_nothing_is_signed_the_member_says_so_and_goes_on_after(
    local: Local,
) -> None:
    pid = local.processes()["m2-signer"]
    send(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: not signer_info(local, "m2")["connected"], "m2 notices")
        height = local.height()
        wait_for(lambda: local.height() > height + 3, "the others go on")
        assert not blocks_signed_by(local, 2, height)
        assert local.run("doctor", code=1).stdout.count("nothing is signed") == 1
        assert "nothing signed" in local.run("status").stdout
    finally:
        send(pid, signal.SIGCONT)
    wait_for(lambda: signer_info(local, "m2")["connected"], "m2 has its signer back")
    height = local.height()
    wait_for(lambda: blocks_signed_by(local, 2, height), "m2 signs blocks")
    assert local.processes()["m2-signer"] == pid


def test_member_when_killed_then_its_signer_ends_and_both_are_back_after_the_next_start(
    local: Local,
) -> None:
    local.run("member", "kill", "m3")
    assert not {"m3", "m3-signer"} & set(local.processes())
    local.run("member", "start", "m3")
    local.wait_mode("m3", "VOTING")
    height = local.height()
    wait_for(lambda: blocks_signed_by(local, 3, height), "m3 signs blocks")


def test_r6_guard_when_rolled_back_then_its_member_abstains_until_it_is_safe(
    local: Local,
) -> None:
    guard = local.folder("m0") / "signer" / "guard"
    older = guard.read_bytes()
    height = local.height()
    wait_for(lambda: local.height() > height + 2, "the guard has moved on")
    local.run("member", "stop", "m0")
    guard.write_bytes(older)
    height = local.height()
    local.run("member", "start", "m0")
    local.wait_mode("m0", "VOTING")
    signed = local.run("signer", "status", "m0", "--json").json["signers"][0]
    assert signed["vote_from"] > height
    wait_for(lambda: blocks_signed_by(local, 0, signed["vote_from"]), "m0 signs blocks")


def test_everything_when_taken_down_then_no_signer_is_left_and_the_form_can_change(
    local: Local,
) -> None:
    assert len(local.processes()) == 2 + 2 * len(local.names)
    local.run("down")
    assert not local.processes()
    local.run("up", "--no-signers")
    assert len(local.processes()) == 2 + len(local.names)
    height = local.height()
    wait_for(lambda: blocks_signed_by(local, 1, height), "m1 signs blocks itself")
    refused = local.run("signer", "status", code=1)
    assert "fedpeg up --signers" in refused.stderr
    local.run("down")
    shutil.rmtree(local.folder("m1") / "journal")
    local.run("up", "--signers")  # with the old memory's place taken by a new one (R7)
    local.wait_mode("m1", "VOTING")
    height = local.height()
    wait_for(lambda: blocks_signed_by(local, 1, height), "m1 signs blocks again")
