"""Going on behind the terminal: `-daemon` and `-daemonwait`."""

import os
import sys
from collections.abc import Callable

_READY = b"\x01"


def into_background(run: Callable[[Callable[[], None]], int], *, wait: bool) -> int:
    """Run something in a process of its own that outlives this one.

    Args:
        run: gets a function to call once when it is ready, and returns the exit code.
        wait: return only when it is ready or has failed.
    Returns:
        The exit code of the process that was asked; the other one ends with that of `run`.
    """
    print("sidechaind starting", flush=True)
    sys.stderr.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            ready = not wait or pipe.read(1) == _READY
        if not ready:
            print(
                "Error during initialization - check debug.log for details",
                file=sys.stderr,
                flush=True,
            )
        return 0 if ready else 1
    os.close(reader)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1) if wait else (0, 1, 2):
        os.dup2(null, stream)
    code = 1
    try:
        code = run(lambda: _tell(writer, null))
    finally:
        os._exit(code)


def _tell(writer: int, null: int) -> None:
    os.write(writer, _READY)
    os.close(writer)
    os.dup2(null, 2)
