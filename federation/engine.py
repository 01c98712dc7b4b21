"""The shell around the core of agreement: one inbox, one owner of driver, journal and chain tip.

Everything that happens is posted to the inbox; the engine takes one thing at a time, feeds the
driver, and obeys the effects in order. Slow work (building and judging blocks) runs in tasks that
post their answer. What the shell must verify before the core sees it is verified here.

Source: consensus:4, consensus:C40, consensus:C54, the contract in `consensus.effects`, N8, N15.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from federation.consensus import effects as fx
from federation.consensus import events as ev
from federation.consensus.driver import Driver
from federation.consensus.early import EarlyMessages
from federation.consensus.encoding import FrameKind, InvalidMessage
from federation.consensus.evidence import check_evidence
from federation.consensus.messages import (
    Answer,
    Evidence,
    GetCertificate,
    GetFinal,
    Message,
    RollCall,
    Status,
    decode_message,
    encode_message,
)
from federation.consensus.records import (
    BlockSigRecord,
    Mode,
    Seen,
    VoteRecord,
    decode_record,
    encode_record,
)
from federation.consensus.votes import (
    BlockMessage,
    BlockSignature,
    Certificate,
    Proposal,
    Vote,
    VoteType,
)
from federation.evidence_store import EvidenceStore
from federation.final_blocks import FinalBlocks
from federation.peers import EventLog, PeerNetwork
from federation.production import BlockProduction
from federation.signer import Signer, SignerRefused
from federation.verification import MessageVerifier
from federation.wal import BlockFiles, Journal
from sidechain.chain import Chain
from sidechain.errors import Invalid, InvalidBlock, InvariantError
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.encoding import Reader
from sidechain.script.block_signature import verify_block_signature

INBOX_FRAMES_MAX: Final = 20_000
"""Frames waiting in the inbox; above it the sending peer is dropped (C97)."""
TICK_MS: Final = 1_000
DECISIONS_KEPT_MAX: Final = 10_000
ROLLCALL_PAUSE_MS: Final = 5_000
"""ROLLCALL frames of one peer are answered at most this often (C98)."""

FrameHandler = Callable[[int, int, bytes], None]


class Halted(Exception):
    """The core ordered the process to stop (C75). `reason` is for the operator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineParts:
    """What the engine works with; it owns none of their life times.

    `on_final(block)` is called once for every block after it was connected; `on_mode` after every
    change of mode; `other_frames` gets every frame that is not agreement's.
    """

    me: int
    chain: Chain
    driver: Driver
    journal: Journal
    block_files: BlockFiles
    signer: Signer
    network: PeerNetwork
    verifier: MessageVerifier
    production: BlockProduction
    evidence: EvidenceStore
    log: EventLog
    now_ms: Callable[[], int]
    spawn: Callable[[Coroutine[Any, Any, None]], object]
    on_final: Callable[[Block], None]
    on_mode: Callable[[Mode, str], None]
    other_frames: FrameHandler


