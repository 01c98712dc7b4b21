"""Byte forms of the messages: vectors, round trips, strictness.

Source: consensus:2.1, consensus:2.2, consensus:4.7, consensus:4.8, N15.
"""

import contextlib

import pytest
from coincurve import PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.consensus.encoding import FRAME_LIMITS_BYTES, NIL, MessageReader, peg_frame_digest
from federation.consensus.messages import (
    Answer,
    Evidence,
    EvidenceClass,
    FrameKind,
    GetFinal,
    InvalidMessage,
    Message,
    Status,
    decode_message,
    encode_message,
)
from federation.consensus.votes import (
    NO_SIGNATURE,
    BlockMessage,
    BlockSignature,
    Certificate,
    Proposal,
    Vote,
    VoteType,
)
from federation.members import MEMBERS_MAX
from tests.federation.consensus import strategies

VECTORS = [
    (
        VoteType.PREVOTE,
        1,
        bytes([0x33]) * 32,
        "edb64676aca1055a250a6e872593d59dd02b9a6b19b657df91ab25c1c983174a",
        "3403384465e603b21d8f57ee06d402fa6ea072397422e89c24f5a05611a8093e"
        "665ed4aff2a768a7daa11f695a8565f86dc37ffd6a75f1c901381fe30d20450f",
    ),
    (
        VoteType.PRECOMMIT,
        -1,
        NIL,
        "c4a5e6da7f8dfb7f130869c65fb78c4b99cd3644b9d32187b327b8907bed1a0c",
        "ca251dde6a2ac377fcb75da07fe6db54b5c9e9db06d5ceacc113e3bbd3c9f57d"
        "42724c40376f0d59169cd9931b27762e5e14bfbafc6553d480f38c30cf166c4a",
    ),
]


def vote(kind: VoteType, valid_round: int, block_hash: bytes, *, round_: int = 3) -> Vote:
    return Vote(
        type=kind,
        height=7,
        round=round_,
        valid_round=valid_round,
        block_hash=block_hash,
        member=2,
        signature=NO_SIGNATURE,
    )


@pytest.mark.parametrize(("kind", "valid_round", "block_hash", "digest", "signature"), VECTORS)
def test_vote_digest_and_signature_are_those_of_the_specification(
    kind: VoteType, valid_round: int, block_hash: bytes, digest: str, signature: str
) -> None:
    genesis, root = bytes([0x11]) * 32, bytes([0x22]) * 32
    said = vote(kind, valid_round, block_hash)
    assert len(said.signed_payload(genesis, root)) == 109
    assert said.digest(genesis, root).hex() == digest
    key = PrivateKey((3).to_bytes(32, "big"))
    assert key.sign_schnorr(said.digest(genesis, root), bytes(32)).hex() == signature


@given(strategies.messages)
@settings(max_examples=400)
def test_message_round_trips_within_its_limit(message: Message) -> None:
    kind, body = encode_message(message)
    assert decode_message(kind, body) == message
    assert len(body) <= FRAME_LIMITS_BYTES[kind]


@given(strategies.messages, st.binary(min_size=1, max_size=3))
def test_trailing_bytes_are_refused_or_belong_to_an_open_end(message: Message, tail: bytes) -> None:
    kind, body = encode_message(message)
    if kind is FrameKind.BLOCK:
        return  # the block's own parser judges its end
    with contextlib.suppress(InvalidMessage):
        decoded = decode_message(kind, body + tail)
        assert encode_message(decoded)[1] == body + tail
        assert kind is FrameKind.STATUS  # a position more


@given(strategies.messages, st.data())
def test_truncated_message_is_refused_or_another_message(
    message: Message, data: st.DataObject
) -> None:
    kind, body = encode_message(message)
    cut = data.draw(st.integers(0, len(body) - 1))
    with contextlib.suppress(InvalidMessage):
        assert encode_message(decode_message(kind, body[:cut]))[1] == body[:cut]


@given(st.integers(0, 255), st.binary(max_size=400))
@settings(max_examples=400)
def test_garbage_never_raises_anything_but_invalid_message(kind: int, body: bytes) -> None:
    with contextlib.suppress(InvalidMessage):
        assert encode_message(decode_message(kind, body)) == (kind, body)


