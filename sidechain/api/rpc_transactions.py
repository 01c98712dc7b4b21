"""RPC methods that read transactions and coins.

Source: elements/interfaces.md 3.
"""

from typing import Any

from sidechain.api.arguments import (
    encoded_argument,
    flag_argument,
    hash_argument,
    index_argument,
    verbosity_argument,
)
from sidechain.api.registry import (
    DESERIALIZATION_ERROR,
    INVALID_ADDRESS_OR_KEY,
    Registry,
    RpcError,
)
from sidechain.api.script_json import script_json
from sidechain.api.spent_coins import spent_by_block
from sidechain.api.transaction_json import amount_json, asset_json, transaction_json
from sidechain.chain import Chain
from sidechain.errors import InvalidEncoding
from sidechain.primitives.confidential import NULL
from sidechain.primitives.transaction import OutPoint, Transaction

_NO_TRANSACTION = "No such mempool or blockchain transaction"
_NOT_INDEXED = (
    "No such mempool transaction. Use -txindex or provide a block hash to enable blockchain"
    " transaction queries"
)
_NOT_IN_BLOCK = "No such transaction found in the provided block"
_WALLET_HINT = ". Use gettransaction for wallet transactions."
_NO_GENESIS = (
    "The genesis block coinbase is not considered an ordinary transaction and cannot be retrieved"
)


class TransactionMethods:
    """Reads a chain and its mempool; changes nothing."""

    def __init__(self, chain: Chain, *, indexed: bool = True) -> None:
        """
        Args:
            indexed: whether transactions of blocks are found by txid alone (`-txindex`).
        """
        self._chain = chain
        self._indexed = indexed

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        add = registry.add
        add(
            "getrawtransaction",
            self.getrawtransaction,
            "Transaction as hex (0), decoded (1), or also with what it spends (2).",
            aliases={"verbose": "verbosity"},
        )
        add("decoderawtransaction", self.decoderawtransaction, "Decode a transaction.")
        add("gettxout", self.gettxout, "One unspent output, or null.")

    def getrawtransaction(self, txid: Any, verbosity: Any = 0, blockhash: Any = None) -> Any:
        """Transaction of the mempool or of a block; what it spends only in a block."""
        wanted = hash_argument(txid, "parameter 1")
        genesis_spendable = self._chain.params.connect_genesis_outputs
        if not genesis_spendable and wanted == self._chain.header(0).merkle_root:
            raise RpcError(INVALID_ADDRESS_OR_KEY, _NO_GENESIS)
        level = verbosity_argument(verbosity, 0)
        tx, height = self._find(wanted, blockhash)
        if level <= 0:
            return tx.raw.hex()
        spent = None
        if level > 1 and height is not None and not tx.is_coinbase:
            block = self._chain.block(height)
            spent = spent_by_block(self._chain, block, height).get(tx.txid)
        shown: dict[str, Any] = {}
        if blockhash is not None:
            shown["in_active_chain"] = True
        shown |= transaction_json(tx, self._chain.params, spent)
        shown["hex"] = tx.raw.hex()
        if height is not None:
            header = self._chain.header(height)
            shown["blockhash"] = header.hash[::-1].hex()
            shown["confirmations"] = self._chain.tip_height - height + 1
            shown["time"] = shown["blocktime"] = header.time
        return shown

    def _find(self, txid: bytes, blockhash: Any) -> tuple[Transaction, int | None]:
        if blockhash is not None:
            height = self._chain.height_of(hash_argument(blockhash, "parameter 3"))
            if height is None:
                raise RpcError(INVALID_ADDRESS_OR_KEY, "Block hash not found")
            found = self._chain.find_transaction(txid)
            if found is None or found[1] != height:
                raise RpcError(INVALID_ADDRESS_OR_KEY, _NOT_IN_BLOCK + _WALLET_HINT)
            return found
        entry = self._chain.mempool.get(txid)
        if entry is not None:
            return entry.tx, None
        found = self._chain.find_transaction(txid) if self._indexed else None
        if found is None:
            reason = _NO_TRANSACTION if self._indexed else _NOT_INDEXED
            raise RpcError(INVALID_ADDRESS_OR_KEY, reason + _WALLET_HINT)
        return found

    def decoderawtransaction(self, hexstring: Any, iswitness: Any = None) -> dict[str, Any]:
        """Decode a transaction; the second parameter is accepted and means nothing."""
        flag_argument(iswitness, True)
        raw = encoded_argument(hexstring, "TX decode failed")
        try:
            tx = Transaction.decode(raw)
        except InvalidEncoding as error:
            raise RpcError(DESERIALIZATION_ERROR, "TX decode failed") from error
        return transaction_json(tx, self._chain.params)

    def gettxout(self, txid: Any, n: Any, include_mempool: Any = True) -> dict[str, Any] | None:
        """One unspent output, or null; by default the mempool counts as spending it."""
        chain = self._chain
        outpoint = OutPoint(hash_argument(txid, "txid"), index_argument(n))
        coin, confirmations = chain.coin(outpoint), 0
        if coin is not None:
            confirmations = chain.tip_height - coin.height + 1
        if flag_argument(include_mempool, True):
            if chain.mempool.spender(outpoint) is not None:
                return None
            coin = coin or chain.mempool.coin(outpoint)
        if coin is None:
            return None
        hidden = coin.output.value_sats is None
        return {
            "bestblock": chain.tip_hash[::-1].hex(),
            "confirmations": confirmations,
            **({"valuecommitment": coin.value.hex()} if hidden else {}),
            **({} if hidden else {"value": amount_json(coin.value)}),
            **asset_json(coin.asset),
            "commitmentnonce": self._nonce(outpoint).hex(),
            "scriptPubKey": script_json(coin.script, chain.params),
            "coinbase": coin.coinbase,
        }

    def _nonce(self, outpoint: OutPoint) -> bytes:
        """The nonce of an output, which coins do not keep; empty where it is null."""
        entry = self._chain.mempool.get(outpoint.txid)
        tx = entry.tx if entry is not None else None
        if tx is None:
            found = self._chain.find_transaction(outpoint.txid)
            tx = None if found is None else found[0]
        nonce = NULL if tx is None else tx.outputs[outpoint.index].nonce
        return b"" if nonce == NULL else nonce
