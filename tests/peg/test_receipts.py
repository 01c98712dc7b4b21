"""Status of a burn and the reasons shown with it (peg:12)."""

from dataclasses import replace
from typing import Any

import pytest

from peg.batches import Idle
from peg.limits import BurnCode, BurnStage, QueuePlace
from peg.parameters import LOCAL
from peg.receipts import BurnFacts, Pace, Payment, eta, expected_versions, standing
from peg.reserves import Halt
from peg.status import burn_json, parse_outpoint
from sidechain.errors import InvalidEncoding
from sidechain.params import BITCOIN_REGTEST
from sidechain.primitives.transaction import OutPoint
from tests.peg.test_batches import burn, opened

FACTS = BurnFacts(
    burn=burn(1),
    place=QueuePlace(stage=BurnStage.RELEASED),
    batch=None,
    payment=None,
    idle=None,
    halts=(),
    reset_pending=False,
)
PAID = Payment(txid=b"\x01" * 32, vout=2, depth=1, committed=False)


def shown(**changes: Any) -> tuple[str, tuple[str, ...]]:
    found = standing(replace(FACTS, **changes), LOCAL)
    return found.status, found.reasons


@pytest.mark.parametrize(
    ("changes", "status", "reasons"),
    [
        ({"burn": replace(burn(1), code=BurnCode.SCRIPT)}, "E3_SCRIPT", ()),
        ({"place": None}, "OK", ("WAIT_COMMIT",)),
        (
            {"place": QueuePlace(stage=BurnStage.DELAYED, until_clock=9)},
            "DELAYED",
            ("UNTIL(9)",),
        ),
        ({"place": QueuePlace(stage=BurnStage.HELD_OVERSIZE)}, "HELD_OVERSIZE", ()),
        (
            {"place": QueuePlace(stage=BurnStage.READY, cap_window=6, cap_free_at=9)},
            "READY",
            ("CAP(6, 9)", "WAIT_COMMIT"),
        ),
        ({}, "RELEASED", ("WAIT_COMMIT",)),
        ({"idle": Idle.FEE_POOL_LOW}, "RELEASED", ("FEE_POOL_LOW", "WAIT_COMMIT")),
        ({"idle": Idle.INSOLVENT}, "RELEASED", ("INSOLVENT", "WAIT_COMMIT")),
        ({"idle": Idle.NO_TRIGGER}, "RELEASED", ("WAIT_COMMIT",)),
        ({"reset_pending": True}, "RELEASED", ("RESET_PENDING",)),
        ({"halts": (Halt.INFLATION,)}, "RELEASED", ("HALTED(X5)",)),
        ({"batch": opened()}, "BATCHED", ("WAIT_COMMIT",)),
        ({"batch": opened(), "payment": PAID}, "CONFIRMED", ("WAIT_COMMIT",)),
        ({"payment": replace(PAID, committed=True, depth=5)}, "CONFIRMED", ()),
        ({"payment": replace(PAID, committed=True, depth=6)}, "SETTLED", ()),
        ({"payment": replace(PAID, depth=6)}, "CONFIRMED", ("WAIT_COMMIT",)),
        ({"payment": replace(PAID, committed=True, depth=0)}, "RELEASED", ("WAIT_COMMIT",)),
    ],
)
def test_status_by_facts(changes: dict[str, Any], status: str, reasons: tuple[str, ...]) -> None:
    assert shown(**changes) == (status, reasons)


PACE = Pace(clock=100, cap_sats=50, rate_sats_per_kvb=1_000)
SHORTEST, WAIT = LOCAL.commit_depth + 1, LOCAL.batch_wait + LOCAL.ladder_step


def expected(pace: Pace = PACE, **changes: Any) -> tuple[int, int | None] | None:
    found = eta(replace(FACTS, **changes), LOCAL, pace)
    return None if found is None else (found.earliest_clock, found.latest_clock)


