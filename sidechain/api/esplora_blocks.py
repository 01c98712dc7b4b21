"""Esplora routes about blocks and single transactions.

Source: clients.md 3.
"""

from typing import Any

from aiohttp import web

from sidechain.api.esplora_json import block_json, hex_of, spender_json
from sidechain.api.esplora_reads import (
    EsploraReads,
    Refusal,
    not_found,
    parse_hash,
    parse_number,
)
from sidechain.api.esplora_replies import Routes, binary_reply, json_reply, text_reply
from sidechain.crypto.hashes import sha256d
from sidechain.primitives.transaction import OutPoint
from sidechain.validation.dynafed import median_time_past

BLOCKS_LISTED = 10
TRANSACTIONS_PER_PAGE = 25


class BlockRoutes:
    """Handlers of `/blocks`, `/block`, `/block-height`."""

    def __init__(self, reads: EsploraReads) -> None:
        self._reads = reads
        self._chain = reads.chain

    def routes(self) -> Routes:
        """Path to handler."""
        return {
            "/blocks/tip/hash": self._tip_hash,
            "/blocks/tip/height": self._tip_height,
            "/blocks": self._list,
            "/blocks/{height}": self._list,
            "/block-height/{height}": self._hash_at,
            "/block/{hash}": self._block,
            "/block/{hash}/header": self._header,
            "/block/{hash}/status": self._status,
            "/block/{hash}/raw": self._raw,
            "/block/{hash}/txids": self._txids,
            "/block/{hash}/txid/{index}": self._txid,
            "/block/{hash}/txs": self._transactions,
            "/block/{hash}/txs/{start}": self._transactions,
        }

    async def _tip_hash(self, request: web.Request) -> web.Response:
        return text_reply(hex_of(self._chain.tip_hash))

    async def _tip_height(self, request: web.Request) -> web.Response:
        return text_reply(str(self._chain.tip_height))

    async def _hash_at(self, request: web.Request) -> web.Response:
        height = parse_number(request.match_info["height"])
        if height > self._chain.tip_height:
            raise not_found("Block")
        return text_reply(hex_of(self._chain.header(height).hash))

    async def _list(self, request: web.Request) -> web.Response:
        text = request.match_info.get("height", "")
        top = parse_number(text) if text else self._chain.tip_height
        if top > self._chain.tip_height:
            raise not_found("Block")
        hashes = [self._chain.header(h).hash for h in range(top, max(top - BLOCKS_LISTED, -1), -1)]
        return json_reply([await self._shown(found, with_proof=False) for found in hashes])

    async def _block(self, request: web.Request) -> web.Response:
        return json_reply(await self._shown(_hash(request), with_proof=True))

    async def _header(self, request: web.Request) -> web.Response:
        height = self._reads.height_of(_hash(request))
        return text_reply(self._chain.header(height).serialize().hex())

    async def _status(self, request: web.Request) -> web.Response:
        height = self._chain.height_of(_hash(request))
        if height is None:
            return json_reply({"in_best_chain": False})
        shown: dict[str, Any] = {"in_best_chain": True, "height": height}
        if height < self._chain.tip_height:
            shown["next_best"] = hex_of(self._chain.header(height + 1).hash)
        return json_reply(shown)

    async def _raw(self, request: web.Request) -> web.Response:
        height = self._reads.height_of(_hash(request))
        return binary_reply(self._chain.block_bytes(height))

    async def _txids(self, request: web.Request) -> web.Response:
        block, _ = await self._reads.block(_hash(request))
        return json_reply([hex_of(tx.txid) for tx in block.transactions])

    async def _txid(self, request: web.Request) -> web.Response:
        block, _ = await self._reads.block(_hash(request))
        index = parse_number(request.match_info["index"])
        if index >= len(block.transactions):
            raise Refusal(404, "tx index out of range")
        return text_reply(hex_of(block.transactions[index].txid))

    async def _transactions(self, request: web.Request) -> web.Response:
        block_hash = _hash(request)
        start = parse_number(request.match_info.get("start", "0"))
        if start % TRANSACTIONS_PER_PAGE:
            raise Refusal(400, f"start index must be a multiple of {TRANSACTIONS_PER_PAGE}")

        async def compute() -> list[dict[str, Any]]:
            block, _ = await self._reads.block(block_hash)
            if start and start >= len(block.transactions):
                raise Refusal(400, "start index out of range")
            page = block.transactions[start : start + TRANSACTIONS_PER_PAGE]
            return await self._reads.transactions_json([tx.txid for tx in page])

        return json_reply(await self._reads.at_one_tip(compute))

    async def _shown(self, block_hash: bytes, *, with_proof: bool) -> dict[str, Any]:
        block, height = await self._reads.block(block_hash)
        return block_json(
            block.header,
            height=height,
            transaction_count=len(block.transactions),
            size_bytes=block.total_size,
            weight_wu=block.weight_wu,
            median_time_s=median_time_past(self._chain, height),
            with_proof=with_proof,
        )


