"""Blocks through the RPC methods: answers, errors, and deposits that are asked for in time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidechain.api.registry import Registry, RpcError
from sidechain.api.rpc import register_chain_methods
from sidechain.api.rpc_node import NodeHooks
from sidechain.api.rpc_submit import Submission
from sidechain.chain import Chain
from sidechain.primitives.transaction import InputWitness, Transaction
from sidechain.script.script import multisig_script, p2wsh
from tests.factories import ALICE, Deposit, StaticFacts, output
from tests.sidechain.block_pool import NOW_S, BlockPool


class Node:
    """A chain behind its methods, and a parent whose depth the test chooses."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.registry = Registry()
        self.deposits: list[Deposit] = []
        self.depth = 8
        self.asked: list[bytes] = []
        register_chain_methods(
            self.registry,
            chain,
            facts_for=self._facts_for,
            on_accepted=self._nobody,
            hooks=NodeHooks(unix_time_s=lambda: NOW_S),
            takes_blocks=True,
        )

    async def _facts_for(self, tx: Transaction) -> StaticFacts:
        self.asked.append(tx.txid)
        return StaticFacts(self.deposits, self.depth)

    async def _nobody(self, tx: Transaction) -> None:
        raise AssertionError(tx)

    async def call(self, name: str, *params: Any) -> Any:
        """The result of a method."""
        return await self.registry.call(name, params)

    async def error(self, name: str, *params: Any) -> tuple[int, str]:
        """Code and message of a method's error."""
        with pytest.raises(RpcError) as refused:
            await self.call(name, *params)
        return refused.value.code, refused.value.message


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


def shown(block_hash: bytes) -> str:
    return block_hash[::-1].hex()


async def test_submitblock_when_answered_then_null_or_a_word(pool: BlockPool, node: Node) -> None:
    one, two = pool.line(pool.genesis, 1), pool.line(pool.genesis, 2)
    raw = one[0].serialize().hex()
    assert await node.call("submitblock", raw) is None
    assert await node.call("submitblock", raw + "00", "ignored") == "duplicate"
    assert await node.call("submitblock", two[0].serialize().hex()) == "inconclusive"
    unsigned = two[1].with_signblock_witness(()).serialize().hex()
    assert await node.call("submitblock", unsigned) == "block-proof-invalid"
    assert await node.call("submitblock", two[1].serialize().hex()) is None
    for bad in ("", "zz", raw[:-2], " " + raw):
        assert await node.error("submitblock", bad) == (-22, "Block decode failed")
    assert (await node.error("submitblock", 5))[0] == -3
    assert (await node.error("submitblock", "00", 5))[0] == -3


async def test_submitheader_when_wrong_then_error_with_the_reason(
    pool: BlockPool, node: Node
) -> None:
    one, two = pool.line(pool.genesis, 2)
    first, second = (block.header.serialize().hex() for block in (one, two))
    missing = f"Must submit previous header ({shown(one.hash)}) first"
    assert await node.error("submitheader", second) == (-25, missing)
    assert await node.call("submitheader", first) is None
    assert await node.call("submitheader", second) is None
    late = pool.resigned(one, time=NOW_S + 7_201).header.serialize().hex()
    assert await node.error("submitheader", late) == (-25, "time-too-new")
    assert await node.error("submitheader", first[:-2]) == (-22, "Block header decode failed")


async def test_testproposedblock_when_wrong_then_error_with_the_reason(
    pool: BlockPool, node: Node
) -> None:
    one, two = pool.line(pool.genesis, 2)
    deposit = pool.signed.deposit(ALICE.script, 10**8)
    claiming = pool.block(pool.genesis, [pool.signed.claim(deposit, ALICE)])
    node.deposits, node.depth = [deposit], 7
    raw = claiming.with_signblock_witness(()).serialize().hex()
    assert await node.error("testproposedblock", raw) == (-25, "bad-pegin-witness")
    node.depth = 8
    assert await node.call("testproposedblock", raw) is None
    assert await node.error("testproposedblock", two.serialize().hex()) == (
        -25,
        "proposal was not based on our best chain",
    )
    await node.call("submitblock", one.serialize().hex())
    assert await node.error("testproposedblock", one.serialize().hex()) == (
        -27,
        "already have block",
    )
    assert await node.error("testproposedblock", "00") == (-22, "Block decode failed")


