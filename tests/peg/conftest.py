"""Fixtures of the peg's tests: the module's real Bitcoin node as members see it."""

from collections.abc import AsyncIterator

import pytest

from tests.conftest import RegtestNode
from tests.peg.real_bitcoin import RealBitcoin


@pytest.fixture
async def bitcoin(regtest_node: RegtestNode) -> AsyncIterator[RealBitcoin]:
    """The module's node, running, with coins to spend."""
    made = RealBitcoin(regtest_node)
    async with made.client:
        await made.prepare()
        yield made
