"""Two correct processes with one key count as one Byzantine member (consensus:10.1.3, 10.1.11).

Five processes with the keys 0, 0, 1, 2, 3 of n = 4, k = 3. In each of six rounds they are cut into
two parts; then all links work, until key 0 had its turn to propose. S1 must hold, the others must
go on, and the key is named: by evidence of two votes (C56a), or by its own processes, which stop
or abstain (C75).
"""

import itertools
import random

import pytest

from federation.consensus.events import StartMode
from federation.consensus.records import Mode
from tests.federation.consensus.net import Net, Process

NAMES = ("m0", "twin", "m1", "m2", "m3")
PARTITIONS = tuple(
    frozenset(name for i, name in enumerate(NAMES) if number >> i & 1) for number in range(16)
)
"""One side of each way to cut five into two parts; the first cuts nobody off."""
ROUNDS = 6
OTHERS = (1, 2, 3)


def play(sides: tuple[frozenset[str], ...]) -> Net:
    """Six rounds of a height, each under its partition; then five heights with all links."""
    net = Net(started=False)
    net.add("twin", 0)
    healed: list[bool] = []

    def link(source: Process, to: Process, message: object) -> bool:
        if healed or source.driver is None:
            return True
        side = sides[min(max(source.agreement.round, 0), ROUNDS - 1)]
        return (source.name in side) == (to.name in side)

    def is_over() -> bool:
        up = [p for p in net if p.driver is not None]
        return all(p.height > 1 or p.agreement.round >= ROUNDS for p in up) or top() > 5

    def top() -> int:
        return max(net[key].height for key in OTHERS)

    net.link = link
    for process in net:
        process.start(StartMode.FRESH)
    net.pass_ms(3_000, is_over)
    healed.append(True)
    target = top() + 5
    net.until(lambda: all(net[key].height >= target for key in OTHERS) and is_named(net))
    net.check(except_keys=[0])
    return net


def is_named(net: Net) -> bool:
    """Whether evidence names key 0, or a process of it gave up."""
    twins = [net.processes[name] for name in ("m0", "twin")]
    gave_up = any(p.exited or Mode.ABSTAINING in p.modes for p in twins)
    return gave_up or net.accused_members() == {0}


@pytest.mark.parametrize("number", range(len(PARTITIONS)))
def test_twins_with_one_partition_for_six_rounds(number: int) -> None:
    net = play((PARTITIONS[number],) * ROUNDS)
    assert net.accused_members() <= {0}


@pytest.mark.slow
def test_twins_with_every_pair_of_partitions_in_turns_for_six_rounds() -> None:
    for pair in itertools.permutations(PARTITIONS, 2):
        net = play(pair * (ROUNDS // 2))
        assert net.accused_members() <= {0}, pair


@pytest.mark.slow
def test_twins_with_any_partition_in_each_of_six_rounds() -> None:
    """16⁶ schedules are too many: a hundred of them, always the same."""
    rng = random.Random(20)
    for _ in range(100):
        sides = tuple(rng.choice(PARTITIONS) for _ in range(ROUNDS))
        net = play(sides)
        assert net.accused_members() <= {0}, sides
