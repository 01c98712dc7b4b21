"""What a Byzantine member may put on its link: nothing breaks, and its own link pays."""

import random
from pathlib import Path
from typing import Any

import pytest

from federation.consensus.encoding import FRAME_LIMITS_BYTES, NIL, FrameKind
from federation.consensus.messages import (
    Answer,
    Evidence,
    EvidenceClass,
    GetBlock,
    GetCertificate,
    RollCall,
    decode_message,
    encode_message,
)
from federation.consensus.records import Mode
from federation.consensus.votes import BlockMessage, BlockSignature, Proposal, Vote, VoteType
from federation.rate_limits import SIGNATURES_BURST
from federation.start import StartOptions
from sidechain.crypto.keys import der_to_compact
from sidechain.errors import InvalidBlock
from sidechain.primitives.block import Block
from sidechain.script.block_signature import signblock_witness
from sidechain.validation.block_check import commitment_index
from tests.factories import ALICE
from tests.federation.engine_world import Process, World, run_virtual

LIAR = 3
"""The member whose link is played by the test; its process does not run."""


class Liar:
    """Member 3 as a script: signs anything, sends anything."""

    def __init__(self, world: World, victim: Process) -> None:
        self.world, self.victim = world, victim

    def vote(self, member: int = LIAR, **fields: Any) -> Vote:
        fields = {
            "type": VoteType.PREVOTE,
            "height": self.victim.driver.height,
            "round": 0,
            "valid_round": -1,
            "block_hash": NIL,
            **fields,
        }
        vote = Vote(member=member, signature=bytes(64), **fields)
        digest = vote.digest(self.world.params.genesis_hash, self.victim.driver.params_root)
        return Vote(
            member=member, signature=self.world.secrets[member].sign_schnorr(digest), **fields
        )

    def proposal(self, block: Block, round_number: int = 0) -> Proposal:
        proposer = self.world.members.proposer(block.header.height, round_number)
        vote = self.vote(
            member=proposer,
            type=VoteType.PROPOSAL,
            height=block.header.height,
            round=round_number,
            block_hash=block.hash,
        )
        return Proposal(vote, None)

    def block_signature(self, block_hash: bytes, height: int, member: int = LIAR) -> BlockSignature:
        der = self.world.secrets[member].sign_ecdsa(block_hash)
        return BlockSignature(
            height=height, block_hash=block_hash, member=member, signature=der_to_compact(der)
        )

    def final(self, block: Block, signers: tuple[int, ...] = (0, 1, 2)) -> bytes:
        keys = [member.block_key for member in self.world.members.members]
        by_key = {keys[i]: self.world.secrets[i].sign_ecdsa(block.hash) for i in signers}
        witness = signblock_witness(self.world.members.k, keys, by_key)
        return block.with_signblock_witness(witness).serialize()

    def send(self, message: Any, member: int = LIAR) -> None:
        self.victim.engine.on_frame(member, *encode_message(message))

    async def settle(self) -> None:
        await self.world.pass_time(0.05)


async def with_liar(folder: Path, **fields: Any) -> tuple[World, Liar]:
    """Three members run, blocks come only by work; the liar has a link to member 0."""
    world = World(folder, **fields)
    for index in (0, 1, 2):
        world.start(index)
    victim = world.processes[0]
    victim.engine.on_link(LIAR, True)
    await world.pass_time(0.5)
    return world, Liar(world, victim)


def alive(victim: Process) -> bool:
    return victim.failure is None


