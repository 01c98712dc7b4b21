"""What signatures sign: legacy and segwit v0 inputs, and the parts that taproot shares with them.

Outpoints are hashed with the masked index; issuances are hashed with the input they stand on;
`SIGHASH_RANGEPROOF` adds each output's range proof and surjection proof, in this order.

Source: elements/script.md 2 to 4.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple, Protocol

from sidechain.crypto.hashes import ZERO_HASH, Hash, sha256, sha256d
from sidechain.errors import InvariantError
from sidechain.primitives.encoding import compact_size, le32, vec
from sidechain.primitives.transaction import (
    ISSUANCE_FLAG,
    PEGIN_FLAG,
    InputWitness,
    OutputWitness,
    Transaction,
    TxIn,
)
from sidechain.script.opcodes import OP_CODESEPARATOR, OP_PUSHDATA4
from sidechain.script.script import PUSH_SIZE_WIDTHS, read_op

SIGHASH_DEFAULT = 0x00
SIGHASH_ALL = 0x01
SIGHASH_NONE = 0x02
SIGHASH_SINGLE = 0x03
SIGHASH_RANGEPROOF = 0x40
SIGHASH_ANYONECANPAY = 0x80

BASE_TYPE_MASK = 0x1F

SINGLE_WITHOUT_OUTPUT = b"\x01" + bytes(31)
"""The hash of legacy SIGHASH_SINGLE where the input has no output of the same index."""

_NULL_OUTPUT = b"\0\0\0\0"


class SpentOutput(Protocol):
    """What is known of a spent output: a coin or an output. The nonce is not kept."""

    @property
    def asset(self) -> bytes:
        """Raw asset field."""
        ...

    @property
    def value(self) -> bytes:
        """Raw value field."""
        ...

    @property
    def script(self) -> bytes:
        """Output script."""
        ...


class TaprootPath(NamedTuple):
    """What a taproot signature commits to besides the transaction and its input.

    Attributes:
        annex_hash: single SHA-256 of the annex with its length, None without annex.
        leaf_hash: of the tapscript that runs, None for the key path.
        code_separator: how many opcodes precede the last executed OP_CODESEPARATOR.
    """

    annex_hash: bytes | None = None
    leaf_hash: bytes | None = None
    code_separator: int = 0xFFFFFFFF


class SighashCache:
    """One transaction with what it spends, and what the signature hashes of its inputs share.

    Keep one per transaction and pass it to every call for it; each part is computed on first use.
    Without it the work for a transaction grows with the square of its inputs.

    Args:
        spent: what every input spends, in order. Legacy and segwit v0 inputs do without.
        genesis_hash: of this chain; only taproot commits to it.
    """

    __slots__ = (
        "_legacy_inputs",
        "_legacy_prefix",
        "_parts",
        "_segwit_all",
        "genesis_hash",
        "spent",
        "tx",
    )

    def __init__(
        self,
        tx: Transaction,
        spent: Sequence[SpentOutput] = (),
        genesis_hash: bytes = b"",
    ) -> None:
        self.tx = tx
        self.spent = spent
        self.genesis_hash = genesis_hash
        self._parts: dict[str | tuple[str, int], bytes] = {}
        self._legacy_inputs: dict[bool, tuple[bytes, list[int]]] = {}
        self._legacy_prefix: tuple[bool, int, Hash] | None = None
        self._segwit_all: tuple[bytes, bytes] | None = None

    def segwit_all(self) -> tuple[bytes, bytes]:
        """Of segwit v0 and SIGHASH_ALL: what precedes the input in what is signed, and outputs.

        That is version, the hashes of prevouts, sequences and issuances; and the hash of the
        outputs. In one go, as nearly every payment needs just these.
        """
        known = self._segwit_all
        if known is None:
            tx = self.tx
            inputs = tx.inputs
            prevouts = [item.prevout.serialize() for item in inputs]
            sequences = [le32(item.sequence) for item in inputs]
            if any(item.issuance is not None for item in inputs):
                issuances = sha256d(b"".join([_issuance(item) or b"\0" for item in inputs]))
            else:
                issuances = _no_issuances(len(inputs))
            head = b"".join(
                (
                    le32(tx.version),
                    sha256d(b"".join(prevouts)),
                    sha256d(b"".join(sequences)),
                    issuances,
                )
            )
            known = self._segwit_all = head, sha256d(tx.outputs_bytes())
        return known

    @property
    def prevouts(self) -> bytes:
        """SHA-256 of all outpoints."""
        return self._part("prevouts", lambda: [i.prevout.serialize() for i in self.tx.inputs])

    @property
    def sequences(self) -> bytes:
        """SHA-256 of all sequences."""
        return self._part("sequences", lambda: [le32(i.sequence) for i in self.tx.inputs])

    @property
    def issuances(self) -> bytes:
        """SHA-256 of all issuances, one zero byte where an input has none."""
        return self._part("issuances", lambda: [_issuance(i) or b"\0" for i in self.tx.inputs])

    @property
    def outputs(self) -> bytes:
        """SHA-256 of all outputs."""
        return self._part("outputs", lambda: [self.all_outputs])

    @property
    def range_proofs(self) -> bytes:
        """SHA-256 of all output proofs, range proof first."""
        return self._part("range_proofs", lambda: [_proofs(w) for w in self.tx.output_witnesses])

    @property
    def double_prevouts(self) -> bytes:
        """SHA-256 of `prevouts`, as segwit v0 has it; so are the four below."""
        return self._part("double_prevouts", lambda: [self.prevouts])

    @property
    def double_sequences(self) -> bytes:
        """SHA-256 of `sequences`."""
        return self._part("double_sequences", lambda: [self.sequences])

    @property
    def double_issuances(self) -> bytes:
        """SHA-256 of `issuances`."""
        return self._part("double_issuances", lambda: [self.issuances])

    @property
    def double_outputs(self) -> bytes:
        """SHA-256 of `outputs`."""
        return self._part("double_outputs", lambda: [self.outputs])

    @property
    def double_range_proofs(self) -> bytes:
        """SHA-256 of `range_proofs`."""
        return self._part("double_range_proofs", lambda: [self.range_proofs])

    @property
    def output_witnesses(self) -> bytes:
        """SHA-256 of all output proofs as on the wire, surjection proof first."""
        return self._part(
            "output_witnesses", lambda: [w.serialize() for w in self.tx.output_witnesses]
        )

    @property
    def outpoint_flags(self) -> bytes:
        """SHA-256 of the flag bytes of all outpoints."""
        return self._part("outpoint_flags", lambda: [outpoint_flag(i) for i in self.tx.inputs])

    @property
    def spent_amounts(self) -> bytes:
        """SHA-256 of the assets and values of all spent outputs."""
        return self._part("spent_amounts", lambda: [o.asset + o.value for o in self.all_spent])

    @property
    def spent_scripts(self) -> bytes:
        """SHA-256 of the scripts of all spent outputs, each with its length."""
        return self._part("spent_scripts", lambda: [vec(o.script) for o in self.all_spent])

    @property
    def issuance_proofs(self) -> bytes:
        """SHA-256 of the range proofs of all issuances."""
        return self._part(
            "issuance_proofs", lambda: [issuance_proofs(w) for w in self.tx.input_witnesses]
        )

    @property
    def all_spent(self) -> Sequence[SpentOutput]:
        """What the inputs spend; asked only where the answer is needed.

        Raises:
            InvariantError: whoever made this cache did not say.
        """
        if len(self.spent) != len(self.tx.inputs):
            raise InvariantError("a taproot spend is judged without all spent outputs")
        return self.spent

    @property
    def all_outputs(self) -> bytes:
        """All outputs one after another."""
        known = self._parts.get("all_outputs")
        if known is None:
            known = self._parts["all_outputs"] = self.tx.outputs_bytes()
        return known

    @property
    def all_outputs_with_proofs(self) -> bytes:
        """All outputs, each followed by its proofs, range proof first."""
        known = self._parts.get("all_outputs_with_proofs")
        if known is None:
            pairs = zip(self.tx.outputs, self.tx.output_witnesses, strict=True)
            known = b"".join([output.serialize() + _proofs(witness) for output, witness in pairs])
            self._parts["all_outputs_with_proofs"] = known
        return known

    def output(self, index: int) -> bytes:
        """SHA-256 of one output."""
        return self._part(("output", index), lambda: [self.tx.outputs[index].serialize()])

    def output_witness(self, index: int) -> bytes:
        """SHA-256 of one output's proofs as on the wire."""
        return self._part(
            ("output_witness", index), lambda: [self.tx.output_witnesses[index].serialize()]
        )

    def spent_script_hash(self, index: int) -> bytes:
        """SHA-256 of the script an input spends."""
        return self._part(("spent_script", index), lambda: [self.all_spent[index].script])

    def output_script_hash(self, index: int) -> bytes:
        """SHA-256 of an output's script."""
        return self._part(("output_script", index), lambda: [self.tx.outputs[index].script])

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

    def hash_up_to(self, index: int, *, with_sequences: bool) -> Hash:
        """A SHA-256 fed with version, input count and the inputs before `index`, none signed.

        The one of the last call is kept and goes on from there, so that the parts before the
        signed inputs are hashed once and not once an input.
        """
        others, starts = self.unsigned_inputs(with_sequences=with_sequences)
        at, hasher = 0, None
        if self._legacy_prefix is not None:
            kind, at, hasher = self._legacy_prefix
            if kind is not with_sequences or at > index:
                at, hasher = 0, None
        if hasher is None:
            hasher = hashlib.sha256(le32(self.tx.version) + compact_size(len(self.tx.inputs)))
        hasher.update(memoryview(others)[starts[at] : starts[index]])
        self._legacy_prefix = with_sequences, index, hasher
        return hasher.copy()

    def _part(self, name: str | tuple[str, int], pieces: Callable[[], list[bytes]]) -> bytes:
        known = self._parts.get(name)
        if known is None:
            known = self._parts[name] = sha256(b"".join(pieces()))
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
                ZERO_HASH if anyone else cache.double_prevouts,
                ZERO_HASH if anyone or partial else cache.double_sequences,
                ZERO_HASH if anyone else cache.double_issuances,
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


