"""RPC methods that show the mempool, weigh its transactions and keep it on disk.

Source: elements/interfaces.md 1 and 3.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sidechain.api.arguments import (
    array_argument,
    flag_argument,
    hash_argument,
    integer_argument,
    number_argument,
    text_argument,
    verbosity_argument,
)
from sidechain.api.json_text import coins
from sidechain.api.registry import (
    INVALID_ADDRESS_OR_KEY,
    INVALID_PARAMETER,
    MISC_ERROR,
    TYPE_ERROR,
    Registry,
    RpcError,
    type_names,
)
from sidechain.chain import Chain
from sidechain.errors import InvalidEncoding, Unavailable
from sidechain.mempool.entry import Entry, Trait
from sidechain.mempool.relations import (
    ancestors_of,
    by_depth_and_score,
    descendants_of,
    total,
)
from sidechain.mempool_file import FactsFor, load_mempool, save_mempool
from sidechain.policy.standardness import dust_outputs
from sidechain.primitives.transaction import OutPoint

_NOT_IN_MEMPOOL = "Transaction not in mempool"
_INT64_MAX = 2**63 - 1
_INT32_MAX = 2**31 - 1


class MempoolMethods:
    """Methods on the mempool of a chain."""

    def __init__(
        self,
        chain: Chain,
        *,
        facts_for: FactsFor,
        unix_time_s: Callable[[], int],
        file: Path | None = None,
    ) -> None:
        self._chain = chain
        self._facts_for = facts_for
        self._unix_time_s = unix_time_s
        self._file = file

    def register(self, registry: Registry) -> None:
        """Offer the methods."""
        add = registry.add
        add("getrawmempool", self.getrawmempool, "Txids in the mempool, or their entries.")
        add("getmempoolinfo", self.getmempoolinfo, "Size and limits of the mempool.")
        add("getmempoolentry", self.getmempoolentry, "One transaction's entry.")
        add("getmempoolancestors", self.getmempoolancestors, "What a transaction depends on.")
        add("getmempooldescendants", self.getmempooldescendants, "What depends on it.")
        add("gettxspendingprevout", self.gettxspendingprevout, "Who spends given outputs.")
        add("getorphantxs", self.getorphantxs, "Transactions that wait for their parents.")
        add("prioritisetransaction", self.prioritisetransaction, "Let a fee count for more.")
        add(
            "getprioritisedtransactions",
            self.getprioritisedtransactions,
            "Transactions whose fee counts for more, or for less.",
        )
        add("savemempool", self.savemempool, "Write the mempool to its file.")
        add("importmempool", self.importmempool, "Take in the transactions of a mempool file.")

    def getrawmempool(self, verbose: Any = False, mempool_sequence: Any = False) -> Any:
        """Txids, or with `verbose` their entries: few ancestors first, then best paid first."""
        with_sequence = flag_argument(mempool_sequence, False)
        entries = by_depth_and_score(self._chain.mempool.entries())
        if flag_argument(verbose, False):
            if with_sequence:
                raise RpcError(
                    INVALID_PARAMETER, "Verbose results cannot contain mempool sequence values."
                )
            return {_shown(entry): self._entry_json(entry) for entry in entries}
        shown = [_shown(entry) for entry in entries]
        if with_sequence:
            return {"txids": shown, "mempool_sequence": self._chain.mempool.sequence}
        return shown

    def getmempoolinfo(self) -> dict[str, Any]:
        """Size and limits of the mempool."""
        pool, params = self._chain.mempool, self._chain.params
        floor = pool.floor_sats_per_kvb(self._unix_time_s())
        return {
            "loaded": True,
            "size": len(pool),
            "bytes": pool.vbytes,
            "usage": pool.usage_bytes,
            "total_fee": coins(pool.fees_sats),
            "maxmempool": pool.limits.bytes,
            "mempoolminfee": coins(max(floor, params.min_relay_fee_sats_per_kvb)),
            "minrelaytxfee": coins(params.min_relay_fee_sats_per_kvb),
            "incrementalrelayfee": coins(params.incremental_relay_fee_sats_per_kvb),
            "unbroadcastcount": len(pool.unbroadcast),
            "fullrbf": False,
        }

    def getmempoolentry(self, txid: Any) -> dict[str, Any]:
        """One transaction's entry."""
        return self._entry_json(self._entry(txid))

    def getmempoolancestors(self, txid: Any, verbose: Any = False) -> Any:
        """Unconfirmed transactions this one depends on."""
        is_verbose = flag_argument(verbose, False)
        return self._relatives(ancestors_of(self._entry(txid)), is_verbose)

    def getmempooldescendants(self, txid: Any, verbose: Any = False) -> Any:
        """Transactions in the mempool that depend on this one."""
        is_verbose = flag_argument(verbose, False)
        return self._relatives(descendants_of(self._entry(txid)), is_verbose)

    def gettxspendingprevout(self, outputs: Any) -> list[dict[str, Any]]:
        """For every output given, the transaction in the mempool that spends it."""
        given = array_argument(outputs)
        if not given:
            raise RpcError(INVALID_PARAMETER, "Invalid parameter, outputs are missing")
        places = [_outpoint(item) for item in given]
        answer = []
        for place in places:
            shown: dict[str, Any] = {"txid": place.txid[::-1].hex(), "vout": place.index}
            spender = self._chain.mempool.spender(place)
            if spender is not None:
                shown["spendingtxid"] = spender[::-1].hex()
            answer.append(shown)
        return answer

    def getorphantxs(self, verbosity: Any = 0) -> list[Any]:
        """Nothing: this node keeps no transaction whose parents it does not know."""
        level = verbosity_argument(verbosity, 0)
        if not 0 <= level <= 2:
            raise RpcError(INVALID_PARAMETER, f"Invalid verbosity value {level}")
        return []

    def prioritisetransaction(self, txid: Any, dummy: Any, fee_delta: Any) -> bool:
        """Let a transaction's fee count for more (or less), in satoshis; calls add up."""
        wanted = hash_argument(txid, "txid")
        delta_sats = integer_argument(fee_delta)
        if abs(delta_sats) > _INT64_MAX:
            raise RpcError(MISC_ERROR, "JSON integer out of range")
        if dummy is not None and number_argument(dummy) != 0:
            raise RpcError(
                INVALID_PARAMETER,
                "Priority is no longer supported, dummy argument to prioritisetransaction "
                "must be 0.",
            )
        params, tx = self._chain.params, self._chain.mempool.tx(wanted)
        if tx is not None and not params.accept_nonstandard and dust_outputs(tx, params, 1):
            raise RpcError(
                INVALID_PARAMETER, "Priority is not supported for transactions with dust outputs."
            )
        self._chain.prioritise(wanted, delta_sats)
        return True

    def getprioritisedtransactions(self) -> dict[str, Any]:
        """Fee deltas by txid, of transactions here or not."""
        pool = self._chain.mempool
        answer: dict[str, Any] = {}
        for txid in sorted(pool.deltas):
            entry = pool.get(txid)
            shown = {"fee_delta": pool.deltas[txid], "in_mempool": entry is not None}
            if entry is not None:
                shown["modified_fee"] = entry.modified_fee_sats
            answer[txid[::-1].hex()] = shown
        return answer

    def savemempool(self) -> dict[str, Any]:
        """Write the mempool to its file."""
        try:
            if self._file is None:
                raise Unavailable("this node keeps no mempool file")
            save_mempool(self._chain, self._file)
        except Unavailable as error:
            raise RpcError(MISC_ERROR, "Unable to dump mempool to disk") from error
        return {"filename": str(self._file)}

    async def importmempool(self, filepath: Any, options: Any = None) -> dict[str, Any]:
        """Take in the transactions of a mempool file; times, deltas and marks are as asked."""
        path = Path(text_argument(filepath))
        chosen = {} if options is None else options
        if not isinstance(chosen, dict):
            raise RpcError(TYPE_ERROR, "options must be an object")
        names = {"use_current_time", "apply_fee_delta_priority", "apply_unbroadcast_set"}
        for name in chosen:
            if name not in names:
                raise RpcError(INVALID_PARAMETER, f"Unknown named parameter {name}")
        try:
            await load_mempool(
                self._chain,
                path,
                facts_for=self._facts_for,
                unix_time_s=self._unix_time_s,
                use_current_time=flag_argument(chosen.get("use_current_time"), True),
                apply_deltas=flag_argument(chosen.get("apply_fee_delta_priority"), False),
                apply_unbroadcast=flag_argument(chosen.get("apply_unbroadcast_set"), False),
            )
        except (InvalidEncoding, Unavailable) as error:
            raise RpcError(
                MISC_ERROR, "Unable to import mempool file, see debug.log for details."
            ) from error
        return {}

    def _entry(self, txid: Any) -> Entry:
        entry = self._chain.mempool.get(hash_argument(txid, "parameter 1"))
        if entry is None:
            raise RpcError(INVALID_ADDRESS_OR_KEY, _NOT_IN_MEMPOOL)
        return entry

    def _relatives(self, entries: Iterable[Entry], is_verbose: bool) -> Any:
        ordered = sorted(entries, key=lambda entry: entry.txid)
        if is_verbose:
            return {_shown(entry): self._entry_json(entry) for entry in ordered}
        return [_shown(entry) for entry in ordered]

    def _entry_json(self, entry: Entry) -> dict[str, Any]:
        above, below = ancestors_of(entry), descendants_of(entry)
        upward, downward = total({entry, *above}), total({entry, *below})
        signals = any(each.traits & Trait.REPLACEABLE for each in (entry, *above))
        parents = (_shown(each) for each in entry.parents or ())
        children = sorted(entry.children or (), key=lambda each: each.txid)
        return {
            "vsize": entry.vsize,
            "weight": entry.weight_wu,
            "time": entry.time_s,
            "height": entry.height,
            "descendantcount": downward.count,
            "descendantsize": downward.vsize,
            "ancestorcount": upward.count,
            "ancestorsize": upward.vsize,
            "wtxid": entry.wtxid[::-1].hex(),
            "fees": {
                "base": coins(entry.fee_sats),
                "modified": coins(entry.modified_fee_sats),
                "ancestor": coins(upward.fee_sats),
                "descendant": coins(downward.fee_sats),
            },
            "depends": sorted(parents),
            "spentby": [_shown(each) for each in children],
            "bip125-replaceable": signals,
            "unbroadcast": entry.txid in self._chain.mempool.unbroadcast,
        }


def _shown(entry: Entry) -> str:
    return entry.txid[::-1].hex()


def _outpoint(value: Any) -> OutPoint:
    """An object with exactly a txid and a vout."""
    if not isinstance(value, dict):
        given = type_names.get(type(value), "number")
        raise RpcError(TYPE_ERROR, f"JSON value of type {given} is not of expected type object")
    for name, kind, wanted in (("txid", str, "string"), ("vout", int, "number")):
        field = value.get(name)
        if field is None:
            raise RpcError(TYPE_ERROR, f"Missing {name}")
        if not isinstance(field, kind) or isinstance(field, bool):
            given = type_names.get(type(field), "number")
            raise RpcError(
                TYPE_ERROR,
                f"JSON value of type {given} for field {name} is not of expected type {wanted}",
            )
    for name in value:
        if name not in ("txid", "vout"):
            raise RpcError(TYPE_ERROR, f"Unexpected key {name}")
    txid, index = hash_argument(value["txid"], "txid"), integer_argument(value["vout"])
    if index < 0:
        raise RpcError(INVALID_PARAMETER, "Invalid parameter, vout cannot be negative")
    if index > _INT32_MAX:
        raise RpcError(MISC_ERROR, "JSON integer out of range")
    return OutPoint(txid, index)
