"""Status exchange: what a member holds, and what it sends to one that holds less.

Source: consensus:4.7, consensus:C50 to consensus:C53.
"""

from typing import Final

from federation.consensus.encoding import NIL
from federation.consensus.height_state import HeightState
from federation.consensus.messages import Message, Status, StatusFlag
from federation.consensus.votes import NO_SIGNATURE, Vote, VoteType

REPLIES_MAX: Final = 64  # C53


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
