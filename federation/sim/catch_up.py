"""Catch-up of a simulated member: the real planner, and the checks before the core sees a block.

Source: consensus:C38, consensus:C51.1, consensus:C54, consensus:C60.
"""

from typing import TYPE_CHECKING

from federation.consensus import events as ev
from federation.consensus.messages import GetFinal
from federation.consensus.records import Mode
from federation.sim.final import FinalMessage, decode_final, encode_final, is_signed_final
from federation.sim.world import FinalBlock, block_fields, is_valid_child
from federation.sync import SyncPlanner

if TYPE_CHECKING:
    from federation.sim.member import Node


class CatchUp:
    """Final blocks of others, for one process of a member."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._planner = SyncPlanner()
        self._is_connecting = False

    def peer_at(self, peer: int, tip_height: int) -> None:
        """A peer says that this is its last final block."""
        self._planner.peer_at(peer, tip_height)
        if tip_height > self._node.height:
            self.ask()

    def ask(self) -> None:
        """Send the requests that are due."""
        node = self._node
        for request in self._planner.plan(node.disk.tip_height, node.sim.now_ms):
            message = GetFinal(request.from_height, request.count)
            node.sim.send(node.member, request.peer, message, node.label)

    def on_final(self, sender: int, message: FinalMessage) -> None:
        """Take a FINAL frame."""
        node = self._node
        block = decode_final(message.payload)
        if block is None or node.driver is None or node.driver.mode is Mode.HALTED:
            return
        height = block_fields(block.data).height
        if height <= node.disk.tip_height:
            self._look_for_conflict(height, block)
        elif self._planner.received(sender, height, message.payload, node.sim.now_ms):
            self.connect_held()

    def connect_held(self) -> None:
        """Offer the core what is held in order, then ask for more."""
        if self._is_connecting:
            return
        self._is_connecting = True
        node = self._node
        while node.driver is not None:
            tip = node.disk.tip_height
            found = self._planner.next_block(tip)
            if found is None:
                break
            self._take(*found)
            if node.disk.tip_height == tip:
                break
        self._is_connecting = False
        self.ask()

    def _take(self, sender: int, payload: bytes) -> None:
        node = self._node
        block = decode_final(payload)
        if block is None or not is_signed_final(block, node.sim.plan, node.sim.scheme):
            self._planner.blame(sender, node.sim.now_ms)
        elif is_valid_child(block.data, node.height, node.disk.tip.hash):
            node.offer_final(block)

    def _look_for_conflict(self, height: int, block: FinalBlock) -> None:
        """C60: a k-signed block beside our chain stops everything."""
        node = self._node
        if height < 1:
            return
        ours = node.disk.chain[height - 1]
        if ours.hash != block.hash and is_signed_final(block, node.sim.plan, node.sim.scheme):
            first, second = encode_final(ours), encode_final(block)
            node.feed(ev.ConflictFound(now_ms=node.sim.now_ms, first=first, second=second))
