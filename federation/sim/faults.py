"""The faults of a run as data: an explicit list that can be read, shortened and replayed.

Times are milliseconds of the run's clock. Members are numbers of the simulation. A fault that no
longer fits (its member is dead already) does nothing.

Source: consensus:10, consensus:10.4.
"""

import json
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Final, get_type_hints

from federation.sim.world import Epoch

FORMAT: Final = 1


class BadScenario(Exception):
    """The text is no scenario; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """All links lose, repeat, delay and starve (certificates, STATUS, FINAL) messages."""

    at_ms: int
    until_ms: int
    loss_permille: int = 0
    duplicate_permille: int = 0
    starve_permille: int = 0
    delay_max_ms: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Links, each in one direction, carry nothing."""

    at_ms: int
    until_ms: int
    links: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clog:
    """One link, in one direction, holds everything back until it is opened again."""

    at_ms: int
    until_ms: int
    source: int
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """A process ends `points` disk operations and sends after `at_ms`; in a write, in the middle.

    Attributes:
        part: bytes of the write, or of what was not synced, that are on the disk.
        power: the machine goes down too: what is not synced is lost.
        zeros: lost bytes read as zeros.
    """

    at_ms: int
    member: int
    points: int = 0
    part: int = 0
    power: bool = False
    zeros: bool = False
    down_ms: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerCut:
    """Everybody's machine goes down at once."""

    at_ms: int
    down_ms: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """A member ends and never comes back, not even after the heal."""

    at_ms: int
    member: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFault:
    """A disk refuses: everything that writes (ENOSPC, EIO), or only fsync (EIO)."""

    at_ms: int
    until_ms: int
    member: int
    kind: str
    """full, write or sync."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wipe:
    """A member loses its journal, blocks and guard, perhaps its chain too."""

    at_ms: int
    member: int
    chain_too: bool = False
    down_ms: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """A member's disk becomes what it was at `saved_ms`.

    Attributes:
        told: the operator says `--restored`; else nobody does.
        keeps_guard: only the journal is old; the signer's guard is not.
    """

    at_ms: int
    member: int
    saved_ms: int
    told: bool = True
    keeps_guard: bool = False
    chain_too: bool = True
    down_ms: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class BitFlip:
    """One bit of a member's newest journal file changes while it is down."""

    at_ms: int
    member: int
    bit: int
    down_ms: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockJump:
    """A member's wall clock is off by so much from now on."""

    at_ms: int
    member: int
    offset_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """A member's own judgement: blocks with this remainder are refused (P), or not yet good (E)."""

    at_ms: int
    until_ms: int
    member: int
    remainder: int
    not_yet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowVerdicts:
    """A member takes this long to judge a block."""

    at_ms: int
    until_ms: int
    member: int
    delay_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lie:
    """A Byzantine member behaves like this for a while; see `federation.sim.liar`."""

    at_ms: int
    until_ms: int
    member: int
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """A second process with a member's key and a copy of its disk runs beside it from now on."""

    at_ms: int
    member: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reorganisation:
    """Bitcoin's best chain loses blocks and grows by one more than that."""

    at_ms: int
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mining:
    """Bitcoin grows by some blocks at once."""

    at_ms: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BitcoindDown:
    """A member's bitcoind says nothing new for a while."""

    at_ms: int
    until_ms: int
    member: int


