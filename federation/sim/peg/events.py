"""What happens in a life of the peg, as a list that can be read, shortened and run again.

An event names what happens; what it happens to is chosen by `draw` among what is there at that
moment, so that an event keeps its meaning when others before it are left out.

Source: peg:14.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from federation.sim.faults import BadScenario, filled, objects_of
from federation.sim.peg.member import LIES
from peg.parameters import LOCAL, PegParameters, WindowCap

FORMAT: Final = 1
EVENTS_MAX: Final = 100_000
COUNT_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Mine:
    """Bitcoin blocks on the best tip; of what may confirm each is taken with a chance."""

    count: int
    take_permille: int
    draw: int


@dataclass(frozen=True, slots=True)
class Fork:
    """A branch from `depth` below the tip wins by `longer` blocks and takes what it likes."""

    depth: int
    longer: int
    take_permille: int
    draw: int


@dataclass(frozen=True, slots=True)
class Return:
    """A branch that lost before grows until it wins: back and forth."""

    take_permille: int
    draw: int


@dataclass(frozen=True, slots=True)
class Market:
    """The fee rate moves: estimates, and what a mempool lets in and keeps (0: no estimate)."""

    sats_per_kvb: int


@dataclass(frozen=True, slots=True)
class Evict:
    """Mempools forget everything they hold."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A recipient hangs a heavy child on a payout that waits: a bump must pay for it too."""

    fee_sats: int
    draw: int


@dataclass(frozen=True, slots=True)
class Deposit:
    """A user pays an address of the federation."""

    amount_sats: int
    user: int


@dataclass(frozen=True, slots=True)
class Donate:
    """Somebody pays the federation's own script."""

    amount_sats: int


@dataclass(frozen=True, slots=True)
class Vanish:
    """The money of a deposit is spent otherwise on every branch that does not hold it yet."""

    draw: int


@dataclass(frozen=True, slots=True)
class Burn:
    """A user burns: `to` 0: always the same script; 1: a new one; 2: none; 3: the federation."""

    amount_sats: int
    to: int


@dataclass(frozen=True, slots=True)
class Govern:
    """A record, by its kind: pause, resume, cancel, exclude, include, release, param."""

    kind: str
    draw: int


@dataclass(frozen=True, slots=True)
class SideBlock:
    """A block of the sidechain, by an honest proposer."""

    draw: int


@dataclass(frozen=True, slots=True)
class Wipe:
    """A member loses its disk and starts again."""

    member: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """A member's Bitcoin node is late or down, or the member away, for some moves of Bitcoin."""

    member: int
    kind: str
    moves: int


@dataclass(frozen=True, slots=True)
class Lie:
    """What liars do with their frames from here on."""

    kind: str


@dataclass(frozen=True, slots=True)
class Steal:
    """Holders of emergency keys take a deposit that is not claimed."""

    draw: int


