"""Side branches: which block becomes the tip, what is remembered, and what an operator can say."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidechain.chain import Chain
from sidechain.errors import InvalidBlock, InvariantError
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import OutPoint, Transaction, TxIn
from sidechain.storage.block_tree import NodeFlags
from tests.factories import ALICE, BOB, StaticFacts, output
from tests.sidechain.block_pool import NOW_S, BlockPool, submit


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[BlockPool]:
    made = BlockPool(tmp_path / "pool")
    yield made
    made.close()


@pytest.fixture
def chain(tmp_path: Path, pool: BlockPool) -> Iterator[Chain]:
    opened = Chain.open(tmp_path / "chain", pool.signed.params)
    yield opened
    opened.close()


def reopened(chain: Chain, tmp_path: Path) -> Chain:
    """The same folder in a new process, so to say."""
    chain.close()
    return Chain.open(tmp_path / "chain", chain.params)


def flags(chain: Chain, block: Block) -> NodeFlags:
    """What is noted about a block beside the chain."""
    node = chain.branches.node(block.hash)
    assert node is not None
    return node.flags


# --- the best chain ----------------------------------------------------------------------------


def test_tip_when_branches_grow_then_longest_and_first_seen(pool: BlockPool, chain: Chain) -> None:
    one = pool.line(pool.genesis, 2)
    two = pool.line(pool.genesis, 3)
    assert submit(chain, *one) == [None, None]
    assert submit(chain, *two[:2]) == ["inconclusive"] * 2
    assert chain.tip_hash == one[-1].hash
    assert submit(chain, two[2]) == [None]
    assert (chain.tip_hash, chain.tip_height) == (two[-1].hash, 3)
    assert [chain.header(h).hash for h in range(1, 4)] == [block.hash for block in two]
    assert chain.height_of(one[0].hash) is None
    assert [node.hash for node in chain.branches.tips()] == [one[-1].hash]
    assert chain.branches.branch_length(one[-1].hash) == 2
    assert flags(chain, one[0]) == NodeFlags.DATA | NodeFlags.VALIDATED
    assert submit(chain, *one, *two) == ["duplicate"] * 5


def test_tip_when_blocks_come_before_those_under_them_then_prev_blk_not_found(
    pool: BlockPool, chain: Chain
) -> None:
    blocks = pool.line(pool.genesis, 2)
    assert submit(chain, *reversed(blocks)) == ["prev-blk-not-found", None]
    assert submit(chain, blocks[1]) == [None]


def test_headers_when_they_come_first_then_blocks_in_any_order(
    pool: BlockPool, chain: Chain, tmp_path: Path
) -> None:
    blocks = pool.line(pool.genesis, 3)
    for block in blocks:
        chain.submit_header(block.header, now_s=NOW_S)
    chain.submit_header(blocks[0].header, now_s=NOW_S)
    assert (chain.tip_height, chain.branches.best_header_height()) == (0, 3)
    assert submit(chain, blocks[2], blocks[1]) == ["inconclusive"] * 2
    chain = reopened(chain, tmp_path)
    assert submit(chain, blocks[0]) == [None]
    assert chain.tip_hash == blocks[2].hash
    assert submit(chain, *blocks) == ["duplicate"] * 3
    chain.submit_header(blocks[1].header, now_s=NOW_S)
    chain.close()


def test_tip_when_reorganised_deep_then_as_built_straight(pool: BlockPool, chain: Chain) -> None:
    one = pool.line(pool.genesis, 40)
    two = pool.line(pool.genesis, 41)
    submit(chain, *one)
    assert submit(chain, *two) == ["inconclusive"] * 40 + [None]
    assert list(chain.coins()) == list(pool.at(two[-1].hash).chain.coins())
    assert submit(chain, *pool.line(one[-1].hash, 2)) == ["inconclusive", None]
    assert chain.tip_height == 42


def test_mempool_when_reorganised_then_payments_return_and_claims_do_not(
    pool: BlockPool, chain: Chain
) -> None:
    signed = pool.signed
    first = pool.block(pool.genesis, [signed.claim(signed.deposit(ALICE.script, 10**8), ALICE)])
    coin = OutPoint(first.transactions[1].txid, 0)
    payment = signed.payment(ALICE, [coin], [(BOB.script, 10**6)])
    claim = signed.claim(signed.deposit(ALICE.script, 10**7), ALICE)
    taken = pool.block(first.hash, [payment, claim])
    others = pool.line(first.hash, 2)
    submit(chain, first, taken)
    assert chain.find_transaction(payment.txid) == (payment, 2)
    assert submit(chain, *others) == ["inconclusive", None]
    assert chain.mempool.transactions() == [payment]
    assert chain.find_transaction(payment.txid) is None
    again = pool.line(taken.hash, 2)
    assert submit(chain, *again) == ["inconclusive", None]
    assert len(chain.mempool) == 0
    assert chain.find_transaction(claim.txid) is not None


# --- what fails --------------------------------------------------------------------------------


def unbalanced(pool: BlockPool, parent: bytes) -> Block:
    """A block on `parent` with a transaction that makes money."""
    signed = pool.at(parent)
    spent = next(point for point, _ in signed.chain.coins())
    made = [output(signed.params, BOB.script, 10**15)]
    return pool.block(parent, [Transaction.build(inputs=[TxIn(spent)], outputs=made)], check=False)


def test_branch_when_a_block_in_it_fails_then_back_to_the_old_chain(
    tmp_path: Path,
) -> None:
    pool = BlockPool(tmp_path / "pool", initial_free_coins_sats=10**6)
    chain = Chain.open(tmp_path / "chain", pool.signed.params)
    good = pool.line(pool.genesis, 2)
    start = pool.block(pool.genesis)
    bad = unbalanced(pool, start.hash)
    # Nothing can be built on a bad block but by hand: take a good one and move it.
    on_bad = pool.resigned(pool.line(good[-1].hash, 1)[0], prev_hash=bad.hash)
    submit(chain, *good)
    assert submit(chain, start, bad) == ["inconclusive", "inconclusive"]
    assert submit(chain, on_bad) == ["inconclusive"]
    assert (chain.tip_hash, chain.tip_height) == (good[-1].hash, 2)
    assert flags(chain, bad) & NodeFlags.FAILED
    assert flags(chain, on_bad) & NodeFlags.FAILED_BELOW
    assert submit(chain, bad, on_bad) == ["duplicate-invalid"] * 2
    next_one = pool.resigned(pool.line(good[-1].hash, 2)[1], prev_hash=on_bad.hash)
    assert submit(chain, next_one) == ["bad-prevblk"]
    with pytest.raises(InvalidBlock, match="bad-prevblk"):
        chain.submit_header(next_one.header, now_s=NOW_S)
    with pytest.raises(InvalidBlock, match="duplicate-invalid"):
        chain.submit_header(bad.header, now_s=NOW_S)
    chain = reopened(chain, tmp_path)
    assert submit(chain, bad) == ["duplicate-invalid"]
    chain.reconsider_block(on_bad.hash, facts=None, now_s=NOW_S)
    assert chain.tip_hash == good[-1].hash
    assert submit(chain, bad) == ["duplicate-invalid"]
    chain.close()
    pool.close()


def test_block_on_the_tip_when_it_fails_then_remembered(tmp_path: Path) -> None:
    pool = BlockPool(tmp_path / "pool", initial_free_coins_sats=10**6)
    chain = Chain.open(tmp_path / "chain", pool.signed.params)
    bad = unbalanced(pool, pool.genesis)
    assert submit(chain, bad, bad) == ["bad-txns-in-ne-out", "duplicate-invalid"]
    assert flags(chain, bad) == NodeFlags.DATA | NodeFlags.FAILED
    assert (chain.tip_height, chain.branches.best_header_height()) == (0, 0)
    chain.close()
    pool.close()


def test_headers_when_the_block_under_them_fails_then_failed_too(tmp_path: Path) -> None:
    pool = BlockPool(tmp_path / "pool", initial_free_coins_sats=10**6)
    chain = Chain.open(tmp_path / "chain", pool.signed.params)
    bad = unbalanced(pool, pool.genesis)
    (above,) = pool.line(pool.genesis, 2)[1:]
    above = pool.resigned(above, prev_hash=bad.hash)
    for block in (bad, above):
        chain.submit_header(block.header, now_s=NOW_S)
    assert submit(chain, bad) == ["bad-txns-in-ne-out"]
    assert flags(chain, above) == NodeFlags.FAILED_BELOW
    assert chain.branches.best_header_height() == 0
    chain.close()
    pool.close()


def test_block_when_its_body_breaks_a_rule_of_its_place_then_remembered(
    pool: BlockPool, chain: Chain
) -> None:
    one, two = pool.line(pool.genesis, 2)
    early = pool.resigned(two, prev_hash=pool.genesis, height=1, current=one.header.current)
    assert submit(chain, early, early) == ["bad-cb-height", "duplicate-invalid"]
    assert not flags(chain, early) & NodeFlags.DATA
    assert submit(chain, one) == [None]


def test_block_when_the_fault_is_not_of_its_hash_then_the_right_one_may_come(
    pool: BlockPool, chain: Chain
) -> None:
    (good,) = pool.line(pool.genesis, 1)
    unsigned = good.with_signblock_witness((b"\1",))
    coinbase = good.transactions[0]
    wrong = replace(coinbase.input_witnesses[0], script=(b"\1" * 32,))
    other = Transaction.build(
        version=coinbase.version,
        inputs=coinbase.inputs,
        outputs=coinbase.outputs,
        input_witnesses=[wrong],
    )
    mutated = Block(good.header, (other,))
    doubled = Block(good.header, (coinbase, coinbase))
    assert submit(chain, unsigned, doubled) == ["block-proof-invalid", "bad-txnmrklroot"]
    assert not chain.branches.knows(good.hash)
    early = chain.submit_block(good, facts=None, now_s=good.header.time - 7_201)
    assert early == "time-too-new"
    assert not chain.branches.knows(good.hash)
    assert submit(chain, mutated, mutated) == ["bad-witness-merkle-match"] * 2
    assert chain.branches.knows(good.hash)
    assert submit(chain, good) == [None]
    assert submit(chain, unsigned, mutated) == ["block-proof-invalid", "duplicate"]


def test_coinbase_when_it_commits_without_witness_then_the_usual_one_is_filled_in(
    pool: BlockPool, chain: Chain
) -> None:
    (good,) = pool.line(pool.genesis, 1)
    coinbase = good.transactions[0]
    bare = Transaction.build(
        version=coinbase.version, inputs=coinbase.inputs, outputs=coinbase.outputs
    )
    assert bare.txid == coinbase.txid and not bare.has_witness
    assert submit(chain, Block(good.header, (bare,))) == [None]
    assert chain.block(1) == good


# --- peg-ins that are not deep enough ----------------------------------------------------------


def test_block_when_a_claim_is_too_shallow_then_stalled_until_it_is_not(
    pool: BlockPool, chain: Chain
) -> None:
    signed = pool.signed
    deposit = signed.deposit(ALICE.script, 10**8)
    block = pool.block(pool.genesis, [signed.claim(deposit, ALICE)])
    shallow, deep = StaticFacts([deposit], 7), StaticFacts([deposit], 8)
    assert chain.submit_block(block, facts=shallow, now_s=NOW_S) == "inconclusive"
    assert chain.tip_height == 0
    assert chain.claims_awaited() == (block.transactions[1],)
    rival = pool.block(pool.genesis)
    assert chain.claims_awaited(rival) == (block.transactions[1],)
    # The first one stays the best, so the other one has to wait with it.
    assert chain.submit_block(rival, facts=shallow, now_s=NOW_S) == "inconclusive"
    assert not chain.activate(facts=shallow, now_s=NOW_S)
    assert chain.submit_block(block, facts=deep, now_s=NOW_S) == "duplicate"
    assert chain.tip_hash == block.hash
    assert chain.claims_awaited() == ()
    assert chain.activate(facts=shallow, now_s=NOW_S)


def test_proposal_when_a_claim_is_too_shallow_then_invalid(pool: BlockPool, chain: Chain) -> None:
    signed = pool.signed
    deposit = signed.deposit(ALICE.script, 10**8)
    block = pool.block(pool.genesis, [signed.claim(deposit, ALICE)])
    with pytest.raises(InvalidBlock, match="bad-pegin-witness"):
        chain.test_proposal(block, facts=StaticFacts([deposit], 7), now_s=NOW_S)
    chain.test_proposal(block, facts=StaticFacts([deposit], 8), now_s=NOW_S)
    assert chain.tip_height == 0


def test_branch_when_a_claim_in_it_is_too_shallow_then_stops_under_it(
    pool: BlockPool, chain: Chain, tmp_path: Path
) -> None:
    signed = pool.signed
    old = pool.line(pool.genesis, 2)
    start = pool.block(pool.genesis)
    deposit = signed.deposit(ALICE.script, 10**8)
    claiming = pool.block(start.hash, [signed.claim(deposit, ALICE)])
    last = pool.block(claiming.hash)
    submit(chain, *old)
    none = StaticFacts()
    for block in (start, claiming, last):
        assert chain.submit_block(block, facts=none, now_s=NOW_S) == "inconclusive"
    # As elementsd does: the old blocks are off, and the chain waits where it cannot go on.
    assert chain.tip_hash == start.hash
    chain = reopened(chain, tmp_path)
    assert chain.tip_hash == start.hash
    assert chain.claims_awaited() == (claiming.transactions[1],)
    assert chain.activate(facts=StaticFacts([deposit], 8), now_s=NOW_S)
    assert chain.tip_hash == last.hash
    chain.close()


# --- an operator's say -------------------------------------------------------------------------


def test_invalidate_when_in_the_chain_then_off_with_what_stands_on_it(
    pool: BlockPool, chain: Chain, tmp_path: Path
) -> None:
    blocks = pool.line(pool.genesis, 4)
    submit(chain, *blocks)
    chain.invalidate_block(blocks[1].hash, facts=None, now_s=NOW_S)
    assert (chain.tip_hash, chain.branches.best_header_height()) == (blocks[0].hash, 1)
    assert flags(chain, blocks[1]) & NodeFlags.FAILED
    for block in blocks[2:]:
        assert flags(chain, block) & (NodeFlags.FAILED | NodeFlags.FAILED_BELOW) == (
            NodeFlags.FAILED_BELOW
        )
    assert submit(chain, *blocks) == ["duplicate"] + ["duplicate-invalid"] * 3
    chain = reopened(chain, tmp_path)
    rival = pool.line(blocks[0].hash, 2)
    assert submit(chain, *rival) == [None, None]
    chain.reconsider_block(blocks[2].hash, facts=None, now_s=NOW_S)
    assert chain.tip_hash == blocks[3].hash
    chain.invalidate_block(blocks[0].hash, facts=None, now_s=NOW_S)
    assert chain.tip_height == 0
    chain.reconsider_block(chain.tip_hash, facts=None, now_s=NOW_S)
    assert chain.tip_hash == blocks[3].hash
    with pytest.raises(InvariantError):
        chain.invalidate_block(pool.genesis, facts=None, now_s=NOW_S)
    with pytest.raises(InvariantError):
        chain.invalidate_block(bytes(32), facts=None, now_s=NOW_S)
    chain.close()


def test_invalidate_when_beside_the_chain_then_never_followed(
    pool: BlockPool, chain: Chain
) -> None:
    one, two = pool.line(pool.genesis, 1), pool.line(pool.genesis, 3)
    submit(chain, *one, two[0])
    chain.invalidate_block(two[0].hash, facts=None, now_s=NOW_S)
    assert submit(chain, *two[1:]) == ["bad-prevblk", "prev-blk-not-found"]
    assert chain.tip_hash == one[0].hash


def test_mempool_when_many_blocks_are_invalidated_then_only_the_last_ten_return(
    pool: BlockPool, chain: Chain
) -> None:
    signed = pool.signed
    blocks, payments = [], []
    for _ in range(12):
        parent = blocks[-1].hash if blocks else pool.genesis
        claim = signed.claim(signed.deposit(ALICE.script, 10**8), ALICE)
        blocks.append(pool.block(parent, [claim]))
    for claimed in list(blocks):
        coin = OutPoint(claimed.transactions[1].txid, 0)
        pool.at(blocks[-1].hash)
        payments.append(signed.payment(ALICE, [coin], [(BOB.script, 10**6)]))
        blocks.append(pool.block(blocks[-1].hash, [payments[-1]]))
    submit(chain, *blocks)
    chain.invalidate_block(blocks[12].hash, facts=None, now_s=NOW_S)
    assert chain.tip_height == 12
    assert sorted(chain.mempool.txids()) == sorted(tx.txid for tx in payments[2:])


def test_precious_when_equally_long_then_preferred_until_another_is(
    pool: BlockPool, chain: Chain
) -> None:
    one, two = pool.line(pool.genesis, 2), pool.line(pool.genesis, 2)
    submit(chain, *one, *two)
    for wanted in (two, one, two):
        chain.precious_block(wanted[1].hash, facts=None, now_s=NOW_S)
        assert chain.tip_hash == wanted[1].hash
    chain.precious_block(two[1].hash, facts=None, now_s=NOW_S)
    chain.precious_block(one[0].hash, facts=None, now_s=NOW_S)
    assert chain.tip_hash == two[1].hash
    chain.invalidate_block(two[1].hash, facts=None, now_s=NOW_S)
    assert chain.tip_hash == one[1].hash
    chain.reconsider_block(two[1].hash, facts=None, now_s=NOW_S)
    assert chain.tip_hash == two[1].hash
    assert submit(chain, *pool.line(one[1].hash, 1)) == [None]


# --- anything in any order ---------------------------------------------------------------------

STEP = st.tuples(
    st.sampled_from(["submit", "header", "invalid", "again", "precious", "open"]),
    st.integers(0, 11),
)


@pytest.mark.slow
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(STEP, max_size=40), st.lists(st.integers(0, 11), min_size=12, max_size=12))
def test_chain_when_anything_is_said_in_any_order_then_coins_as_built_straight(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, int]],
    parents: list[int],
) -> None:
    folder = tmp_path_factory.mktemp("any")
    pool = BlockPool(folder / "pool")
    blocks: list[Block] = []
    for choice in parents:
        choice %= len(blocks) + 1
        blocks.append(pool.block(blocks[choice - 1].hash if choice else pool.genesis))
    chain = Chain.open(folder / "chain", pool.signed.params)
    for verb, index in steps:
        block = blocks[index]
        known = chain.branches.knows(block.hash)
        match verb:
            case "submit":
                submit(chain, block)
            case "header" if chain.branches.knows(block.header.prev_hash) and not known:
                node = chain.branches.node(block.header.prev_hash)
                if node is None or not node.has_failed:
                    chain.submit_header(block.header, now_s=NOW_S)
            case "invalid" if known:
                chain.invalidate_block(block.hash, facts=None, now_s=NOW_S)
                assert not chain.is_active(block.hash)
            case "again" if known:
                chain.reconsider_block(block.hash, facts=None, now_s=NOW_S)
            case "precious" if known:
                chain.precious_block(block.hash, facts=None, now_s=NOW_S)
            case "open":
                chain.close()
                chain = Chain.open(folder / "chain", pool.signed.params)
        assert no_better_block(chain)
    straight = pool.at(chain.tip_hash).chain
    assert list(chain.coins()) == list(straight.coins())
    assert [chain.header(h) for h in range(chain.tip_height + 1)] == [
        straight.header(h) for h in range(chain.tip_height + 1)
    ]
    chain.close()
    pool.close()


def no_better_block(chain: Chain) -> bool:
    """Whether no branch that is all there and has not failed is longer than the chain."""
    for tip in chain.branches.tips():
        branch = [tip]
        while (below := chain.branches.node(branch[-1].prev_hash)) is not None:
            branch.append(below)
        usable = all(node.has_data and not node.has_failed for node in branch)
        if usable and tip.height > chain.tip_height:
            return False
    return True
