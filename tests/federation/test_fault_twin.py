"""The liar: its contradictions are signed and consistent, its network tells each peer its share."""

import random
from types import SimpleNamespace
from typing import Any

import pytest

from federation.consensus.encoding import NIL, FrameKind
from federation.consensus.evidence import check_evidence, conflict_of
from federation.consensus.messages import encode_message
from federation.consensus.votes import BlockSignature, Certificate, Proposal, Vote, VoteType
from federation.fault_twin import Liar, LyingNetwork, Share
from federation.members import MemberSet
from federation.secret_key import SecretKey
from federation.verification import MessageVerifier
from tests.federation.founded import entropy_of

GENESIS, ROOT, A = b"\x11" * 32, b"\x22" * 32, b"\x0a" * 32
ME = 1
KEYS = tuple(SecretKey(entropy_of(f"key {i}")(32)) for i in range(4))


@pytest.fixture
def liar() -> Liar:
    current = SimpleNamespace(root=lambda: ROOT)
    chain: Any = SimpleNamespace(
        params=SimpleNamespace(genesis_hash=GENESIS), full_current=lambda: current
    )
    return Liar(ME, KEYS[ME], chain, random.Random(3))


@pytest.fixture
def verifier() -> MessageVerifier:
    found = MessageVerifier(GENESIS)
    found.begin_height(MemberSet.of(tuple(key.public_key for key in KEYS), 3), ROOT)
    return found


def vote(block_hash: bytes, kind: VoteType = VoteType.PREVOTE, member: int = ME) -> Vote:
    return Vote(
        type=kind,
        height=5,
        round=2,
        valid_round=-1,
        block_hash=block_hash,
        member=member,
        signature=bytes(64),
    )


@pytest.mark.parametrize("kind", [VoteType.PREVOTE, VoteType.PRECOMMIT])
@pytest.mark.parametrize("block_hash", [A, NIL])
def test_vote_when_contradicted_then_signed_and_something_else(
    liar: Liar, verifier: MessageVerifier, kind: VoteType, block_hash: bytes
) -> None:
    said = vote(block_hash, kind)
    lie = liar.contradict(said)
    assert isinstance(lie, Vote) and verifier.check(lie).good
    assert (lie.height, lie.round, lie.type) == (5, 2, kind)
    assert lie.block_hash != block_hash and (lie.block_hash == NIL) == (block_hash == A)
    assert liar.contradict(said) == lie  # one lie a place, whoever hears it
    assert liar.has_said(lie) and not liar.has_said(said)


def test_lies_when_put_together_then_they_convict(liar: Liar) -> None:
    """consensus:C56(a)."""
    said = vote(A)
    lie = liar.contradict(said)
    assert isinstance(lie, Vote)
    evidence = conflict_of(said, lie)
    assert evidence is not None and check_evidence(evidence) == (5, ME)


def test_block_signature_when_contradicted_then_of_another_block(
    liar: Liar, verifier: MessageVerifier
) -> None:
    said = BlockSignature(height=5, block_hash=A, member=ME, signature=bytes(64))
    lie = liar.contradict(said)
    assert isinstance(lie, BlockSignature) and lie.block_hash != A and verifier.check(lie).good


def test_share_when_asked_again_then_the_same_and_all_kinds_occur(liar: Liar) -> None:
    shares = [liar.share(height, 0, peer) for height in range(20) for peer in (0, 2, 3)]
    assert set(shares) == set(Share)
    assert shares == [liar.share(height, 0, peer) for height in range(20) for peer in (0, 2, 3)]


def network_of(liar: Liar) -> LyingNetwork:
    """A network without links, whose frames are looked at."""
    network = LyingNetwork.__new__(LyingNetwork)
    network._liar, network._proposal = liar, None
    return network


def test_frames_when_own_then_shared_out_and_all_others_pass_unchanged(liar: Liar) -> None:
    network = network_of(liar)
    said = vote(A)
    kind, body = encode_message(said)
    lie = encode_message(liar.contradict(said))
    wanted = {
        Share.TRUTH: [(kind, body)],
        Share.LIE: [lie],
        Share.BOTH: [(kind, body), lie],
    }
    for peer in (0, 2, 3):
        assert network._frames(peer, kind, body) == wanted[liar.share(5, 2, peer)]
    others = encode_message(vote(A, member=0))
    assert network._frames(0, *others) == [others]
    assert network._frames(0, FrameKind.STATUS, b"?") == [(FrameKind.STATUS, b"?")]
    first = encode_message(Proposal(vote(A, VoteType.PROPOSAL), None))
    assert network._frames(0, *first) == []  # goes out with its block


def test_frames_when_own_words_come_back_then_kept_from_the_member(liar: Liar) -> None:
    """What would stop it as one whose key is used elsewhere (C75)."""
    network = network_of(liar)
    lie = liar.contradict(vote(A))
    assert isinstance(lie, Vote)
    own_votes = ((0, -1, bytes(64)), (ME, -1, lie.signature), (2, -1, bytes(64)))

    def certificate(block_hash: bytes) -> Certificate:
        return Certificate(
            type=VoteType.PREVOTE, height=5, round=2, block_hash=block_hash, votes=own_votes
        )

    for said, is_own in (
        (lie, True),
        (vote(A, member=0), False),
        (BlockSignature(height=5, block_hash=A, member=ME, signature=bytes(64)), True),
        (certificate(NIL), True),
        (certificate(A), False),
    ):
        assert network._is_own(liar, *encode_message(said)) == is_own, said
    assert network._is_own(liar, FrameKind.EVIDENCE, b"")
    assert not network._is_own(liar, FrameKind.STATUS, b"")
