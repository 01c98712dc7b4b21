"""Form of signatures and public keys inside scripts, as far as flags ask for it.

Source: elements/script.md 1.2 and 1.3.
"""

from sidechain.crypto.keys import der_to_compact, is_low_s
from sidechain.errors import InvalidEncoding
from sidechain.script.faults import ScriptFault, fail
from sidechain.script.flags import Flags, SigVersion
from sidechain.script.script import is_key_sized
from sidechain.script.sighash import SIGHASH_ANYONECANPAY, SIGHASH_RANGEPROOF

_DER_FLAGS = Flags.DERSIG | Flags.LOW_S | Flags.STRICTENC


def check_signature_encoding(signature: bytes, flags: Flags) -> None:
    """Check the form of a signature as it stands on the stack; an empty one always passes.

    With `NO_SIGHASH_BYTE` the signature carries no hash type.

    Raises:
        ScriptError: SIG_DER, SIG_HIGH_S or SIG_HASHTYPE.
    """
    if not signature:
        return
    bare = bool(flags & Flags.NO_SIGHASH_BYTE)
    der = signature if bare else signature[:-1]
    if flags & _DER_FLAGS and not is_strict_der(der):
        fail(ScriptFault.SIG_DER)
    if flags & Flags.LOW_S and not is_low_s(der_to_compact_or_zero(der)):
        fail(ScriptFault.SIG_HIGH_S)
    if flags & Flags.STRICTENC and not bare and not _is_defined_hash_type(signature[-1], flags):
        fail(ScriptFault.SIG_HASHTYPE)


def check_pubkey_encoding(pubkey: bytes, flags: Flags, version: SigVersion) -> None:
    """Check the form of a public key on the stack.

    Raises:
        ScriptError: PUBKEYTYPE or WITNESS_PUBKEYTYPE.
    """
    if flags & Flags.STRICTENC and not (is_key_sized(pubkey) and pubkey[0] <= 4):
        fail(ScriptFault.PUBKEYTYPE)
    compressed = len(pubkey) == 33 and pubkey[0] in (2, 3)
    in_witness = version is SigVersion.WITNESS_V0
    if flags & Flags.WITNESS_PUBKEYTYPE and in_witness and not compressed:
        fail(ScriptFault.WITNESS_PUBKEYTYPE)


def is_strict_der(der: bytes) -> bool:
    """Whether this is `30 len 02 len R 02 len S` with shortest, non-negative numbers (BIP66).

    The numbers may be zero or larger than the group order: that is not a matter of form.
    """
    if not 8 <= len(der) <= 72 or der[0] != 0x30 or der[1] != len(der) - 2:
        return False
    size_r = der[3]
    if 5 + size_r >= len(der) or size_r + der[5 + size_r] + 6 != len(der):
        return False
    return _is_der_number(der[2 : 4 + size_r]) and _is_der_number(der[4 + size_r :])


def der_to_compact_or_zero(der: bytes) -> bytes:
    """`r || s` of a strictly encoded signature; zeros where a number exceeds 32 bytes."""
    try:
        return der_to_compact(der)
    except InvalidEncoding:
        return bytes(64)


def _is_der_number(encoded: bytes) -> bool:
    if len(encoded) < 3 or encoded[0] != 0x02 or encoded[2] & 0x80:
        return False
    return not (encoded[2] == 0 and len(encoded) > 3 and not encoded[3] & 0x80)


def _is_defined_hash_type(hash_type: int, flags: Flags) -> bool:
    hash_type &= ~SIGHASH_ANYONECANPAY
    if flags & Flags.SIGHASH_RANGEPROOF:
        hash_type &= ~SIGHASH_RANGEPROOF
    return 1 <= hash_type <= 3
