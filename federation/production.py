"""Blocks of this federation: building a proposal, judging one, taking final ones in.

The chain knows Elements' rules, the peg service its own; here they meet the limits of a federation
and the three classes of validity. Nothing here signs or sends.

Source: consensus:V1-V11, N7, N8, N9, N17, N35.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from federation.block_room import BlockRoom
from federation.consensus.effects import BuildBlock, CheckBlock
from federation.consensus.events import Verdict
from federation.consensus.votes import BlockSignature
from federation.header_signatures import signatures_in
from federation.member_sets import KnownSet, MemberSets
from federation.members import MemberSet, witness_limit_bytes
from sidechain.chain import Chain
from sidechain.crypto.keys import compact_to_der
from sidechain.errors import Invalid, InvalidBlock, Unavailable
from sidechain.primitives.block import NULL_ENTRY, Block, BlockHeader, ParamEntry
from sidechain.primitives.encoding import Reader
from sidechain.primitives.transaction import Transaction
from sidechain.script.block_signature import signblock_witness
from sidechain.validation.block_check import check_witness_commitment, commitment_index
from sidechain.validation.dynafed import full_current

BLOCK_MAX_BYTES: Final = 4_000_000
BLOCK_MAX_WEIGHT_WU: Final = 4_000_000
COINBASE_RESERVE_WU: Final = 20_000
"""Weight kept free in a template for header, entries and coinbase outputs."""
FUTURE_MAX_S: Final = 7_200
BUILD_PATIENCE_MS: Final = 5_000
BUILD_PAUSE_MS: Final = 100
"""How often a proposer that has nothing to propose yet looks again."""
DECODED_BLOCKS_MAX: Final = 4
DISTRUSTED_MAX: Final = 10_000


class PegPort(Protocol):
    """What block production asks of the peg service."""

    def plan_coinbase(self, height: int, *, minimal: bool) -> Sequence[bytes] | None:
        """Scripts of the zero-value coinbase outputs; None: there is no view of Bitcoin yet."""

    def is_due(self) -> bool:
        """Whether a newer commitment or a record could go into the next block (N17)."""

    def carries_work(self, block: Block) -> bool:
        """Whether a block holds a record or a newer commitment than the last final one (N17)."""

    def claim_is_ripe(self, tx: Transaction) -> bool:
        """Whether a transaction's claims can be in a block now (peg:C2, peg:C4, peg:C6, peg:C7)."""

    def check_objective(self, block: Block) -> None:
        """Raise InvalidBlock for what N7 calls objective."""

    async def check_eventual_and_policy(self, block: Block) -> tuple[bool, bool, str]:
        """Answer (eventual, policy, reason) by the own view now."""


class ChangePort(Protocol):
    """What block production asks about the member change of this operator."""

    def to_propose(self) -> ParamEntry | None:
        """What an own block built now votes for (C83)."""

    def is_approved(self, entry: ParamEntry) -> bool:
        """Whether the operator approved exactly this entry (V10)."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with its reason, fit for the log."""

    verdict: Verdict
    reason: str


