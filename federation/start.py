"""How a member starts: journals and signer opened, and what they say about its past.

Source: consensus:C40, consensus:C43, consensus:C70, consensus:J6, consensus:R6, N5, N24.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from federation.change_desk import with_changes
from federation.config import FederationFile
from federation.consensus.encoding import InvalidMessage
from federation.consensus.events import StartMode
from federation.consensus.records import (
    InvalidJournal,
    JournalImage,
    JournalRecord,
    Mode,
    decode_record,
    restore,
)
from federation.member_folder import BitcoindAccess, MemberConfig, MemberFolder
from federation.member_sets import MemberSets
from federation.peers import EventLog, PeerNetwork
from federation.people import People
from federation.production import BlockProduction
from federation.signer import GuardStart, Signer, SignerFiles
from federation.signer_port import MemberSigner
from federation.wal import (
    PEG_JOURNAL,
    BlockFiles,
    Journal,
    JournalCorrupt,
    Verdict,
    archive,
)
from peg.bitcoind import BitcoindClient
from peg.fedscript import FedScript
from sidechain.api.registry import Registry
from sidechain.chain import Chain
from sidechain.errors import Invalid
from sidechain.params import ChainParams

BITCOIND_TIMEOUT_MS: Final = 10_000


def monotonic_ms() -> int:
    """The monotonic clock, milliseconds."""
    return time.monotonic_ns() // 1_000_000


def open_bitcoind(access: BitcoindAccess) -> BitcoindClient:
    """A client of the member's own Bitcoin node."""
    if access.cookie is not None:
        return BitcoindClient(access.url, cookie_path=access.cookie, timeout_ms=BITCOIND_TIMEOUT_MS)
    return BitcoindClient(
        access.url,
        user=access.user,
        password=access.password(),
        timeout_ms=BITCOIND_TIMEOUT_MS,
    )


def unix_time_s() -> int:
    """The wall clock, seconds."""
    return int(time.time())


class CannotStart(Exception):
    """The member must not or cannot start; the text says what a person can do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOptions:
    """What the operator said: `--init` (N5), `--restored` (C70), `--second-validation`.

    Attributes:
        signer_process: keep the keys in a process of their own, a child of the member.
        signer_socket: where a signer listens that somebody else starts.
    """

    init: bool = False
    restored: bool = False
    second_validation: bool = False
    signer_process: bool = False
    signer_socket: Path | None = None


def _leave_alone(*_: object) -> None:
    """A member as it is has nothing to add and nothing to refuse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSeams:
    """Where a program other than a plain member may put parts of its own; the default is plain.

    Attributes:
        network: makes the links, with the arguments of PeerNetwork.
        wall_clock_s: the wall clock that block times and ages are judged by.
        register: offers more RPC methods, given registry, network and chain.
        check: raises CannotStart where such a member must not run.
    """

    network: Callable[..., PeerNetwork] = PeerNetwork
    wall_clock_s: Callable[[], int] = unix_time_s
    register: Callable[[Registry, PeerNetwork, Chain], None] = _leave_alone
    check: Callable[[ChainParams], None] = _leave_alone


@dataclass(frozen=True, slots=True)
class OpenedJournal:
    """The journal, what its newest file says, and how the core is to start by it alone."""

    journal: Journal
    image: JournalImage
    records: tuple[JournalRecord, ...]
    mode: StartMode


def open_journal(
    folder: MemberFolder, *, genesis: bytes, vote_key: bytes, options: StartOptions
) -> OpenedJournal:
    """Open the journal and see how to start by it (C70, J6).

    FRESH only says that the member may be born: whoever starts it takes the birth mark as the last
    thing before (N5).

    Raises:
        CannotStart: no permission to be born, or a damaged journal without `--restored`.
        JournalLocked, JournalFailed: as `Journal.open`.
    """
    if options.restored:
        archive(folder.journal)
    try:
        journal = Journal.open(folder.journal, genesis=genesis, key=vote_key)
    except JournalCorrupt as error:
        raise CannotStart(
            f"the journal is damaged: {error}; start once with --restored, and the member will "
            "abstain until the others have shown it what it may have signed"
        ) from error
    try:
        records = tuple(decode_record(r.kind, r.body) for r in journal.records)
        image = restore(records)
        mode = _mode_by_journal(folder, journal.verdict, bool(records), options)
    except (InvalidMessage, InvalidJournal) as error:
        journal.close()
        raise CannotStart(
            f"the journal contradicts itself: {error}; start once with --restored"
        ) from error
    except CannotStart:
        journal.close()
        raise
    return OpenedJournal(journal, image, records, mode)


def _mode_by_journal(
    folder: MemberFolder, verdict: Verdict, has_records: bool, options: StartOptions
) -> StartMode:
    if verdict is Verdict.DOUBTFUL:
        return StartMode.DOUBTFUL
    if has_records:
        return StartMode.INTACT
    if not options.init:
        return StartMode.AMNESIAC
    if not folder.birth_mark.exists():
        raise CannotStart(
            f"{folder.birth_mark} is absent: this key was started before. A member without its "
            "journal starts with --restored, never with --init"
        )
    return StartMode.FRESH


