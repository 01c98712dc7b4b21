"""The genesis block and pegged asset that follow from a chain's parameters.

Source: elements/blocks.md 6.
"""

from dataclasses import replace
from typing import Any

from sidechain.crypto.hashes import ZERO_HASH, sha256
from sidechain.errors import InvalidEncoding
from sidechain.params import NEVER_ACTIVE, ChainParams
from sidechain.primitives.block import Block, BlockHeader
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.issuance import (
    asset_from_entropy,
    issuance_entropy,
    token_from_entropy,
)
from sidechain.primitives.transaction import (
    NULL_OUTPOINT,
    Issuance,
    OutPoint,
    Transaction,
    TxIn,
    TxOut,
)

_GENESIS_TIME_S = 1296688602
_OP_TRUE = b"\x51"
_OP_RETURN = b"\x6a"
_RESERVED_NAMES = frozenset(
    ["main", "test", "testnet4", "signet", "regtest", "liquidv1", "liquidv1test", "liquidtestnet"]
)


def chain_params(*, name: str, **fields: Any) -> ChainParams:
    """Parameters of a chain with pegged asset and genesis hash worked out.

    Args:
        name: the chain's name; it enters both derived values.
        fields: any other field of `ChainParams`; the two scripts default to OP_TRUE, policy and
            subsidy asset to the pegged asset.
    Raises:
        InvalidEncoding: a combination this implementation does not run.
    """
    fields.setdefault("signblockscript", _OP_TRUE)
    fields.setdefault("fedpegscript", _OP_TRUE)
    chosen = {key: fields.pop(key, None) for key in ("policy_asset", "subsidy_asset")}
    derived: dict[str, Any] = dict.fromkeys(("pegged_asset", *chosen, "genesis_hash"), ZERO_HASH)
    params = ChainParams(name=name, **derived, **fields)
    _check_supported(params)
    pegged = asset_from_entropy(_asset_entropy(params))
    assets: dict[str, Any] = {key: asset or pegged for key, asset in chosen.items()}
    params = replace(params, pegged_asset=pegged, **assets)
    return replace(params, genesis_hash=genesis_block(params).hash)


def chain_commitment(params: ChainParams) -> bytes:
    """What the genesis block commits to: name and scripts, 32 bytes."""
    text = params.name + params.fedpegscript.hex() + params.signblockscript.hex()
    return sha256(text.encode())


def initial_token(params: ChainParams) -> bytes:
    """Id of the reissuance token that the genesis block may create."""
    return token_from_entropy(_asset_entropy(params), confidential_amount=False)


def genesis_block(params: ChainParams) -> Block:
    """The first block of a chain."""
    transactions = [_commitment_transaction(params)]
    if params.initial_free_coins_sats or params.initial_reissuance_tokens:
        transactions.append(_issuance_transaction(params))
    header = BlockHeader(
        version=1,
        prev_hash=ZERO_HASH,
        merkle_root=ZERO_HASH,
        time=_GENESIS_TIME_S,
        height=0,
        challenge=params.signblockscript,
        height_in_legacy_form=params.block_height_in_header,
    )
    block = Block(header, tuple(transactions))
    root, _ = block.transaction_root()
    return Block(replace(header, merkle_root=root), block.transactions)


def _asset_entropy(params: ChainParams) -> bytes:
    return issuance_entropy(OutPoint(chain_commitment(params), 0), params.parent_genesis_hash)


def _commitment_transaction(params: ChainParams) -> Transaction:
    script_sig = b"\x20" + chain_commitment(params)
    nothing = TxOut(explicit_asset(ZERO_HASH), explicit_value(0), NULL, _OP_RETURN)
    return Transaction.build(version=1, inputs=[TxIn(NULL_OUTPOINT, script_sig)], outputs=[nothing])


def _issuance_transaction(params: ChainParams) -> Transaction:
    coins, tokens = params.initial_free_coins_sats, params.initial_reissuance_tokens
    issuance = Issuance(
        blinding_nonce=ZERO_HASH,
        entropy=params.parent_genesis_hash,
        amount=explicit_value(coins),
        inflation_keys=explicit_value(tokens),
    )
    prevout = OutPoint(chain_commitment(params), 0)
    created = [(params.pegged_asset, coins), (initial_token(params), tokens)]
    outputs = [
        TxOut(explicit_asset(asset), explicit_value(amount), NULL, _OP_TRUE)
        for asset, amount in created
        if amount
    ]
    return Transaction.build(version=1, inputs=[TxIn(prevout, issuance=issuance)], outputs=outputs)


def _check_supported(params: ChainParams) -> None:
    if params.name in _RESERVED_NAMES:
        raise InvalidEncoding(f"chain name {params.name} is reserved")
    if not (params.signed_blocks and params.elements_mode):
        raise InvalidEncoding("only chains with signed blocks in Elements mode are supported")
    if params.genesis_style != "elements":
        raise InvalidEncoding("only the genesis style of Elements is supported")
    if params.has_parent_chain != any(params.parent_genesis_hash):
        raise InvalidEncoding("a parent genesis hash is needed exactly when there is a parent")
    if params.simplicity.start != NEVER_ACTIVE:
        raise InvalidEncoding(
            "the deployment of Simplicity can become active on this chain, and programs in "
            "Simplicity are not verified here"
        )
    if min(params.dynamic_epoch_length, params.subsidy_halving_blocks) < 1:
        raise InvalidEncoding("an epoch and a halving interval have at least one block")
    periods = [params.miner_confirmation_window, params.taproot.period or 1]
    if min(periods) < 1:
        raise InvalidEncoding("a period of version bits has at least one block")
