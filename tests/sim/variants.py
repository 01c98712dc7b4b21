"""Planted bugs: one-line changes of the core, as subclasses that only tests use.

Source: consensus:10.3.
"""

from federation.consensus.driver import Driver
from federation.consensus.effects import SignBlock
from federation.consensus.encoding import NIL
from federation.consensus.events import ConsensusTimes
from federation.consensus.height_state import Step
from federation.consensus.messages import Evidence
from federation.consensus.records import JournalImage
from federation.consensus.state_machine import Agreement
from federation.consensus.vote_keeper import VoteKeeper
from federation.consensus.votes import Certificate, Proposal, Vote, VoteType
from federation.members import MemberSet


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


class DropsLock(Agreement):
    """B2: lock dropped at each new round."""

    def _enter(self, round_number: int) -> None:
        super()._enter(round_number)
        self.locked_hash, self.locked_round = NIL, -1


class IgnoresLockRound(Agreement):
    """B3: C24 without lockedRound ≤ vr."""

    def c24_prevote_again(self) -> bool:
        locked = self.locked_round
        self.locked_round = -1
        applied = super().c24_prevote_again()
        self.locked_round = locked
        return applied


class SmallQuorum(VoteKeeper):
    """B4: quorum k − 1."""

    def __init__(self, members: MemberSet) -> None:
        super().__init__(members)
        self.k = members.k - 1


class SkipsOnOne(VoteKeeper):
    """B6: round skip on one sender."""

    def skip_round(self, me: int | None) -> int:
        return max(p[0] for member, p in enumerate(self.positions) if member != me)


class ForgetsLock(Agreement):
    """B12: lock not in the journal."""

    def restore_lock(self, vote: Vote) -> None:
        pass


class ForgetsStep(Driver):
    """B13: step not restored after restart; the lock is."""

    def __init__(
        self,
        *,
        vote_key: bytes,
        times: ConsensusTimes,
        image: JournalImage,
        blocks: dict[bytes, bytes],
    ) -> None:
        height, round_, _ = image.position
        image.position = (height, round_, 1) if round_ >= 0 else image.position
        super().__init__(vote_key=vote_key, times=times, image=image, blocks=blocks)

    class Rules(Agreement):
        """Back to PROPOSE in the round of the last vote."""

        def restore_position(self, vote: Vote) -> None:
            super().restore_position(vote)
            self.step = Step.PROPOSE

        def c24a_justification(self, proposed: Vote) -> int:
            return min(super().c24a_justification(proposed), self.round - 1)

    agreement_class = Rules


class CountsVotes(VoteKeeper):
    """B14: votes counted, not members."""

    def __init__(self, members: MemberSet) -> None:
        super().__init__(members)
        self._heard: dict[tuple[int, int, bytes], int] = {}

    def knows(self, vote: Vote) -> bool:
        return False

    def supporters(self, vote: Vote) -> int:
        return self._heard.get((vote.round, int(vote.type), vote.block_hash), 0)

    def add(self, vote: Vote, carrier: Proposal | None = None) -> Evidence | None:
        key = (vote.round, int(vote.type), vote.block_hash)
        self._heard[key] = self._heard.get(key, 0) + 1
        evidence = super().add(vote, carrier)
        if self.keeps_round(vote.round):
            self._count(vote)
        return evidence


class UnlocksOnNil(Agreement):
    """B15: nil POL unlocks."""

    def c28_precommit_nil(self) -> bool:
        applied = super().c28_precommit_nil()
        if applied:
            self.locked_hash, self.locked_round = NIL, -1
        return applied


VARIANTS: dict[str, type[Driver]] = {
    "B1": driver_with(SignsAtPrecommit),
    "B2": driver_with(DropsLock),
    "B3": driver_with(IgnoresLockRound),
    "B4": driver_with(keeper=SmallQuorum),
    "B6": driver_with(keeper=SkipsOnOne),
    "B12": driver_with(ForgetsLock),
    "B13": ForgetsStep,
    "B14": driver_with(keeper=CountsVotes),
    "B15": driver_with(UnlocksOnNil),
}
