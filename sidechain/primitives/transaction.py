"""Elements transactions: exact decoding, encoding and identifiers.

A decoded transaction keeps its bytes; identifiers and sizes are computed once, while parsing.
Confidential fields and proofs are carried as raw bytes and not judged here.

Source: elements/transactions.md 2 and 3.
"""

from collections.abc import Sequence
from dataclasses import field
from functools import lru_cache
from struct import error as StructError
from typing import TYPE_CHECKING, Any

from sidechain.crypto.hashes import fast_merkle_root, merkle_node, sha256d
from sidechain.errors import InvalidEncoding
from sidechain.primitives import confidential
from sidechain.primitives.encoding import Reader, compact_size, le32
from sidechain.primitives.record import identity_record
from sidechain.primitives.tx_parts import (
    EMPTY_INPUT_LEAF,
    EMPTY_INPUT_WITNESS,
    EMPTY_OUTPUT_LEAF,
    EMPTY_OUTPUT_WITNESS,
    INDEX_MASK,
    ISSUANCE_FLAG,
    MAX_SCRIPT_SIZE,
    NULL_INDEX,
    NULL_OUTPOINT,
    PEGIN_FLAG,
    SEQUENCE_FINAL,
    UINT32,
    InputWitness,
    Issuance,
    OutPoint,
    OutputWitness,
    TxIn,
    TxOut,
    read_inputs,
    read_outputs,
    read_witnesses,
)

__all__ = [
    "EMPTY_INPUT_WITNESS",
    "EMPTY_OUTPUT_WITNESS",
    "INDEX_MASK",
    "ISSUANCE_FLAG",
    "MAX_SCRIPT_SIZE",
    "NULL_INDEX",
    "NULL_OUTPOINT",
    "PEGIN_FLAG",
    "SEQUENCE_FINAL",
    "InputWitness",
    "Issuance",
    "OutPoint",
    "OutputWitness",
    "Transaction",
    "TxIn",
    "TxOut",
]


