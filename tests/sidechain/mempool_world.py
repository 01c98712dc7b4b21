"""A mempool on an example chain whose coins anyone may spend, and transactions for it."""

from dataclasses import dataclass, field, replace
from typing import Any

from sidechain.errors import InvalidTransaction
from sidechain.mempool.admission import ALONE, Candidate, Circumstances, Mode, enter, judge
from sidechain.mempool.pool import Mempool
from sidechain.params import ChainParams
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import (
    SEQUENCE_FINAL,
    InputWitness,
    OutPoint,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.script.script import p2wsh
from sidechain.validation.coins import Coin
from sidechain.validation.dynafed import valid_fedpegscripts
from tests.sidechain.example_chain import DictView, ListedHeaders, example_params

REPLACEABLE = 0xFFFFFFFD
ANYONE = b"\x51"
SCRIPT = p2wsh(ANYONE)
"""Anyone can spend it, in standard form."""
COIN_SATS = 10**8
NOW_S = 1_700_000_000


@dataclass(slots=True)
class MempoolWorld:
    """Makes transactions and asks the mempool about them."""

    params: ChainParams = field(default_factory=lambda: example_params())
    mempool: Mempool = field(default_factory=Mempool)
    now_s: int = NOW_S
    view: DictView = field(default_factory=DictView)
    chain: ListedHeaders = field(init=False)
    facts: Any = None
    gone: dict[OutPoint, Coin] = field(default_factory=dict)
    _coins: int = 0
    _staged: dict[OutPoint, Coin] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chain = ListedHeaders(self.params)
        self.chain.grow(3)

    @property
    def about(self) -> Circumstances:
        """The chain as it is."""
        pairs = valid_fedpegscripts(self.chain, self.chain.tip_height, self.params, next_block=True)
        return Circumstances(
            params=self.params,
            chain=self.chain,
            coins=self.view,
            fedpegscripts=pairs,
            facts=self.facts,
            now_s=self.now_s,
        )

    def set(self, **fields: Any) -> None:
        """Change parameters."""
        self.params = replace(self.params, **fields)
        self.chain.params = self.params

    def coin(self, amount_sats: int = COIN_SATS, *, height: int = 1, **fields: Any) -> OutPoint:
        """A new confirmed coin."""
        self._coins += 1
        outpoint = OutPoint(self._coins.to_bytes(32, "big"), 0)
        fields.setdefault("coinbase", False)
        output = self.output(amount_sats, fields.pop("script", SCRIPT))
        self.view.coins[outpoint] = Coin.of(output, height=height, **fields)
        return outpoint

    def output(self, amount_sats: int, script: bytes = SCRIPT) -> TxOut:
        """An explicit output in the fee asset."""
        asset = explicit_asset(self.params.policy_asset)
        return TxOut(asset, explicit_value(amount_sats), NULL, script)

    def pay(
        self,
        *points: OutPoint,
        fee: int = 1_000,
        outputs: int = 1,
        sequence: int = REPLACEABLE,
        extra: tuple[TxOut, ...] = (),
        version: int = 2,
        locktime: int = 0,
    ) -> Transaction:
        """A transaction that spends coins into equal outputs."""
        amount = sum(self._value(point) for point in points) - fee
        amount -= sum(output.value_sats or 0 for output in extra)
        share, rest = divmod(amount, outputs)
        made = [self.output(share + (rest if i == 0 else 0)) for i in range(outputs)]
        made += extra
        if fee:
            made.append(self.output(fee, b""))
        return Transaction.build(
            version=version,
            locktime=locktime,
            inputs=[TxIn(point, sequence=sequence) for point in points],
            outputs=made,
            input_witnesses=[InputWitness(script=(ANYONE,)) for _ in points],
        )

    def judge(self, tx: Transaction, mode: Mode = ALONE) -> Candidate:
        """Judge one transaction."""
        return judge(tx, self.mempool, self.about, mode)

    def accept(self, tx: Transaction) -> Transaction:
        """Take one transaction in, or raise."""
        enter(self.judge(tx), self.mempool, self.now_s)
        return tx

    def refusal(self, tx: Transaction, mode: Mode = ALONE) -> str:
        """What is said of a transaction, empty when it would be accepted."""
        try:
            self.judge(tx, mode)
        except InvalidTransaction as error:
            return str(error)
        return ""

    def chain_of(self, count: int, **fields: Any) -> list[Transaction]:
        """That many transactions in the mempool, each spending the one before."""
        made = [self.accept(self.pay(self.coin(), **fields))]
        for _ in range(count - 1):
            made.append(self.accept(self.pay(out(made[-1]), **fields)))
        return made

    def _value(self, point: OutPoint) -> int:
        coin = self.mempool.coin(point) or self.view.coin(point)
        if coin is None:
            coin = self._staged[point]
        return coin.output.value_sats or 0

    def stage(self, tx: Transaction) -> Transaction:
        """Let later transactions spend from one that is not in the mempool."""
        for index, output in enumerate(tx.outputs):
            self._staged[OutPoint(tx.txid, index)] = Coin.of(output, height=0, coinbase=False)
        return tx


def out(tx: Transaction, index: int = 0) -> OutPoint:
    """One output of a transaction."""
    return OutPoint(tx.txid, index)


def shown(tx: Transaction) -> str:
    """Its id as reasons write it."""
    return tx.txid[::-1].hex()


FINAL = SEQUENCE_FINAL
