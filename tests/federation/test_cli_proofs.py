"""`fedpeg evidence`: what members keep, exported, and checked by a stranger (consensus:C58)."""

import json
from pathlib import Path
from typing import Any

import pytest

from federation.canonical import canonical_json
from federation.cli import main
from federation.consensus.messages import Evidence, EvidenceClass
from tests.federation.founded import member_folder
from tests.federation.proofs import Signers


@pytest.fixture
def signers(tmp_path: Path) -> Signers:
    return Signers.found(tmp_path)


def keep(folder: Path, signers: Signers, keepers: tuple[int, ...], member: int = 2) -> None:
    first, second = (signers.vote(member, block_hash=bytes([h]) * 32).encode() for h in (1, 2))
    line = signers.line(member, Evidence(EvidenceClass.DOUBLE_VOTE, first, second))
    for keeper in keepers:
        path = member_folder(folder, keeper).path / "evidence.jsonl"
        with path.open("ab") as file:
            file.write(canonical_json(line) + b"\n")


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def as_json(text: str) -> Any:
    return json.loads(text)


def folder_options(folder: Path, member: int = 0) -> list[object]:
    return [
        "--folder",
        member_folder(folder, member).path,
        "--federation",
        folder / "federation.json",
    ]


def test_evidence_when_a_member_keeps_some_then_listed_shown_exported_and_verified(
    tmp_path: Path, signers: Signers, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path, signers, (0,))
    here = folder_options(tmp_path)
    code, out, _ = run(capsys, "evidence", *here)
    assert code == 0 and "m2-7-double-vote" in out and "kept by m0" in out
    code, out, _ = run(capsys, "evidence", "list", "--json", *here)
    (listed,) = as_json(out)["evidence"]
    assert listed["id"] == "m2-7-double-vote" and listed["proved"] and listed["name"] == "m2"
    code, out, _ = run(capsys, "evidence", "show", "m2-7-double-vote", *here)
    assert code == 0 and "convicted of double-vote" in out and "PREVOTE for block" in out
    target = tmp_path / "proof.json"
    code, out, _ = run(capsys, "evidence", "export", "m2-7-double-vote", "-o", target, *here)
    assert code == 0 and str(target) in out
    code, printed, _ = run(capsys, "evidence", "export", "m2-7-double-vote", *here)
    assert printed.encode() == target.read_bytes()
    federation = ["--federation", tmp_path / "federation.json"]
    code, out, _ = run(capsys, "evidence", "verify", target, *federation)
    assert code == 0 and "m2 (member 2) is convicted of double-vote at height 7" in out
    code, out, _ = run(capsys, "evidence", "verify", target, "--json", *federation)
    assert as_json(out)["evidence"] is True and as_json(out)["member"] == 2


def test_evidence_when_it_does_not_convince_then_exit_code_1_and_the_reason(
    tmp_path: Path, signers: Signers, capsys: pytest.CaptureFixture[str]
) -> None:
    line = signers.line(2, Evidence(EvidenceClass.DOUBLE_VOTE, *[signers.vote(2).encode()] * 2))
    path = tmp_path / "claim.json"
    path.write_bytes(canonical_json(line))
    federation = ["--federation", tmp_path / "federation.json"]
    code, out, err = run(capsys, "evidence", "verify", path, *federation)
    assert code == 1 and not out and "is no evidence: messages do not contradict" in err
    code, out, _ = run(capsys, "evidence", "verify", path, "--json", *federation)
    assert (
        code == 1 and as_json(out)["evidence"] is False and "contradict" in as_json(out)["reason"]
    )


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b'{"a":1.5}', b"9" * 5_000, b"[" * 5_000, b" " * 1_000_001]
)
def test_verify_when_the_file_is_no_proof_at_all_then_one_sentence(
    tmp_path: Path, signers: Signers, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    path = tmp_path / "claim.json"
    path.write_bytes(content)
    code, out, err = run(
        capsys, "evidence", "verify", path, "--federation", tmp_path / "federation.json"
    )
    assert code == 1 and not out and err.count("\n") == 1 and "is no evidence" in err


def test_evidence_when_there_is_none_then_says_so(
    tmp_path: Path, signers: Signers, capsys: pytest.CaptureFixture[str]
) -> None:
    here = folder_options(tmp_path)
    code, out, _ = run(capsys, "evidence", *here)
    assert code == 0 and out == "there is no evidence against anybody\n"
    code, _, err = run(capsys, "evidence", "show", "m2-7-double-vote", *here)
    assert code == 1 and "none at all" in err
    code, _, err = run(capsys, "evidence", "--data", tmp_path / "nowhere")
    assert code == 1 and err


def test_evidence_when_a_kept_line_is_damaged_then_listed_as_not_proved(
    tmp_path: Path, signers: Signers, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path, signers, (0,))
    path = member_folder(tmp_path, 0).path / "evidence.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"member":2', b'"member":9'))
    code, out, _ = run(capsys, "evidence", *folder_options(tmp_path))
    assert code == 0 and "NOT PROVED: there is no member 9" in out
    code, out, _ = run(
        capsys, "evidence", "show", "member9-7-double-vote", *folder_options(tmp_path)
    )
    assert code == 0 and "not proved" in out
