"""A planted bug as a subclass, for members of which only some have it; others are mutants.

Source: consensus:10.3.
"""

from federation.consensus.driver import Driver
from federation.consensus.effects import SignBlock
from federation.consensus.state_machine import Agreement
from federation.consensus.vote_keeper import VoteKeeper
from federation.consensus.votes import Certificate, VoteType


def driver_with(
    agreement: type[Agreement] = Agreement, keeper: type[VoteKeeper] = VoteKeeper
) -> type[Driver]:
    """A driver whose rules or tallies are replaced."""
    replaced = type("VariantAgreement", (agreement,), {"keeper_class": keeper})
    return type("VariantDriver", (Driver,), {"agreement_class": replaced})


class SignsAtPrecommit(Agreement):
    """B1: PRECOMMIT also releases the BLOCKSIG."""

    def _sign(
        self, vote_type: VoteType, block_hash: bytes, valid_round: int, pol: Certificate | None
    ) -> None:
        super()._sign(vote_type, block_hash, valid_round, pol)
        if vote_type is VoteType.PRECOMMIT and pol is not None:
            self.pen.emit(SignBlock(self.height, block_hash, pol, again=False))


VARIANTS: dict[str, type[Driver]] = {"B1": driver_with(SignsAtPrecommit)}
