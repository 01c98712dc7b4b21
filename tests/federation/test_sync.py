"""Which blocks are asked of whom (consensus:C54), with simulated peers and time."""

import random

import pytest

from federation.sync import (
    AHEAD_MAX_BLOCKS,
    DISBELIEVED_AFTER,
    HEDGE_MS,
    HELD_MAX_BYTES,
    LIE_PAUSE_MS,
    PEERS_MAX,
    SILENCE_MS,
    WINDOW_BLOCKS,
    FinalRequest,
    SyncPlanner,
)


def planner_with(peers: dict[int, int]) -> SyncPlanner:
    planner = SyncPlanner()
    for peer, height in peers.items():
        planner.peer_at(peer, height)
    return planner


def ask(peer: int, first: int, count: int = WINDOW_BLOCKS) -> FinalRequest:
    return FinalRequest(peer=peer, from_height=first, count=count)


def test_plan_when_at_the_tip_then_nothing() -> None:
    planner = planner_with({1: 10, 2: 9})
    assert planner.plan(10, 0) == ()
    assert planner.lag_blocks(10) == 0 and planner.lag_blocks(9) == 1
    assert SyncPlanner().plan(0, 0) == ()


def test_plan_when_far_behind_then_one_window_each_for_four_peers() -> None:
    planner = planner_with(dict.fromkeys(range(6), 1000))
    requests = planner.plan(0, 0)
    assert requests == tuple(ask(i, 1 + 16 * i) for i in range(PEERS_MAX))
    assert planner.plan(0, 1) == ()


def test_plan_when_peers_are_at_different_heights_then_only_what_they_have() -> None:
    planner = planner_with({1: 5, 2: 20})
    assert planner.plan(2, 0) == (ask(1, 3, 3), ask(2, 6, 15))


def test_window_when_filled_then_peer_gets_the_next() -> None:
    planner = planner_with({1: 100})
    assert planner.plan(0, 0) == (ask(1, 1),)
    for height in range(1, 17):
        assert planner.received(1, height, b"%d" % height, 10)
    assert planner.plan(0, 10) == (ask(1, 17),)
    for height in range(1, 17):
        assert planner.next_block(height - 1) == (1, b"%d" % height)
    assert planner.next_block(16) is None


def test_blocks_when_out_of_order_then_handed_out_in_order_and_once() -> None:
    planner = planner_with({1: 3})
    planner.plan(0, 0)
    assert planner.received(1, 3, b"3", 1) and planner.received(1, 2, b"2", 1)
    assert planner.next_block(0) is None
    assert planner.received(1, 1, b"1", 1)
    assert planner.next_block(0) == (1, b"1")
    assert planner.next_block(0) is None
    assert planner.next_block(1) == (1, b"2")


def test_block_when_not_asked_for_then_taken_only_for_the_next_height() -> None:
    planner = planner_with({})
    planner.plan(4, 0)
    assert not planner.received(1, 4, b"old", 0)
    assert not planner.received(1, 6, b"ahead", 0)
    assert planner.received(1, 5, b"next", 0)
    assert not planner.received(2, 5, b"again", 0)
    assert planner.next_block(4) == (1, b"next")


def test_liar_when_blamed_then_left_alone_for_ten_minutes() -> None:
    planner = planner_with({1: 100, 2: 100})
    assert planner.plan(0, 0) == (ask(1, 1), ask(2, 17))
    planner.received(1, 1, b"lie", 5)
    planner.received(1, 2, b"more", 5)
    planner.received(2, 17, b"true", 5)
    planner.blame(1, 10)
    assert planner.next_block(0) is None
    for height in range(18, 33):
        planner.received(2, height, b"x", 20)
    assert planner.plan(0, 30) == (ask(2, 1),)
    planner.peer_gone(2)
    assert planner.plan(0, 10 + LIE_PAUSE_MS - 1) == ()
    assert planner.plan(0, 10 + LIE_PAUSE_MS) == (ask(1, 1),)


def test_slow_peer_when_another_works_then_waits_its_turn() -> None:
    planner = planner_with({1: 16, 2: 16})
    assert planner.plan(0, 0) == (ask(1, 1),)
    assert planner.plan(0, SILENCE_MS) == (ask(2, 1),)
    planner.received(2, 1, b"x", SILENCE_MS + 1)
    assert planner.plan(0, 2 * SILENCE_MS) == ()


def test_slow_peer_when_alone_then_asked_again_at_once() -> None:
    planner = planner_with({1: 16})
    assert planner.plan(0, 0) == (ask(1, 1),)
    assert planner.plan(0, SILENCE_MS) == (ask(1, 1),)


def test_peer_when_gone_then_its_window_goes_to_another() -> None:
    planner = planner_with({1: 16, 2: 16})
    assert planner.plan(0, 0) == (ask(1, 1),)
    planner.peer_gone(1)
    assert planner.plan(0, 1) == (ask(2, 1),)


def test_chain_when_it_grows_otherwise_then_windows_shrink() -> None:
    planner = planner_with({1: 16})
    planner.plan(0, 0)
    planner.received(1, 2, b"2", 1)
    assert planner.next_block(15) is None
    assert planner.plan(16, 2) == ()
    planner.peer_at(1, 17)
    assert planner.plan(16, 3) == (ask(1, 17, 1),)


