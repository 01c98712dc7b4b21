"""Tallies of one height: signed statements in, quorums, positions and evidence out.

Source: consensus:C11, consensus:C12, consensus:C13, consensus:C32, consensus:C56, consensus:C90,
consensus:C91.
"""

from typing import Final

from federation.consensus.encoding import NIL
from federation.consensus.evidence import conflict_of
from federation.consensus.messages import Evidence
from federation.consensus.votes import BlockSignature, Certificate, Proposal, Vote, VoteType
from federation.members import MemberSet

VOTES_PER_MEMBER_MAX: Final = 2  # C91
ROUNDS_AHEAD_MAX: Final = 3  # C90
ROUNDS_BEHIND_MAX: Final = 1  # C90
POL_CERTIFICATES_MAX: Final = 64
NO_POSITION: Final = (-1, 0)


class VoteKeeper:
    """Counts what authenticated members of one height have signed. Owned by the agreement.

    Attributes:
        positions: highest (round, type) seen signed by each member; (−1, 0) for none.
        latest: the message that shows it.
    """

    def __init__(self, members: MemberSet) -> None:
        self.members = members
        self.k = members.k
        self.positions: list[tuple[int, int]] = [NO_POSITION] * members.n
        self.latest: list[Vote | Proposal | None] = [None] * members.n
        self._round = -1
        self._votes: dict[tuple[int, int], dict[int, tuple[Vote, ...]]] = {}
        self._tallies: dict[tuple[int, int, bytes], int] = {}
        self._pols: dict[tuple[int, bytes], Certificate] = {}
        self._commits: dict[bytes, Certificate] = {}
        self._block_signatures: dict[bytes, dict[int, BlockSignature]] = {}
        self._last_precommits: dict[int, Vote] = {}

    # --- taking in

    def add(self, vote: Vote, carrier: Proposal | None = None) -> Evidence | None:
        """Count a vote (C11); returns evidence if it contradicts one that is held (C56).

        Args:
            carrier: the PROPOSAL frame that a proposal vote came in, for passing it on.
        """
        member, position = vote.member, (vote.round, int(vote.type))
        if position > self.positions[member]:
            self.positions[member] = position
            self.latest[member] = carrier or vote
        if not self.keeps_round(vote.round):
            return None  # C90
        held = self._votes.setdefault(position, {}).get(member, ())
        if any(other.says_the_same_as(vote) for other in held):
            return None
        evidence = self._conflict(vote, held)
        if len(held) >= VOTES_PER_MEMBER_MAX:  # C91
            return evidence
        self._votes[position][member] = (*held, vote)
        self._count(vote)
        return evidence

    def add_certificate(self, certificate: Certificate) -> list[tuple[int, Evidence]]:
        """Keep a verified POL or COMMIT and count each of its votes as a single one too.

        Returns:
            (member, evidence) for every vote in it that contradicts one that is held.
        """
        if self.holds(certificate):
            return []
        found = [(vote.member, self.add(vote)) for vote in certificate.as_votes()]
        if certificate.type is VoteType.PRECOMMIT:
            self._commits.setdefault(certificate.block_hash, certificate)
        else:
            self._pols.setdefault((certificate.round, certificate.block_hash), certificate)
        return [(member, evidence) for member, evidence in found if evidence is not None]

    def add_block_signature(self, signature: BlockSignature) -> BlockSignature | None:
        """Keep a verified BLOCKSIG; returns one by the same member for another block, if held.

        At most two blocks a member are kept (C56b shows the second one).
        """
        other = None
        blocks_signed = 0
        for block_hash, signatures in self._block_signatures.items():
            if block_hash != signature.block_hash and signature.member in signatures:
                other = other or signatures[signature.member]
                blocks_signed += 1
        if blocks_signed < VOTES_PER_MEMBER_MAX:
            held = self._block_signatures.setdefault(signature.block_hash, {})
            held.setdefault(signature.member, signature)
        return other

    def enter_round(self, round_number: int, pinned_rounds: tuple[int, ...]) -> None:
        """Move the window of single votes; drop what is before it (C21, C90).

        Args:
            pinned_rounds: rounds whose POL certificates are kept: of lock and validValue.
        """
        self._round = round_number
        self._votes = {key: v for key, v in self._votes.items() if self.keeps_round(key[0])}
        self._tallies = {key: v for key, v in self._tallies.items() if self.keeps_round(key[0])}
        oldest = round_number - ROUNDS_BEHIND_MAX
        kept = [key for key in self._pols if key[0] >= oldest or key[0] in pinned_rounds]
        excess = len(kept) - POL_CERTIFICATES_MAX
        if excess > 0:
            kept = [key for key in kept if key[0] in pinned_rounds] + sorted(kept)[:-excess]
        self._pols = {key: self._pols[key] for key in kept}

    def keeps_round(self, round_number: int) -> bool:
        """Whether single votes of a round are kept (C90)."""
        return (
            self._round - ROUNDS_BEHIND_MAX
            <= round_number
            <= max(self._round, 0) + ROUNDS_AHEAD_MAX
        )

    # --- asking

    def knows(self, vote: Vote) -> bool:
        """Whether the same statement was counted, or can no longer matter."""
        position = (vote.round, int(vote.type))
        if not self.keeps_round(vote.round):
            return position <= self.positions[vote.member]
        held = self._votes.get(position, {}).get(vote.member, ())
        full = len(held) >= VOTES_PER_MEMBER_MAX
        return full or any(other.says_the_same_as(vote) for other in held)

    def holds(self, certificate: Certificate) -> bool:
        """Whether a certificate for the same (type, round, hash) is held."""
        if certificate.type is VoteType.PRECOMMIT:
            return certificate.block_hash in self._commits
        return (certificate.round, certificate.block_hash) in self._pols

    def pol(self, round_number: int, block_hash: bytes) -> Certificate | None:
        """POL(r, H) as a certificate; H may be nil (C12)."""
        return self._pols.get((round_number, block_hash))

    def pols(self) -> list[Certificate]:
        """All POLs held for blocks, lowest round first."""
        return [self._pols[key] for key in sorted(self._pols) if key[1] != NIL]

    def commits(self) -> list[Certificate]:
        """All COMMIT certificates held; two of them are a fork (C60)."""
        return [self._commits[block_hash] for block_hash in sorted(self._commits)]

    def commit(self, block_hash: bytes) -> Certificate | None:
        """The COMMIT certificate of a block, if it is held."""
        return self._commits.get(block_hash)

    def reached(self, round_number: int, vote_type: VoteType) -> bool:
        """Whether k members are at or past (round, type), whatever they signed there (C13)."""
        target = (round_number, int(vote_type))
        return sum(position >= target for position in self.positions) >= self.k

    def skip_round(self, me: int | None) -> int:
        """The s-th largest round over the other members; −1 if none (C32)."""
        rounds = sorted(
            (p[0] for member, p in enumerate(self.positions) if member != me), reverse=True
        )
        s = self.members.s
        return rounds[s - 1] if len(rounds) >= s else -1

    def votes(self, round_number: int, vote_type: VoteType) -> dict[int, tuple[Vote, ...]]:
        """Single votes held of a round and type, by member."""
        return self._votes.get((round_number, int(vote_type)), {})

    def bitmap(self, round_number: int, vote_type: VoteType) -> int:
        """Bit i set: a vote of member i of this round and type is held."""
        return sum(1 << member for member in self.votes(round_number, vote_type))

    def block_signatures(self, block_hash: bytes) -> list[BlockSignature]:
        """BLOCKSIGs held for a block, by member."""
        held = self._block_signatures.get(block_hash, {})
        return [held[member] for member in sorted(held)]

    def signed_blocks(self) -> list[bytes]:
        """Blocks that k members have signed."""
        return [h for h, held in self._block_signatures.items() if len(held) >= self.members.k]

    def highest_of(self, member: int) -> Vote | BlockSignature | None:
        """The highest message of a member at this height: a BLOCKSIG, else its latest vote."""
        for block_hash in sorted(self._block_signatures):
            if member in self._block_signatures[block_hash]:
                return self._block_signatures[block_hash][member]
        message = self.latest[member]
        return message.vote if isinstance(message, Proposal) else message

    # --- counting

    def supporters(self, vote: Vote) -> int:
        """How many distinct members said the same (type, round, hash) as this vote (C12)."""
        return self._tallies.get((vote.round, int(vote.type), vote.block_hash), 0).bit_count()

    def _count(self, vote: Vote) -> None:
        if vote.type is VoteType.PROPOSAL:
            return
        key = (vote.round, int(vote.type), vote.block_hash)
        self._tallies[key] = self._tallies.get(key, 0) | 1 << vote.member
        if vote.type is VoteType.PRECOMMIT and vote.block_hash == NIL:
            return
        if self.supporters(vote) < self.k:
            return
        if vote.type is VoteType.PRECOMMIT:
            if vote.block_hash not in self._commits:
                self._commits[vote.block_hash] = self._certify(vote)
        elif (vote.round, vote.block_hash) not in self._pols:
            self._pols[vote.round, vote.block_hash] = self._certify(vote)

    def _certify(self, example: Vote) -> Certificate:
        votes: list[tuple[int, int, bytes]] = []
        for member, held in sorted(self.votes(example.round, example.type).items()):
            for vote in held:
                if vote.block_hash == example.block_hash and len(votes) < self.k:
                    votes.append((member, vote.valid_round, vote.signature))
                    break
        return Certificate(
            type=example.type,
            height=example.height,
            round=example.round,
            block_hash=example.block_hash,
            votes=tuple(votes),
        )

    def _conflict(self, vote: Vote, held: tuple[Vote, ...]) -> Evidence | None:
        """Evidence that `vote` makes with a vote of the same member that is held (C56a, C56c)."""
        for other in held:
            return conflict_of(other, vote)
        if vote.block_hash == NIL or vote.type is VoteType.PROPOSAL:
            return None
        lock = self._last_precommits.get(vote.member)
        if vote.type is VoteType.PREVOTE:
            return conflict_of(lock, vote) if lock else None
        if lock is None or lock.round < vote.round:
            self._last_precommits[vote.member] = vote
        found = (
            conflict_of(vote, prevote)
            for (_, vote_type), by_member in sorted(self._votes.items())
            if vote_type == VoteType.PREVOTE
            for prevote in by_member.get(vote.member, ())
        )
        return next((evidence for evidence in found if evidence is not None), None)
