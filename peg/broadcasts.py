"""Assembled batches on their way into Bitcoin: sent, kept, sent again until they are deep.

Any version that was ever assembled may confirm; nothing here decides which one did. Members never
pay for a parent by a child (P37): only the ladder bumps, and nothing here spends an own output.

Source: peg:P29, peg:P34, peg:P35, peg:P37.
"""

from dataclasses import dataclass
from typing import Protocol

from peg.bitcoind import BitcoindError, MempoolVerdict, TransactionPlace
from sidechain.primitives.transaction import OutPoint

ALREADY_KNOWN = frozenset({"txn-already-in-mempool", "txn-already-known"})
INPUT_GONE = frozenset({"missing-inputs", "bad-txns-inputs-missingorspent"})
VERSIONS_KEPT_MAX = 64


class SendingNode(Protocol):
    """What sending asks of the member's own Bitcoin node."""

    async def test_mempool_accept(self, raw: bytes) -> MempoolVerdict:
        """Whether the mempool would take a transaction."""
        ...

    async def send_raw_transaction(self, raw: bytes) -> bytes:
        """Hand a transaction to the node."""
        ...

    async def find_transaction(self, txid: bytes) -> TransactionPlace | None:
        """A transaction and where it is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedVersion:
    """One assembled version of a batch."""

    version: int
    fee_sats: int
    txid: bytes
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SentState:
    """What the own node said about an anchor's batch last.

    Attributes:
        txid: of the version that confirmed, else of the highest sent.
        confirmations: 0 while unconfirmed.
        refusal: why the node did not take the highest version; empty when it did.
    """

    txid: bytes
    confirmations: int
    refusal: str


class Broadcasts:
    """Assembled versions by anchor. One owner: the service's task."""

    def __init__(self, node: SendingNode) -> None:
        """Start empty."""
        self._node = node
        self._versions: dict[OutPoint, list[SignedVersion]] = {}
        self._states: dict[OutPoint, SentState] = {}

    def add(self, anchor: OutPoint, signed: SignedVersion) -> bool:
        """Keep a version; returns whether it was new."""
        versions = self._versions.setdefault(anchor, [])
        if any(known.txid == signed.txid for known in versions):
            return False
        versions.append(signed)
        versions.sort(key=lambda known: known.fee_sats)
        del versions[:-VERSIONS_KEPT_MAX]
        return True

    def versions(self, anchor: OutPoint) -> tuple[SignedVersion, ...]:
        """Assembled versions that spend an anchor, lowest fee first."""
        return tuple(self._versions.get(anchor, ()))

    def state(self, anchor: OutPoint) -> SentState | None:
        """What the own node said last; None before anything was sent."""
        return self._states.get(anchor)

    def anchors(self) -> tuple[OutPoint, ...]:
        """Anchors whose batches are kept."""
        return tuple(self._versions)

    def drop(self, anchor: OutPoint) -> None:
        """Forget a batch whose spend of the anchor is deep enough."""
        self._versions.pop(anchor, None)
        self._states.pop(anchor, None)

    async def send_all(self) -> None:
        """Send the highest version of every kept batch that is not in a block.

        Raises:
            Unavailable: the node did not answer.
        """
        for anchor in self.anchors():
            await self.send(anchor)

    async def send(self, anchor: OutPoint) -> None:
        """Look where an anchor's versions are; if none is in a block send the highest.

        Whichever version confirmed, an old one too, is the one that counts (P35). What is sent is
        a version of the batch and never a child that pays for it (P37).
        """
        versions = self.versions(anchor)
        for version in reversed(versions):
            place = await self._node.find_transaction(version.txid)
            if place is not None and place.confirmations > 0:
                self._states[anchor] = SentState(
                    txid=version.txid, confirmations=place.confirmations, refusal=""
                )
                return
        for version in reversed(versions):
            refusal = await self._offer(version.raw)
            self._states[anchor] = SentState(txid=version.txid, confirmations=0, refusal=refusal)
            if refusal not in INPUT_GONE:
                return
            # One of its coins is not on this chain; a version selected after a RESET may be fine.

    async def _offer(self, raw: bytes) -> str:
        verdict = await self._node.test_mempool_accept(raw)
        if verdict.reason in ALREADY_KNOWN:
            return ""
        if not verdict.allowed:
            return verdict.reason
        try:
            await self._node.send_raw_transaction(raw)
        except BitcoindError as error:
            return error.message
        return ""
