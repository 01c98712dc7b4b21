"""Which final blocks to ask of whom, for a member that is behind.

Windows of 16 blocks, at most four peers at once, blocks handed out in order. A peer that lies is
left alone for ten minutes; one that is slow for a shorter time, and never when nobody else is left.
Pure: the time is an argument, monotonic milliseconds.

Source: consensus:C54, consensus:C51.
"""

from dataclasses import dataclass

WINDOW_BLOCKS = 16
PEERS_MAX = 4
AHEAD_MAX_BLOCKS = 2 * WINDOW_BLOCKS * PEERS_MAX
HELD_MAX_BYTES = 64 * 1024 * 1024
SILENCE_MS = 10_000
HEDGE_MS = 2_000
"""When the lowest blocks are out for this long and a peer is idle, it is asked for them too."""
DISBELIEVED_AFTER = 3
"""A peer that was silent so often in a row is not believed to have blocks above ours."""
SLOW_PAUSE_MS = 5_000
LIE_PAUSE_MS = 600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalRequest:
    """A GET_FINAL to send: heights `from_height` to `from_height + count - 1`."""

    peer: int
    from_height: int
    count: int


@dataclass(slots=True)
class _Window:
    peer: int
    missing: set[int]
    opened_ms: int
    heard_ms: int


@dataclass(slots=True)
class _Peer:
    tip_height: int = 0
    not_before_ms: int = 0
    lied_until_ms: int = 0
    slow_times: int = 0
    hedged_times: int = 0


