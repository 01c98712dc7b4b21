"""The signer process's rules: requests in, replies out, and nothing believed that is not verified.

It follows the headers by itself (R1), so it knows the member set and D of the one height on which
it votes, and hands the rest to the guard. No sockets here.

Source: consensus:R1-R8, peg:P38, N31; docs/signer.md.
"""

from typing import Final, assert_never

from federation.consensus.encoding import NIL, InvalidMessage, MessageReader
from federation.signer import Signer, SignerFailed, SignerRefused
from federation.signer_chain import FollowedChain, WrongHeader
from federation.signer_messages import (
    Advance,
    AnswerOrder,
    Ask,
    BlockOrder,
    Reply,
    SignerFacts,
    Tip,
    VoteOrder,
    encode_reply,
    encode_signatures,
    reason_bytes,
)
from peg.payments import Payment
from sidechain.errors import InvalidEncoding

HELLO_MIN_VERSION: Final = 1


class SignerDesk:
    """Answers the requests of one member. One owner: the process's loop.

    Args:
        genesis: of the own federation file.
        pid: of this process, for whoever asks.
    """

    def __init__(self, signer: Signer, chain: FollowedChain, *, genesis: bytes, pid: int) -> None:
        self._signer = signer
        self._chain = chain
        self._genesis = genesis
        self._pid = pid
        self._begin_height()

    @property
    def has_failed(self) -> bool:
        """Whether nothing can be signed any more: the disk refused (C40)."""
        return self._signer.has_failed

    def answer(self, kind: int, body: bytes) -> tuple[int, bytes]:
        """Carry out one request; kind and body of the reply.

        Never raises for what a client sent.
        """
        try:
            payload = self._carry_out(Ask(kind), body)
        except SignerRefused as refusal:
            return self._reply(Reply.REFUSED, reason_bytes(refusal.reason))
        except (InvalidMessage, InvalidEncoding, WrongHeader, ValueError) as fault:
            return self._reply(Reply.REFUSED, reason_bytes(f"malformed: {fault}"))
        except (SignerFailed, OSError) as failure:
            return self._reply(Reply.FAILED, reason_bytes(str(failure)))
        return self._reply(Reply.DONE, payload)

    def refuse(self, reason: str) -> tuple[int, bytes]:
        """A refusal that is not about a request."""
        return self._reply(Reply.REFUSED, reason_bytes(reason))

    # -- requests

    def _carry_out(self, ask: Ask, body: bytes) -> bytes:
        signer = self._signer
        match ask:
            case Ask.HELLO:
                return self._hello(MessageReader(body))
            case Ask.STATUS:
                return self._facts(MessageReader(body))
            case Ask.SIGN_VOTE:
                return self._sign_vote(body)
            case Ask.SIGN_BLOCK:
                return self._sign_block(BlockOrder.decode(body))
            case Ask.ANSWER:
                return signer.sign_rollcall_statement(AnswerOrder.decode(body).encode())
            case Ask.ADVANCE:
                return self._advance(Advance.decode(body))
            case Ask.SIGN_PEG:
                return encode_signatures(signer.sign_payment(Payment.decode(body)))
            case Ask.SIGN_FRAME:
                reader = MessageReader(body)
                return signer.sign_peg_frame(reader.u8(), reader.take(reader.left))
            case Ask.SIGN_MESSAGE:
                reader = MessageReader(body)
                tag = reader.take(reader.u8()).decode("ascii")
                return signer.sign_message(tag, reader.take(reader.left))
            case Ask.HALT:
                signer.halt()
            case Ask.UNHALT:
                signer.unhalt()
            case Ask.ABSTAIN:
                signer.abstain()
            case Ask.REFUSE_BELOW:
                signer.refuse_below(_height(body))
            case Ask.RESUME_AT:
                signer.resume_at(_height(body))
            case _:
                assert_never(ask)
        return b""

    def _hello(self, reader: MessageReader) -> bytes:
        version, genesis = reader.u32(), reader.hash()
        if version < HELLO_MIN_VERSION:
            raise InvalidMessage(f"version {version} is not spoken here")
        if genesis != self._genesis:
            raise SignerRefused("this signer belongs to another chain")
        return self._facts(reader)

    def _facts(self, reader: MessageReader) -> bytes:
        reader.done()
        signer = self._signer
        return SignerFacts(
            block_key=signer.block_key,
            peg_key=signer.peg_key,
            position=signer.position,
            block_signature=signer.block_signature or (0, NIL),
            vote_from=signer.vote_from,
            halted=signer.halted,
            abstains=signer.abstains,
            tip_height=self._chain.tip_height,
            tip_hash=self._chain.tip_hash,
            pid=self._pid,
        ).encode()

    def _sign_vote(self, body: bytes) -> bytes:
        order = VoteOrder.decode(body, self._own_index())
        if order.genesis != self._genesis:
            raise SignerRefused("the vote is of another chain (R1)")
        if order.params_root != self._chain.params_root():
            raise SignerRefused("the vote names other parameters than are in force (R1)")
        self._check_height(order.vote.height)
        return self._signer.sign_vote(order.vote, order.certificate).signature

    def _sign_block(self, order: BlockOrder) -> bytes:
        self._own_index()  # the guard may know no set but one that is in force no more
        self._check_height(order.height)
        signed = self._signer.sign_block_hash(order.height, order.block_hash, order.certificate)
        return signed.signature

    def _own_index(self) -> int:
        """Place of the own key in the set in force; refuses where either is not known."""
        members = self._chain.member_set()
        member = members.index_of(self._signer.block_key[1:]) if members is not None else None
        if member is None:
            raise SignerRefused("this key is not in the member set of the height (R1)")
        return member

    def _check_height(self, height: int) -> None:
        if height != self._chain.tip_height + 1:
            raise SignerRefused(
                f"height {height} is not the next after {self._chain.tip_height}, the last "
                "header that was shown (R1)"
            )

    def _advance(self, advance: Advance) -> bytes:
        try:
            for script in advance.scripts:
                self._chain.learn_script(script)
            for header in advance.headers:
                self._chain.advance(header)
        except WrongHeader as fault:
            if fault.conflicts:
                self._signer.halt()
                raise SignerRefused(f"halted: {fault.reason} (C60)") from fault
            raise
        finally:
            self._begin_height()
        return Tip(self._chain.tip_height, self._chain.tip_hash, self._chain.params_root()).encode()

    def _begin_height(self) -> None:
        members = self._chain.member_set()
        if members is not None:
            self._signer.begin_height(members, self._chain.params_root())

    def _reply(self, kind: Reply, payload: bytes) -> tuple[int, bytes]:
        return kind, encode_reply(self._signer.counter, payload)


def _height(body: bytes) -> int:
    reader = MessageReader(body)
    height = reader.u32()
    reader.done()
    return height
