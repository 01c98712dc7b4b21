"""Transaction gossip: announce once, ask once, bounded (N15)."""

import pytest

from federation.consensus.encoding import FrameKind
from federation.tx_gossip import (
    ASK_PATIENCE_MS,
    ASKED_PER_PEER_MAX,
    WAITING_MAX,
    WAITING_MAX_BYTES,
    Arrival,
    InvalidInventory,
    TransactionGossip,
    TxFrame,
    decode_inventory,
    encode_inventory,
)


def offered(
    gossip: TransactionGossip, member: int, wtxids: list[bytes], now_ms: int
) -> list[TxFrame]:
    """A peer announces; what is asked then."""
    gossip.on_inventory(member, wtxids)
    return gossip.ask(now_ms)


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
    offered(gossip, 2, [_id(7)], 0)
    gossip.accepted(_id(7), b"txid", own=True)
    assert [(f.member, f.kind) for f in gossip.announce_own()] == [(1, FrameKind.TXINV)]
    gossip.accepted(_id(7), b"txid", own=True)
    assert gossip.announce_own() == []
    assert gossip.on_request(1, [_id(7), _id(8)]) == [b"txid"]


def test_inventory_when_asked_already_then_another_is_asked_only_when_the_first_is_gone() -> None:
    gossip = TransactionGossip()
    gossip.peer_connected(1)
    gossip.peer_connected(2)
    assert [f.member for f in offered(gossip, 1, [_id(5)], 0)] == [1]
    assert offered(gossip, 2, [_id(5)], 0) == []
    assert [f.member for f in gossip.peer_disconnected(1, 10)] == [2]
    assert gossip.on_transaction(2, _id(5)) is Arrival.NEW
    assert gossip.peer_disconnected(2, 20) == []


def test_inventory_when_not_handed_over_in_time_then_the_others_are_asked_in_turn() -> None:
    gossip = TransactionGossip()
    for member in (1, 2, 3):
        gossip.peer_connected(member)
        offered(gossip, member, [_id(5)], 0)
    assert gossip.retry(ASK_PATIENCE_MS - 1) == []
    now_ms = 0
    for expected in (2, 3, 1):
        now_ms += ASK_PATIENCE_MS
        assert [f.member for f in gossip.retry(now_ms)] == [expected]
    gossip.peer_disconnected(1, now_ms)
    gossip.peer_disconnected(2, now_ms)
    assert gossip.retry(now_ms + 2 * ASK_PATIENCE_MS) == []


def test_transaction_when_neither_asked_for_nor_announced_then_told_apart() -> None:
    gossip = TransactionGossip()
    assert gossip.on_transaction(1, _id(5)) is Arrival.UNASKED
    offered(gossip, 1, [_id(5)], 0)
    assert gossip.on_transaction(2, _id(5)) is Arrival.UNASKED
    assert gossip.on_transaction(1, _id(5)) is Arrival.NEW
    gossip.accepted(_id(5), b"txid", own=False)
    assert gossip.on_transaction(1, _id(5)) is Arrival.KNOWN


def test_transaction_when_handed_over_with_its_announcement_then_never_asked_for() -> None:
    gossip = TransactionGossip()
    gossip.peer_connected(2)
    assert gossip.on_inventory(1, [_id(5), _id(6)])
    assert gossip.on_transaction(1, _id(5)) is Arrival.NEW
    gossip.accepted(_id(5), b"txid", own=False)
    (frame,) = gossip.ask(0)
    assert (frame.member, decode_inventory(frame.body)) == (1, [_id(6)])


def test_transaction_when_it_comes_after_another_was_asked_then_not_held_against_it() -> None:
    """A member that is slow under load must not look like one that sends what nobody wants."""
    gossip = TransactionGossip()
    gossip.peer_connected(2)
    offered(gossip, 1, [_id(5), _id(6)], 0)
    offered(gossip, 2, [_id(5), _id(6)], 0)
    assert [f.member for f in gossip.retry(ASK_PATIENCE_MS)] == [2]
    assert gossip.on_transaction(1, _id(5)) is Arrival.NEW
    gossip.accepted(_id(5), b"txid", own=False)
    gossip.chain_moved([_id(5), _id(6)])
    for member in (1, 2):
        for number in (5, 6):
            assert gossip.on_transaction(member, _id(number)) is Arrival.KNOWN


def test_inventory_when_a_block_has_it_already_then_not_asked_for() -> None:
    gossip = TransactionGossip()
    gossip.chain_moved([_id(5)])
    assert not gossip.on_inventory(1, [_id(5)])
    assert gossip.ask(0) == []


