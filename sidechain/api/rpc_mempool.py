"""RPC methods that show the mempool and put transactions into it.

Source: elements/interfaces.md 1 and 3.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from sidechain import policy
from sidechain.api.arguments import (
    array_argument,
    encoded_argument,
    flag_argument,
    hash_argument,
    text_argument,
)
from sidechain.api.json_text import coins, sats
from sidechain.api.registry import (
    DESERIALIZATION_ERROR,
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    TYPE_ERROR,
    VERIFY_ALREADY_IN_CHAIN,
    VERIFY_ERROR,
    VERIFY_REJECTED,
    Registry,
    RpcError,
)
from sidechain.chain import Chain
from sidechain.errors import InvalidEncoding, InvalidTransaction, Stalled
from sidechain.mempool.pool import Entry
from sidechain.params import ChainParams
from sidechain.primitives.confidential import NULL, is_explicit
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.validation.pegins import ParentFacts
from sidechain.validation.pegouts import parse_pegout

MAX_FEE_RATE_DEFAULT_SATS = 10_000_000
"""0.10 coins for 1,000 virtual bytes."""
MAX_TEST_TRANSACTIONS = 25
_DECODE_FAILED = "TX decode failed. Make sure the tx has at least one input."
_IN_CHAIN = "Transaction outputs already in utxo set"
_MISSING = "bad-txns-inputs-missingorspent"
_FEE_TOO_HIGH = "max-fee-exceeded"


class MempoolMethods:
    """Methods on the mempool of a chain."""

    def __init__(
        self,
        chain: Chain,
        *,
        facts_for: Callable[[Transaction], Awaitable[ParentFacts | None]],
        on_accepted: Callable[[Transaction], Awaitable[None]],
        unix_time_s: Callable[[], int],
    ) -> None:
        self._chain = chain
        self._facts_for = facts_for
        self._on_accepted = on_accepted
        self._unix_time_s = unix_time_s

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        add = registry.add
        add("getrawmempool", self.getrawmempool, "Txids in the mempool, or their entries.")
        add("getmempoolinfo", self.getmempoolinfo, "Size and limits of the mempool.")
        add("getmempoolentry", self.getmempoolentry, "One transaction's entry.")
        add("sendrawtransaction", self.sendrawtransaction, "Take in a transaction and relay it.")
        add("testmempoolaccept", self.testmempoolaccept, "Judge transactions one by one.")

    def getrawmempool(self, verbose: Any = False, mempool_sequence: Any = False) -> Any:
        """Txids, or with `verbose` their entries."""
        pool = self._chain.mempool
        txids = pool.txids()
        if flag_argument(verbose, False):
            return {txid[::-1].hex(): self._entry_json(txid) for txid in txids}
        shown = [txid[::-1].hex() for txid in txids]
        if flag_argument(mempool_sequence, False):
            return {"txids": shown, "mempool_sequence": pool.sequence}
        return shown

    def getmempoolinfo(self) -> dict[str, Any]:
        """Size and limits of the mempool."""
        pool, params = self._chain.mempool, self._chain.params
        entries = pool.entries()
        floor = pool.floor_sats_per_kvb(self._unix_time_s())
        return {
            "loaded": True,
            "size": len(entries),
            "bytes": sum(entry.vsize for entry in entries),
            "usage": pool.size_bytes,
            "total_fee": coins(sum(entry.fee_sats for entry in entries)),
            "maxmempool": pool.limits.bytes,
            "mempoolminfee": coins(max(floor, params.min_relay_fee_sats_per_kvb)),
            "minrelaytxfee": coins(params.min_relay_fee_sats_per_kvb),
            "incrementalrelayfee": coins(policy.INCREMENTAL_RELAY_FEE_SATS_PER_KVB),
            "unbroadcastcount": 0,
            "fullrbf": True,
        }

    def getmempoolentry(self, txid: Any) -> dict[str, Any]:
        """One transaction's entry."""
        wanted = hash_argument(txid, "txid")
        if wanted not in self._chain.mempool:
            raise RpcError(INVALID_ADDRESS_OR_KEY, "Transaction not in mempool")
        return self._entry_json(wanted)

    def _entry_json(self, txid: bytes) -> dict[str, Any]:
        pool = self._chain.mempool
        entry = pool.get(txid)
        if entry is None:
            return {}
        above = [e for e in map(pool.get, {txid, *pool.ancestors(txid)}) if e is not None]
        below = [e for e in map(pool.get, {txid, *pool.descendants(txid)}) if e is not None]
        shown: dict[str, Any] = {
            "vsize": entry.vsize,
            "weight": entry.tx.weight_wu,
            "time": entry.time_s,
            "height": entry.height - 1,
            "descendantcount": len(below),
            "descendantsize": sum(each.vsize for each in below),
            "ancestorcount": len(above),
            "ancestorsize": sum(each.vsize for each in above),
            "wtxid": entry.tx.wtxid[::-1].hex(),
            "fees": {
                "base": coins(entry.fee_sats),
                "modified": coins(entry.fee_sats),
                "ancestor": coins(sum(each.fee_sats for each in above)),
                "descendant": coins(sum(each.fee_sats for each in below)),
            },
            "depends": sorted(parent[::-1].hex() for parent in entry.parents),
            "spentby": sorted(child[::-1].hex() for child in entry.children),
            "bip125-replaceable": True,
            "unbroadcast": False,
        }
        if self._chain.params.accept_discount_ct:
            shown["discountvsize"] = entry.tx.discount_vsize
        return shown

    async def sendrawtransaction(
        self, hexstring: Any, maxfeerate: Any = None, maxburnamount: Any = None
    ) -> str:
        """Take in a transaction and relay it; sending it again relays it again."""
        tx = _decode(hexstring, _DECODE_FAILED)
        rate_limit = _fee_rate(maxfeerate)
        _check_outputs(tx, self._chain.params, _amount(maxburnamount, 0))
        facts = await self._facts_if_needed(tx)
        # From here to the acceptance nothing is awaited: the tip judged is the tip in force.
        if self._is_in_chain(tx):
            raise RpcError(VERIFY_ALREADY_IN_CHAIN, _IN_CHAIN)
        known = self._chain.mempool.get(tx.txid)
        if known is None:
            self._accept(tx, facts, rate_limit)
        await self._on_accepted(tx if known is None else known.tx)
        return tx.txid[::-1].hex()

    def _is_in_chain(self, tx: Transaction) -> bool:
        """Whether a block has the transaction and left an output of it unspent."""
        places = (OutPoint(tx.txid, index) for index in range(len(tx.outputs)))
        return any(self._chain.coin(place) is not None for place in places)

    def _accept(self, tx: Transaction, facts: ParentFacts | None, rate_limit: int) -> None:
        now_s = self._unix_time_s()
        try:
            fee_limit = policy.required_fee_sats(tx.vsize, rate_limit)
            if rate_limit and policy.fee_sats(tx, self._chain.params) > fee_limit:
                # Whatever else is wrong with it is said first.
                self._chain.test_tx(tx, facts, now_s)
                raise RpcError(
                    VERIFY_ERROR,
                    "Fee exceeds maximum configured by user (e.g. -maxtxfee, maxfeerate)",
                )
            self._chain.submit_tx(tx, facts, now_s)
        except Stalled as error:
            raise RpcError(VERIFY_REJECTED, f"bad-pegin-witness, {error.reason}") from error
        except InvalidTransaction as error:
            raise _refusal(error) from error

    async def testmempoolaccept(self, rawtxs: Any, maxfeerate: Any = None) -> list[dict[str, Any]]:
        """Judge transactions, each for itself on the mempool as it is."""
        given = array_argument(rawtxs)
        if not 1 <= len(given) <= MAX_TEST_TRANSACTIONS:
            raise RpcError(
                INVALID_PARAMETER,
                f"Array must contain between 1 and {MAX_TEST_TRANSACTIONS} transactions.",
            )
        rate_limit = _fee_rate(maxfeerate)
        verdicts = []
        for item in given:
            text = text_argument(item)
            failure = f"TX decode failed: {text} Make sure the tx has at least one input."
            tx = _decode(text, failure)
            facts = await self._facts_if_needed(tx)
            verdicts.append(self._verdict(tx, facts, rate_limit))
        return verdicts

    def _verdict(
        self, tx: Transaction, facts: ParentFacts | None, rate_limit: int
    ) -> dict[str, Any]:
        shown: dict[str, Any] = {"txid": tx.txid[::-1].hex(), "wtxid": tx.wtxid[::-1].hex()}
        try:
            entry = self._chain.test_tx(tx, facts, self._unix_time_s())
        except Stalled as error:
            return shown | _denied("bad-pegin-witness", f"bad-pegin-witness, {error.reason}")
        except InvalidTransaction as error:
            if error.reason == _MISSING:
                return shown | {"allowed": False, "reject-reason": "missing-inputs"}
            return shown | _denied(error.reason, str(error))
        limit = policy.required_fee_sats(entry.vsize, rate_limit)
        if rate_limit and entry.fee_sats > limit:
            return shown | _denied(_FEE_TOO_HIGH, _FEE_TOO_HIGH)
        return shown | _allowed(entry)

    async def _facts_if_needed(self, tx: Transaction) -> ParentFacts | None:
        if not any(txin.is_pegin for txin in tx.inputs):
            return None
        return await self._facts_for(tx)


