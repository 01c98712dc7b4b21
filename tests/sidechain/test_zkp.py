"""Commitments and proofs: worked examples, agreement with wallycore, and hostile bytes."""

import ctypes.util
from types import SimpleNamespace

import pytest
import wallycore
from hypothesis import given, settings
from hypothesis import strategies as st

from sidechain.crypto import zkp
from sidechain.crypto.hashes import sha256
from sidechain.crypto.keys import GROUP_ORDER, public_key
from sidechain.errors import InvalidEncoding
from sidechain.primitives.encoding import le32
from tests.byte_strategies import hostile, mutated
from tests.hidden import Opening, blinder

# elements/transactions.md 9.3
ASSET = bytes.fromhex("230f4f5d4b7c6fa845806ee4f67713459e1b69e8e60fcee2e4940c7a0d5de1b2")
ABF = bytes.fromhex("431b36f2b16be7471a7cce44b22a6d9d4be6faf0a6f4e5f068a6124b951826a9")
VBF = bytes.fromhex("7f608440814644a4c04db62cde78a43ad4e5015350e68d72012c8a0de98eba4f")
AMOUNT = 12_345_678
SCRIPT = bytes.fromhex("0014751e76e8199196d454941c45d1b3a323f1433bd6")
NONCE = bytes.fromhex("aadc48fc3ec88b04deacc01a8e9f33bcbc9dd0039cf89e0d6162028377d72e75")
PLAIN_GENERATOR = "0ba5f5c6f19b0cd1e2a6d95aa7f64d984877238df3855946bba7cec4c8ebe4c3df"
GENERATOR = bytes.fromhex("0b2fdeda28057cb219bcac9af2ff3c5d9cd331dfa9d0fff98eb0b8ffcc73f12522")
COMMITMENT = bytes.fromhex("093dc75413098993a6df05a0836925cce1ea6d5e81da47ba3a00ddf2f9388610ab")
RANGE_PROOF_SHA256 = "9253d6004cf01dc212fbb6a307448d247866dffa1594eae19fec3657b0a9f32d"
SURJECTION_PROOF = bytes.fromhex(
    "0100018b66fa37100654419cf702e63815113b3e71f93151ebd383a67f85bd8fd49b4527890c"
    "d373de2361a46e44a1073bcda57fdf0cfb6b7ed24c1b09368c9b27d3dd"
)
EXAMPLE = Opening(
    asset_id=ASSET, amount=AMOUNT, script=SCRIPT, asset_blinder=ABF, value_blinder=VBF
)

scalars = st.integers(1, GROUP_ORDER - 1).map(lambda number: number.to_bytes(32, "big"))
asset_ids = st.binary(min_size=32, max_size=32)


def _example_proof() -> bytes:
    return zkp.sign_range_proof(
        AMOUNT, VBF, EXAMPLE.generator, nonce=NONCE, message=ASSET + ABF, extra=SCRIPT, least=1
    )


def test_worked_example_when_computed_then_every_field_is_the_documented_one() -> None:
    assert zkp.serialize_generator(zkp.asset_generator(ASSET)).hex() == PLAIN_GENERATOR
    assert EXAMPLE.asset_field == GENERATOR
    assert EXAMPLE.value_field == COMMITMENT
    proof = _example_proof()
    assert len(proof) == 4174
    assert sha256(proof).hex() == RANGE_PROOF_SHA256
    verified = zkp.verify_range_proof(proof, COMMITMENT, GENERATOR, SCRIPT)
    assert verified == (1, 4503599627370496)
    assert zkp.range_proof_info(proof) == (0, 52, 1, 4503599627370496)
    assert zkp.verify_range_proof(proof, COMMITMENT, GENERATOR, b"") is None


@pytest.mark.parametrize(("count", "used"), [(17, 17), (256, 3), (256, 256)])
def test_surjection_proof_when_it_uses_many_targets_then_holds(count: int, used: int) -> None:
    """Some builds of the library stop at 16 used targets; chains have proofs with more."""
    seven = (7).to_bytes(32, "big")
    targets = [zkp.BlindedAsset(sha256(le32(i)), seven) for i in range(count)]
    made = zkp.BlindedAsset(targets[5].asset_id, (9).to_bytes(32, "big"))
    proof = zkp.sign_surjection_proof(targets, made, seed=bytes(32), used=used)
    points = [zkp.blinded_generator(*target) for target in (*targets, made)]
    *known, point = [zkp.serialize_generator(item) for item in points if item is not None]
    assert len(known) == count
    assert zkp.verify_surjection_proof(proof, known, point)
    assert not zkp.verify_surjection_proof(proof, known[1:], point)


