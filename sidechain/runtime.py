"""How a process that serves runs: on uvloop, with the collector of cycles looking less often.

A block makes some hundred thousand objects and hardly a cycle, so looking for cycles at Python's
usual pace costs a tenth of connecting it.
"""

import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")

GC_THRESHOLDS = (100_000, 50, 100)
"""New objects before a look at the young ones; looks before one at the next generation; and so
on."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, as `asyncio.run` does."""
    gc.set_threshold(*GC_THRESHOLDS)
    return uvloop.run(main)
