"""A founding that was cut short goes on from where the federation stands."""

from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from federation import ceremony
from federation.local import PortTaken
from federation.local_state import Stage, UpOptions


class FakeFederation:
    """Members that answer `getpeginfo` and refuse every trial spend, as after OPEN."""

    def __init__(self, lane: dict[str, Any] | None) -> None:
        self.lane = lane
        self.calls: list[str] = []

    @asynccontextmanager
    async def member_client(self, member: Any) -> Any:
        yield self

    async def call(self, method: str, *_: Any) -> Any:
        self.calls.append(method)
        if method == "getpeginfo":
            return {"lane": self.lane}
        raise ceremony.RpcError(-8, "only before OPEN")


@pytest.fixture
def advanced(monkeypatch: pytest.MonkeyPatch) -> list[Stage]:
    stages: list[Stage] = []
    monkeypatch.setattr(ceremony, "_advance", lambda _, state, stage: stages.append(stage))
    return stages


async def approve(federation: Any) -> None:
    members = [SimpleNamespace(name=f"m{i}", index=i) for i in range(4)]
    state: Any = SimpleNamespace(members=members, anchor="ab" * 32 + ":0", trial="", n=4, k=3)
    await ceremony._approve(federation, state, lambda *_: None)


async def test_dry_run_is_not_repeated_once_the_lane_is_open(advanced: list[Stage]) -> None:
    federation = FakeFederation({"lane": 0})
    await approve(federation)
    assert federation.calls == ["getpeginfo"]
    assert advanced == [Stage.APPROVED]


async def test_dry_run_comes_first_while_the_lane_is_not_open(advanced: list[Stage]) -> None:
    """peg:P2: no OPEN is approved before the trial spend."""
    federation = FakeFederation(None)
    with pytest.raises(ceremony.LocalError):
        await approve(federation)
    assert "dryrunopen" in federation.calls
    assert not advanced


async def test_up_when_a_port_is_taken_meanwhile_then_tried_again_a_few_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    failures = [PortTaken("m0: Address already in use")] * (ceremony.PORT_TRIES_MAX - 1)

    async def once(*_: Any) -> str:
        if failures:
            raise failures.pop()
        return "up"

    monkeypatch.setattr(ceremony, "_bring_up_once", once)
    federation: Any = None
    found: Any = await ceremony.bring_up(federation, UpOptions(), lambda step, _: said.append(step))
    assert found == "up"
    assert said == ["ports"] * (ceremony.PORT_TRIES_MAX - 1)
    failures += [PortTaken("m0: Address already in use")] * ceremony.PORT_TRIES_MAX
    with pytest.raises(PortTaken):
        await ceremony.bring_up(federation, UpOptions(), lambda *_: None)