def test_worked_surjection_proof_when_verified_then_only_for_its_targets() -> None:
    plain = bytes.fromhex(PLAIN_GENERATOR)
    assert zkp.verify_surjection_proof(SURJECTION_PROOF, [plain], GENERATOR)
    assert zkp.surjection_target_count(SURJECTION_PROOF) == 1
    assert not zkp.verify_surjection_proof(SURJECTION_PROOF, [GENERATOR], GENERATOR)
    assert not zkp.verify_surjection_proof(SURJECTION_PROOF, [plain, plain], GENERATOR)
    assert not zkp.verify_surjection_proof(SURJECTION_PROOF, [], GENERATOR)
    assert not zkp.verify_surjection_proof(SURJECTION_PROOF, [plain], plain)


def test_worked_proof_when_rewound_then_amount_blinder_and_message_come_back() -> None:
    found = zkp.rewind_range_proof(_example_proof(), COMMITMENT, GENERATOR, SCRIPT, NONCE)
    assert found is not None
    assert (found.amount_sats, found.value_blinder) == (AMOUNT, VBF)
    assert found.message.startswith(ASSET + ABF)
    other = bytes(31) + b"\1"
    assert zkp.rewind_range_proof(_example_proof(), COMMITMENT, GENERATOR, SCRIPT, other) is None


@settings(deadline=None, max_examples=50)
@given(asset_ids, scalars, scalars, st.integers(1, 2**63))
def test_fields_when_made_here_and_by_wallycore_then_equal(
    asset: bytes, abf: bytes, vbf: bytes, amount: int
) -> None:
    own = Opening(asset_id=asset, amount=amount, asset_blinder=abf, value_blinder=vbf)
    generator = bytes(wallycore.asset_generator_from_bytes(asset, abf))
    assert own.asset_field == generator
    assert own.value_field == bytes(wallycore.asset_value_commitment(amount, vbf, generator))
    parsed = zkp.parse_commitment(own.value_field)
    assert parsed is not None
    assert zkp.serialize_commitment(parsed) == own.value_field


@settings(deadline=None, max_examples=10)
@given(scalars, scalars, st.integers(1, 2**51), st.binary(min_size=1, max_size=40))
def test_proofs_when_made_by_wallycore_then_verified_and_rewound_here(
    abf: bytes, vbf: bytes, amount: int, script: bytes
) -> None:
    generator = bytes(wallycore.asset_generator_from_bytes(ASSET, abf))
    commitment = bytes(wallycore.asset_value_commitment(amount, vbf, generator))
    proof = bytes(
        wallycore.asset_rangeproof_with_nonce(
            amount, NONCE, ASSET, abf, vbf, commitment, script, generator, 1, 0, 52
        )
    )
    assert zkp.verify_range_proof(proof, commitment, generator, script) is not None
    found = zkp.rewind_range_proof(proof, commitment, generator, script, NONCE)
    assert found is not None
    assert (found.amount_sats, found.value_blinder) == (amount, vbf)
    assert found.message[:64] == ASSET + abf
    plain = zkp.serialize_generator(zkp.asset_generator(ASSET))
    surjection = bytes(
        wallycore.asset_surjectionproof(
            ASSET, abf, generator, blinder("seed"), ASSET, bytes(32), plain
        )
    )
    assert zkp.verify_surjection_proof(surjection, [plain], generator)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 2**62), min_size=1, max_size=5), asset_ids)
def test_sums_when_amounts_are_split_otherwise_then_equal(parts: list[int], asset: bytes) -> None:
    generator = zkp.asset_generator(asset)
    made = [zkp.commit(part, generator) for part in parts]
    left = [item for item in made if item is not None]
    whole = zkp.commit(sum(parts), generator)
    if whole is None:
        assert sum(parts) >= 2**64
        return
    assert zkp.sums_are_equal(left, [whole])
    assert not zkp.sums_are_equal(left, [])
    assert not zkp.sums_are_equal(left, [whole, whole])
    one = zkp.commit(1, generator)
    assert one is not None
    assert not zkp.sums_are_equal([*left, one], [whole])


