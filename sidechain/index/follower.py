"""Keeps an index at its chain's tip, a block at a time, while the owner of the chain goes on.

Small blocks are indexed in the event loop between other work; large ones are decoded and written
in a thread of their own, which touches nothing but the index.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from sidechain.chain import Chain
from sidechain.errors import Unavailable
from sidechain.index.rows import block_rows
from sidechain.index.store import IndexDamaged, IndexStore
from sidechain.index.waiting import WaitingIndex
from sidechain.primitives.block import Block
from sidechain.storage.schema import UndoRecord

INLINE_BYTES_MAX = 15_000
"""Blocks up to this size take less than 5 ms."""


class ChainIndex:
    """The index of one chain and the task that keeps it up. Give `run` to a task of the owner.

    Attributes:
        store: what blocks left.
        waiting: what the mempool's transactions left.
    """

    def __init__(self, chain: Chain, store: IndexStore) -> None:
        self._chain = chain
        self.store = store
        self.waiting = WaitingIndex(chain)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="index")
        self._wake = asyncio.Event()
        self._moved = asyncio.Condition()
        self._stopped = False
        self._is_damaged = False
        self._problem = ""
        chain.listen(self.poke)

    @classmethod
    def open(cls, path: Path, chain: Chain) -> Self:
        """Open the index in a folder of its own; what it lacks is read from the chain by `run`.

        Raises:
            Unavailable: the folder is in use by another process or cannot be used.
        """
        return cls(chain, IndexStore.open(path, chain.params.genesis_hash))

    @property
    def is_at_tip(self) -> bool:
        """Whether every block of the chain is in the index, and no other."""
        return self.store.tip == (self._chain.tip_height, self._chain.tip_hash)

    @property
    def problem(self) -> str:
        """Why the index does not move now, "" while it does."""
        return self._problem

    def poke(self) -> None:
        """Look at the chain's tip again."""
        self._wake.set()

    def discard(self) -> None:
        """Make the index anew: a row of it did not read back."""
        self._is_damaged = True
        self.poke()

    async def run(self, on_fault: Callable[[BaseException], None] = lambda error: None) -> None:
        """Follow the chain until `stop`.

        A disk that refuses is tried again at the next block; an index that does not read back is
        made anew. Neither is a reason for the owner of the chain to end.

        Args:
            on_fault: told why the index does not move.
        """
        while not self._stopped:
            self._wake.clear()
            try:
                if self._is_damaged:
                    self.store.clear()
                    self._is_damaged = False
                while not self._stopped and await self._step():
                    pass
                self._problem = ""
            except (Unavailable, IndexDamaged) as error:
                self._problem = str(error)
                self._is_damaged = self._is_damaged or isinstance(error, IndexDamaged)
                on_fault(error)
            async with self._moved:
                self._moved.notify_all()
            if not self._stopped:
                await self._wake.wait()

    async def reach_tip(self, wait_s: int) -> bool:
        """Wait until the index is at the chain's tip; whether that came true in time."""
        if self.is_at_tip:
            return True
        self._problem = ""
        self.poke()
        try:
            async with asyncio.timeout(wait_s), self._moved:
                await self._moved.wait_for(lambda: self.is_at_tip or bool(self._problem))
        except TimeoutError:
            return False
        return self.is_at_tip

    def stop(self) -> None:
        """Let `run` return after the block it is at."""
        self._stopped = True
        self.poke()

    def close(self) -> None:
        """Release thread and folder, once `run` has ended. May be called twice."""
        self._thread.shutdown(wait=True)
        self.store.close()

    async def _step(self) -> bool:
        """Move one block on or back; whether there was anything to do."""
        chain, (height, block_hash) = self._chain, self.store.tip
        if height > chain.tip_height or (height >= 0 and chain.header(height).hash != block_hash):
            if not self.store.disconnect():
                self.store.clear()
            await asyncio.sleep(0)
            return True
        if height == chain.tip_height:
            return False
        raw, undo = chain.block_bytes(height + 1), chain.undo_bytes(height + 1)
        if len(raw) + len(undo) <= INLINE_BYTES_MAX:
            self._index(height + 1, raw, undo)
            await asyncio.sleep(0)
        else:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, self._index, height + 1, raw, undo)
        return True

    def _index(self, height: int, raw: bytes, undo: bytes) -> None:
        params = self._chain.params
        block = Block.decode(raw, params)
        self.store.connect(block_rows(block, height, UndoRecord.unpack(undo), params))
