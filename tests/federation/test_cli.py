"""The command `fedpeg`: exit codes, reasons, output for programs; a walk on real parts."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from federation.cli import main, program
from federation.cli_logs import follow_logs, print_logs
from federation.cli_session import Amount, Interrupted, default_data, run_async, show_btc
from federation.cli_tables import (
    audit_text,
    balance_text,
    blocks_table,
    history_line,
    is_exact,
)
from federation.cli_wait import describe_pegin, describe_pegout
from federation.processes import find_processes, kill_processes

BURN = "ab" * 32 + ":0"
COMMANDS = (
    "up",
    "down",
    "status",
    "env",
    "emergency export",
    "emergency plan",
    "emergency send",
    "emergency sign",
    "fault check",
    "fault clock",
    "fault corrupt-journal",
    "fault delay",
    "fault disconnect",
    "fault drop",
    "fault equivocate",
    "fault heal",
    "fault kill",
    "fault list",
    "fault partition",
    "fault pause",
    "fault restore",
    "fault snapshot",
    "fault wipe",
    "federation propose",
    "federation status",
    "federation vote",
    "logs",
    "member start",
    "member stop",
    "member kill",
    "member recover",
    "member unhalt",
    "member resume-at",
    "mine",
    "wallet create",
    "wallet restore",
    "wallet list",
    "wallet balance",
    "wallet address",
    "wallet history",
    "wallet descriptor",
    "wallet watch",
    "wallet pset create",
    "wallet pset show",
    "wallet pset sign",
    "wallet pset combine",
    "wallet pset finalize",
    "wallet pset send",
    "bench catchup",
    "certificate show",
    "certificate verify",
    "evidence list",
    "evidence show",
    "evidence export",
    "evidence verify",
    "asset issue",
    "asset reissue",
    "asset burn",
    "asset list",
    "asset label",
    "faucet",
    "peg in",
    "peg out",
    "peg status",
    "peg address",
    "peg register",
    "signer status",
    "peg pause",
    "peg resume",
    "peg cancel",
    "peg exclude",
    "peg include",
    "peg release",
    "peg reopen",
    "peg return",
    "peg param",
    "approve list",
    "approve show",
    "approve record",
    "approve revoke",
    "pay",
    "audit show",
    "audit report",
    "audit reports",
    "audit verify",
    "receipt verify",
    "receipt headers",
    "blocks",
    "doctor",
    "bench chain",
    "bench latency",
    "bench peg",
    "load",
    "demo",
)
WITHOUT_A_FEDERATION = ("signer run", "sim")
"""Commands that know no data folder of a federation."""
PEGIN_STAGES = ("address", "funded", "confirming", "claimable", "claim_sent")
NEED_A_FEDERATION = (
    "down",
    "status",
    "env",
    "emergency export x.json",
    "logs",
    "member start m0",
    "member stop m0",
    "member kill m0",
    "member recover",
    "member recover m0",
    "mine 1",
    "peg pause",
    "peg resume",
    "peg cancel",
    f"peg exclude {BURN}",
    f"peg release {BURN}",
    "peg param large_delay 4",
    "approve list",
    "approve 4650520103",
    "audit --bounds",
    "audit report",
    "audit reports",
    "wallet create a",
    "wallet list",
    "wallet balance a",
    "wallet address a",
    "wallet history a",
    "wallet descriptor a",
    "wallet watch a elwpkh()",
    "wallet pset create a x 1",
    "asset issue a 1",
    "asset reissue a gold 1",
    "asset burn a gold 1",
    "asset list a",
    "asset label gold silver",
    "faucet x 1",
    "peg in 1 --to a",
    "peg in --address --to a",
    "peg out a x 1",
    "peg status",
    "pay a b 1",
    "audit",
    "blocks",
    "load",
)
WRONG_USAGE = (
    "nonsense",
    "peg exclude x",
    "peg exclude",
    "peg param large_delay -1",
    "peg pause --for 0",
    "approve record zz",
    "audit --within 5",
    "peg status --receipt x",
    "receipt verify",
    "receipt verify nowhere",
    "receipt headers",
    "receipt headers -o x --from -1",
    "receipt headers -o x --bitcoind http://127.0.0.1:1",
    "audit report --height 0",
    "audit report --height x",
    "audit verify",
    "audit verify nowhere",
    "audit verify pyproject.toml --bitcoind http://127.0.0.1:1",
    "audit verify pyproject.toml --bitcoind x --bitcoind-cookie pyproject.toml",
    "audit verify pyproject.toml --bitcoind http://a:b@127.0.0.1:1 --bitcoind-cookie README.md",
    "audit verify pyproject.toml --member http://127.0.0.1:1",
    "audit verify pyproject.toml --member http://127.0.0.1:1 --member-cookie README.md --chain .",
    "load --tps 0",
    "load --for x",
    "load --for 0",
    "load --wallets 0",
    "mine",
    "mine 0",
    "mine x",
    "mine 1 2",
    "up -n 0",
    "up -n 16",
    "up --block-time -1",
    "peg in --to a",
    "peg in 1 --address --to a",
    "peg in 0 --to a",
    "peg in 1e8 --to a",
    "pay a b",
    "asset issue a 0",
    "wallet pset combine",
    "wallet pset sign a",
    "asset issue a 1 --tokens x",
    "asset burn a gold",
    "wallet restore a --mnemonic-file /nonexistent",
    "pay a b 0.000000001",
    "pay a b 21000001",
    "faucet x ,1",
    "blocks -n 0",
    "member start",
)


# ---- without a federation ----


@pytest.mark.parametrize("words", COMMANDS)
def test_help_when_asked_then_shown_and_done(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--json" in shown
    assert "--data" in shown


def test_commands_when_listed_then_every_one_is_known() -> None:
    def walk(group: click.Group, prefix: str) -> Iterator[str]:
        for name, found in group.commands.items():
            if isinstance(found, click.Group):
                yield from walk(found, f"{prefix}{name} ")
            else:
                yield f"{prefix}{name}"

    assert sorted(walk(program, "")) == sorted((*COMMANDS, *WITHOUT_A_FEDERATION))


@pytest.mark.parametrize("words", NEED_A_FEDERATION)
def test_command_when_there_is_no_federation_then_refused_with_what_to_do(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words.split(), "--data", str(tmp_path / "none")]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "fedpeg up" in shown.err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("words", WRONG_USAGE)
def test_command_when_used_wrongly_then_two(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = words.split()
    data = [] if words == "nonsense" else ["--data", str(tmp_path / "none")]
    assert main([*arguments, *data]) == 2
    assert capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_data_when_not_named_then_from_environment_or_home(tmp_path: Path) -> None:
    assert default_data({"FEDPEG_DATA": "/x"}) == Path("/x")
    assert default_data({"XDG_DATA_HOME": str(tmp_path)}) == tmp_path / "fedpeg"
    assert default_data({}) == Path.home() / ".local" / "share" / "fedpeg"


@pytest.mark.parametrize(
    ("text", "sats"),
    [
        ("1", 100_000_000),
        ("0.4", 40_000_000),
        ("0.00000001", 1),
        ("21000000", 2_100_000_000_000_000),
    ],
)
def test_amount_when_decimal_then_exact(text: str, sats: int) -> None:
    assert Amount().convert(text, None, None) == sats
    assert Amount().convert(show_btc(sats), None, None) == sats


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "+1", " 1", "1.", ".5", "1,0", "1e2", "0x1", "1.000000000", "٣", "NaN"]
)
def test_amount_when_anything_else_then_refused(text: str) -> None:
    with pytest.raises(click.UsageError):
        Amount().convert(text, None, None)


def test_signal_when_it_comes_then_command_is_cancelled_and_cleaned_up() -> None:
    cleaned: list[bool] = []

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    with pytest.raises(Interrupted) as caught:
        run_async(work())
    assert caught.value.signal_number == signal.SIGTERM
    assert cleaned


# ---- words and tables ----


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("address", "waiting for a deposit"),
        ("funded", "mempool"),
        ("confirming", "2 of 6"),
        ("claimable", "deep enough"),
        ("claim_sent", "waits for a sidechain block"),
        ("final", "minted 0.5 in sidechain block 9"),
        ("failed", "failed (too old)"),
    ],
)
def test_pegin_when_at_a_stage_then_described(stage: str, words: str) -> None:
    view = {
        "stage": stage,
        "address": "bcrt1x",
        "deposit": "ab:0",
        "confirmations": 2,
        "required": 6,
        "claim_txid": "cd",
        "amount_sats": 50_000_000,
        "height": 9,
        "reason": "too old" if stage == "failed" else "",
    }
    assert words in describe_pegin(view)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("created", "no member has taken it"),
        ("sent", "waits for a sidechain block"),
        ("final", "burned in sidechain block 9"),
        ("DELAYED", "held back"),
        ("READY", "in the queue"),
        ("BATCHED", "waits for Bitcoin"),
        ("CONFIRMED", "paid on Bitcoin: ef"),
        ("HELD_OVERSIZE", "larger than any payout may be now"),
        ("failed", "failed"),
    ],
)
def test_pegout_when_at_a_stage_then_described(stage: str, words: str) -> None:
    payout = {"txid": "ef"} if stage == "CONFIRMED" else None
    view = {"stage": stage, "burn": "ab:0", "height": 9, "reason": "", "payout": payout}
    assert words in describe_pegout(view)


def audit(**changes: Any) -> dict[str, Any]:
    """A sound audit with changes."""
    names = (
        "circulating_sats",
        "unpaid_sats",
        "pending_fee_sats",
        "suspense_sats",
        "liabilities_sats",
        "pool_sats",
        "reserve_sats",
        "difference_sats",
    )
    sound = dict.fromkeys(names, 0)
    return {
        **sound,
        "equal": True,
        "solvent": True,
        "halts": [],
        "height": 5,
        "committed_height": 130,
        **changes,
    }


def test_audit_when_anything_is_wrong_then_not_exact() -> None:
    assert is_exact(audit())
    assert "equal to the satoshi" in audit_text(audit())
    for changes in ({"equal": False}, {"solvent": False}, {"halts": ["X5"]}):
        assert not is_exact(audit(**changes))
        assert "DIFFER" in audit_text(audit(**changes))


def test_blocks_when_signers_are_shown_then_each_has_a_column() -> None:
    rows = [
        {"height": 1, "hash": "aa", "round": 2, "proposer": 3, "signers": [0, 2, 3]},
        {"height": 2, "hash": "bb", "round": None, "proposer": None, "signers": [1, 2, 3]},
    ]
    lines = blocks_table(rows, ["m0", "m1", "m2", "m3"], signers=True).splitlines()
    assert lines[1].split() == ["1", "2", "m3", "x", ".", "x", "x"]
    assert lines[2].split() == ["2", "?", "?", ".", "x", "x", "x"]
    assert blocks_table([], ["m0"], signers=True) == "no blocks yet"


def test_balance_when_there_are_assets_then_bitcoin_first_and_the_rest_by_name() -> None:
    def held(sats: int, label: str | None, pending: int = 0) -> dict[str, Any]:
        names = {"label": label, "asset": "ab" * 32}
        return {**names, "available_sats": sats, "pending_in_sats": pending}

    found = {
        "assets": [held(5, "bitcoin", 10**8), held(7 * 10**8, "gold"), held(1, None)],
        "unknown_outputs": 2,
    }
    assert balance_text(found).splitlines() == [
        "0.00000005 (and 1 coming in)",
        "7 gold",
        f"0.00000001 {'ab' * 32}",
        "2 outputs that this wallet cannot open",
    ]
    assert balance_text({"assets": [held(0, "bitcoin")], "unknown_outputs": 0}) == "0"


def test_history_when_an_asset_moved_then_named_behind_the_bitcoin() -> None:
    moved = {"asset": "cd" * 32, "label": "gold", "amount_sats": -5 * 10**8}
    entry = {
        "time": 1_700_000_000,
        "height": 7,
        "amount_sats": -26,
        "category": "send",
        "txid": "aa" * 32,
        "assets": [{"asset": "ab" * 32, "label": "bitcoin", "amount_sats": -26}, moved],
        "other_assets": {"cd" * 32: -5 * 10**8},
    }
    line = history_line(entry)
    assert line.split()[2:] == ["send", "-0.00000026", "block", "7", "aa" * 32, "-5", "gold"]
    assert history_line({**entry, "assets": []}).endswith("aa" * 32)


def test_logs_when_several_then_in_order_of_time_and_readable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    line = (
        '{{"time":"2026-01-01T00:00:0{}.000Z","level":"{}","event":"e{}","process":"{}","h":1}}\n'
    )
    first.write_text(line.format(1, "info", 1, "m0") + line.format(3, "error", 3, "m0"))
    second.write_text(line.format(2, "info", 2, "m1") + "torn li")
    ends = print_logs({"m0": first, "m1": second}, 10, as_json=False)
    shown = capsys.readouterr().out.splitlines()
    assert [re.search(r"e\d", text)[0] for text in shown] == ["e1", "e2", "e3"]  # type: ignore[index]
    assert "ERROR" in shown[2]
    assert "h=1" in shown[0]
    assert ends["m1"] == len(second.read_bytes()) - len("torn li")
    print_logs({"m0": first}, 1, as_json=True)
    assert json.loads(capsys.readouterr().out)["event"] == "e3"


async def test_logs_when_followed_then_only_new_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a"
    path.write_text("old\n")
    ends = print_logs({"m0": path}, 0, as_json=False)
    path.write_text("old\nnew\n")
    seen = ""
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        task = group.create_task(follow_logs({"m0": path}, ends, as_json=False))
        while "new" not in seen:
            await asyncio.sleep(0)
            seen += capsys.readouterr().out
        task.cancel()
    assert "old" not in seen


# ---- on a real federation ----


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs the command as a user would."""

    data: Path

    def popen(self, *words: str) -> subprocess.Popen[str]:
        """Start a command with JSON output."""
        return subprocess.Popen(
            [sys.executable, "-m", "federation.cli", *words, "--data", str(self.data), "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def lines(self, *words: str, code: int = 0) -> list[dict[str, Any]]:
        """All JSON lines of a command."""
        with self.popen(*words) as process:
            out, err = process.communicate(timeout=120)
        assert process.returncode == code, (words, out, err)
        if code:
            assert err.startswith("fedpeg: "), err
        return [json.loads(line) for line in out.splitlines()]

    def run(self, *words: str) -> dict[str, Any]:
        """The result of a command that succeeds."""
        return self.lines(*words)[-1]

    def refused(self, *words: str) -> None:
        """A command that is refused."""
        self.lines(*words, code=1)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A federation that is up."""
    found = Shell(tmp_path_factory.mktemp("cli") / "data")
    try:
        state = found.run("up", "--block-time", "0")
        assert (state["n"], state["k"]) == (4, 3)
        for name in ("alice", "bob"):
            found.run("wallet", "create", name)
        yield found
    finally:
        kill_processes(find_processes(found.data))


@pytest.mark.e2e
def test_walk_when_all_goes_well_then_every_command_answers(shell: Shell) -> None:
    shell.refused("up")
    shell.refused("wallet", "create", "alice")
    minted = shell.run("peg", "in", "0.5", "--to", "alice", "--wait")
    assert minted["stage"] == "final"
    to_bob = shell.run("wallet", "address", "bob")["address"]
    paid = shell.run("pay", "alice", to_bob, "0.1", "--wait")
    assert paid["height"] > minted["height"]
    assert shell.run("wallet", "balance", "bob")["available_sats"] == 10_000_000
    history = shell.run("wallet", "history", "alice")["transactions"]
    assert [entry["category"] for entry in history] == ["pegin", "send"], history
    assert len(shell.run("wallet", "list")["wallets"]) >= 2

    bitcoin_address = shell.run("peg", "in", "--address", "--to", "bob")["address"]
    shell.run("faucet", bitcoin_address, "0.25", "--confirm")
    shell.refused("faucet", to_bob, "1")
    shell.refused("faucet", bitcoin_address, "20000000")

    target = shell.run("peg", "in", "--address", "--to", "bob")["address"]
    gone = shell.run("peg", "out", "alice", target, "0.2", "--wait")
    assert gone["parent_confirmations"] >= 1
    assert shell.run("peg", "status", gone["id"])["done"]
    everything = shell.run("peg", "status")
    assert [view["id"] for view in everything["pegouts"]] == [gone["id"]]
    assert shell.run("audit")["equal"]
    blocks = shell.run("blocks", "--signers", "-n", "5")["blocks"]
    assert len(blocks) == 5
    assert all(len(block["signers"]) == 3 for block in blocks)
    found = shell.run("status")
    assert (found["online"], found["n"]) == (4, 4)
    asked = [member["esplora_url"] for member in found["members"]]
    assert len(set(asked)) == 4 and found["esplora_url"] == asked[0]
    named = shell.run("env")
    assert (named["FEDPEG_DATA"], named["ESPLORA"]) == (str(shell.data), asked[0])
    assert shell.lines("logs", "m1", "-n", "5")[-1]["process"] == "m1"
    assert shell.run("doctor")["ok"]


@pytest.mark.e2e
def test_members_when_stopped_killed_and_started_then_status_follows(shell: Shell) -> None:
    assert shell.run("member", "kill", "m1") == {"member": "m1", "running": False}
    shell.refused("member", "kill", "m1")
    assert shell.run("status")["online"] == 3
    assert shell.run("member", "start", "1")["running"]
    shell.refused("member", "start", "m1")
    assert not shell.run("member", "stop", "m2")["running"]
    shell.run("mine", "1")
    shell.run("up")
    assert shell.run("status")["online"] == 4
    shell.refused("member", "stop", "m9")


@pytest.mark.e2e
@pytest.mark.parametrize("stage", PEGIN_STAGES)
def test_pegin_when_killed_at_a_stage_then_the_next_run_ends_the_same_one(
    shell: Shell, stage: str
) -> None:
    amount = f"0.0{300 + PEGIN_STAGES.index(stage)}"
    words = ("peg", "in", amount, "--to", "bob", "--wait")
    process = shell.popen(*words)
    later = (*PEGIN_STAGES[PEGIN_STAGES.index(stage) :], "final")
    views = (json.loads(line) for line in process.stdout or ())
    killed_id = next(view["id"] for view in views if view.get("stage") in later)
    process.kill()
    process.communicate()
    before = len(shell.run("peg", "status")["pegins"])
    went_on = shell.run("peg", "status", str(killed_id))["stage"] != "final"
    ended = shell.run(*words)
    assert ended["stage"] == "final"
    if went_on:  # on a slow machine it may have ended before it was killed
        assert ended["id"] == killed_id
        assert len(shell.run("peg", "status")["pegins"]) == before


@pytest.mark.e2e
def test_wallet_when_encrypted_then_passphrase_is_needed_to_pay(
    shell: Shell, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    wrong = tmp_path / "wrong"
    wrong.write_text("battery\n")
    made = shell.run("wallet", "create", "vault", "--passphrase-file", str(secret))
    assert made["encrypted"]
    shell.run("peg", "in", "0.01", "--to", "vault", "--wait", "--passphrase-file", str(secret))
    address = shell.run("wallet", "address", "vault")["address"]
    shell.refused("pay", "vault", address, "0.001")
    shell.refused("pay", "vault", address, "0.001", "--passphrase-file", str(wrong))
    shell.run("pay", "vault", address, "0.001", "--passphrase-file", str(secret), "--wait")
    shell.refused("pay", "vault", address, "0.001")


@pytest.mark.e2e
def test_federations_when_two_live_side_by_side_then_apart(shell: Shell, tmp_path: Path) -> None:
    other = Shell(tmp_path / "other")
    try:
        mine, theirs = shell.run("status"), other.run("up", "-n", "5", "--block-time", "0")
        assert (theirs["n"], theirs["k"]) == (5, 4)
        assert mine["parameter_hash"] != theirs["parameter_hash"]
        assert set(other.run("down")["stopped"]) >= {"m0", "m4", "bitcoind", "wallet"}
        assert find_processes(other.data) == ()
        assert shell.run("status")["online"] == 4
    finally:
        kill_processes(find_processes(other.data))
