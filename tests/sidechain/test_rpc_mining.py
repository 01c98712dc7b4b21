"""Proposals by RPC: templates, votes, signatures put together, sketches, blocks nobody signs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidechain.api.registry import Registry, RpcError
from sidechain.api.rpc import register_chain_methods
from sidechain.api.rpc_node import NodeHooks
from sidechain.chain import Chain
from sidechain.crypto.keys import ecdsa_sign, public_key
from sidechain.crypto.siphash import siphash
from sidechain.params import ChainParams, Deployment
from sidechain.primitives.block import Block
from sidechain.primitives.genesis import chain_params
from sidechain.primitives.transaction import OutPoint, Transaction, TxIn
from sidechain.script.script import multisig_script
from tests.factories import (
    ALICE,
    BOB,
    FIRST_BLOCK_TIME_S,
    SignedChain,
    federation_params,
    output,
    secret,
)

# The public key of BIP32's first test vector, in the form of test networks.
EXTENDED_KEY = (
    "tpubD6NzVbkrYhZ4XgiXtGrdW5XDAPFCL9h7we1vwNCpn8tGbBcgfVYj"
    "XyhWo4E1xkh56hjod1RhGjxbaTLV3X4FyWuejifB9jusQ46QzG87VKp"
)
NOW_S = FIRST_BLOCK_TIME_S + 1_000_000


class Node:
    """A chain behind its methods; its clock stands still."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.registry = Registry()
        register_chain_methods(
            self.registry,
            chain,
            facts_for=self._nothing,
            on_accepted=self._nothing,
            hooks=NodeHooks(unix_time_s=lambda: NOW_S),
            takes_blocks=True,
        )

    async def _nothing(self, tx: Transaction) -> None:
        del tx

    async def call(self, name: str, *params: Any) -> Any:
        """The result of a method."""
        return await self.registry.call(name, params)

    async def error(self, name: str, *params: Any) -> tuple[int, str]:
        """Code and message of a method's error."""
        with pytest.raises(RpcError) as refused:
            await self.call(name, *params)
        return refused.value.code, refused.value.message

    def block(self, text: str) -> Block:
        """A block in hex, read."""
        return Block.decode(bytes.fromhex(text), self.chain.params)


def open_node(folder: Path, params: ChainParams) -> Node:
    return Node(Chain.open(folder, params))


@pytest.fixture
def signed(tmp_path: Path) -> Iterator[SignedChain]:
    made = SignedChain.open(tmp_path / "chain")
    yield made
    made.chain.close()


@pytest.fixture
def anyone(tmp_path: Path) -> Iterator[Node]:
    """A chain whose blocks nobody has to sign."""
    node = open_node(tmp_path / "anyone", chain_params(name="anyone", block_subsidy_sats=1_000))
    yield node
    node.chain.close()


def signature_list(block: Block, *, members: list[int], hash_type: bytes) -> list[dict[str, str]]:
    keys = [(public_key(secret(f"block {i}")), secret(f"block {i}")) for i in members]
    return [
        {"pubkey": key.hex(), "sig": (ecdsa_sign(own, block.hash) + hash_type).hex()}
        for key, own in keys
    ]


def block_script() -> bytes:
    return multisig_script(3, [public_key(secret(f"block {i}")) for i in range(4)])


async def test_proposal_when_signed_by_enough_then_complete_and_taken(signed: SignedChain) -> None:
    node = Node(signed.chain)
    text = await node.call("getnewblockhex")
    block = node.block(text)
    assert block.header.signblock_witness == () and block.header.time == NOW_S
    assert await node.call("testproposedblock", text) is None
    script = block_script().hex()
    few = signature_list(block, members=[2, 0], hash_type=b"\1")
    got = await node.call("combineblocksigs", text, few, script)
    assert got["complete"] is False
    # In key order, padded; the script last.
    witness = node.block(got["hex"]).header.signblock_witness
    assert [len(item) > 0 for item in witness] == [False, True, True, False, True]
    enough = signature_list(block, members=[3, 2, 0, 1], hash_type=b"\1")
    noise = [{"pubkey": "zz", "sig": "00"}]
    got = await node.call("combineblocksigs", text, [*noise, *enough], script)
    assert got["complete"] is True
    assert await node.call("submitblock", got["hex"]) is None
    assert signed.chain.tip_hash == block.hash


async def test_combine_when_wrong_then_error_of_elements(signed: SignedChain) -> None:
    node = Node(signed.chain)
    text = await node.call("getnewblockhex")
    assert await node.error("combineblocksigs", text, []) == (
        -8,
        "Signing dynamic blocks requires the witnessScript argument",
    )
    bad = [{"pubkey": "02" + "ff" * 32, "sig": "00"}]
    assert await node.error("combineblocksigs", text, bad, "") == (-22, "Bad pubkey")
    assert await node.error("combineblocksigs", "00", [], "") == (-22, "Block decode failed")
    got = await node.call("combineblocksigs", text, [], "51")
    assert (got["complete"], node.block(got["hex"]).header.signblock_witness) == (False, ())


