"""Opcodes by which a tapscript looks at the transaction that spends it.

Values are pushed little-endian although transactions have them big-endian.

Source: elements/script.md 7.2.
"""

from collections.abc import Callable

from sidechain.primitives.confidential import is_commitment
from sidechain.primitives.encoding import le32, le64
from sidechain.primitives.transaction import Transaction, TxIn, TxOut
from sidechain.script import opcodes as op
from sidechain.script.faults import ScriptFault, fail
from sidechain.script.machine import Machine
from sidechain.script.script import encode_number, witness_program
from sidechain.script.sighash import SighashCache, SpentOutput, outpoint_flag

Handler = Callable[[Machine], None]

_NOT_A_PROGRAM = -1
_NULL = b"\0"


def _cache(machine: Machine) -> SighashCache:
    cache = machine.checker.cache
    if cache is None:
        fail(ScriptFault.INTROSPECT_CONTEXT_UNAVAILABLE)
    return cache


def _pop_index(machine: Machine, count: int) -> int:
    (index,) = machine.pop_numbers(1)
    if not 0 <= index < count:
        fail(ScriptFault.INTROSPECT_INDEX_OUT_OF_BOUNDS)
    return index


def _input(shown: Callable[[TxIn], tuple[bytes, ...]]) -> Handler:
    def run(machine: Machine) -> None:
        tx = _cache(machine).tx
        machine.stack += shown(tx.inputs[_pop_index(machine, len(tx.inputs))])

    return run


def _spent(shown: Callable[[SpentOutput], tuple[bytes, ...]]) -> Handler:
    def run(machine: Machine) -> None:
        spent = _cache(machine).all_spent
        machine.stack += shown(spent[_pop_index(machine, len(spent))])

    return run


def _output(shown: Callable[[TxOut], tuple[bytes, ...]]) -> Handler:
    def run(machine: Machine) -> None:
        outputs = _cache(machine).tx.outputs
        machine.stack += shown(outputs[_pop_index(machine, len(outputs))])

    return run


def _whole(shown: Callable[[Transaction], bytes]) -> Handler:
    def run(machine: Machine) -> None:
        machine.stack.append(shown(_cache(machine).tx))

    return run


def _outpoint(item: TxIn) -> tuple[bytes, ...]:
    return item.prevout.txid, le32(item.prevout.index), outpoint_flag(item)


def _asset(output: SpentOutput | TxOut) -> tuple[bytes, ...]:
    return output.asset[1:], output.asset[:1]


def _value(output: SpentOutput | TxOut) -> tuple[bytes, ...]:
    return _amount(output.value)


def _amount(field: bytes) -> tuple[bytes, bytes]:
    if field == _NULL:
        return bytes(8), b"\x01"
    return (field[1:] if is_commitment(field) else field[:0:-1]), field[:1]


def _issuance(item: TxIn) -> tuple[bytes, ...]:
    if item.issuance is None:
        return (b"",)
    tokens, amount = _amount(item.issuance.inflation_keys), _amount(item.issuance.amount)
    return *tokens, *amount, item.issuance.entropy, item.issuance.blinding_nonce


def _nonce(output: TxOut) -> tuple[bytes, ...]:
    return (b"" if output.nonce == _NULL else output.nonce,)


def _spent_script(machine: Machine) -> None:
    cache = _cache(machine)
    index = _pop_index(machine, len(cache.all_spent))
    _push_script(machine, cache.all_spent[index].script, lambda: cache.spent_script_hash(index))


def _output_script(machine: Machine) -> None:
    cache = _cache(machine)
    index = _pop_index(machine, len(cache.tx.outputs))
    _push_script(machine, cache.tx.outputs[index].script, lambda: cache.output_script_hash(index))


def _push_script(machine: Machine, script: bytes, script_hash: Callable[[], bytes]) -> None:
    version, program = witness_program(script) or (_NOT_A_PROGRAM, b"")
    machine.stack.append(script_hash() if version == _NOT_A_PROGRAM else program)
    machine.push_number(version)


def _current_index(machine: Machine) -> None:
    machine.push_number(machine.checker.index)


INTROSPECTION_HANDLERS: dict[int, Handler] = {
    op.OP_INSPECTINPUTOUTPOINT: _input(_outpoint),
    op.OP_INSPECTINPUTASSET: _spent(_asset),
    op.OP_INSPECTINPUTVALUE: _spent(_value),
    op.OP_INSPECTINPUTSCRIPTPUBKEY: _spent_script,
    op.OP_INSPECTINPUTSEQUENCE: _input(lambda item: (le32(item.sequence),)),
    op.OP_INSPECTINPUTISSUANCE: _input(_issuance),
    op.OP_PUSHCURRENTINPUTINDEX: _current_index,
    op.OP_INSPECTOUTPUTASSET: _output(_asset),
    op.OP_INSPECTOUTPUTVALUE: _output(_value),
    op.OP_INSPECTOUTPUTNONCE: _output(_nonce),
    op.OP_INSPECTOUTPUTSCRIPTPUBKEY: _output_script,
    op.OP_INSPECTVERSION: _whole(lambda tx: le32(tx.version)),
    op.OP_INSPECTLOCKTIME: _whole(lambda tx: le32(tx.locktime)),
    op.OP_INSPECTNUMINPUTS: _whole(lambda tx: encode_number(len(tx.inputs))),
    op.OP_INSPECTNUMOUTPUTS: _whole(lambda tx: encode_number(len(tx.outputs))),
    op.OP_TXWEIGHT: _whole(lambda tx: le64(tx.weight_wu)),
}
"""What each of these opcodes does to a machine that runs a tapscript."""
