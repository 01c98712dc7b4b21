"""Faults of one member as data: what is refused, what is in force, what it does to a frame."""

from typing import Any

import pytest

from federation.fault_rules import FAULTS_MAX, FaultKind, FaultTable, InvalidFault, MemberFault


def fault(**fields: Any) -> MemberFault:
    """A fault read at time 1,000."""
    return MemberFault.from_json({"id": "f", "peers": [1, 2], **fields}, now_ms=1_000)


def table(*faults: MemberFault) -> FaultTable:
    made = FaultTable()
    for one in faults:
        made.add(one, 1_000)
    return made


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"kind": "fire"}, "kind is one of disconnect, partition, delay, drop, clock"),
        ({"kind": "delay", "delay": 3}, "no field delay"),
        ({"kind": "delay", "id": ""}, "id is a text"),
        ({"kind": "delay", "id": "x" * 41}, "id is a text"),
        ({"kind": "delay", "delay_ms": -1}, "delay_ms is a whole number"),
        ({"kind": "delay", "delay_ms": True}, "delay_ms is a whole number"),
        ({"kind": "drop", "percent": 101}, "percent is a whole number from 0 to 100"),
        ({"kind": "drop", "peers": []}, "drop needs peers"),
        ({"kind": "drop", "peers": [-1]}, "list of member indexes"),
        ({"kind": "drop", "peers": "m1"}, "list of member indexes"),
        ({"kind": "partition"}, "outgoing, incoming or both"),
        ({"kind": "partition", "outgoing": 1}, "outgoing is true or false"),
        ({"kind": "clock", "offset_s": 10**10}, "offset_s is a whole number"),
        ({"kind": "clock", "for_ms": 10**9}, "for_ms is a whole number"),
    ],
)
def test_fault_when_malformed_then_refused_with_a_reason(
    fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidFault, match=reason):
        fault(**fields)


def test_fault_when_its_time_is_over_then_it_is_no_more() -> None:
    faults = table(fault(kind="clock", peers=[], offset_s=60, for_ms=500))
    assert faults.clock_offset_s(1_500) == 60
    assert faults.active(1_400)[0].to_json(1_400)["remaining_ms"] == 100
    assert faults.clock_offset_s(1_501) == 0
    assert faults.active(1_501) == ()


def test_fault_when_ended_by_id_then_the_others_stay() -> None:
    faults = table(fault(kind="clock", offset_s=60), fault(id="g", kind="clock", offset_s=-10))
    assert faults.clock_offset_s(1_000) == 50
    assert faults.end("nobody") == 0
    assert faults.end("f") == 1
    assert faults.clock_offset_s(10**9) == -10
    assert faults.end() == 1
    assert faults.clock_offset_s(10**9) == 0


def test_faults_when_too_many_then_refused_but_one_can_be_replaced() -> None:
    faults = table(*(fault(id=f"f{i}", kind="drop", percent=1) for i in range(FAULTS_MAX)))
    with pytest.raises(InvalidFault, match="end some"):
        faults.add(fault(id="more", kind="drop"), 1_000)
    faults.add(fault(id="f0", kind="drop", percent=100), 1_000)
    assert faults.loses_outgoing(1, 1_000, 99)


def test_partition_when_one_way_then_only_that_way_is_lost_and_links_stay() -> None:
    faults = table(fault(kind="partition", outgoing=True))
    assert faults.loses_outgoing(1, 1_000, 99) and not faults.loses_outgoing(3, 1_000, 0)
    assert not faults.loses_incoming(1, 1_000) and not faults.disconnects(1, 1_000)
    both = table(fault(kind="partition", outgoing=True, incoming=True))
    assert both.loses_incoming(2, 1_000) and both.disconnects(2, 1_000)
    assert not both.disconnects(0, 1_000)
    faults.add(fault(id="f.in", kind="partition", incoming=True, peers=[2]), 1_000)
    assert faults.disconnects(2, 1_000) and not faults.disconnects(1, 1_000)
    assert faults.end("f") == 2


def test_drop_when_in_percent_then_that_many_of_a_hundred_dice() -> None:
    faults = table(fault(kind="drop", percent=30))
    assert sum(faults.loses_outgoing(1, 1_000, dice) for dice in range(100)) == 30


def test_delay_when_with_jitter_then_within_it_and_never_below_nothing() -> None:
    faults = table(fault(kind="delay", delay_ms=100, jitter_ms=30))
    waits = [faults.delay_ms(2, 1_000, dice) for dice in range(1_000)]
    assert (min(waits), max(waits)) == (70, 130)
    faults.add(fault(id="g", kind="delay", delay_ms=10, jitter_ms=200), 1_000)
    assert min(faults.delay_ms(2, 1_000, dice) for dice in range(1_000)) == 70
    assert faults.delay_ms(3, 1_000, 0) == 0
    assert fault(kind="delay").kind is FaultKind.DELAY
