"""What the methods show of the chain, of its branches, and of votes on rules."""

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sidechain.api.registry import RpcError
from sidechain.api.rpc_proofs import ProofMethods
from sidechain.chain import Chain
from sidechain.crypto.muhash import MuHash
from sidechain.params import Deployment
from sidechain.primitives.transaction import OutPoint
from sidechain.storage import schema
from sidechain.storage.verify import verify_chain
from tests.factories import ALICE, BOB
from tests.sidechain.block_pool import NOW_S, BlockPool, submit
from tests.sidechain.test_rpc_submit import Node, shown


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[BlockPool]:
    made = BlockPool(tmp_path / "pool")
    yield made
    made.close()


@pytest.fixture
def node(tmp_path: Path, pool: BlockPool) -> Iterator[Node]:
    opened = Chain.open(tmp_path / "chain", pool.signed.params)
    yield Node(opened)
    opened.close()


async def test_tips_when_branches_are_of_every_kind_then_their_states(
    pool: BlockPool, node: Node
) -> None:
    main = pool.line(pool.genesis, 4)
    fork = pool.line(main[0].hash, 1)
    known = pool.line(main[1].hash, 4)
    other = pool.line(main[0].hash, 1)
    submit(node.chain, *fork[:0], main[0], fork[0], main[1], main[2], main[3], other[0])
    for block in known:
        await node.call("submitheader", block.header.serialize().hex())
    await node.call("invalidateblock", shown(main[3].hash))
    tips = await node.call("getchaintips")
    assert tips[0] == {
        "height": 6,
        "hash": shown(known[3].hash),
        "branchlen": 4,
        "status": "headers-only",
    }
    states = {tip["hash"]: (tip["height"], tip["branchlen"], tip["status"]) for tip in tips}
    assert states[shown(main[3].hash)] == (4, 1, "invalid")
    assert states[shown(main[2].hash)] == (3, 0, "active")
    assert states[shown(fork[0].hash)] == (2, 1, "valid-fork")
    assert states[shown(other[0].hash)] == (2, 1, "valid-headers")
    info = await node.call("getblockchaininfo")
    assert (info["blocks"], info["headers"]) == (3, 6)
    for method, params in (
        ("getblockstats", [shown(known[3].hash)]),
        ("gettxoutproof", [["11" * 32], shown(known[3].hash)]),
    ):
        error = await node.error(method, *params)
        assert error == (-1, "Block not available (not fully downloaded)")


async def test_block_when_beside_the_chain_then_shown_without_confirmations(
    pool: BlockPool, node: Node
) -> None:
    one, two = pool.line(pool.genesis, 1), pool.line(pool.genesis, 2)
    submit(node.chain, *one, *two)
    got = await node.call("getblock", shown(one[0].hash), 2)
    assert (got["confirmations"], got["height"], got["nTx"]) == (-1, 1, 1)
    assert "nextblockhash" not in got
    assert await node.call("getblock", shown(one[0].hash), 0) == one[0].serialize().hex()
    header = await node.call("getblockheader", shown(one[0].hash))
    assert header == {key: value for key, value in got.items() if key in header}
    later = pool.block(two[1].hash)
    await node.call("submitheader", later.header.serialize().hex())
    assert (await node.call("getblockheader", shown(later.hash)))["nTx"] == 0
    assert await node.error("getblock", shown(later.hash)) == (
        -1,
        "Block not available (not fully downloaded)",
    )
    assert await node.error("getblock", "11" * 32) == (-5, "Block not found")


async def test_deployments_when_voted_on_then_votes_and_states(tmp_path: Path) -> None:
    pool = BlockPool(
        tmp_path / "pool",
        miner_confirmation_window=4,
        rule_change_activation_threshold=3,
        testdummy=Deployment(bit=28, start=0),
        csv_height=7,
    )
    node = Node(pool.signed.chain)
    blocks = pool.line(pool.genesis, 5)
    found = (await node.call("getdeploymentinfo"))["deployments"]
    assert list(found) == [
        *("bip34", "bip66", "bip65", "csv", "segwit"),
        *("dynafed", "testdummy", "taproot"),
    ]
    assert found["csv"] == {"type": "buried", "active": False, "height": 7}
    dummy = found["testdummy"]
    assert dummy["bip9"] == {
        "bit": 28,
        "start_time": 0,
        "timeout": 2**63 - 1,
        "min_activation_height": 0,
        "status": "started",
        "since": 4,
        "status_next": "started",
        "statistics": {
            "period": 4,
            "elapsed": 2,
            "count": 0,
            "threshold": 3,
            "possible": False,
        },
        "signalling": "--",
    }
    assert found["dynafed"]["height"] == 0 and found["dynafed"]["active"]
    first = await node.call("getdeploymentinfo", shown(blocks[0].hash))
    assert first["deployments"]["testdummy"]["bip9"]["status"] == "defined"
    assert (await node.error("getdeploymentinfo", "11" * 32))[0] == -5
    pool.close()


