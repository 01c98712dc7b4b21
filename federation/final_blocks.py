"""Final blocks of others: which to ask for, which to believe, which prove a broken federation.

Source: consensus:C38, consensus:C51.1, consensus:C54, consensus:C60.
"""

from collections.abc import Callable
from typing import Final

from federation.consensus import events as ev
from federation.consensus.encoding import FrameKind
from federation.consensus.messages import GetFinal, encode_message
from federation.peers import EventLog, PeerNetwork
from federation.production import BlockProduction
from federation.sync import SyncPlanner
from sidechain.chain import Chain
from sidechain.errors import Invalid, InvalidBlock, InvariantError
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.encoding import Reader
from sidechain.script.block_signature import verify_block_signature

FINALS_AT_ONCE: Final = 16
"""Final blocks connected before other events get their turn."""
FRAME_OVERHEAD_BYTES: Final = 5


class FinalBlocks:
    """Catch-up of one member; runs in the engine's task.

    Args:
        feed: gives an event to the core and obeys what it answers.
        post: runs a callable in the engine's task later.
    """

    def __init__(
        self,
        *,
        chain: Chain,
        network: PeerNetwork,
        production: BlockProduction,
        log: EventLog,
        now_ms: Callable[[], int],
        feed: Callable[[ev.Event], None],
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        self._chain = chain
        self._network = network
        self._production = production
        self._log = log
        self._now = now_ms
        self._feed = feed
        self._post = post
        self._planner = SyncPlanner()
        self._in_hand: Block | None = None

    @property
    def is_behind(self) -> bool:
        """Whether a peer that is believed claims final blocks above ours."""
        return self._planner.is_behind(self._chain.tip_height)

    def peer_at(self, member: int, tip_height: int) -> None:
        """A peer says that this is its last final block."""
        self._planner.peer_at(member, tip_height)

    def peer_gone(self, member: int) -> None:
        """The link to a peer is down."""
        self._planner.peer_gone(member)

    def in_hand(self, block_hash: bytes) -> Block:
        """The verified block whose `FinalVerified` is being fed.

        Raises:
            InvariantError: it is another one.
        """
        if self._in_hand is None or self._in_hand.hash != block_hash:
            raise InvariantError("the core connects a block that was not offered")
        return self._in_hand

    def send(self, to: int, from_height: int, count: int) -> None:
        """Send own final blocks, as many as the peer's queue takes (C51.1, C54)."""
        last = min(from_height + count - 1, self._chain.tip_height)
        for height in range(max(from_height, 1), last + 1):
            data = self._chain.block_bytes(height)
            if self._network.room_bytes(to) < len(data) + FRAME_OVERHEAD_BYTES:
                return
            self._network.send(to, FrameKind.FINAL, data)

    def on_frame(self, member: int, data: bytes) -> None:
        """Take a FINAL frame.

        Raises:
            Invalid: these bytes do not begin with a header.
        """
        header = BlockHeader.read(Reader(data), self._chain.params)
        if header.height <= self._chain.tip_height:
            self._look_for_conflict(header)
            return
        self._planner.received(member, header.height, data, self._now())
        self.connect_held()

    def connect_held(self) -> None:
        """Offer the core what is held in order, then ask for more."""
        for _ in range(FINALS_AT_ONCE):
            found = self._planner.next_block(self._chain.tip_height)
            if found is None:
                break
            tip = self._chain.tip_height
            self._take_final(*found)
            if self._chain.tip_height == tip:
                break
        else:
            self._post(self.connect_held)
        self.ask()

    def _take_final(self, member: int, data: bytes) -> None:
        """Verify a block that may extend the tip and offer it to the core (C38, C54)."""
        try:
            block = Block.decode(data, self._chain.params)
            if block.header.prev_hash != self._chain.tip_hash:
                raise InvalidBlock("prev-blk-not-found")
            verify_block_signature(block.header, self._chain.params)
            fault = self._production.objective_fault(block.with_signblock_witness(()))
            if fault:
                raise InvalidBlock("invalid-final-block", fault)
        except Invalid as fault:
            self._log.warning("bad_final_block", member=member, reason=str(fault))
            self._planner.blame(member, self._now())
            self._network.drop(member, "invalid final block")
            return
        self._in_hand = block
        self._feed(
            ev.FinalVerified(
                now_ms=self._now(),
                height=block.header.height,
                block_hash=block.hash,
                header=block.header.serialize(),
                signatures=self._production.signatures_of(block.header),
            )
        )
        self._in_hand = None

    def _look_for_conflict(self, header: BlockHeader) -> None:
        """A k-signed header beside our chain stops everything (C60)."""
        ours = self._chain.header(header.height)
        if header.height < 1 or header.hash == ours.hash or header.prev_hash != ours.prev_hash:
            return
        if header.current.signblockscript != ours.current.signblockscript:
            return
        try:
            verify_block_signature(header, self._chain.params)
        except InvalidBlock:
            return
        self._feed(
            ev.ConflictFound(now_ms=self._now(), first=ours.serialize(), second=header.serialize())
        )

    def ask(self) -> None:
        """Send the requests that are due; call it every second too."""
        for request in self._planner.plan(self._chain.tip_height, self._now()):
            message = GetFinal(request.from_height, request.count)
            self._network.send(request.peer, *encode_message(message))
        self._network.expected = self._planner.asked
