"""Claims for users who are not there: registrations, their deposits, and claiming in turn.

The service's one task calls `advance`; registrations come in between, from users and peers. A
claim is the same transaction at every member, so that two who send it do not compete, and sending
one that is final already is refused by every mempool.

Source: peg:4 ("Who claims when", "Covenant claim script"), peg:C2-C7.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from peg.claims import FORGEABLE_TX_BYTES
from peg.covenant_ports import DROPPED, KEPT, CovenantPorts, SpentAsk, fold_records
from peg.covenant_watch import CovenantDeposit, CovenantWatch, ripe_height, turn_height
from peg.covenants import (
    CovenantTable,
    Registered,
    check_price,
    decode_registration,
    encode_registration,
)
from peg.ledger import PegLedger
from peg.parameters import PegParameters
from peg.parent_view import ParentView
from peg.status import hash_hex, outpoint_text
from sidechain.errors import InvalidEncoding, Unavailable
from sidechain.params import ChainParams
from sidechain.primitives.parent import ParentBlock, build_merkle_block
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.script.script import p2wsh
from sidechain.validation.pegins import FedpegPair, deposit_script
from sidechain.wallet.claim import ClaimableDeposit
from sidechain.wallet.covenant import CovenantTerms, build_covenant_claim, covenant_script
from sidechain.wallet.selection import WalletRefusal

BLOCKS_PER_TURN = 50
TOLD_PER_TURN = 20
"""Registrations sent to one peer in a turn: it takes 200 signed frames a second (C95)."""
HEARD_PER_TURN = 20
"""New ones of one peer looked at in a turn: each costs as many key tweaks as there are members."""
WAITING_MAX = 2_000
"""Registrations of one peer that wait to be looked at; it tells of more when it connects again."""
SCRIPTS_PER_PAUSE = 5


@dataclass(slots=True)
class _LatePass:
    """One reading of blocks read before, for claim scripts that came later."""

    claim_scripts: frozenset[bytes]
    next_height: int


@dataclass(slots=True)
class _Attempt:
    """What became of the last try to claim a deposit, and at which tips."""

    at: tuple[int, bytes]
    reason: str


@dataclass(slots=True)
class _Gossip:
    """What peers are still to be told (claim scripts), and what they told (terms) and waits."""

    queues: dict[int, dict[bytes, None]] = field(default_factory=dict)
    heard: dict[int, dict[CovenantTerms, None]] = field(default_factory=dict)


class CovenantClaims:
    """One member's part in claiming for offline users. See the module for who calls what."""

    def __init__(
        self,
        *,
        chain: ChainParams,
        member: int,
        ledger: PegLedger,
        parent: ParentView,
        client: SpentAsk,
        ports: CovenantPorts,
        send: Callable[[bytes, int], object],
        on_news: Callable[[], None],
        log_info: Callable[..., object],
    ) -> None:
        """
        Args:
            send: sends a COVREG body to a member.
            on_news: told when there is something to do for `advance`.
        """
        self._chain = chain
        self._member = member
        self._ledger = ledger
        self._parent = parent
        self._client = client
        self._ports = ports
        self._send = send
        self._on_news = on_news
        self._log_info = log_info
        self._table = CovenantTable(member)
        self._watch = CovenantWatch()
        self._pairs: tuple[FedpegPair, ...] = ()
        self._late: set[bytes] = set()
        self._pass: _LatePass | None = None
        self._attempts: dict[OutPoint, _Attempt] = {}
        self._gossip = _Gossip()
        self._load(ports.records)

    # ---- registrations ----

    def __len__(self) -> int:
        return len(self._table)

    def register(self, terms: CovenantTerms) -> dict[str, Any]:
        """Take a user's registration; durable when this returns. A known one is told again.

        Returns:
            What `describe` says of it, and the script that deposits pay.
        Raises:
            InvalidEncoding: the price is too high.
            Unavailable: no room.
        """
        check_price(terms, self._parameters)
        claim_script = covenant_script(terms, self._chain.pegged_asset)
        if claim_script not in self._table:
            self._keep(claim_script, Registered(terms, self._member))
        for queue in self._gossip.queues.values():
            queue[claim_script] = None
        self._on_news()
        described = self.describe(claim_script) or {}
        return {**described, "deposit_script": self._address_script(claim_script).hex()}

    def hear(self, member: int, body: bytes) -> None:
        """Put a registration that a peer passes on in the row; excess is dropped.

        Raises:
            InvalidEncoding: malformed.
        """
        terms = decode_registration(body)
        waiting = self._gossip.heard.setdefault(member, {})
        if len(waiting) < WAITING_MAX:
            waiting[terms] = None

    def _take(self, member: int, terms: CovenantTerms) -> None:
        """Keep what a peer told, if it is new and there is room.

        A price that is too high is no fault: the minimum may have been changed since.
        """
        claim_script = covenant_script(terms, self._chain.pegged_asset)
        queue = self._gossip.queues.get(member)
        if queue is not None:
            queue.pop(claim_script, None)
        if claim_script in self._table:
            return
        with suppress(InvalidEncoding, Unavailable):
            check_price(terms, self._parameters)
            self._keep(claim_script, Registered(terms, member))
            for other, waiting in self._gossip.queues.items():
                if other != member:
                    waiting[claim_script] = None

    def on_link(self, member: int, connected: bool) -> None:
        """A link came up: the peer is told everything; or went down."""
        if connected:
            self._gossip.queues[member] = dict.fromkeys(self._table.all)
        else:
            self._gossip.queues.pop(member, None)

    def gossip(self) -> None:
        """Look at some of what each peer told, and tell each a part of what it lacks."""
        for member, waiting in self._gossip.heard.items():
            for terms in list(waiting)[:HEARD_PER_TURN]:
                del waiting[terms]
                self._take(member, terms)
        for member, queue in self._gossip.queues.items():
            for claim_script in list(queue)[:TOLD_PER_TURN]:
                del queue[claim_script]
                known = self._table.get(claim_script)
                if known is not None:
                    self._send(encode_registration(known.terms), member)

    # ---- following and claiming ----

    async def advance(self) -> bool:
        """Read new committed Bitcoin blocks and claim what is due; whether more can be read now.

        Raises:
            Unavailable, BitcoindError: the node did not answer; what was read stays.
        """
        if not len(self._table):
            return False
        await self._take_scripts()
        more = await self._follow()
        more = await self._read_again() or more
        for deposit in list(self._watch.deposits.values()):
            if self._is_due(deposit):
                await self._claim(deposit)
        return more

    async def _follow(self) -> bool:
        """Read up to the committed block; whether it is not reached yet."""
        commitment = self._ledger.history.previous_commitment
        if commitment is None or not self._parent.is_active(commitment.block_hash):
            return False
        oldest = max(self._parent.base_height, commitment.height - self._age_limit)
        if not self._cut_to_best_chain() or self._watch.next_height() < oldest:
            self._watch.start(oldest)
            # From there on every block is read with all scripts known so far.
            self._pass = None
            self._late.clear()
        self._watch.prune_below(commitment.height - self._ledger.csv)
        self._forget_attempts()
        for _ in range(BLOCKS_PER_TURN):
            height = self._watch.next_height()
            block_hash = self._parent.hash_at(height)
            if height > commitment.height or block_hash is None:
                return False
            block = await self._ledger.blocks.get(block_hash)
            # The chain may have moved while the node was asked.
            if self._parent.hash_at(height) != block_hash or not self._watch.append(block):
                return True
        return True

    async def _read_again(self) -> bool:
        """Read earlier blocks for late registrations; whether there are more to read."""
        if self._pass is None and self._late:
            self._pass = _LatePass(frozenset(self._late), self._watch.lowest)
            self._late.clear()
        current = self._pass
        if current is None:
            return False
        for _ in range(BLOCKS_PER_TURN):
            block_hash = self._watch.hash_at(current.next_height)
            if current.next_height > self._watch.height:
                self._pass = None
                return bool(self._late)
            if block_hash is not None:
                block = await self._ledger.blocks.get(block_hash)
                self._watch.rescan(block, current.next_height, current.claim_scripts)
            current.next_height += 1
        return True

    async def _claim(self, deposit: CovenantDeposit) -> None:
        """Build and send one claim; nothing of it is kept but why it failed."""
        at = (self._ledger.history.height, self._parent.tip_hash)
        known = self._table.get(deposit.claim_script)
        if known is None:
            return
        block = await self._ledger.blocks.get(deposit.block_hash)
        unspent = await self._client.tx_out(deposit.outpoint, False)
        if not self._is_due(deposit):
            return  # final, claimed by another or reorganised away while the node was asked
        reason, txid = "", b""
        try:
            if unspent is None:
                raise InvalidEncoding("deposit is spent on Bitcoin")
            claim = self._build(deposit, known.terms, block)
            txid = claim.txid
            reason = await self._ports.mempool.submit(claim)
        except (WalletRefusal, InvalidEncoding) as error:
            reason = error.detail or error.reason
        attempt = self._attempts.get(deposit.outpoint)
        if attempt is None or attempt.reason != reason:
            event = "covenant claim refused" if reason else "covenant claim sent"
            facts = {"reason": reason} if reason else {"txid": hash_hex(txid)}
            self._log_info(event, deposit=outpoint_text(deposit.outpoint), **facts)
        self._attempts[deposit.outpoint] = _Attempt(at, reason)

    def _build(
        self, deposit: CovenantDeposit, terms: CovenantTerms, block: ParentBlock
    ) -> Transaction:
        found = {tx.txid: tx for tx in block.transactions}.get(deposit.outpoint.txid)
        if found is None:
            raise InvalidEncoding("deposit is not in its block")
        if len(found.stripped) == FORGEABLE_TX_BYTES:
            raise InvalidEncoding("64-byte transactions cannot be claimed")
        claimable = ClaimableDeposit(
            outpoint=deposit.outpoint,
            value_sats=deposit.value_sats,
            claim_script=deposit.claim_script,
            parent_tx=found.stripped,
            proof=build_merkle_block(block, deposit.outpoint.txid),
        )
        rate = self._ports.mempool.rate_sats_per_kvb()
        return build_covenant_claim(claimable, terms, self._chain, rate_sats_per_kvb=rate)

    # ---- answering ----

    def describe(self, script: bytes) -> dict[str, Any] | None:
        """A registration and its deposits as JSON, by claim or deposit script; None: not known."""
        claim_script = script if script in self._table else self._watch.claim_script_of(script)
        known = None if claim_script is None else self._table.get(claim_script)
        if claim_script is None or known is None:
            return None
        deposits = [
            self._deposit_json(deposit)
            for deposit in self._watch.deposits.values()
            if deposit.claim_script == claim_script
        ]
        return {
            "claim_script": claim_script.hex(),
            "program": known.terms.script.hex(),
            "max_fee_sats": known.terms.max_fee_sats,
            "internal_key": known.terms.internal_key.hex(),
            "followed_to": self._watch.height,
            "deposits": deposits,
        }

    def _deposit_json(self, deposit: CovenantDeposit) -> dict[str, Any]:
        stage, reason = self._stage(deposit)
        pending = self._ports.mempool.spender(deposit.outpoint)
        return {
            "deposit": outpoint_text(deposit.outpoint),
            "value_sats": deposit.value_sats,
            "height": deposit.height,
            "stage": stage,
            "reason": reason,
            "claim_txid": None if pending is None else hash_hex(pending),
            "turn_at": self._turn(deposit),
        }

    def _stage(self, deposit: CovenantDeposit) -> tuple[str, str]:
        if self._ledger.history.claimed(deposit.outpoint) is not None:
            return "final", ""
        reason = self._place_reason(deposit)
        if reason:
            waits = ripe_height(deposit, self._ledger.history, self._parameters) is None
            return ("confirming" if waits and not self._is_small(deposit) else "failed"), reason
        if self._ports.mempool.spender(deposit.outpoint) is not None:
            return "claim_sent", ""
        attempt = self._attempts.get(deposit.outpoint)
        return "claimable", "" if attempt is None else attempt.reason

    # ---- parts ----

    @property
    def _parameters(self) -> PegParameters:
        """Those in force for the next block."""
        return self._ledger.history.parameters

    @property
    def _age_limit(self) -> int:
        return self._ledger.csv - self._parameters.sweep_window

    def _is_small(self, deposit: CovenantDeposit) -> bool:
        return deposit.value_sats < self._parameters.min_pegin_sats

    def _place_reason(self, deposit: CovenantDeposit) -> str:
        """Why the last final block does not let a deposit be claimed; empty when it does."""
        commitment = self._ledger.history.previous_commitment
        if self._is_small(deposit):
            return f"below the minimum of {self._parameters.min_pegin_sats} sat"
        if commitment is None:
            return "nothing is committed yet"
        age = commitment.height - deposit.height
        if age > self._age_limit:
            return f"{age} blocks old, claims end at {self._age_limit}"
        required = deposit.required_depth(self._parameters)
        if age < 0 or age + self._parameters.commit_depth < required:
            return "waiting for confirmations the federation has committed to"
        return ""

    def _turn(self, deposit: CovenantDeposit) -> int | None:
        """The final block from which on this member claims; None before that is known."""
        ripe_at = ripe_height(deposit, self._ledger.history, self._parameters)
        if ripe_at is None:
            return None
        return turn_height(deposit, ripe_at, self._member, self._parameters.n)

    def _is_due(self, deposit: CovenantDeposit) -> bool:
        """Whether this member should send a claim now."""
        history = self._ledger.history
        if self._watch.deposits.get(deposit.outpoint) != deposit:
            return False
        if history.claimed(deposit.outpoint) is not None or self._place_reason(deposit):
            return False
        if not self._parent.is_active(deposit.block_hash):
            return False
        turn = self._turn(deposit)
        if turn is None or history.height < turn:
            return False
        if self._ports.mempool.spender(deposit.outpoint) is not None:
            return False
        attempt = self._attempts.get(deposit.outpoint)
        return attempt is None or attempt.at != (history.height, self._parent.tip_hash)

    def _cut_to_best_chain(self) -> bool:
        """Forget blocks that left the best chain; whether a block is left to go on from."""
        height = self._watch.height
        while height >= 0 and self._watch.hash_at(height) != self._parent.hash_at(height):
            height = height - 1 if height > self._watch.lowest else -1
        self._watch.cut_above(height)
        return height >= 0

    def _address_script(self, claim_script: bytes) -> bytes:
        for pair in self._ports.valid_scripts():
            if _is_native(pair):
                return deposit_script(pair.program, pair.script, claim_script)
        raise Unavailable("the federation's script is not in force yet")

    async def _take_scripts(self) -> None:
        """Watch for deposits to every valid fedpegscript, old and just become valid alike (C10)."""
        native = {pair: None for pair in self._ports.valid_scripts() if _is_native(pair)}
        fresh = tuple(pair for pair in native if pair not in self._pairs)
        # From here on a new registration is watched for all of them.
        self._pairs = tuple(native)
        if not fresh:
            return
        for position, claim_script in enumerate(list(self._table.all)):
            if claim_script in self._table:
                self._watch_claim(claim_script)
                self._late.add(claim_script)
            if position % SCRIPTS_PER_PAUSE == 0:
                await asyncio.sleep(0)  # each takes as many key tweaks as there are members

    def _watch_claim(self, claim_script: bytes) -> None:
        scripts = [deposit_script(p.program, p.script, claim_script) for p in self._pairs]
        self._watch.watch(claim_script, scripts)

    def _keep(self, claim_script: bytes, found: Registered) -> None:
        dropped = self._table.room_for(found.sender, busy=self._watch.busy())
        if dropped is not None:
            self._ports.store.append(DROPPED, dropped)
            self._drop(dropped)
        body = bytes((found.sender,)) + encode_registration(found.terms)
        self._ports.store.append(KEPT, body)
        self._add(claim_script, found)
        self._log_info("covenant registered", claim_script=claim_script.hex(), by=found.sender)

    def _add(self, claim_script: bytes, found: Registered) -> None:
        self._table.add(claim_script, found)
        self._watch_claim(claim_script)
        self._late.add(claim_script)

    def _drop(self, claim_script: bytes) -> None:
        self._table.forget(claim_script)
        self._watch.forget(claim_script)
        self._late.discard(claim_script)

    def _load(self, records: Sequence[tuple[int, bytes]]) -> None:
        for claim_script, found in fold_records(records, self._chain.pegged_asset).items():
            self._add(claim_script, found)

    def _forget_attempts(self) -> None:
        for outpoint in [key for key in self._attempts if key not in self._watch.deposits]:
            del self._attempts[outpoint]


def _is_native(pair: FedpegPair) -> bool:
    """Whether deposits to a script have the one form that members can spend (N4)."""
    return pair.program == p2wsh(pair.script)
