"""Scripts as bytes: reading opcodes, writing pushes and numbers, templates, sigop counting.

Functions here never execute anything. A script that breaks off inside a push is not an error to
them: reading stops there, as it does in Elements; callers that care ask `is_push_only` or run it.

Source: elements/script.md 5 and 9, elements/transactions.md 2.7.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from sidechain.crypto.hashes import hash160, sha256
from sidechain.errors import InvalidEncoding
from sidechain.script.faults import ScriptFault, fail
from sidechain.script.opcodes import (
    OP_0,
    OP_1,
    OP_1NEGATE,
    OP_16,
    OP_CHECKMULTISIG,
    OP_CHECKMULTISIGVERIFY,
    OP_CHECKSIG,
    OP_CHECKSIGFROMSTACK,
    OP_CHECKSIGFROMSTACKVERIFY,
    OP_CHECKSIGVERIFY,
    OP_DUP,
    OP_EQUAL,
    OP_EQUALVERIFY,
    OP_HASH160,
    OP_PUSHDATA1,
    OP_PUSHDATA2,
    OP_PUSHDATA4,
    OP_RETURN,
    SUCCESS_OPCODES,
)

MAX_SCRIPT_SIZE_BYTES = 10_000
MAX_ELEMENT_SIZE_BYTES = 520
MAX_MULTISIG_KEYS = 20
MAX_STANDARD_MULTISIG_KEYS = 3

PUSH_SIZE_WIDTHS = {OP_PUSHDATA1: 1, OP_PUSHDATA2: 2, OP_PUSHDATA4: 4}
"""How many bytes of length follow these opcodes."""


class Op(NamedTuple):
    """One opcode of a script: its number, the data it pushes (None when it is no push of bytes),
    and the position after it."""

    opcode: int
    data: bytes | None
    end: int


class ScriptKind(StrEnum):
    """Output templates, under the names Elements' RPC gives them."""

    PUBKEY = "pubkey"
    PUBKEYHASH = "pubkeyhash"
    SCRIPTHASH = "scripthash"
    MULTISIG = "multisig"
    NULL_DATA = "nulldata"
    WITNESS_V0_KEYHASH = "witness_v0_keyhash"
    WITNESS_V0_SCRIPTHASH = "witness_v0_scripthash"
    WITNESS_V1_TAPROOT = "witness_v1_taproot"
    ANCHOR = "anchor"
    WITNESS_UNKNOWN = "witness_unknown"
    TRUE = "true"
    FEE = "fee"
    NONSTANDARD = "nonstandard"


def read_op(script: bytes, pos: int) -> Op | None:
    """The opcode at `pos`, or None at the end and where a push is cut off."""
    if pos >= len(script):
        return None
    opcode = script[pos]
    pos += 1
    if opcode > OP_PUSHDATA4:
        return Op(opcode, None, pos)
    size = opcode
    width = PUSH_SIZE_WIDTHS.get(opcode, 0)
    if width:
        if pos + width > len(script):
            return None
        size = int.from_bytes(script[pos : pos + width], "little")
        pos += width
    if pos + size > len(script):
        return None
    return Op(opcode, script[pos : pos + size], pos + size)


def iter_ops(script: bytes) -> Iterator[Op]:
    """All opcodes in order; stops silently before a push that is cut off."""
    op = read_op(script, 0)
    while op is not None:
        yield op
        op = read_op(script, op.end)


def contains_success(script: bytes) -> bool:
    """Whether a tapscript has an OP_SUCCESS.

    Raises:
        ScriptError: BAD_OPCODE where a push breaks off before there was one.
    """
    position, size = 0, len(script)
    while position < size:
        opcode = script[position]
        if opcode <= OP_PUSHDATA4:
            op = read_op(script, position)
            if op is None:
                fail(ScriptFault.BAD_OPCODE)
            position = op.end
            continue
        if opcode in SUCCESS_OPCODES:
            return True
        position += 1
    return False


