"""What convinces a stranger who has the federation file alone (consensus:C56, consensus:C58)."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federation.consensus.evidence import two_blocks
from federation.consensus.messages import Evidence, EvidenceClass
from federation.consensus.votes import Certificate, VoteType
from federation.signed_heights import sign_heights
from federation.stranger import NotProved, convict, prove_decided
from sidechain.chain import Chain
from sidechain.primitives.block import Block
from tests.federation.proofs import Signers

H1, H2 = b"\x21" * 32, b"\x22" * 32


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Signers:
    return Signers.found(tmp_path_factory.mktemp("federation"))


def double_vote(signers: Signers, member: int = 2) -> Evidence:
    first, second = (signers.vote(member, block_hash=block_hash) for block_hash in (H1, H2))
    return Evidence(EvidenceClass.DOUBLE_VOTE, first.encode(), second.encode())


def amnesia(signers: Signers, *, valid_round: int = -1) -> Evidence:
    first = signers.vote(1, type=VoteType.PRECOMMIT, round=1, block_hash=H1)
    second = signers.vote(1, round=3, valid_round=valid_round, block_hash=H2)
    return Evidence(EvidenceClass.AMNESIA, first.encode(), second.encode())


def two_headers(signers: Signers, member: int = 3) -> Evidence:
    bodies = [signers.signed_header(member, signers.header(time)) for time in (100, 101)]
    return Evidence(EvidenceClass.TWO_BLOCKS, bodies[0], bodies[1])


def test_double_vote_when_both_are_signed_then_convicts_its_signer(signers: Signers) -> None:
    """C56(a)."""
    found = convict(signers.line(2, double_vote(signers)), signers.stranger)
    assert (found.member, found.name, found.height) == (2, "m2", 7)
    assert found.kind == EvidenceClass.DOUBLE_VOTE
    assert found.first == f"PREVOTE for block {H1[::-1].hex()} in round 0"
    assert found.block_key == signers.file.members[2].block_key
    assert found.to_json()["class"] == "double-vote"


def test_amnesia_when_the_lock_is_left_without_reason_then_convicts(signers: Signers) -> None:
    """C56(c)."""
    found = convict(signers.line(1, amnesia(signers)), signers.stranger)
    assert found.to_json()["class"] == "amnesia" and found.first.startswith("PRECOMMIT")


@pytest.mark.parametrize("valid_round", [1, 2])
def test_amnesia_when_a_newer_pol_is_cited_then_no_evidence(
    signers: Signers, valid_round: int
) -> None:
    """C56(c), C57: the POL that is cited may justify it; that is asked, not punished."""
    line = signers.line(1, amnesia(signers, valid_round=valid_round))
    with pytest.raises(NotProved, match="do not contradict"):
        convict(line, signers.stranger)


def test_two_blocks_when_headers_carry_the_signatures_then_convicts(signers: Signers) -> None:
    """C56(b): a BLOCKSIG inside a header."""
    found = convict(signers.line(3, two_headers(signers)), signers.stranger)
    assert found.to_json()["class"] == "two-blocks"


def test_two_blocks_when_the_heights_are_not_in_what_was_signed_then_no_evidence(
    signers: Signers,
) -> None:
    """A BLOCKSIG's height is not signed: two of an honest member can be made to look like (b)."""
    honest = [signers.block_signature(0, signers.header(5, height=h)) for h in (6, 7)]
    forged = two_blocks(replace(honest[0], height=7), honest[1])
    with pytest.raises(NotProved, match="does not sign the height"):
        convict(signers.line(0, forged), signers.stranger)
    headers = [signers.signed_header(0, signers.header(5, height=h)) for h in (6, 7)]
    with pytest.raises(NotProved, match="a header of height 6, not 7"):
        convict(
            signers.line(0, Evidence(EvidenceClass.TWO_BLOCKS, headers[0], headers[1])),
            signers.stranger,
        )


def test_two_blocks_when_one_block_is_signed_twice_then_no_evidence(signers: Signers) -> None:
    body = signers.signed_header(3, signers.header(100))
    with pytest.raises(NotProved, match="one block"):
        convict(signers.line(3, Evidence(EvidenceClass.TWO_BLOCKS, body, body)), signers.stranger)


Change = Callable[[dict[str, Any]], object]
CHANGES: list[tuple[Change, str]] = [
    (lambda line: line.update(genesis="00" * 32), "genesis is not"),
    (lambda line: line.update(parameter_hash="00" * 32), "parameter_hash is not"),
    (lambda line: line.update(params_root="00" * 32), "other parameters than the founding"),
    (lambda line: line.update(member=4), "no member 4"),
    (lambda line: line.update(member=-1), "no member -1"),
    (lambda line: line.update(member=True), "no whole number"),
    (lambda line: line.pop("height"), "no whole number"),
    (lambda line: line.update(member=1), "block_key is not that of member 1"),
    (lambda line: line.update(height=8), "another member or height"),
    (lambda line: line.update({"class": 3}), "do not contradict"),
    (lambda line: line.update({"class": 2}), "not a block header"),
    (lambda line: line.update({"class": 9}), "class 9"),
    (lambda line: line.update(first="zz"), "no hex"),
    (lambda line: line.pop("second"), "no hex"),
    (lambda line: line.update(second=line["first"]), "do not contradict"),
    (lambda line: line.update(first=line["first"][:-2]), "truncated"),
    (lambda line: line.update(first=line["first"][:-2] + "00"), "first vote is not signed"),
    (lambda line: line.update(second=line["second"][:-2] + "00"), "second vote is not signed"),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES)
