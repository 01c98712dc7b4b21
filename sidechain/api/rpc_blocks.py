"""RPC methods about single blocks and the tip.

Source: elements/interfaces.md 3.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sidechain.api.arguments import (
    flag_argument,
    hash_argument,
    integer_argument,
    verbosity_argument,
)
from sidechain.api.block_json import Position, block_json, header_json
from sidechain.api.registry import (
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    MISC_ERROR,
    Registry,
    RpcError,
)
from sidechain.api.spent_coins import spent_by_block
from sidechain.api.transaction_json import transaction_json
from sidechain.chain import Chain
from sidechain.primitives.block import Block, BlockHeader
from sidechain.validation.headers import median_time_past


class BlockMethods:
    """Reads a chain and what is known beside it; changes nothing."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._moved = asyncio.Event()
        chain.listen(self._on_move)

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        add = registry.add
        add("getblockcount", self.getblockcount, "Height of the tip.")
        add("getbestblockhash", self.getbestblockhash, "Hash of the tip.")
        add("getblockhash", self.getblockhash, "Hash of the block at a height.")
        add("getblockheader", self.getblockheader, "Header, decoded (default) or as hex.")
        add(
            "getblock",
            self.getblock,
            "Block as hex (0), with txids (1), transactions (2) or also what they spend (3).",
            aliases={"verbose": "verbosity"},
        )
        add("waitfornewblock", self.waitfornewblock, "Wait for another tip.")
        add("waitforblock", self.waitforblock, "Wait for a block to be the tip.")
        add("waitforblockheight", self.waitforblockheight, "Wait for a height.")

    def _on_move(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    def getblockcount(self) -> int:
        """Height of the tip."""
        return self._chain.tip_height

    def getbestblockhash(self) -> str:
        """Hash of the tip."""
        return self._chain.tip_hash[::-1].hex()

    def getblockhash(self, height: Any) -> str:
        """Hash of the block at a height."""
        wanted = integer_argument(height)
        if not 0 <= wanted <= self._chain.tip_height:
            raise RpcError(INVALID_PARAMETER, "Block height out of range")
        return self._chain.header(wanted).hash[::-1].hex()

    def getblockheader(self, blockhash: Any, verbose: Any = True) -> Any:
        """Header, decoded or as hex."""
        wanted = self._known(blockhash, "hash")
        header = self._header(wanted)
        if not flag_argument(verbose, True):
            return header.serialize().hex()
        return header_json(header, self._tx_count(wanted), self._position(wanted))

    def getblock(self, blockhash: Any, verbosity: Any = 1) -> Any:
        """Block as hex or decoded."""
        level = verbosity_argument(verbosity, 1)
        wanted = self._known(blockhash, "blockhash")
        raw = self._raw(wanted)
        if level <= 0:
            return raw.hex()
        block = Block.decode(raw, self._chain.params)
        shown = self._transactions(block, level) if level > 1 else None
        return block_json(block, self._position(wanted), shown)

    def _transactions(self, block: Block, level: int) -> list[dict[str, Any]]:
        """The decoded transactions; what they spend is known of blocks of the chain only."""
        params = self._chain.params
        height = self._chain.height_of(block.hash)
        shown_spent = level > 2 and height is not None
        spent = spent_by_block(self._chain, block, height or 0) if shown_spent else {}
        return [
            transaction_json(tx, params, spent.get(tx.txid)) | {"hex": tx.raw.hex()}
            for tx in block.transactions
        ]

    def _known(self, blockhash: Any, name: str) -> bytes:
        wanted = hash_argument(blockhash, name)
        if not self._chain.branches.knows(wanted):
            raise RpcError(INVALID_ADDRESS_OR_KEY, "Block not found")
        return wanted

    def _header(self, block_hash: bytes) -> BlockHeader:
        headers = self._chain.branches.headers_to(block_hash)
        return headers.header(headers.tip_height)

    def _tx_count(self, block_hash: bytes) -> int:
        node = self._chain.branches.node(block_hash)
        height = self._chain.height_of(block_hash)
        if node is not None or height is None:
            return 0 if node is None else node.tx_count
        return self._chain.place(height).tx_count

    def _raw(self, block_hash: bytes) -> bytes:
        height = self._chain.height_of(block_hash)
        if height is not None:
            return self._chain.block_bytes(height)
        node = self._chain.branches.node(block_hash)
        if node is None or not node.has_data:
            raise RpcError(MISC_ERROR, "Block not available (not fully downloaded)")
        return self._chain.branches.side_block(block_hash).serialize()

    def _position(self, block_hash: bytes) -> Position:
        chain = self._chain
        headers = chain.branches.headers_to(block_hash)
        height = headers.tip_height
        active = chain.is_active(block_hash)
        below_tip = active and height < chain.tip_height
        return Position(
            height=height,
            confirmations=chain.tip_height - height + 1 if active else -1,
            median_time=median_time_past(headers, height),
            next_hash=chain.header(height + 1).hash if below_tip else None,
        )

    def waitfornewblock(self, timeout: Any = None) -> Awaitable[dict[str, Any]]:
        """Wait until the tip is another one; the tip then, or at the end of the time."""
        before = self._chain.tip_hash
        return self._wait(lambda: self._chain.tip_hash != before, timeout)

    def waitforblock(self, blockhash: Any, timeout: Any = None) -> Awaitable[dict[str, Any]]:
        """Wait until a block is the tip."""
        wanted = hash_argument(blockhash, "blockhash")
        return self._wait(lambda: self._chain.tip_hash == wanted, timeout)

    def waitforblockheight(self, height: Any, timeout: Any = None) -> Awaitable[dict[str, Any]]:
        """Wait until the chain has a height at least."""
        wanted = integer_argument(height)
        return self._wait(lambda: self._chain.tip_height >= wanted, timeout)

    async def _wait(self, reached: Callable[[], bool], limit: Any) -> dict[str, Any]:
        limit_ms = 0 if limit is None else integer_argument(limit)
        if limit_ms < 0:
            raise RpcError(MISC_ERROR, "Negative timeout")
        try:
            async with asyncio.timeout(limit_ms / 1000 if limit_ms else None):
                while not reached():
                    await self._moved.wait()
        except TimeoutError:
            pass
        return {"hash": self.getbestblockhash(), "height": self._chain.tip_height}
