"""Follows bitcoind's best chain and mempool for deposits to own addresses.

A reorganisation takes the deposits of lost blocks back to "in no block"; when one turns up in
another block it gets that block's height and proof. One task calls `step` again and again.
"""

import asyncio

from structlog.typing import FilteringBoundLogger

from federation.wallet.links import ParentNode
from federation.wallet.peg_store import PegStore
from federation.wallet.pegs import Pegin
from peg.bitcoind import BitcoindError
from sidechain.primitives.parent import parse_parent_block, parse_parent_tx
from sidechain.wallet.records import Cursor

START_MARGIN_BLOCKS = 144
"""A new store starts this far below the tip, deeper than a reorganisation is expected to go."""

BLOCKS_PER_STEP = 200
MEMPOOL_READS_PER_STEP = 200
CODE_NO_SUCH_HEIGHT = -8
CODE_UNKNOWN = -5


class DepositFollower:
    """Keeps the peg store in step with one bitcoind."""

    def __init__(self, parent: ParentNode, store: PegStore, log: FilteringBoundLogger) -> None:
        self._parent = parent
        self._store = store
        self._log = log
        self._mempool: frozenset[bytes] = frozenset()
        self._read: set[bytes] = set()

    @property
    def tip_height(self) -> int:
        """Height of the last Bitcoin block taken in; -1 before the first."""
        cursor = self._store.parent_cursor
        return -1 if cursor is None else cursor.height

    def is_in_mempool(self, txid: bytes) -> bool:
        """Whether bitcoind's mempool held this transaction at the last step."""
        return txid in self._mempool

    async def step(self) -> bool:
        """Move towards bitcoind's tip; whether it was reached.

        Raises:
            Unavailable: bitcoind does not answer.
            BitcoindError: it answers with an error nobody expected.
            InvalidEncoding: it sent a block that does not decode.
        """
        if self._store.parent_cursor is None:
            await self._start()
        await self._rewind()
        reached = False
        for _ in range(BLOCKS_PER_STEP):
            if not await self._forward():
                reached = True
                break
        if reached and self._store.has_addresses:
            await self._look_into_mempool()
        return reached

    async def _start(self) -> None:
        tip = await self._parent.header(await self._parent.best_block_hash())
        height = max(0, tip.height - START_MARGIN_BLOCKS)
        self._store.start_parent(Cursor(height, await self._parent.block_hash(height)))

    async def _rewind(self) -> None:
        cursor = self._store.parent_cursor
        if cursor is None or await self._active_hash(cursor.height) == cursor.block_hash:
            return
        lowest = self._store.lowest_parent_height()
        height = cursor.height
        while height > lowest:
            height -= 1
            active = await self._active_hash(height)
            if active is not None and active == self._store.parent_hash(height):
                break
        else:
            # Deeper than anything kept: begin again well below, as on the first start.
            height = max(0, lowest - START_MARGIN_BLOCKS)
        active = await self._active_hash(height)
        if active is None:
            return
        undone = self._store.rewind_parent(Cursor(height, active))
        self._log.info(
            "bitcoin_reorganised",
            from_height=cursor.height,
            to_height=height,
            deposits=[pegin.id for pegin in undone],
        )

    async def _forward(self) -> bool:
        cursor = self._store.parent_cursor
        if cursor is None:
            return False
        block_hash = await self._active_hash(cursor.height + 1)
        if block_hash is None:
            return False
        raw = await self._parent.raw_block(block_hash)
        block = await asyncio.to_thread(parse_parent_block, raw)
        if block.header.prev_hash != cursor.block_hash or block.header.hash != block_hash:
            return False
        for pegin in self._store.connect_parent(block, cursor.height + 1):
            self._log_deposit(pegin)
        return True

    async def _active_hash(self, height: int) -> bytes | None:
        try:
            return await self._parent.block_hash(height)
        except BitcoindError as error:
            if error.code == CODE_NO_SUCH_HEIGHT:
                return None
            raise

    async def _look_into_mempool(self) -> None:
        self._mempool = frozenset(await self._parent.mempool_txids())
        self._read &= self._mempool
        unread = sorted(self._mempool - self._read)
        for txid in unread[:MEMPOOL_READS_PER_STEP]:
            try:
                raw = await self._parent.raw_transaction(txid)
            except BitcoindError as error:
                if error.code == CODE_UNKNOWN:
                    continue
                raise
            self._read.add(txid)
            for pegin in self._store.see_unconfirmed(parse_parent_tx(raw)):
                self._log_deposit(pegin)

    def _log_deposit(self, pegin: Pegin) -> None:
        deposit = pegin.deposit
        if deposit is not None:
            self._log.info(
                "deposit_seen",
                pegin=pegin.id,
                txid=deposit.outpoint.txid[::-1].hex(),
                vout=deposit.outpoint.index,
                value_sats=deposit.value_sats,
                height=deposit.height,
            )
