"""A chain with an Esplora server in the test's own process, and a client of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from sidechain.api.esplora import EsploraServer, Limits
from sidechain.api.esplora_mempool import sender
from sidechain.api.json_text import decode
from sidechain.api.registry import Registry
from sidechain.api.rpc_submission import SubmissionMethods
from sidechain.chain import Chain
from sidechain.index.follower import ChainIndex
from sidechain.primitives.transaction import Transaction
from sidechain.validation.pegins import ParentFacts
from tests.factories import FIRST_BLOCK_TIME_S

NOW_S = FIRST_BLOCK_TIME_S + 10**6


@dataclass(slots=True)
class Served:
    """A running server and what it said to whom."""

    chain: Chain
    index: ChainIndex
    server: EsploraServer
    session: aiohttp.ClientSession
    faults: list[BaseException]
    relayed: list[Transaction]
    sent: list[str] = field(default_factory=list)

    async def reply(self, path: str, method: str = "GET", **fields: Any) -> tuple[int, str]:
        """Status and text."""
        async with self.session.request(method, self.server.url + path, **fields) as response:
            return response.status, await response.text()

    async def get(self, path: str) -> Any:
        """The JSON of a reply that must be a success."""
        status, text = await self.reply(path)
        assert status == 200, (path, status, text)
        return decode(text)

    async def text(self, path: str) -> str:
        """The text of a reply that must be a success."""
        status, text = await self.reply(path)
        assert status == 200, (path, status, text)
        return text

    async def post(self, tx_hex: str) -> tuple[int, str]:
        """What sending a transaction gives."""
        return await self.reply("/tx", "POST", data=tx_hex)


@asynccontextmanager
async def served(
    chain: Chain, folder: Path, *, facts: ParentFacts | None = None, limits: Limits | None = None
) -> AsyncIterator[Served]:
    """Serve a chain; its mempool takes what is posted, as a node's would."""
    faults: list[BaseException] = []
    relayed: list[Transaction] = []

    async def facts_for(tx: Transaction) -> ParentFacts | None:
        return facts

    async def on_accepted(tx: Transaction) -> None:
        relayed.append(tx)

    registry = Registry()
    SubmissionMethods(
        chain, facts_for=facts_for, on_accepted=on_accepted, unix_time_s=lambda: NOW_S
    ).register(registry)
    index = ChainIndex.open(folder, chain)
    server = EsploraServer(
        chain, index, send=sender(registry), limits=limits, on_fault=faults.append
    )
    async with asyncio.TaskGroup() as group, aiohttp.ClientSession() as session:
        await server.start(group)
        try:
            yield Served(chain, index, server, session, faults, relayed)
        finally:
            await server.stop()
