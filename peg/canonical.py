"""RFC 8785 JSON of the few types that are hashed here, and a reader as strict.

Only whole numbers, printable ASCII text, lists and objects: nothing whose canonical form leaves
room for interpretation.

Source: N2, N26.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

INTEGER_LIMIT = 2**53


class NotCanonical(Exception):
    """A value or text outside the allowed forms; the message names the place."""


def canonical_json(value: object) -> bytes:
    """The one byte form of a value.

    Raises:
        NotCanonical: a float, a boolean, null, a number of 2^53 or more, or text that is not
            printable ASCII.
    """
    return _encode(value).encode("ascii")


def strict_loads(text: str) -> Any:
    """Parse JSON without floats, constants, null, or repeated keys.

    Raises:
        NotCanonical: anything else, with what and where.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
    except json.JSONDecodeError as error:
        raise NotCanonical(f"not JSON: {error.msg} (line {error.lineno})") from error
    except RecursionError:
        raise NotCanonical("nested too deeply") from None
    return value


def _encode(value: object) -> str:
    if isinstance(value, bool) or value is None or isinstance(value, float):
        raise NotCanonical(f"{value!r} is neither whole number, text, list nor object")
    if isinstance(value, int):
        if abs(value) >= INTEGER_LIMIT:
            raise NotCanonical(f"{value} is too large for a JSON number")
        return str(value)
    if isinstance(value, str):
        if not (value.isascii() and value.isprintable()):
            raise NotCanonical(f"{value!r} is not printable ASCII")
        return json.dumps(value)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise NotCanonical("an object key is not text")
        return "{" + ",".join(f"{_encode(k)}:{_encode(value[k])}" for k in sorted(value)) + "}"
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return "[" + ",".join(_encode(item) for item in value) + "]"
    raise NotCanonical(f"a {type(value).__name__} has no JSON form")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotCanonical("an object has the same key twice")
    return found


def _refuse_number(text: str) -> NoReturn:
    raise NotCanonical(f"{text} is not a whole number")
