"""Answers about waiting claims, asked of Bitcoin in the background: a proposer need not wait.

A claim is ripe for a template when its place fits the planned commitment now, and the last answer
about its block and output (C3, C7) was good. An answer is asked again when Bitcoin's tip moves.

Source: peg:C2-C7.
"""

from collections import OrderedDict

from peg.bitcoind import BitcoindError
from peg.claims import Claim, read_claims
from peg.parent_view import ParentView
from peg.voting import PegVoting
from sidechain.errors import Invalid, Unavailable
from sidechain.primitives.transaction import Transaction

ANSWERS_KEPT_MAX = 10_000


class ClaimChecks:
    """Questions and answers about claims. One owner: the service."""

    def __init__(self, voting: PegVoting, parent: ParentView) -> None:
        """Start empty."""
        self._voting = voting
        self._parent = parent
        self._answers: OrderedDict[Claim, tuple[bytes, bool]] = OrderedDict()
        self._questions: OrderedDict[Claim, None] = OrderedDict()

    @property
    def has_questions(self) -> bool:
        """Whether `ask` has something to do."""
        return bool(self._questions)

    def is_ripe(self, transaction: Transaction, height: int) -> bool:
        """Whether all claims of a transaction can go into the block of a height, as known now."""
        if not any(txin.is_pegin for txin in transaction.inputs):
            return True
        if self._parent.is_empty:
            return False
        try:
            claims = read_claims([transaction])
            commitment = self._voting.plan_commitment(height)
            for claim in claims:
                if self._voting.claim_place_reason(claim, commitment):
                    return False
        except (Invalid, Unavailable):
            return False
        answers = [self._answer(claim) for claim in claims]
        return all(answers)

    async def ask(self) -> bool:
        """Ask Bitcoin about every claim in question.

        Returns:
            Whether an answer was good.
        Raises:
            Unavailable: the node did not answer; the question stays.
        """
        any_good = False
        while self._questions:
            claim = next(iter(self._questions))
            tip_hash = self._parent.tip_hash
            try:
                good = await self._voting.is_proved_and_unspent(claim)
            except BitcoindError:
                # A block that left the chain and then the disk: an answer, not a reason to wait.
                good = False
            self._questions.pop(claim, None)
            self._answers[claim] = (tip_hash, good)
            self._answers.move_to_end(claim)
            any_good = any_good or good
            while len(self._answers) > ANSWERS_KEPT_MAX:
                self._answers.popitem(last=False)
        return any_good

    def _answer(self, claim: Claim) -> bool:
        """The last answer; asked (again) when there is none for this tip."""
        tip_hash, good = self._answers.get(claim, (b"", False))
        if tip_hash != self._parent.tip_hash:
            self._questions[claim] = None
        return good
