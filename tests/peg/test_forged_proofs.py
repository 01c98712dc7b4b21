"""Proofs of deposits that are none: a 64-byte transaction as an inner node, and malformed trees.

Elements looks at the proof alone; C3 has every voter look at the whole block.

Source: peg:C1, peg:C3, elements/peg.md 3.1.
"""

from pathlib import Path

import pytest

from peg.claims import read_claims
from sidechain.crypto.hashes import sha256d
from sidechain.errors import InvalidTransaction, Stalled
from sidechain.primitives.encoding import compact_size, le32, le64
from sidechain.primitives.parent import parse_merkle_block, parse_parent_tx
from sidechain.primitives.transaction import InputWitness, OutPoint, Transaction, TxIn
from sidechain.validation.pegins import FedpegPair, check_pegin
from tests.peg.members import PegWorld
from tests.peg.test_service import ALICE, deposit, found
from tests.peg.world import parent_tx

FORGED_SATS = 100_000_000
SOURCE = OutPoint(b"\x09" * 32, 0)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PegWorld:
    monkeypatch.setattr("peg.service.LOOK_AGAIN_MS", 1)
    world = PegWorld(tmp_path)
    await found(world)
    return world


def forge(world: PegWorld) -> tuple[bytes, bytes]:
    """A deposit nobody made, and a 64-byte transaction whose first half is its id.

    The fifth byte of the id has to be the number of inputs, so some are tried.
    """
    script = world.side.deposit_script(ALICE)
    for attempt in range(100_000):
        fake = parent_tx([OutPoint(SOURCE.txid, attempt)], [(FORGED_SATS, script)])
        left = sha256d(fake)
        if left[4] == 1:
            # … of the rest of the spent id, its index, an empty script, one output of four bytes.
            right = b"\x07" * 5 + le32(0) + b"\x00" + le32(0xFFFFFFFF) + b"\x01" + le64(1)
            right += b"\x04" + b"\x51" * 4 + le32(0)
            return fake, left + right
    raise AssertionError("one of 256 has that byte")


async def forged_claim(world: PegWorld, *, tx_count: int = 4) -> Transaction:
    """Mine the 64 bytes, bury them, and claim what their halves are said to be."""
    fake, small = forge(world)
    assert len(small) == 64 and len(parse_parent_tx(small).stripped) == 64
    block_hash = world.bitcoin.mine([small])
    world.bitcoin.mine(count=6)
    await world.tell()
    raw = world.bitcoin.blocks[block_hash].raw
    coinbase_txid = world.bitcoin.blocks[block_hash].transactions[0].txid
    # Four leaves: below the coinbase nothing is shown, below the 64 bytes their two halves.
    hashes = [coinbase_txid, sha256d(fake), small[32:]]
    proof = raw[:80] + le32(tx_count) + compact_size(3) + b"".join(hashes) + b"\x01\x0d"
    fake_tx = parse_parent_tx(fake)
    witness = InputWitness(
        pegin=(
            le64(FORGED_SATS),
            world.params.pegged_asset,
            world.params.parent_genesis_hash,
            ALICE,
            fake_tx.stripped,
            proof,
        )
    )
    return Transaction.build(
        version=2,
        inputs=[TxIn(OutPoint(fake_tx.txid, 0), is_pegin=True)],
        outputs=[
            world.side.output(ALICE, FORGED_SATS - 1_000),
            world.side.output(b"", 1_000),
        ],
        input_witnesses=[witness],
    )


async def test_forged_proof_64_byte_tx_is_a_good_proof_and_no_vote(world: PegWorld) -> None:
    claim = await forged_claim(world)
    (read,) = read_claims([claim])
    assert parse_merkle_block(claim.input_witnesses[0].pegin[5]).matches  # the tree is right
    pair = FedpegPair(world.script.program, world.script.script)
    items = claim.input_witnesses[0].pegin
    assert check_pegin(items, read.outpoint, world.params, [pair], None).value_sats == FORGED_SATS
    with pytest.raises(Stalled, match="Needs more confirmations"):
        check_pegin(items, read.outpoint, world.params, [pair], world.bitcoin.view)
    for service in world.services:
        assert not service.claim_is_ripe(claim)
        await service.run_once()
        assert not service.claim_is_ripe(claim)
        assert not await service.voting.is_proved_and_unspent(read)
    scripts = world.services[0].plan_coinbase(world.side.height + 1, minimal=False)
    block = world.side.block(scripts or [], [claim])
    for service in world.services:
        service.check_objective(block)
        eventual, _, reason = await service.check_eventual_and_policy(block)
        assert not eventual and reason.startswith("C3")


async def test_forged_proof_when_it_names_the_right_number_then_its_tree_is_wrong(
    world: PegWorld,
) -> None:
    """With the block's own number of transactions the tree has no place for the halves."""
    claim = await forged_claim(world, tx_count=2)
    with pytest.raises(InvalidTransaction, match="Could not extract block and tx"):
        read_claims([claim])


async def test_proofs_when_malformed_then_refused_with_elements_words(world: PegWorld) -> None:
    honest = await deposit(world)
    items = honest.input_witnesses[0].pegin
    outpoint = honest.inputs[0].prevout
    pair = FedpegPair(world.script.program, world.script.script)
    proof = items[5]
    header, rest = proof[:80], proof[80:]
    txid = outpoint.txid
    malformed = "Could not extract block and tx from merkleblock."
    lies = {
        "empty": (b"", malformed),
        "header alone": (header, malformed),
        "one byte less": (proof[:-1], malformed),
        "one byte more": (proof + b"\x00", malformed),
        "no transactions": (header + le32(0) + b"\x00\x00", malformed),
        "too many": (header + le32(2**31) + rest[4:], malformed),
        "no match": (header + le32(1) + b"\x01" + txid + b"\x01\x00", malformed),
        "another root": (header + le32(1) + b"\x01" + txid + b"\x01\x01", malformed),
        "two matches": (_all_matched(world, read_claims([honest])[0].block_hash), malformed),
        "spare flag bytes": (proof[:-1] + b"\x00" + proof[-1:], malformed),
    }
    for name, (lie, text) in lies.items():
        with pytest.raises(InvalidTransaction) as refused:
            check_pegin((*items[:5], lie), outpoint, world.params, [pair], world.bitcoin.view)
        assert (refused.value.reason, refused.value.detail) == ("bad-pegin-witness", text), name
    check_pegin(items, outpoint, world.params, [pair], world.bitcoin.view)


def _all_matched(world: PegWorld, block_hash: bytes) -> bytes:
    """A tree that proves both transactions of the deposit's block."""
    block = world.bitcoin.blocks[block_hash]
    txids = [tx.txid for tx in block.transactions]
    assert len(txids) == 2
    return bytes(block.raw[:80] + le32(2) + b"\x02" + b"".join(txids) + b"\x01\x07")
