"""Opcodes that hash, check signatures or check lock times.

Source: elements/script.md (Bitcoin's opcodes) and 6 (CHECKSIGFROMSTACK).
"""

import hashlib
from collections.abc import Callable

from sidechain.crypto.hashes import hash160, ripemd160, sha256, sha256d
from sidechain.crypto.keys import ecdsa_verify
from sidechain.script import opcodes as op
from sidechain.script.faults import ScriptFault, fail
from sidechain.script.flags import Flags, SigVersion
from sidechain.script.machine import Machine
from sidechain.script.script import MAX_MULTISIG_KEYS, find_and_delete, push
from sidechain.script.signatures import check_pubkey_encoding, check_signature_encoding

Handler = Callable[[Machine], None]

SEQUENCE_DISABLE_FLAG = 1 << 31


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


def _hash(function: Callable[[bytes], bytes]) -> Handler:
    def run(machine: Machine) -> None:
        machine.need(1)
        machine.stack[-1] = function(machine.stack[-1])

    return run


def _code_separator(machine: Machine) -> None:
    machine.code_start = machine.position


def _check_sig(machine: Machine) -> None:
    machine.need(2)
    signature, pubkey = machine.stack[-2:]
    script_code = _script_code(machine, [signature])
    good = _verify_one(machine, signature, pubkey, script_code)
    if not good and signature and machine.flags & Flags.NULLFAIL:
        fail(ScriptFault.NULLFAIL)
    del machine.stack[-2:]
    machine.push_bool(good)


def _check_sig_verify(machine: Machine) -> None:
    _check_sig(machine)
    if not machine.stack[-1]:
        fail(ScriptFault.CHECKSIGVERIFY)
    machine.stack.pop()


def _script_code(machine: Machine, signatures: list[bytes]) -> bytes:
    """What a signature commits to: the script from the last separator on.

    In legacy scripts the signatures themselves are taken out, wherever they stand.
    """
    code = machine.script[machine.code_start :]
    if machine.version is not SigVersion.BASE:
        return code
    for signature in signatures:
        code, found = find_and_delete(code, push(signature))
        if found and machine.flags & Flags.CONST_SCRIPTCODE:
            fail(ScriptFault.SIG_FINDANDDELETE)
    return code


def _verify_one(machine: Machine, signature: bytes, pubkey: bytes, script_code: bytes) -> bool:
    check_signature_encoding(signature, machine.flags)
    check_pubkey_encoding(pubkey, machine.flags, machine.version)
    if not signature:
        return False
    return machine.checker.check_signature(signature, pubkey, script_code, machine.version)


def _check_multisig(machine: Machine) -> None:
    stack = machine.stack
    machine.need(1)
    key_count = machine.number(stack[-1])
    if not 0 <= key_count <= MAX_MULTISIG_KEYS:
        fail(ScriptFault.PUBKEY_COUNT)
    machine.count_ops(key_count)
    machine.need(key_count + 2)
    signature_count = machine.number(stack[-2 - key_count])
    if not 0 <= signature_count <= key_count:
        fail(ScriptFault.SIG_COUNT)
    below = key_count + 2 + signature_count
    # One item more than it needs is taken off: a quirk of the first release, kept by all.
    machine.need(below + 1)
    keys = stack[-1 - key_count : -1]
    signatures = stack[len(stack) - below : len(stack) - below + signature_count]
    good = _verify_many(machine, signatures, keys)
    if not good and machine.flags & Flags.NULLFAIL and any(signatures):
        fail(ScriptFault.NULLFAIL)
    if machine.flags & Flags.NULLDUMMY and stack[-1 - below]:
        fail(ScriptFault.SIG_NULLDUMMY)
    del stack[-1 - below :]
    machine.push_bool(good)


def _verify_many(machine: Machine, signatures: list[bytes], keys: list[bytes]) -> bool:
    """Match signatures to keys in order, from the top of the stack down."""
    script_code = _script_code(machine, signatures[::-1])
    signatures_left = list(signatures)
    keys_left = list(keys)
    while signatures_left:
        if len(signatures_left) > len(keys_left):
            return False
        if _verify_one(machine, signatures_left[-1], keys_left[-1], script_code):
            signatures_left.pop()
        keys_left.pop()
    return True


def _check_multisig_verify(machine: Machine) -> None:
    _check_multisig(machine)
    if not machine.stack[-1]:
        fail(ScriptFault.CHECKMULTISIGVERIFY)
    machine.stack.pop()


def _check_locktime_verify(machine: Machine) -> None:
    if not machine.flags & Flags.CHECKLOCKTIMEVERIFY:
        return
    machine.need(1)
    locktime = machine.number(machine.stack[-1], size_max_bytes=5)
    if locktime < 0:
        fail(ScriptFault.NEGATIVE_LOCKTIME)
    if not machine.checker.check_locktime(locktime):
        fail(ScriptFault.UNSATISFIED_LOCKTIME)


def _check_sequence_verify(machine: Machine) -> None:
    if not machine.flags & Flags.CHECKSEQUENCEVERIFY:
        return
    machine.need(1)
    sequence = machine.number(machine.stack[-1], size_max_bytes=5)
    if sequence < 0:
        fail(ScriptFault.NEGATIVE_LOCKTIME)
    if sequence & SEQUENCE_DISABLE_FLAG:
        return
    if not machine.checker.check_sequence(sequence):
        fail(ScriptFault.UNSATISFIED_LOCKTIME)


def _check_sig_from_stack(machine: Machine) -> None:
    # A signature that fails ends the script here, also without VERIFY: only true can be pushed.
    _verify_from_stack(machine)
    machine.push_bool(True)


def _check_sig_from_stack_verify(machine: Machine) -> None:
    _verify_from_stack(machine)


def _verify_from_stack(machine: Machine) -> None:
    machine.need(3)
    signature, data, pubkey = machine.stack[-3:]
    check_signature_encoding(signature, machine.flags | Flags.NO_SIGHASH_BYTE)
    check_pubkey_encoding(pubkey, machine.flags, machine.version)
    if not signature or not ecdsa_verify(pubkey, signature, sha256(data)):
        fail(ScriptFault.CHECKSIGVERIFY)
    del machine.stack[-3:]


CRYPTO_HANDLERS: dict[int, Handler] = {
    op.OP_RIPEMD160: _hash(ripemd160),
    op.OP_SHA1: _hash(_sha1),
    op.OP_SHA256: _hash(sha256),
    op.OP_HASH160: _hash(hash160),
    op.OP_HASH256: _hash(sha256d),
    op.OP_CODESEPARATOR: _code_separator,
    op.OP_CHECKSIG: _check_sig,
    op.OP_CHECKSIGVERIFY: _check_sig_verify,
    op.OP_CHECKMULTISIG: _check_multisig,
    op.OP_CHECKMULTISIGVERIFY: _check_multisig_verify,
    op.OP_CHECKLOCKTIMEVERIFY: _check_locktime_verify,
    op.OP_CHECKSEQUENCEVERIFY: _check_sequence_verify,
    op.OP_CHECKSIGFROMSTACK: _check_sig_from_stack,
    op.OP_CHECKSIGFROMSTACKVERIFY: _check_sig_from_stack_verify,
}
"""What each of these opcodes does to a machine."""
