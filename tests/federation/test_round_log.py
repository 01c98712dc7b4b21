"""Sentences that say why a round failed."""

from pathlib import Path

import pytest

from federation.consensus.effects import CheckBlock
from federation.consensus.encoding import FrameKind
from federation.consensus.events import Verdict
from federation.round_log import RoundLog, RoundStory
from tests.federation.engine_world import Lines, World, run_virtual

BLOCK = b"\x07" * 32


def story(**fields: object) -> RoundStory:
    given: dict[str, object] = {
        "round": 0,
        "proposer": 2,
        "proposed": BLOCK,
        "has_bytes": True,
        "prevotes": (0, 1, 2),
        "prevotes_nil": (),
        "precommits": (0, 1, 2),
        "precommits_nil": (),
        "missing": (),
        **fields,
    }
    return RoundStory(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "told, why",
    [
        (story(proposed=None), "no proposal came from m2"),
        (story(proposed=None, proposer=3), "no proposal came from m3, which is not connected"),
        (story(has_bytes=False), "the block that m2 proposed did not arrive"),
        (
            story(prevotes=(0, 2), missing=(1, 3)),
            "2 of 3 prevotes for the block; silent: m1, m3; here: refused: V6",
        ),
        (story(precommits=(0,)), "1 of 3 precommits for the block; here: refused: V6"),
    ],
)
def test_story_when_told_then_names_what_was_missing(told: RoundStory, why: str) -> None:
    assert told.why(3, frozenset((0, 1, 2)), {BLOCK: "refused: V6"}) == why


def test_verdict_when_the_same_again_then_told_once() -> None:
    log = Lines()
    rounds = RoundLog(log)
    order = CheckBlock(height=1, round=0, block_hash=BLOCK, data=b"")
    assert rounds.judged(order, Verdict.NOT_YET, "V2")
    assert not rounds.judged(order, Verdict.NOT_YET, "V2")
    assert rounds.judged(order, Verdict.REFUSED, "V6")
    rounds.begin_height()
    assert rounds.judged(order, Verdict.REFUSED, "V6")
    assert len(log.of("block_judged")) == 3


def test_round_when_blocks_are_lost_or_disliked_then_the_reason_is_told(tmp_path: Path) -> None:
    async def told(folder: Path, **attributes: object) -> list[str]:
        world = World(folder, first_epoch_blocks=1)
        if "lost" in attributes:
            world.lost = attributes.pop("lost")  # type: ignore[assignment]
        processes = world.start_all(**attributes)
        await world.until(lambda: all(p.log.of("round_failed") for p in processes))
        found = [p.log.of("round_failed")[0]["why"] for p in processes]
        await world.close()
        return found

    folders = [tmp_path / name for name in ("lost", "disliked")]
    for folder in folders:
        folder.mkdir()

    async def main() -> None:
        lost = await told(
            folders[0], lost=lambda source, to, kind: kind in (FrameKind.BLOCK, FrameKind.GET_BLOCK)
        )
        assert sum("did not arrive" in why for why in lost) == 3
        disliked = await told(folders[1], opinion=(True, False, "V6: fee rate"))
        assert all("0 of 3 prevotes" in why and "V6: fee rate" in why for why in disliked)

    run_virtual(main())
