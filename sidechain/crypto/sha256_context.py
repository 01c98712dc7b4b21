"""SHA-256 that can be put aside and taken up again, from any state.

`hashlib` neither shows its state nor takes one. The compression function is therefore that of the
OpenSSL library which `hashlib` itself runs on, where it can be reached and proves to be right;
else it is done here, some hundred times slower, with the same result.

Source: elements/script.md 7.1, FIPS 180-4.
"""

import ctypes
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, islice
from math import isqrt
from struct import Struct

from sidechain.errors import InvalidEncoding

MESSAGE_BYTES_MAX = 2**61 - 1
BLOCK_BYTES = 64
CONTEXT_BASE_BYTES = 40

_MASK = 0xFFFFFFFF
_STATE = Struct(">8I")
_BLOCK = Struct(">16I")

Compress = Callable[[bytes, bytes], bytes]
"""State (32 bytes) and whole blocks to the state after them."""


@dataclass(frozen=True, slots=True)
class Sha256Context:
    """A hash that is not finished.

    Attributes:
        state: of the whole blocks so far, 8 words big-endian; any 32 bytes will do.
        size_bytes: length of everything hashed so far.
        pending: what follows the last whole block, `size_bytes` modulo 64 bytes.
    """

    state: bytes
    size_bytes: int
    pending: bytes

    @classmethod
    def start(cls) -> "Sha256Context":
        """Nothing hashed yet."""
        return cls(initial_state(), 0, b"")

    @classmethod
    def parse(cls, data: bytes) -> "Sha256Context":
        """Read state, bit count (8 bytes little-endian) and pending bytes.

        Raises:
            InvalidEncoding: too short, bits that make no bytes, or pending bytes that do not
                belong to the count.
        """
        bits = int.from_bytes(data[32:CONTEXT_BASE_BYTES], "little")
        size_bytes, rest = divmod(bits, 8)
        pending = data[CONTEXT_BASE_BYTES:]
        if len(data) < CONTEXT_BASE_BYTES or rest or len(pending) != size_bytes % BLOCK_BYTES:
            raise InvalidEncoding("not a SHA-256 context")
        return cls(data[:32], size_bytes, pending)

    def serialize(self) -> bytes:
        """The form that `parse` reads."""
        return self.state + (8 * self.size_bytes).to_bytes(8, "little") + self.pending

    def update(self, data: bytes) -> "Sha256Context":
        """This context with more data hashed.

        Raises:
            InvalidEncoding: longer than SHA-256 can be.
        """
        size_bytes = self.size_bytes + len(data)
        if size_bytes > MESSAGE_BYTES_MAX:
            raise InvalidEncoding("message too long for SHA-256")
        joined = self.pending + data
        whole = len(joined) - len(joined) % BLOCK_BYTES
        state = compress(self.state, joined[:whole]) if whole else self.state
        return Sha256Context(state, size_bytes, joined[whole:])

    def digest(self) -> bytes:
        """The SHA-256 of everything."""
        zeros = (BLOCK_BYTES - 9 - len(self.pending)) % BLOCK_BYTES
        bits = (8 * self.size_bytes).to_bytes(8, "big")
        return compress(self.state, self.pending + b"\x80" + bytes(zeros) + bits)


def compress(state: bytes, blocks: bytes) -> bytes:
    """The state after whole blocks, by the fastest way there is."""
    return _fastest()(state, blocks)


def portable_compress(state: bytes, blocks: bytes) -> bytes:
    """The same in Python alone."""
    words = _STATE.unpack(state)
    for block in _BLOCK.iter_unpack(blocks):
        mixed = _mix(words, _schedule(block))
        words = tuple((old + new) & _MASK for old, new in zip(words, mixed, strict=True))
    return _STATE.pack(*words)


@lru_cache(maxsize=1)
def initial_state() -> bytes:
    """The state before any block: fractions of the square roots of the first 8 primes."""
    return _STATE.pack(*(isqrt(prime << 64) & _MASK for prime in islice(_primes(), 8)))


@lru_cache(maxsize=1)
def _round_constants() -> tuple[int, ...]:
    """Fractions of the cube roots of the first 64 primes."""
    return tuple(_cube_root(prime << 96) & _MASK for prime in islice(_primes(), 64))


def _primes() -> Iterator[int]:
    return (n for n in count(2) if all(n % divisor for divisor in range(2, isqrt(n) + 1)))


def _cube_root(number: int) -> int:
    root = 1 << (number.bit_length() + 2) // 3
    while True:
        better = (2 * root + number // (root * root)) // 3
        if better >= root:
            return root
        root = better


def _schedule(block: tuple[int, ...]) -> list[int]:
    words = list(block)
    for at in range(16, 64):
        early, late = words[at - 15], words[at - 2]
        first = _turn(early, 7) ^ _turn(early, 18) ^ early >> 3
        second = _turn(late, 17) ^ _turn(late, 19) ^ late >> 10
        words.append((words[at - 16] + first + words[at - 7] + second) & _MASK)
    return words


def _mix(state: tuple[int, ...], words: list[int]) -> tuple[int, ...]:
    a, b, c, d, e, f, g, h = state
    for constant, word in zip(_round_constants(), words, strict=True):
        sum_e = _turn(e, 6) ^ _turn(e, 11) ^ _turn(e, 25)
        added = h + sum_e + (e & f ^ ~e & g) + constant + word
        sum_a = _turn(a, 2) ^ _turn(a, 13) ^ _turn(a, 22)
        top = added + sum_a + (a & b ^ a & c ^ b & c)
        a, b, c, d, e, f, g, h = top & _MASK, a, b, c, (d + added) & _MASK, e, f, g
    return a, b, c, d, e, f, g, h


def _turn(word: int, bits: int) -> int:
    return (word >> bits | word << (32 - bits)) & _MASK


class _OpensslState(ctypes.Structure):
    """SHA256_CTX of OpenSSL's public header, unchanged since its first release."""

    _fields_ = (
        ("h", ctypes.c_uint32 * 8),
        ("size_bits", ctypes.c_uint32 * 2),
        ("data", ctypes.c_uint32 * 16),
        ("pending_bytes", ctypes.c_uint32),
        ("digest_bytes", ctypes.c_uint32),
    )


@lru_cache(maxsize=1)
def _fastest() -> Compress:
    """OpenSSL's compression if it gives what `hashlib` gives, else the portable one."""
    found = _openssl_compress()
    block = bytes(range(BLOCK_BYTES))
    if found is None:
        return portable_compress
    padding = b"\x80" + bytes(53) + (16 * BLOCK_BYTES).to_bytes(10, "big")
    right = found(initial_state(), block * 2 + padding) == hashlib.sha256(block * 2).digest()
    return found if right else portable_compress


def _openssl_compress() -> Compress | None:
    try:
        import _hashlib

        update = ctypes.CDLL(_hashlib.__file__).SHA256_Update
    except (ImportError, OSError, AttributeError):
        return None
    update.argtypes = (ctypes.POINTER(_OpensslState), ctypes.c_char_p, ctypes.c_size_t)

    def run(state: bytes, blocks: bytes) -> bytes:
        # Nothing is pending and the length starts anew: only the state matters here.
        context = _OpensslState(h=_STATE.unpack(state))
        update(context, blocks, len(blocks))
        return _STATE.pack(*context.h)

    return run