async def test_figures_when_transactions_are_in_blocks_then_counted(
    pool: BlockPool, node: Node
) -> None:
    signed = pool.signed
    first = pool.block(pool.genesis, [signed.claim(signed.deposit(ALICE.script, 10**8), ALICE)])
    coin = OutPoint(first.transactions[1].txid, 0)
    payment = signed.payment(ALICE, [coin], [(BOB.script, 10**6)], fee_sats=2_000)
    blocks = [first, pool.block(first.hash, [payment])]
    blocks += pool.line(blocks[-1].hash, 2)
    submit(node.chain, *blocks)
    stats = await node.call("getchaintxstats", 2)
    assert (stats["txcount"], stats["window_tx_count"]) == (7, 2)
    assert stats["window_interval"] == 60
    assert stats["txrate"] == Decimal("0.03333333333333333")
    assert (await node.call("getchaintxstats", None, shown(first.hash)))["txcount"] == 3
    assert (await node.error("getchaintxstats", 4))[0] == -8
    figures = await node.call("getblockstats", 2)
    assert (figures["totalfee"], figures["ins"], figures["outs"]) == (2_000, 1, 6)
    assert (figures["avgfee"], figures["swtxs"], figures["txs"]) == (2_000, 1, 2)
    assert figures["feerate_percentiles"] == [4 * 2_000 // payment.weight_wu] * 5
    assert figures["total_out"] == 10**8 - 1_000
    assert figures["utxo_increase_actual"] == 1
    some = await node.call("getblockstats", shown(blocks[1].hash), ["txs", "height"])
    assert some == {"height": 2, "txs": 2}
    assert (await node.error("getblockstats", 2, ["nothing"]))[0] == -8
    assert (await node.error("getblockstats", 9))[0] == -8
    claim = await node.call("getblockstats", 1)
    made = first.transactions[1].outputs[0]
    assert claim["utxo_size_inc_actual"] == len(made.serialize()) + 41 - 45


async def test_proof_when_nothing_is_indexed_then_a_coin_or_the_block_is_needed(
    pool: BlockPool, node: Node
) -> None:
    """elementsd's gettxoutproof: without -txindex the coins say where a transaction is."""
    signed = pool.signed
    coin = signed.mint(ALICE, 10**5)
    methods = ProofMethods(signed.chain, indexed=False)
    txid = coin.txid[::-1].hex()
    before = methods.gettxoutproof([txid])
    place = shown(signed.chain.tip_hash)
    everything = [(BOB.script, 10**5 - 1_000)]
    signed.extend([signed.payment(ALICE, [coin], everything, fee_sats=1_000)])
    assert ProofMethods(signed.chain).gettxoutproof([txid]) == before
    with pytest.raises(RpcError) as refused:
        methods.gettxoutproof([txid])
    assert (refused.value.code, refused.value.message) == (-5, "Transaction not yet in block")
    assert methods.gettxoutproof([txid], place) == before


async def test_wait_when_the_tip_moves_then_answered(pool: BlockPool, node: Node) -> None:
    one, two = pool.line(pool.genesis, 2)
    waiting = [
        asyncio.ensure_future(node.call("waitfornewblock")),
        asyncio.ensure_future(node.call("waitforblock", shown(two.hash))),
        asyncio.ensure_future(node.call("waitforblockheight", 2, 600_000)),
    ]
    await asyncio.sleep(0)
    submit(node.chain, one, two)
    expected = {"hash": shown(two.hash), "height": 2}
    assert [await each for each in waiting] == [expected] * 3
    assert await node.call("waitfornewblock", 1) == expected
    assert await node.call("waitforblockheight", 1) == expected
    assert (await node.error("waitfornewblock", -1))[0] == -1


async def test_prune_when_asked_then_error(node: Node) -> None:
    assert (await node.error("pruneblockchain", 1))[0] == -1


def chain_with_payments(pool: BlockPool) -> Chain:
    signed = pool.signed
    coin = signed.mint(ALICE, 10**8)
    for _ in range(3):
        tx = signed.payment(ALICE, [coin], [], fee_sats=500)
        signed.extend([tx])
        coin = OutPoint(tx.txid, 0)
    return signed.chain


def test_verify_when_nothing_is_wrong_then_true_at_every_level(pool: BlockPool) -> None:
    chain = chain_with_payments(pool)
    before = list(chain.coins())
    for level in range(-1, 6):
        for blocks in (-1, 0, 1, 3, 100):
            assert chain.verify(level=level, blocks=blocks)
    assert list(chain.coins()) == before


@pytest.mark.parametrize(
    ("damage", "least_level"), [("block", 0), ("merkle", 1), ("undo", 2), ("coin", 3)]
)
def test_verify_when_something_is_wrong_then_false_from_its_level_on(
    pool: BlockPool, damage: str, least_level: int
) -> None:
    chain = chain_with_payments(pool)
    state = chain._state
    database = state._database
    top = chain.tip_height
    changes: dict[bytes, bytes] = {}
    match damage:
        case "block":
            changes[schema.block_key(top)] = state.block_bytes(top - 1)
        case "merkle":
            raw = bytearray(state.block_bytes(top))
            raw[raw.rindex((500).to_bytes(8, "big"))] ^= 1
            changes[schema.block_key(top)] = bytes(raw)
        case "undo":
            changes[schema.undo_key(top)] = bytes(40)
        case "coin":
            point = state.undo(top).created[0]
            database.write({}, [schema.coin_key(point)])
            state._coins.clear()
    database.write(changes)
    found = [verify_chain(state, chain.params, level=level, blocks=2) for level in range(5)]
    assert found == [level < least_level for level in range(5)]


def test_muhash_when_order_differs_then_same_value() -> None:
    def of(*elements: bytes) -> bytes:
        muhash = MuHash()
        for element in elements:
            muhash.insert(element)
        return muhash.digest()

    assert of(b"a", b"b", b"c") == of(b"c", b"a", b"b") != of(b"a", b"b")
    assert of(b"a", b"a") != of(b"a")


def test_listeners_when_the_tip_moves_then_called_once_a_move(pool: BlockPool) -> None:
    calls: list[Any] = []
    pool.signed.chain.listen(lambda: calls.append(pool.signed.chain.tip_height))
    (block,) = pool.line(pool.genesis, 1)
    pool.signed.chain.invalidate_block(block.hash, facts=None, now_s=NOW_S)
    assert calls[0] == 1 and calls[-1] == 0
