"""RPC methods by which functionaries hand each other a proposal in short form.

Source: elements/interfaces.md 2.
"""

import secrets
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from sidechain.api.arguments import text_argument
from sidechain.api.registry import DESERIALIZATION_ERROR, MISC_ERROR, Registry, RpcError
from sidechain.chain import Chain
from sidechain.errors import InvalidBlock, InvalidEncoding
from sidechain.primitives.block import Block
from sidechain.primitives.compact_block import (
    CompactBlock,
    ShortNames,
    fill_slots,
    read_request,
    read_transactions,
    write_request,
    write_transactions,
)
from sidechain.primitives.encoding import Reader
from sidechain.primitives.transaction import Transaction
from sidechain.validation.block_check import check_block

_UNREADABLE = "DataStream::read(): end of data: iostream error"
_MAYBE_COLLISION = (
    "Failed to complete block though all transactions were apparently found. Could be random "
    "short ID collision; requires full block instead."
)
_NO_HASH = bytes(32)
_Read = TypeVar("_Read")


class SketchMethods:
    """Methods about compact blocks; they change nothing."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        add = registry.add
        add("getcompactsketch", self.getcompactsketch, "The short form of a proposal.")
        add("consumecompactsketch", self.consumecompactsketch, "Fill in what is known of one.")
        add("consumegetblocktxn", self.consumegetblocktxn, "Transactions that were asked for.")
        add("finalizecompactblock", self.finalizecompactblock, "A proposal from its parts.")

    def getcompactsketch(self, block_hex: Any) -> str:
        """The short form of a proposal; its coinbase stands in it."""
        block = self._read(block_hex, lambda reader: Block.read(reader, self._chain.params))
        if not block.transactions:
            _refuse("Cannot obtain sketch of empty block.")
        return CompactBlock.of(block, secrets.randbits(64)).serialize().hex()

    def consumecompactsketch(self, sketch: Any) -> dict[str, Any]:
        """The proposal where the mempool has all of it, else what has to be asked for."""
        compact = self._sketch(sketch)
        known = self._chain.mempool.transactions()
        found = self._fill(compact, known, "Compact block decode failed")
        missing = [at for at, tx in enumerate(found) if tx is None]
        present = [tx for tx in found if tx is not None]
        if missing:
            # elementsd leaves the block's hash out of its request.
            return {
                "block_tx_req": write_request(_NO_HASH, missing).hex(),
                "found_transactions": write_transactions(present).hex(),
            }
        return {"blockhex": self._checked(compact, present, "Checkblock failed.")}

    def consumegetblocktxn(self, full_block: Any, block_tx_req: Any) -> str:
        """Transactions of a block that were asked for."""
        block = self._read(full_block, lambda reader: Block.read(reader, self._chain.params))
        block_hash, positions = self._read(block_tx_req, read_request)
        if any(position >= len(block.transactions) for position in positions):
            _refuse("Peer sent us a getblocktxn with out-of-bounds tx indices")
        chosen = [block.transactions[position] for position in positions]
        return (block_hash + write_transactions(chosen)).hex()

    def finalizecompactblock(
        self, compact_hex: Any, block_transactions: Any, found_transactions: Any
    ) -> str:
        """A proposal from its short form and both lists of transactions."""
        compact = self._sketch(compact_hex)
        sent = self._read(block_transactions, _read_reply)
        own = self._read(found_transactions, read_transactions)
        found = self._fill(compact, [*own, *sent], "compact_hex appears malformed.")
        present = [tx for tx in found if tx is not None]
        failure = "Failed to complete block though all transactions were apparently found."
        if len(present) != len(found):
            _refuse(failure)
        return self._checked(compact, present, failure)

    def _sketch(self, value: Any) -> CompactBlock:
        return self._read(value, lambda reader: CompactBlock.read(reader, self._chain.params))

    def _read(self, value: Any, read: Callable[[Reader], _Read]) -> _Read:
        text = text_argument(value)
        try:
            # Text that is not hex counts as nothing, as elementsd takes it.
            raw = bytes.fromhex(text)
        except ValueError:
            raw = b""
        try:
            return read(Reader(raw))
        except InvalidEncoding as error:
            raise RpcError(MISC_ERROR, _UNREADABLE) from error

    def _fill(
        self, compact: CompactBlock, known: list[Transaction], failure: str
    ) -> list[Transaction | None]:
        try:
            slots = compact.slots()
        except InvalidEncoding as error:
            raise RpcError(DESERIALIZATION_ERROR, failure) from error
        return fill_slots(slots, ShortNames(compact.header, compact.nonce), known)

    def _checked(self, compact: CompactBlock, found: list[Transaction], failure: str) -> str:
        block = Block(compact.header, tuple(found))
        try:
            check_block(block, self._chain.params)
        except InvalidBlock as fault:
            mutated = fault.reason in ("bad-txnmrklroot", "bad-txns-duplicate")
            text = _MAYBE_COLLISION if mutated else failure
            raise RpcError(DESERIALIZATION_ERROR, text) from fault
        return block.serialize().hex()


def _read_reply(reader: Reader) -> list[Transaction]:
    reader.read(32)
    return read_transactions(reader)


def _refuse(message: str) -> NoReturn:
    raise RpcError(DESERIALIZATION_ERROR, message)
