"""Commitments and proofs of hidden amounts and assets, on libsecp256k1-zkp.

The library is the one that wallycore's extension carries and exports. It is opened when it is
first needed, once, and every function used is declared here. Points are serialized (33 bytes) at
the border and parsed (64 opaque bytes, typed `Generator` and `Commitment`) between calls.

Long calls (verifying, proving, rewinding) let other threads run meanwhile; short ones do not, as
giving way would cost more than they do. Nothing here raises on outside data: what does not parse
or does not verify gives None or False. Every length is checked before the library sees a pointer.

Source: elements/transactions.md 6 and 8.2, elements/peg.md 5.2.
"""

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple, NewType

from sidechain.errors import InvalidEncoding

Generator = NewType("Generator", bytes)
"""A parsed asset generator; equal points have equal bytes."""

Commitment = NewType("Commitment", bytes)
"""A parsed Pedersen commitment; equal points have equal bytes."""

SERIALIZED_POINT_BYTES = 33
MAX_SURJECTION_TARGETS = 256
MAX_WHITELIST_KEYS = 255
MAX_RANGE_PROOF_BYTES = 5134
MAX_REWIND_MESSAGE_BYTES = 4096
ZERO_BLINDER = bytes(32)

_POINT_BYTES = 64
_CONTEXT_NONE = 1
_MAX_SELECTIONS = 100_000


