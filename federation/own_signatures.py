"""What the core orders to be signed, and what becomes of it while the signer is away.

A refusal or a failure of the signer ends the member (C40). A signer process that only does not
answer ends nothing: the order is in the journal already, nothing has left, and it is carried out,
in order, when the signer is back.

Source: consensus:C36, consensus:C40, consensus:C71, consensus:R5, consensus:R6, N28.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from federation.consensus import effects as fx
from federation.consensus import events as ev
from federation.consensus.messages import Answer, Message
from federation.consensus.records import (
    Amnesia,
    Base,
    Counter,
    JournalRecord,
    Mode,
    Override,
    OverrideAction,
    RecordKind,
    Resume,
    Seen,
    encode_record,
)
from federation.consensus.votes import Certificate
from federation.engine_parts import EngineParts
from federation.signer_port import MemberSigner, SignerRefused, SignerUnreachable

WAITING_MAX: Final = 256
"""Orders kept while the signer is away; newer ones make the oldest needless."""

Order = fx.SignVote | fx.SignBlock


class CountedRecords:
    """The journal's side of signing: the signer's counter and bounds follow the records.

    Args:
        signer: of this member.
    """

    def __init__(self, signer: MemberSigner) -> None:
        self._signer = signer
        self._journaled_counter: int | None = None

    def move_bounds(self, records: Sequence[JournalRecord]) -> None:
        """Tell the signer what these records say of the heights it may vote at."""
        for record in records:
            match record:
                case Amnesia():
                    self._signer.abstain()
                case Resume(height):
                    self._signer.refuse_below(height)
                case Override(action=OverrideAction.RESUME, height=height):
                    self._signer.resume_at(height)
                case Override(action=OverrideAction.UNHALT):
                    self._signer.unhalt()

    def change_mode(self, mode: Mode) -> None:
        """Tell the signer what a mode forbids, also where a process before may have failed to.

        One that died with AMNESIA in the journal while its signer was away has told it nothing.
        """
        if mode is Mode.HALTED:
            self._signer.halt()
        elif mode is Mode.ABSTAINING:
            self._signer.abstain()

    def to_journal(
        self, records: Sequence[JournalRecord]
    ) -> Iterator[tuple[RecordKind, bytes, bool]]:
        """Kind, body and whether to sync: the signer's counter goes before what is next (R5)."""
        last = max((i for i, r in enumerate(records) if not isinstance(r, Seen)), default=-1)
        counter = self._signer.counter
        if last >= 0 and counter != self._journaled_counter:
            yield *encode_record(Counter(counter)), False
            self._journaled_counter = counter
        for i, record in enumerate(records):
            yield *encode_record(record), i == last

    def base(self, base: Base) -> bytes:
        """Body of the BASE record with which the next journal file begins (J7)."""
        others = tuple(record for record in base.records if not isinstance(record, Counter))
        self._journaled_counter = None
        counted = replace(base, records=(Counter(self._signer.counter), *others))
        return encode_record(counted)[1]


class OwnSignatures(CountedRecords):
    """Signatures of one member; runs in the engine's task.

    Args:
        feed: gives an event to the core and obeys what it answers.
        send: takes (member, message).
    """

    def __init__(
        self,
        parts: EngineParts,
        *,
        feed: Callable[[ev.Event], None],
        send: Callable[[int, Message], None],
    ) -> None:
        super().__init__(parts.signer)
        self._parts = parts
        self._feed = feed
        self._send = send
        self._waiting: deque[Order] = deque(maxlen=WAITING_MAX)

    def change_mode(self, mode: Mode) -> None:
        """As above; what waits and is forbidden in this mode is never asked for (C36, C70)."""
        if mode in (Mode.HALTED, Mode.STOPPED):
            self._waiting.clear()
        elif mode is Mode.ABSTAINING:
            blocks = [order for order in self._waiting if isinstance(order, fx.SignBlock)]
            self._waiting = deque(blocks, maxlen=WAITING_MAX)
        super().change_mode(mode)

    # -- signing

    def sign_vote(self, order: fx.SignVote) -> ev.Event | None:
        """Have a vote signed.

        Returns:
            What the core is told now; None when the signer is away, or the guard, which knows only
            its newest position, refuses what was signed before a restart.
        Raises:
            SignerRefused, SignerFailed: the member must stop (C40).
        """
        return self._sign(order)

    def sign_block(self, order: fx.SignBlock) -> ev.Event | None:
        """Have a decided block signed; as `sign_vote`."""
        return self._sign(order)

    def answer(self, order: fx.SendAnswer) -> None:
        """Prove what is known with the final block's header, else with the certificate (C71)."""
        chain = self._parts.chain
        chain.flush()  # N28: what is answered must be true after a crash as well
        proof: bytes | Certificate | None = None
        if 0 < order.known <= chain.tip_height:
            proof = chain.header(order.known).serialize()
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
        try:
            signed = self._signer.sign_rollcall_answer(answer, order.asker_key, order.nonce)
        except SignerUnreachable:
            return  # the question is repeated
        self._send(order.to, signed)

    def go_on(self, restore: Callable[[], None]) -> None:
        """The signer is back: take the new connection in use and carry out what waited.

        Where the signer is lost again meanwhile, everything waits on for the next connection.
        """
        try:
            restore()
        except SignerUnreachable:
            return
        while self._waiting:
            order = self._waiting[0]
            try:
                event = self._ask(order)
            except SignerUnreachable:
                return
            except SignerRefused:
                if _height(order) >= self._parts.driver.height:
                    raise
                event = None  # its height is final by now
            self._waiting.popleft()
            if event is not None:
                self._feed(event)

    def _sign(self, order: Order) -> ev.Event | None:
        if not self._waiting:
            try:
                return self._ask(order)
            except SignerUnreachable:
                pass
        self._waiting.append(order)
        return None

    def _ask(self, order: Order) -> ev.Event | None:
        self._parts.chain.flush()  # N28
        try:
            match order:
                case fx.SignVote(vote, certificate):
                    signed = self._signer.sign_vote(vote, certificate)
                    return ev.VoteSigned(now_ms=self._parts.now_ms(), vote=signed)
                case fx.SignBlock():
                    signature = self._signer.sign_block_hash(
                        order.height, order.block_hash, order.certificate
                    )
                    return ev.BlockSigned(now_ms=self._parts.now_ms(), signature=signature)
        except SignerRefused:
            if order.again:
                return None
            raise


def _height(order: Order) -> int:
    return order.vote.height if isinstance(order, fx.SignVote) else order.height