def test_frames_of_every_kind_when_random_then_nothing_breaks(tmp_path: Path) -> None:
    async def story() -> None:
        world, liar = await with_liar(tmp_path, first_epoch_blocks=6)
        chance = random.Random(11)
        samples = [
            encode_message(m)
            for m in (
                liar.vote(),
                liar.block_signature(b"\x05" * 32, 1),
                GetBlock(1, NIL),
                GetCertificate(type=VoteType.PREVOTE, height=1, round=0, block_hash=NIL),
                RollCall(world.members.members[LIAR].vote_key, b"\x01" * 32),
                BlockMessage(height=1, block_hash=b"\x09" * 32, data=b"\x00" * 200),
            )
        ]
        for number in range(1_500):
            kind, body = samples[number % len(samples)]
            if chance.random() < 0.5:
                mutable = bytearray(body)
                for _ in range(chance.randrange(1, 4)):
                    mutable[chance.randrange(len(mutable))] = chance.randrange(256)
                body = bytes(mutable)
            else:
                kind = FrameKind(chance.choice(sorted(set(FrameKind) - {FrameKind.HELLO})))
                size = chance.randrange(min(FRAME_LIMITS_BYTES[kind], 300) + 1)
                body = chance.randbytes(size)
            liar.victim.engine.on_frame(LIAR, kind, body)
            if number % 50 == 0:
                await world.pass_time(0.01)
        await world.until_height(6)
        assert alive(liar.victim)
        failed = liar.victim.network.failed
        assert failed[LIAR] > 100 and not any(n for m, n in failed.items() if m != LIAR)
        await world.close()

    run_virtual(story())


# -- blocks


def test_block_when_its_coinbase_says_nothing_readable_then_refused_and_nobody_falls(
    tmp_path: Path,
) -> None:
    """A Byzantine proposer's block whose commitment cannot be read is invalid, not a crash."""

    def unreadable(block: Block) -> bool:
        raise InvalidBlock("bad-peg-commitment")

    def refuse(block: Block) -> None:
        raise InvalidBlock("bad-peg-commitment")

    async def story() -> None:
        world, liar = await with_liar(tmp_path)
        for process in world.processes.values():
            process.peg.work = unreadable
            process.peg.objective = refuse
        # height 1, round 2: it is member 3's turn
        block = liar.victim.chain.build_template(
            time_s=world.unix_time_s(), coinbase_scripts=(), transactions=()
        )
        liar.send(liar.proposal(block, 2))
        liar.send(BlockMessage(height=1, block_hash=block.hash, data=block.serialize()))
        await liar.settle()
        assert liar.victim.driver.agreement.blocks.get(block.hash) is not None
        assert alive(liar.victim) and not liar.victim.network.failed.get(LIAR)
        await world.close()

    run_virtual(story())


def test_block_when_no_message_names_it_then_not_even_parsed(tmp_path: Path) -> None:
    async def story() -> None:
        world, liar = await with_liar(tmp_path)
        block = liar.victim.chain.build_template(
            time_s=world.unix_time_s(), coinbase_scripts=(), transactions=()
        )
        parsed: list[bytes] = []
        real = liar.victim.production.decode_proposal

        def watch(data: bytes, block_hash: bytes) -> Block:
            parsed.append(block_hash)
            return real(data, block_hash)

        liar.victim.production.decode_proposal = watch  # type: ignore[method-assign]
        message = BlockMessage(height=1, block_hash=block.hash, data=block.serialize())
        liar.send(message)
        await liar.settle()
        assert not parsed and liar.victim.driver.agreement.blocks.get(block.hash) is None
        liar.send(liar.proposal(block, 0), member=1)
        liar.send(message)
        await liar.settle()
        assert set(parsed) == {block.hash}
        assert liar.victim.driver.agreement.blocks.get(block.hash) is not None
        await world.close()

    run_virtual(story())


