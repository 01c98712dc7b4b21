"""Opcodes that tapscript has alone or does differently: signatures, curve, streaming SHA-256.

Source: elements/script.md 4.3, 6 (CHECKSIGFROMSTACK), 7.1 and 7.5.
"""

from collections.abc import Callable

from sidechain.crypto.keys import multiply_check, schnorr_verify, xonly_tweak_add_check
from sidechain.crypto.sha256_context import Sha256Context
from sidechain.errors import InvalidEncoding
from sidechain.script import opcodes as op
from sidechain.script.faults import ScriptFault, fail
from sidechain.script.flags import Flags
from sidechain.script.machine import Machine

Handler = Callable[[Machine], None]


def _is_to_verify(machine: Machine, signature: bytes, pubkey: bytes) -> bool:
    """Pay for a signature and judge the form of its key; whether there is something to verify.

    Keys of an unknown size count as good with any signature, so that later rules can use them.
    """
    if signature:
        machine.charge_signature()
    if not pubkey:
        fail(ScriptFault.PUBKEYTYPE)
    if len(pubkey) != 32:
        if machine.flags & Flags.DISCOURAGE_UPGRADABLE_PUBKEYTYPE:
            fail(ScriptFault.DISCOURAGE_UPGRADABLE_PUBKEYTYPE)
        return False
    return bool(signature)


def _verify_signature(machine: Machine, signature: bytes, pubkey: bytes) -> bool:
    """False for an empty signature; any other one is good or ends the script."""
    if _is_to_verify(machine, signature, pubkey):
        machine.checker.check_schnorr(signature, pubkey, machine.path)
    return bool(signature)


def _check_sig(machine: Machine) -> None:
    machine.need(2)
    signature, pubkey = machine.stack[-2:]
    good = _verify_signature(machine, signature, pubkey)
    del machine.stack[-2:]
    machine.push_bool(good)


def _check_sig_add(machine: Machine) -> None:
    machine.need(3)
    signature, counter, pubkey = machine.stack[-3:]
    number = machine.number(counter)
    good = _verify_signature(machine, signature, pubkey)
    del machine.stack[-3:]
    machine.push_number(number + good)


def _check_sig_from_stack(machine: Machine) -> None:
    """BIP340 over the data itself, whatever its length.

    The reference release this repository follows passes a fixed length of 32 to its library: it
    looks at the first 32 bytes of longer data and behind the end of shorter data. Here the
    documented rule holds, which all earlier releases obeyed; both agree on 32 bytes.

    Source: elements/script.md 6 (Hazard); docs/architecture.md "Decisions".
    """
    machine.need(3)
    signature, data, pubkey = machine.stack[-3:]
    if _is_to_verify(machine, signature, pubkey):
        if len(signature) != 64:
            fail(ScriptFault.SCHNORR_SIG_SIZE)
        if not schnorr_verify(pubkey, signature, data):
            fail(ScriptFault.SCHNORR_SIG)
    del machine.stack[-3:]
    machine.push_bool(bool(signature))


def _or_fail(handler: Handler) -> Handler:
    """The VERIFY form of a signature check."""

    def run(machine: Machine) -> None:
        handler(machine)
        if not machine.stack.pop():
            fail(ScriptFault.CHECKSIGVERIFY)

    return run


def _check_multisig(machine: Machine) -> None:
    del machine
    fail(ScriptFault.TAPSCRIPT_CHECKMULTISIG)


def _code_separator(machine: Machine) -> None:
    machine.path = machine.path._replace(code_separator=machine.opcode_index)


def _sha256_initialize(machine: Machine) -> None:
    machine.need(1)
    machine.stack[-1] = Sha256Context.start().update(machine.stack[-1]).serialize()


def _sha256_update(machine: Machine) -> None:
    machine.stack[-2:] = [_continued(machine).serialize()]


def _sha256_finalize(machine: Machine) -> None:
    machine.stack[-2:] = [_continued(machine).digest()]


def _continued(machine: Machine) -> Sha256Context:
    machine.need(2)
    saved, data = machine.stack[-2:]
    try:
        context = Sha256Context.parse(saved)
    except InvalidEncoding:
        fail(ScriptFault.SHA2_CONTEXT_LOAD)
    try:
        return context.update(data)
    except InvalidEncoding:
        fail(ScriptFault.SHA2_CONTEXT_WRITE)


def _three(machine: Machine) -> list[bytes]:
    # Not the fault that other opcodes give for too few items.
    if len(machine.stack) < 3:
        fail(ScriptFault.UNKNOWN_ERROR)
    return machine.stack[-3:]


def _multiply_verify(machine: Machine) -> None:
    product, point, scalar = _three(machine)
    if not (_is_compressed(product) and _is_compressed(point)):
        fail(ScriptFault.PUBKEYTYPE)
    machine.charge_signature()
    if not multiply_check(product, point, scalar):
        fail(ScriptFault.ECMULTVERIFYFAIL)
    del machine.stack[-3:]


def _tweak_verify(machine: Machine) -> None:
    tweaked, tweak, internal = _three(machine)
    if not _is_compressed(tweaked) or len(internal) != 32 or len(tweak) != 32:
        fail(ScriptFault.PUBKEYTYPE)
    machine.charge_signature()
    if not xonly_tweak_add_check(tweaked[1:], tweaked[0] & 1, internal, tweak):
        fail(ScriptFault.ECMULTVERIFYFAIL)
    del machine.stack[-3:]


def _is_compressed(pubkey: bytes) -> bool:
    return len(pubkey) == 33 and pubkey[0] in (2, 3)


TAPSCRIPT_HANDLERS: dict[int, Handler] = {
    op.OP_CODESEPARATOR: _code_separator,
    op.OP_CHECKSIG: _check_sig,
    op.OP_CHECKSIGVERIFY: _or_fail(_check_sig),
    op.OP_CHECKSIGADD: _check_sig_add,
    op.OP_CHECKMULTISIG: _check_multisig,
    op.OP_CHECKMULTISIGVERIFY: _check_multisig,
    op.OP_CHECKSIGFROMSTACK: _check_sig_from_stack,
    op.OP_CHECKSIGFROMSTACKVERIFY: _or_fail(_check_sig_from_stack),
    op.OP_SHA256INITIALIZE: _sha256_initialize,
    op.OP_SHA256UPDATE: _sha256_update,
    op.OP_SHA256FINALIZE: _sha256_finalize,
    op.OP_ECMULSCALARVERIFY: _multiply_verify,
    op.OP_TWEAKVERIFY: _tweak_verify,
}
"""What each of these opcodes does to a machine that runs a tapscript."""
