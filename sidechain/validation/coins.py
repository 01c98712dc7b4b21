"""What validation needs to know about spendable outputs, and who must answer.

Source: elements/transactions.md 2.7 (the nonce of an output is not kept).
"""

from typing import NamedTuple, Protocol

from sidechain.primitives.confidential import NULL
from sidechain.primitives.record import keyword_record
from sidechain.primitives.transaction import OutPoint, TxOut


class PeginKey(NamedTuple):
    """Identity of a claimed deposit: parent chain and parent outpoint (index without flags)."""

    parent_genesis: bytes
    outpoint: OutPoint


@keyword_record
class Coin:
    """An unspent output with the place that made it.

    Attributes:
        asset: raw asset field, explicit or commitment.
        value: raw value field, explicit or commitment.
        script: output script.
        height: block that made it; 0 for a peg-in and for genesis outputs.
        coinbase: made by a coinbase, so spendable only after 100 blocks.
    """

    asset: bytes
    value: bytes
    script: bytes
    height: int
    coinbase: bool

    @property
    def output(self) -> TxOut:
        """The output this coin was, with a null nonce."""
        return TxOut(asset=self.asset, value=self.value, nonce=NULL, script=self.script)

    @classmethod
    def of(cls, output: TxOut, *, height: int, coinbase: bool) -> "Coin":
        """The coin an output becomes."""
        return cls(
            asset=output.asset,
            value=output.value,
            script=output.script,
            height=height,
            coinbase=coinbase,
        )


class CoinView(Protocol):
    """Coins and claimed deposits as of one block. Answers must not change during one check."""

    def coin(self, outpoint: OutPoint) -> Coin | None:
        """The unspent coin at `outpoint`, None when spent or never made."""
        ...

    def pegin_claimed(self, key: PeginKey) -> bool:
        """Whether this deposit was claimed before."""
        ...
