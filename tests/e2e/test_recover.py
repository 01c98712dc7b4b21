"""`fedpeg member recover`: members whose folders were deleted in each stage of a payout (peg:9)."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from federation.local import LocalFederation
from federation.local_state import UpOptions
from tests.e2e.local import KEPT_AT_A_WIPE, PEG_OUT_FEE_SATS, RESET_DEPTH, Local
from tests.e2e.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

UP = ("--block-time", "0")


def recover(local: Local, *words: str) -> list[Any]:
    """Run the command; what it found of each member."""
    found: list[Any] = local.run("member", "recover", *words, "--json").json["members"]
    return found


def start_without_mempool(local: Local, *names: str) -> None:
    """bitcoind and these members alone, after `down`; what was unconfirmed is forgotten."""
    (local.data / "bitcoind" / "regtest" / "mempool.dat").unlink()
    federation = LocalFederation(local.data, lambda *_: None)
    asyncio.run(federation.start_node(UpOptions()))
    asyncio.run(federation.start_members(names))


def foreign_address(local: Local, byte: str) -> str:
    """An address of nobody's wallet: a node's wallet would remember what pays its own."""
    address: str = local.bitcoind().call("decodescript", "0014" + 20 * byte)["address"]
    return address


def is_sent(local: Local, txid: str) -> bool:
    """Whether Bitcoin's mempool has a transaction."""
    return txid in local.bitcoind().call("getrawmempool")


def test_wiped_member_when_each_stage_then_same_state_and_the_same_transaction(
    local: Local, tmp_path: Path
) -> None:
    """peg:9: before signing, signed and unconfirmed, confirmed, after a RESET."""
    local.fund("alice", "0.5")
    address = foreign_address(local, "a1")
    pegout = local.pegout("alice", address, "0.04")

    # before anything is signed; the process runs while its folder goes
    local.wipe("m1")
    (found,) = recover(local)
    assert found["member"] == "m1" and "chain" in found["lost"] and found["open_batch"] is None
    assert len(found["agrees_with"]) >= 2
    txid = local.mine_until_batched(pegout["id"])

    # signed and unconfirmed: nobody else has its share, and two are not enough
    local.run("down")
    for name in ("m0", "m2"):
        shutil.rmtree(local.folder(name) / "pegjournal")
    local.wipe("m1")
    start_without_mempool(local, "m0", "m2")
    assert not is_sent(local, txid)
    (found,) = recover(local, "m1")
    assert found["open_batch"] == txid and found["agrees_with"] == ["m0", "m2"]
    wait_for(lambda: is_sent(local, txid), "the same transaction is sent again")
    local.run("up")
    local.wait_mode("m1", "VOTING")

    # confirmed; the keys are gone as well
    local.finish_pegout(pegout["id"])
    backup = tmp_path / "keys"
    shutil.copytree(local.folder("m2") / "keys", backup)
    shutil.rmtree(local.folder("m2"))
    reason = local.run("member", "recover", "m2", code=1).stderr
    assert "keys are in neither chain" in reason and "--keys" in reason
    wrong = str(local.folder("m0") / "keys")
    assert (
        "is not the key of m2"
        in local.run("member", "recover", "m2", "--keys", wrong, code=1).stderr
    )
    (found,) = recover(local, "m2", "--keys", str(backup))
    assert {"keys/block.key", "member.json", "chain"} <= set(found["lost"])
    local.pay("alice", "alice", "0.001")

    # after a RESET
    second = local.pegout("alice", local.payout_address(), "0.03")
    local.mine_until_batched(second["id"])
    local.invalidate(local.parent_height() - RESET_DEPTH + 2)
    local.mine_empty(RESET_DEPTH + 2)
    local.wait_committed()
    local.wipe("m0")
    (found,) = recover(local)
    assert found["member"] == "m0"
    local.finish_pegout(second["id"])
    assert local.received(address) == [4_000_000 - PEG_OUT_FEE_SATS]
    assert local.audit()["equal"]
    assert "lost anything" in local.run("member", "recover", code=1).stderr


def test_all_members_wiped(local: Local) -> None:
    """peg:9: with the sidechain in one place, all rebuild the state and sign the same again."""
    local.fund("alice", "0.5")
    address = foreign_address(local, "a2")
    pegout = local.pegout("alice", address, "0.04")
    txid = local.mine_until_batched(pegout["id"])
    height = local.height()
    local.run("down")
    for name in local.names:
        for path in local.folder(name).iterdir():
            kept = (*KEPT_AT_A_WIPE, *(("chain",) if name == "m3" else ()))
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    start_without_mempool(local)
    assert not is_sent(local, txid)
    found = recover(local)
    assert [one["member"] for one in found] == local.names
    assert {one["open_batch"] for one in found} == {txid}
    assert len({one["state_digest"] for one in found}) == 1
    wait_for(lambda: is_sent(local, txid), "the same transaction is sent again")
    # none remembers what it signed, so votes need the operators' word (consensus:C76)
    assert {one["mode"] for one in found} != {"VOTING"}
    for name in local.names:
        local.run("member", "resume-at", name, str(height + 1), "--yes")
    local.run("up")
    local.finish_pegout(pegout["id"])
    assert local.received(address) == [4_000_000 - PEG_OUT_FEE_SATS]
