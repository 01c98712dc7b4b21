"""Running the scripts of an input: legacy, P2SH, segwit v0, taproot.

`verify_input` first tries the direct path of the most common forms; whatever that does not
accept at once is run in full, which also finds the exact fault.

Witness versions and leaf versions without any rule stay spendable by anyone, as consensus has it.

Source: elements/script.md 1, 4 to 6 and 9.
"""

from collections.abc import Sequence

from sidechain.crypto.hashes import sha256
from sidechain.crypto.keys import ecdsa_verify, schnorr_verify
from sidechain.primitives.encoding import vectors
from sidechain.primitives.transaction import SEQUENCE_FINAL, Transaction
from sidechain.script.direct import verify_direct
from sidechain.script.faults import ScriptFault, fail
from sidechain.script.flags import (
    BLOCK_SIGNATURE_FLAGS,
    CONSENSUS_FLAGS,
    POLICY_FLAGS,
    STANDARD_FLAGS,
    Flags,
    SigVersion,
)
from sidechain.script.machine import (
    MAX_STACK_ITEMS,
    SIGNATURE_WEIGHT,
    Machine,
    SignatureChecker,
    is_true,
)
from sidechain.script.ops_bytes import BYTES_HANDLERS
from sidechain.script.ops_crypto import CRYPTO_HANDLERS, SEQUENCE_DISABLE_FLAG
from sidechain.script.ops_integer64 import INTEGER64_HANDLERS
from sidechain.script.ops_introspection import INTROSPECTION_HANDLERS
from sidechain.script.ops_number import NUMBER_HANDLERS
from sidechain.script.ops_stack import STACK_HANDLERS
from sidechain.script.ops_tapscript import TAPSCRIPT_HANDLERS
from sidechain.script.script import (
    MAX_ELEMENT_SIZE_BYTES,
    contains_success,
    is_p2sh,
    is_push_only,
    p2pkh_of_hash,
    push,
    witness_program,
)
from sidechain.script.sighash import (
    SIGHASH_DEFAULT,
    SighashCache,
    SpentOutput,
    TaprootPath,
    legacy_sighash,
    segwit_v0_sighash,
)
from sidechain.script.taproot import (
    LEAF_SIMPLICITY,
    LEAF_TAPSCRIPT,
    LEAF_VERSION_MASK,
    annex_hash,
    commits_to,
    is_annex,
    is_control_block,
    leaf_hash,
    taproot_sighash,
)

__all__ = [
    "BLOCK_SIGNATURE_FLAGS",
    "CONSENSUS_FLAGS",
    "POLICY_FLAGS",
    "STANDARD_FLAGS",
    "Flags",
    "SigVersion",
    "SighashCache",
    "SignatureChecker",
    "TransactionChecker",
    "evaluate",
    "run_input",
    "verify_input",
    "verify_script",
]

LOCKTIME_THRESHOLD = 500_000_000
SEQUENCE_TYPE_FLAG = 1 << 22
SEQUENCE_LOCKTIME_MASK = 0x0000FFFF

_HANDLERS = {**STACK_HANDLERS, **NUMBER_HANDLERS, **BYTES_HANDLERS, **CRYPTO_HANDLERS}
_TAPSCRIPT_HANDLERS = {
    **_HANDLERS,
    **TAPSCRIPT_HANDLERS,
    **INTROSPECTION_HANDLERS,
    **INTEGER64_HANDLERS,
}


