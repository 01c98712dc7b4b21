"""The parts of an Elements transaction: inputs, outputs, issuances, witnesses, and their readers.

Source: elements/transactions.md 2.2 to 2.6.
"""

from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from sidechain.crypto.hashes import fast_merkle_root, merkle_node, sha256d
from sidechain.errors import InvalidEncoding
from sidechain.primitives import confidential
from sidechain.primitives.confidential import ASSET_LENGTHS, NONCE_LENGTHS, NULL, VALUE_LENGTHS
from sidechain.primitives.encoding import le32, long_compact_size, vec, vectors
from sidechain.primitives.record import record

ISSUANCE_FLAG = 0x80000000
PEGIN_FLAG = 0x40000000
INDEX_MASK = 0x3FFFFFFF
NULL_INDEX = 0xFFFFFFFF
SEQUENCE_FINAL = 0xFFFFFFFF
MAX_SCRIPT_SIZE = 10_000

UINT32 = Struct("<I")
_PREVOUT = Struct("<32sI")
_UNSIGNED_INPUT = Struct("<32sIBI")
"""Prevout, length of the script and, where that is zero, the sequence."""
_EXPLICIT_OUTPUT = Struct("33s9s1sB")
"""Asset, value, nonce and length of the script of an output that shows everything."""
_ZERO_TXID = bytes(32)
_OP_RETURN = 0x6A


class OutPoint(NamedTuple):
    """Names one output: its transaction's id and its position, without flag bits."""

    txid: bytes
    index: int  # type: ignore[assignment]  # the word of the format, over tuple.index

    def serialize(self) -> bytes:
        """The 36 bytes that are hashed for this outpoint."""
        return self.txid + self.index.to_bytes(4, "little")

    @property
    def is_null(self) -> bool:
        """Whether this is the prevout of a coinbase."""
        return self.index == NULL_INDEX and self.txid == _ZERO_TXID


