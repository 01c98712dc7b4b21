"""Follows the best chain of a Bitcoin node and tells of each change.

One owner per parent view. A reorganisation of any depth comes as one `ParentChange`; while the node
cannot be asked the view stays as it was and `is_healthy` is False.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from peg.bitcoind import BitcoindClient, BitcoindError, ParentHeaderInfo
from peg.parent_view import ParentBlock, ParentChange, ParentView
from sidechain.errors import InvariantError, Unavailable

POLL_MS_DEFAULT = 250
PREFETCH_BLOCKS_MAX = 2_000
PREFETCH_BLOCKS_MIN = 3

ChangeHandler = Callable[[ParentChange], Awaitable[None]]
HealthHandler = Callable[[bool, str], None]


class BaseReorganised(InvariantError):
    """The node's best chain does not contain the block from which this view counts."""


class ParentWatcher:
    """Polls one node and keeps one `ParentView` in step with it."""

    def __init__(
        self,
        client: BitcoindClient,
        view: ParentView,
        *,
        on_change: ChangeHandler,
        on_health: HealthHandler | None = None,
        base_height: int = 0,
        poll_ms: int = POLL_MS_DEFAULT,
    ) -> None:
        """Remember the parts; nothing is asked before `poll_once` or `run`.

        Args:
            on_change: awaited after the view has moved, once per change, never concurrently.
            on_health: called when the node stops or starts answering, with the reason.
            base_height: where the view begins when it is empty; lower blocks are never fetched.
        """
        self._client = client
        self._view = view
        self._on_change = on_change
        self._on_health = on_health
        self._base_height = base_height
        self._poll_ms = poll_ms
        self._poke = asyncio.Event()
        self.is_healthy = False
        self.last_error = "not asked yet"

    def poke(self) -> None:
        """Have `run` ask the node now instead of at the end of its pause."""
        self._poke.set()

    async def run(self) -> None:
        """Poll until cancelled.

        Raises:
            BaseReorganised: the base block left the best chain; the view cannot continue.
        """
        while True:
            self._poke.clear()
            with suppress(Unavailable):  # told through on_health; asked again after the pause
                await self.poll_once()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_ms / 1000):
                    await self._poke.wait()

    async def poll_once(self) -> bool:
        """Ask the node once and fold what is new; True when the view moved.

        Raises:
            Unavailable: the node did not answer, or its chain moved too often while being read.
            BaseReorganised: as for `run`.
        """
        try:
            change = await self._fetch_change()
        except (Unavailable, BitcoindError) as error:
            self._set_health(False, str(error))
            raise Unavailable(str(error)) from error
        self._set_health(True, "")
        if change is None:
            return False
        await self._on_change(change)
        return True

    async def _fetch_change(self) -> ParentChange | None:
        best_hash = await self._client.best_block_hash()
        if not self._view.is_empty:
            if best_hash == self._view.tip_hash:
                return None
            if self._view.is_active(best_hash):
                return self._view.rewind(best_hash)
        branch = await self._branch_to(best_hash)
        return self._view.advance(branch) if branch else None

    async def _branch_to(self, best_hash: bytes) -> list[ParentBlock]:
        """Blocks above the view's chain up to `best_hash`, lowest first."""
        at = await self._client.header(best_hash)
        lowest = self._lowest_height()
        if at.height < lowest and self._view.is_empty:
            return []
        prefetched = await self._prefetch(at.height)
        branch = [_block(at)]
        while at.height > lowest and not self._view.is_active(at.prev_hash):
            at = prefetched.get(at.prev_hash) or await self._client.header(at.prev_hash)
            branch.append(_block(at))
        if not self._view.is_empty and not self._view.is_active(at.prev_hash):
            raise BaseReorganised("the Bitcoin chain was replaced at or below the view's base")
        return list(reversed(branch))

    async def _prefetch(self, newest_height: int) -> dict[bytes, ParentHeaderInfo]:
        """Headers that the walk down is likely to meet, by hash; what is wrong is not used."""
        first = max(self._view.tip_height + 1, self._lowest_height())
        if newest_height - first < PREFETCH_BLOCKS_MIN:
            return {}
        headers: dict[bytes, ParentHeaderInfo] = {}
        for start in range(first, newest_height + 1, PREFETCH_BLOCKS_MAX):
            heights = range(start, min(start + PREFETCH_BLOCKS_MAX, newest_height + 1))
            for header in await self._client.headers_at(heights):
                headers[header.hash] = header
        return headers

    def _lowest_height(self) -> int:
        return self._base_height if self._view.is_empty else self._view.base_height

    def _set_health(self, healthy: bool, reason: str) -> None:
        changed = healthy != self.is_healthy
        self.is_healthy = healthy
        self.last_error = reason
        if changed and self._on_health is not None:
            self._on_health(healthy, reason)


def _block(header: ParentHeaderInfo) -> ParentBlock:
    return ParentBlock(
        hash=header.hash,
        prev_hash=header.prev_hash,
        height=header.height,
        ntx=header.ntx,
        time=header.time,
    )
