"""The index of the committed Bitcoin chain: cuts, late knowledge, order of learning."""

import random

import pytest

from peg.parent_path import ParentPath
from sidechain.errors import InvariantError
from sidechain.primitives.parent import ParentBlock, parse_parent_block, parse_parent_tx
from sidechain.primitives.transaction import OutPoint
from tests.peg.world import Bitcoin, federation, parent_tx

FED = federation().program
OTHER = b"\x00\x14" + bytes(20)


def parsed(bitcoin: Bitcoin, block_hash: bytes) -> ParentBlock:
    return parse_parent_block(bitcoin.blocks[block_hash].raw)


def feed(path: ParentPath, bitcoin: Bitcoin, tip: bytes | None = None) -> None:
    for mined in bitcoin.chain(tip):
        if mined.info.height > path.tip_height:
            path.append(parsed(bitcoin, mined.info.hash))


def picture(path: ParentPath) -> object:
    unspent = sorted((o.outpoint, o.value_sats, o.height) for o in path.unspent())
    return path.tip_hash, path.tip_height, unspent


def test_fed_outputs_are_found_and_their_spends() -> None:
    bitcoin = Bitcoin()
    raw = bitcoin.pay(FED, 7_000)
    outpoint = OutPoint(parse_parent_tx(raw).txid, 0)
    bitcoin.mine([raw])
    path = ParentPath({FED}, 0)
    feed(path, bitcoin)
    found = path.output(outpoint)
    assert found is not None and (found.value_sats, found.height) == (7_000, 1)
    assert [o.outpoint for o in path.unspent()] == [outpoint]
    spender = parent_tx([outpoint], [(6_000, OTHER)])
    bitcoin.mine([spender])
    feed(path, bitcoin)
    spend = path.spend(outpoint)
    assert spend is not None and spend.height == 2
    assert spend.transaction.txid == parse_parent_tx(spender).txid
    assert not list(path.unspent())


def test_cut_gives_back_what_was_spent_above_it() -> None:
    bitcoin = Bitcoin()
    raw = bitcoin.pay(FED, 7_000)
    outpoint = OutPoint(parse_parent_tx(raw).txid, 0)
    bitcoin.mine([raw])
    path = ParentPath({FED}, 0)
    feed(path, bitcoin)
    before = picture(path)
    chained = parent_tx([outpoint], [(6_000, FED)])
    bitcoin.mine([chained, parent_tx([OutPoint(parse_parent_tx(chained).txid, 0)], [(1, FED)])])
    feed(path, bitcoin)
    assert picture(path) != before
    path.cut_above(1)
    assert picture(path) == before
    path.cut_above(0)
    assert not list(path.unspent())
    assert path.output(outpoint) is None


def test_block_that_does_not_follow_is_a_bug() -> None:
    bitcoin = Bitcoin()
    first = bitcoin.mine(count=2)
    path = ParentPath({FED}, 0)
    path.append(parsed(bitcoin, bitcoin.chain()[0].info.hash))
    with pytest.raises(InvariantError):
        path.append(parsed(bitcoin, first))


@pytest.mark.parametrize("seed", range(20))
def test_order_of_learning_and_reorganisations_do_not_matter(seed: int) -> None:
    """Live with forks and late claims, or from scratch with all known: the same index."""
    rng = random.Random(seed)
    bitcoin = Bitcoin()
    live = ParentPath({FED}, 0)
    deposits: list[OutPoint] = []
    known: list[OutPoint] = []
    feed(live, bitcoin)
    for _ in range(25):
        if rng.random() < 0.25 and bitcoin.view.tip_height > 3:
            depth = rng.randint(1, 3)
            at = bitcoin.chain()[-1 - depth].info.hash
            for _ in range(depth + 1):
                at = bitcoin.grow(at, some_transactions(rng, bitcoin, at, deposits))
            live.cut_above(bitcoin.view.tip_height - depth)
            bitcoin.activate(at)
        else:
            bitcoin.mine(some_transactions(rng, bitcoin, bitcoin.tip, deposits))
        feed(live, bitcoin)
        if deposits and rng.random() < 0.5:
            late = rng.choice(deposits)
            live.watch(late)
            known.append(late)
            for mined in bitcoin.chain():
                live.rescan(parsed(bitcoin, mined.info.hash), [late])
    fresh = ParentPath({FED}, 0)
    for outpoint in known:
        fresh.watch(outpoint)
    feed(fresh, bitcoin)
    assert picture(fresh) == picture(live)
    for outpoint in known:
        assert fresh.output(outpoint) == live.output(outpoint)
        assert fresh.spend(outpoint) == live.spend(outpoint)


def some_transactions(
    rng: random.Random, bitcoin: Bitcoin, tip: bytes, deposits: list[OutPoint]
) -> list[bytes]:
    raws: list[bytes] = []
    if rng.random() < 0.5:
        raws.append(bitcoin.pay(rng.choice([FED, OTHER]), rng.randint(1_000, 9_000)))
        deposits.append(OutPoint(parse_parent_tx(raws[-1]).txid, 0))
    unspent = [o for o in bitcoin.unspent(tip) if o in deposits]
    if unspent and rng.random() < 0.4:
        raws.append(parent_tx([rng.choice(unspent)], [(500, rng.choice([FED, OTHER]))]))
    return raws
