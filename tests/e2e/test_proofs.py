"""Certificates of a live federation, exported and checked by a stranger (N25, N26)."""

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.local import Local

pytestmark = pytest.mark.e2e

UP = ("--block-time", "0")


def test_certificate_of_a_block_is_shown_exported_and_verified_elsewhere(
    local: Local, tmp_path: Path
) -> None:
    height = int(local.member("m0").call("getblockcount"))
    shown = local.run("certificate", str(height)).stdout
    assert f"block {height} (" in shown and "was decided in round" in shown
    target, federation = tmp_path / "block.json", tmp_path / "federation.json"
    local.run("certificate", str(height), "-o", str(target), "--member", "m3")
    shutil.copy(local.folder("m0").parent.parent / "federation.json", federation)
    done = local.answer("certificate", "verify", str(target), "--federation", str(federation))
    assert done.code == 0 and len(json.loads(target.read_text())["certificate"]) > 100
    by_folder = local.run("certificate", str(height), "--folder", str(local.folder("m1"))).stdout
    assert by_folder.splitlines()[0].startswith(f"block {height} (")
    beyond = local.answer("certificate", str(height + 1_000))
    assert beyond.code == 1 and "is the newest" in beyond.stderr
    assert local.answer("certificate", "0").code == 2
    assert local.answer("certificate", "nonsense").code == 2
