"""Deposits that members claim by themselves: addresses for users who only send bitcoin.

The address and all that makes it are kept here and told to every member that answers; one is
enough, members tell each other. A user whose store is lost repeats the same words.

Source: peg:4 ("Covenant claim script", "Registration").
"""

from typing import Any

from federation.wallet.arguments import CLIENT_NOT_CONNECTED, check_text, translated
from federation.wallet.deposit_addresses import DepositAddresses, shown_address
from federation.wallet.links import MemberLinks
from federation.wallet.peg_store import PegStore
from federation.wallet.pegs import DepositAddress, PegInfo, Receiver
from federation.wallet.spending import Spending
from federation.wallet.worker import PegWorker
from peg.covenants import PRICE_PARTS
from sidechain.api.registry import INVALID_PARAMETER, Registry, RpcError
from sidechain.errors import InvalidEncoding
from sidechain.params import ChainParams
from sidechain.primitives.address import Address, decode_address
from sidechain.wallet.covenant import MAX_FEE_DEFAULT_SATS, NUMS_KEY, CovenantTerms


class KeylessMethods:
    """Handlers of keyless deposit addresses."""

    def __init__(
        self,
        *,
        members: MemberLinks,
        store: PegStore,
        params: ChainParams,
        addresses: DepositAddresses,
        worker: PegWorker,
        spending: Spending,
    ) -> None:
        self._members = members
        self._store = store
        self._params = params
        self._addresses = addresses
        self._worker = worker
        self._spending = spending

    def register(self, registry: Registry) -> None:
        """Offer all methods."""
        for name, handler, summary in (
            ("getkeylessaddress", self.new_address, "A deposit address that members claim for"),
            ("registerkeyless", self.register_again, "Tell the members of one again"),
        ):
            registry.add(name, translated(handler), summary)

    async def new_address(
        self, to: str, max_fee_sats: Any = None, internal_key: Any = None
    ) -> dict[str, Any]:
        """A Bitcoin address whose deposits the members claim for a wallet or a sidechain address.

        Args:
            max_fee_sats: the price of one claim; the receiver gets at least the rest.
            internal_key: x-only key in hex, of a user who may want to claim by a signature too.
        """
        receiver = self._addresses.receiver(to)
        info = await self._addresses.open_for_deposits()
        target = self._target(receiver, max_fee_sats, internal_key, info)
        return await self._told(target, info)

    async def register_again(
        self, to: str, max_fee_sats: Any = None, internal_key: Any = None
    ) -> dict[str, Any]:
        """Tell all members of an address again: after all of them lost their folders, say.

        Allowed also while no new addresses are shown: deposits may be on their way.

        Args:
            to: a deposit address that this process made, or the sidechain address that one was
                made for elsewhere, with the same price and key.
        """
        info = await self._worker.peg_info()
        known = self._known(check_text(to, "to"))
        if known is not None and (max_fee_sats is not None or internal_key is not None):
            raise RpcError(INVALID_PARAMETER, "price and key of a known deposit address stay")
        if known is None:
            receiver = self._addresses.receiver(to)
            if not receiver.pay_to:
                raise RpcError(
                    INVALID_PARAMETER, "name the deposit address, or the sidechain address behind"
                )
            known = self._target(receiver, max_fee_sats, internal_key, info)
        return await self._told(known, info)

    def _known(self, text: str) -> DepositAddress | None:
        for target in self._store.addresses():
            if text == target.address:
                if target.covenant is None:
                    raise RpcError(INVALID_PARAMETER, "the wallet claims that address by itself")
                return target
        return None

    def _target(
        self, receiver: Receiver, max_fee_sats: Any, internal_key: Any, info: PegInfo
    ) -> DepositAddress:
        price = MAX_FEE_DEFAULT_SATS if max_fee_sats is None else max_fee_sats
        limit = (info.min_pegin_sats - 1) // PRICE_PARTS
        if isinstance(price, bool) or not isinstance(price, int) or not 0 < price <= limit:
            raise RpcError(INVALID_PARAMETER, f"the price of a claim is 1 to {limit} sat")
        address = self._destination(receiver)
        try:
            key = NUMS_KEY if internal_key is None else bytes.fromhex(str(internal_key))
            terms = CovenantTerms(script=address.script, max_fee_sats=price, internal_key=key)
        except ValueError as error:
            raise RpcError(INVALID_PARAMETER, "the internal key is not hex") from error
        except InvalidEncoding as error:
            raise RpcError(INVALID_PARAMETER, error.detail or error.reason) from error
        return self._addresses.keyless(receiver, terms)

    def _destination(self, receiver: Receiver) -> Address:
        text = receiver.pay_to or self._spending.take_address(receiver.wallet, explicit=True)
        return decode_address(text, self._params.prefixes)

    async def _told(self, target: DepositAddress, info: PegInfo) -> dict[str, Any]:
        """Register it at every member that answers, and show it.

        Raises:
            RpcError: no member took it; the address must not be used.
        """
        terms = target.covenant
        if terms is None:
            raise RpcError(INVALID_PARAMETER, "the wallet claims that address by itself")
        key = None if terms.internal_key == NUMS_KEY else terms.internal_key.hex()
        replies, reasons = await self._members.call_each(
            "registercovenant", terms.script.hex(), terms.max_fee_sats, key
        )
        agreeing = [reply for reply in replies if reply.get("address") == target.address]
        if not agreeing:
            other = "members pay to another script" if replies else "no member takes it"
            raise RpcError(CLIENT_NOT_CONNECTED, "; ".join([other, *dict.fromkeys(reasons)]))
        return {
            **shown_address(target, info),
            "to": target.receiver.shown,
            "program": terms.script.hex(),
            "max_fee_sats": terms.max_fee_sats,
            "internal_key": key,
            "members": len(agreeing),
            "unblinded": True,
        }
