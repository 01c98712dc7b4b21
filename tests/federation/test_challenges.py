"""Votes that rest on something unseen: their signers are asked for a day (consensus:C57)."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from federation.certificate_requests import CertificateRequests
from federation.challenges import (
    CHALLENGES_NAME,
    OPEN_MAX,
    OPEN_OF_MEMBER_MAX,
    PATIENCE_S,
    ChallengeDesk,
    obligation,
)
from federation.consensus.encoding import FrameKind
from federation.consensus.messages import GetCertificate, decode_message
from federation.consensus.records import Mode
from federation.consensus.votes import Certificate, VoteType
from federation.evidence_store import EvidenceStore
from federation.stranger import NotProved, convict
from tests.federation.engine_world import Lines, run_virtual
from tests.federation.proofs import Signers
from tests.federation.test_incoming import LIAR, with_liar

H1 = b"\x21" * 32
NOW_S = 1_700_000_000


class Network:
    """Remembers what was asked of whom."""

    def __init__(self) -> None:
        self.connected = frozenset((1, 2, 3))
        self.asked: list[tuple[int, GetCertificate]] = []

    def send(self, member: int, kind: int, body: bytes) -> bool:
        message = decode_message(kind, body)
        assert isinstance(message, GetCertificate)
        self.asked.append((member, message))
        return True


class Stage:
    """A desk with its clock; `votes` are what the height that ends has seen, `pols` what of it."""

    def __init__(self, folder: Path, signers: Signers) -> None:
        self.folder, self.signers = folder, signers
        self.now_s = NOW_S
        self.network = Network()
        self.log = Lines()
        self.alarms: list[str] = []
        self.evidence = EvidenceStore(
            folder / "evidence.jsonl",
            genesis=signers.stranger.params.genesis_hash,
            parameter_hash=signers.file.parameter_hash(),
            members=signers.stranger.members,
            now_ms=lambda: self.now_s * 1_000,
        )
        self.restart()

    def restart(self) -> None:
        root = self.signers.stranger.params_root
        parts: Any = SimpleNamespace(
            network=self.network,
            evidence=self.evidence,
            production=SimpleNamespace(params_root_at=lambda height: root),
            unix_time_s=lambda: self.now_s,
            log=self.log,
        )
        requests: Any = CertificateRequests(self.network)  # type: ignore[arg-type]
        self.requests = requests
        self.desk = ChallengeDesk(parts, requests, self.folder, self.alarms.append)

    def end_height(self, *votes: Any, pols: tuple[tuple[int, bytes], ...] = ()) -> None:
        def held(round_number: int, vote_type: VoteType) -> dict[int, Any]:
            found: dict[int, Any] = {}
            for vote in votes:
                if (vote.round, vote.type) == (round_number, vote_type):
                    found.setdefault(vote.member, []).append(vote)
            return found

        keeper = SimpleNamespace(votes=held, pol=lambda r, h: (r, h) in pols or None)
        agreement: Any = SimpleNamespace(round=2, me=0, keeper=keeper)
        self.desk.end_height(agreement)

    def pass_s(self, seconds: int, step_s: int = 60) -> None:
        for _ in range(0, seconds, step_s):
            self.now_s += step_s
            self.desk.tick()


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Signers:
    return Signers.found(tmp_path_factory.mktemp("federation"))


@pytest.fixture
def stage(tmp_path: Path, signers: Signers) -> Stage:
    return Stage(tmp_path, signers)


def pol(height: int = 7, round_number: int = 1) -> Certificate:
    return Certificate(
        type=VoteType.PREVOTE,
        height=height,
        round=round_number,
        block_hash=H1,
        votes=tuple((member, -1, bytes(64)) for member in range(3)),
    )


def test_votes_when_they_rest_on_nothing_then_oblige_to_nothing(signers: Signers) -> None:
    assert obligation(signers.vote(1)) is None
    assert obligation(signers.vote(1, block_hash=H1)) is None
    assert obligation(signers.vote(1, type=VoteType.PRECOMMIT)) is None
    cited = obligation(signers.vote(1, block_hash=H1, round=3, valid_round=1))
    assert cited is not None and (cited.type, cited.round) == (VoteType.PREVOTE, 1)
    locked = obligation(signers.vote(1, type=VoteType.PRECOMMIT, block_hash=H1, round=3))
    assert locked is not None and (locked.type, locked.round) == (VoteType.PREVOTE, 3)


def test_vote_when_its_ground_was_seen_or_is_our_own_then_nobody_is_asked(stage: Stage) -> None:
    precommit = stage.signers.vote(1, type=VoteType.PRECOMMIT, round=1, block_hash=H1)
    own = stage.signers.vote(0, round=2, valid_round=1, block_hash=H1)
    stage.end_height(precommit, own, pols=((1, H1),))
    stage.pass_s(600)
    assert not stage.network.asked and not (stage.folder / CHALLENGES_NAME).exists()


def test_vote_when_its_ground_was_not_seen_then_its_signer_is_asked_until_it_answers(
    stage: Stage,
) -> None:
    stage.end_height(stage.signers.vote(2, round=2, valid_round=1, block_hash=H1))
    stage.pass_s(3_600)
    assert 3 <= len(stage.network.asked) <= 8, "ever more seldom"
    assert {member for member, _ in stage.network.asked} == {2}
    assert stage.network.asked[0][1].round == 1
    stage.requests.take(2, pol(round_number=0))
    assert len(stage.desk) == 1
    stage.requests.take(1, pol())
    assert len(stage.desk) == 0 and stage.log.of("challenge_answered")
    stage.pass_s(2 * PATIENCE_S, 3_600)
    assert not stage.evidence.all()


def test_challenge_when_unanswered_for_a_day_then_recorded_once_and_not_sold_as_proof(
    stage: Stage,
) -> None:
    vote = stage.signers.vote(2, type=VoteType.PRECOMMIT, round=1, block_hash=H1)
    stage.end_height(vote)
    stage.pass_s(PATIENCE_S - 120)
    stage.restart()
    assert len(stage.desk) == 1 and not stage.evidence.all()
    stage.pass_s(240)
    (line,) = stage.evidence.all()
    assert (line["member"], line["height"], line["class"]) == (2, 7, 4)
    assert line["until_s"] - line["asked_s"] >= PATIENCE_S
    with pytest.raises(NotProved, match="a claim of the one who asked: PRECOMMIT for block"):
        convict(line, stage.signers.stranger)
    with pytest.raises(NotProved, match="has not signed"):
        forged = line["first"][:-2] + "00"
        convict(line | {"first": forged}, stage.signers.stranger)
    stage.end_height(vote)
    assert len(stage.desk) == 0, "the class is recorded for this member and height"


def test_day_when_the_member_is_away_then_runs_from_the_first_question(stage: Stage) -> None:
    stage.network.connected = frozenset((1, 3))
    stage.end_height(stage.signers.vote(2, type=VoteType.PRECOMMIT, round=1, block_hash=H1))
    stage.pass_s(2 * PATIENCE_S, 600)
    assert not stage.network.asked and not stage.evidence.all()
    stage.network.connected = frozenset((1, 2, 3))
    stage.pass_s(PATIENCE_S // 2, 600)
    assert stage.network.asked and not stage.evidence.all()
    stage.pass_s(PATIENCE_S, 600)
    assert len(stage.evidence.all()) == 1


def test_day_when_this_member_was_away_for_it_then_asks_again_before_it_records(
    stage: Stage,
) -> None:
    stage.end_height(stage.signers.vote(2, type=VoteType.PRECOMMIT, round=1, block_hash=H1))
    stage.pass_s(120)
    stage.restart()
    stage.now_s += 2 * PATIENCE_S
    asked = len(stage.network.asked)
    stage.pass_s(60)
    assert len(stage.network.asked) == asked + 1 and not stage.evidence.all()
    stage.requests.take(2, pol())
    assert len(stage.desk) == 0 and not stage.evidence.all()


def test_challenge_when_killed_while_it_is_recorded_then_not_forgiven(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    stage.end_height(stage.signers.vote(2, type=VoteType.PRECOMMIT, round=1, block_hash=H1))
    stage.pass_s(PATIENCE_S - 120)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(stage.evidence, "add_unanswered", killed)
        stage.pass_s(7_200)
    stage.restart()
    assert len(stage.desk) == 1
    stage.pass_s(300)
    assert len(stage.evidence.all()) == 1 and len(stage.desk) == 0


def test_challenges_when_there_are_many_then_bounded(stage: Stage) -> None:
    """C99."""
    for height in range(1, OPEN_MAX + 10):
        stage.end_height(
            *(
                stage.signers.vote(
                    member, type=VoteType.PRECOMMIT, round=1, height=height, block_hash=H1
                )
                for member in (1, 2, 3)
            )
        )
    assert len(stage.desk) == 3 * OPEN_OF_MEMBER_MAX <= OPEN_MAX


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b'[{"vote":"00"}]', b"null"])
def test_file_when_damaged_then_as_good_as_none(stage: Stage, data: bytes) -> None:
    (stage.folder / CHALLENGES_NAME).write_bytes(data)
    stage.restart()
    assert len(stage.desk) == 0


def test_member_when_it_sees_a_precommit_without_ground_then_asks_over_its_link(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world, liar = await with_liar(tmp_path)
        for process in world.processes.values():
            process.production._first_epoch_blocks = 2
        liar.send(liar.vote(type=VoteType.PRECOMMIT, block_hash=b"\x07" * 32))
        await liar.settle()
        for process in world.processes.values():
            process.engine.work_available()
        await world.until_height(2)
        await world.pass_time(2)
        assert not liar.victim.network.bodies(FrameKind.GET_CERT, to=1), "honest votes had ground"
        world.links_of = lambda member: frozenset(range(4)) - {member}  # type: ignore[method-assign]
        world.carry = lambda *frame: None  # type: ignore[method-assign]
        await world.pass_time(61)
        (body,) = liar.victim.network.bodies(FrameKind.GET_CERT, to=LIAR)
        asked = GetCertificate.decode(body)
        assert (asked.height, asked.round, asked.block_hash) == (1, 0, b"\x07" * 32)
        assert liar.victim.driver.mode is Mode.VOTING
        await world.close()

    run_virtual(story())
