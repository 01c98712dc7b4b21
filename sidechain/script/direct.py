"""Short cuts for P2WPKH (bare and in P2SH), P2PKH, multisig in P2WSH and the key path of P2TR.

They give the same answer as the interpreter, without a machine.

They only ever say yes. A spend they do not recognise, or whose signatures do not verify, is left
to the interpreter, so nothing depends on them but speed. They hold under every flag set that the
node uses: what they accept is in the strictest form the flags can ask for.

Source: elements/script.md 1 to 4.
"""

from sidechain.crypto.hashes import hash160, sha256
from sidechain.crypto.keys import der_to_compact, ecdsa_verify, is_low_s, schnorr_verify
from sidechain.errors import InvalidEncoding
from sidechain.primitives.transaction import Transaction, TxOut
from sidechain.script.flags import Flags
from sidechain.script.script import (
    is_p2pkh,
    is_p2sh,
    is_p2tr,
    is_p2wpkh,
    is_p2wsh,
    multisig_script,
    p2pkh_of_hash,
    parse_multisig,
    push,
)
from sidechain.script.sighash import (
    SIGHASH_DEFAULT,
    SighashCache,
    TaprootPath,
    legacy_sighash,
    segwit_v0_sighash,
)
from sidechain.script.taproot import taproot_sighash

_REQUIRED = Flags.WITNESS | Flags.P2SH


def verify_direct(
    tx: Transaction, index: int, spent: TxOut, flags: Flags, cache: SighashCache | None = None
) -> bool:
    """Whether this input is a plain spend that is certainly valid; False decides nothing."""
    if flags & _REQUIRED != _REQUIRED or flags & Flags.NO_SIGHASH_BYTE:
        return False
    script = spent.script
    witness = tx.input_witnesses[index].script
    script_sig = tx.inputs[index].script_sig
    rangeproof = bool(flags & Flags.SIGHASH_RANGEPROOF)
    cache = cache or SighashCache(tx)
    if is_p2pkh(script):
        return not witness and _verify_p2pkh(cache, index, script, script_sig, rangeproof)
    if is_p2sh(script):
        program = _nested_program(script, script_sig)
    elif script_sig:
        return False
    else:
        program = script
    if is_p2wpkh(program):
        signer = _V0Input(tx, index, spent.value, rangeproof, cache)
        return _verify_p2wpkh(signer, program[2:], witness)
    if is_p2wsh(program):
        signer = _V0Input(tx, index, spent.value, rangeproof, cache)
        return _verify_p2wsh_multisig(signer, program[2:], witness)
    return is_p2tr(script) and _verify_key_path(cache, index, script[2:], witness)


def _nested_program(script: bytes, script_sig: bytes) -> bytes:
    """The witness program that a P2SH input reveals as its only push, else nothing."""
    program = script_sig[1:]
    nested = len(program) in (22, 34) and script_sig[0] == len(program)
    return program if nested and hash160(program) == script[2:22] else b""


def _verify_key_path(
    cache: SighashCache, index: int, output_key: bytes, witness: tuple[bytes, ...]
) -> bool:
    if len(witness) != 1 or len(cache.spent) != len(cache.tx.inputs):
        return False
    signature = witness[0]
    if len(signature) == 64:
        hash_type = SIGHASH_DEFAULT
    elif len(signature) == 65 and signature[64] != SIGHASH_DEFAULT:
        hash_type = signature[64]
    else:
        return False
    digest = taproot_sighash(cache, index, hash_type, TaprootPath())
    return digest is not None and schnorr_verify(output_key, signature[:64], digest)


class _V0Input:
    """Signature checks of one segwit v0 input, digests kept by hash type."""

    def __init__(
        self, tx: Transaction, index: int, value: bytes, rangeproof: bool, cache: SighashCache
    ) -> None:
        self._tx = tx
        self._index = index
        self._value = value
        self._rangeproof = rangeproof
        self._cache = cache
        self._digests: dict[int, bytes] = {}

    def verify(self, signature: bytes, pubkey: bytes, script_code: bytes) -> bool:
        hash_type = signature[-1]
        digest = self._digests.get(hash_type)
        if digest is None:
            digest = self._digests[hash_type] = segwit_v0_sighash(
                self._tx,
                self._index,
                script_code,
                self._value,
                hash_type,
                rangeproof=self._rangeproof,
                cache=self._cache,
            )
        return ecdsa_verify(pubkey, signature[:-1], digest)


def _verify_p2wpkh(signer: _V0Input, key_hash: bytes, witness: tuple[bytes, ...]) -> bool:
    if len(witness) != 2:
        return False
    signature, pubkey = witness
    if not _is_plain_key(pubkey) or hash160(pubkey) != key_hash:
        return False
    return _is_plain_signature(signature) and signer.verify(
        signature, pubkey, p2pkh_of_hash(key_hash)
    )


def _verify_p2wsh_multisig(
    signer: _V0Input, script_hash: bytes, witness: tuple[bytes, ...]
) -> bool:
    if len(witness) < 3 or witness[0]:
        return False
    script = witness[-1]
    signatures = list(witness[1:-1])
    parsed = parse_multisig(script)
    if parsed is None or sha256(script) != script_hash:
        return False
    threshold, keys = parsed
    if multisig_script(threshold, keys) != script:
        return False
    plain = all(map(_is_plain_key, keys)) and all(map(_is_plain_signature, signatures))
    if len(signatures) != threshold or not plain or any(push(key) not in script for key in keys):
        return False
    for position, key in enumerate(keys):
        if not signatures or len(signatures) > len(keys) - position:
            break
        if signer.verify(signatures[0], key, script):
            signatures.pop(0)
    return not signatures


def _verify_p2pkh(
    cache: SighashCache, index: int, script: bytes, script_sig: bytes, rangeproof: bool
) -> bool:
    size = script_sig[0] if script_sig else 0
    signature, pubkey = script_sig[1 : 1 + size], script_sig[2 + size :]
    if script_sig != push(signature) + push(pubkey) or not _is_plain_key(pubkey):
        return False
    if not _is_plain_signature(signature) or hash160(pubkey) != script[3:23]:
        return False
    digest = legacy_sighash(
        cache.tx, index, script, signature[-1], rangeproof=rangeproof, cache=cache
    )
    return ecdsa_verify(pubkey, signature[:-1], digest)


def _is_plain_key(pubkey: bytes) -> bool:
    return len(pubkey) == 33 and pubkey[0] in (2, 3)


def _is_plain_signature(signature: bytes) -> bool:
    """DER with low S and a hash type without bit 0x40 or higher ones but ANYONECANPAY."""
    if not 9 <= len(signature) <= 73 or signature[-1] & 0x7F not in (1, 2, 3):
        return False
    try:
        return is_low_s(der_to_compact(signature[:-1]))
    except InvalidEncoding:
        return False
