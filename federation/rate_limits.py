"""What one peer may cost: signature checks, bytes, and how long it is shut out for excess.

Pure: the time is an argument, monotonic milliseconds.

Source: consensus:C95, consensus:C96.
"""

SIGNATURES_PER_S = 200
SIGNATURES_BURST = 1_000
FAILED_SIGNATURE_COST = 50
FRAME_FAULT_COST = 250
BLOCK_MAX_BYTES = 4_100_000
BYTES_PER_WINDOW = 2 * BLOCK_MAX_BYTES + 1_000_000
BYTES_WINDOW_MS = 10_000
BAN_FIRST_MS = 60_000
BAN_LONGEST_MS = 3_600_000


class SignatureBudget:
    """Token bucket of signature checks: 200 a second, 1,000 at once; a failed one costs 50."""

    __slots__ = ("_milli_tokens", "_now_ms")

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self._milli_tokens = SIGNATURES_BURST * 1000

    def charge(self, cost: int, now_ms: int) -> bool:
        """Take `cost` checks out of the budget; False: it is used up, disconnect.

        Source: consensus:C95.
        """
        grown = self._milli_tokens + max(0, now_ms - self._now_ms) * SIGNATURES_PER_S
        self._now_ms = max(self._now_ms, now_ms)
        self._milli_tokens = min(grown, SIGNATURES_BURST * 1000) - cost * 1000
        return self._milli_tokens >= 0


class ByteBudget:
    """Token bucket of incoming bytes: two blocks and a megabyte every ten seconds."""

    __slots__ = ("_milli_bytes", "_now_ms")

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self._milli_bytes = BYTES_PER_WINDOW * 1000

    def charge(self, size_bytes: int, now_ms: int) -> int:
        """Count bytes that came in; return for how many milliseconds not to read on.

        Source: consensus:C96.
        """
        rate = BYTES_PER_WINDOW * 1000 // BYTES_WINDOW_MS
        grown = self._milli_bytes + max(0, now_ms - self._now_ms) * rate
        self._now_ms = max(self._now_ms, now_ms)
        self._milli_bytes = min(grown, BYTES_PER_WINDOW * 1000) - size_bytes * 1000
        return 0 if self._milli_bytes >= 0 else -(self._milli_bytes // rate)


class Ban:
    """How long a peer stays shut out: 60 s the first time, twice as long each next, to 1 h."""

    __slots__ = ("_length_ms", "_until_ms")

    def __init__(self) -> None:
        self._length_ms = BAN_FIRST_MS
        self._until_ms: int | None = None

    def impose(self, now_ms: int) -> None:
        """Begin a ban now. An hour of good conduct after the last one makes it the first again."""
        if self._until_ms is not None and now_ms - self._until_ms > BAN_LONGEST_MS:
            self._length_ms = BAN_FIRST_MS
        self._until_ms = now_ms + self._length_ms
        self._length_ms = min(2 * self._length_ms, BAN_LONGEST_MS)

    def remaining_ms(self, now_ms: int) -> int:
        """Milliseconds until the peer may come back, 0 when it may now."""
        return 0 if self._until_ms is None else max(0, self._until_ms - now_ms)


class RequestBudget:
    """Token bucket of requests of one kind from one peer; what exceeds it is not answered."""

    __slots__ = ("_burst", "_milli_tokens", "_now_ms", "_per_s")

    def __init__(self, *, per_s: int, burst: int) -> None:
        self._per_s, self._burst = per_s, burst
        self._milli_tokens = burst * 1000
        self._now_ms: int | None = None

    def take(self, now_ms: int) -> bool:
        """Whether one more request may be answered now; it then counts."""
        passed_ms = 0 if self._now_ms is None else max(0, now_ms - self._now_ms)
        self._now_ms = now_ms
        grown = self._milli_tokens + passed_ms * self._per_s
        self._milli_tokens = min(grown, self._burst * 1000)
        if self._milli_tokens < 1000:
            return False
        self._milli_tokens -= 1000
        return True