def test_empty_sums_are_equal() -> None:
    assert zkp.sums_are_equal([], [])


def test_numbers_when_out_of_range_then_no_commitment() -> None:
    generator = zkp.asset_generator(ASSET)
    order = GROUP_ORDER.to_bytes(32, "big")
    assert zkp.commit(0, generator) is None
    assert zkp.commit(-1, generator) is None
    assert zkp.commit(2**64, generator) is None
    assert zkp.commit(1, generator, order) is None
    assert zkp.commit(1, generator, bytes(31)) is None
    assert zkp.commit(2**64 - 1, generator) is not None
    assert zkp.blinded_generator(ASSET, order) is None
    assert zkp.blinded_generator(ASSET[:31], ABF) is None
    assert zkp.blinded_generator(ASSET, bytes(32)) == generator
    with pytest.raises(InvalidEncoding):
        zkp.asset_generator(ASSET[:31])


@pytest.mark.parametrize("prefix", [0x00, 0x01, 0x02, 0x03, 0x07, 0x0C, 0xFF])
def test_points_when_prefix_is_another_then_not_parsed(prefix: int) -> None:
    assert zkp.parse_generator(bytes([prefix]) + GENERATOR[1:]) is None
    assert zkp.parse_commitment(bytes([prefix]) + COMMITMENT[1:]) is None


def test_points_when_not_on_the_curve_or_cut_then_not_parsed() -> None:
    for wrong in (b"", GENERATOR[:32], GENERATOR + b"\0", b"\x0a" + b"\xff" * 32):
        assert zkp.parse_generator(wrong) is None
    for wrong in (b"", COMMITMENT[:32], COMMITMENT + b"\0", b"\x08" + b"\xff" * 32):
        assert zkp.parse_commitment(wrong) is None
    # x = 5 has no y.
    assert zkp.parse_generator(b"\x0a" + bytes(31) + b"\5") is None


@hostile
@given(mutated([_example_proof()]))
def test_range_proof_when_mutated_then_refused_unless_unchanged(proof: bytes) -> None:
    verified = zkp.verify_range_proof(proof, COMMITMENT, GENERATOR, SCRIPT)
    assert (verified is not None) == (proof == _example_proof())
    zkp.range_proof_info(proof)


@hostile
@given(mutated([SURJECTION_PROOF]))
def test_surjection_proof_when_mutated_then_refused_unless_unchanged(proof: bytes) -> None:
    verified = zkp.verify_surjection_proof(proof, [bytes.fromhex(PLAIN_GENERATOR)], GENERATOR)
    assert verified == (proof == SURJECTION_PROOF)


@hostile
@given(st.binary(max_size=300), st.binary(max_size=40), st.binary(max_size=40))
def test_any_bytes_are_judged(proof: bytes, point: bytes, other: bytes) -> None:
    assert zkp.verify_range_proof(proof, point, other, b"") is None
    assert zkp.verify_range_proof(proof, COMMITMENT, GENERATOR, b"") is None
    assert not zkp.verify_surjection_proof(proof, [point, GENERATOR], other)
    assert not zkp.verify_surjection_proof(proof, [GENERATOR], GENERATOR)
    assert zkp.rewind_range_proof(proof, COMMITMENT, GENERATOR, point, NONCE) is None
    assert zkp.rewind_range_proof(proof, COMMITMENT, GENERATOR, point, other) is None
    assert not zkp.verify_whitelist_proof(proof, [point], [other], point)
    zkp.range_proof_info(proof)


