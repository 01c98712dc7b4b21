"""The fedpegscript: its bytes, reading it back, tweaks and sizes (peg:3.1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peg.fedscript import fed_script, key_tweak, parse_fed_script, tweaked, worst_witness_bytes
from peg.parameters import LOCAL, PRODUCTION, for_members, input_worst_vsize, script_bytes
from sidechain.crypto.keys import public_key, tweak_add_secret
from sidechain.errors import InvalidEncoding
from tests.peg.world import federation, p2wpkh_script, secret

CLAIM_SCRIPT = p2wpkh_script("claim")


def test_bytes_are_those_of_the_one_form() -> None:
    keys = [public_key(secret(f"peg {i}")) for i in range(4)]
    holders = [public_key(secret(f"emergency {i}")) for i in range(3)]
    wanted = "53" + "".join("21" + key.hex() for key in keys) + "54ae7364" + "022001" + "b26952"
    wanted += "".join("21" + key.hex() for key in holders) + "53ae68"
    assert federation().script.hex() == wanted


@pytest.mark.parametrize(
    ("n", "k", "csv"), [(4, 3, 288), (15, 11, 4032), (1, 1, 16), (3, 2, 40000)]
)
def test_read_back_gives_the_parts_plain_and_tweaked(n: int, k: int, csv: int) -> None:
    keys = [public_key(secret(f"peg {i}")) for i in range(n)]
    holders = [public_key(secret(f"emergency {i}")) for i in range(3)]
    plain = fed_script(k=k, keys=keys, csv=csv, emergency_keys=holders)
    assert parse_fed_script(plain.script) == plain
    assert len(plain.script) == script_bytes(n, csv)
    deposit = tweaked(plain, CLAIM_SCRIPT)
    assert parse_fed_script(deposit.script) == deposit
    assert (deposit.k, deposit.csv, len(deposit.keys)) == (k, csv, n)
    assert deposit.keys != plain.keys
    assert deposit.emergency_keys != plain.emergency_keys


def test_tweaked_secret_belongs_to_the_tweaked_key() -> None:
    plain = federation()
    deposit = tweaked(plain, CLAIM_SCRIPT)
    for member, key in enumerate(plain.keys):
        tweak = key_tweak(key, CLAIM_SCRIPT)
        assert tweak is not None
        moved = tweak_add_secret(secret(f"peg {member}"), tweak)
        assert public_key(moved) == deposit.keys[member]
    assert key_tweak(plain.keys[0], None) is None


def test_empty_claim_script_still_tweaks() -> None:
    assert tweaked(federation(), b"").keys != federation().keys


def test_claim_script_above_100_bytes_is_refused() -> None:
    tweaked(federation(), bytes(100))
    with pytest.raises(InvalidEncoding):
        tweaked(federation(), bytes(101))


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s[1:],
        lambda s: s + b"\x51",
        lambda s: b"\x55" + s[1:],
        lambda s: s.replace(b"\x73\x64", b"\x73\x63"),
        lambda s: s.replace(b"\x02\x20\x01", b"\x03\x20\x01\x00"),
        lambda s: s.replace(b"\xb2\x69", b"\xb2\x75"),
        lambda s: b"\x74" + s,
    ],
)
def test_other_scripts_are_refused(change) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidEncoding):
        parse_fed_script(change(federation().script))


@given(st.binary(max_size=300))
def test_hostile_bytes_never_pass(data: bytes) -> None:
    try:
        found = parse_fed_script(data)
    except InvalidEncoding:
        return
    assert found.script == data


def test_worst_sizes_are_those_of_the_protocol() -> None:
    """One 3-of-4 input is about 161 vB, one 11-of-15 input about 401."""
    assert abs(federation().input_worst_vsize - 161) <= 1
    assert abs(input_worst_vsize(11, script_bytes(15, PRODUCTION.csv)) - 401) <= 1
    assert federation().witness_worst_bytes == 1 + 1 + 3 * 73 + 1 + 252
    assert worst_witness_bytes(3, 253) == 1 + 1 + 3 * 73 + 3 + 253


@pytest.mark.parametrize(("n", "k"), [(4, 3), (7, 5), (10, 7), (15, 11)])
def test_local_preset_fits_all_supported_sizes(n: int, k: int) -> None:
    parameters = for_members(LOCAL, n, k)
    assert (parameters.n, parameters.k) == (n, k)
    assert federation(parameters).input_worst_vsize == input_worst_vsize(
        k, script_bytes(n, parameters.csv)
    )
