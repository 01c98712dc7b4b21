"""Elements' methods: JSON equal to what elementsd recorded, and a whole node over a socket."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sidechain.api.block_json import Position, block_json
from sidechain.api.client import RpcClient, RpcError
from sidechain.api.http import Registry, RpcServer
from sidechain.api.json_text import decode, encode
from sidechain.api.rpc import register_chain_methods
from sidechain.api.rpc_coins import CoinMethods
from sidechain.api.rpc_node import NodeHooks
from sidechain.api.script_json import add_checksum, script_asm
from sidechain.api.transaction_json import transaction_json
from sidechain.chain import Chain
from sidechain.daemon.chain_options import params_from_options
from sidechain.errors import Unavailable
from sidechain.primitives.block import Block
from sidechain.primitives.transaction import OutPoint, Transaction
from sidechain.script.script import multisig_script, push
from sidechain.storage.chainstate import ChainState
from sidechain.validation.pegins import ParentFacts
from tests.factories import ALICE, BOB, FIRST_BLOCK_TIME_S, SignedChain, StaticFacts, unjudged_delta
from tests.vectors import chain_json, chain_vectors, recorded_blocks, recorded_params


def shown(value: Any) -> Any:
    """JSON as a client reads it."""
    return decode(encode(value))


def recorded(name: str) -> Any:
    """A vector file with exact numbers."""
    path = chain_vectors() / name
    if not path.exists():
        pytest.skip(f"no {path}")
    return decode(path.read_bytes())


# --- equality with elementsd -------------------------------------------------------------------


def test_decoded_transactions_when_recorded_then_equal() -> None:
    params = recorded_params()
    compared = 0
    for entry in recorded("txs_valid.json"):
        tx = Transaction.decode(bytes.fromhex(entry["hex"]))
        assert shown(transaction_json(tx, params)) == entry["decoded"], entry["label"]
        compared += 1
    print(f"decoded transactions compared: {compared}, skipped: 0")
    assert compared


def test_decoded_blocks_when_recorded_then_equal() -> None:
    params, blocks = recorded_params(), recorded_blocks()
    compared = 0
    for entry, block in zip(recorded("blocks.json"), blocks, strict=True):
        times = sorted(
            b.header.time
            for b in blocks[max(0, block.header.height - 10) : block.header.height + 1]
        )
        position = Position(
            height=block.header.height,
            confirmations=1,
            median_time=times[len(times) // 2],
            next_hash=None,
        )
        full = entry["verbosity"] == 2
        transactions = [transaction_json(tx, params) for tx in block.transactions]
        got = shown(block_json(block, position, transactions if full else None))
        del got["confirmations"]
        assert got == entry["json"], entry["height"]
        compared += 1
    print(f"decoded blocks compared: {compared}, skipped: 0")
    assert compared


def test_decoded_genesis_when_other_chains_then_equal() -> None:
    for entry in recorded("genesis.json"):
        params = params_from_options([f"-chain={entry['chain']}", *entry["options"]])
        block = Block.decode(bytes.fromhex(entry["genesis_hex"]), params)
        position = Position(
            height=0, confirmations=1, median_time=block.header.time, next_hash=None
        )
        transactions = [
            transaction_json(tx, params) | {"hex": tx.raw.hex()} for tx in block.transactions
        ]
        got = shown(block_json(block, position, transactions))
        expected = dict(entry["genesis_json"])
        for unstable in ("confirmations", "nextblockhash"):
            got.pop(unstable, None)
            expected.pop(unstable, None)
        assert got == expected, entry["chain"]


@pytest.fixture
async def recorded_node(tmp_path: Path) -> AsyncIterator["Node"]:
    node = await Node.start(tmp_path, Chain.open(tmp_path / "chain", recorded_params()))
    yield node
    await node.stop()


async def test_validateaddress_when_recorded_then_equal(recorded_node: "Node") -> None:
    addresses = recorded("addresses.json")
    compared = without_locations = 0
    for entry in addresses["valid"] + addresses["invalid"]:
        pairs = [(entry["address"], entry["validateaddress"])]
        if "confidential" in entry:
            pairs.append((entry["confidential"], entry["validateaddress_confidential"]))
        for address, expected in pairs:
            got = await recorded_node.call("validateaddress", address)
            if "error" in expected:
                # Which characters look wrong, and what the parent's parser says, is not told.
                without_locations += 1
                hidden = ("error_locations", "error_parent")
                got = {k: v for k, v in got.items() if k not in hidden}
                expected = {k: v for k, v in expected.items() if k not in hidden}
                if not expected["error"]:
                    # elementsd gives no text here; ours is kept.
                    expected["error"] = got["error"]
            assert got == expected, address
            compared += 1
    print(f"validateaddress compared: {compared}, of these without locations: {without_locations}")


async def test_chain_info_when_at_genesis_then_equal(recorded_node: "Node") -> None:
    params = recorded("params.json")
    info = await recorded_node.call("getblockchaininfo")
    for key in ("size_on_disk", "warnings"):
        del info[key]
    expected = params["getblockchaininfo_at_genesis"]
    assert info == {k: v for k, v in expected.items() if k not in ("size_on_disk", "warnings")}
    assert await recorded_node.call("getsidechaininfo") == params["getsidechaininfo_at_genesis"]


async def test_tweakfedpegscript_when_recorded_deposits_then_equal(recorded_node: "Node") -> None:
    for deposit in recorded("parent.json")["deposits"]:
        got = await recorded_node.call(
            "tweakfedpegscript", deposit["claim_script"], deposit["fedpegscript"]
        )
        assert got == {
            "script": deposit["tweaked_script"],
            "p2wsh": deposit["p2wsh_address"],
            "p2shwsh": deposit["p2sh_p2wsh_address"],
        }


async def test_coin_set_when_recorded_chain_then_equal(tmp_path: Path) -> None:
    params = recorded_params()
    state = ChainState.open(tmp_path / "chain", params)
    expected = {entry["height"]: entry for entry in recorded("utxo.json")}
    for block in recorded_blocks()[1:]:
        state.connect(block, unjudged_delta(block, state, params))
        if state.tip_height in expected:
            methods = CoinMethods(Chain(state, params))
            for kind in ("hash_serialized_3", "muhash", "none"):
                got = shown(await methods.gettxoutsetinfo(kind))
                del got["disk_size"]
                assert got == expected[state.tip_height][kind]
    state.close()


async def test_genesis_when_asked_then_block_zero(recorded_node: "Node") -> None:
    best = await recorded_node.call("getbestblockhash")
    assert best == await recorded_node.call("getblockhash", 0)
    assert await recorded_node.call("getblock", best, 0) == chain_json("blocks.json")[0]["hex"]
    assert (await recorded_node.call("getchaintips"))[0]["hash"] == best
    # A chain whose genesis outputs can be spent also shows the transaction.
    root = (await recorded_node.call("getblock", best))["merkleroot"]
    assert (await recorded_node.call("getrawtransaction", root, 1))["blockhash"] == best


def test_asm_when_odd_scripts_then_as_elements() -> None:
    assert script_asm(bytes.fromhex("00515f604f")) == "0 1 15 16 -1"
    assert script_asm(bytes.fromhex("010202008004ffffff7f")) == "2 0 2147483647"
    assert script_asm(bytes.fromhex("5105aa")) == "1 [error]"
    assert script_asm(bytes.fromhex("ff")) == "OP_INVALIDOPCODE"
    assert add_checksum("raw(deadbeef)") == "raw(deadbeef)#89f8spxm"


# --- a node of our own -------------------------------------------------------------------------


@dataclass
class Node:
    """A chain behind a real socket, with a clock that stands still."""

    chain: Chain
    server: RpcServer
    client: RpcClient
    facts: ParentFacts | Unavailable | None = None
    accepted: list[Transaction] = field(default_factory=list)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    async def start(cls, path: Path, chain: Chain) -> "Node":
        registry = Registry()
        server = RpcServer(registry, path / ".cookie", on_fault=_fail)
        client = RpcClient("", path / ".cookie")
        node = cls(chain, server, client)

        async def facts_for(tx: Transaction) -> ParentFacts | None:
            assert any(txin.is_pegin for txin in tx.inputs)
            await asyncio.sleep(0)
            if isinstance(node.facts, Unavailable):
                raise node.facts
            return node.facts

        async def on_accepted(tx: Transaction) -> None:
            node.accepted.append(tx)

        register_chain_methods(
            registry,
            chain,
            facts_for=facts_for,
            on_accepted=on_accepted,
            hooks=NodeHooks(
                unix_time_s=lambda: FIRST_BLOCK_TIME_S + 86_400 * 10, stop=node.stopped.set
            ),
        )
        await server.start()
        node.client = RpcClient(server.url, path / ".cookie")
        return node

    async def call(self, method: str, *params: Any, **named: Any) -> Any:
        return await self.client.call(method, *params, **named)

    async def refused(self, method: str, *params: Any) -> tuple[int, str]:
        with pytest.raises(RpcError) as error:
            await self.call(method, *params)
        return error.value.code, error.value.message

    async def stop(self) -> None:
        await self.client.close()
        await self.server.stop()
        self.chain.close()


def _fail(error: BaseException) -> None:
    raise AssertionError("unexpected error in a handler") from error


@pytest.fixture
def signed(tmp_path: Path) -> SignedChain:
    return SignedChain.open(tmp_path / "chain")


@pytest.fixture
async def node(tmp_path: Path, signed: SignedChain) -> AsyncIterator[Node]:
    running = await Node.start(tmp_path, signed.chain)
    yield running
    await running.stop()


async def test_blocks_when_asked_then_every_form(node: Node, signed: SignedChain) -> None:
    coin = signed.mint(ALICE, 10**8)
    signed.extend([signed.payment(ALICE, [coin], [(BOB.script, 5_000)])])
    signed.extend()
    assert await node.call("getblockcount") == 3
    block_hash = await node.call("getblockhash", height=2)
    raw = await node.call("getblock", block_hash, 0)
    assert raw == signed.chain.block_bytes(2).hex()
    assert await node.call("getblock", block_hash, False) == raw
    one = await node.call("getblock", blockhash=block_hash)
    assert (one["confirmations"], one["height"], one["nTx"]) == (2, 2, 2)
    assert one["nextblockhash"] == await node.call("getbestblockhash")
    three = await node.call("getblock", block_hash, 3)
    assert [tx["txid"] for tx in three["tx"]] == one["tx"]
    assert three["tx"][1]["vin"][0]["prevout"]["value"] == Decimal(1)
    header = await node.call("getblockheader", block_hash)
    assert header == {k: v for k, v in one.items() if k in header}
    header_hex = await node.call("getblockheader", block_hash, False)
    assert raw.startswith(header_hex)
    assert await node.call("verifychain") is True


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("getblockhash", [1], -8),
        ("getblockhash", [-1], -8),
        ("getblockhash", ["0"], -3),
        ("getblockhash", [], -1),
        ("getblock", ["00" * 32], -5),
        ("getblock", ["00"], -8),
        ("getblock", ["zz" * 32], -8),
        ("getblock", [5], -3),
        ("getblockheader", ["00" * 32], -5),
        ("getrawtransaction", ["00" * 32], -5),
        ("getmempoolentry", ["00" * 32], -5),
        ("decoderawtransaction", ["00"], -22),
        ("decoderawtransaction", ["xx"], -22),
        ("decodescript", ["xx"], -8),
        ("sendrawtransaction", ["00"], -22),
        ("testmempoolaccept", [[]], -8),
        ("testmempoolaccept", ["00"], -3),
        ("gettxoutsetinfo", ["sha1"], -8),
        ("gettxoutsetinfo", ["none", 3], -8),
        ("validateaddress", [5], -3),
        ("tweakfedpegscript", ["xx"], -3),
        ("nothing", [], -32601),
    ],
)
async def test_call_when_wrong_then_code(
    node: Node, method: str, params: list[Any], code: int
) -> None:
    assert (await node.refused(method, *params))[0] == code


async def test_send_when_valid_then_relayed_and_shown(node: Node, signed: SignedChain) -> None:
    coin = signed.mint(ALICE, 10**8)
    tx = signed.payment(ALICE, [coin], [(BOB.script, 5_000)])
    (verdict,) = await node.call("testmempoolaccept", [tx.raw.hex()])
    assert verdict["allowed"] and verdict["fees"]["base"] == Decimal("0.00001")
    txid = await node.call("sendrawtransaction", tx.raw.hex())
    assert txid == tx.txid[::-1].hex()
    assert await node.call("sendrawtransaction", tx.raw.hex()) == txid
    assert node.accepted == [tx, tx]
    assert await node.call("getrawmempool") == [txid]
    entry = await node.call("getmempoolentry", txid)
    assert (await node.call("getrawmempool", True))[txid] == entry
    assert entry["fees"]["base"] == Decimal("0.00001")
    assert (await node.call("getmempoolinfo"))["size"] == 1
    shown_tx = await node.call("getrawtransaction", txid, 2)
    # elementsd shows what is spent only for transactions in blocks.
    assert "prevout" not in shown_tx["vin"][0] and "blockhash" not in shown_tx
    assert await node.call("getrawtransaction", txid) == tx.raw.hex()
    coin_hex = coin.txid[::-1].hex()
    assert await node.call("gettxout", coin_hex, coin.index) is None
    assert (await node.call("gettxout", coin_hex, coin.index, False))["value"] == 1
    assert (await node.call("gettxout", txid, 0))["confirmations"] == 0
    signed.extend(signed.chain.select_transactions())
    assert (await node.call("gettxout", txid, 0))["confirmations"] == 1
    assert (await node.call("getrawtransaction", txid, 1))["confirmations"] == 1
    best = await node.call("getbestblockhash")
    in_block = await node.call("getrawtransaction", txid, True, best)
    assert in_block["in_active_chain"] is True
    assert (await node.refused("sendrawtransaction", tx.raw.hex()))[0] == -27
    genesis_hash = await node.call("getblockhash", 0)
    assert (await node.refused("getrawtransaction", txid, 1, genesis_hash))[0] == -5


async def test_send_when_refused_then_elements_codes(node: Node, signed: SignedChain) -> None:
    coin = signed.mint(ALICE, 10**8)
    low = signed.payment(ALICE, [coin], [(BOB.script, 5_000)], fee_sats=1)
    code, message = await node.refused("sendrawtransaction", low.raw.hex())
    assert (code, message.split(",")[0]) == (-26, "min relay fee not met")
    missing = signed.payment(ALICE, [], [(BOB.script, 5_000)])
    assert (await node.refused("sendrawtransaction", missing.raw.hex()))[0] in (-22, -26)
    unknown = Transaction.build(
        inputs=[type(low.inputs[0])(OutPoint(bytes(31) + b"\1", 0))], outputs=low.outputs
    )
    code, message = await node.refused("sendrawtransaction", unknown.raw.hex())
    assert (code, message) == (-25, "bad-txns-inputs-missingorspent")
    (verdict,) = await node.call("testmempoolaccept", [unknown.raw.hex()])
    assert verdict["reject-reason"] == "missing-inputs"
    greedy = signed.payment(ALICE, [coin], [], fee_sats=10**7)
    code, message = await node.refused("sendrawtransaction", greedy.raw.hex())
    assert code == -25 and "maxfeerate" in message
    assert await node.call("sendrawtransaction", greedy.raw.hex(), 0)


async def test_send_when_burning_then_only_pegouts_unasked(node: Node, signed: SignedChain) -> None:
    coin = signed.mint(ALICE, 10**8)
    plain = signed.payment(ALICE, [coin], [(b"\x6a", 5_000)])
    code, message = await node.refused("sendrawtransaction", plain.raw.hex())
    assert code == -25 and "maxburnamount" in message
    script = b"\x6a" + push(signed.params.parent_genesis_hash) + push(BOB.script)
    pegout = signed.payment(ALICE, [coin], [(script, 40_000_000)])
    await node.call("sendrawtransaction", pegout.raw.hex())
    decoded = await node.call("decoderawtransaction", pegout.raw.hex())
    assert decoded["vout"][0]["scriptPubKey"]["pegout_hex"] == BOB.script.hex()


async def test_send_when_pegin_then_facts_are_awaited(node: Node, signed: SignedChain) -> None:
    signed.extend()
    deposit = signed.deposit(ALICE.script, 10**8)
    claim = signed.claim(deposit, ALICE).raw.hex()
    node.facts = StaticFacts()
    refusal = (-26, "bad-pegin-witness, Needs more confirmations.")
    assert await node.refused("sendrawtransaction", claim) == refusal
    (verdict,) = await node.call("testmempoolaccept", [claim])
    assert verdict["reject-details"] == refusal[1]
    node.facts = StaticFacts([deposit], confirmations=8)
    txid = await node.call("sendrawtransaction", claim)
    signed.extend(signed.chain.select_transactions())
    assert (await node.call("getrawtransaction", txid, 2))["vin"][0]["prevout"]["value"] == 1
    again = signed.claim(deposit, ALICE, fee_sats=2_000).raw.hex()
    assert (await node.refused("sendrawtransaction", again)) == (-26, "pegin-already-claimed")


async def test_send_when_parent_is_unreachable_then_retry_later(
    node: Node, signed: SignedChain
) -> None:
    signed.extend()
    claim = signed.claim(signed.deposit(ALICE.script, 10**8), ALICE)
    node.facts = Unavailable("bitcoind does not answer")
    code, message = await node.refused("sendrawtransaction", claim.raw.hex())
    assert (code, message) == (-28, "bitcoind does not answer")


async def test_coin_set_when_counted_then_matches_issue(node: Node, signed: SignedChain) -> None:
    signed.mint(ALICE, 10**8)
    info = await node.call("gettxoutsetinfo")
    assert (info["txouts"], info["transactions"]) == (1, 1)
    assert info["total_amount"] == 1
    without = await node.call("gettxoutsetinfo", "none")
    assert "hash_serialized_3" not in without


async def test_decodescript_when_key_hash_then_wrapped_forms(node: Node) -> None:
    decoded = await node.call("decodescript", "76a914" + "11" * 20 + "88ac")
    assert decoded["type"] == "pubkeyhash"
    assert decoded["segwit"]["type"] == "witness_v0_keyhash"
    assert decoded["p2sh"] and decoded["segwit"]["p2sh-segwit"]
    assert "p2sh" not in await node.call("decodescript", "6a")
    many = multisig_script(2, [b"\2" * 33] * 17)
    shown = await node.call("decodescript", many.hex())
    assert shown["type"] == "multisig"
    assert shown["desc"].startswith("multi(2," + "02" * 33)
    assert (await node.call("decodescript", ""))["type"] == "fee"


async def test_node_methods_when_called_then_answered(node: Node) -> None:
    assert (await node.call("getnetworkinfo"))["relayfee"] == Decimal("0.000001")
    assert await node.call("uptime") == 0
    assert "getblock blockhash ( verbosity )" in await node.call("help")
    assert (await node.call("help", "getblock")).startswith("getblock blockhash")
    assert await node.call("getblockchaininfo")
    assert await node.call("stop") == "fedpeg stopping"
    assert node.stopped.is_set()


async def test_aids_of_tests_when_called_then_arguments_are_checked(node: Node) -> None:
    """elements/interfaces.md 3: hidden methods that test frameworks call."""
    assert await node.call("syncwithvalidationinterfacequeue") is None
    assert (await node.refused("stop", "soon"))[0] == -3
    assert not node.stopped.is_set()
    assert await node.call("stop", 1) == "fedpeg stopping"
    assert node.stopped.is_set()
