"""Presets and the rules that refuse a set that cannot work (peg:2, S1 to S13)."""

from dataclasses import replace
from typing import Any

import pytest

from peg.parameters import (
    LOCAL,
    PRODUCTION,
    ChainFacts,
    InsaneParameters,
    PegParameters,
    WindowCap,
    check_fedpeg_program,
    check_parameters,
    coin_count_max,
    for_members,
)
from sidechain.errors import InvalidEncoding
from tests.peg.world import federation

GOOD_CHAIN = ChainFacts(
    mandatory_coinbase=b"\x6a", fee_asset_set=False, fedpeg_program=b"\0\x20" + bytes(32)
)


def check(parameters: PegParameters, chain: ChainFacts = GOOD_CHAIN, allow: bool = False) -> None:
    check_parameters(
        parameters,
        script=federation(parameters),
        chain=chain,
        allow_no_byzantine_safety=allow,
    )


@pytest.mark.parametrize("preset", [LOCAL, PRODUCTION])
def test_presets_pass(preset: PegParameters) -> None:
    check(preset)


@pytest.mark.parametrize(("n", "k"), [(4, 3), (7, 5), (10, 7), (15, 11)])
def test_local_preset_passes_for_other_sizes(n: int, k: int) -> None:
    check(for_members(LOCAL, n, k))


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("N3", {"n": 3, "k": 2}),
        ("L1", {"lanes": 2}),
        ("S1", {"csv": 2 * 72 + 6 + 2 - 1}),
        ("S1", {"csv_stop": 25}),
        ("S1", {"sweep_window": 55, "csv_stop": 18}),
        ("S2", {"payout_cap_sats": 200_000_001}),
        ("S3", {"caps": (WindowCap(1, 200_000_000, 10_000),)}),
        ("S3", {"caps": ()}),
        ("S3", {"large_delay": 1}),
        ("S4", {"max_payouts": 256}),
        ("S4", {"min_pegout_sats": 2_500 + 2_729}),
        ("S5", {"anchor_min_sats": 31_999}),
        ("S6", {"commit_depth": 0}),
        ("S6", {"reset_depth": 2}),
        ("S6", {"pegin_depth": 3}),
        ("S6", {"anchor_depth": 5}),
        ("S7", {"fee_cap_sats": 189_999}),
        ("S7", {"fee_cap_sats": 100_999, "max_vsize": 5_000}),
        ("S12", {"min_pegin_sats": 799}),
        ("S13", {"peg_out_fee_sats": 2_029}),
    ],
)
def test_broken_set_is_refused_with_its_rule(rule: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InsaneParameters) as caught:
        check(replace(LOCAL, **changes))
    assert caught.value.reason == rule


@pytest.mark.parametrize(
    "changes",
    [
        {"csv": 2 * 72 + 6 + 2},
        {"min_pegout_sats": 2_500 + 2_730},
        {"anchor_min_sats": 32_000},
        {"fee_cap_sats": 190_000},
        {"min_pegin_sats": 800},
        {"peg_out_fee_sats": 2_030},
        {"payout_cap_sats": 200_000_000},
    ],
)
def test_set_at_the_border_passes(changes: dict[str, Any]) -> None:
    check(replace(LOCAL, **changes))


def test_no_byzantine_safety_passes_only_on_request() -> None:
    check(replace(LOCAL, n=3, k=2), allow=True)


def test_script_with_another_csv_than_the_parameters_is_refused() -> None:
    """The rule that Liquid's 2020 incident taught: the coin's script decides, not configuration."""
    with pytest.raises(InsaneParameters) as caught:
        check_parameters(replace(LOCAL, csv=300), script=federation(LOCAL), chain=GOOD_CHAIN)
    assert caught.value.reason == "S1"


def test_too_large_script_is_refused_by_s8() -> None:
    with pytest.raises(InsaneParameters) as caught:
        check(for_members(PRODUCTION, 15, 15))
    assert caught.value.reason == "S8"


@pytest.mark.parametrize(
    ("rule", "chain"),
    [
        ("S10", replace(GOOD_CHAIN, mandatory_coinbase=b"")),
        ("S10", replace(GOOD_CHAIN, fee_asset_set=True)),
        ("S11", replace(GOOD_CHAIN, fedpeg_program=b"\x51\x20" + bytes(32))),
    ],
)
def test_chain_options_that_endanger_the_peg_are_refused(rule: str, chain: ChainFacts) -> None:
    with pytest.raises(InsaneParameters) as caught:
        check(LOCAL, chain)
    assert caught.value.reason == rule


def test_program_of_a_known_kind_passes_s11() -> None:
    check_fedpeg_program(b"\xa9\x14" + bytes(20) + b"\x87")
    check_fedpeg_program(b"\x00\x20" + bytes(32))
    with pytest.raises(InsaneParameters):
        check_fedpeg_program(b"\x52\x02\x01\x02")


def test_json_round_trip_holds_integers_only() -> None:
    plain = PRODUCTION.to_json()
    assert PegParameters.from_json(plain) == PRODUCTION
    for value in plain.values():
        assert type(value) is int or all(type(x) is int for cap in value for x in cap)


@pytest.mark.parametrize(
    "change",
    [
        {"n": -1},
        {"n": 4.0},
        {"n": True},
        {"n": "4"},
        {"extra": 1},
        {"caps": [[1, 2]]},
        {"caps": [["1", 2, 3]]},
    ],
)
def test_json_of_another_form_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidEncoding):
        PegParameters.from_json({**LOCAL.to_json(), **change})


def test_coin_count_limit_follows_s9() -> None:
    script = federation(LOCAL)
    inputs = (9_500 - 200) // script.input_worst_vsize
    assert coin_count_max(LOCAL, script) == 72 * inputs // (2 * 4)
