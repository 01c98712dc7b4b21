"""The watcher: against a node in memory that can be cut off, and against a real one."""

import asyncio
from collections.abc import Sequence

import pytest

from peg.bitcoind import BitcoindClient, BitcoindError, ParentHeaderInfo
from peg.parent_view import ParentBlock, ParentChange, ParentView
from peg.watcher import BaseReorganised, ParentWatcher
from sidechain.crypto.hashes import sha256
from sidechain.errors import Unavailable

WALLET = "watch"


class MemoryNode(BitcoindClient):
    """A node whose chain the test sets; counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1", user="u", password="p")
        self.blocks: list[ParentHeaderInfo] = []
        self.known: dict[bytes, ParentHeaderInfo] = {}
        self.is_down = False
        self.header_calls = 0
        self.extend(0, 1)

    def extend(self, keep: int, count: int, salt: int = 0) -> None:
        """Keep the lowest blocks and add new ones."""
        del self.blocks[keep:]
        for _ in range(count):
            prev = self.blocks[-1].hash if self.blocks else bytes(32)
            block = ParentHeaderInfo(
                hash=sha256(prev + bytes([salt])),
                prev_hash=prev,
                height=len(self.blocks),
                confirmations=1,
                ntx=1,
                time=0,
            )
            self.blocks.append(block)
            self.known[block.hash] = block

    async def best_block_hash(self) -> bytes:
        """The tip."""
        if self.is_down:
            raise Unavailable("the node is down")
        return self.blocks[-1].hash

    async def header(self, block_hash: bytes) -> ParentHeaderInfo:
        """A header."""
        self.header_calls += 1
        if block_hash not in self.known:
            raise BitcoindError(-5, "Block not found")
        return self.known[block_hash]

    async def headers_at(self, heights: Sequence[int]) -> list[ParentHeaderInfo]:
        """Headers of the best chain."""
        return [self.blocks[height] for height in heights]


class Seen:
    """What the watcher told."""

    def __init__(self) -> None:
        self.changes: list[ParentChange] = []
        self.health: list[bool] = []
        self.changed = asyncio.Event()

    async def on_change(self, change: ParentChange) -> None:
        """Note it."""
        self.changes.append(change)
        self.changed.set()

    def on_health(self, healthy: bool, _: str) -> None:
        """Note it."""
        self.health.append(healthy)


def watcher_of(client: BitcoindClient, seen: Seen, *, base: int = 0) -> ParentWatcher:
    """A watcher with a new view."""
    return ParentWatcher(
        client,
        ParentView(),
        on_change=seen.on_change,
        on_health=seen.on_health,
        base_height=base,
        poll_ms=60_000,
    )


def view_of(watcher: ParentWatcher) -> ParentView:
    """The view it keeps."""
    return watcher._view


async def test_poll_when_many_blocks_are_new_then_fetched_in_few_requests() -> None:
    node, seen = MemoryNode(), Seen()
    node.extend(1, 500)
    watcher = watcher_of(node, seen)
    assert await watcher.poll_once()
    assert view_of(watcher).tip_height == 500
    assert node.header_calls <= 2
    assert not await watcher.poll_once()
    assert len(seen.changes) == 1


@pytest.mark.parametrize("depth", [1, 2, 6, 40])
async def test_poll_when_chain_is_replaced_then_one_change_tells_all(depth: int) -> None:
    node, seen = MemoryNode(), Seen()
    node.extend(1, 50)
    watcher = watcher_of(node, seen)
    await watcher.poll_once()
    old = [block.hash for block in node.blocks]
    node.extend(51 - depth, depth + 1, salt=1)
    await watcher.poll_once()
    change = seen.changes[-1]
    assert [block.hash for block in change.disconnected] == old[: 50 - depth : -1]
    assert [block.hash for block in change.connected] == [b.hash for b in node.blocks[51 - depth :]]
    assert view_of(watcher).tip_hash == node.blocks[-1].hash


async def test_poll_when_chain_became_shorter_then_blocks_leave() -> None:
    node, seen = MemoryNode(), Seen()
    node.extend(1, 10)
    watcher = watcher_of(node, seen)
    await watcher.poll_once()
    node.extend(8, 0)
    await watcher.poll_once()
    assert len(seen.changes[-1].disconnected) == 3
    assert view_of(watcher).tip_height == 7


async def test_poll_when_node_is_down_then_view_stays_and_health_is_told_once() -> None:
    node, seen = MemoryNode(), Seen()
    node.extend(1, 5)
    watcher = watcher_of(node, seen)
    await watcher.poll_once()
    node.is_down = True
    for _ in range(3):
        with pytest.raises(Unavailable):
            await watcher.poll_once()
    assert view_of(watcher).tip_height == 5
    assert not watcher.is_healthy
    node.is_down = False
    node.extend(4, 9, salt=2)
    await watcher.poll_once()
    assert view_of(watcher).tip_height == 12
    assert seen.health == [True, False, True]


async def test_poll_when_base_is_set_then_lower_blocks_are_not_read() -> None:
    node, seen = MemoryNode(), Seen()
    node.extend(1, 5)
    watcher = watcher_of(node, seen, base=8)
    assert not await watcher.poll_once()
    node.extend(6, 6)
    assert await watcher.poll_once()
    assert view_of(watcher).base_height == 8
    assert [block.height for block in seen.changes[-1].connected] == [8, 9, 10, 11]


async def test_poll_when_base_leaves_the_chain_then_refused() -> None:
    node, seen = MemoryNode(), Seen()
    node.extend(1, 12)
    watcher = watcher_of(node, seen, base=8)
    await watcher.poll_once()
    node.extend(8, 9, salt=3)
    with pytest.raises(BaseReorganised):
        await watcher.poll_once()


async def test_run_when_poked_then_asks_without_waiting_for_the_pause() -> None:
    node, seen = MemoryNode(), Seen()
    watcher = watcher_of(node, seen)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        task = group.create_task(watcher.run())
        await seen.changed.wait()
        seen.changed.clear()
        node.extend(1, 1)
        watcher.poke()
        await seen.changed.wait()
        task.cancel()
    assert view_of(watcher).tip_height == 1


@pytest.mark.e2e
async def test_poll_when_real_node_reorganises_then_view_follows(bitcoind: BitcoindClient) -> None:
    await bitcoind.create_wallet(WALLET)
    await bitcoind.generate(20, await bitcoind.new_address(WALLET))
    seen = Seen()
    watcher = watcher_of(bitcoind, seen)
    await watcher.poll_once()
    view = view_of(watcher)
    assert view.tip_height == 20
    lost: list[ParentBlock | None] = [view.block_at(height) for height in (20, 19, 18)]
    await bitcoind.invalidate_block(await bitcoind.block_hash(18))
    await bitcoind.generate(5, await bitcoind.new_address(WALLET))
    await watcher.poll_once()
    assert list(seen.changes[-1].disconnected) == lost
    assert view.tip_height == 22
    assert view.tip_hash == await bitcoind.best_block_hash()
