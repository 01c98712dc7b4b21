"""A member's part in records: which it proposes, and which it votes for.

A member votes for a block with a record only if its own operator approved exactly these bytes, the
record has an effect, and the own Bitcoin node shows what it rests on. PAUSE needs its signature.

Source: peg:3.3, peg:P1, peg:P4, peg:P5, peg:C9, N7, N17, N23.
"""

from collections.abc import Callable
from typing import Protocol

from peg.approvals import Approvals
from peg.bitcoind import BitcoindError, UnspentOutput
from peg.commitments import (
    PASS,
    RECORDS_BYTES_MAX,
    RECORDS_MAX,
    Commitment,
    Verdict,
    check_open,
    disliked,
    not_yet,
)
from peg.fedscript import FedScript
from peg.ledger import PegLedger
from peg.parent_view import BEHIND_ITS_NODE, ParentView
from peg.pauses import PausesHeard
from peg.record_rules import RecordContext, RecordView, check_records, idle_reason
from peg.records import (
    OpenRecord,
    PauseRecord,
    Record,
    ReopenRecord,
    ReturnRecord,
    encode_record,
    record_script,
)
from peg.walk import anchor_reason, reopen_reason
from sidechain.errors import InvalidBlock
from sidechain.primitives.transaction import OutPoint


class OutputNode(Protocol):
    """What judging records asks of the member's own Bitcoin node."""

    async def tx_out(
        self, outpoint: OutPoint, include_mempool: bool = True
    ) -> UnspentOutput | None:
        """An unspent output; None when spent or unknown."""
        ...