class TransactionChecker(SignatureChecker):
    """Answers for one input of an Elements transaction.

    Args:
        value_field: raw value field of the spent output.
        flags: only `SIGHASH_RANGEPROOF` matters here.
        cache: shared by all inputs of the transaction; taproot needs one that knows what they
            spend.
    """

    def __init__(
        self,
        tx: Transaction,
        index: int,
        value_field: bytes,
        flags: Flags,
        cache: SighashCache | None = None,
    ) -> None:
        self.cache: SighashCache = cache or SighashCache(tx)
        self.index = index
        self._tx = tx
        self._value_field = value_field
        self._rangeproof = bool(flags & Flags.SIGHASH_RANGEPROOF)
        self._digests: dict[tuple[bytes | TaprootPath, int, SigVersion], bytes] = {}

    def check_signature(
        self, signature: bytes, pubkey: bytes, script_code: bytes, version: SigVersion
    ) -> bool:
        """Whether the signature, its last byte being the hash type, is by `pubkey`."""
        if not signature:
            return False
        digest = self._digest(script_code, signature[-1], version)
        return ecdsa_verify(pubkey, signature[:-1], digest)

    def check_schnorr(self, signature: bytes, pubkey: bytes, path: TaprootPath) -> None:
        """Check a BIP340 signature, whose 65th byte, if any, is the hash type."""
        if len(signature) not in (64, 65):
            fail(ScriptFault.SCHNORR_SIG_SIZE)
        hash_type = SIGHASH_DEFAULT
        if len(signature) == 65:
            hash_type = signature[64]
            if hash_type == SIGHASH_DEFAULT:
                fail(ScriptFault.SCHNORR_SIG_HASHTYPE)
        key = (path, hash_type, SigVersion.TAPROOT)
        digest = self._digests.get(key) or taproot_sighash(self.cache, self.index, hash_type, path)
        if digest is None:
            fail(ScriptFault.SCHNORR_SIG_HASHTYPE)
        self._digests[key] = digest
        if not schnorr_verify(pubkey, signature[:64], digest):
            fail(ScriptFault.SCHNORR_SIG)

    def check_locktime(self, locktime: int) -> bool:
        """OP_CHECKLOCKTIMEVERIFY's comparison (BIP65)."""
        own = self._tx.locktime
        same_unit = (own < LOCKTIME_THRESHOLD) == (locktime < LOCKTIME_THRESHOLD)
        final = self._tx.inputs[self.index].sequence == SEQUENCE_FINAL
        return same_unit and locktime <= own and not final

    def check_sequence(self, sequence: int) -> bool:
        """OP_CHECKSEQUENCEVERIFY's comparison (BIP112)."""
        own = self._tx.inputs[self.index].sequence
        if self._tx.version < 2 or own & SEQUENCE_DISABLE_FLAG:
            return False
        if (own ^ sequence) & SEQUENCE_TYPE_FLAG:
            return False
        return sequence & SEQUENCE_LOCKTIME_MASK <= own & SEQUENCE_LOCKTIME_MASK

    def _digest(self, script_code: bytes, hash_type: int, version: SigVersion) -> bytes:
        # A multisig asks for the same digest once per key it tries.
        key = (script_code, hash_type, version)
        known = self._digests.get(key)
        if known is None:
            known = self._digests[key] = self._compute_digest(script_code, hash_type, version)
        return known

    def _compute_digest(self, script_code: bytes, hash_type: int, version: SigVersion) -> bytes:
        if version is SigVersion.BASE:
            return legacy_sighash(
                self._tx,
                self.index,
                script_code,
                hash_type,
                rangeproof=self._rangeproof,
                cache=self.cache,
            )
        return segwit_v0_sighash(
            self._tx,
            self.index,
            script_code,
            self._value_field,
            hash_type,
            rangeproof=self._rangeproof,
            cache=self.cache,
        )


def verify_input(
    tx: Transaction,
    index: int,
    spent: SpentOutput,
    flags: Flags,
    cache: SighashCache | None = None,
) -> None:
    """Check that input `index` may spend `spent`.

    For a peg-in, `spent` is the output it stands for (claim script, explicit amount).

    Args:
        cache: of the whole transaction; a taproot spend cannot be judged without it.
    Raises:
        ScriptError: the text of the fault.
        InvariantError: a taproot spend, and the cache does not know all spent outputs.
    """
    if verify_direct(tx, index, spent, flags, cache):
        return
    run_input(tx, index, spent, flags, cache)


def run_input(
    tx: Transaction,
    index: int,
    spent: SpentOutput,
    flags: Flags,
    cache: SighashCache | None = None,
) -> None:
    """As `verify_input`, always by running the scripts."""
    verify_script(
        tx.inputs[index].script_sig,
        spent.script,
        tx.input_witnesses[index].script,
        flags,
        TransactionChecker(tx, index, spent.value, flags, cache),
    )