TROUBLES: Final = ("late", "down", "away")
RECORDS: Final = ("pause", "resume", "cancel", "exclude", "include", "release", "param")
Event = (
    Mine | Fork | Return | Market | Evict | Pin | Deposit | Donate | Vanish | Burn | Govern
    | SideBlock | Wipe | Trouble | Lie | Steal
)  # fmt: skip
KINDS: Final[dict[str, type[Any]]] = {
    kind.__name__: kind
    for kind in (
        Mine, Fork, Return, Market, Evict, Pin, Deposit, Donate, Vanish, Burn, Govern, SideBlock,
        Wipe, Trouble, Lie, Steal,
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """The values a life is under.

    Attributes:
        anchor_sats: first anchor, which is the first pool.
        rate_sats_per_kvb: Bitcoin's fee rate at the start; 0: no estimate.
        is_bounded: whether everything payable must be paid in the end (I11).
    """

    parameters: PegParameters = LOCAL
    anchor_sats: int = 3_000_000
    rate_sats_per_kvb: int = 0
    is_bounded: bool = True


SETTINGS: Final = {
    "usual": Setting(),
    "poor": Setting(anchor_sats=52_000, rate_sats_per_kvb=100_000, is_bounded=False),
    "tight": Setting(
        parameters=replace(
            LOCAL,
            payout_cap_sats=30_000_000,
            caps=(WindowCap(6, 30_000_000, 0), WindowCap(24, 60_000_000, 0)),
        ),
        is_bounded=False,
    ),
    "aged": Setting(
        parameters=replace(LOCAL, csv=50, sweep_window=30, csv_stop=5), is_bounded=False
    ),
}
"""A pool that pays for one batch at best while Bitcoin is dear; caps that bind most of the time;
coins that have to be swept again and again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """A whole life of the peg: with nothing else it always goes the same way.

    Attributes:
        setting: one of `SETTINGS`.
        members: blocks are voted for and batches signed by members' own services.
        liars: Byzantine members; without `members` there are none.
        calm_blocks: how long the chains are calm at the end.
    """

    setting: str = "usual"
    members: bool = False
    liars: tuple[int, ...] = ()
    calm_blocks: int = 60
    events: tuple[Event, ...] = ()


def encode_life(life: Life, seed: int) -> str:
    """A life as JSON text that a person can read and change, an event a line."""
    plain = {"format": FORMAT, "peg_seed": seed} | asdict(life)
    plain["events"] = []
    head = json.dumps(plain, indent=1).removesuffix(' "events": []\n}')
    lines = [
        "  " + json.dumps({"event": type(event).__name__} | asdict(event)) for event in life.events
    ]
    return head + ' "events": [\n' + ",\n".join(lines) + "\n ]\n}\n"


def decode_life(text: str) -> tuple[Life, int]:
    """A life and its seed.

    Raises:
        BadScenario: it is not what `encode_life` writes.
    """
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise BadScenario(f"not JSON: {error}") from None
    if not isinstance(plain, dict) or plain.pop("format", None) != FORMAT:
        raise BadScenario(f"not a life of the peg of format {FORMAT}")
    seed = plain.pop("peg_seed", None)
    if not isinstance(seed, int):
        raise BadScenario("peg_seed is not a number")
    events = [_event(entry) for entry in objects_of(plain, "events")]
    life: Life = filled(Life, plain | {"events": events})
    check_life(life)
    return life, seed


def is_life(text: str) -> bool:
    """Whether a scenario file is one of the peg."""
    return '"peg_seed"' in text


def check_life(life: Life) -> None:
    """Refuse what cannot be run; raises BadScenario."""
    if life.setting not in SETTINGS:
        raise BadScenario(f"setting is one of {', '.join(SETTINGS)}")
    if len(life.events) > EVENTS_MAX or not 0 <= life.calm_blocks <= COUNT_MAX:
        raise BadScenario(f"at most {EVENTS_MAX} events and {COUNT_MAX} calm blocks")
    everybody = range(SETTINGS[life.setting].parameters.n)
    if not set(life.liars) <= set(everybody):
        raise BadScenario(f"liars {life.liars}: members are 0 to {len(everybody) - 1}")
    for event in life.events:
        numbers = [value for value in asdict(event).values() if isinstance(value, int)]
        if min(numbers, default=0) < 0:
            raise BadScenario(f"{event} has a number below 0")
        match event:
            case Mine(count, take, _) if count > COUNT_MAX or take > 1_000:
                raise BadScenario(f"{event}: at most {COUNT_MAX} blocks, 1000 permille")
            case Fork(depth, longer, _, _) if not depth or not longer or depth + longer > COUNT_MAX:
                raise BadScenario(f"{event}: depth and longer are at least 1")
            case Govern(kind, _) if kind not in RECORDS:
                raise BadScenario(f"{event}: a record is one of {', '.join(RECORDS)}")
            case Wipe(member) | Trouble(member, _, _) if member not in everybody:
                raise BadScenario(f"{event}: there is no such member")
            case Trouble(_, kind, _) if kind not in TROUBLES:
                raise BadScenario(f"{event}: a trouble is one of {', '.join(TROUBLES)}")
            case Lie(kind) if kind not in LIES:
                raise BadScenario(f"{event}: a lie is one of {', '.join(LIES)}")
            case Burn(_, to) if to > 3:
                raise BadScenario(f"{event}: `to` is 0 to 3")
            case _:
                pass


def _event(plain: dict[str, Any]) -> Event:
    kind = KINDS.get(str(plain.get("event")))
    if kind is None:
        raise BadScenario(f"unknown event {plain.get('event')!r}: {', '.join(KINDS)}")
    found: Event = filled(kind, {k: v for k, v in plain.items() if k != "event"})
    return found
