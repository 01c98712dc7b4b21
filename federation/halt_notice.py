"""Why a member is halted, in words, also after a restart.

Source: consensus:C60.
"""

from collections.abc import Iterable
from typing import Any

from federation.consensus.encoding import InvalidMessage, MessageReader
from federation.consensus.records import Halt, Mode
from federation.consensus.votes import Certificate
from federation.header_signatures import read_header
from sidechain.errors import Invalid
from sidechain.params import ChainParams


class HaltNotice:
    """What the two things were that contradict each other; None in `to_json` when not halted."""

    def __init__(self, params: ChainParams) -> None:
        self._params = params
        self._bodies: tuple[bytes, bytes] | None = None
        self._reason = ""
        self._mode = Mode.STOPPED

    def note(self, records: Iterable[object]) -> None:
        """Take in own journal records, of this process or of earlier ones."""
        for record in records:
            if isinstance(record, Halt):
                self._bodies = record.first, record.second

    def change_mode(self, mode: Mode, reason: str) -> str:
        """Take a change of mode; its reason with what is known of a halt."""
        self._mode, self._reason = mode, reason
        if mode is not Mode.HALTED or self._bodies is None:
            return reason
        first, second = (self._describe(body) for body in self._bodies)
        self._reason = f"{reason}: {first} against {second}"
        return self._reason

    @property
    def mode_reason(self) -> str:
        """Why the mode is what it is."""
        return self._reason

    def to_json(self) -> dict[str, Any] | None:
        """The reason and both things in hex, while the member is halted."""
        if self._mode is not Mode.HALTED:
            return None
        bodies = self._bodies or (b"", b"")
        return {"reason": self._reason, "first": bodies[0].hex(), "second": bodies[1].hex()}

    def _describe(self, body: bytes) -> str:
        try:
            header = read_header(body, self._params)
        except Invalid:
            pass
        else:
            return f"block {header.hash[::-1].hex()} at height {header.height}"
        try:
            certificate = Certificate.read(MessageReader(body))
        except InvalidMessage:
            return body[::-1].hex() if len(body) == 32 else "something unreadable"
        return (
            f"the votes of round {certificate.round} for block "
            f"{certificate.block_hash[::-1].hex()} at height {certificate.height}"
        )
