"""Hypothesis strategies for every consensus message and journal record."""

from hypothesis import strategies as st

from federation.consensus.encoding import NIL
from federation.consensus.messages import (
    Answer,
    Evidence,
    EvidenceClass,
    GetBlock,
    GetCertificate,
    GetFinal,
    RollCall,
    Status,
)
from federation.consensus.records import (
    Amnesia,
    Base,
    Birth,
    BlockSigRecord,
    Halt,
    Mode,
    Override,
    OverrideAction,
    Resume,
    Seen,
    Stop,
    VoteRecord,
)
from federation.consensus.votes import (
    BlockMessage,
    BlockSignature,
    Certificate,
    Proposal,
    Vote,
    VoteType,
)

u32 = st.integers(0, 2**32 - 1)
rounds = st.integers(0, 2**31 - 1)
hashes = st.binary(min_size=32, max_size=32).filter(lambda h: h != NIL)
signatures = st.binary(min_size=64, max_size=64)
member_indexes = st.integers(0, 19)


@st.composite
def votes(draw: st.DrawFn, kinds: tuple[VoteType, ...] = tuple(VoteType)) -> Vote:
    kind = draw(st.sampled_from(kinds))
    round_ = draw(rounds)
    is_nil = kind is not VoteType.PROPOSAL and draw(st.booleans())
    may_cite = kind is not VoteType.PRECOMMIT and not is_nil and round_ > 0
    return Vote(
        type=kind,
        height=draw(u32),
        round=round_,
        valid_round=draw(st.integers(-1, round_ - 1)) if may_cite else -1,
        block_hash=NIL if is_nil else draw(hashes),
        member=draw(member_indexes),
        signature=draw(signatures),
    )


single_votes = votes((VoteType.PREVOTE, VoteType.PRECOMMIT))


@st.composite
def certificates(draw: st.DrawFn, kind: VoteType | None = None) -> Certificate:
    said = kind or draw(st.sampled_from((VoteType.PREVOTE, VoteType.PRECOMMIT)))
    round_ = draw(rounds)
    is_nil = said is VoteType.PREVOTE and draw(st.booleans())
    may_cite = said is VoteType.PREVOTE and not is_nil and round_ > 0
    cited = st.integers(-1, round_ - 1) if may_cite else st.just(-1)
    members = sorted(draw(st.sets(member_indexes, min_size=1)))
    return Certificate(
        type=said,
        height=draw(u32),
        round=round_,
        block_hash=NIL if is_nil else draw(hashes),
        votes=tuple((m, draw(cited), draw(signatures)) for m in members),
    )


@st.composite
def pols_for(draw: st.DrawFn, vote: Vote) -> Certificate:
    members = sorted(draw(st.sets(member_indexes, min_size=1)))
    return Certificate(
        type=VoteType.PREVOTE,
        height=vote.height,
        round=vote.valid_round,
        block_hash=vote.block_hash,
        votes=tuple((m, -1, draw(signatures)) for m in members),
    )


@st.composite
def proposals(draw: st.DrawFn) -> Proposal:
    vote = draw(votes((VoteType.PROPOSAL,)))
    return Proposal(vote, draw(pols_for(vote)) if vote.valid_round >= 0 else None)


block_signatures = st.builds(
    BlockSignature, height=u32, block_hash=hashes, member=member_indexes, signature=signatures
)


@st.composite
def statuses(draw: st.DrawFn) -> Status:
    round_ = draw(st.integers(-1, 2**31 - 1))
    positions = st.one_of(st.just((-1, 0)), st.tuples(rounds, st.integers(1, 3)))
    bitmaps = st.integers(0, 2**20 - 1)
    return Status(
        height=draw(u32),
        tip_hash=draw(hashes),
        round=round_,
        step=draw(st.integers(0, 4)),
        valid_round=draw(st.integers(-1, round_)),
        flags=draw(st.integers(0, 15)),
        decided_hash=draw(hashes),
        block_signatures=draw(bitmaps),
        prevotes=draw(bitmaps),
        precommits=draw(bitmaps),
        positions=tuple(draw(st.lists(positions, max_size=20))),
    )


def dynafed_header() -> bytes:
    """A header in dynafed form with a full, a null entry and a witness of two items."""
    full = b"\2" + b"\3abc" + bytes(4) + b"\2de" + b"\xfd\xfd\0" + bytes(253) + b"\1\1x"
    return b"\0\0\0\xa0" + bytes(72) + full + b"\0" + b"\2\1y\0"


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    known = draw(st.one_of(st.just(0), u32))
    known_hash = draw(hashes)
    proof: bytes | Certificate | None = None
    if known:
        commit = draw(certificates(VoteType.PRECOMMIT))
        named = Certificate(
            type=commit.type,
            height=known,
            round=commit.round,
            block_hash=known_hash,
            votes=commit.votes,
        )
        proof = draw(st.sampled_from((dynafed_header(), named)))
    return Answer(
        known=known,
        known_hash=known_hash,
        abstaining=draw(st.booleans()),
        answerer_key=draw(hashes),
        signature=draw(signatures),
        proof=proof,
        seen=draw(st.one_of(st.none(), votes(), block_signatures)),
    )


messages = st.one_of(
    single_votes,
    proposals(),
    certificates(),
    block_signatures,
    statuses(),
    answers(),
    st.builds(
        BlockMessage, height=u32, block_hash=hashes, data=st.binary(min_size=1, max_size=300)
    ),
    st.builds(GetBlock, u32, hashes),
    st.builds(GetFinal, u32, st.integers(1, 16)),
    st.builds(RollCall, hashes, hashes),
    st.builds(Evidence, st.sampled_from(EvidenceClass), st.binary(), st.binary()),
    st.builds(
        GetCertificate,
        type=st.sampled_from((VoteType.PREVOTE, VoteType.PRECOMMIT)),
        height=u32,
        round=rounds,
        block_hash=hashes,
    ),
)


@st.composite
def vote_records(draw: st.DrawFn) -> VoteRecord:
    vote = draw(votes())
    is_lock = vote.type is VoteType.PRECOMMIT and vote.block_hash != NIL
    has_pol = is_lock or vote.valid_round >= 0
    return VoteRecord(vote, draw(certificates(VoteType.PREVOTE)) if has_pol else None)


block_signature_records = st.builds(BlockSigRecord, u32, hashes, certificates(VoteType.PRECOMMIT))
seen_records = st.builds(
    Seen,
    st.lists(st.tuples(hashes, st.one_of(votes(), block_signatures)), max_size=19).map(tuple),
)

records = st.one_of(
    st.just(Birth()),
    st.just(Amnesia()),
    st.just(Stop()),
    st.builds(Resume, u32),
    vote_records(),
    block_signature_records,
    st.builds(Halt, st.binary(), st.binary()),
    st.builds(Override, action=st.sampled_from(OverrideAction), height=u32, block_hash=hashes),
    seen_records,
    st.builds(
        Base,
        mode=st.sampled_from(Mode),
        vote_from=u32,
        position=st.tuples(u32, st.integers(-1, 2**31 - 1), st.integers(0, 3)),
        block_signature=st.tuples(u32, hashes),
        records=st.lists(
            st.one_of(vote_records(), block_signature_records, seen_records), max_size=4
        ).map(tuple),
    ),
)
