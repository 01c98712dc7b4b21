"""Range and surjection proofs verified by integers alone, as the specification says it.

Slow and simple: a second opinion on what the library answers, from the text and not from it.

Source: elements/transactions.md 6.1, 6.3 and 6.4.
"""

from collections.abc import Sequence
from hashlib import sha256

P = 2**256 - 2**32 - 977
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
ROOT_OF_MINUS_3 = 0x0A2D2BA93507F1DF233770C2A797962CC61F6D15DA14ECD47D8D27AE1CD5F852

Point = tuple[int, int] | None
"""Affine coordinates, None for infinity."""

G: Point = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)


def add(a: Point, b: Point) -> Point:
    """Sum of two points."""
    if a is None or b is None:
        return a or b
    if a[0] == b[0]:
        if (a[1] + b[1]) % P == 0:
            return None
        slope = 3 * a[0] * a[0] * pow(2 * a[1], -1, P)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def negate(a: Point) -> Point:
    """The point mirrored."""
    return None if a is None else (a[0], P - a[1])


def multiply(number: int, a: Point) -> Point:
    """A multiple of a point."""
    total: Point = None
    number %= N
    while number:
        if number & 1:
            total = add(total, a)
        a = add(a, a)
        number >>= 1
    return total


def is_square(number: int) -> bool:
    """Whether a field element has a root."""
    return number % P == 0 or pow(number, (P - 1) // 2, P) == 1


def root(number: int) -> int:
    """The root that is a square itself."""
    return pow(number, (P + 1) // 4, P)


def parse_square(serialized: bytes, *, odd: bool) -> Point:
    """A point from its x; `odd` takes the y that is no square. Raises ValueError."""
    x = int.from_bytes(serialized, "big")
    if x >= P or not is_square(x**3 + 7):
        raise ValueError("no point")
    y = root(x**3 + 7)
    return x, P - y if odd else y


def parse(field: bytes) -> Point:
    """A commitment or a generator, 33 bytes."""
    return parse_square(field[1:], odd=bool(field[0] & 1))


def square_form(a: Point) -> bytes:
    """P(Q) of the specification: 00 or 01 for a square or other y, then x."""
    assert a is not None
    return (b"\0" if is_square(a[1]) else b"\1") + a[0].to_bytes(32, "big")


def compressed(a: Point) -> bytes:
    """Ordinary compressed form."""
    assert a is not None
    return bytes([2 + a[1] % 2]) + a[0].to_bytes(32, "big")


def _swu(digest: bytes) -> Point:
    t = int.from_bytes(digest, "big")
    assert t < P
    c = ROOT_OF_MINUS_3
    d = (c - 1) * pow(2, -1, P) % P
    w = c * t * pow(8 + t * t, -1, P) % P
    x1 = (d - t * w) % P
    x3 = (1 + pow(w * w, -1, P)) % P if w else 1
    x = next(x for x in (x1, (-x1 - 1) % P, x3) if is_square(x**3 + 7))
    y = root(x**3 + 7)
    return x, P - y if t & 1 else y


def asset_generator(asset_id: bytes) -> Point:
    """H(asset)."""
    first = _swu(sha256(b"1st generation: " + asset_id).digest())
    return add(first, _swu(sha256(b"2nd generation: " + asset_id).digest()))


def _number(number: int, size: int = 4) -> bytes:
    return number.to_bytes(size, "big")


def borromean(
    e0: bytes, scalars: Sequence[int], rings: Sequence[Sequence[Point]], message: bytes
) -> bool:
    """Check a Borromean ring signature."""
    ends, left = b"", list(scalars)
    for i, ring in enumerate(rings):
        challenge = sha256(e0 + message + _number(i) + _number(0)).digest()
        for j, key in enumerate(ring):
            s, e = left.pop(0), int.from_bytes(challenge, "big")
            if not 0 < e < N or not 0 < s < N or key is None:
                return False
            r = add(multiply(s, G), multiply(e, key))
            if r is None:
                return False
            if j + 1 < len(ring):
                head = compressed(r) + message + _number(i) + _number(j + 1)
                challenge = sha256(head).digest()
            else:
                ends += compressed(r)
    return sha256(ends + message).digest() == e0


def verify_range(
    proof: bytes, commitment: bytes, generator: bytes, extra: bytes
) -> tuple[int, int] | None:
    """Least and greatest amount a range proof proves, or None."""
    try:
        return _verify_range(proof, parse(commitment), parse(generator), extra)
    except (ValueError, IndexError):
        return None


def _verify_range(proof: bytes, c: Point, a: Point, extra: bytes) -> tuple[int, int] | None:
    if len(proof) < 65 or proof[0] & 128:
        return None
    at, exponent, mantissa, least = 1, 0, 0, 0
    if proof[0] & 64:
        exponent, mantissa, at = proof[0] & 31, proof[1] + 1, 2
        if exponent > 18 or mantissa > 64:
            return None
    if proof[0] & 32:
        if len(proof) < at + 8:
            return None
        least, at = int.from_bytes(proof[at : at + 8], "big"), at + 8
    greatest = (2**mantissa - 1) * 10**exponent + least
    if greatest >= 2**64:
        return None
    header, sizes = proof[:at], [4] * (mantissa // 2) + [2] * (mantissa % 2) or [1]
    sign_bytes = (len(sizes) + 6) // 8
    signs = proof[at : at + sign_bytes]
    at += sign_bytes
    if len(proof) != at + 32 * (len(sizes) - 1) + 32 + 32 * sum(sizes):
        return None
    if int.from_bytes(signs, "little") >> (len(sizes) - 1):
        return None
    hashed, firsts, rest = b"", [], add(c, negate(multiply(least, a)))
    for i in range(len(sizes) - 1):
        sign = signs[i // 8] >> i % 8 & 1
        x = proof[at : at + 32]
        point = parse_square(x, odd=bool(sign))
        hashed += bytes([sign]) + x
        firsts.append(point)
        rest = add(rest, negate(point))
        at += 32
    if rest is None:
        return None
    e0, at = proof[at : at + 32], at + 32
    scalars = [int.from_bytes(proof[n : n + 32], "big") for n in range(at, len(proof), 32)]
    rings = []
    for i, (first, size) in enumerate(zip([*firsts, rest], sizes, strict=True)):
        step = multiply(-(4**i) * 10**exponent, a)
        ring = [first]
        while len(ring) < size:
            ring.append(add(ring[-1], step))
        rings.append(ring)
    message = sha256(square_form(c) + square_form(a) + header + hashed + extra).digest()
    return (least, greatest) if borromean(e0, scalars, rings, message) else None


def verify_surjection(proof: bytes, targets: Sequence[bytes], generator: bytes) -> bool:
    """Whether a surjection proof holds."""
    if len(proof) < 2:
        return False
    count = int.from_bytes(proof[:2], "little")
    size = (count + 7) // 8
    bits = int.from_bytes(proof[2 : 2 + size], "little")
    used = [n for n in range(count) if bits >> n & 1]
    if count > 256 or count != len(targets) or bits >> count or not used:
        return False
    if len(proof) != 2 + size + 32 + 32 * len(used):
        return False
    points, own = [parse(target) for target in targets], parse(generator)
    keys = [add(own, negate(points[n])) for n in used]
    body = proof[2 + size :]
    scalars = [int.from_bytes(body[n : n + 32], "big") for n in range(32, len(body), 32)]
    message = sha256(b"".join(map(compressed, [*points, own]))).digest()
    return borromean(body[:32], scalars, [keys], message)
