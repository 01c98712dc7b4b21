"""The JSON-RPC methods of the wallet process about wallets and payments.

Amounts go in as coins (JSON number or text, eight decimals at most) and come out in satoshis
under names that end in `_sats`. Hashes and ids are shown as Bitcoin and Elements show them.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from federation.wallet.arguments import (
    UNLOCK_NEEDED,
    WALLET_ERROR,
    amount_of,
    check_text,
    translated,
)
from federation.wallet.asset_names import AssetNames
from federation.wallet.chain import ChainFollower, Keyring
from federation.wallet.spending import Spending
from sidechain.api.registry import INVALID_PARAMETER, TYPE_ERROR, Registry, RpcError
from sidechain.params import ChainParams
from sidechain.primitives.address import read_address
from sidechain.wallet.book import WalletBook
from sidechain.wallet.builder import Payment, build_payment
from sidechain.wallet.keys import Branch, PrivateAccount, seed_of_mnemonic
from sidechain.wallet.records import HistoryEntry
from sidechain.wallet.sealing import ENTROPY_BYTES, is_sealed, seal, store_plain, unseal
from sidechain.wallet.wallet import Balances

SEED_BYTES = 32
MAX_UNLOCK_S = 100_000_000
MAX_HISTORY = 10_000


class WalletMethods:
    """Handlers of all methods. They decide and record without awaiting in between."""

    def __init__(
        self,
        *,
        book: WalletBook,
        params: ChainParams,
        chain: ChainFollower,
        keyring: Keyring,
        spending: Spending,
        assets: AssetNames,
        entropy: Callable[[int], bytes],
        on_peg_work: Callable[[], None],
    ) -> None:
        """
        Args:
            entropy: gives that many FRESH random bytes.
            on_peg_work: told when there may be something to claim.
        """
        self._book = book
        self._params = params
        self._chain = chain
        self._keyring = keyring
        self._spending = spending
        self._assets = assets
        self._entropy = entropy
        self._on_peg_work = on_peg_work

    def register(self, registry: Registry) -> None:
        """Offer all methods."""
        for name, handler, summary in (
            ("getinfo", self.info, "How far the sidechain is followed"),
            ("createwallet", self.create_wallet, "Create a wallet; with a passphrase it is locked"),
            ("restorewallet", self.restore_wallet, "Make a wallet from BIP39 words"),
            ("listwallets", self.list_wallets, "Names of all wallets"),
            ("getwalletinfo", self.wallet_info, "Whether a wallet is encrypted and unlocked"),
            ("walletpassphrase", self.unlock, "Unlock a wallet for some seconds, in memory only"),
            ("walletlock", self.lock, "Lock a wallet now"),
            ("getbalances", self.balances, "Balances of a wallet in satoshis"),
            ("getnewaddress", self.new_address, "A fresh sidechain address of a wallet"),
            ("listtransactions", self.list_transactions, "The newest transactions of a wallet"),
            ("sendtoaddress", self.send_to_address, "Pay a sidechain address; the txid"),
            ("dumpblindingkey", self.blinding_key, "The master blinding key: shows all amounts"),
        ):
            registry.add(name, translated(handler), summary)

    def info(self) -> dict[str, Any]:
        """Height of the last final block taken in, -1 before the first."""
        return {"chain": self._params.name, "followed_height": self._chain.tip_height}

    # ---- wallets ----

    async def create_wallet(self, name: str, passphrase: str = "") -> dict[str, Any]:
        """Make a wallet from fresh entropy."""
        check_text(name, "name")
        self._book.check_name(name)
        return await self._keep_seed(name, self._entropy(SEED_BYTES), passphrase, None)

    async def restore_wallet(
        self, name: str, mnemonic: str, passphrase: str = ""
    ) -> dict[str, Any]:
        """Make a wallet from the words of a BIP39 mnemonic, and look for its history."""
        check_text(name, "name")
        self._book.check_name(name)
        seed = seed_of_mnemonic(check_text(mnemonic, "mnemonic"))
        return await self._keep_seed(name, seed, passphrase, 0)

    async def _keep_seed(
        self, name: str, seed: bytes, passphrase: str, rescan_height: int | None
    ) -> dict[str, Any]:
        account = PrivateAccount.from_seed(seed).public
        stored = store_plain(seed)
        if check_text(passphrase or "", "passphrase"):
            salt = self._entropy(ENTROPY_BYTES)
            stored = await asyncio.to_thread(seal, seed, passphrase, account, salt)
        self._book.add(name, stored, account, rescan_height=rescan_height)
        return {"name": name, "encrypted": bool(passphrase)}

    def list_wallets(self) -> list[str]:
        """Names, oldest first."""
        return list(self._book.names)

    def wallet_info(self, name: str) -> dict[str, Any]:
        """Encryption state and number of addresses."""
        wallet = self._book.wallet(name)
        encrypted = is_sealed(wallet.record.stored_seed)
        left_s = self._keyring.seconds_left(name)
        return {
            "name": name,
            "encrypted": encrypted,
            "locked": encrypted and left_s == 0,
            "unlocked_for_s": left_s,
            "addresses": wallet.issued(Branch.RECEIVE),
            "followed_height": self._chain.tip_height,
            "watch_only": wallet.is_watch_only,
            "confidential": wallet.account.master_blinding_key is not None,
            "rescan_height": wallet.record.rescan_height,
        }

    async def unlock(self, name: str, passphrase: str, seconds: int) -> None:
        """Keep the keys of a wallet in memory for some seconds."""
        check_text(passphrase, "passphrase")
        if not isinstance(seconds, int) or isinstance(seconds, bool):
            raise RpcError(TYPE_ERROR, "seconds must be a whole number")
        if not 0 <= seconds <= MAX_UNLOCK_S:
            raise RpcError(INVALID_PARAMETER, "seconds is out of range")
        wallet = self._book.wallet(name)
        if not is_sealed(wallet.record.stored_seed):
            raise RpcError(WALLET_ERROR, f"wallet {name!r} has no passphrase")
        seed = await asyncio.to_thread(
            unseal, wallet.record.stored_seed, passphrase, wallet.account
        )
        account = PrivateAccount.from_seed(seed)
        self._book.learn_account(name, account.public)
        self._keyring.unlock(name, account, seconds)
        self._on_peg_work()

    def lock(self, name: str) -> None:
        """Forget the keys of a wallet."""
        self._keyring.lock(self._book.wallet(name).name)

    def blinding_key(self, name: str) -> dict[str, Any]:
        """The SLIP-77 key: who has it sees what all outputs to the wallet hold."""
        wallet = self._book.wallet(name)
        key = wallet.account.master_blinding_key
        if key is None:
            raise RpcError(UNLOCK_NEEDED, f"wallet {name!r} has no blinding key: unlock it once")
        return {"name": name, "master_blinding_key": key.value.hex()}

    def balances(self, name: str) -> dict[str, Any]:
        """Confirmed, pending and spendable amounts: in the pegged asset, and in every asset."""
        wallet = self._book.wallet(name)
        others = [a for a in self._book.assets(name) if a != self._params.pegged_asset]
        held = [self._params.pegged_asset, *others]
        return {
            **_amounts(self._book.balances(name)),
            "height": self._chain.tip_height,
            "assets": [
                {**self._assets.show(asset), **_amounts(self._book.balances(name, asset))}
                for asset in held
            ],
            "unknown_outputs": len(wallet.unknown),
        }

    def new_address(self, name: str, explicit: bool = False) -> str:
        """A receive address that was never handed out; confidential if not told otherwise."""
        if not isinstance(explicit, bool):
            raise RpcError(TYPE_ERROR, "explicit is true or false")
        return self._spending.take_address(name, explicit=explicit)

    def list_transactions(self, name: str, count: int = 100) -> list[dict[str, Any]]:
        """The newest transactions, oldest of them first; unconfirmed ones last."""
        if not isinstance(count, int) or not 0 < count <= MAX_HISTORY:
            raise RpcError(INVALID_PARAMETER, f"count is 1 to {MAX_HISTORY}")
        return [self._entry(entry) for entry in self._book.history(name, count)]

    def _entry(self, entry: HistoryEntry) -> dict[str, Any]:
        pegged = dict(entry.deltas).get(self._params.pegged_asset, 0)
        others = {
            asset[::-1].hex(): amount
            for asset, amount in entry.deltas
            if asset != self._params.pegged_asset
        }
        height = entry.height
        return {
            "txid": entry.txid[::-1].hex(),
            "category": entry.kind,
            "amount_sats": pegged,
            "fee_sats": entry.fee_sats,
            "height": height,
            "confirmations": 0 if height is None else self._chain.tip_height - height + 1,
            "time": entry.unix_time_s,
            "unknown_outputs": entry.unknown,
            "assets": [
                {**self._assets.show(asset), "amount_sats": amount}
                for asset, amount in entry.deltas
            ],
            **({"other_assets": others} if others else {}),
        }

    # ---- payments ----

    async def send_to_address(self, name: str, address: str, amount: Any, asset: str = "") -> str:
        """Pay from a wallet; the payment is recorded before it leaves.

        A confidential address is paid blinded. `asset` is an id or a label, empty for the pegged
        one.
        """
        value_sats = amount_of(amount)
        target = read_address(check_text(address, "address"), self._params.prefixes)
        payment = Payment(
            script=target.script,
            asset=self._assets.find(asset),
            value_sats=value_sats,
            blinding_key=target.blinding_key,
        )
        _, txid = await self._spending.pay(
            name, lambda coins, terms: build_payment([payment], coins, terms)
        )
        return str(txid)


def _amounts(found: Balances) -> dict[str, int]:
    return {
        "confirmed_sats": found.confirmed_sats,
        "pending_in_sats": found.pending_in_sats,
        "pending_out_sats": found.pending_out_sats,
        "available_sats": found.available_sats,
    }
