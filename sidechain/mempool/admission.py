"""Whether a transaction is taken into the mempool, in Elements' order of checks. Pure.

Source: elements/transactions.md 7, elements/peg.md 3.2.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sidechain.errors import InvalidTransaction
from sidechain.mempool.entry import Entry, Trait, traits_of
from sidechain.mempool.ephemeral import check_dust_spent
from sidechain.mempool.pool import Mempool
from sidechain.mempool.relations import ChainTooLong, Limits, family_total, find_ancestors
from sidechain.mempool.replacement import check_replacement
from sidechain.mempool.truc import TrucViolation, check_single
from sidechain.params import ChainParams
from sidechain.policy.fees import FeeTooLow, fee_sats, relay_size, required_fee_sats
from sidechain.policy.inputs import check_sigops, check_standard_inputs, spend_sigop_cost
from sidechain.policy.pegins import check_pegin_subsidy
from sidechain.policy.pegouts import PakList, check_pegouts
from sidechain.policy.standardness import (
    check_dust_fee,
    check_issuance_range,
    check_pegin_witnesses,
    check_size,
    check_standard,
)
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.script.interpreter import STANDARD_FLAGS, Flags
from sidechain.validation.checks import ScriptsCheck
from sidechain.validation.coins import Coin, CoinView, PeginKey
from sidechain.validation.deployments import dynafed_active
from sidechain.validation.dynafed import HeaderChain, median_time_past
from sidechain.validation.pegins import FedpegPair, ParentFacts, PeginClaim, check_pegin
from sidechain.validation.tx_check import check_transaction
from sidechain.validation.tx_verify import (
    check_inputs,
    check_mature,
    check_sequence_locks,
    is_final,
)
from sidechain.validation.validator import Validator

EXTRA_DESCENDANT_VBYTES = 10_000
"""Size of the one further child that a full chain of descendants still takes."""
CARVE_OUT_ANCESTORS = 2
UNBALANCED = "bad-txns-in-ne-out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a transaction is judged against: the chain's tip, and this moment.

    `fedpegscripts` and `pak_list` are those of the next block, `pak_list` None where the chain asks
    no peg-out for a proof; `facts` None leaves out the depth of peg-ins;
    `validator` runs scripts and proofs.
    """

    params: ChainParams
    chain: HeaderChain
    coins: CoinView
    fedpegscripts: Sequence[FedpegPair]
    facts: ParentFacts | None
    now_s: int
    pak_list: PakList | None = None
    validator: Validator = field(default_factory=Validator)

    @property
    def height(self) -> int:
        """Height of the next block, which the transaction would go into."""
        return self.chain.tip_height + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """How strictly a transaction is judged: alone, in a package, or back from a block.

    Attributes:
        replaces: whether it may take the place of what it conflicts with.
        evicts_sibling: whether it may do so with another child of its version 3 parent.
        carve_outs: whether one more descendant and one more conflict are let through.
        package_fees: the mempool's own minimum is asked of the whole package, by the caller.
        from_block: it was in a block that was taken off: no fee is asked for.
        rate_max: highest fee rate that the sender wants to pay, satoshis for 1,000 virtual bytes.
    """

    replaces: bool = True
    evicts_sibling: bool = True
    carve_outs: bool = True
    package_fees: bool = False
    from_block: bool = False
    rate_max: int | None = None


ALONE = Mode()
TESTED_PACKAGE = Mode(replaces=False, evicts_sibling=False, carve_outs=False)
PACKAGE = Mode(evicts_sibling=False, carve_outs=False, package_fees=True)
ONE_OF_PACKAGE = Mode(carve_outs=False)
FROM_BLOCK = Mode(from_block=True)


@dataclass(slots=True, kw_only=True)
class Candidate:
    """A transaction that may enter, as far as it was judged.

    Attributes:
        entry: what it would become.
        spent: the coins of its inputs.
        conflicts: entries it directly conflicts with, and the sibling it evicts.
        ancestors: entries it depends on.
        leaving: all that goes when it enters.
    """

    tx: Transaction
    entry: Entry
    spent: tuple[Coin, ...]
    conflicts: list[Entry]
    ancestors: Collection[Entry]
    sibling: bool = False
    leaving: set[Entry] = field(default_factory=set)


