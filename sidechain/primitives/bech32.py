"""Bech32, bech32m and their longer relatives blech32 and blech32m.

A text is a human-readable part, the last "1", five-bit data symbols and checksum symbols. The
four codes differ in checksum length and constants.

Source: BIP173, BIP350; elements/transactions.md 8.5.
"""

from collections.abc import Sequence
from dataclasses import dataclass

CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_SYMBOLS = {symbol: value for value, symbol in enumerate(CHARSET)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """One family of two checksums: for witness version 0 and for all later ones."""

    name: str
    checksum_length: int
    max_length: int
    generator: tuple[int, ...]
    constants: tuple[int, int]


BECH32 = Code(
    name="Bech32",
    checksum_length=6,
    max_length=90,
    generator=(0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3),
    constants=(1, 0x2BC830A3),
)
BLECH32 = Code(
    name="Blech32",
    checksum_length=12,
    max_length=1000,
    generator=(
        0x7D52FBA40BD886,
        0x5E8DBF1A03950C,
        0x1C3A3C74072A18,
        0x385D72FA0E5139,
        0x7093E5A608865B,
    ),
    constants=(1, 0x455972A3350F7A1),
)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A text whose checksum holds; `modified` tells the later constant from the first."""

    hrp: str
    data: tuple[int, ...]
    modified: bool


def encode(code: Code, hrp: str, data: Sequence[int], *, modified: bool) -> str:
    """Text of five-bit symbols under a lower-case human-readable part."""
    values = _expand(hrp) + list(data)
    residue = _checksum(code, values + [0] * code.checksum_length) ^ code.constants[modified]
    last = code.checksum_length - 1
    tail = [residue >> 5 * (last - i) & 31 for i in range(code.checksum_length)]
    return hrp + "1" + "".join(CHARSET[value] for value in [*data, *tail])


def decode(code: Code, text: str) -> Decoded | None:
    """Read a text whose checksum holds under one of the code's constants, or give None."""
    found = _split(code, text)
    if isinstance(found, str):
        return None
    hrp, symbols = found
    residue = _checksum(code, _expand(hrp) + symbols)
    if residue not in code.constants:
        return None
    data = tuple(symbols[: -code.checksum_length])
    return Decoded(hrp, data, residue == code.constants[1])


def explain(text: str) -> str:
    """Say why a text is no bech32 or bech32m, in the words of elementsd.

    For a checksum that nearly holds (one or two wrong symbols) it names which of the two is
    closer.
    """
    found = _split(BECH32, text)
    if isinstance(found, str):
        return found
    hrp, symbols = found
    residue = _checksum(BECH32, _expand(hrp) + symbols)
    distances = [_errors(residue ^ constant, len(symbols)) for constant in BECH32.constants]
    if distances[0] == distances[1] == 3:
        return "Invalid checksum"
    return "Invalid Bech32m checksum" if distances[1] < distances[0] else "Invalid Bech32 checksum"


def to_symbols(data: bytes) -> list[int]:
    """Split bytes into five-bit symbols, the last one padded with zero bits."""
    number = int.from_bytes(data, "big")
    count = (8 * len(data) + 4) // 5
    number <<= 5 * count - 8 * len(data)
    return [number >> 5 * (count - 1 - i) & 31 for i in range(count)]


def to_bytes(symbols: Sequence[int]) -> bytes | None:
    """Join five-bit symbols; None when fewer than five zero bits are not what is left over."""
    padding = 5 * len(symbols) % 8
    number = 0
    for symbol in symbols:
        number = number << 5 | symbol
    if padding >= 5 or number & (1 << padding) - 1:
        return None
    return (number >> padding).to_bytes(5 * len(symbols) // 8, "big")


def _split(code: Code, text: str) -> tuple[str, list[int]] | str:
    """Human-readable part and symbols with checksum, or what is wrong with the text."""
    if len(text) > code.max_length:
        return f"{code.name} string too long"
    if any(not 33 <= ord(c) <= 126 for c in text) or text not in (text.lower(), text.upper()):
        return "Invalid character or mixed case"
    text = text.lower()
    position = text.rfind("1")
    if position < 0:
        return "Missing separator"
    if position == 0 or position + code.checksum_length >= len(text):
        return "Invalid separator position"
    symbols = [_SYMBOLS.get(c, -1) for c in text[position + 1 :]]
    if -1 in symbols:
        return "Invalid Base 32 character"
    return text[:position], symbols


def _expand(hrp: str) -> list[int]:
    return [ord(c) >> 5 for c in hrp] + [0] + [ord(c) & 31 for c in hrp]


def _checksum(code: Code, values: Sequence[int], start: int = 1) -> int:
    register = start
    shift = 5 * (code.checksum_length - 1)
    mask = (1 << shift) - 1
    for value in values:
        top = register >> shift
        register = (register & mask) << 5 ^ value
        for bit, constant in enumerate(code.generator):
            if top >> bit & 1:
                register ^= constant
    return register


def _errors(residue: int, length: int) -> int:
    """How many of the last `length` symbols must change to clear a residue: 0, 1, 2, or 3+.

    The code is linear: each wrong symbol adds its own value to the residue, so two errors are
    found by looking up what one of them leaves over.
    """
    if residue == 0:
        return 0
    single: dict[int, int] = {}
    for difference in range(1, 32):
        left = difference
        for position in range(length):
            single[left] = position
            left = _checksum(BECH32, (0,), start=left)
    if residue in single:
        return 1
    for value, position in single.items():
        if single.get(residue ^ value, position) != position:
            return 2
    return 3
