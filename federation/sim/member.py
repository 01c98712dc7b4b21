"""One correct member of the simulated federation: disk, process, and the shell around the core.

Core, journal, block files, guard, verifier, buffer of early messages and catch-up planner are the
ones a real member runs; this file does what `federation.engine` does around them.

Source: the contract in `federation.consensus.effects`, consensus:C40, consensus:C70, consensus:J6.
"""

from collections import deque
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from federation.consensus import effects as fx
from federation.consensus import events as ev
from federation.consensus.driver import Driver
from federation.consensus.messages import Evidence, Message
from federation.consensus.records import (
    JournalRecord,
    Mode,
)
from federation.consensus.votes import (
    NO_SIGNATURE,
    BlockSignature,
    Certificate,
    Proposal,
    Vote,
    VoteType,
)
from federation.signer import SignerFailed, SignerRefused
from federation.sim.catch_up import CatchUp
from federation.sim.disk import ProcessDied, SimulatedDisk
from federation.sim.faults import Crash
from federation.sim.final import FinalMessage, encode_final
from federation.sim.incoming import Incoming
from federation.sim.opening import REMEMBERED_SIGNATURES, NeedsOperator, open_state
from federation.sim.world import GENESIS, TIMES, FinalBlock, block_fields, block_hash, make_block
from federation.sim.written import Written
from federation.verification import MessageVerifier
from federation.wal import JournalFailed, Verdict
from sidechain.errors import InvariantError

if TYPE_CHECKING:
    from federation.sim.cluster import Simulation

ROTATE_EVERY_HEIGHTS: Final = 7
TICK_MS: Final = 250