def test_eta_is_a_range_that_counts_delay_queue_and_what_follows() -> None:
    """peg:12"""
    assert expected() == (100 + SHORTEST, 100 + SHORTEST + WAIT)
    delayed = QueuePlace(stage=BurnStage.DELAYED, until_clock=110)
    assert expected(place=delayed) == (110 + SHORTEST, 110 + SHORTEST + WAIT)
    queued = QueuePlace(stage=BurnStage.READY, ahead_sats=101)
    assert expected(place=queued) == (103 + SHORTEST, 103 + SHORTEST + WAIT)
    capped = QueuePlace(stage=BurnStage.READY, cap_window=6, cap_free_at=105, ahead_sats=1)
    assert expected(place=capped) == (105 + SHORTEST, 105 + SHORTEST + WAIT)
    assert expected(paused_until=107) == (107 + SHORTEST, 107 + SHORTEST + WAIT)
    in_batch = expected(batch=opened())
    assert in_batch == (100 + SHORTEST, 100 + SHORTEST + LOCAL.ladder_step)


def test_eta_counts_the_versions_that_recent_rates_make_likely() -> None:
    """peg:12, P17: 1,000 · 1.3^6 is the first above 4,000."""
    assert expected_versions(1_000, ()) == expected_versions(1_000, (1_000,)) == 0
    assert expected_versions(1_000, (1_001,)) == 1
    assert expected_versions(1_000, (4_000,)) == 6
    assert expected_versions(1_000, (900,) * 9 + (4_000,)) == 0
    assert expected_versions(1_000, (900,) * 8 + (4_000,) * 2) == 6
    steps = 6 * LOCAL.ladder_step + LOCAL.batch_wait
    found = expected(replace(PACE, recent_rates=(4_000,)))
    assert found == (100 + SHORTEST, 100 + SHORTEST + steps)


@pytest.mark.parametrize(
    "changes",
    [
        {"halts": (Halt.INFLATION,)},
        {"reset_pending": True},
        {"idle": Idle.FEE_POOL_LOW},
        {"idle": Idle.INSOLVENT},
        {"place": QueuePlace(stage=BurnStage.EXCLUDED)},
        {"place": QueuePlace(stage=BurnStage.HELD_OVERSIZE)},
        {"place": QueuePlace(stage=BurnStage.READY, cap_window=6)},
    ],
)
def test_eta_has_no_latest_where_somebody_has_to_act(changes: dict[str, Any]) -> None:
    found = expected(**changes)
    assert found is not None and found[0] == 100 + SHORTEST and found[1] is None


def test_eta_is_none_of_what_is_paid_or_never_will_be() -> None:
    assert expected(payment=PAID) is None
    assert expected(burn=replace(burn(1), code=BurnCode.SCRIPT), place=None) is None
    held = QueuePlace(stage=BurnStage.HELD_OVERSIZE, approved=True)
    assert (expected(place=held) or (0, None))[1] is not None


def test_json_shows_amounts_address_and_payment() -> None:
    facts = replace(FACTS, payment=replace(PAID, committed=True, depth=7))
    shown_json = burn_json(facts, LOCAL, BITCOIN_REGTEST, PACE)
    assert shown_json["status"] == "SETTLED"
    assert shown_json["payout_sats"] == 100_000
    assert shown_json["address"].startswith("bcrt1")
    assert shown_json["txid"] == "01" * 32 and shown_json["eta"] is None
    waiting = burn_json(FACTS, LOCAL, BITCOIN_REGTEST, PACE)["eta"]
    assert waiting["reason"] == "WAIT_COMMIT" and waiting["latest_clock"]
    assert parse_outpoint(shown_json["burn"]).serialize() == facts.burn.burn_id


@pytest.mark.parametrize("text", ["", "00", "00:1", "zz" * 32 + ":0", "00" * 32, "00" * 32 + ":x"])
def test_outpoint_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidEncoding):
        parse_outpoint(text)


def test_outpoint_text_is_reversed_hex() -> None:
    assert parse_outpoint("ff" + "00" * 31 + ":7") == OutPoint(bytes(31) + b"\xff", 7)
