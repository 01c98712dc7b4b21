"""Base58 with a four-byte checksum, the text form of older addresses and of secret keys."""

from sidechain.crypto.hashes import sha256d

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
MAX_TEXT_LENGTH = 140
"""Longer texts are not decoded: nothing of ours is that long, and decoding is quadratic."""

_DIGITS = {symbol: value for value, symbol in enumerate(ALPHABET)}


def base58_encode(data: bytes) -> str:
    """Text of some bytes; each leading zero byte is one leading "1"."""
    number = int.from_bytes(data, "big")
    symbols = []
    while number:
        number, digit = divmod(number, 58)
        symbols.append(ALPHABET[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return ALPHABET[0] * zeros + "".join(reversed(symbols))


def base58_decode(text: str) -> bytes | None:
    """Bytes of a text, or None for a symbol outside the alphabet or an overlong text."""
    if len(text) > MAX_TEXT_LENGTH:
        return None
    number = 0
    for symbol in text:
        digit = _DIGITS.get(symbol)
        if digit is None:
            return None
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip(ALPHABET[0]))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def base58check_encode(payload: bytes) -> str:
    """Text of a payload with its checksum."""
    return base58_encode(payload + sha256d(payload)[:4])


def base58check_decode(text: str) -> bytes | None:
    """Payload of a text whose checksum holds, or None."""
    data = base58_decode(text)
    if data is None or len(data) < 4 or sha256d(data[:-4])[:4] != data[-4:]:
        return None
    return data[:-4]
