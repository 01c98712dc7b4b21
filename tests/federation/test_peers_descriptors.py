"""A member's port when the process has no file descriptors left: it waits, and says so rarely."""

import asyncio
import errno
import os
import socket
from collections import Counter
from typing import Any

import pytest

from tests.federation import test_peers
from tests.federation.test_peers import OPTIONS, Federation

run = test_peers.run  # the fixture
FAILURES = 20
SPARE = 8
TURNS_MAX = 10_000


async def test_port_when_descriptors_run_out_then_it_takes_links_again_once_there_are_some(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """House rule 13: a stranger with many connections stops nothing and fills no disk."""
    loop = asyncio.get_running_loop()
    accept = type(loop).sock_accept
    failures: Counter[int] = Counter()

    async def exhausted(self: Any, listener: socket.socket) -> Any:
        port = listener.getsockname()[1]
        if failures[port] < FAILURES:
            failures[port] += 1
            raise OSError(errno.EMFILE, "Too many open files")
        return await accept(self, listener)

    monkeypatch.setattr(type(loop), "sock_accept", exhausted)

    async def body(home: Federation) -> None:
        high = await home.start(1)
        low = await home.start(0)
        await low.until(lambda: low.network.connected == {1})
        failed = [facts for _, event, facts in high.log.lines if event == "accept_failed"]
        assert [facts["failed_so_far"] for facts in failed] == [1, 2, 4, 8, 16]
        assert "Too many open files" in str(failed[0]["error"])

    await run(body)


async def test_port_when_flooded_in_a_burst_then_no_more_wait_than_may(run: Any) -> None:
    """Each connection beyond the limit ends another one, however quickly they come."""

    async def body(home: Federation) -> None:
        node = await home.start(1)
        limit = OPTIONS.handshakes_max
        loop = asyncio.get_running_loop()
        before = descriptors()
        held = []
        for _ in range(5 * limit):
            connection = socket.socket()
            connection.setblocking(False)
            held.append(connection)
            await loop.sock_connect(connection, ("127.0.0.1", node.network.port))
        await node.until(lambda: node.network.refused_connections >= 4 * limit)
        for _ in range(TURNS_MAX):
            if descriptors() <= before + len(held) + limit + SPARE:
                break
            await asyncio.sleep(0)
        assert descriptors() <= before + len(held) + limit + SPARE
        assert len(node.network._greeting) <= limit
        low = await home.start(0)
        await low.until(lambda: low.network.connected == {1})
        for connection in held:
            connection.close()

    await run(body)


def descriptors() -> int:
    """Open files of this process."""
    return len(os.listdir("/proc/self/fd"))
