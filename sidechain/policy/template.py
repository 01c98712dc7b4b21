"""The block a node would make. It is not judged here.

Source: elements/blocks.md 5.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sidechain.params import MAX_BLOCK_WEIGHT_WU, ChainParams
from sidechain.policy.fees import fee_sats
from sidechain.primitives.block import NULL_ENTRY, Block, BlockHeader, ParamEntry
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import (
    NULL_OUTPOINT,
    InputWitness,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.script.script import push_number
from sidechain.validation.block_check import WITNESS_COMMITMENT_PREFIX, witness_commitment
from sidechain.validation.connect import block_subsidy_sats
from sidechain.validation.deployments import dynafed_active
from sidechain.validation.dynafed import current_entry
from sidechain.validation.headers import HeaderChain

BLOCK_VERSION = 0x20000000


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateRules:
    """How this node fills its blocks; no rule of the chain.

    Attributes:
        max_weight_wu: of the whole block.
        reserved_weight_wu: left for header, count and coinbase.
        min_fee_sats_per_kvb: what a transaction must pay, with those it needs.
        version: of every block, for tests; None for the one that votes as it should.
    """

    max_weight_wu: int = MAX_BLOCK_WEIGHT_WU
    reserved_weight_wu: int = 8_000
    min_fee_sats_per_kvb: int = 100
    version: int | None = None


def build_template(
    chain: HeaderChain,
    params: ChainParams,
    *,
    time_s: int,
    coinbase_scripts: Sequence[bytes],
    transactions: Sequence[Transaction],
    proposed: ParamEntry,
    version: int = BLOCK_VERSION,
    fee_script: bytes | None = None,
    takes_fees: bool = True,
) -> Block:
    """The unsigned block on top of a chain that elementsd would make; nothing is judged.

    Args:
        time_s: its time in seconds since 1970; above the median time past to be valid.
        coinbase_scripts: zero-value outputs that precede the fee output, in order.
        transactions: those after the coinbase, parents before children.
        proposed: parameters this block votes for; ignored before dynamic federations.
        version: of the block; `deployments.template_version` gives the one that votes.
        fee_script: what takes fees and subsidy; the mandatory script or OP_TRUE by default.
        takes_fees: whether the coinbase pays out the fees or leaves them.
    Source: elements/blocks.md 5.3.
    """
    prev_height = chain.tip_height
    height = prev_height + 1
    reward = sum(fee_sats(tx, params) for tx in transactions) if takes_fees else 0
    if params.subsidy_asset == params.policy_asset:
        reward += block_subsidy_sats(height, params)
    script = (params.mandatory_coinbase or b"\x51") if fee_script is None else fee_script
    paid = [(each, 0) for each in coinbase_scripts]
    paid.append((script, reward) if reward else (b"\x6a", 0))
    unmarked = _coinbase(height, params, paid, bytes(32))
    header = _template_header(chain, params, version=version, time_s=time_s, proposed=proposed)
    # The coinbase enters the witness root with its outputs' witnesses only, which are empty.
    root = Block(header, (unmarked, *transactions)).witness_root()
    coinbase = _coinbase(height, params, paid, witness_commitment(root, bytes(32)))
    block = Block(header, (coinbase, *transactions))
    merkle, _ = block.transaction_root()
    return Block(replace(header, merkle_root=merkle), block.transactions)


def _template_header(
    chain: HeaderChain, params: ChainParams, *, version: int, time_s: int, proposed: ParamEntry
) -> BlockHeader:
    prev_height = chain.tip_height
    parent = chain.header(prev_height)
    dynafed = dynafed_active(chain, prev_height, params)
    return BlockHeader(
        version=version,
        prev_hash=parent.hash,
        merkle_root=bytes(32),
        time=time_s,
        height=prev_height + 1 if dynafed or params.block_height_in_header else 0,
        challenge=b"" if dynafed else parent.challenge,
        current=current_entry(chain, prev_height, params) if dynafed else NULL_ENTRY,
        proposed=proposed if dynafed else NULL_ENTRY,
        height_in_legacy_form=params.block_height_in_header,
    )


def _coinbase(
    height: int, params: ChainParams, paid: Sequence[tuple[bytes, int]], commitment: bytes
) -> Transaction:
    outputs = [*paid, (WITNESS_COMMITMENT_PREFIX + commitment, 0)]
    reserved = (bytes(32),) if height >= params.segwit_height else ()
    asset = explicit_asset(params.policy_asset)
    return Transaction.build(
        version=2,
        inputs=[TxIn(NULL_OUTPOINT, push_number(height) + b"\0")],
        outputs=[TxOut(asset, explicit_value(amount), NULL, script) for script, amount in outputs],
        input_witnesses=[InputWitness(script=reserved)],
    )
