"""The index of Bitcoin's best chain: pure, compared with a list that is rebuilt each time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peg.parent_view import ParentBlock, ParentView
from sidechain.crypto.hashes import sha256
from sidechain.errors import InvariantError


def chain(prev: ParentBlock | None, count: int, salt: int = 0) -> list[ParentBlock]:
    """Blocks that follow one another."""
    blocks = []
    for _ in range(count):
        height = 0 if prev is None else prev.height + 1
        before = bytes(32) if prev is None else prev.hash
        name = sha256(before + salt.to_bytes(4, "little"))
        prev = ParentBlock(hash=name, prev_hash=before, height=height, ntx=height + 1, time=height)
        blocks.append(prev)
    return blocks


def test_depth_when_block_is_tip_then_one() -> None:
    view = ParentView()
    blocks = chain(None, 5)
    view.advance(blocks)
    assert view.tip_height == 4
    assert view.depth(blocks[4].hash) == 1
    assert view.depth(blocks[0].hash) == 5
    assert view.block_facts(blocks[2].hash) == (3, 3)
    assert view.hash_at(2) == blocks[2].hash
    assert view.hash_at(5) is None
    assert view.is_ancestor(blocks[1].hash, blocks[1].hash)
    assert not view.is_ancestor(blocks[2].hash, blocks[1].hash)


def test_advance_when_branch_replaces_blocks_then_both_are_told() -> None:
    view = ParentView()
    old = chain(None, 6)
    view.advance(old)
    new = chain(old[2], 5, salt=1)
    change = view.advance(new)
    assert change.disconnected == tuple(reversed(old[3:]))
    assert change.connected == tuple(new)
    assert view.tip_hash == new[-1].hash
    assert not view.is_active(old[3].hash)
    assert view.depth(old[3].hash) == 0
    assert view.block_facts(old[3].hash) is None


def test_advance_when_branch_does_not_connect_then_nothing_changes() -> None:
    view = ParentView()
    blocks = chain(None, 4)
    view.advance(blocks)
    stranger = chain(None, 6, salt=9)
    with pytest.raises(InvariantError):
        view.advance(stranger[2:])
    with pytest.raises(InvariantError):
        view.advance([chain(blocks[-1], 2)[1]])
    assert view.tip_hash == blocks[-1].hash
    assert view.tip_height == 3


def test_rewind_when_chain_became_shorter_then_tip_is_named_block() -> None:
    view = ParentView()
    blocks = chain(None, 4)
    view.advance(blocks)
    change = view.rewind(blocks[1].hash)
    assert change.disconnected == (blocks[3], blocks[2])
    assert view.tip_hash == blocks[1].hash
    with pytest.raises(InvariantError):
        view.rewind(blocks[3].hash)


def test_view_when_base_is_above_zero_then_lower_blocks_are_unknown() -> None:
    view = ParentView()
    blocks = chain(None, 6)
    assert view.is_empty
    with pytest.raises(InvariantError):
        _ = view.tip
    view.advance(blocks[3:])
    assert view.base_height == 3
    assert view.block_at(2) is None
    assert view.hash_at(3) == blocks[3].hash
    assert view.block_facts(blocks[2].hash) is None


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), max_size=20))
def test_view_when_branches_come_and_go_then_equal_to_plain_list(
    steps: list[tuple[int, int]],
) -> None:
    view = ParentView()
    model = chain(None, 3)
    view.advance(model)
    seen = set(model)
    for salt, (back, count) in enumerate(steps, 1):
        fork = max(0, len(model) - 1 - back)
        branch = chain(model[fork], count, salt=salt)
        view.advance(branch)
        model = model[: fork + 1] + branch
        seen |= set(branch)
    assert [view.block_at(i) for i in range(len(model))] == model
    for block in seen:
        expected = len(model) - block.height if block in model else 0
        assert view.depth(block.hash) == expected
        assert view.is_active(block.hash) == (expected > 0)
