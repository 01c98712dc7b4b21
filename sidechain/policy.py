"""What a node keeps in its mempool, and how it makes a block. Never consensus.

Source: elements/transactions.md 7, elements/peg.md 5.1.
"""

from collections.abc import Sequence
from dataclasses import replace

from sidechain.errors import InvalidTransaction
from sidechain.params import MAX_MONEY_SATS, ChainParams
from sidechain.primitives.block import NULL_ENTRY, Block, BlockHeader, ParamEntry
from sidechain.primitives.confidential import (
    NULL,
    explicit_asset,
    explicit_value,
    is_commitment,
)
from sidechain.primitives.transaction import (
    NULL_OUTPOINT,
    InputWitness,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.script.script import (
    MAX_STANDARD_MULTISIG_KEYS,
    ScriptKind,
    classify,
    count_sigops,
    is_p2sh,
    is_push_only,
    last_push,
    parse_multisig,
    push_number,
    witness_program,
)
from sidechain.validation.block_check import WITNESS_COMMITMENT_PREFIX, witness_commitment
from sidechain.validation.coins import Coin
from sidechain.validation.connect import block_subsidy_sats
from sidechain.validation.deployments import dynafed_active
from sidechain.validation.dynafed import current_entry
from sidechain.validation.headers import HeaderChain
from sidechain.validation.tx_verify import sigop_cost

TX_VERSION_MAX = 3
MAX_STANDARD_TX_WEIGHT_WU = 400_000
MIN_STANDARD_TX_SIZE_BYTES = 65
MAX_STANDARD_SCRIPT_SIG_BYTES = 1_650
MAX_STANDARD_SIGOP_COST = 16_000
MAX_P2SH_SIGOPS = 15
MAX_P2WSH_SCRIPT_BYTES = 3_600
MAX_P2WSH_ITEMS = 100
MAX_P2WSH_ITEM_BYTES = 80
MAX_TAPSCRIPT_ITEM_BYTES = 80
MAX_DATA_CARRIER_BYTES = 83
BYTES_PER_SIGOP = 20
INCREMENTAL_RELAY_FEE_SATS_PER_KVB = 100
MAX_DUST_OUTPUTS = 1
BLOCK_VERSION = 0x20000000

_ANNEX_TAG = 0x50
_TAPSCRIPT_LEAF = 0xC4
_LEAF_MASK = 0xFE
_WITNESS_SPEND_BYTES = 67
_LEGACY_SPEND_BYTES = 148


def required_fee_sats(vsize: int, rate_sats_per_kvb: int) -> int:
    """Fee for that many virtual bytes, rounded up; at least 1 where the rate is not 0."""
    fee_sats = -(-rate_sats_per_kvb * vsize // 1000)
    return max(fee_sats, 1) if rate_sats_per_kvb > 0 else fee_sats


def fee_sats(tx: Transaction, params: ChainParams) -> int:
    """Sum of the transaction's fee outputs in the pegged asset; other assets count nothing."""
    return sum(
        output.value_sats or 0
        for output in tx.outputs
        if output.is_fee and output.asset_id == params.pegged_asset
    )


def relay_vsize(tx: Transaction, params: ChainParams, cost: int) -> int:
    """Virtual bytes a fee is asked for.

    Args:
        cost: `sigop_cost` of the transaction. The discounted size does not look at it.
    """
    if params.accept_discount_ct:
        return tx.discount_vsize
    return virtual_size(tx, cost)


def virtual_size(tx: Transaction, cost: int) -> int:
    """Virtual bytes, raised where signature operations weigh more than the bytes."""
    return (max(tx.weight_wu, cost * BYTES_PER_SIGOP) + 3) // 4


def check_relay_fee(fee: int, vsize: int, rate_sats_per_kvb: int) -> None:
    """Refuse a transaction that pays less than the rate for its size.

    Raises:
        InvalidTransaction: "min relay fee not met".
    """
    needed = required_fee_sats(vsize, rate_sats_per_kvb)
    if fee < needed:
        raise InvalidTransaction("min relay fee not met", f"{fee} < {needed}")


def check_standard(tx: Transaction, params: ChainParams) -> None:
    """Check what the transaction alone shows: version, size, script forms, dust, data outputs.

    Raises:
        InvalidTransaction: the first rule broken, under Elements' name.
    """
    if not 1 <= tx.version <= TX_VERSION_MAX:
        raise InvalidTransaction("version")
    if tx.weight_wu > MAX_STANDARD_TX_WEIGHT_WU:
        raise InvalidTransaction("tx-size")
    for txin in tx.inputs:
        if len(txin.script_sig) > MAX_STANDARD_SCRIPT_SIG_BYTES:
            raise InvalidTransaction("scriptsig-size")
        if not is_push_only(txin.script_sig):
            raise InvalidTransaction("scriptsig-not-pushonly")
    data_outputs = 0
    for output in tx.outputs:
        if not is_standard_output(output, params):
            raise InvalidTransaction("scriptpubkey")
        data_outputs += classify(output.script) is ScriptKind.NULL_DATA
    if count_dust(tx, params) > MAX_DUST_OUTPUTS:
        raise InvalidTransaction("dust")
    if data_outputs > 1 and not params.multi_data_permitted:
        raise InvalidTransaction("multi-op-return")
    if tx.base_size < MIN_STANDARD_TX_SIZE_BYTES:
        raise InvalidTransaction("tx-size-small")


def check_standard_inputs(tx: Transaction, spent: Sequence[Coin], params: ChainParams) -> None:
    """Check the form of what the inputs spend and of their witnesses.

    Args:
        spent: the coins of the inputs, in their order, peg-ins included.
    Raises:
        InvalidTransaction: the first rule broken, under Elements' name.
    """
    for txin, coin in zip(tx.inputs, spent, strict=True):
        if txin.is_pegin:
            continue
        kind = classify(coin.script)
        bare_true = kind is ScriptKind.TRUE and not params.anyone_can_spend_standard
        if bare_true or kind in (ScriptKind.NONSTANDARD, ScriptKind.WITNESS_UNKNOWN):
            raise InvalidTransaction("bad-txns-nonstandard-inputs")
        if kind is ScriptKind.SCRIPTHASH:
            redeem = last_push(txin.script_sig)
            if redeem is None or count_sigops(redeem, accurate=True) > MAX_P2SH_SIGOPS:
                raise InvalidTransaction("bad-txns-nonstandard-inputs")
    for txin, coin, witness in zip(tx.inputs, spent, tx.input_witnesses, strict=True):
        if witness.script and not _is_standard_witness(
            txin.script_sig, coin.script, witness.script
        ):
            raise InvalidTransaction("bad-witness-nonstandard")
    _check_issuances(tx)
    if sigop_cost(tx, spent) > MAX_STANDARD_SIGOP_COST:
        raise InvalidTransaction("bad-txns-too-many-sigops")


def check_pegin_witnesses(tx: Transaction) -> None:
    """Refuse a peg-in witness on an input that is no peg-in; blocks may carry it.

    Raises:
        InvalidTransaction: "extra-pegin-witness".
    """
    for txin, witness in zip(tx.inputs, tx.input_witnesses, strict=True):
        if witness.pegin and not txin.is_pegin:
            raise InvalidTransaction("extra-pegin-witness")


def check_dust_fee(tx: Transaction, fee: int, params: ChainParams) -> None:
    """Refuse a dust output in a transaction that pays a fee.

    Raises:
        InvalidTransaction: "dust".
    """
    if fee and count_dust(tx, params):
        raise InvalidTransaction("dust", "tx with dust output must be 0-fee")


def is_standard_output(output: TxOut, params: ChainParams) -> bool:
    """Whether other nodes relay outputs of this form."""
    match classify(output.script):
        case ScriptKind.NONSTANDARD:
            return False
        case ScriptKind.NULL_DATA:
            return len(output.script) <= MAX_DATA_CARRIER_BYTES
        case ScriptKind.MULTISIG:
            parsed = parse_multisig(output.script)
            return parsed is not None and len(parsed[1]) <= MAX_STANDARD_MULTISIG_KEYS
        case ScriptKind.TRUE:
            return params.anyone_can_spend_standard
        case _:
            return True


def count_dust(tx: Transaction, params: ChainParams) -> int:
    """Number of explicit outputs in the pegged asset that cost more to spend than they hold."""
    return sum(
        output.asset_id == params.pegged_asset
        and output.value_sats is not None
        and output.value_sats < dust_threshold_sats(output, params)
        for output in tx.outputs
    )


def dust_threshold_sats(output: TxOut, params: ChainParams) -> int:
    """Least amount, in satoshis, that is no dust in an output of this form."""
    if output.is_unspendable:
        return 0
    spend = _LEGACY_SPEND_BYTES
    if witness_program(output.script) is not None:
        spend = _WITNESS_SPEND_BYTES
    size = len(output.serialize()) + spend
    return required_fee_sats(size, params.dust_relay_fee_sats_per_kvb)


def _check_issuances(tx: Transaction) -> None:
    for txin, witness in zip(tx.inputs, tx.input_witnesses, strict=True):
        amount = txin.issuance.amount if txin.issuance else b"\0"
        tokens = txin.issuance.inflation_keys if txin.issuance else b"\0"
        if witness.issuance_range_proof and not is_commitment(amount):
            raise InvalidTransaction("bad-txin-extra-issuance-rangeproof")
        if witness.inflation_range_proof and not is_commitment(tokens):
            raise InvalidTransaction("bad-txin-extra-inflation-rangeproof")
        for field in (amount, tokens):
            if field[0] == 1 and int.from_bytes(field[1:], "big") > MAX_MONEY_SATS:
                raise InvalidTransaction(
                    "issuance-out-of-range",
                    "Issuance is greater than 21 million and acceptunlimitedissuances is not "
                    "enabled.",
                )


def _is_standard_witness(
    script_sig: bytes, script_pubkey: bytes, witness: tuple[bytes, ...]
) -> bool:
    nested = is_p2sh(script_pubkey)
    program = witness_program((last_push(script_sig) or b"") if nested else script_pubkey)
    if program is None:
        return False
    version, body = program
    if version == 0 and len(body) == 32:
        return (
            len(witness[-1]) <= MAX_P2WSH_SCRIPT_BYTES
            and len(witness) - 1 <= MAX_P2WSH_ITEMS
            and all(len(item) <= MAX_P2WSH_ITEM_BYTES for item in witness[:-1])
        )
    if version == 1 and len(body) == 32 and not nested:
        return _is_standard_taproot_witness(witness)
    return classify(script_pubkey) is not ScriptKind.ANCHOR


def _is_standard_taproot_witness(witness: tuple[bytes, ...]) -> bool:
    if len(witness) >= 2 and witness[-1][:1] == bytes((_ANNEX_TAG,)):
        return False
    if len(witness) < 2:
        return True
    control = witness[-1]
    if not control:
        return False
    if control[0] & _LEAF_MASK != _TAPSCRIPT_LEAF:
        return True
    return all(len(item) <= MAX_TAPSCRIPT_ITEM_BYTES for item in witness[:-2])


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
) -> Block:
    """The unsigned block on top of a chain that elementsd would make; nothing is judged.

    Args:
        time_s: its time in seconds since 1970; above the median time past to be valid.
        coinbase_scripts: zero-value outputs that precede the fee output, in order.
        transactions: those after the coinbase, parents before children.
        proposed: parameters this block votes for; ignored before dynamic federations.
        version: of the block; `deployments.template_version` gives the one that votes.
        fee_script: what takes fees and subsidy; the mandatory script or OP_TRUE by default.
    Source: elements/blocks.md 5.3.
    """
    prev_height = chain.tip_height
    height = prev_height + 1
    reward = sum(fee_sats(tx, params) for tx in transactions)
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
    asset = explicit_asset(params.policy_asset)
    return Transaction.build(
        version=2,
        inputs=[TxIn(NULL_OUTPOINT, push_number(height) + b"\0")],
        outputs=[TxOut(asset, explicit_value(amount), NULL, script) for script, amount in outputs],
        input_witnesses=[InputWitness(script=(bytes(32),))],
    )
