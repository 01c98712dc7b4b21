"""`fedpeg emergency sign` and the files it takes: every wrong input is refused with its reason."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from federation import cli
from federation.config import FederationFile
from federation.emergency_file import ClaimScripts, PlanFile
from peg.emergency import EmergencyCoin, plan_emergency
from peg.status import outpoint_text
from sidechain.crypto.hashes import sha256
from sidechain.primitives.transaction import OutPoint
from tests.federation.founded import found

CLAIM = b"\x00\x14" + bytes(20)


def coin(name: bytes, claim: bytes | None = None) -> EmergencyCoin:
    outpoint = OutPoint(sha256(name), 1)
    return EmergencyCoin(outpoint=outpoint, value_sats=900_000, height=7, claim_script=claim)


@pytest.fixture
def old(tmp_path: Path) -> FederationFile:
    return found(tmp_path / "old")


@pytest.fixture
def plan(tmp_path: Path, old: FederationFile) -> Path:
    new = found(tmp_path / "new", n=1, k=1, seed="new").fedpegscript
    made = plan_emergency(
        old.fed_script(),
        new,
        lane=0,
        anchor=coin(b"anchor"),
        others=[coin(b"deposit", CLAIM)],
        rate_sats_per_kvb=1_000,
    )
    path = tmp_path / "plan.json"
    PlanFile(
        parameter_hash=old.parameter_hash(),
        lane=0,
        new_fedpegscript=new,
        spends=made.spends,
        signatures=tuple({} for _ in made.spends),
    ).save(path)
    return path


def sign(
    tmp_path: Path,
    plan: Path,
    *words: str,
    key: str = "old/emergency/e1.key",
    federation: str = "old/federation.json",
    to: str = "new/federation.json",
) -> int:
    """Run `emergency sign`; its exit code."""
    named = [str(tmp_path / name) for name in (key, federation, to)]
    options = ["--key", named[0], "--federation", named[1], "--to", named[2]]
    return cli.main(["emergency", "sign", str(plan), *options, *words])


def test_two_holders_when_both_sign_one_file_then_both_are_in_it(
    tmp_path: Path, plan: Path, old: FederationFile, capsys: pytest.CaptureFixture[str]
) -> None:
    """peg:10."""
    before = PlanFile.load(plan)
    assert sign(tmp_path, plan) == 0
    assert "one more has to sign" in capsys.readouterr().out
    assert sign(tmp_path, plan, "--json", key="old/emergency/e3.key") == 0
    assert json.loads(capsys.readouterr().out)["signed_by"] == [1, 3]
    after = PlanFile.load(plan)
    assert replace(after, signatures=before.signatures) == before
    secret = (tmp_path / "old/emergency/e1.key").read_text().strip()
    assert secret not in plan.read_text()


def test_plan_when_key_or_federation_is_another_then_refused_unsigned(
    tmp_path: Path, plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = plan.read_text()
    cases = {
        "none of the federation's three": {"key": "new/emergency/e1.key"},
        "does not pay the federation you named": {"to": "old/federation.json"},
        "for another federation": {"federation": "new/federation.json"},
        "does not hold a secret key": {"key": "junk.key"},
        "chmod 600": {"key": "open.key"},
        "neither a file nor": {"to": "nowhere.json"},
    }
    (tmp_path / "junk.key").write_text("junk")
    (tmp_path / "junk.key").chmod(0o600)
    (tmp_path / "open.key").write_text((tmp_path / "old/emergency/e1.key").read_text())
    (tmp_path / "open.key").chmod(0o644)
    for reason, change in cases.items():
        assert sign(tmp_path, plan, **change) == 1
        assert reason in capsys.readouterr().err
    assert plan.read_text() == text


def test_plan_when_it_begins_with_another_coin_than_the_named_anchor_then_refused(
    tmp_path: Path, plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """peg:10: any FED coin looks like an anchor; the holder names the one that it knows."""
    text = plan.read_text()
    assert sign(tmp_path, plan, "--anchor", outpoint_text(coin(b"donation").outpoint)) == 1
    assert "not the anchor that you named" in capsys.readouterr().err
    assert sign(tmp_path, plan, "--anchor", "nonsense") != 0
    assert plan.read_text() == text
    assert sign(tmp_path, plan, "--anchor", outpoint_text(coin(b"anchor").outpoint)) == 0


def test_plan_when_its_outputs_were_changed_then_refused(
    tmp_path: Path, plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """peg:10: the holder verifies, the plan is not believed."""
    plain = json.loads(plan.read_text())
    plain["transactions"][0]["outputs"][0]["script"] = "0014" + "ab" * 20
    plan.write_text(json.dumps(plain))
    assert sign(tmp_path, plan) == 1
    assert "must not be signed" in capsys.readouterr().err


def test_send_when_a_signature_or_an_amount_was_changed_then_refused(
    tmp_path: Path, plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sign(tmp_path, plan) == 0
    assert sign(tmp_path, plan, key="old/emergency/e2.key") == 0
    plain = json.loads(plan.read_text())
    plain["transactions"][0]["inputs"][0]["value_sats"] += 1
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(plain))
    words = ["--federation", str(tmp_path / "old/federation.json")]
    assert cli.main(["emergency", "send", str(changed), *words]) == 1
    assert "do not verify" in capsys.readouterr().err
    assert cli.main(["emergency", "send", str(plan), str(changed), *words]) == 1
    assert "different plans" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"kind": "fedpeg claim scripts"}',
        '{"kind": "fedpeg emergency plan", "format": 2}',
        '{"kind": "fedpeg emergency plan", "format": 1, "parameter_hash": "00"}',
    ],
)
def test_file_when_it_is_no_plan_then_refused(
    tmp_path: Path, plan: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan.write_text(text)
    assert sign(tmp_path, plan) == 1
    assert capsys.readouterr().err.startswith("fedpeg: ")


def test_claim_scripts_when_written_then_read_back_equal(
    tmp_path: Path, old: FederationFile
) -> None:
    found_scripts = ClaimScripts(
        parameter_hash=old.parameter_hash(),
        height=12,
        lane=0,
        anchor=OutPoint(sha256(b"a"), 3),
        scripts=(CLAIM, bytes(34)),
    )
    found_scripts.save(tmp_path / "claims.json")
    assert ClaimScripts.load(tmp_path / "claims.json") == found_scripts
