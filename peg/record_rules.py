"""Which records a block may carry, and which have an effect now.

What depends on final blocks and the block itself is objective and raises `InvalidBlock`. Whether a
record would do anything is asked before it is approved, proposed or voted for, so that a record
without effect does not get into a block.

Source: peg:3.3, peg:P1, peg:P21, peg:P22, peg:7.3, peg:7.4, N7, N21.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from peg.commitments import REASON
from peg.fedscript import FedScript
from peg.governance import Governance
from peg.history import PegHistory
from peg.limits import BurnCode, BurnStage
from peg.param_changes import param_value
from peg.parameters import InsaneParameters, PegParameters
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
from peg.state import LANE, PegView
from sidechain.crypto.keys import schnorr_verify
from sidechain.errors import InvalidBlock
from sidechain.primitives.transaction import OutPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordContext:
    """The block that carries records.

    Attributes:
        clock: clock(height), with the block's own commitment.
        genesis: sidechain genesis hash.
        script: the federation's plain fedpegscript.
        block_keys: all members', 33 bytes each, in member order.
    """

    height: int
    clock: int
    genesis: bytes
    script: FedScript
    block_keys: Sequence[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordView:
    """What a record of the next block would act on.

    Attributes:
        view: the peg's state; None before block 1.
        script: the federation's plain fedpegscript.
    """

    history: PegHistory
    view: PegView | None
    script: FedScript


def check_records(
    records: Sequence[Record], governance: Governance, context: RecordContext
) -> None:
    """The objective rules of a block's records.

    Args:
        governance: after the block below.
    Raises:
        InvalidBlock: with the rule in its detail.
    """
    changes = governance.changes.copy()
    opened = set(governance.opened)
    paused: set[int] = set()
    for record in records:
        match record:
            case OpenRecord(lane=lane):
                _check_lane(lane)
                _require(lane not in opened, "P1: lane was opened before")
                opened.add(lane)
            case PauseRecord(member=member):
                _require(member not in paused, "7.3: two pauses of one member")
                paused.add(member)
                reason = pause_reason(record, governance, context)
                _require(not reason, reason)
            case ParamRecord():
                try:
                    changes.check(record, context.height, context.script)
                except InsaneParameters as error:
                    raise InvalidBlock(REASON, f"PARAM breaks {error}") from error
                changes.add(record)
            case CancelRecord(lane=lane) | ReopenRecord(lane=lane):
                _check_lane(lane)
            case HandoverRecord():
                raise InvalidBlock(REASON, "record type not enabled")
            case ResumeRecord() | ExcludeRecord() | IncludeRecord() | ReleaseRecord():
                pass
            case ReturnRecord():
                pass


def pause_reason(record: PauseRecord, governance: Governance, context: RecordContext) -> str:
    """Why a PAUSE is not valid now; empty when it is (peg:7.3).

    Members obey the message by the same rules before it is in a block.
    """
    parameters, clock = governance.changes.at(context.height), context.clock
    if record.member >= len(context.block_keys):
        return "7.3: there is no such member"
    if record.sequence <= governance.pause_sequence(record.member):
        return "7.3: seq does not rise"
    if not clock < record.until <= clock + parameters.pause_max:
        return f"7.3: a pause ends within {parameters.pause_max} clock units of now ({clock})"
    allowed = governance.pause_allowed_from(record.member, parameters)
    if clock < allowed:
        return f"7.3: member {record.member} may pause again at clock {allowed}"
    key = context.block_keys[record.member][1:]
    if not schnorr_verify(key, record.signature, record.message(context.genesis)):
        return "7.3: wrong signature"
    return ""


def idle_reason(record: Record, on: RecordView) -> str:
    """Why a record would have no effect in the next block; empty when it would have one.

    What only some members may know (X3, X7) is not asked, so RESUME is never idle.
    """
    governance, height = on.history.governance, on.history.height
    match record:
        case OpenRecord(lane=lane):
            return "lane was opened before" if lane in governance.opened else ""
        case CancelRecord(anchor=anchor):
            batch = on.view.open_batch if on.view is not None else None
            is_open = batch is not None and batch.anchor == anchor
            return "" if is_open else "no open batch spends that anchor"
        case ExcludeRecord(burn_id=burn_id):
            excluded = governance.is_excluded(burn_id, height)
            return _burn_reason(burn_id, on) or ("burn is excluded already" if excluded else "")
        case IncludeRecord(burn_id=burn_id):
            excluded = governance.is_excluded(burn_id, height)
            return "" if excluded else "burn is not excluded"
        case ReleaseRecord(burn_id=burn_id):
            return _burn_reason(burn_id, on) or _release_reason(burn_id, on)
        case ParamRecord():
            return _param_reason(record, on)
        case ReturnRecord(deposit=deposit):
            return _return_reason(deposit, on)
        case ReopenRecord():
            return _reopen_reason(record, on)
        case HandoverRecord():
            return "record type not enabled"
        case PauseRecord() | ResumeRecord():
            return ""


def _burn_reason(burn_id: bytes, on: RecordView) -> str:
    burn = on.history.burn(burn_id)
    if burn is None:
        return "no final block holds this burn"
    if burn.code is not BurnCode.OK:
        return f"burn is not eligible: {burn.code}"
    lane = on.view.lane if on.view is not None else None
    return "burn is paid" if lane is not None and burn_id in lane.paid else ""


def _release_reason(burn_id: bytes, on: RecordView) -> str:
    place = on.history.schedule.place(burn_id)
    if place is None or place.stage is not BurnStage.HELD_OVERSIZE:
        return "burn is not held for its size"
    return "release waits for the pause to end" if place.approved else ""


def _param_reason(record: ParamRecord, on: RecordView) -> str:
    changes = on.history.governance.changes
    try:
        changes.check(record, on.history.height + 1, on.script)
        current = param_value(changes.at(record.active_from), record.parameter)
    except InsaneParameters as error:
        return f"breaks {error}"
    return "that value will be in force then already" if current == record.value else ""


def _return_reason(deposit: OutPoint, on: RecordView) -> str:
    if deposit in on.history.governance.returns:
        return "deposit is being returned already"
    return "" if on.history.claimed(deposit) is None else "deposit is claimed"


def _reopen_reason(record: ReopenRecord, on: RecordView) -> str:
    governance, height = on.history.governance, on.history.height
    anchor = governance.opened_at(record.lane, height)
    if anchor is None:
        return "lane was never opened"
    known = governance.reopened_at(record.lane, record.breaking_txid, height)
    if known is not None and known[0] == record:
        return "lane is reopened there already"
    lane = on.view.lane if on.view is not None else None
    broken_by = lane.broken_by if lane is not None else None
    if record.breaking_txid not in (broken_by, anchor.txid):
        return "that transaction neither broke the lane nor funded its first anchor"
    return ""


def _check_lane(lane: int) -> None:
    _require(lane == LANE, "P1: unknown lane")


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise InvalidBlock(REASON, reason)


def pause_end(parameters: PegParameters, clock: int, blocks: int | None) -> int:
    """`until` of a new PAUSE: as long as asked, at most pause_max from now."""
    most = parameters.pause_max
    return clock + (most if blocks is None else min(blocks, most))
