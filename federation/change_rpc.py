"""JSON-RPC methods of a member for changes of the member set.

Source: consensus:C83, peg:8.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from federation.change_desk import ChangeDesk
from sidechain.api.registry import INVALID_PARAMETER, Registry, RpcError
from sidechain.errors import Invalid


@dataclass(frozen=True, slots=True)
class ChangeMethods:
    """What the operator of one member says about a member change, and asks.

    Attributes:
        on_work: told when the next block could hold a vote for a change.
    """

    changes: ChangeDesk
    on_work: Callable[[], None]

    def register(self, registry: Registry) -> None:
        """Offer all methods."""
        for method, summary in (
            (self.approvechange, "Approve exactly this member change as this member's operator."),
            (self.revokechange, "Take the approval of a member change back."),
            (self.getchange, "The set in force, what is approved here, and the epoch's votes."),
        ):
            registry.add(method.__name__, method, summary)

    def approvechange(self, change: Any) -> dict[str, Any]:
        """Remember the approval; this member's own blocks vote for it as soon as they may."""
        try:
            approved = self.changes.approve(change)
        except Invalid as error:
            raise RpcError(INVALID_PARAMETER, str(error)) from error
        self.on_work()
        return {
            "approved": approved.entry().root()[::-1].hex(),
            "waits_for": self.changes.status()["waits_for"],
        }

    def revokechange(self) -> dict[str, Any]:
        """Vote for no change any more; blocks that are final have voted."""
        return {"revoked": self.changes.revoke()}

    def getchange(self) -> dict[str, Any]:
        """How far a change is."""
        return self.changes.status()
