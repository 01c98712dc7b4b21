"""Logs: one JSON object a line, readable on a terminal, no secrets."""

import io
import json
import logging
import stat
from pathlib import Path
from typing import Any

import pytest

from federation import log as log_module
from federation.log import Log, follow_stdlib, open_log
from federation.secret_key import SecretKey


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


@pytest.fixture
def log(path: Path) -> Log:
    return open_log("m0", path=path)


def test_event_when_logged_then_one_json_line(log: Log, path: Path) -> None:
    log.logger.info("block_final", height=3, hash=b"\x01\xff", signers=(0, 2))
    log.logger.debug("too detailed")
    log.logger.bind(member=2).warning("frame_fault", text="two\nlines")
    log.close()
    first, second = lines(path)
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "info",
        "event": "block_final",
        "process": "m0",
        "height": 3,
        "hash": "01ff",
        "signers": [0, 2],
    }
    assert (second["member"], second["text"]) == (2, "two\nlines")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_exception_when_logged_then_traceback_is_one_field(log: Log, path: Path) -> None:
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        log.logger.exception("failed")
    log.close()
    (line,) = lines(path)
    assert line["level"] == "error" and "RuntimeError: broken" in line["exception"]


def test_secrets_when_logged_then_hidden(path: Path) -> None:
    shown = io.StringIO()
    log = open_log("m0", path=path, terminal=shown)
    log.logger.info(
        "start",
        key=SecretKey(b"\x07" * 32),
        rpc_password="hunter2",
        seed=b"hunter2",
        wallet={"passphrase": "hunter2", "name": "alice"},
        blinding_factor="hunter2",
        cookie="hunter2",
    )
    log.close()
    for text in (path.read_text(), shown.getvalue()):
        assert "hunter2" not in text and b"hunter2".hex() not in text
        assert ("07" * 32) not in text
    assert lines(path)[0]["wallet"] == {"passphrase": "…", "name": "alice"}


def test_terminal_when_given_then_readable_without_colours(path: Path) -> None:
    shown = io.StringIO()
    log = open_log("m1", path=path, terminal=shown)
    log.logger.info("peer_connected", member=3)
    log.close()
    assert "peer_connected" in shown.getvalue() and "member=3" in shown.getvalue()
    assert "\x1b" not in shown.getvalue()


def test_stdlib_when_followed_then_its_warnings_are_lines(log: Log, path: Path) -> None:
    handler = follow_stdlib(log)
    other = logging.getLogger("some.library")
    other.addHandler(handler)
    other.propagate = False
    try:
        other.info("not this")
        other.warning("slow %s", "callback")
        other.error("odd %s %s", "arguments")
    finally:
        other.removeHandler(handler)
    log.close()
    assert [(line["event"], line["source"]) for line in lines(path)] == [
        ("slow callback", "some.library"),
        ("odd %s %s", "some.library"),
    ]


def test_file_when_large_then_begun_anew(
    log: Log, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "FILE_MAX_BYTES", 1_000)
    for number in range(30):
        log.logger.info("filler", number=number, text="x" * 100)
    log.close()
    assert path.stat().st_size < 1_300
    older = lines(path.with_name("log.jsonl.1"))
    assert lines(path)[-1]["number"] == 29
    assert lines(path)[0]["number"] == older[-1]["number"] + 1


def test_disk_when_it_refuses_then_lines_are_lost_and_counted(log: Log, path: Path) -> None:
    log.close()
    log.logger.info("into the void")
    assert log.lost_lines == 1


def test_value_when_huge_then_shortened(log: Log, path: Path) -> None:
    log.logger.info("big", block=bytes(4_000_000), text="y" * 1_000_000)
    log.close()
    assert path.stat().st_size < 10_000
