"""Many seeds on several processes: progress, a running total over runs, the first that fails.

Source: consensus:10.3, consensus:10.4.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from federation.sim.drawing import Mix
from federation.sim.runner import Outcome

FORMAT: Final = 1
CHUNK_SEEDS: Final = 10
LINE_MAX_BYTES: Final = 1_000_000


class BadState(Exception):
    """The state file is not one of this range of seeds."""


@dataclass(slots=True, kw_only=True)
class Total:
    """What was run of a range of seeds, over all runs.

    Attributes:
        next_seed: all seeds of the range below it are done.
        code: which code ran the newest of them; `older` is how many ran on other code.
        beyond: chunks above it that are done too, by first seed.
    """

    first: int
    end: int
    mix: Mix
    next_seed: int
    seeds: int = 0
    heights: int = 0
    events: int = 0
    healed: int = 0
    busy_ms: int = 0
    older: int = 0
    code: str = ""
    beyond: dict[int, int] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """One seed more."""
        self.seeds += 1
        self.heights += outcome.heights
        self.events += outcome.events
        self.healed += outcome.progress_was_due

    def close(self, first: int, end: int) -> None:
        """All seeds of a chunk are done."""
        self.beyond[first] = end
        while self.next_seed in self.beyond:
            self.next_seed = self.beyond.pop(self.next_seed)

    def chunks(self) -> list[tuple[int, int]]:
        """What is left, in pieces."""
        firsts = range(self.next_seed, self.end, CHUNK_SEEDS)
        found = [(first, min(first + CHUNK_SEEDS, self.end)) for first in firsts]
        return [(first, end) for first, end in found if first not in self.beyond]


def load_total(path: Path | None, first: int, end: int, mix: Mix) -> Total:
    """The total of earlier runs, or a new one.

    Raises:
        BadState: the file is of another range, or none of ours.
        OSError: it cannot be read.
    """
    if path is None or not path.exists():
        return Total(first=first, end=end, mix=mix, next_seed=first, code=code_name())
    try:
        plain = json.loads(path.read_text())
        known = Mix(**plain["mix"])
        if plain["format"] != FORMAT or (plain["first"], plain["end"], known) != (first, end, mix):
            raise BadState(f"{path} is of other seeds or sizes; name another file with --state")
        beyond = {int(k): int(v) for k, v in plain["beyond"].items()}
        numbers = {n: int(plain[n]) for n in ("next_seed", "seeds", "heights", "events", "healed")}
        busy_ms, code = int(plain["busy_ms"]), str(plain["code"])
        older = int(plain["older"]) if code == code_name() else numbers["seeds"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadState(f"{path} is no state file of the simulator: {error}") from None
    return Total(
        first=first, end=end, mix=mix, beyond=beyond, busy_ms=busy_ms,
        older=older, code=code_name(), **numbers,
    )  # fmt: skip


@lru_cache(maxsize=1)
def code_name() -> str:
    """A name for the code that is simulated, and for the simulator: another one, other runs."""
    digest = sha256()
    packages = Path(__file__).resolve().parents[2]
    for path in sorted([*packages.glob("federation/**/*.py"), *packages.glob("peg/**/*.py")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def save_total(path: Path, total: Total) -> None:
    """Write the total; the old file or the new one is there at any time."""
    plain = {"format": FORMAT} | asdict(total)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(plain) + "\n")
    temporary.replace(path)


class Campaign:
    """Runs what is left of a range.

    Args:
        processes: how many at once.
        until_s: monotonic time at which no chunk is begun any more; None: until all is done.
        state: where the total is kept.
        on_progress: told after every chunk.
    """

    def __init__(
        self,
        total: Total,
        *,
        processes: int,
        until_s: float | None,
        state: Path | None,
        on_progress: Callable[[Total], None],
    ) -> None:
        self.total = total
        self.failures: list[Outcome] = []
        self._processes, self._until_s, self._state = processes, until_s, state
        self._on_progress = on_progress
        self._chunks = iter(total.chunks())
        self._started_s = time.monotonic()
        self._busy_before_ms = total.busy_ms

    async def run(self) -> Outcome | None:
        """Run; the failing seed with the lowest number, if one fails.

        Raises:
            BrokenWorker: a process ended by itself (in an ExceptionGroup).
        """
        async with asyncio.TaskGroup() as group:
            for _ in range(self._processes):
                group.create_task(self._work())
        self._save()
        return min(self.failures, key=lambda outcome: outcome.seed, default=None)

    def _next_chunk(self) -> tuple[int, int] | None:
        is_late = self._until_s is not None and time.monotonic() >= self._until_s
        return None if is_late or self.failures else next(self._chunks, None)

    async def _work(self) -> None:
        chunk = self._next_chunk()
        if chunk is None:
            return
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "federation.sim.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_MAX_BYTES,
            start_new_session=True,  # Ctrl-C is this process's to handle
        )
        try:
            while chunk is not None:
                await self._run_chunk(process, *chunk)
                chunk = self._next_chunk()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def _run_chunk(self, process: asyncio.subprocess.Process, first: int, end: int) -> None:
        if process.stdin is None or process.stdout is None:
            raise BrokenWorker("no pipes")
        order = {"first": first, "end": end, "mix": asdict(self.total.mix)}
        process.stdin.write(json.dumps(order).encode() + b"\n")
        await process.stdin.drain()
        done: list[Outcome] = []
        while line := await process.stdout.readline():
            plain: dict[str, Any] = json.loads(line)
            if "done" in plain:
                self._take(done, first, end)
                return
            done.append(Outcome(**plain | {"lines": ()}))
        raise BrokenWorker(f"a process that ran seeds {first} to {end - 1} ended by itself")

    def _take(self, done: list[Outcome], first: int, end: int) -> None:
        """A chunk ended; one with a failing seed is run again by whoever goes on."""
        failures = [outcome for outcome in done if not outcome.is_good]
        if failures:
            self.failures += failures
            return
        for outcome in done:
            self.total.add(outcome)
        self.total.busy_ms = self._busy_before_ms + int(self.elapsed_s * 1_000)
        self.total.close(first, end)
        self._save()
        self._on_progress(self.total)

    @property
    def elapsed_s(self) -> float:
        """Since this run began."""
        return time.monotonic() - self._started_s

    def _save(self) -> None:
        if self._state is not None:
            save_total(self._state, self.total)


class BrokenWorker(Exception):
    """A process that runs seeds ended without being told to."""
