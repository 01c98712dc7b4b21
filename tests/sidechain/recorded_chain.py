"""The recorded chain as validation sees it: headers, coins and parent facts at any height.

Nothing here judges anything: blocks are replayed as they were recorded, hidden amounts included.
"""

from functools import cache
from typing import Any

from sidechain.primitives.block import BlockHeader
from sidechain.primitives.transaction import OutPoint
from sidechain.validation.coins import Coin, PeginKey
from tests.vectors import chain_json, internal, recorded_blocks


class RecordedHeaders:
    """`HeaderChain` of the recorded blocks up to a height."""

    def __init__(self, tip_height: int) -> None:
        self.tip_height = tip_height

    def header(self, height: int) -> BlockHeader:
        if not 0 <= height <= self.tip_height:
            raise AssertionError(f"asked for height {height} above {self.tip_height}")
        return recorded_blocks()[height].header


class RecordedView:
    """`CoinView` of the recorded coins and claims after the block at a height."""

    def __init__(self, tip_height: int) -> None:
        self.tip_height = tip_height

    def coin(self, outpoint: OutPoint) -> Coin | None:
        found = _history()[0].get(outpoint)
        if found is None or found.height > self.tip_height:
            return None
        spent_at = _history()[1].get(outpoint)
        return None if spent_at is not None and spent_at <= self.tip_height else found

    def pegin_claimed(self, key: PeginKey) -> bool:
        return _history()[2].get(key, self.tip_height + 1) <= self.tip_height

    def outpoints(self) -> set[OutPoint]:
        """Outpoints of all coins at this height."""
        return {outpoint for outpoint in _history()[0] if self.coin(outpoint) is not None}


class RecordedFacts:
    """`ParentFacts` of the recorded parent chain at a parent height."""

    def __init__(self, parent_height: int) -> None:
        self.parent_height = parent_height

    def block_facts(self, block_hash: bytes) -> tuple[int, int] | None:
        known = _parent_headers().get(block_hash)
        if known is None or known["height"] > self.parent_height:
            return None
        return self.parent_height - known["height"] + 1, known["ntx"]


def parent_height_at(height: int) -> int:
    """Height of the parent chain when the block at `height` was recorded."""
    known = [entry["parent_height"] for entry in chain_json("blocks.json")[: height + 1]]
    return next((found for found in reversed(known) if found is not None), 0)


@cache
def _parent_headers() -> dict[bytes, dict[str, Any]]:
    return {internal(entry["hash"]): entry for entry in chain_json("parent.json")["headers"]}


@cache
def _history() -> tuple[dict[OutPoint, Coin], dict[OutPoint, int], dict[PeginKey, int]]:
    """Every coin ever made, at what height it was spent, and at what height deposits went."""
    made: dict[OutPoint, Coin] = {}
    spent: dict[OutPoint, int] = {}
    claimed: dict[PeginKey, int] = {}
    for height, block in enumerate(recorded_blocks()):
        for position, tx in enumerate(block.transactions):
            for item, witness in zip(tx.inputs, tx.input_witnesses, strict=True):
                if item.is_pegin:
                    claimed[PeginKey(witness.pegin[2], item.prevout)] = height
                elif position > 0:
                    spent[item.prevout] = height
            for index, output in enumerate(tx.outputs):
                if not output.is_unspendable:
                    coin = Coin.of(output, height=height, coinbase=position == 0)
                    made[OutPoint(tx.txid, index)] = coin
    return made, spent, claimed