def test_evidence_when_something_is_changed_then_refused_with_the_reason(
    signers: Signers, change: Change, reason: str
) -> None:
    line = signers.line(2, double_vote(signers))
    change(line)
    with pytest.raises(NotProved, match=reason):
        convict(line, signers.stranger)


@pytest.mark.parametrize("plain", [[], None, 3, "evidence", {}])
def test_file_when_it_holds_something_else_then_refused(signers: Signers, plain: object) -> None:
    with pytest.raises(NotProved):
        convict(plain, signers.stranger)


def test_votes_when_signed_by_somebody_else_then_do_not_convict(signers: Signers) -> None:
    """A liar signs votes in another member's name."""
    votes = [replace(signers.vote(0, block_hash=h), member=1) for h in (H1, H2)]
    evidence = Evidence(EvidenceClass.DOUBLE_VOTE, votes[0].encode(), votes[1].encode())
    with pytest.raises(NotProved, match="not signed by member 1"):
        convict(signers.line(1, evidence), signers.stranger)


def test_founding_root_when_worked_out_then_what_a_chain_finds(
    signers: Signers, tmp_path: Path
) -> None:
    """D_h: without a change of members it is the founding entry's root at every height."""

    chain = Chain.open(tmp_path / "chain", signers.stranger.params)
    try:
        assert chain.full_current().root() == signers.stranger.params_root
        assert chain.full_current().signblockscript == signers.stranger.signblockscript
    finally:
        chain.close()


# -- decided blocks


@pytest.fixture(scope="module")
def proof(signers: Signers, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A block with its votes as a member exports it."""
    path = tmp_path_factory.mktemp("chain") / "chain"
    with contextlib.closing(Chain.open(path, signers.stranger.params)) as chain:
        sign_heights(chain, secrets=signers.secrets, k=3, count=2, coinbase_scripts=())
        block, data = chain.block(2), chain.block_bytes(2)
    return {
        "genesis": signers.stranger.params.genesis_hash.hex(),
        "parameter_hash": signers.file.parameter_hash().hex(),
        "params_root": signers.stranger.params_root.hex(),
        "height": 2,
        "block": data.hex(),
        "certificate": signers.commit(block.hash, height=2, round=1).encode().hex(),
    }


def test_block_when_k_voted_for_it_in_one_round_then_proved_with_their_names(
    signers: Signers, proof: dict[str, Any]
) -> None:
    """C12, C37."""
    found = prove_decided(proof, signers.stranger)
    assert (found.height, found.round, found.transactions) == (2, 1, 1)
    assert found.voters == found.signers == ("m0", "m1", "m2")
    assert found.to_json()["hash"] == found.block_hash[::-1].hex()


def other_commit(signers: Signers, **fields: Any) -> Change:
    def change(proof: dict[str, Any]) -> None:
        block = Block.decode(bytes.fromhex(proof["block"]), signers.stranger.params)
        commit = signers.commit(block.hash, height=2)
        proof["certificate"] = replace(commit, **fields).encode().hex()

    return change


def without_a_signature(signers: Signers) -> Change:
    def change(proof: dict[str, Any]) -> None:
        block = Block.decode(bytes.fromhex(proof["block"]), signers.stranger.params)
        witness = block.header.signblock_witness
        short = block.with_signblock_witness((*witness[:1], *witness[2:]))
        proof["block"] = short.serialize().hex()

    return change


BLOCK_CHANGES: list[tuple[Callable[[Signers], Change], str]] = [
    (lambda s: lambda p: p.update(genesis="00" * 32), "genesis is not"),
    (lambda s: lambda p: p.update(params_root="00" * 32), "other parameters"),
    (lambda s: lambda p: p.update(height=3), "the block is of height 2"),
    (lambda s: lambda p: p.update(block=p["block"][:-2]), "the block: "),
    (lambda s: lambda p: p.update(block=p["block"] + "00"), "the block: "),
    (lambda s: lambda p: p.update(certificate=p["certificate"] + "00"), "not a certificate"),
    (lambda s: lambda p: p.update(certificate="zz"), "no hex"),
    (lambda s: lambda p: p.pop("block"), "no hex"),
    (lambda s: other_commit(s, height=3), "no COMMIT of this block"),
    (lambda s: other_commit(s, type=VoteType.PREVOTE), "no COMMIT of this block"),
    (lambda s: other_commit(s, block_hash=H1), "no COMMIT of this block"),
    (lambda s: other_commit(s, round=1), "not those of k members"),
    (lambda s: other_commit(s, votes=s.commit(H1, height=2).votes), "not those of k members"),
    (
        lambda s: (
            lambda p: p.update(
                certificate=replace(
                    Certificate.decode(bytes.fromhex(p["certificate"])),
                    votes=Certificate.decode(bytes.fromhex(p["certificate"])).votes[:2],
                )
                .encode()
                .hex()
            )
        ),
        "not those of k members",
    ),
    (without_a_signature, "block-proof-invalid"),
]


@pytest.mark.parametrize(("make", "reason"), BLOCK_CHANGES)
def test_block_when_something_is_changed_then_nothing_is_proved(
    signers: Signers,
    proof: dict[str, Any],
    make: Callable[[Signers], Change],
    reason: str,
) -> None:
    changed = dict(proof)
    make(signers)(changed)
    with pytest.raises(NotProved, match=reason):
        prove_decided(changed, signers.stranger)
