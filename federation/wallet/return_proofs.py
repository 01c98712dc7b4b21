"""Proofs that a late deposit is a wallet's own, so that operators can give it back.

Source: peg:C9.
"""

from typing import Any

from federation.wallet.arguments import check_text, translated
from federation.wallet.chain import Keyring
from federation.wallet.peg_store import PegStore
from federation.wallet.pegs import DepositAddress
from federation.wallet.views import PegViews
from peg.returns import return_message
from peg.status import outpoint_text
from sidechain.api.registry import INVALID_PARAMETER, Registry, RpcError
from sidechain.crypto.keys import ecdsa_sign, public_key
from sidechain.params import ChainParams
from sidechain.primitives.address import decode_address
from sidechain.wallet.keys import Branch


class ReturnProofs:
    """The handler that signs them."""

    def __init__(
        self, *, store: PegStore, params: ChainParams, keyring: Keyring, views: PegViews
    ) -> None:
        self._store = store
        self._params = params
        self._keyring = keyring
        self._views = views

    def register(self, registry: Registry) -> None:
        """Offer the method."""
        registry.add(
            "provereturn",
            translated(self.prove),
            "Prove that a deposit is a wallet's own, to have it given back",
        )

    def prove(self, id: str, address: str) -> dict[str, Any]:
        """Sign for giving one deposit back to a Bitcoin address; changes nothing.

        Args:
            id: of the peg-in, or its deposit (txid:vout).
        """
        pegin = self._views.find_pegin(check_text(id, "id"))
        if isinstance(pegin, DepositAddress) or pegin.deposit is None:
            raise RpcError(INVALID_PARAMETER, "nothing was deposited there that is known here")
        target, outpoint = pegin.target, pegin.deposit.outpoint
        if target.covenant is not None:
            raise RpcError(
                INVALID_PARAMETER, "the deposit is keyless: no key here can prove anything"
            )
        text = check_text(address, "address")
        script = decode_address(text, self._params.parent_prefixes).script
        account = self._keyring.account(self._store.book.wallet(target.wallet))
        secret = account.secret(Branch.CLAIM, target.claim_index).value
        message = return_message(self._params.genesis_hash, outpoint, script)
        return {
            "deposit": outpoint_text(outpoint),
            "address": text,
            "claim_script": target.claim_script.hex(),
            "return_script": script.hex(),
            "proof": (public_key(secret) + ecdsa_sign(secret, message)).hex(),
        }
