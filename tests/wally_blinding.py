"""Transactions that hide what they pay, made by wallycore alone: none of our own blinding is here.

Blinders follow from a seed, so that equal arguments give equal transactions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import wallycore

from sidechain.crypto.hashes import sha256
from sidechain.primitives.confidential import NULL, explicit_asset, explicit_value
from sidechain.primitives.transaction import (
    InputWitness,
    OutputWitness,
    Transaction,
    TxIn,
    TxOut,
)

NOT_BLINDED = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """An output to be hidden from all but the owner of a blinding key."""

    value_sats: int
    script: bytes
    blinding_key: bytes


def blinded(
    inputs: Sequence[TxIn],
    spent_sats: Sequence[int],
    outputs: Sequence[Hidden],
    *,
    asset: bytes,
    fee_sats: int,
    seed: bytes,
    input_witnesses: Sequence[InputWitness] = (),
) -> Transaction:
    """An unsigned transaction of one asset, from explicit coins into hidden outputs.

    Args:
        spent_sats: explicit amounts of the coins, in the order of the inputs.
        outputs: at least two, as nothing else balances the blinders of one.
    """
    draws = _draws(seed)
    asset_blinders = [next(draws) for _ in outputs]
    value_blinders = [next(draws) for _ in outputs[:-1]]
    blind_inputs = NOT_BLINDED * len(inputs)
    final = wallycore.asset_final_vbf(
        [*spent_sats, *(output.value_sats for output in outputs)],
        len(inputs),
        blind_inputs + b"".join(asset_blinders),
        blind_inputs + b"".join(value_blinders),
    )
    value_blinders.append(bytes(final))
    source = bytes(wallycore.asset_generator_from_bytes(asset, NOT_BLINDED))
    made = [TxOut(explicit_asset(asset), explicit_value(fee_sats), NULL, b"")]
    proofs = [OutputWitness()]
    for output, abf, vbf in zip(outputs, asset_blinders, value_blinders, strict=True):
        generator = bytes(wallycore.asset_generator_from_bytes(asset, abf))
        commitment = bytes(wallycore.asset_value_commitment(output.value_sats, vbf, generator))
        ephemeral = next(draws)
        range_proof = wallycore.asset_rangeproof(
            output.value_sats,
            output.blinding_key,
            ephemeral,
            asset,
            abf,
            vbf,
            commitment,
            output.script,
            generator,
            1,  # least value
            0,  # exponent
            52,  # bits
        )
        surjection = wallycore.asset_surjectionproof(
            asset,
            abf,
            generator,
            next(draws),
            asset * len(inputs),
            blind_inputs,
            source * len(inputs),
        )
        nonce = bytes(wallycore.ec_public_key_from_private_key(ephemeral))
        made.append(TxOut(generator, commitment, nonce, output.script))
        proofs.append(OutputWitness(bytes(surjection), bytes(range_proof)))
    return Transaction.build(
        inputs=inputs, outputs=made, input_witnesses=input_witnesses, output_witnesses=proofs
    )


def _draws(seed: bytes) -> Iterator[bytes]:
    number = 0
    while True:
        yield sha256(seed + number.to_bytes(4, "little"))
        number += 1