def push(data: bytes) -> bytes:
    """A push of `data` with the shortest length opcode; never turned into OP_1 to OP_16."""
    size = len(data)
    if size < OP_PUSHDATA1:
        return bytes((size,)) + data
    if size <= 0xFF:
        return bytes((OP_PUSHDATA1, size)) + data
    if size <= 0xFFFF:
        return bytes((OP_PUSHDATA2,)) + size.to_bytes(2, "little") + data
    return bytes((OP_PUSHDATA4,)) + size.to_bytes(4, "little") + data


def push_number(number: int) -> bytes:
    """The shortest push of a script number: one opcode for -1 and 0 to 16."""
    if number == 0:
        return bytes((OP_0,))
    if number == -1 or 1 <= number <= 16:
        return bytes((OP_1 + number - 1,))
    return push(encode_number(number))


def encode_number(number: int) -> bytes:
    """Script number: little-endian magnitude with a sign bit, empty for zero."""
    if number == 0:
        return b""
    magnitude = abs(number)
    size = (magnitude.bit_length() + 8) // 8
    if number < 0:
        magnitude |= 0x80 << (8 * (size - 1))
    return magnitude.to_bytes(size, "little")


def decode_number(data: bytes, *, minimal: bool, size_max_bytes: int = 4) -> int:
    """Read a script number.

    Raises:
        InvalidEncoding: too long, or not the shortest form while `minimal`.
    """
    if len(data) > size_max_bytes:
        raise InvalidEncoding("script number overflow")
    if not data:
        return 0
    if minimal and data[-1] & 0x7F == 0 and (len(data) == 1 or not data[-2] & 0x80):
        raise InvalidEncoding("non-minimally encoded script number")
    number = int.from_bytes(data, "little")
    sign = 0x80 << (8 * (len(data) - 1))
    return -(number ^ sign) if number & sign else number


def is_minimal_push(data: bytes, opcode: int) -> bool:
    """Whether `opcode` is the shortest way to push `data`."""
    size = len(data)
    if size == 0:
        return opcode == OP_0
    if size == 1 and 1 <= data[0] <= 16:
        return opcode == OP_1 + data[0] - 1
    if size == 1 and data[0] == 0x81:
        return opcode == OP_1NEGATE
    if size <= 75:
        return opcode == size
    if size <= 0xFF:
        return opcode == OP_PUSHDATA1
    return opcode == OP_PUSHDATA2 if size <= 0xFFFF else opcode == OP_PUSHDATA4


def is_push_only(script: bytes) -> bool:
    """Whether the script consists of complete pushes (OP_1 to OP_16 and OP_RESERVED included)."""
    pos = 0
    while pos < len(script):
        op = read_op(script, pos)
        if op is None or op.opcode > OP_16:
            return False
        pos = op.end
    return True


def find_and_delete(script: bytes, pattern: bytes) -> tuple[bytes, int]:
    """Remove `pattern` wherever it starts at an opcode boundary; also how often that was.

    After a removal the search goes on at the same place, without reading an opcode in between.
    """
    if not pattern or pattern not in script:
        return script, 0
    kept: list[bytes] = []
    found = pos = keep_from = 0
    while True:
        kept.append(script[keep_from:pos])
        while script.startswith(pattern, pos):
            pos += len(pattern)
            found += 1
        keep_from = pos
        op = read_op(script, pos)
        if op is None:
            break
        pos = op.end
    kept.append(script[keep_from:])
    return (b"".join(kept) if found else script), found


def p2pkh(pubkey: bytes) -> bytes:
    """Pay to the hash of a public key."""
    return p2pkh_of_hash(hash160(pubkey))


def p2pkh_of_hash(key_hash: bytes) -> bytes:
    """The P2PKH script of a 20-byte key hash; also the script code of P2WPKH."""
    prefix = bytes((OP_DUP, OP_HASH160, 20))
    return prefix + key_hash + bytes((OP_EQUALVERIFY, OP_CHECKSIG))


def p2sh(redeem_script: bytes) -> bytes:
    """Pay to the hash of a script (BIP16)."""
    return bytes((OP_HASH160, 20)) + hash160(redeem_script) + bytes((OP_EQUAL,))


