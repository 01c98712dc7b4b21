"""What comes from other members, verified before the core of a simulated member sees it.

Does what `federation.incoming` does: nothing here decides.

Source: the contract in `federation.consensus.effects`, consensus:V6, consensus:C71, consensus:C92.
"""

from typing import TYPE_CHECKING, Any

from federation.consensus import events as ev
from federation.consensus.driver import Driver
from federation.consensus.early import EarlyMessages
from federation.consensus.effects import SendAnswer
from federation.consensus.messages import Answer, Evidence, GetFinal, Message, RollCall, Status
from federation.consensus.records import Mode
from federation.consensus.votes import (
    NO_SIGNATURE,
    BlockMessage,
    BlockSignature,
    Certificate,
    Proposal,
    Vote,
)
from federation.sim.final import FinalMessage, decode_final, encode_final, is_signed_final
from federation.sim.world import block_fields, block_hash, is_empty

if TYPE_CHECKING:
    from federation.sim.member import Node

Signed = Vote | Proposal | Certificate | BlockSignature | BlockMessage


class Incoming:
    """Messages for one process of a member."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._early = EarlyMessages()

    def replay_early(self) -> None:
        """Treat what came for this height before it began as if it came now (C92)."""
        for sender, message in self._early.drain():
            self.receive(sender, message)

    def receive(self, sender: int, message: Any) -> None:
        """What the shell does with a frame before the core sees it."""
        node = self._node
        driver = node.driver
        if driver is None or driver.height == 0:
            return
        match message:
            case FinalMessage():
                node.catch_up.on_final(sender, message)
            case Vote() | Proposal() | Certificate() | BlockSignature() | BlockMessage():
                self._receive_signed(driver, sender, message)
            case Status():
                node.catch_up.peer_at(sender, message.height - 1)
                self._deliver(sender, message)
            case GetFinal(from_height, count):
                node.send_final(sender, from_height, count)
            case RollCall():
                if message.asker_key == node.sim.keys(sender).public_key[1:]:
                    self._deliver(sender, message)
            case Answer():
                self._receive_answer(driver, sender, message)
            case Evidence():
                if node.verifier.check(message).good:
                    self._deliver(sender, message)
            case _:
                self._deliver(sender, message)

    def _receive_signed(self, driver: Driver, sender: int, message: Signed) -> None:
        node = self._node
        height = message.vote.height if isinstance(message, Proposal) else message.height
        if height == driver.height + 1:
            self._early.add(sender, message)
        if height != driver.height or not driver.wants(message):
            return
        if isinstance(message, BlockMessage):
            self._receive_block(driver, sender, message)
        elif node.verifier.check(message).good:
            now = driver.agreement.round
            window = (now - 1, max(now, 0) + 3)
            told = node.sim.witness.on_told(node.member, node.life, message, window)
            life = node.life
            self._deliver(sender, message)
            if told and life == node.life and node.driver is not None and not node.is_suspect:
                node.sim.witness.check_accused(node.member, life, told)

    def _receive_block(self, driver: Driver, sender: int, message: BlockMessage) -> None:
        node = self._node
        if block_hash(message.data) != message.block_hash:
            return  # V6: wrong bytes, not a wrong block
        if driver.agreement.needs(message.block_hash):
            node.feed(
                ev.BlockReceived(
                    now_ms=node.sim.now_ms,
                    sender=sender,
                    height=message.height,
                    block_hash=message.block_hash,
                    data=message.data,
                    is_empty=is_empty(message.data),
                )
            )

    def _receive_answer(self, driver: Driver, sender: int, answer: Answer) -> None:
        node = self._node
        if driver.mode not in (Mode.ROLLCALL, Mode.ABSTAINING):
            return
        checked = node.verifier.check_answer(answer, node.key.public_key[1:], node.nonce)
        if checked.good and self._is_proved(answer):
            self._deliver(sender, answer)

    def _is_proved(self, answer: Answer) -> bool:
        node = self._node
        if not isinstance(answer.proof, bytes):
            return answer.proof is not None or answer.known == 0
        block = decode_final(answer.proof)
        return (
            block is not None
            and (block_fields(block.data).height, block.hash) == (answer.known, answer.known_hash)
            and is_signed_final(block, node.sim.plan, node.sim.scheme)
        )

    def _deliver(self, sender: int, message: Message) -> None:
        node = self._node
        node.feed(ev.MessageReceived(now_ms=node.sim.now_ms, sender=sender, message=message))

    def answer(self, order: SendAnswer) -> None:
        """Complete, sign and send a roll-call answer (C71)."""
        node = self._node
        if not node.is_suspect:
            own = node.written
            node.sim.witness.on_answer(order.to, node.member, node.life, order, own)
        proof: bytes | Certificate | None = order.certificate
        if proof is None and order.known:
            proof = encode_final(node.disk.chain[order.known - 1])
        answer = Answer(
            known=order.known,
            known_hash=order.known_hash,
            abstaining=order.abstaining,
            answerer_key=node.key.public_key[1:],
            signature=NO_SIGNATURE,
            proof=proof,
            seen=order.seen,
        )
        signed = node.signer.sign_rollcall_answer(answer, order.asker_key, order.nonce)
        node.send(order.to, signed)
