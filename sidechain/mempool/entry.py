"""One accepted transaction, kept as bytes, and its relatives in the mempool. Pure.

A mempool of fifty thousand transactions holds fifty thousand of these: whatever can be read from
the bytes again is not kept, and a set of relatives exists only where there are any.
"""

from collections.abc import Iterable
from enum import IntFlag

from sidechain.crypto.hashes import sha256d
from sidechain.params import ChainParams
from sidechain.policy.fees import discounted_size, fee_rate, virtual_size
from sidechain.policy.standardness import is_pegout
from sidechain.primitives.transaction import SEQUENCE_FINAL, Transaction, TxOut
from sidechain.validation.coins import Coin

TRUC_VERSION = 3
"""Version of transactions that obey the topology rules of BIP431."""
RBF_SEQUENCE_MAX = 0xFFFFFFFD
"""An input with a sequence up to this allows its transaction to be replaced (BIP125)."""
_NO_RELATIVE_LOCK = 1 << 31
_OP_RETURN = 0x6A


class Trait(IntFlag):
    """What later questions need to know of a transaction without decoding it."""

    NONE = 0
    REPLACEABLE = 1
    TRUC = 2
    SPENDS_COINBASE = 4
    CLAIM = 8
    PEGOUT = 16
    LOCKED = 32


class Entry:
    """A transaction in the mempool. Only the mempool changes one.

    Attributes:
        txid: its id; `raw` its bytes with witness.
        fee_sats: what it pays in the fee asset; `delta_sats` what its node adds to that in
            thought (prioritisetransaction).
        vsize: ordinary virtual bytes, raised by signature operations.
        discount_vsize: virtual bytes a block maker counts.
        time_s: when it came; `height` the tip then.
        traits: see `Trait`.
        parents, children: direct relatives in the mempool, None where there are none.
    """

    __slots__ = (
        "children",
        "delta_sats",
        "discount_vsize",
        "fee_sats",
        "height",
        "parents",
        "raw",
        "sigop_cost",
        "time_s",
        "traits",
        "txid",
        "vsize",
        "weight_wu",
    )

    def __init__(
        self,
        tx: Transaction,
        *,
        fee_sats: int,
        sigop_cost: int,
        time_s: int,
        height: int,
        traits: int,
        params: ChainParams,
        delta_sats: int = 0,
    ) -> None:
        self.txid = tx.txid
        self.raw = tx.raw
        self.fee_sats = fee_sats
        self.delta_sats = delta_sats
        self.weight_wu = tx.weight_wu
        self.vsize = virtual_size(self.weight_wu, sigop_cost, params.bytes_per_sigop)
        self.discount_vsize = self.vsize
        if params.accept_discount_ct:
            self.discount_vsize = discounted_size(tx, sigop_cost, params)
        self.sigop_cost = sigop_cost
        self.time_s = time_s
        self.height = height
        self.traits = traits
        self.parents: set[Entry] | None = None
        self.children: set[Entry] | None = None

    @property
    def tx(self) -> Transaction:
        """The transaction, decoded anew on every call."""
        return Transaction.decode(self.raw)

    @property
    def wtxid(self) -> bytes:
        """Hash of the transaction with its witness."""
        return sha256d(self.raw) if self.raw[4] else self.txid

    @property
    def modified_fee_sats(self) -> int:
        """The fee that rules and choices look at."""
        return self.fee_sats + self.delta_sats

    @property
    def fee_rate(self) -> int:
        """Modified fee in satoshis per 1,000 virtual bytes, rounded towards zero."""
        return fee_rate(self.fee_sats + self.delta_sats, self.vsize)


def traits_of(tx: Transaction, spent: Iterable[Coin], params: ChainParams) -> int:
    """The traits of a transaction.

    Args:
        spent: the coins of its inputs.
    """
    traits = int(Trait.TRUC) if tx.version == TRUC_VERSION else 0
    if tx.locktime:
        traits |= Trait.LOCKED
    for txin in tx.inputs:
        sequence = txin.sequence
        if sequence != SEQUENCE_FINAL:
            if sequence <= RBF_SEQUENCE_MAX:
                traits |= Trait.REPLACEABLE
            if not sequence & _NO_RELATIVE_LOCK and tx.version >= 2:
                traits |= Trait.LOCKED
        if txin.is_pegin:
            traits |= Trait.CLAIM
    for coin in spent:
        if coin.coinbase:
            traits |= Trait.SPENDS_COINBASE
    for output in tx.outputs:
        script = output.script
        if script and script[0] == _OP_RETURN and _is_pegout(output, params):
            traits |= Trait.PEGOUT
    return traits


def _is_pegout(output: TxOut, params: ChainParams) -> bool:
    return output.asset_id == params.pegged_asset and is_pegout(output.script, params)
