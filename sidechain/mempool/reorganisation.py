"""The mempool after blocks were taken off the chain, and at the ends of epochs. Pure.

Source: elements/peg.md 5.2.
"""

from collections.abc import Sequence

from sidechain.errors import InvalidTransaction, Stalled
from sidechain.mempool.admission import FROM_BLOCK, Circumstances, judge
from sidechain.mempool.entry import Entry, Trait
from sidechain.mempool.pool import Mempool
from sidechain.params import COINBASE_MATURITY_BLOCKS
from sidechain.policy.pegouts import check_pegouts
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import Transaction
from sidechain.validation.coins import Coin
from sidechain.validation.dynafed import median_time_past
from sidechain.validation.pegins import check_pegin
from sidechain.validation.tx_verify import check_sequence_locks, is_final


def follow_blocks(
    mempool: Mempool,
    about: Circumstances,
    *,
    taken: Sequence[Block],
    left: Sequence[Block],
    readmit: bool = True,
) -> None:
    """Bring the mempool to a chain that changed by more than one block on its tip.

    Args:
        about: the new tip.
        taken: blocks that the chain has now, in order.
        left: blocks that it had, the newest first.
        readmit: False drops the transactions of those, with what needs them.
    """
    for block in taken:
        mempool.remove_for_block(block)
    if left:
        held = {tx.txid for block in taken for tx in block.transactions}
        gone = [tx for b in reversed(left) for tx in b.transactions if tx.txid not in held]
        after_blocks_left(gone, mempool, about, readmit=readmit)
    if any(ends_epoch(about, about.height - 1 - behind) for behind in range(len(taken))):
        drop_expired_pegs(mempool, about)


def ends_epoch(about: Circumstances, height: int) -> bool:
    """Whether the block at a height is the last with the parameters of its epoch."""
    return (height + 1) % about.params.dynamic_epoch_length == 0


def after_blocks_left(
    transactions: Sequence[Transaction],
    mempool: Mempool,
    about: Circumstances,
    *,
    readmit: bool = True,
) -> None:
    """Take back what left the chain, then drop what the new tip does not allow.

    Claims and peg-outs go in any case, as in Elements: parameters may have changed under them, and
    whoever made them sends them again.

    Args:
        transactions: of the blocks taken off, coinbases too, from the oldest block on; without
            those that blocks of the new chain hold.
        about: the new tip.
        readmit: False lets none return; what needs them goes too.
    """
    back: list[bytes] = []
    for tx in transactions:
        if readmit and _take_back(tx, mempool, about):
            back.append(tx.txid)
        else:
            mempool.remove_children_of(tx)
    mempool.remove(*[entry.txid for entry in mempool.adopt(back)])
    stale = [entry.txid for entry in mempool.entries() if _is_stale(entry, mempool, about)]
    mempool.remove(*stale)
    mempool.limit(about.now_s)


def drop_expired_pegs(mempool: Mempool, about: Circumstances) -> list[Entry]:
    """Drop claims and peg-outs that the next block could not hold; call it after each epoch.

    Returns:
        The entries dropped, with what depended on them.
    """
    gone: list[bytes] = []
    for entry in mempool.entries():
        if not entry.traits & (Trait.CLAIM | Trait.PEGOUT):
            continue
        tx = entry.tx
        try:
            if about.pak_list is not None:
                check_pegouts(tx, about.pak_list, about.params)
            for txin, witness in zip(tx.inputs, tx.input_witnesses, strict=True):
                if txin.is_pegin:
                    pairs = about.fedpegscripts
                    check_pegin(witness.pegin, txin.prevout, about.params, pairs, about.facts)
        except (InvalidTransaction, Stalled):
            gone.append(entry.txid)
    return mempool.remove(*gone)


def _take_back(tx: Transaction, mempool: Mempool, about: Circumstances) -> bool:
    if tx.is_coinbase:
        return False
    try:
        candidate = judge(tx, mempool, about, FROM_BLOCK)
    except (InvalidTransaction, Stalled):
        return False
    mempool.add(candidate.entry, tx, candidate.leaving)
    return True


def _is_stale(entry: Entry, mempool: Mempool, about: Circumstances) -> bool:
    """Whether the next block could not hold a transaction any more."""
    if entry.traits & (Trait.CLAIM | Trait.PEGOUT):
        return True
    if not entry.traits & (Trait.LOCKED | Trait.SPENDS_COINBASE):
        return False
    tx = entry.tx
    time_s = median_time_past(about.chain, about.chain.tip_height)
    if not is_final(tx, height=about.height, time_s=time_s):
        return True
    spent: list[Coin] = []
    for txin in tx.inputs:
        coin = mempool.coin(txin.prevout, about.height) or about.coins.coin(txin.prevout)
        if coin is None:
            return True
        if coin.coinbase and about.height - coin.height < COINBASE_MATURITY_BLOCKS:
            return True
        spent.append(coin)
    try:
        check_sequence_locks(tx, spent, about.chain, height=about.height)
    except InvalidTransaction:
        return True
    return False
