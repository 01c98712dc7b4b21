"""Signature hashes of legacy and segwit v0 inputs, with Elements' additions.

Outpoints are hashed with the masked index; issuances are hashed with the input they stand on;
`SIGHASH_RANGEPROOF` adds each output's range proof and surjection proof, in this order.

Source: elements/script.md 2 and 3.
"""

from collections.abc import Callable
from itertools import accumulate

from sidechain.crypto.hashes import ZERO_HASH, sha256d
from sidechain.primitives.encoding import compact_size, le32, vec
from sidechain.primitives.transaction import OutputWitness, Transaction, TxIn
from sidechain.script.opcodes import OP_CODESEPARATOR
from sidechain.script.script import iter_ops

SIGHASH_ALL = 0x01
SIGHASH_NONE = 0x02
SIGHASH_SINGLE = 0x03
SIGHASH_RANGEPROOF = 0x40
SIGHASH_ANYONECANPAY = 0x80

BASE_TYPE_MASK = 0x1F

SINGLE_WITHOUT_OUTPUT = b"\x01" + bytes(31)
"""The hash of legacy SIGHASH_SINGLE where the input has no output of the same index."""

_NULL_OUTPUT = b"\0\0\0\0"


class SighashCache:
    """What the signature hashes of all inputs of one transaction share.

    Keep one per transaction and pass it to every call for it; each part is computed on first use.
    Without it the work for a transaction grows with the square of its inputs.
    """

    __slots__ = ("_legacy_inputs", "_parts", "tx")

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx
        self._parts: dict[str, bytes] = {}
        self._legacy_inputs: dict[bool, tuple[bytes, list[int]]] = {}

    @property
    def prevouts(self) -> bytes:
        """Double SHA-256 of all outpoints."""
        return self._part("prevouts", lambda: [i.prevout.serialize() for i in self.tx.inputs])

    @property
    def sequences(self) -> bytes:
        """Double SHA-256 of all sequences."""
        return self._part("sequences", lambda: [le32(i.sequence) for i in self.tx.inputs])

    @property
    def issuances(self) -> bytes:
        """Double SHA-256 of all issuances, one zero byte where an input has none."""
        return self._part("issuances", lambda: [_issuance(i) or b"\0" for i in self.tx.inputs])

    @property
    def outputs(self) -> bytes:
        """Double SHA-256 of all outputs."""
        return self._part("outputs", lambda: [self.all_outputs])

    @property
    def range_proofs(self) -> bytes:
        """Double SHA-256 of all output proofs, range proof first."""
        return self._part("range_proofs", lambda: [_proofs(w) for w in self.tx.output_witnesses])

    @property
    def all_outputs(self) -> bytes:
        """All outputs one after another."""
        known = self._parts.get("all_outputs")
        if known is None:
            known = b"".join([item.serialize() for item in self.tx.outputs])
            self._parts["all_outputs"] = known
        return known

    def unsigned_inputs(self, *, with_sequences: bool) -> tuple[bytes, list[int]]:
        """All inputs as the legacy hash shows those it does not sign, and where each one starts.

        The list has one entry more than there are inputs: the end.
        """
        known = self._legacy_inputs.get(with_sequences)
        if known is None:
            pieces = [
                item.prevout.serialize()
                + b"\0"
                + le32(item.sequence if with_sequences else 0)
                + _issuance(item)
                for item in self.tx.inputs
            ]
            starts = [0, *accumulate(map(len, pieces))]
            known = self._legacy_inputs[with_sequences] = b"".join(pieces), starts
        return known

    def _part(self, name: str, pieces: Callable[[], list[bytes]]) -> bytes:
        known = self._parts.get(name)
        if known is None:
            known = self._parts[name] = sha256d(b"".join(pieces()))
        return known


def segwit_v0_sighash(
    tx: Transaction,
    index: int,
    script_code: bytes,
    value_field: bytes,
    hash_type: int,
    *,
    rangeproof: bool,
    cache: SighashCache | None = None,
) -> bytes:
    """The 32 bytes a segwit v0 signature of input `index` signs.

    Args:
        value_field: raw value field of the spent output (9 or 33 bytes).
        hash_type: the whole byte behind the signature.
        rangeproof: whether bit 0x40 of the type has its meaning (script flag).
        cache: shared parts of this transaction.
    """
    cache = cache or SighashCache(tx)
    base = hash_type & BASE_TYPE_MASK
    anyone = bool(hash_type & SIGHASH_ANYONECANPAY)
    partial = base in (SIGHASH_NONE, SIGHASH_SINGLE)
    spent = tx.inputs[index]
    with_proofs = bool(rangeproof and hash_type & SIGHASH_RANGEPROOF)
    outputs, proofs = _v0_output_hashes(index, base, with_proofs, cache)
    return sha256d(
        b"".join(
            (
                le32(tx.version),
                ZERO_HASH if anyone else cache.prevouts,
                ZERO_HASH if anyone or partial else cache.sequences,
                ZERO_HASH if anyone else cache.issuances,
                spent.prevout.serialize(),
                vec(script_code),
                value_field,
                le32(spent.sequence),
                _issuance(spent),
                outputs,
                proofs,
                le32(tx.locktime),
                le32(hash_type),
            )
        )
    )


