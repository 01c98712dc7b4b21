"""Proofs of hidden amounts and assets, as checks that need nothing but their own fields.

`amounts.check_amounts` makes them and does everything else; verifying them is nearly all the time
a confidential transaction costs, so it can be done later, elsewhere, and several at a time.

Source: elements/transactions.md 6.2 to 6.4.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sidechain.crypto.zkp import verify_range_proof, verify_surjection_proof
from sidechain.errors import InvalidTransaction
from sidechain.primitives.tx_parts import is_unspendable

UNBALANCED = "bad-txns-in-ne-out"
"""What Elements answers to every fault of amounts, proofs included."""


@dataclass(frozen=True, slots=True)
class RangeProofCheck:
    """A hidden amount is in a range that its output may have.

    Attributes:
        commitment: 33 bytes, the value field.
        generator: 33 bytes, the generator of the asset, blinded or not.
        script: of the output; empty for an issued amount.
    """

    proof: bytes
    commitment: bytes
    generator: bytes
    script: bytes

    def fault(self) -> InvalidTransaction | None:
        """What is wrong with it, or None.

        A range that starts at zero is for what nobody can spend: otherwise a token output of
        zero would let its owner reissue.
        """
        proved = verify_range_proof(self.proof, self.commitment, self.generator, self.script)
        if proved is None:
            return InvalidTransaction(UNBALANCED, "range proof does not hold")
        if proved[0] == 0 and not is_unspendable(self.script):
            return InvalidTransaction(UNBALANCED, "range of a spendable output starts at zero")
        return None


@dataclass(frozen=True, slots=True)
class SurjectionProofCheck:
    """A hidden asset is that of an input or an issuance of its transaction.

    Attributes:
        targets: 33 bytes each, the generators of all inputs and issuances in their order.
        generator: 33 bytes, the asset field of the output.
    """

    proof: bytes
    targets: tuple[bytes, ...]
    generator: bytes

    def fault(self) -> InvalidTransaction | None:
        """What is wrong with it, or None."""
        if verify_surjection_proof(self.proof, self.targets, self.generator):
            return None
        return InvalidTransaction(UNBALANCED, "surjection proof does not hold")


ProofCheck = RangeProofCheck | SurjectionProofCheck


def verify_proofs(checks: Iterable[ProofCheck]) -> None:
    """Verify proofs here and now, in order.

    Raises:
        InvalidTransaction: "bad-txns-in-ne-out" at the first that does not hold.
    """
    for check in checks:
        fault = check.fault()
        if fault is not None:
            raise fault
