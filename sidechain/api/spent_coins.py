"""What the inputs of transactions spend, for showing it: undo records, peg-in witnesses."""

from sidechain.chain import Chain
from sidechain.errors import InvalidTransaction
from sidechain.params import ChainParams
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.validation.coins import Coin
from sidechain.validation.pegins import parse_pegin


def spent_by_block(chain: Chain, block: Block, height: int) -> dict[bytes, list[Coin]]:
    """The coins every transaction of a block spends, by txid; none for the coinbase."""
    known = dict(chain.undo(height).spent) if height else {}
    found: dict[bytes, list[Coin]] = {}
    for tx in block.transactions:
        if not tx.is_coinbase and height:
            coins = [_coin(tx, index, known, chain.params) for index in range(len(tx.inputs))]
            if None not in coins:
                found[tx.txid] = [coin for coin in coins if coin is not None]
        for index, output in enumerate(tx.outputs):
            made = Coin.of(output, height=height, coinbase=tx.is_coinbase)
            known[OutPoint(tx.txid, index)] = made
    return found


def _coin(
    tx: Transaction, index: int, known: dict[OutPoint, Coin], params: ChainParams
) -> Coin | None:
    if not tx.inputs[index].is_pegin:
        return known.get(tx.inputs[index].prevout)
    try:
        return parse_pegin(tx.input_witnesses[index].pegin, params).coin
    except InvalidTransaction:
        return None
