"""A member's side of a signer process: asks, checks what comes back, and finds it again when lost.

Requests block, as an fsync does: the next thing a member does rests on the answer. While the signer
is away every request fails at once with SignerUnreachable and nothing leaves; `restore` connects
again and tells whether it is the same signer with the same memory.

Source: consensus:R1, consensus:R5, consensus:R6, consensus:C40, N31; docs/signer.md.
"""

import contextlib
import select
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol, TypeVar

from federation.consensus.encoding import InvalidMessage
from federation.consensus.messages import Answer
from federation.consensus.votes import BlockSignature, Certificate, Vote
from federation.frames import FrameDecoder, FrameError, encode_frame
from federation.members import MemberSet
from federation.signer_link import connect
from federation.signer_messages import (
    ASK_LIMITS_BYTES,
    HEADERS_MAX,
    HEADERS_MAX_BYTES,
    REPLY_LIMITS_BYTES,
    SIGNATURE_SIZE_BYTES,
    SIGNER_PROTOCOL,
    Advance,
    AnswerOrder,
    Ask,
    BlockOrder,
    Reply,
    SignerFacts,
    Tip,
    VoteOrder,
    decode_reply,
    decode_signatures,
)
from federation.signer_port import SignerFailed, SignerRefused, SignerUnreachable
from peg.payments import Payment
from sidechain.primitives.block import BlockHeader

T = TypeVar("T")
TIMEOUT_S: Final = 3
"""How long a signer may take for one request; an fsync of a busy disk is below it."""
READ_BYTES: Final = 65_536
OWED_MAX: Final = 8
"""Replies to ADVANCE that may be outstanding; they are read before the next answer."""


class HeaderSource(Protocol):
    """The member's own chain. Met by `sidechain.chain.Chain`."""

    @property
    def tip_height(self) -> int:
        """Height of the last final block."""
        ...

    def header(self, height: int) -> BlockHeader:
        """A header, signblock witness included."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerHome:
    """Where the signer of a member is, and what it must be.

    Attributes:
        genesis: 32 bytes, internal order.
        block_key, peg_key: what the federation file gives this member.
        scripts: the k-of-n scripts this member knows.
    """

    path: Path
    genesis: bytes
    block_key: bytes
    peg_key: bytes
    scripts: tuple[bytes, ...]


class _Link:
    """One connection: frames out, replies in."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._decoder = FrameDecoder(REPLY_LIMITS_BYTES)
        self._replies: deque[tuple[int, bytes]] = deque()

    def send(self, kind: int, body: bytes) -> None:
        self._link.sendall(encode_frame(kind, body, ASK_LIMITS_BYTES))

    def receive(self) -> tuple[int, bytes]:
        while not self._replies:
            data = self._link.recv(READ_BYTES)
            if not data:
                raise ConnectionResetError("the signer has closed the connection")
            self._replies.extend(self._decoder.feed(data))
        return self._replies.popleft()

    def is_closed(self) -> bool:
        # recv would first wait for as long as the socket's timeout says
        waiting = select.poll()
        waiting.register(self._link, select.POLLIN)
        if not waiting.poll(0):
            return False
        try:
            return self._link.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def close(self) -> None:
        self._link.close()


@dataclass(frozen=True, slots=True)
class Greeting:
    """A new connection, what the signer said of itself on it, and its counter."""

    link: _Link
    facts: SignerFacts
    counter: int


