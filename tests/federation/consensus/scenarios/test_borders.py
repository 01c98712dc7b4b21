"""The member set changes between two heights (consensus:10.1.14, C80 to C86).

The old set's last height is 3, the new set makes block 4. Keys are numbers of the world; the index
of a key may be another one in the new set.
"""

from dataclasses import replace

import pytest

from federation.consensus.height_state import Step
from federation.consensus.records import Mode
from federation.consensus.votes import Certificate
from federation.members import MemberSet
from federation.sim.world import GENESIS_TIP, block_hash, block_key, make_block
from tests.federation.consensus.bench import PRECOMMIT, PREVOTE
from tests.federation.consensus.net import Net

BORDER = 4
CHANGES = {
    "4 to 4, one replaced": ((0, 1, 2, 3), 3, (1, 2, 3, 4), 3),
    "4 to 4, other order": ((0, 1, 2, 3), 3, (3, 0, 2, 1), 3),
    "4 to 7": ((0, 1, 2, 3), 3, (6, 5, 4, 3, 2, 1, 0), 5),
    "7 to 4": ((0, 1, 2, 3, 4, 5, 6), 5, (5, 3, 1, 0), 3),
    "disjoint": ((0, 1, 2, 3), 3, (4, 5, 6, 7), 3),
}


def set_of_keys(keys: tuple[int, ...], k: int) -> MemberSet:
    return MemberSet.of(tuple(block_key(key) for key in keys), k)


def border_net(change: str, absent: tuple[int, ...] = ()) -> Net:
    """Everybody of either set runs and hears everybody, but those who are absent."""
    old_keys, old_k, new_keys, new_k = CHANGES[change]
    old, new = set_of_keys(old_keys, old_k), set_of_keys(new_keys, new_k)
    keys = [key for key in sorted({*old_keys, *new_keys}) if key not in absent]
    net = Net(keys=keys, set_of=lambda height: old if height < BORDER else new)
    net.delay_ms = lambda source, to, message: 2 + source.key % 3
    return net


def who_spoke(net: Net, height: int) -> set[int]:
    return {process.key for process in net if process.said(height=height)}


@pytest.mark.parametrize("change", CHANGES)
def test_border(change: str) -> None:
    old_keys, _, new_keys, new_k = CHANGES[change]
    net = border_net(change)
    net.until_height(BORDER + 4)
    for height in range(1, BORDER + 4):
        expected = set(old_keys if height < BORDER else new_keys)
        assert who_spoke(net, height) <= expected
    assert who_spoke(net, BORDER - 1) == set(old_keys)
    assert who_spoke(net, BORDER) == set(new_keys)
    assert len(next(iter(net)).disk.chain[BORDER - 1].signatures) == new_k
    assert net.accused == []


@pytest.mark.parametrize("step", [Step.PREVOTE, Step.PRECOMMIT, Step.DECIDED])
@pytest.mark.parametrize("change", CHANGES)
def test_border_with_a_member_crashed_across_it(change: str, step: Step) -> None:
    net = border_net(change)
    net.until(lambda: net[1].height == BORDER - 1 and net[1].agreement.step >= step)
    net[1].crash()
    net.until(lambda: all(p.height >= BORDER + 2 for p in net if p is not net[1]))
    net[1].start()
    net.until_height(BORDER + 5)
    is_in_new = 1 in CHANGES[change][2]
    assert bool(net[1].said(height=BORDER + 4)) == is_in_new


@pytest.mark.parametrize("change", ["4 to 4, one replaced", "4 to 7", "7 to 4"])
@pytest.mark.parametrize("height", [BORDER - 1, BORDER])
def test_border_with_an_amnesiac_across_it(change: str, height: int) -> None:
    """C86: whichever set M_{b+1} is, its answers are demanded."""
    net = border_net(change)
    net.until(lambda: net[1].height == height and net[1].agreement.step >= Step.PRECOMMIT)
    net[1].wipe()
    net.pass_ms(20)
    net[1].start()
    known = len(net[1].said())
    net.until(lambda: net[1].mode is Mode.VOTING and len(net[1].said()) > known, 30_000)
    assert net[1].said()[known].height > height
    net.until_height(net[1].height + 2)


@pytest.mark.parametrize("change", ["4 to 4, one replaced", "4 to 7", "disjoint"])
def test_border_with_a_new_member_offline(change: str) -> None:
    """C83 counts who is connected; the core goes on with k of the new set."""
    absent = CHANGES[change][2][-1] if change != "4 to 7" else 6
    net = border_net(change, absent=(absent,))
    net.until_height(BORDER + 3)
    assert absent not in who_spoke(net, BORDER)


def test_border_with_old_set_votes_replayed() -> None:
    """Votes bind D_h (C81): what the old set signs or signed for the border height is nothing."""
    change = "4 to 4, other order"
    net = border_net(change)
    net.until(lambda: all(p.height == BORDER - 1 for p in net))
    net.link = lambda source, to, message: all(p.height < BORDER for p in (source, to))
    net.until(lambda: any(p.height == BORDER for p in net), 5_000)
    net.link = lambda source, to, message: True
    net.until(lambda: all(p.height == BORDER for p in net))
    net.link = lambda source, to, message: False
    data = make_block(BORDER, net[0].disk.tip_hash, proposer=9, salt=1)
    old_root = net.root_of(BORDER - 1)
    votes = []
    for index, key in enumerate(CHANGES[change][0][:3]):
        vote = net.vote(PRECOMMIT, BORDER, 0, block_hash(data), index)
        votes.append(net.sign_vote(vote, key, root=old_root))
    commit = Certificate(
        type=PRECOMMIT,
        height=BORDER,
        round=0,
        block_hash=block_hash(data),
        votes=tuple((vote.member, -1, vote.signature) for vote in votes),
    )
    replayed = [replace(vote, height=BORDER) for vote in net[2].said(PREVOTE, BORDER - 1)]
    net.inject(commit)
    for vote in [*votes, *replayed]:
        net.inject(vote)
    for process in net:
        assert process.agreement.keeper.commits() == []
        assert all(round_ <= 0 for round_, _ in process.agreement.keeper.positions)
        assert process.agreement.step is not Step.DECIDED
    net.link = lambda source, to, message: True
    net.until_height(BORDER + 2)
    assert block_hash(data) not in net.finals[BORDER]
    assert GENESIS_TIP not in net.finals[BORDER]
