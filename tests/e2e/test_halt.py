"""Two blocks of one height with k signatures each, in front of real members (C60, X1)."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from federation.config import FederationFile
from federation.consensus.encoding import FrameKind
from federation.frames import PROTOCOL_VERSION, Hello
from federation.secret_key import SecretKey
from sidechain.primitives.block import Block
from sidechain.script.block_signature import signblock_witness
from tests.e2e.local import Local
from tests.e2e.test_hostile import dial, frame, port_of
from tests.e2e.waiting import wait_for

pytestmark = pytest.mark.e2e

UP = ("--block-time", "1")
VICTIM, LIAR = "m3", "m1"


def second_block(local: Local, height: int) -> tuple[FederationFile, bytes]:
    """Another block of a height, signed by members 0, 1 and 2 with their own keys."""
    federation = FederationFile.load(local.data / "federation.json")
    block_hash = local.member(VICTIM).call("getblockhash", height)
    raw = bytes.fromhex(local.member(VICTIM).call("getblock", block_hash, 0))
    block = Block.decode(raw, federation.chain_params())
    other = replace(block, header=replace(block.header, time=block.header.time + 1))
    secrets = [
        SecretKey(bytes.fromhex((local.folder(m.name) / "keys/block.key").read_text().strip()))
        for m in federation.members
    ]
    keys = [secret.public_key for secret in secrets]
    signatures = {s.public_key: s.sign_ecdsa(other.hash) for s in secrets[:3]}
    signed = other.with_signblock_witness(signblock_witness(3, keys, signatures))
    return federation, signed.serialize()


def hand_over(local: Local, federation: FederationFile, block: bytes) -> None:
    """Give the victim a final block over the liar's own link."""
    liar = next(m for m in federation.members if m.name == LIAR)
    hello = Hello(
        protocol_version=PROTOCOL_VERSION,
        genesis=federation.chain_params().genesis_hash,
        parameter_hash=federation.parameter_hash(),
        block_key=liar.block_key,
        tip_height=1,
        block_interval_ms=1_000,
        timeout_base_ms=500,
        timeout_cap_ms=10_000,
        future_limit_s=30,
    )
    with dial(port_of(local, VICTIM), local.folder(LIAR) / "keys") as connection:
        connection.sendall(frame(FrameKind.HELLO, hello.encode()) + frame(FrameKind.FINAL, block))
        connection.settimeout(5)
        deadline_s = time.monotonic() + 20
        while info(local)["mode"] != "HALTED" and time.monotonic() < deadline_s:
            connection.recv(65_536)


def info(local: Local) -> dict[str, object]:
    found: dict[str, object] = local.member(VICTIM).call("getfederationinfo")
    return found


def test_second_signed_block_halts_a_member_until_its_operator_decides(
    local: Local, tmp_path: Path
) -> None:
    height = local.height()
    federation, block = second_block(local, height)
    kept = local.member(VICTIM).call("getblockhash", height)
    hand_over(local, federation, block)
    local.wait_mode(VICTIM, "HALTED")
    shown = local.run("status").stdout
    assert "does not vote: HALTED" in shown and kept in shown and "member unhalt" in shown
    wait_for(lambda: "kept by m0" in local.run("evidence").stdout, "the evidence is gossiped")
    listed = json.loads(local.run("evidence", "--json").stdout)["evidence"]
    ours = set(local.member(VICTIM).call("getblocksigners", height, 1)[0]["signers"])
    names = {f"m{i}" for i in ours & {0, 1, 2}}
    assert {each["name"] for each in listed} == names and all(e["proved"] for e in listed)
    target, file = tmp_path / "proof.json", tmp_path / "federation.json"
    local.run("evidence", "export", listed[0]["id"], "-o", str(target))
    shutil.copy(local.data / "federation.json", file)
    verified = local.run("evidence", "verify", str(target), "--federation", str(file)).stdout
    assert "is convicted of two-blocks" in verified

    local.kill(VICTIM)
    local.run("member", "start", VICTIM)
    local.wait_mode(VICTIM, "HALTED")
    assert kept in local.run("status").stdout, "the reason survives a restart"
    at = local.height()
    wait_for(lambda: local.height() > at + 2, "the others go on")
    assert all(3 not in who for who in local.signers(at + 1, at + 2).values())

    refused = local.answer("member", "unhalt", VICTIM)
    assert refused.code == 1 and "--keep HASH" in refused.stderr and kept in refused.stderr
    refused = local.answer("member", "unhalt", VICTIM, "--keep", kept)
    assert refused.code == 1 and "--yes" in refused.stderr
    for wrong in ("nonsense", "00" * 32):
        assert local.answer("member", "unhalt", VICTIM, "--keep", wrong, "--yes").code == 1
    assert local.answer("member", "unhalt").code == 2
    assert local.answer("member", "unhalt", "m0", "--keep", kept, "--yes").code == 1
    local.run("member", "unhalt", VICTIM, "--keep", kept, "--yes")
    local.wait_mode(VICTIM, "VOTING")
    assert local.answer("member", "resume-at", VICTIM, "5", "--yes").code == 1
    assert local.answer("member", "resume-at", VICTIM, "x", "--yes").code == 2
