"""All wallets of one process over one LevelDB: the single writer of that store.

What must survive a crash is written with `sync=True` before the method returns: new wallets,
scripts handed out, own signed transactions. Folding final blocks is not synced by itself, since a
lost tail is simply folded again.

The store belongs to one chain, named by its genesis hash, and to one process, by LevelDB's lock.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import plyvel

from sidechain.errors import Invalid, InvalidBlock, InvariantError, Unavailable
from sidechain.params import ChainParams
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.wallet.issuing import IssuanceRecord, issuances_of
from sidechain.wallet.keys import Branch, PrivateAccount, PublicAccount
from sidechain.wallet.records import (
    KEY_CURSOR,
    KEY_GENESIS,
    KEY_SCHEMA,
    PREFIX_FOREIGN,
    PREFIX_PENDING,
    PREFIX_WALLET,
    READABLE_SCHEMAS,
    SCHEMA_VERSION,
    Change,
    Cursor,
    HistoryEntry,
    PendingTx,
    WalletRecord,
    coins_prefix,
    decode_coin,
    history_prefix,
    issuances_prefix,
    issued_key,
    pending_key,
    unknown_prefix,
    wallet_key,
)
from sidechain.wallet.sealing import is_sealed, store_plain, unseal
from sidechain.wallet.selection import OwnedCoin, WalletRefusal
from sidechain.wallet.wallet import Balances, Unconfirmed, Wallet

MAX_NAME_CHARS = 64
MAX_WALLETS = 1_000
CLAIMS_WALLET = "/claims"
"""Name of the wallet that claims deposits for others; no user's name has a slash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockReport:
    """What a final block did to pending own transactions.

    `dead` can never become final: the block spends one of their inputs otherwise.
    """

    height: int
    final: tuple[bytes, ...]
    dead: tuple[bytes, ...]


