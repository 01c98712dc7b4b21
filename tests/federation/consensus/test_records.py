"""Journal records: byte forms, and the image folded from them.

Source: consensus:J3, consensus:J7, consensus:C34, consensus:C36.
"""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.consensus.encoding import NIL, InvalidMessage
from federation.consensus.records import (
    Amnesia,
    Birth,
    BlockSigRecord,
    Halt,
    InvalidJournal,
    JournalRecord,
    Mode,
    Override,
    OverrideAction,
    Resume,
    Stop,
    VoteRecord,
    decode_record,
    encode_record,
    restore,
)
from federation.consensus.votes import NO_SIGNATURE, Certificate, Vote, VoteType
from tests.federation.consensus import strategies


def vote_record(height: int, round_: int, kind: VoteType) -> VoteRecord:
    return VoteRecord(
        Vote(
            type=kind,
            height=height,
            round=round_,
            valid_round=-1,
            block_hash=b"h" * 32 if kind is VoteType.PROPOSAL else NIL,
            member=0,
            signature=NO_SIGNATURE,
        ),
        None,
    )


def signature_record(height: int, block_hash: bytes) -> BlockSigRecord:
    commit = Certificate(
        type=VoteType.PRECOMMIT,
        height=height,
        round=0,
        block_hash=block_hash,
        votes=((0, -1, bytes(64)),),
    )
    return BlockSigRecord(height, block_hash, commit)


@given(strategies.records)
def test_record_round_trips(record: JournalRecord) -> None:
    kind, body = encode_record(record)
    assert decode_record(kind, body) == record
    assert len(body) <= 262_144


@given(st.integers(0, 255), st.binary(max_size=300))
def test_garbage_is_no_record_or_exactly_itself(kind: int, body: bytes) -> None:
    with contextlib.suppress(InvalidMessage):
        assert encode_record(decode_record(kind, body)) == (kind, body)


@given(strategies.records, st.data())
def test_record_with_a_byte_more_or_less_is_refused(
    record: JournalRecord, data: st.DataObject
) -> None:
    kind, body = encode_record(record)
    with pytest.raises(InvalidMessage):
        decode_record(kind, body + b"\0")
    if body:
        with pytest.raises(InvalidMessage):
            decode_record(kind, body[: data.draw(st.integers(0, len(body) - 1))])


def test_c34_journal_with_a_vote_out_of_order_is_refused() -> None:
    first, second = vote_record(5, 1, VoteType.PREVOTE), vote_record(5, 0, VoteType.PRECOMMIT)
    restore([second, first])
    with pytest.raises(InvalidJournal):
        restore([first, second])
    with pytest.raises(InvalidJournal):
        restore([first, first])


def test_c36_journal_with_two_signed_blocks_of_one_height_is_refused() -> None:
    one, two = signature_record(5, b"h" * 32), signature_record(5, b"g" * 32)
    restore([one, signature_record(6, b"g" * 32)])
    with pytest.raises(InvalidJournal):
        restore([one, two])
    with pytest.raises(InvalidJournal):
        restore([two, signature_record(4, b"h" * 32)])


def test_image_keeps_votes_of_the_highest_height_only() -> None:
    records = [vote_record(5, 0, VoteType.PREVOTE), vote_record(6, 2, VoteType.PREVOTE)]
    image = restore([Birth(), *records])
    assert image.position == (6, 2, 2)
    assert image.votes_at(5) == ()
    assert image.votes_at(6) == (records[1],)
    assert image.height == 6


@pytest.mark.parametrize(
    ("records", "mode", "vote_from"),
    [
        ([Birth()], Mode.VOTING, 0),
        ([Birth(), Amnesia()], Mode.ABSTAINING, 0),
        ([Amnesia(), Resume(9)], Mode.VOTING, 9),
        ([Birth(), Stop()], Mode.STOPPED, 0),
        ([Birth(), Halt(b"a", b"b")], Mode.HALTED, 0),
        ([Amnesia(), Halt(b"a", b"b")], Mode.HALTED, 0),
    ],
)
def test_mode_is_the_one_last_written(
    records: list[JournalRecord], mode: Mode, vote_from: int
) -> None:
    image = restore(records)
    assert (image.mode, image.vote_from) == (mode, vote_from)


def test_unhalt_returns_to_the_mode_before() -> None:
    unhalt = Override(action=OverrideAction.UNHALT, height=5, block_hash=b"h" * 32)
    assert restore([Birth(), Halt(b"a", b"b"), unhalt]).mode is Mode.VOTING
    assert restore([Amnesia(), Halt(b"a", b"b"), unhalt]).mode is Mode.ABSTAINING
    assert restore([Birth(), unhalt]).mode is Mode.VOTING


def test_base_record_carries_everything_over_to_the_next_file() -> None:
    before = restore(
        [
            Amnesia(),
            Resume(4),
            vote_record(5, 0, VoteType.PREVOTE),
            vote_record(5, 0, VoteType.PRECOMMIT),
            signature_record(5, b"h" * 32),
        ]
    )
    kind, body = encode_record(before.base())
    after = restore([decode_record(kind, body)])
    assert after.mode is before.mode
    assert after.vote_from == before.vote_from
    assert after.position == before.position
    assert after.votes == before.votes
    assert after.block_signature == before.block_signature
    assert after.commit == before.commit
    assert after.base() == before.base()


def test_base_record_leaves_out_votes_of_final_heights() -> None:
    """A height of many rounds must not make BASE larger than a record may be."""
    votes = [vote_record(5, round_, VoteType.PREVOTE) for round_ in range(3_000)]
    image = restore([Birth(), *votes, signature_record(5, b"h" * 32)])
    base = image.base(final_height=5)
    assert len(encode_record(base)[1]) < 2_000
    after = restore([base])
    assert after.position == image.position
    assert after.commit == image.commit
    assert after.has(votes[7].vote) and after.has(votes[-1].vote)
    assert not after.has(vote_record(5, 3_000, VoteType.PREVOTE).vote)
