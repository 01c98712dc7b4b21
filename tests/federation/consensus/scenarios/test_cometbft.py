"""CometBFT's scenarios, ported by name to this agreement (consensus:10.1.2).

At height 1 of four members the proposers of rounds 0 to 4 are 1, 2, 3, 0, 1. The member under test
is 0 unless said otherwise. Where this agreement differs on purpose, the docstring says so.
"""

from federation.consensus.effects import Accuse, Finalize, Send
from federation.consensus.encoding import NIL
from federation.consensus.events import StartMode, Timer, TimerKind
from federation.consensus.height_state import Step
from federation.consensus.messages import EvidenceClass, GetBlock
from federation.consensus.votes import BlockMessage, Proposal
from federation.secret_key import SecretKey
from federation.sim.world import GENESIS, block_hash, params_root
from sidechain.crypto.keys import schnorr_verify
from tests.federation.consensus.bench import (
    PRECOMMIT,
    PREVOTE,
    PROPOSAL,
    Bench,
    of_type,
    sent_votes,
    timers,
)
from tests.federation.consensus.net import Net, Process


def in_round_0(me: int = 0) -> Bench:
    """A member that waits for the proposal of round 0."""
    bench = Bench(me)
    bench.enter_round_0()
    return bench


def locked_in_round_0(me: int = 0) -> tuple[Bench, bytes]:
    """A member that precommitted the block of round 0, and that block."""
    bench = in_round_0(me)
    data = bench.block(1)
    others = [m for m in range(4) if m != me]
    bench.propose(data)
    bench.votes(PREVOTE, 0, block_hash(data), *others[:2])
    assert lock_of(bench) == (block_hash(data), 0)
    return bench, data


def lock_of(bench: Bench) -> tuple[bytes, int]:
    return bench.agreement.locked_hash, bench.agreement.locked_round


def valid_of(bench: Bench) -> tuple[bytes, int]:
    return bench.agreement.valid_hash, bench.agreement.valid_round


def next_round(bench: Bench) -> int:
    """Three others end the round without a decision."""
    number = bench.agreement.round
    bench.votes(PRECOMMIT, number, NIL, *[m for m in range(4) if m != bench.me])
    bench.fire(TimerKind.PREVOTE)
    bench.fire(TimerKind.PRECOMMIT)
    assert bench.agreement.round == number + 1
    return number + 1


def prevoted(bench: Bench, round_: int) -> bytes:
    (vote,) = bench.own_votes(PREVOTE, round_)
    return vote.block_hash


def precommitted(bench: Bench, round_: int) -> bytes:
    (vote,) = bench.own_votes(PRECOMMIT, round_)
    return vote.block_hash


def test_state_lock_no_pol() -> None:
    """Without a POL for it, no other block is prevoted and none precommitted, round after round."""
    bench, data = locked_in_round_0()
    for salt, round_ in ((2, 1), (3, 2)):
        next_round(bench)
        other = bench.block(salt)
        bench.propose(other)
        assert prevoted(bench, round_) == NIL
        bench.votes(PREVOTE, round_, block_hash(other), 1, 2)  # with the own one no POL
        bench.fire(TimerKind.PREVOTE)
        assert precommitted(bench, round_) == NIL
        assert lock_of(bench) == (block_hash(data), 0)
    next_round(bench)  # the own turn: the locked block again
    assert bench.own_votes(PROPOSAL, 3)[0].block_hash == block_hash(data)
    assert prevoted(bench, 3) == block_hash(data)


def test_state_lock_pol_relock() -> None:
    """The same block gets a POL in a later round: locked anew there, and decided."""
    bench, data = locked_in_round_0()
    next_round(bench)
    bench.propose(data, pol=bench.certificate(PREVOTE, 0, block_hash(data), 1, 2, 3))
    bench.votes(PREVOTE, 1, block_hash(data), 1, 2)
    assert lock_of(bench) == (block_hash(data), 1)
    assert precommitted(bench, 1) == block_hash(data)
    bench.votes(PRECOMMIT, 1, block_hash(data), 1, 2)
    assert bench.agreement.decided_hash == block_hash(data)


