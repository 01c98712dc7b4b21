"""A signed chain with a wallet store that follows it."""

from pathlib import Path

from sidechain.primitives.address import Address
from sidechain.primitives.transaction import Transaction
from sidechain.wallet.book import BlockReport, WalletBook
from sidechain.wallet.builder import Draft, Payment, Terms, build_payment, sign
from sidechain.wallet.keys import Branch, PrivateAccount
from sidechain.wallet.sealing import store_plain
from tests.factories import ALICE, FEE_SATS, SignedChain

SEED = bytes(range(60, 92))
OTHER_SEED = bytes(range(160, 192))
NOW_S = 1_700_000_000


class Followed:
    """A chain with a book that follows it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.signed = SignedChain.open(path / "chain")
        self.params = self.signed.params
        self.book = self.open_book()
        for name, seed in (("own", SEED), ("other", OTHER_SEED)):
            self.book.add(name, store_plain(seed), PrivateAccount.from_seed(seed).public)

    def open_book(self) -> WalletBook:
        return WalletBook.open(self.path / "wallets", self.params)

    def reopen(self) -> None:
        self.book.close()
        self.book = self.open_book()

    def follow(self) -> list[BlockReport]:
        reports = []
        start = 0 if self.book.cursor is None else self.book.cursor.height + 1
        for height in range(start, self.signed.chain.tip_height + 1):
            reports.append(self.book.apply_block(self.signed.chain.block(height), height))
        return reports

    def receive(self, amount_sats: int, name: str = "own") -> bytes:
        """Mint coins to another key, pay the wallet from them, follow; the txid."""
        source = self.signed.mint(ALICE, amount_sats + FEE_SATS)
        _, script = self.book.take_script(name, Branch.RECEIVE)
        tx = self.signed.payment(ALICE, [source], [(script, amount_sats)])
        self.signed.extend([tx])
        self.follow()
        return tx.txid

    def address(self, name: str) -> Address:
        """A fresh confidential address of a wallet."""
        account = self.book.wallet(name).account
        _, script = self.book.take_script(name, Branch.RECEIVE)
        return Address(script, account.blinding_public_key(script))

    def terms(self, name: str, *, hidden: bool = True) -> Terms:
        """Terms of a payment of a wallet; its next change script is not used up."""
        wallet = self.book.wallet(name)
        script = wallet.account.script(Branch.CHANGE, wallet.issued(Branch.CHANGE))
        return Terms(
            params=self.params,
            change_script=script,
            change_blinding_key=wallet.account.blinding_public_key(script) if hidden else None,
            rate_sats_per_kvb=100,
            entropy=SEED,
        )

    def account(self, name: str) -> PrivateAccount:
        """The keys of a wallet."""
        return PrivateAccount.from_seed(SEED if name == "own" else OTHER_SEED)

    def keep(self, name: str, draft: Draft) -> Transaction:
        """Sign and record what a wallet made."""
        keys = self.account(name)
        tx = sign(draft, lambda coin: keys.secret(coin.branch, coin.index), self.params)
        self.book.take_script(name, Branch.CHANGE)
        self.book.record_pending(tx, NOW_S)
        return tx

    def pay_hidden(self, name: str, to: Address, amount_sats: int) -> Transaction:
        """Pay a confidential address."""
        payment = Payment(
            script=to.script,
            asset=self.params.pegged_asset,
            value_sats=amount_sats,
            blinding_key=to.blinding_key,
        )
        coins = self.book.spendable(name)
        return self.keep(name, build_payment([payment], coins, self.terms(name)))

    def pay(self, name: str, script: bytes, amount_sats: int) -> Transaction:
        _, change_script = self.book.take_script(name, Branch.CHANGE)
        draft = build_payment(
            [Payment(script=script, asset=self.params.pegged_asset, value_sats=amount_sats)],
            self.book.spendable(name),
            Terms(
                params=self.params,
                change_script=change_script,
                change_blinding_key=None,
                rate_sats_per_kvb=100,
                entropy=SEED,
            ),
        )
        account = PrivateAccount.from_seed(SEED if name == "own" else OTHER_SEED)
        tx = sign(draft, lambda coin: account.secret(coin.branch, coin.index), self.params)
        self.book.record_pending(tx, NOW_S)
        return tx

    def close(self) -> None:
        self.book.close()
        self.signed.chain.close()