async def test_legacy_proposal_when_signed_then_solution_without_hash_types(
    tmp_path: Path,
) -> None:
    params = federation_params(dynafed=Deployment(bit=25, start=0))
    node = open_node(tmp_path / "legacy", params)
    for _ in range(2):
        text = await node.call("getnewblockhex")
        block = node.block(text)
        assert not block.header.is_dynafed
        signatures = signature_list(block, members=[0, 1, 2], hash_type=b"")
        got = await node.call("combineblocksigs", text, signatures)
        assert got["complete"] is True
        assert await node.call("submitblock", got["hex"]) is None
    shown = await node.call("getblockheader", node.chain.tip_hash[::-1].hex())
    assert shown["signblock_challenge"] == params.signblockscript.hex()
    proposal = {
        "signblockscript": "0014" + "11" * 20,
        "max_block_witness": 74,
        "fedpegscript": "51",
        "extension_space": [],
    }
    assert (await node.error("getnewblockhex", 0, proposal))[0] == -8
    info = await node.call("getblockchaininfo")
    assert info["max_block_witness"] == params.max_block_sig_size
    assert "current_params_root" not in info
    node.chain.close()


async def test_template_when_votes_and_data_are_given_then_they_stand_in_it(
    signed: SignedChain,
) -> None:
    node = Node(signed.chain)
    proposal = {
        "signblockscript": "0014" + "11" * 20,
        "max_block_witness": 74,
        "fedpegscript": "51",
        "extension_space": ["aa", "bb"],
    }
    block = node.block(await node.call("getnewblockhex", 0, proposal, ["aabb", "cc"]))
    assert block.header.proposed.extension_space == (b"\xaa", b"\xbb")
    scripts = [output.script for output in block.transactions[0].outputs[:2]]
    assert scripts == [bytes.fromhex("6a02aabb"), bytes.fromhex("6a01cc")]
    alone = node.block(await node.call("getnewblockhex", 0, None, "aabb"))
    assert alone.transactions[0].outputs[0].script == bytes.fromhex("6a02aabb")
    wrong = proposal | {"signblockscript": "51"}
    code, message = await node.error("getnewblockhex", 0, wrong)
    assert code == -1 and "invalid-dyna-fed" in message
    for change, code in (
        ({"signblockscript": "zz"}, -8),
        ({"max_block_witness": -1}, -8),
        ({"fedpegscript": "xx"}, -8),
        ({"extension_space": "aa"}, -3),
    ):
        assert (await node.error("getnewblockhex", 0, proposal | change))[0] == code
    assert (await node.error("getnewblockhex", -1))[0] == -8


async def test_template_when_transactions_are_young_then_left_out_with_what_follows(
    signed: SignedChain,
) -> None:
    node = Node(signed.chain)
    coins = [signed.mint(ALICE, 10**8) for _ in range(2)]
    old = signed.payment(ALICE, [coins[0]], [(ALICE.script, 10**7)])
    young = signed.payment(ALICE, [coins[1]], [(ALICE.script, 10**7)])
    signed.chain.submit_tx(old, None, NOW_S - 50)
    signed.chain.submit_tx(young, None, NOW_S - 5)
    after = signed.payment(ALICE, [OutPoint(young.txid, 0)], [(BOB.script, 10**6)])
    signed.chain.submit_tx(after, None, NOW_S - 50)
    assert len(node.block(await node.call("getnewblockhex")).transactions) == 4
    block = node.block(await node.call("getnewblockhex", 10))
    assert block.transactions[1:] == (old,)
    assert (await node.call("getmininginfo"))["currentblocktx"] == 1


async def test_sketch_when_the_mempool_has_everything_or_not_then_same_block(
    signed: SignedChain, tmp_path: Path
) -> None:
    node = Node(signed.chain)
    coins = [signed.mint(ALICE, 10**8) for _ in range(3)]
    payments = [signed.payment(ALICE, [coin], [(BOB.script, 10**7)]) for coin in coins]
    for tx in payments:
        signed.chain.submit_tx(tx, None, NOW_S)
    text = await node.call("getnewblockhex")
    sketch = await node.call("getcompactsketch", text)
    assert await node.call("consumecompactsketch", sketch) == {"blockhex": text}
    other = open_node(tmp_path / "other", signed.params)
    for height in range(1, signed.chain.tip_height + 1):
        other.chain.connect(signed.chain.block(height))
    other.chain.submit_tx(payments[1], None, NOW_S)
    got = await other.call("consumecompactsketch", sketch)
    assert set(got) == {"block_tx_req", "found_transactions"}
    reply = await node.call("consumegetblocktxn", text, got["block_tx_req"])
    whole = await other.call("finalizecompactblock", sketch, reply, got["found_transactions"])
    assert whole == text
    too_few = reply[:64] + "00"
    code, _ = await other.error("finalizecompactblock", sketch, too_few, got["found_transactions"])
    assert code == -22
    far = got["block_tx_req"][:64] + "01" + "fdff00"
    assert (await node.error("consumegetblocktxn", text, far))[0] == -22
    assert (await node.error("consumecompactsketch", sketch[:-2]))[0] == -1
    other.chain.close()


