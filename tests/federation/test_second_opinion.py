"""X7: a second validator is handed every block, and what it says against the own chain counts."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation.member_folder import BitcoindAccess, MemberConfig
from federation.second_opinion import SecondOpinion
from sidechain.api.client import RpcError
from sidechain.errors import Unavailable
from tests.peg.members import Log


class Block:
    """A block that is its height."""

    def __init__(self, height: int) -> None:
        self.hash = bytes([height]) * 32

    def serialize(self) -> bytes:
        return self.hash


class Chain:
    """A chain of five blocks."""

    tip_height = 5

    def block(self, height: int) -> Any:
        return Block(height)


class Validator:
    """Another daemon at a height; `refuses` names the height it does not take."""

    def __init__(
        self, height: int = 0, refuses: int | None = None, fork: int | None = None
    ) -> None:
        self.height, self.refuses, self.fork = height, refuses, fork
        self.is_down = False

    async def call(self, method: str, *params: Any) -> Any:
        if self.is_down:
            raise Unavailable("down")
        match method:
            case "getblockcount":
                return self.height
            case "getblockhash":
                other = self.fork is not None and params[0] >= self.fork
                return ("ff" if other else f"{params[0]:02x}") * 32
            case "submitblock":
                if bytes.fromhex(params[0])[0] == self.refuses:
                    return "bad-txns"
                self.height += 1
                return None
        raise RpcError(-32601, method)


def opinion(validator: Validator | None) -> SecondOpinion:
    return SecondOpinion(validator, Chain(), Log())


async def test_validator_when_it_agrees_then_is_handed_every_block() -> None:
    validator = Validator()
    found = opinion(validator)
    await found.compare(validator)
    assert validator.height == 5 and found.reason(0) == ""
    await found.compare(validator)
    assert found.reason(0) == ""


@pytest.mark.parametrize(
    ("validator", "reason"),
    [
        (Validator(refuses=3), "block 3 is refused there: bad-txns"),
        (Validator(4, fork=2), "block 4"),
    ],
)
async def test_validator_when_it_disagrees_then_until_resume(
    validator: Validator, reason: str
) -> None:
    """X7 ends only by k operators, and comes back while the two still differ."""
    found = opinion(validator)
    await found.compare(validator)
    assert found.reason(0).startswith(reason)
    validator.refuses = validator.fork = None
    await found.compare(validator)
    assert found.reason(0).startswith(reason)
    assert found.reason(6) == ""
    await found.compare(validator)
    assert found.reason(0) == ""


async def test_validator_when_silent_then_without_opinion() -> None:
    validator = Validator()
    validator.is_down = True
    found = opinion(validator)
    task = asyncio.create_task(found.run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert found.reason(0) == ""


async def test_validator_when_none_is_named_then_nothing_runs() -> None:
    found = opinion(None)
    await found.run()
    assert found.reason(0) == ""


def test_validator_when_named_in_member_json_then_read_back(tmp_path: Path) -> None:
    """N14: the operator names it by address and cookie file; without it the field is absent."""
    config = MemberConfig(
        index=0,
        listen_host="127.0.0.1",
        listen_port=0,
        rpc_port=0,
        bitcoind=BitcoindAccess(url="http://127.0.0.1:1", cookie=tmp_path / ".cookie"),
        block_interval_ms=1_000,
        min_interval_ms=0,
    )
    config.save(tmp_path)
    assert "second_validator" not in (tmp_path / "member.json").read_text()
    assert MemberConfig.load(tmp_path).second_validator is None
    access = BitcoindAccess(url="http://127.0.0.1:2", cookie=tmp_path / "other" / ".cookie")
    replace(config, second_validator=access).save(tmp_path)
    assert MemberConfig.load(tmp_path).second_validator == access
