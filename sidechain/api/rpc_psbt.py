"""RPC methods about partially signed transactions (PSET version 2); libwally has the format.

Source: elements/interfaces.md 3, Elements' doc/pset.mediawiki.
"""

from typing import Any

import wallycore

from sidechain.api.arguments import array_argument, flag_argument, text_argument
from sidechain.api.registry import (
    DESERIALIZATION_ERROR,
    INVALID_PARAMETER,
    Registry,
    RpcError,
)
from sidechain.chain import Chain
from sidechain.errors import InvalidEncoding
from sidechain.primitives.transaction import Transaction, TxOut
from sidechain.script.script import witness_program
from sidechain.wallet.blinding import WALLY_REFUSALS
from sidechain.wallet.pset import combine_psets, extract_pset, finalize_pset
from sidechain.wallet.selection import WalletRefusal

VERSION = 2
_UNREADABLE = "TX decode failed"
_ELEMENTS = wallycore.WALLY_TX_FLAG_USE_ELEMENTS
_WITH_WITNESS = wallycore.WALLY_TX_FLAG_USE_WITNESS | _ELEMENTS


class PsbtMethods:
    """Reads coins of a chain where a transaction's are asked for; changes nothing."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        add = registry.add
        add("combinepsbt", self.combinepsbt, "Put copies of a PSET together.")
        add("finalizepsbt", self.finalizepsbt, "Turn complete signatures into witnesses.")
        add("utxoupdatepsbt", self.utxoupdatepsbt, "Add the coins that the chain knows.")

    def combinepsbt(self, txs: Any) -> str:
        """Put copies of a PSET together."""
        texts = [text_argument(item) for item in array_argument(txs)]
        if not texts:
            raise RpcError(INVALID_PARAMETER, "Parameter 'txs' cannot be empty")
        for text in texts:
            _parsed(text)
        try:
            return combine_psets(texts)
        except InvalidEncoding as error:
            raise RpcError(
                INVALID_PARAMETER, "PSBTs not compatible (different transactions)"
            ) from error

    def finalizepsbt(self, psbt: Any, extract: Any = None) -> dict[str, Any]:
        """Turn complete signatures into witnesses; the transaction once all are."""
        text = text_argument(psbt)
        _parsed(text)
        try:
            final = finalize_pset(text)
        except InvalidEncoding as error:
            raise RpcError(INVALID_PARAMETER, str(error)) from error
        if flag_argument(extract, True):
            try:
                return {"hex": extract_pset(final).raw.hex(), "complete": True}
            except WalletRefusal:
                return {"psbt": final, "complete": False}
        return {"psbt": final, "complete": bool(wallycore.psbt_is_finalized(_parsed(final)))}

    def utxoupdatepsbt(self, psbt: Any, descriptors: Any = None) -> str:
        """Add what the segwit inputs spend, as far as chain and mempool know it."""
        if descriptors is not None and array_argument(descriptors):
            raise RpcError(INVALID_PARAMETER, "descriptors are not supported here")
        handle = _parsed(text_argument(psbt))
        for position in range(wallycore.psbt_get_num_inputs(handle)):
            if wallycore.psbt_get_input_witness_utxo(handle, position) is not None:
                continue
            output = self._spent(handle, position)
            if output is not None and witness_program(output.script) is not None:
                made = wallycore.tx_elements_output_init(
                    output.script, output.asset, output.value, None, None, None
                )
                wallycore.psbt_set_input_witness_utxo(handle, position, made)
        return _text(handle)

    def _spent(self, handle: Any, position: int) -> TxOut | None:
        raw = wallycore.tx_to_bytes(
            wallycore.psbt_extract(handle, wallycore.WALLY_PSBT_EXTRACT_NON_FINAL),
            _WITH_WITNESS,
        )
        outpoint = Transaction.decode(bytes(raw)).inputs[position].prevout
        coin = self._chain.mempool.coin(outpoint) or self._chain.coin(outpoint)
        return None if coin is None else coin.output


def _of_transaction(tx: Transaction) -> Any:
    try:
        made = wallycore.tx_from_bytes(tx.raw, _WITH_WITNESS)
        handle = wallycore.psbt_from_tx(made, VERSION, wallycore.WALLY_PSBT_INIT_PSET)
        # As elementsd's: inputs and outputs are all there.
        wallycore.psbt_set_tx_modifiable_flags(handle, 0)
        return handle
    except WALLY_REFUSALS as error:
        raise RpcError(INVALID_PARAMETER, "this transaction has no PSET") from error


def _parsed(text: str) -> Any:
    try:
        handle = wallycore.psbt_from_base64(text.strip(), 0)
    except WALLY_REFUSALS as error:
        raise RpcError(DESERIALIZATION_ERROR, f"{_UNREADABLE} invalid base64") from error
    if not wallycore.psbt_is_elements(handle):
        raise RpcError(DESERIALIZATION_ERROR, f"{_UNREADABLE} not a PSET")
    return handle


def _text(handle: Any) -> str:
    return str(wallycore.psbt_to_base64(handle, 0))