@identity_record
class Transaction:
    """One transaction with its bytes, identifiers and sizes.

    Make it with `decode`, `read` or `build`; the fields then always agree with `raw`. Two
    transactions are equal when their bytes with witness are.

    `base_size` is the size without witness and `total_size` with it, both in bytes.
    `outputs_start` is where the first output begins in `raw`.
    """

    version: int
    inputs: tuple[TxIn, ...]
    outputs: tuple[TxOut, ...]
    locktime: int
    input_witnesses: tuple[InputWitness, ...]
    output_witnesses: tuple[OutputWitness, ...]
    has_witness: bool
    raw: bytes = field(repr=False)
    base_size: int
    outputs_start: int
    txid: bytes
    wtxid: bytes = field(init=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Transaction) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Make the wtxid when it is first asked for: blocks do without."""
            if name == "wtxid":
                self.wtxid = sha256d(self.raw) if self.has_witness else self.txid
                return self.wtxid
            raise AttributeError(name)

    @classmethod
    def decode(cls, data: bytes) -> "Transaction":
        """Read one transaction that fills `data`.

        Raises:
            InvalidEncoding: it does not decode, is not in its one canonical form, or is followed
                by more bytes.
        """
        tx, end = _parse(data, 0)
        if end != len(data):
            raise InvalidEncoding("trailing data", f"{len(data) - end} bytes")
        return tx

    @classmethod
    def read(cls, reader: Reader) -> "Transaction":
        """Read one transaction and move the reader behind it.

        Raises:
            InvalidEncoding: as `decode`, but more bytes may follow.
        """
        tx, reader.pos = _parse(reader.data, reader.pos)
        return tx

    @classmethod
    def build(
        cls,
        *,
        version: int = 2,
        inputs: Sequence[TxIn],
        outputs: Sequence[TxOut],
        locktime: int = 0,
        input_witnesses: Sequence[InputWitness] = (),
        output_witnesses: Sequence[OutputWitness] = (),
    ) -> "Transaction":
        """Make a transaction from its parts; an omitted witness list is all empty.

        Raises:
            InvalidEncoding: the parts have no serialized form, or a witness list has another
                length than what it belongs to.
        """
        in_wits = tuple(input_witnesses) or (EMPTY_INPUT_WITNESS,) * len(inputs)
        out_wits = tuple(output_witnesses) or (EMPTY_OUTPUT_WITNESS,) * len(outputs)
        if len(in_wits) != len(inputs) or len(out_wits) != len(outputs):
            raise InvalidEncoding("witness count differs from inputs or outputs")
        witnesses: tuple[InputWitness | OutputWitness, ...] = (*in_wits, *out_wits)
        has_witness = not all(witness.is_empty for witness in witnesses)
        raw = b"".join(
            [
                le32(version),
                b"\1" if has_witness else b"\0",
                compact_size(len(inputs)),
                *[item.serialize() for item in inputs],
                compact_size(len(outputs)),
                *[item.serialize() for item in outputs],
                le32(locktime),
                *([item.serialize() for item in witnesses] if has_witness else []),
            ]
        )
        # Reading it back proves that every field has a form others will read the same way.
        return cls.decode(raw)

    @property
    def total_size(self) -> int:
        """Size with witness, in bytes."""
        return len(self.raw)

    @property
    def weight_wu(self) -> int:
        """Weight units: three times the base size plus the total size."""
        return 3 * self.base_size + len(self.raw)

    @property
    def vsize(self) -> int:
        """Virtual bytes, rounded up, signature operations not considered."""
        return (self.weight_wu + 3) // 4

    @property
    def is_coinbase(self) -> bool:
        """Whether its only input has the null prevout."""
        return len(self.inputs) == 1 and self.inputs[0].prevout.is_null

    def serialize(self, include_witness: bool = True) -> bytes:
        """The bytes of this transaction.

        Args:
            include_witness: False gives the form the txid is computed from: flags byte zero and
                no witness section.
        """
        if include_witness or not self.has_witness:
            return self.raw
        return _stripped(self.raw, self.base_size)

    def witness_only_hash(self) -> bytes:
        """The leaf of the block's witness commitment; the txid has no part in it.

        Source: elements/blocks.md 1.3.
        """
        if len(self.inputs) == 1 and not self.inputs[0].prevout.is_null:
            in_root = self.input_witnesses[0].merkle_leaf()
        else:
            in_root = fast_merkle_root(
                [
                    EMPTY_INPUT_LEAF
                    if witness is EMPTY_INPUT_WITNESS or txin.prevout.is_null
                    else witness.merkle_leaf()
                    for txin, witness in zip(self.inputs, self.input_witnesses, strict=True)
                ]
            )
        return merkle_node(in_root, self._output_witness_root())

    def _output_witness_root(self) -> bytes:
        witnesses = self.output_witnesses
        if witnesses.count(EMPTY_OUTPUT_WITNESS) == len(witnesses):
            return _empty_outputs_root(len(witnesses))
        return fast_merkle_root(
            [
                EMPTY_OUTPUT_LEAF if witness is EMPTY_OUTPUT_WITNESS else witness.merkle_leaf()
                for witness in witnesses
            ]
        )

    def outputs_bytes(self) -> bytes:
        """All outputs one after another, without their count."""
        return self.raw[self.outputs_start : self.base_size - 4]

    def discount_weight_wu(self, weight_wu: int | None = None) -> int:
        """Weight with the discount for hidden outputs: fee policy only, never a limit.

        Args:
            weight_wu: the weight to start from where signature operations raise it; by default
                this transaction's own.
        Source: elements/transactions.md 3 (ELIP 200).
        """
        weight = self.weight_wu if weight_wu is None else weight_wu
        for output, witness in zip(self.outputs, self.output_witnesses, strict=True):
            if witness is not EMPTY_OUTPUT_WITNESS:
                weight -= len(witness.serialize()) - 2
            if confidential.is_commitment(output.value):
                weight -= 96
            if confidential.is_commitment(output.nonce):
                weight -= 128
        return weight

    @property
    def discount_vsize(self) -> int:
        """Discounted virtual bytes, rounded up, signature operations not considered."""
        return (self.discount_weight_wu() + 3) // 4


def _parse(data: bytes, start: int) -> tuple[Transaction, int]:
    """Read one transaction at `start`.

    Slices may reach past the end of the data while reading: every count is followed by at least
    one indexed byte an element, which raises, and the last comparison catches the rest.
    """
    try:
        tx, end = _read_transaction(data, start)
    except (IndexError, StructError):
        raise InvalidEncoding("end of data") from None
    if end > len(data):
        raise InvalidEncoding("end of data")
    return tx, end


def _read_transaction(data: bytes, start: int) -> tuple[Transaction, int]:
    (version,) = UINT32.unpack_from(data, start)
    flags = data[start + 4]
    inputs, outputs_count_at = read_inputs(data, start + 5)
    outputs, pos = read_outputs(data, outputs_count_at)
    (locktime,) = UINT32.unpack_from(data, pos)
    pos += 4
    base_size = pos - start
    if flags & 1:
        in_wits, out_wits, pos = read_witnesses(data, pos, len(inputs), len(outputs))
    else:
        in_wits = (EMPTY_INPUT_WITNESS,) * len(inputs)
        out_wits = (EMPTY_OUTPUT_WITNESS,) * len(outputs)
    if flags > 1:
        raise InvalidEncoding("Unknown transaction optional data")
    raw = data[start:pos]
    tx = Transaction(
        version=version,
        inputs=inputs,
        outputs=outputs,
        locktime=locktime,
        input_witnesses=in_wits,
        output_witnesses=out_wits,
        has_witness=flags == 1,
        raw=raw,
        base_size=base_size,
        outputs_start=outputs_count_at - start + _compact_size_width(len(outputs)),
        txid=sha256d(_stripped(raw, base_size) if flags else raw),
    )
    return tx, pos


def _compact_size_width(number: int) -> int:
    return 1 if number < 0xFD else len(compact_size(number))


@lru_cache(maxsize=256)
def _empty_outputs_root(count: int) -> bytes:
    return fast_merkle_root([EMPTY_OUTPUT_LEAF] * count)


def _stripped(raw: bytes, base_size: int) -> bytes:
    return raw[:4] + b"\0" + raw[5:base_size]
