"""Dust that may exist for a moment: its child must spend all of it. Pure.

Source: elements/transactions.md 7.
"""

from collections.abc import Sequence

from sidechain.errors import InvalidTransaction
from sidechain.mempool.pool import Mempool
from sidechain.params import ChainParams
from sidechain.policy.standardness import is_dust
from sidechain.primitives.transaction import OutPoint, Transaction


class DustUnspent(InvalidTransaction):
    """A transaction leaves dust of its parent unspent.

    Attributes:
        tx: which one.
    """

    def __init__(self, tx: Transaction) -> None:
        shown = f"{tx.txid[::-1].hex()} (wtxid={tx.wtxid[::-1].hex()})"
        detail = f"tx {shown} did not spend parent's ephemeral dust"
        super().__init__("missing-ephemeral-spends", detail)
        self.tx = tx


def check_dust_spent(package: Sequence[Transaction], mempool: Mempool, params: ChainParams) -> None:
    """Check that transactions spend all dust of each unconfirmed transaction they spend from.

    Args:
        package: transactions that would enter together; one is a package too.
    Raises:
        DustUnspent: the first of them that does not.
    """
    together = {tx.txid: tx for tx in package}
    for tx in package:
        unspent: set[OutPoint] = set()
        for txid in {txin.prevout.txid for txin in tx.inputs}:
            parent = together.get(txid) or mempool.tx(txid)
            if parent is not None:
                unspent |= _dust_of(parent, params)
        if unspent - {txin.prevout for txin in tx.inputs}:
            raise DustUnspent(tx)


def _dust_of(tx: Transaction, params: ChainParams) -> set[OutPoint]:
    return {
        OutPoint(tx.txid, index)
        for index, output in enumerate(tx.outputs)
        if is_dust(output, params)
    }
