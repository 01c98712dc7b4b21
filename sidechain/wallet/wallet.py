"""One wallet's state: own scripts, coins, and what transactions do to them.

The state is folded from final blocks, which never change again, plus own transactions that are
not final yet. Methods that change it return the writes that make the change durable; the book
puts them into one batch.

Scripts are watched `LOOKAHEAD` indexes beyond the last one handed out or paid, so a wallet
restored from its seed finds its coins as long as no more unused addresses lie in a row.

Hidden outputs are opened with the wallet's blinding keys. One that pays an own script and does
not open is kept as unknown: it is shown, and never counted nor spent.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sidechain.errors import InvariantError
from sidechain.params import ChainParams
from sidechain.primitives.confidential import NULL, is_commitment
from sidechain.primitives.encoding import le32
from sidechain.primitives.transaction import OutPoint, Transaction, TxOut
from sidechain.wallet.blinding import ZERO, Opened, unblind
from sidechain.wallet.issuing import issuances_of
from sidechain.wallet.keys import Branch, PublicAccount
from sidechain.wallet.records import (
    Change,
    HistoryEntry,
    WalletRecord,
    coins_prefix,
    encode_coin,
    history_key,
    issuance_key,
    issued_key,
    unknown_prefix,
    wallet_key,
)
from sidechain.wallet.selection import OwnedCoin

LOOKAHEAD = 20
OPENED_MAX = 5_000
"""So many transactions are remembered as opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balances:
    """Amounts of one asset in sats.

    `confirmed_sats` is in final blocks and unspent there. `pending_in_sats` and
    `pending_out_sats` are what transactions outside final blocks will add and take.
    `available_sats` can be spent now.
    """

    confirmed_sats: int
    pending_in_sats: int
    pending_out_sats: int
    available_sats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unconfirmed:
    """A transaction in no final block; `own` when this store made and signed it."""

    tx: Transaction
    unix_time_s: int
    own: bool


@dataclass(slots=True)
class _LookAhead:
    """Coins as they will be after unconfirmed transactions; `waiting` are not to be spent yet."""

    coins: dict[OutPoint, OwnedCoin]
    waiting: set[OutPoint]
    entries: list[HistoryEntry]

    def spendable(self) -> list[OwnedCoin]:
        return [coin for outpoint, coin in self.coins.items() if outpoint not in self.waiting]


@dataclass(frozen=True, slots=True)
class _Paid:
    """An output to an own script, and what it holds; None when it does not open."""

    position: int
    branch: Branch
    index: int
    opened: Opened | None


