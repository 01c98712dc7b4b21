"""The book, the halts and the state digest (peg:3.9, peg:7, peg:P33)."""

from dataclasses import replace
from typing import Any

import pytest

from peg.digests import HEIGHTS_KEPT, DigestWatch
from peg.reserves import Book, Halt, chain_halts, state_digest, stops_selection
from sidechain.crypto.hashes import sha256, tagged_hash
from sidechain.primitives.transaction import OutPoint

BOOK = Book(
    reserve_sats=105_001_000,
    claimed_sats=100_000_000,
    feeburn_sats=1_000,
    burned_sats=40_030_000,
    unpaid_sats=19_997_500,
    pending_fee_sats=2_500,
    suspense_sats=30_000,
    vanished_sats=0,
    opened_sats=5_000_000,
    donated_sats=20_000_000,
    earned_sats=2_500,
    bitcoin_fee_sats=2_500,
)


def test_identity_and_flows_give_the_same_pool() -> None:
    assert BOOK.circulating_sats == 100_000_000 - 1_000 - 40_030_000
    assert BOOK.liabilities_sats == BOOK.circulating_sats + 19_997_500 + 2_500 + 30_000
    assert BOOK.pool_sats == 25_001_000
    assert BOOK.pool_by_identity_sats == 105_001_000 - BOOK.liabilities_sats
    assert BOOK.difference_sats == BOOK.pool_by_identity_sats - BOOK.pool_sats


BALANCED = replace(BOOK, reserve_sats=BOOK.liabilities_sats + BOOK.pool_sats)


def halts(book: Book = BALANCED, **changes: Any) -> tuple[Halt, ...]:
    facts: dict[str, Any] = {
        "broken": False,
        "inflated": False,
        "oldest_blocks_left": None,
        "csv_stop": 24,
        **changes,
    }
    return chain_halts(book, **facts)


def test_sound_book_halts_nothing() -> None:
    assert halts() == ()
    assert not stops_selection(())


@pytest.mark.parametrize(
    ("found", "expected", "stops"),
    [
        (halts(broken=True), Halt.BROKEN, False),
        (halts(replace(BALANCED, bitcoin_fee_sats=10**9)), Halt.POOL_NEGATIVE, True),
        (halts(replace(BALANCED, reserve_sats=1)), Halt.MISMATCH, False),
        (halts(inflated=True), Halt.INFLATION, True),
        (halts(oldest_blocks_left=23), Halt.COIN_AGE, True),
    ],
)
def test_halt_and_whether_it_enters_selection(
    found: tuple[Halt, ...], expected: Halt, stops: bool
) -> None:
    """N11: a local mismatch never enters selection, which must be equal on all members."""
    assert expected in found
    assert stops_selection((expected,)) is stops


def test_vanished_deposits_halt_only_when_reserves_do_not_cover() -> None:
    covered = replace(BALANCED, vanished_sats=10)
    assert Halt.VANISHED not in halts(covered)
    short = replace(BALANCED, vanished_sats=10, reserve_sats=BALANCED.liabilities_sats - 1)
    assert Halt.VANISHED in halts(short)
    assert stops_selection((Halt.VANISHED,))


def test_coin_at_the_stop_is_still_allowed() -> None:
    assert halts(oldest_blocks_left=24) == ()


FIELDS: dict[str, Any] = {
    "height": 7,
    "committed_hash": b"\x01" * 32,
    "index": 3,
    "anchor": OutPoint(b"\x02" * 32, 5),
    "paid_hash": sha256(b"\x03" * 36 + b"\x04" * 36),
    "open_txid": b"\x05" * 32,
    "reserve_sats": 10,
    "pool_sats": -2,
}


def test_state_digest_bytes() -> None:
    """P33: the fields, in their order and size."""
    body = bytes.fromhex("07000000") + b"\x01" * 32
    body += bytes.fromhex("03000000") + b"\x02" * 32 + bytes.fromhex("05000000")
    body += sha256(b"\x03" * 36 + b"\x04" * 36) + b"\x05" * 32
    body += bytes.fromhex("0a00000000000000" + "feffffffffffffff")
    assert state_digest(**FIELDS) == tagged_hash("fedpeg/state", body)


def test_state_digest_before_open() -> None:
    before = {"anchor": None, "open_txid": None, "paid_hash": sha256(b""), "index": 0}
    found = state_digest(**{**FIELDS, **before})
    body = bytes.fromhex("07000000") + b"\x01" * 32 + bytes(4 + 36) + sha256(b"") + bytes(32)
    body += bytes.fromhex("0a00000000000000" + "feffffffffffffff")
    assert found == tagged_hash("fedpeg/state", body)


@pytest.mark.parametrize("name", list(FIELDS))
def test_state_digest_binds_every_field(name: str) -> None:
    other: dict[str, Any] = {
        "height": 8,
        "committed_hash": bytes(32),
        "index": 4,
        "anchor": OutPoint(b"\x02" * 32, 6),
        "paid_hash": sha256(b"\x03" * 36),
        "open_txid": None,
        "reserve_sats": 11,
        "pool_sats": -3,
    }
    assert state_digest(**{**FIELDS, name: other[name]}) != state_digest(**FIELDS)


def test_digest_watch_compares_at_equal_heights_whoever_is_first() -> None:
    watch = DigestWatch(byzantine_tolerated=1)
    watch.hear(1, 5, b"x")
    watch.hear(2, 6, b"b")
    watch.compute(5, b"a")
    watch.compute(6, b"b")
    assert watch.differing == (1,)
    watch.hear(2, 6, b"y")
    assert watch.too_many_differ
    watch.hear(1, 6, b"b")
    assert not watch.too_many_differ
    watch.hear(1, 5, b"z")
    assert watch.differing == (2,)


def test_digest_watch_is_bounded() -> None:
    watch = DigestWatch(byzantine_tolerated=0)
    for height in range(2 * HEIGHTS_KEPT):
        watch.compute(height, b"a")
    watch.hear(1, 0, b"b")
    assert not watch.differing
