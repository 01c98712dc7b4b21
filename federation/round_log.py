"""Why a height needed another round, in words for an operator.

Source: consensus:C21, consensus:C25-C32.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from federation.consensus.effects import CheckBlock
from federation.consensus.encoding import NIL
from federation.consensus.events import Verdict
from federation.consensus.state_machine import Agreement
from federation.consensus.votes import VoteType
from federation.peers import EventLog


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundStory:
    """What is known of a round that did not decide; members by index.

    `proposed` is the block hash proposed, None when no proposal came. `missing` sent no vote of the
    type.
    """

    round: int
    proposer: int
    proposed: bytes | None
    has_bytes: bool
    prevotes: tuple[int, ...]
    prevotes_nil: tuple[int, ...]
    precommits: tuple[int, ...]
    precommits_nil: tuple[int, ...]
    missing: tuple[int, ...]

    def why(self, k: int, connected: frozenset[int], verdicts: Mapping[bytes, str]) -> str:
        """One sentence.

        Args:
            k: votes that make a quorum.
            connected: members whose link is up, and ourselves.
            verdicts: own reasons against blocks, by hash.
        """
        if self.proposed is None:
            lost = "" if self.proposer in connected else ", which is not connected"
            return f"no proposal came from m{self.proposer}{lost}"
        if not self.has_bytes:
            return f"the block that m{self.proposer} proposed did not arrive"
        own = verdicts.get(self.proposed)
        own_text = f"; here: {own}" if own else ""
        if len(self.prevotes) < k:
            return f"{len(self.prevotes)} of {k} prevotes for the block{self._absent()}{own_text}"
        return f"{len(self.precommits)} of {k} precommits for the block{self._absent()}{own_text}"

    def _absent(self) -> str:
        silent = ", ".join(f"m{member}" for member in self.missing)
        return f"; silent: {silent}" if silent else ""


def story_of(agreement: Agreement, round_number: int) -> RoundStory:
    """What the core still knows of a round of the height in progress."""
    members = agreement.members
    proposal = agreement.proposals.get(round_number)
    proposed = proposal.vote.block_hash if proposal is not None else None
    prevotes = _votes(agreement, round_number, VoteType.PREVOTE)
    precommits = _votes(agreement, round_number, VoteType.PRECOMMIT)
    return RoundStory(
        round=round_number,
        proposer=members.proposer(agreement.height, round_number),
        proposed=proposed,
        has_bytes=proposed is not None and agreement.blocks.get(proposed) is not None,
        prevotes=tuple(m for m, h in prevotes if h != NIL),
        prevotes_nil=tuple(m for m, h in prevotes if h == NIL),
        precommits=tuple(m for m, h in precommits if h != NIL),
        precommits_nil=tuple(m for m, h in precommits if h == NIL),
        missing=tuple(
            m.index
            for m in members.members
            if m.index not in {who for who, _ in prevotes}
            or m.index not in {who for who, _ in precommits}
        ),
    )


def _votes(agreement: Agreement, round_number: int, kind: VoteType) -> list[tuple[int, bytes]]:
    held = agreement.keeper.votes(round_number, kind)
    return [(member, held[member][0].block_hash) for member in sorted(held)]


class RoundLog:
    """Tells the log about own verdicts and rounds that failed, each once."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._told = (0, -1)
        self._verdicts: dict[bytes, str] = {}

    def begin_height(self) -> None:
        """Forget the verdicts of the height before."""
        self._verdicts.clear()

    def judged(self, order: CheckBlock, verdict: Verdict, reason: str) -> bool:
        """A block was not found acceptable; False when that was told before."""
        text = f"{verdict.value}: {reason}"
        if self._verdicts.get(order.block_hash) == text:
            return False  # asked again every second
        self._verdicts[order.block_hash] = text
        self._log.warning(
            "block_judged",
            height=order.height,
            round=order.round,
            block_hash=order.block_hash[::-1].hex(),
            verdict=verdict.value,
            reason=reason,
        )
        return True

    def observe(self, agreement: Agreement, connected: frozenset[int]) -> None:
        """Say, on entering a round after the first, why the one before failed."""
        here = (agreement.height, agreement.round)
        if self._told == here:
            return
        before, self._told = self._told, here
        if agreement.round < 1:
            return
        if before[0] != agreement.height or before[1] < 0:
            self._log.info("round_joined", height=agreement.height, round=agreement.round)
            return
        story = story_of(agreement, before[1])
        links = connected if agreement.me is None else connected | {agreement.me}
        self._log.warning(
            "round_failed",
            height=agreement.height,
            round=before[1],
            next_round=agreement.round,
            proposer=story.proposer,
            why=story.why(agreement.members.k, links, self._verdicts),
            prevotes=story.prevotes,
            prevotes_nil=story.prevotes_nil,
            precommits=story.precommits,
            precommits_nil=story.precommits_nil,
        )
