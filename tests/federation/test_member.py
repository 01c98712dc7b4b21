"""The entry point of a member's process: exit codes, reasons, and what the log keeps."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from federation import member
from federation.log import open_log
from federation.node import StartOptions
from tests.federation.test_node import Home

INIT = StartOptions(init=True)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def last_line(home: Home) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(home.folder.log.read_text().splitlines()[-1])
    return line


def test_member_when_it_cannot_start_then_the_reason_and_code_one(home: Home) -> None:
    arguments = ["--folder", str(home.path), "--federation", str(home.file)]
    home.folder.peg_key.chmod(0o644)
    result = CliRunner().invoke(member.main, [*arguments, "--init"])
    assert result.exit_code == 1 and "chmod 600" in result.output
    line = last_line(home)
    assert line["event"] == "member_stopped" and "SignerFailed" in line["reason"]


def test_member_when_used_wrongly_then_code_two(home: Home) -> None:
    arguments = ["--folder", str(home.path), "--federation", str(home.file)]
    both = CliRunner().invoke(member.main, [*arguments, "--init", "--restored"])
    absent = CliRunner().invoke(member.main, ["--folder", "/nowhere", "--federation", "x"])
    assert both.exit_code == absent.exit_code == 2


def test_member_when_it_crashes_then_the_log_has_the_trace(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(member, "open_node", bug)
    log = open_log("m0", path=home.folder.log)
    with pytest.raises(ExceptionGroup):
        member.run(home.path, home.file, INIT, log)
    log.close()
    line = last_line(home)
    assert line["event"] == "member_crashed" and "a bug" in line["exception"]


def test_member_when_its_journal_is_locked_then_says_so(home: Home) -> None:
    log = open_log("m0", path=home.folder.log)
    with home.open():
        reason = member.run(home.path, home.file, INIT, log)
    log.close()
    assert reason.startswith("JournalLocked")
