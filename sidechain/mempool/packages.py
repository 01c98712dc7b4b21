"""Several transactions at once: tested in a row, or a child with the parents it pays for. Pure.

Source: elements/transactions.md 7.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sidechain.errors import InvalidTransaction, Stalled
from sidechain.mempool.admission import (
    ONE_OF_PACKAGE,
    PACKAGE,
    TESTED_PACKAGE,
    Candidate,
    Circumstances,
    Mode,
    check_minimum,
    check_permissions,
    check_rate_max,
    judge,
    pre_check,
)
from sidechain.mempool.entry import Entry
from sidechain.mempool.ephemeral import DustUnspent, check_dust_spent
from sidechain.mempool.pool import Mempool
from sidechain.mempool.relations import ChainTooLong, find_ancestors, total
from sidechain.mempool.replacement import (
    TooManyReplaced,
    all_replaced,
    fees_missing,
    improves_diagram,
)
from sidechain.mempool.truc import TrucViolation, check_in_package
from sidechain.policy.fees import FeeTooLow, fee_rate, format_rate
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.validation.coins import Coin

MAX_PACKAGE_TRANSACTIONS = 25
MAX_PACKAGE_WEIGHT_WU = 404_000
MISSING_INPUTS = "bad-txns-inputs-missingorspent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A transaction that entered, would enter, or was there before.

    Attributes:
        entry: what it is in the mempool.
        rate_sats_per_kvb: the fee rate it was judged by; None when it was there before.
        paid_by: transactions whose fees and sizes that rate is of.
        replaced: what left for it, by txid.
    """

    entry: Entry
    rate_sats_per_kvb: int | None
    paid_by: tuple[bytes, ...]
    replaced: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class OtherWitness:
    """The mempool has the transaction with another witness: this one was not looked at."""

    wtxid: bytes


Outcome = Accepted | OtherWitness | InvalidTransaction


@dataclass(slots=True, kw_only=True)
class PackageVerdict:
    """What became of a package.

    Attributes:
        fault: what is wrong with it as a whole, None if nothing is.
        is_policy: whether `fault` is about the package, not about one of its transactions.
        outcomes: by wtxid, of the transactions that were judged.
    """

    fault: InvalidTransaction | None = None
    is_policy: bool = False
    outcomes: dict[bytes, Outcome] = field(default_factory=dict)


class _PackageFault(Exception):
    """Ends the judgement of a package."""

    def __init__(self, verdict: PackageVerdict) -> None:
        super().__init__()
        self.verdict = verdict


def check_form(package: Sequence[Transaction]) -> None:
    """Check what the transactions show of each other.

    Raises:
        InvalidTransaction: "package-too-many-transactions", "package-too-large",
            "package-contains-duplicates", "package-not-sorted" or "conflict-in-package".
    """
    if len(package) > MAX_PACKAGE_TRANSACTIONS:
        raise InvalidTransaction("package-too-many-transactions")
    if len(package) > 1 and sum(tx.weight_wu for tx in package) > MAX_PACKAGE_WEIGHT_WU:
        raise InvalidTransaction("package-too-large")
    later = {tx.txid for tx in package}
    if len(later) != len(package):
        raise InvalidTransaction("package-contains-duplicates")
    for tx in package:
        if any(txin.prevout.txid in later for txin in tx.inputs):
            raise InvalidTransaction("package-not-sorted")
        later.remove(tx.txid)
    seen: set[OutPoint] = set()
    for tx in package:
        spent = {txin.prevout for txin in tx.inputs}
        if not spent or spent & seen:
            raise InvalidTransaction("conflict-in-package")
        seen |= spent


def is_child_with_parents(package: Sequence[Transaction]) -> bool:
    """Whether all transactions but the last are parents of the last."""
    if len(package) < 2:
        return False
    spent = {txin.prevout.txid for txin in package[-1].inputs}
    return all(tx.txid in spent for tx in package[:-1])


def is_child_with_parents_tree(package: Sequence[Transaction]) -> bool:
    """Whether, besides, no parent spends from another parent."""
    parents = {tx.txid for tx in package[:-1]}
    return is_child_with_parents(package) and not any(
        txin.prevout.txid in parents for tx in package[:-1] for txin in tx.inputs
    )


