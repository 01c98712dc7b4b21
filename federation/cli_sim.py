"""The command `sim`: a whole federation in one process, with faults drawn from seeds."""

import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click

from federation.cli_session import JSON_HELP, Failed, Interrupted, run_async
from federation.members import default_k
from federation.sim.campaign import (
    BadState,
    Campaign,
    Total,
    load_total,
    save_total,
)
from federation.sim.drawing import Mix
from federation.sim.faults import BadScenario, decode_scenario, encode_scenario
from federation.sim.peg.events import Life, decode_life, encode_life, is_life
from federation.sim.runner import Outcome, Run, Shrinker, parts_of, run_once
from federation.sim.trace import readable

MEMBERS_MAX: Final = 15  # N3
PROCESSES_MAX: Final = 64
SEEDS_MAX: Final = 10**9
SHOWN_LINES: Final = 80
SHOW_EVERY_S: Final = 0.5
BAR_COLUMNS: Final = 24
_RANGE: Final = re.compile(r"([0-9]{1,9})\.\.([0-9]{1,9})")
_WHILE: Final = re.compile(r"([0-9]{1,6})([smh]?)")
_UNITS_S: Final = {"": 1, "s": 1, "m": 60, "h": 3_600}


class Seeds(click.ParamType[tuple[int, int]]):
    """A..B: the seeds from A to B, B included; becomes (A, B + 1)."""

    name = "A..B"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """First seed, and the one after the last."""
        if isinstance(value, tuple):
            return value
        match = _RANGE.fullmatch(value)
        if match is None or int(match[1]) > int(match[2]):
            self.fail(f"{value!r} is not a range of seeds such as 0..999", param, ctx)
        return int(match[1]), int(match[2]) + 1