class RemoteSigner:
    """Meets `federation.signer_port.MemberSigner` by asking a process. One owner: the engine.

    Args:
        on_lost: told why, each time the signer does not answer any more.
    """

    def __init__(self, home: SignerHome, on_lost: Callable[[str], None]) -> None:
        self._home = home
        self._on_lost = on_lost
        self._link: _Link | None = None
        self._facts: SignerFacts | None = None
        self._counter = 0
        self._in_doubt = 0
        self._owed = 0
        self._told_height = 0
        self._chain: HeaderSource | None = None
        self._params_root = bytes(32)
        self._index: int | None = None
        self._untold: deque[tuple[Ask, bytes]] = deque()

    # -- connection

    def open(self) -> None:
        """Connect for the first time.

        Raises:
            SignerUnreachable: nobody answers there. SignerFailed: it is not this member's signer.
        """
        self._take(greet(self._home))

    @property
    def is_connected(self) -> bool:
        """Whether the signer answered last time."""
        return self._link is not None

    @property
    def home(self) -> SignerHome:
        """Where it is looked for."""
        return self._home

    def follow(self, chain: HeaderSource) -> None:
        """Feed it the headers of this chain from now on (R1)."""
        self._chain = chain

    def restore(self, greeting: Greeting) -> None:
        """Go on with a new connection, made by `greet` in a thread.

        Raises:
            SignerFailed: this signer remembers less or more than the one before (R6).
            SignerUnreachable: it is gone again.
        """
        counter = greeting.counter
        if not self._counter <= counter <= self._counter + self._in_doubt:
            greeting.link.close()
            raise SignerFailed(
                f"the signer came back with another memory: it counts {counter} signatures, "
                f"{self._counter} were seen (R6)"
            )
        self._take(greeting)
        self._tell_bounds()
        if self._told_height:
            self._feed_headers()

    def close(self) -> None:
        """Give the connection back; nothing is asked after it."""
        self._owed = 0
        if self._link is not None:
            self._link.close()
            self._link = None

    def _take(self, greeting: Greeting) -> None:
        self.close()
        self._link, self._facts = greeting.link, greeting.facts
        self._counter, self._in_doubt = greeting.counter, 0

    def probe(self) -> None:
        """Notice a signer that has gone away while nothing was asked."""
        if self._link is not None and self._link.is_closed():
            self._lose("the signer has closed the connection")

    def _lose(self, reason: str) -> None:
        if self._link is not None:
            self.close()
            self._on_lost(reason)

    # -- what it knows

    @property
    def block_key(self) -> bytes:
        """Public block key, 33 bytes."""
        return self._home.block_key

    @property
    def counter(self) -> int:
        """How many signatures the signer has let out, as far as it said."""
        return self._counter

    @property
    def position(self) -> tuple[int, int, int]:
        """Highest voted position, as of the last connection."""
        return self._known.position

    @property
    def block_signature(self) -> tuple[int, bytes] | None:
        """Last block signed, as of the last connection."""
        signed = self._known.block_signature
        return signed if signed[0] else None

    @property
    def abstains(self) -> bool:
        """Whether it abstained, as of the last connection."""
        return self._known.abstains

    @property
    def pid(self) -> int:
        """Of its process, as of the last connection."""
        return self._known.pid

    @property
    def _known(self) -> SignerFacts:
        if self._facts is None:
            raise SignerUnreachable("the signer has never answered")
        return self._facts

    # -- agreement

    def learn_script(self, witness_script: bytes) -> None:
        """Show the signer the k-of-n script of a set to come, with the headers that follow."""
        if witness_script not in self._home.scripts:
            self._home = replace(self._home, scripts=(*self._home.scripts, witness_script))

    def begin_height(self, members: MemberSet, params_root: bytes) -> None:
        """Feed it the headers up to the own tip; the answer is read with the next one.

        `members` is not sent: the signer finds its own set (R1).
        """
        self._index = members.index_of(self.block_key[1:])
        self._params_root = params_root
        if self._chain is not None:
            self._told_height = self._chain.tip_height
        if self._link is not None:
            try:
                self._feed_headers()
            except SignerUnreachable:
                return  # what is asked next will say so

    def abstain(self) -> None:
        """Sign no vote until a height to vote from is set (R6)."""
        self._bound(Ask.ABSTAIN)

    def refuse_below(self, height: int) -> None:
        """Sign no vote below this height (C72)."""
        self._bound(Ask.REFUSE_BELOW, height.to_bytes(4, "little"))

    def resume_at(self, height: int) -> None:
        """Sign votes from this height on (C76)."""
        self._bound(Ask.RESUME_AT, height.to_bytes(4, "little"))

    def sign_vote(self, vote: Vote, certificate: Certificate | None) -> Vote:
        """Have a vote signed (R2, R3)."""
        order = VoteOrder(self._home.genesis, self._params_root, vote, certificate)
        signature = self._counted(Ask.SIGN_VOTE, order.encode())
        return replace(vote, signature=signature)

    def sign_block_hash(
        self, height: int, block_hash: bytes, certificate: Certificate
    ) -> BlockSignature:
        """Have a decided block signed (R4)."""
        if self._index is None:
            raise SignerRefused("this key is not in the member set of the height")
        order = BlockOrder(height, block_hash, certificate)
        signature = self._counted(Ask.SIGN_BLOCK, order.encode())
        return BlockSignature(
            height=height, block_hash=block_hash, member=self._index, signature=signature
        )

    def sign_rollcall_answer(self, answer: Answer, asker_key: bytes, nonce: bytes) -> Answer:
        """Complete a roll-call answer."""
        order = AnswerOrder.of(answer, asker_key, nonce)
        signature = self._signature(Ask.ANSWER, order.encode())
        return replace(answer, answerer_key=self.block_key[1:], signature=signature)

    # -- peg

    def sign_peg_frame(self, kind: int, body: bytes) -> bytes:
        """The signature that ends a frame of kind 18 to 23 (N15)."""
        return self._signature(Ask.SIGN_FRAME, bytes((kind,)) + body)

    def sign_message(self, tag: str, message: bytes) -> bytes:
        """A BIP340 signature over a tagged message."""
        name = tag.encode("ascii")
        return self._signature(Ask.SIGN_MESSAGE, bytes((len(name),)) + name + message)

    def sign_payment(self, payment: Payment) -> tuple[bytes, ...]:
        """Signatures of the peg key on all inputs."""
        signatures = _understood(
            lambda: decode_signatures(self._ask(Ask.SIGN_PEG, payment.encode()))
        )
        if len(signatures) != len(payment.inputs):
            raise SignerFailed("the signer gave another number of signatures")
        return signatures

    # -- halting

    def halt(self) -> None:
        """Sign nothing but roll-call answers (C60)."""
        self._bound(Ask.HALT)

    def unhalt(self) -> None:
        """Leave `halt` (N13)."""
        self._bound(Ask.UNHALT)

    # -- bounds

    def _bound(self, kind: Ask, body: bytes = b"") -> None:
        """Tell what may be signed from now on: at once, or in `restore` while it is away.

        All are told in the order they came in, and before anything else is asked.
        """
        self._untold.append((kind, body))
        with contextlib.suppress(SignerUnreachable):
            self._tell_bounds()

    def _tell_bounds(self) -> None:
        while self._untold:
            self._ask(*self._untold[0])
            self._untold.popleft()

    # -- asking

    def _counted(self, kind: Ask, body: bytes) -> bytes:
        """A signature that moves the counter, also when its reply is lost on the way."""
        if self._link is not None:
            self._in_doubt += 1
        return self._signature(kind, body)

    def _signature(self, kind: Ask, body: bytes) -> bytes:
        signature = self._ask(kind, body)
        if len(signature) != SIGNATURE_SIZE_BYTES:
            raise SignerFailed("the signer gave a signature of another length")
        return signature

    def _ask(self, kind: Ask, body: bytes) -> bytes:
        """One request; the payload of its reply.

        Raises:
            SignerRefused: a rule forbids it. SignerFailed: the signer cannot go on, or speaks
                another language. SignerUnreachable: it does not answer.
        """
        link = self._link
        if link is None:
            raise SignerUnreachable("the signer does not answer")
        try:
            link.send(kind, body)
            self._read_owed(link)
            reply = link.receive()
        except (OSError, FrameError) as error:
            self._lose(str(error) or type(error).__name__)
            raise SignerUnreachable(f"the signer does not answer: {error}") from error
        self._in_doubt = 0  # this reply is its own, a refusal as well; that to an ADVANCE is not
        return self._payload(*reply)

    def _payload(self, kind: int, body: bytes) -> bytes:
        try:
            counter, payload = decode_reply(body)
        except InvalidMessage as error:
            raise SignerFailed(f"the signer's reply is malformed: {error}") from error
        self._counter = max(self._counter, counter)
        if kind == Reply.DONE:
            return payload
        reason = payload.decode(errors="replace")
        raise SignerFailed(reason) if kind == Reply.FAILED else SignerRefused(reason)

    def _feed_headers(self) -> None:
        """ADVANCE from the signer's tip to the own; many at a time, or one without waiting."""
        chain, link = self._chain, self._link
        if chain is None or link is None:
            return
        height = self._known.tip_height
        while height < chain.tip_height:
            batch: list[bytes] = []
            size_bytes = sum(map(len, self._home.scripts)) + 1_000
            while height < chain.tip_height and len(batch) < HEADERS_MAX:
                data = chain.header(height + 1).serialize()
                if batch and size_bytes + len(data) + 4 > HEADERS_MAX_BYTES:
                    break
                batch.append(data)
                size_bytes += len(data) + 4
                height += 1
            self._advance(link, Advance(tuple(batch), self._home.scripts), height)

    def _advance(self, link: _Link, advance: Advance, height: int) -> None:
        try:
            link.send(Ask.ADVANCE, advance.encode())
            self._owed += 1
            self._read_owed(link, most=OWED_MAX)
        except (OSError, FrameError) as error:
            self._lose(str(error) or type(error).__name__)
            raise SignerUnreachable(f"the signer does not answer: {error}") from error
        self._facts = replace(self._known, tip_height=height)

    def _read_owed(self, link: _Link, most: int = 0) -> None:
        """Read replies to ADVANCE until no more than `most` are outstanding.

        One that is no good ends the connection: whatever was asked behind it would stay unread, and
        be taken for the answer to something else.
        """
        while self._owed > most:
            self._owed -= 1
            try:
                self._check_tip(link)
            except (SignerRefused, SignerFailed) as fault:
                self._lose(str(fault))
                raise

    def _check_tip(self, link: _Link) -> None:
        """Read one reply to ADVANCE: it took our headers."""
        payload = self._payload(*link.receive())
        tip = _understood(lambda: Tip.decode(payload))
        chain = self._chain
        if chain is None or tip.height > chain.tip_height:
            return
        if chain.header(tip.height).hash != tip.block_hash:
            raise SignerFailed(f"the signer follows another chain at height {tip.height}")


