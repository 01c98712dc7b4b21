"""The mempool when blocks leave the chain and epochs end, and its file."""

import os
from pathlib import Path
from typing import Any

import pytest

from sidechain.chain import Chain
from sidechain.errors import InvalidEncoding, Unavailable
from sidechain.mempool import reorganisation
from sidechain.mempool.entry import Trait
from sidechain.mempool.persistence import decode_mempool, encode_mempool
from sidechain.mempool.pool import Mempool
from sidechain.mempool.relations import Limits
from sidechain.mempool.reorganisation import after_blocks_left
from sidechain.mempool_file import FILE_NAME, load_mempool, load_mempool_if_any, save_mempool
from sidechain.primitives.encoding import compact_size
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.script.script import push
from sidechain.validation.pegins import ParentFacts
from tests.factories import ALICE, BOB, FIRST_BLOCK_TIME_S, SignedChain, StaticFacts
from tests.sidechain.mempool_world import MempoolWorld, out

NOW_S = FIRST_BLOCK_TIME_S + 10**6


@pytest.fixture
def world() -> MempoolWorld:
    return MempoolWorld()


@pytest.fixture
def signed(tmp_path: Path) -> SignedChain:
    return SignedChain.open(tmp_path / "chain")


# --- blocks that left ---------------------------------------------------------------------------


def in_a_block(world: MempoolWorld, tx: Transaction) -> Transaction:
    """As if a block had held it: its outputs are coins of the chain."""
    for txin in tx.inputs:
        world.gone[txin.prevout] = world.view.coins.pop(txin.prevout)
    for index, output in enumerate(tx.outputs):
        if output.script:
            coin = world.coin(output.value_sats or 0)
            world.view.coins[OutPoint(tx.txid, index)] = world.view.coins.pop(coin)
    return tx


def take_off(world: MempoolWorld, *txs: Transaction, lost: bool = False) -> None:
    """The block with these leaves again."""
    for tx in reversed(txs):
        for index in range(len(tx.outputs)):
            world.view.coins.pop(out(tx, index), None)
        for txin in tx.inputs:
            world.view.coins[txin.prevout] = world.gone.pop(txin.prevout)
    if lost:
        after_blocks_left(txs, world.mempool, world.about, readmit=False)
    else:
        after_blocks_left(txs, world.mempool, world.about)


def test_block_when_it_leaves_then_its_transactions_stand_before_their_children(
    world: MempoolWorld,
) -> None:
    first = in_a_block(world, world.pay(world.coin(), outputs=2))
    second = in_a_block(world, world.pay(out(first)))
    child = world.accept(world.pay(out(second)))
    grandchild = world.accept(world.pay(out(child)))
    take_off(world, first, second)
    order = world.mempool.txids()
    assert order == [first.txid, second.txid, child.txid, grandchild.txid]
    assert world.mempool.ancestors(grandchild.txid) == {first.txid, second.txid, child.txid}
    assert world.mempool.descendants(first.txid) == set(order[1:])


def test_block_when_it_leaves_and_nothing_returns_then_children_go(world: MempoolWorld) -> None:
    first = in_a_block(world, world.pay(world.coin()))
    child = world.accept(world.pay(out(first)))
    world.accept(world.pay(out(child)))
    other = world.accept(world.pay(world.coin()))
    take_off(world, first, lost=True)
    assert world.mempool.txids() == [other.txid]


def test_block_when_it_leaves_then_no_fee_is_asked_for(world: MempoolWorld) -> None:
    free = in_a_block(world, world.pay(world.coin(), fee=1))
    take_off(world, free)
    assert world.mempool.txids() == [free.txid]


def test_block_when_its_transaction_is_not_wanted_then_children_go(world: MempoolWorld) -> None:
    bad = in_a_block(world, world.pay(world.coin(), version=2, extra=(world.output(9, b"\x61"),)))
    world.accept(world.pay(out(bad)))
    take_off(world, bad)
    assert len(world.mempool) == 0


