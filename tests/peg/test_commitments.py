"""Commitments: bytes, V1 to V8 by class, and what a proposer plans (peg:3.2, peg:4, N7, N9)."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peg.commitments import (
    CoinbasePeg,
    Commitment,
    CommitmentFacts,
    check_objective,
    check_open,
    decode_commitment,
    judge_commitment,
    median_rate,
    parameters_script,
    plan_commitment,
    read_coinbase,
)
from peg.parameters import LOCAL, PRODUCTION
from peg.records import OpenRecord, Record, ResumeRecord, record_script
from sidechain.errors import InvalidBlock, InvalidEncoding
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import NULL_OUTPOINT, OutPoint, Transaction, TxIn, TxOut
from tests.peg.world import PARAMETER_HASH, Bitcoin, federation

ASSET = b"\xaa" * 32
HASH = bytes(range(32))
PREVIOUS = Commitment(reset=False, height=100, block_hash=HASH, feerate_sats_per_kvb=2_000)
NEXT = Commitment(reset=False, height=101, block_hash=b"\x01" * 32, feerate_sats_per_kvb=2_000)
GOOD = CommitmentFacts(
    tip_height=102,
    height=101,
    previous_height=100,
    fork_height=None,
    estimate_sats_per_kvb=None,
    reset_approved=False,
)
ANCHOR = OutPoint(b"\x07" * 32, 1)


def coinbase(*outputs: TxOut | bytes) -> Transaction:
    made = [out if isinstance(out, TxOut) else plain(out) for out in outputs]
    return Transaction.build(
        version=2, inputs=[TxIn(NULL_OUTPOINT, b"\x51\x51")], outputs=made, locktime=0
    )


def plain(script: bytes) -> TxOut:
    return TxOut(explicit_asset(ASSET), explicit_value(0), NULL, script)


# ---- bytes ----


def test_script_bytes_are_those_of_the_protocol() -> None:
    commitment = replace(PREVIOUS, reset=True)
    wanted = "6a2d" + "46504301" + "01" + "64000000" + HASH.hex() + "d0070000"
    assert commitment.script().hex() == wanted
    assert decode_commitment(commitment.script()) == commitment


@pytest.mark.parametrize(
    "script",
    [
        PREVIOUS.script()[:-1],
        PREVIOUS.script() + b"\0",
        b"\x6a\x2e" + PREVIOUS.script()[2:] + b"\0",
        b"\x6a\x2d" + b"FPC\x02" + PREVIOUS.script()[6:],
        PREVIOUS.script()[:6] + b"\x02" + PREVIOUS.script()[7:],
        b"",
    ],
)
def test_other_bytes_are_refused(script: bytes) -> None:
    with pytest.raises(InvalidEncoding):
        decode_commitment(script)


@given(st.binary(min_size=47, max_size=47))
def test_hostile_scripts_decode_only_to_what_encodes_back(data: bytes) -> None:
    script = b"\x6a\x2dFPC\x01" + data[6:]
    try:
        assert decode_commitment(script).script() == script
    except InvalidEncoding:
        assert script[6] & ~1


# ---- V1, V8, records: objective ----


def test_coinbase_with_everything_is_read() -> None:
    record = OpenRecord(0, ANCHOR)
    found = read_coinbase(
        coinbase(
            PREVIOUS.script(),
            parameters_script(PARAMETER_HASH),
            record_script(record),
            b"\x6a\x24\xaa\x21\xa9\xed" + bytes(32),
            b"\x6a",
        ),
        ASSET,
    )
    assert found == CoinbasePeg(
        commitment=PREVIOUS, records=(record,), parameter_hash=PARAMETER_HASH
    )


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        [PREVIOUS.script(), PREVIOUS.script()],
        [PREVIOUS.script(), NEXT.script()],
        [PREVIOUS.script()[:-1]],
        [PREVIOUS.script() + b"\0"],
        [b"\x6a\x4c\x2d" + PREVIOUS.script()[2:]],
        [PREVIOUS.script(), b"\x6a\x04FPZ\x01"],
        [PREVIOUS.script(), b"\x6a\x05FPR\x01\x0c"],
        [PREVIOUS.script(), b"\x6a\x05FPR\x02\x03"],
        [PREVIOUS.script(), record_script(ResumeRecord()) + b"\x51"],
        [PREVIOUS.script(), *[record_script(ResumeRecord())] * 9],
        [PREVIOUS.script(), parameters_script(bytes(31))],
        [PREVIOUS.script(), parameters_script(HASH), parameters_script(HASH)],
        [TxOut(explicit_asset(ASSET), explicit_value(1), NULL, PREVIOUS.script())],
        [TxOut(explicit_asset(b"\xbb" * 32), explicit_value(0), NULL, PREVIOUS.script())],
        [TxOut(explicit_asset(ASSET), explicit_value(0), b"\x02" * 33, PREVIOUS.script())],
        [TxOut(explicit_asset(ASSET), b"\x08" + bytes(32), NULL, PREVIOUS.script())],
    ],
)
def test_coinbase_without_exactly_one_good_commitment_is_invalid(
    outputs: list[TxOut | bytes],
) -> None:
    with pytest.raises(InvalidBlock):
        read_coinbase(coinbase(b"\x6a", *outputs), ASSET)


def test_eight_records_are_the_most() -> None:
    scripts = [record_script(ResumeRecord())] * 8
    assert len(read_coinbase(coinbase(PREVIOUS.script(), *scripts), ASSET).records) == 8


def check(
    height: int,
    *records: Record,
    parameter_hash: bytes | None = None,
    reset: bool = False,
) -> None:
    found = CoinbasePeg(
        commitment=replace(PREVIOUS, reset=reset), records=records, parameter_hash=parameter_hash
    )
    check_objective(found, height, PARAMETER_HASH)


def test_v8_block_1_and_only_it_carries_the_parameters() -> None:
    check(1, parameter_hash=PARAMETER_HASH)
    check(2)
    for height, parameter_hash in ((1, None), (1, HASH), (2, PARAMETER_HASH)):
        with pytest.raises(InvalidBlock, match="V8"):
            check(height, parameter_hash=parameter_hash)


def test_block_1_resets_nothing() -> None:
    with pytest.raises(InvalidBlock, match="V5"):
        check(1, parameter_hash=PARAMETER_HASH, reset=True)


# ---- V2 to V7 ----


def judge(commitment: Commitment = NEXT, **changes: Any) -> tuple[bool, bool, str]:
    previous = changes.pop("previous", PREVIOUS)
    claims = changes.pop("has_claims", False)
    parameters = changes.pop("parameters", LOCAL)
    facts = replace(GOOD, **changes)
    found = judge_commitment(commitment, previous, facts, parameters, has_claims=claims)
    return found.eventual, found.policy, found.reason[:2]


def test_good_commitment_passes() -> None:
    assert judge() == (True, True, "")
    assert judge(previous=None, previous_height=None) == (True, True, "")


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("V2", {"height": None}),
        ("V2", {"tip_height": 101}),
        ("V3", {"height": 100}),
        ("V4", {"previous_height": 102}),
        ("V5", {"previous_height": None}),
    ],
)
def test_eventual_rule_fails_with_its_id(rule: str, changes: dict[str, Any]) -> None:
    assert judge(**changes) == (False, True, rule)


def test_v5_reset_flag_without_an_orphaned_block_is_refused() -> None:
    assert judge(replace(NEXT, reset=True), tip_height=110) == (False, True, "V5")


RESET = replace(NEXT, reset=True)


@pytest.mark.parametrize(
    ("tip_height", "verdict"), [(103, (False, True, "V5")), (104, (True, True, ""))]
)
def test_v5_reset_needs_d_reset_confirmations(tip_height: int, verdict: object) -> None:
    assert judge(RESET, previous_height=None, fork_height=99, tip_height=tip_height) == verdict


def test_v5_reset_names_a_block_of_the_new_branch() -> None:
    """A block below the fork is deep while the new branch has just begun (peg:6)."""
    facts = {"previous_height": None, "tip_height": 104}
    assert judge(RESET, fork_height=101, **facts) == (False, True, "V5")
    assert judge(RESET, fork_height=100, **facts) == (True, True, "")
    assert judge(RESET, fork_height=None, **facts) == (True, True, "")


def test_v5_manual_policy_asks_the_operator() -> None:
    facts: dict[str, Any] = {"previous_height": None, "tip_height": 112, "parameters": PRODUCTION}
    assert judge(RESET, **facts) == (True, False, "V5")
    assert judge(RESET, reset_approved=True, **facts) == (True, True, "")


@pytest.mark.parametrize(("tip_height", "fresh"), [(106, True), (107, False)])
def test_v6_freshness_border(tip_height: int, fresh: bool) -> None:
    assert judge(tip_height=tip_height)[:2] == (True, fresh)


@pytest.mark.parametrize(("tip_height", "fresh"), [(108, True), (109, False)])
def test_v6_freshness_border_of_a_reset(tip_height: int, fresh: bool) -> None:
    found = judge(RESET, previous_height=None, fork_height=99, tip_height=tip_height)
    assert found[:2] == (True, fresh)


@pytest.mark.parametrize(
    ("rate", "estimate", "fits"),
    [
        (2_500, 10_000, True),
        (2_499, 10_000, False),
        (40_000, 10_000, True),
        (40_001, 10_000, False),
        (1_000, None, True),
        (999, None, False),
        (200_000, None, True),
        (200_001, None, False),
    ],
)
def test_v7_fee_rate_border(rate: int, estimate: int | None, fits: bool) -> None:
    commitment = replace(NEXT, feerate_sats_per_kvb=rate)
    found = judge(commitment, estimate_sats_per_kvb=estimate)
    assert found == ((True, True, "") if fits else (True, False, "V7"))


def test_n9_repeat_without_claims_passes_whatever_bitcoin_says() -> None:
    dead: dict[str, Any] = {"tip_height": None, "height": None, "previous_height": None}
    assert judge(PREVIOUS, **dead) == (True, True, "")
    assert judge(PREVIOUS, previous=replace(PREVIOUS, reset=True), **dead) == (True, True, "")


def test_n9_does_not_hold_for_claims_reset_or_another_rate() -> None:
    dead: dict[str, Any] = {"tip_height": None}
    assert judge(PREVIOUS, has_claims=True, **dead)[0] is False
    assert judge(replace(PREVIOUS, reset=True), **dead)[0] is False
    assert judge(replace(PREVIOUS, feerate_sats_per_kvb=2_001), **dead)[0] is False


# ---- planning ----


def test_plan_advances_to_the_best_block_deep_enough() -> None:
    bitcoin = Bitcoin()
    bitcoin.mine(count=10)
    first = plan_commitment(bitcoin.view, None, LOCAL, None)
    assert first is not None and first.height == bitcoin.view.tip_height - 1
    assert first.feerate_sats_per_kvb == 2 * LOCAL.rate_floor_sats_per_kvb
    assert plan_commitment(bitcoin.view, first, LOCAL, 5_000) == first
    bitcoin.mine()
    second = plan_commitment(bitcoin.view, first, LOCAL, 5_000)
    assert second is not None and second.height == first.height + 1
    assert second.feerate_sats_per_kvb == 5_000


def test_plan_keeps_the_margin_of_production() -> None:
    bitcoin = Bitcoin()
    bitcoin.mine(count=20)
    found = plan_commitment(bitcoin.view, None, PRODUCTION, None)
    assert found is not None
    assert bitcoin.view.depth(found.block_hash) == 7


def test_plan_of_block_1_waits_for_depth() -> None:
    assert plan_commitment(Bitcoin().view, None, LOCAL, None) is None


def test_plan_repeats_while_orphaned_and_resets_once_the_branch_is_deep() -> None:
    bitcoin = Bitcoin()
    bitcoin.mine(count=10)
    fork = bitcoin.tip
    bitcoin.mine(count=3)
    previous = plan_commitment(bitcoin.view, None, LOCAL, None)
    assert previous is not None
    fork_height = bitcoin.height(fork)
    at = fork
    for grown in range(1, 8):
        at = bitcoin.grow(at)
        bitcoin.activate(at)
        found = plan_commitment(bitcoin.view, previous, LOCAL, None, fork_height=fork_height)
        assert found is not None
        assert found.reset is (grown >= LOCAL.reset_depth)
        if not found.reset:
            assert found == previous
        else:
            assert bitcoin.view.depth(found.block_hash) == LOCAL.reset_depth


def test_planned_commitments_pass_the_voter_with_the_same_view() -> None:
    bitcoin = Bitcoin()
    bitcoin.mine(count=10)
    previous: Commitment | None = None
    for _ in range(5):
        found = plan_commitment(bitcoin.view, previous, LOCAL, None)
        assert found is not None
        facts = CommitmentFacts(
            tip_height=bitcoin.view.tip_height,
            height=bitcoin.view.height_of(found.block_hash),
            previous_height=previous and bitcoin.view.height_of(previous.block_hash),
            fork_height=None,
            estimate_sats_per_kvb=None,
            reset_approved=False,
        )
        verdict = judge_commitment(found, previous, facts, LOCAL, has_claims=True)
        assert (verdict.eventual, verdict.policy) == (True, True)
        previous = found
        bitcoin.mine(count=2)


# ---- rate, OPEN ----


@pytest.mark.parametrize(
    ("rates", "median"),
    [
        ([5_000], 5_000),
        ([5_000, 6_000], 5_000),
        ([9_000, 5_000, 6_000], 6_000),
        ([9_000, 5_000, 6_000, 7_000], 6_000),
        ([1], 1_000),
        ([10**9], 200_000),
    ],
)
def test_rate_is_the_clamped_lower_median(rates: list[int], median: int) -> None:
    assert median_rate(rates, LOCAL) == median


@pytest.mark.parametrize(
    ("output", "confirmations", "passes"),
    [
        ((50_000, "fed"), 6, True),
        ((49_999, "fed"), 6, False),
        ((50_000, "fed"), 5, False),
        ((50_000, "other"), 6, False),
        (None, 6, False),
    ],
)
def test_p1_border(output: Any, confirmations: int, passes: bool) -> None:
    fed = federation().program
    scripts = {"fed": fed, "other": b"\x51"}
    reason = check_open(
        OpenRecord(0, ANCHOR),
        fed_program=fed,
        output=output and (output[0], scripts[output[1]]),
        confirmations=confirmations,
        parameters=LOCAL,
    )
    assert (reason == "") is passes
