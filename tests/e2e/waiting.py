"""Waiting for conditions, with a deadline; nothing here or in the tests waits for time to pass."""

import time
from collections.abc import Callable
from typing import TypeVar

from tests.e2e.rpc import NoAnswer, Refused

T = TypeVar("T")
DEADLINE_S = 60.0
POLL_S = 0.05


class TooLate(AssertionError):
    """A condition did not come true in time."""


def wait_for(
    condition: Callable[[], T],
    what: str,
    *,
    deadline_s: float = DEADLINE_S,
    poll_s: float = POLL_S,
) -> T:
    """Ask until the answer is true, and return it. A server that is away counts as no.

    Raises:
        TooLate: it did not become true in time; tells the last answer.
    """
    give_up_at = time.monotonic() + deadline_s
    while True:
        last: object
        try:
            found = condition()
            if found:
                return found
            last = found
        except (NoAnswer, Refused) as error:
            last = error
        if time.monotonic() > give_up_at:
            raise TooLate(f"not within {deadline_s:g} s: {what}; last: {last!r}")
        time.sleep(poll_s)
