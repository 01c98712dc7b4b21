"""A whole federation in one process and one virtual clock, driven by a seed.

The real core runs in every correct member; the shell around it is this file. Nothing iterates an
unordered set, so a seed gives the same run under any PYTHONHASHSEED.

Source: consensus:10.
"""

import heapq
import random
from collections.abc import Callable
from typing import Any

from federation.consensus.driver import Driver
from federation.consensus.effects import (
    CheckBlock,
)
from federation.consensus.events import (
    Verdict,
)
from federation.consensus.messages import (
    Answer,
    Evidence,
    Status,
    decode_message,
    encode_message,
)
from federation.consensus.votes import (
    Certificate,
)
from federation.sim.checker import Checker
from federation.sim.liar import Liars
from federation.sim.node import Node
from federation.sim.world import (
    HEALED_DELAY_MS,
    TIMES,
    Keys,
    Scenario,
    is_empty,
    is_valid_child,
    member_set,
)


class Simulation:
    """Clock, network, faults and checks of one run."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        *,
        driver_class: type[Driver] = Driver,
        node_class: type[Node] = Node,
        ignored: frozenset[str] = frozenset(),
        keep_trace: bool = False,
    ) -> None:
        self.scenario, self.seed = scenario, seed
        self.rng = random.Random(f"run {seed}")
        self.driver_class = driver_class
        self.members = member_set(scenario.n, scenario.k)
        self.keys = Keys(self.members)
        self.checker = Checker(scenario, self.keys, ignored)
        self.now_ms = 0
        self.is_healed = False
        self.events = self.timer_count = 0
        self.blocks: dict[bytes, bytes] = {}
        self.accused: dict[int, int] = {}
        self.lines: list[str] | None = [] if keep_trace else None
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._cut: set[tuple[int, int]] = set()
        self._recode = seed % 20 == 7
        self.nodes = {m: node_class(self, m) for m in range(scenario.n) if m not in scenario.liars}
        self.liars = Liars(self)

    # --- clock

    def after(self, delay_ms: int, action: Callable[..., None], *args: Any) -> None:
        """Call later; equal times in the order of the calls."""
        self.events += 1
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self.events, action, args))

    def run_until(self, end_ms: int, is_done: Callable[[], bool] = lambda: False) -> None:
        """Run events up to a time, or until something holds."""
        queue = self._queue
        while queue and queue[0][0] <= end_ms and not is_done():
            self.now_ms, _, action, args = heapq.heappop(queue)
            action(*args)
        if not is_done():
            self.now_ms = end_ms

    def trace(self, member: int, event: object) -> None:
        """Note an event, if someone wants to read it."""
        if self.lines is not None:
            self.lines.append(f"{self.now_ms} m{member} {event}")

    # --- network

    def send(self, sender: int, target: int, message: Any) -> None:
        """Put a message on a link; liars see it at once."""
        if target not in self.nodes:
            self.liars.observe(sender, target, message)
            return
        if self._recode and not isinstance(message, tuple | Answer):
            message = decode_message(*encode_message(message))
        if self.is_healed:
            delay_ms = 1 + self.rng.randrange(HEALED_DELAY_MS)
            self.after(delay_ms, self._deliver, sender, target, message)
            return
        scenario, rng = self.scenario, self.rng
        if (sender, target) in self._cut or rng.randrange(1_000) < scenario.loss_permille:
            return
        is_starved = isinstance(message, Certificate | Status | tuple)
        if is_starved and rng.randrange(1_000) < scenario.starve_permille:
            return  # certificates and status exchange get through rarely
        copies = 2 if rng.randrange(1_000) < scenario.duplicate_permille else 1
        for _ in range(copies):
            delay_ms = 1 + rng.randrange(scenario.delay_max_ms)
            self.after(delay_ms, self._deliver, sender, target, message)

    def _deliver(self, sender: int, target: int, message: Any) -> None:
        self.nodes[target].receive(sender, message)

    def send_final(self, sender: int, target: int, from_height: int, count: int) -> None:
        """FINAL frames of a member's chain."""
        chain = self.nodes[sender].disk.chain
        for height in range(max(from_height, 1), min(from_height + count, len(chain) + 1)):
            self.send(sender, target, ("final", height, chain[height - 1]))

    # --- what members find out about their world

    def has_work(self, member: int, height: int) -> bool:
        """Whether a member's mempool offers something at a height; the same at all."""
        return height * 7_919 % 1_000 < self.scenario.work_permille

    def judge(self, member: int, question: CheckBlock) -> tuple[Verdict, int]:
        """A member's verdict now, and how long it takes."""
        node = self.nodes[member]
        if not is_valid_child(question.data, question.height, node.disk.tip_hash):
            return Verdict.INVALID, 0
        verdict = Verdict.ACCEPTABLE
        if self.scenario.opinions and not is_empty(question.data):
            opinion = (question.block_hash[0] + 37 * member) % 8
            if opinion == 0:
                verdict = Verdict.REFUSED
            elif opinion == 1 and self.now_ms % 2_000 < 1_000:
                verdict = Verdict.NOT_YET
        is_slow = self.scenario.slow_verdicts and not self.is_healed
        return verdict, self.rng.choice((0, 0, 5, 300)) if is_slow else 0

    def on_evidence(self, reporter: int, evidence: Evidence) -> None:
        """Evidence must not accuse a correct member (I13)."""
        member = evidence.first[-65]
        self.accused[member] = self.accused.get(member, 0) + 1
        if member in self.nodes:
            self.checker.fail("I13", f"member {reporter} accuses correct member {member}")

    # --- faults

    def schedule_restart(self, node: Node) -> None:
        """A crashed member comes back after a while."""
        down_ms = 10 if self.is_healed else self.rng.choice((5, 80, 400, 1_200))
        if self.scenario.wipes and not self.is_healed and self.rng.random() < 0.15:
            others = [other for other in self.nodes.values() if other is not node]
            if not any(other.disk.was_wiped for other in others):
                node.wipe(chain_too=self.rng.random() < 0.5)
        self.after(down_ms, self._restart, node)

    def _restart(self, node: Node) -> None:
        if node.driver is None:
            node.start()

    def _crash_someone(self) -> None:
        if self.is_healed:
            return
        node = self.nodes[self.rng.choice(list(self.nodes))]
        if node.driver is not None:
            if self.rng.random() < 0.7:
                node.crash_after = self.rng.randrange(6)
            else:
                node.crash()
                self.schedule_restart(node)
        self.after(self._soon(self.scenario.crash_every_ms), self._crash_someone)

    def _change_links(self) -> None:
        """Cut links in one direction or both; a new pattern each time."""
        if self.is_healed:
            return
        n, rng = self.scenario.n, self.rng
        self._cut.clear()
        style = rng.randrange(4)
        if style == 1:
            side = [rng.random() < 0.5 for _ in range(n)]
            self._cut.update((a, b) for a in range(n) for b in range(n) if side[a] != side[b])
        elif style >= 2:
            links = [(a, b) for a in range(n) for b in range(n)]
            self._cut.update(link for link in links if rng.random() < 0.15 * style)
        self.after(self._soon(self.scenario.partition_every_ms), self._change_links)

    def _soon(self, mean_ms: int) -> int:
        return 1 + self.rng.randrange(2 * mean_ms)

    # --- a run

    def run(self) -> None:
        """Phase one: anything goes. Phase two: healed, and progress is due (L1).

        Raises:
            Violation: an invariant does not hold.
        """
        scenario = self.scenario
        for node in self.nodes.values():
            self.after(self.rng.randrange(40), node.start)
        if scenario.crash_every_ms:
            self.after(self._soon(scenario.crash_every_ms), self._crash_someone)
        if scenario.partition_every_ms:
            self.after(self._soon(scenario.partition_every_ms), self._change_links)
        self.run_until(scenario.chaos_ms)
        self._heal()
        self._check_progress()

    def _heal(self) -> None:
        self.is_healed = True
        self._cut.clear()
        if self.scenario.power_cut:
            for node in self.nodes.values():
                if node.driver is not None:
                    node.crash()
        for node in self.nodes.values():
            node.crash_after = None
            if node.driver is None:
                self.after(5, self._restart, node)

    def _check_progress(self) -> None:
        """L1: all correct members finish some more heights, each within 8n rounds."""
        start = max(node.height for node in self.nodes.values())
        target = start + self.scenario.heights_after
        rounds = (
            max(
                node.driver.agreement.round
                for node in self.nodes.values()
                if node.driver is not None and node.driver.height
            )
            if any(node.driver and node.driver.height for node in self.nodes.values())
            else 0
        )
        limit = max(rounds, 0) + 8 * self.scenario.n
        deadline = self.now_ms + 6_000 + limit * 3 * TIMES.timeout_cap_ms
        nodes = list(self.nodes.values())

        def is_done() -> bool:
            return all(node.height >= target for node in nodes)

        def has_stalled() -> bool:
            return any(
                node.driver is not None
                and node.driver.height > 0
                and node.driver.agreement.round > limit
                for node in nodes
            )

        self.run_until(deadline, lambda: is_done() or has_stalled())
        if not is_done():
            heights = [node.height for node in nodes]
            self.checker.fail("L1", f"heights {heights}, wanted {target} at {self.now_ms} ms")


def run_seed(seed: int, scenario: Scenario, **options: Any) -> Simulation:
    """Run one seed to its end; raises `Violation`."""
    simulation = Simulation(scenario, seed, **options)
    simulation.run()
    return simulation
