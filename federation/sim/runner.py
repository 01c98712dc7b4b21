"""One run and what came of it, and a shorter scenario that still shows the same.

A run is of the agreement (`Scenario`) or of the peg (`Life`).

Source: consensus:10, peg:14.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, Final, TypeVar, cast

from federation.sim.checker import Violation
from federation.sim.cluster import Simulation
from federation.sim.faults import Lie, Scenario
from federation.sim.peg.events import Life
from federation.sim.peg.life import PegSimulation

SHRINK_RUNS_MAX: Final = 400
SHORTER_CHAOS: Final = (4, 2)
SHORTER_CALM: Final = (8, 2)
CALM_BLOCKS_MIN: Final = 20
CPU_LIMIT_S: Final = 60
Run = Scenario | Life
T = TypeVar("T", bound=Run)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run came to: `rule` is empty when every invariant held."""

    seed: int
    rule: str
    text: str
    heights: int
    events: int
    virtual_ms: int
    progress_was_due: bool
    lines: tuple[str, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether every invariant held."""
        return not self.rule


def run_once(scenario: Run, seed: int, **options: Any) -> Outcome:
    """Run a scenario to its end or to the first violation.

    Args:
        options: as `Simulation`, or as `PegSimulation`.
    """
    if isinstance(scenario, Life):
        return _run_life(PegSimulation(scenario, seed, **options))
    simulation = Simulation(scenario, seed, **options)
    rule, text = _played(simulation.run, simulation.note)
    heights = [node.disk.tip_height for node in simulation.nodes.values()]
    return Outcome(
        seed=seed,
        rule=rule,
        text=text,
        heights=max(heights, default=0),
        events=simulation.events,
        virtual_ms=simulation.now_ms,
        progress_was_due=simulation.is_progress_due(),
        lines=tuple(simulation.trace.lines) if simulation.trace is not None else (),
    )


def _run_life(simulation: PegSimulation) -> Outcome:
    def play() -> None:
        asyncio.run(simulation.run())

    rule, text = _played(play, simulation.note)
    return Outcome(
        seed=simulation.seed,
        rule=rule,
        text=text,
        heights=simulation.side.height,
        events=simulation.events,
        virtual_ms=0,
        progress_was_due=not rule and simulation.is_progress_due(),
        lines=tuple(simulation.lines or ()),
    )


def _played(play: Callable[[], None], note: Callable[[str], None]) -> tuple[str, str]:
    """Play; the rule that was broken and how, both empty if none was."""
    try:
        with _cpu_limit():
            play()
    except Violation as error:
        rule, text = error.rule, str(error)
    except _Endless:
        rule, text = "endless", f"endless: the core computes for more than {CPU_LIMIT_S} s"
    except Exception as error:  # of the core or of the simulator: both are to be looked at
        rule, text = "error", f"error: {error!r}"
    else:
        return "", ""
    note(f"VIOLATION {text}")
    return rule, text


class _Endless(BaseException):
    """A run computes without an end."""


@contextmanager
def _cpu_limit() -> Iterator[None]:
    """Interrupt a loop in the code under test that never ends; in a main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _Endless

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


class Shrinker:
    """Takes faults away one by one, and in groups first, while the same rule is broken.

    Args:
        options: as `Simulation`; a variant under test, for one.
        on_step: told how many faults are left after each run.
    """

    def __init__(
        self,
        seed: int,
        rule: str,
        *,
        on_step: Callable[[int], None] = lambda _left: None,
        runs_max: int = SHRINK_RUNS_MAX,
        **options: Any,
    ) -> None:
        self._seed, self._rule, self._options = seed, rule, options
        self._on_step, self._left = on_step, runs_max

    def shrink(self, scenario: T) -> T:
        """The shortest scenario found; the given one when nothing can go."""
        found = self._without_extras(scenario)
        size = max(len(parts_of(found)) // 2, 1)
        while size and self._left:
            found, has_shrunk = self._pass(found, size)
            if not has_shrunk or size > len(parts_of(found)):
                size //= 2
        return cast("T", self._without_extras(found))

    def _pass(self, scenario: Run, size: int) -> tuple[Run, bool]:
        """Leave out each group of this size once."""
        start, has_shrunk = 0, False
        while start < len(parts_of(scenario)):
            shorter = _without_parts(scenario, start, start + size)
            if self._still_fails(shorter):
                scenario, has_shrunk = shorter, True
            else:
                start += size
        return scenario, has_shrunk

    def _without_extras(self, scenario: Run) -> Run:
        if isinstance(scenario, Life):
            for part in SHORTER_CALM:
                shorter = replace(scenario, calm_blocks=scenario.calm_blocks // part)
                if shorter.calm_blocks >= CALM_BLOCKS_MIN and self._still_fails(shorter):
                    return self._without_extras(shorter)
            return scenario
        for simpler in self._simpler(scenario):
            if self._still_fails(simpler):
                return self._without_extras(simpler)
        return scenario

    def _simpler(self, scenario: Scenario) -> Iterator[Scenario]:
        if scenario.recode:
            yield replace(scenario, recode=False)
        if scenario.peg:
            yield replace(scenario, peg=False)
        if scenario.borders:
            yield replace(scenario, borders=())
        for liar in scenario.liars:
            if not any(isinstance(f, Lie) and f.member == liar for f in scenario.faults):
                yield replace(scenario, liars=tuple(m for m in scenario.liars if m != liar))
        for part in SHORTER_CHAOS:
            yield replace(scenario, chaos_ms=scenario.chaos_ms // part)

    def _still_fails(self, scenario: Run) -> bool:
        if self._left <= 0 or (isinstance(scenario, Scenario) and scenario.chaos_ms < 20):
            return False
        self._left -= 1
        try:
            outcome = run_once(scenario, self._seed, **self._options)
        except Exception:  # a scenario that cannot be set up shows nothing
            return False
        self._on_step(len(parts_of(scenario)))
        return outcome.rule == self._rule


def parts_of(scenario: Run) -> tuple[Any, ...]:
    """What can be left out of a scenario: its faults, or what happens in a life."""
    return scenario.events if isinstance(scenario, Life) else scenario.faults


def _without_parts(scenario: Run, start: int, end: int) -> Run:
    if isinstance(scenario, Life):
        return replace(scenario, events=scenario.events[:start] + scenario.events[end:])
    return replace(scenario, faults=scenario.faults[:start] + scenario.faults[end:])
