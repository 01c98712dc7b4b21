"""Signature hashes: the specification's worked examples and the reference vectors."""

import pytest
from bitcoin.core import CTransaction

from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import (
    InputWitness,
    Issuance,
    OutPoint,
    OutputWitness,
    Transaction,
    TxIn,
    TxOut,
)
from sidechain.script.script import p2pkh_of_hash, p2wpkh
from sidechain.script.sighash import (
    SINGLE_WITHOUT_OUTPUT,
    SighashCache,
    legacy_sighash,
    segwit_v0_sighash,
    signed_script_code,
)
from tests.sidechain.bitcoin_scripts import bitcoin_legacy_sighash
from tests.vectors import elements_json

KEY = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
ASSET = explicit_asset(
    bytes.fromhex("230f4f5d4b7c6fa845806ee4f67713459e1b69e8e60fcee2e4940c7a0d5de1b2")
)
SCRIPT = p2wpkh(KEY)
CODE = p2pkh_of_hash(SCRIPT[2:])
VALUE = explicit_value(100_000_000)
PREVOUT = OutPoint(b"\x11" * 31 + b"\x22", 1)


def _example() -> Transaction:
    return Transaction.build(
        inputs=[TxIn(PREVOUT, b"", 0xFFFFFFFD)],
        outputs=[
            TxOut(ASSET, explicit_value(99_000_000), NULL, SCRIPT),
            TxOut(ASSET, explicit_value(1_000_000), NULL, b""),
        ],
    )


def test_legacy_hashes_are_those_of_the_specification() -> None:
    expected = {
        0x01: "043c3816a5003a9241a2328df057934ec72b6145f1c0f0dde23df3443945cef3",
        0x03: "5c7d3b677455b525d11c53ef584eb00abe657cf722726361f1163ed723074593",
        0x41: "e85ca483a9acf23dc74bde15dd19e64ae298dd4fa1ae9fc126c5e36149bbd575",
    }
    for kind, digest in expected.items():
        assert legacy_sighash(_example(), 0, CODE, kind, rangeproof=True).hex() == digest


def test_segwit_hashes_are_those_of_the_specification() -> None:
    expected = {
        0x01: "075b0576ea23affd5256f3b5385c5c5986e86ea7e3529a3af924c1598efd87ec",
        0x41: "e4933d00ee658a6206151383e579fe53495911dbb5b03780ff260b6b1962c0b8",
    }
    for kind, digest in expected.items():
        found = segwit_v0_sighash(_example(), 0, CODE, VALUE, kind, rangeproof=True)
        assert found.hex() == digest


def test_segwit_hash_covers_an_issuance() -> None:
    issuance = Issuance(
        blinding_nonce=bytes(32),
        entropy=bytes(32),
        amount=explicit_value(1000),
        inflation_keys=explicit_value(2),
    )
    created = (
        ("3fe35c5abfeaffbbed4b1c561c602145370eabe025ca294045edf99aa4ce34f7", 1000),
        ("f7eed8d2d238530d759051190ee1de8722fbe745561d89c76800de7f553e3b65", 2),
    )
    payment, fee = _example().outputs
    outputs = [payment] + [
        TxOut(explicit_asset(bytes.fromhex(asset)), explicit_value(amount), NULL, SCRIPT)
        for asset, amount in created
    ]
    tx = Transaction.build(
        inputs=[TxIn(PREVOUT, b"", 0xFFFFFFFD, issuance)], outputs=[*outputs, fee]
    )
    found = segwit_v0_sighash(tx, 0, CODE, VALUE, 1, rangeproof=True)
    expected = "25028a02ec7cca873e9124dfbb407de126203d8452e6cf14e04f880fd112a4e6"
    assert found.hex() == expected


def test_legacy_single_without_output_is_the_number_one() -> None:
    inputs = [TxIn(OutPoint(bytes([n]) * 32, 0)) for n in range(1, 4)]
    tx = Transaction.build(inputs=inputs, outputs=_example().outputs)
    assert legacy_sighash(tx, 2, CODE, 3, rangeproof=True) == SINGLE_WITHOUT_OUTPUT