def test_block_when_it_leaves_and_chains_get_too_long_then_the_ends_go(
    world: MempoolWorld,
) -> None:
    world.mempool = Mempool(Limits(ancestors=3))
    first = in_a_block(world, world.pay(world.coin()))
    a = world.accept(world.pay(out(first)))
    b = world.accept(world.pay(out(a)))
    world.accept(world.pay(out(b)))
    take_off(world, first)
    assert world.mempool.txids() == [first.txid, a.txid, b.txid]


def test_tip_when_lower_then_final_and_ripe_ones_stay_only(world: MempoolWorld) -> None:
    world.chain.grow(101 - world.chain.tip_height)
    tip = world.chain.tip_height
    young = world.accept(world.pay(world.coin(height=tip - 99, coinbase=True)))
    old = world.accept(world.pay(world.coin(height=tip - 100, coinbase=True)))
    locked = world.accept(world.pay(world.coin(), locktime=tip))
    open_ = world.accept(world.pay(world.coin(), locktime=tip - 1))
    relative = world.accept(world.pay(world.coin(height=tip - 5), sequence=6))
    shorter = world.accept(world.pay(world.coin(height=tip - 5), sequence=5))
    child = world.accept(world.pay(out(locked)))
    plain = world.accept(world.pay(world.coin()))
    world.chain.headers.pop()
    after_blocks_left([], world.mempool, world.about)
    kept = world.mempool.txids()
    assert kept == [old.txid, open_.txid, shorter.txid, plain.txid]
    assert not {young.txid, locked.txid, relative.txid, child.txid} & set(kept)


def test_reorganisation_when_claims_and_pegouts_wait_then_they_go(world: MempoolWorld) -> None:
    genesis = world.params.parent_genesis_hash
    burn = world.output(5_000, b"\x6a" + push(genesis) + push(b"\x00\x14" + bytes(20)))
    pegout = world.accept(world.pay(world.coin(), extra=(burn,)))
    data = world.accept(world.pay(world.coin(), extra=(world.output(0, b"\x6a\x01\x02"),)))
    entry = world.mempool.get(pegout.txid)
    assert entry is not None and entry.traits & Trait.PEGOUT
    after_blocks_left([], world.mempool, world.about)
    assert world.mempool.txids() == [data.txid]


