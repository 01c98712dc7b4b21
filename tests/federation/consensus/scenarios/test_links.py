"""One-way links, partitions and proposers that say different things (consensus:10.1.8, 10.1.10).

Also 10.1.9: the core has no wall clock; `test_wall_clock_...` runs the real block production.
"""

import random
from pathlib import Path

import pytest

from federation.consensus.messages import GetBlock
from federation.consensus.votes import BlockMessage, Certificate, Proposal, Vote
from federation.sim.world import block_hash
from tests.federation.consensus.bench import PREVOTE, PROPOSAL, Bench
from tests.federation.consensus.net import Net, Process
from tests.federation.engine_world import World, run_virtual

ROUNDS = 50


def rounds_pass(net: Net, rounds: int) -> None:
    """As long as so many rounds last at most, or as forty heights, if there are any."""
    length_ms = sum(2 * net.times.timeout_ms(round_) for round_ in range(rounds))
    net.pass_ms(length_ms, lambda: max(process.height for process in net) > 40)


@pytest.mark.parametrize("deaf", [0, 1, 2, 3])
def test_asymmetric_partition_one_hears_and_is_not_heard_then_heals(deaf: int) -> None:
    """The others go on without it; it follows, and votes again after the heal."""
    net = Net()
    net.until_height(2)
    net.link = lambda source, to, message: source.key != deaf
    others = [key for key in range(4) if key != deaf]
    net.until_height(8, *others)
    known = len(net[deaf].said())
    net.link = lambda source, to, message: True
    net.until_height(max(p.height for p in net) + 4)
    assert len(net[deaf].said()) > known
    assert net.accused == []


def test_asymmetric_partition_between_two_pairs_then_heals() -> None:
    """0 and 1 hear 2 and 3, which hear only each other."""
    net = Net()
    net.until_height(2)
    net.link = lambda source, to, message: not (source.key < 2 <= to.key)
    rounds_pass(net, 6)
    net.check()
    net.link = lambda source, to, message: True
    net.until_height(max(p.height for p in net) + 3)


@pytest.mark.parametrize("reach", [1, 2])
def test_one_way_links_in_a_ring_for_fifty_rounds_then_heal(reach: int) -> None:
    """Each is heard by the next one, or the next two; replies cannot come back."""
    net = Net()
    net.until_height(2)
    net.link = lambda source, to, message: (to.key - source.key) % 4 <= reach
    rounds_pass(net, ROUNDS)
    net.check()
    top = max(p.height for p in net)
    net.link = lambda source, to, message: True
    net.until_height(top + 4, within_ms=20_000)
    assert net.accused == []


def test_one_way_links_in_a_ring_that_turns_for_fifty_rounds() -> None:
    """Another ring every 100 ms: all links exist in turn, one third at a time."""
    rng = random.Random(8)
    net = Net()
    for _ in range(ROUNDS):
        ring = rng.sample(range(4), 4)
        follower = {ring[i]: ring[(i + 1) % 4] for i in range(4)}

        def is_next(
            source: Process, to: Process, message: object, after: dict[int, int] = follower
        ) -> bool:
            return after[source.key] == to.key

        net.link = is_next
        net.pass_ms(100)
    net.check()
    net.link = lambda source, to, message: True
    net.until_height(max(p.height for p in net) + 4)


# --- a proposer that equivocates


def proposer_is_liar() -> Net:
    """Members 0, 2, 3 wait in round 0 of height 1 for member 1, which lies."""
    net = Net(keys=(0, 2, 3))
    net.pass_ms(25)
    return net


def test_proposer_equivocation_different_blocks_to_halves() -> None:
    """Who sees both has the evidence, and soon all have it."""
    net = proposer_is_liar()
    for salt, keys in ((1, (0, 2)), (2, (3,)), (1, (3,))):
        data = Bench().block(salt)
        net.inject(Proposal(net.vote(PROPOSAL, 1, 0, block_hash(data), 1), None), *keys)
        net.inject(BlockMessage(height=1, block_hash=block_hash(data), data=data), *keys)
    net.until_height(3)
    assert {(name, member) for name, member, _, _ in net.accused} == {
        (process.name, 1) for process in net
    }


