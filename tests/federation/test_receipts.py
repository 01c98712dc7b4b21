"""Receipts checked by a stranger: what they prove, and that nothing in them can be changed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.receipt_proofs import check_in_block, normal_branch, show_in_block, work_of
from federation.receipts import FORMAT, NOTE, PEG_OUT, check_receipt
from federation.stranger import NotProved, Stranger
from peg.commitments import Commitment
from peg.lanes import Marker, batch_digest, encode_unsigned
from peg.records import OpenRecord, record_script
from peg.status import burn_text, outpoint_text
from sidechain.crypto.hashes import merkle_root, sha256
from sidechain.errors import InvalidEncoding
from sidechain.primitives.block import Block
from sidechain.primitives.confidential import explicit_asset, explicit_value
from sidechain.primitives.encoding import le32
from sidechain.primitives.merkle_proof import build_partial_tree
from sidechain.primitives.parent import ParentHeader, parse_parent_tx
from sidechain.primitives.transaction import NULL_OUTPOINT, OutPoint, Transaction, TxIn, TxOut
from sidechain.script.block_signature import signblock_witness
from sidechain.script.script import push
from tests.federation.proofs import Signers
from tests.peg.world import p2wpkh_script
from tests.receipt_changes import at, changes, check_every_leaf, leaves, with_other

NULL = b"\0"
ANCHOR = OutPoint(b"\x0a" * 32, 0)
AMOUNT_SATS = 4_000_000
PAYOUT_SATS = AMOUNT_SATS - 2_500
BITCOIN_HEIGHT = 120


@dataclass
class World:
    """A federation's keys, its signed blocks, and Bitcoin blocks with two batches."""

    signers: Signers

    @property
    def stranger(self) -> Stranger:
        return self.signers.stranger

    def block(self, height: int, scripts: Sequence[bytes], *more: Transaction) -> Block:
        """A block that k members signed."""
        coinbase = Transaction.build(
            version=2,
            inputs=[TxIn(NULL_OUTPOINT, push(le32(height)))],
            outputs=[self.output(script, 0) for script in scripts],
            locktime=0,
        )
        transactions = (coinbase, *more)
        root, _ = merkle_root([transaction.txid for transaction in transactions])
        header = replace(
            self.signers.header(1_700_000_000, height=height),
            merkle_root=root,
            signblock_witness=(),
        )
        keys = [member.block_key for member in self.signers.file.members]
        k = self.signers.file.k
        signed = {keys[m]: self.signers.secrets[m].sign_ecdsa(header.hash) for m in range(k)}
        return Block(
            replace(header, signblock_witness=signblock_witness(k, keys, signed)), transactions
        )

    def output(self, script: bytes, value_sats: int) -> TxOut:
        asset = explicit_asset(self.stranger.params.pegged_asset)
        return TxOut(asset, explicit_value(value_sats), NULL, script)

    def burn(self, serial: int, destination: bytes) -> Transaction:
        genesis = self.stranger.params.parent_genesis_hash
        script = b"\x6a" + push(genesis) + push(destination)
        return Transaction.build(
            version=2,
            inputs=[TxIn(OutPoint(sha256(le32(serial)), 0))],
            outputs=[self.output(script, AMOUNT_SATS), self.output(b"", 100)],
            locktime=0,
        )

    def batch(self, index: int, anchor: OutPoint, burn_id: bytes, script: bytes) -> bytes:
        digest = batch_digest(
            self.stranger.params.genesis_hash,
            lane=0,
            index=index,
            anchor=anchor,
            h_sel=12,
            burn_ids=[burn_id],
        )
        marker = Marker(lane=0, count=1, h_sel=12, digest=digest)
        outputs = [(9_000_000, b"\x00\x20" + bytes(32)), (0, marker.script())]
        return encode_unsigned([anchor], [*outputs, (PAYOUT_SATS, script)])

    def mine(self, previous: bytes, root: bytes, time: int) -> ParentHeader:
        for nonce in range(1_000):
            header = ParentHeader(
                version=4,
                prev_hash=previous,
                merkle_root=root,
                time=time,
                bits=0x207FFFFF,
                nonce=nonce,
            )
            try:
                header.check_pow(self.stranger.params.parent_pow_limit)
            except InvalidEncoding:
                continue
            return header
        raise AssertionError("no nonce")


