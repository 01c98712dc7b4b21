"""What the Esplora routes ask of chain, mempool and index, and how a request is refused."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from sidechain.api.esplora_json import status_json, transaction_json
from sidechain.chain import Chain
from sidechain.index.follower import ChainIndex
from sidechain.index.rows import Place, Spender
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import OutPoint, Transaction, TxOut
from sidechain.storage.schema import UndoRecord

BLOCK_INLINE_BYTES_MAX = 200_000
"""Larger blocks are decoded in a thread: they take more than 5 ms."""

BLOCKS_KEPT = 2
"""Decoded blocks, and lists of what they spent, kept for whoever pages through one."""

SPENT_INLINE_BYTES_MAX = 40_000
"""Longer lists of what a block spent are read in a thread."""

PAGE_BYTES_MAX = 8_000_000
"""A page ends after so many bytes of transactions, however few they are."""

CATCH_UP_WAIT_S = 5
"""How long a request waits for the index to reach the tip."""

TRIES_MAX = 4
"""How often an answer is computed anew because the tip moved meanwhile."""


T = TypeVar("T")


class Refusal(Exception):
    """A reply that is no result: status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


def not_found(what: str) -> Refusal:
    """The reply for what is not there."""
    return Refusal(404, f"{what} not found")


def parse_hash(text: str) -> bytes:
    """A hash out of a path, in internal order. Raises Refusal."""
    return parse_digest(text)[::-1]


def parse_digest(text: str) -> bytes:
    """32 bytes of hex as they stand. Raises Refusal."""
    if len(text) != 64 or not text.isascii() or not text.isalnum():
        raise Refusal(400, "Invalid hash string")
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise Refusal(400, "Invalid hash string") from None


def parse_number(text: str) -> int:
    """A whole number of up to 32 bits out of a path. Raises Refusal."""
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > 0xFFFFFFFF:
        raise Refusal(400, "Invalid number")
    return int(text)


