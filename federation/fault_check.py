"""Reads every member's disk and says whether the federation kept its promises.

No member is asked: chains are read from their databases, what was signed from journals, also from
those that a fault took away (`federation.fault_disk`). The members must not run meanwhile.

Source: issue 4 "Tests that must exist", consensus:10.2.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from federation.config import FederationFile
from federation.consensus.encoding import InvalidMessage
from federation.consensus.records import (
    InvalidJournal,
    JournalRecord,
    decode_record,
    restore,
)
from federation.evidence_store import read_evidence
from federation.fault_disk import FaultFolder
from federation.fault_verdicts import (
    BlockOnDisk,
    ChainOnDisk,
    Findings,
    JournalOnDisk,
    certificates_of,
    judge_chains,
    judge_journals,
)
from federation.journal_format import (
    CONSENSUS_JOURNAL,
    JournalCorrupt,
    Verdict,
    journal_identity,
    scan_file,
)
from federation.local_state import LocalError, LocalFolder, LocalState
from federation.member_folder import MemberFolder
from federation.members import MemberSet
from federation.processes import find_processes
from federation.verification import MessageVerifier
from peg.history import PegHistory
from sidechain.chain import Chain
from sidechain.crypto.keys import ecdsa_verify
from sidechain.errors import Invalid, InvariantError, Unavailable
from sidechain.primitives.block import BlockHeader
from sidechain.validation.coins import PeginKey

LIVE: Final = f"{CONSENSUS_JOURNAL.prefix}-[0-9]*"
ARCHIVED: Final = f"archived-{CONSENSUS_JOURNAL.prefix}-*"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What was found.

    Attributes:
        violations: broken promises; none when all is well.
        notes: what could not be read and need not be.
        tips: height of every member's chain.
        liars: members in whose place a liar ran.
        lost_journals: how many journals were read that a fault had taken away.
    """

    violations: tuple[str, ...]
    notes: tuple[str, ...]
    tips: dict[str, int]
    votes: int
    certificates: int
    block_signatures: int
    liars: tuple[str, ...]
    lost_journals: int

    @property
    def is_sound(self) -> bool:
        """Whether every promise was kept."""
        return not self.violations

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {"sound": self.is_sound, **asdict(self)}


def check(path: Path) -> CheckReport:
    """Judge the federation in a data folder by its disks alone.

    Raises:
        LocalError: there is no federation, or some of its members run.
        InvalidConfig: federation.json cannot be used.
    """
    folder = LocalFolder(path.absolute())
    state = folder.load()
    if state is None:
        raise LocalError(f"no federation in {folder.path}: `fedpeg up` makes one")
    names = [member.name for member in state.members]
    running = {child.name for child in find_processes(folder.path)} & set(names)
    if running:
        raise LocalError(f"{' and '.join(sorted(running))} must not run while disks are read")
    federation = FederationFile.load(
        folder.federation_file, allow_no_byzantine_safety=state.allow_no_byzantine_safety
    )
    return _Check(folder, state, federation).run()


