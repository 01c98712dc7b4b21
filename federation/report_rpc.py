"""JSON-RPC methods of a member about reserves reports.

Source: peg:11.
"""

from dataclasses import dataclass
from typing import Any, Final

from federation.rpc_arguments import whole
from peg.service import PegService
from sidechain.api.registry import INVALID_PARAMETER, Registry, RpcError
from sidechain.errors import Invalid, Unavailable

NOT_YET: Final = -28
HEIGHT_MAX: Final = 2**32 - 1
DEADLINE_S: Final = 10
"""How long `makereport` waits for the signatures of k members."""


@dataclass(frozen=True, slots=True)
class ReportMethods:
    """What k members say of the reserves, signed."""

    peg: PegService

    def register(self, registry: Registry) -> None:
        """Offer all methods."""
        for method, summary in (
            (self.makereport, "The reserves report of a block, signed by k members."),
            (self.listreports, "The reserves reports that this member keeps."),
        ):
            registry.add(method.__name__, method, summary)

    async def makereport(self, height: Any = None) -> dict[str, Any]:
        """The report of a block: one that is kept, or one that k members sign now.

        Without a height it is of the newest block that the peg has read.
        """
        wanted = None if height is None else whole(height, "height", 1, HEIGHT_MAX)
        try:
            return await self.peg.reserves.make(wanted, DEADLINE_S)
        except Unavailable as error:
            raise RpcError(NOT_YET, str(error)) from error
        except Invalid as error:
            raise RpcError(INVALID_PARAMETER, error.detail or error.reason) from error

    def listreports(self) -> list[dict[str, Any]]:
        """Reports of epochs, and those asked for here, oldest first."""
        return self.peg.reserves.summaries()
