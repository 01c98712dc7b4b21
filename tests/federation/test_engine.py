"""The engine with the real core, journal, signer and chain, on a virtual clock."""

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

from federation import wal
from federation.consensus import effects as fx
from federation.consensus import events as ev
from federation.consensus.encoding import NIL, FrameKind
from federation.consensus.messages import GetBlock, decode_message
from federation.consensus.records import (
    BlockSigRecord,
    Mode,
    RecordKind,
    Resume,
    VoteRecord,
    decode_record,
)
from federation.consensus.votes import BlockMessage, Vote, VoteType
from federation.engine import Halted
from federation.files import FileLayer
from federation.signer import SignerRefused
from federation.start import StartOptions
from federation.wal import JournalFailed
from sidechain.errors import InvalidBlock, InvariantError
from tests.factories import ALICE, BOB
from tests.federation.engine_world import World, run_virtual

RESTART = StartOptions()


class FullDisk(FileLayer):
    """Refuses one operation, the so-manieth of its name."""

    def __init__(self, operation: str, at: int) -> None:
        self.operation, self.left = operation, at

    def write(self, descriptor: int, data: bytes) -> int:
        self._step("write")
        return super().write(descriptor, data)

    def sync_data(self, descriptor: int) -> None:
        self._step("sync_data")
        super().sync_data(descriptor)

    def _step(self, operation: str) -> None:
        if operation == self.operation:
            self.left -= 1
            if self.left == 0:
                raise OSError(errno.ENOSPC, "no space left")


def tips(world: World) -> set[bytes]:
    return {process.chain.tip_hash for process in world.processes.values()}


def own_messages(process: Any) -> list[tuple[int, int, int, bytes]]:
    """(height, round, type, hash) of every own vote sent, as others see them."""
    found = []
    for _, kind, body in process.network.sent:
        if kind in (FrameKind.VOTE, FrameKind.PROPOSAL):
            message = decode_message(kind, body)
            vote = message if isinstance(message, Vote) else message.vote  # type: ignore[union-attr]
            if vote.member == process.index:
                found.append((vote.height, vote.round, int(vote.type), vote.block_hash))
    return found


def journaled(world: World, index: int) -> set[tuple[int, int, int, bytes]]:
    """The same of every vote record on disk, read as another process would."""
    process = world.processes[index]
    found = set()
    for record in process.journal.read_older(process.journal.numbers[-1]):
        if record.kind == RecordKind.VOTE:
            entry = decode_record(record.kind, record.body)
            assert isinstance(entry, VoteRecord)
            vote = entry.vote
            found.add((vote.height, vote.round, int(vote.type), vote.block_hash))
    return found


def test_four_members_when_started_then_blocks_are_final_and_equal(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=5)
        world.start_all()
        await world.until_height(5)
        assert len(tips(world)) == 1
        for process in world.processes.values():
            assert process.finals == [process.chain.header(h).hash for h in range(1, 6)]
            assert process.engine.decided_round(5) == 0
            assert not process.log.of("alarm") and not process.log.of("round_failed")
            assert set(own_messages(process)) <= journaled(world, process.index)
        await world.close()

    run_virtual(story())


@pytest.mark.slow
def test_run_when_repeated_with_the_same_seed_then_the_same_block(tmp_path: Path) -> None:
    found = []

    async def story(folder: Path) -> None:
        world = World(folder, first_epoch_blocks=3, seed=7)
        world.start_all()
        await world.until_height(3)
        found.append(tips(world))
        await world.close()

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run_virtual(story(tmp_path / name))
    assert found[0] == found[1]


def test_single_member_when_alone_then_it_makes_blocks(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path, n=1, k=1, first_epoch_blocks=3)
        process = world.start(0)
        await world.until_height(3)
        await world.kill(0)
        again = world.start(0, RESTART)
        assert again.start is ev.StartMode.INTACT
        again.peg.due = True
        await world.until_height(4)
        assert process.finals == [again.chain.header(h).hash for h in range(1, 4)]
        await world.close()

    run_virtual(story())