def test_state_lock_pol_update_lock() -> None:
    """Another block gets a POL in a later round: the lock moves there."""
    bench, _ = locked_in_round_0()
    next_round(bench)
    other = bench.block(2)
    bench.propose(other)
    assert prevoted(bench, 1) == NIL
    bench.votes(PREVOTE, 1, block_hash(other), 1, 2, 3)
    assert lock_of(bench) == (block_hash(other), 1)
    assert precommitted(bench, 1) == block_hash(other)


def test_state_lock_pol_unlock() -> None:
    """A POL for nil does not unlock: here differs from the test's old namesake (C28)."""
    bench, data = locked_in_round_0()
    next_round(bench)
    bench.fire(TimerKind.PROPOSE)
    bench.votes(PREVOTE, 1, NIL, 1, 2, 3)
    assert precommitted(bench, 1) == NIL
    assert lock_of(bench) == (block_hash(data), 0)
    next_round(bench)
    bench.propose(bench.block(2))
    assert prevoted(bench, 2) == NIL


def test_state_lock_pol_unlock_on_unknown_block() -> None:
    """A POL for a block whose bytes are missing: nil, the lock stays, the bytes are asked for.

    When they come, the block is the valid one; it is voted for when it is proposed with its POL.
    """
    bench, data = locked_in_round_0()
    next_round(bench)
    unknown = bench.block(2)
    bench.fire(TimerKind.PROPOSE)
    bench.votes(PREVOTE, 1, block_hash(unknown), 1, 2, 3)
    bench.fire(TimerKind.PREVOTE)
    assert precommitted(bench, 1) == NIL
    assert lock_of(bench) == (block_hash(data), 0)
    asked = of_type(bench.tick(20, Timer(kind=TimerKind.FETCH, height=1)), Send)
    assert GetBlock(1, block_hash(unknown)) in [send.message for send in asked]
    bench.offer(unknown)
    assert valid_of(bench) == (block_hash(unknown), 1)
    assert lock_of(bench) == (block_hash(data), 0)
    next_round(bench)
    bench.propose(unknown, pol=bench.certificate(PREVOTE, 1, block_hash(unknown), 1, 2, 3))
    assert prevoted(bench, 2) == block_hash(unknown)
    bench.votes(PREVOTE, 2, block_hash(unknown), 1, 2)
    assert lock_of(bench) == (block_hash(unknown), 2)


def test_state_lock_pol_safety1() -> None:
    """An old POL that comes late moves neither lock nor vote."""
    bench = in_round_0()
    first = bench.block(1)
    bench.propose(first)
    bench.fire(TimerKind.PREVOTE)  # the others' prevotes for it are late
    bench.votes(PREVOTE, 0, NIL, 1, 2)
    bench.fire(TimerKind.PREVOTE)
    assert precommitted(bench, 0) == NIL
    next_round(bench)
    second = bench.block(2)
    bench.propose(second)
    bench.votes(PREVOTE, 1, block_hash(second), 1, 2)
    assert lock_of(bench) == (block_hash(second), 1)
    next_round(bench)
    bench.fire(TimerKind.PROPOSE)
    bench.receive(bench.certificate(PREVOTE, 0, block_hash(first), 1, 2, 3))
    assert lock_of(bench) == (block_hash(second), 1)
    assert valid_of(bench) == (block_hash(second), 1)
    assert prevoted(bench, 2) == NIL
    bench.votes(PREVOTE, 2, NIL, 1, 2)
    assert precommitted(bench, 2) == NIL


def test_state_lock_pol_safety2() -> None:
    """Locked in round 1: a proposal with the POL of round 0 gets nil, of round 2 a vote."""
    bench = in_round_0()
    first, second = bench.block(1), bench.block(2)
    bench.fire(TimerKind.PROPOSE)
    next_round(bench)
    bench.propose(second)
    bench.votes(PREVOTE, 1, block_hash(second), 1, 2)
    next_round(bench)
    bench.propose(first, pol=bench.certificate(PREVOTE, 0, block_hash(first), 1, 2, 3))
    assert prevoted(bench, 2) == NIL
    next_round(bench)  # the own turn in round 3 proposes the locked block
    assert bench.own_votes(PROPOSAL, 3)[0].block_hash == block_hash(second)
    next_round(bench)
    bench.propose(first, pol=bench.certificate(PREVOTE, 2, block_hash(first), 1, 2, 3))
    assert prevoted(bench, 4) == block_hash(first)


