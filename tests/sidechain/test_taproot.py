"""Taproot trees and signature hashes: worked examples, reference vectors, spends."""

from typing import Any

import pytest
from bitcoin.core import CTransaction

from sidechain.crypto.hashes import sha256, tagged_hash
from sidechain.crypto.keys import public_key, schnorr_sign, tweak_add_public, tweak_add_secret
from sidechain.errors import InvariantError, ScriptError
from sidechain.primitives.confidential import NULL, explicit_value
from sidechain.primitives.encoding import le32, vec
from sidechain.primitives.transaction import InputWitness, OutPoint, Transaction, TxIn, TxOut
from sidechain.script import taproot
from sidechain.script.faults import ScriptFault
from sidechain.script.flags import CONSENSUS_FLAGS, STANDARD_FLAGS, Flags
from sidechain.script.interpreter import run_input, verify_input
from sidechain.script.script import p2tr
from sidechain.script.sighash import SighashCache, TaprootPath
from sidechain.script.taproot import branch_hash, commits_to, leaf_hash, taproot_sighash, tweak_hash
from tests.sidechain.test_sighash import ASSET, PREVOUT, SCRIPT
from tests.vectors import elements_json

KEY = bytes.fromhex("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
OUTPUT_KEY = bytes.fromhex("7f9c9096696dc5a8ae6bb39791f74be0d7054fee748abc0b202e6e0c46976471")
GENESIS_HASH = bytes(31) + b"\x01"


def example(*witness: bytes, outputs: int = 2) -> Transaction:
    """The transaction of the specification's examples, with or without its witness."""
    return Transaction.build(
        inputs=[TxIn(PREVOUT, b"", 0xFFFFFFFD)],
        outputs=[
            TxOut(ASSET, explicit_value(99_000_000), NULL, SCRIPT),
            TxOut(ASSET, explicit_value(1_000_000), NULL, b""),
        ][:outputs],
        input_witnesses=[InputWitness(script=witness)],
    )


def spent_by(output_key: bytes) -> TxOut:
    """The coin of the examples."""
    return TxOut(ASSET, explicit_value(100_000_000), NULL, p2tr(output_key))


def reason_of(output_key: bytes, *witness: bytes, flags: Flags = CONSENSUS_FLAGS) -> str:
    """What both ways say of a spend with this witness: a fault's name, empty when accepted."""
    tx, spent = example(*witness), spent_by(output_key)
    found = []
    for judge in (run_input, verify_input):
        try:
            judge(tx, 0, spent, flags, SighashCache(tx, [spent], GENESIS_HASH))
            found.append("")
        except ScriptError as fault:
            found.append(ScriptFault(fault.reason).name)
    assert found[0] == found[1]
    return found[0]


def output_of(root: bytes) -> tuple[bytes, int]:
    """Output key and parity for a merkle root under the internal key of the examples."""
    tweaked = tweak_add_public(b"\x02" + KEY, tweak_hash(KEY, root))
    return tweaked[1:], tweaked[0] & 1


def leaf_spend(script: bytes, *, version: int = 0xC4, nodes: int = 0) -> tuple[bytes, bytes]:
    """Output key and control block of a leaf under `nodes` others."""
    path = [bytes([n + 1]) * 32 for n in range(nodes)]
    root = leaf_hash(version, script)
    for node in path:
        root = branch_hash(root, node)
    key, parity = output_of(root)
    return key, bytes((version | parity,)) + KEY + b"".join(path)


def test_keys_when_computed_then_those_of_the_specification() -> None:
    tweak = "427b4bc391c3c8fd428119736d975a6e07c379c7deeb564f089f1ae2d3299da0"
    assert tweak_hash(KEY).hex() == tweak
    assert output_of(b"") == (OUTPUT_KEY, 1)
    leaf = "a81c7f30802409528d2d0ac880b8072c97e96c303f4759707394af544fc3df40"
    assert leaf_hash(0xC4, b"\x51").hex() == leaf
    key, control = leaf_spend(b"\x51")
    assert key.hex() == "8404d108b405187ed8081d6174c530f75e9ce2c053ed2590b84e4f34d054864b"
    assert control == b"\xc5" + KEY
    assert commits_to(key, control, leaf_hash(0xC4, b"\x51"))


@pytest.mark.parametrize(
    ("hash_type", "leaf", "digest"),
    [
        (0x00, None, "682f1af7a9be9b5b26d0959e2204d88cd7846eacd7089ced057766fa8fb2073b"),
        (0x83, None, "caec95ae6773ad4848f7bb561fe45ea3bde066e6001d2f4269746a692671c2bd"),
        (0x00, b"\x51", "4d852c3dec9773f7fbfb24423c7c45d15b3dd1c90872603b345e6691f49011d6"),
    ],
)
def test_hashes_when_computed_then_those_of_the_specification(
    hash_type: int, leaf: bytes | None, digest: str
) -> None:
    cache = SighashCache(example(), [spent_by(OUTPUT_KEY)], GENESIS_HASH)
    path = TaprootPath(None, leaf_hash(0xC4, leaf) if leaf else None)
    found = taproot_sighash(cache, 0, hash_type, path)
    assert found is not None
    assert found.hex() == digest


def test_hash_types_when_not_defined_then_no_hash() -> None:
    cache = SighashCache(example(), [spent_by(OUTPUT_KEY)], GENESIS_HASH)
    defined = {k for k in range(256) if taproot_sighash(cache, 0, k, TaprootPath()) is not None}
    assert defined == {0, 1, 2, 3, 0x81, 0x82, 0x83}


def test_hash_when_cache_lacks_what_taproot_needs_then_our_own_fault() -> None:
    for cache in (SighashCache(example()), SighashCache(example(), [spent_by(KEY)])):
        with pytest.raises(InvariantError):
            taproot_sighash(cache, 0, 0, TaprootPath())


def _key_signature(hash_type: int, *, annex: bytes | None = None) -> bytes:
    cache = SighashCache(example(b"\x01"), [spent_by(OUTPUT_KEY)], GENESIS_HASH)
    path = TaprootPath(taproot.annex_hash(annex) if annex else None)
    digest = taproot_sighash(cache, 0, hash_type, path) or bytes(32)
    # The secret key of the examples is 1, so this is that of the output key.
    secret = tweak_add_secret(b"\0" * 31 + b"\x01", tweak_hash(KEY))
    return schnorr_sign(secret, digest)


def test_key_path_when_signature_is_good_then_accepted() -> None:
    assert reason_of(OUTPUT_KEY, _key_signature(0)) == ""
    for hash_type in (1, 2, 3, 0x81, 0x82, 0x83):
        signature = _key_signature(hash_type) + bytes((hash_type,))
        assert reason_of(OUTPUT_KEY, signature, flags=STANDARD_FLAGS) == ""


@pytest.mark.parametrize(
    ("witness", "fault"),
    [
        ((), "WITNESS_PROGRAM_WITNESS_EMPTY"),
        ((b"",), "SCHNORR_SIG_SIZE"),
        ((bytes(63),), "SCHNORR_SIG_SIZE"),
        ((bytes(66),), "SCHNORR_SIG_SIZE"),
        ((bytes(65),), "SCHNORR_SIG_HASHTYPE"),
        ((bytes(64) + b"\x41",), "SCHNORR_SIG_HASHTYPE"),
        ((bytes(64) + b"\x80",), "SCHNORR_SIG_HASHTYPE"),
        ((bytes(64),), "SCHNORR_SIG"),
        ((bytes(64), b"\x50"), "SCHNORR_SIG"),
        ((b"\x50",), "SCHNORR_SIG_SIZE"),
        ((b"", b""), "TAPROOT_WRONG_CONTROL_SIZE"),
        ((b"\x51", bytes(32)), "TAPROOT_WRONG_CONTROL_SIZE"),
        ((b"\x51", bytes(34)), "TAPROOT_WRONG_CONTROL_SIZE"),
        ((b"\x51", b"\xc4" + bytes(32 * 130)), "TAPROOT_WRONG_CONTROL_SIZE"),
        ((b"\x51", b"\xc4" + KEY + bytes(32 * 128)), "WITNESS_PROGRAM_MISMATCH"),
        ((b"\x51", b"\xc4" + b"\xff" * 32), "WITNESS_PROGRAM_MISMATCH"),
    ],
)
def test_witness_when_wrong_then_named(witness: tuple[bytes, ...], fault: str) -> None:
    assert reason_of(OUTPUT_KEY, *witness) == fault


def test_annex_when_present_then_signed() -> None:
    annex = b"\x50data"
    signature = _key_signature(0, annex=annex)
    assert reason_of(OUTPUT_KEY, signature, annex) == ""
    assert reason_of(OUTPUT_KEY, signature) == "SCHNORR_SIG"
    assert reason_of(OUTPUT_KEY, signature, b"\x50Data") == "SCHNORR_SIG"
    assert reason_of(OUTPUT_KEY, _key_signature(0), annex) == "SCHNORR_SIG"


def test_output_key_when_no_point_then_no_signature_is_good() -> None:
    assert reason_of(b"\xff" * 32, bytes(64)) == "SCHNORR_SIG"


@pytest.mark.parametrize("nodes", [0, 1, 128])
def test_script_path_when_leaf_is_proved_then_run(nodes: int) -> None:
    key, control = leaf_spend(b"\x51", nodes=nodes)
    assert reason_of(key, b"\x51", control) == ""
    assert reason_of(key, b"\x52", control) == "WITNESS_PROGRAM_MISMATCH"
    assert reason_of(key, b"\x51", bytes((control[0] ^ 1,)) + control[1:]) == (
        "WITNESS_PROGRAM_MISMATCH"
    )
    assert reason_of(key, b"\x51", b"\x51", control) == "CLEANSTACK"


@pytest.mark.parametrize("version", [0xC0, 0xBE, 0x00, 0x52, 0xFE])
def test_leaf_version_when_unknown_then_anyones_in_blocks_alone(version: int) -> None:
    key, control = leaf_spend(b"not a script", version=version)
    assert reason_of(key, b"not a script", control) == ""
    expected = "DISCOURAGE_UPGRADABLE_TAPROOT_VERSION"
    if version == taproot.LEAF_SIMPLICITY:
        expected = "SIMPLICITY_WRONG_LENGTH"
    assert reason_of(key, b"not a script", control, flags=STANDARD_FLAGS) == expected


def test_leaf_version_when_it_reads_as_an_annex_then_taken_for_one() -> None:
    key, control = leaf_spend(b"not a script", version=taproot.ANNEX_TAG)
    assert reason_of(key, b"not a script", control) == "SCHNORR_SIG_SIZE"


def test_simplicity_leaf_when_its_flag_is_on_then_never_accepted() -> None:
    commitment = b"\x07" * 32
    key, control = leaf_spend(commitment, version=taproot.LEAF_SIMPLICITY)
    active = CONSENSUS_FLAGS | Flags.SIMPLICITY
    well_formed = (b"witness", b"program", commitment, control)
    assert reason_of(key, *well_formed) == ""
    for flags in (active, STANDARD_FLAGS):
        assert reason_of(key, *well_formed, flags=flags) == "DISCOURAGE_UPGRADABLE_TAPROOT_VERSION"
        assert reason_of(key, *well_formed[1:], flags=flags) == "SIMPLICITY_WRONG_LENGTH"
        assert reason_of(key, b"", *well_formed, flags=flags) == "SIMPLICITY_WRONG_LENGTH"


def test_taproot_when_flag_is_off_or_nested_then_anyones() -> None:
    assert reason_of(OUTPUT_KEY, b"x", flags=CONSENSUS_FLAGS & ~Flags.TAPROOT) == ""


# Vectors of BIP341, with Elements' tags where the reference project changed them.


def _tree_hash(tree: Any) -> bytes:
    if tree is None:
        return b""
    if isinstance(tree, dict):
        return leaf_hash(tree["leafVersion"], bytes.fromhex(tree["script"]))
    left, right = map(_tree_hash, tree)
    return branch_hash(left, right)


def _leaves(tree: Any) -> list[dict[str, Any]]:
    if tree is None:
        return []
    return [tree] if isinstance(tree, dict) else [*_leaves(tree[0]), *_leaves(tree[1])]


def test_reference_trees_when_built_then_keys_and_control_blocks_agree() -> None:
    cases = elements_json("bip341_wallet_vectors.json")["scriptPubKey"]
    for case in cases:
        key = bytes.fromhex(case["given"]["internalPubkey"])
        tree, expected = case["given"]["scriptTree"], case["intermediary"]
        root = _tree_hash(tree)
        assert root.hex() == (expected["merkleRoot"] or "")
        assert tweak_hash(key, root).hex() == expected["tweak"]
        tweaked = tweak_add_public(b"\x02" + key, tweak_hash(key, root))
        assert tweaked[1:].hex() == expected["tweakedPubkey"]
        assert p2tr(tweaked[1:]).hex() == case["expected"]["scriptPubKey"]
        controls = case["expected"].get("scriptPathControlBlocks", [])
        by_id = {leaf["id"]: leaf for leaf in _leaves(tree)}
        for number, control in enumerate(map(bytes.fromhex, controls)):
            leaf = by_id[number]
            found = leaf_hash(leaf["leafVersion"], bytes.fromhex(leaf["script"]))
            assert control[0] == leaf["leafVersion"] | tweaked[0] & 1
            assert commits_to(tweaked[1:], control, found)
    assert cases


def test_reference_leaf_hashes_when_tag_is_bitcoins_then_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The reference project left these as they are in Bitcoin.
    monkeypatch.setattr(taproot, "TAG_LEAF", "TapLeaf")
    for case in elements_json("bip341_wallet_vectors.json")["scriptPubKey"]:
        leaves = sorted(_leaves(case["given"]["scriptTree"]), key=lambda leaf: leaf["id"])
        hashes = [
            leaf_hash(leaf["leafVersion"], bytes.fromhex(leaf["script"])).hex() for leaf in leaves
        ]
        assert hashes == case["intermediary"].get("leafHashes", [])


def test_reference_signatures_when_hashed_then_agree() -> None:
    """Messages are Bitcoin's, hashed under Elements' tag.

    "expected.witness" is left out: its signatures are over Elements' items in Bitcoin's encoding,
    with a genesis hash of zeros, a form that no transaction on any chain has.
    """
    for case in elements_json("bip341_wallet_vectors.json")["keyPathSpending"]:
        tx = CTransaction.deserialize(bytes.fromhex(case["given"]["rawUnsignedTx"]))
        scripts = [bytes.fromhex(coin["scriptPubKey"]) for coin in case["given"]["utxosSpent"]]
        expected = case["intermediary"]
        assert sha256(b"".join(map(vec, scripts))).hex() == expected["hashScriptPubkeys"]
        sequences = b"".join(le32(item.nSequence) for item in tx.vin)
        assert sha256(sequences).hex() == expected["hashSequences"]
        prevouts = b"".join(
            OutPoint(bytes(item.prevout.hash), item.prevout.n).serialize() for item in tx.vin
        )
        assert sha256(prevouts).hex() == expected["hashPrevouts"]
        for item in case["inputSpending"]:
            given, shown = item["given"], item["intermediary"]
            secret = bytes.fromhex(given["internalPrivkey"])
            internal = public_key(secret)[1:]
            assert internal.hex() == shown["internalPubkey"]
            tweak = tweak_hash(internal, bytes.fromhex(given["merkleRoot"] or ""))
            assert tweak.hex() == shown["tweak"]
            message = bytes.fromhex(shown["sigMsg"])
            assert tagged_hash(taproot.TAG_SIGHASH, message).hex() == shown["sigHash"]
