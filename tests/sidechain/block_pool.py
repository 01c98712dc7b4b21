"""Blocks on many branches, made once and submitted in any order."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sidechain.chain import Chain
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import Transaction
from tests.factories import SignedChain

NOW_S = 1_800_000_000


class BlockPool:
    """Builds signed blocks on any block it has made, on a chain of its own."""

    def __init__(self, folder: Path, **fields: object) -> None:
        self.signed = SignedChain.open(folder, **fields)
        self.blocks: dict[bytes, Block] = {}
        self._serial = 0

    @property
    def genesis(self) -> bytes:
        """Hash every branch starts from."""
        return self.signed.params.genesis_hash

    def close(self) -> None:
        """Release the folder."""
        self.signed.chain.close()

    def at(self, parent: bytes) -> SignedChain:
        """The builder's chain with `parent` as its tip."""
        chain = self.signed.chain
        line: list[Block] = []
        while not chain.is_active(parent):
            block = self.blocks[parent]
            line.append(block)
            parent = block.header.prev_hash
        while chain.tip_hash != parent:
            chain.disconnect_tip(NOW_S)
        for block in reversed(line):
            chain.connect(block)
        return self.signed

    def block(
        self, parent: bytes, transactions: Sequence[Transaction] = (), *, check: bool = True
    ) -> Block:
        """A new signed block on `parent`, unlike every other one.

        Args:
            check: False for a block that is not valid; nothing can be built on it then.
        """
        signed = self.at(parent)
        self._serial += 1
        mark = b"\x6a\x04" + self._serial.to_bytes(4, "big")
        block = signed.sign(signed.template(transactions, coinbase_scripts=[mark]))
        if check:
            signed.chain.connect(block)
            self.blocks[block.hash] = block
        return block

    def line(self, parent: bytes, count: int) -> list[Block]:
        """A chain of new empty blocks on `parent`."""
        found: list[Block] = []
        for _ in range(count):
            found.append(self.block(found[-1].hash if found else parent))
        return found

    def resigned(self, block: Block, **changes: object) -> Block:
        """The block with another header, signed again."""
        header = replace(block.header, **changes)  # type: ignore[arg-type]
        return self.signed.sign(Block(header, block.transactions))


def submit(chain: Chain, *blocks: Block) -> list[str | None]:
    """Submit blocks, deposits being as deep as they like."""
    return [chain.submit_block(block, facts=None, now_s=NOW_S) for block in blocks]
