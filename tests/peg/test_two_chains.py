"""The auditor of two chains on books made by hand; on real chains: test_real_reorgs.py."""

from typing import Any

import pytest

from peg.lanes import encode_unsigned
from peg.parameters import LOCAL
from sidechain.params import ChainParams
from sidechain.primitives.parent import parse_parent_tx
from sidechain.primitives.transaction import OutPoint
from tests.peg.two_chains import Branch, CaughtByChains, Coin, Side, TwoChains

ANCHOR, DEPOSIT, CHANGE = (OutPoint(bytes((at,)) * 32, 0) for at in (1, 2, 3))
ANCHOR_SATS, DEPOSIT_SATS = 10_000, 50_000
PROGRAM, PAYEE, MARKER = b"\x00\x20" + bytes(32), b"\x00\x14" + bytes(20), b"\x6a"


def auditor() -> TwoChains:
    """One that is asked for its sums alone, and needs no node and no parameters of a chain."""
    params: ChainParams = object.__new__(ChainParams)
    node: Any = None
    return TwoChains(node, [], params, LOCAL, fed_program=PROGRAM, base_height=0)


def after_a_batch(fee_sats: int, *, is_excused: bool) -> tuple[Side, Branch]:
    """An anchor and a deposit went into one batch that left a fee to miners."""
    side = Side(committed_height=9, opened=ANCHOR, claimed={DEPOSIT: DEPOSIT_SATS})
    left_sats = ANCHOR_SATS + DEPOSIT_SATS - fee_sats
    branch = Branch(
        9,
        coins={CHANGE: Coin(left_sats, 9, "anchor")},
        spent={ANCHOR: Coin(ANCHOR_SATS, 1, "anchor"), DEPOSIT: Coin(DEPOSIT_SATS, 2, "deposit")},
        fees_sats=fee_sats,
        excused_fees_sats=fee_sats if is_excused else 0,
    )
    return side, branch


def test_fees_up_to_the_pool_are_a_good_book() -> None:
    """I5, P18."""
    book = auditor()._book(*after_a_batch(ANCHOR_SATS, is_excused=False))
    assert (book.pool_sats, book.liabilities_sats) == (0, DEPOSIT_SATS)


def test_fees_from_the_deposits_are_caught_though_both_sums_agree() -> None:
    """I5, P18: a satoshi more than the pool held."""
    with pytest.raises(CaughtByChains, match="the pool is -1"):
        auditor()._book(*after_a_batch(ANCHOR_SATS + 1, is_excused=False))


def test_expiry_and_cancel_may_overdraw_the_pool() -> None:
    """P24."""
    book = auditor()._book(*after_a_batch(ANCHOR_SATS + 1, is_excused=True))
    assert book.pool_sats == -1


def test_coin_that_is_missing_is_caught() -> None:
    """I5."""
    side, branch = after_a_batch(ANCHOR_SATS, is_excused=False)
    branch.coins.clear()
    with pytest.raises(CaughtByChains, match="I5: 0 held"):
        auditor()._book(side, branch)


@pytest.mark.parametrize(
    ("age", "scripts", "is_excused"),
    [
        (LOCAL.csv - LOCAL.sweep_window - 1, [MARKER, PAYEE], False),
        (LOCAL.csv - LOCAL.sweep_window, [MARKER, PAYEE], True),
        (1, [MARKER], True),
    ],
)
def test_fees_are_excused_of_old_coins_and_of_batches_that_pay_nobody(
    age: int, scripts: list[bytes], is_excused: bool
) -> None:
    """P24: the window begins W_sweep blocks before the lock ends; age counts its own block."""
    branch = Branch(1_000, coins={ANCHOR: Coin(ANCHOR_SATS, 1_001 - age, "anchor")})
    outputs = [(ANCHOR_SATS - 700, PROGRAM), *((0, script) for script in scripts)]
    batch = parse_parent_tx(encode_unsigned([ANCHOR], outputs))
    auditor()._take_spend(branch, batch, [ANCHOR])
    assert (branch.fees_sats, branch.excused_fees_sats) == (700, 700 if is_excused else 0)