@given(strategies.messages, st.data())
def test_changed_bytes_decode_to_exactly_themselves_or_not_at_all(
    message: Message, data: st.DataObject
) -> None:
    kind, body = encode_message(message)
    at = data.draw(st.integers(0, len(body) - 1))
    changed = bytearray(body)
    changed[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(InvalidMessage):
        assert encode_message(decode_message(kind, bytes(changed)))[1] == bytes(changed)


def test_largest_messages_fit_their_limits_exactly_where_the_table_is_exact() -> None:
    votes = tuple((m, -1, bytes(64)) for m in range(MEMBERS_MAX))
    pol = Certificate(type=VoteType.PREVOTE, height=7, round=1, block_hash=b"h" * 32, votes=votes)
    assert len(pol.encode()) == 42 + 69 * MEMBERS_MAX <= FRAME_LIMITS_BYTES[FrameKind.CERT]
    proposal = Proposal(vote(VoteType.PROPOSAL, 1, b"h" * 32), pol)
    assert len(proposal.encode()) <= FRAME_LIMITS_BYTES[FrameKind.PROPOSAL]
    assert len(vote(VoteType.PREVOTE, 1, b"h" * 32).encode()) == 110
    block_signature = BlockSignature(height=7, block_hash=b"h" * 32, member=0, signature=bytes(64))
    assert len(block_signature.encode()) == 101


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (vote(VoteType.PROPOSAL, -1, NIL), "proposal of nil"),
        (vote(VoteType.PREVOTE, 0, NIL), "valid round where none is allowed"),
        (vote(VoteType.PRECOMMIT, 0, b"h" * 32), "valid round where none is allowed"),
        (vote(VoteType.PREVOTE, 3, b"h" * 32), "valid round out of range"),
        (vote(VoteType.PREVOTE, -2, b"h" * 32), "valid round out of range"),
        (vote(VoteType.PREVOTE, -1, NIL, round_=2**31), "round out of range"),
        (vote(VoteType.PROPOSAL, -1, b"h" * 32), "proposal in a vote frame"),
    ],
)
def test_votes_that_are_never_signed_are_refused(said: Vote, reason: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        Vote.decode(said.encode())
    assert caught.value.reason == reason


def test_c22_proposal_needs_exactly_the_certificate_it_cites() -> None:
    pol = Certificate(
        type=VoteType.PREVOTE, height=7, round=1, block_hash=b"h" * 32, votes=((0, -1, bytes(64)),)
    )
    citing, fresh = vote(VoteType.PROPOSAL, 1, b"h" * 32), vote(VoteType.PROPOSAL, -1, b"h" * 32)
    assert Proposal.decode(Proposal(citing, pol).encode()).certificate == pol
    for body in (
        citing.encode(),
        fresh.encode() + pol.encode(),
        vote(VoteType.PROPOSAL, 0, b"h" * 32).encode() + pol.encode(),
        vote(VoteType.PROPOSAL, 1, b"g" * 32).encode() + pol.encode(),
    ):
        with pytest.raises(InvalidMessage):
            Proposal.decode(body)


@pytest.mark.parametrize(
    "members", [(1, 0), (1, 1), (20,), ()], ids=["descending", "twice", "beyond", "none"]
)
def test_certificate_members_are_strictly_ascending(members: tuple[int, ...]) -> None:
    votes = tuple((m, -1, bytes(64)) for m in members)
    body = Certificate(
        type=VoteType.PRECOMMIT, height=7, round=1, block_hash=b"h" * 32, votes=votes
    ).encode()
    with pytest.raises(InvalidMessage):
        Certificate.decode(body)


def test_c12_certificate_is_complete_with_exactly_k_votes() -> None:
    votes = tuple((m, -1, bytes(64)) for m in range(3))
    commit = Certificate(
        type=VoteType.PRECOMMIT, height=7, round=1, block_hash=b"h" * 32, votes=votes
    )
    assert [commit.is_complete(k) for k in (2, 3, 4)] == [False, True, False]


def test_answer_signs_142_bytes_that_name_the_seen_message() -> None:
    seen = vote(VoteType.PREVOTE, -1, NIL)
    answer = Answer(
        known=0,
        known_hash=NIL,
        abstaining=False,
        answerer_key=b"k" * 32,
        signature=bytes(64),
        proof=None,
        seen=seen,
    )
    payload = answer.signed_payload(b"g" * 32, b"a" * 32, b"n" * 32)
    assert len(payload) == 142
    assert payload[:96] == b"g" * 32 + b"a" * 32 + b"n" * 32
    body = bytearray(answer.encode())
    body[37] ^= 1  # seen_height in the signed fields
    with pytest.raises(InvalidMessage, match="seen message is not the one named"):
        Answer.decode(bytes(body))


def test_answer_header_proof_ends_where_the_header_ends() -> None:
    header = strategies.dynafed_header()
    reader = MessageReader(header + b"more")
    assert reader.header() == header
    for cut in range(len(header)):
        with pytest.raises(InvalidMessage):
            MessageReader(header[:cut]).header()
    with pytest.raises(InvalidMessage, match="not in dynafed form"):
        MessageReader(bytes(200)).header()


def test_status_refuses_fields_out_of_range() -> None:
    good = Status(
        height=1,
        tip_hash=b"t" * 32,
        round=0,
        step=1,
        valid_round=-1,
        flags=0,
        decided_hash=NIL,
        block_signatures=0,
        prevotes=0,
        precommits=0,
        positions=((-1, 0), (0, 1)),
    ).encode()
    assert Status.decode(good).encode() == good
    for at, value in ((40, 5), (45, 16), (36, 0xFE), (80, 0xFF), (94, 2), (94, 4), (99, 0)):
        changed = bytearray(good)
        changed[at] = value
        if at == 36:
            changed[36:40] = b"\xfe\xff\xff\xff"
        if at == 80:
            changed[78:82] = b"\xff\xff\xff\xff"
        with pytest.raises(InvalidMessage):
            Status.decode(bytes(changed))


@pytest.mark.parametrize("count", [0, 17])
def test_get_final_asks_for_one_to_sixteen_blocks(count: int) -> None:
    with pytest.raises(InvalidMessage):
        GetFinal.decode(GetFinal(5, count).encode())


def test_block_message_needs_bytes() -> None:
    with pytest.raises(InvalidMessage):
        BlockMessage.decode(BlockMessage(height=1, block_hash=b"h" * 32, data=b"").encode())


def test_evidence_frames_both_messages() -> None:
    evidence = Evidence(EvidenceClass.DOUBLE_VOTE, b"one", b"three")
    assert evidence.encode() == b"\1\3\0\0\0one\5\0\0\0three"


def test_every_frame_kind_has_a_limit_and_final_is_left_to_the_shell() -> None:
    assert set(FRAME_LIMITS_BYTES) == set(FrameKind)
    with pytest.raises(InvalidMessage):
        decode_message(FrameKind.FINAL, b"block")


def test_peg_frames_sign_kind_and_body_under_their_own_tag() -> None:
    one = peg_frame_digest(b"g" * 32, 20, b"body")
    assert len(one) == 32
    assert one != peg_frame_digest(b"g" * 32, 21, b"body")
