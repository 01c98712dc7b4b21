"""The stack machine: one run of one script, limits included.

What each opcode does is in the `ops_` modules, as functions of the machine.

Source: elements/script.md 4.3 and 5.
"""

from collections.abc import Callable, Mapping

from sidechain.errors import InvalidEncoding
from sidechain.script.faults import ScriptFault, fail
from sidechain.script.flags import Flags, SigVersion
from sidechain.script.opcodes import (
    DISABLED_OPCODES,
    OP_16,
    OP_CODESEPARATOR,
    OP_ENDIF,
    OP_IF,
    OP_PUSHDATA1,
    OP_PUSHDATA4,
)
from sidechain.script.script import (
    MAX_ELEMENT_SIZE_BYTES,
    MAX_SCRIPT_SIZE_BYTES,
    decode_number,
    encode_number,
    is_minimal_push,
    read_op,
)
from sidechain.script.sighash import SighashCache, TaprootPath

MAX_OPS = 201
MAX_STACK_ITEMS = 1000
SIGNATURE_WEIGHT = 50


class SignatureChecker:
    """What a script may ask about the thing that is signed. This one knows nothing of it.

    Attributes:
        cache: the transaction, for opcodes that look at it; None where nothing is to be seen.
        index: position of the input that is judged.
    """

    cache: SighashCache | None = None
    index: int = 0

    def check_signature(
        self, signature: bytes, pubkey: bytes, script_code: bytes, version: SigVersion
    ) -> bool:
        """Whether the ECDSA `signature`, hash type byte included, is by `pubkey`. Never raises."""
        del signature, pubkey, script_code, version
        return False

    def check_schnorr(self, signature: bytes, pubkey: bytes, path: TaprootPath) -> None:
        """Check a BIP340 signature by a 32-byte key, its form and hash type included.

        Raises:
            ScriptError: SCHNORR_SIG_SIZE, SCHNORR_SIG_HASHTYPE or SCHNORR_SIG.
        """
        del signature, pubkey, path
        fail(ScriptFault.UNKNOWN_ERROR)

    def check_locktime(self, locktime: int) -> bool:
        """Whether the transaction's locktime is at least `locktime`, in the same unit."""
        del locktime
        return False

    def check_sequence(self, sequence: int) -> bool:
        """Whether the input's relative lock is at least `sequence`, in the same unit."""
        del sequence
        return False


class Machine:
    """State of one run.

    Attributes:
        stack: bottom first. Never another list: the run holds on to it.
        open_ifs: how many IFs are open.
        skip_from: which of them, counted from 1, opened the outermost branch that is not taken;
            0 while everything is executed. Deeper ones cannot matter, so none is remembered.
        code_start: position after the last executed OP_CODESEPARATOR.
        position: of the byte after the opcode that runs.
        opcode_index: how many opcodes stand before the one that runs.
        op_count: executed or skipped opcodes above OP_16, plus keys of multisigs.
        path: what a tapscript's signatures commit to besides the transaction.
        budget: what a tapscript may still spend on signatures.
    """

    __slots__ = (
        "alt_stack",
        "budget",
        "checker",
        "code_start",
        "flags",
        "minimal",
        "op_count",
        "opcode_index",
        "open_ifs",
        "path",
        "position",
        "script",
        "skip_from",
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
        path: TaprootPath | None = None,
        budget: int = 0,
    ) -> None:
        self.stack = stack
        self.alt_stack: list[bytes] = []
        self.open_ifs = 0
        self.skip_from = 0
        self.script = script
        self.flags = flags
        self.minimal = bool(flags & Flags.MINIMALDATA)
        self.checker = checker
        self.version = version
        self.path = path or TaprootPath()
        self.budget = budget
        self.code_start = 0
        self.position = 0
        self.opcode_index = 0
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

    def charge_signature(self) -> None:
        """Take one signature's weight from the budget of a tapscript."""
        self.budget -= SIGNATURE_WEIGHT
        if self.budget < 0:
            fail(ScriptFault.TAPSCRIPT_VALIDATION_WEIGHT)

    def run(self, handlers: Mapping[int, Callable[["Machine"], None]]) -> None:
        """Run the script to its end, leaving the result on the stack.

        Raises:
            ScriptError: with the text of the first fault.
        """
        script, stack, alt_stack = self.script, self.stack, self.alt_stack
        limited = self.version is not SigVersion.TAPSCRIPT
        if limited and len(script) > MAX_SCRIPT_SIZE_BYTES:
            fail(ScriptFault.SCRIPT_SIZE)
        position, opcode_index, size = 0, 0, len(script)
        while position < size:
            opcode = script[position]
            if opcode < OP_PUSHDATA1:
                start, position = position + 1, position + 1 + opcode
                if position > size:
                    fail(ScriptFault.BAD_OPCODE)
                if not self.skip_from:
                    data = script[start:position]
                    if self.minimal and not is_minimal_push(data, opcode):
                        fail(ScriptFault.MINIMALDATA)
                    stack.append(data)
            elif opcode <= OP_PUSHDATA4:
                position = self._push_long_data(position)
            else:
                position += 1
                if limited and opcode > OP_16:
                    self._check_limits(opcode)
                if not self.skip_from or OP_IF <= opcode <= OP_ENDIF:
                    handler = handlers.get(opcode)
                    if handler is None:
                        fail(ScriptFault.BAD_OPCODE)
                    self.position, self.opcode_index = position, opcode_index
                    handler(self)
            if len(stack) + len(alt_stack) > MAX_STACK_ITEMS:
                fail(ScriptFault.STACK_SIZE)
            opcode_index += 1
        if self.open_ifs:
            fail(ScriptFault.UNBALANCED_CONDITIONAL)

    def _check_limits(self, opcode: int) -> None:
        """What holds before tapscript for opcodes above OP_16, also where they are skipped."""
        self.count_ops(1)
        if opcode in DISABLED_OPCODES:
            fail(ScriptFault.DISABLED_OPCODE)
        constant = self.version is SigVersion.BASE and self.flags & Flags.CONST_SCRIPTCODE
        if constant and opcode == OP_CODESEPARATOR:
            fail(ScriptFault.OP_CODESEPARATOR)

    def _push_long_data(self, position: int) -> int:
        """Execute or skip the OP_PUSHDATA at `position`; the position after its data."""
        op = read_op(self.script, position)
        if op is None:
            fail(ScriptFault.BAD_OPCODE)
        opcode, found, end = op
        data = found or b""
        if len(data) > MAX_ELEMENT_SIZE_BYTES:
            fail(ScriptFault.PUSH_SIZE)
        if not self.skip_from:
            if self.minimal and not is_minimal_push(data, opcode):
                fail(ScriptFault.MINIMALDATA)
            self.stack.append(data)
        return end


def is_true(item: bytes) -> bool:
    """Whether an item counts as true: any byte set, except a lone sign bit at the end."""
    return bool(item) and (any(item[:-1]) or item[-1] not in (0, 0x80))
