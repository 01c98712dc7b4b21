"""Reading and writing scripts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidechain.errors import InvalidEncoding
from sidechain.script.opcodes import opcode_name
from sidechain.script.script import (
    ScriptKind,
    classify,
    count_sigops,
    decode_number,
    encode_number,
    find_and_delete,
    is_minimal_push,
    is_push_only,
    iter_ops,
    multisig_script,
    p2pkh,
    p2sh,
    p2sh_sigops,
    p2wpkh,
    p2wsh,
    parse_multisig,
    push,
    push_number,
    read_op,
    witness_program,
    witness_sigops,
)
from tests.sidechain.bitcoin_scripts import assemble

KEY = b"\x02" + b"\x11" * 32


@given(st.binary(max_size=70_000))
def test_push_is_read_back(data: bytes) -> None:
    script = push(data)
    op = read_op(script, 0)
    assert op is not None
    assert (op.data, op.end) == (data, len(script))
    assert list(iter_ops(script)) == [op]
    short = len(data) == 1 and (data[0] <= 16 or data[0] == 0x81) and data[0] != 0
    assert is_minimal_push(data, op.opcode) is not short


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_error(script: bytes) -> None:
    ops = list(iter_ops(script))
    assert all(a.end < b.end for a, b in zip(ops, ops[1:], strict=False))
    classify(script)
    count_sigops(script, accurate=True)
    parse_multisig(script)


@given(st.integers(-(2**39) + 1, 2**39 - 1))
def test_numbers_round_trip(number: int) -> None:
    data = encode_number(number)
    assert decode_number(data, minimal=True, size_max_bytes=5) == number
    padded = data + b"\0" if number >= 0 else data[:-1] + bytes((data[-1] & 0x7F, 0x80))
    assert decode_number(padded, minimal=False, size_max_bytes=6) == number


@pytest.mark.parametrize("data", ["00", "80", "0100", "0080", "ff0080"])
def test_numbers_in_longer_form_than_needed_are_refused_while_minimal(data: str) -> None:
    with pytest.raises(InvalidEncoding):
        decode_number(bytes.fromhex(data), minimal=True)


def test_number_of_five_bytes_is_refused() -> None:
    with pytest.raises(InvalidEncoding):
        decode_number(bytes(5), minimal=False)


@pytest.mark.parametrize(
    ("number", "script"),
    [(0, "00"), (-1, "4f"), (1, "51"), (16, "60"), (17, "0111"), (-2, "0182"), (128, "028000")],
)
def test_number_pushes_are_shortest(number: int, script: str) -> None:
    assert push_number(number).hex() == script


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (p2pkh(KEY), ScriptKind.PUBKEYHASH),
        (p2sh(b""), ScriptKind.SCRIPTHASH),
        (p2wpkh(KEY), ScriptKind.WITNESS_V0_KEYHASH),
        (p2wsh(b""), ScriptKind.WITNESS_V0_SCRIPTHASH),
        (b"\x51\x20" + bytes(32), ScriptKind.WITNESS_V1_TAPROOT),
        (b"\x51\x02\x4e\x73", ScriptKind.ANCHOR),
        (b"\x52\x02ab", ScriptKind.WITNESS_UNKNOWN),
        (b"\x00\x03abc", ScriptKind.NONSTANDARD),
        (push(KEY) + b"\xac", ScriptKind.PUBKEY),
        (push(b"\x04" + bytes(64)) + b"\xac", ScriptKind.PUBKEY),
        (push(b"\x05" + bytes(32)) + b"\xac", ScriptKind.NONSTANDARD),
        (multisig_script(2, [KEY] * 3), ScriptKind.MULTISIG),
        (b"\x6a", ScriptKind.NULL_DATA),
        (b"\x6a\x02ab\x51", ScriptKind.NULL_DATA),
        (b"\x6a\x02a", ScriptKind.NONSTANDARD),
        (b"\x51", ScriptKind.TRUE),
        (b"", ScriptKind.FEE),
        (b"\x61", ScriptKind.NONSTANDARD),
    ],
)
def test_templates_are_recognised(script: bytes, kind: ScriptKind) -> None:
    assert classify(script) is kind


def test_multisig_is_read_back_and_bounds_are_checked() -> None:
    keys = tuple(b"\x03" + bytes([n]) * 32 for n in range(16))
    assert parse_multisig(multisig_script(11, keys)) == (11, keys)
    for threshold, count in ((11, 20), (17, 20), (20, 20)):
        long = tuple(b"\x02" + bytes([n]) * 32 for n in range(count))
        script = multisig_script(threshold, long)
        assert parse_multisig(script) == (threshold, long)
        assert parse_multisig(script[:-3] + b"\x4c" + script[-3:]) is None
        assert parse_multisig(script[:-2] + b"\x15\xae") is None
    for threshold, count in ((0, 1), (2, 1), (1, 21)):
        with pytest.raises(InvalidEncoding):
            multisig_script(threshold, [KEY] * count)
    assert parse_multisig(multisig_script(17, [KEY] * 20)) == (17, (KEY,) * 20)
    for tail in ("4c0111ae", "020011ae", "0110ae", "0115ae"):
        # 17 in a longer form than needed, twice; 16, which has an opcode; 21.
        script = b"\x51" + push(KEY) * 17 + bytes.fromhex(tail)
        assert parse_multisig(script) is None
    for broken in ("1 1 CHECKMULTISIG", "2 0x21" + "0x" + KEY.hex() + " 1 CHECKMULTISIG"):
        assert parse_multisig(assemble(broken.replace("0x210x", "0x21 0x"))) is None


@pytest.mark.parametrize(
    ("script", "pattern", "left", "count"),
    [
        ("5152", "51", "52", 1),
        ("0151", "51", "0151", 0),
        ("515151", "51", "", 3),
        ("0251ac51", "51", "0251ac", 1),
        ("03aabbcc", "03aabbcc", "", 1),
        ("52", "", "52", 0),
        ("5105", "51", "05", 1),
    ],
)
def test_find_and_delete_works_at_opcode_boundaries(
    script: str, pattern: str, left: str, count: int
) -> None:
    found = find_and_delete(bytes.fromhex(script), bytes.fromhex(pattern))
    assert found == (bytes.fromhex(left), count)


def test_sigops_count_elements_opcodes_as_one() -> None:
    script = assemble("CHECKSIGFROMSTACK CHECKSIGFROMSTACKVERIFY CHECKSIG")
    assert count_sigops(script, accurate=False) == 3
    multisig = multisig_script(2, [KEY] * 3)
    assert count_sigops(multisig, accurate=False) == 20
    assert count_sigops(multisig, accurate=True) == 3
    assert p2sh_sigops(push(multisig), p2sh(multisig)) == 3
    assert p2sh_sigops(push(multisig), p2wsh(multisig)) == 0
    assert witness_sigops(b"", p2wsh(multisig), [multisig]) == 3
    assert witness_sigops(push(p2wsh(multisig)), p2sh(p2wsh(multisig)), [multisig]) == 3
    assert witness_sigops(b"", p2wpkh(KEY), []) == 1


def test_push_only_is_about_complete_pushes() -> None:
    assert is_push_only(assemble("0 1 16 'a'"))
    assert not is_push_only(assemble("1 NOP"))
    assert not is_push_only(b"\x02a")


def test_witness_programs_have_2_to_40_bytes() -> None:
    assert witness_program(b"\x00\x02ab") == (0, b"ab")
    assert witness_program(b"\x60\x28" + bytes(40)) == (16, bytes(40))
    for script in (b"\x00\x01a", b"\x51\x29" + bytes(41), b"\x50\x02ab", b"\x51\x03ab"):
        assert witness_program(script) is None


def test_opcode_names() -> None:
    names = [opcode_name(code) for code in (0, 5, 0x51, 0x7E, 0xC3, 0xFF)]
    assert names == ["OP_0", "OP_PUSHBYTES_5", "OP_1", "OP_CAT", "OP_SUBSTR_LAZY", "OP_UNKNOWN"]
