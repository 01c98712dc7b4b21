"""Opcodes that push constants, branch, or move stack items.

Source: elements/script.md (Bitcoin's opcodes).
"""

from collections.abc import Callable

from sidechain.script import opcodes as op
from sidechain.script.faults import ScriptFault, fail
from sidechain.script.flags import Flags, SigVersion
from sidechain.script.machine import Machine, is_true

Handler = Callable[[Machine], None]


def _constant(item: bytes) -> Handler:
    def run(machine: Machine) -> None:
        machine.stack.append(item)

    return run


def _nop(machine: Machine) -> None:
    del machine


def _upgradable_nop(machine: Machine) -> None:
    if machine.flags & Flags.DISCOURAGE_UPGRADABLE_NOPS:
        fail(ScriptFault.DISCOURAGE_UPGRADABLE_NOPS)


def _if(machine: Machine) -> None:
    _open_branch(machine, inverted=False)


def _notif(machine: Machine) -> None:
    _open_branch(machine, inverted=True)


def _open_branch(machine: Machine, *, inverted: bool) -> None:
    machine.open_ifs += 1
    if machine.skip_from:
        return
    if not machine.stack:
        fail(ScriptFault.UNBALANCED_CONDITIONAL)
    item = machine.stack[-1]
    if item not in (b"", b"\x01"):
        if machine.version is SigVersion.TAPSCRIPT:
            fail(ScriptFault.TAPSCRIPT_MINIMALIF)
        if machine.version is SigVersion.WITNESS_V0 and machine.flags & Flags.MINIMALIF:
            fail(ScriptFault.MINIMALIF)
    machine.stack.pop()
    if is_true(item) == inverted:
        machine.skip_from = machine.open_ifs


def _else(machine: Machine) -> None:
    if not machine.open_ifs:
        fail(ScriptFault.UNBALANCED_CONDITIONAL)
    if not machine.skip_from:
        machine.skip_from = machine.open_ifs
    elif machine.skip_from == machine.open_ifs:
        machine.skip_from = 0


def _endif(machine: Machine) -> None:
    if not machine.open_ifs:
        fail(ScriptFault.UNBALANCED_CONDITIONAL)
    if machine.skip_from == machine.open_ifs:
        machine.skip_from = 0
    machine.open_ifs -= 1


def _verify(machine: Machine) -> None:
    machine.need(1)
    if not is_true(machine.stack[-1]):
        fail(ScriptFault.VERIFY)
    machine.stack.pop()


def _return(machine: Machine) -> None:
    del machine
    fail(ScriptFault.OP_RETURN)


def _to_alt_stack(machine: Machine) -> None:
    machine.need(1)
    machine.alt_stack.append(machine.stack.pop())


def _from_alt_stack(machine: Machine) -> None:
    if not machine.alt_stack:
        fail(ScriptFault.INVALID_ALTSTACK_OPERATION)
    machine.stack.append(machine.alt_stack.pop())


def _drop(machine: Machine) -> None:
    machine.need(1)
    machine.stack.pop()


def _dup(machine: Machine) -> None:
    machine.need(1)
    machine.stack.append(machine.stack[-1])


def _over(machine: Machine) -> None:
    machine.need(2)
    machine.stack.append(machine.stack[-2])


def _swap(machine: Machine) -> None:
    machine.need(2)
    stack = machine.stack
    stack[-1], stack[-2] = stack[-2], stack[-1]


def _rearrange(count: int, result: tuple[int, ...]) -> Handler:
    """Replace the top `count` items by those at the given places, counted from the lowest."""

    def run(machine: Machine) -> None:
        machine.need(count)
        taken = machine.stack[-count:]
        machine.stack[-count:] = [taken[place] for place in result]

    return run


def _ifdup(machine: Machine) -> None:
    machine.need(1)
    if is_true(machine.stack[-1]):
        machine.stack.append(machine.stack[-1])


def _depth(machine: Machine) -> None:
    machine.push_number(len(machine.stack))


def _pick(machine: Machine) -> None:
    place = _pop_place(machine)
    machine.stack.append(machine.stack[place])


def _roll(machine: Machine) -> None:
    place = _pop_place(machine)
    machine.stack.append(machine.stack.pop(place))


def _pop_place(machine: Machine) -> int:
    machine.need(2)
    (depth,) = machine.pop_numbers(1)
    if not 0 <= depth < len(machine.stack):
        fail(ScriptFault.INVALID_STACK_OPERATION)
    return -1 - depth


STACK_HANDLERS: dict[int, Handler] = {
    op.OP_1NEGATE: _constant(b"\x81"),
    **{op.OP_1 + number - 1: _constant(bytes((number,))) for number in range(1, 17)},
    op.OP_NOP: _nop,
    **dict.fromkeys((op.OP_NOP1, *range(op.OP_NOP4, op.OP_NOP10 + 1)), _upgradable_nop),
    op.OP_IF: _if,
    op.OP_NOTIF: _notif,
    op.OP_ELSE: _else,
    op.OP_ENDIF: _endif,
    op.OP_VERIFY: _verify,
    op.OP_RETURN: _return,
    op.OP_TOALTSTACK: _to_alt_stack,
    op.OP_FROMALTSTACK: _from_alt_stack,
    op.OP_2DROP: _rearrange(2, ()),
    op.OP_2DUP: _rearrange(2, (0, 1, 0, 1)),
    op.OP_3DUP: _rearrange(3, (0, 1, 2, 0, 1, 2)),
    op.OP_2OVER: _rearrange(4, (0, 1, 2, 3, 0, 1)),
    op.OP_2ROT: _rearrange(6, (2, 3, 4, 5, 0, 1)),
    op.OP_2SWAP: _rearrange(4, (2, 3, 0, 1)),
    op.OP_IFDUP: _ifdup,
    op.OP_DEPTH: _depth,
    op.OP_DROP: _drop,
    op.OP_DUP: _dup,
    op.OP_NIP: _rearrange(2, (1,)),
    op.OP_OVER: _over,
    op.OP_PICK: _pick,
    op.OP_ROLL: _roll,
    op.OP_ROT: _rearrange(3, (1, 2, 0)),
    op.OP_SWAP: _swap,
    op.OP_TUCK: _rearrange(2, (1, 0, 1)),
}
"""What each of these opcodes does to a machine."""
