"""Catch-up with honest and lying peers, and proofs of a broken federation (C38, C54, C60)."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from federation.consensus.encoding import FrameKind
from federation.consensus.messages import GetFinal, decode_message, encode_message
from federation.consensus.records import Mode
from federation.signed_heights import sign_heights
from federation.start import StartOptions
from federation.stranger import Stranger, convict
from sidechain.chain import Chain
from sidechain.errors import InvalidBlock, InvariantError
from sidechain.primitives.block import Block
from sidechain.script.block_signature import signblock_witness
from tests.federation.engine_world import Process, World, run_virtual
from tests.federation.founded import member_folder
from tests.federation.test_incoming import LIAR, Liar

RESTART = StartOptions()


async def grown(folder: Path, height: int, **fields: Any) -> World:
    """Members 0, 1 and 2 with so many blocks; member 3's part is the test's."""
    world = World(folder, first_epoch_blocks=height, **fields)
    for index in (0, 1, 2):
        world.start(index)
    await world.until_height(height)
    return world


async def left_behind(folder: Path, *, at: int, height: int) -> tuple[World, list[bytes]]:
    """Member 0 stopped early, the others (with member 3) went on; blocks of the longer chain."""
    world = World(folder, first_epoch_blocks=at)
    world.start_all()
    await world.until_height(at)
    await world.kill(0)
    world.first_epoch_blocks = height
    for process in world.processes.values():
        process.production._first_epoch_blocks = height
        process.engine.work_available()
    await world.until_height(height)
    chain = world.processes[1].chain
    return world, [chain.block_bytes(h) for h in range(1, height + 1)]


def signed_ahead(folder: Path, height: int) -> World:
    """Members 1, 2 and 3 with so many blocks that all have signed; member 0 has none."""
    world = World(folder)
    source = folder / "signed"
    with contextlib.closing(Chain.open(source, world.params)) as chain:
        sign_heights(
            chain, secrets=world.secrets, k=world.members.k, count=height, coinbase_scripts=()
        )
    for index in (1, 2, 3):
        shutil.copytree(source, member_folder(folder, index).chain)
    for index in (1, 2, 3):
        world.start(index)
    return world


def alone(world: World, index: int = 0) -> Process:
    """Only this member; what others say comes from the test."""
    process = world.start(index, RESTART)
    for other in range(world.members.n):
        if other != index:
            process.engine.on_link(other, True)
    return process


class Scripted:
    """Plays every peer of a member that is alone: takes its requests."""

    def __init__(self, world: World, victim: Process) -> None:
        self.world, self.victim = world, victim
        self.links = frozenset(range(world.members.n)) - {victim.index}
        world.links_of = self._links  # type: ignore[method-assign]
        world.carry = lambda *frame: None  # type: ignore[method-assign]
        world.cut = self._cut  # type: ignore[method-assign]
        self.seen = 0

    def _links(self, member: int) -> frozenset[int]:
        return self.links

    def _cut(self, a: int, b: int) -> None:
        self.links -= {b}
        self.victim.engine.on_link(b, False)

    def requests(self) -> list[tuple[int, int, int]]:
        """New GET_FINAL frames: (peer, from, count)."""
        frames = [
            (to, decode_message(kind, body))
            for to, kind, body in self.victim.network.sent[self.seen :]
            if kind == FrameKind.GET_FINAL
        ]
        self.seen = len(self.victim.network.sent)
        return [(to, m.from_height, m.count) for to, m in frames if isinstance(m, GetFinal)]

    def claim(self, member: int, height: int) -> None:
        """The peer's STATUS: this height is in progress there."""
        own = self.victim.network.bodies(FrameKind.STATUS)[-1]
        body = height.to_bytes(4, "little") + own[4:]
        self.victim.engine.on_frame(member, FrameKind.STATUS, body)

    def give(self, member: int, *blocks: bytes) -> None:
        for block in blocks:
            self.victim.engine.on_frame(member, FrameKind.FINAL, block)


@pytest.mark.slow
def test_member_when_far_behind_then_connects_in_order_from_several_peers(tmp_path: Path) -> None:
    async def story() -> None:
        world, blocks = await left_behind(tmp_path, at=2, height=60)
        back = world.start(0, RESTART)
        await world.until(lambda: back.chain.tip_height == 60, seconds=5)
        assert back.finals == [Block.decode(b, world.params).hash for b in blocks[2:]]
        asked = [
            (to, m.from_height, m.count)
            for to, kind, body in back.network.sent
            if kind == FrameKind.GET_FINAL and isinstance(m := decode_message(kind, body), GetFinal)
        ]
        assert all(first + count - 1 <= 60 for _, first, count in asked)
        assert len({to for to, _, _ in asked}) > 1
        await world.pass_time(1)
        assert not back.network.expected and not back.engine.is_behind
        await world.close()

    run_virtual(story())


