"""Hex and numbers in RPC parameters."""

from decimal import Decimal
from typing import Any

import pytest

from sidechain.api.arguments import (
    encoded_argument,
    hash_argument,
    hex_argument,
    integer_argument,
    number_argument,
)
from sidechain.api.registry import RpcError

WRONG = ["0", "zz", "ab cd", " ab", "ab ", "ab\n", "٠٠", "0x00", "ab\0d"]


@pytest.mark.parametrize("text", WRONG)
def test_hex_when_it_is_not_exactly_hex_then_refused(text: str) -> None:
    for read in (hex_argument, encoded_argument):
        with pytest.raises(RpcError):
            read(text, "name")
    with pytest.raises(RpcError):
        hash_argument(text.ljust(64, "0")[:64].replace("0", " ", 1), "name")


def test_hex_when_it_is_hex_of_any_case_then_bytes() -> None:
    for read in (hex_argument, encoded_argument):
        assert read("", "name") == b""
        assert read("aBCd09", "name") == b"\xab\xcd\x09"
    assert hash_argument("01" + "00" * 31, "name") == bytes(31) + b"\x01"


@pytest.mark.parametrize("value", [Decimal("1.5"), Decimal(2), 1 << 63, -(1 << 63) - 1])
def test_integer_when_another_number_then_out_of_range(value: Any) -> None:
    with pytest.raises(RpcError) as refused:
        integer_argument(value)
    assert (refused.value.code, refused.value.message) == (-1, "JSON integer out of range")


@pytest.mark.parametrize("value", ["1", True, None, [], {}])
def test_number_when_another_type_then_refused(value: Any) -> None:
    for read in (integer_argument, number_argument):
        with pytest.raises(RpcError) as refused:
            read(value)
        assert refused.value.code == -3
