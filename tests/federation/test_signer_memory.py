"""Two memories of one key, journal and guard: which is behind shows at start (consensus:R5, R6)."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation import wal
from federation.consensus import effects as fx
from federation.consensus import events as ev
from federation.consensus.records import (
    Counter,
    JournalImage,
    Mode,
    VoteRecord,
    decode_record,
    restore,
)
from federation.signer import Signer
from federation.signer_port import SignerRefused, SignerUnreachable
from federation.start import StartOptions, signer_differs
from tests.federation.engine_world import Process, World, run_virtual
from tests.federation.founded import member_folder

RESTART = StartOptions()


def image_of(process: Process) -> JournalImage:
    records = [
        decode_record(r.kind, r.body)
        for r in process.journal.read_older(process.journal.numbers[-1])
    ]
    return restore(records)


def test_r5_counter_when_votes_are_journaled_then_it_goes_before_the_next_record(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=4)
        process = world.start_all()[2]
        await world.until_height(4)
        records = [decode_record(r.kind, r.body) for r in process.journal.read_older(1)]
        counters = [r.signatures for r in records if isinstance(r, Counter)]
        assert counters == sorted(set(counters)) and counters[0] == 0
        for one, following in zip(records, records[1:], strict=False):
            assert not isinstance(one, Counter) or not isinstance(following, Counter)
        least, most = image_of(process).signatures or (0, 0)
        assert least <= process.signer.counter <= most
        assert sum(isinstance(r, VoteRecord) for r in records) < process.signer.counter
        await world.close()

    run_virtual(story())


@pytest.mark.slow
@pytest.mark.parametrize("rolled_back", ["signer", "journal"])
def test_r6_memory_when_one_of_the_two_is_rolled_back_then_amnesiac(
    tmp_path: Path, rolled_back: str
) -> None:
    """A member with an older guard, or an older journal, abstains like one that lost it."""

    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=40)
        world.start_all()
        await world.until_height(3)
        await world.kill(1)
        folder = member_folder(tmp_path, 1)
        whole = folder.guard.parent if rolled_back == "signer" else folder.journal
        older = tmp_path / "older"
        shutil.copytree(whole, older)
        assert world.start(1, RESTART).start is ev.StartMode.INTACT
        await world.until_height(6)
        await world.kill(1)
        shutil.rmtree(whole)
        shutil.copytree(older, whole)
        back = world.start(1, RESTART)
        assert back.start is ev.StartMode.AMNESIAC
        await world.until(lambda: "VOTING" in back.modes)
        assert not back.signer.abstains and back.signer.vote_from > 6
        await world.until(lambda: back.signer.position[0] >= back.signer.vote_from)
        await world.kill(1)
        assert world.start(1, RESTART).start is ev.StartMode.INTACT
        await world.close()

    run_virtual(story())


@pytest.mark.slow
def test_r6_journal_when_rotated_then_still_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BASE carries the counter, so a restart right after a rotation compares too."""

    async def story() -> None:
        monkeypatch.setattr(wal, "ROTATE_ABOVE_BYTES", 4_000)
        world = World(tmp_path, first_epoch_blocks=12)
        process = world.start_all()[1]
        for height in range(2, 12):
            await world.until_height(height)
            image = image_of(process)
            assert image.signatures is not None
            assert signer_differs(image, process.signer) == ""
        assert len(process.journal.numbers) > 2
        await world.close()

    run_virtual(story())


class Away:
    """A signer that hears what it may not sign, and answers nothing else."""

    def __init__(self, real: Signer) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def sign_vote(self, *_: Any) -> Any:
        raise SignerUnreachable("away")

    sign_block_hash = sign_rollcall_answer = sign_vote