def judge_package(
    package: Sequence[Transaction], mempool: Mempool, about: Circumstances
) -> PackageVerdict:
    """Judge transactions that would enter one after another; nothing changes.

    None may replace anything, and judging ends at the first that is refused.
    """
    verdict, _ = _judge_together(package, mempool, about, TESTED_PACKAGE)
    return verdict


def submit_package(
    package: Sequence[Transaction],
    mempool: Mempool,
    about: Circumstances,
    rate_max: int | None = None,
) -> PackageVerdict:
    """Take in one transaction, or a child with all its unconfirmed parents.

    Those that do alone enter alone. What pays too little, or spends from such, is then judged
    together: the child's fee pays for all.

    Args:
        rate_max: highest fee rate anyone in it may pay.
    """
    fault = _topology_fault(package, about)
    if fault is not None:
        return PackageVerdict(fault=fault, is_policy=True)
    final: dict[bytes, Outcome] = {}
    alone: dict[bytes, Outcome] = {}
    together: list[Transaction] = []
    hopeless = False
    for tx in package:
        outcome = _known(tx, mempool) or _enter_alone(tx, mempool, about, rate_max)
        if not isinstance(outcome, InvalidTransaction):
            final[tx.wtxid] = outcome
            continue
        alone[tx.wtxid] = outcome
        if len(package) > 1 and _may_do_together(outcome):
            together.append(tx)
        else:
            hopeless = True
    verdict = PackageVerdict()
    if hopeless:
        verdict.fault = InvalidTransaction("transaction failed")
    elif together:
        verdict = _enter_together(together, mempool, about, rate_max)
    mempool.limit(about.now_s)
    _settle(package, mempool, verdict, final, alone)
    return verdict


def _settle(
    package: Sequence[Transaction],
    mempool: Mempool,
    verdict: PackageVerdict,
    final: dict[bytes, Outcome],
    alone: dict[bytes, Outcome],
) -> None:
    """Put together what was found out, once the mempool is within its limits again."""
    outcomes: dict[bytes, Outcome] = {}
    for tx in package:
        outcome = verdict.outcomes.get(tx.wtxid) or final.get(tx.wtxid) or alone.get(tx.wtxid)
        if outcome is None:
            continue
        if not isinstance(outcome, InvalidTransaction) and tx.txid not in mempool:
            verdict.fault = InvalidTransaction("transaction failed")
            verdict.is_policy = False
            outcome = InvalidTransaction("mempool full")
        outcomes[tx.wtxid] = outcome
    verdict.outcomes = outcomes


def _topology_fault(
    package: Sequence[Transaction], about: Circumstances
) -> InvalidTransaction | None:
    try:
        check_form(package)
    except InvalidTransaction as error:
        return error
    if len(package) == 1:
        return None
    if not is_child_with_parents(package):
        return InvalidTransaction("package-not-child-with-parents")
    given = {tx.txid for tx in package[:-1]}
    for txin in package[-1].inputs:
        if txin.prevout.txid not in given and about.coins.coin(txin.prevout) is None:
            return InvalidTransaction("package-not-child-with-unconfirmed-parents")
    return None


def _known(tx: Transaction, mempool: Mempool) -> Outcome | None:
    entry = mempool.get(tx.txid)
    if entry is None:
        return None
    if entry.raw != tx.raw:
        return OtherWitness(entry.wtxid)
    return Accepted(entry=entry, rate_sats_per_kvb=None, paid_by=())


def _enter_alone(
    tx: Transaction, mempool: Mempool, about: Circumstances, rate_max: int | None
) -> Outcome:
    try:
        candidate = judge(tx, mempool, about, replace(ONE_OF_PACKAGE, rate_max=rate_max))
    except (InvalidTransaction, Stalled) as error:
        return _as_refusal(error)
    mempool.add(candidate.entry, tx, candidate.leaving)
    return _accepted(candidate, candidate.entry.fee_rate, (tx.wtxid,), candidate.leaving)