def test_block_when_only_witness_bytes_differ_then_the_sender_pays_and_the_block_lives(
    tmp_path: Path,
) -> None:
    """V6: wrong bytes are not a wrong block."""

    async def story() -> None:
        world, liar = await with_liar(tmp_path)
        wallet = world.wallet(liar.victim)
        claim = wallet.claim(wallet.deposit(ALICE.script, 50_000), ALICE)
        block = liar.victim.chain.build_template(
            time_s=world.unix_time_s(), coinbase_scripts=(), transactions=(claim,)
        )
        good = block.serialize()
        signature = claim.input_witnesses[0].script[0]
        at = good.index(signature)
        bad = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        decoded = Block.decode(bad, world.params)
        assert decoded.hash == block.hash and commitment_index(block.transactions[0]) is not None
        liar.send(liar.proposal(block, 0), member=1)
        for wrong in (bad, good + b"\0", good[:-1], b"", good.replace(block.hash[:4], b"____")):
            if wrong != good and wrong:
                liar.send(BlockMessage(height=1, block_hash=block.hash, data=wrong))
        await liar.settle()
        assert liar.victim.driver.agreement.blocks.get(block.hash) is None
        assert liar.victim.network.failed[LIAR] == 3
        liar.send(BlockMessage(height=1, block_hash=block.hash, data=good), member=1)
        await liar.settle()
        assert liar.victim.driver.agreement.blocks.get(block.hash) is not None
        await world.close()

    run_virtual(story())


# -- votes


def test_bad_signatures_when_many_then_charged_as_c95_says(tmp_path: Path) -> None:
    async def story() -> None:
        world, liar = await with_liar(tmp_path)
        for number in range(5):
            vote = liar.vote(round=number)
            liar.victim.engine.on_frame(LIAR, FrameKind.VOTE, vote.encode()[:-1] + b"\0")
        await liar.settle()
        assert liar.victim.network.failed[LIAR] >= 4
        assert liar.victim.driver.agreement.keeper.positions[LIAR] == (-1, 0)
        assert SIGNATURES_BURST == 1_000
        await world.close()

    run_virtual(story())


def test_votes_when_signed_under_other_parameters_by_s_members_then_alarm(tmp_path: Path) -> None:
    """C87: three such votes of each of s members."""

    async def story() -> None:
        world, liar = await with_liar(tmp_path)
        for member in (LIAR, 1):
            for round_number in range(3):
                vote = liar.vote(member=member, round=round_number)
                body = vote.encode()[:-64] + bytes(64)
                liar.victim.engine.on_frame(member, FrameKind.VOTE, body)
            await liar.settle()
            alarms = [a for a in liar.victim.engine.alarms if "parameter mismatch" in a]
            assert bool(alarms) == (member == 1)
        await world.close()

    run_virtual(story())


def test_c87_status_when_it_names_another_tip_of_this_height_then_one_alarm(tmp_path: Path) -> None:
    async def story() -> None:
        world, liar = await with_liar(tmp_path, first_epoch_blocks=2)
        await world.until_height(2)
        status = liar.victim.network.bodies(FrameKind.STATUS)[-1]
        other = status[:4] + b"t" * 32 + status[36:]
        for _ in range(3):
            liar.victim.engine.on_frame(LIAR, FrameKind.STATUS, other)
        liar.victim.engine.on_frame(1, FrameKind.STATUS, status)
        await liar.settle()
        alarms = [a for a in liar.victim.engine.alarms if "on another block" in a]
        assert len(alarms) == 1 and alarms[0].startswith(f"m{LIAR} builds height 3")
        assert {line["height"] for line in liar.victim.log.of("parameters")} == {1}
        await world.close()

    run_virtual(story())


def test_messages_of_the_next_height_when_early_then_used_when_it_begins(tmp_path: Path) -> None:
    async def story() -> None:
        world, liar = await with_liar(tmp_path)
        liar.send(liar.vote(height=2, round=0))
        liar.send(liar.vote(height=3, round=0))
        await liar.settle()
        assert not liar.victim.network.charged.get(LIAR)
        liar.victim.peg.due = True
        liar.victim.engine.work_available()
        await world.until_height(1)
        liar.victim.peg.due = False
        await liar.settle()
        assert liar.victim.driver.agreement.keeper.positions[LIAR] == (0, 2)
        await world.close()

    run_virtual(story())