def p2wpkh_all_sighash(cache: SighashCache, index: int, key_hash: bytes, value: bytes) -> bytes:
    """`segwit_v0_sighash` of a P2WPKH input and SIGHASH_ALL, in few steps.

    Args:
        key_hash: 20 bytes, the witness program.
        value: raw value field of the spent output.
    """
    head, outputs = cache.segwit_all()
    item = cache.tx.inputs[index]
    issuance = b"" if item.issuance is None else item.issuance.serialize()
    txid, position = item.prevout
    return sha256d(
        b"%b%b%b\x19\x76\xa9\x14%b\x88\xac%b%b%b%b%b\1\0\0\0"
        % (
            head,
            txid,
            position.to_bytes(4, "little"),
            key_hash,
            value,
            item.sequence.to_bytes(4, "little"),
            issuance,
            outputs,
            cache.tx.locktime.to_bytes(4, "little"),
        )
    )


def _v0_output_hashes(
    index: int, base: int, with_proofs: bool, cache: SighashCache
) -> tuple[bytes, bytes]:
    tx = cache.tx
    if base == SIGHASH_SINGLE and index < len(tx.outputs):
        outputs = sha256(cache.output(index))
        proofs = sha256d(_proofs(tx.output_witnesses[index])) if with_proofs else b""
    elif base in (SIGHASH_NONE, SIGHASH_SINGLE):
        outputs = ZERO_HASH
        proofs = ZERO_HASH if with_proofs else b""
    else:
        outputs = cache.double_outputs
        proofs = cache.double_range_proofs if with_proofs else b""
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
    hasher = _hash_legacy_inputs(index, script_code, hash_type, cache)
    hasher.update(_legacy_outputs(index, base, with_proofs, cache))
    hasher.update(le32(tx.locktime) + le32(hash_type))
    return sha256(hasher.digest())


