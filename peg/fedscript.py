"""The federation's script on Bitcoin: keys, emergency branch, claim-script tweak, sizes.

One form for ever: `or_d(multi(k, K...), and_v(v:older(csv), multi(2, E1, E2, E3)))`. What a coin's
lock and keys are is always read back from the coin's own script, never from configuration.

Source: peg:3.1, elements/peg.md 1, N20.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from sidechain.crypto.keys import is_public_key
from sidechain.errors import InvalidEncoding
from sidechain.primitives.encoding import compact_size
from sidechain.script.opcodes import (
    OP_1,
    OP_CHECKMULTISIG,
    OP_CHECKSEQUENCEVERIFY,
    OP_ENDIF,
    OP_IFDUP,
    OP_NOTIF,
    OP_VERIFY,
)
from sidechain.script.script import decode_number, iter_ops, p2wsh, push, push_number
from sidechain.validation.pegins import calculate_contract, contract_tweak

MAX_KEYS = 15
EMERGENCY_KEYS = 3
EMERGENCY_THRESHOLD = 2
CSV_MAX = 0xFFFF
MAX_CLAIM_SCRIPT_BYTES = 100
TWEAKED_KEPT_MAX = 4_096
"""Tweaked scripts kept: one costs a curve operation a key, and waiting claims ask often."""
SIGNATURE_WORST_BYTES = 72
"""DER low-S signature with its hash type byte, at its longest."""
INPUT_BASE_BYTES = 41
"""Outpoint 36, empty scriptSig 1, sequence 4."""

_KEY_BYTES = 33


@dataclass(frozen=True, slots=True, kw_only=True)
class FedScript:
    """A fedpegscript, plain or tweaked, taken apart.

    Attributes:
        script: the witness script; the other fields always agree with it.
        k: signatures the federation needs.
        keys: the members' keys in member order.
        csv: blocks after which two emergency keys can spend.
        emergency_keys: the three keys of the emergency holders.
    """

    script: bytes
    k: int
    keys: tuple[bytes, ...]
    csv: int
    emergency_keys: tuple[bytes, ...]

    @property
    def program(self) -> bytes:
        """Native segwit output script of this witness script (untweaked: FED)."""
        return p2wsh(self.script)

    @property
    def witness_worst_bytes(self) -> int:
        """Largest witness of one input that k members sign."""
        return worst_witness_bytes(self.k, len(self.script))

    @property
    def input_worst_vsize(self) -> int:
        """Virtual bytes of one input with the largest witness, rounded up."""
        return -(-(4 * INPUT_BASE_BYTES + self.witness_worst_bytes) // 4)


def worst_witness_bytes(k: int, script_bytes: int) -> int:
    """Largest witness of an input: item count, empty item, k signatures, script.

    Source: peg:3.1, N20.
    """
    signatures = k * (1 + SIGNATURE_WORST_BYTES)
    return 1 + 1 + signatures + len(compact_size(script_bytes)) + script_bytes


def fed_script(
    *, k: int, keys: Sequence[bytes], csv: int, emergency_keys: Sequence[bytes]
) -> FedScript:
    """Build the fedpegscript.

    Raises:
        InvalidEncoding: thresholds, csv or a key out of range.
    """
    n = len(keys)
    if not 1 <= k <= n <= MAX_KEYS:
        raise InvalidEncoding("fedpegscript", f"{k}-of-{n} is out of range")
    if not 1 <= csv <= CSV_MAX:
        raise InvalidEncoding("fedpegscript", f"csv {csv} is out of range")
    if len(emergency_keys) != EMERGENCY_KEYS:
        raise InvalidEncoding("fedpegscript", "three emergency keys are needed")
    for key in (*keys, *emergency_keys):
        if len(key) != _KEY_BYTES or not is_public_key(key):
            raise InvalidEncoding("fedpegscript", "a key is not a compressed point")
    federation_branch = _multisig(k, keys)
    emergency_branch = _multisig(EMERGENCY_THRESHOLD, emergency_keys)
    lock = push_number(csv) + bytes((OP_CHECKSEQUENCEVERIFY, OP_VERIFY))
    script = (
        federation_branch
        + bytes((OP_IFDUP, OP_NOTIF))
        + lock
        + emergency_branch
        + bytes((OP_ENDIF,))
    )
    return FedScript(
        script=script, k=k, keys=tuple(keys), csv=csv, emergency_keys=tuple(emergency_keys)
    )


def parse_fed_script(script: bytes) -> FedScript:
    """Read a fedpegscript back, plain or tweaked.

    Raises:
        InvalidEncoding: not byte for byte of the one form.
    """
    ops = list(iter_ops(script))
    pushes = [op.data for op in ops if op.data is not None and len(op.data) == _KEY_BYTES]
    n = len(pushes) - EMERGENCY_KEYS
    csv_position = 1 + n + 2 + 2
    if n < 1 or len(ops) <= csv_position:
        raise InvalidEncoding("fedpegscript", "unknown form")
    first, lock = ops[0], ops[csv_position]
    csv = _number(lock.opcode, lock.data)
    rebuilt = fed_script(
        k=_number(first.opcode, first.data), keys=pushes[:n], csv=csv, emergency_keys=pushes[n:]
    )
    if rebuilt.script != script:
        raise InvalidEncoding("fedpegscript", "unknown form")
    return rebuilt


@lru_cache(maxsize=TWEAKED_KEPT_MAX)
def tweaked(plain: FedScript, claim_script: bytes) -> FedScript:
    """The script of deposits for a claim script: every key, emergency ones too, is tweaked.

    Raises:
        InvalidEncoding: claim script too long, or a tweak that no key can take.
    """
    if len(claim_script) > MAX_CLAIM_SCRIPT_BYTES:
        raise InvalidEncoding("Claim script is too large.")
    return parse_fed_script(calculate_contract(plain.script, claim_script))


def coin_script(plain: FedScript, claim_script: bytes | None) -> FedScript:
    """Script of a federation coin: tweaked for deposits, plain (None) for FED outputs."""
    return plain if claim_script is None else tweaked(plain, claim_script)


def key_tweak(key: bytes, claim_script: bytes | None) -> bytes | None:
    """What a member adds to its peg secret to sign a coin; None for FED outputs.

    Args:
        key: the member's plain peg key, 33 bytes.
        claim_script: None for FED outputs.
    """
    return None if claim_script is None else contract_tweak(key, claim_script)


def _multisig(threshold: int, keys: Sequence[bytes]) -> bytes:
    pushes = b"".join(push(key) for key in keys)
    return push_number(threshold) + pushes + push_number(len(keys)) + bytes((OP_CHECKMULTISIG,))


def _number(opcode: int, data: bytes | None) -> int:
    return opcode - OP_1 + 1 if data is None else decode_number(data, minimal=True)