def test_propose_valid_block() -> None:
    """The own turn offers the block that had a POL rounds ago, with that POL."""
    bench, data = locked_in_round_0()
    for _ in range(3):
        next_round(bench)
        bench.fire(TimerKind.PROPOSE)
    assert bench.agreement.round == 3
    (proposal,) = bench.own_votes(PROPOSAL)
    assert (proposal.round, proposal.block_hash, proposal.valid_round) == (3, block_hash(data), 0)
    pol = bench.agreement.proposals[3].certificate
    assert pol is not None and (pol.round, pol.block_hash) == (0, block_hash(data))


def test_set_valid_block_on_delayed_prevote() -> None:
    """The third prevote comes after the wait: precommitted nil, valid but not locked."""
    bench = in_round_0()
    data = bench.block(1)
    bench.propose(data)
    bench.votes(PREVOTE, 0, block_hash(data), 1)
    bench.votes(PREVOTE, 0, NIL, 2)
    bench.fire(TimerKind.PREVOTE)
    assert precommitted(bench, 0) == NIL
    bench.votes(PREVOTE, 0, block_hash(data), 3)
    assert valid_of(bench) == (block_hash(data), 0)
    assert lock_of(bench) == (NIL, -1)


def test_set_valid_block_on_delayed_proposal() -> None:
    """The POL is there, the block comes after the precommit."""
    bench = in_round_0()
    data = bench.block(1)
    bench.fire(TimerKind.PROPOSE)
    bench.votes(PREVOTE, 0, block_hash(data), 1, 2, 3)
    bench.fire(TimerKind.PREVOTE)
    assert precommitted(bench, 0) == NIL
    assert valid_of(bench) == (NIL, -1)
    bench.propose(data)
    assert valid_of(bench) == (block_hash(data), 0)
    assert lock_of(bench) == (NIL, -1)


def test_waiting_timeout_on_nil_polka() -> None:
    """k precommits for nil start the wait, and its end the next round; not before."""
    bench = in_round_0()
    effects = bench.votes(PRECOMMIT, 0, NIL, 1, 2, 3)
    assert len(timers(effects, TimerKind.PRECOMMIT)) == 1
    assert bench.agreement.round == 0
    bench.fire(TimerKind.PRECOMMIT)
    assert bench.agreement.round == 1


def test_round_skip_on_nil_polka_from_higher_round() -> None:
    """Precommits for nil of round 1 take a member there out of round 0, and on after the wait."""
    bench = in_round_0()
    bench.propose(bench.block(1))
    assert bench.agreement.step is Step.PREVOTE
    effects = bench.votes(PRECOMMIT, 1, NIL, 1, 2, 3)
    assert bench.agreement.round == 1
    assert [t.timer.round for t in timers(effects, TimerKind.PRECOMMIT)] == [1]
    bench.fire(TimerKind.PROPOSE)  # what it signs there is nil
    assert prevoted(bench, 1) == NIL
    bench.fire(TimerKind.PRECOMMIT)
    assert bench.agreement.round == 2


def test_commit_from_previous_round() -> None:
    """Precommits of round 0 decide while the member is in round 1; the bytes come last."""
    bench = in_round_0()
    data = bench.block(1)
    bench.fire(TimerKind.PROPOSE)
    next_round(bench)
    bench.votes(PRECOMMIT, 0, block_hash(data), 1, 2, 3)  # liars both: they said nil before
    commit = bench.certificate(PRECOMMIT, 0, block_hash(data), 1, 2, 3)
    bench.receive(commit)
    assert bench.agreement.step is not Step.DECIDED
    bench.offer(data)
    assert (bench.agreement.step, bench.agreement.decided_hash) == (Step.DECIDED, block_hash(data))
    for member in (1, 2):
        bench.receive(bench.block_signature(block_hash(data), member))
    assert len(of_type(bench.effects, Finalize)) == 1


