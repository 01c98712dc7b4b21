"""Elements transactions read in the plainest way: field by field, nothing shared, nothing kept.

What the fast reader must equal. Source: elements/transactions.md 2.
"""

import hashlib
from dataclasses import dataclass

import wallycore

from sidechain.errors import InvalidEncoding
from sidechain.primitives.encoding import Reader, compact_size, vec
from sidechain.primitives.transaction import (
    InputWitness,
    Issuance,
    OutPoint,
    OutputWitness,
    TxIn,
    TxOut,
)

_ASSET = {0: 0, 1: 32, 0x0A: 32, 0x0B: 32}
_VALUE = {0: 0, 1: 8, 8: 32, 9: 32}
_NONCE = {0: 0, 1: 32, 2: 32, 3: 32}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainTransaction:
    """The parts of one transaction, and where its sections end."""

    version: int
    inputs: tuple[TxIn, ...]
    outputs: tuple[TxOut, ...]
    locktime: int
    input_witnesses: tuple[InputWitness, ...]
    output_witnesses: tuple[OutputWitness, ...]
    has_witness: bool
    base_size: int
    outputs_bytes: bytes
    raw: bytes

    @property
    def txid(self) -> bytes:
        """Hash of the form without witness."""
        return _sha256d(self.raw[:4] + b"\0" + self.raw[5 : self.base_size])

    @property
    def wtxid(self) -> bytes:
        """Hash of all bytes."""
        return _sha256d(self.raw)

    def witness_only_hash(self) -> bytes:
        """The leaf of the block's witness commitment."""
        ins = []
        for txin, witness in zip(self.inputs, self.input_witnesses, strict=True):
            shown = InputWitness() if txin.prevout.is_null else witness
            stacks = [
                compact_size(len(items)) + b"".join(map(vec, items))
                for items in (shown.script, shown.pegin)
            ]
            proofs = [vec(shown.issuance_range_proof), vec(shown.inflation_range_proof)]
            ins.append(_root([_sha256d(field) for field in [*proofs, *stacks]]))
        outs = [
            _root([_sha256d(vec(w.surjection_proof)), _sha256d(vec(w.range_proof))])
            for w in self.output_witnesses
        ]
        return _root([_root(ins), _root(outs)])


def read_plainly(data: bytes) -> PlainTransaction:
    """Read one transaction that fills `data`.

    Raises:
        InvalidEncoding: where the fast reader must raise too.
    """
    reader = Reader(data)
    version = reader.u32()
    flags = reader.u8()
    inputs = tuple([_input(reader) for _ in range(reader.compact_size())])
    count = reader.compact_size()
    outputs_at = reader.pos
    outputs = tuple([_output(reader) for _ in range(count)])
    outputs_bytes = data[outputs_at : reader.pos]
    locktime = reader.u32()
    base_size = reader.pos
    in_wits: tuple[InputWitness, ...] = (InputWitness(),) * len(inputs)
    out_wits: tuple[OutputWitness, ...] = (OutputWitness(),) * len(outputs)
    if flags & 1:
        in_wits = tuple(
            [
                InputWitness(reader.vec(), reader.vec(), reader.vectors(), reader.vectors())
                for _ in inputs
            ]
        )
        out_wits = tuple([OutputWitness(reader.vec(), reader.vec()) for _ in outputs])
        if all(witness.is_empty for witness in (*in_wits, *out_wits)):
            raise InvalidEncoding("Superfluous witness record")
    if flags > 1:
        raise InvalidEncoding("Unknown transaction optional data")
    reader.done()
    return PlainTransaction(
        version=version,
        inputs=inputs,
        outputs=outputs,
        locktime=locktime,
        input_witnesses=in_wits,
        output_witnesses=out_wits,
        has_witness=bool(flags),
        base_size=base_size,
        outputs_bytes=outputs_bytes,
        raw=data,
    )


def _input(reader: Reader) -> TxIn:
    txid, index = reader.read(32), reader.u32()
    script_sig, sequence = reader.vec(), reader.u32()
    if index == 0xFFFFFFFF:
        return TxIn(OutPoint(txid, index), script_sig, sequence)
    issuance = None
    if index & 0x80000000:
        issuance = Issuance(
            blinding_nonce=reader.read(32),
            entropy=reader.read(32),
            amount=_field(reader, _VALUE),
            inflation_keys=_field(reader, _VALUE),
        )
        if issuance.amount == issuance.inflation_keys == b"\0":
            raise InvalidEncoding("Superfluous issuance record")
    is_pegin = bool(index & 0x40000000)
    return TxIn(OutPoint(txid, index & 0x3FFFFFFF), script_sig, sequence, issuance, is_pegin)


def _output(reader: Reader) -> TxOut:
    asset, value = _field(reader, _ASSET), _field(reader, _VALUE)
    if b"\0" in (asset, value):
        raise InvalidEncoding("Confidential values may not be null")
    return TxOut(asset, value, _field(reader, _NONCE), reader.vec())


def _field(reader: Reader, lengths: dict[int, int]) -> bytes:
    prefix = reader.read(1)
    if prefix[0] not in lengths:
        raise InvalidEncoding("Unrecognized serialization prefix")
    return prefix + reader.read(lengths[prefix[0]])


def _sha256d(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def _root(leaves: list[bytes]) -> bytes:
    """The fast merkle root by its definition: halve the list until one node is left."""
    if not leaves:
        return bytes(32)
    while len(leaves) > 1:
        pairs = [leaves[i : i + 2] for i in range(0, len(leaves), 2)]
        leaves = [
            bytes(wallycore.sha256_midstate(b"".join(pair))) if len(pair) == 2 else pair[0]
            for pair in pairs
        ]
    return leaves[0]
