"""One TLS connection to one member: its queue, its time-outs, its counters.

Source: N15, consensus:C96, consensus:C97.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from federation.frames import FrameDecoder
from federation.rate_limits import ByteBudget

READ_CHUNK_BYTES = 65_536
_TCP_INFO_RTT_OFFSET = 68  # tcpi_rtt in Linux' struct tcp_info, u32 microseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOptions:
    """Limits of links; times in milliseconds.

    `frame_timeout_ms` runs from a frame's first byte to its last; `idle_timeout_ms` from the last
    byte received: members gossip several times a second, so a silent link is a dead one.
    """

    send_queue_bytes: int = 8 * 1024 * 1024
    send_queue_frames: int = 2_000
    read_buffer_bytes: int = 256 * 1024
    handshakes_max: int = 32
    handshake_timeout_ms: int = 5_000
    hello_timeout_ms: int = 5_000
    frame_timeout_ms: int = 60_000
    idle_timeout_ms: int = 30_000
    send_timeout_ms: int = 60_000
    shutdown_timeout_ms: int = 500
    backoff_min_ms: int = 100
    backoff_max_ms: int = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatus:
    """What `status` shows of a link.

    `since_ms` is how long it has been up; `last_end` why there is none, empty while there is one.
    """

    member: int
    connected: bool
    since_ms: int
    rtt_us: int | None
    received_bytes: int
    sent_bytes: int
    received_frames: int
    sent_frames: int
    queued_bytes: int
    ban_remaining_ms: int
    last_end: str

    @classmethod
    def down(cls, member: int, ban_remaining_ms: int, last_end: str) -> "LinkStatus":
        """Status of a member without a link."""
        return cls(
            member=member,
            connected=False,
            since_ms=0,
            rtt_us=None,
            received_bytes=0,
            sent_bytes=0,
            received_frames=0,
            sent_frames=0,
            queued_bytes=0,
            ban_remaining_ms=ban_remaining_ms,
            last_end=last_end,
        )


class LinkClosed(Exception):
    """The link is at its end. `reason` is fit for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Link:
    """Owner of one connection; made when the certificate was recognised."""

    def __init__(
        self,
        member: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limits: Mapping[int, int],
        options: LinkOptions,
        budget: ByteBudget,
    ) -> None:
        self.member = member
        self.accepted = False
        self.close_reason = "closed"
        self._reader = reader
        self._writer = writer
        self._options = options
        self._decoder = FrameDecoder(limits)
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._aborted = False
        self._since_ms = self._now_ms()
        self._budget = budget
        self._frame_since_ms: int | None = None
        self._received_bytes = self._sent_bytes = 0
        self._received_frames = self._sent_frames = 0

    def enqueue(self, frame: bytes) -> bool:
        """Queue a whole frame for sending; a full queue ends the link (C97)."""
        if self._aborted:
            return False
        full = len(self._queue) >= self._options.send_queue_frames
        if full or len(frame) > self._options.send_queue_bytes - self._queued_bytes:
            self.abort("send queue full")
            return False
        self._queue.append(frame)
        self._queued_bytes += len(frame)
        self._wake.set()
        return True

    @property
    def room_bytes(self) -> int:
        """Bytes that can still be queued; none when half of the frames are that may wait.

        Whoever can do without asks before sending, and leaves the rest to agreement.
        """
        if len(self._queue) >= self._options.send_queue_frames // 2:
            return 0
        return self._options.send_queue_bytes - self._queued_bytes

    async def send_queued(self) -> None:
        """Send what is queued, for as long as the link lives. Never raises for the link's sake."""
        try:
            while True:
                while not self._queue:
                    self._wake.clear()
                    await self._wake.wait()
                await self.write(self._next_batch())
        except TimeoutError:
            self.abort("peer does not read")
        except OSError as error:
            self.abort(f"connection: {error}")

    async def write(self, data: bytes) -> None:
        """Send bytes and wait until the connection has taken most of them.

        Raises:
            TimeoutError: the peer did not read for `send_timeout_ms`. OSError: connection lost.
        """
        self._writer.write(data)
        self._sent_bytes += len(data)
        async with asyncio.timeout(self._options.send_timeout_ms / 1000):
            await self._writer.drain()

    async def receive(self, *, limited: bool) -> list[tuple[int, bytes]]:
        """Wait for bytes; return the frames they complete, perhaps none.

        Args:
            limited: pause before reading on when the byte budget is used up (C96).
        Raises:
            FrameError: not frames. LinkClosed: end, silence, or a frame that takes too long.
            OSError: connection lost.
        """
        try:
            async with asyncio.timeout(self._patience_ms() / 1000):
                data = await self._reader.read(READ_CHUNK_BYTES)
        except TimeoutError:
            slow = self._decoder.is_mid_frame
            raise LinkClosed("slow frame" if slow else "silent") from None
        if not data or self._aborted:
            raise LinkClosed(self.close_reason)
        self._received_bytes += len(data)
        frames = self._decoder.feed(data)
        self._received_frames += len(frames)
        if not self._decoder.is_mid_frame:
            self._frame_since_ms = None
        elif frames or self._frame_since_ms is None:
            self._frame_since_ms = self._now_ms()
        pause_ms = self._budget.charge(len(data), self._now_ms()) if limited else 0
        if pause_ms:
            await asyncio.sleep(pause_ms / 1000)
            if self._frame_since_ms is not None:
                self._frame_since_ms += pause_ms
        return frames

    def abort(self, reason: str) -> None:
        """Cut the connection now; the first reason given is kept."""
        if self._aborted:
            return
        self._aborted = True
        self.close_reason = reason
        self._queue.clear()
        self._queued_bytes = 0
        self._writer.transport.abort()

    def status(self) -> LinkStatus:
        """Counters as they are now."""
        return LinkStatus(
            member=self.member,
            connected=True,
            since_ms=self._now_ms() - self._since_ms,
            rtt_us=self._rtt_us(),
            received_bytes=self._received_bytes,
            sent_bytes=self._sent_bytes,
            received_frames=self._received_frames,
            sent_frames=self._sent_frames,
            queued_bytes=self._queued_bytes,
            ban_remaining_ms=0,
            last_end="",
        )

    def _next_batch(self) -> bytes:
        """Several small frames in one write, or one large one."""
        batch = bytearray()
        while self._queue and (not batch or len(batch) + len(self._queue[0]) <= READ_CHUNK_BYTES):
            frame = self._queue.popleft()
            self._queued_bytes -= len(frame)
            self._sent_frames += 1
            batch += frame
        return bytes(batch)

    def _patience_ms(self) -> int:
        if self._frame_since_ms is None:
            return self._options.idle_timeout_ms
        left = self._frame_since_ms + self._options.frame_timeout_ms - self._now_ms()
        return max(0, min(left, self._options.idle_timeout_ms))

    def _rtt_us(self) -> int | None:
        connection = self._writer.get_extra_info("socket")
        if connection is None or not hasattr(socket, "TCP_INFO"):
            return None
        try:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        except OSError:
            return None
        if len(info) < _TCP_INFO_RTT_OFFSET + 4:
            return None
        (rtt_us,) = struct.unpack_from("=I", info, _TCP_INFO_RTT_OFFSET)
        return int(rtt_us)

    def _now_ms(self) -> int:
        return int(asyncio.get_running_loop().time() * 1000)