def test_transaction_when_submitted_then_in_the_next_block_and_no_empty_ones(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world = World(tmp_path)
        for process in world.start_all():
            wallet = world.wallet(process)
        await world.pass_time(5)
        assert tips(world) == {world.params.genesis_hash}
        claim = wallet.claim(wallet.deposit(ALICE.script, 50_000), ALICE)
        world.submit(world.processes[1], claim)
        await world.until_height(1, seconds=1)
        await world.pass_time(5)
        assert all(p.chain.tip_height == 1 for p in world.processes.values())
        assert all(p.chain.find_transaction(claim.txid) for p in world.processes.values())
        await world.close()

    run_virtual(story())


def test_proposer_when_down_then_the_next_round_decides_and_the_log_says_why(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=4)
        for index in (0, 1, 3):
            world.start(index)
        await world.until_height(4)
        lines = world.processes[0].log.of("round_failed")
        assert [(line["height"], line["round"]) for line in lines] == [(2, 0)]
        assert "m2, which is not connected" in lines[0]["why"]
        await world.close()

    run_virtual(story())


@pytest.mark.slow
def test_member_when_killed_and_back_then_it_catches_up_and_votes(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=30)
        world.start_all()
        await world.until_height(3)
        await world.kill(2)
        await world.until_height(23)
        back = world.start(2, RESTART)
        assert back.start is ev.StartMode.INTACT
        await world.until_height(29)
        assert len(tips(world)) == 1 and back.driver.mode is Mode.VOTING
        assert not back.engine.is_behind
        await world.close()

    run_virtual(story())


@pytest.mark.slow
def test_all_members_when_killed_in_the_middle_of_a_height_then_they_go_on(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=12, seed=3)
        world.start_all()
        for height in (2, 5, 8):
            await world.until_height(height)
            # in the middle of the next height: some have voted, nobody is done
            await world.until(
                lambda: any(p.driver.agreement.own_votes for p in world.processes.values())
            )
            for index in range(4):
                await world.kill(index)
            for index in range(4):
                world.start(index, RESTART)
        await world.until_height(12)
        assert len(tips(world)) == 1
        for process in world.processes.values():
            assert not any(process.network.failed.values()), process.log.of("peer_fault")
        await world.close()

    run_virtual(story())


# -- durability


@pytest.mark.parametrize("operation", ["write", "sync_data"])
def test_disk_when_it_fails_then_nothing_leaves_and_the_engine_ends(
    tmp_path: Path, operation: str
) -> None:
    """C40: at every journal operation in turn, what was sent is on the disk."""

    async def story(folder: Path, at: int) -> bool:
        world = World(folder, first_epoch_blocks=4)
        for index in (0, 1, 3):
            world.start(index)
        disk = FullDisk(operation, at)
        victim = world.start(2, layer=disk)
        await world.until(lambda: victim.failure is not None or victim.chain.tip_height == 4)
        failed = victim.failure is not None
        if failed:
            assert isinstance(victim.failure, JournalFailed)
            await world.pass_time(1)  # nothing more may come, whatever timers run out
            sent = set(own_messages(victim))
            await victim.kill()
            back = world.start(2, RESTART)
            assert back.start is ev.StartMode.INTACT
            assert sent <= journaled(world, 2)
            await world.until_height(4)
        await world.close()
        return failed

    for at in (3, 4, 6, 9):  # after BIRTH
        folder = tmp_path / f"{at}"
        folder.mkdir()
        assert run_virtual(story(folder, at))


def test_effects_when_a_vote_is_made_then_block_record_signature_and_frame_in_that_order(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=1)
        process = world.start(0)
        steps: list[str] = []

        def spy(owner: Any, name: str, label: str) -> None:
            real = getattr(owner, name)

            def call(*args: Any, **kwargs: Any) -> Any:
                if label != "frame" or args[0] in (FrameKind.VOTE, FrameKind.PROPOSAL):
                    steps.append(label)
                return real(*args, **kwargs)

            setattr(owner, name, call)

        spy(process.block_files, "save", "block")
        spy(process.journal, "append", "record")
        spy(process.signer, "sign_vote", "sign")
        spy(process.network, "broadcast", "frame")
        for index in (1, 2, 3):
            world.start(index)
        await world.until_height(1)
        first = steps.index("frame")
        # two records: what was seen of others goes with the next own one (J3)
        assert steps[first - 4 : first] == ["block", "record", "record", "sign"]
        for at, step in enumerate(steps):
            if step == "frame":
                assert steps[at - 1] in ("sign", "frame")
        await world.close()

    run_virtual(story())


def test_signer_when_it_refuses_a_new_vote_then_the_engine_ends(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=3)
        processes = world.start_all()
        processes[1].signer.refuse_below(100)
        await world.until(lambda: processes[1].failure is not None)
        assert isinstance(processes[1].failure, SignerRefused)
        assert not own_messages(processes[1])
        await processes[1].kill()
        await world.until_height(3)
        await world.close()

    run_virtual(story())


def test_vote_when_signed_before_a_restart_and_refused_then_it_is_dropped_silently(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world = World(tmp_path, n=1, k=1, first_epoch_blocks=1)
        process = world.start(0)
        await world.until_height(1)
        vote = Vote(
            type=VoteType.PREVOTE,
            height=1,
            round=0,
            valid_round=-1,
            block_hash=b"\x77" * 32,
            member=0,
            signature=bytes(64),
        )
        assert process.engine._signatures.sign_vote(fx.SignVote(vote, None, again=True)) is None
        with pytest.raises(SignerRefused):
            process.engine._signatures.sign_vote(fx.SignVote(vote, None, again=False))
        await world.close()

    run_virtual(story())


def test_decided_block_when_it_does_not_connect_then_the_node_stops(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=2)
        processes = world.start_all()

        def refuse(block: Any, **_: Any) -> None:
            raise InvalidBlock("bad-blk-length")

        processes[0].chain.connect = refuse  # type: ignore[method-assign, assignment]
        await world.until(lambda: processes[0].failure is not None)
        assert isinstance(processes[0].failure, InvariantError)
        await processes[0].kill()
        await world.close()

    run_virtual(story())


# -- starting again


def test_journal_when_lost_then_abstains_until_what_it_forgot_is_final(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path, n=4, k=3, first_epoch_blocks=40)
        world.start_all()
        await world.until_height(3)
        await world.kill(1)
        lost = world.start(1, StartOptions(restored=True))
        assert lost.start is ev.StartMode.AMNESIAC
        await world.until(lambda: "VOTING" in lost.modes)
        records = [
            decode_record(r.kind, r.body) for r in lost.journal.read_older(lost.journal.numbers[-1])
        ]
        (resume,) = [r for r in records if isinstance(r, Resume)]
        assert lost.chain.tip_height >= resume.height - 1
        assert all(sent[0] >= resume.height for sent in own_messages(lost))
        # the signer refuses below that too, over restarts (C72)
        assert lost.signer._guard.vote_from == resume.height
        await world.until(lambda: own_messages(lost) != [])
        await world.close()

    run_virtual(story())


def test_c75_journal_when_older_than_the_own_signed_blocks_then_amnesiac(tmp_path: Path) -> None:
    """The journal alone was put back; chain and guard were not, and the guard is asked last."""

    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=60)
        world.start_all()
        await world.until_height(2)
        await world.kill(0)
        folder = tmp_path / "members" / "m0"
        kept = tmp_path / "kept"
        shutil.copytree(folder / "journal", kept)
        shutil.copy(folder / "signer" / "guard", kept / "guard")
        world.start(0, RESTART)
        tip = world.processes[0].chain.tip_height
        await world.until_height(tip + 4)
        await world.kill(0)
        shutil.copy(kept / "guard", folder / "signer" / "guard")
        shutil.rmtree(folder / "journal")
        shutil.copytree(kept, folder / "journal", ignore=shutil.ignore_patterns("guard"))
        back = world.start(0, RESTART)
        assert back.start is ev.StartMode.INTACT  # by journal and guard alone
        await world.until(lambda: back.modes != [])
        assert back.modes[0] == "ABSTAINING"
        assert "own signatures" in back.engine.alarms[0]
        await world.close()

    run_virtual(story())


def test_journal_when_its_last_record_is_doubtful_then_the_height_is_skipped_and_settled(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=40)
        world.start_all()
        await world.until_height(3)
        await world.kill(2)
        path = max((tmp_path / "members" / "m2" / "journal").glob("journal-[0-9]*"))
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))
        tip = 3
        back = world.start(2, RESTART)
        assert back.start is ev.StartMode.DOUBTFUL
        tip = back.chain.tip_height
        await world.until(lambda: own_messages(back) != [])
        assert min(sent[0] for sent in own_messages(back)) >= tip + 2
        assert not (path.parent / "journal-doubtful").exists()
        await world.kill(2)
        assert world.start(2, RESTART).start is ev.StartMode.INTACT
        await world.close()

    run_virtual(story())


