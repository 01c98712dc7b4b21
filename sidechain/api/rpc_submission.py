"""RPC methods that judge transactions and put them into the mempool.

Source: elements/interfaces.md 3.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sidechain.api.arguments import array_argument, text_argument
from sidechain.api.json_text import coins, sats
from sidechain.api.registry import (
    INVALID_PARAMETER,
    TYPE_ERROR,
    VERIFY_ALREADY_IN_CHAIN,
    VERIFY_ERROR,
    VERIFY_REJECTED,
    Registry,
    RpcError,
)
from sidechain.api.rpc_build import decoded_transaction
from sidechain.chain import Chain
from sidechain.errors import InvalidTransaction, Stalled
from sidechain.mempool.packages import (
    MAX_PACKAGE_TRANSACTIONS,
    MISSING_INPUTS,
    Accepted,
    OtherWitness,
    Outcome,
    PackageVerdict,
    is_child_with_parents_tree,
)
from sidechain.mempool_file import FactsFor
from sidechain.params import ChainParams
from sidechain.policy.fees import fee_sats, required_fee_sats
from sidechain.policy.pegins import ParentFee, ParentFees
from sidechain.policy.standardness import is_pegout
from sidechain.primitives.transaction import MAX_SCRIPT_SIZE, OutPoint, Transaction, TxOut
from sidechain.script.opcodes import OP_RETURN
from sidechain.script.script import MAX_ELEMENT_SIZE_BYTES, is_p2wpkh, read_op
from sidechain.validation.pegins import ParentFacts

MAX_FEE_RATE_DEFAULT_SATS = 10_000_000
"""0.10 coins for 1,000 virtual bytes."""
FEE_RATE_REFUSED_SATS = 100_000_000
MAX_OPCODE = 0xE4
"""Opcodes above mean nothing: an output with one counts as burnt."""

_DECODE_FAILED = "TX decode failed. Make sure the tx has at least one input."
_IN_CHAIN = "Transaction outputs already in utxo set"
_FEE_EXCEEDED = "Fee exceeds maximum configured by user (e.g. -maxtxfee, maxfeerate)"
_BURN_EXCEEDED = "Unspendable output exceeds maximum configured by user (maxburnamount)"
_HAS_NONCE = (
    "Transaction output has nonce, but is not blinded. Did you forget to call "
    "blindrawtransaction, or rawblindrawtransaction?"
)
_BAD_TOPOLOGY = (
    "package topology disallowed. not child-with-parents or parents depend on each other."
)


class SubmissionMethods:
    """Methods that bring transactions to a chain."""

    def __init__(
        self,
        chain: Chain,
        *,
        facts_for: FactsFor,
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
        add("sendrawtransaction", self.sendrawtransaction, "Take in a transaction and relay it.")
        add("testmempoolaccept", self.testmempoolaccept, "Judge transactions, in their order.")
        add("submitpackage", self.submitpackage, "Take in a child with the parents it pays for.")

    async def sendrawtransaction(
        self, hexstring: Any, maxfeerate: Any = None, maxburnamount: Any = None
    ) -> str:
        """Take in a transaction and relay it; sending it again relays it again."""
        burn_limit_sats = _amount(maxburnamount, 0)
        tx = decoded_transaction(hexstring, _DECODE_FAILED)
        _check_burns(tx, self._chain.params, burn_limit_sats)
        rate_limit = _fee_rate(maxfeerate)
        if any(output.nonce[0] and output.value[0] == 1 for output in tx.outputs):
            raise RpcError(VERIFY_ERROR, _HAS_NONCE)
        facts = await self._facts_of(tx)
        # From here to the acceptance nothing is awaited: the tip judged is the tip in force.
        if self._is_in_chain(tx):
            raise RpcError(VERIFY_ALREADY_IN_CHAIN, _IN_CHAIN)
        known = self._chain.mempool.tx(tx.txid)
        if known is None:
            self._accept(tx, facts, rate_limit)
        await self._on_accepted(tx if known is None else known)
        return tx.txid[::-1].hex()

    async def testmempoolaccept(self, rawtxs: Any, maxfeerate: Any = None) -> list[dict[str, Any]]:
        """Judge a transaction, or several that would enter one after another."""
        given = _package_argument(rawtxs)
        rate_limit = _fee_rate(maxfeerate)
        package = [_decode_one_of(item) for item in given]
        facts = await self._facts_of(*package)
        if len(package) == 1:
            verdict = self._judge_alone(package[0], facts)
        else:
            verdict = self._chain.test_package(package, facts, self._unix_time_s())
        return _test_json(package, verdict, rate_limit)

    async def submitpackage(
        self, package: Any, maxfeerate: Any = None, maxburnamount: Any = None
    ) -> dict[str, Any]:
        """Take in a transaction, or a child with all its unconfirmed parents."""
        given = _package_argument(package)
        rate_limit = _fee_rate(maxfeerate)
        burn_limit_sats = _amount(maxburnamount, 0)
        txs = []
        for item in given:
            txs.append(_decode_one_of(item))
            _check_burns(txs[-1], self._chain.params, burn_limit_sats)
        if len(txs) > 1 and not is_child_with_parents_tree(txs):
            raise RpcError(VERIFY_ERROR, _BAD_TOPOLOGY)
        facts = await self._facts_of(*txs)
        verdict = self._chain.submit_package(
            txs, facts, self._unix_time_s(), rate_limit if rate_limit else None
        )
        for tx in txs:
            if tx.txid in self._chain.mempool:
                await self._on_accepted(self._chain.mempool.tx(tx.txid) or tx)
        return _submitted_json(txs, verdict)

    def _is_in_chain(self, tx: Transaction) -> bool:
        """Whether a block has the transaction and left an output of it unspent."""
        return any(
            self._chain.coin(OutPoint(tx.txid, index)) is not None
            for index, output in enumerate(tx.outputs)
            if not output.is_unspendable
        )

    def _accept(self, tx: Transaction, facts: ParentFacts | None, rate_limit: int) -> None:
        now_s = self._unix_time_s()
        try:
            fee_limit = required_fee_sats(tx.vsize, rate_limit)
            if fee_limit and fee_sats(tx, self._chain.params) > fee_limit:
                # Whatever else is wrong with it is said first.
                self._chain.test_tx(tx, facts, now_s)
                raise RpcError(VERIFY_ERROR, _FEE_EXCEEDED)
            self._chain.submit_tx(tx, facts, now_s)
        except Stalled as error:
            raise RpcError(VERIFY_REJECTED, f"bad-pegin-witness, {error.reason}") from error
        except InvalidTransaction as error:
            code = VERIFY_ERROR if error.reason == MISSING_INPUTS else VERIFY_REJECTED
            raise RpcError(code, _text(error)) from error
        self._chain.mempool.mark_own(tx.txid)

    def _judge_alone(self, tx: Transaction, facts: ParentFacts | None) -> PackageVerdict:
        outcome: Outcome
        try:
            entry = self._chain.test_tx(tx, facts, self._unix_time_s()).entry
            outcome = Accepted(entry=entry, rate_sats_per_kvb=entry.fee_rate, paid_by=(tx.wtxid,))
        except Stalled as error:
            outcome = InvalidTransaction("bad-pegin-witness", error.reason)
        except InvalidTransaction as error:
            outcome = error
        return PackageVerdict(outcomes={tx.wtxid: outcome})

    async def _facts_of(self, *txs: Transaction) -> ParentFacts | None:
        """What the peg-ins of all of them need from the parent chain."""
        claims = [tx for tx in txs if any(txin.is_pegin for txin in tx.inputs)]
        found = [await self._facts_for(tx) for tx in claims]
        known = [facts for facts in found if facts is not None]
        if len(known) <= 1:
            return known[0] if known else None
        return _JointFacts(known)


class _JointFacts:
    """Facts that were asked for one by one."""

    def __init__(self, parts: Sequence[ParentFacts]) -> None:
        self._parts = parts

    def block_facts(self, block_hash: bytes) -> tuple[int, int] | None:
        known = (part.block_facts(block_hash) for part in self._parts)
        return next((facts for facts in known if facts is not None), None)

    def parent_fee(self, txid: bytes, block_hash: bytes) -> ParentFee | None:
        parts = (part for part in self._parts if isinstance(part, ParentFees))
        known = (part.parent_fee(txid, block_hash) for part in parts)
        return next((fee for fee in known if fee is not None), None)


def _test_json(
    package: Sequence[Transaction], verdict: PackageVerdict, rate_limit: int
) -> list[dict[str, Any]]:
    """What `testmempoolaccept` answers; after a fee above the limit the rest stays open."""
    answer = []
    is_over = False
    for tx in package:
        shown: dict[str, Any] = {"txid": tx.txid[::-1].hex(), "wtxid": tx.wtxid[::-1].hex()}
        if verdict.is_policy and verdict.fault is not None:
            shown["package-error"] = str(verdict.fault)
        outcome = None if is_over else verdict.outcomes.get(tx.wtxid)
        if isinstance(outcome, Accepted):
            limit = required_fee_sats(outcome.entry.vsize, rate_limit)
            is_over = bool(limit) and outcome.entry.fee_sats > limit
            shown["allowed"] = not is_over
            if is_over:
                shown["reject-reason"] = "max-fee-exceeded"
            else:
                shown |= {"vsize": outcome.entry.vsize, "fees": _fees_json(outcome)}
        elif isinstance(outcome, InvalidTransaction):
            shown["allowed"] = False
            if outcome.reason == MISSING_INPUTS:
                shown["reject-reason"] = "missing-inputs"
            else:
                shown |= {"reject-reason": outcome.reason, "reject-details": _text(outcome)}
        answer.append(shown)
    return answer


def _submitted_json(package: Sequence[Transaction], verdict: PackageVerdict) -> dict[str, Any]:
    results: dict[str, Any] = {}
    replaced: set[bytes] = set()
    for tx in package:
        shown: dict[str, Any] = {"txid": tx.txid[::-1].hex()}
        match verdict.outcomes.get(tx.wtxid):
            case None:
                continue  # what was not judged is left out
            case OtherWitness(wtxid):
                shown["other-wtxid"] = wtxid[::-1].hex()
            case Accepted() as accepted:
                shown |= {"vsize": accepted.entry.vsize, "fees": _fees_json(accepted)}
                replaced.update(accepted.replaced)
            case InvalidTransaction() as error:
                shown["error"] = _text(error)
        results[tx.wtxid[::-1].hex()] = shown
    return {
        "package_msg": "success" if verdict.fault is None else str(verdict.fault),
        "tx-results": results,
        "replaced-transactions": [txid[::-1].hex() for txid in sorted(replaced)],
    }


def _fees_json(accepted: Accepted) -> dict[str, Any]:
    fees: dict[str, Any] = {"base": coins(accepted.entry.fee_sats)}
    if accepted.rate_sats_per_kvb is not None:
        fees["effective-feerate"] = coins(accepted.rate_sats_per_kvb)
        fees["effective-includes"] = [wtxid[::-1].hex() for wtxid in accepted.paid_by]
    return fees


def _text(error: InvalidTransaction) -> str:
    """The words for a refusal; where elementsd refuses without a reason, it says this."""
    return str(error) or "Valid"


def _package_argument(value: Any) -> list[Any]:
    given = array_argument(value)
    if not 1 <= len(given) <= MAX_PACKAGE_TRANSACTIONS:
        raise RpcError(
            INVALID_PARAMETER,
            f"Array must contain between 1 and {MAX_PACKAGE_TRANSACTIONS} transactions.",
        )
    return given


def _decode_one_of(value: Any) -> Transaction:
    text = text_argument(value)
    return decoded_transaction(
        text, f"TX decode failed: {text} Make sure the tx has at least one input."
    )


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
    if rate >= FEE_RATE_REFUSED_SATS:
        raise RpcError(
            INVALID_PARAMETER, "Fee rates larger than or equal to 1BTC/kvB are not accepted"
        )
    return rate


def _check_burns(tx: Transaction, params: ChainParams, limit_sats: int) -> None:
    """What only the sender's own node looks at: outputs that nobody could spend."""
    for output in tx.outputs:
        if (output.value_sats or 0) > limit_sats and _is_burnt(output, params):
            raise RpcError(VERIFY_ERROR, _BURN_EXCEEDED)


def _is_burnt(output: TxOut, params: ChainParams) -> bool:
    script = output.script
    unspendable = script[:1] == bytes((OP_RETURN,)) or len(script) > MAX_SCRIPT_SIZE
    return (unspendable and not is_pegout(script, params)) or not _has_valid_ops(script)


def _has_valid_ops(script: bytes) -> bool:
    if is_p2wpkh(script):
        return True
    pos = 0
    while pos < len(script):
        op = read_op(script, pos)
        if op is None or op.opcode > MAX_OPCODE or len(op.data or b"") > MAX_ELEMENT_SIZE_BYTES:
            return False
        pos = op.end
    return True
