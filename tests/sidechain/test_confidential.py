"""Asset, value and nonce fields."""

import pytest

from sidechain.errors import InvalidEncoding
from sidechain.primitives import confidential
from sidechain.primitives.confidential import (
    ASSET_LENGTHS,
    NONCE_LENGTHS,
    NULL,
    VALUE_LENGTHS,
    check_field,
)


def test_value_when_explicit_is_big_endian() -> None:
    field = confidential.explicit_value(0x0102030405060708)
    assert field.hex() == "010102030405060708"
    assert confidential.value_sats(field) == 0x0102030405060708
    assert confidential.is_explicit(field)
    assert not confidential.is_commitment(field)


def test_value_when_top_bit_is_set_is_negative() -> None:
    assert confidential.value_sats(b"\1" + b"\xff" * 8) == -1
    assert confidential.value_sats(confidential.explicit_value(1 << 63)) == -(1 << 63)


def test_value_when_outside_64_bits_is_refused() -> None:
    for amount in (-1, 1 << 64):
        with pytest.raises(InvalidEncoding):
            confidential.explicit_value(amount)


def test_asset_when_explicit_shows_its_id() -> None:
    field = confidential.explicit_asset(b"\7" * 32)
    assert field == b"\1" + b"\7" * 32
    assert confidential.asset_id(field) == b"\7" * 32
    with pytest.raises(InvalidEncoding):
        confidential.explicit_asset(b"\7" * 31)


def test_field_when_null_or_hidden_shows_nothing() -> None:
    hidden = b"\x0a" + bytes(32)
    assert confidential.asset_id(NULL) is None
    assert confidential.asset_id(hidden) is None
    assert confidential.value_sats(NULL) is None
    assert confidential.value_sats(b"\x08" + bytes(32)) is None
    assert confidential.is_commitment(hidden)
    assert not confidential.is_commitment(NULL)


@pytest.mark.parametrize(
    ("lengths", "prefixes", "explicit_length"),
    [
        (ASSET_LENGTHS, {0, 1, 0x0A, 0x0B}, 33),
        (VALUE_LENGTHS, {0, 1, 8, 9}, 9),
        (NONCE_LENGTHS, {0, 1, 2, 3}, 33),
    ],
)
def test_field_when_prefix_is_any_byte_is_read_only_if_listed(
    lengths: dict[int, int], prefixes: set[int], explicit_length: int
) -> None:
    assert set(lengths) == prefixes
    assert lengths[1] == explicit_length
    for prefix in range(256):
        field = bytes([prefix]) + bytes(lengths.get(prefix, 33) - 1)
        if prefix in prefixes:
            check_field(field, lengths)
            with pytest.raises(InvalidEncoding):
                check_field(field + b"\0", lengths)
        else:
            with pytest.raises(InvalidEncoding):
                check_field(field, lengths)
    with pytest.raises(InvalidEncoding):
        check_field(b"", lengths)
