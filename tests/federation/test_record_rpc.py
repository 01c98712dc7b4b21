"""The operator's JSON-RPC methods: right and wrong arguments, on a member's real peg service."""

from pathlib import Path
from typing import Any

import pytest

from federation.record_rpc import RecordMethods
from peg.records import CancelRecord, ExcludeRecord, ResumeRecord, encode_record
from sidechain.api.registry import Registry, RpcError
from sidechain.primitives.transaction import OutPoint
from tests.peg.members import PegWorld
from tests.peg.test_service import deposit, found, pay_out

RESUME = encode_record(ResumeRecord()).hex()


class Member:
    """One member's methods."""

    def __init__(self, world: PegWorld, member: int = 0) -> None:
        self.world = world
        self.work = 0
        self.methods = RecordMethods(world.services[member], self.on_work)

    def on_work(self) -> None:
        self.work += 1

    def refusal(self, method: str, *params: Any) -> str:
        with pytest.raises(RpcError) as error:
            getattr(self.methods, method)(*params)
        return f"{error.value.code} {error.value.message}"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PegWorld:
    monkeypatch.setattr("peg.service.LOOK_AGAIN_MS", 1)
    return PegWorld(tmp_path)


def test_methods_when_registered_then_all_are_there(world: PegWorld) -> None:
    registry = Registry()
    Member(world).methods.register(registry)
    for name in ("approverecord", "listapprovals", "revokeapproval", "pausepeg", "getbounds"):
        assert registry.method(name) is not None


async def test_approval_when_given_then_listed_and_taken_back(world: PegWorld) -> None:
    await found(world)
    member = Member(world)
    name = member.methods.approverecord(RESUME)["approved"]
    assert member.work == 1
    (listed,) = member.methods.listapprovals()
    assert (listed["approval"], listed["type"]) == (name, "RESUME")
    assert listed["expires_height"] > listed["approved_at_height"] > 0
    assert member.methods.revokeapproval(name) == {"revoked": name}
    assert member.methods.listapprovals() == []
    for wrong in (name, "x", "../approved"):
        assert member.refusal("revokeapproval", wrong).startswith("-5 ")
    assert member.refusal("revokeapproval", 5).startswith("-8 ")


async def test_record_when_wrong_then_refused_with_its_reason(world: PegWorld) -> None:
    await found(world)
    member = Member(world)
    unknown = encode_record(ExcludeRecord(bytes(36))).hex()
    nothing = encode_record(CancelRecord(0, OutPoint(bytes(32), 0))).hex()
    for record, reason in (
        ("zz", "not hex"),
        (5, "not text"),
        ("", "ends too early"),
        ("46505201aa", "unknown type"),
        (RESUME + "00", "record"),
        (unknown, "no final block holds this burn"),
        (nothing, "no open batch"),
    ):
        assert member.refusal("approverecord", record).startswith("-8 ")
        if record not in ("", RESUME + "00"):
            assert reason in member.refusal("approverecord", record)
    assert member.refusal("approverecord", RESUME, "details").startswith("-8 ")


async def test_record_when_described_then_fields_and_effect(world: PegWorld) -> None:
    await found(world)
    await world.extend([await deposit(world)])
    burn = await pay_out(world)
    member = Member(world)
    shown = member.methods.describerecord(encode_record(ExcludeRecord(burn.serialize())).hex())
    assert shown["type"] == "EXCLUDE" and shown["no_effect"] is None
    idle = member.methods.describerecord(encode_record(ExcludeRecord(bytes(36))).hex())
    assert idle["no_effect"] == "no final block holds this burn"
    assert member.refusal("describerecord", "00").startswith("-8 ")
    assert member.methods.listapprovals() == []


async def test_pause_when_asked_then_for_its_time_and_once(world: PegWorld) -> None:
    await found(world)
    member = Member(world)
    for params in (("yes",), (False, 0), (False, True), (False, "5"), (False, 2**32)):
        assert member.refusal("pausepeg", *params).startswith("-8 ")
    clock = world.services[0].ledger.history.clock
    made = member.methods.pausepeg(True, 7)
    assert (made["until_clock"], made["deposits"], made["sequence"]) == (clock + 7, True, 0)
    assert "on its way" in member.refusal("pausepeg", False, None)
    await world.extend()
    assert "may pause again" in member.refusal("pausepeg", False, None)


async def test_parameter_when_planned_then_starts_as_the_rules_allow(world: PegWorld) -> None:
    await found(world)
    member = Member(world)
    height = world.side.height
    tight = member.methods.planparameter("fee_cap_sats", 400_000)
    loose = member.methods.planparameter("fee_cap_sats", 600_000)
    assert tight["active_from"] == height + 11 and loose["active_from"] == height + 40
    assert member.methods.planparameter("fee_cap_sats", 400_000, height + 2)["no_effect"] is None
    early = member.methods.planparameter("fee_cap_sats", 600_000, height + 2)
    assert "7.4" in early["no_effect"]
    assert "S7" in member.methods.planparameter("fee_cap_sats", 5)["no_effect"]
    assert "none of" in member.refusal("planparameter", "fee_cap", 5)
    for params in (("fee_cap_sats", -1), ("fee_cap_sats", 2**53), (5, 5), ("fee_cap_sats", 5, 0)):
        assert member.refusal("planparameter", *params).startswith("-8 ")


async def test_bounds_when_asked_then_for_those_stretches_too(world: PegWorld) -> None:
    await found(world)
    await world.extend([await deposit(world)])
    member = Member(world)
    shown = member.methods.getbounds([10])
    assert {"clock_units": 10, "loss_sats": 400_000_000} in shown["within"]
    assert shown["reserve_sats"] == 105_000_000
    assert 99_000_000 < shown["outstanding_sats"] < 105_000_000
    for wrong in (5, [0], ["x"], [1] * 21):
        assert member.refusal("getbounds", wrong).startswith("-8 ")


async def test_summary_when_things_stand_still_then_says_so(world: PegWorld) -> None:
    await found(world)
    quiet = world.services[0].summary()
    assert quiet["halts"] == [] and quiet["approvals"] == 0 and not quiet["pause"]["paused"]
    Member(world, 2).methods.pausepeg(False, 5)
    world.deliver()
    assert world.services[0].summary()["pause"]["heard"][0]["member"] == 2
    await world.extend()
    assert world.services[0].summary()["pause"]["members"] == [2]
