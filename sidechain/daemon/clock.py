"""The node's clock, which tests may set."""

import time


class Clock:
    """Seconds since 1970, or the time it was set to."""

    def __init__(self, mock_time_s: int = 0) -> None:
        self._mock_time_s = mock_time_s

    def now_s(self) -> int:
        """The time."""
        return self._mock_time_s or int(time.time())

    def set(self, mock_time_s: int) -> None:
        """Stand still at a time; 0 follows the machine's clock again."""
        self._mock_time_s = mock_time_s
