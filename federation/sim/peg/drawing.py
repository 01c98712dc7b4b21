"""Draws the events of a life of the peg from a seed.

Draws change what later seeds mean, so new ones are appended.

Source: peg:14.
"""

import random
from typing import Final

from federation.sim.peg.events import (
    RECORDS,
    TROUBLES,
    Burn,
    Deposit,
    Donate,
    Event,
    Evict,
    Fork,
    Govern,
    Lie,
    Life,
    Market,
    Mine,
    Pin,
    Return,
    SideBlock,
    Steal,
    Trouble,
    Vanish,
    Wipe,
)
from federation.sim.peg.member import LIES
from peg.parameters import LOCAL

STEPS: Final = 120
MEMBERS_EVERY: Final = 3
TURNS: Final = ("usual", "usual", "tight", "usual", "poor", "usual", "aged")
"""Settings of seeds in turn."""
RATES_SATS_PER_KVB: Final = (0, 0, 1_500, 20_000, 100_000)
DEPOSITS_SATS: Final = (50_000, 3_000_000, 60_000_000, 150_000_000)
BURNS_SATS: Final = (19_999, 20_000, 20_000, 400_000, 30_000_000, 110_000_000)
DEPTHS: Final = (1, 1, 2, 3, 5, 8, 13)
_DRAW_MAX: Final = 1 << 30


def life_of(
    seed: int, *, setting: str = "", steps: int = STEPS, members: bool | None = None
) -> Life:
    """The life of a seed, in the setting whose turn it is or in a given one.

    Args:
        members: whether members' services take part; without it in every third life.
    """
    rng = random.Random(seed)
    setting = setting or TURNS[seed % len(TURNS)]
    has_members = seed % MEMBERS_EVERY == 0 if members is None else members
    forks = setting in ("usual", "tight")
    events: list[Event] = []
    for _ in range(steps):
        events += _step(rng, forks=forks, poor=setting == "poor")
        if has_members and rng.random() < 0.08:
            events.append(_member_trouble(rng))
    liars = (rng.randrange(LOCAL.n),) if has_members and rng.random() < 0.6 else ()
    return Life(setting=setting, members=has_members, liars=liars, events=tuple(events))


def _member_trouble(rng: random.Random) -> Event:
    """What befalls members and what liars do."""
    roll = rng.random()
    if roll < 0.5:
        return Trouble(rng.randrange(LOCAL.n), rng.choice(TROUBLES), rng.randint(1, 6))
    return Lie(rng.choice(LIES)) if roll < 0.8 else Steal(_draw(rng))


def _step(rng: random.Random, *, forks: bool, poor: bool) -> list[Event]:
    made: list[Event] = []
    roll = rng.random()
    if roll < 0.10:
        made.append(Deposit(rng.choice(DEPOSITS_SATS), rng.randrange(5)))
        if rng.random() < 0.15:
            made.append(Donate(200_000))
    if roll < 0.55:
        made.append(Mine(1, 400, _draw(rng)))
    elif roll < 0.61 and forks:
        made.append(Fork(rng.choice(DEPTHS), rng.randint(1, 3), 400, _draw(rng)))
    elif roll < 0.63 and forks:
        made.append(Return(400, _draw(rng)))
    else:
        made += _sidechain(rng)
    if rng.random() < 0.03:
        made.append(Wipe(rng.randrange(LOCAL.n)))
    if rng.random() < 0.06:
        made += _weather(rng, forks=forks, poor=poor)
    return made


def _sidechain(rng: random.Random) -> list[Event]:
    """A block, with what goes into it before it."""
    made: list[Event] = []
    if rng.random() < 0.5:
        made += [
            Burn(rng.choice(BURNS_SATS), 3 if rng.random() < 0.1 else rng.choice((0, 1, 2)))
            for _ in range(rng.randint(1, 3))
        ]
    if rng.random() < 0.25:
        made.append(Govern(rng.choice(RECORDS), _draw(rng)))
    return [*made, SideBlock(_draw(rng))]


def _weather(rng: random.Random, *, forks: bool, poor: bool) -> list[Event]:
    """The fee market, the mempools, and money that is gone."""
    roll = rng.random()
    if roll < 0.5:
        return [] if poor else [Market(rng.choice(RATES_SATS_PER_KVB))]
    if roll < 0.7:
        return [Evict()]
    if roll < 0.9:
        return [Pin(rng.choice((500, 12_500, 101_000)), _draw(rng))]
    return [Vanish(_draw(rng))] if forks else []


def _draw(rng: random.Random) -> int:
    return rng.randrange(_DRAW_MAX)
