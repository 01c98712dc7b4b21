"""The invariants of consensus:10.2, judged with a view of everything that was ever signed.

Source: consensus:10.2.
"""

from collections import defaultdict

from federation.consensus.encoding import NIL
from federation.consensus.evidence import conflict_of
from federation.consensus.records import RecordKind, VoteRecord, decode_record
from federation.consensus.votes import BlockSignature, Vote, VoteType
from federation.sim.world import Disk, FinalBlock, Keys, Scenario, is_valid_child


class Violation(AssertionError):
    """An invariant does not hold. `rule` is its id."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


class Checker:
    """Told of every signature of a correct member at the moment it is sent."""

    def __init__(
        self, scenario: Scenario, keys: Keys, ignored: frozenset[str] = frozenset()
    ) -> None:
        self.scenario, self.keys, self.ignored = scenario, keys, ignored
        self.liars = len(scenario.liars)
        self.k = scenario.k
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

    def fail(self, rule: str, text: str) -> None:
        """Report a violation, unless the rule is one to ignore in this run."""
        if rule not in self.ignored:
            raise Violation(rule, text)

    # --- own messages leaving

    def on_vote_sent(self, vote: Vote, disk: Disk) -> None:
        """I3, I4, I5, I8, I12, I13."""
        member = vote.member
        key = (member, vote.height, vote.round, int(vote.type))
        known = self._statements.get(key)
        self._check_journaled(vote, disk)
        if known is not None:
            if not known.says_the_same_as(vote):
                self.fail("I3", f"member {member} contradicts itself: {known} {vote}")
            return
        position = key[1:]
        if position <= self._positions.get(member, (0, -1, 0)):
            self.fail("I3", f"member {member} steps back to {position}")
        if vote.height <= len(disk.chain):
            self.fail("I3", f"member {member} votes at a final height")
        earlier = self._votes[member, vote.height]
        for other in earlier:
            if conflict_of(other, vote) is not None:
                self._check_lock_first(vote, earlier)
                self.fail("I13", f"member {member} convicts itself: {other} {vote}")
        self._check_lock_first(vote, earlier)
        self._check_proposed(vote)
        self._statements[key] = vote
        self._positions[member] = position
        earlier.append(vote)
        self._voters[vote.height, vote.round, int(vote.type), vote.block_hash].add(member)
        self._last_round[vote.height] = max(vote.round, self._last_round.get(vote.height, 0))
        is_lock = vote.type is VoteType.PRECOMMIT and vote.block_hash != NIL
        polka = (vote.height, vote.round, VoteType.PREVOTE, vote.block_hash)
        if is_lock and not self.is_obtainable(*polka):
            self.fail("I5", f"member {member} precommits without a quorum: {vote}")

    def _check_journaled(self, vote: Vote, disk: Disk) -> None:
        for kind, body in reversed(disk.journal):
            if kind == RecordKind.VOTE:
                record = decode_record(kind, body)
                if isinstance(record, VoteRecord) and record.vote.says_the_same_as(vote):
                    return
        self.fail("I12", f"member {vote.member} sent what is not in its journal: {vote}")

    def _check_lock_first(self, vote: Vote, earlier: list[Vote]) -> None:
        if vote.type is not VoteType.PREVOTE or vote.block_hash == NIL:
            return
        locks = [v for v in earlier if v.type is VoteType.PRECOMMIT and v.block_hash != NIL]
        if not locks or locks[-1].block_hash == vote.block_hash:
            return
        lock = locks[-1]
        cited = vote.valid_round
        is_cited = lock.round <= cited < vote.round
        if not is_cited or not self.is_obtainable(
            vote.height, cited, VoteType.PREVOTE, vote.block_hash
        ):
            self.fail("I4", f"member {vote.member} votes against its lock: {lock} {vote}")

    def _check_proposed(self, vote: Vote) -> None:
        if vote.type is not VoteType.PREVOTE or vote.block_hash == NIL:
            return
        proposer = (vote.height + vote.round) % self.scenario.n
        if proposer in self.scenario.liars:
            return
        proposal = self._statements.get((proposer, vote.height, vote.round, 1))
        if proposal is None or proposal.block_hash != vote.block_hash:
            self.fail("I8", f"member {vote.member} prevotes what nobody proposed: {vote}")

    def is_obtainable(self, height: int, round_: int, kind: VoteType, block_hash: bytes) -> bool:
        """Whether correct voters and all liars together make a quorum."""
        voters = self._voters.get((height, round_, int(kind), block_hash), set())
        return len(voters) + self.liars >= self.k

    def on_block_signature_sent(self, signature: BlockSignature, disk: Disk) -> None:
        """I1, I3, I10, I12."""
        member, height, block_hash = signature.member, signature.height, signature.block_hash
        if self._signed.setdefault((member, height), block_hash) != block_hash:
            self.fail("I3", f"member {member} signs two blocks of height {height}")
        rounds = range(self._last_round.get(height, -1) + 1)
        if not any(self.is_obtainable(height, r, VoteType.PRECOMMIT, block_hash) for r in rounds):
            self.fail("I10", f"member {member} signs a block that was not decided")
        signers = self._signers[height]
        signers[block_hash].add(member)
        full = [h for h in signers if len(signers[h]) + self.liars >= self.k]
        if len(full) > 1:
            self.fail("I1", f"two blocks of height {height} can be signed")
        if not has_block_signature(disk, block_hash):
            self.fail("I12", f"member {member} sent a block signature before its record")

    # --- states

    def on_step(self, member: int, height: int, round_: int, locked_round: int) -> None:
        """I7, I9; called when a member's round or lock changed."""
        if locked_round < self._locks.get((member, height), -1):
            self.fail("I7", f"member {member} lost its lock at height {height}")
        self._locks[member, height] = locked_round
        if round_ <= self._rounds.get((member, height), -1):
            return
        self._rounds[member, height] = round_
        if round_ <= self._first_rounds.get(height, 0):
            return
        self._first_rounds[height] = round_
        needed = (height, round_ - 1, 3)
        ready = sum(
            self._positions.get(m, (0, -1, 0)) >= needed
            or self._rounds.get((m, height), -1) >= round_
            for m in range(self.scenario.n)
            if m not in self.scenario.liars and m != member
        )
        ready += self._positions.get(member, (0, -1, 0)) >= needed
        if ready < self.k - self.liars:
            self.fail("I9", f"member {member} enters round {round_} of {height} with {ready} ready")

    def on_decided(self, member: int, height: int, block_hash: bytes) -> None:
        """I2."""
        if self._decided.setdefault(height, block_hash) != block_hash:
            self.fail("I2", f"height {height} was decided twice, lastly by member {member}")

    def on_halted(self, member: int, reason: str) -> None:
        """I2: no HALT without more than f_s faults."""
        self.fail("I2", f"member {member} halted: {reason}")

    def on_final(self, member: int, height: int, block: FinalBlock, parent: bytes) -> None:
        """I1, I6."""
        if self._final.setdefault(height, block.hash) != block.hash:
            self.fail("I1", f"two final blocks of height {height}")
        if not is_valid_child(block.data, height, parent):
            self.fail("I6", f"final block {height} of member {member} is invalid")
        signers = {s.member for s in block.signatures}
        if len(signers) < self.k or not all(
            s.block_hash == block.hash and self.keys.is_signed(s) for s in block.signatures
        ):
            self.fail("I6", f"final block {height} of member {member} lacks signatures")

    def forget_lock(self, member: int) -> None:
        """A wiped disk loses its lock; I7 does not hold across it."""
        for key in [key for key in self._locks if key[0] == member]:
            del self._locks[key]


def has_block_signature(disk: Disk, block_hash: bytes) -> bool:
    """Whether the journal has an own BLOCKSIG for a block."""
    kind = RecordKind.BLOCKSIG
    bodies = (body for record_kind, body in reversed(disk.journal) if record_kind == kind)
    return any(body[4:36] == block_hash for body in bodies)