class _Check:
    """One reading of all disks."""

    def __init__(self, folder: LocalFolder, state: LocalState, federation: FederationFile) -> None:
        self._folder = folder
        self._state = state
        self._federation = federation
        self._faults = FaultFolder(folder)
        if federation.changes:
            raise LocalError(
                "the check reads journals and chains by the founding members alone, and this "
                "federation's file names a change of members"
            )
        self._members = federation.member_set()
        self._findings = Findings()
        self._notes: list[str] = []
        self._lost = 0
        self._root = b""

    def run(self) -> CheckReport:
        names = [member.name for member in self._state.members]
        chains = [chain for name in names if (chain := self._chain(name)) is not None]
        final = judge_chains(chains, self._members.k, self._findings)
        heights = {chain.name: len(chain.blocks) for chain in chains}
        journals = [
            journal for name in names for journal in self._journals(name, heights.get(name))
        ]
        if not chains and not self._lost:
            self._findings.add("nothing to judge: no chain of any member, and no fault took one")
        liars = frozenset(i for i, name in enumerate(names) if self._has_lied(name))
        self._verify_certificates(journals)
        judge_journals(journals, final, self._members.k, liars, self._findings)
        for name in names:
            self._judge_evidence(name, liars)
        return CheckReport(
            violations=tuple(self._findings.violations),
            notes=tuple(self._notes),
            tips=heights,
            votes=self._findings.votes,
            certificates=self._findings.certificates,
            block_signatures=self._findings.block_signatures,
            liars=tuple(names[i] for i in sorted(liars)),
            lost_journals=self._lost,
        )

    # ---- chains ----

    def _chain(self, name: str) -> ChainOnDisk | None:
        path = MemberFolder(self._folder.member(name)).chain
        if not path.is_dir():
            self._notes.append(f"{name} has no chain")
            return None
        try:
            chain = Chain.open(path, self._federation.chain_params())
        except (Invalid, InvariantError, Unavailable) as error:
            self._findings.add(f"the chain of {name} cannot be read: {error}")
            return None
        try:
            self._root = chain.full_current().root()
            return self._read_chain(name, chain)
        except (Invalid, InvariantError) as error:
            self._findings.add(f"the chain of {name} is damaged: {error}")
            return None
        finally:
            chain.close()

    def _read_chain(self, name: str, chain: Chain) -> ChainOnDisk:
        history = PegHistory(
            chain.params,
            self._federation.peg,
            frozenset((self._federation.fed_script().program,)),
        )
        blocks, book = [], []
        for height in range(1, chain.tip_height + 1):
            block = chain.block(height)
            deposits = history.apply(block)
            for deposit in deposits:
                key = PeginKey(chain.params.parent_genesis_hash, deposit.claim.outpoint)
                if not chain.pegin_claimed(key):
                    self._findings.add(f"{name} does not know the claim of block {height}")
            totals = history.totals(height)
            book.append(sha256(repr((totals, deposits)).encode()).digest())
            blocks.append(
                BlockOnDisk(
                    height=block.header.height,
                    hash=block.hash,
                    previous=block.header.prev_hash,
                    signers=signers_of(block.header, self._members),
                )
            )
        coins = sha256()
        for outpoint, coin in chain.coins():
            coins.update(repr((outpoint, coin)).encode())
        return ChainOnDisk(name=name, blocks=tuple(blocks), book=tuple(book), coins=coins.digest())

    # ---- journals ----

    def _journals(self, name: str, height: int | None) -> Iterable[JournalOnDisk]:
        """The member's journal, those it archived, and those that faults took away.

        Args:
            height: of its chain; None when it has none that can be read.
        """
        live = MemberFolder(self._folder.member(name)).journal
        lost = self._faults.lost_journals(name)
        self._lost += len(lost)
        if height is not None and not any(live.glob(LIVE)):
            self._judge_missing(name, height, is_explained=bool(lost) or any(live.glob(ARCHIVED)))
        for folder in (live, *lost):
            for place in (folder, *sorted(folder.glob(ARCHIVED))):
                records = self._records(name, place, must_be_sound=place == live)
                if records is not None:
                    yield JournalOnDisk(
                        name=name,
                        member=self._index(name),
                        place=str(place.relative_to(self._folder.path)),
                        records=records,
                    )

    def _judge_missing(self, name: str, height: int, *, is_explained: bool) -> None:
        """A chain without a journal: what the member signed cannot be read.

        A fault may have taken the journal, or the member had put it away when it was killed, or it
        was killed at its first start, before it had one.
        """
        text = f"{name} has a chain of height {height} and no journal"
        if is_explained or height == 0:
            self._notes.append(text)
        else:
            self._findings.add(text)

    def _records(
        self, name: str, place: Path, *, must_be_sound: bool
    ) -> tuple[JournalRecord, ...] | None:
        """All records of the files in a folder, each file judged for itself."""
        paths = sorted(place.glob(LIVE), key=lambda p: int(p.name.split("-")[1]))
        found: list[JournalRecord] = []
        for path in paths:
            try:
                found += self._file(name, path)
            except (JournalCorrupt, InvalidMessage, InvalidJournal) as error:
                text = f"{path.relative_to(self._folder.path)} cannot be read: {error}"
                if must_be_sound:
                    self._findings.add(text)
                else:
                    self._notes.append(text)
        return tuple(found) if paths else None

    def _file(self, name: str, path: Path) -> tuple[JournalRecord, ...]:
        key = self._members.members[self._index(name)].vote_key
        genesis = self._federation.chain_params().genesis_hash
        identity = journal_identity(CONSENSUS_JOURNAL, genesis, key)
        scan = scan_file(path.read_bytes(), identity, int(path.name.split("-")[1]))
        if scan.verdict is Verdict.DOUBTFUL:
            self._notes.append(f"the last record of {path.name} of {name} is doubtful")
        records = tuple(decode_record(record.kind, record.body) for record in scan.records)
        restore(records)  # in order, and no position twice
        return records

    def _verify_certificates(self, journals: Iterable[JournalOnDisk]) -> None:
        """Every vote in a certificate is signed (C12)."""
        verifier = MessageVerifier(self._federation.chain_params().genesis_hash, 200_000)
        verifier.begin_height(self._members, self._root)
        for journal in journals:
            for certificate in certificates_of(journal.records):
                if not verifier.check(certificate).good:
                    self._findings.add(
                        f"a certificate of height {certificate.height} in {journal.place} does "
                        "not verify"
                    )

    # ---- evidence ----

    def _judge_evidence(self, name: str, liars: frozenset[int]) -> None:
        """Evidence against a member that never lied is a lie or a fault of ours (I13)."""
        for line in read_evidence(self._folder.member(name) / "evidence.jsonl"):
            if line["member"] not in liars:
                self._findings.add(
                    f"{name} holds evidence against m{line['member']} at height {line['height']}"
                )

    def _has_lied(self, name: str) -> bool:
        twins = (path.name.endswith("-twin") for path in self._faults.lost_journals(name))
        return any(twins) or self._faults.twin(name).exists()

    def _index(self, name: str) -> int:
        return next(m.index for m in self._state.members if m.name == name)


def signers_of(header: BlockHeader, members: MemberSet) -> tuple[int, ...]:
    """Members with a valid signature in a header's witness."""
    signatures = [item[:-1] for item in header.signblock_witness[1:-1] if item[-1:] == b"\x01"]
    return tuple(
        member.index
        for member in members.members
        if any(ecdsa_verify(member.block_key, der, header.hash) for der in signatures)
    )
