"""Opcodes on byte strings: splicing, bitwise logic and shifts that Elements enables.

Source: elements/script.md 6.
"""

from collections.abc import Callable

from sidechain.script import opcodes as op
from sidechain.script.faults import ScriptFault, fail
from sidechain.script.machine import Machine
from sidechain.script.script import MAX_ELEMENT_SIZE_BYTES

Handler = Callable[[Machine], None]


def _cat(machine: Machine) -> None:
    machine.need(2)
    joined = machine.stack[-2] + machine.stack[-1]
    if len(joined) > MAX_ELEMENT_SIZE_BYTES:
        fail(ScriptFault.INVALID_STACK_OPERATION)
    machine.stack[-2:] = [joined]


def _substr(machine: Machine) -> None:
    machine.need(3)
    start, size = machine.pop_numbers(2)
    item = machine.stack[-1]
    if start < 0 or size < 0 or start >= len(item) or start + size > len(item):
        fail(ScriptFault.INVALID_STACK_OPERATION)
    machine.stack[-1] = item[start : start + size]


def _substr_lazy(machine: Machine) -> None:
    machine.need(3)
    start, size = (max(number, 0) for number in machine.pop_numbers(2))
    machine.stack[-1] = machine.stack[-1][start : start + size]


def _left(machine: Machine) -> None:
    offset = _pop_offset(machine)
    machine.stack[-1] = machine.stack[-1][:offset]


def _right(machine: Machine) -> None:
    # The number is an offset from the front, not a count from the back.
    offset = _pop_offset(machine)
    machine.stack[-1] = machine.stack[-1][offset:]


def _pop_offset(machine: Machine) -> int:
    machine.need(2)
    (offset,) = machine.pop_numbers(1)
    if offset < 0:
        fail(ScriptFault.UNKNOWN_ERROR)
    return offset


def _size(machine: Machine) -> None:
    machine.need(1)
    machine.push_number(len(machine.stack[-1]))


def _invert(machine: Machine) -> None:
    machine.need(1)
    machine.stack[-1] = bytes(byte ^ 0xFF for byte in machine.stack[-1])


def _bitwise(function: Callable[[int, int], int]) -> Handler:
    def run(machine: Machine) -> None:
        machine.need(2)
        left, right = machine.stack[-2:]
        if len(left) != len(right):
            fail(ScriptFault.INVALID_STACK_OPERATION)
        machine.stack[-2:] = [bytes(map(function, left, right))]

    return run


def _lshift(machine: Machine) -> None:
    machine.need(2)
    (distance,) = machine.pop_numbers(1)
    item = machine.stack[-1]
    if distance < 0 or len(item) + (distance + 7) // 8 > MAX_ELEMENT_SIZE_BYTES:
        fail(ScriptFault.INVALID_STACK_OPERATION)
    machine.stack[-1] = _magnitude(int.from_bytes(item, "little") << distance)


def _rshift(machine: Machine) -> None:
    machine.need(2)
    (distance,) = machine.pop_numbers(1)
    if distance < 0:
        fail(ScriptFault.UNKNOWN_ERROR)
    item = machine.stack[-1]
    # Compared first: the distance may be two thousand million bits.
    gone = distance // 8 >= len(item)
    machine.stack[-1] = b"" if gone else _magnitude(int.from_bytes(item, "little") >> distance)


def _magnitude(number: int) -> bytes:
    """Little-endian without leading zeros and without a sign bit."""
    return number.to_bytes((number.bit_length() + 7) // 8, "little")


def _equal(machine: Machine) -> None:
    machine.need(2)
    left, right = machine.stack[-2:]
    del machine.stack[-2:]
    machine.push_bool(left == right)


def _equal_verify(machine: Machine) -> None:
    _equal(machine)
    if not machine.stack[-1]:
        fail(ScriptFault.EQUALVERIFY)
    machine.stack.pop()


BYTES_HANDLERS: dict[int, Handler] = {
    op.OP_CAT: _cat,
    op.OP_SUBSTR: _substr,
    op.OP_SUBSTR_LAZY: _substr_lazy,
    op.OP_LEFT: _left,
    op.OP_RIGHT: _right,
    op.OP_SIZE: _size,
    op.OP_INVERT: _invert,
    op.OP_AND: _bitwise(int.__and__),
    op.OP_OR: _bitwise(int.__or__),
    op.OP_XOR: _bitwise(int.__xor__),
    op.OP_LSHIFT: _lshift,
    op.OP_RSHIFT: _rshift,
    op.OP_EQUAL: _equal,
    op.OP_EQUALVERIFY: _equal_verify,
}
"""What each of these opcodes does to a machine."""
