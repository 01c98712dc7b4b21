"""The load: a chain of one signer, coins, and payments with one input and three outputs.

Everything follows from a seed. Blocks are built here and signed; the node that is measured sees
them for the first time when they are submitted.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from sidechain.bench.hidden_payments import PAYMENT_PROOFS, hide
from sidechain.chain import Chain
from sidechain.crypto.hashes import hash160, sha256, sha256d
from sidechain.crypto.keys import ecdsa_sign, public_key
from sidechain.params import MAX_MONEY_SATS, ChainParams
from sidechain.primitives.block import Block
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.encoding import le32
from sidechain.primitives.genesis import chain_params, genesis_block
from sidechain.primitives.transaction import InputWitness, OutPoint, Transaction, TxIn, TxOut
from sidechain.script.block_signature import signblock_witness
from sidechain.script.script import multisig_script, p2pkh_of_hash, p2wpkh
from sidechain.script.sighash import segwit_v0_sighash

CHAIN_NAME = "fedbench"
COIN_SATS = 100_000
FEE_SATS = 500
COINS_PER_SPLIT = 2_000
MAX_BLOCK_SIG_BYTES = 200
BLOCK_INTERVAL_S = 60

_OP_TRUE = b"\x51"


@dataclass(frozen=True, slots=True)
class Coin:
    """An output that a payment of the load spends, and the secret of its key."""

    outpoint: OutPoint
    secret: bytes


class LoadChain:
    """Owner of the chain the load is built on: makes coins, payments and blocks."""

    def __init__(self, chain: Chain, seed: int) -> None:
        self._chain = chain
        self._seed = le32(seed)
        self._serial = 0
        self._asset = explicit_asset(chain.params.pegged_asset)
        block = chain.block(0)
        self._purse = next(
            OutPoint(tx.txid, index)
            for tx in block.transactions
            for index, output in enumerate(tx.outputs)
            if output.script == _OP_TRUE and (output.value_sats or 0) > COIN_SATS
        )
        self._purse_sats = MAX_MONEY_SATS

    @property
    def params(self) -> ChainParams:
        """Parameters of the chain."""
        return self._chain.params

    def coins(self, count: int) -> tuple[list[bytes], list[Coin]]:
        """Make coins, each of a key of its own.

        Returns:
            Blocks to submit, and the coins they make.
        """
        blocks, coins = [], []
        for start in range(0, count, COINS_PER_SPLIT):
            size = min(COINS_PER_SPLIT, count - start)
            secrets = [self._fresh() for _ in range(size)]
            tx = self._split([p2wpkh(public_key(secret)) for secret in secrets])
            blocks.append(self.block([tx]))
            coins += [Coin(OutPoint(tx.txid, i), secret) for i, secret in enumerate(secrets)]
        return blocks, coins

    def payment(self, coin: Coin) -> Transaction:
        """Spend a coin to two others and a fee, everything shown."""
        pay = COIN_SATS * 2 // 5
        outputs = [
            self._output(self._stranger(), pay),
            self._output(self._stranger(), COIN_SATS - FEE_SATS - pay),
            self._output(b"", FEE_SATS),
        ]
        tx = Transaction.build(inputs=[TxIn(coin.outpoint, sequence=0xFFFFFFFD)], outputs=outputs)
        return self._signed(tx, coin)

    def hidden_payment(self, coin: Coin) -> Transaction:
        """Spend a coin to two hidden ones and a fee that is shown."""
        amounts = (COIN_SATS * 2 // 5, COIN_SATS - FEE_SATS - COIN_SATS * 2 // 5)
        outputs, proofs = hide(
            self.params.pegged_asset,
            [(amount, self._stranger()) for amount in amounts],
            self._fresh(),
        )
        tx = Transaction.build(
            inputs=[TxIn(coin.outpoint, sequence=0xFFFFFFFD)],
            outputs=[*outputs, self._output(b"", FEE_SATS)],
            output_witnesses=proofs,
        )
        return self._signed(tx, coin)

    def block(self, transactions: Sequence[Transaction]) -> bytes:
        """The next block with these transactions, signed; the chain goes on from it."""
        time_s = self._chain.header(0).time + BLOCK_INTERVAL_S * (self._chain.tip_height + 1)
        block = self._chain.build_template(
            time_s=time_s, coinbase_scripts=(), transactions=transactions
        )
        key = public_key(_SIGNER)
        signature = ecdsa_sign(_SIGNER, block.hash)
        signed: Block = block.with_signblock_witness(signblock_witness(1, [key], {key: signature}))
        self._chain.connect(signed)
        return signed.serialize()

    def _split(self, scripts: Sequence[bytes]) -> Transaction:
        paid = len(scripts) * COIN_SATS
        fee = FEE_SATS * (len(scripts) + 1)
        outputs = [self._output(script, COIN_SATS) for script in scripts]
        outputs.append(self._output(_OP_TRUE, self._purse_sats - paid - fee))
        outputs.append(self._output(b"", fee))
        tx = Transaction.build(inputs=[TxIn(self._purse)], outputs=outputs)
        self._purse = OutPoint(tx.txid, len(scripts))
        self._purse_sats -= paid + fee
        return tx

    def _signed(self, tx: Transaction, coin: Coin) -> Transaction:
        key = public_key(coin.secret)
        code = p2pkh_of_hash(hash160(key))
        digest = segwit_v0_sighash(tx, 0, code, explicit_value(COIN_SATS), 1, rangeproof=True)
        witness = InputWitness(script=(ecdsa_sign(coin.secret, digest) + b"\1", key))
        return Transaction.build(
            version=tx.version,
            inputs=tx.inputs,
            outputs=tx.outputs,
            locktime=tx.locktime,
            input_witnesses=[witness],
            output_witnesses=tx.output_witnesses,
        )

    def _output(self, script: bytes, amount_sats: int) -> TxOut:
        return TxOut(self._asset, explicit_value(amount_sats), NULL, script)

    def _stranger(self) -> bytes:
        return b"\0\x14" + self._fresh()[:20]

    def _fresh(self) -> bytes:
        self._serial += 1
        return sha256(b"fedpeg bench" + self._seed + le32(self._serial))


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent, in hex as a client sends it.

    Attributes:
        funding: blocks that make the coins of everything below.
        accepted: payments for the mempool, one list a measurement.
        blocks: blocks of payments, sizes as asked for.
        block_payments: how many payments each of `blocks` has.
        hidden_blocks: blocks of payments that hide amounts and assets.
        hidden_payments: how many each of those has.
    """

    params: ChainParams
    funding: tuple[str, ...]
    accepted: tuple[tuple[str, ...], ...]
    blocks: tuple[str, ...]
    block_payments: tuple[int, ...]
    hidden_blocks: tuple[str, ...]
    hidden_payments: tuple[int, ...]

    def shape(self) -> dict[str, object]:
        """What a reader of the figures must know about the load."""
        first = self.accepted[0][0] if self.accepted and self.accepted[0] else ""
        return {
            "payment": "1 P2WPKH input, 2 P2WPKH outputs and a fee, a key of its own each",
            "payment_bytes": len(first) // 2,
            "accepted_payments": [len(each) for each in self.accepted],
            "block_payments": list(self.block_payments),
            "hidden_payment": "1 shown P2WPKH input, 2 hidden P2WPKH outputs and a shown fee",
            "hidden_payment_proofs": PAYMENT_PROOFS,
            "hidden_block_payments": list(self.hidden_payments),
            "funding_blocks": len(self.funding),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How much of what to make."""

    accepted: tuple[int, ...]
    blocks: tuple[int, ...]
    hidden_blocks: tuple[int, ...]
    seed: int = 1


def bench_params() -> ChainParams:
    """Parameters of the chain that is measured; `chain_options` says the same to a daemon."""
    return chain_params(
        name=CHAIN_NAME,
        signblockscript=_SIGNBLOCKSCRIPT,
        fedpegscript=_OP_TRUE,
        max_block_sig_size=MAX_BLOCK_SIG_BYTES,
        start_p2wsh_script=True,
        initial_free_coins_sats=MAX_MONEY_SATS,
        has_parent_chain=True,
        validate_pegin=False,
    )


def chain_options() -> list[str]:
    """The same parameters as options of elementsd."""
    return [
        f"-chain={CHAIN_NAME}",
        f"-signblockscript={_SIGNBLOCKSCRIPT.hex()}",
        f"-fedpegscript={_OP_TRUE.hex()}",
        f"-con_max_block_sig_size={MAX_BLOCK_SIG_BYTES}",
        "-con_start_p2wsh_script=1",
        f"-initialfreecoins={MAX_MONEY_SATS}",
        "-validatepegin=0",
    ]


def make_load(shape: Shape) -> Load:
    """Make everything that will be sent; takes longer than sending it."""
    with _scratch(shape.seed) as maker:
        count = sum(shape.accepted) + sum(shape.blocks) + sum(shape.hidden_blocks)
        funding, coins = maker.coins(count)
        waiting = iter(coins)
        accepted = [
            tuple(maker.payment(next(waiting)).raw.hex() for _ in range(size))
            for size in shape.accepted
        ]
        blocks = [
            maker.block([maker.payment(next(waiting)) for _ in range(size)]).hex()
            for size in shape.blocks
        ]
        hidden = [
            maker.block([maker.hidden_payment(next(waiting)) for _ in range(size)]).hex()
            for size in shape.hidden_blocks
        ]
        return Load(
            params=maker.params,
            funding=tuple(block.hex() for block in funding),
            accepted=tuple(accepted),
            blocks=tuple(blocks),
            block_payments=shape.blocks,
            hidden_blocks=tuple(hidden),
            hidden_payments=shape.hidden_blocks,
        )


@contextmanager
def _scratch(seed: int) -> Iterator[LoadChain]:
    with TemporaryDirectory(prefix="fedpeg-bench-") as folder:
        chain = Chain.open(Path(folder) / "chain", bench_params())
        try:
            yield LoadChain(chain, seed)
        finally:
            chain.close()


def genesis_hash_hex(params: ChainParams) -> str:
    """Display form of the genesis hash, to see that both sides mean the same chain."""
    return genesis_block(params).hash[::-1].hex()


_SIGNER = sha256d(b"fedpeg bench signer")
_SIGNBLOCKSCRIPT = multisig_script(1, [public_key(_SIGNER)])
