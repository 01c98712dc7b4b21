"""One fault as whoever injects it holds it, and faults as they are shown.

Source: issue 4 item 10.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveFault:
    """One fault in force; `remaining_ms` None until it is ended."""

    id: str
    kind: str
    members: tuple[str, ...]
    detail: str
    remaining_ms: int | None


class Injection:
    """A fault that can be put in force and ended: an async context manager, or by hand.

    Attributes:
        id: names it in `Faults.active` and `Faults.heal`.
        unreached: members that do not answer and were not told.
    """

    def __init__(
        self,
        fault_id: str,
        begin: Callable[["Injection"], Awaitable[None]],
        end: Callable[["Injection"], Awaitable[None]],
    ) -> None:
        self.id = fault_id
        self.unreached: tuple[str, ...] = ()
        self._begin = begin
        self._end = end

    async def begin(self) -> Self:
        """Put it in force.

        Raises:
            LocalError: it cannot be; says why.
        """
        await self._begin(self)
        return self

    async def end(self) -> None:
        """Undo it; nothing when it has ended by itself.

        Raises:
            LocalError: a member cannot be started again.
        """
        await self._end(self)

    async def __aenter__(self) -> Self:
        return await self.begin()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.end()


def member_fault(member: str, plain: dict[str, Any], names: Sequence[str]) -> ActiveFault:
    """A fault as a member tells it in `listfaults`; `names` by index."""
    peers = ",".join(names[i] for i in plain["peers"] if i < len(names))
    words = {
        "disconnect": f"no links to {peers}",
        "partition": f"nothing {'to' if plain['outgoing'] else 'from'} {peers}",
        "delay": f"{plain['delay_ms']} ± {plain['jitter_ms']} ms to {peers}",
        "drop": f"{plain['percent']} % lost to {peers}",
        "clock": f"wall clock off by {plain['offset_s']} s",
    }
    return ActiveFault(
        id=str(plain["id"]).partition(".")[0],
        kind=str(plain["kind"]),
        members=(member,),
        detail=words[plain["kind"]],
        remaining_ms=plain["remaining_ms"],
    )
