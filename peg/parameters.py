"""The peg's parameters, their presets, and the checks that refuse a set that cannot work.

Depths and windows are Bitcoin blocks ("clock units" count committed Bitcoin blocks), amounts are
satoshis, fee rates satoshis per 1,000 virtual bytes. Values marked G are the initial ones: PARAM
records may change them (`peg.param_changes`).

Source: peg:2, N3, N20, N21.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

from peg.fedscript import FedScript, worst_witness_bytes
from sidechain.errors import Invalid, InvalidEncoding

PEGOUT_COUNT_MAX = 255
RETURN_FEE_MAX_SATS = 5_000_000
"""The largest fee_cap of a preset: a deposit may not be burned away as its own fee."""
LARGEST_DUST_SATS = 546
SMALLEST_ANCHOR_SATS = 330
DEFAULT_PIN_SATS = 101_000
WITNESS_MAX_BYTES = 1_650
MEMBERS_MAX = 15
PAYOUT_OUTPUT_VSIZE = 43
GROWTH_TENTHS = 13
"""g, the factor between two versions of a batch, in tenths."""
BASIS_POINTS = 10_000


class InsaneParameters(Invalid):
    """A parameter set breaks a sanity rule; `reason` is the rule id, such as "S1"."""


@dataclass(frozen=True, slots=True)
class WindowCap:
    """One velocity limit: how much may be released within a window.

    Attributes:
        window: W_j, clock units, fixed.
        abs_sats: abs_j, allowed whatever circulates (G).
        pct_bp: pct_j, part of what circulates, basis points (G).
    """

    window: int
    abs_sats: int
    pct_bp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PegParameters:
    """All values of peg-protocol section 2; see there for their meaning.

    Attributes:
        commit_depth: D_c.
        commit_depth_margin: D_c_margin.
        freshness: F_fresh.
        reset_depth: D_reset.
        reset_manual: reset_policy is manual: the operator approves each RESET.
        pegin_depth: D_p.
        anchor_depth: D_a.
        csv: relative lock of the emergency branch; coins are judged by their own scripts.
        sweep_window: W_sweep.
        ladder_step: Δ.
        caps: the velocity limits (W_j; abs_j; pct_j), shortest window first.
    """

    n: int
    k: int
    commit_depth: int
    commit_depth_margin: int
    freshness: int
    reset_depth: int
    reset_manual: bool
    pegin_depth: int
    anchor_depth: int
    csv: int
    sweep_window: int
    csv_stop: int
    lanes: int
    ladder_step: int
    rate_floor_sats_per_kvb: int
    rate_cap_sats_per_kvb: int
    fee_cap_sats: int
    peg_out_fee_sats: int
    min_pegout_sats: int
    min_pegin_sats: int
    payout_cap_sats: int
    caps: tuple[WindowCap, ...]
    large_sats: int
    large_delay: int
    batch_wait: int
    batch_target: int
    max_payouts: int
    max_vsize: int
    anchor_min_sats: int
    consolidate_at: int
    pause_max: int
    pause_every: int

    @property
    def byzantine_tolerated(self) -> int:
        """f_s = 2k - n - 1, the number of lying members block safety tolerates."""
        return 2 * self.k - self.n - 1

    def to_json(self) -> dict[str, Any]:
        """Integers and lists only, as the `params` of the federation file carry them (N2)."""
        plain: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "caps":
                value = [[cap.window, cap.abs_sats, cap.pct_bp] for cap in value]
            plain[item.name] = int(value) if isinstance(value, bool) else value
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "PegParameters":
        """Inverse of `to_json`.

        Raises:
            InvalidEncoding: a field is missing, unknown, or not a non-negative integer.
        """
        names = {item.name for item in fields(cls)}
        if set(plain) != names:
            raise InvalidEncoding("peg parameters", f"fields {sorted(set(plain) ^ names)}")
        values: dict[str, Any] = {}
        for name, value in plain.items():
            if name == "caps":
                values[name] = tuple(_cap(item) for item in value)
                continue
            _check_integer(name, value)
            values[name] = value
        values["reset_manual"] = bool(values["reset_manual"])
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainFacts:
    """What S10 and S11 ask of the sidechain's own parameters."""

    mandatory_coinbase: bytes
    fee_asset_set: bool
    fedpeg_program: bytes


_BTC = 100_000_000

