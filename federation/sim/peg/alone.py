"""The peg's state without members: blocks are final at once, every version is assembled at once.

The quickest way to many blocks and forks; what members do with each other is in
`federation.sim.peg.members`.

Source: peg:3, peg:14.
"""

import random
from collections.abc import Sequence

from federation.sim.peg.bitcoin import Bitcoin
from federation.sim.peg.checks import PegChecker
from federation.sim.peg.sidechain import Sidechain
from peg.commitments import plan_commitment
from peg.fedscript import FedScript
from peg.ledger import PegLedger
from peg.parameters import PegParameters
from peg.records import PauseRecord, Record
from peg.state import PegView
from sidechain.errors import InvariantError
from sidechain.params import ChainParams
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import Transaction


class Alone:
    """One ledger, and a proposer that is always honest.

    Attributes:
        ledger: the state; another one after a wipe.
    """

    def __init__(
        self,
        *,
        bitcoin: Bitcoin,
        side: Sidechain,
        params: ChainParams,
        parameters: PegParameters,
        script: FedScript,
        checker: PegChecker,
    ) -> None:
        """Start before block 1."""
        self._bitcoin, self._side, self._checker = bitcoin, side, checker
        self._params, self._parameters, self._script = params, parameters, script
        self._approved: list[Record] = []
        self.ledger = self._fresh()

    def _fresh(self) -> PegLedger:
        return PegLedger(
            self._params,
            self._parameters,
            self._script,
            source=self._bitcoin,
            parent=self._bitcoin.view,
        )

    @property
    def view(self) -> PegView:
        """The state at the newest final block."""
        if self.ledger.view is None:
            raise InvariantError("no state before block 1")
        return self.ledger.view

    async def approve(self, record: Record) -> None:
        """Goes into the next block."""
        self._approved.append(record)

    async def pause(self, member: int, blocks: int) -> None:
        """A PAUSE that voters take: within its length and rate."""
        clock, parameters = self.ledger.history.clock, self._parameters
        known = (-1, -parameters.pause_every)
        sequence, last = self._checker.told.pauses.get(member, known)
        if clock < last + parameters.pause_every:
            return
        record = PauseRecord(
            member=member,
            deposits=False,
            sequence=sequence + 1,
            until=clock + blocks,
            signature=bytes(64),
        )
        self._approved.append(record)

    async def block(self, transactions: Sequence[Transaction], rng: random.Random) -> Block | None:
        """The next final block."""
        previous = self.ledger.history.previous_commitment
        fork = self.ledger.fork_height() if previous is not None else None
        active = previous is not None and self._bitcoin.view.is_active(previous.block_hash)
        commitment = plan_commitment(
            self._bitcoin.view,
            previous,
            self._parameters,
            self._bitcoin.estimate,
            fork_height=None if active else fork,
        )
        if commitment is None:
            raise InvariantError("no Bitcoin block is deep enough for block 1")
        records, self._approved = self._approved[:1], self._approved[1:]
        block = self._side.extend(commitment, transactions, records)
        self._checker.resets += commitment.reset
        self._checker.told.take(records, max(self.ledger.history.clock, commitment.height))
        self.ledger.apply(block)
        await self.ledger.advance()
        return block

    async def moved(self) -> None:
        """Bitcoin moved; the next block sees it."""

    async def trouble(self, member: int, kind: str, moves: int) -> None:
        """There are no members that could have any."""

    async def lie(self, kind: str) -> None:
        """There are no liars."""

    async def calm(self) -> None:
        """Nothing is wrong with anybody."""

    def confirmable(self) -> list[bytes]:
        """What federation keys have signed."""
        return list(self._checker.versions.values())

    def calmly_confirmable(self) -> list[bytes]:
        """What a miner takes while the chains are calm."""
        return self.confirmable()

    async def wipe(self, member: int) -> None:
        """I12: the state comes from the chains alone."""
        fresh = self._fresh()
        for block in self._side.blocks:
            fresh.apply(block)
        await fresh.advance()
        self._checker.check_same(fresh.view, self.view)
        self.ledger = fresh