class TransactionRoutes:
    """Handlers of `/tx`."""

    def __init__(self, reads: EsploraReads) -> None:
        self._reads = reads
        self._chain = reads.chain

    def routes(self) -> Routes:
        """Path to handler."""
        return {
            "/tx/{txid}": self._transaction,
            "/tx/{txid}/status": self._status,
            "/tx/{txid}/hex": self._hex,
            "/tx/{txid}/raw": self._raw,
            "/tx/{txid}/merkle-proof": self._merkle_proof,
            "/tx/{txid}/outspend/{vout}": self._outspend,
            "/tx/{txid}/outspends": self._outspends,
        }

    async def _transaction(self, request: web.Request) -> web.Response:
        txid = _txid(request)

        async def compute() -> dict[str, Any]:
            return await self._reads.transaction_json(*self._reads.transaction(txid))

        return json_reply(await self._reads.at_one_tip(compute, from_index=False))

    async def _status(self, request: web.Request) -> web.Response:
        try:
            _, height = self._reads.transaction(_txid(request))
        except Refusal as refusal:
            if refusal.status != 404:
                raise
            height = None  # as the reference server: no transaction, hence not confirmed
        return json_reply(self._reads.status(height))

    async def _hex(self, request: web.Request) -> web.Response:
        return text_reply(self._reads.transaction(_txid(request))[0].raw.hex())

    async def _raw(self, request: web.Request) -> web.Response:
        return binary_reply(self._reads.transaction(_txid(request))[0].raw)

    async def _merkle_proof(self, request: web.Request) -> web.Response:
        txid = _txid(request)
        found = self._chain.find_transaction(txid)
        if found is None:
            raise Refusal(404, "Transaction not found or is unconfirmed")
        block, height = await self._reads.block(self._chain.header(found[1]).hash)
        txids = [tx.txid for tx in block.transactions]
        position = txids.index(txid)
        merkle = [hex_of(sibling) for sibling in merkle_branch(txids, position)]
        return json_reply({"block_height": height, "merkle": merkle, "pos": position})

    async def _outspend(self, request: web.Request) -> web.Response:
        txid, vout = _txid(request), parse_number(request.match_info["vout"])
        await self._reads.ready()
        return json_reply(self._spender_json(OutPoint(txid, vout)))

    async def _outspends(self, request: web.Request) -> web.Response:
        txid = _txid(request)
        await self._reads.ready()
        tx, _ = self._reads.transaction(txid)
        points = [OutPoint(txid, vout) for vout in range(len(tx.outputs))]
        return json_reply([self._spender_json(point) for point in points])

    def _spender_json(self, outpoint: OutPoint) -> dict[str, Any]:
        spender = self._reads.spender(outpoint)
        height = None if spender is None else spender.height
        return spender_json(spender, self._reads.status(height))


def merkle_branch(txids: list[bytes], position: int) -> list[bytes]:
    """What a txid is hashed with, level by level, to reach the root of its block."""
    branch: list[bytes] = []
    level = txids
    while len(level) > 1:
        if len(level) % 2:
            level = [*level, level[-1]]
        branch.append(level[position ^ 1])
        level = [sha256d(level[i] + level[i + 1]) for i in range(0, len(level), 2)]
        position //= 2
    return branch


def _hash(request: web.Request) -> bytes:
    return parse_hash(request.match_info["hash"])


def _txid(request: web.Request) -> bytes:
    return parse_hash(request.match_info["txid"])