def _decode(value: Any, failure: str) -> Transaction:
    try:
        return Transaction.decode(encoded_argument(value, failure))
    except InvalidEncoding as error:
        raise RpcError(DESERIALIZATION_ERROR, failure) from error


def _amount(value: Any, default_sats: int) -> int:
    if value is None:
        return default_sats
    try:
        return sats(value)
    except ValueError as error:
        raise RpcError(TYPE_ERROR, str(error)) from error


def _fee_rate(value: Any) -> int:
    """The limit in satoshis for 1,000 virtual bytes; 0 is no limit."""
    rate = _amount(value, MAX_FEE_RATE_DEFAULT_SATS)
    if rate >= 100_000_000:
        raise RpcError(
            INVALID_PARAMETER, "Fee rates larger than or equal to 1BTC/kvB are not accepted"
        )
    return rate


def _check_outputs(tx: Transaction, params: ChainParams, burn_limit_sats: int) -> None:
    """What only the sender's own node looks at, against mistakes."""
    for output in tx.outputs:
        if output.nonce != NULL and is_explicit(output.value):
            raise RpcError(VERIFY_ERROR, "Transaction output has a nonce, but is not blinded")
        pegout = parse_pegout(output.script)
        is_pegout = pegout is not None and pegout[0] == params.parent_genesis_hash
        burned = output.is_unspendable and not output.is_fee and not is_pegout
        if burned and (output.value_sats or 0) > burn_limit_sats:
            raise RpcError(
                VERIFY_ERROR,
                "Unspendable output exceeds maximum configured by user (maxburnamount)",
            )


def _refusal(error: InvalidTransaction) -> RpcError:
    if error.reason == _MISSING:
        return RpcError(VERIFY_ERROR, error.reason)
    if error.reason == "txn-already-known":
        return RpcError(VERIFY_ALREADY_IN_CHAIN, _IN_CHAIN)
    return RpcError(VERIFY_REJECTED, str(error))


def _denied(reason: str, details: str) -> dict[str, Any]:
    return {"allowed": False, "reject-reason": reason, "reject-details": details}


def _allowed(entry: Entry) -> dict[str, Any]:
    return {
        "allowed": True,
        "vsize": entry.vsize,
        "fees": {
            "base": coins(entry.fee_sats),
            "effective-feerate": coins(entry.fee_sats * 1000 // entry.vsize),
            "effective-includes": [entry.tx.wtxid[::-1].hex()],
        },
    }
