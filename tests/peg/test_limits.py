"""Eligibility and the release schedule (peg:3.4, peg:3.5)."""

from collections import deque
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peg.limits import Burn, BurnCode, BurnStage, ReleaseSchedule, burn_code, is_payable
from peg.parameters import LOCAL, PegParameters, WindowCap
from sidechain.errors import InvariantError
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import TxOut
from tests.peg.world import federation

BTC = 100_000_000
ASSET = b"\xaa" * 32
P2WPKH = b"\x00\x14" + bytes(20)
FED = federation().program


def burn(number: int, amount_sats: int, *, clock: int = 0, height: int = 1) -> Burn:
    return Burn(
        burn_id=number.to_bytes(36, "big"),
        height=height,
        clock=clock,
        script=P2WPKH,
        amount_sats=amount_sats,
        fee_sats=2_500,
        code=BurnCode.OK,
    )


def code(
    output: TxOut | None = None, destination: bytes = P2WPKH, *, in_coinbase: bool = False
) -> BurnCode:
    default = TxOut(explicit_asset(ASSET), explicit_value(20_000), NULL, b"")
    return burn_code(
        output or default,
        destination,
        pegged_asset=ASSET,
        min_pegout_sats=20_000,
        fed_programs=frozenset({FED}),
        in_coinbase=in_coinbase,
    )


# ---- eligibility ----


def test_codes_in_their_order() -> None:
    good = TxOut(explicit_asset(ASSET), explicit_value(20_000), NULL, b"")
    assert code() is BurnCode.OK
    assert code(replace(good, value=b"\x08" + bytes(32))) is BurnCode.BLINDED
    assert code(replace(good, asset=b"\x0a" + bytes(32))) is BurnCode.BLINDED
    assert code(replace(good, asset=explicit_asset(b"\xbb" * 32))) is BurnCode.ASSET
    assert code(destination=b"\x51") is BurnCode.SCRIPT
    assert code(replace(good, value=explicit_value(19_999))) is BurnCode.MINIMUM
    assert code(destination=FED) is BurnCode.FED
    assert code(in_coinbase=True) is BurnCode.COINBASE


@pytest.mark.parametrize(
    ("script_hex", "payable"),
    [
        ("76a914" + "00" * 20 + "88ac", True),
        ("a914" + "00" * 20 + "87", True),
        ("0014" + "00" * 20, True),
        ("0020" + "00" * 32, True),
        ("5120" + "00" * 32, True),
        ("", False),
        ("6a", False),
        ("51024e73", False),
        ("5220" + "00" * 32, False),
        ("5114" + "00" * 20, False),
        ("0015" + "00" * 21, False),
        ("21" + "02" * 33 + "ac", False),
        ("76a914" + "00" * 20 + "88ad", False),
        ("a914" + "00" * 20 + "88", False),
        ("0014" + "00" * 20 + "00", False),
    ],
)
def test_only_five_destination_forms_are_payable(script_hex: str, payable: bool) -> None:
    assert is_payable(bytes.fromhex(script_hex)) is payable


# ---- schedule ----


