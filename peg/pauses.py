"""PAUSE messages that were heard and are in no final block yet.

Members obey the message at once and forward it; the record then makes it public. At most one is
kept for each member, so a member that signs many gains nothing by it.

Source: peg:7.3, peg:R7.
"""

from collections.abc import Collection

from peg.governance import Governance
from peg.record_rules import RecordContext, pause_reason
from peg.records import PauseRecord


class PausesHeard:
    """Pauses on their way into a block, by member. One owner: the service."""

    def __init__(self) -> None:
        """Start with none."""
        self._heard: dict[int, PauseRecord] = {}

    @property
    def records(self) -> Collection[PauseRecord]:
        """What was heard, in member order."""
        return [self._heard[member] for member in sorted(self._heard)]

    def has(self, member: int) -> bool:
        """Whether a member's pause is on its way into a block."""
        return member in self._heard

    def hear(
        self, record: PauseRecord, governance: Governance, context: RecordContext
    ) -> tuple[bool, str]:
        """Take a message.

        Returns:
            Whether it was new, and why it is not valid (empty if it is).
        """
        reason = pause_reason(record, governance, context)
        if reason or record.member in self._heard:
            return False, reason
        self._heard[record.member] = record
        return True, ""

    def forget(self, governance: Governance, context: RecordContext) -> None:
        """Drop what is final, has ended, or is not valid any more."""
        self._heard = {
            member: record
            for member, record in self._heard.items()
            if not pause_reason(record, governance, context)
        }

    def clear(self) -> None:
        """Drop everything, as a RESUME does."""
        self._heard.clear()
