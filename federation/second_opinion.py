"""A second validator that an operator names: another daemon judges every final block too.

It is an elementsd or `sidechaind` of the same chain, reached by JSON-RPC. Blocks it lacks are
handed to it. What it refuses, or has otherwise, stops this member's payouts until k operators
resume (X7); blocks go on.

Source: peg:X7, N14.
"""

import asyncio
from typing import Any, Protocol

from federation.member_folder import BitcoindAccess
from peg.ports import EventLog
from sidechain.api.client import RpcClient, RpcError
from sidechain.errors import Unavailable
from sidechain.primitives.block import Block

PERIOD_S = 2
TIMEOUT_S = 20
BLOCKS_PER_TURN = 100
KNOWN = frozenset({None, "duplicate"})


class ValidatorLink(Protocol):
    """JSON-RPC of the second validator. Met by `sidechain.api.client.RpcClient`."""

    async def call(self, method: str, *params: Any) -> Any:
        """Run a method; raises RpcError or Unavailable."""
        ...


class ChainView(Protocol):
    """What is read of the own chain."""

    @property
    def tip_height(self) -> int:
        """Of the last final block."""
        ...

    def block(self, height: int) -> Block:
        """A final block."""
        ...


class SecondOpinion:
    """Compares both chains. One owner: the node's task."""

    def __init__(
        self,
        link: ValidatorLink | None,
        chain: ChainView,
        log: EventLog,
    ) -> None:
        """Nothing is asked before `run`.

        Args:
            link: None when the operator named no second validator.
        """
        self._link = link
        self._chain = chain
        self._log = log
        self._reason = ""
        self._found_height = 0

    def reason(self, resumed_height: int) -> str:
        """What the second validator says against the own chain; empty when nothing (X7).

        Args:
            resumed_height: of the newest final RESUME, 0 without one.
        """
        if self._reason and resumed_height > self._found_height:
            self._reason = ""
        return self._reason

    async def run(self) -> None:
        """Compare until cancelled. A validator that does not answer has no opinion."""
        while self._link is not None:
            try:
                await self.compare(self._link)
            except (Unavailable, RpcError) as error:
                self._log.info("second_validator_silent", reason=str(error))
            await asyncio.sleep(PERIOD_S)

    async def compare(self, link: ValidatorLink) -> None:
        """Look at its tip, then hand over what it lacks.

        Raises:
            Unavailable, RpcError: it does not answer.
        """
        theirs = int(await link.call("getblockcount"))
        common = min(theirs, self._chain.tip_height)
        said = str(await link.call("getblockhash", common)) if common else ""
        if common and bytes.fromhex(said)[::-1] != self._hash(common):
            self._object(f"block {common} is {said} there")
            return
        last = min(self._chain.tip_height, theirs + BLOCKS_PER_TURN)
        for height in range(common + 1, last + 1):
            block = self._chain.block(height).serialize()
            verdict = await link.call("submitblock", block.hex())
            if verdict not in KNOWN:
                self._object(f"block {height} is refused there: {verdict}")
                return

    def _hash(self, height: int) -> bytes:
        return self._chain.block(height).hash

    def _object(self, reason: str) -> None:
        if self._reason != reason:
            self._reason, self._found_height = reason, self._chain.tip_height
            self._log.error("second_validator_disagrees", alarm=True, reason=reason)


def second_opinion(
    access: BitcoindAccess | None,
    chain: ChainView,
    log: EventLog,
) -> SecondOpinion:
    """The second validator that `member.json` names, or one without any opinion."""
    link = None
    if access is not None and access.cookie is not None:
        link = RpcClient(access.url, access.cookie, TIMEOUT_S)
    return SecondOpinion(link, chain, log)
