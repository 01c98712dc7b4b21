"""Records that operators of a simulated federation think of, each of a kind that has an effect now.

Source: peg:3.3, peg:7.4.
"""

import random
from collections.abc import Sequence
from typing import Final

from peg.batches import OpenBatch
from peg.fedscript import FedScript
from peg.history import PegHistory
from peg.param_changes import param_names
from peg.parameters import LOCAL, InsaneParameters
from peg.records import (
    CancelRecord,
    ExcludeRecord,
    IncludeRecord,
    ParamRecord,
    Record,
    ReleaseRecord,
    ResumeRecord,
)

NAMES: Final = param_names(LOCAL)
CHANGES: Final = (
    ("peg_out_fee_sats", 4_000),
    ("peg_out_fee_sats", 2_500),
    ("fee_cap_sats", 300_000),
    ("fee_cap_sats", 500_000),
    ("payout_cap_sats", 60_000_000),
    ("payout_cap_sats", 100_000_000),
    ("cap_0_abs_sats", 120_000_000),
    ("cap_0_abs_sats", 200_000_000),
    ("large_delay", 5),
    ("large_delay", 3),
    ("batch_target", 3),
    ("consolidate_at", 4),
)
"""PARAM records that operators think of; those out of order are left out."""


def new_record(
    kind: str,
    rng: random.Random,
    *,
    history: PegHistory,
    batch: OpenBatch | None,
    script: FedScript,
    burns: Sequence[bytes],
    excluded: Sequence[bytes],
    held: Sequence[bytes],
) -> Record | None:
    """A record of a kind, or None when it would do nothing now.

    Args:
        burns, excluded, held: ids of final eligible burns, of those taken out, of those over the
            cap.
    """
    match kind:
        case "resume":
            return ResumeRecord()
        case "cancel" if batch is not None:
            return CancelRecord(0, batch.anchor)
        case "exclude" if burns:
            return ExcludeRecord(rng.choice(burns))
        case "include" if excluded:
            return IncludeRecord(rng.choice(excluded))
        case "release" if held:
            return ReleaseRecord(held[0])
        case "param":
            return _new_value(rng, history, script)
        case _:
            return None


def _new_value(rng: random.Random, history: PegHistory, script: FedScript) -> Record | None:
    """A PARAM record that keeps every rule."""
    name, value = rng.choice(CHANGES)
    height, changes = history.height + 1, history.governance.changes
    start = changes.earliest(NAMES[name], value, height)
    record = ParamRecord(parameter=NAMES[name], value=value, active_from=start)
    try:
        changes.check(record, height, script)
    except InsaneParameters:
        return None
    return record
