"""Reading one JSON object field by field, with messages that name the place.

Source: N2.
"""

import re
from collections.abc import Mapping
from typing import Any

from sidechain.crypto.keys import is_public_key
from sidechain.errors import Invalid

_HEX = re.compile(r"(?:[0-9a-f]{2})*")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
SCRIPT_MAX_BYTES = 3_600


class InvalidConfig(Invalid):
    """A configuration file is wrong; `reason` is a sentence for the person who wrote it."""


class Fields:
    """The fields of one object, each to be taken once; `done` refuses what is left."""

    def __init__(self, plain: object, where: str) -> None:
        """Raises InvalidConfig when `plain` is no object; `where` is its place in the file."""
        if not isinstance(plain, Mapping):
            raise InvalidConfig(f"{where or 'the file'} is not an object")
        self._left = dict(plain)
        self._where = f"{where}." if where else ""

    def has(self, name: str) -> bool:
        """Whether the field is there."""
        return name in self._left

    def take(self, name: str) -> Any:
        """A field of any type."""
        if name not in self._left:
            raise InvalidConfig(f"{self._where}{name} is missing")
        return self._left.pop(name)

    def take_object(self, name: str) -> dict[str, Any]:
        """A field that is an object."""
        value = self.take(name)
        if not isinstance(value, dict):
            raise self._wrong(name, "is not an object")
        return value

    def items(self, name: str, least: int, most: int) -> list[Any]:
        """A list of `least` to `most` items."""
        value = self.take(name)
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise self._wrong(name, f"is not a list of {least} to {most} items")
        return value

    def integer(self, name: str, least: int, most: int) -> int:
        """A whole number in a range."""
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self._wrong(name, f"is not a whole number from {least} to {most}")
        return value

    def flag(self, name: str) -> bool:
        """0 or 1."""
        return self.integer(name, 0, 1) == 1

    def text(self, name: str, *, size_max: int) -> str:
        """Text that is not empty."""
        value = self.take(name)
        if not isinstance(value, str) or not 0 < len(value) <= size_max:
            raise self._wrong(name, f"is not text of 1 to {size_max} characters")
        return value

    def name(self, name: str) -> str:
        """A plain name."""
        value = self.take(name)
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise self._wrong(name, "is not a name of lower-case letters, digits, '.', '_', '-'")
        return value

    def hex(self, name: str) -> bytes:
        """A script as lower-case hex."""
        value = self.take(name)
        size_max = 2 * SCRIPT_MAX_BYTES
        if not isinstance(value, str) or len(value) > size_max or not _HEX.fullmatch(value):
            raise self._wrong(name, "is not lower-case hex")
        return bytes.fromhex(value)

    def public_key(self, name: str) -> bytes:
        """A compressed public key, 33 bytes."""
        return self._public_key(name, self.take(name))

    def public_keys(self, name: str, count: int) -> tuple[bytes, ...]:
        """Exactly `count` compressed public keys."""
        values = self.items(name, count, count)
        return tuple(self._public_key(f"{name}[{i}]", value) for i, value in enumerate(values))

    def done(self) -> None:
        """Nothing else may be in the object."""
        if self._left:
            names = ", ".join(sorted(map(str, self._left)))
            raise InvalidConfig(f"unknown: {self._where}{names}")

    def _public_key(self, name: str, value: object) -> bytes:
        if not isinstance(value, str) or len(value) != 66 or not _HEX.fullmatch(value):
            raise self._wrong(name, "is not a compressed public key of 66 lower-case hex digits")
        key = bytes.fromhex(value)
        if not is_public_key(key):
            raise self._wrong(name, "is not a point on the curve")
        return key

    def _wrong(self, name: str, what: str) -> InvalidConfig:
        return InvalidConfig(f"{self._where}{name} {what}")
