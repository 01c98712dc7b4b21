"""Payments of a load, signed before they are needed.

A few wallets pay one another. Each coin is paid on and on: the change of one payment is the coin
of a later one, so that few coins have to be made for many payments. Everything follows from a
seed; nothing here reads a clock.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sidechain.crypto.hashes import hash160, sha256
from sidechain.crypto.keys import ecdsa_sign, public_key
from sidechain.params import ChainParams
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.encoding import le32
from sidechain.primitives.transaction import InputWitness, OutPoint, Transaction, TxIn, TxOut
from sidechain.script.script import p2pkh_of_hash, p2wpkh
from sidechain.script.sighash import segwit_v0_sighash

PAID_SATS: Final = 1_000
FEE_SATS: Final = 300
"""For a payment of some 230 virtual bytes, above the least that is relayed."""
SPLIT_MAX: Final = 500
"""Coins that one transaction makes."""
SPLIT_FEE_SATS: Final = 60_000
"""For a split of `SPLIT_MAX` coins, some 35,000 virtual bytes."""
_SEQUENCE: Final = 0xFFFFFFFD
_SIGHASH_ALL: Final = 1
_KEYS: Final = b"fedpeg load"


@dataclass(frozen=True, slots=True)
class LoadCoin:
    """A coin of a wallet."""

    outpoint: OutPoint
    value_sats: int
    wallet: int


@dataclass(frozen=True, slots=True)
class SignedPayment:
    """One payment, ready to be sent.

    Attributes:
        coin: which of the load's coins it spends; its payments follow each other.
        txid: internal order.
    """

    coin: int
    txid: bytes
    raw: bytes


@dataclass(frozen=True, slots=True)
class _Wallet:
    secret: bytes
    key: bytes
    script: bytes
    code: bytes


class LoadWallets:
    """Wallets of one key each.

    Args:
        seed: what all keys follow from.
        count: how many wallets there are.
    """

    def __init__(self, params: ChainParams, seed: bytes, count: int) -> None:
        self._asset = explicit_asset(params.pegged_asset)
        self._wallets = [_wallet(seed, number) for number in range(count)]

    @property
    def purse_script(self) -> bytes:
        """Where the first wallet takes the money that is split into coins."""
        return self._wallets[0].script

    def split(self, purse: LoadCoin, count: int, value_sats: int) -> tuple[Transaction, LoadCoin]:
        """Spend the purse into coins, dealt out to the wallets in turn.

        Args:
            count: at most `SPLIT_MAX`.
        Returns:
            The transaction, whose first outputs are the coins, and the purse that is left.
        """
        left_sats = purse.value_sats - count * value_sats - SPLIT_FEE_SATS
        outputs = [
            self._output(self._wallets[n % len(self._wallets)].script, value_sats)
            for n in range(count)
        ]
        outputs += [
            self._output(self.purse_script, left_sats),
            self._output(b"", SPLIT_FEE_SATS),
        ]
        tx = self._signed(purse, outputs)
        return tx, LoadCoin(OutPoint(tx.txid, count), left_sats, 0)

    def coins_of(self, split: Transaction) -> list[LoadCoin]:
        """The coins that a split made."""
        return [
            LoadCoin(OutPoint(split.txid, n), output.value_sats or 0, n % len(self._wallets))
            for n, output in enumerate(split.outputs[:-2])
        ]

    def payments(self, coins: Sequence[LoadCoin], count: int) -> Iterator[SignedPayment]:
        """Payments one after another, each with the next coin, round and round."""
        current = list(coins)
        for number in range(count):
            index = number % len(current)
            tx, current[index] = self._pay(current[index], number)
            yield SignedPayment(coin=index, txid=tx.txid, raw=tx.serialize())

    def _pay(self, coin: LoadCoin, number: int) -> tuple[Transaction, LoadCoin]:
        to = self._wallets[(coin.wallet + 1 + number) % len(self._wallets)]
        left_sats = coin.value_sats - PAID_SATS - FEE_SATS
        own = self._wallets[coin.wallet]
        tx = self._signed(
            coin,
            [
                self._output(to.script, PAID_SATS),
                self._output(own.script, left_sats),
                self._output(b"", FEE_SATS),
            ],
        )
        return tx, LoadCoin(OutPoint(tx.txid, 1), left_sats, coin.wallet)

    def _signed(self, coin: LoadCoin, outputs: Sequence[TxOut]) -> Transaction:
        wallet = self._wallets[coin.wallet]
        inputs = [TxIn(coin.outpoint, sequence=_SEQUENCE)]
        tx = Transaction.build(inputs=inputs, outputs=outputs)
        digest = segwit_v0_sighash(
            tx, 0, wallet.code, explicit_value(coin.value_sats), _SIGHASH_ALL, rangeproof=True
        )
        signature = ecdsa_sign(wallet.secret, digest) + bytes((_SIGHASH_ALL,))
        return Transaction.build(
            inputs=inputs,
            outputs=outputs,
            input_witnesses=[InputWitness(script=(signature, wallet.key))],
        )

    def _output(self, script: bytes, value_sats: int) -> TxOut:
        return TxOut(self._asset, explicit_value(value_sats), NULL, script)


def coin_value_sats(payments: int) -> int:
    """What a coin must hold to be paid on so many times, and be more than dust at the end."""
    return payments * (PAID_SATS + FEE_SATS) + PAID_SATS


def purse_value_sats(coins: int, value_sats: int) -> int:
    """What has to be split into so many coins, with fees."""
    splits = -(-coins // SPLIT_MAX)
    return coins * value_sats + splits * SPLIT_FEE_SATS + PAID_SATS


def _wallet(seed: bytes, number: int) -> _Wallet:
    secret = sha256(_KEYS + seed + le32(number))
    key = public_key(secret)
    return _Wallet(secret, key, p2wpkh(key), p2pkh_of_hash(hash160(key)))
