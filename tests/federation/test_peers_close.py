"""A connection that was lost is closed without harm, also on the oldest CPython supported."""

from federation.peers import _close


class OldTransport:
    """Behaves as the TLS transport of CPython 3.11.2: a second `close` forgets its protocol."""

    def __init__(self, *, lost: bool) -> None:
        self._is_closed = lost
        self._has_protocol = True
        self.is_aborted = False

    def close(self) -> None:
        if self._is_closed:
            self._has_protocol = False
        self._is_closed = True

    def abort(self) -> None:
        if not self._has_protocol:
            raise AttributeError("'NoneType' object has no attribute '_abort'")
        self.is_aborted = True

    def is_closing(self) -> bool:
        return self._is_closed


class OldWriter:
    """A stream writer over it, whose peer was killed."""

    def __init__(self, *, lost: bool) -> None:
        self.transport = OldTransport(lost=lost)

    def close(self) -> None:
        self.transport.close()

    def is_closing(self) -> bool:
        return self.transport.is_closing()

    async def wait_closed(self) -> None:
        raise ConnectionResetError(104, "Connection reset by peer")


async def test_close_when_the_peer_was_killed_then_aborted_and_nothing_raised() -> None:
    for lost in (True, False):
        writer = OldWriter(lost=lost)
        await _close(writer, 1_000)  # type: ignore[arg-type]
        assert writer.transport.is_aborted
