"""Putting copies of one PSET together.

Source: BIP 174, "Combiner"; what is taken from whom as in elementsd.
"""

from collections.abc import Sequence

from sidechain.api.pset_transaction import unblinded_txid
from sidechain.api.registry import DESERIALIZATION_ERROR, INVALID_PARAMETER, RpcError
from sidechain.primitives.pset import FieldMap, Pset

_NEVER_TAKEN = frozenset(
    {
        *("explicit_value", "value_proof", "explicit_asset", "asset_proof"),
        *("blinded_issuance", "sighash"),
    }
)
_BLINDED_NAMES = (
    "value_commitment",
    "asset_commitment",
    "rangeproof",
    "surjection_proof",
    "ecdh_pubkey",
    "blind_value_proof",
    "blind_asset_proof",
)
_OUTPUT_NAMES = frozenset({"redeem_script", "witness_script", "tap_internal_key", "tap_tree"})
_SHARED_NAMES = frozenset({"fallback_locktime", "tx_modifiable"})


def combine(psets: Sequence[Pset]) -> Pset:
    """One PSET with what all know; the first that is fully blinded is the base.

    Raises:
        RpcError: they are of different transactions, or only partly blinded each.
    """
    order = list(psets)
    blinded = [at for at, pset in enumerate(order) if _is_fully_blinded(pset)]
    if blinded:
        order[0], order[blinded[0]] = order[blinded[0]], order[0]
    base, *others = order
    for other in others:
        if unblinded_txid(base) != unblinded_txid(other) or not _merge(base, other):
            raise RpcError(INVALID_PARAMETER, "PSBTs not compatible (different transactions)")
    if not blinded and _is_fully_blinded(base):
        raise RpcError(
            DESERIALIZATION_ERROR,
            "Cannot combine PSETs as the values and blinders would become imbalanced",
        )
    return base


def _is_fully_blinded(pset: Pset) -> bool:
    return all(found.is_blinded for found in pset.outputs if found.is_to_be_blinded)


def _merge(base: Pset, other: Pset) -> bool:
    for found, more in zip(base.inputs, other.inputs, strict=True):
        _merge_input(found, more)
    for found, more in zip(base.outputs, other.outputs, strict=True):
        if not _merge_output(found, more):
            return False
    _take(base.shared, more=other.shared, names=_SHARED_NAMES)
    return True


def _merge_input(found: FieldMap, more: FieldMap) -> None:
    for name in ("issuance_value", "issuance_keys"):
        commitment = f"{name}_commitment"
        if more.get(commitment) and not found.get(commitment):
            found.values[commitment] = more.get(commitment)
            found.values.pop(name, None)
    names = set(more.values) - _NEVER_TAKEN
    for name in ("issuance_value", "issuance_keys"):
        if found.get(f"{name}_commitment"):
            names.discard(name)
    _take(found, more=more, names=frozenset(names))


def _merge_output(found: FieldMap, more: FieldMap) -> bool:
    """Take from another copy; False where they say different things."""
    if found.is_to_be_blinded and more.is_to_be_blinded:
        compared = ["blinding_pubkey", "blinder_index"]
        if found.is_blinded and more.is_blinded:
            compared += _BLINDED_NAMES[:4]
        if any(found.get(name) != more.get(name) for name in compared):
            return False
    if found.is_to_be_blinded and not found.is_blinded and more.is_blinded:
        for name in _BLINDED_NAMES:
            if name in more.values:
                found.values[name] = more.values[name]
            else:
                found.values.pop(name, None)
    _take(found, more=more, names=_OUTPUT_NAMES)
    return True


def _take(found: FieldMap, *, more: FieldMap, names: frozenset[str]) -> None:
    for name in names & set(more.values):
        found.values.setdefault(name, more.values[name])
    for name, entries in more.keyed.items():
        known = found.keyed.setdefault(name, {})
        for key, value in entries.items():
            known.setdefault(key, value)
    for key, value in more.unknown.items():
        found.unknown.setdefault(key, value)
