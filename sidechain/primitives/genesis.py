"""The genesis block and pegged asset that follow from a chain's parameters.

Source: elements/blocks.md 6.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sidechain.crypto.hashes import ZERO_HASH, sha256
from sidechain.errors import InvalidEncoding
from sidechain.params import (
    BITCOIN_REGTEST,
    DEPLOYMENTS,
    ELEMENTS_REGTEST,
    NEVER_ACTIVE,
    ChainParams,
    Deployment,
)
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
    return Transaction.build(
        version=1, inputs=[TxIn(NULL_OUTPOINT, script_sig)], outputs=[nothing]
    )


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
    return Transaction.build(
        version=1, inputs=[TxIn(prevout, issuance=issuance)], outputs=outputs
    )


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


def params_from_options(options: Sequence[str]) -> ChainParams:
    """Parameters from elementsd's command line options (`-name=value`).

    Options that concern only the running of elementsd (ports, credentials, caches) are no
    parameters and must not be given; `-mainchainrpc…` ones are passed over.

    Raises:
        InvalidEncoding: unknown or malformed option, or a chain that is not supported.
    """
    fields: dict[str, Any] = {"prefixes": ELEMENTS_REGTEST, "parent_prefixes": BITCOIN_REGTEST}
    # elementsd's own default on custom chains; ChainParams takes the federation's.
    fields["accept_discount_ct"] = False
    fields["anyone_can_spend_standard"] = True
    repeated: dict[str, list[str]] = {}
    for option in options:
        key, _, value = option.lstrip("-").partition("=")
        try:
            if key in _REPEATED_OPTIONS:
                repeated.setdefault(key, []).append(value)
            else:
                _take_option(fields, key, value)
        except ValueError:
            raise InvalidEncoding(f"malformed option -{key}") from None
    for key, take in _REPEATED_OPTIONS.items():
        try:
            if key in repeated:
                take(fields, repeated[key])
        except (ValueError, KeyError):
            raise InvalidEncoding(f"malformed option -{key}") from None
    fields.setdefault("multi_data_permitted", fields.get("enforce_pak", False))
    if "name" not in fields:
        raise InvalidEncoding("option -chain is missing")
    return chain_params(**fields)


def _take_option(fields: dict[str, Any], key: str, value: str) -> None:
    if key in _PREFIX_OPTIONS:
        group, name, read = _PREFIX_OPTIONS[key]
        fields[group] = replace(fields[group], **{name: read(value)})
    elif key in _OPTIONS:
        name, read = _OPTIONS[key]
        fields[name] = read(value)
    elif not key.startswith("mainchainrpc"):
        raise InvalidEncoding(f"unknown option -{key}")


def _take_pak(fields: dict[str, Any], values: Sequence[str]) -> None:
    fields["pak"] = tuple(bytes.fromhex(value) for value in values)


def _take_vbparams(fields: dict[str, Any], values: Sequence[str]) -> None:
    """`name:start:timeout[:min_activation_height]`, where a later one wins."""
    for value in values:
        name, start, timeout, *rest = value.split(":")
        if len(rest) > 1:
            raise ValueError(value)
        fields[name] = replace(
            fields.get(name) or DEPLOYMENTS[name],
            start=int(start),
            timeout=int(timeout),
            min_activation_height=int(rest[0]) if rest else 0,
        )


def _take_evbparams(fields: dict[str, Any], values: Sequence[str]) -> None:
    """`name:start:timeout:period:threshold`, an empty part being the default; the first wins.

    Period and threshold count only where the deployment has its own.

    Source: elements/blocks.md 8.1.
    """
    seen = set()
    for value in values:
        name, *parts = value.split(":")
        if len(parts) != 4:
            raise ValueError(value)
        default: Deployment = fields.get(name) or DEPLOYMENTS[name]
        keys = ["start", "timeout"] + ["period", "threshold"] * (default.period is not None)
        given = {key: int(part) for key, part in zip(keys, parts, strict=False) if part}
        _ = [int(part) for part in parts if part]
        if name not in seen:
            fields[name] = replace(default, **given)
        seen.add(name)


def _take_activation_heights(fields: dict[str, Any], values: Sequence[str]) -> None:
    """`name@height`; on custom chains only the one of segwit is not set again by its option."""
    for value in values:
        name, _, height = value.partition("@")
        if name not in ("segwit", "bip34", "dersig", "cltv", "csv") or int(height) < 0:
            raise ValueError(value)
        if name == "segwit":
            fields["segwit_height"] = int(height)


# In this order: an -evbparams changes what a -vbparams has set.
_REPEATED_OPTIONS: dict[str, Callable[[dict[str, Any], Sequence[str]], None]] = {
    "pak": _take_pak,
    "vbparams": _take_vbparams,
    "evbparams": _take_evbparams,
    "testactivationheight": _take_activation_heights,
}


def _flag(value: str) -> bool:
    return value == "" or int(value) != 0


def _shown_hash(value: str) -> bytes:
    digest = bytes.fromhex(value)[::-1]
    if len(digest) != 32:
        raise ValueError(value)
    return digest


def _shown_number(value: str) -> int:
    return int(value, 16)


_OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "chain": ("name", str),
    "signblockscript": ("signblockscript", bytes.fromhex),
    "fedpegscript": ("fedpegscript", bytes.fromhex),
    "parentgenesisblockhash": ("parent_genesis_hash", _shown_hash),
    "con_max_block_sig_size": ("max_block_sig_size", int),
    "con_signed_blocks": ("signed_blocks", _flag),
    "con_blockheightinheader": ("block_height_in_header", _flag),
    "con_elementsmode": ("elements_mode", _flag),
    "con_genesis_style": ("genesis_style", str),
    "dynamic_epoch_length": ("dynamic_epoch_length", int),
    "total_valid_epochs": ("total_valid_epochs", int),
    "con_start_p2wsh_script": ("start_p2wsh_script", _flag),
    "con_mandatorycoinbase": ("mandatory_coinbase", bytes.fromhex),
    "con_blocksubsidy": ("block_subsidy_sats", int),
    "con_connect_genesis_outputs": ("connect_genesis_outputs", _flag),
    "initialfreecoins": ("initial_free_coins_sats", int),
    "initialreissuancetokens": ("initial_reissuance_tokens", int),
    "con_has_parent_chain": ("has_parent_chain", _flag),
    "con_parentpowlimit": ("parent_pow_limit", _shown_number),
    "peginconfirmationdepth": ("pegin_confirmation_depth", int),
    "enforce_pak": ("enforce_pak", _flag),
    "con_csv_deploy_start": ("csv_height", int),
    "con_bip34height": ("bip34_height", int),
    "con_bip65height": ("bip65_height", int),
    "con_bip66height": ("bip66_height", int),
    "con_nminerconfirmationwindow": ("miner_confirmation_window", int),
    "con_nrulechangeactivationthreshold": ("rule_change_activation_threshold", int),
    "con_dyna_deploy_signal": ("signal_dynafed", _flag),
    "con_nsubsidyhalvinginterval": ("subsidy_halving_blocks", int),
    "con_parent_chain_signblockscript": ("parent_chain_signblockscript", bytes.fromhex),
    "con_parent_pegged_asset": ("parent_pegged_asset", _shown_hash),
    "subsidyasset": ("subsidy_asset", _shown_hash),
    "feeasset": ("policy_asset", _shown_hash),
    "acceptdiscountct": ("accept_discount_ct", _flag),
    "acceptnonstdtxn": ("accept_nonstandard", _flag),
    "anyonecanspendaremine": ("anyone_can_spend_standard", _flag),
    "multi_data_permitted": ("multi_data_permitted", _flag),
    "validatepegin": ("validate_pegin", _flag),
}
_PREFIX_OPTIONS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "pubkeyprefix": ("prefixes", "pubkey", int),
    "scriptprefix": ("prefixes", "script", int),
    "blindedprefix": ("prefixes", "blinded", int),
    "secretprefix": ("prefixes", "secret", int),
    "bech32_hrp": ("prefixes", "bech32_hrp", str),
    "blech32_hrp": ("prefixes", "blech32_hrp", str),
    "parentpubkeyprefix": ("parent_prefixes", "pubkey", int),
    "parentscriptprefix": ("parent_prefixes", "script", int),
    "parent_bech32_hrp": ("parent_prefixes", "bech32_hrp", str),
    "parent_blech32_hrp": ("parent_prefixes", "blech32_hrp", str),
}
