"""Transactions that come from peers or from the RPC, into the mempool and on to the others.

Source: N15 (kinds 15 to 17), consensus:C95, peg.md 3.2 (depth is asked of the own bitcoind).
"""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from federation.consensus.encoding import FrameKind
from federation.peers import EventLog, PeerNetwork
from federation.tx_gossip import (
    InvalidInventory,
    TransactionGossip,
    TxFrame,
    decode_inventory,
)
from sidechain.chain import Chain
from sidechain.errors import InvalidEncoding, InvalidTransaction, Stalled, Unavailable
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import Transaction
from sidechain.validation.pegins import ParentFacts

MISSING_INPUTS = "bad-txns-inputs-missingorspent"
CLAIMS_JUDGED_MAX = 50
"""Peg-in claims from peers judged at the same time; more are dropped and come again."""


class TransactionRelay:
    """Owner of the gossip state; frames and events come in by the engine's task.

    Args:
        facts_for: what a peg-in needs to know of Bitcoin.
        on_new: called after the mempool has grown.
        post: runs a callable in the engine's task.
    """

    def __init__(
        self,
        *,
        chain: Chain,
        network: PeerNetwork,
        facts_for: Callable[[Transaction], Awaitable[ParentFacts | None]],
        on_new: Callable[[], None],
        post: Callable[[Callable[[], None]], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        unix_time_s: Callable[[], int],
        log: EventLog,
    ) -> None:
        self._chain = chain
        self._network = network
        self._facts_for = facts_for
        self._on_new = on_new
        self._post = post
        self._spawn = spawn
        self._unix_time_s = unix_time_s
        self._log = log
        self._gossip = TransactionGossip()
        self._judging = 0

    def on_link(self, member: int, connected: bool) -> None:
        """A link came up or went down."""
        if connected:
            self._send(self._gossip.peer_connected(member))
        else:
            self._gossip.peer_disconnected(member)

    def on_frame(self, member: int, kind: int, body: bytes) -> None:
        """A frame of kind 15, 16 or 17."""
        try:
            match kind:
                case FrameKind.TXINV:
                    self._send(self._gossip.on_inventory(member, decode_inventory(body)))
                case FrameKind.TXGET:
                    self._send(self._gossip.on_request(member, decode_inventory(body)))
                case _:
                    self._on_transaction(member, body)
        except (InvalidInventory, InvalidEncoding) as error:
            self._log.warning("peer_fault", member=member, reason=str(error))
            self._network.charge_signatures(member, failed=1)

    def on_final(self, block: Block) -> None:
        """A block is final: what it holds is announced no more, what waited for it is tried."""
        self._gossip.left_mempool(tx.wtxid for tx in block.transactions)
        self._retry_waiting()

    def drop(self, is_stale: Callable[[Transaction], bool]) -> None:
        """Let go of transactions that no block can hold now, and of what depends on them.

        Claims whose block left Bitcoin's best chain: a claim with the proof of another block has
        the same txid, and is refused while the old one is kept.
        """
        for tx in self._chain.mempool.transactions():
            if is_stale(tx):
                removed = self._chain.mempool.remove(tx.txid)
                self._gossip.left_mempool(each.wtxid for each in removed)
                self._log.info("claim_dropped", txid=tx.txid[::-1].hex(), removed=len(removed))

    async def accepted(self, tx: Transaction) -> None:
        """The RPC put a transaction into the mempool, or was given it again."""
        self._announce(tx)

    # -- inside

    def _on_transaction(self, member: int, body: bytes) -> None:
        tx = Transaction.decode(body)
        known = self._chain.mempool.get(tx.txid)
        is_claim = any(txin.is_pegin for txin in tx.inputs)
        if not self._gossip.on_transaction(member, tx.wtxid):
            return
        if known is not None and (known.tx.wtxid == tx.wtxid or not is_claim):
            return  # a claim with another proof is judged: the old one may be about to go
        if not is_claim:
            self._submit(member, tx, None)
        elif self._judging < CLAIMS_JUDGED_MAX:
            self._judging += 1
            self._spawn(self._judge_claim(member, tx))

    async def _judge_claim(self, member: int, tx: Transaction) -> None:
        try:
            facts = await self._facts_for(tx)
        except Unavailable as error:
            self._log.warning("claim_not_judged", txid=tx.txid[::-1].hex(), reason=str(error))
        else:
            self._post(lambda: self._submit(member, tx, facts))
        finally:
            self._judging -= 1

    def _submit(self, member: int, tx: Transaction, facts: ParentFacts | None) -> None:
        try:
            self._chain.submit_tx(tx, facts, self._unix_time_s())
        except InvalidTransaction as error:
            if error.reason == MISSING_INPUTS:
                self._gossip.wait_for_inputs(member, tx.wtxid, tx.serialize())
            else:
                self._log.info("tx_refused", txid=tx.txid[::-1].hex(), reason=str(error))
        except Stalled:
            return  # it may be deep enough here later; its wallet sends it again
        else:
            self._announce(tx)
            self._retry_waiting()

    def _retry_waiting(self) -> None:
        for member, data in self._gossip.take_waiting():
            tx = Transaction.decode(data)
            if not any(txin.is_pegin for txin in tx.inputs):
                self._submit(member, tx, None)

    def _announce(self, tx: Transaction) -> None:
        self._send(self._gossip.accepted(tx.wtxid, tx.serialize()))
        self._on_new()

    def _send(self, frames: list[TxFrame]) -> None:
        for frame in frames:
            self._network.send(frame.member, frame.kind, frame.body)
