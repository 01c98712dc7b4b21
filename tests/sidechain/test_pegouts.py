"""Recognising peg-out outputs, and their authorisation."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidechain.crypto.hashes import hash160
from sidechain.crypto.keys import public_key
from sidechain.errors import InvalidTransaction
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import TxOut
from sidechain.script.script import p2pkh_of_hash, p2sh, p2wpkh, p2wsh, push
from sidechain.validation.pegouts import check_pegout_authorisation, parse_pegout
from tests.byte_strategies import hostile, mutated
from tests.factories import secret
from tests.sidechain.example_chain import example_params
from tests.sidechain.pak_keys import PAK_MEMBERS, pegout_script
from tests.vectors import chain_json, recorded_params

GENESIS = bytes(range(32))
PAYMENT = b"\x00\x14" + b"\x07" * 20


@pytest.mark.parametrize("size", [0, 1, 22, 34, 80, 300])
@pytest.mark.parametrize("more", [b"", push(b"key") + push(b"proof"), b"\x00", b"\x05ab"])
def test_destination_is_read_back(size: int, more: bytes) -> None:
    destination = b"\x51" * size
    script = b"\x6a" + push(GENESIS) + push(destination) + more
    assert parse_pegout(script) == (GENESIS, destination)


def test_longer_length_opcodes_count_as_pushes() -> None:
    script = b"\x6a\x4c\x20" + GENESIS + b"\x4d\x16\x00" + PAYMENT
    assert parse_pegout(script) == (GENESIS, PAYMENT)
    assert parse_pegout(script + b"\x4e\1\0\0\0k") == (GENESIS, PAYMENT)


@pytest.mark.parametrize(
    "script",
    [
        b"",
        b"\x6a",
        b"\x6a" + push(GENESIS),
        push(GENESIS) + push(PAYMENT),
        b"\x6a" + push(GENESIS[:31]) + push(PAYMENT),
        b"\x6a" + push(GENESIS + b"\0") + push(PAYMENT),
        b"\x6a" + push(GENESIS) + b"\x51",
        b"\x6a" + push(GENESIS) + push(PAYMENT) + b"\x51",
        b"\x6a" + push(GENESIS) + push(PAYMENT)[:-1],
        b"\x61\x6a" + push(GENESIS) + push(PAYMENT),
    ],
)
def test_other_scripts_are_no_pegouts(script: bytes) -> None:
    assert parse_pegout(script) is None


@given(st.binary(max_size=120))
def test_any_bytes_are_judged(script: bytes) -> None:
    found = parse_pegout(script)
    assert found is None or len(found[0]) == 32


def test_recorded_pegouts_are_those_elementsd_shows() -> None:
    seen = 0
    for entry in chain_json("txs_valid.json"):
        for shown in entry["decoded"]["vout"]:
            script = shown["scriptPubKey"]
            found = parse_pegout(bytes.fromhex(script["hex"]))
            if found is not None and found[0] != recorded_params().parent_genesis_hash:
                found = None
            expected = script.get("pegout_hex")
            assert (found[1].hex() if found else None) == expected
            seen += expected is not None
    assert seen


PARAMS = example_params(enforce_pak=True)
PAK = [member.pair for member in PAK_MEMBERS]
KEY_SECRET = secret("destination")
KEY = public_key(KEY_SECRET)
PROOF = PAK_MEMBERS[1].proof(PAK_MEMBERS, KEY_SECRET)


def _fault(
    script: bytes,
    pak: Sequence[tuple[bytes, bytes]] = PAK,
    asset: bytes = explicit_asset(PARAMS.pegged_asset),
) -> str:
    """What is wrong with the authorisation, empty when it is right or not needed."""
    try:
        check_pegout_authorisation(TxOut(asset, explicit_value(5), NULL, script), pak, PARAMS)
    except InvalidTransaction as fault:
        assert fault.reason == "invalid-pegout-proof"
        return fault.detail
    return ""


@pytest.mark.parametrize(
    "destination", [p2pkh_of_hash(hash160(KEY)), p2wpkh(KEY), p2sh(p2wpkh(KEY))]
)
@pytest.mark.parametrize("member", PAK_MEMBERS)
def test_pegout_when_a_member_allows_a_single_key_then_authorised(
    destination: bytes, member: object
) -> None:
    proof = member.proof(PAK_MEMBERS, KEY_SECRET)  # type: ignore[attr-defined]
    assert _fault(pegout_script(PARAMS, destination, KEY, proof)) == ""


@pytest.mark.parametrize(
    "destination",
    [b"", b"\x51", p2wsh(b"\x51"), b"\x51\x20" + KEY[1:], push(KEY) + b"\xac", p2wpkh(KEY)[:-1]],
)
def test_pegout_when_the_destination_is_of_another_form_then_refused(destination: bytes) -> None:
    script = pegout_script(PARAMS, destination, KEY, PROOF)
    assert _fault(script) == "the destination is not of the key"


def test_pegout_when_the_destination_is_of_another_key_then_refused() -> None:
    other = public_key(secret("other"))
    for wrong in (p2pkh_of_hash(hash160(other)), p2wpkh(other), p2sh(p2wpkh(other))):
        script = pegout_script(PARAMS, wrong, KEY, PROOF)
        assert _fault(script) == "the destination is not of the key"
    script = pegout_script(PARAMS, p2wpkh(other), other, PROOF)
    assert _fault(script) == "the proof does not hold"


def test_pegout_when_pushes_are_missing_or_too_many_then_refused() -> None:
    count = "not one key and one proof behind the destination"
    assert _fault(pegout_script(PARAMS, p2wpkh(KEY))) == count
    assert _fault(pegout_script(PARAMS, p2wpkh(KEY), KEY)) == count
    assert _fault(pegout_script(PARAMS, p2wpkh(KEY), KEY, PROOF, b"")) == count
    # A push that is cut off is none.
    assert _fault(pegout_script(PARAMS, p2wpkh(KEY), KEY, PROOF) + b"\x4c") == ""
    assert _fault(pegout_script(PARAMS, p2wpkh(KEY), KEY) + b"\x4c\x81" + PROOF[:-1]) == count
    for key in (b"", KEY[1:], KEY + b"\0"):
        script = pegout_script(PARAMS, p2wpkh(key), key, PROOF)
        assert _fault(script) == "the key is not 33 bytes"
    no_point = b"\x02" + bytes(31) + b"\5"
    script = pegout_script(PARAMS, p2wpkh(no_point), no_point, PROOF)
    assert _fault(script) == "the proof does not hold"
    for proof in (b"", PROOF[:-1], PROOF + b"\0", b"\2" + PROOF[1:-32]):
        assert _fault(pegout_script(PARAMS, p2wpkh(KEY), KEY, proof)) == "the proof does not hold"


def test_pegout_when_the_list_is_another_then_refused() -> None:
    script = pegout_script(PARAMS, p2wpkh(KEY), KEY, PROOF)
    assert _fault(script, []) == "no keys may authorise peg-outs now"
    swapped = [(online, offline) for offline, online in PAK]
    for pak in (PAK[:2], PAK[::-1], swapped, [*PAK, PAK[0]], [PAK[0], (b"", b""), PAK[2]]):
        assert _fault(script, pak) == "the proof does not hold"


def test_pegout_when_of_another_chain_or_asset_then_needs_no_authorisation() -> None:
    plain = pegout_script(PARAMS, p2wpkh(KEY))
    assert _fault(plain) != ""
    assert _fault(plain, asset=explicit_asset(bytes(32))) == ""
    assert _fault(plain, asset=b"\x0a" + PARAMS.pegged_asset) == ""
    elsewhere = b"\x6a" + push(GENESIS) + push(p2wpkh(KEY))
    assert _fault(elsewhere) == ""
    assert _fault(plain + b"\x51") == ""


@hostile
@given(mutated([pegout_script(PARAMS, p2wpkh(KEY), KEY, PROOF)]))
def test_pegout_when_mutated_then_never_authorised_by_another_proof(script: bytes) -> None:
    """Whatever still is a peg-out to the parent with an authorisation has the very same one."""
    pegout = parse_pegout(script)
    if pegout is None or pegout[0] != PARAMS.parent_genesis_hash:
        assert _fault(script) == ""
    elif _fault(script) == "":
        whole = pegout_script(PARAMS, p2wpkh(KEY), KEY, PROOF)
        assert pegout[1] == p2wpkh(KEY)
        assert script.startswith(whole) or PROOF in script
