"""Outputs that hide their amounts and asset, for measuring how fast they are verified."""

from collections.abc import Sequence

from sidechain.crypto import zkp
from sidechain.crypto.hashes import sha256
from sidechain.crypto.keys import GROUP_ORDER
from sidechain.errors import InvariantError
from sidechain.primitives.confidential import NULL
from sidechain.primitives.transaction import OutputWitness, TxOut

RANGE_BITS = 52
PAYMENT_PROOFS = 4
"""Two range proofs and two surjection proofs."""


def hide(
    asset_id: bytes, payments: Sequence[tuple[int, bytes]], entropy: bytes
) -> tuple[list[TxOut], list[OutputWitness]]:
    """Outputs that hide amounts of an asset which one shown input pays.

    Args:
        payments: amount and script of each.
        entropy: 32 bytes that all blinders follow from.
    Returns:
        The outputs with witnesses, and an empty witness for the fee output behind them.
    """
    blinders = [sha256(entropy + bytes([n])) for n in range(2 * len(payments))]
    assets, values = blinders[::2], blinders[1::2]
    # The input hides nothing, so everything the outputs add must cancel out.
    terms = [
        amount * int.from_bytes(asset, "big")
        for (amount, _), asset in zip(payments, assets, strict=True)
    ]
    others = sum(int.from_bytes(value, "big") for value in values[:-1])
    values[-1] = (-(sum(terms) + others) % GROUP_ORDER).to_bytes(32, "big")
    outputs, witnesses = [], []
    for (amount, script), asset, value in zip(payments, assets, values, strict=True):
        generator = zkp.blinded_generator(asset_id, asset)
        commitment = None if generator is None else zkp.commit(amount, generator, value)
        if generator is None or commitment is None:
            raise InvariantError("a blinder of the load is no scalar")
        outputs.append(
            TxOut(
                zkp.serialize_generator(generator),
                zkp.serialize_commitment(commitment),
                NULL,
                script,
            )
        )
        range_proof = zkp.sign_range_proof(
            amount,
            value,
            generator,
            nonce=sha256(entropy + b"nonce"),
            message=asset_id + asset,
            extra=script,
            least=1,
            bits=RANGE_BITS,
        )
        surjection_proof = zkp.sign_surjection_proof(
            [zkp.BlindedAsset(asset_id, zkp.ZERO_BLINDER)],
            zkp.BlindedAsset(asset_id, asset),
            seed=sha256(entropy + b"seed"),
            used=1,
        )
        witnesses.append(OutputWitness(surjection_proof, range_proof))
    return outputs, [*witnesses, OutputWitness()]
