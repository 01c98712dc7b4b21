"""One wallet's state: own scripts, coins, and what transactions do to them.

The state is folded from final blocks, which never change again, plus own transactions that are
not final yet. Methods that change it return the writes that make the change durable; the book
puts them into one batch.

Scripts are watched `LOOKAHEAD` indexes beyond the last one handed out or paid, so a wallet
restored from its seed finds its coins as long as no more unused addresses lie in a row.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sidechain.errors import InvariantError
from sidechain.params import ChainParams
from sidechain.primitives.encoding import le32
from sidechain.primitives.transaction import OutPoint, Transaction, TxOut
from sidechain.wallet.keys import Branch, PublicAccount
from sidechain.wallet.records import (
    Change,
    HistoryEntry,
    WalletRecord,
    coins_prefix,
    encode_coin,
    history_key,
    issued_key,
)
from sidechain.wallet.selection import OwnedCoin

LOOKAHEAD = 20


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
    ) -> None:
        """
        Args:
            issued: how many scripts of each branch were handed out or paid.
            coins: unspent coins of final blocks.
        """
        self.number = number
        self.record = record
        self.account = PublicAccount.decode(record.extended_key)
        self.coins = {coin.outpoint: coin for coin in coins}
        self._params = params
        self._issued = {branch: issued.get(branch, 0) for branch in Branch}
        self._paths: dict[bytes, tuple[Branch, int]] = {}
        self._watched = dict.fromkeys(Branch, 0)
        for branch in Branch:
            self._watch(branch)

    @property
    def name(self) -> str:
        """What the user calls it."""
        return self.record.name

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
        for outpoint in spent_outpoints(tx):
            if self.coins.pop(outpoint, None) is not None:
                changes.append((coins_prefix(self.number) + outpoint.serialize(), None))
        for coin in self.owned_outputs(tx, height):
            self.coins[coin.outpoint] = coin
            key = coins_prefix(self.number) + coin.outpoint.serialize()
            changes.append((key, encode_coin(coin)))
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
        if not spent and not made:
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
        )

    def owned_outputs(self, tx: Transaction, height: int | None) -> list[OwnedCoin]:
        """Explicit outputs that pay own scripts; hidden ones are beyond this wallet."""
        if tx.is_coinbase:
            return []
        found = []
        for position, output in enumerate(tx.outputs):
            path = self._paths.get(output.script)
            asset, value = output.asset_id, output.value_sats
            if path is None or asset is None or value is None or value <= 0:
                continue
            coin = OwnedCoin(
                outpoint=OutPoint(tx.txid, position),
                asset=asset,
                value_sats=value,
                script=output.script,
                branch=path[0],
                index=path[1],
                height=height,
            )
            found.append(coin)
        return found

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
        return "self" if all(self._stays(output) for output in tx.outputs) else "send"

    def _stays(self, output: TxOut) -> bool:
        return output.is_fee or output.script in self._paths

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


def spent_outpoints(tx: Transaction) -> list[OutPoint]:
    """Sidechain outputs a transaction spends: a peg-in input names a Bitcoin output instead."""
    return [txin.prevout for txin in tx.inputs if not txin.is_pegin]
