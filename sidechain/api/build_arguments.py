"""Inputs and outputs of a transaction that is to be made, as RPC parameters name them.

Source: elements/interfaces.md 3, elements/peg.md 3 and 8; checks in elementsd's order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from sidechain.api.arguments import (
    array_argument,
    flag_argument,
    hash_argument,
    hex_argument,
    integer_argument,
    object_argument,
    text_argument,
)
from sidechain.api.registry import (
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    TYPE_ERROR,
    RpcError,
)
from sidechain.chain import Chain
from sidechain.errors import InvalidEncoding, InvalidTransaction
from sidechain.params import MAX_MONEY_SATS, ChainParams
from sidechain.primitives.address import decode_address
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.parent import parse_merkle_block, parse_parent_tx
from sidechain.primitives.transaction import (
    EMPTY_INPUT_WITNESS,
    SEQUENCE_FINAL,
    InputWitness,
    Issuance,
    OutPoint,
    TxIn,
    TxOut,
)
from sidechain.script.opcodes import OP_RETURN
from sidechain.script.script import push
from sidechain.validation.pegins import check_pegin, deposit_script

SEQUENCE_REPLACEABLE = SEQUENCE_FINAL - 2
SEQUENCE_NOT_FINAL = SEQUENCE_FINAL - 1
MAX_LOCKTIME = 2**32 - 1
MAX_INDEX = 2**31 - 1
_SATS_PER_COIN = 100_000_000
_PEGIN_KEYS = ("pegin_bitcoin_tx", "pegin_txout_proof", "pegin_claim_script")
_ISSUANCE_KEYS = ("asset_blinding_nonce", "asset_entropy", "issuance_tokens", "blind_reissuance")


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedInput:
    """An input to be made, with the witness of a peg-in."""

    txin: TxIn
    witness: InputWitness = EMPTY_INPUT_WITNESS
    blind_issuance: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedOutput:
    """An output to be made; `blinding_key` is that of its address, or empty."""

    asset: bytes
    amount_sats: int
    script: bytes
    blinding_key: bytes = b""
    blinder_index: int | None = None

    def output(self, *, key_as_nonce: bool) -> TxOut:
        """The explicit output.

        Args:
            key_as_nonce: carry the blinding key in the nonce, for whoever blinds it later.
        """
        nonce = self.blinding_key if key_as_nonce and self.blinding_key else NULL
        return TxOut(
            asset=explicit_asset(self.asset),
            value=explicit_value(self.amount_sats),
            nonce=nonce,
            script=self.script,
        )


def amount_argument(value: Any, *, bounded: bool = True) -> int:
    """An amount in coins, as satoshis.

    Args:
        bounded: at most 21 million coins; other assets than the policy asset have no such bound.
    Raises:
        RpcError: TYPE_ERROR with elementsd's text.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str, Decimal)):
        raise RpcError(TYPE_ERROR, "Amount is not a number or string")
    try:
        scaled = Decimal(value) * _SATS_PER_COIN
        exact = scaled.is_finite() and scaled == scaled.to_integral_value()
    except InvalidOperation as error:
        raise RpcError(TYPE_ERROR, "Invalid amount") from error
    if not exact or abs(scaled) >= 10**18:
        raise RpcError(TYPE_ERROR, "Invalid amount")
    if scaled < 0 or (bounded and scaled > MAX_MONEY_SATS):
        raise RpcError(TYPE_ERROR, "Amount out of range")
    return int(scaled)


def locktime_argument(value: Any) -> int:
    """A lock time; None is 0."""
    if value is None:
        return 0
    locktime = integer_argument(value)
    if not 0 <= locktime <= MAX_LOCKTIME:
        raise RpcError(INVALID_PARAMETER, "Invalid parameter, locktime out of range")
    return locktime