class WalletBook:
    """Wallets by name, pending own transactions, and the cursor of the chain they follow."""

    def __init__(self, database: Any, params: ChainParams) -> None:
        self._database = database
        self._params = params
        self._wallets: dict[str, Wallet] = {}
        self._pending: dict[bytes, PendingTx] = {}
        self._pending_txs: dict[bytes, Transaction] = {}
        self._seen: tuple[Unconfirmed, ...] = ()
        self.cursor: Cursor | None = None

    @classmethod
    def open(cls, path: Path, params: ChainParams) -> Self:
        """Open or create the store in a folder of its own (mode 0700).

        Raises:
            Unavailable: another process has it open.
            Invalid: it belongs to another chain or to another version of this program.
        """
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
        try:
            database = plyvel.DB(str(path), create_if_missing=True)
        except plyvel.IOError as error:
            raise Unavailable(f"wallet store {path} is in use or unreadable: {error}") from error
        book = cls(database, params)
        try:
            book._check_identity()
            book._load()
        except BaseException:
            database.close()
            raise
        return book

    def close(self) -> None:
        """Release the store."""
        self._database.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the user's wallets, oldest first."""
        return tuple(name for name in self._wallets if name != CLAIMS_WALLET)

    def wallet(self, name: str) -> Wallet:
        """The wallet of that name.

        Raises:
            WalletRefusal: "unknown-wallet".
        """
        if name not in self._wallets:
            raise WalletRefusal("unknown-wallet", f"there is no wallet named {name!r}")
        return self._wallets[name]

    def check_name(self, name: str) -> None:
        """Refuse a name that is taken or unfit.

        Raises:
            WalletRefusal: "wallet-name" or "wallet-exists".
        """
        fit = 0 < len(name) <= MAX_NAME_CHARS and name.isprintable() and name.strip() == name
        if not fit or "/" in name:
            raise WalletRefusal(
                "wallet-name", f"a name is 1 to {MAX_NAME_CHARS} printable characters, no slash"
            )
        if name in self._wallets:
            raise WalletRefusal("wallet-exists", f"a wallet named {name!r} exists")
        if len(self._wallets) >= MAX_WALLETS:
            raise WalletRefusal("wallet-count", f"at most {MAX_WALLETS} wallets in one store")

    def add(
        self,
        name: str,
        stored_seed: bytes,
        account: PublicAccount,
        *,
        rescan_height: int | None = None,
    ) -> Wallet:
        """Create a wallet; durable when this returns.

        Args:
            stored_seed: the seed in the form of `sealing`; empty for one that only watches.
            rescan_height: for keys that have a history, the first block to look through.
        Raises:
            WalletRefusal: as `check_name`.
        """
        self.check_name(name)
        return self._add(name, stored_seed, account, rescan_height)

    def _add(
        self, name: str, stored_seed: bytes, account: PublicAccount, rescan_height: int | None
    ) -> Wallet:
        plain = WalletRecord(
            name=name,
            stored_seed=stored_seed,
            extended_key=account.extended_key,
            # without a cursor everything is still to be followed, for all wallets
            rescan_height=None if self.cursor is None else rescan_height,
        )
        record = plain.with_account(account)
        number = 1 + max((wallet.number for wallet in self._wallets.values()), default=0)
        wallet = Wallet(number, record, self._params, issued={}, coins=())
        self.write([(wallet_key(number), record.encode())], sync=True)
        self._wallets[name] = wallet
        return wallet

    def claims_wallet(self, seed: bytes) -> Wallet:
        """The wallet whose keys claim deposits that are for others; made on first use.

        It is not among `names`, and users cannot make one of its name.

        Args:
            seed: FRESH random bytes for the first use, ignored later.
        """
        known = self._wallets.get(CLAIMS_WALLET)
        if known is not None:
            return known
        account = PrivateAccount.from_seed(seed).public
        return self._add(CLAIMS_WALLET, store_plain(seed), account, None)

    def learn_account(self, name: str, account: PublicAccount) -> None:
        """Keep what an unlocked account knows: an old sealed wallet has no blinding key yet."""
        change = self.wallet(name).learn(account)
        if change is not None:
            self.write([change], sync=True)

    def take_script(self, name: str, branch: Branch) -> tuple[int, bytes]:
        """Hand out the next script of a branch: its index and the script; durable."""
        index, script, change = self.wallet(name).take_script(branch)
        self.write([change], sync=True)
        return index, script

    # ---- the final chain ----

    def start_at(self, cursor: Cursor) -> None:
        """Set where following begins; only for a store that has no cursor yet."""
        if self.cursor is None:
            self.cursor = cursor
            self.write([(KEY_CURSOR, cursor.encode())])

    def apply_block(self, block: Block, height: int, extra: Sequence[Change] = ()) -> BlockReport:
        """Fold the next final block, and `extra` writes with it, as one batch.

        Raises:
            InvalidBlock: it does not follow the cursor: the node is on another chain.
        """
        last = self.cursor
        follows = last is None or (
            height == last.height + 1 and block.header.prev_hash == last.block_hash
        )
        if not follows:
            raise InvalidBlock("prev-blk-not-found", f"block {height} does not follow the cursor")
        changes: list[Change] = list(extra)
        for position, tx in enumerate(block.transactions):
            for wallet in self._wallets.values():
                if wallet.is_rescanning:
                    continue
                changes += wallet.fold(
                    tx, height=height, position=position, unix_time_s=block.header.time
                )
        final, dead = self._settle(block)
        changes += [(pending_key(txid), None) for txid in (*final, *dead)]
        cursor = Cursor(height, block.hash)
        changes.append((KEY_CURSOR, cursor.encode()))
        self.write(changes)
        self._forget((*final, *dead))
        self.cursor = cursor
        return BlockReport(height=height, final=final, dead=dead)

    def _settle(self, block: Block) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        if not self._pending:
            return (), ()
        mined = {tx.txid for tx in block.transactions}
        spent = {(txin.is_pegin, txin.prevout) for tx in block.transactions for txin in tx.inputs}
        final: list[bytes] = []
        dead: list[bytes] = []
        gone: set[OutPoint] = set()
        for txid in self._ordered():
            tx = self._pending_txs[txid]
            if txid in mined:
                final.append(txid)
            elif any(
                (txin.is_pegin, txin.prevout) in spent
                or (not txin.is_pegin and txin.prevout in gone)
                for txin in tx.inputs
            ):
                dead.append(txid)
                gone.update(OutPoint(txid, index) for index in range(len(tx.outputs)))
        return tuple(final), tuple(dead)

    def rescanning(self) -> list[Wallet]:
        """Wallets for which earlier blocks are still to be looked through."""
        return [wallet for wallet in self._wallets.values() if wallet.is_rescanning]

    def rescan_block(self, wallet: Wallet, block: Block, height: int) -> None:
        """Look through an earlier final block for one wallet, as one batch.

        Raises:
            InvariantError: it is not the next block of this wallet.
        """
        if self.cursor is None or wallet.record.rescan_height != height:
            raise InvariantError("blocks are looked through in their order")
        changes: list[Change] = []
        for position, tx in enumerate(block.transactions):
            changes += wallet.fold(
                tx, height=height, position=position, unix_time_s=block.header.time
            )
        following = height + 1 if height < self.cursor.height else None
        changes.append(wallet.keep(replace(wallet.record, rescan_height=following)))
        self.write(changes)

    # ---- own transactions ----

    def record_pending(
        self, tx: Transaction, unix_time_s: int, extra: Sequence[Change] = ()
    ) -> None:
        """Keep a signed transaction, and `extra` writes with it; durable when this returns.

        Call it before the transaction leaves this process. One that is kept already is replaced
        (another proof of the same claim) and keeps its place.
        """
        known = self._pending.get(tx.txid)
        if known is not None:
            sequence, unix_time_s = known.sequence, known.unix_time_s
        else:
            sequence = 1 + max((p.sequence for p in self._pending.values()), default=0)
        pending = PendingTx(raw=tx.serialize(), sequence=sequence, unix_time_s=unix_time_s)
        self.write([*extra, (pending_key(tx.txid), pending.encode())], sync=True)
        self._pending[tx.txid] = pending
        self._pending_txs[tx.txid] = tx

    def abandon(self, txid: bytes, extra: Sequence[Change] = ()) -> tuple[bytes, ...]:
        """Forget a pending transaction that no node took, and those that spend its outputs.

        Returns:
            The txids forgotten.
        """
        gone: list[bytes] = []
        for candidate in self._ordered():
            tx = self._pending_txs[candidate]
            parents = {txin.prevout.txid for txin in tx.inputs if not txin.is_pegin}
            if candidate == txid or not parents.isdisjoint(gone):
                gone.append(candidate)
        self.write([*extra, *[(pending_key(item), None) for item in gone]], sync=True)
        self._forget(gone)
        return tuple(gone)

    def pending(self) -> list[Transaction]:
        """Own transactions in no final block, in the order they were made."""
        return [self._pending_txs[txid] for txid in self._ordered()]

    def is_pending(self, txid: bytes) -> bool:
        """Whether this own transaction is in no final block yet."""
        return txid in self._pending

    def pending_transaction(self, txid: bytes) -> Transaction | None:
        """A pending own transaction."""
        return self._pending_txs.get(txid)

    def set_seen(self, transactions: Sequence[tuple[Transaction, int]]) -> None:
        """Tell which transactions of others the nodes' mempools hold, with first-seen unix times.

        They count as pending in balances, are not spent from, and are not kept on disk.
        """
        self._seen = tuple(
            Unconfirmed(tx=tx, unix_time_s=time_s, own=False) for tx, time_s in transactions
        )

    # ---- views ----

    def spendable(self, name: str) -> list[OwnedCoin]:
        """Coins of a wallet that a new transaction may spend."""
        return self.wallet(name).spendable(self._unconfirmed())

    def balances(self, name: str, asset: bytes | None = None) -> Balances:
        """Balances of a wallet in one asset, the pegged one if none is named."""
        wanted = self._params.pegged_asset if asset is None else asset
        return self.wallet(name).balances(self._unconfirmed(), wanted)

    def assets(self, name: str) -> list[bytes]:
        """Ids of all assets a wallet holds or will hold."""
        return self.wallet(name).assets(self._unconfirmed())

    def issuances(self, name: str) -> list[IssuanceRecord]:
        """What a wallet issued: in final blocks, then in own transactions that wait for one."""
        wallet = self.wallet(name)
        with self._database.iterator(prefix=issuances_prefix(wallet.number)) as pairs:
            found = [IssuanceRecord.decode(value) for _, value in pairs]
        for tx in self.pending():
            owned = {coin.outpoint for coin in self._spent_by(wallet, tx)}
            found += issuances_of(tx, wallet.account, owned.__contains__)
        return found

    def _spent_by(self, wallet: Wallet, tx: Transaction) -> list[OwnedCoin]:
        """Coins of a wallet that an own pending transaction spends."""
        coins = dict(wallet.coins)
        for earlier in self.pending():
            coins |= {coin.outpoint: coin for coin in wallet.owned_outputs(earlier, None)}
        return [coins[txin.prevout] for txin in tx.inputs if txin.prevout in coins]

    def history(self, name: str, count: int) -> list[HistoryEntry]:
        """The newest `count` entries of a wallet, oldest of them first, unconfirmed ones last."""
        wallet = self.wallet(name)
        newest = list(reversed(wallet.unconfirmed_entries(self._unconfirmed())))
        prefix = history_prefix(wallet.number)
        with self._database.iterator(prefix=prefix, reverse=True) as entries:
            for key, value in entries:
                if len(newest) >= count:
                    break
                height = int.from_bytes(key[len(prefix) : len(prefix) + 4], "big")
                newest.append(HistoryEntry.decode(value, height))
        return list(reversed(newest[:count]))

    def records(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Stored pairs of the owner's own key space (`PREFIX_FOREIGN`), in key order."""
        with self._database.iterator(prefix=PREFIX_FOREIGN + prefix) as pairs:
            yield from pairs

    def write(self, changes: Sequence[Change], *, sync: bool = False) -> None:
        """Write all of these or none of them; with `sync` they are on the disk on return."""
        with self._database.write_batch(transaction=True, sync=sync) as batch:
            for key, value in changes:
                if value is None:
                    batch.delete(key)
                else:
                    batch.put(key, value)

    def _unconfirmed(self) -> list[Unconfirmed]:
        own = [
            Unconfirmed(
                tx=self._pending_txs[txid],
                unix_time_s=self._pending[txid].unix_time_s,
                own=True,
            )
            for txid in self._ordered()
        ]
        return own + [item for item in self._seen if item.tx.txid not in self._pending]

    def _ordered(self) -> list[bytes]:
        return sorted(self._pending, key=lambda txid: self._pending[txid].sequence)

    def _forget(self, txids: Sequence[bytes]) -> None:
        for txid in txids:
            self._pending.pop(txid, None)
            self._pending_txs.pop(txid, None)

    def _check_identity(self) -> None:
        genesis = self._database.get(KEY_GENESIS)
        version = SCHEMA_VERSION.to_bytes(4, "little")
        if genesis is None:
            identity = [(KEY_GENESIS, self._params.genesis_hash), (KEY_SCHEMA, version)]
            self.write(identity, sync=True)
            return
        if genesis != self._params.genesis_hash:
            raise Invalid("another-chain", "the wallet store belongs to another chain")
        known = int.from_bytes(self._database.get(KEY_SCHEMA) or b"", "little")
        if known not in READABLE_SCHEMAS:
            raise Invalid("schema", "the wallet store was written by another version")

    def _load(self) -> None:
        cursor = self._database.get(KEY_CURSOR)
        self.cursor = Cursor.decode(cursor) if cursor else None
        with self._database.iterator(prefix=PREFIX_WALLET) as pairs:
            for key, value in pairs:
                number = int.from_bytes(key[1:], "big")
                record = WalletRecord.decode(value)
                self._wallets[record.name] = self._load_wallet(number, record)
        self._upgrade()
        with self._database.iterator(prefix=PREFIX_PENDING) as pairs:
            for key, value in pairs:
                pending = PendingTx.decode(value)
                self._pending[key[1:]] = pending
                self._pending_txs[key[1:]] = Transaction.decode(pending.raw)

    def _upgrade(self) -> None:
        """Bring what schema 1 wrote up to date; sealed seeds wait until they are unlocked."""
        changes: list[Change] = []
        for wallet in self._wallets.values():
            stored = wallet.record.stored_seed
            if not stored or is_sealed(stored) or wallet.record.origin:
                continue
            account = PrivateAccount.from_seed(unseal(stored, "", wallet.account)).public
            change = wallet.learn(account)
            if change is not None:
                changes.append(change)
        version = SCHEMA_VERSION.to_bytes(4, "little")
        if changes or self._database.get(KEY_SCHEMA) != version:
            self.write([*changes, (KEY_SCHEMA, version)], sync=True)

    def _load_wallet(self, number: int, record: WalletRecord) -> Wallet:
        issued = {}
        for branch in Branch:
            count = self._database.get(issued_key(number, branch))
            issued[branch] = int.from_bytes(count, "little") if count else 0
        prefix = coins_prefix(number)
        coins = []
        with self._database.iterator(prefix=prefix) as pairs:
            for key, value in pairs:
                place = key[len(prefix) :]
                outpoint = OutPoint(place[:32], int.from_bytes(place[32:], "little"))
                coins.append(decode_coin(value, outpoint))
        prefix = unknown_prefix(number)
        with self._database.iterator(prefix=prefix) as pairs:
            places = [key[len(prefix) :] for key, _ in pairs]
        unknown = [OutPoint(p[:32], int.from_bytes(p[32:], "little")) for p in places]
        return Wallet(number, record, self._params, issued=issued, coins=coins, unknown=unknown)