def test_c40_signer_when_it_does_not_answer_then_nothing_leaves_until_it_is_back(
    tmp_path: Path,
) -> None:
    """What was ordered meanwhile is signed afterwards, in order, and the member goes on."""

    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=40)
        process = world.start_all()[1]
        await world.until_height(2)
        real = process.signer

        signatures = process.engine._signatures
        signatures._signer = Away(real)  # type: ignore[assignment]
        counter = real.counter
        await world.until_height(5)
        assert real.counter == counter and process.failure is None

        def lost_again() -> None:
            raise SignerUnreachable("gone again")

        process.engine.signer_is_back(lost_again)
        await world.until_height(6)
        assert real.counter == counter and process.failure is None and signatures._waiting
        signatures._signer = real
        process.engine.signer_is_back(lambda: None)
        await world.until(lambda: real.counter > counter + 4)
        assert process.failure is None and not signatures._waiting
        await world.kill(1)
        assert world.start(1, RESTART).start is ev.StartMode.INTACT
        await world.close()

    run_virtual(story())


def test_c60_orders_when_the_member_halts_while_its_signer_is_away_then_forgotten(
    tmp_path: Path,
) -> None:
    """The signer would refuse them, which ends a member that still has final blocks to serve."""

    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=40)
        process = world.start_all()[1]
        await world.until_height(2)
        engine, signatures, real = process.engine, process.engine._signatures, process.signer
        signatures._signer = Away(real)  # type: ignore[assignment]
        block = process.chain.header(1).serialize()
        conflict = ev.ConflictFound(now_ms=world.now_ms(), first=block, second=block)

        def halt() -> None:
            assert signatures._waiting
            engine._feed(conflict)

        await world.until(lambda: bool(signatures._waiting))
        engine.post(halt)
        await world.until(lambda: "HALTED" in process.modes)
        signatures._signer = real
        engine.signer_is_back(lambda: None)
        await world.pass_time(1)
        assert process.failure is None and real.halted and not signatures._waiting
        await world.close()

    run_virtual(story())


def test_c36_orders_when_the_member_abstains_while_its_signer_is_away_then_blocks_alone_wait(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=40)
        process = world.start_all()[1]
        await world.until_height(2)
        signatures = process.engine._signatures
        signatures._signer = Away(process.signer)  # type: ignore[assignment]
        kinds = (fx.SignVote, fx.SignBlock)
        await world.until(lambda: {type(order) for order in signatures._waiting} == set(kinds))
        blocks = [order for order in signatures._waiting if isinstance(order, fx.SignBlock)]
        signatures.change_mode(Mode.ABSTAINING)
        assert list(signatures._waiting) == blocks and process.signer.abstains
        await world.close()

    run_virtual(story())


def test_c70_signer_when_it_was_away_as_the_journal_got_lost_then_told_at_the_next_start(
    tmp_path: Path,
) -> None:
    """The process that wrote AMNESIA died before its signer was back."""

    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=40)
        process = world.start_all()[1]
        await world.until_height(2)
        for index in range(4):
            await world.kill(index)
        shutil.rmtree(process.folder.chain)  # its own signatures there would tell as well (C75)
        process = world.start(1, StartOptions(restored=True))
        await world.until(lambda: process.modes == ["ABSTAINING"])
        process.signer._store(replace(process.signer._guard, abstains=False))
        await world.kill(1)
        process = world.start(1, RESTART)
        assert process.start is ev.StartMode.INTACT and not process.signer.abstains
        await world.until(lambda: process.modes == ["ABSTAINING"])
        assert process.signer.abstains
        await world.close()

    run_virtual(story())


def test_r6_signer_when_told_to_abstain_then_no_vote_until_a_height_is_set(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=40)
        process = world.start_all()[0]
        await world.until_height(2)
        process.signer.abstain()
        await world.until(lambda: process.failure is not None)
        assert isinstance(process.failure, SignerRefused) and "R6" in str(process.failure)
        await process.kill()
        # it died before the journal said so: the start sees it all the same
        assert world.start(0, RESTART).start is ev.StartMode.AMNESIAC
        await world.close()

    run_virtual(story())
