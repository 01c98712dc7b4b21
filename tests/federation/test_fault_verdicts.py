"""The checker's judgement: each broken promise is seen, and a sound federation has none."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from federation.consensus.encoding import NIL
from federation.consensus.records import (
    Amnesia,
    Base,
    BlockSigRecord,
    JournalRecord,
    Mode,
    Resume,
    VoteRecord,
)
from federation.consensus.votes import Certificate, Vote, VoteType
from federation.fault_verdicts import (
    BlockOnDisk,
    ChainOnDisk,
    Findings,
    JournalOnDisk,
    judge_chains,
    judge_journals,
)

K = 3
A, B = b"\x0a" * 32, b"\x0b" * 32
PREVOTE, PRECOMMIT = VoteType.PREVOTE, VoteType.PRECOMMIT


def block(height: int, mark: bytes = b"", **fields: Any) -> BlockOnDisk:
    """A block that follows the one below it."""
    made = BlockOnDisk(
        height=height,
        hash=bytes([height]) * 32,
        previous=bytes([height - 1]) * 32,
        signers=(0, 1, 2),
    )
    return replace(made, **({"hash": mark * 32} if mark else {}), **fields)


def chain(name: str, *blocks: BlockOnDisk, **fields: Any) -> ChainOnDisk:
    return ChainOnDisk(name=name, blocks=blocks, **fields)


def violations_of(*chains: ChainOnDisk) -> list[str]:
    findings = Findings()
    judge_chains(chains, K, findings)
    return findings.violations


def test_chains_when_one_is_behind_then_nothing_is_wrong() -> None:
    longer = chain("m0", block(1), block(2), book=(b"1", b"2"), coins=b"c")
    assert violations_of(longer, chain("m1", block(1), book=(b"1",), coins=b"b")) == []


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (chain("m1", block(1, b"\x77")), "block 1 of m1 is another one than that of m0"),
        (chain("m1", block(1), block(2, previous=B)), "block 2 of m1 does not follow"),
        (chain("m1", block(1, signers=(0, 1))), "block 1 of m1 has 2 signatures, not 3"),
        (chain("m1", block(1, signers=(0, 1, 1))), "block 1 of m1 has 2 signatures, not 3"),
        (chain("m1", block(1), book=(b"other",)), "book of m1 and m0 differ at 1"),
        (chain("m1", block(1), block(2), coins=b"other"), "coins of m1 and m0 differ at height 2"),
    ],
)
def test_chains_when_a_promise_is_broken_then_told(other: ChainOnDisk, reason: str) -> None:
    """I1, I6, equal books."""
    sound = chain("m0", block(1), block(2), book=(b"1", b"2"), coins=b"c")
    (told,) = violations_of(sound, other)
    assert reason in told


def vote(kind: VoteType, round_number: int, block_hash: bytes, **fields: Any) -> Vote:
    made = Vote(
        type=kind,
        height=7,
        round=round_number,
        valid_round=-1,
        block_hash=block_hash,
        member=1,
        signature=bytes(64),
    )
    return replace(made, **fields)


def certificate(kind: VoteType, round_number: int, block_hash: bytes, *, k: int = K) -> Certificate:
    """Of members 0, 2 and 3."""
    votes = tuple((member, -1, bytes(64)) for member in (0, 2, 3)[:k])
    return Certificate(type=kind, height=7, round=round_number, block_hash=block_hash, votes=votes)


def pol(round_number: int, block_hash: bytes) -> Certificate:
    return certificate(PREVOTE, round_number, block_hash)


def journal(*records: JournalRecord, member: int = 1, place: str = "journal") -> JournalOnDisk:
    return JournalOnDisk(name=f"m{member}", member=member, place=place, records=records)


LOCKED: tuple[JournalRecord, ...] = (
    VoteRecord(vote(PREVOTE, 0, A), None),
    VoteRecord(vote(PRECOMMIT, 0, A), pol(0, A)),
)


def judge(*journals: JournalOnDisk, liars: frozenset[int] = frozenset()) -> list[str]:
    findings = Findings()
    judge_journals(journals, {7: A}, K, liars, findings)
    return findings.violations


def test_journals_when_rules_are_kept_then_nothing_is_wrong() -> None:
    """A lock may move on a newer POL; what is in BASE again is the same vote."""
    moved = VoteRecord(vote(PREVOTE, 2, B, valid_round=1), pol(1, B))
    signed = BlockSigRecord(7, A, certificate(PRECOMMIT, 0, A))
    base = Base(
        mode=Mode.VOTING,
        vote_from=0,
        position=(7, 0, 3),
        block_signature=(0, NIL),
        records=tuple(r for r in LOCKED if isinstance(r, VoteRecord)),
    )
    assert judge(journal(*LOCKED, moved)) == []
    assert judge(journal(*LOCKED, signed), journal(base, place="archived")) == []
    nil = VoteRecord(vote(PREVOTE, 1, NIL), None)
    assert judge(journal(*LOCKED, nil)) == []


BROKEN: dict[str, tuple[str, Callable[[], tuple[JournalOnDisk, ...]]]] = {
    "two votes": (
        "m1 signed 2 things as PREVOTE of height 7 round 0: journal and lost (I3)",
        lambda: (
            journal(*LOCKED),
            journal(VoteRecord(vote(PREVOTE, 0, NIL), None), place="lost"),
        ),
    ),
    "a vote others hold": (
        "m0 signed 2 things as PREVOTE of height 7 round 0",
        lambda: (
            journal(*LOCKED),
            journal(VoteRecord(vote(PREVOTE, 0, B, member=0), None), member=0, place="own"),
        ),
    ),
    "against the lock": (
        "m1 at height 7 locked in round 0 and prevoted another block in round 1, citing round -1",
        lambda: (journal(*LOCKED, VoteRecord(vote(PREVOTE, 1, B), None)),),
    ),
    "against the lock, journals apart": (
        "m1 at height 7 locked in round 0 and prevoted another block in round 1",
        lambda: (
            journal(*LOCKED, place="lost"),
            journal(VoteRecord(vote(PREVOTE, 1, B), None)),
        ),
    ),
    "citing a POL it does not hold": (
        "m1 at height 7 left its lock in round 2 without a POL",
        lambda: (journal(*LOCKED, VoteRecord(vote(PREVOTE, 2, B, valid_round=1), pol(1, A))),),
    ),
    "precommit without a POL": (
        "m1 at height 7 precommitted in round 0 without a POL",
        lambda: (journal(VoteRecord(vote(PRECOMMIT, 0, A), None)),),
    ),
    "precommit on another round's POL": (
        "m1 at height 7 precommitted in round 1 without a POL",
        lambda: (journal(VoteRecord(vote(PRECOMMIT, 1, A), pol(0, A))),),
    ),
    "two POLs": (
        "two POLs of height 7 round 0",
        lambda: (
            journal(*LOCKED),
            journal(
                VoteRecord(vote(PRECOMMIT, 0, B, member=2), pol(0, B)), member=2, place="other"
            ),
        ),
    ),
    "two decisions": (
        "two decisions at height 7",
        lambda: (
            journal(BlockSigRecord(7, A, certificate(PRECOMMIT, 0, A))),
            journal(BlockSigRecord(7, B, certificate(PRECOMMIT, 1, B)), member=2, place="other"),
        ),
    ),
    "a decision that is not final": (
        "the decision in journal is not final block 7",
        lambda: (journal(BlockSigRecord(7, B, certificate(PRECOMMIT, 0, B))),),
    ),
    "two blocks signed": (
        "m1 signed two blocks of height 7",
        lambda: (
            journal(
                BlockSigRecord(7, A, certificate(PRECOMMIT, 0, A)),
                BlockSigRecord(7, B, certificate(PRECOMMIT, 0, B)),
            ),
        ),
    ),
    "a block signed without its COMMIT": (
        "m1 signed block 7 without its COMMIT",
        lambda: (journal(BlockSigRecord(7, A, pol(0, A))),),
    ),
    "a certificate of two": (
        "a certificate of height 7 in journal lacks votes",
        lambda: (journal(BlockSigRecord(7, A, certificate(PRECOMMIT, 0, A, k=2))),),
    ),
    "a vote while abstaining": (
        "m1 voted at height 7 while it had to abstain",
        lambda: (journal(Amnesia(), VoteRecord(vote(PREVOTE, 0, A), None)),),
    ),
    "a vote below the height of return": (
        "m1 voted at height 7 while it had to abstain",
        lambda: (journal(Amnesia(), Resume(8), VoteRecord(vote(PREVOTE, 0, A), None)),),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_journals_when_a_promise_is_broken_then_told(name: str) -> None:
    """I2 to I5, I7, I10, I13, C36, C72."""
    reason, make = BROKEN[name]
    assert any(reason in told for told in judge(*make())), judge(*make())


def test_journals_when_a_liar_was_there_then_only_its_own_words_are_its_own() -> None:
    """What others hold of a liar may contradict its twin's journal; its journal is judged."""
    certified = journal(VoteRecord(vote(PRECOMMIT, 0, A, member=2), pol(0, A)), member=2)
    true_words = journal(VoteRecord(vote(PREVOTE, 0, B, member=0), None), member=0)
    assert judge(certified, true_words) != []
    assert judge(certified, true_words, liars=frozenset((0,))) == []
