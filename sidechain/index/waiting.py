"""The index of transactions that wait in the mempool: in memory, brought up to date when asked."""

import asyncio
from collections.abc import Iterable

from sidechain.chain import Chain
from sidechain.index.rows import HistoryRow, Place, Spender
from sidechain.index.traces import (
    NO_ACTIVITY,
    AssetActivity,
    FirstIssuance,
    Traces,
    trace,
)
from sidechain.primitives.transaction import OutPoint, Transaction

SLICE_TRANSACTIONS = 100
"""Taken in before other work gets its turn: about 2 ms."""

ROUNDS_MAX = 8
"""A mempool that changes faster than it is read is shown as it was a moment ago."""

NO_PLACE = Place(0, 0)


class WaitingIndex:
    """What the mempool's transactions touch. Nothing is kept that left the mempool."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._traces: dict[bytes, Traces] = {}
        self._order: dict[bytes, int] = {}
        self._scripts: dict[bytes, set[bytes]] = {}
        self._assets: dict[bytes, set[bytes]] = {}
        self._sums: dict[bytes, AssetActivity] = {}
        self._sequence = -1
        self._refreshing = asyncio.Lock()

    async def refresh(self) -> None:
        """Follow the mempool; costs nothing while it has not changed."""
        if self._chain.mempool.sequence == self._sequence:
            return
        async with self._refreshing:
            for _ in range(ROUNDS_MAX):
                if self._chain.mempool.sequence == self._sequence:
                    return
                await self._round()

    def history(self, script_hash: bytes) -> list[HistoryRow]:
        """Waiting transactions that touch a script, newest first; their places mean nothing."""
        rows = []
        for txid in self._newest_first(self._scripts.get(script_hash, ())):
            touched = self._traces[txid].scripts[script_hash]
            rows.append(
                HistoryRow(
                    place=NO_PLACE,
                    txid=txid,
                    funded=tuple(touched.funded),
                    spent_count=touched.spent_count,
                )
            )
        return rows

    def asset_history(self, asset: bytes) -> list[HistoryRow]:
        """Waiting transactions that an asset's activity counts, newest first."""
        return [
            HistoryRow(place=NO_PLACE, txid=txid, funded=(), spent_count=0)
            for txid in self._newest_first(self._assets.get(asset, ()))
        ]

    def asset_sums(self, asset: bytes) -> AssetActivity:
        """What waiting transactions do to an asset."""
        return self._sums.get(asset, NO_ACTIVITY)

    def issuance(self, asset: bytes) -> FirstIssuance | None:
        """How a waiting transaction makes an asset, or None."""
        for row in self.asset_history(asset):
            for issued in self._traces[row.txid].issued:
                if issued.asset == asset:
                    return issued
        return None

    def spender(self, outpoint: OutPoint) -> Spender | None:
        """Which waiting transaction spends an output, or None."""
        txid = self._chain.mempool.spender(outpoint)
        entry = None if txid is None else self._chain.mempool.get(txid)
        if entry is None:
            return None
        for vin, txin in enumerate(entry.tx.inputs):
            if txin.prevout == outpoint and not txin.is_pegin:
                return Spender(txid=entry.tx.txid, vin=vin, height=None)
        return None

    def _newest_first(self, txids: Iterable[bytes]) -> list[bytes]:
        """In the mempool's order backwards, without what left it since the last round."""
        present = [txid for txid in txids if txid in self._chain.mempool]
        return sorted(present, key=lambda txid: self._order.get(txid, 0), reverse=True)

    async def _round(self) -> None:
        pool = self._chain.mempool
        sequence, present = pool.sequence, pool.txids()
        for txid in self._traces.keys() - set(present):
            self._forget(txid)
        self._order = {txid: number for number, txid in enumerate(present)}
        new = [txid for txid in present if txid not in self._traces]
        for start in range(0, len(new), SLICE_TRANSACTIONS):
            if start:
                await asyncio.sleep(0)
            for txid in new[start : start + SLICE_TRANSACTIONS]:
                entry = pool.get(txid)
                if entry is not None:
                    self._add(entry.tx)
        self._sequence = sequence

    def _add(self, tx: Transaction) -> None:
        found = trace(tx, self._spent_scripts(tx), self._chain.params)
        self._traces[tx.txid] = found
        for script_hash in found.scripts:
            self._scripts.setdefault(script_hash, set()).add(tx.txid)
        for asset, activity in found.assets.items():
            self._assets.setdefault(asset, set()).add(tx.txid)
            self._sums[asset] = self._sums.get(asset, NO_ACTIVITY) + activity

    def _spent_scripts(self, tx: Transaction) -> dict[OutPoint, bytes]:
        scripts: dict[OutPoint, bytes] = {}
        for txin in tx.inputs:
            if not txin.is_pegin:
                made_here = self._chain.mempool.coin(txin.prevout)
                coin = made_here or self._chain.coin(txin.prevout)
                if coin is not None:
                    scripts[txin.prevout] = coin.script
        return scripts

    def _forget(self, txid: bytes) -> None:
        found = self._traces.pop(txid)
        for script_hash in found.scripts:
            _drop(self._scripts, script_hash, txid)
        for asset, activity in found.assets.items():
            _drop(self._assets, asset, txid)
            self._sums[asset] -= activity


def _drop(groups: dict[bytes, set[bytes]], key: bytes, txid: bytes) -> None:
    group = groups[key]
    group.discard(txid)
    if not group:
        del groups[key]