class SyncPlanner:
    """Owner of the catch-up state.

    Feed it peers' heights and FINAL frames; send what `plan` returns; connect what `next_block`
    hands out, then say `connected` or `blame`.
    """

    def __init__(self) -> None:
        self._peers: dict[int, _Peer] = {}
        self._windows: list[_Window] = []
        self._held: dict[int, tuple[int, bytes]] = {}
        self._held_bytes = 0
        self._largest_bytes = 0
        self._tip_height = 0

    def peer_at(self, peer: int, tip_height: int) -> None:
        """A peer says (STATUS, HELLO) that its last final block has this height."""
        self._peers.setdefault(peer, _Peer()).tip_height = tip_height

    def peer_gone(self, peer: int) -> None:
        """The link to a peer is down: what it was asked for is asked of others."""
        self._drop_windows(peer)
        if peer in self._peers:
            self._peers[peer].tip_height = 0

    def at_height(self, height: int) -> frozenset[int]:
        """Peers that say they have the final block of a height."""
        return frozenset(peer for peer, known in self._peers.items() if known.tip_height >= height)

    def lag_blocks(self, tip_height: int) -> int:
        """How many blocks above ours are claimed by a peer that is believed."""
        believed = (p.tip_height for p in self._peers.values() if p.slow_times < DISBELIEVED_AFTER)
        return max(0, max(believed, default=0) - tip_height)

    @property
    def asked(self) -> frozenset[int]:
        """Peers that owe us blocks now."""
        return frozenset(window.peer for window in self._windows)

    def plan(self, tip_height: int, now_ms: int) -> tuple[FinalRequest, ...]:
        """Requests to send now. Call it again after every FINAL, and every second.

        Args:
            tip_height: height of our last final block.
        """
        self._advance(tip_height)
        self._give_up_silent(now_ms)
        requests: list[FinalRequest] = []
        while len(self._windows) < PEERS_MAX:
            wanted = self._next_gap()
            if wanted is None or not self._has_room(wanted[0]):
                break
            peer = self._choose(wanted[0], now_ms)
            if peer is None:
                break
            last = min(wanted[1], self._peers[peer].tip_height)
            requests.append(self._open(peer, wanted[0], last, now_ms))
        if not requests:
            requests += self._hedge(now_ms)
        return tuple(requests)

    def received(self, peer: int, height: int, block: bytes, now_ms: int) -> bool:
        """Take a FINAL; False when the block is of no use (known, far ahead, no room).

        A block nobody asked for is taken only for the next height, as peers send it by themselves
        (C51.1).
        """
        asked = next((w for w in self._windows if w.peer == peer and height in w.missing), None)
        if asked is not None:
            asked.missing.discard(height)
            asked.heard_ms = now_ms
            self._peers.setdefault(peer, _Peer()).slow_times = 0
            if not asked.missing:
                self._windows.remove(asked)
                self._peers[peer].hedged_times = 0
        elif height != self._tip_height + 1:
            return False
        if height <= self._tip_height or height in self._held:
            return False
        self._held[height] = (peer, block)
        self._held_bytes += len(block)
        self._largest_bytes = max(self._largest_bytes, len(block))
        return True

    def next_block(self, tip_height: int) -> tuple[int, bytes] | None:
        """Peer and bytes of the block to connect on this tip, None while it is not here.

        The block is handed out once.
        """
        self._advance(tip_height)
        return self._take(tip_height + 1)

    def blame(self, peer: int, now_ms: int) -> None:
        """The peer sent an invalid block: leave it alone for ten minutes, forget all of its."""
        known = self._peers.setdefault(peer, _Peer())
        known.lied_until_ms = now_ms + LIE_PAUSE_MS
        self._drop_windows(peer)
        for height in [h for h, (owner, _) in self._held.items() if owner == peer]:
            self._take(height)

    # -- inside

    def _open(self, peer: int, first: int, last: int, now_ms: int) -> FinalRequest:
        self._windows.append(
            _Window(
                peer=peer,
                missing=set(range(first, last + 1)),
                opened_ms=now_ms,
                heard_ms=now_ms,
            )
        )
        return FinalRequest(peer=peer, from_height=first, count=last - first + 1)

    def _hedge(self, now_ms: int) -> list[FinalRequest]:
        """Ask an idle peer for the lowest blocks too, so that a slow one cannot hold us up.

        The slow one is left alone for a while, each time longer, while others are at work.
        """
        lowest = self._tip_height + 1
        holders = [window for window in self._windows if lowest in window.missing]
        if not holders or now_ms - max(w.opened_ms for w in holders) < HEDGE_MS:
            return []
        peer = self._choose(lowest, now_ms)
        if peer is None:
            return []
        for holder in holders:
            self._pause(self._peers[holder.peer], now_ms)
        last = min(max(holders[0].missing), self._peers[peer].tip_height)
        return [self._open(peer, lowest, last, now_ms)]

    def _advance(self, tip_height: int) -> None:
        self._tip_height = max(self._tip_height, tip_height)
        for height in [h for h in self._held if h <= self._tip_height]:
            self._take(height)
        for window in list(self._windows):
            window.missing = {h for h in window.missing if h > self._tip_height}
            if not window.missing:
                self._windows.remove(window)

    def _take(self, height: int) -> tuple[int, bytes] | None:
        found = self._held.pop(height, None)
        if found is not None:
            self._held_bytes -= len(found[1])
        return found

    def _next_gap(self) -> tuple[int, int] | None:
        """First and last height of the lowest window that is neither held nor asked for."""
        asked = {height for window in self._windows for height in window.missing}
        first = self._tip_height + 1
        while first in asked or first in self._held:
            first += 1
        if first > self._tip_height + AHEAD_MAX_BLOCKS:
            return None
        last = first
        while (
            last - first + 1 < WINDOW_BLOCKS
            and last + 1 not in asked
            and last + 1 not in self._held
        ):
            last += 1
        return first, last

    def _has_room(self, first: int) -> bool:
        """Whether a window more keeps memory bounded; the next block is always asked for."""
        expected = sum(len(window.missing) for window in self._windows) * self._largest_bytes
        return first == self._tip_height + 1 or self._held_bytes + expected < HELD_MAX_BYTES

    def _choose(self, height: int, now_ms: int) -> int | None:
        """The peer to ask: of those that have the block and no window, the least slow one."""
        busy = {window.peer for window in self._windows}
        able = [
            (max(0, peer.not_before_ms - now_ms), peer.slow_times, index)
            for index, peer in sorted(self._peers.items())
            if peer.tip_height >= height and peer.lied_until_ms <= now_ms and index not in busy
        ]
        if not able:
            return None
        wait_ms, _, index = min(able)
        # A slow peer is waited for while another one is at work, and used when none is.
        return None if wait_ms and busy else index

    def _give_up_silent(self, now_ms: int) -> None:
        for window in list(self._windows):
            if now_ms - window.heard_ms < SILENCE_MS:
                continue
            self._windows.remove(window)
            peer = self._peers[window.peer]
            peer.slow_times += 1
            pause_ms = SLOW_PAUSE_MS << min(peer.slow_times - 1, 7)
            peer.not_before_ms = now_ms + min(pause_ms, LIE_PAUSE_MS)

    def _pause(self, peer: _Peer, now_ms: int) -> None:
        pause_ms = min(SLOW_PAUSE_MS << min(peer.hedged_times, 7), LIE_PAUSE_MS)
        peer.hedged_times += 1
        peer.not_before_ms = max(peer.not_before_ms, now_ms + pause_ms)

    def _drop_windows(self, peer: int) -> None:
        self._windows = [window for window in self._windows if window.peer != peer]
