"""Where a burn stands, from its block to a settled payment, and why it waits.

Source: peg:12.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from peg.batches import Idle, OpenBatch
from peg.lanes import LaneStep, SpendKind
from peg.limits import Burn, BurnCode, BurnStage, QueuePlace
from peg.parameters import GROWTH_TENTHS, PegParameters
from peg.reserves import Halt


class BurnStatus(StrEnum):
    """States of a final burn; an ineligible one shows its code of peg:3.4 instead."""

    OK = "OK"
    DELAYED = "DELAYED"
    HELD_OVERSIZE = "HELD_OVERSIZE"
    EXCLUDED = "EXCLUDED"
    READY = "READY"
    RELEASED = "RELEASED"
    BATCHED = "BATCHED"
    CONFIRMED = "CONFIRMED"
    SETTLED = "SETTLED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """The output that pays a burn on the committed chain, or on the own best chain already.

    Attributes:
        depth: confirmations on the own best chain.
        committed: the payment is on the committed chain.
    """

    txid: bytes
    vout: int
    depth: int
    committed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BurnFacts:
    """What is known about one final burn.

    Attributes:
        place: where it is in the release schedule; None for an ineligible one.
        batch: the open batch, if it pays this burn.
        payment: the output that pays it.
        idle: why no batch is open.
        reset_pending: the committed block is off the own best chain.
        paused_until: clock until which payouts are paused; 0 while they are not.
    """

    burn: Burn
    place: QueuePlace | None
    batch: OpenBatch | None
    payment: Payment | None
    idle: Idle | None
    halts: tuple[Halt, ...]
    reset_pending: bool
    paused_until: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """A burn's status and the reasons shown with it."""

    status: str
    reasons: tuple[str, ...]


def payment_of(burn_id: bytes, steps: tuple[LaneStep, ...]) -> tuple[bytes, int] | None:
    """Transaction and output that pay a burn on the committed chain."""
    for step in steps:
        position = step.output_of(burn_id)
        if position is not None:
            return step.txid, position
    return None


def wrong_payout(step: LaneStep) -> bytes | None:
    """The id of a burn that a confirmed transaction does not pay as its receipt says (P40).

    The walk has matched them already; this looks at the outputs again, as a reader of the receipt
    would.
    """
    for burn in step.payouts:
        position = step.output_of(burn.burn_id)
        outputs = step.transaction.outputs
        if position is None or outputs[position] != (burn.payout_sats, burn.script):
            return burn.burn_id
    return None


class PayoutWatch:
    """Looks at every transaction of the walk once, however many confirm together (P40)."""

    def __init__(self) -> None:
        """Nothing was compared yet."""
        self._wrong: dict[tuple[bytes, SpendKind], bytes | None] = {}
        self._found = False

    def wrong(self, steps: Sequence[LaneStep]) -> bytes | None:
        """A burn that the chain pays otherwise than its receipt says; None when all are right."""
        for step in reversed(steps):
            key = (step.txid, step.kind)
            if key in self._wrong:
                break
            self._wrong[key] = wrong_payout(step)
            self._found = self._found or self._wrong[key] is not None
        if not self._found:
            return None
        found = (self._wrong.get((step.txid, step.kind)) for step in steps)
        return next((burn_id for burn_id in found if burn_id is not None), None)