def _hash_legacy_inputs(
    index: int, script_code: bytes, hash_type: int, cache: SighashCache
) -> Hash:
    item = cache.tx.inputs[index]
    code = signed_script_code(script_code)
    signed = item.prevout.serialize() + code + le32(item.sequence) + _issuance(item)
    if hash_type & SIGHASH_ANYONECANPAY:
        return hashlib.sha256(le32(cache.tx.version) + b"\x01" + signed)
    keeps_sequences = hash_type & BASE_TYPE_MASK not in (SIGHASH_NONE, SIGHASH_SINGLE)
    others, starts = cache.unsigned_inputs(with_sequences=keeps_sequences)
    hasher = cache.hash_up_to(index, with_sequences=keeps_sequences)
    hasher.update(signed)
    hasher.update(memoryview(others)[starts[index + 1] :])
    return hasher


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
    return compact_size(len(tx.outputs)) + cache.all_outputs_with_proofs


def signed_script_code(script: bytes) -> bytes:
    """A script code as legacy signatures have it: its length, then itself without separators.

    Where the script breaks off inside a push, what follows the length of that push is not hashed,
    although it is counted. Such a script fails in the end, but its signatures are checked before.

    Source: elements/script.md 2; the reference's serializer writes up to where its reader stopped.
    """
    kept: list[bytes] = []
    start, position, size = 0, 0, len(script)
    while position < size:
        opcode = script[position]
        if opcode > OP_PUSHDATA4:
            position += 1
            if opcode == OP_CODESEPARATOR:
                kept.append(script[start : position - 1])
                start = position
            continue
        op = read_op(script, position)
        if op is None:
            width = PUSH_SIZE_WIDTHS.get(opcode, 0)
            position += 1
            position += width if position + width <= size else 0
            break
        position = op.end
    return compact_size(size - len(kept)) + b"".join(kept) + script[start:position]


def _proofs(witness: OutputWitness) -> bytes:
    return vec(witness.range_proof) + vec(witness.surjection_proof)


def _issuance(item: TxIn) -> bytes:
    return item.issuance.serialize() if item.issuance is not None else b""


@lru_cache(maxsize=256)
def _no_issuances(count: int) -> bytes:
    return sha256d(bytes(count))


def outpoint_flag(item: TxIn) -> bytes:
    """The byte that says whether an input has an issuance and is a peg-in."""
    issuance = ISSUANCE_FLAG if item.issuance is not None else 0
    return bytes(((issuance | (PEGIN_FLAG if item.is_pegin else 0)) >> 24,))


def issuance_proofs(witness: InputWitness) -> bytes:
    """The range proofs of an input's issued amounts, as on the wire."""
    return vec(witness.issuance_range_proof) + vec(witness.inflation_range_proof)
