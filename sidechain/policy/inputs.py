"""Forms of inputs that are relayed: what they spend, and what they show for it.

Source: elements/transactions.md 7.
"""

from collections.abc import Sequence

from sidechain.errors import InvalidTransaction
from sidechain.params import ChainParams
from sidechain.primitives.confidential import is_commitment
from sidechain.primitives.transaction import InputWitness, Transaction, TxIn
from sidechain.script.opcodes import OP_1, OP_1NEGATE
from sidechain.script.script import (
    MAX_ELEMENT_SIZE_BYTES,
    ScriptKind,
    classify,
    count_sigops,
    is_p2sh,
    is_push_only,
    iter_ops,
    witness_program,
)
from sidechain.validation.coins import Coin
from sidechain.validation.tx_verify import sigop_cost

MAX_STANDARD_SIGOP_COST = 16_000
MAX_P2SH_SIGOPS = 15
MAX_P2WSH_SCRIPT_BYTES = 3_600
MAX_P2WSH_ITEMS = 100
MAX_P2WSH_ITEM_BYTES = 80
MAX_TAPSCRIPT_ITEM_BYTES = 80
MAX_STACK_ITEMS = 1_000

_ANNEX_TAG = 0x50
_OP_RESERVED = 0x50
_TAPSCRIPT_LEAF = 0xC4
_LEAF_MASK = 0xFE


def check_standard_inputs(tx: Transaction, spent: Sequence[Coin], params: ChainParams) -> None:
    """Check the form of what the inputs spend and of their witnesses.

    Args:
        spent: the coins of the inputs, in their order, peg-ins included.
    Raises:
        InvalidTransaction: the first rule broken, under Elements' name.
    """
    for txin, witness in zip(tx.inputs, tx.input_witnesses, strict=True):
        if witness.issuance_range_proof or witness.inflation_range_proof:
            _check_issuance_proofs(txin, witness)
    for txin, coin in zip(tx.inputs, spent, strict=True):
        if not txin.is_pegin and not _is_standard_spend(txin.script_sig, coin.script, params):
            raise InvalidTransaction("bad-txns-nonstandard-inputs")
    for txin, coin, witness in zip(tx.inputs, spent, tx.input_witnesses, strict=True):
        script = coin.script
        if not witness.script or (len(script) == 22 and script[0] == 0 and script[1] == 20):
            continue
        if not _is_standard_witness(txin.script_sig, script, witness.script):
            raise InvalidTransaction("bad-witness-nonstandard")


def spend_sigop_cost(tx: Transaction, spent: Sequence[Coin]) -> int:
    """`sigop_cost`; for payments between witness programs without reading any script."""
    for output in tx.outputs:
        script = output.script
        if script and (script[0] or len(script) not in (22, 34) or script[1] != len(script) - 2):
            return sigop_cost(tx, spent)
    for txin, coin in zip(tx.inputs, spent, strict=True):
        script = coin.script
        if txin.script_sig or len(script) != 22 or script[0] or script[1] != 20:
            return sigop_cost(tx, spent)
    return len(spent)


def check_sigops(cost: int) -> None:
    """Refuse what costs more signature operations than a fifth of a block.

    Raises:
        InvalidTransaction: "bad-txns-too-many-sigops".
    """
    if cost > MAX_STANDARD_SIGOP_COST:
        raise InvalidTransaction("bad-txns-too-many-sigops", str(cost))


def _check_issuance_proofs(txin: TxIn, witness: InputWitness) -> None:
    amount = txin.issuance.amount if txin.issuance else b"\0"
    tokens = txin.issuance.inflation_keys if txin.issuance else b"\0"
    if witness.issuance_range_proof and not is_commitment(amount):
        raise InvalidTransaction("bad-txin-extra-issuance-rangeproof")
    if witness.inflation_range_proof and not is_commitment(tokens):
        raise InvalidTransaction("bad-txin-extra-inflation-rangeproof")


def _is_standard_spend(script_sig: bytes, script: bytes, params: ChainParams) -> bool:
    if len(script) == 22 and script[0] == 0 and script[1] == 20:
        return True
    kind = classify(script)
    if kind is ScriptKind.TRUE:
        return params.anyone_can_spend_standard
    if kind in (ScriptKind.NONSTANDARD, ScriptKind.WITNESS_UNKNOWN):
        return False
    if kind is not ScriptKind.SCRIPTHASH:
        return True
    redeem = redeem_script(script_sig)
    return redeem is not None and count_sigops(redeem, accurate=True) <= MAX_P2SH_SIGOPS


def redeem_script(script_sig: bytes) -> bytes | None:
    """What a run of a push-only script leaves on top of the stack; None if it fails or is empty.

    Unlike a reader of pushes, a run fails at large items, at OP_RESERVED and at a full stack.
    """
    if not is_push_only(script_sig):
        return None
    top: bytes | None = None
    for items, op in enumerate(iter_ops(script_sig)):
        if op.opcode == _OP_RESERVED or items == MAX_STACK_ITEMS:
            return None
        if op.data is not None:
            top = op.data
        else:
            top = b"\x81" if op.opcode == OP_1NEGATE else bytes((op.opcode - OP_1 + 1,))
        if len(top) > MAX_ELEMENT_SIZE_BYTES:
            return None
    return top


def _is_standard_witness(
    script_sig: bytes, script_pubkey: bytes, witness: tuple[bytes, ...]
) -> bool:
    if classify(script_pubkey) is ScriptKind.ANCHOR:
        return False
    nested = is_p2sh(script_pubkey)
    program = witness_program((redeem_script(script_sig) or b"") if nested else script_pubkey)
    if program is None:
        return False
    version, body = program
    if version == 0 and len(body) == 32:
        return (
            len(witness[-1]) <= MAX_P2WSH_SCRIPT_BYTES
            and len(witness) - 1 <= MAX_P2WSH_ITEMS
            and all(len(item) <= MAX_P2WSH_ITEM_BYTES for item in witness[:-1])
        )
    if version == 1 and len(body) == 32 and not nested:
        return _is_standard_taproot_witness(witness)
    return True


def _is_standard_taproot_witness(witness: tuple[bytes, ...]) -> bool:
    if len(witness) < 2:
        return True
    control = witness[-1]
    if not control or control[0] == _ANNEX_TAG:
        return False
    if control[0] & _LEAF_MASK != _TAPSCRIPT_LEAF:
        return True
    return all(len(item) <= MAX_TAPSCRIPT_ITEM_BYTES for item in witness[:-2])
