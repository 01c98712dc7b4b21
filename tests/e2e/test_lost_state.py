"""Members that lost something, or were away for long: they come back by themselves."""

import shutil

import pytest

from tests.e2e.local import PEG_OUT_FEE_SATS, Local
from tests.e2e.rpc import Rpc
from tests.e2e.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

UP = ("--block-time", "0")
AWAY_BLOCKS = 200
QUICK = {"min_interval_ms": 20, "timeout_base_ms": 150}
"""So that 200 blocks, every fourth without its proposer, do not take two minutes."""


def digests(local: Local) -> set[str]:
    """The peg states of all running members at the newest height; one when they agree."""
    local.audit()
    return {local.member(name).call("getpeginfo")["state_digest"] for name in local.running()}


def test_peg_journals_when_wiped_during_a_pegout_then_paid_once_and_nobody_abstains(
    local: Local,
) -> None:
    local.fund("alice", "0.5")
    address = local.payout_address()
    pegout = local.pegout("alice", address, "0.04")
    txid = local.mine_until_batched(pegout["id"])
    local.run("down")
    (local.data / "bitcoind" / "regtest" / "mempool.dat").unlink()
    for name in local.names:
        assert list((local.folder(name) / "pegjournal").iterdir())
        shutil.rmtree(local.folder(name) / "pegjournal")
    local.up()
    for name in local.names:
        local.wait_mode(name, "VOTING")
        modes = [line["mode"] for line in local.log(name) if line["event"] == "mode"]
        assert "ABSTAINING" not in modes
    assert local.mine_until_batched(pegout["id"]) == txid  # the same signatures again
    local.finish_pegout(pegout["id"])
    assert local.received(address) == [4_000_000 - PEG_OUT_FEE_SATS]
    assert len(digests(local)) == 1


def test_member_when_all_but_its_keys_is_wiped_then_it_resyncs_abstains_and_votes_again(
    local: Local,
) -> None:
    local.fund("alice", "0.5")
    address = local.payout_address()
    pegout = local.pegout("alice", address, "0.04")
    local.mine_until_batched(pegout["id"])
    local.kill("m1")
    local.wipe("m1")
    lost_at = local.height()
    local.start("m1")

    news = local.log("m1")
    started = next(line for line in news if line["event"] == "member_started")
    assert started["start"] == "amnesiac"
    assert next(line for line in news if line["event"] == "mode")["mode"] == "ABSTAINING"
    local.finish_pegout(pegout["id"])
    assert local.received(address) == [4_000_000 - PEG_OUT_FEE_SATS]

    def votes() -> bool:
        local.pay("alice", "alice", "0.001")
        return bool(local.member("m1").call("getfederationinfo")["mode"] == "VOTING")

    wait_for(votes, "m1 votes again")
    resumed_at = local.height()
    assert resumed_at >= lost_at + 1

    def proposes() -> bool:
        local.pay("alice", "alice", "0.001")
        rows = local.ask("getblocksigners", resumed_at + 1, 100)
        return any(row["proposer"] == 1 and 1 in row["signers"] for row in rows)

    wait_for(proposes, "m1 proposes again")
    assert len(digests(local)) == 1
    for name in local.names:
        assert local.member(name).call("getfederationinfo")["evidence"] == 0


def test_member_when_it_was_away_for_200_blocks_then_it_catches_up_and_votes(
    local: Local,
) -> None:
    local.make_wallets("alice")
    if local.available("alice") < 10_000_000:
        local.fund("alice", "0.5")
    local.run("down")
    for name in local.names:
        local.tune(name, **QUICK)
    local.up()
    local.kill("m3")
    left_at = local.height()
    _make_blocks(local, AWAY_BLOCKS)
    local.start("m3")
    local.wait_mode("m3", "VOTING")
    assert int(local.member("m3").call("getblockcount")) >= left_at + AWAY_BLOCKS
    back_at = local.height()

    def signs() -> bool:
        local.pay("alice", "alice", "0.0001")
        return any(3 in signers for signers in local.signers(back_at + 1, local.height()).values())

    wait_for(signs, "m3 signs again")
    assert len(digests(local)) == 1


def _make_blocks(local: Local, count: int) -> None:
    """Have the federation make that many blocks, by a payment in each."""
    member = local.member("m0")
    address = local.wallets.call("getnewaddress", "alice")
    first = height = int(member.call("getblockcount"))
    while height < first + count:
        local.wallets.call("sendtoaddress", "alice", address, "0.0001")
        height = wait_for(lambda below=height: _above(member, below), "the next block")


def _above(member: Rpc, height: int) -> int:
    found = int(member.call("getblockcount"))
    return found if found > height else 0