def _may_do_together(refusal: InvalidTransaction) -> bool:
    return isinstance(refusal, FeeTooLow) or refusal.reason == MISSING_INPUTS


def _enter_together(
    package: Sequence[Transaction],
    mempool: Mempool,
    about: Circumstances,
    rate_max: int | None,
) -> PackageVerdict:
    if len(package) == 1:
        outcome = _enter_alone(package[0], mempool, about, rate_max)
        verdict = PackageVerdict(outcomes={package[0].wtxid: outcome})
        if isinstance(outcome, InvalidTransaction):
            verdict.fault = InvalidTransaction("transaction failed")
        return verdict
    mode = replace(PACKAGE, rate_max=rate_max)
    verdict, candidates = _judge_together(package, mempool, about, mode)
    if verdict.fault is not None:
        return verdict
    leaving = {entry for candidate in candidates for entry in candidate.leaving}
    for position, candidate in enumerate(candidates):
        mempool.add(candidate.entry, candidate.tx, leaving if position == 0 else ())
    return verdict


def _judge_together(
    package: Sequence[Transaction], mempool: Mempool, about: Circumstances, mode: Mode
) -> tuple[PackageVerdict, list[Candidate]]:
    """Judge transactions of which later ones may spend from earlier ones."""
    try:
        check_form(package)
        candidates = _pre_check_all(package, mempool, about, mode)
        for candidate in candidates:
            check_in_package(candidate.tx, candidate.entry.vsize, package, candidate.ancestors)
        if mode.package_fees:
            _check_package_fee(candidates, mempool, about)
        if len(package) > 1:
            _check_package_limits(candidates, mempool)
            _check_package_replacement(candidates, about)
        if not about.params.accept_nonstandard:
            _check_package_dust(package, mempool, about)
        return PackageVerdict(outcomes=_check_all_scripts(candidates, about, mode)), candidates
    except _PackageFault as stop:
        return stop.verdict, []
    except TrucViolation as error:
        return PackageVerdict(fault=error, is_policy=True), []
    except InvalidTransaction as error:
        return PackageVerdict(fault=error, is_policy=True), []


def _pre_check_all(
    package: Sequence[Transaction], mempool: Mempool, about: Circumstances, mode: Mode
) -> list[Candidate]:
    staged: dict[OutPoint, Coin] = {}
    candidates: list[Candidate] = []
    for tx in package:
        try:
            candidate = pre_check(tx, mempool, about, mode, staged)
            check_rate_max(candidate.entry, mode)
        except (InvalidTransaction, Stalled) as error:
            raise _failed(tx, _as_refusal(error)) from error
        candidates.append(candidate)
        for index, output in enumerate(tx.outputs):
            coin = Coin.of(output, height=about.height, coinbase=False)
            staged[OutPoint(tx.txid, index)] = coin
    return candidates


def _check_package_fee(
    candidates: Sequence[Candidate], mempool: Mempool, about: Circumstances
) -> None:
    """Ask for the minimum of all together, by their ordinary sizes."""
    sums = total(candidate.entry for candidate in candidates)
    try:
        check_minimum(sums.fee_sats, sums.vsize, mempool, about)
    except FeeTooLow as error:
        raise _failed(candidates[-1].tx, error) from error


def _check_package_limits(candidates: Sequence[Candidate], mempool: Mempool) -> None:
    """All together must fit under the limits, as if each were an ancestor of each."""
    limits, count = mempool.limits, len(candidates)
    vsize = sum(candidate.entry.vsize for candidate in candidates)
    for what, given, name, limit in (
        ("count", count, "ancestor count", limits.ancestors),
        ("count", count, "descendant count", limits.descendants),
        ("size", vsize, "ancestor size", limits.ancestor_vbytes),
        ("size", vsize, "descendant size", limits.descendant_vbytes),
    ):
        if given > limit:
            raise InvalidTransaction(
                "package-mempool-limits",
                f"package {what} {given} exceeds {name} limit [limit: {limit}]",
            )
    parents = [entry for candidate in candidates for entry in mempool.parents_of(candidate.tx)]
    try:
        find_ancestors(parents, vsize, limits, count=count)
    except ChainTooLong as error:
        sure = "unconfirmed parents" in error.detail
        detail = error.detail if sure else f"possibly {error.detail}"
        raise InvalidTransaction("package-mempool-limits", detail) from error


