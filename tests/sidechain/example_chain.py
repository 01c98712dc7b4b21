"""The three-member example of the specification, and small chains built on it.

Source: elements/blocks.md 7.2 and 7.3.
"""

from dataclasses import replace

from sidechain.crypto.keys import ecdsa_sign, public_key
from sidechain.params import ChainParams
from sidechain.primitives.block import NULL_ENTRY, Block, BlockHeader, ParamEntry
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.genesis import chain_params, genesis_block
from sidechain.primitives.transaction import (
    NULL_OUTPOINT,
    InputWitness,
    OutPoint,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.script.block_signature import signblock_witness
from sidechain.script.script import multisig_script, push_number
from sidechain.validation.block_check import WITNESS_COMMITMENT_PREFIX, witness_commitment
from sidechain.validation.coins import Coin, PeginKey
from sidechain.validation.dynafed import current_entry

BLOCK_SECRETS = [number.to_bytes(32, "big") for number in (1, 2, 3)]
BLOCK_KEYS = [public_key(secret) for secret in BLOCK_SECRETS]
PEG_KEYS = [public_key(number.to_bytes(32, "big")) for number in (11, 12, 13)]
FEDPEGSCRIPT = multisig_script(2, PEG_KEYS)
SIGNBLOCKSCRIPT = multisig_script(2, BLOCK_KEYS)
TRUE_SCRIPT = b"\x51"


def example_params(**changes: object) -> ChainParams:
    """Parameters of the example, changed where asked."""
    fields: dict[str, object] = {
        "signblockscript": SIGNBLOCKSCRIPT,
        "fedpegscript": FEDPEGSCRIPT,
        "max_block_sig_size": 300,
    }
    return chain_params(name="fedtest", **(fields | changes))


class ListedHeaders:
    """`HeaderChain` of a list that tests append to."""

    def __init__(self, params: ChainParams) -> None:
        self.params = params
        self.headers = [genesis_block(params).header]

    @property
    def tip_height(self) -> int:
        return len(self.headers) - 1

    def header(self, height: int) -> BlockHeader:
        return self.headers[height]

    def next_header(self, proposed: ParamEntry = NULL_ENTRY) -> BlockHeader:
        """A header that obeys the rules, unsigned and without transactions."""
        tip = self.headers[-1]
        return BlockHeader(
            version=0x20000000,
            prev_hash=tip.hash,
            merkle_root=bytes(32),
            time=tip.time + 60,
            height=tip.height + 1,
            current=current_entry(self, self.tip_height, self.params),
            proposed=proposed,
        )

    def grow(self, count: int, proposed: ParamEntry = NULL_ENTRY) -> None:
        """Append `count` headers."""
        for _ in range(count):
            self.headers.append(self.next_header(proposed))


class DictView:
    """`CoinView` of two plain containers."""

    def __init__(self) -> None:
        self.coins: dict[OutPoint, Coin] = {}
        self.claimed: set[PeginKey] = set()

    def coin(self, outpoint: OutPoint) -> Coin | None:
        return self.coins.get(outpoint)

    def pegin_claimed(self, key: PeginKey) -> bool:
        return key in self.claimed


def output(params: ChainParams, amount_sats: int, script: bytes = TRUE_SCRIPT) -> TxOut:
    """An explicit output of the pegged asset."""
    asset = explicit_asset(params.pegged_asset)
    return TxOut(asset, explicit_value(amount_sats), NULL, script)


def coin(params: ChainParams, amount_sats: int, height: int = 1, **changes: object) -> Coin:
    """An explicit coin of the pegged asset that anyone may spend."""
    made = Coin.of(output(params, amount_sats), height=height, coinbase=False)
    return replace(made, **changes)  # type: ignore[arg-type]


def spend(*outpoints: OutPoint, outputs: list[TxOut], **fields: object) -> Transaction:
    """A transaction without signatures."""
    inputs = [TxIn(outpoint) for outpoint in outpoints]
    return Transaction.build(inputs=inputs, outputs=outputs, **fields)  # type: ignore[arg-type]


def build_block(
    chain: ListedHeaders,
    transactions: list[Transaction],
    coinbase_outputs: list[TxOut],
    *,
    commit: bool = True,
) -> Block:
    """A block on top of a chain, unsigned, with the coinbase outputs it is told."""
    height = chain.tip_height + 1

    def coinbase(commitment: bytes) -> Transaction:
        extra = output(chain.params, 0, WITNESS_COMMITMENT_PREFIX + commitment)
        return Transaction.build(
            inputs=[TxIn(NULL_OUTPOINT, push_number(height) + b"\0")],
            outputs=[*coinbase_outputs, *([extra] if commit else [])],
            input_witnesses=[InputWitness(script=(bytes(32),) if commit else ())],
        )

    header = chain.next_header()
    draft = Block(header, (coinbase(bytes(32)), *transactions))
    final = coinbase(witness_commitment(draft.witness_root(), bytes(32)))
    block = Block(header, (final, *transactions))
    root, _ = block.transaction_root()
    return Block(replace(header, merkle_root=root), block.transactions)


def sign_block(block: Block, secrets: list[bytes]) -> Block:
    """The block under signatures by some of the example's members."""
    signatures = {public_key(s): ecdsa_sign(s, block.hash) for s in secrets}
    return block.with_signblock_witness(signblock_witness(2, BLOCK_KEYS, signatures))
