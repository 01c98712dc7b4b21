"""What the command refuses and how: nothing made, one line of reason, one JSON document."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from federation import cli, entry
from federation.cli_session import Output, Seconds
from federation.cli_wait import describe_pegin, describe_pegout, missing_text
from federation.local_state import LocalMember, LocalState
from federation.processes import find_processes, kill_processes, spawn

NEEDS_A_FEDERATION = (
    "status",
    "down",
    "logs",
    "member start m0",
    "member stop m0",
    "member kill m0",
    "member unhalt m0",
    "member resume-at m0 5",
    "mine 1",
    "fault kill m0",
    "fault pause m0 --for 1",
    "fault partition m0",
    "fault disconnect m0",
    "fault delay m0 --ms 10",
    "fault drop m0 --percent 10",
    "fault clock m0 -3600",
    "fault equivocate m0",
    "fault wipe m0",
    "fault snapshot m0",
    "fault restore m0",
    "fault corrupt-journal m0 --at -4",
    "fault list",
    "fault check",
    "fault heal",
    "wallet create alice",
    "wallet list",
    "wallet balance alice",
    "wallet address alice",
    "wallet history alice",
    "faucet bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080 1",
    "pay alice ert1q 1",
    "peg in 1 --to alice",
    "peg in --address",
    "peg address --keyless --to alice",
    "peg register bcrt1q",
    "peg out alice bcrt1q 1",
    "peg status",
    "audit",
    "blocks",
)


def commands() -> Iterator[tuple[list[str], click.Command]]:
    """Every command with the words that call it."""

    def below(words: list[str], group: click.Group) -> Iterator[tuple[list[str], click.Command]]:
        for name, found in group.commands.items():
            if isinstance(found, click.Group):
                yield from below([*words, name], found)
            else:
                yield [*words, name], found

    return below([], cli.program)


WITHOUT_A_FEDERATION = {("signer", "run"), ("sim",)}
"""One works on the folder and the file it is given, the other makes its federations up."""


@pytest.mark.parametrize(
    ("text", "time_ms"), [("0", 0), ("1", 1_000), ("0.25", 250), ("3600", 3_600_000)]
)
def test_seconds_when_at_most_an_hour_then_milliseconds(text: str, time_ms: int) -> None:
    assert Seconds().convert(text, None, None) == time_ms


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "abc", "3600.001", "0.0001", ""])
def test_seconds_when_it_is_no_such_time_then_usage_error(text: str) -> None:
    with pytest.raises(click.UsageError):
        Seconds().convert(text, None, None)


def test_help_when_asked_of_every_command_then_it_names_data_and_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words, _ in commands():
        if tuple(words) in WITHOUT_A_FEDERATION:
            continue
        assert cli.main([*words, "--help"]) == 0
        text = capsys.readouterr().out
        assert "--data" in text and "--json" in text, words


@pytest.mark.parametrize("words", NEEDS_A_FEDERATION)
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_command_when_there_is_no_federation_then_exit_1_and_nothing_is_made(
    words: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "none"
    assert cli.main([*words.split(), *flags, "--data", str(folder)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "`fedpeg up` makes one" in said.err
    assert not folder.exists()


@pytest.mark.parametrize(
    "words",
    [
        "nonsense",
        "up extra",
        "up -n 16",
        "up --block-time nan",
        "mine 0",
        "peg in 0 --to a",
        "peg address --to a --max-fee 5",
        "peg address --to a --internal-key ab",
        "peg address --keyless --max-fee 0",
        "peg register",
        "pay a b",
    ],
)
def test_command_when_wrongly_used_then_exit_2(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words.split()) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("words", ["up", "up -k 9", "up -n 3 -k 2"])
def test_up_when_the_folder_is_in_a_file_or_numbers_are_unsafe_then_exit_1(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    folder = tmp_path / "new" if "-k" in words else file / "below"
    assert cli.main([*words.split(), "--data", str(folder)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_main_when_an_error_of_ours_escapes_then_one_line_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(cli.program, "main", fail)
    monkeypatch.delenv(cli.DEBUG_VARIABLE, raising=False)
    assert cli.main([]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "KeyError" in said and cli.DEBUG_VARIABLE in said


def test_output_when_json_then_one_document_unless_it_streams(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for streams, lines in ((False, 1), (True, 2)):
        output = Output(True, streams=streams)
        output.progress("step", "at work")
        output.result({"done": True}, "done")
        found = capsys.readouterr().out.splitlines()
        assert len(found) == lines
        assert json.loads(found[-1]) == {"done": True}


def test_demo_when_its_folder_is_used_then_refused_and_nothing_in_it_is_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child = spawn(
        "m0",
        [sys.executable, "-c", "import time; time.sleep(60)"],
        data=tmp_path,
        output=tmp_path / "output.log",
    )
    try:
        assert cli.main(["demo", "--data", str(tmp_path)]) == 1
        assert "not empty" in capsys.readouterr().err
        assert find_processes(tmp_path) == (child,)
    finally:
        kill_processes([child])


def test_down_when_the_folder_was_deleted_then_its_processes_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / os.fsdecode(b"gone \xff")
    folder.mkdir()
    spawn(
        "m0",
        [sys.executable, "-c", "import time; time.sleep(60)"],
        data=folder,
        output=folder / "output.log",
    )
    (folder / "output.log").unlink()
    folder.rmdir()
    assert cli.main(["down", "--json", "--data", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out) == {"stopped": ["m0"]}
    assert find_processes(folder) == ()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("stage", "reason", "text"),
    [
        ("DELAYED", "UNTIL(137)", "large payout, held back (until Bitcoin block 137)"),
        ("BATCHED", "WAIT_COMMIT", "in a batch that waits for Bitcoin"),
        (
            "READY",
            "CAP(144, 200), WAIT_COMMIT",
            "in the queue (over the cap for 144 Bitcoin blocks, room at block 200)",
        ),
        ("RELEASED", "FEE_POOL_LOW", "released for payment (the federation's fee pool is too low)"),
    ],
)
def test_pegout_when_described_then_codes_become_words(stage: str, reason: str, text: str) -> None:
    said = describe_pegout({"stage": stage, "reason": reason, "payout": None})
    assert said == text


def test_pegin_when_the_faucet_is_empty_then_the_next_step_is_named() -> None:
    view = {"stage": "address", "address": "bcrt1q", "reason": "bitcoind: Insufficient funds"}
    assert "`fedpeg mine 101`" in describe_pegin(view)


def test_missing_when_too_few_members_run_then_they_are_named() -> None:
    state = LocalState(
        chain="fedpeg-test",
        n=4,
        k=3,
        block_time_ms=0,
        members=tuple(LocalMember(name=f"m{i}", index=i, port=1, rpc_port=2) for i in range(4)),
        bitcoind_rpc_port=3,
        wallet_rpc_port=4,
    )
    enough = {"bitcoind", "wallet", "m0", "m1", "m2"}
    assert missing_text(state, enough) == ""
    assert "m2, m3 are not running" in missing_text(state, enough - {"m2"})
    assert "wallet is not running" in missing_text(state, enough - {"wallet"})


def test_entry_when_interrupted_while_loading_then_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupting:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "federation.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "federation.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    assert entry.main() == 130
    assert capsys.readouterr().err == "fedpeg: interrupted\n"


def test_prompt_when_interrupted_inside_the_event_loop_then_it_ends(tmp_path: Path) -> None:
    program = (
        "from federation.cli_session import run_async\n"
        "from federation.cli_passphrase import new_passphrase\n"
        "async def ask(): return new_passphrase(None, encrypt=True)\n"
        "run_async(ask())\n"
    )
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", program])
    said = b""
    while b"Passphrase" not in said:
        said += os.read(terminal, 1_000)
    os.write(terminal, b"\x03")
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) != 0


def test_up_when_processes_of_a_deleted_federation_run_then_refused_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output.log"
    folder = tmp_path / "deleted"
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    child = spawn("m0", command, data=folder, output=output)
    try:
        assert cli.main(["up", "--data", str(folder)]) == 1
        assert "`fedpeg down` stops them" in capsys.readouterr().err
    finally:
        kill_processes([child])


def test_up_when_the_path_is_too_long_for_bitcoind_then_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bitcoind"
    program.write_text("#!/bin/sh\necho Bitcoin Core version v29.0.0\n")
    program.chmod(0o755)
    monkeypatch.setenv("BITCOIND", str(program))
    folder = tmp_path / ("x" * 200) / ("y" * 200) / ("z" * 100)
    assert cli.main(["up", "--data", str(folder)]) == 1
    assert "longer than" in capsys.readouterr().err


@pytest.mark.slow
def test_command_when_its_output_cannot_be_written_then_one_line_and_exit_1() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "federation.entry", "doctor", "--data", "/nonexistent"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
