"""Planted bugs: one-line changes of the core, made for the time of a test and nowhere else.

A mutant is an edit of the text of one function of the core (or two), compiled anew and put in its
place while the test runs. The file that is edited is not touched.

Source: consensus:10.3.
"""

import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from federation.consensus import status
from federation.consensus.driver import Driver
from federation.consensus.events import ConsensusTimes, HeightStarted
from federation.consensus.height_state import HeightState
from federation.consensus.pen import Pen
from federation.consensus.records import JournalImage, JournalRecord, Seen, encode_record
from federation.consensus.roll_call import RollCallDesk, RollCallLog
from federation.consensus.state_machine import Agreement
from federation.consensus.vote_keeper import VoteKeeper
from federation.members import MemberSet
from federation.sim.member import Node


@dataclass(frozen=True, slots=True)
class Edit:
    """In the text of `owner.name` put `new` for `old`, which is there exactly once."""

    owner: Any
    name: str
    old: str
    new: str

    def function(self) -> Any:
        """The changed function, compiled where the old one was."""
        found = inspect.getattr_static(self.owner, self.name)
        code = found.fget if isinstance(found, property) else found
        text = textwrap.dedent(inspect.getsource(code))
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name} has {self.old!r} {text.count(self.old)} times")
        module = sys.modules[code.__module__]
        place = dict(vars(module))
        exec(compile(text.replace(self.old, self.new), f"<{self.name}>", "exec"), place)
        return place[self.name]


@contextmanager
def planted(*edits: Edit) -> Iterator[None]:
    """The core with these edits."""
    with ExitStack() as stack:
        for edit in edits:
            stack.enter_context(mock.patch.object(edit.owner, edit.name, edit.function()))
        yield


class WritesLate(Node):
    """B5: the journal is written after sending."""

    late: tuple[JournalRecord, ...] = ()

    def _persist(self, records: tuple[JournalRecord, ...]) -> None:
        late, self.late = self.late, records
        super()._persist(late)


class NeverSyncs(Node):
    """The journal is written and not synced."""

    def _persist(self, records: tuple[JournalRecord, ...]) -> None:
        self.counted.move_bounds(records)
        for record in records:
            if not isinstance(record, Seen) or record.entries:
                kind, body = encode_record(record)
                self.journal.append(kind, body, sync=False)


class OldSetAtBorder(Driver):
    """B30: the old set votes at the border height."""

    def _on_height_started(self, event: HeightStarted) -> None:
        before = self._agreement.members if self._agreement is not None else event.members
        self._last = getattr(self, "_last", before)
        members, self._last = self._last, event.members
        object.__setattr__(event, "members", members)
        super()._on_height_started(event)


ABOVE = "(height, round_number, int(vote_type)) > image.position"
ANY_POSITION = Edit(Pen, "may_vote", ABOVE, "True")
C22_POL = """certificate is not None
        and is_pol_for(vote, certificate)
        and certificate.is_complete(self.keeper.k)"""
LOCK = "self.locked_hash, self.locked_round = pol.block_hash, self.round"
PRECOMMIT = "self._sign(VoteType.PRECOMMIT, pol.block_hash, -1, pol)"
PROPOSER = "vote.member != self.members.proposer(self.height, vote.round)"
TALLY = "self._tallies.get((vote.round, int(vote.type), vote.block_hash), 0)"

