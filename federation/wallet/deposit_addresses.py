"""Handing out deposit addresses: whether one may be shown now, for whom, and what goes with it.

Source: peg:4 ("Addresses"), peg:P3, peg:S11, N4.
"""

from collections.abc import Callable
from typing import Any

from federation.wallet.arguments import WALLET_ERROR, WALLET_NOT_FOUND, check_text
from federation.wallet.chain import ChainFollower
from federation.wallet.links import MemberLinks
from federation.wallet.peg_store import PegStore
from federation.wallet.pegs import DepositAddress, PegInfo, Receiver
from federation.wallet.worker import PegWorker
from sidechain.api.registry import RpcError
from sidechain.errors import InvalidEncoding
from sidechain.params import ChainParams
from sidechain.primitives.address import encode_address, read_address
from sidechain.script.script import p2wsh
from sidechain.validation.pegins import deposit_script
from sidechain.wallet.book import CLAIMS_WALLET
from sidechain.wallet.covenant import CovenantTerms, covenant_script
from sidechain.wallet.keys import Branch

SEED_BYTES = 32
FOLLOW_LAG_BLOCKS = 10
"""A wallet process so many blocks behind a member is still catching up."""


class DepositAddresses:
    """Makes and keeps deposit addresses. They are durable before anybody sees them."""

    def __init__(
        self,
        *,
        members: MemberLinks,
        store: PegStore,
        params: ChainParams,
        chain: ChainFollower,
        worker: PegWorker,
        entropy: Callable[[int], bytes],
    ) -> None:
        """
        Args:
            entropy: gives that many FRESH random bytes.
        """
        self._members = members
        self._store = store
        self._book = store.book
        self._params = params
        self._chain = chain
        self._worker = worker
        self._entropy = entropy

    async def open_for_deposits(self) -> PegInfo:
        """The limits in force, if an address may be shown now.

        Raises:
            RpcError: it may not; says why.
        """
        info = await self._worker.peg_info()
        if not info.deposits_open:
            raise RpcError(WALLET_ERROR, f"deposits are closed: {info.reason or 'no reason given'}")
        # Before the first epoch boundary the enforced script has another form (N4).
        if self._chain.tip_height < self._params.dynamic_epoch_length - 1:
            raise RpcError(
                WALLET_ERROR,
                "deposits open when the first epoch is over: at block "
                f"{self._params.dynamic_epoch_length - 1}, followed so far "
                f"{self._chain.tip_height}",
            )
        tip_height = int(await self._members.call("getblockcount"))
        if self._chain.tip_height < tip_height - FOLLOW_LAG_BLOCKS:
            raise RpcError(
                WALLET_ERROR,
                f"this wallet is catching up with the sidechain: block {self._chain.tip_height} of "
                f"{tip_height}",
            )
        await self._check_fedpegscript()
        return info

    async def _check_fedpegscript(self) -> None:
        reply = await self._members.call("getsidechaininfo")
        scripts = reply.get("current_fedpegscripts") or []
        if not scripts or scripts[0] != self._params.fedpegscript.hex():
            raise RpcError(WALLET_ERROR, "deposits now go to a script this wallet does not know")

    def receiver(self, to: object) -> Receiver:
        """Who gets a peg-in: one of the wallets, or else a sidechain address.

        Raises:
            RpcError: it is neither.
        """
        text = check_text(to, "to")
        if text in self._book.names:
            return Receiver(wallet=text)
        try:
            read_address(text, self._params.prefixes)
        except InvalidEncoding as error:
            raise RpcError(
                WALLET_NOT_FOUND,
                f"there is no wallet named {text!r}, and it is no sidechain address: {error}",
            ) from error
        return Receiver(wallet=CLAIMS_WALLET, pay_to=text)

    def new(self, receiver: Receiver) -> DepositAddress:
        """An address whose deposits this process claims, kept."""
        if receiver.pay_to:
            self._book.claims_wallet(self._entropy(SEED_BYTES))
        index, claim_script = self._book.take_script(receiver.wallet, Branch.CLAIM)
        return self._keep(receiver, claim_script, index, None)

    def keyless(self, receiver: Receiver, terms: CovenantTerms) -> DepositAddress:
        """The address whose deposits members claim for the receiver, kept; one for each terms."""
        claim_script = covenant_script(terms, self._params.pegged_asset)
        known = self._store.address_of(self._script_of(claim_script))
        return self._keep(receiver, claim_script, 0, terms) if known is None else known

    def _keep(
        self, receiver: Receiver, claim_script: bytes, index: int, terms: CovenantTerms | None
    ) -> DepositAddress:
        script = self._script_of(claim_script)
        address = DepositAddress(
            wallet=receiver.wallet,
            pay_to=receiver.pay_to,
            address=encode_address(script, self._params.parent_prefixes),
            claim_index=index,
            claim_script=claim_script,
            deposit_script=script,
            covenant=terms,
        )
        self._store.add_address(address)
        return address

    def _script_of(self, claim_script: bytes) -> bytes:
        fedpegscript = self._params.fedpegscript
        return deposit_script(p2wsh(fedpegscript), fedpegscript, claim_script)


def shown_address(target: DepositAddress, info: PegInfo) -> dict[str, Any]:
    """A deposit address as JSON, with what a depositor must know."""
    return {
        "address": target.address,
        "claim_script": target.claim_script.hex(),
        "min_pegin_sats": info.min_pegin_sats,
        "required_confirmations": info.pegin_depth,
        "claim_within_blocks": info.csv - info.w_sweep,
        "claim_before_height": info.claim_before_height,
    }
