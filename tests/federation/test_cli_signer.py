"""`fedpeg signer`: what a user sees of a signer, and of one that is not there."""

import json
from pathlib import Path

import pytest

from federation import cli
from federation.signer import GuardStart
from tests.federation.signer_world import SignerWorld
from tests.federation.test_signer_process import member, serving


@pytest.fixture
def world(tmp_path: Path) -> SignerWorld:
    world = SignerWorld(tmp_path)
    world.headers.extend(4)
    return world


def test_status_when_a_signer_answers_then_what_it_remembers(
    world: SignerWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(world.home.signer_socket)
    with serving(world, GuardStart.FRESH), member(world):
        assert cli.main(["signer", "status", "--socket", path, "--json"]) == 0
        (entry,) = json.loads(capsys.readouterr().out)["signers"]
        assert (entry["signatures"], entry["tip_height"], entry["halted"]) == (0, 4, False)
        assert entry["block_key"] == world.file.members[1].block_key.hex()
        assert cli.main(["signer", "status", "--socket", path]) == 0
        assert "0 signatures" in capsys.readouterr().out


def test_status_when_none_answers_then_exit_code_1_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["signer", "status", "--socket", str(tmp_path / "none")]) == 1
    shown = capsys.readouterr()
    assert "no signer answers" in shown.out and "no answer" in shown.err
    assert cli.main(["signer", "status", "m0", "--socket", str(tmp_path / "none")]) == 2
    assert cli.main(["signer", "status", "--data", str(tmp_path / "empty")]) == 1
    assert "no federation" in capsys.readouterr().err


def test_run_when_it_cannot_start_then_one_sentence(
    world: SignerWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = str(world.home.path), str(tmp_path / "federation.json")
    base = ["signer", "run", "--folder", folder, "--federation", file]
    for words, code, reason in (
        ([*base, "--init", "--restored"], 2, "exclude"),
        (base, 1, "--restored"),
        ([*base, "--init", "--group", "no-such-group"], 1, "no-such-group"),
        ([*base[:-1], str(world.home.path / "member.json")], 1, "fedpeg: "),
        (base[:-2], 2, "--federation"),
    ):
        assert cli.main(words) == code
        assert reason in capsys.readouterr().err
    world.home.block_key.write_text("11" * 32)
    assert cli.main([*base, "--init"]) == 1
    assert "no member's key" in capsys.readouterr().err