Fault = (
    Weather
    | Cut
    | Clog
    | Crash
    | PowerCut
    | Gone
    | DiskFault
    | Wipe
    | Rollback
    | BitFlip
    | ClockJump
    | Opinion
    | SlowVerdicts
    | Lie
    | Twin
    | Reorganisation
    | Mining
    | BitcoindDown
)
KINDS: Final[dict[str, type[Any]]] = {
    kind.__name__: kind
    for kind in (
        Weather, Cut, Clog, Crash, PowerCut, Gone, DiskFault, Wipe, Rollback, BitFlip, ClockJump,
        Opinion, SlowVerdicts, Lie, Twin, Reorganisation, Mining, BitcoindDown,
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A whole run: with its seed it always goes the same way.

    Attributes:
        liars: Byzantine members; silent but for their `Lie` faults.
        chaos_ms: how long anything goes, before everything but liars and `Gone` heals.
        work_permille: heights with something to put into a block.
        heights_after: heights that all correct members must finish after the heal (L1).
        borders: later member sets (C80); the first one is 0 to n − 1 with k.
        peg: blocks carry peg commitments, judged by `peg.commitments` on a simulated Bitcoin.
        recode: messages go through their byte form.
    """

    n: int
    k: int
    liars: tuple[int, ...] = ()
    chaos_ms: int = 2_000
    delay_max_ms: int = 5
    work_permille: int = 500
    heights_after: int = 4
    faults: tuple[Fault, ...] = ()
    borders: tuple[Epoch, ...] = ()
    peg: bool = False
    recode: bool = False
    real_signatures: bool = False

    @property
    def epochs(self) -> tuple[Epoch, ...]:
        """All member sets, the first one included."""
        return (Epoch(1, tuple(range(self.n)), self.k), *self.borders)


def encode_scenario(scenario: Scenario, seed: int) -> str:
    """A scenario and its seed as JSON text that a person can read and change."""
    plain = asdict(scenario)
    plain["faults"] = [{"kind_of_fault": type(f).__name__} | asdict(f) for f in scenario.faults]
    plain["borders"] = [asdict(border) for border in scenario.borders]
    lines = json.dumps({"format": FORMAT, "seed": seed} | plain, indent=1)
    return lines + "\n"


def decode_scenario(text: str) -> tuple[Scenario, int]:
    """A scenario and its seed.

    Raises:
        BadScenario: it is not what `encode_scenario` writes.
    """
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise BadScenario(f"not JSON: {error}") from None
    if not isinstance(plain, dict) or plain.pop("format", None) != FORMAT:
        raise BadScenario(f"not a scenario of format {FORMAT}")
    seed = plain.pop("seed", None)
    if not isinstance(seed, int):
        raise BadScenario("seed is not a number")
    faults = [_fault(entry) for entry in objects_of(plain, "faults")]
    borders = [filled(Epoch, entry) for entry in objects_of(plain, "borders")]
    scenario = filled(Scenario, plain | {"faults": faults, "borders": borders})
    check_scenario(scenario)
    return scenario, seed


def check_scenario(scenario: Scenario) -> None:
    """Refuse what cannot be run.

    Raises:
        BadScenario: sizes out of range, members that do not exist, borders out of order.
    """
    for epoch in scenario.epochs:
        if not 1 <= epoch.k <= len(epoch.members) <= 20:
            raise BadScenario(f"k = {epoch.k} of {len(epoch.members)} members: at most 20, k of n")
        if len(set(epoch.members)) != len(epoch.members):
            raise BadScenario("a member is twice in a set")
    heights = [epoch.from_height for epoch in scenario.epochs]
    if heights != sorted(set(heights)):
        raise BadScenario("borders are not at ascending heights above 1")
    known = {m for epoch in scenario.epochs for m in epoch.members}
    named = set(scenario.liars) | {f.member for f in scenario.faults if hasattr(f, "member")}
    if named - known:
        raise BadScenario(f"no such members: {sorted(named - known)}")
    if scenario.chaos_ms < 0 or scenario.heights_after < 0 or scenario.delay_max_ms < 1:
        raise BadScenario("chaos_ms and heights_after are at least 0, delay_max_ms at least 1")


def objects_of(plain: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """A list of objects in a plain form; raises BadScenario."""
    found = plain.get(name, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise BadScenario(f"{name} is not a list of objects")
    return found


def _fault(plain: dict[str, Any]) -> Fault:
    kind = KINDS.get(str(plain.get("kind_of_fault")))
    if kind is None:
        raise BadScenario(f"unknown fault {plain.get('kind_of_fault')!r}: {', '.join(KINDS)}")
    found: Fault = filled(kind, {k: v for k, v in plain.items() if k != "kind_of_fault"})
    return found


def filled(kind: type[Any], plain: dict[str, Any]) -> Any:
    """A dataclass from its plain form; numbers stay numbers, lists become tuples.

    Raises:
        BadScenario: fields lack, are unknown or of another type.
    """
    hints = get_type_hints(kind)
    unknown = sorted(set(plain) - {f.name for f in fields(kind)})
    if unknown:
        raise BadScenario(f"{kind.__name__} has no {', '.join(unknown)}")
    needed = {f.name for f in fields(kind) if f.default is MISSING}
    if needed - set(plain):
        raise BadScenario(f"{kind.__name__} lacks {', '.join(sorted(needed - set(plain)))}")
    values = {name: _tuples(value) for name, value in plain.items()}
    for name, value in values.items():
        wanted = hints[name]
        plain_kind = wanted if isinstance(wanted, type) else tuple
        if not isinstance(value, plain_kind) or (plain_kind is int and isinstance(value, bool)):
            raise BadScenario(f"{kind.__name__}.{name} is {value!r}")
    return kind(**values)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value
