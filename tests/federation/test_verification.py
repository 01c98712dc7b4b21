"""Message signatures, and the memory of good ones, keyed on every input (consensus:2.1, N14)."""

from dataclasses import replace
from typing import Any

import pytest

from federation.consensus.messages import Answer, Evidence, EvidenceClass, GetFinal
from federation.consensus.votes import BlockSignature, Certificate, Proposal, Vote, VoteType
from federation.members import MemberSet
from federation.verification import MessageVerifier
from sidechain.crypto.keys import (
    der_to_compact,
    ecdsa_sign,
    public_key,
    schnorr_sign,
)
from tests.factories import secret

GENESIS, ROOT = b"\x11" * 32, b"\x22" * 32
A, B = b"\xaa" * 32, b"\xbb" * 32
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
KEYS = [secret(f"block {i}") for i in range(4)]
MEMBERS = MemberSet.of(tuple(public_key(key) for key in KEYS), 3)


def new(remembered_max: int = 100, members: MemberSet = MEMBERS, root: bytes = ROOT) -> Any:
    verifier = MessageVerifier(GENESIS, remembered_max)
    verifier.begin_height(members, root)
    return verifier


def vote(member: int = 1, *, root: bytes = ROOT, genesis: bytes = GENESIS, **fields: Any) -> Vote:
    fields = {
        "type": VoteType.PREVOTE,
        "height": 7,
        "round": 2,
        "valid_round": -1,
        "block_hash": A,
        **fields,
    }
    unsigned = Vote(member=member, signature=bytes(64), **fields)
    return replace(unsigned, signature=schnorr_sign(KEYS[member], unsigned.digest(genesis, root)))


def certificate(kind: VoteType = VoteType.PREVOTE, members: tuple[int, ...] = (0, 1, 3)) -> Any:
    votes = [vote(m, type=kind) for m in members]
    return Certificate(
        type=kind,
        height=7,
        round=2,
        block_hash=A,
        votes=tuple((v.member, v.valid_round, v.signature) for v in votes),
    )


def block_signature(member: int = 1, block_hash: bytes = A) -> BlockSignature:
    return BlockSignature(
        height=7,
        block_hash=block_hash,
        member=member,
        signature=der_to_compact(ecdsa_sign(KEYS[member], block_hash)),
    )