class BlockProduction:
    """Builds, judges and completes the blocks of one federation.

    Args:
        sets: the member sets whose scripts this process holds.
        first_epoch_blocks: L; blocks up to this height count as due (N35).
        wall_clock_s: seconds since 1970.
        propose_timer_ms: of round 0; what a proposal holds can be judged in a part of it.
        now_ms: the monotonic clock, to measure judging; without it proposals are as large as
            blocks may be.
        change: the member change that the operator approved; None: no change ever is.
    """

    def __init__(
        self,
        *,
        chain: Chain,
        peg: PegPort,
        sets: MemberSets,
        first_epoch_blocks: int,
        future_limit_s: int,
        wall_clock_s: Callable[[], int],
        propose_timer_ms: int = 3_000,
        now_ms: Callable[[], int] | None = None,
        change: ChangePort | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._chain = chain
        self._peg = peg
        self._sets = sets
        self._change = change
        self._first_epoch_blocks = first_epoch_blocks
        self._future_limit_s = future_limit_s
        self._wall_clock_s = wall_clock_s
        self._now_ms = now_ms
        self._room = BlockRoom(propose_timer_ms) if now_ms else None
        self._pause = pause
        self._objective: dict[bytes, str] = {}
        """Reasons by block hash, "" for valid; of the height in progress only."""
        self._decoded: OrderedDict[bytes, tuple[bytes, Block]] = OrderedDict()
        """Blocks whose bytes were parsed at this height, by hash; the newest few."""
        self._built: set[bytes] = set()
        self._distrusted: set[bytes] = set()

    # -- parameters of the height

    def member_set(self) -> MemberSet:
        """M_h of the next block.

        Raises:
            InvalidBlock: the chain demands a signblockscript whose keys this process lacks.
        Source: consensus:C80.
        """
        return self._in_force().members

    def member_set_at(self, height: int) -> MemberSet:
        """M of a height up to the next block's; the next block's for any above.

        Raises:
            InvalidBlock: as `member_set`.
        """
        if height > self._chain.tip_height:
            return self.member_set()
        return self._sets.of(self._entry_at(height).signblockscript).members

    def member_set_of(self, header: BlockHeader) -> MemberSet:
        """The set that a header names.

        Raises:
            InvalidBlock: as `member_set`.
        """
        return self._sets.of(header.current.signblockscript).members

    def params_root_at(self, height: int) -> bytes:
        """D of a height up to the next block's; the next block's for any above."""
        return self._entry_at(min(height, self._chain.tip_height + 1)).root()

    def _entry_at(self, height: int) -> ParamEntry:
        return full_current(self._chain, height - 1, self._chain.params)

    def _in_force(self) -> KnownSet:
        return self._sets.of(self._chain.full_current().signblockscript)

    def params_root(self) -> bytes:
        """D_h: root of the full entry in force for the next block."""
        return self._chain.full_current().root()

    def begin_height(self) -> None:
        """Forget verdicts of the height before."""
        self._objective.clear()
        self._decoded.clear()
        self._built.clear()

    # -- building

    def is_work_due(self) -> bool:
        """C20(a): something to put into the next block, or the first epoch still runs."""
        return (
            self._chain.tip_height + 1 <= self._first_epoch_blocks
            or next(self._ready(self._chain.mempool.each_transaction()), None) is not None
            or self._peg.is_due()
            or not self._proposed().is_null
        )

    def is_empty(self, block: Block) -> bool:
        """Whether a block holds no work by N17.

        Raises:
            Invalid: its coinbase says nothing that can be read.
        """
        return (
            len(block.transactions) == 1
            and block.header.proposed.kind == 0
            and not self._peg.carries_work(block)
            and block.header.height > self._first_epoch_blocks
        )

    async def build(self, order: BuildBlock) -> Block | None:
        """A fresh proposal on the tip, None when there is nothing to propose in time (C21, N9)."""
        waited_ms = 0
        while waited_ms <= BUILD_PATIENCE_MS:
            if order.height != self._chain.tip_height + 1:
                return None
            block = self._build_now(order)
            if block is not None:
                self._remember(block.serialize(), block)
                self._built.add(block.hash)
                return block
            await self._pause(BUILD_PAUSE_MS / 1_000)
            waited_ms += BUILD_PAUSE_MS
        return None

    def _build_now(self, order: BuildBlock) -> Block | None:
        if not (order.allow_empty or order.minimal or self.is_work_due()):
            return None
        time_s = max(self._chain.median_time_s + 1, self._wall_clock_s())
        if not self._is_timely(time_s):
            return None
        scripts = self._peg.plan_coinbase(order.height, minimal=order.minimal)
        if scripts is None:
            return None
        return self._chain.build_template(
            time_s=time_s,
            coinbase_scripts=scripts,
            transactions=() if order.minimal else self._transactions(order.round),
            proposed=NULL_ENTRY if order.minimal else self._proposed(),
        )

    def _proposed(self) -> ParamEntry:
        """The parameters this member votes for in its own block now (C83)."""
        entry = self._change.to_propose() if self._change is not None else None
        return NULL_ENTRY if entry is None else entry

    def _transactions(self, round_number: int) -> list[Transaction]:
        most_wu = BLOCK_MAX_WEIGHT_WU - COINBASE_RESERVE_WU - 4 * self._witness_limit()
        if self._room:
            most_wu = min(most_wu, self._room.weight_wu(round_number))
        return list(self._ready(self._chain.select_transactions(most_wu)))

    def _ready(self, transactions: Iterable[Transaction]) -> Iterator[Transaction]:
        """Those of some transactions, parents before children, that may go into a block now."""
        left_out: set[bytes] = set()
        for tx in transactions:
            is_child = left_out and any(txin.prevout.txid in left_out for txin in tx.inputs)
            if is_child or tx.txid in self._distrusted or not self._peg.claim_is_ripe(tx):
                left_out.add(tx.txid)
            else:
                yield tx

    def distrust(self, block_hash: bytes) -> int:
        """Leave the transactions of an own proposal that was judged invalid out of later ones.

        That cannot be: the mempool follows the same rules. Should it be all the same, the chain
        has to go on.

        Returns:
            How many there are; 0 when the block was not built here.
        """
        if block_hash not in self._built:
            return 0
        data_and_block = self._decoded.get(block_hash)
        found = data_and_block[1].transactions[1:] if data_and_block is not None else ()
        if len(self._distrusted) < DISTRUSTED_MAX:
            self._distrusted.update(tx.txid for tx in found)
        return len(found)

    # -- judging

    def decode_proposal(self, data: bytes, block_hash: bytes) -> Block:
        """The block that bytes stand for, if they are bytes of that block at all (V1, V6).

        Raises:
            Invalid: these bytes are wrong, which says nothing about the block.
        """
        known = self._decoded.get(block_hash)
        if known is not None and known[0] == data:
            return known[1]
        if len(data) > BLOCK_MAX_BYTES:
            raise InvalidBlock("bad-blk-length")
        # The header alone tells most wrong bytes, before megabytes are parsed.
        header = BlockHeader.read(Reader(data), self._chain.params)
        if header.hash != block_hash or header.signblock_witness:
            raise InvalidBlock("not the block named")
        block = Block.decode(data, self._chain.params)
        check_committed(block)
        self._remember(data, block)
        return block

    def decode_final(self, data: bytes) -> Block:
        """A signed block from its bytes, every one of which its hash commits to (V6).

        The signatures are not checked.

        Raises:
            Invalid: these bytes are wrong.
        """
        block = Block.decode(data, self._chain.params)
        check_committed(block)
        return block

    def _remember(self, data: bytes, block: Block) -> None:
        self._decoded[block.hash] = (data, block)
        while len(self._decoded) > DECODED_BLOCKS_MAX:
            self._decoded.popitem(last=False)

    async def judge(self, order: CheckBlock) -> Judgement:
        """Judge a proposal of the height in progress now, by N8's classes.

        Raises:
            Invalid: the bytes are not those that `decode_proposal` passed.
        """
        block = self.decode_proposal(order.data, order.block_hash)
        reason = self.objective_fault(block)
        if reason:
            return Judgement(Verdict.INVALID, reason)
        try:
            eventual, policy, reason = await self._peg.check_eventual_and_policy(block)
        except Unavailable as error:
            eventual, policy, reason = False, True, str(error)
        if not self._is_timely(block.header.time):
            eventual, reason = False, "block time is ahead of the clock (V9)"
        proposed = block.header.proposed
        if not proposed.is_null and not (self._change and self._change.is_approved(proposed)):
            policy, reason = False, "parameters this operator did not approve (V10)"
        if not policy:
            return Judgement(Verdict.REFUSED, reason)
        return Judgement(Verdict.ACCEPTABLE if eventual else Verdict.NOT_YET, reason)

    def objective_fault(self, block: Block) -> str:
        """Why a block on the tip is objectively invalid, "" when it is not (V1-V5)."""
        known = self._objective.get(block.hash)
        if known is None:
            begun_ms = self._now_ms() if self._now_ms else 0
            known = self._objective[block.hash] = self._objective_fault(block)
            if self._now_ms and self._room:
                self._room.judged(block.weight_wu, self._now_ms() - begun_ms)
        return known

    def _objective_fault(self, block: Block) -> str:
        limit = self._witness_limit()
        try:
            # The empty witness is one byte; the largest takes its place, and counts four times.
            if block.weight_wu + 4 * (limit - 1) > BLOCK_MAX_WEIGHT_WU:
                raise InvalidBlock("bad-blk-weight")
            if limit > block.header.current.witness_limit:
                raise InvalidBlock("invalid-dyna-fed", "witness limit too small")
            # "time-too-new" reads a clock, so it is V9's to judge, not objective (N7).
            self._chain.check_proposal(block, now_s=block.header.time)
            if commitment_index(block.transactions[0]) is None:
                raise InvalidBlock("bad-witness-merkle-match", "no witness commitment (V5)")
            self._peg.check_objective(block)
        except Invalid as fault:
            return str(fault)
        return ""

    def _is_timely(self, time_s: int) -> bool:
        now_s = self._wall_clock_s()
        latest_s = max(now_s + self._future_limit_s, self._chain.median_time_s + 1)
        return time_s <= min(latest_s, now_s + FUTURE_MAX_S)

    def _witness_limit(self) -> int:
        members = self._in_force().members
        return witness_limit_bytes(members.n, members.k)

    # -- final blocks

    def complete(self, data: bytes, signatures: Sequence[BlockSignature]) -> Block:
        """The decided block with its signblock witness (C37).

        Args:
            signatures: k of them, members ascending.
        """
        members = self.member_set()
        keys = [member.block_key for member in members.members]
        by_key = {keys[s.member]: compact_to_der(s.signature) for s in signatures}
        block = self.decode_proposal(data, signatures[0].block_hash)
        return block.with_signblock_witness(signblock_witness(members.k, keys, by_key))

    def signatures_of(self, header: BlockHeader) -> tuple[BlockSignature, ...]:
        """Who signed a header, with the signatures in 64-byte form, members ascending.

        Raises:
            InvalidBlock: it names a set whose script this process lacks.
        """
        return signatures_in(header, self.member_set_of(header))


def check_committed(block: Block) -> None:
    """Refuse a block whose header and coinbase do not commit to all its transactions' bytes.

    Raises:
        Invalid: with Elements' reject code.
    """
    if not block.transactions or not block.transactions[0].is_coinbase:
        raise InvalidBlock("bad-cb-missing")
    root, mutated = block.transaction_root()
    if root != block.header.merkle_root or mutated:
        raise InvalidBlock("bad-txns-duplicate" if mutated else "bad-txnmrklroot")
    check_witness_commitment(block)
