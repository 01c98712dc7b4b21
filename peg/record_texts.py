"""Records, approvals and pauses as JSON for RPC, and one line of each for people.

Hashes are shown in reversed order as Bitcoin and Elements do, amounts in satoshis.

Source: peg:3.3, N21, N23.
"""

from typing import Any

from peg.approvals import Approval
from peg.history import HeightTotals
from peg.param_changes import param_names
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
    encode_record,
)
from peg.status import burn_text, hash_hex, outpoint_text


def record_json(record: Record, parameters: PegParameters) -> dict[str, Any]:
    """A record by its fields, with its type's name and a line for people."""
    kind, fields, text = _parts(record, parameters)
    return {"type": kind, **fields, "hex": encode_record(record).hex(), "text": text}


def approval_json(approval: Approval, parameters: PegParameters, waits_for: str) -> dict[str, Any]:
    """An approval in force.

    Args:
        waits_for: why its record cannot be in the next block; empty when nothing is known.
    """
    if approval.record is None:
        block = hash_hex(approval.data)
        shown: dict[str, Any] = {"type": "RESET", "block": block, "text": f"RESET to {block}"}
    else:
        shown = record_json(approval.record, parameters)
    return {
        "approval": approval.name,
        **shown,
        "approved_at_height": approval.height,
        "expires_height": approval.expires_height,
        "waits_for": waits_for or None,
    }


def pause_json(
    totals: HeightTotals | None, heard: list[PauseRecord], allowed_from: int
) -> dict[str, Any]:
    """The pauses in force, by the chain and by what was heard.

    Args:
        heard: PAUSE messages that are in no final block yet.
        allowed_from: clock from which this member may pause.
    """
    paused = totals is not None and totals.is_paused
    clock = 0 if totals is None else totals.clock
    deposits = totals is not None and totals.pause.stops_deposits(clock)
    return {
        "paused": paused,
        "until_clock": totals.pause.until if totals is not None and paused else None,
        "deposits_paused": deposits,
        "deposits_until_clock": totals.pause.deposits_until
        if totals is not None and deposits
        else None,
        "members": list(totals.pause.members) if totals is not None and paused else [],
        "heard": [
            {"member": record.member, "until_clock": record.until, "deposits": record.deposits}
            for record in heard
        ],
        "own_allowed_from_clock": allowed_from,
        "clock": clock,
    }


def _parts(record: Record, parameters: PegParameters) -> tuple[str, dict[str, Any], str]:
    """Type, fields and text of a record."""
    fields: dict[str, Any]
    match record:
        case OpenRecord(lane=lane, anchor=anchor):
            at = outpoint_text(anchor)
            return "OPEN", {"lane": lane, "anchor": at}, f"OPEN lane {lane} at {at}"
        case PauseRecord():
            fields = {
                "member": record.member,
                "deposits": record.deposits,
                "sequence": record.sequence,
                "until_clock": record.until,
            }
            what = "payouts and deposits" if record.deposits else "payouts"
            return "PAUSE", fields, f"PAUSE {what} until clock {record.until} by m{record.member}"
        case ResumeRecord():
            return "RESUME", {}, "RESUME: end all pauses and halts"
        case CancelRecord(lane=lane, anchor=anchor):
            at = outpoint_text(anchor)
            return "CANCEL", {"lane": lane, "anchor": at}, f"CANCEL the batch on {at}"
        case ExcludeRecord(burn_id=burn_id):
            return "EXCLUDE", {"burn": burn_text(burn_id)}, f"EXCLUDE burn {burn_text(burn_id)}"
        case IncludeRecord(burn_id=burn_id):
            return "INCLUDE", {"burn": burn_text(burn_id)}, f"INCLUDE burn {burn_text(burn_id)}"
        case ReleaseRecord(burn_id=burn_id):
            return "RELEASE", {"burn": burn_text(burn_id)}, f"RELEASE burn {burn_text(burn_id)}"
        case ParamRecord():
            return _param_parts(record, parameters)
        case HandoverRecord(lane=lane, script_hash=script_hash):
            fields = {"lane": lane, "script_hash": script_hash.hex()}
            return "HANDOVER", fields, f"HANDOVER lane {lane} to script {script_hash.hex()}"
        case ReturnRecord(deposit=deposit, script_hash=script_hash):
            at = outpoint_text(deposit)
            fields = {"deposit": at, "script_hash": script_hash.hex()}
            return "RETURN", fields, f"RETURN deposit {at}"
        case ReopenRecord(lane=lane, breaking_txid=txid, anchor=anchor):
            at = outpoint_text(anchor)
            fields = {"lane": lane, "breaking_txid": hash_hex(txid), "anchor": at}
            return "REOPEN", fields, f"REOPEN lane {lane} at {at} after {hash_hex(txid)}"


def _param_parts(record: ParamRecord, parameters: PegParameters) -> tuple[str, dict[str, Any], str]:
    names = {number: name for name, number in param_names(parameters).items()}
    name = names.get(record.parameter, f"id {record.parameter}")
    fields = {
        "parameter": name,
        "id": record.parameter,
        "value": record.value,
        "active_from": record.active_from,
    }
    return "PARAM", fields, f"PARAM {name} = {record.value} from height {record.active_from}"
