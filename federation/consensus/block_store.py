"""Proposed blocks of one height: bytes, verdicts, and which are missing.

Source: consensus:C14, consensus:C22, consensus:C94, consensus:4.5, N8.
"""

from dataclasses import dataclass

from federation.consensus.events import PeerId, Verdict


@dataclass(slots=True)
class HeldBlock:
    """Bytes of a proposal and what is known of them.

    `objective` is sticky: None until the first verdict. `verdict` holds E and P as judged in
    `judged_round`; `asked_round` is the round of the last question.
    """

    data: bytes
    is_empty: bool
    objective: bool | None = None
    verdict: Verdict | None = None
    judged_round: int = -2
    asked_round: int = -2
    is_durable: bool = False


class BlockStore:
    """Blocks by hash; at most `limit`, the needed ones last to go (C94)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._blocks: dict[bytes, HeldBlock] = {}
        self._missing: dict[bytes, PeerId | None] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def get(self, block_hash: bytes) -> HeldBlock | None:
        """The block of a hash, if its bytes are held."""
        return self._blocks.get(block_hash)

    def have(self, block_hash: bytes) -> bool:
        """C14: bytes held and objectively valid."""
        block = self._blocks.get(block_hash)
        return block is not None and block.objective is True

    def add(self, block_hash: bytes, block: HeldBlock, needed: list[bytes]) -> None:
        """Hold bytes; drops the oldest block that is not in `needed` when there are too many."""
        if block_hash in self._blocks:
            return
        self._missing.pop(block_hash, None)
        self._blocks[block_hash] = block
        if len(self._blocks) > self._limit:
            for candidate in self._blocks:
                if candidate not in needed:
                    del self._blocks[candidate]
                    return

    def miss(self, block_hash: bytes, source: PeerId | None) -> None:
        """Note that bytes are wanted, and who named them first."""
        if block_hash not in self._blocks and self._missing.get(block_hash) is None:
            self._missing[block_hash] = source

    def missing(self) -> list[tuple[bytes, PeerId | None]]:
        """Wanted hashes and whom to ask first, in the order they were missed."""
        return list(self._missing.items())

    def stop_missing(self, block_hash: bytes) -> None:
        """These bytes are no longer wanted."""
        self._missing.pop(block_hash, None)