def test_bit_0x40_commits_to_proofs_only_while_its_flag_is_on() -> None:
    plain = _example()
    proofs = [OutputWitness(b"s", b"r"), OutputWitness()]
    changed = Transaction.build(inputs=plain.inputs, outputs=plain.outputs, output_witnesses=proofs)
    for kind, flag, covered in ((0x41, True, True), (0x41, False, False), (0x01, True, False)):
        pairs = [
            (
                legacy_sighash(tx, 0, CODE, kind, rangeproof=flag),
                segwit_v0_sighash(tx, 0, CODE, VALUE, kind, rangeproof=flag),
            )
            for tx in (plain, changed)
        ]
        assert (pairs[0][0] != pairs[1][0]) is covered
        assert (pairs[0][1] != pairs[1][1]) is covered


def test_cache_changes_nothing() -> None:
    tx = Transaction.build(
        inputs=[TxIn(PREVOUT), TxIn(OutPoint(b"\x01" * 32, 0))],
        outputs=_example().outputs,
        input_witnesses=[InputWitness(script=(b"x",)), InputWitness()],
    )
    cache = SighashCache(tx)
    for kind in range(256):
        for index in (0, 1):
            args = (tx, index, CODE, VALUE, kind)
            with_cache = segwit_v0_sighash(*args, rangeproof=True, cache=cache)
            assert with_cache == segwit_v0_sighash(*args, rangeproof=True)
            legacy = legacy_sighash(tx, index, CODE, kind, rangeproof=True, cache=cache)
            assert legacy == legacy_sighash(tx, index, CODE, kind, rangeproof=True)


def test_code_separators_are_removed_at_opcode_boundaries_only() -> None:
    assert signed_script_code(b"\xab\x51\xab\xab\x52") == b"\x02\x51\x52"
    assert signed_script_code(b"\x01\xab\xab\x51") == b"\x03\x01\xab\x51"
    assert signed_script_code(b"\x51") == b"\x01\x51"
    assert signed_script_code(b"") == b"\0"


@pytest.mark.parametrize(
    ("script", "signed"),
    [
        ("51ab05aabb", "04" + "5105"),
        ("510b51af4b51", "06" + "510b"),
        ("4c", "01" + "4c"),
        ("4c05ab", "03" + "4c05"),
        ("4dff", "02" + "4d"),
        ("4d0500ab", "04" + "4d0500"),
        ("4e010000", "04" + "4e"),
        ("4e05000000abab", "07" + "4e05000000"),
    ],
)
def test_script_code_that_breaks_off_is_counted_whole_and_hashed_in_part(
    script: str, signed: str
) -> None:
    """Found beside elementsd: a signature was checked before the script's end was reached."""
    assert signed_script_code(bytes.fromhex(script)).hex() == signed


def test_reference_legacy_hashes_agree() -> None:
    # These are Bitcoin hashes; what this repository contributes to them is the script handling.
    for row in elements_json("sighash.json"):
        if len(row) != 5:
            continue
        tx = CTransaction.deserialize(bytes.fromhex(row[0]))
        digest = bitcoin_legacy_sighash(tx, row[2], bytes.fromhex(row[1]), row[3])
        assert digest[::-1].hex() == row[4]


def test_many_legacy_inputs_are_hashed_without_serializing_each_again() -> None:
    inputs = [TxIn(OutPoint(n.to_bytes(32, "big"), n), b"", n) for n in range(600)]
    tx = Transaction.build(inputs=inputs, outputs=_example().outputs)
    cache = SighashCache(tx)
    digests = {
        legacy_sighash(tx, index, CODE, 1, rangeproof=True, cache=cache) for index in range(600)
    }
    assert len(digests) == 600
    serialized, starts = cache.unsigned_inputs(with_sequences=True)
    assert (len(starts), starts[-1]) == (601, len(serialized))