def verify_script(
    script_sig: bytes,
    script_pubkey: bytes,
    witness: Sequence[bytes],
    flags: Flags,
    checker: SignatureChecker,
) -> None:
    """Run an input's script, then the output's, then what P2SH and segwit put behind it.

    Raises:
        ScriptError: the text of the first fault.
    """
    if flags & Flags.SIGPUSHONLY and not is_push_only(script_sig):
        fail(ScriptFault.SIG_PUSHONLY)
    stack: list[bytes] = []
    evaluate(stack, script_sig, flags, checker, SigVersion.BASE)
    pushed = list(stack)
    evaluate(stack, script_pubkey, flags, checker, SigVersion.BASE)
    _check_true(stack)
    program = witness_program(script_pubkey) if flags & Flags.WITNESS else None
    if program is not None:
        if script_sig:
            fail(ScriptFault.WITNESS_MALLEATED)
        _verify_program(*program, witness, flags, checker, nested=False)
        del stack[1:]
    if flags & Flags.P2SH and is_p2sh(script_pubkey):
        stack, program = _verify_p2sh(script_sig, pushed, witness, flags, checker)
    if flags & Flags.CLEANSTACK and len(stack) != 1:
        fail(ScriptFault.CLEANSTACK)
    if flags & Flags.WITNESS and program is None and witness:
        fail(ScriptFault.WITNESS_UNEXPECTED)


def evaluate(
    stack: list[bytes],
    script: bytes,
    flags: Flags,
    checker: SignatureChecker,
    version: SigVersion,
    *,
    path: TaprootPath | None = None,
    budget: int = 0,
) -> None:
    """Run one script on a stack, which it changes in place.

    Args:
        version: not TAPROOT, which runs no script.
        path: what signatures of a tapscript commit to.
        budget: what a tapscript may spend on signatures.
    Raises:
        ScriptError: the text of the first fault.
    """
    handlers = _TAPSCRIPT_HANDLERS if version is SigVersion.TAPSCRIPT else _HANDLERS
    Machine(stack, script, flags, checker, version, path, budget).run(handlers)


def _check_true(stack: list[bytes]) -> None:
    if not stack or not is_true(stack[-1]):
        fail(ScriptFault.EVAL_FALSE)


def _verify_p2sh(
    script_sig: bytes,
    stack: list[bytes],
    witness: Sequence[bytes],
    flags: Flags,
    checker: SignatureChecker,
) -> tuple[list[bytes], tuple[int, bytes] | None]:
    """Run the redeem script on what the input pushed; the stack left and any nested program."""
    if not is_push_only(script_sig):
        fail(ScriptFault.SIG_PUSHONLY)
    redeem = stack.pop()
    evaluate(stack, redeem, flags, checker, SigVersion.BASE)
    _check_true(stack)
    program = witness_program(redeem) if flags & Flags.WITNESS else None
    if program is not None:
        if script_sig != push(redeem):
            fail(ScriptFault.WITNESS_MALLEATED_P2SH)
        _verify_program(*program, witness, flags, checker, nested=True)
        del stack[1:]
    return stack, program


def _verify_program(
    version: int,
    program: bytes,
    witness: Sequence[bytes],
    flags: Flags,
    checker: SignatureChecker,
    *,
    nested: bool,
) -> None:
    if version == 0:
        _verify_v0(program, witness, flags, checker)
        return
    if version == 1 and len(program) == 32 and not nested:
        if flags & Flags.TAPROOT:
            _verify_taproot(program, witness, flags, checker)
        return
    anchor = version == 1 and program == b"\x4e\x73" and not nested
    if flags & Flags.DISCOURAGE_UPGRADABLE_WITNESS_PROGRAM and not anchor:
        fail(ScriptFault.DISCOURAGE_UPGRADABLE_WITNESS_PROGRAM)


