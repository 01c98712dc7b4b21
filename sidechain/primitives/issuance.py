"""Asset ids and reissuance token ids.

Source: elements/transactions.md 5.
"""

from dataclasses import dataclass

from sidechain.crypto.hashes import fast_merkle_root, sha256d
from sidechain.primitives.confidential import is_commitment
from sidechain.primitives.tx_parts import OutPoint, TxIn

_ASSET_LEAF = bytes(32)
_EXPLICIT_TOKEN_LEAF = b"\x01" + bytes(31)
_CONFIDENTIAL_TOKEN_LEAF = b"\x02" + bytes(31)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedIds:
    """What one issuance creates; all 32 bytes, internal order."""

    entropy: bytes
    asset: bytes
    token: bytes


def issuance_entropy(prevout: OutPoint, contract_hash: bytes) -> bytes:
    """Entropy of a new issuance on `prevout` (index without flag bits)."""
    return fast_merkle_root([sha256d(prevout.serialize()), contract_hash])


def asset_from_entropy(entropy: bytes) -> bytes:
    """Id of the asset issued with this entropy."""
    return fast_merkle_root([entropy, _ASSET_LEAF])


def token_from_entropy(entropy: bytes, *, confidential_amount: bool) -> bytes:
    """Id of the reissuance token, which depends on whether the issued amount is hidden."""
    leaf = _CONFIDENTIAL_TOKEN_LEAF if confidential_amount else _EXPLICIT_TOKEN_LEAF
    return fast_merkle_root([entropy, leaf])


def issued_ids(txin: TxIn) -> IssuedIds | None:
    """Ids of what an input issues, or None where it issues nothing.

    A reissuance carries the asset's entropy in its entropy field; a new issuance carries the
    contract hash there.
    """
    issuance = txin.issuance
    if issuance is None:
        return None
    entropy = issuance.entropy
    if not issuance.is_reissuance:
        entropy = issuance_entropy(txin.prevout, issuance.entropy)
    hidden = is_commitment(issuance.amount)
    return IssuedIds(
        entropy=entropy,
        asset=asset_from_entropy(entropy),
        token=token_from_entropy(entropy, confidential_amount=hidden),
    )