class Engine:
    """Owner of the driver; everything that touches it goes through `post`."""

    def __init__(self, parts: EngineParts) -> None:
        self._parts = parts
        self._driver = parts.driver
        self._chain = parts.chain
        self._log = parts.log
        self._inbox: asyncio.Queue[Callable[[], None]] = asyncio.Queue()
        self._frames_waiting = 0
        self._timers: dict[ev.Timer, asyncio.TimerHandle] = {}
        self._early = EarlyMessages()
        self._finals = FinalBlocks(
            chain=parts.chain,
            network=parts.network,
            production=parts.production,
            log=parts.log,
            now_ms=parts.now_ms,
            feed=self._feed,
            post=self.post,
        )
        self._nonce = b""
        self._rollcalls_ms: dict[int, int] = {}
        self._work_announced = 0
        self._decided_rounds: OrderedDict[int, int] = OrderedDict()
        self.alarms: deque[str] = deque(maxlen=50)

    # -- what other parts of the process call

    def post(self, act: Callable[[], None]) -> None:
        """Have the engine's task run `act` in its turn."""
        self._inbox.put_nowait(act)

    def on_frame(self, member: int, kind: int, body: bytes) -> None:
        """Take a frame from the network.

        Raises:
            asyncio.QueueFull: too many frames wait; the network drops the peer.
        """
        if self._frames_waiting >= INBOX_FRAMES_MAX:
            raise asyncio.QueueFull
        self._frames_waiting += 1
        self.post(lambda: self._handle_frame(member, kind, body))

    def on_link(self, member: int, connected: bool) -> None:
        """Take news of a link."""
        self.post(lambda: self._handle_link(member, connected))

    def work_available(self) -> None:
        """Something may be there to put into a block (C20a)."""
        self.post(self._offer_work)

    @property
    def is_behind(self) -> bool:
        """Whether a peer that is believed claims final blocks above ours."""
        return self._finals.is_behind

    def decided_round(self, height: int) -> int | None:
        """The round in which a block was decided, where this process knows it."""
        return self._decided_rounds.get(height)

    def learn_decision(self, certificate: Certificate) -> None:
        """Remember the round of a COMMIT certificate, from the core or from the journal."""
        if certificate.type is VoteType.PRECOMMIT:
            self._decided_rounds[certificate.height] = certificate.round
            while len(self._decided_rounds) > DECISIONS_KEPT_MAX:
                self._decided_rounds.popitem(last=False)

    # -- running

    async def run(self, start: ev.StartMode, nonce: bytes) -> None:
        """Start the core and serve the inbox until cancelled.

        Args:
            nonce: 32 fresh random bytes for the roll-call.
        Raises:
            Halted: the core ordered an exit. JournalFailed, SignerFailed, InvariantError: nothing
                may be sent any more (C40).
        """
        self._nonce = nonce
        height = self._chain.tip_height
        self._feed(ev.Started(now_ms=self._now(), mode=start, nonce=nonce, tip_height=height))
        self._feed(self._height_started())
        self._after_height()
        self._tick()
        while True:
            act = await self._inbox.get()
            act()
            await asyncio.sleep(0)  # a queue that is not empty never gives way by itself

    def close(self) -> None:
        """Stop all timers."""
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()

    def _now(self) -> int:
        return self._parts.now_ms()

    def _tick(self) -> None:
        self._finals.ask()
        self._offer_work()
        asyncio.get_running_loop().call_later(TICK_MS / 1_000, self.post, self._tick)

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

    def _obey(self, effect: fx.Effect) -> ev.Event | None:
        parts = self._parts
        match effect:
            case fx.Persist(records):
                self._persist(records)
            case fx.PersistBlock(block_hash, data):
                parts.block_files.save(block_hash, data)
            case fx.SignVote():
                return self._sign_vote(effect)
            case fx.SignBlock():
                return self._sign_block(effect)
            case fx.Broadcast(message):
                if isinstance(message, Certificate):
                    self.learn_decision(message)
                parts.network.broadcast(*encode_message(message))
            case fx.Send(to, message):
                parts.network.send(to, *encode_message(message))
            case fx.SendFinal(to, from_height, count):
                self._finals.send(to, from_height, count)
            case fx.SendAnswer():
                self._send_answer(effect)
            case fx.LookUpCertificate(to, request):
                self._look_up_certificate(to, request)
            case fx.CatchUp(peer, height):
                self._finals.peer_at(peer, height - 1)
                self._finals.ask()
            case fx.SetTimer(timer, after_ms):
                self._set_timer(timer, after_ms)
            case fx.BuildBlock():
                parts.spawn(self._build(effect))
            case fx.CheckBlock():
                parts.spawn(self._judge(effect))
            case fx.Finalize():
                return self._connect(parts.production.complete(effect.data, effect.signatures))
            case fx.Connect():
                return self._connect(self._finals.in_hand(effect.block_hash))
            case fx.ForgetBlocks(keep):
                parts.block_files.keep_only(keep)
            case fx.Accuse(member, height, evidence):
                parts.evidence.add(member, height, evidence)
            case fx.ModeChanged(mode, reason):
                self._change_mode(mode, reason)
            case fx.Alarm(reason):
                self.alarms.append(reason)
                self._log.error("alarm", alarm=True, reason=reason)
            case fx.Exit(reason):
                raise Halted(reason)
        return None

    def _persist(self, records: tuple[Any, ...]) -> None:
        encoded = [encode_record(record) for record in records]
        last_synced = max((i for i, r in enumerate(records) if not isinstance(r, Seen)), default=-1)
        for i, (kind, body) in enumerate(encoded):
            self._parts.journal.append(kind, body, sync=i == last_synced)

    def _sign_vote(self, order: fx.SignVote) -> ev.Event | None:
        try:
            signed = self._parts.signer.sign_vote(order.vote, order.certificate)
        except SignerRefused:
            if order.again:
                return None  # the guard knows only its newest position
            raise
        return ev.VoteSigned(now_ms=self._now(), vote=signed)

    def _sign_block(self, order: fx.SignBlock) -> ev.Event | None:
        try:
            signature = self._parts.signer.sign_block_hash(
                order.height, order.block_hash, order.certificate
            )
        except SignerRefused:
            if order.again:
                return None
            raise
        return ev.BlockSigned(now_ms=self._now(), signature=signature)

    def _set_timer(self, timer: ev.Timer, after_ms: int) -> None:
        old = self._timers.pop(timer, None)
        if old is not None:
            old.cancel()
        due_ms = self._now() + after_ms

        def fire() -> None:
            self._timers.pop(timer, None)
            self.post(
                lambda: self._feed(ev.TimerFired(now_ms=max(due_ms, self._now()), timer=timer))
            )

        loop = asyncio.get_running_loop()
        self._timers[timer] = loop.call_later(after_ms / 1_000, fire)

    def _change_mode(self, mode: Mode, reason: str) -> None:
        self._log.info("mode", mode=mode.name, reason=reason)
        if mode is Mode.HALTED:
            self._parts.signer.halt()
        self._parts.on_mode(mode, reason)

    # -- blocks

    async def _build(self, order: fx.BuildBlock) -> None:
        block = await self._parts.production.build(order)
        if block is None:
            return
        self.post(
            lambda: self._feed(
                ev.BlockBuilt(
                    now_ms=self._now(),
                    height=order.height,
                    round=order.round,
                    block_hash=block.hash,
                    data=block.serialize(),
                )
            )
        )

    async def _judge(self, order: fx.CheckBlock) -> None:
        if order.height != self._chain.tip_height + 1:
            return
        judgement = await self._parts.production.judge(order)
        if judgement.verdict is not ev.Verdict.ACCEPTABLE:
            self._log.warning(
                "block_judged",
                height=order.height,
                round=order.round,
                block_hash=order.block_hash[::-1].hex(),
                verdict=judgement.verdict.value,
                reason=judgement.reason,
            )
        self.post(
            lambda: self._feed(
                ev.BlockChecked(
                    now_ms=self._now(),
                    height=order.height,
                    round=order.round,
                    block_hash=order.block_hash,
                    verdict=judgement.verdict,
                )
            )
        )

    def _connect(self, block: Block) -> ev.Event:
        try:
            self._chain.connect(block)
        except InvalidBlock as fault:
            raise InvariantError(f"a decided block does not connect: {fault}") from fault
        self._log.info(
            "block_final",
            height=block.header.height,
            block_hash=block.hash[::-1].hex(),
            transactions=len(block.transactions),
        )
        self._parts.on_final(block)
        self.post(self._after_height)
        return self._height_started()

    def _height_started(self) -> ev.HeightStarted:
        parts = self._parts
        height = self._chain.tip_height + 1
        members, root = parts.production.member_set(), parts.production.params_root()
        parts.verifier.begin_height(members, root)
        parts.signer.begin_height(members, root)
        parts.production.begin_height()
        if parts.journal.needs_rotation:
            _, body = encode_record(self._driver.base_record())
            parts.journal.rotate(body)
        work_due = parts.production.is_work_due()
        self._work_announced = height if work_due else 0
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
        for sender, message in self._early.drain():
            self._handle_message(sender, message)
        self._finals.connect_held()

    def _offer_work(self) -> None:
        height = self._driver.height
        if self._work_announced == height or self._chain.tip_height + 1 != height:
            return
        if self._parts.production.is_work_due():
            self._work_announced = height
            self._feed(ev.WorkAvailable(now_ms=self._now(), height=height))

    # -- frames

    def _handle_link(self, member: int, connected: bool) -> None:
        if connected:
            self._feed(ev.PeerConnected(now_ms=self._now(), peer=member))
        else:
            self._finals.peer_gone(member)
            self._early.forget(member)
            self._feed(ev.PeerDisconnected(now_ms=self._now(), peer=member))

    def _handle_frame(self, member: int, kind: int, body: bytes) -> None:
        self._frames_waiting -= 1
        if kind > FrameKind.GET_CERT:
            self._parts.other_frames(member, kind, body)
        else:
            self._handle_agreement(member, kind, body)

    def _handle_agreement(self, member: int, kind: int, body: bytes) -> None:
        if kind == FrameKind.FINAL:
            try:
                self._finals.on_frame(member, body)
            except Invalid as fault:
                self._blame(member, f"malformed final block: {fault}")
            return
        try:
            message = decode_message(kind, body)
        except InvalidMessage as error:
            self._blame(member, f"malformed frame: {error}")
            return
        self._handle_message(member, message)

    def _handle_message(self, member: int, message: Message) -> None:
        match message:
            case Vote() | Certificate() | BlockSignature():
                self._on_signed(member, message, message.height)
            case Proposal(vote, _):
                self._on_signed(member, message, vote.height)
            case BlockMessage():
                self._on_block(member, message)
            case Status():
                self._finals.peer_at(member, message.height - 1)
                self._deliver(member, message)
            case GetFinal(from_height, count):
                self._finals.send(member, from_height, count)
            case Answer():
                self._on_answer(member, message)
            case Evidence():
                self._on_evidence(member, message)
            case RollCall():
                self._on_rollcall(member, message)
            case _:
                self._deliver(member, message)

    def _deliver(self, member: int, message: Message) -> None:
        self._feed(ev.MessageReceived(now_ms=self._now(), sender=member, message=message))

    def _blame(self, member: int, reason: str) -> None:
        self._log.warning("peer_fault", member=member, reason=reason)
        self._parts.network.charge_signatures(member, failed=1)

    def _on_signed(
        self,
        member: int,
        message: Vote | Proposal | Certificate | BlockSignature,
        height: int,
    ) -> None:
        if height == self._driver.height + 1:
            self._early.add(member, message)
        if height != self._driver.height or not self._driver.wants(message):
            return
        checked = self._parts.verifier.check(message)
        if checked.operations:
            self._parts.network.charge_signatures(
                member, checked=checked.operations, failed=0 if checked.good else 1
            )
        if checked.good:
            self._deliver(member, message)
        else:
            self._log.warning("bad_signature", member=member, kind=type(message).__name__)

    def _on_block(self, member: int, message: BlockMessage) -> None:
        if message.height == self._driver.height + 1:
            self._early.add(member, message)
        if message.height != self._driver.height or not self._driver.wants(message):
            return
        try:
            block = self._parts.production.decode_proposal(message.data, message.block_hash)
        except Invalid as fault:
            self._blame(member, f"wrong bytes for a block: {fault}")
            return
        self._feed(
            ev.BlockReceived(
                now_ms=self._now(),
                sender=member,
                height=message.height,
                block_hash=message.block_hash,
                data=message.data,
                is_empty=self._parts.production.is_empty(block),
            )
        )

    def _on_rollcall(self, member: int, message: RollCall) -> None:
        if self._now() - self._rollcalls_ms.get(member, -ROLLCALL_PAUSE_MS) < ROLLCALL_PAUSE_MS:
            return
        self._rollcalls_ms[member] = self._now()
        self._deliver(member, message)

    def _on_answer(self, member: int, answer: Answer) -> None:
        asker_key = self._parts.signer.block_key[1:]
        checked = self._parts.verifier.check_answer(answer, asker_key, self._nonce)
        if checked.good and self._is_proved(answer):
            self._deliver(member, answer)
        else:
            self._blame(member, "roll-call answer does not verify")

    def _is_proved(self, answer: Answer) -> bool:
        if not isinstance(answer.proof, bytes):
            return True
        try:
            header = self._read_header(answer.proof)
            verify_block_signature(header, self._chain.params)
        except Invalid:
            return False
        wanted = self._chain.full_current().signblockscript
        return (
            header.hash == answer.known_hash
            and header.height == answer.known
            and header.current.signblockscript == wanted
        )

    def _on_evidence(self, member: int, evidence: Evidence) -> None:
        try:
            accused = check_evidence(evidence)
        except InvalidMessage as error:
            self._blame(member, f"evidence of nothing: {error}")
            return
        if accused is None or self._parts.evidence.is_known(accused[1], accused[0], evidence):
            return
        if self._parts.verifier.check(evidence).good:
            self._deliver(member, evidence)

    def _send_answer(self, order: fx.SendAnswer) -> None:
        """Prove what is known with the final block's header, else with the certificate (C71)."""
        proof: bytes | Certificate | None = None
        if 0 < order.known <= self._chain.tip_height:
            proof = self._chain.header(order.known).serialize()
        elif order.known:
            proof = order.certificate
        answer = Answer(
            known=order.known,
            known_hash=order.known_hash,
            abstaining=order.abstaining,
            answerer_key=bytes(32),
            signature=bytes(64),
            proof=proof,
            seen=order.seen,
        )
        signed = self._parts.signer.sign_rollcall_answer(answer, order.asker_key, order.nonce)
        self._parts.network.send(order.to, *encode_message(signed))

    def _look_up_certificate(self, to: int, request: GetCertificate) -> None:
        for number in reversed(self._parts.journal.numbers):
            for record in reversed(self._parts.journal.read_older(number)):
                found = _certificate_in(decode_record(record.kind, record.body), request)
                if found is not None:
                    self._parts.network.send(to, *encode_message(found))
                    return

    def _read_header(self, data: bytes) -> BlockHeader:
        reader = Reader(data)
        header = BlockHeader.read(reader, self._chain.params)
        reader.done()
        return header


def _certificate_in(record: object, request: GetCertificate) -> Certificate | None:
    """The certificate of a journal record when it is the one asked for (C57)."""
    match record:
        case VoteRecord(_, certificate) if certificate is not None:
            held = certificate
        case BlockSigRecord(_, _, certificate):
            held = certificate
        case _:
            return None
    wanted = (VoteType(request.type), request.height, request.round, request.block_hash)
    return held if (held.type, held.height, held.round, held.block_hash) == wanted else None
