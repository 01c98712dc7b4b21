"""One member is replaced on a running federation: then the new one signs (C80 to C86)."""

from typing import Any

import pytest

from tests.e2e.local import Local
from tests.e2e.waiting import wait_for

pytestmark = pytest.mark.e2e

UP = ("--block-time", "0.5")
OLD, NEW = ["m0", "m1", "m2", "m3"], ["m0", "m1", "m2", "m4"]


def in_force(local: Local) -> Any:
    """Names of the set in force, as m1 sees it."""
    return local.member("m1").call("getchange")["members"]


def test_member_change_when_voted_for_then_the_new_set_signs_and_goes_on(local: Local) -> None:
    local.run("wallet", "create", "alice")
    assert "no member 'm9'" in local.run("federation", "propose", "--replace", "m9", code=1).stderr
    made = local.run("federation", "propose", "--replace", "m3", "--json").json
    assert made["joins"] == "m4" and in_force(local) == OLD
    voted = local.run("federation", "vote", made["file"], "--json").json
    assert set(voted["members"]) == {"m0", "m1", "m2", "m3", "m4"}
    wait_for(lambda: in_force(local) == NEW, "the new set is in force")

    local.run("member", "stop", "m3")
    local.kill("m0")
    border = local.member("m1").call("getblockcount")
    wait_for(lambda: local.member("m1").call("getblockcount") >= border + 6, "blocks without m0")
    signers = local.signers(border + 3, border + 5)
    assert all(found == [1, 2, 3] for found in signers.values())  # index 3 is m4 now
    pegin = local.run("peg", "in", "0.2", "--to", "alice", "--wait", "--json").json
    assert pegin["stage"] == "final"

    local.start("m0")
    local.wait_mode("m0", "VOTING")
    local.start("m3")
    local.wait_mode("m3", "VOTING")
    assert local.member("m3").call("getfederationinfo")["member"] is None
    assert local.run("status").stdout.count("observes: it is not in the set") == 1
    local.kill("m4")
    local.start("m4")
    local.wait_mode("m4", "VOTING")
    assert local.member("m4").call("getfederationinfo")["member"] == 3
    assert local.audit()["equal"]
    address = local.payout_address()
    local.run("peg", "out", "alice", address, "0.05")
    local.mine_until(lambda: local.received(address), "the payout")
