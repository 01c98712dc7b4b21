"""Checking the newest blocks of a stored chain again, up to taking them off and putting them on.

Nothing is written: coins are followed in memory, above those of the database.

Source: the reference's `verifychain`, levels 0 to 4.
"""

from sidechain.errors import Invalid, InvariantError
from sidechain.params import ChainParams
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.transaction import OutPoint
from sidechain.script.block_signature import verify_block_signature
from sidechain.storage.chainstate import ChainState
from sidechain.storage.schema import UndoRecord
from sidechain.validation.block_check import check_block
from sidechain.validation.coins import Coin, PeginKey
from sidechain.validation.connect import BlockDelta, connect_block

MAX_LEVEL = 4


def verify_chain(state: ChainState, params: ChainParams, *, level: int, blocks: int) -> bool:
    """Whether the newest blocks are as they must be.

    Args:
        level: 0 reads the blocks, 1 judges them by themselves, 2 reads undo records, 3 takes the
            blocks off in memory and compares the coins, 4 connects them again by all rules but
            the depth of peg-ins. Other levels count as the nearest.
        blocks: how many; 0 or less means all.
    """
    level = min(max(level, 0), MAX_LEVEL)
    top = state.tip_height
    count = top if blocks <= 0 else min(blocks, top)
    coins = _Coins(state)
    try:
        for height in range(top, top - count, -1):
            block = _read(state, params, height)
            if level >= 1:
                verify_block_signature(block.header, params)
                check_block(block, params)
            undo = state.undo(height) if level >= 2 else None
            if undo is not None and level >= 3:
                coins.take_off(block, undo, height)
        for height in range(top - count + 1, top + 1) if level >= 4 else ():
            headers = _HeadersUpTo(state, height - 1)
            block = _read(state, params, height)
            coins.put_on(connect_block(block, coins, headers, params, facts=None))
        if level >= 4 and not coins.as_stored():
            raise InvariantError("the coins are others than before")
    except (Invalid, InvariantError):
        return False
    return True


def _read(state: ChainState, params: ChainParams, height: int) -> Block:
    block = Block.decode(state.block_bytes(height), params)
    if block.hash != state.header(height).hash:
        raise InvariantError("a stored block is another one than its header")
    if block.header.prev_hash != state.header(height - 1).hash:
        raise InvariantError("a stored block does not follow the one below it")
    return block


class _HeadersUpTo:
    """`HeaderChain` of the stored chain up to a height."""

    def __init__(self, state: ChainState, height: int) -> None:
        self._state = state
        self.tip_height = height

    def header(self, height: int) -> BlockHeader:
        return self._state.header(height)


class _Coins:
    """`CoinView` of the stored coins with changes kept in memory."""

    def __init__(self, state: ChainState) -> None:
        self._state = state
        self._changed: dict[OutPoint, Coin | None] = {}
        self._unclaimed: set[PeginKey] = set()

    def coin(self, outpoint: OutPoint) -> Coin | None:
        if outpoint in self._changed:
            return self._changed[outpoint]
        return self._state.coin(outpoint)

    def pegin_claimed(self, key: PeginKey) -> bool:
        return key not in self._unclaimed and self._state.pegin_claimed(key)

    def take_off(self, block: Block, undo: UndoRecord, height: int) -> None:
        outputs = {tx.txid: tx for tx in block.transactions}
        for point in undo.created:
            tx = outputs[point.txid]
            made = Coin.of(tx.outputs[point.index], height=height, coinbase=tx.is_coinbase)
            if self.coin(point) != made:
                raise InvariantError("a coin of a block is not there, or is another one")
            self._changed[point] = None
        for point, coin in undo.spent:
            if self.coin(point) is not None:
                raise InvariantError("a coin that a block spends is there")
            self._changed[point] = coin
        for key in undo.pegins:
            if not self.pegin_claimed(key):
                raise InvariantError("a claim of a block is not noted")
            self._unclaimed.add(key)

    def put_on(self, delta: BlockDelta) -> None:
        self._changed |= dict.fromkeys(point for point, _ in delta.spent)
        self._changed |= dict(delta.created)
        self._unclaimed -= set(delta.pegins)

    def as_stored(self) -> bool:
        """Whether the changes have undone each other."""
        same = all(self._state.coin(point) == coin for point, coin in self._changed.items())
        return same and not self._unclaimed
