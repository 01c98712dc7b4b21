"""Everything about a chain that is chosen by those who found it.

Nothing here has a default network: a `ChainParams` is made once, by
`sidechain.primitives.genesis.chain_params`, and passed to whatever needs it.
Hashes and asset ids are in internal byte order, scripts are raw bytes.

Source: elements/blocks.md 6.6 and 7.1, elements/script.md 10.
"""

from collections.abc import Mapping
from dataclasses import dataclass

MAX_MONEY_SATS = 2_100_000_000_000_000
MAX_BLOCK_WEIGHT_WU = 4_000_000
GENESIS_BITS = 0x207FFFFF
GENESIS_TARGET = 0x7FFFFF << 8 * 29
"""What elementsd shows as the genesis block's difficulty; signed blocks have none."""
INCREMENTAL_RELAY_FEE_SATS_PER_KVB = 100
DUST_RELAY_FEE_SATS_PER_KVB = 100
COINBASE_MATURITY_BLOCKS = 100

_JUNK_KEY = bytes.fromhex("02fcba7ecf41bc7e1be4ee122d9d22e3333671eb0a3a87b5cdf099d59874e1940f")
DEFAULT_PAK_LIST: tuple[bytes, ...] = (_JUNK_KEY * 2,)
"""The one entry an Elements custom chain starts with: it names no usable key."""

BITCOIN_REGTEST_GENESIS_HASH = bytes.fromhex(
    "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"
)[::-1]
REGTEST_POW_LIMIT = 2**255 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressPrefixes:
    """Version bytes and human-readable parts of one chain's addresses and keys.

    `blinded` and `blech32_hrp` are None on chains without confidential addresses.
    """

    pubkey: int
    script: int
    blinded: int | None
    secret: int
    bech32_hrp: str
    blech32_hrp: str | None
    extended_public: bytes = bytes.fromhex("043587cf")
    extended_secret: bytes = bytes.fromhex("04358394")


ELEMENTS_REGTEST = AddressPrefixes(
    pubkey=235, script=75, blinded=4, secret=239, bech32_hrp="ert", blech32_hrp="el"
)
BITCOIN_REGTEST = AddressPrefixes(
    pubkey=111, script=196, blinded=None, secret=239, bech32_hrp="bcrt", blech32_hrp=None
)


ALWAYS_ACTIVE = -1
NEVER_ACTIVE = -2
NO_TIMEOUT = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A rule that version bits switch on. Numbers are block heights.

    Attributes:
        bit: of the block version.
        start: height from which votes count, ALWAYS_ACTIVE or NEVER_ACTIVE.
        timeout: height at which an undecided vote fails.
        period: blocks of one count; None takes the chain's `miner_confirmation_window`.
        threshold: votes that lock it in; None takes the chain's.
        min_activation_height: not active below, once locked in.

    Source: elements/blocks.md 8.1.
    """

    bit: int
    start: int
    timeout: int = NO_TIMEOUT
    period: int | None = None
    threshold: int | None = None
    min_activation_height: int = 0


DEPLOYMENTS: Mapping[str, Deployment] = {
    "testdummy": Deployment(bit=28, start=0),
    "taproot": Deployment(bit=2, start=ALWAYS_ACTIVE, period=128, threshold=128),
    "dynafed": Deployment(bit=25, start=ALWAYS_ACTIVE),
    "simplicity": Deployment(bit=21, start=NEVER_ACTIVE, period=128, threshold=128),
}
"""What a custom chain starts with, by name. Source: elements/blocks.md 7.1 and 8.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainParams:
    """Parameters of one sidechain.

    Make it with `genesis.chain_params`, which fills in the derived fields at the end: the assets
    default to the pegged one. `block_subsidy_sats`, `initial_free_coins_sats` and
    `initial_reissuance_tokens` are in the smallest unit; fee rates are satoshis per 1,000 virtual
    bytes; heights None switch a rule off, as does `max_data_carrier_bytes` None the data outputs.
    """

    name: str
    signblockscript: bytes
    fedpegscript: bytes
    parent_genesis_hash: bytes = BITCOIN_REGTEST_GENESIS_HASH
    max_block_sig_size: int = 74
    signed_blocks: bool = True
    block_height_in_header: bool = True
    elements_mode: bool = True
    dynamic_epoch_length: int = 10
    total_valid_epochs: int = 2
    pak: tuple[bytes, ...] = DEFAULT_PAK_LIST
    start_p2wsh_script: bool = False
    mandatory_coinbase: bytes = b""
    block_subsidy_sats: int = 0
    connect_genesis_outputs: bool = True
    initial_free_coins_sats: int = 0
    initial_reissuance_tokens: int = 0
    has_parent_chain: bool = True
    parent_pow_limit: int = REGTEST_POW_LIMIT
    pegin_confirmation_depth: int = 8
    enforce_pak: bool = False
    genesis_style: str = "elements"
    accept_discount_ct: bool = True
    show_discount_ct: bool = True
    min_relay_fee_sats_per_kvb: int = 100
    dust_relay_fee_sats_per_kvb: int = DUST_RELAY_FEE_SATS_PER_KVB
    incremental_relay_fee_sats_per_kvb: int = INCREMENTAL_RELAY_FEE_SATS_PER_KVB
    accept_nonstandard: bool = False
    max_data_carrier_bytes: int | None = 83
    permit_bare_multisig: bool = True
    bytes_per_sigop: int = 20
    bip34_height: int = 0
    bip65_height: int = 0
    bip66_height: int = 0
    segwit_height: int = 0
    csv_height: int = 1
    miner_confirmation_window: int = 144
    rule_change_activation_threshold: int = 108
    dynafed: Deployment = DEPLOYMENTS["dynafed"]
    taproot: Deployment = DEPLOYMENTS["taproot"]
    simplicity: Deployment = DEPLOYMENTS["simplicity"]
    testdummy: Deployment = DEPLOYMENTS["testdummy"]
    signal_dynafed: bool = True
    subsidy_halving_blocks: int = 150
    parent_chain_signblockscript: bytes = b""
    parent_pegged_asset: bytes = bytes(32)
    pegin_min_height: int | None = None
    pegin_min_sats: int = 0
    pegin_subsidy_height: int | None = None
    pegin_subsidy_threshold_sats: int = 0
    accept_unlimited_issuances: bool = False
    pegged_asset_name: str = "bitcoin"
    validate_pegin: bool = True
    anyone_can_spend_standard: bool = False
    multi_data_permitted: bool = False
    prefixes: AddressPrefixes = ELEMENTS_REGTEST
    parent_prefixes: AddressPrefixes = BITCOIN_REGTEST
    pegged_asset: bytes
    policy_asset: bytes
    subsidy_asset: bytes
    genesis_hash: bytes
