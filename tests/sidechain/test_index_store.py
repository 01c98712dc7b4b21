"""The index on disk against an index computed the slow way, on the recorded chain."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sidechain.errors import InvariantError, Unavailable
from sidechain.index import store as store_module
from sidechain.index.rows import BlockRows, Place, block_rows
from sidechain.index.store import BEFORE_GENESIS, IndexStore
from sidechain.primitives.transaction import OutPoint
from sidechain.storage.leveldb import Database
from tests.sidechain.index_world import (
    UnjudgedChain,
    check_equal,
    dump,
    reorganised_blocks,
)
from tests.vectors import recorded_blocks, recorded_params

REPOSITORY = Path(__file__).resolve().parents[2]
GENESIS = b"\7" * 32


def rows_of(world: UnjudgedChain, height: int) -> BlockRows:
    chain = world.chain
    return block_rows(chain.block(height), height, chain.undo(height), chain.params)


def make_rows(height: int, **changes: Any) -> BlockRows:
    """A block of one row, whose hash says its height."""
    fields: dict[str, Any] = {
        "height": height,
        "hash": bytes([height + 1]) * 32,
        "prev_hash": bytes([height]) * 32,
        "puts": {b"s" + bytes([height]) * 32 + Place(height, 0).pack(): bytes(32) + b"\1\0"},
        "sums": {},
    }
    return BlockRows(**(fields | changes))


@pytest.mark.slow
def test_recorded_chain_when_indexed_then_equal_after_every_block_and_undone(
    tmp_path: Path,
) -> None:
    world = UnjudgedChain(tmp_path / "chain")
    store = IndexStore.open(tmp_path / "index", recorded_params().genesis_hash)
    blocks = recorded_blocks()
    assert store.tip == BEFORE_GENESIS
    compared = 0
    dumps = [dump(store)]
    for height, block in enumerate(blocks):
        if height:
            world.connect(block)
        store.connect(rows_of(world, height))
        dumps.append(dump(store))
        compared = check_equal(store, blocks[: height + 1])
    for before in reversed(dumps[:-1]):
        assert store.disconnect()
        assert dump(store) == before
    assert store.tip == BEFORE_GENESIS
    with pytest.raises(InvariantError):
        store.disconnect()
    print(f"rows compared at the tip: {compared}")


def test_reorganisation_when_recorded_then_both_branches_are_indexed_right(
    tmp_path: Path,
) -> None:
    world = UnjudgedChain(tmp_path / "chain")
    store = IndexStore.open(tmp_path / "index", recorded_params().genesis_hash)
    first, second = reorganised_blocks()
    common = list(recorded_blocks())
    for block in common[1:]:
        world.connect(block)
    for height in range(len(common)):
        store.connect(rows_of(world, height))
    for branch in (first, second):
        for block in branch:
            world.connect(block)
            store.connect(rows_of(world, world.chain.tip_height))
            check_equal(store, world.blocks())
        for _ in branch:
            world.disconnect()
            assert store.disconnect()
        check_equal(store, common)


@pytest.mark.parametrize("is_written", [False, True])
def test_crash_when_at_any_write_then_at_the_block_before_or_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_written: bool
) -> None:
    """Kill points: there is one write a block, and what it holds is there as a whole."""
    real = Database.write
    steps = [("connect", 1), ("connect", 2), ("disconnect", 1), ("disconnect", 0)]
    for crash_at, (kind, height_after) in enumerate(steps):
        path = tmp_path / f"index{crash_at}"
        store = IndexStore.open(path, GENESIS)
        store.connect(make_rows(0))
        for name, height in steps[:crash_at]:
            store.connect(make_rows(height)) if name == "connect" else store.disconnect()
        before, tip = dump(store), store.tip

        def write(self: Database, *args: Any, **fields: Any) -> None:
            if is_written:
                real(self, *args, **fields)
            raise Unavailable("the machine stops")

        with monkeypatch.context() as patch, pytest.raises(Unavailable):
            patch.setattr(Database, "write", write)
            store.connect(make_rows(height_after)) if kind == "connect" else store.disconnect()
        assert store.tip == tip
        store.close()
        store = IndexStore.open(path, GENESIS)
        assert (store.tip[0] == height_after) is is_written
        assert (dump(store) == before) is not is_written
        store.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from sidechain.index.store import IndexStore
from sidechain.storage.leveldb import Database
from tests.sidechain.test_index_store import GENESIS, make_rows
store = IndexStore.open(Path(sys.argv[1]), GENESIS)
for height in range(200):
    if height == 150:
        real = Database.write
        def write(self, *args, **fields):
            if sys.argv[2] == "behind":
                real(self, *args, **fields)
            os.kill(os.getpid(), signal.SIGKILL)
        Database.write = write
    store.connect(make_rows(height))
"""


@pytest.mark.parametrize(("moment", "height"), [("before", 149), ("behind", 150)])
def test_kill_when_blocks_are_written_then_opens_at_a_whole_block(
    tmp_path: Path, moment: str, height: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "index"), moment],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    store = IndexStore.open(tmp_path / "index", GENESIS)
    assert store.tip == (height, bytes([height + 1]) * 32)
    assert sum(1 for key in dump(store) if key[:1] == b"s") == height + 1
    store.close()


def test_open_when_other_version_or_chain_or_damaged_then_empty(tmp_path: Path) -> None:
    path = tmp_path / "index"

    def filled() -> IndexStore:
        store = IndexStore.open(path, GENESIS)
        if store.tip == BEFORE_GENESIS:
            store.connect(make_rows(0))
        return store

    filled().close()
    store = filled()
    assert store.tip[0] == 0
    store._database.write({store_module.rows.VERSION_KEY: b"\0\0\0\0"})
    store.close()
    store = IndexStore.open(path, GENESIS)
    assert store.tip == BEFORE_GENESIS and len(dump(store)) == 2
    store.close()
    filled().close()
    store = IndexStore.open(path, b"\x08" * 32)
    assert store.tip == BEFORE_GENESIS
    store.close()
    filled().close()
    for file in path.glob("MANIFEST-*"):
        file.write_bytes(b"damaged")
    store = IndexStore.open(path, GENESIS)
    assert store.tip == BEFORE_GENESIS
    with pytest.raises(Unavailable, match="in use"):
        IndexStore.open(path, GENESIS)
    store.close()
    store.close()


def test_connect_when_block_does_not_follow_then_refused(tmp_path: Path) -> None:
    store = IndexStore.open(tmp_path / "index", GENESIS)
    for wrong in (make_rows(1), make_rows(0, prev_hash=b"\1" * 32)):
        with pytest.raises(InvariantError):
            store.connect(wrong)
    assert store.tip == BEFORE_GENESIS
    store.close()


def test_undo_when_older_than_kept_then_not_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "UNDO_BLOCKS_KEPT", 3)
    store = IndexStore.open(tmp_path / "index", GENESIS)
    for height in range(10):
        store.connect(make_rows(height))
    assert [store.disconnect() for _ in range(4)] == [True, True, True, False]
    assert store.tip[0] == 6
    store.clear()
    assert store.tip == BEFORE_GENESIS and len(dump(store)) == 2
    assert store.spender(OutPoint(bytes(32), 0)) is None
    store.close()