LOCAL = PegParameters(
    n=4,
    k=3,
    commit_depth=2,
    commit_depth_margin=0,
    freshness=3,
    reset_depth=4,
    reset_manual=False,
    pegin_depth=6,
    anchor_depth=6,
    csv=288,
    sweep_window=72,
    csv_stop=24,
    lanes=1,
    ladder_step=2,
    rate_floor_sats_per_kvb=1_000,
    rate_cap_sats_per_kvb=200_000,
    fee_cap_sats=500_000,
    peg_out_fee_sats=2_500,
    min_pegout_sats=20_000,
    min_pegin_sats=20_000,
    payout_cap_sats=_BTC,
    caps=(WindowCap(6, 2 * _BTC, 10_000), WindowCap(24, 5 * _BTC, 10_000)),
    large_sats=_BTC // 4,
    large_delay=3,
    batch_wait=1,
    batch_target=1,
    max_payouts=100,
    max_vsize=9_500,
    anchor_min_sats=50_000,
    consolidate_at=10,
    pause_max=24,
    pause_every=100,
)
"""Values for a local federation on regtest, four members."""

PRODUCTION = PegParameters(
    n=15,
    k=11,
    commit_depth=6,
    commit_depth_margin=1,
    freshness=3,
    reset_depth=12,
    reset_manual=True,
    pegin_depth=100,
    anchor_depth=100,
    csv=4_032,
    sweep_window=1_008,
    csv_stop=144,
    lanes=1,
    ladder_step=3,
    rate_floor_sats_per_kvb=2_000,
    rate_cap_sats_per_kvb=500_000,
    fee_cap_sats=5_000_000,
    peg_out_fee_sats=10_000,
    min_pegout_sats=100_000,
    min_pegin_sats=100_000,
    payout_cap_sats=10 * _BTC,
    caps=(WindowCap(6, 20 * _BTC, 200), WindowCap(144, 100 * _BTC, 1_000)),
    large_sats=_BTC,
    large_delay=36,
    batch_wait=3,
    batch_target=50,
    max_payouts=100,
    max_vsize=9_500,
    anchor_min_sats=250_000,
    consolidate_at=30,
    pause_max=144,
    pause_every=2_016,
)
"""Values meant for a federation of fifteen on separate hosts."""


def for_members(preset: PegParameters, n: int, k: int) -> PegParameters:
    """A preset for another number of members.

    Larger scripts make inputs larger, so the values that S5 and S13 tie to the input size grow
    where they must; all others stay.
    """
    vsize = input_worst_vsize(k, script_bytes(n, preset.csv))
    anchor_min = max(preset.anchor_min_sats, _round_up(_s5_floor(preset, vsize), 10_000))
    fee = max(preset.peg_out_fee_sats, _round_up(_s13_floor(vsize), 500))
    return replace(preset, n=n, k=k, anchor_min_sats=anchor_min, peg_out_fee_sats=fee)


