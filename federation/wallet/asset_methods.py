"""The JSON-RPC methods of the wallet process about assets: issue, reissue, burn, list, label."""

from typing import Any

from federation.wallet.arguments import amount_of, check_text, translated
from federation.wallet.asset_names import AssetNames
from federation.wallet.spending import Spending
from sidechain.api.json_text import sats
from sidechain.api.registry import INVALID_PARAMETER, TYPE_ERROR, Registry, RpcError
from sidechain.primitives.issuance import issued_ids
from sidechain.wallet.builder import Draft, Terms
from sidechain.wallet.issuing import (
    IssuanceRecord,
    NewAsset,
    build_asset_burn,
    build_issuance,
    build_reissuance,
)
from sidechain.wallet.keys import Branch
from sidechain.wallet.selection import OwnedCoin

CONTRACT_HASH_BYTES = 32


class AssetMethods:
    """Handlers of all methods about assets."""

    def __init__(self, *, spending: Spending, assets: AssetNames) -> None:
        self._spending = spending
        self._book = spending.book
        self._assets = assets

    def register(self, registry: Registry) -> None:
        """Offer all methods."""
        for name, handler, summary in (
            ("issueasset", self.issue, "Issue a new asset to a wallet"),
            ("reissueasset", self.reissue, "Issue more of an asset that a wallet has the token of"),
            ("destroyamount", self.burn, "Burn an amount of an asset"),
            ("listissuances", self.list_issuances, "Issuances and reissuances of a wallet"),
            ("labelasset", self.label, "Give an asset a label"),
        ):
            registry.add(name, translated(handler), summary)

    async def issue(
        self,
        name: str,
        amount: Any,
        tokens: Any = 0,
        explicit: bool = False,
        contract_hash: str = "",
        label: str = "",
    ) -> dict[str, Any]:
        """Issue a new asset; amounts are hidden if not told otherwise.

        Args:
            tokens: amount of reissuance tokens; without one the asset can never grow.
            contract_hash: hex as shown, 32 bytes; empty for zero.
        """
        new = NewAsset(
            asset_sats=amount_of(amount),
            token_sats=_tokens(tokens),
            contract_hash=_contract_hash(contract_hash),
            hidden=not _flag(explicit, "explicit"),
        )
        if check_text(label, "label"):
            self._assets.check(label)
        wallet = self._book.wallet(name)

        def make(coins: list[OwnedCoin], terms: Terms) -> Draft:
            # taken before it is used: a crash in between costs an index, not a coin
            _, script = self._book.take_script(name, Branch.RECEIVE)
            return build_issuance(new, coins, terms, wallet.account, to_script=script)

        draft, txid = await self._spending.pay(name, make)
        ids = issued_ids(draft.tx.inputs[0])
        if ids is not None and label:
            self._assets.put(ids.asset, label)
        return {"txid": txid, **self._record(self._newest(name, draft.tx.txid))}

    async def reissue(self, name: str, asset: str, amount: Any) -> dict[str, Any]:
        """Issue more of an asset, hidden if and only if its issuance was."""
        value_sats = amount_of(amount)
        wanted = self._assets.find(asset)
        wallet = self._book.wallet(name)
        known = [item for item in self._book.issuances(name) if item.asset == wanted]
        if not known:
            raise RpcError(INVALID_PARAMETER, f"wallet {name!r} did not issue this asset")

        def make(coins: list[OwnedCoin], terms: Terms) -> Draft:
            _, script = self._book.take_script(name, Branch.RECEIVE)
            return build_reissuance(
                known[0], value_sats, coins, terms, wallet.account, to_script=script
            )

        draft, txid = await self._spending.pay(name, make)
        return {"txid": txid, **self._record(self._newest(name, draft.tx.txid))}

    async def burn(self, name: str, asset: str, amount: Any) -> str:
        """Destroy an amount of an asset; the txid."""
        value_sats = amount_of(amount)
        wanted = self._assets.find(asset)
        _, txid = await self._spending.pay(
            name, lambda coins, terms: build_asset_burn(wanted, value_sats, coins, terms)
        )
        return str(txid)

    def list_issuances(self, name: str) -> list[dict[str, Any]]:
        """What a wallet issued; hidden amounts are shown where its keys open them."""
        return [
            {"txid": item.txid[::-1].hex(), **self._record(item)}
            for item in self._book.issuances(name)
        ]

    def label(self, asset: str, label: str) -> dict[str, Any]:
        """Give an asset a label, in place of the one it had."""
        found = self._assets.find(asset)
        self._assets.put(found, check_text(label, "label"))
        return self._assets.show(found)

    def _newest(self, name: str, txid: bytes) -> IssuanceRecord:
        # the transaction is recorded: pending, or in a block that arrived meanwhile
        return next(item for item in self._book.issuances(name) if item.txid == txid)

    def _record(self, item: IssuanceRecord) -> dict[str, Any]:
        return {
            "vin": item.vin,
            **self._assets.show(item.asset),
            "token": item.token[::-1].hex(),
            "entropy": item.entropy[::-1].hex(),
            "contract_hash": item.contract_hash[::-1].hex(),
            "is_reissuance": item.is_reissuance,
            "blinded": item.is_hidden,
            "asset_sats": item.asset_sats,
            "token_sats": item.token_sats,
        }


def _tokens(value: Any) -> int:
    try:
        return sats(value)
    except ValueError as error:
        raise RpcError(TYPE_ERROR, str(error)) from error


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise RpcError(TYPE_ERROR, f"{name} is true or false")
    return value


def _contract_hash(text: object) -> bytes:
    shown = check_text(text, "contract_hash")
    if not shown:
        return bytes(CONTRACT_HASH_BYTES)
    try:
        found = bytes.fromhex(shown)
    except ValueError as error:
        raise RpcError(INVALID_PARAMETER, "contract_hash is not hex") from error
    if len(found) != CONTRACT_HASH_BYTES:
        raise RpcError(INVALID_PARAMETER, "contract_hash is not 32 bytes")
    return found[::-1]