def p2wpkh(pubkey: bytes) -> bytes:
    """Pay to the witness hash of a compressed public key."""
    return bytes((OP_0, 20)) + hash160(pubkey)


def p2wsh(witness_script: bytes) -> bytes:
    """Pay to the witness hash of a script."""
    return bytes((OP_0, 32)) + sha256(witness_script)


def multisig_script(threshold: int, pubkeys: Sequence[bytes]) -> bytes:
    """`threshold <keys> n OP_CHECKMULTISIG`, keys in the given order.

    Raises:
        InvalidEncoding: the threshold does not fit the keys, or there are more than 20.
    """
    if not 1 <= threshold <= len(pubkeys) <= MAX_MULTISIG_KEYS:
        raise InvalidEncoding("multisig threshold does not fit the keys")
    body = b"".join(push(key) for key in pubkeys)
    tail = push_number(len(pubkeys)) + bytes((OP_CHECKMULTISIG,))
    return push_number(threshold) + body + tail


def parse_multisig(script: bytes) -> tuple[int, tuple[bytes, ...]] | None:
    """Threshold and keys of a bare multisig script with up to 20 keys, or None.

    Keys have a plausible size; whether they are points is not looked at. Numbers above 16, which
    have no opcode, are the shortest pushes.
    """
    if len(script) < 3 or script[-1] != OP_CHECKMULTISIG:
        return None
    ops = list(iter_ops(script))
    if len(ops) < 4 or ops[-1].end != len(script) or ops[-1].opcode != OP_CHECKMULTISIG:
        return None
    threshold, count = _small_number(ops[0]), _small_number(ops[-2])
    keys = tuple(op.data for op in ops[1:-2] if op.data is not None and is_key_sized(op.data))
    if not 1 <= threshold <= count <= MAX_MULTISIG_KEYS:
        return None
    return (threshold, keys) if len(keys) == count == len(ops) - 3 else None


def _small_number(op: Op) -> int:
    """The number of 1 to 20 that an opcode pushes in its shortest form, else 0."""
    if op.data is None:
        return op.opcode - OP_1 + 1 if OP_1 <= op.opcode <= OP_16 else 0
    above = op.opcode == len(op.data) == 1 and 16 < op.data[0] <= MAX_MULTISIG_KEYS
    return op.data[0] if above else 0


def is_key_sized(data: bytes) -> bool:
    """Whether the length of `data` is what its first byte says a public key has."""
    if not data:
        return False
    return len(data) == 33 if data[0] in (2, 3) else len(data) == 65 and data[0] in (4, 6, 7)


def is_p2sh(script: bytes) -> bool:
    """Whether this is exactly the BIP16 template."""
    return (
        len(script) == 23 and script[0] == OP_HASH160 and script[1] == 20 and script[22] == OP_EQUAL
    )


def is_p2pkh(script: bytes) -> bool:
    """Whether this is exactly the P2PKH template."""
    return len(script) == 25 and script[:3] == b"\x76\xa9\x14" and script[23:] == b"\x88\xac"


def is_p2wpkh(script: bytes) -> bool:
    """Whether this is a version 0 witness program of 20 bytes."""
    return len(script) == 22 and script[:2] == b"\x00\x14"


def is_p2wsh(script: bytes) -> bool:
    """Whether this is a version 0 witness program of 32 bytes."""
    return len(script) == 34 and script[:2] == b"\x00\x20"


def is_p2tr(script: bytes) -> bool:
    """Whether this is a version 1 witness program of 32 bytes."""
    return len(script) == 34 and script[:2] == b"\x51\x20"


def p2tr(output_key: bytes) -> bytes:
    """Pay to a taproot output key (32 bytes)."""
    return bytes((OP_1, 32)) + output_key


def witness_program(script: bytes) -> tuple[int, bytes] | None:
    """Version (0 to 16) and program (2 to 40 bytes) of a witness program, or None."""
    if not 4 <= len(script) <= 42 or script[1] + 2 != len(script):
        return None
    version = script[0]
    if version == OP_0:
        return 0, script[2:]
    return (version - OP_1 + 1, script[2:]) if OP_1 <= version <= OP_16 else None


