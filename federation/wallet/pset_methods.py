"""The JSON-RPC methods of the wallet process about PSETs and descriptors."""

from typing import Any

from federation.wallet.arguments import amount_of, check_text, translated
from federation.wallet.asset_names import AssetNames
from federation.wallet.spending import Spending
from sidechain.api.registry import INVALID_PARAMETER, TYPE_ERROR, Registry, RpcError
from sidechain.errors import InvalidEncoding, InvalidTransaction
from sidechain.params import ChainParams
from sidechain.primitives.address import decode_address, encode_address
from sidechain.primitives.transaction import TxOut
from sidechain.wallet.builder import Payment, build_payment, verify_made
from sidechain.wallet.descriptor import account_descriptor, parse_descriptor
from sidechain.wallet.keys import Branch
from sidechain.wallet.pset import (
    PsetView,
    combine_psets,
    create_pset,
    extract_pset,
    finalize_pset,
    sign_pset,
    view_pset,
)

MAX_COMBINED = 100


class PsetMethods:
    """Handlers of what is signed elsewhere: PSETs, and descriptors of wallets that watch."""

    def __init__(self, *, spending: Spending, assets: AssetNames, params: ChainParams) -> None:
        self._spending = spending
        self._book = spending.book
        self._assets = assets
        self._params = params

    def register(self, registry: Registry) -> None:
        """Offer all methods."""
        for name, handler, summary in (
            ("getdescriptor", self.descriptor, "The descriptor of a wallet"),
            ("importdescriptor", self.watch, "Watch the wallet of a descriptor, without its keys"),
            ("createpset", self.create, "A payment as a PSET, blinded and unsigned"),
            ("showpset", self.show, "What a PSET does to a wallet"),
            ("signpset", self.sign, "Sign the inputs of a PSET that are a wallet's"),
            ("combinepsets", self.combine, "One PSET with the signatures of several"),
            ("finalizepset", self.finalize, "The transaction of a PSET that is signed"),
            ("sendpset", self.send, "Send the transaction of a PSET that is signed"),
        ):
            registry.add(name, translated(handler), summary)

    # ---- descriptors ----

    def descriptor(self, name: str, explicit: bool = False) -> dict[str, Any]:
        """The descriptor of a wallet; `explicit` leaves out the key that shows all amounts."""
        if not isinstance(explicit, bool):
            raise RpcError(TYPE_ERROR, "explicit is true or false")
        account = self._book.wallet(name).account
        return {"name": name, "descriptor": account_descriptor(account, blinded=not explicit)}

    def watch(self, name: str, descriptor: str) -> dict[str, Any]:
        """Make a wallet that sees what that of the descriptor has, and looks for its history."""
        self._book.check_name(check_text(name, "name"))
        account = parse_descriptor(check_text(descriptor, "descriptor"))
        self._book.add(name, b"", account, rescan_height=0)
        return {"name": name, "confidential": account.master_blinding_key is not None}

    # ---- PSETs ----

    async def create(self, name: str, address: str, amount: Any, asset: str = "") -> dict[str, Any]:
        """A payment of a wallet for others to sign. Its coins are not set aside meanwhile."""
        value_sats = amount_of(amount)
        target = decode_address(check_text(address, "address"), self._params.prefixes)
        payment = Payment(
            script=target.script,
            asset=self._assets.find(asset),
            value_sats=value_sats,
            blinding_key=target.blinding_key,
        )
        wallet = self._book.wallet(name)
        rate = await self._spending.rate()
        terms = self._spending.terms(name, rate)
        draft = build_payment([payment], self._book.spendable(name), terms)
        text = create_pset(draft, wallet.account, wallet.path_of)
        self._book.take_script(name, Branch.CHANGE)
        return {"pset": text, "fee_sats": draft.fee_sats, "txid": draft.tx.txid[::-1].hex()}

    def show(self, name: str, pset: str) -> dict[str, Any]:
        """What the transaction pays, as far as this wallet can see, and what it costs it."""
        view = view_pset(check_text(pset, "pset"))
        wallet = self._book.wallet(name)
        entry = wallet.entry(view.tx, wallet.coins, 0, None)
        deltas = () if entry is None else entry.deltas
        own = {coin.outpoint.index: coin for coin in wallet.owned_outputs(view.tx, None)}
        return {
            "txid": view.tx.txid[::-1].hex(),
            "fee_sats": sum(out.value_sats or 0 for out in view.tx.outputs if out.is_fee),
            "complete": view.is_final,
            "inputs": [
                {
                    "outpoint": f"{item.outpoint.txid[::-1].hex()}:{item.outpoint.index}",
                    "own": item.outpoint in wallet.coins,
                    "signatures": item.signatures,
                    "final": item.is_final,
                }
                for item in view.inputs
            ],
            "outputs": [
                self._shown_output(output, own.get(position))
                for position, output in enumerate(view.tx.outputs)
                if not output.is_fee
            ],
            "wallet": [
                {**self._assets.show(asset), "amount_sats": amount} for asset, amount in deltas
            ],
        }

    def sign(self, name: str, pset: str) -> dict[str, Any]:
        """Add a wallet's signatures; inputs that are not its own are left alone."""
        wallet = self._book.wallet(name)
        secret_of = self._spending.secret_of(name)
        coins = {coin.outpoint: coin for coin in self._book.spendable(name)}
        coins |= wallet.coins
        text, signed = sign_pset(check_text(pset, "pset"), coins, secret_of)
        complete = view_pset(finalize_pset(text)).is_final
        return {"pset": text, "signed": signed, "complete": complete}

    def combine(self, psets: list[str]) -> dict[str, Any]:
        """One PSET of several copies."""
        if not isinstance(psets, list) or not 0 < len(psets) <= MAX_COMBINED:
            raise RpcError(TYPE_ERROR, f"give a list of 1 to {MAX_COMBINED} PSETs")
        text = combine_psets([check_text(item, "pset") for item in psets])
        return {"pset": text, "complete": view_pset(finalize_pset(text)).is_final}

    def finalize(self, pset: str) -> dict[str, Any]:
        """The final PSET, and its transaction in hex when every input is signed."""
        text = finalize_pset(check_text(pset, "pset"))
        view = view_pset(text)
        raw = self._checked(text, view).hex() if view.is_final else None
        return {"pset": text, "complete": view.is_final, "hex": raw}

    async def send(self, pset: str) -> str:
        """Record the transaction and hand it to the members; the txid."""
        text = finalize_pset(check_text(pset, "pset"))
        self._checked(text, view_pset(text))
        tx = extract_pset(text)
        if not self._book.is_pending(tx.txid):
            self._spending.keep(tx)
        return await self._spending.send(tx)

    def _checked(self, text: str, view: PsetView) -> bytes:
        """The transaction, verified as a member would as far as the PSET shows what it spends."""
        tx = extract_pset(text)
        spent = [item.output for item in view.inputs if item.output is not None]
        if len(spent) == len(view.inputs):
            try:
                verify_made(tx, spent, self._params)
            except InvalidTransaction as error:
                raise RpcError(INVALID_PARAMETER, f"not a valid transaction: {error}") from error
        return tx.raw

    def _shown_output(self, output: TxOut, own: Any) -> dict[str, Any]:
        asset, value = output.asset_id, output.value_sats
        if own is not None:
            asset, value = own.asset, own.value_sats
        shown = {"asset": None, "label": None} if asset is None else self._assets.show(asset)
        address: str | None
        try:
            address = encode_address(output.script, self._params.prefixes)
        except InvalidEncoding:  # a script that has no address form
            address = None
        return {**shown, "amount_sats": value, "own": own is not None, "address": address}
