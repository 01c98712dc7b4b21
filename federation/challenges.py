"""Challenges: who cites votes that this member has not seen is asked to show them (C57).

A prevote that cites the votes of an earlier round, and a precommit, oblige their signer to show
those votes. Where this member holds them there is nothing to ask. Otherwise it asks with GET_CERT,
again and again; what is not answered within a day of the first question is recorded. That is a
claim of the one who asked and no proof, for whoever holds the votes can still show them.

Open challenges are in a file, so that a restart does not forgive them. Times are of the wall clock,
for the same reason.

Source: consensus:C57, consensus:A2, consensus:C99.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from federation.certificate_requests import CertificateRequests, Ticket
from federation.consensus.encoding import NIL, InvalidMessage, MessageReader
from federation.consensus.messages import GetCertificate
from federation.consensus.state_machine import Agreement
from federation.consensus.votes import Certificate, Vote, VoteType
from federation.engine_parts import EngineParts
from federation.files import FileLayer, replace_file

CHALLENGES_NAME: Final = "challenges.json"
PATIENCE_S: Final = 24 * 3_600
FIRST_PAUSE_S: Final = 60
LAST_PAUSE_S: Final = 3_600
OPEN_MAX: Final = 64
OPEN_OF_MEMBER_MAX: Final = 10
ROUNDS_LOOKED_AT: Final = 4


@dataclass(slots=True)
class _Challenge:
    """One open challenge; `asked_s` is 0 until the first question left."""

    vote: Vote
    request: GetCertificate
    asked_s: int = 0
    next_s: int = 0
    pause_s: int = FIRST_PAUSE_S
    ticket: Ticket | None = None

    @property
    def is_asked_here(self) -> bool:
        """Whether a question left since this process started: before, nobody could answer it."""
        return self.pause_s > FIRST_PAUSE_S

    def to_json(self) -> dict[str, Any]:
        return {"vote": self.vote.encode().hex(), "asked_s": self.asked_s}


def obligation(vote: Vote) -> GetCertificate | None:
    """The POL that a vote obliges its signer to show; None when there is none (C57)."""
    if vote.block_hash == NIL:
        return None
    if vote.type is VoteType.PRECOMMIT:
        round_number = vote.round
    elif vote.valid_round >= 0:
        round_number = vote.valid_round
    else:
        return None
    return GetCertificate(
        type=VoteType.PREVOTE,
        height=vote.height,
        round=round_number,
        block_hash=vote.block_hash,
    )


class ChallengeDesk:
    """Owner of the open challenges; runs in the engine's task.

    Args:
        folder: the member's; the file in it is made with the first challenge.
        alarm: shows something to the operator.
    """

    def __init__(
        self,
        parts: EngineParts,
        requests: CertificateRequests,
        folder: Path,
        alarm: Callable[[str], None],
        layer: FileLayer | None = None,
    ) -> None:
        self._parts = parts
        self._requests = requests
        self._path = folder / CHALLENGES_NAME
        self._alarm = alarm
        self._layer = layer or FileLayer()
        self._open: list[_Challenge] = []
        for vote, asked_s in _read(self._path):
            self._add(vote, asked_s)

    def __len__(self) -> int:
        return len(self._open)

    def end_height(self, agreement: Agreement) -> None:
        """Challenge the votes of a height that is over, where they rest on something unseen."""
        before = len(self._open)
        for vote in _votes(agreement):
            request = obligation(vote)
            seen = request is None or agreement.keeper.pol(request.round, request.block_hash)
            if not seen and vote.member != agreement.me:
                self._add(vote, 0)
        if len(self._open) != before:
            self._save()

    def tick(self) -> None:
        """Ask what is due, and record what was not answered for a day; call it every second."""
        now_s = self._parts.unix_time_s()
        for challenge in list(self._open):
            is_over = challenge.asked_s and now_s - challenge.asked_s >= PATIENCE_S
            if now_s < challenge.next_s:
                continue
            if is_over and challenge.is_asked_here:
                self._give_up(challenge, now_s)
            else:
                self._ask(challenge, now_s)

    # -- inside

    def _add(self, vote: Vote, asked_s: int) -> None:
        request = obligation(vote)
        same_member = sum(1 for c in self._open if c.vote.member == vote.member)
        is_known = any(c.request == request and c.vote.member == vote.member for c in self._open)
        if request is None or is_known or len(self._open) >= OPEN_MAX:
            return
        if same_member >= OPEN_OF_MEMBER_MAX or self._is_recorded(vote):
            return
        challenge = _Challenge(vote, request, asked_s)
        challenge.ticket = self._requests.open(
            request, lambda member, certificate: self._answered(challenge, member, certificate)
        )
        if challenge.ticket is not None:
            self._open.append(challenge)

    def _is_recorded(self, vote: Vote) -> bool:
        return self._parts.evidence.has_unanswered(vote.member, vote.height)

    def _ask(self, challenge: _Challenge, now_s: int) -> None:
        """Send the question where there is a link; the day runs from the first one."""
        member = challenge.vote.member
        challenge.next_s = now_s + challenge.pause_s
        if member not in self._parts.network.connected:
            return
        challenge.pause_s = min(2 * challenge.pause_s, LAST_PAUSE_S)
        self._requests.send(member, challenge.request)
        if not challenge.asked_s:
            challenge.asked_s = now_s
            self._save()
            self._parts.log.info(
                "challenge", member=member, height=challenge.vote.height, round=challenge.vote.round
            )

    def _answered(self, challenge: _Challenge, member: int, certificate: Certificate) -> None:
        """The votes exist, whoever showed them."""
        self._close(challenge)
        self._parts.log.info(
            "challenge_answered", member=challenge.vote.member, by=member, height=certificate.height
        )

    def _give_up(self, challenge: _Challenge, now_s: int) -> None:
        vote = challenge.vote
        facts = {"member": vote.member, "height": vote.height, "kind": "UNANSWERED"}
        root = self._parts.production.params_root_at(vote.height)
        try:
            self._parts.evidence.add_unanswered(
                vote, challenge.request, (challenge.asked_s, now_s), params_root=root
            )
        except OSError as error:
            self._alarm(f"evidence could not be written: {error}")
        # Only now: a crash in between repeats the record, which is kept once.
        self._close(challenge)
        self._parts.log.error("evidence", alarm=True, **facts)

    def _close(self, challenge: _Challenge) -> None:
        self._open.remove(challenge)
        if challenge.ticket is not None:
            self._requests.close(challenge.ticket)
        self._save()

    def _save(self) -> None:
        text = json.dumps([challenge.to_json() for challenge in self._open]) + "\n"
        try:
            replace_file(self._layer, self._path, text.encode())
        except OSError as error:  # a restart forgets them; nothing else rests on this file
            self._alarm(f"open challenges could not be written: {error}")


def _votes(agreement: Agreement) -> Iterator[Vote]:
    """Prevotes and precommits of the newest rounds."""
    newest = max(agreement.round, 0)
    for round_number in range(max(newest - 1, 0), newest + ROUNDS_LOOKED_AT):
        for vote_type in (VoteType.PREVOTE, VoteType.PRECOMMIT):
            held = agreement.keeper.votes(round_number, vote_type)
            for member in sorted(held):
                yield from held[member]


def _read(path: Path) -> Iterator[tuple[Vote, int]]:
    """What an earlier process left; a damaged file is as good as none."""
    try:
        plain = json.loads(path.read_bytes())
        for item in plain[:OPEN_MAX]:
            yield Vote.read(MessageReader(bytes.fromhex(item["vote"]))), int(item["asked_s"])
    except (OSError, ValueError, TypeError, KeyError, InvalidMessage):
        return
