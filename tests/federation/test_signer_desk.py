"""A signer process's rules against a member that lies (consensus:R1-R8), without a socket."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from federation.consensus.encoding import tagged_hash
from federation.consensus.messages import ROLLCALL_TAG
from federation.secret_key import SecretKey
from federation.signer import GuardStart, SignerFailed
from federation.signer_desk import SignerDesk
from federation.signer_messages import (
    ASK_LIMITS_BYTES,
    HEADERS_MAX,
    Advance,
    AnswerOrder,
    Ask,
    Reply,
    VoteOrder,
    decode_signatures,
)
from peg.payments import Payment, PaymentInput
from sidechain.crypto.keys import compact_to_der, ecdsa_verify, schnorr_verify
from sidechain.primitives.transaction import OutPoint
from tests.federation.disks import DISK_ERRORS, CountingDisk, Killed, PowerDisk, raise_errno
from tests.federation.signer_world import (
    NIL,
    OWN,
    PRECOMMIT,
    PREVOTE,
    PROPOSAL,
    A,
    B,
    SignerWorld,
    advance,
    block_order,
    done,
    facts,
    refused,
)


@pytest.fixture
def world(tmp_path: Path) -> SignerWorld:
    return SignerWorld(tmp_path)


@pytest.fixture
def desk(world: SignerWorld) -> Iterator[SignerDesk]:
    with world.desk(GuardStart.FRESH) as desk:
        advance(desk, world.headers.extend(4))
        yield desk


# -- R1: genesis, D, member set, headers


def test_r1_hello_when_of_another_chain_or_version_then_refused(
    world: SignerWorld, desk: SignerDesk
) -> None:
    assert done(desk, Ask.HELLO, (1).to_bytes(4, "little") + world.genesis)
    assert "another chain" in refused(desk, Ask.HELLO, (1).to_bytes(4, "little") + A)
    assert "version 0" in refused(desk, Ask.HELLO, bytes(4) + world.genesis)


def test_r1_vote_when_of_another_chain_parameters_or_height_then_refused(
    world: SignerWorld, desk: SignerDesk
) -> None:
    vote = world.vote(PREVOTE, 5, 0, A)
    for order, reason in (
        (VoteOrder(A, world.root, vote, None), "another chain"),
        (VoteOrder(world.genesis, A, vote, None), "other parameters"),
        (VoteOrder(world.genesis, world.root, replace(vote, height=6), None), "R1"),
        (VoteOrder(world.genesis, world.root, replace(vote, height=4), None), "R1"),
    ):
        assert reason in refused(desk, Ask.SIGN_VOTE, order.encode())
    signature = done(desk, Ask.SIGN_VOTE, world.order(vote))
    digest = vote.digest(world.genesis, world.root)
    assert schnorr_verify(world.secrets[OWN].public_key[1:], signature, digest)


def test_r1_headers_when_they_do_not_follow_then_refused_and_nothing_moves(
    world: SignerWorld, desk: SignerDesk
) -> None:
    maker = world.headers
    good = maker.header()
    foreign = [SecretKey(bytes([i]) * 32) for i in range(1, 5)]
    maker.new_set(3, foreign)
    _, entry = maker.new_set(3, foreign)
    wrong = (
        maker.header(signers=2),
        replace(good, prev_hash=A),
        maker.signed(replace(good, prev_hash=A)),
        maker.signed(replace(good, height=6)),
        replace(good, signblock_witness=()),
        replace(good, merkle_root=A),  # signed before the change
        maker.signed(replace(good, current=entry)),  # names a set of its own
    )
    for header in wrong:
        refused(desk, Ask.ADVANCE, Advance((header.serialize(),)).encode())
        assert facts(desk).tip_height == 4
    for data in (b"", b"\xff" * 90, good.serialize() + b"\0", good.serialize()[:-1]):
        assert "malformed" in refused(desk, Ask.ADVANCE, Advance((data,)).encode())
    advance(desk, [good.serialize()])
    advance(desk, [good.serialize()])  # what is known already changes nothing
    assert facts(desk).tip_height == 5


def test_r1_epoch_when_its_votes_change_the_set_then_the_new_set_alone_counts(
    world: SignerWorld, desk: SignerDesk
) -> None:
    """The tally is the signer's own; the old set's signatures end with the epoch (C80, C81)."""
    maker = world.headers
    newcomer = SecretKey(b"\x09" * 32)
    new = [world.secrets[OWN], world.secrets[2], world.secrets[3], newcomer]
    script, entry = maker.new_set(3, new)
    advance(desk, maker.extend(5, proposed=entry))
    assert facts(desk).tip_height == 9
    # 5 of 10 heights are not four fifths: nothing changes at height 10
    advance(desk, maker.extend(1))
    assert world.members().index_of(newcomer.public_key[1:]) is None
    by_old_set = world.commit(20, 0, A)
    advance(desk, maker.extend(9, proposed=entry))
    assert facts(desk).tip_height == 19
    vote = world.vote(PREVOTE, 20, 0, A)
    assert "R1" in refused(desk, Ask.SIGN_VOTE, world.order(vote))  # the script was not shown (C83)
    assert "R1" in refused(desk, Ask.SIGN_BLOCK, block_order(20, A, by_old_set))
    with pytest.raises(AssertionError, match="k-of-n"):
        advance(desk, [], b"\x51")
    advance(desk, [], script)
    maker.chain.learn_script(script)
    order = VoteOrder(world.genesis, maker.chain.params_root(), vote, None).encode()
    done(desk, Ask.SIGN_VOTE, order)
    old = maker.signed(replace(maker.header(), current=maker.chain.header(10).current))
    refused(desk, Ask.ADVANCE, Advance((old.serialize(),)).encode())
    border = maker.extend(1)
    assert "malformed" in refused(
        desk, Ask.ADVANCE, Advance((maker.header(signers=2).serialize(),)).encode()
    )
    advance(desk, border)
    advance(desk, maker.extend(3))
    assert facts(desk).tip_height == 23


def test_r1_member_when_voted_out_then_its_signer_signs_no_vote(
    world: SignerWorld, desk: SignerDesk
) -> None:
    maker = world.headers
    advance(desk, maker.extend(6))
    others = [world.secrets[0], world.secrets[2], world.secrets[3], SecretKey(b"\x09" * 32)]
    script, entry = maker.new_set(3, others)
    advance(desk, maker.extend(9, proposed=entry))
    maker.chain.learn_script(script)
    advance(desk, maker.extend(1), script)
    order = VoteOrder(
        world.genesis, maker.chain.params_root(), world.vote(PREVOTE, 21, 0, A), None
    ).encode()
    assert "not in the member set" in refused(desk, Ask.SIGN_VOTE, order)
    commit = world.certificate(PRECOMMIT, 21, 0, A)
    assert refused(desk, Ask.SIGN_BLOCK, block_order(21, A, commit))


def test_r1_pin_when_an_epoch_changed_the_set_then_a_restart_goes_on_there(
    world: SignerWorld,
) -> None:
    maker = world.headers
    new = [*world.secrets[:3], SecretKey(b"\x09" * 32)]
    with world.desk(GuardStart.FRESH) as desk:
        advance(desk, maker.extend(10))
        script, entry = maker.new_set(3, new)
        maker.chain.learn_script(script)
        advance(desk, maker.extend(9, proposed=entry))
        advance(desk, [*maker.extend(1), *maker.extend(2)], script)
        assert facts(desk).tip_height == 22
    with world.desk() as desk:
        assert facts(desk).tip_height == 20
        advance(desk, maker.made[20:])
        order = VoteOrder(
            world.genesis, maker.chain.params_root(), world.vote(PREVOTE, 23, 0, A), None
        )
        done(desk, Ask.SIGN_VOTE, order.encode())
    pin = world.home.pin
    data = pin.read_bytes()
    for position in range(0, len(data), 97):
        flipped = bytearray(data)
        flipped[position] ^= 1
        pin.write_bytes(flipped)
        with pytest.raises(SignerFailed, match="--restored"), world.desk():
            pass
    with world.desk(GuardStart.RESTORED) as desk:
        assert facts(desk).tip_height == 0


def test_c60_headers_when_k_members_signed_two_blocks_then_it_halts_by_itself(
    world: SignerWorld, desk: SignerDesk
) -> None:
    other = world.headers.header(salt=1)
    advance(desk, world.headers.extend(1))
    reason = refused(desk, Ask.ADVANCE, Advance((other.serialize(),)).encode())
    assert "C60" in reason and facts(desk).halted
    trial = Payment(
        index=None,
        burn_ids=(),
        inputs=(PaymentInput(outpoint=OutPoint(A, 0), value_sats=20_000, claim_script=None),),
        outputs=((19_000, world.file.fed_script().program),),
    )
    for ask, body in (
        (Ask.SIGN_VOTE, world.order(world.vote(PREVOTE, 6, 0, NIL))),
        (Ask.SIGN_BLOCK, block_order(6, A, world.commit(6, 0, A))),
        (Ask.SIGN_PEG, trial.encode()),
        (Ask.SIGN_FRAME, b"\x14body"),
        (Ask.SIGN_MESSAGE, b"\x0cfedpeg/pausebody"),
    ):
        assert refused(desk, ask, body) == "halted"
    done(desk, Ask.UNHALT)
    assert len(decode_signatures(done(desk, Ask.SIGN_PEG, trial.encode()))) == 1


def test_header_when_k_minus_one_signed_a_second_block_then_it_does_not_halt(
    world: SignerWorld, desk: SignerDesk
) -> None:
    other = world.headers.header(salt=1, signers=2)
    advance(desk, world.headers.extend(1))
    refused(desk, Ask.ADVANCE, Advance((other.serialize(),)).encode())
    assert not facts(desk).halted


# -- R2 to R4: contradictions


def test_r2_votes_when_they_contradict_or_go_back_then_refused(
    world: SignerWorld, desk: SignerDesk
) -> None:
    first = done(desk, Ask.SIGN_VOTE, world.order(world.vote(PREVOTE, 5, 2, A)))
    for vote in (
        world.vote(PREVOTE, 5, 2, B),
        world.vote(PREVOTE, 5, 2, NIL),
        world.vote(PROPOSAL, 5, 2, A),
        world.vote(PREVOTE, 5, 1, A),
        world.vote(PRECOMMIT, 5, 0, NIL),
    ):
        assert "R2" in refused(desk, Ask.SIGN_VOTE, world.order(vote))
    # the same statement again, also as a replay of the same bytes, gives the same signature
    again = world.order(world.vote(PREVOTE, 5, 2, A))
    counter = desk._signer.counter
    assert done(desk, Ask.SIGN_VOTE, again) == first == done(desk, Ask.SIGN_VOTE, again)
    assert desk._signer.counter == counter


def test_r3_lock_when_no_newer_pol_is_shown_then_no_vote_against_it(
    world: SignerWorld, desk: SignerDesk
) -> None:
    assert "R3" in refused(desk, Ask.SIGN_VOTE, world.order(world.vote(PRECOMMIT, 5, 0, A)))
    pol = world.pol(5, 0, A)
    forged = replace(pol, votes=((0, -1, pol.votes[1][2]), *pol.votes[1:]))
    few = world.certificate(PREVOTE, 5, 0, A, count=2)
    for certificate in (world.pol(5, 0, B), world.commit(5, 0, A), forged, few):
        refused(desk, Ask.SIGN_VOTE, world.order(world.vote(PRECOMMIT, 5, 0, A), certificate))
    done(desk, Ask.SIGN_VOTE, world.order(world.vote(PRECOMMIT, 5, 0, A), pol))
    against = world.vote(PREVOTE, 5, 3, B)
    assert "R3" in refused(desk, Ask.SIGN_VOTE, world.order(against))
    cited = replace(against, valid_round=2)
    assert "R3" in refused(desk, Ask.SIGN_VOTE, world.order(cited))
    assert "R3" in refused(desk, Ask.SIGN_VOTE, world.order(cited, world.pol(5, 1, B)))
    done(desk, Ask.SIGN_VOTE, world.order(cited, world.pol(5, 2, B)))


def test_r4_block_when_not_decided_or_another_one_then_refused(
    world: SignerWorld, desk: SignerDesk
) -> None:
    for certificate in (
        world.pol(5, 1, A),
        world.commit(5, 1, B),
        world.certificate(PRECOMMIT, 5, 1, A, count=2),
        replace(world.commit(5, 1, A), round=2),
    ):
        refused(desk, Ask.SIGN_BLOCK, block_order(5, A, certificate))
    signature = done(desk, Ask.SIGN_BLOCK, block_order(5, A, world.commit(5, 1, A)))
    assert ecdsa_verify(world.secrets[OWN].public_key, compact_to_der(signature), A)
    assert "R4" in refused(desk, Ask.SIGN_BLOCK, block_order(5, B, world.commit(5, 2, B)))
    assert "R4" in refused(desk, Ask.SIGN_VOTE, world.order(world.vote(PREVOTE, 5, 9, A)))
    assert facts(desk).block_signature == (5, A)


def test_c72_votes_when_below_the_bound_or_abstaining_then_refused(
    world: SignerWorld, desk: SignerDesk
) -> None:
    done(desk, Ask.ABSTAIN)
    assert "R6" in refused(desk, Ask.SIGN_VOTE, world.order(world.vote(PREVOTE, 5, 0, A)))
    done(desk, Ask.REFUSE_BELOW, (6).to_bytes(4, "little"))
    assert "C72" in refused(desk, Ask.SIGN_VOTE, world.order(world.vote(PREVOTE, 5, 0, A)))
    done(desk, Ask.REFUSE_BELOW, (3).to_bytes(4, "little"))
    assert facts(desk).vote_from == 6
    advance(desk, world.headers.extend(1))
    done(desk, Ask.SIGN_VOTE, world.order(world.vote(PREVOTE, 6, 0, A)))
    assert "malformed" in refused(desk, Ask.RESUME_AT, b"\0\0")


def test_answer_when_signed_then_over_exactly_the_fields_sent(
    world: SignerWorld, desk: SignerDesk
) -> None:
    order = AnswerOrder(A, B, 4, A, False, (5, 0, 2))
    done(desk, Ask.HALT)
    signature = done(desk, Ask.ANSWER, order.encode())
    digest = tagged_hash(ROLLCALL_TAG, world.genesis + order.encode())
    assert schnorr_verify(world.secrets[OWN].public_key[1:], signature, digest)
    assert "malformed" in refused(desk, Ask.ANSWER, order.encode() + b"\0")


# -- what is malformed


def test_requests_when_malformed_then_refused_and_the_desk_goes_on(
    world: SignerWorld, desk: SignerDesk
) -> None:
    source = random.Random(7)
    order = world.order(world.vote(PRECOMMIT, 5, 0, A), world.pol(5, 0, A))
    for size in range(len(order)):
        if size != 109:  # a whole P without its certificate
            assert refused(desk, Ask.SIGN_VOTE, order[:size])
    for ask, limit in ASK_LIMITS_BYTES.items():
        for _ in range(40):
            body = source.randbytes(source.randrange(0, min(limit, 300) + 1))
            if ask in (Ask.SIGN_FRAME, Ask.SIGN_MESSAGE) or not limit:
                continue
            kind, _ = desk.answer(ask, body)
            allowed = ask in (Ask.REFUSE_BELOW, Ask.RESUME_AT, Ask.ANSWER)
            assert kind == Reply.REFUSED or allowed
    headers = Advance(tuple([b"x"] * (HEADERS_MAX + 1))).encode()
    assert "malformed" in refused(desk, Ask.ADVANCE, headers)
    assert "malformed" in refused(desk, Ask.SIGN_MESSAGE, b"\x03\xff\xff\xff")
    assert "tagged" in refused(desk, Ask.SIGN_MESSAGE, b"\x0ffedchain/vote/1x")
    assert facts(desk).position == (0, -1, 0)


# -- R5: the disk


def story(world: SignerWorld, desk: SignerDesk, said: list[tuple[Ask, bytes, bytes]]) -> bool:
    """Signatures of a height; what was handed out goes to `said`. False when the disk refused."""
    for ask, body in (
        (Ask.SIGN_VOTE, world.order(world.vote(PREVOTE, 5, 0, A))),
        (Ask.SIGN_VOTE, world.order(world.vote(PRECOMMIT, 5, 0, A), world.pol(5, 0, A))),
        (Ask.SIGN_BLOCK, block_order(5, A, world.commit(5, 0, A))),
    ):
        kind, reply = desk.answer(ask, body)
        if kind != Reply.DONE:
            assert kind == Reply.FAILED and desk.has_failed
            return False
        said.append((ask, body, reply[8:]))
    return True


def check_not_forgotten(world: SignerWorld, said: list[tuple[Ask, bytes, bytes]]) -> None:
    """A signer that starts again contradicts nothing that was handed out."""
    with world.desk() as desk:
        advance(desk, world.headers.made)
        signed = facts(desk)
        assert desk._signer.counter >= len(said)
        assert len(said) < 3 or signed.block_signature == (5, A)
        for ask, body, signature in said:
            assert done(desk, ask, body) == signature
        if said:
            refused(desk, Ask.SIGN_VOTE, world.order(world.vote(PREVOTE, 5, 0, B)))
        if len(said) > 1:
            refused(desk, Ask.SIGN_VOTE, world.order(world.vote(PREVOTE, 5, 1, B)))


def fresh(world: SignerWorld) -> tuple[bytes, int]:
    """A guard that was never used, and how many disk operations the story takes."""
    counting = CountingDisk()
    with world.desk(GuardStart.FRESH):
        start = world.home.guard.read_bytes()
    with world.desk(layer=counting) as desk:
        advance(desk, world.headers.extend(4))
        assert story(world, desk, [])
    return start, counting.done


@pytest.mark.parametrize("code", DISK_ERRORS)
def test_r5_disk_when_it_refuses_any_operation_then_no_signature_leaves(
    world: SignerWorld, code: int
) -> None:
    start, operations = fresh(world)
    for at in range(1, operations):
        world.home.guard.write_bytes(start)
        said: list[tuple[Ask, bytes, bytes]] = []
        with world.desk(layer=CountingDisk(at, raise_errno(code))) as desk:
            advance(desk, world.headers.made)
            assert not story(world, desk, said)
            assert desk.answer(Ask.STATUS, b"")[0] == Reply.DONE
            assert desk.answer(Ask.SIGN_VOTE, world.order(world.vote(PREVOTE, 5, 9, A)))[0] != (
                Reply.DONE
            )
        check_not_forgotten(world, said)


def test_r5_power_when_cut_at_any_operation_then_nothing_said_is_forgotten(
    world: SignerWorld,
) -> None:
    start, operations = fresh(world)
    for at in range(1, operations):
        world.home.guard.write_bytes(start)
        said: list[tuple[Ask, bytes, bytes]] = []
        disk = PowerDisk(world.home.guard.parent, at)
        with pytest.raises(Killed), world.desk(layer=disk) as desk:
            advance(desk, world.headers.made)
            story(world, desk, said)
        disk.lose_power()
        check_not_forgotten(world, said)


def test_r6_guard_when_rolled_back_then_its_counter_shows_it(world: SignerWorld) -> None:
    """The signer cannot know; what it says of itself lets the member see it."""
    with world.desk(GuardStart.FRESH) as desk:
        advance(desk, world.headers.extend(4))
        done(desk, Ask.SIGN_VOTE, world.order(world.vote(PREVOTE, 5, 0, A)))
        older = world.home.guard.read_bytes()
        done(desk, Ask.SIGN_VOTE, world.order(world.vote(PREVOTE, 5, 1, A)))
        assert desk._signer.counter == 2
    world.home.guard.write_bytes(older)
    with world.desk() as desk:
        assert desk._signer.counter == 1 and facts(desk).position == (5, 0, 2)