NULL_OUTPOINT = OutPoint(_ZERO_TXID, NULL_INDEX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuance:
    """Creation of an asset (blinding nonce zero) or of more of it.

    `amount` and `inflation_keys` are raw value fields; not both are null.
    """

    blinding_nonce: bytes
    entropy: bytes
    amount: bytes
    inflation_keys: bytes

    def serialize(self) -> bytes:
        """The object as it follows an input's sequence."""
        return self.blinding_nonce + self.entropy + self.amount + self.inflation_keys

    @property
    def is_reissuance(self) -> bool:
        """Whether it adds to an asset that exists."""
        return any(self.blinding_nonce)


@record
class TxIn:
    """One input. `prevout.index` has no flag bits; the flags are the last two fields."""

    prevout: OutPoint
    script_sig: bytes = b""
    sequence: int = SEQUENCE_FINAL
    issuance: Issuance | None = None
    is_pegin: bool = False

    def wire_index(self) -> int:
        """The index with the flag bits it is serialized with.

        Raises:
            InvalidEncoding: this combination has no serialized form.
        """
        index = self.prevout.index
        if index == NULL_INDEX:
            if self.issuance is not None or self.is_pegin:
                raise InvalidEncoding("index 0xffffffff cannot carry flags")
            return index
        if not 0 <= index <= INDEX_MASK:
            raise InvalidEncoding("output index above 30 bits")
        if self.issuance is not None:
            index |= ISSUANCE_FLAG
        if self.is_pegin:
            index |= PEGIN_FLAG
        if index == NULL_INDEX:
            raise InvalidEncoding("output index has no serialized form")
        return index

    def serialize(self) -> bytes:
        """The input as it stands in a transaction.

        Raises:
            InvalidEncoding: no serialized form, see `wire_index`.
        """
        head = self.prevout.txid + le32(self.wire_index()) + vec(self.script_sig)
        tail = self.issuance.serialize() if self.issuance is not None else b""
        return head + le32(self.sequence) + tail


def is_unspendable(script: bytes) -> bool:
    """Whether an output with this script can never be spent: empty, OP_RETURN or too long."""
    return not script or script[0] == _OP_RETURN or len(script) > MAX_SCRIPT_SIZE


@record
class TxOut:
    """One output; asset, value and nonce are raw fields."""

    asset: bytes
    value: bytes
    nonce: bytes
    script: bytes

    def serialize(self) -> bytes:
        """The output as it stands in a transaction."""
        return self.asset + self.value + self.nonce + vec(self.script)

    @classmethod
    def decode(cls, data: bytes) -> "TxOut":
        """Read one output that fills `data`; null assets and values are refused.

        Raises:
            InvalidEncoding: unknown prefix, cut off, null field or trailing bytes.
        """
        try:
            output, end = _read_output(data, 0)
        except IndexError:
            raise InvalidEncoding("end of data") from None
        if end != len(data):
            raise InvalidEncoding("trailing data" if end < len(data) else "end of data")
        return output

    @property
    def is_fee(self) -> bool:
        """Whether it pays the block's fees: no script, everything explicit."""
        return not self.script and self.asset[0] == 1 and self.value[0] == 1

    @property
    def is_unspendable(self) -> bool:
        """Whether it never enters the set of coins."""
        return is_unspendable(self.script)

    @property
    def asset_id(self) -> bytes | None:
        """The explicit asset id, or None."""
        return confidential.asset_id(self.asset)

    @property
    def value_sats(self) -> int | None:
        """The explicit amount (it may be negative, see `confidential.value_sats`), or None."""
        return confidential.value_sats(self.value)


@record
class InputWitness:
    """Witness of one input: proofs of a hidden issuance, script items, peg-in items."""

    issuance_range_proof: bytes = b""
    inflation_range_proof: bytes = b""
    script: tuple[bytes, ...] = ()
    pegin: tuple[bytes, ...] = ()

    def serialize(self) -> bytes:
        """The four fields as they stand in the witness section."""
        proofs = vec(self.issuance_range_proof) + vec(self.inflation_range_proof)
        return proofs + vectors(self.script) + vectors(self.pegin)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it; an item of length 0 is something."""
        proofs = self.issuance_range_proof or self.inflation_range_proof
        return not (proofs or self.script or self.pegin)

    def merkle_leaf(self) -> bytes:
        """The hash that enters the witness-only hash."""
        if not (self.issuance_range_proof or self.inflation_range_proof or self.pegin):
            script = merkle_node(_hash_field(vectors(self.script)), _EMPTY_VECTOR_HASH)
            return merkle_node(_NO_PROOFS, script)
        parts = (
            vec(self.issuance_range_proof),
            vec(self.inflation_range_proof),
            vectors(self.script),
            vectors(self.pegin),
        )
        return fast_merkle_root([_hash_field(part) for part in parts])


@record
class OutputWitness:
    """Witness of one output: the proofs of a hidden asset and a hidden value."""

    surjection_proof: bytes = b""
    range_proof: bytes = b""

    def serialize(self) -> bytes:
        """The two fields as they stand in the witness section."""
        return vec(self.surjection_proof) + vec(self.range_proof)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it."""
        return not (self.surjection_proof or self.range_proof)

    def merkle_leaf(self) -> bytes:
        """The hash that enters the witness-only hash."""
        parts = (vec(self.surjection_proof), vec(self.range_proof))
        return fast_merkle_root([_hash_field(part) for part in parts])


EMPTY_INPUT_WITNESS = InputWitness()
EMPTY_OUTPUT_WITNESS = OutputWitness()

_EMPTY_VECTOR_HASH = sha256d(b"\0")
_NO_PROOFS = merkle_node(_EMPTY_VECTOR_HASH, _EMPTY_VECTOR_HASH)


def _hash_field(serialized: bytes) -> bytes:
    return _EMPTY_VECTOR_HASH if serialized == b"\0" else sha256d(serialized)


EMPTY_INPUT_LEAF = EMPTY_INPUT_WITNESS.merkle_leaf()
EMPTY_OUTPUT_LEAF = EMPTY_OUTPUT_WITNESS.merkle_leaf()


_read_unsigned = _UNSIGNED_INPUT.unpack_from
_read_explicit = _EXPLICIT_OUTPUT.unpack_from


def read_inputs(data: bytes, pos: int) -> tuple[tuple[TxIn, ...], int]:
    """Read the input list at `pos`.

    This and the two readers below may raise IndexError or struct.error where the data ends, and
    may return a position behind its end: the caller turns both into InvalidEncoding.

    Returns:
        The inputs and the position behind them.
    Raises:
        InvalidEncoding: a field is malformed.
    """
    count = data[pos]
    pos += 1
    if count >= 0xFD:
        count, pos = long_compact_size(data, pos - 1)
    inputs = []
    last_unsigned = len(data) - _UNSIGNED_INPUT.size
    for _ in range(count):
        if pos <= last_unsigned:
            txid, index, length, sequence = _read_unsigned(data, pos)
            if not length and index <= INDEX_MASK:
                # Spends by witness, which is nearly all inputs there are.
                inputs.append(TxIn(OutPoint(txid, index), b"", sequence))
                pos += 41
                continue
        txid, index = _PREVOUT.unpack_from(data, pos)
        length = data[pos + 36]
        pos += 37
        if length >= 0xFD:
            length, pos = long_compact_size(data, pos - 1)
        end = pos + length
        (sequence,) = UINT32.unpack_from(data, end)
        script_sig = data[pos:end]
        pos = end + 4
        issuance = None
        is_pegin = False
        if index > INDEX_MASK and index != NULL_INDEX:
            is_pegin = bool(index & PEGIN_FLAG)
            if index & ISSUANCE_FLAG:
                issuance, pos = _read_issuance(data, pos)
            index &= INDEX_MASK
        inputs.append(TxIn(OutPoint(txid, index), script_sig, sequence, issuance, is_pegin))
    return tuple(inputs), pos


def _read_issuance(data: bytes, pos: int) -> tuple[Issuance, int]:
    amount_pos = pos + 64
    keys_pos = amount_pos + _field_length(VALUE_LENGTHS, data[amount_pos])
    end = keys_pos + _field_length(VALUE_LENGTHS, data[keys_pos])
    issuance = Issuance(
        blinding_nonce=data[pos : pos + 32],
        entropy=data[pos + 32 : amount_pos],
        amount=data[amount_pos:keys_pos],
        inflation_keys=data[keys_pos:end],
    )
    if issuance.amount == NULL and issuance.inflation_keys == NULL:
        raise InvalidEncoding("Superfluous issuance record")
    return issuance, end


def _field_length(lengths: dict[int, int], prefix: int) -> int:
    length = lengths.get(prefix)
    if length is None:
        raise InvalidEncoding("Unrecognized serialization prefix")
    return length


def read_outputs(data: bytes, pos: int) -> tuple[tuple[TxOut, ...], int]:
    """Read the output list at `pos`; see `read_inputs`."""
    count = data[pos]
    pos += 1
    if count >= 0xFD:
        count, pos = long_compact_size(data, pos - 1)
    outputs = []
    last_explicit = len(data) - _EXPLICIT_OUTPUT.size
    asset = b""
    for _ in range(count):
        if pos <= last_explicit:
            field, value, nonce, length = _read_explicit(data, pos)
            if field[0] == 1 == value[0] and nonce == NULL and length < 0xFD:
                # One object for an asset that is named again keeps waiting transactions small.
                asset = asset if field == asset else field
                start = pos + 44
                pos = start + length
                outputs.append(TxOut(asset, value, NULL, data[start:pos]))
                continue
        output, pos = _read_output(data, pos)
        outputs.append(output)
    return tuple(outputs), pos


def _read_output(data: bytes, pos: int) -> tuple[TxOut, int]:
    value_pos = pos + _field_length(ASSET_LENGTHS, data[pos])
    nonce_pos = value_pos + _field_length(VALUE_LENGTHS, data[value_pos])
    if not (data[pos] and data[value_pos]):
        raise InvalidEncoding("Confidential values may not be null")
    script_pos = nonce_pos + _field_length(NONCE_LENGTHS, data[nonce_pos])
    length = data[script_pos]
    start = script_pos + 1
    if length >= 0xFD:
        length, start = long_compact_size(data, script_pos)
    end = start + length
    output = TxOut(
        data[pos:value_pos], data[value_pos:nonce_pos], data[nonce_pos:script_pos], data[start:end]
    )
    return output, end


def read_witnesses(
    data: bytes, pos: int, input_count: int, output_count: int
) -> tuple[tuple[InputWitness, ...], tuple[OutputWitness, ...], int]:
    """Read the witness section at `pos`; see `read_inputs`. All empty is refused."""
    in_wits = []
    empty = 0
    for _ in range(input_count):
        if data.startswith(b"\0\0\2", pos):
            read = _read_pair(data, pos + 3)
            if read is not None:
                witness, pos = read
                in_wits.append(witness)
                continue
        if data.startswith(b"\0\0\0\0", pos):
            in_wits.append(EMPTY_INPUT_WITNESS)
            empty += 1
            pos += 4
            continue
        issuance_proof, pos = _read_vec(data, pos)
        inflation_proof, pos = _read_vec(data, pos)
        script, pos = _read_vectors(data, pos)
        pegin, pos = _read_vectors(data, pos)
        in_wits.append(InputWitness(issuance_proof, inflation_proof, script, pegin))
    # Nothing but these four bytes reads as an empty witness, for lengths have one form.
    in_empty = empty == input_count
    if not in_empty and data.startswith(bytes(2 * output_count), pos):
        return tuple(in_wits), (EMPTY_OUTPUT_WITNESS,) * output_count, pos + 2 * output_count
    out_wits = []
    for _ in range(output_count):
        if data.startswith(b"\0\0", pos):
            out_wits.append(EMPTY_OUTPUT_WITNESS)
            pos += 2
            continue
        surjection_proof, pos = _read_vec(data, pos)
        range_proof, pos = _read_vec(data, pos)
        out_wits.append(OutputWitness(surjection_proof, range_proof))
    if in_empty and out_wits.count(EMPTY_OUTPUT_WITNESS) == output_count:
        raise InvalidEncoding("Superfluous witness record")
    return tuple(in_wits), tuple(out_wits), pos


def _read_pair(data: bytes, pos: int) -> tuple[InputWitness, int] | None:
    """A witness of two short script items and nothing else, or None where it is no such one."""
    start = pos + 1
    middle = start + data[pos]
    end = middle + 1 + data[middle]
    if data[pos] >= 0xFD or data[middle] >= 0xFD or data[end]:
        return None
    return InputWitness(b"", b"", (data[start:middle], data[middle + 1 : end])), end + 1


def _read_vec(data: bytes, pos: int) -> tuple[bytes, int]:
    length = data[pos]
    pos += 1
    if length >= 0xFD:
        length, pos = long_compact_size(data, pos - 1)
    end = pos + length
    return data[pos:end], end


def _read_vectors(data: bytes, pos: int) -> tuple[tuple[bytes, ...], int]:
    count = data[pos]
    pos += 1
    if count == 0:
        return (), pos
    if count >= 0xFD:
        count, pos = long_compact_size(data, pos - 1)
    items = []
    for _ in range(count):
        item, pos = _read_vec(data, pos)
        items.append(item)
    return tuple(items), pos
