"""The walk along a lane's anchors on one Bitcoin chain: where the lane is, and what it has paid.

Follows spends of the anchor from OPEN to the tip of the path. A break ends it until a final REOPEN
names an output to go on from.

Source: peg:3.6, peg:P4, peg:P5, peg:R1.
"""

from collections.abc import Collection
from dataclasses import replace

from peg.fedscript import FedScript
from peg.history import PegHistory
from peg.lanes import (
    LaneState,
    LaneStep,
    SpendKind,
    advance,
    judge_spend,
    paid_by_break,
)
from peg.limits import Burn, BurnCode
from peg.parent_path import ParentPath, PathOutput
from peg.records import ReopenRecord
from sidechain.crypto.hashes import sha256
from sidechain.primitives.transaction import OutPoint


class LaneWalk:
    """One lane on one path. One owner: the fold, which starts another one at a RESET."""

    def __init__(
        self,
        lane: int,
        history: PegHistory,
        path: ParentPath,
        script: FedScript,
        *,
        genesis: bytes,
        anchor_min_sats: int,
    ) -> None:
        """Start before OPEN.

        Args:
            script: the federation's plain fedpegscript.
            genesis: sidechain genesis hash.
        """
        self._number = lane
        self._history = history
        self._path = path
        self._program = script.program
        self._genesis = genesis
        self._anchor_min_sats = anchor_min_sats
        self.lane: LaneState | None = None
        self.steps: list[LaneStep] = []
        self.start: OutPoint | None = None
        self.revision = 0
        self.paid: set[bytes] = set()
        self.paid_hash = sha256(b"")
        self.paid_sats = self.earned_sats = 0
        self._oldest_unpaid = 0

    def follow(self, height: int) -> None:
        """Go on to the tip of the path, with the records up to a sidechain height.

        The path ends at the committed block, so a batch that no commitment covers yet moves no
        anchor, and the next one cannot open (P36).
        """
        self._begin(height)
        while self.lane is not None:
            if self.lane.broken_by is not None and not self._reopen(self.lane, height):
                return
            spend = self._path.spend(self.lane.anchor)
            if spend is None:
                return
            step = judge_spend(
                spend.transaction,
                self.lane,
                self._queue,
                genesis=self._genesis,
                fed_program=self._program,
                fed_programs=(self._program,),
                anchor_min_sats=self._anchor_min_sats,
                height=height,
            )
            self.steps.append(step)
            self._take(step)

    def unpaid(self, height: int) -> list[Burn]:
        """queue(h, paid) with what this walk has seen paid."""
        return self._queue(height, ())

    def _begin(self, height: int) -> None:
        """a_0 from OPEN; from REOPEN while the chain has that one instead (P4)."""
        opened = self._history.opened_at(self._number, height)
        if opened is None or self.steps:
            return
        start = opened
        if self._path.output(opened) is None:
            found = self._history.governance.reopened_at(self._number, opened.txid, height)
            if found is not None and self._path.output(found[0].anchor) is not None:
                start = found[0].anchor
        if start != self.start:
            self.start = start
            self.lane = LaneState(lane=self._number, index=0, anchor=start)
            self.revision += 1

    def _reopen(self, lane: LaneState, height: int) -> bool:
        """Go on after a break at the output that a REOPEN names; whether there is one (P5)."""
        broken = self.steps[-1]
        found = self._history.governance.reopened_at(lane.lane, broken.txid, height)
        if found is None:
            return False
        record, final = found
        output = self._path.output(record.anchor)
        if output is None or reopen_reason(record, output, self._program, self._anchor_min_sats):
            return False
        eligible = [
            burn
            for burn in self._history.burns
            if burn.code is BurnCode.OK and burn.height <= final
        ]
        paid = paid_by_break(broken.transaction, eligible, self.paid)
        self.steps[-1] = LaneStep(
            SpendKind.REOPENED,
            broken.transaction,
            tuple(burn for _, burn in paid),
            positions=tuple(position for position, _ in paid),
            next_anchor=record.anchor,
        )
        self._take(self.steps[-1])
        return True

    def _take(self, step: LaneStep) -> None:
        """The lane after one more step, with its paid set and sums."""
        if self.lane is None:
            return
        self.lane = advance(replace(self.lane, broken_by=None), step)
        self.revision += 1
        if not step.payouts:
            return
        self.paid.update(burn.burn_id for burn in step.payouts)
        self.paid_hash = sha256(b"".join(self.lane.paid))
        self.paid_sats += sum(burn.payout_sats for burn in step.payouts)
        self.earned_sats += sum(burn.fee_sats for burn in step.payouts)
        releases = self._history.schedule.releases
        while (
            self._oldest_unpaid < len(releases)
            and releases[self._oldest_unpaid].burn.burn_id in self.paid
        ):
            self._oldest_unpaid += 1

    def _queue(self, height: int, _: Collection[bytes]) -> list[Burn]:
        """queue(h, paid) as `judge_spend` asks for it; the paid set is the own one."""
        return self._history.schedule.queue(height, self.paid, first=self._oldest_unpaid)


def reopen_reason(
    record: ReopenRecord, output: PathOutput, fed_program: bytes, anchor_min_sats: int
) -> str:
    """Why an output of the path cannot be the anchor after a break; empty when it can (P5)."""
    parents = {outpoint.txid for outpoint in output.transaction.inputs}
    if record.anchor.txid != record.breaking_txid and record.breaking_txid not in parents:
        return "P5: not an output of the breaking transaction or of a direct child"
    return anchor_reason(output, fed_program, anchor_min_sats)


def anchor_reason(output: PathOutput, fed_program: bytes, anchor_min_sats: int) -> str:
    """Why an output cannot be an anchor at all; empty when it can."""
    if output.script != fed_program:
        return "P5: new anchor does not pay FED"
    return "" if output.value_sats >= anchor_min_sats else "P5: new anchor is below anchor_min"
