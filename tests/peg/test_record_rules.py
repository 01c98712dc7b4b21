"""Records: what a block may carry (objective), and what operators' changes put in force."""

from dataclasses import replace
from typing import Any

import pytest

from peg.governance import Governance
from peg.param_changes import (
    BLOCKS_PER_CLOCK_UNIT,
    ParamChanges,
    is_looser,
    param_names,
    param_value,
    with_value,
)
from peg.parameters import LOCAL, PRODUCTION, InsaneParameters
from peg.record_rules import RecordContext, check_records, pause_end
from peg.records import (
    CancelRecord,
    ExcludeRecord,
    HandoverRecord,
    IncludeRecord,
    OpenRecord,
    ParamRecord,
    PauseRecord,
    Record,
    ReleaseRecord,
    ReopenRecord,
    ResumeRecord,
    ReturnRecord,
)
from sidechain.crypto.hashes import tagged_hash
from sidechain.crypto.keys import public_key, schnorr_sign
from sidechain.errors import InvalidBlock, InvariantError
from sidechain.primitives.transaction import OutPoint
from tests.peg.world import federation, secret

GENESIS = b"\x05" * 32
ANCHOR = OutPoint(b"\x07" * 32, 1)
BURN = b"\x08" * 36
SCRIPT = federation()
NAMES = param_names(LOCAL)


def context(height: int = 50, clock: int = 1_000) -> RecordContext:
    return RecordContext(
        height=height,
        clock=clock,
        genesis=GENESIS,
        script=SCRIPT,
        block_keys=tuple(public_key(secret(f"block {i}")) for i in range(LOCAL.n)),
    )


def pause(
    member: int = 0, *, sequence: int = 0, until: int = 1_010, signer: int | None = None
) -> PauseRecord:
    """A PAUSE of a member, signed by it or by another one."""
    record = PauseRecord(
        member=member, deposits=False, sequence=sequence, until=until, signature=bytes(64)
    )
    key = secret(f"block {member if signer is None else signer}")
    message = tagged_hash("fedpeg/pause", GENESIS + record.unsigned())
    return replace(record, signature=schnorr_sign(key, message))


def governed(*blocks: tuple[int, int, list[Record]]) -> Governance:
    """After blocks of (height, clock, records)."""
    made = Governance(LOCAL)
    for height, clock, records in blocks:
        made.apply(height, clock, records)
    return made


def param(name: str, value: int, active_from: int) -> ParamRecord:
    return ParamRecord(parameter=NAMES[name], value=value, active_from=active_from)


# ---- what a block may carry ----


def test_p1_open_is_taken_once_and_for_lane_0_only() -> None:
    check_records([OpenRecord(0, ANCHOR)], governed(), context())
    opened = governed((2, 10, [OpenRecord(0, ANCHOR)]))
    for records, governance in (
        ([OpenRecord(0, ANCHOR)], opened),
        ([OpenRecord(0, ANCHOR)] * 2, governed()),
        ([OpenRecord(1, ANCHOR)], governed()),
        ([CancelRecord(1, ANCHOR)], governed()),
        ([ReopenRecord(1, bytes(32), ANCHOR)], governed()),
    ):
        with pytest.raises(InvalidBlock, match="P1"):
            check_records(records, governance, context())


def test_records_that_operators_approve_have_no_objective_rule_but_their_form() -> None:
    records: list[Record] = [
        ResumeRecord(),
        CancelRecord(0, ANCHOR),
        ExcludeRecord(BURN),
        IncludeRecord(BURN),
        ReleaseRecord(BURN),
        ReturnRecord(ANCHOR, bytes(32)),
        ReopenRecord(0, bytes(32), ANCHOR),
    ]
    check_records(records, governed(), context())


def test_handover_is_not_enabled_in_blocks_nor_in_the_fold() -> None:
    with pytest.raises(InvalidBlock, match="not enabled"):
        check_records([HandoverRecord(0, bytes(32))], governed(), context())
    with pytest.raises(InvariantError):
        governed((2, 10, [HandoverRecord(0, bytes(32))]))


# ---- PAUSE (7.3) ----


def test_pause_by_one_member_is_valid_with_its_own_signature_alone() -> None:
    check_records([pause(2)], governed(), context())
    for wrong in (pause(2, signer=1), pause(7), replace(pause(2), deposits=True)):
        with pytest.raises(InvalidBlock, match="7.3"):
            check_records([wrong], governed(), context())


