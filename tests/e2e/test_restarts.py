"""Everything may end at any moment: the federation, its Bitcoin node, the command that waits."""

import json
from collections.abc import Callable

import pytest

from tests.e2e.local import PEG_OUT_FEE_SATS, Local
from tests.e2e.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

UP = ("--block-time", "0")
RUNS_MAX = 20


def test_pegin_when_all_restart_at_every_stage_then_one_claim(local: Local) -> None:
    local.make_wallets("alice")
    pegin = local.pegin("alice", "0.5")
    _restart(local, local.kill_everything)  # the deposit is in no block yet
    local.wait_pegin(pegin["id"], "funded")
    local.mine(3)
    local.wait_committed()
    local.wait_pegin(pegin["id"], "confirming")
    _restart(local, lambda: local.run("down"))
    local.mine_until(lambda: local.pegin_view(pegin["id"])["claim_txid"], "the claim is made")
    _restart(local, local.kill_everything)
    final = local.finish_pegin(pegin["id"])
    assert final["deposit"] == pegin["deposit"]
    assert len(local.claims(final["deposit"])) == 1
    assert local.received(final["address"]) == [50_000_000]
    assert 0 < 50_000_000 - local.available("alice") < 10_000
    assert local.audit()["equal"]


def test_pegout_when_all_restart_at_every_stage_then_one_payment(local: Local) -> None:
    local.make_wallets("alice")
    if local.available("alice") < 10_000_000:
        local.fund("alice", "0.5")
    address = local.payout_address()
    begun = local.wallets.call("pegout", "alice", address, "0.04", True)
    _restart(local, local.kill_everything)  # the burn may be in no block yet
    wait_for(lambda: local.pegout_view(begun["id"])["height"], "the burn is final")
    _restart(local, lambda: local.run("down"))
    local.mine_until_batched(begun["id"])
    _restart(local, local.kill_everything)
    local.mine_until_batched(begun["id"])
    local.mine()
    assert local.received(address) == [4_000_000 - PEG_OUT_FEE_SATS]
    _restart(local, local.kill_everything)  # paid, but not committed to
    local.finish_pegout(begun["id"])
    assert local.received(address) == [4_000_000 - PEG_OUT_FEE_SATS]
    assert len([b for b in local.ask("listpegouts") if b["address"] == address]) == 1
    audit = local.audit()
    assert audit["equal"] and audit["unpaid_sats"] == 0 and audit["halts"] == []


def _restart(local: Local, stop: Callable[[], object]) -> None:
    """All processes end and start; the chain goes on where it was."""
    height = local.height()
    known = local.ask("getblockhash", height)
    stop()
    assert not local.processes()
    local.up()
    assert local.ask("getblockhash", height) == known
    for name in local.names:
        local.wait_mode(name, "VOTING")


def test_pegin_when_the_waiting_command_is_killed_at_each_stage_then_one_deposit(
    local: Local,
) -> None:
    command = ("peg", "in", "0.07", "--to", "alice", "--wait", "--json")
    local.make_wallets("alice")
    known = len(local.wallets.call("listpegins"))
    final = _killed_at_each_line(local, command, "final")
    assert final["stage"] == "final"
    pegins = local.wallets.call("listpegins")
    assert [pegin["id"] for pegin in pegins[known:]] == [final["id"]]
    assert local.received(final["address"]) == [7_000_000]
    assert len(local.claims(final["deposit"])) == 1


def test_pegout_when_the_waiting_command_is_killed_at_each_stage_then_one_burn(
    local: Local,
) -> None:
    if local.available("alice") < 50_000_000:
        local.fund("alice", "0.5")
    address = local.payout_address()
    known = len(local.wallets.call("listpegouts"))
    command = ("peg", "out", "alice", address, "0.26", "--wait", "--json")
    final = _killed_at_each_line(local, command, "CONFIRMED")
    pegouts = local.wallets.call("listpegouts")
    assert [pegout["id"] for pegout in pegouts[known:]] == [final["id"]]
    local.finish_pegout(final["id"])
    assert local.received(address) == [26_000_000 - PEG_OUT_FEE_SATS]
    assert len([b for b in local.ask("listpegouts") if b["address"] == address]) == 1


def _killed_at_each_line(local: Local, command: tuple[str, ...], last: str) -> dict[str, object]:
    """Run a command again and again, each time killed at the first news, until it ends."""
    seen: set[str] = set()
    with local.begin(*command) as process:
        process.kill()  # before it said anything
    for _ in range(RUNS_MAX):
        with local.begin(*command) as process:
            assert process.stdout is not None
            for line in process.stdout:
                view = json.loads(line)
                stage = view["stage"]
                if stage not in seen and not stage.startswith(last):
                    seen.add(stage)
                    process.kill()
                    break
            else:
                assert process.wait() == 0
                assert len(seen) >= 3, seen
                found: dict[str, object] = view
                return found
    raise AssertionError(f"{command} did not end in {RUNS_MAX} runs; stages seen: {seen}")


def test_bitcoind_when_killed_during_a_pegin_then_the_federation_goes_on_and_it_ends(
    local: Local,
) -> None:
    local.fund("alice", "0.5")
    pegin = local.pegin("alice", "0.1")
    local.mine(3)
    parent_tip = local.bitcoind().call("getbestblockhash")
    _lose_bitcoind(local)
    assert local.bitcoind().call("getbestblockhash") == parent_tip
    local.finish_pegin(pegin["id"])
    assert len(local.claims(pegin["deposit"])) == 1
    assert local.audit()["equal"]


def test_bitcoind_when_killed_while_a_batch_is_unconfirmed_then_paid_once(local: Local) -> None:
    local.fund("alice", "0.5")
    address = local.payout_address()
    pegout = local.pegout("alice", address, "0.04")
    local.mine_until_batched(pegout["id"])
    _lose_bitcoind(local)
    wait_for(lambda: local.bitcoind().call("getrawmempool"), "members send the batch again")
    local.finish_pegout(pegout["id"])
    assert local.received(address) == [4_000_000 - PEG_OUT_FEE_SATS]
    assert local.audit()["equal"]


def _lose_bitcoind(local: Local) -> None:
    """SIGKILL to the node: payments go on without it, and nobody is blamed."""
    before = local.processes()
    local.kill("bitcoind")
    for name in local.names:
        member = local.member(name)
        wait_for(
            lambda member=member: not member.call("getfederationinfo")["parent"]["healthy"],
            f"{name} misses its bitcoind",
        )
    local.pay("alice", "alice", "0.01")
    local.up()
    after = local.processes()
    del before["bitcoind"], after["bitcoind"]
    assert after == before  # nobody else was restarted
    for name in local.names:
        info = local.member(name).call("getfederationinfo")
        assert all(member["connected"] for member in info["members"])
        assert (info["mode"], info["evidence"], info["refused_connections"]) == ("VOTING", 0, 0)
