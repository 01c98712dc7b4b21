"""Short cuts for P2WPKH (bare and in P2SH), P2PKH, multisig in P2WSH and the key path of P2TR.

They give the same answer as the interpreter, without a machine.

They only ever say yes. A spend they do not recognise, or whose signatures do not verify, is left
to the interpreter, so nothing depends on them but speed. They hold under every flag set that the
node uses: what they accept is in the strictest form the flags can ask for.

Source: elements/script.md 1 to 4.
"""

from functools import lru_cache
from typing import NamedTuple

from sidechain.crypto.hashes import hash160, sha256
from sidechain.crypto.keys import (
    ecdsa_verify,
    ecdsa_verify_compact,
    schnorr_verify,
    strict_low_s,
)
from sidechain.primitives.transaction import Transaction
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
    SIGHASH_ALL,
    SIGHASH_DEFAULT,
    SighashCache,
    SpentOutput,
    TaprootPath,
    legacy_sighash,
    p2wpkh_all_sighash,
    segwit_v0_sighash,
)
from sidechain.script.taproot import taproot_sighash

_REQUIRED = Flags.WITNESS | Flags.P2SH


class SignatureCheck(NamedTuple):
    """One signature over one digest.

    `key` has 33 bytes for ECDSA and 32 for Schnorr; `signature` has 64 in both cases.
    """

    key: bytes
    signature: bytes
    digest: bytes

    def holds(self) -> bool:
        """Whether the signature is by the key."""
        if len(self.key) == 32:
            return schnorr_verify(self.key, self.signature, self.digest)
        return ecdsa_verify_compact(self.key, self.signature, self.digest)


def verify_direct(
    tx: Transaction,
    index: int,
    spent: SpentOutput,
    flags: Flags,
    cache: SighashCache | None = None,
) -> bool:
    """Whether this input is a plain spend that is certainly valid; False decides nothing."""
    cache = cache or SighashCache(tx)
    planned = plan_direct(cache, index, spent, flags)
    if planned is not None:
        return planned.holds()
    script = spent.script
    if not (is_p2wsh(script) or is_p2sh(script)) or not _are_plain(flags):
        return False
    script_sig = tx.inputs[index].script_sig
    program = _program(script, script_sig)
    if not is_p2wsh(program):
        return False
    rangeproof = bool(flags & Flags.SIGHASH_RANGEPROOF)
    signer = _V0Input(tx, index, spent.value, rangeproof, cache)
    return _verify_p2wsh_multisig(signer, program[2:], tx.input_witnesses[index].script)


def plan_direct(
    cache: SighashCache, index: int, spent: SpentOutput, flags: Flags
) -> SignatureCheck | None:
    """The signature on which a plain spend hangs: the input is valid if it holds.

    None, or a signature that does not hold, decides nothing.
    """
    if not _are_plain(flags):
        return None
    tx = cache.tx
    script = spent.script
    witness = tx.input_witnesses[index].script
    script_sig = tx.inputs[index].script_sig
    if is_p2wpkh(script) and not script_sig:
        return _plan_p2wpkh(cache, index, script[2:], spent.value, witness, flags)
    if is_p2pkh(script):
        return None if witness else _plan_p2pkh(cache, index, script, script_sig, flags)
    if is_p2tr(script) and not script_sig:
        return _plan_key_path(cache, index, script[2:], witness)
    if is_p2sh(script):
        program = _program(script, script_sig)
        if is_p2wpkh(program):
            return _plan_p2wpkh(cache, index, program[2:], spent.value, witness, flags)
    return None


@lru_cache(maxsize=64)
def _are_plain(flags: Flags) -> bool:
    """Whether plain spends are the same under these flags as under those of the node."""
    return flags & _REQUIRED == _REQUIRED and not flags & Flags.NO_SIGHASH_BYTE


def _program(script: bytes, script_sig: bytes) -> bytes:
    """The witness program of an output, or of what a P2SH input reveals; else nothing."""
    if is_p2sh(script):
        return _nested_program(script, script_sig)
    return b"" if script_sig else script


def _nested_program(script: bytes, script_sig: bytes) -> bytes:
    """The witness program that a P2SH input reveals as its only push, else nothing."""
    program = script_sig[1:]
    nested = len(program) in (22, 34) and script_sig[0] == len(program)
    return program if nested and hash160(program) == script[2:22] else b""


def _plan_key_path(
    cache: SighashCache, index: int, output_key: bytes, witness: tuple[bytes, ...]
) -> SignatureCheck | None:
    if len(witness) != 1 or len(cache.spent) != len(cache.tx.inputs):
        return None
    signature = witness[0]
    if len(signature) == 64:
        hash_type = SIGHASH_DEFAULT
    elif len(signature) == 65 and signature[64] != SIGHASH_DEFAULT:
        hash_type = signature[64]
    else:
        return None
    digest = taproot_sighash(cache, index, hash_type, TaprootPath())
    return None if digest is None else SignatureCheck(output_key, signature[:64], digest)


def _plan_p2wpkh(
    cache: SighashCache,
    index: int,
    key_hash: bytes,
    value: bytes,
    witness: tuple[bytes, ...],
    flags: Flags,
) -> SignatureCheck | None:
    if len(witness) != 2:
        return None
    signature, pubkey = witness
    if not _is_plain_key(pubkey) or hash160(pubkey) != key_hash:
        return None
    compact = _plain_signature(signature)
    if compact is None:
        return None
    hash_type = signature[-1]
    if hash_type == SIGHASH_ALL:
        digest = p2wpkh_all_sighash(cache, index, key_hash, value)
    else:
        digest = segwit_v0_sighash(
            cache.tx,
            index,
            p2pkh_of_hash(key_hash),
            value,
            hash_type,
            rangeproof=bool(flags & Flags.SIGHASH_RANGEPROOF),
            cache=cache,
        )
    return SignatureCheck(pubkey, compact, digest)


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


def _plan_p2pkh(
    cache: SighashCache, index: int, script: bytes, script_sig: bytes, flags: Flags
) -> SignatureCheck | None:
    size = script_sig[0] if script_sig else 0
    signature, pubkey = script_sig[1 : 1 + size], script_sig[2 + size :]
    if script_sig != push(signature) + push(pubkey) or not _is_plain_key(pubkey):
        return None
    compact = _plain_signature(signature)
    if compact is None or hash160(pubkey) != script[3:23]:
        return None
    rangeproof = bool(flags & Flags.SIGHASH_RANGEPROOF)
    digest = legacy_sighash(
        cache.tx, index, script, signature[-1], rangeproof=rangeproof, cache=cache
    )
    return SignatureCheck(pubkey, compact, digest)


def _is_plain_key(pubkey: bytes) -> bool:
    return len(pubkey) == 33 and pubkey[0] in (2, 3)


def _is_plain_signature(signature: bytes) -> bool:
    return _plain_signature(signature) is not None


def _plain_signature(signature: bytes) -> bytes | None:
    """`r || s` of strict DER with low S and a hash type that has no bit but ANYONECANPAY's."""
    if not 9 <= len(signature) <= 73 or signature[-1] & 0x7F not in (1, 2, 3):
        return None
    return strict_low_s(signature[:-1])
