"""Read-only answers of the peg for RPC, from the chains and the member's own Bitcoin view.

Source: peg:12, peg:P3, N4.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from peg.bounds import bounds_json, loss_bounds
from peg.broadcasts import Broadcasts
from peg.fedscript import FedScript
from peg.lanes import paid_by_break
from peg.ledger import PegLedger
from peg.limits import Burn, BurnCode
from peg.parameters import (
    InsaneParameters,
    PegParameters,
    break_even_rate_sats_per_kvb,
    check_fedpeg_program,
    coin_count_max,
)
from peg.parent_view import ParentView
from peg.receipts import BurnFacts, Pace, Payment, payment_of
from peg.record_texts import record_json
from peg.records import Record, ReopenRecord
from peg.reserves import Halt
from peg.state import LANE, PegView
from peg.status import (
    audit_json,
    burn_json,
    burn_text,
    cap_rate_sats,
    commitment_json,
    deposit_json,
    lane_json,
    parameters_json,
    parse_outpoint,
)
from sidechain.errors import Unavailable
from sidechain.params import ChainParams

PEGOUTS_SHOWN_MAX = 1_000
RECORDS_SHOWN = 20


class PegReports:
    """Builds the replies of the peg's RPC methods. Changes nothing."""

    def __init__(
        self,
        *,
        chain: ChainParams,
        script: FedScript,
        ledger: PegLedger,
        parent: ParentView,
        broadcasts: Broadcasts,
        is_syncing: Callable[[], bool],
        may_change_script: Callable[[], bool],
        valid_programs: Callable[[], Iterable[bytes]],
    ) -> None:
        """Read from these parts whenever asked."""
        self._is_syncing = is_syncing
        self._may_change_script = may_change_script
        self._valid_programs = valid_programs
        self._chain = chain
        self._script = script
        self._ledger = ledger
        self._parent = parent
        self._broadcasts = broadcasts

    @property
    def _parameters(self) -> PegParameters:
        """The values in force for the next block."""
        return self._ledger.history.parameters

    def closed_reason(self) -> str:
        """Why no deposit address may be handed out now; empty when it may.

        Source: peg:4 ("Addresses"), peg:P3, peg:S11, N4.
        """
        history = self._ledger.history
        if history.height == 0:
            return "block 1 is not final yet"
        if LANE not in history.lanes_opened:
            return "the federation's anchor is not opened yet"
        if history.height < self._chain.dynamic_epoch_length - 1:
            return "the first epoch is not over yet"
        if self._is_syncing():
            return "this member is catching up with the federation's chain"
        if self._may_change_script():
            return "the federation's script may change at the end of this epoch"
        try:
            for program in (self._script.program, *self._valid_programs()):
                check_fedpeg_program(program)
        except InsaneParameters as error:
            return str(error)
        tip = history.tip
        if tip is not None and tip.pause.stops_deposits(tip.clock):
            return f"deposits are paused until clock {tip.pause.deposits_until}"
        return ""

    def info(self) -> dict[str, Any]:
        """Committed Bitcoin block, limits, whether deposits are open, lane, halts."""
        reason = self.closed_reason()
        return {
            **commitment_json(self._ledger.history.previous_commitment),
            **parameters_json(self._parameters, self._script),
            "deposits_open": not reason,
            "reason": reason or None,
            "claim_before_height": self._claim_before_height(),
            "reset_pending": self._reset_pending(),
            "parent_height": self._parent.tip_height,
            **lane_json(self._ledger.view),
            "records": self.records(),
            "pending_parameters": [
                record_json(change, self._parameters)
                for change in self._ledger.history.governance.changes.pending
                if change.active_from > self._ledger.history.height
            ],
            "warnings": self.warnings(),
        }

    def _claim_before_height(self) -> int:
        """Blocks below this height may hold claims of deposits to the script in force now.

        A new script comes at the end of this epoch at the earliest. Source: elements/peg.md 4.
        """
        length, height = self._chain.dynamic_epoch_length, self._ledger.history.height + 1
        return height - height % length + self._chain.total_valid_epochs * length

    def pegout(self, text: str) -> dict[str, Any] | None:
        """One burn by txid:vout; None when no final block has it.

        Raises:
            InvalidEncoding: not txid:vout.
        """
        burn = self._ledger.history.burn(parse_outpoint(text).serialize())
        return None if burn is None else self._burn(burn)

    def pegouts(self) -> list[dict[str, Any]]:
        """The newest burns, oldest first."""
        return [self._burn(burn) for burn in self._ledger.history.burns[-PEGOUTS_SHOWN_MAX:]]

    def deposit(self, text: str) -> dict[str, Any]:
        """A deposit by txid:vout of Bitcoin.

        Raises:
            InvalidEncoding: not txid:vout.
        """
        outpoint = parse_outpoint(text)
        return deposit_json(outpoint, self._ledger.history.claimed(outpoint))

    def audit(self) -> dict[str, Any]:
        """The reserves audit at the last height the state has reached.

        Raises:
            Unavailable: no state yet.
        """
        view = self._ledger.view
        if view is None:
            raise Unavailable("the peg has not read the chains yet")
        report = audit_json(view, self._parameters, self._script)
        return {**report, "is_current": self._ledger.is_current}

    def bounds(self, clock_units: Sequence[int] = ()) -> dict[str, Any]:
        """The most that can be lost, from the values in force and the chains as they stand."""
        history, view = self._ledger.history, self._ledger.view
        tip = history.tip
        backing_sats = 0 if tip is None else tip.claimed_sats - tip.feeburn_sats
        queue = view.queue if view is not None else ()
        bounds = loss_bounds(
            self._parameters,
            outstanding_sats=backing_sats - history.schedule.released_sats,
            reserve_sats=None if view is None else view.book.reserve_sats,
            unpaid_sats=sum(burn.amount_sats for burn in queue),
            clock_units=clock_units,
        )
        return {"height": history.height, "clock": history.clock, **bounds_json(bounds)}

    def records(self) -> list[dict[str, Any]]:
        """The newest final records, oldest first."""
        found = self._ledger.history.governance.records[-RECORDS_SHOWN:]
        return [{"height": at.height, **record_json(at.record, self._parameters)} for at in found]

    def paid_by_break(self, record: Record) -> list[dict[str, Any]]:
        """The burns that a REOPEN takes as paid; operators review them before they approve (P5)."""
        view = self._ledger.view
        step = view.steps[-1] if view is not None and view.steps else None
        if view is None or view.lane is None or step is None:
            return []
        if not isinstance(record, ReopenRecord) or record.breaking_txid != step.txid:
            return []
        eligible = [b for b in self._ledger.history.burns if b.code is BurnCode.OK]
        return [
            {
                "vout": position,
                "burn": burn_text(burn.burn_id),
                "payout_sats": burn.payout_sats,
            }
            for position, burn in paid_by_break(step.transaction, eligible, view.lane.paid)
        ]

    def warnings(self) -> list[str]:
        """What operators should act on before it stops anything (S9, S13, P24, P25)."""
        view, p = self._ledger.view, self._parameters
        if view is None:
            return []
        found: list[str] = []
        coins, most = len(view.coins), coin_count_max(p, self._script)
        if 2 * coins > most:
            found.append(f"S9: {coins} coins, {most} can be swept in time")
        even = break_even_rate_sats_per_kvb(p, self._script)
        if view.totals.rate_sats_per_kvb > even:
            found.append(f"S13: fees are above {even} sat/kvB, each peg-out costs the pool")
        forced = view.open_batch.versions[-1:] if view.open_batch is not None else ()
        if any(version.forced_sats for version in forced):
            found.append("P24: the open batch pays fees that the pool does not hold")
        if self._blocks_a_sweep(view):
            found.append("P12: payouts stand still and a coin expires: CANCEL the open batch")
        return found

    def _blocks_a_sweep(self, view: PegView) -> bool:
        """Whether a batch that may not be signed now keeps an expiring coin from being swept."""
        batch, tip = view.open_batch, view.totals.commitment.height
        if batch is None or not batch.payouts:
            return False
        stopped = view.totals.is_paused or bool(set(view.halts) - {Halt.COIN_AGE})
        window = self._parameters.sweep_window
        return stopped and any(coin.blocks_left(tip) <= window for coin in view.coins)

    def _burn(self, burn: Burn) -> dict[str, Any]:
        history, view = self._ledger.history, self._ledger.view
        tip = history.tip
        batch = view.open_batch if view is not None else None
        paid_here = batch is not None and any(b.burn_id == burn.burn_id for b in batch.payouts)
        facts = BurnFacts(
            burn=burn,
            place=history.schedule.place(burn.burn_id),
            batch=batch if paid_here else None,
            payment=self._payment(burn, view),
            idle=view.idle if view is not None else None,
            halts=view.halts if view is not None else (),
            reset_pending=self._reset_pending(),
            paused_until=tip.pause.until if tip is not None and tip.is_paused else 0,
        )
        return burn_json(
            facts,
            self._parameters,
            self._chain.parent_prefixes,
            self._pace(),
        )

    def _pace(self) -> Pace:
        history = self._ledger.history
        tip = history.tip
        backing_sats = 0 if tip is None else tip.claimed_sats - tip.feeburn_sats
        return Pace(
            clock=history.clock,
            cap_sats=cap_rate_sats(self._parameters, backing_sats - history.schedule.released_sats),
            rate_sats_per_kvb=0 if tip is None else tip.rate_sats_per_kvb,
            recent_rates=history.recent_rates,
        )

    def _payment(self, burn: Burn, view: PegView | None) -> Payment | None:
        """The payment on the committed chain, or a version of the open batch already mined."""
        if view is None:
            return None
        committed = payment_of(burn.burn_id, view.steps)
        if committed is not None:
            txid, vout = committed
            return Payment(txid=txid, vout=vout, depth=self._depth(txid), committed=True)
        batch = view.open_batch
        state = None if batch is None else self._broadcasts.state(batch.anchor)
        if batch is None or state is None or state.confirmations == 0:
            return None
        for position, paid in enumerate(batch.payouts):
            if paid.burn_id == burn.burn_id:
                return Payment(
                    txid=state.txid, vout=position + 2, depth=state.confirmations, committed=False
                )
        return None

    def _depth(self, txid: bytes) -> int:
        """Confirmations of a transaction of the walk on the own best chain."""
        path, view = self._ledger.path, self._ledger.view
        if path is None or view is None:
            return 0
        for step in reversed(view.steps):
            if step.txid == txid:
                spend = path.spend(step.transaction.inputs[0])
                block_hash = None if spend is None else path.hash_at(spend.height)
                return 0 if block_hash is None else self._parent.depth(block_hash)
        return 0

    def _reset_pending(self) -> bool:
        previous = self._ledger.history.previous_commitment
        if previous is None or self._parent.is_empty:
            return False
        return not self._parent.is_active(previous.block_hash)