def test_epoch_when_it_ends_then_claims_are_judged_again(
    signed: SignedChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = signed.chain
    deposit = signed.deposit(ALICE.script, 10**8)
    chain.submit_tx(signed.claim(deposit, ALICE), StaticFacts([deposit]), NOW_S)
    asked: list[int] = []
    real = reorganisation.check_pegin

    def watch(*args: Any) -> Any:
        asked.append(chain.tip_height)
        return real(*args)

    monkeypatch.setattr(reorganisation, "check_pegin", watch)
    while chain.tip_height < 2 * chain.params.dynamic_epoch_length:
        signed.extend()
    length = chain.params.dynamic_epoch_length
    assert asked == [length - 1, 2 * length - 1]
    assert len(chain.mempool) == 1


# --- the file -----------------------------------------------------------------------------------


async def no_facts(tx: Transaction) -> ParentFacts | None:
    return None


def filled(signed: SignedChain) -> list[Transaction]:
    """A parent and its child in the mempool, with a fee delta and one of a stranger."""
    chain, point = signed.chain, signed.mint(ALICE, 10**8)
    parent = signed.payment(ALICE, [point], [(ALICE.script, 10**7)])
    chain.submit_tx(parent, None, NOW_S)
    child = signed.payment(ALICE, [OutPoint(parent.txid, 0)], [(BOB.script, 5_000)])
    chain.submit_tx(child, None, NOW_S + 1)
    chain.prioritise(child.txid, 77)
    chain.prioritise(b"\x09" * 32, -5)
    chain.mempool.mark_own(child.txid)
    return [parent, child]


async def test_file_when_read_again_then_everything_is_back(
    signed: SignedChain, tmp_path: Path
) -> None:
    chain, path = signed.chain, tmp_path / FILE_NAME
    parent, child = filled(signed)
    save_mempool(chain, path)
    before = encode_mempool(chain.mempool)
    assert path.read_bytes() == before and os.listdir(tmp_path).count(FILE_NAME + ".new") == 0
    chain.mempool.clear()
    for txid in list(chain.mempool.deltas):
        chain.prioritise(txid, -chain.mempool.deltas[txid])
    report = await load_mempool_if_any(
        chain, path, facts_for=no_facts, unix_time_s=lambda: NOW_S + 9
    )
    assert report is not None and (report.accepted, report.refused) == (2, 0)
    assert encode_mempool(chain.mempool) == before
    entry = chain.mempool.get(child.txid)
    assert entry is not None and (entry.time_s, entry.delta_sats) == (NOW_S + 1, 77)
    assert chain.mempool.unbroadcast == {child.txid} and parent.txid in chain.mempool


async def test_file_when_imported_as_new_then_times_are_now(
    signed: SignedChain, tmp_path: Path
) -> None:
    chain, path = signed.chain, tmp_path / FILE_NAME
    parent, child = filled(signed)
    save_mempool(chain, path)
    report = await load_mempool(chain, path, facts_for=no_facts, unix_time_s=lambda: NOW_S)
    assert (report.known, report.accepted) == (2, 0)
    chain.mempool.clear()
    late = NOW_S + chain.mempool.limits.expiry_s
    report = await load_mempool(
        chain, path, facts_for=no_facts, unix_time_s=lambda: late, apply_deltas=False
    )
    assert (report.expired, report.refused) == (1, 1), "the child misses its parent"
    report = await load_mempool(
        chain,
        path,
        facts_for=no_facts,
        unix_time_s=lambda: late,
        use_current_time=True,
        apply_unbroadcast=False,
    )
    entry = chain.mempool.get(parent.txid)
    assert report.accepted == 2 and entry is not None and entry.time_s == late
    assert child.txid in chain.mempool and not chain.mempool.unbroadcast


async def test_file_when_missing_or_damaged_then_said_so(
    signed: SignedChain, tmp_path: Path
) -> None:
    path = tmp_path / FILE_NAME
    chain: Chain = signed.chain
    with pytest.raises(Unavailable):
        await load_mempool(chain, path, facts_for=no_facts, unix_time_s=lambda: NOW_S)
    assert (
        await load_mempool_if_any(chain, path, facts_for=no_facts, unix_time_s=lambda: NOW_S)
        is None
    )
    with pytest.raises(Unavailable):
        save_mempool(chain, tmp_path / "no folder" / FILE_NAME)


def keyed(data: bytes, key: bytes) -> bytes:
    """The same file as elementsd writes it: combined with a key."""
    head = (2).to_bytes(8, "little") + compact_size(len(key)) + key
    rest = data[8:]
    return head + bytes(byte ^ key[(len(head) + at) % len(key)] for at, byte in enumerate(rest))


def test_file_when_combined_with_a_key_then_read_alike(signed: SignedChain) -> None:
    filled(signed)
    plain = encode_mempool(signed.chain.mempool)
    for key in (b"\x01\x02\x03\x04\x05\x06\x07\x08", b"\xaa" * 3, bytes(8)):
        assert decode_mempool(keyed(plain, key)) == decode_mempool(plain)
    saved = decode_mempool(plain)
    assert saved.deltas == ((b"\x09" * 32, -5),)
    assert [item.time_s for item in saved.transactions] == [NOW_S, NOW_S + 1]


@pytest.mark.parametrize(
    "data",
    [b"", b"\x03" + bytes(20), b"\x02" + bytes(7), b"\x02" + bytes(7) + b"\xff" + bytes(300)],
)
def test_file_when_of_another_version_then_refused(data: bytes) -> None:
    with pytest.raises(InvalidEncoding):
        decode_mempool(data)


def test_file_when_cut_or_longer_then_refused(signed: SignedChain) -> None:
    filled(signed)
    plain = encode_mempool(signed.chain.mempool)
    for data in (plain[:-1], plain[:40], plain + b"\0"):
        with pytest.raises(InvalidEncoding):
            decode_mempool(data)
