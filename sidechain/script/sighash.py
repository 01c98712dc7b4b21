"""Signature hashes of legacy and segwit v0 inputs, with Elements' additions.

Outpoints are hashed with the masked index; issuances are hashed with the input they stand on;
`SIGHASH_RANGEPROOF` adds each output's range proof and surjection proof, in this order.

Source: elements/script.md 2 and 3.
"""

from collections.abc import Callable

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
    """Parts of the segwit v0 hash that all inputs of one transaction share.

    Keep one per transaction and pass it to every call for it; each part is computed on first use.
    """

    __slots__ = ("_parts", "tx")

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx
        self._parts: dict[str, bytes] = {}

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
        return self._part("issuances", lambda: [_issuance_or_zero(i) for i in self.tx.inputs])

    @property
    def outputs(self) -> bytes:
        """Double SHA-256 of all outputs."""
        return self._part("outputs", lambda: [o.serialize() for o in self.tx.outputs])

    @property
    def range_proofs(self) -> bytes:
        """Double SHA-256 of all output proofs, range proof first."""
        return self._part("range_proofs", lambda: [_proofs(w) for w in self.tx.output_witnesses])

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
    outputs, proofs = _v0_output_hashes(tx, index, base, cache, rangeproof and hash_type & 0x40)
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
                spent.issuance.serialize() if spent.issuance else b"",
                outputs,
                proofs,
                le32(tx.locktime),
                le32(hash_type),
            )
        )
    )


def _v0_output_hashes(
    tx: Transaction, index: int, base: int, cache: SighashCache, with_proofs: int
) -> tuple[bytes, bytes]:
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
    tx: Transaction, index: int, script_code: bytes, hash_type: int, *, rangeproof: bool
) -> bytes:
    """The 32 bytes a signature of a bare or P2SH input `index` signs.

    Args:
        script_code: the script from the last executed OP_CODESEPARATOR on, signatures removed.
        hash_type: the whole byte behind the signature.
        rangeproof: whether bit 0x40 of the type has its meaning (script flag).
    """
    base = hash_type & BASE_TYPE_MASK
    if base == SIGHASH_SINGLE and index >= len(tx.outputs):
        return SINGLE_WITHOUT_OUTPUT
    return sha256d(
        b"".join(
            (
                le32(tx.version),
                _legacy_inputs(tx, index, script_code, hash_type),
                _legacy_outputs(tx, index, base, bool(rangeproof and hash_type & 0x40)),
                le32(tx.locktime),
                le32(hash_type),
            )
        )
    )


def _legacy_inputs(tx: Transaction, index: int, script_code: bytes, hash_type: int) -> bytes:
    keeps_sequences = hash_type & BASE_TYPE_MASK not in (SIGHASH_NONE, SIGHASH_SINGLE)
    only_this = bool(hash_type & SIGHASH_ANYONECANPAY)
    pieces = [compact_size(1 if only_this else len(tx.inputs))]
    for position, item in enumerate(tx.inputs):
        signed = position == index
        if only_this and not signed:
            continue
        pieces.append(item.prevout.serialize())
        pieces.append(vec(remove_code_separators(script_code)) if signed else b"\0")
        pieces.append(le32(item.sequence if signed or keeps_sequences else 0))
        if item.issuance is not None:
            pieces.append(item.issuance.serialize())
    return b"".join(pieces)


def _legacy_outputs(tx: Transaction, index: int, base: int, with_proofs: bool) -> bytes:
    count = len(tx.outputs)
    if base == SIGHASH_NONE:
        count = 0
    elif base == SIGHASH_SINGLE:
        count = index + 1
    pieces = [compact_size(count)]
    for position in range(count):
        if base == SIGHASH_SINGLE and position != index:
            pieces.append(_NULL_OUTPUT)
            continue
        pieces.append(tx.outputs[position].serialize())
        if with_proofs:
            pieces.append(_proofs(tx.output_witnesses[position]))
    return b"".join(pieces)


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


def _issuance_or_zero(item: TxIn) -> bytes:
    return item.issuance.serialize() if item.issuance is not None else b"\0"
