"""What the disks of all members must say together, whatever was done to the members.

Pure: chains and journals in, violations out, a sentence each. Nothing here asks a member anything;
`federation.fault_check` reads the disks.

Source: consensus:10.2 (I1-I7, I10, I13), consensus:C36, consensus:C56, consensus:C72.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from federation.consensus.encoding import NIL
from federation.consensus.records import (
    Amnesia,
    Base,
    BlockSigRecord,
    JournalRecord,
    Override,
    OverrideAction,
    Resume,
    VoteRecord,
)
from federation.consensus.votes import Certificate, Vote, VoteType


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockOnDisk:
    """One block of a member's chain; `signers` are those whose signature over it verifies."""

    height: int
    hash: bytes
    previous: bytes
    signers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainOnDisk:
    """A member's chain from block 1 on.

    Attributes:
        book: digest of the peg's book at every height, from block 1 on.
        coins: digest of all unspent outputs at the tip.
    """

    name: str
    blocks: tuple[BlockOnDisk, ...]
    book: tuple[bytes, ...] = ()
    coins: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalOnDisk:
    """All records of one journal of a member; `place` says where it lies."""

    name: str
    member: int
    place: str
    records: tuple[JournalRecord, ...]


@dataclass(slots=True)
class Findings:
    """Violations, each told once, and how much was looked at."""

    violations: list[str] = field(default_factory=list)
    votes: int = 0
    certificates: int = 0
    block_signatures: int = 0

    def add(self, text: str) -> None:
        """Note a violation."""
        if text not in self.violations:
            self.violations.append(text)


def judge_chains(chains: Sequence[ChainOnDisk], k: int, findings: Findings) -> dict[int, bytes]:
    """One block a height, linked, with k signatures; equal books, and equal coins at equal tips.

    Returns:
        The final block hashes by height.
    """
    final: dict[int, tuple[bytes, str]] = {}
    books: dict[int, tuple[bytes, str]] = {}
    coins: dict[tuple[int, bytes], tuple[bytes, str]] = {}
    for chain in chains:
        before: bytes | None = None
        for block in chain.blocks:
            where = f"block {block.height} of {chain.name}"
            known, whose = final.setdefault(block.height, (block.hash, chain.name))
            if known != block.hash:
                findings.add(f"{where} is another one than that of {whose} (I1)")
            if before is not None and block.previous != before:
                findings.add(f"{where} does not follow the one before (I6)")
            if len(set(block.signers)) < k:
                findings.add(f"{where} has {len(set(block.signers))} signatures, not {k} (I6)")
            before = block.hash
        for height, digest in enumerate(chain.book, start=1):
            book, whose = books.setdefault(height, (digest, chain.name))
            if book != digest:
                findings.add(f"the peg's book of {chain.name} and {whose} differ at {height}")
                break
        if chain.blocks and chain.coins:
            tip = (chain.blocks[-1].height, chain.blocks[-1].hash)
            held, whose = coins.setdefault(tip, (chain.coins, chain.name))
            if held != chain.coins:
                findings.add(f"coins of {chain.name} and {whose} differ at height {tip[0]}")
    return {height: block_hash for height, (block_hash, _) in final.items()}


def judge_journals(
    journals: Sequence[JournalOnDisk],
    final: Mapping[int, bytes],
    k: int,
    liars: frozenset[int],
    findings: Findings,
) -> None:
    """What each key has signed, over all journals together.

    Args:
        final: hashes of the final blocks by height.
        liars: members in whose place a liar ran; what others hold of them may contradict itself.
    """
    _judge_certificates(journals, final, k, findings)
    said: dict[tuple[int, int, int, int], dict[tuple[bytes, int], str]] = {}
    for journal in journals:
        for record in own_votes(journal.records):
            findings.votes += 1
            _note(said, record.vote, journal.place)
        for certificate in certificates_of(journal.records):
            for vote in certificate.as_votes():
                if vote.member not in liars:
                    _note(said, vote, f"a certificate in {journal.place}")
    for (member, height, round_number, kind), words in sorted(said.items()):
        if len(words) > 1:
            places = " and ".join(sorted(words.values()))
            findings.add(
                f"m{member} signed {len(words)} things as {VoteType(kind).name} of height {height} "
                f"round {round_number}: {places} (I3)"
            )
    for member in sorted({journal.member for journal in journals}):
        own = [journal for journal in journals if journal.member == member]
        _judge_locks(own, findings)
        _judge_block_signatures(own, final, findings)
        for journal in own:
            _judge_amnesia(journal, findings)


def own_votes(records: Iterable[JournalRecord]) -> Iterator[VoteRecord]:
    """Own votes in records, those carried over into BASE included."""
    for record in records:
        if isinstance(record, VoteRecord):
            yield record
        elif isinstance(record, Base):
            yield from own_votes(record.records)


def block_signatures_of(records: Iterable[JournalRecord]) -> Iterator[BlockSigRecord]:
    """Own block signatures in records, those in BASE included."""
    for record in records:
        if isinstance(record, BlockSigRecord):
            yield record
        elif isinstance(record, Base):
            yield from block_signatures_of(record.records)


