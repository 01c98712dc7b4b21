"""What a member was told and what it has to make of it: evidence, roll-call answers, waits.

Beside the checker of votes; everything is counted from what was delivered and what is durable.

Source: consensus:C33, consensus:C56, consensus:C58, consensus:C71, consensus:C73, consensus:C90,
N8.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from federation.consensus.effects import CheckBlock, SendAnswer, SetTimer
from federation.consensus.encoding import NIL
from federation.consensus.events import ConsensusTimes, TimerKind, Verdict
from federation.consensus.pen import order_of
from federation.consensus.votes import BlockSignature, Certificate, Proposal, Vote, VoteType
from federation.sim.checker import Checker
from federation.sim.written import Written

ROUND_TIMERS = (TimerKind.PROPOSE, TimerKind.PREVOTE, TimerKind.PRECOMMIT)
Key = tuple[int, int, int, int]


@dataclass(slots=True)
class _Memory:
    """What one process of a member was told."""

    life: int
    said: dict[Key, tuple[bytes, int]] = field(default_factory=dict)
    seen: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)
    accused: set[tuple[int, int, int]] = field(default_factory=set)
    verdicts: dict[tuple[int, int, bytes], Verdict] = field(default_factory=dict)


@dataclass(slots=True)
class _Returned:
    """A member whose disk went back unseen: what it still knew, and who knew more."""

    position: tuple[int, int, int]
    witnesses: dict[int, int]


class Witness:
    """Remembers deliveries of correct members."""

    def __init__(
        self, checker: Checker, times: ConsensusTimes, key_of: Callable[[int], bytes]
    ) -> None:
        self._checker, self._times, self._key_of = checker, times, key_of
        self._memories: dict[int, _Memory] = {}
        self._returned: dict[int, _Returned] = {}

    def _memory(self, member: int, life: int) -> _Memory:
        memory = self._memories.get(member)
        if memory is None or memory.life != life:
            memory = self._memories[member] = _Memory(life)
        return memory

    # --- deliveries

    def on_told(
        self,
        member: int,
        life: int,
        message: Vote | Proposal | Certificate | BlockSignature,
        window: tuple[int, int],
    ) -> list[tuple[int, int, int]]:
        """A verified message goes to a member's core.

        Args:
            window: first and last round whose single votes are kept (C90).
        Returns:
            (index, height, class) of whom the core has to accuse now or has accused before.
        """
        memory = self._memory(member, life)
        match message:
            case Proposal(vote, _):
                return self._single(memory, vote, window)
            case Certificate():
                for vote in message.as_votes():
                    self._see(memory, vote)
                return []
            case Vote():
                return self._single(memory, message, window)
            case BlockSignature():
                self._see(memory, message)
                return []

    def _see(self, memory: _Memory, message: Vote | BlockSignature) -> None:
        members = self._checker.plan.members(message.height)
        if message.member < len(members):
            who, order = members[message.member], order_of(message)
            memory.seen[who] = max(order, memory.seen.get(who, order))

    def _single(
        self, memory: _Memory, vote: Vote, window: tuple[int, int]
    ) -> list[tuple[int, int, int]]:
        self._see(memory, vote)
        if not window[0] <= vote.round <= window[1]:
            return []
        key = (vote.member, vote.height, vote.round, int(vote.type))
        statement = vote.block_hash, vote.valid_round
        if memory.said.setdefault(key, statement) != statement:
            return [(vote.member, vote.height, 1)]
        return []

    def on_accused(self, member: int, life: int, accused: tuple[int, int, int]) -> None:
        """The core accuses someone."""
        self._memory(member, life).accused.add(accused)

    def check_accused(self, member: int, life: int, expected: list[tuple[int, int, int]]) -> None:
        """C58: two different votes at one position are kept as evidence."""
        accused = self._memory(member, life).accused
        for case in expected:
            if case not in accused:
                self._checker.fail("C58", f"m{member} keeps no evidence against {case}")

    # --- what a core orders

    def on_timer_set(self, member: int, order: SetTimer) -> None:
        """C33: waits grow with the round."""
        if order.timer.kind not in ROUND_TIMERS:
            return
        expected = min(
            self._times.timeout_base_ms + order.timer.round * self._times.timeout_step_ms,
            self._times.timeout_cap_ms,
        )
        if order.after_ms != expected:
            self._checker.fail("C33", f"m{member} waits {order.after_ms} ms: {order.timer}")

    def on_verdict(self, member: int, life: int, order: CheckBlock, verdict: Verdict) -> None:
        """A member's own judgement of a block, in a round."""
        key = (order.height, order.round, order.block_hash)
        self._memory(member, life).verdicts[key] = verdict

    def on_prevote(self, member: int, life: int, vote: Vote) -> None:
        """N8: a prevote that cites no POL needs E and P, judged in its round."""
        if vote.type is not VoteType.PREVOTE or vote.valid_round != -1 or vote.block_hash == NIL:
            return
        key = (vote.height, vote.round, vote.block_hash)
        verdict = self._memory(member, life).verdicts.get(key)
        if verdict is not Verdict.ACCEPTABLE:
            found = verdict.value if verdict is not None else "not judged in this round"
            self._checker.fail("N8", f"m{member} prevotes a block it finds {found}: {vote}")

    def on_new_vote(self, member: int, life: int, own: Written) -> None:
        """J3, C71: with an own vote the highest messages of the others get into the journal."""
        for other, order in self._memory(member, life).seen.items():
            known = own.seen.get(self._key_of(other))
            if other != member and (known is None or order_of(known) < order):
                self._checker.fail("J3", f"m{member} did not write what it saw of m{other}")

    def on_answer(
        self, asker: int, member: int, life: int, order: SendAnswer, own: Written
    ) -> None:
        """C71: an answer tells what journal and chain hold, and the highest message seen."""
        own.look()
        known = max(own.tip_height, own.signed_height)
        if order.known != known:
            self._checker.fail("C71", f"m{member} answers {order.known} and knows {known}")
        if order.abstaining != own.is_abstaining:
            self._checker.fail("C71", f"m{member} answers abstaining={order.abstaining}")
        seen = self._memory(member, life).seen.get(asker)
        if seen is not None and (order.seen is None or order_of(order.seen) < seen):
            self._checker.fail("C71", f"m{member} hides what it saw of m{asker}: {seen}")

    # --- disks that went back unseen

    def on_returned(self, member: int, lives: dict[int, int], written: Written) -> None:
        """A disk went back: who knows of later votes of its owner?"""
        witnesses = {}
        for other, life in lives.items():
            memory = self._memories.get(other)
            if memory is None or memory.life != life or other == member:
                continue
            seen = memory.seen.get(member, (0, 0, -1, 0))
            if (seen[0], seen[2], seen[3]) > written.position:
                witnesses[other] = life
        self._returned[member] = _Returned(written.position, witnesses)

    def on_returned_vote(self, member: int, vote: Vote, lives: dict[int, int]) -> None:
        """C73, C75: with enough witnesses about, the member may not contradict itself."""
        returned = self._returned.get(member)
        if returned is None or not self._checker.note_contradiction(member, vote):
            return
        plan, height = self._checker.plan, vote.height
        blind = 0
        for other in plan.members(height):
            life = returned.witnesses.get(other)
            if other != member and (life is None or lives.get(other) != life):
                blind += 1
        if blind < plan.at(height).k - 1:
            self._checker.fail("I3", f"m{member} contradicts itself though others knew: {vote}")
