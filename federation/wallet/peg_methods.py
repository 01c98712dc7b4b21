"""The JSON-RPC methods of the wallet process about the peg: deposits, claims and burns."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from federation.wallet.arguments import (
    amount_of,
    check_text,
    translated,
)
from federation.wallet.deposit_addresses import DepositAddresses, shown_address
from federation.wallet.peg_store import PegStore
from federation.wallet.pegs import DepositAddress, Pegout
from federation.wallet.spending import Spending
from federation.wallet.views import PegViews
from federation.wallet.worker import PegWorker
from sidechain.api.registry import INVALID_PARAMETER, VERIFY_REJECTED, Registry, RpcError
from sidechain.params import ChainParams
from sidechain.primitives.address import decode_address
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.script.script import p2wsh
from sidechain.wallet.builder import PegoutLimits, build_burn, check_burn


class PegMethods:
    """Handlers of peg-ins and peg-outs. They decide and record without awaiting in between."""

    def __init__(
        self,
        *,
        store: PegStore,
        params: ChainParams,
        addresses: DepositAddresses,
        worker: PegWorker,
        views: PegViews,
        spending: Spending,
        on_peg_work: Callable[[], None],
    ) -> None:
        """
        Args:
            on_peg_work: told when there is something new to fund.
        """
        self._store = store
        self._book = store.book
        self._params = params
        self._addresses = addresses
        self._worker = worker
        self._views = views
        self._spending = spending
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
        receiver = self._addresses.receiver(to)
        info = await self._addresses.open_for_deposits()
        return shown_address(self._addresses.new(receiver), info)

    async def pegin(self, to: str, amount: Any, new: bool = False) -> dict[str, Any]:
        """Start a peg-in funded by the faucet, or go on with an unfinished equal one.

        Args:
            to: a wallet, or any sidechain address; a confidential one gets a blinded claim.
        """
        value_sats = amount_of(amount)
        receiver = self._addresses.receiver(to)
        if not new and (known := self._store.find_open_pegin(receiver, value_sats)) is not None:
            return {**self._views.pegin(known), "resumed": True}
        info = await self._addresses.open_for_deposits()
        if value_sats < info.min_pegin_sats:
            raise RpcError(
                INVALID_PARAMETER, f"the least amount to peg in is {info.min_pegin_sats} sat"
            )
        # Asked again: another call may have started it while this one waited for a member.
        if not new and (known := self._store.find_open_pegin(receiver, value_sats)) is not None:
            return {**self._views.pegin(known), "resumed": True}
        pegin = self._views.new_pegin(self._addresses.new(receiver), value_sats)
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
        """All of them, oldest first; then keyless addresses that nothing was paid to yet."""
        used = {pegin.target.deposit_script for pegin in self._store.pegins}
        unused = [
            self._views.unused_address(target)
            for target in self._store.addresses()
            if target.covenant is not None and target.deposit_script not in used
        ]
        return [*(self._views.pegin(pegin) for pegin in self._store.pegins), *unused]

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
        if latest is None or latest.final_height is not None:
            return
        if outcome.refused_for_good and self._book.is_pending(tx.txid):
            failed = replace(latest, failure=outcome.reason, is_reported=True)
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
