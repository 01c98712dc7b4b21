"""Forms of transactions that are relayed: what the transaction alone shows.

Source: elements/transactions.md 7, elements/peg.md 5.1.
"""

from typing import NoReturn

from sidechain.errors import InvalidTransaction
from sidechain.params import MAX_MONEY_SATS, ChainParams
from sidechain.policy.fees import required_fee_sats
from sidechain.primitives.encoding import compact_size
from sidechain.primitives.transaction import Transaction, TxOut
from sidechain.script.script import (
    MAX_STANDARD_MULTISIG_KEYS,
    ScriptKind,
    classify,
    is_push_only,
    parse_multisig,
    witness_program,
)
from sidechain.validation.pegouts import parse_pegout

TX_VERSION_MAX = 3
MAX_STANDARD_TX_WEIGHT_WU = 400_000
MIN_STANDARD_TX_SIZE_BYTES = 65
MAX_STANDARD_SCRIPT_SIG_BYTES = 1_650
MAX_DUST_OUTPUTS = 1

_WITNESS_SPEND_BYTES = 67
_LEGACY_SPEND_BYTES = 148


def check_standard(tx: Transaction, params: ChainParams) -> int:
    """Check version, size, script forms, dust and data outputs.

    Returns:
        The number of dust outputs, which may be one.
    Raises:
        InvalidTransaction: the first rule broken, under Elements' name.
    """
    if not 1 <= tx.version <= TX_VERSION_MAX:
        _refuse("version")
    if tx.weight_wu > MAX_STANDARD_TX_WEIGHT_WU:
        _refuse("tx-size")
    for txin in tx.inputs:
        script_sig = txin.script_sig
        if script_sig:
            if len(script_sig) > MAX_STANDARD_SCRIPT_SIG_BYTES:
                _refuse("scriptsig-size")
            if not is_push_only(script_sig):
                _refuse("scriptsig-not-pushonly")
    data_outputs = 0
    for output in tx.outputs:
        script = output.script
        if not script or _is_plain_witness(script):
            continue  # fee outputs and segwit v0 programs: nearly all there are
        data_outputs += _check_script(script, params)
    dust = dust_outputs(tx, params, MAX_DUST_OUTPUTS + 1)
    if dust > MAX_DUST_OUTPUTS:
        _refuse("dust")
    if data_outputs > 1 and not params.multi_data_permitted:
        _refuse("multi-op-return")
    return dust


def check_size(tx: Transaction) -> None:
    """Refuse what could be mistaken for a node of a Merkle tree, on any chain.

    Raises:
        InvalidTransaction: "tx-size-small".
    """
    if tx.base_size < MIN_STANDARD_TX_SIZE_BYTES:
        _refuse("tx-size-small")


def check_issuance_range(tx: Transaction, params: ChainParams) -> None:
    """Refuse explicit issuances above the money limit, unless the chain is open to them.

    Raises:
        InvalidTransaction: "issuance-out-of-range".
    """
    if params.accept_unlimited_issuances:
        return
    for txin in tx.inputs:
        if txin.issuance is None:
            continue
        for field in (txin.issuance.amount, txin.issuance.inflation_keys):
            if field[0] == 1 and int.from_bytes(field[1:], "big") > MAX_MONEY_SATS:
                raise InvalidTransaction(
                    "issuance-out-of-range",
                    "Issuance is greater than 21 million and acceptunlimitedissuances is not "
                    "enabled.",
                )


def check_pegin_witnesses(tx: Transaction) -> None:
    """Refuse a peg-in witness on an input that is no peg-in; blocks may carry it.

    Raises:
        InvalidTransaction: "extra-pegin-witness".
    """
    for txin, witness in zip(tx.inputs, tx.input_witnesses, strict=True):
        if witness.pegin and not txin.is_pegin:
            _refuse("extra-pegin-witness")


def check_dust_fee(dust: int, fee: int, modified_fee: int) -> None:
    """Refuse a dust output in a transaction that pays a fee: nobody shall mine it alone.

    Args:
        dust: from `check_standard`.
    Raises:
        InvalidTransaction: "dust".
    """
    if dust and (fee or modified_fee):
        raise InvalidTransaction("dust", "tx with dust output must be 0-fee")


def is_standard_output(output: TxOut, params: ChainParams) -> bool:
    """Whether other nodes relay outputs of this form."""
    try:
        _check_script(output.script, params)
    except InvalidTransaction:
        return False
    return True


def dust_outputs(tx: Transaction, params: ChainParams, enough: int) -> int:
    """Number of explicit outputs in the fee asset that cost more to spend than they hold.

    Args:
        enough: counting stops here.
    """
    found = 0
    # No output of up to 600 bytes of script costs a thousand virtual bytes to spend.
    enough_value = b"\x01" + params.dust_relay_fee_sats_per_kvb.to_bytes(8, "big")
    for output in tx.outputs:
        if output.value >= enough_value and len(output.script) <= 600:
            continue
        found += is_dust(output, params)
        if found == enough:
            break
    return found


def is_dust(output: TxOut, params: ChainParams) -> bool:
    """Whether an output holds less than it costs to spend it, as far as everybody can see."""
    amount_sats = output.value_sats
    if amount_sats is None or output.is_fee or output.asset_id != params.policy_asset:
        return False
    return amount_sats < dust_threshold_sats(output, params)


def dust_threshold_sats(output: TxOut, params: ChainParams) -> int:
    """Least amount, in satoshis, that is no dust in an output of this form."""
    if output.is_unspendable:
        return 0
    spend = _LEGACY_SPEND_BYTES
    if witness_program(output.script) is not None:
        spend = _WITNESS_SPEND_BYTES
    fields = len(output.asset) + len(output.value) + len(output.nonce) + len(output.script)
    size = fields + len(compact_size(len(output.script))) + spend
    return required_fee_sats(size, params.dust_relay_fee_sats_per_kvb)


def _is_plain_witness(script: bytes) -> bool:
    size = len(script)
    return script[0] == 0 and (size == 22 or size == 34) and script[1] == size - 2


def _check_script(script: bytes, params: ChainParams) -> bool:
    """Check the form of one output; whether it carries data."""
    kind = classify(script)
    if kind is ScriptKind.NONSTANDARD:
        _refuse("scriptpubkey")
    if kind is ScriptKind.TRUE and not params.anyone_can_spend_standard:
        _refuse("scriptpubkey")
    if kind is ScriptKind.MULTISIG:
        parsed = parse_multisig(script)
        if parsed is None or len(parsed[1]) > MAX_STANDARD_MULTISIG_KEYS:
            _refuse("scriptpubkey")
        if not params.permit_bare_multisig:
            _refuse("bare-multisig")
    if kind is not ScriptKind.NULL_DATA:
        return False
    if not (params.enforce_pak and is_pegout(script, params)):
        limit = params.max_data_carrier_bytes
        if limit is None or len(script) > limit:
            _refuse("scriptpubkey")
    return True


def is_pegout(script: bytes, params: ChainParams) -> bool:
    """Whether an output script asks for a payment on this chain's parent."""
    pegout = parse_pegout(script)
    return pegout is not None and pegout[0] == params.parent_genesis_hash


def _refuse(reason: str) -> NoReturn:
    raise InvalidTransaction(reason)
