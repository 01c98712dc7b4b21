"""JSON-RPC method of a member that makes receipts.

Source: peg:12.
"""

from dataclasses import dataclass
from typing import Any, Final

from federation.receipts import ReceiptMaker
from federation.rpc_arguments import text
from peg.bitcoind import BitcoindError
from peg.status import parse_outpoint
from sidechain.api.registry import INVALID_PARAMETER, Registry, RpcError
from sidechain.errors import Invalid, Unavailable

NOT_YET: Final = -28
NOT_FOUND: Final = -5


@dataclass(frozen=True, slots=True)
class ReceiptMethods:
    """Files that prove burns, payments and claims to strangers."""

    maker: ReceiptMaker

    def register(self, registry: Registry) -> None:
        """Offer the method."""
        registry.add(
            "getreceipt", self.getreceipt, "Proof of a burn and its payment, or of a claim."
        )

    async def getreceipt(self, outpoint: Any) -> dict[str, Any]:
        """The receipt of a burn (txid:vout of the sidechain) or a deposit (of Bitcoin)."""
        try:
            found = await self.maker.make(parse_outpoint(text(outpoint, "outpoint")))
        except Invalid as error:
            raise RpcError(INVALID_PARAMETER, str(error)) from error
        except (Unavailable, BitcoindError) as error:
            raise RpcError(NOT_YET, str(error)) from error
        if found is None:
            raise RpcError(NOT_FOUND, "no final block holds this burn, or a claim of this deposit")
        return found
