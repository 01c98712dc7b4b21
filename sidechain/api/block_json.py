"""Blocks and headers as the RPC interface shows them.

Source: elements/interfaces.md 3; field for field as recorded from elementsd.
"""

from dataclasses import dataclass
from typing import Any

from sidechain.api.script_json import script_asm
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.dynafed import COMPACT_KIND, FULL_KIND, ParamEntry
from sidechain.primitives.transaction import Transaction

_KIND_NAMES = {COMPACT_KIND: "compact", FULL_KIND: "full"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a block stands in the chain; what its bytes do not say.

    `median_time` is the median of the last eleven block times up to this one, in seconds;
    `next_hash` is None at the tip.
    """

    height: int
    confirmations: int
    median_time: int
    next_hash: bytes | None


def header_json(header: BlockHeader, transaction_count: int, position: Position) -> dict[str, Any]:
    """The fields `getblockheader` and `getblock` have in common."""
    shown: dict[str, Any] = {
        "hash": header.hash[::-1].hex(),
        "confirmations": position.confirmations,
        "height": position.height,
        "version": header.version,
        "versionHex": f"{header.version:08x}",
        "merkleroot": header.merkle_root[::-1].hex(),
        "time": header.time,
        "mediantime": position.median_time,
    }
    if header.is_dynafed:
        shown["signblock_witness_hex"] = [item.hex() for item in header.signblock_witness]
        shown["dynamic_parameters"] = {
            "current": entry_json(header.current),
            "proposed": entry_json(header.proposed),
        }
    else:
        shown["signblock_witness_asm"] = script_asm(header.solution)
        shown["signblock_witness_hex"] = header.solution.hex()
        shown["signblock_challenge"] = header.challenge.hex()
    shown["nTx"] = transaction_count
    if position.height:
        shown["previousblockhash"] = header.prev_hash[::-1].hex()
    if position.next_hash is not None:
        shown["nextblockhash"] = position.next_hash[::-1].hex()
    return shown


def entry_json(entry: ParamEntry) -> dict[str, Any]:
    """One dynamic federation entry."""
    if entry.is_null:
        return {"type": "null"}
    shown: dict[str, Any] = {
        "type": _KIND_NAMES[entry.kind],
        "root": entry.root()[::-1].hex(),
        "signblockscript": entry.signblockscript.hex(),
        "max_block_witness": entry.witness_limit,
        "extra_root": entry.extra_root()[::-1].hex(),
    }
    if entry.kind == FULL_KIND:
        shown["fedpeg_program"] = entry.fedpeg_program.hex()
        shown["fedpegscript"] = entry.fedpegscript.hex()
        shown["extension_space"] = [item.hex() for item in entry.extension_space]
    return shown


def block_json(
    block: Block,
    position: Position,
    transactions: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """What `getblock` shows.

    Args:
        transactions: their decoded form (verbosity 2); by default their txids are listed.
    """
    shown = header_json(block.header, len(block.transactions), position)
    shown["strippedsize"] = block.stripped_size
    shown["size"] = block.total_size
    shown["weight"] = block.weight_wu
    shown["tx"] = [_txid_hex(tx) for tx in block.transactions]
    if transactions is not None:
        shown["tx"] = transactions
    return shown


def _txid_hex(tx: Transaction) -> str:
    return tx.txid[::-1].hex()