def test_own_vote_when_it_comes_from_elsewhere_then_the_process_stops(tmp_path: Path) -> None:
    """C75: a second process uses the key."""

    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=30)
        processes = world.start_all()
        await world.until_height(2)
        victim = processes[2]
        agreement = victim.driver.agreement
        stray = Vote(
            type=VoteType.PRECOMMIT,
            height=agreement.height,
            round=2,
            valid_round=-1,
            block_hash=NIL,
            member=2,
            signature=bytes(64),
        )
        digest = stray.digest(world.params.genesis_hash, victim.driver.params_root)
        signed = victim.signer._block_key.sign_schnorr(digest)
        body = stray.encode()[:-64] + signed
        victim.engine.on_frame(0, FrameKind.VOTE, body)
        await world.until(lambda: victim.failure is not None)
        assert isinstance(victim.failure, Halted)
        await victim.kill()
        back = world.start(2, RESTART)
        await world.until(lambda: back.failure is not None)
        assert isinstance(back.failure, Halted)
        await back.kill()
        healed = world.start(2, StartOptions(restored=True))
        await world.until(lambda: "VOTING" in healed.modes)
        await world.close()

    run_virtual(story())


# -- operator


@pytest.mark.slow
def test_halted_member_when_the_operator_keeps_its_chain_then_it_votes_again(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=60)
        processes = world.start_all()
        await world.until_height(2)
        victim = processes[3]
        ours = victim.chain.header(1).serialize()
        victim.engine.post(
            lambda: victim.engine._feed(
                ev.ConflictFound(now_ms=world.now_ms(), first=ours, second=ours)
            )
        )
        await world.until(lambda: victim.driver.mode is Mode.HALTED)
        assert victim.signer.halted and not await victim.engine.resume_at(5)
        stuck_at = victim.chain.tip_height
        await world.until(lambda: processes[0].chain.tip_height > stuck_at + 3)
        assert victim.chain.tip_height == stuck_at
        await world.kill(3)
        victim = world.start(3, RESTART)
        await world.pass_time(1)
        assert victim.driver.mode is Mode.HALTED and victim.signer.halted
        assert await victim.engine.unhalt(victim.chain.tip_hash)
        assert not victim.signer.halted
        assert not await victim.engine.unhalt(victim.chain.tip_hash)
        await world.until(lambda: own_messages(victim) != [])
        await world.close()

    run_virtual(story())


