"""What final records changed: values in force, pauses, exclusions, and what explains a new batch.

A fold over final sidechain blocks, so it is the same on every branch of Bitcoin. Nothing here asks
whether operators approved a record: a final block shows that k members voted for it.

Source: peg:3.3, peg:7.3, peg:7.4, peg:P4, peg:P5, peg:P21, peg:P22, N21.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from peg.param_changes import ParamChanges
from peg.parameters import PegParameters
from peg.records import (
    CancelRecord,
    ExcludeRecord,
    HandoverRecord,
    IncludeRecord,
    OpenRecord,
    ParamRecord,
    PauseRecord,
    Record,
    ReleaseRecord,
    ReopenRecord,
    ResumeRecord,
    ReturnRecord,
)
from sidechain.errors import InvariantError
from sidechain.primitives.transaction import OutPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Pauses in force at one height, by their ends in clock units; 0 where there is none.

    Attributes:
        until: releases and payouts stand still while the clock is below this.
        deposits_until: the same for deposit addresses.
        members: who paused, in member order.
    """

    until: int = 0
    deposits_until: int = 0
    members: tuple[int, ...] = ()

    def stops(self, clock: int) -> bool:
        """Whether releases and payouts stand still at a clock."""
        return clock < self.until

    def stops_deposits(self, clock: int) -> bool:
        """Whether no deposit address may be handed out at a clock."""
        return clock < self.deposits_until


NO_PAUSE = Pause()


@dataclass(frozen=True, slots=True)
class At:
    """A record and the height of its final block."""

    record: Record
    height: int


@dataclass(slots=True)
class _Paused:
    """One member's newest PAUSE."""

    record: PauseRecord
    clock: int
    ended: bool = False


class Governance:
    """Folds the records of final blocks. One owner: the sidechain history."""

    def __init__(self, parameters: PegParameters) -> None:
        """Start before block 1 with the values of the federation file."""
        self.changes = ParamChanges(parameters)
        self.opened: dict[int, tuple[OutPoint, int]] = {}
        self.reopens: list[tuple[ReopenRecord, int]] = []
        self.returns: dict[OutPoint, tuple[ReturnRecord, int]] = {}
        self.resumed_height = 0
        self._cancels: dict[OutPoint, list[int]] = {}
        self._exclusions: dict[bytes, list[tuple[int, bool]]] = {}
        self._pauses: dict[int, _Paused] = {}
        self._all: list[At] = []

    @property
    def records(self) -> Sequence[At]:
        """All final records, oldest first."""
        return self._all

    def apply(self, height: int, clock: int, records: Sequence[Record]) -> list[bytes]:
        """Fold the records of one final block, in their order.

        Args:
            clock: clock(height).
        Returns:
            Ids of the burns that it releases whatever their size (07).
        Raises:
            InvariantError: a type that this version gives no effect.
        """
        released: list[bytes] = []
        for record in records:
            self._all.append(At(record, height))
            match record:
                case OpenRecord(lane=lane, anchor=anchor):
                    self.opened[lane] = (anchor, height)
                case PauseRecord(member=member):
                    self._pauses[member] = _Paused(record, clock)
                case ResumeRecord():
                    self._resume(height)
                case CancelRecord(anchor=anchor):
                    self._cancels.setdefault(anchor, []).append(height)
                case ExcludeRecord(burn_id=burn_id):
                    self._exclusions.setdefault(burn_id, []).append((height, True))
                case IncludeRecord(burn_id=burn_id):
                    self._exclusions.setdefault(burn_id, []).append((height, False))
                case ReleaseRecord(burn_id=burn_id):
                    released.append(burn_id)
                case ParamRecord():
                    self.changes.add(record)
                case ReturnRecord(deposit=deposit):
                    self.returns.setdefault(deposit, (record, height))
                case ReopenRecord():
                    self.reopens.append((record, height))
                case HandoverRecord():
                    raise InvariantError(f"final block {height} has a record that is not enabled")
        return released

    # ---- answers ----

    def pause_at(self, clock: int) -> Pause:
        """The pauses in force after the last block folded."""
        live = {
            member: pause.record
            for member, pause in sorted(self._pauses.items())
            if not pause.ended and clock < pause.record.until
        }
        if not live:
            return NO_PAUSE
        ends = [record.until for record in live.values()]
        deposits = [record.until for record in live.values() if record.deposits]
        return Pause(until=max(ends), deposits_until=max(deposits, default=0), members=tuple(live))

    def pause_sequence(self, member: int) -> int:
        """seq of a member's newest PAUSE; -1 before its first."""
        known = self._pauses.get(member)
        return -1 if known is None else known.record.sequence

    def pause_allowed_from(self, member: int, parameters: PegParameters) -> int:
        """Clock from which a member may pause again (peg:7.3)."""
        known = self._pauses.get(member)
        return 0 if known is None else known.clock + parameters.pause_every

    def opened_at(self, lane: int, height: int) -> OutPoint | None:
        """a_0 of a lane as of a height; None before its OPEN is final."""
        anchor, opened = self.opened.get(lane, (None, 0))
        return anchor if opened <= height else None

    def reopened_at(self, lane: int, txid: bytes, height: int) -> tuple[ReopenRecord, int] | None:
        """The newest REOPEN of a lane after a transaction, final at or below a height."""
        for record, final in reversed(self.reopens):
            if final <= height and (record.lane, record.breaking_txid) == (lane, txid):
                return record, final
        return None

    def cancelled_between(self, anchor: OutPoint, above: int, up_to: int) -> bool:
        """Whether a CANCEL names an anchor at a height in (above, up_to]."""
        return any(above < height <= up_to for height in self._cancels.get(anchor, ()))

    def is_excluded(self, burn_id: bytes, height: int) -> bool:
        """Whether a burn is out of the queue as of a height (05, 06)."""
        state = False
        for at, excluded in self._exclusions.get(burn_id, ()):
            if at <= height:
                state = excluded
        return state

    def _resume(self, height: int) -> None:
        self.resumed_height = height
        for pause in self._pauses.values():
            pause.ended = True
