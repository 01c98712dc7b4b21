"""The trial spend: a small FED output spent by k members to show that they can.

Signed and offered to `testmempoolaccept` before OPEN. It never touches the anchor: a signed spend
of the anchor would break the lane if it leaked.

Source: peg:P2, peg:P39, N22.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from peg.batches import fee_at
from peg.fedscript import FedScript
from peg.lanes import encode_unsigned, with_witnesses, worst_vsize
from peg.parameters import PegParameters
from peg.payments import Payment, PaymentInput
from peg.signing import is_batch_signature
from sidechain.errors import InvalidEncoding
from sidechain.primitives.transaction import OutPoint

TRIAL_MIN_SATS = 10_000
FED_OUTPUT_BYTES = 43


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSpend:
    """An unsigned trial spend: one FED input, one FED output, and the digest to sign."""

    payment: Payment
    unsigned: bytes
    digest: bytes


def build_trial_spend(
    outpoint: OutPoint, value_sats: int, parameters: PegParameters, script: FedScript
) -> TrialSpend:
    """The one trial spend of an output, at twice the fee floor.

    Raises:
        InvalidEncoding: the output is below 10,000 sat.
    """
    if value_sats < TRIAL_MIN_SATS:
        raise InvalidEncoding("trial spend", f"needs at least {TRIAL_MIN_SATS} sat")
    vsize = worst_vsize([script.witness_worst_bytes], FED_OUTPUT_BYTES, 1)
    fee_sats = fee_at(2 * parameters.rate_floor_sats_per_kvb, vsize)
    outputs = ((value_sats - fee_sats, script.program),)
    payment = Payment(
        index=None,
        burn_ids=(),
        inputs=(PaymentInput(outpoint=outpoint, value_sats=value_sats, claim_script=None),),
        outputs=outputs,
    )
    return TrialSpend(
        payment=payment,
        unsigned=encode_unsigned([outpoint], outputs),
        digest=payment.digests(script)[0],
    )


def assemble_trial_spend(
    trial: TrialSpend, signatures: Mapping[int, bytes], script: FedScript
) -> bytes:
    """The signed transaction from the first k members in key order.

    Args:
        signatures: DER with hash type, by member.
    Raises:
        InvalidEncoding: fewer than k signatures verify.
    """
    good = [
        member
        for member in sorted(signatures)
        if is_batch_signature(script.keys[member], trial.digest, signatures[member])
    ]
    if len(good) < script.k:
        raise InvalidEncoding("trial spend", f"{len(good)} of {script.k} signatures verify")
    chosen = [signatures[member] for member in good[: script.k]]
    return with_witnesses(trial.unsigned, [[b"", *chosen, script.script]])
