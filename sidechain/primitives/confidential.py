"""Asset, value and nonce fields, kept as the raw bytes they are serialized in.

The first byte says which form follows: null, explicit (readable) or commitment (hidden).
Only prefix and length are judged here; whether a commitment is a point is decided where amounts
are verified.

Source: elements/transactions.md 1.2.
"""

from sidechain.errors import InvalidEncoding

NULL = b"\x00"

ASSET_LENGTHS = {0x00: 1, 0x01: 33, 0x0A: 33, 0x0B: 33}
VALUE_LENGTHS = {0x00: 1, 0x01: 9, 0x08: 33, 0x09: 33}
NONCE_LENGTHS = {0x00: 1, 0x01: 33, 0x02: 33, 0x03: 33}
"""Serialized length of each form, by its first byte."""


def explicit_asset(asset_id_bytes: bytes) -> bytes:
    """Asset field that shows a 32-byte asset id.

    Raises:
        InvalidEncoding: the id is not 32 bytes.
    """
    if len(asset_id_bytes) != 32:
        raise InvalidEncoding("asset id is not 32 bytes")
    return b"\x01" + asset_id_bytes


def explicit_value(amount_sats: int) -> bytes:
    """Value field that shows an amount.

    Raises:
        InvalidEncoding: negative or above 64 bits.
    """
    if not 0 <= amount_sats < 1 << 64:
        raise InvalidEncoding("amount does not fit in 64 bits")
    return b"\x01" + amount_sats.to_bytes(8, "big")


def asset_id(field: bytes) -> bytes | None:
    """The 32-byte id an explicit asset field shows; None for null and commitments."""
    return field[1:] if field[0] == 1 else None


def value_sats(field: bytes) -> int | None:
    """The amount an explicit value field shows; None for null and commitments.

    The 64 bits are read as a signed number, so the result can be negative: such values exist in
    encoded form and fail the range rules.
    """
    return int.from_bytes(field[1:], "big", signed=True) if field[0] == 1 else None


def is_explicit(field: bytes) -> bool:
    """Whether the field shows its content."""
    return field[0] == 1


def is_commitment(field: bytes) -> bool:
    """Whether the field hides its content."""
    return field[0] > 1


def check_field(field: bytes, lengths: dict[int, int]) -> None:
    """Check prefix and length of a field against one of the tables above.

    Raises:
        InvalidEncoding: unknown prefix or wrong length.
    """
    if not field or lengths.get(field[0]) != len(field):
        raise InvalidEncoding("Unrecognized serialization prefix")
