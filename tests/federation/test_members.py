"""Member sets and the numbers that follow from n and k."""

import pytest

from federation.members import MemberSet, check_byzantine_safety, default_k
from federation.sim.world import block_key, member_set


@pytest.mark.parametrize(
    ("n", "k", "f_s", "f_l"),
    [
        (3, 2, 0, 1),
        (3, 3, 2, 0),
        (4, 3, 1, 1),
        (5, 3, 0, 2),
        (5, 4, 2, 1),
        (6, 4, 1, 2),
        (7, 5, 2, 2),
        (10, 7, 3, 3),
        (15, 10, 4, 5),
        (15, 11, 6, 4),
    ],
)
def test_bounds_are_those_of_the_table(n: int, k: int, f_s: int, f_l: int) -> None:
    members = member_set(n, k)
    assert (members.f_s, members.f_l) == (f_s, f_l)
    assert members.s == min(f_s, f_l) + 1


def test_c1_set_without_byzantine_safety_is_refused_unless_allowed() -> None:
    with pytest.raises(ValueError, match="one lying member can fork the chain"):
        check_byzantine_safety(member_set(3, 2), allow_none=False)
    assert check_byzantine_safety(member_set(3, 2), allow_none=True) is not None
    assert check_byzantine_safety(member_set(4, 3), allow_none=False) is None


def test_c10_proposer_rotates_with_height_and_round() -> None:
    members = member_set(4, 3)
    assert [members.proposer(5, r) for r in range(5)] == [1, 2, 3, 0, 1]
    assert members.proposer(6, 0) == members.proposer(5, 1)


def test_default_k_is_two_thirds_and_one() -> None:
    assert [default_k(n) for n in (3, 4, 7, 10, 15)] == [3, 3, 5, 7, 11]


def test_index_of_finds_the_x_only_key() -> None:
    members = member_set(4, 3)
    assert members.index_of(block_key(2)[1:]) == 2
    assert members.index_of(bytes(32)) is None


@pytest.mark.parametrize(
    ("keys", "k"),
    [
        ((), 1),
        (tuple(block_key(i) for i in range(21)), 11),
        ((block_key(0)[1:],), 1),
        ((block_key(0), block_key(0)), 1),
        ((block_key(0),), 0),
        ((block_key(0),), 2),
    ],
)
def test_impossible_sets_are_refused(keys: tuple[bytes, ...], k: int) -> None:
    with pytest.raises(ValueError):
        MemberSet.of(keys, k)
