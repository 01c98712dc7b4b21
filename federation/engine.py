"""The shell around the core of agreement: one inbox, one owner of driver, journal and chain tip.

Everything that happens is put into the inbox; the engine takes one thing at a time, feeds the
driver, and obeys the effects in order. Slow work (building and judging blocks) runs in tasks that
post their answer. What comes from other members is verified in `federation.incoming` first.

Source: consensus:4, consensus:C40, consensus:C75, consensus:J6, consensus:J7, N8.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from federation.certificate_requests import CertificateRequests
from federation.certificates import CertificateArchive
from federation.consensus import effects as fx
from federation.consensus import events as ev
from federation.consensus.messages import (
    Evidence,
    EvidenceClass,
    GetCertificate,
    Message,
    encode_message,
)
from federation.consensus.records import (
    JournalRecord,
    Mode,
    Override,
    OverrideAction,
)
from federation.consensus.votes import BlockMessage, Certificate, VoteType
from federation.engine_parts import EngineParts
from federation.evidence_desk import EvidenceDesk
from federation.final_blocks import FRAME_OVERHEAD_BYTES, FinalBlocks
from federation.halt_notice import HaltNotice
from federation.inbox import Frame, Inbox, LinkNews, Work
from federation.incoming import IncomingMessages
from federation.own_signatures import OwnSignatures
from federation.round_log import RoundLog
from federation.sync import WINDOW_BLOCKS
from federation.sync_progress import Progress
from federation.timers import EngineTimers
from federation.wal import Verdict as JournalVerdict
from sidechain.errors import InvalidBlock, InvariantError
from sidechain.primitives.block import Block

TICK_MS: Final = 1_000
TURN_MS: Final = 4
"""How long the engine works through its inbox before the rest of the process has its turn."""
TURN_LEAST, TURN_MAX = 16, 256
"""Things done in a turn: where the processor is short, its time may pass without a chance to do
anything, while the links go on reading."""
DECISIONS_KEPT_MAX: Final = 10_000
ALARMS_KEPT_MAX: Final = 50
OWN_BLOCKS_LOOKED_AT: Final = 100
"""Newest final blocks in which own signatures are looked for at a start (C75)."""
BLOCK_OVERHEAD_BYTES: Final = 36 + FRAME_OVERHEAD_BYTES


class Halted(Exception):
    """The core ordered the process to stop (C75). `reason` is for the operator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Engine:
    """Owner of the driver; everything that touches it goes through the inbox."""

    def __init__(self, parts: EngineParts) -> None:
        self._parts = parts
        self._driver = parts.driver
        self._chain = parts.chain
        self._log = parts.log
        self._inbox = Inbox()
        self._timers = EngineTimers(
            parts.now_ms, fire=lambda event: self.post(lambda: self._feed(event)), post=self.post
        )
        self._requests = CertificateRequests(parts.network)
        self._evidence = EvidenceDesk(parts, self._requests, self.raise_alarm)
        self._finals = FinalBlocks(
            parts, feed=self._feed, post=self.post, accuse=self._evidence.accuse_signers
        )
        self.at_tip = self._finals.at_tip
        """Peers that have the own last final block (C83)."""
        self.halt_notice = HaltNotice(parts.chain.params)
        """Why this member is halted, for whoever asks."""
        self._signatures = OwnSignatures(parts, feed=self._feed, send=self._send)
        self._incoming: IncomingMessages | None = None
        self._archive = CertificateArchive(
            parts.journal,
            send=self._send,
            spawn=parts.spawn,
            now_ms=parts.now_ms,
            unix_time_s=parts.unix_time_s,
            log=parts.log,
        )
        self._work_announced = 0
        self._params_root = b""
        self._is_height_news = False
        self._rounds = RoundLog(parts.log)
        self._decided_rounds: OrderedDict[int, int] = OrderedDict()
        self.has_started = asyncio.Event()
        """Set once a height is in progress."""
        self.alarms: deque[str] = deque(maxlen=ALARMS_KEPT_MAX)

    # -- what other parts of the process call

    def post(self, act: Callable[[], None]) -> None:
        """Have the engine's task run `act` in its turn."""
        self._inbox.post(act)

    def post_later(self, after_ms: int, act: Callable[[], None]) -> None:
        """Have the engine's task run `act` in its turn after a time."""
        self._timers.post_later(after_ms, act)

    def on_frame(self, member: int, kind: int, body: bytes) -> None:
        """Take a frame from the network.

        Raises:
            asyncio.QueueFull: too many frames of this member wait; the network drops it.
        """
        self._inbox.put_frame(member, kind, body)

    def on_link(self, member: int, connected: bool) -> None:
        """Take news of a link."""
        self._inbox.put_link(member, connected)

    async def wait_for_room(self, member: int) -> None:
        """Return once more frames of a member may be read (C96)."""
        await self._inbox.wait_for_room(member)

    def signer_is_back(self, restore: Callable[[], None]) -> None:
        """Go on with a signer that did not answer for a while.

        Args:
            restore: takes the new connection in use; what it raises, but SignerUnreachable, ends
                the engine (R6).
        """
        self.post(lambda: self._signatures.go_on(restore))

    def work_available(self) -> None:
        """Something may be there to put into a block (C20a)."""
        self.post(self._offer_work)

    @property
    def is_behind(self) -> bool:
        """Whether a peer that is believed claims final blocks above ours."""
        return self._finals.lag_blocks > 0

    @property
    def is_catching_up(self) -> bool:
        """Whether so many final blocks are missing that news of each of them can wait."""
        return self._finals.lag_blocks > WINDOW_BLOCKS

    def catch_up(self) -> Progress | None:
        """How far a longer catch-up has come, None when there is none."""
        return self._finals.progress()

    def decided_round(self, height: int) -> int | None:
        """The round in which a block was decided, where this process knows it."""
        return self._decided_rounds.get(height)

    async def commit_of(self, height: int) -> Certificate | None:
        """The votes that decided a final block, own or asked of others; None: nobody has them.

        Source: N25.
        """
        request = GetCertificate(
            type=VoteType.PRECOMMIT,
            height=height,
            round=0,
            block_hash=self._chain.header(height).hash,
        )
        return await self._archive.find(request) or await self._requests.ask_all(request)

    def learn(self, records: tuple[JournalRecord, ...]) -> None:
        """Take in journal records of earlier processes: certificates, and blocks kept by order."""
        self._archive.note(records)
        self.halt_notice.note(records)
        for record in records:
            if isinstance(record, Override) and record.action is OverrideAction.UNHALT:
                self._finals.keep(record.block_hash)
        for certificate in self._archive.commits():
            self._learn_decision(certificate)

    # -- operator's commands

    async def unhalt(self, block_hash: bytes) -> bool:
        """Leave HALTED; the block is of the own chain and stands (C60, N13).

        Returns:
            False when the member is not halted.
        """

        def act() -> bool:
            if self._driver.mode is not Mode.HALTED:
                return False
            self._finals.keep(block_hash)
            self._feed(ev.OperatorUnhalted(now_ms=self._now(), block_hash=block_hash))
            return True

        return await self._in_turn(act)

    async def resume_at(self, height: int) -> bool:
        """Vote from a height on, by the operator's word alone (C76).

        Returns:
            False when the member is not waiting for a roll-call.
        """

        def act() -> bool:
            waiting = self._driver.mode in (Mode.ROLLCALL, Mode.ABSTAINING)
            if waiting or self._driver.is_abstaining and self._driver.mode is Mode.VOTING:
                self._feed(ev.OperatorResumed(now_ms=self._now(), height=height))
                return True
            return False

        return await self._in_turn(act)

    async def _in_turn(self, act: Callable[[], bool]) -> bool:
        """Run an act in the engine's turn; its failure ends the engine, not only the caller."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def run() -> None:
            answer = act()
            if not done.done():
                done.set_result(answer)

        self.post(run)
        return await done

    # -- running

    async def run(self, start: ev.StartMode, nonce: bytes) -> None:
        """Start the core and serve the inbox until cancelled.

        Args:
            nonce: 32 fresh random bytes for the roll-call.
        Raises:
            Halted: the core ordered an exit. JournalFailed, SignerFailed, InvariantError: nothing
                may be sent any more (C40).
        """
        self._incoming = IncomingMessages(
            self._parts,
            self._finals,
            self._requests,
            self._evidence,
            feed=self._feed,
            alarm=self.raise_alarm,
            nonce=nonce,
        )
        height = self._chain.tip_height
        if start is ev.StartMode.INTACT and self._finals.shows_lost_journal(OWN_BLOCKS_LOOKED_AT):
            self.raise_alarm("the own chain holds own signatures that the journal does not know")
            start = ev.StartMode.AMNESIAC
        self._feed(ev.Started(now_ms=self._now(), mode=start, nonce=nonce, tip_height=height))
        self._settle_doubt()
        self._feed(self._height_started())
        self.has_started.set()
        self._tick()
        while True:
            work = await self._inbox.get()
            done, turn_ends_ms = 0, self._now() + TURN_MS
            while True:  # what is sent in one turn leaves each link in one piece
                self._do(work)
                done += 1
                is_late = done >= TURN_LEAST and self._now() >= turn_ends_ms
                if is_late or done == TURN_MAX or (following := self._inbox.get_now()) is None:
                    break
                work = following
            self._finals.send_more()
            await asyncio.sleep(0)  # a queue that is not empty never gives way by itself

    def close(self) -> None:
        """Stop all timers; none is set any more."""
        self._timers.close()

    def raise_alarm(self, reason: str) -> None:
        """Show something that an operator has to see."""
        self.alarms.append(reason)
        self._log.error("alarm", alarm=True, reason=reason)

    def _now(self) -> int:
        return self._parts.now_ms()

    def _do(self, work: Work) -> None:
        incoming = self._incoming
        if incoming is None:
            raise InvariantError("the engine does not run")
        match work:
            case Frame():
                incoming.on_frame(work)
            case LinkNews(member, connected):
                if connected:
                    self._feed(ev.PeerConnected(now_ms=self._now(), peer=member))
                else:
                    incoming.forget(member)
                    self._feed(ev.PeerDisconnected(now_ms=self._now(), peer=member))
                self._parts.on_link(member, connected)
            case act:
                act()

    def _tick(self) -> None:
        self._finals.tick()
        self._evidence.challenges.tick()
        self._offer_work()
        self._parts.on_tick()
        self._timers.post_later(TICK_MS, self._tick)

    def _settle_doubt(self) -> None:
        """J6: once AMNESIA (and RESUME) are in the journal, the doubtful record is dealt with."""
        doubted = self._parts.journal.verdict is JournalVerdict.DOUBTFUL
        if doubted and self._driver.mode in (Mode.ROLLCALL, Mode.ABSTAINING):
            self._parts.journal.settle_doubt()

    # -- feeding and obeying

    def _feed(self, event: ev.Event) -> None:
        """Feed an event, obey all its effects, then feed what answers them at once."""
        waiting = deque([event])
        while waiting:
            answers: list[ev.Event] = []
            for effect in self._driver.handle(waiting.popleft()):
                answer = self._obey(effect)
                if answer is not None:
                    answers.append(answer)
            waiting.extendleft(reversed(answers))
        if self._driver.height:
            self._rounds.observe(self._driver.agreement, self._parts.network.connected)

    def _obey(self, effect: fx.Effect) -> ev.Event | None:
        parts = self._parts
        match effect:
            case fx.Persist(records):
                self._persist(records)
            case fx.PersistBlock(block_hash, data):
                parts.block_files.save(block_hash, data)
            case fx.SignVote():
                return self._signatures.sign_vote(effect)
            case fx.SignBlock():
                return self._signatures.sign_block(effect)
            case fx.Broadcast(message):
                if isinstance(message, Certificate):
                    self._learn_decision(message)
                if isinstance(message, Evidence) and message.kind is EvidenceClass.TWO_BLOCKS:
                    return None  # the desk tells of it once the headers prove it
                parts.network.broadcast(*encode_message(message))
            case fx.Send(to, message):
                self._send(to, message)
            case fx.SendFinal(to, from_height, count):
                self._finals.offer(to, from_height, count)
            case fx.SendAnswer():
                self._signatures.answer(effect)
            case fx.LookUpCertificate(to, request):
                self._archive.answer(to, request)
            case fx.CatchUp(peer, height):
                self._finals.peer_at(peer, height - 1)
                self._finals.ask()
            case fx.SetTimer(timer, after_ms):
                self._timers.set(timer, after_ms)
            case fx.BuildBlock():
                parts.spawn(self._build(effect))
            case fx.CheckBlock():
                parts.spawn(self._judge(effect))
            case fx.Finalize():
                block = parts.production.complete(effect.data, effect.signatures)
                return self._connect(block, may_wait=False)
            case fx.Connect():
                return self._connect(self._finals.in_hand(effect.block_hash), may_wait=True)
            case fx.ForgetBlocks(keep):
                gone = parts.block_files.hashes - set(keep)
                if gone:  # deleting may wait; nothing waits for it
                    self.post(lambda: parts.block_files.forget(gone))
            case fx.Accuse():
                self._evidence.accuse(effect)
            case fx.ModeChanged(mode, reason):
                self._change_mode(mode, reason)
            case fx.Alarm(reason):
                self.raise_alarm(reason)
            case fx.Exit(reason):
                raise Halted(reason)
        return None

    def _persist(self, records: tuple[JournalRecord, ...]) -> None:
        """Append and sync; the signer's own bound moves first, so that a crash leaves it lower."""
        self._chain.flush()  # N28: what is written now may rest on every final block
        self._signatures.move_bounds(records)
        for kind, body, sync in self._signatures.to_journal(records):
            self._parts.journal.append(kind, body, sync=sync)
        self._archive.note(records)
        self.halt_notice.note(records)

    def _send(self, to: int, message: Message) -> None:
        network = self._parts.network
        block_bytes = len(message.data) if isinstance(message, BlockMessage) else 0
        if block_bytes and network.room_bytes(to) < block_bytes + BLOCK_OVERHEAD_BYTES:
            return  # it would end the link; the block is asked for again (C53)
        network.send(to, *encode_message(message))

    def _change_mode(self, mode: Mode, reason: str) -> None:
        reason = self.halt_notice.change_mode(mode, reason)
        self._log.info("mode", mode=mode.name, reason=reason)
        self._signatures.change_mode(mode)
        self._parts.on_mode(mode, reason)

    # -- blocks

    async def _build(self, order: fx.BuildBlock) -> None:
        block = await self._parts.production.build(order)
        if block is None:
            return
        data = block.serialize()
        self.post(
            lambda: self._feed(
                ev.BlockBuilt(
                    now_ms=self._now(),
                    height=order.height,
                    round=order.round,
                    block_hash=block.hash,
                    data=data,
                )
            )
        )

    async def _judge(self, order: fx.CheckBlock) -> None:
        if order.height != self._chain.tip_height + 1:
            return
        judgement = await self._parts.production.judge(order)
        verdict, reason = judgement.verdict, judgement.reason
        is_bad = verdict is not ev.Verdict.ACCEPTABLE
        if is_bad and self._rounds.judged(order, verdict, reason) and verdict is ev.Verdict.INVALID:
            count = self._parts.production.distrust(order.block_hash)
            if count:
                self.raise_alarm(f"an own proposal with {count} transactions is invalid: {reason}")
        self.post(
            lambda: self._feed(
                ev.BlockChecked(
                    now_ms=self._now(),
                    height=order.height,
                    round=order.round,
                    block_hash=order.block_hash,
                    verdict=verdict,
                )
            )
        )

    def _connect(self, block: Block, *, may_wait: bool) -> ev.Event:
        try:
            self._finals.connect(block, may_wait=may_wait)
        except InvalidBlock as fault:
            raise InvariantError(f"a decided block does not connect: {fault}") from fault
        self._log.info(
            "block_final",
            height=block.header.height,
            block_hash=block.hash[::-1].hex(),
            transactions=len(block.transactions),
            round=self.decided_round(block.header.height),
        )
        self._parts.on_final(block)
        return self._height_started()

    def _height_started(self) -> ev.HeightStarted:
        parts = self._parts
        height = self._chain.tip_height + 1
        members, root = parts.production.member_set(), parts.production.params_root()
        if root != self._params_root:  # at start and at borders (C87)
            self._params_root = root
            self._log.info("parameters", height=height, params_root=root.hex(), n=members.n)
        parts.verifier.begin_height(members, root)
        parts.signer.begin_height(members, root)
        parts.production.begin_height()
        self._rounds.begin_height()
        self._evidence.begin_height(height)
        self._timers.drop_below(height)
        if parts.journal.needs_rotation:
            parts.journal.rotate(self._signatures.base(self._driver.base_record()))
            self._archive.drop_old(height)
        work_due = parts.production.is_work_due()
        self._work_announced = height if work_due else 0
        if not self._is_height_news:
            self._is_height_news = True
            self.post(self._after_height)
        return ev.HeightStarted(
            now_ms=self._now(),
            height=height,
            tip_hash=self._chain.tip_hash,
            members=members,
            params_root=root,
            work_due=work_due,
        )

    def _after_height(self) -> None:
        """Replay what came early, go on with blocks that were synced."""
        self._is_height_news = False
        if self._incoming is not None:
            self._incoming.begin_height()
            self._incoming.replay_early()
        self._finals.connect_held()

    def _offer_work(self) -> None:
        height = self._driver.height
        if self._work_announced == height or self._chain.tip_height + 1 != height:
            return
        if self._parts.production.is_work_due():
            self._work_announced = height
            self._feed(ev.WorkAvailable(now_ms=self._now(), height=height))

    def _learn_decision(self, certificate: Certificate) -> None:
        if certificate.type is VoteType.PRECOMMIT:
            self._decided_rounds[certificate.height] = certificate.round
            while len(self._decided_rounds) > DECISIONS_KEPT_MAX:
                self._decided_rounds.popitem(last=False)
