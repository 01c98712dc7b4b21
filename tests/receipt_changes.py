"""Every other value that a number or text of a receipt could have, and none of them proves."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from federation.receipts import check_receipt
from federation.stranger import NotProved, Stranger


def leaves(plain: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every number and text of a JSON document stands."""
    if isinstance(plain, dict | list):
        for key in plain if isinstance(plain, dict) else range(len(plain)):
            yield from leaves(plain[key], (*place, key))
    else:
        yield place


def with_other(plain: Any, place: tuple[Any, ...], other: Any) -> Any:
    """The document with one leaf changed."""
    forged = deepcopy(plain)
    holder = forged
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = other
    return forged


def at(plain: Any, place: tuple[Any, ...]) -> Any:
    """The leaf at a place."""
    for key in place:
        plain = plain[key]
    return plain


def changes(value: Any) -> Iterator[Any]:
    """Other values of one leaf: of hex the first, a middle and the last digit are changed."""
    if isinstance(value, int):
        yield from (value + 1, -1, str(value), True, [value])
        return
    for where in {0, len(value) // 2, len(value) - 1} if value else ():
        yield value[:where] + ("1" if value[where] == "0" else "0") + value[where + 1 :]
    yield from (value + "00", value[:-2] or "01", value.upper() + " ", 7, [value])


def check_every_leaf(plain: dict[str, Any], stranger: Stranger) -> None:
    """No number and no text of a receipt can be another, and no field missing or more."""
    check_receipt(plain, stranger)
    for place in leaves(plain):
        for other in changes(at(plain, place)):
            with pytest.raises(NotProved):
                check_receipt(with_other(plain, place, other), stranger)
                print("not refused:", place, other)
