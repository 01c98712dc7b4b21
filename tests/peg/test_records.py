"""Record bytes (peg:3.3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peg.records import (
    CancelRecord,
    ExcludeRecord,
    HandoverRecord,
    IncludeRecord,
    OpenRecord,
    ParamRecord,
    PauseRecord,
    Record,
    ReleaseRecord,
    ReopenRecord,
    ResumeRecord,
    ReturnRecord,
    decode_record,
    encode_record,
    record_script,
)
from sidechain.errors import InvalidEncoding
from sidechain.primitives.transaction import OutPoint

POINT = OutPoint(bytes(range(32)), 7)
POINT_HEX = bytes(range(32)).hex() + "07000000"
BURN = bytes(range(36))
EXAMPLES: list[tuple[Record, str]] = [
    (OpenRecord(0, POINT), "01" + "00" + POINT_HEX),
    (
        PauseRecord(member=2, deposits=True, sequence=3, until=500, signature=b"\x05" * 64),
        "02" + "0201" + "03000000" + "f4010000" + "05" * 64,
    ),
    (ResumeRecord(), "03"),
    (CancelRecord(0, POINT), "04" + "00" + POINT_HEX),
    (ExcludeRecord(BURN), "05" + BURN.hex()),
    (IncludeRecord(BURN), "06" + BURN.hex()),
    (ReleaseRecord(BURN), "07" + BURN.hex()),
    (
        ParamRecord(parameter=0x31, value=2**40, active_from=9),
        "08" + "31" + "0000000000010000" + "09000000",
    ),
    (HandoverRecord(0, b"\x09" * 32), "09" + "00" + "09" * 32),
    (ReturnRecord(POINT, b"\x0a" * 32), "0a" + POINT_HEX + "0a" * 32),
    (ReopenRecord(0, b"\x0b" * 32, POINT), "0b" + "00" + "0b" * 32 + POINT_HEX),
]


@pytest.mark.parametrize(("record", "body_hex"), EXAMPLES)
def test_bytes_of_each_type(record: Record, body_hex: str) -> None:
    data = encode_record(record)
    assert data.hex() == "46505201" + body_hex
    assert decode_record(data) == record


@pytest.mark.parametrize(("record", "body_hex"), EXAMPLES)
def test_script_is_op_return_and_one_minimal_push(record: Record, body_hex: str) -> None:
    size = 4 + len(body_hex) // 2
    length = bytes((size,)) if size <= 75 else bytes((0x4C, size))
    assert record_script(record) == b"\x6a" + length + encode_record(record)


@pytest.mark.parametrize(("record", "_"), EXAMPLES)
def test_cut_or_lengthened_record_is_refused(record: Record, _: str) -> None:
    data = encode_record(record)
    for wrong in (data[:-1], data + b"\0"):
        with pytest.raises(InvalidEncoding):
            decode_record(wrong)


@pytest.mark.parametrize("head", ["4650520100", "465052010c", "46505202" + "03", "46505301" + "03"])
def test_unknown_type_or_magic_is_refused(head: str) -> None:
    with pytest.raises(InvalidEncoding):
        decode_record(bytes.fromhex(head))


def test_unknown_pause_flag_is_refused() -> None:
    data = bytearray(encode_record(EXAMPLES[1][0]))
    data[6] = 2
    with pytest.raises(InvalidEncoding):
        decode_record(bytes(data))


@given(st.binary(max_size=120))
def test_hostile_bytes_decode_only_to_what_encodes_back(data: bytes) -> None:
    try:
        record = decode_record(b"FPR\x01" + data)
    except InvalidEncoding:
        return
    assert encode_record(record) == b"FPR\x01" + data
