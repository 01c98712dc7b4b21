"""Scenarios drawn from seeds: which configuration, which faults, when.

Source: consensus:10.1, consensus:10.4.
"""

import random
from dataclasses import dataclass, replace
from typing import Any, Final

from federation.members import MemberSet
from federation.sim.faults import (
    BitcoindDown,
    BitFlip,
    ClockJump,
    Clog,
    Crash,
    Cut,
    DiskFault,
    Fault,
    Gone,
    Lie,
    Mining,
    Opinion,
    PowerCut,
    Reorganisation,
    Rollback,
    Scenario,
    SlowVerdicts,
    Twin,
    Weather,
    Wipe,
)
from federation.sim.liar import KINDS
from federation.sim.peg.drawing import life_of
from federation.sim.peg.events import Life
from federation.sim.world import Epoch, member_set

CONFIGURATIONS: Final = (
    (4, 3), (4, 3), (5, 4), (4, 3), (3, 3), (4, 3), (6, 4), (4, 3), (7, 5), (4, 3),
    (5, 4), (4, 3), (4, 3), (10, 7), (4, 3),
)  # fmt: skip
FOR_EVER_MS: Final = 10**9


class _Drawing:
    """One seed's draws."""

    def __init__(self, seed: int, n: int, k: int) -> None:
        self.rng = random.Random(f"scenario {seed}")
        self.n, self.k = n, k
        self.set: MemberSet = member_set(n, k)
        self.is_mild = self.rng.random() < 0.4
        self.chaos_ms = self.rng.choice((1_000, 2_000, 3_000))
        self.faults: list[Fault] = []
        self.byzantine: list[int] = []
        self.others = list(range(n))

    # --- who

    def draw_liars(self) -> None:
        """Mostly as many as safety bears, sometimes fewer."""
        bound = max(self.set.f_s, 0)
        count = self.rng.choice((bound, bound, min(bound, 1), 0))
        self.byzantine = sorted(self.rng.sample(range(self.n), count))
        self.others = [m for m in range(self.n) if m not in self.byzantine]
        for member in self.byzantine:
            is_whole = self.rng.random() < 0.6
            for kind in KINDS:
                likely = 0.95 if is_whole else 0.4
                if self.rng.random() < likely:
                    self.add(Lie, at_ms=0, until_ms=FOR_EVER_MS, member=member, kind=kind)

    def member(self) -> int:
        """A correct member."""
        return self.rng.choice(self.others)

    def add(self, kind: Any, /, **facts: Any) -> None:
        """One fault more."""
        self.faults.append(kind(**facts))

    def when(self) -> tuple[int, int]:
        """A while within the chaos."""
        start = self.rng.randrange(self.chaos_ms)
        length = self.rng.choice((50, 200, 600, self.chaos_ms))
        return start, min(start + 1 + self.rng.randrange(length), self.chaos_ms)

    # --- what

    def draw_network(self) -> None:
        """Weather over the whole chaos, cuts and clogs in it."""
        rng = self.rng
        if self.is_mild:
            self.add(
                Weather, at_ms=0, until_ms=self.chaos_ms, loss_permille=rng.choice((0, 20, 80)),
                duplicate_permille=rng.choice((0, 50)), delay_max_ms=rng.choice((10, 30, 60)),
            )  # fmt: skip
            for _ in range(rng.choice((0, 0, 1, 2))):
                self._draw_cut()
            return
        has_con = any(isinstance(fault, Lie) and fault.kind == "con" for fault in self.faults)
        self.add(
            Weather,
            at_ms=0,
            until_ms=self.chaos_ms,
            loss_permille=int(rng.choice((0, 100, 250, 400)) * rng.random()),
            duplicate_permille=rng.choice((0, 0, 50, 200)),
            starve_permille=rng.choice((0, 950, 990) if has_con else (0, 0, 950)),
            delay_max_ms=rng.choice((10, 30, 80, 250, 400)),
        )
        for _ in range(rng.choice((0, 0, 4, 10))):
            self._draw_cut()
        if rng.random() < 0.4:
            self._draw_swizzle()

    def _draw_cut(self) -> None:
        """Two sides, or any links, each in one direction."""
        n, rng = self.n, self.rng
        start, end = self.when()
        if rng.random() < 0.5:
            side = [rng.random() < 0.5 for _ in range(n)]
            links = [(a, b) for a in range(n) for b in range(n) if side[a] != side[b]]
        else:
            share = rng.choice((0.2, 0.4))
            links = [(a, b) for a in range(n) for b in range(n) if a != b and rng.random() < share]
        self.add(Cut, at_ms=start, until_ms=end, links=tuple(links))

    def _draw_swizzle(self) -> None:
        """Links stop one after the other and go on in another order."""
        rng = self.rng
        member = rng.randrange(self.n)
        links = [(member, m) for m in range(self.n)] + [(m, member) for m in range(self.n)]
        for source, target in links:
            if source != target and rng.random() < 0.6:
                start, end = self.when()
                self.add(Clog, at_ms=start, until_ms=end, source=source, target=target)

    def draw_crashes(self) -> None:
        """Processes that end at any point, disks that refuse, power that fails."""
        rng = self.rng
        for _ in range(rng.choice((0, 2, 4, 8))):
            self.add(
                Crash,
                at_ms=rng.randrange(self.chaos_ms),
                member=self.member(),
                points=rng.choice((0, rng.randrange(8), rng.randrange(30))),
                part=rng.randrange(400),
                power=rng.random() < 0.6,
                zeros=rng.random() < 0.2,
                down_ms=rng.choice((5, 80, 400)),
            )
        if rng.random() < 0.25:
            start, end = self.when()
            kind = rng.choice(("full", "write", "sync", "short"))
            end = min(end, start + 300)
            self.add(DiskFault, at_ms=start, until_ms=end, member=self.member(), kind=kind)
        if rng.random() < 0.2:
            at_ms = rng.choice((self.chaos_ms - 1, rng.randrange(self.chaos_ms)))
            self.add(PowerCut, at_ms=at_ms)

    def draw_losses(self, likely: float) -> None:
        """Journals that are lost, damaged or old."""
        rng = self.rng
        while rng.random() < likely and len(self.faults) < 60:
            at_ms, member = rng.randrange(self.chaos_ms // 4, self.chaos_ms), self.member()
            down_ms = rng.choice((5, 80, 300))
            draw = rng.random()
            if draw < 0.5:
                chain_too = rng.random() < 0.5
                self.add(Wipe, at_ms=at_ms, member=member, chain_too=chain_too, down_ms=down_ms)
            elif draw < 0.7:
                bit = rng.randrange(4_000)
                self.add(BitFlip, at_ms=at_ms, member=member, bit=bit, down_ms=down_ms)
            else:
                self._draw_rollback(member, at_ms, down_ms, told=draw < 0.85)
            likely *= 0.6

    def _draw_rollback(self, member: int, at_ms: int, down_ms: int, *, told: bool) -> None:
        """Told, or seen by the guard; unseen ones count as Byzantine."""
        rng = self.rng
        keeps_guard = not told
        if not told and len(self.byzantine) < self.set.f_s and rng.random() < 0.6:
            keeps_guard = False
            self.byzantine.append(member)
            self.others.remove(member)
        self.add(
            Rollback,
            at_ms=at_ms,
            member=member,
            saved_ms=rng.randrange(at_ms),
            told=told,
            keeps_guard=keeps_guard,
            chain_too=rng.random() < 0.6,
            down_ms=down_ms,
        )

    def draw_opinions(self) -> None:
        """Members judge differently, slowly, and by wrong clocks."""
        rng = self.rng
        if rng.random() < 0.35:
            for member in self.others:
                start, end = self.when()
                remainder, not_yet = rng.randrange(4), rng.random() < 0.5
                self.add(
                    Opinion, at_ms=start, until_ms=end, member=member,
                    remainder=remainder, not_yet=not_yet,
                )  # fmt: skip
        if rng.random() < 0.3:
            start, end = self.when()
            delay_ms = rng.choice((5, 60, 300))
            self.add(
                SlowVerdicts, at_ms=start, until_ms=end, member=self.member(), delay_ms=delay_ms
            )
        for _ in range(rng.choice((0, 0, 0, 1, self.n))):
            offset_ms = rng.choice((-3_600_000, -2_000, -150, 150, 2_000, 3_600_000))
            at_ms = rng.randrange(self.chaos_ms)
            self.add(ClockJump, at_ms=at_ms, member=self.member(), offset_ms=offset_ms)

    def draw_twin(self) -> None:
        """A key that two processes use counts as Byzantine."""
        if self.rng.random() < 0.12 and len(self.byzantine) < self.set.f_s:
            member = self.member()
            self.byzantine.append(member)
            self.others.remove(member)
            at_ms = self.rng.randrange(self.chaos_ms)
            self.add(Twin, at_ms=at_ms, member=member)

    def draw_gone(self) -> None:
        """Some never come back: as many as liveness bears beside the Byzantine."""
        room = self.set.f_l - len(self.byzantine)
        if room > 0 and self.rng.random() < 0.15:
            self.add(Gone, at_ms=self.rng.randrange(self.chaos_ms), member=self.member())

    def draw_bitcoin(self) -> None:
        """Blocks, reorganisations beyond any depth that is trusted, nodes that hear nothing."""
        rng = self.rng
        for _ in range(rng.randrange(1, 8)):
            at_ms = rng.randrange(self.chaos_ms)
            if rng.random() < 0.4:
                self.add(Reorganisation, at_ms=at_ms, depth=rng.choice((1, 3, 8, 12)))
            else:
                self.add(Mining, at_ms=at_ms, count=rng.choice((1, 1, 2, 10)))
        if rng.random() < 0.3:
            start, end = self.when()
            self.add(BitcoindDown, at_ms=start, until_ms=end, member=self.member())

    def scenario(self, liars: tuple[int, ...], **facts: Any) -> Scenario:
        """What was drawn, in the order of time."""
        rng = self.rng
        return Scenario(
            n=self.n,
            k=self.k,
            liars=liars,
            chaos_ms=self.chaos_ms,
            delay_max_ms=rng.choice((3, 8, 12)),
            work_permille=rng.choice((0, 300, 1_000, 1_000)),
            faults=tuple(sorted(self.faults, key=lambda fault: fault.at_ms)),
            recode=rng.random() < 0.05,
            **facts,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Which scenario a seed stands for.

    Attributes:
        n, k: 0: the configurations of the mix in turn.
        family: "mix", "a" for the family of B21, or "peg" for lives of the peg.
    """

    n: int = 0
    k: int = 0
    family: str = "mix"
    real_signatures: bool = False

    def scenario(self, seed: int) -> Scenario | Life:
        """The scenario of a seed."""
        if self.family == "peg":
            return life_of(seed)
        if self.family == "a":
            found = family_a(seed)
        elif self.n:
            found = draw(seed, self.n, self.k)
        else:
            found = scenario_of(seed)
        return replace(found, real_signatures=self.real_signatures)


def scenario_of(seed: int) -> Scenario:
    """The scenario of a seed in the mix; independent of the run's own draws."""
    n, k = CONFIGURATIONS[seed % len(CONFIGURATIONS)]
    return draw(seed, n, k)


def draw(seed: int, n: int, k: int) -> Scenario:
    """The scenario of a seed for a set of a size.

    Raises:
        ValueError: no such set.
    """
    if (n, k) == (4, 3) and seed % 15 in (7, 12):
        return family_a(seed)
    drawing = _Drawing(seed, n, k)
    rng = drawing.rng
    drawing.draw_liars()
    liars = tuple(drawing.byzantine)
    drawing.draw_network()
    drawing.draw_crashes()
    drawing.draw_opinions()
    drawing.draw_twin()
    drawing.draw_losses(0.5 if rng.random() < 0.5 else 0.0)
    drawing.draw_gone()
    has_peg = rng.random() < 0.2
    if has_peg:
        drawing.draw_bitcoin()
    borders = _borders(rng, n, k, liars) if rng.random() < 0.15 else ()
    return drawing.scenario(liars, borders=borders, peg=has_peg)


def family_a(seed: int) -> Scenario:
    """B21's family: one liar that under-reports, two wiped members, one correct laggard."""
    drawing = _Drawing(seed, 4, 3)
    rng = drawing.rng
    members = rng.sample(range(4), 4)
    liar, laggard, wiped = members[0], members[1], members[2 : rng.choice((3, 4))]
    for kind in ("rollcall", "fair", "sign", *rng.choice(((), ("equivocate",)))):
        drawing.add(Lie, at_ms=0, until_ms=FOR_EVER_MS, member=liar, kind=kind)
    drawing.byzantine, drawing.others = [liar], members[1:]
    drawing.chaos_ms = 3_000
    lost_ms = rng.randrange(600, 1_800)
    others = [m for m in members if m not in (laggard, *wiped)]
    links = tuple((m, laggard) for m in members if m != laggard)
    drawing.add(Cut, at_ms=rng.randrange(lost_ms // 2), until_ms=lost_ms, links=links)
    for member in wiped:  # from here on it is heard, but not told of blocks
        at_ms, chain_too = lost_ms + rng.randrange(60), rng.random() < 0.8
        drawing.add(Wipe, at_ms=at_ms, member=member, chain_too=chain_too, down_ms=5)
    links = tuple((m, laggard) for m in others)
    if rng.random() < 0.7:
        links += tuple((m, w) for m in others if m != liar for w in wiped)
    drawing.add(Cut, at_ms=lost_ms, until_ms=lost_ms + rng.choice((200, 800)), links=links)
    if rng.random() < 0.3:
        drawing.draw_crashes()
    found = drawing.scenario((liar,))
    return replace(found, work_permille=1_000, delay_max_ms=3)


def _borders(rng: random.Random, n: int, k: int, liars: tuple[int, ...]) -> tuple[Epoch, ...]:
    """One member replaced, two replaced, or the set grows by one; liars stay within f_s."""
    height = rng.randrange(2, 8)
    members = list(range(n))
    for newcomer in range(n, n + rng.choice((1, 2))):
        place = rng.randrange(n)
        members[place] = newcomer
    if rng.random() < 0.4:
        members.append(n + 2)
    k_new = 2 * len(members) // 3 + 1
    borders = (Epoch(height, tuple(members), k_new),)
    f_s = 2 * k_new - len(members) - 1
    return borders if sum(m in liars for m in members) <= f_s else ()
