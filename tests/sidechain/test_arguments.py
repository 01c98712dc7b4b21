"""Hex in RPC parameters."""

import pytest

from sidechain.api.arguments import encoded_argument, hash_argument, hex_argument
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
