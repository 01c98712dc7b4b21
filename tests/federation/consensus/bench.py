"""A bench for one driver: feed it messages of others, read what it orders and signs.

Signing is answered at once; verdicts are ACCEPTABLE unless `verdicts` says otherwise; nothing else
happens by itself.
"""

from collections import deque
from collections.abc import Iterable
from typing import TypeVar

from federation.consensus.driver import Driver
from federation.consensus.effects import (
    Broadcast,
    BuildBlock,
    CheckBlock,
    Effect,
    Persist,
    PersistBlock,
    Send,
    SetTimer,
    SignBlock,
    SignVote,
)
from federation.consensus.encoding import NIL
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
    TimerKind,
    Verdict,
    VoteSigned,
)
from federation.consensus.messages import Message, Status
from federation.consensus.records import JournalRecord, restore
from federation.consensus.state_machine import Agreement
from federation.consensus.votes import (
    NO_SIGNATURE,
    BlockSignature,
    Certificate,
    Proposal,
    Vote,
    VoteType,
)
from federation.members import MemberSet
from federation.sim.world import (
    GENESIS_TIP,
    TIMES,
    Keys,
    block_hash,
    block_key,
    is_empty,
    make_block,
    member_set,
    params_root,
)

PROPOSAL, PREVOTE, PRECOMMIT = VoteType.PROPOSAL, VoteType.PREVOTE, VoteType.PRECOMMIT
NONCE = bytes(range(32))
T = TypeVar("T")


