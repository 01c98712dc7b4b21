"""Links over real sockets with faults of the transport, and the calls that put them in force."""

from typing import Any

import pytest

from federation.fault_rules import FaultTable, MemberFault
from federation.link import LinkOptions
from federation.member_faults import CUT, FaultyNetwork, check_regtest, faulty_seams
from federation.node import CannotStart, StartOptions, open_node
from federation.start import monotonic_ms
from sidechain.api.client import RpcError
from tests.federation import test_peers
from tests.federation.test_node import Home
from tests.federation.test_peers import OPTIONS, STATUS, Federation, Node

run = test_peers.run  # the fixture


class Faulty(FaultyNetwork, test_peers.WatchedNetwork):
    """A network that can be made faulty and tells of refusals."""


class FaultyNode(Node):
    """A member whose network takes faults."""

    network: Faulty

    def make_network(self, **parts: Any) -> Faulty:
        return Faulty(FaultTable(), **parts)

    def fault(self, kind: str, peer: int, fault_id: str = "f", **fields: Any) -> None:
        plain = {"id": fault_id, "kind": kind, "peers": [peer], **fields}
        self.network.apply(MemberFault.from_json(plain, now_ms=monotonic_ms()))

    def heal(self) -> None:
        self.network.faults.end()


async def pair(home: Federation, options: LinkOptions = OPTIONS) -> tuple[FaultyNode, FaultyNode]:
    """Members 0 and 1, linked."""
    high = await home.start(1, options, node_class=FaultyNode)
    low = await home.start(0, options, node_class=FaultyNode)
    assert isinstance(low, FaultyNode) and isinstance(high, FaultyNode)
    await low.until(lambda: low.network.connected == {1})
    await high.until(lambda: high.network.connected == {0})
    return low, high


async def test_disconnect_when_in_force_then_no_link_until_it_is_healed(run: Any) -> None:
    async def body(home: Federation) -> None:
        low, high = await pair(home)
        high.fault("disconnect", 0)
        await low.until(lambda: not low.network.connected)
        await high.until(lambda: high.network.refused_connections >= 2)
        assert not high.network.connected
        assert high.network.status()[0].last_end == CUT
        high.heal()
        await low.until(lambda: low.network.connected == {1})

    await run(body)


async def test_partition_when_one_way_then_the_other_way_still_arrives(run: Any) -> None:
    async def body(home: Federation) -> None:
        low, high = await pair(home)
        low.fault("partition", 1, outgoing=True)
        low.network.broadcast(STATUS, b"lost")
        assert low.network.send(1, STATUS, b"lost too")
        assert high.network.send(0, STATUS, b"heard")
        assert await low.next_frame() == (1, STATUS, b"heard")
        low.heal()
        assert low.network.send(1, STATUS, b"found")
        assert await high.next_frame() == (0, STATUS, b"found")
        high.fault("partition", 0, incoming=True)
        received = high.network.status()[0].received_frames
        assert low.network.send(1, STATUS, b"lost at the other end")
        while high.network.status()[0].received_frames == received:
            assert high.network.send(0, STATUS, b"tick")
            await low.next_frame()
        high.heal()
        assert low.network.send(1, STATUS, b"heard again")
        assert await high.next_frame() == (0, STATUS, b"heard again")

    await run(body)


async def test_delay_when_in_force_then_frames_come_later_and_in_order(run: Any) -> None:
    async def body(home: Federation) -> None:
        low, high = await pair(home)
        low.fault("delay", 1, delay_ms=150, jitter_ms=150)
        before_ms = monotonic_ms()
        for i in range(50):
            assert low.network.send(1, STATUS, bytes((i,)))
        room_bytes = low.network.room_bytes(1)
        low.fault("delay", 1, "more", delay_ms=150)
        assert low.network.send(1, STATUS, b"slow")
        low.heal()
        assert low.network.send(1, STATUS, b"last")  # never overtakes what is on its way
        assert room_bytes < OPTIONS.send_queue_bytes
        for i in range(50):
            assert await high.next_frame() == (0, STATUS, bytes((i,)))
        assert await high.next_frame() == (0, STATUS, b"slow")
        assert monotonic_ms() - before_ms >= 150
        assert await high.next_frame() == (0, STATUS, b"last")
        assert low.network.room_bytes(1) == OPTIONS.send_queue_bytes

    await run(body)


async def test_delay_when_too_much_is_on_its_way_then_the_link_ends(run: Any) -> None:
    """consensus:C97 holds for what a fault keeps back too."""

    async def body(home: Federation) -> None:
        small = LinkOptions(send_queue_bytes=1_000, backoff_min_ms=10, backoff_max_ms=50)
        low, _ = await pair(home, small)
        low.fault("delay", 1, delay_ms=60_000)
        for _ in range(9):
            assert low.network.send(1, STATUS, bytes(100))
        assert not low.network.send(1, STATUS, bytes(100))
        await low.until(lambda: low.network.connected == frozenset())
        assert low.network.status()[0].last_end == "send queue full"

    await run(body)


async def test_drop_when_of_all_frames_then_none_arrives_until_its_time_is_over(run: Any) -> None:
    async def body(home: Federation) -> None:
        low, high = await pair(home)
        low.fault("drop", 1, percent=100, for_ms=200)
        sent = 0
        while high.heard.empty():
            assert low.network.send(1, STATUS, sent.to_bytes(4, "little"))
            sent += 1
            assert high.network.send(0, STATUS, b"tick")
            await low.next_frame()
        _, _, first = await high.next_frame()
        assert int.from_bytes(first, "little") > 0

    await run(body)


async def test_member_when_started_plainly_then_it_knows_no_such_calls(tmp_path: Any) -> None:
    home = Home(tmp_path)
    with home.open() as node:
        async with home.running(node) as client:
            for method in ("setfault", "listfaults", "endfaults"):
                with pytest.raises(RpcError, match="not found"):
                    await client.call(method)
                assert method not in await client.call("help")


async def test_member_when_faults_are_allowed_then_its_clock_can_be_moved(tmp_path: Any) -> None:
    home = Home(tmp_path)
    options = StartOptions(init=True)
    with open_node(home.path, home.file, options, home.log, faulty_seams()) as node:
        async with home.running(node) as client:
            before = (await client.call("listfaults"))["unix_time_s"]
            await client.call("setfault", {"id": "c", "kind": "clock", "offset_s": 3_600})
            shown = await client.call("listfaults")
            assert 3_600 <= shown["unix_time_s"] - before < 3_660
            assert [(f["id"], f["remaining_ms"]) for f in shown["faults"]] == [("c", None)]
            assert node._production._wall_clock_s() >= before + 3_600
            for wrong in ("x", 3, None, {"kind": "delay", "id": "d"}):
                with pytest.raises(RpcError):
                    await client.call("setfault", wrong)
            with pytest.raises(RpcError):
                await client.call("endfaults", 3)
            assert await client.call("endfaults", "c") == 1
            assert await client.call("endfaults") == 0
            assert (await client.call("listfaults"))["unix_time_s"] - before < 60


def test_faults_when_bitcoin_is_not_regtest_then_the_member_does_not_start(tmp_path: Any) -> None:
    """N32."""
    home = Home(tmp_path)
    params = home.params()
    check_regtest(params)
    object.__setattr__(params, "parent_genesis_hash", bytes(32))
    with pytest.raises(CannotStart, match="regtest"):
        check_regtest(params)
