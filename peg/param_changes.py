"""Changes of G values by PARAM records: which value is in force at which sidechain height.

A change is in force from its `active_from` on. Tightening may begin with the next block; loosening
waits as long as a large burn does, so that people can look before it acts.

Source: peg:2, peg:7.4, N21.
"""

from dataclasses import replace

from peg.fedscript import FedScript
from peg.parameters import InsaneParameters, PegParameters, check_values
from peg.records import ParamRecord

BLOCKS_PER_CLOCK_UNIT = 10
"""Sidechain blocks, one a minute, that are worth one Bitcoin block of ten minutes."""
VALUE_MAX = 2**53 - 1
"""Largest whole number that every reader of JSON keeps exact (N2)."""
CAP_ABS = 0x20
CAP_PCT = 0x30

_FIELDS = {
    1: "rate_floor_sats_per_kvb",
    2: "rate_cap_sats_per_kvb",
    3: "fee_cap_sats",
    4: "peg_out_fee_sats",
    5: "min_pegout_sats",
    6: "min_pegin_sats",
    7: "payout_cap_sats",
    8: "large_sats",
    9: "large_delay",
    10: "batch_wait",
    11: "batch_target",
    12: "consolidate_at",
}
_LOOSER_WHEN_HIGHER = frozenset((2, 3, 7, 8))
_LOOSER_WHEN_LOWER = frozenset((1, 4, 5, 6, 9))


def param_names(parameters: PegParameters) -> dict[str, int]:
    """Names that operators use, with their ids (N21)."""
    names = {name: number for number, name in _FIELDS.items()}
    for position in range(len(parameters.caps)):
        names[f"cap_{position}_abs_sats"] = CAP_ABS + position
        names[f"cap_{position}_pct_bp"] = CAP_PCT + position
    return names


def param_value(parameters: PegParameters, number: int) -> int:
    """The value of a parameter by its id.

    Raises:
        InsaneParameters: N21, no such id.
    """
    if number in _FIELDS:
        return int(getattr(parameters, _FIELDS[number]))
    position, is_absolute = _cap_of(parameters, number)
    cap = parameters.caps[position]
    return cap.abs_sats if is_absolute else cap.pct_bp


def with_value(parameters: PegParameters, number: int, value: int) -> PegParameters:
    """The set with one value changed.

    Raises:
        InsaneParameters: N21, no such id.
    """
    if number in _FIELDS:
        changes: dict[str, int] = {_FIELDS[number]: value}
        return replace(parameters, **changes)  # type: ignore[arg-type]
    position, is_absolute = _cap_of(parameters, number)
    caps = list(parameters.caps)
    old = caps[position]
    caps[position] = replace(old, abs_sats=value) if is_absolute else replace(old, pct_bp=value)
    return replace(parameters, caps=tuple(caps))


def is_looser(number: int, before: int, after: int) -> bool:
    """Whether a value lets more out, or sooner, than the one before (peg:7.4)."""
    if number in _LOOSER_WHEN_HIGHER or number >= CAP_ABS:
        return after > before
    return number in _LOOSER_WHEN_LOWER and after < before


class ParamChanges:
    """All final changes in order, and the set in force at any height."""

    def __init__(self, initial: PegParameters) -> None:
        """Start with the values of the federation file."""
        self.initial = initial
        self._changes: list[ParamRecord] = []
        self._known: dict[int, PegParameters] = {}

    @property
    def pending(self) -> tuple[ParamRecord, ...]:
        """Every change so far, in the order of the blocks."""
        return tuple(self._changes)

    def copy(self) -> "ParamChanges":
        """The same changes, to try more on."""
        made = ParamChanges(self.initial)
        made._changes = list(self._changes)
        return made

    def add(self, record: ParamRecord) -> None:
        """Take a final record."""
        self._changes.append(record)
        self._known.clear()

    def at(self, height: int) -> PegParameters:
        """The set in force at a height; of changes with one start the later record wins."""
        starts = [c.active_from for c in self._changes if c.active_from <= height]
        last = max(starts, default=0)
        if last not in self._known:
            self._known[last] = _folded(self.initial, self._changes, last)
        return self._known[last]

    def check(self, record: ParamRecord, height: int, script: FedScript) -> None:
        """Refuse a PARAM record of a block (objective: it depends on final blocks only).

        Args:
            height: of the block that carries it.
            script: the federation's plain fedpegscript.
        Raises:
            InsaneParameters: N21 for an unknown id or value, 7.4 for a start that is too early,
                else the sanity rule that some set in force from then on would break.
        """
        if record.value > VALUE_MAX:
            raise InsaneParameters("N21", "value is out of range")
        before = param_value(self.at(record.active_from), record.parameter)
        looser = is_looser(record.parameter, before, record.value)
        earliest = self.loosening_height(height) if looser else height + 1
        if record.active_from < earliest:
            kind = "loosening" if looser else "a change"
            raise InsaneParameters("7.4", f"{kind} must not start before height {earliest}")
        changes = [*self._changes, record]
        starts = {c.active_from for c in changes if c.active_from >= record.active_from}
        for start in sorted(starts):
            check_values(_folded(self.initial, changes, start), script)

    def loosening_height(self, height: int) -> int:
        """The first height from which what a block loosens may be in force."""
        return height + max(1, self.at(height).large_delay * BLOCKS_PER_CLOCK_UNIT)

    def earliest(self, number: int, value: int, height: int) -> int:
        """The first height from which a block may put a value in force."""
        looser = is_looser(number, param_value(self.at(height + 1), number), value)
        return self.loosening_height(height) if looser else height + 1


def _folded(initial: PegParameters, changes: list[ParamRecord], height: int) -> PegParameters:
    found = initial
    live = [change for change in changes if change.active_from <= height]
    # Sorting is stable: of two changes with one start the later record comes last.
    for change in sorted(live, key=lambda change: change.active_from):
        found = with_value(found, change.parameter, change.value)
    return found


def _cap_of(parameters: PegParameters, number: int) -> tuple[int, bool]:
    """Position of a cap, and whether its absolute part is meant."""
    for base, is_absolute in ((CAP_ABS, True), (CAP_PCT, False)):
        if base <= number < base + min(len(parameters.caps), 16):
            return number - base, is_absolute
    raise InsaneParameters("N21", f"there is no parameter {number}")