def judge(tx: Transaction, mempool: Mempool, about: Circumstances, mode: Mode = ALONE) -> Candidate:
    """Decide whether a transaction may enter the mempool by itself.

    Returns:
        What to give to `enter`.
    Raises:
        FeeTooLow: it pays too little; a child in a package might help.
        InvalidTransaction: under Elements' name for the mempool.
        Stalled: a peg-in that is not deep enough.
    """
    candidate = pre_check(tx, mempool, about, mode)
    check_rate_max(candidate.entry, mode)
    if candidate.ancestors and not about.params.accept_nonstandard:
        check_dust_spent([tx], mempool, about.params)
    if candidate.conflicts:
        candidate.leaving = check_replacement(
            tx,
            candidate.entry,
            candidate.conflicts,
            mempool,
            incremental_sats_per_kvb=about.params.incremental_relay_fee_sats_per_kvb,
            sibling=candidate.sibling,
        )
    check_permissions(candidate, about)
    return candidate


def enter(candidate: Candidate, mempool: Mempool, now_s: int) -> list[Entry]:
    """Put a judged transaction into the mempool, and keep that within its limits.

    Returns:
        The entries that had to leave, replaced or crowded out.
    Raises:
        FeeTooLow: "mempool full": it would be the first to leave; it is not in.
    """
    replaced = sorted(candidate.leaving, key=lambda entry: entry.txid)
    mempool.add(candidate.entry, candidate.tx, candidate.leaving)
    crowded_out = mempool.limit(now_s)
    if candidate.tx.txid not in mempool:
        raise FeeTooLow("mempool full")
    return replaced + crowded_out


def check_rate_max(entry: Entry, mode: Mode) -> None:
    """Refuse what pays more than its sender wants to.

    Raises:
        InvalidTransaction: "max feerate exceeded".
    """
    if mode.rate_max is not None and entry.fee_rate > mode.rate_max:
        raise InvalidTransaction("max feerate exceeded")


def pre_check(
    tx: Transaction,
    mempool: Mempool,
    about: Circumstances,
    mode: Mode,
    staged: Mapping[OutPoint, Coin] | None = None,
) -> Candidate:
    """Everything but replacement and scripts.

    Args:
        staged: coins of transactions that would enter just before.
    Raises:
        As `judge`.
    """
    params = about.params
    check_transaction(tx)
    if tx.is_coinbase:
        raise InvalidTransaction("coinbase")
    dust = 0 if params.accept_nonstandard else check_standard(tx, params)
    if about.pak_list is not None:
        check_pegouts(tx, about.pak_list, params)
    check_issuance_range(tx, params)
    check_size(tx)
    if tx.locktime:
        time_s = median_time_past(about.chain, about.chain.tip_height)
        if not is_final(tx, height=about.height, time_s=time_s):
            raise InvalidTransaction("non-final")
    _check_new(tx, mempool)
    conflicts = _find_conflicts(tx, mempool, mode)
    check_pegin_witnesses(tx)
    parents = mempool.parents_of(tx)
    spent = _resolve(tx, mempool if parents else None, about, staged or {})
    try:
        check_sequence_locks(tx, spent, about.chain, height=about.height)
    except InvalidTransaction as error:
        raise InvalidTransaction("non-BIP68-final") from error
    traits = traits_of(tx, spent, params)
    if traits & Trait.CLAIM and about.facts is not None:
        for index, (txin, coin) in enumerate(zip(tx.inputs, spent, strict=True)):
            if txin.is_pegin:
                _judge_pegin(tx, index, about, about.facts)
            else:
                check_mature(coin, about.height)
    _check_balance(tx, spent, about)
    if not params.accept_nonstandard:
        check_standard_inputs(tx, spent, params)
    entry = Entry(
        tx,
        fee_sats=fee_sats(tx, params),
        sigop_cost=spend_sigop_cost(tx, spent),
        time_s=about.now_s,
        height=about.chain.tip_height,
        traits=traits,
        params=params,
        delta_sats=mempool.deltas.get(tx.txid, 0),
    )
    check_dust_fee(dust, entry.fee_sats, entry.modified_fee_sats)
    _check_price(tx, entry, mempool, about, mode)
    candidate = Candidate(
        tx=tx, entry=entry, spent=spent, conflicts=conflicts, ancestors=(), sibling=False
    )
    if parents or traits & Trait.TRUC:
        _check_relatives(candidate, parents, mempool, mode)
    return candidate