def certificates_of(records: Iterable[JournalRecord]) -> Iterator[Certificate]:
    """Every certificate that records hold."""
    for vote in own_votes(records):
        if vote.certificate is not None:
            yield vote.certificate
    for block_signature in block_signatures_of(records):
        yield block_signature.certificate


def _judge_certificates(
    journals: Sequence[JournalOnDisk], final: Mapping[int, bytes], k: int, findings: Findings
) -> None:
    decided: dict[int, tuple[bytes, str]] = {}
    pols: dict[tuple[int, int], tuple[bytes, str]] = {}
    for journal in journals:
        for certificate in certificates_of(journal.records):
            findings.certificates += 1
            height, block_hash = certificate.height, certificate.block_hash
            members = {member for member, _, _ in certificate.votes}
            if len(members) != k or not certificate.is_complete(k):
                findings.add(f"a certificate of height {height} in {journal.place} lacks votes")
            if certificate.type is VoteType.PREVOTE:
                place = (height, certificate.round)
                known, whose = pols.setdefault(place, (block_hash, journal.place))
                if known != block_hash:
                    findings.add(
                        f"two POLs of height {height} round {place[1]}: {whose}, "
                        f"{journal.place} (Lemma 1)"
                    )
                continue
            known, whose = decided.setdefault(height, (block_hash, journal.place))
            if known != block_hash:
                findings.add(f"two decisions at height {height}: {whose}, {journal.place} (I2)")
            if final.get(height, block_hash) != block_hash:
                findings.add(f"the decision in {journal.place} is not final block {height} (I2)")


def _note(
    said: dict[tuple[int, int, int, int], dict[tuple[bytes, int], str]], vote: Vote, place: str
) -> None:
    key = (vote.member, vote.height, vote.round, int(vote.type))
    said.setdefault(key, {}).setdefault((vote.block_hash, vote.valid_round), place)


def _judge_locks(journals: Sequence[JournalOnDisk], findings: Findings) -> None:
    """I4, I5, I7: no prevote against the own lock without a newer POL, over all rounds."""
    by_height: dict[int, dict[tuple[int, int], VoteRecord]] = {}
    for journal in journals:
        for record in own_votes(journal.records):
            place = (record.vote.round, int(record.vote.type))
            by_height.setdefault(record.vote.height, {}).setdefault(place, record)
    for height, votes in sorted(by_height.items()):
        locked: tuple[int, bytes] | None = None
        for _, record in sorted(votes.items()):
            vote, who = record.vote, f"m{record.vote.member} at height {height}"
            if vote.type is VoteType.PRECOMMIT and vote.block_hash != NIL:
                if not _is_pol(record.certificate, vote, vote.round):
                    findings.add(f"{who} precommitted in round {vote.round} without a POL (I5)")
                locked = (vote.round, vote.block_hash)
            is_other = locked is not None and vote.block_hash not in (NIL, locked[1])
            if locked is None or not is_other or vote.type is not VoteType.PREVOTE:
                continue
            if vote.valid_round < locked[0]:
                findings.add(
                    f"{who} locked in round {locked[0]} and prevoted another block in round "
                    f"{vote.round}, citing round {vote.valid_round} (I4)"
                )
            elif not _is_pol(record.certificate, vote, vote.valid_round):
                findings.add(f"{who} left its lock in round {vote.round} without a POL (I4)")


def _is_pol(certificate: Certificate | None, vote: Vote, round_number: int) -> bool:
    return certificate is not None and (
        (certificate.type, certificate.height, certificate.round, certificate.block_hash)
        == (VoteType.PREVOTE, vote.height, round_number, vote.block_hash)
    )


def _judge_block_signatures(
    journals: Sequence[JournalOnDisk], final: Mapping[int, bytes], findings: Findings
) -> None:
    """I3, I10: one block a height, on a COMMIT, and it is the final one."""
    signed: dict[int, bytes] = {}
    for journal in journals:
        for record in block_signatures_of(journal.records):
            findings.block_signatures += 1
            who, height = f"m{journal.member}", record.height
            if signed.setdefault(height, record.block_hash) != record.block_hash:
                findings.add(f"{who} signed two blocks of height {height} (I3)")
            if final.get(height, record.block_hash) != record.block_hash:
                findings.add(f"{who} signed another block than final block {height}")
            commit = record.certificate
            if (commit.type, commit.height, commit.block_hash) != (
                VoteType.PRECOMMIT,
                height,
                record.block_hash,
            ):
                findings.add(f"{who} signed block {height} without its COMMIT (C36)")


def _judge_amnesia(journal: JournalOnDisk, findings: Findings) -> None:
    """C70, C72: between the loss of a journal and the word that voting may go on, no vote."""
    vote_from = 0
    for record in journal.records:
        match record:
            case Amnesia():
                vote_from = 2**32
            case Resume(height):
                vote_from = height
            case Override(action=OverrideAction.RESUME, height=height):
                vote_from = height
            case VoteRecord(vote, _) if vote.height < vote_from:
                findings.add(
                    f"m{vote.member} voted at height {vote.height} while it had to abstain, in "
                    f"{journal.place} (C72)"
                )
            case _:
                pass
