"""What a proposer knows of waiting claims (peg:C3, C7)."""

from pathlib import Path

import pytest

from peg.bitcoind import BitcoindError
from sidechain.errors import Unavailable
from tests.peg.members import PegWorld
from tests.peg.test_service import deposit, found


@pytest.fixture
def world(tmp_path: Path) -> PegWorld:
    return PegWorld(tmp_path)


async def test_block_the_node_lost_is_an_answer_and_stops_nobody(
    world: PegWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One claim whose block is gone must not keep this member from its other work."""
    await found(world)
    claim = await deposit(world)
    service = world.services[0]

    async def gone(block_hash: bytes) -> bytes:
        raise BitcoindError(-1, "Block not available")

    assert not service.claim_is_ripe(claim)
    with monkeypatch.context() as patched:
        patched.setattr(world.bitcoin, "raw_block", gone)
        await service.run_once()
    assert not service._claims.has_questions
    assert not service.claim_is_ripe(claim)
    await world.mine()
    service.claim_is_ripe(claim)
    await service.run_once()
    assert service.claim_is_ripe(claim)


async def test_node_that_does_not_answer_leaves_the_question(
    world: PegWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await found(world)
    claim = await deposit(world)
    service = world.services[0]

    async def silent(*_: object) -> None:
        raise Unavailable("no answer")

    assert not service.claim_is_ripe(claim)
    with monkeypatch.context() as patched:
        patched.setattr(world.bitcoin, "tx_out", silent)
        await service.run_once()
    assert service._claims.has_questions
    await service.run_once()
    assert service.claim_is_ripe(claim)