def test_blocks_when_synced_then_one_write_for_many_and_all_on_disk_before_a_vote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N28: one sync for up to 64 final blocks of others, and always before anything is signed."""

    async def story() -> None:
        world = signed_ahead(tmp_path, 150)
        back = world.start(0)
        database = back.chain._state._database
        written: list[int] = []
        signed_with_blocks_held: list[bool] = []
        plain_write, plain_sign = database.write, back.signer.sign_vote

        def write(puts: Any, deletes: Any = (), *, sync: bool = True) -> None:
            plain_write(puts, deletes, sync=sync)
            written.append(back.chain.tip_height)

        def sign_vote(*order: Any) -> Any:
            signed_with_blocks_held.append(bool(database._held))
            return plain_sign(*order)

        monkeypatch.setattr(database, "write", write)
        monkeypatch.setattr(back.signer, "sign_vote", sign_vote)
        await world.until(lambda: back.chain.tip_height == 150, seconds=5)
        await world.pass_time(2)
        assert not database._held and back.chain.tip_height == 150
        assert 2 <= len(written) < 30, written
        assert max(b - a for a, b in zip([2, *written], written, strict=False)) <= 64
        for process in world.processes.values():
            process.peg.due = True
            process.engine.work_available()
        await world.until_height(152)
        assert signed_with_blocks_held and not any(signed_with_blocks_held)
        await world.close()

    run_virtual(story())


def test_member_when_killed_in_the_middle_of_catching_up_then_goes_on_from_there(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world = signed_ahead(tmp_path, 200)
        back = world.start(0)
        await world.until(lambda: back.chain.tip_height >= 90, seconds=5)
        back.chain._state._database._held.clear()  # what SIGKILL takes away
        await world.kill(0)
        again = world.start(0, RESTART)
        assert 26 <= again.chain.tip_height < 200
        await world.until(lambda: again.chain.tip_height == 200, seconds=5)
        await world.close()

    run_virtual(story())


def test_peer_when_it_lies_then_left_alone_and_others_are_asked(tmp_path: Path) -> None:
    async def story() -> None:
        world, blocks = await left_behind(tmp_path, at=2, height=20)
        for index in (1, 2, 3):
            await world.kill(index)
        victim = alone(world)
        play = Scripted(world, victim)
        await world.pass_time(0.3)
        play.claim(1, 21)
        await world.pass_time(0.05)
        ((peer, first, count),) = play.requests()
        assert (peer, first, count) == (1, 3, 16)
        assert victim.network.expected == {1} and victim.engine.is_behind
        wrong = bytearray(blocks[4])
        wrong[-1] ^= 1
        play.give(1, blocks[2], blocks[3], bytes(wrong), blocks[5])
        await world.pass_time(0.05)
        assert victim.chain.tip_height == 4
        assert (1, "invalid final block") in victim.network.dropped
        assert victim.network.failed[1] == 1
        play.claim(2, 21)
        await world.pass_time(0.05)
        ((peer, first, _),) = play.requests()
        assert (peer, first) == (2, 5)
        play.give(2, *blocks[4:20])
        await world.pass_time(0.05)
        assert victim.chain.tip_height == 20
        await world.close()

    run_virtual(story())


@pytest.mark.parametrize("fault", ["two signatures", "other keys", "witness", "trailing", "empty"])
def test_final_block_when_it_proves_nothing_then_not_connected_and_blamed(
    tmp_path: Path, fault: str
) -> None:
    """B18 and V6: k real signatures over every byte, or nothing."""

    async def story() -> None:
        world, blocks = await left_behind(tmp_path, at=2, height=3)
        for index in (1, 2, 3):
            await world.kill(index)
        victim = alone(world)
        play = Scripted(world, victim)
        await world.pass_time(0.3)
        block = Block.decode(blocks[2], world.params)
        items = block.header.signblock_witness
        match fault:
            case "two signatures":
                bad = block.with_signblock_witness((items[0], items[1], items[1], *items[3:]))
            case "other keys":
                keys = [m.block_key for m in world.members.members]
                mixed = {k: world.secrets[0].sign_ecdsa(block.hash) for k in keys}
                bad = block.with_signblock_witness(signblock_witness(3, keys, mixed))
            case _:
                bad = block
        data = bad.serialize()
        if fault == "witness":
            reserved = block.transactions[0].input_witnesses[0].script[0]
            at = data.rindex(reserved)
            data = data[:at] + b"\x01" + data[at + 1 :]
        if fault == "trailing":
            data += b"\0"
        if fault == "empty":
            data = data[:40]
        play.give(LIAR, data)
        await world.pass_time(0.05)
        assert victim.chain.tip_height == 2 and victim.failure is None
        assert victim.network.failed[LIAR] == 1
        play.give(1, blocks[2])
        await world.pass_time(0.05)
        assert victim.chain.tip_height == 3 and not victim.network.failed.get(1)
        await world.close()

    run_virtual(story())


def test_peers_when_they_are_only_one_block_ahead_then_not_asked_for_more_than_they_have(
    tmp_path: Path,
) -> None:
    """A STATUS names the height in progress: the last final block is the one below."""

    async def story() -> None:
        world, _ = await left_behind(tmp_path, at=2, height=3)
        for index in (1, 2, 3):
            await world.kill(index)
        victim = alone(world)
        play = Scripted(world, victim)
        await world.pass_time(0.5)
        play.requests()
        play.claim(1, 4)
        await world.pass_time(0.02)
        assert play.requests() == [(1, 3, 1)]
        await world.close()

    run_virtual(story())


# -- giving


def test_blocks_when_the_queue_is_full_then_the_rest_follows_when_there_is_room(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world = await grown(tmp_path, 12)
        giver = world.processes[0]
        size = len(giver.chain.block_bytes(1)) + 50
        giver.engine.on_link(LIAR, True)
        world.processes[LIAR] = world.processes[1]
        world.carry = lambda *frame: None  # type: ignore[method-assign]
        giver.network.room[LIAR] = 3 * size

        real = giver.network.send

        def send(member: int, kind: int, body: bytes) -> bool:
            if member == LIAR and kind == FrameKind.FINAL:
                giver.network.room[LIAR] -= len(body)
            return real(member, kind, body)

        giver.network.send = send  # type: ignore[method-assign]
        giver.engine.on_frame(LIAR, *encode_message(GetFinal(1, 10)))
        await world.pass_time(0.05)
        assert 0 < len(giver.network.bodies(FrameKind.FINAL, LIAR)) < 8
        giver.network.room[LIAR] = 100 * size
        await world.pass_time(1.1)
        sent = [
            Block.decode(b, world.params).header.height
            for b in giver.network.bodies(FrameKind.FINAL, LIAR)
        ]
        assert sent == list(range(1, 11))
        del world.processes[LIAR]
        await world.close()

    run_virtual(story())


def test_request_when_beyond_the_tip_or_of_genesis_then_only_what_there_is(tmp_path: Path) -> None:
    async def story() -> None:
        world = await grown(tmp_path, 3)
        giver = world.processes[0]
        giver.engine.on_link(LIAR, True)
        world.processes[LIAR] = world.processes[1]
        world.carry = lambda *frame: None  # type: ignore[method-assign]
        for first in (0, 3, 4, 2**32 - 1):
            giver.engine.on_frame(LIAR, *encode_message(GetFinal(first, 16)))
        await world.pass_time(0.05)
        sent = [
            Block.decode(b, world.params).header.height
            for b in giver.network.bodies(FrameKind.FINAL, LIAR)
        ]
        assert sent == [1, 2, 3, 3]
        del world.processes[LIAR]
        await world.close()

    run_virtual(story())


# -- conflicts


def other_block(victim: Process, at: int, signers: tuple[int, ...] = (1, 2, 3)) -> bytes:
    """Another block of a height of the chain, signed."""
    world = victim.world
    block = victim.chain.block(at)
    header = block.header
    changed = type(header)(
        **{
            name: getattr(header, name)
            for name in (
                "version",
                "prev_hash",
                "merkle_root",
                "height",
                "current",
                "proposed",
                "height_in_legacy_form",
            )
        },
        time=header.time + 1,
    )
    return Liar(world, victim).final(Block(changed, block.transactions), signers)


def test_second_signed_block_when_seen_then_halted_for_good_and_the_signers_named(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world = await grown(tmp_path, 3)
        victim = world.processes[0]
        victim.engine.on_frame(1, FrameKind.FINAL, other_block(victim, 2))
        await world.pass_time(0.2)
        assert victim.driver.mode is Mode.HALTED and victim.signer.halted
        both = {s.member for s in victim.production.signatures_of(victim.chain.header(2))} & {
            1,
            2,
            3,
        }
        assert {e["member"] for e in victim.evidence.all()} == both and both
        stranger = Stranger.of(world.file)
        for line in victim.evidence.all():
            assert convict(line, stranger).member == line["member"]
        told = victim.engine.halt_notice.to_json()
        assert told is not None and told["first"] == victim.chain.header(2).serialize().hex()
        assert victim.chain.header(2).hash[::-1].hex() in told["reason"]
        assert [e["member"] for e in world.processes[1].evidence.all()] == sorted(both)
        await world.kill(0)
        again = world.start(0, RESTART)
        await world.pass_time(0.5)
        assert again.driver.mode is Mode.HALTED
        after = again.engine.halt_notice.to_json()
        assert after is not None and after["second"] == told["second"]
        assert "at height 2 against block" in after["reason"]
        assert not {FrameKind.VOTE, FrameKind.BLOCKSIG} & set(again.network.sent_kinds())
        kept = again.chain.header(2).hash
        assert await again.engine.unhalt(kept)
        again.engine.on_frame(1, FrameKind.FINAL, other_block(again, 2))
        await world.pass_time(0.2)
        assert again.driver.mode is not Mode.HALTED  # the operator decided
        await world.kill(0)
        third = world.start(0, RESTART)
        third.engine.on_frame(1, FrameKind.FINAL, other_block(third, 2))
        await world.pass_time(0.2)
        assert third.driver.mode is not Mode.HALTED  # and the journal knows it
        third.engine.on_frame(1, FrameKind.FINAL, other_block(third, 3))
        await world.pass_time(0.2)
        assert third.driver.mode is Mode.HALTED
        await world.close()

    run_virtual(story())


def test_second_block_when_too_few_signed_it_then_the_sender_pays(tmp_path: Path) -> None:
    async def story() -> None:
        world = await grown(tmp_path, 3)
        victim = world.processes[0]
        block = Block.decode(other_block(victim, 2), world.params)
        items = block.header.signblock_witness
        bad = block.with_signblock_witness((items[0], items[1], items[1], *items[3:]))
        victim.engine.on_frame(1, FrameKind.FINAL, bad.serialize())
        await world.pass_time(0.05)
        assert victim.driver.mode is Mode.VOTING
        assert victim.network.failed[1] == 1
        victim.engine.on_frame(2, FrameKind.FINAL, victim.chain.block_bytes(2))
        await world.pass_time(0.05)
        assert not victim.network.failed.get(2)
        await world.close()

    run_virtual(story())


def test_peer_when_it_follows_another_chain_then_traced_to_the_fork_and_halted(
    tmp_path: Path,
) -> None:
    """A k-signed block on an unknown parent proves nothing yet; its ancestors are asked for."""

    async def story() -> None:
        world = await grown(tmp_path, 3)
        victim = world.processes[0]
        for index in (1, 2):
            await world.kill(index)
        play = Scripted(world, victim)
        second = other_block(victim, 2)
        parent = Block.decode(second, world.params)
        template = victim.chain.block(3)
        header = template.header
        third = type(header)(
            version=header.version,
            prev_hash=parent.hash,
            merkle_root=header.merkle_root,
            time=header.time,
            height=4,
            current=header.current,
            proposed=header.proposed,
            height_in_legacy_form=header.height_in_legacy_form,
        )
        strange = Liar(world, victim).final(Block(third, template.transactions))
        play.requests()
        play.give(1, strange)
        await world.pass_time(0.05)
        assert victim.driver.mode is Mode.VOTING
        assert (1, 3, 1) in play.requests()
        play.give(1, second)
        await world.pass_time(0.05)
        assert victim.driver.mode is Mode.HALTED
        await world.close()

    run_virtual(story())


def test_signed_block_when_our_rules_refuse_it_then_halted_and_nobody_blamed(
    tmp_path: Path,
) -> None:
    """C35 for blocks that come signed: never skip one, never sign beside it."""

    async def story() -> None:
        world, blocks = await left_behind(tmp_path, at=2, height=3)
        for index in (1, 2, 3):
            await world.kill(index)
        victim = alone(world)
        play = Scripted(world, victim)

        def refuse(block: Block) -> None:
            raise InvalidBlock("bad-peg-record")

        victim.peg.objective = refuse
        await world.pass_time(0.3)
        play.give(1, blocks[2])
        await world.pass_time(0.05)
        assert victim.driver.mode is Mode.HALTED and not victim.network.failed
        assert "bad-peg-record" in victim.log.of("mode")[-1]["reason"]
        await world.close()

    run_virtual(story())


def test_in_hand_when_another_block_is_asked_for_then_the_node_stops(tmp_path: Path) -> None:
    async def story() -> None:
        world = await grown(tmp_path, 1)
        with pytest.raises(InvariantError):
            world.processes[0].engine._finals.in_hand(b"\x01" * 32)
        await world.close()

    run_virtual(story())