def _verify_taproot(
    program: bytes, witness: Sequence[bytes], flags: Flags, checker: SignatureChecker
) -> None:
    """Key path with one item, script path with more, an annex not counted."""
    if not witness:
        fail(ScriptFault.WITNESS_PROGRAM_WITNESS_EMPTY)
    stack = list(witness)
    annex = None
    if len(stack) >= 2 and is_annex(stack[-1]):
        annex = annex_hash(stack.pop())
    if len(stack) == 1:
        checker.check_schnorr(stack[0], program, TaprootPath(annex))
        return
    control = stack.pop()
    script = stack.pop()
    if not is_control_block(control):
        fail(ScriptFault.TAPROOT_WRONG_CONTROL_SIZE)
    leaf_version = control[0] & LEAF_VERSION_MASK
    leaf = leaf_hash(leaf_version, script)
    if not commits_to(program, control, leaf):
        fail(ScriptFault.WITNESS_PROGRAM_MISMATCH)
    if leaf_version == LEAF_TAPSCRIPT:
        budget = SIGNATURE_WEIGHT + len(vectors(tuple(witness)))
        _run_tapscript(stack, script, flags, checker, TaprootPath(annex, leaf), budget)
        return
    if leaf_version == LEAF_SIMPLICITY and flags & Flags.SIMPLICITY:
        _refuse_simplicity(stack, script)
    if flags & Flags.DISCOURAGE_UPGRADABLE_TAPROOT_VERSION:
        fail(ScriptFault.DISCOURAGE_UPGRADABLE_TAPROOT_VERSION)


def _refuse_simplicity(stack: Sequence[bytes], script: bytes) -> None:
    """Simplicity is not evaluated here, so nothing that needs it is ever accepted.

    Source: elements/script.md 8; docs/architecture.md "Decisions".
    """
    if len(stack) != 2 or len(script) != 32:
        fail(ScriptFault.SIMPLICITY_WRONG_LENGTH)
    fail(ScriptFault.DISCOURAGE_UPGRADABLE_TAPROOT_VERSION)


def _run_tapscript(
    stack: list[bytes],
    script: bytes,
    flags: Flags,
    checker: SignatureChecker,
    path: TaprootPath,
    budget: int,
) -> None:
    """Run a leaf, unless an OP_SUCCESS anywhere before an unreadable push makes it succeed."""
    if contains_success(script):
        if flags & Flags.DISCOURAGE_OP_SUCCESS:
            fail(ScriptFault.DISCOURAGE_OP_SUCCESS)
        return
    if len(stack) > MAX_STACK_ITEMS:
        fail(ScriptFault.STACK_SIZE)
    _check_initial_stack(stack)
    evaluate(stack, script, flags, checker, SigVersion.TAPSCRIPT, path=path, budget=budget)
    _check_only_true(stack)


def _check_initial_stack(stack: Sequence[bytes]) -> None:
    if any(len(item) > MAX_ELEMENT_SIZE_BYTES for item in stack):
        fail(ScriptFault.PUSH_SIZE)


def _check_only_true(stack: list[bytes]) -> None:
    # A witness script always leaves exactly one item, also where CLEANSTACK is off.
    if len(stack) != 1:
        fail(ScriptFault.CLEANSTACK)
    _check_true(stack)


def _verify_v0(
    program: bytes, witness: Sequence[bytes], flags: Flags, checker: SignatureChecker
) -> None:
    if len(program) == 32:
        if not witness:
            fail(ScriptFault.WITNESS_PROGRAM_WITNESS_EMPTY)
        script, stack = witness[-1], list(witness[:-1])
        if sha256(script) != program:
            fail(ScriptFault.WITNESS_PROGRAM_MISMATCH)
    elif len(program) == 20:
        if len(witness) != 2:
            fail(ScriptFault.WITNESS_PROGRAM_MISMATCH)
        script, stack = p2pkh_of_hash(program), list(witness)
    else:
        fail(ScriptFault.WITNESS_PROGRAM_WRONG_LENGTH)
    _check_initial_stack(stack)
    evaluate(stack, script, flags, checker, SigVersion.WITNESS_V0)
    _check_only_true(stack)
