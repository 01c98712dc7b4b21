"""Whatever ends a command, no process is left behind, and the data folder opens again."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.local import Local
from tests.e2e.processes import processes_of, processes_under
from tests.e2e.waiting import wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

UP = ("-n", "2", "-k", "2", "--block-time", "0")
DEMO_MAX_S = 60
MOMENTS = (
    (signal.SIGINT, "making keys"),
    (signal.SIGTERM, "starting m0"),
    (signal.SIGINT, "waiting for the block that opens"),
    (signal.SIGTERM, "deposit has 1 of"),
    (signal.SIGINT, "starting m2"),
    (signal.SIGTERM, "in a batch"),
)


@pytest.mark.parametrize(("number", "moment"), MOMENTS)
def test_demo_when_interrupted_leaves_no_process_and_a_folder_that_opens(
    new_local: Callable[[], Local], number: signal.Signals, moment: str
) -> None:
    local = new_local()
    _interrupt(local, ("demo", "--data", str(local.data)), moment, number)
    local.run("up")
    local.up()
    assert local.height() > 0
    local.run("down")
    assert processes_of(local.data) == {}


def _interrupt(local: Local, command: tuple[str, ...], moment: str, number: signal.Signals) -> None:
    """Run a command and signal it once it has said something, as Ctrl-C in a terminal would."""
    with local.begin(*command) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if moment in line:
                break
        assert moment in said, said
        os.killpg(process.pid, number)
        rest = process.stdout.read()
        assert process.wait() == 128 + number, said + rest
        assert "Traceback" not in rest
    assert processes_of(local.data) == {}


def test_up_when_interrupted_leaves_no_process_and_goes_on_when_run_again(
    new_local: Callable[[], Local],
) -> None:
    local = new_local()
    for number, moment in ((signal.SIGTERM, "starting Bitcoin"), (signal.SIGINT, "funding")):
        _interrupt(local, ("up", *UP), moment, number)
    local.run("up")
    local.up()
    assert local.run("doctor", code=None).code == 0


def test_demo_when_killed_then_down_ends_what_it_started(new_local: Callable[[], Local]) -> None:
    local = new_local()
    with local.begin("demo", "--data", str(local.data)) as process:
        assert process.stdout is not None
        assert any("deposit has" in line for line in process.stdout)
        process.kill()
    assert {"bitcoind", "m0", "m1", "m2", "m3", "wallet"} <= set(local.processes())
    local.run("down")
    assert processes_of(local.data) == {}
    local.run("up")


def test_demo_when_it_ends_well_leaves_nothing_at_all(
    new_local: Callable[[], Local], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = new_local().run("demo")
    assert "equal to the satoshi" in done.stdout
    assert "no process is left" in done.stdout
    passed = [float(found) for found in re.findall(r"^ *([\d.]+) s  ", done.stdout, re.MULTILINE)]
    assert passed[-1] < DEMO_MAX_S
    assert list(tmp_path.iterdir()) == []
    assert processes_under(tmp_path) == {}


def test_down_leaves_no_process_and_up_goes_on_with_the_same_chain(local: Local) -> None:
    local.fund("alice", "0.5")
    height, genesis = local.height(), local.ask("getblockhash", 0)
    tip = local.ask("getblockhash", height)
    stopped = local.run("down", "--json").json["stopped"]
    assert sorted(stopped) == ["bitcoind", "m0", "m1", "wallet"]
    assert processes_of(local.data) == {}
    assert "nothing was running" in local.run("down").stdout

    local.run("up")
    wait_for(lambda: local.height() >= height, "the chain is there")
    assert (local.ask("getblockhash", 0), local.ask("getblockhash", height)) == (genesis, tip)
    local.pay("alice", "alice", "0.001")
