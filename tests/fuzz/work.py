"""Counting what reading an input costs: calls, hashes, curve operations, copied bytes, memory.

Everything counted is the same in every run of the same code; no time is measured.
"""

import hashlib
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

MEMORY_BYTES_MAX = 1 << 20
MEMORY_PER_INPUT_BYTE = 50
_PROOFS = "sidechain.crypto.zkp"
_CURVE_MODULES = ("_wallycore", "wallycore")
_FUZZER = "atheris"
"""Its own calls, which it puts between those of the code, are not counted."""

_CURVE_PREFIX = "secp256k1_"


@dataclass(slots=True)
class Work:
    """What was done.

    Attributes:
        calls: of functions, of Python and of C.
        hashes: made of something with SHA-256 by hashlib or wallycore.
        curve_operations: calls of libsecp256k1, of functions of `zkp`, or of wallycore but for
            its hashes.
        copied_bytes: cut out of the input.
    """

    calls: int = 0
    hashes: int = 0
    curve_operations: int = 0
    copied_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The most of each kind for one byte of input, beside `free` of each for any input."""

    calls: int
    hashes: int
    curve_operations: int
    copied_bytes: int = 8
    free: int = 4_000

    def check(self, work: Work, size: int) -> None:
        """Compare; an AssertionError names what was too much."""
        for name in ("calls", "hashes", "curve_operations", "copied_bytes"):
            done, allowed = getattr(work, name), getattr(self, name) * size + self.free
            assert done <= allowed, f"{done} {name} for {size} bytes, {allowed} are allowed"


class CountedBytes(bytes):
    """An input that notes how many bytes are cut out of it."""

    work: Work

    @classmethod
    def of(cls, data: bytes, work: Work) -> "CountedBytes":
        """The same bytes."""
        made = cls(data)
        made.work = work
        return made

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if isinstance(found, bytes):
            self.work.copied_bytes += len(found)
        return found


@contextmanager
def counted() -> Iterator[Work]:
    """Count what happens inside."""
    work = Work()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            module = frame.f_globals.get("__name__", "")
            work.calls += module.split(".")[0] != _FUZZER
            # It calls its library through ctypes, which no profile shows.
            work.curve_operations += module == _PROOFS
        elif event == "c_call" and (argument.__module__ or "").split(".")[0] != _FUZZER:
            work.calls += 1
            name = argument.__name__
            owner = getattr(argument.__self__, "__name__", "")
            if "sha256" in name:
                work.hashes += 1
            elif name.startswith(_CURVE_PREFIX) or owner in _CURVE_MODULES:
                work.curve_operations += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield work
    finally:
        sys.setprofile(before)


def peak_bytes(run: Callable[[], object]) -> int:
    """The most memory Python held at once for a call, beyond what it held before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        run()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def check_memory(run: Callable[[], object], size: int) -> None:
    """Compare the memory of a call with the input it reads."""
    peak = peak_bytes(run)
    allowed = MEMORY_BYTES_MAX + MEMORY_PER_INPUT_BYTE * size
    assert peak <= allowed, f"{peak} bytes of memory for {size}, {allowed} are allowed"


# Counted by name, whatever builds it: OpenSSL's function says what it is.
assert "sha256" in hashlib.sha256.__name__
