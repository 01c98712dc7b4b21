"""Faults inside one member: what they are, how they are asked for, and what they do to a frame.

Pure: the time and the dice are arguments. A fault with an end is over by itself once the monotonic
clock says so, whatever became of whoever asked for it.

Source: issue 4 item 10, consensus:10.1 scenarios 8 and 9, N32.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

DELAY_MS_MAX: Final = 60_000
FOR_MS_MAX: Final = 24 * 3_600_000
CLOCK_OFFSET_S_MAX: Final = 10 * 366 * 86_400
FAULTS_MAX: Final = 200
ID_SIZE_MAX: Final = 40
_FIELDS: Final = frozenset(
    (
        "id",
        "kind",
        "peers",
        "outgoing",
        "incoming",
        "delay_ms",
        "jitter_ms",
        "percent",
        "offset_s",
        "for_ms",
    )
)


class InvalidFault(ValueError):
    """What was asked for is no fault of a member; the text says why."""


class FaultKind(StrEnum):
    """What a member does to itself.

    DISCONNECT ends links and takes none; PARTITION keeps them and loses what they carry; DELAY and
    DROP work on what is sent; CLOCK moves the wall clock.
    """

    DISCONNECT = "disconnect"
    PARTITION = "partition"
    DELAY = "delay"
    DROP = "drop"
    CLOCK = "clock"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberFault:
    """One fault of one member; `ends_ms` on its monotonic clock, None until it is ended.

    Attributes:
        peers: indexes of the members at the other ends.
        outgoing, incoming: which directions a PARTITION closes.
        delay_ms, jitter_ms: a frame waits delay ± jitter, never less than nothing.
        percent: how many of 100 frames are lost.
        offset_s: added to the wall clock.
    """

    id: str
    kind: FaultKind
    peers: frozenset[int] = frozenset()
    outgoing: bool = False
    incoming: bool = False
    delay_ms: int = 0
    jitter_ms: int = 0
    percent: int = 0
    offset_s: int = 0
    ends_ms: int | None = None

    @classmethod
    def from_json(cls, plain: Mapping[str, Any], *, now_ms: int) -> Self:
        """Read the parameter of `setfault`.

        Raises:
            InvalidFault: a field is unknown, missing, of another type or out of range.
        """
        unknown = sorted(set(plain) - _FIELDS)
        if unknown:
            raise InvalidFault(f"a fault has no field {unknown[0]}")
        try:
            kind = FaultKind(plain.get("kind", ""))
        except ValueError:
            kinds = ", ".join(kind.value for kind in FaultKind)
            raise InvalidFault(f"kind is one of {kinds}") from None
        name = plain.get("id")
        if not isinstance(name, str) or not 0 < len(name) <= ID_SIZE_MAX:
            raise InvalidFault(f"id is a text of 1 to {ID_SIZE_MAX} characters")
        for_ms = _integer(plain, "for_ms", 0, FOR_MS_MAX)
        fault = cls(
            id=name,
            kind=kind,
            peers=_peers(plain),
            outgoing=_flag(plain, "outgoing"),
            incoming=_flag(plain, "incoming"),
            delay_ms=_integer(plain, "delay_ms", 0, DELAY_MS_MAX),
            jitter_ms=_integer(plain, "jitter_ms", 0, DELAY_MS_MAX),
            percent=_integer(plain, "percent", 0, 100),
            offset_s=_integer(plain, "offset_s", -CLOCK_OFFSET_S_MAX, CLOCK_OFFSET_S_MAX),
            ends_ms=now_ms + for_ms if for_ms else None,
        )
        if kind is not FaultKind.CLOCK and not fault.peers:
            raise InvalidFault(f"{kind.value} needs peers")
        if kind is FaultKind.PARTITION and not (fault.outgoing or fault.incoming):
            raise InvalidFault("a partition is outgoing, incoming or both")
        return fault

    def to_json(self, now_ms: int) -> dict[str, Any]:
        """What `listfaults` shows of it."""
        return {
            "id": self.id,
            "kind": self.kind.value,
            "peers": sorted(self.peers),
            "outgoing": self.outgoing,
            "incoming": self.incoming,
            "delay_ms": self.delay_ms,
            "jitter_ms": self.jitter_ms,
            "percent": self.percent,
            "offset_s": self.offset_s,
            "remaining_ms": None if self.ends_ms is None else max(0, self.ends_ms - now_ms),
        }


class FaultTable:
    """The faults of one member that are in force. Owned by its network."""

    def __init__(self) -> None:
        self._faults: dict[str, MemberFault] = {}

    def add(self, fault: MemberFault, now_ms: int) -> None:
        """Put a fault in force; one with its id is replaced.

        Raises:
            InvalidFault: too many are in force.
        """
        self.active(now_ms)
        if fault.id not in self._faults and len(self._faults) >= FAULTS_MAX:
            raise InvalidFault(f"{FAULTS_MAX} faults are in force: end some")
        self._faults[fault.id] = fault

    def end(self, fault_id: str | None = None) -> int:
        """End one fault, or all without an id; how many there were.

        An id also stands for the parts of one fault: ID for ID.out and ID.in.
        """
        gone = [
            name
            for name in self._faults
            if fault_id is None or name == fault_id or name.startswith(f"{fault_id}.")
        ]
        for name in gone:
            del self._faults[name]
        return len(gone)

    def active(self, now_ms: int) -> tuple[MemberFault, ...]:
        """Those in force, oldest first; forgets those that are over."""
        over = [f.id for f in self._faults.values() if f.ends_ms is not None and f.ends_ms < now_ms]
        for fault_id in over:
            del self._faults[fault_id]
        return tuple(self._faults.values())

    def disconnects(self, peer: int, now_ms: int) -> bool:
        """Whether there may be no link to a peer: it is cut, or both its ways are lost."""
        faults = self._of(peer, now_ms)
        lost = [fault for fault in faults if fault.kind is FaultKind.PARTITION]
        return any(fault.kind is FaultKind.DISCONNECT for fault in faults) or (
            any(fault.outgoing for fault in lost) and any(fault.incoming for fault in lost)
        )

    def loses_incoming(self, peer: int, now_ms: int) -> bool:
        """Whether what a peer sends never arrives."""
        return any(
            fault.kind is FaultKind.PARTITION and fault.incoming for fault in self._of(peer, now_ms)
        )

    def loses_outgoing(self, peer: int, now_ms: int, dice: int) -> bool:
        """Whether this frame to a peer is lost.

        Args:
            dice: uniform from 0 to 99, fresh for every frame.
        """
        return any(
            (fault.kind is FaultKind.PARTITION and fault.outgoing)
            or (fault.kind is FaultKind.DROP and dice < fault.percent)
            for fault in self._of(peer, now_ms)
        )

    def delay_ms(self, peer: int, now_ms: int, dice: int) -> int:
        """How long this frame to a peer waits.

        Args:
            dice: uniform from 0 to 999, fresh for every frame.
        """
        waits = 0
        for fault in self._of(peer, now_ms):
            if fault.kind is FaultKind.DELAY:
                swing = fault.jitter_ms * (2 * dice - 999) // 999
                waits += max(0, fault.delay_ms + swing)
        return waits

    def clock_offset_s(self, now_ms: int) -> int:
        """How far the wall clock is moved."""
        return sum(f.offset_s for f in self.active(now_ms) if f.kind is FaultKind.CLOCK)

    def _of(self, peer: int, now_ms: int) -> tuple[MemberFault, ...]:
        if not self._faults:
            return ()
        return tuple(fault for fault in self.active(now_ms) if peer in fault.peers)


def _integer(plain: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = plain.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidFault(f"{name} is a whole number from {least} to {most}")
    return value


def _flag(plain: Mapping[str, Any], name: str) -> bool:
    value = plain.get(name, False)
    if not isinstance(value, bool):
        raise InvalidFault(f"{name} is true or false")
    return value


def _peers(plain: Mapping[str, Any]) -> frozenset[int]:
    value = plain.get("peers", [])
    wrong = not isinstance(value, list) or any(
        isinstance(x, bool) or not isinstance(x, int) or not 0 <= x < 256 for x in value
    )
    if wrong:
        raise InvalidFault("peers is a list of member indexes")
    return frozenset(value)
