"""The links of a simulated federation: each has its own luck, drawn from the seed.

Source: consensus:1.1, consensus:10.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from federation.consensus.messages import Status
from federation.consensus.votes import Certificate
from federation.sim.faults import Clog, Cut, Weather
from federation.sim.final import FinalMessage
from federation.sim.world import HEALED_DELAY_MS


@dataclass(slots=True)
class _Link:
    random: Callable[[], float]
    cuts: int = 0
    clogs: int = 0
    held: list[Any] = field(default_factory=list)


class Network:
    """Who hears what, and when.

    Args:
        deliver: gives a message to a member.
        after: calls something later.
    """

    def __init__(
        self,
        seed: int,
        delay_max_ms: int,
        *,
        after: Callable[..., None],
        deliver: Callable[[int, int, Any], None],
    ) -> None:
        self._seed, self._delay_max_ms = seed, delay_max_ms
        self._after, self._deliver = after, deliver
        self._links: dict[tuple[int, int], _Link] = {}
        self._weather: list[Weather] = []
        self._is_healed = False

    def _link(self, source: int, target: int) -> _Link:
        link = self._links.get((source, target))
        if link is None:
            luck = random.Random(f"{self._seed} link {source} {target}")
            link = self._links[source, target] = _Link(luck.random)
        return link

    def send(self, source: int, target: int, message: Any) -> str:
        """Put a message on a link; what becomes of it, in a word."""
        link = self._link(source, target)
        if self._is_healed:
            delay_ms = 1 + int(link.random() * HEALED_DELAY_MS)
            self._after(delay_ms, self._deliver, source, target, message)
            return ""
        if link.cuts:
            return "cut"
        if link.clogs:
            link.held.append(message)
            return "held"
        if not self._weather:
            delay_ms = 1 + int(link.random() * self._delay_max_ms)
            self._after(delay_ms, self._deliver, source, target, message)
            return ""
        return self._send_in_weather(link, source, target, message, self._weather[-1])

    def _send_in_weather(
        self, link: _Link, source: int, target: int, message: Any, weather: Weather
    ) -> str:
        if link.random() * 1_000 < weather.loss_permille:
            return "lost"
        is_starved = isinstance(message, Certificate | Status | FinalMessage)
        if is_starved and link.random() * 1_000 < weather.starve_permille:
            return "starved"  # certificates and status exchange get through rarely
        copies = 2 if link.random() * 1_000 < weather.duplicate_permille else 1
        for _ in range(copies):
            delay_ms = 1 + int(link.random() * weather.delay_max_ms)
            self._after(delay_ms, self._deliver, source, target, message)
        return "twice" if copies == 2 else ""

    # --- faults

    def begin(self, fault: Weather | Cut | Clog) -> None:
        """A fault of the network starts."""
        match fault:
            case Weather():
                self._weather.append(fault)
            case Cut(links=links):
                for link in links:
                    self._link(*link).cuts += 1
            case Clog(source=source, target=target):
                self._link(source, target).clogs += 1

    def end(self, fault: Weather | Cut | Clog) -> None:
        """It is over; what was held back goes on its way."""
        if self._is_healed:
            return
        match fault:
            case Weather():
                if fault in self._weather:
                    self._weather.remove(fault)
            case Cut(links=links):
                for link in links:
                    self._link(*link).cuts -= 1
            case Clog(source=source, target=target):
                link_ = self._link(source, target)
                link_.clogs -= 1
                if not link_.clogs:
                    self._release(source, target, link_)

    def _release(self, source: int, target: int, link: _Link) -> None:
        held, link.held = link.held, []
        for message in held:
            delay_ms = 1 + int(link.random() * self._delay_max_ms)
            self._after(delay_ms, self._deliver, source, target, message)

    def heal(self) -> None:
        """From now on everything arrives in time (GST)."""
        self._is_healed = True
        for (source, target), link in self._links.items():
            self._release(source, target, link)
