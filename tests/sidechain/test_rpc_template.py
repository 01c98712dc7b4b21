"""`getblocktemplate` and the figures that only unsigned chains mean; answers as elementsd's."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sidechain.api.registry import Registry, RpcError
from sidechain.api.rpc import register_chain_methods
from sidechain.api.rpc_node import NodeHooks
from sidechain.chain import Chain
from sidechain.policy.template import TemplateRules
from sidechain.primitives.address import encode_address
from sidechain.primitives.genesis import chain_params, genesis_block
from sidechain.primitives.transaction import Transaction
from sidechain.script.script import p2wsh

PARAMS = chain_params(
    name="template", initial_free_coins_sats=100_000_000, anyone_can_spend_standard=True
)
NOW_S = 2_000_000_000
RULES = {"rules": ["segwit"]}
TRUE_ADDRESS = encode_address(p2wsh(b"\x51"), PARAMS.prefixes)


class Node:
    """A chain behind its methods; its clock stands still."""

    def __init__(self, chain: Chain, rules: TemplateRules | None = None) -> None:
        self.registry = Registry()
        register_chain_methods(
            self.registry,
            chain,
            facts_for=self._nothing,
            on_accepted=self._nothing,
            hooks=NodeHooks(unix_time_s=lambda: NOW_S),
            takes_blocks=True,
            template=rules,
        )

    async def _nothing(self, tx: Transaction) -> None:
        del tx

    async def call(self, name: str, *params: Any) -> Any:
        return await self.registry.call(name, params)

    async def error(self, name: str, *params: Any) -> tuple[int, str]:
        with pytest.raises(RpcError) as refused:
            await self.call(name, *params)
        return refused.value.code, refused.value.message


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    opened = Chain.open(tmp_path / "chain", PARAMS)
    yield opened
    opened.close()


async def pay(node: Node, txid: str, index: int, amount: str, fee: str) -> str:
    raw = await node.call(
        "createrawtransaction",
        [{"txid": txid, "vout": index}],
        [{TRUE_ADDRESS: amount}, {"fee": fee}],
    )
    tx = Transaction.decode(bytes.fromhex(raw))
    if index == 0 and txid != genesis_block(PARAMS).transactions[1].txid[::-1].hex():
        tx = Transaction.build(
            inputs=tx.inputs,
            outputs=tx.outputs,
            input_witnesses=[type(tx.input_witnesses[0])(script=(b"\x51",))],
        )
    return str(await node.call("sendrawtransaction", tx.raw.hex(), 0))


async def test_template_when_transactions_wait_then_it_holds_them_in_order(chain: Chain) -> None:
    node = Node(chain)
    first = await pay(node, genesis_block(PARAMS).transactions[1].txid[::-1].hex(), 0, "0.9", "0.1")
    second = await pay(node, first, 0, "0.8", "0.1")
    shown = await node.call("getblocktemplate", RULES)
    assert list(shown) == [
        *("capabilities", "version", "rules", "vbavailable", "vbrequired", "previousblockhash"),
        *("transactions", "coinbaseaux", "coinbasevalue", "longpollid", "target", "mintime"),
        *("mutable", "noncerange", "sigoplimit", "sizelimit", "weightlimit", "curtime", "bits"),
        *("height", "default_witness_commitment"),
    ]
    assert [tx["txid"] for tx in shown["transactions"]] == [first, second]
    assert [tx["depends"] for tx in shown["transactions"]] == [[], [1]]
    assert [tx["fee"] for tx in shown["transactions"]] == [10_000_000] * 2
    assert shown["coinbasevalue"] == 20_000_000 and shown["height"] == 1
    assert shown["bits"] == "207fffff" and shown["target"].startswith("7fffff00")
    assert shown["rules"][:2] == ["csv", "!segwit"]
    assert shown["curtime"] == NOW_S and shown["mintime"] <= NOW_S
    assert shown["default_witness_commitment"].startswith("6a24aa21a9ed")


async def test_template_when_a_version_is_set_then_it_has_that(chain: Chain) -> None:
    node = Node(chain, TemplateRules(version=0x20000007))
    assert (await node.call("getblocktemplate", RULES))["version"] == 0x20000007


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ({"mode": "x"}, (-8, "Invalid mode")),
        ({"mode": 5}, (-8, "Invalid mode")),
        ({"mode": "proposal"}, (-3, "Missing data String key for proposal")),
        ({"mode": "proposal", "data": "00"}, (-22, "Block decode failed")),
    ],
)
async def test_template_when_asked_wrongly_then_elementsds_words(
    chain: Chain, request_: Any, answer: tuple[int, str]
) -> None:
    node = Node(chain)
    assert await node.error("getblocktemplate", request_) == answer
    code, text = await node.error("getblocktemplate", {"rules": []})
    assert code == -8 and "segwit rule set" in text


async def test_proposal_when_judged_then_bip22s_answer(chain: Chain) -> None:
    node = Node(chain)

    async def judge(block: str) -> Any:
        return await node.call("getblocktemplate", {"mode": "proposal", "data": block})

    block = await node.call("getnewblockhex")
    assert await judge(block) is None
    assert await judge(block[:8] + "11" * 32 + block[72:]) == "inconclusive-not-best-prevblk"
    wrong_root = block[:72] + "22" * 32 + block[136:]
    assert await judge(wrong_root) == "bad-txnmrklroot"
    assert await node.call("submitblock", block) is None
    assert await judge(block) == "duplicate"
    shown = await node.call("getblocktemplate", RULES)
    assert shown["bits"] == "00000000" and int(shown["target"], 16) == 0


async def test_difficulty_when_blocks_are_signed_then_only_the_genesis_block_has_one(
    chain: Chain,
) -> None:
    node = Node(chain)
    difficulty = Decimal("4.656542373906925e-10")
    assert await node.call("getdifficulty") == difficulty
    (state,) = (await node.call("getchainstates"))["chainstates"]
    assert state["difficulty"] == difficulty and state["validated"]
    await node.call("submitblock", await node.call("getnewblockhex"))
    assert await node.error("getdifficulty") == (
        -1,
        "The string 'inf' is not a valid JSON number",
    )
    (state,) = (await node.call("getchainstates"))["chainstates"]
    assert state["blocks"] == 1 and state["bits"] == "00000000" and "difficulty" not in state
