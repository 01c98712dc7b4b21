"""One correct member of the simulated federation: disk, process, and the shell around the core.

Source: the contract in `federation.consensus.effects`.
"""

from collections import deque
from hashlib import sha256
from typing import TYPE_CHECKING

from federation.consensus.driver import Driver
from federation.consensus.early import EarlyMessages
from federation.consensus.effects import (
    Broadcast,
    BuildBlock,
    CatchUp,
    CheckBlock,
    Connect,
    Effect,
    Exit,
    Finalize,
    ForgetBlocks,
    ModeChanged,
    Persist,
    PersistBlock,
    Send,
    SendAnswer,
    SendFinal,
    SetTimer,
    SignBlock,
    SignVote,
)
from federation.consensus.events import (
    BlockBuilt,
    BlockChecked,
    BlockReceived,
    BlockSigned,
    Event,
    FinalVerified,
    HeightStarted,
    MessageReceived,
    PeerConnected,
    Started,
    StartMode,
    Timer,
    TimerFired,
    Verdict,
    VoteSigned,
)
from federation.consensus.messages import (
    Answer,
    Evidence,
    GetFinal,
    Message,
)
from federation.consensus.records import Mode, restore
from federation.consensus.votes import (
    BlockMessage,
    BlockSignature,
    Certificate,
    Proposal,
    Vote,
)
from federation.sim.world import (
    TIMES,
    Disk,
    FinalBlock,
    block_hash,
    block_key,
    is_empty,
    is_valid_child,
    make_block,
    params_root,
)
from sidechain.errors import InvariantError

if TYPE_CHECKING:
    from federation.sim.cluster import Simulation


class Crash(Exception):
    """The process of a member ends in the middle of its effects."""


