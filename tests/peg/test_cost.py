"""What a batch costs beside its floor (issue of cost; peg:P17, N20)."""

import pytest

from peg.cost import batch_cost
from peg.parameters import LOCAL
from sidechain.errors import InvariantError


@pytest.mark.parametrize(("n", "k"), [(4, 3), (15, 11)])
@pytest.mark.parametrize("payouts", [1, 10, 50, 100])
def test_batch_when_signed_then_its_fee_is_within_two_percent_of_the_floor(
    n: int, k: int, payouts: int
) -> None:
    cost = batch_cost(LOCAL, n=n, k=k, payouts=payouts, rate_sats_per_kvb=2_000)
    assert (cost.n, cost.k, cost.payouts) == (n, k, payouts)
    assert cost.inputs == {1: 1, 10: 2, 50: 2, 100: 3}[payouts]
    assert cost.floor_fee_sats <= cost.fee_sats <= cost.floor_fee_sats * 102 // 100
    # Signatures are rarely of the largest size: never more than billed, seldom much less.
    assert cost.billed_vsize * 98 // 100 <= cost.vsize <= cost.billed_vsize


def test_floor_when_counted_by_hand_then_the_same() -> None:
    cost = batch_cost(LOCAL, n=4, k=3, payouts=1, rate_sats_per_kvb=1_000)
    script = 1 + 4 * 34 + 1 + 1 + 2 + 3 + 2 + 1 + 3 * 34 + 1 + 1 + 1
    witness = 1 + 1 + 3 * 73 + 1 + script
    outputs = (8 + 1 + 34) + (8 + 1 + 42) + (8 + 1 + 22)
    base = 4 + 1 + 41 + 1 + outputs + 4
    assert cost.floor_vsize == -(-(4 * base + 2 + witness) // 4)


def test_cost_when_no_such_batch_is_possible_then_says_so() -> None:
    with pytest.raises(InvariantError, match="no batch of 101"):
        batch_cost(LOCAL, n=4, k=3, payouts=101, rate_sats_per_kvb=2_000)