def script_bytes(n: int, csv: int) -> int:
    """Length of the fedpegscript of n members: see peg:3.1."""
    number_bytes = 1 if csv <= 16 else 2 + (csv.bit_length() // 8)
    return 1 + 34 * n + 2 + 2 + number_bytes + 2 + 1 + 34 * 3 + 3


def input_worst_vsize(k: int, script_size_bytes: int) -> int:
    """Virtual bytes of one federation input with the largest witness, rounded up."""
    return -(-(4 * 41 + worst_witness_bytes(k, script_size_bytes)) // 4)


def check_parameters(
    parameters: PegParameters,
    *,
    script: FedScript,
    chain: ChainFacts,
    allow_no_byzantine_safety: bool = False,
) -> None:
    """Refuse a parameter set that cannot work.

    Args:
        script: the federation's plain fedpegscript.
        chain: what the sidechain's own parameters say.
        allow_no_byzantine_safety: accept 2k - n - 1 < 1.
    Raises:
        InsaneParameters: with the id of the first rule that fails.
    Source: peg:S1-S8, S10-S13, N3.
    """
    _check_federation(parameters, script, allow_no_byzantine_safety)
    check_values(parameters, script)
    _require("S8", script.witness_worst_bytes <= WITNESS_MAX_BYTES, "input witness too large")
    _require("S8", parameters.n <= MEMBERS_MAX, "more than 15 members")
    _require("S10", chain.mandatory_coinbase == b"\x6a", "con_mandatorycoinbase must be 6a")
    _require("S10", not chain.fee_asset_set, "feeasset must not be set")
    check_fedpeg_program(chain.fedpeg_program)


def check_values(parameters: PegParameters, script: FedScript) -> None:
    """The rules that tie depths, windows and amounts together; also for every PARAM record.

    Args:
        script: the federation's plain fedpegscript.
    Raises:
        InsaneParameters: with the id of the first rule that fails.
    Source: peg:S1-S7, peg:S9, peg:S12, peg:S13.
    """
    _check_depths(parameters)
    _check_amounts(parameters, script.input_worst_vsize)
    _require("S9", coin_count_max(parameters, script) >= 1, "coins cannot be swept in time")
    # At zero an empty batch of the anchor alone would be due at once, again and again (P11).
    _require("P11", parameters.consolidate_at >= 1, "consolidate_at below 1")


def check_fedpeg_program(program: bytes) -> None:
    """Refuse a fedpeg program that lets any Bitcoin output be claimed.

    Raises:
        InsaneParameters: S11, not P2SH and not a version 0 witness program.
    Source: peg:S11, elements/peg.md 3.1 step 6.
    """
    is_p2sh = len(program) == 23 and program[:2] == b"\xa9\x14" and program[-1] == 0x87
    is_version_0 = len(program) in (22, 34) and program[:1] == b"\x00"
    _require("S11", is_p2sh or is_version_0, "fedpeg program is not of version 0")


def coin_count_max(parameters: PegParameters, script: FedScript) -> int:
    """S9: most federation coins that can still be swept in time (alarm at half of this)."""
    inputs = (parameters.max_vsize - 200) // script.input_worst_vsize
    return parameters.sweep_window * inputs // (2 * (parameters.commit_depth + 2))


def break_even_rate_sats_per_kvb(parameters: PegParameters, script: FedScript) -> int:
    """S13: the fee rate at which one deposit and one peg-out cost the pool what it earns."""
    return parameters.peg_out_fee_sats * 1000 // (script.input_worst_vsize + PAYOUT_OUTPUT_VSIZE)


def _check_federation(parameters: PegParameters, script: FedScript, allow: bool) -> None:
    p = parameters
    _require("N3", 1 <= p.k <= p.n, "k out of range")
    _require("N3", allow or p.byzantine_tolerated >= 1, "no lying member is tolerated")
    same = (script.k, len(script.keys), script.csv) == (p.k, p.n, p.csv)
    _require("S1", same, "k, n or csv differ from the fedpegscript's own")
    _require("L1", p.lanes == 1, "lanes must be 1 in this version")


def _check_depths(p: PegParameters) -> None:
    need = 2 * p.sweep_window + p.pegin_depth + p.commit_depth
    _require("S1", p.csv < 65_536 and p.csv >= need, f"csv must be {need} to 65535")
    least = 4 * (p.commit_depth + 6 * p.ladder_step)
    _require("S1", p.sweep_window >= least, f"sweep window below {least}")
    _require("S1", 3 * p.csv_stop <= p.sweep_window, "csv_stop above a third of the window")
    _require("S2", all(p.payout_cap_sats <= c.abs_sats for c in p.caps), "payout cap above abs_j")
    _require("S3", bool(p.caps) and p.caps[0].window >= p.commit_depth, "W_1 below D_c")
    _require("S3", p.large_delay >= p.commit_depth, "large_delay below D_c")
    _require("S6", p.commit_depth >= 1, "D_c below 1")
    ordered = p.commit_depth < p.reset_depth <= p.pegin_depth <= p.anchor_depth
    _require("S6", ordered, "D_c < D_reset <= D_p <= D_a does not hold")


def _check_amounts(p: PegParameters, input_vsize: int) -> None:
    _require("S4", 1 <= p.max_payouts <= PEGOUT_COUNT_MAX, "max_payouts out of range")
    smallest = p.min_pegout_sats - p.peg_out_fee_sats
    _require("S4", smallest >= 5 * LARGEST_DUST_SATS, "smallest payout too near dust")
    _require("S5", p.anchor_min_sats >= SMALLEST_ANCHOR_SATS, "anchor_min below dust")
    _require("S5", p.anchor_min_sats >= _s5_floor(p, input_vsize), "anchor_min below one input")
    _require("S7", p.fee_cap_sats >= p.max_vsize * 20, "fee_cap below 20 sat/vB of a full batch")
    _require("S7", p.fee_cap_sats >= DEFAULT_PIN_SATS, "fee_cap cannot out-pay a pin")
    floor = 5 * _fee(p.rate_floor_sats_per_kvb, input_vsize)
    _require("S12", p.min_pegin_sats >= floor, "min_pegin below five inputs")
    _require("S13", p.peg_out_fee_sats >= _s13_floor(input_vsize), "peg_out_fee below its cost")
    rates = 0 < p.rate_floor_sats_per_kvb <= p.rate_cap_sats_per_kvb
    _require("S5", rates, "rate floor and cap are out of order")


def _s5_floor(p: PegParameters, input_vsize: int) -> int:
    return _fee(p.rate_cap_sats_per_kvb, input_vsize)


def _s13_floor(input_vsize: int) -> int:
    return (input_vsize + PAYOUT_OUTPUT_VSIZE) * 10


def _fee(rate_sats_per_kvb: int, vsize: int) -> int:
    return -(-rate_sats_per_kvb * vsize // 1000)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _require(rule: str, holds: bool, text: str) -> None:
    if not holds:
        raise InsaneParameters(rule, text)


def _check_integer(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidEncoding("peg parameters", f"{name} is not a whole number")


def _cap(item: object) -> WindowCap:
    if not isinstance(item, list) or len(item) != 3:
        raise InvalidEncoding("peg parameters", "a cap is not three numbers")
    for value in item:
        _check_integer("caps", value)
    return WindowCap(item[0], item[1], item[2])
