"""Scripts as the RPC interface shows them: opcode text, descriptor, type, address.

Source: elements/interfaces.md 3, elements/peg.md 8.
"""

from collections.abc import Sequence
from typing import Any

from sidechain.crypto.keys import is_public_key
from sidechain.errors import InvalidEncoding
from sidechain.params import ChainParams
from sidechain.primitives.address import AddressPrefixes, encode_address
from sidechain.script.opcodes import OP_0, OP_1, OP_1NEGATE, OP_16, OP_RETURN, opcode_name
from sidechain.script.script import (
    ScriptKind,
    classify,
    decode_number,
    iter_ops,
    parse_multisig,
    witness_program,
)
from sidechain.validation.pegouts import parse_pegout

_INVALID_OPCODE = 0xFF
HASH_TYPE_NAMES = {
    0x01: "ALL",
    0x02: "NONE",
    0x03: "SINGLE",
    0x81: "ALL|ANYONECANPAY",
    0x82: "NONE|ANYONECANPAY",
    0x83: "SINGLE|ANYONECANPAY",
}
_INPUT_CHARSET = (
    "0123456789()[],'/*abcdefgh@:$%{}IJKLMNOPQRSTUVWXYZ&+-.;<=>?!^_|~ijklmnopqrstuvwxyzABCDEFGH"
    '`#"\\ '
)
_CHECKSUM_CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0xF5DEE51989, 0xA9FDCA3312, 0x1BAB10E32D, 0x3706B1677A, 0x644D626FFD)


def script_json(script: bytes, params: ChainParams) -> dict[str, Any]:
    """The `scriptPubKey` object of an output, peg-out fields included."""
    shown = _basic(script, params)
    pegout = parse_pegout(script)
    if pegout is not None and pegout[0] == params.parent_genesis_hash and params.has_parent_chain:
        shown["pegout_chain"] = pegout[0][::-1].hex()
        destination = _basic(pegout[1], params)
        for key in ("asm", "desc", "hex"):
            shown[f"pegout_{key}"] = destination[key]
        address = script_address(pegout[1], params.parent_prefixes)
        if address is not None:
            shown["pegout_address"] = address
        shown["pegout_type"] = destination["type"]
    return shown


def _basic(script: bytes, params: ChainParams) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "asm": script_asm(script),
        "desc": descriptor(script, params.prefixes),
        "hex": script.hex(),
    }
    address = script_address(script, params.prefixes)
    if address is not None:
        shown["address"] = address
    shown["type"] = script_type(script, params)
    return shown


def script_type(script: bytes, params: ChainParams) -> str:
    """The name of a script's template; OP_TRUE has one only where it is standard."""
    kind = classify(script)
    if kind is ScriptKind.TRUE and not params.anyone_can_spend_standard:
        kind = ScriptKind.NONSTANDARD
    return kind.value


def script_address(script: bytes, prefixes: AddressPrefixes) -> str | None:
    """The address of a script, or None where it has none (bare keys, data, fees)."""
    if not script:
        return None
    try:
        return encode_address(script, prefixes)
    except InvalidEncoding:
        return None


def script_asm(script: bytes, *, signatures: bool = False) -> str:
    """Opcodes as words; pushes of up to four bytes as numbers, longer ones as hex.

    Args:
        signatures: show the hash type of what looks like a signature by name.
    """
    words: list[str] = []
    end = 0
    for op in iter_ops(script):
        end = op.end
        if op.data is None:
            words.append(_opcode_word(op.opcode))
        elif len(op.data) <= 4:
            words.append(str(decode_number(op.data, minimal=False)))
        else:
            plain = not signatures or script[:1] == bytes((OP_RETURN,))
            words.append(op.data.hex() if plain else _signature_word(op.data))
    if end != len(script):
        words.append("[error]")
    return " ".join(words)


def _opcode_word(opcode: int) -> str:
    if opcode == OP_0:
        return "0"
    if opcode == OP_1NEGATE:
        return "-1"
    if OP_1 <= opcode <= OP_16:
        return str(opcode - OP_1 + 1)
    return "OP_INVALIDOPCODE" if opcode == _INVALID_OPCODE else opcode_name(opcode)


