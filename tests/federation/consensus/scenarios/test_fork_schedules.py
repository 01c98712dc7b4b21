"""The two fork schedules of consensus:10.1.1, with the real core and with B1 planted.

Members A, B, C are correct, D lies. In both schedules precommits of different rounds would add up
to two k-signed blocks if the precommit were the block signature; the real core signs only what was
decided.
"""

from federation.consensus.driver import Driver
from federation.consensus.events import TimerKind
from federation.consensus.votes import Certificate, Proposal, VoteType
from federation.sim.world import block_hash
from tests.federation.consensus.bench import PRECOMMIT, PREVOTE, PROPOSAL, Bench
from tests.sim.variants import VARIANTS


class Stage:
    """Three correct members and one liar; every delivery is chosen by the schedule."""

    def __init__(self, order: dict[str, int], driver_class: type[Driver]) -> None:
        self.index = order
        self.liar = order["D"]
        self.members = {
            name: Bench(order[name], driver_class=driver_class) for name in ("A", "B", "C")
        }
        for bench in self.members.values():
            bench.enter_round_0()
        self.tool = self.members["A"]

    def offer(self, data: bytes, names: str, *, by: str, pol: Certificate | None = None) -> None:
        """A proposal of the present round and its bytes reach some members."""
        round_ = self.tool.agreement.round
        proposer = self.index[by]
        if by == "D":
            valid_round = pol.round if pol else -1
            vote = self.tool.vote(PROPOSAL, round_, block_hash(data), proposer, valid_round)
            proposal = Proposal(vote, pol)
        else:
            bench = self.members[by]
            if not bench.own_votes(PROPOSAL, round_):
                bench.built(data)
            vote = bench.own_votes(PROPOSAL, round_)[0]
            proposal = bench.agreement.proposals[round_]
            assert vote.block_hash == block_hash(data)
        for name in names:
            if name != by:
                self.members[name].receive(proposal, proposer)
                self.members[name].offer(data, proposer)

    def time_out_proposal(self, names: str) -> None:
        """No proposal came in time."""
        for name in names:
            self.members[name].fire(TimerKind.PROPOSE)

    def share(self, kind: VoteType) -> None:
        """All correct members hear each other's votes of the present round."""
        round_ = self.tool.agreement.round
        for sender in self.members.values():
            for vote in sender.own_votes(kind, round_):
                for other in self.members.values():
                    if other is not sender:
                        other.receive(vote, sender.me)

    def lie(self, kind: VoteType, hash_: bytes, names: str) -> None:
        """D's vote of the present round reaches only these."""
        vote = self.tool.vote(kind, self.tool.agreement.round, hash_, self.liar)
        for name in names:
            self.members[name].receive(vote, self.liar)

    def end_prevotes(self) -> None:
        """Whoever saw no quorum gives up waiting for one."""
        for bench in self.members.values():
            bench.fire(TimerKind.PREVOTE)

    def next_round(self) -> None:
        """All hear of each other's precommits and go on."""
        self.share(PRECOMMIT)
        round_ = self.tool.agreement.round
        for bench in self.members.values():
            bench.fire(TimerKind.PRECOMMIT, round_)
            assert bench.agreement.round == round_ + 1

    def nil_round(self) -> None:
        """Nothing gets through in time."""
        self.time_out_proposal("ABC")
        self.share(PREVOTE)
        self.end_prevotes()
        self.next_round()

    def precommitted(self, hash_: bytes) -> str:
        """Who precommitted a block in the present round."""
        round_ = self.tool.agreement.round
        return "".join(
            name
            for name, bench in self.members.items()
            if any(v.block_hash == hash_ for v in bench.own_votes(PRECOMMIT, round_))
        )

    def signers(self, hash_: bytes) -> str:
        """Whose block signatures a liar can add to its own."""
        return "".join(
            name
            for name, bench in self.members.items()
            if any(s.block_hash == hash_ for s in bench.own_block_signatures())
        )


def pol_of(stage: Stage, round_: int, hash_: bytes, names: str) -> Certificate:
    """POL(round, hash) from these members and D."""
    members = [stage.index[name] for name in names] + [stage.liar]
    return stage.tool.certificate(PREVOTE, round_, hash_, *members)


