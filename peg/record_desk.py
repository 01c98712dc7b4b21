"""The operator's desk of one member: approvals, the own PAUSE, and records that others send.

Source: peg:3.3, peg:7.3, N15, N23.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from peg.approvals import BLOCK_HASH_BYTES, Approval, Approvals
from peg.commitments import Commitment
from peg.history import PegHistory
from peg.param_changes import param_names
from peg.pauses import PausesHeard
from peg.ports import EventLog, PegSetup
from peg.record_rules import RecordContext, pause_end, pause_reason
from peg.record_texts import approval_json, pause_json
from peg.record_votes import RecordVotes
from peg.records import (
    OpenRecord,
    ParamRecord,
    PauseRecord,
    Record,
    ResumeRecord,
    ReturnRecord,
    decode_record,
    encode_record,
)
from peg.returns import read_details
from peg.sessions import BatchSigner
from sidechain.crypto.hashes import sha256
from sidechain.errors import InvalidEncoding

KIND_RECORD = 18
BLOCKS_TO_APPROVE = 10
"""Blocks left between planning a change and the last block it may be in."""


class RecordDesk:
    """Takes the operator's words and others' PAUSE. One owner: the service."""

    def __init__(
        self,
        *,
        setup: PegSetup,
        signer: BatchSigner,
        log: EventLog,
        history: PegHistory,
        approvals: Approvals,
        votes: RecordVotes,
        pauses: PausesHeard,
        context: Callable[[int, Commitment], RecordContext],
        broadcast: Callable[[int, bytes], None],
    ) -> None:
        """Nothing is read or sent yet.

        Args:
            context: what records of a block are judged by.
            broadcast: sends a frame of a kind with this body to all members, signed.
        """
        self._setup = setup
        self._signer = signer
        self._log = log
        self._history = history
        self._approvals = approvals
        self._votes = votes
        self._pauses = pauses
        self._make_context = context
        self._broadcast = broadcast
        self._told_height = -1

    @property
    def is_pause_heard(self) -> bool:
        """Whether a valid PAUSE is on its way into a block (R7)."""
        return bool(self._pauses.records)

    # ---- the operator ----

    def approve(self, data: bytes, details: Mapping[str, Any] | None = None) -> Approval:
        """Remember the operator's approval of a record, or of a RESET to a block hash.

        Args:
            details: what a RETURN record only hashes.
        Raises:
            InvalidEncoding: neither a record nor 32 bytes, or a record that would have no effect.
        """
        kept: Mapping[str, Any] = {}
        if len(data) != BLOCK_HASH_BYTES:
            record = decode_record(data)
            if isinstance(record, PauseRecord):
                raise InvalidEncoding("record", "PAUSE needs no approval: a member signs its own")
            if isinstance(record, OpenRecord) and self._is_open(record):
                # A founding goes on at the other members while the record becomes final.
                return Approval(
                    name=sha256(data).hex(), data=data, record=record, height=self._history.height
                )
            reason = self._votes.idle_reason(record)
            if reason:
                raise InvalidEncoding("record", f"would have no effect: {reason}")
            trial = self._votes.trial_reason(record)
            if trial:
                raise InvalidEncoding("record", trial)
            if isinstance(record, ReturnRecord):
                genesis = self._setup.chain.genesis_hash
                program = self._setup.script.program
                kept = read_details(record, details or {}, genesis, program).to_json()
        name = self._approvals.approve(data, kept)
        approval = self._approvals.find(name)
        if approval is None:
            raise InvalidEncoding("record", "approval cannot be read back")
        self._log.info("record approved", approval=name)
        return approval

    def revoke(self, name: str) -> bool:
        """Take an approval back; whether there was one that is not final yet."""
        revoked = self._approvals.revoke(name)
        if revoked:
            self._log.info("record approval revoked", approval=name)
        return revoked

    def approvals(self) -> list[dict[str, Any]]:
        """Approvals in force as JSON, each with what its record waits for."""
        return [self.describe(approval) for approval in self._approvals.all()]

    def describe(self, approval: Approval) -> dict[str, Any]:
        """One approval as JSON."""
        waits = "" if approval.record is None else self._votes.waiting_reason(approval.record)
        return approval_json(approval, self._history.parameters, waits)

    def plan_parameter(self, name: str, value: int, active_from: int | None) -> ParamRecord:
        """The record that changes a value, from a height on or as soon as the rules allow.

        Raises:
            InvalidEncoding: no such name; says which there are.
        """
        names = param_names(self._history.parameters)
        if name not in names:
            raise InvalidEncoding("parameter", f"{name!r} is none of {', '.join(sorted(names))}")
        changes = self._history.governance.changes
        by_then = self._history.height + BLOCKS_TO_APPROVE
        start = active_from or changes.earliest(names[name], value, by_then)
        return ParamRecord(parameter=names[name], value=value, active_from=start)

    def pause(self, *, deposits: bool, blocks: int | None) -> PauseRecord:
        """Sign this member's PAUSE, keep it, obey it and tell everybody (peg:7.3).

        Args:
            deposits: stop deposit addresses too.
            blocks: clock units; None or too many: pause_max.
        Raises:
            InvalidEncoding: this member may not pause now; says from when.
        """
        context, governance = self._context(), self._history.governance
        member = self._setup.seat
        if member is None:
            raise InvalidEncoding("pause", "this member is not in the set in force")
        unsigned = PauseRecord(
            member=member,
            deposits=deposits,
            sequence=governance.pause_sequence(member) + 1,
            until=pause_end(self._history.parameters, context.clock, blocks),
            signature=b"",
        )
        signature = self._signer.sign_message("fedpeg/pause", context.genesis + unsigned.unsigned())
        record = PauseRecord(
            member=member,
            deposits=deposits,
            sequence=unsigned.sequence,
            until=unsigned.until,
            signature=signature,
        )
        reason = pause_reason(record, governance, context)
        if reason or self._pauses.has(member):
            raise InvalidEncoding("PAUSE", reason or "an own pause is on its way into a block")
        self._approvals.approve(encode_record(record))  # on the disk before anybody obeys it
        self._pauses.hear(record, governance, context)
        self._log.warning("peg paused by this member", until=record.until)
        self._broadcast(KIND_RECORD, encode_record(record))
        return record

    # ---- others, and the chain ----

    def on_frame(self, data: bytes) -> bool:
        """A record from another member: only PAUSE travels; whether it was new.

        Raises:
            InvalidEncoding: not a record.
        """
        record = decode_record(data)
        if not isinstance(record, PauseRecord):
            return False
        is_new, _ = self._pauses.hear(record, self._history.governance, self._context())
        if is_new:
            self._log.warning("peg paused", member=record.member, until=record.until)
            self._broadcast(KIND_RECORD, data)
        return is_new

    def load(self) -> None:
        """Bring the approvals up to the final blocks read from the disk."""
        for at in self._history.governance.records:
            self._approvals.consume(encode_record(at.record), at.height)
        for height in range(1, self._history.height + 1):
            self._end_reset(height)
        self._hear_own()

    def on_final(self, records: Iterable[Record]) -> None:
        """The records of a block that became final have had their effect."""
        for record in records:
            self._approvals.consume(encode_record(record), self._history.height)
            self._log.info("record is final", type=type(record).__name__)
            if isinstance(record, ResumeRecord):
                self._pauses.clear()
                for own in self._approvals.pause_records():
                    self._approvals.consume(encode_record(own), self._history.height)
        self._end_reset(self._history.height)
        self._pauses.forget(self._history.governance, self._context())

    def tell(self) -> None:
        """Say an own PAUSE again at every height until it is final."""
        if self._history.height <= self._told_height:
            return
        self._told_height = self._history.height
        self._hear_own()
        for record in self._pauses.records:
            if record.member == self._setup.seat:
                self._broadcast(KIND_RECORD, encode_record(record))

    def info(self) -> dict[str, Any]:
        """Pauses and approvals as JSON."""
        history = self._history
        seat = self._setup.seat or 0
        allowed = history.governance.pause_allowed_from(seat, history.parameters)
        return {
            "pause": pause_json(history.tip, list(self._pauses.records), allowed),
            "approvals": self.approvals(),
        }

    def _is_open(self, record: OpenRecord) -> bool:
        return self._history.opened_at(record.lane, self._history.height) == record.anchor

    def _hear_own(self) -> None:
        context, governance = self._context(), self._history.governance
        for record in self._approvals.pause_records():
            if pause_reason(record, governance, context):
                self._approvals.revoke(self._name(record))
            else:
                self._pauses.hear(record, governance, context)

    def _end_reset(self, height: int) -> None:
        commitment = self._history.totals(height).commitment
        if commitment.reset:
            self._approvals.consume(commitment.block_hash, height)

    def _name(self, record: Record) -> str:
        data = encode_record(record)
        found = [each.name for each in self._approvals.all() if each.data == data]
        return found[0] if found else ""

    def _context(self) -> RecordContext:
        """Of the next block, with the clock as it stands."""
        previous = self._history.previous_commitment
        commitment = previous or Commitment(
            reset=False, height=0, block_hash=bytes(32), feerate_sats_per_kvb=0
        )
        return self._make_context(self._history.height + 1, commitment)