def _signature_word(data: bytes) -> str:
    name = HASH_TYPE_NAMES.get(data[-1])
    if name is None or not _is_der_shaped(data[:-1]):
        return data.hex()
    return f"{data[:-1].hex()}[{name}]"


def _is_der_shaped(der: bytes) -> bool:
    """Whether the bytes are two strict DER integers in a sequence."""
    if not 8 <= len(der) <= 72 or der[0] != 0x30 or der[1] != len(der) - 2:
        return False
    pos = 2
    for _ in range(2):
        if pos + 2 > len(der) or der[pos] != 0x02:
            return False
        size = der[pos + 1]
        number = der[pos + 2 : pos + 2 + size]
        if not size or len(number) != size or number[0] & 0x80:
            return False
        if size > 1 and number[0] == 0 and not number[1] & 0x80:
            return False
        pos += 2 + size
    return pos == len(der)


def descriptor(script: bytes, prefixes: AddressPrefixes) -> str:
    """Output descriptor of a script about which nothing else is known, with its checksum."""
    return add_checksum(_descriptor_body(script, prefixes))


def _descriptor_body(script: bytes, prefixes: AddressPrefixes) -> str:
    kind = classify(script)
    if kind is ScriptKind.PUBKEY and _is_plain_key(script[1:-1]):
        return f"pk({script[1:-1].hex()})"
    multisig = parse_multisig(script) if kind is ScriptKind.MULTISIG else None
    if multisig is not None and all(map(_is_plain_key, multisig[1])):
        return _multi_body(*multisig)
    program = witness_program(script)
    # Only a taproot program that is the x coordinate of a point has this form.
    taproot = program[1] if program and kind is ScriptKind.WITNESS_V1_TAPROOT else b""
    if taproot and is_public_key(b"\x02" + taproot):
        return f"rawtr({taproot.hex()})"
    address = script_address(script, prefixes)
    return f"raw({script.hex()})" if address is None else f"addr({address})"


def wrapped_descriptor(script: bytes) -> str | None:
    """Descriptor of the P2WSH output of a script, or None for a form that has none."""
    multisig = parse_multisig(script) if classify(script) is ScriptKind.MULTISIG else None
    if multisig is None or any(len(key) != 33 for key in multisig[1]):
        return None
    return add_checksum(f"wsh({_multi_body(*multisig)})")


def _multi_body(threshold: int, pubkeys: Sequence[bytes]) -> str:
    return f"multi({threshold},{','.join(key.hex() for key in pubkeys)})"


def _is_plain_key(pubkey: bytes) -> bool:
    """Whether a key has the form of one, not the hybrid one; a point it need not be."""
    return (len(pubkey) == 33 and pubkey[0] in (2, 3)) or (len(pubkey) == 65 and pubkey[0] == 4)


def add_checksum(body: str) -> str:
    """A descriptor with `#` and its eight-character checksum (BIP380).

    Raises:
        InvalidEncoding: a character that descriptors do not have.
    """
    symbols: list[int] = []
    groups: list[int] = []
    for character in body:
        value = _INPUT_CHARSET.find(character)
        if value < 0:
            raise InvalidEncoding("character outside the descriptor alphabet")
        symbols.append(value & 31)
        groups.append(value >> 5)
        if len(groups) == 3:
            symbols.append(groups[0] * 9 + groups[1] * 3 + groups[2])
            groups = []
    if len(groups) == 1:
        symbols.append(groups[0])
    elif len(groups) == 2:
        symbols.append(groups[0] * 3 + groups[1])
    check = 1
    for symbol in [*symbols, *([0] * 8)]:
        top = check >> 35
        check = (check & 0x7FFFFFFFF) << 5 ^ symbol
        for bit, constant in enumerate(_GENERATOR):
            if top >> bit & 1:
                check ^= constant
    check ^= 1
    return body + "#" + "".join(_CHECKSUM_CHARSET[check >> 5 * (7 - i) & 31] for i in range(8))