def test_messages_of_the_next_height_when_a_block_is_unreadable_then_dropped_and_blamed(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world, liar = await with_liar(tmp_path)
        liar.send(BlockMessage(height=2, block_hash=b"\x09" * 32, data=bytes(100)))
        liar.send(liar.vote(height=2, block_hash=b"\x09" * 32, type=VoteType.PREVOTE))
        liar.victim.peg.due = True
        liar.victim.engine.work_available()
        await world.until_height(1)
        await liar.settle()
        assert alive(liar.victim)
        await world.close()

    run_virtual(story())


# -- requests


def test_status_when_sent_without_end_then_only_some_are_answered(tmp_path: Path) -> None:
    async def story() -> None:
        world, liar = await with_liar(tmp_path, first_epoch_blocks=3)
        await world.until_height(3)
        status = liar.victim.network.bodies(FrameKind.STATUS)[-1]
        behind = (1).to_bytes(4, "little") + status[4:]
        before = len(liar.victim.network.bodies(FrameKind.FINAL))
        world.processes[LIAR] = object()  # type: ignore[assignment]
        world.carry = lambda *frame: None  # type: ignore[method-assign]
        for _ in range(1_000):
            liar.victim.engine.on_frame(LIAR, FrameKind.STATUS, behind)
        await liar.settle()
        answers = len(liar.victim.network.bodies(FrameKind.FINAL)) - before
        assert 50 <= answers <= 110
        del world.processes[LIAR]
        await world.close()

    run_virtual(story())


def test_rollcall_when_under_another_key_then_blamed_and_not_answered(tmp_path: Path) -> None:
    """Sixty-four made-up askers would fill the table of those who are answered."""

    async def story() -> None:
        world, liar = await with_liar(tmp_path)
        for number in range(70):
            liar.send(RollCall(bytes([number]) * 32, b"\x01" * 32))
        await liar.settle()
        assert liar.victim.network.failed[LIAR] == 70
        assert not liar.victim.network.bodies(FrameKind.ANSWER)
        liar.send(RollCall(world.members.members[LIAR].vote_key, b"\x01" * 32))
        await liar.settle()
        assert liar.victim.driver._desk._answered_ms.keys() >= {
            world.members.members[LIAR].vote_key
        }
        await world.close()

    run_virtual(story())


def test_certificate_when_asked_for_then_sent_and_a_flood_is_not(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=5)
        processes = world.start_all()
        await world.until_height(5)
        block_hash = processes[0].chain.header(2).hash
        asked = GetCertificate(type=VoteType.PRECOMMIT, height=2, round=0, block_hash=block_hash)
        for _ in range(100):
            processes[0].engine.on_frame(LIAR, *encode_message(asked))
        await world.pass_time(0.2)
        found = processes[0].network.bodies(FrameKind.CERT, LIAR)
        answers = [c for c in map(_certificate, found) if c.height == 2 and c.type == 3]
        assert 15 <= len(answers) <= 25
        assert all(c.block_hash == block_hash and len(c.votes) == 3 for c in answers)
        await world.close()

    run_virtual(story())


def _certificate(body: bytes) -> Any:
    return decode_message(FrameKind.CERT, body)


# -- roll-call answers


async def asking(world: World) -> tuple[Process, Liar]:
    """A member that was restarted and hears nobody but the liar."""
    world.start_all()
    await world.until_height(2)
    for index in range(4):
        await world.kill(index)
    victim = world.start(0, StartOptions())
    await world.pass_time(0.05)
    assert victim.driver.mode is Mode.ROLLCALL
    return victim, Liar(world, victim)


def answer_of(world: World, victim: Process, member: int, **fields: Any) -> Answer:
    nonce = victim.engine._incoming._nonce  # type: ignore[union-attr]
    fields = {
        "known": 2,
        "known_hash": victim.chain.tip_hash,
        "abstaining": False,
        "proof": victim.chain.header(2).serialize(),
        "seen": None,
        **fields,
    }
    key = world.members.members[member].vote_key
    answer = Answer(answerer_key=key, signature=bytes(64), **fields)
    asker = world.members.members[victim.index].vote_key
    digest = answer.digest(world.params.genesis_hash, asker, nonce)
    return Answer(answerer_key=key, signature=world.secrets[member].sign_schnorr(digest), **fields)


def test_answer_when_it_shows_a_vote_of_somebody_else_then_refused(tmp_path: Path) -> None:
    """Else any restarted member could be made amnesiac with a vote that is not its own (C75)."""

    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=2)
        victim, liar = await asking(world)
        stray = liar.vote(member=LIAR, height=3)
        victim.engine.on_frame(LIAR, *encode_message(answer_of(world, victim, LIAR, seen=stray)))
        await liar.settle()
        assert victim.driver.mode is Mode.ROLLCALL and victim.network.failed[LIAR] == 1
        own = liar.vote(member=0, height=3)
        victim.engine.on_frame(LIAR, *encode_message(answer_of(world, victim, LIAR, seen=own)))
        await liar.settle()
        assert victim.driver.mode is Mode.ABSTAINING  # this one is its own, and unknown to it
        await world.close()

    run_virtual(story())


