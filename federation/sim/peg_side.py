"""The peg's part of a simulated federation: one Bitcoin that reorganises, many views of it.

Commitments are planned and judged by `peg.commitments`, as in a member, on each member's own view.

Source: peg:V1-V7, N7-N9, N33.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from federation.consensus.events import Verdict
from peg.commitments import (
    Commitment,
    CommitmentFacts,
    decode_commitment,
    judge_commitment,
    plan_commitment,
)
from peg.parameters import LOCAL
from peg.parent_view import ParentBlock, ParentView

FIRST_BLOCKS: Final = 24
ESTIMATE_SATS_PER_KVB: Final = 2_000


class PegSide:
    """A Bitcoin in memory and what each member knows of it."""

    def __init__(self, members: Sequence[int], seed: int) -> None:
        self._seed, self._serial = seed, 0
        self._best: list[ParentBlock] = []
        self._all: dict[bytes, ParentBlock] = {}
        self._views = {member: ParentView() for member in members}
        self._silent: dict[int, int] = {}
        self.mine(FIRST_BLOCKS)

    # --- what happens on Bitcoin

    def mine(self, count: int) -> None:
        """Blocks on the best chain."""
        for _ in range(count):
            self._serial += 1
            tip = self._best[-1] if self._best else None
            block = ParentBlock(
                hash=sha256(b"parent %d %d" % (self._seed, self._serial)).digest(),
                prev_hash=tip.hash if tip else bytes(32),
                height=tip.height + 1 if tip else 0,
                ntx=1,
                time=self._serial,
            )
            self._best.append(block)
            self._all[block.hash] = block
        self._tell()

    def reorganise(self, depth: int) -> None:
        """The last blocks are replaced by one more than they were."""
        depth = min(depth, len(self._best) - 1)
        del self._best[len(self._best) - depth :]
        self.mine(depth + 1)

    def silence(self, member: int) -> None:
        """A member's bitcoind does not hear of new blocks."""
        self._silent[member] = self._silent.get(member, 0) + 1

    def listen(self, member: int) -> None:
        """It catches up."""
        self._silent[member] -= 1
        self._tell()

    def heal(self) -> None:
        """Every bitcoind works."""
        self._silent.clear()
        self._tell()

    def _tell(self) -> None:
        for member, view in self._views.items():
            if not self._silent.get(member):
                self._update(view)

    def _update(self, view: ParentView) -> None:
        first = 0 if view.is_empty else len(self._best)
        while first > 0 and not view.is_active(self._best[first - 1].hash):
            first -= 1
        view.advance(self._best[first:])

    # --- what a member makes of it

    def plan(self, member: int, before: bytes, *, minimal: bool) -> bytes:
        """The commitment script of a block that a member builds; `before` is its parent's."""
        previous = decode_commitment(before) if before else None
        if minimal and previous is not None:
            return previous.repeated().script()
        view = self._views[member]
        fork = self._fork_height(view, previous)
        planned = plan_commitment(view, previous, LOCAL, ESTIMATE_SATS_PER_KVB, fork_height=fork)
        return planned.script() if planned is not None else b""

    def judge(self, member: int, before: bytes, script: bytes) -> Verdict:
        """A member's verdict on a block's commitment, now (V2 to V7)."""
        if not script:
            return Verdict.REFUSED
        previous = decode_commitment(before) if before else None
        commitment = decode_commitment(script)
        view = self._views[member]
        facts = CommitmentFacts(
            tip_height=view.tip_height,
            height=view.height_of(commitment.block_hash),
            previous_height=view.height_of(previous.block_hash) if previous else None,
            fork_height=self._fork_height(view, previous),
            estimate_sats_per_kvb=ESTIMATE_SATS_PER_KVB,
            reset_approved=False,
        )
        verdict = judge_commitment(commitment, previous, facts, LOCAL, has_claims=False)
        if not verdict.policy:
            return Verdict.REFUSED
        return Verdict.ACCEPTABLE if verdict.eventual else Verdict.NOT_YET

    def _fork_height(self, view: ParentView, previous: Commitment | None) -> int | None:
        """Highest block of the own best chain below the previous committed one, if that left it."""
        if previous is None or view.is_active(previous.block_hash):
            return None
        at = previous.block_hash
        while at in self._all and not view.is_active(at):
            at = self._all[at].prev_hash
        return view.height_of(at)
