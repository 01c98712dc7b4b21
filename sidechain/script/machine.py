"""The stack machine: one run of one script, limits included.

What each opcode does is in `ops_stack`, `ops_number`, `ops_bytes` and `ops_crypto`, as functions
of the machine. Legacy and segwit v0 scripts run here; tapscript does not.

Source: elements/script.md 5.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from sidechain.errors import InvalidEncoding
from sidechain.script.faults import ScriptFault, fail
from sidechain.script.flags import Flags, SigVersion
from sidechain.script.opcodes import (
    DISABLED_OPCODES,
    OP_16,
    OP_CODESEPARATOR,
    OP_ENDIF,
    OP_IF,
)
from sidechain.script.script import (
    MAX_ELEMENT_SIZE_BYTES,
    MAX_SCRIPT_SIZE_BYTES,
    decode_number,
    encode_number,
    is_minimal_push,
    read_op,
)

MAX_OPS = 201
MAX_STACK_ITEMS = 1000


class SignatureChecker(Protocol):
    """What a script may ask about the thing that is signed."""

    def check_signature(
        self, signature: bytes, pubkey: bytes, script_code: bytes, version: SigVersion
    ) -> bool:
        """Whether `signature`, hash type byte included, is by `pubkey`. Never raises."""
        ...

    def check_locktime(self, locktime: int) -> bool:
        """Whether the transaction's locktime is at least `locktime`, in the same unit."""
        ...

    def check_sequence(self, sequence: int) -> bool:
        """Whether the input's relative lock is at least `sequence`, in the same unit."""
        ...


class Machine:
    """State of one run.

    Attributes:
        stack: bottom first.
        conditions: one entry per open IF, true where its taken branch is being read.
        code_start: position after the last executed OP_CODESEPARATOR.
        op_count: executed or skipped opcodes above OP_16, plus keys of multisigs.
    """

    __slots__ = (
        "alt_stack",
        "checker",
        "code_start",
        "conditions",
        "flags",
        "minimal",
        "op_count",
        "position",
        "script",
        "stack",
        "version",
    )

    def __init__(
        self,
        stack: list[bytes],
        script: bytes,
        flags: Flags,
        checker: SignatureChecker,
        version: SigVersion,
    ) -> None:
        self.stack = stack
        self.alt_stack: list[bytes] = []
        self.conditions: list[bool] = []
        self.script = script
        self.flags = flags
        self.minimal = bool(flags & Flags.MINIMALDATA)
        self.checker = checker
        self.version = version
        self.code_start = 0
        self.position = 0
        self.op_count = 0

    def need(self, count: int) -> None:
        """Fail unless the stack has `count` items."""
        if len(self.stack) < count:
            fail(ScriptFault.INVALID_STACK_OPERATION)

    def pop_numbers(self, count: int) -> list[int]:
        """Read the top `count` items as script numbers of up to 4 bytes and remove them."""
        self.need(count)
        numbers = [self.number(item) for item in self.stack[-count:]]
        del self.stack[-count:]
        return numbers

    def number(self, item: bytes, size_max_bytes: int = 4) -> int:
        """An item as script number; minimal form where the flags ask for it."""
        try:
            return decode_number(item, minimal=self.minimal, size_max_bytes=size_max_bytes)
        except InvalidEncoding:
            fail(ScriptFault.UNKNOWN_ERROR)

    def push_number(self, number: int) -> None:
        """Push a script number."""
        self.stack.append(encode_number(number))

    def push_bool(self, value: bool) -> None:
        """Push 01 or the empty item."""
        self.stack.append(b"\x01" if value else b"")

    def count_ops(self, count: int) -> None:
        """Add to the operation count and check its limit."""
        self.op_count += count
        if self.op_count > MAX_OPS:
            fail(ScriptFault.OP_COUNT)

    def run(self, handlers: Mapping[int, Callable[["Machine"], None]]) -> None:
        """Run the script to its end, leaving the result on the stack.

        Raises:
            ScriptError: with the text of the first fault.
        """
        if len(self.script) > MAX_SCRIPT_SIZE_BYTES:
            fail(ScriptFault.SCRIPT_SIZE)
        while self.position < len(self.script):
            self._step(handlers)
            if len(self.stack) + len(self.alt_stack) > MAX_STACK_ITEMS:
                fail(ScriptFault.STACK_SIZE)
        if self.conditions:
            fail(ScriptFault.UNBALANCED_CONDITIONAL)

    def _step(self, handlers: Mapping[int, Callable[["Machine"], None]]) -> None:
        op = read_op(self.script, self.position)
        if op is None:
            fail(ScriptFault.BAD_OPCODE)
        opcode, data, self.position = op
        executing = False not in self.conditions
        if data is not None:
            self._push_data(data, opcode, executing)
            return
        if opcode > OP_16:
            self.count_ops(1)
        if opcode in DISABLED_OPCODES:
            fail(ScriptFault.DISABLED_OPCODE)
        if opcode == OP_CODESEPARATOR and self._is_code_constant():
            fail(ScriptFault.OP_CODESEPARATOR)
        if not executing and not OP_IF <= opcode <= OP_ENDIF:
            return
        handler = handlers.get(opcode)
        if handler is None:
            fail(ScriptFault.BAD_OPCODE)
        handler(self)

    def _is_code_constant(self) -> bool:
        return self.version is SigVersion.BASE and bool(self.flags & Flags.CONST_SCRIPTCODE)

    def _push_data(self, data: bytes, opcode: int, executing: bool) -> None:
        if len(data) > MAX_ELEMENT_SIZE_BYTES:
            fail(ScriptFault.PUSH_SIZE)
        if not executing:
            return
        if self.minimal and not is_minimal_push(data, opcode):
            fail(ScriptFault.MINIMALDATA)
        self.stack.append(data)


def is_true(item: bytes) -> bool:
    """Whether an item counts as true: any byte set, except a lone sign bit at the end."""
    return bool(item) and (any(item[:-1]) or item[-1] not in (0, 0x80))