@dataclass
class Made:
    """A receipt and the Bitcoin headers it names."""

    plain: dict[str, Any]
    headers: tuple[ParentHeader, ...]
    stranger: Stranger


def make(folder: Path) -> Made:
    world = World(Signers.found(folder))
    alice, bob = p2wpkh_script("alice"), p2wpkh_script("bob")
    first, second = world.burn(1, alice), world.burn(2, bob)
    ids = [OutPoint(each.txid, 0) for each in (first, second)]
    t0 = world.batch(0, ANCHOR, ids[0].serialize(), alice)
    t1 = world.batch(1, OutPoint(parse_parent_tx(t0).txid, 0), ids[1].serialize(), bob)
    txids = [b"\x0c" * 32, parse_parent_tx(t1).txid, b"\x0d" * 32]
    headers = [world.mine(b"\x01" * 32, merkle_root(txids)[0], 1)]
    for time in (2, 3):
        headers.append(world.mine(headers[-1].hash, sha256(le32(time)), time))
    commitment = Commitment(
        reset=False,
        height=BITCOIN_HEIGHT + 2,
        block_hash=headers[-1].hash,
        feerate_sats_per_kvb=1_000,
    )
    earlier = replace(commitment, height=90, block_hash=bytes(32))
    opened = world.block(3, [earlier.script(), record_script(OpenRecord(0, ANCHOR))])
    burned = world.block(9, [earlier.script()], first, second)
    committed = world.block(14, [commitment.script()], world.burn(3, alice))
    plain = {
        "kind": PEG_OUT,
        "format": FORMAT,
        "genesis": world.stranger.params.genesis_hash.hex(),
        "parameter_hash": world.signers.file.parameter_hash().hex(),
        "outpoint": outpoint_text(ids[1]),
        "note": NOTE,
        "block": show_in_block(burned, second.txid),
        "payment": {
            "transaction": t1.hex(),
            "index": 1,
            "burns": [burn_text(ids[1].serialize())],
            "path": [t0.hex()],
            "open": show_in_block(opened, opened.transactions[0].txid),
            "proof": (headers[0].serialize() + build_partial_tree(txids, [1])).hex(),
            "headers": b"".join(header.serialize() for header in headers[1:]).hex(),
            "commitment": show_in_block(committed, committed.transactions[0].txid),
        },
    }
    return Made(plain, tuple(headers), world.stranger)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("receipt"))


def test_receipt_proves_burn_payment_and_depth(made: Made) -> None:
    found = check_receipt(made.plain, made.stranger).to_json()
    assert found["amount_sats"] == AMOUNT_SATS and found["height"] == 9
    assert found["signers"] == ["m0", "m1", "m2"]
    assert (found["payment"]["vout"], found["payment"]["payout_sats"]) == (2, PAYOUT_SATS)
    assert (found["payment"]["index"], found["payment"]["h_sel"]) == (1, 12)
    assert (found["bitcoin"]["height"], found["bitcoin"]["depth"]) == (BITCOIN_HEIGHT, 3)
    assert found["bitcoin"]["committed_in"] == 14 and found["bitcoin"]["work"] == "6"
    assert "--headers" in found["trusted"][0]
    assert work_of(made.headers) == 6


def test_receipt_when_any_leaf_is_changed_then_refused(made: Made) -> None:
    check_every_leaf(made.plain, made.stranger)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_receipt_when_any_digit_is_changed_then_refused(made: Made, data: st.DataObject) -> None:
    places = [place for place in leaves(made.plain) if isinstance(at(made.plain, place), str)]
    place = data.draw(st.sampled_from(places))
    text = at(made.plain, place)
    where = data.draw(st.integers(0, len(text) - 1))
    digit = data.draw(st.sampled_from("0123456789abcdef"))
    other = text[:where] + digit + text[where + 1 :]
    if other != text:
        with pytest.raises(NotProved):
            check_receipt(with_other(made.plain, place, other), made.stranger)