class RecordVotes:
    """Judges and proposes records. One owner: the member's voting."""

    def __init__(
        self,
        *,
        script: FedScript,
        client: OutputNode,
        parent: ParentView,
        ledger: PegLedger,
        approvals: Approvals,
        pauses: PausesHeard,
        context: Callable[[int, Commitment], RecordContext],
        has_trial: Callable[[OutPoint], bool],
    ) -> None:
        """Nothing is ripe before `refresh`.

        Args:
            script: the federation's plain fedpegscript.
            context: of a block of a height with a commitment.
            has_trial: whether this member signed a trial spend of an output (P2).
        """
        self._script = script
        self._client = client
        self._parent = parent
        self._ledger = ledger
        self._approvals = approvals
        self._pauses = pauses
        self._context = context
        self._has_trial = has_trial
        self._ripe: tuple[Record, ...] = ()
        self._ripe_at = -1
        self._reasons: dict[bytes, str] = {}

    async def refresh(self) -> None:
        """Look which approved records could go into a block now.

        Raises:
            Unavailable, BitcoindError: the node did not answer; old answers stay.
        """
        ripe: list[Record] = []
        reasons: dict[bytes, str] = {}
        commitment = self._ledger.history.previous_commitment
        for record in self._approvals.records():
            if isinstance(record, PauseRecord):
                continue
            reason = self.idle_reason(record) or self.trial_reason(record)
            reason = reason or await self.facts_reason(record, commitment)
            reasons[encode_record(record)] = reason
            if not reason:
                ripe.append(record)
        self._reasons = reasons
        self._ripe = tuple(ripe)
        self._ripe_at = self._ledger.history.height

    async def look_again(self) -> bool:
        """`refresh` after a new block; whether something became ripe.

        Raises:
            Unavailable, BitcoindError: the node did not answer.
        """
        if self._ripe_at == self._ledger.history.height or not self._approvals.records():
            return False
        before = self._ripe
        await self.refresh()
        return self._ripe != before

    def to_propose(self, height: int, commitment: Commitment, *, minimal: bool) -> list[Record]:
        """PAUSE first, then approved records that are ripe, in byte order, as many as fit (N17).

        Args:
            minimal: PAUSE only (N9).
        """
        pauses: list[Record] = list(self._pauses.records)
        ripe = [] if minimal else [r for r in self._ripe if not self.idle_reason(r)]
        ripe = [record for record in ripe if self._approvals.has(encode_record(record))]
        context = self._context(height, commitment)
        chosen: list[Record] = []
        size_bytes = 0
        for record in [*pauses, *sorted(ripe, key=encode_record)]:
            size_bytes += len(record_script(record))
            if len(chosen) == RECORDS_MAX or size_bytes > RECORDS_BYTES_MAX:
                break
            try:
                check_records([*chosen, record], self._ledger.history.governance, context)
            except InvalidBlock:
                size_bytes -= len(record_script(record))
                continue
            chosen.append(record)
        return chosen

    async def judge(self, record: Record, commitment: Commitment) -> Verdict:
        """Whether this member votes for a record of a block, now.

        Raises:
            Unavailable, BitcoindError: the node did not answer.
        """
        if isinstance(record, PauseRecord):
            return PASS
        trial = self.trial_reason(record)
        if trial:
            return disliked(trial)
        reason = await self.facts_reason(record, commitment)
        if reason:
            return not_yet(reason)
        idle = self.idle_reason(record)
        if idle:
            return disliked(f"record has no effect: {idle}")
        approved = self._approvals.has(encode_record(record))
        return PASS if approved else disliked("own operator has not approved this record")

    def waiting_reason(self, record: Record) -> str:
        """Why an approved record is in no block yet, as known since `refresh`."""
        return self.idle_reason(record) or self._reasons.get(
            encode_record(record), "the own Bitcoin node has not been asked yet"
        )

    def idle_reason(self, record: Record) -> str:
        """Why a record would have no effect in the next block; empty when it would have one."""
        view = RecordView(history=self._ledger.history, view=self._ledger.view, script=self._script)
        return idle_reason(record, view)

    def trial_reason(self, record: Record) -> str:
        """Why this member never votes for an anchor: a spend of it is signed and may leak (P2)."""
        if isinstance(record, OpenRecord | ReopenRecord) and self._has_trial(record.anchor):
            return "P2: this member signed a trial spend of this anchor, which would break the lane"
        return ""

    async def facts_reason(self, record: Record, commitment: Commitment | None) -> str:
        """What Bitcoin does not show yet of what a record rests on; empty when it shows it.

        Raises:
            Unavailable, BitcoindError: the node did not answer.
        """
        match record:
            case OpenRecord():
                return await self._open_reason(record)
            case ReopenRecord():
                return await self._reopen_reason(record)
            case ReturnRecord(deposit=deposit):
                return await self._return_reason(deposit, commitment)
            case _:
                return ""

    async def _open_reason(self, record: OpenRecord) -> str:
        output = await self._client.tx_out(record.anchor, False)
        return check_open(
            record,
            fed_program=self._script.program,
            output=None if output is None else (output.value_sats, output.script),
            confirmations=0 if output is None else output.confirmations,
            parameters=self._ledger.history.parameters,
        )

    async def _return_reason(self, deposit: OutPoint, commitment: Commitment | None) -> str:
        """C9: the deposit is there, and so old that no reorganisation makes it claimable."""
        parameters = self._ledger.history.parameters
        output = await self._client.tx_out(deposit, False)
        if output is None or commitment is None:
            return "C9: deposit is unknown or spent"
        height = self._parent.height_at_depth(output.confirmations, output.best_block_hash)
        if height is None:
            return BEHIND_ITS_NODE
        least = self._script.csv - parameters.sweep_window + parameters.reset_depth
        if commitment.height - height <= least:
            return f"C9: deposit is not older than {least} blocks at the committed block"
        return ""

    async def _reopen_reason(self, record: ReopenRecord) -> str:
        """P5, or P4 when the record names the funding of the first anchor."""
        history, path = self._ledger.history, self._ledger.path
        if path is None or not self._ledger.is_current:
            return "own peg state is behind"
        output = path.output(record.anchor)
        unspent = await self._client.tx_out(record.anchor, False)
        if output is None or unspent is None:
            return "P5: new anchor is unknown or spent on the committed chain"
        parameters = history.parameters
        if unspent.confirmations < parameters.anchor_depth:
            return "P5: new anchor is too shallow"
        first = history.opened_at(record.lane, history.height)
        if first is None or record.breaking_txid != first.txid:
            return reopen_reason(record, output, self._script.program, parameters.anchor_min_sats)
        if path.output(first) is not None:
            return "P4: the first anchor is on the committed chain"
        spent = await self._funding_input(record.lane, first)
        if spent is None:
            return "P4: the old funding transaction is not known to the own Bitcoin node"
        if spent not in output.transaction.inputs:
            return "P4: new funding does not spend the first input of the old one"
        return anchor_reason(output, self._script.program, parameters.anchor_min_sats)

    async def _funding_input(self, lane: int, anchor: OutPoint) -> OutPoint | None:
        """The first input of the transaction that funded a_0, read from its orphaned block.

        Searched downwards from the block that was committed when OPEN became final.
        """
        history = self._ledger.history
        _, opened = history.governance.opened[lane]
        block_hash = history.totals(opened).commitment.block_hash
        for _ in range(history.parameters.csv):
            try:
                block = await self._ledger.blocks.get(block_hash)
            except BitcoindError:
                return None
            for transaction in block.transactions:
                if transaction.txid == anchor.txid:
                    return transaction.inputs[0]
            block_hash = block.header.prev_hash
        return None