class While(click.ParamType[int]):
    """A time such as 90s, 60m or 2h; becomes seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Seconds of the text."""
        if isinstance(value, int):
            return value
        match = _WHILE.fullmatch(value)
        if match is None or not int(match[1]):
            self.fail(f"{value!r} is not a time such as 90s, 60m or 2h", param, ctx)
        return int(match[1]) * _UNITS_S[match[2]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The options of one call."""

    seed: int | None
    seeds: tuple[int, int] | None
    scenario: Path | None
    mix: Mix
    trace: bool
    processes: int
    for_s: int | None
    state: Path | None
    save: Path | None
    shrinks: bool
    json: bool


def register(program: click.Group) -> None:
    """Add the command to the program."""

    @program.command("sim")
    @_with_options
    def sim(
        *,
        seed: int | None,
        seeds: tuple[int, int] | None,
        scenario: Path | None,
        n: int | None,
        k: int | None,
        family: str,
        peg: bool,
        real_signatures: bool,
        trace: bool,
        processes: int,
        for_s: int | None,
        state: Path | None,
        save: Path | None,
        no_shrink: bool,
        as_json: bool,
    ) -> None:
        """Simulate federations under faults and check every rule after every event.

        A run is a whole federation in one process and one virtual clock: the code of agreement that
        members run, their journals on simulated disks, lost and late messages, crashes, wiped and
        restored disks, lying members. The seed decides everything, so a run can be repeated.

        \b
        One of these says what to run:
          --seed S          one run; with --trace every line of it
          --seeds A..B      many runs on -j processes, up to the first that breaks a rule
          --scenario FILE   a run written down, as a failing seed leaves it

        With --peg a run is a life of the peg instead: a Bitcoin that reorganises to any depth, a
        fee market, users that deposit and burn, operators' records, wiped members, and in every
        third life members that vote and sign with a liar among them; its rules are those of the
        peg. An event list takes the place of faults.

        A seed that breaks a rule is shown with as few faults as still show it and with the messages
        that led there; the exit code is 1 then.
        """
        _check_choice(seed, seeds, scenario, trace=trace, for_s=for_s, state=state, n=n)
        if peg and (n, k, family, real_signatures) != (None, None, "mix", False):
            raise click.UsageError("--peg goes without -n, -k, --family and --real-signatures")
        mix = _mix(n, k, "peg" if peg else family, real_signatures=real_signatures)
        asked = _Asked(
            seed=seed,
            seeds=seeds,
            scenario=scenario,
            mix=mix,
            trace=trace,
            processes=processes,
            for_s=for_s,
            state=state,
            save=save,
            shrinks=not no_shrink,
            json=as_json,
        )
        if seeds is not None:
            _run_many(asked, *seeds)
        else:
            _run_one(asked)


def _with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give the command its options."""
    path = click.Path(dir_okay=False, path_type=Path)
    existing = click.Path(exists=True, dir_okay=False, path_type=Path)
    options = (
        click.option("--seed", type=click.IntRange(0, SEEDS_MAX), help="Run this seed."),
        click.option("--seeds", type=Seeds(), help="Run these seeds, both ends included."),
        click.option("--scenario", type=existing, help="Run the scenario in this file."),
        click.option(
            "-n",
            "n",
            type=click.IntRange(1, MEMBERS_MAX),
            help="Members; without it the sizes of the mix in turn.",
        ),
        click.option(
            "-k", "k", type=click.IntRange(1, MEMBERS_MAX), help="Threshold; by default ⌊2n/3⌋+1."
        ),
        click.option(
            "--family",
            type=click.Choice(["mix", "a"]),
            default="mix",
            show_default=True,
            help="a: two wiped members, one that lies in roll-calls, one that is behind.",
        ),
        click.option("--peg", is_flag=True, help="Lives of the peg: both chains, and its rules."),
        click.option("--real-signatures", is_flag=True, help="Real BIP340 and ECDSA; slower."),
        click.option("--trace", is_flag=True, help="Print every event and message of the run."),
        click.option(
            "-j",
            "processes",
            type=click.IntRange(1, PROCESSES_MAX),
            default=1,
            show_default=True,
            help="Processes for --seeds.",
        ),
        click.option("--for", "for_s", type=While(), help="Begin nothing new after this time."),
        click.option(
            "--state", type=path, help="File that keeps how far --seeds came; goes on from it."
        ),
        click.option("--save", type=path, help="Where a failing scenario goes."),
        click.option("--no-shrink", is_flag=True, help="Show a failing seed with all its faults."),
        click.option("--json", "as_json", is_flag=True, help=JSON_HELP),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _check_choice(
    seed: int | None,
    seeds: tuple[int, int] | None,
    scenario: Path | None,
    *,
    trace: bool,
    for_s: int | None,
    state: Path | None,
    n: int | None,
) -> None:
    if sum(choice is not None for choice in (seed, seeds, scenario)) != 1:
        raise click.UsageError("give one of --seed, --seeds and --scenario")
    if trace and seeds is not None:
        raise click.UsageError("--trace shows one run: give --seed or --scenario")
    if seeds is None and (for_s is not None or state is not None):
        raise click.UsageError("--for and --state belong to --seeds")
    if scenario is not None and n is not None:
        raise click.UsageError("the scenario says how many members there are")


def _mix(n: int | None, k: int | None, family: str, *, real_signatures: bool) -> Mix:
    if k is not None and n is None:
        raise click.UsageError("-k needs -n")
    if n is not None and family != "mix":
        raise click.UsageError("family a has 4 members and k = 3")
    size = n or 0
    threshold = k or (default_k(size) if n else 0)
    if threshold > size:
        raise click.UsageError(f"k = {threshold} of n = {size}: k is between 1 and n")
    if n and 2 * threshold <= size:
        raise click.UsageError(f"k = {threshold} of n = {size} is no majority: blocks would fork")
    return Mix(n=size, k=threshold, family=family, real_signatures=real_signatures)


# --- one run


def _run_one(asked: _Asked) -> None:
    if asked.scenario is not None:
        try:
            scenario, seed = _decoded(asked.scenario.read_text())
        except (BadScenario, UnicodeDecodeError) as error:
            raise Failed(f"{asked.scenario} is no scenario: {error}") from None
    else:
        seed = asked.seed or 0
        scenario = asked.mix.scenario(seed)
    started_s = time.monotonic()
    outcome = run_once(scenario, seed, keep_trace=asked.trace)
    if asked.trace:
        print("\n".join(outcome.lines))
    if not outcome.is_good:
        _show_failure(asked, scenario, outcome)
    took_s = time.monotonic() - started_s
    if asked.json:
        _print_json(_facts(outcome))
    elif not asked.trace:
        rate = outcome.heights / took_s if took_s else 0
        print(
            f"seed {seed}: every rule held: {_kind(scenario)}, {outcome.heights} heights, "
            f"{outcome.events} events ({rate:.0f} heights a second)"
        )


def _decoded(text: str) -> tuple[Run, int]:
    return decode_life(text) if is_life(text) else decode_scenario(text)


def _encoded(scenario: Run, seed: int) -> str:
    if isinstance(scenario, Life):
        return encode_life(scenario, seed)
    return encode_scenario(scenario, seed)


def _kind(scenario: Run) -> str:
    """What a run is of, in a few words."""
    if isinstance(scenario, Life):
        return f"a life of the peg, setting {scenario.setting}"
    return f"n = {scenario.n}, k = {scenario.k}, {len(scenario.faults)} faults"


def _facts(outcome: Outcome) -> dict[str, Any]:
    return {name: value for name, value in asdict(outcome).items() if name != "lines"}


def _show_failure(asked: _Asked, scenario: Run, outcome: Outcome) -> None:
    """Shorten, write down, show; always raises.

    Raises:
        Failed: with the rule that was broken.
    """
    seed = outcome.seed
    if asked.shrinks:
        shrinker = Shrinker(seed, outcome.rule, on_step=_say_shrinking)
        scenario = shrinker.shrink(scenario)
        _clear_line()
    again = run_once(scenario, seed, keep_trace=True)
    path = asked.save or Path(f"fedpeg-sim-{seed}.json")
    path.write_text(_encoded(scenario, seed))
    command = f"fedpeg sim --scenario {path}"
    if asked.json:
        facts = _facts(again) | {"seed": seed, "scenario_file": str(path), "replay": command}
        _print_json(facts | {"messages": readable(list(again.lines), SHOWN_LINES)})
    else:
        print(f"seed {seed} breaks {again.text}\n")
        liars = [] if isinstance(scenario, Life) else list(scenario.liars)
        print(f"{_kind(scenario)}, Byzantine: {liars}; what is left of it:")
        for part in parts_of(scenario):
            print(f"  {part}")
        print(f"\nWhat happened before it (last {SHOWN_LINES} lines):")
        print("\n".join(readable(list(again.lines), SHOWN_LINES)))
        print(f"\nagain: {command}\n  all of it: {command} --trace")
    raise Failed(f"seed {seed} breaks {again.rule or outcome.rule}")


def _print_json(facts: dict[str, Any]) -> None:
    print(json.dumps(facts))


# --- many


def _run_many(asked: _Asked, first: int, end: int) -> None:
    state = asked.state
    if state is None and asked.for_s is not None:
        state = _default_state(asked.mix, first, end)
    try:
        total = load_total(state, first, end, asked.mix)
        if state is not None:
            state.parent.mkdir(parents=True, exist_ok=True)
            save_total(state, total)
    except BadState as error:
        raise Failed(str(error)) from None
    if not total.chunks():
        _finish(asked, total, state, 0.0)
        return
    until_s = None if asked.for_s is None else time.monotonic() + asked.for_s
    show = _Show(total, quiet=asked.json)
    campaign = Campaign(
        total, processes=asked.processes, until_s=until_s, state=state, on_progress=show.step
    )
    try:
        failure = run_async(campaign.run())
    except Interrupted:
        _clear_line()
        where = f"; {state} knows how far it came" if state is not None else ""
        print(f"fedpeg: {total.seeds} seeds done, none breaks a rule{where}", file=sys.stderr)
        raise
    except ExceptionGroup as group:
        raise Failed(str(group.exceptions[0])) from group
    _clear_line()
    if failure is not None:
        _show_failure(asked, asked.mix.scenario(failure.seed), failure)
    _finish(asked, total, state, campaign.elapsed_s)


def _default_state(mix: Mix, first: int, end: int) -> Path:
    size = f"-n{mix.n}-k{mix.k}" if mix.n else ""
    signed = "-real" if mix.real_signatures else ""
    name = f"sim-{mix.family}{size}{signed}-{first}-{end - 1}.json"
    return Path(click.get_app_dir("fedpeg")) / name


def _finish(asked: _Asked, total: Total, state: Path | None, elapsed_s: float) -> None:
    is_done = total.next_seed >= total.end
    facts = {
        "first": total.first,
        "last": total.end - 1,
        "next_seed": total.next_seed,
        "seeds": total.seeds,
        "heights": total.heights,
        "events": total.events,
        "healed": total.healed,
        "on_older_code": total.older,
        "busy_s": total.busy_ms // 1_000,
        "violations": 0,
        "done": is_done,
        "state": str(state) if state else None,
    }
    if asked.json:
        _print_json(facts)
        return
    busy_s = max(total.busy_ms / 1_000, 0.001)
    print(
        f"{total.seeds} seeds of {total.first}..{total.end - 1}, none breaks a rule: "
        f"{total.heights} heights, {total.events} events, progress was due and came in "
        f"{total.healed}; {total.seeds / busy_s:.1f} seeds and "
        f"{total.heights / busy_s:.0f} heights a second"
    )
    if total.older:
        print(f"{total.older} of them ran on older code of the federation")
    if not is_done:
        print(f"stopped at seed {total.next_seed}; the same command goes on there ({state})")
    elif state is not None and not elapsed_s:
        print(f"nothing was left to run: {state} has it all; remove it to run again")


class _Show:
    """A line on standard error that tells how far it is."""

    def __init__(self, total: Total, *, quiet: bool) -> None:
        self._quiet = quiet
        self._last_s = self._started_s = time.monotonic()
        self._seeds_before = total.seeds
        self._is_terminal = sys.stderr.isatty()

    def step(self, total: Total) -> None:
        """One seed more."""
        now_s = time.monotonic()
        every_s = SHOW_EVERY_S if self._is_terminal else 10.0
        if self._quiet or now_s - self._last_s < every_s:
            return
        self._last_s = now_s
        size = total.end - total.first
        done = min(total.seeds, size)
        filled = BAR_COLUMNS * done // size
        rate = (total.seeds - self._seeds_before) / max(now_s - self._started_s, 0.001)
        text = (
            f"[{'#' * filled}{'.' * (BAR_COLUMNS - filled)}] {done}/{size} seeds, {rate:.1f} a "
            f"second, {total.heights} heights, {total.events} events"
        )
        end = "" if self._is_terminal else "\n"
        print(f"\r{text}" if self._is_terminal else text, end=end, file=sys.stderr, flush=True)


def _say_shrinking(left: int) -> None:
    if sys.stderr.isatty():
        print(f"\rshortening the scenario: {left} faults left  ", end="", file=sys.stderr)


def _clear_line() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
