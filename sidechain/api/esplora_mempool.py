"""Esplora routes about what waits for a block: backlog, fee rates, and sending a transaction.

Source: clients.md 3.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from decimal import ROUND_CEILING, Decimal
from itertools import islice
from typing import Any, NamedTuple

from aiohttp import web

from sidechain.api.esplora_json import hex_of
from sidechain.api.esplora_reads import EsploraReads, Refusal
from sidechain.api.esplora_replies import Routes, json_reply, text_reply
from sidechain.api.registry import (
    DATABASE_ERROR,
    IN_WARMUP,
    INTERNAL_ERROR,
    MISC_ERROR,
    Registry,
    RpcError,
)
from sidechain.params import MAX_BLOCK_WEIGHT_WU

RECENT_COUNT = 10
HISTOGRAM_BIN_VBYTES = 50_000
FEE_TARGETS = (*range(1, 26), 144, 504, 1008)
BLOCK_VBYTES = MAX_BLOCK_WEIGHT_WU // 4
SORT_INLINE_MAX = 2_000
"""Longer mempools are sorted in a thread."""

_OURS = frozenset({MISC_ERROR, INTERNAL_ERROR, DATABASE_ERROR})

Send = Callable[[str], Awaitable[str]]
"""Takes a transaction in hex as `sendrawtransaction` does: returns its txid or raises RpcError."""


def sender(registry: Registry) -> Send:
    """Sending as `sendrawtransaction` of these methods does it."""

    async def send(tx_hex: str) -> str:
        return str(await registry.call("sendrawtransaction", [tx_hex]))

    return send


class Rate(NamedTuple):
    """What one transaction pays for its size. `rate` is in satoshis for 1,000 virtual bytes."""

    rate_sats_per_kvb: int
    vsize: int


class MempoolRoutes:
    """Handlers of `/mempool`, `/fee-estimates` and the receiving end of `/tx`."""

    def __init__(self, reads: EsploraReads, send: Send) -> None:
        self._chain = reads.chain
        self._send = send
        self._sequence = -1
        self._rates: list[Rate] = []

    def routes(self) -> Routes:
        """Path to handler."""
        return {
            "/mempool": self._backlog,
            "/mempool/txids": self._txids,
            "/mempool/recent": self._recent,
            "/fee-estimates": self._fee_estimates,
        }

    async def broadcast(self, request: web.Request) -> web.Response:
        """Take in a transaction posted as hex; what refuses it is the text of a 400."""
        text = (await request.text()).strip()
        try:
            return text_reply(await self._send(text))
        except RpcError as error:
            if error.code == IN_WARMUP:
                raise Refusal(503, error.message) from error
            raise Refusal(500 if error.code in _OURS else 400, error.message) from error

    async def _backlog(self, request: web.Request) -> web.Response:
        rates = await self._sorted_rates()
        entries = self._chain.mempool.entries()
        return json_reply(
            {
                "count": len(entries),
                "vsize": sum(rate.vsize for rate in rates),
                "total_fee": sum(entry.fee_sats for entry in entries),
                "fee_histogram": histogram(rates),
            }
        )

    async def _txids(self, request: web.Request) -> web.Response:
        return json_reply([hex_of(txid) for txid in self._chain.mempool.txids()])

    async def _recent(self, request: web.Request) -> web.Response:
        pool = self._chain.mempool
        shown: list[dict[str, Any]] = []
        for txid in islice(reversed(pool.txids()), RECENT_COUNT):
            entry = pool.get(txid)
            if entry is None:
                continue
            shown.append(
                {
                    "txid": hex_of(txid),
                    "fee": entry.fee_sats,
                    "vsize": entry.tx.vsize,
                    "discount_vsize": entry.tx.discount_vsize,
                }
            )
        return json_reply(shown)

    async def _fee_estimates(self, request: web.Request) -> web.Response:
        rates = await self._sorted_rates()
        floor = self._chain.params.min_relay_fee_sats_per_kvb
        return json_reply({str(n): _per_vbyte(rate_for(rates, n, floor)) for n in FEE_TARGETS})

    async def _sorted_rates(self) -> list[Rate]:
        """Best payer first; computed once for each state of the mempool."""
        pool = self._chain.mempool
        if pool.sequence != self._sequence:
            sequence = pool.sequence
            rates = [
                Rate(entry.fee_sats * 1000 // entry.discount_vsize, entry.discount_vsize)
                for entry in pool.entries()
            ]
            if len(rates) > SORT_INLINE_MAX:
                rates = await asyncio.to_thread(sorted, rates, reverse=True)
            else:
                rates.sort(reverse=True)
            self._rates, self._sequence = rates, sequence
        return self._rates


def histogram(rates: Sequence[Rate]) -> list[list[Any]]:
    """Pairs of a fee rate and the virtual bytes that pay it or more, up to the pair before.

    Args:
        rates: best payer first.
    """
    found: list[list[Any]] = []
    vbytes, last = 0, 0
    for rate, vsize in rates:
        if vbytes > HISTOGRAM_BIN_VBYTES and rate != last:
            found.append([_per_vbyte(last), vbytes])
            vbytes = 0
        vbytes += vsize
        last = rate
    if vbytes:
        found.append([_per_vbyte(last), vbytes])
    return found


def rate_for(rates: Sequence[Rate], blocks: int, floor_sats_per_kvb: int) -> int:
    """The fee rate that is better than whatever does not fit into so many blocks.

    Args:
        rates: best payer first.
        floor_sats_per_kvb: what is asked in any case.
    """
    room = blocks * BLOCK_VBYTES
    for rate, vsize in rates:
        room -= vsize
        if room < 0:
            return max(rate + 1, floor_sats_per_kvb)
    return floor_sats_per_kvb


def _per_vbyte(rate_sats_per_kvb: int) -> Decimal:
    """Satoshis for one virtual byte, three decimals, rounded up."""
    return (Decimal(rate_sats_per_kvb) / 1000).quantize(Decimal("0.001"), ROUND_CEILING)
