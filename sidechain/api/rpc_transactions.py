"""RPC methods that read transactions and coins.

Source: elements/interfaces.md 3.
"""

from typing import Any

from sidechain.api.arguments import (
    encoded_argument,
    flag_argument,
    hash_argument,
    integer_argument,
    verbosity_argument,
)
from sidechain.api.registry import (
    DESERIALIZATION_ERROR,
    INVALID_ADDRESS_OR_KEY,
    Registry,
    RpcError,
)
from sidechain.api.script_json import script_json
from sidechain.api.spent_coins import spent_by_block, spent_in_mempool
from sidechain.api.transaction_json import amount_json, asset_json, transaction_json
from sidechain.chain import Chain
from sidechain.errors import InvalidEncoding
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.validation.coins import Coin

_NO_TRANSACTION = (
    "No such mempool or blockchain transaction. Use gettransaction for wallet transactions."
)
_NO_GENESIS = (
    "The genesis block coinbase is not considered an ordinary transaction and cannot be retrieved"
)


class TransactionMethods:
    """Reads a chain and its mempool; changes nothing."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

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
        """Transaction of the mempool or of a block."""
        wanted = hash_argument(txid, "parameter 1")
        level = verbosity_argument(verbosity, 0)
        if wanted == self._chain.header(0).merkle_root:
            raise RpcError(INVALID_ADDRESS_OR_KEY, _NO_GENESIS)
        tx, height = self._find(wanted, blockhash)
        if level <= 0:
            return tx.raw.hex()
        spent = self._spent(tx, height) if level > 1 else None
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
        found = self._chain.find_transaction(txid)
        if blockhash is not None:
            height = self._chain.height_of(hash_argument(blockhash, "parameter 3"))
            if height is None:
                raise RpcError(INVALID_ADDRESS_OR_KEY, "Block hash not found")
            if found is None or found[1] != height:
                raise RpcError(
                    INVALID_ADDRESS_OR_KEY,
                    "No such transaction found in the provided block. "
                    "Use gettransaction for wallet transactions.",
                )
            return found
        if found is not None:
            return found
        entry = self._chain.mempool.get(txid)
        if entry is None:
            raise RpcError(INVALID_ADDRESS_OR_KEY, _NO_TRANSACTION)
        return entry.tx, None

    def _spent(self, tx: Transaction, height: int | None) -> list[Coin] | None:
        if height is None:
            return spent_in_mempool(self._chain, tx)
        return spent_by_block(self._chain, self._chain.block(height), height).get(tx.txid)

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
        index = integer_argument(n)
        if not 0 <= index < 1 << 30:
            return None
        outpoint = OutPoint(hash_argument(txid, "txid"), index)
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
            "scriptPubKey": script_json(coin.script, chain.params),
            "coinbase": coin.coinbase,
        }