def test_amnesiac_when_the_operator_resumes_it_then_it_votes_from_that_height(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=40)
        world.start_all()
        await world.until_height(2)
        for index in range(4):
            await world.kill(index)
        lost = [world.start(i, StartOptions(restored=True)) for i in range(3)]
        await world.pass_time(30)
        height = lost[0].chain.tip_height
        assert all(p.driver.mode is Mode.ABSTAINING for p in lost)
        tip = max(p.chain.tip_height for p in lost)
        for process in lost:
            assert await process.engine.resume_at(tip + 1)
            assert process.signer._guard.vote_from == tip + 1
        await world.until_height(height + 3)
        await world.close()

    run_virtual(story())


# -- sending


def test_block_when_the_link_has_no_room_then_it_is_left_out_and_the_link_stays(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=2)
        world.lost = lambda source, to, kind: kind == FrameKind.BLOCK and to == 3
        processes = world.start_all()
        processes[0].network.room[3] = 10
        await world.until(lambda: any(p.network.bodies(FrameKind.GET_BLOCK) for p in processes))
        asked = decode_message(
            FrameKind.GET_BLOCK, processes[3].network.bodies(FrameKind.GET_BLOCK)[0]
        )
        assert isinstance(asked, GetBlock)
        message = BlockMessage(height=1, block_hash=asked.block_hash, data=bytes(500))
        before = len(processes[0].network.sent)
        processes[0].engine._send(3, message)
        assert len(processes[0].network.sent) == before
        processes[0].engine._send(2, message)
        assert len(processes[0].network.sent) == before + 1
        await world.until_height(2)  # FINAL brings what BLOCK did not
        await world.close()

    run_virtual(story())