def test_surjection_when_256_targets_then_proved_and_one_more_is_refused() -> None:
    targets = [zkp.BlindedAsset(sha256(bytes([n])), bytes(32)) for n in range(256)]
    output = zkp.BlindedAsset(targets[200].asset_id, ABF)
    proof = zkp.sign_surjection_proof(targets, output, seed=bytes(32), used=256)
    points = [zkp.serialize_generator(zkp.asset_generator(t.asset_id)) for t in targets]
    own = zkp.blinded_generator(*output)
    assert own is not None
    assert zkp.verify_surjection_proof(proof, points, zkp.serialize_generator(own))
    assert len(proof) == 2 + 32 + 32 * 257
    more = [*targets, zkp.BlindedAsset(bytes(32), bytes(32))]
    with pytest.raises(InvalidEncoding):
        zkp.sign_surjection_proof(more, output, seed=bytes(32))


def test_proofs_that_do_not_exist_are_not_made() -> None:
    plain = zkp.asset_generator(ASSET)
    for amount, blinding, nonce in ((5, VBF, bytes(31)), (-1, VBF, NONCE), (0, bytes(32), NONCE)):
        with pytest.raises(InvalidEncoding):
            zkp.sign_range_proof(
                amount, blinding, plain, nonce=nonce, message=b"", extra=b"", least=0
            )
    with pytest.raises(InvalidEncoding):
        zkp.sign_range_proof(5, VBF, plain, nonce=NONCE, message=b"", extra=b"", least=6)
    target = zkp.BlindedAsset(ASSET, bytes(32))
    with pytest.raises(InvalidEncoding):
        zkp.sign_surjection_proof([target], zkp.BlindedAsset(bytes(32), ABF), seed=bytes(32))
    for targets in ([], [zkp.BlindedAsset(ASSET, b"")]):
        with pytest.raises(InvalidEncoding):
            zkp.sign_surjection_proof(targets, zkp.BlindedAsset(ASSET, ABF), seed=bytes(32))


def test_whitelist_when_signed_by_a_listed_pair_then_verified_for_that_key_only() -> None:
    online = [blinder(f"online {n}") for n in range(3)]
    offline = [blinder(f"offline {n}") for n in range(3)]
    allowed = blinder("allowed")
    onlines, offlines = [[public_key(k) for k in keys] for keys in (online, offline)]
    for index in range(3):
        summed = int.from_bytes(offline[index], "big") + int.from_bytes(allowed, "big")
        proof = zkp.sign_whitelist_proof(
            onlines,
            offlines,
            public_key(allowed),
            index=index,
            online_secret=online[index],
            summed_secret=(summed % GROUP_ORDER).to_bytes(32, "big"),
        )
        assert len(proof) == 1 + 32 * 4
        assert zkp.verify_whitelist_proof(proof, onlines, offlines, public_key(allowed))
        other = public_key(blinder("other"))
        assert not zkp.verify_whitelist_proof(proof, onlines, offlines, other)
        assert not zkp.verify_whitelist_proof(proof, onlines[:2], offlines[:2], other)
        assert not zkp.verify_whitelist_proof(proof, offlines, onlines, public_key(allowed))
        swapped = [onlines[1], onlines[0], onlines[2]]
        assert not zkp.verify_whitelist_proof(proof, swapped, offlines, public_key(allowed))
        for position in range(len(proof)):
            changed = proof[:position] + bytes([proof[position] ^ 1]) + proof[position + 1 :]
            assert not zkp.verify_whitelist_proof(changed, onlines, offlines, public_key(allowed))
    assert not zkp.verify_whitelist_proof(b"\0" + bytes(32), [], [], public_key(allowed))


def test_whitelist_proofs_that_do_not_exist_are_not_made() -> None:
    key, secret = public_key(blinder("k")), blinder("k")
    for index, keys, own in ((1, [key], secret), (0, [b""], secret), (0, [key], b"")):
        with pytest.raises(InvalidEncoding):
            zkp.sign_whitelist_proof(
                keys, [key], key, index=index, online_secret=own, summed_secret=secret
            )


def test_library_without_a_function_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        zkp, "find_spec", lambda name: SimpleNamespace(origin=ctypes.util.find_library("c"))
    )
    zkp._library.cache_clear()
    try:
        with pytest.raises(ImportError, match="no secp256k1_context_create"):
            zkp.check_library()
        monkeypatch.setattr(zkp, "find_spec", lambda name: None)
        with pytest.raises(ImportError, match="wallycore is not installed"):
            zkp.check_library()
    finally:
        monkeypatch.undo()
        zkp._library.cache_clear()
    zkp.check_library()
