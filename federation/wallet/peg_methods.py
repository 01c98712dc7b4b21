"""The JSON-RPC methods of the wallet process about the peg: deposits, claims and burns."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from federation.wallet.arguments import (
    WALLET_ERROR,
    WALLET_NOT_FOUND,
    amount_of,
    check_text,
    translated,
)
from federation.wallet.chain import ChainFollower
from federation.wallet.links import MemberLinks
from federation.wallet.peg_store import PegStore
from federation.wallet.pegs import DepositAddress, Pegout, Receiver
from federation.wallet.spending import Spending
from federation.wallet.views import PegViews
from federation.wallet.worker import PegWorker
from sidechain.api.registry import INVALID_PARAMETER, VERIFY_REJECTED, Registry, RpcError
from sidechain.errors import InvalidEncoding
from sidechain.params import ChainParams
from sidechain.primitives.address import decode_address, encode_address, read_address
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.script.script import p2wsh
from sidechain.validation.pegins import deposit_script
from sidechain.wallet.book import CLAIMS_WALLET
from sidechain.wallet.builder import PegoutLimits, build_burn, check_burn
from sidechain.wallet.keys import Branch

SEED_BYTES = 32


class PegMethods:
    """Handlers of peg-ins and peg-outs. They decide and record without awaiting in between."""

    def __init__(
        self,
        *,
        members: MemberLinks,
        store: PegStore,
        params: ChainParams,
        chain: ChainFollower,
        worker: PegWorker,
        views: PegViews,
        spending: Spending,
        entropy: Callable[[int], bytes],
        on_peg_work: Callable[[], None],
    ) -> None:
        """
        Args:
            entropy: gives that many FRESH random bytes.
            on_peg_work: told when there is something new to fund.
        """
        self._members = members
        self._store = store
        self._book = store.book
        self._params = params
        self._chain = chain
        self._worker = worker
        self._views = views
        self._spending = spending
        self._entropy = entropy
        self._on_peg_work = on_peg_work

    def register(self, registry: Registry) -> None:
        """Offer all methods."""
        for name, handler, summary in (
            ("getpeginaddress", self.pegin_address, "A Bitcoin deposit address for a receiver"),
            ("pegin", self.pegin, "Start a peg-in from the faucet, or go on with an equal one"),
            ("getpegin", self.get_pegin, "A peg-in by id, deposit (txid:vout) or address"),
            ("listpegins", self.list_pegins, "All peg-ins, oldest first"),
            ("pegout", self.pegout, "Burn coins for a Bitcoin payment, or go on with an equal one"),
            ("getpegout", self.get_pegout, "A peg-out by id or burn (txid:vout)"),
            ("listpegouts", self.list_pegouts, "All peg-outs, oldest first"),
        ):
            registry.add(name, translated(handler), summary)

    # ---- peg-in ----

    async def pegin_address(self, to: str) -> dict[str, Any]:
        """A deposit address, with what a depositor must know."""
        receiver = self._receiver(to)
        info = await self._open_for_deposits()
        target = self._new_deposit_address(receiver)
        return {
            "address": target.address,
            "claim_script": target.claim_script.hex(),
            "min_pegin_sats": info.min_pegin_sats,
            "required_confirmations": info.pegin_depth,
            "claim_within_blocks": info.csv - info.w_sweep,
        }

    async def pegin(self, to: str, amount: Any, new: bool = False) -> dict[str, Any]:
        """Start a peg-in funded by the faucet, or go on with an unfinished equal one.

        Args:
            to: a wallet, or any sidechain address; a confidential one gets a blinded claim.
        """
        value_sats = amount_of(amount)
        receiver = self._receiver(to)
        if not new and (known := self._store.find_open_pegin(receiver, value_sats)) is not None:
            return {**self._views.pegin(known), "resumed": True}
        info = await self._open_for_deposits()
        if value_sats < info.min_pegin_sats:
            raise RpcError(
                INVALID_PARAMETER, f"the least amount to peg in is {info.min_pegin_sats} sat"
            )
        # Asked again: another call may have started it while this one waited for a member.
        if not new and (known := self._store.find_open_pegin(receiver, value_sats)) is not None:
            return {**self._views.pegin(known), "resumed": True}
        pegin = self._views.new_pegin(self._new_deposit_address(receiver), value_sats)
        self._store.put(pegin)
        self._on_peg_work()
        return {**self._views.pegin(pegin), "resumed": False}

    def get_pegin(self, id: str) -> dict[str, Any]:
        """State of one peg-in; seeing its end lets an equal request start a new one."""
        found = self._views.find_pegin(check_text(id, "id"))
        if isinstance(found, DepositAddress):
            return self._views.unused_address(found)
        view = self._views.pegin(found)
        if view["stage"] in ("final", "failed") and not found.is_reported:
            self._store.put(replace(found, is_reported=True))
        return view

    def list_pegins(self) -> list[dict[str, Any]]:
        """All of them, oldest first."""
        return [self._views.pegin(pegin) for pegin in self._store.pegins]

    async def _open_for_deposits(self) -> Any:
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
        await self._check_fedpegscript()
        return info

    async def _check_fedpegscript(self) -> None:
        reply = await self._members.call("getsidechaininfo")
        scripts = reply.get("current_fedpegscripts") or []
        if not scripts or scripts[0] != self._params.fedpegscript.hex():
            raise RpcError(WALLET_ERROR, "deposits now go to a script this wallet does not know")

    def _receiver(self, to: object) -> Receiver:
        """Who gets a peg-in: one of the wallets, or else a sidechain address."""
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

    def _new_deposit_address(self, receiver: Receiver) -> DepositAddress:
        if receiver.pay_to:
            self._book.claims_wallet(self._entropy(SEED_BYTES))
        index, claim_script = self._book.take_script(receiver.wallet, Branch.CLAIM)
        fedpegscript = self._params.fedpegscript
        script = deposit_script(p2wsh(fedpegscript), fedpegscript, claim_script)
        address = DepositAddress(
            wallet=receiver.wallet,
            pay_to=receiver.pay_to,
            address=encode_address(script, self._params.parent_prefixes),
            claim_index=index,
            claim_script=claim_script,
            deposit_script=script,
        )
        self._store.add_address(address)
        return address

    # ---- peg-out ----

    async def pegout(
        self, name: str, address: str, amount: Any, new: bool = False
    ) -> dict[str, Any]:
        """Burn coins for a Bitcoin payment, or go on with an unfinished equal one."""
        value_sats = amount_of(amount)
        self._book.wallet(name)
        text = check_text(address, "address")
        destination = decode_address(text, self._params.parent_prefixes).script
        if not new and (known := self._store.find_open_pegout(name, text, value_sats)) is not None:
            return {**await self._views.pegout(known), "resumed": True}
        info = await self._worker.peg_info()
        limits = PegoutLimits(
            min_pegout_sats=info.min_pegout_sats,
            payout_cap_sats=info.payout_cap_sats,
            federation_scripts=(p2wsh(self._params.fedpegscript),),
        )
        check_burn(destination, value_sats, limits)
        rate = await self._spending.rate()
        if not new and (known := self._store.find_open_pegout(name, text, value_sats)) is not None:
            return {**await self._views.pegout(known), "resumed": True}
        draft = build_burn(
            destination,
            value_sats,
            self._book.spendable(name),
            self._spending.terms(name, rate),
            limits=limits,
        )
        tx = self._spending.sign(name, draft)
        pegout = Pegout(
            number=self._store.next_pegout_number(),
            wallet=name,
            address=text,
            amount_sats=value_sats,
            burn=OutPoint(tx.txid, 0),
            fee_sats=draft.fee_sats,
        )
        self._spending.record(name, tx, self._store.changes(pegout))
        self._store.remember(pegout)
        await self._send_burn(pegout, tx)
        latest = self._store.pegout(pegout.number) or pegout
        return {**await self._views.pegout(latest), "resumed": False}

    async def _send_burn(self, pegout: Pegout, tx: Transaction) -> None:
        outcome = await self._worker.send(tx)
        latest = self._store.pegout(pegout.number)
        still_open = latest is not None and latest.final_height is None
        if outcome.refused_for_good and still_open and self._book.is_pending(tx.txid):
            failed = replace(pegout, failure=outcome.reason, is_reported=True)
            self._book.abandon(tx.txid, self._store.changes(failed))
            self._store.remember(failed)
            raise RpcError(VERIFY_REJECTED, outcome.reason)

    async def get_pegout(self, id: str) -> dict[str, Any]:
        """State of one peg-out; seeing its end lets an equal request start a new one."""
        found = self._views.find_pegout(check_text(id, "id"))
        view = await self._views.pegout(found)
        latest = self._store.pegout(found.number)
        if view["done"] and latest is not None and not latest.is_reported:
            self._store.put(replace(latest, is_reported=True))
        return view

    async def list_pegouts(self) -> list[dict[str, Any]]:
        """All of them, oldest first."""
        return [await self._views.pegout(pegout) for pegout in self._store.pegouts]
