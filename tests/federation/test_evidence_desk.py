"""Block signatures as evidence: never without the header that says their height (C56b, C58)."""

from dataclasses import replace
from pathlib import Path

from federation.consensus.encoding import FrameKind
from federation.consensus.evidence import two_blocks
from federation.consensus.messages import Answer, Evidence, EvidenceClass
from federation.consensus.records import Mode
from federation.header_signatures import header_signed_by
from federation.start import StartOptions
from federation.stranger import Stranger, convict
from tests.federation.engine_world import World, run_virtual
from tests.federation.test_incoming import LIAR, Liar, with_liar


def relabelled(liar: Liar, member: int, height: int):  # type: ignore[no-untyped-def]
    """The signature of an old block, said to be of the height in progress."""
    block_hash = liar.victim.chain.header(height).hash
    old = liar.block_signature(block_hash, height, member)
    return replace(old, height=liar.victim.driver.height)


def test_old_block_signature_when_said_to_be_of_now_then_its_signer_is_not_harmed(
    tmp_path: Path,
) -> None:
    """One liar could otherwise stop any member (C75), or have it convicted by all (C56b)."""

    async def story() -> None:
        world, liar = await with_liar(tmp_path, first_epoch_blocks=3)
        await world.until_height(3)
        for member in (0, 1, 2):
            liar.send(relabelled(liar, member, 2))
        await liar.settle()
        assert liar.victim.driver.mode is Mode.VOTING and liar.victim.failure is None
        assert not liar.victim.evidence.all() and liar.victim.network.failed[LIAR] == 3
        for process in world.processes.values():
            process.production._first_epoch_blocks = 5
            process.engine.work_available()
        await world.until_height(5)
        assert not any(p.evidence.all() for p in world.processes.values())
        await world.close()

    run_virtual(story())


def test_old_block_signature_when_shown_in_a_roll_call_then_no_answer(tmp_path: Path) -> None:
    """C73: a liar must not make an intact member believe that its journal was rolled back."""

    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=3)
        world.start_all()
        await world.until_height(3)
        await world.kill(0)
        for other in (1, 2):
            world.cut(0, other)
        victim = world.start(0, StartOptions())
        liar = Liar(world, victim)
        await world.pass_time(0.05)
        nonce = victim.network.bodies(FrameKind.ROLLCALL)[-1][32:]
        seen = relabelled(liar, 0, 2)
        answer = Answer(
            known=0,
            known_hash=bytes(32),
            abstaining=False,
            answerer_key=bytes(32),
            signature=bytes(64),
            proof=None,
            seen=seen,
        )
        signed = world.processes[LIAR].signer.sign_rollcall_answer(
            answer, world.members.members[0].vote_key, nonce
        )
        liar.send(signed)
        await world.pass_time(0.1)
        assert victim.network.failed.get(LIAR) == 1 and victim.driver.mode is not Mode.ABSTAINING
        await world.close()

    run_virtual(story())


def test_evidence_of_bare_block_signatures_when_headers_are_unknown_then_nobody_is_accused(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world, liar = await with_liar(tmp_path, first_epoch_blocks=3)
        await world.until_height(3)
        height = liar.victim.driver.height
        old = relabelled(liar, 1, 2)
        unknown = liar.block_signature(b"\x07" * 32, height, 1)
        liar.send(two_blocks(old, unknown))
        liar.send(two_blocks(unknown, liar.block_signature(b"\x08" * 32, height, 1)))
        await liar.settle()
        assert not liar.victim.evidence.all() and not liar.victim.network.failed.get(LIAR)
        await world.close()

    run_virtual(story())


def test_member_when_it_signs_two_blocks_then_convicted_once_the_headers_are_here(
    tmp_path: Path,
) -> None:
    """C56(b), found by the core; what is stored and told convinces a stranger."""

    async def story() -> None:
        world, liar = await with_liar(tmp_path)
        victim = liar.victim
        blocks = [
            victim.chain.build_template(
                time_s=world.unix_time_s() + i, coinbase_scripts=(), transactions=()
            )
            for i in range(2)
        ]
        signatures = [liar.block_signature(block.hash, 1) for block in blocks]
        for signature in signatures:
            liar.send(signature)
        await liar.settle()
        assert not victim.evidence.all()
        assert victim.log.of("block_signatures_without_headers")
        assert FrameKind.EVIDENCE not in victim.network.sent_kinds()
        headers = [
            header_signed_by(block.header, signature, world.members).serialize()
            for block, signature in zip(blocks, signatures, strict=True)
        ]
        told = Evidence(EvidenceClass.TWO_BLOCKS, headers[0], headers[1])
        for _ in range(2):
            liar.send(told)
        await liar.settle()
        (line,) = victim.evidence.all()
        assert line["member"] == LIAR and convict(line, Stranger.of(world.file)).height == 1
        assert len(victim.network.bodies(FrameKind.EVIDENCE, to=1)) == 1
        assert [e["member"] for e in world.processes[1].evidence.all()] == [LIAR]
        await world.close()

    run_virtual(story())


def test_block_signatures_when_the_missing_header_comes_with_the_final_block_then_convicted(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world, liar = await with_liar(tmp_path)
        victim = liar.victim
        blocks = [
            victim.chain.build_template(
                time_s=world.unix_time_s() + i, coinbase_scripts=(), transactions=()
            )
            for i in range(2)
        ]
        known = {blocks[0].hash: blocks[0].header}
        desk = victim.engine._evidence
        desk._find = known.get  # type: ignore[method-assign,assignment]
        for block in blocks:
            liar.send(liar.block_signature(block.hash, 1))
        await liar.settle()
        desk.begin_height(1)
        assert not victim.evidence.all()
        known[blocks[1].hash] = blocks[1].header
        desk.begin_height(2)
        (line,) = victim.evidence.all()
        assert line["member"] == LIAR and convict(line, Stranger.of(world.file)).height == 1
        await world.close()

    run_virtual(story())