def classify(script: bytes) -> ScriptKind:
    """Which template an output script follows. An empty script is `FEE`."""
    if is_p2wpkh(script):
        return ScriptKind.WITNESS_V0_KEYHASH
    if not script:
        return ScriptKind.FEE
    program = witness_program(script)
    if program is not None:
        return _classify_witness(*program)
    if is_p2sh(script):
        return ScriptKind.SCRIPTHASH
    if is_p2pkh(script):
        return ScriptKind.PUBKEYHASH
    if script[0] == OP_RETURN and is_push_only(script[1:]):
        return ScriptKind.NULL_DATA
    if script == bytes((OP_1,)):
        return ScriptKind.TRUE
    if len(script) in (35, 67) and script[-1] == OP_CHECKSIG and script[0] == len(script) - 2:
        return ScriptKind.PUBKEY if is_key_sized(script[1:-1]) else ScriptKind.NONSTANDARD
    return ScriptKind.MULTISIG if parse_multisig(script) else ScriptKind.NONSTANDARD


def _classify_witness(version: int, program: bytes) -> ScriptKind:
    if version == 0:
        sizes = {20: ScriptKind.WITNESS_V0_KEYHASH, 32: ScriptKind.WITNESS_V0_SCRIPTHASH}
        return sizes.get(len(program), ScriptKind.NONSTANDARD)
    if version == 1 and len(program) == 32:
        return ScriptKind.WITNESS_V1_TAPROOT
    if version == 1 and program == b"\x4e\x73":
        return ScriptKind.ANCHOR
    return ScriptKind.WITNESS_UNKNOWN


def count_sigops(script: bytes, *, accurate: bool) -> int:
    """Signature operations of a script.

    Args:
        accurate: count a multisig by the number of keys written before it, else as 20.
    Source: elements/script.md 9.
    """
    if not script or script[0] == OP_0 and script[1:2] == _PROGRAM_SIZES.get(len(script)):
        # Nothing, or the two pushes of a segwit v0 output: most scripts there are.
        return 0
    total = 0
    previous = -1
    for op in iter_ops(script):
        if op.opcode in _SINGLE_SIGOPS:
            total += 1
        elif op.opcode in (OP_CHECKMULTISIG, OP_CHECKMULTISIGVERIFY):
            known = accurate and OP_1 <= previous <= OP_16
            total += previous - OP_1 + 1 if known else MAX_MULTISIG_KEYS
        previous = op.opcode
    return total


_PROGRAM_SIZES = {22: b"\x14", 34: b"\x20"}

_SINGLE_SIGOPS = frozenset(
    (OP_CHECKSIG, OP_CHECKSIGVERIFY, OP_CHECKSIGFROMSTACK, OP_CHECKSIGFROMSTACKVERIFY)
)


def last_push(script: bytes) -> bytes | None:
    """Data of the last opcode of a push-only script (the redeem script of P2SH), else None.

    OP_1 to OP_16 and OP_1NEGATE count as an empty push here, as in sigop counting.
    """
    if not is_push_only(script):
        return None
    data: bytes | None = None
    for op in iter_ops(script):
        data = op.data or b""
    return data


def p2sh_sigops(script_sig: bytes, script_pubkey: bytes) -> int:
    """Accurate sigops of the redeem script an input reveals; 0 when the output is not P2SH."""
    redeem = last_push(script_sig) if is_p2sh(script_pubkey) else None
    return count_sigops(redeem, accurate=True) if redeem else 0


def witness_sigops(script_sig: bytes, script_pubkey: bytes, witness: Sequence[bytes]) -> int:
    """Sigops of a native or nested segwit v0 spend, 0 for any other."""
    program = witness_program(script_pubkey)
    if program is None and is_p2sh(script_pubkey):
        program = witness_program(last_push(script_sig) or b"")
    if program is None or program[0] != 0:
        return 0
    if len(program[1]) == 20:
        return 1
    return count_sigops(witness[-1], accurate=True) if len(program[1]) == 32 and witness else 0