def test_receipt_when_a_part_is_missing_or_more_then_refused(made: Made) -> None:
    for part in ("block", "payment"):
        for name in made.plain[part]:
            rest = {key: value for key, value in made.plain[part].items() if key != name}
            with pytest.raises(NotProved):
                check_receipt({**made.plain, part: rest}, made.stranger)
        with pytest.raises(NotProved, match="missing or unknown"):
            check_receipt({**made.plain, part: {**made.plain[part], "x": 1}}, made.stranger)
    for name in made.plain:
        if name != "payment":
            rest = {key: value for key, value in made.plain.items() if key != name}
            with pytest.raises(NotProved):
                check_receipt(rest, made.stranger)
    for other in (None, [], "", 5, {**made.plain, "x": 1}, {**made.plain, "block": []}):
        with pytest.raises(NotProved):
            check_receipt(other, made.stranger)


def test_receipt_without_payment_proves_the_burn_alone(made: Made) -> None:
    plain = {name: value for name, value in made.plain.items() if name != "payment"}
    found = check_receipt(plain, made.stranger)
    assert found.paid is None and found.trusted[0].startswith("whether it is paid")
    check_every_leaf(plain, made.stranger)


def test_receipt_on_ones_own_headers_counts_depth_there_or_is_refused(made: Made) -> None:
    world_headers = made.headers
    assert check_receipt(made.plain, made.stranger, world_headers).own_depth == 3
    assert check_receipt(made.plain, made.stranger, world_headers[:1]).own_depth == 1
    with pytest.raises(NotProved, match="is not among your headers"):
        check_receipt(made.plain, made.stranger, world_headers[1:])
    with pytest.raises(NotProved, match="does not follow"):
        check_receipt(made.plain, made.stranger, (world_headers[0], world_headers[2]))
    first = ParentHeader(
        version=4, prev_hash=bytes(32), merkle_root=bytes(32), time=0, bits=0x1D00FFFF, nonce=0
    )
    with pytest.raises(NotProved, match="work"):
        check_receipt(made.plain, made.stranger, (first,))


def test_receipt_of_another_federation_is_refused(made: Made) -> None:
    other = Stranger.of(replace(made.stranger.federation, chain_name="fedpeg-other"))
    with pytest.raises(NotProved, match="genesis is not that of this federation"):
        check_receipt(made.plain, other)
    without = replace(made.stranger, signblockscript=b"\x00\x20" + bytes(32))
    with pytest.raises(NotProved, match="another signblockscript"):
        check_in_block(made.plain["block"], "block", without)


def test_receipt_whose_parts_are_swapped_is_refused(made: Made) -> None:
    """Each piece is sound by itself, and proves something else."""
    payment = made.plain["payment"]
    for name, other in (
        ("open", payment["commitment"]),
        ("commitment", payment["open"]),
        ("open", made.plain["block"]),
        ("transaction", payment["path"][0]),
        ("path", []),
        ("path", payment["path"] * 2),
        ("burns", []),
        ("burns", payment["burns"] * 2),
        ("headers", ""),
        ("headers", payment["headers"][160:]),
    ):
        with pytest.raises(NotProved):
            check_receipt({**made.plain, "payment": {**payment, name: other}}, made.stranger)
    with pytest.raises(NotProved):
        check_receipt({**made.plain, "block": payment["commitment"]}, made.stranger)
    both = {**payment, "checkpoint": {}}
    with pytest.raises(NotProved, match="either open or checkpoint"):
        check_receipt({**made.plain, "payment": both}, made.stranger)


def test_branch_has_one_form(made: Made) -> None:
    branch = bytes.fromhex(made.plain["block"]["branch"])
    assert normal_branch(branch, 2) == branch
    padded = branch[:-1] + bytes((branch[-1] | 0x80,))
    assert normal_branch(padded, 2) == branch
    plain = with_other(made.plain, ("block", "branch"), padded.hex())
    with pytest.raises(NotProved, match="one form"):
        check_receipt(plain, made.stranger)
    assert list(changes(5))[0] == 6
