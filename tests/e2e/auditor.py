"""The auditor of tests/peg/two_chains.py over a federation of real processes."""

import asyncio
from dataclasses import dataclass
from typing import Any

from federation.config import FederationFile
from sidechain.primitives.block import Block
from tests.e2e.local import Local
from tests.e2e.rpc import Rpc
from tests.peg.two_chains import ChainBook, TwoChains

FOUNDED_ABOVE = 100
"""Every local federation is founded above this Bitcoin height."""


@dataclass(slots=True)
class AuditedNode:
    """A Bitcoin node as the auditor asks it."""

    rpc: Rpc

    async def call(self, method: str, *params: Any) -> Any:
        """One call."""
        return self.rpc.call(method, *params)


def recompute(local: Local) -> ChainBook:
    """All branches and the book from the two chains alone, equal to what members say.

    Raises:
        CaughtByChains: paid twice or without a burn, or the book is wrong.
    """
    audit = local.audit()
    federation = FederationFile.load(local.data / "federation.json")
    params = federation.chain_params()
    blocks = [
        Block.decode(bytes.fromhex(local.ask("getblock", local.ask("getblockhash", h), 0)), params)
        for h in range(1, audit["height"] + 1)
    ]
    chains = TwoChains(
        AuditedNode(local.bitcoind()),
        blocks,
        params,
        federation.peg,
        fed_program=federation.fed_script().program,
        base_height=FOUNDED_ABOVE,
    )
    book = asyncio.run(chains.check())
    assert audit["equal"]
    assert book.reserve_sats == audit["reserve_sats"]
    assert book.liabilities_sats == audit["liabilities_sats"]
    assert book.pool_sats == audit["pool_sats"]
    assert book.vanished_sats == audit["vanished_sats"]
    return book