@pytest.mark.parametrize(
    ("until", "fits"), [(1_000, False), (1_001, True), (1_024, True), (1_025, False)]
)
def test_pause_ends_within_pause_max_of_the_clock(until: int, fits: bool) -> None:
    if fits:
        check_records([pause(until=until)], governed(), context())
        return
    with pytest.raises(InvalidBlock, match="7.3"):
        check_records([pause(until=until)], governed(), context())


def test_pause_by_byzantine_is_rate_limited() -> None:
    """Once per pause_every and seq rising: f liars stop at most f * max / every of the time."""
    first = pause(0, sequence=3, until=1_024)
    governance = governed((50, 1_000, [first]))
    assert governance.pause_at(1_023).stops(1_023)
    assert not governance.pause_at(1_024).stops(1_024)
    again = [
        (pause(0, sequence=3, until=1_120), 1_100, "seq"),
        (pause(0, sequence=2, until=1_120), 1_100, "seq"),
        (pause(0, sequence=4, until=1_110), 1_099, "may pause again at clock 1100"),
    ]
    for record, clock, reason in again:
        with pytest.raises(InvalidBlock, match=reason):
            check_records([record], governance, context(clock=clock))
    check_records([pause(0, sequence=4, until=1_110)], governance, context(clock=1_100))
    check_records([pause(1, until=1_010)], governance, context())
    with pytest.raises(InvalidBlock, match="two pauses"):
        check_records([pause(1), pause(1, sequence=1)], governance, context())
    stopped = sum(
        governance.pause_at(clock).stops(clock) for clock in range(1_000, 1_000 + LOCAL.pause_every)
    )
    assert stopped == LOCAL.pause_max


def test_resume_ends_all_pauses_but_not_their_rate_limit() -> None:
    governance = governed((50, 1_000, [pause(0), pause(1)]))
    assert governance.pause_at(1_005).members == (0, 1)
    governance.apply(51, 1_001, [ResumeRecord()])
    assert not governance.pause_at(1_005).stops(1_005)
    with pytest.raises(InvalidBlock, match="again"):
        check_records([pause(0, sequence=1)], governance, context(clock=1_002))


def test_pause_with_the_deposits_flag_stops_addresses_too() -> None:
    plain, both = pause(0), replace(pause(1), deposits=True, until=1_004)
    governance = governed((50, 1_000, [plain, both]))
    found = governance.pause_at(1_003)
    assert found.stops_deposits(1_003) and not found.stops_deposits(1_004)
    assert found.stops(1_009)


def test_pause_length_is_what_was_asked_up_to_pause_max() -> None:
    assert pause_end(LOCAL, 100, None) == 124
    assert pause_end(LOCAL, 100, 5) == 105
    assert pause_end(LOCAL, 100, 5_000) == 124


# ---- PARAM (7.4) ----


def test_param_loosening_delayed() -> None:
    """Higher caps, shorter delays and smaller floors wait; tightening acts from the next block."""
    late = 50 + LOCAL.large_delay * BLOCKS_PER_CLOCK_UNIT
    cases = [
        ("fee_cap_sats", 600_000, 400_000),
        ("large_delay", 2, 4),
        ("rate_floor_sats_per_kvb", 900, 1_100),
        ("cap_0_abs_sats", 300_000_000, 150_000_000),
        ("large_sats", 30_000_000, 20_000_000),
    ]
    for name, looser, tighter in cases:
        check_records([param(name, tighter, 51)], governed(), context())
        check_records([param(name, looser, late)], governed(), context())
        for early in (50, 51, late - 1):
            with pytest.raises(InvalidBlock, match=f"7.4.*height {late}"):
                check_records([param(name, looser, early)], governed(), context())
    with pytest.raises(InvalidBlock, match="7.4"):
        check_records([param("fee_cap_sats", 400_000, 50)], governed(), context())


