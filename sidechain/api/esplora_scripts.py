"""Esplora routes about what happened to a script or an asset.

A script is named by its address or by its SHA-256. A confidential address stands for the script
in it. Histories are newest first. Source: clients.md 3.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from aiohttp import web

from sidechain.api.esplora_json import amount_json, hex_of
from sidechain.api.esplora_reads import EsploraReads, Refusal, parse_digest, parse_hash
from sidechain.api.esplora_replies import Routes, json_reply
from sidechain.errors import InvalidEncoding
from sidechain.index.rows import HistoryRow
from sidechain.index.traces import AssetActivity, script_hash
from sidechain.primitives.address import decode_address
from sidechain.primitives.confidential import is_commitment
from sidechain.primitives.transaction import OutPoint

CHAIN_PAGE = 25
MEMPOOL_PAGE = 50
UNSPENT_MAX = 500
HISTORY_ROWS_MAX = 50_000
"""A script with a longer history has pages, but neither summary nor list of coins."""

SLICE_ROWS = 1_000
ADDRESS_LENGTH_MAX = 200


class ScriptRoutes:
    """Handlers of `/address` and `/scripthash`."""

    def __init__(self, reads: EsploraReads) -> None:
        self._reads = reads
        self._store = reads.index.store
        self._waiting = reads.index.waiting

    def routes(self) -> Routes:
        """Path to handler."""
        handlers = {
            "": self._summary,
            "/txs": self._both,
            "/txs/mempool": self._mempool,
            "/txs/chain": self._chain,
            "/txs/chain/{last}": self._chain,
            "/utxo": self._unspent,
        }
        return {
            f"/{kind}/{{name}}{path}": handler
            for kind in ("address", "scripthash")
            for path, handler in handlers.items()
        }

    def _script_hash(self, request: web.Request) -> bytes:
        name = request.match_info["name"]
        if _kind(request) == "scripthash":
            return parse_digest(name)
        if len(name) > ADDRESS_LENGTH_MAX:
            raise Refusal(400, "Invalid address")
        try:
            return script_hash(decode_address(name, self._reads.chain.params.prefixes).script)
        except InvalidEncoding as error:
            raise Refusal(400, error.reason) from error

    async def _summary(self, request: web.Request) -> web.Response:
        wanted = self._script_hash(request)

        async def compute() -> dict[str, Any]:
            rows = await self._whole_history(wanted)
            return {
                _kind(request): request.match_info["name"],
                "chain_stats": _stats(rows),
                "mempool_stats": _stats(self._waiting.history(wanted)),
            }

        return json_reply(await self._reads.at_one_tip(compute))

    async def _mempool(self, request: web.Request) -> web.Response:
        wanted = self._script_hash(request)
        return await _reply_history(self._reads, lambda: self._waiting_page(wanted))

    async def _chain(self, request: web.Request) -> web.Response:
        wanted, last = self._script_hash(request), request.match_info.get("last", "")
        return await _reply_history(self._reads, lambda: self._chain_page(wanted, last))

    async def _both(self, request: web.Request) -> web.Response:
        wanted = self._script_hash(request)
        return await _reply_history(
            self._reads, lambda: [*self._waiting_page(wanted), *self._chain_page(wanted, "")]
        )

    async def _unspent(self, request: web.Request) -> web.Response:
        wanted = self._script_hash(request)
        return json_reply(await self._reads.at_one_tip(lambda: self._unspent_json(wanted)))

    def _waiting_page(self, wanted: bytes) -> list[HistoryRow]:
        return self._waiting.history(wanted)[:MEMPOOL_PAGE]

    def _chain_page(self, wanted: bytes, last: str) -> list[HistoryRow]:
        if not last:
            return list(islice(self._store.history(wanted), CHAIN_PAGE))
        txid = parse_hash(last)
        place = self._reads.place_of(txid)
        if place is None:
            return []
        return page_after(self._store.history(wanted, place), txid, place.height)

    async def _whole_history(self, wanted: bytes) -> list[HistoryRow]:
        rows: list[HistoryRow] = []
        for row in self._store.history(wanted):
            rows.append(row)
            if len(rows) > HISTORY_ROWS_MAX:
                raise Refusal(400, f"more than {HISTORY_ROWS_MAX} transactions: use the pages")
            if len(rows) % SLICE_ROWS == 0:
                await asyncio.sleep(0)
        return rows

    async def _unspent_json(self, wanted: bytes) -> list[dict[str, Any]]:
        rows = [*self._waiting.history(wanted), *await self._whole_history(wanted)]
        shown: list[dict[str, Any]] = []
        for number, row in enumerate(rows):
            if number % SLICE_ROWS == 0:
                await asyncio.sleep(0)
            for vout in row.funded:
                point = OutPoint(row.txid, vout)
                if not self._is_unspent(point):
                    continue
                if len(shown) == UNSPENT_MAX:
                    raise Refusal(400, f"more than {UNSPENT_MAX} unspent outputs")
                shown.append(self._coin_json(point))
        return shown

    def _is_unspent(self, point: OutPoint) -> bool:
        chain = self._reads.chain
        is_there = chain.coin(point) is not None or chain.mempool.coin(point) is not None
        return is_there and chain.mempool.spender(point) is None

    def _coin_json(self, point: OutPoint) -> dict[str, Any]:
        tx, height = self._reads.transaction(point.txid)
        output, witness = tx.outputs[point.index], tx.output_witnesses[point.index]
        shown = {
            "txid": hex_of(point.txid),
            "vout": point.index,
            "status": self._reads.status(height),
            **amount_json(output.asset, output.value),
        }
        if is_commitment(output.nonce):
            shown["noncecommitment"] = output.nonce.hex()
        if witness.surjection_proof:
            shown["surjection_proof"] = witness.surjection_proof.hex()
        if witness.range_proof:
            shown["range_proof"] = witness.range_proof.hex()
        return shown


class AssetRoutes:
    """Handlers of `/asset`."""

    def __init__(self, reads: EsploraReads) -> None:
        self._reads = reads
        self._store = reads.index.store
        self._waiting = reads.index.waiting

    def routes(self) -> Routes:
        """Path to handler."""
        return {
            "/asset/{asset}": self._summary,
            "/asset/{asset}/txs": self._both,
            "/asset/{asset}/txs/mempool": self._mempool,
            "/asset/{asset}/txs/chain": self._chain,
            "/asset/{asset}/txs/chain/{last}": self._chain,
        }

    async def _summary(self, request: web.Request) -> web.Response:
        asset = parse_hash(request.match_info["asset"])
        await self._reads.ready()
        shown: dict[str, Any] = {"asset_id": hex_of(asset)}
        if asset != self._reads.chain.params.pegged_asset:
            shown |= self._issuance_json(asset)
        token = self._token_of(asset)
        shown["chain_stats"] = self._stats(asset, self._store.sums(asset), token, waiting=False)
        pending = self._waiting.asset_sums(asset)
        shown["mempool_stats"] = self._stats(asset, pending, token, waiting=True)
        return json_reply(shown)

    async def _mempool(self, request: web.Request) -> web.Response:
        asset = parse_hash(request.match_info["asset"])
        return await _reply_history(
            self._reads, lambda: self._waiting.asset_history(asset)[:MEMPOOL_PAGE]
        )

    async def _chain(self, request: web.Request) -> web.Response:
        asset = parse_hash(request.match_info["asset"])
        last = request.match_info.get("last", "")
        return await _reply_history(self._reads, lambda: self._chain_page(asset, last))

    async def _both(self, request: web.Request) -> web.Response:
        asset = parse_hash(request.match_info["asset"])
        return await _reply_history(
            self._reads,
            lambda: [
                *self._waiting.asset_history(asset)[:MEMPOOL_PAGE],
                *self._chain_page(asset, ""),
            ],
        )

    def _chain_page(self, asset: bytes, last: str) -> list[HistoryRow]:
        if not last:
            return list(islice(self._store.asset_history(asset), CHAIN_PAGE))
        txid = parse_hash(last)
        place = self._reads.place_of(txid)
        if place is None:
            return []
        return page_after(self._store.asset_history(asset, place), txid, place.height)

    def _token_of(self, asset: bytes) -> bytes | None:
        issued = self._store.issuance(asset) or self._waiting.issuance(asset)
        return None if issued is None else issued.token

    def _issuance_json(self, asset: bytes) -> dict[str, Any]:
        issued = self._store.issuance(asset) or self._waiting.issuance(asset)
        if issued is None:
            raise Refusal(404, "Asset id not found")
        _, height = self._reads.transaction(issued.txid)
        shown: dict[str, Any] = {
            "issuance_txin": {"txid": hex_of(issued.txid), "vin": issued.vin},
            "issuance_prevout": {
                "txid": hex_of(issued.prevout.txid),
                "vout": issued.prevout.index,
            },
            "reissuance_token": hex_of(issued.token),
        }
        if any(issued.contract_hash):
            shown["contract_hash"] = hex_of(issued.contract_hash)
        return shown | {"status": self._reads.status(height)}

    def _stats(
        self, asset: bytes, sums: AssetActivity, token: bytes | None, *, waiting: bool
    ) -> dict[str, Any]:
        if asset == self._reads.chain.params.pegged_asset:
            return {
                "tx_count": sums.tx_count,
                "peg_in_count": sums.peg_in_count,
                "peg_in_amount": sums.peg_in_sats,
                "peg_out_count": sums.peg_out_count,
                "peg_out_amount": sums.peg_out_sats,
                "burn_count": sums.burn_count,
                "burned_amount": sums.burned_sats,
            }
        source = self._waiting.asset_sums if waiting else self._store.sums
        burned_tokens = 0 if token is None else source(token).burned_sats
        return {
            "tx_count": sums.tx_count,
            "issuance_count": sums.issuance_count,
            "issued_amount": sums.issued_sats,
            "burned_amount": sums.burned_sats,
            "has_blinded_issuances": sums.blinded_issuance_count > 0,
            "reissuance_tokens": None if sums.blinded_token_count else sums.token_sats,
            "burned_reissuance_tokens": burned_tokens,
        }


def page_after(rows: Iterator[HistoryRow], last: bytes, height: int) -> list[HistoryRow]:
    """The rows behind the one of a transaction; none when its block has no such row."""
    for row in rows:
        if row.txid == last:
            return list(islice(rows, CHAIN_PAGE))
        if row.place.height < height:
            break
    return []


async def _reply_history(
    reads: EsploraReads, select: Callable[[], list[HistoryRow]]
) -> web.Response:
    async def compute() -> list[dict[str, Any]]:
        return await reads.transactions_json([row.txid for row in select()])

    return json_reply(await reads.at_one_tip(compute))


def _kind(request: web.Request) -> str:
    return request.path.split("/", 2)[1]


def _stats(rows: Iterable[HistoryRow]) -> dict[str, int]:
    shown = {"tx_count": 0, "funded_txo_count": 0, "spent_txo_count": 0}
    for row in rows:
        shown["tx_count"] += 1
        shown["funded_txo_count"] += len(row.funded)
        shown["spent_txo_count"] += row.spent_count
    return shown