def test_accepted_when_it_came_from_a_peer_then_told_on_apart_from_own_ones() -> None:
    """And not to those who told of it, nor when it is final by then."""
    gossip = TransactionGossip()
    for member in (1, 2):
        gossip.peer_connected(member)
        gossip.on_inventory(1, [_id(5), _id(6)])
    gossip.accepted(_id(5), b"txid", own=False)
    gossip.accepted(_id(6), b"txid", own=False)
    gossip.accepted(_id(7), b"txid", own=True)
    assert [(f.member, decode_inventory(f.body)) for f in gossip.announce_own()] == [
        (1, [_id(7)]),
        (2, [_id(7)]),
    ]
    gossip.chain_moved([_id(6)])
    assert [(f.member, decode_inventory(f.body)) for f in gossip.announce_relayed()] == [
        (2, [_id(5)])
    ]
    assert gossip.announce_relayed() == []


def test_peer_when_it_goes_before_it_was_asked_then_another_is_asked() -> None:
    gossip = TransactionGossip()
    for member in (1, 2):
        gossip.peer_connected(member)
        gossip.on_inventory(member, [_id(5)])
    assert [f.member for f in gossip.peer_disconnected(1, 0)] == [2]
    assert gossip.ask(0) == []


def test_transaction_when_refused_then_not_asked_for_until_the_chain_moves() -> None:
    gossip = TransactionGossip()
    gossip.refused(_id(5))
    assert offered(gossip, 1, [_id(5)], 0) == []
    gossip.chain_moved([])
    assert offered(gossip, 1, [_id(5)], 0) != []


def test_accepted_when_many_at_once_then_one_frame_for_each_peer() -> None:
    gossip = TransactionGossip()
    gossip.peer_connected(1)
    gossip.peer_connected(2)
    for number in range(3):
        gossip.accepted(_id(number), b"txid", own=True)
    gossip.chain_moved([_id(1)])
    frames = gossip.announce_own()
    assert [(f.member, decode_inventory(f.body)) for f in frames] == [
        (1, [_id(0), _id(2)]),
        (2, [_id(0), _id(2)]),
    ]


def test_new_peer_when_much_is_held_then_announced_in_frames_of_64() -> None:
    gossip = TransactionGossip()
    for number in range(130):
        gossip.accepted(_id(number), b"txid", own=True)
    frames = gossip.peer_connected(3)
    assert [f.body[0] for f in frames] == [64, 64, 2]


def test_new_peer_when_the_mempool_let_go_then_only_what_is_left_is_announced() -> None:
    gossip = TransactionGossip()
    for number in range(4):
        gossip.accepted(_id(number), _id(100 + number), own=True)
    gossip.keep_only(lambda wtxid, txid: txid != _id(101) and wtxid != _id(2))
    gossip.chain_moved([_id(3)])
    (frame,) = gossip.peer_connected(1)
    assert decode_inventory(frame.body) == [_id(0)]


def test_limits_when_a_peer_announces_without_end_then_requests_stop() -> None:
    gossip = TransactionGossip()
    asked = 0
    for start in range(0, 2 * ASKED_PER_PEER_MAX, 50):
        for frame in offered(gossip, 1, [_id(start + i) for i in range(50)], 0):
            asked += frame.body[0]
    assert asked == ASKED_PER_PEER_MAX
    assert offered(gossip, 2, [_id(2 * ASKED_PER_PEER_MAX)], 0) != []


def test_waiting_when_a_parent_arrives_then_given_back_once() -> None:
    gossip = TransactionGossip()
    gossip.wait_for_inputs(1, _id(9), b"child", [_id(1), _id(2)])
    assert offered(gossip, 2, [_id(9)], 0) == []
    assert gossip.take_waiting({_id(3)}) == []
    assert gossip.take_waiting({_id(2), _id(3)}) == [(1, b"child")]
    assert gossip.take_waiting({_id(2)}) == []


def test_waiting_when_there_is_too_much_then_the_oldest_go() -> None:
    gossip = TransactionGossip()
    for number in range(WAITING_MAX + 5):
        gossip.wait_for_inputs(1, _id(number), b"child", [_id(1_000 + number)])
    assert gossip.take_waiting({_id(1_004)}) == []
    assert gossip.take_waiting({_id(1_005)}) != []
    size = WAITING_MAX_BYTES // 2 - 1
    for number in range(3):
        gossip.wait_for_inputs(1, _id(number), bytes(size), [_id(2_000 + number)])
    assert gossip.take_waiting({_id(2_000)}) == []
    assert len(gossip.take_waiting({_id(2_001), _id(2_002)})) == 2
