"""`fedpeg bench peg` on a running federation."""

import pytest

from tests.e2e.local import Local

pytestmark = pytest.mark.e2e
UP: tuple[str, ...] = ()


def test_bench_peg_when_burns_are_made_then_each_is_broadcast_and_the_cost_is_shown(
    local: Local,
) -> None:
    found = local.run("bench", "peg", "--burns", "2", "--json").json
    assert [row["payouts"] for row in found["cost"]] == [1, 10, 50, 100] * 2
    assert all(row["ratio_to_floor"] <= 1.02 for row in found["cost"])
    delay = found["delay"]
    assert delay["burns"] == 2
    assert 1 <= delay["parent_blocks_p50"] <= delay["parent_blocks_max"] <= 6
    assert local.audit()["equal"]
