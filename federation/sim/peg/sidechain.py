"""A sidechain that exists only in memory: final blocks made on order, neither signed nor validated.

`federation` and `secret` make the set whose peg it is out of names.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from federation.sim.peg.bitcoin import Bitcoin
from peg.commitments import Commitment, parameters_script
from peg.fedscript import FedScript, fed_script, tweaked
from peg.parameters import LOCAL, PegParameters
from peg.records import Record, record_script
from sidechain.crypto.hashes import sha256
from sidechain.crypto.keys import public_key
from sidechain.params import ChainParams
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.encoding import le32, le64
from sidechain.primitives.genesis import chain_params
from sidechain.primitives.parent import build_merkle_block, parse_parent_block, parse_parent_tx
from sidechain.primitives.transaction import (
    NULL_OUTPOINT,
    InputWitness,
    OutPoint,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.script.script import push

PARAMETER_HASH = sha256(b"parameters of the test federation")


def secret(name: str) -> bytes:
    """A private key that follows from a name."""
    return sha256(b"peg test key " + name.encode())


def federation(parameters: PegParameters = LOCAL) -> FedScript:
    """The fedpegscript of a test federation."""
    return fed_script(
        k=parameters.k,
        keys=[public_key(secret(f"peg {i}")) for i in range(parameters.n)],
        csv=parameters.csv,
        emergency_keys=[public_key(secret(f"emergency {i}")) for i in range(3)],
    )


def sidechain_params(script: FedScript) -> ChainParams:
    """Parameters of the sidechain of a test federation."""
    return chain_params(
        name="pegtest",
        signblockscript=b"\x51",
        fedpegscript=script.script,
        mandatory_coinbase=b"\x6a",
        start_p2wsh_script=True,
        pegin_confirmation_depth=6,
        total_valid_epochs=30,
    )


@dataclass(slots=True)
class Sidechain:
    """Final blocks of a sidechain, made on order."""

    params: ChainParams
    script: FedScript
    parameters: PegParameters = LOCAL
    blocks: list[Block] = field(default_factory=list)
    serial: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def height(self) -> int:
        """Of the last block."""
        return len(self.blocks)

    def block(
        self,
        scripts: Sequence[bytes],
        transactions: Sequence[Transaction] = (),
        *,
        height: int | None = None,
    ) -> Block:
        """The next block with these coinbase scripts, not kept."""
        height = self.height + 1 if height is None else height
        coinbase = Transaction.build(
            version=2,
            inputs=[TxIn(NULL_OUTPOINT, push(le32(height)) + push(le32(next(self.serial))))],
            outputs=[self.output(script, 0) for script in scripts],
            locktime=0,
        )
        header = BlockHeader(
            version=0x20000000,
            prev_hash=self.blocks[-1].hash if self.blocks else self.params.genesis_hash,
            merkle_root=coinbase.txid,
            time=1_700_000_000 + height,
            height=height,
        )
        return Block(header, (coinbase, *transactions))

    def add(self, block: Block) -> Block:
        """Keep a block as final."""
        self.blocks.append(block)
        return block

    def extend(
        self,
        commitment: Commitment,
        transactions: Sequence[Transaction] = (),
        records: Sequence[Record] = (),
    ) -> Block:
        """Make and keep the next block."""
        scripts = [commitment.script(), *(record_script(record) for record in records)]
        if self.height == 0:
            scripts.append(parameters_script(PARAMETER_HASH))
        return self.add(self.block(scripts, transactions))

    def output(self, script: bytes, value_sats: int) -> TxOut:
        """An explicit output in the pegged asset."""
        asset = explicit_asset(self.params.pegged_asset)
        return TxOut(asset, explicit_value(value_sats), NULL, script)

    def deposit_script(self, claim_script: bytes) -> bytes:
        """What a deposit for a claim script pays."""
        return tweaked(self.script, claim_script).program

    def claim(
        self,
        bitcoin: Bitcoin,
        raw: bytes,
        block_hash: bytes,
        claim_script: bytes,
        *,
        fee_sats: int = 1_000,
        index: int = 0,
    ) -> Transaction:
        """A claim of output `index` of a Bitcoin transaction in a block of the tree."""
        raw_block = bitcoin.blocks[block_hash].raw
        return self.claim_of(raw, raw_block, claim_script, fee_sats=fee_sats, index=index)

    def claim_of(
        self,
        raw: bytes,
        raw_block: bytes,
        claim_script: bytes,
        *,
        fee_sats: int = 1_000,
        index: int,
    ) -> Transaction:
        """A claim of output `index` of a Bitcoin transaction in a block."""
        tx = parse_parent_tx(raw)
        value_sats = tx.outputs[index][0]
        proof = build_merkle_block(parse_parent_block(raw_block), tx.txid)
        witness = InputWitness(
            pegin=(
                le64(value_sats),
                self.params.pegged_asset,
                self.params.parent_genesis_hash,
                claim_script,
                tx.stripped,
                proof,
            )
        )
        return Transaction.build(
            version=2,
            inputs=[TxIn(OutPoint(tx.txid, index), is_pegin=True)],
            outputs=[
                self.output(claim_script, value_sats - fee_sats),
                self.output(b"", fee_sats),
            ],
            locktime=0,
            input_witnesses=[witness],
        )

    def burn(
        self, destination: bytes, amount_sats: int, *, fee_sats: int = 100, **changes: bytes
    ) -> Transaction:
        """A peg-out of an amount; `changes` replace fields of its output."""
        script = b"\x6a" + push(self.params.parent_genesis_hash) + push(destination)
        made = replace(self.output(script, amount_sats), **changes)
        source = OutPoint(sha256(b"coin" + le32(next(self.serial))), 0)
        return Transaction.build(
            version=2,
            inputs=[TxIn(source)],
            outputs=[made, self.output(b"", fee_sats)],
            locktime=0,
        )
