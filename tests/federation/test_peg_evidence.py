"""Peg signatures that convict their sender, kept and shown to a stranger (peg:P33)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation.evidence_store import EvidenceStore
from federation.peg_evidence import (
    MALFORMED_SIGNATURE,
    SEEN_MAX,
    TWO_BATCHES,
    PegEvidence,
)
from federation.stranger import NotProved, convict
from peg.signing import KIND_PEGSIG, PegSig, SessionKey, frame_digest
from sidechain.primitives.transaction import OutPoint
from tests.federation.engine_world import Lines
from tests.federation.proofs import Signers

DIGEST = b"\x31" * 32


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Signers:
    return Signers.found(tmp_path_factory.mktemp("federation"))


class Stage:
    """One member's eyes."""

    def __init__(self, folder: Path, signers: Signers) -> None:
        self.signers = signers
        self.store = EvidenceStore(
            folder / "evidence.jsonl",
            genesis=signers.stranger.params.genesis_hash,
            parameter_hash=signers.file.parameter_hash(),
            members=signers.stranger.members,
            now_ms=lambda: 0,
        )
        self.log = Lines()
        self.alarms: list[str] = []
        self.eyes = PegEvidence(
            genesis=signers.stranger.params.genesis_hash,
            block_keys=tuple(entry.block_key for entry in signers.file.members),
            store=self.store,
            log=self.log,
            alarm=self.alarms.append,
        )

    def share(self, member: int = 2, **fields: Any) -> PegSig:
        signature = self.signers.secrets[member].sign_ecdsa(DIGEST) + b"\x01"
        key = SessionKey(anchor=OutPoint(b"\x05" * 32, 0), h_sel=40, version=1)
        plain = {
            "lane": 0,
            "index": 3,
            "session": key,
            "txid": b"\x06" * 32,
            "state_digest": b"\x07" * 32,
            "signatures": (signature,),
        }
        return PegSig(**(plain | fields))

    def frame(self, share: PegSig, member: int = 2) -> bytes:
        body = share.encode()
        digest = frame_digest(self.signers.stranger.params.genesis_hash, KIND_PEGSIG, body)
        return body + self.signers.secrets[member].sign_schnorr(digest)

    def see(self, *shares: PegSig, member: int = 2) -> None:
        for share in shares:
            self.eyes.see(member, self.frame(share, member))


@pytest.fixture
def stage(tmp_path: Path, signers: Signers) -> Stage:
    return Stage(tmp_path, signers)


def test_member_when_it_signs_two_transactions_of_a_version_then_convicted(stage: Stage) -> None:
    """peg:P33: the signed frames convict."""
    stage.see(stage.share(), stage.share(), stage.share(txid=b"\x08" * 32))
    (line,) = stage.store.all()
    assert (line["member"], line["height"], line["class"]) == (2, 40, TWO_BATCHES)
    found = convict(line, stage.signers.stranger)
    assert found.to_json()["class"] == "two-batches" and found.name == "m2"
    assert found.first.startswith("version 1 of batch 3 is transaction")
    assert stage.log.of("evidence")
    stage.see(stage.share(txid=b"\x09" * 32))
    assert len(stage.store) == 1, "once for a member and height"


def test_shares_when_of_other_versions_or_members_then_no_evidence(stage: Stage) -> None:
    key = stage.share().session
    stage.see(
        stage.share(),
        stage.share(txid=b"\x08" * 32, session=replace(key, version=2)),
        stage.share(txid=b"\x09" * 32, session=replace(key, h_sel=41)),
        stage.share(txid=b"\x0a" * 32, index=4),
        stage.share(txid=b"\x0b" * 32, lane=255),
        stage.share(txid=b"\x0c" * 32, lane=255),
        stage.share(state_digest=b"\x0d" * 32),
    )
    stage.see(stage.share(member=1, txid=b"\x0e" * 32), member=1)
    assert not stage.store.all()


@pytest.mark.parametrize(
    "signature",
    [b"\x30" * 70, b"\x00" * 9, b"\x30\x06\x02\x01\x01\x02\x01\x01\x02"],
)
def test_signature_when_of_no_form_then_convicts_by_itself(stage: Stage, signature: bytes) -> None:
    good = stage.share().signatures[0]
    stage.see(stage.share(signatures=(good, signature)))
    (line,) = stage.store.all()
    assert line["class"] == MALFORMED_SIGNATURE
    assert convict(line, stage.signers.stranger).to_json()["class"] == "malformed-peg-signature"


def test_frame_when_not_signed_by_its_sender_then_nobody_is_accused(stage: Stage) -> None:
    stage.see(stage.share())
    frame = bytearray(stage.frame(stage.share(txid=b"\x08" * 32)))
    frame[-1] ^= 1
    stage.eyes.see(2, bytes(frame))
    stage.eyes.see(2, stage.frame(stage.share(txid=b"\x08" * 32), member=1))
    stage.eyes.see(2, b"")
    stage.eyes.see(2, b"\x00" * 80)
    assert not stage.store.all()


def test_frames_when_many_then_the_newest_are_kept(stage: Stage) -> None:
    stage.see(*(stage.share(index=index) for index in range(SEEN_MAX + 1)))
    stage.see(stage.share(index=0, txid=b"\x08" * 32))
    assert not stage.store.all()
    stage.see(stage.share(index=SEEN_MAX, txid=b"\x08" * 32))
    assert len(stage.store) == 1


def test_evidence_when_changed_then_refused_with_the_reason(stage: Stage) -> None:
    stage.see(stage.share(), stage.share(txid=b"\x08" * 32))
    (line,) = stage.store.all()
    swapped = stage.frame(stage.share(index=9))
    for change, reason in (
        ({"second": line["first"]}, "do not contradict"),
        ({"second": swapped.hex()}, "do not contradict"),
        ({"first": line["first"][:-2] + "00"}, "no PEGSIG that member 2 has signed"),
        ({"first": ""}, "no PEGSIG that member 2 has signed"),
        ({"height": 41}, "selected at 40, not 41"),
        ({"class": MALFORMED_SIGNATURE}, "every signature in it has a form"),
    ):
        with pytest.raises(NotProved, match=reason):
            convict(line | change, stage.signers.stranger)