def test_block_signatures_when_journaled_then_each_with_its_certificate(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=2)
        process = world.start_all()[0]
        await world.until_height(2)
        records = [
            decode_record(r.kind, r.body)
            for r in process.journal.read_older(process.journal.numbers[-1])
        ]
        signed = [r for r in records if isinstance(r, BlockSigRecord)]
        assert [(r.height, r.block_hash) for r in signed] == [
            (h, process.chain.header(h).hash) for h in (1, 2)
        ]
        assert all(r.certificate.block_hash == r.block_hash for r in signed)
        assert not list(process.folder.journal.glob("block-*"))
        await world.close()

    run_virtual(story())


def test_close_when_timers_are_set_then_none_runs_out(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=1)
        process = world.start(0)
        await world.pass_time(0.3)
        world.end(0)
        process.engine.close()
        assert len(process.engine._timers) == 0
        process.engine.post_later(1, lambda: pytest.fail("an act after the end"))
        before = len(process.network.sent)
        await world.pass_time(60)
        assert len(process.network.sent) == before
        await process.kill()

    run_virtual(story())


def test_proposal_when_own_transactions_make_it_invalid_then_they_are_left_out(
    tmp_path: Path,
) -> None:
    """That cannot be, but the chain has to go on if it is."""

    async def story() -> None:
        world = World(tmp_path)
        processes = world.start_all()
        wallet = world.wallet(processes[0])
        claim = wallet.claim(wallet.deposit(BOB.script, 50_000), BOB)

        def refuse(block: Any) -> None:
            if len(block.transactions) > 1:
                raise InvalidBlock("bad-blk-sigops")

        for process in processes:
            process.peg.objective = refuse
        for process in processes:
            world.submit(process, claim)
        await world.until_height(1)
        assert any(p.engine.alarms for p in processes)
        assert all(len(p.chain.block(1).transactions) == 1 for p in processes)
        await world.close()

    run_virtual(story())


@pytest.mark.slow
def test_journal_when_large_then_rotated_between_heights_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """J7: a new file begins with a height, and holds all that a restart needs."""

    async def story() -> None:
        monkeypatch.setattr(wal, "ROTATE_ABOVE_BYTES", 5_000)
        world = World(tmp_path, first_epoch_blocks=14)
        process = world.start_all()[1]
        await world.until_height(10)
        numbers = process.journal.numbers
        assert len(numbers) > 2 and numbers[0] == 1  # none is old enough to go
        voted = max(sent[:3] for sent in own_messages(process))
        await world.kill(1)
        back = world.start(1, RESTART)
        assert back.start is ev.StartMode.INTACT and back.opened.image.position >= voted
        assert back.journal.numbers == numbers
        await world.until_height(14)
        assert len(tips(world)) == 1
        await world.close()

    run_virtual(story())
