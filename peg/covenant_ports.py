"""What claims for offline users are given by the process, and the records they keep.

Source: peg:4 ("Registration").
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from peg.bitcoind import UnspentOutput
from peg.covenants import Registered, decode_registration
from sidechain.errors import InvalidEncoding
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.validation.pegins import FedpegPair
from sidechain.wallet.covenant import covenant_script

KEPT = 1
DROPPED = 2
"""Kinds of records in the file of registrations: sender and body, or a claim script."""


class CovenantStore(Protocol):
    """Where registrations are kept durably."""

    def append(self, kind: int, body: bytes) -> object:
        """Write a record. Raises JournalFailed."""
        ...


class OwnMempool(Protocol):
    """The member's own mempool, as far as claims need it."""

    def rate_sats_per_kvb(self) -> int:
        """What a transaction must pay to be taken now."""
        ...

    def spender(self, outpoint: OutPoint) -> bytes | None:
        """The id of a transaction in it that claims a deposit."""
        ...

    async def submit(self, transaction: Transaction) -> str:
        """Judge a transaction and relay it; why it was refused, empty when it was not."""
        ...


class SpentAsk(Protocol):
    """What is asked of the member's own Bitcoin node."""

    async def tx_out(
        self, outpoint: OutPoint, include_mempool: bool = True
    ) -> UnspentOutput | None:
        """An unspent output; None when spent or unknown."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CovenantPorts:
    """What the shell passes in for covenant claims.

    Attributes:
        records: of the store at start, oldest first: kind and body.
        valid_scripts: the fedpegscripts that a claim in the next block may be of, newest first.
        may_change_script: whether another one may be in force in the next epoch.
    """

    store: CovenantStore
    records: Sequence[tuple[int, bytes]]
    mempool: OwnMempool
    valid_scripts: Callable[[], Sequence[FedpegPair]]
    may_change_script: Callable[[], bool] = lambda: False


def fold_records(
    records: Sequence[tuple[int, bytes]], pegged_asset: bytes
) -> dict[bytes, Registered]:
    """What the records of a store leave, oldest first; records of another form are passed over."""
    kept: dict[bytes, Registered] = {}
    for kind, body in records:
        if kind == DROPPED:
            kept.pop(body, None)
        elif kind == KEPT and body:
            with suppress(InvalidEncoding):
                terms = decode_registration(body[1:])
                claim_script = covenant_script(terms, pegged_asset)
                kept.setdefault(claim_script, Registered(terms, body[0]))
    return kept
