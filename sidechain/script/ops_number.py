"""Opcodes on script numbers.

Source: elements/script.md (Bitcoin's opcodes) and 6 (DETERMINISTICRANDOM).
"""

from collections.abc import Callable

from sidechain.crypto.hashes import sha256
from sidechain.primitives.encoding import le64
from sidechain.script import opcodes as op
from sidechain.script.faults import ScriptFault, fail
from sidechain.script.machine import Machine

Handler = Callable[[Machine], None]

_RANDOM_WORD_MAX = 2**64 - 1
_RANDOM_RANGE_MAX = 2**31 - 1


def _unary(function: Callable[[int], int]) -> Handler:
    def run(machine: Machine) -> None:
        (number,) = machine.pop_numbers(1)
        machine.push_number(function(number))

    return run


def _binary(function: Callable[[int, int], int]) -> Handler:
    def run(machine: Machine) -> None:
        left, right = machine.pop_numbers(2)
        machine.push_number(function(left, right))

    return run


def _within(machine: Machine) -> None:
    number, least, limit = machine.pop_numbers(3)
    machine.push_bool(least <= number < limit)


def _num_equal_verify(machine: Machine) -> None:
    left, right = machine.pop_numbers(2)
    if left != right:
        fail(ScriptFault.NUMEQUALVERIFY)


def _deterministic_random(machine: Machine) -> None:
    machine.need(3)
    seed = machine.stack[-3]
    least, limit = machine.pop_numbers(2)
    if least > limit:
        fail(ScriptFault.UNKNOWN_ERROR)
    machine.stack.pop()
    machine.push_number(deterministic_random(seed, least, limit))


def deterministic_random(seed: bytes, least: int, limit: int) -> int:
    """A number drawn from a seed: at least `least` and below `limit`, `least` if they are equal.

    Source: elements/script.md 6.
    """
    if least == limit:
        return least
    span = min(limit - least, _RANDOM_RANGE_MAX)
    word_max = _RANDOM_WORD_MAX // span * span
    counter = 0
    while True:
        digest = sha256(seed + le64(counter))
        for start in (0, 8, 16):
            word = int.from_bytes(digest[start : start + 8], "little")
            if word <= word_max:
                return word % span + least
        counter += 1


NUMBER_HANDLERS: dict[int, Handler] = {
    op.OP_1ADD: _unary(lambda a: a + 1),
    op.OP_1SUB: _unary(lambda a: a - 1),
    op.OP_NEGATE: _unary(lambda a: -a),
    op.OP_ABS: _unary(abs),
    op.OP_NOT: _unary(lambda a: a == 0),
    op.OP_0NOTEQUAL: _unary(lambda a: a != 0),
    op.OP_ADD: _binary(lambda a, b: a + b),
    op.OP_SUB: _binary(lambda a, b: a - b),
    op.OP_BOOLAND: _binary(lambda a, b: a != 0 and b != 0),
    op.OP_BOOLOR: _binary(lambda a, b: a != 0 or b != 0),
    op.OP_NUMEQUAL: _binary(lambda a, b: a == b),
    op.OP_NUMEQUALVERIFY: _num_equal_verify,
    op.OP_NUMNOTEQUAL: _binary(lambda a, b: a != b),
    op.OP_LESSTHAN: _binary(lambda a, b: a < b),
    op.OP_GREATERTHAN: _binary(lambda a, b: a > b),
    op.OP_LESSTHANOREQUAL: _binary(lambda a, b: a <= b),
    op.OP_GREATERTHANOREQUAL: _binary(lambda a, b: a >= b),
    op.OP_MIN: _binary(min),
    op.OP_MAX: _binary(max),
    op.OP_WITHIN: _within,
    op.OP_DETERMINISTICRANDOM: _deterministic_random,
}
"""What each of these opcodes does to a machine."""