def _understood(read: Callable[[], T]) -> T:
    try:
        return read()
    except InvalidMessage as error:
        raise SignerFailed(f"the signer's reply is malformed: {error}") from error


def greet(home: SignerHome) -> Greeting:
    """Connect, say HELLO, and check who answers; touches nothing shared, so a thread may do it.

    Raises:
        SignerUnreachable: nobody answers there, or somebody else uses it. SignerFailed: it is not
            this member's signer.
    """
    try:
        link = _Link(connect(home.path, TIMEOUT_S))
    except OSError as error:
        raise SignerUnreachable(f"no signer at {home.path}: {error}") from error
    try:
        link.send(Ask.HELLO, SIGNER_PROTOCOL.to_bytes(4, "little") + home.genesis)
        kind, body = link.receive()
        counter, payload = decode_reply(body)
        if kind != Reply.DONE:
            reason = payload.decode(errors="replace")
            busy = reason.startswith("busy")
            raise SignerUnreachable(reason) if busy else SignerFailed(reason)
        facts = SignerFacts.decode(payload)
    except (OSError, FrameError) as error:
        link.close()
        raise SignerUnreachable(f"the signer does not answer: {error}") from error
    except InvalidMessage as error:
        link.close()
        raise SignerFailed(f"the signer's HELLO is malformed: {error}") from error
    except (SignerFailed, SignerUnreachable):
        link.close()
        raise
    if (facts.block_key, facts.peg_key) != (home.block_key, home.peg_key):
        link.close()
        raise SignerFailed(f"the signer at {home.path} holds other keys than this member's")
    return Greeting(link, facts, counter)