def wanted_inputs(
    value: Any,
    chain: Chain,
    *,
    replaceable: bool | None,
    locktime: int,
    pegins: bool = True,
    issuances: bool = False,
) -> list[WantedInput]:
    """Read the inputs.

    Args:
        replaceable: whether sequences signal it; None does unless one contradicts.
        pegins: peg-ins may be asked for. issuances: these too.
    Raises:
        RpcError: with elementsd's code and text.
    """
    if value is None:
        return []
    found = []
    for item in array_argument(value):
        entry = object_argument(item)
        txid = hash_argument(entry.get("txid"), "txid")
        index = entry.get("vout")
        if isinstance(index, bool) or not isinstance(index, int):
            raise RpcError(INVALID_PARAMETER, "Invalid parameter, missing vout key")
        if index < 0:
            raise RpcError(INVALID_PARAMETER, "Invalid parameter, vout cannot be negative")
        if index > MAX_INDEX:
            raise RpcError(-1, "JSON integer out of range")
        txin = TxIn(
            OutPoint(txid, index & 0x3FFFFFFF),
            sequence=_sequence(entry.get("sequence"), replaceable, locktime),
        )
        wanted = WantedInput(
            txin=_with_issuance(txin, entry, issuances),
            blind_issuance=flag_argument(entry.get("blind_reissuance"), True),
        )
        found.append(_with_pegin(wanted, entry, chain, pegins))
    return found


