"""All rounds of one height: the paper's table, rule by rule.

Each `cNN_` method is the rule of that number in consensus:4. It answers whether it changed
anything; after each event the rules are tried in order until none does. Line numbers (L22 …) are
those of Algorithm 1 in arXiv:1807.04938.

Source: consensus:C10 to consensus:C38, N8, N9.
"""

from collections.abc import Callable
from typing import Final

from federation.consensus.effects import (
    Alarm,
    Broadcast,
    BuildBlock,
    Finalize,
)
from federation.consensus.encoding import NIL
from federation.consensus.events import TimerKind
from federation.consensus.height_state import HeightState, Step
from federation.consensus.votes import (
    Certificate,
    Proposal,
    Vote,
    VoteType,
)

MINIMAL_FROM_ROUND: Final = 2  # N9


class Agreement(HeightState):
    """The rules of one height."""

    def rules(self) -> tuple[Callable[[], bool], ...]:
        """The table: what is tried after each event, in this order."""
        return (
            self.c35_decide,
            self.c36_release,
            self.c37_finalize,
            self.c20_start,
            self.c32_skip,
            self.c31_precommit_wait,
            self.c30_valid_value,
            self.c21_propose,
            self.c23_prevote_fresh,
            self.c24_prevote_again,
            self.c25_propose_timeout,
            self.c26_prevote_wait,
            self.c27_lock,
            self.c28_precommit_nil,
            self.c29_prevote_timeout,
        )

    def settle(self, now_ms: int) -> None:
        """Try the rules until none applies."""
        self.now_ms = now_ms
        while self.is_open:
            for rule in self._rules:
                if rule():
                    break
            else:
                return

    def on_built(self, round_number: int, block_hash: bytes, data: bytes) -> None:
        """Propose the block that was built for this round (C21)."""
        if not (
            self.is_open
            and self.step is Step.PROPOSE
            and round_number == self.round
            and self._asked_to_build
            and self._may_sign(VoteType.PROPOSAL)
        ):
            return
        if self._propose_valid_value():
            return
        self.on_block(block_hash, data, is_empty=False, is_own=True)
        self._sign(VoteType.PROPOSAL, block_hash, -1, None)

    # --- start and rounds

    def c20_start(self) -> bool:
        """C20: enter round 0 at the first moment allowed by the pacing."""
        if self.step is not Step.WAIT:
            return False
        waited_ms = self.now_ms - self._waited_since_ms
        if self._is_first and any(position != (-1, 0) for position in self.keeper.positions):
            waited_ms = self.times.block_interval_ms  # process start, and h was already under way
        if waited_ms < self.times.min_interval_ms:
            self._set_start_timer(1, self.times.min_interval_ms - waited_ms)
            return False
        others_started = self.keeper.skip_round(self.me) >= 0  # (d)
        is_late = waited_ms >= self.times.block_interval_ms  # (b)
        if not (self.work_due or is_late or others_started or self._is_block_offered()):
            self._set_start_timer(2, self.times.block_interval_ms - waited_ms)
            return False
        self._may_be_empty = is_late or others_started
        self._enter(max(0, self.keeper.skip_round(self.me)))
        return True

    def _set_start_timer(self, stage: int, after_ms: int) -> None:
        if self._start_timers < stage:
            self._start_timers = stage
            self._set_timer(TimerKind.START, after_ms)

    def _is_block_offered(self) -> bool:
        """C20(c): the proposal of round 0 is a block that is not empty."""
        proposal = self.proposals.get(0)
        block = self.blocks.get(proposal.vote.block_hash) if proposal else None
        return block is not None and not block.is_empty

    def _enter(self, round_number: int) -> None:
        """C21, first half: begin a round (L11 to L13)."""
        self.round, self.step = round_number, Step.PROPOSE
        self.keeper.enter_round(round_number, (self.locked_round, self.valid_round))
        self.proposals = {r: p for r, p in self.proposals.items() if self.keeper.keeps_round(r)}
        self._expired.clear()
        self._waiting.clear()
        self._asked_to_build = False
        self._set_timer(TimerKind.PROPOSE, self.times.timeout_ms(round_number))

    def c21_propose(self) -> bool:
        """C21, L14 to L19: the proposer of the round offers validValue, else a fresh block."""
        if (
            self.step is not Step.PROPOSE
            or self._asked_to_build
            or self.me != self.members.proposer(self.height, self.round)
            or not self._may_sign(VoteType.PROPOSAL)
            or self._is_judging(self.valid_hash)
        ):
            return False
        self._asked_to_build = True
        if not self._propose_valid_value():
            self.pen.emit(
                BuildBlock(
                    height=self.height,
                    round=self.round,
                    minimal=self.round >= MINIMAL_FROM_ROUND,
                    allow_empty=self.round > 0 or self._may_be_empty,
                )
            )
        return True

    def _propose_valid_value(self) -> bool:
        pol = self.keeper.pol(self.valid_round, self.valid_hash)
        if self.valid_hash == NIL or pol is None or not self.blocks.have(self.valid_hash):
            return False
        self._sign(VoteType.PROPOSAL, self.valid_hash, self.valid_round, pol)
        return True

    # --- prevote

    def c23_prevote_fresh(self) -> bool:
        """C23, L22: a proposal that cites no POL."""
        proposal = self.proposals.get(self.round)
        if self.step is not Step.PROPOSE or proposal is None or proposal.vote.valid_round != -1:
            return False
        block_hash = proposal.vote.block_hash
        return self._prevote_on(proposal, self.locked_round == -1 or self.locked_hash == block_hash)

    def c24_prevote_again(self) -> bool:
        """C24, L28: a proposal that cites a POL of an earlier round."""
        proposal = self.proposals.get(self.round)
        if self.step is not Step.PROPOSE or proposal is None or proposal.vote.valid_round < 0:
            return False
        valid_round, block_hash = proposal.vote.valid_round, proposal.vote.block_hash
        return self._prevote_on(
            proposal, self.locked_round <= valid_round or self.locked_hash == block_hash
        )

    def c24a_justification(self, proposed: Vote) -> int:
        """The newest POL round known to justify the proposed block (C24a)."""
        if self.locked_hash == proposed.block_hash:
            return max(proposed.valid_round, self.locked_round)
        return proposed.valid_round

    def _prevote_on(self, proposal: Proposal, lock_allows: bool) -> bool:
        """Prevote the block if lock and verdict allow it, nil if they refuse; else wait."""
        if not self._may_sign(VoteType.PREVOTE):
            return False
        block_hash, cited = proposal.vote.block_hash, self.c24a_justification(proposal.vote)
        pol = proposal.certificate
        if cited != proposal.vote.valid_round:
            pol = self.keeper.pol(cited, block_hash)
        if not lock_allows or (cited >= 0 and pol is None):
            return self._prevote(NIL, -1, None)
        is_acceptable = self._is_valid(block_hash) if cited >= 0 else self._is_accepted(block_hash)
        if is_acceptable is None:
            return False
        if is_acceptable:
            return self._prevote(block_hash, cited, pol)
        return self._prevote(NIL, -1, None)

    def c25_propose_timeout(self) -> bool:
        """C25, L57: no acceptable proposal in time."""
        if self.step is not Step.PROPOSE or TimerKind.PROPOSE not in self._expired:
            return False
        if not self._may_sign(VoteType.PREVOTE):
            return False
        return self._prevote(NIL, -1, None)

    def _prevote(self, block_hash: bytes, cited_round: int, pol: Certificate | None) -> bool:
        self.step = Step.PREVOTE
        self._sign(VoteType.PREVOTE, block_hash, cited_round, pol)
        return True

    def c26_prevote_wait(self) -> bool:
        """C26, L34: k members are past their prevote; wait a while for a quorum on one value."""
        if self.step is not Step.PREVOTE or not self.keeper.reached(self.round, VoteType.PREVOTE):
            return False
        return self._set_timer_once(TimerKind.PREVOTE, self.times.timeout_ms(self.round))

    # --- precommit

    def c27_lock(self) -> bool:
        """C27, L36: a quorum of prevotes for a block: lock it and precommit it."""
        if self.step is not Step.PREVOTE or not self._may_sign(VoteType.PRECOMMIT):
            return False
        for pol in self.keeper.pols():
            if pol.round == self.round and self._is_valid(pol.block_hash):
                self.locked_hash, self.locked_round = pol.block_hash, self.round
                self.valid_hash, self.valid_round = pol.block_hash, self.round
                self.step = Step.PRECOMMIT
                self._sign(VoteType.PRECOMMIT, pol.block_hash, -1, pol)
                return True
        return False

    def c28_precommit_nil(self) -> bool:
        """C28, L44: a quorum of prevotes for nil. The lock stays."""
        if self.step is not Step.PREVOTE or self.keeper.pol(self.round, NIL) is None:
            return False
        return self._precommit_nil()

    def c29_prevote_timeout(self) -> bool:
        """C29, L61: no quorum on one value in time. The lock stays."""
        if self.step is not Step.PREVOTE or TimerKind.PREVOTE not in self._expired:
            return False
        return self._precommit_nil()

    def _precommit_nil(self) -> bool:
        if not self._may_sign(VoteType.PRECOMMIT):
            return False
        self.step = Step.PRECOMMIT
        self._sign(VoteType.PRECOMMIT, NIL, -1, None)
        return True

    def c30_valid_value(self) -> bool:
        """C30, L42, for any round: remember the newest block with a quorum of prevotes."""
        for pol in self.keeper.pols():
            is_past = pol.round < self.round or (
                pol.round == self.round and self.step >= Step.PREVOTE
            )
            if is_past and pol.round > self.valid_round and self._is_valid(pol.block_hash):
                self.valid_hash, self.valid_round = pol.block_hash, pol.round
                return True
        return False

    # --- next round

    def c31_precommit_wait(self) -> bool:
        """C31, L47, L65: k members are past their precommit; wait a while, then go on."""
        if self.step in (Step.WAIT, Step.DECIDED):
            return False
        if TimerKind.PRECOMMIT in self._expired:
            self._enter(self.round + 1)
            return True
        if not self.keeper.reached(self.round, VoteType.PRECOMMIT):
            return False
        return self._set_timer_once(TimerKind.PRECOMMIT, self.times.timeout_ms(self.round))

    def c32_skip(self) -> bool:
        """C32, L55: s other members are in a later round."""
        if self.step in (Step.WAIT, Step.DECIDED):
            return False
        target = self.keeper.skip_round(self.me)
        if target <= self.round:
            return False
        self._enter(target)
        return True

    # --- decision

    def c35_decide(self) -> bool:
        """C35, L49: a quorum of precommits for a block, in one round, decides it.

        The member stays at this height, answering, until the block is final (C39).
        """
        commits = self.keeper.commits()
        if len(commits) > 1:  # C60
            self.pen.halt(commits[0].encode(), commits[1].encode(), "two blocks were decided")
            return True
        if self.step is Step.DECIDED or not commits:
            return False
        commit = commits[0]
        is_valid = self._is_valid(commit.block_hash)
        if is_valid is None:
            return False
        if not is_valid:
            text = "the decided block is invalid here"
            self.pen.emit(Alarm(text))
            self.pen.halt(commit.encode(), b"", text)
            return True
        self.step, self.decided_hash = Step.DECIDED, commit.block_hash
        self.pen.emit(Broadcast(commit))
        return True

    def c36_release(self) -> bool:
        """C36: the only place where a block signature is made: after the decision."""
        if self.step is not Step.DECIDED or self.is_released or self.me is None:
            return False
        commit = self.keeper.commit(self.decided_hash)
        if commit is None:
            return False
        if self.pen.signed_another_block(self.height, self.decided_hash):
            signed = self.pen.image.commit
            first = signed.encode() if signed else self.pen.image.block_signature[1]
            self.pen.halt(first, commit.encode(), "another block of this height was signed")
            return True
        if not self.pen.may_sign_block(self.height):
            return False
        self.is_released = True
        self._make_durable(self.decided_hash)
        self.pen.write_block_signature(self.height, self.decided_hash, commit)
        return True

    def c37_finalize(self) -> bool:
        """C37: k block signatures make the block final."""
        for block_hash in self.keeper.signed_blocks():
            is_valid = self._is_valid(block_hash)
            if is_valid is None:
                continue
            signatures = tuple(self.keeper.block_signatures(block_hash)[: self.members.k])
            if not is_valid or self.contradicts(block_hash):
                bodies = b"".join(signature.encode() for signature in signatures)
                text = "k members signed a block that must not be final here"
                self.pen.halt(bodies, self.pen.image.block_signature[1], text)
                return True
            block = self.blocks.get(block_hash)
            data = block.data if block else b""
            self.is_closed = True
            self.pen.emit(
                Finalize(
                    height=self.height, block_hash=block_hash, data=data, signatures=signatures
                )
            )
            return True
        return False

    def contradicts(self, block_hash: bytes) -> bool:
        """Whether k signatures for this block stand against a COMMIT or BLOCKSIG held (C60)."""
        is_other_decided = any(c.block_hash != block_hash for c in self.keeper.commits())
        return is_other_decided or self.pen.signed_another_block(self.height, block_hash)
