"""Small value objects of which a block makes many thousands.

A frozen dataclass of CPython 3.11 costs three times what one does that assigns its fields plainly.
These are frozen for the type checker, which refuses assignments, and not at run time.
"""

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """`dataclass(frozen=True, slots=True)` without the check at run time."""
    return dataclass(slots=True, unsafe_hash=True)(cls)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def keyword_record(cls: type[T]) -> type[T]:
    """`record` whose fields are given by name."""
    return dataclass(slots=True, unsafe_hash=True, kw_only=True)(cls)


@dataclass_transform(frozen_default=True, kw_only_default=True, eq_default=False)
def identity_record(cls: type[T]) -> type[T]:
    """`keyword_record` that brings its own equality and hash."""
    return dataclass(slots=True, eq=False, kw_only=True)(cls)
