"""The most that can be lost on the worst day, computed from the parameters.

Whatever a bug of the sidechain mints, what is *released* for payment in any W_j consecutive clock
units is at most cap_j. In T clock units there are at most ceil(T / W_j) such windows, so at most
ceil(T / W_j) * cap_j leaves, and the tightest cap decides. A PAUSE by one member ends it; what was
released and is not confirmed yet can be recalled by CANCEL. RELEASE records of k operators are the
one exception, and the federation cannot lose more than it holds.

Source: peg:7.1, peg:7.2, peg:7.3, goal G4.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from peg.parameters import BASIS_POINTS, PegParameters

DAY_CLOCK_UNITS = 144
"""Bitcoin blocks of a day."""


@dataclass(frozen=True, slots=True)
class CapNow:
    """One velocity limit with the value it has now."""

    window: int
    abs_sats: int
    pct_bp: int
    cap_sats: int


@dataclass(frozen=True, slots=True)
class Within:
    """The most that can be released in any stretch of that many clock units."""

    clock_units: int
    loss_sats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """All bounds at one point.

    Attributes:
        outstanding_sats: claimed deposits less burned fees and releases, what percentages are of.
        reserve_sats: what the federation holds; None when unknown.
        unpaid_sats: released and not paid yet, recallable by CANCEL and EXCLUDE.
        paused_bp: share of the time that f_s lying members can pause, basis points.
        fees_sats: the most that Bitcoin fees of one batch can take.
    """

    caps: tuple[CapNow, ...]
    within: tuple[Within, ...]
    payout_cap_sats: int
    large_sats: int
    large_delay: int
    outstanding_sats: int
    reserve_sats: int | None
    unpaid_sats: int
    paused_bp: int
    fees_sats: int


def loss_bounds(
    parameters: PegParameters,
    *,
    outstanding_sats: int = 0,
    reserve_sats: int | None = None,
    unpaid_sats: int = 0,
    clock_units: Sequence[int] = (),
) -> Bounds:
    """Compute the bounds.

    Args:
        outstanding_sats: claimed deposits less burned fees and releases; 0 leaves abs_j alone.
        clock_units: stretches to say it for, besides every window, a day and a week.
    """
    caps = tuple(
        CapNow(
            cap.window,
            cap.abs_sats,
            cap.pct_bp,
            max(cap.abs_sats, max(outstanding_sats, 0) * cap.pct_bp // BASIS_POINTS),
        )
        for cap in parameters.caps
    )
    windows = {cap.window for cap in caps if cap.window > 0}
    stretches = {1, DAY_CLOCK_UNITS, 7 * DAY_CLOCK_UNITS, *windows, *clock_units}
    liars = max(parameters.byzantine_tolerated, 0)
    paused = liars * parameters.pause_max * BASIS_POINTS // max(parameters.pause_every, 1)
    return Bounds(
        caps=caps,
        within=tuple(Within(t, released_most(caps, t)) for t in sorted(stretches)),
        payout_cap_sats=parameters.payout_cap_sats,
        large_sats=parameters.large_sats,
        large_delay=parameters.large_delay,
        outstanding_sats=outstanding_sats,
        reserve_sats=reserve_sats,
        unpaid_sats=unpaid_sats,
        paused_bp=min(paused, BASIS_POINTS),
        fees_sats=parameters.fee_cap_sats,
    )


def released_most(caps: Sequence[CapNow], clock_units: int) -> int:
    """The most that can be released in that many consecutive clock units."""
    return min(-(-clock_units // max(cap.window, 1)) * cap.cap_sats for cap in caps)


def bounds_json(bounds: Bounds) -> dict[str, object]:
    """By name, satoshis and clock units."""
    return {
        "caps": [
            {
                "window": cap.window,
                "abs_sats": cap.abs_sats,
                "pct_bp": cap.pct_bp,
                "cap_sats": cap.cap_sats,
            }
            for cap in bounds.caps
        ],
        "within": [
            {"clock_units": each.clock_units, "loss_sats": each.loss_sats} for each in bounds.within
        ],
        "payout_cap_sats": bounds.payout_cap_sats,
        "large_sats": bounds.large_sats,
        "large_delay": bounds.large_delay,
        "outstanding_sats": bounds.outstanding_sats,
        "reserve_sats": bounds.reserve_sats,
        "released_unpaid_sats": bounds.unpaid_sats,
        "liars_pause_bp": bounds.paused_bp,
        "batch_fee_max_sats": bounds.fees_sats,
    }
