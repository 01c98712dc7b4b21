"""The engine's inbox: turns, order, room; and its timers."""

import asyncio

import pytest

from federation.consensus.events import Timer, TimerFired, TimerKind
from federation.inbox import (
    BYTES_HIGH,
    FRAMES_HIGH,
    FRAMES_MAX,
    GOSSIP_EVERY,
    GOSSIP_FRAMES_HIGH,
    Frame,
    Inbox,
    LinkNews,
)
from federation.rate_limits import RequestBudget
from federation.timers import EngineTimers
from tests.federation.engine_world import run_virtual


async def take(inbox: Inbox, count: int) -> list[object]:
    found: list[object] = []
    for _ in range(count):
        work = await inbox.get()
        found.append((work.member, work.body) if isinstance(work, Frame) else work)
    return found


async def test_frames_when_one_member_floods_then_the_others_wait_for_one_each() -> None:
    inbox = Inbox()
    for number in range(100):
        inbox.put_frame(1, 6, b"%d" % number)
    inbox.put_frame(2, 6, b"two")
    inbox.put_frame(3, 6, b"three")
    assert await take(inbox, 4) == [(1, b"0"), (2, b"two"), (3, b"three"), (1, b"1")]


async def test_acts_when_they_never_end_then_frames_still_get_their_turn() -> None:
    inbox = Inbox()
    acts = [lambda: None for _ in range(3)]
    for act in acts:
        inbox.post(act)
    inbox.put_frame(1, 6, b"a")
    inbox.put_frame(1, 6, b"b")
    assert await take(inbox, 5) == [acts[0], (1, b"a"), acts[1], (1, b"b"), acts[2]]


async def test_transactions_when_there_are_many_then_votes_behind_them_come_first() -> None:
    inbox = Inbox()
    for number in range(50):
        inbox.put_frame(1, 17, b"%d" % number)
    inbox.put_frame(1, 1, b"vote")
    inbox.put_frame(2, 6, b"status")
    assert await take(inbox, 3) == [(1, b"vote"), (2, b"status"), (1, b"0")]


async def test_transactions_when_agreement_never_ends_then_they_get_a_turn_all_the_same() -> None:
    inbox = Inbox()
    inbox.put_frame(1, 15, b"news")
    for _ in range(3 * GOSSIP_EVERY):
        inbox.put_frame(2, 6, b"status")
        inbox.post(lambda: None)
    assert (1, b"news") in await take(inbox, GOSSIP_EVERY + 1)


async def test_room_when_transactions_wait_then_more_is_read_until_there_are_very_many() -> None:
    """A vote that comes over the link behind them must be read."""
    inbox = Inbox()
    for _ in range(GOSSIP_FRAMES_HIGH - 1):
        inbox.put_frame(1, 15, b"")
    await inbox.wait_for_room(1)
    inbox.put_frame(1, 15, b"")
    waiting = asyncio.ensure_future(inbox.wait_for_room(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    await take(inbox, 1)
    await waiting


async def test_transactions_when_their_link_is_down_then_forgotten() -> None:
    inbox = Inbox()
    for member in (1, 2):
        for _ in range(GOSSIP_FRAMES_HIGH):
            inbox.put_frame(member, 15, b"%d" % member)
    inbox.put_frame(1, 1, b"vote")
    inbox.put_link(1, False)
    inbox.put_link(1, True)
    await inbox.wait_for_room(1)
    inbox.put_frame(1, 15, b"new")
    last = [(1, b"vote"), LinkNews(1, False), LinkNews(1, True), (2, b"2"), (1, b"new"), (2, b"2")]
    assert await take(inbox, 6) == last


def test_get_now_when_empty_then_nothing() -> None:
    inbox = Inbox()
    assert inbox.get_now() is None
    inbox.put_frame(1, 15, b"news")
    assert inbox.get_now() == Frame(member=1, kind=15, body=b"news")
    assert inbox.get_now() is None


async def test_link_news_when_put_in_then_behind_the_frames_of_that_link() -> None:
    inbox = Inbox()
    inbox.put_frame(1, 6, b"last words")
    inbox.put_link(1, False)
    inbox.put_link(2, True)
    assert await take(inbox, 3) == [(1, b"last words"), LinkNews(2, True), LinkNews(1, False)]


@pytest.mark.parametrize("size_bytes", [1, BYTES_HIGH])
async def test_room_when_a_line_is_long_then_only_its_member_waits(size_bytes: int) -> None:
    inbox = Inbox()
    count = FRAMES_HIGH if size_bytes == 1 else 1
    for _ in range(count):
        inbox.put_frame(1, 9, bytes(size_bytes))
    await inbox.wait_for_room(2)
    waiting = asyncio.ensure_future(inbox.wait_for_room(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    await take(inbox, 1)
    await waiting


async def test_frames_when_nobody_holds_them_back_then_the_member_is_dropped() -> None:
    inbox = Inbox()
    for _ in range(FRAMES_MAX):
        inbox.put_frame(1, 6, b"")
    with pytest.raises(asyncio.QueueFull):
        inbox.put_frame(1, 6, b"")
    inbox.put_frame(2, 6, b"")


async def test_get_when_empty_then_waits_for_whatever_comes() -> None:
    inbox = Inbox()
    taken = asyncio.ensure_future(inbox.get())
    await asyncio.sleep(0)
    inbox.put_link(1, True)
    assert await taken == LinkNews(1, True)


def test_timers_when_set_replaced_dropped_and_closed() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        fired: list[TimerFired] = []
        acts: list[str] = []
        timers = EngineTimers(
            lambda: int(loop.time() * 1_000) - 50,  # a clock that is behind
            fire=fired.append,
            post=lambda act: act(),
        )
        first = Timer(kind=TimerKind.PROPOSE, height=1)
        second = Timer(kind=TimerKind.PROPOSE, height=2)
        gossip = Timer(kind=TimerKind.GOSSIP)
        due_ms = int(loop.time() * 1_000) - 50 + 300
        timers.set(first, 100)
        timers.set(second, 100)
        timers.set(second, 300)
        timers.set(gossip, 200)
        timers.post_later(250, lambda: acts.append("act"))
        timers.drop_below(2)
        await asyncio.sleep(1)
        assert [event.timer for event in fired] == [gossip, second]
        assert fired[1].now_ms >= due_ms  # never a time before the deadline
        assert acts == ["act"] and len(timers) == 0
        timers.set(first, 100)
        timers.post_later(100, lambda: acts.append("late"))
        timers.close()
        timers.set(second, 100)
        timers.post_later(100, lambda: acts.append("later"))
        await asyncio.sleep(1)
        assert len(fired) == 2 and acts == ["act"] and len(timers) == 0

    run_virtual(story())


def test_requests_when_over_the_budget_then_not_answered_until_it_grew() -> None:
    budget = RequestBudget(per_s=2, burst=3)
    assert [budget.take(1_000) for _ in range(5)] == [True, True, True, False, False]
    assert not budget.take(1_400)
    assert budget.take(1_500) and not budget.take(1_500)
    assert [budget.take(60_000) for _ in range(4)] == [True, True, True, False]
