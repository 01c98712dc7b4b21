"""The open batch: which coins and burns it takes, its fee ladder, its bytes.

Everything is a function of the final sidechain and the committed Bitcoin chain, so equal views
give the same unsigned transaction on every member. Inputs, payouts and h_sel never change between
versions of a batch; only the value of output 0 does.

Two rules hold by construction: inputs are coins(h), never an unconfirmed output (P15), and the fee
touches output 0 alone (P19). The next batch opens only on an anchor of the committed chain (P36).

Source: peg:3.8, peg:P11-P26, peg:P36, N11, N20.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from peg.fedscript import FedScript, coin_script
from peg.lanes import (
    BATCH_SEQUENCE,
    BATCH_VERSION,
    LaneState,
    Marker,
    batch_digest,
    encode_unsigned,
    worst_vsize,
)
from peg.limits import Burn
from peg.parameters import GROWTH_TENTHS, PegParameters
from sidechain.crypto.hashes import sha256d
from sidechain.primitives.encoding import le32, le64, vec
from sidechain.primitives.transaction import OutPoint

SIGHASH_ALL = 1
CONSOLIDATE_RATE_FACTOR = 10


class CoinKind(StrEnum):
    """Why an output is a coin of the federation."""

    ANCHOR = "anchor"
    DEPOSIT = "deposit"
    DONATION = "donation"


class SpentCoin(Protocol):
    """What a signature on an input commits to."""

    @property
    def outpoint(self) -> OutPoint:
        """The output that is spent."""
        ...

    @property
    def value_sats(self) -> int:
        """Its value."""
        ...

    @property
    def claim_script(self) -> bytes | None:
        """What tweaks its script; None for FED outputs."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FedCoin:
    """A coin the federation may spend.

    Attributes:
        height: Bitcoin height of its transaction.
        claim_script: what tweaks its script; None for FED outputs.
        csv: relative lock of the emergency branch, from its own script.
    """

    outpoint: OutPoint
    value_sats: int
    height: int
    kind: CoinKind
    claim_script: bytes | None
    csv: int

    def blocks_left(self, tip_height: int) -> int:
        """Blocks until emergency holders can spend it; age counts its own block."""
        return self.csv - (tip_height - self.height + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchView:
    """What selection and ladder see at one sidechain height.

    Attributes:
        height: h.
        clock: clock(h).
        committed_height: c(h).
        rate_sats_per_kvb: rate(h).
        coins: coins(h) with the anchor, any order.
        queue: queue(h, paid), in release order.
        oldest_release_clock: clock at which the queue's head was released; 0 without one.
        halted: only empty batches may be selected (P12, N11, X6).
        pool_sats: pool at B(h).
        cancelled: the open batch that a CANCEL of this block names (P21).
    """

    height: int
    clock: int
    committed_height: int
    rate_sats_per_kvb: int
    lane: LaneState
    coins: tuple[FedCoin, ...]
    queue: tuple[Burn, ...]
    oldest_release_clock: int
    halted: bool
    pool_sats: int
    cancelled: "OpenBatch | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchVersion:
    """One rung of the ladder: v, the height h_v it exists from, its fee, and what of the fee the
    pool could not pay (P24)."""

    version: int
    height: int
    fee_sats: int
    forced_sats: int
    txid: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBatch:
    """The lane's open batch.

    Attributes:
        index: i.
        clock_sel: clock(h_sel).
        inputs: the anchor, then the others in the order of selection.
        payouts: burns it pays, queue order.
        vsize: with the largest possible signatures.
        versions: rungs that exist, lowest fee first.
        next_step: the v to be tried next.
        cancels: a CANCEL made this selection: it may force its fee (P24).
        fee_min_sats: where its ladder starts at least, to replace what was cancelled (P20).
    """

    lane: int
    index: int
    h_sel: int
    clock_sel: int
    inputs: tuple[FedCoin, ...]
    payouts: tuple[Burn, ...]
    marker: Marker
    fed_program: bytes
    vsize: int
    versions: tuple[BatchVersion, ...] = ()
    next_step: int = 0
    cancels: bool = False
    fee_min_sats: int = 0

    @property
    def anchor(self) -> OutPoint:
        """a_i, the outpoint at input 0."""
        return self.inputs[0].outpoint

    @property
    def input_sats(self) -> int:
        """Sum of the inputs."""
        return sum(coin.value_sats for coin in self.inputs)

    @property
    def payout_sats(self) -> int:
        """Sum of the payouts."""
        return sum(burn.payout_sats for burn in self.payouts)

    def outputs(self, fee_sats: int) -> tuple[tuple[int, bytes], ...]:
        """All outputs at a fee, as (satoshis, script); output 0 alone bears the fee (P19)."""
        change_sats = self.input_sats - self.payout_sats - fee_sats
        paid = tuple((burn.payout_sats, burn.script) for burn in self.payouts)
        return ((change_sats, self.fed_program), (0, self.marker.script()), *paid)

    def unsigned(self, fee_sats: int) -> bytes:
        """The transaction without witness at a fee."""
        return encode_unsigned([coin.outpoint for coin in self.inputs], self.outputs(fee_sats))


class Idle(StrEnum):
    """Why no batch is open."""

    NO_LANE = "NO_LANE"
    NO_TRIGGER = "NO_TRIGGER"
    FEE_POOL_LOW = "FEE_POOL_LOW"
    INSOLVENT = "INSOLVENT"


@dataclass(frozen=True, slots=True)
class _Triggers:
    payouts: bool
    expiry: bool
    consolidation: bool


def next_fee(last_sats: int, vsize: int) -> int:
    """The least fee of the version after one with this fee, which Bitcoin takes in its place."""
    return max(-(-GROWTH_TENTHS * last_sats // 10), last_sats + vsize)


def fee_at(rate_sats_per_kvb: int, vsize: int) -> int:
    """Fee in satoshis, rounded up. Source: N20."""
    return -(-rate_sats_per_kvb * vsize // 1000)


def select_batch(
    view: BatchView, parameters: PegParameters, script: FedScript, genesis: bytes
) -> OpenBatch | Idle:
    """Try to open a batch at this height (P11-P16).

    Args:
        script: the federation's plain fedpegscript.
        genesis: sidechain genesis hash.
    Returns:
        The batch without any version yet, or why none opens.
    """
    selector = _Selector(view, parameters, script)
    if selector.anchor is None or view.lane.broken_by is not None:
        return Idle.NO_LANE
    if view.cancelled is not None:
        return _cancelling(view, view.cancelled, selector, parameters, script, genesis)
    triggers = selector.triggers()
    if not (triggers.payouts or triggers.expiry or triggers.consolidation):
        return Idle.NO_TRIGGER
    chosen = selector.choose(triggers)
    if isinstance(chosen, Idle):
        return chosen
    inputs, payouts = chosen
    batch = _batch(view, script, genesis, inputs, payouts)
    affordable = _budget(batch, view, parameters)[1]
    if affordable < fee_at(parameters.rate_floor_sats_per_kvb, batch.vsize):
        return Idle.FEE_POOL_LOW
    # An empty batch has no reserve of P13. Without room for the fee of today it would be open
    # and unsigned, and keep the coin out that could unblock it.
    room_sats = batch.input_sats - batch.payout_sats - parameters.anchor_min_sats
    if not payouts and room_sats < fee_at(view.rate_sats_per_kvb, batch.vsize):
        return Idle.FEE_POOL_LOW
    return batch


def climb(batch: OpenBatch, view: BatchView, parameters: PegParameters) -> OpenBatch:
    """Add the versions that exist from this height on (P17, P18); call at every height once.

    A step that the budget does not allow is skipped, the next one is tried when its clock comes.
    """
    while view.clock >= batch.clock_sel + batch.next_step * parameters.ladder_step:
        version = _rung(batch, view, parameters)
        versions = batch.versions if version is None else (*batch.versions, version)
        batch = replace(batch, versions=versions, next_step=batch.next_step + 1)
    return batch


def keeps_open(batch: OpenBatch, lane: LaneState, coins: Sequence[FedCoin]) -> bool:
    """Whether an open batch stays open: same anchor, and every input is still a coin."""
    present = {coin.outpoint for coin in coins}
    same_anchor = batch.anchor == lane.anchor and lane.broken_by is None
    return same_anchor and all(coin.outpoint in present for coin in batch.inputs)


def input_digests(
    inputs: Sequence[SpentCoin], outputs: Sequence[tuple[int, bytes]], script: FedScript
) -> tuple[bytes, ...]:
    """BIP143 digests (SIGHASH_ALL) of a transaction in batch form, in input order.

    Args:
        outputs: (satoshis, script).
        script: the federation's plain fedpegscript.
    """
    prevouts = sha256d(b"".join(coin.outpoint.serialize() for coin in inputs))
    sequences = sha256d(le32(BATCH_SEQUENCE) * len(inputs))
    paid = sha256d(b"".join(le64(value) + vec(program) for value, program in outputs))
    head = le32(BATCH_VERSION) + prevouts + sequences
    tail = le32(BATCH_SEQUENCE) + paid + le32(0) + le32(SIGHASH_ALL)
    return tuple(
        sha256d(
            head
            + coin.outpoint.serialize()
            + vec(coin_script(script, coin.claim_script).script)
            + le64(coin.value_sats)
            + tail
        )
        for coin in inputs
    )


class _Selector:
    """P11 to P14 for one view."""

    def __init__(self, view: BatchView, parameters: PegParameters, script: FedScript) -> None:
        self._view = view
        self._p = parameters
        self._witness_bytes = script.witness_worst_bytes
        self._queue = () if view.halted or view.cancelled is not None else view.queue
        anchors = [c for c in view.coins if c.outpoint == view.lane.anchor]
        self.anchor = anchors[0] if anchors else None
        self._others = [c for c in view.coins if c.outpoint != view.lane.anchor]

    def triggers(self) -> _Triggers:
        """P11; with a halt in force only expiry counts (P12)."""
        view, p = self._view, self._p
        waited = view.clock - view.oldest_release_clock >= p.batch_wait
        ready = len(self._queue) >= p.batch_target or waited
        cheap = view.rate_sats_per_kvb <= CONSOLIDATE_RATE_FACTOR * p.rate_floor_sats_per_kvb
        many = len(self._others) >= p.consolidate_at
        return _Triggers(
            payouts=bool(self._queue) and ready,
            expiry=any(self._expires(coin) for coin in view.coins),
            consolidation=many and cheap and not view.halted,
        )

    def choose(self, triggers: _Triggers) -> tuple[list[FedCoin], tuple[Burn, ...]] | Idle:
        """Inputs and payouts, or why nothing can be chosen (P13, P14)."""
        base, extra = self._ordered()
        # With an open trigger of any kind the queue is served: an expiry batch pays too.
        added, count = self._most_payouts(base, extra)
        if count:
            inputs = base + extra[:added]
            payouts = self._queue[:count]
            if triggers.consolidation:
                inputs = self._fill(inputs, extra[added:], payouts)
            return inputs, payouts
        shortage = self._shortage()
        if self._queue and shortage is None:
            # Enough in total, but too many small coins: merge the largest and try again.
            return self._fill(base, extra, ()), ()
        if triggers.consolidation and shortage is None:
            return self._fill(base, extra, ()), ()
        if triggers.expiry:
            return self.empty(), ()
        return shortage or Idle.NO_TRIGGER

    def empty(self) -> list[FedCoin]:
        """Inputs of a batch that pays nothing: what expires, and enough for its fee (P23)."""
        return self._with_reserve(*self._ordered())

    def _ordered(self) -> tuple[list[FedCoin], list[FedCoin]]:
        """Inputs that must be taken, and the rest in the order of P14."""
        expiring = [coin for coin in self._others if self._expires(coin)]
        expiring.sort(key=lambda coin: (coin.height, coin.outpoint.serialize()))
        rest = [coin for coin in self._others if not self._expires(coin)]
        rest.sort(key=lambda coin: (-coin.value_sats, coin.outpoint.serialize()))
        anchor = [self.anchor] if self.anchor is not None else []
        base = self._fill(anchor, expiring, ())
        return base, rest

    def _most_payouts(self, base: list[FedCoin], extra: list[FedCoin]) -> tuple[int, int]:
        """Fewest extra coins that pay the longest prefix of the queue, and its length."""
        best = (0, 0)
        wanted = min(len(self._queue), self._p.max_payouts)
        for added in range(len(extra) + 1):
            inputs = base + extra[:added]
            if self._vsize(inputs, self._queue[:1]) > self._p.max_vsize:
                break
            count = self._payable(inputs, wanted)
            if count > best[1]:
                best = (added, count)
            if count == wanted:
                break
        return best

    def _payable(self, inputs: list[FedCoin], wanted: int) -> int:
        """Longest prefix that fits money and size of these inputs (P13)."""
        room_sats = sum(coin.value_sats for coin in inputs)
        room_sats -= self._p.fee_cap_sats + self._p.anchor_min_sats
        count = 0
        for burn in self._queue[:wanted]:
            room_sats -= burn.payout_sats
            too_large = self._vsize(inputs, self._queue[: count + 1]) > self._p.max_vsize
            if room_sats < 0 or too_large:
                break
            count += 1
        return count

    def _shortage(self) -> Idle | None:
        """What is missing to pay the head with all coins there are."""
        if not self._queue:
            return None
        total_sats = sum(coin.value_sats for coin in self._view.coins)
        need_sats = self._queue[0].payout_sats + self._p.anchor_min_sats
        if total_sats < need_sats:
            return Idle.INSOLVENT
        return Idle.FEE_POOL_LOW if total_sats < need_sats + self._p.fee_cap_sats else None

    def _with_reserve(self, base: list[FedCoin], extra: list[FedCoin]) -> list[FedCoin]:
        """An empty batch's inputs: as few more as its fee and anchor may need."""
        need_sats = self._p.fee_cap_sats + self._p.anchor_min_sats
        inputs = list(base)
        for coin in extra:
            if sum(c.value_sats for c in inputs) >= need_sats:
                break
            inputs = self._fill(inputs, [coin], ())
        return inputs

    def _fill(
        self, inputs: Sequence[FedCoin], more: Sequence[FedCoin], payouts: Sequence[Burn]
    ) -> list[FedCoin]:
        filled = list(inputs)
        for coin in more:
            if self._vsize([*filled, coin], payouts) > self._p.max_vsize:
                break
            filled.append(coin)
        return filled

    def _expires(self, coin: FedCoin) -> bool:
        return coin.blocks_left(self._view.committed_height) <= self._p.sweep_window

    def _vsize(self, inputs: Sequence[FedCoin], payouts: Sequence[Burn]) -> int:
        return _batch_vsize(len(inputs), payouts, self._witness_bytes)


def _batch_vsize(inputs: int, payouts: Sequence[Burn], witness_bytes: int) -> int:
    # Output 0 pays a P2WSH (43 bytes), output 1 is the marker (8 + 1 + 42 bytes).
    output_bytes = 43 + 51 + sum(9 + len(burn.script) for burn in payouts)
    return worst_vsize([witness_bytes] * inputs, output_bytes, 2 + len(payouts))


def _batch(
    view: BatchView,
    script: FedScript,
    genesis: bytes,
    inputs: Sequence[FedCoin],
    payouts: tuple[Burn, ...],
) -> OpenBatch:
    lane = view.lane
    digest = batch_digest(
        genesis,
        lane=lane.lane,
        index=lane.index,
        anchor=lane.anchor,
        h_sel=view.height,
        burn_ids=[burn.burn_id for burn in payouts],
    )
    return OpenBatch(
        lane=lane.lane,
        index=lane.index,
        h_sel=view.height,
        clock_sel=view.clock,
        inputs=tuple(inputs),
        payouts=payouts,
        marker=Marker(lane=lane.lane, count=len(payouts), h_sel=view.height, digest=digest),
        fed_program=script.program,
        vsize=_batch_vsize(len(inputs), payouts, script.witness_worst_bytes),
    )


def _cancelling(
    view: BatchView,
    cancelled: OpenBatch,
    selector: _Selector,
    parameters: PegParameters,
    script: FedScript,
    genesis: bytes,
) -> OpenBatch | Idle:
    """The empty batch on the same anchor that recalls unconfirmed payouts (P20, P21).

    It starts above the last fee of what it replaces, but never where no rung could be: at fee_cap
    it waits until nodes have dropped the other one.
    """
    batch = _batch(view, script, genesis, selector.empty(), ())
    room_sats = batch.input_sats - parameters.anchor_min_sats
    if room_sats < fee_at(view.rate_sats_per_kvb, batch.vsize):
        return Idle.FEE_POOL_LOW
    last_sats = cancelled.versions[-1].fee_sats if cancelled.versions else 0
    least_sats = max(cancelled.fee_min_sats, last_sats + batch.vsize if last_sats else 0)
    return replace(batch, cancels=True, fee_min_sats=min(least_sats, parameters.fee_cap_sats))


def _rung(batch: OpenBatch, view: BatchView, parameters: PegParameters) -> BatchVersion | None:
    """The version of the next step at this height, or None when the step is skipped."""
    fee_sats = max(fee_at(view.rate_sats_per_kvb, batch.vsize), batch.fee_min_sats)
    if batch.versions:
        fee_sats = max(fee_sats, next_fee(batch.versions[-1].fee_sats, batch.vsize))
    own_sats, affordable_sats = _budget(batch, view, parameters)
    change_sats = batch.input_sats - batch.payout_sats - fee_sats
    if fee_sats > affordable_sats or change_sats < parameters.anchor_min_sats:
        return None
    return BatchVersion(
        version=batch.next_step,
        height=view.height,
        fee_sats=fee_sats,
        forced_sats=max(0, fee_sats - max(own_sats, 0)),
        txid=sha256d(batch.unsigned(fee_sats)),
    )


def _budget(batch: OpenBatch, view: BatchView, parameters: PegParameters) -> tuple[int, int]:
    """What the pool pays for, and the most the batch may spend, at this height (P18, P24)."""
    own_sats = view.pool_sats + sum(burn.fee_sats for burn in batch.payouts)
    affordable_sats = min(parameters.fee_cap_sats, own_sats)
    expires = any(
        coin.blocks_left(view.committed_height) <= parameters.sweep_window for coin in batch.inputs
    )
    if expires or batch.cancels:
        # Losing the coin costs more than a pool below zero (P24).
        forced_sats = max(own_sats, 0) + 2 * fee_at(view.rate_sats_per_kvb, batch.vsize)
        affordable_sats = min(parameters.fee_cap_sats, forced_sats)
    return own_sats, affordable_sats
