"""Parts of the measuring tool that need no federation."""

import pytest

from federation.bench import COIN_SATS, Payer
from federation.load.report import spread
from sidechain.primitives.transaction import OutPoint, Transaction, TxIn
from tests.factories import federation_params, output


@pytest.mark.parametrize(
    "values, found",
    [
        ([], {}),
        ([5], {"min": 5, "p50": 5, "p90": 5, "p99": 5, "max": 5}),
        (list(range(1, 101)), {"min": 1, "p50": 50, "p90": 90, "p99": 99, "max": 100}),
        ([3, 1, 2], {"min": 1, "p50": 2, "p90": 3, "p99": 3, "max": 3}),
        ([0.16], {"min": 0.2, "p50": 0.2, "p90": 0.2, "p99": 0.2, "max": 0.2}),
    ],
)
def test_spread_when_of_few_or_many_then_nearest_rank(
    values: list[float], found: dict[str, float]
) -> None:
    assert spread(values) == found


def test_payer_when_given_coins_then_splits_and_pays_each_once() -> None:
    params = federation_params()
    payer = Payer(params)
    funding = Transaction.build(
        inputs=[TxIn(OutPoint(b"\x01" * 32, 0))],
        outputs=[output(params, payer.script, 10_000_000), output(params, b"", 500)],
    )
    payer.receive(funding, 1)
    split = payer.split(20)
    mine = [out for out in split.outputs if out.script == payer.script]
    assert [out.value_sats for out in mine[:20]] == [COIN_SATS] * 20
    payer.receive(split, 2)
    spent = [payer.pay().inputs[0].prevout for _ in range(20)]
    assert len(set(spent)) == 20 and all(point.txid == split.txid for point in spent)
