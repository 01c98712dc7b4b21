"""A crash at every write: the chain is at a whole block, its coins are right, and it goes on."""

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidechain.chain import Chain
from sidechain.primitives.block import Block
from sidechain.storage.leveldb import Database
from tests.factories import ALICE, BOB, SignedChain
from tests.sidechain.block_pool import NOW_S, BlockPool, submit

REPOSITORY = Path(__file__).resolve().parents[2]


class Crash(BaseException):
    """The process ends here; nothing of ours may catch it."""


class CrashingDatabase:
    """A database after whose n-th write from now on nothing happens any more."""

    def __init__(self, real: Database, writes_left: int, *, keeps_last: bool) -> None:
        self._real = real
        self._left = writes_left
        self._keeps_last = keeps_last

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def write(self, puts: Mapping[bytes, bytes], deletes: Sequence[bytes] = ()) -> None:
        """Write, or crash before or right after the write."""
        self._left -= 1
        if self._left > 0:
            self._real.write(puts, deletes)
            return
        if self._keeps_last:
            self._real.write(puts, deletes)
        raise Crash


@dataclass(frozen=True, slots=True)
class Scene:
    """Blocks that are in the chain, what is then done to it, and the tip that follows."""

    before: list[Block]
    act: Callable[[Chain], object]
    tip_after: bytes


def payments(pool: BlockPool) -> tuple[list[Block], list[Block]]:
    """Two branches that spend the same coins in other ways; the second one is longer."""
    signed = pool.signed
    coins = [signed.mint(ALICE, 10**8) for _ in range(2)]
    trunk = [signed.chain.block(height) for height in (1, 2)]
    for block in trunk:
        pool.blocks[block.hash] = block
    branches = []
    for owner, length in ((ALICE, 3), (BOB, 4)):
        branch: list[Block] = []
        for number in range(length):
            parent = branch[-1].hash if branch else trunk[-1].hash
            pool.at(parent)
            spends = coins[number : number + 1]
            made = [signed.payment(ALICE, spends, [(owner.script, 10**6)])] if spends else []
            branch.append(pool.block(parent, made))
        branches.append(branch)
    return [*trunk, *branches[0]], branches[1]


def scenes(pool: BlockPool) -> dict[str, Scene]:
    """What is done, by name."""
    main, side = payments(pool)
    (following,) = pool.line(main[-1].hash, 1)
    return {
        "next": Scene(main, lambda chain: submit(chain, following), following.hash),
        "reorganise": Scene(
            [*main, *side[:-1]], lambda chain: submit(chain, side[-1]), side[-1].hash
        ),
        "whole branch": Scene(main, lambda chain: submit(chain, *side), side[-1].hash),
        "invalidate": Scene(
            [*main, side[0]],
            lambda chain: chain.invalidate_block(main[2].hash, facts=None, now_s=NOW_S),
            side[0].hash,
        ),
    }


def coins_of(chain: Chain) -> list[object]:
    return list(chain.coins())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["next", "reorganise", "whole branch", "invalidate"])
@pytest.mark.parametrize("keeps_last", [False, True])
def test_chain_when_it_crashes_at_any_write_then_at_a_whole_block_and_goes_on(
    tmp_path: Path, name: str, keeps_last: bool
) -> None:
    pool = BlockPool(tmp_path / "pool")
    scene = scenes(pool)[name]
    crashed, at = True, 0
    tips = set()
    while crashed:
        at += 1
        folder = tmp_path / f"chain {at}"
        chain = Chain.open(folder, pool.signed.params)
        submit(chain, *scene.before)
        state = chain._state
        real = state._database
        state._database = CrashingDatabase(real, at, keeps_last=keeps_last)  # type: ignore[assignment]
        crashed = False
        try:
            scene.act(chain)
        except Crash:
            crashed = True
        real.close()
        again = Chain.open(folder, pool.signed.params)
        tips.add(again.tip_hash)
        assert coins_of(again) == coins_of(pool.at(again.tip_hash).chain)
        assert again.verify(level=4, blocks=0)
        scene.act(again)
        assert again.tip_hash == scene.tip_after
        assert coins_of(again) == coins_of(pool.at(scene.tip_after).chain)
        again.close()
    assert scene.tip_after in tips
    pool.close()


def test_next_block_when_it_crashes_then_old_or_new_tip_in_one_write(tmp_path: Path) -> None:
    pool = BlockPool(tmp_path / "pool")
    scene = scenes(pool)["next"]
    for keeps_last, expected in ((False, scene.before[-1].hash), (True, scene.tip_after)):
        folder = tmp_path / f"chain {keeps_last}"
        chain = Chain.open(folder, pool.signed.params)
        submit(chain, *scene.before)
        real = chain._state._database
        crashing = CrashingDatabase(real, 1, keeps_last=keeps_last)
        chain._state._database = crashing  # type: ignore[assignment]
        with pytest.raises(Crash):
            scene.act(chain)
        real.close()
        again = Chain.open(folder, pool.signed.params)
        assert again.tip_hash == expected
        again.close()
    pool.close()


PROGRAM = """
import sys
from pathlib import Path
from sidechain.chain import Chain
from tests.sidechain.block_pool import NOW_S, BlockPool, submit
folder = Path(sys.argv[1])
pool = BlockPool(folder / "pool")
one, two = pool.line(pool.genesis, 5), pool.line(pool.genesis, 5)
chain = Chain.open(folder / "chain", pool.signed.params)
submit(chain, *one, *two)
print("ready", flush=True)
while True:
    for tip in (one[-1].hash, two[-1].hash):
        chain.precious_block(tip, facts=None, now_s=NOW_S)
        print(chain.tip_hash.hex(), flush=True)
"""


@pytest.mark.slow
def test_process_when_killed_while_reorganising_then_opens_at_a_whole_block(
    tmp_path: Path,
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        text=True,
    )
    assert child.stdout is not None
    with child.stdout:
        seen = [child.stdout.readline().strip() for _ in range(12)]
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=30)
    assert seen[0] == "ready" and len(set(seen[1:])) == 2
    signed = SignedChain.open(tmp_path / "pool")
    chain = Chain.open(tmp_path / "chain", signed.params)
    assert chain.tip_height == 5
    assert chain.tip_hash.hex() in seen
    assert chain.verify(level=4, blocks=0)
    straight = Chain.open(tmp_path / "straight", signed.params)
    for height in range(1, 6):
        straight.connect(chain.block(height))
    assert coins_of(straight) == coins_of(chain)
    for each in (straight, chain, signed.chain):
        each.close()
