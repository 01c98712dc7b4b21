"""Payments at a steady rate on real processes: everything final, nothing stuck, equal chains."""

import json
import signal
import subprocess
from typing import Any

import pytest

from tests.e2e.local import Local
from tests.e2e.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

UP = ("-n", "4", "--block-time", "0")
RATE, SECONDS = 40, 4
PAYMENTS = RATE * SECONDS
LOAD = ("load", "--tps", str(RATE), "--for", str(SECONDS), "--drain", "60", "--json")
OTHERS = ("--member", "m0", "--member", "m1", "--member", "m2")


def check_whole(report: dict[str, Any]) -> None:
    """Every payment is final, at the member it was sent to."""
    assert report["stuck"] == [] and report["chains_agree"]
    assert report["final"] == report["payments"] == PAYMENTS
    assert sum(member["final"] for member in report["members"].values()) == PAYMENTS
    assert None not in report["final_ms"].values()


def finish(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """The report of a load that was begun."""
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return found


def test_load_when_short_then_all_final_nothing_stuck_and_chains_equal(local: Local) -> None:
    report = local.run(*LOAD).json
    check_whole(report)
    assert set(report["members"]) == {"m0", "m1", "m2", "m3"}
    assert set(report["processes"]) >= {"m0", "m1", "m2", "m3", "bitcoind", "wallet", "load"}
    local.wait_agreed()


def test_load_when_a_member_is_frozen_then_the_others_take_everything(local: Local) -> None:
    with local.paused("m3"):
        check_whole(local.run(*LOAD, *OTHERS).json)
    local.wait_agreed()


def test_load_when_a_member_starts_again_meanwhile_then_it_catches_up(local: Local) -> None:
    local.kill("m3")
    before = local.height()
    with local.begin(*LOAD, *OTHERS) as process:
        wait_for(lambda: local.height() > before + 4, "blocks of the load")
        local.start("m3")
        check_whole(finish(process))
    local.wait_agreed()


def test_load_when_interrupted_then_ends_at_once_and_the_federation_goes_on(local: Local) -> None:
    words = ("load", "--tps", "20", "--for", "600")
    with local.begin(*words) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("sent "))
        assert "of 12000" in line
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGINT and "interrupted" in rest
    check_whole(local.run(*LOAD).json)
    local.wait_agreed()


def test_load_when_it_cannot_be_then_says_why(local: Local) -> None:
    for words, because in (
        (("--member", "m9"), "m9"),
        (("--tps", "10000", "--for", "3600"), "more than 200000"),
    ):
        done = local.answer("load", *words)
        assert done.code == 1 and done.stdout == ""
        assert done.stderr.startswith("fedpeg: ") and because in done.stderr, done.stderr
