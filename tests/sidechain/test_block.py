"""Headers, dynamic federation entries and blocks."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidechain.crypto.hashes import ZERO_HASH, hash160, sha256
from sidechain.errors import InvalidBlock, InvalidEncoding
from sidechain.params import DEFAULT_PAK_LIST
from sidechain.primitives.block import (
    COMPACT_KIND,
    FULL_KIND,
    NULL_ENTRY,
    Block,
    BlockHeader,
    ParamEntry,
    params_root,
)
from sidechain.primitives.encoding import Reader
from sidechain.primitives.genesis import chain_params, genesis_block
from sidechain.script.block_signature import verify_block_signature
from tests.byte_strategies import hostile, mutated
from tests.vectors import chain_json, display, recorded_blocks, recorded_params

_EXAMPLE_BLOCKSCRIPT = (
    "52210279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f817982102c6047f9441ed7d6d3045"
    "406e95c07cd85c778e4b8cef3ca7abac09b95c709ee52102f9308a019258c31049344f85f89d5229b531c845836f99"
    "b08601f113bce036f953ae"
)
_EXAMPLE_FEDPEGSCRIPT = (
    "522103774ae7f858a9411e5ef4246b70c65aac5649980be5c17891bbec17895da008cb2103d01115d548e7561b15c3"
    "8f004d734633687cf4419620095bc5b0f47070afe85a2103f28773c2d975288bc7d1d205c3748651b075fbc6610e58"
    "cddeeddf8f19405aa853ae"
)


def _nested(script: bytes) -> bytes:
    return b"\xa9\x14" + hash160(b"\x00\x20" + sha256(script)) + b"\x87"


def _full(block_script: bytes, limit: int, peg_script: bytes) -> ParamEntry:
    return ParamEntry(
        kind=FULL_KIND,
        signblockscript=b"\x00\x20" + sha256(block_script),
        witness_limit=limit,
        fedpeg_program=_nested(peg_script),
        fedpegscript=peg_script,
        extension_space=DEFAULT_PAK_LIST,
    )


def test_entry_roots_agree_with_the_functional_test_of_elements() -> None:
    entry = _full(b"\x51", 74, b"\x51")
    assert display(entry.root()) == (
        "3700bdb2975ff8e0dadaaba2b33857b0ca2610c950a92b1db725025e3647a8e1"
    )
    assert display(entry.extra_root()) == (
        "b1089ab85bc0e542cff3ebe64d1932700d7e5328c3becf49dcefd800ea9ceefb"
    )


def test_entry_roots_of_the_worked_example_agree() -> None:
    scripts = bytes.fromhex(_EXAMPLE_BLOCKSCRIPT), bytes.fromhex(_EXAMPLE_FEDPEGSCRIPT)
    entry = _full(scripts[0], 300, scripts[1])
    assert entry.signblockscript.hex() == (
        "002012c2ffbc6ec1cf5d746dfbd49b1063356212ea55f43023ffc0145934af20c572"
    )
    assert entry.fedpeg_program.hex() == "a914fd7e69c8650207ae2c96d6946e79ce885c688cd987"
    assert display(entry.root()) == (
        "ef8102627bd4f4f3a4defd9766ac0db865bb8eac79a94158c49dafbd0057fc59"
    )
    assert display(entry.extra_root()) == (
        "3349eef713fd3e4f25b2c05c7aaf2accbb8827d78c20c266109a2567cab9d428"
    )
    native = replace(entry, fedpeg_program=b"\x00\x20" + sha256(scripts[1]))
    assert display(native.root()) == (
        "a6da034b0a4f576aabeba534806be1ec2f7d4dcb3b2d34752b71cfae7797de1c"
    )


def test_compact_entry_keeps_the_root_of_the_full_one() -> None:
    full = _full(b"\x51", 74, b"\x52")
    compact = full.compact()
    assert compact.kind == COMPACT_KIND
    assert compact.root() == full.root()
    assert compact.elided_root == full.extra_root() == compact.extra_root()
    assert compact.compact() is compact
    assert NULL_ENTRY.compact() is NULL_ENTRY


def test_null_entries_have_zero_roots() -> None:
    assert NULL_ENTRY.root() == NULL_ENTRY.extra_root() == ZERO_HASH
    assert params_root(NULL_ENTRY, NULL_ENTRY) == ZERO_HASH
    assert params_root(_full(b"\x51", 74, b"\x51"), NULL_ENTRY) != ZERO_HASH


def test_entry_of_unknown_kind_is_refused() -> None:
    for kind in range(3, 256):
        with pytest.raises(InvalidEncoding):
            ParamEntry.read(Reader(bytes([kind]) + bytes(100)))


def test_recorded_headers_show_their_json_fields() -> None:
    for entry, block in zip(chain_json("blocks.json"), recorded_blocks(), strict=True):
        shown, header = entry["json"], block.header
        assert header.version == shown["version"]
        assert header.height == shown["height"]
        assert header.time == shown["time"]
        assert display(header.merkle_root) == shown["merkleroot"]
        if not header.is_dynafed:
            assert header.challenge.hex() == shown["signblock_challenge"]
            continue
        _check_entry(header.current, shown["dynamic_parameters"]["current"])
        _check_entry(header.proposed, shown["dynamic_parameters"]["proposed"])
        assert header.prev_hash == recorded_blocks()[header.height - 1].hash


def _check_entry(entry: ParamEntry, shown: dict[str, object]) -> None:
    if shown["type"] == "null":
        assert entry.is_null
        return
    assert display(entry.root()) == shown["root"]
    assert entry.signblockscript.hex() == shown["signblockscript"]
    assert entry.witness_limit == shown["max_block_witness"]
    if "fedpegscript" in shown:
        assert entry.fedpegscript.hex() == shown["fedpegscript"]
        assert entry.fedpeg_program.hex() == shown["fedpeg_program"]
        assert [item.hex() for item in entry.extension_space] == shown["extension_space"]


def test_recorded_blocks_have_their_sizes() -> None:
    for entry, block in zip(chain_json("blocks.json"), recorded_blocks(), strict=True):
        shown = entry["json"]
        assert block.total_size == shown["size"] == len(block.serialize())
        assert block.stripped_size == shown["strippedsize"]
        assert block.weight_wu == shown["weight"]
        assert len(block.transactions) == shown["nTx"]


def test_recorded_coinbases_commit_to_the_witness_root() -> None:
    marker = bytes.fromhex("6a24aa21a9ed")
    for block in recorded_blocks()[1:]:
        coinbase = block.transactions[0]
        commitments = [out.script for out in coinbase.outputs if out.script[:6] == marker]
        if not commitments:
            continue
        (reserved,) = coinbase.input_witnesses[0].script
        from_hash = sha256(sha256(block.witness_root() + reserved))
        assert commitments[-1][6:38] == from_hash


def test_signblock_witness_is_outside_the_hash_but_inside_the_bytes() -> None:
    block = recorded_blocks()[-1]
    unsigned = block.with_signblock_witness([])
    assert unsigned.hash == block.hash
    assert unsigned.header.signblock_witness == ()
    assert unsigned.serialize() != block.serialize()
    again = unsigned.with_signblock_witness(block.header.signblock_witness)
    assert again.serialize() == block.serialize()
    removed = len(block.serialize()) - len(unsigned.serialize())
    assert block.weight_wu - unsigned.weight_wu == 4 * removed


def test_decode_when_anything_follows_is_refused() -> None:
    raw = recorded_blocks()[-1].serialize()
    with pytest.raises(InvalidEncoding, match="trailing data"):
        Block.decode(raw + b"\0", recorded_params())


def test_decode_when_cut_anywhere_is_refused() -> None:
    raw = recorded_blocks()[1].serialize()
    for length in range(len(raw)):
        with pytest.raises(InvalidEncoding):
            Block.decode(raw[:length], recorded_params())


def test_header_in_dynamic_form_without_entries_reads_as_one_without_proof() -> None:
    raw = bytes.fromhex("000000a0") + bytes(64 + 8) + b"\0\0\0"
    header = BlockHeader.read(Reader(raw), recorded_params())
    assert not header.is_dynafed
    assert header.serialize()[:4] == bytes.fromhex("00000020")
    with pytest.raises(InvalidBlock, match="block-proof-invalid"):
        verify_block_signature(header, recorded_params())


def test_legacy_header_shows_its_height_only_where_the_chain_says_so() -> None:
    with_height = chain_params(name="shown")
    without = chain_params(name="shown", block_height_in_header=False)
    long, short = genesis_block(with_height), genesis_block(without)
    assert len(long.serialize()) == len(short.serialize()) + 4
    assert Block.decode(long.serialize(), with_height) == long
    assert Block.decode(short.serialize(), without) == short
    for raw, params in ((short.serialize(), with_height), (long.serialize(), without)):
        with pytest.raises(InvalidEncoding):
            Block.decode(raw, params)


def _small_blocks() -> list[bytes]:
    return [raw for raw in (block.serialize() for block in recorded_blocks()) if len(raw) < 4000]


@hostile
@given(st.binary(max_size=300))
def test_decode_when_bytes_are_arbitrary_raises_or_round_trips(data: bytes) -> None:
    _decodes_exactly_or_raises(data)


@hostile
@given(st.data())
def test_decode_when_valid_bytes_are_changed_raises_or_round_trips(data: st.DataObject) -> None:
    _decodes_exactly_or_raises(data.draw(mutated(_small_blocks())))


@hostile
@given(st.binary(max_size=120))
def test_entry_when_bytes_are_arbitrary_raises_or_round_trips(data: bytes) -> None:
    for prefix in (b"", b"\1", b"\2"):
        reader = Reader(prefix + data)
        try:
            entry = ParamEntry.read(reader)
        except InvalidEncoding:
            continue
        assert entry.serialize() == (prefix + data)[: reader.pos]


def _decodes_exactly_or_raises(data: bytes) -> None:
    try:
        block = Block.decode(data, recorded_params())
    except InvalidEncoding:
        return
    assert block.serialize() == data
    assert block.weight_wu == 3 * block.stripped_size + block.total_size