def _check_new(tx: Transaction, mempool: Mempool) -> None:
    known = mempool.get(tx.txid)
    if known is not None:
        same = known.raw == tx.raw
        name = "txn-already-in-mempool" if same else "txn-same-nonwitness-data-in-mempool"
        raise InvalidTransaction(name)


def _find_conflicts(tx: Transaction, mempool: Mempool, mode: Mode) -> list[Entry]:
    conflicts = mempool.conflicts(tx)
    for entry in conflicts:
        if not mode.replaces:
            raise InvalidTransaction("bip125-replacement-disallowed")
        if not entry.traits & (Trait.REPLACEABLE | Trait.TRUC):
            raise InvalidTransaction("txn-mempool-conflict")
    return conflicts


def _resolve(
    tx: Transaction,
    mempool: Mempool | None,
    about: Circumstances,
    staged: Mapping[OutPoint, Coin],
) -> tuple[Coin, ...]:
    """The coin of every input, in order; for a peg-in the one it claims."""
    spent: list[Coin] = []
    for index, txin in enumerate(tx.inputs):
        if txin.is_pegin:
            spent.append(_resolve_pegin(tx, index, about))
            continue
        coin = staged.get(txin.prevout) if staged else None
        if coin is None and mempool is not None:
            coin = mempool.coin(txin.prevout, about.height)
        coin = coin or about.coins.coin(txin.prevout)
        if coin is None:
            places = (OutPoint(tx.txid, number) for number in range(len(tx.outputs)))
            if any(about.coins.coin(place) is not None for place in places):
                raise InvalidTransaction("txn-already-known")
            raise InvalidTransaction("bad-txns-inputs-missingorspent")
        spent.append(coin)
    return tuple(spent)


def _resolve_pegin(tx: Transaction, index: int, about: Circumstances) -> Coin:
    try:
        claim = _judge_pegin(tx, index, about, None)
    except InvalidTransaction as error:
        # Without witnesses Elements does not look far enough to know better.
        detail = error.detail if tx.has_witness else "no peg-in witness attached"
        raise InvalidTransaction("pegin-no-witness", detail) from error
    key: PeginKey = claim.key(tx.inputs[index].prevout)
    if about.coins.pegin_claimed(key):
        raise InvalidTransaction("pegin-already-claimed")
    return claim.coin


def _judge_pegin(
    tx: Transaction, index: int, about: Circumstances, facts: ParentFacts | None
) -> PeginClaim:
    items, prevout = tx.input_witnesses[index].pegin, tx.inputs[index].prevout
    return check_pegin(items, prevout, about.params, about.fedpegscripts, facts)


def _check_balance(tx: Transaction, spent: tuple[Coin, ...], about: Circumstances) -> None:
    try:
        run = about.validator.run
        check_inputs(tx, spent, height=about.height, params=about.params, take_proofs=run)
    except InvalidTransaction as error:
        if error.reason != UNBALANCED:
            raise
        # Elements does not say which asset or amount it is.
        raise InvalidTransaction(UNBALANCED, "value in != value out") from error


def _check_price(
    tx: Transaction, entry: Entry, mempool: Mempool, about: Circumstances, mode: Mode
) -> None:
    """Signature operations, fees, and what peg-ins must bring along."""
    params, fee = about.params, entry.modified_fee_sats
    check_sigops(entry.sigop_cost)
    if not mode.from_block:
        size = relay_size(tx, entry.vsize, params)
        needed = required_fee_sats(size, params.min_relay_fee_sats_per_kvb)
        if fee < needed and not entry.traits & Trait.TRUC:
            raise InvalidTransaction("min relay fee not met", f"{fee} < {needed}")
        if not mode.package_fees:
            check_minimum(fee, size, mempool, about)
    if entry.traits & Trait.CLAIM:
        tip = about.chain.tip_height
        check_pegin_subsidy(tx, params, tip, about.fedpegscripts, about.facts)