@pytest.mark.parametrize("change", ["height", "hash", "script", "signatures", "tail", "key"])
def test_answer_when_its_proof_does_not_hold_then_no_answer(tmp_path: Path, change: str) -> None:
    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=2)
        victim, liar = await asking(world)
        good = answer_of(world, victim, 1)
        header = victim.chain.header(2)
        fields: dict[str, dict[str, Any]] = {
            "height": {"known": 1},
            "hash": {"known_hash": b"\x01" * 32},
            "script": {"proof": victim.chain.header(1).serialize()},
            "signatures": {"proof": header.serialize()[:-200] + bytes(200)},
            "tail": {"proof": header.serialize() + b"\0"},
            "key": {},
        }
        member = 1
        bad = answer_of(world, victim, member, **fields[change])
        if change == "key":
            bad = Answer(
                **{
                    name: getattr(bad, name)
                    for name in ("known", "known_hash", "abstaining", "proof", "seen")
                },
                answerer_key=world.members.members[2].vote_key,
                signature=bad.signature,
            )
        victim.engine.on_frame(1, FrameKind.ANSWER, bad.encode())
        await liar.settle()
        assert victim.network.failed[1] == 1 and victim.driver.mode is Mode.ROLLCALL
        for sender in (1, 2):
            answer = answer_of(world, victim, sender)
            victim.engine.on_frame(sender, *encode_message(answer))
        await liar.settle()
        assert victim.driver.mode is Mode.VOTING and good.known == 2
        victim.engine.on_frame(1, *encode_message(answer_of(world, victim, 1)))
        await liar.settle()
        assert victim.network.failed[1] == 1  # nobody asks any more: dropped unread
        await world.close()

    run_virtual(story())


# -- evidence


def test_evidence_when_it_holds_then_stored_once_and_passed_on(tmp_path: Path) -> None:
    async def story() -> None:
        world, liar = await with_liar(tmp_path)
        first, second = liar.vote(), liar.vote(block_hash=b"\x01" * 32)
        evidence = Evidence(EvidenceClass.DOUBLE_VOTE, first.encode(), second.encode())
        for _ in range(3):
            liar.send(evidence)
        await liar.settle()
        assert [e["member"] for e in liar.victim.evidence.all()] == [LIAR]
        assert [e["member"] for e in world.processes[1].evidence.all()] == [LIAR]
        assert not liar.victim.network.failed.get(LIAR)
        await world.close()

    run_virtual(story())


