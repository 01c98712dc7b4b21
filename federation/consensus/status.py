"""Status exchange: what a member holds, and what it sends to one that holds less.

Source: consensus:4.7, consensus:C50 to consensus:C54, consensus:C84.
"""

from typing import Final

from federation.consensus.effects import Broadcast, CatchUp, Send, SendFinal, SetTimer
from federation.consensus.encoding import NIL
from federation.consensus.events import ConsensusTimes, PeerId, Timer, TimerKind
from federation.consensus.height_state import HeightState
from federation.consensus.messages import Message, Status, StatusFlag
from federation.consensus.pen import Pen
from federation.consensus.votes import NO_SIGNATURE, Vote, VoteType

REPLIES_MAX: Final = 64  # C53
GOSSIP_TIMER: Final = Timer(kind=TimerKind.GOSSIP)


class StatusDesk:
    """Says what this member holds, answers what others say, tells who is ahead.

    Args:
        peers: the newest STATUS of each connected peer; owned by the driver.
    """

    def __init__(self, times: ConsensusTimes, pen: Pen, peers: dict[PeerId, Status | None]) -> None:
        self._times, self._pen, self._peers = times, pen, peers
        self.is_due = False
        self._sent_ms: int | None = None
        self._shown: tuple[int, int, int, bytes] | None = None

    def on_status(self, peer: PeerId, status: Status, state: HeightState, now_ms: int) -> None:
        """C51: reply with what the peer lacks."""
        self._peers[peer] = status
        is_settled = now_ms - state.started_ms >= self._times.gossip_interval_ms
        if status.height == state.height:
            for message in replies(state, status):
                self._pen.emit(Send(peer, message))
        elif status.height < state.height:
            if is_settled or status.height < state.height - 1:
                # C51.1; a retired member helps the new set over the border so (C84).
                self._pen.emit(SendFinal(peer, status.height, 1))
        elif is_settled or status.height > state.height + 1:
            self._pen.emit(CatchUp(peer, status.height))  # C54

    def on_gossip_timer(self, height: int) -> None:
        """C50, C54: STATUS is due; ask the first peer that is ahead."""
        self.is_due = True
        for peer, status in self._peers.items():
            if status is not None and status.height > height:
                self._pen.emit(CatchUp(peer, status.height))
                return

    def keep_fresh(self, state: HeightState, now_ms: int, *, abstaining: bool) -> None:
        """C50: each gossip interval, and soon after a change, but not more often than a quarter."""
        shown = (state.height, state.round, int(state.step), state.decided_hash)
        is_changed = shown != self._shown
        if not is_changed and not self.is_due:
            return
        quarter_ms = self._times.gossip_interval_ms // 4
        since_ms = quarter_ms if self._sent_ms is None else now_ms - self._sent_ms
        if since_ms >= quarter_ms:
            self.is_due = False
            self._sent_ms, self._shown = now_ms, shown
            self._pen.emit(Broadcast(own_status(state, abstaining=abstaining)))
            self._pen.emit(SetTimer(GOSSIP_TIMER, self._times.gossip_interval_ms))
        elif not self.is_due:
            self.is_due = True
            self._pen.emit(SetTimer(GOSSIP_TIMER, quarter_ms - since_ms))


def own_status(state: HeightState, *, abstaining: bool) -> Status:
    """The STATUS to send now (C50)."""
    keeper = state.keeper
    commits = keeper.commits()
    decided_hash = commits[0].block_hash if commits else NIL
    proposal = state.proposals.get(state.round)
    flags = StatusFlag.COMMIT_HELD if commits else 0
    if proposal is not None:
        flags |= StatusFlag.PROPOSAL_HELD
        if state.blocks.get(proposal.vote.block_hash) is not None:
            flags |= StatusFlag.BLOCK_HELD
    if abstaining:
        flags |= StatusFlag.ABSTAINING
    return Status(
        height=state.height,
        tip_hash=state.tip_hash,
        round=state.round,
        step=int(state.step),
        valid_round=state.valid_round,
        flags=flags,
        decided_hash=decided_hash,
        block_signatures=sum(1 << s.member for s in keeper.block_signatures(decided_hash)),
        prevotes=keeper.bitmap(state.round, VoteType.PREVOTE),
        precommits=keeper.bitmap(state.round, VoteType.PRECOMMIT),
        positions=tuple(keeper.positions),
    )


def replies(state: HeightState, status: Status) -> list[Message]:
    """What a peer at the same height lacks and we hold, own and others' messages alike (C51).

    Returns:
        At most 64 messages, the most useful first (C53).
    """
    found = _decision(state, status) + _latest(state, status) + _votes(state, status)
    pol = state.keeper.pol(state.valid_round, state.valid_hash)
    if pol is not None and state.valid_hash != NIL and state.valid_round > status.valid_round:
        found.append(pol)  # C51.5
    proposal = state.proposals.get(state.round)
    if (
        proposal is not None
        and status.round == state.round
        and not status.flags & StatusFlag.PROPOSAL_HELD
    ):
        found.append(proposal)  # C51.6
    return _without_repeats(found)[:REPLIES_MAX]


def _decision(state: HeightState, status: Status) -> list[Message]:
    """C51.2: the COMMIT, and block signatures for the decided block."""
    found: list[Message] = []
    commits = state.keeper.commits()
    has_commit = bool(status.flags & StatusFlag.COMMIT_HELD)
    if commits and not has_commit:
        found.append(commits[0])
    decided_hash = status.decided_hash
    if not has_commit:
        decided_hash = commits[0].block_hash if commits else NIL
    for signature in state.keeper.block_signatures(decided_hash):
        if not status.block_signatures >> signature.member & 1:
            found.append(signature)
    return found


def _latest(state: HeightState, status: Status) -> list[Message]:
    """C51.3: the newest message of each member that the peer has not seen so far along."""
    keeper = state.keeper
    if len(status.positions) != len(keeper.positions):
        return []
    return [
        latest
        for latest, mine, theirs in zip(
            keeper.latest, keeper.positions, status.positions, strict=True
        )
        if latest is not None and mine > theirs
    ]


def _votes(state: HeightState, status: Status) -> list[Message]:
    """C51.4: votes of the peer's round that its bitmaps lack; own ones never get lost (C52)."""
    found: list[Message] = []
    bitmaps = ((VoteType.PREVOTE, status.prevotes), (VoteType.PRECOMMIT, status.precommits))
    for vote_type, bitmap in bitmaps:
        held = state.keeper.votes(status.round, vote_type)
        for member in range(state.members.n):
            if bitmap >> member & 1:
                continue
            if member in held:
                found.extend(held[member])
            elif member == state.me:
                found.extend(_own_vote(state, status.round, vote_type))
    return found


def _own_vote(state: HeightState, round_number: int, vote_type: VoteType) -> list[Vote]:
    vote, _ = state.own_votes.get((round_number, int(vote_type)), (None, None))
    return [vote] if vote is not None and vote.signature != NO_SIGNATURE else []


def _without_repeats(messages: list[Message]) -> list[Message]:
    """Each message once, in order; by identity, as replies are shared objects, not copies."""
    seen: dict[int, Message] = {}
    for message in messages:
        seen.setdefault(id(message), message)
    return list(seen.values())
