"""Faults put into effect.

Source: consensus:10, consensus:C70, consensus:J6.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from federation.sim.disk import DiskImage
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
    SlowVerdicts,
    Twin,
    Weather,
    Wipe,
)
from federation.sim.member import Node
from federation.sim.written import BLOCKS, GUARD, JOURNAL

if TYPE_CHECKING:
    from federation.sim.cluster import Simulation

AFTER_THE_HEAL: Final = (Lie, Gone)


class Injector:
    """Applies the faults of a scenario at their times."""

    def __init__(self, simulation: "Simulation") -> None:
        self.sim = simulation
        self.opinions: list[Opinion] = []
        self.slow: list[SlowVerdicts] = []
        self._images: dict[int, DiskImage] = {}
        for number, fault in enumerate(simulation.scenario.faults):
            simulation.after(fault.at_ms, self._begin, number, fault)
            if isinstance(fault, Rollback):
                simulation.after(min(fault.saved_ms, fault.at_ms), self._save, number, fault)

    def _save(self, number: int, fault: Rollback) -> None:
        node = self.sim.nodes.get(fault.member)
        if node is not None:
            self._images[number] = node.disk.image()

    def _begin(self, number: int, fault: Fault) -> None:
        if self.sim.is_healed and not isinstance(fault, AFTER_THE_HEAL):
            return
        if self.sim.trace is not None:
            self.sim.note(f"fault {fault}")
        match fault:
            case Weather() | Cut() | Clog():
                self.sim.network.begin(fault)
                self._at_end(fault, self.sim.network.end)
            case Lie(member=member, kind=kind):
                self.sim.liars.allow(member, kind)
                self._at_end(fault, lambda lie: self.sim.liars.forbid(lie.member, lie.kind))
            case Opinion():
                self.opinions.append(fault)
                self._at_end(fault, self.opinions.remove)
            case SlowVerdicts():
                self.slow.append(fault)
                self._at_end(fault, self.slow.remove)
            case Reorganisation() | Mining() | BitcoindDown():
                self._on_bitcoin(fault)
            case PowerCut(down_ms=down_ms):
                for node in self.sim.nodes.values():
                    self._power_off(node, down_ms)
            case _:
                node_ = self.sim.nodes.get(fault.member)
                if node_ is not None and not node_.is_gone:
                    self._strike(number, fault, node_)

    def _at_end(self, fault: Any, act: Callable[[Any], None]) -> None:
        self.sim.after(max(fault.until_ms - self.sim.now_ms, 0), act, fault)

    def _on_bitcoin(self, fault: Reorganisation | Mining | BitcoindDown) -> None:
        peg = self.sim.peg
        if peg is None:
            return
        match fault:
            case Reorganisation(depth=depth):
                peg.reorganise(depth)
            case Mining(count=count):
                peg.mine(count)
            case BitcoindDown(member=member):
                peg.silence(member)
                self._at_end(fault, lambda down: peg.listen(down.member))

    def _power_off(self, node: Node, down_ms: int) -> None:
        if node.is_gone:
            return
        node.end()
        node.disk.lose_power(part=0, zeros=False)
        self.sim.restart_later(node, down_ms)

    def _strike(self, number: int, fault: Fault, node: Node) -> None:
        """A fault of one member."""
        match fault:
            case Crash():
                if node.driver is not None:
                    node.arm(fault)
            case Gone():
                node.end()
                node.is_gone = True
            case DiskFault(kind=kind):
                node.disk.fall_ill(kind)
                self._at_end(fault, lambda _: node.disk.recover())
            case Wipe():
                self._wipe(fault, node)
            case Rollback():
                self._roll_back(number, fault, node)
            case BitFlip(bit=bit, down_ms=down_ms):
                self._power_off(node, down_ms)
                node.disk.flip_bit(JOURNAL, bit)
                node.is_lost = True
            case ClockJump(offset_ms=offset_ms):
                node.clock_offset_ms = offset_ms
            case Twin(member=member):
                self.sim.checker.suspects.add(member)
                twin = Node(self.sim, member, node.disk.clone())
                self.sim.twins.append(twin)
                twin.start()
            case _:
                pass

    def _wipe(self, fault: Wipe, node: Node) -> None:
        self._power_off(node, fault.down_ms)
        node.disk.wipe(JOURNAL, BLOCKS, GUARD)
        if fault.chain_too:
            node.disk.chain.clear()
        node.is_lost = True
        self.sim.checker.on_loss(node.member)

    def _roll_back(self, number: int, fault: Rollback, node: Node) -> None:
        image = self._images.get(number)
        if image is None or node.life == 0:
            return
        self._power_off(node, fault.down_ms)
        keep = frozenset({GUARD}) if fault.keeps_guard else frozenset()
        node.disk.put_back(image, keep=keep, chain_too=fault.chain_too)
        node.is_lost = True
        if fault.told:
            node.is_told = True
        elif not fault.keeps_guard:
            sim, member = self.sim, node.member
            sim.checker.suspects.add(member)
            sim.witness.on_returned(member, sim.lives(), node.written.look())
        self.sim.checker.forget_lock(node.member)