class EsploraReads:
    """Reading for the routes. Whatever is asked for together is read without other work between,
    so that it belongs to one tip; longer answers go through `at_one_tip`."""

    def __init__(self, chain: Chain, index: ChainIndex) -> None:
        self.chain = chain
        self.index = index
        self._blocks: OrderedDict[bytes, Block] = OrderedDict()
        self._spent: OrderedDict[bytes, dict[OutPoint, TxOut]] = OrderedDict()

    async def ready(self) -> None:
        """Wait until the index is at the tip and knows the mempool.

        Raises:
            Refusal: 503, it is not there yet; clients ask again.
        """
        if not await self.index.reach_tip(CATCH_UP_WAIT_S):
            problem = self.index.problem or f"block {self.index.store.tip[0]} is reached"
            raise Refusal(503, f"the index is not at the tip yet: {problem}")
        await self.index.waiting.refresh()

    async def at_one_tip(
        self, compute: Callable[[], Awaitable[T]], *, from_index: bool = True
    ) -> T:
        """Compute an answer that belongs to one tip.

        Args:
            from_index: the index must be there before, too.
        Raises:
            Refusal: 503, the tip moves all the time.
        """
        for _ in range(TRIES_MAX):
            if from_index:
                await self.ready()
            tip = self.chain.tip_hash
            answer = await compute()
            if self.chain.tip_hash == tip:
                return answer
        raise Refusal(503, "the chain moves faster than it can be read")

    def height_of(self, block_hash: bytes) -> int:
        """Height of a block of this chain. Raises Refusal."""
        height = self.chain.height_of(block_hash)
        if height is None:
            raise not_found("Block")
        return height

    async def block(self, block_hash: bytes) -> tuple[Block, int]:
        """A block of this chain and its height. Raises Refusal."""
        height = self.height_of(block_hash)
        kept = self._blocks.get(block_hash)
        if kept is not None:
            return kept, height
        raw, params = self.chain.block_bytes(height), self.chain.params
        if len(raw) > BLOCK_INLINE_BYTES_MAX:
            block = await asyncio.to_thread(Block.decode, raw, params)
        else:
            block = Block.decode(raw, params)
        self._blocks[block_hash] = block
        if len(self._blocks) > BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        return block, height

    def transaction(self, txid: bytes) -> tuple[Transaction, int | None]:
        """A transaction and its height, None while it waits. Raises Refusal."""
        found = self.chain.find_transaction(txid)
        if found is not None:
            return found
        entry = self.chain.mempool.get(txid)
        if entry is None:
            raise not_found("Transaction")
        return entry.tx, None

    def status(self, height: int | None) -> dict[str, Any]:
        """Status of a transaction in the block at a height, or of one that waits."""
        header = None if height is None else self.chain.header(height)
        return status_json(header, height)

    def spender(self, outpoint: OutPoint) -> Spender | None:
        """Who spends an output, in a block or in the mempool."""
        return self.index.store.spender(outpoint) or self.index.waiting.spender(outpoint)

    async def transaction_json(self, tx: Transaction, height: int | None) -> dict[str, Any]:
        """A transaction as it is shown, with what it spends; inside `at_one_tip` only."""
        status = self.status(height)
        if height is None:
            prevouts = self._waiting_prevouts(tx)
        else:
            prevouts = await self._mined_prevouts(tx, height)
        return transaction_json(tx, self.chain.params, prevouts, status)

    async def transactions_json(self, txids: Sequence[bytes]) -> list[dict[str, Any]]:
        """Several transactions as they are shown; inside `at_one_tip` only."""
        shown: list[dict[str, Any]] = []
        size_bytes = 0
        for txid in txids:
            if shown:
                await asyncio.sleep(0)
            try:
                tx, height = self.transaction(txid)
            except Refusal:
                continue  # it left the mempool while the others were read
            size_bytes += tx.total_size
            if shown and size_bytes > PAGE_BYTES_MAX:
                break
            shown.append(await self.transaction_json(tx, height))
        return shown

    def place_of(self, txid: bytes) -> Place | None:
        """Where the search for a transaction in a history begins, None when it is in no block."""
        found = self.chain.find_transaction(txid)
        return None if found is None else Place(found[1], 0xFFFFFFFF)

    def _waiting_prevouts(self, tx: Transaction) -> dict[OutPoint, TxOut]:
        found: dict[OutPoint, TxOut] = {}
        for txin in tx.inputs:
            coin = self.chain.mempool.coin(txin.prevout) or self.chain.coin(txin.prevout)
            if coin is not None and not txin.is_pegin:
                found[txin.prevout] = coin.output
        return found

    async def _mined_prevouts(self, tx: Transaction, height: int) -> dict[OutPoint, TxOut]:
        """What a transaction spends: coins from below its block, and outputs of the same block."""
        found = await self._spent_by_block(height)
        points = [txin.prevout for txin in tx.inputs if not txin.is_pegin]
        within = [point for point in points if not point.is_null and point not in found]
        if not within:
            return found
        block, _ = await self.block(self.chain.header(height).hash)
        made = {other.txid: other.outputs for other in block.transactions}
        here = {p: made[p.txid][p.index] for p in within if p.index < len(made.get(p.txid, ()))}
        return {point: found[point] for point in points if point in found} | here

    async def _spent_by_block(self, height: int) -> dict[OutPoint, TxOut]:
        """The coins from below that the block at a height spent, by the chain's own record."""
        block_hash = self.chain.header(height).hash
        kept = self._spent.get(block_hash)
        if kept is not None:
            return kept
        stored = self.chain.undo_bytes(height)
        if len(stored) > SPENT_INLINE_BYTES_MAX:
            found = await asyncio.to_thread(_read_spent, stored)
        else:
            found = _read_spent(stored)
        self._spent[block_hash] = found
        if len(self._spent) > BLOCKS_KEPT:
            self._spent.popitem(last=False)
        return found


def _read_spent(stored: bytes) -> dict[OutPoint, TxOut]:
    return {outpoint: coin.output for outpoint, coin in UndoRecord.unpack(stored).spent}