def test_burn_is_released_in_the_block_after_its_own() -> None:
    schedule = ReleaseSchedule(LOCAL)
    assert schedule.apply_block(1, 100, [burn(1, BTC // 10, clock=100)], 10 * BTC) == ()
    place = schedule.place(burn(1, 0).burn_id)
    assert place is not None and place.stage is BurnStage.DELAYED
    (released,) = schedule.apply_block(2, 100, [], 10 * BTC)
    assert (released.height, released.clock) == (2, 100)
    place = schedule.place(burn(1, 0).burn_id)
    assert place is not None and place.stage is BurnStage.RELEASED


@pytest.mark.parametrize(
    ("amount", "clock", "out"),
    [
        (BTC // 4 - 1, 100, True),
        (BTC // 4, 102, False),
        (BTC // 4, 103, True),
    ],
)
def test_large_burn_waits_its_clock_units(amount: int, clock: int, out: bool) -> None:
    schedule = ReleaseSchedule(LOCAL)
    schedule.apply_block(1, 100, [burn(1, amount, clock=100)], 10 * BTC)
    assert bool(schedule.apply_block(2, clock, [], 10 * BTC)) is out


def test_nothing_overtakes_the_head() -> None:
    """The head is larger than what the window leaves: later small burns wait too."""
    schedule = ReleaseSchedule(LOCAL)
    first = [burn(1, BTC, clock=100), burn(2, BTC * 9 // 10, clock=100)]
    schedule.apply_block(1, 100, first, 0)
    assert len(schedule.apply_block(2, 103, [], 0)) == 2
    schedule.apply_block(3, 103, [burn(3, BTC // 5, clock=103), burn(4, 20_000, clock=103)], 0)
    assert schedule.apply_block(4, 104, [], 0) == ()
    place = schedule.place(burn(4, 0).burn_id)
    assert place is not None
    assert (place.stage, place.position, place.ahead_sats) == (BurnStage.READY, 1, BTC // 5)
    assert (place.cap_window, place.cap_free_at) == (6, 109)
    assert schedule.apply_block(5, 108, [], 0) == ()
    assert [r.burn.burn_id[-1] for r in schedule.apply_block(6, 109, [], 0)] == [3, 4]


def test_exact_fit_is_released_and_one_satoshi_more_is_not() -> None:
    for extra, count in ((0, 2), (1, 1)):
        schedule = ReleaseSchedule(LOCAL)
        schedule.apply_block(1, 100, [burn(1, BTC, clock=90), burn(2, BTC + extra, clock=90)], 0)
        big = replace(LOCAL, payout_cap_sats=2 * BTC)
        schedule._parameters = big
        assert len(schedule.apply_block(2, 100, [], 0)) == count


def test_every_window_binds() -> None:
    schedule = ReleaseSchedule(LOCAL)
    burns = [burn(n, BTC, clock=0) for n in range(8)]
    schedule.apply_block(1, 100, burns, 0)
    clocks = [100 + 6 * step for step in range(8)]
    counts = [len(schedule.apply_block(2 + at, clock, [], 0)) for at, clock in enumerate(clocks)]
    assert counts == [2, 2, 1, 0, 2, 1, 0, 0]


def test_percentage_cap_grows_with_what_circulates() -> None:
    schedule = ReleaseSchedule(replace(LOCAL, payout_cap_sats=5 * BTC))
    schedule.apply_block(1, 100, [burn(1, 4 * BTC, clock=90)], 0)
    assert schedule.apply_block(2, 100, [], 4 * BTC - 1) == ()
    assert len(schedule.apply_block(3, 100, [], 4 * BTC)) == 1


def test_percentage_cap_counts_what_was_released_as_gone() -> None:
    caps = (WindowCap(6, 0, 5_000),)
    schedule = ReleaseSchedule(replace(LOCAL, caps=caps))
    schedule.apply_block(1, 100, [burn(1, BTC // 2, clock=90), burn(2, 1, clock=90)], BTC)
    assert len(schedule.apply_block(2, 100, [], BTC)) == 1
    assert schedule.apply_block(3, 105, [], BTC) == ()
    assert len(schedule.apply_block(4, 106, [], BTC)) == 1


def test_burn_over_the_payout_cap_is_held_and_blocks_nobody() -> None:
    schedule = ReleaseSchedule(LOCAL)
    schedule.apply_block(1, 100, [burn(1, BTC + 1, clock=90), burn(2, BTC, clock=90)], 0)
    released = schedule.apply_block(2, 100, [], 0)
    assert [r.burn.burn_id[-1] for r in released] == [2]
    place = schedule.place(burn(1, 0).burn_id)
    assert place is not None and place.stage is BurnStage.HELD_OVERSIZE


def test_burn_that_a_lowered_cap_made_too_large_is_held_at_the_head() -> None:
    schedule = ReleaseSchedule(LOCAL)
    waiting = [burn(1, BTC, clock=90), burn(2, BTC, clock=90), burn(3, BTC, clock=90)]
    schedule.apply_block(1, 100, waiting, 0)
    assert len(schedule.apply_block(2, 100, [], 0)) == 2
    schedule._parameters = replace(LOCAL, payout_cap_sats=BTC - 1)
    assert schedule.apply_block(3, 106, [burn(4, 20_000, clock=106)], 0) == ()
    assert len(schedule.apply_block(4, 106, [], 0)) == 1


def test_queue_is_a_function_of_height_and_paid() -> None:
    schedule = ReleaseSchedule(LOCAL)
    schedule.apply_block(1, 100, [burn(1, 30_000), burn(2, 30_000)], 0)
    schedule.apply_block(2, 100, [burn(3, 30_000, height=2)], 0)
    schedule.apply_block(3, 101, [], 0)
    ids = [burn(n, 0).burn_id for n in (1, 2, 3)]
    assert [b.burn_id for b in schedule.queue(1, frozenset())] == []
    assert [b.burn_id for b in schedule.queue(2, frozenset())] == ids[:2]
    assert [b.burn_id for b in schedule.queue(9, frozenset(ids[:1]))] == ids[1:]


def test_clock_that_goes_back_is_a_bug() -> None:
    schedule = ReleaseSchedule(LOCAL)
    schedule.apply_block(1, 100, [], 0)
    with pytest.raises(InvariantError):
        schedule.apply_block(2, 99, [], 0)


STEPS = st.lists(
    st.tuples(st.integers(0, 4), st.lists(st.integers(20_000, BTC + BTC // 5), max_size=4)),
    min_size=1,
    max_size=25,
)


def naive(parameters: PegParameters, steps: list[tuple[int, list[int]]]) -> list[tuple[int, int]]:
    """The schedule again, from the words of the protocol: (burn number, clock)."""
    out: list[tuple[int, int, int]] = []
    waiting: list[tuple[int, int, int]] = []
    ready: deque[tuple[int, int]] = deque()
    clock, number = 100, 0
    for step, amounts in steps:
        clock += step
        still = []
        for this, amount, born in waiting:
            if amount >= parameters.large_sats and clock < born + parameters.large_delay:
                still.append((this, amount, born))
            elif amount <= parameters.payout_cap_sats:
                ready.append((this, amount))
        waiting = still
        while ready:
            this, amount = ready[0]
            sums = [sum(a for _, a, c in out if c > clock - cap.window) for cap in parameters.caps]
            if any(s + amount > c.abs_sats for s, c in zip(sums, parameters.caps, strict=True)):
                break
            ready.popleft()
            out.append((this, amount, clock))
        for amount in amounts:
            waiting.append((number, amount, clock))
            number += 1
    return [(this, clock) for this, _, clock in out]


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_schedule_agrees_with_the_words_and_keeps_every_cap(
    steps: list[tuple[int, list[int]]],
) -> None:
    schedule = ReleaseSchedule(LOCAL)
    clock, number = 100, 0
    for height, (step, amounts) in enumerate(steps, start=1):
        clock += step
        burns = []
        for amount in amounts:
            burns.append(burn(number, amount, clock=clock, height=height))
            number += 1
        schedule.apply_block(height, clock, burns, 0)
    found = [(int.from_bytes(r.burn.burn_id, "big"), r.clock) for r in schedule.releases]
    assert found == naive(LOCAL, steps)
    for cap in LOCAL.caps:
        for at in range(100, clock + 1):
            window = [r for r in schedule.releases if at - cap.window < r.clock <= at]
            assert sum(r.burn.amount_sats for r in window) <= cap.abs_sats