class Node:
    """One correct member: disk, process, shell.

    Attributes:
        life: number of its process; 0 before the first.
        is_told: the operator starts it with `--restored` next time.
        is_gone: it never starts again.
        ordered: position of the newest vote that this process ordered.
        is_lost: its journal was lost or restored in this run, to its knowledge or not.
    """

    def __init__(self, sim: "Simulation", member: int, disk: SimulatedDisk | None = None) -> None:
        self.sim, self.member = sim, member
        self.key = sim.keys(member)
        self.disk = disk or SimulatedDisk()
        self.disk.on_point = self._on_point
        self.written = Written(self.disk, lambda height: sim.plan.at(height).k)
        self.is_twin = disk is not None
        self.driver: Driver | None = None
        self.life = 1 if self.is_twin else 0
        self.is_told = self.is_gone = self.is_lost = False
        self.armed: Crash | None = None
        self.clock_offset_ms = 0
        self._points = 0
        self._timers: dict[ev.Timer, int] = {}
        self._shown: tuple[int, int, int] = (0, -1, -1)
        self._in_hand: FinalBlock | None = None
        self._connected_ms = -TIMES.block_interval_ms
        self.ordered: tuple[int, int, int] = (0, -1, 0)

    @property
    def height(self) -> int:
        """Height in progress, by the chain on disk."""
        return self.disk.tip_height + 1

    @property
    def label(self) -> str:
        """Its name in a trace."""
        return f"m{self.member}'" if self.is_twin else f"m{self.member}"

    @property
    def is_suspect(self) -> bool:
        """Whether nothing is demanded of it."""
        return self.is_twin or not self.sim.checker.is_trusted(self.member)

    # --- life

    def start(self) -> None:
        """Start the process on what the disk holds."""
        if self.driver is not None or self.is_gone:
            return
        self.life += 1
        self._timers = {}
        self.incoming = Incoming(self)
        self.catch_up = CatchUp(self)
        self.armed = None
        self.sim.note(f"{self.label} starts")
        try:
            self._open()
        except NeedsOperator as error:
            self._ask_operator(str(error))
        except (JournalFailed, SignerFailed, OSError) as error:
            self._fail(f"cannot start: {error}")
        except ProcessDied:
            self._end()

    def _open(self) -> None:
        sim, opened = self.sim, open_state(self)
        self.journal, self.signer = opened.journal, opened.signer
        self.counted, self.block_files = opened.counted, opened.block_files
        if opened.mode in (ev.StartMode.AMNESIAC, ev.StartMode.DOUBTFUL):
            self.is_lost = True
            sim.checker.on_loss(self.member)
        self.verifier = MessageVerifier(GENESIS, REMEMBERED_SIGNATURES, sim.scheme)
        self.driver = sim.driver_class(
            vote_key=self.key.public_key[1:],
            times=TIMES,
            image=opened.image,
            blocks=opened.stored_blocks(),
        )
        height, mode = self.disk.tip_height, opened.mode
        self.nonce = sha256(b"%d %d %d" % (self.member, self.life, self.is_twin)).digest()
        self.feed(ev.Started(now_ms=sim.now_ms, mode=mode, nonce=self.nonce, tip_height=height))
        if self.driver is not None and self.journal.verdict is Verdict.DOUBTFUL:
            self.journal.settle_doubt()
        self.feed(self._height_started())
        for peer in sim.plan.everyone:
            if peer != self.member:
                self.feed(ev.PeerConnected(now_ms=sim.now_ms, peer=peer))
        self._tick(self.life)

    def _ask_operator(self, reason: str) -> None:
        """A journal that may not be used: the operator starts again with `--restored`."""
        self.sim.note(f"{self.label} needs --restored: {reason}")
        self.is_told = self.is_lost = True
        self.end()
        self.sim.restart_later(self, 20)

    def _fail(self, reason: str) -> None:
        """C40: the process exits, and something starts it again."""
        self.sim.note(f"{self.label} exits: {reason}")
        self.end()
        self.sim.restart_later(self, 60)

    def end(self) -> None:
        """The process is gone; timers and memory with it."""
        self.driver = None
        self.disk.process_died()

    def _end(self) -> None:
        """It died at a point that a fault chose."""
        fault = self.armed
        self.armed = None
        self.end()
        if fault is not None:
            if fault.power:
                self.disk.lose_power(part=fault.part, zeros=fault.zeros)
            self.sim.note(f"{self.label} dies")
            self.sim.restart_later(self, fault.down_ms)

    def arm(self, fault: Crash) -> None:
        """Have the process die after some points."""
        self.armed, self._points = fault, fault.points

    def _on_point(self, _name: str, size_bytes: int) -> int | None:
        if self.armed is None:
            return None
        self._points -= 1
        if self._points >= 0:
            return None
        if size_bytes:
            return self.armed.part % (size_bytes + 1)
        raise ProcessDied

    def _tick(self, life: int) -> None:
        if self.life == life and self.driver is not None:
            self.catch_up.ask()
            self.sim.after(TICK_MS, self._tick, life)

    def _height_started(self) -> ev.HeightStarted:
        sim, height = self.sim, self.height
        members, root = sim.plan.at(height), sim.plan.root(height)
        self.verifier.begin_height(members, root)
        self.signer.begin_height(members, root)
        if height % ROTATE_EVERY_HEIGHTS == 0 and self.journal.numbers and self.driver is not None:
            self.journal.rotate(self.counted.base(self.driver.base_record()))
            self.journal.drop_older(self.journal.numbers[-1] - 1)
        work_ms = sim.work_after_ms(height)
        if work_ms:
            sim.after(work_ms, self._offer_work, self.life, height)
        return ev.HeightStarted(
            now_ms=sim.now_ms,
            height=height,
            tip_hash=self.disk.tip.hash,
            members=members,
            params_root=root,
            work_due=work_ms == 0,
        )

    def _offer_work(self, life: int, height: int) -> None:
        if life == self.life and height == self.height:
            self.feed(ev.WorkAvailable(now_ms=self.sim.now_ms, height=height))

    # --- feeding and obeying

    def feed(self, event: ev.Event) -> None:
        """Give the core an event, obey all its effects, then feed what answers them at once."""
        if self.driver is None:
            return
        waiting = deque([event])
        try:
            while waiting and self.driver is not None:
                event = waiting.popleft()
                if self.sim.trace is not None:
                    self.sim.note(f"{self.label} <- {type(event).__name__}")
                answers: list[ev.Event] = []
                for effect in self._handle(self.driver, event):
                    answer = self._obey(effect)
                    if answer is not None:
                        answers.append(answer)
                waiting.extendleft(reversed(answers))
                self._watch()
        except ProcessDied:
            self._end()
        except (JournalFailed, SignerFailed) as error:
            self._fail(str(error))

    def _handle(self, driver: Driver, event: ev.Event) -> tuple[fx.Effect, ...]:
        try:
            return driver.handle(event)
        except Exception as error:
            self.sim.checker.fail("core", f"the core of {self.label} raises {error!r}")
            raise

    def _watch(self) -> None:
        if self.driver is None or self.driver.height == 0 or self.is_suspect:
            return
        agreement = self.driver.agreement
        shown = (agreement.height, agreement.round, agreement.locked_round)
        if shown != self._shown:
            self._shown = shown
            self.sim.checker.on_step(self.member, *shown)
            self._check_memory()

    def _check_memory(self) -> None:
        """I11: what is kept stays within consensus:6."""
        if self.driver is None:
            return
        agreement = self.driver.agreement
        n, now = agreement.members.n, max(agreement.round, 0)
        is_full = len(agreement.keeper.positions) != n or len(agreement.blocks) > 4 * n
        outside = (agreement.round - 2, agreement.round - 3, now + 4, now + 5)
        for kind in (1, 2, 3):
            held = [agreement.keeper.votes(r, kind) for r in outside]  # type: ignore[arg-type]
            is_full = is_full or any(held)
        if is_full:
            self.sim.checker.fail("I11", f"{self.label} keeps more than consensus:6 allows")

    def _obey(self, effect: fx.Effect) -> ev.Event | None:
        sim = self.sim
        match effect:
            case fx.Persist(records):
                self._persist(records)
            case fx.PersistBlock(hash_, data):
                self.block_files.save(hash_, data)
            case fx.SignVote():
                return self._sign_vote(effect)
            case fx.SignBlock():
                return self._sign_block(effect)
            case fx.Broadcast(message):
                for peer in sim.plan.everyone:
                    if peer != self.member:
                        self.send(peer, message)
            case fx.Send(to, message):
                self.send(to, message)
            case fx.SendFinal(to, from_height, count):
                self.send_final(to, from_height, count)
            case fx.SendAnswer():
                self.incoming.answer(effect)
            case fx.CatchUp(peer, height):
                self.catch_up.peer_at(peer, height - 1)
            case fx.SetTimer(timer, after_ms):
                self._set_timer(effect, timer, after_ms)
            case fx.BuildBlock():
                return self._build(effect)
            case fx.CheckBlock():
                return self._judge(effect)
            case fx.Finalize(block_hash=hash_, data=data, signatures=signatures):
                return self._connect(FinalBlock(hash_, data, signatures))
            case fx.Connect(_, hash_):
                if self._in_hand is None or self._in_hand.hash != hash_:
                    raise InvariantError("the core connects a block that was not offered")
                return self._connect(self._in_hand)
            case fx.ForgetBlocks(keep):
                self.block_files.keep_only(keep)
            case fx.Accuse(member, height, evidence):
                self._accuse(member, height, evidence)
            case fx.ModeChanged(mode, reason):
                self._change_mode(mode, reason)
            case fx.Exit(reason):
                self._on_stop(reason)
                raise ProcessDied
            case _:
                pass
        return None

    def _persist(self, records: tuple[JournalRecord, ...]) -> None:
        self.counted.move_bounds(records)
        for kind, body, sync in self.counted.to_journal(records):
            self.journal.append(kind, body, sync=sync)

    def _sign_vote(self, order: fx.SignVote) -> ev.Event | None:
        vote = order.vote
        if not order.again:
            self.ordered = (vote.height, vote.round, int(vote.type))
        if not order.again and not self.is_suspect:
            self._check_pace(vote)
            self.sim.witness.on_prevote(self.member, self.life, vote)
        try:
            vote = self.signer.sign_vote(order.vote, order.certificate)
        except SignerRefused as error:
            if not order.again and not self.is_suspect:
                self.sim.checker.on_refused(self.member, str(order.vote), error.reason)
            return None
        return ev.VoteSigned(now_ms=self.sim.now_ms, vote=vote)

    def _check_pace(self, vote: Vote) -> None:
        """C20: no proposal within min_interval of the block before it."""
        waited_ms = self.sim.now_ms - self._connected_ms
        is_first = vote.type is VoteType.PROPOSAL and vote.round == 0
        if is_first and waited_ms < TIMES.min_interval_ms:
            self.sim.checker.fail("C20", f"{self.label} waited {waited_ms} ms: {vote}")

    def _sign_block(self, order: fx.SignBlock) -> ev.Event | None:
        try:
            signature = self.signer.sign_block_hash(
                order.height, order.block_hash, order.certificate
            )
        except SignerRefused as error:
            if not order.again and not self.is_suspect:
                self.sim.checker.on_refused(self.member, f"block {order.height}", error.reason)
            return None
        return ev.BlockSigned(now_ms=self.sim.now_ms, signature=signature)

    def send(self, to: int, message: Message) -> None:
        """Put a message on a link; each is a point at which the process may die."""
        if self.armed is not None:
            self._on_point("send", 0)
        self._check_own(message)
        self.sim.send(self.member, to, message, self.label)

    def _check_own(self, message: Message) -> None:
        if self.is_twin:
            return
        checker, member = self.sim.checker, self.member
        own = self.sim.plan.index(self.height, member)
        if not checker.is_trusted(member):
            if isinstance(message, Vote) and message.member == own:
                self.sim.witness.on_returned_vote(member, message, self.sim.lives())
            return
        match message:
            case Proposal(vote, _):
                if vote.member == own and vote.height == self.height:
                    checker.on_proposal_sent(member, message)
                self._check_own(vote)
            case Vote() if message.member == own and message.height == self.height:
                is_new = checker.known_statement(member, message) is None
                checker.on_vote_sent(member, message, self.written, self.life)
                if is_new and self.ordered == (message.height, message.round, int(message.type)):
                    self.sim.witness.on_new_vote(member, self.life, self.written)
            case Vote() if message.height == self.height and message.signature == NO_SIGNATURE:
                checker.fail("C40", f"{self.label} sends an unsigned vote: {message}")
            case BlockSignature() if message.member == own and message.height == self.height:
                checker.on_block_signature_sent(member, message, self.written)
            case Certificate() if message.height == self.height:
                checker.on_certificate_sent(member, message)
            case _:
                pass

    def _set_timer(self, order: fx.SetTimer, timer: ev.Timer, after_ms: int) -> None:
        self.sim.timer_count += 1
        token = self.sim.timer_count
        self._timers[timer] = token
        self.sim.witness.on_timer_set(self.member, order)
        self.sim.after(after_ms, self._fire, self.life, timer, token)

    def _fire(self, life: int, timer: ev.Timer, token: int) -> None:
        if self.life == life and self._timers.get(timer) == token:
            self.feed(ev.TimerFired(now_ms=self.sim.now_ms, timer=timer))

    def _accuse(self, index: int, height: int, evidence: Evidence) -> None:
        """I13: no pair of messages of a correct member convicts it."""
        sim = self.sim
        sim.witness.on_accused(self.member, self.life, (index, height, int(evidence.kind)))
        members = sim.plan.members(height)
        accused = members[index] if index < len(members) else -1
        sim.accused[accused] = sim.accused.get(accused, 0) + 1
        if sim.checker.is_trusted(accused) and not self.is_suspect:
            sim.checker.fail("I13", f"{self.label} accuses correct m{accused}: {evidence.kind}")

    def _change_mode(self, mode: Mode, reason: str) -> None:
        self.sim.note(f"{self.label} is {mode.name}: {reason}")
        if mode is Mode.HALTED:
            self.signer.halt()
            self._on_stop(reason)
        elif mode is Mode.ABSTAINING:
            self.is_lost = True
            if not self.is_suspect:
                self.sim.checker.on_loss(self.member)

    def _on_stop(self, reason: str) -> None:
        if not self.is_suspect:
            self.sim.checker.on_halted(self.member, reason)
        self.is_gone = self.is_gone or self.is_twin

    # --- blocks

    def _build(self, order: fx.BuildBlock) -> ev.Event | None:
        sim = self.sim
        has_work = not order.minimal and sim.work_after_ms(order.height) == 0
        if not (has_work or order.allow_empty):
            return None
        parent_ms = block_fields(self.disk.tip.data).time_ms if self.disk.chain else 0
        data = make_block(
            order.height,
            self.disk.tip.hash,
            proposer=self.member,
            salt=order.round << 8 | self.life & 255,
            empty=not has_work,
            time_ms=max(parent_ms + 1, sim.now_ms + self.clock_offset_ms),
            commitment=sim.commitment(self, minimal=order.minimal),
        )
        sim.checker.blocks[block_hash(data)] = data
        return ev.BlockBuilt(
            now_ms=sim.now_ms,
            height=order.height,
            round=order.round,
            block_hash=block_hash(data),
            data=data,
        )

    def _judge(self, order: fx.CheckBlock) -> ev.Event | None:
        verdict, delay_ms = self.sim.judge(self, order)
        if delay_ms == 0:
            return self._checked(order, verdict)
        self.sim.after(delay_ms, self._answer_check, self.life, order, verdict)
        return None

    def _checked(self, order: fx.CheckBlock, verdict: ev.Verdict) -> ev.Event:
        self.sim.witness.on_verdict(self.member, self.life, order, verdict)
        return ev.BlockChecked(
            now_ms=self.sim.now_ms,
            height=order.height,
            round=order.round,
            block_hash=order.block_hash,
            verdict=verdict,
        )

    def _answer_check(self, life: int, order: fx.CheckBlock, verdict: ev.Verdict) -> None:
        if life == self.life and order.height == self.height:
            self.feed(self._checked(order, verdict))

    def _connect(self, block: FinalBlock) -> ev.Event:
        if not self.is_suspect:
            self.sim.checker.on_final(self.member, self.height, block, self.disk.tip)
        self.disk.chain.append(block)
        self._connected_ms = self.sim.now_ms
        if self.sim.trace is not None:
            self.sim.note(f"{self.label} has block {self.disk.tip_height} {block.hash[:3].hex()}")
        self.sim.on_height(self)
        self.sim.after(0, self._after_height, self.life)
        return self._height_started()

    def _after_height(self, life: int) -> None:
        if life != self.life or self.driver is None:
            return
        self.incoming.replay_early()
        if self.driver is not None:
            self.catch_up.connect_held()

    def offer_final(self, block: FinalBlock) -> None:
        """Feed a final block that was verified (C38)."""
        self._in_hand = block
        self.feed(
            ev.FinalVerified(
                now_ms=self.sim.now_ms,
                height=self.height,
                block_hash=block.hash,
                header=block.data,
                signatures=block.signatures,
            )
        )
        self._in_hand = None

    def send_final(self, to: int, from_height: int, count: int) -> None:
        """FINAL frames of the own chain."""
        chain = self.disk.chain
        for height in range(max(from_height, 1), min(from_height + count, len(chain) + 1)):
            payload = encode_final(chain[height - 1])
            self.sim.send(self.member, to, FinalMessage(height, payload), self.label)

    def receive(self, sender: int, message: Any) -> None:
        """A frame came over a link."""
        if self.driver is not None:
            self.incoming.receive(sender, message)