class Wallet:
    """Keys that can be watched, and the coins they own. Holds no secret."""

    def __init__(
        self,
        number: int,
        record: WalletRecord,
        params: ChainParams,
        *,
        issued: Mapping[Branch, int],
        coins: Iterable[OwnedCoin],
        unknown: Iterable[OutPoint] = (),
    ) -> None:
        """
        Args:
            issued: how many scripts of each branch were handed out or paid.
            coins: unspent coins of final blocks.
            unknown: unspent outputs of final blocks that pay own scripts and do not open.
        """
        self.number = number
        self.record = record
        self.account = record.account()
        self.coins = {coin.outpoint: coin for coin in coins}
        self.unknown = set(unknown)
        self._params = params
        self._opened: dict[bytes, tuple[_Paid, ...]] = {}
        self._issued = {branch: issued.get(branch, 0) for branch in Branch}
        self._paths: dict[bytes, tuple[Branch, int]] = {}
        self._watched = dict.fromkeys(Branch, 0)
        for branch in Branch:
            self._watch(branch)

    @property
    def name(self) -> str:
        """What the user calls it."""
        return self.record.name

    @property
    def is_rescanning(self) -> bool:
        """Whether blocks below the tip are still to be looked through for it."""
        return self.record.rescan_height is not None

    @property
    def is_watch_only(self) -> bool:
        """Whether it has no seed, so that it can sign nothing."""
        return not self.record.stored_seed

    def learn(self, account: PublicAccount) -> Change | None:
        """Take what a full account knows into the record; None when that is nothing new."""
        record = self.record.with_account(account)
        return None if record == self.record else self.keep(record)

    def keep(self, record: WalletRecord) -> Change:
        """Replace the record; the write that keeps it."""
        self.record = record
        self.account = record.account()
        self._opened.clear()
        return wallet_key(self.number), record.encode()

    def issued(self, branch: Branch) -> int:
        """How many scripts of a branch were handed out or paid."""
        return self._issued[branch]

    def path_of(self, script: bytes) -> tuple[Branch, int] | None:
        """Branch and index of an own script, or None."""
        return self._paths.get(script)

    def take_script(self, branch: Branch) -> tuple[int, bytes, Change]:
        """The next unused script of a branch: its index, the script, and the write to keep it."""
        index = self._issued[branch]
        change = self._issue(branch, index + 1)
        return index, self.account.script(branch, index), change

    def fold(
        self, tx: Transaction, *, height: int, position: int, unix_time_s: int
    ) -> list[Change]:
        """Take in a transaction of a final block; the writes that record it."""
        changes = self._watch_further(tx)
        entry = self.entry(tx, self.coins, unix_time_s, height)
        if entry is None:
            return changes
        for record in issuances_of(tx, self.account, self.coins.__contains__):
            changes.append((issuance_key(self.number, record.txid, record.vin), record.encode()))
        changes += self._drop_spent(tx)
        for coin in self.owned_outputs(tx, height):
            self.coins[coin.outpoint] = coin
            key = coins_prefix(self.number) + coin.outpoint.serialize()
            changes.append((key, encode_coin(coin)))
        for outpoint in self.unknown_outputs(tx):
            self.unknown.add(outpoint)
            key = unknown_prefix(self.number) + outpoint.serialize()
            changes.append((key, le32(height)))
        changes.append((history_key(self.number, height, position), entry.encode()))
        return changes

    def entry(
        self,
        tx: Transaction,
        coins: Mapping[OutPoint, OwnedCoin],
        unix_time_s: int,
        height: int | None,
    ) -> HistoryEntry | None:
        """What a transaction does to this wallet; None when it does nothing.

        Args:
            coins: own coins before it.
        """
        spent = [coins[outpoint] for outpoint in spent_outpoints(tx) if outpoint in coins]
        made = self.owned_outputs(tx, height)
        unknown = len(self.unknown_outputs(tx))
        if not (spent or made or unknown or not self.unknown.isdisjoint(spent_outpoints(tx))):
            return None
        deltas: dict[bytes, int] = {}
        for coin in spent:
            deltas[coin.asset] = deltas.get(coin.asset, 0) - coin.value_sats
        for coin in made:
            deltas[coin.asset] = deltas.get(coin.asset, 0) + coin.value_sats
        kind = self._kind(tx, bool(spent), bool(made))
        fee = sum(out.value_sats or 0 for out in tx.outputs if out.is_fee)
        return HistoryEntry(
            txid=tx.txid,
            height=height,
            unix_time_s=unix_time_s,
            kind=kind,
            fee_sats=fee if spent or kind == "pegin" else 0,
            deltas=tuple(sorted(deltas.items())),
            unknown=unknown,
        )

    def owned_outputs(self, tx: Transaction, height: int | None) -> list[OwnedCoin]:
        """Outputs that pay own scripts and open, as coins."""
        found = []
        for paid in self._paid(tx):
            opened = paid.opened
            if opened is None:
                continue
            coin = OwnedCoin(
                outpoint=OutPoint(tx.txid, paid.position),
                asset=opened.asset,
                value_sats=opened.value_sats,
                script=tx.outputs[paid.position].script,
                branch=paid.branch,
                index=paid.index,
                height=height,
                nonce=tx.outputs[paid.position].nonce if opened.vbf != ZERO else NULL,
                abf=opened.abf,
                vbf=opened.vbf,
            )
            found.append(coin)
        return found

    def unknown_outputs(self, tx: Transaction) -> list[OutPoint]:
        """Outputs that pay own scripts and hide from us what they hold."""
        return [
            OutPoint(tx.txid, paid.position)
            for paid in self._paid(tx)
            if paid.opened is None and _hides(tx.outputs[paid.position])
        ]

    def _paid(self, tx: Transaction) -> "tuple[_Paid, ...]":
        """Outputs to own scripts, opened; remembered, since opening one takes milliseconds."""
        if tx.is_coinbase:
            return ()
        paths = [
            (position, path)
            for position, output in enumerate(tx.outputs)
            if (path := self._paths.get(output.script)) is not None
        ]
        if not paths:
            return ()
        known = self._opened.get(tx.wtxid)
        if known is not None and len(known) == len(paths):
            return known
        if len(self._opened) >= OPENED_MAX:
            self._opened.clear()
        found = tuple(self._open(tx, position, path) for position, path in paths)
        self._opened[tx.wtxid] = found
        return found

    def _open(self, tx: Transaction, position: int, path: tuple[Branch, int]) -> "_Paid":
        output, witness = tx.outputs[position], tx.output_witnesses[position]
        secret = self.account.blinding_secret(output.script) if _hides(output) else None
        opened = unblind(output, witness, secret, self._params.pegged_asset)
        return _Paid(position, path[0], path[1], opened)

    def _drop_spent(self, tx: Transaction) -> list[Change]:
        changes: list[Change] = []
        for outpoint in spent_outpoints(tx):
            if self.coins.pop(outpoint, None) is not None:
                changes.append((coins_prefix(self.number) + outpoint.serialize(), None))
            if outpoint in self.unknown:
                self.unknown.remove(outpoint)
                changes.append((unknown_prefix(self.number) + outpoint.serialize(), None))
        return changes

    def spendable(self, unconfirmed: Sequence[Unconfirmed]) -> list[OwnedCoin]:
        """Coins that a new transaction may spend: final ones and own change, none reserved.

        Args:
            unconfirmed: in the order they were made.
        """
        return self._look_ahead(unconfirmed).spendable()

    def balances(self, unconfirmed: Sequence[Unconfirmed], asset: bytes) -> Balances:
        """Balances of one asset, see `Balances`."""
        ahead = self._look_ahead(unconfirmed)
        deltas = [dict(entry.deltas).get(asset, 0) for entry in ahead.entries]
        usable = ahead.spendable()
        return Balances(
            confirmed_sats=sum(c.value_sats for c in self.coins.values() if c.asset == asset),
            pending_in_sats=sum(delta for delta in deltas if delta > 0),
            pending_out_sats=-sum(delta for delta in deltas if delta < 0),
            available_sats=sum(coin.value_sats for coin in usable if coin.asset == asset),
        )

    def assets(self, unconfirmed: Sequence[Unconfirmed]) -> list[bytes]:
        """Ids of all assets it holds or will hold, in order of their bytes."""
        ahead = self._look_ahead(unconfirmed)
        held = {coin.asset for coin in (*self.coins.values(), *ahead.coins.values())}
        return sorted(held | {asset for entry in ahead.entries for asset, _ in entry.deltas})

    def unconfirmed_entries(self, unconfirmed: Sequence[Unconfirmed]) -> list[HistoryEntry]:
        """What transactions outside final blocks do to this wallet, oldest first."""
        return self._look_ahead(unconfirmed).entries

    def _look_ahead(self, unconfirmed: Sequence[Unconfirmed]) -> "_LookAhead":
        ahead = _LookAhead(coins=dict(self.coins), waiting=set(), entries=[])
        for item in unconfirmed:
            entry = self.entry(item.tx, ahead.coins, item.unix_time_s, None)
            if entry is None:
                continue
            ahead.entries.append(entry)
            spent = spent_outpoints(item.tx)
            is_own_change = item.own and any(outpoint in ahead.coins for outpoint in spent)
            for outpoint in spent:
                ahead.coins.pop(outpoint, None)
            for coin in self.owned_outputs(item.tx, None):
                ahead.coins[coin.outpoint] = coin
                if not is_own_change:
                    ahead.waiting.add(coin.outpoint)
        return ahead

    def _kind(self, tx: Transaction, spends: bool, receives: bool) -> str:
        if not spends:
            claims = any(txin.is_pegin for txin in tx.inputs)
            return "pegin" if claims and receives else "receive"
        burn_start = b"\x6a\x20" + self._params.parent_genesis_hash
        if any(output.script.startswith(burn_start) for output in tx.outputs):
            return "pegout"
        issuances = [txin.issuance for txin in tx.inputs if txin.issuance is not None]
        if issuances:
            return "reissue" if all(item.is_reissuance for item in issuances) else "issue"
        if any(output.is_unspendable and _burns(output) for output in tx.outputs):
            return "burn"
        return "self" if all(self._stays(output) for output in tx.outputs) else "send"

    def _stays(self, output: TxOut) -> bool:
        # a hidden OP_RETURN is the zero that balances the blinders of the others
        return output.is_fee or output.is_unspendable or output.script in self._paths

    def _watch_further(self, tx: Transaction) -> list[Change]:
        changes: list[Change] = []
        for output in tx.outputs:
            path = self._paths.get(output.script)
            if path is not None and path[1] >= self._issued[path[0]]:
                changes.append(self._issue(path[0], path[1] + 1))
        return changes

    def _issue(self, branch: Branch, count: int) -> Change:
        if count <= self._issued[branch]:
            raise InvariantError("a script would be handed out twice")
        self._issued[branch] = count
        self._watch(branch)
        return issued_key(self.number, branch), le32(count)

    def _watch(self, branch: Branch) -> None:
        end = self._issued[branch] + LOOKAHEAD
        for index in range(self._watched[branch], end):
            self._paths[self.account.script(branch, index)] = (branch, index)
        self._watched[branch] = max(end, self._watched[branch])


def _hides(output: TxOut) -> bool:
    return is_commitment(output.asset) or is_commitment(output.value)


def _burns(output: TxOut) -> bool:
    return not output.is_fee and (output.value_sats or 0) > 0


def spent_outpoints(tx: Transaction) -> list[OutPoint]:
    """Sidechain outputs a transaction spends: a peg-in input names a Bitcoin output instead."""
    return [txin.prevout for txin in tx.inputs if not txin.is_pegin]
