"""Bitcoin's side of the reference vectors: assembly text, signature hashes, a checker."""

from bitcoin.core import CTransaction, CTxIn, CTxOut

from sidechain.crypto.hashes import ZERO_HASH, sha256d
from sidechain.crypto.keys import ecdsa_verify
from sidechain.primitives.encoding import compact_size, le32, le64, vec
from sidechain.script.flags import Flags, SigVersion
from sidechain.script.machine import SignatureChecker
from sidechain.script.opcodes import OPCODES_BY_NAME
from sidechain.script.script import push, push_number
from sidechain.script.sighash import signed_script_code

ALL_FLAGS = ~(Flags.NO_SIGHASH_BYTE | Flags.SIGHASH_RANGEPROOF)


def assemble(text: str) -> bytes:
    """Bytes of the assembly language of the reference tests."""
    script = b""
    for word in text.split():
        if word.lstrip("-").isdigit():
            script += push_number(int(word))
        elif word.startswith("0x"):
            script += bytes.fromhex(word[2:])
        elif word.startswith("'"):
            script += push(word[1:-1].encode())
        else:
            name = word if word.startswith("OP_") else f"OP_{word}"
            script += bytes((OPCODES_BY_NAME[name],))
    return script


def parse_flags(text: str) -> Flags:
    """Flags by their names in the vectors, without what they imply."""
    flags = Flags.NONE
    for name in text.split(","):
        if name:
            flags |= Flags[name]
    return flags


def fill_flags(flags: Flags) -> Flags:
    """Add what a flag is meaningless without."""
    if flags & Flags.CLEANSTACK:
        flags |= Flags.WITNESS
    if flags & (Flags.WITNESS | Flags.TAPROOT):
        flags |= Flags.P2SH
    return flags


class BitcoinChecker(SignatureChecker):
    """Answers for one input of a Bitcoin transaction."""

    def __init__(self, tx: CTransaction, index: int, amount_sats: int) -> None:
        self._tx = tx
        self._index = index
        self._amount_sats = amount_sats

    def check_signature(
        self, signature: bytes, pubkey: bytes, script_code: bytes, version: SigVersion
    ) -> bool:
        if not signature:
            return False
        if version is SigVersion.BASE:
            digest = bitcoin_legacy_sighash(self._tx, self._index, script_code, signature[-1])
        else:
            digest = _v0_sighash(
                self._tx, self._index, script_code, self._amount_sats, signature[-1]
            )
        return ecdsa_verify(pubkey, signature[:-1], digest)

    def check_locktime(self, locktime: int) -> bool:
        own = self._tx.nLockTime
        same_unit = (own < 500_000_000) == (locktime < 500_000_000)
        final = self._tx.vin[self._index].nSequence == 0xFFFFFFFF
        return same_unit and locktime <= own and not final

    def check_sequence(self, sequence: int) -> bool:
        own = self._tx.vin[self._index].nSequence
        if self._tx.nVersion & 0xFFFFFFFF < 2 or own & 1 << 31:
            return False
        return not (own ^ sequence) & 1 << 22 and sequence & 0xFFFF <= own & 0xFFFF


def bitcoin_legacy_sighash(tx: CTransaction, index: int, code: bytes, hash_type: int) -> bytes:
    """Bitcoin's signature hash before segwit."""
    base = hash_type & 0x1F
    if index >= len(tx.vin) or (base == 3 and index >= len(tx.vout)):
        return b"\x01" + bytes(31)
    inputs = []
    for position, txin in enumerate(tx.vin):
        signed = position == index
        if hash_type & 0x80 and not signed:
            continue
        sequence = 0 if base in (2, 3) and not signed else txin.nSequence
        shown = signed_script_code(code) if signed else b"\0"
        inputs.append(_outpoint(txin) + shown + le32(sequence))
    outputs = [_output(txout) for txout in tx.vout]
    if base == 2:
        outputs = []
    elif base == 3:
        outputs = [b"\xff" * 8 + b"\0"] * index + [outputs[index]]
    return sha256d(
        _u32(tx.nVersion)
        + compact_size(len(inputs))
        + b"".join(inputs)
        + compact_size(len(outputs))
        + b"".join(outputs)
        + le32(tx.nLockTime)
        + _u32(hash_type)
    )


def _v0_sighash(
    tx: CTransaction, index: int, code: bytes, amount_sats: int, hash_type: int
) -> bytes:
    base = hash_type & 0x1F
    anyone = hash_type & 0x80
    txin = tx.vin[index]
    prevouts = sha256d(b"".join(map(_outpoint, tx.vin)))
    sequences = sha256d(b"".join(le32(item.nSequence) for item in tx.vin))
    outputs = sha256d(b"".join(map(_output, tx.vout)))
    if base == 3 and index < len(tx.vout):
        outputs = sha256d(_output(tx.vout[index]))
    elif base in (2, 3):
        outputs = ZERO_HASH
    return sha256d(
        _u32(tx.nVersion)
        + (ZERO_HASH if anyone else prevouts)
        + (ZERO_HASH if anyone or base in (2, 3) else sequences)
        + _outpoint(txin)
        + vec(code)
        + le64(amount_sats)
        + le32(txin.nSequence)
        + outputs
        + le32(tx.nLockTime)
        + _u32(hash_type)
    )


def _outpoint(txin: CTxIn) -> bytes:
    return bytes(txin.prevout.hash) + le32(txin.prevout.n)


def _output(txout: CTxOut) -> bytes:
    return (txout.nValue & 2**64 - 1).to_bytes(8, "little") + vec(bytes(txout.scriptPubKey))


def _u32(number: int) -> bytes:
    return le32(number & 0xFFFFFFFF)
