"""JSON-RPC methods of a member for its operator: approvals, PAUSE, and the bounds of the peg.

Source: N23, peg:3.3, peg:7.1, peg:7.3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from federation.rpc_arguments import hex_bytes, text, whole
from peg.param_changes import VALUE_MAX
from peg.records import encode_record
from peg.service import PegService
from sidechain.api.registry import INVALID_PARAMETER, Registry, RpcError
from sidechain.errors import Invalid

NOT_FOUND = -5
CLOCK_UNITS_MAX = 2**32 - 1
HEIGHT_MAX = 2**32 - 1
STRETCHES_MAX = 20


@dataclass(frozen=True, slots=True)
class RecordMethods:
    """What the operator of one member tells it, and asks before.

    Attributes:
        on_work: told when a record could go into a block now.
    """

    peg: PegService
    on_work: Callable[[], None]

    def register(self, registry: Registry) -> None:
        """Offer all methods."""
        for method, summary in (
            (self.approverecord, "Approve a record (hex) as this member's operator."),
            (self.describerecord, "What a record (hex) says and would do; approves nothing."),
            (self.listapprovals, "Approvals in force, with what each waits for."),
            (self.revokeapproval, "Take an approval (its name) back."),
            (self.pausepeg, "Pause payouts in this member's name: deposits too, clock units."),
            (self.planparameter, "The PARAM record that changes a value; approves nothing."),
            (self.getbounds, "The most that can be lost, from the parameters in force."),
        ):
            registry.add(method.__name__, method, summary)

    def approverecord(self, record: Any, details: Any = None) -> dict[str, Any]:
        """Remember an approval; the record goes into a block when k operators agree.

        `details` is an object with what a RETURN record only hashes: claim_script, return_script
        and proof in hex.
        """
        if details is not None and not isinstance(details, dict):
            raise RpcError(INVALID_PARAMETER, "details is not an object")
        try:
            name = self.peg.approve_record(hex_bytes(record, "record"), details)
        except Invalid as error:
            raise RpcError(INVALID_PARAMETER, str(error)) from error
        self.on_work()
        return {"approved": name}

    def describerecord(self, record: Any) -> dict[str, Any]:
        """The record by its fields, and why it would have no effect now."""
        try:
            return self.peg.describe_record(hex_bytes(record, "record"))
        except Invalid as error:
            raise RpcError(INVALID_PARAMETER, str(error)) from error

    def listapprovals(self) -> list[dict[str, Any]]:
        """Approvals in force, in byte order of their records."""
        return self.peg.desk.approvals()

    def revokeapproval(self, approval: Any) -> dict[str, Any]:
        """Take an approval back that is in no final block yet."""
        name = text(approval, "approval")
        if not self.peg.desk.revoke(name):
            raise RpcError(NOT_FOUND, "there is no such approval in force")
        return {"revoked": name}

    def pausepeg(self, deposits: Any = False, blocks: Any = None) -> dict[str, Any]:
        """Sign this member's PAUSE, obey it and tell the others (peg:7.3)."""
        if not isinstance(deposits, bool):
            raise RpcError(INVALID_PARAMETER, "deposits is not true or false")
        length = None if blocks is None else whole(blocks, "blocks", 1, CLOCK_UNITS_MAX)
        try:
            record = self.peg.pause(deposits=deposits, blocks=length)
        except Invalid as error:
            raise RpcError(INVALID_PARAMETER, str(error)) from error
        self.on_work()
        return {
            "member": record.member,
            "until_clock": record.until,
            "deposits": record.deposits,
            "sequence": record.sequence,
        }

    def planparameter(self, name: Any, value: Any, active_from: Any = None) -> dict[str, Any]:
        """The PARAM record of a change, from the first height that the rules allow or a given one.

        Some blocks are left for the approvals of k operators.
        """
        wanted = whole(value, "value", 0, VALUE_MAX)
        start = None if active_from is None else whole(active_from, "active_from", 1, HEIGHT_MAX)
        try:
            record = self.peg.desk.plan_parameter(text(name, "name"), wanted, start)
        except Invalid as error:
            raise RpcError(INVALID_PARAMETER, str(error)) from error
        return self.peg.describe_record(encode_record(record))

    def getbounds(self, clock_units: Any = None) -> dict[str, Any]:
        """The loss bound of the peg for every window, a day and a week, and stretches asked for."""
        asked = [] if clock_units is None else clock_units
        if not isinstance(asked, list) or len(asked) > STRETCHES_MAX:
            raise RpcError(
                INVALID_PARAMETER, f"clock_units is not a list of at most {STRETCHES_MAX}"
            )
        stretches = [whole(each, "clock_units", 1, CLOCK_UNITS_MAX) for each in asked]
        return self.peg.reports.bounds(stretches)