def test_param_back_to_the_old_value_after_tightening_is_loosening() -> None:
    governance = governed((50, 1_000, [param("fee_cap_sats", 400_000, 60)]))
    with pytest.raises(InvalidBlock, match="7.4"):
        check_records([param("fee_cap_sats", 500_000, 60)], governance, context(51))
    with pytest.raises(InvalidBlock, match="7.4"):
        check_records([param("fee_cap_sats", 500_000, 71)], governance, context(70))


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("payout_cap_sats", 200_000_001, "S2"),
        ("cap_1_abs_sats", 99_999_999, "S2"),
        ("large_delay", 1, "S3"),
        ("min_pegout_sats", 5_000, "S4"),
        ("peg_out_fee_sats", 18_000, "S4"),
        ("rate_cap_sats_per_kvb", 400_000, "S5"),
        ("rate_floor_sats_per_kvb", 200_001, "S12"),
        ("fee_cap_sats", 100_999, "S7"),
        ("min_pegin_sats", 100, "S12"),
        ("peg_out_fee_sats", 100, "S13"),
        ("consolidate_at", 0, "P11"),
        ("batch_wait", 2**53, "N21"),
    ],
)
def test_param_that_breaks_a_sanity_rule_is_refused(name: str, value: int, rule: str) -> None:
    with pytest.raises(InvalidBlock, match=f"PARAM breaks {rule}"):
        check_records([param(name, value, 1_000)], governed(), context())


def test_param_is_checked_against_every_change_that_will_be_in_force() -> None:
    """S4 between two records: each would do alone, both together pay out dust."""
    lower, dearer = param("min_pegout_sats", 19_000, 90), param("peg_out_fee_sats", 17_000, 60)
    check_records([lower], governed(), context())
    check_records([dearer], governed(), context())
    for records in ([lower, dearer], [dearer, lower]):
        with pytest.raises(InvalidBlock, match="S4"):
            check_records(records, governed(), context())
    with pytest.raises(InvalidBlock, match="S4"):
        check_records([lower], governed((50, 1_000, [dearer])), context(51))


@pytest.mark.parametrize("number", [0, 13, 0x1F, 0x22, 0x2F, 0x32, 0xFF])
def test_param_with_an_unknown_id_is_refused(number: int) -> None:
    record = ParamRecord(parameter=number, value=1, active_from=1_000)
    with pytest.raises(InvalidBlock, match="N21"):
        check_records([record], governed(), context())


def test_param_acts_from_its_height_on_and_the_later_record_wins() -> None:
    changes = ParamChanges(LOCAL)
    changes.add(param("fee_cap_sats", 400_000, 60))
    changes.add(param("fee_cap_sats", 300_000, 60))
    changes.add(param("large_delay", 9, 55))
    assert changes.at(54) == LOCAL
    assert changes.at(59) == replace(LOCAL, large_delay=9)
    assert changes.at(60) == replace(LOCAL, large_delay=9, fee_cap_sats=300_000)


@pytest.mark.parametrize("preset", [LOCAL, PRODUCTION])
def test_param_names_cover_every_id_and_reach_their_value(preset: Any) -> None:
    for name, number in param_names(preset).items():
        changed = with_value(preset, number, 7)
        assert param_value(changed, number) == 7, name
        assert with_value(changed, number, param_value(preset, number)) == preset


def test_waits_and_targets_are_neither_looser_nor_tighter() -> None:
    for name in ("batch_wait", "batch_target", "consolidate_at"):
        assert not is_looser(NAMES[name], 5, 1) and not is_looser(NAMES[name], 1, 5)


def test_insane_record_names_its_rule() -> None:
    with pytest.raises(InsaneParameters) as error:
        ParamChanges(LOCAL).check(param("large_delay", 1, 1_000), 50, SCRIPT)
    assert error.value.reason == "S3"


# ---- EXCLUDE, INCLUDE, CANCEL, REOPEN in the fold ----


def test_exclusion_holds_from_its_height_until_an_inclusion() -> None:
    governance = governed((5, 10, [ExcludeRecord(BURN)]), (8, 11, [IncludeRecord(BURN)]))
    states = [governance.is_excluded(BURN, height) for height in (4, 5, 7, 8, 9)]
    assert states == [False, True, True, False, False]


def test_cancels_are_found_between_two_selections() -> None:
    governance = governed((5, 10, [CancelRecord(0, ANCHOR)]))
    assert governance.cancelled_between(ANCHOR, 4, 5)
    assert not governance.cancelled_between(ANCHOR, 5, 9)
    assert not governance.cancelled_between(OutPoint(bytes(32), 0), 4, 5)


def test_the_newest_reopen_of_a_break_counts() -> None:
    txid, other = b"\x01" * 32, OutPoint(b"\x02" * 32, 0)
    governance = governed(
        (5, 10, [ReopenRecord(0, txid, ANCHOR)]), (7, 10, [ReopenRecord(0, txid, other)])
    )
    assert governance.reopened_at(0, txid, 4) is None
    for height, anchor in ((5, ANCHOR), (6, ANCHOR), (7, other)):
        found = governance.reopened_at(0, txid, height)
        assert found is not None and found[0].anchor == anchor