async def test_generate_when_nobody_signs_then_blocks_with_the_subsidy(anyone: Node) -> None:
    address = (await anyone.call("decodescript", ALICE.script.hex()))["address"]
    hashes = await anyone.call("generatetoaddress", 3, address)
    assert anyone.chain.tip_height == 3
    assert hashes[-1] == anyone.chain.tip_hash[::-1].hex()
    paid = anyone.chain.block(3).transactions[0].outputs[0]
    assert (paid.script, paid.value_sats) == (ALICE.script, 1_000)
    await anyone.call("generatetodescriptor", 1, f"wpkh({ALICE.pubkey.hex()})")
    assert anyone.chain.block(4).transactions[0].outputs[0].script == ALICE.script
    made = await anyone.call("generateblock", "raw(51)", [], False)
    assert anyone.chain.tip_height == 4 and anyone.block(made["hex"]).header.height == 5
    assert await anyone.call("generateblock", address, []) == {
        "hash": anyone.chain.tip_hash[::-1].hex()
    }
    assert (await anyone.error("generatetoaddress", 1, "nowhere"))[0] == -5
    assert (await anyone.error("generatetodescriptor", 1, "wrong()"))[0] == -5
    ranged = f"wpkh({EXTENDED_KEY}/*)"
    assert (await anyone.error("generatetodescriptor", 1, ranged))[0] == -8
    assert (await anyone.error("generateblock", "nowhere", []))[0] == -5
    assert (await anyone.error("generateblock", "raw(51)", ["00" * 32]))[0] == -5
    assert (await anyone.error("generateblock", "raw(51)", ["00"]))[0] == -22
    coinbase = anyone.chain.block(1).transactions[0].raw.hex()
    code, message = await anyone.error("generateblock", "raw(51)", [coinbase])
    assert (code, message.startswith("TestBlockValidity failed: bad-cb-multiple")) == (-25, True)


async def test_generate_when_members_must_sign_then_error(signed: SignedChain) -> None:
    code, message = await Node(signed.chain).error("generatetodescriptor", 1, "raw(51)")
    assert code == -1 and "WSH(OP_TRUE)" in message


def test_siphash_when_the_paper_s_example_then_its_value() -> None:
    key = bytes(range(16))
    keys = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    assert siphash(*keys, bytes(range(15))) == 0xA129CA6149BE45E5
    assert siphash(*keys, b"") == 0x726FDB47DD0E0E31


async def test_generate_when_transactions_are_given_then_their_fees_are_left(
    tmp_path: Path,
) -> None:
    """elementsd fills the coinbase of `generateblock` before the transactions come in."""
    params = chain_params(name="free", initial_free_coins_sats=10**6, accept_nonstandard=True)
    node = open_node(tmp_path / "anyone", params)
    coin = OutPoint(node.chain.block(0).transactions[1].txid, 0)
    tx = Transaction.build(
        inputs=[TxIn(coin)],
        outputs=[output(params, ALICE.script, 999_000), output(params, b"", 1_000)],
    )
    made = node.block((await node.call("generateblock", "raw(51)", [tx.raw.hex()], False))["hex"])
    assert [each.value_sats for each in made.transactions[0].outputs] == [0, 0]
    assert made.transactions[0].outputs[0].script == b"\x6a"
    # A block asked for otherwise pays them out.
    node.chain.submit_tx(tx, None, NOW_S)
    await node.call("generatetodescriptor", 1, "raw(51)")
    assert node.chain.block(1).transactions[0].outputs[0].value_sats == 1_000
    node.chain.close()


async def test_generate_when_before_segwit_then_no_reserved_value(tmp_path: Path) -> None:
    params = chain_params(name="old", block_subsidy_sats=1_000, segwit_height=3)
    node = open_node(tmp_path / "old", params)
    await node.call("generatetodescriptor", 3, "raw(51)")
    coinbases = [node.chain.block(height).transactions[0] for height in (1, 2, 3)]
    assert [tx.has_witness for tx in coinbases] == [False, False, True]
    node.chain.close()


async def test_generate_when_the_descriptor_needs_private_keys_then_error_says_so(
    anyone: Node,
) -> None:
    error = await anyone.error("generateblock", f"pkh({EXTENDED_KEY}/0'/0)", [])
    assert error == (-5, "Cannot derive script without private keys")
