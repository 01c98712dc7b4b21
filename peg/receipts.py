"""Where a burn stands, from its block to a settled payment, and why it waits.

Source: peg:12.
"""

from dataclasses import dataclass
from enum import StrEnum

from peg.batches import Idle, OpenBatch
from peg.lanes import LaneStep
from peg.limits import Burn, BurnCode, BurnStage, QueuePlace
from peg.parameters import PegParameters
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


def latest_clock(facts: BurnFacts, parameters: PegParameters, *, clock: int, now_sats: int) -> int:
    """Expected clock of the payment's confirmation, roughly.

    Args:
        clock: clock(h) now.
        now_sats: what the tightest cap lets through per clock unit.
    Returns:
        max(delay left, sum before it / cap rate) + batch_wait + D_c + one ladder step + 1 from
        now, rounded up. Source: peg:12.
    """
    place = facts.place
    delay = max(0, place.until_clock - clock) if place is not None else 0
    ahead = -(-place.ahead_sats // max(now_sats, 1)) if place is not None else 0
    rest = parameters.batch_wait + parameters.commit_depth + parameters.ladder_step + 1
    return clock + max(delay, ahead) + rest


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
