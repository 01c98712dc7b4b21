"""How a process that serves runs: on uvloop, with the collector of cycles looking less often.

A block makes some hundred thousand objects and hardly a cycle, so looking for cycles at Python's
usual pace costs a tenth of connecting it.
"""

import gc
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")

GC_THRESHOLDS = (100_000, 50, 100)
"""New objects before a look at the young ones; looks before one at the next generation; and so
on."""


SWITCH_INTERVAL_S = 0.0005
"""How long a thread that comes back from a proof waits for the interpreter, at most: a tenth of
Python's usual time, in which a core could verify two more."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, as `asyncio.run` does."""
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return uvloop.run(main)