def standing(facts: BurnFacts, parameters: PegParameters) -> Standing:
    """Status of a final burn. After a reorganisation it may go back, never to two payments."""
    if facts.burn.code is not BurnCode.OK:
        return Standing(str(facts.burn.code), ())
    payment = facts.payment
    if payment is not None and payment.depth > 0:
        settled = payment.committed and payment.depth >= parameters.pegin_depth
        status = BurnStatus.SETTLED if settled else BurnStatus.CONFIRMED
        return Standing(status, () if payment.committed else _waiting(facts))
    if facts.batch is not None:
        return Standing(BurnStatus.BATCHED, _waiting(facts))
    place = facts.place
    if place is None:
        return Standing(BurnStatus.OK, _waiting(facts))
    match place.stage:
        case BurnStage.DELAYED:
            return Standing(BurnStatus.DELAYED, (f"UNTIL({place.until_clock})",))
        case BurnStage.HELD_OVERSIZE:
            return Standing(BurnStatus.HELD_OVERSIZE, _paused(facts) if place.approved else ())
        case BurnStage.EXCLUDED:
            return Standing(BurnStatus.EXCLUDED, ())
        case BurnStage.READY:
            return Standing(BurnStatus.READY, _cap(place) + _waiting(facts))
        case BurnStage.RELEASED:
            return Standing(BurnStatus.RELEASED, _idle(facts) + _waiting(facts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Eta:
    """When a payment is likely to be on the committed chain, in clock units.

    Attributes:
        latest_clock: None where nothing bounds it: somebody has to act first.
        reasons: what it waits for.
    """

    earliest_clock: int
    latest_clock: int | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast things go now.

    Attributes:
        clock: clock(h).
        cap_sats: what the tightest cap lets through per clock unit.
        rate_sats_per_kvb: rate(h), at which a batch would begin.
        recent_rates: the committed feerates of late.
    """

    clock: int
    cap_sats: int
    rate_sats_per_kvb: int
    recent_rates: Sequence[int] = ()


def eta(facts: BurnFacts, parameters: PegParameters, pace: Pace) -> Eta | None:
    """A range for the payment of a burn; None when it is paid, or never will be.

    max(delay left, sum before it / cap rate) + batch_wait + D_c + Δ · expected versions + 1 from
    now on. The range is between no further version and as many as the ladder needs to reach the
    ninth decile of recent rates, one at least. Source: peg:12.
    """
    if facts.payment is not None or facts.burn.code is not BurnCode.OK:
        return None
    place, found = facts.place, standing(facts, parameters)
    base = max(pace.clock, facts.paused_until)
    if place is not None:
        base = max(base, place.until_clock, place.cap_free_at or 0)
        base = max(base, pace.clock + -(-place.ahead_sats // max(pace.cap_sats, 1)))
    steps = expected_versions(pace.rate_sats_per_kvb, pace.recent_rates)
    wait = 0 if facts.batch is not None else parameters.batch_wait
    earliest = base + parameters.commit_depth + 1
    latest = earliest + wait + parameters.ladder_step * max(1, steps)
    stuck = _needs_somebody(facts, found.status)
    return Eta(
        earliest_clock=earliest,
        latest_clock=None if stuck else latest,
        reasons=found.reasons or (found.status,),
    )


def expected_versions(rate_sats_per_kvb: int, recent: Sequence[int]) -> int:
    """Steps of the ladder from a rate up to the ninth decile of others (P17)."""
    if not recent:
        return 0
    goal = sorted(recent)[(9 * len(recent) - 1) // 10]
    rate, steps = max(rate_sats_per_kvb, 1), 0
    while rate < goal:
        rate, steps = -(-rate * GROWTH_TENTHS // 10), steps + 1
    return steps


def _needs_somebody(facts: BurnFacts, status: str) -> bool:
    """Whether time alone does not bring the payment."""
    place = facts.place
    if place is not None and status in (BurnStatus.HELD_OVERSIZE, BurnStatus.EXCLUDED):
        return not place.approved
    unknown_cap = place is not None and place.cap_window is not None and place.cap_free_at is None
    is_idle = status == BurnStatus.RELEASED and bool(_idle(facts))
    return bool(facts.halts) or facts.reset_pending or unknown_cap or is_idle


def _cap(place: QueuePlace) -> tuple[str, ...]:
    if place.cap_window is None:
        return ()
    free_at = "unknown" if place.cap_free_at is None else str(place.cap_free_at)
    return (f"CAP({place.cap_window}, {free_at})",)


def _idle(facts: BurnFacts) -> tuple[str, ...]:
    if facts.idle in (Idle.FEE_POOL_LOW, Idle.INSOLVENT):
        return (str(facts.idle),)
    return ()


def _paused(facts: BurnFacts) -> tuple[str, ...]:
    return (f"PAUSED({facts.paused_until})",) if facts.paused_until else ()


def _waiting(facts: BurnFacts) -> tuple[str, ...]:
    """Reasons that stop more than one burn."""
    reasons: list[str] = [*_paused(facts), *(f"HALTED({halt})" for halt in facts.halts)]
    if facts.reset_pending:
        reasons.append("RESET_PENDING")
    if not reasons:
        reasons.append("WAIT_COMMIT")
    return tuple(reasons)
