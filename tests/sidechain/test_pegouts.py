"""Recognising peg-out outputs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidechain.script.script import push
from sidechain.validation.pegouts import parse_pegout
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
