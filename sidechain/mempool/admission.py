"""Whether a transaction is taken into the mempool, in Elements' order of checks. Pure.

Source: elements/transactions.md 7, elements/peg.md 3.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sidechain import policy
from sidechain.errors import InvalidTransaction
from sidechain.mempool.pool import Entry, Mempool
from sidechain.params import ChainParams
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.script.interpreter import STANDARD_FLAGS
from sidechain.validation.coins import Coin, CoinView, PeginKey
from sidechain.validation.dynafed import HeaderChain, median_time_past
from sidechain.validation.pegins import FedpegPair, ParentFacts, PeginClaim, check_pegin
from sidechain.validation.tx_check import check_transaction
from sidechain.validation.tx_verify import (
    check_inputs,
    check_scripts,
    check_sequence_locks,
    is_final,
    resolve_inputs,
    sigop_cost,
)


class NextBlockView:
    """Coins for a transaction that would go into the next block: the chain's and the mempool's.

    Coins that other transactions in the mempool spend are there too: taking them is a conflict.
    """

    def __init__(self, chain: CoinView, mempool: Mempool) -> None:
        self._chain = chain
        self._mempool = mempool

    def coin(self, outpoint: OutPoint) -> Coin | None:
        """The coin, or None."""
        return self._mempool.coin(outpoint) or self._chain.coin(outpoint)

    def pegin_claimed(self, key: PeginKey) -> bool:
        """Whether a block claims the deposit."""
        return self._chain.pegin_claimed(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a transaction is judged against: the chain's tip, and this moment.

    `fedpegscripts` are those valid for the next block; `facts` None leaves out the depth of
    peg-ins.
    """

    params: ChainParams
    chain: HeaderChain
    coins: CoinView
    fedpegscripts: Sequence[FedpegPair]
    facts: ParentFacts | None
    now_s: int


def judge(tx: Transaction, mempool: Mempool, about: Circumstances) -> Entry:
    """Decide whether a transaction may enter the mempool, in Elements' order of checks.

    Returns:
        What to give to `Mempool.add`, which then also removes what it replaces.
    Raises:
        InvalidTransaction: under Elements' name for the mempool.
        Stalled: a peg-in that is not deep enough.
    """
    params, height = about.params, about.chain.tip_height + 1
    check_transaction(tx)
    if tx.is_coinbase:
        raise InvalidTransaction("coinbase")
    if not params.accept_nonstandard:
        policy.check_standard(tx, params)
    if not is_final(tx, height=height, time_s=median_time_past(about.chain, height - 1)):
        raise InvalidTransaction("non-final")
    known = mempool.get(tx.txid)
    if known is not None:
        same = known.tx.wtxid == tx.wtxid
        name = "txn-already-in-mempool" if same else "txn-same-nonwitness-data-in-mempool"
        raise InvalidTransaction(name)
    policy.check_pegin_witnesses(tx)
    spent = _resolve(tx, mempool, about)
    try:
        check_sequence_locks(tx, spent, about.chain, height=height)
    except InvalidTransaction as error:
        raise InvalidTransaction("non-BIP68-final") from error
    if about.facts is not None:
        for index, txin in enumerate(tx.inputs):
            if txin.is_pegin:
                _judge_pegin(tx, index, about, about.facts)
    check_inputs(tx, spent, height=height, params=params)
    if not params.accept_nonstandard:
        policy.check_standard_inputs(tx, spent, params)
    entry = _weigh(tx, spent, mempool, about)
    mempool.check_limits(entry, mempool.check_replacement(tx, entry.fee_sats, entry.vsize))
    check_scripts(tx, spent, STANDARD_FLAGS, params.genesis_hash)
    return entry


def _weigh(tx: Transaction, spent: Sequence[Coin], mempool: Mempool, about: Circumstances) -> Entry:
    """The entry, once its fee is enough."""
    params = about.params
    cost = sigop_cost(tx, spent)
    fee = policy.fee_sats(tx, params)
    fee_vsize = policy.relay_vsize(tx, params, cost)
    floor = policy.required_fee_sats(fee_vsize, mempool.floor_sats_per_kvb(about.now_s))
    if fee < floor:
        raise InvalidTransaction("mempool min fee not met", f"{fee} < {floor}")
    if not params.accept_nonstandard:
        policy.check_dust_fee(tx, fee, params)
    policy.check_relay_fee(fee, fee_vsize, params.min_relay_fee_sats_per_kvb)
    return Entry(
        tx=tx,
        fee_sats=fee,
        vsize=policy.virtual_size(tx, cost),
        fee_vsize=fee_vsize,
        sigop_cost=cost,
        time_s=about.now_s,
        height=about.chain.tip_height + 1,
    )


def _resolve(tx: Transaction, mempool: Mempool, about: Circumstances) -> tuple[Coin, ...]:
    view = NextBlockView(about.coins, mempool)
    try:
        spent, _ = resolve_inputs(tx, view, lambda t, i: _judge_pegin(t, i, about, None))
    except InvalidTransaction as error:
        if error.reason == "bad-txns-inputs-missingorspent" and any(
            about.coins.coin(OutPoint(tx.txid, index)) for index in range(len(tx.outputs))
        ):
            raise InvalidTransaction("txn-already-known") from error
        name = _MEMPOOL_NAMES.get(error.reason)
        if name is None:
            raise
        raise InvalidTransaction(name, error.detail) from error
    return spent


_MEMPOOL_NAMES = {
    "bad-pegin-witness": "pegin-no-witness",
    "bad-txns-double-pegin": "pegin-already-claimed",
}


def _judge_pegin(
    tx: Transaction, index: int, about: Circumstances, facts: ParentFacts | None
) -> PeginClaim:
    items, prevout = tx.input_witnesses[index].pegin, tx.inputs[index].prevout
    return check_pegin(items, prevout, about.params, about.fedpegscripts, facts)
