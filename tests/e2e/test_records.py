"""Operators at work on a running federation: pause, resume, change a value, recall a payout."""

from typing import Any

import pytest

from tests.e2e.local import Local
from tests.e2e.waiting import wait_for

pytestmark = pytest.mark.e2e

UP = ("-n", "4", "-k", "3", "--block-time", "0")


def told(local: Local, *words: str) -> Any:
    """What a command says with --json."""
    done = local.answer(*words, "--json")
    assert done.code == 0, done.stderr
    return done.json


def test_operators_stop_change_and_recall(local: Local) -> None:
    local.make_wallets("alice")
    local.fund("alice", "1.5")
    paused = told(local, "peg", "pause", "--member", "m1", "--for", "20")
    assert paused["member"] == 1
    wait_for(lambda: local.ask("getpeginfo")["pause"]["paused"], "the pause is in a block")
    refused = local.run("peg", "pause", "--member", "m1", code=1)
    assert "may pause again" in refused.stderr
    view = told(local, "peg", "out", "alice", local.payout_address(), "0.1")
    local.mine(3)
    local.wait_committed()
    assert local.ask("getpeginfo")["open_batch"] is None, "payouts stand still"

    approved = told(local, "peg", "resume", "--member", "m0")
    assert approved["approved"] == ["m0"]
    assert told(local, "approve", "list")["m0"][0]["type"] == "RESUME"
    assert local.ask("getpeginfo")["pause"]["paused"], "one operator is not enough"
    told(local, "peg", "resume")
    wait_for(lambda: not local.ask("getpeginfo")["pause"]["paused"], "three operators are")
    wait_for(lambda: told(local, "approve", "list")["m0"] == [], "the approval is used up")

    wait_for(lambda: local.ask("getpeginfo")["open_batch"], "the payout has a batch")
    anchor = local.ask("getpeginfo")["lane"]["anchor"]
    told(local, "peg", "cancel", anchor)
    wait_for(lambda: not _payouts(local), "the batch pays nobody any more")
    told(local, "peg", "param", "peg_out_fee_sats", "3000")
    wait_for(lambda: local.ask("getpeginfo")["records"][-1]["type"] == "PARAM", "a new value")
    assert "S4" in local.run("peg", "param", "peg_out_fee_sats", "19999", code=1).stderr

    local.mine_until(lambda: _is_paid(local, view), "paid in the end")
    assert local.audit()["equal"]
    bounds = told(local, "audit", "--bounds", "--within", "12")
    assert {"clock_units": 12, "loss_sats": 400_000_000} in bounds["within"]


def _is_paid(local: Local, view: dict[str, Any]) -> bool:
    return bool(told(local, "peg", "status", view["id"])["done"])


def _payouts(local: Local) -> list[str]:
    batch = local.ask("getpeginfo")["open_batch"]
    return ["nothing is open"] if batch is None else list(batch["payouts"])
