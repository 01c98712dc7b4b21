"""Reading RPC parameters: each function returns the value or raises the error elementsd gives."""

from decimal import Decimal
from typing import Any

from sidechain.api.registry import (
    DESERIALIZATION_ERROR,
    INVALID_PARAMETER,
    MISC_ERROR,
    RpcError,
    WrongType,
)

MAX_HEX_CHARACTERS = 9_000_000


def hash_argument(value: Any, name: str) -> bytes:
    """A 32-byte hash in display order, returned in internal order."""
    text = text_argument(value)
    if len(text) != 64:
        raise RpcError(
            INVALID_PARAMETER,
            f"{name} must be of length 64 (not {len(text)}, for '{_shortened(text)}')",
        )
    try:
        return _unhex(text)[::-1]
    except ValueError as error:
        raise RpcError(
            INVALID_PARAMETER, f"{name} must be hexadecimal string (not '{text}')"
        ) from error


def hex_argument(value: Any, name: str) -> bytes:
    """Bytes in hex."""
    try:
        return _unhex(text_argument(value))
    except ValueError as error:
        raise RpcError(
            INVALID_PARAMETER, f"{name} must be hexadecimal string (not '{_shortened(value)}')"
        ) from error


def encoded_argument(value: Any, failure: str) -> bytes:
    """Hex of something that will be decoded; bad hex is a failure to decode it."""
    text = text_argument(value)
    try:
        if len(text) > MAX_HEX_CHARACTERS:
            raise ValueError(text)
        return _unhex(text)
    except ValueError as error:
        raise RpcError(DESERIALIZATION_ERROR, failure) from error


def text_argument(value: Any) -> str:
    """A JSON string."""
    if not isinstance(value, str):
        raise WrongType(value, "string")
    return value


def index_argument(value: Any) -> int:
    """A JSON integer of 32 bits without sign.

    Raises:
        RpcError: MISC_ERROR with the text of elementsd's JSON library.
    """
    number = integer_argument(value)
    if not 0 <= number < 1 << 32:
        raise RpcError(MISC_ERROR, "JSON integer out of range")
    return number


def integer_argument(value: Any) -> int:
    """A JSON integer of 64 bits.

    Raises:
        RpcError: MISC_ERROR with the text of elementsd's JSON library for any other number.
    """
    number = number_argument(value)
    if not isinstance(number, int) or not -(1 << 63) <= number < 1 << 63:
        raise RpcError(MISC_ERROR, "JSON integer out of range")
    return number


def number_argument(value: Any) -> int | Decimal:
    """A JSON number, whole or not."""
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        raise WrongType(value, "number")
    return value


def flag_argument(value: Any, default: bool) -> bool:
    """A JSON boolean; None is the default."""
    if value is None:
        return default
    if not isinstance(value, bool):
        raise WrongType(value, "bool")
    return value


def verbosity_argument(value: Any, default: int) -> int:
    """A level, or a boolean where false is 0 and true is 1; None is the default."""
    if value is None:
        return default
    if isinstance(value, bool):
        return int(value)
    try:
        return integer_argument(value)
    except WrongType as error:
        # elementsd leaves the place out where a parameter may have either type.
        raise RpcError(error.code, error.message) from error


def array_argument(value: Any) -> list[Any]:
    """A JSON array."""
    if not isinstance(value, list):
        raise WrongType(value, "array")
    return value


def object_argument(value: Any) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise WrongType(value, "object")
    return value


def _unhex(text: str) -> bytes:
    data = bytes.fromhex(text)
    if 2 * len(data) != len(text):
        raise ValueError("blanks between the digits")
    return data


def _shortened(text: str) -> str:
    return text if len(text) <= 100 else text[:100] + "…"