CHANGES = {
    "type": {"type": VoteType.PRECOMMIT},
    "height": {"height": 8},
    "round": {"round": 3},
    "valid_round": {"valid_round": 0},
    "block_hash": {"block_hash": B},
    "member": {"member": 2},
    "unknown member": {"member": 9},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_vote_when_any_field_differs_then_bad_also_from_memory(change: dict[str, Any]) -> None:
    verifier = new()
    good = vote()
    assert verifier.check(good).good
    assert not verifier.check(replace(good, **change)).good


def test_vote_when_checked_twice_then_the_second_costs_nothing() -> None:
    verifier = new()
    first, second = verifier.check(vote()), verifier.check(vote())
    assert (first.good, first.operations) == (True, 1)
    assert (second.good, second.operations) == (True, 0)


def test_vote_when_bad_then_never_remembered() -> None:
    verifier = new()
    bad = replace(vote(), signature=bytes(64))
    for _ in range(2):
        assert (verifier.check(bad).good, verifier.check(bad).operations) == (False, 1)


def test_memory_when_parameters_members_or_chain_change_then_worth_nothing() -> None:
    """N14: every input of the check is in the key, so nothing has to be forgotten."""
    verifier = new()
    good = vote()
    assert verifier.check(good).good
    verifier.begin_height(MEMBERS, b"\x33" * 32)
    assert not verifier.check(good).good
    others = MemberSet.of(tuple(public_key(secret(f"other {i}")) for i in range(4)), 3)
    verifier.begin_height(others, ROOT)
    assert not verifier.check(good).good
    verifier.begin_height(MEMBERS, ROOT)
    assert verifier.check(good).operations == 0
    elsewhere = MessageVerifier(b"\x44" * 32)
    elsewhere.begin_height(MEMBERS, ROOT)
    assert not elsewhere.check(good).good


def test_memory_when_keys_are_framed_then_bytes_cannot_move_between_inputs() -> None:
    verifier = new()
    good = vote()
    assert verifier.check(good).good
    digest = good.digest(GENESIS, ROOT)
    key = MEMBERS.members[1].vote_key
    # the same bytes, cut elsewhere, are another question
    assert not verifier._signed(b"schnorr" + key[:1], key[1:], good.signature, digest)


def test_memory_when_full_then_the_oldest_goes_and_zero_switches_it_off() -> None:
    verifier = new(2)
    votes = [vote(round=r) for r in range(3)]
    for each in votes:
        verifier.check(each)
    assert verifier.check(votes[2]).operations == 0
    assert verifier.check(votes[0]).operations == 1
    forgetful = new(0)
    assert [forgetful.check(votes[0]).operations for _ in range(2)] == [1, 1]


def test_certificate_when_of_votes_already_seen_then_costs_nothing() -> None:
    verifier = new()
    for member in (0, 1, 3):
        verifier.check(vote(member))
    checked = verifier.check(certificate())
    assert (checked.good, checked.operations) == (True, 0)


@pytest.mark.parametrize("members", [(0, 1), (0, 1, 2, 3)])
def test_certificate_when_not_exactly_k_votes_then_bad(members: tuple[int, ...]) -> None:
    assert not new().check(certificate(members=members)).good


def test_certificate_when_one_vote_is_bad_then_bad_and_no_more_is_checked() -> None:
    good = certificate()
    votes = ((0, -1, bytes(64)), *good.votes[1:])
    checked = new().check(replace(good, votes=votes))
    assert (checked.good, checked.operations) == (False, 1)


def test_proposal_when_its_certificate_is_bad_then_bad() -> None:
    said = vote(type=VoteType.PROPOSAL, round=4, valid_round=2)
    assert new().check(Proposal(said, certificate())).good
    assert not new().check(Proposal(said, certificate(members=(0, 1)))).good
    assert not new().check(Proposal(replace(said, signature=bytes(64)), certificate())).good


def test_block_signature_when_high_s_zero_or_out_of_range_then_bad() -> None:
    good = block_signature()
    assert new().check(good).good
    r, s = good.signature[:32], int.from_bytes(good.signature[32:], "big")
    forms = [
        r + (ORDER - s).to_bytes(32, "big"),
        bytes(32) + good.signature[32:],
        r + bytes(32),
        b"\xff" * 32 + good.signature[32:],
        r + b"\xff" * 32,
    ]
    for signature in forms:
        assert not new().check(replace(good, signature=signature)).good
    assert not new().check(replace(good, member=2)).good
    assert not new().check(replace(good, block_hash=B)).good


def test_evidence_when_both_messages_verify_then_good() -> None:
    first, second = vote(), vote(block_hash=B)
    double = Evidence(EvidenceClass.DOUBLE_VOTE, first.encode(), second.encode())
    assert new().check(double).good
    forged = replace(second, signature=first.signature)
    assert not new().check(replace(double, second=forged.encode())).good
    blocks = Evidence(
        EvidenceClass.TWO_BLOCKS, block_signature().encode(), block_signature(1, B).encode()
    )
    assert new().check(blocks).good
    assert not new().check(replace(blocks, first=bytes(101))).good
    assert not new().check(replace(blocks, first=bytes(500))).good


# -- roll-call


def answer(seen: Vote | BlockSignature | None = None, member: int = 2, **fields: Any) -> Answer:
    fields = {
        "known": 7,
        "known_hash": A,
        "abstaining": False,
        "proof": certificate(VoteType.PRECOMMIT),
        **fields,
    }
    plain = Answer(
        answerer_key=MEMBERS.members[member].vote_key, signature=bytes(64), seen=seen, **fields
    )
    digest = plain.digest(GENESIS, MEMBERS.members[1].vote_key, b"\x05" * 32)
    return replace(plain, signature=schnorr_sign(KEYS[member], digest))


def check_answer(said: Answer, asker: int = 1, nonce: bytes = b"\x05" * 32) -> bool:
    checked = new().check_answer(said, MEMBERS.members[asker].vote_key, nonce)
    return bool(checked.good)


def test_answer_when_everything_verifies_then_good() -> None:
    assert check_answer(answer())
    assert check_answer(answer(vote(1)))
    assert check_answer(answer(block_signature(1)))


def test_answer_when_to_another_question_then_bad() -> None:
    assert not check_answer(answer(), asker=0)
    assert not check_answer(answer(), nonce=b"\x06" * 32)


def test_answer_when_the_seen_message_is_not_the_askers_then_bad() -> None:
    assert not check_answer(answer(vote(3)))
    assert not check_answer(answer(block_signature(3)))
    assert not check_answer(answer(replace(vote(1), member=19)))
    assert not check_answer(answer(replace(vote(1), signature=bytes(64))))


def test_answer_when_by_a_stranger_or_with_a_bad_certificate_then_bad() -> None:
    stranger = replace(answer(), answerer_key=public_key(secret("stranger"))[1:])
    assert not check_answer(stranger)
    assert not check_answer(answer(proof=certificate(VoteType.PRECOMMIT, (0, 1))))
    assert not new().check(answer()).good  # it needs the question


def test_messages_when_they_carry_no_signature_then_good_and_free() -> None:
    checked = new().check(GetFinal(1, 1))
    assert (checked.good, checked.operations) == (True, 0)


def test_message_when_signed_by_a_block_key_then_good() -> None:
    digest = b"\x09" * 32
    signature = schnorr_sign(KEYS[2], digest)
    assert new().check_message(2, digest, signature).good
    assert not new().check_message(3, digest, signature).good
    assert not new().check_message(9, digest, signature).good


def test_verifier_when_no_height_has_begun_then_says_so() -> None:
    with pytest.raises(ValueError, match="no height"):
        MessageVerifier(GENESIS).check(vote())


def test_answer_when_the_seen_vote_is_from_before_a_border_then_judged_by_its_height() -> None:
    """C86: else nobody could rejoin after a change of members, and a restart of all would halt."""
    old_root = b"\x0d" * 32
    before = MessageVerifier(GENESIS)
    before.begin_height(MEMBERS, old_root)
    said = answer(vote(1, root=old_root), proof=None, known=0)
    asker, nonce = MEMBERS.members[1].vote_key, b"\x05" * 32
    assert not new().check_answer(said, asker, nonce).good
    assert new().check_answer(said, asker, nonce, lambda height: before).good
    other = answer(vote(3, root=old_root), proof=None, known=0)
    assert not new().check_answer(other, asker, nonce, lambda height: before).good
