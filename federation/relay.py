"""Transactions that come from peers or from the RPC, into the mempool and on to the others.

Source: N15 (kinds 15 to 17), consensus:C95, peg.md 3.2 (depth is asked of the own bitcoind).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine
from enum import Enum, auto
from typing import Any, Final

from federation.consensus.encoding import FrameKind
from federation.engine_parts import MemberNetwork
from federation.peers import EventLog
from federation.rate_limits import RequestBudget
from federation.tx_gossip import (
    Arrival,
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
from sidechain.validation.tx_check import check_transaction

MISSING_INPUTS: Final = "bad-txns-inputs-missingorspent"
ALWAYS_WRONG: Final = "mandatory-script-verify-flag-failed"
"""No correct member ever held a transaction that was refused for this. What a later version may
know more of (leaves, keys, opcodes) is refused by policy alone, under another name."""
CLAIMS_JUDGED_MAX: Final = 50
"""Peg-in claims from peers judged at the same time; more are dropped and come again."""
ANNOUNCE_PAUSE_MS: Final = 20
"""How long transactions are collected for one announcement, after the last one was made."""
ANNOUNCE_PAUSE_PER_LINK_MS: Final = 1
"""The same where there are many: for each of the links that one announcement of every member
takes, so that what all of them write and read together does not grow with their number."""
RELAY_PAUSE_MS: Final = 200
"""How long those that came from peers are collected before they are told on."""
ASK_PAUSE_MS: Final = 20
"""How long after an announcement is waited for what is handed over with it."""
PUSHED_MAX_BYTES: Final = 10_000
"""Larger transactions are handed over when a peer asks."""
SUBMITTED_PER_TURN: Final = 16
"""Transactions from the RPC that are answered before the engine has its turn: they take about as
long as one of its turns does."""
UNASKED_CHECKS: Final = 10
"""Signature checks that a transaction is charged as that was neither asked for nor announced."""
FRAME_ROOM_BYTES: Final = 1_000_000
"""Room that transactions leave in a peer's send queue for what agreement has to say."""


class _Step(Enum):
    """What is done a while later, for all that came meanwhile."""

    ANNOUNCE_OWN = auto()
    ANNOUNCE_RELAYED = auto()
    ASK = auto()


PAUSES_MS: Final = {
    _Step.ANNOUNCE_OWN: ANNOUNCE_PAUSE_MS,
    _Step.ANNOUNCE_RELAYED: RELAY_PAUSE_MS,
    _Step.ASK: ASK_PAUSE_MS,
}