def _v0_output_hashes(
    index: int, base: int, with_proofs: bool, cache: SighashCache
) -> tuple[bytes, bytes]:
    tx = cache.tx
    if base == SIGHASH_SINGLE and index < len(tx.outputs):
        outputs = sha256d(tx.outputs[index].serialize())
        proofs = sha256d(_proofs(tx.output_witnesses[index])) if with_proofs else b""
    elif base in (SIGHASH_NONE, SIGHASH_SINGLE):
        outputs = ZERO_HASH
        proofs = ZERO_HASH if with_proofs else b""
    else:
        outputs = cache.outputs
        proofs = cache.range_proofs if with_proofs else b""
    return outputs, proofs


def legacy_sighash(
    tx: Transaction,
    index: int,
    script_code: bytes,
    hash_type: int,
    *,
    rangeproof: bool,
    cache: SighashCache | None = None,
) -> bytes:
    """The 32 bytes a signature of a bare or P2SH input `index` signs.

    Args:
        script_code: the script from the last executed OP_CODESEPARATOR on, signatures removed.
        hash_type: the whole byte behind the signature.
        rangeproof: whether bit 0x40 of the type has its meaning (script flag).
        cache: shared parts of this transaction.
    """
    cache = cache or SighashCache(tx)
    base = hash_type & BASE_TYPE_MASK
    if base == SIGHASH_SINGLE and index >= len(tx.outputs):
        return SINGLE_WITHOUT_OUTPUT
    with_proofs = bool(rangeproof and hash_type & SIGHASH_RANGEPROOF)
    return sha256d(
        b"".join(
            (
                le32(tx.version),
                _legacy_inputs(index, script_code, hash_type, cache),
                _legacy_outputs(index, base, with_proofs, cache),
                le32(tx.locktime),
                le32(hash_type),
            )
        )
    )


def _legacy_inputs(index: int, script_code: bytes, hash_type: int, cache: SighashCache) -> bytes:
    item = cache.tx.inputs[index]
    code = vec(remove_code_separators(script_code))
    signed = item.prevout.serialize() + code + le32(item.sequence) + _issuance(item)
    if hash_type & SIGHASH_ANYONECANPAY:
        return b"\x01" + signed
    keeps_sequences = hash_type & BASE_TYPE_MASK not in (SIGHASH_NONE, SIGHASH_SINGLE)
    others, starts = cache.unsigned_inputs(with_sequences=keeps_sequences)
    before, behind = others[: starts[index]], others[starts[index + 1] :]
    return compact_size(len(cache.tx.inputs)) + before + signed + behind


def _legacy_outputs(index: int, base: int, with_proofs: bool, cache: SighashCache) -> bytes:
    tx = cache.tx
    if base == SIGHASH_NONE:
        return b"\0"
    if base == SIGHASH_SINGLE:
        proofs = _proofs(tx.output_witnesses[index]) if with_proofs else b""
        own = tx.outputs[index].serialize() + proofs
        return compact_size(index + 1) + _NULL_OUTPUT * index + own
    if not with_proofs:
        return compact_size(len(tx.outputs)) + cache.all_outputs
    pairs = zip(tx.outputs, tx.output_witnesses, strict=True)
    pieces = [output.serialize() + _proofs(witness) for output, witness in pairs]
    return compact_size(len(tx.outputs)) + b"".join(pieces)


def remove_code_separators(script: bytes) -> bytes:
    """The script without its OP_CODESEPARATORs; bytes behind a cut-off push stay."""
    if OP_CODESEPARATOR not in script:
        return script
    kept: list[bytes] = []
    start = 0
    for op in iter_ops(script):
        if op.opcode == OP_CODESEPARATOR:
            kept.append(script[start : op.end - 1])
            start = op.end
    return b"".join(kept) + script[start:]


def _proofs(witness: OutputWitness) -> bytes:
    return vec(witness.range_proof) + vec(witness.surjection_proof)


def _issuance(item: TxIn) -> bytes:
    return item.issuance.serialize() if item.issuance is not None else b""
