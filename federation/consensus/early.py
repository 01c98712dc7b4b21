"""Messages of the next height, kept unverified until its member set is known.

Source: consensus:C82, consensus:C92, consensus:C93.
"""

from typing import Final

from federation.consensus.events import PeerId
from federation.consensus.messages import Message
from federation.consensus.votes import BlockMessage, BlockSignature, Certificate, Proposal, Vote

SMALL_PER_PEER_MAX: Final = 40
BLOCK_MAX_BYTES: Final = 4_000_000


class EarlyMessages:
    """Per peer: at most 40 small messages, one PROPOSAL, one BLOCK (C92). Owned by the shell."""

    def __init__(self) -> None:
        self._small: dict[PeerId, list[Message]] = {}
        self._large: dict[tuple[PeerId, type], Message] = {}

    def add(
        self,
        sender: PeerId,
        message: Vote | Proposal | BlockMessage | Certificate | BlockSignature,
    ) -> bool:
        """Keep a message of the next height; False when it is dropped (status exchange heals)."""
        if isinstance(message, Proposal | BlockMessage):
            if isinstance(message, BlockMessage) and len(message.data) > BLOCK_MAX_BYTES:
                return False
            return self._large.setdefault((sender, type(message)), message) is message
        held = self._small.setdefault(sender, [])
        if len(held) >= SMALL_PER_PEER_MAX:
            return False
        held.append(message)
        return True

    def drain(self) -> list[tuple[PeerId, Message]]:
        """All messages with their senders, proposals first; nothing is kept."""
        drained: list[tuple[PeerId, Message]] = [
            (sender, message) for (sender, _), message in self._large.items()
        ]
        for sender, messages in self._small.items():
            drained.extend((sender, message) for message in messages)
        self._large.clear()
        self._small.clear()
        return drained

    def forget(self, sender: PeerId) -> None:
        """Drop what a peer sent."""
        self._small.pop(sender, None)
        for key in [key for key in self._large if key[0] == sender]:
            del self._large[key]
