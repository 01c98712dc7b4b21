"""The votes for a block, asked of those who have them (consensus:C57, N25)."""

from pathlib import Path

from federation.certificate_requests import OPEN_MAX, CertificateRequests
from federation.consensus.encoding import FrameKind
from federation.consensus.messages import GetCertificate
from federation.consensus.votes import Certificate, VoteType
from federation.start import StartOptions
from tests.federation.engine_world import World, run_virtual

H1, H2 = b"\x01" * 32, b"\x02" * 32


def request(kind: VoteType = VoteType.PRECOMMIT, **fields: object) -> GetCertificate:
    plain = {"type": kind, "height": 5, "round": 2, "block_hash": H1} | fields
    return GetCertificate(**plain)  # type: ignore[arg-type]


def certificate(kind: VoteType = VoteType.PRECOMMIT, **fields: object) -> Certificate:
    votes = tuple((member, -1, bytes(64)) for member in range(3))
    plain = {"type": kind, "height": 5, "round": 2, "block_hash": H1, "votes": votes} | fields
    return Certificate(**plain)  # type: ignore[arg-type]


def test_certificate_when_asked_for_then_handed_over_and_no_other() -> None:
    requests = CertificateRequests(None)  # type: ignore[arg-type]
    came: list[tuple[int, Certificate]] = []
    commit = requests.open(request(), lambda *found: came.append(found))
    pol = requests.open(request(VoteType.PREVOTE), lambda *found: came.append(found))
    assert commit is not None and pol is not None
    assert requests.wants(certificate(round=0)), "who lacks a COMMIT does not know its round"
    for other in (
        certificate(VoteType.PREVOTE, round=1),
        certificate(height=6),
        certificate(block_hash=H2),
    ):
        assert not requests.wants(other)
        requests.take(1, other)
    assert not came
    requests.take(1, certificate(round=0))
    requests.take(2, certificate(VoteType.PREVOTE))
    assert [member for member, _ in came] == [1, 2]
    requests.close(commit)
    requests.close(commit)
    assert not requests.wants(certificate())


def test_requests_when_there_are_too_many_then_no_more() -> None:
    requests = CertificateRequests(None)  # type: ignore[arg-type]
    for height in range(OPEN_MAX):
        assert requests.open(request(height=height), lambda *found: None)
    assert requests.open(request(height=OPEN_MAX), lambda *found: None) is None


def test_member_when_it_adopted_a_block_then_others_give_it_the_votes(tmp_path: Path) -> None:
    """N25: a block adopted by C38 may come without a COMMIT."""

    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=3)
        world.start_all()
        await world.until_height(3)
        await world.kill(3)
        for process in world.processes.values():
            process.production._first_epoch_blocks = 6
            process.engine.work_available()
        await world.until_height(6)
        own = await world.processes[0].engine.commit_of(6)
        assert own is not None and own.is_complete(3)
        assert FrameKind.GET_CERT not in world.processes[0].network.sent_kinds()
        back = world.start(3, StartOptions())
        await world.until(lambda: back.chain.tip_height == 6)
        found = await back.engine.commit_of(6)
        assert found is not None and found.block_hash == back.chain.header(6).hash
        assert FrameKind.GET_CERT in back.network.sent_kinds()
        for other in (0, 1, 2):
            world.cut(3, other)
        assert await back.engine.commit_of(5) is None
        await world.close()

    run_virtual(story())


def test_certificate_when_nobody_asked_or_votes_are_wrong_then_of_no_effect(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=2)
        first, *_ = world.start_all()
        await world.until_height(2)
        block_hash = first.chain.header(1).hash
        forged = certificate(height=1, block_hash=block_hash)
        charged = dict(first.network.failed)
        first.engine.on_frame(1, FrameKind.CERT, forged.encode())
        await world.pass_time(0.1)
        assert first.network.failed == charged, "not even looked at"
        came: list[Certificate] = []
        wanted = request(height=1, block_hash=block_hash)
        first.engine._requests.open(wanted, lambda _, found: came.append(found))
        first.engine.on_frame(1, FrameKind.CERT, forged.encode())
        await world.pass_time(0.1)
        assert not came and first.network.failed.get(1, 0) == charged.get(1, 0) + 1
        await world.close()

    run_virtual(story())