def test_state_halt1() -> None:
    """Precommitted nil after the wait, in the next round the block's precommits decide it."""
    bench = in_round_0()
    data = bench.block(1)
    bench.propose(data)
    bench.votes(PREVOTE, 0, block_hash(data), 1)
    bench.votes(PREVOTE, 0, NIL, 2)
    bench.fire(TimerKind.PREVOTE)
    bench.votes(PRECOMMIT, 0, block_hash(data), 1, 2)
    bench.fire(TimerKind.PRECOMMIT)
    assert bench.agreement.round == 1
    bench.votes(PRECOMMIT, 0, block_hash(data), 3)
    assert bench.agreement.decided_hash == block_hash(data)


def test_sign_same_vote_twice() -> None:
    """Signing is deterministic: a restart that signs again sends the same bytes."""
    bench, _ = locked_in_round_0()
    secret = SecretKey(bytes([7]) * 32)
    restarted = Bench(mode=StartMode.INTACT, journal=bench.journal, blocks=bench.disk_blocks)
    first, again = sent_votes(bench.effects), sent_votes(restarted.effects)
    assert [v.encode() for v in first] == [v.encode() for v in again] != []
    for old, new in zip(first, again, strict=True):
        payload = old.digest(GENESIS, params_root(1)), new.digest(GENESIS, params_root(1))
        signatures = {secret.sign_schnorr(digest) for digest in payload}
        assert len(signatures) == 1
        assert schnorr_verify(secret.public_key[1:], signatures.pop(), payload[0])


def test_double_signing_is_evidence_in_both_orders() -> None:
    """CometBFT's TestDoubleSigning: the second vote of a position convicts (C56a)."""
    for kind in (PREVOTE, PRECOMMIT):
        for hashes in ((NIL, b"h" * 32), (b"h" * 32, NIL), (b"g" * 32, b"h" * 32)):
            bench = in_round_0()
            effects = [e for hash_ in hashes for e in bench.votes(kind, 0, hash_, 2)]
            (accused,) = of_type(effects, Accuse)
            assert (accused.member, accused.evidence.kind) == (2, EvidenceClass.DOUBLE_VOTE)


# --- several members


def test_byzantine_prevote_equivocation() -> None:
    """A prevote for the block to one, for nil to the others: decided, and all hold the evidence."""
    net = Net(keys=(0, 1, 2))
    net.link = lambda source, to, message: False  # nothing is decided before all was heard
    net.pass_ms(30)
    block = net[1].said(PROPOSAL)[0].block_hash
    net.inject(net.vote(PREVOTE, 1, 0, block, 3), 0)
    net.inject(net.vote(PREVOTE, 1, 0, NIL, 3), 1, 2)
    assert net.accused == []
    net.link = lambda source, to, message: True
    net.until_height(3)
    assert net.finals[1] == {block}
    assert {(name, member) for name, member, _, _ in net.accused} == {
        (process.name, 3) for process in net
    }


def test_byzantine_conflicting_proposals_with_partition() -> None:
    """The proposer shows each half another block while they do not hear each other."""
    net = Net(keys=(0, 2, 3))  # member 1 proposes round 0 of height 1 and lies
    halves = ({0, 2}, {3})

    def same_half(source: Process, to: Process, message: object) -> bool:
        return any({source.key, to.key} <= half for half in halves)

    net.link = same_half
    net.pass_ms(25)
    bench = Bench()
    for salt, half in enumerate(halves, start=1):
        data = bench.block(salt)
        vote = net.vote(PROPOSAL, 1, 0, block_hash(data), 1)
        net.inject(Proposal(vote, None), *half)
        net.inject(BlockMessage(height=1, block_hash=block_hash(data), data=data), *half)
        net.inject(net.vote(PREVOTE, 1, 0, block_hash(data), 1), *half)
    net.pass_ms(1)
    first = block_hash(bench.block(1))
    assert {v.block_hash for v in net[0].said(PREVOTE)} == {first}
    net.pass_ms(400)
    assert lock_rounds(net) == {0: 0, 2: 0, 3: -1}  # two and the liar made a POL
    net.link = lambda source, to, message: True
    net.until_height(3)
    assert net.finals[1] == {first}  # the lock was honoured
    assert (1, EvidenceClass.DOUBLE_VOTE) in {(m, e.kind) for _, m, _, e in net.accused}


def lock_rounds(net: Net) -> dict[int, int]:
    return {p.key: p.agreement.locked_round for p in net}
