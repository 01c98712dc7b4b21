"""What is told of a catch-up (consensus:C54)."""

from federation.sync_progress import TOLD_EVERY_MS, WORTH_TELLING_BLOCKS, SyncProgress


def test_lag_when_small_then_nothing_is_told() -> None:
    progress = SyncProgress()
    assert progress.look(10, 0, 0) is None
    assert progress.look(10, WORTH_TELLING_BLOCKS - 1, 0) is None
    assert progress.to_tell(10, 1, TOLD_EVERY_MS) is None


def test_catch_up_when_under_way_then_rate_and_rest_are_told_and_its_end() -> None:
    progress = SyncProgress()
    begun = progress.look(200, 9_800, 1_000)
    assert begun is not None and (begun.blocks_per_s, begun.eta_s) == (0, None)
    assert begun.text == "catching up: 200 of 10,000"
    assert progress.to_tell(500, 9_500, 2_000) is None
    told = progress.to_tell(4_200, 5_800, 11_000)
    assert told is not None and (told.blocks_per_s, told.eta_s) == (400, 15)
    assert told.text == "catching up: 4,200 of 10,000, 400 blocks/s, 15 s left"
    assert told.to_json() == {"height": 4_200, "target": 10_000, "blocks_per_s": 400, "eta_s": 15}
    assert progress.to_tell(4_300, 5_700, 11_100) is None
    ended = progress.to_tell(10_001, 0, 31_000)
    assert ended is not None and (ended.height, ended.eta_s) == (10_001, 0)
    assert progress.to_tell(10_001, 0, 40_000) is None


def test_catch_up_when_nothing_moves_then_no_rest_is_guessed() -> None:
    progress = SyncProgress()
    progress.look(200, 9_800, 0)
    stuck = progress.look(200, 9_800, 60_000)
    assert stuck is not None and (stuck.blocks_per_s, stuck.eta_s) == (0, None)
