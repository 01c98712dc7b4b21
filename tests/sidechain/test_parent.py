"""Bitcoin headers, transactions, blocks and merkle proofs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidechain.crypto.hashes import merkle_root, sha256d
from sidechain.errors import InvalidEncoding
from sidechain.primitives.encoding import Reader, compact_size, le32
from sidechain.primitives.merkle_proof import (
    MAX_TRANSACTIONS,
    build_partial_tree,
    read_partial_tree,
)
from sidechain.primitives.parent import (
    ParentHeader,
    build_merkle_block,
    parse_merkle_block,
    parse_parent_block,
    parse_parent_tx,
    target_from_bits,
)
from tests.byte_strategies import hostile, mutated
from tests.vectors import chain_json, display, recorded_params


def _deposits() -> list[dict[str, object]]:
    return list(chain_json("parent.json")["deposits"])


def _proofs() -> list[bytes]:
    return [bytes.fromhex(str(entry["txoutproof"])) for entry in _deposits()]


def _raw_transactions() -> list[bytes]:
    return [bytes.fromhex(str(entry["raw_tx"])) for entry in _deposits()]


def _leaves(count: int) -> list[bytes]:
    return [sha256d(le32(number)) for number in range(count)]


def test_recorded_headers_have_their_hashes_and_work() -> None:
    previous = bytes(32)
    for entry in chain_json("parent.json")["headers"]:
        header = ParentHeader.decode(bytes.fromhex(entry["hex"]))
        assert display(header.hash) == entry["hash"]
        assert header.serialize().hex() == entry["hex"]
        assert header.prev_hash == previous
        header.check_pow(recorded_params().parent_pow_limit)
        previous = header.hash


def test_recorded_deposits_have_their_ids_outputs_and_proofs() -> None:
    for entry in chain_json("parent.json")["deposits"]:
        tx = parse_parent_tx(bytes.fromhex(entry["raw_tx"]))
        assert display(tx.txid) == entry["txid"]
        assert tx.stripped.hex() == entry["raw_tx_stripped"]
        assert entry["vsize"] in (None, tx.vsize)
        assert tx.outputs[entry["vout"]][0] == entry["amount_sat"]
        assert parse_parent_tx(tx.stripped).txid == tx.txid
        proof = parse_merkle_block(bytes.fromhex(entry["txoutproof"]))
        assert proof.matches == ((entry["tx_index"], tx.txid),)
        assert proof.tx_count == entry["block_ntx"]
        assert display(proof.header.hash) == entry["block_hash"]


def test_header_of_another_length_is_refused() -> None:
    for length in (0, 79, 81):
        with pytest.raises(InvalidEncoding):
            ParentHeader.decode(bytes(length))


@pytest.mark.parametrize(
    ("bits", "target"),
    [
        (0x207FFFFF, 0x7FFFFF << 8 * 29),
        (0x1D00FFFF, 0xFFFF << 8 * 26),
        (0x03123456, 0x123456),
        (0x02123456, 0x1234),
        (0x01123456, 0x12),
        (0x00123456, None),
        (0x01003456, None),
        (0x20800001, None),
        (0x04923456, None),
        (0x21FFFFFF, None),
        (0x2100FFFF, 0xFFFF << 8 * 30),
        (0x22000001, 1 << 8 * 31),
        (0x220000FF, 0xFF << 8 * 31),
        (0x22000100, None),
        (0xFF123456, None),
    ],
)
def test_target_when_not_positive_or_too_large_is_none(bits: int, target: int | None) -> None:
    assert target_from_bits(bits) == target


def test_work_above_the_limit_or_missed_is_refused() -> None:
    entry = chain_json("parent.json")["headers"][-1]
    header = ParentHeader.decode(bytes.fromhex(entry["hex"]))
    assert header.target is not None
    header.check_pow(header.target)
    with pytest.raises(InvalidEncoding, match="proof of work"):
        header.check_pow(header.target - 1)
    harder = bytes.fromhex(entry["hex"])[:72] + le32(0x03000001) + bytes(4)
    with pytest.raises(InvalidEncoding, match="proof of work"):
        ParentHeader.decode(harder).check_pow(2**256)


def test_transaction_when_not_canonical_is_refused() -> None:
    with_witness = next(raw for raw in _raw_transactions() if raw[4:6] == b"\0\1")
    stripped = parse_parent_tx(with_witness).stripped
    body = stripped[4:-4]
    count = stripped[4]
    wrong = {
        "non-minimal count": stripped[:4] + b"\xfd" + bytes([count, 0]) + stripped[5:],
        "all-empty witness": stripped[:4] + b"\0\1" + body + bytes(count) + stripped[-4:],
        "trailing byte": stripped + b"\0",
        "cut off": stripped[:-1],
        "empty": b"",
        "flag 2": with_witness[:5] + b"\2" + with_witness[6:],
        "no inputs, two outputs": bytes([2, 0, 0, 0, 0, 2]) + bytes(18) + bytes(4),
        "no inputs, no outputs": bytes([2, 0, 0, 0, 0, 0]) + bytes(4),
    }
    for raw in wrong.values():
        with pytest.raises(InvalidEncoding):
            parse_parent_tx(raw)


def test_block_made_of_deposits_proves_each_of_them() -> None:
    raws = list(dict.fromkeys(_raw_transactions()))[:7]
    root, _ = merkle_root([parse_parent_tx(raw).txid for raw in raws])
    head = bytes(36) + root + bytes(12)
    data = head + compact_size(len(raws)) + b"".join(raws)
    block = parse_parent_block(data)
    for position, tx in enumerate(block.transactions):
        proof = parse_merkle_block(build_merkle_block(block, tx.txid))
        assert proof.matches == ((position, tx.txid),)
        assert proof.header == block.header
        assert proof.tx_count == len(raws)
    with pytest.raises(InvalidEncoding):
        build_merkle_block(block, bytes(32))
    for wrong in (data + b"\0", data[:-1], bytes(80) + data[80:], data[:40]):
        with pytest.raises(InvalidEncoding):
            parse_parent_block(wrong)
    doubled = head + compact_size(8) + b"".join([*raws, raws[-1]])
    with pytest.raises(InvalidEncoding):
        parse_parent_block(doubled)


def test_proof_of_single_transaction_block_rebuilds_byte_for_byte() -> None:
    for entry in chain_json("parent.json")["deposits"]:
        if entry["block_ntx"] != 1:
            continue
        proof = bytes.fromhex(entry["txoutproof"])
        (match,) = parse_merkle_block(proof).matches
        assert build_partial_tree([match[1]], [0]) == proof[80:]


@hostile
@given(st.integers(1, 70), st.data())
def test_partial_tree_when_built_reads_back(count: int, data: st.DataObject) -> None:
    leaves = _leaves(count)
    chosen = data.draw(st.sets(st.integers(0, count - 1)))
    reader = Reader(build_partial_tree(leaves, sorted(chosen)))
    tree = read_partial_tree(reader)
    reader.done()
    assert tree.root == merkle_root(leaves)[0]
    assert tree.tx_count == count
    assert tree.matches == tuple((position, leaves[position]) for position in sorted(chosen))


def test_partial_tree_outside_the_block_cannot_be_built() -> None:
    for leaves, chosen in (([], []), (_leaves(2), [2]), (_leaves(2), [-1])):
        with pytest.raises(InvalidEncoding):
            build_partial_tree(leaves, chosen)


def _tree(tx_count: int, hashes: list[bytes], flags: bytes) -> Reader:
    head = le32(tx_count) + compact_size(len(hashes)) + b"".join(hashes)
    return Reader(head + compact_size(len(flags)) + flags)


@pytest.mark.parametrize(
    ("tx_count", "hash_count", "flags", "why"),
    [
        (0, 0, b"", "impossible count"),
        (0, 1, b"\1", "impossible count"),
        (MAX_TRANSACTIONS + 1, 1, b"\0", "impossible count"),
        (1, 2, b"\1", "impossible count"),
        (9, 9, b"\xff", "fewer flags than hashes"),
        (1, 1, b"", "fewer flags than hashes"),
        (2, 1, b"\1", "runs out of hashes"),
        (1, 0, b"\1", "runs out of hashes"),
        (2, 2, b"\0", "not fully consumed"),
        (1, 1, b"\1\0", "not fully consumed"),
        (200, 4, b"\xff", "runs out of flags"),
    ],
)
def test_partial_tree_when_not_exactly_consumed_is_refused(
    tx_count: int, hash_count: int, flags: bytes, why: str
) -> None:
    with pytest.raises(InvalidEncoding, match=why):
        read_partial_tree(_tree(tx_count, _leaves(hash_count), flags))


def test_partial_tree_that_repeats_a_branch_is_refused() -> None:
    leaf = _leaves(1)[0]
    with pytest.raises(InvalidEncoding, match="repeats a branch"):
        read_partial_tree(_tree(2, [leaf, leaf], b"\7"))


def test_partial_tree_padding_bits_may_be_anything() -> None:
    leaf = _leaves(1)
    for flags in (b"\x01", b"\xff"):
        assert read_partial_tree(_tree(1, leaf, flags)).matches == ((0, leaf[0]),)


def test_proof_whose_root_differs_or_that_goes_on_is_refused() -> None:
    proof = _proofs()[0]
    changed = proof[:36] + bytes([proof[36] ^ 1]) + proof[37:]
    for wrong in (changed, proof + b"\0", proof[:-1], proof[:80]):
        with pytest.raises(InvalidEncoding):
            parse_merkle_block(wrong)


@hostile
@given(st.data())
def test_proof_when_changed_raises_or_still_leads_to_its_root(data: st.DataObject) -> None:
    proof = data.draw(mutated(_proofs()))
    try:
        parsed = parse_merkle_block(proof)
    except InvalidEncoding:
        return
    assert parsed.header.serialize() == proof[:80]
    assert all(0 <= position < parsed.tx_count for position, _ in parsed.matches)


@hostile
@given(st.binary(max_size=300))
def test_parsers_when_bytes_are_arbitrary_raise_only_the_one_error(data: bytes) -> None:
    for parse in (parse_parent_tx, parse_parent_block, parse_merkle_block):
        try:
            parse(data)
        except InvalidEncoding:
            continue
        assert parse is parse_parent_tx or len(data) > 80


@hostile
@given(st.data())
def test_transaction_when_changed_raises_or_keeps_its_bytes(data: st.DataObject) -> None:
    raw = data.draw(mutated(_raw_transactions()))
    try:
        tx = parse_parent_tx(raw)
    except InvalidEncoding:
        return
    assert tx.txid == sha256d(tx.stripped)
    assert parse_parent_tx(tx.stripped).outputs == tx.outputs
    assert len(tx.stripped) <= len(raw)
