"""Which pairs of signed messages convict their signer.

Structure only: signatures are verified by the shell.

Source: consensus:C56, consensus:C58.
"""

from federation.consensus.encoding import NIL, InvalidMessage, MessageReader
from federation.consensus.messages import Evidence, EvidenceClass
from federation.consensus.votes import BlockSignature, Vote, VoteType


def conflict_of(first: Vote, second: Vote) -> Evidence | None:
    """Evidence made of two votes of one member at one height, None if they can both be honest.

    A nil prevote after a precommit is what a lock demands, so it is never amnesia.
    """
    if first.member != second.member or first.height != second.height:
        return None
    if first.round == second.round and first.type == second.type:
        if first.says_the_same_as(second):
            return None
        return Evidence(EvidenceClass.DOUBLE_VOTE, first.encode(), second.encode())
    if first.type is VoteType.PREVOTE:
        first, second = second, first
    if (
        first.type is VoteType.PRECOMMIT
        and second.type is VoteType.PREVOTE
        and NIL not in (first.block_hash, second.block_hash)
        and first.block_hash != second.block_hash
        and second.round > first.round > second.valid_round
    ):
        return Evidence(EvidenceClass.AMNESIA, first.encode(), second.encode())
    return None


def two_blocks(first: BlockSignature, second: BlockSignature) -> Evidence:
    """Evidence of BLOCKSIGs of one member for two blocks of one height (C56b)."""
    return Evidence(EvidenceClass.TWO_BLOCKS, first.encode(), second.encode())


def check_evidence(evidence: Evidence) -> tuple[int, int] | None:
    """Height and member that evidence of votes or BLOCKSIGs accuses, by structure alone.

    Returns:
        (height, member), or None when a body is a header: the shell finds who signed it.
    Raises:
        InvalidMessage: the bodies are no messages of the class, or do not contradict each other.
    """
    if evidence.kind is EvidenceClass.TWO_BLOCKS:
        return _check_two_blocks(evidence)
    first, second = _vote(evidence.first), _vote(evidence.second)
    found = conflict_of(first, second)
    if found is None or found.kind is not evidence.kind:
        raise InvalidMessage("messages do not contradict each other")
    if evidence.kind is EvidenceClass.AMNESIA and first.type is not VoteType.PRECOMMIT:
        raise InvalidMessage("the precommit comes first")
    return first.height, first.member


def _check_two_blocks(evidence: Evidence) -> tuple[int, int] | None:
    bodies = (evidence.first, evidence.second)
    if evidence.first == evidence.second:
        raise InvalidMessage("messages do not contradict each other")
    if any(len(body) != 101 for body in bodies):
        for body in bodies:
            if len(body) != 101:
                reader = MessageReader(body)
                reader.header()
                reader.done()
        return None
    first, second = (BlockSignature.decode(body) for body in bodies)
    same = (first.height, first.member) == (second.height, second.member)
    if not same or first.block_hash == second.block_hash:
        raise InvalidMessage("messages do not contradict each other")
    return first.height, first.member


def _vote(body: bytes) -> Vote:
    reader = MessageReader(body)
    vote = Vote.read(reader)
    reader.done()
    return vote