def test_evidence_when_false_then_charged(tmp_path: Path) -> None:
    async def story() -> None:
        world, liar = await with_liar(tmp_path)
        first, second = liar.vote(), liar.vote(member=1, block_hash=b"\x01" * 32)
        forged = second.encode()[:77] + bytes([LIAR]) + second.encode()[78:]
        bad = [
            Evidence(EvidenceClass.DOUBLE_VOTE, first.encode(), first.encode()),
            Evidence(EvidenceClass.AMNESIA, first.encode(), second.encode()),
            Evidence(EvidenceClass.TWO_BLOCKS, first.encode(), bytes(200)),
        ]
        for evidence in bad:
            liar.send(evidence)
        await liar.settle()
        assert liar.victim.network.failed[LIAR] == 3
        vote = bytearray(liar.vote(block_hash=b"\x02" * 32).encode())
        vote[-1] ^= 1
        liar.send(Evidence(EvidenceClass.DOUBLE_VOTE, first.encode(), bytes(vote)))
        await liar.settle()
        assert liar.victim.network.failed[LIAR] == 4 and forged
        assert not liar.victim.evidence.all()
        await world.close()

    run_virtual(story())


def test_evidence_when_one_member_confesses_without_end_then_only_ten_an_hour(
    tmp_path: Path,
) -> None:
    """C99: the first are kept."""

    async def story() -> None:
        world, liar = await with_liar(tmp_path)
        for height in range(1_000, 1_030):
            first = liar.vote(height=height)
            second = liar.vote(height=height, block_hash=b"\x01" * 32)
            liar.send(Evidence(EvidenceClass.DOUBLE_VOTE, first.encode(), second.encode()))
        await liar.settle()
        assert len(liar.victim.evidence) == 10
        charged = liar.victim.network.charged[LIAR]
        assert charged <= 25  # the others were not even verified
        await world.close()

    run_virtual(story())


def test_evidence_of_two_headers_when_signed_then_names_those_who_signed_both(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        world, liar = await with_liar(tmp_path)
        chain = liar.victim.chain
        blocks = [
            chain.build_template(
                time_s=world.unix_time_s() + i, coinbase_scripts=(), transactions=()
            )
            for i in range(2)
        ]
        keys = [m.block_key for m in world.members.members]
        headers = []
        for block, signers in zip(blocks, ((0, 1, 3), (1, 2, 3)), strict=True):
            by_key = {keys[i]: world.secrets[i].sign_ecdsa(block.hash) for i in signers}
            signed = block.with_signblock_witness(signblock_witness(3, keys, by_key))
            headers.append(signed.header.serialize())
        liar.send(Evidence(EvidenceClass.TWO_BLOCKS, headers[0], headers[1]))
        await liar.settle()
        found = liar.victim.evidence.all()
        assert [(e["member"], e["class"]) for e in found] == [(1, 2), (3, 2)]
        assert {(e["first"], e["second"]) for e in found} == {(headers[0].hex(), headers[1].hex())}
        await world.close()

    run_virtual(story())


# -- other frames


def test_frames_of_the_peg_when_taken_then_passed_on_and_charged(tmp_path: Path) -> None:
    async def story() -> None:
        world, liar = await with_liar(tmp_path)
        liar.victim.engine.on_frame(LIAR, FrameKind.PEGSTATE, bytes(36))
        liar.victim.engine.on_frame(LIAR, FrameKind.TXINV, bytes(3))
        await liar.settle()
        kinds = {kind for _, kind, _ in liar.victim.other}
        assert kinds == {FrameKind.PEGSTATE, FrameKind.TXINV}
        assert liar.victim.network.charged[LIAR] == 1
        await world.close()

    run_virtual(story())


def test_link_when_it_goes_down_then_frames_before_it_were_handled_first(tmp_path: Path) -> None:
    """A STATUS after the news would leave a ghost peer in the core."""

    async def story() -> None:
        world, liar = await with_liar(tmp_path, first_epoch_blocks=1)
        status = liar.victim.network.bodies(FrameKind.STATUS)[-1]
        for _ in range(20):
            liar.victim.engine.on_frame(LIAR, FrameKind.STATUS, status)
        liar.victim.engine.on_link(LIAR, False)
        await liar.settle()
        assert LIAR not in liar.victim.driver._peers
        await world.close()

    run_virtual(story())