class Node:
    """One correct member: disk, process, shell."""

    def __init__(self, sim: "Simulation", member: int) -> None:
        self.sim, self.member = sim, member
        self.disk = Disk()
        self.driver: Driver | None = None
        self.early = EarlyMessages()
        self.life = 0
        self.crash_after: int | None = None
        self.pending: deque[Event] = deque()
        self._timers: dict[Timer, int] = {}
        self._final: FinalBlock | None = None
        self._shown: tuple[int, int, int] = (0, -1, -1)
        self._catching_up_ms = -1_000

    @property
    def height(self) -> int:
        """Height in progress, by the chain on disk."""
        return len(self.disk.chain) + 1

    # --- life

    def start(self) -> None:
        """Start the process on what the disk holds."""
        sim = self.sim
        self.life += 1
        self._timers = {}
        self.early = EarlyMessages()
        self.pending.clear()
        self.crash_after = None
        self.driver = sim.driver_class(
            vote_key=block_key(self.member)[1:],
            times=TIMES,
            image=restore(self.disk.records()),
            blocks=dict(self.disk.blocks),
        )
        mode = StartMode.INTACT if self.disk.journal else StartMode.AMNESIAC
        if self.life == 1:
            mode = StartMode.FRESH
        nonce = sha256(b"%d %d" % (self.member, self.life)).digest()
        self._run(
            Started(now_ms=sim.now_ms, mode=mode, nonce=nonce, tip_height=len(self.disk.chain)),
            *(
                PeerConnected(now_ms=sim.now_ms, peer=peer)
                for peer in range(sim.scenario.n)
                if peer != self.member
            ),
            self._height_started(),
        )

    def crash(self) -> None:
        """The process is gone; timers and memory with it."""
        self.driver = None
        self.pending.clear()
        self._final = None

    def wipe(self, *, chain_too: bool) -> None:
        """Lose the journal, perhaps the chain."""
        self.disk.journal.clear()
        self.disk.blocks.clear()
        self.disk.was_wiped = True
        if chain_too:
            self.disk.chain.clear()
        self.sim.checker.forget_lock(self.member)

    def _height_started(self) -> HeightStarted:
        sim = self.sim
        return HeightStarted(
            now_ms=sim.now_ms,
            height=self.height,
            tip_hash=self.disk.tip_hash,
            members=sim.members,
            params_root=params_root(self.height),
            work_due=sim.has_work(self.member, self.height),
        )

    # --- events and effects

    def feed(self, event: Event) -> None:
        """Give the core one event, and every event that follows from its effects."""
        if self.driver is not None:
            self._run(event)

    def _run(self, *events: Event) -> None:
        self.pending.extend(events)
        try:
            while self.pending and self.driver is not None:
                event = self.pending.popleft()
                self.sim.trace(self.member, event)
                for effect in self.driver.handle(event):
                    self._obey(effect)
                self._watch()
        except Crash:
            self.crash()
            self.sim.schedule_restart(self)

    def _watch(self) -> None:
        if self.driver is None or self.driver.height == 0:
            return
        agreement = self.driver.agreement
        shown = (agreement.height, agreement.round, agreement.locked_round)
        if shown != self._shown:
            self._shown = shown
            self.sim.checker.on_step(self.member, *shown)

    def _obey(self, effect: Effect) -> None:
        if self.crash_after is not None:
            self.crash_after -= 1
            if self.crash_after < 0:
                self._die_in(effect)
        handler = getattr(self, "_obey_" + type(effect).__name__.lower(), None)
        if handler is not None:
            handler(effect)

    def _die_in(self, effect: Effect) -> None:
        """Crash before an effect, or after a write that nobody heard of."""
        if isinstance(effect, Persist) and self.sim.rng.random() < 0.5:
            self._obey_persist(effect)
        raise Crash

    def _obey_persist(self, effect: Persist) -> None:
        for record in effect.records:
            self.disk.append(record)

    def _obey_persistblock(self, effect: PersistBlock) -> None:
        self.disk.blocks[effect.block_hash] = effect.data

    def _obey_signvote(self, effect: SignVote) -> None:
        vote = self.sim.keys.sign_vote(effect.vote)
        self.pending.append(VoteSigned(now_ms=self.sim.now_ms, vote=vote))

    def _obey_signblock(self, effect: SignBlock) -> None:
        signature = self.sim.keys.sign_block(effect.height, effect.block_hash, self.member)
        self.sim.checker.on_decided(self.member, effect.height, effect.block_hash)
        self.pending.append(BlockSigned(now_ms=self.sim.now_ms, signature=signature))

    def _obey_broadcast(self, effect: Broadcast) -> None:
        self._check_own(effect.message)
        for peer in range(self.sim.scenario.n):
            if peer != self.member:
                self.sim.send(self.member, peer, effect.message)

    def _obey_send(self, effect: Send) -> None:
        self.sim.send(self.member, effect.to, effect.message)

    def _check_own(self, message: Message) -> None:
        match message:
            case Proposal(vote, _):
                self._check_own(vote)
            case Vote() if message.member == self.member:
                self.sim.checker.on_vote_sent(message, self.disk)
            case BlockSignature() if message.member == self.member:
                self.sim.checker.on_block_signature_sent(message, self.disk)
            case Evidence():
                self.sim.on_evidence(self.member, message)

    def _obey_settimer(self, effect: SetTimer) -> None:
        self.sim.timer_count += 1
        token = self.sim.timer_count
        self._timers[effect.timer] = token
        self.sim.after(effect.after_ms, self._fire, self.life, effect.timer, token)

    def _fire(self, life: int, timer: Timer, token: int) -> None:
        if self.life == life and self._timers.get(timer) == token:
            self.feed(TimerFired(now_ms=self.sim.now_ms, timer=timer))

    def _obey_buildblock(self, effect: BuildBlock) -> None:
        has_work = self.sim.has_work(self.member, effect.height)
        if not (has_work or effect.allow_empty):
            return
        data = make_block(
            effect.height,
            self.disk.tip_hash,
            proposer=self.member,
            salt=effect.round << 8 | self.life & 255,
            empty=effect.minimal or not has_work,
        )
        self.sim.blocks[block_hash(data)] = data
        event = BlockBuilt(
            now_ms=self.sim.now_ms,
            height=effect.height,
            round=effect.round,
            block_hash=block_hash(data),
            data=data,
        )
        self.pending.append(event)

    def _obey_checkblock(self, effect: CheckBlock) -> None:
        verdict, delay_ms = self.sim.judge(self.member, effect)
        if delay_ms == 0:
            self.pending.append(self._checked(effect, verdict))
        else:
            self.sim.after(delay_ms, self._answer_check, self.life, effect, verdict)

    def _checked(self, effect: CheckBlock, verdict: Verdict) -> BlockChecked:
        return BlockChecked(
            now_ms=self.sim.now_ms,
            height=effect.height,
            round=effect.round,
            block_hash=effect.block_hash,
            verdict=verdict,
        )

    def _answer_check(self, life: int, effect: CheckBlock, verdict: Verdict) -> None:
        if life == self.life:
            self.feed(self._checked(effect, verdict))

    def _obey_finalize(self, effect: Finalize) -> None:
        self._connect(FinalBlock(effect.block_hash, effect.data, effect.signatures))

    def _obey_connect(self, effect: Connect) -> None:
        if self._final is None or self._final.hash != effect.block_hash:
            raise InvariantError("the core connects a block that was not offered")
        self._connect(self._final)

    def _connect(self, block: FinalBlock) -> None:
        self.sim.checker.on_final(self.member, self.height, block, self.disk.tip_hash)
        self.disk.chain.append(block)
        self.pending.appendleft(self._height_started())
        for sender, message in self.early.drain():
            self.sim.after(0, self._receive_again, self.life, sender, message)

    def _receive_again(self, life: int, sender: int, message: Message) -> None:
        if life == self.life:
            self.receive(sender, message)

    def _obey_forgetblocks(self, effect: ForgetBlocks) -> None:
        self.disk.blocks = {h: d for h, d in self.disk.blocks.items() if h in effect.keep}

    def _obey_sendfinal(self, effect: SendFinal) -> None:
        self.sim.send_final(self.member, effect.to, effect.from_height, effect.count)

    def _obey_catchup(self, effect: CatchUp) -> None:
        if self.sim.now_ms - self._catching_up_ms >= TIMES.gossip_interval_ms:
            self._catching_up_ms = self.sim.now_ms
            self.sim.send(self.member, effect.peer, GetFinal(self.height, 16))

    def _obey_sendanswer(self, effect: SendAnswer) -> None:
        proof = effect.certificate
        answer = Answer(
            known=effect.known,
            known_hash=effect.known_hash,
            abstaining=effect.abstaining,
            answerer_key=block_key(self.member)[1:],
            signature=effect.nonce + effect.asker_key,
            proof=proof if proof is not None else (b"header" if effect.known else None),
            seen=effect.seen,
        )
        self.sim.send(self.member, effect.to, answer)

    def _obey_modechanged(self, effect: ModeChanged) -> None:
        if effect.mode in (Mode.HALTED, Mode.STOPPED):
            self.sim.checker.on_halted(self.member, f"{effect.mode.name}: {effect.reason}")

    def _obey_exit(self, effect: Exit) -> None:
        self.sim.checker.on_halted(self.member, effect.reason)

    # --- receiving

    def receive(self, sender: int, message: Message | tuple[str, int, FinalBlock]) -> None:
        """What the shell does with a frame before the core sees it."""
        driver = self.driver
        if driver is None or driver.height == 0:
            return
        if isinstance(message, tuple):
            self._receive_final(message[1], message[2])
            return
        match message:
            case Vote() | Proposal() | Certificate() | BlockSignature() | BlockMessage():
                self._receive_signed(driver, sender, message)
            case GetFinal(from_height, count):
                self.sim.send_final(self.member, sender, from_height, count)
            case Answer():
                nonce = sha256(b"%d %d" % (self.member, self.life)).digest()
                if message.signature == nonce + block_key(self.member)[1:]:
                    self._feed_message(sender, message)
            case _:
                self._feed_message(sender, message)

    def _receive_signed(
        self,
        driver: Driver,
        sender: int,
        message: Vote | Proposal | Certificate | BlockSignature | BlockMessage,
    ) -> None:
        if not driver.wants(message):
            return
        height = message.vote.height if isinstance(message, Proposal) else message.height
        if height == driver.height + 1:
            self.early.add(sender, message)
        elif isinstance(message, BlockMessage):
            if block_hash(message.data) == message.block_hash:
                event = BlockReceived(
                    now_ms=self.sim.now_ms,
                    sender=sender,
                    height=height,
                    block_hash=message.block_hash,
                    data=message.data,
                    is_empty=is_empty(message.data),
                )
                self.feed(event)
        elif self.sim.keys.is_signed(message):
            self._feed_message(sender, message)

    def _feed_message(self, sender: int, message: Message) -> None:
        self.feed(MessageReceived(now_ms=self.sim.now_ms, sender=sender, message=message))

    def _receive_final(self, height: int, block: FinalBlock) -> None:
        if height != self.height or not is_valid_child(block.data, height, self.disk.tip_hash):
            return
        self._final = block
        event = FinalVerified(
            now_ms=self.sim.now_ms,
            height=height,
            block_hash=block.hash,
            header=block.data,
            signatures=block.signatures,
        )
        self.feed(event)
