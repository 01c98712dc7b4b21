"""RPC methods that make, combine and sign raw transactions; no wallet is needed.

Source: elements/interfaces.md 3, elements/peg.md 8.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sidechain.api.arguments import (
    array_argument,
    encoded_argument,
    flag_argument,
    hash_argument,
    hex_argument,
    integer_argument,
    text_argument,
)
from sidechain.api.build_arguments import (
    amount_argument,
    locktime_argument,
    wanted_inputs,
    wanted_outputs,
)
from sidechain.api.registry import (
    DESERIALIZATION_ERROR,
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    TYPE_ERROR,
    VERIFY_ERROR,
    Registry,
    RpcError,
)
from sidechain.api.script_json import script_asm
from sidechain.api.signing import KeyStore, Signed, sign_transaction
from sidechain.chain import Chain
from sidechain.errors import InvalidEncoding, InvalidTransaction, Stalled
from sidechain.params import MAX_MONEY_SATS
from sidechain.primitives.address import decode_secret
from sidechain.primitives.confidential import NULL, explicit_value
from sidechain.primitives.transaction import SEQUENCE_FINAL, OutPoint, Transaction, TxOut
from sidechain.script.script import is_p2sh, is_p2wsh, p2sh, p2wsh
from sidechain.validation.pegins import ParentFacts, check_pegin, parse_pegin

DECODE_FAILED = "TX decode failed. Make sure the tx has at least one input."
_UNKNOWN_AMOUNT = explicit_value(MAX_MONEY_SATS)
"""Stands for an amount that was not named, as in elementsd."""

_HASH_TYPES = {
    "DEFAULT": 0,
    "ALL": 0x01,
    "NONE": 0x02,
    "SINGLE": 0x03,
}
HASH_TYPES = {
    f"{name}{anyone}{proofs}": code | 0x80 * bool(anyone) | 0x40 * bool(proofs)
    for name, code in _HASH_TYPES.items()
    for anyone in ("", "|ANYONECANPAY")
    for proofs in ("", "|RANGEPROOF")
    if code or not (anyone or proofs)
}

FactsFor = Callable[[Transaction], Awaitable[ParentFacts | None]]


class BuildMethods:
    """Reads a chain and its mempool; changes nothing."""

    def __init__(self, chain: Chain, facts_for: FactsFor) -> None:
        self._chain = chain
        self._facts_for = facts_for

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        add = registry.add
        add(
            "createrawtransaction",
            self.createrawtransaction,
            "Make an unsigned transaction of inputs and outputs.",
        )
        add(
            "combinerawtransaction",
            self.combinerawtransaction,
            "Put the signatures of several copies of a transaction together.",
        )
        add(
            "signrawtransactionwithkey",
            self.signrawtransactionwithkey,
            "Sign a transaction with the private keys given.",
        )

    def createrawtransaction(
        self, inputs: Any, outputs: Any, locktime: Any = None, replaceable: Any = None
    ) -> str:
        """Make an unsigned transaction, explicit throughout."""
        lock = locktime_argument(locktime)
        signals = None if replaceable is None else flag_argument(replaceable, True)
        chosen = wanted_inputs(inputs, self._chain, replaceable=signals, locktime=lock)
        made = wanted_outputs(outputs, self._chain.params)
        if signals and chosen and all(w.txin.sequence >= SEQUENCE_FINAL - 1 for w in chosen):
            raise RpcError(
                INVALID_PARAMETER,
                "Invalid parameter combination: Sequence number(s) contradict replaceable option",
            )
        tx = Transaction.build(
            inputs=[wanted.txin for wanted in chosen],
            outputs=[wanted.output(key_as_nonce=True) for wanted in made],
            locktime=lock,
            input_witnesses=[wanted.witness for wanted in chosen],
        )
        return tx.raw.hex()

    def combinerawtransaction(self, txs: Any) -> str:
        """Put signatures together; the first copy says what the transaction is."""
        copies = []
        for position, text in enumerate(array_argument(txs)):
            failure = (
                f"TX decode failed for tx {position}. Make sure the tx has at least one input."
            )
            copies.append(decoded_transaction(text, failure))
        if not copies:
            raise RpcError(DESERIALIZATION_ERROR, "Missing transactions")
        spent = [self._coin_output(txin.prevout) for txin in copies[0].inputs]
        if None in spent:
            raise RpcError(VERIFY_ERROR, "Input not found or already spent")
        signed = sign_transaction(
            copies[0],
            spent,
            KeyStore(),
            hash_type=1,
            genesis_hash=self._chain.params.genesis_hash,
            others=copies[1:],
        )
        return signed.tx.raw.hex()

    async def signrawtransactionwithkey(
        self, hexstring: Any, privkeys: Any, prevtxs: Any = None, sighashtype: Any = None
    ) -> dict[str, Any]:
        """Sign what the keys can sign, and say of each other input why it is not complete."""
        tx = decoded_transaction(hexstring, DECODE_FAILED)
        keys = KeyStore()
        for text in array_argument(privkeys):
            secret, compressed = secret_argument(text, self._chain)
            keys.add_secret(secret, compressed=compressed)
        outputs = {txin.prevout: self._coin_output(txin.prevout) for txin in tx.inputs}
        if prevtxs is not None:
            self._take_previous(array_argument(prevtxs), keys, outputs)
        hash_type = hash_type_argument(sighashtype)
        facts = None
        if any(txin.is_pegin for txin in tx.inputs):
            facts = await self._facts_for(tx)
        faults, immature = self._pegin_faults(tx, facts)
        spent = [self._spent(tx, index, outputs) for index in range(len(tx.inputs))]
        signed = sign_transaction(
            tx,
            spent,
            keys,
            hash_type=hash_type,
            genesis_hash=self._chain.params.genesis_hash,
        )
        _check_amounts(signed, spent)
        return _signed_json(signed, faults, immature=immature)

    def _coin_output(self, outpoint: OutPoint) -> TxOut | None:
        coin = self._chain.mempool.coin(outpoint) or self._chain.coin(outpoint)
        return None if coin is None else coin.output

    def _spent(
        self, tx: Transaction, index: int, outputs: dict[OutPoint, TxOut | None]
    ) -> TxOut | None:
        txin = tx.inputs[index]
        if not txin.is_pegin:
            return outputs.get(txin.prevout)
        try:
            return parse_pegin(tx.input_witnesses[index].pegin, self._chain.params).coin.output
        except InvalidTransaction:
            return None

    def _pegin_faults(
        self, tx: Transaction, facts: ParentFacts | None
    ) -> tuple[dict[int, str], bool]:
        """Faulty peg-in inputs, and whether a sound one is not deep enough yet."""
        faults: dict[int, str] = {}
        immature = False
        for index, txin in enumerate(tx.inputs):
            if not txin.is_pegin:
                continue
            witness = tx.input_witnesses[index].pegin
            chain = self._chain
            try:
                check_pegin(witness, txin.prevout, chain.params, chain.fedpegscripts(), facts)
            except InvalidTransaction:
                faults[index] = "Peg-in input has invalid proof."
            except Stalled:
                immature = True
        return faults, immature

    def _take_previous(
        self, entries: list[Any], keys: KeyStore, outputs: dict[OutPoint, TxOut | None]
    ) -> None:
        for entry in entries:
            if not isinstance(entry, dict):
                raise RpcError(
                    DESERIALIZATION_ERROR, 'expected object with {"txid\'","vout","scriptPubKey"}'
                )
            outpoint = _previous_outpoint(entry)
            script = hex_argument(entry["scriptPubKey"], "scriptPubKey")
            known = outputs.get(outpoint)
            if known is not None and known.script != script:
                raise RpcError(
                    DESERIALIZATION_ERROR,
                    "Previous output scriptPubKey mismatch:\n"
                    f"{script_asm(known.script)}\nvs:\n{script_asm(script)}",
                )
            value = _UNKNOWN_AMOUNT
            if "amount" in entry:
                value = explicit_value(amount_argument(entry["amount"]))
            elif "amountcommitment" in entry:
                value = hex_argument(entry["amountcommitment"], "amountcommitment")
            # elementsd knows no asset here either, so taproot needs the coins themselves.
            asset = known.asset if known is not None else NULL
            outputs[outpoint] = TxOut(asset=asset, value=value, nonce=NULL, script=script)
            if is_p2sh(script) or is_p2wsh(script):
                keys.add_script(_inner_script(entry, script))


def decoded_transaction(value: Any, failure: str) -> Transaction:
    """A transaction in hex.

    Raises:
        RpcError: DESERIALIZATION_ERROR with the text given.
    """
    try:
        return Transaction.decode(encoded_argument(value, failure))
    except InvalidEncoding as error:
        raise RpcError(DESERIALIZATION_ERROR, failure) from error


def secret_argument(value: Any, chain: Chain) -> tuple[bytes, bool]:
    """A private key in wallet import format, and whether its public key is compressed."""
    try:
        return decode_secret(text_argument(value), chain.params.prefixes)
    except InvalidEncoding as error:
        raise RpcError(INVALID_ADDRESS_OR_KEY, "Invalid private key") from error


def hash_type_argument(value: Any) -> int:
    """A signature hash type by name; None is DEFAULT."""
    if value is None:
        return 0
    name = text_argument(value)
    if name not in HASH_TYPES:
        raise RpcError(INVALID_PARAMETER, f"'{name}' is not a valid sighash parameter.")
    return HASH_TYPES[name]


def _previous_outpoint(entry: dict[str, Any]) -> OutPoint:
    for key, wanted in (("txid", str), ("vout", int), ("scriptPubKey", str)):
        if not isinstance(entry.get(key), wanted) or isinstance(entry.get(key), bool):
            if key not in entry:
                raise RpcError(TYPE_ERROR, f"Missing {key}")
            shown = "string" if wanted is str else "number"
            raise RpcError(TYPE_ERROR, f"JSON value of {key} is not of expected type {shown}")
    index = integer_argument(entry["vout"])
    if index < 0:
        raise RpcError(DESERIALIZATION_ERROR, "vout cannot be negative")
    return OutPoint(hash_argument(entry["txid"], "txid"), index)


def _inner_script(entry: dict[str, Any], script: bytes) -> bytes:
    """The script behind the hash of an output, as the entry names it."""
    redeem, witness = entry.get("redeemScript"), entry.get("witnessScript")
    if redeem is None and witness is None:
        raise RpcError(INVALID_PARAMETER, "Missing redeemScript/witnessScript")
    if witness is not None:
        inner = hex_argument(witness, "witnessScript")
    else:
        inner = hex_argument(redeem, "redeemScript")
    wrapped = p2wsh(inner)
    if (
        redeem is not None
        and witness is not None
        and hex_argument(redeem, "redeemScript") not in (inner, wrapped)
    ):
        raise RpcError(INVALID_PARAMETER, "redeemScript does not correspond to witnessScript")
    fits = (p2sh(inner), p2sh(wrapped)) if is_p2sh(script) else (wrapped,)
    if script not in fits:
        raise RpcError(INVALID_PARAMETER, "redeemScript/witnessScript does not match scriptPubKey")
    return inner


def _check_amounts(signed: Signed, spent: Sequence[TxOut | None]) -> None:
    """A segwit signature commits to the amount, so it must have been named."""
    for index, output in enumerate(spent):
        if output is None or output.value != _UNKNOWN_AMOUNT:
            continue
        if signed.tx.input_witnesses[index].script:
            raise RpcError(TYPE_ERROR, f"Missing amount for {output.script.hex()}")


def _signed_json(signed: Signed, faults: dict[int, str], *, immature: bool) -> dict[str, Any]:
    tx = signed.tx
    # A peg-in with a faulty proof whose script runs is left alone, as in elementsd.
    found = {**{i: t for i, t in faults.items() if i in signed.faults}, **signed.faults}
    shown: dict[str, Any] = {"hex": tx.raw.hex(), "complete": not found}
    if found:
        shown["errors"] = [
            {
                "txid": tx.inputs[index].prevout.txid[::-1].hex(),
                "vout": tx.inputs[index].prevout.index,
                "witness": [item.hex() for item in tx.input_witnesses[index].script],
                "scriptSig": tx.inputs[index].script_sig.hex(),
                "sequence": tx.inputs[index].sequence,
                "error": text,
            }
            for index, text in sorted(found.items())
        ]
    if immature:
        shown["warning"] = "Possibly immature peg-in input(s) detected, signed anyways."
    return shown
