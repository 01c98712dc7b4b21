"""The invariants of consensus:10.2, judged by what was signed, written and delivered.

Nothing here asks a member what it believes, but for its round and lock (I7, I9). Statements are
those seen leaving, journals are read from the disks, quorums are counted from the statements.

Source: consensus:10.2.
"""

from collections import defaultdict
from typing import Final

from federation.consensus.encoding import NIL
from federation.consensus.evidence import conflict_of
from federation.consensus.votes import BlockSignature, Certificate, Proposal, Vote, VoteType
from federation.sim.world import GENESIS, FinalBlock, MemberPlan, block_hash, is_valid_child
from federation.sim.written import BLOCKS, Written, said
from federation.verification import SignatureScheme

PREVOTE: Final = VoteType.PREVOTE
PRECOMMIT: Final = VoteType.PRECOMMIT


class Violation(AssertionError):
    """An invariant does not hold. `rule` is its id."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


class Checker:
    """Told of every signature of a correct member at the moment it is sent.

    Args:
        suspects: members that may do anything: liars, twins, disks rolled back unseen.
        ignored: rules that do not count in this run.
    """

    def __init__(
        self,
        plan: MemberPlan,
        scheme: SignatureScheme,
        suspects: tuple[int, ...],
        ignored: frozenset[str] = frozenset(),
    ) -> None:
        self.plan, self._scheme, self.ignored = plan, scheme, ignored
        self.suspects = set(suspects)
        self.blocks: dict[bytes, bytes] = {}
        self._votes: dict[tuple[int, int], list[Vote]] = defaultdict(list)
        self._statements: dict[tuple[int, int, int, int], Vote] = {}
        self._voters: dict[tuple[int, int, int, bytes], set[int]] = defaultdict(set)
        self._last_round: dict[int, int] = {}
        self._positions: dict[int, tuple[int, int, int]] = {}
        self._signed: dict[tuple[int, int], bytes] = {}
        self._signers: dict[int, dict[bytes, set[int]]] = defaultdict(lambda: defaultdict(set))
        self._final: dict[int, bytes] = {}
        self._decided: dict[int, bytes] = {}
        self._locks: dict[tuple[int, int], int] = {}
        self._rounds: dict[tuple[int, int], int] = {}
        self._first_rounds: dict[int, int] = {}
        self._lost_at: dict[int, int] = {}
        self._lock_lives: dict[tuple[int, int], int] = {}
        self._good_certificates: set[Certificate] = set()

    def fail(self, rule: str, text: str) -> None:
        """Report a violation, unless the rule is one to ignore in this run."""
        if rule not in self.ignored:
            raise Violation(rule, text)

    def is_trusted(self, member: int) -> bool:
        """Whether a member is one of those that keep all rules."""
        return member not in self.suspects

    def wild(self, height: int) -> int:
        """How many of M_h may have signed anything."""
        return sum(m in self.suspects for m in self.plan.members(height))

    def position(self, member: int) -> tuple[int, int, int]:
        """The highest vote a member was seen to send."""
        return self._positions.get(member, (0, -1, 0))

    # --- own messages leaving

    def on_vote_sent(self, member: int, vote: Vote, written: Written, life: int) -> None:
        """I3, I4, I5, I8, I12, I13, C41."""
        key = (member, vote.height, vote.round, int(vote.type))
        known = self._statements.get(key)
        if member in self._lost_at and known is not None and known.says_the_same_as(vote):
            return  # what others gave it back is passed on like any vote (C51)
        if not written.look().has(vote):
            self.fail("I12", f"m{member} sent what is not in its journal: {vote}")
        for fault in written.faults:
            self.fail("J3", f"journal of m{member}: {fault}")
        if self.plan.index(vote.height, member) != vote.member:
            self.fail("I11", f"m{member} votes as member {vote.member} of height {vote.height}")
        if known is not None:
            if not known.says_the_same_as(vote):
                self.fail("I3", f"m{member} contradicts itself: {known} {vote}")
            return
        self._check_order(member, vote, written.tip_height)
        self._check_block(member, vote, written)
        earlier = self._votes[member, vote.height]
        self._check_lock_first(member, vote, earlier)
        for other in earlier:
            if conflict_of(other, vote) is not None:
                self.fail("I13", f"m{member} convicts itself: {other} {vote}")
        self._check_proposal(member, vote, life)
        self._check_quorum(member, vote)
        self._statements[key] = vote
        self._positions[member] = key[1:]
        earlier.append(vote)
        self._voters[vote.height, vote.round, int(vote.type), vote.block_hash].add(member)
        self._last_round[vote.height] = max(vote.round, self._last_round.get(vote.height, 0))
        if vote.type is PRECOMMIT and vote.block_hash != NIL:
            self._lock_lives[member, vote.height] = life

    def _check_order(self, member: int, vote: Vote, tip_height: int) -> None:
        position = (vote.height, vote.round, int(vote.type))
        if position <= self.position(member):
            self.fail("I3", f"m{member} steps back from {self.position(member)} to {position}")
        if vote.height <= tip_height:
            self.fail("I3", f"m{member} votes at a final height: {vote}")
        if vote.height <= self._lost_at.get(member, 0):
            self.fail("I3", f"m{member} votes where it may have voted before its loss: {vote}")

    def _check_block(self, member: int, vote: Vote, written: Written) -> None:
        """C14, C41: what is voted for is a valid block whose bytes are durable."""
        if vote.block_hash == NIL:
            return
        data = self.blocks.get(vote.block_hash)
        if data is None or not is_valid_child(data, vote.height, written.tip_hash):
            if vote.type is not VoteType.PROPOSAL:
                self.fail("V", f"m{member} votes for a block that is not valid: {vote}")
            return
        if not written.holds_file(f"{BLOCKS}/block-{vote.block_hash.hex()}"):
            self.fail("C41", f"m{member} votes for a block it has not stored: {vote}")

    def _check_lock_first(self, member: int, vote: Vote, earlier: list[Vote]) -> None:
        """I4."""
        if vote.type is not PREVOTE or vote.block_hash == NIL:
            return
        locks = [v for v in earlier if v.type is PRECOMMIT and v.block_hash != NIL]
        if not locks or locks[-1].block_hash == vote.block_hash:
            return
        lock, cited = locks[-1], vote.valid_round
        polka = (vote.height, cited, PREVOTE, vote.block_hash)
        if not lock.round <= cited < vote.round or not self.is_obtainable(*polka):
            self.fail("I4", f"m{member} votes against its lock: {lock} {vote}")

    def _check_proposal(self, member: int, vote: Vote, life: int) -> None:
        """I8, and C21: a proposer does not pass over what it is locked on."""
        proposer = self.plan.proposer(vote.height, vote.round)
        if vote.type is VoteType.PROPOSAL:
            if member != proposer:
                self.fail("I8", f"m{member} proposes out of turn: {vote}")
            locks = [v for v in self._votes[member, vote.height] if v.type is PRECOMMIT]
            locks = [v for v in locks if v.block_hash != NIL]
            same_life = self._lock_lives.get((member, vote.height)) == life
            if locks and same_life and vote.valid_round < locks[-1].round:
                self.fail("C21", f"m{member} passes over its valid value: {locks[-1]} {vote}")
        elif vote.type is PREVOTE and vote.block_hash != NIL and self.is_trusted(proposer):
            proposal = self._statements.get((proposer, vote.height, vote.round, 1))
            if proposal is None or proposal.block_hash != vote.block_hash:
                self.fail("I8", f"m{member} prevotes what nobody proposed: {vote}")

    def _check_quorum(self, member: int, vote: Vote) -> None:
        """I5, also for the POL that a proposal or prevote cites."""
        if vote.block_hash == NIL:
            return
        rests_on = vote.round if vote.type is PRECOMMIT else vote.valid_round
        if rests_on == -1:
            return
        if not self.is_obtainable(vote.height, rests_on, PREVOTE, vote.block_hash):
            self.fail("I5", f"m{member} rests on a quorum that cannot be: {vote}")

    def is_obtainable(self, height: int, round_: int, kind: VoteType, hash_: bytes) -> bool:
        """Whether correct voters and all that may have signed anything make a quorum."""
        voters = self._voters.get((height, round_, int(kind), hash_), ())
        trusted = sum(m not in self.suspects for m in voters)
        return trusted + self.wild(height) >= self.plan.at(height).k

    def on_block_signature_sent(
        self, member: int, signature: BlockSignature, written: Written
    ) -> None:
        """I1, I3, I10, I12."""
        height, hash_ = signature.height, signature.block_hash
        if member in self._lost_at and self._signed.get((member, height)) == hash_:
            return  # passed on (C51)
        if self._signed.setdefault((member, height), hash_) != hash_:
            self.fail("I3", f"m{member} signs two blocks of height {height}")
        if self.plan.index(height, member) != signature.member:
            self.fail("I11", f"m{member} signs as member {signature.member} of height {height}")
        rounds = range(self._last_round.get(height, -1) + 1)
        if not any(self.is_obtainable(height, r, PRECOMMIT, hash_) for r in rounds):
            self.fail("I10", f"m{member} signs block {height} that was not decided")
        if self._decided.setdefault(height, hash_) != hash_:
            self.fail("I2", f"height {height} was decided twice, lastly by m{member}")
        signers = self._signers[height]
        signers[hash_].add(member)
        k, wild = self.plan.at(height).k, self.wild(height)
        full = [h for h in signers if sum(self.is_trusted(m) for m in signers[h]) + wild >= k]
        if len(full) > 1:
            self.fail("I1", f"two blocks of height {height} can be signed")
        if not written.look().has(signature):
            self.fail("I12", f"m{member} sent a block signature before its record")
        for fault in written.faults:
            self.fail("J3", f"journal of m{member}: {fault}")

    def on_certificate_sent(self, member: int, certificate: Certificate) -> None:
        """C12: a certificate is k votes of different members for one value of one round."""
        if certificate in self._good_certificates:
            return
        members, root = self.plan.at(certificate.height), self.plan.root(certificate.height)
        named = {vote.member for vote in certificate.as_votes() if vote.member < members.n}
        if len(named) != members.k or len(certificate.votes) != members.k:
            self.fail("C12", f"m{member} sends a certificate of {len(named)} members")
        for vote in certificate.as_votes():
            key = members.members[vote.member].vote_key
            if not self._scheme.is_schnorr(key, vote.signature, vote.digest(GENESIS, root)):
                self.fail("C12", f"m{member} sends a certificate with a bad vote: {vote}")
        self._good_certificates.add(certificate)

    def on_proposal_sent(self, member: int, proposal: Proposal) -> None:
        """C22: a proposal that cites a POL carries it."""
        vote, pol = proposal.vote, proposal.certificate
        wanted = (vote.height, vote.valid_round, vote.block_hash)
        if (vote.valid_round >= 0) != (pol is not None) or (
            pol is not None and (pol.height, pol.round, pol.block_hash) != wanted
        ):
            self.fail("C22", f"m{member} sends a proposal without the POL it cites: {vote}")
        if pol is not None:
            self.on_certificate_sent(member, pol)

    def on_refused(self, member: int, order: str, reason: str) -> None:
        """S2: the core asks for no signature that the guard has to refuse."""
        self.fail("I3", f"the guard of m{member} had to refuse {order}: {reason}")

    # --- states

    def on_step(self, member: int, height: int, round_: int, locked_round: int) -> None:
        """I7, I9; called when a member's round or lock changed."""
        if locked_round < self._locks.get((member, height), -1):
            self.fail("I7", f"m{member} lost its lock at height {height}")
        self._locks[member, height] = locked_round
        if round_ <= self._rounds.get((member, height), -1):
            return
        self._rounds[member, height] = round_
        if round_ <= self._first_rounds.get(height, 0):
            return
        self._first_rounds[height] = round_
        needed = (height, round_ - 1, 3)
        ready = 0
        for other in self.plan.members(height):
            if other in self.suspects:
                continue
            is_there = other != member and self._rounds.get((other, height), -1) >= round_
            ready += self.position(other) >= needed or is_there
        wild, members = self.wild(height), self.plan.at(height)
        if wild < members.s and ready < members.k - wild:  # more than that may move others (C32)
            self.fail("I9", f"m{member} enters round {round_} of {height} with {ready} ready")

    def on_halted(self, member: int, reason: str) -> None:
        """I2: no HALT without more than f_s faults, and no STOP without a second process."""
        self.fail("I2", f"m{member} halted: {reason}")

    def on_final(self, member: int, height: int, block: FinalBlock, parent: FinalBlock) -> None:
        """I1, I6."""
        if self._final.setdefault(height, block.hash) != block.hash:
            self.fail("I1", f"two final blocks of height {height}")
        is_named = block_hash(block.data) == block.hash
        if not is_named or not is_valid_child(block.data, height, parent.hash):
            self.fail("I6", f"final block {height} of m{member} is invalid")
        members = self.plan.at(height)
        signers: set[int] = set()
        for signature in block.signatures:
            if signature.member >= members.n or signature.block_hash != block.hash:
                self.fail("I6", f"final block {height} of m{member} has a strange signature")
            key = members.members[signature.member].block_key
            if not self._scheme.is_ecdsa(key, signature.signature, block.hash):
                self.fail("I6", f"final block {height} of m{member} has a bad signature")
            signers.add(signature.member)
        if len(signers) < members.k:
            self.fail("I6", f"final block {height} of m{member} lacks signatures")

    # --- what befell a member

    def on_loss(self, member: int) -> None:
        """A journal is lost or restored, and its owner knows: it never votes there again."""
        height = max(self.position(member)[0], self._last_signed(member))
        self._lost_at[member] = max(height, self._lost_at.get(member, 0))
        self.forget_lock(member)

    def _last_signed(self, member: int) -> int:
        return max((h for m, h in self._signed if m == member), default=0)

    def forget_lock(self, member: int) -> None:
        """I7 does not hold across a disk that lost its journal."""
        for key in [key for key in self._locks if key[0] == member]:
            del self._locks[key]

    def known_statement(self, member: int, vote: Vote) -> Vote | None:
        """What a member said before at the position of a vote."""
        return self._statements.get((member, vote.height, vote.round, int(vote.type)))

    def note_contradiction(self, member: int, vote: Vote) -> bool:
        """Record a vote of a member with a rolled-back disk; whether it contradicts an earlier."""
        known = self.known_statement(member, vote)
        if known is None:
            self._statements[member, vote.height, vote.round, int(vote.type)] = vote
            return False
        return said(known) != said(vote)