def no_proposal_of_others(source: Process, to: Process, message: object) -> bool:
    return isinstance(message, Vote)


def test_proposer_equivocation_same_block_with_different_valid_rounds() -> None:
    """(H, −1) to one, (H, 0) with its POL to the others: both are voted for, each as it is cited.

    The member that saw no POL cites none; nobody convicts itself (C24a, I13).
    """
    net = proposer_is_liar()
    net.link = no_proposal_of_others
    data = Bench().block(1)
    hash_ = block_hash(data)
    net.inject(Proposal(net.vote(PROPOSAL, 1, 0, hash_, 1), None), 0, 2)
    net.inject(BlockMessage(height=1, block_hash=hash_, data=data))
    net.until(lambda: all(p.agreement.round == 4 for p in net))  # member 1's next turn
    votes = [net[0].said(PREVOTE)[0], net.vote(PREVOTE, 1, 0, hash_, 1), net[2].said(PREVOTE)[0]]
    pol = Certificate(
        type=PREVOTE,
        height=1,
        round=0,
        block_hash=hash_,
        votes=tuple((vote.member, -1, vote.signature) for vote in votes),
    )
    net.inject(Proposal(net.vote(PROPOSAL, 1, 4, hash_, 1), None), 0)
    net.inject(Proposal(net.vote(PROPOSAL, 1, 4, hash_, 1, 0), pol), 2, 3)
    net.inject(BlockMessage(height=1, block_hash=hash_, data=data))
    net.pass_ms(1)
    cited = {p.key: [v.valid_round for v in p.said(PREVOTE) if v.round == 4] for p in net}
    assert cited == {0: [-1], 2: [0], 3: [0]}
    net.link = lambda source, to, message: True
    net.until_height(3)
    assert net.finals[1] == {hash_}
    assert net.accused_members() <= {1}


def test_proposer_that_withholds_the_bytes_from_all_but_one() -> None:
    """C22: who has voted for a block gives it to those who ask."""
    net = proposer_is_liar()
    data = Bench().block(1)
    asked: list[int] = []

    def watch(source: Process, to: Process, message: object) -> bool:
        if isinstance(message, GetBlock):
            asked.append(source.key)
        return True

    net.link = watch
    net.inject(Proposal(net.vote(PROPOSAL, 1, 0, block_hash(data), 1), None))
    net.inject(BlockMessage(height=1, block_hash=block_hash(data), data=data), 2)
    net.until_height(2)
    assert net.finals[1] == {block_hash(data)}
    assert {0, 3} <= set(asked)


# --- wall clocks


@pytest.mark.slow
def test_wall_clock_an_hour_off_at_one_member_then_at_all(tmp_path: Path) -> None:
    """V9: no fork; blocks go on, also when all clocks step back behind the chain (MTP + 1)."""

    async def story() -> None:
        world = World(tmp_path, first_epoch_blocks=10_000)
        processes = world.start_all()
        clock = world.unix_time_s

        def skew(index: int, seconds: int) -> None:
            processes[index].production._wall_clock_s = lambda: clock() + seconds

        height = 3
        await world.until_height(height)
        for skews in (
            (3_600, 0, 0, 0),
            (-3_600, 0, 0, 0),
            (0, 0, 3_600, 0),
            (3_600,) * 4,
            (0, 0, 0, 0),
            (-3_600,) * 4,
            (0, 0, 0, 0),
        ):
            for index, seconds in enumerate(skews):
                skew(index, seconds)
            height = max(p.chain.tip_height for p in processes) + 8
            await world.until_height(height, seconds=120)
        for number in range(1, height + 1):
            assert len({p.chain.header(number).hash for p in processes}) == 1
        assert all(p.failure is None and len(p.evidence) == 0 for p in processes)
        await world.close()

    run_virtual(story())
