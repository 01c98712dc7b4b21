"""A command and the signals that end it."""

import os
import signal

import pytest

from federation.cli_session import Failed, Interrupted, run_async


def test_run_async_when_a_child_fails_of_the_signal_first_then_interrupted() -> None:
    async def main() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise Failed("a child ended right after its start")

    with pytest.raises(Interrupted) as ended:
        run_async(main())
    assert ended.value.signal_number == signal.SIGTERM


def test_run_async_when_it_fails_without_a_signal_then_says_why() -> None:
    async def main() -> None:
        raise Failed("no")

    with pytest.raises(Failed, match="no"):
        run_async(main())