@pytest.mark.parametrize(
    ("script", "amount_sats", "fault"),
    [
        (multisig_script(1, [b"\2" * 33]), 10_000, ""),
        (b"\x6a\x01\x05", 10_000, "scriptpubkey"),
    ],
)
async def test_testproposedblock_when_forms_are_asked_then_not_as_the_mempool_is_told(
    tmp_path: Path, script: bytes, amount_sats: int, fault: str
) -> None:
    """interfaces.md 2: what a node is told of multisigs, dust and data is for its mempool."""
    pool = BlockPool(
        tmp_path / "pool", permit_bare_multisig=False, dust_relay_fee_sats_per_kvb=10**6
    )
    params, anyone = pool.signed.params, p2wsh(b"\x51")
    deposit = pool.signed.deposit(anyone, 2 * amount_sats)
    claim = pool.signed.unsigned_claim(deposit, anyone, amount_sats)
    pegin = claim.input_witnesses[0].pegin
    tx = Transaction.build(
        inputs=claim.inputs,
        outputs=[output(params, script, amount_sats), output(params, b"", amount_sats)],
        input_witnesses=[InputWitness(script=(b"\x51",), pegin=pegin)],
    )
    raw = pool.block(pool.genesis, [tx]).with_signblock_witness(()).serialize().hex()
    opened = Chain.open(tmp_path / "chain", params)
    node = Node(opened)
    node.deposits = [deposit]
    if fault:
        said = f"Block proposal included a non-standard transaction: {fault}"
        assert await node.error("testproposedblock", raw, False) == (-25, said)
    else:
        assert await node.call("testproposedblock", raw, False) is None
    opened.close()
    pool.close()


async def test_claims_when_a_reorganisation_turns_back_then_their_deposits_are_asked_too(
    pool: BlockPool, node: Node
) -> None:
    deposit = pool.signed.deposit(ALICE.script, 10**8)
    node.deposits = [deposit]
    claiming = pool.block(pool.genesis, [pool.signed.claim(deposit, ALICE)])
    others = pool.line(pool.genesis, 2)
    for block in (claiming, *others):
        await node.call("submitblock", block.serialize().hex())
    assert node.chain.tip_hash == others[1].hash
    node.asked.clear()
    await node.call("invalidateblock", shown(others[0].hash))
    assert node.chain.tip_hash == claiming.hash
    assert node.asked == [claiming.transactions[1].txid]
    node.depth = 7
    await node.call("reconsiderblock", shown(others[1].hash))
    await node.call("invalidateblock", shown(others[0].hash))
    assert node.chain.tip_height == 0
    node.depth = 8
    assert await node.call("submitblock", claiming.serialize().hex()) == "duplicate"
    assert node.chain.tip_hash == claiming.hash


async def test_catch_up_when_a_deposit_has_ripened_then_its_block_is_connected(
    pool: BlockPool, node: Node
) -> None:
    deposit = pool.signed.deposit(ALICE.script, 10**8)
    claiming = pool.block(pool.genesis, [pool.signed.claim(deposit, ALICE)])
    node.deposits, node.depth = [deposit], 7
    assert await node.call("submitblock", claiming.serialize().hex()) == "inconclusive"
    submission = Submission(node.chain, node._facts_for, lambda: NOW_S)
    await submission.catch_up()
    assert node.chain.tip_height == 0
    node.depth = 8
    await submission.catch_up()
    assert node.chain.tip_hash == claiming.hash


async def test_operator_when_block_is_unknown_or_genesis_then_error_or_nothing(
    pool: BlockPool, node: Node
) -> None:
    (block,) = pool.line(pool.genesis, 1)
    for name in ("invalidateblock", "reconsiderblock", "preciousblock"):
        assert await node.error(name, shown(block.hash)) == (-5, "Block not found")
        assert (await node.error(name, "00"))[0] == -8
    await node.call("submitblock", block.serialize().hex())
    for name in ("invalidateblock", "reconsiderblock", "preciousblock"):
        assert await node.call(name, shown(pool.genesis)) is None
    assert node.chain.tip_hash == block.hash