def open_signer(
    folder: MemberFolder,
    *,
    genesis: bytes,
    block_key: bytes,
    peg_key: bytes,
    script: FedScript,
    mode: StartMode,
) -> Signer:
    """The signer, with a guard that fits the start (R7).

    Args:
        script: the plain fedpegscript.
    Raises:
        SignerFailed: keys or guard cannot be used.
    """
    starts = {StartMode.FRESH: GuardStart.FRESH, StartMode.AMNESIAC: GuardStart.RESTORED}
    return Signer.open(
        SignerFiles(block_key=folder.block_key, peg_key=folder.peg_key, guard=folder.guard),
        genesis=genesis,
        start=starts.get(mode, GuardStart.INTACT),
        block_key=block_key,
        peg_key=peg_key,
        script=script,
    )


def settle_mode(opened: OpenedJournal, signer: MemberSigner, tip_height: int) -> StartMode:
    """How the core starts, by journal, signer and chain together.

    A signer that remembers more than a sound journal, or less, shows that one of the two was rolled
    back (R6); so does one that was told to abstain by a process that died before it wrote so. One
    doubtful record explains a guard that is ahead by less than a height, and J6 then voids that
    height; but it needs the chain that stood when the record was written, else there is no telling
    which height that was.
    """
    image = opened.image
    if opened.mode is StartMode.INTACT:
        return StartMode.AMNESIAC if signer_differs(image, signer) else StartMode.INTACT
    if opened.mode is StartMode.DOUBTFUL:
        signed_block = signer.block_signature
        guarded = max(signer.position[0], signed_block[0] if signed_block is not None else 0)
        is_explained = max(image.height, guarded) <= tip_height + 1
        return StartMode.DOUBTFUL if is_explained else StartMode.AMNESIAC
    return opened.mode


def signer_differs(image: JournalImage, signer: MemberSigner) -> str:
    """Why journal and signer cannot be of one history (R6); empty when they can.

    The record is durable before the signature is asked for, so the journal may show more than was
    signed, by what was written after the counter; never less.
    """
    signed = signer.block_signature
    if signer.position > image.position:
        return f"the signer voted at {signer.position}, the journal ends at {image.position}"
    if signed is not None and signed[0] > image.block_signature[0]:
        return f"the signer signed the block of height {signed[0]}, the journal does not know"
    if image.signatures is not None:
        least, most = image.signatures
        if not least <= signer.counter <= most:
            return f"the signer counts {signer.counter} signatures, the journal {least} to {most}"
    if signer.abstains and image.mode is Mode.VOTING:
        return "the signer abstains, the journal does not say why"
    return ""


def open_peg_journal(
    folder: MemberFolder, *, genesis: bytes, vote_key: bytes, log: EventLog
) -> Journal:
    """The peg journal; its loss or damage is an alarm and no more (N24).

    Raises:
        JournalLocked, JournalFailed: as `Journal.open`.
    """
    try:
        return Journal.open(folder.peg_journal, genesis=genesis, key=vote_key, form=PEG_JOURNAL)
    except JournalCorrupt as error:
        log.error("peg_journal_damaged", alarm=True, reason=str(error))
        archive(folder.peg_journal, PEG_JOURNAL)
        return Journal.open(folder.peg_journal, genesis=genesis, key=vote_key, form=PEG_JOURNAL)


def stored_blocks(files: BlockFiles, production: BlockProduction) -> dict[bytes, bytes]:
    """Proposals on disk by hash (J8); one that is damaged is deleted, and fetched again if needed.

    Raises:
        JournalFailed: the disk refuses to delete.
    """
    sound: dict[bytes, bytes] = {}
    for block_hash in sorted(files.hashes):
        data = files.load(block_hash)
        try:
            production.decode_proposal(data or b"", block_hash)
        except Invalid:
            continue
        sound[block_hash] = data or b""
    files.keep_only(sound)
    return sound


def people_and_sets(federation: FederationFile) -> tuple[People, MemberSets]:
    """Who a member deals with, and the scripts of all sets it knows."""
    return People(federation.people), MemberSets(*federation.signblockscripts)


def load_federation(
    federation_path: Path, changes: Path, config: MemberConfig, log: EventLog
) -> FederationFile:
    """federation.json with the changes that this member's operator approved.

    Raises:
        InvalidConfig, CannotStart: says what a person can do about it.
    """
    federation = with_changes(
        FederationFile.load(
            federation_path, allow_no_byzantine_safety=config.allow_no_byzantine_safety
        ),
        changes,
    )
    count = len(federation.people)
    if config.index >= count:
        raise CannotStart(f"member.json says index {config.index}, there are {count}")
    if federation.member_set().f_s < 1:
        log.warning("no_byzantine_safety", alarm=True, reason="one lying member can fork the chain")
    return federation