class Bench:
    """Member `me` of n, at height 1 unless said otherwise; its turn is round me − height mod n."""

    def __init__(
        self,
        me: int = 0,
        *,
        n: int = 4,
        k: int = 3,
        height: int = 1,
        mode: StartMode = StartMode.FRESH,
        journal: Iterable[JournalRecord] = (),
        blocks: dict[bytes, bytes] | None = None,
        driver_class: type[Driver] = Driver,
        work_due: bool = True,
        now_ms: int = 1_000_000,
        members: MemberSet | None = None,
    ) -> None:
        self.me, self.now_ms = me, now_ms
        self.set = members or member_set(n, k)
        self.keys = Keys(self.set)
        self.journal: list[JournalRecord] = list(journal)
        self.disk_blocks: dict[bytes, bytes] = dict(blocks or {})
        self.effects: list[Effect] = []
        self.verdicts: dict[bytes, Verdict] = {}
        self.answers_checks = True
        self.driver = driver_class(
            vote_key=block_key(me)[1:],
            times=TIMES,
            image=restore(self.journal),
            blocks=dict(self.disk_blocks),
        )
        self.feed(Started(now_ms=now_ms, mode=mode, nonce=NONCE, tip_height=height - 1))
        for peer in range(n):
            if peer != me:
                self.feed(PeerConnected(now_ms=now_ms, peer=peer))
        self.start_height(height, work_due=work_due)

    # --- driving

    @property
    def agreement(self) -> Agreement:
        """The height in progress."""
        return self.driver.agreement

    def feed(self, event: Event) -> list[Effect]:
        """Feed an event and the answers to its effects; returns all effects."""
        waiting: deque[Event] = deque([event])
        found: list[Effect] = []
        while waiting:
            for effect in self.driver.handle(waiting.popleft()):
                found.append(effect)
                self._obey(effect, waiting)
        self.effects += found
        return found

    def _obey(self, effect: Effect, waiting: deque[Event]) -> None:
        match effect:
            case Persist(records):
                self.journal += records
            case PersistBlock(hash_, data):
                self.disk_blocks[hash_] = data
            case SignVote(vote, _, _):
                waiting.append(VoteSigned(now_ms=self.now_ms, vote=self.keys.sign_vote(vote)))
            case SignBlock(height, hash_, _, _):
                signature = self.keys.sign_block(height, hash_, self.me)
                waiting.append(BlockSigned(now_ms=self.now_ms, signature=signature))
            case CheckBlock() if self.answers_checks:
                waiting.append(self.checked(effect))

    def checked(self, question: CheckBlock) -> BlockChecked:
        """The answer to a question for a verdict."""
        return BlockChecked(
            now_ms=self.now_ms,
            height=question.height,
            round=question.round,
            block_hash=question.block_hash,
            verdict=self.verdicts.get(question.block_hash, Verdict.ACCEPTABLE),
        )

    def start_height(
        self,
        height: int,
        *,
        tip_hash: bytes = GENESIS_TIP,
        members: MemberSet | None = None,
        work_due: bool = True,
    ) -> list[Effect]:
        """The block before `height` is final."""
        self.set = members or self.set
        event = HeightStarted(
            now_ms=self.now_ms,
            height=height,
            tip_hash=tip_hash,
            members=self.set,
            params_root=params_root(height),
            work_due=work_due,
        )
        return self.feed(event)

    def enter_round_0(self) -> list[Effect]:
        """Let the shortest pause pass."""
        return self.tick(TIMES.min_interval_ms, Timer(kind=TimerKind.START, height=self.height))

    def tick(self, after_ms: int, timer: Timer) -> list[Effect]:
        """Time passes, then a timer fires."""
        self.now_ms += after_ms
        return self.feed(TimerFired(now_ms=self.now_ms, timer=timer))

    def fire(self, kind: TimerKind, round_: int | None = None) -> list[Effect]:
        """A timer of the height fires, of the own round unless said otherwise."""
        number = max(self.agreement.round, 0) if round_ is None else round_
        return self.tick(0, Timer(kind=kind, height=self.height, round=number))

    def receive(self, message: Message, sender: int = 99) -> list[Effect]:
        """A verified message arrives."""
        return self.feed(MessageReceived(now_ms=self.now_ms, sender=sender, message=message))

    def built(self, data: bytes) -> list[Effect]:
        """The own block for the own round is ready."""
        event = BlockBuilt(
            now_ms=self.now_ms,
            height=self.height,
            round=self.agreement.round,
            block_hash=block_hash(data),
            data=data,
        )
        return self.feed(event)

    def final(self, hash_: bytes, signers: Iterable[int] = (0, 1, 2)) -> list[Effect]:
        """A verified final block of the height arrives (C38)."""
        event = FinalVerified(
            now_ms=self.now_ms,
            height=self.height,
            block_hash=hash_,
            header=b"header of " + hash_,
            signatures=tuple(self.keys.sign_block(self.height, hash_, m) for m in signers),
        )
        return self.feed(event)

    # --- things others send

    @property
    def height(self) -> int:
        """The height in progress."""
        return self.driver.height

    def block(self, salt: int, *, valid: bool = True, empty: bool = False) -> bytes:
        """Bytes of some block of this height."""
        return make_block(
            self.height, self.agreement.tip_hash, proposer=9, salt=salt, valid=valid, empty=empty
        )

    def vote(
        self, kind: VoteType, round_: int, hash_: bytes, member: int, valid_round: int = -1
    ) -> Vote:
        """A signed vote of any member."""
        return self.keys.sign_vote(
            Vote(
                type=kind,
                height=self.height,
                round=round_,
                valid_round=valid_round,
                block_hash=hash_,
                member=member,
                signature=NO_SIGNATURE,
            )
        )

    def votes(self, kind: VoteType, round_: int, hash_: bytes, *members: int) -> list[Effect]:
        """Votes of these members arrive."""
        found: list[Effect] = []
        for member in members:
            found += self.receive(self.vote(kind, round_, hash_, member), member)
        return found

    def certificate(self, kind: VoteType, round_: int, hash_: bytes, *members: int) -> Certificate:
        """A certificate of these members' votes."""
        votes = (self.vote(kind, round_, hash_, member) for member in sorted(members))
        return Certificate(
            type=kind,
            height=self.height,
            round=round_,
            block_hash=hash_,
            votes=tuple((vote.member, -1, vote.signature) for vote in votes),
        )

    def propose(
        self,
        data: bytes,
        *,
        round_: int | None = None,
        pol: Certificate | None = None,
        with_block: bool = True,
        member: int | None = None,
    ) -> list[Effect]:
        """The proposer of a round (the own one unless said otherwise) proposes a block."""
        number = max(self.agreement.round, 0) if round_ is None else round_
        proposer = self.set.proposer(self.height, number) if member is None else member
        valid_round = pol.round if pol else -1
        vote = self.vote(PROPOSAL, number, block_hash(data), proposer, valid_round)
        found = self.receive(Proposal(vote, pol), proposer)
        return found + (self.offer(data) if with_block else [])

    def offer(self, data: bytes, sender: int = 99) -> list[Effect]:
        """Bytes of a block arrive."""
        event = BlockReceived(
            now_ms=self.now_ms,
            sender=sender,
            height=self.height,
            block_hash=block_hash(data),
            data=data,
            is_empty=is_empty(data),
        )
        return self.feed(event)

    def block_signature(self, hash_: bytes, member: int) -> BlockSignature:
        """A BLOCKSIG of any member."""
        return self.keys.sign_block(self.height, hash_, member)

    def status(self, **fields: object) -> Status:
        """A STATUS of a peer at this height that has seen nothing."""
        known: dict[str, object] = {
            "height": self.height,
            "tip_hash": GENESIS_TIP,
            "round": self.agreement.round,
            "step": 1,
            "valid_round": -1,
            "flags": 0,
            "decided_hash": NIL,
            "block_signatures": 0,
            "prevotes": 0,
            "precommits": 0,
            "positions": ((-1, 0),) * self.set.n,
        }
        return Status(**(known | fields))  # type: ignore[arg-type]

    # --- reading effects

    def own_votes(self, kind: VoteType, round_: int | None = None) -> list[Vote]:
        """Own votes of a type that were broadcast, in order."""
        return [
            vote
            for vote in sent_votes(self.effects)
            if vote.type is kind and vote.member == self.me and round_ in (None, vote.round)
        ]

    def own_block_signatures(self) -> list[BlockSignature]:
        """Own BLOCKSIGs that were broadcast."""
        return [
            effect.message
            for effect in self.effects
            if isinstance(effect, Broadcast)
            and isinstance(effect.message, BlockSignature)
            and effect.message.member == self.me
        ]


def sent_votes(effects: Iterable[Effect]) -> list[Vote]:
    """Votes broadcast among effects, those of proposals too."""
    found: list[Vote] = []
    for effect in effects:
        if isinstance(effect, Broadcast):
            message = effect.message
            if isinstance(message, Proposal):
                found.append(message.vote)
            elif isinstance(message, Vote):
                found.append(message)
    return found


def of_type(effects: Iterable[object], kind: type[T]) -> list[T]:
    """Effects of one type."""
    return [effect for effect in effects if isinstance(effect, kind)]


def sent_to(effects: Iterable[Effect], peer: int) -> list[Message]:
    """Messages sent to one peer."""
    return [effect.message for effect in effects if isinstance(effect, Send) and effect.to == peer]


def timers(effects: Iterable[Effect], kind: TimerKind) -> list[SetTimer]:
    """Timers of one kind that were set."""
    return [e for e in effects if isinstance(e, SetTimer) and e.timer.kind is kind]


def builds(effects: Iterable[Effect]) -> list[BuildBlock]:
    """Orders to build a block."""
    return of_type(effects, BuildBlock)
