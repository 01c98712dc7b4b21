"""How a wallet spends: terms and keys of a transaction, its record, and its way to the members."""

from collections.abc import Callable, Sequence
from typing import Any

from federation.wallet.chain import ChainFollower, Keyring
from federation.wallet.worker import PegWorker
from sidechain.api.registry import VERIFY_REJECTED, RpcError
from sidechain.params import ChainParams
from sidechain.primitives.address import Address, encode_address
from sidechain.primitives.transaction import Transaction
from sidechain.wallet.blinding import ENTROPY_BYTES
from sidechain.wallet.book import WalletBook
from sidechain.wallet.builder import Draft, Terms, sign
from sidechain.wallet.keys import Branch, SecretKey
from sidechain.wallet.records import Change
from sidechain.wallet.selection import OwnedCoin


class Spending:
    """What payments, burns, issuances and PSETs of the methods have in common.

    Between `terms` and `record` nothing is awaited: the coins a draft was made of are still there
    when it is kept.
    """

    def __init__(
        self,
        *,
        book: WalletBook,
        params: ChainParams,
        chain: ChainFollower,
        worker: PegWorker,
        keyring: Keyring,
        entropy: Callable[[int], bytes],
        unix_time_s: Callable[[], int],
    ) -> None:
        """
        Args:
            entropy: gives that many FRESH random bytes.
        """
        self.book = book
        self._params = params
        self._chain = chain
        self._worker = worker
        self._keyring = keyring
        self._entropy = entropy
        self._unix_time_s = unix_time_s

    async def rate(self) -> int:
        """What a transaction must pay now, in satoshis per 1,000 virtual bytes.

        Raises:
            Unavailable: no member answers.
        """
        return await self._chain.fee_rate_sats_per_kvb()

    def terms(self, name: str, rate_sats_per_kvb: int) -> Terms:
        """Terms of one transaction of a wallet; the change script is used up by `record`."""
        change = self.own_address(name, Branch.CHANGE)
        return Terms(
            params=self._params,
            change_script=change.script,
            change_blinding_key=change.blinding_key,
            rate_sats_per_kvb=rate_sats_per_kvb,
            entropy=self._entropy(ENTROPY_BYTES),
        )

    def own_address(self, name: str, branch: Branch) -> Address:
        """The next unused address of a branch, not taken."""
        wallet = self.book.wallet(name)
        script = wallet.account.script(branch, wallet.issued(branch))
        return Address(script, wallet.account.blinding_public_key(script))

    def take_address(self, name: str, *, explicit: bool) -> str:
        """Hand out the next receive address; confidential where the wallet can open it."""
        wallet = self.book.wallet(name)
        _, script = self.book.take_script(name, Branch.RECEIVE)
        key = None if explicit else wallet.account.blinding_public_key(script)
        return encode_address(script, self._params.prefixes, key)

    def secret_of(self, name: str) -> Callable[[OwnedCoin], SecretKey]:
        """The keys of a wallet's coins.

        Raises:
            WalletRefusal: "locked" or "watch-only".
        """
        account = self._keyring.account(self.book.wallet(name))
        return lambda coin: account.secret(coin.branch, coin.index)

    def sign(self, name: str, draft: Draft) -> Transaction:
        """The signed and verified transaction of a draft.

        Raises:
            WalletRefusal: "locked" or "watch-only".
            InvariantError: consensus would not take it.
        """
        return sign(draft, self.secret_of(name), self._params)

    def record(self, name: str, tx: Transaction, extra: Sequence[Change] = ()) -> None:
        """Keep a signed transaction and use up its change script; durable when this returns."""
        self.book.take_script(name, Branch.CHANGE)
        self.book.record_pending(tx, self._unix_time_s(), extra)

    def keep(self, tx: Transaction) -> None:
        """Keep a transaction that was signed elsewhere; durable when this returns."""
        self.book.record_pending(tx, self._unix_time_s())

    async def send(self, tx: Transaction) -> str:
        """Hand a recorded transaction to the members; one that all refuse is forgotten.

        Returns:
            The txid as shown.
        Raises:
            RpcError: all members refuse it for good.
        """
        outcome = await self._worker.send(tx)
        if outcome.refused_for_good and self.book.is_pending(tx.txid):
            self.book.abandon(tx.txid)
            raise RpcError(VERIFY_REJECTED, outcome.reason)
        return tx.txid[::-1].hex()

    async def pay(self, name: str, make: Callable[[list[OwnedCoin], Terms], Draft]) -> Any:
        """Make, sign, record and send one transaction of a wallet; the draft and the txid.

        Args:
            make: gets the coins that may be spent and the terms.
        """
        self.book.wallet(name)
        rate = await self.rate()
        draft = make(self.book.spendable(name), self.terms(name, rate))
        tx = self.sign(name, draft)
        self.record(name, tx)
        return draft, await self.send(tx)