def check_minimum(fee: int, vsize: int, mempool: Mempool, about: Circumstances) -> None:
    """Ask for the mempool's minimum and the node's.

    Raises:
        FeeTooLow: "mempool min fee not met" or "min relay fee not met".
    """
    floor = required_fee_sats(vsize, mempool.floor_sats_per_kvb(about.now_s))
    if floor > 0 and fee < floor:
        raise FeeTooLow("mempool min fee not met", f"{fee} < {floor}")
    needed = required_fee_sats(vsize, about.params.min_relay_fee_sats_per_kvb)
    if fee < needed:
        raise FeeTooLow("min relay fee not met", f"{fee} < {needed}")


def _check_relatives(
    candidate: Candidate, parents: list[Entry], mempool: Mempool, mode: Mode
) -> None:
    """Limits of ancestors and descendants, version 3, and parents that would leave."""
    tx, vsize = candidate.tx, candidate.entry.vsize
    limits = mempool.limits
    conflicts = candidate.conflicts
    if len(conflicts) == 1 and mode.carve_outs:
        # What leaves is still counted, so one conflict is given its own room.
        limits = replace(
            limits,
            descendants=limits.descendants + 1,
            descendant_vbytes=limits.descendant_vbytes + family_total(conflicts[0]).vsize,
        )
    try:
        candidate.ancestors = find_ancestors(parents, vsize, limits)
    except ChainTooLong:
        if not mode.carve_outs or not _may_be_extra(candidate):
            raise
        candidate.ancestors = _carved_out(parents, vsize, limits)
    try:
        check_single(tx, vsize, candidate.ancestors, conflicts)
    except TrucViolation as error:
        if error.sibling is None or not mode.evicts_sibling:
            raise
        candidate.conflicts = [*conflicts, error.sibling]
        candidate.sibling = True
    for entry in sorted(candidate.ancestors, key=lambda each: each.txid):
        if entry in candidate.conflicts:
            shown, other = tx.txid[::-1].hex(), entry.txid[::-1].hex()
            raise InvalidTransaction(
                "bad-txns-spends-conflicting-tx", f"{shown} spends conflicting transaction {other}"
            )


def _may_be_extra(candidate: Candidate) -> bool:
    small = candidate.entry.vsize <= EXTRA_DESCENDANT_VBYTES
    return small and not candidate.entry.traits & Trait.TRUC


def _carved_out(parents: list[Entry], vsize: int, limits: Limits) -> set[Entry]:
    """One small child more for the second of two who share a transaction.

    Raises:
        ChainTooLong: with the words of the check before.
    """
    wider = replace(
        limits,
        ancestors=CARVE_OUT_ANCESTORS,
        descendants=limits.descendants + 1,
        descendant_vbytes=limits.descendant_vbytes + EXTRA_DESCENDANT_VBYTES,
    )
    try:
        return find_ancestors(parents, vsize, wider)
    except ChainTooLong:
        return find_ancestors(parents, vsize, limits)


def check_permissions(candidate: Candidate, about: Circumstances) -> None:
    """Run the scripts of all inputs under the mempool's flags.

    Hash type bit 0x40 has its meaning once dynamic federations are active for the next block.

    Raises:
        InvalidTransaction: "mandatory-script-verify-flag-failed (text)", or
            "non-mandatory-script-verify-flag (text)" where a block may hold it; the detail names
            the input.
    Source: elements/script.md 1.2.
    """
    flags, genesis_hash = STANDARD_FLAGS, about.params.genesis_hash
    if not dynafed_active(about.chain, about.chain.tip_height, about.params):
        flags &= ~Flags.SIGHASH_RANGEPROOF
    scripts = ScriptsCheck(candidate.tx, candidate.spent, flags, genesis_hash)
    about.validator.run((scripts,))
