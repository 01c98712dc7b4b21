"""A whole federation in one process and one virtual clock, driven by a seed.

The real core, journal, guard, verifier and catch-up run in every correct member. Nothing iterates
an unordered set, so a seed gives the same run under any PYTHONHASHSEED.

Source: consensus:10.
"""

import heapq
from collections.abc import Callable
from typing import Any, Final

from federation.consensus.driver import Driver
from federation.consensus.effects import CheckBlock
from federation.consensus.encoding import InvalidMessage
from federation.consensus.events import Verdict
from federation.consensus.messages import Answer, decode_message, encode_message
from federation.sim.checker import Checker, Violation
from federation.sim.faults import Scenario, check_scenario
from federation.sim.final import FinalMessage
from federation.sim.injector import Injector
from federation.sim.keys import key_of, memoised, scheme_of
from federation.sim.liar import Liars
from federation.sim.member import Node
from federation.sim.network import Network
from federation.sim.peg_side import PegSide
from federation.sim.trace import Trace
from federation.sim.witness import Witness
from federation.sim.world import (
    FUTURE_LIMIT_MS,
    TIMES,
    FinalBlock,
    MemberPlan,
    block_fields,
    is_valid_child,
)

L2_WAIT_MS: Final = 30_000


class Simulation:
    """Clock, network, faults and checks of one run.

    Args:
        driver_class, node_class: variants that tests plant.
        ignored: invariants that do not count in this run.
        keep_trace: keep a line for everything that happens.
    """

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
        check_scenario(scenario)
        self.scenario, self.seed = scenario, seed
        self.driver_class = driver_class
        real = scenario.real_signatures
        self.keys = memoised(lambda member: key_of(member, real=real))
        self.scheme = scheme_of(real=real)
        self.plan = MemberPlan(scenario.epochs, real_keys=real)
        self.trace = Trace() if keep_trace else None
        self.checker = Checker(self.plan, self.scheme, scenario.liars, ignored)
        self.witness = Witness(self.checker, TIMES, lambda member: self.keys(member).public_key[1:])
        self.now_ms = self.events = self.timer_count = 0
        self.is_healed = False
        self.accused: dict[int, int] = {}
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self.network = Network(seed, scenario.delay_max_ms, after=self.after, deliver=self._deliver)
        self.peg = PegSide(self.plan.everyone, seed) if scenario.peg else None
        self.nodes = {m: node_class(self, m) for m in self.plan.everyone if m not in scenario.liars}
        self.twins: list[Node] = []
        self.liars = Liars(self)
        self.injector = Injector(self)
        for number, node in enumerate(self.nodes.values()):
            self.after(7 * number, node.start)

    # --- clock

    def after(self, delay_ms: int, action: Callable[..., None], *args: Any) -> None:
        """Call later; equal times in the order of the calls."""
        self.events += 1
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self.events, action, args))

    def run_until(self, end_ms: int, is_done: Callable[[], bool] | None = None) -> None:
        """Run events up to a time, or until something holds."""
        queue = self._queue
        while queue and queue[0][0] <= end_ms:
            if is_done is not None and is_done():
                return
            self.now_ms, _, action, args = heapq.heappop(queue)
            action(*args)
        self.now_ms = max(self.now_ms, end_ms)

    def note(self, text: str) -> None:
        """A line for the trace, if someone wants to read it."""
        if self.trace is not None:
            self.trace.note(self.now_ms, text)

    # --- network

    def send(self, sender: int, target: int, message: Any, label: str) -> None:
        """Put a message on a link; liars see it at once."""
        if target not in self.nodes:
            if self.trace is not None:
                self.trace.sent(self.now_ms, label, target, message, "liar")
            self.liars.observe(sender, target, message)
            return
        if self.scenario.recode and not isinstance(message, FinalMessage | Answer | bytes):
            try:
                message = decode_message(*encode_message(message))
            except InvalidMessage:
                return  # a liar's: no frame says it
        fate = self.network.send(sender, target, message)
        if self.trace is not None:
            self.trace.sent(self.now_ms, label, target, message, fate)

    def _deliver(self, sender: int, target: int, message: Any) -> None:
        if isinstance(message, bytes):
            try:
                message = decode_message(message[0], message[1:])
            except InvalidMessage:
                return  # no message: the link is charged for it (C95)
        self.nodes[target].receive(sender, message)
        for twin in self.twins:
            if twin.member == target:
                twin.receive(sender, message)

    def lives(self) -> dict[int, int]:
        """Which process of each correct member runs now."""
        return {
            m: node.life
            for m, node in self.nodes.items()
            if node.driver is not None and self.checker.is_trusted(m)
        }

    def restart_later(self, node: Node, delay_ms: int) -> None:
        """A member's process is started again after a while."""
        self.after(delay_ms, node.start)

    def on_height(self, node: Node) -> None:
        """A member has a new final block; told for those who measure."""

    # --- what members find out about their world

    def work_after_ms(self, height: int) -> int | None:
        """When after a height's start there is something to put into it; the same at all."""
        draw = height * 7_919 % 1_000
        if draw < self.scenario.work_permille:
            return 0
        return 60 + draw % 90 if draw % 3 == 0 else None

    def commitment(self, node: Node, *, minimal: bool) -> bytes:
        """The peg commitment of a block that a member builds on its tip."""
        if self.peg is None:
            return b""
        return self.peg.plan(node.member, self._parent_commitment(node.disk.tip), minimal=minimal)

    def liar_commitment(self, parent: FinalBlock) -> bytes:
        """A liar repeats the commitment of the block before."""
        return self._parent_commitment(parent)

    @staticmethod
    def _parent_commitment(parent: FinalBlock) -> bytes:
        return block_fields(parent.data).commitment if parent.data else b""

    def judge(self, node: Node, question: CheckBlock) -> tuple[Verdict, int]:
        """A member's verdict now, and how long it takes (N8)."""
        tip = node.disk.tip
        parent_ms = block_fields(tip.data).time_ms if tip.data else -1
        if not is_valid_child(question.data, question.height, tip.hash, parent_ms):
            return Verdict.INVALID, 0
        block = block_fields(question.data)
        verdict = self._opinion(node, question, block.is_empty)
        wall_ms = self.now_ms + node.clock_offset_ms
        is_late = block.time_ms > max(wall_ms + FUTURE_LIMIT_MS, parent_ms + 1)  # V9
        if verdict is Verdict.ACCEPTABLE and is_late:
            verdict = Verdict.NOT_YET
        if verdict is Verdict.ACCEPTABLE and self.peg is not None:
            before = self._parent_commitment(tip)
            verdict = self.peg.judge(node.member, before, block.commitment)
        delays = [s.delay_ms for s in self.injector.slow if s.member == node.member]
        return verdict, max(delays, default=0) if not self.is_healed else 0

    def _opinion(self, node: Node, question: CheckBlock, is_minimal: bool) -> Verdict:
        for opinion in self.injector.opinions:
            mine = opinion.member == node.member and not self.is_healed
            if mine and not is_minimal and question.block_hash[0] % 4 == opinion.remainder:
                return Verdict.NOT_YET if opinion.not_yet else Verdict.REFUSED
        return Verdict.ACCEPTABLE

    # --- a run

    def run(self) -> None:
        """Phase one: anything goes. Phase two: healed, and progress is due (L1, L2).

        Raises:
            Violation: an invariant does not hold.
        """
        try:
            self.run_until(self.scenario.chaos_ms)
            self.heal()
            self.check_progress()
        except Violation as error:
            self.note(f"VIOLATION {error}")
            raise

    def heal(self) -> None:
        """Everything works from now on, but for liars, twins and those that are gone."""
        self.note("everything heals")
        self.is_healed = True
        self.network.heal()
        if self.peg is not None:
            self.peg.heal()
        for node in self.nodes.values():
            node.armed = None
            node.clock_offset_ms = 0
            node.disk.recover()
            if node.driver is None:
                self.restart_later(node, 5)

    def _is_live(self, node: Node) -> bool:
        return not node.is_gone and self.checker.is_trusted(node.member)

    def is_progress_due(self) -> bool:
        """Whether faults are within the bounds of L1, at every height from here on."""
        now = max((node.height for node in self.nodes.values()), default=1)
        ends = [epoch.from_height for epoch in self.plan.epochs[1:]]
        heights = [now, *(height for height in ends if height > now)]
        return all(self._is_bearable(height) for height in heights)

    def _is_bearable(self, height: int) -> bool:
        members = self.plan.at(height)
        byzantine = faulty = 0
        for m in self.plan.members(height):
            node = self.nodes.get(m)
            if not self.checker.is_trusted(m):
                byzantine += 1
            elif node is None or node.is_gone or node.written.look().is_abstaining or node.is_lost:
                faulty += 1
        bound = min(members.f_s, members.f_l)
        return byzantine <= bound and byzantine + faulty <= members.f_l

    def check_progress(self) -> None:
        """L1: all correct members finish some more heights, each within 8n rounds."""
        if not self.is_progress_due() or self.scenario.heights_after == 0:
            return
        nodes = [node for node in self.nodes.values() if self._is_live(node)]
        target = max(node.height for node in nodes) + self.scenario.heights_after
        drivers = [node.driver for node in nodes if node.driver is not None]
        rounds = [d.agreement.round for d in drivers if d.height]
        limit = max(rounds, default=0) + 8 * max(len(e.members) for e in self.plan.epochs)
        deadline = self.now_ms + 20_000 + limit * 3 * TIMES.timeout_cap_ms

        def has_ended() -> bool:
            return all(node.height >= target for node in nodes) or any(
                node.driver is not None
                and node.driver.height > 0
                and node.driver.agreement.round > limit
                for node in nodes
            )

        self.run_until(deadline, has_ended)
        heights = [node.height for node in nodes]
        if min(heights) < target:
            self.checker.fail("L1", f"heights {heights}, wanted {target} at {self.now_ms} ms")
        self._check_return([node for node in nodes if node.is_lost], target)

    def _check_return(self, lost: list[Node], since_height: int) -> None:
        """L2: who lost its journal votes again."""

        def votes_again() -> bool:
            return all(
                self.checker.position(node.member)[0] >= since_height
                or self.plan.index(node.height, node.member) is None
                for node in lost
            )

        if not votes_again():
            self.run_until(self.now_ms + L2_WAIT_MS, votes_again)
        if not votes_again():
            names = ", ".join(node.label for node in lost)
            self.checker.fail("L2", f"{names} do not vote again at {self.now_ms} ms")


def run_seed(seed: int, scenario: Scenario, **options: Any) -> Simulation:
    """Run one seed to its end; raises `Violation`."""
    simulation = Simulation(scenario, seed, **options)
    simulation.run()
    return simulation