def play_first(driver_class: type[Driver]) -> tuple[Stage, bytes, bytes]:
    """(i) r0 v: only A sees POL; r1 w: A moves to w; r2 (v, 0): B locks v; r3 (w, 1)."""
    stage = Stage({"A": 0, "B": 1, "C": 2, "D": 3}, driver_class)
    v, w = stage.tool.block(1), stage.tool.block(2)
    hash_v, hash_w = block_hash(v), block_hash(w)

    stage.offer(v, "AB", by="B")
    stage.time_out_proposal("C")
    stage.share(PREVOTE)
    stage.lie(PREVOTE, hash_v, "A")
    assert stage.precommitted(hash_v) == "A"
    stage.end_prevotes()
    stage.next_round()

    stage.offer(w, "ABC", by="C")
    stage.share(PREVOTE)
    stage.lie(PREVOTE, hash_w, "A")
    assert stage.precommitted(hash_w) == "A"
    assert stage.members["A"].agreement.locked_hash == hash_w
    stage.end_prevotes()
    stage.next_round()

    stage.offer(v, "ABC", by="D", pol=pol_of(stage, 0, hash_v, "AB"))
    stage.share(PREVOTE)
    stage.lie(PREVOTE, hash_v, "B")
    assert stage.precommitted(hash_v) == "B"
    stage.end_prevotes()
    stage.next_round()

    stage.offer(w, "ABC", by="A")
    stage.share(PREVOTE)
    stage.lie(PREVOTE, hash_w, "AC")
    assert stage.precommitted(hash_w) == "AC"
    stage.share(PRECOMMIT)
    stage.lie(PRECOMMIT, hash_w, "AC")
    return stage, hash_v, hash_w


def play_second(driver_class: type[Driver]) -> tuple[Stage, bytes, bytes]:
    """(ii) r0 v: A locks; r1 w: B locks; r2 (v, 0): C locks v; r3, r4 nil; r5 (w, 1)."""
    stage = Stage({"A": 3, "B": 2, "C": 0, "D": 1}, driver_class)
    v, w = stage.tool.block(1), stage.tool.block(2)
    hash_v, hash_w = block_hash(v), block_hash(w)

    stage.offer(v, "AB", by="D")
    stage.time_out_proposal("C")
    stage.share(PREVOTE)
    stage.lie(PREVOTE, hash_v, "A")
    assert stage.precommitted(hash_v) == "A"
    stage.end_prevotes()
    stage.next_round()

    stage.offer(w, "ABC", by="B")
    stage.share(PREVOTE)
    stage.lie(PREVOTE, hash_w, "B")
    assert stage.precommitted(hash_w) == "B"
    stage.end_prevotes()
    stage.next_round()

    stage.offer(v, "ABC", by="A")
    stage.share(PREVOTE)
    stage.lie(PREVOTE, hash_v, "C")
    assert stage.precommitted(hash_v) == "C"
    stage.end_prevotes()
    stage.next_round()

    stage.nil_round()
    stage.nil_round()

    stage.offer(w, "ABC", by="B")
    stage.share(PREVOTE)
    stage.lie(PREVOTE, hash_w, "AB")
    assert stage.precommitted(hash_w) == "AB"
    stage.share(PRECOMMIT)
    stage.lie(PRECOMMIT, hash_w, "AB")
    return stage, hash_v, hash_w


def only_the_decided_block_is_signed(stage: Stage, hash_v: bytes, hash_w: bytes) -> None:
    """Only w can reach three block signatures; D makes the third."""
    assert stage.signers(hash_v) == ""
    assert len(stage.signers(hash_w)) == 2


def both_blocks_are_signed(stage: Stage, hash_v: bytes, hash_w: bytes) -> None:
    """B1: v and w reach three block signatures, D's included."""
    assert len(stage.signers(hash_v)) >= 2
    assert len(stage.signers(hash_w)) >= 2


def test_fork_by_adding_signatures_schedule_i() -> None:
    """C36: (i) as in consensus:10.1.1."""
    only_the_decided_block_is_signed(*play_first(Driver))


def test_fork_by_adding_signatures_schedule_i_forks_with_b1() -> None:
    both_blocks_are_signed(*play_first(VARIANTS["B1"]))


def test_fork_by_adding_signatures_schedule_ii() -> None:
    """C36: (ii) as in consensus:10.1.1, and of incidents, section 4."""
    only_the_decided_block_is_signed(*play_second(Driver))


def test_fork_by_adding_signatures_schedule_ii_forks_with_b1() -> None:
    both_blocks_are_signed(*play_second(VARIANTS["B1"]))


def test_members_who_missed_the_decision_follow_it_to_the_same_block() -> None:
    """The COMMIT convinces the one who is locked on the other block."""
    stage, _, hash_w = play_first(Driver)
    b, a = stage.members["B"], stage.members["A"]
    commit = next(c for c in a.agreement.keeper.commits())
    b.receive(commit)
    assert b.agreement.decided_hash == hash_w
    assert [s.block_hash for s in b.own_block_signatures()] == [hash_w]