def _check_package_replacement(candidates: Sequence[Candidate], about: Circumstances) -> None:
    """A parent and a child together may replace what alone they could not."""
    conflicts = list(dict.fromkeys(e for each in candidates for e in each.conflicts))
    if not conflicts:
        return
    failed = "package RBF failed: "
    if len(candidates) != 2 or not is_child_with_parents([each.tx for each in candidates]):
        raise InvalidTransaction(f"{failed}package must be 1-parent-1-child")
    if any(each.ancestors for each in candidates):
        raise InvalidTransaction(f"{failed}new transaction cannot have mempool ancestors")
    parent, child = candidates
    try:
        leaving = all_replaced(child.tx.txid, conflicts)
    except TooManyReplaced as error:
        reason = f"{failed}too many potential replacements"
        raise InvalidTransaction(reason, str(error)) from error
    sums = total(each.entry for each in candidates)
    incremental = about.params.incremental_relay_fee_sats_per_kvb
    text = fees_missing(child.tx.txid, sums.fee_sats, sums.vsize, leaving, incremental)
    if text is not None:
        raise InvalidTransaction(f"{failed}insufficient anti-DoS fees", text)
    rate, parent_rate = fee_rate(sums.fee_sats, sums.vsize), parent.entry.fee_rate
    if rate <= parent_rate:
        raise InvalidTransaction(
            f"{failed}package feerate is less than or equal to parent feerate",
            f"package feerate {format_rate(rate)} <= parent feerate is {format_rate(parent_rate)}",
        )
    text = improves_diagram(leaving, sums.fee_sats, sums.vsize)
    if text is not None:
        raise InvalidTransaction(f"{failed}{text}")
    parent.leaving = leaving


def _check_package_dust(
    package: Sequence[Transaction], mempool: Mempool, about: Circumstances
) -> None:
    try:
        check_dust_spent(package, mempool, about.params)
    except DustUnspent as error:
        verdict = PackageVerdict(
            fault=InvalidTransaction("unspent-dust"), outcomes={error.tx.wtxid: error}
        )
        raise _PackageFault(verdict) from error


def _check_all_scripts(
    candidates: Sequence[Candidate], about: Circumstances, mode: Mode
) -> dict[bytes, Outcome]:
    sums = total(each.entry for each in candidates)
    everybody = tuple(each.tx.wtxid for each in candidates)
    outcomes: dict[bytes, Outcome] = {}
    for each in candidates:
        try:
            check_permissions(each, about)
        except InvalidTransaction as error:
            stop = _failed(each.tx, error)
            if not mode.package_fees:
                stop.verdict.outcomes = {**outcomes, **stop.verdict.outcomes}
            raise stop from error
        rate = each.entry.fee_rate
        paid_by: tuple[bytes, ...] = (each.tx.wtxid,)
        if mode.package_fees:
            rate, paid_by = fee_rate(sums.fee_sats, sums.vsize), everybody
        outcomes[each.tx.wtxid] = _accepted(each, rate, paid_by, each.leaving)
    return outcomes


def _accepted(
    candidate: Candidate, rate: int, paid_by: tuple[bytes, ...], leaving: set[Entry]
) -> Accepted:
    return Accepted(
        entry=candidate.entry,
        rate_sats_per_kvb=rate,
        paid_by=paid_by,
        replaced=tuple(sorted(entry.txid for entry in leaving)),
    )


def _failed(tx: Transaction, error: InvalidTransaction) -> _PackageFault:
    fault = InvalidTransaction("transaction failed")
    return _PackageFault(PackageVerdict(fault=fault, outcomes={tx.wtxid: error}))


def _as_refusal(error: InvalidTransaction | Stalled) -> InvalidTransaction:
    if isinstance(error, Stalled):
        return InvalidTransaction("bad-pegin-witness", error.reason)
    return error
