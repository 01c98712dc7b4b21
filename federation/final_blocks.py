"""Final blocks of others: which to ask for, which to believe, which prove a broken federation.

Source: consensus:C38, consensus:C51.1, consensus:C54, consensus:C60.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from federation.consensus import events as ev
from federation.consensus.encoding import FrameKind
from federation.consensus.messages import GetFinal, encode_message
from federation.consensus.records import Mode
from federation.consensus.votes import BlockSignature
from federation.engine_parts import EngineParts
from federation.header_signatures import verified_signatures
from federation.sync import SyncPlanner
from federation.sync_progress import Progress, SyncProgress
from sidechain.errors import Invalid, InvalidBlock, InvariantError
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.encoding import Reader
from sidechain.script.block_signature import verify_block_signature

SLICE_MS: Final = 50
"""How long final blocks are connected in one go; other events then get their turn."""
FRAME_OVERHEAD_BYTES: Final = 5
TRACE_PAUSE_MS: Final = 500
BLOCKS_PER_SYNC: Final = 64
"""Final blocks of others that may wait for one sync of the disk (N28)."""


@dataclass(slots=True, kw_only=True)
class _Owed:
    """Heights still to be sent to a peer; `first_bytes` is 0 while the first was not read."""

    first: int
    last: int
    first_bytes: int


class FinalBlocks:
    """Catch-up of one member; runs in the engine's task.

    Args:
        feed: gives an event to the core and obeys what it answers.
        post: runs a callable in the engine's task later.
        accuse: convicts whoever signed two headers of one height.
    """

    def __init__(
        self,
        parts: EngineParts,
        *,
        feed: Callable[[ev.Event], None],
        post: Callable[[Callable[[], None]], None],
        accuse: Callable[[BlockHeader, BlockHeader], bool],
    ) -> None:
        self._chain = parts.chain
        self._driver = parts.driver
        self._network = parts.network
        self._production = parts.production
        self._log = parts.log
        self._now = parts.now_ms
        self._feed = feed
        self._post = post
        self._accuse = accuse
        self._planner = SyncPlanner()
        self._in_hand: Block | None = None
        self._owed: dict[int, _Owed] = {}
        self._is_posted = False
        self._traced_ms: int | None = None
        self._unsynced = 0
        self._progress = SyncProgress()
        self._kept: set[bytes] = set()

    # -- what others have

    @property
    def lag_blocks(self) -> int:
        """How many final blocks above ours a peer that is believed claims."""
        return self._planner.lag_blocks(self._chain.tip_height)

    def progress(self) -> Progress | None:
        """How far a longer catch-up has come, None when there is none."""
        return self._progress.look(self._chain.tip_height, self.lag_blocks, self._now())

    def tick(self) -> None:
        """What is due every second: blocks on disk, requests, a word on how far we are.

        Raises:
            Unavailable: the disk refuses.
        """
        self._chain.flush()
        self._unsynced = 0
        self.ask()
        news = self._progress.to_tell(self._chain.tip_height, self.lag_blocks, self._now())
        if news is not None:
            self._log.info("catching_up" if news.eta_s != 0 else "caught_up", **news.to_json())

    def at_tip(self) -> frozenset[int]:
        """Peers that have the own last final block, or more."""
        return self._planner.at_height(self._chain.tip_height)

    def peer_at(self, member: int, tip_height: int) -> None:
        """A peer says that this is its last final block."""
        self._planner.peer_at(member, tip_height)

    def peer_gone(self, member: int) -> None:
        """The link to a peer is down."""
        self._owed.pop(member, None)
        self._planner.peer_gone(member)

    def keep(self, block_hash: bytes) -> None:
        """The operator decided for this block of our chain: conflicts with it stop nothing more.

        Source: N13.
        """
        self._kept.add(block_hash)

    # -- giving

    def send(self, to: int, from_height: int, count: int) -> None:
        """Send the final blocks a peer asked for, as its queue takes them (C54)."""
        last = min(from_height + count - 1, self._chain.tip_height)
        if last >= max(from_height, 1):
            self._owed[to] = _Owed(first=max(from_height, 1), last=last, first_bytes=0)
            self._send_owed(to)

    def offer(self, to: int, from_height: int, count: int) -> None:
        """Send final blocks to a peer that is behind and may not know it (C51.1)."""
        if to not in self._owed:
            self.send(to, from_height, count)

    def send_more(self) -> None:
        """Go on with what did not fit into peers' queues."""
        for member in list(self._owed):
            self._send_owed(member)

    def _send_owed(self, to: int) -> None:
        owed = self._owed[to]
        if to not in self._network.connected:
            del self._owed[to]
            return
        while self._network.room_bytes(to) >= owed.first_bytes:
            data = self._chain.block_bytes(owed.first)
            owed.first_bytes = len(data) + FRAME_OVERHEAD_BYTES
            if self._network.room_bytes(to) < owed.first_bytes:
                return
            self._network.send(to, FrameKind.FINAL, data)
            owed.first, owed.first_bytes = owed.first + 1, 0
            if owed.first > owed.last:
                del self._owed[to]
                return

    # -- taking

    def in_hand(self, block_hash: bytes) -> Block:
        """The verified block whose `FinalVerified` is being fed.

        Raises:
            InvariantError: it is another one.
        """
        if self._in_hand is None or self._in_hand.hash != block_hash:
            raise InvariantError("the core connects a block that was not offered")
        return self._in_hand

    def connect(self, block: Block, *, may_wait: bool) -> None:
        """Connect a final block to the chain.

        Args:
            may_wait: it came from others; while they have more, the disk is not waited for (N28).
        Raises:
            InvalidBlock: it does not connect. Unavailable: the disk refuses.
        """
        is_newest = not self._planner.lag_blocks(block.header.height)
        sync = not may_wait or is_newest or self._unsynced + 1 >= BLOCKS_PER_SYNC
        self._chain.connect(block, sync=sync)
        self._unsynced = 0 if sync else self._unsynced + 1

    def on_frame(self, member: int, data: bytes) -> None:
        """Take a FINAL frame.

        Raises:
            Invalid: these bytes do not begin with a header.
        """
        header = BlockHeader.read(Reader(data), self._chain.params)
        if self._driver.mode is Mode.HALTED:
            return  # nothing is connected, and one proof of the break is enough
        if header.height <= self._chain.tip_height:
            self._look_for_conflict(member, header)
        elif self._planner.received(member, header.height, data, self._now()):
            self.connect_held()

    def connect_held(self) -> None:
        """Offer the core what is held in order, for a while, then ask for more."""
        self._is_posted = False
        give_way_at_ms = self._now() + SLICE_MS
        while True:
            tip = self._chain.tip_height
            found = self._planner.next_block(tip)
            if found is None:
                break
            self._take_final(*found)
            if self._chain.tip_height == tip:
                break
            if self._now() >= give_way_at_ms:
                self._connect_later()
                break
        self.ask()

    def ask(self) -> None:
        """Send the requests that are due; call it every second too."""
        for request in self._planner.plan(self._chain.tip_height, self._now()):
            self._request(request.peer, request.from_height, request.count)
        self._network.expected = self._planner.asked

    def _request(self, member: int, from_height: int, count: int) -> None:
        self._network.send(member, *encode_message(GetFinal(from_height, count)))

    def _connect_later(self) -> None:
        if not self._is_posted:
            self._is_posted = True
            self._post(self.connect_held)

    def _take_final(self, member: int, data: bytes) -> None:
        """Verify a block that may extend the tip and offer it to the core (C38, C54).

        Never the checks that need a view of Bitcoin or a clock: k members made them (N10).
        """
        try:
            block = self._production.decode_final(data)
            signatures = self._check_signed(block.header)
        except Invalid as fault:
            self._lied(member, str(fault))
            return
        if block.header.prev_hash != self._chain.tip_hash:
            self._on_another_chain(member, block.header)
            return
        fault_text = self._production.objective_fault(block.with_signblock_witness(()))
        if fault_text:
            self._cannot_follow(block.header, fault_text)
            return
        self._in_hand = block
        self._feed(
            ev.FinalVerified(
                now_ms=self._now(),
                height=block.header.height,
                block_hash=block.hash,
                header=block.header.serialize(),
                signatures=signatures,
            )
        )
        self._in_hand = None

    def _check_signed(self, header: BlockHeader) -> tuple[BlockSignature, ...]:
        """Raise InvalidBlock unless k members of the set in force signed; which ones."""
        if header.current.signblockscript != self._chain.full_current().signblockscript:
            raise InvalidBlock("block-proof-invalid", "another signblockscript")
        return verified_signatures(header, self._production.member_set(), self._chain.params)

    def _lied(self, member: int, reason: str) -> None:
        self._log.warning("bad_final_block", member=member, reason=reason)
        self._planner.blame(member, self._now())
        self._network.charge_signatures(member, failed=1)
        self._network.drop(member, "invalid final block")

    def _cannot_follow(self, header: BlockHeader, fault: str) -> None:
        """k members signed what our rules refuse: never skip it, never sign beside it (C35)."""
        tip = self._chain.header(self._chain.tip_height)
        self._feed(
            ev.ConflictFound(
                now_ms=self._now(),
                first=tip.serialize(),
                second=header.serialize(),
                reason=f"k members signed a block that is invalid here: {fault}",
            )
        )

    # -- the own past

    def shows_lost_journal(self, blocks: int) -> bool:
        """Whether the newest of the own blocks hold an own signature beyond the journal (C75).

        The chain is kept apart from the journal, so one can be restored without the other.
        """
        image, own = self._driver.pen.image, self._driver.vote_key
        tip_height = self._chain.tip_height
        lowest = max(image.height, image.vote_from, tip_height - blocks + 1, 1)
        for height in range(lowest, tip_height + 1):
            header = self._chain.header(height)
            me = self._production.member_set_of(header).index_of(own)
            signatures = () if me is None else self._production.signatures_of(header)
            if any(found.member == me and not image.has(found) for found in signatures):
                return True
        return False

    # -- conflicts

    def _look_for_conflict(self, member: int, header: BlockHeader) -> None:
        """A k-signed header beside our chain stops everything (C60)."""
        if header.height < 1:
            return
        ours = self._chain.header(header.height)
        if header.hash == ours.hash or ours.hash in self._kept:
            return
        try:
            if header.current.signblockscript != ours.current.signblockscript:
                raise InvalidBlock("block-proof-invalid", "another signblockscript")
            verify_block_signature(header, self._chain.params)
        except InvalidBlock as fault:
            self._lied(member, f"height {header.height}: {fault}")
            return
        if header.prev_hash != ours.prev_hash:
            self._on_another_chain(member, header)
            return
        self._feed(
            ev.ConflictFound(now_ms=self._now(), first=ours.serialize(), second=header.serialize())
        )
        self._accuse(ours, header)

    def _on_another_chain(self, member: int, header: BlockHeader) -> None:
        """A k-signed block on a parent that is not ours: ask for that parent, down to the fork."""
        now_ms = self._now()
        if self._traced_ms is not None and now_ms - self._traced_ms < TRACE_PAUSE_MS:
            return
        self._traced_ms = now_ms
        self._log.error(
            "other_chain",
            alarm=True,
            member=member,
            height=header.height,
            block_hash=header.hash[::-1].hex(),
        )
        self._request(member, header.height - 1, 1)
