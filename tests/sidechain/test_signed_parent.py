"""Peg-ins from a parent that is itself an Elements chain."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from sidechain.crypto.hashes import merkle_root
from sidechain.crypto.keys import ecdsa_sign, public_key
from sidechain.errors import InvalidTransaction, Stalled
from sidechain.params import ChainParams
from sidechain.primitives.block import FULL_KIND, Block, BlockHeader, ParamEntry
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.encoding import le64
from sidechain.primitives.genesis import chain_params
from sidechain.primitives.merkle_proof import build_partial_tree
from sidechain.primitives.transaction import OutPoint, Transaction, TxIn, TxOut
from sidechain.script.opcodes import OP_CHECKSIG
from sidechain.script.script import p2wpkh, p2wsh, push
from sidechain.validation.dynafed import nested_program
from sidechain.validation.pegins import (
    FedpegPair,
    check_pegin,
    deposit_script,
    parse_pegin,
)
from tests.factories import secret

KEY = public_key(secret("parent"))
PARENT_SCRIPT = push(KEY) + bytes((OP_CHECKSIG,))
PARENT_ASSET = b"\x0a" * 32
FEDPEGSCRIPT = push(public_key(secret("peg"))) + bytes((OP_CHECKSIG,))
PAIR = FedpegPair(nested_program(FEDPEGSCRIPT), FEDPEGSCRIPT)
CLAIM_SCRIPT = p2wpkh(public_key(secret("claimant")))
AMOUNT_SATS = 5_000


def params(**fields: object) -> ChainParams:
    return chain_params(
        name="child",
        fedpegscript=FEDPEGSCRIPT,
        parent_genesis_hash=b"\x77" * 32,
        parent_chain_signblockscript=PARENT_SCRIPT,
        parent_pegged_asset=PARENT_ASSET,
        max_block_sig_size=80,
        **fields,
    )


def deposit(asset: bytes = PARENT_ASSET) -> Transaction:
    """A transaction of the parent that pays the federation with its second output."""
    script = deposit_script(PAIR.program, PAIR.script, CLAIM_SCRIPT)
    outputs = [
        TxOut(explicit_asset(asset), explicit_value(amount), NULL, paid)
        for amount, paid in ((7, b"\x51"), (AMOUNT_SATS, script))
    ]
    return Transaction.build(inputs=[TxIn(OutPoint(b"\x05" * 32, 0))], outputs=outputs)


def header_over(txids: Sequence[bytes], **fields: object) -> BlockHeader:
    """A legacy header of the parent, signed."""
    header = BlockHeader(
        version=0x20000000,
        prev_hash=b"\x01" * 32,
        merkle_root=bytes(32),
        time=1_700_000_000,
        height=9,
        challenge=PARENT_SCRIPT,
    )
    root = build_root(txids)
    header = replace(header, merkle_root=root, **fields)  # type: ignore[arg-type]
    return replace(header, solution=push(ecdsa_sign(secret("parent"), header.hash)))


def build_root(txids: Sequence[bytes]) -> bytes:
    return merkle_root(list(txids))[0]


def witness(chain: ChainParams, tx: Transaction, header: BlockHeader) -> list[bytes]:
    txids = [b"\x02" * 32, tx.txid]
    return [
        le64(AMOUNT_SATS),
        chain.pegged_asset,
        chain.parent_genesis_hash,
        CLAIM_SCRIPT,
        tx.raw,
        header.serialize() + build_partial_tree(txids, [1]),
    ]


class Depth:
    """Every parent block is as deep as told."""

    def __init__(self, confirmations: int) -> None:
        self.confirmations = confirmations

    def block_facts(self, block_hash: bytes) -> tuple[int, int] | None:
        del block_hash
        return self.confirmations, 2


def refused(items: list[bytes], tx: Transaction, chain: ChainParams) -> str:
    with pytest.raises(InvalidTransaction) as caught:
        check_pegin(items, OutPoint(tx.txid, 1), chain, [PAIR], None)
    return caught.value.detail


def test_claim_when_the_parent_block_is_signed_then_accepted() -> None:
    chain, tx = params(), deposit()
    items = witness(chain, tx, header_over([b"\x02" * 32, tx.txid]))
    prevout = OutPoint(tx.txid, 1)
    claim = check_pegin(items, prevout, chain, [PAIR], Depth(8))
    assert claim.value_sats == AMOUNT_SATS
    assert claim.coin.asset == explicit_asset(chain.pegged_asset)
    assert parse_pegin(items, chain) == claim
    with pytest.raises(Stalled):
        check_pegin(items, prevout, chain, [PAIR], Depth(7))
    with pytest.raises(InvalidTransaction):
        parse_pegin(items)


def test_claim_when_the_parent_block_is_not_signed_then_refused() -> None:
    chain, tx = params(), deposit()
    header = header_over([b"\x02" * 32, tx.txid])
    wrong = push(ecdsa_sign(secret("stranger"), header.hash))
    long = push(header.solution[1:]) + b"\x00" * 10
    for solution in (b"", wrong, long):
        items = witness(chain, tx, replace(header, solution=solution))
        assert refused(items, tx, chain) == "Parent signed block is invalid."


def test_claim_when_the_parent_header_has_federation_parameters_then_unchecked() -> None:
    chain, tx = params(), deposit()
    entry = ParamEntry(kind=FULL_KIND, signblockscript=p2wsh(b"\x51"), witness_limit=10)
    header = header_over([b"\x02" * 32, tx.txid])
    header = replace(header, challenge=b"", solution=b"", current=entry)
    check_pegin(witness(chain, tx, header), OutPoint(tx.txid, 1), chain, [PAIR], None)


def test_claim_when_the_deposit_is_of_another_asset_or_amount_then_refused() -> None:
    chain, tx = params(), deposit(b"\x0b" * 32)
    header = header_over([b"\x02" * 32, tx.txid])
    assert refused(witness(chain, tx, header), tx, chain) == "Peg-in tx is invalid."
    tx = deposit()
    items = witness(chain, tx, header_over([b"\x02" * 32, tx.txid]))
    items[0] = le64(AMOUNT_SATS + 1)
    assert refused(items, tx, chain) == "Peg-in tx is invalid."
    items = witness(chain, tx, header_over([b"\x03" * 32, tx.txid]))
    assert refused(items, tx, chain) == "Could not extract block and tx from merkleblock."
    items = witness(chain, tx, header_over([b"\x02" * 32, tx.txid]))
    items[5] += b"\0"
    assert refused(items, tx, chain) == "Could not extract block and tx from merkleblock."


def test_block_when_read_with_the_parent_s_form_then_same_header() -> None:
    tx = deposit()
    header = header_over([b"\x02" * 32, tx.txid])
    assert Block.decode(Block(header, (tx,)).serialize(), params()).header == header