class TransactionRelay:
    """Owner of the gossip state; frames and events come in by the engine's task.

    Args:
        facts_for: what a peg-in needs to know of Bitcoin.
        on_new: called after the mempool has grown.
        post: runs a callable in the engine's task; `post_later` after so many milliseconds.
        now_ms: the monotonic clock.
    """

    def __init__(
        self,
        *,
        chain: Chain,
        network: MemberNetwork,
        facts_for: Callable[[Transaction], Awaitable[ParentFacts | None]],
        on_new: Callable[[], None],
        post: Callable[[Callable[[], None]], None],
        post_later: Callable[[int, Callable[[], None]], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        unix_time_s: Callable[[], int],
        now_ms: Callable[[], int],
        log: EventLog,
    ) -> None:
        self._chain = chain
        self._network = network
        self._facts_for = facts_for
        self._on_new = on_new
        self._post = post
        self._post_later = post_later
        self._spawn = spawn
        self._unix_time_s = unix_time_s
        self._now_ms = now_ms
        self._log = log
        self._log_budget = RequestBudget(per_s=5, burst=50)
        self._gossip = TransactionGossip()
        self._submitted = 0
        """Transactions from the RPC that were answered since the engine had its turn."""
        self._at_the_door: deque[asyncio.Future[None]] = deque()
        """Answers that wait for the engine's next turn."""
        self._judging = 0
        self._planned: set[_Step] = set()
        self._announced_ms = -ANNOUNCE_PAUSE_MS

    def on_link(self, member: int, connected: bool) -> None:
        """A link came up or went down."""
        if connected:
            self._forget_gone()
            self._send(self._gossip.peer_connected(member))
        else:
            self._send(self._gossip.peer_disconnected(member, self._now_ms()))

    def on_frame(self, member: int, kind: int, body: bytes) -> None:
        """A frame of kind 15, 16 or 17."""
        try:
            match kind:
                case FrameKind.TXINV:
                    if self._gossip.on_inventory(member, decode_inventory(body)):
                        self._after(_Step.ASK)
                case FrameKind.TXGET:
                    self._hand_over(member, decode_inventory(body))
                case _:
                    self._on_transaction(member, body)
        except (InvalidInventory, InvalidEncoding) as error:
            self._blame(member, str(error))

    def on_final(self, block: Block) -> None:
        """A block is final: what it holds is announced no more, what waited for it is tried."""
        self._gossip.chain_moved(tx.wtxid for tx in block.transactions)
        self._retry_waiting({tx.txid for tx in block.transactions})

    def tick(self) -> None:
        """Ask others for what a peer announced and kept; call it every second."""
        self._send(self._gossip.retry(self._now_ms()))

    def drop(self, is_stale: Callable[[Transaction], bool]) -> None:
        """Let go of transactions that no block can hold now, and of what depends on them.

        Claims whose block left Bitcoin's best chain: a claim with the proof of another block has
        the same txid, and is refused while the old one is kept.
        """
        for tx in self._chain.mempool.claims():
            if is_stale(tx):
                removed = self._chain.mempool.remove(tx.txid)
                self._log.info("claim_dropped", txid=tx.txid[::-1].hex(), removed=len(removed))
        self._forget_gone()
        self._gossip.chain_moved(())

    async def accepted(self, tx: Transaction) -> None:
        """The RPC put a transaction into the mempool, or was given it again.

        Those beyond `SUBMITTED_PER_TURN` wait for the engine, so that however many submit, it has
        its turn in between. Where it keeps up nobody waits.
        """
        self._announce(tx, own=True)
        if self._submitted < SUBMITTED_PER_TURN:
            self._count_submitted()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._at_the_door.append(turn)
        await turn

    def _count_submitted(self) -> None:
        self._submitted += 1
        if self._submitted == 1:
            self._post(self._open_door)

    def _open_door(self) -> None:
        """The engine has its turn: answer as many as wait, up to the bound."""
        self._submitted = 0
        while self._at_the_door and self._submitted < SUBMITTED_PER_TURN:
            turn = self._at_the_door.popleft()
            if not turn.done():  # else who waited is gone
                self._count_submitted()
                turn.set_result(None)

    # -- inside

    def _hand_over(self, member: int, wtxids: list[bytes]) -> None:
        for txid in self._gossip.on_request(member, wtxids):
            entry = self._chain.mempool.get(txid)
            if entry is None:
                continue
            data = entry.raw
            self._chain.mempool.mark_seen(txid)
            if self._network.room_bytes(member) < len(data) + FRAME_ROOM_BYTES:
                return  # it asks another member, or again when it connects again
            self._network.send(member, FrameKind.TX, data)

    def _on_transaction(self, member: int, body: bytes) -> None:
        tx = Transaction.decode(body)
        arrival = self._gossip.on_transaction(member, tx.wtxid)
        if arrival is Arrival.UNASKED:
            self._network.charge_signatures(member, checked=UNASKED_CHECKS)
        if arrival is not Arrival.NEW:
            return
        known = self._chain.mempool.get(tx.txid)
        is_claim = any(txin.is_pegin for txin in tx.inputs)
        if known is not None and (known.raw == tx.raw or not is_claim):
            return  # a claim with another proof is judged: the old one may be about to go
        try:
            check_transaction(tx)
        except InvalidTransaction as error:
            self._blame(member, str(error))
            return
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
        """Try a transaction, then those that waited for it, and so on."""
        waiting: list[tuple[int, Transaction]] = [(member, tx)]
        while waiting:
            sender, candidate = waiting.pop()
            if self._try(sender, candidate, facts if candidate is tx else None):
                self._announce(candidate, own=False)
                waiting += self._take_waiting({candidate.txid})

    def _try(self, member: int, tx: Transaction, facts: ParentFacts | None) -> bool:
        try:
            self._chain.submit_tx(tx, facts, self._unix_time_s())
        except InvalidTransaction as error:
            self._refuse(member, tx, error)
            return False
        except Stalled:
            return False  # it may be deep enough here later; its wallet sends it again
        return True

    def _refuse(self, member: int, tx: Transaction, error: InvalidTransaction) -> None:
        if error.reason == MISSING_INPUTS:
            parents = {txin.prevout.txid for txin in tx.inputs}
            self._gossip.wait_for_inputs(member, tx.wtxid, tx.serialize(), parents)
            return
        self._gossip.refused(tx.wtxid)
        if error.reason.startswith(ALWAYS_WRONG):
            self._blame(member, str(error))
        elif self._log_budget.take(self._now_ms()):
            self._log.info("tx_refused", txid=tx.txid[::-1].hex(), reason=str(error))

    def _retry_waiting(self, txids: Collection[bytes]) -> None:
        for member, tx in self._take_waiting(txids):
            self._submit(member, tx, None)

    def _take_waiting(self, txids: Collection[bytes]) -> list[tuple[int, Transaction]]:
        found = [(m, Transaction.decode(data)) for m, data in self._gossip.take_waiting(txids)]
        # A claim needs facts of its own; its wallet sends it again.
        return [(m, tx) for m, tx in found if not any(txin.is_pegin for txin in tx.inputs)]

    def _announce(self, tx: Transaction, *, own: bool) -> None:
        self._gossip.accepted(tx.wtxid, tx.txid, own=own)
        self._on_new()
        self._after(_Step.ANNOUNCE_OWN if own else _Step.ANNOUNCE_RELAYED)

    def _after(self, step: _Step) -> None:
        """Take a step after its pause, once for all that comes until then."""
        if step in self._planned:
            return
        wait_ms = PAUSES_MS[step]
        if step is _Step.ANNOUNCE_OWN:
            # The first one leaves at once, those behind it together.
            links = len(self._network.connected) ** 2
            pause_ms = max(wait_ms, links * ANNOUNCE_PAUSE_PER_LINK_MS)
            wait_ms = self._announced_ms + pause_ms - self._now_ms()
        if wait_ms <= 0:
            self._take(step)
        else:
            self._planned.add(step)
            self._post_later(wait_ms, lambda: self._take(step))

    def _take(self, step: _Step) -> None:
        self._planned.discard(step)
        match step:
            case _Step.ASK:
                self._send(self._gossip.ask(self._now_ms()))
            case _Step.ANNOUNCE_RELAYED:
                self._send(self._gossip.announce_relayed())
            case _Step.ANNOUNCE_OWN:
                self._announced_ms = self._now_ms()
                for frame in self._gossip.announce_own():
                    self._send([frame])
                    self._push(frame.member, decode_inventory(frame.body))

    def _push(self, member: int, wtxids: list[bytes]) -> None:
        """Hand over at once what is small; the peer needs it before the block that has it."""
        for txid in self._gossip.txids_of(wtxids):
            entry = self._chain.mempool.get(txid)
            if entry is None or len(entry.raw) > PUSHED_MAX_BYTES:
                continue
            if self._network.room_bytes(member) < len(entry.raw) + FRAME_ROOM_BYTES:
                return  # it asks when it has read what was announced
            self._chain.mempool.mark_seen(txid)
            self._network.send(member, FrameKind.TX, entry.raw)

    def _forget_gone(self) -> None:
        """Announce no more what the mempool replaced, evicted or let expire."""
        self._gossip.keep_only(self._is_held)

    def _is_held(self, wtxid: bytes, txid: bytes) -> bool:
        entry = self._chain.mempool.get(txid)
        return entry is not None and entry.wtxid == wtxid

    def _blame(self, member: int, reason: str) -> None:
        self._log.warning("peer_fault", member=member, reason=reason)
        self._network.charge_signatures(member, failed=1)

    def _send(self, frames: list[TxFrame]) -> None:
        for frame in frames:
            self._network.send(frame.member, frame.kind, frame.body)