class _SurjectionProof(ctypes.Structure):
    _fields_ = [
        ("n_inputs", c_size_t),
        ("used_inputs", ctypes.c_ubyte * (MAX_SURJECTION_TARGETS // 8)),
        ("data", ctypes.c_ubyte * (32 * (1 + MAX_SURJECTION_TARGETS))),
    ]


class _WhitelistProof(ctypes.Structure):
    _fields_ = [
        ("n_keys", c_size_t),
        ("data", ctypes.c_ubyte * (32 * (1 + MAX_WHITELIST_KEYS))),
    ]


# A context, or any array of bytes that the library reads: c_char_p takes bytes as they are.
_CTX, _IN, _OUT = c_void_p, c_char_p, c_char_p
_U64_OUT, _SIZE_OUT = POINTER(c_uint64), POINTER(c_size_t)
_SURJECTION, _WHITELIST = POINTER(_SurjectionProof), POINTER(_WhitelistProof)
_POINTERS = POINTER(c_void_p)

_SHORT: dict[str, tuple[Any, ...]] = {
    "generator_parse": (_CTX, _OUT, _IN),
    "generator_serialize": (_CTX, _OUT, _IN),
    "generator_generate": (_CTX, _OUT, _IN),
    "generator_generate_blinded": (_CTX, _OUT, _IN, _IN),
    "pedersen_commitment_parse": (_CTX, _OUT, _IN),
    "pedersen_commitment_serialize": (_CTX, _OUT, _IN),
    "pedersen_commit": (_CTX, _OUT, _IN, c_uint64, _IN),
    "rangeproof_info": (
        *(_CTX, POINTER(c_int), POINTER(c_int), _U64_OUT, _U64_OUT),
        *(_IN, c_size_t),
    ),
    "surjectionproof_parse": (_CTX, _SURJECTION, _IN, c_size_t),
    "surjectionproof_serialize": (_CTX, _OUT, _SIZE_OUT, _SURJECTION),
    "whitelist_signature_parse": (_CTX, _WHITELIST, _IN, c_size_t),
    "whitelist_signature_serialize": (_CTX, _OUT, _SIZE_OUT, _WHITELIST),
    "ec_pubkey_parse": (_CTX, _OUT, _IN, c_size_t),
    "ec_pubkey_serialize": (_CTX, _OUT, _SIZE_OUT, _IN, c_uint),
}
"""Calls of some microseconds, and their arguments; all return int."""

_LONG: dict[str, tuple[Any, ...]] = {
    "pedersen_verify_tally": (_CTX, _POINTERS, c_size_t, _POINTERS, c_size_t),
    "rangeproof_verify": (
        *(_CTX, _U64_OUT, _U64_OUT, _IN, _IN, c_size_t),
        *(_IN, c_size_t, _IN),
    ),
    "rangeproof_rewind": (
        *(_CTX, _OUT, _U64_OUT, _OUT, _SIZE_OUT, _IN, _U64_OUT, _U64_OUT),
        *(_IN, _IN, c_size_t, _IN, c_size_t, _IN),
    ),
    "rangeproof_sign": (
        *(_CTX, _OUT, _SIZE_OUT, c_uint64, _IN, _IN, _IN, c_int, c_int, c_uint64),
        *(_IN, c_size_t, _IN, c_size_t, _IN),
    ),
    "surjectionproof_initialize": (
        *(_CTX, _SURJECTION, _SIZE_OUT, _IN, c_size_t, c_size_t, _IN, c_size_t),
        _IN,
    ),
    "surjectionproof_generate": (*(_CTX, _SURJECTION, _IN, c_size_t, _IN, c_size_t, _IN, _IN),),
    "surjectionproof_verify": (_CTX, _SURJECTION, _IN, c_size_t, _IN),
    "whitelist_sign": (*(_CTX, _WHITELIST, _IN, _IN, c_size_t, _IN, _IN, _IN, c_size_t),),
    "whitelist_verify": (_CTX, _WHITELIST, _IN, _IN, c_size_t, _IN),
}
"""Calls long enough to let other threads run, and their arguments; all return int."""


class _Library:
    """The declared functions, each with the context filled in."""

    def __init__(self, path: str) -> None:
        yielding, holding = ctypes.CDLL(path), ctypes.PyDLL(path)
        create = _symbol(yielding, "context_create", (c_uint,), c_void_p)
        self.context = c_void_p(create(_CONTEXT_NONE))
        if not self.context:
            raise MemoryError("secp256k1_context_create")
        for library, names in ((holding, _SHORT), (yielding, _LONG)):
            for name, arguments in names.items():
                setattr(self, name, _symbol(library, name, arguments, c_int))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"secp256k1_{name} is not declared")


def _symbol(library: ctypes.CDLL, name: str, arguments: tuple[Any, ...], result: Any) -> Any:
    try:
        found = getattr(library, f"secp256k1_{name}")
    except AttributeError as error:
        raise ImportError(
            f"wallycore's library has no secp256k1_{name}: another version is installed"
        ) from error
    found.argtypes, found.restype = arguments, result
    return found


@cache
def _library() -> _Library:
    found = find_spec("_wallycore")
    if found is None or found.origin is None:
        raise ImportError("wallycore is not installed")
    return _Library(found.origin)


def check_library() -> None:
    """Open the library now, so that a wrong one is found at the start.

    Raises:
        ImportError: it is missing, or a function of it; the message names which.
    """
    _library()


def _buffer(size: int) -> "ctypes.Array[ctypes.c_char]":
    return ctypes.create_string_buffer(size)


def parse_generator(serialized: bytes) -> Generator | None:
    """Read an asset generator (0a or 0b); None when it is no point."""
    lib, out = _library(), _buffer(_POINT_BYTES)
    if len(serialized) != SERIALIZED_POINT_BYTES:
        return None
    if not lib.generator_parse(lib.context, out, serialized):
        return None
    return Generator(out.raw)


def serialize_generator(generator: Generator) -> bytes:
    """The 33 bytes of a generator."""
    lib, out = _library(), _buffer(SERIALIZED_POINT_BYTES)
    lib.generator_serialize(lib.context, out, generator)
    return out.raw


def asset_generator(asset_id: bytes) -> Generator:
    """H(asset), the generator of an asset that is shown.

    Raises:
        InvalidEncoding: the id is not 32 bytes, or has no generator (no known id has none).
    """
    lib, out = _library(), _buffer(_POINT_BYTES)
    if len(asset_id) != 32 or not lib.generator_generate(lib.context, out, asset_id):
        raise InvalidEncoding("asset id without a generator")
    return Generator(out.raw)


def blinded_generator(asset_id: bytes, asset_blinder: bytes) -> Generator | None:
    """H(asset) + blinder·G; None when the blinder is not below the group order."""
    lib, out = _library(), _buffer(_POINT_BYTES)
    if len(asset_id) != 32 or len(asset_blinder) != 32:
        return None
    if not lib.generator_generate_blinded(lib.context, out, asset_id, asset_blinder):
        return None
    return Generator(out.raw)


def parse_commitment(serialized: bytes) -> Commitment | None:
    """Read a value commitment (08 or 09); None when it is no point."""
    lib, out = _library(), _buffer(_POINT_BYTES)
    if len(serialized) != SERIALIZED_POINT_BYTES:
        return None
    if not lib.pedersen_commitment_parse(lib.context, out, serialized):
        return None
    return Commitment(out.raw)


def serialize_commitment(commitment: Commitment) -> bytes:
    """The 33 bytes of a commitment."""
    lib, out = _library(), _buffer(SERIALIZED_POINT_BYTES)
    lib.pedersen_commitment_serialize(lib.context, out, commitment)
    return out.raw


def commit(
    amount_sats: int, generator: Generator, value_blinder: bytes = ZERO_BLINDER
) -> Commitment | None:
    """blinder·G + amount·generator; None when that is no point or a number is out of range."""
    lib, out = _library(), _buffer(_POINT_BYTES)
    if not 0 <= amount_sats < 1 << 64 or len(value_blinder) != 32:
        return None
    if not lib.pedersen_commit(lib.context, out, value_blinder, amount_sats, generator):
        return None
    return Commitment(out.raw)


def sums_are_equal(left: Sequence[Commitment], right: Sequence[Commitment]) -> bool:
    """Whether two lists of commitments have the same sum; the empty sum is zero."""
    lib = _library()
    # The list of arrays keeps the bytes alive that the pointers point to.
    arrays = [_pointers(side) for side in (left, right)]
    return bool(lib.pedersen_verify_tally(lib.context, arrays[0], len(left), arrays[1], len(right)))


def _pointers(points: Sequence[bytes]) -> Any:
    return ctypes.cast((c_char_p * len(points))(*points), _POINTERS)


def verify_range_proof(
    proof: bytes, commitment: bytes, generator: bytes, extra: bytes
) -> tuple[int, int] | None:
    """Verify that a committed amount lies in the range its proof names.

    Args:
        commitment: 33 bytes, as in a value field.
        generator: 33 bytes, the generator of the asset.
        extra: what the proof also commits to; in a transaction the output's script.
    Returns:
        Least and greatest amount, or None when the proof does not hold.
    """
    lib = _library()
    parsed, point = parse_commitment(commitment), parse_generator(generator)
    if parsed is None or point is None:
        return None
    least, greatest = c_uint64(), c_uint64()
    verified = lib.rangeproof_verify(
        *(lib.context, byref(least), byref(greatest), parsed, proof, len(proof)),
        *(extra, len(extra), point),
    )
    return (least.value, greatest.value) if verified else None


class RangeInfo(NamedTuple):
    """What the head of a range proof says; nothing of it is proved.

    `exponent` is -1 for a proof of one exact amount, whose `mantissa_bits` is 0.
    """

    exponent: int
    mantissa_bits: int
    least: int
    greatest: int


def range_proof_info(proof: bytes) -> RangeInfo | None:
    """Read the head of a range proof; None when there is no proper one."""
    lib = _library()
    exponent, mantissa, least, greatest = c_int(), c_int(), c_uint64(), c_uint64()
    read = lib.rangeproof_info(
        *(lib.context, byref(exponent), byref(mantissa), byref(least), byref(greatest)),
        *(proof, len(proof)),
    )
    if not read:
        return None
    return RangeInfo(exponent.value, mantissa.value, least.value, greatest.value)


class Rewound(NamedTuple):
    """What the maker of a range proof told its receiver in it."""

    amount_sats: int
    value_blinder: bytes
    message: bytes


def rewind_range_proof(
    proof: bytes, commitment: bytes, generator: bytes, extra: bytes, nonce: bytes
) -> Rewound | None:
    """Read what a range proof hides for who knows its nonce; None when that fails.

    The proof is verified on the way. Arguments as `verify_range_proof`.
    """
    lib = _library()
    parsed, point = parse_commitment(commitment), parse_generator(generator)
    if parsed is None or point is None or len(nonce) != 32:
        return None
    blinder, message = _buffer(32), _buffer(MAX_REWIND_MESSAGE_BYTES)
    size = c_size_t(MAX_REWIND_MESSAGE_BYTES)
    amount, least, greatest = c_uint64(), c_uint64(), c_uint64()
    found = lib.rangeproof_rewind(
        *(lib.context, blinder, byref(amount), message, byref(size), nonce),
        *(byref(least), byref(greatest), parsed, proof, len(proof)),
        *(extra, len(extra), point),
    )
    return Rewound(amount.value, blinder.raw, message.raw[: size.value]) if found else None


def sign_range_proof(
    amount_sats: int,
    value_blinder: bytes,
    generator: Generator,
    *,
    nonce: bytes,
    message: bytes,
    extra: bytes,
    least: int,
    exponent: int = 0,
    bits: int = 52,
) -> bytes:
    """Prove that `commit(amount, generator, blinder)` is of an amount from `least` upwards.

    Args:
        nonce: 32 bytes the receiver can compute; whoever knows them can read amount and blinder.
        message: for the receiver, as long as the proof has room for it.
        extra: what the proof also commits to.
        bits: least number of bits the range covers.
    Raises:
        InvalidEncoding: there is no such proof.
    """
    lib = _library()
    commitment = commit(amount_sats, generator, value_blinder)
    if commitment is None or len(nonce) != 32:
        raise InvalidEncoding("amount, blinder or nonce out of range")
    out, size = _buffer(MAX_RANGE_PROOF_BYTES), c_size_t(MAX_RANGE_PROOF_BYTES)
    made = lib.rangeproof_sign(
        *(lib.context, out, byref(size), least, commitment, value_blinder, nonce),
        *(exponent, bits, amount_sats, message, len(message), extra, len(extra), generator),
    )
    if not made:
        raise InvalidEncoding("no range proof of these arguments")
    return out.raw[: size.value]


def surjection_target_count(proof: bytes) -> int | None:
    """How many targets a surjection proof is over; None when it does not parse."""
    parsed = _parse_surjection(proof)
    return None if parsed is None else int(parsed.n_inputs)


def _parse_surjection(proof: bytes) -> _SurjectionProof | None:
    lib, parsed = _library(), _SurjectionProof()
    if not lib.surjectionproof_parse(lib.context, byref(parsed), proof, len(proof)):
        return None
    return parsed


def verify_surjection_proof(proof: bytes, targets: Sequence[bytes], generator: bytes) -> bool:
    """Verify that a blinded asset is that of one of the targets.

    Args:
        targets: 33 bytes each, the generators of all inputs and issuances in order.
        generator: 33 bytes, the blinded generator of the output.
    """
    lib, parsed, point = _library(), _parse_surjection(proof), parse_generator(generator)
    if parsed is None or point is None or parsed.n_inputs != len(targets):
        return False
    points = [parse_generator(target) for target in targets]
    known = b"".join(item for item in points if item is not None)
    if len(known) != _POINT_BYTES * len(targets):
        return False
    return bool(lib.surjectionproof_verify(lib.context, byref(parsed), known, len(targets), point))


class BlindedAsset(NamedTuple):
    """An asset id with the blinder of its generator; 32 bytes each."""

    asset_id: bytes
    blinder: bytes


def sign_surjection_proof(
    targets: Sequence[BlindedAsset], output: BlindedAsset, *, seed: bytes, used: int = 3
) -> bytes:
    """Prove that an output's asset is that of one of the targets.

    Args:
        seed: 32 random bytes that choose the targets to be used.
        used: how many, at most.
    Raises:
        InvalidEncoding: no target has the output's asset, or a number is out of range.
    """
    lib, proof, position = _library(), _SurjectionProof(), c_size_t()
    points = [blinded_generator(*target) for target in targets]
    known = b"".join(item for item in points if item is not None)
    point = blinded_generator(*output)
    count = len(targets)
    if len(known) != _POINT_BYTES * count or point is None or len(seed) != 32:
        raise InvalidEncoding("asset, blinder or seed out of range")
    if not 0 < count <= MAX_SURJECTION_TARGETS:
        raise InvalidEncoding("number of surjection targets out of range")
    tags = b"".join(target.asset_id for target in targets)
    chosen = lib.surjectionproof_initialize(
        *(lib.context, byref(proof), byref(position), tags, count, min(used, count)),
        *(output.asset_id, _MAX_SELECTIONS, seed),
    )
    if not chosen:
        raise InvalidEncoding("no surjection target has the asset")
    made = lib.surjectionproof_generate(
        *(lib.context, byref(proof), known, count, point, position.value),
        *(targets[position.value].blinder, output.blinder),
    )
    if not made:
        raise InvalidEncoding("no surjection proof of these arguments")
    out, size = _buffer(ctypes.sizeof(proof)), c_size_t(ctypes.sizeof(proof))
    lib.surjectionproof_serialize(lib.context, out, byref(size), byref(proof))
    return out.raw[: size.value]


def verify_whitelist_proof(
    proof: bytes, online: Sequence[bytes], offline: Sequence[bytes], whitelisted: bytes
) -> bool:
    """Verify that the owner of one pair of keys allows a key (peg-out authorisation).

    Args:
        proof: 1 + 32·(n + 1) bytes.
        online: n compressed keys.
        offline: n compressed keys, in the same order.
        whitelisted: the key that is allowed, compressed or not.
    """
    lib, parsed = _library(), _WhitelistProof()
    first, second = _parse_keys(online), _parse_keys(offline)
    key = _parse_keys([whitelisted])
    if first is None or second is None or key is None or len(online) != len(offline):
        return False
    if not online or not lib.whitelist_signature_parse(
        lib.context, byref(parsed), proof, len(proof)
    ):
        return False
    return bool(lib.whitelist_verify(lib.context, byref(parsed), first, second, len(online), key))


def sign_whitelist_proof(
    online: Sequence[bytes],
    offline: Sequence[bytes],
    whitelisted: bytes,
    *,
    index: int,
    online_secret: bytes,
    summed_secret: bytes,
) -> bytes:
    """Allow a key, as the owner of the pair of keys at `index`.

    Args:
        summed_secret: secret of the sum of the allowed key and the pair's offline key.
    Raises:
        InvalidEncoding: a key, a secret or the position is out of range.
    """
    lib, proof = _library(), _WhitelistProof()
    first, second = _parse_keys(online), _parse_keys(offline)
    key = _parse_keys([whitelisted])
    if first is None or second is None or key is None or len(online) != len(offline):
        raise InvalidEncoding("not a list of pairs of keys")
    if not 0 <= index < len(online) <= MAX_WHITELIST_KEYS:
        raise InvalidEncoding("position outside of the list")
    if len(online_secret) != 32 or len(summed_secret) != 32:
        raise InvalidEncoding("secret is not 32 bytes")
    made = lib.whitelist_sign(
        *(lib.context, byref(proof), first, second, len(online), key),
        *(online_secret, summed_secret, index),
    )
    if not made:
        raise InvalidEncoding("no whitelist proof of these arguments")
    out, size = _buffer(ctypes.sizeof(proof)), c_size_t(ctypes.sizeof(proof))
    lib.whitelist_signature_serialize(lib.context, out, byref(size), byref(proof))
    return out.raw[: size.value]


def _parse_keys(keys: Sequence[bytes]) -> bytes | None:
    """The parsed keys one after the other; None when one does not parse."""
    lib, parsed = _library(), []
    for key in keys:
        out = _buffer(_POINT_BYTES)
        if not lib.ec_pubkey_parse(lib.context, out, key, len(key)):
            return None
        parsed.append(out.raw)
    return b"".join(parsed)