def test_memory_when_blocks_are_large_then_bounded() -> None:
    planner = planner_with(dict.fromkeys(range(PEERS_MAX), 10000))
    held, block = 0, bytes(4_000_000)
    planner.plan(0, 0)
    planner.received(0, 2, block, 0)
    for now in range(1, 100):
        for request in planner.plan(0, now):
            for height in range(request.from_height, request.from_height + request.count):
                held += planner.received(request.peer, height, block, now)
    assert held * 4_000_000 <= HELD_MAX_BYTES
    one = planner_with({0: 10_000})
    for height in range(2, 17):
        one.plan(0, 0)
        one.received(0, height, block, 0)
    one.peer_gone(0)
    one.peer_at(1, 10_000)
    assert one.plan(0, 1) == (ask(1, 1, 1),)
    small = planner_with(dict.fromkeys(range(PEERS_MAX), 10000))
    highest = 0
    for now in range(100):
        for request in small.plan(0, now):
            for height in range(request.from_height, request.from_height + request.count):
                if height != 1:
                    highest = max(highest, height)
                    small.received(request.peer, height, b"", now)
    assert highest <= AHEAD_MAX_BLOCKS + WINDOW_BLOCKS


@pytest.mark.parametrize("seed", range(20))
def test_sync_when_peers_lie_stall_and_vanish_then_reaches_the_tip(seed: int) -> None:
    rng = random.Random(seed)
    goal = 200
    kinds = {0: "honest", 1: "liar", 2: "silent", 3: "flaky", 4: "short"}
    heights = {peer: 90 if kind == "short" else goal for peer, kind in kinds.items()}
    planner = planner_with(heights)
    tip, now = 0, 0
    while tip < goal:
        now += rng.randrange(50, 2_000)
        assert now < 3_600_000, "no progress"
        for request in planner.plan(tip, now):
            kind = kinds[request.peer]
            assert 1 <= request.count <= WINDOW_BLOCKS
            assert request.from_height + request.count - 1 <= heights[request.peer]
            if kind == "silent" or (kind == "flaky" and rng.random() < 0.5):
                continue
            asked = list(range(request.from_height, request.from_height + request.count))
            rng.shuffle(asked)
            for height in asked:
                lying = kind == "liar" and rng.random() < 0.3
                planner.received(request.peer, height, b"lie" if lying else b"true", now)
        if rng.random() < 0.05:
            planner.peer_gone(3)
            planner.peer_at(3, goal)
        while (found := planner.next_block(tip)) is not None:
            peer, block = found
            if block == b"lie":
                assert kinds[peer] == "liar"
                planner.blame(peer, now)
            else:
                tip += 1


def test_slow_peer_when_it_holds_the_lowest_blocks_then_an_idle_one_is_asked_too() -> None:
    planner = planner_with({1: 32, 2: 32})
    assert planner.plan(0, 0) == (ask(1, 1), ask(2, 17))
    for height in range(17, 33):
        planner.received(2, height, b"x", 10)
    planner.received(1, 1, b"x", HEDGE_MS - 1)
    assert planner.next_block(0) is not None
    assert planner.plan(1, HEDGE_MS - 1) == ()
    assert planner.plan(1, HEDGE_MS) == (ask(2, 2, 15),)
    assert planner.asked == {1, 2}
    assert planner.plan(1, HEDGE_MS + 1) == ()
    for height in range(2, 17):
        assert planner.received(2, height, b"x", HEDGE_MS + 10)
    for height in range(1, 32):
        assert planner.next_block(height) is not None
    assert planner.plan(32, HEDGE_MS + 20) == () and not planner.asked


def test_peer_when_it_claims_much_and_sends_nothing_then_it_is_not_believed() -> None:
    planner = planner_with({1: 2**32 - 1})
    assert planner.plan(10, 0)
    for times in range(1, DISBELIEVED_AFTER + 1):
        assert planner.lag_blocks(10) > 0
        planner.plan(10, times * SILENCE_MS)
    assert planner.lag_blocks(10) == 0


def catch_up(slow: dict[int, int], blocks: int) -> int:
    """Virtual milliseconds until all blocks are here; `slow` peers take so long for each one."""
    planner = planner_with(dict.fromkeys((1, 2, 3), blocks))
    due: list[tuple[int, int, int]] = []
    now_ms = tip = 0
    while tip < blocks:
        for request in planner.plan(tip, now_ms):
            first_ms, pace_ms = now_ms + 1, slow.get(request.peer, 1)
            due += [
                (first_ms + pace_ms * (1 + i), request.peer, request.from_height + i)
                for i in range(request.count)
            ]
        due.sort()
        if not due or due[0][0] > now_ms + 1_000:
            now_ms += 1_000  # the engine's tick
            continue
        now_ms, peer, height = due.pop(0)
        planner.received(peer, height, b"x", now_ms)
        while planner.next_block(tip) is not None:
            tip += 1
    return now_ms


NEVER_MS = 10**9


@pytest.mark.parametrize(
    "slow", [{1: NEVER_MS}, {1: 1_900}, {1: NEVER_MS, 2: NEVER_MS}, {2: 1_000, 3: 9_000}]
)
def test_slow_peers_when_there_is_a_quick_one_then_they_hold_up_little(
    slow: dict[int, int],
) -> None:
    """C54: each is left alone longer every time; 2,000 blocks take seconds, not minutes."""
    assert catch_up({}, 2_000) < 3_000
    assert catch_up(slow, 2_000) < 30_000


@pytest.mark.parametrize("pace_ms", [200, 1_500])
def test_slow_peers_when_there_are_no_others_then_they_are_used(pace_ms: int) -> None:
    assert catch_up({1: pace_ms, 2: pace_ms, 3: pace_ms}, 300) < 300 * pace_ms
