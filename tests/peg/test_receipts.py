"""Status of a burn and the reasons shown with it (peg:12)."""

from dataclasses import replace
from typing import Any

import pytest

from peg.batches import Idle
from peg.limits import BurnCode, BurnStage, QueuePlace
from peg.parameters import LOCAL
from peg.receipts import BurnFacts, Payment, latest_clock, standing
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


def test_expected_clock_counts_delay_or_queue_and_what_follows() -> None:
    rest = LOCAL.batch_wait + LOCAL.commit_depth + LOCAL.ladder_step + 1
    delayed = replace(FACTS, place=QueuePlace(stage=BurnStage.DELAYED, until_clock=110))
    assert latest_clock(delayed, LOCAL, clock=100, now_sats=1) == 110 + rest
    queued = replace(FACTS, place=QueuePlace(stage=BurnStage.READY, ahead_sats=101))
    assert latest_clock(queued, LOCAL, clock=100, now_sats=50) == 103 + rest


def test_json_shows_amounts_address_and_payment() -> None:
    facts = replace(FACTS, payment=replace(PAID, committed=True, depth=7))
    shown_json = burn_json(facts, LOCAL, BITCOIN_REGTEST, clock=100, backing_sats=0)
    assert shown_json["status"] == "SETTLED"
    assert shown_json["payout_sats"] == 100_000
    assert shown_json["address"].startswith("bcrt1")
    assert shown_json["txid"] == "01" * 32
    assert parse_outpoint(shown_json["burn"]).serialize() == facts.burn.burn_id


@pytest.mark.parametrize("text", ["", "00", "00:1", "zz" * 32 + ":0", "00" * 32, "00" * 32 + ":x"])
def test_outpoint_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidEncoding):
        parse_outpoint(text)


def test_outpoint_text_is_reversed_hex() -> None:
    assert parse_outpoint("ff" + "00" * 31 + ":7") == OutPoint(bytes(31) + b"\xff", 7)
