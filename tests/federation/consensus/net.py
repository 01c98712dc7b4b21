"""A federation of real cores under the hand of a test: every link, disk, set and clock is chosen.

No chance is in it: messages take 2 ms, timers are exact, equal times keep their order. A process
may be started twice with one key (twins), crash between any two effects, lose or exchange its disk.
Liars are no processes: a test sends what they say with `Net.inject`.

Everything said under a key is noted, and `Net.check` demands what holds whatever happens: one final
block of a height (S1), and nobody contradicts itself (S2) but those a test names.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from hashlib import blake2b, sha256
from typing import Any

from federation.consensus import effects as fx
from federation.consensus import events as ev
from federation.consensus.driver import Driver
from federation.consensus.early import EarlyMessages
from federation.consensus.messages import Answer, Evidence, GetFinal, Message
from federation.consensus.records import Mode, decode_record, encode_record, restore
from federation.consensus.votes import (
    NO_SIGNATURE,
    BlockMessage,
    BlockSignature,
    Certificate,
    Proposal,
    Vote,
    VoteType,
)
from federation.members import MemberSet
from federation.sim.world import (
    GENESIS,
    GENESIS_TIP,
    TIMES,
    FinalBlock,
    block_hash,
    block_key,
    is_empty,
    is_valid_child,
    make_block,
    member_set,
)

DELAY_MS = 2
LIAR = 90
"""Peer id of whoever sends what is injected."""
KEY_NUMBERS = {block_key(number): number for number in range(64)}
Signed = Vote | Proposal | Certificate | BlockSignature


def key_sign(key: int, payload: bytes) -> bytes:
    """64 bytes that only the holder of a key makes."""
    return blake2b(payload, key=sha256(b"secret %d" % key).digest()).digest()


@dataclass
class NetDisk:
    """What survives a crash; `copy` is a backup."""

    journal: list[tuple[int, bytes]] = field(default_factory=list)
    blocks: dict[bytes, bytes] = field(default_factory=dict)
    chain: list[FinalBlock] = field(default_factory=list)

    def copy(self) -> "NetDisk":
        return NetDisk(list(self.journal), dict(self.blocks), list(self.chain))

    @property
    def tip_hash(self) -> bytes:
        return self.chain[-1].hash if self.chain else GENESIS_TIP


class Crash(Exception):
    """The process ends in the middle of its effects."""


class Process:
    """One process with a key; `key` is its number in the world, not its index in a set."""

    def __init__(self, net: "Net", name: str, key: int) -> None:
        self.net, self.name, self.key = net, name, key
        self.peer_id = len(net.processes)
        self.disk = NetDisk()
        self.driver: Driver | None = None
        self.life = 0
        self.modes: list[Mode] = []
        self.alarms: list[str] = []
        self.effects: list[fx.Effect] = []
        self.exited = False
        self.crash_at: int | None = None
        self.crash_after_write = False
        self.crash_after: Callable[[fx.Effect], bool] = lambda effect: False
        self.understates = False
        self._timers: dict[ev.Timer, int] = {}
        self._pending: deque[ev.Event] = deque()
        self._final: FinalBlock | None = None
        self.early = EarlyMessages()

    # --- life

    @property
    def height(self) -> int:
        return len(self.disk.chain) + 1

    @property
    def agreement(self) -> Any:
        assert self.driver is not None
        return self.driver.agreement

    @property
    def mode(self) -> Mode:
        assert self.driver is not None
        return self.driver.mode

    @property
    def nonce(self) -> bytes:
        return sha256(f"{self.name} {self.life}".encode()).digest()

    def start(self, mode: ev.StartMode | None = None) -> None:
        net = self.net
        self.life += 1
        self.exited, self.crash_at = False, None
        self._timers, self.early = {}, EarlyMessages()
        self._pending.clear()
        self.driver = net.driver_class(
            vote_key=block_key(self.key)[1:],
            times=net.times,
            image=restore(decode_record(kind, body) for kind, body in self.disk.journal),
            blocks=dict(self.disk.blocks),
        )
        if mode is None:
            mode = ev.StartMode.FRESH if self.life == 1 else ev.StartMode.INTACT
        tip = len(self.disk.chain)
        started = ev.Started(now_ms=net.now_ms, mode=mode, nonce=self.nonce, tip_height=tip)
        self._run(started, self.height_started())
        for other in net.processes.values():
            if other is not self and other.driver is not None:
                self.feed(ev.PeerConnected(now_ms=net.now_ms, peer=other.peer_id))
                other.feed(ev.PeerConnected(now_ms=net.now_ms, peer=self.peer_id))

    def crash(self) -> None:
        self.driver = None
        self._pending.clear()
        self.crash_at = None

    def wipe(self, *, chain_too: bool = True) -> None:
        self.crash()
        self.disk = NetDisk(chain=[] if chain_too else self.disk.chain)

    def height_started(self) -> ev.HeightStarted:
        net, height = self.net, self.height
        return ev.HeightStarted(
            now_ms=net.now_ms,
            height=height,
            tip_hash=self.disk.tip_hash,
            members=net.set_of(height),
            params_root=net.root_of(height),
            work_due=net.has_work(self, height),
        )

    # --- events and effects

    def feed(self, event: ev.Event) -> None:
        if self.driver is not None:
            self._run(event)

    def _run(self, *events: ev.Event) -> None:
        self._pending.extend(events)
        try:
            while self._pending and self.driver is not None:
                answers: list[ev.Event] = []
                for effect in self.driver.handle(self._pending.popleft()):
                    self.effects.append(effect)
                    self._step(effect)
                    answer = self._obey(effect)
                    if self.crash_after(effect):
                        raise Crash
                    answers += [answer] if answer is not None else []
                self._pending.extendleft(reversed(answers))
        except Crash:
            self.crash()

    def _step(self, effect: fx.Effect) -> None:
        if self.crash_at is None:
            return
        self.crash_at -= 1
        if self.crash_at >= 0:
            return
        if self.crash_after_write and isinstance(effect, fx.Persist | fx.PersistBlock):
            self._obey(effect)
        if self.crash_after_write and isinstance(effect, fx.Broadcast):
            others = [p for p in self.net.processes.values() if p is not self]
            for other in others[: len(others) // 2]:
                self.net.send(self, other, effect.message)
        raise Crash

    def _obey(self, effect: fx.Effect) -> ev.Event | None:
        net = self.net
        match effect:
            case fx.Persist(records):
                self.disk.journal += [encode_record(record) for record in records]
            case fx.PersistBlock(hash_, data):
                self.disk.blocks[hash_] = data
            case fx.SignVote(vote, _, _):
                signed = net.sign_vote(vote, self.key)
                return ev.VoteSigned(now_ms=net.now_ms, vote=signed)
            case fx.SignBlock(height, hash_, _, _):
                index = net.set_of(height).index_of(block_key(self.key)[1:])
                assert index is not None
                signature = net.sign_block(height, hash_, index)
                return ev.BlockSigned(now_ms=net.now_ms, signature=signature)
            case fx.Broadcast(message):
                net.note(self, message)
                for other in net.processes.values():
                    net.send(self, other, message)
            case fx.Send(to, message):
                net.send_to(self, to, message)
            case fx.SendFinal(to, from_height, count):
                self.send_finals(to, from_height, count)
            case fx.CatchUp(peer, _):
                net.send_to(self, peer, GetFinal(self.height, 16))
            case fx.SendAnswer():
                self._answer(effect)
            case fx.SetTimer(timer, after_ms):
                self._set_timer(timer, after_ms)
            case fx.CheckBlock():
                self._check(effect)
            case fx.BuildBlock():
                return self._build(effect)
            case fx.Finalize():
                block = FinalBlock(effect.block_hash, effect.data, effect.signatures)
                return self._connect(block)
            case fx.Connect(_, hash_):
                assert self._final is not None and self._final.hash == hash_
                return self._connect(self._final)
            case fx.ForgetBlocks(keep):
                self.disk.blocks = {h: d for h, d in self.disk.blocks.items() if h in keep}
            case fx.Accuse(member, height, evidence):
                net.accused.append((self.name, member, height, evidence))
            case fx.ModeChanged(mode, _):
                self.modes.append(mode)
            case fx.Alarm(reason):
                self.alarms.append(reason)
            case fx.Exit():
                self.exited = True
                raise Crash
        return None

    def _set_timer(self, timer: ev.Timer, after_ms: int) -> None:
        token = self._timers[timer] = self.net.next_token()
        life = self.life

        def fire() -> None:
            if self.life == life and self._timers.get(timer) == token:
                self.feed(ev.TimerFired(now_ms=self.net.now_ms, timer=timer))

        self.net.after(after_ms, fire)

    def _check(self, question: fx.CheckBlock) -> None:
        net, life = self.net, self.life
        is_child = is_valid_child(question.data, question.height, self.disk.tip_hash)
        verdict, delay_ms = net.verdict(self, question) if is_child else (ev.Verdict.INVALID, 0)

        def answer() -> None:
            if self.life == life:
                self.feed(
                    ev.BlockChecked(
                        now_ms=net.now_ms,
                        height=question.height,
                        round=question.round,
                        block_hash=question.block_hash,
                        verdict=verdict,
                    )
                )

        net.after(delay_ms, answer)

    def _build(self, order: fx.BuildBlock) -> ev.Event | None:
        has_work = self.net.has_work(self, order.height)
        if not (has_work or order.allow_empty):
            return None
        data = make_block(
            order.height,
            self.disk.tip_hash,
            proposer=self.key,
            salt=order.round << 8 | self.peer_id << 4 | self.life,
            empty=order.minimal or not has_work,
        )
        return ev.BlockBuilt(
            now_ms=self.net.now_ms,
            height=order.height,
            round=order.round,
            block_hash=block_hash(data),
            data=data,
        )

    def _connect(self, block: FinalBlock) -> ev.Event:
        self.net.on_final(self, block)
        self.disk.chain.append(block)
        life = self.life

        def replay() -> None:
            if self.life == life:
                for sender, message in self.early.drain():
                    self.receive(sender, message)

        self.net.after(0, replay)
        return self.height_started()

    def _answer(self, order: fx.SendAnswer) -> None:
        proof = order.certificate or (b"header" if order.known else None)
        answer = Answer(
            known=0 if self.understates else order.known,
            known_hash=order.known_hash,
            abstaining=order.abstaining,
            answerer_key=block_key(self.key)[1:],
            signature=order.nonce + order.asker_key,
            proof=None if self.understates else proof,
            seen=None if self.understates else order.seen,
        )
        self.net.send_to(self, order.to, answer)

    def send_finals(self, to: int, from_height: int, count: int) -> None:
        """FINAL frames of the own chain."""
        last = min(from_height + count - 1, len(self.disk.chain))
        for height in range(max(from_height, 1), last + 1):
            self.net.send_to(self, to, (height, self.disk.chain[height - 1]))

    # --- receiving, as the shell does

    def receive(self, sender: int, message: Any) -> None:
        driver, net = self.driver, self.net
        if driver is None:
            return
        match message:
            case (int() as height, FinalBlock() as block):
                self._receive_final(height, block)
            case Vote() | Proposal() | Certificate() | BlockSignature() | BlockMessage():
                self._receive_signed(driver, sender, message)
            case GetFinal(from_height, count):
                self.send_finals(sender, from_height, count)
            case Answer() if message.signature != self.nonce + block_key(self.key)[1:]:
                pass
            case _:
                event = ev.MessageReceived(now_ms=net.now_ms, sender=sender, message=message)
                self.feed(event)

    def _receive_signed(self, driver: Driver, sender: int, message: Signed | BlockMessage) -> None:
        net = self.net
        height = message.vote.height if isinstance(message, Proposal) else message.height
        if height == driver.height + 1:
            self.early.add(sender, message)
        if height != driver.height or not driver.wants(message):
            return
        if isinstance(message, BlockMessage):
            if block_hash(message.data) == message.block_hash and self.agreement.needs(
                message.block_hash
            ):
                self.feed(
                    ev.BlockReceived(
                        now_ms=net.now_ms,
                        sender=sender,
                        height=height,
                        block_hash=message.block_hash,
                        data=message.data,
                        is_empty=is_empty(message.data),
                    )
                )
        elif net.is_signed(message):
            self.feed(ev.MessageReceived(now_ms=net.now_ms, sender=sender, message=message))

    def _receive_final(self, height: int, block: FinalBlock) -> None:
        net = self.net
        if not net.is_final(height, block):
            return
        if height < self.height:
            ours = self.disk.chain[height - 1]
            if ours.hash != block.hash:  # C60
                conflict = ev.ConflictFound(now_ms=net.now_ms, first=ours.data, second=block.data)
                self.feed(conflict)
            return
        if height == self.height and is_valid_child(block.data, height, self.disk.tip_hash):
            self._final = block
            self.feed(
                ev.FinalVerified(
                    now_ms=net.now_ms,
                    height=height,
                    block_hash=block.hash,
                    header=block.data,
                    signatures=block.signatures,
                )
            )

    # --- reading

    def said(self, kind: VoteType | None = None, height: int | None = None) -> list[Vote]:
        """Own votes that were sent, in order, those of all lives."""
        key = block_key(self.key)[1:]
        return [
            vote
            for vote in self.net.votes.get(key, [])
            if kind in (None, vote.type) and height in (None, vote.height)
        ]


class Net:
    """Processes, links and the clock.

    Args:
        keys: numbers of the keys that have a process; others are liars or absent.
        set_of: M_h; the same n, k everywhere unless given.
    """

    def __init__(
        self,
        n: int = 4,
        k: int = 3,
        *,
        keys: Iterable[int] | None = None,
        set_of: Callable[[int], MemberSet] | None = None,
        driver_class: type[Driver] = Driver,
        times: ev.ConsensusTimes = TIMES,
        started: bool = True,
    ) -> None:
        self.driver_class, self.times = driver_class, times
        self.now_ms = 1_000
        fixed = member_set(n, k)
        self.set_of = set_of or (lambda height: fixed)
        self.processes: dict[str, Process] = {}
        self.link: Callable[[Process, Process, Any], bool] = lambda source, to, message: True
        self.delay_ms: Callable[[Process, Process, Any], int] = lambda *_: DELAY_MS
        self.has_work: Callable[[Process, int], bool] = lambda process, height: True
        self.verdict: Callable[[Process, fx.CheckBlock], tuple[ev.Verdict, int]] = (
            lambda process, question: (ev.Verdict.ACCEPTABLE, 0)
        )
        self.votes: dict[bytes, list[Vote]] = {}
        self.signed_blocks: dict[tuple[int, int], set[bytes]] = {}
        self.finals: dict[int, set[bytes]] = {}
        self.accused: list[tuple[str, int, int, Evidence]] = []
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._tokens = 0
        for key in range(n) if keys is None else keys:
            self.add(f"m{key}", key)
        if started:
            for process in self.processes.values():
                process.start()

    def add(self, name: str, key: int) -> Process:
        """A process more, not started."""
        process = self.processes[name] = Process(self, name, key)
        return process

    def __getitem__(self, key: int) -> Process:
        return self.processes[f"m{key}"]

    def __iter__(self) -> Any:
        return iter(self.processes.values())

    # --- signatures

    def root_of(self, height: int) -> bytes:
        """D_h: another set, another root."""
        members = self.set_of(height)
        return sha256(b"".join(m.block_key for m in members.members) + bytes([members.k])).digest()

    def key_of(self, height: int, index: int) -> int:
        """Number of the key at an index of M_h."""
        return KEY_NUMBERS[self.set_of(height).members[index].block_key]

    def sign_vote(self, vote: Vote, key: int, root: bytes | None = None) -> Vote:
        """A vote under a key, for D_h unless another root is given."""
        payload = vote.signed_payload(GENESIS, root or self.root_of(vote.height))
        return replace(vote, signature=key_sign(key, payload))

    def sign_block(self, height: int, hash_: bytes, index: int) -> BlockSignature:
        """A BLOCKSIG of the member at an index of M_h."""
        signature = key_sign(self.key_of(height, index), b"block" + hash_)
        return BlockSignature(height=height, block_hash=hash_, member=index, signature=signature)

    def vote(
        self, kind: VoteType, height: int, round_: int, hash_: bytes, index: int, cited: int = -1
    ) -> Vote:
        """A signed vote of any member."""
        vote = Vote(
            type=kind,
            height=height,
            round=round_,
            valid_round=cited,
            block_hash=hash_,
            member=index,
            signature=NO_SIGNATURE,
        )
        return self.sign_vote(vote, self.key_of(height, index))

    def is_signed(self, message: Signed) -> bool:
        """What the shell verifies before the core sees a message."""
        match message:
            case Proposal(vote, pol):
                return self.is_signed(vote) and (pol is None or self.is_signed(pol))
            case Certificate():
                is_complete = message.is_complete(self.set_of(message.height).k)
                return is_complete and all(self.is_signed(vote) for vote in message.as_votes())
        if message.member >= self.set_of(message.height).n:
            return False
        key = self.key_of(message.height, message.member)
        if isinstance(message, BlockSignature):
            return message.signature == key_sign(key, b"block" + message.block_hash)
        payload = message.signed_payload(GENESIS, self.root_of(message.height))
        return message.signature == key_sign(key, payload)

    def is_final(self, height: int, block: FinalBlock) -> bool:
        """Whether k members of M_h signed the block."""
        signers = {s.member for s in block.signatures}
        is_right = all(s.block_hash == block.hash and self.is_signed(s) for s in block.signatures)
        return is_right and len(signers) >= self.set_of(height).k

    # --- clock and links

    def next_token(self) -> int:
        self._tokens += 1
        return self._tokens

    def after(self, delay_ms: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self.next_token(), action))

    def pass_ms(self, duration_ms: int, done: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass, until something holds at most; answers whether it does."""
        end_ms = self.now_ms + duration_ms
        while self._queue and self._queue[0][0] <= end_ms:
            if done():
                return True
            self.now_ms, _, action = heapq.heappop(self._queue)
            action()
        self.now_ms = end_ms if not done() else self.now_ms
        return done()

    def until(self, done: Callable[[], bool], within_ms: int = 60_000) -> None:
        """Let time pass until something holds.

        Raises:
            AssertionError: it does not within the time.
        """
        assert self.pass_ms(within_ms, done), self.picture()

    def until_height(self, height: int, *keys: int, within_ms: int = 60_000) -> None:
        """All processes, or those named, get to a height."""
        wanted = [self[key] for key in keys] or list(self)
        self.until(lambda: all(p.height >= height for p in wanted), within_ms)
        self.check()

    def picture(self) -> str:
        """Where everybody is, for a failed assertion."""
        lines = []
        for p in self:
            if p.driver is None:
                lines.append(f"{p.name}: down at {p.height}")
                continue
            a = p.agreement
            lines.append(
                f"{p.name}: {p.mode.name} h {a.height} r {a.round} {a.step.name}"
                f" lock {a.locked_round} valid {a.valid_round}"
            )
        return "; ".join(lines)

    def send(self, source: Process, to: Process, message: Any) -> None:
        if to is not source and self.link(source, to, message):
            delay_ms, sender = self.delay_ms(source, to, message), source.peer_id
            self.after(delay_ms, lambda: to.receive(sender, message))

    def send_to(self, source: Process, peer: int, message: Any) -> None:
        for process in self:
            if process.peer_id == peer:
                self.send(source, process, message)

    def inject(self, message: Any, *keys: int) -> None:
        """A liar's message reaches these now, all when none is named."""
        for process in [self[key] for key in keys] or list(self):
            process.receive(LIAR, message)

    def extend(self, heights: int, *keys: int, signers: tuple[int, ...] = (0, 1, 2)) -> None:
        """Members that are down find so many more final blocks on their disks, signed by k."""
        first = self[keys[0]]
        for _ in range(heights):
            height = first.height
            data = make_block(height, first.disk.tip_hash, proposer=keys[0], salt=99)
            signatures = tuple(
                self.sign_block(height, block_hash(data), index) for index in signers
            )
            block = FinalBlock(block_hash(data), data, signatures)
            for key in keys:
                assert self[key].driver is None and self[key].height == height
                self.on_final(self[key], block)
                self[key].disk.chain.append(block)

    # --- what must hold

    def note(self, source: Process, message: Message) -> None:
        """Keep what is said under a key."""
        said = message.vote if isinstance(message, Proposal) else message
        if not isinstance(said, Vote | BlockSignature) or said.height != source.height:
            return
        own = block_key(source.key)[1:]
        if self.set_of(said.height).members[said.member].vote_key != own:
            return
        if isinstance(said, BlockSignature):
            signed = self.signed_blocks.setdefault((source.key, said.height), set())
            signed.add(said.block_hash)
        elif not any(said.says_the_same_as(other) for other in self.votes.get(own, [])):
            self.votes.setdefault(own, []).append(said)

    def on_final(self, source: Process, block: FinalBlock) -> None:
        """A process makes a block final."""
        height = len(source.disk.chain) + 1
        assert self.is_final(height, block)
        assert is_valid_child(block.data, height, source.disk.tip_hash)
        self.finals.setdefault(height, set()).add(block.hash)

    def check(self, *, except_keys: Iterable[int] = ()) -> None:
        """S1 and S2, over everything so far."""
        assert all(len(hashes) == 1 for hashes in self.finals.values()), "two final blocks"
        excepted = {block_key(key)[1:] for key in except_keys}
        for key, votes in self.votes.items():
            if key in excepted:
                continue
            positions = [(v.height, v.round, int(v.type)) for v in votes]
            assert positions == sorted(set(positions)), f"a member contradicts itself: {votes}"
        for (number, height), hashes in self.signed_blocks.items():
            assert number in except_keys or len(hashes) == 1, f"m{number} signed two at {height}"

    def accused_members(self) -> set[int]:
        """Indexes of all members that evidence names."""
        return {member for _, member, _, _ in self.accused}