def _sequence(value: Any, replaceable: bool | None, locktime: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= SEQUENCE_FINAL:
            raise RpcError(INVALID_PARAMETER, "Invalid parameter, sequence number is out of range")
        return value
    if replaceable is None or replaceable:
        return SEQUENCE_REPLACEABLE
    return SEQUENCE_NOT_FINAL if locktime else SEQUENCE_FINAL


def _with_issuance(txin: TxIn, entry: Mapping[str, Any], allowed: bool) -> TxIn:
    amount = entry.get("issuance_amount")
    if amount is None or not allowed:
        if any(entry.get(key) is not None for key in _ISSUANCE_KEYS):
            raise RpcError(
                INVALID_PARAMETER,
                "auxiliary issuance arguments provided without issuance amount",
            )
        return txin
    tokens = entry.get("issuance_tokens")
    for key, number in (("issuance_amount", amount), ("issuance_tokens", tokens)):
        if number is not None and isinstance(number, (bool, str, list, dict)):
            raise RpcError(INVALID_PARAMETER, f"{key} is not a number")
    nonce, entropy = entry.get("asset_blinding_nonce"), entry.get("asset_entropy")
    return TxIn(
        txin.prevout,
        sequence=txin.sequence,
        issuance=Issuance(
            blinding_nonce=hash_argument(nonce, "asset_blinding_nonce") if nonce else bytes(32),
            entropy=hash_argument(entropy, "asset_entropy") if entropy else bytes(32),
            amount=explicit_value(amount_argument(amount)),
            inflation_keys=NULL if tokens is None else explicit_value(amount_argument(tokens)),
        ),
    )


def _with_pegin(
    wanted: WantedInput, entry: Mapping[str, Any], chain: Chain, allowed: bool
) -> WantedInput:
    given = [entry.get(key) for key in _PEGIN_KEYS]
    if all(part is None for part in given):
        return wanted
    if not allowed:
        raise RpcError(
            INVALID_PARAMETER,
            "pegin_ arguments provided but this command does not support peg-ins",
        )
    if any(part is None for part in given):
        raise RpcError(INVALID_PARAMETER, "Some but not all pegin_ arguments provided")
    raw_tx, proof, claim = map(text_argument, given)
    if not _is_hex(claim):
        raise RpcError(INVALID_PARAMETER, "Given claim_script is not hex.")
    return pegin_input(_unhex(raw_tx), _unhex(proof), bytes.fromhex(claim), chain)


def pegin_input(parent_tx: bytes, proof: bytes, claim_script: bytes, chain: Chain) -> WantedInput:
    """The input that claims a deposit: the first output of `parent_tx` for the claim script.

    Raises:
        RpcError: with elementsd's code and text.
    Source: elements/peg.md 8.
    """
    try:
        tx = parse_parent_tx(parent_tx)
    except InvalidEncoding as error:
        raise RpcError(
            TYPE_ERROR,
            "The included bitcoinTx is malformed. Are you sure that is the whole string?",
        ) from error
    try:
        block = parse_merkle_block(proof)
        block.header.check_pow(chain.params.parent_pow_limit)
    except InvalidEncoding as error:
        raise RpcError(INVALID_PARAMETER, "Invalid tx out proof") from error
    if [txid for _, txid in block.matches] != [tx.txid]:
        raise RpcError(
            INVALID_PARAMETER, "The txoutproof must contain bitcoinTx and only bitcoinTx"
        )
    index = _deposit_index([script for _, script in tx.outputs], claim_script, chain)
    if claim_script[:2] not in (b"\x00\x14", b"\x00\x20"):
        raise RpcError(INVALID_PARAMETER, "Given or recovered script is not a v0 witness program.")
    params = chain.params
    prevout = OutPoint(tx.txid, index)
    witness = (
        tx.outputs[index][0].to_bytes(8, "little"),
        params.pegged_asset,
        params.parent_genesis_hash,
        claim_script,
        tx.stripped,
        proof,
    )
    try:
        check_pegin(witness, prevout, params, chain.fedpegscripts(), None)
    except InvalidTransaction as error:
        raise RpcError(
            INVALID_PARAMETER, f"Constructed peg-in witness is invalid: {error.detail}"
        ) from error
    return WantedInput(
        txin=TxIn(prevout, sequence=SEQUENCE_FINAL, is_pegin=True),
        witness=InputWitness(pegin=witness),
    )


def _deposit_index(scripts: list[bytes], claim_script: bytes, chain: Chain) -> int:
    for pair in chain.fedpegscripts():
        try:
            wanted = deposit_script(pair.program, pair.script, claim_script)
        except InvalidEncoding:
            continue
        if wanted in scripts:
            return scripts.index(wanted)
    raise RpcError(
        INVALID_PARAMETER, "Given claim_script does not match the given Bitcoin transaction."
    )


def wanted_outputs(value: Any, params: ChainParams) -> list[WantedOutput]:
    """Read the outputs, an array of objects; a fee comes last.

    Raises:
        RpcError: with elementsd's code and text.
    """
    found: list[WantedOutput] = []
    fee: WantedOutput | None = None
    seen: set[tuple[bytes | None, bytes]] = set()
    has_data = False
    for item in array_argument(value):
        entry = object_argument(item)
        if "data" in entry and has_data:
            raise RpcError(INVALID_PARAMETER, "Invalid parameter, duplicate key: data")
        has_data = has_data or "data" in entry
        output, is_fee, address = _wanted_output(entry, params)
        key = (None if is_fee else output.script, output.asset)
        if key in seen:
            raise RpcError(
                INVALID_PARAMETER,
                "Invalid parameter, duplicated address and asset:"
                f" {address} {explicit_asset(output.asset).hex()}",
            )
        seen.add(key)
        if is_fee:
            fee = output
        else:
            found.append(output)
    if fee is not None and fee.amount_sats > 0:
        found.append(fee)
    return found


def _wanted_output(entry: Mapping[str, Any], params: ChainParams) -> tuple[WantedOutput, bool, str]:
    """An output, whether it is the fee, and the address it pays."""
    asset, amount_sats, script = params.policy_asset, 0, b""
    blinding_key, blinder, address = b"", None, ""
    for key, value in entry.items():
        if key == "data":
            shown = value if isinstance(value, str) else str(value)
            script, amount_sats = _data_script([hex_argument(shown, "Data")]), 0
        elif key == "vdata":
            items = [hex_argument(item, "Data") for item in array_argument(value)]
            script, amount_sats = _data_script(items), 0
        elif key == "fee":
            fee = WantedOutput(asset=asset, amount_sats=amount_argument(value), script=b"")
            return fee, True, ""
        elif key == "burn":
            script, amount_sats = _data_script([]), amount_argument(value)
        elif key == "asset":
            asset = hash_argument(value, "asset")
        elif key == "blinder_index":
            blinder = integer_argument(value)
        else:
            try:
                found = decode_address(key, params.prefixes)
            except InvalidEncoding as error:
                raise RpcError(INVALID_ADDRESS_OR_KEY, f"Invalid Bitcoin address: {key}") from error
            address, script, blinding_key = key, found.script, found.blinding_key or b""
            amount_sats = amount_argument(value, bounded=asset == params.policy_asset)
    output = WantedOutput(
        asset=asset,
        amount_sats=amount_sats,
        script=script,
        blinding_key=blinding_key,
        blinder_index=blinder,
    )
    return output, False, address


def _data_script(items: list[bytes]) -> bytes:
    return bytes((OP_RETURN,)) + b"".join(map(push, items))


def _is_hex(text: str) -> bool:
    return bool(text) and len(text) % 2 == 0 and all(c in "0123456789abcdefABCDEF" for c in text)


def _unhex(text: str) -> bytes:
    """Bytes of hex, none for anything else: what follows says what is wrong."""
    return bytes.fromhex(text) if _is_hex(text) else b""
