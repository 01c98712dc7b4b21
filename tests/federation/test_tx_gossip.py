"""Transaction gossip: announce once, ask once, bounded (N15)."""

import pytest

from federation.consensus.encoding import FrameKind
from federation.tx_gossip import (
    ASKED_PER_PEER_MAX,
    HELD_MAX,
    InvalidInventory,
    TransactionGossip,
    decode_inventory,
    encode_inventory,
)


def _id(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_inventory_when_not_exactly_its_count_then_refused() -> None:
    assert decode_inventory(encode_inventory([_id(1), _id(2)])) == [_id(1), _id(2)]
    for body in (b"", b"\0", b"\1" + bytes(31), b"\1" + bytes(33), b"\x41" + bytes(65 * 32)):
        with pytest.raises(InvalidInventory):
            decode_inventory(body)


def test_accepted_when_peers_lack_it_then_announced_once_each() -> None:
    gossip = TransactionGossip()
    gossip.peer_connected(1)
    gossip.peer_connected(2)
    assert not gossip.on_request(1, [_id(7)])
    gossip.on_inventory(2, [_id(7)])
    frames = gossip.accepted(_id(7), b"tx")
    assert [(f.member, f.kind) for f in frames] == [(1, FrameKind.TXINV)]
    assert gossip.accepted(_id(7), b"tx") == []
    assert [f.body for f in gossip.on_request(1, [_id(7)])] == [b"tx"]


def test_inventory_when_asked_already_then_not_asked_again_until_that_peer_is_gone() -> None:
    gossip = TransactionGossip()
    gossip.peer_connected(1)
    gossip.peer_connected(2)
    assert [f.member for f in gossip.on_inventory(1, [_id(5)])] == [1]
    assert gossip.on_inventory(2, [_id(5)]) == []
    gossip.peer_disconnected(1)
    assert [f.member for f in gossip.on_inventory(2, [_id(5)])] == [2]


def test_new_peer_when_much_is_held_then_announced_in_frames_of_64() -> None:
    gossip = TransactionGossip()
    for number in range(130):
        gossip.accepted(_id(number), b"tx")
    frames = gossip.peer_connected(3)
    assert [f.body[0] for f in frames] == [64, 64, 2]


def test_limits_when_a_peer_announces_without_end_then_requests_stop() -> None:
    gossip = TransactionGossip()
    asked = 0
    for start in range(0, 2 * ASKED_PER_PEER_MAX, 50):
        for frame in gossip.on_inventory(1, [_id(start + i) for i in range(50)]):
            asked += frame.body[0]
    assert asked == ASKED_PER_PEER_MAX
    for number in range(HELD_MAX + 10):
        gossip.accepted(_id(number), b"t")
    assert not gossip.on_request(1, [_id(0)])


def test_waiting_when_inputs_are_unknown_then_given_back_once() -> None:
    gossip = TransactionGossip()
    gossip.wait_for_inputs(1, _id(9), b"child")
    assert gossip.on_inventory(2, [_id(9)]) == []
    assert gossip.take_waiting() == [(1, b"child")]
    assert gossip.take_waiting() == []