EDITS: dict[str, tuple[Edit, ...]] = {
    "B1": (
        Edit(
            Agreement,
            "c27_lock",
            PRECOMMIT,
            PRECOMMIT + "; self.pen.write_block_signature(self.height, pol.block_hash, pol)",
        ),
    ),
    "B2": (
        Edit(
            Agreement,
            "_enter",
            "self.round, self.step = round_number, Step.PROPOSE",
            "self.round, self.step = round_number, Step.PROPOSE; "
            "self.locked_hash, self.locked_round = NIL, -1",
        ),
    ),
    "B3": (Edit(Agreement, "c24_prevote_again", "self.locked_round <= valid_round", "True"),),
    "B4": (Edit(VoteKeeper, "__init__", "self.k = members.k", "self.k = members.k - 1"),),
    "B6": (Edit(VoteKeeper, "skip_round", "rounds[s - 1] if len(rounds) >= s", "rounds[0] if 1"),),
    "B7": (
        Edit(
            HeightState,
            "c22_is_acceptable",
            "is_pol_for(vote, certificate)",
            "certificate.block_hash == vote.block_hash",
        ),
    ),
    "B8": (Edit(HeightState, "c22_is_acceptable", PROPOSER, "False"),),
    "B9": (
        Edit(
            RollCallDesk,
            "on_started",
            'pen.forget_past("the journal is lost or restored")',
            'pen.change_mode(Mode.VOTING, "planted")',
        ),
    ),
    "B10": (
        Edit(HeightState, "c22_is_acceptable", C22_POL, "True"),
        Edit(Agreement, "_prevote_on", "(cited >= 0 and pol is None)", "False"),
    ),
    "B11": (
        Edit(
            VoteKeeper,
            "supporters",
            TALLY,
            "__import__('functools').reduce(int.__or__, (t for (r, k, h), t in "
            "self._tallies.items() if (k, h) == (int(vote.type), vote.block_hash) "
            "and (k == 3 or r == vote.round)), 0)",
        ),
        Edit(
            VoteKeeper,
            "_certify",
            "self.votes(example.round, example.type)",
            "{m: v for r in range(example.round + 1) "
            "for m, v in self.votes(r, example.type).items()}",
        ),
    ),
    "B12": (Edit(HeightState, "restore_lock", "vote.block_hash != NIL", "False"),),
    "B13": (
        Edit(HeightState, "restore_position", "Step(int(vote.type))", "Step.PROPOSE"),
        ANY_POSITION,
    ),
    "B14": (
        Edit(
            VoteKeeper,
            "add",
            "if any(other.says_the_same_as(vote) for other in held):",
            "if False:",
        ),
        Edit(
            VoteKeeper,
            "_count",
            "self._tallies.get(key, 0) | 1 << vote.member",
            "self._tallies.get(key, 0) * 2 + 1",
        ),
        Edit(VoteKeeper, "knows", "return full or", "return False and"),
    ),
    "B15": (
        Edit(
            Agreement,
            "c28_precommit_nil",
            "return self._precommit_nil()",
            "self.locked_hash, self.locked_round = NIL, -1; return self._precommit_nil()",
        ),
    ),
    "B16": (
        Edit(
            Agreement,
            "c27_lock",
            "self.step is not Step.PREVOTE",
            "self.step not in (Step.PROPOSE, Step.PREVOTE) or (self.round, 3) in self.own_votes",
        ),
        Edit(Agreement, "_prevote_on", "if not self._may_sign(VoteType.PREVOTE):", "if False:"),
        Edit(
            Agreement,
            "c25_propose_timeout",
            "if not self._may_sign(VoteType.PREVOTE):",
            "if False:",
        ),
    ),
    "B17": (
        Edit(
            Agreement,
            "c23_prevote_fresh",
            "self.step is not Step.PROPOSE",
            "self.step not in (Step.PROPOSE, Step.PREVOTE) or not self._expired",
        ),
        ANY_POSITION,
    ),
    "B18": (Edit(VoteKeeper, "signed_blocks", ">= self.members.k", ">= self.members.k - 1"),),
    "B19": (Edit(RollCallLog, "c72_vote_from", "< members.k", "< members.k - 1"),),
    "B20": (Edit(RollCallLog, "c72_vote_from", "return b + 2", "return b + 1"),),
    "B21": (Edit(RollCallLog, "c72_vote_from", "if not a.abstaining]", "if True]"),),
    "B22": (Edit(RollCallDesk, "_check_own", "image = self._pen.image", "return"),),
    "B23": (
        Edit(
            Agreement,
            "c24a_justification",
            "max(proposed.valid_round, self.locked_round)",
            "proposed.valid_round",
        ),
    ),
    "B24": (Edit(Agreement, "c27_lock", PRECOMMIT, PRECOMMIT.replace(", pol)", ", None)")),),
    "B25": (
        Edit(
            JournalImage,
            "_apply_block_signature",
            "(height, block_hash), commit",
            "(height, block_hash), None",
        ),
    ),
    "B26": (
        Edit(
            status,
            "replies",
            "_without_repeats(found)[:REPLIES_MAX]",
            "[m for m in found if getattr(m, 'member', -1) == state.me]",
        ),
    ),
    "B27": (
        Edit(
            VoteKeeper,
            "reached",
            "sum(position >= target for position in self.positions)",
            "len(self.votes(round_number, vote_type))",
        ),
    ),
    "B28": (Edit(Agreement, "_propose_valid_value", "self.valid_hash == NIL", "True"),),
    "B29": (Edit(HeightState, "_make_durable", "block is not None", "False"),),
    "B31": (Edit(RollCallLog, "c72_vote_from", "tip_height < b or", ""),),
    "N33": (
        Edit(Agreement, "_prevote_on", "self._is_valid(block_hash) if cited >= 0", "None if False"),
    ),
    # --- beyond the list
    "timeouts-not-scaled": (
        Edit(ConsensusTimes, "timeout_ms", "round_number * self.timeout_step_ms", "0"),
    ),
    "locked-round-wrong": (Edit(Agreement, "c27_lock", LOCK, LOCK.replace("self.round", "-1")),),
    "lock-not-taken": (Edit(Agreement, "c27_lock", LOCK, "pass"),),
    "valid-value-not-updated": (
        Edit(Agreement, "c30_valid_value", "if is_past and", "if False and"),
    ),
    "reached-with-k-1": (Edit(VoteKeeper, "reached", ">= self.k", ">= self.k - 1"),),
    "pol-with-k-1": (Edit(VoteKeeper, "_count", "< self.k", "< self.k - 1"),),
    "reached-past-only": (Edit(VoteKeeper, "reached", "position >= target", "position > target"),),
    "positions-may-repeat": (Edit(Pen, "may_vote", ABOVE, ABOVE.replace(">", ">=")),),
    "evidence-not-kept": (
        Edit(VoteKeeper, "add", "evidence = self._conflict(vote, held)", "evidence = None"),
    ),
    "proposer-never-rotates": (Edit(MemberSet, "proposer", "(height + round_number)", "height"),),
    "seen-not-written": (Edit(Pen, "write_vote", "if self._unwritten:", "if False:"),),
    "answers-from-the-chain-only": (
        Edit(RollCallDesk, "on_roll_call", "image.block_signature[0] > known", "False"),
    ),
    "hides-that-it-abstains": (
        Edit(Pen, "is_abstaining_at", "self.mode is Mode.ABSTAINING or", ""),
    ),
    "vote-from-not-kept": (Edit(Pen, "may_vote", "height >= image.vote_from", "True"),),
    "fresh-block-against-the-lock": (
        Edit(
            Agreement,
            "c23_prevote_fresh",
            "self.locked_round == -1 or self.locked_hash == block_hash",
            "True",
        ),
    ),
    "locks-unknown-blocks": (
        Edit(Agreement, "c27_lock", "and self._is_valid(pol.block_hash)", ""),
    ),
    "old-verdicts-count": (
        Edit(
            HeightState,
            "_is_accepted",
            "block.judged_round == self.round and",
            "block.verdict is not None and",
        ),
    ),
    "invalid-blocks-accepted": (
        Edit(HeightState, "on_checked", "verdict is not Verdict.INVALID", "True"),
    ),
    "lock-dropped-from-base": (
        Edit(JournalImage, "base", "records += [] if is_final else self.votes", "pass"),
    ),
    "pinned-pol-dropped": (
        Edit(
            VoteKeeper,
            "enter_round",
            "if key[0] >= oldest or key[0] in pinned_rounds",
            "if key[0] >= oldest",
        ),
    ),
    "cites-the-older-pol": (Edit(Agreement, "c24a_justification", "max(", "min("),),
    "own-votes-not-counted": (Edit(HeightState, "on_vote_signed", "self.on_vote(vote)", "pass"),),
    "skips-far-too-late": (
        Edit(VoteKeeper, "skip_round", "rounds[s - 1] if len(rounds) >= s", "rounds[-1] if rounds"),
    ),
    "no-wait-between-heights": (
        Edit(Agreement, "c20_start", "waited_ms < self.times.min_interval_ms", "False"),
    ),
    "decided-blocks-not-fetched": (
        Edit(HeightState, "_fetch_missing", "if block_hash not in needed:", "if True:"),
    ),
    "rounds-never-end": (
        Edit(Agreement, "c31_precommit_wait", "TimerKind.PRECOMMIT in self._expired", "False"),
    ),
    "nil-precommit-names-the-lock": (
        Edit(
            Agreement,
            "_precommit_nil",
            "self._sign(VoteType.PRECOMMIT, NIL, -1, None)",
            "self._sign(VoteType.PRECOMMIT, self.locked_hash, -1, None)",
        ),
    ),
}
NODES: dict[str, type[Node]] = {"B5": WritesLate, "journal-not-synced": NeverSyncs}
DRIVERS: dict[str, type[Driver]] = {"B30": OldSetAtBorder}
NAMES = (*EDITS, *NODES, *DRIVERS)


@contextmanager
def mutant(name: str) -> Iterator[dict[str, Any]]:
    """A planted bug; gives the options that `run_seed` needs for it."""
    options: dict[str, Any] = {}
    if name in NODES:
        options["node_class"] = NODES[name]
    if name in DRIVERS:
        options["driver_class"] = DRIVERS[name]
    with planted(*EDITS.get(name, ())):
        yield options
