"""The index beside a live chain: catching up, reorganisations, the mempool, a disk that refuses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidechain.crypto.hashes import sha256
from sidechain.errors import Unavailable
from sidechain.index import follower, rows, waiting
from sidechain.index import store as store_module
from sidechain.index.follower import ChainIndex
from sidechain.index.rows import Spender
from sidechain.primitives.transaction import OutPoint
from tests.factories import ALICE, BOB, FIRST_BLOCK_TIME_S, SignedChain
from tests.sidechain.index_world import UnjudgedChain, check_equal, dump, reorganised_blocks
from tests.vectors import recorded_blocks

NOW_S = FIRST_BLOCK_TIME_S + 10**6
WAIT_S = 60


@pytest.fixture
def signed(tmp_path: Path) -> SignedChain:
    return SignedChain.open(tmp_path / "chain")


@asynccontextmanager
async def following(path: Path, chain: Any) -> AsyncIterator[ChainIndex]:
    index = ChainIndex.open(path, chain)
    faults: list[BaseException] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(index.run(faults.append))
        index.faults = faults  # type: ignore[attr-defined]
        try:
            yield index
        finally:
            index.stop()
    index.close()
    index.close()


@pytest.mark.parametrize("inline_bytes", [0, 10**9])
async def test_follow_when_chain_grows_and_turns_then_equal_to_the_slow_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline_bytes: int
) -> None:
    monkeypatch.setattr(follower, "INLINE_BYTES_MAX", inline_bytes)
    world = UnjudgedChain(tmp_path / "chain")
    first, second = reorganised_blocks()
    for block in recorded_blocks()[1:100]:
        world.connect(block)
    async with following(tmp_path / "index", world.chain) as index:
        assert await index.reach_tip(WAIT_S)
        check_equal(index.store, world.blocks())
        for block in [*recorded_blocks()[100:], *first]:
            world.connect(block)
        assert not index.is_at_tip
        assert await index.reach_tip(WAIT_S)
        check_equal(index.store, world.blocks())
        for _ in first:
            world.disconnect()
        for block in second:
            world.connect(block)
        assert await index.reach_tip(WAIT_S)
        check_equal(index.store, world.blocks())
    world.chain.close()


async def test_open_when_closed_in_between_then_goes_on_where_it_was(
    signed: SignedChain, tmp_path: Path
) -> None:
    for _ in range(3):
        signed.mint(ALICE, 10**6)
    async with following(tmp_path / "index", signed.chain) as index:
        assert await index.reach_tip(WAIT_S)
        before = dump(index.store)
    signed.mint(ALICE, 10**6)
    signed.chain.disconnect_tip(NOW_S)
    async with following(tmp_path / "index", signed.chain) as index:
        assert index.is_at_tip and dump(index.store) == before
        signed.chain.disconnect_tip(NOW_S)
        signed.mint(BOB, 5)
        assert await index.reach_tip(WAIT_S)
        check_equal(index.store, [signed.chain.block(height) for height in range(4)])
    signed.chain.close()


async def test_follow_when_reorganised_deeper_than_undo_then_made_anew(
    signed: SignedChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "UNDO_BLOCKS_KEPT", 2)
    for _ in range(6):
        signed.extend()
    async with following(tmp_path / "index", signed.chain) as index:
        assert await index.reach_tip(WAIT_S)
        for _ in range(5):
            signed.chain.disconnect_tip(NOW_S)
        signed.mint(ALICE, 5)
        assert await index.reach_tip(WAIT_S)
        check_equal(index.store, [signed.chain.block(height) for height in range(3)])
    signed.chain.close()


async def test_follow_when_disk_refuses_then_says_so_and_goes_on_later(
    signed: SignedChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(tmp_path / "index", signed.chain) as index:
        assert await index.reach_tip(WAIT_S)

        def refuse(*args: Any, **fields: Any) -> None:
            raise Unavailable("no space left")

        monkeypatch.setattr(index.store._database, "write", refuse)
        signed.extend()
        assert not await index.reach_tip(WAIT_S)
        assert index.problem == "no space left" and index.faults  # type: ignore[attr-defined]
        monkeypatch.undo()
        assert await index.reach_tip(WAIT_S)
        assert index.problem == ""
    signed.chain.close()


async def test_follow_when_rows_do_not_read_back_then_made_anew_and_the_owner_goes_on(
    signed: SignedChain, tmp_path: Path
) -> None:
    signed.mint(ALICE, 10**6)
    async with following(tmp_path / "index", signed.chain) as index:
        assert await index.reach_tip(WAIT_S)
        database = index.store._database
        database.write({rows.sums_key(signed.params.pegged_asset): b"damaged"})
        signed.mint(ALICE, 10**6)
        assert not await index.reach_tip(WAIT_S) and index.problem
        assert await index.reach_tip(WAIT_S)
        check_equal(index.store, [signed.chain.block(height) for height in range(3)])
        index.store._database.write({rows.undo_key(2): b"damaged"})
        signed.chain.disconnect_tip(NOW_S)
        assert not await index.reach_tip(WAIT_S)
        assert await index.reach_tip(WAIT_S)
        check_equal(index.store, [signed.chain.block(height) for height in range(2)])
        assert len(index.faults) == 2  # type: ignore[attr-defined]
    signed.chain.close()


async def test_reach_tip_when_nobody_follows_then_false_after_the_time(
    signed: SignedChain, tmp_path: Path
) -> None:
    index = ChainIndex.open(tmp_path / "index", signed.chain)
    assert not await index.reach_tip(0)
    index.close()
    signed.chain.close()


# --- the mempool -------------------------------------------------------------------------------


async def test_waiting_when_transactions_come_and_go_then_followed(
    signed: SignedChain, tmp_path: Path
) -> None:
    point = signed.mint(ALICE, 10**8)
    chain = signed.chain
    async with following(tmp_path / "index", chain) as index:
        first = signed.payment(ALICE, [point], [(BOB.script, 5_000)])
        chain.submit_tx(first, None, NOW_S)
        second = signed.payment(BOB, [OutPoint(first.txid, 0)], [(ALICE.script, 1_000)])
        chain.submit_tx(second, None, NOW_S)
        assert index.waiting.history(sha256(BOB.script)) == []
        await index.waiting.refresh()
        bob = index.waiting.history(sha256(BOB.script))
        assert [(row.txid, row.funded, row.spent_count) for row in bob] == [
            (second.txid, (1,), 1),
            (first.txid, (0,), 0),
        ]
        assert index.waiting.spender(point) == Spender(txid=first.txid, vin=0, height=None)
        assert index.waiting.spender(OutPoint(first.txid, 9)) is None
        signed.extend([first])
        assert [row.txid for row in index.waiting.history(sha256(BOB.script))] == [second.txid]
        await index.waiting.refresh()
        assert len(index.waiting._traces) == 1
        signed.extend([second])
        await index.waiting.refresh()
        assert index.waiting._scripts == {} and index.waiting._assets == {}
    chain.close()


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(plan=st.lists(st.sampled_from(["pay", "mine", "undo", "look"]), max_size=12))
async def test_both_when_any_course_of_events_then_every_transaction_is_seen_once(
    tmp_path_factory: pytest.TempPathFactory, plan: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("course")
    signed = SignedChain.open(folder / "chain")
    chain, last = signed.chain, signed.mint(ALICE, 10**8)
    with_slices = pytest.MonkeyPatch()
    with_slices.setattr(waiting, "SLICE_TRANSACTIONS", 1)
    async with following(folder / "index", chain) as index:
        for what in [*plan, "look"]:
            if what == "pay":
                tx = signed.payment(ALICE, [last], [(BOB.script, 1_000)])
                chain.submit_tx(tx, None, NOW_S)
                last = OutPoint(tx.txid, 1)
            elif what == "mine":
                signed.extend(chain.select_transactions())
            elif what == "undo" and chain.tip_height > 1:
                chain.disconnect_tip(NOW_S)
            elif what == "look":
                assert await index.reach_tip(WAIT_S)
                await index.waiting.refresh()
                path = [
                    *[row.txid for row in index.waiting.history(sha256(ALICE.script))],
                    *[row.txid for row in index.store.history(sha256(ALICE.script))],
                ]
                assert len(set(path)) == len(path)
                assert path[0] == last.txid or len(path) == 1
                waiting_txids = {row.txid for row in index.waiting.history(sha256(ALICE.script))}
                assert waiting_txids == set(chain.mempool.txids())
    with_slices.undo()
    chain.close()
