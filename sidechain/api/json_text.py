"""JSON as the RPC interface speaks it: exact decimals in both directions, no NaN, no duplicates.

Amounts are JSON numbers with eight decimals; inside they are integers of satoshis, and only the
two functions here turn one into the other. Source: elements/interfaces.md 1, style rule 3.
"""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from json.encoder import encode_basestring_ascii
from typing import Any

SATS_PER_COIN = 100_000_000
MAX_MONEY_SATS = 21_000_000 * SATS_PER_COIN
MAX_NUMBER_DIGITS = 40
"""Longer numbers are refused: Python's own big integers would make reading them slow."""

MAX_DEPTH = 64
"""Nesting that `encode` writes and `decode` accepts."""


class Encoded(str):
    """JSON text that `encode` copies as it is."""

    __slots__ = ()


def coins(amount_sats: int) -> Decimal:
    """The JSON number of an amount, in coins with eight decimals."""
    return Decimal(amount_sats).scaleb(-8)


def sats(value: object) -> int:
    """The satoshis of a JSON amount in coins (number or decimal text).

    Raises:
        ValueError: not a number, more than eight decimals, or outside 0 … 21 million coins.
    """
    if isinstance(value, bool) or not isinstance(value, (int, Decimal, str)):
        raise ValueError("Amount is not a number or string")
    try:
        amount = Decimal(value) * SATS_PER_COIN
        exact = amount.is_finite() and amount == amount.to_integral_value()
    except InvalidOperation as error:
        raise ValueError("Invalid amount") from error
    if not exact:
        raise ValueError("Invalid amount")
    if not 0 <= amount <= MAX_MONEY_SATS:
        raise ValueError("Amount out of range")
    return int(amount)


def encode(value: Any) -> str:
    """JSON text of dicts, lists, tuples, text, integers, Decimals, booleans and None.

    Raises:
        TypeError: any other type, floats included.
    """
    parts: list[str] = []
    _write(value, parts, MAX_DEPTH)
    return "".join(parts)


def decode(text: str | bytes) -> Any:
    """Read one JSON text; numbers with a point or exponent become Decimal.

    Raises:
        ValueError: not JSON, NaN or Infinity, a key twice, numbers or nesting out of bounds.
    """
    if not isinstance(text, str):
        text = text.decode()
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    # Text with fewer brackets than the limit cannot nest deeper than it.
    if text.count("[") + text.count("{") >= MAX_DEPTH:
        _check_depth(value, MAX_DEPTH)
    return value


def _write(value: Any, parts: list[str], depth: int) -> None:
    if depth == 0:
        raise TypeError("value nested too deeply for JSON")
    if type(value) is str:
        parts.append(encode_basestring_ascii(value))
        return
    match value:
        case None:
            parts.append("null")
        case bool():
            parts.append("true" if value else "false")
        case Encoded():
            parts.append(value)
        case str():
            parts.append(encode_basestring_ascii(value))
        case int():
            parts.append(str(value))
        case Decimal():
            parts.append(format(value, "f"))
        case Mapping():
            _write_object(value, parts, depth)
        case list() | tuple():
            _write_array(value, parts, depth)
        case _:
            raise TypeError(f"{type(value).__name__} has no JSON form")


def _write_object(value: Mapping[Any, Any], parts: list[str], depth: int) -> None:
    parts.append("{")
    first = True
    for key, item in value.items():
        if not isinstance(key, str):
            raise TypeError("JSON object keys are text")
        parts.append(("" if first else ",") + encode_basestring_ascii(key) + ":")
        _write(item, parts, depth - 1)
        first = False
    parts.append("}")


def _write_array(value: Sequence[Any], parts: list[str], depth: int) -> None:
    parts.append("[")
    for position, item in enumerate(value):
        if position:
            parts.append(",")
        _write(item, parts, depth - 1)
    parts.append("]")


def _read_decimal(text: str) -> Decimal:
    if len(text) > MAX_NUMBER_DIGITS:
        raise ValueError("number too long")
    return Decimal(text)


def _read_integer(text: str) -> int:
    if len(text) > MAX_NUMBER_DIGITS:
        raise ValueError("number too long")
    return int(text)


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return result


_DECODER = json.JSONDecoder(
    parse_float=_read_decimal,
    parse_int=_read_integer,
    parse_constant=_refuse_constant,
    object_pairs_hook=_unique,
)


def _check_depth(value: Any, depth: int) -> None:
    if depth == 0:
        raise ValueError("JSON nested too deeply")
    if isinstance(value, dict):
        for item in value.values():
            _check_depth(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _check_depth(item, depth - 1)
