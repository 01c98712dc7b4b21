"""RPC methods about blocks, the tip and the set of coins.

Source: elements/interfaces.md 3, elements/peg.md 8.
"""

import asyncio
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from sidechain.api.arguments import (
    flag_argument,
    hash_argument,
    integer_argument,
    text_argument,
    verbosity_argument,
)
from sidechain.api.block_json import Position, block_json, header_json
from sidechain.api.json_text import coins
from sidechain.api.registry import (
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    Registry,
    RpcError,
)
from sidechain.api.script_json import script_asm
from sidechain.api.spent_coins import spent_by_block
from sidechain.api.transaction_json import transaction_json
from sidechain.chain import Chain
from sidechain.errors import Invalid, InvariantError
from sidechain.primitives.block import Block
from sidechain.primitives.confidential import value_sats
from sidechain.primitives.encoding import Reader, le32
from sidechain.validation.block_check import check_block
from sidechain.validation.dynafed import median_time_past

IBD_AGE_S = 24 * 3600
BOGO_BYTES = 50
COINS_PER_TURN = 500
VERIFY_BLOCKS_DEFAULT = 6
VERIFY_BLOCKS_MAX = 1_000


class BlockMethods:
    """Reads a chain; changes nothing."""

    def __init__(self, chain: Chain, unix_time_s: Callable[[], int]) -> None:
        self._chain = chain
        self._unix_time_s = unix_time_s
        self._caught_up = False

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        add = registry.add
        add("getblockchaininfo", self.getblockchaininfo, "State of the chain.")
        add("getblockcount", self.getblockcount, "Height of the tip.")
        add("getbestblockhash", self.getbestblockhash, "Hash of the tip.")
        add("getblockhash", self.getblockhash, "Hash of the block at a height.")
        add("getblockheader", self.getblockheader, "Header, decoded (default) or as hex.")
        add(
            "getblock",
            self.getblock,
            "Block as hex (0), with txids (1), transactions (2) or also what they spend (3).",
            aliases={"verbose": "verbosity"},
        )
        add("getsidechaininfo", self.getsidechaininfo, "Parameters of the peg.")
        add("getchaintips", self.getchaintips, "The tip; no other branches are kept.")
        add("gettxoutsetinfo", self.gettxoutsetinfo, "Count and sum of unspent outputs. Slow.")
        add("verifychain", self.verifychain, "Re-read and check the newest blocks.")

    def getblockchaininfo(self) -> dict[str, Any]:
        """State of the chain; the parameters shown are the next block's."""
        chain, params = self._chain, self._chain.params
        tip = chain.header(chain.tip_height)
        entry = chain.full_current()
        return {
            "chain": params.name,
            "blocks": chain.tip_height,
            "headers": chain.tip_height,
            "bestblockhash": chain.tip_hash[::-1].hex(),
            "time": tip.time,
            "mediantime": chain.median_time_s,
            "verificationprogress": 1 if chain.tip_height else 0,
            "initialblockdownload": self._is_behind(tip.time),
            "size_on_disk": chain.disk_bytes(),
            "pruned": False,
            "trim_headers": False,
            "current_params_root": entry.root()[::-1].hex(),
            "current_signblock_asm": script_asm(entry.signblockscript),
            "current_signblock_hex": entry.signblockscript.hex(),
            "max_block_witness": entry.witness_limit,
            "current_fedpeg_program": entry.fedpeg_program.hex(),
            "current_fedpeg_script": entry.fedpegscript.hex(),
            "extension_space": [item.hex() for item in entry.extension_space],
            "epoch_length": params.dynamic_epoch_length,
            "total_valid_epochs": params.total_valid_epochs,
            "epoch_age": chain.tip_height % params.dynamic_epoch_length,
            "warnings": [],
        }

    def _is_behind(self, tip_time_s: int) -> bool:
        """True until the tip was once younger than a day, as in elementsd."""
        if tip_time_s > self._unix_time_s() - IBD_AGE_S:
            self._caught_up = True
        return not self._caught_up

    def getblockcount(self) -> int:
        """Height of the tip."""
        return self._chain.tip_height

    def getbestblockhash(self) -> str:
        """Hash of the tip."""
        return self._chain.tip_hash[::-1].hex()

    def getblockhash(self, height: Any) -> str:
        """Hash of the block at a height."""
        wanted = integer_argument(height)
        if not 0 <= wanted <= self._chain.tip_height:
            raise RpcError(INVALID_PARAMETER, "Block height out of range")
        return self._chain.header(wanted).hash[::-1].hex()

    def getblockheader(self, blockhash: Any, verbose: Any = True) -> Any:
        """Header, decoded or as hex."""
        height = self._height(blockhash)
        header = self._chain.header(height)
        if not flag_argument(verbose, True):
            return header.serialize().hex()
        raw = self._chain.block_bytes(height)
        count = Reader(raw, len(header.serialize())).compact_size()
        return header_json(header, count, self._position(height))

    def getblock(self, blockhash: Any, verbosity: Any = 1) -> Any:
        """Block as hex or decoded."""
        level = verbosity_argument(verbosity, 1)
        height = self._height(blockhash)
        if level <= 0:
            return self._chain.block_bytes(height).hex()
        block = self._chain.block(height)
        shown = self._transactions(block, height, level) if level > 1 else None
        return block_json(block, self._position(height), shown)

    def _transactions(self, block: Block, height: int, level: int) -> list[dict[str, Any]]:
        params = self._chain.params
        spent = spent_by_block(self._chain, block, height) if level > 2 else {}
        return [
            transaction_json(tx, params, spent.get(tx.txid)) | {"hex": tx.raw.hex()}
            for tx in block.transactions
        ]

    def _height(self, blockhash: Any) -> int:
        height = self._chain.height_of(hash_argument(blockhash, "blockhash"))
        if height is None:
            raise RpcError(INVALID_ADDRESS_OR_KEY, "Block not found")
        return height

    def _position(self, height: int) -> Position:
        chain = self._chain
        return Position(
            height=height,
            confirmations=chain.tip_height - height + 1,
            median_time=median_time_past(chain, height),
            next_hash=chain.header(height + 1).hash if height < chain.tip_height else None,
        )

    def getsidechaininfo(self) -> dict[str, Any]:
        """Parameters of the peg; fedpegscripts are those the next block allows."""
        params, pairs = self._chain.params, self._chain.fedpegscripts()
        return {
            "fedpegscript": params.fedpegscript.hex(),
            "current_fedpeg_programs": [pair.program.hex() for pair in pairs],
            "current_fedpegscripts": [pair.script.hex() for pair in pairs],
            "pegged_asset": params.pegged_asset[::-1].hex(),
            "min_peg_diff": f"{params.parent_pow_limit:064x}",
            "parent_blockhash": params.parent_genesis_hash[::-1].hex(),
            "parent_chain_has_pow": True,
            "enforce_pak": params.enforce_pak,
            "pegin_confirmation_depth": params.pegin_confirmation_depth,
        }

    def getchaintips(self) -> list[dict[str, Any]]:
        """The tip; no other branches are kept."""
        chain = self._chain
        tip = {"height": chain.tip_height, "hash": chain.tip_hash[::-1].hex()}
        return [tip | {"branchlen": 0, "status": "active"}]

    async def gettxoutsetinfo(self, hash_type: Any = "hash_serialized_3") -> dict[str, Any]:
        """Count and sum of unspent outputs; the sum is of explicit amounts of every asset."""
        kind = text_argument(hash_type)
        if kind not in ("hash_serialized_3", "none"):
            raise RpcError(INVALID_PARAMETER, f"'{kind}' is not a valid hash_type")
        chain = self._chain
        tip_height, tip_hash = chain.tip_height, chain.tip_hash
        count = bogo_bytes = total_sats = transactions = 0
        digest, last_txid = sha256(), b""
        for outpoint, coin in chain.coins():
            count += 1
            if count % COINS_PER_TURN == 0:
                # The coins are a snapshot; blocks may be connected meanwhile.
                await asyncio.sleep(0)
            bogo_bytes += BOGO_BYTES + len(coin.script)
            transactions += outpoint.txid != last_txid
            last_txid = outpoint.txid
            total_sats += value_sats(coin.value) or 0
            if kind != "none":
                place = outpoint.serialize() + le32(coin.height << 1 | coin.coinbase)
                digest.update(place + coin.output.serialize())
        shown: dict[str, Any] = {
            "height": tip_height,
            "bestblock": tip_hash[::-1].hex(),
            "txouts": count,
            "bogosize": bogo_bytes,
        }
        if kind != "none":
            shown[kind] = sha256(digest.digest()).digest()[::-1].hex()
        return shown | {
            "total_amount": coins(total_sats),
            "transactions": transactions,
            "disk_size": chain.disk_bytes(),
        }

    def verifychain(self, checklevel: Any = 3, nblocks: Any = VERIFY_BLOCKS_DEFAULT) -> bool:
        """Re-read the newest blocks: bytes, hashes, links, bodies and undo records."""
        integer_argument(checklevel)
        wanted = integer_argument(nblocks) or VERIFY_BLOCKS_MAX
        chain = self._chain
        first = max(chain.tip_height - min(wanted, VERIFY_BLOCKS_MAX) + 1, 1)
        try:
            for height in range(chain.tip_height, first - 1, -1):
                block = chain.block(height)
                linked = block.header.prev_hash == chain.header(height - 1).hash
                if not linked or block.hash != chain.header(height).hash:
                    return False
                check_block(block, chain.params)
                chain.undo(height)
        except (Invalid, InvariantError):
            return False
        return True
