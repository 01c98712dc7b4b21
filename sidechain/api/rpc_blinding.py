"""The RPC method that blinds a raw transaction; all about its inputs is given.

Source: elements/interfaces.md 3, elements/transactions.md 8.
"""

import secrets
from dataclasses import replace
from typing import Any

from sidechain.api.arguments import array_argument, flag_argument, hex_argument
from sidechain.api.build_arguments import amount_argument
from sidechain.api.registry import (
    DESERIALIZATION_ERROR,
    INVALID_PARAMETER,
    Registry,
    RpcError,
)
from sidechain.chain import Chain
from sidechain.errors import InvalidEncoding, InvalidTransaction
from sidechain.primitives.confidential import NULL, is_commitment
from sidechain.primitives.transaction import Transaction, TxOut
from sidechain.validation.pegins import check_pegin
from sidechain.wallet.blinding import Opened, blind

_CANNOT_BLIND = "Unable to blind transaction: "
_ONE_MORE = _CANNOT_BLIND + "Add another output to blind in order to complete the blinding."
_NO_SOURCE = _CANNOT_BLIND + "Are you sure each asset type to blind is represented in the inputs?"


class BlindingMethods:
    """Needs the chain only for the fedpegscripts in force."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def register(self, registry: Registry) -> None:
        """Offer the method."""
        registry.add(
            "rawblindrawtransaction",
            self.rawblindrawtransaction,
            "Blind a transaction; all about its inputs is given.",
        )

    def rawblindrawtransaction(
        self,
        hexstring: Any,
        inputamountblinders: Any,
        inputamounts: Any,
        inputassets: Any,
        inputassetblinders: Any,
        totalblinder: Any = None,
        ignoreblindfail: Any = None,
    ) -> str:
        """Blind the outputs whose nonce is a blinding key."""
        try:
            tx = Transaction.decode(hex_argument(hexstring, "argument 1"))
        except InvalidEncoding as error:
            raise RpcError(DESERIALIZATION_ERROR, "TX decode failed") from error
        columns = {
            "blind": array_argument(inputamountblinders),
            "amount": array_argument(inputamounts),
            "asset id": array_argument(inputassets),
            "asset blind": array_argument(inputassetblinders),
        }
        ignore = flag_argument(ignoreblindfail, True)
        for name, column in columns.items():
            if len(column) != len(tx.inputs):
                raise RpcError(
                    INVALID_PARAMETER,
                    f"Invalid parameter: one (potentially empty) input {name} for each input"
                    " must be provided",
                )
        spent = [
            self._opened(tx, index, *(column[index] for column in columns.values()))
            for index in range(len(tx.inputs))
        ]
        return _blinded(tx, spent, ignore=ignore).raw.hex()

    def _opened(
        self, tx: Transaction, index: int, vbf: Any, amount: Any, asset: Any, abf: Any
    ) -> Opened:
        txin = tx.inputs[index]
        if txin.is_pegin:
            witness = tx.input_witnesses[index].pegin
            params, scripts = self._chain.params, self._chain.fedpegscripts()
            try:
                claim = check_pegin(witness, txin.prevout, params, scripts, None)
            except InvalidTransaction as error:
                raise RpcError(
                    INVALID_PARAMETER,
                    f"Transaction contains invalid peg-in input: {error.detail}",
                ) from error
            return Opened(asset=claim.asset, value_sats=claim.value_sats)
        for name, value in (("blinds", vbf), ("asset blinds", abf), ("asset ids", asset)):
            if not isinstance(value, str):
                raise RpcError(INVALID_PARAMETER, f"input {name} must be an array of hex strings")
        return Opened(
            vbf=_blinder(vbf, "blinds"),
            abf=_blinder(abf, "asset blinds"),
            asset=_blinder(asset, "asset IDs"),
            value_sats=amount_argument(amount),
        )


def _blinded(tx: Transaction, spent: list[Opened], *, ignore: bool) -> Transaction:
    receivers = [
        output.nonce if is_commitment(output.nonce) and not output.is_fee else None
        for output in tx.outputs
    ]
    hidden_inputs = sum(any(opened.vbf) for opened in spent)
    count = sum(receiver is not None for receiver in receivers)
    if count == 0 and hidden_inputs == 0:
        return tx
    if count == 0 or (count == 1 and hidden_inputs == 0 and not ignore):
        raise RpcError(INVALID_PARAMETER, _ONE_MORE)
    if count == 1 and hidden_inputs == 0:
        outputs = [replace(output, nonce=NULL) for output in tx.outputs]
        return _with_outputs(tx, outputs)
    try:
        return blind(tx, spent, receivers, entropy=secrets.token_bytes(32))
    except InvalidEncoding as error:
        raise RpcError(INVALID_PARAMETER, _NO_SOURCE) from error


def _blinder(text: str, name: str) -> bytes:
    if len(text) != 64 or any(c not in "0123456789abcdefABCDEF" for c in text):
        raise RpcError(
            INVALID_PARAMETER,
            f"input {name} must be an array of 32-byte hex-encoded strings",
        )
    return bytes.fromhex(text)[::-1]


def _with_outputs(tx: Transaction, outputs: list[TxOut]) -> Transaction:
    return Transaction.build(
        version=tx.version,
        inputs=tx.inputs,
        outputs=outputs,
        locktime=tx.locktime,
        input_witnesses=tx.input_witnesses,
        output_witnesses=tx.output_witnesses,
    )
