"""Tapscript's arithmetic on signed 64-bit integers, and conversions to and from them.

A result that does not fit leaves the operands where they are, with an empty item on top.

Source: elements/script.md 7.3 and 7.4.
"""

from collections.abc import Callable

from sidechain.script import opcodes as op
from sidechain.script.faults import ScriptFault, fail
from sidechain.script.machine import Machine
from sidechain.script.script import encode_number

Handler = Callable[[Machine], None]

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1
_SIZE_BYTES = 8
_NUMBER_BYTES_MAX = 4


def _operands(machine: Machine, count: int) -> list[int]:
    """The top items as integers; they stay on the stack."""
    machine.need(count)
    items = machine.stack[-count:]
    if any(len(item) != _SIZE_BYTES for item in items):
        fail(ScriptFault.EXPECTED_8BYTES)
    return [int.from_bytes(item, "little", signed=True) for item in items]


def _answer(machine: Machine, count: int, *results: int) -> None:
    """Replace `count` operands by the results and true, or add false where one does not fit."""
    if not all(INT64_MIN <= result <= INT64_MAX for result in results):
        machine.push_bool(False)
        return
    machine.stack[-count:] = [le64_signed(result) for result in results]
    machine.push_bool(True)


def le64_signed(number: int) -> bytes:
    """8 bytes little-endian, two's complement."""
    return number.to_bytes(_SIZE_BYTES, "little", signed=True)


def _arithmetic(function: Callable[[int, int], int]) -> Handler:
    def run(machine: Machine) -> None:
        left, right = _operands(machine, 2)
        _answer(machine, 2, function(left, right))

    return run


def _comparison(function: Callable[[int, int], bool]) -> Handler:
    def run(machine: Machine) -> None:
        left, right = _operands(machine, 2)
        del machine.stack[-2:]
        machine.push_bool(function(left, right))

    return run


def _divide(machine: Machine) -> None:
    """Euclidean: the remainder, which is pushed below the quotient, is never negative."""
    dividend, divisor = _operands(machine, 2)
    if divisor == 0:
        machine.push_bool(False)
        return
    remainder = dividend % abs(divisor)
    _answer(machine, 2, remainder, (dividend - remainder) // divisor)


def _negate(machine: Machine) -> None:
    (number,) = _operands(machine, 1)
    _answer(machine, 1, -number)


def _number_to_le64(machine: Machine) -> None:
    (number,) = machine.pop_numbers(1)
    machine.stack.append(le64_signed(number))


def _le64_to_number(machine: Machine) -> None:
    (number,) = _operands(machine, 1)
    encoded = encode_number(number)
    if len(encoded) > _NUMBER_BYTES_MAX:
        fail(ScriptFault.ARITHMETIC64)
    machine.stack[-1] = encoded


def _le32_to_le64(machine: Machine) -> None:
    machine.need(1)
    if len(machine.stack[-1]) != 4:
        fail(ScriptFault.ARITHMETIC64)
    machine.stack[-1] += bytes(4)


INTEGER64_HANDLERS: dict[int, Handler] = {
    op.OP_ADD64: _arithmetic(int.__add__),
    op.OP_SUB64: _arithmetic(int.__sub__),
    op.OP_MUL64: _arithmetic(int.__mul__),
    op.OP_DIV64: _divide,
    op.OP_NEG64: _negate,
    op.OP_LESSTHAN64: _comparison(int.__lt__),
    op.OP_LESSTHANOREQUAL64: _comparison(int.__le__),
    op.OP_GREATERTHAN64: _comparison(int.__gt__),
    op.OP_GREATERTHANOREQUAL64: _comparison(int.__ge__),
    op.OP_SCRIPTNUMTOLE64: _number_to_le64,
    op.OP_LE64TOSCRIPTNUM: _le64_to_number,
    op.OP_LE32TOLE64: _le32_to_le64,
}
"""What each of these opcodes does to a machine that runs a tapscript."""
