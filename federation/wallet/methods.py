"""The JSON-RPC methods of the wallet process.

Amounts go in as coins (JSON number or text, eight decimals at most) and come out in satoshis
under names that end in `_sats`. Hashes and ids are shown as Bitcoin and Elements show them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import wraps
from typing import Any

from federation.wallet.chain import ChainFollower, Keyring
from federation.wallet.links import MemberLinks
from federation.wallet.peg_store import PegStore
from federation.wallet.pegs import DepositAddress, Pegout
from federation.wallet.views import PegViews
from federation.wallet.worker import PegWorker
from sidechain.api.json_text import sats
from sidechain.api.registry import (
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    TYPE_ERROR,
    VERIFY_REJECTED,
    Registry,
    RpcError,
)
from sidechain.errors import InvalidEncoding, Unavailable
from sidechain.params import ChainParams
from sidechain.primitives.address import decode_address, encode_address
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.script.script import p2wsh
from sidechain.validation.pegins import deposit_script
from sidechain.wallet.builder import (
    Payment,
    PegoutLimits,
    build_burn,
    build_payment,
    check_burn,
    sign,
)
from sidechain.wallet.keys import Branch, PrivateAccount
from sidechain.wallet.records import HistoryEntry
from sidechain.wallet.sealing import (
    ENTROPY_BYTES,
    WrongPassphrase,
    is_sealed,
    seal,
    store_plain,
    unseal,
)
from sidechain.wallet.selection import OwnedCoin, WalletRefusal

WALLET_ERROR = -4
INSUFFICIENT_FUNDS = -6
CLIENT_NOT_CONNECTED = -9
UNLOCK_NEEDED = -13
PASSPHRASE_INCORRECT = -14
WALLET_NOT_FOUND = -18
SEED_BYTES = 32
MAX_UNLOCK_S = 100_000_000
MAX_HISTORY = 10_000

_REFUSAL_CODES = {
    "unknown-wallet": WALLET_NOT_FOUND,
    "insufficient-funds": INSUFFICIENT_FUNDS,
    "locked": UNLOCK_NEEDED,
    "wallet-name": INVALID_PARAMETER,
    "amount": INVALID_PARAMETER,
    "dust": INVALID_PARAMETER,
    "E3_SCRIPT": INVALID_ADDRESS_OR_KEY,
    "E4_MIN": INVALID_PARAMETER,
    "E5_FED": INVALID_ADDRESS_OR_KEY,
    "HELD_OVERSIZE": INVALID_PARAMETER,
}


class WalletMethods:
    """Handlers of all methods. They decide and record without awaiting in between."""

    def __init__(
        self,
        *,
        members: MemberLinks,
        store: PegStore,
        params: ChainParams,
        chain: ChainFollower,
        worker: PegWorker,
        views: PegViews,
        keyring: Keyring,
        entropy: Callable[[int], bytes],
        unix_time_s: Callable[[], int],
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
        self._keyring = keyring
        self._entropy = entropy
        self._unix_time_s = unix_time_s
        self._on_peg_work = on_peg_work

    def register(self, registry: Registry) -> None:
        """Offer all methods."""
        for name, handler, summary in (
            ("getinfo", self.info, "How far the sidechain is followed"),
            ("createwallet", self.create_wallet, "Create a wallet; with a passphrase it is locked"),
            ("listwallets", self.list_wallets, "Names of all wallets"),
            ("getwalletinfo", self.wallet_info, "Whether a wallet is encrypted and unlocked"),
            ("walletpassphrase", self.unlock, "Unlock a wallet for some seconds, in memory only"),
            ("walletlock", self.lock, "Lock a wallet now"),
            ("getbalances", self.balances, "Balances of a wallet in satoshis"),
            ("getnewaddress", self.new_address, "A fresh sidechain address of a wallet"),
            ("listtransactions", self.list_transactions, "The newest transactions of a wallet"),
            ("sendtoaddress", self.send_to_address, "Pay a sidechain address; the txid"),
            ("getpeginaddress", self.pegin_address, "A Bitcoin deposit address of a wallet"),
            ("pegin", self.pegin, "Start a peg-in from the faucet, or go on with an equal one"),
            ("getpegin", self.get_pegin, "A peg-in by id, deposit (txid:vout) or address"),
            ("listpegins", self.list_pegins, "All peg-ins, oldest first"),
            ("pegout", self.pegout, "Burn coins for a Bitcoin payment, or go on with an equal one"),
            ("getpegout", self.get_pegout, "A peg-out by id or burn (txid:vout)"),
            ("listpegouts", self.list_pegouts, "All peg-outs, oldest first"),
        ):
            registry.add(name, _translated(handler), summary)

    def info(self) -> dict[str, Any]:
        """Height of the last final block taken in, -1 before the first."""
        return {"chain": self._params.name, "followed_height": self._chain.tip_height}

    # ---- wallets ----

    async def create_wallet(self, name: str, passphrase: str = "") -> dict[str, Any]:
        """Make a wallet from fresh entropy."""
        _check_text(name, "name")
        _check_text(passphrase or "", "passphrase")
        self._book.check_name(name)
        seed = self._entropy(SEED_BYTES)
        account = PrivateAccount.from_seed(seed).public
        stored = store_plain(seed)
        if passphrase:
            salt = self._entropy(ENTROPY_BYTES)
            stored = await asyncio.to_thread(seal, seed, passphrase, account, salt)
        self._book.add(name, stored, account)
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
        }

    async def unlock(self, name: str, passphrase: str, seconds: int) -> None:
        """Keep the keys of a wallet in memory for some seconds."""
        _check_text(passphrase, "passphrase")
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
        self._keyring.unlock(name, PrivateAccount.from_seed(seed), seconds)
        self._on_peg_work()

    def lock(self, name: str) -> None:
        """Forget the keys of a wallet."""
        self._keyring.lock(self._book.wallet(name).name)

    def balances(self, name: str) -> dict[str, Any]:
        """Confirmed, pending and spendable amounts in the pegged asset."""
        found = self._book.balances(name)
        return {
            "confirmed_sats": found.confirmed_sats,
            "pending_in_sats": found.pending_in_sats,
            "pending_out_sats": found.pending_out_sats,
            "available_sats": found.available_sats,
            "height": self._chain.tip_height,
        }

    def new_address(self, name: str) -> str:
        """A receive address that was never handed out."""
        _, script = self._book.take_script(name, Branch.RECEIVE)
        return encode_address(script, self._params.prefixes)

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
            **({"other_assets": others} if others else {}),
        }

    # ---- payments ----

    async def send_to_address(self, name: str, address: str, amount: Any) -> str:
        """Pay from a wallet; the payment is recorded before it leaves."""
        value_sats = _amount(amount)
        target = decode_address(_check_text(address, "address"), self._params.prefixes)
        if target.blinding_key is not None:
            raise RpcError(
                INVALID_ADDRESS_OR_KEY,
                "confidential addresses cannot be paid yet: use the unblinded form",
            )
        self._book.wallet(name)
        rate = await self._chain.fee_rate_sats_per_kvb()
        payment = Payment(
            script=target.script, asset=self._params.pegged_asset, value_sats=value_sats
        )
        draft = build_payment(
            [payment],
            self._book.spendable(name),
            self._params,
            change_script=self._peek_change(name),
            rate_sats_per_kvb=rate,
        )
        tx = sign(draft, self._secret_of(name))
        self._book.take_script(name, Branch.CHANGE)
        self._book.record_pending(tx, self._unix_time_s())
        await self._send_or_abandon(tx)
        return tx.txid[::-1].hex()

    async def _send_or_abandon(self, tx: Transaction) -> None:
        outcome = await self._worker.send(tx)
        if outcome.refused_for_good and self._book.is_pending(tx.txid):
            self._book.abandon(tx.txid)
            raise RpcError(VERIFY_REJECTED, outcome.reason)

    def _peek_change(self, name: str) -> bytes:
        wallet = self._book.wallet(name)
        return wallet.account.script(Branch.CHANGE, wallet.issued(Branch.CHANGE))

    def _secret_of(self, name: str) -> Callable[[OwnedCoin], Any]:
        account = self._keyring.account(self._book.wallet(name))
        return lambda coin: account.secret(coin.branch, coin.index)

    # ---- peg-in ----

    async def pegin_address(self, name: str) -> dict[str, Any]:
        """A deposit address, with what a depositor must know."""
        self._book.wallet(name)
        info = await self._open_for_deposits()
        target = self._new_deposit_address(name)
        return {
            "address": target.address,
            "claim_script": target.claim_script.hex(),
            "min_pegin_sats": info.min_pegin_sats,
            "required_confirmations": info.pegin_depth,
            "claim_within_blocks": info.csv - info.w_sweep,
        }

    async def pegin(self, name: str, amount: Any, new: bool = False) -> dict[str, Any]:
        """Start a peg-in funded by the faucet, or go on with an unfinished equal one."""
        value_sats = _amount(amount)
        self._book.wallet(name)
        if not new and (known := self._store.find_open_pegin(name, value_sats)) is not None:
            return {**self._views.pegin(known), "resumed": True}
        info = await self._open_for_deposits()
        if value_sats < info.min_pegin_sats:
            raise RpcError(
                INVALID_PARAMETER, f"the least amount to peg in is {info.min_pegin_sats} sat"
            )
        # Asked again: another call may have started it while this one waited for a member.
        if not new and (known := self._store.find_open_pegin(name, value_sats)) is not None:
            return {**self._views.pegin(known), "resumed": True}
        pegin = self._views.new_pegin(self._new_deposit_address(name), value_sats)
        self._store.put(pegin)
        self._on_peg_work()
        return {**self._views.pegin(pegin), "resumed": False}

    def get_pegin(self, id: str) -> dict[str, Any]:
        """State of one peg-in; seeing its end lets an equal request start a new one."""
        found = self._views.find_pegin(_check_text(id, "id"))
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

    def _new_deposit_address(self, name: str) -> DepositAddress:
        index, claim_script = self._book.take_script(name, Branch.CLAIM)
        fedpegscript = self._params.fedpegscript
        script = deposit_script(p2wsh(fedpegscript), fedpegscript, claim_script)
        address = DepositAddress(
            wallet=name,
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
        value_sats = _amount(amount)
        self._book.wallet(name)
        text = _check_text(address, "address")
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
        rate = await self._chain.fee_rate_sats_per_kvb()
        if not new and (known := self._store.find_open_pegout(name, text, value_sats)) is not None:
            return {**await self._views.pegout(known), "resumed": True}
        draft = build_burn(
            destination,
            value_sats,
            self._book.spendable(name),
            self._params,
            limits=limits,
            change_script=self._peek_change(name),
            rate_sats_per_kvb=rate,
        )
        tx = sign(draft, self._secret_of(name))
        pegout = Pegout(
            number=self._store.next_pegout_number(),
            wallet=name,
            address=text,
            amount_sats=value_sats,
            burn=OutPoint(tx.txid, 0),
            fee_sats=draft.fee_sats,
        )
        self._book.take_script(name, Branch.CHANGE)
        self._book.record_pending(tx, self._unix_time_s(), self._store.changes(pegout))
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
        found = self._views.find_pegout(_check_text(id, "id"))
        view = await self._views.pegout(found)
        latest = self._store.pegout(found.number)
        if view["done"] and latest is not None and not latest.is_reported:
            self._store.put(replace(latest, is_reported=True))
        return view

    async def list_pegouts(self) -> list[dict[str, Any]]:
        """All of them, oldest first."""
        return [await self._views.pegout(pegout) for pegout in self._store.pegouts]


def _translated(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler with our errors as RPC errors; its parameters stay visible to the registry."""

    @wraps(handler)
    async def run(*params: Any) -> Any:
        try:
            result = handler(*params)
            return await result if isinstance(result, Awaitable) else result
        except WalletRefusal as error:
            raise RpcError(_REFUSAL_CODES.get(error.reason, WALLET_ERROR), _text(error)) from error
        except WrongPassphrase as error:
            raise RpcError(PASSPHRASE_INCORRECT, error.reason) from error
        except InvalidEncoding as error:
            raise RpcError(INVALID_ADDRESS_OR_KEY, str(error)) from error
        except Unavailable as error:
            raise RpcError(CLIENT_NOT_CONNECTED, str(error)) from error

    return run


def _text(refusal: WalletRefusal) -> str:
    """The sentence for the user, behind the code where peg-protocol 3.4 defines one."""
    return str(refusal) if refusal.reason.isupper() else refusal.detail


def _amount(value: Any) -> int:
    try:
        amount_sats = sats(value)
    except ValueError as error:
        raise RpcError(TYPE_ERROR, str(error)) from error
    if amount_sats == 0:
        raise RpcError(TYPE_ERROR, "Invalid amount for send")
    return amount_sats


def _check_text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise RpcError(TYPE_ERROR, f"{name} must be text")
    return value
